package run

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// team is the stretches of one node that are already joined (or one stretch alone): the
// unit of links by likeness and between nodes.
type team struct {
	lead       int // first stretch
	list       []int
	node       string
	gpu        int
	start, end int64
	open       bool
	atStart    bool
	mem, power float64 // mean over the GPUs
	load       float64
	job        string
	accounts   []string
	basis      Basis
	edge       [2]int64
	comm       bool
	whole      bool // all GPUs of the node
	period     float64
}

// teams groups the stretches in use by component and node, sorted by start and node.
func teams(ev *feature.Evidence, st []stretch, g *graph) []team {
	type key struct {
		root int
		node string
	}
	index := map[key]int{}
	var out []team
	for i := range st {
		s := &st[i]
		if !inUse(s.basis) {
			continue
		}
		k := key{g.find(i), s.node}
		n, ok := index[k]
		if !ok {
			n = len(out)
			index[k] = n
			out = append(out, team{lead: i, node: s.node, gpu: s.gpu, start: s.start, end: s.end, atStart: s.atStart, job: s.jobKey, basis: s.basis, edge: s.edgeMs})
		}
		t := &out[n]
		t.list = append(t.list, i)
		t.end = max(t.end, s.end)
		t.open = t.open || s.open
		t.mem += s.mem
		t.power += s.power
		t.load += s.load
		t.period = notZero(t.period, s.period)
		t.comm = t.comm || len(s.comm) > 0
		for _, a := range s.accounts {
			t.accounts = addTo(t.accounts, a)
		}
	}
	for i := range out {
		n := float64(len(out[i].list))
		out[i].mem /= n
		out[i].power /= n
		out[i].load /= n
	}
	for i := range out {
		// A rental that names GPUs tells how many there are at least.
		out[i].whole = ev.Nodes[out[i].node].GPUCount > 0 && len(out[i].list) >= ev.Nodes[out[i].node].GPUCount
	}
	slices.SortStableFunc(out, func(a, b team) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.node, b.node)) })
	return out
}

// near reports whether two measured values agree within a fraction; unknown is no
// contradiction and no agreement.
func near(a, b, frac float64) (agree, known bool) {
	if math.IsNaN(a) || math.IsNaN(b) {
		return false, false
	}
	return math.Abs(a-b) <= frac*math.Max(math.Abs(a), math.Abs(b)), true
}

func contradicts(a, b, frac float64) bool {
	agree, known := near(a, b, frac)
	return known && !agree
}

func shareAccount(a, b []string) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	for _, x := range a {
		if slices.Contains(b, x) {
			return true
		}
	}
	return false
}

// together reports whether two teams began together, and ended together unless one of
// them still runs.
func together(a, b *team, tolMs int64) bool {
	if absMs(a.start-b.start) > tolMs {
		return false
	}
	if a.open || b.open {
		return min(a.end, b.end)-max(a.start, b.start) > 0 && (a.open == b.open || absMs(a.end-b.end) <= 5*minuteMs)
	}
	return absMs(a.end-b.end) <= tolMs
}

// joinSync joins what works in step: GPUs of a node that begin, end and look alike, and
// teams on several nodes that exchange traffic or run in step.
func joinSync(ev *feature.Evidence, st []stretch, g *graph) []beside {
	joinWithin(teams(ev, st, g), g)
	return joinAcross(ev, teams(ev, st, g), g)
}

// joinWithin joins GPUs of one node of which no declaration tells programs apart.
func joinWithin(ts []team, g *graph) {
	byNode := map[string][]int{}
	for i := range ts {
		byNode[ts[i].node] = append(byNode[ts[i].node], i)
	}
	for _, node := range sortedKeys(byNode) {
		list := byNode[node]
		for x, i := range list {
			for _, j := range list[x+1:] {
				a, b := &ts[i], &ts[j]
				if b.start-a.start > 2*minuteMs {
					break
				}
				if a.basis == BasisPower && b.basis == BasisPower {
					if slices.Equal(a.accounts, b.accounts) && absMs(a.start-b.start) < minuteMs && absMs(a.end-b.end) < minuteMs {
						g.join(a.lead, b.lead, "power", 0.6, func() string { return "the host's power does not tell the GPUs of " + node + " apart" })
					}
					continue
				}
				if a.job != "" && b.job != "" {
					continue // different jobs, or they would be joined
				}
				if alike(a, b) {
					g.join(a.lead, b.lead, "sync", 0.7, func() string {
						return fmt.Sprintf("GPUs of %s began together with the same memory and load", node)
					})
				}
			}
		}
	}
}

