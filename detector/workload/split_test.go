package workload_test

import (
	"math"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/workload"
)

// serving is a server whose load comes and goes, on all GPUs.
func serving(m, g int) map[feature.Signal]float64 {
	k := noise(m, g) * (0.6 + 0.3*math.Sin(float64(m)/17))
	return signals(0.9*k+0.05, 66e9, 200+350*k, 0.5*k, 0.1*k, 0, 0, 0.002, 0, 0.55*k, 1e8*k)
}

func TestSplit(t *testing.T) {
	t.Parallel()
	then := func(at int, a, b func(m, g int) map[feature.Signal]float64) func(m, g int) map[feature.Signal]float64 {
		return func(m, g int) map[feature.Signal]float64 {
			if m < at {
				return a(m, g)
			}
			return b(m, g)
		}
	}
	for _, c := range []struct {
		name string
		at   func(m, g int) map[feature.Signal]float64
		cuts []int // minutes
	}{
		{"serving, then training", then(90, serving, train), []int{90}},
		{"training, then serving", then(70, train, serving), []int{70}},
		{"training alone", train, nil},
		{"serving in waves", serving, nil},
		{"training with evaluations", func(m, g int) map[feature.Signal]float64 {
			if m%60 > 48 {
				return serving(m, g)
			}
			return train(m, g)
		}, nil},
		{"rollouts and updates in turns", func(m, g int) map[feature.Signal]float64 {
			if m/12%2 == 0 {
				return serving(m, g)
			}
			return train(m, g)
		}, nil},
		{"a pause", func(m, g int) map[feature.Signal]float64 {
			if m > 80 && m < 92 {
				return signals(0, 61e9, 120, 0, 0, 0, 0, 0, 0, 0, 0)
			}
			return train(m, g)
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			placed := map[int64]bool{}
			for minutes := 20; minutes <= 200; minutes += 15 {
				ev := scene{minutes: minutes, at: c.at}.evidence()
				eps := workload.Split(ev, run.Episodes(ev))
				var at []int64
				for _, e := range eps[1:] {
					at = append(at, (e.StartMs-t0)/feature.MinuteMs)
				}
				if len(at) > len(c.cuts) {
					t.Fatalf("after %d min cut at %v", minutes, at)
				}
				for i, x := range at {
					placed[x] = true
					if math.Abs(float64(x)-float64(c.cuts[i])) > 2 {
						t.Errorf("after %d min cut at %v, want %v", minutes, at, c.cuts)
					}
					if eps[i].EndMs != eps[i+1].StartMs || eps[i].Open || !eps[i+1].Open {
						t.Errorf("after %d min the parts do not meet: %v %v", minutes, eps[i].EndMs, eps[i+1].StartMs)
					}
				}
				if minutes == 200 && len(at) != len(c.cuts) {
					t.Errorf("cut at %v, want %v", at, c.cuts)
				}
			}
			if len(placed) > len(c.cuts) {
				t.Errorf("a cut moved as evidence grew: %v", placed)
			}
		})
	}
}

// Counters of activity that read zero while GPUs draw watts of work are not believed.
func TestBelied(t *testing.T) {
	t.Parallel()
	ev := scene{nodes: 2, minutes: 90, fabricBps: 3e10, storageBurst: 20, at: func(m, g int) map[feature.Signal]float64 {
		v := train(m, g)
		for s := range v {
			if s != feature.PowerW && s != feature.MemUsedBytes && s != feature.SMClockMHz {
				v[s] = 0
			}
		}
		return v
	}}.evidence()
	for _, e := range run.Episodes(ev) {
		if v := workload.Classify(ev, e); !workload.IsRun(v.Class) {
			t.Errorf("%s %.2f %v", v.Class, v.Prob, v.Reasons)
		}
	}
}

// Steady hours are kept as one cell each: the verdict stays.
func TestWideCells(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]func(m, g int) map[feature.Signal]float64{"training": train, "serving": serving} {
		ev := scene{minutes: 240, at: at}.evidence()
		before := workload.Classify(ev, run.Episodes(ev)[0])
		ep := run.Episodes(ev)[0]
		for k, cells := range ev.GPU {
			var out []feature.GPUCell
			for h := 0; h+60 <= 180; h += 60 {
				wide := cells[h]
				wide.SpanMs = 60 * feature.MinuteMs
				for s := range wide.Mean {
					wide.Mean[s], wide.CoverMs[s] = 0, 0
					for _, c := range cells[h : h+60] {
						wide.Mean[s] += c.Mean[s] / 60
						wide.CoverMs[s] += c.CoverMs[s]
					}
				}
				out = append(out, wide)
			}
			ev.GPU[k] = append(out, cells[180:]...)
		}
		after := workload.Classify(ev, ep)
		if after.Class != before.Class || math.Abs(after.Prob-before.Prob) > 0.25 {
			t.Errorf("%s: %s %.2f in minutes, %s %.2f in hours: %v", name, before.Class, before.Prob, after.Class, after.Prob, after.Reasons)
		}
	}
}
