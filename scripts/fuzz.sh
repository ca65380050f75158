#!/usr/bin/env bash
# Runs every fuzz target for some time each, with the random engine of bolero: no nightly toolchain needed.
#
#   scripts/fuzz.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
# Targets are ordinary tests whose names begin with `fuzz`: `make test` runs each for a moment.
export BOLERO_RANDOM_TEST_TIME_MS=$((seconds * 1000)) BOLERO_RANDOM_ITERATIONS=1000000000
cargo test --locked --release --workspace --exclude clearway-tests -- fuzz --test-threads 1
