package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Tree is the right to run processes on a directory: one parent at a time, and not before
// the last process of an earlier one is gone.
type Tree struct {
	parent *os.File // locked by the parent alone
	shared *os.File // locked by the parent, and inherited by every child
}

// Names of the lock files.
const (
	ParentLock = "lock"
	TreeLock   = "tree.lock"
)

// HeldError says that a parent runs on the directory already.
type HeldError struct{ PID int } // 0: not known

// Error names the process.
func (e HeldError) Error() string {
	if e.PID == 0 {
		return "another process runs on it"
	}
	return fmt.Sprintf("process %d runs on it", e.PID)
}

// LingerError says that processes of an earlier parent, which is gone, are still there.
type LingerError struct{ PIDs []int }

// Error names the processes.
func (e LingerError) Error() string {
	var names []string
	for _, p := range e.PIDs {
		names = append(names, strconv.Itoa(p))
	}
	return "processes of an earlier start have not ended: " + strings.Join(names, " ")
}

// lockPoll is how often a lock is tried again; parentPatience how long the parent's is, which
// somebody may have looked at just now (Holder).
const (
	lockPoll       = 50 * time.Millisecond
	parentPatience = 250 * time.Millisecond
)

// TakeTree takes the locks in dir, which exists. A living parent is a HeldError at once; for
// orphans it waits, at most patience, and then gives a LingerError.
func TakeTree(ctx context.Context, dir string, patience time.Duration) (_ *Tree, err error) {
	t := &Tree{}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.parent, err = os.OpenFile(filepath.Join(dir, ParentLock), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err = waitLock(ctx, t.parent, parentPatience); err != nil {
		if _, held := errors.AsType[LingerError](err); held {
			pid, _ := readPID(t.parent) // only to name it
			err = HeldError{pid}
		}
		return nil, err
	}
	if t.shared, err = os.OpenFile(filepath.Join(dir, TreeLock), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err = waitLock(ctx, t.shared, patience); err != nil {
		return nil, err
	}
	if err = writePIDs(t.parent, os.Getpid()); err != nil {
		return nil, err
	}
	return t, writePIDs(t.shared)
}

func waitLock(ctx context.Context, f *os.File, patience time.Duration) error {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for try := patience / lockPoll; ; try-- {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		case try <= 0:
			return LingerError{living(f)}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for processes of an earlier start: %w", ctx.Err())
		}
	}
}

// Holder tells which parent runs on dir: 0 if none does.
func Holder(dir string) (pid int, err error) {
	f, err := os.Open(filepath.Join(dir, ParentLock))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open lock: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	switch err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); {
	case err == nil:
		return 0, nil // closing gives it back
	case !errors.Is(err, syscall.EWOULDBLOCK):
		return 0, fmt.Errorf("try lock %s: %w", f.Name(), err)
	}
	if pid, err = readPID(f); err != nil {
		return 0, err
	}
	return pid, nil
}

func readPID(f *os.File) (int, error) {
	pids, err := readPIDs(f)
	if err != nil || len(pids) == 0 {
		return 0, err
	}
	return pids[0], nil
}

func readPIDs(f *os.File) ([]int, error) {
	text := make([]byte, 512)
	n, err := f.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read lock %s: %w", f.Name(), err)
	}
	var pids []int
	for field := range strings.FieldsSeq(string(text[:n])) {
		if pid, perr := strconv.Atoi(field); perr == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// living are the processes that the file names and that are there.
func living(f *os.File) []int {
	pids, _ := readPIDs(f) // only to name them
	var out []int
	for _, p := range pids {
		if Alive(p) {
			out = append(out, p)
		}
	}
	return out
}

// Alive reports whether a process is there. One that has ended and that nobody has reaped is not.
func Alive(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	// pid (name) state ...: the name may hold blanks and brackets.
	rest := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	return len(rest) > 0 && rest[0] != "Z" && rest[0] != "X"
}

func writePIDs(f *os.File, pids ...int) error {
	var text strings.Builder
	for _, p := range pids {
		_, _ = fmt.Fprintln(&text, p) // a Builder does not fail
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("write lock %s: %w", f.Name(), err)
	}
	if _, err := f.WriteAt([]byte(text.String()), 0); err != nil {
		return fmt.Errorf("write lock %s: %w", f.Name(), err)
	}
	return nil
}

// Close gives the locks back; the tree's stays locked while a child lives.
func (t *Tree) Close() error {
	var errs []error
	for _, f := range []*os.File{t.shared, t.parent} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	t.shared, t.parent = nil, nil
	return errors.Join(errs...)
}
