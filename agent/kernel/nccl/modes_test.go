package nccl

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/kerneltest"
	"github.com/flopwatch/flopwatch/agent/kernel/probe"
	"github.com/flopwatch/flopwatch/agent/source"
	bpf "github.com/flopwatch/flopwatch/bpf/nccl"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// TestFallbacks holds every way to attach and to look to the same numbers.
func TestFallbacks(t *testing.T) {
	for _, c := range []struct {
		name string
		deny []string
		says string
	}{
		{"perf uprobes", []string{probe.UprobeMulti}, "uprobes by perf events"},
		{"a program a function", []string{probe.UprobeMulti, cookies}, "uprobes by perf events"},
		{"procfs", []string{probe.IterVMA}, "/proc/PID/maps, by size"},
		{"perf uprobes and procfs", []string{probe.UprobeMulti, probe.IterVMA}, "(ENOSYS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			kerneltest.Require(t, probe.Uprobe)
			r := newRig(t, Config{})
			r.lists.devices = devices(1)
			r.f.deny = func(m string) error {
				if slices.Contains(c.deny, m) {
					return fmt.Errorf("denied: %w", syscall.ENOSYS)
				}
				return nil
			}
			d := run(t, r.dir, nil)
			r.start()
			rep := r.tick(0)
			if rep.State != source.Degraded || !strings.Contains(rep.Reason(), c.says) {
				t.Errorf("report: %s %s", rep.State, rep.Reason())
			}
			d.do("init 0 2 1 5")
			r.tick(1000)
			d.do("coll allreduce 0 1000 7 10", "coll reduce 0 50 8 5", "coll send 0 64 5 7")
			rows := r.rowsOf(d)
			a, b, s := find(t, rows, "allreduce"), find(t, rows, "reduce"), find(t, rows, "sendrecv")
			if a.calls != 10 || a.bytes != 40_000 || b.calls != 5 || b.bytes != 2000 || s.calls != 7 || a.comm != b.comm || a.rank != 1 || a.hash == "" {
				t.Errorf("rows: %+v", rows)
			}
			began := time.Now()
			if err := r.f.Close(); err != nil {
				t.Error(err)
			}
			t.Logf("close took %v", time.Since(began).Round(time.Millisecond))
			if d.do("coll allreduce 0 1000 7 10") != "ok" {
				t.Error("the program did not survive the detaching")
			}
			r.start() // and once more
			r.tick(1000)
			d.do("coll allreduce 0 1000 7 3")
			if w := find(t, r.rowsOf(d), "allreduce"); w.calls != 3 || w.comm != a.comm {
				t.Errorf("after a restart: %+v, before %+v", w, a)
			}
		})
	}
}

