package feature

import (
	"math"
	"math/bits"
	"sort"
)

// HourMs is the width of a roll-up in milliseconds.
const HourMs = 60 * MinuteMs

// HourCell is one GPU in one hour, made of its minute cells, for views and for those who ask when the minutes have expired: no
// stage of the detector judges from it. MinuteMs is the start of the hour, AvailableMs the
// latest of the cells', Samples their sum. Means are weighted by what they rest on; a deviation holds both those
// within the minutes and those between them; a counter runs from its first reading of the hour to its last.
type HourCell struct {
	GPUCell
	Presence uint64 // which minutes have a cell: bit 0 is the first
	// RhythmShare is the share of the minutes that kept the period of Rhythm, which has no crest.
	RhythmShare float64
}

// HourOf returns the start of the hour of a time.
func HourOf(ms int64) int64 { return floorDiv(ms, HourMs) * HourMs }

func floorDiv(a, b int64) int64 {
	if a < 0 {
		return -((-a + b - 1) / b)
	}
	return a / b
}

// ReduceHour makes the roll-up of an hour of the cells of one GPU, sorted by minute; cells of other hours are
// ignored. It returns false where there is none.
func ReduceHour(cells []GPUCell, hourMs int64) (HourCell, bool) {
	h := HourCell{GPUCell: GPUCell{MinuteMs: hourMs, AvailableMs: math.MinInt64}}
	from := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs >= hourMs })
	to := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs >= hourMs+HourMs })
	if from == to {
		return HourCell{}, false
	}
	for i := from; i < to; i++ {
		h.Presence |= 1 << ((cells[i].MinuteMs - hourMs) / MinuteMs)
	}
	addCells(&h.GPUCell, cells[from:to])
	h.Rhythm, h.RhythmOf, h.RhythmShare = rhythmOfHour(cells, hourMs)
	return h, true
}

// rhythmOfHour is the rhythm that the minutes of an hour kept.
func rhythmOfHour(cells []GPUCell, hourMs int64) (Peak, Signal, float64) {
	lo := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs >= hourMs })
	hi := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs >= hourMs+HourMs })
	b := BeatOf(cells[lo:hi])
	if b.PeriodMs == 0 {
		return Peak{}, 0, 0
	}
	return Peak{PeriodMs: b.PeriodMs, Power: b.Power, Folded: b.Folded, CadenceMs: b.CadenceMs}, b.Of, b.Share
}

// bridge joins what a later cell saw of a counter to what was seen before.
func bridge(c, next Counter) Counter {
	switch {
	case !next.Has():
		return c
	case !c.Has():
		return next
	}
	c.Delta += step(c.Last, next.First) + next.Delta
	c.Last, c.LastMs = next.Last, next.LastMs
	return c
}

// Cells spreads the roll-up over the minutes that it was made of: each has the hour's means and deviations and
// its part of the counters' increments, evenly over their time. Sums over the hour are those of the hour; what
// differed between its minutes is lost. It shows that the roll-up holds what estimates need: tests compare them.
func (h *HourCell) Cells() []GPUCell {
	n := int64(bits.OnesCount64(h.Presence))
	if n == 0 {
		return nil
	}
	out := make([]GPUCell, 0, n)
	starts := make([]int64, 0, n)
	for m := range int64(60) {
		if h.Presence>>m&1 == 1 {
			starts = append(starts, h.MinuteMs+m*MinuteMs)
		}
	}
	for k, at := range starts {
		c := h.GPUCell
		c.MinuteMs, c.Rhythm, c.RhythmOf = at, Peak{}, 0
		c.Samples = int(part(int64(h.Samples), int64(k), n))
		for s := range NumSignals {
			c.CoverMs[s] = part(h.CoverMs[s], int64(k), n)
		}
		c.TensorClockMs = part(h.TensorClockMs, int64(k), n)
		c.EnergyJ = piece(h.EnergyJ, starts, k)
		c.MMACycles = piece(h.MMACycles, starts, k)
		out = append(out, c)
	}
	return out
}

// part is the k-th of n parts of a whole, which add up to it.
func part(whole, k, n int64) int64 { return whole*(k+1)/n - whole*k/n }

// piece is what minute k of those that start at starts has of a counter: from its own start, or the first reading,
// to the start of the next, or the last reading. Only at the ends are the readings those of the counter.
func piece(c Counter, starts []int64, k int) Counter {
	if !c.Has() {
		return Counter{}
	}
	from, to := c.FirstMs, c.LastMs
	if k > 0 {
		from = min(max(starts[k], c.FirstMs), c.LastMs)
	}
	if k+1 < len(starts) {
		to = min(max(starts[k+1], c.FirstMs), c.LastMs)
	}
	out := Counter{FirstMs: from, LastMs: to, First: c.First, Last: c.First}
	if c.LastMs > c.FirstMs {
		per := c.Delta / float64(c.LastMs-c.FirstMs)
		out.Delta = per * float64(to-from)
		out.First += per * float64(from-c.FirstMs)
		out.Last = out.First + out.Delta
	}
	if k+1 == len(starts) {
		out.Last = c.Last
	}
	return out
}
