//! Commands that run to their end.
//!
//! A command is written as one line and split at white space: nothing here needs a shell or quotes.

use std::process::{Command, Stdio};

/// What a command left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// The whole line, for messages.
    pub line: String,
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The standard output of a command that must have succeeded.
    ///
    /// # Panics
    /// If its exit code is not 0; with all that it printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(
            self.code == 0,
            "`{}` ended with {}\n--- stdout\n{}--- stderr\n{}",
            self.line,
            self.code,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// The standard output, then the standard error.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs `line` in the caller's namespace and waits for its end.
///
/// # Panics
/// If the program cannot be started.
#[track_caller]
pub fn command(line: &str) -> Output {
    let words: Vec<&str> = line.split_whitespace().collect();
    run(&words)
}

/// Runs the program `words[0]`.
#[track_caller]
pub(crate) fn run<S: AsRef<str>>(words: &[S]) -> Output {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let line = words.join(" ");
    let out = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("cannot start `{line}`: {e}; `make setup` installs what the tests need"));
    Output {
        line,
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}
