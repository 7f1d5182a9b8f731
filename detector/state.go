package detector

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/internal/store"
)

// state is the detector's memory: cells and facts, each with the moment from which it
// is visible. Everything in it is made anew from stored rows when a period is judged
// again. It is owned by the one goroutine that judges.
type state struct {
	nodes       map[string]feature.Node
	gpu         map[feature.GPUKey][]feature.GPUCell // sorted by minute
	gpuCells    int
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
		gpu:   map[feature.GPUKey][]feature.GPUCell{},
		host:  map[string][]feature.NodeCell{},
		comm:  links[feature.CommCell]{at: map[nodeMinute][]feature.CommCell{}},
		flows: links[feature.FlowCell]{at: map[nodeMinute][]feature.FlowCell{}},
	}
}

// has reports whether the state holds just these cells of a node and minute.
func (s *state) has(c cells) bool {
	for i := range c.gpu {
		held := s.gpu[feature.GPUKey{Node: c.node, GPU: c.gpu[i].GPU}]
		at, ok := cellAt(held, c.minute, func(x feature.GPUCell) int64 { return x.MinuteMs })
		if !ok || !same(stored(gpuCellRow(&held[at])), stored(gpuCellRow(&c.gpu[i]))) {
			return false
		}
	}
	for i := range c.host {
		held := s.host[c.node]
		at, ok := cellAt(held, c.minute, func(x feature.NodeCell) int64 { return x.MinuteMs })
		if !ok || !same(measuredHost(held[at]), measuredHost(c.host[i])) {
			return false
		}
	}
	k := nodeMinute{c.node, c.minute}
	return (len(c.comm) == 0 || same(s.comm.at[k], c.comm)) && (len(c.flows) == 0 || same(s.flows.at[k], c.flows))
}

// madeOf is the latest availability of what made the cells of a node's minute, and of the minutes
// before that a cell looks at. gpus are the node's.
func (s *state) madeOf(k nodeMinute, gpus []feature.GPUKey) int64 {
	from, latest := k.minute-feature.WindowMs, int64(math.MinInt64)
	for _, g := range gpus {
		latest = max(latest, latestOf(s.gpu[g], from, k.minute, func(c feature.GPUCell) (int64, int64) { return c.MinuteMs, c.AvailableMs }))
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
	for i := range c.gpu {
		held := s.gpu[feature.GPUKey{Node: c.node, GPU: c.gpu[i].GPU}]
		if at, ok := cellAt(held, c.minute, func(x feature.GPUCell) int64 { return x.MinuteMs }); ok && held[at].Samples > c.gpu[i].Samples {
			c.gpu[i] = held[at]
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
	k := feature.GPUKey{Node: c.Node, GPU: c.GPU}
	n := len(s.gpu[k])
	defer func() { s.gpuCells += len(s.gpu[k]) - n }()
	s.gpu[k] = upsert(s.gpu[k], c, func(x feature.GPUCell) int64 { return x.MinuteMs })
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

// links holds the cells of pairs and communicators by node and minute, and hands them out
// by time. Reducers give the cells of one node and minute in a fixed order.
type links[C any] struct {
	at   map[nodeMinute][]C
	keys []nodeMinute // by minute, then node
	flat []C          // all cells in the order of keys, for up to the first built keys
	// built is how many of keys flat holds.
	built int
}

func (l *links[C]) put(k nodeMinute, cells []C) {
	i, had := slices.BinarySearchFunc(l.keys, k, func(a, b nodeMinute) int {
		return cmp.Or(cmp.Compare(a.minute, b.minute), cmp.Compare(a.node, b.node))
	})
	if !had {
		l.keys = slices.Insert(l.keys, i, k)
	}
	l.at[k] = cells
	if i < l.built { // what was built of later minutes no longer fits
		n := 0
		for _, k := range l.keys[:i] {
			n += len(l.at[k])
		}
		l.flat, l.built = l.flat[:n], i
	}
}

// all returns every cell by minute and node. It is valid until the next put.
func (l *links[C]) all() []C {
	for ; l.built < len(l.keys); l.built++ {
		l.flat = append(l.flat, l.at[l.keys[l.built]]...)
	}
	return l.flat
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
		GPU: make(map[feature.GPUKey][]feature.GPUCell, len(s.gpu)), Host: make(map[string][]feature.NodeCell, len(s.host)),
	}
	for k, cells := range s.gpu {
		if n := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs > limit }); n > 0 {
			ev.GPU[k] = cells[:n:n]
		}
	}
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
