package workload_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/workload"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// loaded is a recording as samples, with its truth, which tests alone may open.
type loaded struct {
	name           string
	samples        feature.Samples
	startMs, endMs int64
	truth          []activity
}

type activity struct {
	ID      string `json:"id"`
	Kind    string `json:"kind"`
	Members []struct {
		Node    string `json:"node"`
		GPUs    []int  `json:"gpus"`
		StartMs int64  `json:"start_ms"`
		EndMs   int64  `json:"end_ms"`
	} `json:"members"`
}

func load(tb testing.TB, dir string) *loaded {
	tb.Helper()
	b, err := bundle.Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	l := &loaded{name: filepath.Base(dir), startMs: b.Manifest.StartMs, endMs: b.Manifest.EndMs}
	s := &l.samples
	for _, n := range b.Listed {
		s.Nodes = append(s.Nodes, feature.Node{Node: n.Node, Site: n.Site, GPUModel: n.GPUModel, GPUCount: n.GPUCount, FabricGbps: n.FabricGbps, Vantage: n.Vantage, TDPW: n.TDPW, Listed: true})
	}
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	column := map[bundle.GPUValue]feature.Signal{}
	for i, name := range bundle.GPUColumns {
		if j := slices.Index(feature.SignalNames[:], name); j >= 0 {
			column[bundle.GPUValue(i)] = feature.Signal(j)
		}
	}
	must(b.GPU(func(r bundle.GPURow) error {
		g := feature.GPUSample{Node: r.Node, GPU: r.GPU, TsMs: r.TsMs, AvailableMs: r.ArrivalMs, EnergyJ: r.Value[bundle.EnergyJTotal], MMACycles: r.Value[bundle.MMACyclesTotal]}
		for i, j := range column {
			g.Value[j] = r.Value[i]
		}
		s.GPU = append(s.GPU, g)
		return nil
	}))
	must(b.Host(func(r bundle.HostRow) error {
		s.Host = append(s.Host, feature.HostSample{Node: r.Node, TsMs: r.TsMs, AvailableMs: r.ArrivalMs, PowerW: r.PowerW, CPUFrac: r.CPUFrac, StorageTxBps: r.StorageTxBps, StorageRxBps: r.StorageRxBps})
		return nil
	}))
	must(b.Fabric(func(r bundle.FabricRow) error {
		s.Fabric = append(s.Fabric, feature.FabricSample{Node: r.Node, Port: r.Port, Kind: r.Kind, TsMs: r.TsMs, AvailableMs: r.ArrivalMs, TxBytes: r.TxBytesTotal, RxBytes: r.RxBytesTotal})
		return nil
	}))
	must(b.Flows(func(r bundle.FlowRow) error {
		s.Flows = append(s.Flows, feature.Flow{Node: r.Node, Peer: r.Peer, TsMs: r.TsMs, AvailableMs: r.ArrivalMs, TxBytes: r.TxBytes})
		return nil
	}))
	must(b.Collectives(func(r bundle.CollectiveRow) error {
		s.Collectives = append(s.Collectives, feature.Collective{Node: r.Node, PID: int(r.PID), GPU: r.GPU, Comm: r.Comm, Op: r.Op, NRanks: r.NRanks, Rank: r.Rank, TsMs: r.TsMs, AvailableMs: r.ArrivalMs, Calls: r.Calls, Bytes: r.Bytes})
		return nil
	}))
	must(b.Processes(func(r bundle.ProcessRow) error {
		s.Processes = append(s.Processes, feature.Process{Node: r.Node, GPUs: r.GPUs, PID: int(r.PID), StartMs: r.StartMs, EndMs: r.EndMs, AvailableMs: r.ArrivalMs,
			Exe: r.Exe, Launcher: r.Launcher, JobSource: r.JobSource, JobID: r.JobID, User: r.User, Project: r.Project, WorldSize: r.WorldSize, Rank: r.Rank})
		return nil
	}))
	must(b.Allocations(func(r bundle.AllocationRow) error {
		s.Allocations = append(s.Allocations, feature.Allocation{Account: r.Account, Node: r.Node, GPUs: r.GPUs, StartMs: r.StartMs, EndMs: r.EndMs, AvailableMs: r.ArrivalMs})
		return nil
	}))
	must(b.Orders(func(r bundle.OrderRow) error {
		s.Orders = append(s.Orders, feature.Order{Order: r.Order, Account: r.Account, GPUModel: r.GPUModel, DeclaredUse: r.DeclaredUse, AmendedMs: r.AmendedMs, StartMs: r.StartMs, EndMs: r.EndMs, GPUCount: r.GPUCount, FabricGbps: r.FabricGbps})
		return nil
	}))
	raw, err := os.ReadFile(filepath.Join(dir, "truth.json"))
	must(err)
	var t struct {
		Activities []activity `json:"activities"`
	}
	must(json.Unmarshal(raw, &t))
	l.truth = t.Activities
	return l
}

