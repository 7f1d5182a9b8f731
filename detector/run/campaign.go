package run

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// Campaigns are what lies above runs: runs that each stand by themselves, and may add up to one
// training. What they rest on is weaker than what joins runs, so that each has a weight, and
// nothing is joined.

const (
	// leastWeight is that from which a campaign is told.
	leastWeight = 0.1
	// linkScore is the log-odds from which two runs are linked to one campaign.
	linkScore = -1.5
	// campaignReach bounds how many runs a run is compared with for each thing they share.
	campaignReach = 8
	// sampledGPUs bounds the GPUs that a run is known by.
	sampledGPUs = 8
	// manyRuns of a kind make a structure.
	manyRuns = 3
	// What is sent at the same moments may be sent by a schedule that two jobs share, and what
	// stalls at the same moments may be two tries of one program that began together: log-odds
	// that neither goes over.
	mostByTraffic = 2.2
	mostByStalls  = 0.4
	// besideMs is how long two runs must have gone on together.
	besideMs = 20 * minuteMs
)

// profileOf is what a run is compared by.
type profileOf struct {
	run        int
	class      string
	training   bool
	start, end int64
	open       bool
	gpus       int
	nodes      []string
	accounts   []string
	sig        signature
	sent       []burst
	lead       Member
}

// campaigner holds what campaigns are looked for in.
type campaigner struct {
	ev    *feature.Evidence
	runs  []Run
	of    []profileOf
	flows map[nodePair]*pairFlow
}

// Campaigns looks for runs that may add up to one training: islands that exchange at the same
// moments, a pool that makes experience beside one that learns from it, and work of one kind
// cut into many runs. They are sorted by their id and kind.
func Campaigns(ev *feature.Evidence, eps []Episode, runs []Run) []Campaign {
	c := &campaigner{ev: ev, runs: runs, flows: flowsBetween(ev)}
	files := checkpointsOf(ev)
	for i := range runs {
		if p, ok := c.profile(eps, i, files); ok {
			c.of = append(c.of, p)
		}
	}
	slices.SortFunc(c.of, func(a, b profileOf) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(c.runs[a.run].ID, c.runs[b.run].ID))
	})
	out := append(c.pairs(), c.structures()...)
	slices.SortFunc(out, func(a, b Campaign) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Kind, b.Kind)) })
	return out
}

// works reports a class of which runs may be a part of a training: a pool that makes
// experience looks like serving.
func works(class string) (training, may bool) {
	switch class {
	case "training", "finetuning", "rl":
		return true, true
	case "inference", "batch_inference", "unknown":
		return false, true
	}
	return false, false
}

func (c *campaigner) profile(eps []Episode, i int, files map[string][]feature.Checkpoint) (profileOf, bool) {
	r := &c.runs[i]
	training, may := works(r.Class)
	if !may || len(r.Members) == 0 {
		return profileOf{}, false
	}
	longest := -1
	for _, n := range r.Episodes {
		e := &eps[n]
		if inUse(e.Basis) && (longest < 0 || e.EndMs-e.StartMs > eps[longest].EndMs-eps[longest].StartMs) {
			longest = n
		}
	}
	if longest < 0 || eps[longest].EndMs-eps[longest].StartMs < 10*minuteMs {
		return profileOf{}, false
	}
	e := eps[longest]
	p := profileOf{run: i, class: r.Class, training: training, start: r.StartMs, end: r.EndMs, open: r.Open, gpus: e.GPUs(), nodes: e.Nodes(), accounts: r.Accounts, lead: e.Members[0]}
	e.Members = e.Members[:min(len(e.Members), sampledGPUs)]
	p.sig = signatureOf(c.ev, &e, files)
	p.sig.gpus = p.gpus
	p.sent = burstsOf(c.ev.Host[p.lead.Node], r.StartMs, r.EndMs)
	return p, true
}

// tie is what links two runs.
type tie struct {
	a, b    int
	score   float64
	kind    string
	reasons []string
	known   int64
}

