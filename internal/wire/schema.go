package wire

// Kind is a kind of record. Numbers are part of the contract and never reused.
type Kind uint8

// Kinds of records. Node kinds travel on the node's subject, provider kinds on the
// provider's.
const (
	KindGPU        Kind = 1
	KindHost       Kind = 2
	KindFabric     Kind = 3
	KindFlow       Kind = 4
	KindProcess    Kind = 5
	KindCollective Kind = 6
	KindDevice     Kind = 7  // what the driver says that a GPU is
	KindStatus     Kind = 8  // what an instrument of the agent can see, and why not more
	KindInventory  Kind = 32 // provider: expected nodes
	KindAllocation Kind = 33 // provider: rentals
	KindOrder      Kind = 34 // provider: versions of contracts
)

// FieldType says how a field's values travel.
type FieldType uint8

const (
	// Int fields are signed 64-bit integers, scaled as the name says.
	Int FieldType = 1
	// Str fields are dictionary-coded strings.
	Str FieldType = 2
)

// Field describes one column of a kind. ID is part of the contract and never reused
// within the kind. Suffixes: _ms Unix milliseconds UTC or milliseconds, _mw milliwatts,
// _mj millijoules, _e4 a fraction times 10,000, _bps bytes per second, _list integers
// separated by blanks.
type Field struct {
	ID   uint8
	Name string
	Type FieldType
	Key  bool // part of the natural key: always present
}

// Schema lists the fields of every kind. Fields may be added; a field's ID, type and
// meaning never change.
var Schema = map[Kind][]Field{
	KindGPU: {
		{1, "ts_ms", Int, true}, {2, "gpu_uuid", Str, true}, {3, "gpu", Int, true}, {4, "boot_ms", Int, false},
		{10, "util_e4", Int, false}, {11, "mem_used_bytes", Int, false}, {12, "power_mw", Int, false},
		{13, "energy_mj", Int, false}, {14, "sm_clock_mhz", Int, false}, {15, "sm_active_e4", Int, false},
		{16, "sm_occupancy_e4", Int, false}, {17, "tensor_e4", Int, false}, {18, "hmma_e4", Int, false},
		{19, "imma_e4", Int, false}, {20, "dfma_e4", Int, false}, {21, "fp64_e4", Int, false},
		{22, "fp32_e4", Int, false}, {23, "fp16_e4", Int, false}, {24, "int_e4", Int, false},
		{25, "dram_e4", Int, false}, {26, "mma_cycles", Int, false}, {27, "pcie_tx_bps", Int, false},
		{28, "pcie_rx_bps", Int, false}, {29, "nvlink_tx_bps", Int, false}, {30, "nvlink_rx_bps", Int, false},
		{31, "nvenc_e4", Int, false}, {32, "nvdec_e4", Int, false}, {33, "mem_clock_mhz", Int, false},
		{34, "temp_c", Int, false}, {35, "clocks_event_reasons", Int, false},
	},
	KindHost: {
		{1, "ts_ms", Int, true}, {4, "boot_ms", Int, false},
		{10, "power_mw", Int, false}, {11, "cpu_e4", Int, false}, {12, "storage_tx_bps", Int, false}, {13, "storage_rx_bps", Int, false},
	},
	KindFabric: {
		{1, "ts_ms", Int, true}, {2, "port", Str, true}, {3, "fabric_kind", Str, false}, {4, "boot_ms", Int, false},
		{10, "tx_bytes", Int, false}, {11, "rx_bytes", Int, false}, {12, "rate_mbps", Int, false}, {13, "link_up", Int, false},
	},
	KindFlow: {
		{1, "ts_ms", Int, true}, {2, "peer", Str, true}, {10, "tx_bytes", Int, false},
	},
	KindProcess: {
		{1, "start_ms", Int, true}, {2, "pid", Int, true}, {10, "end_ms", Int, false}, {11, "gpu_list", Str, false},
		{12, "exe", Str, false}, {13, "launcher", Str, false}, {14, "job_source", Str, false}, {15, "job_id", Str, false},
		{16, "user_hash", Str, false}, {17, "project_hash", Str, false}, {18, "world_size", Int, false}, {19, "rank", Int, false},
	},
	KindCollective: {
		{1, "ts_ms", Int, true}, {2, "pid", Int, true}, {3, "gpu", Int, true}, {4, "comm", Str, true}, {5, "op", Str, true},
		{10, "nranks", Int, false}, {11, "rank", Int, false}, {12, "calls", Int, false}, {13, "bytes", Int, false},
	},
	KindDevice: {
		{1, "ts_ms", Int, true}, {2, "gpu_uuid", Str, true}, {3, "gpu", Int, true},
		{10, "gpu_model", Str, false}, {11, "pci_bus_id", Str, false}, {12, "driver_version", Str, false}, {13, "vbios_version", Str, false},
		{14, "mem_total_bytes", Int, false}, {15, "power_limit_mw", Int, false}, {16, "sm_clock_max_mhz", Int, false}, {17, "mig_mode", Int, false},
		{18, "nvlink_count", Int, false}, {19, "capabilities", Str, false},
	},
	KindStatus: {
		{1, "ts_ms", Int, true}, {2, "instrument", Str, true}, {10, "state", Str, false}, {11, "reason", Str, false}, {12, "since_ms", Int, false},
	},
	KindInventory: {
		{1, "node", Str, true}, {10, "site", Str, false}, {11, "gpu_model", Str, false}, {12, "gpu_count", Int, false},
		{13, "fabric_mbps", Int, false}, {14, "vantage", Str, false}, {15, "tdp_mw", Int, false},
	},
	KindAllocation: {
		{1, "account", Str, true}, {2, "node", Str, true}, {3, "gpu_list", Str, true}, {4, "start_ms", Int, true},
		{10, "end_ms", Int, false},
	},
	KindOrder: {
		{1, "order", Str, true}, {2, "amended_ms", Int, true}, {10, "account", Str, false}, {11, "gpu_model", Str, false},
		{12, "gpu_count", Int, false}, {13, "fabric_mbps", Int, false}, {14, "start_ms", Int, false}, {15, "end_ms", Int, false},
		{16, "declared_use", Str, false},
	},
}

