package nvmlstub

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cut is a host with an H100 in four instances with a load each, an A100 in seven, a GPU in MIG mode
// with none, and one that knows no MIG.
func cut() Scenario {
	mixed := Instances("1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb")
	for i := range mixed {
		l := TrainSegment(H100SXM, 0, time.Hour).Compute.With(1/float64(i+1), SMActive, Tensor, DRAM)
		l[MemUsedBytes] = float64(i+1) * 1024 * mib
		mixed[i] = mixed[i].With(Segment{Length: time.Hour, Compute: l})
	}
	return Scenario{Manual: true, GPUs: []GPU{
		{Model: H100SXM, Instances: mixed, Segments: []Segment{TrainSegment(H100SXM, 0, time.Hour)}},
		{Model: A100, Instances: Instances("1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb")},
		{Model: H200, MIG: true},
		{Model: L40S},
	}, Processes: []Process{{PID: 11, GPUs: []int{0}, UsedBytes: mib, MIG: In(7, 0)}, {PID: 12, GPUs: []int{0}, UsedBytes: mib, MIG: In(1, 0)}}}
}

func (p *probe) mig(gpu, place int) (code int, handle uint64) {
	p.t.Helper()
	code, out := p.call("nvmlDeviceGetMigDeviceHandleByIndex", p.device(gpu), place, make([]byte, 8))
	return code, out[0].u64(0)
}

func TestMIG(t *testing.T) {
	m, p := bench(t, cut())
	if err := m.SetNow(time.Minute); err != nil {
		t.Fatal(err)
	}
	for gpu, want := range []uint32{7, 7, 7, 0} {
		if got := p.ok("nvmlDeviceGetMaxMigDeviceCount", p.device(gpu), make([]byte, 4)).u32(0); got != want {
			t.Errorf("GPU %d may have %d MIG devices", gpu, got)
		}
	}
	for _, c := range []struct{ gpu, place, code int }{{0, 4, 6}, {0, 7, 2}, {1, 6, 0}, {2, 0, 6}, {3, 0, 3}} {
		if code, _ := p.mig(c.gpu, c.place); code != c.code {
			t.Errorf("MIG device %d of GPU %d returns %d", c.place, c.gpu, code)
		}
	}
	for i, want := range []struct {
		gi, sms, slices, mib uint32
		profile              string
	}{{7, 16, 1, 9984, "1g.10gb"}, {8, 16, 1, 9984, "1g.10gb"}, {3, 32, 2, 19968, "2g.20gb"}, {1, 60, 3, 39936, "3g.40gb"}} {
		_, d := p.mig(0, i)
		number := func(name string) uint32 { return p.ok(name, d, make([]byte, 4)).u32(0) }
		if number("nvmlDeviceGetGpuInstanceId") != want.gi || number("nvmlDeviceGetComputeInstanceId") != 0 || number("nvmlDeviceIsMigDeviceHandle") != 1 || number("nvmlDeviceGetIndex") != uint32(i) {
			t.Errorf("MIG device %d: GPU instance %d", i, number("nvmlDeviceGetGpuInstanceId"))
		}
		if got := p.ok("nvmlDeviceGetName", d, make([]byte, 96), 96).text(0); got != "NVIDIA H100 80GB HBM3 MIG "+want.profile {
			t.Errorf("MIG device %d is called %q", i, got)
		}
		uuid := p.ok("nvmlDeviceGetUUID", d, make([]byte, 96), 96).text(0)
		if code, out := p.call("nvmlDeviceGetHandleByUUID", uuid, make([]byte, 8)); code != 0 || out[0].u64(0) != d || uuid != m.InstanceUUID(0, i) || !strings.HasPrefix(uuid, "MIG-") || len(uuid) != 40 {
			t.Errorf("by UUID %q: %d", uuid, code)
		}
		for _, name := range []string{"nvmlDeviceGetAttributes", "nvmlDeviceGetAttributes_v2"} {
			if a := p.ok(name, d, make([]byte, 40)); a.u32(0) != want.sms || a.u32(24) != want.slices || a.u32(28) != want.slices || a.u64(32) != uint64(want.mib) {
				t.Errorf("%s: %v", name, a)
			}
		}
		if got := p.ok("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", d, make([]byte, 8)).u64(0); got != p.device(0) {
			t.Errorf("the parent is %x", got)
		}
		mem := p.ok("nvmlDeviceGetMemoryInfo_v2", d, word(40, 40|2<<24))
		if mem.u64(8) != uint64(want.mib)*mib || mem.u64(32) != uint64(i+1)<<30 || mem.u64(16)+mem.u64(24)+mem.u64(32) != mem.u64(8) {
			t.Errorf("memory of %d: %v", i, mem)
		}
		if bar := p.ok("nvmlDeviceGetBAR1MemoryInfo", d, make([]byte, 24)); bar.u64(0) == 0 {
			t.Errorf("BAR1 of %d: %v", i, bar)
		}
	}
	_, d := p.mig(0, 0)
	for name, args := range map[string][]any{
		"nvmlDeviceGetUtilizationRates": {make([]byte, 8)}, "nvmlDeviceGetPowerUsage": {make([]byte, 4)}, "nvmlDeviceGetClockInfo": {1, make([]byte, 4)},
		"nvmlDeviceGetTotalEnergyConsumption": {make([]byte, 8)}, "nvmlDeviceGetTemperature": {0, make([]byte, 4)},
		"nvmlDeviceGetFieldValues": {1, word(40, 186)}, "nvmlDeviceGetEncoderUtilization": {make([]byte, 4), make([]byte, 4)},
	} {
		if code, _ := p.call(name, append([]any{d}, args...)...); code != CodeNotSupported {
			t.Errorf("%s of a MIG device returns %d", name, code)
		}
	}
	parent := p.device(0)
	for name, args := range map[string][]any{
		"nvmlDeviceGetUtilizationRates": {make([]byte, 8)}, "nvmlDeviceGetEncoderUtilization": {make([]byte, 4), make([]byte, 4)},
		"nvmlDeviceGetNumGpuCores": {make([]byte, 4)}, "nvmlDeviceGetGpuInstanceId": {make([]byte, 4)}, "nvmlDeviceGetAttributes_v2": {make([]byte, 40)},
		"nvmlDeviceGetProcessUtilization": {make([]byte, 64), word(4, 2), 0}, "nvmlDeviceGetRemappedRows": {make([]byte, 4), make([]byte, 4), make([]byte, 4), make([]byte, 4)},
	} {
		if code, _ := p.call(name, append([]any{parent}, args...)...); code != CodeNotSupported {
			t.Errorf("%s of a GPU in MIG mode returns %d", name, code)
		}
	}
	if p.ok("nvmlDeviceGetPowerUsage", parent, make([]byte, 4)).u32(0) == 0 || p.ok("nvmlDeviceIsMigDeviceHandle", parent, make([]byte, 4)).u32(0) != 0 {
		t.Error("the GPU itself has no power, or takes itself for a MIG device")
	}
	if code, _ := p.call("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", parent, make([]byte, 8)); code != 2 {
		t.Errorf("the parent of a GPU: %d", code)
	}
	if got := m.Snapshot()["nvmlDeviceGetAttributes_v2"][0]; got != 5 {
		t.Errorf("%d calls on the GPU's MIG devices are counted as its own", got)
	}
}

