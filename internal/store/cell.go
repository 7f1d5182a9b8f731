package store

import (
	"context"
	"fmt"
	"math"

	"github.com/ClickHouse/ch-go/proto"
)

// CounterRow is what a minute saw of a cumulative counter. LastMs 0: not measured.
type CounterRow struct {
	FirstMs, LastMs    int64
	First, Last, Delta float64
}

// RhythmRow is the period at which a signal repeats. PeriodMs 0: none was found.
type RhythmRow struct {
	PeriodMs, Power, CadenceMs float64
	CrestMs                    float64 // of minutes
	Share                      float64 // of hours
	Folded                     bool
	Of                         string
}

// GPUCellRow is one GPU in one minute. A CoverMs of 0 means "not measured"; the mean and
// sd beside it are then NaN, when read, and ignored, when written.
type GPUCellRow struct {
	Node                  string
	GPU                   int
	MinuteMs, AvailableMs int64
	Samples               int
	Mean, SD              []float64 // by CellSignals
	CoverMs               []int64   // by CellSignals
	TensorClockMHz        float64
	TensorClockMs         int64
	EnergyJ, MMACycles    CounterRow
	Rhythm                RhythmRow
}

// GPUHourRow is one GPU in one hour, made of its minute cells: MinuteMs is the start of the hour.
type GPUHourRow struct {
	GPUCellRow
	Presence uint64 // which minutes of the hour have a cell: bit 0 is the first
}

// NodeCellRow is one host in one minute. NaN, and a CoverMs of 0: not measured.
type NodeCellRow struct {
	Node                                     string
	MinuteMs, AvailableMs                    int64
	PowerW, PowerSD                          float64
	PowerCoverMs                             int64
	CPUFrac                                  float64
	CPUCoverMs                               int64
	StorageTxBps, StorageRxBps               float64
	StorageCoverMs                           int64
	FabricTxBytes, FabricRxBytes, FabricTxCV float64
	FabricCoverMs                            int64
	EthernetTxBytes, EthernetRxBytes         float64
	EthernetCoverMs                          int64
	Rhythm                                   RhythmRow
}

// CommCellRow is one process on one communicator in one minute, one op.
type CommCellRow struct {
	Node                  string
	PID                   int64
	GPU                   int
	Comm, Op              string
	NRanks, Rank          int
	MinuteMs, AvailableMs int64
	Calls, Bytes          float64
}

// FlowCellRow is the traffic of a pair in one minute.
type FlowCellRow struct {
	Node, Peer            string
	MinuteMs, AvailableMs int64
	TxBytes               float64
}

// Provenance says what made derived rows.
type Provenance struct {
	Version         uint64 // the highest version of a cell holds
	DetectorVersion string
	ProfileVersion  string // of verdicts; cells depend on no profile
	ConfigDigest    string
	Epoch           uint64 // of the detector's lease
}

// Cells are cells of one cluster.
type Cells struct {
	Cluster string
	GPU     []GPUCellRow
	Node    []NodeCellRow
	Comm    []CommCellRow
	Flow    []FlowCellRow
	Hour    []GPUHourRow
}

// nullFloat is a Nullable(Float64) column that takes NaN for NULL.
type nullFloat struct{ proto.ColNullable[float64] }

func newNullFloat() *nullFloat {
	return &nullFloat{proto.ColNullable[float64]{Values: new(proto.ColFloat64)}}
}

func (n *nullFloat) add(v float64, has bool) {
	if !has || math.IsNaN(v) {
		n.Append(proto.Null[float64]())
		return
	}
	n.Append(proto.NewNullable(v))
}

// writer collects named columns of an insert.
type writer struct{ in proto.Input }

func (w *writer) put(name string, c proto.ColInput) {
	w.in = append(w.in, proto.InputColumn{Name: name, Data: c})
}

// column puts a column and returns it to be filled.
func column[C proto.ColInput](w *writer, name string, c C) C {
	w.put(name, c)
	return c
}

