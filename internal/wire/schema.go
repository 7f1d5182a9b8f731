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
	KindHealth     Kind = 9  // what GPUs tell rarely: counters of errors, throttling and cycles, links
	KindEvent      Kind = 10 // what happened to GPUs: Xid errors, ECC errors, resets
	KindInstance   Kind = 11 // samples of MIG instances of GPUs
	KindHold       Kind = 12 // who holds a GPU, at work or not, as its scheduler says
	KindTCP        Kind = 13 // TCP traffic of jobs towards peers, from the kernel's socket counters
	KindCheckpoint Kind = 14 // large files that processes on GPUs wrote
	KindRDMA       Kind = 15 // RDMA objects that processes hold: queue pairs and registered memory
	KindOutOfBand  Kind = 16 // what a management controller measures, beside the host
	KindFact       Kind = 17 // what hosts are: versions, libraries, integrity, addresses (hashed)
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
		{36, "mem_util_e4", Int, false}, {37, "sm_cycles_elapsed", Int, false},
	},
	KindHost: {
		{1, "ts_ms", Int, true}, {4, "boot_ms", Int, false},
		{10, "power_mw", Int, false}, {11, "cpu_e4", Int, false}, {12, "storage_tx_bps", Int, false}, {13, "storage_rx_bps", Int, false},
	},
	KindFabric: {
		{1, "ts_ms", Int, true}, {2, "port", Str, true}, {3, "fabric_kind", Str, false}, {4, "boot_ms", Int, false},
		{10, "tx_bytes", Int, false}, {11, "rx_bytes", Int, false}, {12, "rate_mbps", Int, false}, {13, "link_up", Int, false},
		{14, "parent_port", Str, false}, {15, "tx_packets", Int, false}, {16, "rx_packets", Int, false}, {20, "xmit_wait", Int, false},
		{21, "cnp_sent", Int, false}, {22, "cnp_handled", Int, false}, {23, "ecn_marked", Int, false}, {24, "out_of_sequence", Int, false},
		{25, "ack_timeouts", Int, false}, {26, "rnr_retries", Int, false}, {27, "symbol_errors", Int, false}, {28, "link_downed", Int, false},
		{29, "link_recovered", Int, false}, {30, "rx_errors", Int, false}, {31, "tx_discards", Int, false}, {32, "rx_discards", Int, false},
	},
	KindFlow: {
		{1, "ts_ms", Int, true}, {2, "peer", Str, true}, {10, "tx_bytes", Int, false},
	},
	KindProcess: {
		{1, "start_ms", Int, true}, {2, "pid", Int, true}, {10, "end_ms", Int, false}, {11, "gpu_list", Str, false},
		{12, "exe", Str, false}, {13, "launcher", Str, false}, {14, "job_source", Str, false}, {15, "job_id", Str, false},
		{16, "user_hash", Str, false}, {17, "project_hash", Str, false}, {18, "world_size", Int, false}, {19, "rank", Int, false},
		{20, "confidence_e4", Int, false}, {21, "evidence", Str, false}, {22, "rendezvous_hash", Str, false}, {23, "local_rank", Int, false},
		{24, "local_world_size", Int, false}, {25, "instance_list", Str, false}, {26, "exit_code", Int, false}, {27, "nccl", Str, false},
		{28, "container", Str, false}, {29, "restart_count", Int, false},
	},
	KindCollective: {
		{1, "ts_ms", Int, true}, {2, "pid", Int, true}, {3, "gpu", Int, true}, {4, "comm", Str, true}, {5, "op", Str, true},
		{10, "nranks", Int, false}, {11, "rank", Int, false}, {12, "calls", Int, false}, {13, "bytes", Int, false},
		{14, "dtype_bytes", Str, false}, {15, "nccl_hash", Str, false}, {16, "first_ms", Int, false}, {17, "last_ms", Int, false},
		{18, "parent", Str, false}, {19, "graph_captured", Int, false},
	},
	KindDevice: {
		{1, "ts_ms", Int, true}, {2, "gpu_uuid", Str, true}, {3, "gpu", Int, true},
		{10, "gpu_model", Str, false}, {11, "pci_bus_id", Str, false}, {12, "driver_version", Str, false}, {13, "vbios_version", Str, false},
		{14, "mem_total_bytes", Int, false}, {15, "power_limit_mw", Int, false}, {16, "sm_clock_max_mhz", Int, false}, {17, "mig_mode", Int, false},
		{18, "nvlink_count", Int, false}, {19, "capabilities", Str, false},
		{20, "serial", Str, false}, {21, "board_part", Str, false}, {22, "architecture", Str, false}, {23, "compute_capability", Str, false},
		{24, "sm_count", Int, false}, {25, "fabric_cluster_uuid", Str, false}, {26, "fabric_clique", Int, false}, {27, "cc_mode", Str, false},
		{28, "ecc_mode", Int, false}, {29, "pcie_gen_max", Int, false}, {30, "pcie_width_max", Int, false}, {31, "module_id", Int, false},
		{32, "gsp_version", Str, false},
	},
	KindStatus: {
		{1, "ts_ms", Int, true}, {2, "instrument", Str, true}, {10, "state", Str, false}, {11, "reason", Str, false}, {12, "since_ms", Int, false},
	},
	KindHealth: {
		{1, "ts_ms", Int, true}, {2, "gpu_uuid", Str, true}, {3, "gpu", Int, true}, {4, "boot_ms", Int, false},
		{10, "pstate", Int, false}, {11, "power_limit_mw", Int, false}, {12, "module_power_mw", Int, false}, {13, "mem_temp_c", Int, false},
		{14, "slowdown_temp_c", Int, false}, {15, "fan_e4", Int, false}, {16, "pcie_gen", Int, false}, {17, "pcie_width", Int, false},
		{18, "pcie_replays", Int, false}, {19, "pcie_errors", Int, false}, {20, "pcie_tx_bytes", Int, false}, {21, "pcie_rx_bytes", Int, false},
		{22, "ecc_corrected_volatile", Int, false}, {23, "ecc_uncorrected_volatile", Int, false}, {24, "ecc_corrected_aggregate", Int, false}, {25, "ecc_uncorrected_aggregate", Int, false},
		{26, "rows_remapped_corrected", Int, false}, {27, "rows_remapped_uncorrected", Int, false}, {28, "row_remap_pending", Int, false}, {29, "row_remap_failed", Int, false},
		{30, "pages_retired", Int, false}, {31, "nvlinks_up", Int, false}, {32, "nvlink_tx_kib", Int, false}, {33, "nvlink_rx_kib", Int, false},
		{34, "nvlink_errors", Int, false}, {35, "power_capped_ns", Int, false}, {36, "thermal_capped_ns", Int, false}, {37, "sync_boost_ns", Int, false},
		{38, "hw_slowdown_ns", Int, false}, {39, "mem_reserved_bytes", Int, false}, {40, "bar1_used_bytes", Int, false}, {41, "sm_cycles_elapsed", Int, false},
		{42, "sm_cycles_active", Int, false}, {43, "mma_cycles", Int, false}, {44, "dmma_cycles", Int, false}, {45, "hmma_cycles", Int, false},
		{46, "imma_cycles", Int, false}, {47, "dfma_cycles", Int, false}, {48, "int_cycles", Int, false}, {49, "fp64_cycles", Int, false},
		{50, "fp32_cycles", Int, false}, {51, "fp16_cycles", Int, false}, {52, "recovery_action", Int, false},
	},
	KindEvent: {
		{1, "ts_ms", Int, true}, {2, "gpu_uuid", Str, true}, {3, "gpu", Int, true}, {4, "event", Str, true},
		{5, "code", Int, true}, {10, "count", Int, false}, {11, "gi_id", Int, false}, {12, "ci_id", Int, false},
		{13, "detail", Str, false},
	},
	KindInstance: {
		{1, "ts_ms", Int, true}, {2, "gpu_uuid", Str, true}, {3, "gpu", Int, true}, {4, "boot_ms", Int, false},
		{5, "gi_id", Int, true}, {10, "instance_uuid", Str, false}, {11, "profile", Str, false}, {12, "sm_count", Int, false},
		{13, "slices", Int, false}, {14, "mem_total_bytes", Int, false}, {15, "mem_used_bytes", Int, false}, {16, "sm_active_e4", Int, false},
		{17, "sm_occupancy_e4", Int, false}, {18, "tensor_e4", Int, false}, {19, "hmma_e4", Int, false}, {20, "imma_e4", Int, false},
		{21, "dfma_e4", Int, false}, {22, "fp64_e4", Int, false}, {23, "fp32_e4", Int, false}, {24, "fp16_e4", Int, false},
		{25, "int_e4", Int, false}, {26, "dram_e4", Int, false}, {27, "pcie_tx_bps", Int, false}, {28, "pcie_rx_bps", Int, false},
		{29, "compute_instances", Int, false},
	},
	KindHold: {
		{1, "start_ms", Int, true}, {2, "gpu_uuid", Str, true}, {3, "job_source", Str, true}, {4, "job_id", Str, true},
		{10, "gpu", Int, false}, {11, "device", Str, false}, {12, "end_ms", Int, false}, {13, "seen_ms", Int, false},
		{14, "evidence", Str, false}, {15, "confidence_e4", Int, false}, {16, "shares", Int, false}, {17, "user_hash", Str, false},
		{18, "project_hash", Str, false}, {19, "workload_hash", Str, false}, {20, "container", Str, false}, {21, "restart_count", Int, false},
	},
	KindTCP: {
		{1, "ts_ms", Int, true}, {2, "peer", Str, true}, {3, "job_source", Str, true}, {4, "job_id", Str, true},
		{10, "tx_bytes", Int, false}, {11, "rx_bytes", Int, false}, {12, "retransmits", Int, false}, {13, "connections", Int, false},
	},
	KindCheckpoint: {
		{1, "start_ms", Int, true}, {2, "pid", Int, true}, {3, "file", Str, true}, {10, "end_ms", Int, false},
		{11, "bytes", Int, false}, {12, "file_bytes", Int, false}, {13, "filesystem", Str, false}, {14, "job_source", Str, false},
		{15, "job_id", Str, false}, {16, "process_start_ms", Int, false},
	},
	KindRDMA: {
		{1, "ts_ms", Int, true}, {2, "device", Str, true}, {3, "pid", Int, true}, {10, "queue_pairs", Int, false},
		{11, "connected", Int, false}, {12, "memory_regions", Int, false}, {13, "memory_region_bytes", Int, false}, {14, "completion_queues", Int, false},
		{15, "qp_pairs", Str, false}, {16, "job_source", Str, false}, {17, "job_id", Str, false},
	},
	KindOutOfBand: {
		{1, "ts_ms", Int, true}, {2, "target", Str, true}, {3, "component", Str, true}, {10, "vantage", Str, false},
		{11, "method", Str, false}, {12, "report_ms", Int, false}, {13, "gpu", Int, false}, {14, "gpu_uuid", Str, false},
		{15, "power_mw", Int, false}, {16, "energy_mj", Int, false}, {17, "temp_c", Int, false}, {18, "util_e4", Int, false},
		{19, "sm_active_e4", Int, false}, {20, "sm_occupancy_e4", Int, false}, {21, "tensor_e4", Int, false}, {22, "hmma_e4", Int, false},
		{23, "imma_e4", Int, false}, {24, "dfma_e4", Int, false}, {25, "fp64_e4", Int, false}, {26, "fp32_e4", Int, false},
		{27, "fp16_e4", Int, false}, {28, "int_e4", Int, false}, {29, "dram_e4", Int, false}, {30, "pcie_tx_bps", Int, false},
		{31, "pcie_rx_bps", Int, false}, {32, "nvlink_tx_bps", Int, false}, {33, "nvlink_rx_bps", Int, false}, {34, "sm_clock_mhz", Int, false},
	},
	KindFact: {
		{1, "ts_ms", Int, true}, {2, "subject", Str, true}, {3, "name", Str, true}, {10, "value", Str, false},
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
	SourceNetlink  Source = 9
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
	// Ticks counts sampling ticks since the first agent of the boot with this spool: a jump between two batches
	// shows what was lost before the spool.
	Ticks uint64
	// FirstTick is the first tick whose rows can be in the batch; 0: not stated. Between the Ticks
	// of the batch before it and this one's FirstTick lies what was given up before it came to the
	// spool. MissedTicks are those of Ticks that passed without a sample: the host was suspended,
	// or overloaded.
	FirstTick, MissedTicks uint64
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
	// Key is the node's public key (Ed25519), Signature that of Head().Sum(), BodyDigest what it is
	// made of; all zero: not signed. Decode fills them and verifies nothing, see Head.Verify.
	// AppendBatch does not read them, see AppendSigned.
	Key        [KeySize]byte
	Signature  [SignatureSize]byte
	BodyDigest [32]byte
}

// GapReason says why a spool gave frames up.
type GapReason uint8

// Reasons of gaps.
const (
	GapBytes   GapReason = 1 // the spool was full
	GapAge     GapReason = 2 // the frames were older than the spool keeps them
	GapCorrupt GapReason = 3 // the frames were damaged on disk; they are in the node's quarantine
	GapDisk    GapReason = 4 // the node's file system had no room
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
