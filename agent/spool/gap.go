package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// Reason says why frames were given up. Its numbers are those of the wire contract's gap
// reasons.
type Reason uint8

// Reasons.
const (
	// reasonFreed is no gap: frames that were committed and freed while frames before them
	// were not. It keeps them from being taken for lost, and is never told.
	reasonFreed   Reason = 0
	ReasonBytes   Reason = 1 // the spool was full
	ReasonAge     Reason = 2 // older than MaxAge
	ReasonCorrupt Reason = 3 // damaged on disk
	ReasonDisk    Reason = 4 // the file system had no room
)

func (r Reason) String() string {
	switch r {
	case reasonFreed:
		return "freed"
	case ReasonBytes:
		return "bytes"
	case ReasonAge:
		return "age"
	case ReasonCorrupt:
		return "corrupt"
	case ReasonDisk:
		return "disk"
	}
	return fmt.Sprintf("reason%d", uint8(r))
}

// Gap is a range of sequences, inclusive at both ends, that no reader will see any more.
type Gap struct {
	From, To uint64
	Reason   Reason
	Digest   [32]byte // SHA-256 of frame To; zero if it could not be read
	// told is the first sequence whose frame could carry the gap as it is now.
	told uint64
}

const (
	gapBytes = 8 + 8 + 8 + 32 + 8
	// gapsMagic1 begins a file that is one list, replaced as a whole; such files are read.
	gapsMagic1 = "FWGAPS\x00\x01"
	// gapsMagic begins each of the two slots of a file that is written in place.
	gapsMagic    = "FWGAPS\x00\x02"
	gapsHeader   = 8 + 8 + 8 // magic, number of the write, count
	gapsSlot     = 8192      // the least size of a slot
	maxGapsBytes = 1 << 24
	// maxGaps bounds how many gaps Gaps tells at a time; the others wait for their turn.
	maxGaps = 128
)

func appendGapEntries(dst []byte, gaps []Gap) []byte {
	for _, g := range gaps {
		dst = binary.LittleEndian.AppendUint64(dst, g.From)
		dst = binary.LittleEndian.AppendUint64(dst, g.To)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(g.Reason))
		dst = append(dst, g.Digest[:]...)
		dst = binary.LittleEndian.AppendUint64(dst, g.told)
	}
	return dst
}

// appendGaps appends a slot.
func appendGaps(dst []byte, turn uint64, gaps []Gap) []byte {
	at := len(dst)
	dst = append(dst, gapsMagic...)
	dst = binary.LittleEndian.AppendUint64(dst, turn)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(len(gaps)))
	dst = appendGapEntries(dst, gaps)
	return binary.LittleEndian.AppendUint32(dst, checksum(dst[at:]))
}

var errGaps = errors.New("the file of gaps is damaged")