func (w *writer) text(name string) *proto.ColStr   { return column(w, name, new(proto.ColStr)) }
func (w *writer) int(name string) *proto.ColInt64  { return column(w, name, new(proto.ColInt64)) }
func (w *writer) u64(name string) *proto.ColUInt64 { return column(w, name, new(proto.ColUInt64)) }
func (w *writer) u32(name string) *proto.ColUInt32 { return column(w, name, new(proto.ColUInt32)) }
func (w *writer) float(name string) *nullFloat     { return column(w, name, newNullFloat()) }
func (w *writer) bool(name string) *proto.ColBool  { return column(w, name, new(proto.ColBool)) }

type counterWriter struct {
	first, last, delta *nullFloat
	firstMs, lastMs    *proto.ColInt64
}

func (w *writer) counter(name string) counterWriter {
	return counterWriter{w.float(name + "_first"), w.float(name + "_last"), w.float(name + "_delta"), w.int(name + "_first_ms"), w.int(name + "_last_ms")}
}

func (c counterWriter) add(r CounterRow) {
	has := r.LastMs != 0
	c.first.add(r.First, has)
	c.last.add(r.Last, has)
	c.delta.add(r.Delta, has)
	c.firstMs.Append(r.FirstMs)
	c.lastMs.Append(r.LastMs)
}

type rhythmWriter struct {
	period, power, cadence, crest, share *nullFloat // crest of minutes, share of hours
	folded                               *proto.ColBool
	of                                   *proto.ColStr
}

func (w *writer) rhythm(start string) rhythmWriter {
	r := rhythmWriter{period: w.float("rhythm_ms"), power: w.float("rhythm_power"), cadence: w.float("rhythm_cadence_ms"), folded: w.bool("rhythm_folded"), of: w.text("rhythm_of")}
	if start == "hour_ms" {
		r.share = w.float("rhythm_share")
	} else {
		r.crest = w.float("rhythm_crest_ms")
	}
	return r
}

func (w rhythmWriter) add(r *RhythmRow) {
	has := r.PeriodMs > 0
	w.period.add(r.PeriodMs, has)
	w.power.add(r.Power, has)
	w.cadence.add(r.CadenceMs, has)
	if w.share != nil {
		w.share.add(r.Share, has)
	} else {
		w.crest.add(r.CrestMs, has)
	}
	w.folded.Append(has && r.Folded)
	if has {
		w.of.Append(r.Of)
	} else {
		w.of.Append("")
	}
}

type provenanceWriter struct {
	cluster, detector, config *proto.ColStr
	version                   *proto.ColUInt64
}

func (w *writer) provenance() provenanceWriter {
	return provenanceWriter{w.text("cluster"), w.text("detector_version"), w.text("config_digest"), w.u64("version")}
}

func (p provenanceWriter) add(cluster string, v Provenance) {
	p.cluster.Append(cluster)
	p.detector.Append(v.DetectorVersion)
	p.config.Append(v.ConfigDigest)
	p.version.Append(v.Version)
}

// cellChunk bounds the rows of one insert.
const cellChunk = 50_000

