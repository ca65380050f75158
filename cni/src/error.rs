//! The error object of the protocol, and its codes.

use std::fmt;

use serde_json::{Value, json};

use crate::version::CniVersion;

/// What kind of failure: the codes of the specification (SPEC.md, "Error") below 100, our own from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The network's `cniVersion` is not one of ours, or has not this verb.
    IncompatibleVersion = 1,
    /// A field has no meaning here; the message has its name and its value.
    UnsupportedField = 2,
    /// There is no such container; nothing is left to be cleaned up.
    UnknownContainer = 3,
    /// A `CNI_…` variable is missing or wrong, or there is no such namespace; the message names it.
    Environment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// What arrived is not JSON, or not an object.
    Decode = 6,
    /// The network's configuration is wrong.
    InvalidConfig = 7,
    /// It may work later: the daemon is not there at the moment.
    TryAgainLater = 11,
    /// STATUS: no ADD can be served.
    NotAvailable = 50,
    /// STATUS: no ADD can be served, and containers that are there may be cut off.
    LimitedConnectivity = 51,
    /// The daemon tried and failed; nothing is left behind.
    DaemonFailed = 100,
    /// CHECK: the daemon does not know the attachment.
    NotAttached = 101,
    /// It cannot be done as things are: the container has this attachment, or an interface of this name, already; an
    /// address or a route is taken; a pool has none left.
    Conflict = 102,
    /// CHECK: something is not as it should be; the details have every finding.
    Drifted = 103,
    /// The IPAM plugin could not be run, or did not say what the protocol asks of it.
    Ipam = 104,
}

impl Code {
    /// All, in the order of their numbers; `docs/cni.md` has the same.
    pub const ALL: [Self; 15] = [
        Self::IncompatibleVersion,
        Self::UnsupportedField,
        Self::UnknownContainer,
        Self::Environment,
        Self::Io,
        Self::Decode,
        Self::InvalidConfig,
        Self::TryAgainLater,
        Self::NotAvailable,
        Self::LimitedConnectivity,
        Self::DaemonFailed,
        Self::NotAttached,
        Self::Conflict,
        Self::Drifted,
        Self::Ipam,
    ];

    /// As it is on stdout.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

/// A failure as the runtime is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// A [`Code`], or what an IPAM plugin has said.
    pub code: u32,
    /// What was tried, on what.
    pub msg: String,
    /// Why it failed, and what to do.
    pub details: String,
}

impl CniError {
    /// A failure of this program.
    pub fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            code: code.number(),
            msg: msg.into(),
            details: details.into(),
        }
    }

    /// The object for stdout, in this version of the protocol.
    pub fn object(&self, version: CniVersion) -> Value {
        json!({
            "cniVersion": version.as_str(),
            "code": self.code,
            "msg": self.msg,
            "details": self.details,
        })
    }

    /// Both failures as one: the code is that of the first.
    pub fn and(mut self, other: Self) -> Self {
        self.details = format!("{}; and: {} ({})", self.details, other.msg, other.details);
        self
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {}): {}", self.msg, self.code, self.details)
    }
}

impl std::error::Error for CniError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_specification() {
        let numbers = Code::ALL.map(Code::number);
        assert_eq!(
            numbers,
            [1, 2, 3, 4, 5, 6, 7, 11, 50, 51, 100, 101, 102, 103, 104]
        );
    }

    #[test]
    fn the_object_has_the_fields_of_the_protocol() {
        let error = CniError::new(Code::Io, "no", "why");
        assert_eq!(
            error.object(CniVersion::V0_4_0),
            json!({"cniVersion": "0.4.0", "code": 5, "msg": "no", "details": "why"})
        );
    }
}
