package nvmlstub

import (
	"bytes"
	"math"
	"structs"
	"unsafe"
)

// The structs of lib/layout.h, field for field and in its order: layout_test.go compares all
// offsets. Fields that only the library reads stay, for their room.

const (
	magic   = "FWNVMLSH"
	version = 2

	// MaxGPUs is the room for GPUs in the shared memory.
	MaxGPUs = 16
	// MaxSegments is that for segments of a GPU.
	MaxSegments = 64
	// MaxProcesses is that for processes.
	MaxProcesses = 64
	// MaxFaults is that for faults.
	MaxFaults = 32
	// MaxEvents is that for events.
	MaxEvents = 64
	// MaxInstances is that for MIG devices of all GPUs together, MaxMIG of one GPU.
	MaxInstances, MaxMIG = 64, 8
	// MaxInstanceSegments is that for segments of a MIG device.
	MaxInstanceSegments = 4

	maxFunctions = 512
	never        = math.MaxInt64
	latestUs     = 1 << 52
)

type segment struct {
	_                 structs.HostLayout
	startUs, lengthUs int64
	stepUs, phaseUs   int64
	comm              float64
	kind, pstate      uint32
	reasons           uint64
	level             [2]Level
}

type device struct {
	_                                                          structs.HostLayout
	uuid                                                       [48]byte
	name                                                       [64]byte
	serial, vbios, boardPart                                   [32]byte
	pciDomain, pciBus, pciDevice, pciDeviceID, pciSubsystemID  uint32
	model, sms                                                 uint32
	minor, moduleID, boardID, brand, architecture              uint32
	ccMajor, ccMinor                                           uint32
	cores, busWidth, numaNode                                  uint32
	powerLimitMW, powerDefaultMW, powerMinMW, powerMaxMW       uint32
	maxClockMHz                                                [4]uint32
	nvlinks, nvlinkVersion, nvlinkMBps                         uint32
	pcieGen, pcieWidth, pcieMaxGen, pcieMaxWidth               uint32
	gpm, powerInstant                                          uint32
	cycles, migPending                                         uint32
	ecc, mig                                                   uint32
	tempShutdownC, tempSlowdownC, tempMemMaxC, tempGPUMaxC     uint32
	retiredSBE, retiredDBE, retiredPending                     uint32
	remappedCor, remappedUnc, remappedPending, remappedFailed  uint32
	pcieReplays, segments                                      uint32
	memTotal, memReserved, bar1Total, bar1Used                 uint64
	eccCorrected, eccUncorrected                               uint64
	nvlinkCRCFlit, nvlinkCRCData, nvlinkReplay, nvlinkRecovery uint64
	energyStartMJ, nvlinkTxStart, nvlinkRxStart                uint64
	pcieTxStart, pcieRxStart                                   uint64
	cyclesStart, pcieWrap                                      uint64
	lostUs, resetUs                                            int64
	idle                                                       Level
	idleReasons                                                uint64
	idlePstate, _                                              uint32
	segment                                                    [MaxSegments]segment
}

type instance struct {
	_                                            structs.HostLayout
	id                                           uint64
	uuid                                         [48]byte
	profile                                      [16]byte
	gpu, place                                   uint32
	gi, ci, slices, ciSlices, sms, segments      uint32
	copyEngines, decoders, encoders, jpegs, ofas uint32
	_                                            uint32
	memTotal, memReserved, bar1Total, bar1Used   uint64
	idle                                         Level
	segment                                      [MaxInstanceSegments]segment
}

type process struct {
	_               structs.HostLayout
	pid, gpus, kind uint32
	instance        uint32
	usedBytes       uint64
	fromUs, toUs    int64
	name            [32]byte
}

type event struct {
	_          structs.HostLayout
	atUs       int64
	kind, data uint64
	gpu, _     uint32
}

type fault struct {
	_            structs.HostLayout
	function     [64]byte
	id           uint64
	gpus         uint32
	code         int32
	delayUs      int64
	fromUs, toUs int64
}

type config struct {
	_                               structs.HostLayout
	gpus, processes, events, faults uint32
	instances, unprivileged         uint32
	manual, host                    uint32
	cudaVersion, _                  int32
	baseBootUs, baseEpochUs         int64
	repeatUs                        int64
	nextID                          uint64
	driver, nvml                    [80]byte
	gpu                             [MaxGPUs]device
	instance                        [MaxInstances]instance
	process                         [MaxProcesses]process
	event                           [MaxEvents]event
	fault                           [MaxFaults]fault
}

type memoryHeader struct {
	_                                   structs.HostLayout
	magic                               [8]byte
	version, _                          uint32
	size, configOffset, functionsOffset uint64
	seq                                 uint64
	nowUs                               int64
	faultLeft                           [MaxFaults]int64
	inFlight, mostAtOnce                [MaxGPUs + 1]uint32
	_                                   [4096 - 312 - 2*4*(MaxGPUs+1)]byte
}

type function struct {
	_        structs.HostLayout
	name     [64]byte
	state, _ uint32
	calls    [MaxGPUs + 1]uint64
}

type memory struct {
	_        structs.HostLayout
	header   memoryHeader
	config   config
	function [maxFunctions]function
}

const (
	memorySize      = int(unsafe.Sizeof(memory{}))
	configOffset    = unsafe.Offsetof(memory{}.config)
	functionsOffset = unsafe.Offsetof(memory{}.function)
)

// text is what stands before the end of a C string.
func text(b []byte) string {
	t, _, _ := bytes.Cut(b, []byte{0})
	return string(t)
}
