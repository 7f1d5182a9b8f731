package playback

import (
	"fmt"
	"math"

	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// open starts reading every file. Small files that have to be reordered or summed are
// read whole.
func (p *player) open() ([]*feed, error) {
	processes, err := p.processes()
	if err != nil {
		return nil, err
	}
	allocations, err := p.allocations()
	if err != nil {
		return nil, err
	}
	orders, err := all(p.b.Orders)
	if err != nil {
		return nil, err
	}
	sortByArrival(orders, func(r bundle.OrderRow) int64 { return r.ArrivalMs })
	flows, err := p.flows()
	if err != nil {
		return nil, err
	}
	return []*feed{
		rows(p.b.Listed, func(bundle.NodeRow) int64 { return p.b.Manifest.StartMs }, p.putInventory),
		rows(allocations, func(r bundle.AllocationRow) int64 { return r.ArrivalMs }, p.putAllocation),
		rows(orders, func(r bundle.OrderRow) int64 { return r.ArrivalMs }, p.putOrder),
		rows(processes, func(r bundle.ProcessRow) int64 { return r.ArrivalMs }, p.putProcess),
		open(p.b.GPU, func(r bundle.GPURow) int64 { return r.ArrivalMs }, p.gpu()),
		open(p.b.Host, func(r bundle.HostRow) int64 { return r.ArrivalMs }, p.putHost),
		open(p.b.Fabric, func(r bundle.FabricRow) int64 { return r.ArrivalMs }, p.putFabric),
		rows(flows, func(r bundle.FlowRow) int64 { return r.ArrivalMs }, p.putFlow),
		open(p.b.Collectives, func(r bundle.CollectiveRow) int64 { return r.ArrivalMs }, p.putCollective),
	}, nil
}

func all[T any](read func(func(T) error) error) ([]T, error) {
	var out []T
	err := read(func(r T) error { out = append(out, r); return nil })
	return out, err
}

// processes lists each process at its start, and again at its end, when the end became
// known. Where both fall into one chunk the one row with the end says all.
func (p *player) processes() ([]bundle.ProcessRow, error) {
	return startsAndEnds(p.clock.ChunkMs, p.b.Processes, func(r *bundle.ProcessRow) span { return span{&r.EndMs, &r.ArrivalMs, r.EndArrivalMs} })
}

// allocations lists each rental as processes lists processes.
func (p *player) allocations() ([]bundle.AllocationRow, error) {
	return startsAndEnds(p.clock.ChunkMs, p.b.Allocations, func(r *bundle.AllocationRow) span { return span{&r.EndMs, &r.ArrivalMs, r.EndArrivalMs} })
}

// span is what startsAndEnds reads and changes of a row.
type span struct {
	endMs, arrivalMs *int64
	endArrivalMs     int64
}

func startsAndEnds[T any](chunk int64, read func(func(T) error) error, of func(*T) span) ([]T, error) {
	rows, err := all(read)
	if err != nil {
		return nil, err
	}
	out := make([]T, 0, 2*len(rows))
	for _, r := range rows {
		s := of(&r)
		if *s.endMs != 0 && chunkStart(s.endArrivalMs, chunk) != chunkStart(*s.arrivalMs, chunk) {
			ended := r
			*of(&ended).arrivalMs = s.endArrivalMs
			out = append(out, ended)
			*s.endMs = 0
		}
		out = append(out, r)
	}
	sortByArrival(out, func(r T) int64 { return *of(&r).arrivalMs })
	return out, nil
}

// flows sums rows of one pair and time: each is traffic since the pair's last row, and
// the store keeps one row a key.
func (p *player) flows() ([]bundle.FlowRow, error) {
	type key struct {
		tsMs       int64
		node, peer string
	}
	at := map[key]int{}
	var out []bundle.FlowRow
	err := p.b.Flows(func(r bundle.FlowRow) error {
		k := key{r.TsMs, r.Node, r.Peer}
		i, ok := at[k]
		if !ok {
			at[k] = len(out)
			out = append(out, r)
			return nil
		}
		if math.IsNaN(out[i].TxBytes) {
			out[i].TxBytes = r.TxBytes
		} else if !math.IsNaN(r.TxBytes) {
			out[i].TxBytes += r.TxBytes
		}
		out[i].ArrivalMs = max(out[i].ArrivalMs, r.ArrivalMs)
		return nil
	})
	sortByArrival(out, func(r bundle.FlowRow) int64 { return r.ArrivalMs })
	return out, err
}

func (p *player) gpu() func(bundle.GPURow) error {
	id := p.id[wire.KindGPU]
	ts, uid, index := id["ts_ms"], id["gpu_uuid"], id["gpu"]
	type key struct {
		node string
		gpu  int
	}
	uuids := map[key]string{}
	return func(r bundle.GPURow) error {
		t, err := p.node(r.Node)
		if err != nil {
			return err
		}
		k := key{r.Node, r.GPU}
		if uuids[k] == "" {
			uuids[k] = GPUUUID(p.b.Manifest.Cluster, r.Node, r.GPU)
		}
		b := t.begin(wire.KindGPU, r.ArrivalMs)
		b.SetInt(ts, p.at(r.TsMs))
		b.SetStr(uid, uuids[k])
		b.SetInt(index, int64(r.GPU))
		for _, f := range p.gpuFields {
			setFloat(b, f.id, r.Value[f.value], f.scale)
		}
		return end(b, r.Line)
	}
}

// end closes a row; an error here is a row that the bundle's reader let through and the
// wire refuses.
func end(b *wire.Builder, line int) error {
	if err := b.End(); err != nil {
		return fmt.Errorf("put line %d of the recording on the wire: %w", line, err)
	}
	return nil
}

func (p *player) putHost(r bundle.HostRow) error {
	t, err := p.node(r.Node)
	if err != nil {
		return err
	}
	b, id := t.begin(wire.KindHost, r.ArrivalMs), p.id[wire.KindHost]
	b.SetInt(id["ts_ms"], p.at(r.TsMs))
	setFloat(b, id["power_mw"], r.PowerW, 1e3)
	setFloat(b, id["cpu_e4"], r.CPUFrac, 1e4)
	setFloat(b, id["storage_tx_bps"], r.StorageTxBps, 1)
	setFloat(b, id["storage_rx_bps"], r.StorageRxBps, 1)
	return end(b, r.Line)
}

func (p *player) putFabric(r bundle.FabricRow) error {
	t, err := p.node(r.Node)
	if err != nil {
		return err
	}
	b, id := t.begin(wire.KindFabric, r.ArrivalMs), p.id[wire.KindFabric]
	b.SetInt(id["ts_ms"], p.at(r.TsMs))
	b.SetStr(id["port"], r.Port)
	setText(b, id["fabric_kind"], r.Kind)
	setFloat(b, id["tx_bytes"], r.TxBytesTotal, 1)
	setFloat(b, id["rx_bytes"], r.RxBytesTotal, 1)
	return end(b, r.Line)
}

func (p *player) putFlow(r bundle.FlowRow) error {
	t, err := p.node(r.Node)
	if err != nil {
		return err
	}
	b, id := t.begin(wire.KindFlow, r.ArrivalMs), p.id[wire.KindFlow]
	b.SetInt(id["ts_ms"], p.at(r.TsMs))
	b.SetStr(id["peer"], r.Peer)
	setFloat(b, id["tx_bytes"], r.TxBytes, 1)
	return end(b, r.Line)
}

func (p *player) putProcess(r bundle.ProcessRow) error {
	t, err := p.node(r.Node)
	if err != nil {
		return err
	}
	b, id := t.begin(wire.KindProcess, r.ArrivalMs), p.id[wire.KindProcess]
	b.SetInt(id["start_ms"], p.at(r.StartMs))
	b.SetInt(id["pid"], r.PID)
	if r.EndMs != 0 {
		b.SetInt(id["end_ms"], p.at(r.EndMs))
	}
	setText(b, id["gpu_list"], gpuList(r.GPUs))
	setText(b, id["exe"], r.Exe)
	setText(b, id["launcher"], r.Launcher)
	setText(b, id["job_source"], r.JobSource)
	setText(b, id["job_id"], r.JobID)
	setText(b, id["user_hash"], r.User) // hashed by the recorder
	setText(b, id["project_hash"], r.Project)
	setCount(b, id["world_size"], r.WorldSize)
	setCount(b, id["rank"], r.Rank)
	return end(b, r.Line)
}

func (p *player) putCollective(r bundle.CollectiveRow) error {
	t, err := p.node(r.Node)
	if err != nil {
		return err
	}
	b, id := t.begin(wire.KindCollective, r.ArrivalMs), p.id[wire.KindCollective]
	b.SetInt(id["ts_ms"], p.at(r.TsMs))
	b.SetInt(id["pid"], r.PID)
	b.SetInt(id["gpu"], int64(r.GPU)) // a key: Absent (-1) stays what it is
	b.SetStr(id["comm"], r.Comm)
	b.SetStr(id["op"], r.Op)
	setCount(b, id["nranks"], r.NRanks)
	setCount(b, id["rank"], r.Rank)
	setFloat(b, id["calls"], r.Calls, 1)
	setFloat(b, id["bytes"], r.Bytes, 1)
	return end(b, r.Line)
}

func (p *player) putInventory(r bundle.NodeRow) error {
	if p.provider.rows >= maxRows {
		if err := p.sealProvider(); err != nil {
			return err
		}
	}
	b, id := p.provider.begin(wire.KindInventory, p.b.Manifest.StartMs), p.id[wire.KindInventory]
	b.SetStr(id["node"], r.Node)
	setText(b, id["site"], r.Site)
	setText(b, id["gpu_model"], r.GPUModel)
	setCount(b, id["gpu_count"], r.GPUCount)
	setFloat(b, id["fabric_mbps"], r.FabricGbps, 1e3)
	setText(b, id["vantage"], r.Vantage)
	setFloat(b, id["tdp_mw"], r.TDPW, 1e3)
	return end(b, r.Line)
}

func (p *player) putAllocation(r bundle.AllocationRow) error {
	b, id := p.provider.begin(wire.KindAllocation, r.ArrivalMs), p.id[wire.KindAllocation]
	b.SetStr(id["account"], r.Account)
	b.SetStr(id["node"], r.Node)
	b.SetStr(id["gpu_list"], gpuList(r.GPUs))
	b.SetInt(id["start_ms"], p.at(r.StartMs))
	if r.EndMs != 0 {
		b.SetInt(id["end_ms"], p.at(r.EndMs))
	}
	return end(b, r.Line)
}

func (p *player) putOrder(r bundle.OrderRow) error {
	b, id := p.provider.begin(wire.KindOrder, r.ArrivalMs), p.id[wire.KindOrder]
	b.SetStr(id["order"], r.Order)
	b.SetInt(id["amended_ms"], p.at(r.AmendedMs))
	setText(b, id["account"], r.Account)
	setText(b, id["gpu_model"], r.GPUModel)
	setCount(b, id["gpu_count"], r.GPUCount)
	setFloat(b, id["fabric_mbps"], r.FabricGbps, 1e3)
	if r.StartMs != 0 {
		b.SetInt(id["start_ms"], p.at(r.StartMs))
	}
	if r.EndMs != 0 {
		b.SetInt(id["end_ms"], p.at(r.EndMs))
	}
	setText(b, id["declared_use"], r.DeclaredUse)
	return end(b, r.Line)
}
