package run

import (
	"cmp"
	"math"
	"slices"
)

// Two episodes are alike where what they show of a model agrees. How much that says depends on
// how unusual it is here: other work of the fleet that runs at the same time is certainly
// another run, so what it shares with an episode is shared by chance, or by a common recipe.

// trait is how one quantity compares.
type trait struct {
	agree, differ float64 // relative differences up to which it agrees, and from which it differs
	chance        float64 // that another model's agrees, where the fleet shows no other
	between       float64 // how much likelier another model's lies between the two than one model's
	miss          float64 // that one model's differs: stalls, evaluation, other data
	scales        bool    // depends on the number of GPUs
	reason        string
}

var (
	memTrait    = trait{0.025, 0.12, 0.12, 0.15, 0.04, true, "the memory plateau is the same"}
	tensorTrait = trait{0.10, 0.35, 0.30, 0.6, 0.25, true, ""}
	powerTrait  = trait{0.08, 0.30, 0.35, 0.6, 0.25, true, ""}
	dramTrait   = trait{0.10, 0.35, 0.30, 0.6, 0.25, true, ""}
	loadTrait   = trait{0.08, 0.40, 0.60, 0.7, 0.30, true, ""}
	linkTrait   = trait{0.10, 0.40, 0.25, 0.5, 0.20, true, ""}
	fabricTrait = trait{0.08, 0.30, 0.15, 0.5, 0.15, true, "the traffic of a node is the same"}
	periodTrait = trait{0.02, 0.08, 0.05, 0.3, 0.10, true, "the steps take the same time"}
	ckptTrait   = trait{0.01, 0.05, 0.03, 0.3, 0.10, false, "checkpoints have the same size"}
)

// levelTrait is a level of each GPU where their number differs: layouts change, the work of one
// GPU less so.
var levelTrait = trait{0.12, 0.5, 0.45, 0.8, 0.4, false, ""}

// together01 is how far the traits of one episode depend on each other: that of two models
// several agree is likelier than the product.
const together01 = 0.6

// likeness is what a comparison gives, in natural logarithms.
type likeness struct {
	same    float64 // how well one model explains the differences; 0: fully
	chance  float64 // how likely another model agrees as well, by the traits alone
	agreed  int
	differs bool
	own     bool // something that is a model's own agrees: calls, steps, checkpoints
	reasons []string
}

func (l *likeness) add(t trait, a, b float64, sameSize bool) {
	if math.IsNaN(a) || math.IsNaN(b) || (t.scales && !sameSize) {
		return
	}
	d := math.Abs(a-b) / math.Max(math.Max(math.Abs(a), math.Abs(b)), 1e-9)
	switch {
	case d <= t.agree:
		l.chance += together01 * math.Log(t.chance)
		l.agreed++
		if t.chance <= 0.05 {
			l.own = true
		}
		if t.reason != "" {
			l.reasons = append(l.reasons, t.reason)
		}
	case d >= t.differ:
		l.same += math.Log(t.miss)
		l.differs = true
	default:
		l.same += math.Log(t.between)
	}
}

// compare compares two signatures.
func compare(p, q *signature) likeness {
	var l likeness
	size := p.gpus == q.gpus
	if s, known, reason := compareOps(p.ops, q.ops); known {
		switch {
		// Buckets are cut by the framework and so alike over models; how often they are sent is
		// the model's own, on as many GPUs of one kind.
		case s < 0 || (s > 0 && size && ratesDiffer(p.ops, q.ops)):
			l.same += math.Log(0.02)
			l.differs = true
		case s >= 1:
			l.chance += math.Log(0.02)
			l.agreed++
			l.own = true
			l.reasons = append(l.reasons, reason)
		case s > 0:
			l.chance += math.Log(0.4)
			l.agreed++
			l.reasons = append(l.reasons, reason)
		}
	}
	if size && len(p.memOf) == len(q.memOf) && len(p.memOf) > 0 {
		var d, most float64
		for i := range p.memOf {
			d += math.Abs(p.memOf[i] - q.memOf[i])
			most += math.Max(p.memOf[i], q.memOf[i])
		}
		l.add(memTrait, most-d, most, true)
	} else {
		l.add(memTrait, p.memBytes, q.memBytes, size)
	}
	l.add(tensorTrait, p.tensorFrac, q.tensorFrac, size)
	l.add(dramTrait, p.dramFrac, q.dramFrac, size)
	l.add(powerTrait, p.powerW, q.powerW, size)
	if math.IsNaN(p.tensorFrac) || math.IsNaN(q.tensorFrac) {
		l.add(loadTrait, p.loadFrac, q.loadFrac, size)
	}
	if !size {
		for _, v := range [...][2]float64{{p.tensorFrac, q.tensorFrac}, {p.powerW, q.powerW}, {p.dramFrac, q.dramFrac}} {
			l.add(levelTrait, v[0], v[1], false)
		}
	}
	if math.Max(p.linkBps, q.linkBps) > 100e6 {
		l.add(linkTrait, p.linkBps, q.linkBps, size)
	}
	if math.Max(p.fabricBps, q.fabricBps) > 5*flowBps {
		l.add(fabricTrait, p.fabricBps, q.fabricBps, size)
	}
	if p.folded == q.folded {
		l.add(periodTrait, p.periodMs, q.periodMs, size)
	}
	l.add(ckptTrait, p.ckptBytes, q.ckptBytes, size)
	return l
}

