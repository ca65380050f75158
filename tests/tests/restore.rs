//! Interfaces are given back as they were found, whichever way the daemon ends.

use clearway_tests::{Daemon, Netns, Overlay, Ping, Pods, Underlay, Veth, ready};
use std::time::Duration;

/// All that can be seen of an interface, as text to compare.
fn state(ns: &Netns, dev: &str) -> String {
    let mut text = ns.run(&format!("ip -d link show {dev}"));
    text += &ns.run(&format!("ethtool -k {dev}"));
    text += &ns.run(&format!("ethtool -l {dev}"));
    for knob in [
        "gro_flush_timeout",
        "napi_defer_hard_irqs",
        "threaded",
        "flags",
        "mtu",
        "address",
    ] {
        text += &format!("{knob}: {}", ns.run(&format!("cat /sys/class/net/{dev}/{knob}")));
    }
    text + &ns.run(&format!("ip addr show {dev}"))
}

#[track_caller]
fn assert_same(before: &str, after: &str) {
    let differ: Vec<_> = before
        .lines()
        .zip(after.lines())
        .filter(|(b, a)| b != a)
        .collect();
    assert!(before == after, "differs (before, after): {differ:#?}");
}

fn config(knobs: &str) -> String {
    format!(
        "
ports:
  a: {{kind: af-xdp, interface: p0, access: lan{knobs}}}
  b: {{kind: af-xdp, interface: p1, trunk: [10]{knobs}}}
bridge-domains:
  lan: {{vlan: 10}}
"
    )
}

#[test]
fn however_it_ends() {
    if !ready() {
        return;
    }
    let pods = Pods::shaped(2, |wire: Veth<'_>| wire.with_offloads().queues(2));
    let fwd = &pods.fwd;
    fwd.run("ip link set p1 promisc on");
    fwd.run("ethtool -K p1 gro on");
    for knobs in [
        "",
        ", busy-poll: 'on'",
        ", mode: generic",
        ", mode: copy",
        ", queues: [1]",
    ] {
        let before = [state(fwd, "p0"), state(fwd, "p1")];
        let check = |how: &str| {
            eprintln!("{how}, with '{knobs}'");
            assert_same(&before[0], &state(fwd, "p0"));
            assert_same(&before[1], &state(fwd, "p1"));
        };
        let daemon = Daemon::start(fwd, &config(knobs));
        assert_ne!(
            before[0],
            state(fwd, "p0"),
            "an XDP program is attached while it runs"
        );
        daemon.stop();
        check("after SIGTERM");

        // A crash gives nothing back; the next daemon finds what the first had found.
        let mut crashed = Daemon::start(fwd, &config(knobs));
        crashed.kill();
        Daemon::start(fwd, &config(knobs)).stop();
        check("after a crash, a restart and SIGTERM");

        // A port that is removed is given back at once.
        let daemon = Daemon::start(fwd, &config(knobs));
        let without: String = config(knobs)
            .lines()
            .filter(|l| !l.contains("p1"))
            .map(|l| format!("{l}\n"))
            .collect();
        daemon.apply(&without);
        assert_same(&before[1], &state(fwd, "p1"));
        daemon.stop();
        check("after a removal and SIGTERM");
    }
}

#[test]
fn an_uplink_keeps_its_own() {
    if !ready() {
        return;
    }
    let scene = Overlay::new(Pods::new(1), 1, Underlay::V4, 1600);
    let fwd = &scene.pods.fwd;
    fwd.run("ip route add 203.0.113.0/24 via 192.0.2.254");
    let before = state(fwd, "u0");
    let routes = fwd.run("ip route");
    let daemon = Daemon::start(fwd, &scene.config(1, "", ""));
    Ping::new("192.0.2.1").all(scene.remote(0));
    assert_eq!(fwd.run("ip route"), routes);
    daemon.stop();
    assert_same(&before, &state(fwd, "u0"));
    Ping::new("192.0.2.1")
        .args("-c 2")
        .until(scene.remote(0), Duration::from_secs(2));
}

#[test]
fn the_kernel_takes_over_again() {
    if !ready() {
        return;
    }
    // An interface with an address: the kernel's while no daemon runs, ours while one does.
    let pods = Pods::new(2);
    pods.fwd.addr("p0", "10.0.0.99/24");
    Ping::new("10.0.0.99").all(pods.pod(0));
    let daemon = Daemon::start(&pods.fwd, &config("").replace("trunk: [10]", "access: lan"));
    Ping::new(&Pods::ip4(1)).all(pods.pod(0));
    Ping::new("10.0.0.99").args("-c 2 -W 0.3").none(pods.pod(0));
    daemon.stop();
    Ping::new("10.0.0.99").all(pods.pod(0));
}
