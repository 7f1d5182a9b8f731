package score

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// limbs in the order of tables.
var limbs = []string{"actual", "projected", "capacity", "changed_arrangement", "cluster", "red_flag", "telemetry"}

// Findings is how well one limb was answered, or all ("all").
type Findings struct {
	Limb      string  `json:"limb"`
	Right     int     `json:"right"`   // required and found
	Missed    int     `json:"missed"`  // required and not found
	Wrong     int     `json:"wrong"`   // found and not expected
	Allowed   int     `json:"allowed"` // found, and either answer passes
	Precision float64 `json:"precision"`
	Recall    float64 `json:"recall"`
	F1        float64 `json:"f1"`
	// Delay is known_at - knowable of the right ones, in seconds; negative: before.
	DelayMedianS float64 `json:"delay_median_s"`
	DelayMaxS    float64 `json:"delay_max_s"`
	// Early is right or allowed ones known before earliest_ms, by more than the grace.
	Early         int `json:"early"`
	PartiesRight  int `json:"parties_right"`  // right ones whose parties are as expected
	AccountsRight int `json:"accounts_right"` // right ones whose accounts are as expected
	delays        []float64
}

// Remark is one finding worth a look: missed, wrong, or early.
type Remark struct {
	What    string  `json:"what"` // missed, wrong, duplicate, no subject, early
	Profile string  `json:"profile"`
	Limb    string  `json:"limb"`
	Subject string  `json:"subject"`
	Finding string  `json:"finding,omitempty"` // the answer's id
	Note    string  `json:"note,omitempty"`    // the label's
	ByS     float64 `json:"by_s,omitempty"`    // how early
}

type findingKey struct{ limb, profile, subject string }

func (k findingKey) compare(o findingKey) int {
	return cmp.Or(cmp.Compare(slices.Index(limbs, k.limb), slices.Index(limbs, o.limb)), strings.Compare(k.profile, o.profile), strings.Compare(k.subject, o.subject))
}

// expectation is what is expected under one key.
type expectation struct {
	expected
	firm       bool // must be found
	earliestMs int64
	found      bool
}

// subjects gives what a finding of a limb is about.
func subjects(limb string, runs, orders, accounts []string) []string {
	switch limb {
	case "actual", "projected":
		return runs
	case "capacity", "changed_arrangement":
		return orders
	case "red_flag":
		if len(runs) > 0 {
			return runs
		}
	}
	return accounts
}

func name(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

// expectations by key. Where several labels share a key, the firm ones decide.
func expectations(labels []expected) map[findingKey]*expectation {
	out := map[findingKey]*expectation{}
	for _, e := range labels {
		firm := (e.Required == nil || *e.Required) && !e.Marginal && !e.Undecidable
		earliest := e.KnowableMs
		if e.EarliestMs != nil {
			earliest = *e.EarliestMs
		}
		for _, s := range subjects(e.Limb, e.Runs, e.Orders, e.Accounts) {
			k := findingKey{e.Limb, name(e.Profile), s}
			have := out[k]
			switch {
			case have == nil:
				out[k] = &expectation{expected: e, firm: firm, earliestMs: earliest}
			case firm && (!have.firm || e.KnowableMs < have.KnowableMs):
				out[k] = &expectation{expected: e, firm: true, earliestMs: min(earliest, have.earliestMs)}
			default:
				have.earliestMs = min(earliest, have.earliestMs)
			}
		}
	}
	return out
}

// scoreFindings compares. runName gives the activity that an answered run is matched to.
func scoreFindings(labels []expected, answers []answeredFinding, runName func(string) string) ([]Findings, []Remark) {
	want := expectations(labels)
	byLimb := map[string]*Findings{}
	limb := func(l string) *Findings {
		if byLimb[l] == nil {
			byLimb[l] = &Findings{Limb: l}
		}
		return byLimb[l]
	}
	var remarks []Remark
	seen := map[findingKey]bool{}
	for _, a := range answers {
		f := limb(a.Limb)
		remark := func(what, subject, note string, by float64) {
			remarks = append(remarks, Remark{What: what, Profile: name(a.Profile), Limb: a.Limb, Subject: subject, Finding: a.Finding, Note: note, ByS: by})
		}
		runs := make([]string, len(a.Runs))
		for i, r := range a.Runs {
			runs[i] = runName(r)
		}
		named := subjects(a.Limb, runs, a.Orders, a.Accounts)
		if len(named) == 0 {
			f.Wrong++
			remark("no subject", "", "", 0)
		}
		for _, s := range named {
			k := findingKey{a.Limb, name(a.Profile), s}
			e := want[k]
			switch {
			case seen[k]:
				f.Wrong++
				remark("duplicate", s, "", 0)
				continue
			case e == nil:
				f.Wrong++
				remark("wrong", s, "", 0)
			default:
				e.found = true
				if lead := float64(e.earliestMs-a.KnownAtMs) / 1000; lead > graceMs/1000 {
					f.Early++
					remark("early", s, e.Note, lead)
				}
				f.count(e, a)
			}
			seen[k] = true
		}
	}
	keys := make([]findingKey, 0, len(want))
	for k := range want {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, findingKey.compare)
	for _, k := range keys {
		if e := want[k]; e.firm && !e.found {
			limb(k.limb).Missed++
			remarks = append(remarks, Remark{What: "missed", Profile: k.profile, Limb: k.limb, Subject: k.subject, Note: e.Note})
		}
	}
	return sumUp(byLimb), remarks
}

// count takes a finding that is expected or allowed.
func (f *Findings) count(e *expectation, a answeredFinding) {
	if !e.firm {
		f.Allowed++
		return
	}
	f.Right++
	f.delays = append(f.delays, float64(a.KnownAtMs-e.KnowableMs)/1000)
	if sameSet(e.Parties, a.Parties) {
		f.PartiesRight++
	}
	if sameSet(e.Accounts, a.Accounts) {
		f.AccountsRight++
	}
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

func sumUp(byLimb map[string]*Findings) []Findings {
	names := make([]string, 0, len(byLimb))
	for l := range byLimb {
		names = append(names, l)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(slices.Index(limbs, a), slices.Index(limbs, b)), strings.Compare(a, b))
	})
	all := Findings{Limb: "all"}
	var out []Findings
	for _, l := range names {
		f := byLimb[l]
		all.Right, all.Missed, all.Wrong, all.Allowed = all.Right+f.Right, all.Missed+f.Missed, all.Wrong+f.Wrong, all.Allowed+f.Allowed
		all.Early, all.PartiesRight, all.AccountsRight = all.Early+f.Early, all.PartiesRight+f.PartiesRight, all.AccountsRight+f.AccountsRight
		all.delays = append(all.delays, f.delays...)
		f.finish()
		out = append(out, *f)
	}
	all.finish()
	return append(out, all)
}

