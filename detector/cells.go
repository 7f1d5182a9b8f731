package detector

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/internal/store"
)

// feed brings what became available into the state, step by step.
type feed interface {
	// until takes in what was available by availMs, and reports whether there was anything.
	until(ctx context.Context, availMs int64) (bool, error)
}

// rawFeed reduces raw rows, batch by batch.
type rawFeed struct {
	d       *Detector
	w       *window          // the rows of minutes from nearMs on
	nearMs  int64            // rows of earlier minutes are read when they are needed
	batches []store.BatchRow // by availability
	done    int
	again   map[store.BatchKey]bool // may have been applied before a restart
}

func (f *rawFeed) until(ctx context.Context, availMs int64) (bool, error) {
	n := f.done
	for n < len(f.batches) && f.batches[n].AvailableMs <= availMs {
		n++
	}
	touched, err := f.d.apply(ctx, f, f.batches[f.done:n], availMs)
	f.done = n
	return touched, err
}

// cellFeed takes cells as they were stored: raw rows expire, cells stay. A cell holds all
// rows that ever came for its minute and is seen when the last of them was available, so a
// judgement from cells is the one from rows wherever nothing came later than the wait.
type cellFeed struct {
	d      *Detector
	nextMs int64 // minutes from here on are not read yet,
	endMs  int64 // up to here
	spanMs int64 // as many at once
	read   []storedCells
}

// storedCells is one node's minute with the moment from which it is visible.
type storedCells struct {
	cells
	availableMs int64
}

// cellAheadMs is how much earlier than its minute a cell may have been available: clocks run ahead by less.
const cellAheadMs = 10 * feature.MinuteMs

func (f *cellFeed) until(ctx context.Context, availMs int64) (bool, error) {
	any, err := f.take(ctx, availMs)
	for err == nil && f.nextMs < f.endMs && f.nextMs <= availMs+cellAheadMs {
		if err = f.more(ctx); err != nil {
			break
		}
		var some bool
		some, err = f.take(ctx, availMs)
		any = any || some
		if availMs < maxMs { // as the step will, before more comes
			f.d.st.sealUpTo(availMs-f.d.cfg.WaitMs, f.nextMs, f.d.cfg.MaxCells)
		}
	}
	return any, err
}

// take puts what is read and available into the state.
func (f *cellFeed) take(ctx context.Context, availMs int64) (bool, error) {
	n := 0
	var late []cells
	for i := range f.read {
		switch c := &f.read[i]; {
		case c.availableMs > availMs:
			f.read[n] = *c
			n++
		case c.minute < f.d.st.sealed[0]:
			late = append(late, c.cells)
		default:
			f.d.putLate(c.cells)
		}
	}
	any := n < len(f.read)
	clear(f.read[n:])
	f.read = f.read[:n]
	_, err := f.d.reopen(ctx, late, availMs, nil)
	return any, err
}

// What is read of stored cells at once.
const (
	readMost  = 200_000 // of GPUs, if a minute has no more
	readSpan  = feature.HourMs
	readWhole = dayMs
)

// more reads the next stretch, as long as the last ones let expect that it is not too much.
func (f *cellFeed) more(ctx context.Context) error {
	to := min(f.nextMs+f.spanMs, f.endMs)
	cells, err := f.d.readCells(ctx, store.RowQuery{Cluster: f.d.cfg.Cluster, FromMs: f.nextMs, ToMs: to})
	if err != nil {
		return err
	}
	n := 0
	for i := range cells {
		if cells[i].minute >= f.nextMs && cells[i].minute < to {
			f.read = append(f.read, cells[i])
			n += len(cells[i].gpu)
		}
	}
	f.nextMs = to
	f.spanMs = spanOf(f.spanMs, n)
	return nil
}

// spanOf is how much to read next, when a stretch held so many cells.
func spanOf(spanMs int64, n int) int64 {
	switch {
	case 2*n < readMost:
		return min(2*spanMs, readWhole)
	case n > readMost:
		return max(feature.MinuteOf(int64(float64(spanMs)*readMost/float64(n))), feature.MinuteMs)
	}
	return spanMs
}

// put brings the cells of one node and minute into the state.
func (d *Detector) put(c cells) {
	for _, x := range c.gpu {
		d.st.putGPU(x)
	}
	for _, x := range c.host {
		d.st.putHost(x)
	}
	if len(c.comm) > 0 {
		d.st.putComm(c.node, c.minute, c.comm)
	}
	if len(c.flows) > 0 {
		d.st.putFlows(c.node, c.minute, c.flows)
	}
}

// putLate brings in cells that were made late. Of minutes that were let go only what belongs to
// an activity that is kept whole goes to memory: the rest would stand there without its
// neighbours, and be judged to be an activity of its own.
func (d *Detector) putLate(c cells) { d.put(d.remembered(c)) }

// remembered is what of late cells goes to memory.
func (d *Detector) remembered(c cells) cells {
	if c.minute >= d.cutMs {
		return c
	}
	kept := cells{node: c.node, minute: c.minute}
	for i := range c.gpu {
		k := feature.GPUKey{Node: c.node, GPU: c.gpu[i].GPU}
		if held := d.st.gpu[k]; held != nil && held.n > 0 && held.firstMs() <= c.minute {
			kept.gpu = append(kept.gpu, c.gpu[i])
		}
	}
	if len(kept.gpu) > 0 {
		kept.host, kept.comm, kept.flows = c.host, c.comm, c.flows
	}
	return kept
}

