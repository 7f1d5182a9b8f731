package forecast

import (
	"math"
	"reflect"
	"testing"

	"github.com/flopwatch/flopwatch/detector/flops"
)

const t0 = int64(1_700_000_000_000)

// ramp is n minutes at the given FLOP a minute.
func ramp(n int, perMinute float64) []flops.Point {
	out := make([]flops.Point, n)
	for i := range out {
		out[i] = flops.Point{EndMs: t0 + int64(i+1)*60_000, ModelFLOP: float64(i+1) * perMinute}
	}
	return out
}

func input(minutes int, limit float64) Input {
	s := ramp(minutes, 1e18)
	best := s[len(s)-1].ModelFLOP
	return Input{
		Series: s, StartMs: t0, NowMs: s[len(s)-1].EndMs, Model: flops.Interval{Low: best / 1.2, Best: best, High: best * 1.3},
		LimitFLOP: limit, EndMs: t0 + 30*dayMs, Open: true,
	}
}

func TestCrossFuture(t *testing.T) {
	t.Parallel()
	in := input(300, 600e18) // half-way after five hours
	c := Cross(in)
	if c == nil || c.P10 == nil || c.P90 == nil || *c.P10 >= *c.P50 || *c.P50 >= *c.P90 {
		t.Fatalf("%+v", c)
	}
	want := float64(t0 + 600*60_000)
	if off := math.Abs(float64(*c.P50)-want) / (300 * 60_000); off > 0.05 {
		t.Errorf("middle is off by %.3f of the remaining time", off)
	}
	if *c.P10 <= in.NowMs-60*60_000 {
		t.Errorf("10 %% point %d s before now", (in.NowMs-*c.P10)/1000)
	}
	if !reflect.DeepEqual(Cross(in), c) {
		t.Error("the same input gave another crossing")
	}
}

func TestCrossPast(t *testing.T) {
	t.Parallel()
	in := input(300, 100e18)
	in.EndMs, in.Open = 0, false
	c := Cross(in)
	if c == nil || c.P90 == nil || *c.P50 != t0+100*60_000 {
		t.Fatalf("%+v, want the middle at minute 100", c)
	}
	// a factor of 1.3^(1.28/1.64) more makes it that much earlier
	if early := float64(*c.P10-t0) / 60_000; math.Abs(early-100/math.Pow(1.3, 1.2816/z90)) > 2 {
		t.Errorf("10 %% point at minute %.1f", early)
	}
	if late := float64(*c.P90-t0) / 60_000; math.Abs(late-100*math.Pow(1.2, 1.2816/z90)) > 2 {
		t.Errorf("90 %% point at minute %.1f", late)
	}
}

func TestCrossBounds(t *testing.T) {
	t.Parallel()
	in := input(300, 600e18)
	in.EndMs = t0 + 400*60_000 // the contract ends first
	if c := Cross(in); c != nil {
		t.Errorf("beyond the contract: %+v", c)
	}
	in.EndMs = t0 + 620*60_000 // only the late point lies beyond
	if c := Cross(in); c == nil || c.P50 == nil || c.P90 != nil {
		t.Errorf("late point beyond the contract: %+v", c)
	}
	in = input(300, 600e18)
	in.Open = false
	if c := Cross(in); c != nil {
		t.Errorf("a run that ended: %+v", c)
	}
	in = input(300, 600e18)
	in.EndMs = 0
	if c := Cross(in); c != nil {
		t.Errorf("no contract: %+v", c)
	}
	if Cross(Input{LimitFLOP: 1}) != nil || Cross(input(300, 0)) != nil {
		t.Error("nothing to cross")
	}
}

// Stalls count: a run that stood still for an hour is expected later than one that did not.
func TestCrossStall(t *testing.T) {
	t.Parallel()
	in := input(300, 600e18)
	stalled := in
	stalled.NowMs += hourMs
	steady, late := Cross(in), Cross(stalled)
	if steady == nil || late == nil || *late.P50-*steady.P50 < hourMs {
		t.Errorf("steady %+v, stalled %+v", steady, late)
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	s := ramp(300, 6e4) // 1 FLOP a millisecond
	tests := []struct {
		name        string
		now, window int64
		want        float64
	}{
		{"steady hour", t0 + 300*60_000, hourMs, 1}, {"younger than the window", t0 + 30*60_000, hourMs, 1},
		{"half a stall", t0 + 330*60_000, hourMs, 0.5}, {"all a stall", t0 + 500*60_000, hourMs, 0},
		{"between points", t0 + 30_000, hourMs, 1}, {"before the start", t0 - 5, hourMs, 0},
	}
	for _, tt := range tests {
		if got := Rate(s, t0, tt.now, tt.window); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	if Rate(nil, t0, t0+5, 5) != 0 {
		t.Error("no series")
	}
}

func BenchmarkCross(b *testing.B) {
	in := input(300, 600e18)
	for b.Loop() {
		Cross(in)
	}
}
