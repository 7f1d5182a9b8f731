//go:build linux && cgo

package nvml

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// meet takes hold of the GPU if it has to, and finds out who it is. If it is to be described
// again, it sees whether it is the same, and refresh does the rest.
func (w *worker) meet() {
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
	if w.described && (!w.again || w.bursting) || !w.identify() {
		return
	}
	w.again = false
	if w.described {
		w.next %= numDescriptions // one that is under way goes on
		return
	}
	w.described = true
	w.monitor()
	w.described = !w.broken
}

// refresh goes on with a description, as far as the calls of this second allow.
func (w *worker) refresh(most int) {
	for ; most > 0 && w.described && w.next < numDescriptions && w.left() > 0 && !w.broken; most-- {
		w.describe(w.next)
		if w.broken {
			return
		}
		w.next++
		if w.next == numDescriptions {
			w.whole, w.renewed = true, true
		}
	}
}

// identify asks who the GPU is. One that has become another ends the process.
func (w *worker) identify() bool {
	d := &w.device
	if !w.able(callUUID) {
		return true
	}
	if !w.may(callUUID) {
		return w.described // who it was, it is for now
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

// monitor asks whether the GPU has GPM.
func (w *worker) monitor() {
	if !w.gpm.asked && w.lib.gpm() && w.may(callGPMSupport) {
		if s, ret := w.handle.GpmQueryDeviceSupport(); w.ok(callGPMSupport, ret) {
			w.gpm.asked, w.device.GPM = true, s.IsSupportedDevice != 0
		}
	}
}

// numDescriptions is how many parts describe has.
const numDescriptions = 20

// describe asks for one part of what there is to know of a GPU beside its id: a call or none.
func (w *worker) describe(part int) {
	d, h := &w.device, w.handle
	switch part {
	case 0: // what a list of processes can be depends on it
		w.mode()
		w.mig.wanted = w.mig.wanted || d.MIGMode == 1
	case 1:
		if w.may(callPCI) {
			if p, ret := h.GetPciInfo(); w.ok(callPCI, ret) {
				d.PCIBusID = frame.Clean(cstring(p.BusId[:]))
			}
		}
	case 2:
		w.word(callName, &d.Name, h.GetName)
	case 3:
		if d.MemTotalBytes < 0 { // else a pass has said it
			w.total()
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
		w.properties()
	case 7:
		if w.may(callArchitecture) {
			if v, ret := h.GetArchitecture(); w.ok(callArchitecture, ret) {
				d.Architecture = architecture(v)
			}
		}
	case 8:
		if w.may(callCapability) {
			if major, minor, ret := h.GetCudaComputeCapability(); w.ok(callCapability, ret) && major > 0 && major < 100 && minor >= 0 && minor < 100 {
				d.ComputeCapability = strconv.Itoa(major) + "." + strconv.Itoa(minor)
			}
		}
	case 9:
		if w.may(callCores) {
			if v, ret := h.GetNumGpuCores(); w.ok(callCores, ret) {
				d.SMs = multiprocessors(v, d.ComputeCapability)
			}
		}
	case 10:
		w.fabric()
	case 11:
		w.word(callVBIOS, &d.VBIOSVersion, h.GetVbiosVersion)
	case 12:
		w.word(callSerial, &d.Serial, h.GetSerial)
	case 13:
		w.word(callBoardPart, &d.BoardPart, h.GetBoardPartNumber)
	case 14:
		w.word(callGSP, &d.GSPVersion, h.GetGspFirmwareVersion)
	case 15:
		w.small(callModule, &d.ModuleID, h.GetModuleId)
	case 16:
		w.small(callMinor, &d.Minor, h.GetMinorNumber)
	case 17:
		w.small(callPCIeMaxGen, &d.PCIeGenMax, h.GetMaxPcieLinkGeneration)
	case 18:
		w.small(callPCIeMaxWidth, &d.PCIeWidthMax, h.GetMaxPcieLinkWidth)
	case 19:
		w.monitor()
	}
}

// word asks for a string.
func (w *worker) word(c call, to *string, ask func() (string, nvml.Return)) {
	if w.may(c) {
		if s, ret := ask(); w.ok(c, ret) {
			*to = frame.Clean(s)
		}
	}
}

// small asks for a small number.
func (w *worker) small(c call, to *int, ask func() (int, nvml.Return)) {
	if w.may(c) {
		if v, ret := ask(); w.ok(c, ret) && v >= 0 && v < 1<<20 {
			*to = v
		}
	}
}

func (w *worker) total() {
	if w.able(callMemoryV2) {
		if w.may(callMemoryV2) {
			if m, ret := w.handle.GetMemoryInfo_v2(); w.ok(callMemoryV2, ret) {
				w.device.MemTotalBytes = sane(m.Total, maxMem)
			}
		}
	} else if w.may(callMemory) {
		if m, ret := w.handle.GetMemoryInfo(); w.ok(callMemory, ret) {
			w.device.MemTotalBytes = sane(m.Total, maxMem)
		}
	}
}

// properties are fields that do not change.
func (w *worker) properties() {
	w.fields, w.asked = w.fields[:0], w.asked[:0]
	w.ask(0, nvml.FI_DEV_NVLINK_LINK_COUNT, 0)
	w.ask(1, nvml.FI_DEV_ECC_CURRENT, 0)
	if !w.gather(callFields) {
		return
	}
	var n [2]int64
	for i := range n {
		n[i] = -1
		if v := &w.fields[i]; nvml.Return(v.NvmlReturn) == nvml.SUCCESS {
			if x, good := decode(v); good && x <= 1<<10 {
				n[i] = x
			}
		}
	}
	w.device.NVLinks = int(n[0])
	if n[1] <= 1 {
		w.device.ECCMode = int(n[1])
	}
}

// fabric asks for the NVLink fabric, which a GPU has joined when its manager says so.
func (w *worker) fabric() {
	if !w.may(callFabric) {
		return
	}
	f, ret := w.handle.GetGpuFabricInfoV().V2()
	if !w.ok(callFabric, ret) || f.State != nvml.GPU_FABRIC_STATE_COMPLETED || nvml.Return(f.Status) != nvml.SUCCESS {
		return
	}
	if u := f.ClusterUuid; u != [16]uint8{} {
		s := hex.EncodeToString(u[:])
		w.device.FabricClusterUUID = s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
	}
	w.device.FabricClique = int64(f.CliqueId)
}

var architectures = map[nvml.DeviceArchitecture]string{
	nvml.DEVICE_ARCH_KEPLER: "kepler", nvml.DEVICE_ARCH_MAXWELL: "maxwell", nvml.DEVICE_ARCH_PASCAL: "pascal", nvml.DEVICE_ARCH_VOLTA: "volta",
	nvml.DEVICE_ARCH_TURING: "turing", nvml.DEVICE_ARCH_AMPERE: "ampere", nvml.DEVICE_ARCH_ADA: "ada", nvml.DEVICE_ARCH_HOPPER: "hopper",
	nvml.DEVICE_ARCH_BLACKWELL: "blackwell", nvml.DEVICE_ARCH_RUBIN: "rubin",
}

// architecture is its name, or, of one that is newer than this build, NVML's number.
func architecture(v nvml.DeviceArchitecture) string {
	if s, ok := architectures[v]; ok {
		return s
	}
	if v == nvml.DEVICE_ARCH_UNKNOWN {
		return ""
	}
	return "nvml-" + strconv.FormatUint(uint64(v), 10)
}

// multiprocessors works out the SMs of so many cores; -1 for a generation whose SMs are not known.
func multiprocessors(cores int, capability string) int {
	per := 0
	switch capability {
	case "6.0", "7.0", "7.2", "7.5", "8.0":
		per = 64
	case "5.0", "5.2", "5.3", "6.1", "6.2", "8.6", "8.7", "8.9", "9.0", "10.0", "10.1", "10.3", "11.0", "12.0", "12.1":
		per = 128
	}
	if per == 0 || cores <= 0 || cores%per != 0 {
		return -1
	}
	return cores / per
}

// sane is v, or -1 if it cannot be.
func sane(v, limit uint64) int64 {
	if v == 0 || v > limit || v > maxMem {
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
	fields := w.works(callFields)
	add("clocks", w.works(callClock))
	add("cycles", w.gpmWorks() && w.counts())
	add("energy", fields && w.offField[fieldEnergy] == 0 || w.works(callEnergy))
	add("event_reasons", w.works(callEventReasons) || w.works(callThrottleReasons))
	add("events", w.works(callEventWait) && w.works(callEventRegister) && w.works(callEventTypes) && w.works(callEventCreate))
	// Of a GPU that may have been partitioned just now it is not said before that is known.
	looking := w.device.GPM && (w.mig.wanted || w.mig.scanning) && slices.Contains(w.told.Capabilities, "gpm")
	add("gpm", w.gpmWorks() || looking)
	add("health", w.works(callHealthFields))
	add("memory", w.works(callMemoryV2) || w.works(callMemory))
	add("mig_gpm", w.device.GPM && w.device.MIGMode == 1 && w.works(callMIGSample) && w.works(callMIGMetrics))
	add("mps", w.works(callMPS))
	add("nvlink", w.gpmWorks() || fields && w.offField[fieldNVLinkTx] == 0)
	add("pcie", w.gpmWorks() || fields && w.offField[fieldPCIeTx] == 0)
	add("power", fields && w.offField[fieldPower] == 0 || w.works(callPower))
	add("processes", w.works(callProcesses) || len(w.mig.parts) > 0 && w.works(callMIGProcesses))
	add("temperature", w.works(callTemperature) || w.works(callTemperatureV))
	add("utilization", w.works(callUtilization))
	w.device.Capabilities = list
}

// counts reports whether GPM counts the tensor cores' cycles, as far as is known.
func (w *worker) counts() bool {
	s := &w.gpm.sets[0]
	return s.list == nil || slices.ContainsFunc(s.list, func(m gpmMetric) bool { return m.metric == frame.MMACycles })
}

// same compares two devices. Whole is the teller's affair.
func same(a, b *frame.Device) bool {
	return slices.Equal(a.Capabilities, b.Capabilities) && a.UUID == b.UUID && a.Name == b.Name && a.PCIBusID == b.PCIBusID && a.VBIOSVersion == b.VBIOSVersion &&
		a.MemTotalBytes == b.MemTotalBytes && a.PowerLimitMW == b.PowerLimitMW && a.SMClockMaxMHz == b.SMClockMaxMHz && a.MIGMode == b.MIGMode &&
		a.NVLinks == b.NVLinks && a.GPM == b.GPM && a.Serial == b.Serial && a.BoardPart == b.BoardPart && a.Architecture == b.Architecture &&
		a.ComputeCapability == b.ComputeCapability && a.SMs == b.SMs && a.FabricClusterUUID == b.FabricClusterUUID && a.FabricClique == b.FabricClique &&
		a.ECCMode == b.ECCMode && a.PCIeGenMax == b.PCIeGenMax && a.PCIeWidthMax == b.PCIeWidthMax && a.ModuleID == b.ModuleID &&
		a.Minor == b.Minor && a.GSPVersion == b.GSPVersion
}
