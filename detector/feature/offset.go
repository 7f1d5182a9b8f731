package feature

import (
	"cmp"
	"math"
	"slices"
	"sort"
)

// Offset is how far a host's clock is from those of the hosts that it works with.
type Offset struct {
	Ms    float64 // by which it is ahead of them: its times less this are theirs; 0 where that cannot be told
	SDMs  float64 // of Ms, where it is known
	Known bool
	Group string // hosts of one group are compared with each other; "": none
}

const (
	offsetSpan  = 6 * 60 // minutes that are looked at
	offsetMost  = 5      // minutes that a clock may be off by, to either side
	offsetLeast = 0.6    // correlation that two hosts have at their offset
	offsetApart = 0.25   // by which it is less at others
	eventsLeast = 3      // falls and rises that both have
)

// Offsets estimates how far clocks are off from when loads start, stop and stall, of hosts that say they work together
// (flows, communicators, jobs), and of hosts that one account rents, if these have it all in common. Where that gives no
// one answer, as with a load that is level, or that stalls every other minute, an offset is not known. It looks at the
// last six hours.
func Offsets(ev *Evidence) map[string]Offset {
	e := offsets{ev: ev, from: MinuteOf(ev.EndMs) - offsetSpan*MinuteMs, levels: map[string][]float64{}, every: map[string]float64{}, gpus: map[string][]int{}}
	for k := range ev.GPU { // sorted below
		e.gpus[k.Node] = append(e.gpus[k.Node], k.GPU)
	}
	for _, g := range e.gpus {
		slices.Sort(g)
	}
	edges := e.edges()
	return solve(edges)
}

type offsets struct {
	ev     *Evidence
	from   int64
	gpus   map[string][]int
	levels map[string][]float64 // by minute; nil: nothing moves
	every  map[string]float64   // time between a host's samples
}

// edge is two hosts, a before b in their names, and by how much a's clock is ahead of b's.
type edge struct {
	a, b   string
	ms, sd float64
}

// moves is how a host's load changes from minute to minute, in parts of its spread, within 1 of 0; NaN: not measured.
func (e *offsets) moves(node string) []float64 {
	if m, ok := e.levels[node]; ok {
		return m
	}
	level := make([]float64, offsetSpan+1)
	count := make([]int, len(level))
	add := func(ms, endMs int64, v float64) {
		if math.IsNaN(v) || math.IsInf(v, 0) || ms < e.from {
			return
		}
		for ; ms < endMs; ms += MinuteMs {
			if at := int((ms - e.from) / MinuteMs); at < len(level) {
				level[at] += v
				count[at]++
			}
		}
	}
	some := e.gpus[node]
	for _, g := range some[:min(len(some), 2)] {
		cells := e.ev.GPU[GPUKey{node, g}]
		i := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs >= e.from })
		for of := gpuLoad(cells[i:]); i < len(cells); i++ {
			if n := int64(cells[i].Samples); n > 0 {
				e.every[node] = max(float64(cells[i].EndMs()-cells[i].MinuteMs)/float64(n), 0.9*e.every[node])
			}
			add(cells[i].MinuteMs, cells[i].EndMs(), cells[i].Get(of))
		}
	}
	if len(some) == 0 {
		for i := range e.ev.Host[node] {
			if c := &e.ev.Host[node][i]; c.PowerCoverMs > 0 {
				add(c.MinuteMs, c.EndMs(), c.PowerW)
			}
		}
	}
	least, most := math.Inf(1), math.Inf(-1)
	for i, n := range count {
		if n == 0 {
			level[i] = math.NaN()
			continue
		}
		level[i] /= float64(n)
		least, most = min(least, level[i]), max(most, level[i])
	}
	var out []float64
	if most > least {
		out = make([]float64, len(level))
		out[0] = math.NaN()
		events := 0
		for i := 1; i < len(level); i++ {
			out[i] = (level[i] - level[i-1]) / (most - least)
			if math.Abs(out[i]) < eventDepth {
				out[i] = 0 // what a load does all the time says nothing of clocks
			} else if !math.IsNaN(out[i]) {
				events++
			}
		}
		if events < eventsLeast {
			out = nil
		}
	}
	e.levels[node] = out
	return out
}

