package bundle

// Absent stands for an empty cell of an integer column.
const Absent = -1

// Stamp is when a row was known.
type Stamp struct {
	// ArrivalMs is the running maximum of event time in the row's own file: what a replay
	// uses as the time from which the row is available. An identical repeat keeps the
	// arrival of the first.
	ArrivalMs int64
	Line      int // in the file
}

// NodeRow is a row of nodes.csv: a host that the provider lists.
type NodeRow struct {
	Node       string
	Site       string
	GPUModel   string  // as NVML names it; empty: not stated
	GPUCount   int     // Absent: not stated; 0: no GPUs
	FabricGbps float64 // NaN: not stated
	Vantage    string  // host, outofband; empty: not stated
	TDPW       float64 // NaN: not stated
	Line       int
}

// GPUValue numbers a measured column of gpu.csv.
type GPUValue int

// Measured columns of gpu.csv, in the order of GPUColumns.
const (
	UtilFrac GPUValue = iota
	MemUsedBytes
	PowerW
	EnergyJTotal
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
	MMACyclesTotal
	PCIeTxBps
	PCIeRxBps
	NVLinkTxBps
	NVLinkRxBps
	NVEncFrac
	NVDecFrac
	NumGPUValues
)

// GPUColumns are the names of the measured columns of gpu.csv.
var GPUColumns = [NumGPUValues]string{
	"util_frac", "mem_used_bytes", "power_w", "energy_j_total", "sm_clock_mhz", "sm_active_frac",
	"sm_occupancy_frac", "tensor_frac", "hmma_frac", "imma_frac", "dfma_frac", "fp64_frac", "fp32_frac",
	"fp16_frac", "int_frac", "dram_frac", "mma_cycles_total", "pcie_tx_bps", "pcie_rx_bps",
	"nvlink_tx_bps", "nvlink_rx_bps", "nvenc_frac", "nvdec_frac",
}

// GPURow is a sample of one GPU.
type GPURow struct {
	Stamp
	TsMs  int64
	Node  string
	GPU   int // index on the node
	Value [NumGPUValues]float64
}

// HostRow is a sample of one host. NaN: not measured.
type HostRow struct {
	Stamp
	TsMs         int64
	Node         string
	PowerW       float64
	CPUFrac      float64
	StorageTxBps float64
	StorageRxBps float64
}

// FabricRow is a sample of one network port: cumulative counters. NaN: not measured.
type FabricRow struct {
	Stamp
	TsMs         int64
	Node         string
	Port         string
	Kind         string // infiniband, roce, ethernet, vf; empty: not stated
	TxBytesTotal float64
	RxBytesTotal float64
}

// FlowRow is traffic of a node towards a peer since the pair's last row.
type FlowRow struct {
	Stamp
	TsMs    int64
	Node    string
	Peer    string  // a node's name, or an address outside
	TxBytes float64 // NaN: not measured
}

// ProcessRow is a process that used GPUs. It arrives at its start; its end is known from
// EndArrivalMs on.
type ProcessRow struct {
	Stamp
	StartMs      int64
	EndMs        int64 // 0: still running
	EndArrivalMs int64 // 0: still running
	Node         string
	GPUs         []int // sorted, each once; nil: not stated
	PID          int64 // negative: not stated, and different on every row
	Exe          string
	Launcher     string
	JobSource    string
	JobID        string
	User         string
	Project      string
	WorldSize    int // Absent: not stated
	Rank         int // Absent: not stated
}

// CollectiveRow is collective calls of one process on one communicator since its last row.
type CollectiveRow struct {
	Stamp
	TsMs   int64
	Node   string
	PID    int64   // Absent: not stated
	GPU    int     // Absent: not stated
	Comm   string  // empty: not stated
	NRanks int     // Absent: not stated
	Rank   int     // Absent: not stated
	Op     string  // empty: not stated
	Calls  float64 // NaN: not measured
	Bytes  float64 // NaN: not measured
}

// AllocationRow is a rental of GPUs as it took place. It arrives at its start; its end is
// known from EndArrivalMs on.
type AllocationRow struct {
	Stamp
	Account      string
	Node         string
	GPUs         []int // sorted, each once; nil: not stated
	StartMs      int64
	EndMs        int64 // 0: goes on
	EndArrivalMs int64 // 0: goes on
}

// OrderRow is one version of a contract for capacity. It arrives when it is amended.
type OrderRow struct {
	Stamp
	Order       string
	Account     string
	AmendedMs   int64
	GPUModel    string  // empty: not stated
	GPUCount    int     // Absent: not stated
	FabricGbps  float64 // NaN: not stated
	StartMs     int64   // 0: not stated
	EndMs       int64   // 0: not stated
	DeclaredUse string  // empty: not stated
}

// The names of the files, without .gz.
const (
	nodesFile       = "nodes.csv"
	gpuFile         = "gpu.csv"
	hostFile        = "host.csv"
	fabricFile      = "fabric.csv"
	flowsFile       = "flows.csv"
	processesFile   = "processes.csv"
	collectivesFile = "collectives.csv"
	allocationsFile = "allocations.csv"
	ordersFile      = "orders.csv"
	partiesFile     = "parties.jsonl"
)

