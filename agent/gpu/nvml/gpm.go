//go:build linux && cgo

package nvml

import (
	"math"
	"slices"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

const (
	gpmSpacingUs = 100_000        // the driver refreshes its samples no faster
	gpmOldUs     = 60 * 1_000_000 // an average over more says nothing about now
)

// gpmMetric is a metric of the GPU performance monitor and what is made of it.
type gpmMetric struct {
	id     nvml.GpmMetricId
	metric frame.Metric
	scale  float64
	limit  float64     // of the library's value
	vital  frame.Vital // where metric is noMetric
}

// noMetric is where what is read goes to the vitals.
const noMetric = frame.NumMetrics

// Percent may come out a little above 100, as counter and clock are not read at once.
const (
	percentLimit = 110
	mibLimit     = 64 << 20 // 64 TiB/s
	mib          = 1 << 20
	cyclesLimit  = 1<<63 - 1<<10 // a sum over 132 SMs gets there in a year
)

var gpmMetrics = []gpmMetric{
	{nvml.GPM_METRIC_GRAPHICS_UTIL, frame.GREngineE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_SM_UTIL, frame.SMActiveE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_SM_OCCUPANCY, frame.SMOccupancyE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_INTEGER_UTIL, frame.IntE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_ANY_TENSOR_UTIL, frame.TensorE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_DFMA_TENSOR_UTIL, frame.DFMAE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_HMMA_TENSOR_UTIL, frame.HMMAE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_IMMA_TENSOR_UTIL, frame.IMMAE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_DRAM_BW_UTIL, frame.DRAME4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_FP64_UTIL, frame.FP64E4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_FP32_UTIL, frame.FP32E4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_FP16_UTIL, frame.FP16E4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_PCIE_TX_PER_SEC, frame.PCIeTxBps, mib, mibLimit, 0},
	{nvml.GPM_METRIC_PCIE_RX_PER_SEC, frame.PCIeRxBps, mib, mibLimit, 0},
	{nvml.GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC, frame.NVLinkTxBps, mib, mibLimit, 0},
	{nvml.GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC, frame.NVLinkRxBps, mib, mibLimit, 0},
	// Decoders come with the same call; their mean is what is told. There is no such cheap
	// way to encoders on the GPUs that have this monitor: absent.
	{nvml.GPM_METRIC_NVDEC_0_UTIL, frame.NVDecE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_NVDEC_1_UTIL, frame.NVDecE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_NVDEC_2_UTIL, frame.NVDecE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_NVDEC_3_UTIL, frame.NVDecE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_NVDEC_4_UTIL, frame.NVDecE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_NVDEC_5_UTIL, frame.NVDecE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_NVDEC_6_UTIL, frame.NVDecE4, 100, percentLimit, 0},
	{nvml.GPM_METRIC_NVDEC_7_UTIL, frame.NVDecE4, 100, percentLimit, 0},
	// Counters since boot, of the newest drivers. As they are: whether they are sums or means
	// over the SMs is not documented, but both are counted alike, and their ratio is TensorE4.
	{nvml.GPM_METRIC_SM_CYCLES_ELAPSED, frame.SMCyclesElapsed, 1, cyclesLimit, 0},
	{nvml.GPM_METRIC_MMA_CYCLES_ACTIVE, frame.MMACycles, 1, cyclesLimit, 0},
}

// gpmVitals are asked for now and then, in the same call.
var gpmVitals = []gpmMetric{
	{nvml.GPM_METRIC_SM_CYCLES_ACTIVE, noMetric, 1, cyclesLimit, frame.CyclesActive},
	{nvml.GPM_METRIC_DMMA_CYCLES_ACTIVE, noMetric, 1, cyclesLimit, frame.CyclesDMMA},
	{nvml.GPM_METRIC_HMMA_CYCLES_ACTIVE, noMetric, 1, cyclesLimit, frame.CyclesHMMA},
	{nvml.GPM_METRIC_IMMA_CYCLES_ACTIVE, noMetric, 1, cyclesLimit, frame.CyclesIMMA},
	{nvml.GPM_METRIC_DFMA_CYCLES_ACTIVE, noMetric, 1, cyclesLimit, frame.CyclesDFMA},
	{nvml.GPM_METRIC_INTEGER_CYCLES_ACTIVE, noMetric, 1, cyclesLimit, frame.CyclesInt},
	{nvml.GPM_METRIC_FP64_CYCLES_ACTIVE, noMetric, 1, cyclesLimit, frame.CyclesFP64},
	{nvml.GPM_METRIC_FP32_CYCLES_ACTIVE, noMetric, 1, cyclesLimit, frame.CyclesFP32},
	{nvml.GPM_METRIC_FP16_CYCLES_ACTIVE, noMetric, 1, cyclesLimit, frame.CyclesFP16},
}

// gpmParts are those that say something of a part of a GPU.
var gpmParts = slices.DeleteFunc(slices.Clone(gpmMetrics), func(m gpmMetric) bool {
	return m.counts() || m.metric == frame.NVDecE4 || m.metric == frame.NVLinkTxBps || m.metric == frame.NVLinkRxBps
})

// counts reports whether it is a counter since boot.
func (m *gpmMetric) counts() bool { return m.limit == cyclesLimit }

// metricSet is what is asked for of some metrics: those that were refused are left out for a while.
type metricSet struct {
	all     []gpmMetric
	list    []gpmMetric // nil: not asked for yet
	allAtUs int64       // when all are asked for again; 0: all are
}

func (s *metricSet) at(now int64) []gpmMetric {
	if s.list == nil || s.allAtUs != 0 && now >= s.allAtUs {
		s.list, s.allAtUs = append(s.list[:0], s.all...), 0
	}
	return s.list
}

// drop leaves metrics out until they are tried again, and says whether there were any.
func (s *metricSet) drop(now int64, out func(*gpmMetric) bool) bool {
	n := len(s.list)
	s.list = slices.DeleteFunc(s.list, func(m gpmMetric) bool { return out(&m) })
	if len(s.list) == n {
		return false
	}
	s.allAtUs = now + retryUs
	return true
}

// pair is two samples of one thing, filled in turn.
type pair struct {
	samples [2]nvml.GpmSample
	alloc   bool
	last    int // of samples
	lastUs  int64
	fresh   bool // last is filled
}

func (p *pair) free(lib *library) {
	if p.alloc && lib.have[callGPMFree] {
		for _, s := range p.samples {
			_ = lib.api.GpmSampleFree(s) // what it would say is of no use any more
		}
	}
	p.alloc, p.fresh = false, false
}

// gpm is the monitor of one GPU. Nobody else takes samples of it in this process.
type gpm struct {
	asked bool // whether the GPU has the monitor
	pair
	sets  [2]metricSet // of gpmMetrics and gpmVitals
	parts metricSet    // of gpmParts
	asks  []gpmMetric  // of one call
	get   nvml.GpmMetricsGetType
}

// gpmWorks reports whether the GPU's monitor can be counted on.
func (w *worker) gpmWorks() bool {
	return w.device.GPM && w.works(callGPMSample) && w.works(callGPMMetrics) && w.works(callGPMAlloc)
}

// activity takes a sample and reads what happened since the last, whoever asked for that: the
// averages of one reading after the other leave out nothing and count nothing twice.
func (w *worker) activity(r *frame.Reading) {
	g := &w.gpm
	if !w.device.GPM || !w.able(callGPMSample) || !w.able(callGPMMetrics) || !w.gpmAlloc(&g.pair) {
		return
	}
	now := w.clockUs()
	if !g.due(now) || !w.both(callGPMSample, g.fresh) {
		return
	}
	next := 1 - g.last
	if ret := w.handle.GpmSampleGet(g.samples[next]); !w.ok(callGPMSample, ret) {
		return
	}
	if g.fresh && now > g.lastUs && now-g.lastUs <= gpmOldUs {
		g.asks = append(g.asks[:0], g.sets[0].at(now)...)
		if w.health.ending() {
			g.asks = append(g.asks, g.sets[1].at(now)...)
		}
		w.metrics(callGPMMetrics, r, g.samples[g.last], g.samples[next], now)
	}
	g.last, g.lastUs, g.fresh = next, now, true
}

// both reports whether a sample may be taken: not, where no call would be left to read what lies
// between it and the last. Then the next will be for a longer time.
func (w *worker) both(c call, fresh bool) bool {
	if fresh && w.left() == 1 {
		w.leave(c)
		return false
	}
	return w.may(c)
}

// due reports whether the last sample is old enough for another.
func (p *pair) due(now int64) bool {
	return !p.fresh || now-p.lastUs >= gpmSpacingUs || now < p.lastUs
}

func (w *worker) gpmAlloc(p *pair) bool {
	if p.alloc {
		return true
	}
	for i := range p.samples {
		if !w.may(callGPMAlloc) {
			return false
		}
		s, ret := w.lib.api.GpmSampleAlloc()
		if !w.ok(callGPMAlloc, ret) {
			if i == 1 && w.lib.have[callGPMFree] {
				_ = w.lib.api.GpmSampleFree(p.samples[0]) // the failure before it counts
			}
			return false
		}
		p.samples[i] = s
	}
	p.alloc, p.fresh, p.last = true, false, 0
	return true
}

// metrics reads what lies between two samples: what gpm.asks names.
func (w *worker) metrics(c call, r *frame.Reading, from, to nvml.GpmSample, now int64) {
	g := &w.gpm
	for len(g.asks) > 0 && w.may(c) {
		for i, m := range g.asks {
			g.get.Metrics[i] = nvml.GpmMetric{MetricId: uint32(m.id)}
		}
		g.get.NumMetrics, g.get.Sample1, g.get.Sample2 = uint32(len(g.asks)), from, to
		ret := w.lib.api.GpmMetricsGet(&g.get)
		w.count(c)
		// Drivers that came before a metric may refuse the whole question: the newest goes first.
		if ret == nvml.ERROR_INVALID_ARGUMENT &&
			(g.without(now, (*gpmMetric).counts) || g.without(now, func(m *gpmMetric) bool { return m.metric == frame.NVDecE4 })) {
			continue
		}
		if w.sort(c, ret) {
			w.understand(c, r, now)
		}
		return
	}
}

// without leaves metrics out of this call and of those to come.
func (g *gpm) without(now int64, out func(*gpmMetric) bool) bool {
	n := len(g.asks)
	g.asks = slices.DeleteFunc(g.asks, func(m gpmMetric) bool { return out(&m) })
	if len(g.asks) == n {
		return false
	}
	for _, s := range [...]*metricSet{&g.sets[0], &g.sets[1], &g.parts} {
		s.drop(now, out)
	}
	return true
}

// understand takes what a call gave for gpm.asks.
func (w *worker) understand(c call, r *frame.Reading, now int64) {
	g := &w.gpm
	var decSum, decs float64
	var refused [len(g.get.Metrics)]bool // by place
	some := false
	for i := range g.asks {
		m, v := &g.asks[i], &g.get.Metrics[i]
		switch ret := nvml.Return(v.NvmlReturn); {
		case ret == nvml.ERROR_NOT_SUPPORTED || ret == nvml.ERROR_INVALID_ARGUMENT:
			refused[i], some = true, true
		case ret != nvml.SUCCESS:
			w.fault(symbols[c][0], int(ret), text(ret))
		case v.MetricId != uint32(m.id) || !(v.Value >= 0 && v.Value <= m.limit): // NaN is neither
			w.implausible(c, "a metric that cannot be")
		case m.metric == noMetric:
			w.health.h.Set(m.vital, int64(v.Value))
		case m.metric == frame.NVDecE4:
			decSum, decs = decSum+min(v.Value, 100), decs+1
		default:
			x := v.Value
			if m.limit == percentLimit {
				x = min(x, 100)
			}
			r.Set(m.metric, int64(math.Round(x*m.scale)))
			r.FromGPM |= 1 << m.metric
			switch {
			case !w.health.ending():
			case m.metric == frame.SMCyclesElapsed:
				w.health.h.Set(frame.CyclesElapsed, int64(v.Value))
			case m.metric == frame.MMACycles:
				w.health.h.Set(frame.CyclesMMA, int64(v.Value))
			}
		}
	}
	if decs > 0 {
		r.Set(frame.NVDecE4, int64(math.Round(decSum/decs*100)))
		r.FromGPM |= 1 << frame.NVDecE4
	}
	if !some {
		return
	}
	out := func(m *gpmMetric) bool {
		i := slices.IndexFunc(g.asks, func(a gpmMetric) bool { return a.id == m.id })
		return i >= 0 && refused[i]
	}
	if c == callMIGMetrics {
		g.parts.drop(now, out)
		return
	}
	g.sets[0].drop(now, out)
	g.sets[1].drop(now, out)
}
