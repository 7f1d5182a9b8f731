package run

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// commSum is one communicator's operation on one stretch.
type commSum struct {
	comm, op        string
	nranks          int
	calls, bytes    float64
	firstMs, lastMs int64
}

// graph joins stretches by union-find and keeps each link that joined or confirmed.
type graph struct {
	parent []int
	links  []edge
}

type edge struct {
	a, b int
	Link
}

func newGraph(n int) *graph {
	g := &graph{parent: make([]int, n)}
	for i := range g.parent {
		g.parent[i] = i
	}
	return g
}

func (g *graph) find(i int) int {
	for g.parent[i] != i {
		g.parent[i] = g.parent[g.parent[i]]
		i = g.parent[i]
	}
	return i
}

// join unites two stretches. The smaller index, which is the earlier stretch, leads.
func (g *graph) join(a, b int, kind string, weight float64, reason func() string) {
	x, y := g.find(a), g.find(b)
	if x == y {
		return
	}
	if y < x {
		x, y = y, x
	}
	g.parent[y] = x
	g.links = append(g.links, edge{a, b, Link{kind, weight, reason()}})
}

func overlapMs(a, b *stretch) int64 { return min(a.end, b.end) - max(a.start, b.start) }

// byGPU lists the stretches of each GPU in order of start.
func byGPU(st []stretch) map[feature.GPUKey][]int {
	m := map[feature.GPUKey][]int{}
	for i := range st {
		k := feature.GPUKey{Node: st[i].node, GPU: st[i].gpu}
		m[k] = append(m[k], i)
	}
	return m
}

func inUse(b Basis) bool { return b == BasisGPU || b == BasisPower }

// joinComms credits collective calls to stretches and joins the ranks of a communicator.
func joinComms(ev *feature.Evidence, st []stretch, at map[feature.GPUKey][]int, g *graph) {
	type source struct {
		node     string
		pid, gpu int
		comm, op string
	}
	type slot struct{ stretch, sum int }
	type process struct {
		node string
		pid  int
	}
	ofProcess := map[process][]int{}
	for i := range st {
		for _, p := range st[i].procs {
			k := process{st[i].node, ev.Processes[p].PID}
			ofProcess[k] = append(ofProcess[k], i)
		}
	}
	seen := map[source]slot{}
	first := map[string][]int{} // communicator: stretches, in order of sight
	for i := range ev.Comm {
		c := &ev.Comm[i]
		key := source{c.Node, c.PID, c.GPU, c.Comm, c.Op}
		sl, ok := seen[key]
		if !ok || c.MinuteMs > st[sl.stretch].end+3*minuteMs {
			list := at[feature.GPUKey{Node: c.Node, GPU: c.GPU}]
			if len(list) == 0 { // the row names no GPU, or one that is not known
				list = ofProcess[process{c.Node, c.PID}]
			}
			j := locate(ev, st, list, c.PID, c.MinuteMs)
			if j < 0 {
				continue
			}
			st[j].comm = append(st[j].comm, commSum{comm: c.Comm, op: c.Op, nranks: c.NRanks, firstMs: c.MinuteMs})
			sl = slot{j, len(st[j].comm) - 1}
			seen[key] = sl
			if !slices.Contains(first[c.Comm], j) {
				first[c.Comm] = append(first[c.Comm], j)
			}
		}
		sum := &st[sl.stretch].comm[sl.sum]
		if !math.IsNaN(c.Calls) && !math.IsNaN(c.Bytes) {
			sum.calls += c.Calls
			sum.bytes += c.Bytes
		}
		sum.lastMs = c.MinuteMs + minuteMs
		sum.nranks = max(sum.nranks, c.NRanks)
	}
	for _, name := range sortedKeys(first) {
		list := first[name]
		if name == "" {
			continue
		}
		for _, j := range list[1:] {
			if overlapMs(&st[list[0]], &st[j]) > -pauseMs {
				g.join(list[0], j, "comm", 0.98, func() string {
					return fmt.Sprintf("%s GPU %d and %s GPU %d are ranks of communicator %s", st[list[0]].node, st[list[0]].gpu, st[j].node, st[j].gpu, name)
				})
			}
		}
	}
}

// locate finds the stretch of a GPU to which a row of a process belongs: that of the
// process, else any in use at the time. -1: none.
func locate(ev *feature.Evidence, st []stretch, list []int, pid int, ms int64) int {
	best := -1
	for _, j := range list {
		s := &st[j]
		if !inUse(s.basis) || ms+minuteMs < s.start-3*minuteMs || ms > s.end+3*minuteMs {
			continue
		}
		for _, p := range s.procs {
			if ev.Processes[p].PID == pid {
				return j
			}
		}
		if best < 0 || (ms >= s.start && ms < s.end && !(ms >= st[best].start && ms < st[best].end)) {
			best = j
		}
	}
	return best
}