// TestOverlayTwins: two containers of one image have the library from the same file below
// their overlays: each call is counted once.
func TestOverlayTwins(t *testing.T) {
	r := newRig(t, Config{})
	r.lists.devices = devices(1)
	kerneltest.Need(t, "unshare", lookPath("unshare"))
	start := func(name string) *driver {
		top := filepath.Join(t.TempDir(), name)
		for _, d := range []string{"upper", "work", "merged"} {
			if err := os.MkdirAll(filepath.Join(top, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		script := fmt.Sprintf("mount -t overlay none -o lowerdir=%s,upperdir=%s/upper,workdir=%s/work %s/merged && exec %s/merged/driver", r.dir, top, top, top, top)
		return run(t, r.dir, nil, "unshare", "-m", "sh", "-c", script)
	}
	a, b := start("a"), start("b")
	a.do("init 0 2 0 5")
	b.do("init 0 2 1 5")
	r.start()
	r.tick(0)
	a.do("coll allreduce 0 1 7 10")
	b.do("coll allreduce 0 1 7 20")
	rows := r.rowsOf(a)
	x, y := find(t, rows, "allreduce"), find(t, r.taken(b), "allreduce")
	if x.calls != 10 || y.calls != 20 || x.comm != y.comm {
		t.Errorf("%+v and %+v", x, y)
	}
	if r.f.procs[a.pid()].lib != r.f.procs[b.pid()].lib {
		t.Error("one file is two libraries")
	}
}

// TestContainer: a process in another root, mount and process namespace.
func TestContainer(t *testing.T) {
	for _, c := range []struct {
		name   string
		delete bool
	}{{"file is there", false}, {"file is deleted", true}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Config{})
			r.lists.devices = devices(1)
			kerneltest.Need(t, "unshare", lookPath("unshare"))
			root := t.TempDir()
			stub(t, root)
			for _, lib := range []string{"/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"} {
				b, err := os.ReadFile(lib)
				kerneltest.Need(t, lib, err)
				for _, at := range []string{lib, filepath.Join("/lib64", filepath.Base(lib))} {
					to := filepath.Join(root, at)
					if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(to, b, 0o755); err != nil {
						t.Fatal(err)
					}
				}
			}
			inside := filepath.Join(root, "lib", "x86_64-linux-gnu", "libnccl.so.2")
			if err := os.Rename(filepath.Join(root, "libnccl.so.2"), inside); err != nil {
				t.Fatal(err)
			}
			d := run(t, r.dir, nil, "unshare", "-m", "-p", "-f", "--kill-child", "chroot", root, "/driver")
			d.do("init 0 2 1 5")
			pid := d.cmd.Process.Pid
			kids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.Atoi(strings.TrimSpace(string(kids)))
			if err != nil {
				t.Fatalf("children %q", kids)
			}
			d.at = int32(n)
			if c.delete {
				if err := os.Remove(inside); err != nil {
					t.Fatal(err)
				}
			}
			r.start()
			r.tick(0)
			d.do("coll allreduce 0 1 7 10")
			r.tick(11_000)
			if w := find(t, r.rowsOf(d), "allreduce"); w.calls != 10 || w.rank != 1 || w.nranks != 2 {
				t.Errorf("%+v", w)
			}
		})
	}
}

func lookPath(name string) error {
	_, err := exec.LookPath(name)
	return err
}

// TestSeccomp: a filter that does not know the system calls of newer probes must not end
// the program: there are no probes at returns.
func TestSeccomp(t *testing.T) {
	r := newRig(t, Config{})
	r.lists.devices = devices(1)
	d := run(t, r.dir, nil)
	d.do("seccomp")
	r.start()
	r.tick(0)
	d.do("init 0 2 1 5", "coll allreduce 0 1 7 10")
	if w := find(t, r.rowsOf(d), "allreduce"); w.calls != 10 {
		t.Errorf("%+v", w)
	}
}

// TestFlood: a process that makes communicators up takes its own room and no more, and what
// is not counted is counted as such.
func TestFlood(t *testing.T) {
	r := newRig(t, Config{})
	r.lists.devices = devices(1)
	bad, good := run(t, r.dir, nil), run(t, r.dir, nil)
	r.start()
	r.tick(0)
	good.do("init 0 2 1 5")
	bad.do("flood 0 600")
	r.tick(1000)
	good.do("coll allreduce 0 1 7 5")
	if w := find(t, r.rowsOf(good), "allreduce"); w.calls != 5 || w.hash == "" {
		t.Errorf("the other one: %+v", w)
	}
	r.tick(40_000)
	lost := uint64(0)
	for _, c := range r.f.Load().Counts {
		if c.Name == "calls_not_counted" {
			lost = c.Value
		}
	}
	if lost != 600-512 {
		t.Errorf("%d calls were not counted, want %d", lost, 600-512)
	}
	if p := r.f.procs[bad.pid()]; len(p.comms) > maxComms {
		t.Errorf("%d communicators are kept", len(p.comms))
	}
}

