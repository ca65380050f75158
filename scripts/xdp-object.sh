#!/usr/bin/env bash
# The XDP programs are committed as source and as object, so that building the daemon needs no clang.
#
#   scripts/xdp-object.sh          rebuilds every *.bpf.c into its .bpf.o
#   scripts/xdp-object.sh check    rebuilds into a scratch folder and fails if a committed object differs
#
# Debian 12's clang 14 and libbpf-dev 1.1 make the committed objects; another clang makes other bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

build() { # source object
	# -g for BTF only: DWARF is stripped. The prefix map keeps the builder's path out of the object.
	clang -O2 -g -Wall -Wextra -Werror -target bpf -mcpu=v3 \
		"-I/usr/include/$(gcc -print-multiarch)" "-ffile-prefix-map=$PWD=." \
		-c "$1" -o "$2"
	llvm-strip -g "$2"
}

mapfile -t sources < <(find fastpath -name '*.bpf.c' | sort)
[ ${#sources[@]} -gt 0 ] || { echo "xdp-object: no *.bpf.c under fastpath" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for source in "${sources[@]}"; do
	object=${source%.c}.o
	case ${1:-build} in
		build)
			build "$source" "$object"
			echo "built $object"
			;;
		check)
			build "$source" "$scratch/object"
			cmp "$scratch/object" "$object" || {
				echo "xdp-object: $object is not what $source gives; run scripts/xdp-object.sh and commit it" >&2
				exit 1
			}
			echo "$object is what $source gives"
			;;
		*)
			echo "usage: scripts/xdp-object.sh [build|check]" >&2
			exit 2
			;;
	esac
done
