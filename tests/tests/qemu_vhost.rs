//! Virtual machines on vhost-user ports: QEMU guests with Linux' virtio-net, split and packed rings, one and two queues,
//! with one another, with a pod on AF_XDP, with a kernel behind a TAP and with a remote host behind the kernel's VXLAN device; and what becomes of
//! them when the daemon or a guest goes and comes back.
//!
//! The guests are emulated: their figures say nothing of Clearway's speed.

use clearway_tests::{
    Daemon, DaemonBuilder, Guest, Ledger, Mac, Netns, Overlay, Ping, Pods, Underlay, ready,
};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long traffic may take to come back: QEMU looks for the socket once a second; the rest is emulation.
const BACK: Duration = Duration::from_secs(60);
const RESTARTS: usize = 20;

fn domain(scene: &Overlay, sockets: &Path, tap: &Netns) -> String {
    let mut text = scene.config(1, "", "");
    let mut ports: String = ["a", "b", "c"]
        .iter()
        .map(|name| {
            let socket = sockets.join(name);
            let socket = socket.display();
            format!("  {name}: {{kind: vhost-user, socket: {socket}, queue-pairs: 2, access: lan}}\n")
        })
        .collect();
    ports += &format!(
        "  t: {{kind: tap, interface: t0, netns: {}, access: lan}}\n",
        tap.name()
    );
    text = text.replacen("ports:\n", &format!("ports:\n{ports}"), 1);
    text
}

/// A guest on a socket, with `queues` queue pairs; `device` are options of virtio-net-pci.
fn guest(sockets: &Path, name: &str, queues: u32, device: &str) -> Guest {
    guest_at(sockets, name, "reconnect-ms=200", queues, device)
}

/// The same where `end` are options of the socket.
fn guest_at(sockets: &Path, name: &str, end: &str, queues: u32, device: &str) -> Guest {
    let socket = sockets.join(name);
    let mac = mac(name);
    let mut guest = Guest::start(&format!(
        "-m 512 -object memory-backend-memfd,id=m0,size=512M,share=on -machine memory-backend=m0 \
         -chardev socket,id=c0,path={},{end} -netdev vhost-user,id=v0,chardev=c0,queues={queues} \
         -device virtio-net-pci,netdev=v0,mac={mac},mq={},vectors={},{device}",
        socket.display(),
        if queues > 1 { "on" } else { "off" },
        2 * queues + 2,
    ));
    let ip = ip(name);
    guest.sh(&format!(
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1
         ip address add {ip}/24 dev eth0 && ip link set eth0 up"
    ));
    guest
}

fn mac(name: &str) -> Mac {
    Mac::local(match name {
        "a" => 0x70a,
        "b" => 0x70b,
        _ => 0x70c,
    })
}

fn ip(name: &str) -> &'static str {
    match name {
        "a" => "10.0.0.50",
        "b" => "10.0.0.51",
        _ => "10.0.0.52",
    }
}

/// Five small and five full-size requests, all of them answered.
#[track_caller]
fn answered(guest: &mut Guest, to: &str, daemon: &Daemon<'_>) {
    for args in ["-c 5 -i 0.2", "-c 5 -i 0.2 -s 1400 -M do"] {
        let (code, out) = guest.try_sh(&format!("ping -n -q {args} -W 20 {to}"), BACK);
        assert!(
            code == 0 && out.contains(" 5 received"),
            "ping {args} {to}: {out}\n{}",
            daemon.explain()
        );
    }
}

/// Pings until there is an answer: how long that took.
#[track_caller]
fn comes_back(guest: &mut Guest, to: &str, what: &str, daemon: &Daemon<'_>) -> Duration {
    let started = Instant::now();
    while started.elapsed() < BACK {
        let (code, _) = guest.try_sh(&format!("ping -n -q -c 1 -W 1 {to}"), BACK);
        if code == 0 {
            return started.elapsed();
        }
    }
    panic!(
        "{what}: no traffic within {BACK:?}\n{}\n{}\n{}",
        guest.sh("ip -s link show eth0"),
        daemon.explain(),
        daemon.cli("get ports -o json"),
    );
}

/// TCP from a guest; gives Mbit/s.
#[track_caller]
fn tcp(from: &mut Guest, to: &str, serve: impl FnOnce()) -> f64 {
    serve();
    let out = from.sh(&format!("iperf3 -c {to} -t 3 -J --connect-timeout 20000"));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"));
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    let mbits = rate.unwrap_or_else(|| panic!("no rate: {out}")) / 1e6;
    assert!(mbits > 5.0, "TCP to {to}: {mbits} Mbit/s: {out}");
    mbits
}

