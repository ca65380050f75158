#!/bin/sh
# A containerd that leaves nothing outside FOLDER: containerd.sh FOLDER. It runs in a mount namespace of its own, where the
# places whose names are fixed are empty: ctr reads networks from /etc/cni/net.d and runs plugins of /opt/cni/bin, shims
# have sockets in /run/containerd, libcni remembers in /var/lib/cni. FOLDER/net.d and FOLDER/bin are what is found there.
set -eu
dir=$1
mount --make-rprivate /
for place in /run /opt /etc/cni /var/lib; do mount -t tmpfs none $place; done
mkdir -p /opt/cni
ln -s "$dir/bin" /opt/cni/bin
ln -s "$dir/net.d" /etc/cni/net.d
cat >"$dir/config.toml" <<END
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
	"io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
END
exec containerd --config "$dir/config.toml" --root "$dir/root" --state "$dir/state" --address "$dir/containerd.sock"
