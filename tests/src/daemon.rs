//! The program under test: a `clearway` daemon in a namespace, with an API socket of its own.

use crate::cmd::{self, Output};
use crate::{Netns, Proc};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// Longer than any start takes here, also when two cores are shared with another test.
const START: Duration = Duration::from_secs(15);
const STOP: Duration = Duration::from_secs(10);

/// How a daemon is to be started.
#[derive(Debug)]
pub struct DaemonBuilder<'a> {
    ns: &'a Netns,
    config: Option<String>,
    args: Vec<String>,
    wrapper: Vec<String>,
    socket: Option<PathBuf>,
    state_dir: PathBuf,
}

impl<'a> DaemonBuilder<'a> {
    /// `clearway run --config FILE` with this text as the file.
    pub fn config(ns: &'a Netns, text: &str) -> DaemonBuilder<'a> {
        DaemonBuilder {
            ns,
            config: Some(text.to_owned()),
            args: Vec::new(),
            wrapper: Vec::new(),
            socket: None,
            state_dir: ns.state_dir().join("restore"),
        }
    }

    /// `clearway run ARGS`: the form without a file.
    pub fn args(ns: &'a Netns, args: &str) -> DaemonBuilder<'a> {
        let args = args.split_whitespace().map(str::to_owned).collect();
        DaemonBuilder {
            ns,
            config: None,
            args,
            wrapper: Vec::new(),
            socket: None,
            state_dir: ns.state_dir().join("restore"),
        }
    }

    /// Keeps its journals elsewhere than the other daemons of the namespace.
    pub fn state_dir(mut self, path: &Path) -> Self {
        self.state_dir = path.to_owned();
        self
    }

    /// Starts it through another program: `prlimit --memlock=65536`, `setpriv --reuid 65534 --clear-groups`.
    pub fn through(mut self, wrapper: &str) -> Self {
        self.wrapper = wrapper.split_whitespace().map(str::to_owned).collect();
        self
    }

    /// Leaves the API socket to the configuration, which names this path.
    pub fn socket_of_config(mut self, path: &Path) -> Self {
        self.socket = Some(path.to_owned());
        self
    }

    /// Starts it and waits until every port forwards.
    ///
    /// # Panics
    /// If it does not print `ready` within 15 seconds; with its log.
    #[track_caller]
    pub fn start(self) -> Daemon<'a> {
        let mut daemon = self.spawn();
        daemon.wait_ready();
        daemon
    }

    /// Starts it and does not wait.
    #[track_caller]
    pub fn spawn(self) -> Daemon<'a> {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("cannot make a folder for the daemon: {e}"));
        // Readable for a daemon that is started without privileges.
        cmd::command(&format!("chmod 755 {}", dir.path().display())).ok();
        let mut words = self.wrapper.clone();
        words.push(binary().display().to_string());
        let socket = self.socket.clone().unwrap_or_else(|| dir.path().join("api.sock"));
        if self.socket.is_none() {
            words.extend(["--socket".into(), socket.display().to_string()]);
        }
        let state = self.state_dir.display().to_string();
        let store = self.ns.state_dir().join("store.redb").display().to_string();
        words.extend(["run".into(), "--state-dir".into(), state, "--store".into(), store]);
        if let Some(text) = &self.config {
            let file = dir.path().join("clearway.yaml");
            write(&file, text);
            words.extend(["--config".into(), file.display().to_string()]);
        }
        words.extend(self.args.iter().cloned());
        let proc = Proc::start(self.ns, &words);
        Daemon {
            ns: self.ns,
            proc,
            socket,
            dir,
        }
    }

    /// Starts it, demands that it ends by itself with a failure, and returns what it printed.
    ///
    /// # Panics
    /// If it runs for more than 15 seconds, or ends well.
    #[track_caller]
    pub fn refused(self) -> String {
        let mut daemon = self.spawn();
        let status = daemon.proc.wait(START);
        let log = daemon.proc.log().join("\n");
        assert!(
            !status.success(),
            "the daemon must refuse to start; it printed:\n{log}"
        );
        assert!(!log.contains("panicked"), "a refusal, not a panic:\n{log}");
        log
    }
}

/// A running daemon; killed on drop.
#[derive(Debug)]
pub struct Daemon<'a> {
    ns: &'a Netns,
    proc: Proc,
    socket: PathBuf,
    dir: tempfile::TempDir,
}

impl<'a> Daemon<'a> {
    /// Starts one from a configuration text and waits until every port forwards.
    #[track_caller]
    pub fn start(ns: &'a Netns, config: &str) -> Daemon<'a> {
        DaemonBuilder::config(ns, config).start()
    }

    /// Waits for the line `ready`.
    ///
    /// # Panics
    /// If there is none within 15 seconds; with its log.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        self.proc.wait_line("ready", START, |l| l == "ready");
    }

