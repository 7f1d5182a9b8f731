package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// Reason says why frames were given up. Its numbers are those of the wire contract's gap
// reasons.
type Reason uint8

// Reasons.
const (
	ReasonBytes   Reason = 1 // the spool was full
	ReasonAge     Reason = 2 // older than MaxAge
	ReasonCorrupt Reason = 3 // damaged on disk
)

// Gap is a range of sequences, inclusive at both ends, that no reader will see any more.
type Gap struct {
	From, To uint64
	Reason   Reason
	Digest   [32]byte // SHA-256 of frame To; zero if it could not be read
	// told is the first sequence whose frame could carry the gap as it is now.
	told uint64
}

const (
	gapBytes  = 8 + 8 + 8 + 32 + 8
	gapsMagic = "FWGAPS\x00\x01"
	// maxGaps bounds how many gaps Gaps tells at a time; the others wait for their turn.
	maxGaps = 128
)

func appendGaps(dst []byte, gaps []Gap) []byte {
	at := len(dst)
	dst = append(dst, gapsMagic...)
	for _, g := range gaps {
		dst = binary.LittleEndian.AppendUint64(dst, g.From)
		dst = binary.LittleEndian.AppendUint64(dst, g.To)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(g.Reason))
		dst = append(dst, g.Digest[:]...)
		dst = binary.LittleEndian.AppendUint64(dst, g.told)
	}
	return binary.LittleEndian.AppendUint32(dst, checksum(dst[at:]))
}

var errGaps = errors.New("the file of gaps is damaged")

func parseGaps(b []byte) ([]Gap, error) {
	n := len(b) - len(gapsMagic) - 4
	if n < 0 || n%gapBytes != 0 || string(b[:len(gapsMagic)]) != gapsMagic || binary.LittleEndian.Uint32(b[len(b)-4:]) != checksum(b[:len(b)-4]) {
		return nil, errGaps
	}
	var gaps []Gap
	for b = b[len(gapsMagic) : len(b)-4]; len(b) > 0; b = b[gapBytes:] {
		g := Gap{
			From: binary.LittleEndian.Uint64(b), To: binary.LittleEndian.Uint64(b[8:]),
			Reason: Reason(b[16]), told: binary.LittleEndian.Uint64(b[56:]),
		}
		copy(g.Digest[:], b[24:])
		if g.From == 0 || g.To < g.From {
			return nil, errGaps
		}
		gaps = append(gaps, g)
	}
	return gaps, nil
}

func readGaps(fsys durable.FS, dir string) ([]Gap, error) {
	data, err := durable.ReadFile(fsys, filepath.Join(dir, "gaps"), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read gaps: %w", err)
	}
	return parseGaps(data)
}

// addGap puts g on a list that is sorted by From, or widens a gap that it continues.
func addGap(gaps []Gap, g Gap) []Gap {
	out := make([]Gap, 0, len(gaps)+1)
	done := false
	for _, old := range gaps {
		switch {
		case !done && old.From <= g.From && g.To <= old.To: // known
			done = true
		case !done && old.To+1 == g.From && old.Reason == g.Reason:
			old.To, old.Digest, old.told = g.To, g.Digest, g.told
			done = true
		case !done && g.From < old.From:
			out = append(out, g)
			done = true
		}
		out = append(out, old)
	}
	if !done {
		out = append(out, g)
	}
	return out
}

// trimGaps drops the gaps that a committed frame has told. next is the sequence that the
// next frame gets: gaps that had no turn so far are told by that one at the earliest.
func trimGaps(gaps []Gap, committed, next uint64) []Gap {
	out := gaps[:0:0]
	for i, g := range gaps {
		if i < maxGaps && g.told <= committed {
			continue
		}
		if i >= maxGaps {
			g.told = next
		}
		out = append(out, g)
	}
	return out
}
