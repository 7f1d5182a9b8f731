package exporter

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// GPU is what is known of a GPU now. Whoever lists it has made sure that the reading is
// fresh; of one that has none, there is only Device.
type GPU struct {
	Device  frame.Device
	Fresh   bool
	Reading frame.Reading
}

// Labels of dcgm-exporter, in its order.
var gpuLabels = []string{"gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION"}

// exported is a metric of a GPU: a value of the reading, divided by unit.
type exported struct {
	metric
	from frame.Metric
	unit float64
}

func dcgm(name, help string, typ prometheus.ValueType, from frame.Metric, unit float64) exported {
	return exported{metric{prometheus.NewDesc(name, help, gpuLabels, nil), typ}, from, unit}
}

const (
	percent  = 100     // from a fraction times 10,000
	fraction = 10_000  // the same
	mib      = 1 << 20 // from bytes
)

var dcgmMetrics = []exported{
	dcgm("DCGM_FI_DEV_SM_CLOCK", "Clock of the SMs, MHz.", prometheus.GaugeValue, frame.SMClockMHz, 1),
	dcgm("DCGM_FI_DEV_MEM_CLOCK", "Clock of the memory, MHz.", prometheus.GaugeValue, frame.MemClockMHz, 1),
	dcgm("DCGM_FI_DEV_GPU_TEMP", "Temperature of the GPU, degrees Celsius.", prometheus.GaugeValue, frame.TempC, 1),
	dcgm("DCGM_FI_DEV_POWER_USAGE", "Power, watts.", prometheus.GaugeValue, frame.PowerMW, 1000),
	dcgm("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Energy used since the driver was loaded, millijoules.", prometheus.CounterValue, frame.EnergyMJ, 1),
	dcgm("DCGM_FI_DEV_GPU_UTIL", "Time in which a kernel ran, percent.", prometheus.GaugeValue, frame.UtilE4, percent),
	dcgm("DCGM_FI_DEV_MEM_COPY_UTIL", "Time in which memory was read or written, percent.", prometheus.GaugeValue, frame.MemUtilE4, percent),
	dcgm("DCGM_FI_DEV_ENC_UTIL", "Use of the video encoder, percent.", prometheus.GaugeValue, frame.NVEncE4, percent),
	dcgm("DCGM_FI_DEV_DEC_UTIL", "Use of the video decoder, percent.", prometheus.GaugeValue, frame.NVDecE4, percent),
	dcgm("DCGM_FI_DEV_FB_USED", "Device memory in use, MiB.", prometheus.GaugeValue, frame.MemUsedBytes, mib),
	dcgm("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "Why clocks are where they are: bits of nvmlClocksEventReasons.", prometheus.GaugeValue, frame.ClocksEventReasons, 1),
	dcgm("DCGM_FI_PROF_SM_ACTIVE", "Share of cycles in which SMs had work, mean of all SMs.", prometheus.GaugeValue, frame.SMActiveE4, fraction),
	dcgm("DCGM_FI_PROF_SM_OCCUPANCY", "Warps on the SMs, as a share of those that would fit.", prometheus.GaugeValue, frame.SMOccupancyE4, fraction),
	dcgm("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "Share of cycles in which tensor cores worked.", prometheus.GaugeValue, frame.TensorE4, fraction),
	dcgm("DCGM_FI_PROF_PIPE_TENSOR_HMMA_ACTIVE", "Share of cycles in which tensor cores worked on floats of 16 bits.", prometheus.GaugeValue, frame.HMMAE4, fraction),
	dcgm("DCGM_FI_PROF_PIPE_TENSOR_IMMA_ACTIVE", "Share of cycles in which tensor cores worked on integers.", prometheus.GaugeValue, frame.IMMAE4, fraction),
	dcgm("DCGM_FI_PROF_PIPE_TENSOR_DFMA_ACTIVE", "Share of cycles in which tensor cores worked on floats of 64 bits.", prometheus.GaugeValue, frame.DFMAE4, fraction),
	dcgm("DCGM_FI_PROF_DRAM_ACTIVE", "Share of cycles in which device memory moved data.", prometheus.GaugeValue, frame.DRAME4, fraction),
	dcgm("DCGM_FI_PROF_PIPE_FP64_ACTIVE", "Share of cycles in which the FP64 pipe worked.", prometheus.GaugeValue, frame.FP64E4, fraction),
	dcgm("DCGM_FI_PROF_PIPE_FP32_ACTIVE", "Share of cycles in which the FP32 pipe worked.", prometheus.GaugeValue, frame.FP32E4, fraction),
	dcgm("DCGM_FI_PROF_PIPE_FP16_ACTIVE", "Share of cycles in which the FP16 pipe worked.", prometheus.GaugeValue, frame.FP16E4, fraction),
	dcgm("DCGM_FI_PROF_PIPE_INT_ACTIVE", "Share of cycles in which the integer pipe worked.", prometheus.GaugeValue, frame.IntE4, fraction),
	dcgm("DCGM_FI_PROF_PCIE_TX_BYTES", "Sent over PCIe, bytes per second.", prometheus.GaugeValue, frame.PCIeTxBps, 1),
	dcgm("DCGM_FI_PROF_PCIE_RX_BYTES", "Received over PCIe, bytes per second.", prometheus.GaugeValue, frame.PCIeRxBps, 1),
	dcgm("DCGM_FI_PROF_NVLINK_TX_BYTES", "Sent over NVLink, bytes per second.", prometheus.GaugeValue, frame.NVLinkTxBps, 1),
	dcgm("DCGM_FI_PROF_NVLINK_RX_BYTES", "Received over NVLink, bytes per second.", prometheus.GaugeValue, frame.NVLinkRxBps, 1),
}

var (
	fbTotal = metric{prometheus.NewDesc("DCGM_FI_DEV_FB_TOTAL", "Device memory, MiB.", gpuLabels, nil), prometheus.GaugeValue}
	fbFree  = metric{prometheus.NewDesc("DCGM_FI_DEV_FB_FREE", "Device memory not in use, the driver's reserve included, MiB.", gpuLabels, nil), prometheus.GaugeValue}
)

func (g *GPU) collect(hostname string, out chan<- prometheus.Metric) {
	d := &g.Device
	labels := []string{strconv.Itoa(d.Index), d.UUID, d.PCIBusID, "nvidia" + strconv.Itoa(d.Index), d.Name, hostname, d.DriverVersion}
	if d.MemTotalBytes > 0 {
		out <- fbTotal.value(float64(d.MemTotalBytes)/mib, labels...)
	}
	if !g.Fresh {
		return
	}
	for _, m := range dcgmMetrics {
		if g.Reading.Has(m.from) {
			out <- m.value(float64(g.Reading.Values[m.from])/m.unit, labels...)
		}
	}
	if used := g.Reading.Values[frame.MemUsedBytes]; g.Reading.Has(frame.MemUsedBytes) && d.MemTotalBytes >= used {
		out <- fbFree.value(float64(d.MemTotalBytes-used)/mib, labels...)
	}
}
