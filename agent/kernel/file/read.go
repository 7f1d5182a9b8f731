package file

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// openBytes is the size of struct open of bpf/file, behind which the path follows.
const (
	openBytes = 96
	pathMost  = 512
	maxNames  = 64
)

// parseOpen reads one record. n is 0 while it is not complete, and -1 if it is none. names
// are those of file systems that were seen.
func parseOpen(b []byte, names map[string]string) (o opened, n int) {
	if len(b) < openBytes {
		return o, 0
	}
	u64 := func(at int) uint64 { return binary.NativeEndian.Uint64(b[at:]) }
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	path := int(u32(72))
	if path >= pathMost {
		return o, -1
	}
	if len(b) < openBytes+path {
		return o, 0
	}
	o = opened{id: u64(0), ino: u64(8), size: u64(16), pos: u64(24), blocks: u64(32), changedNs: u64(40), start: u64(48),
		dev: u32(56), pid: int32(u32(60)), fd: u32(64), flags: u32(68)}
	kind, _, _ := bytes.Cut(b[80:96], []byte{0})
	var seen bool
	if o.fs, seen = names[string(kind)]; !seen {
		o.fs = fsName(string(kind))
		if len(names) < maxNames {
			names[o.fs] = o.fs
		}
	}
	o.path = cleanPath(string(b[openBytes : openBytes+path]))
	return o, openBytes + path
}

// fsName returns a file system's name if it is one.
func fsName(s string) string {
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return ""
		}
	}
	return s
}

// cleanPath takes off what the kernel adds.
func cleanPath(p string) string { return strings.TrimSuffix(p, " (deleted)") }
