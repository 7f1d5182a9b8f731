package flops

import (
	"math"
	"slices"

	"github.com/flopwatch/flopwatch/detector/run"
)

// Params is what a run's ports say of the model that it trains, if its hosts are replicas that
// exchange gradients: a statement of its own, which enters no estimate. Hosts that are stages of
// a pipeline, or split experts, send something else.
type Params struct {
	StepMs float64 `json:"step_ms"`
	// BytesPerStep leave a host.
	BytesPerStep float64  `json:"bytes_per_step"`
	Params       Interval `json:"params"`
	// TokensPerStep follow from the model FLOPs of a step over 6 a parameter, attention left out.
	TokensPerStep Interval `json:"tokens_per_step"`
}

// gradients is bytes that leave a host in a step over parameters x (N-1)/N, of N hosts: reduced
// in 16 or 32 bits, or sharded with the weights gathered twice.
func gradients() []mode { return []mode{{0.5, 4, 0.1}, {0.3, 6, 0.12}, {0.2, 8, 0.1}} }

// parameters reads them off the back-end ports' bytes and the period at which the run's hosts
// repeat themselves; nil where fewer than two hosts show both, or they do not agree.
func parameters(in Input, members []run.Member, e *Estimate) *Params {
	type port struct{ bytes, ms float64 }
	var periods, rates []float64
	nodes := 0
	for i := 0; i < len(members); {
		k := i
		start, end := members[i].StartMs, members[i].EndMs
		for ; k < len(members) && members[k].Node == members[i].Node; k++ {
			start, end = min(start, members[k].StartMs), max(end, members[k].EndMs)
		}
		nodes++
		var sum port
		var own []float64
		for j := range in.Ev.Host[members[i].Node] {
			c := &in.Ev.Host[members[i].Node][j]
			if c.MinuteMs < start || c.EndMs() > end || c.FabricCoverMs < (c.EndMs()-c.MinuteMs)/2 {
				continue
			}
			sum.bytes += c.FabricTxBytes
			sum.ms += float64(c.EndMs() - c.MinuteMs)
			if r := &c.Rhythm; r.PeriodMs > 0 && !r.Folded && !c.RhythmOfPower && r.Power > 0.3 {
				own = append(own, r.PeriodMs)
			}
		}
		if sum.ms > 10*minuteMs && len(own) >= 5 {
			slices.Sort(own)
			periods, rates = append(periods, own[len(own)/2]), append(rates, sum.bytes/sum.ms)
		}
		i = k
	}
	if nodes < 2 || len(periods) < 2 || 2*len(periods) < nodes || e.Model.Best <= 0 {
		return nil
	}
	slices.Sort(periods)
	slices.Sort(rates)
	step, rate := periods[len(periods)/2], rates[len(rates)/2]
	agree := 0
	for _, p := range periods {
		if math.Abs(p/step-1) < 0.03 {
			agree++
		}
	}
	if 3*agree < 2*len(periods) || rates[len(rates)-1] > 1.5*rates[0] || rate <= 0 { // replicas send alike
		return nil
	}
	out := Params{StepMs: step, BytesPerStep: rate * step}
	whole := out.BytesPerStep * float64(nodes) / float64(nodes-1)
	var of []term
	for _, g := range gradients() {
		of = append(of, term{p: g.p, mean: math.Log(whole / g.factor), sd: g.sd})
	}
	out.Params = Interval{Low: quantile(of, 0.05), Best: quantile(of, 0.5), High: quantile(of, 0.95)}
	// FLOP of a step: of a GPU's millisecond, times its GPUs at work.
	wall := 0.0
	for i := 1; i < len(e.Series); i++ {
		if e.Series[i].ModelFLOP > e.Series[i-1].ModelFLOP {
			wall += float64(e.Series[i].EndMs - e.Series[i-1].EndMs)
		}
	}
	if wall > 0 {
		flop := e.Model.Best / wall * step
		spread := math.Hypot(e.LogSD, math.Log(out.Params.High/out.Params.Low)/(2*z90))
		best := flop / (6 * out.Params.Best)
		out.TokensPerStep = Interval{Low: best * math.Exp(-z90*spread), Best: best, High: best * math.Exp(z90*spread)}
	}
	return &out
}
