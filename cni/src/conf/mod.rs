//! The configuration of a network, as it arrives on stdin.
//!
//! ```text
//!   stdin ──► Conf (what every verb needs: lenient) ──► Network (ADD, CHECK, STATUS: every field looked at) ──► Attach
//! ```
//!
//! DEL and GC read only the lenient part: a field that a newer or an older version of this program refuses must not keep
//! a container from being cleaned up.

mod fields;
mod network;
mod runtime;
mod segment;
mod sriov;
mod userspace;

use std::fmt;
use std::path::PathBuf;

use clearway_config::Api;
use clearway_config::attach::{AttachKind, AttachmentId};
use serde_json::{Map, Value};

pub use fields::{FIELDS, FOREIGN, Field, Fields};
pub use network::{IpamConf, Network};

use crate::error::{CniError, Code};
use crate::log::Level;
use crate::result::CniResult;
use crate::version::CniVersion;

/// Where the daemon listens when nothing else is said.
pub const DAEMON_SOCKET: &str = Api::DEFAULT_SOCKET;

/// What `mode: auto` is for a container with a kernel stack; decided by measurement.
pub const AUTO: Mode = Mode::Tap;

/// IPAM plugins that speak through the interface to find an address for it, and to give it back: it must be there for both.
/// Known by name: nothing in the protocol tells one from others.
pub const NEEDS_INTERFACE: [&str; 1] = ["dhcp"];

/// What a container is given (`mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One end of a veth pair.
    Veth,
    /// A TAP with offloads.
    Tap,
    /// A vhost-user socket.
    VhostUser,
    /// An SR-IOV virtual function.
    Vf,
}

impl Mode {
    /// All.
    pub const ALL: [Self; 4] = [Self::Veth, Self::Tap, Self::VhostUser, Self::Vf];

    /// As in `mode`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Tap => "tap",
            Self::VhostUser => "vhost-user",
            Self::Vf => "vf",
        }
    }

    /// The daemon's word for it.
    pub const fn kind(self) -> AttachKind {
        match self {
            Self::Veth => AttachKind::Veth,
            Self::Tap => AttachKind::Tap,
            Self::VhostUser => AttachKind::VhostUser,
            Self::Vf => AttachKind::Vf,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is wrong with a network's configuration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfError {
    /// Not JSON.
    #[error("what came in on stdin is not JSON ({reason})")]
    NotJson {
        /// Where and why.
        reason: String,
    },
    /// JSON, but not an object.
    #[error("what came in on stdin is not a JSON object")]
    NotAnObject,
    /// A field that there is not.
    #[error("unknown field `{field}`{}", Nearest(.nearest))]
    Unknown {
        /// Its path.
        field: String,
        /// The one that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A value that the field cannot have.
    #[error("`{field}` is {value}: {reason}")]
    Value {
        /// Its path.
        field: String,
        /// Its value, as JSON.
        value: String,
        /// What it may be.
        reason: String,
    },
    /// A field that must be there.
    #[error("`{field}` is missing: {advice}")]
    Missing {
        /// Its path.
        field: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// Two fields that say the same thing.
    #[error("`{field}` and `{other}` are both there: {advice}")]
    Together {
        /// The path of one.
        field: String,
        /// The path of the other.
        other: String,
        /// What to do.
        advice: &'static str,
    },
    /// A field of another mode.
    #[error(
        "the field `{field}` (its value is {value}) has no meaning in mode `{mode}`; it has one in {}: remove the field or \
         correct `mode`", Modes(.modes)
    )]
    NotInMode {
        /// Its path.
        field: &'static str,
        /// Its value, as JSON.
        value: String,
        /// The mode.
        mode: Mode,
        /// The modes that have it.
        modes: &'static [Mode],
    },
    /// A field, or a value of it, that means something elsewhere.
    #[error("the field `{field}` (its value is {value}) is not supported: {advice}")]
    Unsupported {
        /// Its path.
        field: String,
        /// Its value, as JSON.
        value: String,
        /// What to do.
        advice: &'static str,
    },
}

/// The most characters of somebody's value that an error repeats.
const QUOTED: usize = 200;

/// A value as an error repeats it: whoever sends a megabyte must not get it back.
fn brief(value: &Value) -> String {
    cut(value.to_string())
}

/// The beginning of a long text.
pub(crate) fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(QUOTED) {
        text.truncate(end);
        text.push('…');
    }
    text
}

