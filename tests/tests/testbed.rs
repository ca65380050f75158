//! The test bed itself, with the kernel's own forwarding in Clearway's place: a helper that cannot see a lost
//! datagram or a wrong byte would prove nothing.

use clearway_tests::frame::{self, EXPERIMENT, Mac, Tag};
use clearway_tests::{
    Flow, Netns, Overlay, Ovs, Ping, PingProbe, Pods, RawPort, TcpProbe, Underlay, Veth, Vxlan, XskPeer,
    foreign_xdp, iperf_tcp, iperf_udp, ready, tcp_echo, tcp_refused,
};
use std::time::Duration;

/// `a.eth0 — sw.s0 [bridge] sw.s1 — b.eth0`, with addresses 10.0.0.1 and .2, fd00::1 and ::2.
fn bridged<'a>(a: &'a Netns, sw: &'a Netns, b: &'a Netns) {
    sw.run("ip link add br0 type bridge mcast_snooping 0");
    for (host, port, n) in [(a, "s0", 1), (b, "s1", 2)] {
        Veth::new((host, "eth0"), (sw, port)).up();
        host.addr("eth0", &format!("10.0.0.{n}/24"));
        host.addr("eth0", &format!("fd00::{n}/64"));
        sw.run(&format!("ip link set {port} master br0"));
    }
    sw.run("ip link set br0 up");
}

#[test]
fn real_stacks_reach_each_other() {
    if !ready() {
        return;
    }
    let (a, sw, b) = (Netns::new("a"), Netns::new("sw"), Netns::new("b"));
    bridged(&a, &sw, &b);
    Ping::new("10.0.0.2").all(&a);
    Ping::new("fd00::2").all(&a);
    Ping::new("10.0.0.9").args("-c 1 -W 0.2").none(&a);

    let background = PingProbe::start(&a, "10.0.0.2", Duration::from_millis(20));
    let watched = TcpProbe::start(&a, &b, "10.0.0.2", Duration::from_millis(5));
    tcp_echo(&a, &b, "fd00::2", 2_000_000);
    assert!(iperf_tcp(&a, &b, "10.0.0.2", 1, "").mbits > 10.0);
    let udp = iperf_udp(&a, &b, "10.0.0.2", 1, 20, "");
    assert!(udp.sent > 1000 && udp.lost == 0, "{udp:?}");
    let pinged = background.stop();
    assert!(pinged.sent > 20 && pinged.lost() <= 1, "{pinged:?}");
    let tcp = watched.stop();
    assert!(tcp.exchanges > 50 && tcp.broken.is_none(), "{tcp:?}");

    sw.run("ip link set s1 down");
    Ping::new("10.0.0.2").args("-c 1 -W 0.2").none(&a);
    tcp_refused(&a, &b, "10.0.0.2");
}

#[test]
fn a_flow_counts_exactly() {
    if !ready() {
        return;
    }
    let (a, sw, b) = (Netns::new("a"), Netns::new("sw"), Netns::new("b"));
    bridged(&a, &sw, &b);
    Ping::new("10.0.0.2").all(&a);
    let whole = Flow::start(&a, &b, "10.0.0.2", 5000, 200).run(Duration::from_millis(600));
    whole.assert_whole();
    assert!(whole.sent > 1000, "{whole:?}");
    assert_eq!(whole.sent, whole.received);

    let holes =
        Flow::start_skipping(&a, &b, "10.0.0.2", 5000, 64, |n| n % 10 == 3).run(Duration::from_millis(600));
    let skipped = (0..holes.sent).filter(|n| n % 10 == 3).count() as u64;
    assert_eq!(holes.lost, skipped, "{holes:?}");

    let flow = Flow::start(&a, &b, "10.0.0.2", 2000, 64);
    std::thread::sleep(Duration::from_millis(200));
    sw.run("ip link set s1 down");
    std::thread::sleep(Duration::from_millis(200));
    sw.run("ip link set s1 up");
    let cut = flow.run(Duration::from_millis(300));
    assert!(
        cut.lost > 100 && cut.longest_gap > Duration::from_millis(150),
        "{cut:?}"
    );
}

