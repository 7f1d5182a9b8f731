package file

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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
	var err error
	switch tasktest.Role() {
	case "hidden":
		err = tasktest.HideBTF()
	case "apart":
		err = tasktest.OwnPIDs()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

type rig struct {
	t      testing.TB
	f      *Feature
	lister tasktest.Lister
	sink   tasktest.Sink
	tick   source.Tick
	report kernel.Report
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, f: New(cfg), tick: source.Tick{WallMs: 5_000_000, BootMs: 1_000_000}}
	r.lister.List(os.Getpid())
	jobs := tasktest.Jobs{PID: map[int32]source.Job{int32(os.Getpid()): {Source: "slurm", ID: "12"}}}
	r.report = r.f.Start(t.Context(), &kernel.Env{Procfs: "/proc", Processes: &r.lister, Jobs: jobs, Clock: &kernel.Clock{}})
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
	r.tick.WallMs += 2000
	r.tick.BootMs += 2000
	r.report = r.f.Sample(r.t.Context(), r.tick, &r.sink)
	for _, err := range r.sink.Errors {
		r.t.Error(err)
	}
}

// byPrograms reports whether the kernel's programs see all that this kernel lets them.
func (r *rig) byPrograms() bool {
	b, ok := r.f.by.(*bpf)
	if ok && !b.paths { // 5.10
		return r.report.State == source.Degraded && r.report.Why == "this kernel's programs cannot tell paths"
	}
	return ok && r.report.State == source.Active
}

// both runs a test by the kernel's programs and without them.
func both(t *testing.T, test func(t *testing.T, r *rig)) {
	cfg := Config{MinBytes: mib, MinRate: 1}
	t.Run("bpf", func(t *testing.T) {
		kerneltest.Require(t, probe.IterFile)
		r := newRig(t, cfg)
		if !r.byPrograms() {
			t.Fatalf("%s: %s", r.report.State, r.report.Reason())
		}
		test(t, r)
		if !r.byPrograms() {
			t.Errorf("%s: %s", r.report.State, r.report.Reason())
		}
	})
	t.Run("proc", func(t *testing.T) {
		cfg.NoBPF = true
		r := newRig(t, cfg)
		if r.report.State != source.Degraded || r.report.Fallback == "" {
			t.Fatalf("%s: %s", r.report.State, r.report.Reason())
		}
		test(t, r)
	})
}

func write(t testing.TB, f *os.File, n int) {
	t.Helper()
	if _, err := f.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
}

func TestCheckpoint(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		dir := t.TempDir()
		tmp := filepath.Join(dir, "model.pt.tmp")
		r.look()
		f, err := os.Create(tmp)
		if err != nil {
			t.Fatal(err)
		}
		write(t, f, 3*mib)
		r.look()
		write(t, f, 2*mib)
		if err = os.Rename(tmp, filepath.Join(dir, "model.pt")); err != nil {
			t.Fatal(err)
		}
		r.look()
		_ = f.Close()
		r.look()
		rows := r.sink.Rows[wire.KindCheckpoint]
		if len(rows) != 2 {
			t.Fatalf("rows %v", rows)
		}
		var fs unix.Statfs_t
		if err = unix.Statfs(dir, &fs); err != nil {
			t.Fatal(err)
		}
		boot, err := tasks.BootMs("/proc")
		if err != nil {
			t.Fatal(err)
		}
		self, err := tasks.ReadStat("/proc", int32(os.Getpid()))
		if err != nil {
			t.Fatal(err)
		}
		for i, row := range rows {
			want := tasktest.Row{"start_ms": int64(5_004_000), "pid": int64(os.Getpid()), "file": tmp, "bytes": int64(3 * mib), "file_bytes": int64(3 * mib),
				"job_source": "slurm", "job_id": "12", "process_start_ms": boot + int64(self.Start)*10}
			if i == 1 {
				want["bytes"], want["file_bytes"], want["end_ms"] = int64(5*mib), int64(5*mib), int64(5_006_000)
			}
			if name := types[fs.Type]; name != "" {
				want["filesystem"] = name
			}
			for k, v := range want {
				if row[k] != v {
					t.Errorf("row %d: %s is %v, want %v", i, k, row[k], v)
				}
			}
			if _, ends := row["end_ms"]; ends != (i == 1) {
				t.Errorf("row %d: %v", i, row)
			}
		}
	})
}

