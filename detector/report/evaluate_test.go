package report

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/detector/run"
)

const (
	minute = int64(feature.MinuteMs)
	hour   = 60 * minute
	day    = 24 * hour
	t0     = int64(1_800_000_000_000) // start of the invented data
	h100   = "NVIDIA H100 80GB HBM3"
)

// fleet: four nodes of eight GPUs in one site, one account that a foreign party holds.
func fleet() Input {
	ev := &feature.Evidence{StartMs: t0, Nodes: map[string]feature.Node{}, GPU: map[feature.GPUKey][]feature.GPUCell{}, Host: map[string][]feature.NodeCell{}}
	for _, n := range []string{"n1", "n2", "n3", "n4"} {
		ev.Nodes[n] = feature.Node{Node: n, Site: "s1", GPUModel: h100, GPUCount: 8, FabricGbps: 3200, TDPW: 700, Listed: true}
	}
	return Input{
		AtMs: t0 + 5*hour, StartMs: t0, Ev: ev, Peak16: peak16,
		Profiles: []Profile{{Name: "p", LimitFLOP: 1e20, Status: Custom, DeadlineMs: 15 * day}},
		Resolve: func(account string) identity.Resolution {
			switch account {
			case "us":
				return identity.Resolution{Parties: []string{"pty-us"}, Known: true, Countries: []string{"US"}}
			case "foreign", "other":
				return identity.Resolution{Parties: []string{"pty-1", "pty-2"}, Known: true, InScope: true, Reasons: []string{"pty-1 is not a U.S. person"}, Countries: []string{"AE", "GB"}}
			case "refused":
				return identity.Resolution{Parties: []string{"pty-3"}, Known: true, InScope: true, Refused: true, Reasons: []string{"verification of pty-3 was refused"}}
			}
			return identity.Resolution{InScope: true, Reasons: []string{"no party of the register holds the account"}}
		},
	}
}

func rent(account, node string, fromMs, toMs int64) feature.Allocation {
	return feature.Allocation{Account: account, Node: node, GPUs: []int{0, 1, 2, 3, 4, 5, 6, 7}, StartMs: fromMs, EndMs: toMs}
}

// training is a run on n1 from its start on at so many FLOP a minute.
func training(id string, startMs, endMs int64, perMinute float64, accounts ...string) RunState {
	s := RunState{Run: run.Run{ID: id, Class: "training", ClassProb: 0.9, StartMs: startMs, EndMs: endMs, Open: true, Accounts: accounts}}
	for gpu := range 8 {
		s.Run.Members = append(s.Run.Members, run.Member{Node: "n1", GPU: gpu, StartMs: startMs, EndMs: endMs})
	}
	for at := startMs + minute; at <= endMs; at += minute {
		s.Est.Series = append(s.Est.Series, flops.Point{EndMs: at, ModelFLOP: perMinute * float64(at-startMs) / float64(minute)})
	}
	best := perMinute * float64(endMs-startMs) / float64(minute)
	s.Est.Model, s.Est.Executed = flops.Interval{Low: 0.8 * best, Best: best, High: 1.2 * best}, flops.Interval{Low: 0.9 * best, Best: 1.1 * best, High: 1.3 * best}
	s.Est.Basis, s.Est.CoverageFrac = []string{flops.BasisMMACycles}, 0.97
	return s
}

func order(id, account, use string, amendedMs, startMs, endMs int64, gpus int) feature.Order {
	return feature.Order{Order: id, Account: account, GPUModel: h100, DeclaredUse: use, AmendedMs: amendedMs, StartMs: startMs, EndMs: endMs, GPUCount: gpus, FabricGbps: 3200}
}

