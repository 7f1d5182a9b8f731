package gen

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// TestCommitted compiles all sources anew and compares with what is committed. It runs
// where the pinned compiler is, and must where FLOPWATCH_REQUIRE lists "clang".
func TestCommitted(t *testing.T) {
	for _, tool := range []string{"clang-16", "llvm-strip-16", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			for name := range strings.SplitSeq(os.Getenv("FLOPWATCH_REQUIRE"), ",") {
				if strings.TrimSpace(name) == "clang" {
					t.Fatalf("clang is required by FLOPWATCH_REQUIRE and missing: %v", err)
				}
			}
			t.Skipf("clang is missing: %v", err)
		}
	}
	out := t.TempDir()
	if text, err := exec.CommandContext(t.Context(), "bash", "generate.sh", out).CombinedOutput(); err != nil {
		t.Fatalf("generate: %v\n%s", err, text)
	}
	made := map[string]bool{}
	err := filepath.WalkDir(out, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(out, path)
		if err != nil {
			return err
		}
		made[name] = true
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Errorf("bpf/%s is not committed: %v (run bpf/gen/generate.sh)", name, err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("bpf/%s is not what its source compiles to: run bpf/gen/generate.sh", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(made) == 0 {
		t.Fatal("nothing was compiled")
	}
	there, err := filepath.Glob("../*/*_bpfel.o")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range there {
		if name, rerr := filepath.Rel("..", path); rerr != nil || !made[name] {
			t.Errorf("bpf/%s has no source", name)
		}
	}
}

// TestObjects: every object can be read, for every architecture, and all programs are under
// the licence that their helpers ask for.
func TestObjects(t *testing.T) {
	objects, err := filepath.Glob("../*/*_bpfel.o")
	if err != nil || len(objects) == 0 {
		t.Fatalf("%d objects, %v", len(objects), err)
	}
	for _, path := range objects {
		spec, err := ebpf.LoadCollectionSpec(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if len(spec.Programs) == 0 {
			t.Errorf("%s has no programs", path)
		}
		for name, p := range spec.Programs {
			if p.License != "Dual MIT/GPL" {
				t.Errorf("%s: program %s is under the licence %q", path, name, p.License)
			}
		}
	}
}
