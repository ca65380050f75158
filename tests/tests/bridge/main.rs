//! Bridge domains between pods: real stacks reach each other, every frame goes where it must and nowhere else,
//! and the ledger knows about each.

mod limits;

use clearway_tests::frame::{self, EXPERIMENT, Mac, Tag};
use clearway_tests::{
    Daemon, DaemonBuilder, Flow, Netns, Ping, Pods, iperf_tcp, iperf_udp, numbered, ready, tcp_echo,
    tcp_refused, wait_for,
};
use std::time::{Duration, Instant};

const SILENCE: Duration = Duration::from_millis(150);

/// Pods 0 to n-1 in one domain; `extra` follows each port's keys, `domain` the domain's.
fn lan(ports: usize, extra: &dyn Fn(usize) -> String, domain: &str) -> String {
    let mut text = String::from("ports:\n");
    for n in 0..ports {
        text += &format!(
            "  pod{n}: {{kind: af-xdp, interface: p{n}, access: lan{}}}\n",
            extra(n)
        );
    }
    text + &format!("bridge-domains:\n  lan: {{{domain}}}\n")
}

fn plain(_: usize) -> String {
    String::new()
}

/// Keys of the first port alone.
fn first_has(keys: &str) -> impl Fn(usize) -> String {
    move |n| if n == 0 { keys.to_owned() } else { String::new() }
}

#[test]
fn two_pods_talk() {
    if !ready() {
        return;
    }
    let pods = Pods::new(2);
    let daemon = Daemon::start(&pods.fwd, &lan(2, &plain, ""));
    let (a, b) = (pods.pod(0), pods.pod(1));
    Ping::new(&Pods::ip4(1)).all(a);
    Ping::new(&Pods::ip6(1)).all(a);
    Ping::new(&Pods::ip4(0)).args("-s 1472 -M do").all(b);
    tcp_echo(a, b, &Pods::ip4(1), 5_000_000);
    tcp_echo(b, a, &Pods::ip6(0), 5_000_000);
    let tcp = iperf_tcp(a, b, &Pods::ip4(1), 2, "");
    assert!(tcp.mbits > 50.0, "{tcp:?}");
    let udp = iperf_udp(a, b, &Pods::ip6(1), 2, 50, "-6");
    assert_eq!(udp.lost, 0, "{udp:?}");
    Flow::start(a, b, &Pods::ip4(1), 5000, 200)
        .run(Duration::from_secs(1))
        .assert_whole();

    for (n, port) in ["pod0", "pod1"].into_iter().enumerate() {
        assert_eq!(daemon.fdb_port("lan", Pods::mac(n)).as_deref(), Some(port));
    }
    daemon.assert_ledger();
    daemon.stop();
}

#[test]
fn the_short_form_is_one_domain() {
    if !ready() {
        return;
    }
    let pods = Pods::new(3);
    let line = "--port af-xdp:p0 --port af-xdp:p1 --port af-xdp:p2 --core 1";
    let daemon = DaemonBuilder::args(&pods.fwd, line).start();
    for other in [1, 2] {
        Ping::new(&Pods::ip4(other)).all(pods.pod(0));
    }
    Ping::new(&Pods::ip6(2)).all(pods.pod(1));
    daemon.assert_ledger();
    daemon.stop();
}

#[test]
fn pods_keep_their_offloads() {
    if !ready() {
        return;
    }
    // As a container runtime leaves them: unfinished checksums and frames larger than the MTU on the wire.
    let pods = Pods::shaped(2, |wire| wire.with_offloads());
    let daemon = Daemon::start(&pods.fwd, &lan(2, &plain, ""));
    let (a, b) = (pods.pod(0), pods.pod(1));
    Ping::new(&Pods::ip4(1)).all(a);
    tcp_echo(a, b, &Pods::ip4(1), 2_000_000);
    tcp_echo(b, a, &Pods::ip6(0), 2_000_000);
    Flow::start(a, b, &Pods::ip4(1), 2000, 200)
        .run(Duration::from_millis(500))
        .assert_whole();
    daemon.assert_ledger();
}

