package frame_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

func reading() *frame.Reading {
	r := &frame.Reading{GPU: 7, GI: frame.WholeGPU, Seq: 1 << 40, ElapsedUs: 1234, TookUs: 900, Calls: 9}
	for m := range frame.NumMetrics {
		if m != frame.TempC {
			r.Set(m, int64(m)*1_000_003)
		}
	}
	r.FromGPM = 1<<frame.TensorE4 | 1<<frame.NVLinkTxBps
	return r
}

func health() *frame.Health {
	h := &frame.Health{GPU: 6, Seq: 12, ElapsedUs: 99, TookUs: 1 << 33, Calls: 5}
	for v := range frame.NumVitals {
		if v != frame.FanE4 {
			h.Set(v, int64(v)<<40)
		}
	}
	return h
}

// one is one message of a type: how it is put into a frame, and how it is taken out.
type one struct {
	name   string
	typ    frame.Type
	frame  []byte
	want   any
	decode func(body []byte) (any, error)
}

func all() []one {
	welcome := frame.Welcome{Version: frame.Version, Code: 12, Text: "no such library", DriverVersion: "570.1", NVMLVersion: "13.570.1",
		LibraryPath: "/usr/lib/libnvidia-ml.so.1", GPUs: 8, GPM: true, Missing: []string{"nvmlA", "nvmlB"},
		Facts: []frame.Fact{{Name: "cc_state", Value: "off"}, {Name: "library_inode", Value: "4711"}}}
	device := frame.Device{Index: 3, UUID: "GPU-1", Name: "NVIDIA H100", PCIBusID: "00000000:1B:00.0", DriverVersion: "570.1", VBIOSVersion: "96.0",
		MemTotalBytes: 80 << 30, PowerLimitMW: 700_000, SMClockMaxMHz: 1980, MIGMode: -1, NVLinks: 18, GPM: true, Capabilities: []string{"clocks", "gpm"},
		Serial: "1650", BoardPart: "692-2G", Architecture: "hopper", ComputeCapability: "9.0", SMs: 132, FabricClusterUUID: "c0ffee", FabricClique: 1 << 33,
		CCMode: "devtools", ECCMode: 1, PCIeGenMax: 5, PCIeWidthMax: 16, ModuleID: -1, Minor: 3, GSPVersion: "580.1", Whole: true}
	processes := frame.Processes{GPU: 2, Seq: 5, Known: true, List: []frame.Process{{PID: 4711, UsedBytes: 1 << 30}, {PID: math.MaxInt32, UsedBytes: -1, Instance: "MIG-1"}}, Why: "no permission"}
	fault := frame.Fault{GPU: -1, Seq: 9, Function: "nvmlInit_v2", Code: 18, Text: "driver and library differ", Lost: true, Ending: true}
	done := frame.Done{GPU: 1, Seq: 3, TookUs: 17, Calls: 4, Slow: frame.ClassProcesses, SlowUs: 12}
	instances := frame.Instances{GPU: 5, Seq: 1, List: []frame.Instance{
		{GI: 13, CI: 0, UUID: "MIG-1", Profile: "1g.10gb", SMs: 16, Slices: 1, MemTotalBytes: 10 << 30, MemUsedBytes: 5}, {GI: 7, CI: -1, SMs: -1, Slices: -1, MemTotalBytes: -1, MemUsedBytes: -1},
	}}
	event := frame.Event{GPU: -1, Kind: frame.EventRecovery, Code: 79, Count: 1000, GI: 3, CI: -1, AgoUs: 5}
	part := frame.Reading{GPU: 1, GI: 9, Present: 1 << frame.TensorE4}
	r := reading()
	var out []one
	add := func(name string, t frame.Type, b []byte, want any, decode func([]byte) (any, error)) {
		out = append(out, one{name, t, b, want, decode})
	}
	add("welcome", frame.TypeWelcome, frame.AppendWelcome(nil, &welcome), welcome, func(b []byte) (any, error) {
		var v frame.Welcome
		err := frame.DecodeWelcome(b, &v)
		return v, err
	})
	add("device", frame.TypeDevice, frame.AppendDevice(nil, &device), device, func(b []byte) (any, error) {
		var v frame.Device
		err := frame.DecodeDevice(b, &v)
		return v, err
	})
	add("reading", frame.TypeReading, frame.AppendReading(nil, r), *r, func(b []byte) (any, error) {
		var v frame.Reading
		err := frame.DecodeReading(b, &v)
		return v, err
	})
	add("processes", frame.TypeProcesses, frame.AppendProcesses(nil, &processes), processes, func(b []byte) (any, error) {
		var v frame.Processes
		err := frame.DecodeProcesses(b, &v)
		return v, err
	})
	add("fault", frame.TypeFault, frame.AppendFault(nil, &fault), fault, func(b []byte) (any, error) {
		var v frame.Fault
		err := frame.DecodeFault(b, &v)
		return v, err
	})
	add("done", frame.TypeDone, frame.AppendDone(nil, &done), done, func(b []byte) (any, error) {
		var v frame.Done
		err := frame.DecodeDone(b, &v)
		return v, err
	})
	add("reading of an instance", frame.TypeReading, frame.AppendReading(nil, &part), part, func(b []byte) (any, error) {
		var v frame.Reading
		err := frame.DecodeReading(b, &v)
		return v, err
	})
	add("health", frame.TypeHealth, frame.AppendHealth(nil, health()), *health(), func(b []byte) (any, error) {
		var v frame.Health
		err := frame.DecodeHealth(b, &v)
		return v, err
	})
	add("instances", frame.TypeInstances, frame.AppendInstances(nil, &instances), instances, func(b []byte) (any, error) {
		var v frame.Instances
		err := frame.DecodeInstances(b, &v)
		return v, err
	})
	add("event", frame.TypeEvent, frame.AppendEvent(nil, &event), event, func(b []byte) (any, error) {
		var v frame.Event
		err := frame.DecodeEvent(b, &v)
		return v, err
	})
	listening := frame.Listening{Able: true, Heard: 1<<63 | 5, Without: 2, Hangs: true, Function: "nvmlEventSetWait", Code: 999, Text: "unknown"}
	add("listening", frame.TypeListening, frame.AppendListening(nil, &listening), listening, func(b []byte) (any, error) {
		var v frame.Listening
		err := frame.DecodeListening(b, &v)
		return v, err
	})
	for _, q := range []frame.Request{
		{Type: frame.TypeHello, Version: 1},
		{Type: frame.TypeDescribe, Seq: 2, BootMs: 99, Sample: 0xff},
		{Type: frame.TypeSample, Seq: math.MaxUint64, BootMs: 1 << 50, Sample: math.MaxUint64, Processes: 3},
		{Type: frame.TypeSample, Seq: 7, BootMs: 1, Health: 1 << 63, Burst: 0xf, BurstGPM: 0xc, Events: true},
		{Type: frame.TypeStop},
	} {
		add("request", q.Type, frame.AppendRequest(nil, &q), q, func(b []byte) (any, error) {
			var v frame.Request
			err := frame.DecodeRequest(q.Type, b, &v)
			return v, err
		})
	}
	return out
}

