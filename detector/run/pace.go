package run

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// Teams of several nodes that exchange nothing that is seen are one job where they keep pace:
// they begin and end together, or as far apart as their clocks, show the same levels, and stall
// and step together. Each of these moves the odds; none is demanded, as each may be unseen.

const (
	// paceTolMs is how far apart whole minutes of one moment lie, and edgeTolMs those that are
	// interpolated.
	paceTolMs = 60_000
	edgeTolMs = 55_000
	// skewMs is how far apart two clocks may be.
	skewMs = 4 * minuteMs
	// besideScore is the log-odds from which it is told that two may be one.
	besideScore = -2.5
	// pacedCells bounds the minutes that two teams are compared over.
	pacedCells = 240
	// rivals bounds the groups that a team is compared with, begun those that it is chosen among.
	rivals = 12
	begun  = 128
)

// beside are two stretches that may be of one job.
type beside struct {
	a, b   int
	weight float64
	reason string
}

type pacer struct {
	ev    *feature.Evidence
	ts    []team
	talks map[string][]*pairFlow
	g     *graph
	cells map[int][]feature.GPUCell // of the first GPU of a team
	sent  map[int][]burst           // by its host
	maybe []beside
}

// join compares each team with the groups that began about when it did, by what it looks like.
func (p *pacer) join() {
	buckets := map[Basis][]int{}
	for i := range p.ts {
		t := &p.ts[i]
		buckets[t.basis] = append(buckets[t.basis], i)
	}
	for _, k := range sortedKeys(buckets) {
		p.group(buckets[k])
	}
	p.resume()
}

// group puts the teams of a list, sorted by start, to the groups that they fit best.
func (p *pacer) group(list []int) {
	type group struct {
		first, last int // teams
		start       int64
	}
	var open []group
	for _, i := range list {
		t := &p.ts[i]
		open = slices.DeleteFunc(open, func(g group) bool { return t.start-g.start > skewMs })
		if len(open) > begun {
			open = slices.Delete(open, 0, len(open)-begun)
		}
		// Where many begin at once, those that look most alike come first.
		near := make([]int, 0, len(open))
		for n := range open {
			near = append(near, n)
		}
		if len(open) > rivals {
			slices.SortStableFunc(near, func(x, y int) int {
				return cmp.Compare(unlike(t, &p.ts[open[x].first]), unlike(t, &p.ts[open[y].first]))
			})
			near = near[:rivals]
		}
		best, bestScore := -1, math.Inf(-1)
		for _, n := range near {
			g := &open[n]
			if p.g.find(p.ts[g.first].lead) == p.g.find(t.lead) || p.g.find(p.ts[g.last].lead) == p.g.find(t.lead) {
				best, bestScore = n, math.Inf(1)
				break
			}
			s, ok := p.score(g.first, i)
			if !ok {
				continue
			}
			if g.last != g.first {
				s2, ok2 := p.score(g.last, i)
				if !ok2 {
					continue
				}
				s = (s + s2) / 2
			}
			if s > bestScore {
				best, bestScore = n, s
			}
		}
		switch {
		case best >= 0 && bestScore > 0:
			o := &p.ts[open[best].first]
			p.g.join(o.lead, t.lead, "sync", 1/(1+math.Exp(-bestScore)), func() string {
				return fmt.Sprintf("%s and %s began and run in step with the same load", o.node, t.node)
			})
			open[best].last = i
			open[best].start = max(open[best].start, t.start)
			continue
		case best >= 0 && bestScore > besideScore:
			o := &p.ts[open[best].first]
			p.maybe = append(p.maybe, beside{o.lead, t.lead, 1 / (1 + math.Exp(-bestScore)), fmt.Sprintf("may be one job with that of %s, which began at the same time", o.node)})
		}
		open = append(open, group{i, i, t.start})
	}
}

// resume joins a team with the one before it on the same GPUs where both hold the same, the rest
// between is a blink, and another host of the job went on through it.
func (p *pacer) resume() {
	at := func(t *team) feature.GPUKey { return feature.GPUKey{Node: t.node, GPU: t.gpu} }
	before := map[feature.GPUKey]int{}
	var comes []int // teams that come back
	last := make([]int, len(p.ts))
	for i := range p.ts {
		k := at(&p.ts[i])
		if j, ok := before[k]; ok && p.ts[i].start-p.ts[j].end <= blinkMs && p.ts[i].start >= p.ts[j].end && len(p.ts[i].list) == len(p.ts[j].list) && !contradicts(p.ts[i].mem, p.ts[j].mem, 0.03) {
			comes = append(comes, i)
			last[i] = j
		}
		before[k] = i
	}
	if len(comes) == 0 {
		return
	}
	of := map[int][]int{}
	for i := range p.ts {
		r := p.g.find(p.ts[i].lead)
		of[r] = append(of[r], i)
	}
	for _, i := range comes {
		u, v := &p.ts[last[i]], &p.ts[i]
		for _, k := range of[p.g.find(u.lead)] {
			w := &p.ts[k]
			if w.start >= v.start {
				break
			}
			if w.node != v.node && w.start <= u.end-2*minuteMs && w.end >= v.start+2*minuteMs {
				p.g.join(u.lead, v.lead, "pause", 0.8, func() string {
					return fmt.Sprintf("%s was at rest for a moment, while %s went on", v.node, w.node)
				})
				break
			}
		}
	}
}