// judge runs the whole chain at one moment.
func judge(ev *feature.Evidence) ([]run.Episode, []workload.Verdict, []run.Run) {
	eps := workload.Split(ev, run.Episodes(ev))
	verdicts := make([]workload.Verdict, len(eps))
	classes := make([]run.ClassOf, len(eps))
	for i := range eps {
		v := workload.Classify(ev, eps[i])
		verdicts[i] = v
		classes[i] = workload.ClassOf(v)
	}
	return eps, verdicts, run.Join(ev, eps, classes)
}

// slot is a GPU in a minute.
type slot struct {
	node   string
	gpu    int
	minute int64
}

// figures is how runs fit the truth, counted over GPU-minutes inside activities and two
// minutes away from their ends.
type figures struct {
	confusion              map[[2]string]int // truth, verdict
	right, total           int
	trainRight, trainTotal int // as one class: training, finetuning, rl
	falseTrain, otherTotal int
	extra                  int // minutes of training claimed where nothing is labelled
	pairTP, pairFP, pairFN float64
	wrong                  map[string]int // kinds: minutes
}

func headline(kind string) string {
	if kind == workload.Finetuning {
		return workload.Training
	}
	return kind
}

func evaluate(truth []activity, runs []run.Run) figures {
	const grace = 2 * feature.MinuteMs
	f := figures{confusion: map[[2]string]int{}, wrong: map[string]int{}}
	type label struct {
		run   int
		class string
	}
	verdict := map[slot][]label{}
	for i, r := range runs {
		for _, m := range r.Members {
			for t := feature.MinuteOf(m.StartMs); t < m.EndMs; t += feature.MinuteMs {
				k := slot{m.Node, m.GPU, t}
				verdict[k] = append(verdict[k], label{i, r.Class})
			}
		}
	}
	// pairs: training minutes by (true run, assembled run)
	cell := map[[2]string]float64{}
	for _, a := range truth {
		train := workload.IsRun(a.Kind)
		for _, m := range a.Members {
			for _, g := range m.GPUs {
				for t := feature.MinuteOf(m.StartMs + grace); t < m.EndMs-grace; t += feature.MinuteMs {
					k := slot{m.Node, g, t}
					got := label{-1, "none"}
					for _, v := range verdict[k] {
						if got.run < 0 || headline(v.class) == headline(a.Kind) {
							got = v
						}
					}
					f.total++
					f.confusion[[2]string{headline(a.Kind), headline(got.class)}]++
					if headline(got.class) == headline(a.Kind) {
						f.right++
					} else {
						f.wrong[a.Kind+" as "+got.class]++
					}
					if train {
						f.trainTotal++
						if workload.IsRun(got.class) {
							f.trainRight++
						}
						cell[[2]string{a.ID, fmt.Sprint(got.run)}]++
					} else {
						f.otherTotal++
						if workload.IsRun(got.class) {
							f.falseTrain++
						}
					}
				}
			}
		}
	}
	near := map[slot]bool{}
	for _, a := range truth {
		for _, m := range a.Members {
			for _, g := range m.GPUs {
				for t := feature.MinuteOf(m.StartMs - grace); t < m.EndMs+grace; t += feature.MinuteMs {
					near[slot{m.Node, g, t}] = true
				}
			}
		}
	}
	for k, list := range verdict {
		for _, v := range list {
			if workload.IsRun(v.class) && !near[k] {
				f.extra++
			}
		}
	}
	rows, cols := map[string]float64{}, map[string]float64{}
	for k, n := range cell {
		f.pairTP += n * (n - 1) / 2
		rows[k[0]] += n
		if k[1] != "-1" {
			cols[k[1]] += n
		}
	}
	for k, n := range cell {
		if k[1] == "-1" {
			f.pairTP -= n * (n - 1) / 2
		}
	}
	for _, n := range rows {
		f.pairFN += n * (n - 1) / 2
	}
	for _, n := range cols {
		f.pairFP += n * (n - 1) / 2
	}
	f.pairFN -= f.pairTP
	f.pairFP -= f.pairTP
	return f
}

