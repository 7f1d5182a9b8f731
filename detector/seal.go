package detector

import (
	"cmp"
	"context"
	"slices"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/parallel"
	"github.com/flopwatch/flopwatch/internal/store"
)

// Memory holds minutes for as long as there is room, at least the last hour. What is older is sealed: cells become wide, one for each thing
// that a GPU did in half an hour, then an hour, a quarter of a day, a day. When that is follows from event time and the number of
// GPUs alone, and what a sealed cell holds from the minutes alone: streaming, backfill and a leader that comes anew seal alike.

// sealBlocks are the widths of sealed cells, each of which is made of those of the one before.
var sealBlocks = [...]int64{30 * feature.MinuteMs, feature.HourMs, 6 * feature.HourMs, dayMs}

// sealAgeMs is how old cells are at least that go into blocks of each width.
var sealAgeMs = [len(sealBlocks)]int64{0, 0, dayMs, 7 * dayMs}

// leastOpenMs stays in minutes however many GPUs there are.
const leastOpenMs = feature.HourMs

// bounds are the ends of what is sealed to blocks of each width.
type bounds [len(sealBlocks)]int64

// sealBounds says what is sealed at a moment: minutes of GPUs beyond most, and what is older.
func (s *state) sealBounds(atMs int64, most int) bounds {
	n := max(len(s.gpu)+len(s.host)/4, 1)
	open := max(int64(most/n)*feature.MinuteMs, leastOpenMs)
	b := s.sealed
	for i, width := range sealBlocks {
		end := atMs - max(open, sealAgeMs[i])
		b[i] = max(b[i], floorTo(end, width))
	}
	return b
}

func floorTo(ms, width int64) int64 {
	m := ms % width
	if m < 0 {
		m += width
	}
	return ms - m
}

// seal makes cells wide that have come of age.
func (s *state) seal(atMs int64, most int) { s.sealUpTo(atMs, maxMs, most) }

// sealUpTo does it for those before toMs: memory is filled from the earliest on.
func (s *state) sealUpTo(atMs, toMs int64, most int) {
	next := s.sealBounds(atMs, most)
	was := s.sealed
	for i, width := range sealBlocks {
		next[i] = max(was[i], min(next[i], floorTo(toMs, width)))
	}
	if next == was {
		return
	}
	s.sealed = next
	from := next[0] // of the earliest cell that changes
	for i := range next {
		if next[i] != was[i] {
			from = min(from, was[i])
		}
	}
	keys := s.sortedGPUs()
	delta := make([]int, len(keys))
	parallel.Each(len(keys), func(i int) { delta[i] = s.gpu[keys[i]].seal(keys[i], from, was, next, s.pack) })
	for _, n := range delta {
		s.gpuCells += n
	}
	seen := map[string]bool{}
	for _, k := range keys {
		seen[k.Node] = true
	}
	for node, cells := range s.host { // each on its own
		if !seen[node] { // its watts alone say what its GPUs do, and that takes minutes
			continue
		}
		lo := firstFrom(cells, from, hostMinute)
		hi := firstFrom(cells, next[0], hostMinute)
		if lo == hi {
			continue
		}
		wide := sealChain(cells[lo:hi], was, next, hostMinute, feature.SealHost)
		s.host[node] = slices.Concat(cells[:lo], wide, cells[hi:])
	}
	s.comm.seal(was, next)
	s.flows.seal(was, next)
}

func hostMinute(c *feature.NodeCell) int64 { return c.MinuteMs }
func gpuMinute(c *feature.GPUCell) int64   { return c.MinuteMs }