// pairs links runs at the same time.
func (c *campaigner) pairs() []Campaign {
	groups := map[string][]int{}
	at := map[string][]int{}
	for i := range c.of {
		p := &c.of[i]
		for _, a := range p.accounts {
			groups["a"+a] = append(groups["a"+a], i)
		}
		around(p.sig.memBytes, 0.025, func(b int) {
			k := "m" + strconv.Itoa(p.gpus) + " " + strconv.Itoa(b)
			groups[k] = append(groups[k], i)
		})
		if len(p.sent) >= 2 {
			around(float64(p.sent[1].ms-p.sent[0].ms), 0.05, func(b int) {
				k := "b" + strconv.Itoa(b)
				groups[k] = append(groups[k], i)
			})
		}
		if len(p.accounts) == 0 {
			groups["a"] = append(groups["a"], i)
		}
		for _, n := range p.nodes {
			at[n] = append(at[n], i)
		}
	}
	type pair struct{ a, b int }
	seen := map[pair]bool{}
	var ties []tie
	try := func(i, j int) {
		if i > j {
			i, j = j, i
		}
		if i == j || seen[pair{i, j}] {
			return
		}
		seen[pair{i, j}] = true
		if t, ok := c.tie(i, j); ok {
			ties = append(ties, t)
		}
	}
	for _, k := range sortedKeys(groups) {
		list := groups[k]
		for x, i := range list {
			for _, j := range list[x+1 : min(len(list), x+1+campaignReach)] {
				try(i, j)
			}
		}
	}
	pairs := make([]nodePair, 0, len(c.flows))
	for k := range c.flows {
		pairs = append(pairs, k)
	}
	slices.SortFunc(pairs, func(x, y nodePair) int { return cmp.Or(cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b)) })
	for _, k := range pairs {
		for _, i := range at[k.a][:min(len(at[k.a]), 4*campaignReach)] {
			for _, j := range at[k.b][:min(len(at[k.b]), 4*campaignReach)] {
				try(i, j)
			}
		}
	}
	return c.components(ties)
}

// components makes a campaign of each set of runs that ties of one kind link.
func (c *campaigner) components(ties []tie) []Campaign {
	slices.SortStableFunc(ties, func(x, y tie) int {
		return cmp.Or(cmp.Compare(x.kind, y.kind), cmp.Compare(y.score, x.score), cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b))
	})
	var out []Campaign
	for lo := 0; lo < len(ties); {
		hi := lo
		for hi < len(ties) && ties[hi].kind == ties[lo].kind {
			hi++
		}
		g := newGraph(len(c.of))
		// The best ties span the campaign; the weakest of them is what all of it hangs on.
		weakest := map[int]float64{}
		var spans []tie
		for _, t := range ties[lo:hi] {
			if g.find(t.a) != g.find(t.b) {
				g.join(t.a, t.b, t.kind, 0, func() string { return "" })
				spans = append(spans, t)
			}
		}
		members := map[int][]int{}
		for i := range c.of {
			members[g.find(i)] = append(members[g.find(i)], i)
		}
		reasons, known := map[int][]string{}, map[int]int64{}
		for _, t := range spans {
			r := g.find(t.a)
			if w, ok := weakest[r]; !ok || t.score < w {
				weakest[r] = t.score
			}
			known[r] = max(known[r], t.known)
			for _, x := range t.reasons {
				if len(reasons[r]) < 5 && !slices.Contains(reasons[r], x) {
					reasons[r] = append(reasons[r], x)
				}
			}
		}
		for _, r := range sortedKeys(weakest) {
			if w := 1 / (1 + math.Exp(-weakest[r])); w >= leastWeight {
				out = append(out, c.campaign(ties[lo].kind, members[r], w, reasons[r], known[r]))
			}
		}
		lo = hi
	}
	return out
}

func (c *campaigner) campaign(kind string, list []int, weight float64, reasons []string, known int64) Campaign {
	out := Campaign{ID: c.runs[c.of[list[0]].run].ID, Kind: kind, Weight: weight, Reasons: reasons, KnownMs: known}
	for _, i := range list {
		out.Runs = append(out.Runs, c.runs[c.of[i].run].ID)
	}
	slices.Sort(out.Runs)
	return out
}

