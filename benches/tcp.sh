#!/usr/bin/env bash
# TCP between two namespaces, both ends on core 0, whatever is between them on core 1: TAPs through Clearway, AF_XDP on veths
# through Clearway, the kernel's bridge; in turns, in namespaces of its own (as root; iperf3, jq).
#
#   benches/tcp.sh [ROUNDS] [CLEARWAY]     default: 2 target/release/clearway
set -euo pipefail
rounds=${1:-2}
clearway=$(realpath "${2:-target/release/clearway}")
work=$(mktemp -d)
ours=tcp-$$ a=tcp-a-$$ b=tcp-b-$$
stop() {
	kill $(jobs -p) 2>/dev/null || true
	wait
	for ns in "$ours" "$a" "$b"; do ip netns del "$ns" 2>/dev/null || true; done
}
cleanup() {
	trap '' HUP INT TERM
	stop
	rm -rf "$work"
}
trap cleanup EXIT
trap 'trap "" HUP INT TERM; exit 1' HUP INT TERM # timeout(1) sends two
run() { # ports
	ip netns exec "$ours" "$clearway" --socket "$work/api.sock" run --state-dir "$work/state" --core 1 "$@" >"$work/out" 2>"$work/log" &
	daemon=$!
	until grep -q ready "$work/out"; do
		kill -0 "$daemon" || { cat "$work/log" >&2; exit 1; }
		sleep 0.05
	done
}
veths() {
	ip link add t0 netns "$a" type veth peer name p0 netns "$ours"
	ip link add t1 netns "$b" type veth peer name p1 netns "$ours"
	for at in "$a t0" "$b t1" "$ours p0" "$ours p1"; do ip -n ${at% *} link set ${at#* } up; done
}
busy() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; }
measure() { # what
	for ns in "$ours" "$a" "$b"; do ip netns add "$ns"; done
	case $1 in
	tap) run --port "tap:t0,netns=$a" --port "tap:t1,netns=$b" ;;
	af-xdp) veths && run --port af-xdp:p0 --port af-xdp:p1 ;;
	bridge)
		veths
		ip -n "$ours" link add br0 up type bridge
		for port in p0 p1; do ip -n "$ours" link set "$port" master br0; done
		;;
	esac
	ip -n "$a" addr add 10.0.0.1/24 dev t0
	ip -n "$b" addr add 10.0.0.2/24 dev t1
	ip netns exec "$b" taskset -c 0 iperf3 -s -1 >/dev/null &
	sleep 0.3
	local before=$(busy)
	ip netns exec "$a" taskset -c 0 iperf3 -c 10.0.0.2 -t 4 -J >"$work/iperf"
	jq -r --arg what "$1" --argjson cpu $((($(busy) - before))) --argjson tick "$(getconf CLK_TCK)" '
		.end.sum_received as $r | "\($what): \($r.bits_per_second / 1e8 | round / 10) Gbit/s, \($r.bytes * 8 / 1e8 / ($cpu / $tick) | round / 10) Gbit per CPU second"' "$work/iperf"
	stop
}
for ((round = 0; round < rounds; round++)); do
	for what in tap af-xdp bridge; do measure "$what"; done
done
