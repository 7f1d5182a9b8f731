package gpu_test

import (
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// near fails unless a value is what the stub knows to be true, give or take.
func near(t *testing.T, r row, name string, want, tolerance float64) {
	t.Helper()
	got, ok := r.ints[name]
	if !ok {
		t.Errorf("%s is absent, want %v", name, want)
		return
	}
	if math.Abs(float64(got)-want) > tolerance {
		t.Errorf("%s = %d, want %v ± %v", name, got, want, tolerance)
	}
}

func TestValuesAreTheStubsTruth(t *testing.T) {
	s := nvmlstub.H100x8Training(5*time.Second, time.Hour)
	for i := range s.GPUs {
		s.GPUs[i].PowerLimitMW = 350_000 // enforced: the board's default stays what it is
	}
	s.Processes = []nvmlstub.Process{
		{PID: uint32(os.Getpid()), GPUs: []int{0, 3}, UsedBytes: 7 << 30, Name: "train"},
		{PID: 1<<31 - 2, GPUs: []int{0}, UsedBytes: 1 << 30, Name: "nobody"},
		{PID: uint32(os.Getppid()), GPUs: []int{1}, UsedBytes: 1 << 20, Type: nvmlstub.MPSProcess, Name: "mps"},
	}
	r := newRig(t, nvmlstub.Options{}, s, gpu.Config{})
	r.steps(30)
	rows := r.out.take(wire.KindGPU)
	if len(rows) != 30*8 {
		t.Fatalf("%d rows of 30 ticks and 8 GPUs; log:\n%s", len(rows), r.log)
	}
	for g := range 8 {
		mine := of(rows, g)
		for i, row := range mine {
			at := time.Duration(i+1) * time.Second
			if lag := row.ints["ts_ms"] - wall0 - at.Milliseconds(); lag < 0 || lag > 5000 || row.ints["boot_ms"]-boot0-at.Milliseconds() != lag {
				t.Fatalf("GPU %d, tick %d: ts_ms is %d ms behind the tick, boot_ms %d", g, i+1, lag, row.ints["boot_ms"]-boot0-at.Milliseconds())
			}
			if row.strs["gpu_uuid"] != r.mem.UUID(g) {
				t.Fatalf("GPU %d is %s, want %s", g, row.strs["gpu_uuid"], r.mem.UUID(g))
			}
			level := r.mem.At(g, at)
			near(t, row, "sm_clock_mhz", level[nvmlstub.SMClockMHz], 1)
			near(t, row, "mem_clock_mhz", level[nvmlstub.MemClockMHz], 1)
			near(t, row, "temp_c", level[nvmlstub.TempC], 1)
			near(t, row, "mem_used_bytes", level[nvmlstub.MemUsedBytes], 1)
			near(t, row, "energy_mj", 5e9+float64(g)*1e7+1000*r.mem.Truth(g, 0, at).EnergyJ-500, 502) // whole joules
			near(t, row, "power_mw", 1000*level[nvmlstub.PowerW], 51)                                 // tenths of a watt travel
			near(t, row, "util_e4", 1e4*r.mem.Truth(g, at-time.Second, at).Mean[nvmlstub.Util], 101)
			if i == 0 {
				if row.has("tensor_e4") {
					t.Error("one sample gives no average")
				}
				continue
			}
			mean := r.mem.Truth(g, at-time.Second, at).Mean
			for name, q := range map[string]nvmlstub.Quantity{
				"sm_active_e4": nvmlstub.SMActive, "sm_occupancy_e4": nvmlstub.SMOccupancy, "tensor_e4": nvmlstub.Tensor, "hmma_e4": nvmlstub.HMMA,
				"imma_e4": nvmlstub.IMMA, "dfma_e4": nvmlstub.DFMA, "fp64_e4": nvmlstub.FP64, "fp32_e4": nvmlstub.FP32, "fp16_e4": nvmlstub.FP16,
				"int_e4": nvmlstub.Integer, "dram_e4": nvmlstub.DRAM,
			} {
				near(t, row, name, 1e4*mean[q], 1)
				if row.sources[name] != wire.SourceGPM {
					t.Errorf("%s is of %v, want GPM", name, row.sources[name])
				}
			}
			for name, q := range map[string]nvmlstub.Quantity{
				"nvlink_tx_bps": nvmlstub.NVLinkTxBps, "nvlink_rx_bps": nvmlstub.NVLinkRxBps, "pcie_tx_bps": nvmlstub.PCIeTxBps, "pcie_rx_bps": nvmlstub.PCIeRxBps,
			} {
				near(t, row, name, mean[q], 1+mean[q]/4096) // they travel rounded
				if row.sources[name] != wire.SourceGPM {
					t.Errorf("%s is of %v, want GPM", name, row.sources[name])
				}
			}
			for _, name := range []string{"util_e4", "power_mw", "energy_mj", "temp_c"} {
				if row.sources[name] != wire.SourceNVML {
					t.Errorf("%s is of %v, want NVML", name, row.sources[name])
				}
			}
			if t.Failed() {
				t.Fatalf("GPU %d, tick %d", g, i+1)
			}
		}
	}
	for _, name := range append([]string{"gpu"}, "gpu/"+r.mem.UUID(0), "gpu/"+r.mem.UUID(7)) {
		if st := r.out.status[name]; st.State != source.Active {
			t.Errorf("%s: %+v", name, st)
		}
	}
	if told := slices.DeleteFunc(slices.Clone(r.out.told), func(st source.Status) bool { return st.Instrument == "gpu/events" }); len(told) != 9 || len(r.out.told) > 10 {
		t.Errorf("statuses are told when they change: %v", r.out.told)
	}
	devices := r.out.take(wire.KindDevice)
	if len(devices) < 8 || len(devices) > 24 {
		t.Errorf("%d device rows", len(devices))
	}
	mine := of(devices, 2)
	d := mine[len(mine)-1] // the first is a name: what it is comes bit by bit, and is told when it is whole
	for name, want := range map[string]string{"gpu_model": "NVIDIA H100 80GB HBM3", "driver_version": "580.95.05", "vbios_version": "96.00.89.00.01"} {
		if d.strs[name] != want {
			t.Errorf("device: %s = %q, want %q", name, d.strs[name], want)
		}
	}
	for name, want := range map[string]int64{"mem_total_bytes": 81559 << 20, "power_limit_mw": 700_000, "sm_clock_max_mhz": 1980, "nvlink_count": 18, "mig_mode": 0} {
		if d.ints[name] != want {
			t.Errorf("device: %s = %d, want %d", name, d.ints[name], want)
		}
	}
	if !strings.Contains(d.strs["capabilities"], "gpm") || d.strs["pci_bus_id"] == "" {
		t.Errorf("device: %+v", d)
	}
	list, seq, ok := r.src.GPUProcesses()
	want := map[source.GPUProcess]bool{
		{GPU: 0, PID: int32(os.Getpid()), UsedBytes: 7 << 30}: true, {GPU: 3, PID: int32(os.Getpid()), UsedBytes: 7 << 30}: true,
		{GPU: 1, PID: int32(os.Getppid()), UsedBytes: 1 << 20}: true,
	}
	for _, p := range list {
		delete(want, p)
	}
	if !ok || seq < 2 || len(list) != 3 || len(want) != 0 {
		t.Errorf("processes: %v, looks %d, ok %v; missing %v", list, seq, ok, want)
	}
	latest := r.src.Latest()
	if len(latest) != 8 || latest[5].Device.UUID != r.mem.UUID(5) || !latest[5].Reading.Has(frame.TensorE4) || latest[5].State != source.Active {
		t.Errorf("latest: %+v", latest)
	}
	st := r.src.Stats()
	if st.Starts != 1 || st.Restarts != 0 || len(st.Faults) != 0 || st.Readings != 240 || st.GPUs != 8 {
		t.Errorf("stats: %+v", st)
	}
}

// The budget is 12 calls a GPU and second, looks at processes and descriptions included.
func TestCallsPerGPUAndSecond(t *testing.T) {
	s := nvmlstub.H100x8Training(0, time.Hour)
	all := []int{0, 1, 2, 3, 4, 5, 6, 7}
	for range 3 {
		s.Processes = append(s.Processes, nvmlstub.Process{PID: uint32(os.Getpid() + len(s.Processes)), GPUs: all, UsedBytes: 1 << 30})
	}
	r := newRig(t, nvmlstub.Options{}, s, gpu.Config{DeviceInterval: 30 * time.Second})
	r.steps(1) // initialisation
	before := r.mem.Snapshot()
	stats := r.src.Stats()
	most := uint64(0)
	for range 60 {
		was := r.mem.Snapshot()
		r.steps(1)
		for g := range 8 {
			made := r.mem.Snapshot().Since(was)
			if n := made.Total(g); n > 12 {
				t.Logf("at %v GPU %d was called: %v", r.now(), g, callsOf(made, g))
			}
			most = max(most, made.Total(g))
		}
	}
	if most > 12 {
		t.Errorf("%d calls of a GPU in a second", most)
	}
	if n := len(of(r.out.take(wire.KindDevice), 0)); n < 2 {
		t.Errorf("a GPU was described %d times in a minute and at first, wanted every 30 s", n)
	}
	made := r.mem.Snapshot().Since(before)
	for g := range 8 {
		if n := float64(made.Total(g)) / 60; n > 12 || n < 5 {
			t.Errorf("GPU %d: %.2f calls a second", g, n)
		}
	}
	all8 := float64(made.Total(-1)) / 60 / 8
	t.Logf("%.2f calls a GPU and second, looks at processes and descriptions included", all8)
	if all8 > 12 {
		t.Errorf("%.2f calls a GPU and second, those included that name no GPU", all8)
	}
	if got := r.src.Stats().Calls - stats.Calls; math.Abs(float64(got)-float64(made.Total(-1))) > 8 {
		t.Errorf("the child counts %d calls, the stub %d", got, made.Total(-1))
	}
	for name := range made {
		if strings.Contains(name, "Set") && !strings.HasPrefix(name, "nvmlEventSet") || strings.Contains(name, "PcieThroughput") {
			t.Errorf("%s was called", name)
		}
	}
}

// callsOf are the calls for one GPU, by function.
func callsOf(c nvmlstub.Calls, g int) map[string]uint64 {
	out := map[string]uint64{}
	for name, n := range c {
		if n[g] > 0 {
			out[name] = n[g]
		}
	}
	return out
}

// A driver from before GPM: what it has still arrives, and says by which way it came.
func TestOldDriver(t *testing.T) {
	r := newRig(t, nvmlstub.Options{OldDriver: true}, nvmlstub.Training(nvmlstub.A100, 2, 0, time.Hour), gpu.Config{})
	r.steps(20)
	rows := of(r.out.take(wire.KindGPU), 1)
	if len(rows) != 20 {
		t.Fatalf("%d rows; log:\n%s", len(rows), r.log)
	}
	last := rows[19]
	at := 20 * time.Second
	near(t, last, "util_e4", 1e4*r.mem.Truth(1, at-time.Second, at).Mean[nvmlstub.Util], 101)
	near(t, last, "energy_mj", 5e9+1e7+1000*r.mem.Truth(1, 0, at).EnergyJ-500, 502)
	if !last.has("power_mw") || !last.has("mem_used_bytes") || !last.has("clocks_event_reasons") {
		t.Errorf("row: %+v", last)
	}
	// Counters are whole KiB, and clocks of rows whole microseconds that do not pass for the stub.
	near(t, last, "nvlink_tx_bps", r.mem.Truth(1, at-time.Second, at).Mean[nvmlstub.NVLinkTxBps], 0.2*r.mem.Truth(1, at-time.Second, at).Mean[nvmlstub.NVLinkTxBps])
	for name, src := range last.sources {
		if src != wire.SourceNVML {
			t.Errorf("%s is of %v", name, src)
		}
	}
	for _, name := range []string{"tensor_e4", "sm_active_e4", "dram_e4"} {
		if last.has(name) {
			t.Errorf("%s without GPM", name)
		}
	}
	if st := r.out.status["gpu"]; st.State != source.Degraded || !strings.Contains(st.Reason, "GPM") {
		t.Errorf("status: %+v", st)
	}
	if n := len(r.src.Stats().Faults); n != 0 {
		t.Errorf("what is not supported is no fault: %v", r.src.Stats().Faults)
	}
}

// A library that lacks functions costs their values, and nothing else: no exit 127.
func TestMissingFunctions(t *testing.T) {
	o := nvmlstub.Options{Without: []string{"nvmlDeviceGetTemperature*", "nvmlDeviceGetFieldValues", "nvmlDeviceGetCurrentClocks*", "nvmlGpmSampleGet",
		"nvmlDeviceGetComputeRunningProcesses*", "nvmlDeviceGetMigMode", "nvmlDeviceGetVbiosVersion", "nvmlDeviceGetMemoryInfo_v2", "nvmlShutdown", "nvmlSystemGet*"}}
	r := newRig(t, o, nvmlstub.Training(nvmlstub.H100SXM, 1, 0, time.Hour), gpu.Config{})
	r.steps(15)
	rows := r.out.take(wire.KindGPU)
	if len(rows) != 15 {
		t.Fatalf("%d rows; log:\n%s", len(rows), r.log)
	}
	for _, name := range []string{"util_e4", "power_mw", "energy_mj", "mem_used_bytes", "sm_clock_mhz"} {
		if !rows[14].has(name) {
			t.Errorf("%s is absent", name)
		}
	}
	for _, name := range []string{"temp_c", "clocks_event_reasons", "tensor_e4"} {
		if rows[14].has(name) {
			t.Errorf("%s is there", name)
		}
	}
	if _, _, ok := r.src.GPUProcesses(); ok {
		t.Error("processes are known without a function that lists them")
	}
	st := r.src.Stats()
	if st.Restarts != 0 || len(st.Library.Missing) == 0 {
		t.Errorf("stats: %+v", st)
	}
	if err := r.src.Close(); err != nil {
		t.Error(err)
	}
}

func TestLostGPU(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 4, 0, time.Hour), gpu.Config{})
	r.steps(5)
	if err := r.mem.SetLost(2, 6*time.Second); err != nil {
		t.Fatal(err)
	}
	before := r.mem.Snapshot()
	r.out.take(wire.KindGPU)
	r.steps(60)
	rows := r.out.take(wire.KindGPU)
	if n := len(of(rows, 2)); n != 0 {
		t.Errorf("%d rows of a GPU that is lost", n)
	}
	if n := len(of(rows, 3)); n != 60 {
		t.Errorf("%d rows of its neighbour, want 60", n)
	}
	if st := r.out.status["gpu/"+r.mem.UUID(2)]; st.State != source.Lost || !strings.Contains(st.Reason, "bus") {
		t.Errorf("status: %+v", st)
	}
	if st := r.out.status["gpu"]; st.State != source.Degraded {
		t.Errorf("status: %+v", st)
	}
	if n := r.mem.Snapshot().Since(before).Total(2); n > 20 {
		t.Errorf("a lost GPU was called %d times in a minute", n)
	}
	if l := r.src.Latest()[2]; l.State != source.Lost || l.Reading.Present != 0 {
		t.Errorf("latest of a lost GPU: %+v", l)
	}
	if err := r.mem.SetLost(2, -1); err != nil {
		t.Fatal(err)
	}
	r.steps(70)
	if n := len(of(r.out.take(wire.KindGPU), 2)); n == 0 || r.state(2) != source.Active {
		t.Errorf("it is back: %d rows, %v", n, r.state(2))
	}
	st := r.src.Stats()
	if st.Restarts != 0 || st.Faults[gpu.FaultKey{Function: "nvmlDeviceGetHandleByIndex_v2", Code: nvmlstub.CodeGPULost}] == 0 || st.Events["lost"] != 1 || st.Events["back"] != 1 {
		t.Errorf("stats: %+v", st)
	}
	events := r.out.take(wire.KindEvent)
	if len(events) != 2 || events[0].strs["event"] != "lost" || events[0].strs["gpu_uuid"] != r.mem.UUID(2) || !strings.Contains(events[0].strs["detail"], "bus") || events[1].strs["event"] != "back" {
		t.Errorf("events: %+v", events)
	}
}

