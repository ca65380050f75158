//! Changes while traffic runs: what a change does not name loses nothing.

use clearway_tests::frame::{Mac, Tag};
use clearway_tests::{Daemon, Flow, Overlay, Ping, PingProbe, Pods, RawPort, Underlay, numbered, ready};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The configuration after `step` changes. Pods 0 and 1, the uplink and the tunnel to remote 0 are always the same;
/// pods 2 and 3, their VLANs and domains, tunnels and a second VTEP come and go.
fn config(step: usize) -> String {
    let mut ports = String::from(
        "  up: {kind: af-xdp, interface: u0, steering: shared}
  pod0: {kind: af-xdp, interface: p0, access: lan}
  pod1: {kind: af-xdp, interface: p1, access: lan}
",
    );
    let mut domains = String::from("  lan: {vni: 100, remotes: [192.0.2.10]}\n");
    let mut vteps = String::from("  v: {local: 192.0.2.1, port: up}\n");
    // Each bit of the step number is one thing that is there or not; Gray code would change one at a time, plain
    // counting changes several at once as well.
    if step & 1 != 0 {
        domains += "  red: {vlan: 10, vni: 200, vtep: v, remotes: [192.0.2.11]}\n";
        let vlans = if step & 4 != 0 {
            "[10]"
        } else {
            "[{vlan: 77, bridge-domain: red}]"
        };
        ports += &format!("  pod2: {{kind: af-xdp, interface: p2, trunk: {vlans}}}\n");
    }
    if step & 2 != 0 {
        let service = if step & 8 != 0 { "lan" } else { "blue" };
        ports += &format!("  pod3: {{kind: af-xdp, interface: p3, access: {service}}}\n");
    }
    if step & 4 != 0 {
        domains += "  blue: {vlan: 20}\n";
    } else if step & 2 != 0 && step & 8 == 0 {
        domains += "  blue: {}\n";
    }
    if step & 16 != 0 {
        vteps += "  w: {local: 192.0.2.2, port: up, udp-port: 4790}\n";
        domains += "  green: {vni: 300, vtep: w, remotes: [192.0.2.11, 192.0.2.12]}\n";
    }
    domains = domains.replacen("vni: 100", "vtep: v, vni: 100", 1);
    format!("ports:\n{ports}vteps:\n{vteps}bridge-domains:\n{domains}")
}

#[test]
fn a_hundred_changes_lose_nothing() {
    if !ready() {
        return;
    }
    let scene = Overlay::new(Pods::new(4), 1, Underlay::V4, 1600);
    scene.pods.fwd.addr("u0", "192.0.2.2/24");
    scene.vxlan(0, "vx0", 100, Mac::local(0x600), "");
    let (a, b, remote) = (scene.pods.pod(0), scene.pods.pod(1), scene.remote(0));
    let daemon = Daemon::start(&scene.pods.fwd, &config(0));
    Ping::new(&Overlay::ip4(0)).until(a, Duration::from_secs(5));
    Ping::new(&Pods::ip4(1)).all(a);

    // A ring of 2048 frames holds seconds of these: what is lost is lost by a change, not by a processor that others use.
    let flows = [
        ("pod to pod", Flow::start(a, b, &Pods::ip4(1), 600, 200)),
        (
            "pod to remote",
            Flow::start(a, remote, &Overlay::ip4(0), 300, 200),
        ),
        ("remote to pod", Flow::start(remote, b, &Pods::ip4(1), 300, 200)),
    ];
    let uplink = PingProbe::start(remote, "192.0.2.1", Duration::from_millis(20));
    let started = Instant::now();
    for step in 1..=100 {
        daemon.apply(&config(step));
    }
    eprintln!("100 changes took {:?}", started.elapsed());
    for (name, flow) in flows {
        let report = flow.run(Duration::from_millis(200));
        assert!(
            report.lost == 0 && report.duplicates == 0,
            "{name}: {report:?}\n{}",
            daemon.explain()
        );
        assert!(report.sent > 300, "{name}: {report:?}");
    }
    let uplink = uplink.stop();
    assert!(uplink.lost() <= 1, "the uplink's own address: {uplink:?}");
    daemon.assert_ledger();
    daemon.stop();
}

#[test]
fn what_was_added_works_at_once() {
    if !ready() {
        return;
    }
    let pods = Pods::new(3);
    let config = |ports: usize| {
        let ports: String = (0..ports)
            .map(|n| format!("  pod{n}: {{kind: af-xdp, interface: p{n}, access: lan}}\n"))
            .collect();
        format!("ports:\n{ports}bridge-domains:\n  lan: {{}}\n")
    };
    let daemon = Daemon::start(&pods.fwd, &config(2));
    Ping::new(&Pods::ip4(1)).all(pods.pod(0));
    for _ in 0..5 {
        Ping::new(&Pods::ip4(2)).args("-c 1 -W 0.2").none(pods.pod(0));
        // `apply` returns when the change is in force: no waiting here.
        daemon.apply(&config(3));
        Ping::new(&Pods::ip4(2)).all(pods.pod(0));
        daemon.apply(&config(2));
    }
    Ping::new(&Pods::ip4(1)).all(pods.pod(0));
    daemon.assert_ledger();
}

