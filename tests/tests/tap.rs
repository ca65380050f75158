//! TAPs: pods whose interface's other end is Clearway. Large packets and unfinished checksums cross whole, and the
//! device lives where, and as long as, the configuration says.

use clearway_tests::frame::Mac;
use clearway_tests::{
    Daemon, DaemonBuilder, Flow, Netns, Overlay, Ping, Pods, Underlay, Veth, command, iperf_tcp, iperf_udp,
    ready, tcp_echo, wait_for,
};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

/// The forwarder's namespace, and pods in which nothing is yet.
struct Scene {
    fwd: Netns,
    pods: Vec<Netns>,
}

impl Scene {
    fn new(pods: usize) -> Scene {
        Scene {
            fwd: Netns::quiet("fwd"),
            pods: (0..pods).map(|n| Netns::new(&format!("pod{n}"))).collect(),
        }
    }

    /// A TAP `eth0` in each pod, all in one domain; `extra` follows the keys of every port.
    fn config(&self, extra: &str) -> String {
        let ports: String = (self.pods.iter().enumerate())
            .map(|(n, pod)| {
                let (netns, mac) = (pod.name(), Pods::mac(n));
                format!("  pod{n}: {{kind: tap, interface: eth0, netns: {netns}, mac: '{mac}', access: lan{extra}}}\n")
            })
            .collect();
        format!("ports:\n{ports}bridge-domains:\n  lan: {{}}\n")
    }

    fn start(&self, extra: &str) -> Daemon<'_> {
        let daemon = Daemon::start(&self.fwd, &self.config(extra));
        self.address();
        daemon
    }

    /// Gives the pods' interfaces their addresses.
    fn address(&self) {
        for (n, pod) in self.pods.iter().enumerate() {
            pod.addr("eth0", &format!("{}/24", Pods::ip4(n)));
            pod.addr("eth0", &format!("{}/64", Pods::ip6(n)));
        }
    }
}

fn port(daemon: &Daemon<'_>, name: &str) -> Value {
    let ports = daemon.get("ports");
    let list = ports.as_array().unwrap_or_else(|| panic!("not a list: {ports}"));
    let found = list.iter().find(|p| p["name"] == name).cloned();
    found.unwrap_or_else(|| panic!("no port {name}: {ports}"))
}

fn count(port: &Value, what: &str) -> u64 {
    port[what].as_u64().unwrap_or_else(|| panic!("no {what}: {port}"))
}

#[track_caller]
fn wait_state(daemon: &Daemon<'_>, name: &str, state: &str) -> Value {
    wait_for(&format!("port {name} is {state}"), SOON, || {
        Some(port(daemon, name)).filter(|port| port["state"] == state)
    })
}

#[test]
fn two_pods_talk_in_large_packets() {
    if !ready() {
        return;
    }
    let scene = Scene::new(2);
    let (a, b) = (&scene.pods[0], &scene.pods[1]);
    let daemon = scene.start("");
    Ping::new(&Pods::ip4(1)).all(a);
    Ping::new(&Pods::ip6(1)).all(a);
    Ping::new(&Pods::ip4(0)).args("-s 1472 -M do").all(b);
    tcp_echo(a, b, &Pods::ip4(1), 5_000_000);
    tcp_echo(b, a, &Pods::ip6(0), 5_000_000);
    for (to, args) in [(Pods::ip4(1), ""), (Pods::ip6(1), "-6")] {
        let before = port(&daemon, "pod1");
        let tcp = iperf_tcp(a, b, &to, 2, args);
        let after = port(&daemon, "pod1");
        let sent = |what| count(&after, what) - count(&before, what);
        let mean = sent("tx_bytes") / sent("tx_packets");
        assert!(mean > 8000, "a frame had {mean} bytes on average: {tcp:?}");
        assert!(tcp.mbits > 500.0, "{tcp:?}");
    }
    let udp = iperf_udp(a, b, &Pods::ip4(1), 2, 50, "");
    assert_eq!(udp.lost, 0, "{udp:?}");
    Flow::start(a, b, &Pods::ip4(1), 5000, 200)
        .run(Duration::from_secs(1))
        .assert_whole();
    // Fragments of a datagram, of which the kernel finishes the checksum itself.
    Ping::new(&Pods::ip4(1)).args("-s 20000").all(a);

    assert_eq!(daemon.fdb_port("lan", Pods::mac(1)).as_deref(), Some("pod1"));
    assert_eq!(
        (a.mac("eth0"), &port(&daemon, "pod0")["mac"]),
        (Pods::mac(0), &Value::from(Pods::mac(0).to_string()))
    );
    daemon.assert_ledger();
    daemon.stop();
    assert!(a.link("eth0").is_none(), "what was made is gone");
}

