//! The namespaces of the demonstration, the daemon in them, and their end.

use std::fs::{DirBuilder, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::story::Story;
use super::traffic::Family;
use super::{DemoError, TICK};

/// Longer than a start takes on a slow machine.
const START: Duration = Duration::from_secs(15);
const STOP: Duration = Duration::from_secs(5);
/// What all names of the demonstration's namespaces begin with; the process id follows.
const PREFIX: &str = "clearway-demo-";
/// The remote host's address outside of the tunnel.
pub(super) const UNDERLAY_REMOTE: &str = "192.0.2.2";

/// A namespace of the demonstration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Host,
    PodA,
    PodB,
    Remote,
}

impl Place {
    const ALL: [Self; 4] = [Self::Host, Self::PodA, Self::PodB, Self::Remote];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::PodA => "pod-a",
            Self::PodB => "pod-b",
            Self::Remote => "remote",
        }
    }
}

/// A station's address in the bridge domain. The host has none there.
pub(super) fn address(place: Place, family: Family) -> String {
    let number = match place {
        Place::Host | Place::PodA => 1,
        Place::PodB => 2,
        Place::Remote => 3,
    };
    match family {
        Family::V4 => format!("10.42.0.{number}"),
        Family::V6 => format!("fd42::{number}"),
    }
}

/// Everything that the demonstration makes.
pub(super) struct Lab<'a> {
    story: &'a Story,
    id: u32,
    folder: PathBuf,
    socket: PathBuf,
    daemon: Option<Child>,
}

impl<'a> Lab<'a> {
    /// Makes nothing but a folder, and removes what killed demonstrations left.
    pub(super) fn new(story: &'a Story) -> Result<Self, DemoError> {
        sweep();
        let id = std::process::id();
        let folder = std::env::temp_dir().join(format!("{PREFIX}{id}"));
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(file("making the folder", &folder))?;
        Ok(Self {
            story,
            id,
            socket: folder.join("clearway.sock"),
            folder,
            daemon: None,
        })
    }

    /// Where the daemon listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A namespace's name.
    pub(super) fn netns(&self, place: Place) -> String {
        format!("{PREFIX}{}-{}", self.id, place.name())
    }

    /// Makes the namespaces, their interfaces and addresses.
    pub(super) fn build(&self) -> Result<(), DemoError> {
        for place in Place::ALL {
            self.story.go_on()?;
            ip(&["netns", "add", &self.netns(place)])?;
            self.ip(place, "link set lo up")?;
        }
        for (pod, port) in [
            (Place::PodA, "pod-a"),
            (Place::PodB, "pod-b"),
            (Place::Remote, "uplink"),
        ] {
            let peer = self.netns(pod);
            self.ip(
                Place::Host,
                &format!("link add {port} type veth peer name eth0 netns {peer}"),
            )?;
            self.ip(Place::Host, &format!("link set {port} up"))?;
            self.ip(pod, "link set eth0 up")?;
        }
        self.ip(Place::Host, "address add 192.0.2.1/24 dev uplink")?;
        self.ip(
            Place::Remote,
            &format!("address add {UNDERLAY_REMOTE}/24 dev eth0"),
        )?;
        self.ip(
            Place::Remote,
            "link add vxlan0 mtu 1450 type vxlan id 42 dstport 4789 local 192.0.2.2 remote 192.0.2.1 dev eth0",
        )?;
        self.ip(Place::Remote, "link set vxlan0 up")?;
        for (place, device) in [
            (Place::PodA, "eth0"),
            (Place::PodB, "eth0"),
            (Place::Remote, "vxlan0"),
        ] {
            // What VXLAN leaves of 1500 bytes: every station of a layer 2 segment needs the same MTU.
            self.ip(place, &format!("link set {device} mtu 1450"))?;
            self.ip(
                place,
                &format!("address add {}/24 dev {device}", address(place, Family::V4)),
            )?;
            // Nobody else is there: no need to wait for duplicate address detection.
            self.ip(
                place,
                &format!("address add {}/64 dev {device} nodad", address(place, Family::V6)),
            )?;
        }
        Ok(())
    }

    /// `ip -n NAMESPACE …`
    fn ip(&self, place: Place, arguments: &str) -> Result<(), DemoError> {
        let netns = self.netns(place);
        let mut words = vec!["-n", &netns];
        words.extend(arguments.split_whitespace());
        ip(&words)
    }

