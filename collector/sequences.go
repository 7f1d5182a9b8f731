package collector

import "github.com/flopwatch/flopwatch/internal/store"

// sequences is a set of a spool's sequences: ranges as the store gave them, and what came since.
type sequences struct {
	ranges []store.SequenceRange
	since  map[uint64]struct{}
}

func newSequences(ranges []store.SequenceRange) *sequences {
	return &sequences{ranges: ranges, since: map[uint64]struct{}{}}
}

func (s *sequences) add(sequence uint64) { s.since[sequence] = struct{}{} }

func (s *sequences) has(sequence uint64) bool {
	if _, ok := s.since[sequence]; ok {
		return true
	}
	for _, r := range s.ranges {
		if r.From <= sequence && sequence <= r.To {
			return true
		}
	}
	return false
}
