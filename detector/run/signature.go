package run

import (
	"cmp"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// signature is what a training shows of its model and program, as far as measured; NaN
// where not. It outlives restarts.
type signature struct {
	gpus       int
	nranks     int
	memBytes   float64   // plateau of a GPU, the median
	memOf      []float64 // of each, sorted
	loadFrac   float64
	linkBps    float64 // a GPU's links
	periodMs   float64 // of the steps
	folded     bool    // see feature.Peak
	ckptBytes  float64 // the largest file
	tensorFrac float64
	powerW     float64
	dramFrac   float64
	fabricBps  float64 // a node, back-end
	ops        []opSize
}

// opSize is the mean size of one collective operation.
type opSize struct {
	op     string
	nranks int
	bytes  float64
	rate   float64 // calls per second and GPU that reported
	ms     int64   // over which the rate is a mean
}

// signatureOf reads the plateau of an episode after its first minutes. files are what was seen
// written, by node.
func signatureOf(ev *feature.Evidence, e *Episode, files map[string][]feature.Checkpoint) signature {
	s := signature{gpus: e.GPUs(), nranks: e.NRanks, memBytes: math.NaN(), periodMs: math.NaN(), ckptBytes: math.NaN()}
	of := [...]feature.Signal{feature.TensorFrac, feature.PowerW, feature.DRAMFrac, feature.UtilFrac, feature.NVLinkTxBps}
	var sum, ms [len(of)]float64
	var periods []feature.Peak
	for _, m := range e.Members {
		cells := ev.CellsFrom(feature.GPUKey{Node: m.Node, GPU: m.GPU}, m.StartMs)
		lo, hi := steady(cells, m.StartMs, m.EndMs, 4*minuteMs)
		for i := lo; i < hi; i++ {
			c := &cells[i]
			for x, sig := range of {
				if c.Has(sig) {
					sum[x] += c.Mean[sig] * float64(c.CoverMs[sig])
					ms[x] += float64(c.CoverMs[sig])
				}
			}
			if c.Rhythm.PeriodMs > 0 {
				periods = append(periods, c.Rhythm)
			}
		}
		if v := upperQuartile(cells[lo:hi], feature.MemUsedBytes); !math.IsNaN(v) {
			s.memOf = append(s.memOf, v)
		}
	}
	if len(s.memOf) > 0 {
		slices.Sort(s.memOf)
		s.memBytes = s.memOf[len(s.memOf)/2]
	}
	mean := func(x int) float64 {
		if ms[x] == 0 {
			return math.NaN()
		}
		return sum[x] / ms[x]
	}
	s.tensorFrac, s.powerW, s.dramFrac, s.loadFrac, s.linkBps = mean(0), mean(1), mean(2), mean(3), mean(4)
	if len(periods) == 0 {
		for _, node := range e.Nodes() {
			cells := ev.Host[node]
			lo, hi := nodeRange(cells, e.StartMs, e.EndMs)
			for i := lo; i < hi; i++ {
				if cells[i].Rhythm.PeriodMs > 0 {
					periods = append(periods, cells[i].Rhythm)
				}
			}
		}
	}
	s.periodMs, s.folded = settled(periods)
	for _, node := range e.Nodes() {
		for _, f := range files[node] {
			if f.AtMs >= e.StartMs && f.AtMs <= e.EndMs && (!e.Shared || ofProcess(e, f)) && !(f.Bytes <= s.ckptBytes) {
				s.ckptBytes = f.Bytes
			}
		}
	}
	s.fabricBps = math.NaN()
	if !e.Shared {
		var watts float64
		if s.fabricBps, watts = hostLevels(ev, e); e.Basis == BasisPower {
			s.powerW = watts
		}
	}
	for _, c := range e.Comm {
		if sec := float64(c.LastMs-c.FirstMs) / 1000; c.Calls > 0 && sec > 0 {
			s.ops = append(s.ops, opSize{c.Op, c.NRanks, c.BytesPerCall(), c.Calls / sec / float64(c.GPUs), c.LastMs - c.FirstMs})
		}
	}
	return s
}

// hostLevels are the medians over minutes of the back-end traffic of a node and of the
// watts of a host per GPU, after the first minutes of the episode; NaN where not measured.
func hostLevels(ev *feature.Evidence, e *Episode) (bps, watts float64) {
	const skip = 5 * minuteMs
	var traffic, power []float64
	for _, node := range e.Nodes() {
		cells := ev.Host[node]
		lo, hi := nodeRange(cells, e.StartMs+skip, e.EndMs-minuteMs)
		for i := lo; i < hi; i++ {
			c := &cells[i]
			for range max(1, (c.EndMs()-c.MinuteMs)/minuteMs) { // a cell's weight is its time
				if c.FabricCoverMs > 0 {
					traffic = append(traffic, c.FabricTxBytes/(float64(c.FabricCoverMs)/1000))
				}
				if c.PowerCoverMs > 0 {
					power = append(power, c.PowerW)
				}
			}
		}
	}
	mid := func(v []float64) float64 {
		if len(v) < 4 {
			return math.NaN()
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	perNode := float64(e.GPUs()) / float64(len(e.Nodes()))
	return mid(traffic), mid(power) / perNode
}

// nodeRange returns the indices of the cells that touch [start, end).
func nodeRange(cells []feature.NodeCell, start, end int64) (lo, hi int) {
	lo = sort.Search(len(cells), func(i int) bool { return cells[i].EndMs() > start })
	hi = sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs >= end })
	return lo, max(lo, hi)
}

// settled is the period that most of the peaks show, NaN where they do not agree.
func settled(peaks []feature.Peak) (periodMs float64, folded bool) {
	if len(peaks) < 3 {
		return math.NaN(), false
	}
	slices.SortFunc(peaks, func(a, b feature.Peak) int { return cmp.Compare(a.PeriodMs, b.PeriodMs) })
	mid := peaks[len(peaks)/2]
	near, fold := 0, 0
	for _, p := range peaks {
		if math.Abs(p.PeriodMs-mid.PeriodMs) <= 0.04*mid.PeriodMs {
			near++
		}
		if p.Folded {
			fold++
		}
	}
	if 2*near < len(peaks) {
		return math.NaN(), false
	}
	return mid.PeriodMs, 2*fold > len(peaks)
}

// checkpointsOf lists the checkpoints of each node.
func checkpointsOf(ev *feature.Evidence) map[string][]feature.Checkpoint {
	if len(ev.Checkpoints) == 0 {
		return nil
	}
	out := map[string][]feature.Checkpoint{}
	for _, c := range ev.Checkpoints {
		out[c.Node] = append(out[c.Node], c)
	}
	return out
}

func ofProcess(e *Episode, f feature.Checkpoint) bool {
	return slices.Contains(e.Procs, ProcRef{f.Node, f.PID})
}

// commonSize reports a size that many models share: a default bucket (25 or 32 MB, MB or
// MiB), or a power of two.
func commonSize(bytes float64) bool {
	for _, v := range [...]float64{25e6, 32e6, 25 << 20, 50e6, 100e6} {
		if math.Abs(bytes-v) < 0.01*v {
			return true
		}
	}
	l := math.Log2(bytes)
	return math.Abs(l-math.Round(l)) < 0.01
}

// compareOps scores the likeness of two mixes of collectives: 1 for sizes that fit
// within a per cent and are a model's own, less for common sizes, negative where the
// operations or sizes differ. known is false where one of them was not seen.
func compareOps(a, b []opSize) (score float64, known bool, reason string) {
	if len(a) == 0 || len(b) == 0 {
		return 0, false, ""
	}
	match, own, differ := 0, 0, 0
	for _, x := range a {
		best := math.Inf(1)
		for _, y := range b {
			if y.op == x.op {
				best = math.Min(best, math.Abs(x.bytes-y.bytes)/math.Max(x.bytes, y.bytes))
			}
		}
		switch {
		case best <= 0.01:
			match++
			if !commonSize(x.bytes) {
				own++
			}
		case best > 0.04:
			differ++
		}
	}
	switch {
	case differ > match:
		return -1, true, "the sizes of collective calls differ"
	case own > 0:
		return 1, true, "collective calls have the same sizes"
	case match > 0:
		return 0.3, true, "collective calls have the same, common sizes"
	}
	return 0, true, ""
}

// stem is the name of the chain that a numbered job id belongs to: "name-3" gives "name".
// A bare number is no name.
func stem(id string) (name string, ok bool) {
	i := len(id)
	for i > 0 && id[i-1] >= '0' && id[i-1] <= '9' {
		i--
	}
	if i == len(id) || i == 0 || len(id)-i > 6 {
		return "", false
	}
	name = strings.TrimRight(id[:i], "-_.")
	if name == id[:i] || len(name) < 3 { // no separator, or hardly a name
		return "", false
	}
	return name, true
}

// compareJobs scores what two job ids declare: same job 1, same chain 0.9, two named
// chains that differ -0.4, nothing to compare 0.
func compareJobs(a, b []string) (score float64, reason string) {
	named := false
	for _, x := range a {
		for _, y := range b {
			if x == y {
				return 1, "both are job " + x
			}
			n, ok := stem(x)
			m, ok2 := stem(y)
			if ok && ok2 {
				if n == m {
					return 0.9, "jobs " + x + " and " + y + " are one chain"
				}
				named = true
			}
		}
	}
	if named {
		return -0.4, "the jobs have different names"
	}
	return 0, ""
}

// rateMs of a mean even out start-up, stalls and the edges of what was reported.
const rateMs = 15 * minuteMs

// ratesDiffer reports that operations of the same size are called at rates that one model
// would not show: more than a third apart, and all of them.
func ratesDiffer(a, b []opSize) bool {
	differ := false
	for _, x := range a {
		for _, y := range b {
			if min(x.ms, y.ms) < rateMs || x.op != y.op || x.nranks != y.nranks || math.Abs(x.bytes-y.bytes) > 0.01*math.Max(x.bytes, y.bytes) {
				continue
			}
			if math.Abs(x.rate-y.rate) <= 0.3*math.Max(x.rate, y.rate) {
				return false
			}
			differ = true
		}
	}
	return differ
}
