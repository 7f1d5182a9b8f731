package workload_test

import (
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/workload"
)

func pad(duty, period int) func(m, g int) map[feature.Signal]float64 {
	return func(m, g int) map[feature.Signal]float64 {
		if m%period < duty {
			return train(m, g)
		}
		return signals(0, 61e9, 120, 0, 0, 0, 0, 0, 0, 0, 0)
	}
}

// Training that hides in a low duty, a throttled clock or a false name: with collectives in
// sight it is found; by counters alone it is found unless it is diluted beyond likeness, and
// then the answer stays open.
func TestEvasion(t *testing.T) {
	t.Parallel()
	thr := func(m, g int) map[feature.Signal]float64 {
		k := noise(m, g)
		return signals(0.97*k, 61e9, 330*k, 0.78*k, 0.4*k, 0, 0, 0.035*k, 0, 0.3*k, 6e9*k)
	}
	low := func(m, g int) map[feature.Signal]float64 { // half duty inside the minute
		k := noise(m, g) * 0.5
		return signals(0.97*k, 61e9, 120+520*k, 0.78*k, 0.4*k, 0, 0, 0.035*k, 0, 0.3*k, 6e9*k)
	}
	lowTiny := func(m, g int) map[feature.Signal]float64 {
		k := noise(m, g) * 0.15
		return signals(0.97*k, 61e9, 120+520*k, 0.78*k, 0.4*k, 0, 0, 0.035*k, 0, 0.3*k, 6e9*k)
	}
	one := func(f func(m, g int) map[feature.Signal]float64) func(m, g int) map[feature.Signal]float64 {
		return without(f, feature.NVLinkTxBps)
	}
	for _, c := range []struct {
		name  string
		scene scene
		want  bool // found as training; else it may be missed, and not for sure
	}{
		{"throttled by counters alone", scene{minutes: 90, at: thr}, true}, {"throttled, collectives seen", scene{minutes: 90, at: thr, comm: gradients}, true},
		{"half duty by counters alone", scene{minutes: 90, at: low}, true}, {"half duty, collectives seen", scene{minutes: 90, at: low, comm: gradients}, true},
		{"15% duty by counters alone", scene{minutes: 90, at: lowTiny}, false}, {"15% duty, collectives seen", scene{minutes: 90, at: lowTiny, comm: gradients}, true},
		{"pad 5/10 by counters alone", scene{minutes: 90, at: pad(5, 10)}, true}, {"pad 5/10, collectives seen", scene{minutes: 90, at: pad(5, 10), comm: gradients}, true},
		{"pad 2/10 by counters alone", scene{minutes: 90, at: pad(2, 10)}, true}, {"pad 2/10, collectives seen", scene{minutes: 90, at: pad(2, 10), comm: gradients}, true},
		{"single gpu", scene{gpus: 1, minutes: 90, at: one(train)}, true}, {"single gpu pad 5/10", scene{gpus: 1, minutes: 90, at: one(pad(5, 10))}, true}, {"single gpu half duty", scene{gpus: 1, minutes: 90, at: one(low)}, true},
		{"single gpu vllm", scene{gpus: 1, minutes: 90, at: one(train), proc: &feature.Process{Exe: "vllm"}, use: "inference"}, true},
	} {
		ev := c.scene.evidence()
		v := workload.Classify(ev, run.Episodes(ev)[0])
		t.Logf("%-24s %s %.2f training %.2f", c.name, v.Class, v.Prob, v.Probs[workload.Training])
		if c.want && !workload.IsRun(v.Class) {
			t.Errorf("%s: %s %.2f %v", c.name, v.Class, v.Prob, v.Reasons)
		}
		if !c.want && v.Prob > 0.75 {
			t.Errorf("%s: %s, too sure (%.2f)", c.name, v.Class, v.Prob)
		}
	}
}
