package flops

import (
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// Two hosts that reduce the gradients of 3.374 billion parameters every 0.4354 s, as a published
// trace has them: 15.68 GB/s leave each.
func TestParameters(t *testing.T) {
	t.Parallel()
	ev := &feature.Evidence{StartMs: t0, EndMs: t0 + 40*minuteMs, Nodes: map[string]feature.Node{}, GPU: map[feature.GPUKey][]feature.GPUCell{}, Host: map[string][]feature.NodeCell{}}
	var all []run.Member
	for _, node := range []string{"a", "b"} {
		ev.Nodes[node] = feature.Node{Node: node, GPUModel: h100, GPUCount: 8, TDPW: 700}
		for g := range 8 {
			k := feature.GPUKey{Node: node, GPU: g}
			all = append(all, run.Member{Node: node, GPU: g, StartMs: t0, EndMs: t0 + 40*minuteMs})
			for m := range int64(40) {
				c := feature.GPUCell{Node: node, GPU: g, MinuteMs: t0 + m*minuteMs, Samples: 60}
				for s, v := range map[feature.Signal]float64{feature.TensorFrac: 0.45, feature.SMClockMHz: 1600} {
					c.Mean[s], c.CoverMs[s] = v, minuteMs
				}
				ev.GPU[k] = append(ev.GPU[k], c)
			}
		}
		for m := range int64(40) {
			ev.Host[node] = append(ev.Host[node], feature.NodeCell{
				Node: node, MinuteMs: t0 + m*minuteMs, FabricTxBytes: 15.68e9 * 60, FabricCoverMs: minuteMs, Rhythm: feature.Peak{PeriodMs: 435.4, Power: 0.8},
			})
		}
	}
	e := Of(Input{Ev: ev, Members: all, Class: "training"})
	if e.Params == nil {
		t.Fatal("no parameters")
	}
	within(t, "bytes of a step", e.Params.BytesPerStep, 6.83e9, 0.01)
	if p := e.Params.Params; p.Low > 3.374e9 || p.High < 3.374e9 || p.High > 3*p.Low {
		t.Errorf("parameters %+v", p)
	}
	if k := e.Params.TokensPerStep; k.Best < 5e4 || k.Best > 5e5 || k.Low >= k.Best || k.High <= k.Best {
		t.Errorf("tokens %+v", k)
	}
	for i := range ev.Host["b"] {
		ev.Host["b"][i].Rhythm.PeriodMs = 500
	}
	if e = Of(Input{Ev: ev, Members: all, Class: "training"}); e.Params != nil {
		t.Errorf("hosts that do not keep time: %+v", e.Params)
	}
}
