package score

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Print writes one result for a reader.
func (r Result) Print(w io.Writer) error {
	t := &table{Writer: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.line("%s\n", r.Bundle)
	c := r.Classes
	t.line("macro-F1 %s   accuracy %s   training recall %s of %.1f GPU-h   false positives %s of %.1f GPU-h   pairwise F1 %s (precision %s, recall %s; %d runs labelled, %d answered)\n",
		share(c.MacroF1), share(c.Accuracy), share(c.Recall), c.TrainingHours, share(c.FalsePositive), c.NegativeHours,
		share(r.Assembly.F1), share(r.Assembly.Precision), share(r.Assembly.Recall), r.Assembly.Truth, r.Assembly.Answered)
	r.confusion(t)
	t.line("\nFLOPs\tgroup\tjudged\tmatched\tMAPE\tbias\twithin 30 %%\tof all\tcoverage of 90 %%\thalf-width\n")
	for _, f := range r.FLOPs {
		if f.Judged == 0 && f.ZeroJudged == 0 {
			continue
		}
		zero := ""
		if f.ZeroJudged > 0 {
			zero = fmt.Sprintf("zero: %d of %d", f.ZeroRight, f.ZeroJudged)
		}
		t.line("%s\t%s\t%d\t%d\t%s\t%+.2f\t%s\t%s\t%s\t%s\t%s\n", f.Basis, f.Group, f.Judged, f.Matched, share(f.MAPE), f.Bias,
			share(f.Within30), share(f.Within30All), share(f.Coverage), share(f.HalfWidth), zero)
	}
	if th := r.Thresholds; th.Judged > 0 {
		t.line("limits: %d judged, Brier score %.3f, %d on the wrong side of 0.5\n", th.Judged, th.Brier, th.Wrong)
	}
	t.line("\nfindings\tright\tmissed\twrong\tallowed\tprecision\trecall\tdelay median\tmax\tearly\tparties\taccounts\n")
	for _, f := range r.Findings {
		t.line("%s\t%d\t%d\t%d\t%d\t%s\t%s\t%.0f s\t%.0f s\t%d\t%d/%d\t%d/%d\n", f.Limb, f.Right, f.Missed, f.Wrong, f.Allowed, share(f.Precision), share(f.Recall),
			f.DelayMedianS, f.DelayMaxS, f.Early, f.PartiesRight, f.Right, f.AccountsRight, f.Right)
	}
	for _, x := range r.Crossings {
		said := "not answered"
		if x.Answered {
			said = fmt.Sprintf("off by %+.1f min (%s), 80 %% interval holds it: %t", x.OffMin, share(x.OffFrac), x.Covered)
		}
		t.line("crossing of %s by %s (in the recording: %t): %s\n", x.Profile, x.Run, x.InPeriod, said)
	}
	for _, a := range r.Attribution {
		if a.Judged > 0 {
			t.line("accounts of %s: %d judged, %s exact, precision %s, recall %s\n", map[string]string{"training": "trainings", "all": "all activities"}[a.Group], a.Judged, share(a.Exact), share(a.Precision), share(a.Recall))
		}
	}
	if c := r.Reliability.Class; c.Runs > 0 {
		t.line("class said and right: %s apart on the mean, Brier score %.3f, over %d runs\n", share(c.ECE), c.Brier, c.Runs)
	}
	for _, m := range r.Remarks {
		t.line("%s\n", m)
	}
	return t.close()
}

func (r Result) confusion(t *table) {
	columns := map[string]bool{}
	for _, row := range r.Classes.Confusion {
		for class := range row {
			columns[class] = true
		}
	}
	classes := slices.SortedFunc(maps.Keys(columns), byKind)
	t.line("\nGPU-hours\t%s\tF1\n", strings.Join(classes, "\t"))
	for _, kind := range slices.SortedFunc(maps.Keys(r.Classes.Confusion), byKind) {
		t.line("%s", kind)
		for _, class := range classes {
			if h, ok := r.Classes.Confusion[kind][class]; ok {
				t.line("\t%.2f", h)
			} else {
				t.line("\t.")
			}
		}
		f1, judged := r.Classes.F1[headline(kind)]
		if !judged {
			f1 = -1
		}
		t.line("\t%s\n", share(f1))
	}
}

// column is a figure of every recording. Figures below 0 are of nothing to judge; signed ones may be.
type column struct {
	name string
	of   func(r *Result) float64
	text func(v float64) string // nil: a share
}

func seconds(v float64) string { return fmt.Sprintf("%.0f s", v) }

func count(v float64) string { return fmt.Sprintf("%.0f", v) }

func (r *Result) allFindings() Findings { return r.Findings[len(r.Findings)-1] }

// columns of tables. The delay is in no mean, nor are findings that came early.
var columns = []column{
	{"macro-F1", func(r *Result) float64 { return r.Classes.MacroF1 }, nil},
	{"recall", func(r *Result) float64 { return r.Classes.Recall }, nil},
	{"false pos", func(r *Result) float64 { return r.Classes.FalsePositive }, nil},
	{"pair F1", func(r *Result) float64 { return r.Assembly.F1 }, nil},
	{"exec MAPE", func(r *Result) float64 { return r.flops("executed", "training").MAPE }, nil},
	{"exec coverage", func(r *Result) float64 { return r.flops("executed", "training").Coverage }, nil},
	{"exec half-width", func(r *Result) float64 { return r.flops("executed", "training").HalfWidth }, nil},
	{"model MAPE", func(r *Result) float64 { return r.flops("model", "training").MAPE }, nil},
	{"model in 30 %", func(r *Result) float64 { return r.flops("model", "training").Within30All }, nil},
	{"coverage", func(r *Result) float64 { return r.flops("model", "training").Coverage }, nil},
	{"half-width", func(r *Result) float64 { return r.flops("model", "training").HalfWidth }, nil},
	{"find P", func(r *Result) float64 { return r.allFindings().Precision }, nil},
	{"find R", func(r *Result) float64 { return r.allFindings().Recall }, nil},
	{"delay", func(r *Result) float64 { return r.allFindings().DelayMedianS }, seconds},
	{"early", func(r *Result) float64 { return float64(r.allFindings().Early) }, count},
	{"crossing off", func(r *Result) float64 { return r.Crossing.OffFrac }, nil},
	{"accounts", func(r *Result) float64 { return r.Attribution[0].F1 }, nil},
	{"class off", func(r *Result) float64 { return r.Reliability.Class.ECE }, nil},
}

// rows are one line a recording and, of several, their means last.
func rows(results []Result) [][]string {
	head := []string{"recording"}
	for _, c := range columns {
		head = append(head, c.name)
	}
	out := [][]string{head}
	values := make([][]float64, len(columns))
	for i := range results {
		r := &results[i]
		row := []string{r.Bundle}
		for k, c := range columns {
			v := c.of(r)
			if c.text != nil {
				row = append(row, c.text(v))
				continue
			}
			row = append(row, share(v))
			if v >= 0 {
				values[k] = append(values[k], v)
			}
		}
		out = append(out, row)
	}
	if len(results) < 2 {
		return out
	}
	means := []string{"mean"}
	for k, c := range columns {
		if c.text != nil {
			means = append(means, "")
		} else {
			means = append(means, share(mean(values[k])))
		}
	}
	return append(out, means)
}

// PrintTable writes one line a recording and, of several, their means last.
func PrintTable(w io.Writer, results []Result) error {
	t := &table{Writer: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	for _, r := range rows(results) {
		t.line("%s\n", strings.Join(r, "\t"))
	}
	return t.close()
}

// PrintMarkdown writes the same as a table in Markdown.
func PrintMarkdown(w io.Writer, results []Result) error {
	t := &table{Writer: tabwriter.NewWriter(w, 0, 0, 0, ' ', 0)}
	for i, r := range rows(results) {
		t.line("| %s |\n", strings.Join(r, " | "))
		if i == 0 {
			t.line("|---|%s\n", strings.Repeat("---:|", len(columns)))
		}
	}
	return t.close()
}

func (r Result) flops(basis, group string) FLOPs {
	i := slices.IndexFunc(r.FLOPs, func(f FLOPs) bool { return f.Basis == basis && f.Group == group })
	if i < 0 {
		return FLOPs{MAPE: -1, Within30: -1, Within30All: -1, Coverage: -1, HalfWidth: -1}
	}
	return r.FLOPs[i]
}

// table keeps the first error of writing.
type table struct {
	*tabwriter.Writer
	err error
}

func (t *table) line(format string, args ...any) {
	if _, err := fmt.Fprintf(t.Writer, format, args...); err != nil && t.err == nil {
		t.err = err
	}
}

func (t *table) close() error {
	if t.err != nil {
		return fmt.Errorf("write table: %w", t.err)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// share prints a share as per cent; "-" where there was nothing to judge.
func share(v float64) string {
	if v < 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100*v)
}
