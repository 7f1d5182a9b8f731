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
	// MinFree is the room on the file system below which the spool does not grow; default
	// 256 MiB, or a hundredth of the file system where that is less; negative: none.
	MinFree int64
	// Free says what a directory's file system has left and has in all, in bytes; nil: the
	// operating system's word.
	Free func(dir string) (free, total int64, err error)
	// MaxQuarantine bounds the damaged bytes that are kept; default 64 MiB. What passes it is
	// counted.
	MaxQuarantine int64
	// Now is the wall clock; nil: frames have no time, and MaxAge has no effect. If it has a
	// monotonic reading, a step of the wall clock makes no frame old.
	Now func() time.Time
	// NewID mints the spool's identity; nil: 16 random bytes. Replays that must not depend
	// on chance give their own.
	NewID func() ([16]byte, error)
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
	gapFile  gapFile
	pos      *positions
	acks     ranges // has all of commits
	commits  ranges
	opened   time.Time
	tight    bool  // less than the reserve is free
	owed     int64 // bytes appended while it was tight that displaced nothing yet
	ballast  bool  // the ballast has its room
	trouble  Trouble
	cause    string
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
	if cfg.MaxQuarantine <= 0 {
		cfg.MaxQuarantine = 64 << 20
	}
	if cfg.NewID == nil {
		cfg.NewID = randomID
	}
	if cfg.Free == nil {
		cfg.Free = defaultFree(cfg.FS)
	}
	s := &Spool{cfg: cfg, fs: cfg.FS, notify: make(chan struct{}, 1)}
	if cfg.Now != nil {
		s.opened = cfg.Now()
	}
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
	var out []Gap
	for _, g := range s.gaps {
		if g.Reason != reasonFreed && len(out) < maxGaps {
			out = append(out, g)
		}
	}
	return out
}

// Append writes a frame, which gets sequence seq = NextSequence(). It makes room by giving
// up the oldest segments if the spool, or the disk, is full. After an error the spool is as
// before, and the same call may be made again. The frame is not durable before Sync.
func (s *Spool) Append(seq uint64, frame []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.append(seq, frame)
	s.note(err)
	if err != nil {
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
	nowMs, ageMs := s.clock()
	s.scratch = appendFrame(s.scratch[:0], seq, nowMs, frame)
	s.makeReserve(size)
	for {
		err := s.write(ageMs)
		if err == nil {
			break
		}
		if !noRoom(err) {
			return err
		}
		if more, gerr := s.giveWay(); !more {
			return errors.Join(err, gerr)
		}
	}
	act := s.segments[len(s.segments)-1]
	act.frames = append(act.frames, ref{seq: seq, off: uint32(act.end) + frameHeader, len: uint32(len(frame))})
	act.end += size
	act.lastMs = nowMs
	s.next++
	s.digest = sha256.Sum256(frame)
	return nil
}

// write puts the frame in hand behind the last one.
func (s *Spool) write(ageMs int64) error {
	if err := s.makeRoom(int64(len(s.scratch)), ageMs); err != nil {
		return err
	}
	end := s.segments[len(s.segments)-1].end
	if _, err := s.active.WriteAt(s.scratch, end); err != nil {
		// Half a frame is a torn tail, and overwritten by the next attempt; cutting it off
		// gives the space back where a full disk was the cause.
		return errors.Join(err, s.active.Truncate(end))
	}
	return nil
}

// clock is the wall clock, and the time by which frames grow old. Both are 0 without a
// clock.
func (s *Spool) clock() (nowMs, ageMs int64) {
	if s.cfg.Now == nil {
		return 0, 0
	}
	now := s.cfg.Now()
	return now.UnixMilli(), ageClock(now.UnixMilli(), s.opened.UnixMilli(), now.Sub(s.opened))
}

// ageClock is the lesser of the wall clock and what it was at Open with the time that has
// passed since, so that a wall clock that leaps ahead makes no frame old.
func ageClock(nowMs, openedMs int64, passed time.Duration) int64 {
	return min(nowMs, openedMs+passed.Milliseconds())
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

// Sync makes all frames durable and lets readers see them.
func (s *Spool) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("sync spool: %w", ErrClosed)
	}
	err := s.sync()
	for noRoom(err) { // a file system that takes blocks late says so here
		more, gerr := s.giveWayBehind()
		if !more {
			err = errors.Join(err, gerr)
			break
		}
		err = s.sync()
	}
	s.note(err)
	if err != nil {
		return fmt.Errorf("sync spool: %w", err)
	}
	return nil
}

// giveWayBehind makes room without touching the active segment, which waits for its sync.
func (s *Spool) giveWayBehind() (bool, error) {
	if len(s.segments) == 1 {
		return s.releaseBallast(), nil
	}
	return s.giveWay()
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
	if cerr := s.gapFile.close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close gaps: %w", cerr))
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
