package flops_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

type activity struct {
	ID, Kind, DType string
	Members         []struct {
		Node    string
		GPUs    []int
		StartMs int64 `json:"start_ms"`
		EndMs   int64 `json:"end_ms"`
	}
	Executed *float64 `json:"flops_executed"`
	Model    *float64 `json:"flops_model"`
}

func (a *activity) members() []run.Member {
	var out []run.Member
	for _, m := range a.Members {
		for _, g := range m.GPUs {
			out = append(out, run.Member{Node: m.Node, GPU: g, StartMs: m.StartMs, EndMs: m.EndMs})
		}
	}
	return out
}

// load reads a recording's GPU and host rows, inventory and labels.
func load(t *testing.T, dir string) (feature.Samples, []activity, int64, int64) {
	t.Helper()
	b, err := bundle.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var s feature.Samples
	for _, n := range b.Listed {
		s.Nodes = append(s.Nodes, feature.Node{Node: n.Node, Site: n.Site, GPUModel: n.GPUModel, GPUCount: n.GPUCount, Vantage: n.Vantage, FabricGbps: n.FabricGbps, TDPW: n.TDPW, Listed: true})
	}
	names := map[string]int{}
	for i, c := range bundle.GPUColumns {
		names[c] = i
	}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(b.GPU(func(r bundle.GPURow) error {
		g := feature.GPUSample{Node: r.Node, GPU: r.GPU, TsMs: r.TsMs, AvailableMs: r.ArrivalMs, EnergyJ: r.Value[names["energy_j_total"]], MMACycles: r.Value[names["mma_cycles_total"]]}
		for sig := range feature.NumSignals {
			g.Value[sig] = r.Value[names[feature.SignalNames[sig]]]
		}
		s.GPU = append(s.GPU, g)
		return nil
	}))
	must(b.Host(func(r bundle.HostRow) error {
		s.Host = append(s.Host, feature.HostSample{Node: r.Node, TsMs: r.TsMs, AvailableMs: r.ArrivalMs, PowerW: r.PowerW, CPUFrac: r.CPUFrac, StorageTxBps: r.StorageTxBps, StorageRxBps: r.StorageRxBps})
		return nil
	}))
	raw, err := os.ReadFile(filepath.Join(dir, "truth.json"))
	must(err)
	var truth struct{ Activities []activity }
	must(json.Unmarshal(raw, &truth))
	return s, truth.Activities, b.Manifest.StartMs, b.Manifest.EndMs
}

// mask takes signals away, so that a lower tier must answer.
func mask(s feature.Samples, tier string) feature.Samples {
	nan := math.NaN()
	s.GPU = slices.Clone(s.GPU)
	for i := range s.GPU {
		g := &s.GPU[i]
		drop := func(sig ...feature.Signal) {
			for _, x := range sig {
				g.Value[x] = nan
			}
		}
		if tier != "as recorded" && tier != "real machines" {
			g.MMACycles = nan
		}
		if tier == "energy" || tier == "node power" || tier == "utilization" || tier == "allocation" {
			drop(feature.TensorFrac, feature.HMMAFrac, feature.IMMAFrac, feature.DFMAFrac, feature.FP64Frac, feature.FP32Frac, feature.FP16Frac, feature.SMActiveFrac, feature.DRAMFrac)
		}
		if tier == "node power" || tier == "utilization" || tier == "allocation" {
			g.EnergyJ = nan
		}
		if tier == "node power" || tier == "utilization" || tier == "allocation" {
			drop(feature.PowerW)
		}
		if tier == "node power" || tier == "allocation" {
			drop(feature.UtilFrac)
		}
	}
	if tier == "utilization" || tier == "allocation" {
		s.Host = nil
	}
	return s
}

// score is how a tier did on labelled runs.
type score struct {
	n, within, covered int
	logErr             float64
	width              []float64
}

func (s *score) add(got flops.Interval, want float64) {
	s.n++
	r := got.Best / want
	s.logErr += math.Abs(r - 1)
	if math.Abs(r-1) <= 0.30 {
		s.within++
	}
	if got.Low <= want && want <= got.High {
		s.covered++
	}
	s.width = append(s.width, (got.High-got.Low)/2/got.Best)
}

