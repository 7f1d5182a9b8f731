package playback

import (
	"math"
	"strconv"
	"strings"

	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Field ids by name, from the wire's schema.
func ids(k wire.Kind) map[string]uint8 {
	m := make(map[string]uint8, len(wire.Schema[k]))
	for _, f := range wire.Schema[k] {
		m[f.Name] = f.ID
	}
	return m
}

// A gpuField says how a column of gpu.csv travels.
type gpuField struct {
	value bundle.GPUValue
	id    uint8
	scale float64
}

// gpuFields pairs the recording's columns with the wire's fields, in the wire's order.
func gpuFields() []gpuField {
	const frac, milli, one = 1e4, 1e3, 1
	id := ids(wire.KindGPU)
	return []gpuField{
		{bundle.UtilFrac, id["util_e4"], frac}, {bundle.MemUsedBytes, id["mem_used_bytes"], one},
		{bundle.PowerW, id["power_mw"], milli}, {bundle.EnergyJTotal, id["energy_mj"], milli},
		{bundle.SMClockMHz, id["sm_clock_mhz"], one}, {bundle.SMActiveFrac, id["sm_active_e4"], frac},
		{bundle.SMOccupancyFrac, id["sm_occupancy_e4"], frac}, {bundle.TensorFrac, id["tensor_e4"], frac},
		{bundle.HMMAFrac, id["hmma_e4"], frac}, {bundle.IMMAFrac, id["imma_e4"], frac},
		{bundle.DFMAFrac, id["dfma_e4"], frac}, {bundle.FP64Frac, id["fp64_e4"], frac},
		{bundle.FP32Frac, id["fp32_e4"], frac}, {bundle.FP16Frac, id["fp16_e4"], frac},
		{bundle.IntFrac, id["int_e4"], frac}, {bundle.DRAMFrac, id["dram_e4"], frac},
		{bundle.MMACyclesTotal, id["mma_cycles"], one}, {bundle.PCIeTxBps, id["pcie_tx_bps"], one},
		{bundle.PCIeRxBps, id["pcie_rx_bps"], one}, {bundle.NVLinkTxBps, id["nvlink_tx_bps"], one},
		{bundle.NVLinkRxBps, id["nvlink_rx_bps"], one}, {bundle.NVEncFrac, id["nvenc_e4"], frac},
		{bundle.NVDecFrac, id["nvdec_e4"], frac},
	}
}

// setFloat sets a field where the value was measured. The bundle's reader bounds cells;
// a sum of flows may still exceed the wire's integers, and stays at their end.
func setFloat(b *wire.Builder, id uint8, v, scale float64) {
	const most = math.MaxInt64 - 1023 // the largest that a float64 holds
	if !math.IsNaN(v) {
		b.SetInt(id, int64(min(math.Round(v*scale), most)))
	}
}

func setText(b *wire.Builder, id uint8, s string) {
	if s != "" {
		b.SetStr(id, s)
	}
}

func setCount(b *wire.Builder, id uint8, n int) {
	if n != bundle.Absent {
		b.SetInt(id, int64(n))
	}
}

// gpuList writes indices as the wire carries them: separated by blanks.
func gpuList(gpus []int) string {
	s := make([]string, len(gpus))
	for i, g := range gpus {
		s[i] = strconv.Itoa(g)
	}
	return strings.Join(s, " ")
}
