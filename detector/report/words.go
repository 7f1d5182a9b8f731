package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// States of a finding. Inquire: the bounds, or the kind of the finding, ask for a
// question to be put before anything is concluded.
const (
	Met     = "met"
	Inquire = "inquire"
)

// setDue fills the dates. Only a rule in force that binds this operator makes something
// due; every other date is a hypothesis.
func setDue(f *Finding, p *Profile) {
	if !IsFinding(f.Limb) {
		return // no date follows from a question
	}
	basis := p.at(f.KnownAtMs)
	switch basis {
	case InForce, Proposed, Custom:
		f.DueBasis = &basis
	}
	if p.DeadlineMs <= 0 {
		return
	}
	due := f.KnownAtMs + p.DeadlineMs
	if p.Binding(f.KnownAtMs) {
		f.DueAtMs = &due
	} else {
		f.WouldBeDueAtMs = &due
	}
}

// at is the rule's status at a moment.
func (p *Profile) at(ms int64) string {
	if p.StatusAt == nil {
		return p.Status
	}
	return p.StatusAt(ms)
}

// Binding reports whether the rule was in force at the moment and binds this operator.
func (p *Profile) Binding(ms int64) bool { return p.at(ms) == InForce && p.BindsOperator }

// explain adds to a limb's own sentence since when evidence sufficed and what the
// profile's status makes of it.
func explain(f *Finding, p *Profile) string {
	parts := []string{f.Explanation}
	parts = append(parts, fmt.Sprintf("Evidence sufficed from %s.", utc(f.KnownAtMs)))
	if f.State == Inquire && p != nil {
		parts = append(parts, "What was measured or stated does not carry the conclusion alone: inquire.")
	}
	if len(f.Asks) > 0 {
		parts = append(parts, "What would settle it: "+strings.Join(f.Asks, "; ")+".")
	}
	if p == nil {
		return strings.Join(parts, " ")
	}
	if !IsFinding(f.Limb) {
		parts = append(parts, fmt.Sprintf("Profile %s is %s. Nothing is concluded, and no date follows from a question.", p.Name, statusWords(p, f.KnownAtMs)))
		return strings.Join(parts, " ")
	}
	parts = append(parts, "A compute condition is met; "+assessed(f.ConditionsNotAssessed))
	switch {
	case f.DueAtMs != nil:
		parts = append(parts, fmt.Sprintf("Under profile %s, in force and binding on this operator, the deadline is %s.", p.Name, utc(*f.DueAtMs)))
	case f.WouldBeDueAtMs != nil:
		parts = append(parts, fmt.Sprintf("Hypothetical: profile %s is %s; if it were in force and bound this operator, a report would be due %s. Internal, not for filing.", p.Name, statusWords(p, f.KnownAtMs), utc(*f.WouldBeDueAtMs)))
	default:
		parts = append(parts, fmt.Sprintf("Profile %s is %s and sets no deadline.", p.Name, statusWords(p, f.KnownAtMs)))
	}
	return strings.Join(parts, " ")
}

func assessed(not []string) string {
	if len(not) == 0 {
		return "nothing but compute was assessed."
	}
	return "not assessed: " + strings.Join(not, ", ") + "."
}

// statusWords says what the rule was at the moment from which the evidence sufficed.
func statusWords(p *Profile, ms int64) string {
	switch status := p.at(ms); {
	case p.Binding(ms):
		return "in force and binding on this operator"
	case status == InForce:
		return "in force but not binding on this operator"
	case status == Proposed:
		return "proposed, not in force"
	case status == Custom:
		return "a custom profile, not law"
	case status == "":
		return "of unstated status"
	case strings.HasSuffix(status, "_in_force"):
		return strings.ReplaceAll(status, "_", " ") + " on " + utc(ms)[:10]
	default:
		return strings.ReplaceAll(status, "_", " ") + ", not in force"
	}
}

// flop prints three significant digits: 1.32e20.
func flop(v float64) string {
	if math.IsNaN(v) {
		return "not known"
	}
	return strings.Replace(strconv.FormatFloat(v, 'e', 2, 64), "e+", "e", 1)
}

func utc(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05 UTC") }

func words(basis []string) string {
	if len(basis) == 0 {
		return "no measured basis"
	}
	return strings.ReplaceAll(strings.Join(basis, ", "), "_", " ")
}

func quoted(use string) string {
	if strings.TrimSpace(use) == "" {
		return "none"
	}
	return strconv.Quote(use)
}
