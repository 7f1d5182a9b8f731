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
	// joinScore is the evidence needed to call an episode the continuation of another,
	// in natural log-odds over a prior in which it is not.
	joinScore = 4.0
	// reachMs is how long a run may lie still before an episode is taken for its
	// continuation on likeness alone.
	reachMs = 12 * 60 * minuteMs
	// overlapTolMs allows for the hand-over from one set of hosts to another.
	overlapTolMs = 3 * minuteMs
	// likelyRestartMs: work of this length that stops and comes back at once on the same
	// hosts is more likely a restart than a repeat; short work is as likely a repeat.
	likelyRestartMs = 45 * minuteMs
)

// hop is a proposal that episode b continues episode a.
type hop struct {
	a, b    int
	score   float64
	reasons []string
}

func (h hop) weight() float64 { return 1 / (1 + math.Exp(-(h.score - joinScore + 0.5))) }

// Join joins episodes over time: those of training-like classes by evidence of
// continuity; others where one program goes on over a short pause. classes[i] belongs to
// eps[i]. Runs are sorted by their earliest member.
func Join(ev *feature.Evidence, eps []Episode, classes []ClassOf) []Run {
	ids := mintAll(eps)
	var hops, rest []hop
	hops = append(hops, trainingHops(ev, eps, classes)...)
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
		if a == b || h.score < joinScore-3 || len(runs[b].Alternatives) >= maxAlternatives ||
			slices.ContainsFunc(runs[b].Alternatives, func(x Alternative) bool { return x.Run == runs[a].ID }) {
			continue
		}
		runs[b].Alternatives = append(runs[b].Alternatives, Alternative{runs[a].ID, math.Min(0.5, h.weight()), "may continue that run: " + strings.Join(h.reasons, ", ")})
	}
	slices.SortStableFunc(runs, func(a, b Run) int {
		return cmp.Or(compareFirst(firstOf(a.Members), firstOf(b.Members)), cmp.Compare(a.ID, b.ID))
	})
	return runs
}

const maxAlternatives = 4

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

// trainingHops scores pairs of training-like episodes that follow each other.
func trainingHops(ev *feature.Evidence, eps []Episode, classes []ClassOf) []hop {
	var idx []int
	for i := range eps {
		if classes[i].training() {
			idx = append(idx, i)
		}
	}
	slices.SortStableFunc(idx, func(a, b int) int { return cmp.Compare(eps[a].StartMs, eps[b].StartMs) })
	sigs := make(map[int]signature, len(idx))
	for _, i := range idx {
		sigs[i] = signatureOf(ev, &eps[i])
	}
	var out []hop
	for x, i := range idx {
		for _, j := range idx[x+1:] {
			gap := eps[j].StartMs - eps[i].EndMs
			if gap < -overlapTolMs || eps[i].Open && gap < 0 {
				continue
			}
			if h, ok := continuation(eps, i, j, sigs[i], sigs[j]); ok {
				out = append(out, h)
			}
		}
	}
	return out
}

