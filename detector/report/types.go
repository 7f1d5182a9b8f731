package report

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
}
