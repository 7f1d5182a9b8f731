package nvmlstub

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// load is a scenario with steps, a gap, a phase and a repetition, small enough to integrate slowly.
func load(repeat bool) Scenario {
	a := TrainSegment(H100SXM, 2*time.Second, 7*time.Second)
	a.Phase = 333 * time.Millisecond
	s := Scenario{Manual: true, GPUs: []GPU{
		{Model: H100SXM, EnergyStartMJ: 12345, Segments: []Segment{a, InferSegment(H100SXM, 10*time.Second, 3*time.Second)}},
		{Model: H200, Segments: []Segment{BurnSegment(H200, 0, 5*time.Second)}},
	}}
	if repeat {
		s.Repeat = 15 * time.Second
	}
	return s
}

func create(t testing.TB, s Scenario) *Memory {
	t.Helper()
	m, err := Create(filepath.Join(t.TempDir(), Shared), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.IsNaN(got) || math.Abs(got-want) > tolerance {
		t.Errorf("%s is %v, wanted %v", what, got, want)
	}
}

// The closed form against sums of small steps.
func TestTruthIsTheSumOfItsMoments(t *testing.T) {
	const step = time.Millisecond
	for _, repeat := range []bool{false, true} {
		m := create(t, load(repeat))
		for gpu := range 2 {
			from, to := 1100*time.Millisecond, 33700*time.Millisecond
			var sum Level
			var product float64
			for at := from; at < to; at += step {
				l := m.At(gpu, at)
				for q := range NumQuantities {
					sum[q] += l[q] * step.Seconds()
				}
				product += l[Tensor] * l[SMClockMHz] * step.Seconds()
			}
			got := m.Truth(gpu, from, to)
			for q := range NumQuantities {
				// Steps change on whole milliseconds here, so that the sum is exact but for rounding.
				near(t, fmt.Sprintf("repeat %v GPU %d quantity %d", repeat, gpu, q), got.Mean[q]*(to-from).Seconds(), sum[q], 1e-9*(1+sum[q]))
			}
			near(t, "tensor times clock", got.TensorMegacycles, product, 1e-6*product)
			near(t, "energy", got.EnergyJ, sum[PowerW], 1e-6*sum[PowerW])
		}
	}
}

func fieldValues(p *probe, device uint64, ids ...[2]uint32) []buffer {
	b := make([]byte, 40*len(ids))
	for i, id := range ids {
		binary.LittleEndian.PutUint32(b[40*i:], id[0])
		binary.LittleEndian.PutUint32(b[40*i+4:], id[1])
	}
	out := p.ok("nvmlDeviceGetFieldValues", device, len(ids), b)
	var each []buffer
	for i := range ids {
		each = append(each, out[40*i:40*i+40])
	}
	return each
}

const allLinks = 0xffffffff

// What the library counts is what Truth says, at any time.
func TestCounters(t *testing.T) {
	m, p := bench(t, load(true))
	d := p.device(0)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		at := time.Duration(rnd.Int64N(int64(40 * time.Hour))).Truncate(time.Microsecond)
		if err := m.SetNow(at); err != nil {
			t.Fatal(err)
		}
		want := m.Truth(0, 0, at)
		near(t, "energy", float64(p.ok("nvmlDeviceGetTotalEnergyConsumption", d, make([]byte, 8)).u64(0)), 12345+want.EnergyJ*1000, 1)
		f := fieldValues(p, d, [2]uint32{83}, [2]uint32{191}, [2]uint32{138, allLinks}, [2]uint32{139, allLinks}, [2]uint32{138, 3}, [2]uint32{197}, [2]uint32{198}, [2]uint32{186})
		near(t, "field 83", float64(f[0].u64(32)), 12345+want.EnergyJ*1000, 1)
		near(t, "field 191", float64(f[1].u64(32)), 12345+want.EnergyJ*1000, 1)
		near(t, "NVLink sent", float64(f[2].u64(32)), want.NVLinkTxBytes/1024, 1+1e-12*want.NVLinkTxBytes)
		near(t, "NVLink received", float64(f[3].u64(32)), want.NVLinkRxBytes/1024, 1+1e-12*want.NVLinkRxBytes)
		near(t, "NVLink 3 sent", float64(f[4].u64(32)), want.NVLinkTxBytes/1024/18, 1+1e-12*want.NVLinkTxBytes)
		near(t, "PCIe sent", float64(f[5].u64(32)), want.PCIeTxBytes, 1+1e-12*want.PCIeTxBytes)
		near(t, "PCIe received", float64(f[6].u64(32)), want.PCIeRxBytes, 1+1e-12*want.PCIeRxBytes)
		near(t, "power now", float64(f[7].u32(32)), 1000*m.At(0, at)[PowerW], 1)
		mean := m.Truth(0, max(0, at-time.Second), at)
		near(t, "power of a second", float64(p.ok("nvmlDeviceGetPowerUsage", d, make([]byte, 4)).u32(0)), 1000*mean.Mean[PowerW], 1)
		u := p.ok("nvmlDeviceGetUtilizationRates", d, make([]byte, 8))
		near(t, "use", float64(u.u32(0)), 100*mean.Mean[Util], 0.51)
		near(t, "memory use", float64(u.u32(4)), 100*mean.Mean[MemUtil], 0.51)
	}
}