// A GPU that is lost before the start has no name yet; the others are watched.
func TestGPUThatIsLostFromTheStart(t *testing.T) {
	s := nvmlstub.Training(nvmlstub.H100SXM, 3, 0, time.Hour)
	s.GPUs[1].LostAt = time.Microsecond
	r := newRig(t, nvmlstub.Options{}, s, gpu.Config{})
	r.steps(10)
	rows := r.out.take(wire.KindGPU)
	if len(of(rows, 0)) != 10 || len(of(rows, 1)) != 0 || len(of(rows, 2)) != 10 {
		t.Errorf("rows: %d, %d, %d", len(of(rows, 0)), len(of(rows, 1)), len(of(rows, 2)))
	}
	if st := r.out.status["gpu"]; st.State != source.Degraded || !strings.Contains(st.Reason, "1 are lost") {
		t.Errorf("status: %+v", st)
	}
	if devices, ok := r.src.GPUDevices(); !ok || len(devices) != 2 || devices[1].Index != 2 {
		t.Errorf("devices: %+v, %v", devices, ok)
	}
	if err := r.mem.SetLost(1, -1); err != nil {
		t.Fatal(err)
	}
	r.steps(70)
	if r.state(1) != source.Active || r.out.status["gpu"].State != source.Active {
		t.Errorf("statuses: %v", r.out.status)
	}
}

