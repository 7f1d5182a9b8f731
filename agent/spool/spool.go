package spool

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// Errors of Append.
var (
	// ErrSequence says that a frame came out of turn.
	ErrSequence = errors.New("not the next sequence")
	// ErrClosed says that the spool is closed.
	ErrClosed = errors.New("spool is closed")
	// ErrFrameSize says that a frame is empty or larger than a segment takes.
	ErrFrameSize = errors.New("frame size out of bounds")
)

// Config of a spool. Dir is needed; zero values elsewhere mean the defaults.
type Config struct {
	Dir string
	// FS is the file layer; nil: the operating system's.
	FS durable.FS
	// MaxBytes bounds the segments together; default 1 GiB.
	MaxBytes int64
	// SegmentBytes is when a segment is full; default 8 MiB, at most MaxBytes/4.
	SegmentBytes int64
	// MaxAge is how long a frame is kept, by Now; 0: for ever.
	MaxAge time.Duration
	// Now is the wall clock; nil: frames have no time, and MaxAge has no effect.
	Now func() time.Time
	// NewID mints the spool's identity; nil: 16 random bytes. Replays that must not depend
	// on chance give their own.
	NewID func() ([16]byte, error)
}

// Stats are counts since Open, Segments, Bytes and Frames apart, which are what there is.
type Stats struct {
	Segments, Frames int
	Bytes            int64
	TornBytes        int64 // cut off the end of the last segment at Open
	CorruptStretches int   // put in quarantine
	EvictedFrames    int
	SyncErrors       int
}

// Spool is an open spool.
type Spool struct {
	cfg    Config
	fs     durable.FS
	id     [16]byte
	lock   io.Closer
	notify chan struct{}

	mu       sync.Mutex // guards all below
	closed   bool
	segments []*segment // ascending; the last is active
	active   durable.File
	synced   int64 // bytes of the active segment that are durable
	through  uint64
	suspect  bool // a sync failed: the kernel may have dropped what it had
	next     uint64
	digest   [32]byte // of frame next-1
	gaps     []Gap
	pos      *positions
	scratch  []byte
	reading  durable.File // the last segment read from, other than the active one
	readBase uint64
	stats    Stats
}

// Open opens the spool in cfg.Dir, or makes one. It repairs what a crash left and puts
// damaged frames in quarantine. durable.ErrLocked says that somebody has it open.
func Open(cfg Config) (*Spool, error) {
	if cfg.Dir == "" {
		return nil, errors.New("open spool: no directory")
	}
	if cfg.FS == nil {
		cfg.FS = durable.OS{}
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 1 << 30
	}
	if cfg.SegmentBytes <= 0 {
		cfg.SegmentBytes = 8 << 20
	}
	cfg.SegmentBytes = max(1, min(cfg.SegmentBytes, cfg.MaxBytes/4, 1<<30))
	if cfg.NewID == nil {
		cfg.NewID = randomID
	}
	s := &Spool{cfg: cfg, fs: cfg.FS, notify: make(chan struct{}, 1)}
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open spool %s: %w", cfg.Dir, err), s.release())
	}
	return s, nil
}

func randomID() (id [16]byte, err error) {
	_, err = rand.Read(id[:])
	return id, err
}

func (s *Spool) path(name string) string { return filepath.Join(s.cfg.Dir, name) }

// ID is the spool's identity: minted once, the same at every Open.
func (s *Spool) ID() [16]byte { return s.id }

// NextSequence is the sequence that the next frame gets; the first is 1.
func (s *Spool) NextSequence() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// LastDigest is the SHA-256 of frame NextSequence()-1, zero if there is none or if it was
// lost to damage.
func (s *Spool) LastDigest() [32]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.digest
}

// Gaps are the gaps that the next frame has to carry, oldest first.
func (s *Spool) Gaps() []Gap {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Gap(nil), s.gaps[:min(len(s.gaps), maxGaps)]...)
}

// Stats returns the spool's counts.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Segments = len(s.segments)
	for _, g := range s.segments {
		st.Bytes += g.end
		st.Frames += len(g.frames)
	}
	return st
}

// Append writes a frame, which gets sequence seq = NextSequence(). It makes room by giving
// up the oldest segments if the spool is full. After an error the spool is as before, and
// the same call may be made again. The frame is not durable before Sync.
func (s *Spool) Append(seq uint64, frame []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.append(seq, frame); err != nil {
		return fmt.Errorf("append frame %d to spool: %w", seq, err)
	}
	return nil
}

