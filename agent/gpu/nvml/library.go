//go:build linux && cgo

package nvml

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// gpmMetricBytes is what C says of nvmlGpmMetric_t. go-nvml v0.13.0-1 had 1,624 here, and
// gave 0 for all metrics but the first, with success.
const gpmMetricBytes = 40

// call is a function of the library that the child may call.
type call uint8

const (
	callInit call = iota
	callShutdown
	callDriverVersion
	callNVMLVersion
	callCount
	callHandle
	callUUID
	callName
	callPCI
	callVBIOS
	callPowerLimit
	callMaxClock
	callMIG
	callUtilization
	callMemoryV2
	callMemory
	callClock
	callTemperature
	callTemperatureV
	callEventReasons
	callThrottleReasons
	callFields
	callPower
	callEnergy
	callGPMSupport
	callGPMAlloc
	callGPMFree
	callGPMSample
	callGPMMetrics
	callProcesses
	callMPS
	callCUDAVersion
	callCCState
	callSerial
	callBoardPart
	callArchitecture
	callCapability
	callCores
	callModule
	callMinor
	callGSP
	callPCIeMaxGen
	callPCIeMaxWidth
	callFabric
	callPState
	callFan
	callPCIeGen
	callPCIeWidth
	callBAR1
	callThreshold
	callHealthFields // as callFields: one that is refused does not spoil the other
	callMIGCount
	callMIGHandle
	callMIGUUID
	callMIGInstance
	callMIGCompute
	callMIGAttributes
	callMIGName
	callMIGMemoryV2
	callMIGMemory
	callMIGProcesses
	callMIGSample
	callMIGMetrics
	callEventTypes
	callEventCreate
	callEventRegister
	callEventWait
	callEventFree
	numCalls
)

