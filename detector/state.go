package detector

import (
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"slices"
	"sort"
	"sync/atomic"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/internal/store"
)

// state is the detector's memory: cells and facts, each with the moment from which it
// is visible. Everything in it is made anew from stored rows when a period is judged
// again. It is owned by the one goroutine that judges.
type state struct {
	nodes       map[string]feature.Node
	gpu         map[feature.GPUKey]*track
	keys        []feature.GPUKey // of gpu, sorted; nil: to be made
	gpuCells    int
	pack        bool                          // there are so many that they are held packed
	sealed      bounds                        // before these, cells are wide
	grown       bool                          // nodes became known since facts were read
	host        map[string][]feature.NodeCell // sorted by minute
	comm        links[feature.CommCell]
	flows       links[feature.FlowCell]
	processes   []feature.Process
	allocations []feature.Allocation
	orders      []feature.Order
	losses      []feature.Loss      // by node, then time
	checkpoints []checkpoint        // by start
	instances   []store.InstanceRow // by node, GPU, instance and hour
	waitMs      int64               // how far behind what has arrived a moment is judged
}

type nodeMinute struct {
	node   string
	minute int64 // start of the minute, Unix milliseconds
}

func newState() *state {
	return &state{
		nodes: map[string]feature.Node{},
		gpu:   map[feature.GPUKey]*track{},
		host:  map[string][]feature.NodeCell{},
		comm:  newCommLinks(),
		flows: newFlowLinks(),
	}
}

// has reports whether the state holds just these cells of a node and minute.
func (s *state) has(c cells) bool {
	k := nodeMinute{c.node, c.minute}
	held := cells{comm: s.comm.at[k], flows: s.flows.at[k]}
	for i := range c.gpu {
		g := feature.GPUKey{Node: c.node, GPU: c.gpu[i].GPU}
		if x, ok := s.gpu[g].at(g, c.minute); ok {
			held.gpu = append(held.gpu, x)
		}
	}
	if at, ok := cellAt(s.host[c.node], c.minute, func(x feature.NodeCell) int64 { return x.MinuteMs }); ok {
		held.host = s.host[c.node][at : at+1]
	}
	return held.has(c)
}

// madeOf is the latest availability of what made the cells of a node's minute, and of the minutes
// before that a cell looks at. gpus are the node's.
func (s *state) madeOf(k nodeMinute, gpus []feature.GPUKey) int64 {
	from, latest := k.minute-feature.WindowMs, int64(math.MinInt64)
	for _, g := range gpus {
		if t := s.gpu[g]; t != nil && t.n > 0 {
			latest = max(latest, latestOf(t.view(g, from, k.minute), from, k.minute, func(c feature.GPUCell) (int64, int64) { return c.MinuteMs, c.AvailableMs }))
		}
	}
	latest = max(latest, latestOf(s.host[k.node], from, k.minute, func(c feature.NodeCell) (int64, int64) { return c.MinuteMs, c.AvailableMs }))
	for _, c := range s.comm.at[k] {
		latest = max(latest, c.AvailableMs)
	}
	for _, c := range s.flows.at[k] {
		latest = max(latest, c.AvailableMs)
	}
	return latest
}

// keepRicher puts cells that are held in place of those made of fewer rows: rows are never taken back, so the
// others have expired. A batch of a month ago must not leave of its minutes only what it brings itself.
func (s *state) keepRicher(c cells) {
	c.keepRicher(func(gpu int) (feature.GPUCell, bool) {
		k := feature.GPUKey{Node: c.node, GPU: gpu}
		return s.gpu[k].at(k, c.minute)
	})
}

func (c cells) keepRicher(held func(gpu int) (feature.GPUCell, bool)) {
	for i := range c.gpu {
		if x, ok := held(c.gpu[i].GPU); ok && x.Samples > c.gpu[i].Samples {
			c.gpu[i] = x
		}
	}
}

func latestOf[C any](cells []C, from, to int64, of func(C) (minuteMs, availableMs int64)) int64 {
	latest := int64(math.MinInt64)
	for i := sort.Search(len(cells), func(i int) bool { m, _ := of(cells[i]); return m >= from }); i < len(cells); i++ {
		m, available := of(cells[i])
		if m > to {
			break
		}
		latest = max(latest, available)
	}
	return latest
}

func cellAt[C any](cells []C, minuteMs int64, minute func(C) int64) (int, bool) {
	i := sort.Search(len(cells), func(i int) bool { return minute(cells[i]) >= minuteMs })
	return i, i < len(cells) && minute(cells[i]) == minuteMs
}

// same compares by what is printed: a value that is not a number is equal to itself there.
func same(a, b any) bool { return fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b) }

// stored and measuredHost leave out what stands beside a value that was not measured.
func stored(r store.GPUCellRow) feature.GPUCell { return gpuCell(&r) }

func measuredHost(c feature.NodeCell) feature.NodeCell {
	if c.PowerCoverMs == 0 {
		c.PowerW, c.PowerSD = 0, 0
	}
	if c.CPUCoverMs == 0 {
		c.CPUFrac = 0
	}
	if c.StorageCoverMs == 0 {
		c.StorageTxBps, c.StorageRxBps = 0, 0
	}
	if c.FabricCoverMs == 0 {
		c.FabricTxBytes, c.FabricRxBytes, c.FabricTxCV = 0, 0, 0
	}
	if c.EthernetCoverMs == 0 {
		c.EthernetTxBytes, c.EthernetRxBytes = 0, 0
	}
	return c
}