// told renders findings shortly: "p actual r1 @60".
func told(found []Finding) []string {
	out := []string{}
	for i := range found {
		f := &found[i]
		if f.Limb == Indicator {
			continue // see TestIndicators
		}
		name := "-"
		if f.Profile != nil {
			name = *f.Profile
		}
		s := strings.Join([]string{name, f.Limb, f.Subject()}, " ") + " @" + trim(float64(f.KnownAtMs-t0)/float64(minute))
		if f.State == Inquire && f.Profile != nil {
			s += " inquire"
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

func trim(v float64) string {
	text, _ := json.Marshal(math.Round(v*100) / 100)
	return string(text)
}

func TestEvaluate(t *testing.T) {
	t.Parallel()
	const perMinute = 1e18 // 1e20 after 100 minutes
	tests := []struct {
		name string
		edit func(in *Input)
		want []string
	}{
		{name: "nothing", edit: func(*Input) {}},
		{
			name: "crossed without an order: no time was left to project",
			edit: func(in *Input) {
				in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "foreign")}
			},
			want: []string{"p actual r @100"},
		},
		{
			name: "projected at a quarter of an hour, then crossed",
			edit: func(in *Input) {
				in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "foreign")}
				in.Ev.Orders = []feature.Order{order("o", "foreign", "", t0-day, t0, t0+140*minute, 1)}
			},
			want: []string{"p actual r @100", "p projected r @15"},
		},
		{
			name: "an order of other GPUs, or of somebody who has not worked on the run, gives no time",
			edit: func(in *Input) {
				in.AtMs = t0 + 90*minute
				in.Runs = []RunState{training("r", t0, t0+90*minute, perMinute, "foreign")}
				a := order("a", "foreign", "", t0-day, t0, t0+3*hour, 1)
				a.GPUModel = "NVIDIA A100-SXM4-80GB"
				in.Ev.Orders = []feature.Order{a, order("b", "other", "", t0-day, t0, t0+3*hour, 1)}
			},
			want: []string{"p inquiry r @83.33 inquire"}, // it has done nearly as much
		},
		{
			name: "a later version of the order makes the projection",
			edit: func(in *Input) {
				in.AtMs = t0 + 90*minute
				in.Runs = []RunState{training("r", t0, t0+90*minute, perMinute, "foreign")}
				in.Ev.Orders = []feature.Order{
					order("o", "foreign", "", t0-day, t0, t0+hour, 1), order("o", "foreign", "", t0+40*minute, t0, t0+3*hour, 1),
					order("o", "foreign", "", t0+2*hour, t0, t0+hour, 1), // not visible yet
				}
			},
			want: []string{"p projected r @40"},
		},
		{
			name: "U.S. persons alone",
			edit: func(in *Input) {
				in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "us")}
				in.Ev.Orders = []feature.Order{order("o", "us", "", t0-day, t0, t0+100*day, 999)}
			},
		},
		{
			name: "no party, and no account at all, are in scope",
			edit: func(in *Input) {
				in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "nobody"), training("s", t0, t0+5*hour, perMinute)}
			},
			want: []string{"p actual r @100", "p actual s @100"},
		},
		{
			name: "not training",
			edit: func(in *Input) {
				s := training("r", t0, t0+5*hour, perMinute, "foreign")
				s.Run.Class = "inference"
				in.Runs = []RunState{s}
			},
		},
		{
			name: "below the profile's coverage",
			edit: func(in *Input) {
				s := training("r", t0, t0+5*hour, perMinute, "foreign")
				s.Est.CoverageFrac = 0.4
				in.Runs, in.Profiles[0].MinCoverageFrac = []RunState{s}, 0.5
			},
			want: []string{"p actual r @100 inquire"},
		},
		{
			name: "seen as training only now: not known before the last judgement",
			edit: func(in *Input) {
				in.PrevAtMs = in.AtMs - minute
				in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "foreign")}
			},
			want: []string{"p actual r @299"},
		},
		{
			name: "capacity at 0.3 of the peak, uses that exclude training, one already replaced",
			edit: func(in *Input) {
				// 8 x 989.4e12 x 0.3 x 12 h = 1.03e20
				in.Ev.Orders = []feature.Order{
					order("ok", "foreign", "anything", t0-day, t0, t0+12*hour, 8),
					order("short", "foreign", "", t0-day, t0, t0+11*hour, 8),
					order("use", "foreign", " Inference-Serving ", t0-day, t0, t0+12*hour, 8),
					order("late", "foreign", "", t0+hour, t0, t0+13*hour, 8),
					order("cut", "foreign", "", t0-2*day, t0, t0+12*hour, 8), order("cut", "foreign", "", t0-day, t0, t0+2*hour, 8),
					order("future", "foreign", "", t0+6*hour, t0, t0+100*hour, 8),
				}
			},
			want: []string{"p capacity late @60", "p capacity ok @0", "p inquiry short @0 inquire"},
		},
		{
			name: "amended from impossible to possible, and back",
			edit: func(in *Input) {
				in.Ev.Orders = []feature.Order{
					order("use", "foreign", "rendering", t0-day, t0, t0+20*hour, 8), order("use", "foreign", "research", t0+hour, t0, t0+20*hour, 8),
					order("use", "foreign", "rendering", t0+2*hour, t0, t0+20*hour, 8),
					order("small", "foreign", "", t0-day, t0, t0+2*hour, 8), order("small", "foreign", "", t0+3*hour, t0, t0+2*day, 8),
					// possible at full peak before: no changed arrangement
					order("half", "foreign", "", t0-day, t0, t0+6*hour, 8), order("half", "foreign", "", t0+hour, t0, t0+2*day, 8),
				}
			},
			want: []string{"p capacity half @60", "p capacity small @180", "p capacity use @60", "p changed_arrangement small @180", "p changed_arrangement use @60"},
		},
		{
			name: "cluster: at once, in one site, fast enough",
			edit: func(in *Input) {
				in.Profiles[0].Cluster = &ClusterLimb{Gbps: 300, OpsPerS: 2.2e16} // three nodes
				n := in.Ev.Nodes["n4"]
				n.FabricGbps = 300
				in.Ev.Nodes["n4"] = n
				in.Ev.Allocations = []feature.Allocation{
					rent("foreign", "n1", t0-day, t0+hour), rent("foreign", "n2", t0, 0), rent("foreign", "n4", t0, 0),
					rent("foreign", "n3", t0+hour, 0), // as n1 is given back
					rent("other", "n1", t0+hour, 0), rent("other", "n1", t0+hour, 0), rent("other", "n2", t0, 0),
					rent("us", "n1", t0, 0), rent("us", "n2", t0, 0), rent("us", "n3", t0, 0),
					rent("nobody", "n1", t0-hour, 0), rent("nobody", "n2", t0-hour, t0+2*hour), rent("nobody", "n3", t0+90*minute, 0),
				}
			},
			want: []string{"p cluster nobody @90"},
		},
		{
			name: "limit and cluster joined",
			edit: func(in *Input) {
				in.Profiles[0].Cluster, in.Profiles[0].JoinCluster = &ClusterLimb{Gbps: 300, OpsPerS: 2.2e16}, true
				in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "foreign"), training("s", t0, t0+5*hour, perMinute, "other")}
				in.Ev.Allocations = []feature.Allocation{rent("foreign", "n1", t0, 0), rent("foreign", "n2", t0, 0), rent("foreign", "n3", t0, 0), rent("other", "n1", t0, 0)}
			},
			want: []string{"p actual r @100"},
		},
		{
			name: "red flags on accounts",
			edit: func(in *Input) {
				in.SpecialJurisdictions = []string{"GB", "FR"}
				in.Ev.Orders = []feature.Order{order("o", "foreign", "hpc", t0-day, t0, t0+hour, 1), order("q", "us", "hpc", t0-day, t0, t0+hour, 1)}
				in.Ev.Allocations = []feature.Allocation{rent("refused", "n1", t0+hour, 0), rent("other", "n1", t0+6*hour, 0)}
			},
			want: []string{"- red_flag foreign @0", "- red_flag refused @60"},
		},
		{
			name: "one run over two accounts, also of U.S. persons",
			edit: func(in *Input) {
				in.Profiles = nil
				in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "us", "us2"), training("s", t0, t0+5*hour, perMinute, "us", "us3")}
				in.Ev.Allocations = []feature.Allocation{
					rent("us", "n1", t0-hour, t0+hour), rent("us2", "n1", t0+hour, 0), // one after the other
					rent("us3", "n1", t0-hour, t0+minute), // its rental ended as the run began
				}
			},
			want: []string{"- red_flag r @90"},
		},
		{
			name: "training on a rental declared otherwise",
			edit: func(in *Input) {
				in.Profiles = nil
				in.Runs = []RunState{training("r", t0, t0+5*hour, perMinute, "foreign"), training("s", t0, t0+5*hour, perMinute, "other")}
				in.Ev.Orders = []feature.Order{
					order("a", "foreign", "Game Streaming", t0-day, t0, t0+day, 8),
					order("b", "other", "rendering", t0-day, t0, t0+day, 8), order("c", "other", "research", t0-day, t0, t0+day, 8),
				}
			},
			want: []string{"- red_flag r @30"},
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			in := fleet()
			tc.edit(&in)
			slices.SortStableFunc(in.Ev.Allocations, func(a, b feature.Allocation) int { return cmp.Compare(a.StartMs, b.StartMs) })
			// No host of this fleet reports: that is a finding too, see TestTelemetry.
			found := slices.DeleteFunc(Evaluate(in), func(f Finding) bool { return f.Limb == Telemetry || f.Limb == Indicator })
			if got := told(found); !slices.Equal(got, tc.want) && len(got)+len(tc.want) > 0 {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
			again, _ := json.Marshal(slices.DeleteFunc(Evaluate(in), func(f Finding) bool { return f.Limb == Telemetry || f.Limb == Indicator }))
			if first, _ := json.Marshal(found); string(first) != string(again) {
				t.Error("two evaluations differ")
			}
			for _, f := range found {
				checkWords(t, f)
			}
		})
	}
}