// unlike orders teams by how much they differ from one.
func unlike(a, b *team) float64 {
	d := float64(absMs(a.start-b.start)) / (10 * minuteMs)
	for _, v := range [...][2]float64{{a.mem, b.mem}, {a.power, b.power}} {
		if !math.IsNaN(v[0]) && !math.IsNaN(v[1]) {
			d += math.Abs(v[0]-v[1]) / math.Max(math.Max(v[0], v[1]), 1)
		}
	}
	if !shareAccount(a.accounts, b.accounts) {
		d++
	}
	if len(a.list) != len(b.list) {
		d += 0.1
	}
	return d
}

// cadence is the time between two samples of a team, where it is more than a good part of a
// minute: what a start or an end is uncertain by.
func (p *pacer) cadence(i int) int64 {
	t := &p.ts[i]
	var each int64
	if t.basis == BasisPower {
		cells := p.ev.Host[t.node]
		lo, hi := nodeRange(cells, t.start, t.end)
		moved, wide := 0, int64(0)
		for k := lo; k < min(hi, lo+60); k++ {
			if cells[k].PowerSD > 0 {
				moved++
			}
			if cells[k].SpanMs == 0 {
				wide = max(wide, min(cells[k].PowerCoverMs, 10*minuteMs))
			}
		}
		each = wide / 3
		if 3*moved < min(hi-lo, 60) { // one row a minute
			each = max(wide, minuteMs)
		}
	} else {
		cells := p.of(i)
		samples, ms := 0, int64(0)
		for k := range cells[:min(len(cells), 60)] {
			samples += cells[k].Samples
			ms += cells[k].EndMs() - cells[k].MinuteMs
		}
		if samples > 0 {
			each = ms / int64(samples)
		}
	}
	if each < 25_000 {
		return 0
	}
	return min(each, 10*minuteMs)
}

func (p *pacer) bursts(i int) []burst {
	b, ok := p.sent[i]
	if !ok {
		b = burstsOf(p.ev.Host[p.ts[i].node], p.ts[i].start, p.ts[i].end)
		p.sent[i] = b
	}
	return b
}

func (p *pacer) of(i int) []feature.GPUCell {
	c, ok := p.cells[i]
	if !ok {
		t := &p.ts[i]
		node, gpu := t.node, t.gpu
		all := p.ev.CellsFrom(feature.GPUKey{Node: node, GPU: gpu}, t.start)
		lo, hi := cellRange(all, t.start, t.end)
		c = all[lo:min(hi, lo+pacedCells)]
		p.cells[i] = c
	}
	return c
}

// score is the log-odds that two teams are of one job; ok is false where something rules it out.
func (p *pacer) score(i, j int) (score float64, ok bool) {
	a, b := &p.ts[i], &p.ts[j]
	if a.node == b.node || (a.job != "" && b.job != "" && a.job != b.job) || (a.comm && b.comm) {
		return 0, false // communicators were seen on both and do not join them
	}
	from, to := max(a.start, b.start), min(a.end, b.end)
	if to-from < 2*minuteMs {
		return 0, false
	}
	if spoke(p.talks, a, from, to) && spoke(p.talks, b, from, to) {
		return 0, false // with whom each of them exchanges is seen, and it is not the other
	}
	s := -0.5
	switch {
	case a.whole && b.whole: // who needs more than a host takes hosts whole
		s += 1.2
	case a.whole || b.whole:
		s += 0.4
	}
	if len(a.list) != len(b.list) {
		s -= 0.6
	}
	known := len(a.accounts) > 0 && len(b.accounts) > 0
	switch {
	case known && shareAccount(a.accounts, b.accounts):
		s += 0.3
	case known:
		s -= 3
	}
	lag, edges := p.edges(i, j)
	s += edges
	if s < -6 {
		return 0, false
	}
	s += levels(a, b)
	fa, fb := fabricBps(p.ev.Host[a.node], from, to), fabricBps(p.ev.Host[b.node], from, to)
	switch {
	case !math.IsNaN(fa) && !math.IsNaN(fb):
		switch {
		case fa < flowBps || fb < flowBps:
			s -= 4
		case contradicts(fa, fb, 0.5):
			s -= 0.5
		case contradicts(fa, fb, 0.05):
			s++
		default:
			s += 2
		}
	case len(p.talks) > 0:
		s -= 4 // flows between nodes are seen, and these two have none of note
	}
	if s < -7 {
		return s, true
	}
	// Islands exchange little, and at once.
	sent, _ := burstOdds(p.bursts(i), p.bursts(j), lag, to-from)
	s += 0.8 * sent
	step := 0.6 * p.inStep(i, j, lag)
	if sent > 3 {
		step = math.Max(step, 0) // islands step each by themselves
	}
	if step < 0 && max(p.cadence(i), p.cadence(j)) > 0 {
		step *= 0.2 // a row a minute, of a part of it, sees a stall in one and misses it in the other
	}
	return s + step, true
}