// MIG takes utilization and the monitor of the whole away; what is left arrives.
func TestMIG(t *testing.T) {
	s := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour)
	s.GPUs[0].MIG = true
	r := newRig(t, nvmlstub.Options{}, s, gpu.Config{})
	r.steps(30)
	last := of(r.out.take(wire.KindGPU), 0)[29]
	if last.has("util_e4") || last.has("tensor_e4") || !last.has("power_mw") || !last.has("nvlink_tx_bps") || last.sources["nvlink_tx_bps"] != wire.SourceNVML {
		t.Errorf("row: %+v", last)
	}
	if st := r.out.status["gpu/"+r.mem.UUID(0)]; st.State != source.Active || !strings.Contains(st.Reason, "MIG") {
		t.Errorf("status: %+v", st)
	}
	if st := r.out.status["gpu/"+r.mem.UUID(1)]; st.State != source.Active || st.Reason != "" {
		t.Errorf("status of the other: %+v", st)
	}
	devices := of(r.out.take(wire.KindDevice), 0)
	if caps := strings.Split(devices[len(devices)-1].strs["capabilities"], ","); slices.Contains(caps, "gpm") || slices.Contains(caps, "utilization") || !slices.Contains(caps, "power") {
		t.Errorf("capabilities: %s", caps)
	}
}

