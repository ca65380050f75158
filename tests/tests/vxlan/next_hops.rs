//! Where a remote's packets go: what the kernel knows of it is followed.

use crate::{BOTH, station};
use clearway_tests::frame::Mac;
use clearway_tests::{Daemon, Flow, Overlay, Ping, Pods, Underlay, Vxlan, ready, tcp_echo, wait_for};
use std::time::Duration;

#[test]
fn a_next_hop_that_changes_is_followed() {
    if !ready() {
        return;
    }
    for underlay in BOTH {
        let scene = Overlay::new(Pods::new(1), 1, underlay, 1600);
        scene.vxlan(0, "vx0", 100, station(0), "");
        let (pod, remote) = (scene.pods.pod(0), scene.remote(0));
        let daemon = Daemon::start(&scene.pods.fwd, &scene.config(1, "", ""));
        Ping::new(&Overlay::ip4(0)).until(pod, Duration::from_secs(5));
        // The host behind the address is replaced, and says so (gratuitous ARP, unsolicited advertisement).
        for knob in ["ipv4/conf/eth0/arp_notify", "ipv6/conf/eth0/ndisc_notify"] {
            remote.sysctl(&format!("net/{knob}"), "1");
        }
        let flow = Flow::start(pod, remote, &Overlay::ip4(0), 1000, 100);
        std::thread::sleep(Duration::from_millis(300));
        remote.run(&format!("ip link set eth0 address {}", Mac::local(0x5ff)));
        if underlay == Underlay::V6 {
            // The kernel advertises an address when it is added.
            remote.run(&format!("ip addr del {}/64 dev eth0", underlay.remote(0)));
            remote.addr("eth0", &format!("{}/64", underlay.remote(0)));
        }
        std::thread::sleep(Duration::from_secs(2));
        let during = flow.stop();
        assert!(during.received > 300, "{during:?}");
        Flow::start(pod, remote, &Overlay::ip4(0), 1000, 100)
            .run(Duration::from_secs(1))
            .assert_whole();
        daemon.assert_ledger();
    }
}

#[test]
fn a_next_hop_may_be_a_gateway() {
    if !ready() {
        return;
    }
    // The remote is not on the uplink's network: the kernel's route leads to it through a router.
    let scene = Overlay::new(Pods::new(1), 1, Underlay::V4, 1600);
    let far = scene.remote(0);
    let router = &scene.sw;
    router.addr("br0", "192.0.2.254/24");
    router.addr("br0", "198.51.100.254/24");
    router.sysctl("net/ipv4/ip_forward", "1");
    // The bridge must not carry it around the router.
    far.run("ip addr flush dev eth0");
    far.addr("eth0", "198.51.100.10/24");
    far.run("ip route add default via 198.51.100.254");
    scene.pods.fwd.run("ip route add 198.51.100.0/24 via 192.0.2.254");
    Vxlan::new(100, "198.51.100.10", "192.0.2.1").up(far, "vx0", "eth0");
    far.addr("vx0", "10.0.0.100/24");
    let config = scene.config(1, "", "").replace("192.0.2.10", "198.51.100.10");
    let daemon = Daemon::start(&scene.pods.fwd, &config);
    Ping::new("10.0.0.100").until(scene.pods.pod(0), Duration::from_secs(5));
    Ping::new("10.0.0.100").all(scene.pods.pod(0));
    // The route changes while it runs.
    router.addr("br0", "192.0.2.253/24");
    scene
        .pods
        .fwd
        .run("ip route replace 198.51.100.0/24 via 192.0.2.253");
    wait_for("the new next hop is used", Duration::from_secs(5), || {
        let tunnel = daemon.get("tunnels")[0].clone();
        (tunnel["next_hop"] == "192.0.2.253" && tunnel["state"] == "up").then_some(())
    });
    Ping::new("10.0.0.100").all(scene.pods.pod(0));
    Ping::new(&Pods::ip4(0)).all(far);
    daemon.assert_ledger();
}

#[test]
fn the_vtep_may_be_kept_above_the_uplink() {
    if !ready() {
        return;
    }
    for underlay in BOTH {
        // As with BGP: the VTEP's address is on an interface without a wire, and is routed to through the uplink.
        let scene = Overlay::new(Pods::new(1), 1, underlay, 1600);
        let (fwd, remote, pod) = (&scene.pods.fwd, scene.remote(0), scene.pods.pod(0));
        let (local, bits, via) = match underlay {
            Underlay::V4 => ("10.0.9.1", 32, ""),
            Underlay::V6 => ("2001:db8:9::1", 128, "-6 "),
        };
        fwd.run("ip link add br9 type bridge");
        fwd.sysctl("net/ipv6/conf/br9/disable_ipv6", "0");
        fwd.run("ip link set br9 up");
        fwd.addr("br9", &format!("{local}/{bits}"));
        assert_ne!(fwd.mac("br9"), fwd.mac("u0"));
        remote.run(&format!(
            "ip {via}route add {local}/{bits} via {}",
            underlay.local()
        ));
        Vxlan::new(100, &underlay.remote(0), local).up(remote, "vx0", "eth0");
        remote.addr("vx0", "10.0.0.100/24");
        let config = scene.config(1, "", "");
        let config = config.replace(
            &format!("local: '{}'", underlay.local()),
            &format!("local: '{local}'"),
        );
        let daemon = Daemon::start(fwd, &config);
        Ping::new(&Overlay::ip4(0)).until(pod, Duration::from_secs(5));
        Ping::new(&Overlay::ip4(0)).all(pod);
        tcp_echo(remote, pod, &Pods::ip4(0), 500_000);
        daemon.assert_ledger();
    }
}