/// A limit counts the bytes of large packets, which TCP then adapts to; the other way it does not hold.
#[test]
fn a_rate_limit_holds_for_large_packets() {
    if !ready() {
        return;
    }
    let scene = Scene::new(2);
    let (a, b) = (&scene.pods[0], &scene.pods[1]);
    let limited = scene.config("").replacen(
        "access: lan",
        "access: lan, rate-limit: {receive: {bits: 50000000, burst: 50ms}}",
        1,
    );
    let daemon = Daemon::start(&scene.fwd, &limited);
    scene.address();
    Ping::new(&Pods::ip4(1)).all(a);
    let before = port(&daemon, "pod1");
    let slow = iperf_tcp(a, b, &Pods::ip4(1), 4, "");
    let after = port(&daemon, "pod1");
    let sent = |what| count(&after, what) - count(&before, what);
    assert!((5.0..53.0).contains(&slow.mbits), "{slow:?}");
    assert!(sent("tx_bytes") > 2000 * sent("tx_packets"), "{after}");
    assert!(daemon.dropped("police_receive") > 0, "{}", daemon.explain());
    let fast = iperf_tcp(b, a, &Pods::ip4(0), 2, "");
    assert!(fast.mbits > 200.0, "{fast:?}");
    daemon.assert_ledger();
    daemon.stop();
}

#[test]
fn jumbo_frames_and_what_the_interface_is_given() {
    if !ready() {
        return;
    }
    let scene = Scene::new(2);
    let (a, b) = (&scene.pods[0], &scene.pods[1]);
    let daemon = scene.start(", mtu: 9000");
    assert_eq!(a.link("eth0").expect("eth0")["mtu"], 9000);
    Ping::new(&Pods::ip4(1)).args("-s 8972 -M do").all(a);
    tcp_echo(a, b, &Pods::ip4(1), 5_000_000);
    Flow::start(a, b, &Pods::ip4(1), 2000, 8900)
        .run(Duration::from_millis(500))
        .assert_whole();

    // What is changed is changed on the interface that is there: its addresses stay.
    let other = Mac::local(0x177);
    let config = scene
        .config(", mtu: 4000")
        .replace(&Pods::mac(0).to_string(), &other.to_string());
    let plan = daemon.apply(&config);
    assert!(!plan.contains("reopen"), "{plan}");
    let link = a.link("eth0").expect("eth0");
    assert_eq!(
        (&link["mtu"], link["address"].as_str()),
        (&Value::from(4000), Some(&*other.to_string()))
    );
    b.run("ip neigh flush dev eth0");
    Ping::new(&Pods::ip4(1)).args("-s 3972 -M do").until(a, SOON);
    assert_eq!(port(&daemon, "pod0")["mtu"], 4000);
    // And what somebody else changes is followed.
    b.run("ip link set eth0 mtu 2000");
    wait_for("the MTU is seen", SOON, || {
        (port(&daemon, "pod1")["mtu"] == 2000).then_some(())
    });
    daemon.assert_ledger();
}

#[test]
fn queues_are_spread_over_workers() {
    if !ready() {
        return;
    }
    let scene = Scene::new(2);
    let (a, b) = (&scene.pods[0], &scene.pods[1]);
    let config = scene.config(", queue-pairs: 2");
    let daemon = Daemon::start(
        &scene.fwd,
        &format!("engine: {{workers: [{{core: 0}}, {{core: 1}}]}}\n{config}"),
    );
    scene.address();
    Ping::new(&Pods::ip4(1)).all(a);
    let flows: Vec<_> = (0..12)
        .map(|_| Flow::start(a, b, &Pods::ip4(1), 500, 200))
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    flows.into_iter().for_each(|flow| flow.stop().assert_whole());
    assert!(iperf_tcp(a, b, &Pods::ip4(1), 2, "-P 4").mbits > 100.0);
    tcp_echo(b, a, &Pods::ip6(0), 2_000_000);
    assert_eq!(port(&daemon, "pod0")["queues"].as_array().map(Vec::len), Some(2));
    let workers = daemon.get("workers");
    let idle = |worker: &&Value| worker["received"].as_u64().unwrap_or(0) < 100;
    assert_eq!(workers.as_array().expect("workers").iter().find(idle), None);
    daemon.assert_ledger();
}

