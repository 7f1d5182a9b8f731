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
}
