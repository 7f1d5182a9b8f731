#!/usr/bin/env bash
# Compiles bpf/*/*.bpf.c to objects and their Go loaders, beside the sources, or below
# the folder $1. The compiler is pinned: another gives other bytes, and a test compares.
# A line of a source may name targets: "// targets: amd64,arm64"; else bpfel.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-}
cc=${BPF_CLANG:-clang-16} strip=${BPF_STRIP:-llvm-strip-16}
for tool in "$cc" "$strip" go; do
  command -v "$tool" > /dev/null || { echo "generate: $tool is missing (Debian: apt-get install clang-16 llvm-16)" >&2; exit 1; }
done
bpf2go=$(mktemp -d)/bpf2go
trap 'rm -rf "$(dirname "$bpf2go")"' EXIT
go build -o "$bpf2go" github.com/cilium/ebpf/cmd/bpf2go
for source in */*.bpf.c; do
  dir=$(dirname "$source") stem=$(basename "$source" .bpf.c)
  targets=$(sed -n 's|^// targets: ||p' "$source")
  into=${out:+$out/}$dir
  mkdir -p "$into"
  into=$(cd "$into" && pwd)
  (cd "$dir" && "$bpf2go" -cc "$cc" -strip "$strip" -target "${targets:-bpfel}" -no-global-types \
    -go-package "$dir" -output-dir "$into" -output-stem "$stem" -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../headers" \
    "${stem^}" "$(basename "$source")"; gofmt -w "$into/$stem"_*.go) > /dev/null
done
