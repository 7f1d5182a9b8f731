package exporter

import (
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// usual are the fields that dcgm-exporter shows where nobody tells it which: its dashboards are
// made of these.
var usual = []string{
	"DCGM_FI_DEV_SM_CLOCK", "DCGM_FI_DEV_MEM_CLOCK", "DCGM_FI_DEV_MEMORY_TEMP", "DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_POWER_USAGE",
	"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_PCIE_TX_THROUGHPUT", "DCGM_FI_DEV_PCIE_RX_THROUGHPUT", "DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
	"DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_MEM_COPY_UTIL", "DCGM_FI_DEV_ENC_UTIL", "DCGM_FI_DEV_DEC_UTIL", "DCGM_FI_DEV_XID_ERRORS",
	"DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_RESERVED", "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "DCGM_FI_DEV_VGPU_LICENSE_STATUS",
	"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "DCGM_FI_DEV_ROW_REMAP_FAILURE",
	"DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_PROF_DRAM_ACTIVE", "DCGM_FI_PROF_PCIE_TX_BYTES", "DCGM_FI_PROF_PCIE_RX_BYTES",
}

// lacking are those of them that the agent does not have, and why.
var lacking = map[string]string{
	"DCGM_FI_DEV_PCIE_TX_THROUGHPUT":  "a call that takes 20 ms; DCGM_FI_PROF_PCIE_TX_BYTES says it better",
	"DCGM_FI_DEV_PCIE_RX_THROUGHPUT":  "the same",
	"DCGM_FI_DEV_ENC_UTIL":            "a call of its own each second; nothing that trains encodes video",
	"DCGM_FI_DEV_VGPU_LICENSE_STATUS": "says nothing of what a GPU does",
}

// TestUsualFields: a dashboard made for dcgm-exporter finds its series, and no series is a name
// that never has a value.
func TestUsualFields(t *testing.T) {
	has := func(name string) bool {
		return slices.ContainsFunc(dcgmMetrics, func(m exported) bool { return m.name == name })
	}
	for _, name := range usual {
		if _, known := lacking[name]; has(name) == known {
			t.Errorf("%s: on the page %v, known to be lacking %v", name, has(name), known)
		}
	}
	// Of an instance too: with MIG there is no utilization of the whole GPU.
	part := GPU{Device: frame.Unknown(0), Fresh: true}
	part.Reading.Set(frame.GREngineE4, 4321)
	for _, m := range dcgmMetrics {
		if m.name != "DCGM_FI_PROF_GR_ENGINE_ACTIVE" {
			continue
		}
		if v, ok := m.value(&part); !m.instances || !ok || v != 0.4321 {
			t.Errorf("%s: %v, %v, of instances %v", m.name, v, ok, m.instances)
		}
	}
}
