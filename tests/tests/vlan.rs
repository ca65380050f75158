//! VLANs on ports: which tags frames carry on the wire, byte by byte.

use clearway_tests::frame::{self, EXPERIMENT, Mac, Tag};
use clearway_tests::{Daemon, Flow, Ping, Pods, RawPort, Veth, iperf_tcp, iperf_udp, numbered, ready};
use std::time::Duration;

const SILENCE: Duration = Duration::from_millis(150);

/// Sends one broadcast of pod `from` with tags `sent`, and demands that exactly the pods named receive it, each with
/// its own tags.
#[track_caller]
fn crosses(wires: &mut [RawPort], n: u32, from: usize, sent: &[Tag], received: &[(usize, &[Tag])]) {
    wires[from].send(&numbered(n, from, Mac::BROADCAST, sent));
    for (to, tags) in received {
        wires[*to].expect(&numbered(n, from, Mac::BROADCAST, tags));
    }
    for (pod, wire) in wires.iter_mut().enumerate() {
        if !received.iter().any(|(to, _)| *to == pod) {
            wire.expect_silence(Duration::from_millis(30));
        }
    }
}

/// Sends one frame that must go nowhere, and demands that it is counted under `reason`.
#[track_caller]
fn dropped(daemon: &Daemon<'_>, wires: &mut [RawPort], from: usize, tags: &[Tag], reason: &str) {
    let before = daemon.dropped(reason);
    wires[from].send(&numbered(9999, from, Mac::BROADCAST, tags));
    for wire in wires.iter_mut() {
        wire.expect_silence(Duration::from_millis(50));
    }
    assert_eq!(
        daemon.dropped(reason),
        before + 1,
        "drops for {reason} of {tags:?} from pod {from}"
    );
}

#[test]
fn access_and_trunk() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(4);
    let config = "
ports:
  red: {kind: af-xdp, interface: p0, access: red}
  blue: {kind: af-xdp, interface: p1, access: blue}
  trunk: {kind: af-xdp, interface: p2, trunk: [10, 20]}
  other: {kind: af-xdp, interface: p3, trunk: [10]}
bridge-domains:
  red: {vlan: 10}
  blue: {vlan: 20}
  green: {vlan: 30}
";
    let daemon = Daemon::start(&pods.fwd, config);
    let mut wires = pods.raw();
    let w = &mut wires[..];
    crosses(w, 1, 0, &[], &[(2, &[Tag::c(10)]), (3, &[Tag::c(10)])]);
    crosses(w, 2, 1, &[], &[(2, &[Tag::c(20)])]);
    crosses(w, 3, 2, &[Tag::c(20)], &[(1, &[])]);
    crosses(w, 4, 2, &[Tag::c(10)], &[(0, &[]), (3, &[Tag::c(10)])]);
    // The priority that a tag brings goes on in the next tag; the drop eligibility too (IEEE 802.1Q §6.9).
    let urgent = Tag {
        dei: true,
        ..Tag::c(10).pcp(6)
    };
    crosses(w, 5, 2, &[urgent], &[(0, &[]), (3, &[urgent])]);

    dropped(&daemon, w, 0, &[Tag::c(10)], "vlan_not_allowed");
    dropped(&daemon, w, 2, &[Tag::c(30)], "vlan_not_allowed");
    dropped(&daemon, w, 3, &[Tag::c(20)], "vlan_not_allowed");
    dropped(&daemon, w, 2, &[], "untagged_not_allowed");
    // A service tag is not a customer tag, whatever its number (IEEE 802.1Q §9.5).
    dropped(&daemon, w, 2, &[Tag::s(10)], "vlan_not_allowed");

    // Unicast: once learned, a station is behind one port and one VLAN.
    let unicast = |tags: &[Tag]| numbered(6, 2, Pods::mac(0), tags);
    w[2].send(&unicast(&[Tag::c(10)]));
    w[0].expect(&unicast(&[]));
    w[3].expect_silence(SILENCE);
    daemon.assert_ledger();
}

#[test]
fn a_shared_uplink_gives_each_protocol_its_own() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(2);
    let config = "
ports:
  uplink: {kind: af-xdp, interface: p0, steering: shared, trunk: [{vlan: 400, protocol: 802.1ad, bridge-domain: lan}]}
  pod: {kind: af-xdp, interface: p1, access: lan}
bridge-domains:
  lan: {}
";
    let daemon = Daemon::start(&pods.fwd, config);
    let mut wires = pods.raw();
    let w = &mut wires[..];
    crosses(w, 1, 0, &[Tag::s(400)], &[(1, &[])]);
    crosses(w, 2, 1, &[], &[(0, &[Tag::s(400)])]);
    // VLAN 400 of 802.1Q is the kernel's: nothing of it comes here, not even to be dropped.
    let before = daemon.get("ports")[1]["rx_packets"].clone();
    crosses(w, 3, 0, &[Tag::c(400)], &[]);
    let after = daemon.get("ports");
    assert_eq!(after[1]["rx_packets"], before, "{after}");
    daemon.assert_ledger();
}

