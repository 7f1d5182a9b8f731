package run

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
)

const (
	// joinScore is the log-odds from which an episode is taken for the continuation of another.
	joinScore = 0.0
	// alternativeScore is the log-odds from which it is told that it may be.
	alternativeScore = -3.0
	// reachMs is how long a run may lie still before an episode is taken for its
	// continuation on likeness alone.
	reachMs = 12 * 60 * minuteMs
	// overlapTolMs allows for the hand-over from one set of hosts to another.
	overlapTolMs = 3 * minuteMs
)

// hop is a proposal that episode b continues episode a.
type hop struct {
	a, b    int
	score   float64
	reasons []string
}

func (h hop) weight() float64 { return 1 / (1 + math.Exp(-h.score)) }

// Join joins episodes over time: those of training-like classes by evidence of
// continuity; others where one program goes on over a short pause. classes[i] belongs to
// eps[i]. Runs are sorted by their earliest member.
func Join(ev *feature.Evidence, eps []Episode, classes []ClassOf) []Run {
	ids := mintAll(eps)
	var hops, rest []hop
	hops = append(hops, newTimeline(ev, eps, classes).hops()...)
	hops = append(hops, pauseHops(eps, classes)...)
	slices.SortStableFunc(hops, func(x, y hop) int {
		return cmp.Or(cmp.Compare(y.score, x.score), cmp.Compare(eps[x.b].StartMs, eps[y.b].StartMs), cmp.Compare(x.b, y.b), cmp.Compare(x.a, y.a))
	})
	// chains are the runs so far: episodes in order of time, no two at once.
	chains := make([][]int, len(eps))
	at := make([]int, len(eps))
	for i := range eps {
		chains[i], at[i] = []int{i}, i
	}
	links := make([][]Link, len(eps))
	for _, h := range hops {
		a, b := at[h.a], at[h.b]
		if a == b {
			continue
		}
		merged, ok := interleave(eps, chains[a], chains[b])
		if h.score < joinScore || !ok {
			rest = append(rest, h)
			continue
		}
		chains[a], chains[b] = merged, nil
		for _, i := range merged {
			at[i] = a
		}
		kind := "restart"
		if !classes[h.b].training() {
			kind = "pause"
		}
		links[h.b] = append(links[h.b], Link{kind, h.weight(), "continues after " + gapText(eps[h.b].StartMs-eps[h.a].EndMs) + ": " + strings.Join(h.reasons, ", ")})
	}
	runOf := make([]int, len(eps))
	var runs []Run
	for _, chain := range chains {
		if len(chain) == 0 {
			continue
		}
		for _, i := range chain {
			runOf[i] = len(runs)
		}
		runs = append(runs, assemble(eps, classes, ids, links, chain))
	}
	for _, h := range rest {
		a, b := runOf[h.a], runOf[h.b]
		if a == b || h.score < alternativeScore || len(runs[b].Alternatives) >= maxAlternatives ||
			slices.ContainsFunc(runs[b].Alternatives, func(x Alternative) bool { return x.Run == runs[a].ID }) {
			continue
		}
		runs[b].Alternatives = append(runs[b].Alternatives, Alternative{runs[a].ID, math.Min(0.5, h.weight()), "may continue that run: " + strings.Join(h.reasons, ", ")})
	}
	besides(eps, runOf, runs)
	slices.SortStableFunc(runs, func(a, b Run) int {
		return cmp.Or(compareFirst(firstOf(a.Members), firstOf(b.Members)), cmp.Compare(a.ID, b.ID))
	})
	return runs
}

// maxAlternatives bounds what is told of one run.
const maxAlternatives = 4

// besides adds the runs that ran at the same time and may be one with a run.
func besides(eps []Episode, runOf []int, runs []Run) {
	type key struct {
		node string
		gpu  int
	}
	of := map[key][]int{}
	for i := range eps {
		if len(eps[i].Beside) == 0 {
			continue
		}
		m := firstOf(eps[i].Members)
		of[key{m.Node, m.GPU}] = append(of[key{m.Node, m.GPU}], i)
	}
	for i := range eps {
		for _, b := range eps[i].Beside {
			for _, j := range of[key{b.Member.Node, b.Member.GPU}] {
				x, y := runOf[j], runOf[i]
				// The later of two names the earlier, and both only once.
				if x == y || compareFirst(firstOf(eps[j].Members), b.Member) != 0 || compareFirst(firstOf(runs[y].Members), firstOf(runs[x].Members)) < 0 ||
					len(runs[y].Alternatives) >= maxAlternatives ||
					slices.ContainsFunc(runs[y].Alternatives, func(a Alternative) bool { return a.Run == runs[x].ID }) {
					continue
				}
				runs[y].Alternatives = append(runs[y].Alternatives, Alternative{runs[x].ID, math.Min(0.5, b.Weight), b.Reason})
			}
		}
	}
}

// interleave merges two chains in order of time. ok is false where two episodes would run
// at once: one training is in one place at a time. A chain that pauses while the other
// works, and the reverse, is one run that moves to and fro.
func interleave(eps []Episode, a, b []int) (merged []int, ok bool) {
	merged = append(slices.Clone(a), b...)
	slices.SortFunc(merged, func(x, y int) int { return cmp.Or(cmp.Compare(eps[x].StartMs, eps[y].StartMs), cmp.Compare(x, y)) })
	end := int64(math.MinInt64)
	for n, i := range merged {
		if n > 0 && eps[i].StartMs < end-overlapTolMs {
			return nil, false
		}
		end = max(end, eps[i].EndMs)
	}
	return merged, true
}