func (s *Spool) append(seq uint64, frame []byte) error {
	if s.closed {
		return ErrClosed
	}
	if seq != s.next {
		return fmt.Errorf("%w: it is %d", ErrSequence, s.next)
	}
	size := int64(frameHeader + len(frame))
	if len(frame) == 0 || len(frame) > maxFrameBytes || segmentHeader+size > s.cfg.MaxBytes {
		return fmt.Errorf("%w: %d bytes", ErrFrameSize, len(frame))
	}
	var nowMs int64
	if s.cfg.Now != nil {
		nowMs = s.cfg.Now().UnixMilli()
	}
	if err := s.makeRoom(size, nowMs); err != nil {
		return err
	}
	act := s.segments[len(s.segments)-1]
	s.scratch = appendFrame(s.scratch[:0], seq, nowMs, frame)
	if _, err := s.active.WriteAt(s.scratch, act.end); err != nil {
		// Half a frame is a torn tail, and overwritten by the next attempt; cutting it off
		// gives the space back where a full disk was the cause.
		return errors.Join(err, s.active.Truncate(act.end))
	}
	act.frames = append(act.frames, ref{seq: seq, off: uint32(act.end) + frameHeader, len: uint32(len(frame))})
	act.end += size
	act.lastMs = nowMs
	s.next++
	s.digest = sha256.Sum256(frame)
	return nil
}

// makeRoom rotates and evicts so that size bytes fit.
func (s *Spool) makeRoom(size, nowMs int64) error {
	act := s.segments[len(s.segments)-1]
	if len(act.frames) > 0 && act.end+size > s.cfg.SegmentBytes {
		if err := s.rotate(); err != nil {
			return err
		}
	}
	var total int64
	for _, g := range s.segments {
		total += g.end
	}
	for len(s.segments) > 1 {
		var reason Reason
		switch oldest := s.segments[0]; {
		case total+size > s.cfg.MaxBytes:
			reason = ReasonBytes
		case s.cfg.MaxAge > 0 && nowMs > 0 && oldest.lastMs > 0 && nowMs-oldest.lastMs > s.cfg.MaxAge.Milliseconds():
			reason = ReasonAge
		default:
			return nil
		}
		total -= s.segments[0].end
		if err := s.evict(reason); err != nil {
			return err
		}
	}
	return nil
}

// rotate makes the active segment durable and begins a new one.
func (s *Spool) rotate() error {
	if err := s.sync(); err != nil {
		return err
	}
	f, seg, err := s.create(s.next, s.digest)
	if err != nil {
		return err
	}
	old := s.active
	s.active, s.synced = f, seg.end
	s.segments = append(s.segments, seg)
	if err := old.Close(); err != nil {
		return fmt.Errorf("close segment: %w", err)
	}
	return nil
}

// create makes a segment: file, header, sync, directory.
func (s *Spool) create(base uint64, prev [32]byte) (durable.File, *segment, error) {
	seg := &segment{base: base, prev: prev, end: segmentHeader}
	path := s.path(seg.name())
	f, err := s.fs.Create(path)
	if errors.Is(err, fs.ErrExist) {
		// An earlier attempt that failed and could not be cleaned up: it has no frame.
		if err = s.fs.Remove(path); err == nil {
			f, err = s.fs.Create(path)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("create segment: %w", err)
	}
	_, err = f.WriteAt(appendSegmentHeader(nil, s.id, base, prev), 0)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.fs.SyncDir(s.cfg.Dir)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("create segment %s: %w", path, err), f.Close(), s.fs.Remove(path))
	}
	return f, seg, nil
}

// evict gives up the oldest segment: the gap is durable before the frames go.
func (s *Spool) evict(reason Reason) error {
	seg, behind := s.segments[0], s.segments[1]
	from := max(seg.base, s.pos.committed+1)
	lost := 0
	for _, r := range seg.frames {
		if r.seq >= from {
			lost++
		}
	}
	if lost > 0 {
		g := Gap{From: from, To: behind.base - 1, Reason: reason, Digest: behind.prev, told: s.next + 1}
		gaps := addGap(s.gaps, g)
		if err := s.storeGaps(gaps); err != nil {
			return err
		}
	}
	if err := s.drop(); err != nil {
		return err
	}
	s.stats.EvictedFrames += lost
	return nil
}

