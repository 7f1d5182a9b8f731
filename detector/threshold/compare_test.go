package threshold

import (
	"math"
	"testing"

	"github.com/flopwatch/flopwatch/detector/flops"
)

func TestProbabilityExceeds(t *testing.T) {
	t.Parallel()
	iv := func(low, best, high float64) flops.Interval { return flops.Interval{Low: low, Best: best, High: high} }
	tests := []struct {
		name  string
		est   flops.Interval
		limit float64
		want  float64
	}{
		{"at best", iv(1e20, 2e20, 5e20), 2e20, 0.5}, {"at low", iv(1e20, 2e20, 5e20), 1e20, 0.95}, {"at high", iv(1e20, 2e20, 5e20), 5e20, 0.05},
		{"far below", iv(1e20, 2e20, 5e20), 1e18, 1}, {"far above", iv(1e20, 2e20, 5e20), 1e24, 0}, {"nothing", iv(0, 0, 0), 1e20, 0},
		{"exact, more", iv(2e20, 2e20, 2e20), 1e20, 1}, {"exact, less", iv(2e20, 2e20, 2e20), 3e20, 0}, {"exact, equal is not greater", iv(2e20, 2e20, 2e20), 2e20, 0},
		{"low end nothing", iv(0, 2e20, 5e20), 1e20, 0.75}, {"best nothing", iv(0, 0, 1e20), 1e20, 0.05}, {"no limit", iv(0, 1, 2), 0, 1},
	}
	for _, tt := range tests {
		if got := ProbabilityExceeds(tt.est, tt.limit); math.Abs(got-tt.want) > 1e-6 {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	last := 1.0
	for l := 1e18; l < 1e22; l *= 1.1 { // falls as the limit grows
		p := ProbabilityExceeds(iv(1e20, 2e20, 5e20), l)
		if p > last || p < 0 || p > 1 {
			t.Fatalf("at %g: %v after %v", l, p, last)
		}
		last = p
	}
}

func TestExceeded(t *testing.T) {
	t.Parallel()
	for _, est := range []flops.Interval{{Low: 1e20, Best: 2e20, High: 5e20}, {Best: 2e20, High: 3e20}} {
		for p := 0.02; p < 1; p += 0.05 {
			if got := ProbabilityExceeds(est, Exceeded(est, p)); math.Abs(got-p) > 1e-9 {
				t.Errorf("%+v: exceeded with %v, said %v", est, got, p)
			}
		}
	}
	exact := flops.Interval{Low: 3, Best: 3, High: 3}
	for p, want := range map[float64]float64{0: math.Inf(1), 0.3: 3, 0.5: 3, 0.9: 3, 1: 0} {
		if got := Exceeded(exact, p); got != want {
			t.Errorf("exact, %v: %v", p, got)
		}
	}
	if got := Exceeded(flops.Interval{}, 0.5); got != 0 {
		t.Errorf("nothing: %v", got)
	}
}