// One GPU hangs: the others go on, it is stalled and never zero; then it answers, late, and its
// reading counts for the tick that asked.
func TestHangOfOneGPU(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 4, 0, time.Hour), gpu.Config{StallAfter: 100 * time.Millisecond, AnswerWait: 2 * time.Second})
	r.steps(3)
	if err := r.mem.SetFaults(nvmlstub.Fault{Function: "nvmlDeviceGetUtilizationRates", GPUs: []int{1}, Delay: nvmlstub.Hang}); err != nil {
		t.Fatal(err)
	}
	r.out.take(wire.KindGPU)
	hung := r.tick.Seq + 1
	r.steps(10)
	rows := r.out.take(wire.KindGPU)
	if len(of(rows, 1)) != 0 || len(of(rows, 0)) != 10 || len(of(rows, 3)) != 10 {
		t.Fatalf("rows of GPU 0, 1, 3: %d, %d, %d; want 10, 0, 10", len(of(rows, 0)), len(of(rows, 1)), len(of(rows, 3)))
	}
	if r.state(1) != source.Stalled || r.out.status["gpu"].State != source.Degraded || r.state(0) != source.Active {
		t.Errorf("statuses: %v", r.out.status)
	}
	if l := r.src.Latest()[1]; l.State != source.Stalled || l.Reading.Present != 0 {
		t.Errorf("latest of a stalled GPU: %+v", l)
	}
	if err := r.mem.SetFaults(); err != nil {
		t.Fatal(err)
	}
	r.until("the GPU answers again", func() bool { return r.state(1) == source.Active && r.out.status["gpu"].State == source.Active })
	late := of(r.out.take(wire.KindGPU), 1)[0]
	if tick := wall0 + int64(hung)*1000; late.ints["ts_ms"] < tick || late.ints["ts_ms"] > tick+20_000 {
		t.Errorf("the late reading is of %d ms behind the tick that asked for it", late.ints["ts_ms"]-tick)
	}
	if st := r.src.Stats(); st.Restarts != 0 || st.Kills != 0 {
		t.Errorf("stats: %+v", st)
	}
}

