package flops_test

import (
	"path/filepath"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestCrossCheckOfShared: no recording was tampered with, so that a contradiction of the GPUs of
// a labelled activity is a false one.
func TestCrossCheckOfShared(t *testing.T) {
	t.Parallel()
	checked, wrong := 0, 0
	for _, dir := range testenv.Bundles(t) {
		samples, acts, start, end := load(t, dir)
		ev := feature.BuildEvidence(samples, start, end)
		for i := range acts {
			checked++
			for _, c := range flops.CrossCheck(ev, acts[i].members(), acts[i].Kind) {
				wrong++
				t.Logf("%s %s %s %s: %s %s GPU %d for %d min, %.2f, log odds %.1f: %s", filepath.Base(dir), acts[i].ID, acts[i].Kind, acts[i].DType, c.Kind, c.Node, c.GPU, (c.ToMs-c.FromMs)/feature.MinuteMs, c.Ratio, c.LogOdds, c.Reason)
			}
		}
	}
	t.Logf("%d false contradictions of %d activities", wrong, checked)
	if wrong > checked/50 {
		t.Errorf("%d false contradictions of %d activities", wrong, checked)
	}
}
