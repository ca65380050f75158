//! Lines for whoever looks after the node: on stderr, or in `logFile`; stdout is the protocol's.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

/// How much is written. The words are those of sriov-cni and userspace-cni.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing that this program writes; it is there for networks that say so.
    Panic,
    /// Calls that failed.
    Error,
    /// What went on in another way than asked.
    #[default]
    Warning,
    /// Each call and what came of it.
    Info,
    /// Each step.
    Debug,
    /// The same.
    Verbose,
}

impl Level {
    /// All words.
    pub const WORDS: [(&'static str, Self); 6] = [
        ("panic", Self::Panic),
        ("error", Self::Error),
        ("warning", Self::Warning),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("verbose", Self::Verbose),
    ];

    /// The level of this word, in capitals or not.
    pub fn parse(word: &str) -> Option<Self> {
        let found = Self::WORDS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(word));
        found.map(|(_, level)| *level)
    }
}

/// Where lines go. Lines of several processes in one file stay whole: each is one write at the file's end.
#[derive(Debug, Default)]
pub struct Log {
    level: Level,
    file: Option<File>,
    about: String,
}

impl Log {
    /// A log of `level` in `file`, or on stderr. `about` begins each line. A file that cannot be opened must not keep a
    /// pod from its network: then lines go to stderr, and the first one says so.
    pub fn open(level: Level, file: Option<&Path>, about: String) -> Self {
        let mut log = Self {
            level,
            file: None,
            about,
        };
        let Some(path) = file else { return log };
        match OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(path)
        {
            Ok(file) => log.file = Some(file),
            Err(error) => log.warning(&format!(
                "logFile {path:?} cannot be opened ({error}): stderr it is"
            )),
        }
        log
    }

    /// A call that failed.
    pub fn error(&self, text: &str) {
        self.line(Level::Error, "error", text);
    }

    /// Something else than what was asked for.
    pub fn warning(&self, text: &str) {
        self.line(Level::Warning, "warning", text);
    }

    /// A call, and what came of it.
    pub fn info(&self, text: &str) {
        self.line(Level::Info, "info", text);
    }

    /// A step of a call.
    pub fn debug(&self, text: &str) {
        self.line(Level::Debug, "debug", text);
    }

    fn line(&self, level: Level, word: &str, text: &str) {
        if level > self.level {
            return;
        }
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let line = format!("{time} {word} clearway-cni {}: {text}\n", self.about);
        // A log that cannot be written is no reason to fail.
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => io::stderr().write_all(line.as_bytes()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_gets_what_the_level_lets_through() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::open(Level::Info, Some(&path), "ADD c/net1".into());
        log.info("one");
        log.debug("two");
        log.error("three");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].ends_with(" info clearway-cni ADD c/net1: one"), "{text}");
    }

    #[test]
    fn words_are_known() {
        assert_eq!(Level::parse("warning"), Some(Level::Warning));
        // As in the check of the whole configuration.
        assert_eq!(Level::parse("Debug"), Some(Level::Debug));
        assert_eq!(Level::parse("loud"), None);
    }
}
