package detector

import (
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/forecast"
	"github.com/flopwatch/flopwatch/detector/run"
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

// judged is one activity with its estimate.
type judged struct {
	run run.Run
	est flops.Estimate
	// trainingProb is that it is a training of any kind.
	trainingProb float64
}
