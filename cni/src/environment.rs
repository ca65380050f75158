//! The `CNI_…` variables: what each verb needs, and the rules for them (SPEC.md, "Parameters").

use std::ffi::OsString;
use std::path::PathBuf;

use clearway_config::attach::AttachmentId;

use crate::args::Args;
use crate::error::{CniError, Code};
use crate::version::CniVersion;

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// Is it attached as it should be?
    Check,
    /// Detach all that are not named.
    Gc,
    /// Could a container be attached?
    Status,
    /// Which versions are spoken?
    Version,
}

impl Verb {
    /// All.
    pub const ALL: [Self; 6] = [
        Self::Add,
        Self::Del,
        Self::Check,
        Self::Gc,
        Self::Status,
        Self::Version,
    ];

    /// As in `CNI_COMMAND`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The first version of the protocol that has it.
    pub const fn since(self) -> CniVersion {
        match self {
            Self::Add | Self::Del | Self::Version => CniVersion::V0_3_0,
            Self::Check => CniVersion::V0_4_0,
            Self::Gc | Self::Status => CniVersion::V1_1_0,
        }
    }
}

/// Why the environment is not one of a CNI call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// A variable that the verb needs is not set, or is empty.
    #[error("{verb} needs {variable}, which is not set")]
    Missing {
        /// The verb.
        verb: &'static str,
        /// The variable.
        variable: &'static str,
    },
    /// A variable whose value breaks its rule.
    #[error("{variable} is {value:?}: {reason}")]
    Value {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// The rule.
        reason: String,
    },
    /// A wrong item of `CNI_ARGS`.
    #[error("CNI_ARGS has {pair:?}: {reason}")]
    Args {
        /// The item.
        pair: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<EnvironmentError> for CniError {
    fn from(error: EnvironmentError) -> Self {
        Self::new(
            Code::Environment,
            error.to_string(),
            "the CNI_… variables are set by the container runtime; correct its call (CNI specification, \"Parameters\")",
        )
    }
}

/// A container and an interface in it, as ADD, DEL and CHECK have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `CNI_CONTAINERID` and `CNI_IFNAME`.
    pub id: AttachmentId,
    /// `CNI_NETNS`; empty for a DEL whose namespace has gone.
    pub netns: PathBuf,
    /// `CNI_ARGS`
    pub args: Args,
}

impl Target {
    /// No container in particular.
    pub fn nobody() -> Self {
        Self {
            id: AttachmentId {
                container: String::new(),
                interface: String::new(),
            },
            netns: PathBuf::new(),
            args: Args::default(),
        }
    }
}

/// Looks a variable up; a test has its own.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The verb.
pub fn verb(lookup: Lookup) -> Result<Verb, EnvironmentError> {
    let text = text(lookup, "CNI_COMMAND")?.ok_or(EnvironmentError::Missing {
        verb: "a CNI plugin",
        variable: "CNI_COMMAND",
    })?;
    Verb::ALL
        .into_iter()
        .find(|verb| verb.as_str() == text)
        .ok_or_else(|| {
            wrong(
                "CNI_COMMAND",
                text,
                "it is one of ADD, DEL, CHECK, GC, STATUS and VERSION",
            )
        })
}

/// What ADD, DEL and CHECK are about.
pub fn target(verb: Verb, lookup: Lookup) -> Result<Target, EnvironmentError> {
    let needed = |variable| {
        let missing = EnvironmentError::Missing {
            verb: verb.as_str(),
            variable,
        };
        text(lookup, variable)?.ok_or(missing)
    };
    let container = needed("CNI_CONTAINERID")?;
    check_container(&container)?;
    let interface = needed("CNI_IFNAME")?;
    check_interface(&interface)?;
    let netns = match verb {
        // A namespace that has gone is no reason not to clean up.
        Verb::Del => text(lookup, "CNI_NETNS")?.unwrap_or_default(),
        _ => needed("CNI_NETNS")?,
    };
    if verb != Verb::Del && !netns.starts_with('/') {
        return Err(wrong("CNI_NETNS", netns, "it must be an absolute path"));
    }
    let args = match (verb, text(lookup, "CNI_ARGS")?) {
        // What is wrong with it has no bearing on a removal.
        (Verb::Del, _) | (_, None) => Args::default(),
        (_, Some(text)) => Args::parse(&text)?,
    };
    Ok(Target {
        id: AttachmentId { container, interface },
        netns: netns.into(),
        args,
    })
}

