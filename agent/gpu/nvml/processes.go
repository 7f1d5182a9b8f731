//go:build linux && cgo

package nvml

import (
	"slices"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// listCalls is what one list takes at most: the binding asks with room for one process, and
// again where there are more.
const listCalls = 2

// processLook is a look at who has a context on the GPU, spread over requests where the calls
// of one second are not enough.
type processLook struct {
	active bool
	step   int
	known  bool
	list   frame.Processes
}

// sorted reports whether it is known how the GPU is partitioned.
func (w *worker) sorted() bool {
	return (w.whole || w.next > 0) && (w.device.MIGMode != 1 || len(w.mig.parts) > 0 || !w.mig.scanning && !w.mig.wanted)
}

// processes goes on with the look, as far as the calls allow, and sends what was found at its
// end. A GPU that is partitioned is asked for each of its parts: that needs no privilege.
func (w *worker) processes() {
	k := &w.look
	if k.step == 0 {
		k.known, k.list.List = false, k.list.List[:0]
	}
	steps := 2
	if len(w.mig.parts) > 0 {
		steps = len(w.mig.parts)
	}
	for ; k.step < steps; k.step++ {
		if w.left() < listCalls {
			return
		}
		switch {
		case len(w.mig.parts) > 0:
			w.processesOf(&w.mig.parts[k.step])
		case k.step == 0 && w.may(callProcesses):
			list, ret := w.handle.GetComputeRunningProcesses()
			w.looped(list)
			if w.ok(callProcesses, ret) {
				k.known = w.take(callProcesses, list, nil)
			}
		case k.step == 1 && k.known && w.may(callMPS):
			list, ret := w.handle.GetMPSComputeRunningProcesses()
			w.looped(list)
			if w.ok(callMPS, ret) {
				k.known = w.take(callMPS, list, nil)
			}
		}
		if w.broken {
			return
		}
	}
	k.list.GPU, k.list.Seq, k.list.Known = w.index, w.job.Seq, k.known
	k.active, k.step = false, 0
	w.out = frame.AppendProcesses(w.out, &k.list)
}

func (w *worker) processesOf(p *part) {
	if !w.may(callMIGProcesses) {
		return
	}
	list, ret := p.handle.GetComputeRunningProcesses()
	w.looped(list)
	if w.gone(callMIGProcesses, ret) {
		return
	}
	if w.sort(callMIGProcesses, ret) {
		w.look.known = w.take(callMIGProcesses, list, p) && (w.look.known || w.look.step == 0)
	}
}

// looped counts the calls that go-nvml makes on its own: it asks with room for one first.
func (w *worker) looped(list []nvml.ProcessInfo) {
	if len(list) > 1 {
		w.calls++
		w.spent++
	}
}

// noInstance is where a process that is on no instance has the number of one.
const noInstance = 1<<32 - 1

// take adds what can be: drivers have been seen to list process ids that are noise. It reports
// whether the list can be believed. The first drivers of release 535 fill it with entries of
// another size than the binding reads: the first is right, and those behind it are on instances
// that there are not.
func (w *worker) take(c call, list []nvml.ProcessInfo, on *part) (believed bool) {
	p := &w.look.list
	uuid, gi, ci := "", uint32(noInstance), uint32(noInstance)
	if on != nil {
		uuid, gi, ci = on.UUID, uint32(on.GI), uint32(on.CI)
	}
	for i := range list {
		v := &list[i]
		plain := v.GpuInstanceId == noInstance && v.ComputeInstanceId == noInstance
		if !plain && (v.GpuInstanceId != gi || v.ComputeInstanceId != ci) && (on != nil || w.device.MIGMode != 1) {
			w.implausible(c, "a list of processes that cannot be: the driver's entries are of another size")
			return false
		}
		if v.Pid == 0 || v.Pid > 1<<31-1 || len(p.List) == frame.MaxProcesses {
			continue
		}
		used := int64(-1) // the driver's "not available" is all ones
		if v.UsedGpuMemory <= uint64(max(w.device.MemTotalBytes, 0)) {
			used = int64(v.UsedGpuMemory)
		}
		at := slices.IndexFunc(p.List, func(q frame.Process) bool { return q.PID == int32(v.Pid) && q.Instance == uuid })
		if at < 0 {
			p.List = append(p.List, frame.Process{PID: int32(v.Pid), UsedBytes: used, Instance: uuid})
		} else {
			p.List[at].UsedBytes = max(p.List[at].UsedBytes, used)
		}
	}
	return true
}
