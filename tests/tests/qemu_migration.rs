//! A virtual machine that migrates from one vhost-user port to another while it is sent a stream: the dirty log tells QEMU
//! what Clearway wrote into memory that had been copied before. Where that is missing, what the guest reads at its new
//! place is not what was sent. (Marks of the rings' pages are not proved here, where it passes without them too: the
//! guest writes most of those pages itself. `fastpath/io/tests/vhost/log.rs` does that.)
//!
//! ```text
//!   pod ── p0 ┐              ┌ a ═══ QEMU, source ──────┐
//!             ├── Clearway ──┤                          │ memory, state
//!             ┘              └ b ═══ QEMU, destination ◄┘
//! ```

use clearway_tests::{Daemon, Guest, Mac, PingProbe, Pods, Qmp, RawPort, frame, ready, wait_for};
use serde_json::{Value, json};
use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Emulation, beside other tests.
const PATIENCE: Duration = Duration::from_secs(60);
const MAC: Mac = Mac::local(0x70a);
const IP: &str = "10.0.0.50";
const PORT: u16 = 7000;

fn devices(socket: &Path, queues: u32, device: &str) -> String {
    format!(
        "-m 256 -object memory-backend-memfd,id=m0,size=256M,share=on -machine memory-backend=m0 \
         -chardev socket,id=c0,path={},reconnect-ms=200 -netdev vhost-user,id=v0,chardev=c0,queues={queues} \
         -device virtio-net-pci,netdev=v0,mac={MAC},mq={},vectors={},\
         rx_queue_size=1024,tx_queue_size=1024,{device}",
        socket.display(),
        if queues > 1 { "on" } else { "off" },
        2 * queues + 2,
    )
}

fn config(sockets: &Path) -> String {
    let port = |name: &str| {
        let socket = sockets.join(name);
        format!(
            "  {name}: {{kind: vhost-user, socket: {}, queue-pairs: 2, access: lan}}\n",
            socket.display()
        )
    };
    format!(
        "ports:\n{}{}  pod: {{kind: af-xdp, interface: p0, access: lan}}\nbridge-domains:\n  lan: {{}}\n",
        port("a"),
        port("b")
    )
}

/// A program that has the pod's stream open and reads nothing before it may: all of it waits in the guest's memory, where
/// Clearway wrote it. Another one keeps memory changing, so that the migration does not end before it is told to.
const READER: &str = "
sysctl -qw net.ipv4.tcp_rmem='8388608 8388608 8388608'
cd /
(exec 3<>/dev/tcp/10.0.0.1/7000
until [ -e /tmp/read ]; do sleep 0.1; done
sha256sum <&3 >/tmp/sum.new; mv /tmp/sum.new /tmp/sum) >/dev/null 2>/tmp/reader </dev/null &
(while [ ! -e /tmp/read ]; do dd if=/dev/zero of=/tmp/dirt bs=1M count=8 conv=notrunc; done) >/dev/null 2>&1 </dev/null &
true
";

/// What the pod sends: this many bytes at each of its two ends.
const PART: usize = 1 << 20;

fn migrating(source: &mut Qmp) -> Value {
    let state = source.run("query-migrate", json!({}));
    assert!(
        state["status"] != "failed" && state["status"] != "cancelled",
        "{state}"
    );
    state
}

/// Waits until all that was written is acknowledged by the guest's kernel.
#[track_caller]
fn acknowledged(pods: &Pods) {
    wait_for("the guest to have all of the stream", PATIENCE, || {
        let out = pods
            .pod(0)
            .run(&format!("ss -Htn state established sport = :{PORT}"));
        // Recv-Q Send-Q …
        (out.split_whitespace().nth(1) == Some("0")).then_some(())
    });
}

fn sum(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), bytes).expect("a file's bytes");
    let out = clearway_tests::command(&format!("sha256sum {}", file.path().display())).ok();
    out.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Starts the migration and gives the state in which memory was copied once, and some of it again.
#[track_caller]
fn begin(source: &mut Qmp, to: &Guest) {
    // Never to the end by itself: 1 ms of this are fewer bytes than change.
    source.run(
        "migrate-set-parameters",
        json!({"max-bandwidth": 32 << 20, "downtime-limit": 1}),
    );
    let end = Instant::now() + PATIENCE;
    while let Err(why) = source.try_run("migrate", json!({"uri": to.incoming_uri()})) {
        assert!(Instant::now() < end, "QEMU refuses to migrate: {why}");
        std::thread::sleep(Duration::from_millis(100));
    }
    wait_for("memory to be copied once", PATIENCE, || {
        let state = migrating(source);
        (state["ram"]["dirty-sync-count"].as_u64() >= Some(2)).then_some(())
    });
    // What has changed by now takes some seconds.
    source.run("migrate-set-parameters", json!({"max-bandwidth": 1 << 20}));
}

