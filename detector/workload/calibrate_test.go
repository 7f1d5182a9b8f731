package workload_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/workload"
	"github.com/flopwatch/flopwatch/internal/testenv/drawn"
)

var (
	calibrateTo    = flag.String("calibrate", "", "file to which TestCalibrate writes the calibration that it makes of drawn recordings; empty: the one in the repository is checked")
	calibrateDraws = flag.Int("calibrate-draws", 8, "recordings a family")
	calibrateSeed  = flag.Uint64("calibrate-seed", 7000, "seed of the recordings: not that of the table of TestDrawn (0)")
)

// seen is an episode as calibration takes it.
type seen struct {
	family, truth string
	hours, weight float64
	workload.Weighed
}

// variants are telemetry that lacks something.
var variants = []struct {
	weight float64
	cut    func(ev *feature.Evidence) *feature.Evidence
}{
	{1, func(ev *feature.Evidence) *feature.Evidence { return ev }},
	{0.5, func(ev *feature.Evidence) *feature.Evidence { return lacking(ev) }},
	{0.3, func(ev *feature.Evidence) *feature.Evidence { return lacking(ev, feature.FP32Frac, feature.IntFrac) }},
	{0.3, func(ev *feature.Evidence) *feature.Evidence { return lacking(ev, feature.DRAMFrac, feature.FP32Frac) }},
	{0.5, func(ev *feature.Evidence) *feature.Evidence {
		return lacking(ev, feature.SMActiveFrac, feature.SMOccupancyFrac, feature.TensorFrac, feature.HMMAFrac, feature.IMMAFrac, feature.DFMAFrac, feature.FP64Frac, feature.FP32Frac, feature.FP16Frac, feature.IntFrac, feature.DRAMFrac)
	}},
}

// lacking is evidence without words, collectives, flows and some columns.
func lacking(ev *feature.Evidence, columns ...feature.Signal) *feature.Evidence {
	out := *ev
	out.Comm, out.Processes, out.Flows = nil, nil, nil
	if len(columns) == 0 {
		return &out
	}
	out.GPU = make(map[feature.GPUKey][]feature.GPUCell, len(ev.GPU))
	for k, cells := range ev.GPU {
		cells = slices.Clone(cells)
		for i := range cells {
			for _, s := range columns {
				cells[i].CoverMs[s] = 0
				if s == feature.TensorFrac {
					cells[i].TensorClockMs = 0
				}
				if cells[i].RhythmOf == s {
					cells[i].Rhythm = feature.Peak{}
				}
			}
		}
		out.GPU[k] = cells
	}
	return &out
}

// look weighs a recording's episodes, whole and their beginnings.
func look(family string, ev *feature.Evidence, truth []activity) []seen {
	var out []seen
	for _, v := range variants {
		cut := v.cut(ev)
		for _, ep := range workload.Split(cut, run.Episodes(cut)) {
			if ep.Basis < run.BasisPower {
				continue
			}
			for _, part := range []struct{ minutes, weight float64 }{{math.Inf(1), 1}, {45, 0.25}, {20, 0.25}} {
				e := &ep
				if !math.IsInf(part.minutes, 1) {
					if float64(ep.EndMs-ep.StartMs) < 1.3*part.minutes*feature.MinuteMs {
						continue
					}
					if e = workload.Clipped(cut, e, e.StartMs, e.StartMs+int64(part.minutes)*feature.MinuteMs); e == nil {
						continue
					}
				}
				if kind, hours := labelled(e, truth); kind != "" {
					w := v.weight * part.weight
					// The larger counts for more, and not for all.
					out = append(out, seen{family, kind, hours * w, math.Sqrt(hours) * w, workload.Weigh(cut, e)})
				}
			}
		}
	}
	return out
}

