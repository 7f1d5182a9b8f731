package flops_test

import (
	"flag"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/internal/testenv/drawn"
)

var (
	draws = flag.Int("draws", 0, "recordings a family of TestDrawn; 0: one of a few families")
	seed  = flag.Uint64("seed", 0, "of TestDrawn")
)

// TestDrawn measures estimates of runs, with members and classes as labelled, on recordings
// whose constants are drawn: by data type, tier and part. Nothing is fitted to them.
func TestDrawn(t *testing.T) {
	t.Parallel()
	all := map[string]*score{}
	var order []string
	row := func(name string) *score {
		if all[name] == nil {
			all[name] = &score{}
			order = append(order, name)
		}
		return all[name]
	}
	activities, told, tampered, scaledRuns, scaledFound := 0, 0, 0, 0, 0
	families := drawn.Families()
	if *draws == 0 {
		families = []string{"dense", "nvml", "counters", "rl"}
	}
	for _, family := range families {
		for d := range max(*draws, 1) {
			c, err := drawn.New(family, d, *seed)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := c.Write(dir); err != nil {
				t.Fatal(err)
			}
			samples, acts, start, end := load(t, dir)
			ev := feature.BuildEvidence(samples, start, end)
			for i := range acts {
				a := &acts[i]
				est := flops.Of(flops.Input{Ev: ev, Members: a.members(), Class: a.Kind, ToMs: end})
				checkShape(t, a.ID, est)
				activities++
				found := flops.CrossCheck(ev, a.members(), a.Kind)
				if strings.Contains(family, "tamper") {
					tampered += min(len(found), 1)
				} else if len(found) > 0 {
					told++
					t.Logf("contradiction: %s/%d %s %s: %+v", family, d, a.ID, a.Kind, found[0])
				}
				if a.Kind != "training" && a.Kind != "finetuning" && a.Kind != "rl" || a.Model == nil || *a.Model <= 0 {
					continue
				}
				tier := "none"
				if len(est.Basis) > 0 {
					tier = est.Basis[0]
				}
				if tier == flops.BasisMMACycles || tier == flops.BasisTensorActivity {
					tier = "counters"
				}
				row("all model").add(est.Model, *a.Model)
				row("all executed").add(est.Executed, *a.Executed)
				row("tier "+tier+" model").add(est.Model, *a.Model)
				row("tier "+tier+" executed").add(est.Executed, *a.Executed)
				if tier == "counters" && a.Kind != "rl" && est.CoverageFrac > 0.9 {
					if forged, ok := scaled(ev, a.members(), 0.3); ok {
						scaledRuns++
						got := flops.Of(flops.Input{Ev: forged, Members: a.members(), Class: a.Kind, ToMs: end})
						row("scaled by 0.3 executed").add(got.Executed, *a.Executed)
						if len(flops.CrossCheck(forged, a.members(), a.Kind)) > 0 {
							scaledFound++
						}
					}
				}
				if tier == "counters" {
					row("counters "+a.DType+" executed").add(est.Executed, *a.Executed)
					row("counters "+a.DType+" model").add(est.Model, *a.Model)
					row("counters "+a.Kind+" model").add(est.Model, *a.Model)
				}
				model := ""
				for _, n := range samples.Nodes {
					if n.Node == a.Members[0].Node {
						model = n.GPUModel
					}
				}
				t.Logf("%-22s %-8s %-10s %-5s %-28s exec %.2f [%.2f %.2f] model %.2f [%.2f %.2f] cov %.2f %v %s", fmt.Sprintf("%s/%d", family, d), a.ID, a.Kind, a.DType, model,
					est.Executed.Best / *a.Executed, est.Executed.Low / *a.Executed, est.Executed.High / *a.Executed, est.Model.Best / *a.Model, est.Model.Low / *a.Model, est.Model.High / *a.Model,
					est.CoverageFrac, est.Basis, termsOf(est))
			}
		}
	}
	for _, name := range order {
		t.Logf("%-34s %v", name, all[name])
	}
	t.Logf("activity of GPUs scaled by 0.3, their watts left: told of %d of %d runs", scaledFound, scaledRuns)
	t.Logf("contradictions of %d activities: %d where nothing was tampered with, %d where it was", activities, told, tampered)
}

// scaled is the evidence if somebody had scaled the activity of the members' GPUs down and hidden
// their counters, and left their watts; false where the GPUs show no such activity or no watts.
func scaled(ev *feature.Evidence, members []run.Member, k float64) (*feature.Evidence, bool) {
	c := *ev
	c.GPU = maps.Clone(ev.GPU)
	watts := 0
	for _, m := range members {
		key := feature.GPUKey{Node: m.Node, GPU: m.GPU}
		cells := slices.Clone(ev.GPU[key])
		for i := range cells {
			for _, s := range []feature.Signal{feature.TensorFrac, feature.HMMAFrac, feature.SMActiveFrac, feature.DRAMFrac} {
				cells[i].Mean[s] *= k
			}
			cells[i].TensorClockMHz *= k
			cells[i].MMACycles = feature.Counter{}
			if cells[i].Has(feature.PowerW) && cells[i].Has(feature.TensorFrac) && cells[i].Has(feature.SMActiveFrac) {
				watts++
			}
		}
		c.GPU[key] = cells
	}
	return &c, watts > 20
}

func termsOf(e flops.Estimate) string {
	out := ""
	for i, x := range e.Terms {
		if i < 3 {
			out += fmt.Sprintf(" %s %.2f", x.Name, x.LogSD)
		}
	}
	if math.IsNaN(e.LogSD) {
		out += " NaN"
	}
	return out
}
