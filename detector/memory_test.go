package detector

import (
	"cmp"
	"context"
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/store"
)

// memory is a store that holds one recording, as the collector would have stored it, and
// keeps what the detector writes. It answers as internal/store documents.
type memory struct {
	gpu         []store.GPURow
	host        []store.HostRow
	fabric      []store.FabricRow
	flows       []store.FlowRow
	comm        []store.CollectiveRow
	processes   []store.ProcessRow
	allocations []store.AllocationRow
	orders      []store.OrderRow
	inventory   []store.InventoryRow
	batches     []store.BatchRow
	devices     []store.DeviceRow
	instances   []store.InstanceRow
	checkpoints []store.CheckpointRow
	rates       map[string]float64
	losses      []store.Loss

	runs     map[string]store.RunRow     // latest version
	findings map[string]store.FindingRow // latest version
	cells    int
	stored   store.Cells // latest versions
}

// load reads a recording. Rows that share a node and a minute of arrival are a batch.
func load(t testing.TB, dir string) (*memory, *bundle.Bundle, *identity.Graph) {
	t.Helper()
	b, err := bundle.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{runs: map[string]store.RunRow{}, findings: map[string]store.FindingRow{}}
	type key struct {
		node    string
		arrival int64
	}
	batches := map[key]*store.BatchRow{}
	touch := func(node string, arrivalMs, tsMs int64) {
		k := key{node, feature.MinuteOf(arrivalMs)}
		if batches[k] == nil {
			batches[k] = &store.BatchRow{BatchKey: store.BatchKey{Cluster: b.Manifest.Cluster, Node: node}}
		}
		r := batches[k]
		r.AvailableMs = max(r.AvailableMs, arrivalMs)
		if minute := feature.MinuteOf(tsMs) / feature.MinuteMs; !slices.Contains(r.Minutes, minute) {
			r.Minutes = append(r.Minutes, minute)
		}
	}
	for _, n := range b.Listed {
		m.inventory = append(m.inventory, store.InventoryRow{Node: n.Node, Site: n.Site, GPUModel: n.GPUModel, Vantage: n.Vantage, GPUCount: n.GPUCount, FabricGbps: n.FabricGbps, TDPW: n.TDPW})
	}
	var at []bundle.GPUValue
	for _, name := range store.GPUMeasures {
		at = append(at, bundle.GPUValue(slices.Index(bundle.GPUColumns[:], name)))
	}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(b.GPU(func(r bundle.GPURow) error {
		x := store.GPURow{Node: r.Node, GPU: r.GPU, TsMs: r.TsMs, AvailableMs: r.ArrivalMs, EnergyJ: r.Value[bundle.EnergyJTotal], MMACycles: r.Value[bundle.MMACyclesTotal]}
		for _, i := range at {
			x.Values = append(x.Values, r.Value[i])
		}
		m.gpu = append(m.gpu, x)
		touch(r.Node, r.ArrivalMs, r.TsMs)
		return nil
	}))
	must(b.Host(func(r bundle.HostRow) error {
		m.host = append(m.host, store.HostRow{Node: r.Node, TsMs: r.TsMs, AvailableMs: r.ArrivalMs, PowerW: r.PowerW, CPUFrac: r.CPUFrac, StorageTxBps: r.StorageTxBps, StorageRxBps: r.StorageRxBps})
		touch(r.Node, r.ArrivalMs, r.TsMs)
		return nil
	}))
	must(b.Fabric(func(r bundle.FabricRow) error {
		m.fabric = append(m.fabric, store.FabricRow{Node: r.Node, Port: r.Port, Kind: r.Kind, TsMs: r.TsMs, AvailableMs: r.ArrivalMs, TxBytes: r.TxBytesTotal, RxBytes: r.RxBytesTotal})
		touch(r.Node, r.ArrivalMs, r.TsMs)
		return nil
	}))
	must(b.Flows(func(r bundle.FlowRow) error {
		m.flows = append(m.flows, store.FlowRow{Node: r.Node, Peer: r.Peer, TsMs: r.TsMs, AvailableMs: r.ArrivalMs, TxBytes: r.TxBytes})
		touch(r.Node, r.ArrivalMs, r.TsMs)
		return nil
	}))
	must(b.Collectives(func(r bundle.CollectiveRow) error {
		m.comm = append(m.comm, store.CollectiveRow{
			Node: r.Node, PID: r.PID, GPU: r.GPU, Comm: r.Comm, Op: r.Op, NRanks: max(r.NRanks, 0), Rank: r.Rank, TsMs: r.TsMs, AvailableMs: r.ArrivalMs, Calls: r.Calls, Bytes: r.Bytes,
		})
		touch(r.Node, r.ArrivalMs, r.TsMs)
		return nil
	}))
	must(b.Processes(func(r bundle.ProcessRow) error {
		m.processes = append(m.processes, store.ProcessRow{
			Node: r.Node, PID: r.PID, StartMs: r.StartMs, EndMs: r.EndMs, AvailableMs: r.ArrivalMs, GPUs: r.GPUs, Exe: r.Exe, Launcher: r.Launcher,
			JobSource: r.JobSource, JobID: r.JobID, User: r.User, Project: r.Project, WorldSize: r.WorldSize, Rank: r.Rank,
		})
		return nil
	}))
	must(b.Allocations(func(r bundle.AllocationRow) error {
		m.allocations = append(m.allocations, store.AllocationRow{Account: r.Account, Node: r.Node, GPUs: r.GPUs, StartMs: r.StartMs, EndMs: r.EndMs, AvailableMs: r.ArrivalMs})
		return nil
	}))
	must(b.Orders(func(r bundle.OrderRow) error {
		m.orders = append(m.orders, store.OrderRow{
			Order: r.Order, Account: r.Account, GPUModel: r.GPUModel, DeclaredUse: r.DeclaredUse, AmendedMs: r.AmendedMs, StartMs: r.StartMs, EndMs: r.EndMs,
			GPUCount: r.GPUCount, FabricGbps: r.FabricGbps, AvailableMs: r.ArrivalMs,
		})
		return nil
	}))
	for _, r := range batches {
		slices.Sort(r.Minutes)
		m.batches = append(m.batches, *r)
	}
	slices.SortFunc(m.batches, func(a, b store.BatchRow) int {
		return cmp.Or(cmp.Compare(a.AvailableMs, b.AvailableMs), cmp.Compare(a.Node, b.Node))
	})
	graph := identity.NewGraph(nil)
	if f, err := b.OpenParties(); err == nil {
		parties, _ := identity.Import(f)
		graph = identity.FromParties(parties)
		must(f.Close())
	}
	return m, b, graph
}