// labelled is the kind of activity that an episode mostly is.
func labelled(ep *run.Episode, truth []activity) (kind string, hours float64) {
	over := map[string]float64{}
	for _, m := range ep.Members {
		hours += float64(m.EndMs-m.StartMs) / 3.6e6
		for _, a := range truth {
			for _, x := range a.Members {
				if x.Node == m.Node && slices.Contains(x.GPUs, m.GPU) {
					over[headline(a.Kind)] += math.Max(0, float64(min(x.EndMs, m.EndMs)-max(x.StartMs, m.StartMs))/3.6e6)
				}
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(over)) {
		if over[k] > 0.7*hours {
			if kind != "" { // two at once
				return "", hours
			}
			kind = k
		}
	}
	return kind, hours
}

// right is the probability that a calibration gives to what is so; a finetuning counts as a
// training.
func (s *seen) right(c workload.Sharp) float64 {
	p := s.Probs(c)
	if s.truth == workload.Training {
		return p[workload.Training] + p[workload.Finetuning]
	}
	return p[s.truth]
}

// loss is the mean log loss, of classes and of being a training at all.
func loss(rows []seen, c workload.Sharp) float64 {
	var sum, n float64
	for i := range rows {
		s := &rows[i]
		p := s.Probs(c)
		training := p[workload.Training] + p[workload.Finetuning] + p[workload.RL]
		if !workload.IsRun(s.truth) {
			training = 1 - training
		}
		sum -= s.weight * (math.Log(0.01+0.99*s.right(c)) + math.Log(0.01+0.99*training))
		n += s.weight
	}
	return sum / math.Max(n, 1e-9)
}

// sharpen finds slope and offset on a grid. Both are held towards what is cautious: how
// common trainings are elsewhere is not known.
func sharpen(rows []seen) workload.Sharp {
	out, best := workload.Sharp{Slope: 0.75}, math.Inf(1)
	for slope := 4; slope <= 13; slope++ {
		for offset := -2; offset <= 2; offset++ {
			c := workload.Sharp{Slope: float64(slope) / 10, Offset: float64(offset) / 5}
			held := 0.3*c.Offset*c.Offset + 0.1*(c.Slope-0.9)*(c.Slope-0.9)
			if l := loss(rows, c) + held; l < best-1e-9 {
				best, out = l, c
			}
		}
	}
	return out
}

func of(rows []seen, keep func(s *seen) bool) []seen {
	var out []seen
	for i := range rows {
		if keep(&rows[i]) {
			out = append(out, rows[i])
		}
	}
	return out
}

// reliability prints what is said and what is so, in GPU-hours.
func reliability(t *testing.T, title string, rows []seen, sharp func(s *seen) workload.Sharp) {
	t.Helper()
	type sums struct{ run, hit, other, wrong, right, all float64 }
	type bin struct{ h, said, so float64 }
	by := map[string]*sums{}
	var bins, runs [10]bin
	for i := range rows {
		s := &rows[i]
		p := s.Probs(sharp(s))
		class, said := workload.Named(p)
		training := p[workload.Training] + p[workload.Finetuning] + p[workload.RL]
		for _, key := range []string{s.family, "all"} {
			x := by[key]
			if x == nil {
				x = &sums{}
				by[key] = x
			}
			x.all += s.hours
			if headline(class) == s.truth {
				x.right += s.hours
			}
			hit := 0.0
			if workload.IsRun(class) {
				hit = s.hours
			}
			if workload.IsRun(s.truth) {
				x.run, x.hit = x.run+s.hours, x.hit+hit
			} else {
				x.other, x.wrong = x.other+s.hours, x.wrong+hit
			}
		}
		add := func(b *bin, said float64, so bool) {
			b.h, b.said = b.h+s.hours, b.said+s.hours*said
			if so {
				b.so += s.hours
			}
		}
		if class != workload.Unknown {
			add(&bins[min(9, int(10*said))], said, headline(class) == s.truth)
		}
		add(&runs[min(9, int(10*training))], training, workload.IsRun(s.truth))
	}
	t.Log(title)
	for _, f := range append(drawn.Families(), "all") {
		if x := by[f]; x != nil {
			t.Logf("  %-12s right %5.1f %%  training recall %5.1f %% of %6.0f GPU-h  false positives %5.1f %% of %6.0f", f, 100*x.right/x.all, 100*x.hit/math.Max(x.run, 1e-9), x.run, 100*x.wrong/math.Max(x.other, 1e-9), x.other)
		}
	}
	for _, l := range []struct {
		name string
		bins [10]bin
	}{{"class said with, right, GPU-h:", bins}, {"training said with, so, GPU-h:", runs}} {
		line := "  " + l.name
		for _, b := range l.bins {
			if b.h > 0 {
				line += fmt.Sprintf("  %.2f %.2f (%.0f)", b.said/b.h, b.so/b.h, b.h)
			}
		}
		t.Log(line)
	}
}

// TestCalibrate makes the calibration (make calibration), or checks that the one in the
// repository is whole.
func TestCalibrate(t *testing.T) {
	if *calibrateTo == "" {
		c, err := workload.BuiltIn()
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Families) == 0 {
			t.Error("the calibration was never made: make calibration")
		}
		return
	}
	var rows []seen
	for _, family := range drawn.Families() {
		for n := 1; n <= *calibrateDraws; n++ {
			ev, truth := draw(t, family, n)
			rows = append(rows, look(family, ev, truth)...)
		}
	}
	before := workload.Sharp{Slope: 0.75}
	out := workload.Calibration{
		About:    "How sums of log-odds become probabilities, by the instruments that were there (detector/workload/seen.go). Made of drawn recordings alone, of no shared one.",
		License:  "The recordings are this project's own (internal/testenv/drawn); the numbers are under the repository's licence.",
		Command:  "make calibration",
		Families: drawn.Families(), Draws: *calibrateDraws, Seed: *calibrateSeed, Bases: map[string]workload.Sharp{},
	}
	left := map[[2]string]workload.Sharp{} // basis, family left out
	for _, b := range workload.Bases {
		own := of(rows, func(s *seen) bool { return s.Basis == b })
		if len(own) == 0 {
			t.Fatalf("no episode of basis %s: more draws are needed", b)
		}
		c := sharpen(own)
		c.Before = math.Round(1000*loss(own, before)) / 1000
		var sum, n float64
		for _, f := range drawn.Families() {
			held := of(own, func(s *seen) bool { return s.family == f })
			left[[2]string{b, f}] = sharpen(of(own, func(s *seen) bool { return s.family != f }))
			w := 0.0
			for i := range held {
				w += held[i].weight
				c.GPUHours += held[i].hours
			}
			sum, n = sum+w*loss(held, left[[2]string{b, f}]), n+w
		}
		c.After, c.GPUHours = math.Round(1000*sum/n)/1000, math.Round(c.GPUHours)
		out.Bases[b] = c
		t.Logf("%-8s slope %.2f, offset %+.1f; log loss %.3f by hand, %.3f of families left out; %.0f GPU-hours", b, c.Slope, c.Offset, c.Before, c.After, c.GPUHours)
	}
	reliability(t, "before: slope 0.75 everywhere", rows, func(*seen) workload.Sharp { return before })
	reliability(t, "each family, calibrated on the others", rows, func(s *seen) workload.Sharp { return left[[2]string{s.Basis, s.family}] })
	raw, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := workload.ParseCalibration(raw); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*calibrateTo, append(raw, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}

// draw makes a recording and its evidence.
func draw(t *testing.T, family string, n int) (*feature.Evidence, []activity) {
	t.Helper()
	c, err := drawn.New(family, n, *calibrateSeed)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := c.Write(dir); err != nil {
		t.Fatal(err)
	}
	l := load(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	ev := feature.BuildEvidence(l.samples, l.startMs, l.endMs)
	for k, n := range ev.Nodes { // as the detector does on loading
		if a, ok := flops.Lookup(n.GPUModel); ok && !(n.TDPW > 0) && a.TDPW > 0 {
			n.TDPW = a.TDPW
			ev.Nodes[k] = n
		}
	}
	return ev, l.truth
}
