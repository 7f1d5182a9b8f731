package spool

// Stats are counts since Open, and of what there is: Segments, Frames, Bytes, and from
// UnackedFrames on.
type Stats struct {
	Segments, Frames int
	Bytes            int64
	TornBytes        int64 // cut off the end of the last segment at Open
	CorruptStretches int   // found damaged
	EvictedFrames    int
	SyncErrors       int
	PositionErrors   int       // writes of the positions that failed
	GivenUp          [5]uint64 // frames given up since Open, by Reason
	PositionsLost    bool      // Open did not find the positions: what was freed is not known
	GapsLost         bool      // Open found the list of gaps damaged
	SetAside         int       // files put into quarantine whole
	Unkept           int       // damaged stretches that quarantine had no room for

	UnackedFrames, UncommittedFrames int
	UnackedBytes, UncommittedBytes   int64
	QuarantineFiles                  int
	QuarantineBytes                  int64
	// FreeBytes and ReserveBytes are what the file system has and what is left to others; both
	// 0 if it does not say.
	FreeBytes, ReserveBytes int64
	// Trouble is why the spool takes no frames, or takes them at a price; Cause is the error.
	Trouble Trouble
	Cause   string
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
		if g.last() > s.acks.through {
			n, size := outside(g, &s.acks)
			st.UnackedFrames, st.UnackedBytes = st.UnackedFrames+n, st.UnackedBytes+size
		}
		if g.last() > s.commits.through {
			n, size := outside(g, &s.commits)
			st.UncommittedFrames, st.UncommittedBytes = st.UncommittedFrames+n, st.UncommittedBytes+size
		}
	}
	st.Trouble, st.Cause = s.trouble, s.cause
	if s.closed {
		return st
	}
	if free, reserve, ok := s.space(); ok {
		st.FreeBytes, st.ReserveBytes = free, reserve
		if st.Trouble == TroubleNone && free < reserve {
			st.Trouble, st.Cause = TroubleTight, "less is free than the spool leaves to others: what is new displaces what is old"
		}
	}
	return st
}

// outside counts the frames of a segment that are not in the set.
func outside(g *segment, set *ranges) (frames int, size int64) {
	for _, r := range g.frames {
		if !set.has(r.seq) {
			frames++
			size += int64(r.len)
		}
	}
	return frames, size
}
