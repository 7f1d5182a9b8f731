package feature

import (
	"math/rand/v2"
	"testing"
)

// cellsOf reduces minutes of rows.
func cellsOf(rows []GPUSample, minutes int64) []GPUCell {
	var out []GPUCell
	for m := t0 - (minutes-1)*MinuteMs; m <= t0; m += MinuteMs {
		if c, ok := ReduceGPU(rows, m); ok {
			out = append(out, c)
		}
	}
	return out
}

func TestInStep(t *testing.T) {
	t.Parallel()
	const minutes = 45
	at := func(stepMs, everyMs float64, seed uint64, shiftMs int64) []GPUCell {
		rows := beating(stepMs, everyMs, 0.05, 0.1, minutes*MinuteMs, rand.New(rand.NewPCG(seed, 1)))
		for i := range rows {
			rows[i].TsMs += shiftMs
		}
		return cellsOf(rows, minutes)
	}
	for _, every := range []float64{1000, 10_000} {
		for _, step := range []float64{435.4, 5800, 35_000} {
			if every == 10_000 && step < 5000 {
				continue // averaged away
			}
			a := at(step, every, 1, 0)
			one := InStep(a, at(step, every, 2, 300))
			near := InStep(a, at(step*1.004, every, 3, 0))
			far := InStep(a, at(step*1.37, every, 4, 0))
			none := InStep(a, cellsOf(noisy("poisson", every, minutes*MinuteMs, rand.New(rand.NewPCG(5, 5))), minutes))
			if one.LogOdds < 3 {
				t.Errorf("every %v step %v: one job: %+v", every, step, one)
			}
			if near.LogOdds > 0 || far.LogOdds > 0 || none.LogOdds > 0 {
				t.Errorf("every %v step %v: two jobs: %+v, %+v, %+v", every, step, near, far, none)
			}
		}
	}
}
