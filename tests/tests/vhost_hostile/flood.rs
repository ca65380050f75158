//! A front-end that never stops asking.

use crate::scene::{Hostile, PROTOCOL, Scene};
use clearway_tests::Daemon;
use clearway_virtio_mock::{FrontEnd, request, words};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longer than an answer takes that waits for nobody, on a machine that others use.
const SOON: Duration = Duration::from_secs(5);
/// What the daemon does for a port at once, and in a second.
const AT_ONCE: f64 = 4096.0;
const PER_SECOND: f64 = 1000.0;

/// Has new tables made again and again, and asks after each what it knows already. Rounds until it is stopped.
fn flood(front: &FrontEnd, stop: &AtomicBool) -> u32 {
    const TOGETHER: u32 = 8;
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        for round in 0..TOGETHER {
            let mtu = 1400 + u64::from(round % 2);
            let set = FrontEnd::encode(request::NET_SET_MTU, 1, &words(&[mtu]));
            let get = FrontEnd::encode(request::GET_FEATURES, 1, &[]);
            front
                .send_bytes(&[set, get].concat(), &[])
                .expect("room for messages");
        }
        for _ in 0..TOGETHER {
            front.receive().expect("the daemon goes on answering");
        }
        rounds += TOGETHER;
    }
    rounds
}

/// Two messages and a question to the control thread for each round, and no more of them than the daemon says.
pub fn slows_itself_alone(scene: &Scene, daemon: &mut Daemon<'_>, hostile: &mut Hostile) {
    let begun = Instant::now();
    hostile.start_with(PROTOCOL);
    let stop = AtomicBool::new(false);
    let (mut answers, mut starts) = (Vec::new(), Vec::new());
    let rounds = std::thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&hostile.front, &stop));
        while begun.elapsed() < Duration::from_secs(8) {
            let asked = Instant::now();
            let (status, _) = daemon.api("GET", "/v1/ports", "");
            assert_eq!(status, 200);
            answers.push(asked.elapsed());
            let asked = Instant::now();
            drop(scene.start_guest("h1", 50));
            starts.push(asked.elapsed());
            scene.wait_free(daemon, "h1");
            std::thread::sleep(Duration::from_millis(500));
        }
        stop.store(true, Ordering::Relaxed);
        flood.join().expect("a flood")
    });
    // One may have met a machine that stood still.
    for times in [&mut answers, &mut starts] {
        times.sort_unstable();
        assert!(times[times.len() / 2] < SOON, "others wait: {times:?}");
    }
    let most = (AT_ONCE + PER_SECOND * begun.elapsed().as_secs_f64()) / 3.0;
    println!("{rounds} rounds; {most:.0} at most");
    assert!(rounds > 500, "{rounds} rounds: it goes on");
    assert!(
        f64::from(rounds) < most + 50.0,
        "{rounds} rounds in {:?}",
        begun.elapsed()
    );
    let features = hostile.front.number(request::GET_FEATURES);
    assert!(features.is_ok(), "it goes on");
    let log = daemon.proc().log().join("\n");
    assert_eq!(log.matches("is held to that").count(), 1, "{log}");
}
