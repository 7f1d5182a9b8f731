package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

func (s *selection) u32(name string) *proto.ColUInt32 {
	c := new(proto.ColUInt32)
	s.add(name, name, c)
	return c
}

// float64 reads Nullable(Float64) exactly as it was written; NULL is NaN.
func (s *selection) float64(name string) *nullable[float64] {
	c := newFloat64Column()
	s.add(name, name, c)
	return c
}

type counterReader struct {
	first, last, delta *nullable[float64]
	firstMs, lastMs    *proto.ColInt64
}

func (s *selection) counter(name string) counterReader {
	return counterReader{s.float64(name + "_first"), s.float64(name + "_last"), s.float64(name + "_delta"), s.int(name + "_first_ms"), s.int(name + "_last_ms")}
}

// at returns the zero CounterRow where the counter was not read: LastMs 0 says so.
func (c counterReader) at(i int) CounterRow {
	if (*c.lastMs)[i] == 0 {
		return CounterRow{}
	}
	return CounterRow{(*c.firstMs)[i], (*c.lastMs)[i], c.first.at(i), c.last.at(i), c.delta.at(i)}
}

type rhythmReader struct {
	period, power, cadence, crest, share *nullable[float64]
	folded                               *proto.ColBool
	of                                   *textColumn
}

func (s *selection) rhythm(start string) rhythmReader {
	r := rhythmReader{period: s.float64("rhythm_ms"), power: s.float64("rhythm_power"), cadence: s.float64("rhythm_cadence_ms"), folded: new(proto.ColBool), of: s.text("rhythm_of")}
	s.add("rhythm_folded", "rhythm_folded", r.folded)
	if start == "hour_ms" {
		r.share = s.float64("rhythm_share")
	} else {
		r.crest = s.float64("rhythm_crest_ms")
	}
	return r
}

// at returns the zero RhythmRow where none was found.
func (r rhythmReader) at(i int) RhythmRow {
	if r.period.Nulls[i] != 0 {
		return RhythmRow{}
	}
	out := RhythmRow{PeriodMs: r.period.at(i), Power: r.power.at(i), CadenceMs: r.cadence.at(i), Folded: (*r.folded)[i], Of: r.of.at(i)}
	if r.share != nil {
		out.Share = r.share.at(i)
	} else {
		out.CrestMs = r.crest.at(i)
	}
	return out
}

// GPUCells reads the latest version of cells whose minute starts in [FromMs, ToMs), sorted
// by node, GPU and minute. AvailableToMs bounds the availability of the version read.
func (s *Store) GPUCells(ctx context.Context, q RowQuery) ([]GPUCellRow, error) {
	var out []GPUCellRow
	err := s.gpuCells(ctx, TableGPUMinute, "minute_ms", q, nil, func(r GPUCellRow, _ int) { out = append(out, r) })
	return out, err
}

// GPUHours does the same for roll-ups of hours that start in [FromMs, ToMs). Views read these in SQL; here it is tests that do.
func (s *Store) GPUHours(ctx context.Context, q RowQuery) ([]GPUHourRow, error) {
	var out []GPUHourRow
	presence := new(proto.ColUInt64)
	err := s.gpuCells(ctx, TableGPUHour, "hour_ms", q, presence, func(r GPUCellRow, i int) { out = append(out, GPUHourRow{r, (*presence)[i]}) })
	return out, err
}

