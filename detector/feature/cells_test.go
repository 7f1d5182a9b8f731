package feature

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCellsAreAskedFor: no stage reads the map of cells, which a large fleet has not filled.
func TestCellsAreAskedFor(t *testing.T) {
	t.Parallel()
	direct := regexp.MustCompile(`\b[eE]v\.GPU\b(\[|\)| )`)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || path == filepath.Join("..", "state.go") || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, filepath.Join("..", "feature")) {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for n, line := range strings.Split(string(text), "\n") {
			if direct.MatchString(line) {
				t.Errorf("%s:%d reads the map of cells: ask Evidence.Cells, CellsFrom, HasGPU or GPUKeys\n%s", path, n+1, line)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