// PutCells stores cells under a version; cells of the same key and a lower version go.
// It may be repeated. Each table is written in inserts of up to 50,000 rows; an error
// leaves some of them stored.
//
// An epoch older than the newest position is ErrStaleEpoch. Of cells of one moment those of the
// later epoch hold, as moments are whole minutes: a leader that was deposed between the check and
// the insert, and had read fewer rows, does not put its cells in place of its successor's.
func (s *Store) PutCells(ctx context.Context, c Cells, p Provenance) error {
	if len(c.GPU)+len(c.Node)+len(c.Comm)+len(c.Flow)+len(c.Hour) == 0 {
		return nil
	}
	if err := s.checkEpoch(ctx, TablePositions, c.Cluster, p.Epoch); err != nil {
		return err
	}
	p.Version += p.Epoch % 60_000
	for from := 0; from < len(c.GPU); from += cellChunk {
		b, err := gpuCellBlock(c.Cluster, c.GPU[from:min(from+cellChunk, len(c.GPU))], p)
		if err != nil {
			return err
		}
		if err := s.Insert(ctx, TableGPUMinute, "", b); err != nil {
			return err
		}
	}
	for from := 0; from < len(c.Node); from += cellChunk {
		if err := s.Insert(ctx, TableNodeMinute, "", nodeCellBlock(c.Cluster, c.Node[from:min(from+cellChunk, len(c.Node))], p)); err != nil {
			return err
		}
	}
	for from := 0; from < len(c.Comm); from += cellChunk {
		if err := s.Insert(ctx, TableCommMinute, "", commCellBlock(c.Cluster, c.Comm[from:min(from+cellChunk, len(c.Comm))], p)); err != nil {
			return err
		}
	}
	for from := 0; from < len(c.Flow); from += cellChunk {
		if err := s.Insert(ctx, TableFlowMinute, "", flowCellBlock(c.Cluster, c.Flow[from:min(from+cellChunk, len(c.Flow))], p)); err != nil {
			return err
		}
	}
	for from := 0; from < len(c.Hour); from += cellChunk {
		b, err := gpuHourBlock(c.Cluster, c.Hour[from:min(from+cellChunk, len(c.Hour))], p)
		if err != nil {
			return err
		}
		if err := s.Insert(ctx, TableGPUHour, "", b); err != nil {
			return err
		}
	}
	return nil
}

func gpuCellBlock(cluster string, rows []GPUCellRow, p Provenance) (Block, error) {
	var w writer
	if err := w.gpuCells("minute_ms", cluster, len(rows), func(i int) *GPUCellRow { return &rows[i] }, p); err != nil {
		return nil, err
	}
	return &columnsBlock{in: w.in}, nil
}

func gpuHourBlock(cluster string, rows []GPUHourRow, p Provenance) (Block, error) {
	var w writer
	presence := w.u64("presence")
	for i := range rows {
		presence.Append(rows[i].Presence)
	}
	if err := w.gpuCells("hour_ms", cluster, len(rows), func(i int) *GPUCellRow { return &rows[i].GPUCellRow }, p); err != nil {
		return nil, err
	}
	return &columnsBlock{in: w.in}, nil
}

// gpuCells writes what minutes and hours have in common; start is the column of their time.
func (w *writer) gpuCells(start, cluster string, rows int, row func(int) *GPUCellRow, p Provenance) error {
	pv := w.provenance()
	node, gpu, minute, available, samples := w.text("node"), w.int("gpu"), w.int(start), w.int("available_ms"), w.u32("samples")
	n := len(CellSignals)
	mean, sd, cover := make([]*nullFloat, n), make([]*nullFloat, n), make([]*proto.ColUInt32, n)
	for i, name := range CellSignals {
		mean[i], sd[i], cover[i] = w.float(name+"_mean"), w.float(name+"_sd"), w.u32(name+"_ms")
	}
	clock, clockMs := w.float("tensor_clock_mhz"), w.u32("tensor_clock_ms")
	energy, cycles, rhythm := w.counter("energy_j"), w.counter("mma_cycles"), w.rhythm(start)
	for i := range rows {
		r := row(i)
		if len(r.Mean) != n || len(r.SD) != n || len(r.CoverMs) != n {
			return fmt.Errorf("put cell of %s gpu %d: %d means, %d sds, %d covers, wanted %d of each", r.Node, r.GPU, len(r.Mean), len(r.SD), len(r.CoverMs), n)
		}
		pv.add(cluster, p)
		node.Append(r.Node)
		gpu.Append(int64(r.GPU))
		minute.Append(r.MinuteMs)
		available.Append(r.AvailableMs)
		samples.Append(uint32(r.Samples))
		for k := range n {
			has := r.CoverMs[k] > 0
			mean[k].add(r.Mean[k], has)
			sd[k].add(r.SD[k], has)
			cover[k].Append(uint32(r.CoverMs[k]))
		}
		clock.add(r.TensorClockMHz, r.TensorClockMs > 0)
		clockMs.Append(uint32(r.TensorClockMs))
		energy.add(r.EnergyJ)
		cycles.add(r.MMACycles)
		rhythm.add(&r.Rhythm)
	}
	return nil
}

