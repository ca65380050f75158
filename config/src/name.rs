//! Names of ports, bridge domains and VTEPs: one rule for all three.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

/// A name that the configuration gives to a port, a bridge domain or a VTEP.
///
/// One to 32 characters; the first is a letter or a digit, the others may also be `_`, `.` and `-`. Names are
/// what the command line, the API, logs and metrics show, so they need no quoting in any of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[schemars(transparent)]
#[serde(transparent)]
pub struct Name(
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"))] String,
);

/// Why a text is not a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The empty text.
    #[error("a name is empty; give it 1 to 32 characters")]
    Empty,
    /// More than 32 characters.
    #[error("the name {name:?} has {length} characters, 32 are allowed; choose a shorter one")]
    TooLong {
        /// The text that was refused.
        name: String,
        /// How many characters it has.
        length: usize,
    },
    /// A character that names cannot hold.
    #[error(
        "the name {name:?} has {found:?} at position {position}; a name starts with a letter or a digit and goes \
         on with letters, digits, `_`, `.` and `-`"
    )]
    Character {
        /// The text that was refused.
        name: String,
        /// The first character that is not allowed.
        found: char,
        /// Where it is, counted from 1.
        position: usize,
    },
}

impl Name {
    /// The longest name, in characters.
    pub const MAX: usize = 32;

    /// Checks a text and makes it a name.
    pub fn new(text: impl Into<String>) -> Result<Name, NameError> {
        let text = text.into();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let wrong = text
            .chars()
            .enumerate()
            .find(|&(i, c)| !(c.is_ascii_alphanumeric() || (i > 0 && matches!(c, '_' | '.' | '-'))));
        if let Some((i, found)) = wrong {
            return Err(NameError::Character {
                name: text,
                found,
                position: i + 1,
            });
        }
        // Every character is ASCII from here on: bytes are characters.
        if text.len() > Self::MAX {
            return Err(NameError::TooLong {
                length: text.len(),
                name: text,
            });
        }
        Ok(Name(text))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Lets a map keyed by names be searched with a `&str`.
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Name, NameError> {
        Name::new(text)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        struct NameVisitor;
        impl de::Visitor<'_> for NameVisitor {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Name, E> {
                Name::new(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_rule_allows() {
        for good in ["a", "0", "pod1", "eth0.100", "A_b-c.d", &"x".repeat(32)] {
            assert_eq!(Name::new(good).map(|n| n.to_string()), Ok(good.to_string()));
        }
    }

    #[test]
    fn refuses_what_it_does_not() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(
            Name::new("a b"),
            Err(NameError::Character {
                name: "a b".into(),
                found: ' ',
                position: 2
            })
        );
        assert_eq!(
            Name::new("-a"),
            Err(NameError::Character {
                name: "-a".into(),
                found: '-',
                position: 1
            })
        );
        assert_eq!(
            Name::new("x".repeat(33)),
            Err(NameError::TooLong {
                name: "x".repeat(33),
                length: 33
            })
        );
    }
}
