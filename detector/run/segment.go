package run

import (
	"cmp"
	"math"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/parallel"
)

const (
	minuteMs = feature.MinuteMs
	// pauseMs is the pause that stays inside a stretch (BUNDLE.md).
	pauseMs = 15 * minuteMs
	// bridgeMs is the longest time without telemetry over which a GPU that held the same
	// memory before and after is taken to have gone on.
	bridgeMs = 60 * minuteMs
)

// stretch is one GPU in uninterrupted use.
type stretch struct {
	node       string
	gpu        int
	start, end int64
	open       bool
	basis      Basis
	procs      []int // indices into Evidence.Processes, sorted
	accounts   []string
	atStart    bool // in use when observation began: its start says nothing
	mem, power float64
	load       float64
	period     float64 // of the steps, where it is steady and no sampling folds it; 0: not known
	comm       []commSum
	jobKey     string   // declared program, empty: none
	edgeMs     [2]int64 // BasisPower: start and end, interpolated within their minutes
}

// tdpOf is the TDP of a node's GPUs in watts, 0 where it is not stated.
func tdpOf(n feature.Node) float64 {
	if n.TDPW > 0 && !math.IsNaN(n.TDPW) {
		return n.TDPW
	}
	return 0
}

// service names programs that watch GPUs and do not use them.
var service = []string{"Xorg", "dcgm-exporter", "nv-hostengine", "nvidia-persistenced", "nvidia-smi"}

// local are the sources of jobs whose names hold on one host only: the same unit runs on
// every host of a fleet.
var local = []string{"systemd", "docker", "podman", "containerd", "libvirt"}

// jobID names a process's job so that no other job has the name; "": it declares none.
func jobID(p *feature.Process) string {
	if p.JobID != "" && slices.Contains(local, p.JobSource) {
		return p.JobID + "@" + p.Node
	}
	return p.JobID
}

// jobKey names the program that a process declares to belong to.
func jobKey(p *feature.Process) string {
	if id := jobID(p); id != "" {
		return "job\x00" + p.JobSource + "\x00" + id + "\x00" + p.User
	}
	return ""
}

// programKey keeps processes of one program on a GPU together over short pauses.
func programKey(p *feature.Process) string {
	if k := jobKey(p); k != "" {
		return k
	}
	return "exe\x00" + p.Exe + "\x00" + p.User + "\x00" + p.Project
}

// segmenter holds what cutting needs.
type segmenter struct {
	ev    *feature.Evidence
	procs map[feature.GPUKey][]int
	alloc map[feature.GPUKey][]int
	keys  []feature.GPUKey // sorted
	rests *floors
	out   []stretch
}

func segment(ev *feature.Evidence) []stretch {
	s := &segmenter{ev: ev, procs: map[feature.GPUKey][]int{}, alloc: map[feature.GPUKey][]int{}, rests: newFloors(ev)}
	keys := map[feature.GPUKey]bool{}
	for _, k := range ev.GPUKeys() {
		keys[k] = true
	}
	for i := range ev.Processes {
		p := &ev.Processes[i]
		if slices.Contains(service, p.Exe) || p.StartMs > ev.EndMs {
			continue
		}
		for _, g := range p.GPUs {
			k := feature.GPUKey{Node: p.Node, GPU: g}
			s.procs[k] = append(s.procs[k], i)
			keys[k] = true
		}
	}
	for i := range ev.Allocations {
		a := &ev.Allocations[i]
		if a.StartMs > ev.EndMs {
			continue
		}
		for _, g := range a.GPUs {
			k := feature.GPUKey{Node: a.Node, GPU: g}
			s.alloc[k] = append(s.alloc[k], i)
			keys[k] = true
		}
	}
	gpuNodes := map[string]bool{}
	for _, k := range ev.GPUKeys() {
		gpuNodes[k.Node] = true
	}
	for i := range ev.Processes {
		gpuNodes[ev.Processes[i].Node] = true
	}
	for k := range keys {
		s.keys = append(s.keys, k)
	}
	for _, name := range sortedKeys(ev.Host) {
		if gpuNodes[name] {
			continue
		}
		if n := ev.Nodes[name]; n.GPUCount > 0 && len(s.keysOf(keys, name, n.GPUCount)) == 0 {
			for g := range n.GPUCount {
				s.keys = append(s.keys, feature.GPUKey{Node: name, GPU: g})
			}
		}
	}
	slices.SortFunc(s.keys, func(a, b feature.GPUKey) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU))
	})
	var nodes [][]feature.GPUKey
	for lo := 0; lo < len(s.keys); {
		hi := lo
		for hi < len(s.keys) && s.keys[hi].Node == s.keys[lo].Node {
			hi++
		}
		nodes = append(nodes, s.keys[lo:hi])
		lo = hi
	}
	found := make([][]stretch, len(nodes))
	parallel.Each(len(nodes), func(i int) {
		own := *s // all nodes read the same, and each finds its own
		own.out = nil
		own.host(nodes[i], gpuNodes[nodes[i][0].Node])
		found[i] = own.out
	})
	s.out = slices.Concat(found...)
	slices.SortStableFunc(s.out, func(a, b stretch) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.node, b.node), cmp.Compare(a.gpu, b.gpu), cmp.Compare(a.jobKey, b.jobKey))
	})
	return s.out
}