// symbols that a call may bind to, the newest first: go-nvml takes the newest that is there.
var symbols = [numCalls][]string{
	callInit:            {"nvmlInit_v2", "nvmlInit"},
	callShutdown:        {"nvmlShutdown"},
	callDriverVersion:   {"nvmlSystemGetDriverVersion"},
	callNVMLVersion:     {"nvmlSystemGetNVMLVersion"},
	callCount:           {"nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"},
	callHandle:          {"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"},
	callUUID:            {"nvmlDeviceGetUUID"},
	callName:            {"nvmlDeviceGetName"},
	callPCI:             {"nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo"},
	callVBIOS:           {"nvmlDeviceGetVbiosVersion"},
	callPowerLimit:      {"nvmlDeviceGetPowerManagementDefaultLimit"},
	callMaxClock:        {"nvmlDeviceGetMaxClockInfo"},
	callMIG:             {"nvmlDeviceGetMigMode"},
	callUtilization:     {"nvmlDeviceGetUtilizationRates"},
	callMemoryV2:        {"nvmlDeviceGetMemoryInfo_v2"},
	callMemory:          {"nvmlDeviceGetMemoryInfo"},
	callClock:           {"nvmlDeviceGetClockInfo"},
	callTemperature:     {"nvmlDeviceGetTemperature"},
	callTemperatureV:    {"nvmlDeviceGetTemperatureV"},
	callEventReasons:    {"nvmlDeviceGetCurrentClocksEventReasons"},
	callThrottleReasons: {"nvmlDeviceGetCurrentClocksThrottleReasons"},
	callFields:          {"nvmlDeviceGetFieldValues"},
	callPower:           {"nvmlDeviceGetPowerUsage"},
	callEnergy:          {"nvmlDeviceGetTotalEnergyConsumption"},
	callGPMSupport:      {"nvmlGpmQueryDeviceSupport"},
	callGPMAlloc:        {"nvmlGpmSampleAlloc"},
	callGPMFree:         {"nvmlGpmSampleFree"},
	callGPMSample:       {"nvmlGpmSampleGet"},
	callGPMMetrics:      {"nvmlGpmMetricsGet"},
	callProcesses:       {"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2", "nvmlDeviceGetComputeRunningProcesses"},
	callMPS:             {"nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v2", "nvmlDeviceGetMPSComputeRunningProcesses"},
	callCUDAVersion:     {"nvmlSystemGetCudaDriverVersion"},
	callCCState:         {"nvmlSystemGetConfComputeState"},
	callSerial:          {"nvmlDeviceGetSerial"},
	callBoardPart:       {"nvmlDeviceGetBoardPartNumber"},
	callArchitecture:    {"nvmlDeviceGetArchitecture"},
	callCapability:      {"nvmlDeviceGetCudaComputeCapability"},
	callCores:           {"nvmlDeviceGetNumGpuCores"},
	callModule:          {"nvmlDeviceGetModuleId"},
	callMinor:           {"nvmlDeviceGetMinorNumber"},
	callGSP:             {"nvmlDeviceGetGspFirmwareVersion"},
	callPCIeMaxGen:      {"nvmlDeviceGetMaxPcieLinkGeneration"},
	callPCIeMaxWidth:    {"nvmlDeviceGetMaxPcieLinkWidth"},
	callFabric:          {"nvmlDeviceGetGpuFabricInfoV"},
	callPState:          {"nvmlDeviceGetPerformanceState"},
	callFan:             {"nvmlDeviceGetFanSpeed"},
	callPCIeGen:         {"nvmlDeviceGetCurrPcieLinkGeneration"},
	callPCIeWidth:       {"nvmlDeviceGetCurrPcieLinkWidth"},
	callBAR1:            {"nvmlDeviceGetBAR1MemoryInfo"},
	callThreshold:       {"nvmlDeviceGetTemperatureThreshold"},
	callHealthFields:    {"nvmlDeviceGetFieldValues"},
	callMIGCount:        {"nvmlDeviceGetMaxMigDeviceCount"},
	callMIGHandle:       {"nvmlDeviceGetMigDeviceHandleByIndex"},
	callMIGUUID:         {"nvmlDeviceGetUUID"},
	callMIGInstance:     {"nvmlDeviceGetGpuInstanceId"},
	callMIGCompute:      {"nvmlDeviceGetComputeInstanceId"},
	callMIGAttributes:   {"nvmlDeviceGetAttributes_v2", "nvmlDeviceGetAttributes"},
	callMIGName:         {"nvmlDeviceGetName"},
	callMIGMemoryV2:     {"nvmlDeviceGetMemoryInfo_v2"},
	callMIGMemory:       {"nvmlDeviceGetMemoryInfo"},
	callMIGProcesses:    {"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2", "nvmlDeviceGetComputeRunningProcesses"},
	callMIGSample:       {"nvmlGpmMigSampleGet"},
	callMIGMetrics:      {"nvmlGpmMetricsGet"},
	callEventTypes:      {"nvmlDeviceGetSupportedEventTypes"},
	callEventCreate:     {"nvmlEventSetCreate"},
	callEventRegister:   {"nvmlDeviceRegisterEvents"},
	callEventWait:       {"nvmlEventSetWait_v2", "nvmlEventSetWait"},
	callEventFree:       {"nvmlEventSetFree"},
}

// classOf is what a call counts for among those that may be slow.
func classOf(c call) frame.Class {
	switch c {
	case callUtilization:
		return frame.ClassUtilization
	case callMemoryV2, callMemory:
		return frame.ClassMemory
	case callClock:
		return frame.ClassClocks
	case callTemperature, callTemperatureV:
		return frame.ClassTemperature
	case callEventReasons, callThrottleReasons:
		return frame.ClassReasons
	case callFields:
		return frame.ClassFields
	case callPower, callEnergy:
		return frame.ClassPower
	case callGPMAlloc, callGPMFree, callGPMSample, callMIGSample:
		return frame.ClassGPMSample
	case callGPMMetrics, callMIGMetrics:
		return frame.ClassGPMMetrics
	case callProcesses, callMPS, callMIGProcesses:
		return frame.ClassProcesses
	case callPState, callFan, callPCIeGen, callPCIeWidth, callBAR1, callThreshold, callHealthFields:
		return frame.ClassHealth
	case callMIG, callMIGCount, callMIGHandle, callMIGUUID, callMIGInstance, callMIGCompute, callMIGAttributes, callMIGName, callMIGMemoryV2, callMIGMemory:
		return frame.ClassMIG
	default:
		return frame.ClassIdentity
	}
}

