package feature

import (
	"math"
	"math/rand/v2"
	"testing"
)

// beating makes rows of a GPU whose work comes in steps: busy for three quarters, links for one.
func beating(stepMs, everyMs, jitter, noise float64, spanMs int64, r *rand.Rand) []GPUSample {
	var rows []GPUSample
	phase := func(ms float64) float64 { return ms / stepMs }
	// mean over [a, b) of a wave that is 1 in the last quarter of each step
	part := func(a, b float64) float64 {
		area := func(x float64) float64 {
			n := math.Floor(x)
			return n*0.25 + max(x-n-0.75, 0)
		}
		return (area(phase(b)) - area(phase(a))) / (phase(b) - phase(a))
	}
	prev := 0.0
	for t := everyMs; t <= float64(spanMs); t += everyMs {
		at := math.Round(t + jitter*everyMs*(r.Float64()-0.5))
		comm := part(prev, at)
		n := func(sd float64) float64 { return 1 + sd*noise*r.NormFloat64() }
		rows = append(rows, sample(t0+MinuteMs-spanMs+int64(at), map[Signal]float64{
			NVLinkTxBps: (1e9 + 60e9*comm) * n(1), TensorFrac: 0.6 * (1 - 0.9*comm) * n(1), PowerW: (650 - 300*comm) * n(0.2), PCIeTxBps: 1e8 * n(1),
		}))
		prev = at
	}
	return rows
}

// fold is what period samples at a cadence show of another.
func fold(ms, everyMs float64) float64 {
	return everyMs / math.Abs(math.Remainder(everyMs/ms, 1))
}

func TestRhythmOfSteps(t *testing.T) {
	t.Parallel()
	for _, every := range []float64{100, 200, 1000, 10_000} {
		for _, step := range []float64{300, 435.4, 1300, 5800, 35_000, 105_000} {
			if every == 10_000 && step < 5000 {
				continue // averaged away
			}
			for _, jitter := range []float64{0, 0.1} {
				rows := beating(step, every, jitter, 0.1, WindowMs+MinuteMs, rand.New(rand.NewPCG(1, 2)))
				if r := rand.New(rand.NewPCG(7, 7)); jitter > 0 { // and gaps
					kept := rows[:0]
					for i := range rows {
						if r.Float64() > 0.04 && (i*100/len(rows) != 40) {
							kept = append(kept, rows[i])
						}
					}
					rows = kept
				}
				c, _ := ReduceGPU(rows, t0)
				want, folded := step, false
				if step < 2.05*every {
					want, folded = fold(step, every), true
				}
				p := c.Rhythm
				if math.Abs(p.PeriodMs/want-1) > 0.01 || folded && !p.Folded || c.RhythmOf != NVLinkTxBps || p.CrestMs < 0 || p.CrestMs >= p.PeriodMs {
					t.Errorf("step %v ms, every %v ms, jitter %v: %+v of %s, want %v", step, every, jitter, p, SignalNames[c.RhythmOf], want)
				}
			}
		}
	}
}