/// Bytes of an average frame that a port has received.
#[track_caller]
fn frame_size(daemon: &Daemon<'_>, port: &str) -> u64 {
    let all = daemon.get("counters");
    let of = all
        .as_array()
        .and_then(|all| all.iter().find(|p| p["port"] == port));
    let of = of.unwrap_or_else(|| panic!("no counters of {port}: {all}"));
    let number = |name: &str| {
        of["counters"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name}: {of}"))
    };
    number("rx_bytes") / number("rx_packets").max(1)
}

#[track_caller]
fn running(daemon: &Daemon<'_>, port: &str, words: &[&str]) {
    let all = daemon.get("ports");
    let of = all
        .as_array()
        .and_then(|all| all.iter().find(|p| p["name"] == port));
    let of = of.unwrap_or_else(|| panic!("no port {port}: {all}"));
    assert_eq!(of["guest"]["state"], "running", "{of}");
    let text = of.to_string();
    for word in words {
        assert!(text.contains(word), "port {port} shows no {word}: {of}");
    }
}

struct Scene {
    overlay: Overlay,
    /// Has the device `t0` of a TAP port.
    tap: Netns,
    sockets: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let overlay = Overlay::new(Pods::new(1), 1, Underlay::V4, 1600);
        overlay.vxlan(0, "vx0", 100, Mac::local(0x600), "");
        let sockets = tempfile::tempdir().unwrap_or_else(|e| panic!("no folder for sockets: {e}"));
        let tap = Netns::new("tap");
        Self {
            overlay,
            tap,
            sockets,
        }
    }

    fn daemon(&self) -> Daemon<'_> {
        let text = domain(&self.overlay, self.sockets.path(), &self.tap);
        DaemonBuilder::config(&self.overlay.pods.fwd, &text).start()
    }
}

fn iperf_server(ns: &Netns) -> clearway_tests::Proc {
    let mut server = clearway_tests::Proc::start(ns, &["iperf3", "-s", "-1", "--forceflush"]);
    server.wait_line("that it listens", Duration::from_secs(10), |l| {
        l.contains("listening")
    });
    server
}

#[test]
fn guests_talk_to_one_another_to_pods_and_to_remotes() {
    if !ready() {
        return;
    }
    let scene = Scene::new();
    let daemon = scene.daemon();
    let sockets = scene.sockets.path();
    let mut a = guest(sockets, "a", 1, "packed=off");
    let mut b = guest(sockets, "b", 2, "packed=on");
    // What QEMU agrees to, and uses for what follows.
    running(
        &daemon,
        "a",
        &["CONFIGURE_MEM_SLOTS", "BACKEND_REQ", "event_idx", "host_tso6"],
    );
    running(&daemon, "b", &["ring_packed", "\"mq\""]);
    let (pod, remote, tap) = (Pods::ip4(0), Overlay::ip4(0), "10.0.0.60");
    scene.tap.addr("t0", &format!("{tap}/24"));
    for to in [ip("b"), &pod, &remote, tap] {
        answered(&mut a, to, &daemon);
    }
    for to in [&pod, &remote, tap] {
        answered(&mut b, to, &daemon);
    }
    Ping::new(ip("a")).args("-W 20").all(scene.overlay.pods.pod(0));

    // Large packets cross whole between guests: no frame on a wire has so many bytes.
    let before = frame_size(&daemon, "a");
    tcp(&mut a, ip("b"), || {
        b.sh("(iperf3 -s -1 -D); sleep 1");
    });
    let size = frame_size(&daemon, "a");
    assert!(
        size > 2000 && size > before,
        "frames of guest a: {size} bytes on average, before {before}"
    );
    // And into the kernel behind a TAP: nothing was cut up so far.
    let served = iperf_server(&scene.tap);
    tcp(&mut b, tap, || {});
    drop(served);
    let ledger = daemon.assert_ledger();
    assert_eq!(ledger.segments, 0, "{ledger:?}");
    // Elsewhere they arrive in pieces that fit.
    let served = iperf_server(scene.overlay.pods.pod(0));
    tcp(&mut a, &pod, || {});
    drop(served);
    let served = iperf_server(scene.overlay.remote(0));
    tcp(&mut b, &remote, || {});
    drop(served);
    let ledger = daemon.assert_ledger();
    assert!(ledger.segments > 100, "nothing was cut up: {ledger:?}");
    unexplained(&ledger);
    daemon.stop();
}

