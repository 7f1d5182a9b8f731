package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/agent/job"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

const (
	cluster = "e2e"
	node    = "fake-host"
	warmUp  = 3 * time.Minute
	load    = 40 * time.Minute
	total   = 50 * time.Minute
	// maxCalls is what a host may spend on a GPU in a second: DESIGN.md 6.
	maxCalls = 12
	// bytesPerSample is the same for the wire, for 25 values.
	bytesPerSample = 30
)

// TestEightFakeGPUs: eight H100s of the stub train for 40 minutes of the stub's clock. What
// the unmodified go-nvml reads of them goes through the agent, its spool, NATS and the
// collector into ClickHouse, every sample once, and the detector finds one training run
// whose interval holds the FLOPs that the stub's scenario amounts to.
func TestEightFakeGPUs(t *testing.T) { eightFakeGPUs(t, 0, nvmlstub.CyclesCounted) }

// TestEightFakeGPUsWithBursts: the same, and between the ticks of half of every minute there is
// a moment every 200 ms, so that rows of ticks and of moments stand beside each other in each
// cell. What the detector finds is the same, by exact cycles and by activity times clock, which
// rests on fewer rows in a burst.
func TestEightFakeGPUsWithBursts(t *testing.T) {
	t.Run("cycles", func(t *testing.T) { eightFakeGPUs(t, 200*time.Millisecond, nvmlstub.CyclesCounted) })
	t.Run("activity", func(t *testing.T) { eightFakeGPUs(t, 200*time.Millisecond, nvmlstub.CyclesUnsupported) })
}

// bursting reports whether moments come behind the second i.
func bursting(i int) bool { return i%60 >= 15 && i%60 < 45 }