func parseGapEntries(b []byte) ([]Gap, error) {
	var gaps []Gap
	for ; len(b) > 0; b = b[gapBytes:] {
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

// parseGapSlot reads a slot; what lies behind the list in it is of earlier lists.
func parseGapSlot(b []byte) (turn uint64, gaps []Gap, err error) {
	if len(b) < gapsHeader+4 || string(b[:len(gapsMagic)]) != gapsMagic {
		return 0, nil, errGaps
	}
	turn = binary.LittleEndian.Uint64(b[8:])
	n := binary.LittleEndian.Uint64(b[16:])
	if turn == 0 || n > uint64(len(b)-gapsHeader-4)/gapBytes {
		return 0, nil, errGaps
	}
	end := gapsHeader + int(n)*gapBytes
	if binary.LittleEndian.Uint32(b[end:]) != checksum(b[:end]) {
		return 0, nil, errGaps
	}
	gaps, err = parseGapEntries(b[gapsHeader:end])
	return turn, gaps, err
}

// parseGaps reads a file of gaps of either kind. slot is 0 for one that is not written in
// place.
func parseGaps(b []byte) (turn uint64, slot int64, gaps []Gap, err error) {
	if len(b) >= len(gapsMagic1)+4 && string(b[:len(gapsMagic1)]) == gapsMagic1 {
		n := len(b) - 4
		if (n-len(gapsMagic1))%gapBytes != 0 || binary.LittleEndian.Uint32(b[n:]) != checksum(b[:n]) {
			return 0, 0, nil, errGaps
		}
		gaps, err = parseGapEntries(b[len(gapsMagic1):n])
		return 0, 0, gaps, err
	}
	half := len(b) / 2
	turn, gaps, err = parseGapSlot(b[:half])
	if t, g, other := parseGapSlot(b[half:]); other == nil && (err != nil || t > turn) {
		turn, gaps, err = t, g, nil
	}
	return turn, int64(half), gaps, err
}

// gapFile is the file of gaps: two slots, written in turn and in place, so that a gap can be
// recorded on a disk that has no room for anything.
type gapFile struct {
	file durable.File // nil: there is none, or none that is written in place
	slot int64
	turn uint64
}

// openGaps reads the gaps and makes the file ready to be written in place.
func (s *Spool) openGaps() error {
	data, err := durable.ReadFile(s.fs, s.path("gaps"), maxGapsBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil && !unreadable(err):
		return fmt.Errorf("read gaps: %w", err)
	default:
		if err == nil {
			s.gapFile.turn, s.gapFile.slot, s.gaps, err = parseGaps(data)
		}
		if err != nil {
			// Two slots cannot both be torn, so it is damaged. What it told is lost; holes in the
			// sequence still show.
			s.stats.GapsLost = true
			if err = s.setAside("gaps"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if s.gapFile.slot > 0 {
		if s.gapFile.file, err = s.fs.Open(s.path("gaps")); err != nil {
			return fmt.Errorf("open gaps: %w", err)
		}
		return nil
	}
	if err = s.storeGaps(s.gaps); noRoom(err) {
		err = nil // tried again when there is a gap to record
	}
	return err
}

// storeGaps makes the list durable, and the spool's own.
func (s *Spool) storeGaps(gaps []Gap) error {
	err := s.writeGaps(gaps)
	if noRoom(err) && s.releaseBallast() {
		err = s.writeGaps(gaps)
	}
	if err != nil {
		return fmt.Errorf("record gaps: %w", err)
	}
	s.gaps = gaps
	return nil
}

func (s *Spool) writeGaps(gaps []Gap) error {
	g := &s.gapFile
	list := appendGaps(nil, g.turn+1, gaps)
	if g.file != nil && int64(len(list)) <= g.slot {
		if _, err := g.file.WriteAt(list, int64((g.turn+1)%2)*g.slot); err != nil {
			return err
		}
		if err := g.file.Sync(); err != nil {
			return err // and the same slot is written again
		}
		g.turn++
		return nil
	}
	slot := max(int64(gapsSlot), g.slot)
	for slot < int64(len(list)) {
		slot *= 2
	}
	data := make([]byte, 2*slot)
	copy(data[int64((g.turn+1)%2)*slot:], list)
	if err := durable.WriteFile(s.fs, s.path("gaps"), data); err != nil {
		return err
	}
	err := g.close()
	g.slot = slot
	g.turn++
	if err == nil {
		g.file, err = s.fs.Open(s.path("gaps"))
	}
	return err
}

func (g *gapFile) close() error {
	if g.file == nil {
		return nil
	}
	err := g.file.Close()
	g.file = nil
	return err
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

// trimGaps drops the gaps that a committed frame has told; those beyond through, up to which
// all is settled, are kept as freed. top is the last committed frame, next the sequence that
// the next frame gets: gaps that had no turn so far are told by that one at the earliest.
func trimGaps(gaps []Gap, through, top, next uint64) (out []Gap, changed bool) {
	told := 0
	for _, g := range gaps {
		switch {
		case g.Reason == reasonFreed:
			if g.To <= through {
				changed = true
				continue
			}
		case told < maxGaps:
			if told++; g.told <= top {
				changed = true
				if g.To <= through {
					continue
				}
				g = Gap{From: g.From, To: g.To}
			}
		case changed:
			g.told = next
		}
		out = append(out, g)
	}
	return out, changed
}
