package store_test

import (
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/internal/store"
)

// TestInstances: what the instances of a partitioned GPU do is what the GPU does, by their shares of its SMs.
func TestInstances(t *testing.T) {
	s := openStore(t)
	insert(t, s, store.TableGPUDevices, "n1", 1, map[string]any{"ts_ms": 1, "gpu_uuid": "GPU-a", "gpu": 0, "mig_mode": 1, "sm_count": 100})
	part := func(sequence uint64, gpu, gi, ts int, more map[string]any) {
		row := map[string]any{"ts_ms": ts, "gpu_uuid": "GPU-a", "gpu": gpu, "gi_id": gi}
		maps.Copy(row, more)
		insert(t, s, store.TableGPUInstances, "n1", sequence, row)
	}
	part(2, 0, 1, 1_000, map[string]any{"sm_count": 40, "tensor_e4": 5_000})
	part(3, 0, 2, 2_000, map[string]any{"sm_count": 20, "tensor_e4": 10_000})
	part(4, 0, 1, 70_000, map[string]any{"sm_count": 40, "tensor_e4": 1_000})
	part(5, 1, 1, 1_000, map[string]any{"profile": "2g.20gb", "tensor_e4": 7_000})
	part(6, 2, 1, 1_000, map[string]any{"tensor_e4": 7_000})
	insert(t, s, store.TableGPUSamples, "n1", 7, map[string]any{"ts_ms": 2_000, "gpu_uuid": "GPU-a", "gpu": 0, "power_mw": 300_000})

	q := store.RowQuery{Cluster: "c", FromMs: 1_500, ToMs: 120_000}
	rows, err := s.GPURows(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	tensor, power := slices.Index(store.GPUMeasures, "tensor_frac"), slices.Index(store.GPUMeasures, "power_w")
	if len(rows) != 3 || !(rows[0].Values[power] > 299) || !math.IsNaN(rows[0].Values[tensor]) {
		t.Fatalf("%d rows: %+v", len(rows), rows)
	}
	for i, want := range map[int]float64{1: 0.4, 2: 0.04} { // the second instance is not read any more
		if got := rows[i].Values[tensor]; math.Abs(got-want) > 1e-12 || !math.IsNaN(rows[i].Values[power]) || !math.IsNaN(rows[i].MMACycles) {
			t.Errorf("row %d: %+v, want tensor %v", i, rows[i], want)
		}
	}
	if rows[1].AvailableMs != 3 || rows[2].AvailableMs != 4 {
		t.Errorf("available %d, %d", rows[1].AvailableMs, rows[2].AvailableMs)
	}
	q.FromMs = 0
	hours, err := s.InstanceHours(t.Context(), q)
	if err != nil || len(hours) != 4 {
		t.Fatalf("%+v, %v", hours, err)
	}
	for i, want := range []float64{0.4, 0.2, 2.0 / 7, math.NaN()} {
		if h := hours[i]; h.HourMs != 0 || h.SMFrac != want && !(math.IsNaN(want) && math.IsNaN(h.SMFrac)) {
			t.Errorf("hour %d: %+v, want %v", i, h, want)
		}
	}
	if q.Nodes = []string{"n2"}; true {
		if hours, err = s.InstanceHours(t.Context(), q); err != nil || len(hours) != 0 {
			t.Errorf("of another node: %+v, %v", hours, err)
		}
	}
}

// TestCheckpoints: files count once they are written, with the latest word on them.
func TestCheckpoints(t *testing.T) {
	s := openStore(t)
	file := func(sequence uint64, start int, name string, end, bytes any) {
		insert(t, s, store.TableCheckpoints, "n1", sequence, map[string]any{"start_ms": start, "pid": 7, "file": name, "end_ms": end, "bytes": bytes})
	}
	file(1, 1_000, "a", nil, 100)
	file(2, 1_000, "a", 31_000, 900)
	file(3, 2_000, "b", nil, 100)
	file(4, 3_000, "c", 33_000, nil)
	rows, err := s.CheckpointRows(t.Context(), store.AsOf{Cluster: "c"})
	if err != nil || len(rows) != 2 || rows[0] != (store.CheckpointRow{Node: "n1", PID: 7, StartMs: 1_000, EndMs: 31_000, Bytes: 900}) || rows[1].EndMs != 33_000 || !math.IsNaN(rows[1].Bytes) {
		t.Errorf("%+v, %v", rows, err)
	}
	if rows, err = s.CheckpointRows(t.Context(), store.AsOf{Cluster: "c", AvailableToMs: 1}); err != nil || len(rows) != 0 {
		t.Errorf("known too early: %+v, %v", rows, err)
	}
	if rows, err = s.CheckpointRows(t.Context(), store.AsOf{Cluster: "c", EndedFromMs: 32_000}); err != nil || len(rows) != 1 {
		t.Errorf("of late ones: %+v, %v", rows, err)
	}
}
