//! VXLAN with the kernel's own device as the peer, over IPv4 and IPv6 alike.

mod headers;
mod next_hops;

use clearway_tests::frame::{self, EXPERIMENT, Mac};
use clearway_tests::{
    Daemon, Flow, Netns, Overlay, Ping, PingProbe, Pods, RawPort, TcpProbe, Underlay, Vxlan, iperf_tcp,
    iperf_udp, numbered, ready, tcp_echo, wait_for,
};
use std::time::Duration;

const SILENCE: Duration = Duration::from_millis(150);
const BOTH: [Underlay; 2] = [Underlay::V4, Underlay::V6];

/// The station behind remote `n`.
fn station(n: usize) -> Mac {
    Mac::local(0x600 + n as u32)
}

/// An Ethernet frame from the station behind remote `n`.
fn from_remote(number: u32, n: usize, dst: Mac) -> Vec<u8> {
    frame::ethernet(dst, station(n), &[], EXPERIMENT, &frame::payload(number, 100))
}

fn kernel_peer(underlay: Underlay) {
    if !ready() {
        return;
    }
    let scene = Overlay::new(Pods::new(2), 1, underlay, 1600);
    scene.vxlan(0, "vx0", 100, station(0), "");
    let (fwd, remote, pod) = (&scene.pods.fwd, scene.remote(0), scene.pods.pod(0));
    let daemon = Daemon::start(fwd, &scene.config(2, "", ""));
    // The uplink is the kernel's: it answers from before the first overlay frame until after the last.
    let pings = PingProbe::start(remote, underlay.local(), Duration::from_millis(20));
    let tcp = TcpProbe::start(remote, fwd, underlay.local(), Duration::from_millis(5));

    let (ip4, ip6) = (Overlay::ip4(0), Overlay::ip6(0));
    Ping::new(&ip4).all(pod);
    Ping::new(&ip6).all(pod);
    Ping::new(&Pods::ip4(1)).args("-M do -s 1472").all(remote);
    Ping::new(&Pods::ip6(1)).args("-M do -s 1452").all(remote);
    tcp_echo(pod, remote, &ip4, 3_000_000);
    tcp_echo(remote, pod, &Pods::ip6(0), 3_000_000);
    let rate = iperf_tcp(pod, remote, &ip4, 1, "");
    assert!(rate.mbits > 20.0, "{rate:?}");
    let back = iperf_tcp(pod, remote, &ip4, 1, "-R");
    assert!(back.mbits > 20.0, "{back:?}");
    let udp = iperf_udp(pod, remote, &ip4, 1, 20, "");
    assert_eq!(udp.lost, 0, "{udp:?}");
    Flow::start(pod, remote, &ip4, 3000, 200)
        .run(Duration::from_secs(1))
        .assert_whole();
    Flow::start(remote, pod, &Pods::ip4(0), 3000, 200)
        .run(Duration::from_secs(1))
        .assert_whole();
    Flow::start(pod, scene.pods.pod(1), &Pods::ip4(1), 3000, 200)
        .run(Duration::from_millis(500))
        .assert_whole();
    assert_eq!(daemon.fdb_port("lan", station(0)), Some(underlay.remote(0)));

    let pings = pings.stop();
    assert!(
        pings.sent > 50 && pings.lost() <= 1 && pings.duplicates == 0,
        "the uplink's own address: {pings:?}"
    );
    let tcp = tcp.stop();
    assert!(
        tcp.broken.is_none() && tcp.exchanges > 100,
        "the uplink's own address: {tcp:?}"
    );
    daemon.assert_ledger();
    daemon.stop();
    // And afterwards.
    Ping::new(underlay.local()).all(remote);
}

#[test]
fn a_kernel_peer_over_ipv4() {
    kernel_peer(Underlay::V4);
}

#[test]
fn a_kernel_peer_over_ipv6() {
    kernel_peer(Underlay::V6);
}

