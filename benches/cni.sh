#!/usr/bin/env bash
# ADD and DEL through clearway-cni beside the bridge plugin of containernetworking-plugins, in turns, in namespaces of their own (as root).
#
#   benches/cni.sh [ROUNDS]        default: 200; programs from target/release
#
# Each round adds and removes the same pod's interface once with each network, in an order that moves on by one. What is timed is
# what a runtime waits for: the plugin's process from start to end, with its IPAM plugin's.
set -euo pipefail
if [ "${1:-}" = inside ]; then
	declare -A at
	order=($NETWORKS)
	call() { # verb network round
		# What the kernel and the daemon still do after the call before must not count for this one's network.
		sleep 0.05
		local begin=$EPOCHREALTIME
		CNI_COMMAND=$1 CNI_CONTAINERID=pod-$3-$2 CNI_NETNS=/run/netns/$POD CNI_IFNAME=net1 CNI_PATH=$WORK/bin \
			"$WORK/bin/$(cat "$WORK/$2.type")" <"$WORK/$2.conf" >"$WORK/answer" 2>"$WORK/log" ||
			{ cat "$WORK/answer" "$WORK/log" >&2; exit 1; }
		local end=$EPOCHREALTIME
		[ "$3" -lt 0 ] || echo "$2 $1 $(((${end/./} - ${begin/./})))" >>"$WORK/times"
	}
	for ((round = -5; round < ROUNDS; round++)); do
		for network in "${order[@]}"; do
			call ADD "$network" "$round"
			call DEL "$network" "$round"
		done
		order=("${order[@]:1}" "${order[0]}")
	done
	exit
fi

rounds=${1:-200}
root=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d)
# As by default where /run is a tmpfs: the journals of interfaces on one, the store on the disk.
state=$(mktemp -d /dev/shm/clearway-bench.XXXXXX)
ours=cni-$$ pod=cni-pod-$$
cleanup() {
	trap '' HUP INT TERM
	kill $(jobs -p) 2>/dev/null || true
	wait
	for ns in "$ours" "$pod"; do ip netns del "$ns" 2>/dev/null || true; done
	rm -rf "$work" "$state"
}
trap cleanup EXIT
trap 'trap "" HUP INT TERM; exit 1' HUP INT TERM # timeout(1) sends two
mkdir "$work/bin"
cp "$root/target/release/clearway-cni" /usr/lib/cni/{bridge,host-local} "$work/bin/"
for ns in "$ours" "$pod"; do ip netns add "$ns"; ip -n "$ns" link set lo up; done
cat >"$work/config.yaml" <<YAML
engine: {workers: [{core: 1}]}
bridge-domains: {lan: {}}
address-pools: {pods: {subnets: [{subnet: 10.8.0.0/16}]}}
YAML
ip netns exec "$ours" "$root/target/release/clearway" --socket "$work/api.sock" run --state-dir "$state" --store "$work/store.redb" --config "$work/config.yaml" >"$work/out" 2>"$work/daemon.log" &
daemon=$!
until grep -q ready "$work/out"; do
	kill -0 "$daemon" || { cat "$work/daemon.log" >&2; exit 1; }
	sleep 0.01
done
network() { # name type rest-of-the-configuration
	echo "$2" >"$work/$1.type"
	echo "{\"cniVersion\": \"1.0.0\", \"name\": \"$1\", \"type\": \"$2\", $3}" >"$work/$1.conf"
}
local_ipam() { echo "\"ipam\": {\"type\": \"host-local\", \"subnet\": \"10.7.0.0/16\", \"dataDir\": \"$work/ips\"}"; }
daemon_socket="\"daemonSocket\": \"$work/api.sock\", \"bridgeDomain\": \"lan\""
network bridge bridge "\"bridge\": \"br0\", $(local_ipam)"
network veth clearway-cni "\"mode\": \"veth\", $daemon_socket, $(local_ipam)"
network veth-pool clearway-cni "\"mode\": \"veth\", $daemon_socket, \"ipam\": {\"type\": \"clearway\"}"
network tap clearway-cni "\"mode\": \"tap\", $daemon_socket, $(local_ipam)"
network tap-pool clearway-cni "\"mode\": \"tap\", $daemon_socket, \"ipam\": {\"type\": \"clearway\"}"
export WORK=$work POD=$pod ROUNDS=$rounds NETWORKS="bridge veth veth-pool tap tap-pool"
ip netns exec "$ours" bash "$0" inside
for verb in ADD DEL; do
	for network in $NETWORKS; do
		grep "^$network $verb " "$work/times" | awk '{ print $3 }' | sort -n |
			awk -v what="$verb $network" '{ t[NR] = $1 / 1000 } END { printf "%-14s p50 %6.1f ms  p99 %6.1f ms  (%d)\n", what, t[int((NR + 1) / 2)], t[int(NR * 0.99 + 0.99)], NR }'
	done
done
