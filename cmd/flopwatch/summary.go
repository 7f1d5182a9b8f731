package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/detector/workload"
	"github.com/flopwatch/flopwatch/internal/bundle"
)

const (
	notLegalAdvice = "flopwatch is an engineering tool, not legal advice. \"Would be due\" is a hypothesis: it says what a date would be if the rule were in force and bound you."

	textWidth  = 120  // of running text; tables may be wider
	nearEnough = 0.05 // below this probability a limit is left out
)

// printSummary writes what a person wants to know first: which runs, how large, against
// which limits, and which findings.
func printSummary(w io.Writer, m bundle.Manifest, hasParties bool, runs []detector.RunLine, findings []report.Finding, profiles []threshold.Profile, out string) error {
	p := &printer{w: w}
	p.line("Recording  %s, %s to %s UTC", m.Cluster, stamp(m.StartMs), stamp(m.EndMs))
	p.text(m.Description)
	p.text("source: " + m.Source)
	if !hasParties {
		p.text("It has no parties: who stands behind an account is unknown, and counts as in scope.")
	}
	p.runs(runs)
	p.thresholds(runs, profiles)
	p.findings(findings, profiles)
	p.line("")
	p.line("Written to %s: runs.jsonl, findings.jsonl, recording.json, reports/ with a folder a finding", out)
	for _, l := range wrap(notLegalAdvice, textWidth) {
		p.line("%s", l)
	}
	return p.err
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// text writes what stands beside a heading of the first block.
func (p *printer) text(text string) {
	const indent = "           "
	for _, l := range wrap(text, textWidth-len(indent)) {
		p.line("%s%s", indent, l)
	}
}

// table writes rows in aligned columns.
func (p *printer) table(head string, rows []string) {
	if p.err != nil {
		return
	}
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	for _, r := range append([]string{head}, rows...) {
		if _, err := fmt.Fprintln(t, "  "+r); err != nil {
			p.err = err
			return
		}
	}
	p.err = t.Flush()
}

// runs writes what was computed, the largest first. Rentals of which nothing was measured
// and GPUs that did nothing are many and alike: they are counted.
func (p *printer) runs(runs []detector.RunLine) {
	p.line("")
	p.line("Runs and other activities (FLOPs as low / best / high of a 90 %% interval)")
	runs = append([]detector.RunLine(nil), runs...)
	sort.SliceStable(runs, func(i, j int) bool {
		if a, b := runs[i].FLOPsModel.Best, runs[j].FLOPsModel.Best; a != b {
			return a > b
		}
		return runs[i].FLOPsExecuted.Best > runs[j].FLOPsExecuted.Best
	})
	var rows []string
	var dark, idle []detector.RunLine
	for _, r := range runs {
		switch {
		case r.Class == "unknown" && slices.Equal(r.Basis, []string{"allocation"}):
			dark = append(dark, r)
			continue
		case r.Class == "idle":
			idle = append(idle, r)
			continue
		}
		rows = append(rows, fmt.Sprintf("%s\t%s %.2f\t%d\t%.1f\t%s\t%s\t%s\t%.0f %%\t%s", r.Run, r.Class, r.ClassProbability, gpus(r), gpuHours(r),
			interval(r.FLOPsExecuted.Low, r.FLOPsExecuted.Best, r.FLOPsExecuted.High), interval(r.FLOPsModel.Low, r.FLOPsModel.Best, r.FLOPsModel.High),
			first(r.Basis, 1, "-"), 100*r.CoverageFrac, first(r.Accounts, 2, "-")))
	}
	if rows != nil {
		p.table("run\tclass\tGPUs\tGPU-h\texecuted\tmodel\tbasis\tcoverage\taccounts", rows)
	}
	p.dark(dark)
	if len(idle) > 0 {
		p.line("  %s of rented GPUs: %s.", plural(len(idle), "idle stretch", "idle stretches"), amount(idle))
	}
	if len(runs) == 0 {
		p.line("  none")
	}
}

// dark writes what is known of rentals without telemetry.
func (p *printer) dark(rentals []detector.RunLine) {
	if len(rentals) == 0 {
		return
	}
	high := 0.0
	for _, r := range rentals {
		high = max(high, r.FLOPsExecuted.High)
	}
	p.line("  %s without telemetry: %s. What ran is unknown; one may have executed up to %.2g FLOP.", plural(len(rentals), "rental"), amount(rentals), high)
}

// thresholds writes which limits a run has exceeded or may, the most probable first.
func (p *printer) thresholds(runs []detector.RunLine, profiles []threshold.Profile) {
	p.line("")
	p.line("Thresholds (probability that the limit is exceeded already; below %g it is left out)", nearEnough)
	for _, l := range wrap(against(profiles), textWidth) {
		p.line("  %s", l)
	}
	type row struct {
		probability float64
		text        string
	}
	var rows []row
	for _, r := range runs {
		for _, t := range r.Thresholds {
			if t.Probability < nearEnough && t.Crossing == nil {
				continue
			}
			crossing := "not within the rental"
			if t.Crossing != nil {
				crossing = fmt.Sprintf("%s (10 %%: %s, 90 %%: %s)", moment(t.Crossing.P50), moment(t.Crossing.P10), moment(t.Crossing.P90))
			}
			rows = append(rows, row{t.Probability, fmt.Sprintf("%s\t%s\t%.3g\t%.2f\t%s", r.Run, t.Profile, t.LimitFLOP, t.Probability, crossing)})
		}
	}
	if rows == nil {
		if dark := darkHours(runs); dark > 0 {
			p.line("  No run that was seen comes near any limit. What rented GPUs without telemetry did in %.1f GPU-h cannot be told.", dark)
			return
		}
		p.line("  No run comes near any limit.")
		return
	}
	sort.SliceStable(rows, func(i, j int) bool { return rows[i].probability > rows[j].probability })
	lines := make([]string, len(rows))
	for i, r := range rows {
		lines[i] = r.text
	}
	p.table("run\tprofile\tlimit FLOP\tprobability\tcrossing", lines)
}

// against says which limits were applied.
func against(profiles []threshold.Profile) string {
	var own, watched []string
	builtin := false
	for _, t := range profiles {
		if t.Watch {
			watched = append(watched, t.Name)
		}
		if t.Status != threshold.Custom {
			builtin = true
			continue
		}
		if t.LimitFLOPs > 0 {
			own = append(own, fmt.Sprintf("%s %.3g", t.Name, t.LimitFLOPs))
		}
		if c := t.Cluster; c != nil {
			own = append(own, fmt.Sprintf("%s %.3g operations/s at %g Gbit/s", t.Name, c.OpsPerS, c.Gbps))
		}
	}
	if builtin {
		return fmt.Sprintf("Applied: %s, of %d built-in rules (dated data in detector/threshold/data).", strings.Join(watched, ", "), len(profiles))
	}
	return "Applied: the recording's own limits in place of the built-in rules: " + strings.Join(own, ", ") + "."
}

// darkHours is the GPU-hours of rentals of which nothing was measured.
func darkHours(runs []detector.RunLine) float64 {
	hours := 0.0
	for _, r := range runs {
		if r.Class == workload.Unknown && slices.Equal(r.Basis, []string{flops.BasisAllocation}) {
			hours += gpuHours(r)
		}
	}
	return hours
}

func (p *printer) findings(findings []report.Finding, profiles []threshold.Profile) {
	rule := map[string]*threshold.Profile{}
	for i := range profiles {
		rule[profiles[i].Name] = &profiles[i]
	}
	var rows []string
	for _, f := range findings {
		name, status := "-", "no rule"
		if f.Profile != nil {
			name, status = *f.Profile, "-"
			if t := rule[name]; t != nil {
				status = strings.ReplaceAll(t.StatusAt(f.KnownAtMs), "_", " ")
				if t.ObligatedParty != threshold.AnyParty {
					status += ", binds the " + t.ObligatedParty
				}
			}
		}
		due := "no date"
		switch {
		case f.DueAtMs != nil:
			due = "due " + day(*f.DueAtMs)
		case f.WouldBeDueAtMs != nil:
			due = "would be due " + day(*f.WouldBeDueAtMs)
		}
		about := first(slices.Concat(f.Runs, f.Orders), 1, "")
		who := first(f.Accounts, 2, "-")
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", stamp(f.KnownAtMs), f.Limb, name, strings.TrimSpace(about+" "+who),
			first(f.Parties, 2, "unknown"), f.State, status, due))
	}
	p.line("")
	if rows == nil {
		p.line("Findings: none.")
		return
	}
	p.line("Findings (%d)", len(rows))
	p.table("evidence since\tlimb\tprofile\tabout\tparties\tstate\tlegal status\tdate", rows)
}