func TestMIGProcesses(t *testing.T) {
	s := cut()
	_, p := bench(t, s)
	list := func(d uint64) string {
		code, out := p.call("nvmlDeviceGetComputeRunningProcesses_v3", d, word(4, 4), make([]byte, 4*24))
		if code != 0 {
			return fmt.Sprint("code ", code)
		}
		var b strings.Builder
		for i := range int(out[0].u32(0)) {
			fmt.Fprintf(&b, "%d in %d/%d; ", out[1].u32(24*i), int32(out[1].u32(24*i+16)), int32(out[1].u32(24*i+20)))
		}
		return b.String()
	}
	_, first := p.mig(0, 0)
	_, second := p.mig(0, 1)
	if got := list(p.device(0)); got != "11 in 7/0; 12 in 1/0; " {
		t.Errorf("on the GPU: %s", got)
	}
	if got := list(first); got != "11 in 7/0; " {
		t.Errorf("on the first: %s", got)
	}
	if got := list(second); got != "" {
		t.Errorf("on the second: %s", got)
	}
	s.Unprivileged = true
	_, p = bench(t, s)
	if _, first = p.mig(0, 0); list(first) != "11 in 7/0; " || list(p.device(0)) != "code 4" || list(p.device(3)) != "" {
		t.Errorf("without privilege: %s, %s, %s", list(first), list(p.device(0)), list(p.device(3)))
	}
	if code, _ := p.call("nvmlDeviceGetMemoryInfo_v2", p.device(0), word(40, 40|2<<24)); code != CodeNoPermission {
		t.Errorf("memory of the whole without privilege: %d", code)
	}
}

// migActivity reads a metric of a GPU instance between two moments.
func migActivity(t *testing.T, m *Memory, p *probe, gi int, from, to time.Duration, ids ...uint32) ([]float64, []uint32) {
	t.Helper()
	take := func(at time.Duration) uint64 {
		if err := m.SetNow(at); err != nil {
			t.Fatal(err)
		}
		s := p.ok("nvmlGpmSampleAlloc", make([]byte, 8)).u64(0)
		p.ok("nvmlGpmMigSampleGet", p.device(0), gi, s)
		return s
	}
	_, values, codes := metrics(p, take(from), take(to), ids...)
	return values, codes
}

