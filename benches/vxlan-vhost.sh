#!/usr/bin/env bash
# Clearway between two vhost-user ports, of which one is the uplink of a VXLAN tunnel: configs/vxlan-encap.yaml or
# vxlan-decap.yaml with sockets and a core of your own. Learning is on. Runs until it is stopped.
#
#   benches/vxlan-vhost.sh encap|decap FROM-SOCKET TO-SOCKET [CORE [CLEARWAY]]     default: 1 target/release/clearway
#
# Frames of the overlay go from 02:00:00:00:00:0a to 02:00:00:00:00:0b; the outer ones, VNI 100, between 10.9.0.1 (ours,
# 02:00:00:00:99:01) and 10.9.0.2 (02:00:00:00:99:02). Configuration, API socket and state lie beside FROM-SOCKET.
set -euo pipefail
usage="usage: $0 encap|decap FROM-SOCKET TO-SOCKET [CORE [CLEARWAY]]"
way=${1:?$usage} from=${2:?$usage} to=${3:?$usage} core=${4:-1}
clearway=$(realpath "${5:-target/release/clearway}")
config=$from.yaml
sed "s|/tmp/from.sock|$from|; s|/tmp/to.sock|$to|; s|core: 1|core: $core|" \
	"$(dirname "$0")/configs/vxlan-$way.yaml" >"$config"
exec "$clearway" --socket "$from.api" run --state-dir "$from.state" --config "$config"
