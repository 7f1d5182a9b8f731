package spool

import (
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// Reader reads synced frames in order. It belongs to one goroutine; a spool may have
// several.
type Reader struct {
	s    *Spool
	next uint64
	to   uint64  // 0: without end
	skip *ranges // nil: none
	atMs int64
}

// Read returns a reader that begins with the first frame whose sequence is at least from.
func (s *Spool) Read(from uint64) *Reader { return &Reader{s: s, next: from} }

// ReadUnacked returns a reader of the frames from..to that are not acknowledged when they
// are read; to 0: without end.
func (s *Spool) ReadUnacked(from, to uint64) *Reader {
	return &Reader{s: s, next: from, to: to, skip: &s.acks}
}

// ReadUncommitted returns a reader of the frames from..to that are not committed when they
// are read, acknowledged or not; to 0: without end.
func (s *Spool) ReadUncommitted(from, to uint64) *Reader {
	return &Reader{s: s, next: from, to: to, skip: &s.commits}
}

// Next reads the next frame into buf, which it grows if need be, and returns the frame,
// which lies in the returned slice. Sequences ascend; those that were given up are left out.
// io.EOF says that there is no frame yet: call again later. A frame that turns out damaged
// becomes a gap and is left out.
func (r *Reader) Next(buf []byte) (seq uint64, frame []byte, err error) {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		seg, at, err := r.peek()
		if err != nil {
			return 0, buf, err
		}
		frame, atMs, err := s.readFrame(seg, *at, buf)
		if err != nil {
			return 0, buf, fmt.Errorf("read frame %d of spool: %w", at.seq, err)
		}
		seq = at.seq
		r.next = seq + 1
		if frame != nil {
			r.atMs = atMs
			return seq, frame, nil
		}
	}
}

// Size is the number of bytes of the frame that Next would read; io.EOF if there is none.
func (r *Reader) Size() (int, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	_, at, err := r.peek()
	if err != nil {
		return 0, err
	}
	return int(at.len), nil
}

// Extend moves the reader's end to to, if that is further.
func (r *Reader) Extend(to uint64) {
	if r.to > 0 {
		r.to = max(r.to, to)
	}
}

// AtMs is when the frame that Next returned last was appended, Unix milliseconds; 0: the
// spool has no clock.
func (r *Reader) AtMs() int64 { return r.atMs }

// Rest is how many frames, of how many bytes, the reader has before it now. It stops
// counting at most bytes.
func (r *Reader) Rest(most int64) (frames int, size int64) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	c := *r
	for size < most {
		_, at, err := c.peek()
		if err != nil {
			break
		}
		frames, size, c.next = frames+1, size+int64(at.len), at.seq+1
	}
	return frames, size
}

// peek finds the next frame, which the reader moves to.
func (r *Reader) peek() (*segment, *ref, error) {
	s := r.s
	if s.closed {
		return nil, nil, fmt.Errorf("read spool: %w", ErrClosed)
	}
	for {
		seg, at := s.find(r.next)
		if at == nil || at.seq > s.through || r.to > 0 && at.seq > r.to {
			return nil, nil, io.EOF
		}
		if r.skip != nil {
			if end := r.skip.end(at.seq); end > 0 {
				r.next = end + 1
				continue
			}
		}
		return seg, at, nil
	}
}

// First is the lowest sequence that is kept and is at least from, 0 if there is none.
func (s *Spool) First(from uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, at := s.find(from); at != nil {
		return at.seq
	}
	return 0
}

func (s *Spool) find(from uint64) (*segment, *ref) {
	i := sort.Search(len(s.segments), func(i int) bool { return s.segments[i].last() >= from })
	for ; i < len(s.segments); i++ {
		g := s.segments[i]
		if j := sort.Search(len(g.frames), func(j int) bool { return g.frames[j].seq >= from }); j < len(g.frames) {
			return g, &g.frames[j]
		}
	}
	return nil, nil
}

// findBefore is the last frame that is kept and lies before seq, 0 if there is none.
func (s *Spool) findBefore(seq uint64) (*segment, uint64) {
	i := sort.Search(len(s.segments), func(i int) bool { return s.segments[i].base >= seq })
	for i--; i >= 0; i-- {
		g := s.segments[i]
		if j := sort.Search(len(g.frames), func(j int) bool { return g.frames[j].seq >= seq }); j > 0 {
			return g, g.frames[j-1].seq
		}
	}
	return nil, 0
}

// OldestMs is when the oldest frame that is not committed was appended, Unix milliseconds; 0
// if there is none, or if the spool has no clock.
func (s *Spool) OldestMs() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := Reader{s: s, next: 1, skip: &s.commits}
	return c.oldestMs()
}

// OldestUnackedMs is the same of the oldest frame from `from` on that is not acknowledged.
func (s *Spool) OldestUnackedMs(from uint64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := Reader{s: s, next: from, skip: &s.acks}
	return c.oldestMs()
}

func (r *Reader) oldestMs() (int64, error) {
	s := r.s
	g, at, err := r.peek()
	if errors.Is(err, io.EOF) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	f, err := s.file(g)
	if err != nil {
		return 0, fmt.Errorf("read frame %d of spool: %w", at.seq, err)
	}
	var b [frameHeader]byte
	if _, err := f.ReadAt(b[:], int64(at.off)-frameHeader); err != nil {
		return 0, fmt.Errorf("read frame %d of spool: %w", at.seq, err)
	}
	h, ok := parseFrameHeader(b[:])
	if !ok || h.seq != at.seq {
		return 0, nil // damaged: its reader says so
	}
	return h.atMs, nil
}

// file is the open file of a segment.
func (s *Spool) file(g *segment) (durable.File, error) {
	if g == s.segments[len(s.segments)-1] {
		return s.active, nil
	}
	if s.reading == nil || s.readBase != g.base {
		if err := s.closeReading(); err != nil {
			return nil, err
		}
		file, err := s.fs.Open(s.path(g.name()))
		if err != nil {
			return nil, err
		}
		s.reading, s.readBase = file, g.base
	}
	return s.reading, nil
}

// readFrame returns nil without an error if the frame is damaged, which it has noted then.
func (s *Spool) readFrame(g *segment, at ref, buf []byte) (frame []byte, atMs int64, err error) {
	f, err := s.file(g)
	if err != nil {
		return nil, 0, err
	}
	n := frameHeader + int(at.len)
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if got, err := f.ReadAt(buf, int64(at.off)-frameHeader); err != nil {
		if !errors.Is(err, io.EOF) && !unreadable(err) {
			return nil, 0, err
		}
		clear(buf[got:])
		if unreadable(err) { // asked again, sector by sector
			if err := salvage(f, buf, int64(at.off)-frameHeader); err != nil {
				return nil, 0, err
			}
		}
	}
	h, ok := parseFrameHeader(buf)
	if ok && h.seq == at.seq && h.len == at.len && checksum(buf[frameHeader:]) == h.crc {
		return buf[frameHeader:], h.atMs, nil
	}
	if err := s.quarantine(g.name(), int64(at.off)-frameHeader, buf); err != nil {
		return nil, 0, err
	}
	return nil, 0, s.lose(g, at.seq)
}

// lose makes a gap of a frame that was found damaged after Open.
func (s *Spool) lose(g *segment, seq uint64) error {
	s.stats.GivenUp[ReasonCorrupt]++
	if !s.commits.has(seq) {
		gaps := addGap(s.gaps, Gap{From: seq, To: seq, Reason: ReasonCorrupt, told: s.next + 1})
		if err := s.storeGaps(gaps); err != nil {
			return err
		}
	}
	for i := range g.frames {
		if g.frames[i].seq == seq {
			g.frames = append(g.frames[:i:i], g.frames[i+1:]...)
			break
		}
	}
	return nil
}

func (s *Spool) closeReading() error {
	if s.reading == nil {
		return nil
	}
	err := s.reading.Close()
	s.reading = nil
	if err != nil {
		return fmt.Errorf("close segment: %w", err)
	}
	return nil
}