// gpuCells hands each cell to put, with its number in the block that presence, where it is asked for, holds.
func (s *Store) gpuCells(ctx context.Context, table, start string, q RowQuery, presence *proto.ColUInt64, put func(r GPUCellRow, i int)) error {
	var sel selection
	node, gpu, minute, available, samples := sel.text("node"), sel.int("gpu"), sel.int(start), sel.int("available_ms"), sel.u32("samples")
	if presence != nil {
		sel.add("presence", "presence", presence)
	}
	n := len(CellSignals)
	mean, sd, cover := make([]*nullable[float64], n), make([]*nullable[float64], n), make([]*proto.ColUInt32, n)
	for i, name := range CellSignals {
		mean[i], sd[i], cover[i] = sel.float64(name+"_mean"), sel.float64(name+"_sd"), sel.u32(name+"_ms")
	}
	clock, clockMs := sel.float64("tensor_clock_mhz"), sel.u32("tensor_clock_ms")
	energy, cycles, rhythm := sel.counter("energy_j"), sel.counter("mma_cycles"), sel.rhythm(start)
	sql := sel.sql() + " FROM " + s.table(table) + " WHERE " + q.where(start) + " ORDER BY node, gpu, " + start + ", version DESC"
	type key struct {
		node string
		gpu  int64
	}
	var once lastKey[key]
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		floats, ints := make([]float64, 0, 2*n*rows), make([]int64, 0, n*rows)
		for i := range rows {
			if once.seen((*minute)[i], key{node.at(i), (*gpu)[i]}) {
				continue
			}
			f, c := len(floats), len(ints)
			for k := range n {
				floats = append(floats, mean[k].at(i))
			}
			for k := range n {
				floats = append(floats, sd[k].at(i))
				ints = append(ints, int64((*cover[k])[i]))
			}
			put(GPUCellRow{
				Node: node.at(i), GPU: int((*gpu)[i]), MinuteMs: (*minute)[i], AvailableMs: (*available)[i], Samples: int((*samples)[i]),
				Mean: floats[f : f+n : f+n], SD: floats[f+n : f+2*n : f+2*n], CoverMs: ints[c : c+n : c+n],
				TensorClockMHz: clock.at(i), TensorClockMs: int64((*clockMs)[i]), EnergyJ: energy.at(i), MMACycles: cycles.at(i), Rhythm: rhythm.at(i),
			}, i)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read gpu cells: %w", err)
	}
	return nil
}

