//! What threads may do to one another in the forwarding database: loom tries every order of their steps, and
//! every value that a load may see under the C11 memory model, with up to [`PREEMPTIONS`] preemptions.
//!
//! ```sh
//! cargo test --release -p clearway-engine --features loom --lib fdb_model
//! ```
//!
//! The table of a model is a single line, so that all keys meet. What each model proves is its name.

use crate::fdb::{Fdb, FdbKey, Grace, LearnRules, Learned, Reaper, Sighting};
use crate::{BdId, Dest, MemberId};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// Threads are stopped in the middle so many times, at most; that they wait for one another does not count.
const PREEMPTIONS: usize = 2;

const RULES: LearnRules = LearnRules {
    domain_limit: u32::MAX,
    port_limit: u32::MAX,
    moves: 0,
    move_window: 10,
    hold: 10,
};

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

fn table() -> Arc<Fdb> {
    Arc::new(Fdb::new(64, 1))
}

fn key(mac: u64) -> FdbKey {
    FdbKey::new(BdId(1), mac)
}

fn member(id: u16) -> Dest {
    Dest::Member(MemberId(id))
}

fn learn(fdb: &Fdb, mac: u64, id: u16) -> Learned {
    let seen = Sighting {
        dest: member(id),
        generation: 0,
        now: 0,
    };
    let (key, line) = (key(mac), fdb.line(key(mac)));
    if fdb.refresh(line, key, seen.value()) {
        return Learned::Known;
    }
    fdb.learn(line, key, seen, &RULES, &AtomicU32::new(0), |_| false)
}

fn place(fdb: &Fdb, mac: u64) -> Option<Dest> {
    fdb.get(key(mac)).map(|entry| entry.dest)
}

/// Asserts that an address is unknown or at one of these members.
fn is_one_of(found: Option<Dest>, ids: &[u16]) {
    assert!(
        found.is_none_or(|dest| ids.iter().any(|id| dest == member(*id))),
        "{found:?} is not one of {ids:?}"
    );
}

#[test]
fn two_learners_of_one_address_leave_one_entry_and_a_reader_sees_no_other_value() {
    check(|| {
        let fdb = table();
        let learners: Vec<_> = [1, 2]
            .map(|id| {
                let fdb = fdb.clone();
                thread::spawn(move || learn(&fdb, 9, id))
            })
            .into();
        is_one_of(place(&fdb, 9), &[1, 2]);
        let learned: Vec<_> = learners.into_iter().map(|l| l.join().expect("learner")).collect();
        assert!(learned.contains(&Learned::New), "{learned:?}");
        assert_eq!(fdb.entries().count(), 1);
        is_one_of(place(&fdb, 9), &[1, 2]);
        // Who came second without a collision moved it; where they collided, either may have won.
        if let Some(mover) = learned.iter().position(|l| *l == Learned::Moved) {
            assert_eq!(place(&fdb, 9), Some(member(mover as u16 + 1)));
        }
    });
}

#[test]
fn two_learners_of_two_addresses_that_want_the_same_slot_both_get_one() {
    check(|| {
        let fdb = table();
        let learners = [1, 2].map(|id| {
            let fdb = fdb.clone();
            thread::spawn(move || learn(&fdb, u64::from(id), id))
        });
        for id in [1, 2] {
            is_one_of(place(&fdb, u64::from(id)), &[id]);
        }
        for learner in learners {
            assert_eq!(learner.join().expect("learner"), Learned::New);
        }
        for id in [1, 2] {
            assert_eq!(place(&fdb, u64::from(id)), Some(member(id)));
        }
    });
}