    /// The namespace it runs in.
    pub fn ns(&self) -> &'a Netns {
        self.ns
    }

    /// Its process.
    pub fn proc(&mut self) -> &mut Proc {
        &mut self.proc
    }

    /// Its API socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs `clearway --socket … ARGS`, whatever comes of it.
    #[track_caller]
    pub fn try_cli(&self, args: &str) -> Output {
        let mut words = self.ns.prefix();
        words.extend([
            binary().display().to_string(),
            "--socket".into(),
            self.socket.display().to_string(),
        ]);
        words.extend(args.split_whitespace().map(str::to_owned));
        cmd::run(&words)
    }

    /// Runs `clearway --socket … ARGS` and returns its standard output.
    ///
    /// # Panics
    /// If it fails; with the daemon's log.
    #[track_caller]
    pub fn cli(&self, args: &str) -> String {
        let out = self.try_cli(args);
        assert!(
            out.code == 0,
            "`{}` ended with {}: {}\nthe daemon's log:\n{}",
            out.line,
            out.code,
            out.text(),
            self.proc.tail()
        );
        out.stdout
    }

    /// `clearway get WHAT -o json`.
    ///
    /// # Panics
    /// If it fails or is not JSON.
    #[track_caller]
    pub fn get(&self, what: &str) -> Value {
        let text = self.cli(&format!("get {what} -o json"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("get {what}: {e}: {text}"))
    }

    /// Writes `text` to a file and runs `clearway apply -f` on it, whatever comes of it.
    #[track_caller]
    pub fn try_apply(&self, text: &str, args: &str) -> Output {
        let file = self.dir.path().join("apply.yaml");
        write(&file, text);
        self.try_cli(&format!("apply -f {} {args}", file.display()))
    }

    /// Applies a configuration while it runs.
    ///
    /// # Panics
    /// If it is refused; with the daemon's log.
    #[track_caller]
    pub fn apply(&self, text: &str) -> String {
        let out = self.try_apply(text, "");
        assert!(
            out.code == 0,
            "apply was refused: {}\n{text}\nthe daemon's log:\n{}",
            out.text(),
            self.proc.tail()
        );
        out.stdout
    }

    /// Writes `text` to its configuration file and applies that, as `systemctl reload` does.
    ///
    /// # Panics
    /// If it is refused; with the daemon's log.
    #[track_caller]
    pub fn reload(&self, text: &str) -> String {
        let file = self.dir.path().join("clearway.yaml");
        write(&file, text);
        self.cli(&format!("apply -f {}", file.display()))
    }

    /// One request to the API, without the command line: status and body.
    ///
    /// # Panics
    /// If there is no answer.
    #[track_caller]
    pub fn api(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let answer = self.http(method, path, body);
        answer.unwrap_or_else(|e| panic!("{method} {path} at {}: {e}", self.socket.display()))
    }

    fn http(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // HTTP/1.0: the body ends with the connection, and is not chunked (RFC 9112 §6.1).
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: clearway\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Ok((
            status,
            answer
                .split_once("\r\n\r\n")
                .map(|(_, b)| b.to_owned())
                .unwrap_or_default(),
        ))
    }

    /// Kills it as a crash would (SIGKILL): nothing is given back.
    pub fn kill(&mut self) {
        self.proc.kill();
    }

    /// Stops it (SIGTERM) and waits.
    ///
    /// # Panics
    /// If it has not ended after ten seconds.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.proc.signal(Signal::SIGTERM);
        self.proc.wait(STOP)
    }

    /// Stops it and demands a clean end.
    ///
    /// # Panics
    /// If its exit code is not 0.
    #[track_caller]
    pub fn stop(mut self) {
        let status = self.terminate();
        assert!(
            status.success(),
            "the daemon ended with {status}; its log:\n{}",
            self.proc.tail()
        );
    }
}

#[track_caller]
fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
}

/// Runs `clearway ARGS` with no daemon.
#[track_caller]
pub fn clearway(args: &str) -> Output {
    let mut words = vec![binary().display().to_string()];
    words.extend(args.split_whitespace().map(str::to_owned));
    cmd::run(&words)
}

/// The build folder that this test comes from: `TARGET/debug/deps/NAME-HASH` ran.
pub(crate) fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_else(|e| panic!("no path of this test: {e}"));
    let deps = exe.ancestors().find(|p| p.ends_with("deps")).unwrap_or(&exe);
    deps.ancestors().nth(2).unwrap_or(deps).to_owned()
}

/// The program under test: `CLEARWAY_BIN`, or what was built beside this test.
pub fn binary() -> PathBuf {
    built("clearway", "CLEARWAY_BIN")
}

/// One of the project's programs: where `variable` says, or what was built beside this test.
pub(crate) fn built(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let exe = std::env::current_exe().unwrap_or_else(|e| panic!("no path of this test: {e}"));
    let profile = exe
        .ancestors()
        .find(|p| p.ends_with("deps"))
        .and_then(Path::parent)
        .unwrap_or(&exe);
    let path = profile.join(name);
    assert!(
        path.exists(),
        "{} is not built; `make test` does it: cargo build --bin {name}",
        path.display()
    );
    path
}
