package detector

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestSubsets judges a recording of which only some files are there: telemetry may be
// missing for any subset. Every line is JSON, whatever is missing.
func TestSubsets(t *testing.T) {
	t.Parallel()
	whole := filepath.Join(testenv.Root(t), "deploy", "recordings", "clean-mix")
	all, err := os.ReadDir(whole)
	if err != nil {
		t.Fatal(err)
	}
	for name, keep := range map[string]func(file string) bool{
		"gpu alone":  func(f string) bool { return strings.HasPrefix(f, "gpu.") },
		"host alone": func(f string) bool { return strings.HasPrefix(f, "host.") },
		"processes and collectives": func(f string) bool {
			return strings.HasPrefix(f, "processes.") || strings.HasPrefix(f, "collectives.") || strings.HasPrefix(f, "flows.")
		},
		"no nodes and no allocations": func(f string) bool { return !strings.HasPrefix(f, "nodes.") && !strings.HasPrefix(f, "allocations.") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, e := range all {
				if e.Name() != "manifest.json" && !keep(e.Name()) {
					continue
				}
				if err := os.Symlink(filepath.Join(whole, e.Name()), filepath.Join(dir, e.Name())); err != nil {
					t.Fatal(err)
				}
			}
			runs, findings := judgeRecording(t, dir)
			for _, l := range append(runs, findings...) {
				if !json.Valid([]byte(l)) {
					t.Errorf("not JSON: %s", l)
				}
			}
			if strings.HasPrefix(name, "gpu") && len(runs) == 0 {
				t.Error("no activity, though GPUs were seen at work")
			}
		})
	}
}
