//! vhost-user ports with the mock driver as their guests: what other guests have not got (memory slots one at a time,
//! rings of odd sizes), queue pairs on several workers, and daemons that are killed under rings of every kind.

use clearway_tests::{Daemon, Netns, ready, wait_for};
use clearway_virtio_mock::{
    FrontEnd, Guest, GuestOptions, RamRegion, Shape, feature, protocol, region, request, words,
};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const PROTOCOL: u64 =
    protocol::MQ | protocol::REPLY_ACK | protocol::MTU | protocol::CONFIGURE_MEM_SLOTS | protocol::STATUS;

/// Two ports in a bridge domain.
struct Scene {
    ns: Netns,
    dir: tempfile::TempDir,
    /// Clearway connects.
    client: bool,
}

/// A guest and the front-end that it has now.
struct Station {
    guest: Guest,
    front: Option<FrontEnd>,
    path: PathBuf,
    listener: Option<UnixListener>,
    mac: [u8; 6],
}

impl Scene {
    fn new(client: bool) -> Self {
        Self {
            ns: Netns::quiet("fwd"),
            dir: tempfile::tempdir().expect("a folder"),
            client,
        }
    }

    fn daemon(&self) -> Daemon<'_> {
        Daemon::start(&self.ns, &self.config(&["a", "b"]))
    }

    /// These ports in one domain.
    fn config(&self, ports: &[&str]) -> String {
        let port = |name: &&str| {
            let socket = self.dir.path().join(name).display().to_string();
            let client = self.client;
            format!(
                "  {name}: {{kind: vhost-user, socket: '{socket}', client: {client}, queue-pairs: 2, access: lan}}\n"
            )
        };
        let ports: String = ports.iter().map(port).collect();
        format!("ports:\n{ports}bridge-domains:\n  lan: {{}}\n")
    }

    fn station(&self, name: &str, options: &GuestOptions) -> Station {
        let path = self.dir.path().join(name);
        Station {
            guest: Guest::new(options),
            front: None,
            listener: self.client.then(|| UnixListener::bind(&path).expect("a socket")),
            path,
            mac: [2, 0, 0, 0, 8, name.as_bytes()[0]],
        }
    }
}

impl Station {
    fn connect(&mut self, protocol: u64) {
        // While there is an old connection, a new one is turned away.
        self.front = None;
        // Turned away: a child of another test that has not called exec yet holds the old one open.
        let front = wait_for("a connection that lasts", PATIENCE, || {
            let mut front = match &self.listener {
                Some(listener) => FrontEnd::accept(listener).ok()?,
                None => FrontEnd::connect(&self.path).ok()?,
            };
            front.start(&self.guest, protocol).ok().map(|()| front)
        });
        self.front = Some(front);
        self.refill();
    }

    fn refill(&mut self) {
        for pair in &mut self.guest.pairs {
            while pair.rx.post(2100, Shape::default()) {}
            pair.rx.flush();
        }
    }

    /// Sends a numbered frame of this length, on the queue pair of its number.
    fn send(&mut self, to: &Station, number: u32, len: usize) {
        let mut frame = [&to.mac[..], &self.mac, &[0x88, 0xb5], &number.to_be_bytes()].concat();
        frame.extend((18..len).map(|i| (i as u32).wrapping_mul(number + 1) as u8));
        let pairs = self.guest.pairs.len();
        let queue = &mut self.guest.pairs[number as usize % pairs].tx;
        let end = Instant::now() + PATIENCE;
        while !queue.send(Default::default(), &frame, Shape::default()) {
            queue.flush();
            queue.reap();
            assert!(Instant::now() < end, "the device takes nothing");
        }
        queue.flush();
        queue.reap();
    }

    /// Frames from another station, in the order of their numbers, until there are `n`.
    fn receive(&mut self, from: &Station, n: usize) -> Vec<(u32, usize)> {
        let mut got = Vec::new();
        let end = Instant::now() + PATIENCE;
        while got.len() < n && Instant::now() < end {
            got.extend(self.arrived(from));
        }
        got.sort_unstable();
        got
    }

    /// What has arrived from another station.
    fn arrived(&mut self, from: &Station) -> Vec<(u32, usize)> {
        let mut got = Vec::new();
        for pair in &mut self.guest.pairs {
            while let Some(one) = pair.rx.receive() {
                let frame = one.frame;
                if frame.len() < 18 || frame[..6] != self.mac || frame[6..12] != from.mac {
                    continue;
                }
                let number = u32::from_be_bytes([frame[14], frame[15], frame[16], frame[17]]);
                let bytes = (18..frame.len()).map(|i| (i as u32).wrapping_mul(number + 1) as u8);
                assert!(
                    bytes.eq(frame[18..].iter().copied()),
                    "the bytes of frame {number}"
                );
                got.push((number, frame.len()));
            }
        }
        self.refill();
        got
    }
}

