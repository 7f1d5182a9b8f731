package detector

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/internal/store"
)

// scaleFleet is a store of minute cells that makes them when they are asked for: a fleet of jobs of many sizes, with
// restarts, inference, single GPUs and rest. Nothing of it but verdicts stays in memory, so what a
// judgement needs is the detector's own.
type scaleFleet struct {
	*memory
	nodes   []scaleNode
	startMs int64
	endMs   int64
	made    int // cells of GPUs handed out
}

// scaleNode is a host of 8 GPUs: what it does over time, by GPU where a job takes a part of it.
type scaleNode struct {
	name string
	jobs [8][]scaleJob
	peer string // with whom it exchanges, "": nobody
}

// scaleJob is a stretch of work of one GPU.
type scaleJob struct {
	startMs, endMs int64
	kind           byte // t: training, i: inference, s: single GPU, b: batch
	seed           uint64
}

// mix scatters bits: the same numbers everywhere, without a generator's state.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// unit is a number in [0, 1) of a few keys.
func unit(keys ...uint64) float64 {
	h := uint64(0x9e3779b97f4a7c15)
	for _, k := range keys {
		h = mix(h ^ k)
	}
	return float64(h>>11) / (1 << 53)
}

const scaleStart = 1_700_006_400_000 // the start of a day

// newScaleFleet lays jobs on gpus GPUs (whole nodes) for some hours.
func newScaleFleet(gpus int, hours float64) *scaleFleet {
	f := &scaleFleet{
		memory:  &memory{runs: map[string]store.RunRow{}, findings: map[string]store.FindingRow{}},
		startMs: scaleStart, endMs: scaleStart + int64(hours*60)*feature.MinuteMs,
	}
	n := max(gpus/8, 1)
	for i := range n {
		f.nodes = append(f.nodes, scaleNode{name: fmt.Sprintf("n%05d", i)})
		f.inventory = append(f.inventory, store.InventoryRow{Node: f.nodes[i].name, Site: "s1", GPUModel: "NVIDIA H100 80GB HBM3", Vantage: "host", GPUCount: 8, FabricGbps: 3200, TDPW: 700})
	}
	// Sizes in nodes; a large one where the fleet has the room.
	sizes := []int{1, 2, 1, 4, 1, 8, 2, 16, 1, 4, 32, 1, 2, 64, 1, 8, 128, 2, 1, 4}
	for at, k := 0, 0; at < n; k++ {
		size := min(sizes[k%len(sizes)], n-at, max(n/4, 1))
		f.slot(at, size, uint64(k))
		at += size
	}
	return f
}

// slot gives nodes that are let together a day of work.
func (f *scaleFleet) slot(at, size int, k uint64) {
	account := fmt.Sprintf("acct-%d", k)
	all := []int{0, 1, 2, 3, 4, 5, 6, 7}
	for i := at; i < at+size; i++ {
		f.allocations = append(f.allocations, store.AllocationRow{Account: account, Node: f.nodes[i].name, GPUs: all, StartMs: f.startMs - 30*dayMs, AvailableMs: f.startMs - 30*dayMs})
		if size > 1 {
			f.nodes[i].peer = f.nodes[at+(i-at+1)%size].name
		}
	}
	ms := f.startMs + int64(unit(k, 1)*40)*feature.MinuteMs
	for j := uint64(0); ms < f.endMs; j++ {
		length := int64(40+unit(k, j, 2)*700) * feature.MinuteMs
		kind := byte('t')
		switch u := unit(k, j, 3); {
		case size == 1 && u < 0.35:
			kind = 's'
		case size <= 4 && u < 0.65:
			kind = 'i'
		case u < 0.75 && size <= 8:
			kind = 'b'
		}
		end := min(ms+length, f.endMs+dayMs)
		if size >= 16 { // large ones go on, with restarts
			kind = 't'
		}
		for i := at; i < at+size; i++ {
			for g := range 8 {
				w := scaleJob{ms, end, kind, mix(k<<20 ^ j)}
				if kind == 's' {
					w.startMs += int64(unit(k, j, uint64(g), 4)*30) * feature.MinuteMs
					w.endMs -= int64(unit(k, j, uint64(g), 5)*10) * feature.MinuteMs
				}
				f.nodes[i].jobs[g] = append(f.nodes[i].jobs[g], w)
				p := store.ProcessRow{
					Node: f.nodes[i].name, PID: int64(10_000 + 100*j + uint64(g)), StartMs: w.startMs + 7_000, EndMs: w.endMs - 4_000, AvailableMs: w.startMs + 8_000,
					GPUs: []int{g}, Exe: "python3", JobSource: "slurm", JobID: strconv.FormatUint(1000*k+j, 10), User: account, WorldSize: 8 * size, Rank: 8*(i-at) + g,
				}
				if kind == 's' {
					p.JobID, p.WorldSize, p.Rank = "", -1, -1
				}
				if k%3 != 0 { // of a third of the fleet no processes are seen
					f.processes = append(f.processes, p)
				}
			}
		}
		ms = end + int64(4+unit(k, j, 6)*25)*feature.MinuteMs
	}
}

