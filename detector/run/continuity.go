package run

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// What follows an episode is its continuation (one run), another try of the same program (a
// run of its own, though it looks the same), or other work. Each explains what is seen with
// some likelihood, and the odds of the first decide.

// manner is how likely what is seen is under each of the three.
type manner struct{ goes, again, other float64 }

func (m *manner) mul(goes, again, other float64) {
	m.goes *= goes
	m.again *= again
	m.other *= other
}

// timeline is what the search for continuations looks things up in.
type timeline struct {
	eps    []Episode
	nodes  [][]string
	sigs   []signature
	idx    []int // training-like, by start
	fleet  *fleet
	byNode map[string][]int // episodes in use, by start
	seen   map[int][3]int
}

// reachOf bounds how many followers of an episode are looked at for each thing that they share.
const reachOf = 12

func newTimeline(ev *feature.Evidence, eps []Episode, classes []ClassOf) *timeline {
	t := &timeline{eps: eps, nodes: make([][]string, len(eps)), sigs: make([]signature, len(eps)), byNode: map[string][]int{}, seen: map[int][3]int{}}
	order := make([]int, 0, len(eps))
	for i := range eps {
		t.nodes[i] = eps[i].Nodes()
		if inUse(eps[i].Basis) {
			order = append(order, i)
		}
		if classes[i].training() {
			t.idx = append(t.idx, i)
		}
	}
	byStart := func(a, b int) int { return cmp.Or(cmp.Compare(eps[a].StartMs, eps[b].StartMs), cmp.Compare(a, b)) }
	slices.SortFunc(order, byStart)
	slices.SortFunc(t.idx, byStart)
	for _, i := range order {
		for _, n := range t.nodes[i] {
			t.byNode[n] = append(t.byNode[n], i)
		}
	}
	files := checkpointsOf(ev)
	for _, i := range t.idx {
		t.sigs[i] = signatureOf(ev, &eps[i], files)
	}
	t.fleet = newFleet(eps, t.sigs, t.idx)
	return t
}

// hops scores the pairs of training-like episodes of which one may continue the other: those
// that share a host, a name, an account or what they show of a model, the nearest in time.
func (t *timeline) hops() []hop {
	groups := map[string][]int{}
	put := func(k string, i int) { groups[k] = append(groups[k], i) }
	for _, i := range t.idx {
		e, s := &t.eps[i], &t.sigs[i]
		for _, n := range t.nodes[i] {
			put("n\x00"+n, i)
		}
		for _, id := range e.JobIDs {
			put("j\x00"+id, i)
			if name, ok := stem(id); ok {
				put("s\x00"+name, i)
			}
		}
		for _, a := range e.Accounts {
			put("a\x00"+a, i)
			put("a\x00"+a+"\x00"+strconv.Itoa(s.gpus), i)
		}
		for _, o := range s.ops {
			around(o.bytes, 0.01, func(b int) { put("o\x00"+o.op+strconv.Itoa(b), i) })
		}
		around(s.memBytes, 0.025, func(b int) { put("m\x00"+strconv.Itoa(s.gpus)+"\x00"+strconv.Itoa(b), i) })
		around(s.periodMs, 0.02, func(b int) { put("p\x00"+strconv.Itoa(b), i) })
		around(s.ckptBytes, 0.01, func(b int) { put("c\x00"+strconv.Itoa(b), i) })
		put("g\x00"+strconv.Itoa(s.gpus), i)
	}
	type pair struct{ a, b int }
	done := map[pair]bool{}
	var out []hop
	for _, k := range sortedKeys(groups) {
		list := groups[k]
		for x, i := range list {
			end := t.eps[i].EndMs
			from := x + 1
			for from < len(list) && from-x < 4*reachOf && t.eps[list[from]].StartMs < end-overlapTolMs {
				from++
			}
			if from < len(list) && t.eps[list[from]].StartMs < end-overlapTolMs {
				n, _ := slices.BinarySearchFunc(list[from:], end-overlapTolMs, func(k int, ms int64) int { return cmp.Compare(t.eps[k].StartMs, ms) })
				from += n
			}
			for _, j := range list[from:min(len(list), from+reachOf)] {
				if i == j || done[pair{i, j}] || (t.eps[i].Open && t.eps[j].StartMs < end) {
					continue
				}
				done[pair{i, j}] = true
				if h, ok := t.continuation(i, j); ok {
					out = append(out, h)
				}
			}
		}
	}
	slices.SortFunc(out, func(x, y hop) int { return cmp.Or(cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b)) })
	return out
}