// All GPUs hang: the child is killed and started again.
func TestHangOfAll(t *testing.T) {
	cfg := gpu.Config{StallAfter: 50 * time.Millisecond, AnswerWait: 100 * time.Millisecond, KillAfter: 300 * time.Millisecond, BackoffMin: 10 * time.Millisecond}
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour), cfg)
	r.until("rows", func() bool { return len(r.out.rows[wire.KindGPU]) > 0 })
	if err := r.mem.SetFaults(nvmlstub.Fault{Function: "nvmlDeviceGet*", GPUs: []int{0, 1}, Delay: nvmlstub.Hang}); err != nil {
		t.Fatal(err)
	}
	r.until("everything is stalled", func() bool { return r.out.status["gpu"].State == source.Stalled && r.state(0) == source.Stalled })
	r.until("the child is killed", func() bool { return r.src.Stats().Kills > 0 })
	if err := r.mem.SetFaults(); err != nil {
		t.Fatal(err)
	}
	r.out.take(wire.KindGPU)
	r.until("it goes on", func() bool {
		return len(of(r.out.rows[wire.KindGPU], 1)) > 0 && r.out.status["gpu"].State == source.Active && r.state(0) == source.Active
	})
	if st := r.src.Stats(); st.Restarts == 0 || st.Abandoned != 0 {
		t.Errorf("stats: %+v", st)
	}
}

func TestKilledChild(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour), gpu.Config{BackoffMin: 10 * time.Millisecond})
	r.steps(3)
	for range 3 {
		pid := r.src.Stats().ChildPID
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		r.until("another child answers", func() bool {
			now := r.src.Stats().ChildPID
			return now != 0 && now != pid && r.state(1) == source.Active && r.out.status["gpu"].State == source.Active
		})
	}
	if st := r.src.Stats(); st.Restarts != 3 || st.Starts != 4 {
		t.Errorf("stats: %+v", st)
	}
	if n := strings.Count(r.log.String(), "started again"); n != 3 {
		t.Errorf("said %d times:\n%s", n, r.log)
	}
}