func (f figures) pairF1() float64 {
	if f.pairTP == 0 {
		return math.NaN()
	}
	return 2 * f.pairTP / (2*f.pairTP + f.pairFP + f.pairFN)
}

func share(a, b int) float64 {
	if b == 0 {
		return math.NaN()
	}
	return float64(a) / float64(b)
}

func (f figures) String() string {
	return fmt.Sprintf("class %.3f  training recall %.3f  false training %.3f  pairs F1 %.3f  unlabelled training min %d", share(f.right, f.total), share(f.trainRight, f.trainTotal), share(f.falseTrain, f.otherTotal), f.pairF1(), f.extra)
}

func bundles(t testing.TB) []*loaded {
	t.Helper()
	var out []*loaded
	for _, dir := range testenv.Bundles(t) {
		if only := os.Getenv("FLOPWATCH_BUNDLE"); only != "" && !strings.Contains(dir, only) {
			continue
		}
		out = append(out, load(t, dir))
	}
	return out
}

func TestBundles(t *testing.T) {
	t.Parallel()
	for _, l := range bundles(t) {
		ev := feature.BuildEvidence(l.samples, l.startMs, l.endMs)
		eps, verdicts, runs := judge(ev)
		if e2, v2, r2 := judge(ev); !reflect.DeepEqual(eps, e2) || !reflect.DeepEqual(verdicts, v2) || !reflect.DeepEqual(runs, r2) {
			t.Errorf("%s: two judgements of the same evidence differ", l.name)
		}
		f := evaluate(l.truth, runs)
		t.Logf("%-28s %s", l.name, f)
		if strings.HasPrefix(l.name, "dev-") {
			// Far below what is reached: a floor under regressions, no fit.
			if share(f.right, f.total) < 0.9 || share(f.trainRight, f.trainTotal) < 0.97 || f.pairF1() < 0.95 || share(f.falseTrain, f.otherTotal) > 0.02 {
				t.Errorf("%s: %s", l.name, f)
			}
		}
		for _, k := range slices.Sorted(maps.Keys(f.wrong)) {
			t.Logf("    wrong: %s %d GPU-minutes", k, f.wrong[k])
		}
		if os.Getenv("FLOPWATCH_SHOW") != "" {
			show(t, l, ev, eps, verdicts, runs)
		}
	}
}

// ablations are telemetry that a fleet may lack.
var ablations = []struct {
	name   string
	recall float64 // of training that has to remain; 0: told and not tested
	cut    func(s *feature.Samples)
}{
	{"all", 0, func(*feature.Samples) {}},
	{"no processes", 0, noProcesses},
	{"no collectives", 0, noCollectives},
	{"no pipes", 0, noPipes},
	{"no processes, collectives", 0.95, func(s *feature.Samples) { noProcesses(s); noCollectives(s) }},
	{"no collectives, pipes", 0, func(s *feature.Samples) { noCollectives(s); noPipes(s) }},
	{"no processes, coll., flows", 0, func(s *feature.Samples) { noProcesses(s); noCollectives(s); s.Flows = nil }},
	{"no proc., coll., pipes", 0.9, func(s *feature.Samples) { noProcesses(s); noCollectives(s); noPipes(s) }},
	{"no proc., coll., pipes, flows", 0, func(s *feature.Samples) { noProcesses(s); noCollectives(s); noPipes(s); s.Flows = nil }},
	{"no allocations, orders", 0, func(s *feature.Samples) { s.Allocations, s.Orders = nil, nil }},
	{"no proc., alloc., flows", 0.95, func(s *feature.Samples) { noProcesses(s); s.Allocations, s.Orders, s.Flows = nil, nil, nil }},
	{"host power and ports only", 0.9, func(s *feature.Samples) { noProcesses(s); noCollectives(s); s.GPU, s.Flows = nil, nil }},
	{"rows of 5 minutes", 0, func(s *feature.Samples) { s.GPU = thin(s.GPU, 300_000) }},
	{"rows of 5 minutes, no proc., coll.", 0, func(s *feature.Samples) { s.GPU = thin(s.GPU, 300_000); noProcesses(s); noCollectives(s) }},
	{"half of the rows lost", 0, func(s *feature.Samples) { lose(s) }},
	{"clocks apart by 90 s", 0, func(s *feature.Samples) { skew(s) }},
	{"clocks apart by 90 s, no proc., coll.", 0, func(s *feature.Samples) { noProcesses(s); noCollectives(s); skew(s) }},
	{"false declarations", 0.97, falseDeclarations},
}

