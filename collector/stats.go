package collector

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/flopwatch/flopwatch/collector/batch"
)

// InsertBounds are the upper bounds of Stats.Inserting, seconds.
var InsertBounds = [...]float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120}

type stats struct {
	rows, batches, repeats, inserts, ranges, refusals, marks atomic.Uint64

	aside     [len(batch.Reasons)]struct{ messages, bare, dropped atomic.Uint64 }
	durations [len(InsertBounds) + 1]atomic.Uint64
	inserting atomic.Int64 // nanoseconds
}

// Stats counts since Open. Rows are those of batches that are wholly stored.
type Stats struct {
	Rows, Batches, Repeats, Quarantined, Inserts, Ranges uint64
	// Conflicts, which are Quarantined too, had other content under an identity that was taken.
	Conflicts uint64
	// Refusals are inserts and questions that the store did not answer as it should, Marks the commit
	// marks that were published.
	Refusals, Marks uint64
	Aside           batch.Counts // Quarantined by reason
	// Inserting counts inserts, refused ones too, by how long they took: those of at most InsertBounds,
	// each by itself, and those beyond. InsertSeconds is their sum.
	Inserting     [len(InsertBounds) + 1]uint64
	InsertSeconds float64
}

func (s *stats) inserted(d time.Duration) {
	i, _ := slices.BinarySearch(InsertBounds[:], d.Seconds())
	s.durations[i].Add(1)
	s.inserting.Add(int64(d))
}

func (s *stats) setAside(c *batch.Counts) {
	for i := range c {
		s.aside[i].messages.Add(c[i].Messages)
		s.aside[i].bare.Add(c[i].Bare)
		s.aside[i].dropped.Add(c[i].Dropped)
	}
}

// Stats returns the counters.
func (c *Collector) Stats() Stats {
	s := &c.stats
	out := Stats{
		Rows: s.rows.Load(), Batches: s.batches.Load(), Repeats: s.repeats.Load(), Inserts: s.inserts.Load(), Ranges: s.ranges.Load(), Refusals: s.refusals.Load(), Marks: s.marks.Load(),
		InsertSeconds: time.Duration(s.inserting.Load()).Seconds(),
	}
	for i := range s.aside {
		a := &s.aside[i]
		out.Aside[i] = batch.Count{Messages: a.messages.Load(), Bare: a.bare.Load(), Dropped: a.dropped.Load()}
	}
	out.Quarantined = out.Aside.Total()
	out.Conflicts = out.Aside[slices.Index(batch.Reasons[:], batch.ReasonConflict)].Messages
	for i := range s.durations {
		out.Inserting[i] = s.durations[i].Load()
	}
	return out
}
