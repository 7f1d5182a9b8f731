package spool

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// open brings the directory into order:
//
//	lock; identity; positions; gaps; scan the segments in order; finish evictions; cut the
//	torn tail; find the next sequence; begin a segment if there is none fit to go on with
func (s *Spool) open() error {
	if err := s.fs.MkdirAll(s.cfg.Dir); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	var err error
	if s.lock, err = s.fs.Lock(s.path("lock")); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	names, err := s.fs.List(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	var bases []uint64 // ascending, as names are
	for _, name := range names {
		if base, ok := segmentBase(name); ok {
			bases = append(bases, base)
		}
	}
	if err = s.identify(bases); err != nil {
		return err
	}
	if s.pos, err = openPositions(s.fs, s.cfg.Dir); err != nil {
		return err
	}
	if s.gaps, err = readGaps(s.fs, s.cfg.Dir); errors.Is(err, errGaps) {
		// It cannot be torn, so it is damaged. What it told is lost; holes in the sequence
		// still show.
		err = s.quarantineFile("gaps")
	}
	if err != nil {
		return err
	}
	found := s.gaps
	damaged := false
	for i, base := range bases {
		g, bad, err := s.load(base, i == len(bases)-1)
		if err != nil {
			return err
		}
		if g == nil {
			continue
		}
		s.segments = append(s.segments, g)
		damaged = bad
	}
	if err := s.finishEvictions(); err != nil {
		return err
	}
	last := s.pos.committed
	for _, g := range s.gaps {
		last = max(last, g.To)
	}
	if len(s.segments) > 0 {
		last = s.segments[0].base - 1 // what lies before was freed, or is a gap
	}
	for _, g := range s.segments {
		for _, r := range g.frames {
			found = s.hole(found, last, r.seq-1)
			last = max(last, r.seq)
		}
		found = s.hole(found, last, g.base-1)
		last = max(last, g.base-1)
	}
	// Frames that were acknowledged were synced, so if they are missing they were lost, and
	// their sequences must not be given away again.
	found = s.hole(found, last, s.pos.acked)
	s.next = max(last, s.pos.acked, s.pos.committed) + 1
	for _, g := range s.gaps {
		s.next = max(s.next, g.To+1)
	}
	for i := range found {
		if found[i].told == 0 {
			found[i].told = s.next
		}
	}
	if !slices.Equal(found, s.gaps) {
		if err := s.storeGaps(found); err != nil {
			return err
		}
	}
	return s.begin(damaged)
}

// hole notes the sequences behind last up to to as lost, unless they were committed or are
// known for a gap.
func (s *Spool) hole(gaps []Gap, last, to uint64) []Gap {
	from := max(last, s.pos.committed) + 1
	for _, g := range s.gaps {
		if g.From <= from && from <= g.To {
			from = g.To + 1
		}
	}
	if to < from {
		return gaps
	}
	return addGap(gaps, Gap{From: from, To: to, Reason: ReasonCorrupt})
}

// identify reads the identity, or mints one for a directory that has no segments. A lost
// identity is taken from a segment; if there are segments but none tells, it refuses, as
// nobody could say whose frames they are.
func (s *Spool) identify(bases []uint64) error {
	const magic = "FWSPOOL\x01"
	path := s.path("identity")
	data, err := durable.ReadFile(s.fs, path, 1024)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read identity: %w", err)
	}
	if len(data) == len(magic)+16+32 && bytes.HasPrefix(data, []byte(magic)) {
		if sum := sha256.Sum256(data[:len(magic)+16]); bytes.Equal(sum[:], data[len(magic)+16:]) {
			copy(s.id[:], data[len(magic):])
			return nil
		}
	}
	known := false
	for _, base := range bases {
		seg := segment{base: base}
		if data, err = readSegment(s.fs, s.path(seg.name()), s.segmentLimit()); err != nil {
			return err
		}
		if id, _, _, ok := parseSegmentHeader(data); ok {
			s.id, known = id, true
			break
		}
		if len(data) >= segmentHeader {
			known = true
			s.id = [16]byte{}
		}
	}
	if known && s.id == [16]byte{} {
		return errors.New("identity is lost, and no segment tells it: move the directory away to begin a new spool")
	}
	if !known {
		if s.id, err = s.cfg.NewID(); err != nil {
			return fmt.Errorf("mint identity: %w", err)
		}
	}
	out := append([]byte(magic), s.id[:]...)
	sum := sha256.Sum256(out)
	return durable.WriteFile(s.fs, path, append(out, sum[:]...))
}

