package flops

import (
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// A training in plain FP32 leaves the tensor pipes at rest: where nobody measures the others it is
// bounded by watts, not nought; where they are measured they say.
func TestPlainFP32Unseen(t *testing.T) {
	t.Parallel()
	const model = "Tesla V100-SXM2-32GB"
	a, _ := Lookup(model)
	say := func(fp32 float64) Estimate {
		ev := fleet(model, 2, 60, 10_000, func(_ int, _ int64, s *feature.GPUSample) bool {
			s.Value[feature.TensorFrac], s.Value[feature.UtilFrac] = 0, 0.97
			s.Value[feature.PowerW], s.Value[feature.SMClockMHz] = 0.85*a.TDPW, a.boostMHz()
			if fp32 > 0 {
				s.Value[feature.FP32Frac] = fp32
			}
			return true
		})
		return Of(Input{Ev: ev, Members: members(2, 60), Class: training})
	}
	done := 0.45 * a.FP32 * 2 * 3600
	if e := say(0); e.Executed.Best <= 0 || e.Executed.Low > done || e.Executed.High < done || len(e.Terms) == 0 {
		t.Errorf("unseen: %+v, %g was done", e.Executed, done)
	}
	within(t, "measured", say(0.45).Executed.Best, done, 0.15)
}
