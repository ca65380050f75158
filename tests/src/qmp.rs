//! QEMU's monitor: the QEMU Machine Protocol (docs/interop/qmp-spec in QEMU), one JSON object a line.

use crate::wait_for;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longer than QEMU takes for any command, also when it was just started beside other tests.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection to a monitor.
#[derive(Debug)]
pub struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Connects as soon as somebody listens.
    ///
    /// # Panics
    /// If nobody does, or it is no monitor.
    #[track_caller]
    pub(crate) fn connect(path: &Path) -> Qmp {
        let stream = wait_for("QEMU's monitor", ANSWER, || UnixStream::connect(path).ok());
        stream
            .set_read_timeout(Some(ANSWER))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut qmp = Qmp(BufReader::new(stream));
        let greeting = qmp.line();
        assert!(greeting.get("QMP").is_some(), "no monitor: {greeting}");
        qmp.run("qmp_capabilities", json!({}));
        qmp
    }

    /// Runs a command: what it returns, or why QEMU refuses.
    ///
    /// # Errors
    /// QEMU's own words.
    ///
    /// # Panics
    /// If there is no answer.
    #[track_caller]
    pub fn try_run(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let request = json!({"execute": command, "arguments": arguments});
        let sent = writeln!(self.0.get_mut(), "{request}");
        sent.unwrap_or_else(|e| panic!("cannot say {request} to QEMU: {e}"));
        loop {
            let mut answer = self.line();
            if let Some(error) = answer.get("error") {
                return Err(error["desc"].as_str().unwrap_or_default().to_owned());
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
            // An event.
        }
    }

    /// The same of a command that is not refused.
    ///
    /// # Panics
    /// If it is.
    #[track_caller]
    pub fn run(&mut self, command: &str, arguments: Value) -> Value {
        self.try_run(command, arguments)
            .unwrap_or_else(|e| panic!("QEMU refuses {command}: {e}"))
    }

    #[track_caller]
    fn line(&mut self) -> Value {
        let mut line = String::new();
        let read = self.0.read_line(&mut line);
        read.unwrap_or_else(|e| panic!("QEMU does not answer: {e}"));
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("QEMU said {line:?}: {e}"))
    }
}