var fileOrder = []string{nodesFile, gpuFile, hostFile, fabricFile, flowsFile, processesFile, collectivesFile, allocationsFile, ordersFile, partiesFile}

var columnsOf = map[string][]string{
	nodesFile:       {"node", "site", "gpu_model", "gpu_count", "fabric_gbps", "vantage", "tdp_w"},
	gpuFile:         append([]string{"ts_ms", "node", "gpu"}, GPUColumns[:]...),
	hostFile:        {"ts_ms", "node", "power_w", "cpu_frac", "storage_tx_bps", "storage_rx_bps"},
	fabricFile:      {"ts_ms", "node", "port", "kind", "tx_bytes_total", "rx_bytes_total"},
	flowsFile:       {"ts_ms", "node", "peer", "tx_bytes"},
	processesFile:   {"start_ms", "end_ms", "node", "gpus", "pid", "exe", "launcher", "job_source", "job_id", "user", "project", "world_size", "rank"},
	collectivesFile: {"ts_ms", "node", "pid", "gpu", "comm", "nranks", "rank", "op", "calls", "bytes"},
	allocationsFile: {"account", "node", "gpus", "start_ms", "end_ms"},
	ordersFile:      {"order", "account", "amended_ms", "gpu_model", "gpu_count", "fabric_gbps", "start_ms", "end_ms", "declared_use"},
}

// Each parser below takes the columns in the order of columnsOf and leaves the first
// problem of the row in c.bad. The event time that it returns moves the file's arrival.

func parseNode(c *cells) NodeRow {
	return NodeRow{
		Node: c.key(0), Site: c.text(1), GPUModel: c.text(2), GPUCount: c.count(3, maxCount),
		FabricGbps: c.number(4), Vantage: c.text(5), TDPW: c.number(6), Line: c.line,
	}
}

func parseGPU(c *cells) (r GPURow, eventMs int64) {
	r.TsMs, r.Node, r.GPU = c.sampleTime(), c.key(1), c.keyCount(2, maxGPU)
	for i := range r.Value {
		if GPUColumns[i][len(GPUColumns[i])-5:] == "_frac" {
			r.Value[i] = c.frac(3 + i)
		} else {
			r.Value[i] = c.number(3 + i)
		}
	}
	return r, r.TsMs
}

func parseHost(c *cells) (r HostRow, eventMs int64) {
	r.TsMs, r.Node = c.sampleTime(), c.key(1)
	r.PowerW, r.CPUFrac, r.StorageTxBps, r.StorageRxBps = c.number(2), c.frac(3), c.number(4), c.number(5)
	return r, r.TsMs
}

func parseFabric(c *cells) (r FabricRow, eventMs int64) {
	r.TsMs, r.Node, r.Port, r.Kind = c.sampleTime(), c.key(1), c.key(2), c.text(3)
	r.TxBytesTotal, r.RxBytesTotal = c.number(4), c.number(5)
	return r, r.TsMs
}

func parseFlow(c *cells) (r FlowRow, eventMs int64) {
	r.TsMs, r.Node, r.Peer, r.TxBytes = c.sampleTime(), c.key(1), c.key(2), c.number(3)
	return r, r.TsMs
}

func parseProcess(c *cells) (r ProcessRow, eventMs int64) {
	r.StartMs, r.EndMs = c.keyTime(0), c.time(1)
	c.interval(1, r.StartMs, r.EndMs)
	r.Node, r.GPUs, r.PID = c.key(2), c.list(3), int64(c.count(4, maxCount))
	r.Exe, r.Launcher, r.JobSource, r.JobID = c.text(5), c.text(6), c.text(7), c.text(8)
	r.User, r.Project = c.text(9), c.text(10)
	r.WorldSize, r.Rank = c.count(11, maxCount), c.count(12, maxCount)
	if r.PID == Absent {
		r.PID = -int64(c.line) // keeps rows apart whose process id was not measured
	}
	return r, r.StartMs
}

func parseCollective(c *cells) (r CollectiveRow, eventMs int64) {
	r.TsMs, r.Node, r.PID, r.GPU = c.sampleTime(), c.key(1), int64(c.count(2, maxCount)), c.count(3, maxGPU)
	r.Comm, r.NRanks, r.Rank, r.Op = c.text(4), c.count(5, maxCount), c.count(6, maxCount), c.text(7)
	r.Calls, r.Bytes = c.number(8), c.number(9)
	return r, r.TsMs
}

func parseAllocation(c *cells) (r AllocationRow, eventMs int64) {
	r.Account, r.Node, r.GPUs = c.key(0), c.key(1), c.list(2)
	r.StartMs, r.EndMs = c.keyTime(3), c.time(4)
	c.interval(4, r.StartMs, r.EndMs)
	return r, r.StartMs
}

func parseOrder(c *cells) (r OrderRow, eventMs int64) {
	r.Order, r.Account, r.AmendedMs = c.key(0), c.key(1), c.keyTime(2)
	r.GPUModel, r.GPUCount, r.FabricGbps = c.text(3), c.count(4, maxCount), c.number(5)
	r.StartMs, r.EndMs, r.DeclaredUse = c.time(6), c.time(7), c.text(8)
	c.interval(7, r.StartMs, r.EndMs)
	return r, r.AmendedMs
}
