package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv/race"
	"github.com/flopwatch/flopwatch/internal/wire"
)

type sink struct {
	t      testing.TB
	b      *wire.Builder
	status map[string]source.Status
	told   int
}

func newSink(t testing.TB) *sink {
	return &sink{t: t, b: wire.NewBuilder(wire.KindHost, wire.SourceProcfs), status: map[string]source.Status{}}
}

func (s *sink) Row(kind wire.Kind, src wire.Source, group string, prepare, fill func(*wire.Builder)) {
	if kind != wire.KindHost || src != wire.SourceProcfs || group != "" || prepare != nil {
		s.t.Errorf("row of %v from %v in group %q", kind, src, group)
	}
	s.b.Begin()
	fill(s.b)
	if err := s.b.End(); err != nil {
		s.t.Error(err)
	}
}

func (s *sink) Status(st source.Status) { s.status[st.Instrument] = st; s.told++ }

// take returns the rows since the last call as "boot cpu tx rx", one a line.
func (s *sink) take() string {
	t := s.b.Build()
	var out strings.Builder
	for r := range t.Rows {
		for _, id := range []uint8{fieldBoot, fieldCPU, fieldStorageTx, fieldStorageRx} {
			if c := t.Column(id); c == nil || !c.Has(r) {
				out.WriteString("- ")
			} else {
				fmt.Fprint(&out, c.Int[r], " ")
			}
		}
		out.WriteByte('\n')
	}
	s.b.Reset()
	return out.String()
}

// fixture is a host whose files a test changes.
type fixture struct {
	t    testing.TB
	root string
	h    *Host
	s    *sink
	boot int64
}

func newFixture(t testing.TB, files map[string]string) *fixture {
	f := &fixture{t: t, root: t.TempDir(), s: newSink(t)}
	f.write(files)
	f.h = New(Config{Procfs: filepath.Join(f.root, "proc"), Sysfs: filepath.Join(f.root, "sys")})
	return f
}

func (f *fixture) write(files map[string]string) {
	f.t.Helper()
	for name, body := range files {
		path := filepath.Join(f.root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			f.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			f.t.Fatal(err)
		}
	}
}

// tick passes stepMs and returns the rows of one look.
func (f *fixture) tick(stepMs int64) string {
	f.t.Helper()
	f.boot += stepMs
	if err := f.h.Sample(f.t.Context(), source.Tick{WallMs: 1_700_000_000_000 + f.boot, BootMs: f.boot}, f.s); err != nil {
		f.t.Fatal(err)
	}
	return f.s.take()
}

func disk(name string, readSectors, writtenSectors int) string {
	return fmt.Sprintf("   8       0 %s 10 0 %d 5 20 0 %d 6 0 7 8 0 0 0 0 0 0\n", name, readSectors, writtenSectors)
}

const (
	stat1 = "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0 0 0\nintr 5\n"
	stat2 = "cpu  300 0 200 1400 100 50 50 100 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\nintr 6\n" // busy 200+100+100, rest 600+100+100
)

func TestRates(t *testing.T) {
	t.Parallel()
	f := newFixture(t, map[string]string{
		"proc/stat": stat1,
		"proc/diskstats": "   7       0 loop0 1 0 1000 0 0 0 0 0 0 0 0\n" + disk("sda", 1000, 2000) + disk("sda1", 1000, 2000) + disk("dm-0", 1000, 2000) +
			disk("nvme0n1", 500, 500) + disk("nvme0c0n1", 500, 500),
		"sys/block/sda/device/model": "x", "sys/block/loop0/size": "1", "sys/block/dm-0/size": "1", "sys/block/nvme0n1/device/model": "x",
		"sys/block/nvme0c0n1/device/model": "x", "sys/block/nvme0c0n1/hidden": "1\n",
		"proc/self/mountstats": mounts(1000, 2000),
	})
	if got := f.tick(1000); got != "" {
		t.Fatalf("the first look gave %q", got)
	}
	for range 4 {
		if got := f.tick(1000); got != "" {
			t.Fatalf("a row before it is due: %q", got)
		}
	}
	f.write(map[string]string{
		"proc/stat": stat2,
		"proc/diskstats": disk("sda", 1000+100, 2000+200) + disk("sda1", 9e6, 9e6) + disk("dm-0", 9e6, 9e6) + disk("loop0", 9e6, 9e6) +
			disk("nvme0n1", 500+100, 500) + disk("nvme0c0n1", 9e6, 9e6) + disk("sdb", 9e6, 9e6),
		"proc/self/mountstats": mounts(1000+5000, 2000+10_000),
	})
	// cpu: 400 of 1200. Written: 200 sectors and 10,000 octets of NFS in 5 s; read: 200 and 5,000.
	if got, want := f.tick(999), fmt.Sprintf("5999 3333 %d %d \n", int64(22484), int64(21484)); got != want {
		t.Errorf("got %q, want %q (4.999 s)", got, want)
	}
	for _, in := range []string{"host", "host/cpu", "host/storage", "host/clock"} {
		if st := f.s.status[in]; st.State != source.Active {
			t.Errorf("%s: %+v", in, st)
		}
	}
	if f.s.told != 4 {
		t.Errorf("%d statuses, want 4", f.s.told)
	}
}

