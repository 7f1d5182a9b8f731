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
	// Health is what is told rarely; HealthFresh: it is not too old.
	Health      frame.Health
	HealthFresh bool
	Instances   []Instance
	// Xid is the number of the last Xid error; XidKnown: there was one.
	Xid      int64
	XidKnown bool
	Owner    Owner
}

// Instance is a GPU instance (MIG).
type Instance struct {
	frame.Instance
	Fresh   bool
	Reading frame.Reading
	Owner   Owner
}

// Owner is whom a GPU is given to: a container of a pod, or a job of a batch scheduler. It is
// empty where that is not known, and where the site does not want names in clear: then there are
// no such labels.
type Owner struct {
	Pod, Namespace, Container string
	Job                       string
}

// Labels of dcgm-exporter, in its order: instances have two more, what a pod has three, and what
// a batch job has one.
func labelNames(sh shape) []string {
	names := []string{"gpu", "UUID", "pci_bus_id", "device", "modelName"}
	if sh.instance {
		names = append(names, "GPU_I_PROFILE", "GPU_I_ID")
	}
	names = append(names, "Hostname", "DCGM_FI_DRIVER_VERSION")
	if sh.pod {
		names = append(names, "container", "namespace", "pod")
	}
	if sh.job {
		names = append(names, "hpc_job")
	}
	return names
}

// exported is a metric of a GPU: what it is called, and its value, if it has one.
type exported struct {
	name, help string
	typ        prometheus.ValueType
	instances  bool // instances have it as well
	value      func(g *GPU) (v float64, ok bool)
}

// reading is a value of the last reading, divided by unit.
func reading(name, help string, typ prometheus.ValueType, from frame.Metric, unit float64) exported {
	return exported{name, help, typ, false, func(g *GPU) (float64, bool) {
		return float64(g.Reading.Values[from]) / unit, g.Fresh && g.Reading.Has(from)
	}}
}

// shared is one that instances have too.
func shared(name, help string, from frame.Metric, unit float64) exported {
	e := reading(name, help, prometheus.GaugeValue, from, unit)
	e.instances = true
	return e
}

// vital is a value of the last look at the health, divided by unit.
func vital(name, help string, typ prometheus.ValueType, from frame.Vital, unit float64) exported {
	return exported{name, help, typ, false, func(g *GPU) (float64, bool) {
		return float64(g.Health.Values[from]) / unit, g.HealthFresh && g.Health.Has(from)
	}}
}

// fixed is a value of what the GPU is; a negative one is not known.
func fixed(name, help string, of func(*frame.Device) int64, unit float64) exported {
	return exported{name, help, prometheus.GaugeValue, false, func(g *GPU) (float64, bool) {
		v := of(&g.Device)
		return float64(v) / unit, v >= 0
	}}
}

const (
	percent  = 100     // from a fraction times 10,000
	fraction = 10_000  // the same
	mib      = 1 << 20 // from bytes
	milli    = 1000
)

