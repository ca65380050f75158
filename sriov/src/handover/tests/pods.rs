//! Processes in cgroups as a kubelet makes them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::*;

/// The variable that makes `client_process` one.
const ROLE: &str = "CLEARWAY_HANDOVER_CLIENT";

/// What a started process does: `connect PATH` and requests, or `serve PATH` and `who`; each answered with a line.
#[test]
#[ignore = "is started by other tests"]
fn client_process() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let (mut client, mut server) = (None, None);
    for line in std::io::stdin().lines() {
        let line = line.expect("a line");
        let answer = if let Some(path) = line.strip_prefix("connect ") {
            client = Some(Client::connect(Path::new(path)));
            "connected".to_owned()
        } else if let Some(path) = line.strip_prefix("serve ") {
            server = Some(serve(Path::new(path)));
            "serving".to_owned()
        } else if line == "who" {
            let socket = rustix::net::accept(server.as_ref().expect("serving")).expect("a client");
            format!("{:?}", Peer::of(&socket))
        } else {
            let client = client.as_ref().expect("connected");
            client.send(&line, &[]);
            let (text, descriptors) = client.answer().expect("an answer");
            let inodes = descriptors
                .into_iter()
                .map(|map| File::from(map).metadata().expect("its data").ino().to_string());
            std::iter::once(text).chain(inodes).collect::<Vec<_>>().join(" ")
        };
        println!("\nanswer {answer}");
    }
}

/// A socket that is listened on, and no more.
fn serve(path: &Path) -> OwnedFd {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("a socket");
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).expect("an address")).expect("its path");
    rustix::net::listen(&socket, 1).expect("a server");
    socket
}

