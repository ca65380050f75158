#!/usr/bin/env bash
# Many attachments: how fast they are made, how much memory each takes, and how long after kill -9 of the daemon all of them forward
# again; in namespaces of its own (as root).
#
#   benches/attachments.sh [COUNT] [KIND] [CLEARWAY]     default: 1000 veth target/release/clearway
set -euo pipefail
count=${1:-1000} kind=${2:-veth}
clearway=$(realpath "${3:-target/release/clearway}")
work=$(mktemp -d)
ours=attach-$$ each=20
pods=$(((count + each - 1) / each))
cleanup() {
	trap '' HUP INT TERM
	kill $(jobs -p) 2>/dev/null || true
	wait
	for ((i = 0; i < pods; i++)); do ip netns del "$ours-$i" 2>/dev/null || true; done
	ip netns del "$ours" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'trap "" HUP INT TERM; exit 1' HUP INT TERM # timeout(1) sends two
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
ip netns add "$ours"
for ((i = 0; i < pods; i++)); do ip netns add "$ours-$i"; done
cat >"$work/config.yaml" <<YAML
engine: {workers: [{core: 1}]}
bridge-domains: {lan: {}}
address-pools: {pods: {subnets: [{subnet: 10.8.0.0/16}]}}
YAML
now() { echo "${EPOCHREALTIME/./}"; }
start() {
	: >"$work/out"
	ip netns exec "$ours" "$clearway" --socket "$work/api.sock" run --state-dir "$work/state" --config "$work/config.yaml" >"$work/out" 2>"$work/log" &
	daemon=$!
	until grep -q ready "$work/out"; do
		kill -0 "$daemon" || { cat "$work/log" >&2; exit 1; }
		sleep 0.005
	done
}
up() { curl -s --unix-socket "$work/api.sock" http://x/v1/ports | jq '[.[] | select(.state == "up")] | length'; }
memory() { awk '/^Rss(Anon|Shmem)/ { kb += $2 } END { print kb }' "/proc/$daemon/status"; }
start
empty=$(memory) at=$(now)
for ((i = 0; i < count; i++)); do
	cat <<-CURL
		next
		url = "http://x/v1/attachments/c$i/net$((i % each))"
		request = "PUT"
		unix-socket = "$work/api.sock"
		silent
		fail-with-body
		output = "$work/answer"
		data = "{\"network\":\"n\",\"netns\":\"/run/netns/$ours-$((i / each))\",\"kind\":\"$kind\",\"segment\":{\"domain\":\"lan\"},\"ipam\":{\"pool\":{}}}"
	CURL
done | sed 1d >"$work/curl"
curl --fail-early -K "$work/curl" || { cat "$work/answer" >&2; tail -5 "$work/log" >&2; exit 1; }
echo "$count attachments ($kind) made in $((($(now) - at) / 1000)) ms, one after the other"
sleep 12
echo "memory: $(((($(memory) - empty) * 10 / count))) tenths of a KiB for each"
for _ in 1 2 3; do
	kill -9 "$daemon"
	wait "$daemon" 2>/dev/null || true
	at=$(now)
	start
	until [ "$(up)" -eq "$count" ]; do sleep 0.02; done
	echo "kill -9, start: all $count forward after $((($(now) - at) / 1000)) ms"
done
at=$(now)
for ((i = 0; i < count; i++)); do
	printf 'next\nurl = "http://x/v1/attachments/c%d/net%d"\nrequest = "DELETE"\nunix-socket = "%s"\nsilent\nfail\noutput = "%s"\n' $i $((i % each)) "$work/api.sock" "$work/answer"
done | sed 1d >"$work/curl"
curl --fail-early -K "$work/curl"
echo "all removed in $((($(now) - at) / 1000)) ms, one after the other"
