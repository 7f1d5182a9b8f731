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
			u.apply(last, sms, "580")
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
		idle.apply(slow.next(), 132, "580")
		p := (&cycling{clockMHz: 500 + 700*(i%2), factor: 1, n: i, e: i * 1_000_000_000}).next()
		moving.apply(p, 132, "580")
		q := (&cycling{clockMHz: 1000, factor: 1, n: i * 200, e: i * 200_000_000_000}).next()
		gaps.apply(q, 132, "580")
		r := (&cycling{clockMHz: 1000, factor: 1, n: i, e: (50 - i) * 1_000_000_000}).next()
		back.apply(r, 132, "580")
		s := slow.next()
		s.clear(frame.SMCyclesElapsed)
		if alone.apply(s, 132, "580"); s.Has(frame.MMACycles) {
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
		one.apply(c.next(), 1, "580")
	}
	if one.divisor != unitMean {
		t.Errorf("one SM: %+v", one)
	}
}

// run gives n readings at a factor, and the last of them as it is told.
func (c *cycling) run(u *cycleUnit, n, sms int, driver string, factor float64) *timed {
	c.factor = factor
	var p *timed
	for range n {
		p = c.next()
		u.apply(p, sms, driver)
	}
	return p
}

// TestCycleUnitHolds: what was learnt is not given up for SMs that sleep, and never turns from
// one unit into the other, which would be a leap in a counter since boot.
func TestCycleUnitHolds(t *testing.T) {
	var u cycleUnit
	c := cycling{clockMHz: 1000}
	if p := c.run(&u, 2*cycleAgree, 132, "580", 1); !p.Has(frame.MMACycles) || u.divisor != unitMean {
		t.Fatalf("%+v", u)
	}
	u.news = false
	// Hours of SMs that are switched off for a part of the time.
	for _, factor := range []float64{0.4, 0.01, 0.2, 0.69} {
		if p := c.run(&u, 1000, 132, "580", factor); !p.Has(frame.MMACycles) || u.news {
			t.Errorf("at %v of the clock: %+v", factor, u)
		}
	}
	// A clock that was higher between two readings is doubted, and no more than that.
	if p := c.run(&u, 100, 132, "580", 3); p.Has(frame.MMACycles) || u.divisor != unitMean {
		t.Errorf("told, or given up: %+v", u)
	}
	if p := c.run(&u, 1, 132, "580", 1); !p.Has(frame.MMACycles) {
		t.Errorf("not told again: %+v", u)
	}
	// One SM of 132 awake looks like a mean: once they wake up, nothing is told, ever.
	for i := range 3 * cycleFar {
		if p := c.run(&u, 1, 132, "580", 132); p.Has(frame.MMACycles) || p.Has(frame.SMCyclesElapsed) {
			t.Fatalf("reading %d: %+v", i, u)
		}
	}
	if u.divisor != unitUnknown || !u.news || u.fact() != "unknown: 132.00 times the SM clock" {
		t.Errorf("%+v: %s", u, u.fact())
	}
	if p := c.run(&u, 1000, 132, "580", 1); p.Has(frame.MMACycles) {
		t.Errorf("told after all: %+v", u)
	}
}

// TestCycleUnitAnew: another driver may count otherwise, and so may one behind a counter that
// began again.
func TestCycleUnitAnew(t *testing.T) {
	var u cycleUnit
	c := cycling{clockMHz: 1000}
	c.run(&u, 2*cycleAgree, 132, "580", 1)
	if p := c.run(&u, 1, 132, "590", 132); p.Has(frame.MMACycles) || u.divisor != 0 {
		t.Errorf("another driver: %+v", u)
	}
	if p := c.run(&u, 2*cycleAgree, 132, "590", 132); !p.Has(frame.MMACycles) || u.divisor != 132 {
		t.Errorf("another driver: %+v", u)
	}
	c.e = 0
	if p := c.run(&u, 1, 132, "590", 1); p.Has(frame.MMACycles) || u.divisor != 0 {
		t.Errorf("a counter that began again: %+v", u)
	}
	if p := c.run(&u, 2*cycleAgree, 132, "590", 1); !p.Has(frame.MMACycles) || u.divisor != unitMean {
		t.Errorf("a counter that began again: %+v", u)
	}
}

// TestCycleUnitWaitsForSMs: what they are is told some seconds after the first readings.
func TestCycleUnitWaitsForSMs(t *testing.T) {
	for _, sms := range []int{-1, 0} {
		var u cycleUnit
		c := cycling{clockMHz: 1000}
		if p := c.run(&u, 5*cycleFar, sms, "580", 132); p.Has(frame.MMACycles) || u.divisor != 0 || u.news {
			t.Errorf("%d SMs: %+v", sms, u)
		}
		if p := c.run(&u, 2*cycleAgree, 132, "580", 132); !p.Has(frame.MMACycles) || u.divisor != 132 {
			t.Errorf("known late: %+v", u)
		}
	}
}

// TestCycleUnitLearnsSeldom: ticks may be a minute apart, and in bursts the clock is read every
// few seconds, with readings without it between.
func TestCycleUnitLearnsSeldom(t *testing.T) {
	var minutes, bursts cycleUnit
	var p *timed
	for i := range int64(2 * cycleAgree) {
		p = (&cycling{clockMHz: 1000, factor: 1, n: i * 60, e: i * 60_000_000_000}).next()
		minutes.apply(p, 132, "580")
	}
	if !p.Has(frame.MMACycles) {
		t.Errorf("a minute apart: %+v", minutes)
	}
	c := cycling{clockMHz: 1000, factor: 1}
	for i := range 10 * cycleAgree {
		p = c.next()
		if i%6 != 0 {
			p.clear(frame.SMClockMHz)
		}
		bursts.apply(p, 132, "580")
	}
	if !p.Has(frame.MMACycles) {
		t.Errorf("in bursts: %+v", bursts)
	}
}
