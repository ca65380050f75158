//! A daemon, guests that talk, and what a hostile front-end is made of.

use clearway_tests::{Daemon, Netns, wait_for};
use clearway_virtio_mock::{FrontEnd, Guest, GuestOptions, Shape, feature, protocol};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a front-end does.
pub struct Behaviour {
    /// Its name.
    pub name: &'static str,
    /// In words.
    pub does: &'static str,
    /// What becomes of the connection.
    pub expect: Expect,
    /// Does it.
    pub act: fn(&mut Hostile),
}

/// What becomes of a connection.
#[derive(Clone, Copy)]
pub enum Expect {
    /// The daemon ends it, with these words in the reason.
    Ends(&'static str),
    /// It goes on.
    GoesOn,
    /// The one or the other.
    Either,
}

impl std::fmt::Display for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ends(why) => write!(f, "ends: {why}"),
            Self::GoesOn => f.write_str("goes on"),
            Self::Either => f.write_str("ends or goes on"),
        }
    }
}

/// Its ports.
pub const HOSTILE: [&str; 4] = ["h0", "h1", "h2", "h3"];
/// A port of its own, with a bound of so many MiB for what a guest shares.
pub const BOUNDED: (&str, u32) = ("bounded", 8);
/// Ports of others.
const OTHERS: [&str; 3] = ["sink", "w0", "w1"];

/// Longer than anything takes on a machine that others use.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Protocol features that a front-end asks for, if nothing else is said.
pub const PROTOCOL: u64 =
    protocol::MQ | protocol::REPLY_ACK | protocol::MTU | protocol::CONFIGURE_MEM_SLOTS | protocol::STATUS;

pub struct Scene {
    ns: Netns,
    dir: tempfile::TempDir,
}

/// A front-end that has just connected, and the guest behind it.
pub struct Hostile {
    pub front: FrontEnd,
    pub guest: Guest,
    pub path: PathBuf,
}

impl Hostile {
    /// Starts everything, as a good front-end does.
    pub fn start(&mut self) {
        self.start_with(PROTOCOL);
    }

    pub fn start_with(&mut self, protocol: u64) {
        self.front.start(&self.guest, protocol).expect("a good start");
    }
}

/// A guest whose front-end did everything right.
pub struct Running {
    pub guest: Guest,
    /// Ends the connection when it goes.
    _front: FrontEnd,
    pub mac: [u8; 6],
}

pub fn options(packed: bool) -> GuestOptions {
    let format = if packed { feature::RING_PACKED } else { 0 };
    GuestOptions {
        features: feature::VERSION_1
            | feature::MRG_RXBUF
            | feature::INDIRECT_DESC
            | feature::EVENT_IDX
            | format,
        tx_size: 64,
        rx_size: 64,
        ram: vec![4 << 20, 1 << 20],
        ..GuestOptions::default()
    }
}

fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 9, number]
}

impl Running {
    /// A frame of an EtherType of its own, with a number.
    fn frame(&self, to: [u8; 6], number: u32) -> Vec<u8> {
        let mut frame = [&to[..], &self.mac, &[0x88, 0xb5], &number.to_be_bytes()].concat();
        frame.resize(60 + number as usize % 1200, number as u8);
        frame
    }

    /// Sends frames with these numbers.
    pub fn send(&mut self, to: [u8; 6], numbers: std::ops::Range<u32>) {
        for number in numbers {
            let frame = self.frame(to, number);
            let end = Instant::now() + PATIENCE;
            while !self.guest.tx().send(Default::default(), &frame, Shape::default()) {
                self.guest.tx().flush();
                self.guest.tx().reap();
                assert!(Instant::now() < end, "the device takes nothing");
            }
        }
        self.guest.tx().flush();
        self.guest.tx().reap();
    }

    fn refill(&mut self) {
        while self.guest.rx().post(2048, Shape::default()) {}
        self.guest.rx().flush();
    }

    /// Frames of one sender for us alone, by number, until there are so many.
    pub fn receive(&mut self, from: [u8; 6], n: usize) -> Vec<u32> {
        let mut got = Vec::new();
        let end = Instant::now() + PATIENCE;
        while got.len() < n && Instant::now() < end {
            while let Some(one) = self.guest.rx().receive() {
                let frame = one.frame;
                if frame.len() < 18 || frame[..6] != self.mac || frame[6..12] != from {
                    continue;
                }
                let number = u32::from_be_bytes([frame[14], frame[15], frame[16], frame[17]]);
                let whole = frame.len() == 60 + number as usize % 1200;
                assert!(
                    whole && frame[18..].iter().all(|b| *b == number as u8),
                    "whole frames"
                );
                got.push(number);
            }
            self.refill();
        }
        got
    }
}

impl Scene {
    pub fn new() -> Self {
        Self {
            ns: Netns::quiet("fwd"),
            dir: tempfile::tempdir().expect("a folder"),
        }
    }

    pub fn path(&self, port: &str) -> PathBuf {
        self.dir.path().join(port)
    }

