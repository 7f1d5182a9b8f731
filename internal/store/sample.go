package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// GPURow is one sample of one GPU. NaN: not measured.
type GPURow struct {
	Node              string
	UUID              string
	GPU               int
	TsMs, AvailableMs int64
	Values            []float64 // by GPUMeasures
	EnergyJ           float64   // cumulative, may reset
	MMACycles         float64   // cumulative, may reset
}

// HostRow is one sample of one host. NaN: not measured.
type HostRow struct {
	Node                                        string
	TsMs, AvailableMs                           int64
	PowerW, CPUFrac, StorageTxBps, StorageRxBps float64
}

// FabricRow is one reading of a port's cumulative counters. NaN: not measured.
type FabricRow struct {
	Node, Port, Kind  string
	TsMs, AvailableMs int64
	TxBytes, RxBytes  float64
	Parent            string // port behind which a virtual function stands; empty: none, or not known
}

// FlowRow is traffic towards a peer since the pair's last row. NaN: not measured.
type FlowRow struct {
	Node, Peer        string
	TsMs, AvailableMs int64
	TxBytes           float64
}

// CollectiveRow is collective calls of a process on a communicator since its last row.
type CollectiveRow struct {
	Node              string
	PID               int64
	GPU               int
	Comm, Op          string
	NRanks, Rank      int // 0 and -1: not known
	TsMs, AvailableMs int64
	Calls, Bytes      float64 // NaN: not measured
}

// GPURows reads samples, one row per GPU, time and source, sorted by node, GPU, time. Where a
// GPU has none in a minute, what its host's management controller measured takes their place. What the instances of a
// partitioned GPU did is in rows of that GPU.
func (s *Store) GPURows(ctx context.Context, q RowQuery) ([]GPURow, error) {
	var sel selection
	node, sources, uuid := sel.text("node"), sel.text("sources"), sel.text("gpu_uuid")
	gpu, ts, available := sel.int("gpu"), sel.int("ts_ms"), sel.int("available_ms")
	values := make([]floatColumn, len(gpuMeasureColumns))
	for i, m := range gpuMeasureColumns {
		values[i] = sel.float(m.name, m.typ, m.div)
	}
	energy, cycles := sel.float("energy_mj", tNU64, 1e3), sel.float("mma_cycles", tNU64, 1)
	sql := sel.sql() + " FROM " + s.table(TableGPUSamples) + " WHERE " + q.where("ts_ms") + " ORDER BY node, gpu, ts_ms, gpu_uuid, sources, available_ms, sequence DESC"
	var out []GPURow
	type key struct {
		node, uuid, sources string
		gpu                 int64
	}
	var once lastKey[key]
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		arena := make([]float64, 0, rows*len(values))
		for i := range rows {
			k := key{node.at(i), uuid.at(i), sources.at(i), (*gpu)[i]}
			if once.seen((*ts)[i], k) {
				continue
			}
			at := len(arena)
			for _, v := range values {
				arena = append(arena, v.at(i))
			}
			out = append(out, GPURow{
				Node: k.node, UUID: k.uuid, GPU: int(k.gpu), TsMs: (*ts)[i], AvailableMs: (*available)[i],
				Values: arena[at:len(arena):len(arena)], EnergyJ: energy.at(i), MMACycles: cycles.at(i),
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read gpu rows: %w", err)
	}
	outside, _, err := s.outOfBand(ctx, q)
	if err != nil {
		return nil, err
	}
	parts, err := s.ofInstances(ctx, q)
	if err != nil {
		return nil, err
	}
	return besideBand(withInstances(out, parts), outside), nil
}

// HostRows reads samples of hosts, those of their management controllers among them, sorted
// by node and time.
func (s *Store) HostRows(ctx context.Context, q RowQuery) ([]HostRow, error) {
	var sel selection
	node, sources, ts, available := sel.text("node"), sel.text("sources"), sel.int("ts_ms"), sel.int("available_ms")
	power, cpu := sel.float("power_mw", tNU32, 1e3), sel.float("cpu_e4", tNU16, 1e4)
	tx, rx := sel.float("storage_tx_bps", tNU64, 1), sel.float("storage_rx_bps", tNU64, 1)
	sql := sel.sql() + " FROM " + s.table(TableHostSamples) + " WHERE " + q.where("ts_ms") + " ORDER BY node, ts_ms, sources, available_ms, sequence DESC"
	var out []HostRow
	var once lastKey[[3]string]
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			if once.seen((*ts)[i], [3]string{node.at(i), sources.at(i)}) {
				continue
			}
			out = append(out, HostRow{node.at(i), (*ts)[i], (*available)[i], power.at(i), cpu.at(i), tx.at(i), rx.at(i)})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read host rows: %w", err)
	}
	_, outside, err := s.outOfBand(ctx, q)
	if err != nil {
		return nil, err
	}
	if len(outside) > 0 {
		out = append(out, outside...)
		slices.SortStableFunc(out, func(a, b HostRow) int { return cmp.Or(strings.Compare(a.Node, b.Node), cmp.Compare(a.TsMs, b.TsMs)) })
	}
	return out, nil
}

// lastKey tells neighbours with one key apart from the first of them. Rows come ordered
// by key, and of equal keys the one that was first available comes first: the one that
// the engine keeps when it merges. So no answer depends on what was merged already.
type lastKey[K comparable] struct {
	any bool
	ts  int64
	key K
}

func (l *lastKey[K]) seen(ts int64, key K) bool {
	if l.any && l.ts == ts && l.key == key {
		return true
	}
	l.any, l.ts, l.key = true, ts, key
	return false
}

// FabricRows reads counters of ports, sorted by node, port and time.
func (s *Store) FabricRows(ctx context.Context, q RowQuery) ([]FabricRow, error) {
	var sel selection
	node, sources, port, kind, parent := sel.text("node"), sel.text("sources"), sel.text("port"), sel.optionalText("fabric_kind"), sel.optionalText("parent_port")
	ts, available := sel.int("ts_ms"), sel.int("available_ms")
	tx, rx := sel.float("tx_bytes", tNU64, 1), sel.float("rx_bytes", tNU64, 1)
	sql := sel.sql() + " FROM " + s.table(TableFabricSamples) + " WHERE " + q.where("ts_ms") + " ORDER BY node, port, ts_ms, sources, available_ms, sequence DESC"
	var out []FabricRow
	var once lastKey[[3]string]
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			if once.seen((*ts)[i], [3]string{node.at(i), port.at(i), sources.at(i)}) {
				continue
			}
			out = append(out, FabricRow{node.at(i), port.at(i), kind.at(i), (*ts)[i], (*available)[i], tx.at(i), rx.at(i), parent.at(i)})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read fabric rows: %w", err)
	}
	return out, nil
}

