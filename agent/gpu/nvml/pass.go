//go:build linux && cgo

package nvml

import (
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// What no GPU will reach for a while: beyond it a value is garbage.
const (
	maxMHz   = 100_000
	maxMW    = 100_000_000
	maxTempC = 500
	maxMem   = 1 << 50
)

// set sets a metric if its value can be.
func (w *worker) set(r *frame.Reading, m frame.Metric, c call, v, limit int64) {
	if v < 0 || v > limit {
		w.implausible(c, "a value that cannot be")
		return
	}
	r.Set(m, v)
}

// pass reads the GPU once. What matters most comes first: if the calls of this second are used
// up, the rest is left out.
func (w *worker) pass() {
	start, before := time.Now(), w.calls
	// Counters are what rates are made of: the reading is of this moment.
	r := frame.Reading{GPU: w.index, GI: frame.WholeGPU, Seq: w.job.Seq, ElapsedUs: start.Sub(w.job.at).Microseconds()}
	kept := w.keep
	w.batch(&r, w.bursting)
	w.activity(&r)
	if w.lean = w.bursting; w.lean && (w.look.active || w.health.active || w.next < numDescriptions) {
		w.keep += listCalls // what waits is not to wait for the last burst
	}
	// From here on only what leaves room for bursts.
	w.power(&r)
	w.clock(&r, nvml.CLOCK_SM, frame.SMClockMHz)
	w.utilization(&r)
	w.memory(&r)
	w.reasons(&r)
	w.temperature(&r)
	w.clock(&r, nvml.CLOCK_MEM, frame.MemClockMHz)
	w.keep = kept
	r.TookUs, r.Calls = time.Since(start).Microseconds(), w.calls-before
	if r.Present != 0 {
		w.out = frame.AppendReading(w.out, &r)
	}
}

// burst reads what moves fast.
func (w *worker) burst(gpmToo bool) {
	start, before := time.Now(), w.calls
	r := frame.Reading{GPU: w.index, GI: frame.WholeGPU, Seq: w.job.Seq, ElapsedUs: start.Sub(w.job.at).Microseconds()}
	w.batch(&r, true)
	if gpmToo {
		w.activity(&r)
	}
	r.TookUs, r.Calls = time.Since(start).Microseconds(), w.calls-before
	if r.Present != 0 {
		w.out = frame.AppendReading(w.out, &r)
	}
}

func (w *worker) utilization(r *frame.Reading) {
	if !w.may(callUtilization) {
		return
	}
	u, ret := w.handle.GetUtilizationRates()
	if !w.ok(callUtilization, ret) {
		return
	}
	if u.Gpu > 100 || u.Memory > 100 {
		w.implausible(callUtilization, "more than 100 %")
		return
	}
	r.Set(frame.UtilE4, int64(u.Gpu)*100)
	r.Set(frame.MemUtilE4, int64(u.Memory)*100)
}

func (w *worker) clock(r *frame.Reading, which nvml.ClockType, m frame.Metric) {
	if w.may(callClock) {
		if v, ret := w.handle.GetClockInfo(which); w.ok(callClock, ret) {
			w.set(r, m, callClock, int64(v), maxMHz)
		}
	}
}

func (w *worker) temperature(r *frame.Reading) {
	if w.able(callTemperature) {
		if w.may(callTemperature) {
			if v, ret := w.handle.GetTemperature(nvml.TEMPERATURE_GPU); w.ok(callTemperature, ret) {
				w.set(r, frame.TempC, callTemperature, int64(v), maxTempC)
			}
		}
	} else if w.may(callTemperatureV) {
		if v, ret := w.handle.GetTemperatureV().V1(); w.ok(callTemperatureV, ret) {
			w.set(r, frame.TempC, callTemperatureV, int64(v.Temperature), maxTempC)
		}
	}
}

func (w *worker) reasons(r *frame.Reading) {
	if w.able(callEventReasons) {
		if w.may(callEventReasons) {
			if v, ret := w.handle.GetCurrentClocksEventReasons(); w.ok(callEventReasons, ret) && int64(v) >= 0 {
				r.Set(frame.ClocksEventReasons, int64(v))
			}
		}
	} else if w.may(callThrottleReasons) {
		if v, ret := w.handle.GetCurrentClocksThrottleReasons(); w.ok(callThrottleReasons, ret) && int64(v) >= 0 {
			r.Set(frame.ClocksEventReasons, int64(v))
		}
	}
}

func (w *worker) memory(r *frame.Reading) {
	if w.able(callMemoryV2) {
		if w.may(callMemoryV2) {
			if m, ret := w.handle.GetMemoryInfo_v2(); w.ok(callMemoryV2, ret) {
				w.used(r, callMemoryV2, m.Used, m.Total)
				w.reserved = sane(m.Reserved, m.Total)
			}
		}
	} else if w.may(callMemory) {
		if m, ret := w.handle.GetMemoryInfo(); w.ok(callMemory, ret) {
			w.used(r, callMemory, m.Used, m.Total)
		}
	}
}

func (w *worker) used(r *frame.Reading, c call, used, total uint64) {
	if used > total || total > maxMem {
		w.implausible(c, "more memory used than there is")
		return
	}
	if total > 0 {
		w.device.MemTotalBytes = int64(total)
	}
	r.Set(frame.MemUsedBytes, int64(used))
}

// power fills what the batch did not give.
func (w *worker) power(r *frame.Reading) {
	if !r.Has(frame.PowerMW) && w.may(callPower) {
		if v, ret := w.handle.GetPowerUsage(); w.ok(callPower, ret) {
			w.set(r, frame.PowerMW, callPower, int64(v), maxMW)
		}
	}
	if !r.Has(frame.EnergyMJ) && w.may(callEnergy) {
		if v, ret := w.handle.GetTotalEnergyConsumption(); w.ok(callEnergy, ret) {
			w.set(r, frame.EnergyMJ, callEnergy, int64(min(v, 1<<63-1)), 1<<62)
		}
	}
}
