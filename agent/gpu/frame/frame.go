package frame

// Metric is a number that the child reads of a GPU. The order is the protocol's: new ones
// come last, and the protocol's version rises.
type Metric uint8

// Metrics. Units are in the names, as in the wire contract's: E4 is a fraction times 10,000,
// MB is MiB as NVML counts it.
const (
	UtilE4 Metric = iota
	MemUtilE4
	MemUsedBytes
	PowerMW
	EnergyMJ // cumulative since the driver was loaded
	SMClockMHz
	MemClockMHz
	TempC
	ClocksEventReasons // bits of nvmlClocksEventReasons
	SMActiveE4         // GPM, from here
	SMOccupancyE4
	TensorE4
	DFMAE4
	HMMAE4
	IMMAE4
	DRAME4
	FP64E4
	FP32E4
	FP16E4
	IntE4
	PCIeTxBps
	PCIeRxBps
	NVLinkTxBps
	NVLinkRxBps
	NVEncE4
	NVDecE4
	NVLinkTxKiB // cumulative, field values 138 and 139; where there is no GPM
	NVLinkRxKiB
	PCIeTxBytes // cumulative, field values 197 and 198; where there is no GPM
	PCIeRxBytes
	NumMetrics
)

// Device is what the driver says that a GPU is. Empty and -1: not known.
type Device struct {
	Index                       int
	UUID, Name, PCIBusID        string
	DriverVersion, VBIOSVersion string
	MemTotalBytes               int64
	PowerLimitMW, SMClockMaxMHz int64 // PowerLimitMW is the board's default, whatever is enforced
	MIGMode                     int   // 1, 0, -1
	NVLinks                     int
	GPM                         bool
	Capabilities                []string // what can be read of it, sorted
}

// Reading is what one pass over one GPU gave.
type Reading struct {
	GPU int
	Seq uint64 // of the request that it answers
	// ElapsedUs is when the GPU was read, in microseconds after the child was asked; TookUs is
	// how long all its calls took.
	ElapsedUs, TookUs int64
	Calls             int    // into the library
	Present           uint64 // bit m: Values[m] was measured
	FromGPM           uint64 // bit m: by GPM
	Values            [NumMetrics]int64
}

// Has reports whether a metric was measured.
func (r *Reading) Has(m Metric) bool { return r.Present>>m&1 == 1 }

// Set sets a metric.
func (r *Reading) Set(m Metric, v int64) {
	r.Present |= 1 << m
	r.Values[m] = v
}
