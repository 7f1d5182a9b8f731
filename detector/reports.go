package detector

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/internal/store"
)

// WriteReports writes one folder a finding of the moment judged last, and copies the raw
// rows that findings on a run's total rest on to the evidence tables, so that they
// outlive the raw tables. It returns the folders, by finding id.
func (d *Detector) WriteReports(ctx context.Context, dir, recording string) (map[string]string, error) {
	return d.writeReports(ctx, dir, recording, slices.Sorted(maps.Keys(d.prev)), true)
}

// writeReports writes the folders of some findings; last: of the last moment of a recording.
func (d *Detector) writeReports(ctx context.Context, dir, recording string, ids []string, last bool) (map[string]string, error) {
	ev := d.st.evidence(max(d.startMs, d.cutMs), d.prevAtMs, last)
	runs, lines := map[string]int{}, []RunLine(nil)
	if len(ids) > 0 {
		lines = d.lines(ev, d.acts, d.campaigns)
	}
	for i := range d.acts {
		runs[d.acts[i].run.ID] = i
	}
	paths := make(map[string]string, len(ids))
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f := d.prev[id]
		if !report.IsFinding(f.Limb) {
			continue // a question has no report
		}
		folder := report.Folder{
			Finding: f, Profile: d.profileText(f.Profile), AtMs: d.prevAtMs, Cluster: d.cfg.Cluster, Recording: recording,
			Detector: Version, Config: d.cfg.ConfigDigest,
		}
		rows := evidenceRows{ev: ev, f: f}
		if len(f.Runs) > 0 {
			if i, ok := runs[f.Runs[0]]; ok {
				a := &d.acts[i]
				state := a.state()
				folder.Run, folder.RunLine = &state, lines[i]
				rows.members = a.run.Members
				if f.Limb == report.Actual {
					if err := d.copyEvidence(ctx, id, a.run); err != nil {
						return nil, err
					}
				}
			}
		}
		folder.Evidence = rows.files()
		path, err := report.WriteFolder(dir, folder)
		if err != nil {
			return nil, fmt.Errorf("write report %s: %w", id, err)
		}
		paths[id] = path
	}
	return paths, nil
}

// copyEvidence copies the raw rows of a run's GPUs and hosts that were not copied before, a
// day of a host at a time.
func (d *Detector) copyEvidence(ctx context.Context, finding string, r run.Run) error {
	if d.copied[finding] == nil {
		d.copied[finding] = map[string]span{}
	}
	for node, whole := range spans(r.Members) {
		for _, part := range whole.without(d.copied[finding][node]) {
			for from := part.from; from <= part.to; from += dayMs {
				q := store.RowQuery{Cluster: d.cfg.Cluster, Nodes: []string{node}, FromMs: from, ToMs: min(from+dayMs, part.to+1)}
				gpu, err := d.store.GPURows(ctx, q)
				if err != nil {
					return err
				}
				gpu = slices.DeleteFunc(gpu, func(g store.GPURow) bool { return !covers(r.Members, node, g.GPU, g.TsMs) })
				host, err := d.store.HostRows(ctx, q)
				if err != nil {
					return err
				}
				if err := d.store.PutEvidence(ctx, d.cfg.Cluster, finding, gpu, host); err != nil {
					return fmt.Errorf("copy evidence of finding %s: %w", finding, err)
				}
			}
		}
		d.copied[finding][node] = whole
	}
	return nil
}

type span struct{ from, to int64 }

// lateMs is how much of what was copied is copied again, for rows that came late.
const lateMs = 30 * 60_000

// without is what of a span lies outside of one that was copied already.
func (s span) without(had span) []span {
	if had == (span{}) || s.to < had.from || s.from > had.to {
		return []span{s}
	}
	var out []span
	if s.from < had.from {
		out = append(out, span{s.from, had.from - 1})
	}
	if from := max(s.from, had.to-lateMs); s.to > from {
		out = append(out, span{from, s.to})
	}
	return out
}

// spans gives each node of the members with its whole stretch of time, sorted by node.
func spans(members []run.Member) iter.Seq2[string, span] {
	at := map[string]span{}
	var nodes []string
	for _, m := range members {
		s, ok := at[m.Node]
		if !ok {
			nodes = append(nodes, m.Node)
			s = span{m.StartMs, m.EndMs}
		}
		at[m.Node] = span{min(s.from, m.StartMs), max(s.to, m.EndMs)}
	}
	slices.Sort(nodes)
	return func(yield func(string, span) bool) {
		for _, n := range nodes {
			if !yield(n, at[n]) {
				return
			}
		}
	}
}