// TestHidden: a process that uses NCCL out of sight is said, not counted as nothing; and so is that
// nobody can say whether there is one.
func TestHidden(t *testing.T) {
	r := newRig(t, Config{})
	if err := os.Rename(filepath.Join(r.dir, "libnccl.so.2"), filepath.Join(r.dir, "libbundled.so")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("libbundled.so", filepath.Join(r.dir, "libnccl.so.2")); err != nil {
		t.Fatal(err)
	}
	d := run(t, r.dir, nil)
	d.do(fmt.Sprintf("map /dev/shm/nccl-test-%d", os.Getpid()))
	r.lists.unknown = true
	r.start()
	const unknown = "it is not known which processes are on GPUs"
	for _, rep := range []kernel.Report{r.first, r.tick(0), r.tick(1000)} {
		if rep.State != source.Degraded || !strings.Contains(rep.Reason(), unknown) {
			t.Errorf("the driver lists nothing: %s %s", rep.State, rep.Reason())
		}
	}
	r.lists.unknown = false
	r.onGPU(d)
	r.tick(1000)
	rep := r.tick(10_000) // what is found is told with the rows
	if rep.State != source.Degraded || !strings.Contains(rep.Reason(), "NCCL is not visible in 1 processes") || strings.Contains(rep.Reason(), unknown) {
		t.Errorf("report: %s %s", rep.State, rep.Reason())
	}
	if got, by := r.f.Visibility(d.pid()); got != "not_visible" || by != wire.SourceProcfs {
		t.Errorf("visibility %q", got)
	}
	if rows := r.rowsOf(d); len(rows) != 0 {
		t.Errorf("rows: %+v", rows)
	}
}

// TestRetire: probes leave a library that nobody has mapped any more.
func TestRetire(t *testing.T) {
	r := newRig(t, Config{DetachAfter: time.Minute})
	d := run(t, r.dir, nil)
	r.start()
	r.tick(0)
	lib := r.f.procs[d.pid()].lib
	if lib == nil || len(lib.links) == 0 {
		t.Fatal("the library has no probes")
	}
	key := lib.file
	d.end()
	r.tick(35_000)
	if r.f.libs[key] == nil {
		t.Error("too soon")
	}
	r.tick(65_000)
	if r.f.libs[key] != nil || len(lib.links) != 0 {
		t.Error("the library has its probes still")
	}
}

// TestRate: a library that is called too often loses its probes for a while, says so, and
// gets them back.
func TestRate(t *testing.T) {
	r := newRig(t, Config{MaxRate: 100, PauseFor: time.Minute})
	r.lists.devices = devices(1)
	d := run(t, r.dir, nil)
	r.start()
	r.tick(0)
	d.do("init 0 2 1 5", "coll allreduce 0 1 7 1")
	r.tick(11_000)
	d.do("coll allreduce 0 1 7 5000")
	rep := r.tick(11_000)
	if rep.State != source.Degraded || !strings.Contains(rep.Reason(), "more than 100 times a second") {
		t.Fatalf("report: %s %s", rep.State, rep.Reason())
	}
	r.taken(d)
	d.do("coll allreduce 0 1 7 10")
	if rows := r.rowsOf(d); len(rows) != 0 {
		t.Errorf("rows without probes: %+v", rows)
	}
	r.tick(61_000)
	d.do("coll allreduce 0 1 7 10")
	if w := find(t, r.rowsOf(d), "allreduce"); w.calls != 10 {
		t.Errorf("%+v", w)
	}
	if rep = r.tick(1000); !r.well(rep) {
		t.Errorf("report: %s %s", rep.State, rep.Reason())
	}
}

// helperVar makes a test process the helper of another one.
const helperVar = "FLOPWATCH_NCCL_HELPER"

// said is what the helper tells, a line each.
type said struct {
	State, Reason string
	Rows          []string
}

// TestHelper is no test: it is the feature in a process with other privileges.
func TestHelper(t *testing.T) {
	pid, err := strconv.Atoi(os.Getenv(helperVar))
	if err != nil {
		t.Skip("the helper of other tests")
	}
	r := &rig{t: t, f: New(Config{}), bootMs: bootNow(t), log: &logs{}}
	r.out.t = t
	r.lists.devices = devices(1)
	d := &driver{t: t, at: int32(pid)}
	r.f.only = func(p int32) bool { return p == int32(pid) }
	tell := func(s said) {
		b, merr := json.Marshal(s)
		if merr != nil {
			t.Fatal(merr)
		}
		fmt.Fprintf(os.Stderr, "%s\n", b)
	}
	rep := r.startAny()
	if rep.State == source.Unavailable {
		tell(said{State: string(rep.State), Reason: rep.Reason()})
		return
	}
	defer r.f.Close()
	rep = r.tick(0)
	tell(said{State: string(rep.State), Reason: rep.Reason()})
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	r.tick(1000)
	var rows []string
	for range 4 {
		for _, w := range r.rowsOf(d) {
			rows = append(rows, fmt.Sprintf("%s calls=%d bytes=%d ranks=%d hash=%v", w.op, w.calls, w.bytes, w.nranks, w.hash != ""))
		}
	}
	rep = r.tick(1000)
	t.Log(r.log.text.String())
	tell(said{State: string(rep.State), Reason: rep.Reason(), Rows: rows})
}

// TestPrivileges runs the feature in processes with less and less.
func TestPrivileges(t *testing.T) {
	kerneltest.Require(t, probe.UprobeMulti, probe.IterVMA, probe.Ringbuf)
	kerneltest.Need(t, "setpriv", lookPath("setpriv"))
	kerneltest.Need(t, "unshare", lookPath("unshare"))
	dir, err := os.MkdirTemp("", "nccl-caps")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "self"), self, 0o755); err != nil {
		t.Fatal(err)
	}
	nobody := func(caps string) []string {
		return []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all," + caps, "--inh-caps", "-all," + caps, "--ambient-caps", "-all," + caps}
	}
	for _, c := range []struct {
		name    string
		command []string
		state   source.State
		says    string
		counts  bool
	}{
		{"BPF, PERFMON, SYS_PTRACE", nobody("+bpf,+perfmon,+sys_ptrace"), source.Active, "", true},
		{"no SYS_PTRACE", nobody("+bpf,+perfmon"), source.Degraded, "CAP_SYS_PTRACE", false},
		{"BPF alone", nobody("+bpf"), source.Unavailable, "EPERM", false},
		{"nothing", []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all", "--inh-caps", "-all"}, source.Unavailable, "(E", false},
		{"a process namespace of its own", []string{"unshare", "-p", "-f", "--kill-child"}, source.Unavailable, "hostPID", false},
		{"no BTF", []string{"unshare", "-m", "sh", "-c", `mount -t tmpfs none /sys/kernel/btf && exec "$@"`, "sh"}, source.Degraded, "in its place: /proc/PID/maps", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			lib := filepath.Join(dir, strings.ReplaceAll(c.name, " ", "_"))
			if err := os.Mkdir(lib, 0o755); err != nil {
				t.Fatal(err)
			}
			stub(t, lib)
			d := run(t, lib, nil)
			d.do("init 0 4 1 5")
			args := append(append([]string{}, c.command...), filepath.Join(dir, "self"), "-test.v", "-test.run=^TestHelper$", "-test.timeout=60s")
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Env = append(os.Environ(), helperVar+"="+strconv.Itoa(int(d.pid())))
			var text bytes.Buffer
			cmd.Stdout = &text
			defer func() {
				if t.Failed() {
					t.Log(text.String())
				}
			}()
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			hear := func() (s said) {
				line, err := lines.ReadString('\n')
				if err != nil {
					t.Fatalf("helper: %v %q", err, line)
				}
				if err := json.Unmarshal([]byte(line), &s); err != nil {
					t.Fatalf("helper: %v: %s", err, line)
				}
				return s
			}
			s := hear()
			t.Logf("%s: %s", s.State, s.Reason)
			if s.State != string(c.state) || !strings.Contains(s.Reason, c.says) {
				t.Errorf("want %s, %s", c.state, c.says)
			}
			if c.state != source.Unavailable {
				d.do("coll allreduce 0 100 7 1000")
				if _, err := in.Write([]byte("\n")); err != nil {
					t.Fatal(err)
				}
				s = hear()
				want := "[allreduce calls=1000 bytes=400000 ranks=4 hash=true]"
				if got := fmt.Sprint(s.Rows); c.counts != (got == want) || !c.counts && len(s.Rows) > 0 {
					t.Errorf("rows %s (%s: %s)", got, s.State, s.Reason)
				}
			}
			_ = in.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("helper: %v", err)
			}
		})
	}
}

