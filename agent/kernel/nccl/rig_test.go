package nccl

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/kerneltest"
	"github.com/flopwatch/flopwatch/agent/kernel/probe"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

const testPatience = 20 * time.Second

// seenRow is a row that a test reads.
type seenRow struct {
	tsMs            int64
	pid             int32
	gpu             int64
	comm, op        string
	nranks, rank    int64 // -1: absent
	calls, bytes    int64
	dtypes, hash    string
	firstMs, lastMs int64
	parent          string
}

// sink keeps rows.
type sink struct {
	t    *testing.T
	mu   sync.Mutex
	rows []seenRow
}

func (s *sink) Status(source.Status) {}

func (s *sink) Row(kind wire.Kind, src wire.Source, _ string, prepare, fill func(*wire.Builder)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if kind != wire.KindCollective || src != wire.SourceEBPF {
		s.t.Errorf("a row of %v from %v", kind, src)
	}
	b := wire.NewBuilder(kind, src)
	if prepare != nil {
		prepare(b)
	}
	b.Begin()
	fill(b)
	if err := b.End(); err != nil {
		s.t.Errorf("row: %v", err)
		return
	}
	tab := b.Build()
	num := func(id uint8) int64 {
		c := tab.Column(id)
		if c == nil || !c.Has(0) {
			return -1
		}
		return c.Int[0]
	}
	str := func(id uint8) string {
		c := tab.Column(id)
		if c == nil {
			return ""
		}
		return c.Str(0)
	}
	gpu := int64(-1)
	if c := tab.Column(fieldGPU); c != nil {
		gpu = c.Int[0]
	}
	s.rows = append(s.rows, seenRow{tsMs: num(fieldTs), pid: int32(num(fieldPID)), gpu: gpu, comm: str(fieldComm), op: str(fieldOp), nranks: num(fieldRanks),
		rank: num(fieldRank), calls: num(fieldCalls), bytes: num(fieldBytes), dtypes: str(fieldDtypes), hash: str(fieldHash),
		firstMs: num(fieldFirst), lastMs: num(fieldLast), parent: str(fieldParent)})
}

// lists is what other instruments know.
type lists struct {
	procs   []source.GPUProcess
	seq     uint64
	devices []source.GPUDevice
	unknown bool // the driver lists no processes
}

func (l *lists) GPUProcesses() ([]source.GPUProcess, uint64, bool) { return l.procs, l.seq, !l.unknown }
func (l *lists) GPUDevices() ([]source.GPUDevice, bool)            { return l.devices, l.devices != nil }

type rig struct {
	t      *testing.T
	dir    string // with a library of its own
	f      *Feature
	out    sink
	lists  lists
	clock  kernel.Clock
	bootMs int64
	log    *logs
	first  kernel.Report // of Start
}

