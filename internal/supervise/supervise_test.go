package supervise_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/supervise"
)

// Roles of this binary as a child, by the variable ROLE.
func TestMain(m *testing.M) {
	switch role := os.Getenv("ROLE"); role {
	case "":
		os.Exit(m.Run())
	case "serve", "stubborn":
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		fmt.Fprintln(os.Stderr, "serving")
		if err := os.WriteFile(os.Getenv("MARK"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			os.Exit(3)
		}
		for range ended {
			if role == "serve" {
				os.Exit(0)
			}
		}
	case "die":
		fmt.Fprintln(os.Stderr, "no more paper")
		os.Exit(4)
	case "parent": // runs a tree of one child until it is killed
		tree, err := supervise.TakeTree(context.Background(), os.Getenv("DIR"), time.Second)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		l, err := supervise.OpenLog(filepath.Join(os.Getenv("DIR"), "child.log"), 1<<20, 1, nil, "")
		if err != nil {
			os.Exit(1)
		}
		s, err := supervise.New(supervise.Config{Tree: tree, Now: time.Now, Children: []supervise.Spec{child("a", "serve", os.Getenv("DIR"), l)}})
		if err != nil {
			os.Exit(1)
		}
		_ = s.Run(context.Background())
	}
}

// child is this binary in a role; once it serves, DIR/NAME holds its process id.
func child(name, role, dir string, l *supervise.Log) supervise.Spec {
	mark := filepath.Join(dir, name)
	return supervise.Spec{
		Name: name, Path: "/proc/self/exe", Env: []string{"ROLE=" + role, "MARK=" + mark}, Log: l,
		Check: func(context.Context) supervise.Report {
			if _, err := os.Stat(mark); err != nil {
				return supervise.Report{State: supervise.Failing, Reasons: []string{"not yet"}}
			}
			return supervise.Report{State: supervise.Ready}
		},
	}
}

// rig runs a supervisor and records what changed.
type rig struct {
	t    *testing.T
	dir  string
	s    *supervise.Supervisor
	stop context.CancelFunc
	done chan error

	mu      sync.Mutex
	changes []string
	wake    chan struct{}
}

func openLog(t *testing.T, dir, name string) *supervise.Log {
	t.Helper()
	l, err := supervise.OpenLog(filepath.Join(dir, name+".log"), 1<<20, 1, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func start(t *testing.T, dir string, children ...supervise.Spec) *rig {
	t.Helper()
	tree, err := supervise.TakeTree(t.Context(), dir, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	r := &rig{t: t, dir: dir, done: make(chan error, 1), wake: make(chan struct{}, 1)}
	r.s, err = supervise.New(supervise.Config{
		Children: children, Tree: tree, Now: time.Now, BackoffMin: 5 * time.Millisecond, BackoffMax: 20 * time.Millisecond, AskEvery: 50 * time.Millisecond,
		Changed: func(st supervise.Status) {
			r.mu.Lock()
			r.changes = append(r.changes, st.Name+" "+string(st.State))
			r.mu.Unlock()
			select {
			case r.wake <- struct{}{}:
			default:
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	go func() { r.done <- r.s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-r.done
	})
	return r
}

// until waits for a condition.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-r.wake:
		case <-tick.C:
		case <-limit.C:
			r.t.Fatalf("waited in vain for: %s; %+v", what, r.s.Status())
		}
	}
}

func (r *rig) state(i int) supervise.Status { return r.s.Status()[i] }

func (r *rig) end() error {
	r.stop()
	err := <-r.done
	r.done <- err // for the cleanup
	return err
}

func TestOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	second := child("b", "serve", dir, openLog(t, dir, "b"))
	second.Before = func(context.Context) error {
		if _, err := os.Stat(filepath.Join(dir, "a")); err != nil {
			t.Error("b's turn came before a was ready")
		}
		return nil
	}
	r := start(t, dir, child("a", "serve", dir, openLog(t, dir, "a")), second)
	r.until("both are ready", func() bool { return r.state(1).State == supervise.Ready })
	if pid, err := supervise.Holder(dir); err != nil || pid != os.Getpid() {
		t.Errorf("holder %d, %v", pid, err)
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var stops []string
	for _, c := range r.changes {
		if strings.HasSuffix(c, "stopped") {
			stops = append(stops, c)
		}
	}
	if want := []string{"b stopped", "a stopped"}; !slices.Equal(stops, want) {
		t.Errorf("stopped as %q, want %q", stops, want)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := start(t, dir, child("a", "serve", dir, openLog(t, dir, "a")))
	for kills := range 3 {
		r.until("it is ready", func() bool { return r.state(0).State == supervise.Ready && r.state(0).Restarts == kills })
		if err := os.Remove(filepath.Join(dir, "a")); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(r.state(0).PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	r.until("it is back", func() bool { return r.state(0).State == supervise.Ready && r.state(0).Restarts == 3 })
	if got := r.state(0).LastExit; got != "killed by SIGKILL" {
		t.Errorf("last exit %q", got)
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
}

func TestNeeded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	needed := child("broken", "die", dir, openLog(t, dir, "broken"))
	needed.Needed = true
	r := start(t, dir, needed, child("never", "serve", dir, openLog(t, dir, "never")))
	err := <-r.done
	r.done <- err
	if err == nil || !strings.Contains(err.Error(), "start broken: it died 4 times, last: exit 4: no more paper") {
		t.Errorf("got %v", err)
	}
	if st := r.state(1); st.State != supervise.Waiting {
		t.Errorf("the next child: %+v", st)
	}
}

func TestStubborn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := child("a", "stubborn", dir, openLog(t, dir, "a"))
	c.StopAfter = 50 * time.Millisecond
	r := start(t, dir, c)
	r.until("it is ready", func() bool { return r.state(0).State == supervise.Ready })
	pid := r.state(0).PID
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	if supervise.Alive(pid) {
		t.Errorf("process %d lives on", pid)
	}
}

// TestParentDies kills a parent: its child ends, and the directory is free for the next.
func TestParentDies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	parent := exec.Command("/proc/self/exe")
	parent.Env = []string{"ROLE=parent", "DIR=" + dir}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, wake: make(chan struct{}), s: &supervise.Supervisor{}}
	var pid int
	r.until("the child serves", func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "a"))
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(string(text))
		return err == nil
	})
	_, err := supervise.TakeTree(t.Context(), dir, time.Second)
	if held, ok := errors.AsType[supervise.HeldError](err); !ok || held.PID != parent.Process.Pid {
		t.Errorf("a second parent: %v", err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed
	tree, err := supervise.TakeTree(t.Context(), dir, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if supervise.Alive(pid) {
		t.Errorf("child %d outlives its parent", pid)
	}
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	if holder, err := supervise.Holder(dir); holder != 0 || err != nil {
		t.Errorf("holder %d, %v", holder, err)
	}
}

// TestLinger holds the tree's lock as an orphan would.
func TestLinger(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, supervise.TreeLock))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err = fmt.Fprintf(f, "%d\n999999999\n", os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	_, err = supervise.TakeTree(t.Context(), dir, 100*time.Millisecond)
	if l, ok := errors.AsType[supervise.LingerError](err); !ok || !slices.Equal(l.PIDs, []int{os.Getpid()}) {
		t.Errorf("got %v", err)
	}
}

func TestLogTurns(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.log")
	var echo strings.Builder
	l, err := supervise.OpenLog(path, 20, 2, &echo, "x | ")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 7 {
		if _, err := fmt.Fprintf(l, "line %d\nhal", i); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(l, "f\n"); err != nil {
			t.Fatal(err)
		}
	}
	if l.Last() != "half" {
		t.Errorf("last %q", l.Last())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	all := ""
	for _, name := range []string{".2", ".1", ""} { // from the oldest on
		got, err := os.ReadFile(path + name)
		if err != nil || len(got) > 20 || len(got) == 0 {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		all += string(got)
	}
	if !strings.HasSuffix(all, "line 5\nhalf\nline 6\nhalf\n") {
		t.Errorf("files hold %q", all)
	}
	if _, err := os.Stat(path + ".3"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a third old file: %v", err)
	}
	if got := echo.String(); !strings.HasPrefix(got, "x | line 0\nx | half\nx | line 1\n") {
		t.Errorf("echo %q", got)
	}
}