// first names at most n of names and counts the others.
func first(names []string, n int, none string) string {
	switch {
	case len(names) == 0:
		return none
	case len(names) <= n:
		return strings.Join(names, " ")
	}
	return fmt.Sprintf("%s +%d", strings.Join(names[:n], " "), len(names)-n)
}

// plural counts things; many is their plural where an s does not make it.
func plural(n int, one string, many ...string) string {
	if n == 1 {
		return "1 " + one
	}
	if many == nil {
		many = []string{one + "s"}
	}
	return fmt.Sprintf("%d %s", n, many[0])
}

// amount says how many GPUs for how long.
func amount(runs []detector.RunLine) string {
	seen, hours := map[gpu]bool{}, 0.0
	for _, r := range runs {
		hours += gpuHours(r)
		for _, m := range r.Members {
			seen[gpu{m.Node, m.GPU}] = true
		}
	}
	return fmt.Sprintf("%s, %.1f GPU-h", plural(len(seen), "GPU"), hours)
}

// wrap breaks text between words into lines of at most width bytes; a longer word stands alone.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04") }

func day(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02") }

// moment writes an instant, or that it lies beyond the rental.
func moment(ms *int64) string {
	if ms == nil {
		return "not within the rental"
	}
	return stamp(*ms)
}

func interval(low, best, high float64) string {
	if math.IsNaN(best) || high == 0 {
		return "0"
	}
	return fmt.Sprintf("%.2g / %.2g / %.2g", low, best, high)
}

// gpu is one GPU of the fleet.
type gpu struct {
	node string
	gpu  int
}

func gpus(r detector.RunLine) int {
	seen := map[gpu]bool{}
	for _, m := range r.Members {
		seen[gpu{m.Node, m.GPU}] = true
	}
	return len(seen)
}

func gpuHours(r detector.RunLine) float64 {
	ms := int64(0)
	for _, m := range r.Members {
		ms += m.EndMs - m.StartMs
	}
	return float64(ms) / 3.6e6
}