#[test]
fn what_is_learned_while_it_is_removed_is_either_there_or_not() {
    check(|| {
        let fdb = table();
        learn(&fdb, 9, 1);
        let learner = {
            let fdb = fdb.clone();
            thread::spawn(move || learn(&fdb, 9, 2))
        };
        let removed = fdb.remove(key(9)).map(|entry| entry.dest);
        is_one_of(removed, &[1, 2]);
        let learned = learner.join().expect("learner");
        let found = place(&fdb, 9);
        match learned {
            // It was dead already and came to life again.
            Learned::New => assert_eq!((removed, found), (Some(member(1)), Some(member(2)))),
            Learned::Moved => assert_eq!((removed, found), (Some(member(2)), None)),
            // The removal came between its look and its move: the next frame enters it.
            Learned::Known => assert_eq!((removed, found), (Some(member(1)), None)),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_static_entry_wins_against_learning() {
    check(|| {
        let fdb = table();
        let learner = {
            let fdb = fdb.clone();
            thread::spawn(move || learn(&fdb, 9, 1))
        };
        assert!(fdb.set_static(key(9), member(2), 0));
        assert_eq!(place(&fdb, 9), Some(member(2)));
        learner.join().expect("learner");
        let entry = fdb.get(key(9)).expect("entry");
        assert_eq!((entry.dest, entry.is_static), (member(2), true));
        assert_eq!(fdb.entries().count(), 1);
    });
}

/// A table in which address 9 (of member 9) is dead, so that the next sweep takes its slot away.
fn with_a_dead_entry(reaper: &mut Reaper) -> Arc<Fdb> {
    let fdb = table();
    learn(&fdb, 9, 9);
    reaper.sweep(&fdb, |_, _| false);
    assert_eq!((place(&fdb, 9), reaper.waiting()), (None, 0));
    fdb
}

/// Control's part of [`crate::Engine::age`], with what was learned kept: free what may be freed, sweep.
fn age(fdb: &Fdb, reaper: &mut Reaper, worker: &Grace, sweeps: &mut u64) {
    if worker.passed(*sweeps) {
        reaper.clear(fdb);
    }
    reaper.sweep(fdb, |_, _| true);
    *sweeps += 1;
    worker.ask(*sweeps);
}

/// One thread is a worker, which runs `turns`. The other is control, which ages, and then a second worker,
/// which never stops in the middle of a turn: it learns address 1, and takes the slot that was freed, if so.
fn beside_a_reaper<T: 'static>(turns: fn(&Fdb, &Grace) -> T) -> (Arc<Fdb>, T) {
    let mut reaper = Reaper::default();
    let fdb = with_a_dead_entry(&mut reaper);
    let grace = Arc::<Grace>::default();
    let worker = {
        let (fdb, grace) = (fdb.clone(), grace.clone());
        thread::spawn(move || turns(&fdb, &grace))
    };
    let mut sweeps = 0;
    age(&fdb, &mut reaper, &grace, &mut sweeps);
    age(&fdb, &mut reaper, &grace, &mut sweeps);
    assert_eq!(learn(&fdb, 1, 1), Learned::New);
    assert_eq!(place(&fdb, 1), Some(member(1)));
    let result = worker.join().expect("worker");
    assert_eq!(place(&fdb, 1), Some(member(1)), "lost");
    (fdb, result)
}

#[test]
fn a_slot_that_is_freed_and_taken_by_another_address_is_never_mistaken_for_the_old_one() {
    check(|| {
        beside_a_reaper(|fdb, grace| {
            for _ in 0..2 {
                grace.begin_turn();
                is_one_of(place(fdb, 9), &[]);
                is_one_of(place(fdb, 1), &[1]);
            }
        });
    });
}

#[test]
fn an_address_that_comes_back_while_its_slot_is_freed_is_found_where_it_was_learned() {
    check(|| {
        let (fdb, learned) = beside_a_reaper(|fdb, grace| {
            grace.begin_turn();
            grace.begin_turn();
            let learned = learn(fdb, 9, 8);
            // A sweep may take a slot from its learner between key and value; here are four slots only.
            assert!(matches!(learned, Learned::New | Learned::Full), "{learned:?}");
            (learned == Learned::New).then_some(member(8))
        });
        assert_eq!(place(&fdb, 9), learned);
    });
}

#[test]
fn what_a_worker_found_stays_what_it_is_until_its_turn_ends() {
    check(|| {
        let (fdb, _) = beside_a_reaper(|fdb, grace| {
            grace.begin_turn();
            // Finds nothing, or what it has just learned itself; then moves it.
            let learned = [learn(fdb, 9, 8), learn(fdb, 9, 7)];
            if learned[0] == Learned::New {
                assert_eq!(learned[1], Learned::Moved);
                assert_eq!(place(fdb, 9), Some(member(7)));
            }
        });
        is_one_of(place(&fdb, 9), &[7]);
    });
}
