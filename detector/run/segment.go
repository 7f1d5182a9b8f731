package run

import (
	"cmp"
	"math"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
)

const (
	minuteMs = feature.MinuteMs
	// pauseMs is the pause that stays inside a stretch (BUNDLE.md).
	pauseMs = 15 * minuteMs
	// bridgeMs is the longest time without telemetry over which a GPU that held the same
	// memory before and after is taken to have gone on.
	bridgeMs = 60 * minuteMs

	// A CUDA context holds some hundred MB and raises the clock of an idle part from its
	// floor (210 to 345 MHz) to the top; a driver's own reserve stays under 1 GB.
	contextBytes  = 1.5e9
	contextBytesL = 0.4e9 // with a raised clock
	raisedMHz     = 800
	busyFrac      = 0.02
	// A released GPU draws 8 to 20 % of its TDP, with a context 15 to 25 %.
	busyTDPFrac = 0.35
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
	comm       []commSum
	jobKey     string   // declared program, empty: none
	edgeMs     [2]int64 // BasisPower: start and end, interpolated within their minutes
}

type useState int

const (
	unknownUse useState = iota
	released
	held
)

// stateOf tells whether a minute shows a GPU in use. It looks at this minute alone.
func stateOf(c *feature.GPUCell, tdpW float64) useState {
	seen := false
	if c.Has(feature.UtilFrac) {
		seen = true
		if c.Mean[feature.UtilFrac] > busyFrac {
			return held
		}
	}
	for _, s := range [...]feature.Signal{feature.SMActiveFrac, feature.TensorFrac, feature.DRAMFrac} {
		if c.Has(s) {
			seen = true
			if c.Mean[s] > busyFrac {
				return held
			}
		}
	}
	if c.Has(feature.MemUsedBytes) {
		seen = true
		m := c.Mean[feature.MemUsedBytes]
		if m > contextBytes || (m > contextBytesL && c.Has(feature.SMClockMHz) && c.Mean[feature.SMClockMHz] > raisedMHz) {
			return held
		}
	}
	if c.Has(feature.PowerW) && tdpW > 0 {
		if c.Mean[feature.PowerW] > busyTDPFrac*tdpW {
			return held
		}
		if !seen && c.Mean[feature.PowerW] < 0.25*tdpW {
			return released
		}
	}
	if seen {
		return released
	}
	return unknownUse
}

// tdpOf is the TDP of a node's GPUs in watts: stated, or a cautious one of the part's
// family; it only serves to tell use from rest.
func tdpOf(n feature.Node) float64 {
	if n.TDPW > 0 && !math.IsNaN(n.TDPW) {
		return n.TDPW
	}
	return 500
}

// span is a run of minutes in one state.
type span struct{ start, end int64 }

// heldSpans cuts a GPU's minutes into times in use. A minute seen released ends a span;
// time without telemetry does so after pauseMs, or bridgeMs where the memory held before
// and after is the same.
func heldSpans(cells []feature.GPUCell, tdpW float64) []span {
	var out []span
	open := false
	var last *feature.GPUCell
	for i := range cells {
		c := &cells[i]
		switch stateOf(c, tdpW) {
		case held:
			if open {
				gap := c.MinuteMs - out[len(out)-1].end
				if gap > bridgeMs || (gap > pauseMs && !sameMemory(last, c)) {
					open = false
				}
			}
			if !open {
				out = append(out, span{start: c.MinuteMs})
				open = true
			}
			out[len(out)-1].end = c.MinuteMs + minuteMs
			last = c
		case released:
			open = false
		case unknownUse:
		}
	}
	return out
}

func sameMemory(a, b *feature.GPUCell) bool {
	x, y := a.Get(feature.MemUsedBytes), b.Get(feature.MemUsedBytes)
	return x > contextBytes && math.Abs(x-y) <= 0.05*x
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
	out   []stretch
}

func segment(ev *feature.Evidence) []stretch {
	s := &segmenter{ev: ev, procs: map[feature.GPUKey][]int{}, alloc: map[feature.GPUKey][]int{}}
	keys := map[feature.GPUKey]bool{}
	for k := range ev.GPU {
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
	for k := range ev.GPU {
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
	for lo := 0; lo < len(s.keys); {
		hi := lo
		for hi < len(s.keys) && s.keys[hi].Node == s.keys[lo].Node {
			hi++
		}
		node := s.keys[lo].Node
		if !gpuNodes[node] && hasPower(ev.Host[node]) {
			s.powerNode(node, s.keys[lo:hi])
		} else {
			for _, k := range s.keys[lo:hi] {
				s.gpu(k)
			}
		}
		lo = hi
	}
	slices.SortStableFunc(s.out, func(a, b stretch) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.node, b.node), cmp.Compare(a.gpu, b.gpu), cmp.Compare(a.jobKey, b.jobKey))
	})
	return s.out
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
func (s *segmenter) gpu(k feature.GPUKey) {
	ev := s.ev
	cells := ev.GPU[k]
	spans := heldSpans(cells, tdpOf(ev.Nodes[k.Node]))
	first := len(s.out)
	s.processStretches(k, cells, spans)
	declared := len(s.out)
	for _, sp := range spans {
		s.undeclared(k, sp, s.out[first:declared])
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
				lastHeld, lastCell := spans[len(spans)-1].end, cells[n-1].MinuteMs+minuteMs
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
func (s *segmenter) undeclared(k feature.GPUKey, sp span, declared []stretch) {
	margin := int64(3 * minuteMs)
	if lo, hi := cellRange(s.ev.GPU[k], sp.start, sp.end); hi > lo {
		// A cell of a coarse cadence rests on the minutes before it too.
		last := &s.ev.GPU[k][hi-1]
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
			if s.ev.EndMs-end <= 3*minuteMs || noCellAfter(s.ev.GPU[k], end, s.ev.EndMs) {
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
	lo, hi := cellRange(cells, st.start, st.end)
	if hi-lo > 6 {
		lo += 3
		hi--
	}
	var mem []float64
	var pw, ut, pn, un float64
	for i := lo; i < hi; i++ {
		c := &cells[i]
		if c.Has(feature.MemUsedBytes) {
			mem = append(mem, c.Mean[feature.MemUsedBytes])
		}
		if c.Has(feature.PowerW) {
			pw += c.Mean[feature.PowerW]
			pn++
		}
		if c.Has(feature.UtilFrac) {
			ut += c.Mean[feature.UtilFrac]
			un++
		}
	}
	if len(mem) > 0 {
		slices.Sort(mem)
		st.mem = mem[len(mem)*3/4]
	}
	if pn > 0 {
		st.power = pw / pn
	}
	if un > 0 {
		st.load = ut / un
	}
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
				out[n-1].end = cells[i].MinuteMs + minuteMs
				continue
			}
			out = cover(out, cells[i].MinuteMs)
		}
		return out
	})
}

// cover extends the last span to a minute, or begins one after a pause without telemetry.
func cover(spans []span, ms int64) []span {
	if n := len(spans); n > 0 && ms-spans[n-1].end <= pauseMs {
		spans[n-1].end = ms + minuteMs
		return spans
	}
	return append(spans, span{ms, ms + minuteMs})
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

// cellRange returns the indices of the cells whose minute begins in (start-1 min, end).
func cellRange(cells []feature.GPUCell, start, end int64) (lo, hi int) {
	lo = sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs > start-minuteMs })
	hi = sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs >= end })
	return lo, max(lo, hi)
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
