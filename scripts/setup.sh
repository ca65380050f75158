#!/usr/bin/env bash
# Installs what this project needs on Debian 12, and says what it does. Idempotent; quick when all is there.
#
#   scripts/setup.sh         everything `make check`, `make test` and benches/*.sh need
#   scripts/setup.sh demo    only what `make demo` needs (no OVS, DPDK, clang, QEMU)
#
# Services that Debian packages would start (Open vSwitch) are not started: the tests run their own, in namespaces.
set -euo pipefail

profile=${1:-all}
# In a fresh shell rustup's folder is not on the PATH yet.
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
min_rust=1.90

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
# The CNI plugin's tests delegate to host-local and static.
test_packages+=(containernetworking-plugins iptables)
# The runtimes that run it; iptables above is for the plugin portmap.
test_packages+=(podman containerd runc)
# What benches/*.sh want besides.
test_packages+=(jq)
# The guest of tests/qemu: made of busybox and this host's programs, with a kernel that is downloaded below.
# testpmd, of dpdk-dev: its virtio_user is the guest of the vhost-user tests, its net_pcap their files; the packages of
# DPDK only recommend its drivers.
test_packages+=(dpdk-dev librte-meta-net librte-meta-mempool python3-minimal)
test_packages+=(bash binutils busybox-static cpio kmod xz-utils zstd)
# Its machine, from Debian's backports: 7.2, bookworm's own, has no igb.
backports_packages=(qemu-system-x86)
# The first kernel with zero copy on both igb and virtio_net; see guest_kernel.
kernel_series=6.18
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

install_packages() { # packages; from $release, where that is set
	local want=("$@") from=(${release:+--target-release "$release"}) policy=/usr/sbin/policy-rc.d ours=
	[ "$(id -u)" = 0 ] || die "these packages are missing: ${want[*]}; run as root: scripts/setup.sh $profile"
	command -v apt-get >/dev/null || die "no apt-get here; install by hand what corresponds to: ${want[*]}"
	say "Installing Debian packages: ${want[*]}"
	# Debian's documented way to keep packages from starting their services while they are installed.
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		ours=1
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	fi
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${from[@]}" "${want[@]}"
	[ -z "$ours" ] || rm -f $policy
	# Not started now, not started at the next boot either: nobody asked for a switch on this host.
	case " ${want[*]} " in
		*" openvswitch-switch-dpdk "*)
			! command -v systemctl >/dev/null || systemctl --quiet disable openvswitch-switch
			update-rc.d openvswitch-switch disable
			;;
	esac
	case " ${want[*]} " in
		*" containerd "*) ! command -v systemctl >/dev/null || systemctl --quiet disable containerd ;;
	esac
	case " ${want[*]} " in
		*" podman "*) ! command -v systemctl >/dev/null || systemctl --quiet disable podman podman.socket podman-restart podman-auto-update podman-auto-update.timer ;;
	esac
}

# Where this host gets Debian from: mirror and keyring of its suite.
debian() {
	apt-get indextargets --format '$(REPO_URI) $(SIGNED_BY)' 'Created-By: Packages' 'Codename: bookworm' |
		sed 's/\$(SIGNED_BY)//' | head -1
}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# Backports have a priority of 100: they are taken only where they are asked for.
install_backports() {
	local list=/etc/apt/sources.list.d/bookworm-backports.sources mirror signed
	command -v apt-get >/dev/null || die "no apt-get here; install by hand: $* (QEMU 8.0 or later)"
	if ! apt-get indextargets --format '$(CODENAME)' 'Created-By: Packages' | grep -qx bookworm-backports; then
		[ "$(id -u)" = 0 ] || die "QEMU is missing; run as root: scripts/setup.sh $profile"
		read -r mirror signed <<<"$(debian)"
		[ -n "$mirror" ] || die "no mirror of Debian 12 in /etc/apt: cannot tell where to get $* from"
		say "Adding bookworm-backports to apt's sources, for QEMU: $list"
		printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\nSigned-By: %s\n' \
			"$mirror" "${signed:-$keyring}" >"$list"
	fi
	release=bookworm-backports install_packages "$@"
}

# The newest kernel of the series in trixie-backports, or, when the mirror has dropped the series, of all. It is only
# downloaded, with a list of sources of its own: trixie's packages do not fit this Debian, so apt must not know them.
guest_kernel() { # folder
	local mirror signed package
	local apt=(-o Dir::Etc::SourceList="$1/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o Dir::State::Lists="$1/lists" -o APT::Sandbox::User=root)
	mkdir -p "$1/lists/partial"
	read -r mirror signed <<<"$(debian)"
	[ -n "$mirror" ] || die "no mirror of Debian 12 in /etc/apt: cannot tell where to get the guest's kernel from"
	echo "deb [signed-by=${signed:-$keyring}] $mirror trixie-backports main" >"$1/sources.list"
	apt-get "${apt[@]}" update -q
	package=$(apt-cache "${apt[@]}" pkgnames linux-image- | grep -E '^linux-image-[0-9.]+\+deb13-amd64$' | sort -V |
		awk -v series="-$kernel_series." '{ last = $0 } index($0, series) { best = $0 } END { print best ? best : last }')
	[ -n "$package" ] || die "no linux-image-*-amd64 in trixie-backports at $mirror"
	say "Downloading the guest's kernel: $package"
	# Elsewhere first: half of a package must not be taken for one.
	(cd "$1/lists" && apt-get "${apt[@]}" download "$package")
	mv "$1/lists/$package"_*.deb "$1/"
}

mapfile -t need < <(missing)
if [ ${#need[@]} -gt 0 ]; then
	install_packages "${need[@]}"
	mapfile -t need < <(missing)
	[ ${#need[@]} -eq 0 ] || die "still missing after the installation: ${need[*]}"
else
	say "Debian packages: all ${#packages[@]} are there"
fi
# Bookworm's own QEMU would be there under the same name.
if [ "$profile" = all ] && [[ $(qemu-system-x86_64 -device help 2>/dev/null) != *'"igb"'* ]]; then
	install_backports "${backports_packages[@]}"
fi

if ! command -v cargo >/dev/null; then
	say "No cargo: installing the stable Rust toolchain through rustup, into ${CARGO_HOME:-$HOME/.cargo}"
	curl --proto '=https' --tlsv1.2 -fsSL https://sh.rustup.rs |
		sh -s -- -y --profile minimal --default-toolchain stable --component clippy --component rustfmt ||
		die "could not install Rust from https://sh.rustup.rs; install Rust $min_rust or later another way, then run this again"
fi
have=$(rustc --version | awk '{print $2}')
[ "$(printf '%s\n%s\n' "$min_rust" "$have" | sort -V | head -1)" = "$min_rust" ] ||
	die "rustc $have is older than $min_rust; run: rustup update stable"
if [ "$profile" = all ] && ! { cargo clippy --version && cargo fmt --version; } >/dev/null 2>&1; then
	say "Adding clippy and rustfmt"
	rustup component add clippy rustfmt
fi
if [ "$profile" = all ]; then
	guest=$(scripts/target-dir.sh)/qemu
	compgen -G "$guest/linux-image-*.deb" >/dev/null || guest_kernel "$guest"
fi
say "Ready: rustc $have, profile '$profile'"