// checkWords: no text says that somebody knew or that something is due where it is not.
func checkWords(t *testing.T, f Finding) {
	t.Helper()
	for _, word := range []string{"provider knew", "filing is due", "report is due", "must file", "guilty", "violat"} {
		if strings.Contains(strings.ToLower(f.Explanation), word) {
			t.Errorf("%s says %q: %s", f.Limb, word, f.Explanation)
		}
	}
	if !strings.Contains(f.Explanation, "Evidence sufficed from") {
		t.Errorf("%s does not say since when: %s", f.Limb, f.Explanation)
	}
	if f.DueAtMs == nil && f.WouldBeDueAtMs != nil && !strings.Contains(f.Explanation, "Hypothetical") {
		t.Errorf("%s has a hypothetical date and does not say so: %s", f.Limb, f.Explanation)
	}
	if f.Subject() == "" {
		t.Errorf("%s names no subject", f.Limb)
	}
}

func TestDue(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status     string
		binds      bool
		due, would bool
		basis      string
		marking    string
		explains   string
	}{
		{InForce, true, true, false, "in_force", "", "the deadline is"},
		{InForce, false, false, true, "in_force", Marking, "in force but not binding on this operator"},
		{Proposed, true, false, true, "proposed", Marking, "proposed, not in force"},
		{Custom, true, false, true, "custom", Marking, "a custom profile, not law"},
		{"revoked", true, false, true, "", Marking, "revoked, not in force"},
	}
	for _, tc := range tests {
		in := fleet()
		in.Runs = []RunState{training("r", t0, t0+5*hour, 1e18, "foreign")}
		in.Profiles[0].Status, in.Profiles[0].BindsOperator = tc.status, tc.binds
		f := Evaluate(in)[0]
		basis := ""
		if f.DueBasis != nil {
			basis = *f.DueBasis
		}
		if (f.DueAtMs != nil) != tc.due || (f.WouldBeDueAtMs != nil) != tc.would || basis != tc.basis || !strings.Contains(f.Explanation, tc.explains) {
			t.Errorf("%s: due %v would %v basis %q: %s", tc.status, f.DueAtMs, f.WouldBeDueAtMs, basis, f.Explanation)
		}
		if at := cmp.Or(f.DueAtMs, f.WouldBeDueAtMs); at == nil || *at != f.KnownAtMs+15*day {
			t.Errorf("%s: date %v", tc.status, at)
		}
		folder := Folder{Finding: f, Profile: &ProfileText{Profile: in.Profiles[0]}}
		if folder.marking() != tc.marking {
			t.Errorf("%s: marking %q", tc.status, folder.marking())
		}
	}
}

