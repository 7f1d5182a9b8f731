package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/workload"
	"github.com/flopwatch/flopwatch/internal/store"
)

// pageLines bounds each list of a run's page.
const pageLines = 12

// run answers `flopwatch runs RUN`.
func (o *askOptions) run(ctx context.Context, a *asked, id string, stdout io.Writer) error {
	rows, err := a.store.LatestRuns(ctx, a.cluster)
	if err != nil {
		return err
	}
	row, err := findRun(rows, id, a.cluster)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(stdout, []string{row.Doc})
	}
	page := runPage{row: row}
	if err = json.Unmarshal([]byte(row.Doc), &page.line); err != nil {
		return fmt.Errorf("read back run %s: %w", row.RunID, err)
	}
	found, err := a.store.LatestFindings(ctx, a.cluster)
	if err != nil {
		return err
	}
	for i := range found {
		var f report.Finding
		if found[i].Retracted || json.Unmarshal([]byte(found[i].Doc), &f) != nil {
			continue
		}
		if slices.Contains(f.Runs, row.RunID) {
			page.findings = append(page.findings, f)
		}
	}
	labels, err := a.store.Labels(ctx, a.cluster)
	if err != nil {
		return err
	}
	for i := range labels {
		l := &labels[i]
		about := l.RunID == row.RunID || slices.ContainsFunc(page.findings, func(f report.Finding) bool { return f.Finding == l.FindingID }) ||
			(l.Kind == store.LabelSameRun || l.Kind == store.LabelOtherRun) && l.Value == row.RunID
		if about && !l.Withdrawn {
			page.labels = append(page.labels, *l)
		}
	}
	p := &printer{w: stdout}
	o.heading(ctx, a, p, row.JudgedMs)
	p.runPage(&page)
	return p.err
}

// findRun is the run of an id, or of the only one that begins so.
func findRun(rows []store.RunRow, id, cluster string) (store.RunRow, error) {
	var like []store.RunRow
	for i := range rows {
		if rows[i].RunID == id {
			return rows[i], nil
		}
		if strings.HasPrefix(rows[i].RunID, id) {
			like = append(like, rows[i])
		}
	}
	switch len(like) {
	case 1:
		return like[0], nil
	case 0:
		return store.RunRow{}, fmt.Errorf("cluster %s has no run %q: `flopwatch runs` lists them", cluster, id)
	}
	return store.RunRow{}, fmt.Errorf("%d runs of cluster %s begin with %q: name more of it", len(like), cluster, id)
}

// runPage is all that is known of a run.
type runPage struct {
	row      store.RunRow
	line     detector.RunLine
	findings []report.Finding
	labels   []store.LabelRow
}

// runPage writes what it is, who, how sure, why, what would narrow it, and the daily figures.
func (p *printer) runPage(g *runPage) {
	l := &g.line
	until := "goes on"
	if l.EndedMs != nil {
		until = stamp(*l.EndedMs) + " UTC"
	}
	nodes := map[string]bool{}
	for _, m := range l.Members {
		nodes[m.Node] = true
	}
	p.line("")
	p.line("%s: %s, probability %.2f", l.Run, l.Class, l.ClassProbability)
	if by := g.row.SupersededBy; by != "" {
		p.line("  It no longer stands: %s.", map[bool]string{true: "a later verdict took it back", false: "it is now part of " + by}[by == "none"])
	}
	p.line("  What      %s on %s, %s UTC to %s, %.1f GPU-h", plural(gpus(*l), "GPU"), plural(len(nodes), "host"), stamp(l.StartedMs), until, gpuHours(*l))
	p.line("  Who       %s", first(l.Accounts, 6, "no account is known to hold the GPUs"))
	p.line("  Executed  %s", around(l.FLOPsExecuted.Low, l.FLOPsExecuted.Best, l.FLOPsExecuted.High))
	p.line("  Model     %s", around(l.FLOPsModel.Low, l.FLOPsModel.Best, l.FLOPsModel.High))
	p.line("  Rests on  %s; %.0f %% of the GPU-time has a signal", first(l.Basis, 6, "nothing that was measured"), 100*l.CoverageFrac)
	for i, x := range l.Lost {
		if i < pageLines {
			p.line("            lost of its hosts' telemetry: %s, %s of %s", x.Reason, plural(int(x.Batches), "batch", "batches"), plural(x.Nodes, "host"))
		}
	}
	p.line("")
	p.line("How sure")
	if len(l.ClassProbabilities) > 0 {
		p.line("  a training of any kind: %.2f (%s)", l.TrainingProbability, likely(l.ClassProbabilities))
	}
	if len(l.FeaturesMissed) > 0 {
		p.folded("  ", "not measured, and would have told classes apart: "+strings.Join(l.FeaturesMissed, ", "))
	}
	if s := l.Share; s != nil {
		p.line("  its share of the work on its GPUs: %.0f %% (%.0f to %.0f)", 100*s.Best, 100*s.Low, 100*s.High)
	}
	p.list("Why", l.Reasons)
	var links []string
	for _, k := range l.Links {
		links = append(links, fmt.Sprintf("%s (%s, %.2f)", k.Reason, k.Kind, k.Weight))
	}
	p.list("Why these GPUs are one run", links)
	p.narrow(l)
	p.limits(l)
	p.groupings(l)
	var odd []string
	for _, c := range l.Contradictions {
		where := c.Node
		if c.GPU != nil {
			where += fmt.Sprintf(" GPU %d", *c.GPU)
		}
		odd = append(odd, fmt.Sprintf("%s, %s to %s UTC: %s", where, stamp(c.FromMs), stamp(c.ToMs), cmp.Or(c.Reason, c.Kind)))
	}
	p.list(fmt.Sprintf("Signals that cannot both be right (%d)", l.ContradictionCount), odd)
	p.engineer(l)
	var found []string
	for _, f := range g.findings {
		name := "-"
		if f.Profile != nil {
			name = *f.Profile
		}
		found = append(found, fmt.Sprintf("%s: %s, %s, %s, evidence since %s UTC", f.Finding, f.Limb, name, f.State, stamp(f.KnownAtMs)))
	}
	p.list("Findings on it", found)
	p.says(g.labels)
	p.line("")
	p.line("Judged by detector %s under profiles %.12s, configuration %.12s.", g.row.Provenance.DetectorVersion, g.row.Provenance.ProfileVersion, g.row.Provenance.ConfigDigest)
}

