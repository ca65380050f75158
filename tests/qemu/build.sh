#!/usr/bin/env bash
# Makes a guest for QEMU out of a Debian kernel package and this host's own programs.
#
#   tests/qemu/build.sh FOLDER PROGRAM    FOLDER/linux-image-*.deb → FOLDER/vmlinux, FOLDER/initramfs.cpio
#
# scripts/setup.sh downloads the package; it is unpacked, never installed. PROGRAM is what the guest will run: its
# shared libraries go into the initramfs, the program itself comes over 9p (init). Quick when nothing is newer.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
[ $# = 2 ] || { echo "usage: $0 FOLDER PROGRAM" >&2; exit 2; }
folder=$1 program=$2
die() { printf 'qemu/build: %s\n' "$*" >&2; exit 1; }

# In the order of loading comes of itself: what a module depends on goes before it.
modules=(9p 9pnet_virtio virtio_net igb 8021q vxlan)
programs=(bash ip bridge ethtool ping iperf3)

package=$(find "$folder" -maxdepth 1 -name 'linux-image-*.deb' 2>/dev/null | sort -V | tail -1)
[ -n "$package" ] || die "there is no linux-image-*.deb in $folder: scripts/setup.sh downloads it (make setup)"

# PROGRAM changes with each build, its libraries do not: they are part of the stamp by name.
libraries() { ldd "$@" | grep -o '/[^ )]*' | grep -v ':$' | sort -u; }
stamp=$(basename "$package"; libraries "$program"; cat "$here/build.sh" "$here/init")
[ "$stamp" != "$(cat "$folder/stamp" 2>/dev/null)" ] || exit 0

work=$(mktemp -d "$folder/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
dpkg-deb -x "$package" "$work/package"
image=$(find "$work/package/boot" -name 'vmlinuz-*')
root=$work/root

# The kernel inside its compressed image: uncompressed, QEMU starts it at once (PVH) instead of unpacking it in
# emulation. Where it lies: Documentation/arch/x86/boot.rst, setup_sects, payload_offset, payload_length.
number() { od -An -v --endian=little -t "u$1" -j "$2" -N "$1" "$image" | tr -d ' '; }
start=$((($(number 1 0x1f1) + 1) * 512 + $(number 4 0x248)))
# The last four bytes of the payload are the unpacked size, not a part of the stream.
dd if="$image" bs=1M iflag=skip_bytes,count_bytes skip=$start count=$(($(number 4 0x24c) - 4)) status=none |
	zstd -qdc >"$work/vmlinux" ||
	die "$(basename "$package") is not compressed with zstd: unpack it here as it is"

mkdir -p "$root"/{bin,lib/modules,dev,proc,sys,run,tmp,host}
# Without depmod, which would read all 4,000 modules for half a minute.
declare -A taken
take_module() { # name
	local file=$(find "$work/package" -name "${1//_/[_-]}.ko*" | head -1) needs need
	[ -z "${taken[$1]:-}" ] || return 0
	taken[$1]=1
	# A driver that is built in has no file.
	[ -n "$file" ] || return 0
	needs=$(modinfo -F depends "$file")
	for need in ${needs//,/ }; do take_module "$need"; done
	xz -dc "$file" >"$root/lib/modules/$1.ko"
	echo "/lib/modules/$1.ko" >>"$root/lib/modules/order"
}
for name in "${modules[@]}"; do take_module "$name"; done

paths=()
for name in "${programs[@]}"; do
	paths+=("$(type -P "$name")") || die "there is no program $name here: run scripts/setup.sh"
done
cp "${paths[@]}" "$(type -P busybox)" "$root/bin/"
libraries "$program" "${paths[@]}" | xargs cp -L --parents -t "$root"
cp "$here/init" "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc) >"$work/initramfs.cpio"

mv "$work/vmlinux" "$work/initramfs.cpio" "$folder/"
printf '%s\n' "$stamp" >"$folder/stamp"
