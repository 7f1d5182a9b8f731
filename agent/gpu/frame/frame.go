package frame

// Metric is a number that the child reads of a GPU. The order is the protocol's: new ones
// come last, and the protocol's version rises.
type Metric uint8

// Metrics. Units are in the names, as in the wire contract's: E4 is a fraction times 10,000,
// MB is MiB as NVML counts it.
const (
	UtilE4 Metric = iota
	MemUtilE4
	MemUsedBytes
	PowerMW
	EnergyMJ // cumulative since the driver was loaded
	SMClockMHz
	MemClockMHz
	TempC
	ClocksEventReasons // bits of nvmlClocksEventReasons
	SMActiveE4         // GPM, from here
	SMOccupancyE4
	TensorE4
	DFMAE4
	HMMAE4
	IMMAE4
	DRAME4
	FP64E4
	FP32E4
	FP16E4
	IntE4
	PCIeTxBps
	PCIeRxBps
	NVLinkTxBps
	NVLinkRxBps
	NVEncE4
	NVDecE4
	NVLinkTxKiB // cumulative, field values 138 and 139; where there is no GPM
	NVLinkRxKiB
	PCIeTxBytes // cumulative, field values 197 and 198; where there is no GPM
	PCIeRxBytes
	MMACycles       // GPM's cumulative counters 250 and 248, as the driver gives them: whether they
	SMCyclesElapsed // are sums or means over the SMs it does not say, but both are the same
	GREngineE4      // GPM: time in which graphics or compute was at work; for the page alone
	NumMetrics
)

// Device is what the driver says that a GPU is. Empty and -1: not known.
type Device struct {
	Index                       int
	UUID, Name, PCIBusID        string
	DriverVersion, VBIOSVersion string
	MemTotalBytes               int64
	PowerLimitMW, SMClockMaxMHz int64 // PowerLimitMW is the board's default, whatever is enforced
	MIGMode                     int   // 1, 0, -1
	NVLinks                     int
	GPM                         bool
	Capabilities                []string // what can be read of it, sorted
	Serial, BoardPart           string
	Architecture                string // hopper, ampere, ...
	ComputeCapability           string // as 9.0
	SMs                         int    // worked out of the number of cores
	FabricClusterUUID           string
	FabricClique                int64
	CCMode                      string // confidential computing: off, on, devtools
	ECCMode                     int    // 1, 0, -1
	PCIeGenMax, PCIeWidthMax    int
	ModuleID                    int
	Minor                       int // of /dev/nvidiaN
	GSPVersion                  string
	// Whole: all there is to know of it has been asked. The first Devices of a GPU come before
	// that, as the questions are spread over some requests.
	Whole bool
}

// Unknown is a device of which nothing is known.
func Unknown(index int) Device {
	return Device{
		Index: index, MemTotalBytes: -1, PowerLimitMW: -1, SMClockMaxMHz: -1, MIGMode: -1, NVLinks: -1, SMs: -1, FabricClique: -1, ECCMode: -1,
		PCIeGenMax: -1, PCIeWidthMax: -1, ModuleID: -1, Minor: -1,
	}
}

// WholeGPU is where the number of a GPU instance stands, and there is none.
const WholeGPU = -1

// Reading is what one pass over one GPU gave, or over one of its instances (MIG).
type Reading struct {
	GPU int
	GI  int    // GPU instance; WholeGPU
	Seq uint64 // of the request that it answers
	// ElapsedUs is when the GPU was read, in microseconds after the child was asked; TookUs is
	// how long all its calls took.
	ElapsedUs, TookUs int64
	Calls             int    // into the library
	Present           uint64 // bit m: Values[m] was measured
	FromGPM           uint64 // bit m: by GPM
	Values            [NumMetrics]int64
}

// Has reports whether a metric was measured.
func (r *Reading) Has(m Metric) bool { return r.Present>>m&1 == 1 }

// Set sets a metric.
func (r *Reading) Set(m Metric, v int64) {
	r.Present |= 1 << m
	r.Values[m] = v
}

// Vital is a number that a GPU tells rarely.
type Vital uint8

