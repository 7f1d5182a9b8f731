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

	util             float64
	powerFrac        float64 // of TDP
	powerCV          float64 // over busy minutes
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
	pools            float64 // 0 to 1: some of the GPUs decode while others train
	stall            float64 // share of the variance of load over minutes that the GPUs have in common
	stalls           float64 // sharp dips of all GPUs together, a minute
	alone            float64 // sharp dips of single GPUs, a minute and GPU
	belied           float64 // share of minutes in which counters of activity read zero while watts show work

	rhythm     float64 // share of busy time in which a period was found
	rhythmed   bool    // it was looked for
	rhythmSame float64 // share of it at one period (or a multiple) on all GPUs
	periodS    float64
	folded     bool

	hidden hidden  // a second, steady component beneath the load
	beside besides // whether something else is on the GPUs

	hostFrac   float64 // host watts above rest, of the TDP of its GPUs (BasisPower)
	hostCVIn   float64 // within minutes
	hostCV     float64
	fabricBps  float64 // a node, back-end
	fabricCV   float64 // of its rate within minutes: bursts
	checkpoint int     // bursts of storage writes
	storage    bool    // writes of its nodes, its own alone, were measured
	ownsNodes  bool    // no other activity on its nodes: node figures are its own

	gradient   float64 // share of collective bytes in gradient-like calls
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
	f.beside = besideOf(ev, ep, f.ownsNodes)
	f.tapped = !f.hasComm && tapped(ev, ep)
	return f
}

// split is 1 where GPUs of one host exchange as much as the parts of one model do that is
// split layer by layer over them, whatever is done with it. Gradients of what fits a host make
// gigabytes a step of seconds.
func (f *facts) split() float64 {
	if f.nodes != 1 || f.gpus < 2 || f.hasComm {
		return 0
	}
	if math.IsNaN(f.nvlinkBps) {
		return 0.5
	}
	return ramp(log10(f.nvlinkBps), 9.3, 10)
}

// mean adds up values with weights, skipping what was not measured.
type mean struct{ sum, sq, n float64 }

func (m *mean) add(v float64) { m.weigh(v, 1) }

// weigh adds a value that stands for w minutes, GPUs or whatever is averaged over.
func (m *mean) weigh(v, w float64) {
	if !math.IsNaN(v) {
		m.sum += v * w
		m.sq += v * v * w
		m.n += w
	}
}

func (m *mean) value() float64 {
	if m.n == 0 {
		return math.NaN()
	}
	return m.sum / m.n
}

func (m *mean) sd() float64 {
	if m.n < 1.5 {
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

func (f *facts) hostFacts(ev *feature.Evidence, ep *run.Episode) {
	f.hostFrac, f.hostCV, f.hostCVIn, f.fabricBps, f.fabricCV = math.NaN(), math.NaN(), math.NaN(), math.NaN(), math.NaN()
	perNode := map[string]int{}
	for _, m := range ep.Members {
		perNode[m.Node]++
	}
	f.ownsNodes = !ep.Shared
	var level, cv, in, fabric, bursty mean
	for _, node := range ep.Nodes() {
		n := ev.Nodes[node]
		if perNode[node] < n.GPUCount {
			f.ownsNodes = false
		}
		tdp := n.TDPW
		if !(tdp > 0) {
			tdp = unstatedW
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
			if c.MinuteMs < ep.StartMs || c.EndMs() > ep.EndMs {
				continue
			}
			if c.PowerCoverMs > 0 {
				own = append(own, c.PowerW)
				if c.PowerSD > 0 {
					swings = append(swings, c.PowerSD/c.PowerW)
				}
			}
			if c.FabricCoverMs > 0 {
				bps := c.FabricTxBytes / (float64(c.FabricCoverMs) / 1000)
				fabric.weigh(bps, float64(c.EndMs()-c.MinuteMs)/minuteMs)
				if bps > 10e6 && c.FabricTxCV > 0 {
					bursty.add(c.FabricTxCV)
				}
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
			f.storage = f.storage || 2*float64(len(storage)) > f.minutes
		}
	}
	f.hostFrac, f.hostCV, f.hostCVIn = level.value(), cv.value(), in.value()
	if f.ownsNodes {
		f.fabricBps, f.fabricCV = fabric.value(), bursty.value()
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
	var total, grad, halo, broadcast, smallRate float64
	for _, c := range ep.Comm {
		if c.Calls <= 0 {
			continue
		}
		f.hasComm = true
		sec := math.Max(60, float64(c.LastMs-c.FirstMs)/1000)
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
	}
	f.smallRate = smallRate
	if total > 0 {
		f.gradient, f.haloShare, f.broadcasts = grad/total, halo/total, broadcast/total
	}
}
