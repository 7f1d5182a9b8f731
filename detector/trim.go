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
// still went on then stay whole, from their beginning. What ended before
// is judged no more: it stays as it was judged last. A rental that goes on without work has no
// beginning of its own in the cells: it begins again at the cut, under a new id that takes the
// old one's place.
func (d *Detector) trim(cutMs int64) {
	cutMs = d.st.keptFrom(cutMs)
	d.cutMs = cutMs
	from := map[feature.GPUKey]int64{}
	keep := map[string]bool{}
	for _, a := range d.acts {
		if a.run.StartMs >= cutMs || (!a.run.Open && a.run.EndMs < cutMs) {
			continue
		}
		keep[a.run.ID] = true
		for _, m := range a.run.Members {
			k := feature.GPUKey{Node: m.Node, GPU: m.GPU}
			if at, ok := from[k]; !ok || a.run.StartMs-contextMs < at {
				from[k] = d.st.keptFrom(a.run.StartMs - contextMs)
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

// keptFrom is from where cells are kept that are needed from a moment on: sealed cells are kept by whole days.
func (s *state) keptFrom(ms int64) int64 {
	if ms < s.sealed[0] {
		return floorTo(ms, dayMs)
	}
	return ms
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
	for k, t := range s.gpu {
		at, ok := from[k]
		if !ok || at > cutMs {
			at = cutMs
		}
		if t.n > 0 && t.firstMs() >= at {
			continue
		}
		s.gpuCells -= t.n
		t.set(after(t.get(k), at, func(c feature.GPUCell) int64 { return c.EndMs() - feature.MinuteMs }), s.pack)
		if s.gpuCells += t.n; t.n == 0 {
			delete(s.gpu, k)
			s.keys = nil
		}
	}
	for node, cells := range s.host {
		if s.host[node] = after(cells, limit(node), func(c feature.NodeCell) int64 { return c.EndMs() - feature.MinuteMs }); len(s.host[node]) == 0 {
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
