package store

import (
	"maps"
	"slices"
)

// Names of tables. Raw tables stand one per kind of record of the wire contract.
const (
	TableGPUSamples        = "gpu_samples"
	TableHostSamples       = "host_samples"
	TableFabricSamples     = "fabric_samples"
	TableFlowSamples       = "flow_samples"
	TableProcessEvents     = "process_events"
	TableCollectiveSamples = "collective_samples"
	TableGPUDevices        = "gpu_devices"
	TableInstrumentStatus  = "instrument_status"
	TableGPUHealth         = "gpu_health"
	TableGPUEvents         = "gpu_events"
	TableGPUInstances      = "gpu_instances"
	TableGPUHolds          = "gpu_holds"
	TableTCPSamples        = "tcp_samples"
	TableCheckpoints       = "checkpoints"
	TableRDMAObjects       = "rdma_objects"
	TableBMCSamples        = "bmc_samples"
	TableNodeFacts         = "node_facts"
	TableInventory         = "inventory"
	TableAllocations       = "allocations"
	TableOrders            = "orders"

	TableBatches    = "batches"
	TableGaps       = "gaps"
	TableQuarantine = "quarantine"
	// TableQuarantineDropped counts what quarantine had no room for.
	TableQuarantineDropped = "quarantine_dropped"

	TableNodeKeys       = "node_keys"
	TableChainHours     = "chain_hours"
	TableLosses         = "losses"
	TableChainPositions = "chain_positions"

	TableGPUMinute  = "features_gpu_minute"
	TableNodeMinute = "features_node_minute"
	TableCommMinute = "features_comm_minute"
	TableFlowMinute = "features_flow_minute"
	TableGPUHour    = "features_gpu_hour"

	TableRuns         = "runs"
	TableRunMembers   = "run_members"
	TableFindings     = "findings"
	TableEvidenceGPU  = "evidence_gpu"
	TableEvidenceHost = "evidence_host"

	TableParties       = "parties"
	TablePartyAccounts = "party_accounts"

	TablePositions = "detector_positions"

	TableLabels           = "labels"
	TableReviews          = "reviews"
	TableReviewedRuns     = "reviewed_runs"
	TableReviewedFindings = "reviewed_findings"

	TableRecordings = "recordings"

	tableMigrations = "schema_migrations"
)

// RawTables names the tables of raw rows, sorted.
func RawTables() []string { return slices.Sorted(maps.Keys(rawTables)) }

func isTable(name string) bool {
	switch name {
	case TableBatches, TableGaps, TableQuarantine, TableQuarantineDropped, TableGPUMinute, TableNodeMinute, TableCommMinute, TableFlowMinute, TableGPUHour,
		TableRuns, TableRunMembers, TableFindings, TableEvidenceGPU, TableEvidenceHost, TableParties, TablePartyAccounts, TablePositions, TableRecordings,
		TableNodeKeys, TableChainHours, TableLosses, TableChainPositions, TableLabels, TableReviews, TableReviewedRuns, TableReviewedFindings:
		return true
	}
	_, ok := rawTables[name]
	return ok
}

// field is a column of a raw table that a wire field of the same name fills.
type field struct {
	name string
	typ  columnType
}

// rawTable describes a raw table beside its batch columns. perNode tables carry the
// node of the batch; in the others a field says which node a row is about, if any.
type rawTable struct {
	perNode bool
	fields  []field
}

