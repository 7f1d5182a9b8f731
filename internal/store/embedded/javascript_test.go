package embedded_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestJavaScriptClient runs ClickHouse's official client for JavaScript, unchanged, through what programs do with it (testdata/client.js).
func TestJavaScriptClient(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	testenv.Need(t, "jsclient", err)
	modules := filepath.Join(testenv.Root(t), ".cache", "jsclient", "node_modules")
	_, err = os.Stat(filepath.Join(modules, "@clickhouse", "client"))
	testenv.Need(t, "jsclient", err) // jsclient/fetch.sh fetches it
	s := testenv.ClickHouseServer(t, t.TempDir())
	user, password := s.Auth()
	cmd := exec.CommandContext(t.Context(), node, filepath.Join("testdata", "client.js"), s.URL(), user, password)
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	good := 0
	for line := range strings.Lines(stdout.String()) {
		switch {
		case strings.HasPrefix(line, "ok "):
			good++
		default:
			t.Error(strings.TrimSpace(line))
		}
	}
	if err != nil || good < 60 {
		t.Errorf("%d checks passed: %v: %s", good, err, stderr.Bytes())
	}
	if s.Restarts() != 0 {
		t.Errorf("the engine died %d times", s.Restarts())
	}
}