// FlowRows reads traffic of pairs, what the kernel counted by address among it, sorted by node, peer and time.
func (s *Store) FlowRows(ctx context.Context, q RowQuery) ([]FlowRow, error) {
	var sel selection
	node, sources, peer := sel.text("node"), sel.text("sources"), sel.text("peer")
	ts, available, tx := sel.int("ts_ms"), sel.int("available_ms"), sel.float("tx_bytes", tNU64, 1)
	sql := sel.sql() + " FROM " + s.table(TableFlowSamples) + " WHERE " + q.where("ts_ms") + " ORDER BY node, peer, ts_ms, sources, available_ms, sequence DESC"
	var out []FlowRow
	var once lastKey[[3]string]
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			if once.seen((*ts)[i], [3]string{node.at(i), peer.at(i), sources.at(i)}) {
				continue
			}
			out = append(out, FlowRow{node.at(i), peer.at(i), (*ts)[i], (*available)[i], tx.at(i)})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read flow rows: %w", err)
	}
	tcp, err := s.tcpFlows(ctx, q)
	if err != nil {
		return nil, err
	}
	if len(tcp) > 0 {
		out = mergeFlows(append(out, tcp...))
	}
	return out, nil
}

// CollectiveRows reads collective calls, sorted by node, process, GPU, communicator, op, time.
func (s *Store) CollectiveRows(ctx context.Context, q RowQuery) ([]CollectiveRow, error) {
	var sel selection
	node, sources, comm, op := sel.text("node"), sel.text("sources"), sel.text("comm"), sel.text("op")
	pid, gpu, ts, available := sel.int("pid"), sel.int("gpu"), sel.int("ts_ms"), sel.int("available_ms")
	nranks, rank := sel.optionalInt("nranks", 0), sel.optionalInt("rank", -1)
	calls, bytes := sel.float("calls", tNI64, 1), sel.float("bytes", tNI64, 1)
	sql := sel.sql() + " FROM " + s.table(TableCollectiveSamples) + " WHERE " + q.where("ts_ms") +
		" ORDER BY node, pid, gpu, comm, op, ts_ms, sources, available_ms, sequence DESC"
	type key struct {
		node, comm, op, sources string
		pid, gpu                int64
	}
	var out []CollectiveRow
	var once lastKey[key]
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			if once.seen((*ts)[i], key{node.at(i), comm.at(i), op.at(i), sources.at(i), (*pid)[i], (*gpu)[i]}) {
				continue
			}
			out = append(out, CollectiveRow{
				Node: node.at(i), PID: (*pid)[i], GPU: int((*gpu)[i]), Comm: comm.at(i), Op: op.at(i), NRanks: int((*nranks)[i]), Rank: int((*rank)[i]),
				TsMs: (*ts)[i], AvailableMs: (*available)[i], Calls: calls.at(i), Bytes: bytes.at(i),
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read collective rows: %w", err)
	}
	return out, nil
}

var _ proto.ColResult = (*textColumn)(nil)
