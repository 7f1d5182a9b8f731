package proc

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/kerneltest"
	"github.com/flopwatch/flopwatch/agent/kernel/probe"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks/tasktest"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

func TestMain(m *testing.M) {
	switch tasktest.Role() {
	case "hidden":
		if err := tasktest.HideBTF(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "apart":
		if err := tasktest.OwnPIDs(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "leaderless":
		// The first thread ends, another goes on and ends the process.
		go func() {
			runtime.LockOSThread()
			_, _ = os.Stdin.Read(make([]byte, 1))
			syscall.Exit(5) // exit_group
		}()
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 9, 0, 0)
	}
	os.Exit(m.Run())
}

type rig struct {
	t      testing.TB
	f      *Feature
	q      *Queue
	lister tasktest.Lister
	jobs   tasktest.Jobs
	sink   tasktest.Sink
	tick   source.Tick
	all    []Event
	report kernel.Report
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, f: New(cfg), jobs: tasktest.Jobs{PID: map[int32]source.Job{}}}
	r.q = r.f.Subscribe()
	r.jobs.Group = func(path string) (source.Job, bool) {
		return source.Job{Source: "slurm", ID: "1"}, strings.HasPrefix(path, "/flopwatch")
	}
	r.lister.List()
	r.report = r.f.Start(t.Context(), &kernel.Env{Procfs: "/proc", Processes: &r.lister, Jobs: r.jobs, Clock: &kernel.Clock{}})
	t.Cleanup(func() {
		if err := r.f.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) look() {
	r.t.Helper()
	r.tick.Seq++
	r.tick.WallMs, r.tick.BootMs = r.tick.WallMs+60_000, r.tick.BootMs+60_000
	r.report = r.f.Sample(r.t.Context(), r.tick, &r.sink)
	r.all, _ = r.q.Take(r.all)
	for _, err := range r.sink.Errors {
		r.t.Error(err)
	}
}

// wait looks until there is an event.
func (r *rig) wait(kind Kind, pid int) Event {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 400 {
		r.look()
		if e := r.find(kind, pid); e != nil {
			return *e
		}
		<-tick.C
	}
	r.t.Fatalf("no %v of process %d in %+v", kind, pid, r.all)
	return Event{}
}

func (r *rig) find(kind Kind, pid int) *Event {
	for i := range r.all {
		if r.all[i].Kind == kind && int(r.all[i].PID) == pid {
			return &r.all[i]
		}
	}
	return nil
}

func bpfRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	kerneltest.Require(t, probe.TpBTF, probe.Ringbuf, probe.IterFile)
	r := newRig(t, cfg)
	if r.report.State != source.Active {
		t.Fatalf("%s: %s", r.report.State, r.report.Reason())
	}
	return r
}

// shell is a shell that runs what it is told.
type shell struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func newShell(t testing.TB, change func(cmd *exec.Cmd)) *shell {
	t.Helper()
	s := &shell{cmd: exec.CommandContext(t.Context(), "sh")}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{}
	if change != nil {
		change(s.cmd)
	}
	in, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.in, s.out = in, bufio.NewReader(out)
	if err = s.cmd.Start(); err != nil {
		kerneltest.Need(t, "a process", err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = s.cmd.Wait()
	})
	return s
}

func (s *shell) pid() int { return s.cmd.Process.Pid }

func (s *shell) say(t testing.TB, line string) {
	t.Helper()
	if _, err := io.WriteString(s.in, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

func (s *shell) read(t testing.TB) (n int) {
	t.Helper()
	if _, err := fmt.Fscan(s.out, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestExecAndExit(t *testing.T) {
	r := bpfRig(t, Config{})
	s := newShell(t, nil)
	r.lister.List(s.pid())
	r.look()
	s.say(t, "/bin/sleep 0 & echo $!; wait $!; echo 1")
	child := s.read(t)
	s.read(t)
	e := r.wait(Exec, child)
	st, err := tasks.ReadStat("/proc", int32(s.pid()))
	if err != nil {
		t.Fatal(err)
	}
	sleep, err := filepath.EvalSymlinks("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	if e.Exe != filepath.Base(sleep) || int(e.Parent) != s.pid() || int(e.InnerPID) != child || e.StartTicks() < st.Start || e.AtNs < e.StartNs || e.Status != -1 {
		t.Errorf("exec %+v", e)
	}
	if e = r.wait(Exit, child); e.Status != 0 || e.StartTicks() < st.Start {
		t.Errorf("exit %+v", e)
	}
	s.say(t, "exit 3")
	if e = r.wait(Exit, s.pid()); e.Status != 3<<8 || e.StartTicks() != st.Start {
		t.Errorf("exit %+v, want status %#x and start %d", e, 3<<8, st.Start)
	}
	killed := newShell(t, nil)
	r.lister.List(killed.pid())
	r.look()
	if err = killed.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if e = r.wait(Exit, killed.pid()); e.Status != int32(syscall.SIGKILL) {
		t.Errorf("killed: %+v", e)
	}
	if r.report.State != source.Active {
		t.Errorf("%s: %s", r.report.State, r.report.Reason())
	}
}

// TestOthers are processes that nobody asked about.
func TestOthers(t *testing.T) {
	r := bpfRig(t, Config{})
	r.look()
	s := newShell(t, nil)
	s.say(t, "/bin/true; exit 4")
	_ = s.cmd.Wait()
	r.look()
	for _, e := range r.all {
		if int(e.PID) == s.pid() || int(e.Parent) == s.pid() {
			t.Errorf("told: %+v", e)
		}
	}
}

// TestLeaderEndsFirst is a process whose first thread ends before the others.
func TestLeaderEndsFirst(t *testing.T) {
	r := bpfRig(t, Config{})
	cmd := tasktest.Command(t, "leaderless", "None")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.lister.List(cmd.Process.Pid)
	r.look()
	dead := func() bool {
		s, err := tasks.ReadStat("/proc", int32(cmd.Process.Pid))
		return err == nil && s.Dead
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < 400 && !dead(); i++ {
		<-tick.C
	}
	r.look()
	if e := r.find(Exit, cmd.Process.Pid); e != nil {
		t.Fatalf("ended while a thread runs: %+v", e)
	}
	if _, err = in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if e := r.wait(Exit, cmd.Process.Pid); e.Status != 5<<8 {
		t.Errorf("exit %+v", e)
	}
	_ = cmd.Wait()
}

// TestGroup is a process that is started in the control group of one on a GPU, by another.
func TestGroup(t *testing.T) {
	r := bpfRig(t, Config{})
	mount := ""
	if b, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if head, tail, ok := strings.Cut(line, " - "); ok && strings.HasPrefix(tail, "cgroup2 ") {
				mount = strings.Fields(head)[4]
			}
		}
	}
	dir, err := os.MkdirTemp(mount, "flopwatch")
	kerneltest.Need(t, "a control group of version 2", err)
	t.Cleanup(func() { _ = os.Remove(dir) })
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st syscall.Stat_t
	if err = syscall.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	in := func(cmd *exec.Cmd) { cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(f.Fd()) }
	first := newShell(t, in)
	r.lister.List(first.pid())
	r.look()
	second := newShell(t, in)
	if e := r.wait(Exec, second.pid()); e.Group != st.Ino || e.Exe == "" || int(e.Parent) != os.Getpid() {
		t.Errorf("exec %+v, want group %d", e, st.Ino)
	}
	second.say(t, "exit 7")
	if e := r.wait(Exit, second.pid()); e.Status != 7<<8 || e.Group != st.Ino {
		t.Errorf("exit %+v", e)
	}
	first.say(t, "exit")
	r.wait(Exit, first.pid())
	_ = first.cmd.Wait()
	_ = second.cmd.Wait()
}

// TestInner is a process in a namespace of process numbers of its own.
func TestInner(t *testing.T) {
	r := bpfRig(t, Config{})
	s := newShell(t, func(cmd *exec.Cmd) { cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID })
	r.lister.List(s.pid())
	r.look()
	s.say(t, "exit 1")
	if e := r.wait(Exit, s.pid()); e.InnerPID != 1 {
		t.Errorf("exit %+v", e)
	}
}

// TestFull starts more than the ring has room for: what is lost is told.
func TestFull(t *testing.T) {
	r := bpfRig(t, Config{ring: 4096})
	s := newShell(t, nil)
	s.say(t, "echo 0")
	s.read(t) // its own start is behind it, which the kernel tells after Start returns
	r.lister.List(s.pid())
	r.look()
	s.say(t, "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do /bin/true; done; echo 1")
	s.read(t)
	r.look()
	if r.report.State != source.Degraded {
		t.Errorf("%s: %s", r.report.State, r.report.Reason())
	}
	var dropped uint64
	for _, c := range r.f.Load().Counts {
		if c.Name == "dropped_events" {
			dropped = c.Value
		}
	}
	if len(r.all) == 0 || dropped == 0 || len(r.all)+int(dropped) != 50 {
		t.Errorf("%d events and %d dropped, want 50 together", len(r.all), dropped)
	}
	r.look()
	if r.report.State != source.Active {
		t.Errorf("later: %s: %s", r.report.State, r.report.Reason())
	}
}

// TestHolder ends with a GPU open and was on no list. /dev/zero plays the GPU.
func TestHolder(t *testing.T) {
	r := bpfRig(t, Config{majors: []uint32{1}})
	r.look()
	s := newShell(t, nil)
	s.say(t, "exec 9</dev/zero; exit 2")
	if e := r.wait(Exit, s.pid()); !e.GPU || e.Status != 2<<8 {
		t.Errorf("exit %+v", e)
	}
}

func facts(r *rig) map[string]string {
	out := map[string]string{}
	for _, f := range r.sink.Rows[wire.KindFact] {
		if f.Str("subject") == "host" {
			out[f.Str("name")] = f.Str("value")
		}
	}
	return out
}

// TestOpeners tells apart who is listed, who inherited, who asks the driver, and who hides.
func TestOpeners(t *testing.T) {
	const fuse = 10 // the major number of /dev/fuse and others: the GPU; /dev/full's: unified memory
	f := New(Config{})
	f.uvm = 2
	f.watch = tasks.NewWatch("/proc", &tasktest.Lister{}, nil, false)
	var l tasktest.Lister
	l.List(os.Getppid())
	f.watch = tasks.NewWatch("/proc", &l, nil, false)
	f.watch.Look()
	f.openings = []opener{
		{file: 1, pid: int32(os.Getppid()), major: fuse}, {file: 2, pid: int32(os.Getppid()), major: 2},
		{file: 2, pid: 901, parent: 1, major: 2},                  // inherited
		{file: 3, pid: 902, parent: 1, major: fuse},               // asks the driver
		{file: 4, pid: 903, parent: 1, major: 2},                  // hides
		{file: 5, pid: 904, parent: int32(os.Getpid()), major: 2}, // the agent's child
		{file: 6, pid: int32(os.Getpid()), major: 2},
	}
	all, compute, unlisted := f.tally()
	if all != 4 || compute != 3 || unlisted != 1 {
		t.Errorf("%d, %d compute, %d unlisted", all, compute, unlisted)
	}
}

func testFacts(t *testing.T, r *rig) {
	s := newShell(t, nil)
	s.say(t, "sleep 60 9</dev/zero & echo $!") // not a child of the test's process, which is left out
	holder := s.read(t)
	defer s.say(t, fmt.Sprintf("kill %d", holder))
	r.f.hidden = 1 << 20
	r.look()
	before := facts(r)
	r.f.opened = false
	r.look()
	r.look()
	if got := facts(r); got["gpu_openers"] == "" || got["gpu_openers"] == "0" || got["gpu_openers"] != got["gpu_openers_compute"] || got["gpu_openers_unlisted"] == "0" {
		t.Errorf("facts %v, before %v", got, before)
	}
	told := len(r.sink.Rows[wire.KindFact])
	r.tick.BootMs -= 59_000
	r.look()
	if len(r.sink.Rows[wire.KindFact]) != told {
		t.Error("facts are told too often")
	}
}

// TestHidingIsNotTold: while it is not known of all GPUs who is on them, nobody hides.
func TestHidingIsNotTold(t *testing.T) {
	r := newRig(t, Config{NoBPF: true, majors: []uint32{1}, uvm: 1})
	s := newShell(t, nil)
	s.say(t, "sleep 60 9</dev/zero & echo $!")
	holder := s.read(t)
	defer s.say(t, fmt.Sprintf("kill %d", holder))
	told := func() (last string, n int) {
		for _, f := range r.sink.Rows[wire.KindFact] {
			if f.Str("name") == "gpu_openers_unlisted" {
				last, n = f.Str("value"), n+1
			}
		}
		return last, n
	}
	r.lister.List(s.pid())
	r.lister.Part(true)
	for range 3 {
		r.f.opened = false
		r.look()
	}
	if v, n := told(); n != 0 || r.report.State != source.Degraded || !strings.Contains(r.report.Reason(), "not known") {
		t.Fatalf("%s hide, told %d times; %s: %s", v, n, r.report.State, r.report.Reason())
	}
	r.lister.Part(false)
	r.f.opened = false
	r.look()
	if v, n := told(); n != 1 || v != "0" { // one look alone is none
		t.Errorf("at the first look at a whole list %q hide, told %d times", v, n)
	}
	r.f.opened = false
	r.look()
	if v, _ := told(); v == "0" {
		t.Error("who hides is not told when the list is whole")
	}
}

func TestFacts(t *testing.T) {
	testFacts(t, bpfRig(t, Config{majors: []uint32{1}, uvm: 1}))
}

func TestPoll(t *testing.T) {
	r := newRig(t, Config{NoBPF: true, majors: []uint32{1}, uvm: 1})
	if r.report.State != source.Degraded || r.report.Fallback == "" {
		t.Fatalf("%s: %s", r.report.State, r.report.Reason())
	}
	s := newShell(t, nil)
	st, err := tasks.ReadStat("/proc", int32(s.pid()))
	if err != nil {
		t.Fatal(err)
	}
	r.lister.List(s.pid())
	r.look()
	s.say(t, "sleep 60 & echo $!")
	child := s.read(t)
	if e := r.wait(Exec, child); int(e.Parent) != s.pid() {
		t.Errorf("exec %+v", e)
	}
	s.say(t, "kill "+fmt.Sprint(child)+"; exit 3")
	if e := r.wait(Exit, s.pid()); e.StartTicks() != st.Start || e.Status != -1 && e.Status != 3<<8 || e.By != wire.SourceProcfs {
		t.Errorf("exit %+v", e)
	}
	r.wait(Exit, child)
	testFacts(t, r)
	for _, src := range r.sink.Sources[wire.KindFact] {
		if src != wire.SourceProcfs {
			t.Fatalf("a fact of polling has the source %v", src)
		}
	}
}

// TestExitStatus asks a pidfd of a process that was reaped: kernels from 6.15 know.
func TestExitStatus(t *testing.T) {
	s := newShell(t, nil)
	fd, err := unix.PidfdOpen(s.pid(), 0)
	kerneltest.Need(t, "a pidfd", err)
	defer unix.Close(fd)
	s.say(t, "exit 3")
	_ = s.cmd.Wait()
	if got := exitStatus(fd); got != 3<<8 && got != -1 {
		t.Errorf("status %#x", got)
	} else {
		t.Logf("status %#x", got)
	}
}

func TestHidden(t *testing.T) {
	if tasktest.Role() == "hidden" {
		if r := newRig(t, Config{}); r.report.State != source.Degraded || r.report.Fallback == "" {
			t.Errorf("%s: %s", r.report.State, r.report.Reason())
		}
		return
	}
	kerneltest.Require(t, probe.TpBTF)
	tasktest.Again(t, "hidden", "TestHidden", func(cmd *exec.Cmd) { cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS })
}

func TestPrivilege(t *testing.T) {
	switch tasktest.Role() {
	case "capable":
		if r := newRig(t, Config{}); r.report.State != source.Active {
			t.Errorf("%s: %s", r.report.State, r.report.Reason())
		}
		return
	case "nobody":
		if r := newRig(t, Config{}); r.report.State != source.Degraded || r.report.Errno != syscall.EPERM {
			t.Errorf("%s: %s", r.report.State, r.report.Reason())
		}
		return
	}
	kerneltest.Require(t, probe.TpBTF)
	for role, caps := range map[string][]uintptr{"capable": {unix.CAP_BPF, unix.CAP_PERFMON}, "nobody": nil} {
		tasktest.Again(t, role, "TestPrivilege", func(cmd *exec.Cmd) {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
			cmd.SysProcAttr.AmbientCaps = caps
		})
	}
}

func TestQueue(t *testing.T) {
	var q Queue
	for i := range maxQueued + 10 {
		q.put(Event{PID: int32(i)})
	}
	list, lost := q.Take(nil)
	if len(list) != maxQueued || lost != 10 || list[0].PID != 10 || list[maxQueued-1].PID != maxQueued+9 {
		t.Errorf("%d events, %d lost, from %d", len(list), lost, list[0].PID)
	}
	if list, _ = q.Take(list[:0]); len(list) != 0 {
		t.Error("taken twice")
	}
}

func TestExits(t *testing.T) {
	f := New(Config{})
	x := f.Exits()
	f.give(Event{Kind: Exec, PID: 1, Status: -1})
	f.give(Event{Kind: Exit, PID: 2, Status: -1})
	f.give(Event{Kind: Exit, PID: 3, Status: 9, StartNs: 5*tasks.TickNs + 1, By: wire.SourceProcfs})
	want := source.ProcessExit{PID: 3, StartTicks: 5, Status: 9, By: wire.SourceProcfs}
	if got := x.TakeExits(nil); len(got) != 1 || got[0] != want {
		t.Errorf("%+v", got)
	}
	if got := x.TakeExits(nil); len(got) != 0 {
		t.Errorf("again: %+v", got)
	}
}

func TestParseDevices(t *testing.T) {
	b := "Character devices:\n  1 mem\n195 nvidia-frontend\n195 nvidiactl\n235 nvidia-caps\n510 nvidia-uvm\n\nBlock devices:\n511 nvidia\n"
	majors, uvm := parseDevices([]byte(b))
	if len(majors) != 2 || majors[0] != 195 || majors[1] != 510 || uvm != 510 {
		t.Errorf("%v, %d", majors, uvm)
	}
}

func FuzzParseEvent(f *testing.F) {
	b := make([]byte, eventBytes)
	b[24], b[40] = 1, byte(Exec)
	copy(b[48:], "python3")
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, ok := parseEvent(b); ok && (e.PID <= 0 || len(e.Exe) > 3*64 || e.Kind != Exec && e.Kind != Exit) {
			t.Errorf("%+v", e)
		}
	})
}

func FuzzParseOpener(f *testing.F) {
	f.Add(make([]byte, openerBytes))
	f.Fuzz(func(_ *testing.T, b []byte) { parseOpener(b) })
}

func FuzzParseDevices(f *testing.F) {
	f.Add([]byte("195 nvidia\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, _ := parseDevices(b); len(m) > maxMajors {
			t.Error(m)
		}
	})
}

// BenchmarkExec is the cost of starting and ending a process, without the feature, with it
// and nobody told, and with all told.
func BenchmarkExec(b *testing.B) {
	path, err := exec.LookPath("true")
	if err != nil {
		b.Fatal(err)
	}
	run := func(b *testing.B, look func()) {
		n := 0
		for b.Loop() {
			if err := exec.CommandContext(b.Context(), path).Run(); err != nil {
				b.Fatal(err)
			}
			if n++; n%100 == 0 {
				look()
			}
		}
	}
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err == nil {
		defer stats.Close()
	}
	b.Run("without", func(b *testing.B) { run(b, func() {}) })
	b.Run("filtered", func(b *testing.B) {
		r := bpfRig(b, Config{majors: []uint32{195}})
		r.look()
		run(b, r.look)
		programs(b, r)
	})
	b.Run("told", func(b *testing.B) {
		r := bpfRig(b, Config{majors: []uint32{195}})
		r.lister.List(os.Getpid())
		r.look()
		run(b, func() { r.look(); r.all = r.all[:0] })
		b.ReportMetric(float64(r.f.taken)/float64(b.N), "events/op")
		programs(b, r)
	})
}

// programs reports what the programs took of the processor for each process.
func programs(b *testing.B, r *rig) {
	var ns, calls uint64
	for _, p := range r.f.Load().Probes {
		ns, calls = ns+p.Ns, calls+p.Calls
	}
	b.ReportMetric(float64(ns)/float64(max(calls, 1)), "program-ns/call")
	b.ReportMetric(float64(ns)/float64(b.N), "program-ns/op")
}

// BenchmarkIdle is a look at which nothing has happened.
func BenchmarkIdle(b *testing.B) {
	r := bpfRig(b, Config{})
	r.look()
	b.ReportAllocs()
	for b.Loop() {
		r.tick.BootMs -= 60_000
		r.look()
	}
}

// TestOwnNamespace is an agent whose processes have other numbers than the kernel's programs
// tell: it does not go by these, and does not tell of the host what it sees of itself.
func TestOwnNamespace(t *testing.T) {
	if tasktest.Role() != "apart" {
		kerneltest.Require(t, probe.TpBTF)
		tasktest.Apart(t, "apart", "TestOwnNamespace")
		return
	}
	r := newRig(t, Config{majors: []uint32{1}, uvm: 1})
	want := func() {
		t.Helper()
		if r.report.State != source.Degraded || r.report.Fallback == "" || !strings.Contains(r.report.Why, "hostPID") {
			t.Errorf("%s: %s", r.report.State, r.report.Reason())
		}
	}
	want()
	s := newShell(t, nil)
	r.lister.List(s.pid())
	r.look()
	want()
	s.say(t, "exit 3")
	r.wait(Exit, s.pid())
	if got := facts(r); len(got) != 0 {
		t.Errorf("facts %v", got)
	}
}
