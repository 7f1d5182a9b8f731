package workload

import (
	"math"
	"slices"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// rhythms collects the periods that GPUs keep.
type rhythms struct {
	busy    float64 // minutes in which a period was looked for
	found   float64
	periods []period
	folded  float64
	nodes   map[string]bool
}

type period struct {
	log, w float64
}

// leastPower is the share of a signal's variance at a period that is not chance.
const leastPower = 0.25

func (r *rhythms) see(c *feature.GPUCell, node string) {
	w := span(c)
	r.busy += w
	p := c.Rhythm
	if !(p.PeriodMs > 0) || p.Power < leastPower {
		return
	}
	r.found += w
	if p.Folded {
		r.folded += w
	}
	r.periods = append(r.periods, period{math.Log(p.PeriodMs), w})
	if r.nodes == nil {
		r.nodes = map[string]bool{}
	}
	r.nodes[node] = true
}

// tell says how much of the time a period was kept, and how much of that is one.
func (r *rhythms) tell(f *facts) {
	f.rhythm, f.rhythmSame, f.periodS = math.NaN(), math.NaN(), math.NaN()
	if r.found == 0 || r.busy == 0 {
		return
	}
	f.rhythmed = true
	f.rhythm = r.found / r.busy
	f.folded = 2*r.folded > r.found
	slices.SortFunc(r.periods, func(a, b period) int {
		switch {
		case a.log < b.log:
			return -1
		case a.log > b.log:
			return 1
		}
		return 0
	})
	// The period that most agree on, within a twentieth.
	const width = 0.05
	best, at, sum := 0.0, 0.0, 0.0
	lo := 0
	for hi := range r.periods {
		sum += r.periods[hi].w
		for r.periods[hi].log-r.periods[lo].log > width {
			sum -= r.periods[lo].w
			lo++
		}
		if sum > best {
			best, at = sum, r.periods[(lo+hi)/2].log
		}
	}
	f.rhythmSame, f.periodS = best/r.found, math.Exp(at)/1000
}
