package workload

import (
	"cmp"
	"math"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/parallel"
	"github.com/flopwatch/flopwatch/detector/run"
)

const (
	// sideMin is how many minutes before and after a moment are compared.
	sideMin = 20
	// settleMin more have to be seen before a cut is placed, so that it stays where it is.
	settleMin = 10
	// changed is how far apart the two sides lie at least, in units of what either does by
	// itself.
	changed = 3.0
	// sureSide is how likely each side's kind of work has to be.
	sureSide = 0.4
)

// Split cuts episodes where what their GPUs do changes for good although they are never
// released: a server that gives way to a training in the same container. Pauses,
// evaluations, checkpoints, phases of reinforcement learning and daily waves cut nothing:
// both sides have to hold for a while, differ in kind and not come back in turns. A cut
// rests on the half hour around it alone, so it stays as evidence grows.
func Split(ev *feature.Evidence, eps []run.Episode) []run.Episode {
	var out []run.Episode
	cut := false
	all := make([][]run.Episode, len(eps))
	parallel.Each(len(eps), func(i int) { all[i] = split(ev, &eps[i]) })
	for i, parts := range all {
		if len(parts) > 1 && !cut {
			cut = true
			out = append(make([]run.Episode, 0, len(eps)+1), eps[:i]...)
		}
		if cut {
			out = append(out, parts...)
		}
	}
	if !cut {
		return eps
	}
	slices.SortStableFunc(out, func(a, b run.Episode) int {
		x, y := first(a.Members), first(b.Members)
		return cmp.Or(cmp.Compare(x.StartMs, y.StartMs), cmp.Compare(x.Node, y.Node), cmp.Compare(x.GPU, y.GPU))
	})
	return out
}

// first is the earliest member.
func first(members []run.Member) run.Member {
	m := members[0]
	for _, x := range members[1:] {
		if x.StartMs < m.StartMs {
			m = x
		}
	}
	return m
}

func split(ev *feature.Evidence, ep *run.Episode) []run.Episode {
	if ep.Basis != run.BasisGPU || ep.EndMs-ep.StartMs < (2*sideMin+settleMin)*minuteMs {
		return []run.Episode{*ep}
	}
	at := turns(ev, ep)
	if len(at) == 0 || len(at) > 3 { // what turns again and again has phases
		return []run.Episode{*ep}
	}
	var parts []run.Episode
	rest := *ep
	for i, ms := range at {
		end := rest.EndMs
		if i+1 < len(at) {
			end = at[i+1]
		}
		left, right := clipped(ev, &rest, rest.StartMs, ms), clipped(ev, &rest, ms, end)
		if left == nil || right == nil || !differ(Classify(ev, *left), Classify(ev, *right)) {
			continue
		}
		after := clipped(ev, &rest, ms, rest.EndMs)
		parts = append(parts, *left)
		rest = *after
	}
	return append(parts, rest)
}

// kinds of work between which a change is one of activities.
var kinds = [][]string{{Training, Finetuning, RL}, {Inference, BatchInference}, {HPC}, {Rendering}, {Mining}, {BurnIn}}

// differ reports that two verdicts name different kinds of work, each with some certainty.
func differ(a, b Verdict) bool {
	x, px := kindOf(a)
	y, py := kindOf(b)
	return x >= 0 && y >= 0 && x != y && px >= sureSide && py >= sureSide
}

func kindOf(v Verdict) (kind int, p float64) {
	kind = -1
	for k, classes := range kinds {
		sum := 0.0
		for _, c := range classes {
			sum += v.Probs[c]
		}
		if sum > p {
			kind, p = k, sum
		}
	}
	return kind, p
}

// lookAt are what the sides of a moment are compared by, each with how much it moves by
// itself at most: ratios where there is one, so that more or less load is no change.
const (
	byReuse = iota // memory traffic for tensor work, log
	byTensor
	byFP32  // for tensor work, log
	byLinks // NVLink for work, log
	byDouble
	byPower
	lookAts
)

var moves = [lookAts]float64{byReuse: 0.25, byTensor: 0.05, byFP32: 0.5, byLinks: 0.7, byDouble: 0.02, byPower: 0.06}

