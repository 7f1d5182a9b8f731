package store_test

import (
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/internal/store"
)

// insert puts one row into a raw table; integers and strings by column.
func insert(t *testing.T, s *store.Store, table, node string, sequence uint64, row map[string]any) {
	t.Helper()
	b, err := store.NewRawBlock(table)
	if err != nil {
		t.Fatal(err)
	}
	b.Begin(store.RawMeta{Cluster: "c", Node: node, Spool: "s", Sequence: sequence, Sources: "x", AvailableMs: int64(sequence)}, 1)
	for name, v := range row {
		switch v := v.(type) {
		case int:
			b.Ints(b.Column(name), []int64{int64(v)}, nil)
		case string:
			b.Strings(b.Column(name), []string{v}, []uint32{0}, nil)
		}
	}
	b.End()
	if err := s.Insert(t.Context(), table, "", b); err != nil {
		t.Fatal(err)
	}
}

// TestOutOfBand: what a management controller measures of another host counts for that host,
// and where the host measured in the same minute it stands back.
func TestOutOfBand(t *testing.T) {
	s := openStore(t)
	const minute = 60_000
	bmc := func(sequence uint64, ts int, more map[string]any) {
		row := map[string]any{"ts_ms": ts, "target": "guest-host", "component": "GPU_SXM_1", "vantage": "outofband"}
		maps.Copy(row, more)
		insert(t, s, store.TableBMCSamples, "reader", sequence, row)
	}
	bmc(1, 1_000, map[string]any{"gpu": 0, "gpu_uuid": "GPU-a", "power_mw": 650_000, "energy_mj": 5_000, "tensor_e4": 4_200})
	bmc(2, 2_000, map[string]any{"gpu": 1, "component": "GPU_SXM_2"})
	bmc(3, 3_000, map[string]any{"component": "node", "power_mw": 7_000_000})
	bmc(4, 4_000, map[string]any{"component": "NVSwitch_0", "power_mw": 100_000})
	bmc(5, minute+1_000, map[string]any{"gpu": 0, "gpu_uuid": "GPU-a", "power_mw": 655_000})
	insert(t, s, store.TableGPUSamples, "guest-host", 6, map[string]any{"ts_ms": minute + 2_000, "gpu_uuid": "GPU-a", "gpu": 0, "power_mw": 640_000})

	q := store.RowQuery{Cluster: "c", Nodes: []string{"guest-host"}, ToMs: 2 * minute}
	gpus, err := s.GPURows(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	power, tensor := slices.Index(store.GPUMeasures, "power_w"), slices.Index(store.GPUMeasures, "tensor_frac")
	if len(gpus) != 3 {
		t.Fatalf("%d rows: %+v", len(gpus), gpus)
	}
	if g := gpus[0]; g.Node != "guest-host" || g.UUID != "GPU-a" || g.Values[power] != 650 || g.Values[tensor] != 0.42 || g.EnergyJ != 5 || !math.IsNaN(g.MMACycles) {
		t.Errorf("out of band: %+v", g)
	}
	if g := gpus[1]; g.TsMs != minute+2_000 || g.Values[power] != 640 {
		t.Errorf("in band: %+v", g)
	}
	if g := gpus[2]; g.GPU != 1 || g.UUID != "bmc/GPU_SXM_2" || !math.IsNaN(g.Values[power]) {
		t.Errorf("unnamed: %+v", g)
	}
	hosts, err := s.HostRows(t.Context(), q)
	if err != nil || len(hosts) != 1 || hosts[0].Node != "guest-host" || hosts[0].PowerW != 7_000 || !math.IsNaN(hosts[0].CPUFrac) {
		t.Errorf("hosts %+v, %v", hosts, err)
	}
	q.Nodes = []string{"reader"}
	if gpus, err = s.GPURows(t.Context(), q); err != nil || len(gpus) != 0 {
		t.Errorf("the reader has GPUs: %+v, %v", gpus, err)
	}
	q.Nodes, q.AvailableToMs = nil, 2
	if gpus, err = s.GPURows(t.Context(), q); err != nil || len(gpus) != 2 {
		t.Errorf("known too early: %+v, %v", gpus, err)
	}
}

// TestTCPFlows: traffic by address becomes traffic between nodes where one node alone has the
// address, and jobs of a host are added up.
func TestTCPFlows(t *testing.T) {
	s := openStore(t)
	for i, f := range []struct{ node, value string }{{"n1", "addr-1"}, {"n2", "addr-2"}, {"n2", "addr-22"}, {"n1", "addr-bridge"}, {"n2", "addr-bridge"}, {"n2", "net-2"}} {
		insert(t, s, store.TableNodeFacts, f.node, uint64(i+1), map[string]any{"ts_ms": 1, "subject": "host", "name": "address", "value": f.value})
	}
	for i, f := range []struct {
		peer, job string
		tx        any
	}{{"addr-2", "7", 1}, {"addr-2", "8", 2}, {"addr-22", "7", 4}, {"addr-bridge", "7", 8}, {"net-2", "7", 16}, {"addr-1", "7", nil}} {
		insert(t, s, store.TableTCPSamples, "n1", uint64(i+10), map[string]any{"ts_ms": 1_000, "peer": f.peer, "job_source": "slurm", "job_id": f.job, "tx_bytes": f.tx})
	}
	insert(t, s, store.TableFlowSamples, "n1", 30, map[string]any{"ts_ms": 1_000, "peer": "n3", "tx_bytes": 32})
	rows, err := s.FlowRows(t.Context(), store.RowQuery{Cluster: "c", ToMs: 60_000})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, r := range rows {
		got[r.Peer] = r.TxBytes
	}
	want := map[string]float64{"n2": 7, "addr-bridge": 8, "net-2": 16, "n3": 32}
	for peer, tx := range want {
		if got[peer] != tx {
			t.Errorf("%v bytes to %s, want %v", got[peer], peer, tx)
		}
	}
	if v, ok := got["n1"]; !ok || !math.IsNaN(v) || len(got) != len(want)+1 {
		t.Errorf("got %v", got)
	}
	if !slices.IsSortedFunc(rows, func(a, b store.FlowRow) int {
		if a.Peer < b.Peer {
			return -1
		}
		return 1
	}) {
		t.Errorf("not sorted: %+v", rows)
	}
}

// TestOutOfBandOfGuests: a controller of another host names GPUs by place and id; no driver of
// ours counts them.
func TestOutOfBandOfGuests(t *testing.T) {
	s := openStore(t)
	sequence := uint64(0)
	bmc := func(target, component, uuid string, ts int) {
		sequence++
		row := map[string]any{"ts_ms": ts, "target": target, "component": component, "vantage": "outofband", "power_mw": 1_000}
		if uuid != "" {
			row["gpu_uuid"] = uuid
		}
		insert(t, s, store.TableBMCSamples, "reader", sequence, row)
	}
	bmc("guest", "GPU_SXM_1", "GPU-a", 1)
	bmc("guest", "GPU_SXM_8", "GPU-b", 1)
	bmc("guest", "HGX_Chassis_0_TotalGPU", "", 1)
	bmc("guest", "NVSwitch_0", "", 1)
	bmc("other", "GPU_0", "", 1)
	bmc("other", "ProcessorModule_1_GPU_1", "", 1)
	bmc("other", "GPU.Slot.21-1", "", 1)
	// The driver counts these the other way round, and has lost GPU-d: what it told of GPU-c in
	// this minute stands, GPU-d's place is that of nobody else.
	bmc("host", "GPU_SXM_1", "GPU-c", 1)
	bmc("host", "GPU_SXM_2", "GPU-d", 1)
	bmc("host", "GPU_SXM_1", "GPU-c", 60_001)
	for i, uuid := range []string{"GPU-d", "GPU-c"} {
		insert(t, s, store.TableGPUDevices, "host", uint64(100+i), map[string]any{"ts_ms": 1, "gpu": i, "gpu_uuid": uuid})
	}
	insert(t, s, store.TableGPUSamples, "host", 200, map[string]any{"ts_ms": 2, "gpu_uuid": "GPU-c", "gpu": 0, "power_mw": 2_000})

	rows, err := s.GPURows(t.Context(), store.RowQuery{Cluster: "c", ToMs: 120_000})
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		node, uuid string
		gpu        int
		ts         int64
	}
	var got []row
	for i := range rows {
		got = append(got, row{rows[i].Node, rows[i].UUID, rows[i].GPU, rows[i].TsMs})
	}
	want := []row{{"guest", "GPU-a", 0, 1}, {"guest", "GPU-b", 7, 1}, {"host", "GPU-c", 0, 2}, {"host", "GPU-c", 1, 60_001}, {"host", "GPU-d", 10_000, 1},
		{"other", "bmc/GPU_0", 0, 1}, {"other", "bmc/ProcessorModule_1_GPU_1", 17, 1}, {"other", "bmc/GPU.Slot.21-1", 337, 1}}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestAddressesMove: who had an address counts as of the time of the traffic, whatever stretch
// is read, and what an agent tells is what it tells: subjects host, host/1, ..., and no value
// for one given up.
func TestAddressesMove(t *testing.T) {
	s := openStore(t)
	const hour = 3_600_000
	for i, f := range []struct {
		ts            int
		node, subject string
		value         any
	}{
		{0, "n1", "host", "addr-1"}, {0, "n1", "host/1", "addr-pod"}, {0, "n2", "host", "addr-2"}, {0, "n1", "host/2", "addr-bridge"}, {0, "n2", "host/1", "addr-bridge"},
		{0, "n1", "host/10", "10.0.0.9"}, {0, "n1", "hostile", "addr-x"}, {0, "n1", "host/11", "net-1"},
		{hour, "n1", "host", "addr-1"}, {hour, "n1", "host/1", nil}, {hour, "n2", "host", "addr-2"}, {hour + 1, "n2", "host/2", "addr-pod"}, {hour, "n2", "host/1", "addr-bridge"},
		{2 * hour, "n2", "host", "addr-2"}, // and n1 has fallen silent
	} {
		insert(t, s, store.TableNodeFacts, f.node, uint64(f.ts+i+1), map[string]any{"ts_ms": f.ts, "subject": f.subject, "name": "address", "value": f.value})
	}
	times := []int{1, hour - 1, hour, hour + 1, 3*hour - 1, 3 * hour, 4*hour - 1, 4 * hour}
	peers := []string{"addr-1", "addr-2", "addr-pod", "addr-bridge", "10.0.0.9", "addr-x", "net-1"}
	for i, ts := range times {
		for k, peer := range peers {
			insert(t, s, store.TableTCPSamples, "n3", uint64(100+10*i+k), map[string]any{"ts_ms": ts, "peer": peer, "job_source": "slurm", "job_id": "7", "tx_bytes": 1 << k})
		}
	}
	want := map[int]map[string]float64{
		1:          {"n1": 1 + 4 + 16, "n2": 2, "addr-bridge": 8, "addr-x": 32, "net-1": 64},
		hour - 1:   {"n1": 1 + 4 + 16, "n2": 2, "addr-bridge": 8, "addr-x": 32, "net-1": 64},
		hour:       {"n1": 1 + 16, "n2": 2, "addr-pod": 4, "addr-bridge": 8, "addr-x": 32, "net-1": 64},
		hour + 1:   {"n1": 1 + 16, "n2": 2 + 4, "addr-bridge": 8, "addr-x": 32, "net-1": 64},
		3*hour - 1: {"n1": 1, "n2": 2 + 4 + 8, "10.0.0.9": 16, "addr-x": 32, "net-1": 64},
		3 * hour:   {"addr-1": 1, "n2": 2 + 4, "addr-bridge": 8, "10.0.0.9": 16, "addr-x": 32, "net-1": 64},
		4*hour - 1: {"addr-1": 1, "n2": 2, "addr-pod": 4, "addr-bridge": 8, "10.0.0.9": 16, "addr-x": 32, "net-1": 64},
		4 * hour:   {"addr-1": 1, "addr-2": 2, "addr-pod": 4, "addr-bridge": 8, "10.0.0.9": 16, "addr-x": 32, "net-1": 64},
	}
	for _, from := range []int{0, hour, 3 * hour} {
		rows, err := s.FlowRows(t.Context(), store.RowQuery{Cluster: "c", FromMs: int64(from), ToMs: 5 * hour})
		if err != nil {
			t.Fatal(err)
		}
		got := map[int]map[string]float64{}
		for _, r := range rows {
			if got[int(r.TsMs)] == nil {
				got[int(r.TsMs)] = map[string]float64{}
			}
			got[int(r.TsMs)][r.Peer] = r.TxBytes
		}
		for _, ts := range times {
			if ts >= from && !maps.Equal(got[ts], want[ts]) {
				t.Errorf("from %d at %d: %v, want %v", from, ts, got[ts], want[ts])
			}
		}
	}
}

// TestFabricRowsNameParents: who adds ports up has to know which stand behind others.
func TestFabricRowsNameParents(t *testing.T) {
	s := openStore(t)
	insert(t, s, store.TableFabricSamples, "n", 1, map[string]any{"ts_ms": 1, "port": "eth0", "fabric_kind": "ethernet", "tx_bytes": 100, "rx_bytes": 50})
	insert(t, s, store.TableFabricSamples, "n", 2, map[string]any{"ts_ms": 1, "port": "eth0/vf3", "fabric_kind": "vf", "parent_port": "eth0", "tx_bytes": 40})
	rows, err := s.FabricRows(t.Context(), store.RowQuery{Cluster: "c", ToMs: 60_000})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0].Port != "eth0" || rows[0].Parent != "" || rows[0].TxBytes != 100 || rows[1].Parent != "eth0" || rows[1].Kind != "vf" ||
		rows[1].TxBytes != 40 || !math.IsNaN(rows[1].RxBytes) {
		t.Errorf("rows: %+v", rows)
	}
}