func byID(found []Finding) map[string]Finding {
	out := map[string]Finding{}
	for _, f := range found {
		out[f.Finding] = f
	}
	return out
}

// TestRevision: findings keep their time, move with a merge, and go with the class.
func TestRevision(t *testing.T) {
	t.Parallel()
	in := fleet()
	in.Ev.Orders = []feature.Order{order("o", "foreign", "", t0-day, t0, t0+12*hour, 8)}
	in.Runs = []RunState{training("b", t0, t0+5*hour, 1e18, "foreign")}
	first := Evaluate(in)
	want := []string{"p actual b @100", "p capacity o @0", "p projected b @15"}
	if got := told(first); !slices.Equal(got, want) {
		t.Fatalf("got %q", got)
	}
	later := func(edit func(in *Input)) []string {
		in := fleet()
		in.Ev.Orders = []feature.Order{order("o", "foreign", "", t0-day, t0, t0+12*hour, 8)}
		in.PrevAtMs, in.AtMs, in.Prev = in.AtMs, in.AtMs+minute, byID(first)
		edit(&in)
		return told(Evaluate(in))
	}
	tests := []struct {
		name string
		got  []string
		want []string
	}{
		{"again", later(func(in *Input) { in.Runs = []RunState{training("b", t0, t0+5*hour, 1e18, "foreign")} }), want},
		{"estimate went down: crossed later, known as before", later(func(in *Input) { in.Runs = []RunState{training("b", t0, t0+5*hour, 0.5e18, "foreign")} }), want},
		{"estimate fell below the limit", later(func(in *Input) { in.Runs = []RunState{training("b", t0, t0+5*hour, 0.1e18, "foreign")} }), []string{"p capacity o @0", "p projected b @15"}},
		{"merged into an earlier run", later(func(in *Input) {
			s := training("a", t0, t0+5*hour, 1e18, "foreign")
			s.Run.Supersedes = []string{"b", "c"}
			in.Runs = []RunState{s}
		}), []string{"p actual a @100", "p capacity o @0", "p projected a @15"}},
		{"no longer training", later(func(in *Input) {
			s := training("b", t0, t0+5*hour, 1e18, "foreign")
			s.Run.Class = "batch_inference"
			in.Runs = []RunState{s}
		}), []string{"p capacity o @0"}},
		{"order cut since", later(func(in *Input) {
			in.Ev.Orders = append(in.Ev.Orders, order("o", "foreign", "rendering", t0+hour, t0, t0+2*hour, 8))
		}), []string{"p capacity o @0"}},
		{"order gone from the evidence", later(func(in *Input) { in.Ev.Orders = nil }), []string{"p capacity o @0"}},
	}
	for _, tc := range tests {
		if !slices.Equal(tc.got, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.name, tc.got, tc.want)
		}
	}
}

