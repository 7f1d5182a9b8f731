package detector

import (
	"encoding/json"
	"testing"
)

// TestGoesOn: a version of a run waits while the run only grows, and no longer where it rests on
// other evidence, as after a first verdict of half the rows.
func TestGoesOn(t *testing.T) {
	t.Parallel()
	const at = 100 * 60_000
	was := RunLine{Run: "r", Class: "training", Accounts: []string{"a"}, Basis: []string{"allocation"}, CoverageFrac: 0.5, Thresholds: []ThresholdLine{{Profile: "p", Probability: 0.48}}}
	was.FLOPsModel.Best, was.FLOPsExecuted.Best = 100, 120
	text, err := json.Marshal(was)
	if err != nil {
		t.Fatal(err)
	}
	d := &Detector{runs: map[string]string{"r": string(text)}, runsAt: map[string]int64{"r": at}}
	ended := int64(at)
	for name, c := range map[string]struct {
		change  func(*RunLine)
		afterMs int64
		want    bool
	}{
		"grows":          {func(l *RunLine) { l.FLOPsModel.Best = 105 }, 60_000, true},
		"grows fast":     {func(l *RunLine) { l.FLOPsModel.Best = 115 }, 60_000, false},
		"likely beyond":  {func(l *RunLine) { l.Thresholds = []ThresholdLine{{Profile: "p", Probability: 0.51}} }, 60_000, false},
		"nearer a limit": {func(l *RunLine) { l.Thresholds = []ThresholdLine{{Profile: "p", Probability: 0.49}} }, 60_000, true},
		"a little more":  {func(l *RunLine) { l.CoverageFrac = 0.52 }, 60_000, true},
		"ten minutes on": {func(*RunLine) {}, 10 * 60_000, false},
		"another class":  {func(l *RunLine) { l.Class = "inference" }, 60_000, false},
		"other evidence": {func(l *RunLine) { l.Basis = []string{"mma_cycles"} }, 60_000, false},
		"rows came late": {func(l *RunLine) { l.CoverageFrac = 1 }, 60_000, false},
		"ended":          {func(l *RunLine) { l.EndedMs = &ended }, 60_000, false},
		"another run":    {func(l *RunLine) { l.Run = "new" }, 60_000, false},
	} {
		l := was
		c.change(&l)
		if got := d.goesOn(&l, at+c.afterMs); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