// alike reports whether two teams of a node look like one program.
func alike(a, b *team) bool {
	if !shareAccount(a.accounts, b.accounts) || !together(a, b, 90_000) {
		return false
	}
	if contradicts(a.power, b.power, 0.25) || contradicts(a.load+0.05, b.load+0.05, 0.35) {
		return false
	}
	if overlapGPU(a, b) || otherPeriods(a.period, b.period) {
		return false
	}
	memAlike, known := near(a.mem, b.mem, 0.04)
	if known && !memAlike {
		return false
	}
	// In use since before the first sight: beginning together says nothing, so the
	// likeness has to be close.
	if a.atStart && b.atStart {
		memClose, memKnown := near(a.mem, b.mem, 0.02)
		loadClose, _ := near(a.power, b.power, 0.1)
		return (memClose || !memKnown) && loadClose
	}
	return true
}

// otherPeriods reports that two steady periods are of two programs: neither the same nor a part
// of the other.
func otherPeriods(a, b float64) bool {
	if !(a > 0) || !(b > 0) {
		return false
	}
	r := math.Max(a, b) / math.Min(a, b)
	return math.Abs(r-math.Round(r)) > 0.06*math.Round(r)
}

func overlapGPU(a, b *team) bool {
	return len(a.list) == 1 && len(b.list) == 1 && a.list[0] == b.list[0]
}

// minute sums of traffic between two nodes.
type pairFlow struct {
	minutes []int64
	bytes   []float64
}

type nodePair struct{ a, b string }

func flowsBetween(ev *feature.Evidence) map[nodePair]*pairFlow {
	out := map[nodePair]*pairFlow{}
	for i := range ev.Flows {
		f := &ev.Flows[i]
		if _, fleet := ev.Nodes[f.Peer]; !fleet || f.Peer == f.Node {
			continue
		}
		k := nodePair{min(f.Node, f.Peer), max(f.Node, f.Peer)}
		p := out[k]
		if p == nil {
			p = &pairFlow{}
			out[k] = p
		}
		if math.IsNaN(f.TxBytes) {
			continue
		}
		p.minutes = append(p.minutes, f.MinuteMs)
		p.bytes = append(p.bytes, f.TxBytes)
	}
	return out
}

func (p *pairFlow) in(start, end int64) float64 {
	lo, _ := slices.BinarySearch(p.minutes, start-minuteMs+1)
	sum := 0.0
	for i := lo; i < len(p.minutes) && p.minutes[i] < end+minuteMs; i++ {
		sum += p.bytes[i]
	}
	return sum
}

// flowBps is the least mean traffic, in bytes per second, that ties two nodes to one
// job: far above storage chatter and far below a gradient exchange (FLOPS.md 5: 0.5 to
// 80 GB/s).
const flowBps = 20e6

// joinAcross joins teams of different nodes.
func joinAcross(ev *feature.Evidence, ts []team, g *graph) []beside {
	byNode := map[string][]int{}
	for i := range ts {
		byNode[ts[i].node] = append(byNode[ts[i].node], i)
	}
	flows := flowsBetween(ev)
	pairs := make([]nodePair, 0, len(flows))
	for k := range flows {
		pairs = append(pairs, k)
	}
	slices.SortFunc(pairs, func(x, y nodePair) int { return cmp.Or(cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b)) })
	talks := map[string][]*pairFlow{}
	for _, k := range pairs {
		talks[k.a] = append(talks[k.a], flows[k])
		talks[k.b] = append(talks[k.b], flows[k])
		for _, i := range byNode[k.a] {
			for _, j := range byNode[k.b] {
				if ts[j].start >= ts[i].end {
					break
				}
				joinByFlow(ts, i, j, flows[k], byNode, g)
			}
		}
	}
	p := &pacer{ev: ev, ts: ts, talks: talks, g: g, cells: map[int][]feature.GPUCell{}, sent: map[int][]burst{}}
	p.join()
	return p.maybe
}