#[test]
fn a_persistent_device_survives_a_crash_and_its_traffic_goes_on() {
    if !ready() {
        return;
    }
    let scene = Scene::new(2);
    let (a, b) = (&scene.pods[0], &scene.pods[1]);
    let config = scene.config(", persistent: true");
    let mut daemon = Daemon::start(&scene.fwd, &config);
    scene.address();
    for _ in 0..3 {
        Ping::new(&Pods::ip4(1)).until(a, SOON);
        let index = a.link("eth0").expect("eth0")["ifindex"].clone();
        daemon.kill();
        assert!(a.run("ip -o addr show dev eth0").contains(&Pods::ip4(0)));
        drop(daemon);
        daemon = Daemon::start(&scene.fwd, &config);
        assert_eq!(a.link("eth0").expect("eth0")["ifindex"], index);
        Ping::new(&Pods::ip4(1)).until(a, SOON);
        tcp_echo(a, b, &Pods::ip4(1), 1_000_000);
        daemon.assert_ledger();
    }
    // Of a daemon that ends well, too.
    daemon.stop();
    assert!(a.run("ip -o addr show dev eth0").contains(&Pods::ip4(0)));
    // Without the key a device that was there stays as well: it is not ours to delete.
    Daemon::start(&scene.fwd, &scene.config("")).stop();
    assert!(a.link("eth0").is_some());
    a.run("ip link delete eth0");
    // And one that was made does not survive a crash.
    let mut daemon = Daemon::start(&scene.fwd, &scene.config(""));
    daemon.kill();
    wait_for("it goes", SOON, || a.link("eth0").is_none().then_some(()));
}

#[test]
fn a_device_that_somebody_made_is_attached_to() {
    if !ready() {
        return;
    }
    let scene = Scene::new(2);
    let (a, b) = (&scene.pods[0], &scene.pods[1]);
    a.run("ip tuntap add dev eth0 mode tap");
    b.run("ip tuntap add dev eth0 mode tap multi_queue");
    a.addr("eth0", "10.0.0.1/24");
    b.addr("eth0", "10.0.0.2/24");
    let line = format!(
        "--port tap:eth0,netns={},name=a --port tap:eth0,netns={},name=b --core 1",
        a.name(),
        b.path().display()
    );
    let daemon = DaemonBuilder::args(&scene.fwd, &line).start();
    Ping::new("10.0.0.2").all(a);
    tcp_echo(a, b, "10.0.0.2", 1_000_000);
    // Another daemon would get a part of the frames of the one with several queues.
    let other = scene.config("").replace("pod1:", "other:");
    let mut second = DaemonBuilder::config(&scene.fwd, &other).spawn();
    for name in ["pod0", "other"] {
        let down = wait_for("it waits", SOON, || {
            let list: Value = serde_json::from_str(&second.try_cli("get ports -o json").stdout).ok()?;
            list.as_array()?
                .iter()
                .find(|p| p["name"] == name && p["state"] == "down")
                .cloned()
        });
        let reason = down["reason"].as_str().unwrap_or_default();
        assert!(
            reason.contains("eth0") && reason.contains("another program"),
            "{reason}"
        );
    }
    daemon.stop();
    second.wait_ready();
    Ping::new("10.0.0.2").until(a, SOON);
    second.stop();
    assert!(a.link("eth0").is_some() && b.link("eth0").is_some());
}

#[test]
fn what_has_the_name_and_is_no_tap_is_refused() {
    if !ready() {
        return;
    }
    let scene = Scene::new(1);
    scene.pods[0].run("ip link add eth0 type veth peer name other");
    let log = DaemonBuilder::config(&scene.fwd, &scene.config("")).refused();
    assert!(
        log.contains("the interface eth0 is there and is no TAP but a veth"),
        "{log}"
    );
    assert!(scene.pods[0].link("eth0").is_some());
}

#[test]
fn a_device_that_goes_or_is_set_down_comes_back() {
    if !ready() {
        return;
    }
    let scene = Scene::new(3);
    let (a, b, c) = (&scene.pods[0], &scene.pods[1], &scene.pods[2]);
    let daemon = scene.start("");
    let flow = Flow::start(a, b, &Pods::ip4(1), 1000, 200);
    Ping::new(&Pods::ip4(2)).until(a, SOON);
    c.run("ip link set eth0 down");
    let down = wait_state(&daemon, "pod2", "down");
    let reason = down["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("link set eth0 up") && reason.contains(c.name()),
        "{reason}"
    );
    let sent = || count(&port(&daemon, "pod2"), "tx_packets");
    let before = sent();
    Ping::new(&Pods::ip4(2)).args("-c 2 -W 1").none(a);
    assert_eq!(sent(), before);
    assert!(daemon.dropped("tx_down") > 0, "{}", daemon.explain());
    c.run("ip link set eth0 up");
    wait_state(&daemon, "pod2", "up");
    Ping::new(&Pods::ip4(2)).until(a, SOON);

    c.run("ip link delete eth0");
    let down = wait_state(&daemon, "pod2", "down");
    assert!(
        down["reason"]
            .as_str()
            .unwrap_or_default()
            .contains("was deleted"),
        "{down}"
    );
    wait_state(&daemon, "pod2", "up");
    c.addr("eth0", &format!("{}/24", Pods::ip4(2)));
    Ping::new(&Pods::ip4(2)).until(a, SOON);
    flow.stop().assert_whole();
    daemon.assert_ledger();
}

