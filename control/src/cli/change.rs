//! Commands that read configurations and change what the daemon does: `validate`, `apply`, `fdb`.

use std::io::Read;
use std::path::Path;

use clearway_config::{Name, Spec, path_segment};

use super::args::{Apply, Fdb, Validate};
use super::client::Client;
use super::error::CliError;
use super::output;
use crate::api::types::{ApplyReport, FdbAdd, FdbView, FlushReport};

/// The text of a file, or of standard input for `-`, and the name for messages.
fn read(path: &Path) -> Result<(String, String), CliError> {
    let failed = |source| CliError::File {
        attempt: "reading the configuration",
        path: path.to_owned(),
        source,
    };
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
        return Ok((text, "standard input".into()));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    Ok((text, path.display().to_string()))
}

/// A configuration from a file, checked.
pub(crate) fn load(path: &Path) -> Result<Spec, CliError> {
    let (text, name) = read(path)?;
    Ok(Spec::from_yaml(&text, &name)?)
}

/// Checks files; tells everything that is wrong in all of them.
pub(crate) fn validate(args: &Validate) -> Result<(), CliError> {
    let mut wrong = Vec::new();
    for path in &args.files {
        match load(path) {
            Ok(_) => output::print(&format!("{}: valid\n", path.display()))?,
            Err(error) => wrong.push(error),
        }
    }
    let all = args.files.len();
    match (wrong.len(), wrong.pop()) {
        (_, None) => Ok(()),
        (1, Some(error)) if all == 1 => Err(error),
        (count, Some(last)) => {
            wrong.push(last);
            for error in wrong {
                eprintln!("{error}");
            }
            Err(CliError::WrongFiles { wrong: count, all })
        }
    }
}

/// Has the daemon use another configuration.
pub(crate) fn apply(client: &Client, args: &Apply) -> Result<(), CliError> {
    // Read here, so that errors name the file and not the request.
    let spec = load(&args.file)?;
    let body = serde_json::to_string(&spec).map_err(|error| CliError::Format {
        format: "JSON",
        reason: error.to_string(),
    })?;
    let path = format!("/v1/config?dry-run={}", args.dry_run);
    let report: ApplyReport = client.put_if(&path, body, args.if_generation)?;
    output::print(&output::render(&report, args.output.format)?)
}

/// Changes the forwarding database by hand.
pub(crate) fn fdb(client: &Client, command: &Fdb) -> Result<(), CliError> {
    let path = |domain: &Name, mac| format!("/v1/fdb/{}/{mac}", path_segment(domain.as_str()));
    match command {
        Fdb::Add {
            bridge_domain,
            mac,
            port,
            vlan,
            remote,
        } => {
            let place = FdbAdd {
                port: port.as_ref().map(ToString::to_string),
                vlan: *vlan,
                remote: *remote,
            };
            let body = serde_json::to_string(&place).map_err(|error| CliError::Format {
                format: "JSON",
                reason: error.to_string(),
            })?;
            let entry: FdbView = client.put(&path(bridge_domain, mac), body)?;
            let behind = match (entry.port, entry.remote) {
                (Some(port), _) => format!("port {port}"),
                (None, Some(remote)) => format!("remote {remote}"),
                (None, None) => "nothing".into(),
            };
            output::print(&format!("added: {mac} in {bridge_domain} is behind {behind}\n"))
        }
        Fdb::Del { bridge_domain, mac } => {
            client.remove(&path(bridge_domain, mac))?;
            output::print(&format!("removed: {mac} in {bridge_domain}\n"))
        }
        Fdb::Flush { bridge_domain, port } => {
            let query: Vec<_> = [("bridge-domain", bridge_domain), ("port", port)]
                .into_iter()
                .filter_map(|(key, name)| {
                    name.as_ref()
                        .map(|name| format!("{key}={}", path_segment(name.as_str())))
                })
                .collect();
            let report: FlushReport = client.delete(&format!("/v1/fdb?{}", query.join("&")))?;
            let stations = if report.removed == 1 {
                "station"
            } else {
                "stations"
            };
            output::print(&format!("forgotten: {} learned {stations}\n", report.removed))
        }
    }
}