func TestContractEnd(t *testing.T) {
	t.Parallel()
	in := fleet()
	in.Ev.EndMs = in.AtMs
	in.Ev.Orders = []feature.Order{order("a", "foreign", "", t0-day, t0, t0+day, 8), order("b", "foreign", "", t0, t0, t0+2*day, 8), order("c", "other", "", t0, t0, t0+9*day, 8)}
	r := training("r", t0, t0+hour, 1, "foreign")
	if got := ContractEnd(in.Ev, r.Run); got != t0+2*day {
		t.Errorf("end %d", got-t0)
	}
	r.Run.Accounts = nil
	if got := ContractEnd(in.Ev, r.Run); got != 0 {
		t.Errorf("end without an account %d", got)
	}
}

// cells of one node: eight GPUs of so many watts and utilization, and a meter.
func cells(in *Input, node string, fromMs, toMs int64, gpuW, util, hostW float64) {
	for at := feature.MinuteOf(fromMs); at < toMs; at += minute {
		for gpu := range 8 {
			c := feature.GPUCell{Node: node, GPU: gpu, MinuteMs: at, Samples: 4}
			c.Mean[feature.PowerW], c.CoverMs[feature.PowerW] = gpuW, minute
			c.Mean[feature.UtilFrac], c.CoverMs[feature.UtilFrac] = util, minute
			c.EnergyJ = feature.Counter{FirstMs: at, LastMs: at + 45_000, First: gpuW * float64(at-t0) / 1000, Last: gpuW * float64(at-t0+45_000) / 1000}
			c.EnergyJ.Delta = c.EnergyJ.Last - c.EnergyJ.First
			k := feature.GPUKey{Node: node, GPU: gpu}
			in.Ev.GPU[k] = append(in.Ev.GPU[k], c)
		}
		in.Ev.Host[node] = append(in.Ev.Host[node], feature.NodeCell{Node: node, MinuteMs: at, PowerW: hostW, PowerCoverMs: minute})
	}
}

// hostAlone is a host that is sampled while its GPUs are not.
func hostAlone(in *Input, node, vantage string) {
	cells(in, node, t0, in.AtMs, 100, 0, 2000)
	for gpu := range 8 {
		delete(in.Ev.GPU, feature.GPUKey{Node: node, GPU: gpu})
	}
	n := in.Ev.Nodes[node]
	n.Vantage = vantage
	in.Ev.Nodes[node] = n
}