// mounts is a server's export mounted twice, another one, and what is not NFS.
func mounts(read, written int) string {
	nfs := func(device, at string, r, w int) string {
		return fmt.Sprintf("device %s mounted on %s with fstype nfs4 statvers=1.1\n\topts:\trw,vers=4.2\n\tage:\t77\n\tbytes:\t9 9 9 9 %d %d 1 1\n\tRPC iostats version: 1.1\n", device, at, r, w)
	}
	return "device rootfs mounted on / with fstype rootfs\n" + nfs("srv:/data", "/data", read, written) + nfs("srv:/data", "/mnt/bound", read, written) +
		nfs("srv:/old", "/old", 7, 7) + "device tmpfs mounted on /run with fstype tmpfs\n\tbytes:\t1 1 1 1 9999999 9999999 1 1\n"
}

func TestBlindFileSystems(t *testing.T) {
	t.Parallel()
	f := newFixture(t, map[string]string{
		"proc/stat": stat1, "proc/diskstats": disk("sda", 1, 1), "sys/block/sda/device/model": "x",
		"proc/self/mountstats": "device a@tcp:/fs mounted on /scratch with fstype lustre\ndevice b mounted on /w with fstype wekafs\n",
	})
	f.tick(1000)
	st := f.s.status["host/storage"]
	if st.State != source.Degraded || !strings.HasSuffix(st.Reason, "mounted file systems of type lustre, wekafs") {
		t.Errorf("status: %+v", st)
	}
}

// What the host has mounted and the agent's sandbox or container does not show is no zero.
func TestMountsOfTheHostAlone(t *testing.T) {
	t.Parallel()
	mountinfo := func(lines ...string) string {
		return "22 27 0:21 / /proc rw,relatime - proc proc rw\n" + strings.Join(lines, "")
	}
	const (
		seen   = "40 27 0:40 / /data rw shared:9 - nfs4 srv:/data rw,vers=4.2\n"
		old    = "41 27 0:41 / /old rw shared:9 - nfs4 srv:/old rw,vers=4.2\n"
		home   = "42 27 0:42 / /home/a\\040b rw - nfs srv:/home\\040b rw,vers=3\n"
		lustre = "43 27 0:43 / /scratch rw master:1 - lustre a@tcp:/fs rw\n"
	)
	f := newFixture(t, map[string]string{
		"proc/stat": stat1, "proc/diskstats": disk("sda", 1, 1), "sys/block/sda/device/model": "x",
		"proc/self/mountstats": mounts(1, 2), "proc/1/mountinfo": mountinfo(seen, old),
	})
	f.tick(1000)
	if st := f.s.status["host/storage"]; st.State != source.Active {
		t.Errorf("all is seen: %+v", st)
	}
	f.write(map[string]string{"proc/1/mountinfo": mountinfo(seen, old, home, lustre, home) + "broken - \n - \n\n"})
	f.tick(60_000)
	st := f.s.status["host/storage"]
	if st.State != source.Degraded || !strings.HasSuffix(st.Reason, "mounted file systems of type lustre, nfs (of the host, where the agent does not see them)") {
		t.Errorf("NFS and Lustre of the host: %+v", st)
	}
	f.write(map[string]string{"proc/1/mountinfo": mountinfo(seen)})
	f.tick(60_000)
	if st := f.s.status["host/storage"]; st.State != source.Active {
		t.Errorf("unmounted: %+v", st)
	}
}

// Counters that fall, disks that go, and spans in which a file could not be read give no
// rate; the first span after them is right again.
func TestResets(t *testing.T) {
	t.Parallel()
	f := newFixture(t, map[string]string{"proc/stat": stat2, "proc/diskstats": disk("sda", 1000, 1000), "sys/block/sda/device/model": "x", "sys/block/sdb/device/model": "x"})
	f.tick(5000)
	f.write(map[string]string{"proc/stat": stat1, "proc/diskstats": disk("sda", 10, 10)})
	if got := f.tick(5000); got != "" {
		t.Errorf("after a reset: %q", got)
	}
	f.write(map[string]string{"proc/stat": stat2, "proc/diskstats": disk("sda", 20, 10) + disk("sdb", 9e6, 9e6)})
	if got := f.tick(5000); got != "15000 3333 0 1024 \n" {
		t.Errorf("after that: %q", got)
	}
	f.write(map[string]string{"proc/stat": "cpu  garbage\n", "proc/diskstats": "8 0 sda 1 2\n"})
	err := f.h.Sample(t.Context(), source.Tick{WallMs: 1_700_000_000_000 + 20_000, BootMs: 20_000}, f.s)
	if err == nil || !strings.Contains(err.Error(), "stat: its first line") || !strings.Contains(err.Error(), "diskstats: a line has no") {
		t.Errorf("error: %v", err)
	}
	if st := f.s.status["host/storage"]; st.State != source.Degraded {
		t.Errorf("status: %+v", st)
	}
	f.write(map[string]string{"proc/stat": stat1, "proc/diskstats": disk("sda", 9e6, 9e6)})
	if f.boot = 20_000; f.tick(5000) != "" {
		t.Error("a rate across a reading that failed")
	}
	f.write(map[string]string{"proc/stat": stat2, "proc/diskstats": disk("sda", 9e6, 9e6+5)})
	if got := f.tick(5000); got != "30000 3333 512 0 \n" {
		t.Errorf("after the files were mended: %q", got)
	}
	if err = os.Remove(filepath.Join(f.root, "proc/diskstats")); err != nil {
		t.Fatal(err)
	}
	f.write(map[string]string{"proc/stat": strings.Replace(stat2, "cpu  300", "cpu  1300", 1)})
	if got := f.tick(5000); got != "35000 10000 - - \n" {
		t.Errorf("without diskstats: %q", got)
	}
}

