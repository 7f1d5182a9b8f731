package threshold

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// FieldError is what is wrong with one field of a profile. Field is the key as it stands in the
// file, with its tables: cluster.gbps.
type FieldError struct {
	Field, Text string
}

// Error renders the field and what would be right.
func (e *FieldError) Error() string { return fmt.Sprintf("field %s: %s", e.Field, e.Text) }

// Validate reports every impossible field.
func (p *Profile) Validate() error {
	v := checker{}
	v.names(p)
	if v.positiveOrZero("limit_flops", p.LimitFLOPs) && p.LimitFLOPs > 0 {
		v.oneOf("comparison", p.Comparison, Greater, AtLeast)
		v.counting(p)
	} else if p.LimitFLOPs == 0 && p.Status == Custom && p.Cluster == nil {
		v.bad("limit_flops", "a custom profile states neither a limit nor a cluster")
	}
	v.cluster(p)
	v.dates(p)
	if !(p.DeadlineDays >= 0) || p.DeadlineDays > 3660 {
		v.bad("deadline_days", "%v is out of range", p.DeadlineDays)
	}
	if p.DeadlineDays > 0 {
		v.need("deadline_event", p.DeadlineEvent)
	}
	v.fraction("min_coverage_frac", p.MinCoverageFrac)
	if v.fraction("inquire_probability", p.InquireProbability); p.InquireProbability > 0.5 {
		v.bad("inquire_probability", "%v is above 0.5, from which on a condition is a finding", p.InquireProbability)
	}
	v.projection(p)
	return errors.Join(v.errs...)
}

type checker struct{ errs []error }

func (v *checker) bad(field, format string, args ...any) {
	v.errs = append(v.errs, &FieldError{field, fmt.Sprintf(format, args...)})
}

func (v *checker) need(field, value string) {
	if strings.TrimSpace(value) == "" {
		v.bad(field, "is empty")
	}
}

func (v *checker) oneOf(field, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		v.bad(field, "%q is not one of %s", value, strings.Join(allowed, ", "))
	}
}

func (v *checker) positiveOrZero(field string, value float64) bool {
	if math.IsNaN(value) || math.IsInf(value, 0) || value < 0 {
		v.bad(field, "%v is not a positive number", value)
		return false
	}
	return true
}

func (v *checker) fraction(field string, value float64) {
	if !(value >= 0 && value <= 1) {
		v.bad(field, "%v is not between 0 and 1", value)
	}
}

func (v *checker) names(p *Profile) {
	v.need("name", p.Name)
	if p.Status != Custom && (len(p.Name) > 64 || strings.ContainsAny(p.Name, " /\\\t\n")) { // a recording calls its own as it likes
		v.bad("name", "%q has a blank, a slash or more than 64 bytes", p.Name)
	}
	v.need("version", p.Version)
	v.need("source", p.Source)
	v.oneOf("status", p.Status, InForce, Proposed, Revoked, Enacted, NotEnforced, NotEnacted, Custom)
	v.oneOf("obligated_party", p.ObligatedParty, Provider, Developer, Modifier, ClusterOwner, Exporter, AnyParty)
}

