#!/bin/sh
# Brings what `make bench-agent` measures beside flopwatch-agent into DIR. Nothing of it is
# committed, and nothing is installed on the host. What cannot be had is said, and left out.
#
#   rivals.sh DIR
#
# nvidia_gpu_exporter  v1.14.0, its NVML backend: `go install`; where a module proxy refuses it,
#                      from sources: a clone of NVIDIA_GPU_EXPORTER_GIT at the tag (needs cgo)
# mindprince           nvidia_gpu_prometheus_exporter of 2018, the least there is: no module, from a clone of
#                      MINDPRINCE_GIT at its last commit, with the dependencies in it (needs cgo)
# gpustat              1.0.0-1 and python3-pynvml 11.525.112-1 of Debian 12 (contrib), unpacked
set -u
dir=$1
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
git_url=${NVIDIA_GPU_EXPORTER_GIT:-https://github.com/utkuozdemir/nvidia_gpu_exporter}
exporter=v1.14.0
mindprince_url=${MINDPRINCE_GIT:-https://github.com/mindprince/nvidia_gpu_prometheus_exporter}
mindprince=0d52cd2f711ea00601b711d8127b8634b2844150

exporter() {
  [ -x "$dir/nvidia_gpu_exporter" ] && return 0
  echo "rivals: nvidia_gpu_exporter $exporter: go install"
  # cgo warns of every deprecated function of NVML.
  CGO_ENABLED=1 CGO_CFLAGS=-w GOBIN="$dir" go install "github.com/utkuozdemir/nvidia_gpu_exporter/cmd/nvidia_gpu_exporter@$exporter" && return 0
  echo "rivals: nvidia_gpu_exporter $exporter: from $git_url"
  rm -rf "$dir/src"
  git -c advice.detachedHead=false clone --quiet --branch "$exporter" "$git_url" "$dir/src" || return 1
  (cd "$dir/src" && CGO_ENABLED=1 CGO_CFLAGS=-w go build -trimpath -o "$dir/nvidia_gpu_exporter" ./cmd/nvidia_gpu_exporter)
}

mindprince() {
  [ -x "$dir/mindprince" ] && return 0
  echo "rivals: mindprince $mindprince: from $mindprince_url"
  src=$dir/gopath/src/github.com/mindprince/nvidia_gpu_prometheus_exporter
  rm -rf "$src"
  git clone --quiet "$mindprince_url" "$src" && git -C "$src" -c advice.detachedHead=false checkout --quiet "$mindprince" || return 1
  (cd "$src" && GO111MODULE=off GOFLAGS='' GOPATH="$dir/gopath" CGO_ENABLED=1 CGO_CFLAGS=-w go build -trimpath -o "$dir/mindprince" .)
}

gpustat() {
  [ -x "$dir/gpustat" ] && return 0
  echo "rivals: gpustat 1.0.0-1: apt-get download"
  key=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -f "$key" ] || { echo "rivals: no $key: this is no Debian"; return 1; }
  apt=$dir/apt
  mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/debs" "$apt/root"
  # This machine's own mirror of Debian 12, with contrib, which it need not have enabled.
  mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' | sed -n 's#^bookworm main \(.*/debian/*\)$#\1#p' | head -n 1)
  [ -n "$mirror" ] || { echo "rivals: apt knows no mirror of Debian 12"; return 1; }
  echo "deb [signed-by=$key] $mirror bookworm main contrib" > "$apt/sources.list"
  set -- -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$apt/lists" \
    -o "Dir::Cache::Archives=$apt/archives" -o APT::Sandbox::User=root -qq
  apt-get "$@" update || return 1
  (cd "$apt/debs" && apt-get "$@" download gpustat=1.0.0-1 python3-pynvml=11.525.112-1 python3-blessed python3-wcwidth python3-six python3-psutil) || return 1
  for deb in "$apt"/debs/*.deb; do dpkg -x "$deb" "$apt/root" || return 1; done
  python=$(command -v python3.11 || command -v python3) || { echo "rivals: gpustat needs python3"; return 1; }
  PYTHONPATH=$apt/root/usr/lib/python3/dist-packages "$python" -c 'import gpustat' || return 1
  printf '#!/bin/sh\nPYTHONPATH=%s exec %s -m gpustat "$@"\n' "$apt/root/usr/lib/python3/dist-packages" "$python" > "$dir/gpustat"
  chmod +x "$dir/gpustat"
}

exporter || echo "rivals: nvidia_gpu_exporter is not to be had here"
mindprince || echo "rivals: mindprince is not to be had here"
gpustat || echo "rivals: gpustat is not to be had here"
