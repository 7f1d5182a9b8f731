#!/usr/bin/env bash
# Runs the tests of agent/kernel in Debian's kernels under QEMU, one after another.
#
#   run.sh CACHE [VERSION...]      versions such as 5.10 6.1 6.12; none: all three
#
# It needs qemu-system-x86_64, Go, cpio, xz, busybox (busybox-static) and apt's own
# mirror of Debian, from which kernels are fetched once, into CACHE. The processor is emulated
# (TCG), so that it works in any virtual machine and takes a few minutes a kernel. A test that
# a kernel cannot run is skipped and says why; the exit code is 1 if any failed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
mkdir -p "${1:?run.sh CACHE [VERSION...]}"
cache=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- 5.10 6.1 6.12

for tool in qemu-system-x86_64 go cpio busybox apt-get dpkg-deb xz; do
  command -v "$tool" > /dev/null || { echo "kernels: $tool is missing (Debian: apt-get install qemu-system-x86 cpio busybox-static xz-utils)" >&2; exit 1; }
done

declare -A suite=([5.10]=bullseye [6.1]=bookworm [6.12]=trixie)

# What tests ask of the kernel that Debian does not build in, in an order that loads.
modules="veth inet_diag tcp_diag overlay"

# fetch VERSION: prints the path of its kernel.
fetch() {
  local version=$1 dir=$cache/linux-$1
  if [ ! -s "$dir/vmlinuz" ] || [ ! -d "$dir/modules" ]; then
    local key=/usr/share/keyrings/debian-archive-keyring.gpg mirror name
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/*$' | head -n 1)
    [ -f "$key" ] && [ -n "$mirror" ] || { echo "kernels: this machine's apt knows no mirror of Debian" >&2; return 1; }
    mkdir -p "$dir/lists/partial" "$dir/archives/partial" "$dir/root"
    echo "deb [signed-by=$key] $mirror ${suite[$version]} main" > "$dir/sources.list"
    local opts=(-o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$dir/lists"
      -o "Dir::Cache::Archives=$dir/archives" -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o APT::Sandbox::User=root -qq)
    echo "kernels: $version: fetching Debian's kernel" >&2
    apt-get "${opts[@]}" update >&2
    name=$(apt-cache "${opts[@]}" depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    [ -n "$name" ] || { echo "kernels: $version: there is no kernel in ${suite[$version]}" >&2; return 1; }
    (cd "$dir/archives" && apt-get "${opts[@]}" download "$name") >&2
    dpkg-deb -x "$dir"/archives/"$name"_*.deb "$dir/root"
    mkdir -p "$dir/modules.new"
    for module in $modules; do
      find "$dir/root" -name "$module.ko*" -exec cp {} "$dir/modules.new" \;
    done
    find "$dir/modules.new" -name '*.xz' -exec xz -d {} +
    mv "$dir/modules.new" "$dir/modules"
    cp "$dir"/root/boot/vmlinuz-* "$dir/vmlinuz"
    rm -rf "$dir/root" "$dir/archives" "$dir/lists"
  fi
  echo "$dir/vmlinuz"
}

# with_libraries PROGRAM: puts a program of this machine and its libraries into the image.
with_libraries() {
  local path
  path=$(command -v "$1") || { echo "kernels: $1 is missing here: tests that need it are skipped" >&2; return 0; }
  cp -L --parents "$path" "$image"
  ldd "$path" 2> /dev/null | grep -o '/[^ )]*' | while read -r lib; do cp -L --parents "$lib" "$image"; done
}

image=$cache/image
rm -rf "$image"
mkdir -p "$image"/{bin,proc,sys,dev,tmp,run,etc,tests}
cp -L "$(command -v busybox)" "$image/bin/busybox"
echo 'root:x:0:0:root:/:/bin/sh' > "$image/etc/passwd"
for tool in ip setpriv unshare mount umount; do with_libraries "$tool"; done
# What the tests' own C programs are linked to.
for lib in /lib64/ld-linux-x86-64.so.2 /lib/x86_64-linux-gnu/libc.so.6 /lib/x86_64-linux-gnu/libdl.so.2 /lib/x86_64-linux-gnu/libpthread.so.0; do
  if [ -e "$lib" ]; then cp -L --parents "$lib" "$image"; fi
done
cd "$root"
for dir in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./agent/kernel/...); do
  name=${dir#"$root/"}
  mkdir -p "$image/tests/$name"
  CGO_ENABLED=0 go test -c -o "$image/tests/$name/run.test" "./$name"
  if [ -d "$dir/testdata" ]; then cp -r "$dir/testdata" "$image/tests/$name/"; fi
done
cat > "$image/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
mkdir -p /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm && mount -t tmpfs tmpfs /dev/shm
for m in MODULES; do insmod /modules/$m.ko || echo "== no module $m"; done
ip link set lo up 2> /dev/null || ifconfig lo up
echo "== Linux $(uname -r)"
for t in $(find /tests -name run.test | sort); do
  name=${t#/tests/}; name=${name%/run.test}
  echo "== $name"
  if (cd "${t%/run.test}" && ./run.test -test.timeout 10m -test.v > /tmp/log 2>&1); then verdict=ok; else verdict=FAIL; fi
  grep -E '^ *--- (FAIL|SKIP)' /tmp/log
  grep -A2 -E '^ *--- SKIP' /tmp/log | grep -E '^ +[a-z_]+_test.go|^ +require.go' | sort | uniq -c
  [ "$verdict" = ok ] || { grep -B 12 -E "^ *--- FAIL" /tmp/log; tail -n 30 /tmp/log; }
  echo "== $verdict $name: $(grep -c -E '^--- PASS' /tmp/log) passed, $(grep -c -E '^--- SKIP' /tmp/log) skipped, $(grep -c -E '^--- FAIL' /tmp/log) failed"
done
echo "== all ran"
poweroff -f
INIT
sed -i "s/MODULES/$modules/" "$image/init"
chmod +x "$image/init"

failed=0
for version in "$@"; do
  kernel=$(fetch "$version")
  log=$cache/$version.log
  echo "kernels: $version: $kernel"
  # Without cmpxchg16b: the emulator was seen to leave its flags wrong, and the kernel to end.
  rm -rf "$image/modules"
  cp -r "${kernel%/*}/modules" "$image/modules"
  (cd "$image" && find . | cpio --quiet -o -H newc | gzip -1) > "$cache/initramfs"
  timeout 1800 qemu-system-x86_64 -machine accel=tcg -cpu max,-cx16 -smp 2 -m 3072 -nographic -no-reboot -net none \
    -kernel "$kernel" -initrd "$cache/initramfs" -append 'console=ttyS0 quiet panic=-1 loglevel=3' < /dev/null 2>&1 | tr -d '\r' | tee "$log" | grep --line-buffered -aE '^(==| *---|.*_test\.go:)' || true
  if ! grep -q '^== all ran' "$log" || grep -q '^== FAIL' "$log"; then
    echo "kernels: $version: FAILED, see $log"
    failed=1
  fi
done
exit $failed