/// Every size each way, counted and compared.
fn exchange(a: &mut Station, b: &mut Station, sizes: &[usize]) {
    for (number, len) in sizes.iter().enumerate() {
        let number = number as u32;
        a.send(b, number, *len);
        assert_eq!(b.receive(a, 1), [(number, *len)]);
        b.send(a, number, *len);
        assert_eq!(a.receive(b, 1), [(number, *len)]);
    }
}

fn options(features: u64, size: u16, pairs: usize) -> GuestOptions {
    let several = if pairs > 1 { feature::MQ } else { 0 };
    GuestOptions {
        features: feature::VERSION_1 | features | several,
        tx_size: size,
        rx_size: size,
        pairs,
        ram: vec![16 << 20, 2 << 20, 2 << 20],
        ..GuestOptions::default()
    }
}

const SIZES: [usize; 10] = [60, 61, 128, 256, 257, 600, 1000, 1400, 1513, 1514];

/// Rings of every kind and of odd sizes on one connection after the other, with memory by table and by slots.
fn kinds(client: bool) {
    if !ready() {
        return;
    }
    let scene = Scene::new(client);
    let daemon = scene.daemon();
    let mut a = scene.station("a", &options(feature::MRG_RXBUF, 256, 1));
    let mut b = scene.station("b", &options(0, 64, 1));
    b.connect(PROTOCOL);
    let kinds = [
        (feature::MRG_RXBUF, 256, 1, PROTOCOL),
        (
            feature::MRG_RXBUF | feature::IN_ORDER,
            2,
            1,
            protocol::REPLY_ACK | protocol::MQ,
        ),
        (feature::RING_PACKED | feature::EVENT_IDX, 77, 1, PROTOCOL),
        (
            feature::RING_PACKED | feature::IN_ORDER | feature::MRG_RXBUF,
            5,
            2,
            PROTOCOL,
        ),
        (feature::EVENT_IDX, 1024, 2, PROTOCOL & !protocol::REPLY_ACK),
        (feature::RING_PACKED, 1, 1, protocol::MQ),
        (0, 32, 1, 0),
    ];
    for (features, size, pairs, protocol) in kinds {
        a.guest = Guest::new(&options(features, size, pairs));
        a.connect(protocol);
        exchange(&mut a, &mut b, &SIZES);
    }
    daemon.assert_ledger();
    daemon.stop();
}

#[test]
fn rings_of_all_kinds_where_clearway_listens() {
    kinds(false);
}

#[test]
fn rings_of_all_kinds_where_clearway_connects() {
    kinds(true);
}

/// Two workers: each polls a queue pair of either guest, and hands over what is for a third guest that the other one has.
#[test]
fn queue_pairs_are_spread_over_workers() {
    if !ready() {
        return;
    }
    let scene = Scene::new(false);
    let workers = "engine: {workers: [{core: 0}, {core: 1}]}\n";
    let config = format!("{workers}{}", scene.config(&["a", "b", "c"]));
    let daemon = Daemon::start(&scene.ns, &config);
    let mut a = scene.station("a", &options(feature::MRG_RXBUF, 256, 2));
    let mut b = scene.station("b", &options(feature::RING_PACKED, 128, 2));
    let mut c = scene.station("c", &options(feature::MRG_RXBUF, 256, 1));
    for station in [&mut a, &mut b, &mut c] {
        station.connect(PROTOCOL);
    }
    for _ in 0..20 {
        exchange(&mut a, &mut b, &SIZES);
        exchange(&mut b, &mut c, &SIZES);
        exchange(&mut c, &mut a, &SIZES);
    }
    let all = daemon.get("workers");
    for worker in all.as_array().expect("a list of workers") {
        let queues = |port: &str| worker["queues"][port].as_array().map(Vec::len);
        assert_eq!((queues("a"), queues("b")), (Some(1), Some(1)), "{all}");
        let received = worker["received"].as_u64().expect("a number");
        assert!(received >= 400, "{all}");
    }
    let crossed = |name: &str| {
        let handed = all[0][name].as_u64().zip(all[1][name].as_u64());
        handed.map_or(0, |(one, other)| one + other)
    };
    assert!(crossed("handed_out") >= 100, "{all}");
    daemon.assert_ledger();
    daemon.stop();
}