func (f *Findings) finish() {
	right := float64(f.Right)
	f.Precision, f.Recall = ratio(right, right+float64(f.Wrong)), ratio(right, right+float64(f.Missed))
	f.F1 = ratio(2*right, 2*right+float64(f.Wrong+f.Missed))
	if len(f.delays) > 0 {
		f.DelayMedianS, f.DelayMaxS = quantile(f.delays, 0.5), slices.Max(f.delays)
	}
}

// Crossing compares when a run was said to cross a limit with when it did.
type Crossing struct {
	Profile  string  `json:"profile"`
	Run      string  `json:"run"` // of the labels
	InPeriod bool    `json:"in_period"`
	Answered bool    `json:"answered"`
	OffMin   float64 `json:"off_minutes"` // p50 - truth
	OffFrac  float64 `json:"off_frac"`    // |off| / (truth - the run's start)
	Covered  bool    `json:"covered"`     // p10 <= truth <= p90
}

func scoreCrossings(t truth, runs []answeredRun, ofLabel []int) []Crossing {
	var out []Crossing
	for _, c := range t.Expect.Crossings {
		l := slices.IndexFunc(t.Activities, func(a activity) bool { return a.ID == c.Run })
		if l < 0 || c.CrossingMs == nil {
			continue
		}
		got := Crossing{Profile: c.Profile, Run: c.Run, InPeriod: c.InPeriod}
		if r := ofLabel[l]; r >= 0 {
			for _, th := range runs[r].Thresholds {
				if th.Profile == c.Profile && th.CrossingMs != nil {
					at := float64(*c.CrossingMs)
					got.Answered = true
					got.OffMin = (th.CrossingMs.P50 - at) / 60_000
					got.OffFrac = math.Abs(th.CrossingMs.P50-at) / max(at-start(t.Activities[l]), 1)
					got.Covered = th.CrossingMs.P10 <= at && at <= th.CrossingMs.P90
				}
			}
		}
		out = append(out, got)
	}
	return out
}

func start(a activity) float64 {
	s := math.Inf(1)
	for _, m := range a.Members {
		s = min(s, float64(m.StartMs))
	}
	return s
}

// String gives a remark as one line.
func (r Remark) String() string {
	s := fmt.Sprintf("%s: %s %s %s", r.What, r.Limb, cmp.Or(r.Profile, "-"), cmp.Or(r.Subject, "-"))
	if r.Finding != "" {
		s += " (" + r.Finding + ")"
	}
	if r.ByS > 0 {
		s += fmt.Sprintf(" by %.0f s", r.ByS)
	}
	if r.Note != "" {
		s += ": " + r.Note
	}
	return s
}
