package feature

import "math"

// MinuteMs is the width of a cell in milliseconds.
const MinuteMs = 60_000

// Signal numbers one measured quantity of a GPU. The unit ends its name.
type Signal int

// Signals of a GPU. Fractions are 0 to 1. Rates are bytes per second.
const (
	UtilFrac Signal = iota
	MemUsedBytes
	PowerW
	SMClockMHz
	SMActiveFrac
	SMOccupancyFrac
	TensorFrac
	HMMAFrac
	IMMAFrac
	DFMAFrac
	FP64Frac
	FP32Frac
	FP16Frac
	IntFrac
	DRAMFrac
	PCIeTxBps
	PCIeRxBps
	NVLinkTxBps
	NVLinkRxBps
	NVEncFrac
	NVDecFrac
	NumSignals
)

// SignalNames are the column names of the signals, as BUNDLE.md and the store use them.
var SignalNames = [NumSignals]string{
	"util_frac", "mem_used_bytes", "power_w", "sm_clock_mhz", "sm_active_frac", "sm_occupancy_frac",
	"tensor_frac", "hmma_frac", "imma_frac", "dfma_frac", "fp64_frac", "fp32_frac", "fp16_frac", "int_frac",
	"dram_frac", "pcie_tx_bps", "pcie_rx_bps", "nvlink_tx_bps", "nvlink_rx_bps", "nvenc_frac", "nvdec_frac",
}

// GPUSample is one raw sample of one GPU. NaN means "not measured".
type GPUSample struct {
	Node        string
	GPU         int
	TsMs        int64 // event time; a rate describes the time since the same GPU's previous sample
	AvailableMs int64
	Value       [NumSignals]float64
	EnergyJ     float64 // cumulative, may reset
	MMACycles   float64 // cumulative tensor-pipe cycles, mean over the SMs, may reset
}

// HostSample is one raw sample of one host. NaN means "not measured".
type HostSample struct {
	Node                                string
	TsMs, AvailableMs                   int64
	PowerW                              float64 // BMC or inlet watts of the whole node
	CPUFrac, StorageTxBps, StorageRxBps float64
}

// FabricSample is one reading of a port's cumulative byte counters. NaN means "not measured".
type FabricSample struct {
	Node, Port, Kind  string // Kind: infiniband, roce, ethernet, vf
	TsMs, AvailableMs int64
	TxBytes, RxBytes  float64
	Parent            string // port behind which a virtual function stands; empty: none, or not known
}

// Flow is traffic of a node towards a peer since the pair's last row. Peer is a node's
// name, or for an address outside the keyed hash of its network ("net-...").
type Flow struct {
	Node, Peer        string
	TsMs, AvailableMs int64
	TxBytes           float64
}

// Collective is collective calls of one process on one communicator since its last row.
type Collective struct {
	Node              string
	PID, GPU          int
	Comm, Op          string // Op: allreduce, reducescatter, allgather, broadcast, sendrecv, alltoall
	NRanks, Rank      int
	TsMs, AvailableMs int64
	Calls, Bytes      float64
}

// Counter is what a minute saw of a cumulative counter. Increments between two cells
// (next.First - prev.Last, or next.First after a reset) belong to the later stages, so a
// gap of any length is bridged exactly where the counter ran on.
type Counter struct {
	FirstMs, LastMs int64   // event times of the first and last reading; 0, 0: not measured
	First, Last     float64 // readings
	Delta           float64 // increment from First to Last, resets counted as the new value
}

// Has reports whether the counter was read in this minute.
func (c Counter) Has() bool { return c.LastMs != 0 }

// Peak is a period at which a signal repeats.
type Peak struct {
	PeriodMs float64 // 0: none was found, or too little was sampled to look for one
	Power    float64 // share of the signal's variance at it, 0 to 1
	CrestMs  float64 // how long after the start of the cell's minute, by the node's clock, a crest comes: less than PeriodMs
	// Folded says that the samples are too far apart to tell the period from one that the
	// sampling folds onto it: it compares with periods found at the same cadence alone.
	Folded    bool
	CadenceMs float64 // time between the samples that it was found in
}

// GPUCell is one GPU in one minute, or in more of them that were alike (SpanMs). A sample's weight, the time since the previous
// sample (capped), is credited to the minute of the sample's time.
type GPUCell struct {
	Node        string
	GPU         int
	MinuteMs    int64 // start of the minute
	SpanMs      int64 // width where it is not a minute, a whole number of them; 0: a minute
	AvailableMs int64 // latest availability of a row that contributed
	Samples     int
	Mean        [NumSignals]float64
	SD          [NumSignals]float64 // within the minute, time-weighted; 0 with one sample
	CoverMs     [NumSignals]int64   // time that the mean rests on; 0: not measured
	// TensorClockMHz is the time-weighted mean of TensorFrac x SMClockMHz, taken sample
	// by sample; TensorClockMs the time in which both were measured.
	TensorClockMHz float64
	TensorClockMs  int64
	EnergyJ        Counter
	MMACycles      Counter
	// Rhythm is the strongest period that the GPU's links, pipes or watts keep over the minutes
	// that end here, and RhythmOf the signal that shows it.
	Rhythm   Peak
	RhythmOf Signal
}

// EndMs is the end of what the cell covers.
func (c *GPUCell) EndMs() int64 {
	if c.SpanMs > 0 {
		return c.MinuteMs + c.SpanMs
	}
	return c.MinuteMs + MinuteMs
}

// Has reports whether the signal was measured in this minute.
func (c *GPUCell) Has(s Signal) bool { return c.CoverMs[s] > 0 }

