package report

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

type truthMember struct {
	Node    string
	GPUs    []int
	StartMs int64 `json:"start_ms"`
	EndMs   int64 `json:"end_ms"`
}

type truthActivity struct {
	ID, Kind   string
	Members    []truthMember
	Accounts   []string
	FLOPsModel *float64 `json:"flops_model"`
}

type truthFinding struct {
	Profile                         *string
	Limb                            string
	Runs, Orders, Accounts          []string
	Parties                         []string
	KnowableMs                      int64 `json:"knowable_ms"`
	EarliestMs                      int64 `json:"earliest_ms"`
	Required, Marginal, Undecidable bool
	Note                            string
}

type recording struct {
	ev    *feature.Evidence
	truth struct {
		Activities []truthActivity
		Expect     struct{ Findings []truthFinding }
	}
	manifest bundle.Manifest
	graph    *identity.Graph
}

// peak16 is enough of the accelerator table for the shared recordings.
func peak16(model string) (float64, bool) {
	for name, peak := range map[string]float64{"A100": 312e12, "H100 80GB HBM3": 989.4e12, "H800": 989.4e12, "H200": 989.4e12} {
		if strings.Contains(model, name) {
			return peak, true
		}
	}
	return 0, false
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, dir string) *recording {
	t.Helper()
	b, err := bundle.Open(dir)
	must(t, err)
	r := &recording{manifest: b.Manifest}
	var s feature.Samples
	for _, n := range b.Listed {
		s.Nodes = append(s.Nodes, feature.Node{
			Node: n.Node, Site: n.Site, GPUModel: n.GPUModel, GPUCount: max(n.GPUCount, 0), FabricGbps: n.FabricGbps, Vantage: n.Vantage, TDPW: n.TDPW, Listed: true,
		})
	}
	names := map[string]bundle.GPUValue{}
	for i, name := range bundle.GPUColumns {
		names[name] = bundle.GPUValue(i)
	}
	must(t, b.GPU(func(g bundle.GPURow) error {
		row := feature.GPUSample{Node: g.Node, GPU: g.GPU, TsMs: g.TsMs, EnergyJ: g.Value[bundle.EnergyJTotal], MMACycles: g.Value[bundle.MMACyclesTotal]}
		for i, name := range feature.SignalNames {
			row.Value[i] = g.Value[names[name]]
		}
		s.GPU = append(s.GPU, row)
		return nil
	}))
	must(t, b.Host(func(h bundle.HostRow) error {
		s.Host = append(s.Host, feature.HostSample{Node: h.Node, TsMs: h.TsMs, PowerW: h.PowerW, CPUFrac: math.NaN(), StorageTxBps: math.NaN(), StorageRxBps: math.NaN()})
		return nil
	}))
	must(t, b.Allocations(func(a bundle.AllocationRow) error {
		s.Allocations = append(s.Allocations, feature.Allocation{Account: a.Account, Node: a.Node, GPUs: a.GPUs, StartMs: a.StartMs, EndMs: a.EndMs})
		return nil
	}))
	must(t, b.Orders(func(o bundle.OrderRow) error {
		s.Orders = append(s.Orders, feature.Order{
			Order: o.Order, Account: o.Account, GPUModel: o.GPUModel, DeclaredUse: o.DeclaredUse, AmendedMs: o.AmendedMs,
			StartMs: o.StartMs, EndMs: o.EndMs, GPUCount: o.GPUCount, FabricGbps: o.FabricGbps,
		})
		return nil
	}))
	r.ev = feature.BuildEvidence(s, b.Manifest.StartMs, math.MaxInt64-1)
	if f, ferr := os.Open(filepath.Join(dir, "parties.jsonl")); ferr == nil {
		parties, issues := identity.Import(f)
		must(t, f.Close())
		if len(issues) > 0 {
			t.Fatal(issues)
		}
		r.graph = identity.FromParties(parties)
	} else {
		r.graph = identity.NewGraph(nil)
	}
	text, err := os.ReadFile(filepath.Join(dir, "truth.json"))
	must(t, err)
	must(t, json.Unmarshal(text, &r.truth))
	return r
}

