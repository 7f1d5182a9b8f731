package testenv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
)

// engineStop bounds how long a test waits for the engine to stop.
const engineStop = time.Minute

// ClickHouse starts the embedded engine on a directory of its own and stops it when the test ends.
// Without the engine's library it skips the test, or fails it where FLOPWATCH_REQUIRE lists "engine".
func ClickHouse(t testing.TB) (url, user, password string) {
	t.Helper()
	s := ClickHouseServer(t, t.TempDir())
	user, password = s.Auth()
	return s.URL(), user, password
}

// ClickHouseServer is ClickHouse for tests that need the process: on the data directory dir, which may hold data of an earlier one.
func ClickHouseServer(t testing.TB, dir string) *embedded.Server {
	t.Helper()
	cfg := EngineConfig(t)
	cfg.DataDir = dir
	s, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("start engine: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), engineStop)
		defer cancel()
		if serr := s.Stop(ctx); serr != nil {
			t.Errorf("stop engine: %v", serr)
		}
	})
	return s
}

// EngineConfig gives a configuration that starts the engine from a helper binary; the data directory is still to be set.
// It skips or fails the test where the library is missing.
func EngineConfig(t testing.TB) embedded.Config {
	t.Helper()
	root := Root(t)
	lib := filepath.Join(root, "bin", "engine", "libchdb.so")
	_, err := os.Stat(lib)
	if err != nil {
		err = fmt.Errorf("%w (`make build` fetches it)", err)
	}
	Need(t, "engine", err)
	exe, err := engineBinary(root)
	if err != nil {
		t.Fatal(err)
	}
	return embedded.Config{Exe: exe, Args: []string{}, LibPath: lib}
}

// built is the helper binary of this test process.
var built struct {
	once sync.Once
	exe  string
	err  error
}

// engineBinary builds the helper, once a test process; the go command's cache makes the next process's build cheap.
func engineBinary(root string) (string, error) {
	built.once.Do(func() {
		dir := filepath.Join(root, ".cache", "testenv")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			built.err = fmt.Errorf("make a directory for the engine's process: %w", err)
			return
		}
		// Built aside and renamed: another test process may be running the one that is there.
		built.exe = filepath.Join(dir, "enginecmd")
		aside := fmt.Sprintf("%s.%d", built.exe, os.Getpid())
		cmd := exec.Command("go", "build", "-o", aside, "./internal/testenv/enginecmd")
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build the engine's process: %w: %s", err, out)
			return
		}
		if err := os.Rename(aside, built.exe); err != nil {
			built.err = fmt.Errorf("put the engine's process in place: %w", err)
		}
	})
	return built.exe, built.err
}