func within[R any](rows []R, q store.RowQuery, at func(R) (node string, tsMs, availableMs int64)) []R {
	var out []R
	for _, r := range rows {
		node, ts, available := at(r)
		if ts < q.FromMs || ts >= q.ToMs || (q.AvailableToMs != 0 && available > q.AvailableToMs) || (q.Nodes != nil && !slices.Contains(q.Nodes, node)) {
			continue
		}
		out = append(out, r)
	}
	return out
}

func (m *memory) BatchesAfter(_ context.Context, _ string, after, to int64) ([]store.BatchRow, error) {
	var out []store.BatchRow
	for _, b := range m.batches {
		if b.AvailableMs > after && (to == 0 || b.AvailableMs <= to) {
			out = append(out, b)
		}
	}
	return out, nil
}

func (m *memory) GPURows(_ context.Context, q store.RowQuery) ([]store.GPURow, error) {
	return within(m.gpu, q, func(r store.GPURow) (string, int64, int64) { return r.Node, r.TsMs, r.AvailableMs }), nil
}

func (m *memory) HostRows(_ context.Context, q store.RowQuery) ([]store.HostRow, error) {
	return within(m.host, q, func(r store.HostRow) (string, int64, int64) { return r.Node, r.TsMs, r.AvailableMs }), nil
}

func (m *memory) FabricRows(_ context.Context, q store.RowQuery) ([]store.FabricRow, error) {
	return within(m.fabric, q, func(r store.FabricRow) (string, int64, int64) { return r.Node, r.TsMs, r.AvailableMs }), nil
}

func (m *memory) FlowRows(_ context.Context, q store.RowQuery) ([]store.FlowRow, error) {
	return within(m.flows, q, func(r store.FlowRow) (string, int64, int64) { return r.Node, r.TsMs, r.AvailableMs }), nil
}

func (m *memory) CollectiveRows(_ context.Context, q store.RowQuery) ([]store.CollectiveRow, error) {
	return within(m.comm, q, func(r store.CollectiveRow) (string, int64, int64) { return r.Node, r.TsMs, r.AvailableMs }), nil
}

func (m *memory) ProcessRows(context.Context, store.AsOf) ([]store.ProcessRow, error) {
	return m.processes, nil
}

func (m *memory) AllocationRows(context.Context, store.AsOf) ([]store.AllocationRow, error) {
	return m.allocations, nil
}

func (m *memory) OrderRows(context.Context, store.AsOf) ([]store.OrderRow, error) {
	return m.orders, nil
}

func (m *memory) Losses(context.Context, store.AsOf) ([]store.Loss, error) { return m.losses, nil }

func (m *memory) InventoryRows(context.Context, store.AsOf) ([]store.InventoryRow, error) {
	return m.inventory, nil
}

