package threshold

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

//go:embed data/*.toml
var builtin embed.FS

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

// Cluster is the limb on capacity: GPUs on a network faster than Gbps whose theoretical
// peaks add up to more than OpsPerS.
type Cluster struct {
	Gbps      float64 `toml:"gbps" json:"gbps"`
	OpsPerS   float64 `toml:"ops_per_s" json:"ops_per_s"`
	Colocated bool    `toml:"colocated" json:"colocated"` // in one datacenter
	Sparsity  string  `toml:"sparsity" json:"sparsity"`   // "dense", or "not stated"
	Joined    string  `toml:"joined" json:"joined"`       // Alone, And
}

// Counting says what a rule counts; "silent" where its text does not say.
type Counting struct {
	Basis         string `toml:"basis" json:"basis"` // "model": without recomputation and evaluation
	Precision     string `toml:"precision" json:"precision"`
	FineTuning    string `toml:"fine_tuning" json:"fine_tuning"`
	SyntheticData string `toml:"synthetic_data" json:"synthetic_data"`
	Sparsity      string `toml:"sparsity" json:"sparsity"`
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

	LimitFLOPs  float64  `toml:"limit_flops" json:"limit_flops"` // 0: the rule has no such number
	Comparison  string   `toml:"comparison" json:"comparison"`   // "greater": strictly
	Counting    Counting `toml:"counting" json:"counting"`
	Cluster     *Cluster `toml:"cluster" json:"cluster"`
	ForeignOnly bool     `toml:"foreign_only" json:"foreign_only"` // the rule's own text asks for a foreign person; findings ask for one under every profile

	DeadlineDays    float64 `toml:"deadline_days" json:"deadline_days"` // 0: none
	DeadlineEvent   string  `toml:"deadline_event" json:"deadline_event"`
	MinCoverageFrac float64 `toml:"min_coverage_frac" json:"min_coverage_frac"` // below it a finding asks to inquire

	ConditionsNotAssessed []string `toml:"conditions_not_assessed" json:"conditions_not_assessed"`
	Source                string   `toml:"source" json:"source"`
	SourceLabel           string   `toml:"source_label" json:"source_label"` // P primary, S secondary, recall
	Unconfirmed           []string `toml:"unconfirmed" json:"unconfirmed"`   // fields that nobody has checked against the primary text
	Note                  string   `toml:"note" json:"note"`
}

// Builtin returns the profiles that the product ships, sorted by name.
func Builtin() ([]Profile, error) {
	entries, err := builtin.ReadDir("data")
	if err != nil {
		return nil, fmt.Errorf("list built-in profiles: %w", err)
	}
	var out []Profile
	for _, e := range entries {
		text, readErr := builtin.ReadFile(path.Join("data", e.Name()))
		if readErr != nil {
			return nil, fmt.Errorf("read profile %s: %w", e.Name(), readErr)
		}
		ps, parseErr := Parse(e.Name(), text)
		if parseErr != nil {
			return nil, parseErr
		}
		out = append(out, ps...)
	}
	return sorted(out)
}

