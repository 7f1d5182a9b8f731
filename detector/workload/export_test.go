package workload

import (
	"fmt"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// Facts shows what the rules see of an episode.
func Facts(ev *feature.Evidence, ep *run.Episode) string {
	return fmt.Sprintf("%+v", newFacts(ev, ep))
}

// Weighed is what rules say of an episode before calibration.
type Weighed struct {
	Basis   string
	Minutes float64
	Sums    map[string]float64
	verdict *verdict
	facts   *facts
}

// Weigh applies the rules.
func Weigh(ev *feature.Evidence, ep *run.Episode) Weighed {
	v, f := weigh(ev, ep)
	basis, _ := f.instruments()
	return Weighed{basis, f.minutes, v.sum, v, f}
}

// Probs are the probabilities under a calibration.
func (w *Weighed) Probs(s Sharp) map[string]float64 { return w.verdict.probs(w.facts, s) }

// For calibration.
var (
	Clipped          = clipped
	Named            = named
	ParseCalibration = parseCalibration
	BuiltIn          = calibration
	Bases            = bases[:]
)