func (m *memory) InstanceHours(_ context.Context, q store.RowQuery) ([]store.InstanceRow, error) {
	return within(m.instances, q, func(r store.InstanceRow) (string, int64, int64) { return r.Node, r.HourMs, 0 }), nil
}

func (m *memory) CheckpointRows(_ context.Context, a store.AsOf) ([]store.CheckpointRow, error) {
	var out []store.CheckpointRow
	for _, r := range m.checkpoints {
		if r.EndMs > 0 && r.EndMs >= a.EndedFromMs {
			out = append(out, r)
		}
	}
	return out, nil
}

func (m *memory) DeviceRows(context.Context, store.AsOf) ([]store.DeviceRow, error) {
	return m.devices, nil
}

func (m *memory) FabricRates(context.Context, store.RowQuery) (map[string]float64, error) {
	return m.rates, nil
}

func (m *memory) PutCells(_ context.Context, c store.Cells, _ store.Provenance) error {
	m.cells += len(c.GPU) + len(c.Node) + len(c.Comm) + len(c.Flow)
	// Rows of a minute that is written again take the place of the earlier ones.
	m.stored.GPU = replace(m.stored.GPU, c.GPU, func(r store.GPUCellRow) any { return [3]any{r.Node, r.GPU, r.MinuteMs} })
	m.stored.Node = replace(m.stored.Node, c.Node, func(r store.NodeCellRow) any { return [2]any{r.Node, r.MinuteMs} })
	m.stored.Comm = replace(m.stored.Comm, c.Comm, func(r store.CommCellRow) any { return [6]any{r.Node, r.PID, r.GPU, r.Comm, r.Op, r.MinuteMs} })
	m.stored.Hour = replace(m.stored.Hour, c.Hour, func(r store.GPUHourRow) any { return [3]any{r.Node, r.GPU, r.MinuteMs} })
	m.stored.Flow = replace(m.stored.Flow, c.Flow, func(r store.FlowCellRow) any { return [3]any{r.Node, r.Peer, r.MinuteMs} })
	return nil
}

func replace[R any](rows, with []R, key func(R) any) []R {
	again := make(map[any]bool, len(with))
	for _, r := range with {
		again[key(r)] = true
	}
	return append(slices.DeleteFunc(rows, func(r R) bool { return again[key(r)] }), with...)
}

func (m *memory) GPUCells(_ context.Context, q store.RowQuery) ([]store.GPUCellRow, error) {
	return within(m.stored.GPU, q, func(r store.GPUCellRow) (string, int64, int64) { return r.Node, r.MinuteMs, r.AvailableMs }), nil
}

func (m *memory) NodeCells(_ context.Context, q store.RowQuery) ([]store.NodeCellRow, error) {
	return within(m.stored.Node, q, func(r store.NodeCellRow) (string, int64, int64) { return r.Node, r.MinuteMs, r.AvailableMs }), nil
}

func (m *memory) CommCells(_ context.Context, q store.RowQuery) ([]store.CommCellRow, error) {
	return within(m.stored.Comm, q, func(r store.CommCellRow) (string, int64, int64) { return r.Node, r.MinuteMs, r.AvailableMs }), nil
}

func (m *memory) FlowCells(_ context.Context, q store.RowQuery) ([]store.FlowCellRow, error) {
	return within(m.stored.Flow, q, func(r store.FlowCellRow) (string, int64, int64) { return r.Node, r.MinuteMs, r.AvailableMs }), nil
}

func (m *memory) PutRuns(_ context.Context, _ string, rows []store.RunRow) error {
	for _, r := range rows {
		m.runs[r.RunID] = r
	}
	return nil
}

func (m *memory) PutRunMembers(context.Context, string, []store.RunMemberRow) error { return nil }

func (m *memory) PutFindings(_ context.Context, _ string, rows []store.FindingRow) error {
	for _, r := range rows {
		m.findings[r.FindingID] = r
	}
	return nil
}

func (m *memory) PutEvidence(context.Context, string, string, []store.GPURow, []store.HostRow) error {
	return nil
}

func (m *memory) LatestRuns(context.Context, string) ([]store.RunRow, error) {
	out := make([]store.RunRow, 0, len(m.runs))
	for _, r := range m.runs {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b store.RunRow) int { return cmp.Compare(a.RunID, b.RunID) })
	return out, nil
}

func (m *memory) LatestFindings(context.Context, string) ([]store.FindingRow, error) {
	out := make([]store.FindingRow, 0, len(m.findings))
	for _, r := range m.findings {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b store.FindingRow) int { return cmp.Compare(a.FindingID, b.FindingID) })
	return out, nil
}
