use super::*;
use crate::{MemberId, TunnelId};
use proptest::prelude::*;
use std::collections::BTreeMap;

const FREE: LearnRules = LearnRules {
    domain_limit: u32::MAX,
    port_limit: u32::MAX,
    moves: 0,
    move_window: 10,
    hold: 7,
};

fn learn(fdb: &Fdb, key: FdbKey, member: u16, now: u16, rules: &LearnRules) -> Learned {
    let seen = Sighting {
        dest: Dest::Member(MemberId(member)),
        generation: 1,
        now,
    };
    if fdb.refresh(fdb.line(key), key, seen.value()) {
        return Learned::Known;
    }
    fdb.learn(fdb.line(key), key, seen, rules, &AtomicU32::new(0), |_| false)
}

#[test]
fn an_entry_is_found_where_it_was_learned_and_only_in_its_domain() {
    let fdb = Fdb::new(1024, 1);
    let key = FdbKey::new(BdId(7), 0x0200_0000_0001);
    assert_eq!(fdb.get(key), None);
    assert_eq!(learn(&fdb, key, 3, 5, &FREE), Learned::New);
    assert_eq!(learn(&fdb, key, 3, 6, &FREE), Learned::Known);
    let entry = fdb.get(key).expect("entry");
    assert_eq!(
        (entry.dest, entry.seen, entry.generation),
        (Dest::Member(MemberId(3)), 6, 1)
    );
    assert_eq!(fdb.get(FdbKey::new(BdId(8), 0x0200_0000_0001)), None);
    assert_eq!((fdb.dynamic_entries(), fdb.domain_entries(BdId(7))), (1, 1));
}

#[test]
fn moves_are_followed_until_they_are_too_many_and_again_after_the_window() {
    let fdb = Fdb::new(1024, 1);
    let rules = LearnRules { moves: 3, ..FREE };
    let key = FdbKey::new(BdId(1), 2);
    learn(&fdb, key, 0, 100, &rules);
    let at = |member, now| learn(&fdb, key, member, now, &rules);
    assert_eq!([at(1, 100), at(0, 101), at(1, 102)], [Learned::Moved; 3]);
    assert_eq!([at(0, 103), at(0, 104)], [Learned::Damped; 2]);
    assert_eq!(fdb.get(key).expect("entry").dest, Dest::Member(MemberId(1)));
    assert_eq!([at(0, 109), at(0, 110)], [Learned::Damped, Learned::Moved]);
}

#[test]
fn limits_of_domain_port_and_table_hold() {
    let fdb = Fdb::new(100, 1);
    let port = AtomicU32::new(0);
    let rules = LearnRules {
        domain_limit: 50,
        port_limit: 20,
        ..FREE
    };
    let add = |bd, mac, port: &AtomicU32, rules| {
        let key = FdbKey::new(BdId(bd), mac);
        fdb.learn(
            fdb.line(key),
            key,
            Sighting {
                dest: Dest::Tunnel(TunnelId(1)),
                generation: 0,
                now: 0,
            },
            rules,
            port,
            |_| false,
        )
    };
    let taken = (0..100)
        .filter(|mac| add(1, *mac, &port, &rules) == Learned::New)
        .count();
    assert_eq!(taken, 20);
    let taken = (100..200)
        .filter(|mac| add(1, *mac, &AtomicU32::new(0), &rules) == Learned::New)
        .count();
    assert_eq!(taken, 30);
    let taken = (0..100)
        .filter(|mac| add(2, *mac, &AtomicU32::new(0), &FREE) == Learned::New)
        .count();
    assert_eq!(taken, 50);
    assert_eq!(add(2, 1000, &AtomicU32::new(0), &FREE), Learned::Full);
}

#[test]
fn static_entries_never_move_and_survive_sweeps() {
    let fdb = Fdb::new(100, 1);
    let key = FdbKey::new(BdId(1), 9);
    learn(&fdb, key, 1, 0, &FREE);
    assert!(fdb.set_static(key, Dest::Member(MemberId(4)), 2));
    assert_eq!(learn(&fdb, key, 1, 0, &FREE), Learned::Static);
    let mut reaper = Reaper::default();
    reaper.sweep(&fdb, |_, entry| entry.is_static);
    assert_eq!(fdb.get(key).map(|e| e.dest), Some(Dest::Member(MemberId(4))));
    assert_eq!(fdb.dynamic_entries(), 0);
    assert!(fdb.remove(key).is_some());
    assert_eq!(fdb.get(key), None);
}

