package nvmlstub

import (
	"encoding/binary"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestConfidentialComputing(t *testing.T) {
	m, p := bench(t, load(false))
	state := func() [3]uint32 {
		b := p.ok("nvmlSystemGetConfComputeState", make([]byte, 12))
		return [3]uint32{b.u32(0), b.u32(4), b.u32(8)}
	}
	d := p.device(0)
	sample := p.ok("nvmlGpmSampleAlloc", make([]byte, 8)).u64(0)
	gpm := func() int {
		code, _ := p.call("nvmlGpmSampleGet", d, sample)
		return code
	}
	set := func(cc ConfidentialComputing) {
		t.Helper()
		if err := m.SetConfidentialComputing(cc); err != nil {
			t.Fatal(err)
		}
	}
	if code, _ := p.call("nvmlSystemGetConfComputeGpusReadyState", make([]byte, 4)); state() != [3]uint32{} || gpm() != 0 || code != 3 {
		t.Errorf("off: %v, GPM %d, ready %d", state(), gpm(), code)
	}
	set(ConfidentialComputing{On: true, MultiGPU: 1})
	if state() != [3]uint32{2, 1, 0} || gpm() != CodeNotSupported {
		t.Errorf("on: %v, GPM %d", state(), gpm())
	}
	if b := p.ok("nvmlSystemGetConfComputeSettings", word(20, 20|1<<24)); b.u32(4) != 2 || b.u32(8) != 1 || b.u32(16) != 1 {
		t.Errorf("settings %v", b)
	}
	if code, _ := p.call("nvmlSystemGetConfComputeSettings", word(20, 1)); code != 25 {
		t.Errorf("settings of another version: %d", code)
	}
	if p.ok("nvmlSystemGetConfComputeGpusReadyState", make([]byte, 4)).u32(0) != 1 || p.ok("nvmlSystemGetConfComputeCapabilities", make([]byte, 8)).u32(4) != 1 {
		t.Error("not ready, or not capable")
	}
	set(ConfidentialComputing{On: true, DevTools: true, NotReady: true})
	if state() != [3]uint32{2, 1, 1} || gpm() != 0 || p.ok("nvmlSystemGetConfComputeGpusReadyState", make([]byte, 4)).u32(0) != 0 {
		t.Errorf("with devtools: %v, GPM %d", state(), gpm())
	}
	set(ConfidentialComputing{On: true, Environment: 1, Blocked: []string{"nvmlDeviceGetPower*"}})
	if code, _ := p.number("nvmlDeviceGetPowerUsage", d); code != CodeNotSupported || gpm() != 0 || state()[0] != 1 {
		t.Errorf("a list of one's own: %d", code)
	}
	set(ConfidentialComputing{})
	if code, _ := p.number("nvmlDeviceGetPowerUsage", d); code != 0 {
		t.Errorf("off again: %d", code)
	}
	if m.SetConfidentialComputing(ConfidentialComputing{On: true, Blocked: make([]string, 17)}) == nil {
		t.Error("17 functions were taken")
	}
	if _, err := Create(filepath.Join(t.TempDir(), Shared), Scenario{GPUs: []GPU{{Model: A100}}, CC: ConfidentialComputing{On: true}}); err == nil {
		t.Error("an A100 was taken for capable of confidential computing")
	}
	_, p = bench(t, Scenario{GPUs: []GPU{{Model: A100}}})
	if code, _ := p.call("nvmlSystemGetConfComputeState", make([]byte, 12)); code != 3 {
		t.Errorf("on an A100: %d", code)
	}
}

func TestFabric(t *testing.T) {
	m, p := bench(t, Scenario{Manual: true, GPUs: []GPU{{Model: GB200}, {Model: H100SXM}, {Model: A100}}})
	info := func(gpu int) buffer { return p.ok("nvmlDeviceGetGpuFabricInfoV", p.device(gpu), word(40, 40|3<<24)) }
	rack := info(0)
	if rack[4] != 0xf1 || rack.u32(24) != 1 || rack[28] != 3 || rack[36] != 1 {
		t.Errorf("in a rack: %v", rack)
	}
	if host := info(1); host.u64(4) != 0 || host.u32(24) != 0 || host[28] != 3 {
		t.Errorf("in a host: %v", host)
	}
	if b := p.ok("nvmlDeviceGetGpuFabricInfoV", p.device(0), word(40, 36|2<<24)); b[4] != 0xf1 || b[36] != 0 {
		t.Errorf("second version: %v", b)
	}
	if b := p.ok("nvmlDeviceGetGpuFabricInfo", p.device(0), make([]byte, 28)); b[0] != 0xf1 || b.u32(20) != 1 {
		t.Errorf("first version: %v", b)
	}
	for gpu, version := range []uint32{1, 3 << 24} {
		if code, _ := p.call("nvmlDeviceGetGpuFabricInfoV", p.device(gpu), word(40, version)); code != 25 {
			t.Errorf("another version: %d", code)
		}
	}
	if code, _ := p.call("nvmlDeviceGetGpuFabricInfoV", p.device(2), word(40, 40|3<<24)); code != 3 {
		t.Errorf("on an A100: %d", code)
	}
	if err := m.SetFabric(0, Fabric{State: FabricInProgress, HealthMask: 5, Clique: 77}); err != nil {
		t.Fatal(err)
	}
	if b := info(0); b[28] != 2 || b.u32(24) != 77 || b.u32(32) != 5 {
		t.Errorf("under way: %v", b)
	}
	if m.SetFabric(3, Fabric{}) == nil {
		t.Error("a GPU that is not there was taken")
	}
	if got := p.ok("nvmlDeviceGetGspFirmwareVersion", p.device(0), make([]byte, 64)).text(0); got != "580.95.05" {
		t.Errorf("firmware %q", got)
	}
	if got := p.ok("nvmlDeviceGetC2cModeInfoV", p.device(0), make([]byte, 4)).u32(0); got != 1 {
		t.Errorf("link to the CPU %d", got)
	}
	if code, out := p.call("nvmlDeviceGetEccMode", p.device(0), make([]byte, 4), make([]byte, 4)); code != 0 || out[0].u32(0) != 1 || out[1].u32(0) != 1 {
		t.Errorf("ECC mode %d %v", code, out)
	}
}

// A driver is replaced under processes that have its library open: only a new process gets on.
func TestReplaceDriver(t *testing.T) {
	need(t)
	dir := t.TempDir()
	lib, err := Install(built.library, dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Create(filepath.Join(dir, Shared), load(false))
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, lib)
	p.ok("nvmlInit_v2")
	d := p.device(0)
	if err = m.ReplaceDriver("590.1"); err != nil {
		t.Fatal(err)
	}
	index := func() int {
		code, _ := p.number("nvmlDeviceGetIndex", d)
		return code
	}
	init, _ := p.call("nvmlInit_v2")
	if index() != CodeVersionMismatch || init != CodeVersionMismatch {
		t.Errorf("under the old library: %d, anew %d", index(), init)
	}
	p = start(t, lib)
	p.ok("nvmlInit_v2")
	if got := p.ok("nvmlSystemGetDriverVersion", make([]byte, 80), 80).text(0); got != "590.1" {
		t.Errorf("a new process is under driver %q", got)
	}
	if err = m.ReplaceDriver(string(make([]byte, 99))); err == nil {
		t.Error("a long version was taken")
	}
}

func TestBrokenAndGone(t *testing.T) {
	m, p := bench(t, load(false))
	d := []uint64{p.device(0), p.device(1)}
	index := func(gpu int) int {
		code, _ := p.number("nvmlDeviceGetIndex", d[gpu])
		return code
	}
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(m.SetBroken(1, CodeResetRequired))
	if index(0) != 0 || index(1) != CodeResetRequired {
		t.Errorf("with one broken: %d, %d", index(0), index(1))
	}
	step(m.SetBroken(1, 0))
	count := func() uint32 { return p.ok("nvmlDeviceGetCount_v2", make([]byte, 4)).u32(0) }
	step(m.SetEvents(Event{GPU: 1, At: time.Hour}))
	step(m.SetGPUs(1))
	if index(1) != 2 || count() != 1 || m.GPUs() != 1 {
		t.Errorf("with one gone: %d, %d GPUs", index(1), count())
	}
	step(m.SetGPUs(2))
	if index(1) != 0 || count() != 2 {
		t.Errorf("with it back: %d, %d GPUs", index(1), count())
	}
	if m.SetGPUs(3) == nil || m.SetGPUs(0) == nil || m.SetBroken(2, 1) == nil {
		t.Error("a GPU that is not there was taken")
	}
}

// drivers are what each release has.
func TestDrivers(t *testing.T) {
	need(t)
	s := load(false)
	s.Processes = []Process{{PID: 100, GPUs: []int{0}, UsedBytes: 7 << 30}, {PID: 101, GPUs: []int{0}, UsedBytes: 5 << 30}, {PID: 102, GPUs: []int{0}, UsedBytes: 3 << 30}}
	for _, c := range []struct {
		driver     int
		gone, have []string
		fields     []uint32 // that it has of 94, 173, 186, 197, 230, 269
		cycles     int
	}{
		{470, []string{"nvmlGpmMetricsGet", "nvmlSystemGetConfComputeState"}, []string{"nvmlDeviceGetFieldValues"}, []uint32{94}, -1},
		{535, []string{"nvmlDeviceGetGpuFabricInfoV", "nvmlSystemGetConfComputeSettings"}, []string{"nvmlGpmMetricsGet", "nvmlDeviceGetComputeRunningProcesses_v3"}, []uint32{94, 173, 186}, 2},
		{550, []string{"nvmlDeviceGetTemperatureV"}, []string{"nvmlDeviceGetGpuFabricInfoV", "nvmlDeviceGetCurrentClocksEventReasons"}, []uint32{94, 173, 186, 197}, 2},
		{580, []string{"nvmlEventSetWait_v3"}, []string{"nvmlDeviceGetTemperatureV", "nvmlEventSetWait_v2"}, []uint32{94, 173, 186, 197, 230, 269}, 2},
	} {
		lib, err := Build(t.Context(), t.TempDir(), Options{Driver: c.driver, Flags: append([]string{"-O0"}, built.sanitize...)})
		if err != nil {
			t.Fatal(err)
		}
		_, p := benchOf(t, lib, s)
		for _, name := range c.gone {
			if p.line("has %s", name) != "0" {
				t.Errorf("driver %d has %s", c.driver, name)
			}
		}
		for _, name := range c.have {
			if p.line("has %s", name) != "1" {
				t.Errorf("driver %d lacks %s", c.driver, name)
			}
		}
		for _, id := range []uint32{94, 173, 186, 197, 230, 269} {
			if code, _ := p.field(p.device(0), id, 0); (code == 0) != slices.Contains(c.fields, id) {
				t.Errorf("driver %d: field %d returns %d", c.driver, id, code)
			}
		}
		if c.cycles >= 0 {
			if _, _, codes := onePair(t, p, 0, 248); int(codes[0]) != c.cycles {
				t.Errorf("driver %d: cycles since boot return %d", c.driver, codes[0])
			}
		}
		name := "nvmlDeviceGetComputeRunningProcesses_v3"
		if c.driver == 470 {
			name = "nvmlDeviceGetComputeRunningProcesses_v2"
		}
		code, out := p.call(name, p.device(0), word(4, 3), make([]byte, 3*24))
		var pids []uint32
		for i := range 3 {
			pids = append(pids, out[1].u32(24*i))
		}
		if garbage := !slices.Equal(pids, []uint32{100, 101, 102}); code != 0 || out[0].u32(0) != 3 || garbage != (c.driver == 535) {
			t.Errorf("driver %d lists %v, code %d", c.driver, pids, code)
		}
		if c.driver == 535 && (pids[0] != 100 || pids[1] != 0 || binary.LittleEndian.Uint64(out[1][40:]) != 5<<30) {
			t.Errorf("the slip is another: %v %v", pids, out[1])
		}
	}
	if _, err := Build(t.Context(), t.TempDir(), Options{Driver: 123}); err == nil {
		t.Error("a driver 123 was built")
	}
}

func TestPushedEvents(t *testing.T) {
	s := load(false)
	s.GPUs = append(s.GPUs, GPU{Model: H100SXM, Instances: Instances("1g.10gb")}, GPU{Model: B200}, GPU{Model: L40S})
	s.Events = []Event{{At: 30 * time.Second, GPU: 0, Data: 13}}
	m, p := bench(t, s)
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	types := func(gpu int) uint64 {
		return p.ok("nvmlDeviceGetSupportedEventTypes", p.device(gpu), make([]byte, 8)).u64(0)
	}
	if types(0) != 0x11f || types(3)&RecoveryActionEvent == 0 || types(4) != 0x1f {
		t.Errorf("types %x, %x, %x", types(0), types(3), types(4))
	}
	step(m.SetNow(5 * time.Second))
	step(m.Push(Event{GPU: 0, Data: 1})) // nobody listens yet
	var sets [2]uint64
	for i := range sets {
		sets[i] = p.ok("nvmlEventSetCreate", make([]byte, 8)).u64(0)
		for gpu := range 5 {
			p.ok("nvmlDeviceRegisterEvents", p.device(gpu), types(gpu), sets[i])
		}
	}
	if code, _ := p.call("nvmlDeviceRegisterEvents", p.device(4), MIGConfigEvent, sets[0]); code != 3 {
		t.Errorf("an event that there is not: %d", code)
	}
	type seen struct {
		device     uint64
		kind, data uint64
		gi, ci     uint32
	}
	next := func(set int) (seen, int) {
		code, out := p.call("nvmlEventSetWait_v2", sets[set], make([]byte, 32), 1)
		return seen{out[0].u64(0), out[0].u64(8), out[0].u64(16), out[0].u32(24), out[0].u32(28)}, code
	}
	const none = 0xffffffff
	step(m.Push(Event{GPU: 1, Data: 79, At: time.Hour}, Event{GPU: 2, Data: 94, MIG: In(7, 0)}, Event{GPU: 2, Type: MIGConfigEvent, MIG: In(7, 0)}))
	want := []seen{{p.device(1), 8, 79, none, none}, {p.device(2), 8, 94, 7, 0}, {p.device(2), 0x100, 0, none, none}}
	for _, w := range want {
		for set := range sets {
			if got, code := next(set); code != 0 || got != w {
				t.Errorf("set %d: %d, %v, wanted %v", set, code, got, w)
			}
		}
	}
	for _, e := range []struct {
		gpu  int
		kind uint64
	}{{0, SingleBitECCEvent}, {0, DoubleBitECCEvent}, {1, ClockEvent}, {3, RecoveryActionEvent}} {
		step(m.Push(Event{GPU: e.gpu, Type: e.kind}))
		for set := range sets {
			if got, code := next(set); code != 0 || got.kind != e.kind || got.device != p.device(e.gpu) {
				t.Errorf("event %x: %d, %v", e.kind, code, got)
			}
		}
	}
	// What was to come still comes, once, and one that waits gets what happens meanwhile.
	step(m.SetNow(time.Minute))
	for set := range sets {
		if got, code := next(set); code != 0 || got.data != 13 {
			t.Errorf("set %d: %d, %v", set, code, got)
		}
		if got, code := next(set); code != CodeTimeout {
			t.Errorf("set %d sees too much: %v", set, got)
		}
	}
	got := make(chan int)
	go func() {
		code, out := p.call("nvmlEventSetWait_v2", sets[0], make([]byte, 32), 60000)
		got <- code*1000 + int(out[0].u64(16))
	}()
	for range 2000 {
		if m.InFlight(NoGPU) == 1 {
			break
		}
		wait(t, 5*time.Millisecond)
	}
	step(m.Push(Event{GPU: 0, Data: 63}))
	if n := <-got; n != 63 {
		t.Errorf("the one that waits got %d", n)
	}
	// When there are too many, the oldest are forgotten.
	for i := range MaxEvents + 3 {
		step(m.Push(Event{GPU: 0, Data: uint64(1000 + i)}))
	}
	if first, code := next(1); code != 0 || first.data != 1003 {
		t.Errorf("after too many: %d, %v", code, first)
	}
	if m.Push(Event{GPU: 9}) == nil || m.Push(make([]Event, MaxEvents+1)...) == nil || m.Push(Event{GPU: 2, MIG: In(999, 0)}) == nil {
		t.Error("an event of no GPU, or too many, were taken")
	}
	for _, set := range sets {
		p.ok("nvmlEventSetFree", set)
	}
}

// On a clock that runs, an event that is due now and was seen is not seen again.
func TestPushBesideEventsThatAreDue(t *testing.T) {
	s := load(false)
	s.Manual = false
	m, p := bench(t, s)
	set := p.ok("nvmlEventSetCreate", make([]byte, 8)).u64(0)
	p.ok("nvmlDeviceRegisterEvents", p.device(0), XidEvent, set)
	now, err := m.Now()
	if err != nil {
		t.Fatal(err)
	}
	if err = m.SetEvents(Event{At: now + 20*time.Millisecond, Data: 1}, Event{At: now + 40*time.Millisecond, Data: 2}); err != nil {
		t.Fatal(err)
	}
	if err = m.Push(Event{Data: 3}); err != nil {
		t.Fatal(err)
	}
	var got []uint64
	for range 3 {
		got = append(got, p.ok("nvmlEventSetWait_v2", set, make([]byte, 32), 60000).u64(16))
	}
	slices.Sort(got)
	if code, _ := p.call("nvmlEventSetWait_v2", set, make([]byte, 32), 1); code != CodeTimeout || !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("seen %v, then %d", got, code)
	}
}