// Vitals, in the order of the wire contract's health. Counters may begin again at 0. Cycles
// are GPM's, in the unit of MMACycles.
const (
	PState Vital = iota
	PowerLimitMW
	ModulePowerMW
	MemTempC
	SlowdownTempC
	FanE4
	PCIeGen
	PCIeWidth
	PCIeReplays
	PCIeErrors
	PCIeSentBytes
	PCIeReceivedBytes
	ECCCorrectedVolatile
	ECCUncorrectedVolatile
	ECCCorrectedAggregate
	ECCUncorrectedAggregate
	RowsRemappedCorrected
	RowsRemappedUncorrected
	RowRemapPending
	RowRemapFailed
	PagesRetired
	NVLinksUp
	NVLinkSentKiB
	NVLinkReceivedKiB
	NVLinkErrors
	PowerCappedNs
	ThermalCappedNs
	SyncBoostNs
	HWSlowdownNs
	MemReservedBytes
	BAR1UsedBytes
	CyclesElapsed
	CyclesActive
	CyclesMMA
	CyclesDMMA
	CyclesHMMA
	CyclesIMMA
	CyclesDFMA
	CyclesInt
	CyclesFP64
	CyclesFP32
	CyclesFP16
	RecoveryAction
	NumVitals
)

// Health is what one look at the vitals of a GPU gave. The look may be spread over several
// requests: Seq is of the one that ended it, and the counters are of that moment.
type Health struct {
	GPU               int
	Seq               uint64
	ElapsedUs, TookUs int64 // as of a Reading; TookUs of all calls of the look
	Calls             int
	Present           uint64 // bit v: Values[v] was measured
	Values            [NumVitals]int64
}

// Has reports whether a vital was measured.
func (h *Health) Has(v Vital) bool { return h.Present>>v&1 == 1 }

// Set sets a vital.
func (h *Health) Set(v Vital, n int64) {
	h.Present |= 1 << v
	h.Values[v] = n
}

// Instance is a MIG device: a compute instance, and the GPU instance that it is in. Empty and
// -1: not known.
type Instance struct {
	GI, CI        int
	UUID, Profile string // MIG-..., and the GPU instance's profile, as 1g.10gb
	SMs, Slices   int    // of the GPU instance
	MemTotalBytes int64  // of the GPU instance
	MemUsedBytes  int64  // of the GPU instance
}

// Instances is how a GPU is partitioned: all of it, told when it was looked at. An empty list:
// it is not, or not any more.
type Instances struct {
	GPU  int
	Seq  uint64
	List []Instance
}

// EventKind is what may happen to a GPU.
type EventKind uint8

// Event kinds.
const (
	EventXid                    EventKind = iota // Code is the Xid's number
	EventECCCorrected                            // single-bit errors
	EventECCUncorrected                          // double-bit errors
	EventECCStorm                                // single-bit errors come thick and fast
	EventMIGConfig                               // it was partitioned anew
	EventPowerSource                             // it changed from mains to battery, or back
	EventMemoryRetired                           // a piece of memory was taken out of use
	EventMemoryRetirementFailed                  //
	EventPoison                                  // poisoned data were met and contained
	EventFatalPoison                             //
	EventUnavailable                             // the GPU cannot be used
	EventRecovery                                // Code is what the driver asks for
	EventOther                                   // Code is the type, as NVML numbers it
	NumEventKinds
)

var eventNames = [NumEventKinds]string{
	"xid", "ecc_corrected", "ecc_uncorrected", "ecc_storm", "mig_config", "power_source", "memory_retired", "memory_retirement_failed",
	"poison", "fatal_poison", "unavailable", "recovery", "other",
}

// String is the kind's name in the wire contract.
func (k EventKind) String() string {
	if k >= NumEventKinds {
		return "unknown"
	}
	return eventNames[k]
}

// Event is something that happened to a GPU, once or, where many came at a time, Count times.
type Event struct {
	GPU    int // -1: not known
	Kind   EventKind
	Code   int64
	Count  int   // from 1
	GI, CI int   // WholeGPU: none, or not known
	AgoUs  int64 // how long ago the first of them came when this was said
}

// Class of calls into the library, by what they cost.
type Class uint8

// Classes.
const (
	NoCall Class = iota
	ClassIdentity
	ClassUtilization
	ClassMemory
	ClassClocks
	ClassTemperature
	ClassReasons
	ClassFields
	ClassPower
	ClassGPMSample
	ClassGPMMetrics
	ClassProcesses
	ClassHealth
	ClassMIG
	NumClasses
)

var classNames = [NumClasses]string{
	"none", "identity", "utilization", "memory", "clocks", "temperature", "event_reasons", "fields", "power", "gpm_sample", "gpm_metrics",
	"processes", "health", "mig",
}

// String is the class's name.
func (c Class) String() string {
	if c >= NumClasses {
		return "unknown"
	}
	return classNames[c]
}