// tie weighs whether two runs at the same time are parts of one training.
func (c *campaigner) tie(i, j int) (tie, bool) {
	a, b := &c.of[i], &c.of[j]
	t := tie{a: i, b: j, kind: Islands, score: -3}
	if !a.training && !b.training {
		return t, false
	}
	from, to := max(a.start, b.start), min(a.end, b.end)
	if to-from < besideMs {
		return t, false
	}
	t.known = from + besideMs
	if a.training != b.training || a.class == "rl" || b.class == "rl" {
		t.kind = SplitPools
	}
	say := func(s float64, reason string) {
		t.score += s
		if s > 0 && reason != "" {
			t.reasons = append(t.reasons, reason)
		}
	}
	direct, most := false, mostByTraffic
	if s, hits, known := c.exchange(a, b, from, to); s != 0 {
		direct = s > 0
		say(s, fmt.Sprintf("their hosts exchange weights with each other, %d times", hits))
		t.known = max(t.known, known)
	}
	if odds, hits := burstOdds(a.sent, b.sent, 0, to-from); odds != 0 {
		say(0.8*odds, fmt.Sprintf("their hosts send at the same moments, %d times", hits))
		if odds > 0 && hits >= 3 {
			t.known = max(t.known, a.sent[min(2, len(a.sent)-1)].ms+minuteMs)
			direct = true
		}
		if alikeSizes(a.sent, b.sent) {
			say(0.7, "what they send is of one size")
		}
	}
	switch {
	case len(a.accounts) == 0 || len(b.accounts) == 0:
	case shareAccount(a.accounts, b.accounts):
		say(0.5, "the account is the same")
	default:
		say(-1, "")
	}
	// Those of one job begin and end together; of all that run, few do by chance.
	length := math.Max(float64(to-from), float64(besideMs))
	if absMs(a.start-b.start) <= 2*minuteMs && a.start > c.ev.StartMs+minuteMs {
		say(math.Min(1.5, math.Log(length/(15*minuteMs))), "they began together")
	}
	if !a.open && !b.open && absMs(a.end-b.end) <= 2*minuteMs {
		say(math.Min(1.5, math.Log(length/(15*minuteMs))), "they ended together")
	}
	if t.kind == SplitPools {
		if !direct && !sameHostOrSite(c.ev, a, b) {
			return t, false
		}
		x := c.paced(a, b, from, to)
		if !direct {
			if x.LogOdds < 1 {
				return t, false
			}
			most = mostByStalls
		}
		say(0.5*math.Max(x.LogOdds, -4), "their rounds keep time with each other")
	} else {
		like := compare(&a.sig, &b.sig)
		switch {
		case like.differs:
			say(-1.5, "")
		case like.agreed > 1:
			say(math.Min(1.2, -0.3*like.chance), "memory and load are the same")
		}
		if a.gpus != b.gpus {
			say(-0.5, "")
		}
		if !direct && !like.differs && t.score > -5 {
			// Islands step each by themselves, and wait for each other.
			x := c.paced(a, b, from, to)
			minutes := float64(min(to-from, pacedCells*minuteMs)) / minuteMs
			chance := math.Min(0.9, 3*float64(x.Dips+x.Lone)/minutes)
			if odds := float64(x.Dips)*math.Log(0.9/chance) - 1.2*float64(x.Lone); x.Dips >= 3 && odds > 2 {
				direct, most = true, mostByStalls
				say(0.6*math.Min(odds, 6), fmt.Sprintf("they stall at the same moments, %d times", x.Dips))
			}
		}
		if !direct {
			return t, false // alike and at one time is what a customer's runs are: see structures
		}
	}
	t.score = math.Min(t.score, most)
	return t, t.score > linkScore
}

// exchange weighs the traffic between the hosts of two runs: what trainings and pools send
// each other comes in bursts of the size of weights.
func (c *campaigner) exchange(a, b *profileOf, from, to int64) (odds float64, hits int, knownMs int64) {
	var times []int64
	total := 0.0
	for _, x := range a.nodes[:min(len(a.nodes), campaignReach)] {
		for _, y := range b.nodes[:min(len(b.nodes), campaignReach)] {
			f := c.flows[nodePair{min(x, y), max(x, y)}]
			if x == y || f == nil {
				continue
			}
			lo, _ := slices.BinarySearch(f.minutes, from)
			for i := lo; i < len(f.minutes) && f.minutes[i] < to; i++ {
				total += f.bytes[i]
				if f.bytes[i] > burstBytes {
					times = append(times, f.minutes[i])
				}
			}
		}
	}
	slices.Sort(times)
	last := int64(math.MinInt64)
	for _, ms := range times {
		if ms > last+minuteMs {
			if hits++; hits == 3 {
				knownMs = ms + minuteMs
			}
		}
		last = ms
	}
	switch {
	case hits >= 3 || total > flowBps*float64(to-from)/1000:
		return 4.5, max(hits, 1), knownMs
	case hits > 0:
		return 1.5, hits, 0
	}
	return 0, 0, 0
}

// alikeSizes reports that bursts of two hosts carry the same.
func alikeSizes(a, b []burst) bool {
	mid := func(list []burst) float64 {
		v := make([]float64, len(list))
		for i := range list {
			v[i] = list[i].bytes
		}
		slices.Sort(v)
		if len(v) == 0 {
			return math.NaN()
		}
		return v[len(v)/2]
	}
	agree, _ := near(mid(a), mid(b), 0.1)
	return agree
}

