package store

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// InstanceRow is a MIG instance of a GPU that was seen in an hour.
type InstanceRow struct {
	Node    string
	GPU, GI int
	HourMs  int64   // start of the hour
	SMFrac  float64 // of the GPU's SMs; NaN: not known
}

// InstanceHours returns the instances that were seen in the hours which begin in [FromMs, ToMs), by node, GPU, instance
// and hour.
func (s *Store) InstanceHours(ctx context.Context, q RowQuery) ([]InstanceRow, error) {
	whole, err := s.smCounts(ctx, q)
	if err != nil {
		return nil, err
	}
	var sel selection
	node, gpu, gi := sel.text("node"), sel.int("gpu"), sel.int("gi_id")
	hour, sms, slots := new(proto.ColInt64), new(proto.ColInt64), new(proto.ColInt64)
	profile := new(textColumn)
	sel.add("hour_ms", hourOf("ts_ms"), hour)
	latest := func(column, absent string) string { // of the rows that have it
		return "ifNull(argMax(" + column + ", (ts_ms, available_ms, sequence)), " + absent + ")"
	}
	sel.add("sms", latest("sm_count", "toInt64(0)"), sms)
	sel.add("slots", latest("slices", "toInt64(0)"), slots)
	sel.add("name", latest("toString(profile)", "''"), profile)
	sql := sel.sql() + " FROM " + s.table(TableGPUInstances) + " WHERE " + q.where("ts_ms") + " GROUP BY node, gpu, gi_id, hour_ms ORDER BY node, gpu, gi_id, hour_ms"
	var out []InstanceRow
	err = s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			r := InstanceRow{Node: node.at(i), GPU: int((*gpu)[i]), GI: int((*gi)[i]), HourMs: (*hour)[i]}
			r.SMFrac = smShare((*sms)[i], (*slots)[i], profile.at(i), whole[gpuPlace{r.Node, r.GPU}])
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read instances: %w", err)
	}
	return out, nil
}

type gpuPlace struct {
	node string
	gpu  int
}

