package workload

import (
	"math"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

const minuteMs = feature.MinuteMs

// facts is what an episode shows. NaN: not measured. Means are over its GPUs and its
// minutes after the start-up.
type facts struct {
	minutes  float64 // seen
	gpus     int
	nodes    int
	basis    run.Basis
	open     bool
	busy     float64 // share of minutes with load
	busyEver bool

	util, utilSD     float64 // SD over minutes
	powerFrac        float64 // of TDP
	powerCV          float64 // over busy minutes
	powerCVIn        float64 // within busy minutes
	powerSpread      float64 // between the quartiles over busy minutes, of the median
	memBytes, memCV  float64
	sm, tensor       float64 // over busy minutes, as all below
	tensorCV         float64
	imma, dfma, fp64 float64
	fp32, integer    float64
	dram             float64
	nvlinkBps        float64
	pcieBps          float64
	nvenc, nvdec     float64
	phases           float64 // 0 to 1: minutes of generation and of update alternate on all GPUs together
	stall            float64 // correlation of load between GPUs
	stalls           float64 // share of minutes in which load dropped on all GPUs together

	hostFrac   float64 // host watts above rest, of the TDP of its GPUs (BasisPower)
	hostCVIn   float64 // within minutes
	hostCV     float64
	fabricBps  float64 // a node, back-end
	checkpoint int     // bursts of storage writes
	ownsNodes  bool    // no other activity on its nodes: node figures are its own

	gradient   float64 // share of collective bytes in gradient-like calls
	largeBps   float64 // bytes per second and GPU in calls of megabytes
	smallRate  float64 // calls per second of small calls
	haloShare  float64 // share of bytes in sendrecv on the largest communicator
	hasComm    bool
	reduces    bool // reducescatter, or allreduce of megabytes
	broadcasts float64
	alltoall   bool
	tapped     bool // communicators of other programs were seen on all its nodes meanwhile
}

func newFacts(ev *feature.Evidence, ep *run.Episode) facts {
	f := facts{gpus: ep.GPUs(), nodes: len(ep.Nodes()), basis: ep.Basis, open: ep.Open}
	f.minutes = float64(ep.EndMs-ep.StartMs) / minuteMs
	f.gpuFacts(ev, ep)
	f.hostFacts(ev, ep)
	f.commFacts(ep)
	f.tapped = !f.hasComm && tapped(ev, ep)
	return f
}

// mean adds up values with weights, skipping what was not measured.
type mean struct{ sum, sq, n float64 }

func (m *mean) add(v float64) {
	if !math.IsNaN(v) {
		m.sum += v
		m.sq += v * v
		m.n++
	}
}

func (m *mean) value() float64 {
	if m.n == 0 {
		return math.NaN()
	}
	return m.sum / m.n
}

func (m *mean) sd() float64 {
	if m.n < 2 {
		return math.NaN()
	}
	v := m.sum / m.n
	return math.Sqrt(math.Max(0, m.sq/m.n-v*v))
}

func (m *mean) cv() float64 {
	v := m.value()
	if !(v > 0) {
		return math.NaN()
	}
	return m.sd() / v
}

// startMinutes is how long programs load, compile and warm up: left out of the plateau
// where enough remains.
const startMinutes = 4

// window returns the cells of a member's plateau.
func window(cells []feature.GPUCell, m run.Member) []feature.GPUCell {
	lo, hi := search(cells, m.StartMs-minuteMs+1), search(cells, m.EndMs)
	if hi-lo > 3*startMinutes {
		lo += startMinutes
		hi--
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

// busyCell reports load, by whatever was measured.
func busyCell(c *feature.GPUCell, tdpW float64) (busy, known bool) {
	if c.Has(feature.UtilFrac) {
		return c.Mean[feature.UtilFrac] > 0.03, true
	}
	if c.Has(feature.SMActiveFrac) {
		return c.Mean[feature.SMActiveFrac] > 0.03, true
	}
	if c.Has(feature.PowerW) {
		return c.Mean[feature.PowerW] > 0.28*tdpW, true
	}
	return false, false
}

// maxSeries bounds the GPUs whose minutes are compared with each other.
const maxSeries = 16

func (f *facts) gpuFacts(ev *feature.Evidence, ep *run.Episode) {
	var util, power, mem, memCV, powerCV, powerIn, tensorCV, utilSD, pcie, powerSpread mean
	var busyM, sigs [feature.NumSignals]mean
	var busyN, n float64
	var cycles mean
	var ph phaseWatch
	series := map[int64][]float64{} // minute: loads of up to maxSeries GPUs
	gpus := 0
	for _, m := range ep.Members {
		tdp := ev.Nodes[m.Node].TDPW
		if !(tdp > 0) {
			tdp = tdpOfModel(ev.Nodes[m.Node].GPUModel)
		}
		cells := window(ev.GPU[feature.GPUKey{Node: m.Node, GPU: m.GPU}], m)
		if len(cells) == 0 {
			continue
		}
		for s := range busyM {
			busyM[s] = mean{}
		}
		var ownMem, ownUtil, ownPower mean
		var levels []float64
		for i := range cells {
			c := &cells[i]
			ownMem.add(c.Get(feature.MemUsedBytes))
			ownUtil.add(c.Get(feature.UtilFrac))
			pcie.add(c.Get(feature.PCIeTxBps))
			busy, known := busyCell(c, tdp)
			if known {
				n++
			}
			if gpus < maxSeries && known {
				series[c.MinuteMs] = append(series[c.MinuteMs], loadOf(c, tdp))
			}
			if !busy {
				continue
			}
			busyN++
			if c.TensorClockMs > 0 {
				cycles.add(c.TensorClockMHz)
			}
			if gpus < maxSeries {
				ph.see(c)
			}
			for s := range busyM {
				if c.CoverMs[s] > 0 {
					busyM[s].add(c.Mean[s])
				}
			}
			if p := c.Get(feature.PowerW); p > 0 {
				ownPower.add(p / tdp)
				levels = append(levels, p)
				if c.Samples >= 4 {
					powerIn.add(c.SD[feature.PowerW] / p)
				}
			}
		}
		gpus++
		util.add(ownUtil.value())
		utilSD.add(ownUtil.sd())
		mem.add(ownMem.value())
		memCV.add(ownMem.cv())
		power.add(ownPower.value())
		powerCV.add(ownPower.cv())
		powerSpread.add(spreadOf(levels))
		tensorCV.add(busyM[feature.TensorFrac].cv())
		for s := range busyM {
			sigs[s].add(busyM[s].value())
		}
	}
	get := func(s feature.Signal) float64 { return sigs[s].value() }
	f.util, f.utilSD = util.value(), utilSD.value()
	f.powerFrac, f.powerCV, f.powerCVIn = power.value(), powerCV.value(), powerIn.value()
	f.powerSpread = powerSpread.value()
	f.memBytes, f.memCV = mem.value(), memCV.value()
	f.sm, f.tensor, f.tensorCV = get(feature.SMActiveFrac), get(feature.TensorFrac), tensorCV.value()
	f.imma, f.dfma, f.fp64 = get(feature.IMMAFrac), get(feature.DFMAFrac), get(feature.FP64Frac)
	f.fp32, f.integer, f.dram = get(feature.FP32Frac), get(feature.IntFrac), get(feature.DRAMFrac)
	if math.IsNaN(f.tensor) { // the sub-pipes bound it from below
		f.tensor = addKnown(get(feature.HMMAFrac), f.imma, f.dfma)
	}
	if math.IsNaN(f.tensor) { // cycles of the pipes alone, at the clock of a part under load
		f.tensor = math.Min(1, cycles.value()/loadMHz)
	}
	f.phases = ph.alternate()
	f.nvlinkBps, f.pcieBps = get(feature.NVLinkTxBps), pcie.value()
	f.nvenc, f.nvdec = get(feature.NVEncFrac), get(feature.NVDecFrac)
	f.busy = math.NaN()
	if n > 0 {
		f.busy = busyN / n
		f.busyEver = busyN > 0
	}
	f.stall, f.stalls = inStep(series)
}

// loadMHz stands for the clock under load where it was not measured: tensor clocks of
// parts since Volta lie between 1.4 and 2.1 GHz.
const loadMHz = 1700

// phaseWatch tells generation from update by what a minute did. Decoding reads all
// weights for a few tokens; an update reuses them for thousands, and its optimizer works.
type phaseWatch struct{ at map[int64][2]int }

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
	if p.at == nil {
		p.at = map[int64][2]int{}
	}
	n := p.at[c.MinuteMs]
	n[kind]++
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
		}
		last = kind
	}
	if all == 0 {
		return 0
	}
	share := math.Min(count[0], count[1]) / all
	return ramp(share, 0.05, 0.15) * ramp(turns, 3, 8) * ramp(mixed/all, 0.1, 0.03)
}

