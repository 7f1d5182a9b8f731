package feature

import (
	"cmp"
	"math"
	"slices"
)

// Sealing: cells of old time become few, each for one thing that the GPU did. A steady hour is one cell; where use, memory or
// level changes there is a cut, so starts and ends stay exact to the minute, and a stall stays a cell of its own. Sums are kept:
// means are weighted by what they rest on, deviations hold those within the minutes and those between them,
// counters run on from one cell to the next.

// sealMost is how many cells a block becomes at most where its levels waver: then levels
// further apart are taken for alike. Where use itself flickers they may be sealManyMost; beyond, only time of which nothing
// is known parts them.
const (
	sealMost     = 6
	sealManyMost = 24
)

// Seal makes wide cells of the cells of one GPU (minutes, or cells that were sealed before), by time. None reaches over
// a bound of blocks of blockMs, or over time of which nothing is known. It is pure, and cells that cannot be put together come back as
// they are.
func Seal(cells []GPUCell, blockMs int64) []GPUCell {
	var out []GPUCell
	for len(cells) > 0 {
		block := floorDiv(cells[0].MinuteMs, blockMs)
		n := 1
		for n < len(cells) && floorDiv(cells[n].MinuteMs, blockMs) == block {
			n++
		}
		out = sealBlock(out, cells[:n])
		cells = cells[n:]
	}
	return out
}

// sealBlock seals the cells of one block, with ever wider tolerances while they become too many.
func sealBlock(out, cells []GPUCell) []GPUCell {
	cuts := cutUntil(func(cuts []int, tol float64) []int { return cutAlike(cuts, cells, tol) })
	from := 0
	for _, to := range cuts {
		out = append(out, Combine(cells[from:to]))
		from = to
	}
	return out
}

// anyLevel is the tolerance that takes all levels for alike.
const anyLevel = -1

// cutUntil widens the tolerance until the ends of what goes together are few.
func cutUntil(cut func(cuts []int, tol float64) []int) []int {
	var cuts []int
	for _, tol := range [...]float64{1, 2, 4, math.Inf(1)} {
		if cuts = cut(cuts[:0], tol); len(cuts) <= sealMost {
			return cuts
		}
	}
	if len(cuts) > sealManyMost {
		cuts = cut(cuts[:0], anyLevel)
	}
	return cuts
}

// cutAlike finds runs of cells that touch and are alike: each like the mean of those before it.
func cutAlike(cuts []int, cells []GPUCell, tol float64) []int {
	var sum, ms [len(sealSignals)]float64
	for i := range cells {
		c := &cells[i]
		if i > 0 && !(touches(&cells[i-1], c) && (tol == anyLevel || likeMean(&sum, &ms, c, tol))) {
			cuts = append(cuts, i)
			sum, ms = [len(sealSignals)]float64{}, [len(sealSignals)]float64{}
		}
		for n := range sealSignals {
			if w := float64(c.CoverMs[sealSignals[n].signal]); w > 0 {
				sum[n] += w * c.Mean[sealSignals[n].signal]
				ms[n] += w
			}
		}
	}
	return append(cuts, len(cells))
}

// touches reports whether no time lies between two cells that the later does not speak for.
func touches(a, b *GPUCell) bool {
	gap := b.MinuteMs - a.EndMs()
	if gap <= 0 {
		return true
	}
	cover := int64(0)
	for s := range NumSignals {
		cover = max(cover, b.CoverMs[s])
	}
	return gap < WindowMs && gap <= cover-(b.EndMs()-b.MinuteMs)+MinuteMs
}

// sealSignals are those by which cells are told to be alike: within least, or frac of the mean so far. Where tolerance is widened,
// a share of time still tells work from rest, and memory one program from another.
var sealSignals = [...]struct {
	signal      Signal
	least, frac float64
	always      bool
}{
	{UtilFrac, 0.015, 0.12, false},
	{SMActiveFrac, 0.015, 0.12, false},
	{TensorFrac, 0.01, 0.1, false},
	{HMMAFrac, 0.01, 0.1, false},
	{IMMAFrac, 0.01, 0.1, false},
	{DRAMFrac, 0.015, 0.15, false},
	{FP64Frac, 0.015, 0.15, false},
	{FP32Frac, 0.015, 0.25, false},
	{IntFrac, 0.015, 0.25, false},
	{NVEncFrac, 0.015, 0.3, false},
	{NVDecFrac, 0.015, 0.3, false},
	{SMClockMHz, 30, 0.12, false},
	{PowerW, 15, 0.1, false},
	{MemUsedBytes, 100e6, 0.04, true},
}