func eightFakeGPUs(t *testing.T, spacing time.Duration, cycles nvmlstub.Cycles) {
	child, lib := fakeGPUs(t)
	scenario := nvmlstub.H100x8Training(warmUp, load)
	scenario.Manual = true
	for i := range scenario.GPUs {
		scenario.GPUs[i].Cycles = cycles
	}
	scenario.Processes = []nvmlstub.Process{{PID: uint32(os.Getpid()), GPUs: []int{0, 1, 2, 3, 4, 5, 6, 7}, UsedBytes: 70 << 30, From: warmUp, To: warmUp + load}}
	mem, err := nvmlstub.Create(filepath.Join(filepath.Dir(lib), nvmlstub.Shared), scenario)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mem.Close() })

	st := openStore(t)
	lg := slog.New(slog.NewTextHandler(t.Output(), nil))
	nc, _ := testenv.NATS(t)
	js, err := ship.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{}); err != nil {
		t.Fatal(err)
	}
	c, err := collector.Open(t.Context(), collector.Config{
		Conn: nc, Store: st, Partitions: collector.Partitions(broker.EmbeddedPartitions), Instance: "e2e", Log: lg, Linger: 100 * time.Millisecond, Batch: batch.Config{},
	})
	if err != nil {
		t.Fatal(err)
	}
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(t.TempDir(), "spool")})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := agent.NewRecorder(agent.RecorderConfig{Cluster: cluster, Node: node, Spool: sp, Privacy: agent.ClearPrivacy(), BootID: "boot"})
	if err != nil {
		t.Fatal(err)
	}
	sh, err := ship.New(ship.Config{Conn: nc, JetStream: js, Spool: sp, Cluster: cluster, Node: node, Log: lg})
	if err != nil {
		t.Fatal(err)
	}
	gpus, err := gpu.New(gpu.Config{Child: child, Library: lib, AnswerWait: 10 * time.Second, Log: lg})
	if err != nil {
		t.Fatal(err)
	}
	jobs := job.New(job.Config{}, gpus)
	a, err := agent.New(agent.Config{Node: node, Recorder: rec, Sources: []source.Source{gpus, jobs}, Ship: sh, Manual: true, Log: lg, DrainTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}

	running, stop := context.WithCancel(t.Context())
	defer stop()
	collecting, stopCollecting := context.WithCancel(t.Context())
	defer stopCollecting()
	var agents, collectors errgroup.Group
	collectors.Go(func() error { return c.Run(collecting) })
	agents.Go(func() error { return a.Run(running) })

	// The past hour, so that nothing lies ahead of the broker's time.
	startMs := time.Now().Add(-total-time.Minute).UnixMilli() / 60_000 * 60_000
	const bootMs = 7_200_000
	ticks, moments := int(total/time.Second), 0
	for i := 1; i <= ticks; i++ {
		now := time.Duration(i) * time.Second
		for k := 0; k == 0 || spacing > 0 && bursting(i) && time.Duration(k)*spacing < time.Second; k++ {
			at := now + time.Duration(k)*spacing
			if err = mem.SetNow(at); err != nil {
				t.Fatal(err)
			}
			if err = a.Step(t.Context(), source.Tick{Seq: uint64(i), Burst: k, WallMs: startMs + at.Milliseconds(), BootMs: bootMs + at.Milliseconds()}); err != nil {
				t.Fatal(err)
			}
			moments += min(k, 1)
		}
	}
	calls := mem.Snapshot()
	stop()
	if err = agents.Wait(); err != nil {
		t.Fatal(err)
	}
	if err = sp.Close(); err != nil {
		t.Fatal(err)
	}
	stopCollecting()
	if err = collectors.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}

	// Every sample once.
	raw, distinct, err := st.Count(t.Context(), store.TableGPUSamples)
	if err != nil {
		t.Fatal(err)
	}
	// The child has to start before the first tick sees anything.
	if most := uint64(8 * ticks); raw != distinct || raw > most+uint64(8*moments) || raw < most-8*10 {
		t.Errorf("%d rows of GPUs, %d distinct, of %d ticks of 8 and %d moments", raw, distinct, ticks, moments)
	}
	if least := uint64(8 * (ticks + moments/2)); spacing > 0 && raw < least {
		t.Errorf("%d rows of GPUs, wanted %d: half of the moments at least", raw, least)
	}
	perGPU := float64(calls.Total(-1)) / 8 / float64(ticks)
	perSample := float64(rec.SealedBytes()) / float64(raw)
	t.Logf("%d samples of GPUs, %.2f calls into NVML per GPU and second, %.1f bytes per sample of a GPU on the wire", raw, perGPU, perSample)
	if perGPU > maxCalls {
		t.Errorf("%.2f calls per GPU and second: %v", perGPU, calls)
	}
	if perSample > bytesPerSample {
		t.Errorf("%.1f bytes per sample of a GPU", perSample)
	}

	checkSamples(t, st, mem, startMs, ticks)
	basis := flops.BasisMMACycles
	if cycles != nvmlstub.CyclesCounted {
		basis = flops.BasisTensorActivity
	}
	checkRun(t, st, mem, startMs, basis)
}

// checkSamples holds what is stored against the scenario's own integrals.
func checkSamples(t *testing.T, st *store.Store, mem *nvmlstub.Memory, startMs int64, ticks int) {
	t.Helper()
	rows, err := st.GPURows(t.Context(), store.RowQuery{Cluster: cluster, FromMs: startMs, ToMs: startMs + int64(ticks+5)*1000})
	if err != nil {
		t.Fatal(err)
	}
	first, last := map[int]store.GPURow{}, map[int]store.GPURow{}
	for _, r := range rows {
		if _, ok := first[r.GPU]; !ok {
			first[r.GPU] = r
		}
		last[r.GPU] = r
	}
	for g := range 8 {
		if first[g].UUID != mem.UUID(g) {
			t.Errorf("GPU %d is %s, not %s", g, first[g].UUID, mem.UUID(g))
		}
		// Times of samples are those of the ticks but for what a pass takes.
		from := time.Duration((first[g].TsMs-startMs)/1000) * time.Second
		to := time.Duration((last[g].TsMs-startMs)/1000) * time.Second
		got, want := last[g].EnergyJ-first[g].EnergyJ, mem.Truth(g, from, to).EnergyJ
		if math.Abs(got-want) > 0.001*want {
			t.Errorf("GPU %d: %.0f J between its first sample and its last, the scenario has %.0f", g, got, want)
		}
	}
	devices, err := st.DeviceRows(t.Context(), store.AsOf{Cluster: cluster})
	if err != nil {
		t.Fatal(err)
	}
	if len(devices) != 8 {
		t.Errorf("%d devices", len(devices))
	}
}