func TestTelemetry(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		edit func(in *Input)
		want []string
	}{
		{name: "healthy", edit: func(in *Input) {
			cells(in, "n1", t0, in.AtMs, 600, 0.9, 6500)
			cells(in, "n2", t0, in.AtMs, 100, 0, 2000)
		}},
		{
			name: "a killed agent", edit: func(in *Input) {
				cells(in, "n1", t0, t0+hour, 600, 0.9, 6500)
				cells(in, "n2", t0, in.AtMs, 100, 0, 2000)
			}, want: []string{"- telemetry foreign @70"},
		},
		{
			name: "silence, then back", edit: func(in *Input) {
				cells(in, "n1", t0, t0+hour, 600, 0.9, 6500)
				cells(in, "n1", t0+2*hour, in.AtMs, 600, 0.9, 6500)
				cells(in, "n2", t0, in.AtMs, 100, 0, 2000)
			}, want: []string{"- telemetry foreign @70"},
		},
		{
			name: "everybody silent: nothing can be told", edit: func(in *Input) {
				cells(in, "n1", t0, t0+hour, 600, 0.9, 6500)
				cells(in, "n2", t0, t0+hour, 100, 0, 2000)
			}, want: []string{"- telemetry foreign @90"},
		},
		{
			name: "everybody silent for a moment: the path was down", edit: func(in *Input) {
				for _, n := range []string{"n1", "n2"} {
					cells(in, n, t0, t0+hour, 100, 0, 2000)
					cells(in, n, t0+hour+20*minute, in.AtMs, 100, 0, 2000)
				}
			},
		},
		{
			name: "a node that never reported", edit: func(in *Input) { cells(in, "n2", t0, in.AtMs, 100, 0, 2000) },
			want: []string{"- telemetry foreign @15"},
		},
		{
			name: "a host that tells of itself alone, and its GPUs could be read", edit: func(in *Input) {
				hostAlone(in, "n1", "host")
				cells(in, "n2", t0, in.AtMs, 100, 0, 2000)
			}, want: []string{"- telemetry foreign @15"},
		},
		{
			name: "the only host of all, without its GPUs", edit: func(in *Input) {
				hostAlone(in, "n1", "host")
			}, want: []string{"- telemetry foreign @15"},
		},
		{
			name: "GPUs that cannot be read from the host: its meter is what there is", edit: func(in *Input) {
				hostAlone(in, "n1", "outofband")
				cells(in, "n2", t0, in.AtMs, 100, 0, 2000)
			},
		},
		{
			name: "silent while nobody holds it", edit: func(in *Input) {
				in.Ev.Allocations = nil
				cells(in, "n1", t0, t0+hour, 600, 0.9, 6500)
				cells(in, "n2", t0, in.AtMs, 100, 0, 2000)
			},
		},
		{
			name: "GPUs draw more than their host", edit: func(in *Input) {
				cells(in, "n1", t0, in.AtMs, 600, 0.9, 4000)
				cells(in, "n2", t0, in.AtMs, 100, 0, 2000)
			},
			want: []string{"- telemetry foreign @10"},
		},
		{
			name: "the meter sees what the GPUs hide", edit: func(in *Input) {
				cells(in, "n1", t0, in.AtMs, 90, 0.1, 7200)
				cells(in, "n2", t0, in.AtMs, 100, 0, 2000)
			},
			want: []string{"- telemetry foreign @10"},
		},
		{
			name: "watts at rest", edit: func(in *Input) {
				cells(in, "n1", t0, in.AtMs, 600, 0, 6500)
				cells(in, "n2", t0, in.AtMs, 100, 0, 2000)
			},
			want: []string{"- telemetry foreign @10"},
		},
		{
			name: "a short contradiction", edit: func(in *Input) {
				cells(in, "n1", t0, t0+hour, 600, 0.9, 6500)
				cells(in, "n1", t0+hour, t0+hour+9*minute, 600, 0, 6500)
				cells(in, "n1", t0+hour+9*minute, in.AtMs, 600, 0.9, 6500)
				cells(in, "n2", t0, in.AtMs, 100, 0, 2000)
			},
		},
		{
			name: "an energy counter that stands still", edit: func(in *Input) {
				cells(in, "n1", t0, in.AtMs, 600, 0.9, 6500)
				cells(in, "n2", t0, in.AtMs, 100, 0, 2000)
				for k, c := range in.Ev.GPU {
					for i := range c {
						if k.Node == "n1" && k.GPU == 3 {
							c[i].EnergyJ.First, c[i].EnergyJ.Last, c[i].EnergyJ.Delta = 5, 5, 0
						}
					}
				}
			}, want: []string{"- telemetry foreign @10"},
		},
		{
			name: "no energy counter", edit: func(in *Input) {
				cells(in, "n1", t0, in.AtMs, 600, 0.9, 6500)
				cells(in, "n2", t0, in.AtMs, 100, 0, 2000)
				for _, c := range in.Ev.GPU {
					for i := range c {
						c[i].EnergyJ = feature.Counter{}
					}
				}
			},
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			in := fleet()
			in.StartMs = feature.MinuteOf(t0)
			in.Profiles = nil
			in.Ev.Allocations = []feature.Allocation{rent("foreign", "n1", t0-hour, 0)}
			tc.edit(&in)
			if got := told(Evaluate(in)); !slices.Equal(got, tc.want) && len(got)+len(tc.want) > 0 {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestLateRowsFillSilence: a stretch that late rows have filled is not a finding any more.
func TestLateRowsFillSilence(t *testing.T) {
	t.Parallel()
	judge := func(filled bool, prev map[string]Finding) []Finding {
		in := fleet()
		in.Profiles, in.Prev = nil, prev
		if prev != nil {
			in.PrevAtMs, in.AtMs = in.AtMs, in.AtMs+minute
		}
		in.Ev.Allocations = []feature.Allocation{rent("foreign", "n1", t0-hour, 0)}
		cells(&in, "n1", t0, t0+hour, 600, 0.9, 6500)
		if filled {
			cells(&in, "n1", t0+hour, t0+2*hour, 600, 0.9, 6500)
		}
		cells(&in, "n1", t0+2*hour, in.AtMs, 600, 0.9, 6500)
		cells(&in, "n2", t0, in.AtMs, 100, 0, 2000)
		return Evaluate(in)
	}
	first := judge(false, nil)
	if len(first) != 1 {
		t.Fatalf("got %q", told(first))
	}
	if again := judge(false, byID(first)); len(again) != 1 || again[0].KnownAtMs != first[0].KnownAtMs {
		t.Errorf("got %q", told(again))
	}
	if again := judge(true, byID(first)); len(again) != 0 {
		t.Errorf("got %q", told(again))
	}
}

// TestHostAloneStaysSilent: what a host tells of itself does not fill the silence of its GPUs
// at a later judgement either; rows of the GPUs do.
func TestHostAloneStaysSilent(t *testing.T) {
	t.Parallel()
	judge := func(filled bool, prev map[string]Finding) []Finding {
		in := fleet()
		in.Profiles, in.Prev, in.StartMs = nil, prev, feature.MinuteOf(t0)
		if prev != nil {
			in.PrevAtMs, in.AtMs = in.AtMs, in.AtMs+minute
		}
		in.Ev.Allocations = []feature.Allocation{rent("foreign", "n1", t0-hour, 0)}
		cells(&in, "n2", t0, in.AtMs, 100, 0, 2000)
		hostAlone(&in, "n1", "host")
		if filled {
			delete(in.Ev.Host, "n1")
			cells(&in, "n1", t0, in.AtMs, 100, 0, 2000)
		}
		return Evaluate(in)
	}
	first := judge(false, nil)
	if len(first) != 1 {
		t.Fatalf("got %q", told(first))
	}
	if again := judge(false, byID(first)); len(again) != 1 || again[0].KnownAtMs != first[0].KnownAtMs {
		t.Errorf("got %q", told(again))
	}
	if again := judge(true, byID(first)); len(again) != 0 {
		t.Errorf("filled: got %q", told(again))
	}
}

// TestExtendJoinsAbsence: one stretch without samples is one line, whether others of the
// fleet reported in all of it or in a part.
func TestExtendJoinsAbsence(t *testing.T) {
	t.Parallel()
	lines := extend(nil, Evidence{Kind: kindSilence, Node: "n", FromMs: t0, ToMs: t0 + hour})
	lines = extend(lines, Evidence{Kind: kindOutage, Node: "n", FromMs: t0, ToMs: t0 + 2*hour})
	lines = extend(lines, Evidence{Kind: kindContradiction, Node: "n", FromMs: t0, ToMs: t0 + hour})
	if len(lines) != 2 || lines[0].Kind != kindSilence || lines[0].ToMs != t0+2*hour || lines[1].Kind != kindContradiction {
		t.Errorf("got %+v", lines)
	}
}
