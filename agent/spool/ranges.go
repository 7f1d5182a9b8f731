package spool

import "slices"

// Range is a range of sequences, inclusive at both ends.
type Range struct{ From, To uint64 }

// maxRanges bounds how many stretches may lie beyond the first hole.
const maxRanges = 64

// ranges is a set of sequences: all up to through, and stretches beyond it. What does not
// fit is left out, never what was there: a frame that is not known to be done is only sent
// again, but one that was freed as done must stay known for it.
type ranges struct {
	through uint64
	more    []Range // ascending, disjoint, not adjacent
}

func (r *ranges) has(seq uint64) bool { return r.end(seq) != 0 }

// end is the last sequence of the stretch that seq lies in; 0: it lies in none.
func (r *ranges) end(seq uint64) uint64 {
	if seq <= r.through {
		return r.through
	}
	for _, m := range r.more {
		if m.From <= seq && seq <= m.To {
			return m.To
		}
	}
	return 0
}

// top is the highest sequence of the set.
func (r *ranges) top() uint64 {
	if n := len(r.more); n > 0 {
		return r.more[n-1].To
	}
	return r.through
}

// add adds from..to and reports whether the set has changed.
func (r *ranges) add(from, to uint64) bool {
	if from == 0 || to < from {
		return false
	}
	if end := r.end(from); end >= to {
		return false
	}
	if from <= r.through+1 {
		r.through = max(r.through, to)
		n := 0
		for n < len(r.more) && r.more[n].From <= r.through+1 {
			r.through = max(r.through, r.more[n].To)
			n++
		}
		r.more = slices.Delete(r.more, 0, n)
		return true
	}
	i, j := 0, len(r.more) // more[i:j] grow together with from..to
	for i < len(r.more) && r.more[i].To+1 < from {
		i++
	}
	for j > i && r.more[j-1].From > to+1 {
		j--
	}
	if i < j {
		from, to = min(from, r.more[i].From), max(to, r.more[j-1].To)
	} else if len(r.more) >= maxRanges {
		return false
	}
	r.more = slices.Replace(r.more, i, j, Range{from, to})
	return true
}