// loadCells finds the stored cells of the minutes from fromMs to toMs, which are read as they become due.
func (d *Detector) loadCells(ctx context.Context, fromMs, toMs int64) (*cellFeed, error) {
	f := &cellFeed{d: d, nextMs: feature.MinuteOf(fromMs), endMs: toMs, spanMs: readSpan}
	for len(f.read) == 0 && f.nextMs < f.endMs {
		if err := f.more(ctx); err != nil {
			return nil, err
		}
	}
	if len(f.read) == 0 {
		return nil, fmt.Errorf("no cells of cluster %s from %d ms to %d ms are stored", d.cfg.Cluster, fromMs, toMs)
	}
	return f, nil
}

// readCells reads stored cells, by minute and node.
func (d *Detector) readCells(ctx context.Context, q store.RowQuery) ([]storedCells, error) {
	by := map[nodeMinute]*storedCells{}
	at := func(node string, minuteMs, availableMs int64) *storedCells {
		k := nodeMinute{node, minuteMs}
		if by[k] == nil {
			by[k] = &storedCells{cells: cells{node: node, minute: minuteMs}, availableMs: availableMs}
		}
		by[k].availableMs = max(by[k].availableMs, availableMs)
		return by[k]
	}
	gpu, err := d.store.GPUCells(ctx, q)
	if err != nil {
		return nil, err
	}
	for i := range gpu {
		c := at(gpu[i].Node, gpu[i].MinuteMs, gpu[i].AvailableMs)
		c.gpu = append(c.gpu, gpuCell(&gpu[i]))
	}
	host, err := d.store.NodeCells(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, r := range host {
		c := at(r.Node, r.MinuteMs, r.AvailableMs)
		c.host = append(c.host, feature.NodeCell{
			Node: r.Node, MinuteMs: r.MinuteMs, AvailableMs: r.AvailableMs, PowerW: r.PowerW, PowerSD: r.PowerSD, PowerCoverMs: r.PowerCoverMs,
			CPUFrac: r.CPUFrac, CPUCoverMs: r.CPUCoverMs, StorageTxBps: r.StorageTxBps, StorageRxBps: r.StorageRxBps, StorageCoverMs: r.StorageCoverMs,
			FabricTxBytes: r.FabricTxBytes, FabricRxBytes: r.FabricRxBytes, FabricTxCV: r.FabricTxCV, FabricCoverMs: r.FabricCoverMs,
			EthernetTxBytes: r.EthernetTxBytes, EthernetRxBytes: r.EthernetRxBytes, EthernetCoverMs: r.EthernetCoverMs,
			Rhythm: rhythmPeak(&r.Rhythm), RhythmOfPower: r.Rhythm.Of == ofPower,
		})
	}
	comm, err := d.store.CommCells(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, r := range comm {
		c := at(r.Node, r.MinuteMs, r.AvailableMs)
		c.comm = append(c.comm, feature.CommCell{
			Node: r.Node, PID: int(r.PID), GPU: r.GPU, Comm: r.Comm, Op: r.Op, NRanks: r.NRanks, Rank: r.Rank,
			MinuteMs: r.MinuteMs, AvailableMs: r.AvailableMs, Calls: r.Calls, Bytes: r.Bytes,
		})
	}
	flows, err := d.store.FlowCells(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, r := range flows {
		c := at(r.Node, r.MinuteMs, r.AvailableMs)
		c.flows = append(c.flows, feature.FlowCell{Node: r.Node, Peer: r.Peer, MinuteMs: r.MinuteMs, AvailableMs: r.AvailableMs, TxBytes: r.TxBytes})
	}
	out := make([]storedCells, 0, len(by))
	for _, c := range by {
		feature.SortComm(c.comm)
		feature.SortFlows(c.flows)
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b storedCells) int {
		return cmp.Or(cmp.Compare(a.minute, b.minute), cmp.Compare(a.node, b.node))
	})
	return out, nil
}

// gpuCell turns a stored cell into what was reduced: a signal that was not measured has
// the mean 0 and no cover.
func gpuCell(r *store.GPUCellRow) feature.GPUCell {
	c := feature.GPUCell{
		Node: r.Node, GPU: r.GPU, MinuteMs: r.MinuteMs, AvailableMs: r.AvailableMs, Samples: r.Samples, TensorClockMs: r.TensorClockMs,
		EnergyJ: feature.Counter(r.EnergyJ), MMACycles: feature.Counter(r.MMACycles),
	}
	if r.TensorClockMs > 0 {
		c.TensorClockMHz = r.TensorClockMHz
	}
	if of, known := rhythmSignal(&r.Rhythm); known {
		c.Rhythm, c.RhythmOf = rhythmPeak(&r.Rhythm), of
	}
	for s := range feature.NumSignals {
		if c.CoverMs[s] = r.CoverMs[s]; c.CoverMs[s] > 0 {
			c.Mean[s], c.SD[s] = r.Mean[s], r.SD[s]
		}
	}
	c.Single()
	return c
}
