//go:build linux && cgo

package nvml

import (
	"fmt"
	"slices"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

const (
	retryUs      = 10 * 60 * 1_000_000 // until what was not supported is tried again
	gpmSpacingUs = 100_000             // the driver refreshes its samples no faster
	gpmOldUs     = 60 * 1_000_000      // an average over more says nothing about now
	maxCalls     = 12                  // for a request, but for the first; a description waits for room
)

// worker reads one GPU. It belongs to the goroutine of run.
type worker struct {
	lib   *library
	link  *link
	index int
	jobs  chan message
	out   []byte

	handle    nvml.Device // nil: not yet, or lost
	described bool
	next      int          // part of describe, while it is described again; behind the last: it is not
	renewed   bool         // device is to be sent, even if it is what it was
	device    frame.Device // as last described
	told      frame.Device // as last sent
	off       [numCalls]int64
	offField  [numFields]int64
	gpm       gpm
	fields    []nvml.FieldValue
	asked     []field // of fields, in the same order
	list      frame.Processes

	// Of the request that is being answered.
	job    message
	calls  int
	broken bool // no more calls: the GPU is lost, or the library no longer fits
}

func newWorker(lib *library, l *link, index int) *worker {
	w := &worker{lib: lib, link: l, index: index, jobs: make(chan message, 1)}
	w.reset()
	return w
}

// reset forgets what the GPU was.
func (w *worker) reset() {
	w.handle, w.described, w.next, w.renewed = nil, false, numDescriptions, false
	w.device = frame.Unknown(w.index)
	w.device.DriverVersion = w.lib.driver
	clear(w.off[:])
	clear(w.offField[:])
	w.gpm.fresh, w.gpm.asked = false, false
}

func (w *worker) run() {
	for m := range w.jobs {
		w.job, w.calls, w.broken = m, 0, false
		start := time.Now()
		bit := uint64(1) << w.index
		w.out = w.out[:0]
		w.guard(func() { w.look(m.Type == frame.TypeDescribe) })
		// Not before it has said who it is: the agent may know another by this index.
		if m.Sample&bit != 0 && w.described && !w.broken {
			w.guard(w.pass)
		}
		if m.Processes&bit == 0 && !w.broken { // a list takes what is left of the budget
			w.guard(w.refresh)
		}
		if w.described {
			w.capabilities()
			if w.renewed || !same(w.device, w.told) {
				w.renewed = false
				// In front of the reading: who reads it wants to know whose it is.
				w.out = append(frame.AppendDevice(nil, &w.device), w.out...)
				w.told = w.device
				w.told.Capabilities = slices.Clone(w.device.Capabilities)
			}
		}
		if m.Processes&bit != 0 && w.handle != nil && !w.broken {
			w.flush() // the reading does not wait for the list, which may take long
			w.guard(w.processes)
		}
		done := frame.Done{GPU: w.index, Seq: m.Seq, TookUs: time.Since(start).Microseconds(), Calls: w.calls}
		w.out = frame.AppendDone(w.out, &done)
		w.flush()
	}
	w.gpm.free(w.lib)
}

func (w *worker) flush() {
	if len(w.out) > 0 {
		w.link.write(w.out)
		w.out = w.out[:0]
	}
}

// guard lives through what the binding does with counts and sizes that cannot be.
func (w *worker) guard(f func()) {
	defer func() {
		if r := recover(); r != nil {
			w.fault("", frame.CodePanic, fmt.Sprint(r))
		}
	}()
	f()
}

// clockUs is the requests' clock: the agent's tick, and what has passed since it was heard.
func (w *worker) clockUs() int64 {
	return w.job.BootMs*1000 + time.Since(w.job.at).Microseconds()
}

func (w *worker) fault(function string, code int, what string) {
	f := frame.Fault{GPU: w.index, Seq: w.job.Seq, Function: function, Code: code, Text: what}
	w.out = frame.AppendFault(w.out, &f)
}

// may reports whether a function is there, and not known to be unsupported.
func (w *worker) may(c call) bool {
	return !w.broken && w.lib.have[c] && (w.off[c] == 0 || w.clockUs() >= w.off[c])
}

// works reports whether a function can be counted on.
func (w *worker) works(c call) bool { return w.lib.have[c] && w.off[c] == 0 }

// ok counts a call and sorts what it returned. False: there is no value.
func (w *worker) ok(c call, ret nvml.Return) bool {
	w.calls++
	switch ret {
	case nvml.SUCCESS:
		w.off[c] = 0
		return true
	case nvml.ERROR_NOT_SUPPORTED:
		w.off[c] = w.clockUs() + retryUs
		return false
	case nvml.ERROR_NO_PERMISSION, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_ARGUMENT_VERSION_MISMATCH, nvml.ERROR_DEPRECATED:
		w.off[c] = w.clockUs() + retryUs
	}
	f := frame.Fault{GPU: w.index, Seq: w.job.Seq, Function: symbols[c][0], Code: int(ret), Text: text(ret)}
	f.Lost, f.Ending = lost(ret), reload(ret)
	w.out = frame.AppendFault(w.out, &f)
	switch {
	case f.Lost:
		w.broken = true
		w.reset()
	case f.Ending:
		w.broken = true
		w.flush()
		w.link.end()
	}
	return false
}

func lost(ret nvml.Return) bool {
	return ret == nvml.ERROR_GPU_IS_LOST || ret == nvml.ERROR_RESET_REQUIRED || ret == nvml.ERROR_GPU_NOT_FOUND
}

// set sets a metric if its value can be.
func (w *worker) set(r *frame.Reading, m frame.Metric, c call, v, limit int64) {
	if v < 0 || v > limit {
		w.fault(symbols[c][0], frame.CodeImplausible, "a value that cannot be")
		return
	}
	r.Set(m, v)
}

// What no GPU will reach for a while: beyond it a value is garbage.
const (
	maxMHz   = 100_000
	maxMW    = 100_000_000
	maxTempC = 500
	maxMem   = 1 << 50
)

// pass reads the GPU once.
func (w *worker) pass() {
	start := time.Now()
	r := frame.Reading{GPU: w.index, GI: frame.WholeGPU, Seq: w.job.Seq, ElapsedUs: start.Sub(w.job.at).Microseconds()}
	before := w.calls
	d := w.handle
	if w.may(callUtilization) {
		if u, ret := d.GetUtilizationRates(); w.ok(callUtilization, ret) {
			if u.Gpu <= 100 && u.Memory <= 100 {
				r.Set(frame.UtilE4, int64(u.Gpu)*100)
				r.Set(frame.MemUtilE4, int64(u.Memory)*100)
			} else {
				w.fault(symbols[callUtilization][0], frame.CodeImplausible, "more than 100 %")
			}
		}
	}
	w.memory(&r)
	if w.may(callClock) {
		if v, ret := d.GetClockInfo(nvml.CLOCK_SM); w.ok(callClock, ret) {
			w.set(&r, frame.SMClockMHz, callClock, int64(v), maxMHz)
		}
	}
	if w.may(callClock) {
		if v, ret := d.GetClockInfo(nvml.CLOCK_MEM); w.ok(callClock, ret) {
			w.set(&r, frame.MemClockMHz, callClock, int64(v), maxMHz)
		}
	}
	if w.may(callTemperature) {
		if v, ret := d.GetTemperature(nvml.TEMPERATURE_GPU); w.ok(callTemperature, ret) {
			w.set(&r, frame.TempC, callTemperature, int64(v), maxTempC)
		}
	} else if w.may(callTemperatureV) {
		if v, ret := d.GetTemperatureV().V1(); w.ok(callTemperatureV, ret) {
			w.set(&r, frame.TempC, callTemperatureV, int64(v.Temperature), maxTempC)
		}
	}
	if w.may(callEventReasons) {
		if v, ret := d.GetCurrentClocksEventReasons(); w.ok(callEventReasons, ret) && int64(v) >= 0 {
			r.Set(frame.ClocksEventReasons, int64(v))
		}
	} else if w.may(callThrottleReasons) {
		if v, ret := d.GetCurrentClocksThrottleReasons(); w.ok(callThrottleReasons, ret) && int64(v) >= 0 {
			r.Set(frame.ClocksEventReasons, int64(v))
		}
	}
	if !w.broken {
		// Counters are what rates are made of: the reading is of this moment.
		r.ElapsedUs = time.Since(w.job.at).Microseconds()
	}
	w.batch(&r)
	w.power(&r)
	w.activity(&r)
	r.TookUs, r.Calls = time.Since(start).Microseconds(), w.calls-before
	if r.Present != 0 {
		w.out = frame.AppendReading(w.out, &r)
	}
}

func (w *worker) memory(r *frame.Reading) {
	if w.may(callMemoryV2) {
		if m, ret := w.handle.GetMemoryInfo_v2(); w.ok(callMemoryV2, ret) {
			w.used(r, callMemoryV2, m.Used, m.Total)
		}
		return
	}
	if w.may(callMemory) {
		if m, ret := w.handle.GetMemoryInfo(); w.ok(callMemory, ret) {
			w.used(r, callMemory, m.Used, m.Total)
		}
	}
}

func (w *worker) used(r *frame.Reading, c call, used, total uint64) {
	if used > total {
		w.fault(symbols[c][0], frame.CodeImplausible, "more memory used than there is")
		return
	}
	w.set(r, frame.MemUsedBytes, c, int64(min(used, 1<<62)), maxMem)
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

// processes lists who has a context on the GPU.
func (w *worker) processes() {
	p := &w.list
	p.GPU, p.Seq, p.Known, p.List = w.index, w.job.Seq, false, p.List[:0]
	if w.may(callProcesses) {
		list, ret := w.handle.GetComputeRunningProcesses()
		w.looped(list)
		if w.ok(callProcesses, ret) {
			p.Known = true
			w.take(list)
		}
	}
	if p.Known && w.may(callMPS) {
		list, ret := w.handle.GetMPSComputeRunningProcesses()
		w.looped(list)
		if w.ok(callMPS, ret) {
			w.take(list)
		}
	}
	w.out = frame.AppendProcesses(w.out, p)
}

// looped counts the calls that go-nvml makes on its own: it asks with room for one first.
func (w *worker) looped(list []nvml.ProcessInfo) {
	if len(list) > 1 {
		w.calls++
	}
}

// take adds what can be: drivers have been seen to list process ids that are noise.
func (w *worker) take(list []nvml.ProcessInfo) {
	p := &w.list
	for _, v := range list {
		if v.Pid == 0 || v.Pid > 1<<31-1 || len(p.List) == frame.MaxProcesses {
			continue
		}
		used := int64(-1) // the driver's "not available" is all ones
		if v.UsedGpuMemory <= uint64(max(w.device.MemTotalBytes, 0)) {
			used = int64(v.UsedGpuMemory)
		}
		at := slices.IndexFunc(p.List, func(q frame.Process) bool { return q.PID == int32(v.Pid) })
		if at < 0 {
			p.List = append(p.List, frame.Process{PID: int32(v.Pid), UsedBytes: used})
		} else {
			p.List[at].UsedBytes = max(p.List[at].UsedBytes, used)
		}
	}
}
