package gpu

import (
	"testing"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/source"
)

// cycling makes readings of a GPU at a clock, a second apart, whose counters go on by factor
// times the clock, a third of that on the tensor pipes.
type cycling struct {
	clockMHz int64
	factor   float64
	n, e     int64
}

func (c *cycling) next() *timed {
	c.n++
	c.e += int64(float64(c.clockMHz) * 1e6 * c.factor)
	p := &timed{tick: source.Tick{Seq: uint64(c.n), BootMs: c.n * 1000}}
	p.Set(frame.SMClockMHz, c.clockMHz)
	p.Set(frame.SMCyclesElapsed, c.e)
	p.Set(frame.MMACycles, c.e/3)
	return p
}

func TestCycleUnit(t *testing.T) {
	const sms = 132
	for name, tc := range map[string]struct {
		factor float64
		fact   string
		told   int64 // cycles of a second at 1,000 MHz
	}{
		"mean": {1, "mean over the SMs", 1_000_000_000}, "mean, clock a little off": {0.8, "mean over the SMs", 800_000_000},
		"sum":       {sms, "sum over the SMs", 1_000_000_000},
		"per TPC":   {sms / 2, "unknown: 66.00 times the SM clock", 0},
		"two per s": {2, "unknown: 2.00 times the SM clock", 0},
	} {
		var u cycleUnit
		c := cycling{clockMHz: 1000, factor: tc.factor}
		var last, before *timed
		for i := range 2 + cycleFar {
			before, last = last, c.next()
			u.apply(last, sms)
			if i < cycleAgree && last.Has(frame.MMACycles) {
				t.Errorf("%s: told by guess at reading %d", name, i)
			}
		}
		if got := u.fact(); got != tc.fact || !u.news {
			t.Errorf("%s: %q", name, got)
		}
		if last.Has(frame.MMACycles) != (tc.told > 0) || last.Has(frame.SMCyclesElapsed) != (tc.told > 0) {
			t.Errorf("%s: told %v", name, last.Has(frame.MMACycles))
		}
		if tc.told > 0 && last.Values[frame.SMCyclesElapsed]-before.Values[frame.SMCyclesElapsed] != tc.told {
			t.Errorf("%s: %d cycles of a second", name, last.Values[frame.SMCyclesElapsed]-before.Values[frame.SMCyclesElapsed])
		}
	}
}

// TestCycleUnitLearnsNothing where nothing can be learnt: idle SMs, clocks that move, gaps,
// counters that go back, and nothing to hold the tensor pipes against.
func TestCycleUnitLearnsNothing(t *testing.T) {
	var idle, moving, gaps, back, alone cycleUnit
	slow := cycling{clockMHz: 1000, factor: 0.01}
	for i := range int64(50) {
		idle.apply(slow.next(), 132)
		p := (&cycling{clockMHz: 500 + 700*(i%2), factor: 1, n: i, e: i * 1_000_000_000}).next()
		moving.apply(p, 132)
		q := (&cycling{clockMHz: 1000, factor: 1, n: i * 10, e: i * 10_000_000_000}).next()
		gaps.apply(q, 132)
		r := (&cycling{clockMHz: 1000, factor: 1, n: i, e: (50 - i) * 1_000_000_000}).next()
		back.apply(r, 132)
		s := slow.next()
		s.clear(frame.SMCyclesElapsed)
		if alone.apply(s, 132); s.Has(frame.MMACycles) {
			t.Error("cycles of the tensor pipes alone are told")
		}
	}
	for name, u := range map[string]*cycleUnit{"idle": &idle, "moving": &moving, "gaps": &gaps, "back": &back, "alone": &alone} {
		if u.divisor != 0 || u.news {
			t.Errorf("%s: %+v", name, u)
		}
	}
	// One SM: mean and sum are the same.
	var one cycleUnit
	c := cycling{clockMHz: 1000, factor: 1}
	for range 2 * cycleAgree {
		one.apply(c.next(), 1)
	}
	if one.divisor != unitMean {
		t.Errorf("one SM: %+v", one)
	}
}
