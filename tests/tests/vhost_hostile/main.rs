//! Front-ends of vhost-user that mean harm, each for itself against one running daemon: it ends the connection with a
//! named reason or goes on, the next connection is served, two other guests that talk all the time lose no frame, and in
//! the end the daemon has no descriptor and no mapping more than before.
//!
//! What they do is in `messages.rs`, `memory.rs` and `rings.rs`; hostile rings themselves are in the catalogue of
//! `fastpath/io/tests/hostile`.
#![allow(unreachable_pub, reason = "a test program has no outside")]

mod descriptors;
mod flood;
mod memory;
mod messages;
mod rings;
mod scene;

use clearway_tests::{ready, wait_for};
use scene::{BOUNDED, Behaviour, HOSTILE, Scene, Witnesses};
use std::time::Duration;

#[test]
fn hostile_front_ends_harm_themselves_alone() {
    if !ready() {
        return;
    }
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    let mut sink = scene.start_guest("sink", 0);
    let before = scene.possessions(&mut daemon);
    let witnesses = Witnesses::start(&scene);
    let all = [messages::ALL, memory::ALL, rings::ALL].into_iter().flatten();
    // By turns: a port pauses for up to a second after a connection that failed.
    let all = all.zip(HOSTILE.into_iter().cycle());
    let all: Vec<(&Behaviour, &str)> = all
        .chain(
            memory::BEYOND_A_BOUND
                .iter()
                .map(|behaviour| (behaviour, BOUNDED.0)),
        )
        .collect();
    let mut names = std::collections::BTreeSet::new();
    for (behaviour, port) in all {
        assert!(names.insert(behaviour.name), "{} is there twice", behaviour.name);
        println!("{:40} {:90} {}", behaviour.name, behaviour.does, behaviour.expect);
        scene.run(&daemon, port, behaviour, &mut sink);
    }
    println!("{} behaviours", names.len());
    let exchanged = witnesses.stop();
    assert!(
        exchanged > 1000,
        "the witnesses exchanged {exchanged} frames only"
    );
    wait_for(
        "what the front-ends sent is closed and unmapped",
        Duration::from_secs(20),
        || (scene.possessions(&mut daemon) == before).then_some(()),
    );
    daemon.assert_ledger();
    let log = daemon.proc().log().join("\n");
    assert!(!log.contains("panicked"), "{log}");
    drop(sink);
    daemon.stop();
}

#[test]
fn a_front_end_that_floods_slows_itself_alone() {
    if !ready() {
        return;
    }
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    let witnesses = Witnesses::start(&scene);
    let mut hostile = scene.hostile("h0", false);
    flood::slows_itself_alone(&scene, &mut daemon, &mut hostile);
    let exchanged = witnesses.stop();
    assert!(exchanged > 100, "the witnesses exchanged {exchanged} frames only");
    drop(hostile);
    daemon.stop();
}

#[test]
fn descriptors_that_are_short_are_waited_for() {
    if !ready() {
        return;
    }
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    descriptors::are_waited_for(&scene, &mut daemon);
    daemon.stop();
}

/// What one process can map of guests is bounded: where some take all of it that they get, others have their share.
#[test]
fn who_maps_all_there_is_keeps_nobody_from_connecting() {
    if !ready() {
        return;
    }
    let scene = Scene::new();
    let greedy = || (0..20).map(|n| format!("h{n}"));
    let daemon = scene.daemon_of(greedy().chain(["one".to_owned(), "other".to_owned()]));
    let mut left = 64u64 << 40;
    let hostile: Vec<_> = greedy()
        .map(|port| {
            let part = left / 16;
            left -= part;
            memory::holds(&scene, &port, (32 << 30) + part)
        })
        .collect();
    let (mut one, mut other) = (scene.start_guest("one", 1), scene.start_guest("other", 2));
    one.send(other.mac, 0..5);
    assert_eq!(other.receive(one.mac, 5), [0, 1, 2, 3, 4]);
    drop((one, other, hostile));
    daemon.stop();
}