// edges weighs starts and ends. lag is by how much b's clock may be behind.
func (p *pacer) edges(i, j int) (lag int64, s float64) {
	a, b := &p.ts[i], &p.ts[j]
	a0, a1, b0, b1 := a.start, a.end, b.start, b.end
	tol := int64(paceTolMs)
	if a.basis == BasisPower && b.basis == BasisPower {
		a0, a1, b0, b1 = a.edge[0], a.edge[1], b.edge[0], b.edge[1]
		tol = edgeTolMs
	}
	tol += max(p.cadence(i), p.cadence(j))
	if a.atStart && b.atStart {
		s -= 1.5 // in use since before the first sight: beginning together says nothing
	} else if a.atStart != b.atStart {
		return 0, -8
	}
	d0, d1 := b0-a0, b1-a1
	late := absMs(d0) > tol
	if late {
		// A clock that is off is off at the end as well.
		s -= 2
		lag = (d0 + minuteMs/2) / minuteMs * minuteMs
		if d0 < 0 {
			lag = (d0 - minuteMs/2) / minuteMs * minuteMs
		}
	}
	switch {
	case a.open && b.open:
	case a.open != b.open:
		// One goes on. At the judged moment a clock that is off ends a team early.
		end := min(a.end, b.end)
		if max(a.end, b.end)-end > 5*minuteMs {
			s -= 4
		}
	case absMs(d1-d0) <= tol:
		s += 0.5
		if late { // by chance, the rarer the longer they took
			s += math.Max(-1, math.Min(2, math.Log(float64(a1-a0)/float64(4*tol))))
		}
	case absMs(d1-d0) <= tol+2*minuteMs:
		s--
	default:
		s -= 4
	}
	return lag, s
}

// levels weighs how alike two teams are. Stages of a pipeline differ, and so do two jobs.
func levels(a, b *team) float64 {
	s := 0.0
	for _, v := range [...]struct{ a, b, agree, differ, far float64 }{
		{a.mem, b.mem, 0.03, 0.03, 0.12}, {a.power, b.power, 0.1, 0.15, 0.35}, {a.load + 0.05, b.load + 0.05, 0.1, 0.15, 0.4},
	} {
		agree, known := near(v.a, v.b, v.agree)
		switch {
		case !known:
		case agree:
			s += 0.2
		case contradicts(v.a, v.b, v.far):
			s -= 3.5
		case contradicts(v.a, v.b, v.differ):
			s -= 2
		}
	}
	return s
}

// inStep is what steps and stalls say, on a's clock.
func (p *pacer) inStep(i, j int, lag int64) float64 {
	a, b := &p.ts[i], &p.ts[j]
	from, to := max(a.start, b.start-lag), min(a.end, b.end-lag)
	if a.basis == BasisPower {
		x, y := p.ev.Host[a.node], p.ev.Host[b.node]
		lo, hi := nodeRange(x, from+minuteMs, to-minuteMs)
		lo2, hi2 := nodeRange(y, from+lag+minuteMs, to+lag-minuteMs)
		x, y = x[lo:min(hi, lo+pacedCells)], slices.Clone(y[lo2:min(hi2, lo2+pacedCells)])
		for k := range y {
			y[k].MinuteMs -= lag
		}
		return (*feature.Fleet)(nil).InStepNodes(x, y).LogOdds
	}
	x, y := p.of(i), p.of(j)
	lo, hi := cellRange(x, from+minuteMs, to-minuteMs)
	lo2, hi2 := cellRange(y, from+lag+minuteMs, to+lag-minuteMs)
	x, y = x[lo:hi], y[lo2:hi2]
	if lag != 0 {
		y = slices.Clone(y)
		for k := range y {
			y[k].MinuteMs -= lag
		}
	}
	return feature.InStep(x, y).LogOdds
}
