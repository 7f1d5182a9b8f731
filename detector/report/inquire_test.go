package report

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/threshold"
)

// maybe is a training with a class that is not certain.
func maybe(prob float64, s RunState) RunState {
	s.TrainingProb = prob
	return s
}

// on puts a run on another node.
func on(node string, s RunState) RunState {
	for i := range s.Run.Members {
		s.Run.Members[i].Node = node
	}
	return s
}

func inquiryCases() []struct {
	name string
	edit func(in *Input)
} {
	const perMinute = 1e18 // 3e20 after five hours
	apart := func(weight float64, kind string) func(in *Input) {
		return func(in *Input) {
			in.Profiles[0].LimitFLOP = 5e20
			in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "foreign"), on("n2", training("s", t0, t0+5*hour, perMinute, "foreign"))}
			in.Campaigns = []run.Campaign{{ID: "r", Kind: kind, Runs: []string{"r", "s"}, Weight: weight, Reasons: []string{"weights of 24 GB move between them every 30 minutes"}, KnownMs: t0 + 2*hour}}
		}
	}
	return []struct {
		name string
		edit func(in *Input)
	}{
		{"best value below the limit, high end above it", func(in *Input) {
			in.Runs = []RunState{training("r", t0, t0+90*minute, perMinute, "foreign")}
			in.Runs[0].Run.Open = false
			in.Runs[0].Est.Terms = []flops.Term{{Name: flops.TermDtype, LogSD: 0.2, Narrow: "the data type, by the tap's symbols"}}
		}},
		{"well below the limit", func(in *Input) {
			in.Runs = []RunState{training("r", t0, t0+30*minute, perMinute, "foreign")}
			in.Runs[0].Run.Open = false
		}},
		{"exceeded, and perhaps no training", func(in *Input) {
			in.Runs = []RunState{maybe(0.4, training("r", t0, t0+5*hour, perMinute, "foreign"))}
		}},
		{"exceeded a little, and probably a training", func(in *Input) {
			in.Runs = []RunState{maybe(0.7, training("r", t0, t0+101*minute, perMinute, "foreign"))}
		}},
		{"exceeded by far, and probably a training", func(in *Input) {
			in.Runs = []RunState{maybe(0.7, training("r", t0, t0+5*hour, perMinute, "foreign"))}
		}},
		{"batch inference that may be a training", func(in *Input) {
			s := maybe(0.2, training("r", t0, t0+5*hour, perMinute, "foreign"))
			s.Run.Class = "batch_inference"
			est := s.Est
			s.Est = flops.Estimate{}
			in.Runs = []RunState{s}
			in.Estimate = func(*run.Run, string) flops.Estimate { return est }
		}},
		{"an account of U.S. persons", func(in *Input) {
			in.Runs = []RunState{maybe(0.4, training("r", t0, t0+5*hour, perMinute, "us"))}
		}},
		{"islands that may be one", apart(0.3, run.Islands)},
		{"islands that are probably one", apart(0.8, run.Islands)},
		{"work cut into parts", apart(0.8, run.Structuring)},
		{"a restart or a repeat", func(in *Input) {
			in.Profiles[0].LimitFLOP = 5e20
			in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "us2"), on("n2", training("s", t0, t0+5*hour, perMinute, "us2"))}
			in.Runs[1].Run.Alternatives = []run.Alternative{{Run: "r", Weight: 0.4, Reason: "the same memory, five minutes after the other ended"}}
		}},
		{"two accounts of one owner", func(in *Input) {
			in.Profiles[0].LimitFLOP = 5e20
			in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "foreign"), on("n2", training("s", t0, t0+5*hour, perMinute, "other"))}
		}},
		{"two accounts of one owner, and the profile adds them up", func(in *Input) {
			in.Profiles[0].LimitFLOP, in.Profiles[0].Counting.Aggregation = 5e20, threshold.ByOwner
			in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "foreign"), on("n2", training("s", t0, t0+5*hour, perMinute, "other"))}
		}},
		{"two accounts of one owner, added up over an hour", func(in *Input) {
			in.Profiles[0].LimitFLOP, in.Profiles[0].Counting.Aggregation, in.Profiles[0].Counting.WindowDays = 1.1e20, threshold.ByOwner, 1.0/24
			in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute/3, "foreign"), on("n2", training("s", t0, t0+5*hour, perMinute/3, "other"))}
		}},
		{"accounts that each party holds itself are added up", func(in *Input) {
			in.Profiles[0].LimitFLOP, in.Profiles[0].Counting.Aggregation = 5e20, threshold.ByParty
			in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "foreign"), on("n2", training("s", t0, t0+5*hour, perMinute, "other"))}
		}},
		{"an original that was stated, counted with what is made of it", func(in *Input) {
			in.Profiles[0].Counting.FineTuning = threshold.Cumulative
			in.Profiles[0].LimitFLOP, in.Profiles[0].Originals = 1e22, []threshold.Original{{FLOPs: 9.9e21, Accounts: []string{"foreign"}, Source: "the customer's letter"}}
			in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "foreign"), training("s", t0, t0+5*hour, perMinute, "nobody")}
		}},
		{"a third of an original", func(in *Input) {
			in.Profiles[0].Counting.FineTuning, in.Profiles[0].Counting.OriginalShare = threshold.AloneOnly, 1.0/3
			in.Profiles[0].LimitFLOP, in.Profiles[0].Originals = 1e25/3, []threshold.Original{{FLOPs: 3e20, Source: "the model's card"}}
			in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "foreign")}
		}},
		{"fine-tuning that is not counted", func(in *Input) {
			in.Profiles[0].Counting.FineTuning = threshold.Excluded
			s := training("r", t0, t0+5*hour, perMinute, "foreign")
			s.Run.Class = "finetuning"
			in.Runs = []RunState{s}
		}},
		{"executed FLOPs", func(in *Input) {
			in.Profiles[0].Counting.Basis = threshold.Executed
			s := training("r", t0, t0+95*minute, perMinute, "foreign") // 9.5e19 of the model's, a tenth more executed
			for i := range s.Est.Series {
				s.Est.Series[i].ExecutedFLOP = 1.1 * s.Est.Series[i].ModelFLOP
			}
			in.Runs = []RunState{s}
		}},
		{"synthetic data that may have been made", func(in *Input) {
			in.Profiles[0].LimitFLOP, in.Profiles[0].Counting.SyntheticData = 5e20, threshold.Included
			s := on("n2", training("s", t0, t0+5*hour, perMinute, "foreign"))
			s.Run.Class = "batch_inference"
			in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "foreign"), s}
			in.Estimate = func(*run.Run, string) flops.Estimate { return s.Est }
		}},
		{"an order at more than the usual utilisation", func(in *Input) {
			in.Profiles[0].LimitFLOP = 8 * 989.4e12 * 0.4 * 3600 * 24
			in.Ev.Orders = []feature.Order{order("o", "foreign", "", t0-day, t0, t0+day, 8)}
		}},
		{"an order without an end, and one without a number", func(in *Input) {
			in.Ev.Orders = []feature.Order{order("a", "foreign", "", t0-day, t0, 0, 8), order("b", "nobody", "research", t0-day, t0, t0+day, -1)}
		}},
		{"an order of a part that nobody knows", func(in *Input) {
			o := order("o", "foreign", "", t0-day, t0, t0+12*hour, 8)
			o.GPUModel = ""
			in.Ev.Orders = []feature.Order{o}
			in.Peak16 = generic
		}},
		{"orders of one owner that could together", func(in *Input) {
			in.Profiles[0].LimitFLOP = 3 * 8 * 989.4e12 * 0.3 * 3600 * 24 * 0.9
			in.Ev.Orders = []feature.Order{
				order("a", "foreign", "", t0-day, t0, t0+day, 8), order("b", "other", "", t0-day, t0, t0+day, 8),
				order("c", "other", "rendering", t0-day, t0, t0+day, 8), order("c", "other", "", t0+hour, t0, t0+25*hour, 8),
			}
		}},
		{"a cluster on a network that is not stated", func(in *Input) {
			in.Profiles = []Profile{{Name: "c", Status: Custom, Cluster: &ClusterLimb{Gbps: 300, OpsPerS: 1.5e16}}}
			n := in.Ev.Nodes["n2"]
			n.FabricGbps = math.NaN()
			in.Ev.Nodes["n2"] = n
			in.Ev.Allocations = []feature.Allocation{rent("foreign", "n1", t0, 0), rent("foreign", "n2", t0+hour, 0)}
		}},
		{"a cluster with a slow node", func(in *Input) {
			in.Profiles = []Profile{{Name: "c", Status: Custom, Cluster: &ClusterLimb{Gbps: 300, OpsPerS: 1.5e16}}}
			n := in.Ev.Nodes["n2"]
			n.FabricGbps = 100
			in.Ev.Nodes["n2"] = n
			in.Ev.Allocations = []feature.Allocation{rent("foreign", "n1", t0, 0), rent("foreign", "n2", t0+hour, 0)}
		}},
		{"a cluster of parts that nobody knows", func(in *Input) {
			in.Profiles = []Profile{{Name: "c", Status: Custom, Cluster: &ClusterLimb{Gbps: 300, OpsPerS: 1.2e16}}}
			in.Peak16 = generic
			n := in.Ev.Nodes["n2"]
			n.GPUModel = "Accelerator X"
			in.Ev.Nodes["n2"] = n
			in.Ev.Allocations = []feature.Allocation{rent("foreign", "n1", t0, 0), rent("foreign", "n2", t0+hour, 0)}
		}},
		{"a cluster as the rule may mean its peak", func(in *Input) {
			in.Profiles = []Profile{{Name: "c", Status: Custom, Cluster: &ClusterLimb{Gbps: 300, OpsPerS: 1.5e16, Precision: threshold.NotStated, Sparsity: threshold.NotStated}}}
			in.Ev.Allocations = []feature.Allocation{rent("foreign", "n1", t0, 0)}
		}},
		{"a cluster over two sites, where that counts", func(in *Input) {
			in.Profiles = []Profile{{Name: "c", Status: Custom, Cluster: &ClusterLimb{Gbps: 300, OpsPerS: 1.5e16, Anywhere: true}}}
			n := in.Ev.Nodes["n2"]
			n.Site = "s2"
			in.Ev.Nodes["n2"] = n
			in.Ev.Allocations = []feature.Allocation{rent("foreign", "n1", t0, 0), rent("foreign", "n2", t0+hour, 0)}
		}},
		{"limit and cluster joined, and its network is not stated", func(in *Input) {
			in.Profiles[0].Cluster, in.Profiles[0].JoinCluster = &ClusterLimb{Gbps: 300, OpsPerS: 1.5e16}, true
			for _, name := range []string{"n1", "n2"} {
				n := in.Ev.Nodes[name]
				n.FabricGbps = math.NaN()
				in.Ev.Nodes[name] = n
			}
			in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "foreign")}
			in.Ev.Allocations = []feature.Allocation{rent("foreign", "n1", t0, 0), rent("foreign", "n2", t0, 0)}
		}},
	}
}