func sameHostOrSite(ev *feature.Evidence, a, b *profileOf) bool {
	return sharedOf(a.nodes, b.nodes) > 0 || ev.Nodes[a.lead.Node].Site == ev.Nodes[b.lead.Node].Site
}

// paced is what steps and stalls of the first GPUs of two runs say.
func (c *campaigner) paced(a, b *profileOf, from, to int64) feature.Together {
	cells := func(m Member) []feature.GPUCell {
		all := c.ev.CellsFrom(feature.GPUKey{Node: m.Node, GPU: m.GPU}, from)
		lo, hi := cellRange(all, from+minuteMs, to-minuteMs)
		return all[lo:min(hi, lo+pacedCells)]
	}
	x, y := cells(a.lead), cells(b.lead)
	if len(x) == 0 || len(y) == 0 {
		h, k := c.ev.Host[a.lead.Node], c.ev.Host[b.lead.Node]
		lo, hi := nodeRange(h, from, to)
		lo2, hi2 := nodeRange(k, from, to)
		return (*feature.Fleet)(nil).InStepNodes(h[lo:min(hi, lo+pacedCells)], k[lo2:min(hi2, lo2+pacedCells)])
	}
	return feature.InStep(x, y)
}

// structures finds many trainings that look alike: work that may have been cut into pieces. Who
// owns the accounts is not known here, so that a group may be of several.
func (c *campaigner) structures() []Campaign {
	var idx []int
	for i := range c.of {
		if c.of[i].training {
			idx = append(idx, i)
		}
	}
	g := newGraph(len(c.of))
	buckets := map[string][]int{}
	for _, i := range idx {
		p := &c.of[i]
		v := p.sig.memBytes
		if math.IsNaN(v) {
			v = p.sig.powerW
		}
		around(v, 0.025, func(b int) {
			k := strconv.Itoa(p.gpus) + " " + strconv.Itoa(b)
			buckets[k] = append(buckets[k], i)
		})
	}
	for _, k := range sortedKeys(buckets) {
		list := buckets[k]
		for x, i := range list {
			for _, j := range list[x+1 : min(len(list), x+1+campaignReach)] {
				if lookAlike(&c.of[i].sig, &c.of[j].sig) {
					g.join(i, j, Structuring, 0, func() string { return "" })
				}
			}
		}
	}
	members := map[int][]int{}
	for _, i := range idx {
		members[g.find(i)] = append(members[g.find(i)], i)
	}
	var out []Campaign
	for _, r := range sortedKeys(members) {
		list := members[r]
		if len(list) < manyRuns {
			continue
		}
		var accounts []string
		starts := make([]int64, 0, len(list))
		own := true
		for _, i := range list {
			for _, a := range c.of[i].accounts {
				accounts = addTo(accounts, a)
			}
			starts = append(starts, c.of[i].start)
			own = own && !math.IsNaN(c.of[i].sig.periodMs)
		}
		// Most such groups are sweeps, or one team's recipe. The more accounts share what no
		// other work of the fleet shows, the less so.
		score := -1.6
		reasons := []string{fmt.Sprintf("%d runs of %d GPUs look alike: memory, load and steps as far as they are seen", len(list), c.of[list[0]].gpus)}
		if n := len(accounts); n > 1 {
			score += math.Min(1, 0.4*float64(n-1))
			reasons = append(reasons, fmt.Sprintf("they are of %d accounts", n))
		}
		slices.Sort(starts)
		if n := turns(c, list); 3*n >= 2*(len(list)-1) {
			score += 0.6
			reasons = append(reasons, "one begins as another ends")
		}
		if own {
			score += 0.4
			reasons = append(reasons, "their steps take the same time")
		}
		out = append(out, c.campaign(Structuring, list, 1/(1+math.Exp(-score)), reasons, starts[manyRuns-1]+10*minuteMs))
	}
	return out
}

// turns counts the runs of a list that begin within a quarter of an hour of another's end.
func turns(c *campaigner, list []int) int {
	ends := make([]int64, 0, len(list))
	for _, i := range list {
		if !c.of[i].open {
			ends = append(ends, c.of[i].end)
		}
	}
	slices.Sort(ends)
	n := 0
	for _, i := range list {
		k, _ := slices.BinarySearch(ends, c.of[i].start-pauseMs)
		if k < len(ends) && ends[k] <= c.of[i].start+overlapTolMs {
			n++
		}
	}
	return n
}
