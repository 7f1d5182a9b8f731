//go:build linux && cgo

package nvml

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// go-nvml v0.13.0-1 has 1,624 bytes here, and gives 0 for all metrics but the first.
func TestSizesAreCs(t *testing.T) {
	for name, c := range map[string]struct{ got, want uintptr }{
		"nvmlGpmMetric_t":      {unsafe.Sizeof(nvml.GpmMetric{}), gpmMetricBytes},
		"nvmlFieldValue_t":     {unsafe.Sizeof(nvml.FieldValue{}), 40},
		"nvmlProcessInfo_t":    {unsafe.Sizeof(nvml.ProcessInfo{}), 24},
		"nvmlMemory_v2_t":      {unsafe.Sizeof(nvml.Memory_v2{}), 40},
		"nvmlUtilization_t":    {unsafe.Sizeof(nvml.Utilization{}), 8},
		"nvmlPciInfo_t":        {unsafe.Sizeof(nvml.PciInfo{}), 68},
		"nvmlTemperature_t":    {unsafe.Sizeof(nvml.Temperature{}), 12},
		"nvmlGpmSupport_t":     {unsafe.Sizeof(nvml.GpmSupport{}), 8},
		"the metrics of a get": {unsafe.Sizeof(nvml.GpmMetricsGetType{}.Metrics), 477 * gpmMetricBytes},
	} {
		if c.got != c.want {
			t.Errorf("%s has %d bytes, want %d", name, c.got, c.want)
		}
	}
}

// Every function of the binding that is called is in the table of what is looked up first.
func TestEveryCallIsLookedUp(t *testing.T) {
	used := regexp.MustCompile(`(?:\bapi|\bhandle|\bh|\bd|\bset)\.((?:Get|Gpm|Device|System|Init|Shutdown|Event|Register|Wait|Free)\w*)\b`)
	// How go-nvml's names differ from C's, beside what stands in front.
	odd := map[string]string{
		"SystemGetNVMLVersion": "nvmlSystemGetNVMLVersion", "Wait": "nvmlEventSetWait", "Free": "nvmlEventSetFree",
		"GpmQueryDeviceSupport": "nvmlGpmQueryDeviceSupport", "GetTemperatureV": "nvmlDeviceGetTemperatureV",
	}
	known := map[string]bool{}
	for c, names := range symbols {
		if len(names) == 0 {
			t.Errorf("call %d has no symbol", c)
		}
		for _, s := range names {
			known[s] = true
			if !strings.HasPrefix(s, "nvml") || strings.Contains(strings.ReplaceAll(s, "EventSet", ""), "Set") {
				t.Errorf("call %d: symbol %s", c, s)
			}
		}
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range used.FindAllStringSubmatch(string(text), -1) {
			found[m[1]] = true
			c, ok := odd[m[1]]
			switch {
			case ok:
			case strings.HasPrefix(m[1], "Get") || strings.HasPrefix(m[1], "Register"):
				c = "nvmlDevice" + m[1]
			default:
				c = "nvml" + m[1]
			}
			if !known[c] && !known[c+"_v2"] && !known[c+"_v3"] {
				t.Errorf("%s calls %s, which nobody looks up", file, m[1])
			}
		}
	}
	if len(found) < 55 {
		t.Errorf("%d functions found only", len(found))
	}
}