// turns finds the moments at which the work changed.
func turns(ev *feature.Evidence, ep *run.Episode) []int64 {
	from := feature.MinuteOf(ep.StartMs)
	n := int((ep.EndMs - from) / minuteMs)
	var rows [lookAts][]mean
	for k := range rows {
		rows[k] = make([]mean, n)
	}
	seen := 0
	for _, m := range ep.Members {
		cells := window(ev.Cells(feature.GPUKey{Node: m.Node, GPU: m.GPU}), m)
		if len(cells) == 0 {
			continue
		}
		if seen++; seen > maxSeries {
			break
		}
		w := boardW(ev, m.Node)
		for i := range cells {
			c := &cells[i]
			if busy, _, belied := busyCell(c, w); !busy || belied {
				continue
			}
			v := look(c, w)
			for ms := c.MinuteMs; ms < c.EndMs(); ms += minuteMs {
				if at := int((ms - from) / minuteMs); at >= 0 && at < n {
					for k := range rows {
						rows[k][at].add(v[k])
					}
				}
			}
		}
	}
	score := make([]float64, n)
	for at := sideMin; at+sideMin <= n; at++ {
		sum := 0.0
		for k := range rows {
			l, lSD, lOK := side(rows[k][at-sideMin : at])
			r, rSD, rOK := side(rows[k][at : at+sideMin])
			if lOK && rOK {
				d := (l - r) / math.Max(moves[k], math.Max(lSD, rSD))
				sum += math.Min(d*d, 36)
			}
		}
		score[at] = math.Sqrt(sum)
	}
	var out []int64
	for at := range score {
		if score[at] < changed || at+sideMin+settleMin > n {
			continue
		}
		top := true
		for i := max(0, at-settleMin); i <= min(n-1, at+settleMin); i++ {
			if score[i] > score[at] || (score[i] == score[at] && i < at) {
				top = false
			}
		}
		if top {
			ms := from + int64(at)*minuteMs
			if last := len(out) - 1; last >= 0 && ms-out[last] < (sideMin+settleMin)*minuteMs {
				out = out[:last] // there and back
				continue
			}
			out = append(out, ms)
		}
	}
	return out
}

func look(c *feature.GPUCell, tdp float64) [lookAts]float64 {
	var v [lookAts]float64
	tensor := c.Get(feature.TensorFrac)
	work := math.NaN()
	if tensor > 0.01 {
		work = tensor
	}
	v[byReuse] = math.Log((c.Get(feature.DRAMFrac) + 0.01) / work)
	v[byTensor] = tensor
	v[byFP32] = math.Log((c.Get(feature.FP32Frac) + 0.002) / work)
	load := c.Get(feature.UtilFrac)
	if !(load > 0.05) {
		load = math.NaN()
	}
	v[byLinks] = math.Log((c.Get(feature.NVLinkTxBps) + 30e6) / load)
	v[byDouble] = addKnown(c.Get(feature.FP64Frac), c.Get(feature.DFMAFrac))
	v[byPower] = c.Get(feature.PowerW) / tdp
	return v
}

// side is the median of a feature on one side of a moment and its spread (between the quintiles, so that two states on one side count as spread); false where too
// little was seen.
func side(rows []mean) (mid, sd float64, ok bool) {
	v := make([]float64, 0, len(rows))
	for i := range rows {
		if x := rows[i].value(); !math.IsNaN(x) {
			v = append(v, x)
		}
	}
	if 2*len(v) < len(rows) {
		return 0, 0, false
	}
	slices.Sort(v)
	return v[len(v)/2], v[len(v)*4/5] - v[len(v)/5], true
}

// clipped is an episode within an interval; nil where none of its GPUs worked there.
func clipped(ev *feature.Evidence, ep *run.Episode, from, to int64) *run.Episode {
	e := *ep
	e.Members = nil
	for _, m := range ep.Members {
		m.StartMs, m.EndMs = max(m.StartMs, from), min(m.EndMs, to)
		if m.EndMs > m.StartMs {
			e.Members = append(e.Members, m)
		}
	}
	if len(e.Members) == 0 {
		return nil
	}
	e.StartMs, e.EndMs = e.Members[0].StartMs, e.Members[0].EndMs
	for _, m := range e.Members {
		e.StartMs, e.EndMs = min(e.StartMs, m.StartMs), max(e.EndMs, m.EndMs)
	}
	e.Open = ep.Open && to >= ep.EndMs
	if len(ep.Comm) > 0 {
		e.Comm, e.Comms, e.NRanks = commOf(ev, &e)
	}
	whole, part := flowOf(ev, ep), flowOf(ev, &e)
	e.Flow.OutsidePeers = min(ep.Flow.OutsidePeers, part.OutsidePeers)
	e.Flow.InsideBytes *= portion(part.InsideBytes, whole.InsideBytes)
	e.Flow.OtherBytes *= portion(part.OtherBytes, whole.OtherBytes)
	e.Flow.OutsideBytes *= portion(part.OutsideBytes, whole.OutsideBytes)
	if len(ep.Procs) > 0 {
		procsOf(ev, &e)
	}
	return &e
}

