//go:build linux && cgo

package nvml

import (
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// lists is a GPU, or a part of one, that gives lists of processes.
type lists struct {
	nvml.Device
	list     []nvml.ProcessInfo
	ret, mps nvml.Return
}

func (l *lists) GetComputeRunningProcesses() ([]nvml.ProcessInfo, nvml.Return) { return l.list, l.ret }

func (l *lists) GetMPSComputeRunningProcesses() ([]nvml.ProcessInfo, nvml.Return) {
	return nil, l.mps
}

// looks makes a worker that may make all calls, and a look at its processes.
func looks(t *testing.T) (w *worker, look func() frame.Processes) {
	t.Helper()
	lib := &library{}
	for _, c := range []call{callProcesses, callMPS, callMIGProcesses} {
		lib.have[c] = true
	}
	w = newWorker(lib, nil, newListener(lib, nil), 0)
	w.device.MemTotalBytes = 80 << 30
	return w, func() frame.Processes {
		t.Helper()
		w.out, w.allowed, w.look.step = w.out[:0], 1<<20, 0
		w.processes()
		var last frame.Processes
		for rest := w.out; len(rest) > 0; {
			n := int(rest[0]) | int(rest[1])<<8 | int(rest[2])<<16 // of the header: the body's length, little endian; the type; a checksum
			if frame.Type(rest[4]) == frame.TypeProcesses {
				if err := frame.DecodeProcesses(rest[9:9+n], &last); err != nil {
					t.Fatal(err)
				}
			}
			rest = rest[9+n:]
		}
		return last
	}
}

func running(pids ...uint32) []nvml.ProcessInfo {
	list := make([]nvml.ProcessInfo, len(pids))
	for i, pid := range pids {
		list[i] = nvml.ProcessInfo{Pid: pid, GpuInstanceId: noInstance, ComputeInstanceId: noInstance}
	}
	return list
}

// A list that lacks one instance is not the GPU's, whichever it is, and why it does.
func TestPartsOfAList(t *testing.T) {
	for _, at := range []int{0, 3, 6} {
		for _, ret := range []nvml.Return{nvml.ERROR_UNKNOWN, nvml.ERROR_NO_PERMISSION, nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_NOT_FOUND} {
			w, look := looks(t)
			parts := make([]*lists, 7)
			for i := range parts {
				parts[i] = &lists{list: []nvml.ProcessInfo{{Pid: uint32(500 + i), GpuInstanceId: uint32(i), ComputeInstanceId: 0}}}
				w.mig.parts = append(w.mig.parts, part{Instance: frame.Instance{GI: i, UUID: "MIG-" + string(rune('a'+i))}, handle: parts[i]})
			}
			if p := look(); !p.Known || len(p.List) != 7 || p.Why != "" {
				t.Fatalf("all answer: %+v", p)
			}
			parts[at].ret = ret
			for n := range 2 { // the second time, what was refused is not asked again
				if p := look(); p.Known || len(p.List) > 6 || p.Why == "" {
					t.Errorf("instance %d, code %d, look %d: %+v", at, ret, n, p)
				}
			}
			clear(w.off[:])
			parts[at].ret = nvml.SUCCESS
			if p := look(); !p.Known || len(p.List) != 7 || p.Why != "" {
				t.Errorf("instance %d answers again: %+v", at, p)
			}
		}
	}
}

// Why a whole GPU's list is not known, and what a driver without MPS does not hide.
func TestWholeLists(t *testing.T) {
	many := make([]uint32, frame.MaxProcesses+1)
	for i := range many {
		many[i] = uint32(i + 100)
	}
	for name, c := range map[string]struct {
		gpu   lists
		known bool
		why   string
	}{
		"all":             {lists{list: running(7)}, true, ""},
		"no MPS":          {lists{list: running(7), mps: nvml.ERROR_NOT_SUPPORTED}, true, ""},
		"MPS refused":     {lists{list: running(7), mps: nvml.ERROR_NO_PERMISSION}, false, "MPSComputeRunningProcesses_v3: no permission"},
		"not supported":   {lists{ret: nvml.ERROR_NOT_SUPPORTED}, false, "ComputeRunningProcesses_v3: not supported"},
		"no permission":   {lists{ret: nvml.ERROR_NO_PERMISSION}, false, "ComputeRunningProcesses_v3: no permission"},
		"unknown":         {lists{ret: nvml.ERROR_UNKNOWN}, false, "unknown error"},
		"too many":        {lists{list: running(many...)}, false, "beyond the first 1024"},
		"as many as fit":  {lists{list: running(many[1:]...)}, true, ""},
		"another layout":  {lists{list: []nvml.ProcessInfo{{Pid: 7}}}, false, "another size"},
		"noise, not more": {lists{list: append(running(many[1:]...), running(0)...)}, true, ""},
	} {
		w, look := looks(t)
		w.handle = &c.gpu
		for n := range 2 {
			if p := look(); p.Known != c.known || !strings.Contains(p.Why, c.why) || c.known != (p.Why == "") {
				t.Errorf("%s, look %d: known %v, %q", name, n, p.Known, p.Why)
			}
		}
	}
	w, look := looks(t)
	w.handle = &lists{list: running(7)}
	w.lib.have[callProcesses] = false
	if p := look(); p.Known || !strings.Contains(p.Why, "the driver's library has no nvml") {
		t.Errorf("no such function: %+v", p)
	}
}
