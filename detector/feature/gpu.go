package feature

import (
	"math"
	"slices"
	"sort"
)

// ReduceGPU makes the cell of one minute from the rows of one GPU, sorted by TsMs and
// lying in [minuteMs - WindowMs, minuteMs + MinuteMs); rows outside are ignored. It
// returns false where no row lies in the minute.
func ReduceGPU(rows []GPUSample, minuteMs int64) (GPUCell, bool) {
	lo := sort.Search(len(rows), func(i int) bool { return rows[i].TsMs >= minuteMs-WindowMs })
	hi := sort.Search(len(rows), func(i int) bool { return rows[i].TsMs >= minuteMs+MinuteMs })
	rows = dedupGPU(rows[lo:hi])
	first := sort.Search(len(rows), func(i int) bool { return rows[i].TsMs >= minuteMs })
	if first == len(rows) {
		return GPUCell{}, false
	}
	c := GPUCell{
		Node: rows[first].Node, GPU: rows[first].GPU, MinuteMs: minuteMs,
		Samples: len(rows) - first, AvailableMs: math.MinInt64,
	}
	for i := first; i < len(rows); i++ {
		c.AvailableMs = max(c.AvailableMs, rows[i].AvailableMs)
	}
	rows = withTensor(rows)
	var buf []reading
	for s := range NumSignals {
		var avail int64
		buf, avail = series(buf[:0], len(rows), first, minuteMs, func(i int) (int64, float64, int64) {
			return rows[i].TsMs, rows[i].Value[s], rows[i].AvailableMs
		})
		c.AvailableMs = max(c.AvailableMs, avail)
		c.Mean[s], c.SD[s], c.CoverMs[s] = moments(buf)
	}
	buf, _ = series(buf[:0], len(rows), first, minuteMs, func(i int) (int64, float64, int64) {
		return rows[i].TsMs, rows[i].Value[TensorFrac] * rows[i].Value[SMClockMHz], rows[i].AvailableMs
	})
	c.TensorClockMHz, _, c.TensorClockMs = moments(buf)
	// Where an agent gives counters alone, their increments are the mean of what the signal
	// would have said: watts from joules, activity times clock from tensor cycles.
	if c.CoverMs[PowerW] == 0 {
		c.Mean[PowerW], c.SD[PowerW], c.CoverMs[PowerW] = rate(rows, first, &c.AvailableMs, maxBoardW, 1,
			func(r *GPUSample) float64 { return r.EnergyJ }, func(r *GPUSample) float64 { return r.Value[PowerW] })
	}
	if c.TensorClockMs == 0 {
		c.TensorClockMHz, _, c.TensorClockMs = rate(rows, first, &c.AvailableMs, maxClockMHz, 1e-6,
			func(r *GPUSample) float64 { return r.MMACycles }, func(r *GPUSample) float64 { return r.Value[TensorFrac] })
	}
	c.EnergyJ = reduceCounter(rows[first:], func(r *GPUSample) float64 { return r.EnergyJ })
	c.MMACycles = reduceCounter(rows[first:], func(r *GPUSample) float64 { return r.MMACycles })
	if len(rows) >= leastPoints { // all of them say whether there is a rhythm
		for i := range first {
			c.AvailableMs = max(c.AvailableMs, rows[i].AvailableMs)
		}
		c.rhythmOf(rows)
	}
	return c, true
}

// withTensor gives rows the activity of the tensor pipes where only those of its
// sub-pipes were measured: they share the pipe, so it is their sum. The input is copied
// only where that is so.
func withTensor(rows []GPUSample) []GPUSample {
	out, copied := rows, false
	for i := range rows {
		v := &rows[i].Value
		if !math.IsNaN(v[TensorFrac]) || math.IsNaN(v[HMMAFrac]) {
			continue
		}
		if !copied {
			out, copied = slices.Clone(rows), true
		}
		sum := v[HMMAFrac]
		for _, s := range [...]Signal{IMMAFrac, DFMAFrac} {
			if !math.IsNaN(v[s]) {
				sum += v[s]
			}
		}
		out[i].Value[TensorFrac] = math.Min(sum, 1)
	}
	return out
}

