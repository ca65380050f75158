//! Limits: of floods, of rates, of stations that are learned or move.

use crate::{first_has, lan, plain};
use clearway_tests::frame::{self, EXPERIMENT, Mac};
use clearway_tests::{Daemon, Flow, Ping, Pods, numbered, ready, wait_for};
use std::time::{Duration, Instant};

#[test]
fn a_station_that_moves_too_often_is_held() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(3);
    let damping = "move-damping: {moves: 3, window: 10s, hold: 4s}";
    let daemon = Daemon::start(&pods.fwd, &lan(3, &plain, damping));
    let mut wires = pods.raw();
    let hello = |n| {
        frame::ethernet(
            Mac::BROADCAST,
            Mac::local(7),
            &[],
            EXPERIMENT,
            &frame::payload(n, 60),
        )
    };
    for n in 0..20 {
        wires[1 + n as usize % 2].send(&hello(n));
        wires[0].expect(&hello(n));
    }
    // It stays where it was when the limit was reached, whoever speaks in its name.
    let held = daemon.fdb_port("lan", Mac::local(7));
    for n in 20..24 {
        wires[1 + n as usize % 2].send(&hello(n));
        wires[0].expect(&hello(n));
        assert_eq!(daemon.fdb_port("lan", Mac::local(7)), held);
    }
    // After the hold time it may move again.
    let other = if held.as_deref() == Some("pod1") { 2 } else { 1 };
    wait_for("the station moves again", Duration::from_secs(20), || {
        wires[other].send(&hello(99));
        (daemon.fdb_port("lan", Mac::local(7)) != held).then_some(())
    });
    daemon.assert_ledger();
}

#[test]
fn storms_are_limited() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(2);
    let limit = first_has(", storm-control: {broadcast: 100}");
    let daemon = Daemon::start(&pods.fwd, &lan(2, &limit, ""));
    let mut wires = pods.raw();
    let (started, total) = (Instant::now(), 2000);
    for n in 0..total {
        wires[0].send(&numbered(n, 0, Mac::BROADCAST, &[]));
    }
    // Other kinds are not limited.
    let multicast = numbered(total, 0, Mac([1, 0, 0x5e, 0, 0, 9]), &[]);
    wires[0].send(&multicast);
    let mut frames = wires[1].all(Duration::from_millis(500));
    let secs = started.elapsed().as_secs_f64();
    assert_eq!(frames.pop(), Some(multicast));
    // The rate, and one second's worth as the burst.
    assert!(
        !frames.is_empty() && frames.len() as f64 <= 100.0 + 100.0 * secs + 1.0,
        "{} frames in {secs} s",
        frames.len()
    );
    assert_eq!(
        daemon.dropped("storm_broadcast") + frames.len() as u64,
        u64::from(total)
    );
    daemon.assert_ledger();
}

/// At twice the limit of a port that receives, then of one that sends, then without: what is above is dropped there and
/// for that reason; the other way and other ports lose nothing, nor do they by the changes.
#[test]
fn floods_arrive_at_the_limit() {
    if !ready() {
        return;
    }
    let pods = Pods::new(4);
    let config = |limits: [&str; 2]| {
        let own = |n: usize| {
            limits
                .get(n)
                .map_or(String::new(), |limit| format!(", rate-limit: {{{limit}}}"))
        };
        lan(4, &own, "")
    };
    // A flow's frames have 100 bytes and 42 of headers. The burst is what the rate gives while a processor is away.
    let (rate, burst) = (2000.0, 0.2);
    let bits = rate as u64 * 8 * 142;
    let steps = [
        (
            "police_receive",
            [
                format!("receive: {{packets: {rate}, burst: 200ms}}"),
                String::new(),
            ],
        ),
        (
            "police_transmit",
            [String::new(), format!("transmit: {{bits: {bits}, burst: 200ms}}")],
        ),
    ];
    let daemon = Daemon::start(&pods.fwd, &config(["", ""]));
    for (from, to) in [(0, 1), (1, 0), (2, 3)] {
        Ping::new(&Pods::ip4(to)).all(pods.pod(from));
    }
    let flow = |from, to, pps| Flow::start(pods.pod(from), pods.pod(to), &Pods::ip4(to), pps, 100);
    let untouched = [flow(1, 0, 500), flow(2, 3, 500)];
    for (reason, limits) in &steps {
        daemon.apply(&config(limits.each_ref().map(String::as_str)));
        let started = Instant::now();
        let flood = flow(0, 1, 2 * rate as u32).run(Duration::from_secs(4));
        let most = rate * (started.elapsed().as_secs_f64() + burst) + 1.0;
        let least = rate * 4.0 * 0.9;
        assert!(
            flood.sent as f64 > 1.8 * rate * 4.0 && (least..=most).contains(&(flood.received as f64)),
            "{reason}: {least} to {most} expected: {flood:?}\n{}",
            daemon.explain()
        );
        assert!(
            flood.received as f64 <= rate * 4.0 * 1.1 + rate * burst,
            "{reason}: {flood:?}"
        );
        let dropped = daemon.dropped(reason);
        assert!(
            dropped.abs_diff(flood.lost) * 20 <= flood.lost,
            "{reason}: {dropped}, {flood:?}"
        );
    }
    daemon.apply(&config(["", ""]));
    flow(0, 1, 2 * rate as u32)
        .run(Duration::from_secs(1))
        .assert_whole();
    untouched
        .map(Flow::stop)
        .iter()
        .for_each(|flow| flow.assert_whole());
    daemon.assert_ledger();
    daemon.stop();
}

#[test]
fn learning_has_limits() {
    if !ready() {
        return;
    }
    let pods = Pods::quiet(3);
    let limit = first_has(", learn-limit: 4");
    let daemon = Daemon::start(&pods.fwd, &lan(3, &limit, ""));
    let mut wires = pods.raw();
    for n in 0..20 {
        wires[0].send(&frame::ethernet(
            Mac::BROADCAST,
            Mac::local(n),
            &[],
            EXPERIMENT,
            &frame::payload(n, 80),
        ));
    }
    assert_eq!(
        wires[1].all(Duration::from_millis(300)).len(),
        20,
        "frames pass, whether learned or not"
    );
    let learned = (0..20)
        .filter(|n| daemon.fdb_port("lan", Mac::local(*n)).is_some())
        .count();
    assert_eq!(learned, 4);
    daemon.assert_ledger();
}