func TestMemoryMap(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		r.look()
		f, err := os.Create(filepath.Join(t.TempDir(), "map"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err = f.Truncate(64 * mib); err != nil {
			t.Fatal(err)
		}
		r.look()
		m, err := unix.Mmap(int(f.Fd()), 0, 64*mib, unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			for at := i * 8 * mib; at < (i+1)*8*mib; at += 4096 {
				m[at] = 1
			}
			if err = unix.Msync(m, unix.MS_SYNC); err != nil {
				t.Fatal(err)
			}
			r.look()
		}
		if err = unix.Munmap(m); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		r.look()
		rows := r.sink.Rows[wire.KindCheckpoint]
		if len(rows) < 2 {
			t.Fatalf("rows %v", rows)
		}
		if last := rows[len(rows)-1]; last.Int("end_ms") < 0 || last.Int("bytes") < 20*mib || last.Int("bytes") > 30*mib || last.Int("file_bytes") != 64*mib {
			t.Errorf("last row %v", last)
		}
	})
}

// TestChild is a file that a process inherited: it is in one row. Others' files are in none.
func TestChild(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		f, err := os.Create(filepath.Join(t.TempDir(), "shared"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		child := exec.CommandContext(t.Context(), "cat")
		in, err := child.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		child.ExtraFiles = []*os.File{f}
		if err = child.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = in.Close(); _ = child.Wait() }()
		r.lister.List(os.Getpid(), child.Process.Pid)
		r.look()
		for range 2 {
			write(t, f, 2*mib)
			r.look()
		}
		rows := r.sink.Rows[wire.KindCheckpoint]
		if len(rows) != 1 || rows[0].Int("bytes") != 2*mib {
			t.Errorf("rows %v", rows)
		}
		r.lister.List(child.Process.Pid)
		r.tick.BootMs += listMs
		r.look()
		before := len(r.sink.Rows[wire.KindCheckpoint])
		other, err := os.Create(filepath.Join(t.TempDir(), "other"))
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		write(t, other, 4*mib)
		r.look()
		r.look()
		for _, row := range r.sink.Rows[wire.KindCheckpoint][before:] {
			if row.Str("file") == other.Name() {
				t.Errorf("a row of a process that is not watched: %v", row)
			}
		}
	})
}

func TestHidden(t *testing.T) {
	if tasktest.Role() == "hidden" {
		if r := newRig(t, Config{}); r.report.State != source.Degraded || r.report.Fallback == "" {
			t.Errorf("%s: %s", r.report.State, r.report.Reason())
		}
		return
	}
	kerneltest.Require(t, probe.IterFile)
	tasktest.Again(t, "hidden", "TestHidden", func(cmd *exec.Cmd) { cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS })
}

func TestPrivilege(t *testing.T) {
	switch tasktest.Role() {
	case "capable":
		if r := newRig(t, Config{}); !r.byPrograms() {
			t.Errorf("%s: %s", r.report.State, r.report.Reason())
		}
		return
	case "nobody":
		if r := newRig(t, Config{}); r.report.State != source.Degraded || r.report.Errno != syscall.EPERM {
			t.Errorf("%s: %s", r.report.State, r.report.Reason())
		}
		return
	}
	kerneltest.Require(t, probe.IterFile)
	for role, caps := range map[string][]uintptr{"capable": {unix.CAP_BPF, unix.CAP_PERFMON}, "nobody": nil} {
		tasktest.Again(t, role, "TestPrivilege", func(cmd *exec.Cmd) {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
			cmd.SysProcAttr.AmbientCaps = caps
		})
	}
}

// BenchmarkLook reads 400 open files.
func BenchmarkLook(b *testing.B) {
	for _, how := range []string{"bpf", "proc"} {
		b.Run(how, func(b *testing.B) {
			if how == "bpf" {
				kerneltest.Require(b, probe.IterFile)
			}
			r := newRig(b, Config{NoBPF: how == "proc"})
			dir := b.TempDir()
			for i := range 400 {
				f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
				if err != nil {
					b.Fatal(err)
				}
				defer f.Close()
			}
			r.look()
			b.ReportAllocs()
			for b.Loop() {
				r.look()
			}
		})
	}
}

// TestOwnNamespace is an agent whose processes have other numbers than the kernel's programs
// tell: it does not go by these.
func TestOwnNamespace(t *testing.T) {
	if tasktest.Role() != "apart" {
		kerneltest.Require(t, probe.IterFile)
		tasktest.Apart(t, "apart", "TestOwnNamespace")
		return
	}
	r := newRig(t, Config{MinBytes: mib, MinRate: 1})
	want := func() {
		t.Helper()
		if r.report.State != source.Degraded || r.report.Fallback == "" || !strings.Contains(r.report.Why, "hostPID") {
			t.Errorf("%s: %s", r.report.State, r.report.Reason())
		}
	}
	want()
	r.look()
	f, err := os.Create(filepath.Join(t.TempDir(), "model.pt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write(t, f, 3*mib)
	r.look()
	want()
	if rows := r.sink.Rows[wire.KindCheckpoint]; len(rows) != 1 || rows[0].Int("pid") != int64(os.Getpid()) {
		t.Errorf("rows %v of process %d", rows, os.Getpid())
	}
}
