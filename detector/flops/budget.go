package flops

import (
	"cmp"
	"math"
	"slices"
)

// budget says what the width of the interval of model FLOPs is made of. Sources are taken as
// independent; their variances are scaled so that they add up to that of the interval, which
// for a mixture is no exact sum.
func (b *balance) budget(q parts, total *Minute, g gap, d doubt, without float64, model Interval) []Term {
	all := q.sum() + g.allocation
	if all <= 0 || model.Best <= 0 {
		return nil
	}
	share := func(x float64) float64 { return x / all }
	counted := share(q.hmma + q.fixed)
	vars := map[string]float64{}
	vars[TermClock] = sq(counted * b.clockSD)
	vars[TermTile] = sq(counted * b.tileSD)
	watts := share(q.watt)*b.wattSD + share(q.node)*b.nodeSD + share(q.util)*b.utilSD
	vars[TermCounter] = sq(counted*b.counterSD) + sq(share(q.vector)*b.vectorSD) + sq(watts) +
		sq(share(g.allocation)*b.p.allocSD)
	if total.GPUSample > 0 {
		vars[TermCounter] += sq(sampleSD) / total.GPUSample
	}
	if d.p > 0 { // two answers
		vars[TermCounter] += d.p * (1 - d.p) * sq(math.Log(d.flop/math.Max(q.sum(), 1e-9*d.flop)))
	}
	if total.PeakFLOP > 0 {
		vars[TermPart] = sq(total.SpreadFLOP / total.PeakFLOP)
	}
	types := b.types(q, g.allocation)
	vars[TermDtype] = b.known(func(c *balance) { c.dtype, c.wattDtype = likeliest(b.dtype), likeliest(b.wattDtype) }, q, g, total)
	vars[TermRecompute] = sq(excludedSD) + b.known(func(c *balance) {
		p := *b.p
		p.recompute = likeliest(b.p.recompute)
		c.p = &p
	}, q, g, total)
	full := model.logSD()
	vars[TermGaps] = math.Max(sq(full)-sq(without), 0)

	sum := 0.0
	for _, name := range termNames {
		sum += vars[name]
	}
	if sum <= 0 {
		return nil
	}
	var out []Term
	for _, name := range termNames {
		v := vars[name] * sq(full) / sum
		if v < sq(0.002) {
			continue
		}
		t := Term{Name: name, LogSD: math.Sqrt(v), Narrow: b.narrow(name, q, total, g, d)}
		switch {
		case name == TermDtype && counted+watts > 0:
			t.HalfWidth = halfWidth(types, quantile(types, 0.5))
		case name == TermRecompute && len(b.p.recompute) > 1:
			t.HalfWidth = halfWidth(inverse(terms(b.p.recompute)), math.Exp(-b.p.meanLogRecompute()))
		case name == TermGaps:
			t.HalfWidth = (g.high - g.low) / 2 / (all + g.best - g.allocation)
		default:
			t.HalfWidth = math.Sinh(z90 * math.Sqrt(vars[name]))
		}
		out = append(out, t)
	}
	slices.SortStableFunc(out, func(x, y Term) int { return cmp.Compare(y.LogSD, x.LogSD) })
	return out
}

var termNames = [...]string{TermCounter, TermClock, TermDtype, TermRecompute, TermTile, TermGaps, TermPart, TermShare}

// known is by how much the square of the spread falls if one mixture is resolved.
func (b *balance) known(resolve func(*balance), q parts, g gap, total *Minute) float64 {
	spread := func(b *balance) float64 {
		t := b.terms(q, g.allocation, total, b.p.recompute)
		return sq(math.Log(quantile(t, 0.95)/quantile(t, 0.05)) / (2 * z90))
	}
	c := *b
	resolve(&c)
	return math.Max(spread(b)-spread(&c), 0)
}