// host cuts the GPUs of one node.
func (s *segmenter) host(keys []feature.GPUKey, hasGPUs bool) {
	ev, node := s.ev, keys[0].Node
	if !hasGPUs && hasPower(ev.Host[node]) {
		s.powerNode(node, keys)
		return
	}
	spans, cells := make([][]span, len(keys)), make([][]feature.GPUCell, len(keys))
	for i, k := range keys {
		cells[i] = ev.Cells(k)
		spans[i] = heldSpans(cells[i], tdpOf(ev.Nodes[node]), s.rests.at(node))
	}
	evenOut(spans)
	for i, k := range keys {
		s.gpu(k, cells[i], spans[i])
	}
}

func (s *segmenter) keysOf(keys map[feature.GPUKey]bool, node string, count int) []int {
	var out []int
	for g := range max(count, 16) {
		if keys[feature.GPUKey{Node: node, GPU: g}] {
			out = append(out, g)
		}
	}
	return out
}

// gpu cuts one GPU with telemetry or processes, or a rental without either.
func (s *segmenter) gpu(k feature.GPUKey, cells []feature.GPUCell, spans []span) {
	ev := s.ev
	first := len(s.out)
	s.processStretches(k, cells, spans)
	declared := len(s.out)
	for _, sp := range spans {
		s.undeclared(k, cells, sp, s.out[first:declared])
	}
	for i := first; i < len(s.out); i++ {
		st := &s.out[i]
		st.accounts = s.accountsOf(k, st.start, st.end)
		s.levels(st, cells)
		st.atStart = st.start < firstSeen(cells, ev.StartMs)+minuteMs
	}
	s.rest(k, cells, first)
}

func firstSeen(cells []feature.GPUCell, startMs int64) int64 {
	if len(cells) == 0 {
		return startMs
	}
	return cells[0].MinuteMs
}

// processStretches makes a stretch of each program that declares the GPU. A process that
// claims to go on is believed until the GPU is seen released for longer than a pause.
func (s *segmenter) processStretches(k feature.GPUKey, cells []feature.GPUCell, spans []span) {
	ev := s.ev
	idx := slices.Clone(s.procs[k])
	slices.SortStableFunc(idx, func(a, b int) int {
		return cmp.Or(cmp.Compare(ev.Processes[a].StartMs, ev.Processes[b].StartMs), cmp.Compare(ev.Processes[a].PID, ev.Processes[b].PID))
	})
	latest := map[string]int{}
	for _, i := range idx {
		p := &ev.Processes[i]
		end, open := p.EndMs, false
		if end == 0 || end > ev.EndMs {
			end, open = ev.EndMs, true
			if n := len(cells); n > 0 && len(spans) > 0 {
				lastHeld, lastCell := spans[len(spans)-1].end, cells[n-1].EndMs()
				if lastHeld > p.StartMs && lastCell-lastHeld > pauseMs {
					end, open = lastHeld, false
				}
			}
		}
		if end < p.StartMs {
			continue
		}
		key := programKey(p)
		if j, ok := latest[key]; ok && p.StartMs-s.out[j].end < pauseMs && !s.another(&s.out[j], p, end, open) {
			st := &s.out[j]
			st.procs = append(st.procs, i)
			if end > st.end {
				st.end = end
			}
			st.open = st.open || open
			continue
		}
		latest[key] = len(s.out)
		s.out = append(s.out, stretch{node: k.Node, gpu: k.GPU, start: p.StartMs, end: end, open: open, basis: BasisGPU, procs: []int{i}, jobKey: jobKey(p)})
	}
}

// another reports that a process without a job id is likely another try, not the same
// one: both worked for longer than a program that starts anew for each piece of work. Join
// decides whether it goes on with the work.
func (s *segmenter) another(st *stretch, p *feature.Process, end int64, open bool) bool {
	if p.JobID != "" || p.StartMs <= st.end {
		return false
	}
	before := &s.ev.Processes[st.procs[len(st.procs)-1]]
	return st.end-before.StartMs >= tryMs && (open || end-p.StartMs >= tryMs)
}

