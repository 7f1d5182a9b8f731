package gpu_test

import (
	"os"
	"sync"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Whoever looks, however often and however many at once, makes no call into the driver: scrapes
// that shared samples of the performance monitor crashed it (plazonic/nvidia_gpu_prometheus_exporter
// issue 7). And no two calls for a GPU are ever on their way.
func TestLooksMakeNoCalls(t *testing.T) {
	s := nvmlstub.H100x8Training(0, time.Hour)
	s.Processes = []nvmlstub.Process{{PID: uint32(os.Getpid()), GPUs: []int{0, 1, 2, 3, 4, 5, 6, 7}, UsedBytes: 1 << 30}}
	r := newRig(t, nvmlstub.Options{}, s, gpu.Config{NoEvents: true})
	r.steps(30)
	if n := len(of(r.out.take(wire.KindGPU), 0)); n != 30 {
		t.Fatalf("%d rows of 30 ticks", n)
	}
	before := r.mem.Snapshot()
	var looks sync.WaitGroup
	for range 16 {
		looks.Go(func() {
			for range 50 {
				if l := r.src.Latest(); len(l) != 8 {
					t.Errorf("%d GPUs", len(l))
				}
				_ = r.src.Stats()
				_, _ = r.src.GPUDevices()
				_, _, _ = r.src.GPUProcesses()
			}
		})
	}
	looks.Wait()
	if n := r.mem.Snapshot().Since(before).Total(-1); n != 0 {
		t.Errorf("800 looks made %d calls", n)
	}
	// And while the driver is read at a burst's pace.
	done := make(chan struct{})
	looks.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = r.src.Latest()
			}
		}
	})
	r.burst(10, 100*time.Millisecond, func(time.Duration) {})
	close(done)
	looks.Wait()
	for g := range 8 {
		if n := r.mem.MostInFlight(g); n > 1 {
			t.Errorf("GPU %d had %d calls at once", g, n)
		}
	}
}

// Links that the driver does not count have no rate, and not a rate of zero (DCGM issues 149 and 236, dcgm-exporter 196 and 316).
func TestUnreadLinksAreAbsent(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.A100, 2, 0, time.Hour), gpu.Config{NoEvents: true, SlowInterval: 10 * time.Second})
	r.steps(20)
	for _, row := range of(r.out.take(wire.KindGPU), 0)[2:] {
		if row.ints["nvlink_tx_bps"] == 0 {
			t.Fatalf("links that are read: %+v", row)
		}
	}
	if err := r.mem.SetFaults(
		nvmlstub.Fault{Function: "field 138", Code: nvmlstub.CodeNotSupported}, nvmlstub.Fault{Function: "field 139", Code: nvmlstub.CodeNotSupported},
	); err != nil {
		t.Fatal(err)
	}
	r.steps(2)
	r.out.take(wire.KindGPU)
	r.out.take(wire.KindHealth)
	r.steps(30)
	rows := r.out.take(wire.KindGPU)
	if len(rows) != 60 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		if row.has("nvlink_tx_bps") || row.has("nvlink_rx_bps") || !row.has("power_mw") {
			t.Fatalf("links that are not read: %+v", row)
		}
	}
	health := r.out.take(wire.KindHealth)
	if len(health) == 0 {
		t.Error("no look at the health")
	}
	for _, row := range health {
		if row.has("nvlink_tx_kib") || row.has("nvlink_rx_kib") {
			t.Fatalf("links that are not read: %+v", row)
		}
	}
}
