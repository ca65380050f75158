//! Processes that run beside a test: their log is kept, and they never outlive it.

use crate::Netns;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A background process in a group of its own.
///
/// On drop the group is killed; if the test is failing, the log is printed first. Should the test's process die
/// without unwinding, the kernel kills the process (PR_SET_PDEATHSIG); that signal follows the *thread* that
/// called [`Proc::start`], so that thread must live as long.
#[derive(Debug)]
pub struct Proc {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    log: Arc<Mutex<Vec<String>>>,
    status: Option<ExitStatus>,
}

impl Proc {
    /// Starts `words` inside `ns`.
    ///
    /// # Panics
    /// If the program cannot be started.
    #[track_caller]
    pub fn start<S: AsRef<str>>(ns: &Netns, words: &[S]) -> Proc {
        Proc::start_with(ns, words, &[])
    }

    /// The same for a program that reads commands: see [`Proc::say`].
    #[track_caller]
    pub fn start_fed<S: AsRef<str>>(ns: &Netns, words: &[S]) -> Proc {
        Proc::spawn(ns, words, &[], Stdio::piped())
    }

    /// The same, with variables added to the environment.
    #[track_caller]
    pub fn start_with<S: AsRef<str>>(ns: &Netns, words: &[S], env: &[(&str, &str)]) -> Proc {
        Proc::spawn(ns, words, env, Stdio::null())
    }

    #[track_caller]
    fn spawn<S: AsRef<str>>(ns: &Netns, words: &[S], env: &[(&str, &str)], input: Stdio) -> Proc {
        let mut all = ns.prefix();
        all.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(str::to_owned));
        all.extend(words.iter().map(|w| w.as_ref().to_owned()));
        let name = words.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ");
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]).envs(env.iter().copied());
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = std::os::unix::process::CommandExt::process_group(&mut command, 0)
            .spawn()
            .unwrap_or_else(|e| {
                panic!("cannot start `{name}`: {e}; `make setup` installs what the tests need")
            });
        let log = Arc::new(Mutex::new(Vec::new()));
        keep(child.stdout.take(), &log);
        keep(child.stderr.take(), &log);
        Proc {
            name,
            input: child.stdin.take(),
            child,
            log,
            status: None,
        }
    }

    /// Its process id (the program's own: `ip netns exec` and setpriv exec it).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    ///
    /// # Panics
    /// If it reads none, or has ended; with its log.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        let said = self.input.as_mut().map(|input| writeln!(input, "{line}"));
        assert!(
            matches!(said, Some(Ok(()))),
            "`{}` does not take `{line}` ({said:?}); it printed:\n{}",
            self.name,
            self.tail()
        );
    }

    /// All lines it has printed so far, on both streams.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has printed a line for which `matches` holds, and returns that line.
    ///
    /// # Panics
    /// When there is none within `limit`, or it ended without; with its log.
    #[track_caller]
    pub fn wait_line(&mut self, what: &str, limit: Duration, matches: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + limit;
        loop {
            let over = self.ended().is_some() || Instant::now() > end;
            if let Some(line) = self.log().into_iter().find(|l| matches(l)) {
                return line;
            }
            assert!(
                !over,
                "`{}` did not print {what} ({:?}); it printed:\n{}",
                self.name,
                self.status,
                self.tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap_or(None);
            if self.status.is_some() {
                // Its last lines may still be on their way through the reading threads.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        self.status
    }

    /// Sends a signal to the process alone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal)
            .unwrap_or_else(|e| panic!("cannot send {signal} to `{}`: {e}", self.name));
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it has not ended within `limit`; with its log.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(
                Instant::now() < end,
                "`{}` did not end within {limit:?}; it printed:\n{}",
                self.name,
                self.tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the group at once (SIGKILL) and waits.
    pub fn kill(&mut self) {
        let _ = killpg(Pid::from_raw(self.pid() as i32), Signal::SIGKILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let log = self.log();
        log[log.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of `{}`\n{}\n---", self.name, self.tail());
        }
        self.kill();
    }
}

/// Reads a stream to its end on a thread, so that the pipe never fills.
fn keep(stream: Option<impl Read + Send + 'static>, log: &Arc<Mutex<Vec<String>>>) {
    let Some(stream) = stream else { return };
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}