struct Nearest<'a>(&'a Option<&'static str>);

impl fmt::Display for Nearest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(nearest) => write!(f, "; did you mean `{nearest}`?"),
            None => f.write_str("; docs/cni.md has all fields"),
        }
    }
}

struct Modes<'a>(&'a &'static [Mode]);

impl fmt::Display for Modes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mode) in self.0.iter().enumerate() {
            write!(f, "{}`{mode}`", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl From<ConfError> for CniError {
    fn from(error: ConfError) -> Self {
        let (code, details) = match &error {
            ConfError::NotJson { .. } | ConfError::NotAnObject => (
                Code::Decode,
                "the runtime must hand over the network's configuration",
            ),
            ConfError::NotInMode { .. } | ConfError::Unsupported { .. } => (
                Code::UnsupportedField,
                "correct the network's configuration; docs/cni.md says which fields each mode has",
            ),
            _ => (
                Code::InvalidConfig,
                "correct the network's configuration; docs/cni.md says what each field may be",
            ),
        };
        Self::new(code, error.to_string(), details)
    }
}

/// What every verb reads of a network's configuration.
#[derive(Clone, Debug)]
pub struct Conf {
    /// `cniVersion`
    pub version: CniVersion,
    /// The network's name.
    pub name: String,
    map: Map<String, Value>,
}

impl Conf {
    /// Reads JSON of an object; nothing in it is looked at.
    pub fn object(stdin: &[u8]) -> Result<Map<String, Value>, ConfError> {
        match serde_json::from_slice(stdin) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(_) => Err(ConfError::NotAnObject),
            Err(error) => Err(ConfError::NotJson {
                reason: error.to_string(),
            }),
        }
    }

    /// Reads version and name.
    pub fn read(map: Map<String, Value>, version: CniVersion) -> Result<Self, ConfError> {
        let name = match map.get("name") {
            Some(Value::String(name)) if !name.is_empty() => name.clone(),
            None | Some(Value::Null | Value::String(_)) => {
                return Err(ConfError::Missing {
                    field: "name",
                    advice: "give the network a name",
                });
            }
            Some(other) => {
                return Err(ConfError::Value {
                    field: "name".into(),
                    value: brief(other),
                    reason: "write text".into(),
                });
            }
        };
        let good =
            |(i, c): (usize, char)| c.is_ascii_alphanumeric() || (i > 0 && matches!(c, '_' | '.' | '-'));
        if !name.chars().enumerate().all(good) {
            return Err(ConfError::Value {
                field: "name".into(),
                value: cut(format!("{name:?}")),
                reason: "a network's name begins with a letter or a digit and goes on with these, `_`, `.` and `-`"
                    .into(),
            });
        }
        Ok(Self { version, name, map })
    }

    /// All of it, looked at.
    pub fn network(&self) -> Result<Network, ConfError> {
        Network::read(&self.map)
    }

    /// Text at this path, whatever else is there.
    fn text(&self, path: &[&str]) -> Option<&str> {
        let (last, objects) = path.split_last()?;
        let mut map = &self.map;
        for object in objects {
            map = map.get(*object)?.as_object()?;
        }
        map.get(*last)?.as_str().filter(|text| !text.is_empty())
    }

    /// The daemon's socket.
    pub fn daemon_socket(&self) -> PathBuf {
        self.text(&["daemonSocket"]).unwrap_or(DAEMON_SOCKET).into()
    }

    /// `logFile`
    pub fn log_file(&self) -> Option<PathBuf> {
        self.text(&["logFile"]).map(Into::into)
    }

    /// `logLevel`; the usual one where it says something else.
    pub fn log_level(&self) -> Level {
        self.text(&["logLevel"])
            .and_then(Level::parse)
            .unwrap_or_default()
    }

    /// The IPAM plugin that the network names; none where Clearway is its own.
    pub fn delegate(&self) -> Result<Option<&str>, ConfError> {
        let name = self
            .text(&["ipam", "type"])
            .filter(|name| *name != network::OWN_IPAM);
        match name {
            Some(name) if name.contains(['/', '\\']) || matches!(name, "." | "..") => Err(ConfError::Value {
                field: "ipam.type".into(),
                value: cut(format!("{name:?}")),
                reason: "write the name of a program in CNI_PATH, without a folder".into(),
            }),
            name => Ok(name),
        }
    }

    /// `runtimeConfig.CNIDeviceInfoFile`
    pub fn device_info_file(&self) -> Option<PathBuf> {
        self.text(&["runtimeConfig", "CNIDeviceInfoFile"]).map(Into::into)
    }

    /// `prevResult`, of whatever version.
    pub fn prev_result(&self) -> Result<Option<CniResult>, ConfError> {
        let value = self.map.get("prevResult").filter(|value| !value.is_null());
        let Some(value) = value else { return Ok(None) };
        CniResult::read(value)
            .map(Some)
            .map_err(|reason| ConfError::Value {
                field: "prevResult".into(),
                value: brief(value),
                reason: format!("it is no result of CNI ({reason})"),
            })
    }

    /// `cni.dev/valid-attachments`; runtimes of the first days of 1.1.0 call it `cni.dev/attachments`. `null` is the empty
    /// list, as programs in Go write it; absent it is an error: it would mean that nothing is valid.
    pub fn valid_attachments(&self) -> Result<Vec<AttachmentId>, ConfError> {
        const FIELD: &str = "cni.dev/valid-attachments";
        let value = [FIELD, "cni.dev/attachments"]
            .iter()
            .find_map(|key| self.map.get(*key));
        let wrong = |value: &Value| ConfError::Value {
            field: FIELD.into(),
            value: brief(value),
            reason: "it must be a list of objects with `containerID` and `ifname`".into(),
        };
        let items = match value {
            None => {
                return Err(ConfError::Missing {
                    field: FIELD,
                    advice: "the runtime must say which attachments are valid; without that all would be removed",
                });
            }
            Some(Value::Null) => return Ok(Vec::new()),
            Some(value) => value.as_array().ok_or_else(|| wrong(value))?,
        };
        let id = |item: &Value| {
            let text = |key: &str| Some(item.get(key)?.as_str()?.to_owned());
            Some(AttachmentId {
                container: text("containerID")?,
                interface: text("ifname")?,
            })
        };
        items
            .iter()
            .map(|item| id(item).ok_or_else(|| wrong(item)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn conf(value: Value) -> Conf {
        Conf::read(value.as_object().unwrap().clone(), CniVersion::NEWEST).unwrap()
    }

    #[test]
    fn names_have_a_rule() {
        for (name, good) in [
            (json!("a-B_1.x"), true),
            (json!(""), false),
            (json!("-a"), false),
            (json!("a/b"), false),
            (json!(7), false),
            (Value::Null, false),
        ] {
            let map = json!({ "name": name }).as_object().unwrap().clone();
            assert_eq!(Conf::read(map, CniVersion::NEWEST).is_ok(), good, "{name}");
        }
    }

    #[test]
    fn what_a_removal_needs_is_read_whatever_else_is_there() {
        let conf = conf(json!({
            "name": "n", "bogus": 1, "ipam": {"type": "host-local", "subnet": 7}, "logLevel": 3, "daemonSocket": "/x",
            "runtimeConfig": {"CNIDeviceInfoFile": "/d", "mac": 9}
        }));
        assert_eq!(conf.delegate(), Ok(Some("host-local")));
        assert_eq!(conf.daemon_socket(), PathBuf::from("/x"));
        assert_eq!(conf.device_info_file(), Some("/d".into()));
        assert_eq!(conf.log_level(), Level::Warning);
    }

    #[test]
    fn clearway_is_no_delegate_and_a_path_no_name() {
        assert_eq!(
            conf(json!({"name": "n", "ipam": {"type": "clearway"}})).delegate(),
            Ok(None)
        );
        assert_eq!(conf(json!({"name": "n", "ipam": {}})).delegate(), Ok(None));
        for path in ["../x", "/bin/sh", ".."] {
            assert!(
                conf(json!({"name": "n", "ipam": {"type": path}}))
                    .delegate()
                    .is_err()
            );
        }
    }

    #[test]
    fn valid_attachments_are_told() {
        let list = json!([{"containerID": "c", "ifname": "net1"}]);
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let valid = conf(json!({"name": "n", key: list})).valid_attachments().unwrap();
            assert_eq!(valid[0].to_string(), "c/net1");
        }
        let none = conf(json!({"name": "n", "cni.dev/valid-attachments": null}));
        assert_eq!(none.valid_attachments(), Ok(vec![]));
        assert!(conf(json!({"name": "n"})).valid_attachments().is_err());
        assert!(
            conf(json!({"name": "n", "cni.dev/valid-attachments": [{}]}))
                .valid_attachments()
                .is_err()
        );
    }
}
