package nccl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/kerneltest"
	"github.com/flopwatch/flopwatch/agent/kernel/probe"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv/race"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// space is memory that begins at an address.
type space struct {
	at uint64
	b  []byte
}

func (s space) ReadAt(b []byte, at int64) (int, error) {
	if uint64(at) < s.at || uint64(at)-s.at >= uint64(len(s.b)) {
		return 0, errors.New("no such address")
	}
	n := copy(b, s.b[uint64(at)-s.at:])
	if n < len(b) {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

// put writes the block of a communicator.
func put(b []byte, hash uint64, rank, nranks int32, bus uint64) {
	binary.LittleEndian.PutUint64(b, hash)
	for i, v := range []int32{rank, nranks, 0, 0, 90, 90, 90, 0} {
		binary.LittleEndian.PutUint32(b[8+4*i:], uint32(v))
	}
	binary.LittleEndian.PutUint64(b[atBus:], bus)
}

func TestReadCommunicator(t *testing.T) {
	const base = 0x7f0000001000
	buses := map[uint64]int{0x1b000: 0, 0x2b000: 1}
	want := expect{known: true, old: hashOld(id(1)), new: hashNew(id(1)), rank: 3, nranks: 8}
	fill := func(n int, at ...int) space {
		s := space{base, make([]byte, n)}
		binary.LittleEndian.PutUint64(s.b, commMagic)
		for i, a := range at {
			put(s.b[a:], want.new+uint64(i), 3, 8, 0x2b000)
		}
		return s
	}
	r := reader{left: 64 << 20}
	for _, c := range []struct {
		name  string
		mem   space
		want  expect
		buses map[uint64]int
		site  int64
		found int64
		exact bool
	}{
		{"by the hash of its id", fill(1<<20, 70_000), want, nil, unknownSite, 70_000, true},
		{"across pieces", fill(1<<20, pieceBytes-8), want, nil, unknownSite, pieceBytes - 8, true},
		{"by the device", fill(1<<20, 70_000), expect{}, buses, unknownSite, 70_000, false},
		{"the first of two", fill(1<<20, 70_000, 90_000), expect{}, buses, unknownSite, 70_000, false},
		{"by its mark alone", fill(1<<20, 70_000), expect{}, nil, unknownSite, 70_000, false},
		{"where another one had it", fill(1<<20, 70_000, 90_000), expect{}, buses, 90_000, 90_000, false},
		{"not where another one had it", fill(1<<20, 70_000), want, buses, 90_000, 70_000, true},
		{"at the end of memory", fill(70_048, 70_000), want, nil, unknownSite, 70_000, true},
		{"cut off by the end of memory", space{base, fill(70_048, 70_000).b[:70_040]}, want, nil, unknownSite, unknownSite, false},
		{"none", fill(1 << 20), expect{}, buses, unknownSite, unknownSite, false},
		{"too far", fill(2<<20, 1<<20+4096), want, buses, unknownSite, unknownSite, false},
		{"another one's", fill(1<<20, 70_000), expect{known: true, old: 1, new: 2, rank: 3, nranks: 8}, buses, unknownSite, unknownSite, false},
		{"no such device here", fill(1<<20, 70_000), expect{}, map[uint64]int{1: 0}, unknownSite, unknownSite, false},
	} {
		v, found, exact, ok := r.comm(c.mem, base, c.site, c.want, c.buses)
		if found != c.found || exact != c.exact || ok != (c.found >= 0) {
			t.Errorf("%s: found at %d (%v, exact %v), want %d (exact %v)", c.name, found, ok, exact, c.found, c.exact)
		}
		if ok && (v.rank != 3 || v.nranks != 8 || v.bus != 0x2b000) {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
	for _, at := range []uint64{0, 1 << 47, ^uint64(0)} {
		if _, _, _, ok := r.comm(fill(1<<20, 70_000), at, 0, want, buses); ok {
			t.Errorf("a communicator at %#x", at)
		}
	}
}

func TestBusNumber(t *testing.T) {
	for in, want := range map[string]uint64{"0000:1b:00.0": 0x1b000, "00000001:C3:00.1": 0x1c3001} {
		if got, ok := busNumber(in); !ok || got != want {
			t.Errorf("%s: %#x %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "x", "0000:1b:00.0000000000"} {
		if got, ok := busNumber(in); ok {
			t.Errorf("%q: %#x", in, got)
		}
	}
}

// TestLayout holds what is read of NCCL to what its sources of these versions say.
func TestLayout(t *testing.T) {
	if got := hashOld([]byte("a\x80")); got != (5381*33^'a')*33^0xffffffffffffff80 {
		t.Errorf("old hash: %#x", got)
	}
	if hashNew(id(1)) == hashNew(id(2)) || hashNew(nil) == 0 {
		t.Error("new hash")
	}
	if len(dtypes) != 12 {
		t.Errorf("%d types", len(dtypes))
	}
	seen := map[uint8]bool{}
	for _, f := range functions {
		if seen[f.code] || f.cookie() == 0 || f.cookie()&0xff != uint64(f.code) {
			t.Errorf("%+v", f)
		}
		seen[f.code] = true
		if _, _, ok := op(f.code); ok != (f.program == "coll") {
			t.Errorf("%s counts: %v", f.name, ok)
		}
	}
}

func FuzzEvent(f *testing.F) {
	f.Add(make([]byte, eventBytes))
	b := make([]byte, eventBytes)
	b[0], b[4], b[32] = eventInit, 1, 1
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var e event
		if parseEvent(b, &e) == nil && (e.tgid <= 0 || e.kind == eventInit && (e.rank < 0 || e.rank >= e.nranks)) {
			t.Fatalf("%+v", e)
		}
		if m, ok := parseMapping(b); ok && (m.tgid <= 0 || m.start >= m.end) {
			t.Fatalf("%+v", m)
		}
	})
}

func FuzzMemory(f *testing.F) {
	b := make([]byte, 256)
	put(b[64:], 1, 0, 2, 0x1b000)
	f.Add(b, uint64(0x1000), int64(64))
	f.Fuzz(func(t *testing.T, b []byte, at uint64, site int64) {
		r := reader{left: scanBytes}
		v, found, _, ok := r.comm(space{at, b}, at, site, expect{}, map[uint64]int{0x1b000: 0})
		if ok && (v.rank < 0 || v.rank >= v.nranks || found < 0 || found+blockBytes > int64(len(b))) {
			t.Fatalf("%+v at %d of %d bytes", v, found, len(b))
		}
	})
}

func FuzzProcfs(f *testing.F) {
	f.Add([]byte("7f00-7f10 r-xp 00000000 fe:00 12 /usr/lib/libnccl.so.2 (deleted)\n7f10-7f20 rw-p 0 0:0 0 \n"))
	f.Add([]byte("12 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 1 18 19 20"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = parseAreas(bytes.NewReader(b), func(a area) {
			if !strings.HasPrefix(a.path, "/") || strings.ContainsAny(a.span, "/.") {
				t.Fatalf("%+v", a)
			}
		})
		_, _ = parseStart(b)
	})
}

// none takes no rows.
type none struct{}

func (none) Status(source.Status)                                                         {}
func (none) Row(wire.Kind, wire.Source, string, func(*wire.Builder), func(*wire.Builder)) {}

const memoryVar = "FLOPWATCH_NCCL_MEMORY"

// TestMemory measures, in a process of its own, what the instrument adds to the agent. The
// kernel's types are larger than all of the agent: they must not stay.
func TestMemory(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector has memory of its own")
	}
	if os.Getenv(memoryVar) == "" {
		kerneltest.Require(t, probe.UprobeMulti, probe.IterVMA, probe.Ringbuf)
		for _, how := range []string{"warm", "measure"} { // the first reads the test binary's pages in
			again(t, memoryVar+"="+how, "-test.run=^TestMemory$")
		}
		return
	}
	dir := t.TempDir()
	stub(t, dir)
	d := run(t, dir, nil)
	d.do("init 0 2 1 5")
	debug.FreeOSMemory()
	before, anon := rss(t, "VmRSS:"), rss(t, "RssAnon:")
	f := New(Config{})
	f.only = ours
	s := kernel.New(kernel.Config{}, kernel.Env{Processes: &lists{}}, f)
	boot := bootNow(t)
	deadline := time.After(testPatience)
	for n := int64(0); n < 40 || s.Stats()[0].Samples < 5; n++ {
		if err := s.Sample(t.Context(), source.Tick{WallMs: time.Now().UnixMilli(), BootMs: boot + 1000*n}, none{}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-deadline:
			t.Fatalf("no samples: %+v", s.Stats())
		case <-time.After(20 * time.Millisecond):
		}
	}
	d.do("coll allreduce 0 1000 7 1000")
	st := s.Stats()[0]
	if st.Report.State != source.Active || st.Load.Processes != 1 {
		t.Errorf("stats: %+v", st)
	}
	debug.FreeOSMemory() // what stays is meant, not how far the collector has come
	grown := rss(t, "VmRSS:") - before
	t.Logf("resident memory grew by %d KiB, of %d; anonymous by %d KiB; the most was %d more", grown, before, rss(t, "RssAnon:")-anon, rss(t, "VmHWM:")-before)
	if grown > 4096 && os.Getenv(memoryVar) == "measure" {
		t.Errorf("more than 4 MiB")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// rss is a kind of the process's resident memory in KiB.
func rss(t *testing.T, kind string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, kind); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no " + kind)
	return 0
}

// TestForgedDevice: a process's memory cannot put its calls on a GPU that it is not on.
func TestForgedDevice(t *testing.T) {
	f := New(Config{})
	f.buses = map[uint64]int{0x1b000: 0, 0x2b000: 1}
	p := &process{pid: 7}
	for _, c := range []struct {
		name string
		gpus map[int32][]int
		bus  uint64
		want int
	}{
		{"nothing is listed", nil, 0x2b000, 1},
		{"the driver lists nobody", map[int32][]int{}, 0x2b000, 1},
		{"on it", map[int32][]int{7: {0, 1}}, 0x2b000, 1},
		{"on another", map[int32][]int{7: {0}, 8: {1}}, 0x2b000, 0},
		{"on several others", map[int32][]int{7: {0, 2}}, 0x2b000, -1},
		{"on none", map[int32][]int{8: {1}}, 0x2b000, -1},
		{"no such device", map[int32][]int{7: {0}}, 0x3b000, 0},
	} {
		f.gpus = c.gpus
		if got := f.gpu(p, &comm{bus: c.bus}); got != c.want {
			t.Errorf("%s: GPU %d, want %d", c.name, got, c.want)
		}
	}
}
