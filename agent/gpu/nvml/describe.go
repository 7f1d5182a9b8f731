//go:build linux && cgo

package nvml

import (
	"fmt"
	"slices"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// look takes hold of the GPU if it has to, and describes it if it is not described yet. If it
// has to be described again, it sees whether it is the same, and refresh does the rest.
func (w *worker) look(again bool) {
	if w.handle == nil {
		if !w.may(callHandle) {
			return
		}
		h, ret := w.lib.api.DeviceGetHandleByIndex(w.index)
		if !w.ok(callHandle, ret) {
			return
		}
		w.handle = h
	}
	if w.described && !again || !w.identify() {
		return
	}
	if w.described {
		w.next %= numDescriptions // one that is under way goes on
		return
	}
	for part := range numDescriptions {
		w.describe(part)
	}
	w.described = !w.broken
	w.next, w.renewed = numDescriptions, true
}

// refresh goes on with a description, as far as the budget of calls of this request allows.
func (w *worker) refresh() {
	for w.described && w.next < numDescriptions && w.calls < maxCalls {
		w.describe(w.next)
		w.next++
		w.renewed = w.next == numDescriptions
	}
}

// identify asks who the GPU is. One that has become another ends the process.
func (w *worker) identify() bool {
	d := &w.device
	if !w.may(callUUID) {
		return true
	}
	s, ret := w.handle.GetUUID()
	if !w.ok(callUUID, ret) {
		return false // nobody could tell whose readings these are
	}
	s = frame.Clean(s)
	if d.UUID != "" && d.UUID != s {
		f := frame.Fault{GPU: w.index, Seq: w.job.Seq, Function: symbols[callUUID][0], Text: fmt.Sprintf("the GPU was %s, and is %s now", d.UUID, s), Ending: true}
		w.out = frame.AppendFault(w.out, &f)
		w.broken = true
		w.flush()
		w.link.end()
		return false
	}
	d.UUID = s
	return true
}

// numDescriptions is how many parts describe has.
const numDescriptions = 9

// describe asks for one part of what there is to know of a GPU beside its name: a call or so.
func (w *worker) describe(part int) {
	d, h := &w.device, w.handle
	switch part {
	case 0:
		if w.may(callName) {
			if s, ret := h.GetName(); w.ok(callName, ret) {
				d.Name = frame.Clean(s)
			}
		}
	case 1:
		if w.may(callPCI) {
			if p, ret := h.GetPciInfo(); w.ok(callPCI, ret) {
				d.PCIBusID = frame.Clean(cstring(p.BusId[:]))
			}
		}
	case 2:
		if w.may(callVBIOS) {
			if s, ret := h.GetVbiosVersion(); w.ok(callVBIOS, ret) {
				d.VBIOSVersion = frame.Clean(s)
			}
		}
	case 3:
		if w.may(callMemoryV2) {
			if m, ret := h.GetMemoryInfo_v2(); w.ok(callMemoryV2, ret) {
				d.MemTotalBytes = sane(m.Total, maxMem)
			}
		} else if w.may(callMemory) {
			if m, ret := h.GetMemoryInfo(); w.ok(callMemory, ret) {
				d.MemTotalBytes = sane(m.Total, maxMem)
			}
		}
	case 4:
		if w.may(callPowerLimit) {
			// The board's own: the enforced one is what somebody has set it to for now.
			if v, ret := h.GetPowerManagementDefaultLimit(); w.ok(callPowerLimit, ret) {
				d.PowerLimitMW = sane(uint64(v), maxMW)
			}
		}
	case 5:
		if w.may(callMaxClock) {
			if v, ret := h.GetMaxClockInfo(nvml.CLOCK_SM); w.ok(callMaxClock, ret) {
				d.SMClockMaxMHz = sane(uint64(v), maxMHz)
			}
		}
	case 6:
		if w.may(callMIG) {
			if mode, _, ret := h.GetMigMode(); w.ok(callMIG, ret) {
				d.MIGMode = mode & 1
			}
		}
	case 7:
		if w.may(callFields) {
			v := [1]nvml.FieldValue{{FieldId: nvml.FI_DEV_NVLINK_LINK_COUNT}}
			if ret := h.GetFieldValues(v[:]); w.ok(callFields, ret) && nvml.Return(v[0].NvmlReturn) == nvml.SUCCESS {
				if n, good := decode(&v[0]); good && n <= 1<<10 {
					d.NVLinks = int(n)
				}
			}
		}
	case 8:
		if !w.gpm.asked && w.lib.gpm() && w.may(callGPMSupport) {
			if s, ret := h.GpmQueryDeviceSupport(); w.ok(callGPMSupport, ret) {
				w.gpm.asked, d.GPM = true, s.IsSupportedDevice != 0
			}
		}
	}
}

// sane is v, or -1 if it cannot be.
func sane(v, limit uint64) int64 {
	if v == 0 || v > limit {
		return -1
	}
	return int64(v)
}

func cstring(b []int8) string {
	s := make([]byte, 0, len(b))
	for _, c := range b {
		if c == 0 {
			break
		}
		s = append(s, byte(c))
	}
	return string(s)
}

// capabilities says what can be read of the GPU, as far as is known.
func (w *worker) capabilities() {
	list := w.device.Capabilities[:0]
	add := func(name string, has bool) {
		if has {
			list = append(list, name)
		}
	}
	add("clocks", w.works(callClock))
	add("energy", w.works(callFields) && w.offField[fieldEnergy] == 0 || w.works(callEnergy))
	add("event_reasons", w.works(callEventReasons) || w.works(callThrottleReasons))
	add("gpm", w.gpmWorks())
	add("memory", w.works(callMemoryV2) || w.works(callMemory))
	add("mps", w.works(callMPS))
	add("nvlink", w.gpmWorks() || w.works(callFields) && w.offField[fieldNVLinkTx] == 0)
	add("pcie", w.gpmWorks() || w.works(callFields) && w.offField[fieldPCIeTx] == 0)
	add("power", w.works(callFields) && w.offField[fieldPower] == 0 || w.works(callPower))
	add("processes", w.works(callProcesses))
	add("temperature", w.works(callTemperature) || w.works(callTemperatureV))
	add("utilization", w.works(callUtilization))
	w.device.Capabilities = list
}

func same(a, b frame.Device) bool {
	list := slices.Equal(a.Capabilities, b.Capabilities)
	return list && a.Index == b.Index && a.UUID == b.UUID && a.Name == b.Name && a.PCIBusID == b.PCIBusID && a.DriverVersion == b.DriverVersion &&
		a.VBIOSVersion == b.VBIOSVersion && a.MemTotalBytes == b.MemTotalBytes && a.PowerLimitMW == b.PowerLimitMW &&
		a.SMClockMaxMHz == b.SMClockMaxMHz && a.MIGMode == b.MIGMode && a.NVLinks == b.NVLinks && a.GPM == b.GPM
}
