package collector

import (
	"slices"

	"github.com/flopwatch/flopwatch/internal/store"
)

// sequences is a set of a spool's sequences: ranges, ascending, disjoint and not adjacent.
type sequences struct{ ranges []store.SequenceRange }

// at returns the first range that ends at sequence or behind it.
func (s *sequences) at(sequence uint64) int {
	i, _ := slices.BinarySearchFunc(s.ranges, sequence, func(r store.SequenceRange, want uint64) int {
		if r.To < want {
			return -1
		}
		return 1
	})
	return i
}

func (s *sequences) has(sequence uint64) bool {
	i := s.at(sequence)
	return i < len(s.ranges) && s.ranges[i].From <= sequence
}

// add adds from..to, inclusive.
func (s *sequences) add(from, to uint64) {
	i := s.at(max(from, 1) - 1) // one that ends right before it joins
	j := i
	for ; j < len(s.ranges) && s.ranges[j].From-1 <= to; j++ {
		from, to = min(from, s.ranges[j].From), max(to, s.ranges[j].To)
	}
	s.ranges = slices.Replace(s.ranges, i, j, store.SequenceRange{From: from, To: to})
}