// texts of the library's codes. The library's own nvmlErrorString is one function more that
// may be missing.
var texts = map[nvml.Return]string{
	nvml.ERROR_UNINITIALIZED:             "the library is not initialised",
	nvml.ERROR_INVALID_ARGUMENT:          "invalid argument",
	nvml.ERROR_NOT_SUPPORTED:             "not supported",
	nvml.ERROR_NO_PERMISSION:             "no permission",
	nvml.ERROR_NOT_FOUND:                 "not found",
	nvml.ERROR_INSUFFICIENT_SIZE:         "insufficient size",
	nvml.ERROR_INSUFFICIENT_POWER:        "a power cable of the GPU is not attached",
	nvml.ERROR_DRIVER_NOT_LOADED:         "NVIDIA's kernel driver is not loaded",
	nvml.ERROR_TIMEOUT:                   "time-out",
	nvml.ERROR_IRQ_ISSUE:                 "the kernel has an interrupt problem with the GPU",
	nvml.ERROR_LIBRARY_NOT_FOUND:         "the library is not there",
	nvml.ERROR_FUNCTION_NOT_FOUND:        "the driver lacks the function",
	nvml.ERROR_CORRUPTED_INFOROM:         "the GPU's infoROM is corrupt",
	nvml.ERROR_GPU_IS_LOST:               "the GPU has fallen off the bus, or cannot be reached",
	nvml.ERROR_RESET_REQUIRED:            "the GPU needs a reset",
	nvml.ERROR_OPERATING_SYSTEM:          "the operating system or its container forbids it",
	nvml.ERROR_LIB_RM_VERSION_MISMATCH:   "library and kernel driver are of different versions; the driver was replaced without a reload",
	nvml.ERROR_IN_USE:                    "in use",
	nvml.ERROR_MEMORY:                    "out of memory",
	nvml.ERROR_NO_DATA:                   "no data",
	nvml.ERROR_INSUFFICIENT_RESOURCES:    "insufficient resources",
	nvml.ERROR_ARGUMENT_VERSION_MISMATCH: "the driver does not know this version of the structure",
	nvml.ERROR_DEPRECATED:                "the function is gone from this driver",
	nvml.ERROR_NOT_READY:                 "not ready",
	nvml.ERROR_GPU_NOT_FOUND:             "no such GPU",
	nvml.ERROR_INVALID_STATE:             "invalid state",
	nvml.ERROR_UNKNOWN:                   "unknown error inside the driver",
}

func text(ret nvml.Return) string {
	if s, ok := texts[ret]; ok {
		return s
	}
	return fmt.Sprintf("unknown code %d", int(ret))
}

// library is the loaded library and what it has.
type library struct {
	api    nvml.Interface
	have   [numCalls]bool
	driver string
	ccMode string // off, on, devtools; empty: not known
	waitV2 bool   // events name the instance
}

func (l *library) gpm() bool {
	return l.have[callGPMAlloc] && l.have[callGPMSample] && l.have[callGPMMetrics] && l.have[callGPMSupport]
}

