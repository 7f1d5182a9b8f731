package run_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// part is a stretch of work on whole nodes that nothing declares.
type part struct {
	nodes    []string
	from, to int64
	account  string
}

func (w world) work(p part, mem, watts float64) {
	for _, n := range p.nodes {
		if len(w.ev.GPU[feature.GPUKey{Node: n}]) == 0 {
			w.rest(n, gpus(8))
		}
		if p.account != "" {
			w.rent(p.account, n, gpus(8), p.from, p.to)
		}
		w.use(n, gpus(8), p.from, p.to, mem, watts)
	}
}

// traffic fills a node's minutes with what its ports sent.
func (w world) traffic(node string, from, to int64, fabric, ethernet func(m int64) float64) {
	for m := range (w.ev.EndMs - t0) / minute {
		c := feature.NodeCell{Node: node, MinuteMs: t0 + m*minute}
		if fabric != nil {
			c.FabricCoverMs = minute
			if m >= from && m < to {
				c.FabricTxBytes = fabric(m)
			}
		}
		if ethernet != nil {
			c.EthernetCoverMs = minute
			c.EthernetTxBytes = 3e6
			if m >= from && m < to {
				c.EthernetTxBytes += ethernet(m)
			}
		}
		w.ev.Host[node] = append(w.ev.Host[node], c)
	}
}

// stall lets the GPUs of a node wait in a minute.
func (w world) stall(node string, m int64) {
	for g := range 8 {
		if c := w.ev.GPU[feature.GPUKey{Node: node, GPU: g}]; m >= 0 && m < int64(len(c)) {
			c[m].Mean[feature.UtilFrac], c[m].Mean[feature.PowerW] = 0.2, 200
		}
	}
}

// Restarts that no name, call or process tells: whatever the model, the gap and the lengths.
func TestBlindRestarts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(24) {
		rng := rand.New(rand.NewPCG(seed, 2))
		mem, watts := (8+60*rng.Float64())*1e9, 300+350*rng.Float64()
		hosts := 1 + rng.IntN(3)
		names := []string{"a", "b", "c", "d", "e", "z"}
		replace := hosts > 1 && rng.IntN(2) == 0
		first := 50 + rng.Int64N(120)
		gap := 2 + rng.Int64N(8)
		second := first*2 + rng.Int64N(100) // not a try of the same length
		w := newWorld(700, names...)
		w.work(part{names[:hosts], 10, 10 + first, "x"}, mem, watts)
		next := slices.Clone(names[:hosts])
		if replace {
			next[hosts-1] = "e"
		}
		w.work(part{next, 10 + first + gap, 10 + first + gap + second, "x"}, mem*(1+0.01*rng.Float64()), watts*(1+0.02*rng.Float64()))
		w.work(part{[]string{"z"}, 20, 600, "y"}, mem*0.7, watts*1.05) // what else runs here
		if runs := joined(w); len(runs) != 2 {
			t.Errorf("seed %d: %d hosts, replaced %v, %d min, %d min, %d min: %d runs", seed, hosts, replace, first, gap, second, len(runs))
		}
	}
}

// What looks like a repeat, or like another customer's work, is kept apart; the repeat is named.
func TestBlindRepeats(t *testing.T) {
	t.Parallel()
	for seed := range uint64(16) {
		rng := rand.New(rand.NewPCG(seed, 3))
		mem, watts := (8+60*rng.Float64())*1e9, 300+350*rng.Float64()
		length, gap := 25+rng.Int64N(60), 3+rng.Int64N(4)
		w := newWorld(700, "a", "b")
		w.work(part{[]string{"a"}, 10, 10 + length, "x"}, mem, watts)
		w.work(part{[]string{"a"}, 10 + length + gap, 10 + 2*length + gap, "x"}, mem, watts)
		runs := joined(w)
		if len(runs) != 2 || len(runs[1].Alternatives) != 1 || runs[1].Alternatives[0].Weight >= 0.5 {
			t.Errorf("seed %d: a repeat of %d min: %d runs, %+v", seed, length, len(runs), runs[len(runs)-1].Alternatives)
		}
		w = newWorld(700, "a", "b")
		w.work(part{[]string{"a"}, 10, 10 + length, "x"}, mem, watts)
		w.work(part{[]string{"a"}, 10 + length + gap, 200 + length + gap, "y"}, mem*0.8, watts*0.9)
		if runs := joined(w); len(runs) != 2 {
			t.Errorf("seed %d: another customer: %d runs", seed, len(runs))
		}
	}
}

// One job on hosts whose clocks are off, and two jobs that are not one.
func TestPaceOverClocks(t *testing.T) {
	t.Parallel()
	for _, off := range []int64{-3, -2, -1, 0, 1, 2, 3} {
		for _, length := range []int64{90, 200} {
			for _, fabric := range []float64{2e10, 3e11} {
				make := func(endOff int64, other float64) string {
					w := newWorld(length+60, "a", "b")
					w.work(part{[]string{"a"}, 20, 20 + length, "x"}, 60e9, 600)
					w.work(part{[]string{"b"}, 20 + off, 20 + length + endOff, "x"}, 60e9*other, 600*other)
					w.traffic("a", 20, 20+length, func(int64) float64 { return fabric }, nil)
					w.traffic("b", 20+off, 20+length+endOff, func(int64) float64 { return fabric * other }, nil)
					return fmt.Sprint(len(inUseOf(run.Episodes(w.ev))))
				}
				if got := make(off, 1); got != "1" {
					t.Errorf("off by %d min over %d min: %s episodes", off, length, got)
				}
				if got := make(off+25, 1); got != "2" {
					t.Errorf("off by %d min, ends 25 min apart: %s episodes", off, got)
				}
				if got := make(off, 0.6); got != "2" {
					t.Errorf("off by %d min, other levels: %s episodes", off, got)
				}
			}
		}
	}
}