// joinByFlow joins two teams whose nodes exchange much traffic while both run. Where a
// node holds several teams at that time, the traffic is credited to the two that began
// together.
func joinByFlow(ts []team, i, j int, f *pairFlow, byNode map[string][]int, g *graph) {
	a, b := &ts[i], &ts[j]
	from, to := max(a.start, b.start), min(a.end, b.end)
	if to-from < 2*minuteMs || g.find(a.lead) == g.find(b.lead) {
		return
	}
	bps := f.in(from, to) / (float64(to-from) / 1000)
	if bps < flowBps {
		return
	}
	startTogether := absMs(a.start-b.start) <= 2*minuteMs
	alone := countIn(ts, byNode[a.node], from, to) == 1 && countIn(ts, byNode[b.node], from, to) == 1
	if contradicts(a.load+0.05, b.load+0.05, 0.4) && !startTogether {
		return
	}
	if startTogether || (alone && 2*(to-from) > max(a.end-a.start, b.end-b.start)) {
		g.join(a.lead, b.lead, "flow", 0.85, func() string {
			return fmt.Sprintf("%s and %s exchange %.0f MB/s while both work", a.node, b.node, bps/1e6)
		})
	}
}

func countIn(ts []team, list []int, from, to int64) int {
	n := 0
	for _, i := range list {
		if min(ts[i].end, to)-max(ts[i].start, from) > 2*minuteMs {
			n++
		}
	}
	return n
}

// spoke reports whether the traffic of a team's node with some other node of the fleet was
// seen, and enough of it to tie them to one job. talks lists the traffic of each node.
func spoke(talks map[string][]*pairFlow, t *team, from, to int64) bool {
	return slices.ContainsFunc(talks[t.node], func(f *pairFlow) bool { return f.in(from, to) >= flowBps*float64(to-from)/1000 })
}

// fabricBps is the mean back-end traffic a node sent, NaN where it was not measured.
func fabricBps(cells []feature.NodeCell, from, to int64) float64 {
	lo, hi := nodeRange(cells, from, to)
	var bytes, ms float64
	for i := lo; i < hi; i++ {
		if cells[i].FabricCoverMs > 0 {
			bytes += cells[i].FabricTxBytes
			ms += float64(cells[i].FabricCoverMs)
		}
	}
	if ms == 0 {
		return math.NaN()
	}
	return bytes / (ms / 1000)
}

// flowIndex sums the flows of episodes.
type flowIndex struct{ stats []FlowStat }

func (f flowIndex) of(i int) FlowStat { return f.stats[i] }

func newFlowIndex(ev *feature.Evidence, eps []Episode) flowIndex {
	type part struct {
		ep         int
		start, end int64
		gpus       float64
	}
	byNode := map[string][]part{}
	nodes := make([]map[string]bool, len(eps))
	for i := range eps {
		e := &eps[i]
		nodes[i] = map[string]bool{}
		if !inUse(e.Basis) {
			continue
		}
		for _, m := range e.Members {
			nodes[i][m.Node] = true
			list := byNode[m.Node]
			if n := len(list); n > 0 && list[n-1].ep == i {
				list[n-1].start, list[n-1].end = min(list[n-1].start, m.StartMs), max(list[n-1].end, m.EndMs)
				list[n-1].gpus++
				continue
			}
			byNode[m.Node] = append(list, part{i, m.StartMs, m.EndMs, 1})
		}
	}
	stats := make([]FlowStat, len(eps))
	peers := make([]map[string]bool, len(eps))
	for i := range ev.Flows {
		fl := &ev.Flows[i]
		if math.IsNaN(fl.TxBytes) {
			continue
		}
		_, fleet := ev.Nodes[fl.Peer]
		total := 0.0
		for _, p := range byNode[fl.Node] {
			if fl.MinuteMs+minuteMs > p.start && fl.MinuteMs < p.end {
				total += p.gpus
			}
		}
		for _, p := range byNode[fl.Node] {
			if fl.MinuteMs+minuteMs <= p.start || fl.MinuteMs >= p.end {
				continue
			}
			s := &stats[p.ep]
			share := fl.TxBytes * p.gpus / total
			s.Measured = true
			switch {
			case nodes[p.ep][fl.Peer]:
				s.InsideBytes += share
			case fleet:
				s.OtherBytes += share
			default:
				s.OutsideBytes += share
				if peers[p.ep] == nil {
					peers[p.ep] = map[string]bool{}
				}
				if !peers[p.ep][fl.Peer] {
					peers[p.ep][fl.Peer] = true
					s.OutsidePeers++
				}
			}
		}
	}
	return flowIndex{stats}
}