/// Two hosts that send nothing by themselves.
fn quiet_wire() -> (Netns, Netns) {
    let (a, b) = (Netns::quiet("a"), Netns::quiet("b"));
    Veth::new((&a, "eth0"), (&b, "eth0"))
        .macs(Mac::local(1), Mac::local(2))
        .up();
    (a, b)
}

#[test]
fn raw_frames_keep_their_tags() {
    if !ready() {
        return;
    }
    let (a, b) = quiet_wire();
    assert_eq!(a.mac("eth0"), Mac::local(1));
    let (mut at_a, mut at_b) = (RawPort::open(&a, "eth0"), RawPort::open(&b, "eth0"));
    for tags in [
        vec![],
        vec![Tag::c(7).pcp(3)],
        vec![Tag::s(100).pcp(5), Tag::c(4094)],
    ] {
        let sent = frame::ethernet(
            Mac::local(2),
            Mac::local(1),
            &tags,
            EXPERIMENT,
            &frame::payload(7, 100),
        );
        at_a.send(&sent);
        at_b.expect(&sent);
    }
    at_b.expect_silence(Duration::from_millis(50));
    // What this end sent itself is not "arrived".
    at_a.expect_silence(Duration::from_millis(50));
    let full = frame::ethernet(
        Mac::local(1),
        Mac::local(2),
        &[],
        EXPERIMENT,
        &frame::payload(8, 1500),
    );
    at_b.send(&full);
    at_a.expect(&full);
}

#[test]
fn vxlan_peers_over_both_families() {
    if !ready() {
        return;
    }
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    Veth::new((&a, "eth0"), (&b, "eth0")).mtu(1600).up();
    for (ns, n, other) in [(&a, 1, 2), (&b, 2, 1)] {
        ns.addr("eth0", &format!("192.0.2.{n}/24"));
        ns.addr("eth0", &format!("2001:db8::{n}/64"));
        Vxlan::new(100, &format!("192.0.2.{n}"), &format!("192.0.2.{other}")).up(ns, "vx4", "eth0");
        Vxlan::new(200, &format!("2001:db8::{n}"), &format!("2001:db8::{other}"))
            .port(4790)
            .up(ns, "vx6", "eth0");
        ns.addr("vx4", &format!("10.1.0.{n}/24"));
        ns.addr("vx6", &format!("10.2.0.{n}/24"));
    }
    Ping::new("10.1.0.2").args("-M do -s 1472").all(&a);
    Ping::new("10.2.0.2").args("-M do -s 1472").all(&a);
    tcp_echo(&a, &b, "10.2.0.2", 200_000);
}

#[test]
fn the_scene_works_with_the_kernel_in_clearways_place() {
    if !ready() {
        return;
    }
    for underlay in [Underlay::V4, Underlay::V6] {
        let scene = Overlay::new(Pods::new(2), 2, underlay, 1600);
        let fwd = &scene.pods.fwd;
        fwd.run("ip link add br0 type bridge mcast_snooping 0");
        Vxlan::new(100, underlay.local(), &underlay.remote(0))
            .remote(&underlay.remote(1))
            .up(fwd, "vx0", "u0");
        for port in ["p0", "p1", "vx0"] {
            fwd.run(&format!("ip link set {port} master br0"));
        }
        fwd.run("ip link set br0 up");
        for n in 0..2 {
            scene.vxlan(n, "vx0", 100, Mac::local(0x600 + n as u32), "");
            Ping::new(&Overlay::ip4(n)).all(scene.pods.pod(0));
            Ping::new(&Pods::ip6(1))
                .args("-M do -s 1400")
                .all(scene.remote(n));
        }
        Ping::new(underlay.local()).all(scene.remote(1));
    }
}

