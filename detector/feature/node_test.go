package feature

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

func TestReduceNode(t *testing.T) {
	t.Parallel()
	nan := math.NaN()
	host := []HostSample{
		{Node: "n", TsMs: t0 - 15_000, AvailableMs: t0, PowerW: 1000, CPUFrac: nan, StorageTxBps: nan, StorageRxBps: nan},
		{Node: "n", TsMs: t0 + 15_000, AvailableMs: t0 + 90_000, PowerW: 2000, CPUFrac: nan, StorageTxBps: 5, StorageRxBps: nan},
		{Node: "n", TsMs: t0 + 45_000, AvailableMs: t0 + 46_000, PowerW: 3000, CPUFrac: nan, StorageTxBps: 0, StorageRxBps: nan},
	}
	c, ok := ReduceNode("n", host, nil, t0)
	if !ok || c.PowerCoverMs != 60_000 || c.CPUCoverMs != 0 || c.FabricCoverMs != 0 || c.AvailableMs != t0+90_000 {
		t.Fatalf("cell %+v", c)
	}
	near(t, "power", c.PowerW, 2500)
	near(t, "sd", c.PowerSD, 500)
	near(t, "cpu", c.CPUFrac, nan)
	near(t, "storage tx: measured zero", c.StorageTxBps, 0)
	near(t, "storage rx", c.StorageRxBps, nan)
	near(t, "fabric", c.FabricTxBytes, nan)
	if _, ok := ReduceNode("n", host[:1], nil, t0); ok {
		t.Error("a minute without rows gave a cell")
	}
}

func TestReduceNodeFabric(t *testing.T) {
	t.Parallel()
	port := func(p, kind string, ts int64, tx, rx float64) FabricSample {
		return FabricSample{Node: "n", Port: p, Kind: kind, TsMs: ts, AvailableMs: ts, TxBytes: tx, RxBytes: rx}
	}
	rows := []FabricSample{
		port("a", "infiniband", t0-10_000, 1000, 0), port("b", "roce", t0-10_000, 0, 0), port("e", "ethernet", t0-10_000, 0, 0),
		port("a", "infiniband", t0+10_000, 1200, math.NaN()), port("b", "roce", t0+10_000, 50, 10), port("e", "ethernet", t0+10_000, 7, 3),
		port("a", "infiniband", t0+10_000, 1200, math.NaN()), // a repeat
		port("a", "infiniband", t0+20_000, 300, 40),          // reset
		port("a", "infiniband", t0+30_000, 400, 90),
		port("c", "roce", t0+5_000, 1e12, 1e12), // first reading of a port: no increment
	}
	c, ok := ReduceNode("n", nil, rows, t0)
	if !ok || c.FabricCoverMs != 40_000 || c.EthernetCoverMs != 20_000 {
		t.Fatalf("cell %+v", c)
	}
	near(t, "tx", c.FabricTxBytes, 200+300+100+50)
	near(t, "rx", c.FabricRxBytes, 40+50+10)
	near(t, "ethernet", c.EthernetTxBytes, 7)
	if c.FabricTxCV <= 0 {
		t.Error("no burstiness from three readings")
	}
	// A first reading alone shows that the port was seen, not what it moved.
	c, ok = ReduceNode("n", nil, rows[9:], t0)
	if !ok || c.FabricCoverMs != 0 {
		t.Errorf("lone reading: %v %+v", ok, c)
	}
	near(t, "lone reading", c.FabricTxBytes, math.NaN())
}

// TestVirtualFunctions: what passes a virtual function is not added to what passes its parent, of
// whatever kind; one whose parent is not read counts.
func TestVirtualFunctions(t *testing.T) {
	t.Parallel()
	var rows []FabricSample
	for i := range int64(3) {
		ts, n := t0+i*20_000, float64(i)
		for _, r := range []FabricSample{
			{Port: "eth0", Kind: "ethernet", TxBytes: n * 100}, {Port: "eth0/vf1", Kind: "vf", Parent: "eth0", TxBytes: n * 40},
			{Port: "mlx5_0/1", Kind: "roce", TxBytes: n * 1000}, {Port: "mlx5_0/vf2", Kind: "vf", Parent: "mlx5_0/1", TxBytes: n * 400},
			{Port: "eth9/vf0", Kind: "vf", Parent: "eth9", TxBytes: n * 7}, {Port: "ens3", Kind: "vf", TxBytes: n * 3},
		} {
			r.Node, r.TsMs, r.AvailableMs, r.RxBytes = "n", ts, ts, r.TxBytes
			rows = append(rows, r)
		}
	}
	c, ok := ReduceNode("n", nil, rows, t0)
	if !ok || c.FabricTxBytes != 2000 || c.FabricRxBytes != 2000 || c.EthernetTxBytes != 220 || c.EthernetRxBytes != 220 {
		t.Errorf("cell: %+v", c)
	}
}