/// The folders of `CNI_PATH`.
pub fn plugin_folders(lookup: Lookup) -> Vec<PathBuf> {
    let path = lookup("CNI_PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|folder| !folder.as_os_str().is_empty())
        .collect()
}

/// A container's identifier: a letter or a digit, then these, `_`, `.` and `-`.
fn check_container(id: &str) -> Result<(), EnvironmentError> {
    let good = |(i, c): (usize, char)| c.is_ascii_alphanumeric() || (i > 0 && matches!(c, '_' | '.' | '-'));
    let most = AttachmentId::MAX_CONTAINER;
    if id.len() > most {
        let reason = format!("it is longer than {most} bytes");
        return Err(wrong("CNI_CONTAINERID", id.into(), &reason));
    }
    if id.chars().enumerate().all(good) {
        return Ok(());
    }
    Err(wrong(
        "CNI_CONTAINERID",
        id.into(),
        "it must begin with a letter or a digit and go on with these, `_`, `.` and `-`",
    ))
}

/// An interface's name, by the rules of the kernel (`dev_valid_name`, net/core/dev.c).
fn check_interface(name: &str) -> Result<(), EnvironmentError> {
    let reason = if name.len() > 15 {
        "an interface's name has 15 bytes at the most"
    } else if matches!(name, "." | "..") {
        "the kernel has no such interface"
    } else if name
        .chars()
        .any(|c| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control())
    {
        "an interface's name has no `/`, no `:` and no white space"
    } else {
        return Ok(());
    };
    Err(wrong("CNI_IFNAME", name.into(), reason))
}

/// A variable that is set and not empty.
fn text(lookup: Lookup, variable: &'static str) -> Result<Option<String>, EnvironmentError> {
    match lookup(variable).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(Err(raw)) => Err(wrong(
            variable,
            raw.to_string_lossy().into_owned(),
            "it is not UTF-8",
        )),
    }
}

fn wrong(variable: &'static str, value: String, reason: &str) -> EnvironmentError {
    EnvironmentError::Value {
        variable,
        value,
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c-1.x_Y"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_IFNAME", "net1"),
    ];

    fn with(verb: Verb, changed: &[(&str, &str)]) -> Result<Target, EnvironmentError> {
        let all: Vec<_> = changed.iter().chain(&GOOD).collect();
        target(verb, &|name| {
            let found = all.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn good_names_pass() {
        for verb in [Verb::Add, Verb::Del, Verb::Check] {
            let target = with(verb, &[]).unwrap();
            assert_eq!(target.id.to_string(), "c-1.x_Y/net1");
        }
        for name in ["e", "eth0.100", "a@b", "x23456789012345", "..."] {
            assert!(with(Verb::Add, &[("CNI_IFNAME", name)]).is_ok(), "{name}");
        }
        assert!(with(Verb::Add, &[("CNI_CONTAINERID", &"c".repeat(255))]).is_ok());
    }

    #[test]
    fn wrong_names_are_named() {
        for (variable, value) in [
            ("CNI_IFNAME", "x234567890123456"),
            ("CNI_IFNAME", "."),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "a:b"),
            ("CNI_IFNAME", "a b"),
            ("CNI_IFNAME", "a\tb"),
            ("CNI_IFNAME", ""),
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "-a"),
            ("CNI_CONTAINERID", "../x"),
            ("CNI_CONTAINERID", "é"),
            ("CNI_CONTAINERID", &"c".repeat(256)),
            ("CNI_NETNS", ""),
            ("CNI_NETNS", "run/netns"),
            ("CNI_ARGS", "no-such"),
        ] {
            let error = CniError::from(with(Verb::Add, &[(variable, value)]).unwrap_err());
            assert_eq!(error.code, 4, "{variable}={value}");
            assert!(error.msg.contains(variable), "{error}");
        }
    }

    #[test]
    fn a_removal_needs_no_namespace_and_no_arguments() {
        let target = with(Verb::Del, &[("CNI_NETNS", ""), ("CNI_ARGS", "no-such")]).unwrap();
        assert_eq!(target.netns, PathBuf::new());
        assert!(with(Verb::Del, &[("CNI_IFNAME", "")]).is_err());
    }

    #[test]
    fn verbs_are_exact() {
        for known in Verb::ALL {
            assert_eq!(verb(&|_| Some(known.as_str().into())), Ok(known));
        }
        for wrong in ["add", "UPDATE"] {
            assert!(verb(&|_| Some(wrong.into())).is_err());
        }
        assert!(matches!(verb(&|_| None), Err(EnvironmentError::Missing { .. })));
    }

    #[test]
    fn folders_are_split() {
        let folders = plugin_folders(&|_| Some("/a::/b".into()));
        assert_eq!(folders, [PathBuf::from("/a"), PathBuf::from("/b")]);
    }
}