// tapped reports that collectives of other programs were seen on every node of the
// episode while it ran: where the tap works, its silence about a program says something.
// Some minutes are looked up, so that the cost does not grow with the fleet.
func tapped(ev *feature.Evidence, ep *run.Episode) bool {
	const looks, enough = 12, 5
	step := max((ep.EndMs-ep.StartMs)/looks, minuteMs)
	for _, node := range ep.Nodes() {
		n := 0
		for ms := feature.MinuteOf(ep.StartMs + step/2); ms < ep.EndMs && n < enough; ms = feature.MinuteOf(ms + step) {
			i := sort.Search(len(ev.Comm), func(i int) bool {
				c := &ev.Comm[i]
				return c.MinuteMs > ms || (c.MinuteMs == ms && c.Node >= node)
			})
			if i < len(ev.Comm) && ev.Comm[i].MinuteMs == ms && ev.Comm[i].Node == node {
				n++
			}
		}
		if n < enough {
			return false
		}
	}
	return true
}

func addKnown(vs ...float64) float64 {
	sum, known := 0.0, false
	for _, v := range vs {
		if !math.IsNaN(v) {
			sum += v
			known = true
		}
	}
	if !known {
		return math.NaN()
	}
	return sum
}

// loadOf is one figure of load for comparing GPUs: power if measured, else utilization.
func loadOf(c *feature.GPUCell, tdpW float64) float64 {
	if c.Has(feature.PowerW) {
		return c.Mean[feature.PowerW] / tdpW
	}
	return c.Get(feature.UtilFrac)
}

