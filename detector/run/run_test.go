package run_test

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

const (
	t0     = int64(1_700_000_040_000)
	minute = int64(feature.MinuteMs)
)

// world builds evidence by hand.
type world struct{ ev *feature.Evidence }

func newWorld(minutes int64, nodes ...string) world {
	ev := &feature.Evidence{StartMs: t0, EndMs: t0 + minutes*minute, Nodes: map[string]feature.Node{}, GPU: map[feature.GPUKey][]feature.GPUCell{}, Host: map[string][]feature.NodeCell{}}
	for _, n := range nodes {
		ev.Nodes[n] = feature.Node{Node: n, GPUModel: "NVIDIA H100 80GB HBM3", GPUCount: 8, TDPW: 700, FabricGbps: 3200, Vantage: "host", Listed: true}
	}
	return world{ev}
}

func gpus(n int) []int {
	var out []int
	for g := range n {
		out = append(out, g)
	}
	return out
}

// use fills the minutes [from, to) of GPUs with load; the others stay as they are.
func (w world) use(node string, list []int, from, to int64, mem, power float64) {
	for _, g := range list {
		k := feature.GPUKey{Node: node, GPU: g}
		for i := range w.ev.GPU[k] {
			c := &w.ev.GPU[k][i]
			if m := (c.MinuteMs - t0) / minute; m >= from && m < to {
				c.Mean[feature.UtilFrac], c.Mean[feature.MemUsedBytes], c.Mean[feature.PowerW], c.Mean[feature.SMClockMHz] = 0.95, mem, power, 1800
			}
		}
	}
}

// rest fills all minutes of GPUs with a released GPU.
func (w world) rest(node string, list []int) {
	for _, g := range list {
		k := feature.GPUKey{Node: node, GPU: g}
		for t := t0; t < w.ev.EndMs; t += minute {
			c := feature.GPUCell{Node: node, GPU: g, MinuteMs: t, Samples: 4}
			for _, s := range [...]feature.Signal{feature.UtilFrac, feature.MemUsedBytes, feature.PowerW, feature.SMClockMHz} {
				c.CoverMs[s] = minute
			}
			c.Mean[feature.MemUsedBytes], c.Mean[feature.PowerW], c.Mean[feature.SMClockMHz] = 0.7e9, 75, 345
			w.ev.GPU[k] = append(w.ev.GPU[k], c)
		}
	}
}

func (w world) rent(account, node string, list []int, from, to int64) {
	a := feature.Allocation{Account: account, Node: node, GPUs: list, StartMs: t0 + from*minute}
	if to > 0 {
		a.EndMs = t0 + to*minute
	}
	w.ev.Allocations = append(w.ev.Allocations, a)
}

func (w world) process(node string, list []int, pid int, from, to int64, job string) {
	p := feature.Process{Node: node, GPUs: list, PID: pid, StartMs: t0 + from*minute, Exe: "python3", JobSource: "slurm", JobID: job, User: "u", WorldSize: -1, Rank: -1}
	if to > 0 {
		p.EndMs = t0 + to*minute
	}
	w.ev.Processes = append(w.ev.Processes, p)
}

// comm reports one operation of some GPUs every five minutes.
func (w world) comm(node string, list []int, pid int, name, op string, nranks int, perCall float64, from, to int64) {
	for m := from + 5; m < to; m += 5 {
		for _, g := range list {
			w.ev.Comm = append(w.ev.Comm, feature.CommCell{Node: node, PID: pid, GPU: g, Comm: name, Op: op, NRanks: nranks, Rank: g, MinuteMs: t0 + m*minute, Calls: 1000, Bytes: 1000 * perCall})
		}
	}
	slices.SortStableFunc(w.ev.Comm, func(a, b feature.CommCell) int { return int((a.MinuteMs - b.MinuteMs) / minute) })
}

// text shows the episodes in use, times in minutes.
func text(eps []run.Episode) string {
	var out []string
	for _, e := range eps {
		if e.Basis < run.BasisPower {
			continue
		}
		out = append(out, fmt.Sprintf("%s:%d %d-%d", strings.Join(e.Nodes(), "+"), e.GPUs(), (e.StartMs-t0)/minute, (e.EndMs-t0)/minute))
	}
	return strings.Join(out, ", ")
}

