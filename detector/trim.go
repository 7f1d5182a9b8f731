package detector

import (
	"encoding/json"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/internal/store"
)

// contextMs is how much before the beginning of an activity stays, so that it begins where
// it began.
const contextMs = 60 * 60_000

// trim lets minutes before cutMs go from memory; the store keeps their cells. Activities that
// still went on then stay whole, from their beginning, unless force is set. What ended before
// is judged no more: it stays as it was judged last. A rental that goes on without work has no
// beginning of its own in the cells: it begins again at the cut, under a new id that takes the
// old one's place.
func (d *Detector) trim(cutMs int64, force bool) {
	d.cutMs = cutMs
	d.truncated = 0
	from := map[feature.GPUKey]int64{}
	keep := map[string]bool{}
	for _, a := range d.acts {
		if a.run.StartMs >= cutMs || (!a.run.Open && a.run.EndMs < cutMs) {
			continue
		}
		if force {
			d.truncated++
			continue
		}
		keep[a.run.ID] = true
		for _, m := range a.run.Members {
			k := feature.GPUKey{Node: m.Node, GPU: m.GPU}
			if at, ok := from[k]; !ok || a.run.StartMs-contextMs < at {
				from[k] = a.run.StartMs - contextMs
			}
		}
	}
	d.st.dropBefore(cutMs, from)
	for id, doc := range d.runs {
		var l RunLine
		if json.Unmarshal([]byte(doc), &l) == nil && l.StartedMs < cutMs && !keep[id] {
			d.left[id] = true
		}
	}
	d.acts = nil
}

// isBefore reports whether a fact ended long enough before the cut to say nothing of what is
// looked at.
func (d *Detector) isBefore(endMs int64) bool {
	return d.cutMs != 0 && endMs != 0 && endMs < d.cutMs-dayMs
}

// dropBefore lets cells of minutes before cutMs go; those of a GPU in from, and of its node,
// before the moment that stands there, if that is earlier.
func (s *state) dropBefore(cutMs int64, from map[feature.GPUKey]int64) {
	nodes := map[string]int64{}
	for k, at := range from {
		if n, ok := nodes[k.Node]; !ok || at < n {
			nodes[k.Node] = at
		}
	}
	limit := func(node string) int64 {
		if at, ok := nodes[node]; ok {
			return min(at, cutMs)
		}
		return cutMs
	}
	for k, cells := range s.gpu {
		at, ok := from[k]
		if !ok || at > cutMs {
			at = cutMs
		}
		kept := after(cells, at, func(c feature.GPUCell) int64 { return c.MinuteMs })
		s.gpuCells -= len(cells) - len(kept)
		if s.gpu[k] = kept; len(kept) == 0 {
			delete(s.gpu, k)
		}
	}
	for node, cells := range s.host {
		if s.host[node] = after(cells, limit(node), func(c feature.NodeCell) int64 { return c.MinuteMs }); len(s.host[node]) == 0 {
			delete(s.host, node)
		}
	}
	s.comm.drop(limit)
	s.flows.drop(limit)
}

// after copies the cells from fromMs on, so that the others' memory is free.
func after[C any](cells []C, fromMs int64, minute func(C) int64) []C {
	i := sort.Search(len(cells), func(i int) bool { return minute(cells[i]) >= fromMs })
	if i == 0 {
		return cells
	}
	return slices.Clone(cells[i:])
}

// drop lets cells of minutes before their node's limit go.
func (l *links[C]) drop(limit func(node string) int64) {
	l.keys = slices.DeleteFunc(l.keys, func(k nodeMinute) bool {
		gone := k.minute < limit(k.node)
		if gone {
			delete(l.at, k)
		}
		return gone
	})
	l.flat, l.built = nil, 0
}

// continues is the run that goes on with what one whose beginning was let go did: one that
// holds a GPU of it in its time; "": none does.
func continues(acts []judged, l *RunLine) string {
	for _, a := range acts {
		for _, m := range a.run.Members {
			for _, o := range l.Members {
				if m.Node == o.Node && m.GPU == o.GPU && m.StartMs < o.EndMs && o.StartMs < m.EndMs {
					return a.run.ID
				}
			}
		}
	}
	return ""
}

// tooMany is how many cells of GPUs lie beyond a bound.
func (d *Detector) tooMany(most int) bool { return most > 0 && d.st.gpuCells > most }

// pastFacts counts the stated events at or before atMs: a change of it says that something
// was stated late.
func (d *Detector) pastFacts(atMs int64) (n int) {
	count := func(ms ...int64) {
		for _, v := range ms {
			if v != 0 && v <= atMs {
				n++
			}
		}
	}
	for i := range d.st.allocations {
		count(d.st.allocations[i].StartMs, d.st.allocations[i].EndMs)
	}
	for i := range d.st.orders {
		count(d.st.orders[i].AmendedMs, d.st.orders[i].StartMs, d.st.orders[i].EndMs)
	}
	for i := range d.st.processes {
		count(d.st.processes[i].StartMs, d.st.processes[i].EndMs)
	}
	return n
}

// changesFacts reports whether a batch carries what is stated rather than measured by the
// minute.
func changesFacts(b *store.BatchRow) bool {
	for i, kind := range store.BatchKinds {
		switch kind {
		case "process", "inventory", "allocation", "order", "device", "checkpoint":
			if b.Rows[i] > 0 {
				return true
			}
		}
	}
	return false
}
