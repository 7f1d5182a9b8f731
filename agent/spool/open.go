package spool

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// open brings the directory into order:
//
//	lock; identity; positions; gaps; scan the segments in order; finish evictions; cut the
//	torn tail; find the next sequence; begin a segment if there is none fit to go on with
//
// Damage is no error: what is damaged is kept in quarantine, and what it costs becomes a gap.
// Errors are those of the file system.
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
		s.ballast = s.ballast || name == "ballast"
		if durable.IsTemp(name) { // begun and not finished: what it would have replaced is there
			if err = s.fs.Remove(s.path(name)); err != nil {
				return fmt.Errorf("remove unfinished file: %w", err)
			}
		}
	}
	if s.ballast { // it may be empty
		s.fillBallast()
	}
	if err = s.countQuarantine(); err != nil {
		return err
	}
	if bases, err = s.identify(bases); err != nil {
		return err
	}
	if err = s.openPositions(len(bases) > 0); err != nil {
		return err
	}
	if err = s.openGaps(); err != nil {
		return err
	}
	damaged, err := s.loadAll(bases)
	if err != nil {
		return err
	}
	if err := s.finishEvictions(); err != nil {
		return err
	}
	if err := s.account(); err != nil {
		return err
	}
	if err := s.begin(damaged); err != nil {
		return err
	}
	if free, reserve, ok := s.space(); !s.ballast && (!ok || free > reserve+s.ballastSize()) {
		s.fillBallast()
	}
	return nil
}

func (s *Spool) openPositions(segments bool) error {
	var err error
	if s.pos, err = openPositions(s.fs, s.cfg.Dir); err != nil {
		return err
	}
	if s.pos.damaged {
		pos := s.pos
		s.pos = nil
		if err = errors.Join(pos.file.Close(), s.setAside("positions")); err != nil {
			return err
		}
		if s.pos, err = openPositions(s.fs, s.cfg.Dir); err != nil {
			return err
		}
		s.pos.acked, s.pos.committed = pos.acked, pos.committed // of the other slot
	}
	s.stats.PositionsLost = s.pos.lost && segments
	s.acks.through, s.commits.through = max(s.pos.acked, s.pos.committed), s.pos.committed
	return nil
}

// loadAll scans all segments, and reports whether the last is damaged.
func (s *Spool) loadAll(bases []uint64) (damaged bool, err error) {
	var buf []byte
	for i, base := range bases {
		var g *segment
		var bad bool
		if g, bad, buf, err = s.load(base, i == len(bases)-1, buf); err != nil {
			return false, err
		}
		if g != nil {
			s.segments = append(s.segments, g)
			damaged = bad
		}
	}
	return damaged, nil
}

// account finds the next sequence, and notes what is missing without a word.
func (s *Spool) account() error {
	found := s.gaps
	last := uint64(0)
	if s.stats.PositionsLost && len(s.segments) > 0 {
		last = s.segments[0].base - 1 // what lies before was freed, or is a gap
	}
	for _, g := range s.segments {
		found = s.hole(found, last, g.base-1)
		last = max(last, g.base-1)
		for _, r := range g.frames {
			found = s.hole(found, last, r.seq-1)
			last = max(last, r.seq)
		}
	}
	// Frames that were acknowledged were synced, so if they are missing they were lost, and
	// their sequences must not be given away again.
	found = s.hole(found, last, s.acks.through)
	s.next = max(last, s.acks.through) + 1
	for _, g := range s.gaps {
		s.next = max(s.next, g.To+1)
	}
	for i := range found {
		if found[i].told == 0 && found[i].Reason != reasonFreed {
			found[i].told = s.next
		}
	}
	if slices.Equal(found, s.gaps) {
		return nil
	}
	if err := s.storeGaps(found); !noRoom(err) {
		return err
	}
	// A full disk: the holes show again at the next Open, and are told until then.
	s.gaps = found
	return nil
}

