#!/usr/bin/env bash
# Prints the build folder: CARGO_TARGET_DIR, or what cargo says.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${CARGO_TARGET_DIR:-}" ]; then
	mkdir -p "$CARGO_TARGET_DIR"
	(cd "$CARGO_TARGET_DIR" && pwd)
else
	cargo metadata --locked --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
fi