// joinProcesses joins GPUs that one process uses, one job names, or one world of ranks.
func joinProcesses(ev *feature.Evidence, st []stretch, g *graph) {
	byProc := map[int]int{}
	jobs := map[string][]int{}
	worlds := map[string][]int{}
	for i := range st {
		for _, p := range st[i].procs {
			if j, ok := byProc[p]; ok {
				g.join(j, i, "process", 0.95, func() string {
					return fmt.Sprintf("process %d of %s uses GPUs %d and %d", ev.Processes[p].PID, st[i].node, st[j].gpu, st[i].gpu)
				})
			} else {
				byProc[p] = i
			}
		}
		if st[i].jobKey != "" {
			jobs[st[i].jobKey] = append(jobs[st[i].jobKey], i)
		}
		if len(st[i].procs) > 0 {
			if p := &ev.Processes[st[i].procs[0]]; p.WorldSize > 1 && p.JobID == "" {
				k := p.User + "\x00" + p.Project + "\x00" + p.Exe + "\x00" + p.Launcher + "\x00" + strconv.Itoa(p.WorldSize)
				worlds[k] = append(worlds[k], i)
			}
		}
	}
	for _, k := range sortedKeys(jobs) {
		last, end := -1, int64(0)
		for _, i := range jobs[k] {
			if last >= 0 && st[i].start < end {
				g.join(last, i, "job", 0.9, func() string {
					return fmt.Sprintf("%s and %s run job %s at the same time", st[last].node, st[i].node, ev.Processes[st[i].procs[0]].JobID)
				})
			}
			if last < 0 || st[i].end > end {
				last, end = i, st[i].end
			}
		}
	}
	for _, k := range sortedKeys(worlds) {
		list := worlds[k]
		for n := 1; n < len(list); n++ {
			a, b := list[n-1], list[n]
			p, q := &ev.Processes[st[a].procs[0]], &ev.Processes[st[b].procs[0]]
			if st[b].start-st[a].start <= 2*minuteMs && (p.Rank < 0 || p.Rank != q.Rank) {
				g.join(a, b, "world", 0.8, func() string {
					return fmt.Sprintf("ranks of a world of %d started together on %s and %s", p.WorldSize, st[a].node, st[b].node)
				})
			}
		}
	}
}

// joinRest joins the idle or unseen GPUs of one rental on one node.
func joinRest(st []stretch, g *graph) {
	last := map[string]int{}
	for i := range st {
		s := &st[i]
		if inUse(s.basis) || len(s.accounts) == 0 {
			continue
		}
		k := s.node + "\x00" + s.accounts[0] + "\x00" + strconv.Itoa(int(s.basis))
		if j, ok := last[k]; ok && s.start-st[j].start <= 2*minuteMs && absMs(s.end-st[j].end) <= 2*minuteMs {
			g.join(j, i, "allocation", 0.6, func() string { return "rented together by " + s.accounts[0] + " on " + s.node })
		}
		last[k] = i
	}
}

func absMs(d int64) int64 {
	if d < 0 {
		return -d
	}
	return d
}

// Episodes groups the fleet in space: which GPUs worked together for one uninterrupted
// stretch. They are sorted by start, node and GPU of their earliest member.
func Episodes(ev *feature.Evidence) []Episode {
	st := segment(ev)
	g := newGraph(len(st))
	at := byGPU(st)
	joinComms(ev, st, at, g)
	joinProcesses(ev, st, g)
	maybe := joinSync(ev, st, g)
	joinRest(st, g)
	return collect(ev, st, at, g, maybe)
}

// collect makes episodes of the graph's components.
func collect(ev *feature.Evidence, st []stretch, at map[feature.GPUKey][]int, g *graph, maybe []beside) []Episode {
	index := map[int]int{}
	var parts [][]int
	for i := range st {
		r := g.find(i)
		n, ok := index[r]
		if !ok {
			n = len(parts)
			index[r] = n
			parts = append(parts, nil)
		}
		parts[n] = append(parts[n], i)
	}
	eps := make([]Episode, len(parts))
	for n, list := range parts {
		eps[n] = episode(ev, st, list)
	}
	for _, e := range g.links {
		ep := &eps[index[g.find(e.a)]]
		if len(ep.Links) < maxLinks {
			ep.Links = append(ep.Links, e.Link)
		}
	}
	for _, m := range maybe {
		a, b := index[g.find(m.a)], index[g.find(m.b)]
		if a == b {
			continue
		}
		addBeside(&eps[a], firstOf(eps[b].Members), m)
		addBeside(&eps[b], firstOf(eps[a].Members), m)
	}
	markShared(st, at, g, index, eps)
	flows := newFlowIndex(ev, eps)
	for i := range eps {
		eps[i].Flow = flows.of(i)
	}
	slices.SortStableFunc(eps, func(a, b Episode) int { return compareFirst(firstOf(a.Members), firstOf(b.Members)) })
	return eps
}

