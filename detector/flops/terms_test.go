package flops

import (
	"math"
	"reflect"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// Squares of the terms add up to that of the interval, and each names what would narrow it.
func TestTerms(t *testing.T) {
	t.Parallel()
	row := func(f func(v *[feature.NumSignals]float64)) *feature.Evidence {
		return fleet(h100, 8, 60, 10_000, func(g int, ts int64, s *feature.GPUSample) bool {
			f(&s.Value)
			return g > 0 || ts < t0+20*minuteMs
		})
	}
	tests := []struct {
		name, first string
		ev          *feature.Evidence
		model       string
	}{
		{"well fed", TermRecompute, row(func(v *[feature.NumSignals]float64) {
			v[feature.TensorFrac], v[feature.SMClockMHz], v[feature.SMActiveFrac] = 0.55, 1700, 0.8
		}), h100},
		{"ill fed", TermDtype, row(func(v *[feature.NumSignals]float64) {
			v[feature.TensorFrac], v[feature.SMClockMHz], v[feature.SMActiveFrac] = 0.2, 1700, 0.8
		}), h100},
		{"watts", TermCounter, row(func(v *[feature.NumSignals]float64) { v[feature.PowerW] = 640 }), h100},
		{"nothing", TermCounter, row(func(*[feature.NumSignals]float64) {}), h100},
	}
	for _, tt := range tests {
		e := Of(Input{Ev: tt.ev, Members: members(8, 60), Class: "training"})
		if len(e.Terms) < 2 || e.Terms[0].Name != tt.first {
			t.Fatalf("%s: %+v, want %s first", tt.name, e.Terms, tt.first)
		}
		sum := 0.0
		for i, x := range e.Terms {
			sum += x.LogSD * x.LogSD
			if i > 0 && x.LogSD > e.Terms[i-1].LogSD {
				t.Errorf("%s: terms are not in order: %+v", tt.name, e.Terms)
			}
			if x.HalfWidth < 0 || x.HalfWidth > 5 || math.IsNaN(x.HalfWidth) {
				t.Errorf("%s: %+v", tt.name, x)
			}
			if x.LogSD > 0.05 && x.Narrow == "" {
				t.Errorf("%s: %s says nothing that would narrow it", tt.name, x.Name)
			}
		}
		within(t, tt.name+": sum of squares", sum, e.LogSD*e.LogSD, 0.02)
	}
	e := Of(Input{Ev: tests[1].ev, Members: members(8, 60), Class: "training", Share: [3]float64{0.2, 0.4, 0.7}})
	all := Of(Input{Ev: tests[1].ev, Members: members(8, 60), Class: "training"})
	within(t, "a share of the work", e.Model.Best, 0.4*all.Model.Best, 1e-9)
	if e.Model.High/e.Model.Best <= all.Model.High/all.Model.Best || e.Model.Best/e.Model.Low <= all.Model.Best/all.Model.Low {
		t.Errorf("a share does not widen: %+v, all %+v", e.Model, all.Model)
	}
	within(t, "end of the series", e.Series[59].ModelFLOP, e.Model.Best, 1e-12)
	has := false
	for _, x := range e.Terms {
		has = has || x.Name == TermShare && x.Narrow != ""
	}
	if !has {
		t.Errorf("no term for the share: %+v", e.Terms)
	}
}

// Watts of work beside counters that were scaled down: the interval reaches up to the watts; a
// training that is as slow and draws little does not.
func TestScaledCounters(t *testing.T) {
	t.Parallel()
	at := func(tensor, sm, watts float64) Estimate {
		ev := fleet(h100, 8, 60, 10_000, func(_ int, _ int64, s *feature.GPUSample) bool {
			v := &s.Value
			v[feature.TensorFrac], v[feature.SMActiveFrac], v[feature.SMClockMHz], v[feature.PowerW], v[feature.UtilFrac] = tensor, sm, 1800, watts, 1
			return true
		})
		return Of(Input{Ev: ev, Members: members(8, 60), Class: "training"})
	}
	true42 := at(0.42, 0.8, 630)
	if s := at(0.3*0.42, 0.3*0.8, 630); s.Executed.High < true42.Executed.Best || s.Executed.Best < 0.5*true42.Executed.Best {
		t.Errorf("scaled %+v, true %+v", s.Executed, true42.Executed)
	}
	for _, c := range [][3]float64{{0.11, 0.45, 418}, {0.16, 0.52, 482}, {0.15, 0.53, 508}, {0.19, 0.64, 547}, {0.58, 0.88, 689}, {0.06, 0.09, 186}} { // published conditions
		e, alone := at(c[0], c[1], c[2]), at(c[0], c[1], 100)
		if math.Abs(e.Executed.Best/alone.Executed.Best-1) > 0.05 || e.Executed.High/e.Executed.Best > 2.2 {
			t.Errorf("an honest training at %v: %+v, without its watts %+v", c, e.Executed, alone.Executed)
		}
	}
}

// Hours measured one by one and merged, in whatever order, are the whole.
func TestHours(t *testing.T) {
	t.Parallel()
	ev := fleet(h100, 4, 200, 20_000, func(g int, ts int64, s *feature.GPUSample) bool {
		if g < 2 {
			s.MMACycles, s.EnergyJ = cyclesAt(ts)*(1+float64(g)/7), float64(ts-t0)/1000*617.3+1e9
		}
		v := &s.Value
		v[feature.TensorFrac], v[feature.SMClockMHz], v[feature.PowerW], v[feature.SMActiveFrac] = 0.37+0.01*float64(g), 1511, 633.7, 0.81
		return ts%(7*minuteMs) > 2*minuteMs
	})
	in := Input{Ev: ev, Members: members(4, 200)}
	whole := Measure(in)
	first := feature.HourOf(t0)
	merged := &Work{}
	for _, k := range []int64{2, 0, 3, 1} {
		merged.Merge(Hour(in, first+k*feature.HourMs))
	}
	if merged.StartMs != whole.StartMs || merged.EndMs != whole.EndMs || !reflect.DeepEqual(merged.Minutes, whole.Minutes) {
		t.Errorf("%d minutes from %d to %d, the whole %d from %d to %d", len(merged.Minutes), merged.StartMs, merged.EndMs, len(whole.Minutes), whole.StartMs, whole.EndMs)
		for i := range whole.Minutes {
			if merged.Minutes[i] != whole.Minutes[i] {
				t.Fatalf("minute %d: %+v, whole %+v", i, merged.Minutes[i], whole.Minutes[i])
			}
		}
	}
	if !reflect.DeepEqual(merged.Estimate("training"), whole.Estimate("training")) {
		t.Error("the estimate of merged hours is another")
	}
}