func portion(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return part / whole
}

// commOf sums the collective calls of an episode's GPUs while they are its members.
func commOf(ev *feature.Evidence, ep *run.Episode) (stats []run.CommStat, comms []string, nranks int) {
	gpus := map[feature.GPUKey]bool{}
	for _, m := range ep.Members {
		gpus[feature.GPUKey{Node: m.Node, GPU: m.GPU}] = true
	}
	type key struct {
		op     string
		nranks int
	}
	type user struct {
		key
		who string
		gpu feature.GPUKey
	}
	at := map[key]int{}
	seen := map[user]bool{}
	lo := sort.Search(len(ev.Comm), func(i int) bool { return ev.Comm[i].MinuteMs >= ep.StartMs-minuteMs })
	for i := lo; i < len(ev.Comm) && ev.Comm[i].MinuteMs < ep.EndMs; i++ {
		c := &ev.Comm[i]
		g := feature.GPUKey{Node: c.Node, GPU: c.GPU}
		if !gpus[g] || !slices.Contains(ep.Comms, c.Comm) {
			continue
		}
		k := key{c.Op, c.NRanks}
		n, ok := at[k]
		if !ok {
			n = len(stats)
			at[k] = n
			stats = append(stats, run.CommStat{Op: c.Op, NRanks: c.NRanks, FirstMs: c.MinuteMs})
		}
		s := &stats[n]
		if !math.IsNaN(c.Calls) && !math.IsNaN(c.Bytes) {
			s.Calls += c.Calls
			s.Bytes += c.Bytes
		}
		s.LastMs = c.MinuteMs + minuteMs
		if u := (user{key: k, gpu: g}); !seen[u] {
			seen[u] = true
			s.GPUs++
		}
		if u := (user{key: k, who: c.Comm}); !seen[u] {
			seen[u] = true
			s.Comms++
		}
		if !slices.Contains(comms, c.Comm) {
			comms = append(comms, c.Comm)
		}
		nranks = max(nranks, c.NRanks)
	}
	slices.Sort(comms)
	slices.SortFunc(stats, func(a, b run.CommStat) int {
		return cmp.Or(cmp.Compare(a.Op, b.Op), cmp.Compare(a.NRanks, b.NRanks))
	})
	return stats, comms, nranks
}

// flowOf sums the traffic of an episode's nodes while it ran, whoever else uses them.
func flowOf(ev *feature.Evidence, ep *run.Episode) run.FlowStat {
	var f run.FlowStat
	nodes := ep.Nodes()
	peers := map[string]bool{}
	lo := sort.Search(len(ev.Flows), func(i int) bool { return ev.Flows[i].MinuteMs >= ep.StartMs })
	for i := lo; i < len(ev.Flows) && ev.Flows[i].MinuteMs < ep.EndMs; i++ {
		x := &ev.Flows[i]
		if _, own := slices.BinarySearch(nodes, x.Node); !own {
			continue
		}
		_, inside := slices.BinarySearch(nodes, x.Peer)
		switch _, known := ev.Nodes[x.Peer]; {
		case inside:
			f.InsideBytes += x.TxBytes
		case known:
			f.OtherBytes += x.TxBytes
		default:
			f.OutsideBytes += x.TxBytes
			peers[x.Peer] = true
		}
	}
	f.OutsidePeers = len(peers)
	return f
}

// procsOf keeps the processes that ran in the episode's time, and what they declare.
func procsOf(ev *feature.Evidence, ep *run.Episode) {
	ran := map[run.ProcRef]*feature.Process{}
	for i := range ev.Processes {
		p := &ev.Processes[i]
		if p.StartMs < ep.EndMs-2*minuteMs && (p.EndMs == 0 || p.EndMs > ep.StartMs+2*minuteMs) {
			ran[run.ProcRef{Node: p.Node, PID: p.PID}] = p
		}
	}
	var procs []run.ProcRef
	var exes, launchers []string
	for _, r := range ep.Procs {
		p := ran[r]
		if p == nil {
			continue
		}
		procs = append(procs, r)
		if p.Exe != "" {
			exes = append(exes, p.Exe)
		}
		if p.Launcher != "" {
			launchers = append(launchers, p.Launcher)
		}
	}
	slices.Sort(exes)
	slices.Sort(launchers)
	ep.Procs, ep.Exes, ep.Launchers = procs, slices.Compact(exes), slices.Compact(launchers)
}
