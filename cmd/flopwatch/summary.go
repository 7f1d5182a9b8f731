package main

import (
	"fmt"
	"io"
	"math"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/bundle"
)

const notLegalAdvice = "flopwatch is an engineering tool, not legal advice. \"Would be due\" is a hypothesis: it says what a date would be if the rule were in force and bound you."

// printSummary writes what a person wants to know first: which runs, how large, against
// which limits, and which findings.
func printSummary(w io.Writer, m bundle.Manifest, hasParties bool, runs []detector.RunLine, findings []report.Finding, profiles []threshold.Profile, out string) error {
	p := &printer{w: w}
	p.line("Recording  %s, %s to %s UTC", m.Cluster, stamp(m.StartMs), stamp(m.EndMs))
	p.line("           %s", m.Description)
	p.line("           source: %s", m.Source)
	if !hasParties {
		p.line("           It has no parties: who stands behind an account is unknown, and counts as in scope.")
	}
	p.runs(runs)
	p.thresholds(runs)
	p.findings(findings, profiles)
	p.line("")
	p.line("Written    %s/runs.jsonl, %s/findings.jsonl, one folder a finding below %s/reports", out, out, out)
	p.line("%s", notLegalAdvice)
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

func (p *printer) runs(runs []detector.RunLine) {
	p.line("")
	p.line("Runs and other activities (FLOPs as low / best / high of a 90 %% interval)")
	runs = append([]detector.RunLine(nil), runs...)
	sort.SliceStable(runs, func(i, j int) bool { return runs[i].FLOPsModel.Best > runs[j].FLOPsModel.Best })
	var rows []string
	for _, r := range runs {
		rows = append(rows, fmt.Sprintf("%s\t%s %.2f\t%d\t%.1f\t%s\t%s\t%s\t%.0f %%\t%s", r.Run, r.Class, r.ClassProbability, gpus(r), gpuHours(r),
			interval(r.FLOPsExecuted.Low, r.FLOPsExecuted.Best, r.FLOPsExecuted.High), interval(r.FLOPsModel.Low, r.FLOPsModel.Best, r.FLOPsModel.High),
			basis(r), 100*r.CoverageFrac, strings.Join(r.Accounts, " ")))
	}
	p.table("run\tclass\tGPUs\tGPU-h\texecuted\tmodel\tbasis\tcoverage\taccounts", rows)
}

func basis(r detector.RunLine) string {
	if len(r.Basis) == 0 {
		return "-"
	}
	return strings.Join(r.Basis, "+")
}

func (p *printer) thresholds(runs []detector.RunLine) {
	var rows []string
	for _, r := range runs {
		for _, t := range r.Thresholds {
			if t.Probability < 0.01 && t.Crossing == nil {
				continue
			}
			crossing := "not within the contract"
			if t.Crossing != nil {
				crossing = fmt.Sprintf("%s (10 %%: %s, 90 %%: %s)", moment(t.Crossing.P50), moment(t.Crossing.P10), moment(t.Crossing.P90))
			}
			rows = append(rows, fmt.Sprintf("%s\t%s\t%.3g\t%.2f\t%s", r.Run, t.Profile, t.LimitFLOP, t.Probability, crossing))
		}
	}
	p.line("")
	if rows == nil {
		p.line("Thresholds: no run comes near any limit.")
		return
	}
	p.line("Thresholds (probability that the limit is exceeded already; limits that no run comes near are left out)")
	p.table("run\tprofile\tlimit FLOP\tprobability\tcrossing", rows)
}

func (p *printer) findings(findings []report.Finding, profiles []threshold.Profile) {
	status := map[string]string{}
	for _, t := range profiles {
		status[t.Name] = t.Status
	}
	var rows []string
	for _, f := range findings {
		profile, legal := "-", "-"
		if f.Profile != nil {
			profile, legal = *f.Profile, status[*f.Profile]
		}
		due := "no date"
		switch {
		case f.DueAtMs != nil:
			due = "due " + stamp(*f.DueAtMs)
		case f.WouldBeDueAtMs != nil:
			due = "would be due " + stamp(*f.WouldBeDueAtMs)
		}
		subject := strings.Join(append(append(append([]string{}, f.Runs...), f.Orders...), f.Accounts...), " ")
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s; %s", stamp(f.KnownAtMs), f.Limb, profile, subject, dash(strings.Join(f.Parties, " ")), f.State, legal, due))
	}
	p.line("")
	if rows == nil {
		p.line("Findings: none.")
		return
	}
	p.line("Findings (%d)", len(rows))
	p.table("evidence sufficed from\tlimb\tprofile\tabout\tparties\tstate\tlegal status", rows)
}

func dash(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04") }

// moment writes an instant, or that it lies beyond the contract.
func moment(ms *int64) string {
	if ms == nil {
		return "never within the contract"
	}
	return stamp(*ms)
}

func interval(low, best, high float64) string {
	if math.IsNaN(best) || high == 0 {
		return "0"
	}
	return fmt.Sprintf("%.2g / %.2g / %.2g", low, best, high)
}

func gpus(r detector.RunLine) int {
	type gpu struct {
		node string
		gpu  int
	}
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
