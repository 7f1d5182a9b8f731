package embedded_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestEngineInProcess loads the engine into the test's own process, once, and shows what the front relies on: Go's own handling of signals survives it,
// text is handed over with its length, and the engine's parser tells statements apart.
func TestEngineInProcess(t *testing.T) {
	lib := filepath.Join(testenv.Root(t), "bin", "engine", "libchdb.so")
	_, err := os.Stat(lib)
	testenv.Need(t, "engine", err)
	e, err := embedded.OpenEngine(lib, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if e.Version != "26.7.3" {
		t.Errorf("version %s", e.Version)
	}
	func() {
		defer func() {
			re, ok := recover().(runtime.Error)
			if !ok || !strings.Contains(re.Error(), "nil pointer") {
				t.Errorf("recovered %v", re)
			}
		}()
		var p *embedded.Config
		p.Exe = "x" //nolint:govet // the point of the test
	}()
	if got, serr := e.Select("SELECT {x:String} = 'a\\0b'", "a\x00b"); serr != nil || got != "1\n" {
		t.Errorf("a parameter with a NUL gave %q, %v", got, serr)
	}
	for query, want := range map[string]int{"SELECT 1": 0, "INSERT INTO t FORMAT CSV": 1, "CREATE USER x": 2, "SYSTEM SHUTDOWN": 3, "SELEC 1 2": 4} {
		if class, cerr := e.Class(query); cerr != nil || class != want {
			t.Errorf("class of %q: %d, %v; want %d", query, class, cerr, want)
		}
	}
}
