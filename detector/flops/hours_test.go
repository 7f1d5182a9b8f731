package flops_test

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
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

// byHours is evidence whose hours that lie wholly within one interval are the roll-ups' own. No program judges from those: the
// detector reads minutes, and hours are for views and for whoever asks after the minutes have expired. What is shown here is that
// they hold enough for it. The hours in which a member begins or ends stay minutes.
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

// TestHoursGiveTheSameFLOPs: an estimate from roll-ups, of rows as the store keeps them, is that from the raw rows: to 0.22 %
// where cycles or activity tell, and to 1.2 % where watts do, as the curve from watts to FLOPs is bent and an hour has one mean.
// internal/store/CODECS.md states these.
func TestHoursGiveTheSameFLOPs(t *testing.T) {
	t.Parallel()
	c := comparison{activity: 2.2e-3, watts: 0.012}
	for _, dir := range testenv.Bundles(t) {
		samples, acts, start, end := load(t, dir)
		c.compare(t, filepath.Base(dir), samples, acts, start, end)
	}
	c.done(t)
}

// TestHoursThroughGapsAndResets: the same holds where counters began anew. Where hosts were silent within the hours, for up to half
// an hour of each, it is 1.4 % where cycles tell and less than 0.1 % where watts do; where counters began anew in the silence as
// well, 4.6 % and 3.5 %. A counter tells what was done in the silence, but for what came before it began anew; an hour spreads its
// increments evenly, into the silence and out of it. Of cycles only those beside an activity are known to be of the integer pipe,
// where each is twice the work; the curve of watts is bent. What minutes give is what rows give, gaps or not.
func TestHoursThroughGapsAndResets(t *testing.T) {
	t.Parallel()
	const minute = feature.MinuteMs
	samples, acts, start, end := load(t, filepath.Join(testenv.Root(t), "deploy", "recordings", "clean-mix"))
	gaps := func(s feature.Samples, seed uint64) feature.Samples {
		chance := rand.New(rand.NewPCG(seed, 22))
		silent := map[string][][2]int64{}
		for _, n := range s.Nodes {
			for at := start; at < end; { // a gap every half hour or so
				at += 15*minute + chance.Int64N(30*minute)
				long := 1000 + chance.Int64N([]int64{minute, 5 * minute, 30 * minute}[chance.IntN(3)])
				silent[n.Node] = append(silent[n.Node], [2]int64{at, at + long})
				at += long
			}
		}
		s.GPU = slices.DeleteFunc(slices.Clone(s.GPU), func(r feature.GPUSample) bool {
			return slices.ContainsFunc(silent[r.Node], func(g [2]int64) bool { return r.TsMs >= g[0] && r.TsMs < g[1] })
		})
		return s
	}
	resets := func(s feature.Samples) feature.Samples { // a driver is loaded again in the middle of each hour
		last := map[feature.GPUKey][3]float64{} // hour, and what the counters began with in it
		s.GPU = slices.Clone(s.GPU)
		for i := range s.GPU {
			g := &s.GPU[i]
			k, part := feature.GPUKey{Node: g.Node, GPU: g.GPU}, float64((g.TsMs+feature.HourMs/2)/feature.HourMs)
			if was, ok := last[k]; !ok || was[0] != part {
				last[k] = [3]float64{part, g.EnergyJ, g.MMACycles}
			}
			g.EnergyJ, g.MMACycles = g.EnergyJ-last[k][1], g.MMACycles-last[k][2]
		}
		return s
	}
	c := comparison{activity: 2.2e-3, watts: 0.012}
	c.compare(t, "as it is", samples, acts, start, end)
	c.compare(t, "counters begin anew", resets(samples), acts, start, end)
	c.done(t)
	alone, both := comparison{activity: 0.014, watts: 1e-3}, comparison{activity: 0.0461, watts: 0.035}
	for seed := range uint64(3) {
		alone.compare(t, fmt.Sprint("gaps ", seed), gaps(samples, seed), acts, start, end)
		both.compare(t, fmt.Sprint("gaps and counters ", seed), gaps(resets(samples), seed), acts, start, end)
	}
	alone.done(t)
	both.done(t)
}

// comparison is of estimates from hours with those from minutes and from rows.
type comparison struct {
	activity, watts float64 // how far they may lie apart, by what tells
	worst           map[string]float64
	compared, hours int
}

func (c *comparison) compare(t *testing.T, name string, samples feature.Samples, acts []activity, start, end int64) {
	t.Helper()
	for tier, bound := range map[string]float64{"as recorded": c.activity, "energy": c.watts} {
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
				t.Errorf("%s, %s, %s: %g from minutes as stored, %g from rows", name, tier, a.ID, byMinutes, want)
			}
			off := math.Abs(got/want - 1)
			if c.worst == nil {
				c.worst = map[string]float64{}
			}
			if c.worst[tier], c.compared, c.hours = max(c.worst[tier], off), c.compared+1, c.hours+n; off > bound {
				t.Errorf("%s, %s, %s (%s): %g from hours, %g from rows: off by %.2g", name, tier, a.ID, a.Kind, got, want, off)
			}
		}
	}
}

func (c *comparison) done(t *testing.T) {
	t.Helper()
	t.Logf("%d estimates over %d GPU-hours; worst %v", c.compared, c.hours, c.worst)
	if c.compared == 0 {
		t.Error("nothing was compared")
	}
}
