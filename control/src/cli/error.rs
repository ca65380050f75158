//! Why a command failed, as it is told on standard error.

use std::io;
use std::path::PathBuf;

use crate::handle::ApiError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// No daemon.
    #[error(
        "asking the daemon at {} failed: {source}; is the daemon running? Start it with `clearway run --config FILE`, or name its socket with --socket",
        .socket.display()
    )]
    NoDaemon {
        /// Where it was looked for.
        socket: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The socket is root's.
    #[error("asking the daemon at {} failed: {source}; the socket is for root alone: run this command as root (sudo)", .socket.display())]
    NotAllowed {
        /// Where it was looked for.
        socket: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// It was there, and then it was not, or it is something else.
    #[error(
        "talking to the daemon at {} failed: {reason}; its log says whether it stopped, `clearway version` whether it is another version",
        .socket.display()
    )]
    Broken {
        /// Where.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The daemon refused or failed.
    #[error("{error}{}", details(.error))]
    Api {
        /// What it says.
        error: ApiError,
    },
    /// A configuration is wrong.
    #[error("{0}")]
    Config(#[from] clearway_config::ConfigErrors),
    /// Several files are wrong; each was told already.
    #[error("{wrong} of {all} files wrong")]
    WrongFiles {
        /// How many.
        wrong: usize,
        /// Of how many.
        all: usize,
    },
    /// The ports of the command line are wrong.
    #[error("{0}")]
    ShortForm(#[from] clearway_config::ShortFormError),
    /// A file.
    #[error("{attempt} {} failed: {source}", .path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// Nobody reads our output any more, or its file is full.
    #[error("writing to standard output failed: {0}")]
    Output(#[source] io::Error),
    /// A result that cannot be written in the format asked for.
    #[error("writing the result as {format} failed: {reason}; try another format with -o")]
    Format {
        /// The format.
        format: &'static str,
        /// What the serializer says.
        reason: String,
    },
    /// The host cannot be looked at.
    #[error("looking at this host failed: {0}")]
    Host(#[from] crate::host::HostError),
    /// The SR-IOV functions.
    #[error(transparent)]
    Sriov(#[from] super::sriov::SriovError),
    /// The doctor found something that will not work.
    #[error("{0} finding(s) are bad: Clearway will not work until they are dealt with")]
    Unwell(usize),
    /// The daemon.
    #[error("{0}")]
    Daemon(#[from] crate::daemon::DaemonError),
    /// The demonstration.
    #[error("the demo failed: {0}")]
    Demo(#[from] super::demo::DemoError),
}

impl CliError {
    /// Whether our output was cut off on purpose, as by `| head`.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

fn details(error: &ApiError) -> String {
    let mut text = String::new();
    for detail in &error.details {
        text.push_str("\n  ");
        if let (Some(line), Some(column)) = (detail.line, detail.column) {
            text.push_str(&format!("{line}:{column}: "));
        }
        if !detail.path.is_empty() {
            text.push_str(&detail.path);
            text.push_str(": ");
        }
        text.push_str(&detail.message);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::{Detail, ErrorCode};

    #[test]
    fn every_fault_has_its_line() {
        let mut error = ApiError::new(ErrorCode::InvalidConfig, "it is wrong");
        error.details = vec![
            Detail {
                path: "ports.a".into(),
                line: Some(3),
                column: Some(7),
                message: "no such interface".into(),
            },
            Detail {
                path: String::new(),
                line: None,
                column: None,
                message: "empty".into(),
            },
        ];
        assert_eq!(
            CliError::Api { error }.to_string(),
            "it is wrong\n  3:7: ports.a: no such interface\n  empty"
        );
    }
}
