package store

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
)

// What other vantages tell beside the instruments that recordings hold: management controllers
// measure GPUs that the host cannot see, and the kernel counts traffic by address.

// componentNode is what rows of the whole host are called in bmc_samples.
const componentNode = "node"

// minuteMs is within what a reading in band is preferred to one out of band.
const minuteMs = 60_000

// outOfBand reads what management controllers measured, as rows of GPUs and of hosts: the
// node is the one that was measured, whoever asked.
func (s *Store) outOfBand(ctx context.Context, q RowQuery) (gpus []GPURow, hosts []HostRow, err error) {
	var sel selection
	target, component, sources, uuid := sel.text("target"), sel.text("component"), sel.text("sources"), sel.optionalText("gpu_uuid")
	gpu, ts, available := sel.optionalInt("gpu", -1), sel.int("ts_ms"), sel.int("available_ms")
	columns := map[string]floatColumn{}
	for _, f := range rawTables[TableBMCSamples].fields {
		if at := slices.IndexFunc(gpuMeasureColumns[:], func(m gpuMeasureColumn) bool { return m.name == f.name }); at >= 0 {
			columns[f.name] = sel.float(f.name, f.typ, gpuMeasureColumns[at].div)
		}
	}
	energy := sel.float("energy_mj", tNU64, 1e3)
	where := q
	where.Nodes = nil
	sql := sel.sql() + " FROM " + s.table(TableBMCSamples) + " WHERE " + where.where("ts_ms") + q.restrictTo("target") +
		" ORDER BY target, component, ts_ms, sources, available_ms, sequence DESC"
	var once lastKey[[3]string]
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
			if (*gpu)[i] < 0 {
				continue // a switch, a sensor: nothing that a GPU's row could say
			}
			values := make([]float64, len(gpuMeasureColumns))
			for k, m := range gpuMeasureColumns {
				values[k] = math.NaN()
				if c, ok := columns[m.name]; ok {
					values[k] = c.at(i)
				}
			}
			gpus = append(gpus, GPURow{Node: target.at(i), UUID: cmp.Or(uuid.at(i), "bmc/"+component.at(i)), GPU: int((*gpu)[i]), TsMs: (*ts)[i], AvailableMs: (*available)[i],
				Values: values, EnergyJ: energy.at(i), MMACycles: math.NaN()})
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read rows of management controllers: %w", err)
	}
	return gpus, hosts, nil
}

// besideBand adds those rows from out of band whose GPU has none in band in the same minute:
// the two vantages measure the same thing, and are compared elsewhere, not averaged.
func besideBand(in, out []GPURow) []GPURow {
	if len(out) == 0 {
		return in
	}
	type cell struct {
		node   string
		gpu    int
		minute int64
	}
	have := map[cell]bool{}
	for i := range in {
		have[cell{in[i].Node, in[i].GPU, in[i].TsMs / minuteMs}] = true
	}
	for i := range out {
		if r := &out[i]; !have[cell{r.Node, r.GPU, r.TsMs / minuteMs}] {
			in = append(in, *r)
		}
	}
	slices.SortStableFunc(in, func(a, b GPURow) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU), cmp.Compare(a.TsMs, b.TsMs), strings.Compare(a.UUID, b.UUID))
	})
	return in
}

// tcpFlows reads what the kernel counted, as traffic towards peers, all jobs of a host
// together. A peer whose address one node of the cluster says to have is that node.
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
		if n := owners[out[i].Peer]; n != "" {
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

// addressOwners says which node has an address, by what stands for it. One that several nodes
// claim (a bridge's, the same on every host) is nobody's.
func (s *Store) addressOwners(ctx context.Context, q RowQuery) (map[string]string, error) {
	var sel selection
	node, value := sel.text("node"), sel.optionalText("value")
	all := q
	all.Nodes = nil
	var b strings.Builder
	fmt.Fprintf(&b, " FROM %s WHERE cluster = %s AND subject = 'host' AND name = 'address'", s.table(TableNodeFacts), quote(q.Cluster))
	all.restrict(&b)
	b.WriteString(" GROUP BY node, value ORDER BY node, value")
	owners := map[string]string{}
	err := s.native.query(ctx, sel.sql()+b.String(), sel.res, func(rows int) error {
		for i := range rows {
			v := value.at(i)
			if !strings.HasPrefix(v, "addr-") {
				continue
			}
			if had, ok := owners[v]; ok && had != node.at(i) {
				owners[v] = ""
				continue
			}
			owners[v] = node.at(i)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read addresses of nodes: %w", err)
	}
	return owners, nil
}
