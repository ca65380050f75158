#!/usr/bin/env bash
# Start, apply and memory with hundreds of veth ports, in namespaces of its own (as root).
#
#   benches/many-ports.sh [CLEARWAY] [PORTS]     default: target/release/clearway 500
#
# Starts with PORTS - 1 ports, then applies a configuration with one more, and one more again; prints seconds from the
# start of the command to its end, and what memory the host has less.
set -euo pipefail
clearway=$(realpath "${1:-target/release/clearway}") ports=${2:-500}
work=$(mktemp -d)
ours=many-ports-$$ peers=many-peers-$$
cleanup() {
	trap '' HUP INT TERM
	kill $(jobs -p) 2>/dev/null || true
	wait
	for ns in "$ours" "$peers"; do ip netns del "$ns" 2>/dev/null || true; done
	rm -rf "$work"
}
trap cleanup EXIT
trap 'trap "" HUP INT TERM; exit 1' HUP INT TERM # timeout(1) sends two

for ns in "$ours" "$peers"; do
	ip netns add "$ns"
	ip netns exec "$ns" sysctl -qw net.ipv6.conf.default.disable_ipv6=1 net.ipv6.conf.all.disable_ipv6=1
done
for i in $(seq 0 "$ports"); do echo "link add p$i up type veth peer name q$i netns $peers"; done | ip -n "$ours" -b -
for i in $(seq 0 "$ports"); do echo "link set q$i up"; done | ip -n "$peers" -b -

config() { # number of ports
	echo "ports:"
	for i in $(seq 0 $(($1 - 1))); do echo "  p$i: {kind: af-xdp, interface: p$i, access: lan}"; done
	echo "bridge-domains: {lan: {}}"
}
for n in -1 0 1; do config $((ports + n)) >"$work/$n.yaml"; done
available() { awk '/^MemAvailable/ { print $2 }' /proc/meminfo; }
now() { date +%s%N; }
took() { printf '%-34s %6d ms\n' "$1" $((($(now) - $2) / 1000000)); }

before=$(available) at=$(now)
ip netns exec "$ours" "$clearway" --socket "$work/api.sock" run --state-dir "$work/state" --config "$work/-1.yaml" >"$work/out" 2>"$work/log" &
daemon=$!
until grep -q ready "$work/out"; do
	kill -0 "$daemon" || { cat "$work/log" >&2; exit 1; }
	sleep 0.005
done
took "start with $((ports - 1)) ports" "$at"
printf '%-34s %6d kB\n' "memory a port" $(((before - $(available)) / (ports - 1)))
for n in 0 1 0 1; do
	at=$(now)
	"$clearway" --socket "$work/api.sock" apply -f "$work/$n.yaml" >/dev/null
	took "apply of $((ports + n)) ports" "$at"
done
at=$(now)
kill "$daemon"
wait "$daemon"
daemon=
took stop "$at"