/// A driver that lives on while the daemon is killed: its buffers, those under way included, are where they were.
#[test]
fn a_daemon_that_is_killed_goes_on_with_rings_of_all_kinds() {
    if !ready() {
        return;
    }
    let kinds = [
        feature::MRG_RXBUF,
        feature::MRG_RXBUF | feature::IN_ORDER,
        feature::RING_PACKED,
        feature::RING_PACKED | feature::EVENT_IDX,
        feature::RING_PACKED | feature::IN_ORDER,
        feature::RING_PACKED | feature::IN_ORDER | feature::EVENT_IDX,
    ];
    for features in kinds {
        let scene = Scene::new(false);
        let mut daemon = scene.daemon();
        let mut a = scene.station("a", &options(features, 64, 1));
        let mut b = scene.station("b", &options(feature::MRG_RXBUF, 256, 1));
        // What the front-end says of where its rings are: the base of its last start, as it knows no other.
        let mut number = 0;
        for _ in 0..4 {
            for station in [&mut a, &mut b] {
                let front = wait_for("a connection", PATIENCE, || FrontEnd::connect(&station.path).ok());
                station.front = Some(front);
            }
            for station in [&mut a, &mut b] {
                restart(station);
            }
            for _ in 0..30 {
                a.send(&b, number, 60 + number as usize % 1400);
                b.send(&a, number, 60 + number as usize % 1400);
                assert_eq!(
                    b.receive(&a, 1),
                    [(number, 60 + number as usize % 1400)],
                    "{features:#x}"
                );
                assert_eq!(
                    a.receive(&b, 1),
                    [(number, 60 + number as usize % 1400)],
                    "{features:#x}"
                );
                number += 1;
            }
            daemon.kill();
            daemon = scene.daemon();
        }
        daemon.stop();
    }
}

/// Starts a guest's rings as a front-end does whose back-end was killed: with the bases from before.
fn restart(station: &mut Station) {
    let Station { guest, front, .. } = station;
    let front = front.as_mut().expect("a connection");
    let agreed = front.negotiate(guest.features, PROTOCOL).expect("features");
    assert_eq!(agreed, guest.features);
    front.share(&guest.ram).expect("memory");
    let fresh = if guest.features & feature::RING_PACKED == 0 {
        0
    } else {
        0x8000_8000
    };
    for (index, queue) in [(0, &guest.pairs[0].rx), (1, &guest.pairs[0].tx)] {
        front
            .start_ring_at(&guest.ram, index, queue, fresh)
            .expect("a ring");
        front.enable(index, true).expect("a ring");
    }
    let status = front.number(request::GET_FEATURES);
    assert!(status.is_ok(), "the connection lasts");
    station.refill();
}

/// Whoever was told that a port is there may send to it: the answer to a change, and to a front-end that started a ring,
/// comes when every worker knows, however busy.
#[test]
fn what_is_sent_right_after_a_change_arrives() {
    if !ready() {
        return;
    }
    let scene = Scene::new(false);
    let without = scene.config(&["a", "x", "y"]);
    let with = scene.config(&["a", "x", "y", "c"]);
    let daemon = Daemon::start(&scene.ns, &without);
    let station = |name| scene.station(name, &options(feature::MRG_RXBUF, 256, 1));
    let (mut a, mut x, mut y) = (station("a"), station("x"), station("y"));
    for station in [&mut x, &mut y, &mut a] {
        station.connect(PROTOCOL);
    }
    // It is known from now on: what it gets floods nobody.
    y.send(&x, 0, 60);
    assert_eq!(x.receive(&y, 1), [(0, 60)]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                x.send(&y, 1, 1500);
            }
        });
        for number in 0..100 {
            daemon.apply(&with);
            let mut c = station("c");
            c.connect(PROTOCOL);
            a.send(&c, number, 60);
            assert_eq!(c.receive(&a, 1), [(number, 60)], "right after change {number}");
            drop(c);
            daemon.apply(&without);
        }
    });
    daemon.assert_ledger();
    daemon.stop();
}