func (s *score) String() string {
	if s.n == 0 {
		return "none"
	}
	slices.Sort(s.width)
	return fmt.Sprintf("n %2d, MAPE %5.1f %%, within 30 %% %3d %%, 90 %% interval holds %3d %%, median half-width %3.0f %%",
		s.n, 100*s.logErr/float64(s.n), 100*s.within/s.n, 100*s.covered/s.n, 100*s.width[len(s.width)/2])
}

// TestAgainstShared reports each tier's errors on the recordings, with the members and
// classes as labelled. Constants are not fitted to them; what is asserted is that
// nothing is far off and that intervals are honest.
func TestAgainstShared(t *testing.T) {
	t.Parallel()
	dirs := testenv.Bundles(t)
	tiers := []string{"as recorded", "real machines", "tensor_activity", "energy", "node power", "utilization", "allocation"}
	executed, model, other := map[string]*score{}, map[string]*score{}, map[string]*score{}
	for _, k := range tiers {
		executed[k], model[k], other[k] = &score{}, &score{}, &score{}
	}
	for _, dir := range dirs {
		samples, acts, start, end := load(t, dir)
		for _, tier := range tiers {
			if strings.HasPrefix(filepath.Base(dir), "real-") != (tier == "real machines") {
				continue
			}
			ev := feature.BuildEvidence(mask(samples, tier), start, end)
			for i := range acts {
				a := &acts[i]
				est := flops.Of(flops.Input{Ev: ev, Members: a.members(), Class: a.Kind, ToMs: end})
				checkShape(t, a.ID, est)
				isRun := a.Kind == "training" || a.Kind == "finetuning" || a.Kind == "rl"
				if a.Executed != nil && *a.Executed > 0 {
					if isRun {
						executed[tier].add(est.Executed, *a.Executed)
					} else if a.Kind != "notebook" {
						other[tier].add(est.Executed, *a.Executed)
					}
				}
				if a.Model != nil && *a.Model > 0 && isRun {
					model[tier].add(est.Model, *a.Model)
				}
				if testing.Verbose() {
					ref := func(i flops.Interval, w *float64) string {
						if w == nil || *w == 0 {
							return fmt.Sprintf("%.3g", i.Best)
						}
						return fmt.Sprintf("%.2f [%.2f %.2f]", i.Best / *w, i.Low / *w, i.High / *w)
					}
					t.Logf("%-26s %-15s %-28s %-11s %-5s exec %-20s model %-20s cov %.2f %v", filepath.Base(dir), tier, a.ID, a.Kind, a.DType, ref(est.Executed, a.Executed), ref(est.Model, a.Model), est.CoverageFrac, est.Basis)
				}
			}
		}
	}
	for _, k := range tiers {
		t.Logf("%-15s runs: executed %v", k, executed[k])
		t.Logf("%-15s runs: model    %v", k, model[k])
		t.Logf("%-15s other: executed %v", k, other[k])
		for _, s := range []*score{executed[k], model[k]} { // three standard deviations below 90 % of 20
			if s.covered*100 < 70*s.n {
				t.Errorf("%s: the 90 %% interval holds %d of %d", k, s.covered, s.n)
			}
		}
	}
}

func checkShape(t *testing.T, id string, e flops.Estimate) {
	t.Helper()
	for _, i := range []flops.Interval{e.Executed, e.Model} {
		if !(0 <= i.Low && i.Low <= i.Best && i.Best <= i.High) || math.IsInf(i.High, 0) {
			t.Errorf("%s: interval %+v", id, i)
		}
	}
	if e.CoverageFrac < 0 || e.CoverageFrac > 1 {
		t.Errorf("%s: coverage %v", id, e.CoverageFrac)
	}
	if n := len(e.Series); n > 0 && (e.Series[n-1].ExecutedFLOP != e.Executed.Best || e.Series[n-1].ModelFLOP != e.Model.Best) {
		t.Errorf("%s: the series ends at %+v, best is %v, %v", id, e.Series[n-1], e.Executed.Best, e.Model.Best)
	}
	for i := 1; i < len(e.Series); i++ {
		if e.Series[i].EndMs <= e.Series[i-1].EndMs || e.Series[i].ModelFLOP < e.Series[i-1].ModelFLOP {
			t.Errorf("%s: series falls at %d", id, i)
			break
		}
	}
}