/// Another process.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start() -> Self {
        Self::start_as(Command::new(std::env::current_exe().expect("this program")))
    }

    fn start_as(mut command: Command) -> Self {
        let mut child = command
            .args([
                "handover::tests::pods::client_process",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, input, output }
    }

    fn ask(&mut self, line: &str) -> String {
        let input = self.input.as_mut().expect("its input");
        writeln!(input, "{line}").expect("a reader");
        loop {
            let mut text = String::new();
            assert_ne!(self.output.read_line(&mut text).expect("text"), 0, "it ended");
            if let Some(answer) = text.trim_end().strip_prefix("answer ") {
                return answer.to_owned();
            }
        }
    }

    fn connect(&mut self, path: &Path) {
        assert_eq!(self.ask(&format!("connect {}", path.display())), "connected");
    }

    fn end(&mut self) {
        drop(self.input.take());
        self.child.wait().expect("its end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A container's cgroup below the root of the first hierarchy that lets us make one.
struct Cgroup {
    folders: Vec<PathBuf>,
}

impl Cgroup {
    fn make(path: &str) -> Option<Self> {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"];
        let root = roots
            .map(Path::new)
            .into_iter()
            .find(|root| root.join("cgroup.procs").exists());
        let Some(root) = root else {
            missing("a cgroup hierarchy");
            return None;
        };
        let mut made = Self { folders: Vec::new() };
        let mut folder = root.to_owned();
        for part in path.split('/') {
            folder.push(part);
            match std::fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    missing(&format!("the right to make a cgroup ({error})"));
                    return None;
                }
                _ => made.folders.push(folder.clone()),
            }
        }
        Some(made)
    }

    fn put(&self, process: &Process) {
        let file = self.folders.last().expect("folders").join("cgroup.procs");
        std::fs::write(file, process.child.id().to_string()).expect("a process in its cgroup");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in self.folders.iter().rev() {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// A pod's uid that no other run of the tests uses.
fn own(number: u32) -> String {
    format!("{:08x}-{number:04x}-4000-8000-00000000000c", std::process::id())
}

const ID: &str = "3b9f1c0d5e7a2468ace013579bdf02468ace13579bdf02468ace13579bdf0246";

#[test]
fn two_pods_at_one_socket_get_what_they_hold_and_no_more() {
    let (a, b) = (own(1), own(2));
    let slice = format!(
        "kubepods.slice/kubepods-pod{}.slice/cri-containerd-{ID}.scope",
        a.replace('-', "_")
    );
    let folder = format!("kubepods/burstable/pod{b}/{ID}");
    let (Some(in_a), Some(in_b)) = (Cgroup::make(&slice), Cgroup::make(&folder)) else {
        return;
    };
    let site = tempfile::tempdir().expect("a folder");
    let devices = Devices::new(&[(&a, "net1"), (&b, "net2")]);
    let authorize = Arc::clone(&devices) as Arc<dyn Authorize>;
    let handover = Handover::listen(&socket_in(&site), authorize, Limits::default()).expect("a socket");

    let (mut of_a, mut of_b, mut host) = (Process::start(), Process::start(), Process::start());
    in_a.put(&of_a);
    in_b.put(&of_b);
    for process in [&mut of_a, &mut of_b, &mut host] {
        process.connect(handover.path());
    }
    // Each calls itself the other.
    assert_eq!(of_a.ask(&format!("/connect,{b}")), "/host_ok");
    assert_eq!(of_b.ask(&format!("/connect,{a}")), "/host_ok");
    assert_eq!(host.ask(&format!("/connect,{a}")), "/host_nak");
    assert_eq!(of_a.ask("/xsk_map_fd,net2"), "/fd_nak");
    assert_eq!(of_b.ask("/xsk_map_fd,net1"), "/fd_nak");
    assert_eq!(host.ask("/xsk_map_fd,net1"), "/fd_nak");
    let given = |uid: &str, device| format!("/fd_ack {}", devices.inode(uid, device));
    assert_eq!(of_a.ask("/xsk_map_fd,net1"), given(&a, "net1"));
    assert_eq!(of_b.ask("/xsk_map_fd,net2"), given(&b, "net2"));

    // The container starts anew: another process in the same pod.
    of_a.end();
    let mut again = Process::start();
    in_a.put(&again);
    again.connect(handover.path());
    assert_eq!(again.ask("/connect,pod-a"), "/host_ok");
    assert_eq!(again.ask("/xsk_map_fd,net1"), given(&a, "net1"));
    let counts = Counts {
        accepted: 4,
        unknown: 1,
        handed: 3,
        refused: 4,
        ..Counts::default()
    };
    counts_become(&handover, counts);
    for mut process in [again, of_b, host] {
        process.end();
    }
}

#[test]
fn a_client_that_ended_is_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = socket_in(&folder);
    let listener = serve(&path);
    let mut process = Process::start();
    process.connect(&path);
    let socket = rustix::net::accept(&listener).expect("a client");
    let pid = process.child.id() as i32;
    match Peer::of(&socket) {
        Ok(peer) => assert_eq!(peer.pid, pid),
        Err(PeerError::Workload { pid: found, .. }) => assert_eq!(found, pid),
        Err(error) => panic!("{error}"),
    }
    let is_gone = || matches!(Peer::of(&socket), Err(PeerError::Gone { pid: gone }) if gone == pid);
    assert!(!is_gone());
    // While nobody has taken note of its end, its number and its file in /proc are there.
    drop(process.input.take());
    let mut waited = 0;
    while !is_gone() {
        assert!(waited < 1000, "it is known still");
        waited += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Path::new(&format!("/proc/{pid}/cgroup")).exists());
    process.end();
    assert!(is_gone());
}

#[test]
fn a_server_in_another_pid_namespace_says_so() {
    let mut unshare = Command::new("unshare");
    let may = Command::new("unshare").args(["--pid", "--fork", "true"]).output();
    if !may.is_ok_and(|may| may.status.success()) {
        missing("unshare --pid");
        return;
    }
    unshare
        .args(["--pid", "--fork"])
        .arg(std::env::current_exe().expect("this program"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = socket_in(&folder);
    let mut server = Process::start_as(unshare);
    assert_eq!(server.ask(&format!("serve {}", path.display())), "serving");
    let _client = Client::connect(&path);
    assert_eq!(server.ask("who"), "Err(OtherPidNamespace)");
    assert!(PeerError::OtherPidNamespace.to_string().contains("hostPID: true"));
}