// gpm reads metrics between two times.
func gpm(t *testing.T, m *Memory, p *probe, gpu int, from, to time.Duration, ids ...uint32) (values []float64, codes []uint32) {
	t.Helper()
	d := p.device(gpu)
	a, b := p.ok("nvmlGpmSampleAlloc", make([]byte, 8)).u64(0), p.ok("nvmlGpmSampleAlloc", make([]byte, 8)).u64(0)
	for _, s := range []struct {
		at     time.Duration
		sample uint64
	}{{from, a}, {to, b}} {
		if err := m.SetNow(s.at); err != nil {
			t.Fatal(err)
		}
		p.ok("nvmlGpmSampleGet", d, s.sample)
	}
	q := word(24+40*len(ids), 1, uint32(len(ids)))
	binary.LittleEndian.PutUint64(q[8:], a)
	binary.LittleEndian.PutUint64(q[16:], b)
	for i, id := range ids {
		binary.LittleEndian.PutUint32(q[24+40*i:], id)
	}
	out := p.ok("nvmlGpmMetricsGet", q)
	for i := range ids {
		values = append(values, math.Float64frombits(out.u64(24+40*i+8)))
		codes = append(codes, out.u32(24+40*i+4))
	}
	p.ok("nvmlGpmSampleFree", a)
	p.ok("nvmlGpmSampleFree", b)
	return values, codes
}

func TestGPM(t *testing.T) {
	m, p := bench(t, load(true))
	metrics := map[uint32]struct {
		q     Quantity
		scale float64
	}{
		1: {GRActive, 100}, 2: {SMActive, 100}, 3: {SMOccupancy, 100}, 4: {Integer, 100}, 5: {Tensor, 100}, 7: {HMMA, 100}, 10: {DRAM, 100},
		12: {FP32, 100}, 13: {FP16, 100}, 20: {PCIeTxBps, 1.0 / mib}, 21: {PCIeRxBps, 1.0 / mib}, 60: {NVLinkRxBps, 1.0 / mib}, 61: {NVLinkTxBps, 1.0 / mib},
		62: {NVLinkRxBps, 1.0 / mib / 18}, 97: {NVLinkTxBps, 1.0 / mib / 18},
	}
	var ids []uint32
	for id := range metrics {
		ids = append(ids, id)
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		from := time.Duration(rnd.Int64N(int64(100 * time.Hour))).Truncate(time.Microsecond)
		to := from + 100*time.Millisecond + time.Duration(rnd.Int64N(int64(20*time.Second))).Truncate(time.Microsecond)
		got, codes := gpm(t, m, p, 0, from, to, ids...)
		want := m.Truth(0, from, to)
		for i, id := range ids {
			w := want.Mean[metrics[id].q] * metrics[id].scale
			if codes[i] != 0 {
				t.Fatalf("metric %d returned %d", id, codes[i])
			}
			near(t, fmt.Sprintf("metric %d", id), got[i], w, 1e-6*(1+w))
		}
	}
	if _, codes := gpm(t, m, p, 0, time.Second, 2*time.Second, 6, 100, 476, 0, 99999); codes[0] != 0 || codes[1] != 3 || codes[2] != 3 || codes[3] != 3 || codes[4] != 3 {
		t.Errorf("metrics that are not there return %v", codes)
	}
	if _, codes := gpm(t, m, p, 0, time.Second, time.Second, 2); codes[0] != 21 {
		t.Errorf("no time between samples returns %v", codes)
	}
	if b := p.ok("nvmlGpmQueryDeviceSupport", p.device(0), word(8, 1)); b.u32(4) != 1 {
		t.Error("an H100 has no GPM")
	}
	for name, arg := range map[string][]byte{"nvmlGpmQueryDeviceSupport": word(8, 7), "nvmlDeviceGetMemoryInfo_v2": word(40, 2), "nvmlDeviceGetTemperatureV": word(12, 0)} {
		if code, _ := p.call(name, p.device(0), arg); code != 25 {
			t.Errorf("%s with another version returns %d", name, code)
		}
	}
	if code, _ := p.call("nvmlGpmMetricsGet", word(24+40, 2, 1)); code != 25 {
		t.Errorf("nvmlGpmMetricsGet with another version returns %d", code)
	}
	if code, _ := p.call("nvmlGpmMetricsGet", word(24+40, 1, 1)); code != 2 {
		t.Errorf("nvmlGpmMetricsGet without samples returns %d", code)
	}
}

