package detector

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/workload"
)

// fullActs are two trainings that may be one, and all that can be known of the first.
func fullActs() ([]judged, []run.Campaign) {
	a := judged{
		run: run.Run{
			ID: "run-a", Class: workload.Training, ClassProb: 0.9, StartMs: 0, EndMs: 3_600_000, Open: true, Episodes: []int{0, 1},
			Members: []run.Member{{Node: "n1", GPU: 0, EndMs: 3_600_000}}, Alternatives: []run.Alternative{{Run: "run-b", Weight: 0.4, Reason: "same size"}},
		},
		est: flops.Estimate{
			Model: flops.Interval{Low: 8e20, Best: 1e21, High: 1.3e21}, Executed: flops.Interval{Low: 9e20, Best: 1.1e21, High: 1.4e21}, LogSD: 0.2, ExecutedLogSD: 0.18,
			Terms: []flops.Term{
				{Name: flops.TermClock, LogSD: 0.05, HalfWidth: 0.08}, {Name: flops.TermDtype, LogSD: 0.18, HalfWidth: 0.3, Narrow: "the tap's data type"},
				{Name: flops.TermGaps, LogSD: math.Inf(1), HalfWidth: math.Inf(1)},
			},
		},
		trainingProb: 0.95, probs: map[string]float64{workload.Training: 0.9, workload.RL: 0.05, workload.HPC: 0.05, workload.Mining: 1e-9}, missed: []string{"dram"},
		contradictions: []flops.Contradiction{{Kind: "energy", Node: "n1", GPU: -1, LogOdds: 3, Ratio: math.NaN()}, {Kind: "cycles", Node: "n1", GPU: 0, LogOdds: 9, Ratio: 0.3, Reason: "too few"}},
		engineering: &flops.Engineering{
			MFU: 0.41, HFU: 0.52, Goodput: 0.93, RestartMs: 360_000, Restarts: 2, EnergyJ: 7.2e6,
			Stragglers: []flops.Straggler{{Node: "n1", Behind: 0.2, Reason: "hot"}},
		},
	}
	b := judged{run: run.Run{ID: "run-b", Class: workload.Training, StartMs: 1}, est: flops.Estimate{Model: flops.Interval{Low: 1e21, Best: 2e21, High: 3e21}}}
	b.engineering = &flops.Engineering{MFU: math.NaN(), HFU: math.NaN(), Goodput: math.NaN(), EnergyJ: math.NaN()}
	return []judged{a, b}, []run.Campaign{{ID: "run-a", Kind: run.Islands, Runs: []string{"run-a", "run-b"}, Weight: 0.6, Reasons: []string{"bursts"}}}
}

// TestLineCarriesEverything: what is known of a run reaches its line, and what is not is null.
func TestLineCarriesEverything(t *testing.T) {
	t.Parallel()
	d := New(Config{}, nil, identity.NewGraph(nil))
	d.prev["fnd-1"] = report.Finding{Finding: "fnd-1", State: report.Inquire, Runs: []string{"run-a"}}
	d.prev["fnd-2"] = report.Finding{Finding: "fnd-2", State: report.Met, Runs: []string{"run-a"}}
	acts, campaigns := fullActs()
	lines := d.lines(&feature.Evidence{EndMs: 3_600_000}, acts, campaigns)
	a, b := lines[0], lines[1]
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"training_probability":0.95`, `"class_probabilities":{"hpc":0.05,"rl":0.05,"training":0.9}`, `"features_missed":["dram"]`, `"share":null`,
		`"terms":[{"name":"dtype","log_sd":0.18,"half_width":0.3,"narrow":"the tap's data type"},{"name":"clock"`,
		`"narrow_most":{"term":"dtype","signal":"the tap's data type","half_width":0.3349,"half_width_then":0.1439}`,
		`"campaigns":[{"campaign":"run-a","kind":"islands","weight":0.6,"known_at_ms":0,"runs":["run-a","run-b"],"run_count":2,"flops_model":{"low":1.8e+21,"best":3e+21,"high":4.3e+21},"reasons":["bursts"]}]`,
		`"largest_grouping":{"kind":"restarts","runs":["run-a","run-b"],"weight":0.4,"flops_model":{"low":1.8e+21`,
		`"contradictions":[{"kind":"cycles","node":"n1","gpu":0,`, `{"kind":"energy","node":"n1","gpu":null,"from_ms":0,"to_ms":0,"ratio":null,"log_odds":3,`, `"contradiction_count":2`,
		`"engineering":{"mfu":0.41,"hfu":0.52,"goodput":0.93,"gpu_hours":1,"restarts":2,"restart_gpu_hours":0.1,"stall_gpu_hours":0,"idle_gpu_hours":0,"energy_kwh":2,"stragglers":[{"node":"n1","behind":0.2,"reason":"hot"}]}`,
		`"inquiries":["fnd-1"]`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the line lacks %s:\n%s", want, text)
		}
	}
	if n := a.NarrowMost; n.Then >= n.HalfWidth || n.Then < 0.1 {
		t.Errorf("without its widest term the half-width goes from %g to %g", n.HalfWidth, n.Then)
	}
	if text, err = json.Marshal(b.Engineering); err != nil || string(text) != `{"mfu":null,"hfu":null,"goodput":null,"gpu_hours":0,"restarts":null,"restart_gpu_hours":null,"stall_gpu_hours":null,"idle_gpu_hours":null,"energy_kwh":null,"stragglers":[]}` {
		t.Errorf("what is not known of the other: %s, %v", text, err)
	}
}

// TestWeigh: episodes count by their GPU-time.
func TestWeigh(t *testing.T) {
	t.Parallel()
	hour := int64(60 * feature.MinuteMs)
	eps := []run.Episode{
		{Members: []run.Member{{Node: "n", EndMs: 3*hour - feature.MinuteMs}}},
		{Members: []run.Member{{Node: "n", EndMs: hour - feature.MinuteMs}}},
	}
	a := judged{run: run.Run{Episodes: []int{0, 1}}}
	a.weigh(eps, []workload.Verdict{
		{Probs: map[string]float64{workload.Training: 0.8, workload.HPC: 0.2}, Missed: []string{"dram"}},
		{Probs: map[string]float64{workload.RL: 0.9, workload.Inference: 0.1}, Missed: []string{"nvlink"}, Share: [3]float64{0.2, 0.4, 0.6}},
	})
	near := func(what string, got, want float64) {
		if math.Abs(got-want) > 1e-9 {
			t.Errorf("%s: got %g, want %g", what, got, want)
		}
	}
	near("training", a.trainingProb, 0.825)
	near("hpc", a.probs[workload.HPC], 0.15)
	near("share", a.share[1], (3+0.4)/4)
	if len(a.missed) != 1 || a.missed[0] != "dram" {
		t.Errorf("missed for most of its time: %v", a.missed)
	}
}