// No library: said once, and no child is kept.
func TestNoLibrary(t *testing.T) {
	child, _ := compile(t, nvmlstub.Options{})
	r := bare(t, gpu.Config{Child: child, Library: "/nowhere/libnvidia-ml.so.1"})
	r.until("unavailable", func() bool { return r.out.status["gpu"].State == source.Unavailable })
	r.until("no child is kept", func() bool { return r.src.Stats().ChildPID == 0 })
	r.steps(50)
	st := r.out.status["gpu"]
	if !strings.Contains(st.Reason, "/nowhere/libnvidia-ml.so.1") || !strings.Contains(st.Reason, "No such file") {
		t.Errorf("status: %+v", st)
	}
	if n := strings.Count(r.log.String(), "level="); n != 1 {
		t.Errorf("said %d times:\n%s", n, r.log)
	}
	if stats := r.src.Stats(); stats.Starts != 1 || stats.GPUs != 0 {
		t.Errorf("stats: %+v", stats)
	}
	if _, _, ok := r.src.GPUProcesses(); ok {
		t.Error("processes are known without a driver")
	}
}

// The library is there and its driver is not; later it comes.
func TestDriverComesLater(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 1, 0, time.Hour), gpu.Config{RetryEvery: 50 * time.Millisecond})
	if err := r.mem.SetFaults(nvmlstub.Fault{Function: "nvmlInit*", Code: nvmlstub.CodeDriverNotLoaded}); err != nil {
		t.Fatal(err)
	}
	r.until("unavailable", func() bool { return r.out.status["gpu"].State == source.Unavailable })
	r.until("it looks again", func() bool { return r.src.Stats().Starts > 2 })
	if len(r.out.told) != 1 || strings.Count(r.log.String(), "level=") != 1 {
		t.Errorf("said more than once: %v\n%s", r.out.told, r.log)
	}
	if err := r.mem.SetFaults(); err != nil {
		t.Fatal(err)
	}
	r.until("rows", func() bool { return len(r.out.rows[wire.KindGPU]) > 0 && r.out.status["gpu"].State == source.Active })
}

// The driver is replaced under the child: it ends and a new one starts.
func TestDriverIsReplaced(t *testing.T) {
	const mismatch = 18
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour), gpu.Config{BackoffMin: 10 * time.Millisecond})
	r.steps(3)
	pid := r.src.Stats().ChildPID
	if err := r.mem.SetFaults(nvmlstub.Fault{Function: "nvmlDeviceGetUtilizationRates", Code: mismatch, Count: 1}); err != nil {
		t.Fatal(err)
	}
	r.step()
	r.until("another child answers", func() bool {
		now := r.src.Stats().ChildPID
		return now != 0 && now != pid && r.state(1) == source.Active && r.out.status["gpu"].State == source.Active
	})
	if st := r.src.Stats(); st.Restarts != 1 || st.Kills != 0 {
		t.Errorf("stats: %+v", st)
	}
}

// The driver is replaced by another version: the new child's facts say so, and what they were is
// not told again.
func TestDriverIsUpgraded(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 1, 0, time.Hour), gpu.Config{BackoffMin: 10 * time.Millisecond})
	r.until("rows", func() bool { return len(r.out.rows[wire.KindGPU]) > 5 })
	version := func() (list []string) {
		for _, f := range r.out.rows[wire.KindFact] {
			if f.strs["name"] == "driver_version" {
				list = append(list, f.strs["value"])
			}
		}
		return list
	}
	if got := version(); len(got) != 1 || got[0] != "580.95.05" {
		t.Fatalf("driver_version: %v", got)
	}
	pid := r.src.Stats().ChildPID
	if err := r.mem.ReplaceDriver("590.44.01"); err != nil {
		t.Fatal(err)
	}
	r.until("another child answers", func() bool {
		now := r.src.Stats().ChildPID
		return now != 0 && now != pid && r.state(0) == source.Active && len(version()) > 1
	})
	if got := version(); len(got) != 2 || got[1] != "590.44.01" {
		t.Errorf("driver_version: %v", got)
	}
	if st := r.src.Stats(); st.Restarts != 1 || st.Library.DriverVersion != "590.44.01" {
		t.Errorf("stats: %+v", st)
	}
}