func generic(model string) (float64, bool) {
	if p, ok := peak16(model); ok {
		return p, true
	}
	return 400e12, false
}

// golden compares text with what lies in testdata; FLOPWATCH_UPDATE=1 writes it anew.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("FLOPWATCH_UPDATE") != "" {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; FLOPWATCH_UPDATE=1 writes it anew. Got:\n%s", path, got)
	}
}

// TestInquiries writes, for cases that a person can check, each finding in short and each inquiry
// in full.
func TestInquiries(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for _, tc := range inquiryCases() {
		in := fleet()
		tc.edit(&in)
		found := slices.DeleteFunc(Evaluate(in), func(f Finding) bool { return f.Limb == Telemetry || f.Limb == Indicator })
		slices.SortFunc(found, func(a, b Finding) int { return strings.Compare(a.Limb+a.Kind+a.Subject(), b.Limb+b.Kind+b.Subject()) })
		fmt.Fprintf(&b, "== %s\n", tc.name)
		for _, f := range found {
			if IsFinding(f.Limb) {
				fmt.Fprintf(&b, "%s %s %s, %s, severity %s, since %s\n", f.Limb, strings.Join(f.Runs, "+"), strings.Join(append(f.Orders, f.Accounts...), "+"), f.State, f.Severity, utc(f.KnownAtMs)[11:19])
				continue
			}
			checkWords(t, f)
			if f.DueAtMs != nil || f.WouldBeDueAtMs != nil || f.State != Inquire || f.Probability == nil {
				t.Errorf("%s: %+v", tc.name, f)
			}
			fmt.Fprintf(&b, "inquiry %s %s, probability %.2f, since %s", f.Kind, strings.Join(append(append(f.Runs, f.Orders...), f.Accounts...), "+"), *f.Probability, utc(f.KnownAtMs)[11:19])
			if f.Bounds != nil {
				fmt.Fprintf(&b, ", %.1e to %.1e to %.1e", f.Bounds.Low, f.Bounds.Best, f.Bounds.High)
			}
			if f.Crossing != nil {
				fmt.Fprintf(&b, ", crossing %s / %s / %s", when(f.Crossing.P10), when(f.Crossing.P50), when(f.Crossing.P90))
			}
			fmt.Fprintf(&b, "\n  %s\n", f.Explanation)
		}
	}
	golden(t, "inquiries.txt", b.String())
}