    pub fn daemon(&self) -> Daemon<'_> {
        let ports = HOSTILE.into_iter().chain(OTHERS).chain([BOUNDED.0]);
        self.daemon_of(ports.map(str::to_owned))
    }

    /// With ports of these names.
    pub fn daemon_of(&self, names: impl Iterator<Item = String>) -> Daemon<'_> {
        let port = |name: String| {
            let socket = self.path(&name).display().to_string();
            let bound = if name == BOUNDED.0 {
                format!(", max-guest-memory: {}", BOUNDED.1)
            } else {
                String::new()
            };
            format!("  {name}: {{kind: vhost-user, socket: '{socket}', access: lan{bound}}}\n")
        };
        let ports: String = names.map(port).collect();
        Daemon::start(
            &self.ns,
            &format!("ports:\n{ports}bridge-domains:\n  lan: {{}}\n"),
        )
    }

    /// A guest of a port, running, with buffers to receive into.
    pub fn start_guest(&self, port: &str, number: u8) -> Running {
        let guest = Guest::new(&options(number % 2 == 1));
        let mut front = FrontEnd::connect(&self.path(port)).expect("the daemon listens");
        front.start(&guest, PROTOCOL).expect("a good start");
        let mut running = Running {
            guest,
            _front: front,
            mac: mac(number),
        };
        running.refill();
        running
    }

    /// Open descriptors of the daemon, and mappings of guests.
    pub fn possessions(&self, daemon: &mut Daemon<'_>) -> (usize, usize) {
        let pid = daemon.proc().pid();
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
        (fds.count(), maps.matches("memfd:guest").count())
    }

    fn of_port(&self, daemon: &Daemon<'_>, port: &str) -> Value {
        let all = daemon.get("ports");
        let list = all.as_array().expect("a list").clone();
        let found = list.into_iter().find(|one| one["name"] == port);
        found.expect("the port")["guest"].clone()
    }

    /// A front-end that has just connected to a port.
    pub fn hostile(&self, port: &str, packed: bool) -> Hostile {
        let path = self.path(port);
        Hostile {
            front: FrontEnd::connect(&path).expect("the daemon listens"),
            guest: Guest::new(&options(packed)),
            path,
        }
    }

    /// Waits until nobody is connected.
    pub fn wait_free(&self, daemon: &Daemon<'_>, port: &str) {
        wait_for("the port is free", PATIENCE, || {
            (self.of_port(daemon, port)["state"] == "listening").then_some(())
        });
    }

    /// Has it done, judges, and has the next one served.
    pub fn run(&self, daemon: &Daemon<'_>, port: &str, behaviour: &Behaviour, sink: &mut Running) {
        let name = behaviour.name;
        let mut hostile = self.hostile(port, name.len() % 2 == 1);
        (behaviour.act)(&mut hostile);
        match behaviour.expect {
            Expect::Ends(why) => {
                assert!(hostile.front.closes(), "{name}: the connection goes on");
                let what = format!("{name}: last_end says `{why}`");
                let mut last = Value::Null;
                let end = Instant::now() + PATIENCE;
                while !last.as_str().is_some_and(|last| last.contains(why)) {
                    assert!(Instant::now() < end, "{what}: {last}");
                    last = self.of_port(daemon, port)["last_end"].clone();
                }
            }
            Expect::GoesOn => {
                let features = hostile.front.number(clearway_virtio_mock::request::GET_FEATURES);
                assert!(
                    features.is_ok(),
                    "{name}: the connection ended: {}",
                    self.of_port(daemon, port)
                );
            }
            Expect::Either => {}
        }
        assert!(hostile.guest.ram.canaries_live(), "{name}");
        drop(hostile);
        self.wait_free(daemon, port);
        let number = 100 + u8::from(name.len() % 2 == 1);
        let mut next = self.start_guest(port, number);
        next.send(sink.mac, 0..5);
        assert_eq!(
            sink.receive(next.mac, 5),
            [0, 1, 2, 3, 4],
            "{name}: the next guest is served"
        );
        sink.send(next.mac, 0..5);
        assert_eq!(
            next.receive(sink.mac, 5),
            [0, 1, 2, 3, 4],
            "{name}: the next guest is served"
        );
    }
}

/// Two guests that talk without a pause, every frame counted.
pub struct Witnesses {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Witnesses {
    pub fn start(scene: &Scene) -> Self {
        let (mut a, mut b) = (scene.start_guest("w0", 2), scene.start_guest("w1", 3));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                let burst = number..number + 16;
                a.send(b.mac, burst.clone());
                assert!(
                    b.receive(a.mac, 16).into_iter().eq(burst.clone()),
                    "frames from a witness"
                );
                b.send(a.mac, burst.clone());
                assert!(
                    a.receive(b.mac, 16).into_iter().eq(burst),
                    "frames from the other witness"
                );
                number += 16;
                std::thread::sleep(Duration::from_millis(1));
            }
            2 * number
        });
        Self { stop, thread }
    }

    /// Frames exchanged.
    pub fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the witnesses lost nothing")
    }
}

/// Has a frame flooded to every port: from another port, of a station that nobody knows, to one that nobody knows.
pub fn flood(h: &Hostile) {
    let folder = h.path.parent().expect("a folder");
    let own = h.path.file_name().and_then(|name| name.to_str());
    let other = HOSTILE.iter().find(|port| Some(**port) != own).expect("another");
    let mut guest = Guest::new(&options(false));
    let mut front = FrontEnd::connect(&folder.join(other)).expect("the daemon listens");
    front.start(&guest, PROTOCOL).expect("a good start");
    let frame = [&[0xff; 6][..], &mac(77), &[0x88, 0xb5], &[0; 50]].concat();
    assert!(guest.tx().send(Default::default(), &frame, Shape::default()));
    guest.tx().flush();
    wait_for("the frame is taken", PATIENCE, || {
        (guest.tx().reap() == 1).then_some(())
    });
}
