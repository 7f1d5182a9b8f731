package spool

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/flopwatch/flopwatch/internal/durable"
)

const (
	// ballastBytes is the size, at most, of a file that is let go when nothing else can give
	// way: it makes room for the header of a segment, or for a longer list of gaps.
	ballastBytes = 64 << 10
	// defaultMinFree is the room left to others, or a hundredth of the file system where that
	// is less.
	defaultMinFree = 256 << 20
	// tightShare is into how many parts segments are divided while room is short, so that
	// little gives way at a time.
	tightShare = 16
	// tightSlack is how many of these the spool may grow by, so that frames that wait for
	// their commit mark are not displaced for the moment that it takes.
	tightSlack = 2
)

// noRoom says that something has to give way.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// unreadable says that the medium does not give back what it has.
func unreadable(err error) bool { return errors.Is(err, syscall.EIO) }

// Trouble is why the spool does not take frames, or takes them at a price.
type Trouble string

// Troubles.
const (
	TroubleNone     Trouble = ""
	TroubleTight    Trouble = "tight"     // less than the reserve is free: the spool does not grow
	TroubleNoRoom   Trouble = "no room"   // the file system is full, and nothing is left to give way
	TroubleReadOnly Trouble = "read-only" // the file system is mounted read-only
	TroubleIO       Trouble = "i/o error" // the medium fails
	TroubleDenied   Trouble = "denied"    // no permission
	TroubleOther    Trouble = "other"
)

// Classify names the trouble behind an error of Open, Append, Sync, Ack or Commit.
func Classify(err error) Trouble {
	switch {
	case err == nil:
		return TroubleNone
	case noRoom(err):
		return TroubleNoRoom
	case errors.Is(err, syscall.EROFS):
		return TroubleReadOnly
	case errors.Is(err, syscall.EIO):
		return TroubleIO
	case errors.Is(err, fs.ErrPermission):
		return TroubleDenied
	}
	return TroubleOther
}

// note remembers how the last attempt went.
func (s *Spool) note(err error) {
	if err == nil && s.trouble == TroubleNone || errors.Is(err, ErrSequence) || errors.Is(err, ErrFrameSize) || errors.Is(err, ErrClosed) {
		return
	}
	s.trouble, s.cause = Classify(err), ""
	if err != nil {
		s.cause = err.Error()
	}
}

// space is what the file system has, false if it does not say.
func (s *Spool) space() (free, reserve int64, ok bool) {
	if s.cfg.MinFree < 0 {
		return 0, 0, false
	}
	free, total, err := s.cfg.Free(s.cfg.Dir)
	if err != nil {
		return 0, 0, false
	}
	if reserve = s.cfg.MinFree; reserve == 0 {
		reserve = min(defaultMinFree, total/100)
	}
	return free, reserve, true
}

// statfs is what the operating system says of a directory's file system.
func statfs(dir string) (free, total int64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("read free space of %s: %w", dir, err)
	}
	unit := st.Bsize
	return int64(st.Bavail) * unit, int64(st.Blocks) * unit, nil
}

// segmentBytes is when a segment is full.
func (s *Spool) segmentBytes() int64 {
	if s.tight {
		return max(s.cfg.SegmentBytes/tightShare, 1)
	}
	return s.cfg.SegmentBytes
}

