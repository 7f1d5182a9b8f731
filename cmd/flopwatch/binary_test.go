package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// patience bounds one run of the binary, so that a hang is a failure with a cause.
const patience = 3 * time.Minute

var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir) // temporary
	}
	os.Exit(code)
}

// binary builds the real command, once a test process, and gives its path and the
// engine's library. Without the engine it skips.
func binary(t testing.TB) (exe, engine string) {
	t.Helper()
	engine = testenv.EngineConfig(t).LibPath
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "flopwatch-binary-"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", built.dir, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build flopwatch: %w: %s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "flopwatch"), engine
}

// ran is what a run of the binary left.
type ran struct {
	code           int
	stdout, stderr string
}

// command is a run of the binary that is not started yet.
func command(ctx context.Context, t testing.TB, env []string, args ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	exe, engine := binary(t)
	if args[0] == "replay" {
		args = slices.Insert(slices.Clone(args), 1, "--engine", engine) // a test's own comes later and holds
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = append(append(os.Environ(), "TMPDIR="+t.TempDir()), env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	return cmd, &stdout, &stderr
}

func flopwatchEnv(t testing.TB, env []string, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd, stdout, stderr := command(ctx, t, env, args...)
	err := cmd.Run()
	if _, exit := errors.AsType[*exec.ExitError](err); err != nil && !exit {
		t.Fatalf("run flopwatch %s: %v", strings.Join(args, " "), err)
	}
	if ctx.Err() != nil {
		t.Fatalf("flopwatch %s did not end; stderr: %s", strings.Join(args, " "), stderr)
	}
	return ran{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func flopwatch(t testing.TB, args ...string) ran {
	t.Helper()
	return flopwatchEnv(t, nil, args...)
}

// replayed runs a replay that has to succeed and gives its answers by file name.
func replayed(t testing.TB, dir string, args ...string) (map[string]string, ran) {
	t.Helper()
	return replayedEnv(t, nil, dir, args...)
}

func replayedEnv(t testing.TB, env []string, dir string, args ...string) (map[string]string, ran) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "answers")
	r := flopwatchEnv(t, env, append([]string{"replay", dir, "--out", out}, args...)...)
	if r.code != 0 {
		t.Fatalf("replay %s: exit code %d, stderr: %s", filepath.Base(dir), r.code, r.stderr)
	}
	return tree(t, out), r
}

// tree reads all files below a folder.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		out[filepath.ToSlash(name)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// same fails the test where two trees of answers differ in any byte.
func same(t testing.TB, got, want map[string]string, what string) {
	t.Helper()
	for name, text := range want {
		switch other, ok := got[name]; {
		case !ok:
			t.Errorf("%s: %s is missing", what, name)
		case other != text:
			t.Errorf("%s: %s differs:\n%s", what, name, firstDifference(other, text))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %s is there too", what, name)
		}
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d\ngot  %s\nwant %s", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("got %d lines, want %d", len(g), len(w))
}

// lines decodes a file of one object a line, without naming its fields.
func lines(t testing.TB, text string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range strings.Lines(text) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		out = append(out, v)
	}
	return out
}

func keys(v map[string]any) []string {
	var out []string
	for k := range v {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