func when(ms *int64) string {
	if ms == nil {
		return "never"
	}
	return utc(*ms)[5:16]
}

// TestSum: what is unknown about all runs adds up, what is unknown about each evens out.
func TestSum(t *testing.T) {
	t.Parallel()
	one := flops.Interval{Low: 1e20 / 1.5, Best: 1e20, High: 1.5e20}
	same, own := []flops.Term{{Name: flops.TermDtype, LogSD: 0.2}}, []flops.Term{{Name: flops.TermGaps, LogSD: 0.2}}
	wide := sum([]part{{one, same}, {one, same}, {one, same}, {one, same}})
	narrow := sum([]part{{one, own}, {one, own}, {one, own}, {one, own}})
	if math.Abs(wide.High/6e20-1) > 1e-9 || math.Abs(wide.Low/(4e20/1.5)-1) > 1e-9 || wide.Best != 4e20 {
		t.Errorf("common errors: %+v", wide)
	}
	if want := 4e20 * math.Pow(1.5, 0.5); math.Abs(narrow.High/want-1) > 1e-9 {
		t.Errorf("own errors: %+v, want high %g", narrow, want)
	}
	if untold := sum([]part{{est: one}, {est: one}, {est: one}, {est: one}}); math.Abs(untold.High/wide.High-1) > 1e-9 || math.Abs(untold.Low/wide.Low-1) > 1e-9 {
		t.Errorf("terms that are not told: %+v, want the widest %+v", untold, wide)
	}
	m := mixture(wide, one, 0.3)
	if p := 0.3*threshold.ProbabilityExceeds(wide, m.High) + 0.7*threshold.ProbabilityExceeds(one, m.High); math.Abs(p-0.05) > 1e-6 || !(m.Low < m.Best && m.Best < m.High) {
		t.Errorf("mixture %+v: %v beyond its high end", m, p)
	}
	if mixture(wide, one, 1) != wide || mixture(wide, one, 0) != one {
		t.Error("a mixture of one")
	}
}