// inStep measures whether GPUs move together: the share of the variance over minutes that
// is common to them, and the share of minutes in which the common load drops by a fifth
// below its median. NaN with fewer than two GPUs or eight minutes.
func inStep(series map[int64][]float64) (common, drops float64) {
	minutes := make([]int64, 0, len(series))
	width := 0
	for m, v := range series {
		minutes = append(minutes, m)
		width = max(width, len(v))
	}
	if width < 2 || len(minutes) < 8 {
		return math.NaN(), math.NaN()
	}
	slices.Sort(minutes)
	var all mean
	var within float64
	var avg []float64
	for _, m := range minutes {
		v := series[m]
		if len(v) < width {
			continue
		}
		var row mean
		for _, x := range v {
			row.add(x)
		}
		all.add(row.value())
		within += row.sd() * row.sd()
		avg = append(avg, row.value())
	}
	if len(avg) < 8 {
		return math.NaN(), math.NaN()
	}
	within /= float64(len(avg))
	between := all.sd() * all.sd()
	sorted := slices.Clone(avg)
	slices.Sort(sorted)
	median := sorted[len(sorted)/2]
	low := 0
	for _, x := range avg {
		if x < 0.85*median {
			low++
		}
	}
	if between+within < 1e-9 {
		return math.NaN(), 0
	}
	// Independent GPUs give between = within/width.
	return math.Max(0, (between-within/float64(width-1))/(between+within)), float64(low) / float64(len(avg))
}

func (f *facts) hostFacts(ev *feature.Evidence, ep *run.Episode) {
	f.hostFrac, f.hostCV, f.hostCVIn, f.fabricBps = math.NaN(), math.NaN(), math.NaN(), math.NaN()
	perNode := map[string]int{}
	for _, m := range ep.Members {
		perNode[m.Node]++
	}
	f.ownsNodes = !ep.Shared
	var level, cv, in, fabric mean
	for _, node := range ep.Nodes() {
		n := ev.Nodes[node]
		if perNode[node] < n.GPUCount {
			f.ownsNodes = false
		}
		tdp := n.TDPW
		if !(tdp > 0) {
			tdp = tdpOfModel(n.GPUModel)
		}
		tdp *= float64(max(n.GPUCount, perNode[node]))
		cells := ev.Host[node]
		rest := math.Inf(1)
		var own, swings, storage []float64
		for i := range cells {
			c := &cells[i]
			if c.PowerCoverMs > 0 {
				rest = math.Min(rest, c.PowerW)
			}
			if c.MinuteMs < ep.StartMs || c.MinuteMs+minuteMs > ep.EndMs {
				continue
			}
			if c.PowerCoverMs > 0 {
				own = append(own, c.PowerW)
				if c.PowerSD > 0 {
					swings = append(swings, c.PowerSD/c.PowerW)
				}
			}
			if c.FabricCoverMs > 0 {
				fabric.add(c.FabricTxBytes / (float64(c.FabricCoverMs) / 1000))
			}
			if c.StorageCoverMs > 0 {
				storage = append(storage, c.StorageTxBps)
			}
		}
		// At rest a host draws no more than about half of what its GPUs may.
		rest = math.Min(rest, 0.45*tdp)
		// Medians: the ways up and down and single stalls are no part of the level.
		if len(own) > 0 {
			level.add((median(own) - rest) / tdp)
			cv.add(spreadOf(own))
		}
		if len(swings) > 0 {
			in.add(median(swings))
		}
		if f.ownsNodes {
			f.checkpoint = max(f.checkpoint, bursts(storage))
		}
	}
	f.hostFrac, f.hostCV, f.hostCVIn = level.value(), cv.value(), in.value()
	if f.ownsNodes {
		f.fabricBps = fabric.value()
	}
}

