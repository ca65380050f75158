//! `clearway doctor`: what the host can and cannot do, told by the rules of [`host::doctor`](crate::host::doctor).

use super::args::Doctor;
use super::error::CliError;
use super::output::{self, Show};
use crate::host::Host;
use crate::host::doctor::{Finding, Severity, doctor as judge};
use crate::host::facts::Facts;

/// Looks at the host and tells what it finds; an error if something will not work.
pub(crate) fn doctor(args: &Doctor) -> Result<(), CliError> {
    let mut host = Host::open()?;
    let interfaces = if args.interfaces.is_empty() {
        let all = host.links()?.into_iter().map(|link| link.name);
        all.filter(|name| name != "lo").collect()
    } else {
        args.interfaces.clone()
    };
    let findings = judge(&Facts::gather(&mut host, &interfaces, &[]));
    output::print(&output::render(&findings, args.output.format)?)?;
    match findings.iter().filter(|f| f.severity == Severity::Bad).count() {
        0 => Ok(()),
        bad => Err(CliError::Unwell(bad)),
    }
}

/// What is worst comes last, where the eye is.
impl Show for Vec<Finding> {
    fn show(&self) -> String {
        let mut text: String = self.iter().map(|finding| format!("{finding}\n")).collect();
        let count = |severity| self.iter().filter(|f| f.severity == severity).count();
        text.push_str(&format!(
            "\n{} ok, {} to know, {} to improve, {} bad\n",
            count(Severity::Ok),
            count(Severity::Info),
            count(Severity::Warn),
            count(Severity::Bad)
        ));
        text
    }
}
