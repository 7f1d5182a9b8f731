package flops

import (
	"math"
	"slices"
)

// Spreads of logarithms that hold for all GPUs of a run alike.
const (
	counterSD   = 0.025 // tensor counters against executed FLOPs of GEMMs
	clockSD     = 0.015 // mean of products over a sample's time
	attentionSD = 0.03  // masked blocks, and kernels that do less in a busy cycle
	noClockSD   = 0.08  // clock assumed
	preGPMSD    = 0.08  // activity of Volta to Ada, calibrated part by part
	vectorSD    = 0.11  // share of fused multiply-adds among the pipe's instructions
	vectorMean  = 0.92
	nodeWattSD  = 0.20 // sharing a node's watts among its GPUs, in addition
	excludedSD  = 0.01 // start-up before step one and evaluation, about a per cent
	excluded    = 1.01
	sampleSD    = 0.15 // one GPU-minute against the next
)

// Of estimates what the members of a class did.
func Of(in Input) Estimate {
	out := Measure(in).Estimate(in.Class).Shared(in.Share)
	members := clip(in)
	if p := priorOf(in.Class); p.steep && in.Share == ([3]float64{}) {
		out.Params = parameters(in, members, &out)
	}
	by, share := lost(in.Ev, members)
	if out.Lost = by; share > 0 {
		out.CoverageFrac = min(out.CoverageFrac, 1-share)
	}
	return out
}

// Estimate turns what was seen into FLOPs for a class.
func (w *Work) Estimate(class string) Estimate {
	p := priorOf(class)
	w.scale(&p)
	var total Minute
	for i := range w.Minutes {
		total.add(&w.Minutes[i])
	}
	if p.alloc == 0 && total.PeakFLOP > 0 { // hours as published trainings used them
		p.allocSD *= total.PriorSDFLOP / total.PeakFLOP
	}
	b := newBalance(&total, &p)
	fill := w.fill(b, &p)
	return w.assemble(b, &p, &total, fill)
}

// balance holds the factors that turn sums of signals into median executed FLOP, and
// the spreads of each.
type balance struct {
	p                                                *prior
	tensor, vector, watt, node, util                 float64
	tensorSD, vectorSD, wattSD, nodeSD, utilSD, tile float64
	counterSD, clockSD, tileSD                       float64 // of tensorSD
	high                                             float64 // 1: the steep sum of watts, 0: the plain one
	pipes                                            bool    // the vector pipes count
	unseen                                           bool    // what ran on the vector pipes was not measured, and nothing else ran
	dtype                                            []mode  // of HMMA
	wattDtype                                        []mode  // of the tiers without tensor counters
}