#[test]
fn jumbo_frames_pass() {
    if !ready() {
        return;
    }
    let pods = Pods::shaped(2, |wire| wire.mtu(9000));
    let daemon = Daemon::start(&pods.fwd, &lan(2, &plain, ""));
    let (a, b) = (pods.pod(0), pods.pod(1));
    Ping::new(&Pods::ip4(1)).args("-s 8972 -M do").all(a);
    Ping::new(&Pods::ip6(0)).args("-s 8952 -M do").all(b);
    tcp_echo(a, b, &Pods::ip4(1), 5_000_000);
    Flow::start(a, b, &Pods::ip4(1), 2000, 8900)
        .run(Duration::from_millis(500))
        .assert_whole();
    daemon.assert_ledger();
}

#[test]
fn jumbo_frames_of_pods_that_keep_their_offloads_pass() {
    if !ready() {
        return;
    }
    // The checksum that a pod leaves to its device is over several chunks here.
    let pods = Pods::shaped(2, |wire| wire.with_offloads().mtu(9000));
    let daemon = Daemon::start(&pods.fwd, &lan(2, &plain, ""));
    let (a, b) = (pods.pod(0), pods.pod(1));
    tcp_echo(a, b, &Pods::ip4(1), 2_000_000);
    tcp_echo(b, a, &Pods::ip6(0), 2_000_000);
    Flow::start(a, b, &Pods::ip4(1), 2000, 8901)
        .run(Duration::from_millis(500))
        .assert_whole();
    daemon.assert_ledger();
}

#[test]
fn unknown_is_flooded_and_known_is_not() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(3);
    let daemon = Daemon::start(&pods.fwd, &lan(3, &plain, ""));
    let mut wires = pods.raw();

    let unknown = numbered(1, 0, Pods::mac(1), &[]);
    wires[0].send(&unknown);
    wires[1].expect(&unknown);
    wires[2].expect(&unknown);
    wires[0].expect_silence(SILENCE);

    let answer = numbered(2, 1, Pods::mac(0), &[]);
    wires[1].send(&answer);
    wires[0].expect(&answer);
    let known = numbered(3, 0, Pods::mac(1), &[]);
    wires[0].send(&known);
    wires[1].expect(&known);
    wires[2].expect_silence(SILENCE);

    for group in [
        Mac::BROADCAST,
        Mac([0x33, 0x33, 0, 0, 0, 1]),
        Mac([1, 0, 0x5e, 0, 0, 5]),
    ] {
        let frame = numbered(4, 2, group, &[]);
        wires[2].send(&frame);
        wires[0].expect(&frame);
        wires[1].expect(&frame);
    }
    wires[2].expect_silence(SILENCE);

    // A bridge must not forward these (IEEE 802.1Q §8.6.3).
    let before = daemon.dropped("link_local");
    wires[0].send(&numbered(5, 0, Mac([1, 0x80, 0xc2, 0, 0, 0]), &[]));
    wires[1].expect_silence(SILENCE);
    assert_eq!(daemon.dropped("link_local"), before + 1);
    // Nor take a group address for a station.
    let before = daemon.dropped("invalid_source");
    wires[0].send(&frame::ethernet(
        Pods::mac(1),
        Mac([1, 0, 0, 0, 0, 1]),
        &[],
        EXPERIMENT,
        &[0; 50],
    ));
    wires[1].expect_silence(SILENCE);
    assert_eq!(daemon.dropped("invalid_source"), before + 1);
    daemon.assert_ledger();
}

#[test]
fn a_station_that_moves_is_followed() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(3);
    let daemon = Daemon::start(&pods.fwd, &lan(3, &plain, ""));
    let mut wires = pods.raw();
    let hello = numbered(1, 1, Mac::BROADCAST, &[]);
    for place in [1, 2, 1] {
        wires[place].send(&hello);
        wires[0].expect(&hello);
        for wire in &mut wires {
            wire.clear();
        }
        let to_it = numbered(2, 0, Pods::mac(1), &[]);
        wires[0].send(&to_it);
        wires[place].expect(&to_it);
        wires[3 - place].expect_silence(SILENCE);
    }
    daemon.assert_ledger();
}

