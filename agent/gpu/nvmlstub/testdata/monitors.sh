#!/bin/sh
# Brings two programs that others wrote to read GPUs into DIR, without installing anything:
# nvtop 3.0.1 and gpustat 1.0.0 with python3-pynvml 11.525.112, of Debian 12's contrib. What
# is there already is left alone. Needs apt-get and, for gpustat, python3.
#
#   monitors.sh DIR
set -eu
dir=$1
[ -x "$dir/nvtop" ] && [ -x "$dir/gpustat" ] && exit 0
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
key=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$key" ] || { echo "monitors: no $key: this is no Debian" >&2; exit 1; }
apt=$dir/apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/debs" "$apt/root"
# This machine's own mirror of Debian 12, with contrib, which it need not have enabled.
mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' | sed -n 's#^bookworm main \(.*/debian/*\)$#\1#p' | head -n 1)
[ -n "$mirror" ] || { echo "monitors: apt knows no mirror of Debian 12" >&2; exit 1; }
echo "deb [signed-by=$key] $mirror bookworm main contrib" > "$apt/sources.list"
set -- -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$apt/lists" \
  -o "Dir::Cache::Archives=$apt/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root \
  -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -qq
apt-get "$@" update
(cd "$apt/debs" && apt-get "$@" download nvtop=3.0.1-1 libncursesw6 libtinfo6 libsystemd0 gpustat=1.0.0-1 python3-pynvml=11.525.112-1 python3-blessed \
  python3-wcwidth python3-six python3-psutil)
for deb in "$apt"/debs/*.deb; do dpkg -x "$deb" "$apt/root"; done
rm -rf "$apt/lists" "$apt/archives" "$apt/debs"
# Libraries of this machine come first; what it lacks is beside the program.
libs=$(dirname "$(find "$apt/root" -name libncursesw.so.6)"):$(dirname "$(find "$apt/root" -name libsystemd.so.0)")
printf '#!/bin/sh\nLD_LIBRARY_PATH="$LD_LIBRARY_PATH:%s" exec %s "$@"\n' "$libs" "$apt/root/usr/bin/nvtop" > "$dir/nvtop"
chmod +x "$dir/nvtop"
python=$(command -v python3.11 || command -v python3) || { echo "monitors: gpustat needs python3" >&2; exit 1; }
PYTHONPATH=$apt/root/usr/lib/python3/dist-packages "$python" -c 'import gpustat'
printf '#!/bin/sh\nPYTHONPATH=%s exec %s -m gpustat "$@"\n' "$apt/root/usr/lib/python3/dist-packages" "$python" > "$dir/gpustat"
chmod +x "$dir/gpustat"