func (s *Spool) storeGaps(gaps []Gap) error {
	if err := durable.WriteFile(s.fs, s.path("gaps"), appendGaps(nil, gaps)); err != nil {
		return err
	}
	s.gaps = gaps
	return nil
}

// drop removes the oldest segment's file.
func (s *Spool) drop() error {
	seg := s.segments[0]
	if s.reading != nil && s.readBase == seg.base {
		if err := s.closeReading(); err != nil {
			return err
		}
	}
	if err := s.fs.Remove(s.path(seg.name())); err != nil {
		return fmt.Errorf("remove segment: %w", err)
	}
	s.segments = s.segments[1:]
	return nil
}

// Sync makes all frames durable and lets readers see them.
func (s *Spool) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("sync spool: %w", ErrClosed)
	}
	if err := s.sync(); err != nil {
		return fmt.Errorf("sync spool: %w", err)
	}
	return nil
}

func (s *Spool) sync() error {
	act := s.segments[len(s.segments)-1]
	if act.end > s.synced {
		if s.suspect {
			// After a failed sync the kernel holds the pages for clean: write them again, or
			// the next sync would have nothing to do and say that all is well.
			buf := make([]byte, act.end-s.synced)
			if _, err := s.active.ReadAt(buf, s.synced); err != nil {
				return err
			}
			if _, err := s.active.WriteAt(buf, s.synced); err != nil {
				return err
			}
		}
		if err := s.active.Sync(); err != nil {
			s.suspect = true
			s.stats.SyncErrors++
			return err
		}
		s.suspect = false
		s.synced = act.end
	}
	if last := s.next - 1; last > s.through {
		s.through = last
		select {
		case s.notify <- struct{}{}:
		default:
		}
	}
	return nil
}

// Notify returns a channel that gets a value after frames became readable; values are not
// queued. It is for one reader.
func (s *Spool) Notify() <-chan struct{} { return s.notify }

// Acked is the last sequence up to which the broker has acknowledged all frames.
func (s *Spool) Acked() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pos.acked
}

// Committed is the last sequence up to which the collector has stored all frames.
func (s *Spool) Committed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pos.committed
}

// Synced is the last sequence that is durable.
func (s *Spool) Synced() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.through
}

// Ack moves Acked forward to seq; a sequence that is not synced is an error.
func (s *Spool) Ack(seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.move(seq, s.pos.committed)
}

// Commit moves Committed (and Acked, if it is behind) forward to seq, and frees the
// segments that lie behind it. A sequence that is not synced is an error.
func (s *Spool) Commit(seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.move(seq, seq); err != nil {
		return err
	}
	if gaps := trimGaps(s.gaps, s.pos.committed, s.next); len(gaps) != len(s.gaps) {
		if err := s.storeGaps(gaps); err != nil {
			return err
		}
	}
	dropped := false
	for len(s.segments) > 1 && s.segments[1].base-1 <= s.pos.committed {
		if err := s.drop(); err != nil {
			return fmt.Errorf("free committed frames: %w", err)
		}
		dropped = true
	}
	if dropped {
		if err := s.fs.SyncDir(s.cfg.Dir); err != nil {
			return fmt.Errorf("free committed frames: %w", err)
		}
	}
	return nil
}

func (s *Spool) move(acked, committed uint64) error {
	if s.closed {
		return fmt.Errorf("move spool position: %w", ErrClosed)
	}
	acked, committed = max(acked, s.pos.acked), max(committed, s.pos.committed)
	if acked > s.through || committed > s.through {
		return fmt.Errorf("move spool position to %d, committed %d: frames are synced to %d", acked, committed, s.through)
	}
	if acked == s.pos.acked && committed == s.pos.committed {
		return nil
	}
	return s.pos.store(acked, committed)
}

// Close syncs and closes the spool. A second Close does nothing.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	err := s.sync()
	s.closed = true
	if err = errors.Join(err, s.release()); err != nil {
		return fmt.Errorf("close spool %s: %w", s.cfg.Dir, err)
	}
	return nil
}

// release closes all files, whichever are open.
func (s *Spool) release() error {
	err := s.closeReading()
	if s.active != nil {
		err = errors.Join(err, s.active.Close())
		s.active = nil
	}
	if s.pos != nil {
		err = errors.Join(err, s.pos.close())
		s.pos = nil
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
		s.lock = nil
	}
	return err
}