#[test]
fn open_vswitch_tags() {
    if !ready() {
        return;
    }
    let (host, wire) = (Netns::new("ovs"), Netns::quiet("wire"));
    Veth::new((&host, "up0"), (&wire, "eth0")).up();
    let ovs = Ovs::start(&host);
    ovs.bridge("br0");
    ovs.port("br0", "up0", "trunks=10,20");
    ovs.internal("br0", "in10", "tag=10");
    host.addr("in10", "10.10.0.1/24");
    let mut wire = RawPort::open(&wire, "eth0");
    host.try_run("ping -c 1 -W 0.2 10.10.0.2");
    let arp = wire.find("the ARP request", |f| frame::ether_type(f) == frame::ARP);
    assert_eq!(frame::tags(&arp).0, [Tag::c(10)]);
    assert_eq!(arp[6..12], host.mac("in10").0);
    assert!(ovs.appctl("dpif/show").contains("netdev"));
}

#[test]
fn open_vswitch_tunnels() {
    if !ready() {
        return;
    }
    for (prefix, local, remote) in [
        (24, "192.0.2.1", "192.0.2.10"),
        (64, "2001:db8::1", "2001:db8::a"),
    ] {
        let (here, host) = (Netns::new("here"), Netns::new("ovs"));
        Veth::new((&here, "eth0"), (&host, "up0")).mtu(1600).up();
        here.addr("eth0", &format!("{local}/{prefix}"));
        Vxlan::new(100, local, remote).up(&here, "vx0", "eth0");
        here.addr("vx0", "10.0.0.1/24");
        let ovs = Ovs::start(&host);
        ovs.bridge("br-phy");
        ovs.port("br-phy", "up0", "");
        host.addr("br-phy", &format!("{remote}/{prefix}"));
        ovs.bridge("br-int");
        ovs.vxlan("br-int", "vx100", 100, remote, local, "tag=10");
        ovs.internal("br-int", "in10", "tag=10");
        host.offloads_off("in10");
        host.addr("in10", "10.0.0.2/24");
        Ping::new("10.0.0.2").until(&here, Duration::from_secs(10));
        Ping::new("10.0.0.2").args("-M do -s 1472").all(&here);
        tcp_echo(&host, &here, "10.0.0.1", 200_000);
    }
}

#[test]
fn somebody_elses_program_is_found() {
    if !ready() {
        return;
    }
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    Veth::new((&a, "eth0"), (&b, "eth0")).up();
    a.addr("eth0", "10.0.0.1/24");
    b.addr("eth0", "10.0.0.2/24");
    let id = foreign_xdp(&a, "eth0", "somebody_else");
    assert!(
        a.run(&format!("bpftool prog show id {id}"))
            .contains("somebody_else")
    );
    // It passes everything.
    Ping::new("10.0.0.1").all(&b);
}

#[test]
fn xsk_peers_meet() {
    if !ready() {
        return;
    }
    let (a, b) = quiet_wire();
    let counting = XskPeer::start(&b, "eth0", "count 2000");
    let sending = XskPeer::start(
        &a,
        "eth0",
        &format!("send 2000 --size 200 --dst {} --pps 20000", Mac::local(2)),
    );
    let sent = sending.report(Duration::from_secs(5));
    assert_eq!(sent["sent"], 2000);
    let got = counting.report(Duration::from_secs(5));
    assert_eq!(
        (&got["received"], &got["lost"], &got["corrupt"]),
        (&2000.into(), &0.into(), &0.into()),
        "{got}"
    );

    let echo = XskPeer::start(&b, "eth0", "echo");
    let mut wire = RawPort::open(&a, "eth0");
    for (n, tags) in [(1, vec![]), (2, vec![Tag::c(30).pcp(6)])] {
        let payload = frame::payload(n, 300);
        wire.send(&frame::ethernet(
            Mac::local(2),
            Mac::local(1),
            &tags,
            EXPERIMENT,
            &payload,
        ));
        wire.expect(&frame::ethernet(
            Mac::local(1),
            Mac::local(2),
            &tags,
            EXPERIMENT,
            &payload,
        ));
    }
    assert_eq!(echo.stop()["echoed"], 2);
}

#[test]
fn nothing_outlives_its_owner() {
    if !ready() {
        return;
    }
    let name = {
        let a = Netns::new("gone");
        let proc = clearway_tests::Proc::start(&a, &["sleep", "60"]);
        let pid = proc.pid();
        drop(proc);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        a.name().to_owned()
    };
    assert!(!std::path::Path::new("/run/netns").join(name).exists());
}