func TestClockStep(t *testing.T) {
	t.Parallel()
	f := newFixture(t, map[string]string{"proc/stat": stat1, "proc/diskstats": "", "sys/block/sda/device/x": ""})
	at := func(wall, boot int64) source.Status {
		t.Helper()
		if err := f.h.Sample(t.Context(), source.Tick{WallMs: wall, BootMs: boot}, f.s); err != nil {
			t.Fatal(err)
		}
		return f.s.status["host/clock"]
	}
	if st := at(1000, 0); st.State != source.Active {
		t.Errorf("%+v", st)
	}
	if st := at(2900, 1000); st.State != source.Active { // read 900 ms apart
		t.Errorf("%+v", st)
	}
	if st := at(5500, 2000); st.State != source.Degraded || !strings.HasPrefix(st.Reason, "clock stepped by +2.500 s at 2 s after boot") {
		t.Errorf("%+v", st)
	}
	if st := at(6500, 3000); st.State != source.Degraded {
		t.Errorf("forgotten at once: %+v", st)
	}
	if st := at(4000-3_600_000, 4000); !strings.HasPrefix(st.Reason, "clock stepped by -360") {
		t.Errorf("%+v", st)
	}
	if n, last := f.h.ClockSteps(); n != 2 || last != -3_603_500 {
		t.Errorf("ClockSteps() = %d, %d", n, last)
	}
	if st := at(604_000-3_600_000, 604_000); st.State != source.Active {
		t.Errorf("still told: %+v", st)
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	wall, boot := Clocks()
	if boot <= 0 || wall <= boot {
		t.Errorf("Clocks() = %d, %d", wall, boot)
	}
	if name, err := Name("a"); name != "a" || err != nil {
		t.Errorf("Name: %q, %v", name, err)
	}
	if name, err := Name(""); name == "" || err != nil {
		t.Errorf("Name: %q, %v", name, err)
	}
	if id, err := BootID(""); len(id) != 36 || err != nil {
		t.Errorf("BootID: %q, %v", id, err)
	}
	f := newFixture(t, map[string]string{"proc/sys/kernel/random/boot_id": "../../etc/passwd\n"})
	if _, err := BootID(filepath.Join(f.root, "proc")); err == nil || !strings.Contains(err.Error(), "holds no UUID") {
		t.Errorf("BootID of garbage: %v", err)
	}
	if _, err := BootID(f.root); err == nil {
		t.Error("BootID of nothing")
	}
}

// The host that runs the tests.
func TestThisHost(t *testing.T) {
	t.Parallel()
	h, s := New(Config{}), newSink(t)
	for i := range 3 {
		if err := h.Sample(t.Context(), source.Tick{WallMs: 1e12, BootMs: int64(i) * everyMs}, s); err != nil {
			t.Fatalf("this host shows no counters: %v", err)
		}
	}
	t.Logf("%s%v", s.take(), s.status)
}

func TestTickAllocates(t *testing.T) {
	f := newFixture(t, map[string]string{"proc/stat": stat1, "proc/diskstats": disk("sda", 1, 1), "sys/block/sda/device/x": ""})
	f.tick(1000)
	quiet := newSink(t)
	n := testing.AllocsPerRun(50, func() {
		f.boot++
		if err := f.h.Sample(t.Context(), source.Tick{WallMs: 1_700_000_000_000 + f.boot, BootMs: f.boot}, quiet); err != nil {
			t.Fatal(err)
		}
	})
	if n > 0 && !race.Enabled {
		t.Errorf("a tick between rows makes %.1f allocations", n)
	}
}

// BenchmarkTick is a second of the host that runs it: a fifth of a row.
func BenchmarkTick(b *testing.B) {
	h, s := New(Config{}), newSink(b)
	b.ReportAllocs()
	boot := int64(0)
	for b.Loop() {
		boot += 1000
		if err := h.Sample(b.Context(), source.Tick{WallMs: 1e12 + boot, BootMs: boot}, s); err != nil {
			b.Fatal(err)
		}
		s.b.Reset()
	}
}
