//! Runs the IPAM plugin of a network (SPEC.md, "Plugin Delegation").

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::conf::NEEDS_INTERFACE;
use crate::environment::Verb;
use crate::error::{CniError, Code};
use crate::result::CniResult;
use crate::version::CniVersion;

/// Why an IPAM plugin gave no answer of the protocol.
#[derive(Debug, thiserror::Error)]
pub enum DelegateError {
    /// `CNI_PATH` is not set.
    #[error("CNI_PATH is not set: there is nowhere to look for the IPAM plugin {name:?}")]
    NoPath {
        /// `ipam.type`
        name: String,
    },
    /// No such program.
    #[error(
        "the IPAM plugin {name:?} (ipam.type) is in none of the folders of CNI_PATH ({folders}); install it there, or \
         correct ipam.type"
    )]
    NotFound {
        /// `ipam.type`
        name: String,
        /// The folders.
        folders: String,
    },
    /// It cannot be run.
    #[error("the IPAM plugin {path:?} could not be run for {verb} ({source})")]
    Run {
        /// The program.
        path: PathBuf,
        /// What for.
        verb: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It failed without an error object.
    #[error(
        "the IPAM plugin {path:?} ended with {status} at {verb} and said {said:?}, which is no error of CNI; its own \
         log or stderr may say why"
    )]
    Died {
        /// The program.
        path: PathBuf,
        /// What for.
        verb: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its stdout, not all of it.
        said: String,
    },
    /// Its result cannot be read, or has no address.
    #[error("the result of the IPAM plugin {path:?} cannot be used: {reason}; it said {said:?}")]
    Result {
        /// The program.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// Its stdout, not all of it.
        said: String,
    },
}

impl From<DelegateError> for CniError {
    fn from(error: DelegateError) -> Self {
        let code = match &error {
            DelegateError::NoPath { .. } => Code::Environment,
            DelegateError::NotFound { .. } => Code::InvalidConfig,
            _ => Code::Ipam,
        };
        Self::new(
            code,
            "the network's IPAM plugin gave no answer",
            error.to_string(),
        )
    }
}

/// An IPAM plugin, and the network's configuration as it came in.
#[derive(Debug)]
pub struct Delegate<'a> {
    /// `ipam.type`
    pub name: &'a str,
    /// The folders of `CNI_PATH`.
    pub folders: &'a [PathBuf],
    /// What came in on stdin: it is handed on unchanged.
    pub stdin: &'a [u8],
    /// The network's version.
    pub version: CniVersion,
}

impl Delegate<'_> {
    /// It speaks through the interface: it is asked while that is there.
    pub fn needs_interface(&self) -> bool {
        NEEDS_INTERFACE.contains(&self.name)
    }

    /// ADD: what it has chosen.
    pub fn add(&self) -> Result<CniResult, CniError> {
        let (path, stdout) = self.run(Verb::Add)?;
        let unusable = |reason: String| DelegateError::Result {
            path: path.clone(),
            reason,
            said: excerpt(&stdout),
        };
        let value: Value = serde_json::from_slice(&stdout).map_err(|error| unusable(error.to_string()))?;
        let result = CniResult::read(&value).map_err(unusable)?;
        if result.ips.is_empty() {
            return Err(unusable("it has no address".into()).into());
        }
        Ok(result)
    }

    /// DEL, CHECK, GC or STATUS: only whether it worked counts.
    pub fn ask(&self, verb: Verb) -> Result<(), CniError> {
        self.run(verb).map(|_| ())
    }

    fn run(&self, verb: Verb) -> Result<(PathBuf, Vec<u8>), CniError> {
        let path = self.find()?;
        let output = self.start(&path, verb).map_err(|source| DelegateError::Run {
            path: path.clone(),
            verb: verb.as_str(),
            source,
        })?;
        if output.status.success() {
            return Ok((path, output.stdout));
        }
        Err(self.failure(path, verb, &output))
    }

    /// Its program.
    pub fn find(&self) -> Result<PathBuf, DelegateError> {
        let name = self.name.to_owned();
        if self.folders.is_empty() {
            return Err(DelegateError::NoPath { name });
        }
        let runs = |path: &PathBuf| {
            fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
        };
        let mut places = self.folders.iter().map(|folder| folder.join(self.name));
        places.find(runs).ok_or_else(|| DelegateError::NotFound {
            name,
            folders: self
                .folders
                .iter()
                .map(|folder| folder.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    /// The same environment but for the verb, the same stdin; its stderr is ours.
    fn start(&self, path: &PathBuf, verb: Verb) -> io::Result<Output> {
        let mut command = Command::new(path);
        command
            .env("CNI_COMMAND", verb.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut tries = 0;
        let mut child = loop {
            match command.spawn() {
                // It is being installed anew at this moment.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < 5 => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(200));
                }
                other => break other?,
            }
        };
        let stdin = child.stdin.take();
        // Beside the reading: neither pipe has room for everything.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // One that does not read all of it has its reasons; its answer counts.
                stdin.map(|mut stdin| stdin.write_all(self.stdin))
            });
            child.wait_with_output()
        })
    }

    /// Its error object, passed on.
    fn failure(&self, path: PathBuf, verb: Verb, output: &Output) -> CniError {
        let object: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        let object = object.as_ref();
        let code = object.and_then(|object| object.get("code")?.as_u64()?.try_into().ok());
        let text = |key: &str| {
            object
                .and_then(|object| object.get(key)?.as_str())
                .unwrap_or_default()
        };
        let Some(code) = code.filter(|_| !text("msg").is_empty()) else {
            return DelegateError::Died {
                path,
                verb: verb.as_str(),
                status: output.status,
                said: excerpt(&output.stdout),
            }
            .into();
        };
        let mut details = match text("details") {
            "" => String::new(),
            details => format!("{details}; "),
        };
        details += &format!("said the IPAM plugin {:?} at {}", self.name, verb.as_str());
        if code == Code::IncompatibleVersion.number() {
            details += &format!(
                "; it does not speak the network's cniVersion {}: write \"cniVersion\": \"1.0.0\" (or what it speaks) in \
                 the network's configuration, install a newer one, or let Clearway choose addresses (\"ipam\": {{\"type\": \
                 \"clearway\"}})",
                self.version
            );
        }
        CniError {
            code,
            msg: text("msg").into(),
            details,
        }
    }
}

/// The beginning of what a program wrote.
fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]);
    text.trim().to_owned()
}