// hole notes the sequences behind last up to to as lost, unless they were committed or are
// known for a gap.
func (s *Spool) hole(gaps []Gap, last, to uint64) []Gap {
	from := max(last, s.commits.through) + 1
	for from <= to {
		end, known := to, false
		for _, g := range s.gaps {
			if g.From <= from && from <= g.To {
				from, known = g.To+1, true
			} else if g.From > from {
				end = min(end, g.From-1)
			}
		}
		if known {
			continue
		}
		gaps = addGap(gaps, Gap{From: from, To: end, Reason: ReasonCorrupt})
		s.stats.GivenUp[ReasonCorrupt] += end - from + 1
		from = end + 1
	}
	return gaps
}

// identify reads the identity, or mints one for a directory that has none. A lost identity is
// taken from a segment; segments of which nobody can say whose they are, and other spools'
// positions and gaps, are set aside.
func (s *Spool) identify(bases []uint64) ([]uint64, error) {
	const magic = "FWSPOOL\x01"
	path := s.path("identity")
	data, err := durable.ReadFile(s.fs, path, 1<<20)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil && !unreadable(err):
		return nil, fmt.Errorf("read identity: %w", err)
	default:
		if len(data) == len(magic)+16+32 && bytes.HasPrefix(data, []byte(magic)) {
			if sum := sha256.Sum256(data[:len(magic)+16]); bytes.Equal(sum[:], data[len(magic)+16:]) {
				copy(s.id[:], data[len(magic):])
				return bases, nil
			}
		}
		if err = s.setAside("identity"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	known := false
	for _, base := range bases {
		var head [segmentHeader]byte
		if err = s.readHead((&segment{base: base}).name(), head[:]); err != nil {
			return nil, err
		}
		if id, _, _, ok := parseSegmentHeader(head[:]); ok {
			s.id, known = id, true
			break
		}
	}
	if !known {
		if s.id, err = s.cfg.NewID(); err != nil {
			return nil, fmt.Errorf("mint identity: %w", err)
		}
		old := []string{"positions", "gaps"}
		for _, base := range bases {
			old = append(old, (&segment{base: base}).name())
		}
		for _, name := range old {
			if err = s.setAside(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		bases = nil
	}
	out := append([]byte(magic), s.id[:]...)
	sum := sha256.Sum256(out)
	return bases, durable.WriteFile(s.fs, path, append(out, sum[:]...))
}

// readHead reads the first bytes of a file as far as it has them.
func (s *Spool) readHead(name string, head []byte) error {
	f, err := s.fs.Open(s.path(name))
	if err != nil {
		return fmt.Errorf("read segment: %w", err)
	}
	if _, err = f.ReadAt(head, 0); errors.Is(err, io.EOF) || unreadable(err) {
		err = nil
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("read segment %s: %w", name, err)
	}
	return nil
}

// load scans one segment, which it reads into buf. It returns nil for a last segment that
// never had a header and for one of another spool, and reports whether the active end has
// bytes that it would be wrong to write behind.
func (s *Spool) load(base uint64, newest bool, buf []byte) (*segment, bool, []byte, error) {
	name := (&segment{base: base}).name()
	data, whole, err := readSegment(s.fs, s.path(name), buf)
	if err != nil {
		return nil, false, buf, err
	}
	g, id, damage := scan(data, base)
	if newest && whole && g.headless && len(data) <= segmentHeader {
		// Frames come behind a header that is durable: it never had one.
		if err := s.fs.Remove(s.path(name)); err != nil {
			return nil, false, data, fmt.Errorf("remove unfinished segment: %w", err)
		}
		s.stats.TornBytes += int64(len(data))
		return nil, false, data, nil
	}
	if !g.headless && id != s.id {
		return nil, false, data, s.setAside(name)
	}
	for _, d := range damage {
		if d.tail && newest && whole && !g.headless && g.last() >= s.acks.through {
			s.stats.TornBytes += d.end - d.off // cut off in begin
			continue
		}
		if err := s.quarantine(name, d.off, data[d.off:d.end]); err != nil {
			return nil, false, data, err
		}
	}
	return g, g.headless || !whole || g.last() < s.acks.through, data, nil
}

// readSegment reads a whole file into buf, grown if need be. Where the medium does not give
// the bytes back they are zero, and whole is false.
func readSegment(fsys durable.FS, path string, buf []byte) (data []byte, whole bool, err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return buf, false, fmt.Errorf("read segment: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close segment: %w", cerr)
		}
	}()
	size, err := f.Size()
	if err != nil {
		return buf, false, fmt.Errorf("read segment %s: %w", path, err)
	}
	if int64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	data, whole = buf[:size], true
	const piece = 1 << 20
	for off := int64(0); off < size; off += piece {
		part := data[off:min(off+piece, size)]
		n, err := f.ReadAt(part, off)
		if n == len(part) {
			continue
		}
		if err != nil && !unreadable(err) {
			return data, false, fmt.Errorf("read segment %s: %w", path, err)
		}
		whole = false
		if err := salvage(f, part, off); err != nil {
			return data, false, fmt.Errorf("read segment %s: %w", path, err)
		}
	}
	return data, whole, nil
}

// salvage reads sector by sector what it can, and zeros elsewhere.
func salvage(f io.ReaderAt, part []byte, off int64) error {
	const sector = 512
	for at := 0; at < len(part); at += sector {
		p := part[at:min(at+sector, len(part))]
		if n, err := f.ReadAt(p, off+int64(at)); n < len(p) {
			if err != nil && !unreadable(err) {
				return err
			}
			clear(p)
		}
	}
	return nil
}

// finishEvictions removes segments that a gap had already given up, and segments whose
// frames are all committed.
func (s *Spool) finishEvictions() error {
	for i := 0; i < len(s.segments)-1; {
		g, last := s.segments[i], s.segments[i+1].base-1
		gone := last <= s.commits.through
		if !gone {
			gone = len(g.frames) > 0
			for _, r := range g.frames {
				gone = gone && (r.seq <= s.commits.through || s.givenUp(r.seq))
			}
		}
		if !gone {
			i++
			continue
		}
		if err := s.drop(i); err != nil {
			return err
		}
	}
	return nil
}

// givenUp reports whether a frame was given up, or freed, though it may be there.
func (s *Spool) givenUp(seq uint64) bool {
	for _, g := range s.gaps {
		if g.Reason != ReasonCorrupt && g.From <= seq && seq <= g.To {
			return true
		}
	}
	return false
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
			if err := s.setAside(act.name()); err != nil {
				return err
			}
			s.segments = s.segments[:n-1]
		}
	}
	s.digest = s.lastDigest()
	f, seg, err := s.create(s.next, s.digest)
	for noRoom(err) {
		if !s.releaseBallast() {
			if len(s.segments) < 2 {
				return err
			}
			if gerr := s.evict(0, ReasonDisk); gerr != nil {
				return errors.Join(err, gerr)
			}
		}
		f, seg, err = s.create(s.next, s.digest)
	}
	if err != nil {
		return err
	}
	s.active, s.synced, s.through = f, seg.end, s.next-1
	s.segments = append(s.segments, seg)
	return nil
}

// lastDigest is the digest of the frame before the next one, as far as it is there or a gap
// tells it.
func (s *Spool) lastDigest() (digest [32]byte) {
	for _, g := range s.gaps {
		if g.To == s.next-1 {
			return g.Digest
		}
	}
	n := len(s.segments)
	if n == 0 || s.segments[n-1].last() != s.next-1 || len(s.segments[n-1].frames) == 0 {
		return digest
	}
	act := s.segments[n-1]
	f, err := s.fs.Open(s.path(act.name()))
	if err != nil {
		return digest
	}
	r := act.frames[len(act.frames)-1]
	frame := make([]byte, r.len)
	if _, err = f.ReadAt(frame, int64(r.off)); err == nil {
		digest = sha256.Sum256(frame)
	}
	if f.Close() != nil {
		return [32]byte{}
	}
	return digest
}