#[test]
fn ranges_and_all() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(4);
    let config = "
ports:
  range: {kind: af-xdp, interface: p0, trunk: [10-19, 4094]}
  all: {kind: af-xdp, interface: p1, trunk: [all]}
  one: {kind: af-xdp, interface: p2, access: one}
  last: {kind: af-xdp, interface: p3, access: last}
bridge-domains:
  one: {vlan: 11}
  two: {vlan: 20}
  last: {vlan: 4094}
";
    let daemon = Daemon::start(&pods.fwd, config);
    let mut wires = pods.raw();
    let w = &mut wires[..];
    crosses(w, 1, 2, &[], &[(0, &[Tag::c(11)]), (1, &[Tag::c(11)])]);
    crosses(w, 2, 3, &[], &[(0, &[Tag::c(4094)]), (1, &[Tag::c(4094)])]);
    crosses(w, 3, 1, &[Tag::c(11)], &[(0, &[Tag::c(11)]), (2, &[])]);
    dropped(&daemon, w, 0, &[Tag::c(20)], "vlan_not_allowed");
    // In the range, but no domain has it.
    dropped(&daemon, w, 0, &[Tag::c(12)], "vlan_not_allowed");
    daemon.assert_ledger();
}

#[test]
fn native_vlan() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(3);
    let config = "
ports:
  trunk: {kind: af-xdp, interface: p0, trunk: [10], native: blue}
  red: {kind: af-xdp, interface: p1, access: red}
  blue: {kind: af-xdp, interface: p2, access: blue}
bridge-domains:
  red: {vlan: 10}
  blue: {vlan: 20}
";
    let daemon = Daemon::start(&pods.fwd, config);
    let mut wires = pods.raw();
    let w = &mut wires[..];
    crosses(w, 1, 0, &[], &[(2, &[])]);
    crosses(w, 2, 2, &[], &[(0, &[])]);
    crosses(w, 3, 0, &[Tag::c(10)], &[(1, &[])]);
    crosses(w, 4, 1, &[], &[(0, &[Tag::c(10)])]);
    // A priority tag carries a priority and no VLAN (IEEE 802.1Q §6.9): the frame is in the native one.
    crosses(w, 5, 0, &[Tag::c(0).pcp(3)], &[(2, &[])]);
    dropped(&daemon, w, 0, &[Tag::c(20)], "vlan_not_allowed");
    daemon.assert_ledger();
}

#[test]
fn translation() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(3);
    let config = "
ports:
  here: {kind: af-xdp, interface: p0, trunk: [10]}
  there: {kind: af-xdp, interface: p1, trunk: [{vlan: 300, bridge-domain: red}]}
  provider: {kind: af-xdp, interface: p2, trunk: [{vlan: 400, protocol: 802.1ad, bridge-domain: red}]}
bridge-domains:
  red: {vlan: 10}
";
    let daemon = Daemon::start(&pods.fwd, config);
    let mut wires = pods.raw();
    let w = &mut wires[..];
    crosses(
        w,
        1,
        0,
        &[Tag::c(10).pcp(5)],
        &[(1, &[Tag::c(300).pcp(5)]), (2, &[Tag::s(400).pcp(5)])],
    );
    crosses(
        w,
        2,
        1,
        &[Tag::c(300)],
        &[(0, &[Tag::c(10)]), (2, &[Tag::s(400)])],
    );
    crosses(
        w,
        3,
        2,
        &[Tag::s(400).pcp(1)],
        &[(0, &[Tag::c(10).pcp(1)]), (1, &[Tag::c(300).pcp(1)])],
    );
    dropped(&daemon, w, 1, &[Tag::c(10)], "vlan_not_allowed");
    dropped(&daemon, w, 2, &[Tag::c(400)], "vlan_not_allowed");
    daemon.assert_ledger();
}

#[test]
fn two_tags() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(4);
    let config = "
ports:
  provider:
    kind: af-xdp
    interface: p0
    trunk:
      - {vlan: 100, inner-vlan: 7, bridge-domain: red}
      - {vlan: 100, inner-vlan: 8, bridge-domain: blue}
      - {vlan: 200, protocol: 802.1ad, bridge-domain: customer}
  red: {kind: af-xdp, interface: p1, access: red}
  blue: {kind: af-xdp, interface: p2, trunk: [20]}
  customer: {kind: af-xdp, interface: p3, tunnel: customer}
bridge-domains:
  red: {vlan: 10}
  blue: {vlan: 20}
  customer: {}