func newBalance(total *Minute, p *prior) *balance {
	tile, tileSD := p.tile, p.tileSD
	if p.decode {
		tile, tileSD = decodeTile(total, p)
	}
	hmma := max(total.HMMA, 1)
	b := &balance{
		p: p, tensor: 1 / tile, tile: tile, vector: vectorMean,
		watt: p.watt, node: p.watt, util: p.util, vectorSD: vectorSD,
	}
	b.clockSD = math.Hypot(clockSD, noClockSD*min(1, total.NoClock/hmma)) // shares: other pipes count too
	b.counterSD = math.Sqrt(sq(counterSD) + sq(attentionSD) + sq(preGPMSD*min(1, total.PreGPM/hmma)))
	b.tileSD = tileSD
	b.tensorSD = math.Sqrt(sq(b.counterSD) + sq(b.clockSD) + sq(tileSD))
	// Training in plain FP32 runs on the vector pipes and counts like any other. Beside
	// tensor work they only do element-wise operations, a per cent or two.
	vector := vectorMean * (total.FP64 + total.FP32 + total.FP16)
	b.pipes = p.vector || vector > 0.25*(total.HMMA+total.IMMA+total.DFMA)*b.tensor
	b.wattSD, b.utilSD = p.wattSD, p.utilSD
	b.nodeSD = math.Hypot(p.wattSD, nodeWattSD)
	if p.steep {
		b.high = 1
	}
	fp8, fp4, plain := 0.0, 0.0, 0.0
	if total.PeakFLOP > 0 {
		fp8, fp4, plain = total.FP8Peak/total.PeakFLOP, total.FP4Peak/total.PeakFLOP, total.NoTF32Peak/total.PeakFLOP
	}
	if total.HMMA > 0 {
		fp8, fp4 = total.HMMAFP8/total.HMMA, total.HMMAFP4/total.HMMA
	}
	modern := p.dtype
	if p.steep && fp4 > 0 { // a training
		modern = blend(sized(newDtype(), p.gpus), p.dtype, fp4)
	}
	b.dtype = slices.Clone(blend(modern, p.dtypeOld, fp8))
	if p.model && !p.decode {
		b.dtype = narrowed(b.dtype, total)
	}
	// Watts see the type weakly: at the same watts an H100 does 1.77 times the operations in
	// FP8 products (794 and 1403 TFLOP/s, measured), of which a training is a half; a TF32
	// operation costs two.
	b.wattDtype = make([]mode, len(b.dtype))
	for i, m := range blend(modern, p.dtypeOld, fp8) {
		switch {
		case m.factor > 1:
			m.factor = 1 + 0.85*(m.factor-1)
		case m.factor < 1:
			m.factor = 0.55
		}
		b.wattDtype[i] = m
	}
	if b.unseen = p.steep && total.pipesUnseen(); b.unseen {
		b.wattSD = unseenSD
		for i := range b.wattDtype {
			b.wattDtype[i].factor, b.wattDtype[i].sd = 1, 0
		}
	}
	if p.steep && plain > 0 && !b.unseen { // no TF32 there
		for i := range b.dtype {
			if b.dtype[i].factor < 1 {
				b.dtype[i].p *= 1 - plain
				b.wattDtype[i].p *= 1 - plain
			}
		}
		// Before TF32, a training in FP32 ran on the vector pipes: at the same watts an
		// eighth to a half of the 16-bit rate. Where the pipes are measured it shows.
		q := plainFP32 * plain
		for i := range b.wattDtype {
			b.wattDtype[i].p *= 1 - q
		}
		b.dtype = append(slices.Clone(b.dtype), mode{0, 0.2, 0})
		b.wattDtype = append(b.wattDtype, mode{q, 0.2, 0})
	}
	return b
}

// plainFP32 is the share of trainings in plain FP32 on parts without TF32: half precision
// had to be asked for there, by code of its own.
const plainFP32 = 0.2

// A training in plain FP32 whose vector pipes nobody measures leaves its tensor pipes at nought,
// which is not nought FLOPs: matrix products get about half of the FP32 peak at full power, and
// what is no product draws as much.
const (
	unseenWatt = 0.4
	unseenSD   = 0.6
)

// pipesUnseen reports that tensor pipes were seen to rest, and vector pipes not looked at.
func (m *Minute) pipesUnseen() bool {
	return m.TensorPeak > 0 && m.HMMA+m.IMMA+m.DFMA < 0.002*m.TensorPeak && m.PipeMs < 0.1*(m.CyclesMs+m.ActivityMs)
}

func sq(x float64) float64 { return x * x }

// decodeTile returns tensor cycles over useful ones, from the arithmetic intensity. A
// kernel that streams weights for few tokens pads them to the tile (8 to 64 rows), so it
// does up to tile/batch more than was asked; at hundreds of FLOP a byte, prefill or large
// batches, nothing but the usual edges is wasted.
func decodeTile(total *Minute, p *prior) (tile, sd float64) {
	if total.DRAMBytes <= 0 || total.HMMA+total.IMMA <= 0 {
		return 1.3 * p.tile / 1.05, 0.3
	}
	intensity := (total.HMMA + total.IMMA) / total.DRAMBytes
	waste := 0.8 / (1 + intensity/50)
	if p.model && len(p.recompute) > 1 { // only part of the work decodes
		waste /= 2
	}
	return p.tile * math.Exp(waste), math.Hypot(p.tileSD, 0.65*waste)
}