func TestMIGActivity(t *testing.T) {
	m, p := bench(t, cut())
	for _, gi := range []int{7, 8, 3, 1} {
		got, codes := migActivity(t, m, p, gi, 10*time.Second, 17*time.Second, 2, 5, 10, 250, 20, 61)
		want := m.InstanceTruth(0, gi, 10*time.Second, 17*time.Second)
		for i, q := range []Quantity{SMActive, Tensor, DRAM} {
			near(t, fmt.Sprint("instance ", gi), got[i], 100*want.Mean[q], 1e-6)
		}
		all := m.InstanceTruth(0, gi, 0, 17*time.Second).Cycles[Tensor]
		near(t, "cycles", got[3], all, 1+1e-9*all)
		if codes[0] != 0 || codes[4] != 0 || codes[5] != 3 {
			t.Errorf("instance %d: codes %v", gi, codes)
		}
	}
	s := p.ok("nvmlGpmSampleAlloc", make([]byte, 8)).u64(0)
	_, d := p.mig(0, 0)
	_, plain := p.mig(1, 0)
	for _, c := range []struct {
		name   string
		device uint64
		gi     []any
		code   int
	}{
		{"nvmlGpmMigSampleGet", p.device(0), []any{2}, 6}, {"nvmlGpmMigSampleGet", p.device(3), []any{1}, 3}, {"nvmlGpmMigSampleGet", p.device(1), []any{7}, 3},
		{"nvmlGpmMigSampleGet", d, []any{7}, 3}, {"nvmlGpmSampleGet", d, nil, 0}, {"nvmlGpmSampleGet", p.device(0), nil, 3}, {"nvmlGpmSampleGet", plain, nil, 3},
	} {
		if code, _ := p.call(c.name, append(append([]any{c.device}, c.gi...), s)...); code != c.code {
			t.Errorf("%s %v returns %d, wanted %d", c.name, c.gi, code, c.code)
		}
	}
	// The MIG device's own sample is of its GPU instance, and does not go with another's.
	other := p.ok("nvmlGpmSampleAlloc", make([]byte, 8)).u64(0)
	p.ok("nvmlGpmMigSampleGet", p.device(0), 1, other)
	if code, _, _ := metrics(p, s, other, 2); code != 2 {
		t.Errorf("samples of two instances go together: %d", code)
	}
	if b := p.ok("nvmlGpmQueryDeviceSupport", d, word(8, 1)); b.u32(4) != 1 {
		t.Error("a MIG device of an H100 has no GPM")
	}
}

// While a GPU is cut anew, the handles of what was there are worth nothing.
func TestMIGChanges(t *testing.T) {
	m, p := bench(t, cut())
	_, old := p.mig(0, 0)
	was := m.InstanceUUID(0, 0)
	p.ok("nvmlDeviceGetUUID", old, make([]byte, 96), 96)
	s := p.ok("nvmlGpmSampleAlloc", make([]byte, 8)).u64(0)
	p.ok("nvmlGpmMigSampleGet", p.device(0), 7, s)
	uuid := func(d uint64) int {
		code, _ := p.call("nvmlDeviceGetUUID", d, make([]byte, 96), 96)
		return code
	}
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(m.SetInstances(0))
	if code, _ := p.mig(0, 0); code != 6 || uuid(old) != 2 {
		t.Errorf("after all went: %d, %d", code, uuid(old))
	}
	list := Instances("3g.40gb")
	step(m.SetInstances(0, Instance{}, list[0], Instance{Profile: "1c.3g.40gb", GI: list[0].GI, CI: 2}))
	for place, want := range []int{6, 0, 0, 6} {
		if code, _ := p.mig(0, place); code != want {
			t.Errorf("place %d: %d", place, code)
		}
	}
	_, whole := p.mig(0, 1)
	_, part := p.mig(0, 2)
	if uuid(old) != 2 || uuid(part) != 0 || m.InstanceUUID(0, 1) == was || p.ok("nvmlDeviceGetComputeInstanceId", part, make([]byte, 4)).u32(0) != 2 {
		t.Errorf("the new ones: %d %d", uuid(old), uuid(part))
	}
	if a := p.ok("nvmlDeviceGetAttributes_v2", part, make([]byte, 40)); a.u32(0) != 20 || a.u32(24) != 3 || a.u32(28) != 1 || a.u64(32) != 39936 {
		t.Errorf("a third of an instance: %v", a)
	}
	// One that is back as it was has its UUID again, and its handle too once it is asked for.
	step(m.SetInstances(0, cut().GPUs[0].Instances...))
	if uuid(old) != 2 || uuid(whole) != 2 || m.InstanceUUID(0, 0) != was {
		t.Errorf("before they are asked for: %d %d", uuid(old), uuid(whole))
	}
	if _, d := p.mig(0, 0); d != old || uuid(old) != 0 {
		t.Errorf("the handle %x became %x", old, d)
	}
	again := p.ok("nvmlGpmSampleAlloc", make([]byte, 8)).u64(0)
	p.ok("nvmlGpmMigSampleGet", p.device(0), 7, again)
	if code, _, _ := metrics(p, s, again, 2); code != 2 {
		t.Errorf("samples from before and after go together: %d", code)
	}
	step(m.SetMIG(0, false, true))
	if b, out := p.call("nvmlDeviceGetMigMode", p.device(0), make([]byte, 4), make([]byte, 4)); b != 0 || out[0].u32(0) != 0 || out[1].u32(0) != 1 || uuid(old) != 2 {
		t.Errorf("off until the next reset: %d %v", b, out)
	}
	_, there := p.mig(1, 3)
	step(m.SetLost(1, 0))
	if uuid(there) != CodeGPULost {
		t.Errorf("a MIG device of a lost GPU returns %d", uuid(there))
	}
}

