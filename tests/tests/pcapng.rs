//! The pcapng port: what it writes libpcap reads, and what it reads goes out again.

use clearway_tests::frame::{Mac, Tag};
use clearway_tests::{Daemon, Pods, numbered, ready, wait_for};
use std::path::Path;
use std::time::Duration;

fn config(capture: &str) -> String {
    format!(
        "
ports:
  pod: {{kind: af-xdp, interface: p0, access: lan}}
  file: {{kind: pcapng, trunk: [10], {capture}}}
bridge-domains:
  lan: {{vlan: 10}}
"
    )
}

/// The frames of a file, as libpcap reads them.
fn frames(file: &Path) -> Vec<Vec<u8>> {
    let mut capture = pcap::Capture::from_file(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut frames = Vec::new();
    loop {
        match capture.next_packet() {
            Ok(packet) => frames.push(packet.data.to_vec()),
            Err(pcap::Error::NoMorePackets) => return frames,
            Err(e) => panic!("{}: {e}", file.display()),
        }
    }
}

#[test]
fn written_and_read_again() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("capture.pcapng");
    let pods = Pods::quiet(1);
    let mut wire = pods.raw().remove(0);

    let daemon = Daemon::start(&pods.fwd, &config(&format!("write: '{}'", file.display())));
    for n in 0..50 {
        wire.send(&numbered(n, 0, Mac::BROADCAST, &[]));
    }
    wait_for("all are sent", Duration::from_secs(5), || {
        (daemon.ledger().sent >= 50).then_some(())
    });
    daemon.assert_ledger();
    daemon.stop();
    let want: Vec<_> = (0..50)
        .map(|n| numbered(n, 0, Mac::BROADCAST, &[Tag::c(10)]))
        .collect();
    assert!(
        frames(&file) == want,
        "{} frames, or other bytes",
        frames(&file).len()
    );

    // The file is read from the moment its port is there: the pod's is there before.
    let text = config(&format!("read: '{}', rate: 200", file.display()));
    let without: String = text
        .lines()
        .filter(|l| !l.contains("pcapng"))
        .map(|l| format!("{l}\n"))
        .collect();
    let daemon = Daemon::start(&pods.fwd, &without);
    daemon.apply(&text);
    let got = wire.all(Duration::from_secs(1));
    let want: Vec<_> = (0..50).map(|n| numbered(n, 0, Mac::BROADCAST, &[])).collect();
    assert!(got == want, "{} frames, or other bytes", got.len());
    daemon.assert_ledger();
}

#[test]
fn a_capture_that_moves_to_another_worker_is_still_answered() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("question.pcapng");
    let pods = Pods::quiet(1);
    let mut wire = pods.raw().remove(0);
    // Who has 10.0.0.100? Tell 10.0.0.1 (RFC 826).
    let mut question = vec![0xff; 6];
    question.extend(Pods::mac(0).0);
    question.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(Pods::mac(0).0);
    question.extend([10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 100]);
    question.resize(60, 0);
    let daemon = Daemon::start(&pods.fwd, &config(&format!("write: '{}'", file.display())));
    wire.send(&question);
    wait_for("it is written", Duration::from_secs(5), || {
        (daemon.ledger().sent >= 1).then_some(())
    });
    daemon.stop();

    let on = |worker: u8| {
        format!(
            "
engine: {{workers: [{{core: 0}}, {{core: 1}}]}}
ports:
  file: {{kind: pcapng, trunk: [10], read: '{}', loop: true, rate: 100, workers: {{0: {worker}}}}}
bridge-domains:
  lan: {{vlan: 10, suppress-neighbours: true, hosts: [{{ip: 10.0.0.100, mac: '02:00:00:00:00:64'}}]}}
",
            file.display()
        )
    };
    let daemon = Daemon::start(&pods.fwd, &on(0));
    for worker in [0, 1, 0] {
        daemon.apply(&on(worker));
        let before = daemon.ledger().generated;
        wait_for("answers", Duration::from_secs(5), || {
            (daemon.ledger().generated > before + 10).then_some(())
        });
    }
    daemon.assert_ledger();
}