";
    let daemon = Daemon::start(&pods.fwd, config);
    let mut wires = pods.raw();
    let w = &mut wires[..];
    crosses(w, 1, 1, &[], &[(0, &[Tag::s(100), Tag::c(7)])]);
    crosses(w, 2, 0, &[Tag::s(100), Tag::c(7)], &[(1, &[])]);
    crosses(w, 3, 0, &[Tag::s(100), Tag::c(8)], &[(2, &[Tag::c(20)])]);
    crosses(w, 4, 2, &[Tag::c(20)], &[(0, &[Tag::s(100), Tag::c(8)])]);
    dropped(&daemon, w, 0, &[Tag::s(100), Tag::c(9)], "vlan_not_allowed");
    dropped(&daemon, w, 0, &[Tag::s(100)], "vlan_not_allowed");
    dropped(&daemon, w, 0, &[Tag::c(100), Tag::c(7)], "vlan_not_allowed");

    // The customer's own tags are payload, whatever they are; untagged frames of the customer too.
    for inner in [&[][..], &[Tag::c(7).pcp(3)], &[Tag::c(4000)]] {
        let outer_pcp = inner.first().map_or(0, |t| t.pcp);
        let mut both = vec![Tag::s(200).pcp(outer_pcp)];
        both.extend(inner);
        w[3].send(&numbered(5, 3, Mac::BROADCAST, inner));
        let got = w[0].find("the customer's frame", |f| f.ends_with(&frame::payload(5, 100)));
        let tags = frame::tags(&got).0;
        assert_eq!(
            (tags[0].vid, tags[0].tpid, &tags[1..]),
            (200, both[0].tpid, inner)
        );
        crosses(w, 6, 0, &both, &[(3, inner)]);
    }
    daemon.assert_ledger();
}

#[test]
fn a_vlan_is_carried_whole_but_for_some_inner_ones() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(3);
    let (whole, split) = (
        "{vlan: 100, protocol: 802.1ad, bridge-domain: customer}",
        "{vlan: 100, inner-vlan: 7, bridge-domain: red}",
    );
    // Whichever comes first.
    for trunk in [format!("[{whole}, {split}]"), format!("[{split}, {whole}]")] {
        let config = format!(
            "
ports:
  provider: {{kind: af-xdp, interface: p0, trunk: {trunk}}}
  red: {{kind: af-xdp, interface: p1, access: red}}
  customer: {{kind: af-xdp, interface: p2, tunnel: customer}}
bridge-domains: {{red: {{}}, customer: {{}}}}
"
        );
        let daemon = Daemon::start(&pods.fwd, &config);
        let mut wires = pods.raw();
        let w = &mut wires[..];
        crosses(w, 1, 0, &[Tag::s(100), Tag::c(7)], &[(1, &[])]);
        crosses(w, 2, 1, &[], &[(0, &[Tag::s(100), Tag::c(7)])]);
        crosses(w, 3, 0, &[Tag::s(100), Tag::c(9)], &[(2, &[Tag::c(9)])]);
        crosses(w, 4, 2, &[Tag::c(9)], &[(0, &[Tag::s(100), Tag::c(9)])]);
        crosses(w, 5, 0, &[Tag::s(100)], &[(2, &[])]);
        dropped(&daemon, w, 0, &[Tag::c(100), Tag::c(7)], "vlan_not_allowed");
        daemon.assert_ledger();
        daemon.stop();
    }
}

#[test]
fn priority_is_kept_or_set() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(3);
    let config = "
ports:
  in: {kind: af-xdp, interface: p0, trunk: [10]}
  keep: {kind: af-xdp, interface: p1, trunk: [10]}
  set: {kind: af-xdp, interface: p2, trunk: [10], pcp: 4}
bridge-domains:
  red: {vlan: 10}
";
    let daemon = Daemon::start(&pods.fwd, config);
    let mut wires = pods.raw();
    for pcp in 0..8 {
        let tag = Tag::c(10).pcp(pcp);
        crosses(
            &mut wires,
            pcp.into(),
            0,
            &[tag],
            &[(1, &[tag]), (2, &[Tag::c(10).pcp(4)])],
        );
    }
    daemon.assert_ledger();
}

#[test]
fn one_broadcast_in_every_shape() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(6);
    let config = "
ports:
  access: {kind: af-xdp, interface: p0, access: red}
  trunk: {kind: af-xdp, interface: p1, trunk: [10]}
  translated: {kind: af-xdp, interface: p2, trunk: [{vlan: 300, bridge-domain: red}]}
  double: {kind: af-xdp, interface: p3, trunk: [{vlan: 100, inner-vlan: 7, bridge-domain: red}]}
  native: {kind: af-xdp, interface: p4, trunk: [20], native: red}
  twice: {kind: af-xdp, interface: p5, trunk: [10, {vlan: 301, bridge-domain: red}]}
