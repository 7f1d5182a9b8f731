//go:build linux && cgo

package nvml

import (
	"math"
	"slices"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// gpmMetric is a metric of the GPU performance monitor and what is made of it.
type gpmMetric struct {
	id     nvml.GpmMetricId
	metric frame.Metric
	scale  float64
	limit  float64 // of the library's value
}

// Percent may come out a little above 100, as counter and clock are not read at once.
const (
	percentLimit = 110
	mibLimit     = 64 << 20 // 64 TiB/s
	mib          = 1 << 20
)

var gpmMetrics = []gpmMetric{
	{nvml.GPM_METRIC_SM_UTIL, frame.SMActiveE4, 100, percentLimit},
	{nvml.GPM_METRIC_SM_OCCUPANCY, frame.SMOccupancyE4, 100, percentLimit},
	{nvml.GPM_METRIC_INTEGER_UTIL, frame.IntE4, 100, percentLimit},
	{nvml.GPM_METRIC_ANY_TENSOR_UTIL, frame.TensorE4, 100, percentLimit},
	{nvml.GPM_METRIC_DFMA_TENSOR_UTIL, frame.DFMAE4, 100, percentLimit},
	{nvml.GPM_METRIC_HMMA_TENSOR_UTIL, frame.HMMAE4, 100, percentLimit},
	{nvml.GPM_METRIC_IMMA_TENSOR_UTIL, frame.IMMAE4, 100, percentLimit},
	{nvml.GPM_METRIC_DRAM_BW_UTIL, frame.DRAME4, 100, percentLimit},
	{nvml.GPM_METRIC_FP64_UTIL, frame.FP64E4, 100, percentLimit},
	{nvml.GPM_METRIC_FP32_UTIL, frame.FP32E4, 100, percentLimit},
	{nvml.GPM_METRIC_FP16_UTIL, frame.FP16E4, 100, percentLimit},
	{nvml.GPM_METRIC_PCIE_TX_PER_SEC, frame.PCIeTxBps, mib, mibLimit},
	{nvml.GPM_METRIC_PCIE_RX_PER_SEC, frame.PCIeRxBps, mib, mibLimit},
	{nvml.GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC, frame.NVLinkTxBps, mib, mibLimit},
	{nvml.GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC, frame.NVLinkRxBps, mib, mibLimit},
	// Decoders come with the same call; their mean is what is told. There is no such cheap
	// way to encoders on the GPUs that have this monitor: absent.
	{nvml.GPM_METRIC_NVDEC_0_UTIL, frame.NVDecE4, 100, percentLimit},
	{nvml.GPM_METRIC_NVDEC_1_UTIL, frame.NVDecE4, 100, percentLimit},
	{nvml.GPM_METRIC_NVDEC_2_UTIL, frame.NVDecE4, 100, percentLimit},
	{nvml.GPM_METRIC_NVDEC_3_UTIL, frame.NVDecE4, 100, percentLimit},
	{nvml.GPM_METRIC_NVDEC_4_UTIL, frame.NVDecE4, 100, percentLimit},
	{nvml.GPM_METRIC_NVDEC_5_UTIL, frame.NVDecE4, 100, percentLimit},
	{nvml.GPM_METRIC_NVDEC_6_UTIL, frame.NVDecE4, 100, percentLimit},
	{nvml.GPM_METRIC_NVDEC_7_UTIL, frame.NVDecE4, 100, percentLimit},
}

// gpm is the monitor of one GPU: two samples, filled in turn.
type gpm struct {
	asked   bool // whether the GPU has the monitor
	samples [2]nvml.GpmSample
	alloc   bool
	last    int // of samples
	lastUs  int64
	fresh   bool // last is filled
	metrics []gpmMetric
	allAtUs int64 // when all metrics are asked for again; 0: all are asked for
	get     nvml.GpmMetricsGetType
}

func (g *gpm) free(lib *library) {
	if !g.alloc || !lib.have[callGPMFree] {
		return
	}
	for _, s := range g.samples {
		_ = lib.api.GpmSampleFree(s) // what it would say is of no use any more
	}
	g.alloc = false
}

// gpmWorks reports whether the GPU's monitor can be counted on.
func (w *worker) gpmWorks() bool {
	return w.device.GPM && w.works(callGPMSample) && w.works(callGPMMetrics) && w.works(callGPMAlloc)
}

// activity takes a sample and reads what happened since the last.
func (w *worker) activity(r *frame.Reading) {
	g := &w.gpm
	if !w.device.GPM || !w.may(callGPMSample) || !w.may(callGPMMetrics) || !w.gpmAlloc() {
		return
	}
	next, now := 1-g.last, w.clockUs()
	if g.fresh && now-g.lastUs < gpmSpacingUs && now >= g.lastUs {
		return
	}
	if ret := w.handle.GpmSampleGet(g.samples[next]); !w.ok(callGPMSample, ret) {
		return
	}
	if g.fresh && now > g.lastUs && now-g.lastUs <= gpmOldUs {
		w.metrics(r, g.samples[g.last], g.samples[next], now)
	}
	g.last, g.lastUs, g.fresh = next, now, true
}

func (w *worker) gpmAlloc() bool {
	g := &w.gpm
	if g.alloc {
		return true
	}
	for i := range g.samples {
		if !w.may(callGPMAlloc) {
			return false
		}
		s, ret := w.lib.api.GpmSampleAlloc()
		if !w.ok(callGPMAlloc, ret) {
			if i == 1 && w.lib.have[callGPMFree] {
				_ = w.lib.api.GpmSampleFree(g.samples[0]) // the failure before it counts
			}
			return false
		}
		g.samples[i] = s
	}
	g.alloc = true
	return true
}

// metrics reads what lies between two samples.
func (w *worker) metrics(r *frame.Reading, from, to nvml.GpmSample, now int64) {
	g := &w.gpm
	if g.metrics == nil || g.allAtUs != 0 && now >= g.allAtUs {
		g.metrics, g.allAtUs = slices.Clone(gpmMetrics), 0
	}
	if len(g.metrics) == 0 {
		return
	}
	for i, m := range g.metrics {
		g.get.Metrics[i] = nvml.GpmMetric{MetricId: uint32(m.id)}
	}
	g.get.NumMetrics, g.get.Sample1, g.get.Sample2 = uint32(len(g.metrics)), from, to
	ret := w.lib.api.GpmMetricsGet(&g.get)
	if ret == nvml.ERROR_INVALID_ARGUMENT && g.metrics[len(g.metrics)-1].metric == frame.NVDecE4 {
		// Drivers that came before a metric may refuse the whole question.
		w.calls++
		g.drop(now, func(m gpmMetric) bool { return m.metric == frame.NVDecE4 })
		return
	}
	if !w.ok(callGPMMetrics, ret) {
		return
	}
	var decSum, decs float64
	var unsupported [len(g.get.Metrics)]bool
	drop := false
	for i, m := range g.metrics {
		v := &g.get.Metrics[i]
		switch ret := nvml.Return(v.NvmlReturn); {
		case ret == nvml.ERROR_NOT_SUPPORTED || ret == nvml.ERROR_INVALID_ARGUMENT:
			unsupported[i], drop = true, true
		case ret != nvml.SUCCESS:
			w.fault(symbols[callGPMMetrics][0], int(ret), text(ret))
		case v.MetricId != uint32(m.id) || !(v.Value >= 0 && v.Value <= m.limit): // NaN is neither
			w.fault(symbols[callGPMMetrics][0], frame.CodeImplausible, "a metric that cannot be")
		case m.metric == frame.NVDecE4:
			decSum, decs = decSum+min(v.Value, 100), decs+1
		default:
			x := v.Value
			if m.limit == percentLimit {
				x = min(x, 100)
			}
			r.Set(m.metric, int64(math.Round(x*m.scale)))
			r.FromGPM |= 1 << m.metric
		}
	}
	if decs > 0 {
		r.Set(frame.NVDecE4, int64(math.Round(decSum/decs*100)))
		r.FromGPM |= 1 << frame.NVDecE4
	}
	if drop {
		i := -1
		g.drop(now, func(gpmMetric) bool { i++; return unsupported[i] })
	}
}

// drop leaves metrics out until they are tried again.
func (g *gpm) drop(now int64, out func(gpmMetric) bool) {
	g.metrics = slices.DeleteFunc(g.metrics, out)
	g.allAtUs = now + retryUs
}