type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// stub copies the stub library and its driver to a folder of the test's own, so that no
// other process has the file mapped.
func stub(t testing.TB, dir string) {
	t.Helper()
	for _, name := range []string{"libnccl.so.2", "driver"} {
		b, err := os.ReadFile(filepath.Join("testdata", "stub", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// ours reports whether a process descends from this one: other programs of this host may
// have libraries of that name too.
func ours(pid int32) bool {
	for range 8 {
		if int(pid) == os.Getpid() {
			return true
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		at := bytes.LastIndexByte(b, ')')
		if err != nil || at < 0 {
			return false
		}
		var state string
		if _, err := fmt.Sscan(string(b[at+1:]), &state, &pid); err != nil {
			return false
		}
	}
	return false
}

func bootNow(t testing.TB) int64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano() / 1e6
}

// newRig prepares the feature; start starts it.
func newRig(t *testing.T, cfg Config) *rig {
	t.Helper()
	uprobes(t)
	r := &rig{t: t, dir: t.TempDir(), f: New(cfg), bootMs: bootNow(t), log: &logs{}}
	r.out.t = t
	r.f.only = ours
	r.f.took = func(time.Duration) time.Duration { return 0 } // however busy the machine is
	stub(t, r.dir)
	t.Cleanup(func() {
		if err := r.f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.log.text.String())
		}
	})
	return r
}

// start starts the feature, which has to work.
func (r *rig) start() {
	r.t.Helper()
	if r.first = r.startAny(); r.first.State == source.Unavailable {
		r.t.Fatalf("start: %s", r.first.Reason())
	}
}

func (r *rig) startAny() kernel.Report { return r.startIn(r.t.Context()) }

func (r *rig) startIn(ctx context.Context) kernel.Report {
	env := kernel.Env{Procfs: "/proc", Processes: &r.lists, Devices: &r.lists, Clock: &r.clock, BTF: btf.NewCache(),
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	return r.f.Start(ctx, &env)
}

// tick is one call of Sample, some milliseconds later.
func (r *rig) tick(ms int64) kernel.Report {
	r.t.Helper()
	r.bootMs += ms
	wall := r.bootMs + time.Now().UnixMilli() - bootNow(r.t)
	r.clock.Set(wall, r.bootMs)
	return r.f.Sample(r.t.Context(), source.Tick{WallMs: wall, BootMs: r.bootMs}, &r.out)
}

// rows of a process since the last call, after time for all of them to come.
func (r *rig) rowsOf(d *driver) []seenRow {
	r.t.Helper()
	r.tick(1000)
	r.tick(10_000)
	return r.taken(d)
}

func (r *rig) taken(d *driver) []seenRow {
	r.out.mu.Lock()
	defer r.out.mu.Unlock()
	var mine, rest []seenRow
	for _, w := range r.out.rows {
		if w.pid == d.pid() {
			mine = append(mine, w)
		} else {
			rest = append(rest, w)
		}
	}
	r.out.rows = rest
	return mine
}

// driver is a process that calls the stub.
type driver struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	at  int32 // its pid, where it is not cmd's
}

func (d *driver) pid() int32 {
	if d.at != 0 {
		return d.at
	}
	return int32(d.cmd.Process.Pid)
}

// run starts a driver, by the given command or the one in dir.
func run(t testing.TB, dir string, env []string, command ...string) *driver {
	t.Helper()
	if len(command) == 0 {
		command = []string{filepath.Join(dir, "driver")}
	}
	d := &driver{t: t, cmd: exec.Command(command[0], command[1:]...)}
	d.cmd.Env = append(os.Environ(), env...)
	d.cmd.Stderr = os.Stderr
	var err error
	if d.in, err = d.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.out = bufio.NewReader(out)
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.end)
	d.do("move 62 63") // it has its libraries by now
	return d
}

func (d *driver) end() {
	if d.cmd.ProcessState != nil {
		return
	}
	_ = d.in.Close()
	if err := d.cmd.Wait(); err != nil {
		d.t.Errorf("driver: %v", err)
	}
}

// do has the driver carry out commands, and waits for each.
func (d *driver) do(commands ...string) string {
	d.t.Helper()
	last := ""
	for _, c := range commands {
		if _, err := fmt.Fprintln(d.in, c); err != nil {
			d.t.Fatalf("driver: %s: %v", c, err)
		}
		answer := make(chan string, 1)
		go func() {
			line, _ := d.out.ReadString('\n')
			answer <- strings.TrimSpace(line)
		}()
		select {
		case last = <-answer:
			if last == "" {
				d.t.Fatalf("driver: no answer to %q", c)
			}
		case <-time.After(testPatience):
			_ = d.cmd.Process.Kill()
			d.t.Fatalf("driver: %q takes too long", c)
		}
	}
	return last
}

// id is the unique id that the driver makes of a seed.
func id(seed int) []byte {
	b := make([]byte, idBytes)
	for i := range b {
		b[i] = byte(seed + i*7)
	}
	return b
}

// find is the one row of an operation.
func find(t *testing.T, rows []seenRow, op string) seenRow {
	t.Helper()
	var found []seenRow
	for _, w := range rows {
		if w.op == op {
			found = append(found, w)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d rows of %s, want 1: %+v", len(found), op, rows)
	}
	return found[0]
}

// TestStubIsBuilt holds the committed binaries to the sources beside them.
func TestStubIsBuilt(t *testing.T) {
	sums, err := os.ReadFile("testdata/stub/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(sums)), "\n")
	if len(lines) != 4 {
		t.Errorf("%d sums", len(lines))
	}
	for _, line := range lines {
		want, name, _ := strings.Cut(line, "  ")
		b, err := os.ReadFile(filepath.Join("testdata", "stub", name))
		if err != nil {
			t.Fatal(err)
		}
		if got := sha256.Sum256(b); hex.EncodeToString(got[:]) != want {
			t.Errorf("%s was changed since build.sh ran", name)
		}
	}
}

// uprobes requires what the feature needs at least: old kernels run the tests by what they
// have in the place of the best.
func uprobes(tb testing.TB) {
	tb.Helper()
	kerneltest.Require(tb, probe.Ringbuf)
	kerneltest.RequireOne(tb, probe.UprobeMulti, probe.Uprobe)
}

// well reports whether a report has nothing to say but that the kernel is old.
func (r *rig) well(rep kernel.Report) bool {
	old := r.f.refused != nil || r.f.blind != nil
	return rep.State == source.Active || old && rep.State == source.Degraded && rep.Why == r.first.Why
}

// by is which way libraries are found.
func (r *rig) by() wire.Source {
	if r.f.blind != nil {
		return wire.SourceProcfs
	}
	return wire.SourceEBPF
}

// again runs a test of this binary in a process of its own.
func again(t *testing.T, env string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", append(args, "-test.v", "-test.timeout=60s")...)
	cmd.Env = append(os.Environ(), env)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}
