//! What is wrong with a configuration: where, what was found, what may be written instead.

use std::borrow::Cow;
use std::fmt;

use crate::path::Path;
use crate::problem::Problem;

/// A line and a column of a configuration file, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Everything that is wrong with one configuration file, in the order of the file; never empty.
///
/// Its text has one line for each error: `file:line:column: path: what is wrong`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct ConfigErrors {
    /// The file's name as the caller gave it.
    pub file: String,
    /// The errors.
    pub errors: Vec<ConfigError>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.file)?;
            match error.place {
                Some(place) => write!(f, "{place}: {error}")?,
                None => write!(f, " {error}")?,
            }
        }
        Ok(())
    }
}

/// One error of a configuration file. Its text is `path: what is wrong`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct ConfigError {
    /// Where it is written, when that is known.
    pub place: Option<Place>,
    /// The path of the value, such as `ports.up0.trunk[2]`; empty for the whole document.
    pub path: String,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        self.fault.fmt(f)
    }
}

/// What is wrong at one place of a configuration file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The text is not YAML.
    #[error("not valid YAML: {reason}")]
    Syntax {
        /// The parser's reason.
        reason: String,
    },
    /// The same key twice in one object.
    #[error("the key `{key}` is written twice in the same object; remove one")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// More than one document in the file.
    #[error("the file holds several YAML documents (`---`); a configuration is one document")]
    SeveralDocuments,
    /// A document without any key.
    #[error(
        "the configuration is empty; write what is wanted (docs/config.md, `clearway schema`), or `ports: {{}}` if it is \
         meant to have no ports"
    )]
    Blank,
    /// A key that this object does not have.
    #[error("unknown key `{key}`{}; valid keys: {}", DidYouMean(meant_key(.key, .valid)), Words(.valid))]
    UnknownKey {
        /// The key.
        key: String,
        /// The keys that the object has.
        valid: &'static [&'static str],
    },
    /// A word that this key does not take.
    #[error("unknown value `{word}`{}; valid values: {}", DidYouMean(nearest(.word, .valid.iter().copied())), Words(.valid))]
    UnknownWord {
        /// The word.
        word: String,
        /// The words that the key takes.
        valid: &'static [&'static str],
    },
    /// A key that has no default is absent.
    #[error("the key `{key}` is missing; it has no default")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A value of the wrong type, or out of its range.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What may be written.
        expected: String,
        /// What is written.
        found: String,
    },
    /// A value that is not what it should be: an address, a name, a range.
    #[error("{reason}")]
    Value {
        /// Why.
        reason: String,
    },
    /// The document is well formed, but what it says cannot be.
    #[error(transparent)]
    Semantic(Problem),
}

/// A finding of [`Spec::validate`](crate::Spec::validate): the document is well formed, but what it says cannot be.
/// Its text is `path: what is wrong`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct SemanticError {
    /// The path of the value, such as `ports.up0.trunk[2]`.
    pub path: Path,
    /// What is wrong with it, and what to do.
    pub problem: Problem,
}

/// The most characters of somebody's value that an error repeats.
const QUOTED: usize = 80;

/// A value as an error repeats it: what is longer than [`QUOTED`] characters is cut. Whoever sends a megabyte must not
/// get it back, in logs neither.
pub(crate) fn brief(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// [`brief`] for a path.
pub(crate) fn brief_path(path: &std::path::Path) -> String {
    brief(&path.to_string_lossy()).into_owned()
}

/// `` `a`, `b` and `c` ``
pub(crate) struct Words<'a, T>(pub(crate) &'a [T]);

impl<T: fmt::Display> fmt::Display for Words<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, word) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(if i + 1 == self.0.len() { " and " } else { ", " })?;
            }
            write!(f, "`{word}`")?;
        }
        Ok(())
    }
}

/// `` (did you mean `x`?)``, or nothing when no word is known.
struct DidYouMean<'a>(Option<&'a str>);

impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(word) => write!(f, " (did you mean `{word}`?)"),
            None => Ok(()),
        }
    }
}

/// What other programs call our keys; of several, the first that the object has.
const SYNONYMS: [(&[&str], &[&str]); 6] = [
    (&["iface", "dev", "device", "nic", "netdev"], &["interface"]),
    (
        &["bridge", "domain", "vrf"],
        &["bridge-domains", "bridge-domain", "access"],
    ),
    (
        &["vlan", "vlans", "vid", "tag"],
        &["vlan", "trunk", "bridge-domains"],
    ),
    (&["vxlan", "tunnels"], &["vni", "vteps"]),
    (&["address", "ip", "source"], &["local", "ip"]),
    (&["cpu", "cpus", "cores"], &["core", "workers"]),
];

/// The key that somebody probably meant: one of that meaning, one that begins so, or the nearest.
fn meant_key(written: &str, valid: &'static [&'static str]) -> Option<&'static str> {
    let plain = written.to_lowercase().replace('_', "-");
    let synonyms = SYNONYMS
        .iter()
        .filter(|(words, _)| words.contains(&plain.as_str()));
    let mut same = synonyms.flat_map(|(_, keys)| keys.iter());
    let same = same.find_map(|key| valid.iter().find(|valid| *valid == key));
    let begun = || {
        valid
            .iter()
            .filter(|key| plain.len() >= 3 && key.starts_with(&plain))
    };
    // `busy` is `busy-poll`, of which `busy-poll-budget` is a part.
    let shortest = begun().min_by_key(|key| key.len());
    let begun = shortest.filter(|shortest| begun().all(|key| key.starts_with(**shortest)));
    same.or(begun)
        .copied()
        .or_else(|| nearest(written, valid.iter().copied()))
}

/// The word that somebody probably meant: at most a third of it differs, letter case and `_` for `-` aside.
pub(crate) fn nearest<'a>(written: &str, valid: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let written = plain(written);
    valid
        .map(|word| (strsim::damerau_levenshtein(&written, &plain(word)), word))
        .filter(|(distance, word)| *distance <= word.chars().count().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}