func TestEveryMessageComesBack(t *testing.T) {
	var stream bytes.Buffer
	for _, m := range all() {
		stream.Write(m.frame)
	}
	r := frame.NewReader(&stream)
	for _, m := range all() {
		typ, body, err := r.Next()
		if err != nil || typ != m.typ {
			t.Fatalf("%s: read type %d, %v", m.name, typ, err)
		}
		if got, err := m.decode(body); err != nil || !reflect.DeepEqual(got, m.want) {
			t.Errorf("%s: got %+v, %v, want %+v", m.name, got, err, m.want)
		}
	}
	if _, _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last frame: %v, want EOF", err)
	}
}

// A body that ends early, or goes on too long, is refused, and so is a flipped bit anywhere.
func TestNoShortReadNoFlippedBit(t *testing.T) {
	for _, m := range all() {
		_, body, err := frame.NewReader(bytes.NewReader(m.frame)).Next()
		if err != nil {
			t.Fatal(err)
		}
		for n := range body {
			if _, err := m.decode(body[:n]); !errors.Is(err, frame.ErrCorrupt) {
				t.Errorf("%s: the first %d of %d bytes decode: %v", m.name, n, len(body), err)
			}
		}
		if _, err := m.decode(append(bytes.Clone(body), 0)); !errors.Is(err, frame.ErrCorrupt) {
			t.Errorf("%s: a byte too many decodes: %v", m.name, err)
		}
		for n := range m.frame {
			if _, _, err := frame.NewReader(bytes.NewReader(m.frame[:n])).Next(); err == nil {
				t.Errorf("%s: a frame of %d of %d bytes is read", m.name, n, len(m.frame))
			}
			flipped := bytes.Clone(m.frame)
			flipped[n] ^= 0x10
			if _, _, err := frame.NewReader(bytes.NewReader(flipped)).Next(); err == nil {
				t.Errorf("%s: byte %d flipped, and nobody saw it", m.name, n)
			}
		}
	}
}

