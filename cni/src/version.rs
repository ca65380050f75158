//! Versions of the protocol, and what each can say.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::error::{CniError, Code};

/// A version of the CNI specification that this plugin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// 0.3.0: results with lists of interfaces and addresses.
    V0_3_0,
    /// 0.3.1: the same.
    V0_3_1,
    /// 0.4.0: CHECK, and `prevResult` for DEL.
    V0_4_0,
    /// 1.0.0: no `version` in addresses.
    V1_0_0,
    /// 1.1.0: GC, STATUS, `mtu`, `socketPath`, `pciID`, and more of a route.
    V1_1_0,
}

impl CniVersion {
    /// All, the oldest first.
    pub const ALL: [Self; 5] = [
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];
    /// The newest.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As in `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of this text, if it is one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// The version of a network's configuration. One without `cniVersion` is of 0.1.0 (SPEC.md of 0.2.0), which has
    /// another kind of result.
    pub fn of(conf: &Map<String, Value>) -> Result<Self, CniError> {
        let text = match conf.get("cniVersion") {
            None | Some(Value::Null) => "0.1.0",
            Some(Value::String(text)) => text,
            Some(other) => {
                return Err(CniError::new(
                    Code::Decode,
                    "cniVersion is not text",
                    format!("`cniVersion` is {other}; write it as text, such as \"1.0.0\""),
                ));
            }
        };
        Self::parse(text).ok_or_else(|| {
            CniError::new(
                Code::IncompatibleVersion,
                format!("the network's cniVersion is {text:?}, which clearway-cni does not speak"),
                format!(
                    "clearway-cni speaks {}; write one of them as `cniVersion`",
                    supported()
                ),
            )
        })
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// All versions as one text.
pub(crate) fn supported() -> String {
    CniVersion::ALL.map(CniVersion::as_str).join(", ")
}

/// The answer to VERSION. `asked` is what came in on stdin: its `cniVersion` is repeated (SPEC.md, "VERSION Success").
pub fn answer(asked: &[u8]) -> Value {
    let asked: Option<Value> = serde_json::from_slice(asked).ok();
    let version = asked.as_ref().and_then(|asked| asked.get("cniVersion"));
    let version = version
        .and_then(Value::as_str)
        .filter(|version| !version.is_empty());
    json!({
        "cniVersion": version.unwrap_or(CniVersion::NEWEST.as_str()),
        "supportedVersions": CniVersion::ALL.map(CniVersion::as_str),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(conf: Value) -> Result<CniVersion, u32> {
        CniVersion::of(conf.as_object().unwrap()).map_err(|error| error.code)
    }

    #[test]
    fn a_network_has_one_of_our_versions() {
        for version in CniVersion::ALL {
            assert_eq!(of(json!({"cniVersion": version.as_str()})), Ok(version));
        }
        for other in [
            json!({}),
            json!({"cniVersion": "0.1.0"}),
            json!({"cniVersion": "0.2.0"}),
            json!({"cniVersion": "1.2.0"}),
            json!({"cniVersion": "1.0"}),
        ] {
            assert_eq!(of(other), Err(1));
        }
        assert_eq!(of(json!({"cniVersion": 1})), Err(6));
    }

    #[test]
    fn the_answer_repeats_the_version() {
        let all = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        for (asked, told) in [
            (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
            (r#"{"cniVersion":"0.1.0"}"#, "0.1.0"),
            ("", "1.1.0"),
            ("{", "1.1.0"),
            (r#"{"cniVersion":""}"#, "1.1.0"),
        ] {
            assert_eq!(
                answer(asked.as_bytes()),
                json!({"cniVersion": told, "supportedVersions": all})
            );
        }
    }
}
