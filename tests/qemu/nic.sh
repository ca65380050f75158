# The guest's part of tests/tests/qemu_nic.rs: Clearway on an igb and on a virtio-net, between two hosts.
#
#   namespace a ─ eth0 ══ igb0 ─┐            ┌─ vio0 ══ eth0 ─ namespace b
#                               └─ Clearway ─┘                              plain0: a virtio-net that can't do zero copy
#
# ══ is a hub of QEMU. Nothing is judged here: what was seen goes into /host/out/STEP/ as text.
set -u
out=/host/out/start
mkdir -p $out

named() { # the interface with this MAC address, from now on called this
	local dev
	dev=$(ip -br link | awk -v mac="$1" '$3 == mac { print $1 }')
	ip link set "$dev" name "$2"
}
named 02:00:00:00:00:0a igb0
named 02:00:00:00:00:0b vio0
named 02:00:00:00:00:0c plain0
for ns in a b; do
	ip netns add $ns
	named 02:00:00:00:00:1$ns peer
	ip link set peer netns $ns name eth0
	ip netns exec $ns sysctl -qw net.ipv6.conf.all.disable_ipv6=1
	ip -n $ns link set eth0 up
done
sysctl -qw net.ipv6.conf.all.disable_ipv6=1
for dev in igb0 vio0 plain0; do ip link set $dev up; done
ip -n a address add 10.0.0.1/24 dev eth0
ip -n b address add 10.0.0.2/24 dev eth0
# VLAN 10 between igb0 and its peer, untagged at the other end; and the kernel's own address on igb0.
ip -n a link add link eth0 name eth0.10 type vlan id 10
ip -n a link set eth0.10 up
ip -n a address add 10.10.0.1/24 dev eth0.10
ip -n b address add 10.10.0.2/24 dev eth0
ip address add 192.0.2.1/24 dev igb0
ip -n a address add 192.0.2.2/24 dev eth0

# The program is read many times; the memory of the guest is nearer than the host's folder.
cp /host/clearway /tmp/clearway
cw() { /tmp/clearway --socket /tmp/api.sock "$@"; }

state() { # all that Clearway may change on an interface
	ip -d link show "$1"
	ethtool -k "$1"
	grep . /sys/class/net/"$1"/{gro_flush_timeout,napi_defer_hard_irqs,threaded,flags}
	ip address show "$1"
}

# igb resets its link when a program is attached or taken off, and it may come and go once more. A second of carrier
# is taken for the end of that.
settle() {
	local up=0 i
	for ((i = 0; i < 100 && up < 10; i++)); do
		[ "$(cat /sys/class/net/igb0/carrier)" = 1 ] && up=$((up + 1)) || up=0
		sleep 0.1
	done
}

traffic() { # namespace address: small frames, full ones, and a burst that fills batches
	settle
	# Neighbours are found first.
	ip netns exec "$1" ping -n -q -c 1 -w 10 "$2" >/dev/null
	ip netns exec "$1" ping -n -q -i 0.02 -c 20 -W 10 "$2"
	ip netns exec "$1" ping -n -q -i 0.002 -l 32 -c 300 -s 1472 -M do -W 10 "$2"
}

apply() { # step: the configuration is standard input
	out=/host/out/$1
	mkdir -p $out
	cat >/tmp/config.yaml
	cw apply -f /tmp/config.yaml >$out/apply 2>&1
	look
}

look() {
	cw get ports -o json >$out/ports
	for dev in igb0 vio0; do state $dev >$out/$dev; done
}

bridge() { # mode [more keys]
	cat <<-YAML
		ports:
		  a: {kind: af-xdp, interface: igb0, access: lan, mode: $1${2:-}}
		  b: {kind: af-xdp, interface: vio0, access: lan, mode: $1${2:-}}
		bridge-domains:
		  lan: {}
	YAML
}

trunk() { # mode
	cat <<-YAML
		ports:
		  a: {kind: af-xdp, interface: igb0, trunk: [10], steering: shared, mode: $1}
		  b: {kind: af-xdp, interface: vio0, access: lan, mode: $1}
		bridge-domains:
		  lan: {vlan: 10}
	YAML
}

alone() { # mode
	cat <<-YAML
		ports:
		  p: {kind: af-xdp, interface: $1, access: lan, mode: $2}
		bridge-domains:
		  lan: {}
	YAML
}

settle
for dev in igb0 vio0; do state $dev >$out/$dev; done
bridge auto ", busy-poll: 'on'" >/tmp/config.yaml
/tmp/clearway --socket /tmp/api.sock run --state-dir /tmp/state --config /tmp/config.yaml >/host/out/log 2>&1 &
daemon=$!
for ((i = 0; i < 300; i++)); do
	! grep -qs '^ready' /host/out/log || break
	sleep 0.1
done

out=/host/out/auto
mkdir -p $out
look
traffic a 10.0.0.2 >$out/there
traffic b 10.0.0.1 >$out/back
cw get drops -o json >$out/drops

for mode in zero-copy copy generic; do
	apply $mode < <(bridge $mode)
	traffic a 10.0.0.2 >$out/there
	cw get drops -o json >$out/drops
done

apply trunk < <(trunk zero-copy)
traffic a 10.10.0.2 >$out/there
ip netns exec a ping -n -q -i 0.02 -c 20 -W 10 192.0.2.1 >$out/kernel
cw get drops -o json >$out/drops
# The counter-proof: with the offload on, the NIC does keep the tag to itself.
ethtool -K igb0 rxvlan on
ip netns exec a ping -n -q -i 0.02 -c 5 -w 1 10.10.0.2 >$out/stripped
ethtool -K igb0 rxvlan off

apply refused < <(alone plain0 zero-copy)
apply fallback < <(alone plain0 auto)
state igb0 >$out/igb0
ip link set igb0 mtu 3600
apply jumbo-zero-copy < <(alone igb0 zero-copy)
apply jumbo-auto < <(alone igb0 auto)
ip link set igb0 mtu 1500

kill $daemon
wait $daemon
echo $? >/host/out/exit
out=/host/out/end
mkdir -p $out
settle
for dev in igb0 vio0; do state $dev >$out/$dev; done
dmesg >/host/out/dmesg
