package score

import (
	"cmp"
	"slices"
)

const (
	graceMs = 2 * 60_000
	pauseMs = 15 * 60_000 // a shorter pause stays inside an activity
	hourMs  = 3_600_000.0
)

type gpuKey struct {
	node string
	gpu  int
}

// span is a time on one GPU that belongs to activity or run number who.
type span struct {
	from, to int64
	who      int
}

// timeline is the spans of all GPUs.
type timeline map[gpuKey][]span

// add takes a span, cut to the period.
func (t timeline) add(k gpuKey, s span, startMs, endMs int64) {
	s.from, s.to = max(s.from, startMs), min(s.to, endMs)
	if s.from < s.to {
		t[k] = append(t[k], s)
	}
}

// settle joins spans of one owner that overlap or lie less than pauseMs apart with
// nobody else in between, and sorts them.
func (t timeline) settle() {
	for k, spans := range t {
		slices.SortFunc(spans, func(a, b span) int {
			return cmp.Or(cmp.Compare(a.who, b.who), cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to))
		})
		var out []span
		for _, s := range spans {
			if n := len(out) - 1; n >= 0 && out[n].who == s.who {
				gap := s.from - out[n].to
				if gap <= 0 || gap < pauseMs && !occupied(spans, out[n].to, s.from, s.who) {
					out[n].to = max(out[n].to, s.to)
					continue
				}
			}
			out = append(out, s)
		}
		slices.SortFunc(out, func(a, b span) int {
			return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.who, b.who))
		})
		t[k] = out
	}
}

func occupied(spans []span, from, to int64, but int) bool {
	return slices.ContainsFunc(spans, func(s span) bool { return s.who != but && s.from < to && s.to > from })
}

// piece is a time on one GPU in which nothing changes.
type piece struct {
	hours  float64
	judged bool  // outside of the grace around labels' boundaries
	labels []int // activities, sorted
	runs   []int // answered runs, sorted
}

// walk cuts both timelines into pieces, GPU by GPU in order. The slices of a piece are
// valid until visit returns.
func walk(labels, runs timeline, visit func(piece)) {
	keys := map[gpuKey]bool{}
	for k := range labels {
		keys[k] = true
	}
	for k := range runs {
		keys[k] = true
	}
	sorted := make([]gpuKey, 0, len(keys))
	for k := range keys {
		sorted = append(sorted, k)
	}
	slices.SortFunc(sorted, func(a, b gpuKey) int { return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.gpu, b.gpu)) })
	for _, k := range sorted {
		walkGPU(labels[k], runs[k], visit)
	}
}

type change struct {
	at    int64
	which int // 0 labels, 1 runs, 2 grace
	who   int
	by    int // +1, -1
}

func walkGPU(labels, runs []span, visit func(piece)) {
	var changes []change
	put := func(which int, s span) {
		changes = append(changes, change{s.from, which, s.who, 1}, change{s.to, which, s.who, -1})
	}
	for _, s := range labels {
		put(0, s)
		put(2, span{from: s.from - graceMs, to: s.from + graceMs})
		put(2, span{from: s.to - graceMs, to: s.to + graceMs})
	}
	for _, s := range runs {
		put(1, s)
	}
	slices.SortFunc(changes, func(a, b change) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.by, b.by), cmp.Compare(a.which, b.which), cmp.Compare(a.who, b.who))
	})
	active := [2][]int{}
	grace := 0
	for i, c := range changes {
		if c.which == 2 {
			grace += c.by
		} else {
			set := active[c.which]
			at, found := slices.BinarySearch(set, c.who)
			switch {
			case c.by > 0 && !found:
				set = slices.Insert(set, at, c.who)
			case c.by < 0 && found:
				set = slices.Delete(set, at, at+1)
			}
			active[c.which] = set
		}
		if i+1 == len(changes) || changes[i+1].at == c.at || len(active[0])+len(active[1]) == 0 {
			continue
		}
		visit(piece{
			hours: float64(changes[i+1].at-c.at) / hourMs, judged: grace == 0,
			labels: active[0], runs: active[1],
		})
	}
}

// overlap is GPU-hours by [activity][run].
type overlap [][]float64

// match finds for each run the activity that it overlaps most, and for each activity
// the run: -1 where there is none. The earlier one wins a draw.
func (o overlap) match(runs int) (ofRun, ofLabel []int) {
	ofRun, ofLabel = make([]int, runs), make([]int, len(o))
	best := make([]float64, runs)
	for r := range ofRun {
		ofRun[r] = -1
	}
	for l, row := range o {
		ofLabel[l] = -1
		top := 0.0
		for r, h := range row {
			if h > top {
				top, ofLabel[l] = h, r
			}
			if h > best[r] {
				best[r], ofRun[r] = h, l
			}
		}
	}
	return ofRun, ofLabel
}