bridge-domains:
  red: {vlan: 10}
  blue: {vlan: 20}
";
    let daemon = Daemon::start(&pods.fwd, config);
    let mut wires = pods.raw();
    let shapes: [&[Tag]; 5] = [&[], &[Tag::c(10)], &[Tag::c(300)], &[Tag::s(100), Tag::c(7)], &[]];
    for (n, from) in (0..5).enumerate() {
        let n = n as u32;
        wires[from].send(&numbered(n, from, Mac::BROADCAST, shapes[from]));
        for (to, tags) in shapes.iter().enumerate().filter(|(to, _)| *to != from) {
            wires[to].expect(&numbered(n, from, Mac::BROADCAST, tags));
        }
        // The last port carries the domain twice: one copy with each tag.
        let mut both = [wires[5].next(SILENCE), wires[5].next(SILENCE)];
        both.sort();
        let mut want = [10, 301].map(|vid| Some(numbered(n, from, Mac::BROADCAST, &[Tag::c(vid)])));
        want.sort();
        assert_eq!(both, want);
        wires[from].expect_silence(Duration::from_millis(30));
    }
    daemon.assert_ledger();
}

#[test]
fn full_frames_get_their_tags() {
    if !ready() {
        return;
    }
    // A tag comes on top of the MTU (IEEE 802.3 §3.2.7): nothing is cut and nothing refused.
    let pods = Pods::quiet(3);
    let config = "
ports:
  access: {kind: af-xdp, interface: p0, access: red}
  trunk: {kind: af-xdp, interface: p1, trunk: [10]}
  double: {kind: af-xdp, interface: p2, trunk: [{vlan: 100, inner-vlan: 7, bridge-domain: red}]}
bridge-domains:
  red: {vlan: 10}
";
    // The kernel's veth takes one tag beyond its MTU and no second one (__is_skb_forwardable): room for it is given.
    pods.fwd.run("ip link set p2 mtu 1504");
    pods.pod(2).run("ip link set eth0 mtu 1504");
    let daemon = Daemon::start(&pods.fwd, config);
    let mut wires = pods.raw();
    let full = |tags: &[Tag]| {
        frame::ethernet(
            Mac::BROADCAST,
            Pods::mac(0),
            tags,
            EXPERIMENT,
            &frame::payload(1, 1500),
        )
    };
    wires[0].send(&full(&[]));
    wires[1].expect(&full(&[Tag::c(10)]));
    wires[2].expect(&full(&[Tag::s(100), Tag::c(7)]));
    daemon.assert_ledger();
}

/// Two pods on access ports of different domains that a tagged wire joins: every packet of their stacks is tagged on its
/// way, once or twice, and untagged again.
#[test]
fn stacks_talk_across_a_trunk_and_across_qinq() {
    if !ready() {
        return;
    }
    for (tag, domains) in [
        ("vlan: 10", "red: {vlan: 10}"),
        ("vlan: 400, protocol: 802.1ad, inner-vlan: 20", "red: {}"),
    ] {
        let pods = Pods::new(2);
        // Room for both tags beside packets of 1500 bytes.
        Veth::new((&pods.fwd, "t0"), (&pods.fwd, "t1")).mtu(1504).up();
        let config = format!(
            "
ports:
  a: {{kind: af-xdp, interface: p0, access: red}}
  b: {{kind: af-xdp, interface: p1, access: blue}}
  there: {{kind: af-xdp, interface: t0, trunk: [{{{tag}, bridge-domain: red}}]}}
  back: {{kind: af-xdp, interface: t1, trunk: [{{{tag}, bridge-domain: blue}}]}}
bridge-domains:
  {domains}
  blue: {{}}
"
        );
        let daemon = Daemon::start(&pods.fwd, &config);
        let (a, b) = (pods.pod(0), pods.pod(1));
        Ping::new(&Pods::ip4(1)).args("-s 1472 -M do").all(a);
        Ping::new(&Pods::ip6(0)).args("-s 1452 -M do").all(b);
        let tcp = iperf_tcp(a, b, &Pods::ip6(1), 1, "-6");
        assert!(tcp.mbits > 20.0, "{tag}: {tcp:?}");
        let udp = iperf_udp(b, a, &Pods::ip4(0), 1, 20, "");
        assert_eq!(udp.lost, 0, "{tag}: {udp:?}");
        Flow::start(a, b, &Pods::ip4(1), 2_000, 1472)
            .run(Duration::from_millis(500))
            .assert_whole();
        assert_eq!(daemon.fdb_port("blue", Pods::mac(0)).as_deref(), Some("back"));
        daemon.assert_ledger();
        daemon.stop();
    }
}
