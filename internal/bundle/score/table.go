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

// PrintTable writes one line a recording and, of several, their means last.
func PrintTable(w io.Writer, results []Result) error {
	t := &table{Writer: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.line("recording\tmacro-F1\trecall\tfalse pos\tpair F1\texec MAPE\tmodel MAPE\tmodel in 30 %%\tcoverage\thalf-width\tfind P\tfind R\tdelay\tearly\n")
	var columns [12][]float64
	for _, r := range results {
		executed, model, all := r.flops("executed", "training"), r.flops("model", "training"), r.Findings[len(r.Findings)-1]
		row := [12]float64{r.Classes.MacroF1, r.Classes.Recall, r.Classes.FalsePositive, r.Assembly.F1, executed.MAPE, model.MAPE, model.Within30All, model.Coverage, model.HalfWidth, all.Precision, all.Recall, all.DelayMedianS}
		t.line("%s", r.Bundle)
		for i, v := range row[:11] {
			t.line("\t%s", share(v))
			if v >= 0 {
				columns[i] = append(columns[i], v)
			}
		}
		t.line("\t%.0f s\t%d\n", all.DelayMedianS, all.Early)
	}
	if len(results) == 1 {
		return t.close()
	}
	t.line("mean")
	for i := range 11 {
		t.line("\t%s", share(mean(columns[i])))
	}
	t.line("\n")
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
