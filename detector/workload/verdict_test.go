package workload_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/workload"
)

// What was not measured is named, and costs certainty.
func TestMissed(t *testing.T) {
	t.Parallel()
	say := func(drop ...feature.Signal) workload.Verdict {
		ev := scene{minutes: 60, at: without(train, drop...)}.evidence()
		return workload.Classify(ev, run.Episodes(ev)[0])
	}
	all := say()
	thin := say(feature.TensorFrac, feature.SMActiveFrac, feature.IMMAFrac, feature.DFMAFrac, feature.FP64Frac, feature.FP32Frac, feature.IntFrac, feature.DRAMFrac)
	if all.Prob <= thin.Prob {
		t.Errorf("with all pipes %.2f, without %.2f", all.Prob, thin.Prob)
	}
	if want := []string{"collectives"}; !slices.Equal(all.Missed, want) {
		t.Errorf("missed %v, want %v", all.Missed, want)
	}
	if want := []string{"tensor_frac", "dram_frac", "fp32_frac", "collectives"}; !slices.Equal(thin.Missed, want) {
		t.Errorf("missed %v, want %v", thin.Missed, want)
	}
}

// A training beneath served load leaves work that does not follow the load.
func TestBeneath(t *testing.T) {
	t.Parallel()
	mixed := func(part float64) func(m, g int) map[feature.Signal]float64 {
		return func(m, g int) map[feature.Signal]float64 {
			out, more := serving(m, g), train(m, g)
			for s, v := range more {
				switch s {
				case feature.MemUsedBytes, feature.SMClockMHz:
				case feature.PowerW:
					out[s] = math.Min(700, out[s]+part*(v-120))
				default:
					if out[s] += part * v; s < feature.PCIeTxBps {
						out[s] = math.Min(1, out[s])
					}
				}
			}
			return out
		}
	}
	say := func(part float64) workload.Verdict {
		ev := scene{minutes: 150, at: mixed(part)}.evidence()
		return workload.Classify(ev, run.Episodes(ev)[0])
	}
	training := func(v workload.Verdict) float64 {
		return v.Probs[workload.Training] + v.Probs[workload.Finetuning] + v.Probs[workload.RL]
	}
	none, some, much := say(0), say(0.3), say(0.6)
	if !(training(none) < training(some) && training(some) < training(much)) {
		t.Errorf("training with probability %.2f, %.2f, %.2f as it takes more of the GPUs", training(none), training(some), training(much))
	}
	if training(none) > 0.1 || none.Share != ([3]float64{}) {
		t.Errorf("serving alone: %.2f, share %v", training(none), none.Share)
	}
	if !workload.IsRun(much.Class) {
		t.Fatalf("more training than serving: %s %.2f %v", much.Class, much.Prob, much.Reasons)
	}
	// Of 0.1 mean decoding and 0.6 x 0.4 training, 0.75 or so is training.
	s := much.Share
	if !(s[0] > 0 && s[0] <= s[1] && s[1] <= s[2] && s[2] <= 1) || s[0] > 0.8 || s[2] < 0.75 {
		t.Errorf("share %v, want about 0.8 inside", s)
	}
}

// Bad calibrations are refused by name.
func TestParseCalibration(t *testing.T) {
	t.Parallel()
	whole := `{"bases": {"watts": {"slope": 1}, "nvml": {"slope": 1}, "partial": {"slope": 1}, "pipes": {"slope": 1}, "comm": {"slope": 1}}}`
	if _, err := workload.ParseCalibration([]byte(whole)); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]string{
		`{`: "unexpected end",
		strings.Replace(whole, `"pipes"`, `"tubes"`, 1):                        "lacks basis pipes",
		strings.Replace(whole, `"nvml": {"slope": 1}`, `"nvml": {}`, 1):        "of nvml: slope 0",
		strings.Replace(whole, `{"slope": 1}`, `{"slope": 1, "offset": 9}`, 1): "of watts: slope 1, offset 9",
	} {
		if _, err := workload.ParseCalibration([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