/// What one guest said of its MTU is nothing to the next one.
#[test]
fn an_mtu_goes_with_its_guest() {
    if !ready() {
        return;
    }
    let scene = Scene::new(false);
    let daemon = scene.daemon();
    let mut a = scene.station("a", &options(feature::MRG_RXBUF, 64, 1));
    let mut b = scene.station("b", &options(feature::MRG_RXBUF, 64, 1));
    b.connect(PROTOCOL);
    a.connect(PROTOCOL);
    let front = a.front.as_ref().expect("a connection");
    let told = front.tell(request::NET_SET_MTU, &2000u64.to_le_bytes(), &[]);
    assert_eq!(told.expect("an answer"), 0);
    b.send(&a, 0, 2014);
    assert_eq!(a.receive(&b, 1), [(0, 2014)]);
    a.guest = Guest::new(&options(feature::MRG_RXBUF, 64, 1));
    a.connect(PROTOCOL);
    b.send(&a, 1, 2014);
    b.send(&a, 2, 1514);
    assert_eq!(a.receive(&b, 1), [(2, 1514)], "1500 is what it starts with");
    daemon.assert_ledger();
    daemon.stop();
}

/// Memory that a front-end announces is bounded by the configuration, for ports that have no bound of their own too. Who
/// announces more is refused, others lose nothing, and a change holds from the next connection on.
#[test]
fn a_guest_with_more_memory_than_it_may_have_is_refused() {
    const MIB: u64 = 1 << 20;
    if !ready() {
        return;
    }
    let scene = Scene::new(false);
    let config = |engine: u32, own: &str| {
        let ports = scene.config(&["a", "b", "c"]);
        let c = format!("  c: {{kind: vhost-user{own}");
        let ports = ports.replace("  c: {kind: vhost-user", &c);
        format!("engine: {{max-guest-memory: {engine}}}\n{ports}")
    };
    let daemon = Daemon::start(&scene.ns, &config(16, ""));
    let small = |name| {
        let ram = vec![12 << 20, 4 << 20];
        let options = GuestOptions {
            ram,
            ..options(0, 64, 1)
        };
        scene.station(name, &options)
    };
    let (mut a, mut b) = (small("a"), small("b"));
    a.connect(PROTOCOL);
    b.connect(PROTOCOL);
    let port = |name: &str| {
        let all = daemon.get("ports");
        let found = all
            .as_array()
            .expect("a list")
            .iter()
            .find(|one| one["name"] == name);
        found.expect("the port")["guest"].clone()
    };
    // Nothing is behind the file but its size.
    let mut memory = RamRegion::new(1 << 40, 1 << 40, 4096);
    memory.size = 17 * MIB;
    memory
        .file
        .set_len(memory.offset + memory.size)
        .expect("a sparse file");
    let add = |front: &FrontEnd| {
        let payload = [words(&[0]), region(&memory)].concat();
        front.tell(request::ADD_MEM_REG, &payload, &[memory.file.as_fd()])
    };
    let greet = || {
        wait_for("a connection that lasts", PATIENCE, || {
            let mut front = FrontEnd::connect(&scene.dir.path().join("c")).ok()?;
            front.negotiate(feature::VERSION_1, PROTOCOL).ok().map(|_| front)
        })
    };
    let refused = |why: &str| {
        let front = greet();
        assert_ne!(add(&front).expect("an answer"), 0);
        assert!(front.closes());
        drop(front);
        wait_for(&format!("last_end says {why}"), PATIENCE, || {
            let last = port("c")["last_end"].as_str()?.contains(why);
            (last && port("c")["state"] == "listening").then_some(())
        });
    };
    let taken = || {
        let front = greet();
        assert_eq!(add(&front).expect("an answer"), 0);
        front
    };
    let of_all = "its memory regions have 17825792 bytes in all, more than the 16777216 (16 MiB) of `engine.max-guest-memory`";
    refused(of_all);
    a.send(&b, 0, 60);
    assert_eq!(b.receive(&a, 1), [(0, 60)]);

    let plan = daemon.apply(&config(17, ""));
    assert!(plan.contains("max-guest-memory"), "{plan}");
    let front = taken();
    daemon.apply(&config(16, ""));
    assert!(front.number(request::GET_FEATURES).is_ok(), "who is there stays");
    drop(front);
    refused(of_all);

    // The port's own key holds, whichever is larger.
    daemon.apply(&config(16, ", max-guest-memory: 17"));
    drop(taken());
    daemon.apply(&config(17, ", max-guest-memory: 16"));
    refused("17825792 bytes in all, more than the 16777216 (16 MiB) of the port's `max-guest-memory`");

    b.send(&a, 1, 60);
    assert_eq!(a.receive(&b, 1), [(1, 60)]);
    for name in ["a", "b"] {
        assert_eq!(port(name)["connections"], 1, "{name} was left alone");
    }
    daemon.assert_ledger();
    daemon.stop();
}

/// Ends the other threads of a test, also when it fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
