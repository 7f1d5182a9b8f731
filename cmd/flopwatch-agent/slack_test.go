package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
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
