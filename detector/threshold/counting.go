package threshold

// Bases of what is counted.
const (
	Model    = "model"    // what the model needed: no recomputation, evaluation or filler
	Executed = "executed" // what the hardware did
)

// Silent is what a rule's text says of most of it: nothing. Each field says below how it is then
// counted.
const Silent = "silent"

// All operations count alike, whatever their precision; so they do where a rule is Silent.
const All = "all"

// What a rule makes of fine-tuning.
const (
	Counted    = "counted"    // as any training; so is Silent
	Cumulative = "cumulative" // on top of what the original model took, where that is stated
	AloneOnly  = "alone"      // the modification alone, whatever the original took
	Excluded   = "excluded"   // not at all: what is judged to be fine-tuning is not compared
)

// Included is synthetic data whose making counts. Silent and Excluded leave it out.
const Included = "included"

// What stands together against the limit.
const (
	ByRun     = "run"     // one training of one model
	ByLineage = "lineage" // a model's original and all that the same accounts made of it, see Original
	ByParty   = "party"   // all runs of the accounts that one party holds itself
	ByOwner   = "owner"   // and of those that it owns, is the parent of, or sells through
)

// Kinds of peaks.
const (
	NotStated = "not stated" // the least of what it may mean is met, or it is an inquiry
	Dense     = "dense"
	Sparse    = "sparse" // twice the dense peak
	Bits16    = "16 bit"
	Bits8     = "8 bit" // the part's best of 8 bits
)

// Counting says what a rule counts. Every field but the note is one of a closed set, and acts.
type Counting struct {
	Basis         string `toml:"basis" json:"basis"`                   // Model, Executed
	Precision     string `toml:"precision" json:"precision"`           // Silent, All
	FineTuning    string `toml:"fine_tuning" json:"fine_tuning"`       // Silent, Counted, Cumulative, AloneOnly, Excluded
	SyntheticData string `toml:"synthetic_data" json:"synthetic_data"` // Silent, Included, Excluded
	Sparsity      string `toml:"sparsity" json:"sparsity"`             // Silent, Dense, Sparse: of the peak behind an order
	Aggregation   string `toml:"aggregation" json:"aggregation"`       // ByRun, ByLineage, ByParty, ByOwner
	// WindowDays is how far back work is added up; 0: as far as it is held.
	WindowDays float64 `toml:"window_days" json:"window_days"`
	// OriginalShare of what the original model took is the limit, where that is stated; 0: the limit
	// is limit_flops always.
	OriginalShare float64 `toml:"original_share" json:"original_share"`
	Note          string  `toml:"note" json:"note,omitempty"`
}

// Original is what somebody stated about a model that others are made of.
type Original struct {
	FLOPs    float64  `toml:"flops" json:"flops"`
	Accounts []string `toml:"accounts" json:"accounts,omitempty"` // whose trainings are made of it; none: everybody's
	Source   string   `toml:"source" json:"source"`               // who said so, and when
}

// Projection is how what is to come is counted.
type Projection struct {
	// Utilization is the share of its peak that an order is counted with, and the bounds those that
	// are as low, and as high, as one training in ten reaches.
	Utilization     float64 `toml:"utilization" json:"utilization"`
	UtilizationLow  float64 `toml:"utilization_low" json:"utilization_low"`
	UtilizationHigh float64 `toml:"utilization_high" json:"utilization_high"`
	Margin          float64 `toml:"margin" json:"margin"`                           // a projection must reach so many times the limit
	AfterMinutes    float64 `toml:"after_minutes" json:"after_minutes"`             // age from which on a run is projected
	WindowMinutes   float64 `toml:"rate_window_minutes" json:"rate_window_minutes"` // over which its rate is taken
}

// DefaultProjection is used for what a profile does not state.
func DefaultProjection() Projection {
	return Projection{Utilization: 0.3, UtilizationLow: 0.15, UtilizationHigh: 0.5, Margin: 1.3, AfterMinutes: 15, WindowMinutes: 60}
}

// DefaultInquire is the probability of a condition from which on it is asked about. At this point
// at most one silent case in twenty hides a condition that is met, and of inquiries at the very edge
// nineteen in twenty lead to nothing.
const DefaultInquire = 0.05

// fill puts defaults where a file says nothing.
func (p *Profile) fill() {
	c := &p.Counting
	for _, f := range []*string{&c.Precision, &c.FineTuning, &c.SyntheticData, &c.Sparsity} {
		if *f == "" {
			*f = Silent
		}
	}
	if c.Aggregation == "" {
		c.Aggregation = ByRun
	}
	d := DefaultProjection()
	for _, f := range []struct {
		to *float64
		by float64
	}{
		{&p.Projection.Utilization, d.Utilization}, {&p.Projection.Margin, d.Margin}, {&p.Projection.AfterMinutes, d.AfterMinutes}, {&p.Projection.WindowMinutes, d.WindowMinutes},
		{&p.InquireProbability, DefaultInquire},
	} {
		if *f.to == 0 {
			*f.to = f.by
		}
	}
	if p.Projection.UtilizationLow == 0 {
		p.Projection.UtilizationLow = min(d.UtilizationLow, p.Projection.Utilization/2)
	}
	if p.Projection.UtilizationHigh == 0 {
		p.Projection.UtilizationHigh = max(d.UtilizationHigh, min(1, p.Projection.Utilization*1.6))
	}
	if cl := p.Cluster; cl != nil {
		if cl.Precision == "" {
			cl.Precision = NotStated
		}
		if cl.Sparsity == "" {
			cl.Sparsity = NotStated
		}
	}
}
