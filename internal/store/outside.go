package store

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// What other vantages tell beside the instruments that recordings hold: management controllers
// measure GPUs that the host cannot see, and the kernel counts traffic by address.

// componentNode is what rows of the whole host are called in bmc_samples.
const componentNode = "node"

// minuteMs is within what a reading in band is preferred to one out of band.
const minuteMs = 60_000

const (
	// noUUID is what the id of a GPU begins with whose own is not known.
	noUUID = "bmc/"
	// beyondIndex is added to a place on a board whose number is another GPU's index.
	beyondIndex = 10_000
	maxPlace    = 255
)

// outOfBand reads what management controllers measured, as rows of GPUs and of hosts: the
// node is the one that was measured, whoever asked. A controller does not know how the driver
// counts GPUs: where the agent could not tell either, as of a guest's, a GPU has the index that
// the driver last gave to its id, or else its place on the board.
func (s *Store) outOfBand(ctx context.Context, q RowQuery) (gpus []GPURow, hosts []HostRow, err error) {
	var sel selection
	target, component, sources, uuid := sel.text("target"), sel.text("component"), sel.text("sources"), sel.optionalText("gpu_uuid")
	gpu, ts, available := sel.optionalInt("gpu", -1), sel.int("ts_ms"), sel.int("available_ms")
	columns := map[string]floatColumn{}
	for _, f := range rawTables[TableBMCSamples].fields {
		if at := slices.IndexFunc(gpuMeasureColumns, func(m gpuMeasureColumn) bool { return m.name == f.name }); at >= 0 {
			columns[f.name] = sel.float(f.name, f.typ, gpuMeasureColumns[at].div)
		}
	}
	energy := sel.float("energy_mj", tNU64, 1e3)
	where := q
	where.Nodes = nil
	sql := sel.sql() + " FROM " + s.table(TableBMCSamples) + " WHERE " + where.where("ts_ms") + q.restrictTo("target") +
		" ORDER BY target, component, ts_ms, sources, available_ms, sequence DESC"
	var once lastKey[[3]string]
	var unknown []int // of gpus: those whose index the agent did not know
	err = s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			if once.seen((*ts)[i], [3]string{target.at(i), component.at(i), sources.at(i)}) {
				continue
			}
			if component.at(i) == componentNode {
				hosts = append(hosts, HostRow{Node: target.at(i), TsMs: (*ts)[i], AvailableMs: (*available)[i], PowerW: columns["power_mw"].at(i),
					CPUFrac: math.NaN(), StorageTxBps: math.NaN(), StorageRxBps: math.NaN()})
				continue
			}
			index := int((*gpu)[i])
			if index < 0 {
				place, isGPU := boardPlace(component.at(i))
				if !isGPU {
					continue // a switch, the sum of all GPUs: nothing that a GPU's row could say
				}
				index = place
				if uuid.at(i) != "" {
					unknown = append(unknown, len(gpus))
				}
			}
			values := make([]float64, len(gpuMeasureColumns))
			for k, m := range gpuMeasureColumns {
				values[k] = math.NaN()
				if c, ok := columns[m.name]; ok {
					values[k] = c.at(i)
				}
			}
			gpus = append(gpus, GPURow{Node: target.at(i), UUID: cmp.Or(uuid.at(i), noUUID+component.at(i)), GPU: index, TsMs: (*ts)[i], AvailableMs: (*available)[i],
				Values: values, EnergyJ: energy.at(i), MMACycles: math.NaN()})
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read rows of management controllers: %w", err)
	}
	if len(unknown) == 0 {
		return gpus, hosts, nil
	}
	devices, err := s.DeviceRows(ctx, AsOf{Cluster: q.Cluster, AvailableToMs: q.AvailableToMs})
	if err != nil {
		return nil, nil, err
	}
	index := map[[2]string]int{}
	for i := range devices {
		index[[2]string{devices[i].Node, devices[i].UUID}] = devices[i].GPU
	}
	for _, i := range unknown {
		if n, ok := index[[2]string{gpus[i].Node, gpus[i].UUID}]; ok {
			gpus[i].GPU = n
		}
	}
	return gpus, hosts, nil
}

