package flops

import (
	"math"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// every part of the table, seen at work under a name that tells nothing or another's, is found
// again up to parts that compute alike.
func TestIdentify(t *testing.T) {
	t.Parallel()
	rows, err := Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range rows {
		if a.Vendor != "NVIDIA" || a.BoostMHz == 0 || a.MemBytes == 0 {
			continue
		}
		l := limits{memBytes: 0.93 * a.MemBytes, clockMHz: a.BoostMHz, watts: 0.97 * a.TDPW, linkBps: 0.3 * a.LinkBps, tensor: a.Arch != "Pascal", cycles: gpm(&a)}
		g := identify("NVIDIA Graphics Device", nil, 0, l)
		if off := math.Abs(math.Log(g.acc.FLOPPerCycle() / a.FLOPPerCycle())); off > 0.1+z90*g.acc.LogSD {
			t.Errorf("%s is taken for %s, %.2f times its rate, spread %.2f", a.Key, g.acc.Key, g.acc.FLOPPerCycle()/a.FLOPPerCycle(), g.acc.LogSD)
		}
		if g = identify(a.Name, &a, 0, l); g.named < 0.9 {
			t.Errorf("%s, rightly named, is doubted: %.3f, likelier %s", a.Key, g.named, g.likely)
		}
	}
	h100, _ := Lookup("NVIDIA H100 80GB HBM3")
	for _, tt := range []struct {
		what string
		l    limits
	}{
		{"more memory than it has", limits{memBytes: 170e9, clockMHz: 1980, watts: 690}},
		{"a clock that it has not", limits{memBytes: 70e9, clockMHz: 2062, watts: 690}},
		{"watts that it has not", limits{memBytes: 70e9, clockMHz: 1950, watts: 980}},
	} {
		if g := identify("NVIDIA H100 80GB HBM3", &h100, 0, tt.l); g.named > 0.25 {
			t.Errorf("%s: still an H100 with %.2f", tt.what, g.named)
		}
	}
	for _, l := range []limits{{}, {memBytes: 3e9, clockMHz: 1200, watts: 90}, {memBytes: 79e9, clockMHz: 1980, watts: 730, linkBps: 300e9}} {
		if g := identify("NVIDIA H100 80GB HBM3", &h100, 0, l); g.named < 0.9 {
			t.Errorf("%+v: an H100 with %.2f, likelier %s", l, g.named, g.likely)
		}
	}
	if g := identify("NVIDIA R300 Accelerator", nil, 0, limits{}); g.acc.LogSD < 0.4 {
		t.Errorf("a part of which nothing is known: %s, spread %.2f", g.acc.Key, g.acc.LogSD)
	}
	if g := identify("NVIDIA Z900", nil, 1600, limits{memBytes: 390e9, clockMHz: 2300, watts: 1500}); g.likely != "" || g.acc.LogSD < 0.3 {
		t.Errorf("a part of no table: %s, spread %.2f", g.likely, g.acc.LogSD)
	}
}

// An H100 under the name of a smaller part: said, and the estimate follows what it shows.
func TestWrongPart(t *testing.T) {
	t.Parallel()
	of := func(model string) (Estimate, []Contradiction) {
		ev := fleet(model, 8, 60, 10_000, func(_ int, _ int64, s *feature.GPUSample) bool {
			v := &s.Value
			v[feature.TensorFrac], v[feature.SMActiveFrac], v[feature.SMClockMHz], v[feature.PowerW] = 0.45, 0.75, 1980, 650
			v[feature.MemUsedBytes], v[feature.NVLinkTxBps] = 74e9, 90e9
			return true
		})
		all := members(8, 60)
		return Of(Input{Ev: ev, Members: all, Class: "training"}), CrossCheck(ev, all, "training")
	}
	right, none := of(h100)
	if len(none) != 0 {
		t.Errorf("contradictions of an H100: %+v", none)
	}
	wrong, found := of("NVIDIA A100-SXM4-40GB")
	if len(found) != 1 || found[0].Kind != CrossPart || found[0].GPU != -1 || found[0].Reason == "" {
		t.Errorf("an H100 said to be an A100: %+v", found)
	}
	if wrong.Executed.Low > right.Executed.Best || wrong.Executed.High < right.Executed.Best {
		t.Errorf("as an A100 %+v, as an H100 %+v", wrong.Executed, right.Executed)
	}
	unknown, _ := of("Accelerator")
	within(t, "an H100 without a name", unknown.Executed.Best, right.Executed.Best, 0.1)
}
