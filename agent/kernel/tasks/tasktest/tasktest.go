// Package tasktest holds what tests of features share: a list of processes, a sink that
// keeps rows, and running a test again under other circumstances. It must not be imported
// by products.
package tasktest

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Lister lists the processes that it is given.
type Lister struct {
	mu   sync.Mutex
	pids []int32
	seq  uint64
	part bool
}

// List sets the processes.
func (l *Lister) List(pids ...int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pids, l.seq = l.pids[:0], l.seq+1
	for _, p := range pids {
		l.pids = append(l.pids, int32(p))
	}
}

// Part says whether there is a GPU whose processes are not known.
func (l *Lister) Part(part bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = part
}

// GPUProcesses implements source.ProcessLister.
func (l *Lister) GPUProcesses() (list []source.GPUProcess, seq uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.pids {
		list = append(list, source.GPUProcess{PID: p})
	}
	return list, l.seq, !l.part
}

// Jobs names jobs by process and by control group.
type Jobs struct {
	PID   map[int32]source.Job
	Group func(path string) (source.Job, bool)
}

// JobOf implements source.JobFinder.
func (j Jobs) JobOf(pid int32) (source.Job, bool) { v, ok := j.PID[pid]; return v, ok }

// JobOfCgroup implements source.JobFinder.
func (j Jobs) JobOfCgroup(path string) (source.Job, bool) {
	if j.Group == nil {
		return source.Job{}, false
	}
	return j.Group(path)
}

// Row is a row by the names of its fields. What is absent is not in it.
type Row map[string]any

// Int returns an integer field; -1 if it is absent.
func (r Row) Int(name string) int64 {
	if v, ok := r[name].(int64); ok {
		return v
	}
	return -1
}

// Str returns a string field; "" if it is absent.
func (r Row) Str(name string) string { v, _ := r[name].(string); return v }

// Sink keeps rows and statuses.
type Sink struct {
	Rows     map[wire.Kind][]Row
	Sources  map[wire.Kind][]wire.Source // of the rows
	Statuses []source.Status
	Errors   []error
}

// Row implements source.Sink.
func (s *Sink) Row(kind wire.Kind, src wire.Source, _ string, prepare, fill func(b *wire.Builder)) {
	b := wire.NewBuilder(kind, src)
	if prepare != nil {
		prepare(b)
	}
	b.Begin()
	fill(b)
	if err := b.End(); err != nil {
		s.Errors = append(s.Errors, err)
		return
	}
	t := b.Build()
	r := Row{}
	for i := range t.Columns {
		c := &t.Columns[i]
		if !c.Has(0) {
			continue
		}
		at := slices.IndexFunc(wire.Schema[kind], func(f wire.Field) bool { return f.ID == c.Field })
		f := wire.Schema[kind][at]
		if f.Type == wire.Str {
			r[f.Name] = c.Str(0)
		} else {
			r[f.Name] = c.Int[0]
		}
	}
	if s.Rows == nil {
		s.Rows, s.Sources = map[wire.Kind][]Row{}, map[wire.Kind][]wire.Source{}
	}
	s.Rows[kind], s.Sources[kind] = append(s.Rows[kind], r), append(s.Sources[kind], src)
}

// Status implements source.Sink.
func (s *Sink) Status(st source.Status) { s.Statuses = append(s.Statuses, st) }

const asked = "FLOPWATCH_TASKTEST"

// Role is what this process was started for by Again or Start; "" in the test itself.
func Role() string { return os.Getenv(asked) } //nolint:forbidigo // a test's own variable

// Command is this test program again, as role; TestMain or the test named by run looks at
// Role.
func Command(tb testing.TB, role, run string) *exec.Cmd {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), "/proc/self/exe", "-test.run=^"+run+"$", "-test.v") //nolint:gosec // its own program
	cmd.Env = append(os.Environ(), asked+"="+role)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Again runs a test of this program in another process, changed by change, and fails where
// it fails.
func Again(tb testing.TB, role, run string, change func(cmd *exec.Cmd)) {
	tb.Helper()
	cmd := Command(tb, role, run)
	change(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Errorf("as %s: %v\n%s", role, err, out)
	}
	if !strings.Contains(string(out), "PASS: "+run) {
		tb.Errorf("as %s: the test did not run:\n%s", role, out)
	}
}

// Apart runs a test of this program as role in a process namespace of its own; there TestMain
// calls OwnPIDs.
func Apart(tb testing.TB, role, run string) {
	tb.Helper()
	Again(tb, role, run, func(cmd *exec.Cmd) { cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS })
}

// OwnPIDs makes /proc that of the process namespace of the calling process; it needs a mount
// namespace of its own.
func OwnPIDs() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount the own /proc: %w", err)
	}
	return nil
}

// HideBTF takes the kernel's types from the calling process and what it starts; it needs a
// mount namespace of its own (syscall.CLONE_NEWNS).
func HideBTF() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("none", "/sys/kernel/btf", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("hide the kernel's types: %w", err)
	}
	return nil
}