#[test]
fn a_silent_station_is_forgotten() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(2);
    let daemon = Daemon::start(&pods.fwd, &lan(2, &plain, "aging: 10s"));
    let mut wires = pods.raw();
    wires[0].send(&numbered(1, 0, Mac::BROADCAST, &[]));
    wait_for("the address is learned", Duration::from_secs(5), || {
        daemon.fdb_port("lan", Pods::mac(0))
    });
    let learned = Instant::now();
    wait_for("the address is forgotten", Duration::from_secs(25), || {
        daemon.fdb_port("lan", Pods::mac(0)).is_none().then_some(())
    });
    assert!(
        learned.elapsed() > Duration::from_secs(8),
        "forgotten too early: {:?}",
        learned.elapsed()
    );
}

#[test]
fn domains_are_apart() {
    if !ready() {
        return;
    }
    // Pods 0, 1 are red and 2, 3 are blue; red and blue use the same addresses, MAC addresses too.
    let pods = Pods::quiet(4);
    let config = "
ports:
  a: {kind: af-xdp, interface: p0, access: red}
  b: {kind: af-xdp, interface: p1, access: red}
  c: {kind: af-xdp, interface: p2, access: blue}
  d: {kind: af-xdp, interface: p3, access: blue}
bridge-domains:
  red: {}
  blue: {}
";
    let daemon = Daemon::start(&pods.fwd, config);
    let mut wires = pods.raw();
    for (n, (from, to)) in [(0, 1), (2, 3), (1, 0), (3, 2)].into_iter().enumerate() {
        let hello = frame::ethernet(
            Mac::BROADCAST,
            Mac::local(7),
            &[],
            EXPERIMENT,
            &frame::payload(n as u32, 60),
        );
        wires[from].send(&hello);
        wires[to].expect(&hello);
        // A frame to a station that only the other domain knows is unknown here.
        let lost = frame::ethernet(
            Pods::mac(9),
            Pods::mac(from),
            &[],
            EXPERIMENT,
            &frame::payload(99, 60),
        );
        wires[from].send(&lost);
        wires[to].expect(&lost);
    }
    for wire in &mut wires {
        wire.expect_silence(SILENCE);
    }
    assert!(daemon.fdb_port("red", Pods::mac(2)).is_none());
    assert!(daemon.fdb_port("blue", Pods::mac(2)).is_some());
    daemon.assert_ledger();
}

#[test]
fn isolated_ports_reach_only_others() {
    if !ready() {
        return;
    }
    let pods = Pods::new(3);
    let isolated = |n| {
        if n < 2 {
            ", isolated: true".to_owned()
        } else {
            String::new()
        }
    };
    let daemon = Daemon::start(&pods.fwd, &lan(3, &isolated, ""));
    let (a, b, gateway) = (pods.pod(0), pods.pod(1), pods.pod(2));
    Ping::new(&Pods::ip4(2)).all(a);
    Ping::new(&Pods::ip4(2)).all(b);
    Ping::new(&Pods::ip6(0)).all(gateway);
    Ping::new(&Pods::ip4(1)).args("-c 2 -W 0.3").none(a);
    tcp_refused(b, a, &Pods::ip4(0));
    // A known unicast address does not open a way either.
    let mut wires = pods.raw();
    let before = daemon.dropped("isolated");
    wires[0].send(&numbered(1, 0, Pods::mac(1), &[]));
    wait_for("the drop is counted", Duration::from_secs(5), || {
        (daemon.dropped("isolated") > before).then_some(())
    });
    daemon.assert_ledger();
}

#[test]
fn spoofed_sources_are_dropped() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(2);
    let own = |n| {
        if n == 0 {
            format!(", allowed-macs: ['{}']", Pods::mac(0))
        } else {
            String::new()
        }
    };
    let daemon = Daemon::start(&pods.fwd, &lan(2, &own, ""));
    let mut wires = pods.raw();
    let honest = numbered(1, 0, Mac::BROADCAST, &[]);
    wires[0].send(&honest);
    wires[1].expect(&honest);
    for n in 0..10 {
        let forged = frame::ethernet(
            Mac::BROADCAST,
            Mac::local(n),
            &[],
            EXPERIMENT,
            &frame::payload(n, 80),
        );
        wires[0].send(&forged);
    }
    wires[1].expect_silence(SILENCE);
    assert_eq!(daemon.dropped("spoofed_source"), 10);
    assert!(
        daemon.fdb_port("lan", Mac::local(3)).is_none(),
        "a forged address must not be learned"
    );
    daemon.assert_ledger();
}

