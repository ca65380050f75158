//! Runs scenarios of the pipeline in memory: `turns SCENARIO|all BATCHES`.
//!
//! With one scenario: for profilers, and for counting instructions (the difference of two runs with different
//! numbers of batches is what the batches between cost). With `all`: eleven interleaved rounds of every
//! scenario, the median of each, and beside it the same in units of a reference that was timed in between:
//! shared machines change their speed by a factor of two from one minute to the next.

use clearway_benches::{BATCH, Rig, scenarios};
use std::collections::HashMap;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

const ROUNDS: usize = 11;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (name, batches) = (
        args.next().unwrap_or_default(),
        args.next().and_then(|n| n.parse::<u64>().ok()),
    );
    let mut chosen: Vec<_> = scenarios()
        .into_iter()
        .filter(|(n, _)| name == "all" || *n == name)
        .collect();
    let (false, Some(batches)) = (chosen.is_empty(), batches) else {
        eprintln!("usage: turns all|SCENARIO BATCHES, where SCENARIO is one of");
        scenarios().iter().for_each(|(name, _)| eprintln!("  {name}"));
        return ExitCode::from(2);
    };
    let mut rigs: Vec<Rig> = chosen.iter().map(|(_, scenario)| Rig::new(*scenario)).collect();
    if let ([(name, _)], [rig]) = (&chosen[..], &mut rigs[..]) {
        let ns = median((0..ROUNDS).map(|_| per_packet(rig, batches)).collect());
        println!("{name}: {ns:.2} ns/packet (median of {ROUNDS})");
        return ExitCode::SUCCESS;
    }
    let reference = Reference::new();
    let mut results = vec![Vec::new(); rigs.len()];
    let mut ratios = vec![Vec::new(); rigs.len()];
    for _ in 0..ROUNDS {
        for (i, rig) in rigs.iter_mut().enumerate() {
            let (before, ns, after) = (reference.time(), per_packet(rig, batches), reference.time());
            results[i].push(ns);
            ratios[i].push(2.0 * ns / (before + after));
        }
    }
    println!("{:<40} {:>10} {:>14}", "scenario", "ns/packet", "in references");
    for ((name, _), (ns, ratio)) in chosen.drain(..).zip(results.into_iter().zip(ratios)) {
        println!("{name:<40} {:>10.1} {:>14.2}", median(ns), median(ratio));
    }
    println!(
        "reference: a hit in a HashMap<u64, u64> of 65,536 entries with rapidhash, {:.2} ns now",
        reference.time()
    );
    ExitCode::SUCCESS
}

fn per_packet(rig: &mut Rig, batches: u64) -> f64 {
    rig.run(batches).as_secs_f64() * 1e9 / (batches as usize * BATCH) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Random hits in a hash map of 64k entries: work of the pipeline's kind that is not ours.
struct Reference {
    map: HashMap<u64, u64, rapidhash::fast::RandomState>,
    order: Vec<u64>,
}

impl Reference {
    fn new() -> Self {
        let mut x = 88_172_645_463_325_252u64;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        let keys: Vec<u64> = (0..65_536).map(|_| next()).collect();
        let order = (0..65_536)
            .map(|_| keys[(next() >> 40) as usize % keys.len()])
            .collect();
        Self {
            map: keys.iter().map(|key| (*key, *key)).collect(),
            order,
        }
    }

    /// Nanoseconds a hit, once the map is in the cache.
    fn time(&self) -> f64 {
        self.sum();
        let begin = Instant::now();
        self.sum();
        begin.elapsed().as_secs_f64() * 1e9 / self.order.len() as f64
    }

    fn sum(&self) {
        let add = |sum: u64, key: &u64| sum.wrapping_add(self.map[key]);
        black_box(self.order.iter().fold(0, add));
    }
}
