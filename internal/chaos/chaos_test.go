package chaos_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/internal/chaos"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestFaults: each process is killed once, and a few faults of other kinds follow. `make chaos`
// has two hundred of all kinds.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	apart := os.Getuid() == 0
	for _, tool := range []string{"ip", "ss", "sysctl"} {
		if _, err := exec.LookPath(tool); err != nil && apart {
			t.Logf("no partitions and no full disks: %v", err)
			apart = false
		}
	}
	bin := commands(t)
	dir, evidence := t.TempDir(), filepath.Join(os.TempDir(), "flopwatch-chaos")
	var out bytes.Buffer
	plan := chaos.Plan{Options: chaos.Options{Bin: bin, Dir: dir, Agents: 2, Apart: apart}, Seed: 1, Worlds: 1, Evidence: evidence, Out: &out}
	plan.Kinds = []string{"kill agent", "kill nvml", "kill broker", "kill collector", "kill engine", "duplicates out of order"}
	if apart {
		plan.Kinds = append(plan.Kinds, "partition")
	}
	plan.Faults = len(plan.Kinds)
	rep, err := chaos.Run(t.Context(), plan)
	rep.Print(&out)
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	if rep.Survived() != plan.Faults {
		t.Errorf("%d of %d faults survived", rep.Survived(), plan.Faults)
	}
	if rep.Totals.StoredRows == 0 || rep.Totals.StoredRows != rep.Totals.Rows && rep.Totals.Lost == 0 {
		t.Errorf("%d rows stored, %d taken, %d frames given up", rep.Totals.StoredRows, rep.Totals.Rows, rep.Totals.Lost)
	}
}

// commands builds what ships, with the engine and the stub beside it.
func commands(t *testing.T) string {
	t.Helper()
	root, bin := testenv.Root(t), t.TempDir()
	lib := testenv.EngineConfig(t).LibPath
	_, err := exec.LookPath("gcc")
	testenv.Need(t, "cc", err)
	if err = os.Mkdir(filepath.Join(bin, "engine"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err = os.Symlink(lib, filepath.Join(bin, "engine", filepath.Base(lib))); err != nil {
		t.Fatal(err)
	}
	if _, err = nvmlstub.Build(t.Context(), filepath.Join(bin, "stub"), nvmlstub.Options{}); err != nil {
		t.Fatal(err)
	}
	for cgo, names := range map[string][]string{"0": {"./cmd/flopwatch", "./cmd/flopwatch-agent", "./cmd/flopwatch-collector"}, "1": {"./cmd/flopwatch-nvml"}} {
		args := []string{"build", "-trimpath", "-o", bin + "/", "-ldflags=-s -w"} // as make does, so that the cache has what they are made of
		if cgo == "1" {
			args[4] = "-ldflags=-s -w -extldflags=-Wl,-z,lazy"
		}
		cmd := exec.CommandContext(t.Context(), "go", append(args, names...)...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED="+cgo)
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", names, err, text)
		}
	}
	return bin
}
