//! Two workers on two cores: queues are spread, frames cross from one to the other, and none is lost.

use clearway_tests::frame::{Mac, Tag};
use clearway_tests::{
    Daemon, Flow, Overlay, Ping, Pods, RawPort, Underlay, iperf_tcp, numbered, ready, tcp_echo,
};
use std::time::Duration;

const TWO: &str = "engine: {workers: [{core: 0}, {core: 1}]}\n";

/// Packets that each worker has received.
fn worked(daemon: &Daemon<'_>) -> Vec<u64> {
    let workers = daemon.get("workers");
    let list = workers
        .as_array()
        .unwrap_or_else(|| panic!("not a list: {workers}"));
    list.iter()
        .map(|w| {
            w["received"]
                .as_u64()
                .unwrap_or_else(|| panic!("no received: {workers}"))
        })
        .collect()
}

#[test]
fn queues_are_spread() {
    if !ready() {
        return;
    }
    let pods = Pods::shaped(3, |wire| wire.queues(2));
    let config = format!(
        "{TWO}
ports:
  a: {{kind: af-xdp, interface: p0, access: lan}}
  b: {{kind: af-xdp, interface: p1, access: lan}}
  c: {{kind: af-xdp, interface: p2, access: lan}}
bridge-domains:
  lan: {{}}
"
    );
    let daemon = Daemon::start(&pods.fwd, &config);
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        Ping::new(&Pods::ip4(to)).all(pods.pod(from));
        Ping::new(&Pods::ip6(to)).all(pods.pod(from));
    }
    // Many flows, so that every queue has some.
    let flows: Vec<_> = (0..12)
        .map(|n| {
            let (from, to) = (n % 3, (n + 1) % 3);
            Flow::start(pods.pod(from), pods.pod(to), &Pods::ip4(to), 500, 200)
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    for flow in flows {
        flow.stop().assert_whole();
    }
    assert!(iperf_tcp(pods.pod(0), pods.pod(1), &Pods::ip4(1), 2, "-P 4").mbits > 20.0);
    tcp_echo(pods.pod(2), pods.pod(0), &Pods::ip6(0), 2_000_000);
    let worked = worked(&daemon);
    assert!(
        worked.len() == 2 && worked.iter().all(|n| *n > 100),
        "packets by worker: {worked:?}"
    );
    daemon.assert_ledger();
    daemon.stop();
}

#[test]
fn frames_cross_between_workers() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(3);
    // Ports a and c belong to the first worker, b to the second: everything to or from b crosses.
    let config = format!(
        "{TWO}
ports:
  a: {{kind: af-xdp, interface: p0, trunk: [10], workers: {{0: 0}}}}
  b: {{kind: af-xdp, interface: p1, access: lan, workers: {{0: 1}}}}
  c: {{kind: af-xdp, interface: p2, access: lan, workers: {{0: 0}}}}
bridge-domains:
  lan: {{vlan: 10}}
"
    );
    let daemon = Daemon::start(&pods.fwd, &config);
    let mut wires = pods.raw();
    let tag = Tag::c(10).pcp(2);
    let send = |wires: &mut [RawPort], from: usize, tags: &[Tag]| {
        for n in 0..500 {
            wires[from].send(&numbered(n, from, Mac::BROADCAST, tags));
        }
    };
    let all = |from, tags: &[Tag]| -> Vec<_> {
        (0..500)
            .map(|n| numbered(n, from, Mac::BROADCAST, tags))
            .collect()
    };
    send(&mut wires, 0, &[tag]);
    for to in [1, 2] {
        let got = wires[to].all(Duration::from_millis(500));
        assert!(
            got == all(0, &[]),
            "pod {to} got {} frames, or in another order",
            got.len()
        );
    }
    send(&mut wires, 1, &[]);
    let got = wires[2].all(Duration::from_millis(500));
    assert!(got == all(1, &[]), "{} frames, or in another order", got.len());
    let got = wires[0].all(Duration::from_millis(500));
    assert!(
        got == all(1, &[Tag::c(10)]),
        "{} frames, or in another order",
        got.len()
    );
    let ledger = daemon.assert_ledger();
    assert_eq!(
        (ledger.received, ledger.replicated, ledger.sent),
        (1000, 1000, 2000),
        "{ledger:?}"
    );
    assert_eq!(worked(&daemon).iter().sum::<u64>(), 1000);
}

#[test]
fn tunnels_and_changes_with_two_workers() {
    if !ready() {
        return;
    }
    let scene = Overlay::new(Pods::shaped(3, |wire| wire.queues(2)), 1, Underlay::V6, 1600);
    scene.vxlan(0, "vx0", 100, Mac::local(0x600), "");
    let (pod, remote) = (scene.pods.pod(0), scene.remote(0));
    let daemon = Daemon::start(&scene.pods.fwd, &format!("{TWO}{}", scene.config(2, "", "")));
    Ping::new(&Overlay::ip4(0)).until(pod, Duration::from_secs(5));
    Ping::new(&Pods::ip4(1)).all(pod);
    // A ring of 2048 frames holds seconds of these: what is lost is lost by a change, not by a processor that others use.
    let flows = [
        Flow::start(pod, remote, &Overlay::ip4(0), 300, 200),
        Flow::start(remote, pod, &Pods::ip4(0), 300, 200),
        Flow::start(pod, scene.pods.pod(1), &Pods::ip4(1), 300, 200),
    ];
    for step in 0..20 {
        daemon.apply(&format!("{TWO}{}", scene.config(2 + step % 2, "", "")));
    }
    for (n, flow) in flows.into_iter().enumerate() {
        let report = flow.run(Duration::from_millis(100));
        assert!(
            report.lost == 0 && report.duplicates == 0,
            "flow {n}: {report:?}\n{}",
            daemon.explain()
        );
    }
    tcp_echo(pod, remote, &Overlay::ip6(0), 1_000_000);
    daemon.assert_ledger();
    daemon.stop();
}

#[test]
fn spinning_and_sleeping_workers_forward_alike() {
    if !ready() {
        return;
    }
    for idle in ["spin", "adaptive"] {
        let pods = Pods::new(2);
        let config = format!(
            "
engine: {{idle: {idle}, workers: [{{core: 1}}]}}
ports:
  a: {{kind: af-xdp, interface: p0, access: lan}}
  b: {{kind: af-xdp, interface: p1, access: lan}}
bridge-domains:
  lan: {{}}
"
        );
        let daemon = Daemon::start(&pods.fwd, &config);
        // One packet now and then: a sleeping worker must wake up for each.
        Ping::new(&Pods::ip4(1)).args("-c 20 -i 0.05").all(pods.pod(0));
        Flow::start(pods.pod(0), pods.pod(1), &Pods::ip4(1), 5_000, 100)
            .run(Duration::from_secs(1))
            .assert_whole();
        let sleeps = daemon.get("workers")[0]["sleeps"].as_u64().expect("a number");
        assert_eq!(sleeps > 0, idle == "adaptive", "{idle}: {sleeps} sleeps");
        daemon.assert_ledger();
        daemon.stop();
    }
}