// densePeak16 and boostMHz are the data sheet's: dense BF16 FLOP per second at the boost
// clock, so FLOP per tensor cycle of the whole GPU.
const (
	densePeak16 = 989.4e12
	boostMHz    = 1830
)

func checkRun(t *testing.T, st *store.Store, mem *nvmlstub.Memory, startMs int64, basis string) {
	t.Helper()
	profiles, err := threshold.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	parties, err := detector.LoadParties(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	d := detector.New(detector.Config{Cluster: cluster, Profiles: profiles, ProfileVersion: "test", ConfigDigest: "test", Epoch: 1, Now: time.Now}, st, parties)
	if err = d.Backfill(t.Context(), startMs, startMs+total.Milliseconds()); err != nil {
		t.Fatal(err)
	}
	lines, _, err := detector.Lines(t.Context(), st, cluster, 1)
	if err != nil {
		t.Fatal(err)
	}
	var truth float64
	for g := range 8 {
		truth += mem.Truth(g, 0, total).TensorMegacycles * densePeak16 / boostMHz
	}
	found := 0
	for _, l := range lines {
		var r struct {
			Class     string                            `json:"class"`
			StartedMs int64                             `json:"started_ms"`
			EndedMs   *int64                            `json:"ended_ms"`
			Basis     []string                          `json:"basis"`
			Members   []any                             `json:"members"`
			Reasons   []string                          `json:"reasons"`
			Executed  struct{ Low, Best, High float64 } `json:"flops_executed"`
		}
		if err = json.Unmarshal([]byte(l), &r); err != nil {
			t.Fatal(err)
		}
		if r.Class != "training" && r.Class != "finetuning" {
			continue
		}
		found++
		t.Logf("a run of class %s from minute %d, %d GPUs, executed %.3g / %.3g / %.3g FLOP by %v; the scenario amounts to %.3g", r.Class,
			(r.StartedMs-startMs)/60_000, len(r.Members), r.Executed.Low, r.Executed.Best, r.Executed.High, r.Basis, truth)
		if !slices.Equal(r.Basis, []string{basis}) {
			t.Errorf("by %v, wanted %s", r.Basis, basis)
		}
		if len(r.Members) != 8 {
			t.Errorf("%d members", len(r.Members))
		}
		if truth < r.Executed.Low || truth > r.Executed.High || math.Abs(r.Executed.Best-truth) > 0.15*truth {
			t.Errorf("the scenario amounts to %.4g FLOP", truth)
		}
	}
	if found != 1 {
		t.Errorf("%d training runs: %v", found, lines)
	}
}

// databases counts those of this process: each test has one of its own.
var databases atomic.Int64

func openStore(t *testing.T) *store.Store {
	t.Helper()
	url, user, password := testenv.ClickHouse(t)
	st, err := store.Open(t.Context(), store.Config{URL: url, User: user, Password: password, Database: fmt.Sprintf("e2e_%d_%d", os.Getpid(), databases.Add(1))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cerr := st.Close(); cerr != nil {
			t.Error(cerr)
		}
	})
	if err = st.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return st
}

// fakeGPUs builds the child and the stub.
func fakeGPUs(t *testing.T) (child, lib string) {
	t.Helper()
	_, err := exec.LookPath("gcc")
	testenv.Need(t, "cc", err)
	dir := t.TempDir()
	child = filepath.Join(dir, "flopwatch-nvml")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w -extldflags=-Wl,-z,lazy", "-o", child, "./cmd/flopwatch-nvml")
	cmd.Dir = testenv.Root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, berr := cmd.CombinedOutput(); berr != nil {
		t.Fatalf("build flopwatch-nvml: %v: %s", berr, out)
	}
	if lib, err = nvmlstub.Build(t.Context(), filepath.Join(dir, "stub"), nvmlstub.Options{}); err != nil {
		t.Fatal(err)
	}
	return child, lib
}
