package flops

import (
	"math"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

const minuteMs = feature.MinuteMs

// Input is what to estimate.
type Input struct {
	Ev      *feature.Evidence
	Members []run.Member
	Class   string // as package workload names it
	// Share is what part of the tensor work is this activity's where others share the GPUs
	// (workload.Verdict): low, best, high; zeros: all of it.
	Share [3]float64
	// FromMs and ToMs cut the members where they are not 0.
	FromMs, ToMs int64
}

// Measure adds up what the cells saw of the members. Time that several members name on
// the same GPU counts once. Its cost grows with the cells of the members.
func Measure(in Input) *Work {
	w := &Work{}
	members := clip(in)
	if len(members) == 0 {
		return w
	}
	start, end := members[0].StartMs, members[0].EndMs
	for _, m := range members {
		start, end = min(start, m.StartMs), max(end, m.EndMs)
	}
	w.StartMs, w.EndMs = feature.MinuteOf(start), end
	w.Minutes = make([]Minute, (feature.MinuteOf(end-1)-w.StartMs)/minuteMs+1)
	ms := measurer{ev: in.Ev, work: w, nodes: map[string]*host{}}
	for _, m := range members {
		ms.member(m)
	}
	return w
}

// clip returns the members' parts in the period, sorted, overlaps joined.
func clip(in Input) []run.Member {
	var out []run.Member
	for _, m := range in.Members {
		if in.FromMs != 0 {
			m.StartMs = max(m.StartMs, in.FromMs)
		}
		if in.ToMs != 0 {
			m.EndMs = min(m.EndMs, in.ToMs)
		}
		if m.EndMs > m.StartMs {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b run.Member) int {
		switch {
		case a.Node != b.Node:
			if a.Node < b.Node {
				return -1
			}
			return 1
		case a.GPU != b.GPU:
			return a.GPU - b.GPU
		case a.StartMs != b.StartMs:
			if a.StartMs < b.StartMs {
				return -1
			}
			return 1
		}
		return 0
	})
	joined := out[:0]
	for _, m := range out {
		if n := len(joined); n > 0 && joined[n-1].Node == m.Node && joined[n-1].GPU == m.GPU && m.StartMs <= joined[n-1].EndMs {
			joined[n-1].EndMs = max(joined[n-1].EndMs, m.EndMs)
			continue
		}
		joined = append(joined, m)
	}
	return joined
}

// host is what is known of a node while measuring.
type host struct {
	acc          Accelerator
	gpus         float64
	idleW, spanW float64 // node watts: those of an idle node, and from there to all GPUs at full power
	cells        []feature.NodeCell
	// Where the GPUs are not what was named: why, how probable the name still is, and its peak.
	doubted          string
	named, namedPeak float64
	wholeU, wholeSD  float64 // of published trainings on such parts
}

type measurer struct {
	ev    *feature.Evidence
	work  *Work
	nodes map[string]*host
	units map[feature.GPUKey]float64
	// scratch, one entry a minute of the member at hand
	cycles, energy []painted
	slots          []slot
}

// painted is what increments of a counter cover of a minute.
type painted struct{ ms, amount, high float64 }

// slot names the cells that speak for a minute, -1: none.
type slot struct{ tensor, power, util, node int }

func (ms *measurer) host(node string) *host {
	if h, ok := ms.nodes[node]; ok {
		return h
	}
	n := ms.ev.Nodes[node]
	h := &host{gpus: float64(n.GPUCount), cells: ms.ev.Host[node]}
	if h.gpus <= 0 {
		h.gpus = 1
		for g := range 64 { // a node that the inventory does not describe: the GPUs that were seen
			if ms.ev.HasGPU(feature.GPUKey{Node: node, GPU: g}) {
				h.gpus = float64(g + 1)
			}
		}
	}
	acc, ok := Lookup(n.GPUModel)
	if seen, known := Lookup(n.SeenModel); !ok && known { // what the node's own driver says
		acc, ok = seen, true
	}
	if acc.Share == 1 {
		if !ok {
			acc = identify(n.GPUModel, nil, stated(n.TDPW), ms.limits(node, h.gpus, math.MinInt64/2)).acc
		} else if l := ms.limits(node, h.gpus, ms.ev.EndMs-24*feature.HourMs); l.beyond(&acc) {
			g := identify(n.GPUModel, &acc, 0, l)
			if g.named < 0.5 {
				h.named, h.namedPeak, h.doubted = g.named, acc.Peak16, doubtful(n.GPUModel, &acc, g, l)
				acc = g.acc
			}
		}
	}
	if ok && acc.Share == 1 && n.TDPW > 0.3*acc.TDPW && n.TDPW < 2*acc.TDPW { // a cap; not the node's sum
		acc.TDPW = n.TDPW
	}
	if acc.TDPW <= 0 {
		acc.TDPW = 500
	}
	h.acc = acc
	h.wholeU, h.wholeSD = wholeRun(acc.Arch, "")
	h.wholeSD = math.Hypot(h.wholeSD, anySD)
	// A server's idle draw is about a third of its GPUs' board power (1.8 kW for 8 x 700 W,
	// 1.4 kW for 8 x 400 W); what was seen at its quietest is better, unless it never was
	// quiet. GPUs' watts reach the inlet with 15 % for supplies, fans and host.
	full := h.gpus * acc.TDPW
	quiet := 0.33 * full
	least := math.Inf(1)
	for _, c := range h.cells {
		if c.PowerCoverMs > 0 {
			least = min(least, c.PowerW)
		}
	}
	if least < 0.47*full {
		quiet = max(least, 0.1*full)
	}
	h.idleW, h.spanW = quiet, 1.15*(full-h.gpus*acc.IdleW())
	ms.nodes[node] = h
	return h
}

// anySD is by how much hours of whoever rents are more various than those of published runs.
const anySD = 0.2

// stated is a number of the inventory, 0 where it states none.
func stated(v float64) float64 {
	if v > 0 {
		return v
	}
	return 0
}

// member adds one GPU interval to the work.
func (ms *measurer) member(m run.Member) {
	h := ms.host(m.Node)
	cells := ms.ev.Cells(feature.GPUKey{Node: m.Node, GPU: m.GPU})
	first := feature.MinuteOf(m.StartMs)
	n := int((feature.MinuteOf(m.EndMs-1)-first)/minuteMs) + 1
	ms.reset(n)
	ms.paintCounters(h, cells, m, first)
	ms.choose(cells, h.cells, first, n)
	at := int((first - ms.work.StartMs) / minuteMs)
	for k := range n {
		from := first + int64(k)*minuteMs
		span := float64(min(m.EndMs, from+minuteMs) - max(m.StartMs, from))
		ms.minute(&ms.work.Minutes[at+k], h, cells, k, span)
	}
}

func (ms *measurer) reset(n int) {
	if cap(ms.cycles) < n {
		ms.cycles, ms.energy, ms.slots = make([]painted, n), make([]painted, n), make([]slot, n)
	}
	ms.cycles, ms.energy, ms.slots = ms.cycles[:n], ms.energy[:n], ms.slots[:n]
	clear(ms.cycles)
	clear(ms.energy)
	for i := range ms.slots {
		ms.slots[i] = slot{-1, -1, -1, -1}
	}
}

// paintCounters spreads the counters' increments over the member's minutes.
func (ms *measurer) paintCounters(h *host, cells []feature.GPUCell, m run.Member, first int64) {
	lo := sort.Search(len(cells), func(i int) bool { return cells[i].EndMs() > m.StartMs })
	var cyc, en feature.Counter // the last reading before
	for i := lo - 1; i >= 0 && (!cyc.Has() || !en.Has()) && lo-i <= 24*60; i-- {
		if !cyc.Has() && cells[i].MMACycles.Has() {
			cyc = cells[i].MMACycles
		}
		if !en.Has() && cells[i].EnergyJ.Has() {
			en = cells[i].EnergyJ
		}
	}
	maxHz, unit := maxCycleHz(&h.acc), ms.cycleUnit(h, m, cells)
	cycles := func(fromMs, toMs int64, inc float64) {
		if inc /= unit; toMs > fromMs && inc/float64(toMs-fromMs)*1000 <= maxHz { // else no such part exists
			paint(ms.cycles, first, m, fromMs, toMs, inc, 0)
		}
	}
	joules := func(fromMs, toMs int64, inc float64) {
		if toMs <= fromMs {
			return
		}
		sec := float64(toMs-fromMs) / 1000
		watts := inc / sec
		if watts < 2 || watts > 2*h.acc.TDPW { // a counter that stands still or leaps: no powered part does
			return
		}
		x := powerFrac(watts, h.acc.IdleW(), h.acc.TDPW-h.acc.IdleW())
		peak := h.acc.Peak16 * sec
		paint(ms.energy, first, m, fromMs, toMs, peak*x, peak*math.Pow(x, highExponent))
	}
	for i := lo; i < len(cells); i++ {
		c := &cells[i]
		walk(c.MMACycles, &cyc, cycles)
		walk(c.EnergyJ, &en, joules)
		if c.MinuteMs > m.EndMs && (c.MMACycles.Has() || c.EnergyJ.Has()) || c.MinuteMs > m.EndMs+feature.WindowMs {
			break
		}
	}
}

// walk gives the increment from the previous reading to the cell's first, and the one
// within the cell.
func walk(c feature.Counter, prev *feature.Counter, f func(fromMs, toMs int64, inc float64)) {
	if !c.Has() {
		return
	}
	if prev.Has() {
		inc := c.First - prev.Last
		if inc < 0 { // reset: what came before it is lost
			inc = c.First
		}
		f(prev.LastMs, c.FirstMs, inc)
	}
	f(c.FirstMs, c.LastMs, c.Delta)
	*prev = c
}

// paint spreads an increment evenly over its time, as far as that lies in the member.
func paint(dst []painted, first int64, m run.Member, fromMs, toMs int64, amount, high float64) {
	lo, hi := max(fromMs, m.StartMs), min(toMs, m.EndMs)
	for lo < hi {
		k := int((lo - first) / minuteMs)
		end := min(hi, first+int64(k+1)*minuteMs)
		part := float64(end-lo) / float64(toMs-fromMs)
		dst[k].ms += float64(end - lo)
		dst[k].amount += amount * part
		dst[k].high += high * part
		lo = end
	}
}

// highExponent is the second exponent for which sums over the power range are kept.
const highExponent = 1.4

// powerFrac returns where watts lie between idle and full.
func powerFrac(watts, idleW, spanW float64) float64 {
	return min(max((watts-idleW)/spanW, 0), 1.1)
}

// choose finds for each minute the cell that speaks for it. A value describes the time
// since the previous one, so a minute without a row is covered by the next row whose
// time reaches back to it.
func (ms *measurer) choose(cells []feature.GPUCell, nodes []feature.NodeCell, first int64, n int) {
	last := first + int64(n)*minuteMs + feature.WindowMs
	lo := sort.Search(len(cells), func(i int) bool { return cells[i].EndMs() > first })
	for i := lo; i < len(cells) && cells[i].MinuteMs < last; i++ {
		c := &cells[i]
		claim(ms.slots, first, c.MinuteMs, c.EndMs(), c.CoverMs[feature.TensorFrac], i, func(s *slot) *int { return &s.tensor })
		claim(ms.slots, first, c.MinuteMs, c.EndMs(), c.CoverMs[feature.PowerW], i, func(s *slot) *int { return &s.power })
		claim(ms.slots, first, c.MinuteMs, c.EndMs(), c.CoverMs[feature.UtilFrac], i, func(s *slot) *int { return &s.util })
	}
	lo = sort.Search(len(nodes), func(i int) bool { return nodes[i].EndMs() > first })
	for i := lo; i < len(nodes) && nodes[i].MinuteMs < last; i++ {
		claim(ms.slots, first, nodes[i].MinuteMs, nodes[i].EndMs(), nodes[i].PowerCoverMs, i, func(s *slot) *int { return &s.node })
	}
}

// claim lets cell i, of the given minutes and cover, speak for its minutes and for the free
// ones before them that its cover reaches.
func claim(slots []slot, first, minute, end, coverMs int64, i int, which func(*slot) *int) {
	if coverMs <= 0 {
		return
	}
	reach := minute - coverMs
	if end-minute > minuteMs { // the cover of many minutes
		reach = end - max(coverMs, end-minute)
	}
	for m := min(end-minuteMs, first+int64(len(slots)-1)*minuteMs); m >= max(first, reach); m -= minuteMs {
		p := which(&slots[int((m-first)/minuteMs)])
		if *p >= 0 {
			return
		}
		*p = i
	}
}

// covered returns how much of a minute's span a cell with the given cover, and so many
// minutes wide, speaks for.
func covered(coverMs, spanMs int64, span float64) float64 {
	if spanMs > minuteMs {
		coverMs = coverMs * minuteMs / spanMs
	}
	if coverMs >= minuteMs/2 {
		return span
	}
	return min(span, float64(coverMs))
}

// minute adds minute k of the member, of which span milliseconds belong to it.
func (ms *measurer) minute(out *Minute, h *host, cells []feature.GPUCell, k int, span float64) {
	a, s := &h.acc, ms.slots[k]
	peak := a.Peak16 / 1000 // FLOP a millisecond
	out.GPUMs += span
	out.PeakFLOP += peak * span
	out.PriorFLOP += peak * span * h.wholeU
	out.PriorSDFLOP += peak * span * h.wholeSD
	out.SpreadFLOP += peak * span * a.LogSD
	if a.FP8 > 0 {
		out.FP8Peak += peak * span
	}
	if a.FP4 > 0 {
		out.FP4Peak += peak * span
	}
	if a.TF32 == 0 && a.FP32 > 0 {
		out.NoTF32Peak += peak * span
	}
	if a.TDPW < 390*a.Share {
		out.SmallPeak += peak * span
	}
	rest := span
	take := func(ms float64, to *float64) float64 {
		used := min(rest, ms)
		rest -= used
		*to += used
		return used
	}
	if p := ms.cycles[k]; p.ms > 0 && !frozen(p, cells, s) {
		used := take(p.ms, &out.CyclesMs)
		var c *feature.GPUCell
		if s.tensor >= 0 {
			c = &cells[s.tensor]
		}
		tensor(out, a, c, p.amount*used/p.ms*a.FLOPPerCycle(), used)
	}
	if s.tensor >= 0 && rest > 0 {
		c := &cells[s.tensor]
		if used := take(covered(c.CoverMs[feature.TensorFrac], c.SpanMs, rest), &out.ActivityMs); used > 0 {
			flop, clocked := activity(a, c, used)
			tensor(out, a, c, flop, used)
			if !clocked {
				out.NoClock += flop
			}
			if !gpm(a) {
				out.PreGPM += flop
			}
		}
	}
	if tensored := span - rest; tensored > 0 {
		ms.check(out, h, cells, k, tensored)
		if s.tensor >= 0 && cells[s.tensor].Has(feature.SMActiveFrac) {
			out.BusySM += peak * tensored * value(&cells[s.tensor], feature.SMActiveFrac)
			out.BusyTensor += peak * tensored * value(&cells[s.tensor], feature.TensorFrac)
		}
	}
	ms.watts(out, h, cells, k, take)
	if s.util >= 0 && rest > 0 {
		c := &cells[s.util]
		if used := take(covered(c.CoverMs[feature.UtilFrac], c.SpanMs, rest), &out.UtilMs); used > 0 {
			out.UtilPeak += peak * used
			out.Util += peak * used * c.Mean[feature.UtilFrac]
		}
	}
	if rest < span {
		out.GPUSample++
	}
	ms.vector(out, h, cells, k, span)
}

// frozen reports a cycle counter that stands still while the activity says otherwise.
func frozen(p painted, cells []feature.GPUCell, s slot) bool {
	return p.amount == 0 && s.tensor >= 0 && value(&cells[s.tensor], feature.TensorFrac) > 0.02
}

// check keeps the watts of time in which the tensor tiers measured.
func (ms *measurer) check(out *Minute, h *host, cells []feature.GPUCell, k int, usedMs float64) {
	a, s := &h.acc, ms.slots[k]
	peak := a.Peak16 / 1000 * usedMs
	var drawn float64
	switch p := ms.energy[k]; {
	case p.ms > 0:
		out.CheckHigh += p.high * usedMs / p.ms * slowed(a, cells, s)
		drawn = p.amount * usedMs / p.ms
	case s.power >= 0:
		x := powerFrac(cells[s.power].Mean[feature.PowerW], a.IdleW(), a.TDPW-a.IdleW())
		out.CheckHigh += peak * math.Pow(x, highExponent) * slowed(a, cells, s)
		drawn = peak * x
	default:
		return
	}
	out.CheckPeak += peak
	if s.tensor >= 0 && cells[s.tensor].Has(feature.SMActiveFrac) {
		out.DrawnSM += drawn
		out.ActiveSM += peak * value(&cells[s.tensor], feature.SMActiveFrac)
	}
}

// watts uses the energy counter, then the GPU's watts, then the node's.
func (ms *measurer) watts(out *Minute, h *host, cells []feature.GPUCell, k int, take func(float64, *float64) float64) {
	a, s := &h.acc, ms.slots[k]
	peak := a.Peak16 / 1000
	if p := ms.energy[k]; p.ms > 0 {
		if used := take(p.ms, &out.EnergyMs); used > 0 {
			out.WattPeak += peak * used
			out.Watt += p.amount * used / p.ms
			out.WattHigh += p.high * used / p.ms * slowed(a, cells, s)
		}
	}
	if s.power >= 0 {
		c := &cells[s.power]
		if used := take(covered(c.CoverMs[feature.PowerW], c.SpanMs, minuteMs), &out.PowerMs); used > 0 {
			x := powerFrac(c.Mean[feature.PowerW], a.IdleW(), a.TDPW-a.IdleW())
			out.WattPeak += peak * used
			out.Watt += peak * used * x
			out.WattHigh += peak * used * math.Pow(x, highExponent) * slowed(a, cells, s)
		}
	}
	if s.node >= 0 {
		c := &h.cells[s.node]
		if used := take(covered(c.PowerCoverMs, c.SpanMs, minuteMs), &out.NodePowerMs); used > 0 {
			x := powerFrac(c.PowerW, h.idleW, h.spanW)
			out.NodePeak += peak * used
			out.Node += peak * used * x
			out.NodeHigh += peak * used * math.Pow(x, highExponent)
		}
	}
}

// slowed is how much more than usual a GPU does of the watts that it draws, from the clock at
// which it draws them. Watts grow with activity x clock^2.3 and work with activity x clock, so
// that at a power limit, where watts say nothing, the clock tells: work over watts goes with
// clock^-1.3. The watts' own calibration is of GPUs that ran a twelfth below their boost.
func slowed(a *Accelerator, cells []feature.GPUCell, s slot) float64 {
	i := max(s.power, s.util)
	if i < 0 || !cells[i].Has(feature.SMClockMHz) || value(&cells[i], feature.PowerW) < 0.4*a.TDPW {
		return 1
	}
	return min(max(math.Pow(cells[i].Mean[feature.SMClockMHz]/(0.92*a.boostMHz()), -1.3), 0.9), 1.8)
}

// activity returns tensor activity x clock x rate over the time, and whether the clock
// was measured.
func activity(a *Accelerator, c *feature.GPUCell, usedMs float64) (flop float64, clocked bool) {
	rate := a.FLOPPerCycle() * 1e6 / 1000 // FLOP a millisecond and MHz
	if 2*c.TensorClockMs >= c.CoverMs[feature.TensorFrac] {
		return c.TensorClockMHz * rate * usedMs, true
	}
	mhz := 0.95 * a.tensorMHz() // capped parts run a little below the tensor clock
	if c.Has(feature.SMClockMHz) {
		mhz = c.Mean[feature.SMClockMHz]
	}
	return c.Mean[feature.TensorFrac] * mhz * rate * usedMs, c.Has(feature.SMClockMHz)
}

// gpm reports whether the part's tensor activity comes from a counter that was shown to
// agree with executed FLOPs: Hopper and later.
func gpm(a *Accelerator) bool {
	switch a.Arch {
	case "Pascal", "Volta", "Turing", "Ampere", "Ada", "":
		return false
	}
	return true
}

// tensor credits tensor FLOP at the 16-bit rate to the pipes that did them. A cell that
// does not tell the pipes apart leaves all to HMMA.
func tensor(out *Minute, a *Accelerator, c *feature.GPUCell, flop16, usedMs float64) {
	out.TensorPeak += a.Peak16 / 1000 * usedMs
	imma, dfma := 0.0, 0.0
	if c != nil {
		i, d, t := value(c, feature.IMMAFrac), value(c, feature.DFMAFrac), value(c, feature.TensorFrac)
		if h := value(c, feature.HMMAFrac); h > 0 || t == 0 {
			t = max(t, h+i+d)
		}
		if t > 0 {
			imma, dfma = min(i/t, 1), min(d/t, 1)
		}
		if s := imma + dfma; s > 1 {
			imma, dfma = imma/s, dfma/s
		}
		if c.Has(feature.DRAMFrac) {
			out.DRAMBytes += c.Mean[feature.DRAMFrac] * a.MemBps / 1000 * usedMs
		}
	}
	hmma := flop16 * (1 - imma - dfma)
	out.HMMA += hmma
	if a.FP8 > 0 {
		out.HMMAFP8 += hmma
	}
	if a.FP4 > 0 {
		out.HMMAFP4 += hmma
	}
	if a.INT8 > 0 {
		out.IMMA += flop16 * imma * a.INT8 / a.Peak16
	}
	if dfma > 0 { // the FP64 tensor peak holds at the boost clock
		out.DFMA += flop16 * dfma * a.FP64Tensor / (a.FLOPPerCycle() * a.boostMHz() * 1e6)
	}
}

// value is a fraction, 0 where it was not measured.
func value(c *feature.GPUCell, s feature.Signal) float64 {
	if c.CoverMs[s] > 0 {
		return max(c.Mean[s], 0)
	}
	return 0
}

// vector adds what the pipes outside the tensor cores did.
func (ms *measurer) vector(out *Minute, h *host, cells []feature.GPUCell, k int, span float64) {
	a, s := &h.acc, ms.slots[k]
	i := max(s.tensor, s.util, s.power)
	if i >= 0 {
		c := &cells[i]
		if c.Has(feature.FP64Frac) || c.Has(feature.FP32Frac) || c.Has(feature.FP16Frac) {
			clock := 1.0
			if c.Has(feature.SMClockMHz) {
				clock = c.Mean[feature.SMClockMHz] / a.boostMHz()
			}
			out.PipeMs += span
			sec := span / 1000 * clock
			out.FP64 += value(c, feature.FP64Frac) * a.FP64 * sec
			out.FP32 += value(c, feature.FP32Frac) * a.FP32 * sec
			out.FP16 += value(c, feature.FP16Frac) * a.fp16Vector() * sec
			return
		}
	}
	x, ok := 0.0, true
	switch p := ms.energy[k]; {
	case p.ms > 0:
		x = p.amount / p.ms / (a.Peak16 / 1000)
	case s.power >= 0:
		x = powerFrac(cells[s.power].Mean[feature.PowerW], a.IdleW(), a.TDPW-a.IdleW())
	case s.node >= 0:
		x = powerFrac(h.cells[s.node].PowerW, h.idleW, h.spanW)
	case s.util >= 0:
		x = 0.7 * value(&cells[s.util], feature.UtilFrac)
	default:
		ok = false
	}
	if ok {
		out.VectorMs += span
		out.VectorWatt += max(a.FP32, a.Peak16/30) / 1000 * span * x
	}
}