// likeliest keeps the probable possibility of a mixture alone.
func likeliest(modes []mode) []mode {
	best := 0
	for i, m := range modes {
		if m.p > modes[best].p {
			best = i
		}
	}
	out := slices.Clone(modes)
	for i := range out {
		if i != best {
			out[i].p = 0
		}
	}
	return out
}

// types is the mixture of the data types alone.
func (b *balance) types(q parts, allocation float64) []term {
	out := make([]term, 0, len(b.dtype))
	for i, d := range b.dtype {
		w := b.wattDtype[i]
		counted, watted := q.hmma*d.factor, (q.watt+q.node+q.util)*w.factor
		rest := q.fixed + q.vector + allocation
		p := d.p
		if counted+q.fixed+q.vector <= 0 {
			p = w.p
		}
		if all := counted + watted + rest; all > 0 {
			out = append(out, term{p: p, mean: math.Log(all), sd: (counted*d.sd + watted*w.sd) / all})
		}
	}
	return out
}

func terms(modes []mode) []term {
	out := make([]term, len(modes))
	for i, m := range modes {
		out[i] = term{p: m.p, mean: math.Log(m.factor), sd: m.sd}
	}
	return out
}

func inverse(of []term) []term {
	for i := range of {
		of[i].mean = -of[i].mean
	}
	return of
}

func halfWidth(of []term, best float64) float64 {
	if best <= 0 {
		return 0
	}
	return (quantile(of, 0.95) - quantile(of, 0.05)) / 2 / best
}

// narrow names the signal that would narrow a term most.
func (b *balance) narrow(name string, q parts, total *Minute, g gap, d doubt) string {
	all := q.sum() + g.allocation
	switch name {
	case TermCounter:
		switch {
		case d.p > 0.02:
			return "why the GPUs draw more than their counters say: the counters as the driver gives them on the host, beside the host's own power meter"
		case g.allocation > 0.3*all:
			return "any telemetry of the GPUs: nothing but their hours is known"
		case b.unseen:
			return "the activity of the FP32 pipes: the tensor pipes rest while the GPUs work"
		case q.util > 0.3*all:
			return "watts or the energy counter of the GPUs, better the activity of their tensor pipes (NVML GPM, or DCGM's profiling fields)"
		case q.node > 0.3*all:
			return "telemetry of the GPUs themselves: the host's watts are shared among them by guess"
		case q.watt > 0.3*all:
			return "the activity of the tensor pipes (NVML GPM, or DCGM's profiling fields): watts hardly tell what they are spent on"
		case total.PreGPM > 0.3*total.HMMA:
			return "a matrix product of known size on such a GPU, to calibrate its tensor activity"
		case b.pipes:
			return "the share of fused multiply-adds among the instructions, from a profile of one step"
		}
		return "cumulative tensor cycles beside a matrix product of known size, to calibrate the part"
	case TermClock:
		if total.NoClock > 0.3*total.HMMA {
			return "the SM clock beside the tensor activity"
		}
		if total.CyclesMs < 0.5*total.CyclesMs+0.5*total.ActivityMs {
			return "cumulative tensor cycles in place of activity and clock"
		}
		return ""
	case TermDtype:
		if q.hmma <= 0 {
			return "the activity of the tensor pipes: without it the level says nothing about the data type"
		}
		return "the data type that the job states, or that of its matrix products (cuBLASLt's descriptors, a profile of one step)"
	case TermRecompute:
		return "whether the training recomputes activations: its configuration, or a profile of one step"
	case TermTile:
		if b.p.decode {
			return "bytes that the GPU's memory moved, and the batch sizes of the serving software"
		}
		return "kernel shapes, from a profile of one step"
	case TermGaps:
		return "the telemetry that is missing: counters that ran on close such a gap when the agent is back"
	case TermPart:
		return "what the GPUs are: the name, SMs and clocks that their driver states"
	case TermShare:
		return "utilisation by process, or GPU instances of their own for each activity"
	}
	return ""
}