// eventDepth is what part of its range a load starts, stops or stalls by.
const eventDepth = 0.15

// gpuLoad is the signal that tells the load of cells.
func gpuLoad(cells []GPUCell) Signal {
	for _, s := range [...]Signal{SMActiveFrac, UtilFrac} {
		n := 0
		for i := range cells {
			if cells[i].Has(s) {
				n++
			}
		}
		if n > 0 && 10*n >= 9*len(cells) {
			return s
		}
	}
	return PowerW
}

// edges compares hosts of a group with the one that moves most, and with their neighbours.
func (e *offsets) edges() []edge {
	var out []edge
	done := map[[2]string]bool{}
	add := func(a, b string, certain bool) {
		if a > b {
			a, b = b, a
		}
		if a == b || done[[2]string{a, b}] {
			return
		}
		done[[2]string{a, b}] = true
		if ms, sd, ok := lagOf(e.moves(a), e.moves(b), certain); ok {
			// Where between two samples an event lies is the same for all events.
			out = append(out, edge{a, b, ms, math.Hypot(sd, 0.4*max(e.every[a], e.every[b]))})
		}
	}
	for _, g := range e.groups() {
		lead, most := "", 0
		for _, n := range g.nodes {
			events := 0
			for _, v := range e.moves(n) {
				if v != 0 && !math.IsNaN(v) {
					events++
				}
			}
			if events > most {
				lead, most = n, events
			}
		}
		if lead == "" {
			continue
		}
		for i, n := range g.nodes {
			add(lead, n, g.certain)
			if i > 0 {
				add(g.nodes[i-1], n, g.certain)
			}
		}
	}
	slices.SortFunc(out, func(x, y edge) int { return cmp.Or(cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b)) })
	return out
}

// company is hosts that may work together.
type company struct {
	name    string
	nodes   []string
	certain bool // they say so
}

func (e *offsets) groups() []company {
	type key struct {
		kind, name string
	}
	by := map[key]map[string]bool{}
	add := func(kind, name, node string) {
		k := key{kind, name}
		if by[k] == nil {
			by[k] = map[string]bool{}
		}
		by[k][node] = true
	}
	for i := range e.ev.Comm {
		if c := &e.ev.Comm[i]; c.MinuteMs >= e.from {
			add("comm", c.Comm, c.Node)
		}
	}
	for i := range e.ev.Flows {
		c := &e.ev.Flows[i]
		if _, known := e.ev.Nodes[c.Peer]; known && c.MinuteMs >= e.from && c.TxBytes > flowBytes {
			pair := [2]string{min(c.Node, c.Peer), max(c.Node, c.Peer)}
			add("flow", pair[0]+"\x00"+pair[1], c.Node)
			add("flow", pair[0]+"\x00"+pair[1], c.Peer)
		}
	}
	for i := range e.ev.Processes {
		if p := &e.ev.Processes[i]; p.JobID != "" && (p.EndMs == 0 || p.EndMs >= e.from) {
			add("job", p.JobSource+"\x00"+p.JobID, p.Node)
		}
	}
	rented := map[string]bool{}
	for i := range e.ev.Allocations {
		if a := &e.ev.Allocations[i]; a.EndMs == 0 || a.EndMs >= e.from {
			add("rent", a.Account, a.Node)
			rented[a.Node] = true
		}
	}
	for n := range e.gpus { // a set
		if !rented[n] {
			add("rent", "", n)
		}
	}
	out := make([]company, 0, len(by))
	for k, nodes := range by { // sorted below
		if len(nodes) < 2 {
			continue
		}
		c := company{name: k.kind + "\x00" + k.name, certain: k.kind != "rent"}
		for n := range nodes {
			c.nodes = append(c.nodes, n)
		}
		slices.Sort(c.nodes)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b company) int { return cmp.Compare(a.name, b.name) })
	return out
}

// flowBytes in a minute are more than what hosts say to each other without working together.
const flowBytes = 1e9