// segmentLimit bounds what Open reads of one segment: a frame may pass SegmentBytes if it
// is alone, and the bound may have been larger at another time.
func (s *Spool) segmentLimit() int64 { return 1<<31 - 1 }

// load scans one segment. It returns nil for a last segment that never had a header, and
// reports whether the active end has bytes that it would be wrong to write behind.
func (s *Spool) load(base uint64, newest bool) (*segment, bool, error) {
	name := (&segment{base: base}).name()
	data, err := readSegment(s.fs, s.path(name), s.segmentLimit())
	if err != nil {
		return nil, false, err
	}
	g, id, damage := scan(data, base)
	if newest && len(g.frames) == 0 && len(data) < segmentHeader {
		if err := s.fs.Remove(s.path(name)); err != nil {
			return nil, false, fmt.Errorf("remove unfinished segment: %w", err)
		}
		s.stats.TornBytes += int64(len(data))
		return nil, false, nil
	}
	if !g.headless && id != s.id {
		return nil, false, fmt.Errorf("segment %s belongs to spool %s, not to %s", name, hex.EncodeToString(id[:]), hex.EncodeToString(s.id[:]))
	}
	for _, d := range damage {
		if d.tail && newest && !g.headless && g.last() >= max(s.pos.acked, s.pos.committed) {
			s.stats.TornBytes += d.end - d.off // cut off in begin
			continue
		}
		if err := s.quarantine(name, d.off, data[d.off:d.end]); err != nil {
			return nil, false, err
		}
	}
	return g, g.headless || g.last() < s.pos.acked, nil
}

// quarantine keeps damaged bytes; they stay in their segment too, until it is freed.
func (s *Spool) quarantine(segment string, off int64, data []byte) error {
	if err := s.fs.MkdirAll(s.path("quarantine")); err != nil {
		return fmt.Errorf("make quarantine: %w", err)
	}
	s.stats.CorruptStretches++
	return durable.WriteFile(s.fs, s.path(fmt.Sprintf("quarantine/%s-%d.bad", segment, off)), data)
}

func (s *Spool) quarantineFile(name string) error {
	data, err := durable.ReadFile(s.fs, s.path(name), 1<<20)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if err := s.quarantine(name, 0, data); err != nil {
		return err
	}
	return s.fs.Remove(s.path(name))
}

// finishEvictions removes segments that a gap had already given up, and segments whose
// frames are all committed.
func (s *Spool) finishEvictions() error {
	for len(s.segments) > 1 {
		first, last := s.segments[0].base, s.segments[1].base-1
		gone := last <= s.pos.committed
		for _, g := range s.gaps {
			gone = gone || g.Reason != ReasonCorrupt && g.From <= max(first, s.pos.committed+1) && last <= g.To
		}
		if !gone {
			return nil
		}
		if err := s.drop(); err != nil {
			return err
		}
	}
	return nil
}

// begin makes the last segment ready to be written to, or makes a new one.
func (s *Spool) begin(damaged bool) error {
	if n := len(s.segments); n > 0 {
		act := s.segments[n-1]
		if !damaged && act.last()+1 == s.next {
			f, err := s.fs.Open(s.path(act.name()))
			if err != nil {
				return fmt.Errorf("open segment: %w", err)
			}
			s.active = f
			size, err := f.Size()
			if err == nil && size > act.end {
				err = f.Truncate(act.end)
			}
			if err == nil {
				err = f.Sync() // what a killed process wrote may be in memory only
			}
			if err != nil {
				return fmt.Errorf("repair segment %s: %w", act.name(), err)
			}
			s.digest = act.prev
			if m := len(act.frames); m > 0 {
				r := act.frames[m-1]
				frame := make([]byte, r.len)
				if _, err := f.ReadAt(frame, int64(r.off)); err != nil {
					return fmt.Errorf("read last frame: %w", err)
				}
				s.digest = sha256.Sum256(frame)
			}
			s.synced, s.through = act.end, s.next-1
			return nil
		}
		if act.base == s.next {
			// A damaged segment without a frame has the name that the new one needs.
			if err := s.fs.Rename(s.path(act.name()), s.path(act.name()+".bad")); err != nil {
				return fmt.Errorf("set damaged segment aside: %w", err)
			}
			s.segments = s.segments[:n-1]
		}
	}
	f, seg, err := s.create(s.next, [32]byte{})
	if err != nil {
		return err
	}
	s.active, s.synced, s.through = f, seg.end, s.next-1
	s.segments = append(s.segments, seg)
	return nil
}
