package embedded_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestDiskHook: what the engine writes is written, or waits, or ends the process, and never comes back as an error of the disk. In a process of its own, which a
// library that is loaded never leaves.
func TestDiskHook(t *testing.T) {
	t.Parallel()
	const as = "FLOPWATCH_TEST_HOOK"
	lib := testenv.EngineConfig(t).LibPath
	if what := os.Getenv(as); what != "" {
		hookChild(t, lib, what)
		return
	}
	for what, want := range map[string]struct {
		code int
		says string
	}{
		"file": {0, "PASS"}, "full": {0, "it waits"}, "refused": {74, "the disk refuses"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestDiskHook$", "-test.v")
			cmd.Env = append(os.Environ(), as+"="+what)
			out, err := cmd.CombinedOutput()
			exit, ok := errors.AsType[*exec.ExitError](err)
			if err != nil && !ok {
				t.Fatal(err)
			}
			code := 0
			if ok {
				code = exit.ExitCode()
			}
			if code != want.code || !strings.Contains(string(out), want.says) {
				t.Errorf("it ends with %d, want %d and %q: %s", code, want.code, want.says, out)
			}
		})
	}
}

func hookChild(t *testing.T, lib, what string) {
	t.Helper()
	open := func(path string, flags int) *os.File {
		f, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	call := func(hook int, f *os.File, b string, want int) {
		if n, err := embedded.Hooked(lib, hook, f, []byte(b)); n != want || err != nil {
			t.Errorf("hook %d gives %d, %v, want %d", hook, n, err, want)
		}
	}
	switch what { // a process that ends in its midst leaves no folder of its own behind: only this one has any
	case "file":
		path := filepath.Join(t.TempDir(), "x")
		f := open(path, os.O_RDWR|os.O_CREATE)
		call(0, f, "abcd", 4)
		call(1, f, "XY", 2) // at 1
		call(3, f, "", 0)
		r := open(path, os.O_RDONLY)
		call(0, r, "z", -1) // EBADF: not the disk's
		if b, err := os.ReadFile(path); err != nil || string(b) != "aXYd" {
			t.Errorf("%q, %v", b, err)
		}
	case "full":
		full := open("/dev/full", os.O_WRONLY)
		go func() {
			for embedded.DiskStalls() < 3 {
				runtime.Gosched()
			}
			_, _ = os.Stdout.WriteString("it waits\n")
			embedded.DiskHurry()
		}()
		call(0, full, "x", 0) // ends the process, with 0
		t.Error("a write to a full disk came back")
	case "refused":
		mem := open("/proc/self/mem", os.O_WRONLY)
		call(0, mem, "x", -1) // EIO: nothing is mapped at 0
		t.Error("a write that the disk refused came back")
	}
}
