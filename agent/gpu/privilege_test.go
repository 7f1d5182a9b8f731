package gpu_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// sets gives the lines Cap... of a process or of one of its threads, by name.
func sets(t *testing.T, path string) map[string]uint64 {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if !strings.HasPrefix(name, "Cap") {
			continue
		}
		var v uint64
		if _, err := fmt.Sscanf(strings.TrimSpace(value), "%x", &v); err != nil {
			t.Fatalf("%s: %q: %v", path, line, err)
		}
		out[name] = v
	}
	return out
}

// What the unit's drop-in, or a pod's manifest, grants the agent is not NVIDIA's library's.
func TestChildGetsNoCapability(t *testing.T) {
	var need error
	if os.Geteuid() != 0 {
		need = errors.New("granting capabilities needs root")
	}
	testenv.Need(t, "root", need)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Where the other user can run it.
	dir, err := os.MkdirTemp("/tmp", "flopwatch-gpu-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // scratch
	exe := filepath.Join(dir, "agent")
	binary, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(exe, binary, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	const granted = 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON | 1<<unix.CAP_SYS_PTRACE
	for name, attr := range map[string]*syscall.SysProcAttr{
		"user": {Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: []uintptr{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_PTRACE}},
		"root": {},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), exe)
			cmd.Env = []string{fakeMode + "=agent", "PATH=/usr/bin"}
			cmd.SysProcAttr = attr
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait() // killed
			})
			var pid int
			if _, err = fmt.Fscan(out, &pid); err != nil || pid <= 0 {
				t.Fatalf("child %d: %v", pid, err)
			}
			agent, child := sets(t, fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)), sets(t, fmt.Sprintf("/proc/%d/status", pid))
			if agent["CapEff"]&granted != granted {
				t.Errorf("the agent has lost its own: %x", agent)
			}
			// What is inheritable is given by marks on a program's file alone, and it has none.
			for _, set := range []string{"CapPrm", "CapEff", "CapAmb"} {
				if v, ok := child[set]; !ok || v&granted != 0 {
					t.Errorf("the child's %s is %x", set, v)
				}
			}
			// One thread of the agent has shed them, and starts nothing but children.
			threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			without := 0
			for _, path := range threads {
				if s := sets(t, path); s["CapEff"]&granted != granted || name == "user" && s["CapAmb"] == 0 {
					without++
				}
			}
			if without != 1 || len(threads) < 2 {
				t.Errorf("%d of %d threads lack what was granted, want 1", without, len(threads))
			}
		})
	}
}
