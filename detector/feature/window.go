package feature

import (
	"math"
	"slices"
)

// WindowMs is how far before its minute a cell looks for predecessors, in milliseconds.
const WindowMs = 10 * MinuteMs

const (
	minCapMs = 90_000
	maxCapMs = 600_000
)

// MinuteOf returns the start of the minute that holds tsMs, also before 1970.
func MinuteOf(tsMs int64) int64 {
	m := tsMs % MinuteMs
	if m < 0 {
		m += MinuteMs
	}
	return tsMs - m
}

// DirtyMinutes returns the first and the last minute (both starts, inclusive) whose
// cells a row in the given minute can change.
func DirtyMinutes(minute int64) (from, to int64) {
	m := MinuteOf(minute)
	return m, m + WindowMs
}

// capMs bounds the weight of one row from the intervals of its signal in the window.
// It sorts intervals.
func capMs(intervals []int64) int64 {
	if len(intervals) == 0 {
		return minCapMs
	}
	slices.Sort(intervals)
	n := len(intervals)
	median := intervals[n/2]
	if n%2 == 0 {
		median = (intervals[n/2-1] + intervals[n/2]) / 2
	}
	return min(max(5*median, minCapMs), maxCapMs)
}

// reading is one measured value with the time that it describes.
type reading struct {
	value    float64
	weightMs int64
}

// series reads one signal of a window: at gives time, value (NaN: not measured) and
// availability of row i of n; rows are sorted by time, without repeats. Rows from index
// first on lie in the minute. It appends the readings of the minute to dst and returns
// the latest availability of a row that took part.
func series(dst []reading, n, first int, minuteMs int64, at func(i int) (tsMs int64, v float64, availMs int64)) ([]reading, int64) {
	base := len(dst)
	prevTs, havePrev, avail := int64(0), false, int64(math.MinInt64)
	for i := first - 1; i >= 0; i-- {
		ts, v, a := at(i)
		if !math.IsNaN(v) {
			prevTs, havePrev, avail = ts, true, a
			break
		}
	}
	lone, loneTs := -1, int64(0)
	long := false
	for i := first; i < n; i++ {
		ts, v, a := at(i)
		if math.IsNaN(v) {
			continue
		}
		w := int64(0)
		if havePrev {
			w = ts - prevTs
			long = long || w > minCapMs
		} else {
			lone, loneTs = len(dst), ts
		}
		dst = append(dst, reading{v, w})
		prevTs, havePrev = ts, true
		avail = max(avail, a)
	}
	if len(dst) == base {
		return dst, math.MinInt64
	}
	if lone >= 0 && len(dst) == base+1 {
		dst[lone].weightMs = max(loneTs-minuteMs, 1)
	}
	if long { // the cap matters only for intervals above its least value
		limit := windowCap(n, at)
		for i := base; i < len(dst); i++ {
			dst[i].weightMs = min(dst[i].weightMs, limit)
		}
	}
	return dst, avail
}

// windowCap returns the cap for a signal from all its intervals in the window.
func windowCap(n int, at func(i int) (int64, float64, int64)) int64 {
	intervals := make([]int64, 0, n)
	prevTs, havePrev := int64(0), false
	for i := range n {
		ts, v, _ := at(i)
		if math.IsNaN(v) {
			continue
		}
		if havePrev {
			intervals = append(intervals, ts-prevTs)
		}
		prevTs, havePrev = ts, true
	}
	return capMs(intervals)
}

// moments returns the time-weighted mean, standard deviation and covered time.
func moments(rs []reading) (mean, sd float64, coverMs int64) {
	for _, r := range rs {
		mean += r.value * float64(r.weightMs)
		coverMs += r.weightMs
	}
	if coverMs == 0 {
		return 0, 0, 0
	}
	mean /= float64(coverMs)
	if len(rs) > 1 {
		variance := 0.0
		for _, r := range rs {
			d := r.value - mean
			variance += d * d * float64(r.weightMs)
		}
		sd = math.Sqrt(variance / float64(coverMs))
	}
	return mean, sd, coverMs
}

// step returns the increment of a cumulative counter; after a reset the new value is it.
func step(prev, next float64) float64 {
	if next < prev {
		return next
	}
	return next - prev
}