func TestStringsAreMadeFit(t *testing.T) {
	for in, want := range map[string]string{
		"NVIDIA H100 80GB HBM3": "NVIDIA H100 80GB HBM3",
		"a\x00b\nc\x7f":         "a?b?c?",
		"\xff\xfe":              "\ufffd\ufffd",
		"GPU-é":                 "GPU-é",
	} {
		if got := frame.Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
	long := frame.Clean(strings.Repeat("é", 500))
	if len(long) > frame.MaxText || frame.Clean(long) != long {
		t.Errorf("a long string became %d bytes", len(long))
	}
}

func TestOutOfBounds(t *testing.T) {
	r := reading()
	r.GPU = frame.MaxGPUs
	_, body, err := frame.NewReader(bytes.NewReader(frame.AppendReading(nil, r))).Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := frame.DecodeReading(body, new(frame.Reading)); !errors.Is(err, frame.ErrCorrupt) {
		t.Errorf("GPU %d: %v", r.GPU, err)
	}
	body = append([]byte{}, 1, byte(frame.NumEventKinds), 0, 2, 0, 0, 0) // as AppendEvent writes it
	if err := frame.DecodeEvent(body, new(frame.Event)); !errors.Is(err, frame.ErrCorrupt) {
		t.Errorf("a kind of event that there is not: %v", err)
	}
	body[1] = 0
	if err := frame.DecodeEvent(body, new(frame.Event)); err != nil {
		t.Errorf("an event: %v", err)
	}
	body[3] = 0 // came never
	if err := frame.DecodeEvent(body, new(frame.Event)); !errors.Is(err, frame.ErrCorrupt) {
		t.Errorf("an event that did not come: %v", err)
	}
	if err := frame.DecodeDone([]byte{0, 1, 0, 0, byte(frame.NumClasses), 0}, new(frame.Done)); !errors.Is(err, frame.ErrCorrupt) {
		t.Errorf("a class of calls that there is not: %v", err)
	}
	if err := frame.DecodeReading([]byte{0, 3, 0, 0, 0, 0, 0, 0}, new(frame.Reading)); !errors.Is(err, frame.ErrCorrupt) {
		t.Errorf("instance -2: %v", err)
	}
	lonely := frame.Request{Type: frame.TypeSample, Burst: 1, BurstGPM: 2}
	if err := frame.DecodeRequest(frame.TypeSample, frame.AppendRequest(nil, &lonely)[9:], new(frame.Request)); !errors.Is(err, frame.ErrCorrupt) {
		t.Errorf("GPM in a burst that does not concern the GPU: %v", err)
	}
	both := frame.Listening{Heard: 6, Without: 4}
	if err := frame.DecodeListening(frame.AppendListening(nil, &both)[9:], new(frame.Listening)); !errors.Is(err, frame.ErrCorrupt) {
		t.Errorf("a GPU that is heard and has no events: %v", err)
	}
	huge := []byte{0xff, 0xff, 0xff, 0xff, 18, 0, 0, 0, 0}
	if _, _, err := frame.NewReader(bytes.NewReader(huge)).Next(); !errors.Is(err, frame.ErrCorrupt) {
		t.Errorf("a frame of 4 GiB: %v", err)
	}
}

// The longest list that can be written can be read.
func TestLongestLists(t *testing.T) {
	p := frame.Processes{List: make([]frame.Process, 2*frame.MaxProcesses)}
	for i := range p.List {
		p.List[i] = frame.Process{PID: math.MaxInt32, UsedBytes: math.MaxInt64, Instance: strings.Repeat("x", frame.MaxInstanceID+i%2)}
	}
	_, body, err := frame.NewReader(bytes.NewReader(frame.AppendProcesses(nil, &p))).Next()
	var back frame.Processes
	if err == nil {
		err = frame.DecodeProcesses(body, &back)
	}
	if err != nil || len(back.List) != frame.MaxProcesses || back.List[0].Instance == "" || back.List[1].Instance != "" {
		t.Errorf("%d processes, %v", len(back.List), err)
	}
	q := frame.Instances{List: make([]frame.Instance, 2*frame.MaxInstances)}
	_, body, err = frame.NewReader(bytes.NewReader(frame.AppendInstances(nil, &q))).Next()
	var parts frame.Instances
	if err == nil {
		err = frame.DecodeInstances(body, &parts)
	}
	if err != nil || len(parts.List) != frame.MaxInstances {
		t.Errorf("%d instances, %v", len(parts.List), err)
	}
}

// Another version's Welcome is understood as far as its version, whatever comes behind.
func TestAnotherVersion(t *testing.T) {
	w := frame.Welcome{Version: frame.Version - 1, Text: "protocol"}
	body := frame.AppendWelcome(nil, &w)[9:]
	body = append(body, 0xff, 0xff)
	var back frame.Welcome
	if err := frame.DecodeWelcome(body, &back); err != nil || back.Version != w.Version || back.Text != "" {
		t.Errorf("%+v, %v", back, err)
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for k := range frame.NumEventKinds {
		seen[k.String()] = true
	}
	if len(seen) != int(frame.NumEventKinds) || seen[""] || frame.NumEventKinds.String() != "unknown" {
		t.Errorf("kinds of events: %v", seen)
	}
	clear(seen)
	for c := range frame.NumClasses {
		seen[c.String()] = true
	}
	if len(seen) != int(frame.NumClasses) || seen[""] || frame.NumClasses.String() != "unknown" {
		t.Errorf("classes of calls: %v", seen)
	}
	if d := frame.Unknown(3); d.Index != 3 || d.SMs != -1 || d.UUID != "" || d.Whole {
		t.Errorf("an unknown device: %+v", d)
	}
}

func TestAllocationFree(t *testing.T) {
	var (
		buf  []byte
		in   bytes.Reader
		src  = reading()
		dst  frame.Reading
		list = frame.Processes{GPU: 1, Known: true, List: make([]frame.Process, 8)}
		back frame.Processes
		rd   = frame.NewReader(&in)
		well = health()
		also frame.Health
		part = frame.Instances{List: []frame.Instance{{UUID: "MIG-1", Profile: "1g.10gb"}, {UUID: "MIG-2", Profile: "2g.20gb"}}}
		them frame.Instances
	)
	for i := range list.List {
		list.List[i] = frame.Process{PID: int32(i + 1), Instance: "MIG-1"}
	}
	n := testing.AllocsPerRun(100, func() {
		buf = frame.AppendReading(buf[:0], src)
		buf = frame.AppendProcesses(buf, &list)
		buf = frame.AppendDone(buf, &frame.Done{GPU: 1, Seq: 2})
		buf = frame.AppendHealth(buf, well)
		buf = frame.AppendInstances(buf, &part)
		buf = frame.AppendEvent(buf, &frame.Event{GPU: 1, Count: 1})
		in.Reset(buf)
		for range 6 {
			typ, body, err := rd.Next()
			if err != nil {
				t.Fatal(err)
			}
			switch typ {
			case frame.TypeReading:
				err = frame.DecodeReading(body, &dst)
			case frame.TypeProcesses:
				err = frame.DecodeProcesses(body, &back)
			case frame.TypeDone:
				var d frame.Done
				err = frame.DecodeDone(body, &d)
			case frame.TypeHealth:
				err = frame.DecodeHealth(body, &also)
			case frame.TypeInstances:
				err = frame.DecodeInstances(body, &them)
			case frame.TypeEvent:
				var e frame.Event
				err = frame.DecodeEvent(body, &e)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	if n != 0 {
		t.Errorf("%v allocations a round", n)
	}
}

// Whatever bytes come, decoders do not panic, and what they accept survives a round trip.
func FuzzDecode(f *testing.F) {
	for _, m := range all() {
		f.Add(byte(m.typ), m.frame[9:])
	}
	f.Fuzz(func(t *testing.T, typ byte, body []byte) {
		decode := func(body []byte) (any, []byte, error) {
			switch frame.Type(typ) {
			case frame.TypeWelcome:
				var v frame.Welcome
				err := frame.DecodeWelcome(body, &v)
				return v, frame.AppendWelcome(nil, &v), err
			case frame.TypeDevice:
				var v frame.Device
				err := frame.DecodeDevice(body, &v)
				return v, frame.AppendDevice(nil, &v), err
			case frame.TypeReading:
				var v frame.Reading
				err := frame.DecodeReading(body, &v)
				return v, frame.AppendReading(nil, &v), err
			case frame.TypeProcesses:
				var v frame.Processes
				err := frame.DecodeProcesses(body, &v)
				return v, frame.AppendProcesses(nil, &v), err
			case frame.TypeFault:
				var v frame.Fault
				err := frame.DecodeFault(body, &v)
				return v, frame.AppendFault(nil, &v), err
			case frame.TypeDone:
				var v frame.Done
				err := frame.DecodeDone(body, &v)
				return v, frame.AppendDone(nil, &v), err
			case frame.TypeHealth:
				var v frame.Health
				err := frame.DecodeHealth(body, &v)
				return v, frame.AppendHealth(nil, &v), err
			case frame.TypeInstances:
				var v frame.Instances
				err := frame.DecodeInstances(body, &v)
				return v, frame.AppendInstances(nil, &v), err
			case frame.TypeEvent:
				var v frame.Event
				err := frame.DecodeEvent(body, &v)
				return v, frame.AppendEvent(nil, &v), err
			case frame.TypeListening:
				var v frame.Listening
				err := frame.DecodeListening(body, &v)
				return v, frame.AppendListening(nil, &v), err
			default:
				var v frame.Request
				err := frame.DecodeRequest(frame.Type(typ), body, &v)
				return v, frame.AppendRequest(nil, &v), err
			}
		}
		v, again, err := decode(body)
		if err != nil {
			return
		}
		_, body, err = frame.NewReader(bytes.NewReader(again)).Next()
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if w, _, err := decode(body); err != nil || !reflect.DeepEqual(v, w) {
			t.Fatalf("%+v came back as %+v, %v", v, w, err)
		}
	})
}

// Any stream of bytes is read without a panic and without much memory.
func FuzzReader(f *testing.F) {
	for _, m := range all() {
		f.Add(m.frame)
	}
	f.Fuzz(func(_ *testing.T, stream []byte) {
		r := frame.NewReader(bytes.NewReader(stream))
		for {
			if _, _, err := r.Next(); err != nil {
				return
			}
		}
	})
}

func BenchmarkReading(b *testing.B) {
	src, buf := reading(), []byte(nil)
	var (
		dst frame.Reading
		in  bytes.Reader
	)
	rd := frame.NewReader(&in)
	b.ReportAllocs()
	for b.Loop() {
		buf = frame.AppendReading(buf[:0], src)
		in.Reset(buf)
		_, body, err := rd.Next()
		if err == nil {
			err = frame.DecodeReading(body, &dst)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buf)))
}