// TestCap: libraries beyond the bound get no probes, and that is said.
func TestCap(t *testing.T) {
	kerneltest.Require(t, probe.IterVMA) // else twins of one moment are one
	r := newRig(t, Config{MaxLibraries: 1})
	other := t.TempDir()
	stub(t, other)
	run(t, r.dir, nil)
	run(t, other, nil)
	r.start()
	if rep := r.tick(0); rep.State != source.Degraded || !strings.Contains(rep.Reason(), "more than 1 libraries") {
		t.Errorf("report: %s %s", rep.State, rep.Reason())
	}
	if len(r.f.libs) != 1 {
		t.Errorf("%d libraries", len(r.f.libs))
	}
}

// TestNotALibrary: what has the name and nothing else is told.
func TestNotALibrary(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the stub is for amd64")
	}
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := sites(f, false); !errors.Is(err, errNoCollectives) {
		t.Errorf("a program of Go: %v", err)
	}
	lib, err := os.Open("testdata/stub/libnccl.so.2")
	if err != nil {
		t.Fatal(err)
	}
	defer lib.Close()
	all, id, err := sites(lib, false)
	if err != nil || len(all) != 18 || len(id) != 40 {
		t.Errorf("%d functions, build id %q, %v", len(all), id, err)
	}
	if amd, _, err := sites(lib, true); err != nil || len(amd) != 15 {
		t.Errorf("%d functions of AMD's, %v", len(amd), err)
	}
}

