package threshold

// Note stands beside every profile that is shown.
const Note = "design input, not legal advice"

// Statuses of a rule.
const (
	InForce     = "in_force"
	Proposed    = "proposed"     // a draft that never became final, or pending
	Revoked     = "revoked"      // was in force, until ValidTo
	Enacted     = "enacted"      // passed, in force from ValidFrom on
	NotEnforced = "not_enforced" // codified, but not applied
	NotEnacted  = "not_enacted"
	Custom      = "custom" // stated by the operator or a recording
)

// What StatusAt says besides: statuses of a rule before and after its dates.
const (
	NotYetInForce   = "not_yet_in_force"
	NoLongerInForce = "no_longer_in_force"
)

// Parties that a rule binds.
const (
	Provider     = "provider" // of infrastructure as a service
	Developer    = "developer"
	Modifier     = "modifier"
	ClusterOwner = "cluster_owner"
	Exporter     = "exporter"
	AnyParty     = "any"
)

// Ways in which a cluster limb stands beside the limit.
const (
	Alone = "alone" // a condition of its own
	And   = "and"   // the run must exceed the limit and run on such a cluster
)

// Comparisons with the limit. Estimates are continuous: both are met at one moment.
const (
	Greater = "greater" // strictly
	AtLeast = "at_least"
)

// Cluster is the limb on capacity: GPUs on a network faster than Gbps whose theoretical
// peaks add up to more than OpsPerS.
type Cluster struct {
	Gbps      float64 `toml:"gbps" json:"gbps"`
	OpsPerS   float64 `toml:"ops_per_s" json:"ops_per_s"`
	Colocated bool    `toml:"colocated" json:"colocated"` // in one datacenter
	Precision string  `toml:"precision" json:"precision"` // of the peak: Bits16, Bits8, NotStated
	Sparsity  string  `toml:"sparsity" json:"sparsity"`   // of the peak: Dense, Sparse, NotStated
	Joined    string  `toml:"joined" json:"joined"`       // Alone, And
}

// Profile is one rule's numbers at one date.
type Profile struct {
	Name           string `toml:"name" json:"name"`
	Title          string `toml:"title" json:"title"`
	Version        string `toml:"version" json:"version"` // date of this reading of the rule
	Jurisdiction   string `toml:"jurisdiction" json:"jurisdiction"`
	Status         string `toml:"status" json:"status"`
	ObligatedParty string `toml:"obligated_party" json:"obligated_party"`
	BindsOperator  bool   `toml:"binds_operator" json:"binds_operator"` // the operator of this software, when in force
	Watch          bool   `toml:"watch" json:"watch"`                   // evaluated unless configured otherwise
	ValidFrom      string `toml:"valid_from" json:"valid_from"`         // date, empty: not known
	ValidTo        string `toml:"valid_to" json:"valid_to"`             // first day on which it is no longer valid

	LimitFLOPs float64  `toml:"limit_flops" json:"limit_flops"` // 0: the rule has no such number
	Comparison string   `toml:"comparison" json:"comparison"`   // Greater, AtLeast
	Counting   Counting `toml:"counting" json:"counting"`
	// Originals are models whose compute is known, and whose it is to modify them.
	Originals   []Original `toml:"original" json:"original,omitempty"`
	Projection  Projection `toml:"projection" json:"projection"`
	Cluster     *Cluster   `toml:"cluster" json:"cluster"`
	ForeignOnly bool       `toml:"foreign_only" json:"foreign_only"` // the rule's own text asks for a foreign person; findings ask for one under every profile

	DeadlineDays    float64 `toml:"deadline_days" json:"deadline_days"` // 0: none
	DeadlineEvent   string  `toml:"deadline_event" json:"deadline_event"`
	MinCoverageFrac float64 `toml:"min_coverage_frac" json:"min_coverage_frac"` // below it a finding asks to inquire
	// InquireProbability of a condition makes an inquiry where less than a finding is known; 0: the default.
	InquireProbability float64 `toml:"inquire_probability" json:"inquire_probability"`

	ConditionsNotAssessed []string `toml:"conditions_not_assessed" json:"conditions_not_assessed"`
	Source                string   `toml:"source" json:"source"`
	SourceLabel           string   `toml:"source_label" json:"source_label"` // P primary, S secondary, recall
	Unconfirmed           []string `toml:"unconfirmed" json:"unconfirmed"`   // fields that nobody has checked against the primary text
	Note                  string   `toml:"note" json:"note"`
}
