#!/usr/bin/env bash
# Builds what is committed beside it. Not optimised, with landing pads, so that functions
# start as those of the real library: endbr64, push.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
gcc -O0 -fcf-protection=branch -fPIC -shared -w -s -Wl,--build-id=sha1 -Wl,-soname,libnccl.so.2 -o libnccl.so.2 stub.c
gcc -O1 -w -s -Wl,-rpath,'$ORIGIN' -o driver driver.c ./libnccl.so.2
sha256sum stub.c driver.c libnccl.so.2 driver > SHA256SUMS