// rawTables mirrors migrations/0001_raw.sql, 0008_live.sql and 0010_host.sql; a test holds the two together.
var rawTables = map[string]rawTable{
	TableGPUSamples: {true, []field{
		{"ts_ms", tI64}, {"gpu_uuid", tLC}, {"gpu", tI64}, {"boot_ms", tNI64},
		{"util_e4", tNU16}, {"mem_used_bytes", tNU64}, {"power_mw", tNU32}, {"energy_mj", tNU64}, {"sm_clock_mhz", tNU16},
		{"sm_active_e4", tNU16}, {"sm_occupancy_e4", tNU16}, {"tensor_e4", tNU16}, {"hmma_e4", tNU16}, {"imma_e4", tNU16},
		{"dfma_e4", tNU16}, {"fp64_e4", tNU16}, {"fp32_e4", tNU16}, {"fp16_e4", tNU16}, {"int_e4", tNU16}, {"dram_e4", tNU16},
		{"mma_cycles", tNU64}, {"pcie_tx_bps", tNU64}, {"pcie_rx_bps", tNU64}, {"nvlink_tx_bps", tNU64}, {"nvlink_rx_bps", tNU64},
		{"nvenc_e4", tNU16}, {"nvdec_e4", tNU16}, {"mem_clock_mhz", tNU16}, {"temp_c", tNI64}, {"clocks_event_reasons", tNU64},
		{"mem_util_e4", tNU16}, {"sm_cycles_elapsed", tNU64},
	}},
	TableHostSamples: {true, []field{
		{"ts_ms", tI64}, {"boot_ms", tNI64}, {"power_mw", tNU32}, {"cpu_e4", tNU16}, {"storage_tx_bps", tNU64}, {"storage_rx_bps", tNU64},
	}},
	TableFabricSamples: {true, []field{
		{"ts_ms", tI64}, {"port", tLC}, {"fabric_kind", tNLC}, {"boot_ms", tNI64}, {"tx_bytes", tNU64}, {"rx_bytes", tNU64},
		{"rate_mbps", tNI64}, {"link_up", tNI64},
		{"parent_port", tNLC}, {"tx_packets", tNU64}, {"rx_packets", tNU64}, {"xmit_wait", tNU64}, {"cnp_sent", tNU64}, {"cnp_handled", tNU64},
		{"ecn_marked", tNU64}, {"out_of_sequence", tNU64}, {"ack_timeouts", tNU64}, {"rnr_retries", tNU64}, {"symbol_errors", tNU64}, {"link_downed", tNU64},
		{"link_recovered", tNU64}, {"rx_errors", tNU64}, {"tx_discards", tNU64}, {"rx_discards", tNU64},
	}},
	TableFlowSamples: {true, []field{{"ts_ms", tI64}, {"peer", tLC}, {"tx_bytes", tNU64}}},
	TableProcessEvents: {true, []field{
		{"start_ms", tI64}, {"pid", tI64}, {"end_ms", tNI64}, {"gpu_list", tNLC}, {"exe", tNLC}, {"launcher", tNLC},
		{"job_source", tNLC}, {"job_id", tNLC}, {"user_hash", tNLC}, {"project_hash", tNLC}, {"world_size", tNI64}, {"rank", tNI64},
		{"confidence_e4", tNI64}, {"evidence", tNLC}, {"rendezvous_hash", tNLC}, {"local_rank", tNI64}, {"local_world_size", tNI64}, {"instance_list", tNLC},
		{"exit_code", tNI64}, {"nccl", tNLC}, {"container", tNLC}, {"restart_count", tNI64},
	}},
	TableCollectiveSamples: {true, []field{
		{"ts_ms", tI64}, {"pid", tI64}, {"gpu", tI64}, {"comm", tLC}, {"op", tLC},
		{"nranks", tNI64}, {"rank", tNI64}, {"calls", tNI64}, {"bytes", tNI64},
		{"dtype_bytes", tNLC}, {"nccl_hash", tNLC}, {"first_ms", tNI64}, {"last_ms", tNI64}, {"parent", tNLC}, {"graph_captured", tNI64},
	}},
	TableGPUDevices: {true, []field{
		{"ts_ms", tI64}, {"gpu_uuid", tLC}, {"gpu", tI64}, {"gpu_model", tNLC}, {"pci_bus_id", tNLC}, {"driver_version", tNLC}, {"vbios_version", tNLC},
		{"mem_total_bytes", tNU64}, {"power_limit_mw", tNI64}, {"sm_clock_max_mhz", tNI64}, {"mig_mode", tNI64}, {"nvlink_count", tNI64}, {"capabilities", tNLC},
		{"serial", tNLC}, {"board_part", tNLC}, {"architecture", tNLC}, {"compute_capability", tNLC}, {"sm_count", tNI64}, {"fabric_cluster_uuid", tNLC},
		{"fabric_clique", tNI64}, {"cc_mode", tNLC}, {"ecc_mode", tNI64}, {"pcie_gen_max", tNI64}, {"pcie_width_max", tNI64}, {"module_id", tNI64},
		{"gsp_version", tNLC},
	}},
	TableInstrumentStatus: {true, []field{
		{"ts_ms", tI64}, {"instrument", tLC}, {"state", tNLC}, {"reason", tNLC}, {"since_ms", tNI64},
	}},
	TableGPUHealth: {true, []field{
		{"ts_ms", tI64}, {"gpu_uuid", tLC}, {"gpu", tI64}, {"boot_ms", tNI64}, {"pstate", tNI64}, {"power_limit_mw", tNI64},
		{"module_power_mw", tNI64}, {"mem_temp_c", tNI64}, {"slowdown_temp_c", tNI64}, {"fan_e4", tNI64}, {"pcie_gen", tNI64}, {"pcie_width", tNI64},
		{"pcie_replays", tNU64}, {"pcie_errors", tNU64}, {"pcie_tx_bytes", tNU64}, {"pcie_rx_bytes", tNU64}, {"ecc_corrected_volatile", tNU64}, {"ecc_uncorrected_volatile", tNU64},
		{"ecc_corrected_aggregate", tNU64}, {"ecc_uncorrected_aggregate", tNU64}, {"rows_remapped_corrected", tNI64}, {"rows_remapped_uncorrected", tNI64}, {"row_remap_pending", tNI64}, {"row_remap_failed", tNI64},
		{"pages_retired", tNI64}, {"nvlinks_up", tNI64}, {"nvlink_tx_kib", tNU64}, {"nvlink_rx_kib", tNU64}, {"nvlink_errors", tNU64}, {"power_capped_ns", tNU64},
		{"thermal_capped_ns", tNU64}, {"sync_boost_ns", tNU64}, {"hw_slowdown_ns", tNU64}, {"mem_reserved_bytes", tNU64}, {"bar1_used_bytes", tNU64}, {"sm_cycles_elapsed", tNU64},
		{"sm_cycles_active", tNU64}, {"mma_cycles", tNU64}, {"dmma_cycles", tNU64}, {"hmma_cycles", tNU64}, {"imma_cycles", tNU64}, {"dfma_cycles", tNU64},
		{"int_cycles", tNU64}, {"fp64_cycles", tNU64}, {"fp32_cycles", tNU64}, {"fp16_cycles", tNU64}, {"recovery_action", tNI64},
	}},
	TableGPUEvents: {true, []field{
		{"ts_ms", tI64}, {"gpu_uuid", tLC}, {"gpu", tI64}, {"event", tLC}, {"code", tI64}, {"count", tNI64},
		{"gi_id", tNI64}, {"ci_id", tNI64}, {"detail", tNLC},
	}},
	TableGPUInstances: {true, []field{
		{"ts_ms", tI64}, {"gpu_uuid", tLC}, {"gpu", tI64}, {"boot_ms", tNI64}, {"gi_id", tI64}, {"instance_uuid", tNLC},
		{"profile", tNLC}, {"sm_count", tNI64}, {"slices", tNI64}, {"mem_total_bytes", tNU64}, {"mem_used_bytes", tNU64}, {"sm_active_e4", tNU16},
		{"sm_occupancy_e4", tNU16}, {"tensor_e4", tNU16}, {"hmma_e4", tNU16}, {"imma_e4", tNU16}, {"dfma_e4", tNU16}, {"fp64_e4", tNU16},
		{"fp32_e4", tNU16}, {"fp16_e4", tNU16}, {"int_e4", tNU16}, {"dram_e4", tNU16}, {"pcie_tx_bps", tNU64}, {"pcie_rx_bps", tNU64},
		{"compute_instances", tNI64},
	}},
	TableGPUHolds: {true, []field{
		{"start_ms", tI64}, {"gpu_uuid", tLC}, {"job_source", tLC}, {"job_id", tLC}, {"gpu", tNI64}, {"device", tNLC},
		{"end_ms", tNI64}, {"seen_ms", tNI64}, {"evidence", tNLC}, {"confidence_e4", tNI64}, {"shares", tNI64}, {"user_hash", tNLC},
		{"project_hash", tNLC}, {"workload_hash", tNLC}, {"container", tNLC}, {"restart_count", tNI64},
	}},
	TableTCPSamples: {true, []field{
		{"ts_ms", tI64}, {"peer", tLC}, {"job_source", tLC}, {"job_id", tLC}, {"tx_bytes", tNU64}, {"rx_bytes", tNU64},
		{"retransmits", tNU64}, {"connections", tNI64},
	}},
	TableCheckpoints: {true, []field{
		{"start_ms", tI64}, {"pid", tI64}, {"file", tLC}, {"end_ms", tNI64}, {"bytes", tNU64}, {"file_bytes", tNU64},
		{"filesystem", tNLC}, {"job_source", tNLC}, {"job_id", tNLC}, {"process_start_ms", tNI64},
	}},
	TableRDMAObjects: {true, []field{
		{"ts_ms", tI64}, {"device", tLC}, {"pid", tI64}, {"queue_pairs", tNI64}, {"connected", tNI64}, {"memory_regions", tNI64},
		{"memory_region_bytes", tNU64}, {"completion_queues", tNI64}, {"qp_pairs", tNLC}, {"job_source", tNLC}, {"job_id", tNLC},
	}},
	TableBMCSamples: {true, []field{
		{"ts_ms", tI64}, {"target", tLC}, {"component", tLC}, {"vantage", tNLC}, {"method", tNLC}, {"report_ms", tNI64},
		{"gpu", tNI64}, {"gpu_uuid", tNLC}, {"power_mw", tNI64}, {"energy_mj", tNU64}, {"temp_c", tNI64}, {"util_e4", tNU16},
		{"sm_active_e4", tNU16}, {"sm_occupancy_e4", tNU16}, {"tensor_e4", tNU16}, {"hmma_e4", tNU16}, {"imma_e4", tNU16}, {"dfma_e4", tNU16},
		{"fp64_e4", tNU16}, {"fp32_e4", tNU16}, {"fp16_e4", tNU16}, {"int_e4", tNU16}, {"dram_e4", tNU16}, {"pcie_tx_bps", tNU64},
		{"pcie_rx_bps", tNU64}, {"nvlink_tx_bps", tNU64}, {"nvlink_rx_bps", tNU64}, {"sm_clock_mhz", tNI64},
	}},
	TableNodeFacts: {true, []field{
		{"ts_ms", tI64}, {"subject", tLC}, {"name", tLC}, {"value", tNLC},
	}},
	TableInventory: {false, []field{
		{"node", tLC}, {"site", tNLC}, {"gpu_model", tNLC}, {"gpu_count", tNI64}, {"fabric_mbps", tNI64}, {"vantage", tNLC}, {"tdp_mw", tNI64},
	}},
	TableAllocations: {false, []field{{"account", tLC}, {"node", tLC}, {"gpu_list", tLC}, {"start_ms", tI64}, {"end_ms", tNI64}}},
	TableOrders: {false, []field{
		{"order", tLC}, {"amended_ms", tI64}, {"account", tNLC}, {"gpu_model", tNLC}, {"gpu_count", tNI64}, {"fabric_mbps", tNI64},
		{"start_ms", tNI64}, {"end_ms", tNI64}, {"declared_use", tNLC},
	}},
}