// addBeside notes that an episode may be one with another that runs beside it.
func addBeside(e *Episode, other Member, m beside) {
	for i := range e.Beside {
		if e.Beside[i].Member == other {
			e.Beside[i].Weight = max(e.Beside[i].Weight, m.weight)
			return
		}
	}
	if len(e.Beside) < maxAlternatives {
		e.Beside = append(e.Beside, Beside{other, m.weight, m.reason})
	}
}

// maxLinks bounds the reasons kept for one episode.
const maxLinks = 64

func markShared(st []stretch, at map[feature.GPUKey][]int, g *graph, index map[int]int, eps []Episode) {
	for i := range st {
		if !inUse(st[i].basis) {
			continue
		}
		for _, j := range at[feature.GPUKey{Node: st[i].node, GPU: st[i].gpu}] {
			if j != i && inUse(st[j].basis) && g.find(i) != g.find(j) && overlapMs(&st[i], &st[j]) > 2*minuteMs {
				eps[index[g.find(i)]].Shared = true
			}
		}
	}
}

func episode(ev *feature.Evidence, st []stretch, list []int) Episode {
	var e Episode
	comms := map[string]bool{}
	type commKey struct {
		op     string
		nranks int
	}
	stats := map[commKey]*CommStat{}
	statComms := map[commKey]map[string]bool{}
	procs := map[int]bool{}
	for _, i := range list {
		s := &st[i]
		e.Members = append(e.Members, Member{s.node, s.gpu, s.start, s.end})
		e.Open = e.Open || s.open
		e.Basis = max(e.Basis, s.basis)
		for _, a := range s.accounts {
			e.Accounts = addTo(e.Accounts, a)
		}
		for _, p := range s.procs {
			if procs[p] {
				continue
			}
			procs[p] = true
			pr := &ev.Processes[p]
			e.Exes = addTo(e.Exes, pr.Exe)
			e.Launchers = addTo(e.Launchers, pr.Launcher)
			e.JobIDs = addTo(e.JobIDs, jobID(pr))
			e.Users = addTo(e.Users, pr.User)
			e.WorldSize = max(e.WorldSize, pr.WorldSize)
			e.Procs = append(e.Procs, ProcRef{pr.Node, pr.PID})
		}
		gpuOps := map[commKey]bool{}
		for _, c := range s.comm {
			comms[c.comm] = true
			e.NRanks = max(e.NRanks, c.nranks)
			k := commKey{c.op, c.nranks}
			cs := stats[k]
			if cs == nil {
				cs = &CommStat{Op: c.op, NRanks: c.nranks, FirstMs: c.firstMs}
				stats[k] = cs
				statComms[k] = map[string]bool{}
			}
			cs.Calls += c.calls
			cs.Bytes += c.bytes
			cs.FirstMs = min(cs.FirstMs, c.firstMs)
			cs.LastMs = max(cs.LastMs, c.lastMs)
			if !gpuOps[k] {
				gpuOps[k] = true
				cs.GPUs++
			}
			if !statComms[k][c.comm] {
				statComms[k][c.comm] = true
				cs.Comms++
			}
		}
	}
	slices.SortFunc(e.Members, compareMember)
	e.StartMs, e.EndMs = e.Members[0].StartMs, e.Members[0].EndMs
	for _, m := range e.Members {
		e.StartMs, e.EndMs = min(e.StartMs, m.StartMs), max(e.EndMs, m.EndMs)
	}
	e.Comms = sortedKeys(comms)
	for _, cs := range stats {
		e.Comm = append(e.Comm, *cs)
	}
	slices.SortFunc(e.Comm, func(a, b CommStat) int {
		return cmp.Or(cmp.Compare(a.Op, b.Op), cmp.Compare(a.NRanks, b.NRanks))
	})
	slices.SortFunc(e.Procs, func(a, b ProcRef) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.PID, b.PID)) })
	return e
}

func compareMember(a, b Member) int {
	return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU), cmp.Compare(a.StartMs, b.StartMs), cmp.Compare(a.EndMs, b.EndMs))
}

// addTo keeps a sorted set of strings that are not empty.
func addTo(set []string, v string) []string {
	if v == "" {
		return set
	}
	i, ok := slices.BinarySearch(set, v)
	if ok {
		return set
	}
	return slices.Insert(set, i, v)
}