// boardPlace is the place that a controller's name of a GPU tells: 2 of GPU_SXM_3, which counts
// from one, 0 of GPU_0, 16 of ProcessorModule_1_GPU_0.
func boardPlace(component string) (place int, ok bool) {
	if !strings.Contains(component, "GPU") || strings.Contains(component, "TotalGPU") {
		return 0, false
	}
	for _, word := range strings.FieldsFunc(component, func(r rune) bool { return r < '0' || r > '9' }) {
		n, err := strconv.Atoi(word)
		if err != nil || n > maxPlace || place > maxPlace {
			return 0, false
		}
		place, ok = 16*place+n, true
	}
	if strings.Contains(component, "SXM") && place > 0 {
		place--
	}
	return place, ok
}

// besideBand adds those rows from out of band whose GPU has none in band in the same minute:
// the two vantages measure the same thing, and are compared elsewhere, not averaged. A GPU that
// the driver has lost has them, under an index of its own where another has taken its place.
func besideBand(in, out []GPURow) []GPURow {
	if len(out) == 0 {
		return in
	}
	type gpu struct {
		node   string
		index  int
		minute int64
	}
	type board struct {
		node, uuid string
		minute     int64
	}
	taken, have := map[gpu]bool{}, map[board]bool{}
	for i := range in {
		r := &in[i]
		taken[gpu{r.Node, r.GPU, r.TsMs / minuteMs}], have[board{r.Node, r.UUID, r.TsMs / minuteMs}] = true, true
	}
	for i := range out {
		r, minute := &out[i], out[i].TsMs/minuteMs
		if have[board{r.Node, r.UUID, minute}] {
			continue
		}
		if taken[gpu{r.Node, r.GPU, minute}] {
			if strings.HasPrefix(r.UUID, noUUID) {
				continue // it may be that one
			}
			r.GPU += beyondIndex
		}
		in = append(in, *r)
	}
	slices.SortStableFunc(in, func(a, b GPURow) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU), cmp.Compare(a.TsMs, b.TsMs), strings.Compare(a.UUID, b.UUID))
	})
	return in
}

// tcpFlows reads what the kernel counted, as traffic towards peers, all jobs of a host
// together. A peer whose address one node of the cluster said to have at that time is that node.
func (s *Store) tcpFlows(ctx context.Context, q RowQuery) ([]FlowRow, error) {
	var sel selection
	node, peer, source, job, sources := sel.text("node"), sel.text("peer"), sel.text("job_source"), sel.text("job_id"), sel.text("sources")
	ts, available, tx := sel.int("ts_ms"), sel.int("available_ms"), sel.float("tx_bytes", tNU64, 1)
	sql := sel.sql() + " FROM " + s.table(TableTCPSamples) + " WHERE " + q.where("ts_ms") + " ORDER BY node, peer, ts_ms, job_source, job_id, sources, available_ms, sequence DESC"
	var out []FlowRow
	var once lastKey[[5]string]
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			if once.seen((*ts)[i], [5]string{node.at(i), peer.at(i), source.at(i), job.at(i), sources.at(i)}) {
				continue
			}
			r := FlowRow{node.at(i), peer.at(i), (*ts)[i], (*available)[i], tx.at(i)}
			if n := len(out) - 1; n >= 0 && out[n].Node == r.Node && out[n].Peer == r.Peer && out[n].TsMs == r.TsMs {
				addFlow(&out[n], r)
				continue
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read tcp rows: %w", err)
	}
	if len(out) == 0 {
		return nil, nil
	}
	owners, err := s.addressOwners(ctx, q)
	if err != nil {
		return nil, err
	}
	for i := range out {
		if n := owners.at(out[i].Peer, out[i].TsMs); n != "" {
			out[i].Peer = n
		}
	}
	return mergeFlows(out), nil
}

// addFlow adds b to a; a value that neither has stays absent.
func addFlow(a *FlowRow, b FlowRow) {
	switch {
	case math.IsNaN(a.TxBytes):
		a.TxBytes = b.TxBytes
	case !math.IsNaN(b.TxBytes):
		a.TxBytes += b.TxBytes
	}
	a.AvailableMs = max(a.AvailableMs, b.AvailableMs)
}

// mergeFlows sorts rows by node, peer and time, and joins those that are one: a node may have
// several addresses.
func mergeFlows(rows []FlowRow) []FlowRow {
	slices.SortStableFunc(rows, func(a, b FlowRow) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Peer, b.Peer), cmp.Compare(a.TsMs, b.TsMs))
	})
	out := rows[:0]
	for _, r := range rows {
		if n := len(out) - 1; n >= 0 && out[n].Node == r.Node && out[n].Peer == r.Peer && out[n].TsMs == r.TsMs {
			addFlow(&out[n], r)
			continue
		}
		out = append(out, r)
	}
	return out
}