// at is the work of a GPU in a minute; nil: it rests.
func (n *scaleNode) at(g int, ms int64) *scaleJob {
	for i := range n.jobs[g] {
		if w := &n.jobs[g][i]; ms >= w.startMs && ms < w.endMs {
			return w
		}
	}
	return nil
}

// scaleSignals are those that the agents of the fleet measure.
var scaleSignals = []feature.Signal{
	feature.UtilFrac, feature.MemUsedBytes, feature.PowerW, feature.SMClockMHz, feature.SMActiveFrac, feature.SMOccupancyFrac, feature.TensorFrac,
	feature.FP32Frac, feature.DRAMFrac, feature.PCIeTxBps, feature.PCIeRxBps, feature.NVLinkTxBps, feature.NVLinkRxBps,
}

// level is what a GPU shows in a minute.
func level(w *scaleJob, ms int64, out *[feature.NumSignals]float64) {
	*out = [feature.NumSignals]float64{feature.MemUsedBytes: 0.6e9, feature.PowerW: 72, feature.SMClockMHz: 345}
	if w == nil {
		return
	}
	model := unit(w.seed, 11)
	switch w.kind {
	case 't', 's':
		stall := 1.0
		if (ms/feature.MinuteMs+int64(w.seed%30))%31 == 0 { // it writes a checkpoint
			stall = 0.6
		}
		*out = [feature.NumSignals]float64{
			feature.UtilFrac: 0.98, feature.MemUsedBytes: 40e9 + 35e9*model, feature.PowerW: 80 + (480+120*model)*stall, feature.SMClockMHz: 1755, feature.SMActiveFrac: 0.85 * stall,
			feature.SMOccupancyFrac: 0.3, feature.TensorFrac: (0.3 + 0.2*model) * stall, feature.FP32Frac: 0.03, feature.DRAMFrac: 0.35 * stall, feature.PCIeTxBps: 2e8, feature.PCIeRxBps: 3e8,
			feature.NVLinkTxBps: 4e10 * stall, feature.NVLinkRxBps: 4e10 * stall,
		}
	case 'i', 'b':
		day := 0.6 + 0.4*math.Sin(float64(ms%dayMs)/float64(dayMs)*2*math.Pi+6*model)
		if w.kind == 'b' {
			day = 1
		}
		*out = [feature.NumSignals]float64{
			feature.UtilFrac: 0.3 + 0.6*day, feature.MemUsedBytes: 70e9, feature.PowerW: 150 + 250*day, feature.SMClockMHz: 1900, feature.SMActiveFrac: 0.5 * day, feature.SMOccupancyFrac: 0.2,
			feature.TensorFrac: 0.08 * day, feature.FP32Frac: 0.01, feature.DRAMFrac: 0.6 * day, feature.PCIeTxBps: 1e7, feature.PCIeRxBps: 1e7, feature.NVLinkTxBps: 3e9 * day, feature.NVLinkRxBps: 3e9 * day,
		}
	}
}

func (f *scaleFleet) minutes(q store.RowQuery, each func(i int, ms int64)) {
	from, to := max(q.FromMs, f.startMs), min(q.ToMs, f.endMs)
	for i := range f.nodes {
		if q.Nodes != nil && !slices.Contains(q.Nodes, f.nodes[i].name) {
			continue
		}
		for ms := feature.MinuteOf(from + feature.MinuteMs - 1); ms < to; ms += feature.MinuteMs {
			each(i, ms)
		}
	}
}