// median sorts v and returns its middle.
func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// spreadOf is the distance between the quartiles over the median; NaN under four values.
func spreadOf(v []float64) float64 {
	if len(v) < 4 || median(v) <= 0 {
		return math.NaN()
	}
	return (v[len(v)*3/4] - v[len(v)/4]) / v[len(v)/2]
}

// bursts counts separate minutes of heavy writes to storage between quiet ones: gigabytes
// in a burst, quiet for most of the time.
func bursts(txBps []float64) int {
	n, quiet, in := 0, 0, false
	for _, v := range txBps {
		switch {
		case v > 50e6:
			if !in {
				n++
			}
			in = true
		default:
			in = false
			quiet++
		}
	}
	if 2*quiet < len(txBps) {
		return 0
	}
	return n
}

// Sizes of collective calls. Activations of a decoding step are a batch of tokens (up to
// some hundred) times the hidden size, tens of kilobytes to a few megabytes; those of a
// micro-batch of training, thousands of tokens, start beyond; gradient buckets and shards
// are tens to hundreds of megabytes (frameworks default to 25 MB and more).
const (
	smallCall = 8e6
	largeCall = 12e6
)

func (f *facts) commFacts(ep *run.Episode) {
	var total, grad, large, halo, broadcast float64
	var smallRate, seconds float64
	for _, c := range ep.Comm {
		if c.Calls <= 0 {
			continue
		}
		f.hasComm = true
		sec := math.Max(60, float64(c.LastMs-c.FirstMs)/1000)
		seconds = math.Max(seconds, sec)
		size := c.BytesPerCall()
		perGPU := c.Bytes / float64(max(1, c.GPUs))
		total += perGPU
		switch c.Op {
		case "reducescatter":
			f.reduces = f.reduces || size > 1e6
			grad += perGPU
		case "allreduce":
			if size >= largeCall {
				f.reduces = true
				grad += perGPU
			}
			if size < smallCall {
				smallRate += c.Calls / sec / float64(max(1, c.GPUs))
			}
		case "allgather":
			if size >= largeCall {
				grad += perGPU
			}
		case "sendrecv":
			if c.NRanks == ep.NRanks && c.NRanks > 1 {
				halo += perGPU
			}
		case "broadcast":
			broadcast += perGPU
		case "alltoall":
			f.alltoall = true
		}
		if size >= largeCall {
			large += perGPU
		}
	}
	f.smallRate = smallRate
	if total > 0 {
		f.gradient, f.haloShare, f.broadcasts = grad/total, halo/total, broadcast/total
		f.largeBps = large / math.Max(60, seconds)
	}
}

// tdpOfModel guesses a TDP where the inventory states none.
func tdpOfModel(model string) float64 {
	for _, t := range [...]struct {
		name string
		w    float64
	}{
		{"H100 PCIe", 350}, {"H100 NVL", 400}, {"H100", 700}, {"H200 NVL", 600}, {"H200", 700}, {"H800", 700}, {"H20", 400}, {"GH200", 700},
		{"GB200", 1200}, {"B200", 1000}, {"GB300", 1400}, {"B300", 1100}, {"A100 80GB PCIe", 300}, {"A100-PCIE", 250}, {"A100", 400}, {"A800", 400},
		{"V100", 300}, {"L40", 300}, {"L4", 72}, {"A10", 150}, {"T4", 70}, {"MI300", 750}, {"MI325", 1000}, {"MI250", 560},
	} {
		if containsFold(model, t.name) {
			return t.w
		}
	}
	return 500
}