// makeRoom rotates and evicts so that size bytes fit.
func (s *Spool) makeRoom(size, ageMs int64) error {
	act := s.segments[len(s.segments)-1]
	if len(act.frames) > 0 && act.end+size > s.segmentBytes() {
		if err := s.rotate(); err != nil {
			return err
		}
	}
	for len(s.segments) > 1 {
		oldest := s.segments[0]
		switch {
		case s.bytes()+size > s.cfg.MaxBytes:
			if err := s.evict(s.victim(), ReasonBytes); err != nil {
				return err
			}
		case s.cfg.MaxAge > 0 && ageMs > 0 && oldest.lastMs > 0 && ageMs-oldest.lastMs > s.cfg.MaxAge.Milliseconds():
			if err := s.evict(0, ReasonAge); err != nil {
				return err
			}
		case s.tight && s.owed >= oldest.end+tightSlack*s.segmentBytes():
			if err := s.evict(s.victim(), ReasonDisk); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

// makeReserve looks whether the file system has less than the reserve. Then what is appended
// displaces what is old: the spool does not grow, but does not shrink for others either, as
// filling a disk must not be a way to erase what was measured.
func (s *Spool) makeReserve(size int64) {
	free, reserve, ok := s.space()
	s.tight = ok && free-size < reserve
	if !s.tight {
		s.owed = 0
		if ok && !s.ballast && free-size > reserve+s.ballastSize() {
			s.fillBallast()
		}
		return
	}
	s.owed += size
}

func (s *Spool) bytes() (total int64) {
	for _, g := range s.segments {
		total += g.end
	}
	return total
}

// victim is the segment that gives way: the oldest that the broker has acknowledged, since it
// is likely to be stored, and otherwise the oldest. What is committed is freed already. The
// active segment never gives way.
func (s *Spool) victim() int {
	for i, g := range s.segments[:len(s.segments)-1] {
		if s.within(g, &s.acks) {
			return i
		}
	}
	return 0
}

// within reports whether all frames of a segment are in the set.
func (s *Spool) within(g *segment, set *ranges) bool {
	if g.last() <= set.through {
		return true
	}
	if len(set.more) == 0 {
		return false
	}
	for i := 0; i < len(g.frames); i++ {
		if !set.has(g.frames[i].seq) {
			return false
		}
	}
	return true
}

// giveWay makes room on a full disk; false: there is nothing left to give.
func (s *Spool) giveWay() (bool, error) {
	if len(s.segments) == 1 {
		// One segment is all there is: the next one gets the ballast's room for its header.
		if len(s.segments[0].frames) == 0 || !s.releaseBallast() {
			return false, nil
		}
		if err := s.rotate(); err != nil {
			return false, err
		}
	}
	i := s.victim()
	freed := s.segments[i].end
	if err := s.evict(i, ReasonDisk); err != nil {
		return false, err
	}
	if !s.ballast && freed >= 2*s.ballastSize() {
		s.fillBallast()
	}
	return true, nil
}

func (s *Spool) ballastSize() int64 { return min(max(s.cfg.SegmentBytes/16, 4096), ballastBytes) }

// fillBallast takes the ballast's room, if it can be had.
func (s *Spool) fillBallast() {
	f, err := s.fs.Open(s.path("ballast"))
	if errors.Is(err, fs.ErrNotExist) {
		f, err = s.fs.Create(s.path("ballast"))
	}
	if err != nil {
		return
	}
	size, err := f.Size()
	if err == nil && size < s.ballastSize() {
		_, err = f.WriteAt(incompressible(s.ballastSize()), 0)
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			err = errors.Join(err, f.Truncate(0))
		}
	}
	s.ballast = errors.Join(err, f.Close()) == nil
}

// releaseBallast gives the ballast's room back, once.
func (s *Spool) releaseBallast() bool {
	if !s.ballast {
		return false
	}
	s.ballast = false
	f, err := s.fs.Open(s.path("ballast"))
	if err != nil {
		return false
	}
	if err = f.Truncate(0); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close()) == nil
}

// incompressible is n bytes that take their room on a file system that compresses too.
func incompressible(n int64) []byte {
	b := make([]byte, n)
	x := uint64(0x9e3779b97f4a7c15)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

// evict gives up segment i, which is not the active one: the gap is durable before the
// frames go.
func (s *Spool) evict(i int, reason Reason) error {
	seg, end := s.segments[i], s.segments[i+1].base-1
	var first, last uint64 // frames that are not committed
	lost := 0
	for _, r := range seg.frames {
		if !s.commits.has(r.seq) {
			if lost == 0 {
				first = r.seq
			}
			last = r.seq
			lost++
		}
	}
	gaps := s.gaps
	all := Gap{From: max(seg.base, s.commits.through+1), To: end}
	if lost > 0 {
		g := Gap{From: first, To: end, Reason: reason, Digest: s.segments[i+1].prev, told: s.next + 1}
		if last < end && (s.commits.has(last+1) || known(gaps, last+1)) {
			g.To, g.Digest = last, s.digestOf(seg, last)
		}
		gaps = addGap(gaps, g)
		if g.From <= all.From && g.To == all.To {
			all.To = 0
		}
	}
	if all.From <= all.To {
		gaps = addGap(gaps, all)
	}
	if lost > 0 || all.From <= all.To {
		if err := s.storeGaps(gaps); err != nil {
			return err
		}
	}
	if err := s.pos.sync(); err != nil {
		return err
	}
	if err := s.drop(i); err != nil {
		return err
	}
	s.stats.EvictedFrames += lost
	s.stats.GivenUp[reason] += uint64(lost)
	return nil
}

// known reports whether a sequence is in one of the ranges.
func known(gaps []Gap, seq uint64) bool {
	for _, g := range gaps {
		if g.From <= seq && seq <= g.To {
			return true
		}
	}
	return false
}

// digestOf is the digest of a frame that is about to go; zero if it cannot be read.
func (s *Spool) digestOf(g *segment, seq uint64) (digest [32]byte) {
	f, err := s.file(g)
	if err != nil {
		return digest
	}
	for _, r := range g.frames {
		if r.seq != seq {
			continue
		}
		frame := make([]byte, r.len)
		if _, err := f.ReadAt(frame, int64(r.off)); err == nil {
			digest = sha256.Sum256(frame)
		}
	}
	return digest
}

// drop removes the file of segment i.
func (s *Spool) drop(i int) error {
	seg := s.segments[i]
	if s.reading != nil && s.readBase == seg.base {
		if err := s.closeReading(); err != nil {
			return err
		}
	}
	if err := s.fs.Remove(s.path(seg.name())); err != nil {
		return fmt.Errorf("remove segment: %w", err)
	}
	s.segments = append(s.segments[:i:i], s.segments[i+1:]...)
	s.owed = max(s.owed-seg.end, 0)
	return nil
}

// defaultFree is how free space is asked for: a file layer that is not the operating
// system's has no room to speak of.
func defaultFree(fsys durable.FS) func(string) (free, total int64, err error) {
	if _, ok := fsys.(durable.OS); ok {
		return statfs
	}
	return func(string) (int64, int64, error) { return 0, 0, errors.ErrUnsupported }
}