// restFrac parts work from rest in shares of time.
const restFrac = 0.02

func likeMean(sum, ms *[len(sealSignals)]float64, c *GPUCell, tol float64) bool {
	for n := range sealSignals {
		s := &sealSignals[n]
		if seen := c.CoverMs[s.signal] > 0; seen != (ms[n] > 0) {
			return false // measured in one of them alone
		} else if !seen {
			continue
		}
		v, mean := c.Mean[s.signal], sum[n]/ms[n]
		d, most := math.Abs(v-mean), math.Max(s.least, s.frac*math.Abs(mean))
		switch {
		case s.always:
			if d > most {
				return false
			}
		case s.frac <= 0.15 && s.least < 1 && (v > restFrac) != (mean > restFrac) && d > s.least:
			return false
		case d > tol*most:
			return false
		}
	}
	return true
}

// Combine makes one cell of several, of one GPU and by time.
func Combine(cells []GPUCell) GPUCell {
	if len(cells) == 1 {
		return cells[0]
	}
	first, last := &cells[0], &cells[len(cells)-1]
	h := GPUCell{Node: first.Node, GPU: first.GPU, MinuteMs: first.MinuteMs, SpanMs: last.EndMs() - first.MinuteMs, AvailableMs: math.MinInt64}
	addCells(&h, cells)
	h.Single()
	return h
}

// addCells sets what cells say together: means by what they rest on, deviations within and between them, counters
// that run on.
func addCells(h *GPUCell, cells []GPUCell) {
	var weighted, squares [NumSignals]float64
	var clock float64
	for i := range cells {
		c := &cells[i]
		h.Node, h.GPU = c.Node, c.GPU
		h.AvailableMs = max(h.AvailableMs, c.AvailableMs)
		h.Samples += c.Samples
		for s := range NumSignals {
			if w := float64(c.CoverMs[s]); w > 0 {
				h.CoverMs[s] += c.CoverMs[s]
				weighted[s] += w * c.Mean[s]
			}
		}
		if c.TensorClockMs > 0 {
			h.TensorClockMs += c.TensorClockMs
			clock += float64(c.TensorClockMs) * c.TensorClockMHz
		}
		h.EnergyJ = bridge(h.EnergyJ, c.EnergyJ)
		h.MMACycles = bridge(h.MMACycles, c.MMACycles)
		if c.Rhythm.PeriodMs > 0 && c.Rhythm.Power > h.Rhythm.Power {
			h.Rhythm, h.RhythmOf = later(c.Rhythm, c.MinuteMs-h.MinuteMs), c.RhythmOf
		}
	}
	for s := range NumSignals {
		if h.CoverMs[s] > 0 {
			h.Mean[s] = weighted[s] / float64(h.CoverMs[s])
		}
	}
	for i := range cells { // around the mean: a difference of large squares would lose small deviations
		c := &cells[i]
		for s := range NumSignals {
			if w := float64(c.CoverMs[s]); w > 0 {
				d := c.Mean[s] - h.Mean[s]
				squares[s] += w * (c.SD[s]*c.SD[s] + d*d)
			}
		}
	}
	for s := range NumSignals {
		if h.CoverMs[s] > 0 {
			h.SD[s] = math.Sqrt(squares[s] / float64(h.CoverMs[s]))
		}
	}
	if h.TensorClockMs > 0 {
		h.TensorClockMHz = clock / float64(h.TensorClockMs)
	}
}

// later is a rhythm as of a start that lies so much earlier.
func later(p Peak, byMs int64) Peak {
	p.CrestMs = math.Mod(p.CrestMs+float64(byMs), p.PeriodMs)
	return p
}

