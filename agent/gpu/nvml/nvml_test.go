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
	used := regexp.MustCompile(`(?:\bapi|\bhandle|\bh|\bd)\.((?:Get|Gpm|Device|System|Init|Shutdown)\w*)\(`)
	known := map[string]call{
		"Init": callInit, "Shutdown": callShutdown, "SystemGetDriverVersion": callDriverVersion, "SystemGetNVMLVersion": callNVMLVersion,
		"DeviceGetCount": callCount, "DeviceGetHandleByIndex": callHandle, "GetUUID": callUUID, "GetName": callName, "GetPciInfo": callPCI,
		"GetVbiosVersion": callVBIOS, "GetPowerManagementDefaultLimit": callPowerLimit, "GetMaxClockInfo": callMaxClock, "GetMigMode": callMIG,
		"GetUtilizationRates": callUtilization, "GetMemoryInfo_v2": callMemoryV2, "GetMemoryInfo": callMemory, "GetClockInfo": callClock,
		"GetTemperature": callTemperature, "GetTemperatureV": callTemperatureV, "GetCurrentClocksEventReasons": callEventReasons,
		"GetCurrentClocksThrottleReasons": callThrottleReasons, "GetFieldValues": callFields, "GetPowerUsage": callPower,
		"GetTotalEnergyConsumption": callEnergy, "GpmQueryDeviceSupport": callGPMSupport, "GpmSampleAlloc": callGPMAlloc, "GpmSampleFree": callGPMFree,
		"GpmSampleGet": callGPMSample, "GpmMetricsGet": callGPMMetrics, "GetComputeRunningProcesses": callProcesses, "GetMPSComputeRunningProcesses": callMPS,
	}
	if len(known) != int(numCalls) {
		t.Errorf("%d functions of the binding for %d calls", len(known), numCalls)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range used.FindAllStringSubmatch(string(text), -1) {
			found++
			if _, ok := known[m[1]]; !ok {
				t.Errorf("%s calls %s, which nobody looks up", file, m[1])
			}
		}
	}
	if found < int(numCalls) {
		t.Errorf("%d calls found only", found)
	}
	for c, names := range symbols {
		for _, s := range names {
			if !strings.HasPrefix(s, "nvml") || strings.Contains(s, "Set") {
				t.Errorf("call %d: symbol %s", c, s)
			}
		}
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
	w := &worker{lib: &library{}}
	w.reset()
	w.device.MemTotalBytes = 80 << 30
	w.take([]nvml.ProcessInfo{
		{Pid: 0, UsedGpuMemory: 1}, {Pid: math.MaxUint32, UsedGpuMemory: 1}, {Pid: 7, UsedGpuMemory: math.MaxUint64},
		{Pid: 8, UsedGpuMemory: 81 << 30}, {Pid: 9, UsedGpuMemory: 5}, {Pid: 9, UsedGpuMemory: 6},
	})
	want := []frame.Process{{PID: 7, UsedBytes: -1}, {PID: 8, UsedBytes: -1}, {PID: 9, UsedBytes: 6}}
	if !slices.Equal(w.list.List, want) {
		t.Errorf("got %v, want %v", w.list.List, want)
	}
	many := make([]nvml.ProcessInfo, 3*frame.MaxProcesses)
	for i := range many {
		many[i].Pid = uint32(i + 100)
	}
	if w.take(many); len(w.list.List) != frame.MaxProcesses {
		t.Errorf("%d processes, at most %d", len(w.list.List), frame.MaxProcesses)
	}
}

// stub is the library that this process loads: the first that is loaded stays.
var stub struct {
	once     sync.Once
	dir, lib string
	err      error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if stub.dir != "" {
		_ = os.RemoveAll(stub.dir)
	}
	os.Exit(code)
}

// talk is a Serve on the stub, in this process: one library a process, so one scenario for all.
type talk struct {
	tb   testing.TB
	mem  *nvmlstub.Memory
	in   *io.PipeWriter
	r    *frame.Reader
	out  *io.PipeReader
	done chan error
	seq  uint64
	boot int64
}

func newTalk(tb testing.TB) *talk {
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
	s := nvmlstub.H100x8Training(0, time.Hour)
	s.Manual = true
	mem, err := nvmlstub.Create(filepath.Join(dir, nvmlstub.Shared), s)
	if err != nil {
		tb.Fatal(err)
	}
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	c := &talk{tb: tb, mem: mem, in: inW, r: frame.NewReader(outR), out: outR, done: make(chan error, 1), boot: 1000}
	go func() { c.done <- Serve(context.WithoutCancel(tb.Context()), inR, outW, Config{Library: lib}) }()
	c.send(&frame.Request{Type: frame.TypeHello, Version: frame.Version})
	typ, body, err := c.r.Next()
	var w frame.Welcome
	if err == nil {
		err = frame.DecodeWelcome(body, &w)
	}
	if err != nil || typ != frame.TypeWelcome || w.Code != 0 || w.GPUs != 8 || !w.GPM || w.LibraryPath != lib {
		tb.Fatalf("welcome: %+v, %v", w, err)
	}
	return c
}