// Calls that became slow: the GPU is read less often, and it is said.
func TestSlowCalls(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour), gpu.Config{DeviceInterval: 4 * time.Second})
	r.steps(3)
	if err := r.mem.SetFaults(nvmlstub.Fault{Function: "nvmlDeviceGetFieldValues", GPUs: []int{0}, Delay: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	r.out.take(wire.KindGPU)
	r.steps(60)
	rows := r.out.take(wire.KindGPU)
	// 2 % of a minute are twelve of them, and then there is one in five seconds.
	if slow, fast := len(of(rows, 0)), len(of(rows, 1)); slow > 30 || slow < 10 || fast < 57 {
		t.Errorf("%d rows of the slow GPU and %d of the other", slow, fast)
	}
	// What is rare is put off for a while, and not for ever.
	r.out.take(wire.KindDevice)
	r.steps(150)
	if n := len(of(r.out.take(wire.KindDevice), 0)); n == 0 {
		t.Error("a slow GPU is not described any more")
	}
	// The slow function is called for fields and for the health: both take as long.
	most := regexp.MustCompile("ms, most of all (fields|health)")
	if st := r.out.status["gpu/"+r.mem.UUID(0)]; st.State != source.Degraded || !most.MatchString(st.Reason) || !strings.Contains(st.Reason, "2 % of the time") {
		t.Errorf("status: %+v", st)
	}
	if n := r.src.Stats().Backed; n != 1 {
		t.Errorf("%d GPUs are backed off", n)
	}
	if err := r.mem.SetFaults(); err != nil {
		t.Fatal(err)
	}
	r.steps(200)
	if r.state(0) != source.Active {
		t.Errorf("status: %v", r.state(0))
	}
}

// A call that fails costs its value and says why; what is not supported is left alone.
func TestFaultsOfCalls(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 1, 0, time.Hour), gpu.Config{})
	if err := r.mem.SetFaults(
		nvmlstub.Fault{Function: "nvmlDeviceGetTemperature", Code: nvmlstub.CodeUnknown, From: 10 * time.Second, To: 20 * time.Second},
		nvmlstub.Fault{Function: "nvmlDeviceGetUtilizationRates", Code: nvmlstub.CodeNotSupported},
	); err != nil {
		t.Fatal(err)
	}
	r.steps(15)
	last := r.out.take(wire.KindGPU)[14]
	if last.has("temp_c") || last.has("util_e4") || !last.has("power_mw") {
		t.Errorf("row: %+v", last)
	}
	if st := r.out.status["gpu/"+r.mem.UUID(0)]; st.State != source.Degraded || !strings.Contains(st.Reason, "nvmlDeviceGetTemperature") {
		t.Errorf("status: %+v", st)
	}
	r.steps(900)
	if st := r.src.Stats(); st.Faults[gpu.FaultKey{Function: "nvmlDeviceGetTemperature", Code: nvmlstub.CodeUnknown}] != 10 || len(st.Faults) != 1 {
		t.Errorf("faults: %v", st.Faults)
	}
	if n := r.mem.Calls("nvmlDeviceGetUtilizationRates", 0); n != 2 {
		t.Errorf("what is not supported was tried %d times in a quarter of an hour, want 2", n)
	}
	if r.state(0) != source.Active {
		t.Errorf("status: %v", r.state(0))
	}
}

// A GPU that answers every call with an error gives no row, and is neither active nor
// degraded: whatever the code is.
func TestNoValueAtAll(t *testing.T) {
	for _, c := range []struct {
		name string
		code int32
		says string
	}{
		{"not supported", nvmlstub.CodeNotSupported, "supports none"},
		{"no permission", nvmlstub.CodeNoPermission, "no permission"},
		{"unknown", nvmlstub.CodeUnknown, "unknown error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// A model without GPM: what it lacks must not be the reason.
			r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.A100, 2, 0, time.Hour), gpu.Config{})
			r.steps(3)
			if err := r.mem.SetFaults(nvmlstub.Fault{Function: "*", GPUs: []int{1}, Code: c.code}); err != nil {
				t.Fatal(err)
			}
			r.steps(100) // longer than a fault is remembered
			r.out.take(wire.KindGPU)
			r.steps(5)
			rows := r.out.take(wire.KindGPU)
			if one, other := len(of(rows, 1)), len(of(rows, 0)); one != 0 || other != 5 {
				t.Errorf("%d rows of the GPU, %d of the other", one, other)
			}
			if st := r.out.status["gpu/"+r.mem.UUID(1)]; st.State != source.Stalled || !strings.Contains(st.Reason, c.says) {
				t.Errorf("status: %+v", st)
			}
			if st := r.out.status["gpu"]; st.State != source.Degraded || r.state(0) != source.Active {
				t.Errorf("the whole: %+v, the other: %v", st, r.state(0))
			}
			if err := r.mem.SetFaults(); err != nil {
				t.Fatal(err)
			}
			r.steps(700) // what is not supported is tried again after ten minutes
			if r.state(1) != source.Active || r.out.status["gpu"].State != source.Active {
				t.Errorf("after it: %v, %v", r.out.status["gpu/"+r.mem.UUID(1)], r.out.status["gpu"])
			}
		})
	}
}