// TestIndicators raises every check of the catalogue once, and nothing on an account of U.S. persons.
func TestIndicators(t *testing.T) {
	t.Parallel()
	flags, err := Flags()
	if err != nil || len(flags) < 21 {
		t.Fatalf("%d flags, %v", len(flags), err)
	}
	in := fleet()
	in.Profiles[0].Cluster = &ClusterLimb{Gbps: 300, OpsPerS: 5e16}
	in.Runs = []RunState{training("r", t0, t0+5*hour, 1e18, "foreign"), on("n2", training("s", t0, t0+5*hour, 1e18, "foreign"))}
	in.Ev.Allocations = []feature.Allocation{rent("foreign", "n1", t0-100*day, 0), rent("foreign", "n2", t0, 0), rent("us", "n3", t0, 0), rent("reseller", "n4", t0, 0)}
	in.Ev.Orders = []feature.Order{
		order("a", "foreign", "rendering", t0-day, t0, t0+day, 8), order("a", "foreign", "LLM pre-training", t0+hour, t0, t0+day, 8), order("b", "first", "", t0+hour, t0, t0+day, 64),
		order("c", "us", "model training", t0, t0, t0+day, 64), order("d", "other", "hpc", t0-day, t0, t0+day, 1), order("e", "reseller", "hpc", t0-day, t0, t0+day, 2),
	}
	slices.SortStableFunc(in.Ev.Orders, func(a, b feature.Order) int { return int(a.AmendedMs - b.AmendedMs) })
	resolve := in.Resolve
	in.Resolve = func(account string) identity.Resolution {
		r := resolve(account)
		if account == "reseller" {
			r = identity.Resolution{
				Parties: []string{"pty-8", "pty-9"}, Holders: []string{"pty-8"}, Known: true, InScope: true, Reasons: []string{"pty-8 is not a U.S. person"}, Countries: []string{"KY", "SG", "TH"},
				Unverified: []string{"pty-9"}, AccessCountries: []string{"FR", "SG"}, Resellers: []identity.Reseller{{Party: "pty-9", Status: identity.Unverified, Countries: []string{"TH"}}},
			}
		}
		return r
	}
	raised := map[string]bool{}
	var b strings.Builder
	found := Evaluate(in)
	slices.SortFunc(found, func(a, b Finding) int { return strings.Compare(a.Kind+a.Subject(), b.Kind+b.Subject()) })
	for _, f := range found {
		if f.Limb != Indicator {
			continue
		}
		checkWords(t, f)
		raised[f.Kind] = true
		if slices.Contains(f.Accounts, "us") || f.State != Inquire || f.Profile != nil || !strings.Contains(f.Explanation, "One flag decides nothing") {
			t.Errorf("%+v", f)
		}
		fmt.Fprintf(&b, "%s %s since %s\n  %s\n", f.Kind, strings.Join(append(f.Orders, f.Accounts...), "+"), utc(f.KnownAtMs)[11:19], f.Explanation)
	}
	for _, f := range flags {
		if f.Check != "" && !raised[f.ID] {
			t.Errorf("%s was not raised", f.ID)
		}
	}
	golden(t, "indicators.txt", b.String())
}

