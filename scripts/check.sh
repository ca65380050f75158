#!/usr/bin/env bash
# Formatting, lints and documentation, for the workspace and for the package beside it. Warnings are errors.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-always}
peer=(--manifest-path tests/xsk-peer/Cargo.toml)
target=$(scripts/target-dir.sh)

step() { printf '\033[1m==>\033[0m %s\n' "$*"; }

step "Formatting"
cargo fmt --all --check
cargo fmt "${peer[@]}" --check
step "Lints"
cargo clippy --locked --workspace --all-targets -- -D warnings
cargo clippy --locked "${peer[@]}" --target-dir "$target/xsk-peer" -- -D warnings
step "Documentation"
RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items
# Installed by nobody's package manager, and it takes minutes to build: run where it is, said where it is not.
# Its advisories need the network and change from day to day: `cargo deny check advisories`, by hand.
if cargo deny --version >/dev/null 2>&1; then
	step "Dependencies: bans, licenses, sources"
	cargo deny --locked check --hide-inclusion-graph bans licenses sources
	cargo deny --locked --config deny.toml "${peer[@]}" check --hide-inclusion-graph bans licenses sources
else
	step "Dependencies: not checked, there is no cargo-deny (cargo install --locked cargo-deny)"
fi
step "check: all good"