// TestRoomForGPUs: libraries that nobody uses on a GPU keep none out that somebody does.
func TestRoomForGPUs(t *testing.T) {
	kerneltest.Require(t, probe.IterVMA) // else twins of one moment are one
	r := newRig(t, Config{MaxLibraries: 1})
	r.lists.devices = devices(1)
	other := t.TempDir()
	stub(t, other)
	idle := run(t, other, nil)
	r.start()
	r.tick(0)
	d := run(t, r.dir, nil)
	r.onGPU(d)
	r.tick(1000)
	if r.f.procs[idle.pid()].lib != nil || r.f.procs[d.pid()].lib == nil {
		t.Error("the process on the GPU got no probes")
	}
	d.do("init 0 2 1 5", "coll allreduce 0 1 7 10")
	if w := find(t, r.rowsOf(d), "allreduce"); w.calls != 10 {
		t.Errorf("%+v", w)
	}
}

// TestMadeUpCommunicators: a process that asks for hundreds of communicators takes bounded
// time and memory of the agent.
func TestMadeUpCommunicators(t *testing.T) {
	r := newRig(t, Config{})
	r.lists.devices = devices(1)
	d := run(t, r.dir, []string{"STUB_BARE=1"})
	r.start()
	r.tick(0)
	for i := range 200 {
		d.do(fmt.Sprintf("init 1 2 0 %d", i), "split 1 1 0 0") // each is the parent of what takes its place
	}
	d.do("flood 0 300")
	for range 60 {
		r.tick(1000)
		if r.f.mem.left < -pieceBytes {
			t.Fatalf("%d bytes too many were read", -r.f.mem.left)
		}
	}
	p := r.f.procs[d.pid()]
	if len(p.comms) > maxComms || len(p.inits) > maxComms || r.f.over == 0 {
		t.Errorf("%d communicators, %d to come, %d beyond", len(p.comms), len(p.inits), r.f.over)
	}
}

