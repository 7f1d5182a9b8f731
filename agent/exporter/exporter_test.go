package exporter

import (
	"bytes"
	"errors"
	"flag"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/wire"
)

var update = flag.Bool("update", false, "write the golden files")

type fakeSpool struct {
	oldest int64
	err    error
}

func (fakeSpool) Stats() spool.Stats {
	return spool.Stats{Segments: 2, Frames: 31, Bytes: 155_000, EvictedFrames: 4, CorruptStretches: 1, SyncErrors: 2}
}
func (f fakeSpool) OldestMs() (int64, error) { return f.oldest, f.err }
func (fakeSpool) Synced() uint64             { return 1031 }
func (fakeSpool) Acked() uint64              { return 1030 }
func (fakeSpool) Committed() uint64          { return 1000 }
func (fakeSpool) Gaps() []spool.Gap          { return make([]spool.Gap, 1) }

func config() Config {
	full := GPU{Fresh: true, Device: frame.Device{Index: 0, UUID: "GPU-aaaa", Name: "NVIDIA H100 80GB HBM3", PCIBusID: "00000000:1B:00.0", DriverVersion: "580.95.05", MemTotalBytes: 85520809984}}
	for m := range frame.NumMetrics {
		full.Reading.Set(m, int64(m)+1)
	}
	full.Reading.Set(frame.UtilE4, 9850)
	full.Reading.Set(frame.PowerMW, 654_321)
	full.Reading.Set(frame.EnergyMJ, 123_456_789_012)
	full.Reading.Set(frame.MemUsedBytes, 70<<30)
	full.Reading.Set(frame.TensorE4, 4321)
	full.Reading.Set(frame.ClocksEventReasons, 0)
	full.Reading.Set(frame.SMClockMHz, 1980)
	partly := GPU{Fresh: true, Device: frame.Device{Index: 1, UUID: "GPU-bbbb", Name: "NVIDIA A100", PCIBusID: "00000000:2B:00.0", DriverVersion: "580.95.05", MemTotalBytes: -1}}
	partly.Reading.Set(frame.UtilE4, 0)
	partly.Reading.Set(frame.MemUsedBytes, 1<<30)
	stale := GPU{Device: frame.Device{Index: 2, UUID: "GPU-cccc", Name: "NVIDIA H100 80GB HBM3", PCIBusID: "00000000:3B:00.0", DriverVersion: "580.95.05", MemTotalBytes: 85520809984}, Reading: full.Reading}
	return Config{
		Build: "v1.2.3", Node: "node-1", Spool: fakeSpool{oldest: 1_700_000_000_000}, SpoolMaxBytes: 1 << 30,
		Agent: func() agent.Stats {
			return agent.Stats{
				Tick: source.Tick{Seq: 120, WallMs: 1_700_000_119_250, BootMs: 5}, MissedTicks: 3, ClockSteps: 1,
				Sources: []agent.SourceStats{
					{Name: "gpu", Samples: 117, Missed: 2, Errors: 1, Panics: 1, Last: 1500 * time.Microsecond, Total: 234 * time.Millisecond},
					{Name: "fabric", Missed: 117, Stalled: true},
				},
				Rows: map[wire.Kind]uint64{wire.KindGPU: 936, wire.KindStatus: 12}, RefusedRows: map[wire.Kind]uint64{wire.KindProcess: 1}, LostRows: map[wire.Kind]uint64{wire.KindGPU: 80},
				PendingRows: 24, Batches: 12, Bytes: 20_000, SealErrors: 2,
				Instruments: []agent.StatusAt{
					{Status: source.Status{Instrument: "fabric", State: source.Stalled, Reason: "x"}},
					{Status: source.Status{Instrument: "gpu", State: source.Active}},
				},
			}
		},
		Ship: func() ship.Stats {
			return ship.Stats{Published: 11, Acked: 10, Resent: 1, Errors: 4, Marks: 5, BadMarks: 1}
		},
		Broker: func() Broker { return Broker{Up: true, Downs: 2} },
		NVML: func() (NVML, bool) {
			return NVML{Starts: 2, Restarts: 1, Kills: 1, Calls: 8000, Readings: 936, Dropped: 1, LastPass: 250 * time.Microsecond, GPUs: 3, Stalled: 1,
				Faults: []Fault{{"nvmlDeviceGetPowerUsage", 15, 3}}}, true
		},
		GPUs: func() []GPU { return []GPU{full, partly, stale} },
		Now:  func() time.Time { return time.UnixMilli(1_700_000_300_500) },
	}
}

// page scrapes an exporter.
func page(t *testing.T, e *Exporter) string {
	t.Helper()
	reg := prometheus.NewRegistry()
	if err := reg.Register(e); err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	if rec.Code != http.StatusOK {
		t.Fatalf("status %d: %s", rec.Code, rec.Body)
	}
	return rec.Body.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run with -update and look at the change. Got:\n%s", name, got)
	}
}

func TestPage(t *testing.T) {
	e := New(config())
	e.SetConfig("0123abcd")
	golden(t, "agent.prom", page(t, e))
	e.ShowGPUs(true)
	all := page(t, e)
	var gpus strings.Builder
	for line := range strings.Lines(all) {
		if strings.Contains(line, "DCGM_") {
			gpus.WriteString(line)
		}
	}
	golden(t, "gpus.prom", gpus.String())
	e.ShowGPUs(false)
	if strings.Contains(page(t, e), "DCGM_") {
		t.Error("GPUs are shown still")
	}
}

// TestNothingKnown: what is not known is not on the page.
func TestNothingKnown(t *testing.T) {
	var log bytes.Buffer
	cfg := config()
	cfg.Agent = func() agent.Stats { return agent.Stats{} }
	cfg.Spool = fakeSpool{err: errors.New("closed")}
	cfg.NVML, cfg.GPUs = nil, nil
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	e := New(cfg)
	e.ShowGPUs(true)
	for range 2 {
		got := page(t, e)
		for _, name := range []string{"spool_oldest", "nvml", "DCGM", "last_tick", "source_", "rows_total"} {
			if strings.Contains(got, name) {
				t.Errorf("%s is on the page", name)
			}
		}
	}
	if strings.Count(log.String(), "\n") != 1 {
		t.Errorf("log:\n%s", log.String())
	}
	reg := prometheus.NewRegistry()
	if err := e.Register(reg); err != nil {
		t.Fatal(err)
	}
	if err := e.Register(reg); err == nil {
		t.Error("registered twice")
	}
}
