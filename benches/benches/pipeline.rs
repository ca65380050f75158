//! The pipeline's own cost: ns a packet in memory, batches of 64, 64-byte frames; and its allocations.
//!
//! `cargo bench -p clearway-benches --bench pipeline`

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use clearway_benches::{BATCH, Rig, scenarios};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn pipeline(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(BATCH as u64));
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    for (name, scenario) in scenarios() {
        let mut rig = Rig::new(scenario);
        group.bench_function(BenchmarkId::from_parameter(&name), |b| {
            b.iter_custom(|n| rig.run(n))
        });
        // What a packet costs, plainly: the least disturbed of 21 runs of 2,000 batches, and their median.
        let region = Region::new(ALLOCATOR);
        let mut runs: Vec<f64> = (0..21)
            .map(|_| rig.run(2000).as_secs_f64() * 1e9 / (2000 * BATCH) as f64)
            .collect();
        // The vector of results itself is one.
        let allocations = region.change().allocations.saturating_sub(1);
        runs.sort_by(f64::total_cmp);
        println!(
            "{name:<40} {:6.2} ns/packet (min {:.2}), {allocations} allocations",
            runs[10], runs[0]
        );
    }
    group.finish();
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
