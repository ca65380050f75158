#!/usr/bin/env bash
# build.sh            compiles clearway.bpf.c into clearway.bpf.o
# build.sh --check    fails if the committed object is not what the source compiles to
#
# Needs clang and llvm-strip (Debian 12: clang 14, llvm), libbpf-dev and linux-libc-dev. The result does not depend
# on where the source lies; it does depend on the compiler's version.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
out=clearway.bpf.o
if [[ ${1:-} == --check ]]; then
	out=$(mktemp --suffix=.o)
	trap 'rm -f "$out"' EXIT
fi
clang -O2 -g -Wall -Werror -target bpf -mcpu=v3 -ffile-prefix-map="$PWD"=. -fdebug-compilation-dir=. \
	-I"/usr/include/$(uname -m)-linux-gnu" -c clearway.bpf.c -o "$out"
llvm-strip -g "$out"
if [[ ${1:-} == --check ]]; then
	cmp "$out" clearway.bpf.o || {
		echo "build.sh: clearway.bpf.o is not what clearway.bpf.c compiles to with $(clang --version | head -1): run fastpath/io/xdp/build.sh" >&2
		exit 1
	}
fi
