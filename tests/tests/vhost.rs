//! vhost-user ports with DPDK's virtio_user as the guest, in every shape of its rings: frames are counted by both sides,
//! and guests and daemons come and go.

use clearway_tests::{Daemon, Ledger, Netns, PortStats, Testpmd, ready, wait_for};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

/// What the two sides of a port agree on.
#[derive(Debug, Clone, Copy)]
struct Shape {
    packed: bool,
    in_order: bool,
    mergeable: bool,
    queues: u16,
}

impl Shape {
    fn all() -> impl Iterator<Item = Shape> {
        (0..16u16).map(|n| Shape {
            packed: n & 1 != 0,
            in_order: n & 2 != 0,
            mergeable: n & 4 != 0,
            queues: 1 + (n >> 3),
        })
    }

    /// Names of features as the API has them, and whether each must have been negotiated.
    fn features(&self) -> [(&'static str, bool); 4] {
        [
            ("ring_packed", self.packed),
            ("in_order", self.in_order),
            ("mrg_rxbuf", self.mergeable),
            ("mq", self.queues > 1),
        ]
    }
}

/// Two guests in a bridge domain.
struct Scene {
    ns: Netns,
    dir: tempfile::TempDir,
    /// Clearway connects to its guests.
    client: bool,
}

impl Scene {
    fn new(client: bool) -> Scene {
        Scene {
            ns: Netns::quiet("fwd"),
            dir: tempfile::tempdir().expect("a folder"),
            client,
        }
    }

    fn socket(&self, port: &str) -> String {
        self.dir.path().join(port).display().to_string()
    }

    fn daemon(&self) -> Daemon<'_> {
        Daemon::start(&self.ns, &self.config("", ""))
    }

    /// Both ports, with more keys.
    fn config(&self, a: &str, b: &str) -> String {
        let port = |name: &str, more: &str| {
            let (socket, client) = (self.socket(name), self.client);
            format!(
                "  {name}: {{kind: vhost-user, socket: '{socket}', client: {client}, queue-pairs: 2, access: lan{more}}}\n"
            )
        };
        let (a, b) = (port("a", a), port("b", b));
        format!("ports:\n{a}{b}bridge-domains:\n  lan: {{}}\n")
    }

    /// A guest that only sends, or only receives, once it is told to start.
    fn guest(&self, port: &str, shape: Shape, mode: &str) -> Testpmd {
        if self.client {
            // DPDK does not replace one that a crash left.
            let _ = std::fs::remove_file(Path::new(&self.socket(port)));
        }
        let device = format!(
            "path={},mac=02:00:00:00:00:0{port},packed_vq={},in_order={},mrg_rxbuf={},server={}",
            self.socket(port),
            u8::from(shape.packed),
            u8::from(shape.in_order),
            u8::from(shape.mergeable),
            u8::from(self.client),
        );
        let args = format!("--forward-mode={mode} --txonly-multi-flow");
        Testpmd::start(&self.ns, &device, shape.queues, &args)
    }
}

fn guest_of(daemon: &Daemon<'_>, port: &str) -> Value {
    let all = daemon.get("ports");
    let list = all.as_array().unwrap_or_else(|| panic!("not a list: {all}"));
    let found = list.iter().find(|p| p["name"] == port);
    found.unwrap_or_else(|| panic!("no port {port}: {all}"))["guest"].clone()
}

#[track_caller]
fn wait_running(daemon: &Daemon<'_>, port: &str) -> Value {
    wait_for(&format!("the guest of {port} runs"), SOON, || {
        let guest = guest_of(daemon, port);
        (guest["state"] == "running").then_some(guest)
    })
}

/// Waits until so many more frames were handed to guests than `before`.
#[track_caller]
fn wait_sent(daemon: &Daemon<'_>, before: &Ledger, more: u64) {
    wait_for(&format!("{more} more frames sent than {before:?}"), SOON, || {
        (daemon.ledger().sent >= before.sent + more).then_some(())
    });
}

/// Waits until no frame moves any more.
#[track_caller]
fn settled(daemon: &Daemon<'_>) -> Ledger {
    let mut last = daemon.assert_ledger();
    wait_for("frames to stop moving", SOON, || {
        std::thread::sleep(Duration::from_millis(100));
        let now = daemon.assert_ledger();
        (std::mem::replace(&mut last, now.clone()) == now).then_some(now)
    })
}

/// Waits until a guest counts no more frames, and gives what it has counted.
#[track_caller]
fn still(guest: &mut Testpmd) -> PortStats {
    let mut last = guest.stats();
    wait_for("a guest to be still", SOON, || {
        std::thread::sleep(Duration::from_millis(100));
        let now = guest.stats();
        (std::mem::replace(&mut last, now) == now).then_some(now)
    })
}