var dcgmMetrics = []exported{
	reading("DCGM_FI_DEV_SM_CLOCK", "Clock of the SMs, MHz.", prometheus.GaugeValue, frame.SMClockMHz, 1),
	reading("DCGM_FI_DEV_MEM_CLOCK", "Clock of the memory, MHz.", prometheus.GaugeValue, frame.MemClockMHz, 1),
	reading("DCGM_FI_DEV_GPU_TEMP", "Temperature of the GPU, degrees Celsius.", prometheus.GaugeValue, frame.TempC, 1),
	reading("DCGM_FI_DEV_POWER_USAGE", "Power, watts.", prometheus.GaugeValue, frame.PowerMW, 1000),
	reading("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Energy used since the driver was loaded, millijoules.", prometheus.CounterValue, frame.EnergyMJ, 1),
	reading("DCGM_FI_DEV_GPU_UTIL", "Time in which a kernel ran, percent.", prometheus.GaugeValue, frame.UtilE4, percent),
	reading("DCGM_FI_DEV_MEM_COPY_UTIL", "Time in which memory was read or written, percent.", prometheus.GaugeValue, frame.MemUtilE4, percent),
	reading("DCGM_FI_DEV_DEC_UTIL", "Use of the video decoder, percent.", prometheus.GaugeValue, frame.NVDecE4, percent),
	shared("DCGM_FI_DEV_FB_USED", "Device memory in use, MiB.", frame.MemUsedBytes, mib),
	reading("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "Why clocks are where they are: bits of nvmlClocksEventReasons.", prometheus.GaugeValue, frame.ClocksEventReasons, 1),
	shared("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "Share of time in which graphics or compute was at work.", frame.GREngineE4, fraction),
	shared("DCGM_FI_PROF_SM_ACTIVE", "Share of cycles in which SMs had work, mean of all SMs.", frame.SMActiveE4, fraction),
	shared("DCGM_FI_PROF_SM_OCCUPANCY", "Warps on the SMs, as a share of those that would fit.", frame.SMOccupancyE4, fraction),
	shared("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "Share of cycles in which tensor cores worked.", frame.TensorE4, fraction),
	shared("DCGM_FI_PROF_PIPE_TENSOR_HMMA_ACTIVE", "Share of cycles in which tensor cores worked on floats of 16 bits.", frame.HMMAE4, fraction),
	shared("DCGM_FI_PROF_PIPE_TENSOR_IMMA_ACTIVE", "Share of cycles in which tensor cores worked on integers.", frame.IMMAE4, fraction),
	shared("DCGM_FI_PROF_PIPE_TENSOR_DFMA_ACTIVE", "Share of cycles in which tensor cores worked on floats of 64 bits.", frame.DFMAE4, fraction),
	shared("DCGM_FI_PROF_DRAM_ACTIVE", "Share of cycles in which device memory moved data.", frame.DRAME4, fraction),
	shared("DCGM_FI_PROF_PIPE_FP64_ACTIVE", "Share of cycles in which the FP64 pipe worked.", frame.FP64E4, fraction),
	shared("DCGM_FI_PROF_PIPE_FP32_ACTIVE", "Share of cycles in which the FP32 pipe worked.", frame.FP32E4, fraction),
	shared("DCGM_FI_PROF_PIPE_FP16_ACTIVE", "Share of cycles in which the FP16 pipe worked.", frame.FP16E4, fraction),
	shared("DCGM_FI_PROF_PIPE_INT_ACTIVE", "Share of cycles in which the integer pipe worked.", frame.IntE4, fraction),
	shared("DCGM_FI_PROF_PCIE_TX_BYTES", "Sent over PCIe, bytes per second.", frame.PCIeTxBps, 1),
	shared("DCGM_FI_PROF_PCIE_RX_BYTES", "Received over PCIe, bytes per second.", frame.PCIeRxBps, 1),
	reading("DCGM_FI_PROF_NVLINK_TX_BYTES", "Sent over NVLink, bytes per second.", prometheus.GaugeValue, frame.NVLinkTxBps, 1),
	reading("DCGM_FI_PROF_NVLINK_RX_BYTES", "Received over NVLink, bytes per second.", prometheus.GaugeValue, frame.NVLinkRxBps, 1),
	{"DCGM_FI_DEV_FB_TOTAL", "Device memory, MiB.", prometheus.GaugeValue, true, func(g *GPU) (float64, bool) {
		return float64(g.Device.MemTotalBytes) / mib, g.Device.MemTotalBytes > 0
	}},
	{"DCGM_FI_DEV_FB_FREE", "Device memory not in use, MiB; the driver's reserve is in it only where it is not known.", prometheus.GaugeValue, true, fbFree},
	vital("DCGM_FI_DEV_FB_RESERVED", "Device memory that the driver keeps, MiB.", prometheus.GaugeValue, frame.MemReservedBytes, mib),
	vital("DCGM_FI_DEV_BAR1_USED", "BAR1 memory in use, MiB.", prometheus.GaugeValue, frame.BAR1UsedBytes, mib),
	vital("DCGM_FI_DEV_PSTATE", "Performance state; 0 is the highest.", prometheus.GaugeValue, frame.PState, 1),
	vital("DCGM_FI_DEV_MEMORY_TEMP", "Temperature of the memory, degrees Celsius.", prometheus.GaugeValue, frame.MemTempC, 1),
	vital("DCGM_FI_DEV_SLOWDOWN_TEMP", "Temperature at which clocks fall, degrees Celsius.", prometheus.GaugeValue, frame.SlowdownTempC, 1),
	vital("DCGM_FI_DEV_FAN_SPEED", "Fan speed, percent.", prometheus.GaugeValue, frame.FanE4, percent),
	vital("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", "Power limit that is enforced, watts.", prometheus.GaugeValue, frame.PowerLimitMW, milli),
	fixed("DCGM_FI_DEV_POWER_MGMT_LIMIT_DEF", "The board's own power limit, watts.", func(d *frame.Device) int64 { return d.PowerLimitMW }, milli),
	{"DCGM_FI_DEV_XID_ERRORS", "Number of the last Xid error since the agent started.", prometheus.GaugeValue, false, func(g *GPU) (float64, bool) {
		return float64(g.Xid), g.XidKnown
	}},
	vital("DCGM_FI_DEV_POWER_VIOLATION", "Time below the wanted clocks for want of power, nanoseconds.", prometheus.CounterValue, frame.PowerCappedNs, 1),
	vital("DCGM_FI_DEV_THERMAL_VIOLATION", "Time below the wanted clocks for heat, nanoseconds.", prometheus.CounterValue, frame.ThermalCappedNs, 1),
	vital("DCGM_FI_DEV_SYNC_BOOST_VIOLATION", "Time held back by a group of GPUs, nanoseconds.", prometheus.CounterValue, frame.SyncBoostNs, 1),
	vital("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "Corrected ECC errors since the driver was loaded.", prometheus.CounterValue, frame.ECCCorrectedVolatile, 1),
	vital("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "Uncorrected ECC errors since the driver was loaded.", prometheus.CounterValue, frame.ECCUncorrectedVolatile, 1),
	vital("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "Corrected ECC errors in the GPU's life.", prometheus.CounterValue, frame.ECCCorrectedAggregate, 1),
	vital("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", "Uncorrected ECC errors in the GPU's life.", prometheus.CounterValue, frame.ECCUncorrectedAggregate, 1),
	vital("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "Memory rows remapped for corrected errors.", prometheus.CounterValue, frame.RowsRemappedCorrected, 1),
	vital("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "Memory rows remapped for uncorrected errors.", prometheus.CounterValue, frame.RowsRemappedUncorrected, 1),
	vital("DCGM_FI_DEV_ROW_REMAP_PENDING", "1: a reset is needed for a row to be remapped.", prometheus.GaugeValue, frame.RowRemapPending, 1),
	vital("DCGM_FI_DEV_ROW_REMAP_FAILURE", "1: a row could not be remapped.", prometheus.GaugeValue, frame.RowRemapFailed, 1),
	vital("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "PCIe replays.", prometheus.CounterValue, frame.PCIeReplays, 1),
	vital("DCGM_FI_DEV_PCIE_LINK_GEN", "PCIe generation of the link now.", prometheus.GaugeValue, frame.PCIeGen, 1),
	vital("DCGM_FI_DEV_PCIE_LINK_WIDTH", "PCIe lanes of the link now.", prometheus.GaugeValue, frame.PCIeWidth, 1),
	fixed("DCGM_FI_DEV_PCIE_MAX_LINK_GEN", "Highest PCIe generation of the link.", func(d *frame.Device) int64 { return known(d.PCIeGenMax) }, 1),
	fixed("DCGM_FI_DEV_PCIE_MAX_LINK_WIDTH", "Most PCIe lanes of the link.", func(d *frame.Device) int64 { return known(d.PCIeWidthMax) }, 1),
	{"DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "Data over all NVLinks, both ways, KiB.", prometheus.CounterValue, false, func(g *GPU) (float64, bool) {
		h := &g.Health
		return float64(h.Values[frame.NVLinkSentKiB]) + float64(h.Values[frame.NVLinkReceivedKiB]), g.HealthFresh && h.Has(frame.NVLinkSentKiB) && h.Has(frame.NVLinkReceivedKiB)
	}},
	// The library's counters of errors are read as one sum: there is no name for that in DCGM.
	vital("flopwatch_gpu_nvlink_errors_total", "NVLink errors: CRC, replay and recovery, of all links.", prometheus.CounterValue, frame.NVLinkErrors, 1),
	fixed("DCGM_FI_DEV_MIG_MODE", "1: MIG is on.", func(d *frame.Device) int64 { return int64(d.MIGMode) }, 1),
	fixed("DCGM_FI_DEV_ECC_CURRENT", "1: ECC is on.", func(d *frame.Device) int64 { return int64(d.ECCMode) }, 1),
}

// known is v, or not known where a link of no width is meant.
func known(v int) int64 {
	if v <= 0 {
		return -1
	}
	return int64(v)
}

func fbFree(g *GPU) (float64, bool) {
	used, total := g.Reading.Values[frame.MemUsedBytes], g.Device.MemTotalBytes
	if g.HealthFresh && g.Health.Has(frame.MemReservedBytes) {
		used += g.Health.Values[frame.MemReservedBytes]
	}
	return float64(total-used) / mib, g.Fresh && g.Reading.Has(frame.MemUsedBytes) && total >= used
}

// shape is which labels a series has.
type shape struct{ instance, pod, job bool }

// descriptions are those of dcgmMetrics with the labels of a shape; they are made when first
// needed. Called with e.mu held.
func (e *Exporter) descriptions(sh shape) []*prometheus.Desc {
	if e.descs == nil {
		e.descs = map[shape][]*prometheus.Desc{}
	}
	if e.descs[sh] == nil {
		names := labelNames(sh)
		list := make([]*prometheus.Desc, len(dcgmMetrics))
		for i, m := range dcgmMetrics {
			list[i] = prometheus.NewDesc(m.name, m.help, names, nil)
		}
		e.descs[sh] = list
	}
	return e.descs[sh]
}

func (e *Exporter) gpu(g *GPU, out chan<- prometheus.Metric) {
	e.put(g, nil, g.Owner, out)
	told := map[int]bool{} // several compute instances share what is measured
	for i := range g.Instances {
		in := &g.Instances[i]
		if told[in.GI] {
			continue
		}
		told[in.GI] = true
		owner := in.Owner
		for _, other := range g.Instances[i+1:] {
			if other.GI == in.GI && other.Owner != owner { // what is measured is nobody's alone
				owner = Owner{}
			}
		}
		part := GPU{Device: g.Device, Fresh: in.Fresh, Reading: in.Reading}
		part.Device.MemTotalBytes = in.MemTotalBytes
		e.put(&part, in, owner, out)
	}
}

// put puts the series of a GPU, or of one of its instances.
func (e *Exporter) put(g *GPU, in *Instance, owner Owner, out chan<- prometheus.Metric) {
	d := &g.Device
	sh := shape{in != nil, owner.Pod != "", owner.Job != ""}
	minor := d.Minor
	if minor < 0 {
		minor = d.Index
	}
	labels := []string{strconv.Itoa(d.Index), d.UUID, d.PCIBusID, "nvidia" + strconv.Itoa(minor), d.Name}
	if in != nil {
		labels = append(labels, in.Profile, strconv.Itoa(in.GI))
	}
	labels = append(labels, e.cfg.Node, d.DriverVersion)
	if sh.pod {
		labels = append(labels, owner.Container, owner.Namespace, owner.Pod)
	}
	if sh.job {
		labels = append(labels, owner.Job)
	}
	e.mu.Lock()
	descs := e.descriptions(sh)
	e.mu.Unlock()
	for i, m := range dcgmMetrics {
		if in != nil && !m.instances {
			continue
		}
		if v, ok := m.value(g); ok {
			out <- prometheus.MustNewConstMetric(descs[i], m.typ, v, labels...)
		}
	}
}
