//! An AF_XDP application on xsk-rs and libxdp, in a pod: its rings are not ours, its frames cross ours.

use clearway_tests::frame::{self, EXPERIMENT, Mac, Tag};
use clearway_tests::{Daemon, Overlay, Pods, RawPort, Underlay, XskPeer, ready};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(15);

#[test]
fn frames_cross_whole_and_in_order() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(3);
    let config = "
ports:
  a: {kind: af-xdp, interface: p0, access: lan}
  b: {kind: af-xdp, interface: p1, access: lan}
  c: {kind: af-xdp, interface: p2, access: lan}
bridge-domains:
  lan: {}
";
    let daemon = Daemon::start(&pods.fwd, config);
    let mut bystander = RawPort::open(pods.pod(2), "eth0");
    for size in [64, 512, 1514] {
        let frames = 20_000;
        let counting = XskPeer::start(pods.pod(1), "eth0", &format!("count {frames}"));
        // The receiver's address becomes known, so nothing is flooded.
        let mut hello = RawPort::open(pods.pod(1), "eth0");
        hello.send(&frame::ethernet(
            Mac::BROADCAST,
            Pods::mac(1),
            &[],
            EXPERIMENT,
            &[1; 46],
        ));
        bystander.find("the receiver's hello", |f| f[6..12] == Pods::mac(1).0);
        let (dst, src) = (Pods::mac(1), Pods::mac(0));
        let line = format!("send {frames} --size {size} --dst {dst} --src {src} --pps 20000");
        let sent = XskPeer::start(pods.pod(0), "eth0", &line).report(LIMIT);
        assert_eq!(
            (&sent["sent"], &sent["uncompleted"]),
            (&frames.into(), &0.into()),
            "{sent}"
        );
        let got = counting.report(LIMIT);
        let want = serde_json::json!({
            "received": frames, "lost": 0, "corrupt": 0, "duplicates": 0, "reordered": 0, "foreign": 0,
        });
        assert_eq!(got, want, "{size} bytes: {:?}", daemon.ledger());
    }
    bystander.expect_silence(Duration::from_millis(100));
    daemon.assert_ledger();
}

#[test]
fn an_echo_behind_a_trunk() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(2);
    let config = "
ports:
  a: {kind: af-xdp, interface: p0, access: red}
  b: {kind: af-xdp, interface: p1, trunk: [10]}
bridge-domains:
  red: {vlan: 10}
";
    let daemon = Daemon::start(&pods.fwd, config);
    let echo = XskPeer::start(pods.pod(1), "eth0", "echo");
    let mut wire = RawPort::open(pods.pod(0), "eth0");
    for n in 0..100 {
        let payload = frame::payload(n, 46 + n as usize * 14);
        wire.send(&frame::ethernet(
            Pods::mac(1),
            Pods::mac(0),
            &[],
            EXPERIMENT,
            &payload,
        ));
        wire.expect(&frame::ethernet(
            Pods::mac(0),
            Pods::mac(1),
            &[],
            EXPERIMENT,
            &payload,
        ));
    }
    // What the peer got was tagged: it would have sent untagged frames back untagged, and a trunk drops those.
    wire.send(&frame::ethernet(
        Pods::mac(1),
        Pods::mac(0),
        &[Tag::c(10)],
        EXPERIMENT,
        &[0; 46],
    ));
    wire.expect_silence(Duration::from_millis(100));
    assert_eq!(echo.stop()["echoed"], 100);
    daemon.assert_ledger();
}

#[test]
fn frames_cross_a_tunnel() {
    if !ready() {
        return;
    }
    let scene = Overlay::new(Pods::quiet(1), 1, Underlay::V4, 1600);
    scene.vxlan_quiet(0, "vx0", 100);
    let daemon = Daemon::start(&scene.pods.fwd, &scene.config(1, "", ""));
    let station = scene.remote(0).mac("vx0");
    let counting = XskPeer::start(scene.pods.pod(0), "eth0", "count 5000");
    // Towards the pod: the kernel encapsulates what this sends, Clearway decapsulates, xsk-rs receives.
    let sending = XskPeer::start(
        scene.remote(0),
        "vx0",
        &format!(
            "send 5000 --size 300 --dst {} --src {station} --pps 10000",
            Pods::mac(0)
        ),
    );
    assert_eq!(sending.report(LIMIT)["sent"], 5000);
    let got = counting.report(LIMIT);
    assert_eq!(
        (&got["received"], &got["lost"], &got["corrupt"]),
        (&5000.into(), &0.into(), &0.into()),
        "{got}"
    );
    daemon.assert_ledger();
}
