package score

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// notes says in words what so much evidence can tell, and what not.
func (c *Calibration) notes(groups int) {
	add := func(format string, args ...any) { c.Notes = append(c.Notes, fmt.Sprintf(format, args...)) }
	if groups < 2 {
		add("One recording is one witness: what holds here need not hold elsewhere, and nothing could be fitted on others.")
	}
	if c.Class.Runs < 30 {
		add("%d runs name a class: a bin of a few runs tells little, its interval says how little.", c.Class.Runs)
	}
	for _, x := range c.Intervals {
		if x.Basis == "all" && x.Group == "all" && x.Judged < 50 {
			add("%d %s totals are known: a coverage of %.0f %% may be %.0f to %.0f %% (a 90 %% interval of it).", x.Judged, x.Quantity, 100*x.Coverage, 100*x.Low, 100*x.High)
		}
	}
	f := c.Findings
	switch {
	case f.Per10k < 0:
		add("No time was watched whole: how often findings are wrong cannot be told of labels alone.")
	case f.Wrong == 0:
		add("No wrong finding in %.1f GPU-months: that shows no more than that there are fewer than %s in 10,000 (95 %%, rule of three).", f.GPUMonths, rate(f.High))
	}
	if f.Per10k >= 0 && f.GPUMonths < 1000 {
		add("%.1f GPU-months were watched, and recordings hold more trouble than an ordinary fleet: the rate for 10,000 is extrapolated.", f.GPUMonths)
	}
}

// Print writes a calibration for a reader.
func (c *Calibration) Print(w io.Writer) error {
	t := &table{Writer: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.line("Calibration over %d recordings: %s", len(c.Groups), strings.Join(c.Groups[:min(len(c.Groups), 12)], ", "))
	if n := len(c.Groups) - 12; n > 0 {
		t.line(" and %d more", n)
	}
	if c.Labels > 0 {
		t.line("; %d labels of people", c.Labels)
	}
	t.line("\n")
	for _, x := range []struct {
		head  string
		curve *Curve
		refit *Refit
		unit  string
	}{
		{"Class: named with a probability, and right, by GPU-hours", &c.Class, &c.Refit, "GPU-h"},
		{"Training of any kind: said and true, by GPU-hours", &c.Training, &c.RefitT, "GPU-h"},
		{"A limit is exceeded: said and true, by runs and limits", &c.Limits, nil, "limits"},
	} {
		t.line("\n%s\n", x.head)
		x.curve.write(t, x.refit, x.unit)
	}
	t.line("\nIntervals of FLOPs (90 %%)\nquantity\tgroup\tbasis\truns\tinside\tcoverage\tof so few it may be\thalf-width\tMAPE\twithin 30 %%\tscale for 90 %%\tleft-one-out\n")
	for _, x := range c.Intervals {
		scale, out := "-", "-"
		if x.Scale >= 0 {
			scale, out = fmt.Sprintf("%.2f", x.Scale), share(x.ScaledOut)
		}
		t.line("%s\t%s\t%s\t%d\t%d\t%s\t%.0f to %.0f %%\t%s\t%s\t%s\t%s\t%s\n", x.Quantity, x.Group, x.Basis, x.Judged, x.Inside, share(x.Coverage), 100*x.Low, 100*x.High,
			share(x.Width), share(x.MAPE), share(x.Within30), scale, out)
	}
	if len(c.Intervals) == 0 {
		t.line("no total is known\n")
	}
	t.line("\nFindings\n")
	f := c.Findings
	if f.Per10k < 0 {
		t.line("no time was watched whole\n")
	} else {
		var limbs []string
		for _, l := range append(slices.Clone(limbsInOrder()), "") {
			if n := f.Limbs[l]; n > 0 {
				limbs = append(limbs, fmt.Sprintf("%s %d", l, n))
			}
		}
		by := ""
		if limbs != nil {
			by = " (" + strings.Join(limbs, ", ") + ")"
		}
		t.line("%d right, %d wrong%s in %.1f GPU-months\n", f.Right, f.Wrong, by, f.GPUMonths)
		t.line("expected false findings per 10,000 GPU-months, as the detector raises them now: %s (90 %%: %s to %s)\n", rate(f.Per10k), rate(f.Low), rate(f.High))
	}
	if f.AskedPer10k >= 0 {
		t.line("inquiries per 10,000 GPU-months (questions, no findings): %s, from %d\n", rate(f.AskedPer10k), f.Inquiries)
	}
	if len(c.Notes) > 0 {
		t.line("\nWhat this can tell\n")
		for _, n := range c.Notes {
			t.line("- %s\n", n)
		}
	}
	return t.close()
}

func limbsInOrder() []string { return limbs }

func (c *Curve) write(t *table, r *Refit, unit string) {
	if len(c.Bins) == 0 {
		t.line("nothing to judge\n")
		return
	}
	t.line("from\tto\tsaid\tright\tof so few it may be\t%s\truns\tholds\n", unit)
	for _, b := range c.Bins {
		t.line("%.2f\t%.2f\t%.3f\t%.3f\t%.2f to %.2f\t%.1f\t%d\t%s\n", b.From, b.To, b.Said, b.Right, b.Low, b.High, b.Hours, b.Witnesses, map[bool]string{true: "yes", false: "no"}[b.Holds])
	}
	t.line("Brier score %.4f, mean distance of said and right %.3f, over %d runs\n", c.Brier, c.ECE, c.Runs)
	if r == nil || r.Slope == 0 {
		return
	}
	word := "as sure as it should be"
	switch {
	case r.Slope < 0.8:
		word = "too sure"
	case r.Slope > 1.25:
		word = "not sure enough"
	}
	t.line("slope of the log odds %.2f (%s), intercept %+.2f", r.Slope, word, r.Intercept)
	if r.LeftOut >= 0 {
		t.line("; refitted on the other recordings the Brier score would be %.4f", r.LeftOut)
	}
	t.line("\n")
}

// rate prints how many are to be expected, to as many digits as it is worth.
func rate(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.2g", v)
	}
	return fmt.Sprintf("%.0f", v)
}