// counting checks what acts on a comparison with the limit.
func (v *checker) counting(p *Profile) {
	c := &p.Counting
	v.oneOf("counting.basis", c.Basis, Model, Executed)
	v.oneOf("counting.precision", c.Precision, Silent, All)
	v.oneOf("counting.fine_tuning", c.FineTuning, Silent, Counted, Cumulative, AloneOnly, Excluded)
	v.oneOf("counting.synthetic_data", c.SyntheticData, Silent, Included, Excluded)
	v.oneOf("counting.sparsity", c.Sparsity, Silent, Dense, Sparse)
	v.oneOf("counting.aggregation", c.Aggregation, ByRun, ByLineage, ByParty, ByOwner)
	if !(c.WindowDays >= 0) || c.WindowDays > 36600 {
		v.bad("counting.window_days", "%v is out of range", c.WindowDays)
	}
	if c.WindowDays > 0 && c.Aggregation == ByRun {
		v.bad("counting.window_days", "a window has nothing to add up where each run stands alone: counting.aggregation is %q", ByRun)
	}
	v.fraction("counting.original_share", c.OriginalShare)
	if c.OriginalShare > 0 && c.FineTuning == Cumulative {
		v.bad("counting.original_share", "a share of the original as the limit, and the original counted too (counting.fine_tuning is %q)", Cumulative)
	}
	for i := range p.Originals {
		o := &p.Originals[i]
		if !(o.FLOPs > 0) || math.IsInf(o.FLOPs, 0) {
			v.bad("original.flops", "%v is not a positive number", o.FLOPs)
		}
		v.need("original.source", o.Source)
		if slices.Contains(o.Accounts, "") {
			v.bad("original.accounts", "an account is empty")
		}
	}
	if len(p.Originals) > 0 && c.OriginalShare == 0 && c.FineTuning != Cumulative && c.Aggregation != ByLineage {
		v.bad("original.flops", "nothing uses it: state counting.original_share, counting.fine_tuning = %q or counting.aggregation = %q", Cumulative, ByLineage)
	}
}

func (v *checker) cluster(p *Profile) {
	c := p.Cluster
	if c == nil {
		return
	}
	if !(c.OpsPerS > 0) || math.IsInf(c.OpsPerS, 0) {
		v.bad("cluster.ops_per_s", "%v is not a positive number", c.OpsPerS)
	}
	if !(c.Gbps >= 0) || math.IsInf(c.Gbps, 0) {
		v.bad("cluster.gbps", "%v is negative", c.Gbps)
	}
	v.oneOf("cluster.joined", c.Joined, Alone, And)
	v.oneOf("cluster.precision", c.Precision, Bits16, Bits8, NotStated)
	v.oneOf("cluster.sparsity", c.Sparsity, Dense, Sparse, NotStated)
	if c.Joined == And && p.LimitFLOPs == 0 {
		v.bad("cluster.joined", "joined to a limit that is not stated")
	}
}

func (v *checker) dates(p *Profile) {
	from, fromErr := dateMs(p.ValidFrom)
	to, toErr := dateMs(p.ValidTo)
	if fromErr != nil {
		v.bad("valid_from", "%v", fromErr)
	}
	if toErr != nil {
		v.bad("valid_to", "%v", toErr)
	}
	if p.ValidFrom != "" && p.ValidTo != "" && fromErr == nil && toErr == nil && to <= from {
		v.bad("valid_to", "%s is not after %s", p.ValidTo, p.ValidFrom)
	}
	if p.Status == Revoked && p.ValidTo == "" {
		v.bad("valid_to", "is empty though the rule is revoked")
	}
}

func (v *checker) projection(p *Profile) {
	q := &p.Projection
	for _, f := range []struct {
		name  string
		value float64
	}{{"utilization", q.Utilization}, {"utilization_low", q.UtilizationLow}, {"utilization_high", q.UtilizationHigh}} {
		if !(f.value > 0 && f.value <= 1) {
			v.bad("projection."+f.name, "%v is not above 0 and at most 1", f.value)
		}
	}
	if q.UtilizationLow > q.Utilization || q.Utilization > q.UtilizationHigh {
		v.bad("projection.utilization", "%v is not between utilization_low %v and utilization_high %v", q.Utilization, q.UtilizationLow, q.UtilizationHigh)
	}
	if !(q.Margin >= 1 && q.Margin <= 100) {
		v.bad("projection.margin", "%v is not between 1 and 100", q.Margin)
	}
	if !(q.AfterMinutes > 0 && q.AfterMinutes <= 44640) {
		v.bad("projection.after_minutes", "%v is not above 0 and at most 44640", q.AfterMinutes)
	}
	if !(q.WindowMinutes > 0 && q.WindowMinutes <= 44640) {
		v.bad("projection.rate_window_minutes", "%v is not above 0 and at most 44640", q.WindowMinutes)
	}
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