#[track_caller]
fn migrates(queues: u32, device: &str, announced: fn(&[u8]) -> bool) {
    let pods = Pods::new(1);
    let sockets = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(&pods.fwd, &config(sockets.path()));
    let listener = pods
        .pod(0)
        .enter(|| TcpListener::bind((Pods::ip4(0), PORT)))
        .expect("a port to listen on");
    let mut a = Guest::start(&devices(&sockets.path().join("a"), queues, device));
    a.sh(&format!(
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1
         ip address add {IP}/24 dev eth0 && ip link set eth0 up"
    ));
    let b = Guest::incoming(&devices(&sockets.path().join("b"), queues, device));
    a.sh(READER);
    let (mut stream, _) = listener.accept().expect("the guest's connection");
    assert_eq!(daemon.fdb_port("lan", MAC).as_deref(), Some("a"));
    let ping = PingProbe::start(pods.pod(0), IP, Duration::from_millis(100));

    let mut wire = RawPort::open(pods.pod(0), "eth0");
    let bytes = frame::payload(1, 2 * PART);
    let mut b = migrate(a, b, &mut stream, &bytes[..PART], &pods);
    wire.find("the guest's announcement", |frame| {
        frame[..6] == [0xff; 6] && frame[6..12] == MAC.0 && announced(frame)
    });
    drop(wire);
    wait_for("the guest to be where it went", PATIENCE, || {
        (daemon.fdb_port("lan", MAC).as_deref() == Some("b")).then_some(())
    });
    stream.write_all(&bytes[PART..]).expect("the rest of the stream");
    acknowledged(&pods);
    stream.shutdown(Shutdown::Write).expect("the stream's end");
    b.sh("touch /tmp/read");
    let got = b.sh("until [ -e /tmp/sum ]; do sleep 0.1; done; cat /tmp/sum /tmp/reader");
    assert_eq!(got.split_whitespace().next(), Some(&*sum(&bytes)), "{got}");
    eprintln!("{:?}, ten a second", ping.stop());
    b.sh("ping -n -q -c 20 -i 0.05 -W 20 10.0.0.1");
    daemon.assert_ledger();
    daemon.stop();
}

/// Migrates while `bytes` arrive after memory was copied, and ends the source.
#[track_caller]
fn migrate(mut a: Guest, mut b: Guest, stream: &mut TcpStream, bytes: &[u8], pods: &Pods) -> Guest {
    let (mut source, mut target) = (a.qmp(), b.qmp());
    a.leave();
    begin(&mut source, &b);
    stream.write_all(bytes).expect("the stream");
    acknowledged(pods);
    let state = migrating(&mut source);
    assert_eq!(state["status"], "active", "the stream came too late: {state}");
    // Whenever the machine stops, there are frames in its ring that it has not seen.
    flooded(pods, || {
        source.run(
            "migrate-set-parameters",
            json!({"max-bandwidth": 10u64 << 30, "downtime-limit": 30_000}),
        );
        wait_for("the end of the migration", PATIENCE, || {
            (migrating(&mut source)["status"] == "completed").then_some(())
        });
    });
    wait_for("the machine to run where it went", PATIENCE, || {
        (target.run("query-status", json!({}))["running"] == true).then_some(())
    });
    b.arrived(&a);
    b
}

/// Does something while the pod sends datagrams to the guest, some thousand a second.
fn flooded(pods: &Pods, what: impl FnOnce()) {
    let socket = pods
        .pod(0)
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("a socket");
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Nobody listens: an error is the guest's answer to that.
                let _ = socket.send_to(&[0; 1000], (IP, 9));
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        // Also when it panics: the thread is waited for.
        let _ends = Ends(&over);
        what();
    });
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_guest_with_a_split_ring_migrates() {
    if ready() {
        // Linux says where it is by ARP for its own address (RFC 5227 §1.2).
        migrates(1, "packed=off", |frame| {
            frame[12..14] == [8, 6] && frame[28..32] == frame[38..42]
        });
    }
}

#[test]
fn a_guest_with_packed_rings_migrates() {
    if ready() {
        // QEMU has Clearway say it for the guest: SEND_RARP.
        migrates(2, "packed=on,guest_announce=off", |frame| {
            frame[12..14] == [0x80, 0x35]
        });
    }
}