/// `from` sends until `to` has got some hundred frames of these segments, and every one is accounted for: by the guest that
/// sent it, by us, and by the guest that received it.
#[track_caller]
fn exchange(daemon: &Daemon<'_>, from: &mut Testpmd, to: &mut Testpmd, segments: &str) {
    let before = settled(daemon);
    let (had_sent, had_received) = (from.stats(), to.stats());
    to.say("start");
    from.say(&format!("set txpkts {segments}"));
    from.say("start");
    wait_sent(daemon, &before, 500);
    from.say("stop");
    let sent = still(from);
    let after = settled(daemon);
    let moved = |field: fn(&Ledger) -> u64| field(&after) - field(&before);
    assert_eq!(
        moved(|l| l.received),
        sent.sent - had_sent.sent,
        "what the guest sent was received"
    );
    assert_eq!(
        moved(|l| l.received),
        moved(|l| l.sent) + moved(|l| l.dropped),
        "{after:?}"
    );
    for (reason, n) in &after.drops {
        // Until both guests are there, there is nowhere to send to.
        let new = n - before.drops.get(reason).unwrap_or(&0);
        assert!(reason == "tx_full" || new == 0, "{after:?}");
    }
    let mut received = PortStats::default();
    wait_for("the receiver to have all", SOON, || {
        received = to.stats();
        (received.received - had_received.received >= moved(|l| l.sent)).then_some(())
    });
    assert_eq!(
        received.received - had_received.received,
        moved(|l| l.sent),
        "what was sent was received"
    );
    to.say("stop");
}

#[track_caller]
fn every_shape(client: bool) {
    let scene = Scene::new(client);
    let daemon = scene.daemon();
    for (n, shape) in Shape::all().enumerate() {
        eprintln!("{shape:?}");
        // Both ends of a wire need not agree.
        let other = Shape {
            packed: !shape.packed,
            ..shape
        };
        let mut a = scene.guest("a", shape, "txonly");
        let mut b = scene.guest("b", other, "rxonly");
        for (port, shape) in [("a", shape), ("b", other)] {
            let guest = wait_running(&daemon, port);
            assert_eq!(guest["connections"], n + 1, "{guest}");
            let names = guest["features"].as_array().expect("a list of features");
            for (name, wanted) in shape.features() {
                assert_eq!(names.iter().any(|n| n == name), wanted, "{name}: {guest}");
            }
        }
        for segments in ["64", "1518", "64,1000"] {
            exchange(&daemon, &mut a, &mut b, segments);
        }
        a.quit();
        b.quit();
        for port in ["a", "b"] {
            wait_for("the guest is gone", SOON, || {
                let state = guest_of(&daemon, port)["state"].clone();
                (state == if client { "connecting" } else { "listening" }).then_some(())
            });
        }
    }
    daemon.assert_ledger();
    daemon.stop();
}

#[test]
fn every_shape_of_ring_where_we_listen() {
    if ready() {
        every_shape(false);
    }
}

#[test]
fn every_shape_of_ring_where_we_connect() {
    if ready() {
        every_shape(true);
    }
}

const SPLIT: Shape = Shape {
    packed: false,
    in_order: true,
    mergeable: true,
    queues: 1,
};

const PACKED: Shape = Shape {
    packed: true,
    queues: 2,
    ..SPLIT
};

#[test]
fn guests_crash_and_come_back() {
    if !ready() {
        return;
    }
    for client in [false, true] {
        let scene = Scene::new(client);
        let daemon = scene.daemon();
        for round in 0..5 {
            let shape = if round % 2 == 0 { SPLIT } else { PACKED };
            let mut a = scene.guest("a", shape, "txonly");
            let mut b = scene.guest("b", shape, "rxonly");
            let before = daemon.ledger();
            for guest in [&mut b, &mut a] {
                guest.say("start");
            }
            wait_sent(&daemon, &before, 500);
            b.kill();
            // The sender did not notice.
            let mut b = scene.guest("b", shape, "rxonly");
            b.say("start");
            wait_sent(&daemon, &daemon.ledger(), 500);
            a.kill();
            let mut a = scene.guest("a", shape, "txonly");
            a.say("start");
            wait_sent(&daemon, &daemon.ledger(), 500);
            a.kill();
            b.kill();
        }
        daemon.assert_ledger();
        daemon.stop();
    }
}

#[test]
fn daemons_come_and_go_under_running_guests() {
    if !ready() {
        return;
    }
    for shape in [SPLIT, PACKED] {
        let scene = Scene::new(true);
        let mut daemon = scene.daemon();
        let mut a = scene.guest("a", shape, "txonly");
        let mut b = scene.guest("b", shape, "rxonly");
        for guest in [&mut b, &mut a] {
            guest.say("start");
        }
        for round in 0..10 {
            wait_sent(&daemon, &Ledger::default(), 500);
            let had = b.stats();
            wait_for("frames arrive", SOON, || {
                (b.stats().received >= had.received + 100).then_some(())
            });
            assert!(daemon.ledger().balanced());
            if round % 2 == 0 {
                daemon.kill();
            } else {
                daemon.stop();
            }
            daemon = scene.daemon();
        }
        wait_sent(&daemon, &Ledger::default(), 500);
        // All is well with the rings: nothing is lost, doubled or stuck.
        a.say("stop");
        still(&mut a);
        settled(&daemon);
        still(&mut b);
        exchange(&daemon, &mut a, &mut b, "1518");
        daemon.stop();
    }
}

