package flops

import (
	"math"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// maxCycleHz is more than the part's tensor pipes can be busy, in cycles a second of one SM.
func maxCycleHz(a *Accelerator) float64 { return 1.05 * max(a.boostMHz(), a.tensorMHz()) * 1e6 }

// cycleUnit returns by what a GPU's counter of tensor cycles is more than the mean over its SMs.
// Nothing documents whether a driver gives the mean, the sum over the SMs or that over their
// tensor cores; beside activity x clock, or where no clock could run so fast, it shows.
func (ms *measurer) cycleUnit(h *host, m run.Member, cells []feature.GPUCell) float64 {
	key := feature.GPUKey{Node: m.Node, GPU: m.GPU}
	if u, ok := ms.units[key]; ok {
		return u
	}
	if ms.units == nil {
		ms.units = map[feature.GPUKey]float64{}
	}
	u := unitOf(&h.acc, cells)
	ms.units[key] = u
	return u
}

func unitOf(a *Accelerator, cells []feature.GPUCell) float64 {
	if a.SMs <= 1 {
		return 1
	}
	fastest, counted, active := 0.0, 0.0, 0.0
	for i := range cells {
		c := &cells[i]
		sec := float64(c.MMACycles.LastMs-c.MMACycles.FirstMs) / 1000
		if !c.MMACycles.Has() || sec < 5 || c.MMACycles.Delta <= 0 {
			continue
		}
		fastest = max(fastest, c.MMACycles.Delta/sec)
		if v := value(c, feature.TensorFrac); v > 0.01 && c.Has(feature.SMClockMHz) {
			counted += c.MMACycles.Delta
			active += v * c.Mean[feature.SMClockMHz] * 1e6 * sec
		}
	}
	units := [...]float64{1, a.SMs, 4 * a.SMs}
	if active > 0 {
		for _, u := range units {
			if math.Abs(math.Log(counted/active/u)) < 0.5 {
				return u
			}
		}
		return 1 // a counter that contradicts the activity is none to be bent to it
	}
	if fastest <= maxCycleHz(a) {
		return 1
	}
	for _, u := range units { // the least that a clock allows
		if fastest/u <= maxCycleHz(a) {
			return u
		}
	}
	return 1
}
