package nccl

import (
	"encoding/binary"
	"errors"
	"io"
)

// What is known of NCCL's structure of a communicator, the same from 2.18 to 2.30: somewhere
// within it stand, without gaps, the hash, rank, number of ranks, the device's number for CUDA
// and for NVML, compute capability (own, least, most), and the device's PCI address.
const (
	commMagic   = 0x0280028002800280 // the first word, from 2.19
	blockBytes  = 48
	atRank      = 8
	atRanks     = 12
	atCUDA      = 16
	atNVML      = 20
	atCap       = 24
	atBus       = 40
	scanBytes   = 1 << 20 // how far the block may be from the beginning
	pieceBytes  = 64 << 10
	maxDevices  = 1024
	maxCap      = 200
	minCap      = 30
	maxAddress  = 1 << 47 // of user space
	unknownSite = -1
)

// block is what a communicator's structure says.
type block struct {
	hash         uint64
	rank, nranks int32
	bus          uint64
}

// expect is what is known of a communicator before its memory is read.
type expect struct {
	known        bool // from here on:
	old, new     uint64
	rank, nranks int32
}

// reader reads the memory of processes. It has one buffer.
type reader struct {
	buf  []byte
	left int // bytes that may be looked through before the next tick
	// stuck is true if a read did not come back.
	stuck bool
}

func (r *reader) bytes() []byte {
	if r.buf == nil {
		r.buf = make([]byte, pieceBytes+blockBytes)
	}
	return r.buf
}

// read reads into a part of the buffer, which is given up if the read does not come back: it
// may still be written to.
func (r *reader) read(mem io.ReaderAt, b []byte, at int64) int {
	n, err := mem.ReadAt(b, at)
	if errors.Is(err, errStuck) {
		r.buf, r.stuck = nil, true
		return 0
	}
	return n
}

// pointer reads a pointer.
func pointer(mem io.ReaderAt, at uint64) (v uint64, ok bool, err error) {
	if at == 0 || at >= maxAddress {
		return 0, false, nil
	}
	b := make([]byte, 8)                                // a read that is stuck keeps it
	if n, err := mem.ReadAt(b, int64(at)); n < len(b) { // the process may end at any time
		return 0, false, err
	}
	v = binary.LittleEndian.Uint64(b)
	return v, v != 0 && v < maxAddress, nil
}

// plausible reports whether 48 bytes look like the block of a communicator. buses are the
// devices of this host; nil: not known.
func plausible(b []byte, buses map[uint64]int) (block, bool) {
	v := block{hash: binary.LittleEndian.Uint64(b), rank: int32(binary.LittleEndian.Uint32(b[atRank:])),
		nranks: int32(binary.LittleEndian.Uint32(b[atRanks:])), bus: binary.LittleEndian.Uint64(b[atBus:])}
	if v.hash == 0 || v.rank < 0 || v.nranks <= 0 || v.nranks > maxRanks || v.rank >= v.nranks {
		return block{}, false
	}
	if binary.LittleEndian.Uint32(b[atCUDA:]) >= maxDevices || binary.LittleEndian.Uint32(b[atNVML:]) >= maxDevices {
		return block{}, false
	}
	own, least, most := binary.LittleEndian.Uint32(b[atCap:]), binary.LittleEndian.Uint32(b[atCap+4:]), binary.LittleEndian.Uint32(b[atCap+8:])
	if own < minCap || own > maxCap || least < minCap || most > maxCap || least > own || own > most {
		return block{}, false
	}
	if buses != nil {
		_, ok := buses[v.bus]
		return v, ok
	}
	return v, v.bus != 0 && v.bus < 1<<36 && v.bus&0xf < 8
}

// comm reads the communicator at an address. site is where the block is, if that was
// learnt; else it is looked for. exact is true if the hash is that of a known id: then there is
// no doubt about the place.
func (r *reader) comm(mem io.ReaderAt, at uint64, site int64, want expect, buses map[uint64]int) (v block, found int64, exact, ok bool) {
	if at == 0 || at >= maxAddress {
		return block{}, unknownSite, false, false
	}
	buf := r.bytes()
	if site >= 0 {
		if n := r.read(mem, buf[:blockBytes], int64(at)+site); n == blockBytes {
			if v, ok = match(buf[:blockBytes], want, buses); ok {
				return v, site, want.known, true
			}
		}
	}
	if r.buf == nil {
		return block{}, unknownSite, false, false
	}
	if !want.known && buses == nil {
		// With neither an id nor devices to look for, the mark at the beginning is the least.
		if n := r.read(mem, buf[:8], int64(at)); n < 8 || binary.LittleEndian.Uint64(buf) != commMagic {
			return block{}, unknownSite, false, false
		}
	}
	for from := int64(0); from < scanBytes && r.left > 0 && r.buf != nil; from += pieceBytes {
		n := r.read(mem, buf, int64(at)+from) // the last piece may be short
		r.left -= pieceBytes
		for i := 0; i+blockBytes <= n && i < pieceBytes; i += 8 {
			if v, ok = match(buf[i:i+blockBytes], want, buses); ok {
				return v, from + int64(i), want.known, true
			}
		}
		if n < len(buf) {
			break
		}
	}
	return block{}, unknownSite, false, false
}

// match is plausible, and what is known holds.
func match(b []byte, want expect, buses map[uint64]int) (block, bool) {
	if !want.known {
		return plausible(b, buses)
	}
	h := binary.LittleEndian.Uint64(b)
	if h != want.old && h != want.new {
		return block{}, false
	}
	v := block{hash: h, rank: int32(binary.LittleEndian.Uint32(b[atRank:])), nranks: int32(binary.LittleEndian.Uint32(b[atRanks:])),
		bus: binary.LittleEndian.Uint64(b[atBus:])}
	return v, v.rank == want.rank && v.nranks == want.nranks && v.bus != 0
}