func inUseOf(eps []run.Episode) []run.Episode {
	return slices.DeleteFunc(eps, func(e run.Episode) bool { return e.Basis < run.BasisPower })
}

// Two jobs of one size that begin in one minute, by one account, alike in all levels: they are told
// apart by when they stall.
func TestTwinsByTheirStalls(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 5))
		length := 120 + rng.Int64N(100)
		w := newWorld(length+60, "a", "b", "c", "d")
		every := [2]int64{11 + rng.Int64N(6), 0}
		every[1] = every[0] + 3 + rng.Int64N(4)
		for k, pair := range [][]string{{"a", "c"}, {"b", "d"}} {
			w.work(part{pair, 20, 20 + length, "x"}, 60e9, 600)
			for _, n := range pair {
				w.traffic(n, 20, 20+length, func(int64) float64 { return 1e11 }, nil)
				for m := 20 + every[k]; m < 20+length; m += every[k] {
					w.stall(n, m)
				}
			}
		}
		var got []string
		for _, e := range inUseOf(run.Episodes(w.ev)) {
			got = append(got, fmt.Sprint(e.Nodes()))
		}
		if fmt.Sprint(got) != "[[a c] [b d]]" {
			t.Errorf("seed %d, stalls each %v min: %v", seed, every, got)
		}
	}
}

// campaignsOf are the campaigns of a world in which every episode is of a class.
func campaignsOf(w world, class func(e *run.Episode) string) []run.Campaign {
	eps := run.Episodes(w.ev)
	classes := make([]run.ClassOf, len(eps))
	for i := range eps {
		classes[i] = run.ClassOf{Class: "idle", Prob: 0.9}
		if eps[i].Basis >= run.BasisPower {
			classes[i].Class = class(&eps[i])
		}
	}
	return run.Campaigns(w.ev, eps, run.Join(w.ev, eps, classes))
}

func training(*run.Episode) string { return "training" }

// Islands that begin apart, under several accounts, and send at the same moments.
func TestCampaignOfIslands(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 6))
		every, bytes := 25+rng.Int64N(36), 1e9*(1+20*rng.Float64())
		build := func(shift int64) world {
			w := newWorld(420, "a", "b", "c")
			for k, n := range []string{"a", "b", "c"} {
				start := 15 + int64(k)*(10+rng.Int64N(20))
				w.work(part{[]string{n}, start, 0, fmt.Sprint("acct", k%2)}, 60e9, 600)
				w.use(n, gpus(8), start, 420, 60e9, 600)
				w.traffic(n, start, 420, nil, func(m int64) float64 {
					if (m+int64(k)*shift)%every == 0 {
						return bytes
					}
					return 0
				})
			}
			return w
		}
		got := campaignsOf(build(0), training)
		if i := slices.IndexFunc(got, func(c run.Campaign) bool { return c.Kind == run.Islands }); i < 0 || len(got[i].Runs) != 3 || got[i].Weight < 0.5 || got[i].KnownMs <= t0 {
			t.Errorf("seed %d, each %d min: %+v", seed, every, got)
		}
		got = campaignsOf(build(7), training)
		if i := slices.IndexFunc(got, func(c run.Campaign) bool { return c.Kind == run.Islands }); i >= 0 {
			t.Errorf("seed %d, at other moments: %+v", seed, got)
		}
	}
}

// A pool that serves, and a training that sends it weights.
func TestCampaignOfPools(t *testing.T) {
	t.Parallel()
	for _, every := range []int64{3, 7, 15} {
		build := func(send bool) world {
			w := newWorld(200, "a", "b")
			w.work(part{[]string{"a"}, 20, 180, "x"}, 60e9, 600)
			w.work(part{[]string{"b"}, 21, 181, "x"}, 72e9, 350)
			for m := int64(20); send && m < 180; m += every {
				w.ev.Flows = append(w.ev.Flows, feature.FlowCell{Node: "a", Peer: "b", MinuteMs: t0 + m*minute, TxBytes: 14e8})
			}
			return w
		}
		class := func(e *run.Episode) string {
			if e.Nodes()[0] == "b" {
				return "inference"
			}
			return "training"
		}
		got := campaignsOf(build(true), class)
		if len(got) != 1 || got[0].Kind != run.SplitPools || len(got[0].Runs) != 2 || got[0].Weight < 0.5 {
			t.Errorf("each %d min: %+v", every, got)
		}
		if got := campaignsOf(build(false), class); len(got) != 0 {
			t.Errorf("nothing sent: %+v", got)
		}
	}
}

// Many alike runs are a group, with little weight; unlike ones are none.
func TestCampaignOfStructure(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c", "d", "e", "f"}
	build := func(step float64) world {
		w := newWorld(400, names...)
		for k, n := range names {
			w.work(part{[]string{n}, 20 + 37*int64(k), 120 + 41*int64(k), fmt.Sprint("acct", k)}, 40e9*(1+step*float64(k)), 500*(1+step*float64(k)))
		}
		return w
	}
	got := campaignsOf(build(0), training)
	if len(got) != 1 || got[0].Kind != run.Structuring || got[0].Weight > 0.6 {
		t.Errorf("alike: %+v", got)
	}
	if got := campaignsOf(build(0.1), training); len(got) != 0 {
		t.Errorf("unlike: %+v", got)
	}
}
