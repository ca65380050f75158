#!/usr/bin/env bash
# Runs every fuzz target (the tests/fuzz.rs of each crate, and those inside the daemon) for some time each, with bolero's random engine, which
# needs no nightly toolchain. `make test` runs each for a moment.
#
#   scripts/fuzz.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
export BOLERO_RANDOM_TEST_TIME_MS=$((seconds * 1000)) BOLERO_RANDOM_ITERATIONS=1000000000
cargo test --locked --release --workspace --test fuzz -- --test-threads 1
cargo test --locked --release --package clearway-control --bin clearway fuzz_ -- --test-threads 1
