//go:build linux && cgo

package nvml

import (
	"slices"
	"strconv"

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
	known  bool // nothing has failed or was skipped so far
	list   frame.Processes
	// refused are why calls are not made for a while: a look without them is not whole either.
	refused map[call]string
}

// unknown notes that there may be processes which the list lacks.
func (k *processLook) unknown(why string) {
	if k.known {
		k.known, k.list.Why = false, frame.Clean(why)
	}
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
		k.known, k.list.List, k.list.Why = true, k.list.List[:0], ""
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
		case k.step == 0:
			w.listBy(callProcesses, w.handle.GetComputeRunningProcesses)
		case k.known: // else the list is not whole anyway
			w.listBy(callMPS, w.handle.GetMPSComputeRunningProcesses)
		}
		if w.broken {
			return
		}
	}
	k.list.GPU, k.list.Seq, k.list.Known = w.index, w.job.Seq, k.known
	k.active, k.step = false, 0
	w.out = frame.AppendProcesses(w.out, &k.list)
}

// listBy asks for processes of the whole GPU.
func (w *worker) listBy(c call, ask func() ([]nvml.ProcessInfo, nvml.Return)) {
	if !w.may(c) {
		w.unasked(c)
		return
	}
	list, ret := ask()
	w.looped(list)
	if w.ok(c, ret) {
		w.take(c, list, nil)
		return
	}
	w.unlisted(c, ret)
}

func (w *worker) processesOf(p *part) {
	if !w.may(callMIGProcesses) {
		w.unasked(callMIGProcesses)
		return
	}
	list, ret := p.handle.GetComputeRunningProcesses()
	w.looped(list)
	if w.gone(callMIGProcesses, ret) {
		w.look.unknown("MIG device " + p.UUID + " went away while its processes were listed")
		return
	}
	if w.sort(callMIGProcesses, ret) {
		w.take(callMIGProcesses, list, p)
		return
	}
	w.unlisted(callMIGProcesses, ret)
}

// unlisted notes a call that gave no list. A driver that knows nothing of MPS has no clients of
// it to hide.
func (w *worker) unlisted(c call, ret nvml.Return) {
	if c == callMPS && (ret == nvml.ERROR_NOT_SUPPORTED || ret == nvml.ERROR_FUNCTION_NOT_FOUND) {
		delete(w.look.refused, c)
		return
	}
	why := symbols[c][0] + ": " + text(ret)
	if w.off[c] != 0 {
		if w.look.refused == nil {
			w.look.refused = map[call]string{}
		}
		w.look.refused[c] = why
	}
	w.look.unknown(why)
}

// unasked notes a call that is not made: the driver lacks it, or refused it a while ago.
func (w *worker) unasked(c call) {
	switch why, refused := w.look.refused[c]; {
	case !w.lib.have[c] && c != callMPS:
		w.look.unknown("the driver's library has no " + symbols[c][0])
	case refused:
		w.look.unknown(why)
	case w.able(c) || c != callMPS:
		w.look.unknown(symbols[c][0] + " was not called, as the calls of this second are used up")
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
			w.look.unknown(symbols[c][0] + ": the driver's entries are of another size than its own header says")
			return false
		}
		if v.Pid == 0 || v.Pid > 1<<31-1 {
			continue
		}
		used := int64(-1) // the driver's "not available" is all ones
		if v.UsedGpuMemory <= uint64(max(w.device.MemTotalBytes, 0)) {
			used = int64(v.UsedGpuMemory)
		}
		at := slices.IndexFunc(p.List, func(q frame.Process) bool { return q.PID == int32(v.Pid) && q.Instance == uuid })
		switch {
		case at >= 0:
			p.List[at].UsedBytes = max(p.List[at].UsedBytes, used)
		case len(p.List) == frame.MaxProcesses:
			w.look.unknown("processes beyond the first " + strconv.Itoa(frame.MaxProcesses) + " are left out")
			return true // one more of them says no more
		default:
			p.List = append(p.List, frame.Process{PID: int32(v.Pid), UsedBytes: used, Instance: uuid})
		}
	}
	return true
}