// open loads the library and says what it is. With a code in the welcome there is no
// library.
func open(path string) (*library, frame.Welcome) {
	w := frame.Welcome{Version: frame.Version}
	refuse := func(ret nvml.Return, why string) (*library, frame.Welcome) {
		w.Code, w.Text = int(ret), why
		return nil, w
	}
	if n := unsafe.Sizeof(nvml.GpmMetric{}); n != gpmMetricBytes {
		return refuse(nvml.ERROR_ARGUMENT_VERSION_MISMATCH, fmt.Sprintf("this build of go-nvml takes nvmlGpmMetric_t for %d bytes, it has %d: its GPM values would be wrong", n, gpmMetricBytes))
	}
	name := path
	if name == "" {
		name = "libnvidia-ml.so.1"
	}
	// go-nvml loads and initialises in one step, and does not say why a library cannot be
	// loaded: so it is loaded here first, and stays.
	handle := dl.New(name, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if err := handle.Open(); err != nil {
		return refuse(nvml.ERROR_LIBRARY_NOT_FOUND, err.Error())
	}
	w.LibraryPath = mapped(name)
	l := &library{}
	for c, names := range symbols {
		for _, s := range names {
			if handle.Lookup(s) == nil {
				l.have[c] = true
				break
			}
		}
		if !l.have[c] {
			w.Missing = append(w.Missing, names[0])
		}
	}
	l.waitV2 = handle.Lookup("nvmlEventSetWait_v2") == nil
	slices.Sort(w.Missing)
	w.Missing = slices.Compact(w.Missing) // some functions are called for several things
	w.GPM = l.gpm()
	for _, c := range []call{callInit, callCount, callHandle, callUUID} {
		if !l.have[c] {
			return refuse(nvml.ERROR_FUNCTION_NOT_FOUND, fmt.Sprintf("%s has no %s: it is not NVIDIA's management library", w.LibraryPath, symbols[c][0]))
		}
	}
	l.api = nvml.New(nvml.WithLibraryPath(name))
	if ret := l.api.Init(); ret != nvml.SUCCESS {
		return refuse(ret, text(ret))
	}
	if l.have[callDriverVersion] {
		if v, ret := l.api.SystemGetDriverVersion(); ret == nvml.SUCCESS {
			w.DriverVersion = frame.Clean(v)
		}
	}
	if l.have[callNVMLVersion] {
		if v, ret := l.api.SystemGetNVMLVersion(); ret == nvml.SUCCESS {
			w.NVMLVersion = frame.Clean(v)
		}
	}
	l.driver = w.DriverVersion
	n, ret := l.api.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return refuse(ret, "count GPUs: "+text(ret))
	}
	w.GPUs = max(0, min(n, frame.MaxGPUs))
	w.Facts = l.facts(w.LibraryPath, len(w.Missing))
	return l, w
}

// facts are what the library says of the host, and what it is itself.
func (l *library) facts(path string, missing int) []frame.Fact {
	var list []frame.Fact
	add := func(name, value string) {
		if value != "" {
			list = append(list, frame.Fact{Name: name, Value: frame.Clean(value)})
		}
	}
	if l.have[callCCState] {
		if s, ret := l.api.SystemGetConfComputeState(); ret == nvml.SUCCESS {
			l.ccMode = ccMode(&s)
			add("cc_state", l.ccMode)
			if environments := [...]string{"unavailable", "simulation", "production"}; s.Environment < uint32(len(environments)) {
				add("cc_environment", environments[s.Environment])
			}
		}
	}
	if l.have[callCUDAVersion] {
		if v, ret := l.api.SystemGetCudaDriverVersion(); ret == nvml.SUCCESS && v > 0 {
			add("cuda_driver_version", fmt.Sprintf("%d.%d", v/1000, v%1000/10))
		}
	}
	add("functions_missing", strconv.Itoa(missing))
	if st, err := os.Stat(path); err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			add("library_device", fmt.Sprintf("%d:%d", unix.Major(sys.Dev), unix.Minor(sys.Dev)))
			add("library_inode", strconv.FormatUint(sys.Ino, 10))
		}
	}
	add("library_path", path)
	if _, v, ok := strings.Cut(filepath.Base(path), ".so."); ok && strings.Contains(v, ".") {
		add("library_version", v) // the driver's packages name the file by it
	}
	return list
}

func ccMode(s *nvml.ConfComputeSystemState) string {
	switch {
	case s.CcFeature == nvml.CC_SYSTEM_FEATURE_DISABLED:
		return "off"
	case s.CcFeature != nvml.CC_SYSTEM_FEATURE_ENABLED:
		return ""
	case s.DevToolsMode == nvml.CC_SYSTEM_DEVTOOLS_MODE_ON:
		return "devtools"
	}
	return "on"
}

// mapped is the file that was loaded: what the loader found is in the process's own map.
func mapped(name string) string {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return name
	}
	defer func() { _ = f.Close() }() // was only read
	base := filepath.Base(name)
	if real, lerr := filepath.EvalSymlinks(name); lerr == nil {
		base = filepath.Base(real)
	}
	for s := bufio.NewScanner(f); s.Scan(); {
		if at := strings.IndexByte(s.Text(), '/'); at >= 0 && strings.HasPrefix(filepath.Base(s.Text()[at:]), strings.TrimSuffix(base, ".1")) {
			return s.Text()[at:]
		}
	}
	return name
}