// TestFullMap: calls for which the kernel's map has no room are counted as not counted.
func TestFullMap(t *testing.T) {
	kerneltest.Require(t, probe.UprobeMulti, probe.IterVMA, probe.Ringbuf)
	const room, asked = 16, 100
	k, err := loadWith(func() (*ebpf.CollectionSpec, error) {
		s, err := bpf.LoadNccl()
		if err == nil {
			s.Maps["stats"].MaxEntries = room
		}
		return s, err
	}, ebpf.CollectionOptions{}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	dir := t.TempDir()
	stub(t, dir)
	lib, err := os.Open(filepath.Join(dir, "libnccl.so.2"))
	if err != nil {
		t.Fatal(err)
	}
	defer lib.Close()
	l, err := k.attach(lib, "libnccl.so.2", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	d := run(t, dir, nil)
	d.do(fmt.Sprintf("flood 0 %d", asked))
	var each []uint64
	if err := k.coll.Maps["drops"].Lookup(uint32(0), &each); err != nil {
		t.Fatal(err)
	}
	sum := uint64(0)
	for _, n := range each {
		sum += n
	}
	var r rows
	if err := r.read(k.coll.Maps["stats"]); err != nil {
		t.Fatal(err)
	}
	if len(r.keys) != room || sum != asked-room {
		t.Errorf("%d counted, %d not, of %d with room for %d", len(r.keys), sum, asked, room)
	}
}

// TestLooksArePaced: looks that take long are rare, also while processes come and go.
func TestLooksArePaced(t *testing.T) {
	r := newRig(t, Config{})
	took, looks := time.Duration(0), 0
	r.f.took = func(time.Duration) time.Duration { looks++; return took }
	r.start()
	took = 40 * time.Millisecond
	r.tick(0)
	for range 39 { // a hundred times 40 ms is 4 s
		r.f.soon(r.bootMs)
		r.tick(100)
	}
	if looks != 1 {
		t.Errorf("%d looks within 4 s, want 1", looks)
	}
	r.f.scans = nil
	r.tick(100)
	if looks != 1 {
		t.Errorf("%d looks, and nothing came or went", looks)
	}
	r.tick(40_000)
	if looks != 2 {
		t.Errorf("%d looks, want one after 40 s", looks)
	}
}

// TestOneOfMany: a process that calls a library without end takes no probes from others that
// share it, nor does the feature as a whole count as too costly.
func TestOneOfMany(t *testing.T) {
	kerneltest.Require(t, probe.UprobeMulti)
	r := newRig(t, Config{MaxRate: 1000, PauseFor: time.Minute})
	r.lists.devices = devices(2)
	bad, good, idle := run(t, r.dir, nil), run(t, r.dir, nil), run(t, r.dir, nil)
	r.start()
	r.onGPU(bad, good)
	r.tick(0)
	good.do("init 0 2 1 5", "coll allreduce 0 1 7 1")
	bad.do("init 0 2 1 6", "coll allreduce 0 1 7 1")
	r.tick(11_000)
	bad.do("coll allreduce 0 1 7 100000")
	good.do("coll allreduce 0 1 7 100")
	rep := r.tick(11_000)
	if rep.State != source.Degraded || !strings.Contains(rep.Reason(), "1 libraries are called more than") {
		t.Fatalf("report: %s %s", rep.State, rep.Reason())
	}
	load := r.f.Load()
	if spent := load.Probes[0].Ns; load.Shed == 0 || spent-load.Shed > spent/100 {
		t.Errorf("of %d ns %d are dealt with", spent, load.Shed)
	}
	if rep = r.tick(1000); !strings.Contains(rep.Reason(), "but for 1 processes") {
		t.Errorf("report: %s", rep.Reason())
	}
	r.taken(bad)
	r.taken(good)
	good.do("coll allreduce 0 1 7 10")
	bad.do("coll allreduce 0 1 7 10")
	idle.do("flood 0 3")
	if w := find(t, r.rowsOf(good), "allreduce"); w.calls != 10 {
		t.Errorf("%+v", w)
	}
	if rows := append(r.taken(bad), r.taken(idle)...); len(rows) != 0 {
		t.Errorf("rows without probes: %+v", rows)
	}
	lib := r.f.procs[good.pid()].lib
	good.end()
	r.tick(11_000)
	if len(lib.calm) != 0 {
		t.Error("probes of a process that has ended are left")
	}
	r.tick(61_000)
	r.tick(1000)
	bad.do("coll allreduce 0 1 7 10")
	if w := find(t, r.rowsOf(bad), "allreduce"); w.calls != 10 {
		t.Errorf("%+v", w)
	}
}

// TestGuests: processes on no GPU cannot take the room in the kernel's map, however many.
func TestGuests(t *testing.T) {
	r := newRig(t, Config{})
	r.lists.devices = devices(1)
	good := run(t, r.dir, nil)
	var guests []*driver
	for range 7 {
		guests = append(guests, run(t, r.dir, nil))
	}
	r.start()
	r.onGPU(good)
	r.tick(0)
	for i, g := range guests {
		g.do(fmt.Sprintf("flood %d 512", 1000*i))
	}
	r.tick(11_000)
	if n := len(r.f.rows.keys); n == 0 || n > guestKeys {
		t.Errorf("processes on no GPU have %d keys, want at most %d", n, guestKeys)
	}
	good.do("init 0 2 1 5", "coll allreduce 0 1 7 5", "flood 0 511")
	r.tick(11_000)
	mine := 0
	for i := range r.f.rows.keys {
		if int32(r.f.rows.keys[i].TGID) == good.pid() {
			mine++
		}
	}
	if mine != maxKeys {
		t.Errorf("%d keys, want all %d", mine, maxKeys)
	}
	for _, g := range guests {
		g.end()
	}
	r.tick(11_000)
	r.tick(11_000)
	if n := len(r.f.rows.keys); n != maxKeys {
		t.Errorf("%d keys are left, want %d", n, maxKeys)
	}
}

// TestRoomForProcessesOnGPUs: records of processes on no GPU give way.
func TestRoomForProcessesOnGPUs(t *testing.T) {
	r := newRig(t, Config{})
	r.start()
	for pid := int32(1 << 23); len(r.f.procs) < maxProcesses; pid++ {
		r.f.procs[pid] = &process{pid: pid}
	}
	for ino := uint64(1); len(r.f.failed) < maxFailed; ino++ {
		r.f.failed[fileKey{ino: ino}] = failure{until: 1 << 62, why: errGone}
	}
	d := run(t, r.dir, nil)
	r.onGPU(d)
	r.tick(0)
	if p := r.f.procs[d.pid()]; p == nil || p.lib == nil || len(r.f.procs) > maxProcesses {
		t.Errorf("no record of the process on the GPU, of %d", len(r.f.procs))
	}
}

// TestManyMappings: who maps libraries thousands of times, in one process or in many, leaves
// room for processes on GPUs.
func TestManyMappings(t *testing.T) {
	f := New(Config{})
	f.gpus = map[int32][]int{50_000: {0}}
	var found []mapping
	for i := range 10 * maxMappings {
		found = f.note(found, mapping{tgid: 1, file: fileKey{ino: 1}, start: uint64(i)})
	}
	if len(found) != 1 || f.over != 0 {
		t.Errorf("one file in one process is noted %d times", len(found))
	}
	for i := range int32(2 * maxMappings) {
		found = f.note(found, mapping{tgid: 2 + i, file: fileKey{ino: 1}})
	}
	if len(found) != maxMappings || f.over != maxMappings+1 {
		t.Errorf("%d are noted, %d not", len(found), f.over)
	}
	found = f.note(found, mapping{tgid: 50_000, file: fileKey{ino: 2}})
	if found[len(found)-1].tgid != 50_000 {
		t.Error("a process on a GPU found no room")
	}
}