// Source says by which way a column was measured.
type Source uint8

// Sources. Declared means somebody stated it; bundle means the recording does not say.
const (
	SourceUnknown  Source = 0
	SourceGPM      Source = 1
	SourceNVML     Source = 2
	SourceBMC      Source = 3
	SourceSysfs    Source = 4
	SourceEBPF     Source = 5
	SourceProcfs   Source = 6
	SourceDeclared Source = 7
	SourceRecorded Source = 8
)

// Column is one field of a table, in structure-of-arrays form. Exactly one of Int and
// Ref is used, by the field's type; both have one entry a row, whatever Present says
// (entries of absent rows are 0 and mean nothing).
type Column struct {
	Field   uint8
	Source  Source
	Present []uint64 // bitmap, row r is bit r%64 of word r/64; nil: every row is present
	Int     []int64
	Dict    []string
	Ref     []uint32 // index into Dict
}

// Has reports whether row r of the column was measured.
func (c *Column) Has(r int) bool { return c.Present == nil || c.Present[r>>6]>>(r&63)&1 == 1 }

// Table is the rows of one kind in a batch.
type Table struct {
	Kind    Kind
	Rows    int
	Columns []Column
}

// Batch is one message. Its identity is (Cluster, Node, Spool, Sequence).
type Batch struct {
	Version  uint32 // of the contract, see Version
	Cluster  string
	Node     string // empty in provider batches
	Spool    [16]byte
	Sequence uint64
	BootID   string
	// Ticks counts sampling ticks since the agent started: a jump between two batches
	// shows what was lost before the spool.
	Ticks uint64
	// SealedWallMs and SealedBootMs are both clocks when the batch was sealed; 0: not known.
	SealedWallMs, SealedBootMs int64
	// AvailableMs is set by replays alone: the running maximum of event time, which takes
	// the place of the broker's time. 0 in live batches.
	AvailableMs int64
	// PrevDigest is the SHA-256 of the previous frame of the same spool; zero for the first.
	PrevDigest [32]byte
	Tables     []Table
	// Gaps are the ranges of sequences that this spool gave up and that the collector has
	// not yet confirmed to know: the same gap may come again, and may have grown at its end.
	Gaps []Gap
}

// GapReason says why a spool gave frames up.
type GapReason uint8

// Reasons of gaps.
const (
	GapBytes   GapReason = 1 // the spool was full
	GapAge     GapReason = 2 // the frames were older than the spool keeps them
	GapCorrupt GapReason = 3 // the frames were damaged on disk; they are in the node's quarantine
)

// Gap is a range of sequences, inclusive at both ends, that the node no longer has. A
// frame of it that was published before may still be on its way: batches that the store
// holds are not missing, whatever a gap says.
type Gap struct {
	From, To uint64
	Reason   GapReason
	// Digest is the SHA-256 of frame To, so that the chain of digests goes on behind the
	// gap; zero if that frame could not be read.
	Digest [32]byte
}
