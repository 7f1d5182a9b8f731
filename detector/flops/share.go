package flops

import (
	"cmp"
	"math"
	"slices"
)

// Shared is the part of an estimate that is one activity's where others share its GPUs, from a
// share's low end, best value and high end (workload.Verdict.Share). All noughts: all of it.
func (e Estimate) Shared(share [3]float64) Estimate {
	low, best, high := share[0], share[1], share[2]
	if best <= 0 && high <= 0 || low >= 1 {
		return e
	}
	high = min(max(high, best), 1)
	best = min(max(best, 0), high)
	low = min(max(low, 0), best)
	if best == 0 { // a bound alone
		e.Executed, e.Model = Interval{High: high * e.Executed.High}, Interval{High: high * e.Model.High}
	} else {
		e.Executed, e.Model = e.Executed.shared(low, best, high), e.Model.shared(low, best, high)
	}
	e.Series = slices.Clone(e.Series)
	for i := range e.Series {
		e.Series[i].ExecutedFLOP *= best
		e.Series[i].ModelFLOP *= best
	}
	if n := len(e.Series); n > 0 {
		e.Series[n-1].ExecutedFLOP, e.Series[n-1].ModelFLOP = e.Executed.Best, e.Model.Best
	}
	was := e.LogSD
	e.ExecutedLogSD, e.LogSD = e.Executed.logSD(), e.Model.logSD()
	if added := sq(e.LogSD) - sq(was); added > sq(0.002) {
		t := Term{Name: TermShare, LogSD: math.Sqrt(added), HalfWidth: (high - low) / 2 / max(best, 0.01), Narrow: (&balance{}).narrow(TermShare, parts{}, nil, gap{}, doubt{})}
		e.Terms = append(slices.Clone(e.Terms), t)
		slices.SortStableFunc(e.Terms, func(x, y Term) int { return cmp.Compare(y.LogSD, x.LogSD) })
	}
	return e
}

// shared multiplies by a share; distances of the two add in squares, in log space.
func (i Interval) shared(low, best, high float64) Interval {
	if i.Best <= 0 {
		return Interval{High: high * i.High}
	}
	out := Interval{Best: best * i.Best}
	out.High = out.Best * math.Exp(math.Hypot(math.Log(high/best), math.Log(max(i.High/i.Best, 1))))
	if low > 0 && i.Low > 0 {
		out.Low = out.Best * math.Exp(-math.Hypot(math.Log(best/low), math.Log(i.Best/i.Low)))
	}
	return out
}