// lookAlike reports that nothing known tells two signatures apart.
func lookAlike(p, q *signature) bool {
	l := compare(p, q)
	return p.gpus == q.gpus && !l.differs && l.agreed > 0
}

// fleet counts how usual a signature is among other work at the time.
type fleet struct {
	eps  []Episode
	sigs []signature
	of   map[int][]int // number of GPUs: training-like episodes, by start
	reac map[int]int64 // the longest of them
	idx  []int         // all of them, by start
}

// looked bounds the episodes that one comparison looks at.
const looked = 48

func newFleet(eps []Episode, sigs []signature, idx []int) *fleet {
	f := &fleet{eps: eps, sigs: sigs, of: map[int][]int{}, reac: map[int]int64{}, idx: idx}
	for _, i := range idx {
		n := sigs[i].gpus
		f.of[n] = append(f.of[n], i)
		f.reac[n] = max(f.reac[n], eps[i].EndMs-eps[i].StartMs)
	}
	return f
}

// usual counts the episodes of the same size that ran beside episode i for a while, and how
// many of them look like it; mine those of the account.
func (f *fleet) usual(i int) (others, alike, mine int) {
	e := &f.eps[i]
	list := f.of[f.sigs[i].gpus]
	from, _ := slices.BinarySearchFunc(list, e.StartMs-f.reac[f.sigs[i].gpus], func(k int, t int64) int {
		return int(min(1, max(-1, f.eps[k].StartMs-t)))
	})
	// Those that began nearest are looked at first.
	at, _ := slices.BinarySearchFunc(list, e.StartMs, func(k int, t int64) int { return int(min(1, max(-1, f.eps[k].StartMs-t))) })
	see := func(n int) {
		k := list[n]
		if k == i || min(f.eps[k].EndMs, e.EndMs)-max(f.eps[k].StartMs, e.StartMs) < min(5*minuteMs, (e.EndMs-e.StartMs)/2) {
			return
		}
		others++
		if lookAlike(&f.sigs[i], &f.sigs[k]) {
			alike++
			if len(e.Accounts) > 0 && len(f.eps[k].Accounts) > 0 && shareAccount(e.Accounts, f.eps[k].Accounts) {
				mine++
			}
		}
	}
	for n := at - 1; n >= max(from, at-2*looked) && others < looked; n-- {
		see(n)
	}
	for n := at; n < len(list) && n < at+2*looked && f.eps[list[n]].StartMs < e.EndMs && others < 2*looked; n++ {
		see(n)
	}
	return others, alike, mine
}

const (
	sameMem  = 0.005 // of one program on more or fewer GPUs
	leastMem = 2e9   // below, a context and its libraries are most of it
)

// memUsual is how likely other work here holds as much memory a GPU as episode i and its follower
// j: of what ran near in time, on any number of GPUs, the share that does. Allocators fill what
// there is, so that nothing else running says less than a model's own size would.
func (f *fleet) memUsual(i, j int) float64 {
	start := func(k int, ms int64) int { return cmp.Compare(f.eps[k].StartMs, ms) }
	mem := f.sigs[i].memBytes
	at, _ := slices.BinarySearchFunc(f.idx, f.eps[j].StartMs, start)
	others, alike := 0, 0
	for n := max(0, at-looked); n < min(len(f.idx), at+looked); n++ {
		k := f.idx[n]
		if v := f.sigs[k].memBytes; k != i && k != j && !math.IsNaN(v) && absMs(f.eps[k].StartMs-f.eps[j].StartMs) <= reachMs &&
			(overlaps(&f.eps[k], &f.eps[i]) || overlaps(&f.eps[k], &f.eps[j])) { // what ran before or after may be the same work
			others++
			if math.Abs(v-mem) <= sameMem*math.Max(v, mem) {
				alike++
			}
		}
	}
	return (float64(alike) + 4*0.35) / (float64(others) + 4)
}

// overlaps reports that two episodes ran at the same time for long enough to be two runs.
func overlaps(a, b *Episode) bool {
	return min(a.EndMs, b.EndMs)-max(a.StartMs, b.StartMs) >= 2*overlapTolMs
}