#[test]
fn floods_reach_every_remote_once() {
    if !ready() {
        return;
    }
    for underlay in BOTH {
        let scene = Overlay::new(Pods::quiet(2), 2, underlay, 1600);
        let mut remotes = Vec::new();
        for n in 0..2 {
            scene.vxlan_quiet(n, "vx0", 100);
            remotes.push(RawPort::open(scene.remote(n), "vx0"));
        }
        let daemon = Daemon::start(&scene.pods.fwd, &scene.config(2, "", ""));
        let mut pods = scene.pods.raw();
        let (r, p) = (&mut remotes, &mut pods);
        // The next hops are resolved by the daemon itself, before any traffic or with the first frames.
        wait_for("both remotes are reached", Duration::from_secs(5), || {
            p[0].send(&numbered(1, 0, Mac::BROADCAST, &[]));
            std::thread::sleep(Duration::from_millis(50));
            let arrived = [r[0].next(SILENCE), r[1].next(SILENCE)];
            arrived.iter().all(Option::is_some).then_some(())
        });
        for wire in r.iter_mut().chain(p.iter_mut()) {
            wire.clear();
        }

        for (n, dst) in [
            (2, Mac::BROADCAST),
            (3, station(0)),
            (4, Mac([0x33, 0x33, 0, 0, 0, 9])),
        ] {
            let flooded = numbered(n, 0, dst, &[]);
            p[0].send(&flooded);
            p[1].expect(&flooded);
            r[0].expect(&flooded);
            r[1].expect(&flooded);
        }
        // A station answers: from now on frames to it go to its remote alone.
        let answer = from_remote(5, 0, Pods::mac(0));
        r[0].send(&answer);
        p[0].expect(&answer);
        let unicast = numbered(6, 0, station(0), &[]);
        p[0].send(&unicast);
        r[0].expect(&unicast);
        // What a remote floods reaches the pods and no other remote: remotes are fully meshed (split horizon).
        let flooded = from_remote(7, 1, Mac::BROADCAST);
        r[1].send(&flooded);
        p[0].expect(&flooded);
        p[1].expect(&flooded);
        // The station moves behind the other remote, and is followed.
        let moved = from_remote(8, 0, Pods::mac(0));
        r[1].send(&moved);
        p[0].expect(&moved);
        let unicast = numbered(9, 0, station(0), &[]);
        p[0].send(&unicast);
        r[1].expect(&unicast);
        for wire in r.iter_mut().chain(p.iter_mut()) {
            wire.expect_silence(SILENCE);
        }
        daemon.assert_ledger();
    }
}

#[test]
fn jumbo_frames_pass() {
    if !ready() {
        return;
    }
    for underlay in BOTH {
        let scene = Overlay::new(
            Pods::shaped(1, |wire| wire.mtu(9000)),
            1,
            underlay,
            9000 + underlay.overhead(),
        );
        scene.vxlan(0, "vx0", 100, station(0), "");
        let (pod, remote) = (scene.pods.pod(0), scene.remote(0));
        let daemon = Daemon::start(&scene.pods.fwd, &scene.config(1, "", ""));
        Ping::new(&Overlay::ip4(0)).until(pod, Duration::from_secs(5));
        Ping::new(&Overlay::ip4(0)).args("-M do -s 8972").all(pod);
        Ping::new(&Pods::ip6(0)).args("-M do -s 8952").all(remote);
        tcp_echo(pod, remote, &Overlay::ip4(0), 3_000_000);
        tcp_echo(remote, pod, &Pods::ip6(0), 3_000_000);
        daemon.assert_ledger();
    }
}

#[test]
fn too_big_is_told_to_the_sender() {
    if !ready() {
        return;
    }
    for underlay in BOTH {
        // Pods believe in 1500, the underlay carries 1500: what fits inside is less.
        let scene = Overlay::new(Pods::new(1), 1, underlay, 1500);
        scene.vxlan(0, "vx0", 100, station(0), "");
        let (pod, remote) = (scene.pods.pod(0), scene.remote(0));
        let daemon = Daemon::start(&scene.pods.fwd, &scene.config(1, "", ""));
        Ping::new(&Overlay::ip4(0)).until(pod, Duration::from_secs(5));
        Ping::new(&Overlay::ip6(0)).until(pod, Duration::from_secs(5));
        let fits = 1500 - underlay.overhead();
        let before = daemon.dropped("tunnel_mtu");
        for (to, headers) in [(Overlay::ip4(0), 28), (Overlay::ip6(0), 48)] {
            Ping::new(&to).args("-c 1 -W 0.3 -M do -s 1452").none(pod);
            // The pod's kernel has been told and now knows the path's MTU (RFC 1191, RFC 8201).
            let route = pod.run(&format!("ip route get {to}"));
            assert!(
                route.contains(&format!("mtu {fits}")),
                "{underlay:?}, {to}: {route}"
            );
            let exact = fits - headers;
            Ping::new(&to).args(&format!("-M do -s {exact}")).all(pod);
            Ping::new(&to)
                .args(&format!("-c 1 -W 0.3 -M do -s {}", exact + 1))
                .none(pod);
        }
        assert!(daemon.dropped("tunnel_mtu") >= before + 2);
        tcp_echo(pod, remote, &Overlay::ip4(0), 500_000);
        tcp_echo(pod, remote, &Overlay::ip6(0), 500_000);
        daemon.assert_ledger();
    }
}

#[test]
fn strangers_are_counted_and_dropped() {
    if !ready() {
        return;
    }
    let scene = Overlay::new(Pods::quiet(1), 2, Underlay::V4, 1600);
    let config = scene.config(1, "", "").replace(", '192.0.2.11'", "");
    let daemon = Daemon::start(&scene.pods.fwd, &config);
    scene.vxlan(0, "vx0", 100, station(0), "");
    scene.vxlan(0, "other", 999, station(0), "");
    scene.vxlan(1, "vx0", 100, station(1), "");
    let mut pod = scene.pods.raw().remove(0);
    let mut friend = RawPort::open(scene.remote(0), "vx0");
    let hello = from_remote(1, 0, Mac::BROADCAST);
    friend.send(&hello);
    pod.find("a friend's frame", |f| f == hello);

    for (n, dev, reason) in [(0, "other", "unknown_vni"), (1, "vx0", "unknown_remote")] {
        let mut wire = RawPort::open(scene.remote(n), dev);
        let before = daemon.dropped(reason);
        let strange = from_remote(77, n, Mac::BROADCAST);
        for _ in 0..5 {
            wire.send(&strange);
        }
        let got = pod.all(SILENCE);
        assert!(!got.contains(&strange), "{reason}: it passed");
        // The kernel's own neighbour and multicast frames on that device count too.
        assert!(daemon.dropped(reason) >= before + 5, "{reason}");
    }
    assert!(
        daemon.fdb_port("lan", station(1)).is_none(),
        "a stranger's frames must not be learned from"
    );
    daemon.assert_ledger();
}