func TestMIGIsChecked(t *testing.T) {
	for name, list := range map[string][]Instance{
		"profile": {{Profile: "1g"}}, "slices": {{Profile: "5g.50gb"}}, "compute": {{Profile: "4c.3g.40gb"}}, "too many": Instances("4g.40gb", "4g.40gb"), "id": {{Profile: "1g.10gb", GI: 256}},
		"twice": {{Profile: "1g.10gb", GI: 1}, {Profile: "1g.10gb", GI: 1}}, "eight": make([]Instance, 8), "segments": {{Profile: "1g.10gb", Segments: make([]Segment, 5)}},
		"UUID": {{Profile: "1g.10gb", UUID: string(make([]byte, 60))}},
	} {
		if _, err := Create(filepath.Join(t.TempDir(), Shared), Scenario{GPUs: []GPU{{Instances: list}}}); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
	m := create(t, cut())
	if m.SetInstances(3, Instances("1g.10gb")...) == nil || m.SetMIG(3, true, true) == nil || m.SetInstances(9) == nil || m.SetProcesses(Process{MIG: In(-1, 0)}) == nil {
		t.Error("a GPU without MIG, or a place that is none, was taken")
	}
	if m.InstanceUUID(0, 6) != "" {
		t.Error("an instance too many")
	}
	var all Scenario
	for range 10 {
		all.GPUs = append(all.GPUs, GPU{Model: A100, Instances: Instances("1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb")})
	}
	if _, err := Create(filepath.Join(t.TempDir(), Shared), all); err == nil {
		t.Error("70 MIG devices were taken")
	}
}

func TestDemoMIG(t *testing.T) {
	for model := range numModels {
		for _, n := range []int{1, 8} {
			m, p := bench(t, DemoMIG(model, n, 4242))
			if err := m.SetNow(10 * time.Minute); err != nil {
				t.Fatal(err)
			}
			last := n - 1
			code, d := p.mig(last, 0)
			if models[model].mig == 2 {
				if code != 3 {
					t.Errorf("%v: %d", model, code)
				}
				continue
			}
			if got := m.InstanceTruth(last, 7, 0, Cycle); got.Mean[SMActive] < 0.1 || got.EnergyJ != 0 || m.InstanceTruth(last, 1, 0, Cycle).Mean[SMActive] != 0 {
				t.Errorf("%v: %v", model, got.Mean)
			}
			if code, out := p.call("nvmlDeviceGetComputeRunningProcesses_v3", d, word(4, 4), make([]byte, 4*24)); code != 0 || out[0].u32(0) != 1 || out[1].u32(0) != 4242 {
				t.Errorf("%v: processes %d %v", model, code, out)
			}
			mem := p.ok("nvmlDeviceGetMemoryInfo_v2", d, word(40, 40|2<<24))
			if mem.u64(32) == 0 || mem.u64(24) == 0 {
				t.Errorf("%v: memory %v", model, mem)
			}
			// Power of the whole, but no use of it.
			if p.ok("nvmlDeviceGetPowerUsage", p.device(last), make([]byte, 4)).u32(0) == 0 {
				t.Errorf("%v: no power", model)
			}
		}
	}
	if s := DemoMIG(H100SXM, 0, 0); len(s.GPUs) != 0 {
		t.Error("a demo of nothing has GPUs")
	}
}
