//! Why a port does not open, and whether waiting helps.

use clearway_io::{PcapngError, UmemError, XdpError, XskError};

use crate::daemon::groups::GroupError;
use crate::host::{HostError, program};

/// Why a port does not open.
#[derive(Debug)]
pub(in crate::daemon) enum OpenError {
    /// It will when the host changes; nobody has to do anything here.
    Wait(String),
    /// It is tried again by and by, but does not look as if it would get better by itself.
    Fatal(String),
}

impl OpenError {
    /// The text for people.
    pub(in crate::daemon) fn reason(&self) -> &str {
        match self {
            Self::Wait(reason) | Self::Fatal(reason) => reason,
        }
    }
}

impl From<HostError> for OpenError {
    fn from(error: HostError) -> Self {
        match &error {
            HostError::NoInterface(name) => {
                Self::Wait(format!("interface {name} does not exist; waiting for it"))
            }
            HostError::Kernel { source, .. } if source.raw_os_error() == Some(libc::ENODEV) => {
                Self::Wait(error.to_string())
            }
            HostError::NoAnswer { .. } => Self::Wait(error.to_string()),
            _ => Self::Fatal(error.to_string()),
        }
    }
}

impl From<XskError> for OpenError {
    fn from(error: XskError) -> Self {
        match (&error, error.errno()) {
            (XskError::NoInterface { name }, _) => {
                Self::Wait(format!("interface {name} does not exist; waiting for it"))
            }
            (_, Some(libc::ENODEV | libc::ENETDOWN | libc::ENXIO)) => Self::Wait(error.to_string()),
            _ => Self::Fatal(error.to_string()),
        }
    }
}

impl From<XdpError> for OpenError {
    fn from(error: XdpError) -> Self {
        match &error {
            // Ours, while nobody holds the interface's lock: of a daemon that is just ending, or that keeps its
            // locks elsewhere.
            XdpError::Foreign { program, interface } if program::is_ours(&program.name) => {
                let id = program.id;
                match program::holder(id) {
                    None => Self::Wait(format!(
                        "{interface} still carries the XDP program (id {id}) of a clearway that has just ended, or that cannot be seen from here (another container?); waiting for it to go"
                    )),
                    Some(holder) => Self::Fatal(format!(
                        "interface {interface} carries the XDP program (id {id}) of another clearway ({holder}), which has another --state-dir: stop that one, or give each its own interfaces"
                    )),
                }
            }
            XdpError::Attach { source, .. } if source.raw_os_error() == Some(libc::ENODEV) => {
                Self::Wait(error.to_string())
            }
            _ => Self::Fatal(error.to_string()),
        }
    }
}

impl From<GroupError> for OpenError {
    fn from(error: GroupError) -> Self {
        Self::Fatal(error.to_string())
    }
}

impl From<UmemError> for OpenError {
    fn from(error: UmemError) -> Self {
        Self::Fatal(error.to_string())
    }
}

impl From<PcapngError> for OpenError {
    fn from(error: PcapngError) -> Self {
        Self::Fatal(error.to_string())
    }
}