func TestEpisodes(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		make func() world
		want string
	}{
		{"one job on one node, seen in counters alone", func() world {
			w := newWorld(60, "a")
			w.rest("a", gpus(8))
			w.use("a", gpus(8), 10, 40, 60e9, 600)
			return w
		}, "a:8 10-40"},
		{"two tenants on one node", func() world {
			w := newWorld(60, "a")
			w.rest("a", gpus(8))
			w.rent("x", "a", gpus(4), 0, 0)
			w.rent("y", "a", []int{4, 5, 6, 7}, 0, 0)
			w.use("a", gpus(4), 10, 40, 60e9, 600)
			w.use("a", []int{4, 5, 6, 7}, 10, 40, 60e9, 600)
			return w
		}, "a:4 10-40, a:4 10-40"},
		{"unlike load that began together", func() world {
			w := newWorld(60, "a")
			w.rest("a", gpus(4))
			w.use("a", gpus(2), 10, 40, 60e9, 600)
			w.use("a", []int{2, 3}, 10, 40, 20e9, 300)
			return w
		}, "a:2 10-40, a:2 10-40"},
		{"memory held over a pause is one stretch", func() world {
			w := newWorld(60, "a")
			w.rest("a", gpus(1))
			w.use("a", gpus(1), 10, 50, 60e9, 600)
			for i := 20; i < 40; i++ { // 20 minutes without load
				c := &w.ev.GPU[feature.GPUKey{Node: "a"}][i]
				c.Mean[feature.UtilFrac], c.Mean[feature.PowerW] = 0, 120
			}
			return w
		}, "a:1 10-50"},
		{"ranks that name no GPU, only their process", func() world {
			w := newWorld(60, "a", "b")
			for i, n := range []string{"a", "b"} {
				w.rest(n, gpus(8))
				w.use(n, gpus(8), 10, 40, 60e9, 600)
				w.process(n, gpus(8), 7, 10, 40, fmt.Sprint("j", i))
				w.comm(n, []int{-1}, 7, "c1", "allreduce", 2, 3e7, 10, 40)
			}
			return w
		}, "a+b:16 10-40"},
		{"nodes that begin together and exchange nothing that is seen elsewhere", func() world {
			w := newWorld(60, "a", "b", "c", "d")
			for _, n := range []string{"a", "b", "c", "d"} {
				w.rest(n, gpus(8))
				w.use(n, gpus(8), 10, 40, 60e9, 600)
			}
			for m := int64(10); m < 40; m++ {
				w.ev.Flows = append(w.ev.Flows, feature.FlowCell{Node: "a", Peer: "b", MinuteMs: t0 + m*minute, TxBytes: 6e10})
			}
			return w
		}, "a+b:16 10-40, c:8 10-40, d:8 10-40"},
		{"a hole in telemetry with the same memory on both sides", func() world {
			w := newWorld(90, "a")
			w.rest("a", gpus(1))
			w.use("a", gpus(1), 10, 80, 60e9, 600)
			k := feature.GPUKey{Node: "a"}
			w.ev.GPU[k] = append(slices.Clone(w.ev.GPU[k][:20]), w.ev.GPU[k][50:]...)
			return w
		}, "a:1 10-80"},
		{"a process over short pauses of load", func() world {
			w := newWorld(60, "a")
			w.rest("a", gpus(8))
			w.use("a", gpus(8), 12, 38, 60e9, 600)
			w.process("a", gpus(8), 7, 10, 40, "j")
			return w
		}, "a:8 10-40"},
		{"two programs share a GPU in time", func() world {
			w := newWorld(60, "a")
			w.rest("a", gpus(1))
			w.use("a", gpus(1), 10, 50, 60e9, 600)
			w.process("a", gpus(1), 7, 10, 50, "j")
			w.process("a", gpus(1), 8, 20, 50, "k")
			return w
		}, "a:1 10-50, a:1 20-50"},
		{"a process that claims to go on after the GPU was released", func() world {
			w := newWorld(90, "a")
			w.rest("a", gpus(1))
			w.use("a", gpus(1), 10, 40, 60e9, 600)
			w.process("a", gpus(1), 7, 10, 0, "j")
			return w
		}, "a:1 10-40"},
		{"ranks of a communicator on two nodes, other job ids and accounts", func() world {
			w := newWorld(60, "a", "b")
			for i, n := range []string{"a", "b"} {
				w.rest(n, gpus(8))
				w.rent(fmt.Sprint("acct", i), n, gpus(8), 0, 0)
				w.use(n, gpus(8), 10, 40, 60e9, 600)
				w.process(n, gpus(8), 7, 10, 40, fmt.Sprint("j", i))
				w.comm(n, gpus(8), 7, "c1", "allreduce", 16, 3e7, 10, 40)
			}
			return w
		}, "a+b:16 10-40"},
		{"a job id on two nodes", func() world {
			w := newWorld(60, "a", "b")
			for _, n := range []string{"a", "b"} {
				w.rest(n, gpus(8))
				w.use(n, gpus(8), 10, 40, 60e9, 600)
				w.process(n, gpus(8), 7, 10, 40, "j")
			}
			return w
		}, "a+b:16 10-40"},
		{"nodes that exchange gigabytes, nothing declared", func() world {
			w := newWorld(60, "a", "b", "c")
			for _, n := range []string{"a", "b", "c"} {
				w.rest(n, gpus(8))
				w.use(n, gpus(8), 10, 40, 60e9, 600)
			}
			for m := int64(10); m < 40; m++ {
				w.ev.Flows = append(w.ev.Flows, feature.FlowCell{Node: "a", Peer: "b", MinuteMs: t0 + m*minute, TxBytes: 6e10})
				for _, n := range []string{"a", "b", "c"} {
					bps := 6e10
					if n == "c" {
						bps = 0
					}
					w.ev.Host[n] = append(w.ev.Host[n], feature.NodeCell{Node: n, MinuteMs: t0 + m*minute, FabricTxBytes: bps, FabricCoverMs: minute})
				}
			}
			return w
		}, "a+b:16 10-40, c:8 10-40"},
		{"work that no process declares, beside one that does", func() world {
			w := newWorld(60, "a")
			w.rest("a", gpus(1))
			w.use("a", gpus(1), 5, 55, 60e9, 600)
			w.process("a", gpus(1), 7, 30, 55, "j")
			return w
		}, "a:1 5-30, a:1 30-55"},
		{"a GPU that changes hands", func() world {
			w := newWorld(60, "a")
			w.rest("a", gpus(1))
			w.use("a", gpus(1), 5, 55, 60e9, 600)
			w.rent("x", "a", gpus(1), 0, 30)
			w.rent("y", "a", gpus(1), 30, 0)
			return w
		}, "a:1 5-30, a:1 30-55"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := text(run.Episodes(c.make().ev)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// watts fills a host's minutes with power.
func (w world) watts(node string, power func(m int64) (mean, sd float64)) {
	n := w.ev.Nodes[node]
	n.Vantage = "outofband"
	w.ev.Nodes[node] = n
	for m := range (w.ev.EndMs - t0) / minute {
		p, sd := power(m)
		if !math.IsNaN(p) {
			w.ev.Host[node] = append(w.ev.Host[node], feature.NodeCell{Node: node, MinuteMs: t0 + m*minute, PowerW: p, PowerSD: sd, PowerCoverMs: minute})
		}
	}
}

func TestEpisodesFromWatts(t *testing.T) {
	t.Parallel()
	const idle, load = 2000.0, 6500.0
	step := func(spans ...int64) func(int64) (float64, float64) {
		return func(m int64) (float64, float64) {
			for i := 0; i < len(spans); i += 2 {
				if m >= spans[i] && m < spans[i+1] {
					return load, 60
				}
			}
			return idle, 10
		}
	}
	cases := []struct {
		name string
		make func() world
		want string
	}{
		{"two runs with rest between", func() world {
			w := newWorld(90, "a")
			w.watts("a", step(10, 30, 34, 54))
			return w
		}, "a:8 10-30, a:8 34-54"},
		{"a stall that keeps the contexts is inside", func() world {
			w := newWorld(90, "a")
			w.watts("a", func(m int64) (float64, float64) {
				if m == 25 {
					return idle + 700, 10
				}
				return step(10, 60)(m)
			})
			return w
		}, "a:8 10-60"},
		{"half a minute at rest in each of two minutes", func() world {
			w := newWorld(90, "a")
			w.watts("a", func(m int64) (float64, float64) {
				if m == 30 || m == 31 {
					return (idle + load) / 2, (load - idle) / 2
				}
				return step(10, 60)(m)
			})
			return w
		}, "a:8 10-31, a:8 30-60"},
		{"no telemetry for six minutes", func() world {
			w := newWorld(90, "a")
			w.watts("a", func(m int64) (float64, float64) {
				if m >= 30 && m < 36 {
					return math.NaN(), 0
				}
				return step(10, 60)(m)
			})
			return w
		}, "a:8 10-30, a:8 36-60"},
		{"two hosts in step, a third of its own", func() world {
			w := newWorld(90, "a", "b", "c")
			w.watts("a", step(10, 40))
			w.watts("b", step(10, 40))
			w.watts("c", step(12, 44))
			return w
		}, "a+b:16 10-40, c:8 12-44"},
		{"rented by two accounts", func() world {
			w := newWorld(90, "a")
			w.watts("a", step(10, 40))
			w.rent("x", "a", gpus(4), 0, 0)
			w.rent("y", "a", []int{4, 5, 6, 7}, 0, 0)
			return w
		}, "a:4 10-40, a:4 10-40"},
		{"at rest", func() world {
			w := newWorld(90, "a")
			w.watts("a", step())
			w.rent("x", "a", gpus(8), 0, 0)
			return w
		}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := text(run.Episodes(c.make().ev)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// A rental without telemetry is unseen, not idle; one whose GPU is seen released is idle.
func TestEpisodesOfRentals(t *testing.T) {
	t.Parallel()
	w := newWorld(60, "a", "b")
	w.rest("a", gpus(8))
	w.rent("x", "a", gpus(8), 0, 0)
	w.rent("x", "b", gpus(8), 0, 0)
	var got []string
	for _, e := range run.Episodes(w.ev) {
		got = append(got, fmt.Sprint(e.Nodes(), e.GPUs(), e.Basis == run.BasisIdle, e.Open, e.Accounts))
	}
	want := []string{"[a] 8 true true [x]", "[b] 8 false true [x]"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// joined runs Join with every episode in use as a training.
func joined(w world) []run.Run {
	eps := run.Episodes(w.ev)
	classes := make([]run.ClassOf, len(eps))
	for i := range eps {
		classes[i] = run.ClassOf{Class: "training", Prob: 0.9, Training: eps[i].Basis >= run.BasisPower}
	}
	return slices.DeleteFunc(run.Join(w.ev, eps, classes), func(r run.Run) bool {
		return !slices.ContainsFunc(r.Episodes, func(i int) bool { return eps[i].Basis >= run.BasisPower })
	})
}

// job is a training of 8 GPUs on a node.
func (w world) job(node, account, id string, from, to int64, mem, perCall float64) {
	if len(w.ev.GPU[feature.GPUKey{Node: node}]) == 0 {
		w.rest(node, gpus(8))
	}
	w.rent(account, node, gpus(8), from, to)
	w.use(node, gpus(8), from, to, mem, 640)
	pid := int(from) + 1000
	w.process(node, gpus(8), pid, from, to, id)
	w.comm(node, gpus(8), pid, fmt.Sprintf("%s-%d", node, from), "reducescatter", 8, perCall, from, to)
}

func TestJoin(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		make func() world
		want int // runs
	}{
		{"a chain of jobs", func() world {
			w := newWorld(300, "a")
			w.job("a", "x", "llm-77-0", 0, 90, 60e9, 3.1e8)
			w.job("a", "x", "llm-77-1", 100, 180, 60e9, 3.1e8)
			w.job("a", "x", "llm-77-2", 260, 290, 60e9, 3.1e8)
			return w
		}, 1},
		{"a move to other hosts under a new job", func() world {
			w := newWorld(300, "a", "b")
			w.job("a", "x", "4711", 0, 90, 60e9, 3.1e8)
			w.job("b", "x", "4790", 96, 180, 60e9, 3.1e8)
			return w
		}, 1},
		{"accounts that hand over to each other", func() world {
			w := newWorld(300, "a", "b")
			w.job("a", "x", "4711", 0, 56, 60e9, 3.1e8)
			w.job("b", "y", "4790", 60, 116, 60e9, 3.1e8)
			w.job("a", "x", "4801", 120, 171, 60e9, 3.1e8)
			w.job("b", "y", "4811", 175, 225, 60e9, 3.1e8)
			return w
		}, 1},
		{"other calls and other memory", func() world {
			w := newWorld(300, "a")
			w.job("a", "x", "4711", 0, 90, 60e9, 3.1e8)
			w.job("a", "x", "4790", 100, 180, 45e9, 5.2e8)
			return w
		}, 2},
		{"named chains that differ", func() world {
			w := newWorld(300, "a")
			w.job("a", "x", "llm-77-0", 0, 90, 60e9, 3.1e8)
			w.job("a", "x", "vit-12-0", 100, 180, 60e9, 7.7e8)
			return w
		}, 2},
		{"experiments of the same length on the same host", func() world {
			w := newWorld(300, "a")
			for i := range int64(4) {
				w.job("a", "x", fmt.Sprint(4711+7*i), 60*i, 60*i+55, 60e9, 3.1e8)
			}
			return w
		}, 4},
		{"the same program twice at once", func() world {
			w := newWorld(300, "a", "b")
			w.job("a", "x", "4711", 0, 90, 60e9, 3.1e8)
			w.job("b", "x", "4712", 3, 95, 60e9, 3.1e8)
			return w
		}, 2},
		{"common bucket sizes of two customers", func() world {
			w := newWorld(300, "a", "b")
			w.job("a", "x", "4711", 0, 90, 60e9, 25e6)
			w.job("b", "y", "4712", 100, 180, 52e9, 25e6)
			return w
		}, 2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			runs := joined(c.make())
			if len(runs) != c.want {
				for _, r := range runs {
					t.Logf("%s %v %v %v %v", r.ID, r.Episodes, r.Accounts, r.Links, r.Alternatives)
				}
				t.Errorf("%d runs, want %d", len(runs), c.want)
			}
			for _, r := range runs {
				if len(r.Episodes) != len(r.Supersedes)+1 {
					t.Errorf("run of %d episodes supersedes %d", len(r.Episodes), len(r.Supersedes))
				}
				for i := 1; i < len(r.Members); i++ {
					a, b := r.Members[i-1], r.Members[i]
					if a.Node == b.Node && a.GPU == b.GPU && b.StartMs-a.EndMs <= 2*minute {
						t.Errorf("a gap of %d ms cuts a member", b.StartMs-a.EndMs)
					}
				}
			}
		})
	}
}

// A scale-up goes on with the same calls on more GPUs.
func TestJoinScaleUp(t *testing.T) {
	t.Parallel()
	w := newWorld(300, "a", "b")
	w.job("a", "x", "4711", 0, 90, 60e9, 3.1e8)
	w.rest("b", gpus(8))
	for _, n := range []string{"a", "b"} {
		w.rent("x", n, gpus(8), 96, 200)
		w.use(n, gpus(8), 96, 200, 48e9, 640)
		w.process(n, gpus(8), 9, 96, 200, "4790")
		w.comm(n, gpus(8), 9, "big", "reducescatter", 16, 3.1e8, 96, 200)
	}
	if runs := joined(w); len(runs) != 1 || len(runs[0].Members) != 24 {
		t.Errorf("%d runs: %+v", len(runs), runs)
	}
}

// What cannot be told from a repeat is kept apart, and the other run is named.
func TestJoinAlternatives(t *testing.T) {
	t.Parallel()
	w := newWorld(300, "a")
	for i := range int64(2) {
		w.job("a", "x", fmt.Sprint(4711+7*i), 60*i, 60*i+55, 60e9, 3.1e8)
	}
	runs := joined(w)
	if len(runs) != 2 || len(runs[1].Alternatives) != 1 || runs[1].Alternatives[0].Run != runs[0].ID || runs[1].Alternatives[0].Weight > 0.5 {
		t.Errorf("%+v", runs)
	}
}

// The same evidence gives the same answer, and an id does not change while evidence grows.
func TestStable(t *testing.T) {
	t.Parallel()
	full := func(minutes int64) world {
		w := newWorld(minutes, "a", "b")
		w.job("a", "x", "llm-77-0", 5, 90, 60e9, 3.1e8)
		w.job("b", "x", "llm-77-1", 96, 180, 60e9, 3.1e8)
		w.ev.Comm = slices.DeleteFunc(w.ev.Comm, func(c feature.CommCell) bool { return c.MinuteMs >= w.ev.EndMs })
		w.ev.Processes = slices.DeleteFunc(w.ev.Processes, func(p feature.Process) bool { return p.StartMs > w.ev.EndMs })
		for i := range w.ev.Processes {
			if w.ev.Processes[i].EndMs > w.ev.EndMs {
				w.ev.Processes[i].EndMs = 0
			}
		}
		return w
	}
	id := ""
	for minutes := int64(8); minutes <= 200; minutes += 8 {
		a, b := joined(full(minutes)), joined(full(minutes))
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("two judgements after %d min differ", minutes)
		}
		if len(a) != 1 {
			if minutes < 110 { // the second part has shown no call yet
				continue
			}
			t.Fatalf("after %d min: %d runs", minutes, len(a))
		}
		if id == "" {
			id = a[0].ID
		}
		if a[0].ID != id {
			t.Errorf("after %d min the id is %s, was %s", minutes, a[0].ID, id)
		}
	}
}
