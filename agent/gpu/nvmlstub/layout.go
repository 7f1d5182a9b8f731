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
	// MaxInstances is that for MIG devices of all GPUs together.
	MaxInstances = 64
	// MaxMIG is one more than how many MIG devices a GPU may have.
	MaxMIG = 8
	// MaxBlocked is that for functions that confidential computing takes away.
	MaxBlocked = 16
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

// Health is what a GPU tells rarely. Counters are those of now, whatever the time is: a test lets
// them rise, or fall back as after a reset. In a GPU of a scenario and in SetHealth, what says so is
// the model's where it is 0.
type Health struct {
	_                                                                     structs.HostLayout
	ECCCorrectedVolatile, ECCUncorrectedVolatile                          uint64
	ECCCorrectedAggregate, ECCUncorrectedAggregate                        uint64
	CappedNs                                                              [5]uint64  // by Cap, before the scenario: reasons of segments add to it
	NVLinksDown                                                           uint64     // a bit for each link
	NVLinkCRCFlit, NVLinkCRCData, NVLinkReplay, NVLinkRecovery, NVLinkECC uint64     // each a link
	MemReservedBytes                                                      uint64     // 0: the model's
	BAR1UsedBytes                                                         uint64     // 0: 1 MiB
	PCIeErrors                                                            [11]uint32 // fields 173 to 183
	PCIeReplays, PCIeReplayRollovers                                      uint32
	PCIeGen, PCIeWidth                                                    uint32 // 0: the model's
	PagesRetiredSBE, PagesRetiredDBE, PagesPending                        uint32 // of GPUs before Ampere
	RowsRemappedCorrected, RowsRemappedUncorrected                        uint32 // of those from Ampere on
	RowRemapPending, RowRemapFailed                                       uint32
	PowerLimitMW                                                          uint32 // the enforced one; 0: the GPU's
	Fans, FanPercent                                                      uint32
	RecoveryAction                                                        uint32 // as nvmlDeviceGpuRecoveryAction_t counts
	_                                                                     uint32
}

// Cap is what holds clocks down.
type Cap int

// Caps, in the order of lib/layout.h.
const (
	CapSWPower Cap = iota
	CapSyncBoost
	CapSWThermal
	CapHWThermal
	CapHWBrake
)

type device struct {
	_                                                         structs.HostLayout
	uuid                                                      [48]byte
	name                                                      [64]byte
	serial, vbios, boardPart                                  [32]byte
	pciDomain, pciBus, pciDevice, pciDeviceID, pciSubsystemID uint32
	model, sms                                                uint32
	minor, moduleID, boardID, brand, architecture             uint32
	ccMajor, ccMinor                                          uint32
	cores, busWidth, numaNode                                 uint32
	powerLimitMW, powerDefaultMW, powerMinMW, powerMaxMW      uint32
	maxClockMHz                                               [4]uint32
	nvlinks, nvlinkVersion, nvlinkMBps                        uint32
	pcieMaxGen, pcieMaxWidth                                  uint32
	broken                                                    uint32
	fabricState, fabricStatus, fabricClique                   uint32
	fabricHealth, fabricSummary                               uint32
	fabricCluster                                             [16]byte
	moduleMW, c2cLinks                                        uint32
	gpm, powerInstant                                         uint32
	cycles, migPending                                        uint32
	ecc, mig                                                  uint32
	tempShutdownC, tempSlowdownC, tempMemMaxC, tempGPUMaxC    uint32
	eccPending, segments                                      uint32
	health                                                    Health
	memTotal, bar1Total                                       uint64
	energyStartMJ, nvlinkTxStart, nvlinkRxStart               uint64
	pcieTxStart, pcieRxStart                                  uint64
	cyclesStart, pcieWrap                                     uint64
	lostUs, resetUs                                           int64
	idle                                                      Level
	idleReasons                                               uint64
	idlePstate, _                                             uint32
	segment                                                   [MaxSegments]segment
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
	_             structs.HostLayout
	id            uint64
	atUs          int64
	kind, data    uint64
	gpu, instance uint32
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
	_                                                   structs.HostLayout
	gpus, processes, events, faults                     uint32
	instances, unprivileged                             uint32
	manual, host                                        uint32
	cudaVersion, _                                      int32
	baseBootUs, baseEpochUs                             int64
	repeatUs                                            int64
	driverEpoch                                         uint32
	ccCapable, ccEnvironment                            uint32
	ccFeature, ccDevtools, ccMultiGPU, ccReady, blocked uint32
	block                                               [MaxBlocked][64]byte
	nextID                                              uint64
	driver, nvml                                        [80]byte
	gpu                                                 [MaxGPUs]device
	instance                                            [MaxInstances]instance
	process                                             [MaxProcesses]process
	event                                               [MaxEvents]event
	fault                                               [MaxFaults]fault
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