#[test]
fn slots_of_dead_entries_are_used_again() {
    let fdb = Fdb::new(64, 1);
    let mut reaper = Reaper::default();
    for round in 0..1000u64 {
        for i in 0..64 {
            assert_eq!(
                learn(&fdb, FdbKey::new(BdId(1), round << 16 | i), 1, 0, &FREE),
                Learned::New
            );
        }
        assert_eq!(fdb.entries().count(), 64);
        reaper.sweep(&fdb, |_, _| false);
        reaper.sweep(&fdb, |_, _| false);
        assert_eq!((reaper.waiting(), fdb.dynamic_entries()), (64, 0));
        reaper.clear(&fdb);
    }
}

#[test]
fn a_table_filled_to_its_capacity_finds_a_place_for_nearly_all() {
    let fdb = Fdb::new(1 << 16, 42);
    let full = (0..1u64 << 16)
        .filter(|mac| learn(&fdb, FdbKey::new(BdId(1), *mac), 1, 0, &FREE) == Learned::Full)
        .count();
    // Measured with this seed: 1 of 65,536 finds its 32 slots taken.
    assert!(full <= 4, "{full} addresses without a place");
}

#[test]
fn two_writers_a_reaper_and_a_reader_never_mix_up_keys() {
    use std::sync::atomic::AtomicBool;
    let (fdb, stop) = (Fdb::new(256, 3), AtomicBool::new(false));
    let workers = [Grace::default(), Grace::default()];
    std::thread::scope(|s| {
        let mut writers = Vec::new();
        for (w, grace) in workers.iter().enumerate() {
            let (fdb, stop) = (&fdb, &stop);
            writers.push(s.spawn(move || {
                let mut n = w as u64;
                while !stop.load(Ordering::Relaxed) {
                    grace.begin_turn();
                    for _ in 0..64 {
                        n = n
                            .wrapping_mul(6364136223846793005)
                            .wrapping_add(1442695040888963407);
                        let mac = n >> 40 & 0x1ff;
                        let key = FdbKey::new(BdId(1), mac);
                        learn(fdb, key, mac as u16, 0, &FREE);
                        if let Some(entry) = fdb.get(key) {
                            assert_eq!(entry.dest, Dest::Member(MemberId(mac as u16)));
                        }
                    }
                }
            }));
        }
        let mut reaper = Reaper::default();
        let (mut sweeps, started) = (0u64, std::time::Instant::now());
        while started.elapsed().as_millis() < 500 && !writers.iter().any(|w| w.is_finished()) {
            if !workers.iter().all(|grace| grace.passed(sweeps)) {
                std::thread::yield_now();
                continue;
            }
            reaper.clear(&fdb);
            sweeps += 1;
            reaper.sweep(&fdb, |key, _| (key.mac() ^ sweeps) & 1 == 0);
            workers.iter().for_each(|grace| grace.ask(sweeps));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

proptest! {
    #[test]
    fn it_is_a_map(ops in prop::collection::vec((0u8..4, 1u16..4, 0u64..40, 0u16..5), 1..200), seed: u64) {
        let fdb = Fdb::new(1024, seed);
        let mut model: BTreeMap<u64, (Dest, bool)> = BTreeMap::new();
        for (op, bd, mac, member) in ops {
            let (key, dest) = (FdbKey::new(BdId(bd), mac), Dest::Member(MemberId(member)));
            match op {
                0 | 1 => {
                    let learned = learn(&fdb, key, member, 0, &FREE);
                    let expected = match model.get(&key.0) {
                        None => Learned::New,
                        Some((old, _)) if *old == dest => Learned::Known,
                        Some((_, true)) => Learned::Static,
                        Some(_) => Learned::Moved,
                    };
                    prop_assert_eq!(learned, expected);
                    if matches!(learned, Learned::New | Learned::Moved) { model.insert(key.0, (dest, false)); }
                }
                2 => {
                    prop_assert!(fdb.set_static(key, dest, 1));
                    model.insert(key.0, (dest, true));
                }
                _ => {
                    let removed = fdb.remove(key).map(|e| (e.dest, e.is_static));
                    prop_assert_eq!(removed, model.remove(&key.0));
                }
            }
            let all: BTreeMap<u64, (Dest, bool)> = fdb.entries().map(|(k, e)| (k.0, (e.dest, e.is_static))).collect();
            prop_assert_eq!(&all, &model);
        }
    }
}
