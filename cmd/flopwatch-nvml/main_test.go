package main

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// build makes the command as the Makefile does.
func build(t *testing.T, cgo bool) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "flopwatch-nvml")
	args := []string{"build", "-trimpath", "-o", out}
	env := "CGO_ENABLED=0"
	if cgo {
		_, err := exec.LookPath("gcc")
		testenv.Need(t, "cc", err)
		env = "CGO_ENABLED=1"
		args = append(args, "-ldflags", makefileFlags(t))
	}
	cmd := exec.CommandContext(t.Context(), "go", append(args, ".")...)
	cmd.Env = append(os.Environ(), env)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, text)
	}
	return out
}

func makefileFlags(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testenv.Root(t), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^\tCGO_ENABLED=1 .*-ldflags="([^"]*)" -o bin/flopwatch-nvml`).FindSubmatch(text)
	if m == nil {
		t.Fatal("the Makefile does not build flopwatch-nvml any more")
	}
	return string(m[1])
}

// Linked with -z now, it would not even start where the driver lacks one of 400 functions.
func TestBindsLazily(t *testing.T) {
	f, err := elf.Open(build(t, true))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	libs, err := f.ImportedLibraries()
	if err != nil || len(libs) == 0 {
		t.Fatalf("it is static: %v, %v", libs, err)
	}
	for _, lib := range libs {
		if strings.Contains(lib, "nvidia") {
			t.Errorf("it cannot start without %s", lib)
		}
	}
	for tag, bad := range map[elf.DynTag]uint64{elf.DT_FLAGS: uint64(elf.DF_BIND_NOW), elf.DT_FLAGS_1: 1, elf.DT_BIND_NOW: ^uint64(0)} {
		values, verr := f.DynValue(tag)
		if verr != nil {
			t.Fatal(verr)
		}
		for _, v := range values {
			if tag == elf.DT_BIND_NOW || v&bad != 0 {
				t.Errorf("%v is %#x: all functions are bound at the start", tag, v)
			}
		}
	}
	if s := f.Section(".plt"); s == nil {
		t.Error("it has no .plt: calls are not bound lazily")
	}
}

// The agent is what must run everywhere: no loader, no library.
func TestAgentIsStatic(t *testing.T) {
	out := filepath.Join(t.TempDir(), "flopwatch-agent")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", out, "./cmd/flopwatch-agent")
	cmd.Dir, cmd.Env = testenv.Root(t), append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, text)
	}
	f, err := elf.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if libs, err := f.ImportedLibraries(); len(libs) != 0 {
		t.Errorf("it needs %v (%v)", libs, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("it needs a loader")
		}
	}
}

func TestWithoutCgo(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), build(t, false))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err == nil || cmd.ProcessState.ExitCode() != exitUsage || !strings.Contains(stderr.String(), "built without cgo") {
		t.Errorf("exit %d, %v: %s", cmd.ProcessState.ExitCode(), err, stderr.String())
	}
}

func TestArguments(t *testing.T) {
	var stdout, stderr bytes.Buffer
	for _, c := range []struct {
		args []string
		code int
	}{{[]string{"-version"}, 0}, {[]string{"-h"}, 0}, {[]string{"-nonsense"}, exitUsage}, {[]string{"file"}, exitUsage}} {
		if code, _ := run(c.args, &stdout, &stderr); code != c.code {
			t.Errorf("%v: exit %d, want %d", c.args, code, c.code)
		}
	}
	if !strings.Contains(stdout.String(), "go1.") {
		t.Errorf("version: %q", stdout.String())
	}
}

// Whatever a library prints does not come between frames, and the end of the input ends it.
func TestEndOfInput(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), build(t, true), "-library", "/nowhere/libnvidia-ml.so.1")
	cmd.Stdin = strings.NewReader("")
	if out, err := cmd.CombinedOutput(); err != nil || len(out) != 0 {
		t.Errorf("%v: %s", err, out)
	}
}

// What doctor reads: JSON on standard output, whatever there is.
func TestDescribe(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), build(t, true), "-describe", "-timeout", "20s", "-library", "/nowhere/libnvidia-ml.so.1")
	out, err := cmd.Output()
	if err == nil || cmd.ProcessState.ExitCode() != exitFailure {
		t.Errorf("exit %d, %v", cmd.ProcessState.ExitCode(), err)
	}
	var found struct {
		Code int              `json:"code"`
		Text string           `json:"text"`
		GPUs []map[string]any `json:"gpus"`
	}
	if err = json.Unmarshal(out, &found); err != nil || found.Code != 12 || found.Text == "" || found.GPUs == nil {
		t.Errorf("%s: %v", out, err)
	}
	cmd = exec.CommandContext(t.Context(), build(t, true), "-describe", "-timeout", "-1s")
	if text, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != exitUsage || !strings.Contains(string(text), "-timeout") {
		t.Errorf("exit %d: %s", cmd.ProcessState.ExitCode(), text)
	}
}