// tryMs of work make a try of its own; frames and requests take less.
const tryMs = 10 * minuteMs

// undeclared adds the parts of a span that no declared program covers. Memory is freed
// and allocated some minutes around a process, so short remainders are no activity.
func (s *segmenter) undeclared(k feature.GPUKey, cells []feature.GPUCell, sp span, declared []stretch) {
	margin := int64(3 * minuteMs)
	if lo, hi := cellRange(cells, sp.start, sp.end); hi > lo {
		// A cell of a coarse cadence rests on the minutes before it too.
		last := &cells[hi-1]
		margin = max(margin, 2*minuteMs+slices.Max(last.CoverMs[:]))
	}
	parts := []span{sp}
	for i := range declared {
		d := &declared[i]
		var next []span
		for _, p := range parts {
			if d.end+margin <= p.start || d.start-margin >= p.end {
				next = append(next, p)
				continue
			}
			if d.start-margin > p.start {
				next = append(next, span{p.start, min(d.start, p.end)})
			}
			if d.end+margin < p.end {
				next = append(next, span{max(d.end, p.start), p.end})
			}
		}
		parts = next
	}
	for _, p := range parts {
		for _, q := range s.byAccount(k, p) {
			end, open := q.end, false
			if s.ev.EndMs-end <= 3*minuteMs || noCellAfter(cells, end, s.ev.EndMs) {
				open = true
			}
			if end > s.ev.EndMs {
				end = s.ev.EndMs
			}
			s.out = append(s.out, stretch{node: k.Node, gpu: k.GPU, start: q.start, end: end, open: open, basis: BasisGPU})
		}
	}
}

func noCellAfter(cells []feature.GPUCell, ms, endMs int64) bool {
	n := len(cells)
	return n > 0 && cells[n-1].MinuteMs < ms && endMs-ms < pauseMs
}

// byAccount cuts a span where its GPU passes from one account to another.
func (s *segmenter) byAccount(k feature.GPUKey, sp span) []span {
	out := []span{sp}
	prev := ""
	for _, i := range s.alloc[k] {
		a := &s.ev.Allocations[i]
		if prev != "" && a.Account != prev && a.StartMs > sp.start+2*minuteMs && a.StartMs < sp.end-2*minuteMs {
			last := &out[len(out)-1]
			if a.StartMs > last.start+2*minuteMs {
				out = append(out, span{a.StartMs, last.end})
				out[len(out)-2].end = a.StartMs
			}
		}
		prev = a.Account
	}
	return out
}

// accountsOf lists who rented the GPU for a good part of the interval, or for most of
// the rental.
func (s *segmenter) accountsOf(k feature.GPUKey, start, end int64) []string {
	var out []string
	for _, i := range s.alloc[k] {
		a := &s.ev.Allocations[i]
		aEnd := a.EndMs
		if aEnd == 0 || aEnd > s.ev.EndMs {
			aEnd = s.ev.EndMs
		}
		over := min(aEnd, end) - max(a.StartMs, start)
		if over > 0 && (over > 5*minuteMs || 2*over >= end-start) && !slices.Contains(out, a.Account) {
			out = append(out, a.Account)
		}
	}
	slices.Sort(out)
	return out
}

// levels sets the plateau of memory and the mean load after the first minutes.
func (s *segmenter) levels(st *stretch, cells []feature.GPUCell) {
	st.mem, st.power, st.load = math.NaN(), math.NaN(), math.NaN()
	lo, hi := steady(cells, st.start, st.end, 3*minuteMs)
	st.mem = upperQuartile(cells[lo:hi], feature.MemUsedBytes)
	st.power = meanOf(cells[lo:hi], feature.PowerW)
	st.load = meanOf(cells[lo:hi], feature.UtilFrac)
	var peaks []feature.Peak
	for i := lo; i < min(hi, lo+180); i++ {
		if p := cells[i].Rhythm; p.PeriodMs > 0 && !p.Folded {
			peaks = append(peaks, p)
		}
	}
	if p, _ := settled(peaks); len(peaks) >= 10 && p > 0 {
		st.period = p
	}
}

// steady are the cells of an interval without its beginning and its last minute, where
// enough of them remain.
func steady(cells []feature.GPUCell, start, end, skipMs int64) (lo, hi int) {
	lo, hi = cellRange(cells, start, end)
	if end-start > 2*skipMs {
		for hi-lo > 1 && cells[lo].MinuteMs < start+skipMs && cells[lo].EndMs() <= start+2*skipMs {
			lo++
		}
		if hi-lo > 1 && cells[hi-1].EndMs() > end-minuteMs && cells[hi-1].SpanMs == 0 {
			hi--
		}
	}
	return lo, hi
}

