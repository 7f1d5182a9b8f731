package flops

import (
	"fmt"
	"math"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// Four nodes train for two hours with a restart of ten minutes, a checkpoint of five in which
// all stand still, and one node that runs at a lower clock.
func TestEngineer(t *testing.T) {
	t.Parallel()
	var s feature.Samples
	var all []run.Member
	for n := range 4 {
		node := fmt.Sprintf("n%d", n)
		s.Nodes = append(s.Nodes, feature.Node{Node: node, GPUModel: h100, GPUCount: 2, TDPW: 700, FabricGbps: math.NaN(), Listed: true})
		for g := range 2 {
			all = append(all, run.Member{Node: node, GPU: g, StartMs: t0, EndMs: t0 + 60*minuteMs}, run.Member{Node: node, GPU: g, StartMs: t0 + 70*minuteMs, EndMs: t0 + 120*minuteMs})
			for ts := t0; ts <= t0+120*minuteMs; ts += 15_000 {
				r := feature.GPUSample{Node: node, GPU: g, TsMs: ts, EnergyJ: math.NaN(), MMACycles: math.NaN()}
				for i := range feature.NumSignals {
					r.Value[i] = math.NaN()
				}
				v := &r.Value
				v[feature.TensorFrac], v[feature.SMClockMHz], v[feature.PowerW] = 0.45, 1700, 600
				if n == 2 {
					v[feature.TensorFrac], v[feature.SMClockMHz], v[feature.PowerW] = 0.45*1.7/1.3, 1300, 430
				}
				switch at := (ts - t0) / minuteMs; {
				case at > 60 && at <= 70:
					v[feature.TensorFrac], v[feature.PowerW] = 0, 70
				case at > 30 && at <= 35:
					v[feature.TensorFrac], v[feature.PowerW] = 0, 130
				}
				s.GPU = append(s.GPU, r)
			}
		}
	}
	in := Input{Ev: feature.BuildEvidence(s, t0, t0+121*minuteMs), Members: all, Class: "training"}
	est := Of(in)
	e := Engineer(in, est)
	peak := 8 * 110 * 60 * 989.4e12
	within(t, "MFU", e.MFU, est.Model.Best/peak, 1e-9)
	within(t, "HFU", e.HFU, est.Executed.Best/peak, 1e-9)
	if e.Restarts != 1 || e.RestartMs < 8*9*minuteMs || e.RestartMs > 8*12*minuteMs {
		t.Errorf("%d restarts, %d GPU-minutes", e.Restarts, e.RestartMs/minuteMs)
	}
	if e.StallMs < 8*4*minuteMs || e.StallMs > 8*6*minuteMs || e.IdleMs > 8*minuteMs {
		t.Errorf("stalls of %d GPU-minutes, idle %d", e.StallMs/minuteMs, e.IdleMs/minuteMs)
	}
	within(t, "goodput", e.Goodput, 1-15./120, 0.02)
	within(t, "energy", e.EnergyJ, 8*105*60*(3*600+430)/4+8*5*60*130, 0.03)
	if len(e.Stragglers) != 1 || e.Stragglers[0].Node != "n2" || e.Stragglers[0].Reason == "" {
		t.Errorf("stragglers %+v", e.Stragglers)
	} else {
		within(t, "behind", e.Stragglers[0].Behind, 1-1300./1700, 0.02)
	}
	none := Engineer(Input{Ev: feature.BuildEvidence(feature.Samples{}, t0, t0+minuteMs), Members: members(1, 60), Class: "training"}, Estimate{})
	if !math.IsNaN(none.MFU) || !math.IsNaN(none.Goodput) || !math.IsNaN(none.EnergyJ) || none.Stragglers != nil {
		t.Errorf("nothing known: %+v", none)
	}
}
