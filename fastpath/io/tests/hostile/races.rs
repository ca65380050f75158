//! A guest whose other core changes everything while the device works: for a second each, with witnesses counted
//! exactly. What becomes of the guest's own frames is its own affair.

use crate::bed::{WHOLE, frame};
use crate::scene::{Scene, options};
use clearway_virtio_mock::{GuestRam, Shape};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Numbers that look like chance.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A number that is good, nearly good, or any.
    fn nasty(&mut self, good: u64) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => u64::MAX - self.below(64),
            2 => self.below(64),
            3 => good.wrapping_add(self.below(4096)).wrapping_sub(2048),
            _ => good,
        }
    }
}

/// What the other core writes: memory, the parts of the rings, the ring's size, where buffers are.
type Flip = fn(&GuestRam, &mut Chance, [u64; 3], u64);

const BUFFERS: u64 = 64;

/// The memory that all buffers are in.
fn buffer(ram: &GuestRam, chance: &mut Chance) -> u64 {
    ram.regions()[1].guest + chance.below(BUFFERS) * 2048
}

/// Runs the worker against a guest that offers good buffers, all of whose words `flip` changes meanwhile.
fn race(name: &str, flip: Flip) {
    for packed in [false, true] {
        let mut scene = Scene::new(packed);
        let end = Instant::now() + Duration::from_millis(1000);
        let (mut faults, mut laps) = (0u64, 0u64);
        while Instant::now() < end {
            scene.restart(&options(packed));
            let canary = scene.guest.ram.regions()[2].guest;
            scene.guest.ram.write(canary, &[0x3c; 1 << 16]);
            offer(&mut scene);
            let stop = Arc::new(AtomicBool::new(false));
            let other = {
                let (stop, ram) = (stop.clone(), scene.guest.ram.clone());
                let rings = [&scene.guest.pairs[0].tx.ring, &scene.guest.pairs[0].rx.ring].map(|r| r.parts());
                let size = u64::from(scene.guest.pairs[0].tx.ring.size());
                let mut chance = Chance(0x1234_5678_9abc_def1 + laps);
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let ring = rings[chance.below(2) as usize];
                        flip(&ram, &mut chance, ring, size);
                    }
                })
            };
            // Until it faults, or for some turns.
            for _ in 0..200 {
                scene.turn();
                if scene.fault().is_some() || Instant::now() >= end {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
            other.join().expect("the other core");
            faults += u64::from(scene.fault().is_some());
            laps += 1;
            assert!(
                scene.guest.ram.canaries_live(),
                "{name}: canaries around the regions"
            );
            assert!(
                scene.guest.ram.bytes(canary, 1 << 16) == vec![0x3c; 1 << 16],
                "{name}: a region that no good descriptor names"
            );
        }
        println!(
            "{name}, packed {packed}: {laps} connections, {faults} faults, {} frames",
            scene.forwarded
        );
        assert!(laps > 0 && scene.turns > 10);
        scene.finish(name);
    }
}

/// Chains, tables and plain buffers, in both directions.
fn offer(s: &mut Scene) {
    let shapes = [
        WHOLE,
        Shape {
            header: 12,
            data: 200,
            indirect: false,
        },
        Shape {
            header: 12,
            data: 100,
            indirect: true,
        },
    ];
    for n in 0..60 {
        let shape = shapes[n % 3];
        let _ = s
            .guest
            .tx()
            .send(Default::default(), &frame(n, 60 + 20 * n), shape);
        let _ = s.guest.rx().post(600, shape);
    }
    s.guest.tx().flush();
    s.guest.rx().flush();
}

#[test]
fn descriptors_change_while_they_are_read() {
    race("descriptors", |ram, chance, [table, ..], size| {
        let at = table + 16 * chance.below(size);
        let good = buffer(ram, chance);
        let bytes = match chance.below(3) {
            0 => chance.nasty(good).to_le_bytes(),
            _ => {
                let len = chance.nasty(200) as u32;
                let last = chance.nasty(1) as u32 ^ (chance.next() as u32 & 0x0003_0007);
                ((u64::from(last) << 32) | u64::from(len)).to_le_bytes()
            }
        };
        let half = if chance.below(2) == 0 { 0 } else { 8 };
        ram.write(at + half, &bytes);
    });
}

#[test]
fn indices_and_flags_change_while_they_are_read() {
    race("indices", |ram, chance, [_, driver, device], size| {
        let at = match chance.below(3) {
            0 => driver + 2 * chance.below(size / 2),
            1 => device & !1,
            _ => driver,
        };
        let value = chance.nasty(0) as u16;
        ram.write(at, &value.to_le_bytes());
    });
}

#[test]
fn frames_and_headers_change_while_they_are_copied() {
    race("frames", |ram, chance, _, _| {
        // Buffers come from the first region's heap: all of what follows the rings.
        let region = &ram.regions()[0];
        let at = region.guest + (16 << 10) + chance.below(256 << 10);
        let bytes = [chance.next().to_le_bytes(), chance.next().to_le_bytes()].concat();
        ram.write(at, &bytes);
    });
}

#[test]
fn everything_changes_while_it_is_read() {
    race("everything", |ram, chance, parts, size| {
        let part = parts[chance.below(3) as usize];
        let at = part + 2 * chance.below(8 * size);
        let good = buffer(ram, chance);
        let value = chance.nasty(good);
        ram.write(at & !7, &value.to_le_bytes());
    });
}