// blend mixes the data types of new and old parts by their share of the work.
func blend(with, without []mode, share float64) []mode {
	if share >= 0.999 {
		return with
	}
	out := make([]mode, len(with))
	for i, m := range with {
		q := 0.0
		for _, o := range without {
			if o.factor == m.factor {
				q = o.p
			}
		}
		m.p = m.p*share + q*(1-share)
		out[i] = m
	}
	return out
}

// parts is executed FLOP of one minute or one run by what it rests on, data type aside.
type parts struct{ hmma, fixed, vector, watt, node, util float64 }

func (b *balance) parts(m *Minute) parts {
	if b.p.none {
		return parts{}
	}
	q := parts{
		hmma: m.HMMA * b.tensor, fixed: (m.IMMA + m.DFMA) * b.tensor,
		watt: b.watt * pick(b.high, m.Watt, m.WattHigh), node: b.node * pick(b.high, m.Node, m.NodeHigh), util: b.util * m.Util,
	}
	if b.pipes {
		q.vector = b.vector * (m.FP64 + m.FP32 + m.FP16)
	}
	if b.unseen {
		q.watt += unseenWatt * m.VectorWatt
	}
	if b.p.vector { // watts stand in for pipes that were not measured, not for tensor cores
		q.watt, q.node, q.util = b.watt*m.VectorWatt, 0, 0
	}
	return q
}

func pick(high, plain, steep float64) float64 { return plain + high*(steep-plain) }

func (q parts) sum() float64 { return q.hmma + q.fixed + q.vector + q.watt + q.node + q.util }

// gap is what is believed of time without a signal.
type gap struct {
	best, low, high float64
	minutes         []float64 // best of each minute
	allocation      float64   // part of best that rests on the allocation prior
	allocMs         float64
}

const (
	neighbourMinutes = 60  // a stretch without signals as long as this keeps the rate of its neighbours
	runningProb      = 0.9 // that work went on between them
	peerSpread       = 0.35
)

// fill answers for time without a signal.
func (w *Work) fill(b *balance, p *prior) gap {
	n := len(w.Minutes)
	g := gap{minutes: make([]float64, n)}
	level := make([]float64, n) // share of the peak that was executed, -1: nothing seen
	for i := range w.Minutes {
		level[i] = -1
		if seen := w.Minutes[i].coveredPeak(); seen > 0.02*w.Minutes[i].PeakFLOP {
			level[i] = b.parts(&w.Minutes[i]).sum() / seen
		}
	}
	before, after := make([]int, n), make([]int, n) // nearest minutes with a level
	for i, last := 0, -1; i < n; i++ {
		if level[i] >= 0 {
			last = i
		}
		before[i] = last
	}
	for i, next := n-1, -1; i >= 0; i-- {
		if level[i] >= 0 {
			next = i
		}
		after[i] = next
	}
	for i := range w.Minutes {
		m := &w.Minutes[i]
		missing := m.PeakFLOP - m.coveredPeak()
		if missing <= 1e-6*m.PeakFLOP || p.none || p.still {
			continue
		}
		var best float64
		low, high := 0.0, missing
		near := func(j int) bool { return j >= 0 && abs(j-i) <= neighbourMinutes }
		switch {
		case level[i] >= 0: // the run's other GPUs in the same minute
			best = missing * level[i]
			low, high = best*(1-peerSpread), best*(1+peerSpread)
		case near(before[i]) && near(after[i]):
			best = missing * runningProb * (level[before[i]] + level[after[i]]) / 2
		case near(before[i]):
			best = missing * runningProb * level[before[i]]
		case near(after[i]):
			best = missing * runningProb * level[after[i]]
		default:
			best = missing * p.allocation(m)
			low, high = best, best // its spread is the prior's
			g.allocation += best
			g.allocMs += m.GPUMs - m.coveredMs()
		}
		g.minutes[i] = best
		g.best += best
		g.low += low
		g.high += max(high, best)
	}
	return g
}

func abs(x int) int {
	if x < 0 {
		return -x
	}
	return x
}

// allocation returns the share of the peak that the bare hours let one expect, on the
// executed basis.
func (p *prior) allocation(m *Minute) float64 {
	if p.alloc > 0 || m.PeakFLOP <= 0 {
		return p.alloc
	}
	return m.PriorFLOP / m.PeakFLOP * p.toModel()
}