// around writes an interval with half of its width.
func around(low, best, high float64) string {
	if high == 0 {
		return "0 FLOP"
	}
	text := fmt.Sprintf("%.3g FLOP (90 %%: %.3g to %.3g", best, low, high)
	if best > 0 && high < 1e300 {
		text += fmt.Sprintf(", ±%.0f %%", 50*(high-low)/best)
	}
	return text + ")"
}

// likely names classes by their probability.
func likely(of map[string]float64) string {
	names := slices.SortedFunc(maps.Keys(of), func(a, b string) int { return cmp.Or(cmp.Compare(of[b], of[a]), strings.Compare(a, b)) })
	var parts []string
	for _, n := range names {
		if of[n] >= 0.01 {
			parts = append(parts, fmt.Sprintf("%s %.2f", n, of[n]))
		}
	}
	return strings.Join(parts, ", ")
}

// folded writes a text in lines, those after the first indented.
func (p *printer) folded(indent, text string) {
	for i, l := range wrap(text, textWidth-len(indent)-2) {
		p.line("%s%s%s", indent, strings.Repeat(" ", 2*min(i, 1)), l)
	}
}

// list writes a heading with points, if there are any.
func (p *printer) list(head string, points []string) {
	if len(points) == 0 {
		return
	}
	p.line("")
	p.line("%s", head)
	for i, text := range points {
		if i == pageLines {
			p.line("  and %d more", len(points)-pageLines)
			return
		}
		p.folded("  ", text)
	}
}

// narrow writes what the interval is made of.
func (p *printer) narrow(l *detector.RunLine) {
	if len(l.Terms) == 0 {
		return
	}
	p.line("")
	p.line("What the interval of the model FLOPs is made of (half-width if a term alone were left)")
	var rows []string
	for _, t := range l.Terms {
		rows = append(rows, fmt.Sprintf("%s\t±%.0f %%\t%s", t.Name, 100*t.HalfWidth, t.Narrow))
	}
	p.table("term\thalf-width\twhat would narrow it", rows)
	if n := l.NarrowMost; n != nil {
		p.folded("  ", fmt.Sprintf("Narrowed most by: %s. Without the term %s it would be ±%.0f %%, not ±%.0f %%.", n.Signal, n.Term, 100*n.Then, 100*n.HalfWidth))
	}
}

