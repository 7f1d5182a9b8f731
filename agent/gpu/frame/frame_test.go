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
	r := &frame.Reading{GPU: 7, Seq: 1 << 40, ElapsedUs: 1234, TookUs: 900, Calls: 9}
	for m := range frame.NumMetrics {
		if m != frame.TempC {
			r.Set(m, int64(m)*1_000_003)
		}
	}
	r.FromGPM = 1<<frame.TensorE4 | 1<<frame.NVLinkTxBps
	return r
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
		LibraryPath: "/usr/lib/libnvidia-ml.so.1", GPUs: 8, GPM: true, Missing: []string{"nvmlA", "nvmlB"}}
	device := frame.Device{Index: 3, UUID: "GPU-1", Name: "NVIDIA H100", PCIBusID: "00000000:1B:00.0", DriverVersion: "570.1", VBIOSVersion: "96.0",
		MemTotalBytes: 80 << 30, PowerLimitMW: 700_000, SMClockMaxMHz: 1980, MIGMode: -1, NVLinks: 18, GPM: true, Capabilities: []string{"clocks", "gpm"}}
	processes := frame.Processes{GPU: 2, Seq: 5, Known: true, List: []frame.Process{{PID: 4711, UsedBytes: 1 << 30}, {PID: math.MaxInt32, UsedBytes: -1}}}
	fault := frame.Fault{GPU: -1, Seq: 9, Function: "nvmlInit_v2", Code: 18, Text: "driver and library differ", Lost: true, Ending: true}
	done := frame.Done{GPU: 1, Seq: 3, TookUs: 17, Calls: 4}
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
	for _, q := range []frame.Request{
		{Type: frame.TypeHello, Version: 1},
		{Type: frame.TypeDescribe, Seq: 2, BootMs: 99, Sample: 0xff},
		{Type: frame.TypeSample, Seq: math.MaxUint64, BootMs: 1 << 50, Sample: math.MaxUint64, Processes: 3},
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
	huge := []byte{0xff, 0xff, 0xff, 0xff, 18, 0, 0, 0, 0}
	if _, _, err := frame.NewReader(bytes.NewReader(huge)).Next(); !errors.Is(err, frame.ErrCorrupt) {
		t.Errorf("a frame of 4 GiB: %v", err)
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
	)
	for i := range list.List {
		list.List[i].PID = int32(i + 1)
	}
	n := testing.AllocsPerRun(100, func() {
		buf = frame.AppendReading(buf[:0], src)
		buf = frame.AppendProcesses(buf, &list)
		buf = frame.AppendDone(buf, &frame.Done{GPU: 1, Seq: 2})
		in.Reset(buf)
		for range 3 {
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
