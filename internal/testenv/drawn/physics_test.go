package drawn

import (
	"math"
	"slices"
	"testing"
)

// Watts over activity as section 5 of FLOPS.md has them from public H100 recordings: what
// is drawn lies around them.
func TestWattsAsMeasured(t *testing.T) {
	r := newRNG(1, "watts")
	h100 := &parts[slices.IndexFunc(parts, func(x part) bool { return x.name == "NVIDIA H100 80GB HBM3" })]
	for _, c := range []struct {
		name                    string
		sm, tensor, dram, watts float64
	}{
		{"DDP, small model", 0.64, 0.19, 0.32, 547},
		{"accumulated gradients", 0.88, 0.58, 0.37, 689},
		{"offload to the host", 0.09, 0.06, 0.04, 186},
		{"TP and PP, first stage", 0.45, 0.11, 0.32, 418},
		{"TP and PP, last stage", 0.52, 0.16, 0.32, 482},
		{"speculative decoding", 0.24, 0.037, 0.15, 207},
		{"training under a service", 0.45, 0.24, 0.23, 408},
		{"weights loaded", 0, 0, 0, 120},
	} {
		var watts []float64
		for range 400 {
			s := drawSilicon(r, h100)
			x, _ := s.run(load{util: 1, sm: c.sm, ipc: r.uniform(0.6, 1), tensor: c.tensor, dram: c.dram, dtype: "bf16"})
			watts = append(watts, s.idleW+x[sPower])
		}
		slices.Sort(watts)
		low, mid, high := watts[20], watts[200], watts[380]
		t.Logf("%-26s measured %.0f W, drawn %.0f (%.0f to %.0f)", c.name, c.watts, mid, low, high)
		if math.Abs(mid/c.watts-1) > 0.2 || c.watts > 1.05*high || c.watts < 0.95*low {
			t.Errorf("%s: %.0f W measured, drawn %.0f (%.0f to %.0f)", c.name, c.watts, mid, low, high)
		}
	}
}

// Trainings land where published ones do: section 1.6 has whole runs at 0.14 to 0.45 of the
// dense 16-bit peak; 6 PD is the model's arithmetic, attention aside.
func TestTrainingsAsPublished(t *testing.T) {
	r := newRNG(2, "mfu")
	h100 := &parts[slices.IndexFunc(parts, func(x part) bool { return x.name == "NVIDIA H100 80GB HBM3" })]
	var mfu, watts, joules []float64
	for range 300 {
		si := drawSilicon(r, h100)
		tr := drawTraining(r, si, 32, 8, trainPrior{layouts: []string{"ddp", "fsdp", "zero", "3d", "tp"}, dtypes: []string{"bf16"}, minPeriod: 0.5, maxPeriod: 30, fabricGbps: 3200})
		var whole sig
		src := tr.of(newBeat(r, 0, 3600, tr.period, 0), 0, r)
		src.integral(600, 3600, 1, &whole)
		u := whole[sModel] / 3000 / h100.dense16
		w := si.idleW + whole[sPower]/3000
		mfu, watts, joules = append(mfu, u), append(watts, w), append(joules, w*3000/whole[sModel]*1e12)
		if d := whole[sModel] / 3000 / (tr.modelFLOP / 32 / tr.period); math.Abs(d-1) > 0.03 {
			t.Errorf("%s: the waveform makes %.3f of the step's FLOP", tr.layout, d)
		}
		attention := 6 * tr.layers * tr.seq * tr.hidden
		if got, want := tr.modelFLOP/tr.tokens, 6*tr.params+attention; math.Abs(got/want-1) > 1e-9 {
			t.Errorf("%g FLOP a token, want 6 P and attention: %g", got, want)
		}
		if over := tr.execFLOP / tr.modelFLOP; over < 1 || over > 1.51 {
			t.Errorf("%s: executed over model %.2f", tr.recompute, over)
		}
	}
	slices.Sort(mfu)
	slices.Sort(watts)
	slices.Sort(joules)
	t.Logf("share of the peak %.2f (%.2f to %.2f), %.0f W (%.0f to %.0f), %.2f pJ a model FLOP (%.2f to %.2f)", mfu[150], mfu[15], mfu[285], watts[150], watts[15], watts[285], joules[150], joules[15], joules[285])
	if mfu[150] < 0.2 || mfu[150] > 0.45 || joules[150] < 1.1 || joules[150] > 3.2 {
		t.Error("the median training is not like published ones")
	}
}

// A mix and steps integrate to what they say, however the time is cut.
func TestIntegralsAddUp(t *testing.T) {
	r := newRNG(3, "integrals")
	si := drawSilicon(r, &parts[4])
	tr := drawTraining(r, si, 8, 8, trainPrior{layouts: []string{"ddp"}, dtypes: []string{"bf16"}, minPeriod: 0.3, maxPeriod: 3, fabricGbps: 400})
	s := drawService(r, si, 1)
	for name, src := range map[string]source{
		"steps": tr.of(newBeat(r, 10, 4000, tr.period, 0.02), 0, r),
		"mix":   s.serve(r, si, 10, 4000),
	} {
		var once, parts sig
		src.integral(20, 3500, 1, &once)
		at := 20.0
		for at < 3500 {
			to := min(3500, at+r.uniform(0.01, 60))
			src.integral(at, to, 1, &parts)
			at = to
		}
		for i := range once {
			if math.Abs(once[i]-parts[i]) > 1e-6*math.Abs(once[i])+1e-9 {
				t.Errorf("%s, signal %d: %g at once, %g in parts", name, i, once[i], parts[i])
			}
		}
	}
}