// cut shows the evidence as of a moment, as the detector would hand it over.
func (r *recording) cut(atMs int64) *feature.Evidence {
	ev := &feature.Evidence{StartMs: r.ev.StartMs, EndMs: atMs, Nodes: r.ev.Nodes, GPU: map[feature.GPUKey][]feature.GPUCell{}, Host: map[string][]feature.NodeCell{}}
	for k, cells := range r.ev.GPU {
		if n := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs+feature.MinuteMs > atMs }); n > 0 {
			ev.GPU[k] = cells[:n]
		}
	}
	for k, cells := range r.ev.Host {
		if n := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs+feature.MinuteMs > atMs }); n > 0 {
			ev.Host[k] = cells[:n]
		}
	}
	for _, a := range r.ev.Allocations {
		if a.StartMs > atMs {
			continue
		}
		if a.EndMs > atMs {
			a.EndMs = 0
		}
		ev.Allocations = append(ev.Allocations, a)
	}
	for _, o := range r.ev.Orders {
		if o.AmendedMs <= atMs {
			ev.Orders = append(ev.Orders, o)
		}
	}
	return ev
}

// states makes activities from the labels: FLOPs spread evenly over GPU-time.
func (r *recording) states(atMs int64) []RunState {
	var out []RunState
	for _, a := range r.truth.Activities {
		s := RunState{Run: run.Run{ID: a.ID, Class: a.Kind, ClassProb: 1, StartMs: math.MaxInt64}}
		total := 0.0
		for _, m := range a.Members {
			total += float64(m.EndMs-m.StartMs) * float64(len(m.GPUs))
			if m.StartMs >= atMs {
				continue
			}
			for _, g := range m.GPUs {
				s.Run.Members = append(s.Run.Members, run.Member{Node: m.Node, GPU: g, StartMs: m.StartMs, EndMs: min(m.EndMs, atMs)})
			}
			s.Run.StartMs, s.Run.EndMs = min(s.Run.StartMs, m.StartMs), max(s.Run.EndMs, min(m.EndMs, atMs))
			s.Run.Open = s.Run.Open || m.EndMs >= atMs
		}
		if s.Run.Members == nil {
			continue
		}
		for _, al := range r.ev.Allocations {
			for _, m := range s.Run.Members {
				if al.Node == m.Node && al.StartMs < m.EndMs && (al.EndMs == 0 || al.EndMs > m.StartMs) && slices.Contains(al.GPUs, m.GPU) && !slices.Contains(s.Run.Accounts, al.Account) {
					s.Run.Accounts = append(s.Run.Accounts, al.Account)
				}
			}
		}
		slices.Sort(s.Run.Accounts)
		model := 0.0
		if a.FLOPsModel != nil {
			model = *a.FLOPsModel
		}
		for at := s.Run.StartMs; at < s.Run.EndMs; {
			at = min((at/feature.MinuteMs+1)*feature.MinuteMs, s.Run.EndMs)
			done := 0.0
			for _, m := range a.Members {
				done += float64(max(0, min(at, m.EndMs)-m.StartMs)) * float64(len(m.GPUs))
			}
			s.Est.Series = append(s.Est.Series, flops.Point{EndMs: at, ModelFLOP: model * done / total, ExecutedFLOP: model * done / total})
		}
		best := s.Est.Series[len(s.Est.Series)-1].ModelFLOP
		s.Est.Model = flops.Interval{Low: 0.8 * best, Best: best, High: 1.25 * best}
		s.Est.Basis, s.Est.CoverageFrac = []string{flops.BasisMMACycles}, 1
		out = append(out, s)
	}
	return out
}

func (r *recording) profiles() []Profile {
	var out []Profile
	for _, p := range r.manifest.Profiles {
		q := Profile{Name: p.Name, LimitFLOP: p.LimitFLOPs, Status: Custom, DeadlineMs: 15 * 24 * 3600_000}
		if p.Cluster != nil {
			q.Cluster = &ClusterLimb{Gbps: p.Cluster.Gbps, OpsPerS: p.Cluster.OpsPerS}
		}
		out = append(out, q)
	}
	return out
}

// replay judges every step of the recording as the detector does.
func (r *recording) replay(stepMs int64) []Finding {
	prev := map[string]Finding{}
	var last []Finding
	before := int64(0)
	for at := r.manifest.StartMs + stepMs; before < r.manifest.EndMs; at += stepMs {
		at = min(at, r.manifest.EndMs)
		last = Evaluate(Input{
			AtMs: at, StartMs: r.manifest.StartMs, PrevAtMs: before, Ev: r.cut(at), Runs: r.states(at), Resolve: r.graph.Resolve,
			Profiles: r.profiles(), Peak16: peak16, SpecialJurisdictions: r.manifest.SpecialJurisdictions, Prev: prev,
		})
		prev = map[string]Finding{}
		for _, f := range last {
			prev[f.Finding] = f
		}
		before = at
	}
	return last
}