#[test]
fn segments_are_apart() {
    if !ready() {
        return;
    }
    let scene = Overlay::new(Pods::new(2), 1, Underlay::V4, 1600);
    scene.vxlan(0, "red", 100, station(0), "");
    let blue = Netns::new("blue");
    // The same addresses in the second segment, in a namespace of their own over the same underlay socket.
    let peer = Vxlan::new(200, "192.0.2.10", "192.0.2.1");
    peer.up(scene.remote(0), "blue", "eth0");
    scene
        .remote(0)
        .run(&format!("ip link set blue netns {}", blue.name()));
    blue.addr("blue", "10.0.0.100/24");
    blue.run("ip link set blue up");
    let config = "
ports:
  up: {kind: af-xdp, interface: u0, steering: shared}
  pod0: {kind: af-xdp, interface: p0, access: red}
  pod1: {kind: af-xdp, interface: p1, access: blue}
vteps:
  v: {local: 192.0.2.1, port: up}
bridge-domains:
  red: {vni: 100, remotes: [192.0.2.10]}
  blue: {vni: 200, remotes: [192.0.2.10]}
";
    let daemon = Daemon::start(&scene.pods.fwd, config);
    for pod in [0, 1] {
        Ping::new("10.0.0.100").until(scene.pods.pod(pod), Duration::from_secs(5));
        Ping::new("10.0.0.100").all(scene.pods.pod(pod));
    }
    Ping::new(&Pods::ip4(1)).all(&blue);
    Ping::new(&Pods::ip4(1)).args("-c 2 -W 0.3").none(scene.remote(0));
    Ping::new(&Pods::ip4(0)).args("-c 2 -W 0.3").none(&blue);
    assert!(daemon.fdb_port("red", blue.mac("blue")).is_none());
    daemon.assert_ledger();
}

#[test]
fn static_stations_need_no_flood() {
    if !ready() {
        return;
    }
    let scene = Overlay::new(Pods::quiet(1), 2, Underlay::V4, 1600);
    let domain = format!(", static: [{{mac: '{}', remote: 192.0.2.11}}]", station(9));
    let daemon = Daemon::start(&scene.pods.fwd, &scene.config(1, &domain, ""));
    for n in 0..2 {
        scene.vxlan_quiet(n, "vx0", 100);
    }
    let mut remotes = [0, 1].map(|n| RawPort::open(scene.remote(n), "vx0"));
    let mut pod = scene.pods.raw().remove(0);
    let frame = numbered(1, 0, station(9), &[]);
    wait_for("the static station is reached", Duration::from_secs(5), || {
        pod.send(&frame);
        remotes[1].next(SILENCE).filter(|f| *f == frame)
    });
    remotes[0].expect_silence(SILENCE);
    assert_eq!(daemon.fdb_port("lan", station(9)).as_deref(), Some("192.0.2.11"));
    daemon.assert_ledger();
}

#[test]
fn known_hosts_are_answered_for() {
    if !ready() {
        return;
    }
    let scene = Overlay::new(Pods::new(1), 1, Underlay::V4, 1600);
    let domain = format!(
        ", suppress-neighbours: true, hosts: [{{ip: 10.0.0.100, mac: '{0}'}}, {{ip: 'fd00::64', mac: '{0}'}}]",
        station(0)
    );
    scene.vxlan_quiet(0, "vx0", 100);
    let daemon = Daemon::start(&scene.pods.fwd, &scene.config(1, &domain, ""));
    let mut wire = RawPort::open(scene.remote(0), "vx0");
    let pod = scene.pods.pod(0);
    for ip in ["10.0.0.100", "fd00::64"] {
        // Nobody is there to answer the ping, but the pod learns the address.
        Ping::new(ip).args("-c 1 -W 0.3").none(pod);
        let neighbours = pod.run(&format!("ip neigh show {ip}"));
        assert!(neighbours.contains(&station(0).to_string()), "{ip}: {neighbours}");
    }
    Ping::new("10.0.0.101").args("-c 1 -W 0.3").none(pod);
    let arps: Vec<_> = wire
        .all(SILENCE)
        .into_iter()
        .filter(|f| frame::ether_type(f) == frame::ARP)
        .collect();
    assert!(!arps.is_empty(), "a request for an unknown host must be flooded");
    // Target protocol address of an ARP request (RFC 826).
    assert!(
        arps.iter().all(|f| f[38..42] == [10, 0, 0, 101]),
        "a request for a known host was flooded"
    );
    daemon.assert_ledger();
}