func nodeCellBlock(cluster string, rows []NodeCellRow, p Provenance) Block {
	var w writer
	pv := w.provenance()
	node, minute, available := w.text("node"), w.int("minute_ms"), w.int("available_ms")
	power, powerSD, powerMs := w.float("power_w"), w.float("power_sd"), w.u32("power_ms")
	cpu, cpuMs := w.float("cpu_frac"), w.u32("cpu_ms")
	stx, srx, sms := w.float("storage_tx_bps"), w.float("storage_rx_bps"), w.u32("storage_ms")
	ftx, frx, fcv, fms := w.float("fabric_tx_bytes"), w.float("fabric_rx_bytes"), w.float("fabric_tx_cv"), w.u32("fabric_ms")
	etx, erx, ems := w.float("ethernet_tx_bytes"), w.float("ethernet_rx_bytes"), w.u32("ethernet_ms")
	rhythm := w.rhythm("minute_ms")
	for i := range rows {
		r := &rows[i]
		pv.add(cluster, p)
		node.Append(r.Node)
		minute.Append(r.MinuteMs)
		available.Append(r.AvailableMs)
		power.add(r.PowerW, true)
		powerSD.add(r.PowerSD, true)
		powerMs.Append(uint32(r.PowerCoverMs))
		cpu.add(r.CPUFrac, true)
		cpuMs.Append(uint32(r.CPUCoverMs))
		stx.add(r.StorageTxBps, true)
		srx.add(r.StorageRxBps, true)
		sms.Append(uint32(r.StorageCoverMs))
		ftx.add(r.FabricTxBytes, true)
		frx.add(r.FabricRxBytes, true)
		fcv.add(r.FabricTxCV, true)
		fms.Append(uint32(r.FabricCoverMs))
		etx.add(r.EthernetTxBytes, true)
		erx.add(r.EthernetRxBytes, true)
		ems.Append(uint32(r.EthernetCoverMs))
		rhythm.add(&r.Rhythm)
	}
	return &columnsBlock{in: w.in}
}

func commCellBlock(cluster string, rows []CommCellRow, p Provenance) Block {
	var w writer
	pv := w.provenance()
	node, pid, gpu, comm, op := w.text("node"), w.int("pid"), w.int("gpu"), w.text("comm"), w.text("op")
	nranks, rank, minute, available := w.int("nranks"), w.int("rank"), w.int("minute_ms"), w.int("available_ms")
	calls, bytes := w.float("calls"), w.float("bytes")
	for i := range rows {
		r := &rows[i]
		pv.add(cluster, p)
		node.Append(r.Node)
		pid.Append(r.PID)
		gpu.Append(int64(r.GPU))
		comm.Append(r.Comm)
		op.Append(r.Op)
		nranks.Append(int64(r.NRanks))
		rank.Append(int64(r.Rank))
		minute.Append(r.MinuteMs)
		available.Append(r.AvailableMs)
		calls.add(r.Calls, true)
		bytes.add(r.Bytes, true)
	}
	return &columnsBlock{in: w.in}
}

func flowCellBlock(cluster string, rows []FlowCellRow, p Provenance) Block {
	var w writer
	pv := w.provenance()
	node, peer, minute, available, tx := w.text("node"), w.text("peer"), w.int("minute_ms"), w.int("available_ms"), w.float("tx_bytes")
	for i := range rows {
		r := &rows[i]
		pv.add(cluster, p)
		node.Append(r.Node)
		peer.Append(r.Peer)
		minute.Append(r.MinuteMs)
		available.Append(r.AvailableMs)
		tx.add(r.TxBytes, true)
	}
	return &columnsBlock{in: w.in}
}
