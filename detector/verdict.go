package detector

import (
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/forecast"
)

// MemberLine is one GPU's interval in a RunLine.
type MemberLine struct {
	Node    string `json:"node"`
	GPU     int    `json:"gpu"`
	StartMs int64  `json:"start_ms"`
	EndMs   int64  `json:"end_ms"`
}

// ThresholdLine compares a run with one profile. Probability is that the limit is
// exceeded already at the judged moment.
type ThresholdLine struct {
	Profile     string             `json:"profile"`
	LimitFLOP   float64            `json:"limit_flops"`
	Probability float64            `json:"probability"`
	Crossing    *forecast.Crossing `json:"crossing_ms"`
}

// RunLine is one line of runs.jsonl (BUNDLE.md). Fields beyond BUNDLE.md's carry the
// reasons, so that a reader can follow the verdict.
type RunLine struct {
	Run              string          `json:"run"`
	Class            string          `json:"class"`
	ClassProbability float64         `json:"class_probability"`
	StartedMs        int64           `json:"started_ms"`
	EndedMs          *int64          `json:"ended_ms"`
	Members          []MemberLine    `json:"members"`
	Accounts         []string        `json:"accounts"`
	FLOPsExecuted    flops.Interval  `json:"flops_executed"`
	FLOPsModel       flops.Interval  `json:"flops_model"`
	Basis            []string        `json:"basis"`
	CoverageFrac     float64         `json:"coverage_frac"`
	Thresholds       []ThresholdLine `json:"thresholds"`
	Reasons          []string        `json:"reasons"`
	Links            []LinkLine      `json:"links"`
	// Alternatives are runs that this one may continue, though the evidence does not carry
	// it; IfOneRun is what they would have computed together, null without any.
	Alternatives []AlternativeLine `json:"alternatives"`
	IfOneRun     *MergedLine       `json:"if_one_run"`
	// Lost is what is lost of the telemetry of the run's hosts, and why; left out where nothing is.
	Lost []LostLine `json:"lost,omitempty"`

	// TrainingProbability is that it is a training of any kind; ClassProbabilities are over all
	// classes that are not ruled out. FeaturesMissed would have told classes apart and were not
	// measured for most of its time. Share is what of the tensor work on its GPUs is its own,
	// null: all.
	TrainingProbability float64            `json:"training_probability"`
	ClassProbabilities  map[string]float64 `json:"class_probabilities"`
	FeaturesMissed      []string           `json:"features_missed"`
	Share               *ShareLine         `json:"share"`
	// Terms are what the interval of the model FLOPs is made of, widest first, and NarrowMost the
	// signal that would narrow it most.
	Terms      []flops.Term `json:"terms"`
	NarrowMost *NarrowLine  `json:"narrow_most"`
	// Campaigns are runs with which this one may be one training. Largest is the plausible
	// grouping that adds up to most; null: this run alone.
	Campaigns []CampaignLine `json:"campaigns"`
	Largest   *GroupingLine  `json:"largest_grouping"`
	// Contradictions are signals that cannot both be right, the most certain first, and
	// ContradictionCount how many there are: a line holds 20.
	Contradictions     []ContradictionLine `json:"contradictions"`
	ContradictionCount int                 `json:"contradiction_count"`
	// Engineering is for the fleet's owner; null: it could not be looked at.
	Engineering *EngineeringLine `json:"engineering"`
	// Inquiries are the findings on the run that ask rather than say.
	Inquiries []string `json:"inquiries"`
}

// ShareLine is a share with its 90 % interval.
type ShareLine struct {
	Low  float64 `json:"low"`
	Best float64 `json:"best"`
	High float64 `json:"high"`
}

// NarrowLine is the signal that would narrow an interval most. HalfWidth is half of the 90 %
// interval over the best value, Then what would be left of it without the term.
type NarrowLine struct {
	Term      string  `json:"term"`
	Signal    string  `json:"signal"`
	HalfWidth float64 `json:"half_width"`
	Then      float64 `json:"half_width_then"`
}

// CampaignLine is runs that may add up to one training. FLOPsModel is their total if they do;
// Runs names the first hundred of RunCount.
type CampaignLine struct {
	Campaign   string         `json:"campaign"`
	Kind       string         `json:"kind"`
	Weight     float64        `json:"weight"`
	KnownMs    int64          `json:"known_at_ms"`
	Runs       []string       `json:"runs"`
	RunCount   int            `json:"run_count"`
	FLOPsModel flops.Interval `json:"flops_model"`
	Reasons    []string       `json:"reasons"`
}

// GroupingLine is a grouping of a run with others, and their total.
type GroupingLine struct {
	Kind       string         `json:"kind"` // restarts, or a campaign's
	Runs       []string       `json:"runs"`
	Weight     float64        `json:"weight"`
	FLOPsModel flops.Interval `json:"flops_model"`
}

// ContradictionLine is two signals that cannot both be right. GPU null: the whole node.
type ContradictionLine struct {
	Kind    string   `json:"kind"`
	Node    string   `json:"node"`
	GPU     *int     `json:"gpu"`
	FromMs  int64    `json:"from_ms"`
	ToMs    int64    `json:"to_ms"`
	Ratio   *float64 `json:"ratio"`
	LogOdds *float64 `json:"log_odds"`
	Reason  string   `json:"reason"`
}

// EngineeringLine is what a fleet's owner asks of a run every day; null: not known, never none.
type EngineeringLine struct {
	MFU             *float64        `json:"mfu"`     // model FLOP over the dense 16-bit peak of its GPU-time
	HFU             *float64        `json:"hfu"`     // executed FLOP over it
	Goodput         *float64        `json:"goodput"` // share of its GPU-time in which it went on
	GPUHours        float64         `json:"gpu_hours"`
	Restarts        *int            `json:"restarts"`
	RestartGPUHours *float64        `json:"restart_gpu_hours"` // between its episodes, and until it is back at its level
	StallGPUHours   *float64        `json:"stall_gpu_hours"`   // all stood still together
	IdleGPUHours    *float64        `json:"idle_gpu_hours"`    // held and idle
	EnergyKWh       *float64        `json:"energy_kwh"`        // of its GPUs
	Stragglers      []StragglerLine `json:"stragglers"`        // slowest first, at most ten
}

// StragglerLine is a node that holds the others up.
type StragglerLine struct {
	Node   string  `json:"node"`
	Behind float64 `json:"behind"` // below the median rate of the run's nodes, 0 to 1
	Reason string  `json:"reason"`
}

// LostLine is what is lost for one reason. Coverage is less by the share of the time.
type LostLine struct {
	Reason  string `json:"reason"`
	Batches int64  `json:"batches"`
	Ticks   int64  `json:"ticks"`
	Nodes   int    `json:"nodes"`
	FromMs  int64  `json:"from_ms"`
	ToMs    int64  `json:"to_ms"`
}

// AlternativeLine is another run that may be one with this.
type AlternativeLine struct {
	Run    string  `json:"run"`
	Weight float64 `json:"weight"`
	Reason string  `json:"reason"`
}

// MergedLine is the total of runs that may be one.
type MergedLine struct {
	Runs       []string       `json:"runs"`
	FLOPsModel flops.Interval `json:"flops_model"`
}

// LinkLine is a reason why parts of a run were put together.
type LinkLine struct {
	Kind   string  `json:"kind"`
	Weight float64 `json:"weight"`
	Reason string  `json:"reason"`
}