func gapText(ms int64) string {
	if ms <= 0 {
		return "no pause"
	}
	return fmt.Sprintf("a pause of %.0f min", float64(ms)/minuteMs)
}

// pauseHops joins other activities over short pauses: the same GPUs, the same kind of
// work and nothing that names another program.
func pauseHops(eps []Episode, classes []ClassOf) []hop {
	byFirst := map[feature.GPUKey][]int{}
	for i := range eps {
		if !classes[i].training() {
			m := eps[i].Members[0]
			k := feature.GPUKey{Node: m.Node, GPU: m.GPU}
			byFirst[k] = append(byFirst[k], i)
		}
	}
	keys := make([]feature.GPUKey, 0, len(byFirst))
	for k := range byFirst {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b feature.GPUKey) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU))
	})
	var out []hop
	for _, k := range keys {
		list := byFirst[k]
		slices.SortStableFunc(list, func(a, b int) int { return cmp.Compare(eps[a].StartMs, eps[b].StartMs) })
		for n := 1; n < len(list); n++ {
			i, j := list[n-1], list[n]
			a, b := &eps[i], &eps[j]
			gap := b.StartMs - a.EndMs
			jobs, reason := compareJobs(a.JobIDs, b.JobIDs)
			same := classes[i].Class == classes[j].Class && a.Basis == b.Basis && slices.Equal(a.Accounts, b.Accounts) && slices.Equal(gpuKeys(a), gpuKeys(b))
			limit := int64(pauseMs)
			if jobs > 0.5 {
				limit = reachMs
			}
			if !same || gap < -overlapTolMs || gap > limit || a.Basis == BasisPower || (jobs <= 0.5 && len(a.JobIDs) > 0 && len(b.JobIDs) > 0) {
				continue
			}
			if a.Basis == BasisIdle || a.Basis == BasisAllocation {
				continue
			}
			if jobs <= 0.5 && classes[i].Class != "inference" && otherProcs(a, b) { // a service is one over its restarts
				continue
			}
			if reason == "" {
				reason = "the same GPUs do the same kind of work"
			}
			out = append(out, hop{i, j, joinScore + 1.5, []string{reason}})
		}
	}
	return out
}

// otherProcs reports that the processes of both are known, and none is of both.
func otherProcs(a, b *Episode) bool {
	return len(a.Procs) > 0 && len(b.Procs) > 0 && !slices.ContainsFunc(a.Procs, func(p ProcRef) bool { return slices.Contains(b.Procs, p) })
}

func gpuKeys(e *Episode) []string {
	var out []string
	for _, m := range e.Members {
		out = addTo(out, m.Node+"/"+fmt.Sprint(m.GPU))
	}
	return out
}

// assemble makes a run of a chain of episodes.
func assemble(eps []Episode, classes []ClassOf, ids []string, links [][]Link, chain []int) Run {
	var r Run
	weights := map[string]float64{}
	reasons := map[string]ClassOf{}
	var total float64
	for n, i := range chain {
		e := &eps[i]
		r.Members = append(r.Members, e.Members...)
		for _, a := range e.Accounts {
			r.Accounts = addTo(r.Accounts, a)
		}
		if n == 0 || e.StartMs < r.StartMs {
			r.StartMs = e.StartMs
		}
		r.EndMs = max(r.EndMs, e.EndMs)
		r.Open = r.Open || e.Open
		r.Episodes = append(r.Episodes, i)
		r.Links = append(append(r.Links, e.Links...), links[i]...)
		if n > 0 {
			r.Supersedes = append(r.Supersedes, ids[i])
		}
		var gpuMs float64
		for _, m := range e.Members {
			gpuMs += float64(m.EndMs - m.StartMs + minuteMs)
		}
		c := classes[i]
		weights[c.Class] += gpuMs * c.Prob
		total += gpuMs
		if best, ok := reasons[c.Class]; !ok || c.Prob > best.Prob {
			reasons[c.Class] = c
		}
	}
	for _, class := range sortedKeys(weights) {
		if p := weights[class] / total; p > r.ClassProb {
			r.Class, r.ClassProb, r.Reasons = class, p, reasons[class].Reasons
		}
	}
	if r.Class == "" {
		r.Class, r.ClassProb, r.Reasons = classes[chain[0]].Class, classes[chain[0]].Prob, classes[chain[0]].Reasons
	}
	r.ID = ids[chain[0]]
	r.Members = mergeMembers(r.Members)
	slices.Sort(r.Supersedes)
	return r
}

// handoverMs is the gap between two intervals of a GPU that no boundary can be judged
// within: such intervals are told as one.
const handoverMs = 2 * minuteMs

// mergeMembers joins a GPU's intervals that touch. Pauses in which the program stayed are
// inside a stretch already; where it ended and came back, the GPU was free between.
func mergeMembers(members []Member) []Member {
	slices.SortFunc(members, compareMember)
	var out []Member
	for _, m := range members {
		if n := len(out); n > 0 && out[n-1].Node == m.Node && out[n-1].GPU == m.GPU && m.StartMs-out[n-1].EndMs <= handoverMs {
			out[n-1].EndMs = max(out[n-1].EndMs, m.EndMs)
			continue
		}
		out = append(out, m)
	}
	return out
}