// firstFrom is the index of the first cell that begins at or after a moment.
func firstFrom[C any](cells []C, ms int64, minute func(*C) int64) int {
	lo, hi := 0, len(cells)
	for lo < hi {
		if m := (lo + hi) / 2; minute(&cells[m]) < ms {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

// sealChain seals cells, all of which begin before next[0], from one width to the next: at each those that have come to it.
func sealChain[C any](cells []C, was, next bounds, minute func(*C) int64, seal func([]C, int64) []C) []C {
	for i, width := range sealBlocks {
		lo, hi := firstFrom(cells, was[i], minute), firstFrom(cells, next[i], minute)
		if lo < hi {
			cells = slices.Concat(cells[:lo], seal(cells[lo:hi], width), cells[hi:])
		}
	}
	return cells
}

// seal makes the cells from fromMs on wide, as far as the bounds say; it returns by how many they became more.
func (t *track) seal(k feature.GPUKey, fromMs int64, was, next bounds, pack bool) int {
	n := t.n
	if n == 0 {
		return 0
	}
	if t.packed == nil {
		lo, hi := firstFrom(t.cells, fromMs, gpuMinute), firstFrom(t.cells, next[0], gpuMinute)
		if lo < hi {
			t.set(slices.Concat(t.cells[:lo], sealChain(t.cells[lo:hi], was, next, gpuMinute, feature.Seal), t.cells[hi:]), pack)
		}
		return t.n - n
	}
	head, before := t.packed.Before(fromMs)
	rest := t.packed[len(head):]
	old, count := rest.Before(next[0])
	if count == 0 {
		return 0
	}
	tail := rest[len(old):]
	wide := sealChain(old.Unpack(make([]feature.GPUCell, 0, count), k), was, next, gpuMinute, feature.Seal)
	var mid feature.Packed
	for i := range wide {
		mid = mid.Append(&wide[i])
	}
	t.packed = slices.Concat(head, mid, tail)
	t.n = before + len(wide) + n - before - count
	if len(tail) == 0 {
		t.lastMs = wide[len(wide)-1].MinuteMs
	}
	return t.n - n
}

// reopen makes the sealed cells anew of blocks in which cells of minutes came late: the minutes are read back, with those that the
// block at hand made and has not stored. It reports whether there were any. fresh says which of them are new for sure; nil: they
// come from the store, as it holds them.
func (d *Detector) reopen(ctx context.Context, late []cells, availMs int64, fresh func(nodeMinute) bool) (bool, error) {
	type block struct {
		node         string
		fromMs, toMs int64
	}
	by := map[block][]cells{}
	for _, c := range late {
		width := sealBlocks[0]
		for i := range sealBlocks {
			if c.minute < d.st.sealed[i] {
				width = sealBlocks[i]
			}
		}
		from := floorTo(c.minute, width)
		b := block{c.node, from, from + width}
		by[b] = append(by[b], c)
	}
	blocks := make([]block, 0, len(by))
	for b := range by { // sorted below
		blocks = append(blocks, b)
	}
	slices.SortFunc(blocks, func(a, b block) int { return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.fromMs, b.fromMs)) })
	any := false
	for _, b := range blocks {
		minutes, err := d.minutesOf(ctx, b.node, b.fromMs, b.toMs, availMs, fresh != nil)
		if err != nil {
			return any, err
		}
		changed := false
		for _, c := range by[b] {
			k := nodeMinute{c.node, c.minute}
			was := minutes[c.minute]
			if fresh != nil {
				c.keepRicher(was.of)
				if !fresh(k) && was.has(c) {
					d.pending.again[k] = c
					continue
				}
				if len(c.gpu)+len(c.host)+len(c.comm)+len(c.flows) > 0 {
					any = true
					d.pending.cells[k] = c
				}
			}
			minutes[c.minute], changed = overlay(was, c), true
		}
		if !changed {
			continue
		}
		for m, c := range minutes { // each on its own
			minutes[m] = d.remembered(c)
		}
		d.st.resealNode(b.node, b.fromMs, b.toMs, minutes)
	}
	return any, nil
}

// of is the cell of a GPU.
func (c cells) of(gpu int) (feature.GPUCell, bool) {
	for i := range c.gpu {
		if c.gpu[i].GPU == gpu {
			return c.gpu[i], true
		}
	}
	return feature.GPUCell{}, false
}

// has reports whether these are cells of a node and minute that hold the others.
func (c cells) has(o cells) bool {
	for i := range o.gpu {
		held, ok := c.of(o.gpu[i].GPU)
		if !ok || !same(stored(gpuCellRow(&held)), stored(gpuCellRow(&o.gpu[i]))) {
			return false
		}
	}
	for i := range o.host {
		if len(c.host) == 0 || !same(measuredHost(c.host[0]), measuredHost(o.host[i])) {
			return false
		}
	}
	return (len(o.comm) == 0 || same(c.comm, o.comm)) && (len(o.flows) == 0 || same(c.flows, o.flows))
}

// overlay is a node's minute with what was made of it now.
func overlay(was, c cells) cells {
	for i := range was.gpu {
		if !slices.ContainsFunc(c.gpu, func(x feature.GPUCell) bool { return x.GPU == was.gpu[i].GPU }) {
			c.gpu = append(c.gpu, was.gpu[i])
		}
	}
	if len(c.host) == 0 {
		c.host = was.host
	}
	if len(c.comm) == 0 {
		c.comm = was.comm
	}
	if len(c.flows) == 0 {
		c.flows = was.flows
	}
	return c
}

// minutesOf are a node's cells of minutes as they are known now. Those that hold rows of later are made of rows, or left out.
func (d *Detector) minutesOf(ctx context.Context, node string, fromMs, toMs, availMs int64, rows bool) (map[int64]cells, error) {
	var stored []storedCells
	if err := d.putOnce(ctx, "read sealed minutes", func(ctx context.Context) (err error) {
		stored, err = d.readCells(ctx, store.RowQuery{Cluster: d.cfg.Cluster, Nodes: []string{node}, FromMs: fromMs, ToMs: toMs})
		return err
	}); err != nil {
		return nil, err
	}
	out := map[int64]cells{}
	var newer []nodeMinute
	for _, c := range stored {
		if c.node != node || c.minute < fromMs || c.minute >= toMs {
			continue
		}
		if c.availableMs > availMs { // an earlier leader was further: as of now
			if rows {
				newer = append(newer, nodeMinute{node, c.minute})
			}
			continue
		}
		out[c.minute] = c.cells
	}
	if err := d.reduceFar(ctx, newer, availMs, func(nodeMinute) int64 { return availMs }, func(c cells) { out[c.minute] = c }); err != nil {
		return nil, err
	}
	for m := fromMs; m < toMs; m += feature.MinuteMs {
		if c, ok := d.pending.cells[nodeMinute{node, m}]; ok {
			out[m] = overlay(out[m], c)
		}
	}
	return out, nil
}

// hasGPUs reports whether a node has cells of GPUs.
func (s *state) hasGPUs(node string) bool {
	for gpu := range s.gpu {
		if gpu.Node == node {
			return true
		}
	}
	return false
}

// resealNode puts what a node's minutes give in place of its sealed cells of a block.
func (s *state) resealNode(node string, fromMs, toMs int64, minutes map[int64]cells) {
	s.see(node)
	gpus := map[int][]feature.GPUCell{}
	var host []feature.NodeCell
	var comm []feature.CommCell
	var flows []feature.FlowCell
	for m := fromMs; m < toMs; m += feature.MinuteMs {
		c := minutes[m]
		for i := range c.gpu {
			gpus[c.gpu[i].GPU] = append(gpus[c.gpu[i].GPU], c.gpu[i])
		}
		host, comm, flows = append(host, c.host...), append(comm, c.comm...), append(flows, c.flows...)
	}
	none := bounds{fromMs, fromMs, fromMs, fromMs}
	for gpu, cells := range gpus { // each on its own
		k := feature.GPUKey{Node: node, GPU: gpu}
		t := s.track(k)
		all := t.get(k)
		lo, hi := firstFrom(all, fromMs, gpuMinute), firstFrom(all, toMs, gpuMinute)
		s.gpuCells -= t.n
		t.set(slices.Concat(all[:lo], sealChain(cells, none, s.sealed, gpuMinute, feature.Seal), all[hi:]), s.pack)
		s.gpuCells += t.n
	}
	if len(host) > 0 && len(gpus) == 0 && !s.hasGPUs(node) {
		for i := range host {
			s.putHost(host[i])
		}
	} else if len(host) > 0 {
		all := s.host[node]
		lo, hi := firstFrom(all, fromMs, hostMinute), firstFrom(all, toMs, hostMinute)
		s.host[node] = slices.Concat(all[:lo], sealChain(host, none, s.sealed, hostMinute, feature.SealHost), all[hi:])
	}
	s.comm.reseal(node, fromMs, toMs, comm, none, s.sealed)
	s.flows.reseal(node, fromMs, toMs, flows, none, s.sealed)
}