// Get returns the mean, or NaN where the signal was not measured.
func (c *GPUCell) Get(s Signal) float64 {
	if c.CoverMs[s] > 0 {
		return c.Mean[s]
	}
	return math.NaN()
}

// NodeCell is one host in one minute: BMC power, CPU, storage and fabric. A CoverMs of
// 0 means "not measured".
type NodeCell struct {
	Node                             string
	MinuteMs, AvailableMs            int64
	PowerW, PowerSD                  float64
	PowerCoverMs                     int64
	CPUFrac                          float64
	CPUCoverMs                       int64
	StorageTxBps, StorageRxBps       float64
	StorageCoverMs                   int64
	FabricTxBytes, FabricRxBytes     float64 // back-end ports (infiniband, roce) summed, increments credited to the minute
	FabricCoverMs                    int64
	FabricTxCV                       float64 // sd / mean of the per-reading rate within the minute: burstiness; 0 with < 3 readings
	EthernetTxBytes, EthernetRxBytes float64 // ethernet ports, or their virtual functions where those moved more; vf whose parent is not read
	EthernetCoverMs                  int64
	SpanMs                           int64 // as of a GPUCell
	Rhythm                           Peak  // of the back-end ports, else of the host's watts
	RhythmOfPower                    bool
}

// EndMs is the end of what the cell covers.
func (c *NodeCell) EndMs() int64 {
	if c.SpanMs > 0 {
		return c.MinuteMs + c.SpanMs
	}
	return c.MinuteMs + MinuteMs
}

// CommCell is one process on one communicator in one minute, one op.
type CommCell struct {
	Node         string
	PID, GPU     int
	Comm, Op     string
	NRanks, Rank int
	MinuteMs     int64
	AvailableMs  int64
	Calls, Bytes float64
	SpanMs       int64 // as of a GPUCell
}

// EndMs is the end of what the cell covers.
func (c *CommCell) EndMs() int64 { return c.MinuteMs + max(c.SpanMs, MinuteMs) }

// FlowCell is the traffic of a pair in one minute.
type FlowCell struct {
	Node, Peer            string
	MinuteMs, AvailableMs int64
	TxBytes               float64
	SpanMs                int64 // as of a GPUCell
}

// EndMs is the end of what the cell covers.
func (c *FlowCell) EndMs() int64 { return c.MinuteMs + max(c.SpanMs, MinuteMs) }

// Process is a process that used GPUs. What it declares (launcher, job, world size) is
// evidence, not truth. User and project are keyed hashes.
type Process struct {
	Node                                           string
	GPUs                                           []int
	PID                                            int
	StartMs, EndMs                                 int64 // EndMs 0: still running as far as is known
	AvailableMs                                    int64
	Exe, Launcher, JobSource, JobID, User, Project string
	WorldSize, Rank                                int // -1: not stated
}

// Allocation is a rental of GPUs. EndMs 0: goes on as far as is known.
type Allocation struct {
	Account, Node  string
	GPUs           []int
	StartMs, EndMs int64
	AvailableMs    int64
}

// Order is one version of a contract for capacity.
type Order struct {
	Order, Account, GPUModel, DeclaredUse string
	AmendedMs, StartMs, EndMs             int64
	GPUCount                              int     // -1: not stated
	FabricGbps                            float64 // NaN: not stated
}

// Node is a row of the expected inventory. Empty or NaN fields were not stated.
type Node struct {
	Node, Site, GPUModel, Vantage string // Vantage: host, outofband
	GPUCount                      int    // -1: not stated; 0: a host without GPUs
	FabricGbps, TDPW              float64
	Listed                        bool // false: telemetry came from a node that the inventory lacks
	// SeenModel and SeenCount are what the node's own driver says of its GPUs: "", 0: it said
	// nothing. What the inventory does not state is taken from it.
	SeenModel string
	SeenCount int
}

// Loss is a stretch of time of which a host's telemetry, or a part of it, is lost: sampled, or due,
// and not stored.
type Loss struct {
	Node         string
	FromMs, ToMs int64
	// Reason is why, of the closed set of the store's table: bytes, age, corrupt, disk, memory,
	// quarantine, conflict, missing.
	Reason         string
	Batches, Ticks int64
	KnownMs        int64 // from when on it could be known
}

// Instance is a part of a GPU (MIG) that was seen: its share of the whole.
type Instance struct {
	Node         string
	GPU          int
	FromMs, ToMs int64
	SMFrac       float64 // of the GPU's SMs; NaN: not known
}

// Checkpoint is a file that a process wrote as trainings write their state.
type Checkpoint struct {
	Node  string
	PID   int
	AtMs  int64
	Bytes float64
}

// GPUKey names a GPU.
type GPUKey struct {
	Node string
	GPU  int
}

// Evidence is all that is known to the detector at one moment of event time. Slices
// are sorted by time, then by their keys. Readers must not change it.
type Evidence struct {
	StartMs, EndMs int64 // the period looked at; EndMs is the judged moment: nothing later is visible
	Nodes          map[string]Node
	GPU            map[GPUKey][]GPUCell // read them by Cells: of a large fleet Source has them instead
	Source         CellSource           // nil: GPU has the cells
	Host           map[string][]NodeCell
	Comm           []CommCell
	Flows          []FlowCell
	Processes      []Process
	Allocations    []Allocation
	Orders         []Order // all versions visible so far
	Losses         []Loss  // by node, then time
	Instances      []Instance
	Checkpoints    []Checkpoint
}