// NodeCells reads the latest version of cells, sorted by node and minute.
func (s *Store) NodeCells(ctx context.Context, q RowQuery) ([]NodeCellRow, error) {
	var sel selection
	node, minute, available := sel.text("node"), sel.int("minute_ms"), sel.int("available_ms")
	power, powerSD, powerMs := sel.float64("power_w"), sel.float64("power_sd"), sel.u32("power_ms")
	cpu, cpuMs := sel.float64("cpu_frac"), sel.u32("cpu_ms")
	stx, srx, sms := sel.float64("storage_tx_bps"), sel.float64("storage_rx_bps"), sel.u32("storage_ms")
	ftx, frx, fcv, fms := sel.float64("fabric_tx_bytes"), sel.float64("fabric_rx_bytes"), sel.float64("fabric_tx_cv"), sel.u32("fabric_ms")
	etx, erx, ems := sel.float64("ethernet_tx_bytes"), sel.float64("ethernet_rx_bytes"), sel.u32("ethernet_ms")
	rhythm := sel.rhythm("minute_ms")
	sql := sel.sql() + " FROM " + s.table(TableNodeMinute) + " WHERE " + q.where("minute_ms") + " ORDER BY node, minute_ms, version DESC"
	var out []NodeCellRow
	var once lastKey[string]
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			if once.seen((*minute)[i], node.at(i)) {
				continue
			}
			out = append(out, NodeCellRow{
				Node: node.at(i), MinuteMs: (*minute)[i], AvailableMs: (*available)[i],
				PowerW: power.at(i), PowerSD: powerSD.at(i), PowerCoverMs: int64((*powerMs)[i]), CPUFrac: cpu.at(i), CPUCoverMs: int64((*cpuMs)[i]),
				StorageTxBps: stx.at(i), StorageRxBps: srx.at(i), StorageCoverMs: int64((*sms)[i]),
				FabricTxBytes: ftx.at(i), FabricRxBytes: frx.at(i), FabricTxCV: fcv.at(i), FabricCoverMs: int64((*fms)[i]),
				EthernetTxBytes: etx.at(i), EthernetRxBytes: erx.at(i), EthernetCoverMs: int64((*ems)[i]), Rhythm: rhythm.at(i),
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read node cells: %w", err)
	}
	return out, nil
}

// CommCells reads the latest version of cells, sorted by node, process, GPU, communicator,
// op and minute.
func (s *Store) CommCells(ctx context.Context, q RowQuery) ([]CommCellRow, error) {
	var sel selection
	node, comm, op := sel.text("node"), sel.text("comm"), sel.text("op")
	pid, gpu, nranks, rank, minute, available := sel.int("pid"), sel.int("gpu"), sel.int("nranks"), sel.int("rank"), sel.int("minute_ms"), sel.int("available_ms")
	calls, bytes := sel.float64("calls"), sel.float64("bytes")
	sql := sel.sql() + " FROM " + s.table(TableCommMinute) + " WHERE " + q.where("minute_ms") + " ORDER BY node, pid, gpu, comm, op, minute_ms, version DESC"
	type key struct {
		node, comm, op string
		pid, gpu       int64
	}
	var out []CommCellRow
	var once lastKey[key]
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			if once.seen((*minute)[i], key{node.at(i), comm.at(i), op.at(i), (*pid)[i], (*gpu)[i]}) {
				continue
			}
			out = append(out, CommCellRow{
				Node: node.at(i), PID: (*pid)[i], GPU: int((*gpu)[i]), Comm: comm.at(i), Op: op.at(i), NRanks: int((*nranks)[i]), Rank: int((*rank)[i]),
				MinuteMs: (*minute)[i], AvailableMs: (*available)[i], Calls: calls.at(i), Bytes: bytes.at(i),
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read comm cells: %w", err)
	}
	return out, nil
}

// FlowCells reads the latest version of cells, sorted by node, peer and minute.
func (s *Store) FlowCells(ctx context.Context, q RowQuery) ([]FlowCellRow, error) {
	var sel selection
	node, peer, minute, available, tx := sel.text("node"), sel.text("peer"), sel.int("minute_ms"), sel.int("available_ms"), sel.float64("tx_bytes")
	sql := sel.sql() + " FROM " + s.table(TableFlowMinute) + " WHERE " + q.where("minute_ms") + " ORDER BY node, peer, minute_ms, version DESC"
	var out []FlowCellRow
	var once lastKey[[2]string]
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			if once.seen((*minute)[i], [2]string{node.at(i), peer.at(i)}) {
				continue
			}
			out = append(out, FlowCellRow{node.at(i), peer.at(i), (*minute)[i], (*available)[i], tx.at(i)})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read flow cells: %w", err)
	}
	return out, nil
}

// CellSpan returns the first and the last minute of a cluster of which there is a cell of a GPU or a
// host. ok is false where there is none.
func (s *Store) CellSpan(ctx context.Context, cluster string) (firstMs, lastMs int64, ok bool, err error) {
	var first, last proto.ColInt64
	var parts []string
	for _, table := range []string{TableGPUMinute, TableNodeMinute} {
		parts = append(parts, "SELECT min(minute_ms) AS a, max(minute_ms) AS b, count() AS n FROM "+s.table(table)+" WHERE cluster = "+quote(cluster)+" HAVING n > 0")
	}
	err = s.native.query(ctx, "SELECT min(a) AS first_ms, max(b) AS last_ms FROM ("+strings.Join(parts, " UNION ALL ")+") HAVING count() > 0",
		proto.Results{{Name: "first_ms", Data: &first}, {Name: "last_ms", Data: &last}}, func(rows int) error {
			for i := range rows {
				firstMs, lastMs, ok = first[i], last[i], true
			}
			return nil
		})
	if err != nil {
		return 0, 0, false, fmt.Errorf("look for cells: %w", err)
	}
	return firstMs, lastMs, ok, nil
}
