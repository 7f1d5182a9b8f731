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
# gpustat, nvtop       of Debian 12 (contrib), unpacked: agent/gpu/nvmlstub/testdata/monitors.sh
# node_exporter        1.5.0-1 of Debian 12 (prometheus-node-exporter), unpacked
set -u
here=$(dirname "$0")
dir=$1
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
git_url=${NVIDIA_GPU_EXPORTER_GIT:-https://github.com/utkuozdemir/nvidia_gpu_exporter}
exporter=v1.14.0
mindprince_url=${MINDPRINCE_GIT:-https://github.com/mindprince/nvidia_gpu_prometheus_exporter}
node_exporter=1.5.0-1
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

# Two monitors that others wrote; a test of the stub library brings them in the same way.
monitors() {
  sh "$here/../../agent/gpu/nvmlstub/testdata/monitors.sh" "$dir/monitors"
}

node_exporter() {
  [ -x "$dir/node_exporter" ] && return 0
  echo "rivals: node_exporter $node_exporter: apt-get download"
  rm -rf "$dir/debs"
  mkdir -p "$dir/debs"
  # From this machine's own package lists; where they are empty or old: apt-get update.
  (cd "$dir/debs" && apt-get -o APT::Sandbox::User=root -qq download "prometheus-node-exporter=$node_exporter*") || return 1
  dpkg -x "$dir"/debs/*.deb "$dir/debs/root" || return 1
  cp "$dir/debs/root/usr/bin/prometheus-node-exporter" "$dir/node_exporter"
}

exporter || echo "rivals: nvidia_gpu_exporter is not to be had here"
mindprince || echo "rivals: mindprince is not to be had here"
monitors || echo "rivals: gpustat or nvtop is not to be had here"
node_exporter || echo "rivals: node_exporter is not to be had here"