// lagOf is by how much the clock of a is ahead of that of b. Hosts of which it is not certain that they work together
// have to have all events in common, and more of them.
func lagOf(a, b []float64, certain bool) (ms, sd float64, ok bool) {
	if a == nil || b == nil {
		return 0, 0, false
	}
	var r [2*offsetMost + 3]float64 // from offsetMost+1 minutes behind to as many ahead
	var shared [len(r)]int
	for k := range r {
		lag := k - offsetMost - 1
		var sab, saa, sbb float64
		for i := range b {
			j := i + lag
			if j < 0 || j >= len(a) || math.IsNaN(a[j]) || math.IsNaN(b[i]) {
				continue
			}
			sab, saa, sbb = sab+a[j]*b[i], saa+a[j]*a[j], sbb+b[i]*b[i]
			if a[j]*b[i] > 0 {
				shared[k]++
			}
		}
		if saa > 0 && sbb > 0 {
			r[k] = sab / math.Sqrt(saa*sbb)
		}
	}
	top := 1
	for k := 1; k < len(r)-1; k++ {
		if r[k] > r[top] {
			top = k
		}
	}
	least, events := offsetLeast, eventsLeast
	if !certain {
		least, events = 0.85, 2*eventsLeast
	}
	// An event in the middle of a minute is in two: what two neighbouring lags have is one.
	near := r[top]
	if side := max(r[top-1], r[top+1]); side > 0 {
		near = min(math.Hypot(r[top], side), 1)
	}
	if near < least || shared[top] < events {
		return 0, 0, false
	}
	for k := range r {
		if (k < top-2 || k > top+2) && r[k] > r[top]-offsetApart {
			return 0, 0, false
		}
	}
	// What the load does between two minutes is spread over both in proportion: so is the lag.
	lo, hi := max(r[top-1], 0), max(r[top+1], 0)
	shift := 0.0
	if r[top] > 0 {
		shift = (hi - lo) / (r[top] + math.Abs(hi-lo))
	}
	ms = (float64(top-offsetMost-1) + shift) * MinuteMs
	return ms, 25_000 / math.Sqrt(float64(shared[top])), true
}

// solve finds the offsets that agree best with all edges, group by group: the middle one of a group is 0.
func solve(edges []edge) map[string]Offset {
	near := map[string][]edge{}
	for _, e := range edges {
		near[e.a] = append(near[e.a], e)
		near[e.b] = append(near[e.b], edge{e.b, e.a, -e.ms, e.sd})
	}
	nodes := make([]string, 0, len(near))
	for n := range near {
		nodes = append(nodes, n)
	}
	slices.Sort(nodes)
	out := map[string]Offset{}
	for _, first := range nodes {
		if _, seen := out[first]; seen {
			continue
		}
		group := []string{first}
		at := map[string]float64{first: 0}
		for i := 0; i < len(group); i++ {
			for _, e := range near[group[i]] {
				if _, seen := at[e.b]; !seen {
					at[e.b] = at[group[i]] - e.ms
					group = append(group, e.b)
				}
			}
		}
		slices.Sort(group)
		for range 30 {
			for _, n := range group {
				sum, weight := 0.0, 0.0
				for _, e := range near[n] {
					w := 1 / (e.sd * e.sd)
					if off := math.Abs(at[e.b] + e.ms - at[n]); off > MinuteMs {
						w /= 100 // it contradicts the others
					}
					sum, weight = sum+w*(at[e.b]+e.ms), weight+w
				}
				at[n] = sum / weight
			}
		}
		all := make([]float64, 0, len(group))
		for _, n := range group {
			all = append(all, at[n])
		}
		slices.Sort(all)
		middle := (all[len(all)/2] + all[(len(all)-1)/2]) / 2
		for _, n := range group {
			sd := near[n][0].sd // hosts that are sampled alike err alike: more of them do not help
			for _, e := range near[n] {
				sd = min(sd, e.sd)
			}
			out[n] = Offset{Ms: math.Round(at[n] - middle), SDMs: math.Round(sd), Known: true, Group: first}
		}
	}
	return out
}