// toModel returns executed over model FLOPs at the middle: the geometric mean of the
// possibilities, which errs least on either side of a mixture of two.
func (p *prior) toModel() float64 {
	if len(p.recompute) == 1 {
		return 1 // work that is not training: all of it counts
	}
	return math.Exp(p.meanLogRecompute()) * excluded
}

func (p *prior) meanLogRecompute() float64 {
	mean := 0.0
	for _, m := range p.recompute {
		mean += m.p * math.Log(m.factor)
	}
	return mean
}

// assemble composes the intervals.
func (w *Work) assemble(b *balance, p *prior, total *Minute, g gap) Estimate {
	out := Estimate{CoverageFrac: coverage(total), Basis: basis(total, p, g)}
	q := b.parts(total)
	seen := q.sum()
	if seen <= 0 && g.best <= 0 && g.high <= 0 {
		if p.none && w.vectorSeen(total) > 0 {
			out.Executed.High = w.vectorSeen(total)
		}
		out.Series = w.zeroSeries()
		return out
	}
	drawn := b.doubt(q, total)
	executed := believe(b.terms(q, g.allocation, total, nil), drawn, 1)
	e := Interval{Low: quantile(executed, 0.05), Best: quantile(executed, 0.5), High: quantile(executed, 0.95)}
	base := e.Best // without the gaps
	out.Executed = e.widen(g)
	out.ExecutedLogSD = out.Executed.logSD()
	if p.model {
		ratio := p.toModel()
		model := believe(b.terms(q, g.allocation, total, p.recompute), drawn, ratio)
		m := Interval{Low: quantile(model, 0.05), Best: base / ratio, High: quantile(model, 0.95)}
		m.Low, m.High = min(m.Low, m.Best), max(m.High, m.Best)
		out.Model = m.widen(gap{best: g.best / ratio, low: g.low / ratio, high: g.high / ratio, allocation: g.allocation / ratio})
		out.LogSD = out.Model.logSD()
		out.Terms = b.budget(q, total, g, drawn, m.logSD(), out.Model)
	}
	out.Series = w.series(b, g, out)
	return out
}

// vectorSeen is what the FP pipes of work that is not floating-point work were seen to
// do: integer multiplies run on them too, so it is a bound alone.
func (w *Work) vectorSeen(total *Minute) float64 {
	return total.FP64 + total.FP32 + total.FP16 + total.HMMA
}

// widen adds the gaps that are not the allocation prior's: their own uncertainty is
// independent of the rest, so distances add in squares on either side.
func (i Interval) widen(g gap) Interval {
	other := g.best - g.allocation
	best := i.Best + other
	low := best - math.Hypot(i.Best-i.Low, g.best-g.low)
	high := best + math.Hypot(i.High-i.Best, g.high-g.best)
	if i.Low > 0 && i.Best > 0 { // small distances must not turn a log-normal's lower end negative
		low = max(low, i.Low*min(1, g.low/max(g.best, 1e-300)))
	}
	return Interval{Low: max(low, 0), Best: best, High: high}
}

func (i Interval) logSD() float64 {
	if i.Low <= 0 || i.High <= 0 {
		if i.Best <= 0 || i.High <= 0 {
			return 0
		}
		return max(math.Log(i.High/i.Best)/z90, 1)
	}
	return math.Log(i.High/i.Low) / (2 * z90)
}