func (f *scaleFleet) count(q store.RowQuery) int {
	n := len(f.nodes)
	if q.Nodes != nil {
		n = len(q.Nodes)
	}
	return n * int(max(0, (min(q.ToMs, f.endMs)-max(q.FromMs, f.startMs))/feature.MinuteMs+1))
}

func (f *scaleFleet) GPUCells(_ context.Context, q store.RowQuery) ([]store.GPUCellRow, error) {
	most := 8 * f.count(q)
	out := make([]store.GPUCellRow, 0, most)
	const n = int(feature.NumSignals)
	floats, covers := make([]float64, 2*n*most), make([]int64, n*most)
	f.minutes(q, func(i int, ms int64) {
		node := &f.nodes[i]
		for g := range 8 {
			w := node.at(g, ms)
			var v [feature.NumSignals]float64
			level(w, ms, &v)
			r := store.GPUCellRow{
				Node: node.name, GPU: g, MinuteMs: ms, AvailableMs: ms + feature.MinuteMs + 5_000, Samples: 60,
				Mean: floats[:n:n], SD: floats[n : 2*n : 2*n], CoverMs: covers[:n:n], TensorClockMs: feature.MinuteMs,
			}
			floats, covers = floats[2*n:], covers[n:]
			h := mix(uint64(ms) ^ uint64(i)<<32 ^ uint64(g)<<56)
			for _, s := range scaleSignals {
				h = h*0x5851f42d4c957f2d + 1
				noise := float64(h>>40)/(1<<24) - 0.5
				r.Mean[s], r.SD[s], r.CoverMs[s] = v[s]*(1+0.02*noise), 0.02*v[s], feature.MinuteMs
			}
			r.TensorClockMHz = r.Mean[feature.TensorFrac] * r.Mean[feature.SMClockMHz]
			joules := v[feature.PowerW] * 60
			base := float64(ms-f.startMs) / 1000 * 400
			r.EnergyJ = store.CounterRow{FirstMs: ms + 500, LastMs: ms + 59_500, First: base, Last: base + joules*59/60, Delta: joules * 59 / 60}
			out = append(out, r)
		}
	})
	f.made += len(out)
	return out, nil
}

func (f *scaleFleet) NodeCells(_ context.Context, q store.RowQuery) ([]store.NodeCellRow, error) {
	out := make([]store.NodeCellRow, 0, f.count(q))
	f.minutes(q, func(i int, ms int64) {
		node := &f.nodes[i]
		var v [feature.NumSignals]float64
		watts, tx := 900.0, 0.0
		for g := range 8 {
			w := node.at(g, ms)
			level(w, ms, &v)
			watts += 1.1 * v[feature.PowerW]
			if w != nil && w.kind == 't' && node.peer != "" {
				tx += 2e9 * 60
			}
		}
		out = append(out, store.NodeCellRow{
			Node: node.name, MinuteMs: ms, AvailableMs: ms + feature.MinuteMs + 5_000, PowerW: watts, PowerSD: 0.02 * watts, PowerCoverMs: feature.MinuteMs, CPUFrac: 0.2, CPUCoverMs: feature.MinuteMs,
			StorageTxBps: 1e6, StorageRxBps: 1e7, StorageCoverMs: feature.MinuteMs, FabricTxBytes: tx, FabricRxBytes: tx, FabricTxCV: 0.3, FabricCoverMs: feature.MinuteMs,
			EthernetTxBytes: 1e8, EthernetRxBytes: 1e8, EthernetCoverMs: feature.MinuteMs,
		})
	})
	return out, nil
}

func (f *scaleFleet) FlowCells(_ context.Context, q store.RowQuery) ([]store.FlowCellRow, error) {
	var out []store.FlowCellRow
	f.minutes(q, func(i int, ms int64) {
		node := &f.nodes[i]
		if w := node.at(0, ms); w != nil && w.kind == 't' && node.peer != "" && i%4 != 0 {
			out = append(out, store.FlowCellRow{Node: node.name, Peer: node.peer, MinuteMs: ms, AvailableMs: ms + feature.MinuteMs + 5_000, TxBytes: 1e9 * 60})
		}
	})
	return out, nil
}

func (f *scaleFleet) CommCells(context.Context, store.RowQuery) ([]store.CommCellRow, error) {
	return nil, nil
}

// PutCells drops the roll-ups of hours: nobody asks for them.
func (f *scaleFleet) PutCells(context.Context, store.Cells, store.Provenance) error { return nil }