func noProcesses(s *feature.Samples)   { s.Processes = nil }
func noCollectives(s *feature.Samples) { s.Collectives = nil }

func noPipes(s *feature.Samples) {
	s.GPU = slices.Clone(s.GPU)
	for i := range s.GPU {
		for _, v := range [...]feature.Signal{feature.SMActiveFrac, feature.SMOccupancyFrac, feature.TensorFrac, feature.HMMAFrac, feature.IMMAFrac, feature.DFMAFrac, feature.FP64Frac, feature.FP32Frac, feature.FP16Frac, feature.IntFrac, feature.DRAMFrac} {
			s.GPU[i].Value[v] = math.NaN()
		}
		s.GPU[i].MMACycles = math.NaN()
	}
}

// thin keeps a row of each GPU per interval.
func thin(rows []feature.GPUSample, everyMs int64) []feature.GPUSample {
	last := map[feature.GPUKey]int64{}
	var out []feature.GPUSample
	for _, r := range rows {
		k := feature.GPUKey{Node: r.Node, GPU: r.GPU}
		if t, ok := last[k]; !ok || r.TsMs-t >= everyMs-5000 {
			last[k] = r.TsMs
			out = append(out, r)
		}
	}
	return out
}

// lose drops every row whose number has an odd hash.
func lose(s *feature.Samples) {
	n := uint32(1)
	odd := func() bool {
		n = n*1664525 + 1013904223
		return n>>31 == 1
	}
	s.GPU = slices.DeleteFunc(slices.Clone(s.GPU), func(feature.GPUSample) bool { return odd() })
	s.Host = slices.DeleteFunc(slices.Clone(s.Host), func(feature.HostSample) bool { return odd() })
	s.Flows = slices.DeleteFunc(slices.Clone(s.Flows), func(feature.Flow) bool { return odd() })
	s.Collectives = slices.DeleteFunc(slices.Clone(s.Collectives), func(feature.Collective) bool { return odd() })
	s.Processes = slices.DeleteFunc(slices.Clone(s.Processes), func(feature.Process) bool { return odd() })
}

// skew moves the clocks of every other node forward by 90 seconds.
func skew(s *feature.Samples) {
	late := map[string]int64{}
	for i, n := range s.Nodes {
		if i%2 == 1 {
			late[n.Node] = 90_000
		}
	}
	s.GPU, s.Host, s.Fabric, s.Flows, s.Collectives, s.Processes = slices.Clone(s.GPU), slices.Clone(s.Host), slices.Clone(s.Fabric), slices.Clone(s.Flows), slices.Clone(s.Collectives), slices.Clone(s.Processes)
	for i := range s.GPU {
		s.GPU[i].TsMs += late[s.GPU[i].Node]
	}
	for i := range s.Host {
		s.Host[i].TsMs += late[s.Host[i].Node]
	}
	for i := range s.Fabric {
		s.Fabric[i].TsMs += late[s.Fabric[i].Node]
	}
	for i := range s.Flows {
		s.Flows[i].TsMs += late[s.Flows[i].Node]
	}
	for i := range s.Collectives {
		s.Collectives[i].TsMs += late[s.Collectives[i].Node]
	}
	for i := range s.Processes {
		d := late[s.Processes[i].Node]
		s.Processes[i].StartMs += d
		if s.Processes[i].EndMs != 0 {
			s.Processes[i].EndMs += d
		}
	}
}

// falseDeclarations makes every program call itself a server with a job of its own.
func falseDeclarations(s *feature.Samples) {
	s.Processes = slices.Clone(s.Processes)
	for i := range s.Processes {
		p := &s.Processes[i]
		p.Exe, p.Launcher, p.JobID, p.WorldSize, p.Rank = "vllm", "", fmt.Sprintf("%d", 800000+i), -1, -1
	}
	s.Orders = slices.Clone(s.Orders)
	for i := range s.Orders {
		s.Orders[i].DeclaredUse = "inference"
	}
}