// TestTelemetryAtWork: silence, one dark GPU and contradictions, with what the host's meter and the
// cross-checks say of them.
func TestTelemetryAtWork(t *testing.T) {
	t.Parallel()
	idle := func(in *Input, node string, fromMs, toMs int64, hostW float64) {
		for at := feature.MinuteOf(fromMs); at < toMs; at += minute {
			in.Ev.Host[node] = append(in.Ev.Host[node], feature.NodeCell{Node: node, MinuteMs: at, PowerW: hostW, PowerCoverMs: minute})
		}
	}
	darken := func(in *Input, gpu int, fromMs int64) {
		k := feature.GPUKey{Node: "n1", GPU: gpu}
		in.Ev.GPU[k] = slices.DeleteFunc(in.Ev.GPU[k], func(c feature.GPUCell) bool { return c.MinuteMs >= fromMs })
	}
	crossed := func(kind string, odds float64) func(in *Input) {
		return func(in *Input) {
			cells(in, "n1", t0, in.AtMs, 600, 0.9, 6500)
			s := training("r", t0, in.AtMs, 1e18, "foreign")
			s.Contradictions = []flops.Contradiction{{Kind: kind, Node: "n1", GPU: -1, FromMs: t0, ToMs: in.AtMs, Ratio: 3.3, LogOdds: odds, Reason: "8 of 8 GPUs: it draws 3.3 times the watts that its active SMs explain"}}
			in.Runs = []RunState{s}
		}
	}
	tests := []struct {
		name string
		edit func(in *Input)
	}{
		{"killed at work: the meter goes on", func(in *Input) {
			cells(in, "n1", t0, t0+hour, 600, 0.9, 6500)
			idle(in, "n1", t0+hour, in.AtMs, 6400)
		}},
		{"silent at rest, as the meter shows", func(in *Input) {
			cells(in, "n1", t0, t0+hour, 80, 0, 1500)
			idle(in, "n1", t0+hour, in.AtMs, 1480)
		}},
		{"one GPU goes dark and draws on", func(in *Input) {
			cells(in, "n1", t0, in.AtMs, 600, 0.9, 6500)
			darken(in, 3, t0+hour)
		}},
		{"one GPU goes dark and rests", func(in *Input) {
			cells(in, "n1", t0, t0+hour, 600, 0.9, 6500)
			cells(in, "n1", t0+hour, in.AtMs, 600, 0.9, 5900)
			darken(in, 3, t0+hour)
		}},
		{"GPUs that are never seen, and nobody said why", func(in *Input) { hostAlone(in, "n1", "") }},
		{"work against watts", crossed(flops.CrossWattsSM, 4.5)},
		{"work against watts, not certain", crossed(flops.CrossWattsSM, 1.5)},
		{"a meter that differs", crossed(flops.CrossHost, 4.5)},
		{"another part than the inventory's", crossed(flops.CrossPart, 9)},
	}
	var b strings.Builder
	for _, tc := range tests {
		in := fleet()
		in.StartMs, in.Profiles = feature.MinuteOf(t0), nil
		in.Ev.Allocations = []feature.Allocation{rent("foreign", "n1", t0-hour, 0)}
		cells(&in, "n2", t0, in.AtMs, 100, 0, 2000)
		tc.edit(&in)
		fmt.Fprintf(&b, "== %s\n", tc.name)
		found := Evaluate(in)
		for _, f := range found {
			if f.Limb != Indicator {
				checkWords(t, f)
				fmt.Fprintf(&b, "%s %s severity %s since %s\n  %s\n", f.Limb, f.Kind, f.Severity, utc(f.KnownAtMs)[11:19], f.Explanation)
			}
		}
		again := in
		again.Prev, again.PrevAtMs, again.AtMs = byID(found), in.AtMs, in.AtMs+minute
		cells(&again, "n2", in.AtMs, again.AtMs, 100, 0, 2000)
		for _, f := range Evaluate(again) {
			if was, ok := again.Prev[f.Finding]; f.Limb == Telemetry && (!ok || was.KnownAtMs != f.KnownAtMs || was.Severity != f.Severity) {
				t.Errorf("%s: a minute later %+v, before %+v", tc.name, f, was)
			}
		}
	}
	golden(t, "telemetry.txt", b.String())
}
