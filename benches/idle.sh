#!/usr/bin/env bash
# What an idle daemon with two veth ports costs, and the first packet after a pause, in namespaces of its own (as root).
#
#   benches/idle.sh [CLEARWAY]     default: target/release/clearway
set -euo pipefail
clearway=$(realpath "${1:-target/release/clearway}")
work=$(mktemp -d)
ours=idle-$$ a=idle-a-$$ b=idle-b-$$
cleanup() {
	trap '' HUP INT TERM
	kill $(jobs -p) 2>/dev/null || true
	wait
	for ns in "$ours" "$a" "$b"; do ip netns del "$ns" 2>/dev/null || true; done
	rm -rf "$work"
}
trap cleanup EXIT
trap 'trap "" HUP INT TERM; exit 1' HUP INT TERM # timeout(1) sends two

for ns in "$ours" "$a" "$b"; do ip netns add "$ns"; done
ip -n "$ours" link add p0 up type veth peer name eth0 netns "$a"
ip -n "$ours" link add p1 up type veth peer name eth0 netns "$b"
ip -n "$a" addr add 10.0.0.1/24 dev eth0
ip -n "$b" addr add 10.0.0.2/24 dev eth0
ip -n "$a" link set eth0 up
ip -n "$b" link set eth0 up

ticks() { awk '{ print $14 + $15 }' "/proc/$daemon/stat"; }
start() { # spin or adaptive
	cat >"$work/config.yaml" <<-YAML
		engine: {idle: $1, workers: [{core: 1}]}
		ports:
		  a: {kind: af-xdp, interface: p0, access: lan}
		  b: {kind: af-xdp, interface: p1, access: lan}
		bridge-domains: {lan: {}}
	YAML
	: >"$work/out"
	local at=$(date +%s%N)
	ip netns exec "$ours" "$clearway" --socket "$work/api.sock" run --state-dir "$work/state" --config "$work/config.yaml" >"$work/out" 2>"$work/log" &
	daemon=$!
	until grep -q ready "$work/out"; do
		kill -0 "$daemon" || { cat "$work/log" >&2; exit 1; }
		sleep 0.001
	done
	echo "$1: start to ready $((($(date +%s%N) - at) / 1000000)) ms"
}
stop() {
	kill "$daemon"
	wait "$daemon"
	daemon=
}

for idle in adaptive spin; do
	for _ in 1 2 3 4; do start $idle && stop; done
	start $idle
	sleep 2
	at=$(ticks)
	sleep 10
	echo "$idle: $(($(ticks) - at)) clock ticks in 10 s without traffic ($(getconf CLK_TCK) a second are one core)"
	ip netns exec "$a" ping -q -c 3 -i 0.2 10.0.0.2 >/dev/null
	ip netns exec "$a" taskset -c 0 ping -c 400 -i 0.03 10.0.0.2 | sed -n 's/.*time=\([0-9.]*\).*/\1/p' | sort -n |
		awk -v idle=$idle '{ t[NR] = $1 } END { printf "%s: ping after 30 ms of silence: p50 %s, p99 %s ms\n", idle, t[int(NR / 2)], t[int(NR * 0.99)] }'
	stop
done