// SealHost does for the cells of a host what Seal does for those of a GPU: its watts tell them alike.
func SealHost(cells []NodeCell, blockMs int64) []NodeCell {
	var out []NodeCell
	for len(cells) > 0 {
		block := floorDiv(cells[0].MinuteMs, blockMs)
		n := 1
		for n < len(cells) && floorDiv(cells[n].MinuteMs, blockMs) == block {
			n++
		}
		from := 0
		for _, to := range cutUntil(func(cuts []int, tol float64) []int { return cutHosts(cuts, cells[:n], tol) }) {
			out = append(out, CombineHost(cells[from:to]))
			from = to
		}
		cells = cells[n:]
	}
	return out
}

func cutHosts(cuts []int, cells []NodeCell, tol float64) []int {
	strict := tol != anyLevel
	if !strict {
		tol = math.Inf(1)
	}
	var watts, wattMs, fabric, fabricMs, written float64
	for i := range cells {
		c := &cells[i]
		rate := 0.0
		if c.FabricCoverMs > 0 {
			rate = c.FabricTxBytes / float64(c.FabricCoverMs)
		}
		begins := i == 0
		if i > 0 {
			gap := c.MinuteMs - cells[i-1].EndMs()
			cover := max(c.PowerCoverMs, c.CPUCoverMs, c.FabricCoverMs, c.StorageCoverMs, c.EthernetCoverMs)
			begins = gap > 0 && (gap >= WindowMs || gap > cover-(c.EndMs()-c.MinuteMs)+MinuteMs)
			begins = begins || strict && ((c.PowerCoverMs > 0) != (wattMs > 0) || (c.FabricCoverMs > 0) != (fabricMs > 0))
			begins = begins || wattMs > 0 && math.Abs(c.PowerW-watts/wattMs) > tol*0.04*watts/wattMs
			begins = begins || fabricMs > 0 && math.Abs(rate-fabric/fabricMs) > tol*math.Max(5e3, 0.3*fabric/fabricMs) // bytes a millisecond
			begins = begins || c.StorageCoverMs > 0 && math.Abs(c.StorageTxBps-written) > tol*math.Max(20e6, 0.5*written)
		}
		if begins {
			if i > 0 {
				cuts = append(cuts, i)
			}
			watts, wattMs, fabric, fabricMs, written = 0, 0, 0, 0, c.StorageTxBps
		}
		watts, wattMs = watts+c.PowerW*float64(c.PowerCoverMs), wattMs+float64(c.PowerCoverMs)
		fabric, fabricMs = fabric+rate*float64(c.FabricCoverMs), fabricMs+float64(c.FabricCoverMs)
	}
	return append(cuts, len(cells))
}

// CombineHost makes one cell of several of a host, by time.
func CombineHost(cells []NodeCell) NodeCell {
	if len(cells) == 1 {
		return cells[0]
	}
	first, last := &cells[0], &cells[len(cells)-1]
	h := NodeCell{Node: first.Node, MinuteMs: first.MinuteMs, SpanMs: last.EndMs() - first.MinuteMs, AvailableMs: math.MinInt64}
	var watts, cpu, tx, rx, cv, sent float64
	add := func(to *float64, v float64, ms int64) {
		if ms > 0 {
			*to += v * float64(ms)
		}
	}
	for i := range cells {
		c := &cells[i]
		h.AvailableMs = max(h.AvailableMs, c.AvailableMs)
		add(&watts, c.PowerW, c.PowerCoverMs)
		add(&cpu, c.CPUFrac, c.CPUCoverMs)
		add(&tx, c.StorageTxBps, c.StorageCoverMs)
		add(&rx, c.StorageRxBps, c.StorageCoverMs)
		h.PowerCoverMs, h.CPUCoverMs, h.StorageCoverMs = h.PowerCoverMs+c.PowerCoverMs, h.CPUCoverMs+c.CPUCoverMs, h.StorageCoverMs+c.StorageCoverMs
		if c.FabricCoverMs > 0 {
			h.FabricTxBytes, h.FabricRxBytes = plus(h.FabricTxBytes, c.FabricTxBytes), plus(h.FabricRxBytes, c.FabricRxBytes)
			h.FabricCoverMs += c.FabricCoverMs
			if c.FabricTxCV > 0 && c.FabricTxBytes > 0 {
				cv, sent = cv+c.FabricTxCV*c.FabricTxBytes, sent+c.FabricTxBytes
			}
		}
		if c.EthernetCoverMs > 0 {
			h.EthernetTxBytes, h.EthernetRxBytes = plus(h.EthernetTxBytes, c.EthernetTxBytes), plus(h.EthernetRxBytes, c.EthernetRxBytes)
			h.EthernetCoverMs += c.EthernetCoverMs
		}
		if c.Rhythm.PeriodMs > 0 && c.Rhythm.Power > h.Rhythm.Power {
			h.Rhythm, h.RhythmOfPower = later(c.Rhythm, c.MinuteMs-h.MinuteMs), c.RhythmOfPower
		}
	}
	mean := func(sum float64, ms int64) float64 {
		if ms == 0 {
			return 0
		}
		return sum / float64(ms)
	}
	h.PowerW, h.CPUFrac = mean(watts, h.PowerCoverMs), mean(cpu, h.CPUCoverMs)
	h.StorageTxBps, h.StorageRxBps = mean(tx, h.StorageCoverMs), mean(rx, h.StorageCoverMs)
	if sent > 0 {
		h.FabricTxCV = cv / sent
	}
	squares := 0.0
	for i := range cells {
		if c := &cells[i]; c.PowerCoverMs > 0 {
			d := c.PowerW - h.PowerW
			squares += float64(c.PowerCoverMs) * (c.PowerSD*c.PowerSD + d*d)
		}
	}
	h.PowerSD = math.Sqrt(mean(squares, h.PowerCoverMs))
	return h
}