func TestIdentity(t *testing.T) {
	s := Scenario{Manual: true, Host: 7, DriverVersion: "570.1", CUDAVersion: 12080}
	for m := range numModels {
		s.GPUs = append(s.GPUs, GPU{Model: m, Segments: []Segment{TrainSegment(m, 0, time.Hour)}, ECCCorrected: 5, ECCUncorrected: 1, NVLinkErrors: 2, RemappedRows: 3})
	}
	m, p := bench(t, s)
	if got := p.ok("nvmlSystemGetDriverVersion", make([]byte, 80), 80).text(0); got != "570.1" {
		t.Errorf("driver version %q", got)
	}
	if code, _ := p.call("nvmlSystemGetDriverVersion", make([]byte, 80), 5); code != 7 {
		t.Errorf("a short buffer returns %d", code)
	}
	if got := p.ok("nvmlSystemGetCudaDriverVersion", make([]byte, 4)).u32(0); got != 12080 {
		t.Errorf("CUDA version %d", got)
	}
	if got := p.ok("nvmlDeviceGetCount_v2", make([]byte, 4)).u32(0); int(got) != len(s.GPUs) || m.GPUs() != len(s.GPUs) {
		t.Errorf("%d GPUs", got)
	}
	if err := m.SetNow(100 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for i := range s.GPUs {
		d, f := p.device(i), models[i]
		get := func(name string) uint32 { return p.ok(name, d, make([]byte, 4)).u32(0) }
		uuid := p.ok("nvmlDeviceGetUUID", d, make([]byte, 96), 96).text(0)
		if uuid != m.UUID(i) || len(uuid) != 40 {
			t.Errorf("UUID %q, %q", uuid, m.UUID(i))
		}
		if got := p.ok("nvmlDeviceGetName", d, make([]byte, 96), 96).text(0); got != f.name || m.Name(i) != got || Model(i).String() != got {
			t.Errorf("name %q", got)
		}
		if code, out := p.call("nvmlDeviceGetHandleByUUID", uuid, make([]byte, 8)); code != 0 || out[0].u64(0) != d {
			t.Errorf("by UUID: %d", code)
		}
		pci := p.ok("nvmlDeviceGetPciInfo_v3", d, make([]byte, 68))
		bus := pci.text(36)
		if code, out := p.call("nvmlDeviceGetHandleByPciBusId_v2", bus, make([]byte, 8)); code != 0 || out[0].u64(0) != d || pci.u32(28) != f.pciID {
			t.Errorf("by PCI bus id %q: %d, %x", bus, code, pci.u32(28))
		}
		mem := p.ok("nvmlDeviceGetMemoryInfo_v2", d, word(40, 40|2<<24))
		if total, sum := mem.u64(8), mem.u64(16)+mem.u64(24)+mem.u64(32); total != f.memMiB*mib || sum != total || mem.u64(32) != uint64(m.At(i, 0)[MemUsedBytes]) {
			t.Errorf("memory %d, parts %d, used %d", total, sum, mem.u64(32))
		}
		for name, want := range map[string]uint32{
			"nvmlDeviceGetIndex": uint32(i), "nvmlDeviceGetMinorNumber": uint32(i), "nvmlDeviceGetArchitecture": f.arch, "nvmlDeviceGetEnforcedPowerLimit": f.limitW * 1000,
			"nvmlDeviceGetTemperature": 0, "nvmlDeviceGetPerformanceState": 0, "nvmlDeviceGetCurrPcieLinkWidth": 16, "nvmlDeviceGetCurrPcieLinkGeneration": f.pcieGen,
		} {
			if name == "nvmlDeviceGetTemperature" {
				if got := p.ok(name, d, 0, make([]byte, 4)).u32(0); got != 63 {
					t.Errorf("temperature %d", got)
				}
			} else if got := get(name); got != want {
				t.Errorf("%s is %d, wanted %d", name, got, want)
			}
		}
		for _, name := range []string{"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"} {
			if got := p.ok(name, d, make([]byte, 8)).u64(0); got != 4 {
				t.Errorf("%s is %d", name, got)
			}
		}
		if got := p.ok("nvmlDeviceGetMaxClockInfo", d, 1, make([]byte, 4)).u32(0); got != f.smMHz {
			t.Errorf("greatest SM clock %d", got)
		}
		if got := p.ok("nvmlDeviceGetClockInfo", d, 1, make([]byte, 4)).u32(0); float64(got) != math.Round(m.At(i, 0)[SMClockMHz]) {
			t.Errorf("SM clock %d", got)
		}
		fs := fieldValues(p, d, [2]uint32{4}, [2]uint32{143}, [2]uint32{91}, [2]uint32{38}, [2]uint32{138, 99}, [2]uint32{9999}, [2]uint32{185, 1})
		if fs[0].u64(32) != 1 || (f.arch >= archAmpere) != (fs[1].u32(32) == 3) || fs[2].u32(32) != f.nvlinks || fs[5].u32(28) != 3 || (f.moduleW > 0) != (fs[6].u32(28) == 0) {
			t.Errorf("%s: fields %v", f.name, fs)
		}
		if f.nvlinks > 0 && f.arch < archBlackwell && (fs[3].u64(32) != uint64(2*f.nvlinks) || fs[4].u32(28) != 2) || f.nvlinks == 0 && fs[3].u32(28) != 3 {
			t.Errorf("%s: NVLink fields %v", f.name, fs)
		}
		state, _ := p.call("nvmlDeviceGetNvLinkState", d, int(max(f.nvlinks, 1)-1), make([]byte, 4))
		beyond, _ := p.call("nvmlDeviceGetNvLinkState", d, int(f.nvlinks), make([]byte, 4))
		if f.nvlinks > 0 && (state != 0 || beyond != 2) || f.nvlinks == 0 && state != 3 {
			t.Errorf("%s: NVLink state %d, beyond %d", f.name, state, beyond)
		}
		if got := p.ok("nvmlGpmQueryDeviceSupport", d, word(8, 1)).u32(4); got != f.gpm {
			t.Errorf("%s: GPM %d", f.name, got)
		}
		if code, _ := p.call("nvmlDeviceGetFanSpeed", d, make([]byte, 4)); code != 3 {
			t.Errorf("fan speed returns %d", code)
		}
	}
	for _, bad := range []uint64{0, 1, p.device(0) + 1} {
		if code, _ := p.call("nvmlDeviceGetIndex", bad, make([]byte, 4)); code != 2 {
			t.Errorf("handle %x returns %d", bad, code)
		}
	}
	if code, _ := p.call("nvmlDeviceGetHandleByIndex_v2", len(s.GPUs), make([]byte, 8)); code != 2 {
		t.Errorf("a GPU too many returns %d", code)
	}
	if code, _ := p.call("nvmlDeviceGetHandleByUUID", "GPU-none", make([]byte, 8)); code != 6 {
		t.Errorf("an unknown UUID returns %d", code)
	}
}

func TestFaults(t *testing.T) {
	m, p := bench(t, load(false))
	d0, d1 := p.device(0), p.device(1)
	temp := func(d uint64) int {
		code, _ := p.call("nvmlDeviceGetTemperature", d, 0, make([]byte, 4))
		return code
	}
	set := func(list ...Fault) {
		t.Helper()
		if err := m.SetFaults(list...); err != nil {
			t.Fatal(err)
		}
	}
	now := func(at time.Duration) {
		t.Helper()
		if err := m.SetNow(at); err != nil {
			t.Fatal(err)
		}
	}
	set(Fault{Function: "nvmlDeviceGetTemperature", GPUs: []int{1}, Code: CodeUnknown, Count: 2})
	if got := []int{temp(d0), temp(d1), temp(d1), temp(d1)}; got[0] != 0 || got[1] != 999 || got[2] != 999 || got[3] != 0 {
		t.Errorf("two failures on GPU 1: %v", got)
	}
	set(Fault{Function: "nvmlDeviceGetT*", Code: CodeTimeout, From: 5 * time.Second, To: 6 * time.Second})
	for _, c := range []struct {
		at   time.Duration
		want int
	}{{4 * time.Second, 0}, {5 * time.Second, 10}, {5999 * time.Millisecond, 10}, {6 * time.Second, 0}} {
		now(c.at)
		if got := temp(d0); got != c.want {
			t.Errorf("at %v: %d, wanted %d", c.at, got, c.want)
		}
	}
	set(Fault{Function: "*", GPUs: []int{NoGPU}, Code: CodeDriverNotLoaded})
	if code, _ := p.call("nvmlDeviceGetCount_v2", make([]byte, 4)); code != 9 || temp(d0) != 0 {
		t.Errorf("calls without a GPU return %d", code)
	}
	// A call that hangs, in a process of its own, ends when the fault does.
	set(Fault{Function: "nvmlDeviceGetTemperature", GPUs: []int{1}, Delay: Hang})
	before := m.Snapshot()
	done := make(chan int)
	go func() { done <- temp(d1) }()
	for range 2000 {
		if m.Snapshot().Since(before).Total(1) > 0 {
			break
		}
		wait(t, 5*time.Millisecond)
	}
	select {
	case <-done:
		t.Error("a hanging call came back")
	default:
	}
	set()
	if code := <-done; code != 0 {
		t.Errorf("a call that hung returns %d", code)
	}
	for _, bad := range []Fault{{Code: 1}, {Function: "x", GPUs: []int{17}}, {Function: "x", Delay: -1}, {Function: string(make([]byte, 80))}} {
		if err := m.SetFaults(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// wait lets time pass in a poll.
func wait(t testing.TB, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

func TestFailingInit(t *testing.T) {
	need(t)
	dir := t.TempDir()
	lib, err := Install(built.library, dir)
	if err != nil {
		t.Fatal(err)
	}
	s := load(false)
	s.Faults = []Fault{{Function: "nvmlInit_v2", Code: 18, Count: 1}}
	if _, err := Create(filepath.Join(dir, Shared), s); err != nil {
		t.Fatal(err)
	}
	p := start(t, lib)
	count := func() int {
		code, _ := p.call("nvmlDeviceGetCount_v2", make([]byte, 4))
		return code
	}
	init := func() int {
		code, _ := p.call("nvmlInit_v2")
		return code
	}
	if got := []int{count(), init(), count(), init(), count()}; got[0] != 1 || got[1] != 18 || got[2] != 1 || got[3] != 0 || got[4] != 0 {
		t.Errorf("around a failing start: %v", got)
	}
	if code, _ := p.call("nvmlDeviceGetAccountingPids"); code != 3 {
		t.Errorf("a function that is not implemented returns %d", code)
	}
	p.ok("nvmlShutdown")
	if code, _ := p.call("nvmlDeviceGetAccountingPids"); code != 1 || count() != 1 {
		t.Errorf("after the end: %d", code)
	}
	// A new memory in the old one's place is found by the next start.
	one := load(false)
	one.GPUs = one.GPUs[:1]
	if _, err := Create(filepath.Join(dir, Shared), one); err != nil {
		t.Fatal(err)
	}
	p.ok("nvmlInit_v2")
	if n := p.ok("nvmlDeviceGetCount_v2", make([]byte, 4)).u32(0); n != 1 {
		t.Errorf("%d GPUs in the new memory", n)
	}
}

func TestLostAndReset(t *testing.T) {
	m, p := bench(t, load(false))
	d0, d1 := p.device(0), p.device(1)
	energy := func() uint64 { return p.ok("nvmlDeviceGetTotalEnergyConsumption", d0, make([]byte, 8)).u64(0) }
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(m.SetNow(5 * time.Second))
	step(m.SetLost(1, 6*time.Second))
	step(m.ResetCounters(0, 6*time.Second))
	if energy() < 12345 {
		t.Error("the counter lacks its start")
	}
	p.ok("nvmlDeviceGetName", d1, make([]byte, 96), 96)
	step(m.SetNow(6 * time.Second))
	for _, name := range []string{"nvmlDeviceGetName", "nvmlDeviceGetUUID", "nvmlDeviceGetSerial"} {
		if code, _ := p.call(name, d1, make([]byte, 96), 96); code != CodeGPULost {
			t.Errorf("%s of a lost GPU returns %d", name, code)
		}
	}
	if code, _ := p.call("nvmlDeviceGetHandleByIndex_v2", 1, make([]byte, 8)); code != CodeGPULost {
		t.Errorf("the handle of a lost GPU returns %d", code)
	}
	if got := energy(); got != 0 {
		t.Errorf("after a reset the counter is %d", got)
	}
	step(m.SetNow(8 * time.Second))
	near(t, "energy since the reset", float64(energy()), 1000*m.Truth(0, 6*time.Second, 8*time.Second).EnergyJ, 1)
	step(m.SetLost(1, -1))
	p.ok("nvmlDeviceGetName", d1, make([]byte, 96), 96)
	if m.SetLost(2, 0) == nil || m.ResetCounters(-1, 0) == nil || m.SetSegments(9) == nil {
		t.Error("a GPU that is not there was taken")
	}
}

func TestProcesses(t *testing.T) {
	s := load(true)
	s.Processes = []Process{
		{PID: 100, GPUs: []int{0, 1}, UsedBytes: 1 << 30, Name: "train"}, {PID: 101, GPUs: []int{0}, From: 2 * time.Second, To: 4 * time.Second},
		{PID: 102, GPUs: []int{0}, Type: GraphicsProcess}, {PID: 103, GPUs: []int{1}, Type: MPSProcess},
	}
	m, p := bench(t, s)
	d := p.device(0)
	list := func(name string, size int) []uint32 {
		t.Helper()
		code, out := p.call(name, d, word(4, 8), make([]byte, 8*size))
		if code != 0 {
			t.Fatalf("%s returned %d", name, code)
		}
		var pids []uint32
		for i := range int(out[0].u32(0)) {
			pids = append(pids, out[1].u32(size*i))
		}
		return pids
	}
	for _, c := range []struct {
		at   time.Duration
		want string
	}{{0, "[100]"}, {3 * time.Second, "[100 101]"}, {4 * time.Second, "[100]"}, {18 * time.Second, "[100 101]"}} {
		if err := m.SetNow(c.at); err != nil {
			t.Fatal(err)
		}
		for name, size := range map[string]int{"": 16, "_v2": 24, "_v3": 24} {
			if got := fmt.Sprint(list("nvmlDeviceGetComputeRunningProcesses"+name, size)); got != c.want {
				t.Errorf("at %v version %q lists %s, wanted %s", c.at, name, got, c.want)
			}
		}
	}
	if got := list("nvmlDeviceGetGraphicsRunningProcesses_v3", 24); len(got) != 1 || got[0] != 102 {
		t.Errorf("graphics: %v", got)
	}
	if code, out := p.call("nvmlDeviceGetComputeRunningProcesses_v3", d, word(4, 0), 0); code != 7 || out[0].u32(0) != 2 {
		t.Errorf("without room: %d, %d", code, out[0].u32(0))
	}
	code, out := p.call("nvmlDeviceGetProcessUtilization", d, make([]byte, 32*8), word(4, 8), 0)
	if code != 0 || out[1].u32(0) != 3 || out[0].u32(0) != 100 || out[0].u32(16) == 0 {
		t.Fatalf("use by process: %d %v", code, out)
	}
	if code, _ := p.call("nvmlDeviceGetProcessUtilization", d, make([]byte, 32*8), word(4, 8), out[0].u64(8)); code != 6 {
		t.Errorf("nothing new returns %d", code)
	}
	if code, _ := p.call("nvmlDeviceGetSamples", d, 0, 0, make([]byte, 4), word(4, 20), make([]byte, 20*16)); code != 0 {
		t.Errorf("samples: %d", code)
	}
	if got := p.ok("nvmlSystemGetProcessName", 100, make([]byte, 16), 16).text(0); got != "train" {
		t.Errorf("process name %q", got)
	}
	if err := m.SetProcesses(); err != nil || len(list("nvmlDeviceGetComputeRunningProcesses_v3", 24)) != 0 {
		t.Errorf("processes are left: %v", err)
	}
}

func TestEvents(t *testing.T) {
	s := load(true)
	s.Events = []Event{{At: 30 * time.Second, GPU: 1, Data: 63}, {At: time.Second, GPU: 0, Data: 13}, {At: 20 * time.Second, GPU: 1, Data: 79}}
	m, p := bench(t, s)
	now := func(at time.Duration) {
		t.Helper()
		if err := m.SetNow(at); err != nil {
			t.Fatal(err)
		}
	}
	now(5 * time.Second)
	set := p.ok("nvmlEventSetCreate", make([]byte, 8)).u64(0)
	for i := range 2 {
		p.ok("nvmlDeviceRegisterEvents", p.device(i), XidEvent, set)
	}
	next := func() (int, uint64) {
		code, out := p.call("nvmlEventSetWait_v2", set, make([]byte, 32), 1)
		return code, out[0].u64(16)
	}
	if code, _ := next(); code != CodeTimeout {
		t.Errorf("an event from before the registration: %d", code)
	}
	now(time.Minute)
	for _, want := range []uint64{79, 63} {
		if code, xid := next(); code != 0 || xid != want {
			t.Errorf("event %d, %d, wanted Xid %d", code, xid, want)
		}
	}
	if code, _ := next(); code != CodeTimeout {
		t.Errorf("an event too many: %d", code)
	}
	p.ok("nvmlEventSetFree", set)
}

func TestOldDriver(t *testing.T) {
	need(t)
	m, p := benchOf(t, built.old, load(false))
	if p.line("has nvmlGpmMetricsGet") != "0" || p.line("has nvmlDeviceGetComputeRunningProcesses_v2") != "1" {
		t.Error("the symbols are not an old driver's")
	}
	if err := m.SetNow(3 * time.Second); err != nil {
		t.Fatal(err)
	}
	f := fieldValues(p, p.device(0), [2]uint32{186}, [2]uint32{83}, [2]uint32{138, allLinks}, [2]uint32{197})
	if f[0].u32(28) != 3 || f[1].u32(28) != 0 || f[2].u32(28) != 0 || f[3].u32(28) != 3 {
		t.Errorf("fields %v", f)
	}
	if p.ok("nvmlDeviceGetPowerUsage", p.device(0), make([]byte, 4)).u32(0) == 0 {
		t.Error("no power")
	}
}

func TestCalls(t *testing.T) {
	m, p := bench(t, load(false))
	p.device(0)
	d := p.device(1)
	before := m.Snapshot()
	for range 3 {
		p.ok("nvmlDeviceGetUtilizationRates", d, make([]byte, 8))
	}
	p.call("nvmlUnitGetCount", make([]byte, 4))
	got := m.Snapshot().Since(before)
	if len(got) != 2 || got.Total(1) != 3 || got.Total(0) != 0 || got.Total(NoGPU) != 1 || got.Total(-1) != 4 || got["nvmlDeviceGetUtilizationRates"][1] != 3 {
		t.Errorf("counted %v", got)
	}
	if m.Calls("nvmlDeviceGetHandleByIndex_v2", 0) != 1 || m.Calls("nvmlNothing", 0) != 0 || m.Calls("nvmlInit_v2", NoGPU) != 1 || m.Calls("nvmlInit_v2", 99) != 0 {
		t.Errorf("counted %v", m.Snapshot())
	}
}

func TestRealClock(t *testing.T) {
	s := H100x8Training(0, time.Hour)
	m, p := bench(t, s)
	d := p.device(7)
	energy := func() uint64 { return p.ok("nvmlDeviceGetTotalEnergyConsumption", d, make([]byte, 8)).u64(0) }
	first := energy()
	for range 2000 {
		if energy() > first {
			break
		}
		wait(t, time.Millisecond)
	}
	if energy() <= first {
		t.Error("time stands still")
	}
	if err := m.UseRealClock(time.Hour); err != nil {
		t.Fatal(err)
	}
	if at, err := m.Now(); err != nil || at < time.Hour {
		t.Errorf("now is %v, %v", at, err)
	}
	f := fieldValues(p, d, [2]uint32{83})
	if off := time.Since(time.UnixMicro(int64(f[0].u64(8)))); off.Abs() > time.Minute {
		t.Errorf("the machine's clock is %v from the time stamps", off)
	}
	if got := p.ok("nvmlDeviceGetCurrentClocksEventReasons", d, make([]byte, 8)).u64(0); got != 1 {
		t.Errorf("after the training the reasons are %d", got)
	}
}

// A change is seen whole, whatever reads meanwhile.
func TestChangesAreWhole(t *testing.T) {
	m, p := bench(t, load(false))
	d := p.device(0)
	stop, ended := make(chan struct{}), make(chan error)
	go func() {
		var err error
		for i := 0; err == nil; i++ {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			l := Level{PowerW: 100 + 500*float64(i%2), TempC: 30 + 40*float64(i%2)}
			err = m.SetSegments(0, Segment{Length: time.Hour, Compute: l})
		}
		ended <- err
	}()
	for range 500 {
		f := fieldValues(p, d, [2]uint32{186}, [2]uint32{83})
		code := f[0].u32(28)
		if w := f[0].u32(32); code != 0 || w != 100_000 && w != 600_000 && w != 72_000 {
			t.Errorf("power %d, %d", code, w)
		}
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestDemo(t *testing.T) {
	for model := range numModels {
		for _, n := range []int{1, 2, 8, MaxGPUs} {
			m := create(t, Demo(model, n, 4242))
			for gpu := range n {
				one, week := m.Truth(gpu, 0, Cycle), m.Truth(gpu, 0, 157*Cycle)
				near(t, "a week's energy", week.EnergyJ, 157*one.EnergyJ, 1e-6*week.EnergyJ)
				// Forty minutes without forty seconds, at 47 % tensor activity.
				if s := one.TensorSeconds; s < 0.46*2360 || s > 0.53*2360 {
					t.Errorf("%v: %v tensor seconds in a cycle", model, s)
				}
			}
		}
	}
	for _, bad := range []Scenario{Demo(H100SXM, 0, 0), Demo(H100SXM, 17, 0), Demo(Model(77), 1, 0), Demo(Model(-1), 1, 0), {}} {
		if _, err := Create(filepath.Join(t.TempDir(), Shared), bad); err == nil {
			t.Errorf("%d GPUs were taken", len(bad.GPUs))
		}
	}
}

func TestScenarioIsChecked(t *testing.T) {
	seg := func(f func(*Segment)) Scenario {
		s := TrainSegment(H100SXM, 0, time.Minute)
		f(&s)
		return Scenario{GPUs: []GPU{{Segments: []Segment{s}}}, Repeat: time.Hour}
	}
	for name, s := range map[string]Scenario{
		"no length":   seg(func(s *Segment) { s.Length = 0 }),
		"before":      seg(func(s *Segment) { s.Start = -1 * time.Second }),
		"share":       seg(func(s *Segment) { s.Comm = 1.1 }),
		"no number":   seg(func(s *Segment) { s.Comm = math.NaN() }),
		"below zero":  seg(func(s *Segment) { s.Compute[PowerW] = -1 }),
		"not a level": seg(func(s *Segment) { s.Communicate[PowerW] = math.Inf(1) }),
		"long":        seg(func(s *Segment) { s.Length = 2 * time.Hour }),
		"overlap":     {GPUs: []GPU{{Segments: []Segment{TrainSegment(0, 0, 2), TrainSegment(0, 0, time.Second)}}}},
		"name":        {GPUs: []GPU{{Name: string(make([]byte, 100))}}},
		"no MIG":      {GPUs: []GPU{{Model: L40S, MIG: true}}},
		"event":       {GPUs: make([]GPU, 1), Events: []Event{{GPU: 1}}},
		"process":     {GPUs: make([]GPU, 1), Processes: []Process{{GPUs: []int{-1}}}},
		"fault":       {GPUs: make([]GPU, 1), Faults: make([]Fault, MaxFaults+1)},
	} {
		if _, err := Create(filepath.Join(t.TempDir(), Shared), s); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
}

// Whatever stands in the memory's place, the library answers.
func TestForeignMemory(t *testing.T) {
	need(t)
	good, err := os.ReadFile(func() string {
		path := filepath.Join(t.TempDir(), Shared)
		if _, err := Create(path, load(true)); err != nil {
			t.Fatal(err)
		}
		return path
	}())
	if err != nil {
		t.Fatal(err)
	}
	changed := func(at int, b ...byte) []byte {
		c := slices.Clone(good)
		copy(c[at:], b)
		return c
	}
	for name, content := range map[string][]byte{
		"empty": {}, "short": good[:5000], "a byte less": good[:len(good)-1], "a byte more": slices.Concat(good, []byte{0}),
		"zero": make([]byte, len(good)), "another magic": changed(0, 'X'), "another version": changed(8, 99), "another size": changed(16, 1),
		"no GPU": changed(4096, 0), "many GPUs": changed(4096, 200), "never written to its end": changed(40, 1), "events": changed(4096+8, 255),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "other.shm")
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
			p := start(t, built.library, "FLOPWATCH_NVMLSTUB="+path)
			if code, _ := p.call("nvmlInit_v2"); code != CodeDriverNotLoaded {
				t.Errorf("start returns %d", code)
			}
			if code, _ := p.call("nvmlDeviceGetCount_v2", make([]byte, 4)); code != 1 {
				t.Errorf("count returns %d", code)
			}
			if _, err := Open(path); name != "never written to its end" && name != "events" && !errors.Is(err, ErrForeign) {
				t.Errorf("Open: %v", err)
			}
		})
	}
	p := start(t, built.library, "FLOPWATCH_NVMLSTUB="+t.TempDir()+"/none")
	if code, _ := p.call("nvmlInit_v2"); code != CodeDriverNotLoaded {
		t.Errorf("without a file start returns %d", code)
	}
}

// A file that shrinks or goes bad under a running process.
func TestMemoryGoesBad(t *testing.T) {
	need(t)
	dir := t.TempDir()
	path := filepath.Join(dir, Shared)
	m, err := Create(path, load(true))
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, built.library, "FLOPWATCH_NVMLSTUB="+path)
	p.ok("nvmlInit_v2")
	d := p.device(0)
	temp := func() int {
		code, _ := p.call("nvmlDeviceGetTemperature", d, 0, make([]byte, 4))
		return code
	}
	again, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := func(c *config) error {
		c.gpu[0].segments = 1 << 30
		return nil
	}
	if err := again.change(bad); err != nil || temp() != CodeDriverNotLoaded {
		t.Errorf("with a bad memory: %v", err)
	}
	if err := m.SetScenario(load(true)); err != nil || temp() != 0 {
		t.Errorf("a mended memory: %v", err)
	}
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if code := temp(); code != CodeDriverNotLoaded {
		t.Errorf("of a truncated memory: %d", code)
	}
}

func TestBuildSaysWhatIsMissing(t *testing.T) {
	if _, err := Build(t.Context(), t.TempDir(), Options{CC: "no-such-compiler"}); err == nil {
		t.Error("built without a compiler")
	} else {
		t.Log(err)
	}
	need(t)
	header := filepath.Join(t.TempDir(), "nvml.h")
	if _, err := Build(t.Context(), t.TempDir(), Options{Header: header}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a header: %v", err)
	}
	if err := os.WriteFile(header, []byte("nvmlReturn_t DECLDIR nvmlInit_v2(void);\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), t.TempDir(), Options{Header: header}); err == nil {
		t.Error("built against a header that is none")
	}
	lib, err := Build(t.Context(), t.TempDir(), Options{Without: []string{"nvmlDeviceGetTemperature*", "nvmlShutdown"}, Flags: built.sanitize})
	if err != nil {
		t.Fatal(err)
	}
	have := symbols(t.Context(), t, lib)
	for _, gone := range []string{"nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV", "nvmlShutdown"} {
		if slices.Contains(have, gone) {
			t.Errorf("%s is there", gone)
		}
	}
	if _, err := Install(filepath.Join(t.TempDir(), "none"), t.TempDir()); err == nil {
		t.Error("installed nothing")
	}
}

// Every function of the header takes nothing at all, and a device with nothing behind it.
func TestNoArguments(t *testing.T) {
	_, p := bench(t, load(true))
	for _, name := range symbols(t.Context(), t, built.library) {
		switch name {
		case "nvmlInit", "nvmlInit_v2", "nvmlInitWithFlags", "nvmlShutdown", "nvmlErrorString":
			continue
		}
		devices := []uint64{0}
		if strings.HasPrefix(name, "nvmlDeviceGet") && !strings.HasPrefix(name, "nvmlDeviceGetCount") && !strings.HasPrefix(name, "nvmlDeviceGetHandleBy") {
			devices = append(devices, p.device(0))
		}
		for _, device := range devices {
			if code, _ := p.call(name, device); code != 2 && code != 3 && code != 4 {
				t.Errorf("%s returns %d", name, code)
			}
		}
	}
}

func TestLinksAndTopology(t *testing.T) {
	m, p := bench(t, H100x8Training(0, time.Hour))
	if err := m.SetNow(10 * time.Minute); err != nil {
		t.Fatal(err)
	}
	d := p.device(0)
	f := fieldValues(p, d, [2]uint32{138, allLinks}, [2]uint32{140, allLinks}, [2]uint32{141, allLinks}, [2]uint32{164, 17}, [2]uint32{166, 0})
	near(t, "raw bytes by data", float64(f[1].u64(32))/float64(f[0].u64(32)), 1.125, 1e-9)
	if f[2].u64(32) != f[1].u64(32) || f[3].u32(32) != 26562 || f[4].u32(32) != 6 {
		t.Errorf("fields %v", f)
	}
	if got := p.ok("nvmlDeviceGetNvLinkRemotePciInfo_v2", d, 17, make([]byte, 68)).text(36); got != "00000000:06:00.0" {
		t.Errorf("the switch is at %q", got)
	}
	if got := p.ok("nvmlDeviceGetNvLinkRemoteDeviceType", d, 0, make([]byte, 4)).u32(0); got != 2 {
		t.Errorf("the other end is a %d", got)
	}
	for other, want := range map[int]uint32{0: 0, 3: 40, 4: 50} {
		if got := p.ok("nvmlDeviceGetTopologyCommonAncestor", d, p.device(other), make([]byte, 4)).u32(0); got != want {
			t.Errorf("to GPU %d: level %d, wanted %d", other, got, want)
		}
	}
	bar := p.ok("nvmlDeviceGetBAR1MemoryInfo", d, make([]byte, 24))
	if bar.u64(0) != bar.u64(8)+bar.u64(16) || bar.u64(0) == 0 {
		t.Errorf("BAR1 %v", bar)
	}
	if got := p.ok("nvmlDeviceGetPcieThroughput", d, 0, make([]byte, 4)).u32(0); got == 0 {
		t.Error("no PCIe traffic")
	}
	// Times are those of the scenario.
	at := time.UnixMicro(int64(f[0].u64(8)))
	if d := time.Since(at.Add(-10 * time.Minute)); d < 0 || d > time.Hour {
		t.Errorf("a time stamp of %v", at)
	}
}

// Any bytes anywhere in the memory: the library answers every call.
func FuzzMemory(f *testing.F) {
	need(f)
	dir := f.TempDir()
	path := filepath.Join(dir, Shared)
	first := load(true)
	first.GPUs[0].Instances = Instances("1g.10gb", "3g.40gb")
	first.Processes = []Process{{PID: 7, GPUs: []int{0, 1}, MIG: In(7, 0)}}
	first.Events = []Event{{GPU: 0, Data: 13}}
	m, err := Create(path, first)
	if err != nil {
		f.Fatal(err)
	}
	good := slices.Clone(m.raw)
	p := start(f, built.library, "FLOPWATCH_NVMLSTUB="+path)
	p.ok("nvmlInit_v2")
	d := [2]uint64{p.device(0), p.device(1)}
	var parts [2]uint64
	for i := range parts {
		_, parts[i] = p.mig(0, i)
	}
	set := p.ok("nvmlEventSetCreate", make([]byte, 8)).u64(0)
	p.ok("nvmlDeviceRegisterEvents", d[0], XidEvent, set)
	sample := p.ok("nvmlGpmSampleAlloc", make([]byte, 8)).u64(0)
	f.Add(uint32(0), []byte("FWNVMLSI"))
	f.Add(uint32(40), []byte{1})
	f.Add(uint32(4096), []byte{16, 0, 0, 0, 64, 0, 0, 0, 64})
	f.Add(uint32(4096+24), []byte{0, 0, 0, 0, 0, 0, 0, 128})
	f.Add(uint32(4096+500), []byte{255, 255, 255, 255, 255, 255, 255, 127})
	f.Add(uint32(4096+1100), []byte{0, 0, 0, 0, 0, 0, 240, 127})
	f.Fuzz(func(t *testing.T, at uint32, data []byte) {
		p.t = t
		copy(m.raw, good)
		copy(m.raw[int(at)%len(m.raw):], data)
		h := &m.m.header
		h.seq = h.seq&^1 + 2
		clear(m.m.config.fault[:]) // a hang is a hang
		for i := range d {
			p.call("nvmlDeviceGetUtilizationRates", d[i], make([]byte, 8))
			p.call("nvmlDeviceGetName", d[i], make([]byte, 96), 96)
			p.call("nvmlDeviceGetMemoryInfo_v2", d[i], word(40, 40|2<<24))
			p.call("nvmlDeviceGetPciInfo_v3", d[i], make([]byte, 68))
			p.call("nvmlDeviceGetComputeRunningProcesses_v3", d[i], word(4, 2), make([]byte, 48))
			p.call("nvmlDeviceGetProcessUtilization", d[i], make([]byte, 64), word(4, 2), 0)
			p.call("nvmlDeviceGetSamples", d[i], 0, 0, make([]byte, 4), word(4, 4), make([]byte, 64))
			p.call("nvmlDeviceGetFieldValues", d[i], 3, slices.Concat(word(40, 83), word(40, 138, 2), word(40, 198)))
			p.call("nvmlGpmSampleGet", d[i], sample)
			p.call("nvmlGpmMigSampleGet", d[i], 7, sample)
			p.call("nvmlDeviceGetMigDeviceHandleByIndex", d[i], 0, make([]byte, 8))
			p.call("nvmlDeviceGetHandleByUUID", "MIG-none", make([]byte, 8))
			p.call("nvmlDeviceGetFieldValues", d[i], 4, slices.Concat(word(40, 74), word(40, 165, 63), word(40, 202, 35), word(40, 175)))
			p.call("nvmlDeviceGetNvLinkState", d[i], 17, make([]byte, 4))
			p.call("nvmlDeviceGetRetiredPages_v2", d[i], 0, word(4, 2), make([]byte, 16), make([]byte, 16))
			p.call("nvmlDeviceGetGpuFabricInfoV", d[i], word(40, 40|3<<24))
			p.call("nvmlDeviceGetPcieSpeed", d[i], make([]byte, 4))
			p.call("nvmlDeviceGetMarginTemperature", d[i], word(8, 8|1<<24))
			p.call("nvmlDeviceGetGspFirmwareVersion", d[i], make([]byte, 64))
		}
		for _, part := range parts {
			p.call("nvmlDeviceGetName", part, make([]byte, 96), 96)
			p.call("nvmlDeviceGetUUID", part, make([]byte, 96), 96)
			p.call("nvmlDeviceGetAttributes_v2", part, make([]byte, 40))
			p.call("nvmlDeviceGetMemoryInfo_v2", part, word(40, 40|2<<24))
			p.call("nvmlDeviceGetComputeRunningProcesses_v3", part, word(4, 2), make([]byte, 48))
			p.call("nvmlGpmSampleGet", part, sample)
		}
		p.call("nvmlGpmMetricsGet", slices.Concat(word(8, 1, 2), binary.LittleEndian.AppendUint64(nil, sample), binary.LittleEndian.AppendUint64(nil, sample), word(40, 261), word(40, 248)))
		p.call("nvmlSystemGetConfComputeState", make([]byte, 12))
		p.call("nvmlEventSetWait_v2", set, make([]byte, 32), 0)
		p.call("nvmlSystemGetProcessName", 0, make([]byte, 8), 8)
		h.seq &^= 1
	})
}