func key(profile *string, limb string, runs, orders, accounts []string) string {
	subject := runs
	switch limb {
	case Capacity, ChangedArrangement:
		subject = orders
	case Cluster, Telemetry:
		subject = accounts
	case RedFlag:
		if len(runs) == 0 {
			subject = accounts
		}
	}
	name := "-"
	if profile != nil {
		name = *profile
	}
	return name + " " + limb + " " + strings.Join(subject, ",")
}

// TestSharedBundles judges the labelled recordings, activities and FLOPs taken from the
// labels, and wants every finding that is required, none that is not listed, each with
// its parties, within two minutes of the time it could be known.
func TestSharedBundles(t *testing.T) {
	t.Parallel()
	for _, dir := range testenv.Bundles(t) {
		name := filepath.Base(dir)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := load(t, dir)
			step := int64(feature.MinuteMs)
			if strings.HasPrefix(name, "real-") {
				step = 30 * feature.MinuteMs // days of watts; the labels there are not required
			}
			got := r.replay(step)
			// A judgement at the end alone, as after a restart, names the same subjects.
			once := Evaluate(Input{
				AtMs: r.manifest.EndMs, StartMs: r.manifest.StartMs, Ev: r.cut(r.manifest.EndMs), Runs: r.states(r.manifest.EndMs), Resolve: r.graph.Resolve,
				Profiles: r.profiles(), Peak16: peak16, SpecialJurisdictions: r.manifest.SpecialJurisdictions,
			})
			got, once = findingsOf(got), findingsOf(once)
			if a, b := ids(got), ids(once); !slices.Equal(a, b) {
				t.Errorf("judged step by step %q, judged once %q", a, b)
			}
			want := map[string]truthFinding{}
			for _, w := range r.truth.Expect.Findings {
				want[key(w.Profile, w.Limb, w.Runs, w.Orders, w.Accounts)] = w
			}
			seen := map[string]bool{}
			for _, f := range got {
				k := key(f.Profile, f.Limb, f.Runs, f.Orders, f.Accounts)
				seen[k] = true
				w, ok := want[k]
				if !ok {
					t.Errorf("not expected: %s: %s", k, f.Explanation)
					continue
				}
				if !slices.Equal(f.Parties, w.Parties) {
					t.Errorf("%s: parties %v, want %v", k, f.Parties, w.Parties)
				}
				late := f.KnownAtMs - w.KnowableMs
				// Series made of labels lack the start-up before step one: crossings come early.
				grace := 2 * step
				if f.Limb == Actual {
					grace = 10 * step
				}
				if w.Required && (late > grace || late < -grace) {
					t.Errorf("%s: known %s late", k, fmt.Sprintf("%.1f min", float64(late)/feature.MinuteMs))
				}
			}
			for k, w := range want {
				if w.Required && !seen[k] {
					t.Errorf("missing: %s (%s)", k, w.Note)
				}
			}
		})
	}
}

// findingsOf leaves out what only asks.
func findingsOf(found []Finding) []Finding {
	return slices.DeleteFunc(slices.Clone(found), func(f Finding) bool { return !IsFinding(f.Limb) })
}

func ids(found []Finding) []string {
	out := make([]string, 0, len(found))
	for _, f := range found {
		out = append(out, key(f.Profile, f.Limb, f.Runs, f.Orders, f.Accounts))
	}
	slices.Sort(out)
	return out
}

// BenchmarkEvaluate judges one more minute of a fleet of 1,000 nodes after six hours.
func BenchmarkEvaluate(b *testing.B) {
	in := fleet()
	in.AtMs, in.PrevAtMs = t0+6*hour, t0+6*hour-minute
	for n := range 1000 {
		name := fmt.Sprintf("n%d", n)
		in.Ev.Nodes[name] = feature.Node{Node: name, Site: "s1", GPUModel: h100, GPUCount: 8, FabricGbps: 3200, TDPW: 700, Listed: true}
		cells(&in, name, t0, in.AtMs, 600, 0.9, 6500)
		in.Ev.Allocations = append(in.Ev.Allocations, rent("foreign", name, t0, 0))
	}
	in.Runs = []RunState{training("r", t0, in.AtMs, 1e18, "foreign")}
	b.ReportAllocs()
	for b.Loop() {
		Evaluate(in)
	}
}
