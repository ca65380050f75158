//! `rateLimit`, `bandwidth` and `antiSpoof` of pods, frame by frame.

use crate::{good, talk};
use clearway_tests::frame::{self, EXPERIMENT};
use clearway_tests::{Daemon, Flow, Mac, Node, RawPort, ready, wait_for};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Frames a second that the limits let through.
const RATE: f64 = 2000.0;
/// What comes at once: as much as the rate gives in this time, in seconds, so that a processor that is away is no loss.
const BURST: f64 = 0.2;
/// A frame of a flow: 100 bytes and 42 of headers.
const BITS: u64 = RATE as u64 * 8 * 142;
const TIME: Duration = Duration::from_secs(3);

/// The first IPv4 address of a result.
#[track_caller]
fn ip(result: &Value) -> &str {
    let address = result["ips"][0]["address"]
        .as_str()
        .and_then(|ip| ip.split('/').next());
    address.unwrap_or_else(|| panic!("no address: {result}"))
}

#[test]
fn a_pods_limits_hold() {
    if !ready() {
        return;
    }
    let node = Node::new(3);
    let daemon = node.daemon();
    for mode in ["veth", "tap"] {
        let pool = json!({"type": "clearway"});
        // The first pod's limits are its network's, the second's what its runtime asks for, the third has none.
        let fields = json!({
            "mode": mode, "ipam": pool, "antiSpoof": true, "rateLimit": {"receive": {"packets": RATE as u32, "burst": "200ms"}}
        });
        let guarded = node.network("1.0.0", fields);
        let fields = json!({"mode": mode, "ipam": pool, "capabilities": {"bandwidth": true}});
        let asked = node.network("1.0.0", fields);
        let asking = json!({"ingressRate": BITS, "ingressBurst": (BITS as f64 * BURST) as u64});
        let open = node.network("1.0.0", json!({"mode": mode, "ipam": pool}));
        let containers = [
            node.container(0),
            node.container(1).capability("bandwidth", asking),
            node.container(2),
        ];
        let networks = [&guarded, &asked, &open];
        let jobs = || networks.into_iter().zip(&containers);
        let results: Vec<_> = jobs()
            .map(|(network, container)| good(network.add(container)))
            .collect();
        jobs().for_each(|(network, container)| good(network.check(container)));
        for (from, to) in [(0, 1), (0, 2), (1, 2)] {
            talk(node.pod(from), &results[to]);
        }
        only_its_own_address(&node, &daemon);
        let flow = |from: usize, to: usize, pps: f64| {
            Flow::start(node.pod(from), node.pod(to), ip(&results[to]), pps as u32, 100)
        };
        for (from, to, reason) in [(0, 2, "police_receive"), (2, 1, "police_transmit")] {
            // The other way is not limited, whatever is dropped on this one.
            let untouched = flow(to, from, 300.0);
            let before = daemon.dropped(reason);
            let started = Instant::now();
            let flood = flow(from, to, 2.0 * RATE).run(TIME);
            let most = RATE * (started.elapsed().as_secs_f64() + BURST) + 1.0;
            let (least, wanted) = (RATE * TIME.as_secs_f64() * 0.9, RATE * TIME.as_secs_f64());
            let most = most.min(wanted * 1.1 + RATE * BURST);
            assert!(
                flood.sent as f64 > 1.8 * wanted && (least..=most).contains(&(flood.received as f64)),
                "{mode} {reason}: {least} to {most} expected: {flood:?}\n{}",
                daemon.explain()
            );
            let dropped = daemon.dropped(reason) - before;
            // Others' frames are few: ARP, and what the kernel sends by itself.
            assert!(
                dropped.abs_diff(flood.lost) * 20 <= flood.lost,
                "{mode} {reason}: {dropped}, {flood:?}"
            );
            untouched.stop().assert_whole();
        }
        daemon.assert_ledger();
        jobs().for_each(|(network, container)| good(network.del(container)));
        node.assert_clean(&daemon);
    }
    daemon.stop();
}

/// Of what the first pod sends, only what is from its own MAC address arrives; the third may send from any.
#[track_caller]
fn only_its_own_address(node: &Node, daemon: &Daemon<'_>) {
    let own = node.pod(0).mac("net1");
    let foreign = Mac::local(0x77);
    let hello =
        |src: Mac, n: u32| frame::ethernet(Mac::BROADCAST, src, &[], EXPERIMENT, &frame::payload(n, 100));
    let [mut from, mut free, mut at] = [0, 2, 1].map(|n| RawPort::open(node.pod(n), "net1"));
    let before = daemon.dropped("spoofed_source");
    let total = 20;
    for n in 0..total {
        from.send(&hello(foreign, n));
        from.send(&hello(own, n));
        // What arrives was sent after the one that must not.
        at.find("a frame of its own", |got| {
            assert_ne!(got, hello(foreign, n), "a spoofed frame arrived");
            got == hello(own, n)
        });
    }
    // A worker tells its counts at the end of a turn.
    let dropped = || daemon.dropped("spoofed_source") - before;
    wait_for("every frame to be counted", Duration::from_secs(5), || {
        (dropped() >= total.into()).then_some(())
    });
    assert_eq!(
        daemon.fdb_port("red", foreign),
        None,
        "nothing is learned from what is dropped"
    );
    free.send(&hello(foreign, 99));
    at.find("a frame of one that may", |got| got == hello(foreign, 99));
    let late = [&mut at, &mut free]
        .map(|port| port.all(Duration::from_millis(200)))
        .concat();
    assert!(
        late.iter()
            .all(|got| (0..total).all(|n| *got != hello(foreign, n))),
        "a spoofed frame arrived"
    );
    assert_eq!(dropped(), u64::from(total));
}
