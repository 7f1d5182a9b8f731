package spool

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strconv"
)

const (
	segmentMagic  = "FWSEG\x00\x00\x01"
	segmentHeader = 8 + 16 + 8 + 32 + 4 // magic, spool id, base, previous digest, crc
	frameMagic    = 0x4652_5746         // "FWRF", little endian
	frameHeader   = 4 + 8 + 4 + 8 + 4 + 4
	segmentSuffix = ".seg"

	// maxFrameBytes bounds a frame, so that a damaged length is seen for what it is.
	maxFrameBytes = 16 << 20
)

// ref is where a frame lies in its segment.
type ref struct {
	seq      uint64
	off, len uint32 // of the payload
}

// segment is one file. Its frames' sequences ascend; corruption makes holes.
type segment struct {
	base     uint64   // sequence of its first frame, present or not
	prev     [32]byte // SHA-256 of frame base-1
	end      int64    // bytes in use
	frames   []ref
	lastMs   int64 // when the last frame was appended
	headless bool  // the header was damaged
}

func (s *segment) name() string { return fmt.Sprintf("%016x%s", s.base, segmentSuffix) }

// last is the sequence of the last frame, or base-1.
func (s *segment) last() uint64 {
	if n := len(s.frames); n > 0 {
		return s.frames[n-1].seq
	}
	return s.base - 1
}

func segmentBase(name string) (uint64, bool) {
	if filepath.Ext(name) != segmentSuffix || len(name) != 16+len(segmentSuffix) {
		return 0, false
	}
	base, err := strconv.ParseUint(name[:16], 16, 64)
	return base, err == nil && base > 0
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func appendSegmentHeader(dst []byte, id [16]byte, base uint64, prev [32]byte) []byte {
	at := len(dst)
	dst = append(dst, segmentMagic...)
	dst = append(dst, id[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, base)
	dst = append(dst, prev[:]...)
	return binary.LittleEndian.AppendUint32(dst, checksum(dst[at:]))
}

// parseSegmentHeader returns false if b does not begin with a sound header.
func parseSegmentHeader(b []byte) (id [16]byte, base uint64, prev [32]byte, ok bool) {
	if len(b) < segmentHeader || string(b[:8]) != segmentMagic ||
		binary.LittleEndian.Uint32(b[segmentHeader-4:]) != checksum(b[:segmentHeader-4]) {
		return id, 0, prev, false
	}
	copy(id[:], b[8:])
	base = binary.LittleEndian.Uint64(b[24:])
	copy(prev[:], b[32:])
	return id, base, prev, true
}

func appendFrame(dst []byte, seq uint64, atMs int64, payload []byte) []byte {
	at := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, frameMagic)
	dst = binary.LittleEndian.AppendUint64(dst, seq)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(atMs))
	dst = binary.LittleEndian.AppendUint32(dst, checksum(payload))
	dst = binary.LittleEndian.AppendUint32(dst, checksum(dst[at:]))
	return append(dst, payload...)
}

// frameHead is a frame's header as it was read.
type frameHead struct {
	seq  uint64
	len  uint32
	atMs int64
	crc  uint32
}

func parseFrameHeader(b []byte) (h frameHead, ok bool) {
	if len(b) < frameHeader || binary.LittleEndian.Uint32(b) != frameMagic ||
		binary.LittleEndian.Uint32(b[frameHeader-4:]) != checksum(b[:frameHeader-4]) {
		return h, false
	}
	h = frameHead{
		seq:  binary.LittleEndian.Uint64(b[4:]),
		len:  binary.LittleEndian.Uint32(b[12:]),
		atMs: int64(binary.LittleEndian.Uint64(b[16:])),
		crc:  binary.LittleEndian.Uint32(b[24:]),
	}
	return h, h.len > 0 && h.len <= maxFrameBytes && h.seq > 0
}

// bad is a stretch of a segment that holds no sound frame.
type bad struct {
	off, end int64
	tail     bool // up to the end of the file
}

// scan indexes a segment's bytes. It never fails: what is no sound frame of a sequence
// behind the last sound one's is reported as bad. A sound header of an empty or cut segment
// is enough for an empty segment.
func scan(data []byte, base uint64) (s *segment, id [16]byte, damage []bad) {
	s = &segment{base: base}
	off := 0
	id, named, prev, ok := parseSegmentHeader(data)
	if ok && named == base {
		s.prev, off = prev, segmentHeader
	} else {
		s.headless, id = true, [16]byte{}
	}
	s.end = int64(off)
	last := base - 1
	badFrom := -1
	if s.headless && len(data) > 0 {
		badFrom = 0
	}
	for off < len(data) {
		h, ok := parseFrameHeader(data[off:])
		end := off + frameHeader + int(h.len)
		if !ok || h.seq <= last || end > len(data) || checksum(data[off+frameHeader:end]) != h.crc {
			if badFrom < 0 {
				badFrom = off
			}
			// A header that is sound says where the next frame is; else look at every byte. A
			// payload cannot pass for a header by chance: 64 bits would have to agree.
			if ok && end <= len(data) {
				off = end
			} else {
				off++
			}
			continue
		}
		if badFrom >= 0 {
			damage = append(damage, bad{off: int64(badFrom), end: int64(off)})
			badFrom = -1
		}
		s.frames = append(s.frames, ref{seq: h.seq, off: uint32(off + frameHeader), len: h.len})
		s.lastMs = h.atMs
		last = h.seq
		off = end
		s.end = int64(off)
	}
	if badFrom >= 0 {
		damage = append(damage, bad{off: int64(badFrom), end: int64(len(data)), tail: true})
	}
	return s, id, damage
}