// No board draws more, and no part clocks higher: beyond it, a counter leapt.
const (
	maxBoardW   = 5000
	maxClockMHz = 4000
)

// rate returns moments of a counter's increments per second, times unit, over the steps
// that end in the minute; none where the signal itself was seen in the window, where a
// step exceeds most, or where the counter went back.
func rate(rows []GPUSample, first int, availMs *int64, most, unit float64, counter, signal func(*GPUSample) float64) (mean, sd float64, coverMs int64) {
	prev := -1
	var steps []reading
	for i := range rows {
		if !math.IsNaN(signal(&rows[i])) {
			return 0, 0, 0
		}
		v := counter(&rows[i])
		if math.IsNaN(v) {
			continue
		}
		if prev >= 0 && i >= first {
			ms := rows[i].TsMs - rows[prev].TsMs
			d, sec := v-counter(&rows[prev]), float64(ms)/1000
			if d >= 0 && d*unit <= most*sec {
				steps = append(steps, reading{d * unit / sec, min(ms, maxCapMs)})
				*availMs = max(*availMs, rows[i].AvailableMs, rows[prev].AvailableMs)
			}
		}
		prev = i
	}
	return moments(steps)
}

// reduceCounter reads a cumulative counter over the rows of one minute.
func reduceCounter(rows []GPUSample, value func(*GPUSample) float64) Counter {
	var c Counter
	for i := range rows {
		v := value(&rows[i])
		if math.IsNaN(v) {
			continue
		}
		if !c.Has() {
			c.FirstMs, c.First = rows[i].TsMs, v
		} else {
			c.Delta += step(c.Last, v)
		}
		c.LastMs, c.Last = rows[i].TsMs, v
	}
	return c
}

// dedupGPU returns rows with one row a time. The input is copied only where a time
// repeats.
func dedupGPU(rows []GPUSample) []GPUSample {
	dup := false
	for i := 1; i < len(rows) && !dup; i++ {
		dup = rows[i].TsMs == rows[i-1].TsMs
	}
	if !dup {
		return rows
	}
	out := make([]GPUSample, 0, len(rows))
	for i := 0; i < len(rows); {
		j := i + 1
		for j < len(rows) && rows[j].TsMs == rows[i].TsMs {
			j++
		}
		same := slices.Clone(rows[i:j])
		slices.SortStableFunc(same, compareGPU)
		merged := same[0]
		for _, r := range same[1:] {
			if sameValues(&merged, &r) {
				continue // an exact repeat, later: it adds nothing
			}
			merged = overlay(merged, r)
		}
		out = append(out, merged)
		i = j
	}
	return out
}

// compareGPU orders rows by availability, then by their values, so that the outcome
// does not depend on the order of arrival.
func compareGPU(a, b GPUSample) int {
	if a.AvailableMs != b.AvailableMs {
		if a.AvailableMs < b.AvailableMs {
			return -1
		}
		return 1
	}
	for s := range NumSignals {
		if c := compareFloat(a.Value[s], b.Value[s]); c != 0 {
			return c
		}
	}
	if c := compareFloat(a.EnergyJ, b.EnergyJ); c != 0 {
		return c
	}
	return compareFloat(a.MMACycles, b.MMACycles)
}

// compareFloat orders NaN before every number.
func compareFloat(a, b float64) int {
	switch an, bn := math.IsNaN(a), math.IsNaN(b); {
	case an && bn:
		return 0
	case an:
		return -1
	case bn:
		return 1
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func sameValues(a, b *GPUSample) bool {
	for s := range NumSignals {
		if compareFloat(a.Value[s], b.Value[s]) != 0 {
			return false
		}
	}
	return compareFloat(a.EnergyJ, b.EnergyJ) == 0 && compareFloat(a.MMACycles, b.MMACycles) == 0
}

// overlay returns over, with what it lacks taken from under.
func overlay(under, over GPUSample) GPUSample {
	for s := range NumSignals {
		if math.IsNaN(over.Value[s]) {
			over.Value[s] = under.Value[s]
		}
	}
	if math.IsNaN(over.EnergyJ) {
		over.EnergyJ = under.EnergyJ
	}
	if math.IsNaN(over.MMACycles) {
		over.MMACycles = under.MMACycles
	}
	return over
}
