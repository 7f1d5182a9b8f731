package detector

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/internal/store"
)

// What becomes of a run or finding when history is judged again.
const (
	Appears  = "appears"
	Vanishes = "vanishes"
	Changes  = "changes"
)

// Sizes of differences that are told: smaller ones are those of judging from cells.
const (
	movedProbability = 0.01
	movedFLOPs       = 0.01 // of the best value
	movedKnownMs     = 60_000
)

// Verdicts of one judgement: the latest versions of its runs and findings.
type verdictSet struct {
	runs     map[string]*RunLine
	detector map[string]string // run id -> version of the code
	findings map[string]*report.Finding
}

// DiffInput is two judgements of one period.
type DiffInput struct {
	FromMs, UntilMs int64
	Runs, NewRuns   []store.RunRow
	Findings, New   []store.FindingRow
	// Profiles are the names that were judged under now. Findings of others are left out, unless Whole is
	// set: then the set takes the place of the other.
	Profiles []string
	Whole    bool
	// NoJurisdictions: it is not known which were under special measures, so red flags that are gone
	// say nothing.
	NoJurisdictions bool
}

// ChangeSide is a run or finding in one of two judgements.
type ChangeSide struct {
	State       string   `json:"state,omitempty"` // of a finding
	Severity    string   `json:"severity,omitempty"`
	KnownAtMs   int64    `json:"known_at_ms,omitempty"`
	Class       string   `json:"class,omitempty"` // of a run
	ModelBest   *float64 `json:"flops_model_best,omitempty"`
	Probability *float64 `json:"probability,omitempty"` // that the profile's limit is exceeded
	LimitFLOP   float64  `json:"limit_flops,omitempty"`
}

// Change is one difference between two judgements.
type Change struct {
	What    string      `json:"what"`    // appears, vanishes, changes
	Of      string      `json:"of"`      // run, finding
	ID      string      `json:"id"`      //
	Profile string      `json:"profile"` // empty: none
	Limb    string      `json:"limb,omitempty"`
	Subject string      `json:"subject,omitempty"`
	Fields  []string    `json:"fields"` // what differs
	Was     *ChangeSide `json:"was"`    // null: it appears
	Is      *ChangeSide `json:"is"`     // null: it vanishes
	Reasons []string    `json:"reasons"`
}

// Difference is all that differs, and what was compared.
type Difference struct {
	Changes  []Change `json:"changes"`
	Runs     int      `json:"runs"`     // compared
	Findings int      `json:"findings"` // compared
	LeftOut  int      `json:"left_out"` // findings that the new judgement cannot have: of profiles or red flags that it did not look for
}

// Diff compares two judgements of one period.
func Diff(in DiffInput) (Difference, error) {
	out := Difference{Changes: []Change{}}
	was, err := in.read(in.Runs, in.Findings)
	if err != nil {
		return out, err
	}
	is, err := in.read(in.NewRuns, in.New)
	if err != nil {
		return out, err
	}
	for _, id := range union(was.runs, is.runs) {
		out.Runs++
		out.runChanges(id, &was, &is, in.Profiles)
	}
	judged := map[string]bool{}
	for _, p := range in.Profiles {
		judged[p] = true
	}
	for _, id := range union(was.findings, is.findings) {
		if w := was.findings[id]; w != nil && is.findings[id] == nil &&
			(!in.Whole && (w.Profile != nil && !judged[*w.Profile] || w.Profile == nil && !report.IsFinding(w.Limb)) || in.NoJurisdictions && w.Limb == report.RedFlag) {
			out.LeftOut++
			continue
		}
		out.Findings++
		if c, differs := findingChange(id, &was, &is, judged); differs {
			out.Changes = append(out.Changes, c)
		}
	}
	rank := func(c *Change) int { return slices.Index([]string{Appears, Vanishes, Changes}, c.What) }
	slices.SortStableFunc(out.Changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Of, b.Of), cmp.Compare(rank(&a), rank(&b)), strings.Compare(a.Profile, b.Profile), strings.Compare(a.Limb, b.Limb), strings.Compare(a.ID, b.ID))
	})
	return out, nil
}