func (c *talk) send(q *frame.Request) {
	if _, err := c.in.Write(frame.AppendRequest(nil, q)); err != nil {
		c.tb.Fatal(err)
	}
}

// ask asks all of a mask and returns what came until every GPU was done.
func (c *talk) ask(q frame.Request) (readings []frame.Reading, faults []frame.Fault) {
	c.seq++
	c.boot += 1000
	q.Seq, q.BootMs = c.seq, c.boot
	if err := c.mem.SetNow(time.Duration(c.boot) * time.Millisecond); err != nil {
		c.tb.Fatal(err)
	}
	c.send(&q)
	for left := q.Sample | q.Processes; left != 0; {
		typ, body, err := c.r.Next()
		if err != nil {
			c.tb.Fatal(err)
		}
		switch typ {
		case frame.TypeReading:
			var r frame.Reading
			err = frame.DecodeReading(body, &r)
			readings = append(readings, r)
		case frame.TypeFault:
			var f frame.Fault
			err = frame.DecodeFault(body, &f)
			faults = append(faults, f)
		case frame.TypeDone:
			var d frame.Done
			err = frame.DecodeDone(body, &d)
			left &^= 1 << d.GPU
		}
		if err != nil {
			c.tb.Fatal(err)
		}
	}
	return readings, faults
}

func (c *talk) close() {
	c.send(&frame.Request{Type: frame.TypeStop})
	if err := <-c.done; err != nil {
		c.tb.Errorf("Serve: %v", err)
	}
	_ = c.mem.Close()
}

// One process can load one library, so this is one test: readings, spacing of samples, a busy
// GPU, counts that cannot be.
func TestServe(t *testing.T) {
	c := newTalk(t)
	defer c.close()
	readings, faults := c.ask(frame.Request{Type: frame.TypeDescribe, Sample: 0xff})
	if len(readings) != 8 || len(faults) != 0 {
		t.Fatalf("%d readings, faults %v", len(readings), faults)
	}
	readings, _ = c.ask(frame.Request{Type: frame.TypeSample, Sample: 1})
	if r := readings[0]; !r.Has(frame.TensorE4) || !r.Has(frame.NVDecE4) || r.Has(frame.NVEncE4) || r.Calls != 9 {
		t.Errorf("reading: %+v", r)
	}
	// Less than 100 ms by the requests' clock: no new sample.
	c.boot -= 950
	readings, _ = c.ask(frame.Request{Type: frame.TypeSample, Sample: 1})
	if r := readings[0]; r.Has(frame.TensorE4) || !r.Has(frame.PowerMW) || r.Calls != 7 {
		t.Errorf("reading after 50 ms: %+v", r)
	}
	// A gap that is too long gives no average, and the next second does again.
	c.boot += 10 * 60_000
	if readings, _ = c.ask(frame.Request{Type: frame.TypeSample, Sample: 1}); readings[0].Has(frame.TensorE4) {
		t.Error("an average over ten minutes")
	}
	if readings, _ = c.ask(frame.Request{Type: frame.TypeSample, Sample: 1}); !readings[0].Has(frame.TensorE4) {
		t.Error("no average after a gap")
	}
	// Unplausible values: memory in use beyond what there is cannot be made with the stub; a
	// power field that fails falls back to the call.
	if err := c.mem.SetFaults(nvmlstub.Fault{Function: "nvmlDeviceGetFieldValues", Code: nvmlstub.CodeUnknown}); err != nil {
		t.Fatal(err)
	}
	readings, faults = c.ask(frame.Request{Type: frame.TypeSample, Sample: 2})
	if r := readings[0]; !r.Has(frame.PowerMW) || !r.Has(frame.EnergyMJ) || len(faults) != 1 || faults[0].Code != nvmlstub.CodeUnknown {
		t.Errorf("reading: %+v, faults %+v", r, faults)
	}
	// A list whose size grows and grows: the binding stumbles, the worker does not.
	if err := c.mem.SetFaults(nvmlstub.Fault{Function: "nvmlDeviceGetComputeRunningProcesses*", Code: int32(nvml.ERROR_INSUFFICIENT_SIZE), Count: 20}); err != nil {
		t.Fatal(err)
	}
	if readings, _ = c.ask(frame.Request{Type: frame.TypeSample, Sample: 4, Processes: 4}); len(readings) != 1 {
		t.Errorf("%d readings", len(readings))
	}
	if err := c.mem.SetFaults(); err != nil {
		t.Fatal(err)
	}
	if readings, faults = c.ask(frame.Request{Type: frame.TypeSample, Sample: 0xff, Processes: 0xff}); len(readings) != 8 || len(faults) != 0 {
		t.Errorf("afterwards: %d readings, faults %v", len(readings), faults)
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
	c := newTalk(b)
	defer c.close()
	c.ask(frame.Request{Type: frame.TypeDescribe, Sample: 0xff})
	b.ReportAllocs()
	for b.Loop() {
		if readings, _ := c.ask(frame.Request{Type: frame.TypeSample, Sample: 0xff}); len(readings) != 8 {
			b.Fatal("a reading is missing")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/8, "ns/GPU")
}
