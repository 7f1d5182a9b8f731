package report

import (
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/forecast"
)

// Limbs of findings, as BUNDLE.md names them.
const (
	Actual             = "actual"
	Projected          = "projected"
	Capacity           = "capacity"
	ChangedArrangement = "changed_arrangement"
	Cluster            = "cluster"
	RedFlag            = "red_flag"
	Telemetry          = "telemetry"
)

// Kinds of records beside the limbs: they ask, and conclude nothing. They are kept and revised like
// findings, and never stand among them in findings.jsonl.
const (
	// Inquiry: a condition of a profile may be met, and what is known does not carry a finding.
	Inquiry = "inquiry"
	// Indicator: a red flag of the catalogue that the limb red_flag does not hold.
	Indicator = "indicator"
)

// IsFinding reports whether a limb is one of BUNDLE.md's.
func IsFinding(limb string) bool { return limb != Inquiry && limb != Indicator }

// Evidence points at rows that a finding rests on.
type Evidence struct {
	Kind     string `json:"kind"`
	Node     string `json:"node"`
	GPU      *int   `json:"gpu"`
	FromMs   int64  `json:"from_ms"`
	ToMs     int64  `json:"to_ms"`
	Strength string `json:"strength"` // measured, derived, declared
	// Lost are the reasons for which the host's telemetry of the stretch is lost, where it is known to
	// be: sorted, separated by commas. Left out where it is not.
	Lost string `json:"lost,omitempty"`
	// Detail says in numbers what a line of the telemetry limb rests on.
	Detail string `json:"detail,omitempty"`
}

// Finding is one line of findings.jsonl. Its identity is (Profile, Limb, subject).
type Finding struct {
	Finding               string     `json:"finding"`
	Profile               *string    `json:"profile"`
	Limb                  string     `json:"limb"`
	Runs                  []string   `json:"runs"`
	Orders                []string   `json:"orders"`
	Accounts              []string   `json:"accounts"`
	Parties               []string   `json:"parties"`
	KnownAtMs             int64      `json:"known_at_ms"`
	DueAtMs               *int64     `json:"due_at_ms"`
	WouldBeDueAtMs        *int64     `json:"would_be_due_at_ms"`
	DueBasis              *string    `json:"due_basis"`
	State                 string     `json:"state"`    // met, inquire
	Severity              string     `json:"severity"` // info, low, medium, high
	ConditionsNotAssessed []string   `json:"conditions_not_assessed"`
	Explanation           string     `json:"explanation"`
	Evidence              []Evidence `json:"evidence"`

	// Of an inquiry or an indicator alone. Kind is what it asks about: a limb, or a way in which work
	// may stand together; of an indicator its id in the catalogue. Probability is that the condition
	// is met, in steps of 0.05; Bounds are what is compared with the limit, in FLOP or operations
	// per second; Crossing is when it would be reached; Asks are what would settle it, most useful
	// first.
	Kind        string             `json:"kind,omitempty"`
	Probability *float64           `json:"probability,omitempty"`
	Bounds      *flops.Interval    `json:"bounds,omitempty"`
	Crossing    *forecast.Crossing `json:"crossing_ms,omitempty"`
	Asks        []string           `json:"asks,omitempty"`
}
