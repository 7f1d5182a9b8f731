package threshold

import (
	"math"

	"github.com/flopwatch/flopwatch/detector/flops"
)

const z90 = 1.6448536269514722

// ProbabilityExceeds returns the probability that the quantity is greater than the
// limit, for a quantity whose logarithm is normal on either side of its best value: 0.5
// at the best value, 0.95 at the low and 0.05 at the high end. A lower end of 0 leaves
// the lower side as wide as its middle allows.
func ProbabilityExceeds(est flops.Interval, limit float64) float64 {
	switch {
	case limit <= 0:
		if est.Best > 0 {
			return 1
		}
		return 0
	case !(est.High > 0):
		return 0
	case !(est.Best > 0): // nothing is the best value: the high end is the 95 % point of what remains
		return 0.05 * min(1, est.High/limit)
	}
	if limit >= est.Best {
		if !(est.High > est.Best) {
			return step(est.Best > limit)
		}
		return normalTail(math.Log(limit/est.Best) * z90 / math.Log(est.High/est.Best))
	}
	if est.Low <= 0 { // linear from 1 at nothing to 0.5 at the best value
		return 1 - 0.5*limit/est.Best
	}
	if !(est.Low < est.Best) {
		return 1
	}
	return normalTail(-math.Log(est.Best/limit) * z90 / math.Log(est.Best/est.Low))
}

func step(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func normalTail(z float64) float64 { return 0.5 * math.Erfc(z/math.Sqrt2) }

// StatusAt is what the rule was at a moment of event time: a rule with dates is in force
// between them alone, and one that has been revoked since makes nothing due any more.
// Statuses without dates stay what they are.
func (p *Profile) StatusAt(ms int64) string {
	switch p.Status {
	case InForce, Enacted:
	default:
		return p.Status
	}
	from, fromErr := dateMs(p.ValidFrom)
	to, toErr := dateMs(p.ValidTo)
	switch {
	case fromErr != nil || toErr != nil || ms < from:
		return NotYetInForce
	case p.ValidTo != "" && ms >= to:
		return NoLongerInForce
	}
	return InForce
}

// Exceeded is the value that the quantity is greater than with a probability: the inverse of
// ProbabilityExceeds. Of an interval without a best value it is 0.
func Exceeded(est flops.Interval, probability float64) float64 {
	switch {
	case !(est.Best > 0) || probability >= 1:
		return 0
	case probability <= 0:
		return math.Inf(1)
	case probability <= 0.5:
		if !(est.High > est.Best) {
			return est.Best
		}
		return est.Best * math.Exp(quantile(1-probability)*math.Log(est.High/est.Best)/z90)
	case est.Low <= 0:
		return est.Best * 2 * (1 - probability)
	case !(est.Low < est.Best):
		return est.Best
	}
	return est.Best * math.Exp(-quantile(probability)*math.Log(est.Best/est.Low)/z90)
}

// quantile of the standard normal distribution.
func quantile(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }
