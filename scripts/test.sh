#!/usr/bin/env bash
# Every test, as root, and a closing line that counts them. `make test` runs scripts/setup.sh first.
#
#   scripts/test.sh [ARGUMENTS OF cargo test]     for example: -p clearway-tests --test vlan -- access
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "test: the end-to-end tests need root (network namespaces, AF_XDP)" >&2; exit 1; }
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-always}
# A test that finds something missing fails here instead of passing over.
export CLEARWAY_TESTS_STRICT=1
target=$(scripts/target-dir.sh)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

step() { printf '\033[1m==>\033[0m %s\n' "$*"; }

step "The committed XDP object is what its source gives"
fastpath/io/xdp/build.sh --check
step "Building the daemon, the tests and their xsk-rs counterpart"
cargo build --locked --bin clearway --bin clearway-cni
cargo build --locked --manifest-path tests/xsk-peer/Cargo.toml --target-dir "$target/xsk-peer"
cargo test --locked --workspace --no-run --quiet

failed=0
run() { # arguments of cargo test
	cargo test --locked --no-fail-fast "$@" 2>&1 | tee -a "$log" || failed=1
}
# Two at a time: end-to-end tests have their own namespaces, but share the cores. One run over the whole workspace, since
# cargo builds dependencies anew, with other features, for each different choice of packages.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-2}
step "Testing"
run "${@:---workspace}"
if [ $# = 0 ]; then
	step "Models of the forwarding database: every order of its threads' steps"
	run --package clearway-engine --features loom --lib fdb_model
fi

# cargo's own line per test binary: "test result: ok. 7 passed; 0 failed; 0 ignored; …"
count() { sed -E 's/\x1b\[[0-9;]*m//g' "$log" | awk -v what="$1" '/^test result: / { for (i = 2; i <= NF; i++) if ($i ~ "^" what) n += $(i - 1) } END { print n + 0 }'; }
passed=$(count passed) bad=$(count failed)
step "$passed passed, $bad failed"
# A test binary that crashed has no result line: then cargo's exit code says so.
[ "$failed" = 0 ] && [ "$bad" = 0 ] && [ "$passed" -gt 0 ]
