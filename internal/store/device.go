package store

import (
	"context"
	"fmt"

	"github.com/ClickHouse/ch-go/proto"
)

// DeviceRow is what the driver last said of one GPU.
type DeviceRow struct {
	Node, UUID      string
	GPU             int
	TsMs            int64
	AvailableMs     int64
	Model, Driver   string  // empty: not known
	PowerLimitW     float64 // default limit of the board; NaN: not known
	MemTotalBytes   float64 // NaN: not known
	MIG             int     // 1: partitioned, 0: not, -1: not known
	NVLinks         int     // up; -1: not known
	Capabilities    string  // names, separated by commas; empty: not known
	PCIBusID, VBIOS string
	SMClockMaxMHz   float64 // NaN: not known
}

// DeviceRows returns the latest announcement of each GPU index of each node, sorted by node
// and index: a GPU that took the place of another stands for it.
func (s *Store) DeviceRows(ctx context.Context, a AsOf) ([]DeviceRow, error) {
	var sel selection
	node, uuid, gpu, ts, available := sel.text("node"), sel.text("gpu_uuid"), sel.int("gpu"), sel.int("ts_ms"), sel.int("available_ms")
	model, driver, caps := sel.optionalText("gpu_model"), sel.optionalText("driver_version"), sel.optionalText("capabilities")
	bus, vbios := sel.optionalText("pci_bus_id"), sel.optionalText("vbios_version")
	power, memory, clock := sel.float("power_limit_mw", tNI64, 1e3), sel.float("mem_total_bytes", tNU64, 1), sel.float("sm_clock_max_mhz", tNI64, 1)
	mig, links := sel.optionalInt("mig_mode", -1), sel.optionalInt("nvlink_count", -1)
	sql := sel.sql() + " FROM " + s.table(TableGPUDevices) + a.where() + " ORDER BY node, gpu, ts_ms DESC, available_ms DESC, sequence DESC, gpu_uuid LIMIT 1 BY node, gpu"
	var out []DeviceRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out = append(out, DeviceRow{
				Node: node.at(i), UUID: uuid.at(i), GPU: int((*gpu)[i]), TsMs: (*ts)[i], AvailableMs: (*available)[i], Model: model.at(i), Driver: driver.at(i),
				PowerLimitW: power.at(i), MemTotalBytes: memory.at(i), MIG: int((*mig)[i]), NVLinks: int((*links)[i]), Capabilities: caps.at(i),
				PCIBusID: bus.at(i), VBIOS: vbios.at(i), SMClockMaxMHz: clock.at(i),
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read device rows: %w", err)
	}
	return out, nil
}

// InstrumentRow is the latest state of an instrument of an agent.
type InstrumentRow struct {
	Node, Instrument, State, Reason string // Reason empty: none was told
	SinceMs, TsMs                   int64  // SinceMs 0: not told
}

// Instruments returns the latest state of each instrument, sorted by node and instrument. A
// state that was told long ago is that of a silent agent.
func (s *Store) Instruments(ctx context.Context, a AsOf) ([]InstrumentRow, error) {
	var sel selection
	node, instrument, ts, since := sel.text("node"), sel.text("instrument"), sel.int("ts_ms"), sel.optionalInt("since_ms", 0)
	state, reason := sel.optionalText("state"), sel.optionalText("reason")
	sql := sel.sql() + " FROM " + s.table(TableInstrumentStatus) + a.where() + " ORDER BY node, instrument, ts_ms DESC, available_ms DESC, sequence DESC LIMIT 1 BY node, instrument"
	var out []InstrumentRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out = append(out, InstrumentRow{Node: node.at(i), Instrument: instrument.at(i), State: state.at(i), Reason: reason.at(i), SinceMs: (*since)[i], TsMs: (*ts)[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read instrument states: %w", err)
	}
	return out, nil
}

// FabricRates returns, by node, the rates of the back-end ports (InfiniBand, RoCE) that were
// up when last read in [FromMs, ToMs), summed, Gbit/s. Nodes of which no such port told its
// rate are left out.
func (s *Store) FabricRates(ctx context.Context, q RowQuery) (map[string]float64, error) {
	var node textColumn
	var rate proto.ColInt64
	sql := "SELECT node, sum(rate) AS rate_ FROM (SELECT node, port, argMax(rate_mbps, ts_ms) AS rate, argMax(ifNull(link_up, toInt64(1)), ts_ms) AS up FROM " + s.table(TableFabricSamples) +
		" WHERE " + q.where("ts_ms") + " AND fabric_kind IN ('infiniband', 'roce') AND rate_mbps IS NOT NULL GROUP BY node, port) WHERE up = 1 GROUP BY node"
	out := map[string]float64{}
	err := s.native.query(ctx, "SELECT node, ifNull(rate_, toInt64(0)) AS mbps FROM ("+sql+")", proto.Results{{Name: "node", Data: &node}, {Name: "mbps", Data: &rate}}, func(rows int) error {
		for i := range rows {
			if rate[i] > 0 {
				out[node.at(i)] = float64(rate[i]) / 1e3
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read rates of fabric ports: %w", err)
	}
	return out, nil
}