func covers(members []run.Member, node string, gpu int, tsMs int64) bool {
	for _, m := range members {
		if m.Node == node && m.GPU == gpu && tsMs >= m.StartMs && tsMs <= m.EndMs {
			return true
		}
	}
	return false
}

// evidenceRows finds the rows that a finding rests on: the cells of its run, or of the
// stretches that its evidence names, and what was stated about its accounts and orders.
type evidenceRows struct {
	ev      *feature.Evidence
	f       report.Finding
	members []run.Member
}

func (e *evidenceRows) files() iter.Seq[report.EvidenceFile] {
	return func(yield func(report.EvidenceFile) bool) {
		for _, t := range []struct {
			name string
			rows func() [][]string
		}{
			{"cells_gpu.csv", e.gpuCells}, {"cells_node.csv", e.nodeCells}, {"collectives_minute.csv", e.comm},
			{"processes.csv", e.processes}, {"allocations.csv", e.allocations}, {"orders.csv", e.orders}, {"nodes.csv", e.nodes},
		} {
			rows := t.rows()
			if len(rows) < 2 {
				continue
			}
			file := report.EvidenceFile{Name: t.name, Write: func(w io.Writer) error {
				c := csv.NewWriter(w)
				if err := c.WriteAll(rows); err != nil {
					return fmt.Errorf("write %s: %w", t.name, err)
				}
				return nil
			}}
			if !yield(file) {
				return
			}
		}
	}
}

// on reports whether the finding rests on a node, or a GPU of it (gpu -1: the node), at
// a minute.
func (e *evidenceRows) on(node string, gpu int, minuteMs int64) bool {
	to := minuteMs + feature.MinuteMs
	for _, m := range e.members {
		if m.Node == node && (gpu < 0 || m.GPU == gpu) && to > m.StartMs && minuteMs <= m.EndMs {
			return true
		}
	}
	if e.members != nil {
		return false
	}
	for _, x := range e.f.Evidence {
		if x.Node == node && (gpu < 0 || x.GPU == nil || *x.GPU == gpu) && x.Strength != "declared" && to > x.FromMs && minuteMs <= x.ToMs {
			return true
		}
	}
	return false
}