// around calls f with the two buckets of a logarithmic scale that a value within tol of
// another shares at least one of with it.
func around(v, tol float64, f func(int)) {
	if !(v > 0) || math.IsInf(v, 0) {
		return
	}
	b := math.Log(v) / (2 * tol)
	lo := int(math.Floor(b - 0.5))
	f(lo)
	f(lo + 1)
}

// usual is fleet.usual, kept.
func (t *timeline) usual(i int) (others, alike, mine int) {
	u, ok := t.seen[i]
	if !ok {
		u[0], u[1], u[2] = t.fleet.usual(i)
		t.seen[i] = u
	}
	return u[0], u[1], u[2]
}

// continuation scores that episode j continues episode i: the log-odds.
func (t *timeline) continuation(i, j int) (hop, bool) {
	a, b := &t.eps[i], &t.eps[j]
	p, q := &t.sigs[i], &t.sigs[j]
	h := hop{a: i, b: j}
	say := func(reason string) {
		if reason != "" {
			h.reasons = append(h.reasons, reason)
		}
	}
	jobs, jobReason := compareJobs(a.JobIDs, b.JobIDs)
	gap := b.StartMs - a.EndMs
	if jobs <= 0 && gap > reachMs {
		return h, false
	}
	m := manner{0.45, 0.20, 0.35}

	like := compare(p, q)
	if jobs > 0 {
		say(jobReason)
	}
	h.reasons = append(h.reasons, like.reasons...)
	others, alike, mine := t.usual(i)
	o2, k2, m2 := t.usual(j)
	others, alike, mine = others+o2, alike+k2, max(mine, m2)
	// By the traits alone, and by how many of the others here look like it.
	chance := math.Max(math.Exp(like.chance), 5e-4)
	if !like.differs && p.gpus == q.gpus {
		chance = (float64(alike) + 4*chance) / (float64(others) + 4)
	}
	if p.gpus != q.gpus && p.memBytes > leastMem && math.Abs(p.memBytes-q.memBytes) <= sameMem*math.Max(p.memBytes, q.memBytes) {
		// It grew or shrank with a copy on each GPU: as much memory as before, to the per cent.
		chance *= t.fleet.memUsual(i, j)
		say("a GPU holds as much memory as before")
	}
	same := math.Exp(like.same)
	m.mul(same, same*(0.5+0.5*chance), chance)

	switch {
	case gap < 10*minuteMs:
		m.mul(0.60, 0.35, 0.15)
		say("one began as the other ended")
	case gap < 30*minuteMs:
		m.mul(0.20, 0.20, 0.15)
		say("one began soon after the other ended")
	case gap < 90*minuteMs:
		m.mul(0.13, 0.25, 0.25)
	default:
		m.mul(0.07, 0.20, 0.45)
	}

	sameAccount := len(a.Accounts) == 0 || len(b.Accounts) == 0 || shareAccount(a.Accounts, b.Accounts)
	shared := sharedOf(t.nodes[i], t.nodes[j])
	switch {
	case !sameAccount && shared >= 1 && p.gpus == q.gpus: // who follows on a host is another customer
		m.mul(0.20, 0.20, 0.30)
	case shared >= 1 && p.gpus == q.gpus:
		m.mul(0.60, 0.60, 0.20)
		say("the hosts are the same")
	case shared > 0 && p.gpus == q.gpus: // a host was replaced
		m.mul(0.25, 0.05, 0.10)
		say("some of the hosts are the same")
	case shared >= 1: // it grew, or shrank, where it was
		m.mul(0.25, 0.05, 0.10)
		say("all hosts of one are hosts of the other")
	case shared > 0:
		m.mul(0.25, 0.10, 0.15)
		say("hosts are shared")
	default:
		m.mul(0.20, 0.25, 0.70)
	}

	switch {
	case p.gpus == q.gpus:
		m.mul(0.85, 0.90, 0.30)
		say(fmt.Sprintf("both use %d GPUs", p.gpus))
	case max(p.gpus, q.gpus) > 8*min(p.gpus, q.gpus):
		m.mul(0.02, 0.10, 0.40)
	case like.agreed == 0 && jobs <= 0: // nothing seen says that it is the same that grew
		m.mul(0.06, 0.10, 0.60)
	default:
		m.mul(0.15, 0.10, 0.60)
	}

	switch {
	case !sameAccount:
		m.mul(0.03, 0.01, 0.70)
	case len(a.Accounts) > 0 && len(b.Accounts) > 0:
		m.mul(0.95, 0.98, 0.30)
		say("the account is the same")
	}
	if len(a.Users) > 0 && len(b.Users) > 0 {
		if slices.Equal(a.Users, b.Users) {
			m.mul(0.95, 0.95, 0.40)
		} else {
			m.mul(0.15, 0.10, 0.60)
		}
	}

	if jobs <= 0 {
		t.lengths(&m, i, j, sameAccount)
		// Tries run side by side, or one after the other.
		if mine > 0 && !like.own {
			m.again *= 3
		}
		if n := t.queued(i, j, sameAccount); n > 1 {
			m.again *= math.Pow(2.5, float64(min(n, 4))) // failures are not that regular
		}
		if t.usedElsewhere(i, j) {
			m.goes *= 0.3
		}
	}
	h.score = math.Log(m.goes/(m.again+m.other)) + 6*jobs
	return h, h.score > alternativeScore
}