// SealComm adds up what each process did on each communicator over blocks of time, by block and then as in a minute.
// A cell spans from the first of its minutes to the last, without a pause of ten. Cells are by time.
func SealComm(cells []CommCell, blockMs int64) []CommCell {
	out := slices.Clone(cells)
	key := func(a, b *CommCell) int {
		return cmp.Or(cmp.Compare(floorDiv(a.MinuteMs, blockMs), floorDiv(b.MinuteMs, blockMs)), compareCommCell(a, b))
	}
	slices.SortStableFunc(out, func(a, b CommCell) int { return key(&a, &b) })
	n := 0
	for i := range out {
		if n == 0 || key(&out[n-1], &out[i]) != 0 || out[i].MinuteMs-out[n-1].EndMs() > WindowMs {
			out[n] = out[i]
			n++
			continue
		}
		c, x := &out[n-1], &out[i]
		c.SpanMs = x.EndMs() - c.MinuteMs
		c.NRanks, c.Rank = max(c.NRanks, x.NRanks), max(c.Rank, x.Rank)
		c.Calls, c.Bytes, c.AvailableMs = plus(c.Calls, x.Calls), plus(c.Bytes, x.Bytes), max(c.AvailableMs, x.AvailableMs)
	}
	out = out[:n]
	slices.SortStableFunc(out, func(a, b CommCell) int { return cmp.Or(cmp.Compare(a.MinuteMs, b.MinuteMs), compareCommCell(&a, &b)) })
	return out
}

func compareCommCell(a, b *CommCell) int {
	return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.PID, b.PID), cmp.Compare(a.GPU, b.GPU), cmp.Compare(a.Comm, b.Comm), cmp.Compare(a.Op, b.Op))
}

// SealFlows does the same for the traffic of pairs.
func SealFlows(cells []FlowCell, blockMs int64) []FlowCell {
	out := slices.Clone(cells)
	pair := func(a, b *FlowCell) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Peer, b.Peer)) }
	key := func(a, b *FlowCell) int {
		return cmp.Or(cmp.Compare(floorDiv(a.MinuteMs, blockMs), floorDiv(b.MinuteMs, blockMs)), pair(a, b))
	}
	slices.SortStableFunc(out, func(a, b FlowCell) int { return key(&a, &b) })
	n := 0
	for i := range out {
		if n == 0 || key(&out[n-1], &out[i]) != 0 || out[i].MinuteMs-out[n-1].EndMs() > WindowMs {
			out[n] = out[i]
			n++
			continue
		}
		c, x := &out[n-1], &out[i]
		c.SpanMs = x.EndMs() - c.MinuteMs
		c.TxBytes, c.AvailableMs = plus(c.TxBytes, x.TxBytes), max(c.AvailableMs, x.AvailableMs)
	}
	out = out[:n]
	slices.SortStableFunc(out, func(a, b FlowCell) int { return cmp.Or(cmp.Compare(a.MinuteMs, b.MinuteMs), pair(&a, &b)) })
	return out
}