#[test]
fn a_refused_change_changes_nothing() {
    if !ready() {
        return;
    }
    let pods = Pods::new(2);
    let good = "
ports:
  a: {kind: af-xdp, interface: p0, access: lan}
  b: {kind: af-xdp, interface: p1, access: lan}
bridge-domains:
  lan: {}
";
    let daemon = Daemon::start(&pods.fwd, good);
    Ping::new(&Pods::ip4(1)).all(pods.pod(0));
    let ports = daemon.get("ports");
    let flow = Flow::start(pods.pod(0), pods.pod(1), &Pods::ip4(1), 2000, 100);
    for (bad, says) in [
        (
            good.replace(
                "b: {kind: af-xdp, interface: p1, access: lan}",
                "b: {kind: af-xdp, interface: p1, access: lam}",
            ),
            "lam",
        ),
        (good.replace("interface: p1", "interfase: p1"), "interface"),
        (good.replace("lan: {}", "lan: {vlan: 4095}"), "4095"),
        ("ports: [".to_owned(), "apply.yaml:1"),
    ] {
        let out = daemon.try_apply(&bad, "");
        assert!(
            out.code != 0 && out.text().contains(says),
            "{bad}\n{}",
            out.text()
        );
    }
    // A dry run of a good change says what it would do, and does not.
    let more = good.replace("lan: {}", "lan: {}\n  other: {vlan: 9}");
    let plan = daemon.try_apply(&more, "--dry-run");
    assert!(plan.code == 0 && plan.text().contains("other"), "{}", plan.text());
    assert!(!daemon.get("bridge-domains").to_string().contains("other"));
    flow.run(Duration::from_millis(200)).assert_whole();
    assert_eq!(names(&daemon.get("ports")), names(&ports));
    daemon.assert_ledger();
}

/// The XDP program on an interface.
#[track_caller]
fn program(pods: &Pods, dev: &str) -> u64 {
    let link = pods.fwd.link(dev).expect("it is there");
    let id = link["xdp"]["prog"]["id"].as_u64();
    id.unwrap_or_else(|| panic!("no program on {dev}: {link}"))
}

#[test]
fn steering_changes_without_a_gap() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(2);
    let config = |steering: &str| {
        format!(
            "
ports:
  a: {{kind: af-xdp, interface: p0, trunk: [10], steering: {steering}}}
  b: {{kind: af-xdp, interface: p1, access: red}}
bridge-domains:
  red: {{vlan: 10}}
"
        )
    };
    let daemon = Daemon::start(&pods.fwd, &config("exclusive"));
    let pod_program = program(&pods, "p0");
    assert_eq!(program(&pods, "p1"), pod_program, "pods share one");
    let [near, far] = &mut pods.raw()[..] else {
        panic!("two pods");
    };
    let mut host = RawPort::open(&pods.fwd, "p0");
    let done = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                near.send(&numbered(sent, 0, Mac::BROADCAST, &[Tag::c(10)]));
                sent += 1;
                std::thread::sleep(Duration::from_micros(500));
            }
            sent
        });
        let mut own = None;
        for _ in 0..10 {
            daemon.apply(&config("shared"));
            let now = program(&pods, "p0");
            assert_eq!(*own.get_or_insert(now), now, "one of its own, which stays");
            std::thread::sleep(Duration::from_millis(20));
            daemon.apply(&config("exclusive"));
            assert_eq!(program(&pods, "p0"), now);
        }
        assert_ne!(own, Some(pod_program));
        done.store(true, Ordering::Relaxed);
        sender.join().expect("the sender did not panic")
    });
    assert!(sent > 100, "{sent} frames");
    for n in 0..sent {
        far.expect(&numbered(n, 0, Mac::BROADCAST, &[]));
    }
    far.expect_silence(Duration::from_millis(50));
    // What is not ours is the kernel's while the port is shared, and nobody's before and after.
    let untagged = numbered(1, 0, Mac::BROADCAST, &[]);
    near.send(&untagged);
    host.expect_silence(Duration::from_millis(50));
    daemon.apply(&config("shared"));
    near.send(&untagged);
    host.expect(&untagged);
    assert_eq!(program(&pods, "p1"), pod_program);
    daemon.assert_ledger();
    daemon.stop();
}

fn names(list: &serde_json::Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("not a list: {list}"));
    list.iter().map(|p| p["name"].to_string()).collect()
}
