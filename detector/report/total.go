package report

import (
	"math"

	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/threshold"
)

const z90 = 1.6448536269514722

// shared are the terms of an interval that are off in one direction for all runs: how counters
// relate to operations, what a busy cycle does, what is recomputed. The others are each run's own.
var shared = map[string]bool{
	flops.TermCounter: true, flops.TermClock: true, flops.TermDtype: true, flops.TermRecompute: true, flops.TermTile: true, flops.TermPart: true,
}

// sharedFrac is the share of a variance that is common to all runs; all of it where the terms are
// not told, which makes the widest total.
func sharedFrac(terms []flops.Term) float64 {
	var common, all float64
	for _, t := range terms {
		all += t.LogSD * t.LogSD
		if shared[t.Name] {
			common += t.LogSD * t.LogSD
		}
	}
	if all <= 0 {
		return 1
	}
	return common / all
}

// part is one run's share of a total.
type part struct {
	est   flops.Interval
	terms []flops.Term
}

// sum adds up intervals: best values as they are, what is unknown about all of them in full, and
// what is unknown about each by squares.
func sum(parts []part) flops.Interval {
	var best, lowBest float64
	var up, down struct{ shared, own float64 }
	bounded := true
	for _, p := range parts {
		best += p.est.Best
		if !(p.est.Best > 0) {
			up.own += p.est.High * p.est.High / (z90 * z90)
			continue
		}
		f := sharedFrac(p.terms)
		hi := p.est.Best * math.Log(max(p.est.High/p.est.Best, 1)) / z90
		up.shared += hi * math.Sqrt(f)
		up.own += hi * hi * (1 - f)
		if p.est.Low <= 0 {
			bounded = false
			continue
		}
		lowBest += p.est.Best
		lo := p.est.Best * math.Log(max(p.est.Best/p.est.Low, 1)) / z90
		down.shared += lo * math.Sqrt(f)
		down.own += lo * lo * (1 - f)
	}
	out := flops.Interval{Best: best, High: best, Low: best}
	if best > 0 {
		out.High = best * math.Exp(z90*math.Hypot(up.shared, math.Sqrt(up.own))/best)
	} else {
		out.High = z90 * math.Sqrt(up.own)
	}
	if lowBest > 0 {
		out.Low = lowBest * math.Exp(-z90*math.Hypot(down.shared, math.Sqrt(down.own))/lowBest)
	} else if !bounded {
		out.Low = 0
	}
	return out
}

// mixture is the interval of what is one value with a probability, and another otherwise.
func mixture(one, other flops.Interval, weight float64) flops.Interval {
	switch {
	case weight <= 0:
		return other
	case weight >= 1:
		return one
	}
	exceeds := func(x float64) float64 {
		return weight*threshold.ProbabilityExceeds(one, x) + (1-weight)*threshold.ProbabilityExceeds(other, x)
	}
	at := func(p float64) float64 {
		low, high := 0.0, max(one.High, other.High, one.Best, other.Best)*4
		for range 200 {
			mid := low + (high-low)/2
			if mid <= low || mid >= high {
				break
			}
			if exceeds(mid) > p {
				low = mid
			} else {
				high = mid
			}
		}
		return high
	}
	return flops.Interval{Low: at(0.95), Best: at(0.5), High: at(0.05)}
}