// continuation scores that episode j continues episode i.
func continuation(eps []Episode, i, j int, p, q signature) (hop, bool) {
	a, b := &eps[i], &eps[j]
	h := hop{a: i, b: j}
	add := func(s float64, reason string) {
		h.score += s
		if reason != "" && s > 0 {
			h.reasons = append(h.reasons, reason)
		}
	}
	jobs, jobReason := compareJobs(a.JobIDs, b.JobIDs)
	add(4.5*jobs, jobReason)
	gap := b.StartMs - a.EndMs
	if jobs <= 0 && gap > reachMs {
		return h, false
	}
	own := 0.0 // evidence that this is the same model, not merely the same customer
	if s, known, reason := compareOps(p.ops, q.ops); known {
		add(3*s, reason)
		own += 3 * s
		// Buckets are cut by the framework and so alike over models; how often they are
		// sent is the model's own, on as many GPUs of one kind.
		if s > 0 && p.gpus == q.gpus && ratesDiffer(p.ops, q.ops) {
			add(-3*s-1, "")
			own -= 3*s + 1
		}
	}
	if agree, known := near(p.memBytes, q.memBytes, 0.025); known && p.gpus == q.gpus {
		switch {
		case agree:
			add(1.2, "the memory plateau is the same")
			own += 1.2
		case contradicts(p.memBytes, q.memBytes, 0.12) && min(a.EndMs-a.StartMs, b.EndMs-b.StartMs) > 10*minuteMs:
			add(-2.5, "")
			own -= 2.5
		}
	}
	// Bytes a second on the network follow from the model, its layout and its speed.
	if agree, known := near(p.fabricBps, q.fabricBps, 0.08); known && p.gpus == q.gpus && math.Max(p.fabricBps, q.fabricBps) > 5*flowBps {
		switch {
		case agree:
			add(1.5, "the traffic of a node is the same")
			own += 1.5
		case contradicts(p.fabricBps, q.fabricBps, 0.3):
			add(-1, "")
			own--
		}
	}
	add(levelScore(p, q), "")
	switch {
	case p.gpus == q.gpus:
		add(0.8, fmt.Sprintf("both use %d GPUs", p.gpus))
	case max(p.gpus, q.gpus) > 8*min(p.gpus, q.gpus):
		add(-1.5, "")
	default:
		add(-0.3, "")
	}
	shared := hostsShared(a, b)
	sameAccount := len(a.Accounts) > 0 && shareAccount(a.Accounts, b.Accounts) && len(b.Accounts) > 0
	switch {
	case sameAccount:
		add(0.8, "the account is the same")
	case len(a.Accounts) > 0 && len(b.Accounts) > 0:
		add(-0.5, "")
	}
	if len(a.Users) > 0 && slices.Equal(a.Users, b.Users) {
		add(0.4, "")
	}
	switch {
	case gap < 6*minuteMs:
		add(1.2, "one began as the other ended")
	case gap < 20*minuteMs:
		add(0.7, "one began soon after the other ended")
	case gap > 90*minuteMs:
		add(-1.2, "")
	}
	if shared > 0 {
		add(0.6*shared, "hosts are shared")
	}
	if jobs <= 0 {
		if likelyResume(a, b, p, q, shared) {
			add(0.8, "long work is back at once on the same hosts")
		} else if own < 1 {
			h.score = math.Min(h.score, joinScore-0.5)
		}
		// Tries of one program hold the same memory. What they exchange is a model's own;
		// without it, two short stretches are as likely tries as one run, and keeping them
		// apart loses little.
		if own < 3 && max(a.EndMs-a.StartMs, b.EndMs-b.StartMs) < likelyRestartMs {
			h.score = math.Min(h.score, joinScore-0.5)
		}
		if repeats(a, b, shared) {
			add(-4.5, "")
		}
		if usedElsewhere(eps, i, j) {
			add(-1, "")
		}
	}
	return h, h.score > joinScore-3
}

// levelScore compares load levels: weak evidence for one model, stronger against it.
func levelScore(p, q signature) float64 {
	s := 0.0
	for _, v := range [...][2]float64{{p.tensorFrac, q.tensorFrac}, {p.dramFrac, q.dramFrac}, {p.powerW, q.powerW}} {
		if agree, known := near(v[0], v[1], 0.1); known {
			switch {
			case agree:
				s += 0.3
			case contradicts(v[0], v[1], 0.35) && p.gpus == q.gpus:
				s -= 0.8
			}
		}
	}
	return s
}

// hostsShared is the share of the smaller episode's nodes that the other used too.
func hostsShared(a, b *Episode) float64 {
	x, y := a.Nodes(), b.Nodes()
	n := 0
	for _, v := range x {
		if _, ok := slices.BinarySearch(y, v); ok {
			n++
		}
	}
	return float64(n) / float64(min(len(x), len(y)))
}

// repeats reports the manner of a repeated experiment: ended work of the same length on
// the same hosts. A failure does not come at the same time twice; a scheduler's limit
// does, and limits are whole hours.
func repeats(a, b *Episode, shared float64) bool {
	if a.Open || b.Open || shared < 1 || a.GPUs() != b.GPUs() {
		return false
	}
	x, y := float64(a.EndMs-a.StartMs), float64(b.EndMs-b.StartMs)
	const hourMs = 60 * minuteMs
	if over := math.Mod(x+2*minuteMs, hourMs); x > 2*hourMs-2*minuteMs && over < 4*minuteMs && math.Abs(x-y) < 2*minuteMs {
		return false
	}
	return math.Abs(x-y) <= math.Max(0.03*math.Max(x, y), 30_000)
}

// likelyResume reports long work that stops and is back at once on the same hosts with
// the same load, where nothing shows the model.
func likelyResume(a, b *Episode, p, q signature, shared float64) bool {
	agree, known := near(p.powerW, q.powerW, 0.1)
	return a.EndMs-a.StartMs >= likelyRestartMs && b.StartMs-a.EndMs < pauseMs && shared >= 0.75 && p.gpus == q.gpus && known && agree && !repeats(a, b, shared)
}

// usedElsewhere reports that a's hosts went on with other work of the account at once,
// as a queue of experiments does.
func usedElsewhere(eps []Episode, i, j int) bool {
	a := &eps[i]
	for k := range eps {
		e := &eps[k]
		if k == i || k == j || !inUse(e.Basis) || e.StartMs < a.EndMs || e.StartMs >= eps[j].StartMs || !shareAccount(a.Accounts, e.Accounts) {
			continue
		}
		if hostsShared(a, e) == 1 && e.GPUs() == a.GPUs() {
			return true
		}
	}
	return false
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
			if reason == "" {
				reason = "the same GPUs do the same kind of work"
			}
			out = append(out, hop{i, j, joinScore + 1, []string{reason}})
		}
	}
	return out
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
