//! Runs one scenario for a number of batches: `turns SCENARIO BATCHES`. For profilers, and for counting
//! instructions (`scripts/instructions.sh`): the difference of two runs is what the batches between cost.

use clearway_benches::{BATCH, Rig, scenarios};

fn main() -> std::process::ExitCode {
    let mut args = std::env::args().skip(1);
    let (name, batches) = (
        args.next().unwrap_or_default(),
        args.next().and_then(|n| n.parse::<u64>().ok()),
    );
    let scenario = scenarios().into_iter().find(|(n, _)| *n == name);
    let (Some((name, scenario)), Some(batches)) = (scenario, batches) else {
        eprintln!("usage: turns SCENARIO BATCHES, where SCENARIO is one of");
        scenarios().iter().for_each(|(name, _)| eprintln!("  {name}"));
        return std::process::ExitCode::from(2);
    };
    let mut rig = Rig::new(scenario);
    let mut runs: Vec<f64> = (0..9)
        .map(|_| rig.run(batches).as_secs_f64() * 1e9 / (batches as usize * BATCH) as f64)
        .collect();
    runs.sort_by(f64::total_cmp);
    println!(
        "{name}: {:.2} ns/packet (median of 9), {:.2} at least",
        runs[4], runs[0]
    );
    std::process::ExitCode::SUCCESS
}