// meanOf is a signal's mean over time, NaN where it was not measured.
func meanOf(cells []feature.GPUCell, s feature.Signal) float64 {
	var sum, ms float64
	for i := range cells {
		if c := &cells[i]; c.Has(s) {
			sum += c.Mean[s] * float64(c.CoverMs[s])
			ms += float64(c.CoverMs[s])
		}
	}
	if ms == 0 {
		return math.NaN()
	}
	return sum / ms
}

// upperQuartile is the value under which a signal stays three quarters of the time.
func upperQuartile(cells []feature.GPUCell, s feature.Signal) float64 {
	type part struct {
		v  float64
		ms int64
	}
	parts := make([]part, 0, len(cells))
	var total int64
	for i := range cells {
		if c := &cells[i]; c.Has(s) {
			parts = append(parts, part{c.Mean[s], c.CoverMs[s]})
			total += c.CoverMs[s]
		}
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Or(cmp.Compare(a.v, b.v), cmp.Compare(a.ms, b.ms)) })
	var sum int64
	for _, p := range parts {
		if sum += p.ms; 4*sum > 3*total {
			return p.v
		}
	}
	if n := len(parts); n > 0 {
		return parts[n-1].v
	}
	return math.NaN()
}

// rest adds the rented time in which the GPU was seen released, and rentals of a GPU
// without any telemetry.
func (s *segmenter) rest(k feature.GPUKey, cells []feature.GPUCell, first int) {
	used := make([]span, 0, len(s.out)-first)
	for i := first; i < len(s.out); i++ {
		used = append(used, span{s.out[i].start, s.out[i].end})
	}
	s.restOf(k, used, func(sp span) []span {
		var out []span
		lo, hi := cellRange(cells, sp.start, sp.end)
		for i := lo; i < hi; i++ {
			// A cell of a coarse cadence rests on the minutes before it too.
			if n := len(out); n > 0 && cells[i].MinuteMs-out[n-1].end <= cells[i].CoverMs[feature.UtilFrac] {
				out[n-1].end = cells[i].EndMs()
				continue
			}
			out = cover(out, cells[i].MinuteMs, cells[i].EndMs())
		}
		return out
	})
}

// cover extends the last span by a cell, or begins one after a pause without telemetry.
func cover(spans []span, from, to int64) []span {
	if n := len(spans); n > 0 && from-spans[n-1].end <= pauseMs {
		spans[n-1].end = to
		return spans
	}
	return append(spans, span{from, to})
}

// restOf adds the parts of rentals in which nothing ran: idle where telemetry (seen) says
// so, and unknown where there is none for longer than a pause.
func (s *segmenter) restOf(k feature.GPUKey, used []span, seen func(span) []span) {
	ev := s.ev
	slices.SortFunc(used, func(a, b span) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end)) })
	for _, i := range s.alloc[k] {
		a := &ev.Allocations[i]
		end, open := a.EndMs, false
		if end == 0 || end > ev.EndMs {
			end, open = ev.EndMs, true
		}
		add := func(basis Basis, sp span) {
			if sp.end-sp.start > pauseMs || (basis == BasisAllocation && sp.start <= max(a.StartMs, ev.StartMs) && sp.end == end) {
				s.out = append(s.out, stretch{node: k.Node, gpu: k.GPU, start: sp.start, end: sp.end, open: open && end-sp.end <= 2*minuteMs, basis: basis,
					accounts: []string{a.Account}, mem: math.NaN(), power: math.NaN(), load: math.NaN()})
			}
		}
		at := max(a.StartMs, ev.StartMs)
		for n := 0; n <= len(used) && at < end; n++ {
			u := span{end, end}
			if n < len(used) {
				u = used[n]
			}
			if u.end <= at && u.start < end {
				continue
			}
			stop := min(u.start, end)
			if stop-at >= minuteMs {
				for _, sp := range seen(span{at, stop}) {
					sp = span{max(sp.start, at), min(sp.end, stop)}
					add(BasisAllocation, span{at, sp.start})
					add(BasisIdle, sp)
					at = max(at, sp.end)
				}
				add(BasisAllocation, span{at, stop})
			}
			at = max(at, u.end)
		}
	}
}

// cellRange returns the indices of the cells that touch [start, end).
func cellRange(cells []feature.GPUCell, start, end int64) (lo, hi int) {
	lo = sort.Search(len(cells), func(i int) bool { return cells[i].EndMs() > start })
	hi = sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs >= end })
	return lo, max(lo, hi)
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