// limits writes how the run stands against each limit, the most probable first.
func (p *printer) limits(l *detector.RunLine) {
	if !workload.IsRun(l.Class) || len(l.Thresholds) == 0 {
		return
	}
	ts := slices.Clone(l.Thresholds)
	slices.SortStableFunc(ts, func(a, b detector.ThresholdLine) int { return cmp.Compare(b.Probability, a.Probability) })
	var lines []string
	for _, t := range ts {
		text := fmt.Sprintf("%s, %.3g FLOP: exceeded with probability %.2f", t.Profile, t.LimitFLOP, t.Probability)
		if c := t.Crossing; c != nil {
			text += fmt.Sprintf("; crossed at %s (10 %%: %s, 90 %%: %s)", moment(c.P50), moment(c.P10), moment(c.P90))
		}
		lines = append(lines, text)
	}
	p.list("Limits", lines)
}

// groupings writes with what else it may be one.
func (p *printer) groupings(l *detector.RunLine) {
	var lines []string
	for _, x := range l.Alternatives {
		lines = append(lines, fmt.Sprintf("%s, probability %.2f: %s", x.Run, x.Weight, x.Reason))
	}
	for i := range l.Campaigns {
		c := &l.Campaigns[i]
		lines = append(lines, fmt.Sprintf("%s of %s, probability %.2f: together %s. %s", strings.ReplaceAll(c.Kind, "_", " "), plural(c.RunCount, "run"), c.Weight,
			around(c.FLOPsModel.Low, c.FLOPsModel.Best, c.FLOPsModel.High), strings.Join(c.Reasons, "; ")))
	}
	if g := l.Largest; g != nil {
		lines = append(lines, fmt.Sprintf("The plausible grouping that adds up to most: %s, %s", first(g.Runs, 4, ""), around(g.FLOPsModel.Low, g.FLOPsModel.Best, g.FLOPsModel.High)))
	}
	p.list("What else may be one with it", lines)
}

// engineer writes the figures of every day. What cannot be told is said to be so.
func (p *printer) engineer(l *detector.RunLine) {
	e := l.Engineering
	if e == nil {
		return
	}
	pc := func(v *float64) string {
		if v == nil {
			return "cannot be told"
		}
		return fmt.Sprintf("%.1f %%", 100**v)
	}
	h := func(v *float64) string {
		if v == nil {
			return "cannot be told"
		}
		return fmt.Sprintf("%.1f GPU-h", *v)
	}
	p.line("")
	p.line("For the engineer")
	p.line("  MFU %s, HFU %s, goodput %s of %.1f GPU-h", pc(e.MFU), pc(e.HFU), pc(e.Goodput), e.GPUHours)
	restarts := "restarts: cannot be told"
	if e.Restarts != nil {
		restarts = plural(*e.Restarts, "restart")
	}
	p.line("  lost to %s: %s; standing still together: %s; held and idle: %s", restarts, h(e.RestartGPUHours), h(e.StallGPUHours), h(e.IdleGPUHours))
	if e.EnergyKWh != nil {
		p.line("  energy of its GPUs: %.1f kWh", *e.EnergyKWh)
	}
	for _, s := range e.Stragglers {
		p.folded("  ", fmt.Sprintf("straggler %s: %.0f %% behind the others; %s", s.Node, 100*s.Behind, s.Reason))
	}
}

// says writes what people say of it.
func (p *printer) says(labels []store.LabelRow) {
	var lines []string
	for i := range labels {
		lines = append(lines, labelText(&labels[i]))
	}
	p.list("What people say of it (no verdict changes by that)", lines)
}

// labelText is a label as a sentence.
func labelText(l *store.LabelRow) string {
	what := ""
	switch l.Kind {
	case store.LabelClass:
		what = fmt.Sprintf("%s is %s", l.RunID, l.Value)
	case store.LabelSameRun:
		what = fmt.Sprintf("%s is one run with %s", l.RunID, l.Value)
	case store.LabelOtherRun:
		what = fmt.Sprintf("%s is not one run with %s", l.RunID, l.Value)
	case store.LabelFLOPsExecuted:
		what = fmt.Sprintf("%s executed %.4g FLOP", l.RunID, l.Number)
	case store.LabelFLOPsModel:
		what = fmt.Sprintf("%s needed %.4g model FLOP", l.RunID, l.Number)
	case store.LabelFinding:
		what = fmt.Sprintf("%s is %s", l.FindingID, l.Value)
	}
	article := "a"
	if strings.HasPrefix(l.Role, "a") || strings.HasPrefix(l.Role, "e") || strings.HasPrefix(l.Role, "o") {
		article = "an"
	}
	text := fmt.Sprintf("%s %s (%s) says: %s, because %s (%s UTC, %s)", article, l.Role, l.Who, what, strings.TrimSuffix(l.Because, "."), stamp(l.At.UnixMilli()), l.LabelID)
	if l.Said != "" {
		text += "; the detector said: " + l.Said
	}
	return text
}
