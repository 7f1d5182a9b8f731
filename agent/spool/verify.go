package spool

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Report is what Verify finds in a directory.
type Report struct {
	ID       string // hex; "": the identity is lost
	Segments int
	Frames   int
	Bytes    int64
	// First and Last are the sequences of the frames that are there.
	First, Last uint64
	// OldestMs and NewestMs are when the first and the last were appended, Unix milliseconds.
	OldestMs, NewestMs int64
	Acked, Committed   uint64
	Uncommitted        int // frames behind Committed
	Gaps               []Gap
	// Tail is what lies behind the last frame: one that is being written, or a torn one.
	Tail            int64
	QuarantineFiles int
	QuarantineBytes int64
	// FreeBytes of the file system; 0: it does not say.
	FreeBytes int64
	// Faults are sentences on what is wrong: damage, holes without a gap, a broken chain.
	Faults []string
}

// maxFaults bounds the sentences of a report.
const maxFaults = 100

// Verify reads a spool's directory, and changes nothing in it: it takes no lock, so that it
// may run beside an agent. each, if it is not nil, gets every frame in order with its digest;
// an error of its own becomes a fault. Where there are faults, Verify begins again, once, as
// an agent may have moved files meanwhile. The error is one of reading the directory.
func Verify(dir string, each func(seq uint64, digest [32]byte, frame []byte) error) (Report, error) {
	var v verifier
	for range 2 {
		v = verifier{dir: dir, each: each}
		if err := v.run(); err != nil {
			return v.Report, fmt.Errorf("verify spool %s: %w", dir, err)
		}
		if len(v.Faults) == 0 {
			break
		}
	}
	return v.Report, nil
}

type verifier struct {
	Report
	dir    string
	each   func(seq uint64, digest [32]byte, frame []byte) error
	id     [16]byte
	freed  []Gap // all that is recorded, freed ranges too
	digest [32]byte
	sound  bool // digest is that of frame Last
	lost   bool // the positions are not known
}

func (v *verifier) fault(format string, args ...any) {
	switch n := len(v.Faults); {
	case n < maxFaults:
		v.Faults = append(v.Faults, fmt.Sprintf(format, args...))
	case n == maxFaults:
		v.Faults = append(v.Faults, "and more")
	}
}

func (v *verifier) run() error {
	if err := v.names(); err != nil {
		return err
	}
	entries, err := os.ReadDir(v.dir)
	if err != nil {
		return err
	}
	var bases []uint64
	for _, e := range entries {
		if base, ok := segmentBase(e.Name()); ok {
			bases = append(bases, base)
		}
	}
	slices.Sort(bases)
	for i, base := range bases {
		if err := v.segment(base, i == len(bases)-1); err != nil {
			return err
		}
	}
	if v.Last < v.Acked {
		v.hole(max(v.Last, v.Committed)+1, v.Acked)
	}
	if free, _, err := statfs(v.dir); err == nil {
		v.FreeBytes = free
	}
	return v.quarantine()
}

// names reads identity, positions and gaps.
func (v *verifier) names() error {
	data, err := readIfThere(filepath.Join(v.dir, "identity"))
	if err != nil {
		return err
	}
	const magic = "FWSPOOL\x01"
	if sum := sha256.Sum256(data[:max(len(data)-32, 0)]); len(data) == len(magic)+48 && bytes.HasPrefix(data, []byte(magic)) && bytes.Equal(sum[:], data[len(magic)+16:]) {
		copy(v.id[:], data[len(magic):])
		v.ID = hex.EncodeToString(v.id[:])
	} else {
		v.fault("the identity is missing or damaged; Open takes it from a segment")
	}
	if data, err = readIfThere(filepath.Join(v.dir, "positions")); err != nil {
		return err
	}
	v.lost = len(data) == 0
	var turn uint64
	odd := 0
	for slot := range 2 {
		if len(data) < slot*slotBytes+slotUsed {
			continue
		}
		b := data[slot*slotBytes:][:slotUsed]
		if binary.LittleEndian.Uint64(b) == 0 && binary.LittleEndian.Uint32(b[24:]) == 0 {
			continue
		}
		n, acked, committed, ok := parsePositions(b)
		if !ok {
			odd++
		} else if n > turn {
			turn, v.Acked, v.Committed = n, acked, committed
		}
	}
	if odd == 2 {
		v.lost = true
		v.fault("both positions are damaged: frames will be sent again")
	}
	if data, err = readIfThere(filepath.Join(v.dir, "gaps")); err != nil {
		return err
	}
	if len(data) > 0 {
		if _, _, v.freed, err = parseGaps(data); err != nil {
			v.fault("the list of gaps is damaged: what it told is lost, holes in the sequence still show")
		}
	}
	for _, g := range v.freed {
		if g.Reason != reasonFreed {
			v.Gaps = append(v.Gaps, g)
		}
	}
	return nil
}

func readIfThere(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func (v *verifier) segment(base uint64, newest bool) error {
	name := (&segment{base: base}).name()
	data, err := readIfThere(filepath.Join(v.dir, name))
	if err != nil {
		return err
	}
	if data == nil {
		return nil // freed meanwhile
	}
	g, id, damage := scan(data, base)
	v.Segments++
	v.Bytes += g.end
	for _, d := range damage {
		if d.tail && newest {
			v.Tail = d.end - d.off
			continue
		}
		v.fault("segment %s: bytes %d to %d are damaged", name, d.off, d.end)
	}
	switch {
	case g.headless && (len(data) > segmentHeader || !newest):
		v.fault("segment %s: its header is damaged", name)
	case g.headless:
	case v.ID != "" && id != v.id:
		v.fault("segment %s belongs to spool %s", name, hex.EncodeToString(id[:]))
	case v.sound && base == v.Last+1 && g.prev != v.digest:
		v.fault("segment %s: the chain is broken: its header has another digest of frame %d", name, v.Last)
	}
	for i, r := range g.frames {
		from := v.Last + 1
		if v.Frames == 0 {
			v.First = r.seq
			at, _ := parseFrameHeader(data[int(r.off)-frameHeader:])
			v.OldestMs = at.atMs
			from = r.seq
			if !v.lost {
				from = 1
			}
		}
		if r.seq > from {
			v.hole(max(from, v.Committed+1), r.seq-1)
		}
		frame := data[r.off:][:r.len]
		v.digest, v.sound = sha256.Sum256(frame), true
		v.Frames++
		v.Last = r.seq
		if r.seq > v.Committed {
			v.Uncommitted++
		}
		if v.each != nil {
			if err := v.each(r.seq, v.digest, frame); err != nil {
				v.fault("frame %d: %v", r.seq, err)
			}
		}
		if i == len(g.frames)-1 {
			v.NewestMs = g.lastMs
		}
	}
	return nil
}

// hole wants every sequence of from..to in a gap.
func (v *verifier) hole(from, to uint64) {
	for from <= to {
		end := to
		covered := false
		for _, g := range v.freed {
			if g.From <= from && from <= g.To {
				from, covered = g.To+1, true
			} else if g.From > from {
				end = min(end, g.From-1)
			}
		}
		if covered {
			continue
		}
		v.fault("frames %d to %d are missing, and no gap tells of it yet", from, end)
		from = end + 1
	}
}

func (v *verifier) quarantine() error {
	entries, err := os.ReadDir(filepath.Join(v.dir, "quarantine"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		v.QuarantineFiles++
		v.QuarantineBytes += info.Size()
	}
	return nil
}
