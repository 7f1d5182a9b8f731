package embedded_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
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

// TestDocumentedTests: each test that deploy/clickhouse/EMBEDDED.md names is there.
func TestDocumentedTests(t *testing.T) {
	t.Parallel()
	root := testenv.Root(t)
	doc, err := os.ReadFile(filepath.Join(root, "deploy", "clickhouse", "EMBEDDED.md"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		b, rerr := os.ReadFile(f)
		if rerr != nil {
			t.Fatal(rerr)
		}
		all.Write(b)
	}
	names := regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w+`).FindAllString(string(doc), -1)
	if len(names) < 40 {
		t.Errorf("only %d tests are named", len(names))
	}
	for _, n := range names {
		if !strings.Contains(all.String(), "func "+n+"(") {
			t.Errorf("there is no %s", n)
		}
	}
}

// TestLibraryFiles: what is no library of the engine is told from it before it is loaded.
func TestLibraryFiles(t *testing.T) {
	t.Parallel()
	cfg := testenv.EngineConfig(t)
	dir := t.TempDir()
	in, err := os.Open(cfg.LibPath)
	if err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 1<<20)
	if _, err = io.ReadFull(in, head); err != nil {
		t.Fatal(err)
	}
	info, err := in.Stat()
	if err = errors.Join(err, in.Close()); err != nil {
		t.Fatal(err)
	}
	exe, err := os.ReadFile(cfg.Exe)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b     []byte
		stamp string
		want  string
	}{
		"truncated": {head, "", "truncated"}, "text": {[]byte("not a library"), "", "no library, or truncated"}, "empty": {nil, "", "no library, or truncated"}, "a program": {exe, "", "load engine library"},
		"another size than was fetched": {head, "@chdb/x sha256:1 " + strconv.FormatInt(info.Size(), 10), "bytes, and had"},
	} {
		own := filepath.Join(dir, strings.ReplaceAll(name, " ", "_"))
		lib := filepath.Join(own, "libchdb.so")
		if err = errors.Join(os.Mkdir(own, 0o700), os.WriteFile(lib, c.b, 0o600)); err != nil {
			t.Fatal(err)
		}
		if c.stamp != "" {
			if err = os.WriteFile(filepath.Join(own, "stamp"), []byte(c.stamp), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cfg.LibPath, cfg.DataDir = lib, filepath.Join(own, "data")
		if _, err = embedded.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "make engine") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err = embedded.CheckCPU(true, false, true); err == nil || !strings.Contains(err.Error(), "AVX2") || !strings.Contains(err.Error(), "configure a ClickHouse server") {
		t.Errorf("a processor without: %v", err)
	}
}

// TestLaterData: data that a later engine wrote are refused, and left alone.
func TestLaterData(t *testing.T) {
	t.Parallel()
	cfg := testenv.EngineConfig(t)
	cfg.DataDir = t.TempDir()
	s, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	stopEngine(t, s)
	version := filepath.Join(cfg.DataDir, "version")
	if b, rerr := os.ReadFile(version); rerr != nil || string(b) != "26.7.3\n" {
		t.Errorf("the data's version is %q, %v", b, rerr)
	}
	if err = os.WriteFile(version, []byte("26.10.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = embedded.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "written by engine 26.10.1, and this one is 26.7.3") {
		t.Errorf("later data: %v", err)
	}
}
