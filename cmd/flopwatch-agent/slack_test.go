package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestRelax starts the agent with several slacks and looks at all of its threads. Its child is
// started by one of them and has theirs.
func TestRelax(t *testing.T) {
	if _, err := os.ReadFile("/proc/1/timerslack_ns"); err != nil {
		testenv.Need(t, "root", fmt.Errorf("read another's slack: %w", err))
	}
	for name, tt := range map[string]struct{ before, want time.Duration }{
		"the kernel's own": {50 * time.Microsecond, timerSlack},
		"less":             {time.Microsecond, timerSlack},
		"an operator's":    {300 * time.Microsecond, 300 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			config := write(t, fast(t.TempDir(), "nats://127.0.0.1:1", noGPU))
			runtime.LockOSThread() // what is started here has this thread's slack
			if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(tt.before), 0, 0, 0); err != nil {
				t.Fatal(err)
			}
			p := start(t, config)
			if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0); err != nil {
				t.Fatal(err)
			}
			runtime.UnlockOSThread()
			p.says("sampling")
			threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.cmd.Process.Pid))
			if err != nil || len(threads) < 3 {
				t.Fatalf("%d threads: %v", len(threads), err)
			}
			for _, thread := range threads {
				b, err := os.ReadFile(filepath.Join("/proc", thread.Name(), "timerslack_ns"))
				if err != nil {
					continue // it has ended
				}
				if got := strings.TrimSpace(string(b)); got != fmt.Sprint(tt.want.Nanoseconds()) {
					t.Errorf("thread %s has a slack of %s ns, want %d", thread.Name(), got, tt.want.Nanoseconds())
				}
			}
			p.stop()
		})
	}
}

// TestRelaxKeepsToItself starts the agent while an upgrade puts another file in its place, which may
// be half written, or of another release: it goes on as what it is, with all the files it may open.
func TestRelaxKeepsToItself(t *testing.T) {
	for name, other := range map[string]string{"gone": "", "another program": "/bin/true"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "flopwatch-agent")
			copyFile(t, binary(t), path)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }() // was only read
			if err = os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if other != "" {
				copyFile(t, other, path)
			}
			config := write(t, fast(t.TempDir(), "nats://127.0.0.1:1", noGPU))
			p := &process{t: t, cmd: exec.Command("/proc/self/fd/3", "-config", config), log: &buffer{}}
			p.cmd.ExtraFiles, p.cmd.Stderr = []*os.File{f}, p.log
			p.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
			if err = p.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			p.end = sync.OnceValue(p.cmd.Wait)
			t.Cleanup(func() {
				_ = p.cmd.Process.Kill()
				_ = p.end()
			})
			p.says("sampling")
			p.stop()
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
}
