package score

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// drawnClaims are right as often as they say, or less: truth(p) says how often.
func drawnClaims(seed uint64, groups, each int, truth func(p float64) float64) []Claim {
	chance := rand.New(rand.NewPCG(seed, 1))
	var out []Claim
	for g := range groups {
		for i := range each {
			p := chance.Float64()
			out = append(out, Claim{Group: fmt.Sprint(g), Run: fmt.Sprint(i), Said: p, Right: chance.Float64() < truth(p), Hours: 1 + chance.Float64()})
		}
	}
	return out
}

func TestBinsHoldWhatIsCalibrated(t *testing.T) {
	honest := bins(drawnClaims(1, 10, 200, func(p float64) float64 { return p }))
	holds := 0
	for _, b := range honest.Bins {
		if b.Holds {
			holds++
		}
		if b.Low > b.Right || b.High < b.Right || b.Witnesses == 0 {
			t.Errorf("%+v", b)
		}
	}
	if holds < len(honest.Bins)-2 || honest.ECE > 0.05 || honest.Runs != 2000 {
		t.Errorf("%d of %d bins hold, distance %.3f, %d runs", holds, len(honest.Bins), honest.ECE, honest.Runs)
	}
	boast := bins(drawnClaims(1, 10, 200, func(float64) float64 { return 0.5 }))
	if boast.ECE < 0.15 {
		t.Errorf("claims that are worth nothing lie %.3f from the truth", boast.ECE)
	}
	if c := bins(nil); c.Brier != -1 || c.ECE != -1 {
		t.Errorf("nothing: %+v", c)
	}
	// One run of a thousand hours is one witness.
	one := bins([]Claim{{Run: "a", Said: 0.97, Right: true, Hours: 1000}})
	if b := one.Bins[0]; b.Low > 0.3 || b.Witnesses != 1 {
		t.Errorf("one run shows a share of %.2f at least", b.Low)
	}
}

func TestRefit(t *testing.T) {
	too := refit(drawnClaims(2, 8, 100, func(p float64) float64 { return sigmoid(0.4 * logOdds(p)) }))
	if math.Abs(too.Slope-0.4) > 0.12 || math.Abs(too.Intercept) > 0.2 || too.LeftOut >= too.Brier {
		t.Errorf("too sure by 2.5: %+v", too)
	}
	if few := refit(drawnClaims(3, 1, 3, func(p float64) float64 { return p })); few.Slope != 0 || few.LeftOut != -1 {
		t.Errorf("three runs: %+v", few)
	}
}

func TestPoisson(t *testing.T) {
	for n, want := range map[int][2]float64{0: {0, 2.9957}, 1: {0.0513, 4.7439}, 3: {0.8177, 7.7537}, 10: {5.4254, 16.9622}} {
		low, high := poisson(n)
		if math.Abs(low-want[0]) > 1e-3 || math.Abs(high-want[1]) > 1e-3 {
			t.Errorf("%d seen: %.4f to %.4f, wanted %.4f to %.4f", n, low, high, want[0], want[1])
		}
	}
}

func TestWilson(t *testing.T) {
	for _, c := range []struct{ p, n, low, high float64 }{{0.9, 10, 0.65, 0.98}, {1, 20, 0.88, 1}, {0, 5, 0, 0.35}} {
		low, high := wilson(c.p, c.n)
		if math.Abs(low-c.low) > 0.011 || math.Abs(high-c.high) > 0.011 {
			t.Errorf("%g of %g: %.3f to %.3f, wanted %.2f to %.2f", c.p, c.n, low, high, c.low, c.high)
		}
	}
}

// TestIntervalScale: widths that are half of what they should be are said to be so, by what other
// recordings show.
func TestIntervalScale(t *testing.T) {
	chance := rand.New(rand.NewPCG(4, 4))
	o := make([]Observations, 10)
	for g := range o {
		o[g] = Observations{Group: fmt.Sprint(g), GPUHours: gpuMonthHours}
		if g < 2 { // the others wrote no inquiries
			o[g].Asked, o[g].AskedHours = 3, gpuMonthHours
		}
		for i := range 60 {
			truth := 1e20 * math.Exp(chance.NormFloat64()*0.2)
			o[g].Totals(fmt.Sprint(i), truth, 1e20*math.Exp(-0.1*z90), 1e20, 1e20*math.Exp(0.1*z90))
		}
	}
	c := Calibrate(o)
	x := c.Intervals[0]
	if x.Basis != "all" || math.Abs(x.Scale-2) > 0.25 || math.Abs(x.ScaledOut-0.9) > 0.03 || x.Coverage > 0.7 || x.Low > x.Coverage || x.High < x.Coverage {
		t.Errorf("%+v", x)
	}
	if f := c.Findings; f.Wrong != 0 || math.Abs(f.High-10_000*ruleOfThree/10) > 1e-6 || f.Low != 0 {
		t.Errorf("no finding in ten GPU-months: %+v", f)
	}
	if f := c.Findings; f.Inquiries != 6 || math.Abs(f.AskedPer10k-30_000) > 1e-6 {
		t.Errorf("six inquiries in two GPU-months: %+v", f)
	}
	var out bytes.Buffer
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"rule of three", "Calibration over 10 recordings", "nothing to judge", "inquiries per 10,000 GPU-months"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, out.String())
		}
	}
	if _, err := json.Marshal(c); err != nil {
		t.Error(err)
	}
}

// Totals adds one total that is known.
func (o *Observations) Totals(run string, truth, low, best, high float64) {
	o.Estimates = append(o.Estimates, Total{Group: o.Group, Run: run, Quantity: "model", Basis: "mma_cycles", Kind: "training", Truth: truth, Low: low, Best: best, High: high})
}

// TestTinyObserved holds what is observed of the tiny recording to what was counted by hand.
func TestTinyObserved(t *testing.T) {
	r, err := Score("testdata/tiny", "testdata/tiny/answers")
	if err != nil {
		t.Fatal(err)
	}
	o := r.Observed
	if o.WrongFound != 3 || o.RightFound != 5 || o.WrongLimbs["capacity"] != 2 || o.GPUHours <= 0 {
		t.Errorf("%+v", o)
	}
	hours := 0.0
	for _, c := range o.Class {
		hours += c.Hours
	}
	if hours == 0 || math.Abs(r.Reliability.Class.Hours-hours) > 1e-9 {
		t.Errorf("%g hours of claims, %g in bins", hours, r.Reliability.Class.Hours)
	}
	if a := r.Attribution[0]; a.Group != "training" || a.Judged+a.Unmatched == 0 {
		t.Errorf("%+v", r.Attribution)
	}
	if x := r.Crossing; x.Judged != 1 || x.Answered != 1 || math.Abs(x.OffFrac-0.05) > 1e-9 || x.Within10 != 1 || x.Coverage != 1 {
		t.Errorf("%+v", x)
	}
	if c := Calibrate([]Observations{o}); len(c.Notes) == 0 || c.Findings.Wrong != 3 || c.Intervals[0].ScaledOut != -1 {
		t.Errorf("%+v", c)
	}
}