/// Rings of an emulated guest are full at times; no other drop is right here.
#[track_caller]
fn unexplained(ledger: &Ledger) {
    let other: u64 = ledger
        .drops
        .iter()
        .filter(|(name, _)| {
            !matches!(
                name.as_str(),
                "tx_full" | "no_destination" | "link_local" | "tx_down"
            )
        })
        .map(|(_, n)| n)
        .sum();
    assert_eq!(other, 0, "{ledger:?}");
}

#[test]
fn guests_outlive_the_daemon() {
    if !ready() {
        return;
    }
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    let sockets = scene.sockets.path();
    let mut a = guest(sockets, "a", 1, "packed=on");
    let mut b = guest(sockets, "b", 1, "packed=off");
    answered(&mut a, ip("b"), &daemon);
    let pod = Pods::ip4(0);
    // Something is under way whenever the daemon goes.
    for guest in [&mut a, &mut b] {
        guest.sh(&format!(
            "ping -n -q -f -W 1 {pod} >/dev/null 2>&1 </dev/null & true"
        ));
    }
    for n in 0..RESTARTS {
        let how = if n % 2 == 0 {
            daemon.kill();
            "kill -9"
        } else {
            let status = daemon.terminate();
            assert!(status.success(), "restart {n}: {status}");
            "SIGTERM"
        };
        daemon = scene.daemon();
        let what = format!("restart {n}, after {how}");
        comes_back(&mut a, ip("b"), &format!("{what}, packed ring"), &daemon);
        comes_back(&mut b, &pod, &format!("{what}, split ring"), &daemon);
        daemon.assert_ledger();
    }
    a.sh("killall ping");
    b.sh("killall ping");
    answered(&mut a, ip("b"), &daemon);
    answered(&mut b, &pod, &daemon);
    daemon.stop();
}

/// Half of the guests that come and go: each has another kind of ring, and other numbers of queues and entries, than the
/// one before.
#[track_caller]
fn one_after_the_other(sockets: &Path, name: &str, to: &str, daemon: &Daemon<'_>) {
    let kinds = [
        (1, "packed=off"),
        (2, "packed=on"),
        (1, "packed=on,mrg_rxbuf=off"),
        (2, "packed=off,rx_queue_size=512,tx_queue_size=512"),
        (1, "packed=off,csum=off,guest_csum=off,gso=off"),
    ];
    for n in 0..RESTARTS / 2 {
        let (queues, device) = kinds[n % kinds.len()];
        let mut guest = guest(sockets, name, queues, device);
        let what = format!("guest {n} of {name}, with {queues} queues, {device}");
        comes_back(&mut guest, to, &what, daemon);
        if n < kinds.len() {
            answered(&mut guest, to, daemon);
        }
        // The machine is gone from one moment to the next.
        drop(guest);
    }
}

#[test]
fn the_daemon_outlives_guests() {
    if !ready() {
        return;
    }
    let scene = Scene::new();
    let daemon = scene.daemon();
    let sockets = scene.sockets.path();
    let mut b = guest(sockets, "b", 1, "packed=off");
    // Two at a time: while one starts, which takes most of the time, the other talks, or goes.
    std::thread::scope(|scope| {
        let (daemon, pod) = (&daemon, Pods::ip4(0));
        scope.spawn(move || one_after_the_other(sockets, "a", ip("b"), daemon));
        scope.spawn(move || one_after_the_other(sockets, "c", &pod, daemon));
    });
    answered(&mut b, &Pods::ip4(0), &daemon);
    let ledger = daemon.assert_ledger();
    unexplained(&ledger);
    daemon.stop();
}

/// QEMU listens, and Clearway connects: anew after its own restart, and after the guest's.
#[test]
fn a_guest_that_listens_is_connected_to_again_and_again() {
    if !ready() {
        return;
    }
    let scene = Scene::new();
    let sockets = scene.sockets.path();
    let text = domain(&scene.overlay, sockets, &scene.tap);
    // Of the first port, a.
    let text = text.replacen("queue-pairs: 2", "client: true, queue-pairs: 2", 1);
    let start = || DaemonBuilder::config(&scene.overlay.pods.fwd, &text).start();
    let mut daemon = start();
    let pod = Pods::ip4(0);
    for device in ["packed=on", "packed=off"] {
        let mut a = guest_at(sockets, "a", "server=on", 1, device);
        answered(&mut a, &pod, &daemon);
        for how in ["kill -9", "SIGTERM"] {
            if how == "SIGTERM" {
                daemon.stop();
            } else {
                daemon.kill();
            }
            daemon = start();
            comes_back(&mut a, &pod, &format!("{device}, after {how}"), &daemon);
            daemon.assert_ledger();
        }
        answered(&mut a, &pod, &daemon);
    }
    daemon.stop();
}