// precisions say how exactly columns of gpu_samples are kept, where that is less than they come in: noise
// in the last digits of a sensor is most of what a sample takes on disk. CODECS.md has the figures,
// the columns' comments the bounds.
var precisions = map[string]precision{
	"power_mw": {step: 6}, "energy_mj": {step: 7}, "mma_cycles": {step: 10}, "sm_cycles_elapsed": {step: 10},
	"pcie_tx_bps": {digits: 11}, "pcie_rx_bps": {digits: 11}, "nvlink_tx_bps": {digits: 11}, "nvlink_rx_bps": {digits: 11},
}

// GPUMeasures are the names of GPURow.Values in order, natural units at the end of each.
// Cells use the same order: see CellSignals.
var GPUMeasures = []string{
	"util_frac", "mem_used_bytes", "power_w", "sm_clock_mhz", "sm_active_frac", "sm_occupancy_frac",
	"tensor_frac", "hmma_frac", "imma_frac", "dfma_frac", "fp64_frac", "fp32_frac", "fp16_frac", "int_frac",
	"dram_frac", "pcie_tx_bps", "pcie_rx_bps", "nvlink_tx_bps", "nvlink_rx_bps", "nvenc_frac", "nvdec_frac",
}

// CellSignals are the names of the signals of a GPU cell, in order.
var CellSignals = GPUMeasures

