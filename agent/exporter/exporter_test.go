package exporter

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
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
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/kernel"
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
	return spool.Stats{Segments: 2, Frames: 31, Bytes: 155_000, EvictedFrames: 4, CorruptStretches: 1, SyncErrors: 2,
		PositionErrors: 1, GivenUp: [5]uint64{spool.ReasonBytes: 3, spool.ReasonDisk: 1}, SetAside: 1, Unkept: 1, UnackedFrames: 1, UncommittedFrames: 31,
		UnackedBytes: 5000, UncommittedBytes: 155_000, QuarantineFiles: 2, QuarantineBytes: 4096, FreeBytes: 200 << 20, ReserveBytes: 256 << 20, Trouble: spool.TroubleTight, Cause: "x"}
}
func (f fakeSpool) OldestMs() (int64, error) { return f.oldest, f.err }
func (fakeSpool) Synced() uint64             { return 1031 }
func (fakeSpool) Acked() uint64              { return 1030 }
func (fakeSpool) Committed() uint64          { return 1000 }
func (fakeSpool) Gaps() []spool.Gap          { return make([]spool.Gap, 1) }

func config() Config {
	h100 := func(index int, uuid, bus string) frame.Device {
		d := frame.Unknown(index)
		d.UUID, d.Name, d.PCIBusID, d.DriverVersion, d.MemTotalBytes, d.Minor = uuid, "NVIDIA H100 80GB HBM3", bus, "580.95.05", 85520809984, index
		return d
	}
	full := GPU{Fresh: true, HealthFresh: true, Device: h100(0, "GPU-aaaa", "00000000:1B:00.0"), Xid: 79, XidKnown: true}
	full.Device.PowerLimitMW, full.Device.PCIeGenMax, full.Device.PCIeWidthMax, full.Device.ECCMode, full.Device.MIGMode = 700_000, 5, 16, 1, 0
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
	for v := range frame.NumVitals {
		full.Health.Set(v, int64(v)+100)
	}
	full.Health.Set(frame.MemReservedBytes, 551<<20)
	full.Health.Set(frame.BAR1UsedBytes, 3<<20)
	full.Health.Set(frame.ECCUncorrectedVolatile, 0)
	partly := GPU{Fresh: true, Device: h100(1, "GPU-bbbb", "00000000:2B:00.0"), Owner: Owner{Pod: "train-0", Namespace: "research", Container: "main"}}
	partly.Device.Name, partly.Device.MemTotalBytes, partly.Device.Minor = "NVIDIA A100", -1, 3 // the kernel numbers it in another way
	partly.Reading.Set(frame.UtilE4, 0)
	partly.Reading.Set(frame.MemUsedBytes, 1<<30)
	batch := GPU{Fresh: true, Device: h100(4, "GPU-eeee", "00000000:5B:00.0"), Owner: Owner{Job: "4711"}}
	batch.Reading.Set(frame.UtilE4, 9000)
	stale := GPU{Device: h100(2, "GPU-cccc", "00000000:3B:00.0"), Reading: full.Reading, Health: full.Health}
	mig := GPU{Fresh: true, Device: h100(3, "GPU-dddd", "00000000:4B:00.0")}
	mig.Device.MIGMode = 1
	mig.Reading.Set(frame.PowerMW, 300_000)
	part := Instance{Instance: frame.Instance{GI: 1, CI: 0, UUID: "MIG-1111", Profile: "1g.10gb", MemTotalBytes: 10 << 30}, Fresh: true, Owner: Owner{Pod: "serve-7", Namespace: "prod", Container: "llm"}}
	part.Reading.Set(frame.TensorE4, 1200)
	part.Reading.Set(frame.MemUsedBytes, 4<<30)
	second, other := part, Instance{Instance: frame.Instance{GI: 2, CI: 0, UUID: "MIG-3333", Profile: "2g.20gb", MemTotalBytes: -1}}
	second.CI, second.UUID = 1, "MIG-2222" // of the same GPU instance: what is measured is shared
	split := part
	split.GI, split.UUID, split.Profile = 3, "MIG-4444", "1c.2g.20gb"
	mine, theirs := split, split
	theirs.CI, theirs.UUID, theirs.Owner = 1, "MIG-5555", Owner{Pod: "other"} // then it is nobody's
	mig.Instances = []Instance{part, second, other, mine, theirs}
	return Config{
		Build: "v1.2.3", Node: "node-1", LogSkipped: func() uint64 { return 19 }, Spool: fakeSpool{oldest: 1_700_000_000_000}, SpoolMaxBytes: 1 << 30,
		Agent: func() agent.Stats {
			return agent.Stats{
				Tick: source.Tick{Seq: 120, WallMs: 1_700_000_119_250, BootMs: 5}, MissedTicks: 3, ClockSteps: 1,
				Sources: []agent.SourceStats{
					{Name: "gpu", Samples: 117, Missed: 2, Errors: 1, Panics: 1, Last: 1500 * time.Microsecond, Total: 234 * time.Millisecond, Bursts: 900, BurstsMissed: 7},
					{Name: "fabric", Missed: 117, Stalled: true},
				},
				Rows: map[wire.Kind]uint64{wire.KindGPU: 936, wire.KindStatus: 12}, RefusedRows: map[wire.Kind]uint64{wire.KindProcess: 1}, LostRows: map[wire.Kind]uint64{wire.KindGPU: 80},
				PendingRows: 24, Batches: 12, Bytes: 20_000, SealErrors: 2,
				Instruments: []agent.StatusAt{
					{Status: source.Status{Instrument: "bmc/gpu-17", State: source.Degraded, Reason: "x"}},
					{Status: source.Status{Instrument: "bmc/gpu-18", State: source.Active}},
					{Status: source.Status{Instrument: "fabric", State: source.Stalled, Reason: "x"}},
					{Status: source.Status{Instrument: "gpu", State: source.Active}},
				},
			}
		},
		Ship: func() ship.Stats {
			return ship.Stats{Published: 11, Acked: 10, Resent: 1, Errors: 4, Marks: 5, BadMarks: 1, PublishedBytes: 55_000, BacklogSent: 20_000,
				Refused: map[ship.Trouble]uint64{ship.TroubleNoBroker: 3, ship.TroubleTooLarge: 1}, InFlight: 1, BacklogFrames: 20, BacklogBytes: 100_000, BacklogRate: 262_144,
				LiveLagMs: 1500, Parked: 1, Trouble: ship.TroubleTooLarge, Reason: "x"}
		},
		Kernel: func() []Feature {
			return OfKernel([]kernel.FeatureStats{
				{Name: "nccl", Report: kernel.Active(), Samples: 100, SampleNs: 5e6, LoadE4: 12, Load: kernel.Load{Processes: 8,
					Probes: []kernel.Probe{{Name: "collectives", Calls: 10_000, Ns: 12e6, Measured: true}}, Counts: []kernel.Count{{Name: "libraries", Value: 1}, {Name: "libraries", Value: 9}}}},
				{Name: "rdma", Report: kernel.Unavailable("there is no RDMA device", nil)},
			})
		},
		Broker: func() Broker { return Broker{Up: true, Downs: 2} },
		NVML: func() (NVML, bool) {
			return NVML{Starts: 2, Restarts: 1, Kills: 1, Calls: 8000, Readings: 936, Dropped: 1, LastPass: 250 * time.Microsecond, GPUs: 3, Stalled: 1,
				Faults: []Fault{{"nvmlDeviceGetPowerUsage", 15, 3}}, Bursts: 400, BurstsRefused: 20, BudgetRefused: 2, Backed: 1, BackedRare: 2, EventsDropped: 1,
				Tiers:   []Tier{{Name: "base", Asked: 936, Took: 234 * time.Millisecond, Bounds: []time.Duration{time.Millisecond, 10 * time.Millisecond}, By: []uint64{900, 30, 6}}},
				Slowest: []Slowest{{"fields", 12 * time.Millisecond}}, Events: []Count{{"xid", 3}}}, true
		},
		GPUs: func() []GPU { return []GPU{full, partly, stale, mig, batch} },
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
		if strings.Contains(line, "DCGM_") || strings.Contains(line, "flopwatch_gpu_") {
			gpus.WriteString(line)
		}
	}
	golden(t, "gpus.prom", gpus.String())
	for _, want := range []string{`hpc_job="4711"`, `pod="train-0"`, `pod="serve-7"`} {
		if !strings.Contains(gpus.String(), want) {
			t.Errorf("%s is not on the page", want)
		}
	}
	for line := range strings.Lines(gpus.String()) {
		if strings.Contains(line, `GPU_I_ID="3"`) && strings.Contains(line, "pod=") || strings.Contains(line, "hpc_job=") && strings.Contains(line, "pod=") {
			t.Errorf("a label that is not theirs: %s", line)
		}
	}
	e.ShowGPUs(false)
	for _, name := range []string{"0x7ffffff", "e+18", "9223372036854775", "-1\n"} {
		if strings.Contains(gpus.String(), name) {
			t.Errorf("a value for what is not known is on the page: %s", name)
		}
	}
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
	cfg.NVML, cfg.GPUs, cfg.Kernel = nil, nil, nil
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	e := New(cfg)
	e.ShowGPUs(true)
	for range 2 {
		got := page(t, e)
		for _, name := range []string{"spool_oldest", "nvml", "DCGM", "last_tick", "source_", "rows_total", "kernel_", "bmc_", "instrument"} {
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

// TestGPUs: what is too old is not shown, and a GPU that is read more seldom has more time.
func TestGPUs(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	at := func(age time.Duration) int64 { return now.Add(-age).UnixMilli() }
	list := []gpu.Latest{
		{WallMs: at(2 * time.Second), HealthWallMs: at(50 * time.Second), State: source.Active,
			Instances: []gpu.LatestInstance{{Instance: frame.Instance{UUID: "MIG-1"}, WallMs: at(time.Second)}, {Instance: frame.Instance{UUID: "MIG-2"}}}},
		{WallMs: at(6 * time.Second), HealthWallMs: at(70 * time.Second), State: source.Active},
		{WallMs: at(30 * time.Second), HealthWallMs: at(70 * time.Second), State: source.Degraded},
		{State: source.Lost},
		{WallMs: at(-2 * time.Second), State: source.Active}, // the wall clock was set back
	}
	for i := range list {
		list[i].Device.Whole = true
	}
	asked := gpu.Latest{WallMs: at(time.Second), State: source.Active, Device: frame.Device{Name: "NVIDIA H100", PCIBusID: "00000000:1B:00.0"}}
	early := asked
	early.Device.PCIBusID = "" // its labels would be others than a moment later
	list = append(list, asked, early)
	got := GPUs(list, now, Freshness{Interval: time.Second}, func(uuid string) Owner { return Owner{Pod: uuid} })
	for i, want := range []struct{ fresh, health bool }{{true, true}, {false, false}, {true, true}, {false, false}, {true, false}, {true, false}} {
		if got[i].Fresh != want.fresh || got[i].HealthFresh != want.health {
			t.Errorf("GPU %d: fresh %v, health %v; want %+v", i, got[i].Fresh, got[i].HealthFresh, want)
		}
	}
	if len(got) != len(list)-1 {
		t.Errorf("%d GPUs of %d", len(got), len(list))
	}
	if in := got[0].Instances; len(in) != 2 || !in[0].Fresh || in[1].Fresh || in[0].Owner.Pod != "MIG-1" {
		t.Errorf("instances: %+v", in)
	}
	st := gpu.Stats{Events: map[string]uint64{"xid": 2, "lost": 1}, Faults: map[gpu.FaultKey]uint64{{Function: "b"}: 1, {Function: "a", Code: 2}: 1}}
	st.Tiers[gpu.TierBase].Asked = 3
	st.Slowest[frame.ClassFields] = time.Second
	n := OfNVML(&st)
	if len(n.Events) != 2 || n.Events[0].Name != "lost" || n.Faults[0].Function != "a" || len(n.Tiers) != 1 || n.Tiers[0].Name != "base" || len(n.Slowest) != 1 || n.Slowest[0].Class != "fields" {
		t.Errorf("counts: %+v", n)
	}
}

// TestWholePage: names, units and texts as Prometheus wants them; and however much a host
// has, the page is bounded.
func TestWholePage(t *testing.T) {
	cfg := config()
	st := cfg.Agent()
	for n := range 5000 {
		st.Instruments = append(st.Instruments, agent.StatusAt{Status: source.Status{Instrument: fmt.Sprintf("bmc/gpu-%d", n+100), State: source.Lost}})
	}
	cfg.Agent = func() agent.Stats { return st }
	many := make([]kernel.FeatureStats, 100)
	for n := range many {
		many[n] = kernel.FeatureStats{Name: fmt.Sprintf("f%d", n)}
		for m := range 1000 {
			many[n].Load.Counts = append(many[n].Load.Counts, kernel.Count{Name: fmt.Sprintf("c%d", m)})
			many[n].Load.Probes = append(many[n].Load.Probes, kernel.Probe{Name: fmt.Sprintf("p%d", m)})
		}
	}
	cfg.Kernel = func() []Feature { return OfKernel(many) }
	cfg.GPUs = nil
	all := page(t, New(cfg))
	problems, err := promlint.New(strings.NewReader(all)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if !strings.Contains(all, `flopwatch_agent_bmc_targets{state="lost"} 5000`) {
		t.Error("targets are not counted")
	}
	if n := strings.Count(all, "\n"); n > 6000 {
		t.Errorf("%d lines", n)
	}
	for line := range strings.Lines(page(t, New(config()))) {
		if name, help, ok := strings.Cut(strings.TrimPrefix(line, "# HELP "), " "); ok && strings.HasPrefix(line, "# HELP ") && !strings.HasSuffix(help, ".\n") {
			t.Errorf("%s: its help is no sentence: %s", name, help)
		}
	}
}