// TestGuestsTraffic: where an adapter counts virtual functions apart, their bytes are what passed
// it at least: a guest that trains is not a port that is silent. Of parent and functions the greater
// counts, each way by itself, and those of a parent that was not read twice in time as well.
func TestGuestsTraffic(t *testing.T) {
	t.Parallel()
	var rows []FabricSample
	add := func(ts int64, port, kind, parent string, tx, rx float64) {
		rows = append(rows, FabricSample{Node: "n", Port: port, Kind: kind, Parent: parent, TsMs: ts, AvailableMs: ts + 5, TxBytes: tx, RxBytes: rx})
	}
	for i := range int64(4) {
		ts, n := t0+i*15_000, float64(i)
		add(ts, "eth0", "ethernet", "", n, n*500)
		add(ts, "eth0/vf1", "vf", "eth0", n*300, n*100)
		add(ts, "eth0/vf2", "vf", "eth0", n*200, math.NaN())
		add(ts, "mlx5_0/1", "infiniband", "", 0, 0)
		add(ts, "mlx5_0/vf0", "vf", "mlx5_0/1", n*7000, n*8000)
		add(ts, "odd", "vf", "odd", n, n) // its own parent, if that could be
	}
	add(t0, "eth5", "ethernet", "", 1, 1)
	add(t0+20_000, "eth5/vf0", "vf", "eth5", 10, 20)
	add(t0+50_000, "eth5/vf0", "vf", "eth5", 1010, 2020)
	c, ok := ReduceNode("n", nil, rows, t0)
	if !ok || c.FabricTxBytes != 21_000 || c.FabricRxBytes != 24_000 || c.EthernetTxBytes != 1500+3+1000 || c.EthernetRxBytes != 1500+3+2000 {
		t.Errorf("cell: %+v", c)
	}
	if c.FabricCoverMs != 45_000 || c.AvailableMs != t0+50_005 || math.IsNaN(c.FabricTxCV) {
		t.Errorf("cover and availability: %+v", c)
	}
	slices.Reverse(rows)
	if again, _ := ReduceNode("n", nil, rows, t0); fmt.Sprint(again) != fmt.Sprint(c) { // NaN is not equal to itself
		t.Errorf("another order: %+v, %+v", again, c)
	}
}

func TestReduceComm(t *testing.T) {
	t.Parallel()
	row := func(ts int64, pid int, op string, bytes float64) Collective {
		return Collective{Node: "n", PID: pid, GPU: 2, Comm: "c", Op: op, NRanks: 8, Rank: 1, TsMs: ts, AvailableMs: ts + 1, Calls: 3, Bytes: bytes}
	}
	got := ReduceComm([]Collective{
		row(t0+30_000, 7, "allreduce", 10), row(t0+10_000, 7, "allreduce", 5), row(t0+10_000, 7, "allreduce", 5),
		row(t0+10_000, 7, "allgather", math.NaN()), row(t0+60_000, 7, "allreduce", 99), row(t0, 3, "allreduce", 1),
	}, t0)
	if len(got) != 3 || got[0].PID != 3 || got[1].Op != "allgather" || got[2].Bytes != 15 || got[2].Calls != 6 || got[2].AvailableMs != t0+30_001 {
		t.Errorf("cells %+v", got)
	}
	near(t, "bytes not measured", got[1].Bytes, math.NaN())
	// The store keeps one cell a process, GPU, communicator and op: what is read back is what was made.
	early := row(t0, 3, "allreduce", 1)
	early.NRanks, early.Rank = 0, -1
	if got := ReduceComm([]Collective{row(t0+9_000, 3, "allreduce", 2), early, row(t0, 3, "allreduce", 1)}, t0); len(got) != 1 || got[0].NRanks != 8 || got[0].Rank != 1 || got[0].Bytes != 4 {
		t.Errorf("a rank that was not known at first: %+v", got)
	}
}

func TestReduceFlows(t *testing.T) {
	t.Parallel()
	got := ReduceFlows([]Flow{
		{Node: "n", Peer: "b", TsMs: t0 + 1, TxBytes: 2}, {Node: "n", Peer: "a", TsMs: t0 + 5, TxBytes: 1},
		{Node: "n", Peer: "b", TsMs: t0 + 9, TxBytes: 3}, {Node: "n", Peer: "b", TsMs: t0 + 9, TxBytes: 3}, {Node: "n", Peer: "b", TsMs: t0 + 9, TxBytes: 10}, {Node: "n", Peer: "b", TsMs: t0 - 1, TxBytes: 3},
	}, t0)
	if len(got) != 2 || got[0].Peer != "a" || got[1].TxBytes != 15 {
		t.Errorf("cells %+v", got)
	}
}
