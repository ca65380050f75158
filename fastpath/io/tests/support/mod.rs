//! Network namespaces of their own for tests, and packet sockets as the other end of a veth.

// Not every test file uses all of it.
#![allow(dead_code, unreachable_pub)]

use clearway_io::{Frame, PoolSet, RegionId};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

/// EtherType for experiments (IEEE Std 802 local experimental 1): no kernel code answers it.
pub const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// How long to wait for what must come. A machine under load may leave softirqs waiting for a second.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Moves the calling thread into a fresh network namespace that goes with the thread. False, with a note, if
/// this user may not: only CI insists.
#[must_use]
pub fn fresh_netns() -> bool {
    // SAFETY: no pointers are involved; only this thread is affected.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
        // No router solicitations and the like among the frames that tests count.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("a sysctl of our own");
        return true;
    }
    let why = io::Error::last_os_error();
    assert!(std::env::var_os("CI").is_none(), "no network namespace: {why}");
    eprintln!("skipped: needs root to make a network namespace ({why})");
    false
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

/// What `ip link show` says about an interface, in one line.
pub fn link(interface: &str) -> String {
    let output = Command::new("ip")
        .args(["-o", "link", "show", interface])
        .output()
        .expect("iproute2 is installed");
    String::from_utf8(output.stdout).expect("text")
}

/// A veth pair with one queue, both ends up.
pub fn veth(far: &str, near: &str, mtu: u32) {
    ip(&format!(
        "link add {far} numtxqueues 1 numrxqueues 1 type veth peer name {near} numtxqueues 1 numrxqueues 1"
    ));
    up(&[far, near], mtu);
}

/// Sets interfaces up and waits until they are.
pub fn up(interfaces: &[&str], mtu: u32) {
    for interface in interfaces {
        ip(&format!("link set {interface} mtu {mtu} up"));
    }
    // Until the kernel's link watch has run, a queueing discipline silently drops what is sent.
    for interface in interfaces {
        // A TAP does not say what state it is in.
        let is_up = |link: String| {
            link.contains("state UP") || link.contains("LOWER_UP> mtu") && link.contains("state UNKNOWN")
        };
        within(PATIENCE, || is_up(link(interface)).then_some(())).expect("the link comes up");
    }
}

/// A frame for experiments: broadcast, numbered, `len` bytes in all.
pub fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| i as u8 ^ number as u8).collect();
    bytes[..6].fill(0xff);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    bytes[12..14].copy_from_slice(&ETHERTYPE);
    bytes[14..18].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// A held frame: `head` bytes in a chunk, the rest in two parts of memory that is nobody's.
pub fn held(pools: &mut PoolSet, region: RegionId, bytes: &[u8], head: usize) -> Frame {
    let (head, rest) = bytes.split_at(head);
    let rest: &'static [u8] = Box::leak(rest.into());
    let (first, second) = rest.split_at(rest.len() / 3);
    let mut frame = pools.frame_from(region, head).expect("a chunk");
    assert!(frame.hold_static(&[first, second]), "a head of at most 256 bytes");
    frame
}

/// A packet socket (packet(7)) on an interface.
pub struct Wire(OwnedFd);

impl Wire {
    pub fn open(interface: &str) -> Self {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers are involved.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                0,
            )
        };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: socket returned a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let set = |level, name, value: libc::c_int| {
            let value: *const libc::c_int = &raw const value;
            // SAFETY: value points to an int that lives through the call.
            let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.cast(), 4) };
            assert_eq!(result, 0, "socket option {name}: {}", io::Error::last_os_error());
        };
        set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1);
        set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32 << 20);
        // SAFETY: plain integers: all zeroes is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = clearway_io::Interface::find(interface).expect("interface").index as i32;
        let target: *const libc::sockaddr_ll = &raw const address;
        // SAFETY: target points to an address of the given length that lives through the call.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                target.cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        assert_eq!(bound, 0, "bind: {}", io::Error::last_os_error());
        Self(fd)
    }

    pub fn send(&self, bytes: &[u8]) {
        // SAFETY: the buffer lives through the call.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(sent, bytes.len() as isize, "send: {}", io::Error::last_os_error());
    }

    pub fn try_recv(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 65536];
        // SAFETY: the buffer lives through the call.
        let n = unsafe { libc::recv(self.0.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        bytes.truncate(usize::try_from(n).ok()?);
        Some(bytes)
    }

    /// The next frame, waited for.
    pub fn recv(&self) -> Option<Vec<u8>> {
        within(PATIENCE, || self.try_recv())
    }
}

/// Asks until there is an answer, at most for `time`.
pub fn within<T>(time: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        match ask() {
            Some(answer) => return Some(answer),
            None if started.elapsed() > time => return None,
            None => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

/// Whether a descriptor becomes readable within `time`.
pub fn readable(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, which lives through the call.
    let n = unsafe { libc::poll(&raw mut poll, 1, time.as_millis() as i32) };
    n == 1 && poll.revents & libc::POLLIN != 0
}
