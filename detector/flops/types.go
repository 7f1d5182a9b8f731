package flops

// Interval is a 90 % interval with its best value, in FLOP.
type Interval struct {
	Low  float64 `json:"low"`
	Best float64 `json:"best"`
	High float64 `json:"high"`
}

// Bases of an estimate: the tiers of FLOPS.md 1.8, best first.
const (
	BasisMMACycles      = "mma_cycles"
	BasisTensorActivity = "tensor_activity"
	BasisEnergy         = "energy"
	BasisPower          = "power"
	BasisUtilization    = "utilization"
	BasisAllocation     = "allocation"
)

// Point is the cumulative estimate at the end of a minute.
type Point struct {
	EndMs                   int64
	ExecutedFLOP, ModelFLOP float64 // cumulative, best
}

// Estimate is what a set of GPU intervals computed.
type Estimate struct {
	Executed, Model Interval
	// LogSD is the standard deviation of ln(Model); Executed has its own.
	LogSD, ExecutedLogSD float64
	Basis                []string // tiers that contributed, best first
	CoverageFrac         float64  // share of the GPU-time with a signal that some tier can use, less what is lost
	Lost                 []Lost   // of the hosts' telemetry, by reason; nil: nothing is
	Series               []Point  // ascending; its last point equals the best values
	Terms                []Term   // what the interval of Model is made of, widest first
	Params               *Params  // what the ports say of the model; nil: nothing
}

// Names of terms.
const (
	TermCounter   = "counter"   // counters or watts against operations
	TermClock     = "clock"     // the clock at which the pipes ran
	TermDtype     = "dtype"     // operations of a busy cycle
	TermRecompute = "recompute" // executed against model
	TermTile      = "tile"      // cycles that tiles and masks waste
	TermGaps      = "gaps"      // time without a signal
	TermPart      = "part"      // what the accelerator is
	TermShare     = "share"     // what of the work on shared GPUs is this activity's
	TermGrouping  = "grouping"  // which runs are one
)

// Term is one source of an interval's width. Squares of LogSD add up to that of the estimate,
// as far as the terms are independent.
type Term struct {
	Name  string  `json:"name"`
	LogSD float64 `json:"log_sd"`
	// HalfWidth is half of the 90 % interval, over the best value, if this term alone were left.
	HalfWidth float64 `json:"half_width"`
	// Narrow names the signal that would narrow it most, in words for a person; empty: none would.
	Narrow string `json:"narrow,omitempty"`
}

// Contradiction is two signals of different instruments that cannot both be right.
type Contradiction struct {
	Kind         string // see cross.go
	Node         string
	GPU          int // -1: the whole node
	FromMs, ToMs int64
	// Ratio is what the second says of the first: 1 where they agree.
	Ratio   float64
	LogOdds float64 // that one of them is wrong, over the usual spread
	Reason  string
}

// Engineering is what a fleet's owner asks of a run every day. NaN: not known.
type Engineering struct {
	MFU, HFU   float64 // model, executed FLOP over the dense 16-bit peak of the GPU-time
	Goodput    float64 // share of the GPU-time in which it went on: no restarts, stalls, idle
	RestartMs  int64   // GPU-time between its episodes, and from a start to the usual level
	IdleMs     int64   // GPU-time held and idle
	StallMs    int64   // GPU-time in which all stood still together
	Restarts   int
	Stragglers []Straggler // slowest first
	EnergyJ    float64     // of its GPUs; NaN: watts were not measured
}

// Straggler is a node that holds the others up.
type Straggler struct {
	Node   string
	Behind float64 // by how much its GPUs' rate is below the median of the run's, 0 to 1
	Reason string
}