// terms lists the mixture of the total: data types, and recomputation if given, each
// with the spread of all that is common to the run.
func (b *balance) terms(q parts, allocation float64, total *Minute, recompute []mode) []term {
	if recompute == nil {
		recompute = []mode{{1, 1, 0}}
	}
	noise := 0.0
	if total.GPUSample > 0 {
		noise = sampleSD / math.Sqrt(total.GPUSample)
	}
	spread := 0.0
	if total.PeakFLOP > 0 {
		spread = total.SpreadFLOP / total.PeakFLOP
	}
	var out []term
	for i, d := range b.dtype {
		wd := b.wattDtype[i]
		counted := q.hmma*d.factor + q.fixed
		watted := (q.watt + q.node + q.util) * wd.factor
		vectored := q.vector
		if b.p.vector {
			watted = q.watt
		}
		for _, r := range recompute {
			ratio, hours := r.factor, r.factor
			if len(recompute) > 1 {
				ratio *= excluded
				hours = ratio
				if b.p.alloc == 0 { // the prior of hours is on the model basis already
					hours = b.p.toModel()
				}
			}
			all := (counted+vectored+watted)/ratio + allocation/hours
			if all <= 0 {
				continue
			}
			share := func(x float64) float64 { return x / ratio / all }
			sd := math.Sqrt(sq(share(counted)*math.Hypot(b.tensorSD, d.sd*safe(q.hmma*d.factor, counted))) +
				sq(share(vectored)*b.vectorSD) +
				sq(share(q.watt)*b.wattSD+share(q.node)*b.nodeSD+share(q.util)*b.utilSD) +
				sq(allocation/hours/all*b.p.allocSD) + sq(r.sd) + sq(noise) + sq(spread) + sq(excludedSD))
			weight := d.p
			if counted+vectored <= 0 {
				weight = wd.p
			}
			out = append(out, term{p: weight * r.p, mean: math.Log(all), sd: sd})
		}
	}
	return out
}

func safe(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

func coverage(total *Minute) float64 {
	if total.GPUMs <= 0 {
		return 0
	}
	return min(total.coveredMs()/total.GPUMs, 1)
}

// basis names the tiers that answered for at least a thousandth of the time.
func basis(total *Minute, p *prior, g gap) []string {
	least := 1e-3 * total.GPUMs
	tensorMs, activityMs := total.CyclesMs, total.ActivityMs
	if p.vector && total.PipeMs > activityMs {
		activityMs = total.PipeMs // activity of the vector pipes is the same tier
	}
	tiers := []struct {
		name string
		ms   float64
	}{
		{BasisMMACycles, tensorMs}, {BasisTensorActivity, activityMs}, {BasisEnergy, total.EnergyMs},
		{BasisPower, total.PowerMs + total.NodePowerMs}, {BasisUtilization, total.UtilMs}, {BasisAllocation, g.allocMs},
	}
	out := []string{}
	for _, t := range tiers {
		if t.ms > least {
			out = append(out, t.name)
		}
	}
	return out
}

func (w *Work) zeroSeries() []Point {
	out := make([]Point, len(w.Minutes))
	for i := range out {
		out[i].EndMs = w.endOf(i)
	}
	return out
}

// endOf returns the end of minute i, the last one cut at the end of the work.
func (w *Work) endOf(i int) int64 { return min(w.StartMs+int64(i+1)*minuteMs, w.EndMs) }

// series spreads the best values over the minutes; its last point equals them.
func (w *Work) series(b *balance, g gap, out Estimate) []Point {
	points := make([]Point, len(w.Minutes))
	sum := 0.0
	for i := range w.Minutes {
		sum += b.parts(&w.Minutes[i]).sum() + g.minutes[i]
		points[i] = Point{EndMs: w.endOf(i), ExecutedFLOP: sum}
	}
	for i := range points {
		part := safe(points[i].ExecutedFLOP, sum)
		if i == len(points)-1 {
			part = 1
		}
		points[i].ExecutedFLOP, points[i].ModelFLOP = out.Executed.Best*part, out.Model.Best*part
	}
	return points
}

// Hours estimates a rental of which nothing but the hours is known.
func Hours(a Accelerator, class string, gpuHours float64) Estimate {
	return hours(a, class, gpuHours, "")
}

// hours does, by published trainings but one.
func hours(a Accelerator, class string, gpuHours float64, except string) Estimate {
	peak := a.Peak16 * gpuHours * 3600
	u, sd := wholeRun(a.Arch, except)
	w := &Work{EndMs: minuteMs, Minutes: []Minute{{
		GPUMs: gpuHours * 3.6e6, PeakFLOP: peak, PriorFLOP: peak * u, PriorSDFLOP: peak * sd, SpreadFLOP: peak * a.LogSD,
	}}}
	if a.FP8 > 0 {
		w.Minutes[0].FP8Peak = peak
	}
	return w.Estimate(class)
}
