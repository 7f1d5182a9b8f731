package feature

import (
	"math"
	"math/rand/v2"
	"testing"
)

// wandering makes rows as beating does, of steps whose period is another every twelve of them, or 45 s.
func wandering(stepMs, everyMs, wander, noise float64, spanMs int64, r *rand.Rand) []GPUSample {
	var at, ph, per []float64
	t, p := 0.0, 0.0
	for t < float64(spanMs) {
		q := stepMs * math.Exp(wander/2*r.NormFloat64())
		at, ph, per = append(at, t), append(ph, p), append(per, q)
		d := max(12*q, 45000)
		t += d
		p += d / q
	}
	k := 0
	phase := func(ms float64) float64 {
		for k+1 < len(at) && at[k+1] <= ms {
			k++
		}
		for k > 0 && at[k] > ms {
			k--
		}
		return ph[k] + (ms-at[k])/per[k]
	}
	area := func(x float64) float64 { n := math.Floor(x); return n*0.25 + max(x-n-0.75, 0) }
	var rows []GPUSample
	for t := everyMs; t <= float64(spanMs); t += everyMs {
		a, b := phase(t-everyMs), phase(t)
		comm := (area(b) - area(a)) / (b - a)
		n := func(sd float64) float64 { return 1 + sd*noise*r.NormFloat64() }
		rows = append(rows, sample(t0+MinuteMs-spanMs+int64(t), map[Signal]float64{NVLinkTxBps: (1e9 + 60e9*comm) * n(1), TensorFrac: 0.6 * (1 - 0.9*comm) * n(1), PowerW: (650 - 300*comm) * n(0.2)}))
	}
	return rows
}

// Steps of a training do not all last the same.
func TestRhythmOfWanderingSteps(t *testing.T) {
	t.Parallel()
	for _, every := range []float64{100, 1000} {
		for _, step := range []float64{1300, 5800, 35_000} {
			for _, wander := range []float64{0.003, 0.01, 0.03} {
				if step < 2*every && wander > 0.01 {
					continue // what is folded wanders by more
				}
				right, most := 0, 5
				for i := range most {
					c, _ := ReduceGPU(wandering(step, every, wander, 0.05, WindowMs+MinuteMs, rand.New(rand.NewPCG(uint64(i), 2))), t0)
					want := step
					if step < 2*every {
						want = fold(step, every)
					}
					if math.Abs(c.Rhythm.PeriodMs/want-1) < 0.05 {
						right++
					}
				}
				if right < most {
					t.Errorf("step %v ms every %v ms that wanders by %v: %d of %d", step, every, wander, right, most)
				}
			}
		}
	}
}