// read takes what stands of a judgement and touches the period.
func (in *DiffInput) read(runs []store.RunRow, findings []store.FindingRow) (verdictSet, error) {
	out := verdictSet{map[string]*RunLine{}, map[string]string{}, map[string]*report.Finding{}}
	for i := range runs {
		r := &runs[i]
		if r.SupersededBy != "" || r.StartMs > in.UntilMs || r.EndMs != 0 && r.EndMs < in.FromMs {
			continue
		}
		var l RunLine
		if err := json.Unmarshal([]byte(r.Doc), &l); err != nil {
			return out, fmt.Errorf("read back run %s: %w", r.RunID, err)
		}
		out.runs[r.RunID], out.detector[r.RunID] = &l, r.Provenance.DetectorVersion
	}
	for i := range findings {
		f := &findings[i]
		if f.Retracted || f.KnownAtMs < in.FromMs || f.KnownAtMs > in.UntilMs {
			continue
		}
		var g report.Finding
		if err := json.Unmarshal([]byte(f.Doc), &g); err != nil {
			return out, fmt.Errorf("read back finding %s: %w", f.FindingID, err)
		}
		out.findings[f.FindingID] = &g
	}
	return out, nil
}

func union[V any](a, b map[string]V) []string {
	var ids []string
	for id := range a { // sorted below
		ids = append(ids, id)
	}
	for id := range b {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func thresholdOf(l *RunLine, profile string) *ThresholdLine {
	if l == nil {
		return nil
	}
	for i := range l.Thresholds {
		if l.Thresholds[i].Profile == profile {
			return &l.Thresholds[i]
		}
	}
	return nil
}

func runSide(l *RunLine, profile string) *ChangeSide {
	if l == nil {
		return nil
	}
	best := l.FLOPsModel.Best
	s := &ChangeSide{Class: l.Class, ModelBest: &best}
	if t := thresholdOf(l, profile); t != nil {
		p := t.Probability
		s.Probability, s.LimitFLOP = &p, t.LimitFLOP
	}
	return s
}

// runChanges compares a run: itself, and against each profile.
func (d *Difference) runChanges(id string, was, is *verdictSet, profiles []string) {
	w, n := was.runs[id], is.runs[id]
	add := func(what, profile string, fields []string, reasons []string) {
		d.Changes = append(d.Changes, Change{What: what, Of: "run", ID: id, Profile: profile, Fields: fields, Was: runSide(w, profile), Is: runSide(n, profile), Reasons: reasons})
	}
	switch {
	case w == nil:
		add(Appears, "", []string{}, []string{"the stored verdicts have no such run in the period: its parts were put together otherwise, or its beginning lies elsewhere"})
		return
	case n == nil:
		add(Vanishes, "", []string{}, []string{"judged from cells its parts are put together otherwise, or its beginning lies elsewhere"})
		return
	}
	if fields, reasons := runMoved(w, n, was.detector[id]); len(fields) > 0 {
		add(Changes, "", fields, reasons)
	}
	for _, p := range profiles {
		a, b := thresholdOf(w, p), thresholdOf(n, p)
		switch {
		case a == nil && b == nil:
		case a == nil:
			if b.Probability >= movedProbability {
				add(Appears, p, []string{"probability"}, []string{fmt.Sprintf("no verdict was made under %s before", p)})
			}
		case b == nil:
			add(Vanishes, p, []string{"probability"}, []string{fmt.Sprintf("%s has no limit for it now", p)})
		case math.Abs(a.Probability-b.Probability) >= movedProbability:
			add(Changes, p, []string{"probability"}, whyRun(w, n, p, was.detector[id]))
		}
	}
}

// runMoved says what of a run differs, beside its probabilities.
func runMoved(w, n *RunLine, code string) (fields, reasons []string) {
	if w.Class != n.Class {
		fields = append(fields, "class")
		reasons = append(reasons, fmt.Sprintf("its class is %s (%.2f), and was %s (%.2f)", n.Class, n.ClassProbability, w.Class, w.ClassProbability))
	}
	if a, b := w.FLOPsModel.Best, n.FLOPsModel.Best; math.Abs(a-b) > movedFLOPs*max(a, b) {
		fields = append(fields, "flops_model")
		reasons = append(reasons, fmt.Sprintf("its model FLOPs are %.3g, and were %.3g", b, a))
	}
	if len(w.Members) != len(n.Members) {
		fields = append(fields, "members")
		reasons = append(reasons, fmt.Sprintf("it has %d stretches on GPUs, and had %d", len(n.Members), len(w.Members)))
	}
	if len(fields) > 0 && code != Version {
		reasons = append(reasons, fmt.Sprintf("it was judged by detector %s, and is by %s", code, Version))
	}
	return fields, reasons
}

// whyRun says why a run stands otherwise against a profile.
func whyRun(w, n *RunLine, profile, code string) []string {
	var out []string
	if w != nil && n != nil {
		if a, b := thresholdOf(w, profile), thresholdOf(n, profile); a != nil && b != nil && a.LimitFLOP != b.LimitFLOP {
			out = append(out, fmt.Sprintf("the limit of %s is %.3g, and was %.3g", profile, b.LimitFLOP, a.LimitFLOP))
		}
		_, moved := runMoved(w, n, code)
		out = append(out, moved...)
	}
	if out == nil {
		out = []string{"the run and the limit are as they were: the difference is that of judging from cells, or of what came late"}
	}
	return out
}

func findingSide(f *report.Finding, runs map[string]*RunLine) *ChangeSide {
	if f == nil {
		return nil
	}
	s := &ChangeSide{State: f.State, Severity: f.Severity, KnownAtMs: f.KnownAtMs}
	if f.Profile != nil && len(f.Runs) > 0 {
		if t := thresholdOf(runs[f.Runs[0]], *f.Profile); t != nil {
			p := t.Probability
			s.Probability, s.LimitFLOP = &p, t.LimitFLOP
		}
	}
	return s
}

// findingChange compares a finding.
func findingChange(id string, was, is *verdictSet, judged map[string]bool) (Change, bool) {
	w, n := was.findings[id], is.findings[id]
	any := n
	if any == nil {
		any = w
	}
	c := Change{Of: "finding", ID: id, Limb: any.Limb, Subject: any.Subject(), Fields: []string{}, Was: findingSide(w, was.runs), Is: findingSide(n, is.runs)}
	if any.Profile != nil {
		c.Profile = *any.Profile
	}
	var wr, nr *RunLine
	code := ""
	if len(any.Runs) > 0 {
		wr, nr, code = was.runs[any.Runs[0]], is.runs[any.Runs[0]], was.detector[any.Runs[0]]
	}
	switch {
	case w == nil:
		c.What = Appears
		if c.Profile != "" && wr != nil && thresholdOf(wr, c.Profile) == nil {
			c.Reasons = []string{fmt.Sprintf("no verdict was made under %s before", c.Profile)}
		} else {
			c.Reasons = whyRun(wr, nr, c.Profile, code)
		}
		return c, true
	case n == nil:
		c.What = Vanishes
		switch {
		case c.Profile != "" && !judged[c.Profile]:
			c.Reasons = []string{fmt.Sprintf("profile %s is not in the set", c.Profile)}
		case len(w.Runs) > 0 && nr == nil:
			c.Reasons = []string{"its run is none in the new judgement"}
		default:
			c.Reasons = whyRun(wr, nr, c.Profile, code)
		}
		return c, true
	}
	c.What = Changes
	if w.State != n.State {
		c.Fields = append(c.Fields, "state")
		c.Reasons = append(c.Reasons, fmt.Sprintf("state is %s, and was %s", n.State, w.State))
	}
	if w.Severity != n.Severity {
		c.Fields = append(c.Fields, "severity")
	}
	if by := n.KnownAtMs - w.KnownAtMs; by > movedKnownMs || by < -movedKnownMs {
		c.Fields = append(c.Fields, "known_at")
		way := "later"
		if by < 0 {
			way, by = "earlier", -by
		}
		c.Reasons = append(c.Reasons, fmt.Sprintf("evidence sufficed %s %s", time.Duration(by)*time.Millisecond, way))
	}
	if a, b := c.Was.Probability, c.Is.Probability; a != nil && b != nil && math.Abs(*a-*b) >= movedProbability {
		c.Fields = append(c.Fields, "probability")
	}
	if len(c.Fields) == 0 {
		return c, false
	}
	c.Reasons = append(c.Reasons, whyRun(wr, nr, c.Profile, code)...)
	return c, true
}
