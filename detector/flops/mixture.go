package flops

import "math"

// z90 is the number of standard deviations from the middle to either end of a 90 %
// interval.
const z90 = 1.6448536269514722

// term is one component of a mixture: with probability p the logarithm is normal.
type term struct{ p, mean, sd float64 }

// normalCDF is the standard normal distribution function.
func normalCDF(z float64) float64 { return 0.5 * math.Erfc(-z/math.Sqrt2) }

// quantile returns the q quantile of a mixture of log-normals, as a plain number. The
// probabilities need not add up to one. No terms give 0.
func quantile(terms []term, q float64) float64 {
	lo, hi, total := math.Inf(1), math.Inf(-1), 0.0
	for _, t := range terms {
		lo, hi = min(lo, t.mean-9*t.sd), max(hi, t.mean+9*t.sd)
		total += t.p
	}
	if total <= 0 || math.IsInf(lo, 0) || math.IsInf(hi, 0) {
		return 0
	}
	for range 60 {
		mid := (lo + hi) / 2
		below := 0.0
		for _, t := range terms {
			if t.sd > 0 {
				below += t.p * normalCDF((mid-t.mean)/t.sd)
			} else if mid >= t.mean {
				below += t.p
			}
		}
		if below < q*total {
			lo = mid
		} else {
			hi = mid
		}
	}
	return math.Exp((lo + hi) / 2)
}
