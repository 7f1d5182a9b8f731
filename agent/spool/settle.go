package spool

import (
	"fmt"
)

// Ack moves Acked forward to seq; a sequence that is not synced is an error.
func (s *Spool) Ack(seq uint64) error { return s.AckRange(1, seq) }

// AckRange notes that the broker has acknowledged from..to. Acked moves when all before is
// acknowledged, or given up. What lies beyond a hole is known to this process alone.
func (s *Spool) AckRange(from, to uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.settleable(to); err != nil {
		return fmt.Errorf("acknowledge frames to %d: %w", to, err)
	}
	s.settle(&s.acks, from, to)
	s.storePositions()
	return nil
}

// Commit moves Committed (and Acked, if it is behind) forward to seq, and frees the
// segments that lie behind it. A sequence that is not synced is an error.
func (s *Spool) Commit(seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.settleable(seq); err != nil {
		return fmt.Errorf("commit frames to %d: %w", seq, err)
	}
	s.settle(&s.commits, 1, seq)
	return s.committed()
}

// CommitMark takes a commit mark: all up to through is stored, and the ranges are. What it
// says of frames that are not synced yet is not true of them when they are, and is left out.
// It reports whether anything was news.
func (s *Spool) CommitMark(through uint64, more []Range) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.settleable(0); err != nil {
		return false, fmt.Errorf("commit frames: %w", err)
	}
	news := s.settle(&s.commits, 1, min(through, s.through))
	for _, r := range more {
		if s.settle(&s.commits, r.From, min(r.To, s.through)) {
			news = true
		}
	}
	if !news {
		return false, nil
	}
	return true, s.committed()
}

func (s *Spool) settleable(seq uint64) error {
	if s.closed {
		return ErrClosed
	}
	if seq > s.through {
		return fmt.Errorf("they are synced to %d", s.through)
	}
	return nil
}

// settle adds from..to to a set, and moves it over what stands in nobody's way as the spool
// has given it up.
func (s *Spool) settle(set *ranges, from, to uint64) bool {
	if to < from || from == 0 {
		return false
	}
	if _, before := s.findBefore(from); before < from-1 && from > set.through+1 {
		from = before + 1
	}
	news := set.add(from, to)
	for {
		_, at := s.find(set.through + 1)
		if at == nil || at.seq > s.through {
			return news
		}
		end := set.end(at.seq)
		if end == 0 {
			return news
		}
		set.add(set.through+1, end)
	}
}

// committed follows what was committed: acknowledged it is too, gaps are told, and frames
// are freed.
func (s *Spool) committed() error {
	for _, r := range append([]Range{{1, s.commits.through}}, s.commits.more...) {
		s.settle(&s.acks, r.From, r.To)
	}
	s.storePositions()
	if err := s.free(); err != nil {
		s.note(err)
		return fmt.Errorf("free committed frames: %w", err)
	}
	return nil
}

// storePositions writes both positions, if they moved. A failure holds nobody up: a position
// that is too old costs repeats.
func (s *Spool) storePositions() {
	if s.acks.through == s.pos.acked && s.commits.through == s.pos.committed {
		return
	}
	if err := s.pos.store(s.acks.through, s.commits.through); err != nil {
		s.stats.PositionErrors++
		s.note(err)
	}
}

// free removes the segments whose frames are all committed. What the others are told by is
// durable before: the positions for those in front, a freed range for those behind a hole.
func (s *Spool) free() error {
	gaps, changed := trimGaps(s.gaps, s.commits.through, s.commits.top(), s.next)
	var gone []int
	for i, g := range s.segments[:len(s.segments)-1] {
		if !s.within(g, &s.commits) {
			if len(s.commits.more) == 0 {
				break
			}
			continue
		}
		gone = append(gone, i)
		if last := s.segments[i+1].base - 1; last > s.commits.through {
			gaps, changed = addGap(gaps, Gap{From: max(g.base, s.commits.through+1), To: last}), true
		}
	}
	if len(gone) == 0 && !changed {
		return nil
	}
	if err := s.pos.sync(); err != nil {
		return err
	}
	if changed {
		if err := s.storeGaps(gaps); err != nil {
			return err
		}
	}
	for n, i := range gone {
		if err := s.drop(i - n); err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		return s.fs.SyncDir(s.cfg.Dir)
	}
	return nil
}

// Acked is the last sequence up to which the broker has acknowledged all frames.
func (s *Spool) Acked() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acks.through
}

// Committed is the last sequence up to which the collector has stored all frames.
func (s *Spool) Committed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits.through
}

// IsCommitted reports whether the collector has stored a frame.
func (s *Spool) IsCommitted(seq uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits.has(seq)
}

// Settled reports whether frames wait for a commit mark: all that is acknowledged is
// committed.
func (s *Spool) Settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.acks.through > s.commits.through {
		return false
	}
	for _, r := range s.acks.more {
		if s.commits.end(r.From) < r.To {
			return false
		}
	}
	return true
}

// Synced is the last sequence that is durable.
func (s *Spool) Synced() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.through
}
