// Package bpf holds the programs that run in the kernel: C sources, and what bpf/gen makes
// of them. One folder a feature of agent/kernel, one small collection each, so that one
// that a kernel refuses takes no other with it.
//
// Objects are committed: `go build` needs no clang. bpf/gen/generate.sh makes them anew with
// the pinned compiler, byte for byte the same; a test compares. Programs for user-space
// probes are compiled for each architecture (registers differ), all others once. Programs
// read the kernel's structures by the running kernel's own offsets, count, and hand numbers
// over in maps and ring buffers; what the numbers mean is agent/kernel's affair. They never
// read arguments or environment of a process.
//
// The licence of all programs is "Dual MIT/GPL": some helpers are for GPL programs only.
package bpf