// smCounts reads how many SMs the GPUs of the nodes have.
func (s *Store) smCounts(ctx context.Context, q RowQuery) (map[gpuPlace]int64, error) {
	var sel selection
	node, gpu, sms := sel.text("node"), sel.int("gpu"), new(proto.ColInt64)
	sel.add("sms", "argMax(ifNull(sm_count, toInt64(0)), (ts_ms, available_ms, sequence))", sms)
	var b strings.Builder
	b.WriteString(" FROM " + s.table(TableGPUDevices) + " WHERE cluster = " + quote(q.Cluster))
	q.restrict(&b)
	b.WriteString(" GROUP BY node, gpu")
	out := map[gpuPlace]int64{}
	err := s.native.query(ctx, sel.sql()+b.String(), sel.res, func(rows int) error {
		for i := range rows {
			if (*sms)[i] > 0 {
				out[gpuPlace{node.at(i), int((*gpu)[i])}] = (*sms)[i]
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read SMs of devices: %w", err)
	}
	return out, nil
}

// migSlices is how many compute slices a GPU has that can be partitioned into slices of which each has a memory slice of
// its own: seven, but for the parts that have four.
const migSlices = 7

// smShare is the share that an instance has of its GPU's SMs: as they are counted, else by its slices, which its
// profile's name tells too (3g.40gb).
func smShare(sms, slots int64, profile string, whole int64) float64 {
	if sms > 0 && whole >= sms {
		return float64(sms) / float64(whole)
	}
	if slots <= 0 {
		name, _, ok := strings.Cut(profile, "g.")
		n, err := strconv.ParseInt(name, 10, 64)
		if !ok || err != nil {
			return math.NaN()
		}
		slots = n
	}
	if slots < 1 || slots > migSlices {
		return math.NaN()
	}
	return float64(slots) / migSlices
}

// instanceMs is how long the reading of an instance holds for it: they are read in turn.
const instanceMs = 60_000

// instanceMeasures are what an instance says of its own part of a GPU.
var instanceMeasures = [...]string{"sm_active_e4", "sm_occupancy_e4", "tensor_e4", "hmma_e4", "imma_e4", "dfma_e4", "fp64_e4", "fp32_e4", "fp16_e4", "int_e4", "dram_e4"}

// ofInstances reads what the instances of partitioned GPUs did, as rows of the GPUs: of such a GPU the driver tells no
// activity. What an instance does counts by its share of the SMs, and memory by that too. Which of them did it, a GPU's
// row does not say.
func (s *Store) ofInstances(ctx context.Context, q RowQuery) ([]GPURow, error) {
	var sel selection
	node, uuid, sources, profile := sel.text("node"), sel.text("gpu_uuid"), sel.text("sources"), sel.optionalText("profile")
	gpu, gi, ts, available := sel.int("gpu"), sel.int("gi_id"), sel.int("ts_ms"), sel.int("available_ms")
	sms, slots := sel.optionalInt("sm_count", 0), sel.optionalInt("slices", 0)
	values := make([]floatColumn, len(instanceMeasures))
	at := make([]int, len(values))
	for i, name := range instanceMeasures {
		at[i] = slices.IndexFunc(gpuMeasureColumns, func(m gpuMeasureColumn) bool { return m.name == name })
		values[i] = sel.float(name, tNU16, 1e4)
	}
	wider := q
	wider.FromMs -= instanceMs
	sql := sel.sql() + " FROM " + s.table(TableGPUInstances) + " WHERE " + wider.where("ts_ms") + " ORDER BY node, gpu, ts_ms, gpu_uuid, gi_id, sources, available_ms, sequence DESC"
	type reading struct {
		place         gpuPlace
		uuid, profile string
		gi, ts, avail int64
		sms, slots    int64
		values        [len(instanceMeasures)]float64
	}
	type key struct {
		node, uuid, sources string
		gpu, gi             int64
	}
	var all []reading
	var once lastKey[key]
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			if once.seen((*ts)[i], key{node.at(i), uuid.at(i), sources.at(i), (*gpu)[i], (*gi)[i]}) {
				continue
			}
			r := reading{place: gpuPlace{node.at(i), int((*gpu)[i])}, uuid: uuid.at(i), profile: profile.at(i), gi: (*gi)[i], ts: (*ts)[i], avail: (*available)[i], sms: (*sms)[i], slots: (*slots)[i]}
			for k, v := range values {
				r.values[k] = v.at(i)
			}
			all = append(all, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read rows of instances: %w", err)
	}
	if len(all) == 0 {
		return nil, nil
	}
	whole, err := s.smCounts(ctx, q)
	if err != nil {
		return nil, err
	}
	var out []GPURow
	held := map[int64]*reading{} // by instance
	var order []int64
	for i := range all {
		r := &all[i]
		if i == 0 || all[i-1].place != r.place {
			clear(held)
		}
		held[r.gi] = r
		if i+1 < len(all) && all[i+1].place == r.place && all[i+1].ts == r.ts || r.ts < q.FromMs {
			continue
		}
		order = order[:0]
		for g := range held {
			order = append(order, g)
		}
		slices.Sort(order)
		row := GPURow{Node: r.place.node, UUID: r.uuid, GPU: r.place.gpu, TsMs: r.ts, AvailableMs: r.avail, Values: make([]float64, len(gpuMeasureColumns)), EnergyJ: math.NaN(), MMACycles: math.NaN()}
		for k := range row.Values {
			row.Values[k] = math.NaN()
		}
		for _, g := range order {
			h := held[g]
			if r.ts-h.ts > instanceMs {
				delete(held, g)
				continue
			}
			share := smShare(h.sms, h.slots, h.profile, whole[h.place])
			row.AvailableMs = max(row.AvailableMs, h.avail)
			for k, v := range h.values {
				if part := v * share; !math.IsNaN(part) {
					row.Values[at[k]] = min(plusMeasured(row.Values[at[k]], part), 1)
				}
			}
		}
		out = append(out, row)
	}
	return out, nil
}

// plusMeasured adds to a sum that may have nothing in it yet.
func plusMeasured(sum, v float64) float64 {
	if math.IsNaN(sum) {
		return v
	}
	return sum + v
}

// withInstances adds the rows of instances to those of the GPUs.
func withInstances(rows, parts []GPURow) []GPURow {
	if len(parts) == 0 {
		return rows
	}
	rows = append(rows, parts...)
	slices.SortStableFunc(rows, func(a, b GPURow) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU), cmp.Compare(a.TsMs, b.TsMs), strings.Compare(a.UUID, b.UUID))
	})
	return rows
}

// CheckpointRow is a large file that a process wrote to its end.
type CheckpointRow struct {
	Node           string
	PID            int64
	StartMs, EndMs int64
	Bytes          float64 // NaN: not known
}

// CheckpointRows returns the files whose writing has ended, by start, node and process; EndedFromMs leaves out those
// that ended before.
func (s *Store) CheckpointRows(ctx context.Context, a AsOf) ([]CheckpointRow, error) {
	var sel selection
	node, pid, start := sel.text("node"), sel.int("pid"), sel.int("start_ms")
	ended, bytes := new(proto.ColInt64), new(proto.ColInt64)
	sel.add("ended", "argMax(ifNull(end_ms, toInt64(0)), (available_ms, sequence, ifNull(end_ms, 0)))", ended)
	sel.add("size", "argMax(toInt64(ifNull(ifNull(bytes, file_bytes), toUInt64(0))), (available_ms, sequence, ifNull(end_ms, 0)))", bytes)
	sql := sel.sql() + " FROM " + s.table(TableCheckpoints) + a.where()
	if a.EndedFromMs != 0 { // one that ended then began no earlier than a day before
		sql += fmt.Sprintf(" AND start_ms >= %d", a.EndedFromMs-24*3_600_000)
	}
	sql += fmt.Sprintf(" GROUP BY node, start_ms, pid, file HAVING ended > 0 AND ended >= %d ORDER BY start_ms, node, pid, ended, size", a.EndedFromMs)
	var out []CheckpointRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			r := CheckpointRow{Node: node.at(i), PID: (*pid)[i], StartMs: (*start)[i], EndMs: (*ended)[i], Bytes: float64((*bytes)[i])}
			if r.Bytes == 0 {
				r.Bytes = math.NaN()
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	return out, nil
}