/// Frames a second of the limits below, and how much may come at once after a worker was kept from working.
const RATE: f64 = 5000.0;
const BURST: f64 = 0.5;

/// Frames that a policer let pass, of those that came in, in a time between two bounds.
struct Window {
    passed: f64,
    received: f64,
    seconds: [f64; 2],
}

/// A second for what may come at once, then nine windows of half a second.
fn watch(daemon: &Daemon<'_>, reason: &str) -> Vec<Window> {
    let look = || {
        let asked = Instant::now();
        let ledger = daemon.ledger();
        let passed = ledger.received - ledger.drops.get(reason).copied().unwrap_or(0);
        ([asked, Instant::now()], passed, ledger.received)
    };
    std::thread::sleep(Duration::from_secs(1));
    let looks: Vec<_> = (0..=9)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(500));
            look()
        })
        .collect();
    let between = |two: &[([Instant; 2], u64, u64)]| {
        let ((from, passed, received), (to, passed_now, received_now)) = (two[0], two[1]);
        Window {
            passed: (passed_now - passed) as f64,
            received: (received_now - received) as f64,
            seconds: [to[0] - from[1], to[1] - from[0]].map(|time| time.as_secs_f64()),
        }
    };
    looks.windows(2).map(between).collect()
}

/// A guest sends as much as it can, several times the limit: of its own port, or of the one that it sends to. Machine and
/// test may be stopped meanwhile: half of the windows are near the limit, and all together not above it.
#[test]
fn floods_of_guests_pass_at_their_limit_and_all_is_accounted_for() {
    if !ready() {
        return;
    }
    let scene = Scene::new(false);
    let daemon = scene.daemon();
    let mut a = scene.guest("a", SPLIT, "txonly");
    let mut b = scene.guest("b", PACKED, "rxonly");
    for port in ["a", "b"] {
        wait_running(&daemon, port);
    }
    let packets = format!("packets: {RATE}");
    let bits = format!("bits: {}", RATE * 64.0 * 8.0);
    for (limit, receive) in [(&packets, true), (&bits, true), (&packets, false), (&bits, false)] {
        let (direction, reason) = if receive {
            ("receive", "police_receive")
        } else {
            ("transmit", "police_transmit")
        };
        let what = format!("{direction} {limit}");
        let key = format!(
            ", rate-limit: {{{direction}: {{{limit}, burst: {}ms}}}}",
            BURST * 1e3
        );
        let (at_a, at_b) = if receive { (&*key, "") } else { ("", &*key) };
        daemon.apply(&scene.config(at_a, at_b));
        let before = settled(&daemon);
        let (had_sent, had_received) = (a.stats().sent, b.stats().received);
        b.say("start");
        a.say("start");
        let windows = watch(&daemon, reason);
        a.say("stop");
        let sent = still(&mut a).sent - had_sent;
        let after = settled(&daemon);
        let received = still(&mut b).received - had_received;
        b.say("stop");

        let sum = |f: fn(&Window) -> f64| windows.iter().map(f).sum::<f64>();
        let (passed, time) = (sum(|w| w.passed), sum(|w| w.seconds[1]));
        assert!(
            passed <= 1.02 * RATE * (time + BURST),
            "{what}: {passed} frames passed in {time} seconds"
        );
        let mut rates: Vec<f64> = windows.iter().map(|w| w.passed / w.seconds[1]).collect();
        rates.sort_by(f64::total_cmp);
        assert!(
            rates[4] >= 0.85 * RATE,
            "{what}: frames a second in each window: {rates:?}"
        );
        assert!(
            sum(|w| w.received) > 3.0 * passed,
            "{what}: the guest offered too little: {} in {time} seconds",
            sum(|w| w.received)
        );
        // What passes at once may be more than a ring holds.
        let dropped =
            |reason: &str| after.drops.get(reason).unwrap_or(&0) - before.drops.get(reason).unwrap_or(&0);
        assert_eq!(
            after.received - before.received,
            sent,
            "{what}: what the guest sent"
        );
        assert_eq!(
            sent,
            received + dropped(reason) + dropped("tx_full"),
            "{what}: frames sent, received and above the limit: {after:?}"
        );
        assert!(after.balanced() && dropped(reason) > 0, "{what}: {after:?}");
    }
    a.quit();
    b.quit();
    daemon.stop();
}