// gpuMeasureColumn is the column behind a measure, and what to divide it by.
type gpuMeasureColumn struct {
	name string
	typ  columnType
	div  float64
}

// gpuMeasureColumns are in the order of GPUMeasures.
var gpuMeasureColumns = []gpuMeasureColumn{
	{"util_e4", tNU16, 1e4}, {"mem_used_bytes", tNU64, 1}, {"power_mw", tNU32, 1e3}, {"sm_clock_mhz", tNU16, 1}, {"sm_active_e4", tNU16, 1e4},
	{"sm_occupancy_e4", tNU16, 1e4}, {"tensor_e4", tNU16, 1e4}, {"hmma_e4", tNU16, 1e4}, {"imma_e4", tNU16, 1e4}, {"dfma_e4", tNU16, 1e4},
	{"fp64_e4", tNU16, 1e4}, {"fp32_e4", tNU16, 1e4}, {"fp16_e4", tNU16, 1e4}, {"int_e4", tNU16, 1e4}, {"dram_e4", tNU16, 1e4},
	{"pcie_tx_bps", tNU64, 1}, {"pcie_rx_bps", tNU64, 1}, {"nvlink_tx_bps", tNU64, 1}, {"nvlink_rx_bps", tNU64, 1},
	{"nvenc_e4", tNU16, 1e4}, {"nvdec_e4", tNU16, 1e4},
}
