package nccl

import (
	"encoding/binary"
	"fmt"
)

// Records of the kernel's programs, as bpf/nccl lays them out.
const (
	eventBytes   = 48 + idBytes
	mappingBytes = 32
)

// Kinds of events.
const (
	eventInit    = 1
	eventInitAll = 2
	eventSplit   = 3
	eventEnd     = 4
)

// maxRanks bounds what is believed of a number of ranks.
const maxRanks = 1 << 20

// event is the making, splitting or ending of a communicator, as the process asked for it.
type event struct {
	kind, fn     uint8
	hasID        bool
	tgid         int32
	bootNs       uint64
	out          uint64 // where the process will find the new communicator
	comm         uint64
	nranks, rank int32
	color        int32
	id           [idBytes]byte
}

// parseEvent reads an event. What it says is the process's word: only its form is checked.
func parseEvent(b []byte, e *event) error {
	if len(b) < eventBytes {
		return fmt.Errorf("event of %d bytes, want %d", len(b), eventBytes)
	}
	*e = event{kind: b[0], fn: b[1], hasID: b[2] == 1, tgid: int32(binary.LittleEndian.Uint32(b[4:])),
		bootNs: binary.LittleEndian.Uint64(b[8:]), out: binary.LittleEndian.Uint64(b[16:]), comm: binary.LittleEndian.Uint64(b[24:]),
		nranks: int32(binary.LittleEndian.Uint32(b[32:])), rank: int32(binary.LittleEndian.Uint32(b[36:])),
		color: int32(binary.LittleEndian.Uint32(b[40:]))}
	copy(e.id[:], b[48:])
	if e.kind < eventInit || e.kind > eventEnd {
		return fmt.Errorf("event of kind %d", e.kind)
	}
	if e.tgid <= 0 {
		return fmt.Errorf("event of process %d", e.tgid)
	}
	if e.kind == eventInit && (e.nranks <= 0 || e.nranks > maxRanks || e.rank < 0 || e.rank >= e.nranks) {
		return fmt.Errorf("event of rank %d of %d", e.rank, e.nranks)
	}
	return nil
}

// fileKey is a file by its real inode.
type fileKey struct {
	dev uint32
	ino uint64
}

// mapping is an area of a file that a process may execute.
type mapping struct {
	tgid       int32
	file       fileKey
	start, end uint64
}

func parseMapping(b []byte) (mapping, bool) {
	if len(b) < mappingBytes {
		return mapping{}, false
	}
	m := mapping{tgid: int32(binary.LittleEndian.Uint32(b)),
		file:  fileKey{binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint64(b[8:])},
		start: binary.LittleEndian.Uint64(b[16:]), end: binary.LittleEndian.Uint64(b[24:])}
	return m, m.tgid > 0 && m.file.ino != 0 && m.start < m.end
}