// see makes sure that a node which the inventory lacks is known, as unlisted.
func (s *state) see(node string) {
	if _, ok := s.nodes[node]; !ok {
		s.grown = true
		s.nodes[node] = unlisted(node)
	}
}

func (s *state) putGPU(c feature.GPUCell) {
	s.see(c.Node)
	t := s.track(feature.GPUKey{Node: c.Node, GPU: c.GPU})
	n := t.n
	t.put(&c, s.pack)
	s.gpuCells += t.n - n
	s.packMany()
}

// track is that of a GPU, a new one where there is none.
func (s *state) track(k feature.GPUKey) *track {
	t := s.gpu[k]
	if t == nil {
		t = &track{}
		s.gpu[k], s.keys = t, nil
	}
	return t
}

// packMany packs all cells once there are many.
func (s *state) packMany() {
	if s.pack || s.gpuCells <= unpackedMost {
		return
	}
	s.pack = true
	for k, t := range s.gpu { // each on its own
		t.set(t.get(k), true)
	}
}

// sortedGPUs are the GPUs that have cells.
func (s *state) sortedGPUs() []feature.GPUKey {
	if s.keys == nil {
		s.keys = slices.Collect(maps.Keys(s.gpu))
		feature.SortKeys(s.keys)
	}
	return s.keys
}

func (s *state) putHost(c feature.NodeCell) {
	s.see(c.Node)
	s.host[c.Node] = upsert(s.host[c.Node], c, func(x feature.NodeCell) int64 { return x.MinuteMs })
}

// putComm replaces all communicator cells of one node and minute.
func (s *state) putComm(node string, minute int64, cells []feature.CommCell) {
	s.see(node)
	s.comm.put(nodeMinute{node, minute}, cells)
}

// putFlows replaces all flow cells of one node and minute.
func (s *state) putFlows(node string, minute int64, cells []feature.FlowCell) {
	s.see(node)
	s.flows.put(nodeMinute{node, minute}, cells)
}

// upsert keeps cells sorted by minute; the usual case is an append.
func upsert[C any](cells []C, c C, minute func(C) int64) []C {
	m := minute(c)
	if n := len(cells); n == 0 || minute(cells[n-1]) < m {
		return append(cells, c)
	}
	i := sort.Search(len(cells), func(i int) bool { return minute(cells[i]) >= m })
	if i < len(cells) && minute(cells[i]) == m {
		cells[i] = c
		return cells
	}
	return slices.Insert(cells, i, c)
}

// evidence is what was visible at atMs: cells of minutes that had ended, processes and
// allocations that had begun (their ends masked while they lie ahead), and order
// versions made by then. Facts are visible by their own event time, whatever waited in
// the pipeline. The result shares the state's cells and is valid until the next put.
func (s *state) evidence(startMs, atMs int64, last bool) *feature.Evidence {
	limit := atMs - feature.MinuteMs // latest start of a minute that has ended
	if last {
		limit = atMs
	}
	ev := &feature.Evidence{
		StartMs: startMs, EndMs: atMs, Nodes: s.nodes,
		Host: make(map[string][]feature.NodeCell, len(s.host)),
	}
	src := &source{gpu: s.gpu, keys: s.sortedGPUs(), limitMs: limit}
	if s.pack {
		src.made, src.seed = make([]atomic.Pointer[unpacked], unpackedTracks), maphash.MakeSeed()
	}
	if slices.ContainsFunc(src.keys, func(k feature.GPUKey) bool { return !src.Has(k) }) {
		src.keys = slices.DeleteFunc(slices.Clone(src.keys), func(k feature.GPUKey) bool { return !src.Has(k) })
	}
	ev.Source = src
	for k, cells := range s.host {
		if n := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs > limit }); n > 0 {
			ev.Host[k] = cells[:n:n]
		}
	}
	comm, flows := s.comm.all(), s.flows.all()
	n := sort.Search(len(comm), func(i int) bool { return comm[i].MinuteMs > limit })
	ev.Comm = comm[:n:n]
	n = sort.Search(len(flows), func(i int) bool { return flows[i].MinuteMs > limit })
	ev.Flows = flows[:n:n]
	for _, p := range s.processes {
		if p.StartMs > atMs {
			continue
		}
		if p.EndMs > atMs {
			p.EndMs = 0
		}
		ev.Processes = append(ev.Processes, p)
	}
	for _, a := range s.allocations {
		if a.StartMs > atMs {
			continue
		}
		if a.EndMs > atMs {
			a.EndMs = 0
		}
		ev.Allocations = append(ev.Allocations, a)
	}
	for _, o := range s.orders {
		if o.AmendedMs <= atMs {
			ev.Orders = append(ev.Orders, o)
		}
	}
	for _, l := range s.losses {
		if l.FromMs <= atMs && (last || l.KnownMs <= atMs+s.waitMs) {
			ev.Losses = append(ev.Losses, l)
		}
	}
	ev.Checkpoints, ev.Instances = s.checkpointsAt(atMs), s.instancesAt(atMs)
	return ev
}