    /// A program in a namespace, to be run.
    pub(super) fn command(&self, place: Place, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns(place)]).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// Starts the daemon with this configuration and waits for its `ready`.
    pub(super) fn start_daemon(&mut self, config: &str) -> Result<(), DemoError> {
        let path = self.folder.join("clearway.yaml");
        std::fs::write(&path, config).map_err(file("writing", &path))?;
        let log = File::create(self.log_path()).map_err(file("making the log", &self.log_path()))?;
        let failed = |source| DemoError::Start {
            command: "clearway run".into(),
            source,
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = self
            .command(Place::Host, &[])
            .arg(program)
            .arg("--socket")
            .arg(&self.socket)
            .args(["run", "--config"])
            .arg(&path)
            .arg("--state-dir")
            .arg(self.folder.join("state"))
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let lines = child.stdout.take().map(BufReader::new);
        self.daemon = Some(child);
        let (tell, told) = mpsc::channel();
        // Ends with the daemon's output.
        std::thread::spawn(move || {
            for line in lines.into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
                if line == "ready" && tell.send(()).is_err() {
                    return;
                }
            }
        });
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            self.story.go_on()?;
            match told.recv_timeout(TICK) {
                Ok(()) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(self.daemon_error("ended")),
            }
        }
        Err(self.daemon_error("was not ready after 15 s"))
    }

    fn daemon_error(&self, what: &str) -> DemoError {
        DemoError::Daemon {
            what: what.into(),
            log: self.log(),
        }
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("clearway.log")
    }

    /// The last lines of the daemon's log.
    pub(super) fn log(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Stops the daemon and removes everything. Can be called again.
    pub(super) fn tear_down(&mut self) -> Result<(), DemoError> {
        let stopped = match self.daemon.take() {
            Some(child) => stop(child),
            None => Ok(()),
        };
        let log = self.log();
        for place in Place::ALL {
            remove_netns(&self.netns(place));
        }
        let _ = std::fs::remove_dir_all(&self.folder);
        stopped.map_err(|what| DemoError::Daemon { what, log })
    }

    /// The story, for those who wait for something in the lab.
    pub(super) fn story(&self) -> &'a Story {
        self.story
    }
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        let _ = self.tear_down();
    }
}

/// As systemd would: SIGTERM, and some patience.
fn stop(mut child: Child) -> Result<(), String> {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let deadline = Instant::now() + STOP;
    while Instant::now() < deadline {
        match child.try_wait() {
            // Ctrl-C reaches the whole process group: it may have ended by that before it could handle it.
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("did not end well ({status})")),
            Ok(None) => std::thread::sleep(TICK),
            Err(error) => return Err(format!("could not be waited for ({error})")),
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    Err("did not end within 5 s of SIGTERM and was killed".into())
}

/// Runs `ip`.
fn ip(words: &[&str]) -> Result<(), DemoError> {
    let command = format!("ip {}", words.join(" "));
    let output = Command::new("ip")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| DemoError::Start {
            command: command.clone(),
            source,
        })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(DemoError::Command {
            command,
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

/// Ends what still runs in a namespace, then the namespace and with it its interfaces.
fn remove_netns(name: &str) {
    if !Path::new("/run/netns").join(name).exists() {
        return;
    }
    if let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() {
        for pid in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
    let _ = ip(&["netns", "del", name]);
}

/// Removes what demonstrations left whose process is gone.
fn sweep() {
    let gone = |name: &str| {
        let id = name
            .strip_prefix(PREFIX)?
            .split('-')
            .next()?
            .parse::<u32>()
            .ok()?;
        // A zombie is gone too: it has an entry in /proc, but no program any more, proc(5).
        let program = Path::new("/proc").join(id.to_string()).join("exe");
        std::fs::read_link(program).is_err().then_some(())
    };
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| gone(name).is_some()).collect()
    };
    for name in names(Path::new("/run/netns")) {
        remove_netns(&name);
    }
    let temporary = std::env::temp_dir();
    for name in names(&temporary) {
        let _ = std::fs::remove_dir_all(temporary.join(name));
    }
}

fn file(attempt: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DemoError {
    let path = path.to_owned();
    move |source| DemoError::File {
        attempt,
        path,
        source,
    }
}