// GPUs that the driver does not list any more are soon known to be gone, not when they would
// next be described.
func TestFewerGPUs(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 3, 0, time.Hour), gpu.Config{})
	r.steps(3)
	last := "gpu/" + r.mem.UUID(2)
	fewer := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour)
	fewer.Manual = true
	if err := r.mem.SetScenario(fewer); err != nil {
		t.Fatal(err)
	}
	begin := r.tick.Seq
	r.until("two GPUs", func() bool { return r.out.status[last].State == source.Lost && r.src.Stats().GPUs == 2 })
	if n := r.tick.Seq - begin; n > 250 {
		t.Errorf("it took %d ticks", n)
	}
	r.steps(65) // the faults before are forgotten
	if r.state(0) != source.Active || r.state(1) != source.Active || r.out.status["gpu"].State != source.Active {
		t.Errorf("statuses: %v", r.out.status)
	}
}

// A child that cannot say who a GPU is gives no rows: the agent would take them for those of
// the GPU that the last child had at this index.
func TestNobodysReadings(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour), gpu.Config{BackoffMin: time.Millisecond})
	r.steps(3)
	was := r.mem.UUID(0)
	other := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour)
	other.Manual, other.Host = true, 7
	if err := r.mem.SetScenario(other); err != nil {
		t.Fatal(err)
	}
	if err := r.mem.SetFaults(nvmlstub.Fault{Function: "nvmlDeviceGetUUID", GPUs: []int{0}, Code: nvmlstub.CodeTimeout}); err != nil {
		t.Fatal(err)
	}
	pid := r.src.Stats().ChildPID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.until("another child", func() bool { now := r.src.Stats().ChildPID; return now != 0 && now != pid })
	r.out.take(wire.KindGPU)
	r.until("rows of the other GPU", func() bool { return len(of(r.out.rows[wire.KindGPU], 1)) > 5 })
	if rows := of(r.out.take(wire.KindGPU), 0); len(rows) > 0 {
		t.Errorf("%d rows of %s, the first under the name %s", len(rows), r.mem.UUID(0), rows[0].strs["gpu_uuid"])
	}
	if err := r.mem.SetFaults(); err != nil {
		t.Fatal(err)
	}
	r.until("rows", func() bool { return len(of(r.out.rows[wire.KindGPU], 0)) > 0 })
	for _, row := range of(r.out.take(wire.KindGPU), 0) {
		if row.strs["gpu_uuid"] == was {
			t.Errorf("a row of a GPU that is gone: %v", row.strs)
		}
	}
}

// Energy is passed on as it is read, whatever it does; a rate over a reset is absent.
func TestResetOfCounters(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.A100, 1, 0, time.Hour), gpu.Config{})
	r.steps(10)
	if err := r.mem.ResetCounters(0, 10500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	r.steps(5)
	rows := r.out.take(wire.KindGPU)
	if rows[10].ints["energy_mj"] >= rows[9].ints["energy_mj"] || rows[10].ints["energy_mj"] == 0 {
		t.Errorf("energy: %d, then %d", rows[9].ints["energy_mj"], rows[10].ints["energy_mj"])
	}
	if rows[10].has("nvlink_tx_bps") || !rows[9].has("nvlink_tx_bps") || !rows[12].has("nvlink_tx_bps") {
		t.Errorf("rates around a reset: %v, %v, %v", rows[9].has("nvlink_tx_bps"), rows[10].has("nvlink_tx_bps"), rows[12].has("nvlink_tx_bps"))
	}
}

// An hour of eight GPUs: every tick of every GPU is one row, and its integrals are the truth.
func TestAnHour(t *testing.T) {
	if testing.Short() {
		t.Skip("an hour of stub time")
	}
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Demo(nvmlstub.H100SXM, 8, uint32(os.Getpid())), gpu.Config{})
	const hour = 3600
	var tensor [8]float64
	begin := time.Now()
	for range hour / 60 {
		r.steps(60)
		rows := r.out.take(wire.KindGPU)
		if len(rows) != 60*8 {
			t.Fatalf("%d rows a minute at %v; log:\n%s", len(rows), r.now(), r.log)
		}
		for _, row := range rows {
			tensor[row.ints["gpu"]] += float64(row.ints["tensor_e4"]) / 1e4
		}
	}
	for g := range tensor {
		if want := r.mem.Truth(g, time.Second, hour*time.Second).TensorSeconds; math.Abs(tensor[g]-want) > 1e-3*want+0.1 {
			t.Errorf("GPU %d: %.1f tensor seconds, want %.1f", g, tensor[g], want)
		}
	}
	st := r.src.Stats()
	if st.Restarts != 0 || st.Dropped != 0 || len(st.Faults) != 0 {
		t.Errorf("stats: %+v", st)
	}
	cpu, rss := usage(t, st.ChildPID)
	t.Logf("an hour of 8 GPUs in %v: the child took %v of a processor (%.3f %% of a core at 1 Hz), RSS %d KiB", time.Since(begin).Round(time.Millisecond), cpu, 100*cpu.Seconds()/hour, rss)
	if rss > 25<<10 {
		t.Errorf("the child has %d KiB", rss)
	}
}
