package store_test

import (
	"errors"
	"math"
	"reflect"
	"testing"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestLiveReaders: what a detector that follows the store reads and writes.
func TestLiveReaders(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	s, err := store.Open(t.Context(), store.Config{URL: url, User: user, Password: password, Database: "live"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if cerr := s.Close(); cerr != nil {
			t.Error(cerr)
		}
	}()
	if err = s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()

	// The position: the furthest of the highest epoch; an older epoch is refused.
	if _, ok, err := s.Position(ctx, "c"); ok || err != nil {
		t.Errorf("a position before there is one: %v, %v", ok, err)
	}
	p := store.PositionRow{Epoch: 3, JudgedMs: 600_000, StartMs: -1, CutMs: 5, AvailableMs: 9, LastMs: 7, NewestMs: 8, Due: true, SeenMs: 11, Instance: "a", Config: "d"}
	for _, at := range []int64{600_000, 540_000} {
		q := p
		q.JudgedMs = at
		if err = s.PutPosition(ctx, "c", q); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok, err := s.Position(ctx, "c"); !ok || err != nil || got != p {
		t.Errorf("got %+v, %v, %v, want %+v", got, ok, err, p)
	}
	if err = s.PutPosition(ctx, "c", store.PositionRow{Epoch: 2, JudgedMs: 700_000}); !errors.Is(err, store.ErrStaleEpoch) {
		t.Errorf("an older epoch: %v", err)
	}
	if e, err := s.LatestEpoch(ctx, "c"); err != nil || e != 3 {
		t.Errorf("latest epoch %d, %v", e, err)
	}

	// Versions as of a moment, and what was inserted late.
	for version, class := range map[uint64]string{10: "idle", 20: "training"} {
		row := store.RunRow{RunID: "r", JudgedMs: int64(version), Class: class, Doc: class, Provenance: store.Provenance{Version: version, Epoch: 3}}
		if err = s.PutRuns(ctx, "c", []store.RunRow{row}); err != nil {
			t.Fatal(err)
		}
	}
	for version, want := range map[uint64]string{9: "", 10: "idle", 19: "idle", 20: "training"} {
		rows, err := s.RunsAsOf(ctx, "c", version)
		got := ""
		if len(rows) == 1 {
			got = rows[0].Doc
		}
		if err != nil || got != want {
			t.Errorf("runs as of %d: %q, %v, want %q", version, got, err, want)
		}
	}
	batch := func(seq uint64, availableMs, minTsMs int64) {
		row := store.BatchRow{BatchKey: store.BatchKey{Cluster: "c", Node: "n", Spool: "s", Sequence: seq}, AvailableMs: availableMs, MinTsMs: minTsMs}
		if err := s.Insert(ctx, store.TableBatches, "", store.BatchBlock([]store.BatchRow{row})); err != nil {
			t.Fatal(err)
		}
	}
	batch(2, 2000, 1500)
	rows, err := s.BatchesAfter(ctx, "c", 0, 0)
	if err != nil || len(rows) != 1 || rows[0].InsertedMs == 0 {
		t.Fatalf("%+v, %v", rows, err)
	}
	seen := rows[0].InsertedMs
	batch(1, 1000, 500)
	late, err := s.BatchesInserted(ctx, "c", seen-1, 1999)
	if err != nil || len(late) != 1 || late[0].Sequence != 1 || late[0].InsertedMs < seen {
		t.Errorf("late batches %+v, %v", late, err)
	}
	if late, err = s.BatchesInserted(ctx, "c", late[0].InsertedMs, 1999); err != nil || len(late) != 0 {
		t.Errorf("nothing came since: %+v, %v", late, err)
	}
	if late, err = s.BatchesInserted(ctx, "c", seen+3_600_000, 1999); err != nil || len(late) != 1 {
		t.Errorf("a store whose clock was set back: %+v, %v", late, err)
	}
	if first, available, ok, err := s.FirstData(ctx, "c", 0); !ok || err != nil || first != 500 || available != 1000 {
		t.Errorf("first data %d, available %d, %v, %v", first, available, ok, err)
	}
	if first, _, ok, err := s.FirstData(ctx, "c", 600); !ok || err != nil || first != 1000 {
		t.Errorf("first data, less what is older than what is asked for: %d, %v, %v", first, ok, err)
	}
	if _, _, ok, err := s.FirstData(ctx, "c", 3000); ok || err != nil {
		t.Errorf("data where there is none: %v, %v", ok, err)
	}

	// Devices: the latest of each index; ports: those that are up.
	put := func(table string, seq uint64, ints map[string][]int64, text map[string]string) {
		b, err := store.NewRawBlock(table)
		if err != nil {
			t.Fatal(err)
		}
		b.Begin(store.RawMeta{Cluster: "c", Node: "n", Spool: "s", Sequence: seq, Sources: "nvml", AvailableMs: int64(seq)}, 1)
		for name, v := range ints {
			b.Ints(b.Column(name), v, nil)
		}
		for name, v := range text {
			b.Strings(b.Column(name), []string{v}, []uint32{0}, nil)
		}
		b.End()
		if err := s.Insert(ctx, table, "", b); err != nil {
			t.Fatal(err)
		}
	}
	put(store.TableGPUDevices, 1, map[string][]int64{"ts_ms": {10}, "gpu": {0}}, map[string]string{"gpu_uuid": "GPU-old", "gpu_model": "NVIDIA A100"})
	put(store.TableGPUDevices, 2, map[string][]int64{"ts_ms": {20}, "gpu": {0}, "power_limit_mw": {700_000}}, map[string]string{"gpu_uuid": "GPU-new", "gpu_model": "NVIDIA H100"})
	put(store.TableGPUDevices, 3, map[string][]int64{"ts_ms": {20}, "gpu": {1}}, map[string]string{"gpu_uuid": "GPU-1"})
	devices, err := s.DeviceRows(ctx, store.AsOf{Cluster: "c"})
	if err != nil || len(devices) != 2 || devices[0].Model != "NVIDIA H100" || devices[0].PowerLimitW != 700 || devices[1].Model != "" || !math.IsNaN(devices[1].PowerLimitW) || devices[1].MIG != -1 {
		t.Errorf("devices %+v, %v", devices, err)
	}
	for i, c := range []struct{ rate, up int64 }{{400_000, 1}, {400_000, 1}, {200_000, 0}} {
		put(store.TableFabricSamples, uint64(10+i), map[string][]int64{"ts_ms": {1000}, "rate_mbps": {c.rate}, "link_up": {c.up}}, map[string]string{"port": string(rune('a' + i)), "fabric_kind": "infiniband"})
	}
	put(store.TableFabricSamples, 20, map[string][]int64{"ts_ms": {1000}, "rate_mbps": {25_000}, "link_up": {1}}, map[string]string{"port": "eth0", "fabric_kind": "ethernet"})
	rates, err := s.FabricRates(ctx, store.RowQuery{Cluster: "c", ToMs: 2000})
	if want := map[string]float64{"n": 800}; err != nil || !reflect.DeepEqual(rates, want) {
		t.Errorf("rates %v, %v, want %v", rates, err, want)
	}
	put(store.TableInstrumentStatus, 30, map[string][]int64{"ts_ms": {10}}, map[string]string{"instrument": "gpu", "state": "stalled", "reason": "hang"})
	put(store.TableInstrumentStatus, 31, map[string][]int64{"ts_ms": {20}, "since_ms": {15}}, map[string]string{"instrument": "gpu", "state": "active"})
	states, err := s.Instruments(ctx, store.AsOf{Cluster: "c"})
	if want := []store.InstrumentRow{{Node: "n", Instrument: "gpu", State: "active", SinceMs: 15, TsMs: 20}}; err != nil || !reflect.DeepEqual(states, want) {
		t.Errorf("instruments %+v, %v", states, err)
	}

	// Processes and rentals that ended long ago, by their latest announcement, can be left out.
	for seq, end := range []int64{0, 500, 900} {
		put(store.TableProcessEvents, uint64(40+seq), map[string][]int64{"start_ms": {int64(seq)}, "pid": {7}}, nil)
		put(store.TableAllocations, uint64(50+seq), map[string][]int64{"start_ms": {int64(seq)}}, map[string]string{"account": "a", "gpu_list": "0"})
		if end != 0 {
			put(store.TableProcessEvents, uint64(60+seq), map[string][]int64{"start_ms": {int64(seq)}, "pid": {7}, "end_ms": {end}}, nil)
			put(store.TableAllocations, uint64(70+seq), map[string][]int64{"start_ms": {int64(seq)}, "end_ms": {end}}, map[string]string{"account": "a", "gpu_list": "0"})
		}
	}
	for from, want := range map[int64]int{0: 3, 500: 3, 501: 2, 901: 1} {
		processes, err := s.ProcessRows(ctx, store.AsOf{Cluster: "c", EndedFromMs: from})
		rentals, rerr := s.AllocationRows(ctx, store.AsOf{Cluster: "c", EndedFromMs: from})
		if err != nil || rerr != nil || len(processes) != want || len(rentals) != want {
			t.Errorf("ended from %d on: %d processes, %d rentals, want %d; %v, %v", from, len(processes), len(rentals), want, err, rerr)
		}
	}
	if p, err := s.ProcessRows(ctx, store.AsOf{Cluster: "c", EndedFromMs: 501, AvailableToMs: 61}); err != nil || len(p) != 2 || p[1].EndMs != 0 || p[1].AvailableMs != 42 {
		t.Errorf("as of a moment: %+v, %v", p, err)
	}

	// Parties: the mark changes when they do.
	before, err := s.PartiesMark(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err = s.PutParties(ctx, []store.PartyRow{{PartyID: "p", Version: 1}}); err != nil {
		t.Fatal(err)
	}
	if after, err := s.PartiesMark(ctx); err != nil || after == before {
		t.Errorf("the mark stays %q, %v", after, err)
	}
}
