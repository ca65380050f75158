# Clearway. `make help` prints the targets below.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
# A toolchain that `make setup` has just installed is not on the caller's PATH yet.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

.PHONY: help setup demo test check bench fuzz

help: ## print this list
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what building and testing need (Debian 12, as root)
	@scripts/setup.sh

demo: ## watch packets of real network stacks cross Clearway (as root)
	@scripts/setup.sh demo
	cargo run --release --locked --bin clearway -- demo

test: setup ## every test: unit, property, and end to end in network namespaces (as root)
	@scripts/test.sh

check: ## formatting, lints, documentation: warnings are errors
	@scripts/check.sh

bench: ## micro-benchmarks of the packet path
	cargo bench --locked --workspace --bench '*'

fuzz: ## the fuzz targets, for SECONDS=60 each
	@scripts/fuzz.sh "$(or $(SECONDS),60)"