#[test]
fn a_namespace_that_goes_is_let_go_of_and_waited_for() {
    if !ready() {
        return;
    }
    let scene = Scene::new(2);
    let pod = Netns::new("late");
    let name = pod.name().to_owned();
    let config = scene.config("").replace(
        "bridge-domains",
        &format!("  late: {{kind: tap, interface: eth0, netns: {name}, access: lan}}\nbridge-domains"),
    );
    let daemon = Daemon::start(&scene.fwd, &config);
    scene.address();
    pod.addr("eth0", "10.0.0.9/24");
    Ping::new("10.0.0.1").until(&pod, SOON);
    let flow = Flow::start(&scene.pods[0], &scene.pods[1], &Pods::ip4(1), 1000, 200);
    for _ in 0..2 {
        // Not from within a namespace: what `ip netns exec` runs has mounts of its own.
        command(&format!("ip netns delete {name}")).ok();
        let down = wait_state(&daemon, "late", "down");
        assert!(
            down["reason"].as_str().unwrap_or_default().contains(&name),
            "{down}"
        );
        command(&format!("ip netns add {name}")).ok();
        wait_state(&daemon, "late", "up");
        pod.addr("eth0", "10.0.0.9/24");
        Ping::new("10.0.0.1").until(&pod, SOON);
    }
    flow.stop().assert_whole();
    daemon.assert_ledger();
}

/// What a TAP leaves undone is done for a port whose receiver does not do it, and large packets are cut up.
#[test]
fn a_pod_on_a_tap_talks_with_one_on_a_veth() {
    if !ready() {
        return;
    }
    let scene = Scene::new(1);
    let (a, b) = (&scene.pods[0], Netns::new("veth"));
    Veth::new((&b, "eth0"), (&scene.fwd, "p1"))
        .macs(Pods::mac(1), Mac::local(0x201))
        .up();
    let config = scene.config("").replace(
        "bridge-domains",
        "  pod1: {kind: af-xdp, interface: p1, access: lan}\nbridge-domains",
    );
    let daemon = Daemon::start(&scene.fwd, &config);
    scene.address();
    b.addr("eth0", &format!("{}/24", Pods::ip4(1)));
    b.addr("eth0", &format!("{}/64", Pods::ip6(1)));
    Ping::new(&Pods::ip4(1)).all(a);
    for (from, to, ip4, ip6) in [
        (a, &b, Pods::ip4(1), Pods::ip6(1)),
        (&b, a, Pods::ip4(0), Pods::ip6(0)),
    ] {
        tcp_echo(from, to, &ip4, 5_000_000);
        tcp_echo(from, to, &ip6, 5_000_000);
        assert!(iperf_tcp(from, to, &ip4, 2, "").mbits > 50.0);
        Flow::start(from, to, &ip4, 2000, 200)
            .run(Duration::from_millis(500))
            .assert_whole();
    }
    let cut = daemon.ledger();
    assert!(cut.segments > 1000, "{}", daemon.explain());
    daemon.assert_ledger();
}

/// The same through a tunnel: each part has outer headers of its own.
#[test]
fn a_pod_on_a_tap_talks_through_vxlan() {
    if !ready() {
        return;
    }
    for underlay in [Underlay::V4, Underlay::V6] {
        let scene = Overlay::new(Pods::new(0), 1, underlay, 1600);
        let station = Mac::local(0x600);
        scene.vxlan(0, "vx0", 100, station, "");
        let (pod, remote) = (Netns::new("pod"), scene.remote(0));
        let tap = format!(
            "  pod: {{kind: tap, interface: eth0, netns: {}, access: lan}}\nvteps",
            pod.name()
        );
        let config = scene.config(0, "", "").replace("vteps", &tap);
        let daemon = Daemon::start(&scene.pods.fwd, &config);
        pod.addr("eth0", "10.0.0.1/24");
        pod.addr("eth0", "fd00::1/64");
        let (ip4, ip6) = (Overlay::ip4(0), Overlay::ip6(0));
        Ping::new(&ip4).all(&pod);
        Ping::new(&ip6).args("-M do -s 1452").all(&pod);
        for (from, to, ip4, ip6) in [
            (&pod, remote, ip4.as_str(), ip6.as_str()),
            (remote, &pod, "10.0.0.1", "fd00::1"),
        ] {
            tcp_echo(from, to, ip4, 3_000_000);
            tcp_echo(from, to, ip6, 3_000_000);
            assert!(iperf_tcp(from, to, ip4, 1, "").mbits > 20.0);
            Flow::start(from, to, ip4, 2000, 200)
                .run(Duration::from_millis(500))
                .assert_whole();
        }
        assert!(daemon.ledger().segments > 1000, "{}", daemon.explain());
        daemon.assert_ledger();
        daemon.stop();
    }
}
