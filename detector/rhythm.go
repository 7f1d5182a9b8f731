package detector

import (
	"slices"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/internal/store"
)

// What the rhythm of a host is of, as the store has it.
const (
	ofFabric = "fabric"
	ofPower  = "power_w"
)

func rhythmRow(p feature.Peak, of string) store.RhythmRow {
	if !(p.PeriodMs > 0) {
		return store.RhythmRow{}
	}
	return store.RhythmRow{PeriodMs: p.PeriodMs, Power: p.Power, CadenceMs: p.CadenceMs, CrestMs: p.CrestMs, Folded: p.Folded, Of: of}
}

func gpuRhythm(c *feature.GPUCell) store.RhythmRow {
	return rhythmRow(c.Rhythm, feature.SignalNames[c.RhythmOf])
}

func hostRhythm(c *feature.NodeCell) store.RhythmRow {
	if c.RhythmOfPower {
		return rhythmRow(c.Rhythm, ofPower)
	}
	return rhythmRow(c.Rhythm, ofFabric)
}

func rhythmPeak(r *store.RhythmRow) feature.Peak {
	return feature.Peak{PeriodMs: r.PeriodMs, Power: r.Power, CadenceMs: r.CadenceMs, CrestMs: r.CrestMs, Folded: r.Folded}
}

// rhythmSignal is the signal of a stored rhythm; of a name that this version does not know there is none.
func rhythmSignal(r *store.RhythmRow) (feature.Signal, bool) {
	s := slices.Index(feature.SignalNames[:], r.Of)
	return feature.Signal(max(s, 0)), s >= 0
}