func TestDecodeByType(t *testing.T) {
	value := func(typ nvml.ValueType, bits uint64) *nvml.FieldValue {
		v := &nvml.FieldValue{ValueType: uint32(typ)}
		binary.NativeEndian.PutUint64(v.Value[:], bits)
		return v
	}
	const stale = 0xdeadbeef_00000000 // what another field left in the upper half
	for name, c := range map[string]struct {
		v    *nvml.FieldValue
		want int64
		good bool
	}{
		"double":          {value(nvml.VALUE_TYPE_DOUBLE, math.Float64bits(12.6)), 13, true},
		"not a number":    {value(nvml.VALUE_TYPE_DOUBLE, math.Float64bits(math.NaN())), 0, false},
		"minus":           {value(nvml.VALUE_TYPE_DOUBLE, math.Float64bits(-1)), 0, false},
		"infinite":        {value(nvml.VALUE_TYPE_DOUBLE, math.Float64bits(math.Inf(1))), 0, false},
		"uint":            {value(nvml.VALUE_TYPE_UNSIGNED_INT, stale|700_000), 700_000, true},
		"int":             {value(nvml.VALUE_TYPE_SIGNED_INT, stale|5), 5, true},
		"negative int":    {value(nvml.VALUE_TYPE_SIGNED_INT, 0xffffffff), -1, false},
		"ushort":          {value(nvml.VALUE_TYPE_UNSIGNED_SHORT, 0xdead0007), 7, true},
		"ulong":           {value(nvml.VALUE_TYPE_UNSIGNED_LONG, 1<<40), 1 << 40, true},
		"ulonglong":       {value(nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, 1<<50), 1 << 50, true},
		"all ones":        {value(nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, math.MaxUint64), -1, false},
		"another version": {value(99, 5), 0, false},
	} {
		if got, good := decode(c.v); good != c.good || good && got != c.want {
			t.Errorf("%s: %d, %v; want %d, %v", name, got, good, c.want, c.good)
		}
	}
}

func TestGarbageInProcessLists(t *testing.T) {
	w := newWorker(&library{}, nil, newListener(&library{}, nil), 0)
	w.device.MemTotalBytes = 80 << 30
	plain := func(pid uint32, used uint64) nvml.ProcessInfo {
		return nvml.ProcessInfo{Pid: pid, UsedGpuMemory: used, GpuInstanceId: noInstance, ComputeInstanceId: noInstance}
	}
	if !w.take(callProcesses, []nvml.ProcessInfo{
		plain(0, 1), plain(math.MaxUint32, 1), plain(7, math.MaxUint64), plain(8, 81<<30), plain(9, 5), plain(9, 6),
	}, nil) {
		t.Error("a list that can be is not believed")
	}
	want := []frame.Process{{PID: 7, UsedBytes: -1}, {PID: 8, UsedBytes: -1}, {PID: 9, UsedBytes: 6}}
	if !slices.Equal(w.look.list.List, want) {
		t.Errorf("got %v, want %v", w.look.list.List, want)
	}
	many := make([]nvml.ProcessInfo, 3*frame.MaxProcesses)
	for i := range many {
		many[i] = plain(uint32(i+100), 0)
	}
	if w.take(callProcesses, many, nil); len(w.look.list.List) != frame.MaxProcesses {
		t.Errorf("%d processes, at most %d", len(w.look.list.List), frame.MaxProcesses)
	}
	// Entries of 32 bytes, read as if they had 24: pid, memory, instances, and 8 bytes more.
	var raw []byte
	for pid := range uint32(6) {
		raw = binary.NativeEndian.AppendUint64(raw, uint64(pid+4711))
		raw = binary.NativeEndian.AppendUint64(raw, 12345<<12)
		raw = binary.NativeEndian.AppendUint64(raw, math.MaxUint64)
		raw = binary.NativeEndian.AppendUint64(raw, 0)
	}
	slip := unsafe.Slice((*nvml.ProcessInfo)(unsafe.Pointer(&raw[0])), 6)
	w.look.list.List = w.look.list.List[:0]
	if w.take(callProcesses, slip, nil) || len(w.look.list.List) != 1 || w.look.list.List[0].PID != 4711 {
		t.Errorf("a list of another layout is believed: %v", w.look.list.List)
	}
	// Of a part, its own alone.
	on := &part{Instance: frame.Instance{GI: 3, CI: 0, UUID: "MIG-1"}}
	w.look.list.List = w.look.list.List[:0]
	if !w.take(callMIGProcesses, []nvml.ProcessInfo{{Pid: 5, GpuInstanceId: 3}}, on) || w.look.list.List[0].Instance != "MIG-1" {
		t.Errorf("processes of a part: %v", w.look.list.List)
	}
	if w.take(callMIGProcesses, []nvml.ProcessInfo{{Pid: 5, GpuInstanceId: 4}}, on) {
		t.Error("a process of another part is believed")
	}
}

// stub is the library that this process loads: the first that is loaded stays.
var stub struct {
	once     sync.Once
	dir, lib string
	err      error
}

// asChild makes this binary a flopwatch-nvml on the library that it names: a process can load
// one library alone.
const asChild = "FLOPWATCH_TEST_NVML_LIBRARY"