// lengths weighs how long both lasted: failures come at any time, and are rare in short work;
// tries of one program take about as long as each other. A scheduler's limit does come at the
// same time, and limits are whole hours.
func (t *timeline) lengths(m *manner, i, j int, sameAccount bool) {
	a, b := &t.eps[i], &t.eps[j]
	x, y := float64(a.EndMs-a.StartMs), float64(b.EndMs-b.StartMs)
	m.goes *= math.Min(2, math.Max(0.1, x/(60*minuteMs)))
	if b.Open && y < 1.5*x {
		return // how long it will take is not known
	}
	const hourMs = 60 * minuteMs
	if over := math.Mod(x+2*minuteMs, hourMs); x > 2*hourMs-2*minuteMs && over < 4*minuteMs && math.Abs(x-y) < 2*minuteMs {
		return
	}
	r := math.Abs(math.Log(math.Max(x, minuteMs) / math.Max(y, minuteMs)))
	fails := 2 * math.Exp(r) / ((1 + math.Exp(r)) * (1 + math.Exp(r)))
	// How alike tries last, and how well minutes tell.
	sd := math.Hypot(0.03, minuteMs/math.Max(math.Min(x, y), 3*minuteMs))
	tries := 0.4*0.8/sd*math.Exp(-r*r/(2*sd*sd)) + 0.6*math.Exp(-r)
	if !sameAccount { // nobody repeats a try under another's account to the minute
		tries = math.Min(tries, 1)
	}
	m.mul(fails, tries, math.Exp(-r/2)/2)
}

// queued counts the episodes before and after on the same hosts that took about as long as
// either of the two: a queue of tries.
func (t *timeline) queued(i, j int, sameAccount bool) int {
	if !sameAccount {
		return 0
	}
	a := &t.eps[i]
	x := float64(a.EndMs - a.StartMs)
	n := 0
	list := t.byNode[t.nodes[i][0]]
	at, _ := slices.BinarySearchFunc(list, a.StartMs, func(k int, ms int64) int { return cmp.Compare(t.eps[k].StartMs, ms) })
	for k := max(0, at-reachOf); k < min(len(list), at+reachOf); k++ {
		e := &t.eps[list[k]]
		if list[k] == i || list[k] == j || e.Open || !slices.Equal(t.nodes[list[k]], t.nodes[i]) || e.GPUs() != t.sigs[i].gpus {
			continue
		}
		if y := float64(e.EndMs - e.StartMs); math.Abs(x-y) <= 0.15*math.Max(x, y) && absMs(e.StartMs-a.StartMs) < 2*reachMs {
			n++
		}
	}
	return n
}

// usedElsewhere reports that the hosts of i went on with other work of the account at once, as a
// queue of experiments does.
func (t *timeline) usedElsewhere(i, j int) bool {
	a := &t.eps[i]
	list := t.byNode[t.nodes[i][0]]
	at, _ := slices.BinarySearchFunc(list, a.EndMs, func(k int, ms int64) int { return cmp.Compare(t.eps[k].StartMs, ms) })
	for n := at; n < min(len(list), at+reachOf); n++ {
		k := list[n]
		e := &t.eps[k]
		if e.StartMs >= t.eps[j].StartMs {
			return false
		}
		if k != i && k != j && shareAccount(a.Accounts, e.Accounts) && sharedOf(t.nodes[i], t.nodes[k]) >= 1 && e.GPUs() == t.sigs[i].gpus {
			return true
		}
	}
	return false
}

// sharedOf is the share of the smaller set of nodes that the other has too.
func sharedOf(x, y []string) float64 {
	n := 0
	for a, b := 0, 0; a < len(x) && b < len(y); {
		switch c := cmp.Compare(x[a], y[b]); {
		case c == 0:
			n, a, b = n+1, a+1, b+1
		case c < 0:
			a++
		default:
			b++
		}
	}
	return float64(n) / float64(max(1, min(len(x), len(y))))
}
