#!/usr/bin/env bash
# Installs what this project needs on Debian 12, and says what it does. Idempotent; quick when all is there.
#
#   scripts/setup.sh         everything `make check` and `make test` need
#   scripts/setup.sh demo    only what `make demo` needs (no OVS, DPDK, clang)
#
# Services that Debian packages would start (Open vSwitch) are not started: the tests run their own, in namespaces.
set -euo pipefail

profile=${1:-all}
# In a fresh shell rustup's folder is not on the PATH yet.
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
min_rust=1.89

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Building the daemon: libbpf (vendored by libbpf-sys) is C over libelf and zlib. Running it: iproute2, ethtool.
# The demo's traffic: ping, iperf3.
packages=(
	ca-certificates curl git gcc libc6-dev make pkg-config zlib1g-dev libelf-dev
	iproute2 ethtool iputils-ping iperf3 procps util-linux
)
# Tests: the XDP object is rebuilt and compared (clang, llvm, libbpf-dev for bpf_helpers.h); the test bed captures
# through libpcap; the xsk-rs counterpart builds libxdp (clang, llvm, m4, libpcap) and loads its objects (libxdp1);
# Open vSwitch with its userspace datapath is the VLAN and VXLAN peer; bpftool loads and names foreign XDP programs.
test_packages=(
	clang llvm libclang1 libbpf-dev libpcap-dev libxdp1 m4 bpftool openvswitch-switch-dpdk
)
case $profile in
	all) packages+=("${test_packages[@]}") ;;
	demo) ;;
	*) die "unknown profile '$profile'; give none, or 'demo'" ;;
esac

missing() {
	local p
	for p in "${packages[@]}"; do
		[ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || echo "$p"
	done
}

install_packages() {
	local want=("$@") policy=/usr/sbin/policy-rc.d ours=
	[ "$(id -u)" = 0 ] || die "these packages are missing: ${want[*]}; run as root: scripts/setup.sh $profile"
	command -v apt-get >/dev/null || die "no apt-get here; install by hand what corresponds to: ${want[*]}"
	say "Installing ${#want[@]} Debian packages: ${want[*]}"
	# Debian's documented way to keep packages from starting their services while they are installed.
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		ours=1
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	fi
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${want[@]}"
	[ -z "$ours" ] || rm -f $policy
	# Not started now, not started at the next boot either: nobody asked for a switch on this host.
	case " ${want[*]} " in
		*" openvswitch-switch-dpdk "*)
			! command -v systemctl >/dev/null || systemctl --quiet disable openvswitch-switch
			update-rc.d openvswitch-switch disable
			;;
	esac
}

mapfile -t need < <(missing)
if [ ${#need[@]} -gt 0 ]; then
	install_packages "${need[@]}"
	mapfile -t need < <(missing)
	[ ${#need[@]} -eq 0 ] || die "still missing after the installation: ${need[*]}"
else
	say "Debian packages: all ${#packages[@]} are there"
fi

if ! command -v cargo >/dev/null; then
	say "No cargo: installing the stable Rust toolchain through rustup, into ${CARGO_HOME:-$HOME/.cargo}"
	curl --proto '=https' --tlsv1.2 -fsSL https://sh.rustup.rs |
		sh -s -- -y --profile minimal --default-toolchain stable --component clippy --component rustfmt
fi
have=$(rustc --version | awk '{print $2}')
[ "$(printf '%s\n%s\n' "$min_rust" "$have" | sort -V | head -1)" = "$min_rust" ] ||
	die "rustc $have is older than $min_rust; run: rustup update stable"
if [ "$profile" = all ] && ! { cargo clippy --version && cargo fmt --version; } >/dev/null 2>&1; then
	say "Adding clippy and rustfmt"
	rustup component add clippy rustfmt
fi
say "Ready: rustc $have, profile '$profile'"
