#!/usr/bin/env bash
# A forwarder for the rig that has, besides the two ports of the rig's guests, others whose guests are connected and idle.
#
#   IDLE=98 benches/idle-guests.sh SOCKET SOCKET CORE [CLEARWAY]
#   READY=ready SECS=2 WARM=4 ./vhost.sh 'cmd:IDLE=98 …/benches/idle-guests.sh {s0} {s1} {cpu}' 64
set -euo pipefail
count=${IDLE:-98} folder=$(dirname "$1")
clearway=$(realpath "${4:-$(dirname "$0")/../target/release/clearway}")
ports=(--port "vhost-user:$1" --port "vhost-user:$2")
for ((i = 0; i < count; i++)); do ports+=(--port "vhost-user:$folder/idle$i.sock"); done
(
	until [ "$count" -eq 0 ] || [ -S "$folder/idle$((count - 1)).sock" ]; do
		kill -0 $$ || exit
		sleep 0.1
	done
	# testpmd takes at most 32 ports.
	for ((from = 0; from < count; from += 24)); do
		guests=()
		for ((i = from; i < count && i < from + 24; i++)); do
			guests+=(--vdev "net_virtio_user$i,path=$folder/idle$i.sock,queue_size=256")
		done
		# They are started and left alone. They end with the forwarder ($$), at the end of their input.
		setpriv --pdeathsig KILL dpdk-testpmd -l 0,1 --main-lcore 0 --no-pci --in-memory --single-file-segments -m 64 \
			--file-prefix "idle$$-$from" "${guests[@]}" -- -i --nb-cores=1 --total-num-mbufs=8192 --rxd=128 --txd=128 \
			< <(tail --pid=$$ -f /dev/null) >/dev/null 2>&1 &
	done
	wait
) &
exec "$clearway" --socket "$folder/api.sock" run --core "$3" --state-dir "$folder/state" "${ports[@]}"