#[test]
fn static_addresses_stay() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(3);
    let station = Mac::local(77);
    let domain = format!("static: [{{mac: '{station}', port: pod1}}]");
    let daemon = Daemon::start(&pods.fwd, &lan(3, &plain, &domain));
    let mut wires = pods.raw();
    // Another port claims the address: it is not believed.
    wires[2].send(&frame::ethernet(
        Mac::BROADCAST,
        station,
        &[],
        EXPERIMENT,
        &[0; 60],
    ));
    std::thread::sleep(SILENCE);
    for wire in &mut wires {
        wire.clear();
    }
    let frame = numbered(1, 0, station, &[]);
    wires[0].send(&frame);
    wires[1].expect(&frame);
    wires[2].expect_silence(SILENCE);
    assert_eq!(daemon.fdb_port("lan", station).as_deref(), Some("pod1"));
    daemon.assert_ledger();
}

#[test]
fn a_cross_connect_changes_nothing() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(2);
    let config = "
ports:
  a: {kind: af-xdp, interface: p0}
  b: {kind: af-xdp, interface: p1}
cross-connects: [[a, b]]
";
    let daemon = Daemon::start(&pods.fwd, config);
    let mut wires = pods.raw();
    let lacp = Mac([1, 0x80, 0xc2, 0, 0, 2]);
    let frames = [
        numbered(1, 0, Pods::mac(1), &[]),
        numbered(2, 0, Mac::BROADCAST, &[Tag::c(5).pcp(7)]),
        numbered(3, 0, Pods::mac(1), &[Tag::s(4000).pcp(2), Tag::c(1)]),
        numbered(4, 0, lacp, &[]),
        // Both addresses the same, as a loop would have it.
        frame::ethernet(Pods::mac(0), Pods::mac(0), &[], 0x88b6, &frame::payload(5, 1500)),
    ];
    for (from, to) in [(0, 1), (1, 0)] {
        for frame in &frames {
            wires[from].send(frame);
            wires[to].expect(frame);
        }
    }
    daemon.assert_ledger();
    daemon.stop();
}

#[test]
fn the_short_form_cross_connects() {
    if !ready() {
        return;
    }
    let pods = Pods::new(2);
    let line = "--port af-xdp:p0 --port af-xdp:p1 --cross-connect --core 0";
    let daemon = DaemonBuilder::args(&pods.fwd, line).start();
    Ping::new(&Pods::ip4(1)).all(pods.pod(0));
    tcp_echo(pods.pod(0), pods.pod(1), &Pods::ip6(1), 1_000_000);
    daemon.assert_ledger();
}

#[test]
fn a_thousand_frames_are_a_thousand() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(3);
    let daemon = Daemon::start(&pods.fwd, &lan(3, &plain, ""));
    let mut wires = pods.raw();
    for n in 0..1000 {
        wires[0].send(&numbered(n, 0, Mac::BROADCAST, &[]));
    }
    for to in [1, 2] {
        let got = wires[to].all(Duration::from_millis(500));
        let want: Vec<_> = (0..1000).map(|n| numbered(n, 0, Mac::BROADCAST, &[])).collect();
        assert!(
            got == want,
            "pod {to} got {} frames, or in another order",
            got.len()
        );
    }
    let ledger = daemon.assert_ledger();
    assert_eq!(
        (ledger.received, ledger.replicated, ledger.sent),
        (1000, 1000, 2000),
        "{ledger:?}"
    );
}

#[test]
fn memory_of_a_namespace_is_given_back() {
    if !ready() {
        return;
    }
    // The daemon's own end: a namespace that it ran in can be deleted, so no socket or program is left in it.
    let pods = Pods::new(2);
    let name = pods.fwd.name().to_owned();
    Daemon::start(&pods.fwd, &lan(2, &plain, "")).stop();
    let Pods { fwd, .. } = pods;
    drop::<Netns>(fwd);
    assert!(!std::path::Path::new("/run/netns").join(name).exists());
}
