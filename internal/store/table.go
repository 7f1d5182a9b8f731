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
	TableInventory         = "inventory"
	TableAllocations       = "allocations"
	TableOrders            = "orders"

	TableBatches    = "batches"
	TableGaps       = "gaps"
	TableQuarantine = "quarantine"

	TableGPUMinute  = "features_gpu_minute"
	TableNodeMinute = "features_node_minute"
	TableCommMinute = "features_comm_minute"
	TableFlowMinute = "features_flow_minute"

	TableRuns         = "runs"
	TableRunMembers   = "run_members"
	TableFindings     = "findings"
	TableEvidenceGPU  = "evidence_gpu"
	TableEvidenceHost = "evidence_host"

	TableParties       = "parties"
	TablePartyAccounts = "party_accounts"

	TablePositions = "detector_positions"

	TableRecordings = "recordings"

	tableMigrations = "schema_migrations"
)

// RawTables names the tables of raw rows, sorted.
func RawTables() []string { return slices.Sorted(maps.Keys(rawTables)) }

func isTable(name string) bool {
	switch name {
	case TableBatches, TableGaps, TableQuarantine, TableGPUMinute, TableNodeMinute, TableCommMinute, TableFlowMinute,
		TableRuns, TableRunMembers, TableFindings, TableEvidenceGPU, TableEvidenceHost, TableParties, TablePartyAccounts, TablePositions, TableRecordings:
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

// rawTables mirrors migrations/0001_raw.sql and 0008_live.sql; a test holds the two together.
var rawTables = map[string]rawTable{
	TableGPUSamples: {true, []field{
		{"ts_ms", tI64}, {"gpu_uuid", tLC}, {"gpu", tI64}, {"boot_ms", tNI64},
		{"util_e4", tNU16}, {"mem_used_bytes", tNU64}, {"power_mw", tNU32}, {"energy_mj", tNU64}, {"sm_clock_mhz", tNU16},
		{"sm_active_e4", tNU16}, {"sm_occupancy_e4", tNU16}, {"tensor_e4", tNU16}, {"hmma_e4", tNU16}, {"imma_e4", tNU16},
		{"dfma_e4", tNU16}, {"fp64_e4", tNU16}, {"fp32_e4", tNU16}, {"fp16_e4", tNU16}, {"int_e4", tNU16}, {"dram_e4", tNU16},
		{"mma_cycles", tNU64}, {"pcie_tx_bps", tNU64}, {"pcie_rx_bps", tNU64}, {"nvlink_tx_bps", tNU64}, {"nvlink_rx_bps", tNU64},
		{"nvenc_e4", tNU16}, {"nvdec_e4", tNU16}, {"mem_clock_mhz", tNU16}, {"temp_c", tNI64}, {"clocks_event_reasons", tNU64},
	}},
	TableHostSamples: {true, []field{
		{"ts_ms", tI64}, {"boot_ms", tNI64}, {"power_mw", tNU32}, {"cpu_e4", tNU16}, {"storage_tx_bps", tNU64}, {"storage_rx_bps", tNU64},
	}},
	TableFabricSamples: {true, []field{
		{"ts_ms", tI64}, {"port", tLC}, {"fabric_kind", tNLC}, {"boot_ms", tNI64}, {"tx_bytes", tNU64}, {"rx_bytes", tNU64},
		{"rate_mbps", tNI64}, {"link_up", tNI64},
	}},
	TableFlowSamples: {true, []field{{"ts_ms", tI64}, {"peer", tLC}, {"tx_bytes", tNU64}}},
	TableProcessEvents: {true, []field{
		{"start_ms", tI64}, {"pid", tI64}, {"end_ms", tNI64}, {"gpu_list", tNLC}, {"exe", tNLC}, {"launcher", tNLC},
		{"job_source", tNLC}, {"job_id", tNLC}, {"user_hash", tNLC}, {"project_hash", tNLC}, {"world_size", tNI64}, {"rank", tNI64},
	}},
	TableCollectiveSamples: {true, []field{
		{"ts_ms", tI64}, {"pid", tI64}, {"gpu", tI64}, {"comm", tLC}, {"op", tLC},
		{"nranks", tNI64}, {"rank", tNI64}, {"calls", tNI64}, {"bytes", tNI64},
	}},
	TableGPUDevices: {true, []field{
		{"ts_ms", tI64}, {"gpu_uuid", tLC}, {"gpu", tI64}, {"gpu_model", tNLC}, {"pci_bus_id", tNLC}, {"driver_version", tNLC}, {"vbios_version", tNLC},
		{"mem_total_bytes", tNU64}, {"power_limit_mw", tNI64}, {"sm_clock_max_mhz", tNI64}, {"mig_mode", tNI64}, {"nvlink_count", tNI64}, {"capabilities", tNLC},
	}},
	TableInstrumentStatus: {true, []field{
		{"ts_ms", tI64}, {"instrument", tLC}, {"state", tNLC}, {"reason", tNLC}, {"since_ms", tNI64},
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

// GPUMeasures are the names of GPURow.Values in order, natural units at the end of each.
// Cells use the same order: see CellSignals.
var GPUMeasures = []string{
	"util_frac", "mem_used_bytes", "power_w", "sm_clock_mhz", "sm_active_frac", "sm_occupancy_frac",
	"tensor_frac", "hmma_frac", "imma_frac", "dfma_frac", "fp64_frac", "fp32_frac", "fp16_frac", "int_frac",
	"dram_frac", "pcie_tx_bps", "pcie_rx_bps", "nvlink_tx_bps", "nvlink_rx_bps", "nvenc_frac", "nvdec_frac",
}

// CellSignals are the names of the signals of a GPU cell, in order.
var CellSignals = GPUMeasures

// gpuMeasureColumns are the columns behind GPUMeasures, and what to divide them by.
var gpuMeasureColumns = []struct {
	name string
	typ  columnType
	div  float64
}{
	{"util_e4", tNU16, 1e4}, {"mem_used_bytes", tNU64, 1}, {"power_mw", tNU32, 1e3}, {"sm_clock_mhz", tNU16, 1}, {"sm_active_e4", tNU16, 1e4},
	{"sm_occupancy_e4", tNU16, 1e4}, {"tensor_e4", tNU16, 1e4}, {"hmma_e4", tNU16, 1e4}, {"imma_e4", tNU16, 1e4}, {"dfma_e4", tNU16, 1e4},
	{"fp64_e4", tNU16, 1e4}, {"fp32_e4", tNU16, 1e4}, {"fp16_e4", tNU16, 1e4}, {"int_e4", tNU16, 1e4}, {"dram_e4", tNU16, 1e4},
	{"pcie_tx_bps", tNU64, 1}, {"pcie_rx_bps", tNU64, 1}, {"nvlink_tx_bps", tNU64, 1}, {"nvlink_rx_bps", tNU64, 1},
	{"nvenc_e4", tNU16, 1e4}, {"nvdec_e4", tNU16, 1e4},
}