// TestAblations shows how the answers fade when telemetry is missing: training has to be
// found and other work not to be taken for it as long as there is any sign.
func TestAblations(t *testing.T) {
	t.Parallel()
	all := bundles(t)
	full := os.Getenv("FLOPWATCH_SHOW") != ""
	if !full { // the whole table takes a minute
		all = slices.DeleteFunc(all, func(l *loaded) bool {
			return l.name != "dev-clean_mix" && l.name != "dev-hpc_mix" && l.name != "dev-basic_split"
		})
	}
	for _, a := range ablations {
		if !full && a.recall == 0 {
			continue
		}
		var sum figures
		var worst []string
		wrong := map[string]int{}
		for _, l := range all {
			s := l.samples
			a.cut(&s)
			if len(s.GPU) == 0 && len(l.samples.GPU) == 0 && a.name != "all" {
				continue // a recording of watts has nothing to lose
			}
			ev := feature.BuildEvidence(s, l.startMs, l.endMs)
			_, _, runs := judge(ev)
			f := evaluate(l.truth, runs)
			if only := os.Getenv("FLOPWATCH_ABLATION"); only != "" && only == a.name {
				t.Logf("      ablation %-24s %s", l.name, f)
				eps, verdicts, runs := judge(ev)
				show(t, l, ev, eps, verdicts, runs)
			}
			sum.extra += f.extra
			sum.right, sum.total = sum.right+f.right, sum.total+f.total
			sum.trainRight, sum.trainTotal = sum.trainRight+f.trainRight, sum.trainTotal+f.trainTotal
			sum.falseTrain, sum.otherTotal = sum.falseTrain+f.falseTrain, sum.otherTotal+f.otherTotal
			sum.pairTP, sum.pairFP, sum.pairFN = sum.pairTP+f.pairTP, sum.pairFP+f.pairFP, sum.pairFN+f.pairFN
			for k, n := range f.wrong {
				wrong[strings.TrimPrefix(l.name, "dev-")+": "+k] += n
			}
		}
		for _, k := range slices.Sorted(maps.Keys(wrong)) {
			if wrong[k] > 200 {
				worst = append(worst, fmt.Sprintf("%s %d", k, wrong[k]))
			}
		}
		t.Logf("ablation %-30s %s", a.name, sum)
		if r := share(sum.trainRight, sum.trainTotal); r < a.recall {
			t.Errorf("%s: training recall %.3f, want at least %.2f", a.name, r, a.recall)
		}
		if os.Getenv("FLOPWATCH_SHOW") != "" {
			t.Logf("      ablation wrong: %s", strings.Join(worst, ", "))
		}
	}
}

func show(t *testing.T, l *loaded, ev *feature.Evidence, eps []run.Episode, verdicts []workload.Verdict, runs []run.Run) {
	t.Helper()
	for i, e := range eps {
		v := verdicts[i]
		m := e.Members[0]
		alt := ""
		for _, c := range slices.Sorted(maps.Keys(v.Probs)) {
			if c != v.Class && v.Probs[c] > 0.05 {
				alt += fmt.Sprintf(" %s=%.2f", c, v.Probs[c])
			}
		}
		t.Logf("  ep %d %s/%d n=%d gpus=%d %.1f..%.1f open=%v basis=%d %v %v -> %s %.2f%s | %s", i, m.Node, m.GPU, len(e.Nodes()), e.GPUs(), float64(e.StartMs-l.startMs)/60000, float64(e.EndMs-l.startMs)/60000, e.Open, e.Basis, e.Accounts, e.JobIDs, v.Class, v.Prob, alt, strings.Join(v.Reasons, "; "))
		if os.Getenv("FLOPWATCH_SHOW") == "facts" && e.Basis >= run.BasisPower {
			t.Logf("     %s flow=%+v", workload.Facts(ev, &e), e.Flow)
		}
	}
	for _, r := range runs {
		if len(r.Episodes) > 1 || len(r.Alternatives) > 0 {
			t.Logf("  %s %s eps=%v %v", r.ID, r.Class, r.Episodes, r.Accounts)
			for _, k := range r.Links {
				if k.Kind == "restart" || k.Kind == "pause" {
					t.Logf("      %s %.2f %s", k.Kind, k.Weight, k.Reason)
				}
			}
			for _, a := range r.Alternatives {
				t.Logf("      alt %s %.2f %s", a.Run, a.Weight, a.Reason)
			}
		}
	}
}
