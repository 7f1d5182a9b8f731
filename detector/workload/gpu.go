package workload

import (
	"math"
	"slices"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// startMinutes is how long programs load, compile and warm up: left out of the plateau
// where enough remains.
const startMinutes = 4

// window returns the cells of a member's plateau.
func window(cells []feature.GPUCell, m run.Member) []feature.GPUCell {
	lo, hi := search(cells, m.StartMs-minuteMs+1), search(cells, m.EndMs)
	for lo > 0 && lo <= len(cells) && cells[lo-1].EndMs() > m.StartMs && cells[lo-1].SpanMs > 0 {
		lo-- // a wide cell that reaches into the member's time
	}
	if m.EndMs-m.StartMs > 3*startMinutes*minuteMs {
		from := m.StartMs + (startMinutes-1)*minuteMs
		for lo < hi && cells[lo].EndMs() <= from+minuteMs {
			lo++
		}
		if hi-lo > 1 && cells[hi-1].SpanMs == 0 {
			hi--
		}
	}
	if lo >= hi {
		return nil
	}
	return cells[lo:hi]
}

func search(cells []feature.GPUCell, ms int64) int {
	lo, hi := 0, len(cells)
	for lo < hi {
		mid := (lo + hi) / 2
		if cells[mid].MinuteMs < ms {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// span is how many minutes a cell stands for.
func span(c *feature.GPUCell) float64 { return float64(c.EndMs()-c.MinuteMs) / minuteMs }

// loadMHz stands for the clock under load where it was not measured: tensor clocks of
// parts since Volta lie between 1.4 and 2.1 GHz.
const loadMHz = 1700

// phaseWatch tells generation from update by what a minute did. Decoding reads all
// weights for a few tokens; an update reuses them for thousands, and its optimizer works.
type phaseWatch struct {
	at   map[int64][2]int
	fp32 mean // FP32 for tensor work of minutes that update
}

const (
	decodeRatio = 2.0 // least traffic for the tensor work of a minute that decodes
	updateRatio = 1.2 // most of one that updates
)

func (p *phaseWatch) see(c *feature.GPUCell) {
	if !c.Has(feature.TensorFrac) || !c.Has(feature.DRAMFrac) {
		return
	}
	tensor, dram := c.Mean[feature.TensorFrac], c.Mean[feature.DRAMFrac]
	var kind int
	switch {
	case dram > 0.15 && dram > decodeRatio*tensor:
		kind = 0
	case tensor > 0.2 && dram < updateRatio*tensor:
		kind = 1
	default:
		return
	}
	if kind == 1 {
		p.fp32.weigh(c.Get(feature.FP32Frac)/tensor, span(c))
	}
	if p.at == nil {
		p.at = map[int64][2]int{}
	}
	n := p.at[c.MinuteMs]
	n[kind] += int(span(c))
	p.at[c.MinuteMs] = n
}

// alternate is 1 where both phases take a good part of the minutes, most GPUs are in one
// of them at a time, and they follow each other again and again.
func (p *phaseWatch) alternate() float64 {
	minutes := make([]int64, 0, len(p.at))
	for m := range p.at {
		minutes = append(minutes, m)
	}
	slices.Sort(minutes)
	var count [2]float64
	var mixed, all, turns float64
	var cycles mean // minutes from an update to the next
	var since int64
	last := -1
	for _, m := range minutes {
		n := p.at[m]
		count[0] += float64(n[0])
		count[1] += float64(n[1])
		all += float64(n[0] + n[1])
		mixed += float64(min(n[0], n[1]))
		kind := 0
		if n[1] > n[0] {
			kind = 1
		}
		if last >= 0 && kind != last {
			turns++
			if kind == 1 {
				if since > 0 {
					cycles.add(float64(m - since))
				}
				since = m
			}
		}
		last = kind
	}
	if all == 0 {
		return 0
	}
	share := math.Min(count[0], count[1]) / all
	// Reading long prompts looks like an update, but for the optimizer.
	// A loop of both keeps its time, users do not.
	update := 0.6 * ramp(cycles.cv(), 0.6, 0.3)
	if f := p.fp32.value(); !math.IsNaN(f) {
		update = 0.1 + 0.9*ramp(f, 0.01, 0.03)
	}
	return update * ramp(share, 0.05, 0.15) * ramp(turns, 3, 8) * ramp(mixed/all, 0.1, 0.03)
}

// unstatedW stands for the board power of a part that neither the inventory nor the table
// of parts knows.
const unstatedW = 500

// boardW is what a GPU of the node may draw.
func boardW(ev *feature.Evidence, node string) float64 {
	if w := ev.Nodes[node].TDPW; w > 0 {
		return w
	}
	return unstatedW
}

// activity are the signals that say how much of a GPU works.
var activity = [...]feature.Signal{
	feature.UtilFrac, feature.SMActiveFrac, feature.SMOccupancyFrac, feature.TensorFrac, feature.HMMAFrac, feature.IMMAFrac, feature.DFMAFrac,
	feature.FP64Frac, feature.FP32Frac, feature.FP16Frac, feature.IntFrac, feature.DRAMFrac, feature.PCIeTxBps, feature.PCIeRxBps, feature.NVLinkTxBps, feature.NVLinkRxBps,
}

// GPUs at rest draw up to a quarter of what they may, with a context and raised clocks up
// to a third.
const (
	restFrac = 0.28
	workFrac = 0.42
)

// busyCell reports load, by whatever was measured: where instruments contradict each
// other, the one that shows work counts. Belied says that counters of activity read zero
// while watts show work: what they say is not to be believed.
func busyCell(c *feature.GPUCell, tdpW float64) (busy, known, belied bool) {
	watts := math.NaN()
	if c.Has(feature.PowerW) {
		watts, known = c.Mean[feature.PowerW]/tdpW, true
	}
	counted, pipes := false, false
	for _, s := range [...]feature.Signal{feature.UtilFrac, feature.SMActiveFrac} {
		if c.Has(s) {
			counted, known = true, true
			busy = busy || c.Mean[s] > 0.03
		}
	}
	// Pipes at rest are no rest of the GPU.
	for _, s := range [...]feature.Signal{feature.TensorFrac, feature.DRAMFrac} {
		if c.Has(s) {
			pipes = true
			busy = busy || c.Mean[s] > 0.03
		}
	}
	if c.TensorClockMs > 0 {
		pipes = true
		busy = busy || c.TensorClockMHz > 0.01*loadMHz
	}
	known = known || busy
	switch {
	case busy:
	case counted || pipes && !math.IsNaN(watts):
		belied = watts > workFrac
		busy = belied
	default:
		busy = watts > restFrac
	}
	return busy, known, belied && counted
}

// maxSeries bounds the GPUs whose minutes are compared with each other.
const maxSeries = 16

// gpuMeans collects what the GPUs of an episode show, first each by itself.
type gpuMeans struct {
	util, mem, memCV, power, powerCV, powerSpread, tensorCV, pcie, cycles mean

	sigs        [feature.NumSignals]mean
	busy, known float64 // minutes
	belied      float64
	phases      phaseWatch
	decodes     int // GPUs that mostly decode, mostly train
	trains      int
	series      [][]point
	rhythm      rhythms
	hidden      hiddenMeans
}

// point is a GPU's load in a minute.
type point struct {
	ms   int64
	w    float64
	load float64
}

func (f *facts) gpuFacts(ev *feature.Evidence, ep *run.Episode) {
	g := &gpuMeans{}
	for _, m := range ep.Members {
		cells := window(ev.Cells(feature.GPUKey{Node: m.Node, GPU: m.GPU}), m)
		if len(cells) > 0 {
			g.gpu(cells, m.Node, boardW(ev, m.Node))
		}
	}
	get := func(s feature.Signal) float64 { return g.sigs[s].value() }
	f.util = g.util.value()
	f.powerFrac, f.powerCV = g.power.value(), g.powerCV.value()
	f.powerSpread = g.powerSpread.value()
	f.memBytes, f.memCV = g.mem.value(), g.memCV.value()
	f.sm, f.tensor, f.tensorCV = get(feature.SMActiveFrac), get(feature.TensorFrac), g.tensorCV.value()
	f.imma, f.dfma, f.fp64 = get(feature.IMMAFrac), get(feature.DFMAFrac), get(feature.FP64Frac)
	f.fp32, f.integer, f.dram = get(feature.FP32Frac), get(feature.IntFrac), get(feature.DRAMFrac)
	if math.IsNaN(f.tensor) { // the sub-pipes bound it from below
		f.tensor = addKnown(get(feature.HMMAFrac), f.imma, f.dfma)
	}
	if math.IsNaN(f.tensor) { // cycles of the pipes alone, at the clock of a part under load
		f.tensor = math.Min(1, g.cycles.value()/loadMHz)
	}
	f.phases = g.phases.alternate()
	if n := g.decodes + g.trains; n > 1 {
		f.pools = ramp(float64(min(g.decodes, g.trains))/float64(n), 0.05, 0.12)
	}
	f.nvlinkBps, f.pcieBps = get(feature.NVLinkTxBps), g.pcie.value()
	f.nvenc, f.nvdec = get(feature.NVEncFrac), get(feature.NVDecFrac)
	f.busy = math.NaN()
	if g.known > 0 {
		f.busy = g.busy / g.known
		f.busyEver = g.busy > 0
	}
	if g.busy > 0 {
		f.belied = g.belied / g.busy
	}
	f.stall, f.stalls, f.alone = inStep(g.series)
	g.rhythm.tell(f)
	f.hidden = g.hidden.tell()
}

// gpu adds one GPU.
func (g *gpuMeans) gpu(cells []feature.GPUCell, node string, tdp float64) {
	var sigs [feature.NumSignals]mean
	var mem, util, power, ratio, minutes mean
	var levels []float64
	var series []point
	for i := range cells {
		c := &cells[i]
		w := span(c)
		mem.weigh(c.Get(feature.MemUsedBytes), w)
		busy, known, belied := busyCell(c, tdp)
		if belied { // a copy without what is not believed
			x := *c
			for _, s := range activity {
				if x.Mean[s] <= 0.03 {
					x.CoverMs[s] = 0
				}
			}
			x.TensorClockMs = 0
			c = &x
			g.belied += w
		}
		util.weigh(c.Get(feature.UtilFrac), w)
		g.pcie.weigh(c.Get(feature.PCIeTxBps), w)
		if known {
			g.known += w
			if len(g.series) < maxSeries {
				series = append(series, point{c.MinuteMs, w, loadOf(c, tdp)})
			}
		}
		if !busy {
			continue
		}
		g.busy += w
		minutes.weigh(1, w)
		if c.TensorClockMs > 0 {
			g.cycles.weigh(c.TensorClockMHz, w)
		}
		if len(g.series) < maxSeries {
			g.phases.see(c)
		}
		g.rhythm.see(c, node)
		g.hidden.see(c)
		for s := range sigs {
			if c.CoverMs[s] > 0 {
				sigs[s].weigh(c.Mean[s], w)
			}
		}
		if t := c.Get(feature.TensorFrac); t > 0.01 {
			ratio.weigh(c.Get(feature.DRAMFrac)/t, w)
		}
		if p := c.Get(feature.PowerW); p > 0 {
			power.weigh(p/tdp, w)
			levels = append(levels, p)
		}
	}
	if len(g.series) < maxSeries && len(series) > 0 {
		g.series = append(g.series, series)
	}
	switch t, r := sigs[feature.TensorFrac].value(), ratio.value(); {
	case r > decodeRatio*1.2 && minutes.n >= 5:
		g.decodes++
	case t > 0.15 && r < updateRatio && minutes.n >= 5:
		g.trains++
	}
	g.util.add(util.value())
	g.mem.add(mem.value())
	g.memCV.add(mem.cv())
	g.power.add(power.value())
	g.powerCV.add(power.cv())
	g.powerSpread.add(spreadOf(levels))
	g.tensorCV.add(sigs[feature.TensorFrac].cv())
	for s := range sigs {
		g.sigs[s].add(sigs[s].value())
	}
	g.hidden.next()
}

// loadOf is one figure of load for comparing GPUs: power if measured, else utilization.
func loadOf(c *feature.GPUCell, tdpW float64) float64 {
	if c.Has(feature.PowerW) {
		return c.Mean[feature.PowerW] / tdpW
	}
	return c.Get(feature.UtilFrac)
}

// inStep measures whether GPUs move together, each against its own level: the share of
// the variance over minutes that is common to them; how often they all dip sharply at
// once; and how often one dips by itself. NaN with fewer than two GPUs or eight minutes.
func inStep(gpus [][]point) (common, together, alone float64) {
	nan := math.NaN()
	if len(gpus) < 2 {
		return nan, nan, nan
	}
	type row struct {
		dev, w float64
		n, dip int
	}
	rows := map[int64]*row{}
	var own mean // deviations of single GPUs
	for _, s := range gpus {
		level := levelOf(s)
		if !(level > 0) {
			continue
		}
		for i, p := range s {
			if math.IsNaN(p.load) {
				continue
			}
			r := rows[p.ms]
			if r == nil {
				r = &row{}
				rows[p.ms] = r
			}
			d := p.load/level - 1
			own.weigh(d, p.w)
			r.dev += d
			r.w = math.Max(r.w, p.w)
			r.n++
			if p.load < dipFrac*near(s, i) {
				r.dip++
			}
		}
	}
	minutes := make([]int64, 0, len(rows))
	for ms, r := range rows {
		if 4*r.n >= 3*len(gpus) {
			minutes = append(minutes, ms)
		}
	}
	if len(minutes) < 8 {
		return nan, nan, nan
	}
	slices.Sort(minutes)
	var all mean
	var total, dips, single, n float64
	for _, ms := range minutes {
		r := rows[ms]
		all.weigh(r.dev/float64(r.n), r.w)
		total += r.w
		n += float64(r.n)
		switch {
		case 5*r.dip >= 4*r.n:
			dips++
		default:
			single += float64(r.dip)
		}
	}
	k := float64(len(gpus))
	between, whole := all.sd()*all.sd(), own.sd()*own.sd()
	if !(whole > 1e-9) {
		return nan, 0, 0
	}
	// Of independent GPUs the mean varies by whole/k.
	return math.Max(0, math.Min(1, (between/whole-1/k)/(1-1/k))), dips / total, single / n
}

// dipFrac of the load around is a sharp dip.
const dipFrac = 0.88

// levelOf is a GPU's median load.
func levelOf(s []point) float64 {
	v := make([]float64, 0, len(s))
	for _, p := range s {
		if !math.IsNaN(p.load) {
			v = append(v, p.load)
		}
	}
	if len(v) == 0 {
		return 0
	}
	return median(v)
}

// near is the median load of some minutes before and after.
func near(s []point, i int) float64 {
	lo, hi := max(0, i-4), min(len(s), i+5)
	v := make([]float64, 0, 9)
	for _, p := range s[lo:hi] {
		if !math.IsNaN(p.load) {
			v = append(v, p.load)
		}
	}
	if len(v) < 4 {
		return 0
	}
	return median(v)
}