func TestMain(m *testing.M) {
	if lib := os.Getenv(asChild); lib != "" {
		if err := Serve(context.Background(), os.Stdin, os.Stdout, Config{Library: lib}); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if stub.dir != "" {
		_ = os.RemoveAll(stub.dir)
	}
	os.Exit(code)
}

// talk is a Serve on the stub, in this process: one library a process, so one after the other.
// Every test that uses it goes through the life of an agent, at its own pace: the clock of stub
// and requests is moved by ask.
type talk struct {
	tb      testing.TB
	mem     *nvmlstub.Memory
	in      io.WriteCloser
	r       *frame.Reader
	out     io.ReadCloser
	serve   chan error
	welcome frame.Welcome
	seq     uint64
	boot    int64
	answers // of the last ask
	spent   [nvmlstub.MaxGPUs][]paid
}

// paid is what an ask cost a GPU, as the stub counts it.
type paid struct {
	boot  int64
	calls int
}

// answers are what came until every GPU was done.
type answers struct {
	readings  []frame.Reading
	faults    []frame.Fault
	devices   []frame.Device
	processes []frame.Processes
	health    []frame.Health
	instances []frame.Instances
	events    []frame.Event
	listening []frame.Listening
	done      []frame.Done
}

func training() nvmlstub.Scenario { return nvmlstub.H100x8Training(0, time.Hour) }

func newTalk(tb testing.TB, s nvmlstub.Scenario) *talk {
	tb.Helper()
	_, err := exec.LookPath("gcc")
	testenv.Need(tb, "cc", err)
	stub.once.Do(func() {
		if stub.dir, stub.err = os.MkdirTemp("", "flopwatch-nvml-"); stub.err == nil {
			stub.lib, stub.err = nvmlstub.Build(context.Background(), stub.dir, nvmlstub.Options{})
		}
	})
	if stub.err != nil {
		tb.Fatal(stub.err)
	}
	dir, lib := stub.dir, stub.lib
	s.Manual = true
	mem, err := nvmlstub.Create(filepath.Join(dir, nvmlstub.Shared), s)
	if err != nil {
		tb.Fatal(err)
	}
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	c := &talk{tb: tb, mem: mem, in: inW, r: frame.NewReader(outR), out: outR, serve: make(chan error, 1), boot: 1000}
	go func() { c.serve <- Serve(context.WithoutCancel(tb.Context()), inR, outW, Config{Library: lib}) }()
	c.hello(len(s.GPUs))
	if w := &c.welcome; !w.GPM || w.LibraryPath != lib {
		tb.Fatalf("welcome: %+v", w)
	}
	return c
}

// newProcess is a talk to another process, on a library of its own.
func newProcess(tb testing.TB, o nvmlstub.Options, s nvmlstub.Scenario) *talk {
	tb.Helper()
	_, err := exec.LookPath("gcc")
	testenv.Need(tb, "cc", err)
	dir := tb.TempDir()
	lib, err := nvmlstub.Build(tb.Context(), dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	s.Manual = true
	mem, err := nvmlstub.Create(filepath.Join(dir, nvmlstub.Shared), s)
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(tb.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asChild+"="+lib)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	c := &talk{tb: tb, mem: mem, in: in, r: frame.NewReader(out), out: out, serve: make(chan error, 1), boot: 1000}
	go func() {
		st, werr := cmd.Process.Wait()
		if werr == nil && !st.Success() {
			werr = errors.New(st.String())
		}
		c.serve <- werr
	}()
	c.hello(len(s.GPUs))
	return c
}

func (c *talk) hello(gpus int) {
	c.tb.Helper()
	c.send(&frame.Request{Type: frame.TypeHello, Version: frame.Version})
	typ, body, err := c.r.Next()
	if err == nil {
		err = frame.DecodeWelcome(body, &c.welcome)
	}
	if w := &c.welcome; err != nil || typ != frame.TypeWelcome || w.Code != 0 || w.GPUs != gpus {
		c.tb.Fatalf("welcome: %+v, %v", w, err)
	}
}

func (c *talk) send(q *frame.Request) {
	if _, err := c.in.Write(frame.AppendRequest(nil, q)); err != nil {
		c.tb.Fatal(err)
	}
}

// ask asks a second after the last.
func (c *talk) ask(q frame.Request) { c.askAfter(time.Second, q) }

func (c *talk) askAfter(d time.Duration, q frame.Request) {
	c.tb.Helper()
	c.boot += d.Milliseconds()
	c.seq++
	q.Seq, q.BootMs = c.seq, c.boot
	if q.Type == 0 {
		q.Type = frame.TypeSample
	}
	if err := c.mem.SetNow(time.Duration(c.boot) * time.Millisecond); err != nil {
		c.tb.Fatal(err)
	}
	before := c.mem.Snapshot()
	c.answers = answers{}
	c.send(&q)
	for left := q.Sample | q.Processes | q.Health | q.Burst; left != 0; {
		if d := c.next(); d != nil {
			left &^= 1 << d.GPU
		}
	}
	calls := c.mem.Snapshot().Since(before)
	for g := range c.mem.GPUs() {
		c.spent[g] = append(c.spent[g], paid{c.boot, int(calls.Total(g))})
	}
}

// next takes one answer.
func (c *talk) next() (done *frame.Done) {
	c.tb.Helper()
	typ, body, err := c.r.Next()
	if err != nil {
		c.tb.Fatal(err)
	}
	switch typ {
	case frame.TypeReading:
		c.readings = append(c.readings, frame.Reading{})
		err = frame.DecodeReading(body, &c.readings[len(c.readings)-1])
	case frame.TypeFault:
		c.faults = append(c.faults, frame.Fault{})
		err = frame.DecodeFault(body, &c.faults[len(c.faults)-1])
	case frame.TypeDevice:
		c.devices = append(c.devices, frame.Device{})
		err = frame.DecodeDevice(body, &c.devices[len(c.devices)-1])
	case frame.TypeProcesses:
		c.processes = append(c.processes, frame.Processes{})
		err = frame.DecodeProcesses(body, &c.processes[len(c.processes)-1])
	case frame.TypeHealth:
		c.health = append(c.health, frame.Health{})
		err = frame.DecodeHealth(body, &c.health[len(c.health)-1])
	case frame.TypeInstances:
		c.instances = append(c.instances, frame.Instances{})
		err = frame.DecodeInstances(body, &c.instances[len(c.instances)-1])
	case frame.TypeEvent:
		c.events = append(c.events, frame.Event{})
		err = frame.DecodeEvent(body, &c.events[len(c.events)-1])
	case frame.TypeListening:
		c.listening = append(c.listening, frame.Listening{})
		err = frame.DecodeListening(body, &c.listening[len(c.listening)-1])
	case frame.TypeDone:
		done = new(frame.Done)
		err = frame.DecodeDone(body, done)
		c.done = append(c.done, *done)
	default:
		c.tb.Fatalf("a frame of type %d", typ)
	}
	if err != nil {
		c.tb.Fatal(err)
	}
	return done
}

// withinBudget looks at every second that begins with a request: half open, by the stub's clock
// and the stub's counters.
func (c *talk) withinBudget() (most int) {
	c.tb.Helper()
	for g := range c.mem.GPUs() {
		for i, from := range c.spent[g] {
			sum := 0
			for _, p := range c.spent[g][i:] {
				if p.boot < from.boot+1000 {
					sum += p.calls
				}
			}
			if most = max(most, sum); sum > maxCalls {
				c.tb.Errorf("GPU %d: %d calls in the second from %d ms on", g, sum, from.boot)
			}
		}
	}
	for g := range c.mem.GPUs() {
		if n := c.mem.MostInFlight(g); n > 1 {
			c.tb.Errorf("GPU %d: %d calls at once", g, n)
		}
	}
	return most
}

func (c *talk) faulty(list ...nvmlstub.Fault) {
	c.tb.Helper()
	if err := c.mem.SetFaults(list...); err != nil {
		c.tb.Fatal(err)
	}
}

func (c *talk) close() {
	c.send(&frame.Request{Type: frame.TypeStop})
	go func() { _, _ = io.Copy(io.Discard, c.out) }() // ends with the pipe, below
	err := <-c.serve
	_ = c.out.Close()
	if err != nil {
		c.tb.Errorf("Serve: %v", err)
	}
	_ = c.mem.Close()
}

// Readings, spacing of samples, calls that fail, counts that cannot be.
func TestServe(t *testing.T) {
	c := newTalk(t, training())
	defer c.close()
	c.ask(frame.Request{Type: frame.TypeDescribe, Sample: 0xff})
	if len(c.readings) != 8 || len(c.faults) != 0 || len(c.devices) != 8 {
		t.Fatalf("%d readings, %d devices, faults %v", len(c.readings), len(c.devices), c.faults)
	}
	for range 10 {
		c.ask(frame.Request{Sample: 1})
	}
	if r := c.readings[0]; !r.Has(frame.TensorE4) || !r.Has(frame.NVDecE4) || !r.Has(frame.GREngineE4) || r.Has(frame.NVEncE4) || r.Calls != 9 || r.GI != frame.WholeGPU || !r.Has(frame.MMACycles) {
		t.Errorf("reading: %+v", r)
	}
	if d := c.done[0]; d.Calls != 9 || d.Slow == frame.NoCall || d.SlowUs > d.TookUs {
		t.Errorf("done: %+v", d)
	}
	// Less than 100 ms by the requests' clock: no new sample.
	c.askAfter(60*time.Millisecond, frame.Request{Burst: 1, BurstGPM: 1})
	if r := c.readings[0]; r.Has(frame.TensorE4) || !r.Has(frame.PowerMW) || r.Calls != 1 {
		t.Errorf("reading after 60 ms: %+v", r)
	}
	// A gap that is too long gives no average, and the next second does again.
	c.boot += 10 * 60_000
	if c.ask(frame.Request{Sample: 1}); c.readings[0].Has(frame.TensorE4) {
		t.Error("an average over ten minutes")
	}
	if c.ask(frame.Request{Sample: 1}); !c.readings[0].Has(frame.TensorE4) {
		t.Error("no average after a gap")
	}
	// Implausible values: memory in use beyond what there is cannot be made with the stub; a
	// power field that fails falls back to the call.
	c.faulty(nvmlstub.Fault{Function: "nvmlDeviceGetFieldValues", Code: nvmlstub.CodeUnknown})
	c.ask(frame.Request{Sample: 2})
	if r := c.readings[0]; !r.Has(frame.PowerMW) || !r.Has(frame.EnergyMJ) || len(c.faults) == 0 || c.faults[0].Code != nvmlstub.CodeUnknown {
		t.Errorf("reading: %+v, faults %+v", r, c.faults)
	}
	// A list whose size grows and grows: the binding stumbles, the worker does not.
	c.faulty(nvmlstub.Fault{Function: "nvmlDeviceGetComputeRunningProcesses*", Code: int32(nvml.ERROR_INSUFFICIENT_SIZE), Count: 20})
	if c.ask(frame.Request{Sample: 4, Processes: 4}); len(c.readings) != 1 {
		t.Errorf("%d readings", len(c.readings))
	}
	c.faulty()
	if c.ask(frame.Request{Sample: 0xff, Processes: 0xff}); len(c.readings) != 8 || len(c.faults) != 0 {
		t.Errorf("afterwards: %d readings, faults %v", len(c.readings), c.faults)
	}
}

func TestServeRefusesAnotherProtocol(t *testing.T) {
	var out bytes.Buffer
	in := bytes.NewReader(frame.AppendRequest(nil, &frame.Request{Type: frame.TypeHello, Version: frame.Version + 1}))
	if err := Serve(t.Context(), in, &out, Config{}); err == nil || !strings.Contains(err.Error(), "protocol") {
		t.Errorf("Serve: %v", err)
	}
	out.Reset()
	if err := Serve(t.Context(), strings.NewReader("this is no frame"), &out, Config{}); !errors.Is(err, frame.ErrCorrupt) {
		t.Errorf("Serve: %v", err)
	}
	if err := Serve(t.Context(), strings.NewReader(""), &out, Config{}); err != nil || out.Len() != 0 {
		t.Errorf("Serve of an agent that has gone: %v, %d bytes", err, out.Len())
	}
}

// A pass over eight GPUs, with its way through the pipes.
func BenchmarkPass(b *testing.B) {
	c := newTalk(b, training())
	defer c.close()
	for range 12 {
		c.ask(frame.Request{Sample: 0xff})
	}
	b.ReportAllocs()
	for b.Loop() {
		if c.ask(frame.Request{Sample: 0xff}); len(c.readings) != 8 {
			b.Fatal("a reading is missing")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/8, "ns/GPU")
}
