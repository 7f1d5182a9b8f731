package flops_test

import (
	"math"
	"math/bits"
	"path/filepath"
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// kept rounds samples as the store keeps them: internal/store/CODECS.md.
func kept(s feature.Samples) feature.Samples {
	step := func(v *float64, scale float64, to uint64) {
		if !math.IsNaN(*v) {
			*v = float64((uint64(math.Round(*v*scale))+to/2)/to*to) / scale
		}
	}
	digits := func(v *float64) {
		if !math.IsNaN(*v) {
			step(v, 1, 1<<max(bits.Len64(uint64(*v))-11, 0))
		}
	}
	s.GPU = slices.Clone(s.GPU)
	for i := range s.GPU {
		g := &s.GPU[i]
		step(&g.EnergyJ, 1000, 128)
		step(&g.MMACycles, 1, 1024)
		step(&g.Value[feature.PowerW], 1000, 64)
		for _, sig := range []feature.Signal{feature.PCIeTxBps, feature.PCIeRxBps, feature.NVLinkTxBps, feature.NVLinkRxBps} {
			digits(&g.Value[sig])
		}
	}
	return s
}

// byHours is evidence whose hours that lie wholly within one interval are the roll-ups' own: what a long run is judged from
// when its minutes are gone. The hours in which a member begins or ends stay minutes.
func byHours(ev *feature.Evidence, in flops.Input) (out *feature.Evidence, hours int) {
	c := *ev
	c.GPU = map[feature.GPUKey][]feature.GPUCell{}
	for k, cells := range ev.GPU {
		var now []feature.GPUCell
		for i := 0; i < len(cells); {
			hour := feature.HourOf(cells[i].MinuteMs)
			j := i
			for j < len(cells) && cells[j].MinuteMs < hour+feature.HourMs {
				j++
			}
			whole := false
			for _, m := range in.Members {
				whole = whole || m.Node == k.Node && m.GPU == k.GPU && m.StartMs <= hour && m.EndMs >= hour+feature.HourMs
			}
			if h, ok := feature.ReduceHour(cells[i:j], hour); ok && whole {
				now = append(now, h.Cells()...)
				hours++
			} else {
				now = append(now, cells[i:j]...)
			}
			i = j
		}
		c.GPU[k] = now
	}
	return &c, hours
}

// TestHoursGiveTheSameFLOPs: an estimate from roll-ups, of rows as the store keeps them, is that from the raw rows: to 0.5 %
// where cycles or activity tell, and to 3 % where watts do, as the curve from watts to FLOPs is bent and an hour has one mean.
// (Over all recordings and tiers it was 0.22 % and 1.04 %.)
func TestHoursGiveTheSameFLOPs(t *testing.T) {
	t.Parallel()
	bounds := map[string]float64{"as recorded": 5e-3, "energy": 0.03}
	worst, compared, hours := map[string]float64{}, 0, 0
	for _, dir := range testenv.Bundles(t) {
		samples, acts, start, end := load(t, dir)
		for tier, bound := range bounds {
			raw := feature.BuildEvidence(mask(samples, tier), start, end)
			minutes := feature.BuildEvidence(kept(mask(samples, tier)), start, end)
			for _, a := range acts {
				in := flops.Input{Ev: raw, Members: a.members(), Class: a.Kind}
				want := flops.Measure(in).Estimate(a.Kind).Executed.Best
				if in.Ev = minutes; want <= 0 {
					continue
				}
				ev, n := byHours(minutes, in)
				if n == 0 {
					continue
				}
				byMinutes := flops.Measure(in).Estimate(a.Kind).Executed.Best
				in.Ev = ev
				got := flops.Measure(in).Estimate(a.Kind).Executed.Best
				if off := math.Abs(byMinutes/want - 1); off > 1e-4 {
					t.Errorf("%s, %s, %s: %g from minutes as stored, %g from rows", filepath.Base(dir), tier, a.ID, byMinutes, want)
				}
				off := math.Abs(got/want - 1)
				if worst[tier], compared, hours = max(worst[tier], off), compared+1, hours+n; off > bound {
					t.Errorf("%s, %s, %s (%s): %g from hours, %g from rows: off by %.2g", filepath.Base(dir), tier, a.ID, a.Kind, got, want, off)
				}
			}
		}
	}
	t.Logf("%d estimates over %d GPU-hours; worst %v", compared, hours, worst)
	if compared == 0 {
		t.Error("nothing was compared")
	}
}
