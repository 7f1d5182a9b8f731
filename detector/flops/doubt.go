package flops

import "math"

// Counters and watts are read by different instruments. Where they disagree by more than
// trainings do, the counters may have been scaled, and the interval has to reach what the
// watts say: with the weight that the disagreement gives it, so that there is no step.
//
// Two ratios are asked. Watts over active SMs, both as fractions of their range, hardly
// depend on what runs: 0.9 to 1.4 in eight of nine published conditions of an H100 (DDP, FSDP,
// TP+PP, MoE, speculative decoding, cover traffic), 2 in the one that nearly idled. Watts over
// tensor work are 1.1 to 3.9 pJ a FLOP, so this ratio tells only what is far off.
const (
	drawnPerSM   = 0.19 // ln of the middle
	drawnPerSMSD = 0.28
	cappedSMSD   = 0.40 // boards that a small limit holds at full power whatever they do
	drawnSD      = 0.50
	scaledPrior  = 0.01
	scaledSpan   = 2.6 // a scaling is anything from ln 0.4 to 3
	scaledLeast  = 0.4
	mayBeForged  = 0.3 // most weight where the SMs were not measured
)

// doubt is what the watts say the GPUs did, and the probability that it holds in place of
// what the counters say.
type doubt struct{ p, flop, sd float64 }

func (b *balance) doubt(q parts, total *Minute) doubt {
	if !b.p.steep || total.CheckPeak <= 0 || total.TensorPeak <= 0 {
		return doubt{}
	}
	counted := (q.hmma + q.fixed + q.vector) / total.TensorPeak
	drawn := b.watt * total.CheckHigh / total.CheckPeak
	if drawn < 0.05 || counted >= drawn {
		return doubt{}
	}
	odds, sd := math.Log(scaledPrior), b.wattSD
	byWork := scaledOdds(math.Log(drawn/max(counted, 1e-6*drawn)), drawnSD)
	most := 1.0
	if total.ActiveSM > 0.005*total.CheckPeak && total.DrawnSM > 0.25*total.CheckPeak {
		spread := drawnPerSMSD
		if total.SmallPeak > 0.5*total.PeakFLOP {
			spread = cappedSMSD
		}
		excess := math.Log(total.DrawnSM/total.ActiveSM) - drawnPerSM
		odds += scaledOdds(excess, spread) + 0.5*byWork
		if excess > 0 && counted > 0 { // what was counted, scaled back: the second answer beside the watts'
			a, c := 1/sq(b.wattSD), 1/(sq(spread)+sq(b.tensorSD))
			drawn = math.Exp((a*math.Log(drawn) + c*(math.Log(counted)+excess)) / (a + c))
			sd = math.Max(math.Sqrt(1/(a+c)), 0.25)
		}
	} else {
		odds += byWork
		most = mayBeForged
	}
	p := most / (1 + math.Exp(-odds))
	if p < 0.005 {
		return doubt{}
	}
	if b.unseen { // the watts of the tensor tiers' own time, that is
		q.watt = 0
	}
	return doubt{p: p, flop: drawn*total.TensorPeak + q.watt + q.node + q.util, sd: sd}
}

// scaledOdds is the logarithm of how much likelier an excess is if the counters were scaled
// down than if they were not. It is not let fall far below nought: trainings that look
// honest are no proof.
func scaledOdds(excess, sd float64) float64 {
	excess = min(excess, scaledLeast+scaledSpan-2*sd) // forged to nothing
	z := excess / sd
	honest := math.Exp(-z*z/2)/(sd*math.Sqrt(2*math.Pi)) + 1e-4
	scaled := (normalCDF((excess-scaledLeast)/sd) - normalCDF((excess-scaledLeast-scaledSpan)/sd)) / scaledSpan
	return max(math.Log(max(scaled, 1e-9)/honest), -3)
}

// believe gives the doubt its weight beside what was counted.
func believe(counted []term, d doubt, ratio float64) []term {
	if d.p <= 0 {
		return counted
	}
	sum := 0.0
	for _, t := range counted {
		sum += t.p
	}
	return append(counted, term{p: sum * d.p / (1 - min(d.p, 0.999)), mean: math.Log(d.flop / ratio), sd: d.sd})
}