func text(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

func ms(v int64) string { return strconv.FormatInt(v, 10) }

func (e *evidenceRows) gpuCells() [][]string {
	head := []string{"minute_ms", "node", "gpu", "samples"}
	for _, s := range feature.SignalNames {
		head = append(head, s+"_mean", s+"_ms")
	}
	head = append(head, "tensor_clock_mhz", "tensor_clock_ms")
	for _, c := range []string{"energy_j", "mma_cycles"} {
		head = append(head, c+"_first_ms", c+"_first", c+"_last_ms", c+"_last", c+"_delta")
	}
	rows := [][]string{head}
	for _, k := range e.ev.GPUKeys() {
		cells := e.ev.Cells(k)
		for i := range cells {
			c := &cells[i]
			if !e.on(k.Node, k.GPU, c.MinuteMs) {
				continue
			}
			row := []string{ms(c.MinuteMs), c.Node, strconv.Itoa(c.GPU), strconv.Itoa(c.Samples)}
			for s := range feature.NumSignals {
				if c.Has(s) {
					row = append(row, text(c.Mean[s]), ms(c.CoverMs[s]))
				} else {
					row = append(row, "", "")
				}
			}
			if c.TensorClockMs > 0 {
				row = append(row, text(c.TensorClockMHz), ms(c.TensorClockMs))
			} else {
				row = append(row, "", "")
			}
			for _, n := range []feature.Counter{c.EnergyJ, c.MMACycles} {
				if n.Has() {
					row = append(row, ms(n.FirstMs), text(n.First), ms(n.LastMs), text(n.Last), text(n.Delta))
				} else {
					row = append(row, "", "", "", "", "")
				}
			}
			rows = append(rows, row)
		}
	}
	return rows
}

func (e *evidenceRows) nodeCells() [][]string {
	rows := [][]string{{"minute_ms", "node", "power_w", "power_ms", "cpu_frac", "storage_tx_bps", "storage_rx_bps", "fabric_tx_bytes", "fabric_rx_bytes", "fabric_ms"}}
	nodes := make([]string, 0, len(e.ev.Host))
	for n := range e.ev.Host {
		nodes = append(nodes, n)
	}
	slices.Sort(nodes)
	for _, n := range nodes {
		for _, c := range e.ev.Host[n] {
			if !e.on(n, -1, c.MinuteMs) {
				continue
			}
			row := []string{ms(c.MinuteMs), n, "", "", "", "", "", "", "", ""}
			if c.PowerCoverMs > 0 {
				row[2], row[3] = text(c.PowerW), ms(c.PowerCoverMs)
			}
			if c.CPUCoverMs > 0 {
				row[4] = text(c.CPUFrac)
			}
			if c.StorageCoverMs > 0 {
				row[5], row[6] = text(c.StorageTxBps), text(c.StorageRxBps)
			}
			if c.FabricCoverMs > 0 {
				row[7], row[8], row[9] = text(c.FabricTxBytes), text(c.FabricRxBytes), ms(c.FabricCoverMs)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

func (e *evidenceRows) comm() [][]string {
	rows := [][]string{{"minute_ms", "node", "pid", "gpu", "comm", "nranks", "rank", "op", "calls", "bytes"}}
	for _, c := range e.ev.Comm {
		if e.members != nil && e.on(c.Node, c.GPU, c.MinuteMs) {
			rows = append(rows, []string{
				ms(c.MinuteMs), c.Node, strconv.Itoa(c.PID), strconv.Itoa(c.GPU), c.Comm, strconv.Itoa(c.NRanks), strconv.Itoa(c.Rank), c.Op, text(c.Calls), text(c.Bytes),
			})
		}
	}
	return rows
}

func (e *evidenceRows) processes() [][]string {
	rows := [][]string{{"start_ms", "end_ms", "node", "gpus", "pid", "exe", "launcher", "job_source", "job_id", "world_size", "rank"}}
	for _, p := range e.ev.Processes {
		if e.members == nil || !slices.ContainsFunc(e.members, func(m run.Member) bool {
			return m.Node == p.Node && slices.Contains(p.GPUs, m.GPU) && p.StartMs <= m.EndMs && (p.EndMs == 0 || p.EndMs >= m.StartMs)
		}) {
			continue
		}
		rows = append(rows, []string{
			ms(p.StartMs), optional(p.EndMs), p.Node, indices(p.GPUs), strconv.Itoa(p.PID), p.Exe, p.Launcher, p.JobSource, p.JobID, count(p.WorldSize), count(p.Rank),
		})
	}
	return rows
}

func (e *evidenceRows) allocations() [][]string {
	rows := [][]string{{"account", "node", "gpus", "start_ms", "end_ms"}}
	for _, a := range e.ev.Allocations {
		if slices.Contains(e.f.Accounts, a.Account) {
			rows = append(rows, []string{a.Account, a.Node, indices(a.GPUs), ms(a.StartMs), optional(a.EndMs)})
		}
	}
	return rows
}

func (e *evidenceRows) orders() [][]string {
	rows := [][]string{{"order", "account", "amended_ms", "gpu_model", "gpu_count", "fabric_gbps", "start_ms", "end_ms", "declared_use"}}
	for _, o := range e.ev.Orders {
		if !slices.Contains(e.f.Accounts, o.Account) && !slices.Contains(e.f.Orders, o.Order) {
			continue
		}
		rows = append(rows, []string{
			o.Order, o.Account, ms(o.AmendedMs), o.GPUModel, count(o.GPUCount), measured(o.FabricGbps), optional(o.StartMs), optional(o.EndMs), o.DeclaredUse,
		})
	}
	return rows
}

func (e *evidenceRows) nodes() [][]string {
	rows := [][]string{{"node", "site", "gpu_model", "gpu_count", "fabric_gbps", "vantage", "tdp_w", "listed", "driver_gpu_model", "driver_gpu_count"}}
	named := map[string]bool{}
	for _, m := range e.members {
		named[m.Node] = true
	}
	for _, x := range e.f.Evidence {
		named[x.Node] = true
	}
	names := make([]string, 0, len(named))
	for n := range named {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, name := range names {
		if n, ok := e.ev.Nodes[name]; ok {
			rows = append(rows, []string{n.Node, n.Site, n.GPUModel, count(n.GPUCount), measured(n.FabricGbps), n.Vantage, measured(n.TDPW), strconv.FormatBool(n.Listed), n.SeenModel, seenCount(n.SeenCount)})
		}
	}
	return rows
}

func indices(g []int) string {
	s := make([]string, len(g))
	for i, v := range g {
		s[i] = strconv.Itoa(v)
	}
	return strings.Join(s, " ")
}

// optional writes a time of 0, which means "not known" or "goes on", as an empty cell.
func optional(v int64) string {
	if v == 0 {
		return ""
	}
	return ms(v)
}

func count(v int) string {
	if v < 0 {
		return ""
	}
	return strconv.Itoa(v)
}

// seenCount writes a count of 0, which means that the driver said nothing, as an empty cell.
func seenCount(v int) string {
	if v == 0 {
		return ""
	}
	return strconv.Itoa(v)
}

func measured(v float64) string {
	if v != v { // NaN: not stated
		return ""
	}
	return text(v)
}