// Parse reads a file of profiles (TOML, tables [[profile]]). It refuses unknown keys
// and impossible values, naming file, profile and field. The file's name serves
// messages alone.
func Parse(file string, text []byte) ([]Profile, error) {
	var doc struct {
		Profile []Profile `toml:"profile"`
	}
	meta, err := toml.Decode(string(text), &doc)
	if err != nil {
		return nil, fmt.Errorf("read profiles %s: %w", file, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("read profiles %s: unknown field %s", file, unknown[0])
	}
	if len(doc.Profile) == 0 {
		return nil, fmt.Errorf("read profiles %s: no [[profile]]", file)
	}
	for i := range doc.Profile {
		p := &doc.Profile[i]
		p.Note = strings.TrimSuffix(Note+"; "+p.Note, "; ")
		if checkErr := p.Validate(); checkErr != nil {
			return nil, fmt.Errorf("read profiles %s: profile %d (%s): %w", file, i+1, p.Name, checkErr)
		}
	}
	return doc.Profile, nil
}

// CustomLimit is a profile as a recording's manifest states it.
type CustomLimit struct {
	Name       string
	LimitFLOPs float64
	Cluster    *Cluster // Gbps and OpsPerS alone
}

// FromManifest makes profiles of what a recording states. They take the place of the
// built-in ones, bind nobody, and borrow the 15 days of the U.S. proposal as a
// hypothesis.
func FromManifest(limits []CustomLimit) ([]Profile, error) {
	out := make([]Profile, 0, len(limits))
	for i, c := range limits {
		p := Profile{
			Name: c.Name, Title: c.Name, Version: "1", Status: Custom, ObligatedParty: AnyParty, Watch: true,
			LimitFLOPs: c.LimitFLOPs, Comparison: "greater", ForeignOnly: true,
			Counting:     Counting{Basis: "model", Precision: "blind", FineTuning: "cumulative", SyntheticData: "silent", Sparsity: "dense"},
			DeadlineDays: 15, DeadlineEvent: "evidence sufficed", MinCoverageFrac: 0.5,
			ConditionsNotAssessed: []string{"capability", "modality"}, Source: "the recording's manifest", SourceLabel: "custom", Note: Note,
		}
		if c.Cluster != nil {
			p.Cluster = &Cluster{Gbps: c.Cluster.Gbps, OpsPerS: c.Cluster.OpsPerS, Colocated: true, Sparsity: "dense", Joined: Alone}
		}
		if err := p.Validate(); err != nil {
			return nil, fmt.Errorf("read profile %d of the manifest (%s): %w", i+1, c.Name, err)
		}
		out = append(out, p)
	}
	return sorted(out)
}

func sorted(ps []Profile) ([]Profile, error) {
	slices.SortFunc(ps, func(a, b Profile) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(ps); i++ {
		if ps[i].Name == ps[i-1].Name {
			return nil, fmt.Errorf("two profiles are called %s", ps[i].Name)
		}
	}
	return ps, nil
}

// Validate reports every impossible field.
func (p *Profile) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("field %s: %s", field, fmt.Sprintf(format, args...)))
	}
	need := func(field, value string) {
		if strings.TrimSpace(value) == "" {
			bad(field, "is empty")
		}
	}
	oneOf := func(field, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			bad(field, "%q is not one of %s", value, strings.Join(allowed, ", "))
		}
	}
	need("name", p.Name)
	if p.Status != Custom && (len(p.Name) > 64 || strings.ContainsAny(p.Name, " /\\\t\n")) { // a recording calls its own as it likes
		bad("name", "%q has a blank, a slash or more than 64 bytes", p.Name)
	}
	need("version", p.Version)
	need("source", p.Source)
	oneOf("status", p.Status, InForce, Proposed, Revoked, Enacted, NotEnforced, NotEnacted, Custom)
	oneOf("obligated_party", p.ObligatedParty, Provider, Developer, Modifier, ClusterOwner, Exporter, AnyParty)
	if math.IsNaN(p.LimitFLOPs) || math.IsInf(p.LimitFLOPs, 0) || p.LimitFLOPs < 0 {
		bad("limit_flops", "%v is not a positive number", p.LimitFLOPs)
	}
	if p.LimitFLOPs > 0 {
		oneOf("comparison", p.Comparison, "greater")
		oneOf("counting.basis", p.Counting.Basis, "model")
	} else if p.Status == Custom && p.Cluster == nil {
		bad("limit_flops", "a custom profile states neither a limit nor a cluster")
	}
	if c := p.Cluster; c != nil {
		if !(c.OpsPerS > 0) || math.IsInf(c.OpsPerS, 0) {
			bad("cluster.ops_per_s", "%v is not a positive number", c.OpsPerS)
		}
		if !(c.Gbps >= 0) || math.IsInf(c.Gbps, 0) {
			bad("cluster.gbps", "%v is negative", c.Gbps)
		}
		oneOf("cluster.joined", c.Joined, Alone, And)
		oneOf("cluster.sparsity", c.Sparsity, "dense", "not stated")
		if c.Joined == And && p.LimitFLOPs == 0 {
			bad("cluster.joined", "joined to a limit that is not stated")
		}
	}
	from, fromErr := dateMs(p.ValidFrom)
	to, toErr := dateMs(p.ValidTo)
	if fromErr != nil {
		bad("valid_from", "%v", fromErr)
	}
	if toErr != nil {
		bad("valid_to", "%v", toErr)
	}
	if p.ValidFrom != "" && p.ValidTo != "" && fromErr == nil && toErr == nil && to <= from {
		bad("valid_to", "%s is not after %s", p.ValidTo, p.ValidFrom)
	}
	if p.Status == Revoked && p.ValidTo == "" {
		bad("valid_to", "is empty though the rule is revoked")
	}
	if !(p.DeadlineDays >= 0) || p.DeadlineDays > 3660 {
		bad("deadline_days", "%v is out of range", p.DeadlineDays)
	}
	if p.DeadlineDays > 0 {
		need("deadline_event", p.DeadlineEvent)
	}
	if !(p.MinCoverageFrac >= 0 && p.MinCoverageFrac <= 1) {
		bad("min_coverage_frac", "%v is not between 0 and 1", p.MinCoverageFrac)
	}
	return errors.Join(errs...)
}

// dateMs reads a date as the start of its day in UTC, in Unix milliseconds.
func dateMs(date string) (int64, error) {
	if date == "" {
		return 0, nil
	}
	t, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return 0, fmt.Errorf("read date %q (wanted YYYY-MM-DD): %w", date, err)
	}
	return t.UnixMilli(), nil
}

// Digest names a set of profiles: hex SHA-256 of their canonical text, in the order
// given.
func Digest(ps []Profile) (string, error) {
	text, err := json.Marshal(ps)
	if err != nil {
		return "", fmt.Errorf("encode profiles: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}
