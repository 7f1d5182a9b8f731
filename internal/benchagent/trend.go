package main

import (
	"math"
	"slices"
)

// slope is the median of the slopes between all pairs of points (Theil and Sen): up to a
// quarter of the points may lie anywhere, as those behind an injected fault do, and it
// still tells how fast the rest grow. x ascends.
func slope(x, y []float64) float64 {
	var all []float64
	for i := range x {
		for j := i + 1; j < len(x); j++ {
			if dx := x[j] - x[i]; dx > 0 {
				all = append(all, (y[j]-y[i])/dx)
			}
		}
	}
	return median(all)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Clone(v)
	slices.Sort(v)
	m := len(v) / 2
	if len(v)%2 == 1 {
		return v[m]
	}
	return (v[m-1] + v[m]) / 2
}

func mean(v []float64) float64 {
	var sum float64
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// bound says what counts as flat: over the whole soak a line through the values may rise
// by a share of their mean, or by an absolute amount, whichever is more.
type bound struct{ share, amount float64 }

// flat reports whether y rises by less than the bound from the first x to the last, and by
// how much a line through it rises.
func (b bound) flat(x, y []float64) (rise, allowed float64, ok bool) {
	rise = slope(x, y) * (x[len(x)-1] - x[0])
	allowed = max(b.amount, b.share*mean(y))
	return rise, allowed, rise <= allowed // NaN is not flat
}
