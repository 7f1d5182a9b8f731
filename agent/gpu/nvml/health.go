//go:build linux && cgo

package nvml

import (
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// healthField is a field of the batch of vitals. Fields of one vital add up, unless one stands
// in for those before it.
type healthField struct {
	id, scope uint32
	vital     frame.Vital
	limit     int64
	instead   bool // only where none before it has the vital
	link      bool // asked for every link of the GPU
	up        bool // counts the links that are up
}

const (
	anyCount = 1 << 62
	maxLinks = 36
)

var healthFields = [...]healthField{
	{id: nvml.FI_DEV_POWER_CURRENT_LIMIT, vital: frame.PowerLimitMW, limit: maxMW},
	{id: nvml.FI_DEV_POWER_INSTANT, scope: 1, vital: frame.ModulePowerMW, limit: maxMW},
	{id: nvml.FI_DEV_MEMORY_TEMP, vital: frame.MemTempC, limit: maxTempC},
	{id: nvml.FI_DEV_PCIE_REPLAY_COUNTER, vital: frame.PCIeReplays, limit: anyCount},
	{id: nvml.FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS, vital: frame.PCIeErrors, limit: anyCount},
	{id: nvml.FI_DEV_PCIE_COUNT_NON_FATAL_ERROR, vital: frame.PCIeErrors, limit: anyCount},
	{id: nvml.FI_DEV_PCIE_COUNT_FATAL_ERROR, vital: frame.PCIeErrors, limit: anyCount},
	{id: nvml.FI_DEV_PCIE_COUNT_TX_BYTES, vital: frame.PCIeSentBytes, limit: anyCount},
	{id: nvml.FI_DEV_PCIE_COUNT_RX_BYTES, vital: frame.PCIeReceivedBytes, limit: anyCount},
	{id: nvml.FI_DEV_ECC_SBE_VOL_TOTAL, vital: frame.ECCCorrectedVolatile, limit: anyCount},
	{id: nvml.FI_DEV_ECC_DBE_VOL_TOTAL, vital: frame.ECCUncorrectedVolatile, limit: anyCount},
	{id: nvml.FI_DEV_ECC_SBE_AGG_TOTAL, vital: frame.ECCCorrectedAggregate, limit: anyCount},
	{id: nvml.FI_DEV_ECC_DBE_AGG_TOTAL, vital: frame.ECCUncorrectedAggregate, limit: anyCount},
	{id: nvml.FI_DEV_REMAPPED_COR, vital: frame.RowsRemappedCorrected, limit: 1 << 32},
	{id: nvml.FI_DEV_REMAPPED_UNC, vital: frame.RowsRemappedUncorrected, limit: 1 << 32},
	{id: nvml.FI_DEV_REMAPPED_PENDING, vital: frame.RowRemapPending, limit: 1},
	{id: nvml.FI_DEV_REMAPPED_FAILURE, vital: frame.RowRemapFailed, limit: 1},
	{id: nvml.FI_DEV_RETIRED_SBE, vital: frame.PagesRetired, limit: 1 << 32},
	{id: nvml.FI_DEV_RETIRED_DBE, vital: frame.PagesRetired, limit: 1 << 32},
	{id: nvml.FI_DEV_NVLINK_GET_STATE, vital: frame.NVLinksUp, limit: 1 << 8, link: true, up: true},
	{id: nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, scope: allLinks, vital: frame.NVLinkSentKiB, limit: anyCount},
	{id: nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX, scope: allLinks, vital: frame.NVLinkReceivedKiB, limit: anyCount},
	{id: nvml.FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL, scope: allLinks, vital: frame.NVLinkErrors, limit: anyCount},
	{id: nvml.FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL, scope: allLinks, vital: frame.NVLinkErrors, limit: anyCount},
	{id: nvml.FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, scope: allLinks, vital: frame.NVLinkErrors, limit: anyCount},
	{id: nvml.FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL, scope: allLinks, vital: frame.NVLinkErrors, limit: anyCount},
	// NVLink 5 counts otherwise.
	{id: nvml.FI_DEV_NVLINK_COUNT_RCV_ERRORS, vital: frame.NVLinkErrors, limit: anyCount, link: true, instead: true},
	{id: nvml.FI_DEV_PERF_POLICY_POWER, vital: frame.PowerCappedNs, limit: anyCount},
	{id: nvml.FI_DEV_PERF_POLICY_THERMAL, vital: frame.ThermalCappedNs, limit: anyCount},
	{id: nvml.FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN, vital: frame.ThermalCappedNs, limit: anyCount, instead: true},
	{id: nvml.FI_DEV_PERF_POLICY_SYNC_BOOST, vital: frame.SyncBoostNs, limit: anyCount},
	{id: nvml.FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN, vital: frame.HWSlowdownNs, limit: anyCount},
	{id: nvml.FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN, vital: frame.HWSlowdownNs, limit: anyCount},
	{id: nvml.FI_DEV_GET_GPU_RECOVERY_ACTION, vital: frame.RecoveryAction, limit: 1 << 8},
}

// vitalCalls is how many calls there are before the batch, which ends a look.
const vitalCalls = 6

// patience is how many requests the end of a look waits for one that samples too, which brings
// GPM's counters at no cost.
const patience = 4

// health is a look at the vitals, spread over requests.
type health struct {
	active bool
	step   int // calls made; vitalCalls: only the batch is missing
	waited int
	tookUs int64
	h      frame.Health
}

// begin begins a look, if none is under way.
func (k *health) begin() {
	if !k.active {
		*k = health{active: true}
	}
}

// ending reports whether the look comes to its end in this request, as far as is known at its
// beginning.
func (k *health) ending() bool { return k.active && k.step == vitalCalls }

// vitals goes on with the look, as far as the calls of this second allow.
func (w *worker) vitals() {
	k := &w.health
	if !k.active {
		return
	}
	start, before := time.Now(), w.calls
	ending := k.ending()
	for k.step < vitalCalls && w.left() > 0 && !w.broken {
		w.vital(k.step)
		k.step++
	}
	if ending && w.left() > 0 && !w.broken {
		sampled := w.job.Sample>>w.index&1 == 1
		if k.waited++; sampled || k.waited > patience || !w.gpmWorks() {
			w.conclude(start, before)
			return
		}
	}
	if !w.broken {
		k.tookUs += time.Since(start).Microseconds()
		k.h.Calls += w.calls - before
	}
}

// conclude reads the batch and sends what was found.
func (w *worker) conclude(start time.Time, before int) {
	k := &w.health
	// All counters of this message are of now.
	k.h.ElapsedUs = time.Since(w.job.at).Microseconds()
	w.healthBatch(&k.h)
	if w.broken {
		return
	}
	if w.reserved >= 0 {
		k.h.Set(frame.MemReservedBytes, w.reserved)
	}
	k.active = false
	k.h.GPU, k.h.Seq = w.index, w.job.Seq
	k.h.TookUs, k.h.Calls = k.tookUs+time.Since(start).Microseconds(), k.h.Calls+w.calls-before
	w.out = frame.AppendHealth(w.out, &k.h)
}

// vital makes one of the calls that no field stands for.
func (w *worker) vital(step int) {
	h, d := &w.health.h, w.handle
	switch step {
	case 0:
		if w.may(callPState) {
			if v, ret := d.GetPerformanceState(); w.ok(callPState, ret) && v <= nvml.PSTATE_15 {
				h.Set(frame.PState, int64(v))
			}
		}
	case 1:
		if w.may(callFan) {
			if v, ret := d.GetFanSpeed(); w.ok(callFan, ret) {
				w.vitalOf(callFan, frame.FanE4, int64(v)*100, 20_000) // some fans can do more than they should
			}
		}
	case 2:
		if w.may(callPCIeGen) {
			if v, ret := d.GetCurrPcieLinkGeneration(); w.ok(callPCIeGen, ret) {
				w.vitalOf(callPCIeGen, frame.PCIeGen, int64(v), 64)
			}
		}
	case 3:
		if w.may(callPCIeWidth) {
			if v, ret := d.GetCurrPcieLinkWidth(); w.ok(callPCIeWidth, ret) {
				w.vitalOf(callPCIeWidth, frame.PCIeWidth, int64(v), 64)
			}
		}
	case 4:
		if w.may(callBAR1) {
			if v, ret := d.GetBAR1MemoryInfo(); w.ok(callBAR1, ret) {
				w.vitalOf(callBAR1, frame.BAR1UsedBytes, int64(min(v.Bar1Used, 1<<62)), maxMem)
			}
		}
	case 5:
		if w.may(callThreshold) {
			if v, ret := d.GetTemperatureThreshold(nvml.TEMPERATURE_THRESHOLD_SLOWDOWN); w.ok(callThreshold, ret) {
				w.vitalOf(callThreshold, frame.SlowdownTempC, int64(v), maxTempC)
			}
		}
	}
}

func (w *worker) vitalOf(c call, v frame.Vital, n, limit int64) {
	if n < 0 || n > limit {
		w.implausible(c, "a value that cannot be")
		return
	}
	w.health.h.Set(v, n)
}

// healthBatch reads all vitals that are fields, in one call. A vital of which one part failed is
// absent: a sum that lacks something would look like a counter that was set back.
func (w *worker) healthBatch(h *frame.Health) {
	if !w.able(callHealthFields) {
		return
	}
	now := w.clockUs()
	w.fields, w.asked = w.fields[:0], w.asked[:0]
	var have uint64 // vitals that are asked for
	for i := range healthFields {
		f := &healthFields[i]
		if w.offHealth[i] > now || f.instead && have>>f.vital&1 == 1 {
			continue
		}
		links := 1
		if f.link {
			links = min(max(w.device.NVLinks, 0), maxLinks)
		}
		for l := range links {
			scope := f.scope
			if f.link {
				scope = uint32(l)
			}
			w.ask(uint8(i), f.id, scope)
			have |= 1 << f.vital
		}
	}
	if !w.gather(callHealthFields) {
		return
	}
	var failed uint64
	var linked [len(healthFields)]bool // some link answered
	for i, at := range w.asked {
		f := &healthFields[at]
		n, got := w.value(callHealthFields, &w.fields[i], f.limit, &w.offHealth[at], now)
		linked[at] = linked[at] || got && f.link
		switch {
		case w.broken:
			return
		case !got && w.offHealth[at] == 0:
			failed |= 1 << f.vital
		case !got:
		case f.up:
			h.Set(f.vital, h.Values[f.vital]+min(n, 1))
		case h.Values[f.vital] > f.limit-n:
			failed |= 1 << f.vital
		default:
			h.Set(f.vital, h.Values[f.vital]+n)
		}
	}
	for i, some := range linked {
		if some {
			w.offHealth[i] = 0 // one link that has it not does not speak for the others
		}
	}
	h.Present &^= failed
}
