package chaos_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/internal/chaos"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// short are the faults of the short suite: one of each kind, but for the stall of most of a minute
// (collector's TestLongOutage has one), each from a seed whose fault is brief.
var short = []struct {
	chaos.Pick
	apart bool // needs namespaces and disks of a size
}{
	{chaos.Pick{Seed: 4, Kind: "kill agent"}, false},
	{chaos.Pick{Seed: 8, Kind: "kill nvml"}, false},
	{chaos.Pick{Seed: 6, Kind: "kill broker"}, false},
	{chaos.Pick{Seed: 1, Kind: "kill engine"}, false},
	{chaos.Pick{Seed: 13, Kind: "partition"}, true},
	{chaos.Pick{Seed: 9, Kind: "stop collector past its lease"}, false},
	{chaos.Pick{Seed: 5, Kind: "engine's disk full"}, true},
	{chaos.Pick{Seed: 9, Kind: "clock of agent"}, false},
	{chaos.Pick{Seed: 3, Kind: "corrupt spool"}, true},
	{chaos.Pick{Seed: 10, Kind: "intruder"}, false},
	{chaos.Pick{Seed: 1, Kind: "part limit"}, false},
	{chaos.Pick{Seed: 5, Kind: "kill everything"}, false},

	{chaos.Pick{Seed: 8, Kind: "kill collector"}, false},
	{chaos.Pick{Seed: 6, Kind: "stop agent"}, false},
	{chaos.Pick{Seed: 9, Kind: "stop nvml"}, false},
	{chaos.Pick{Seed: 1, Kind: "stop broker"}, false},
	{chaos.Pick{Seed: 9, Kind: "stop collector"}, false},
	{chaos.Pick{Seed: 1, Kind: "stop engine"}, false},
	{chaos.Pick{Seed: 5, Kind: "broker's disk full"}, true},
	{chaos.Pick{Seed: 11, Kind: "spool's disk full"}, true},
	{chaos.Pick{Seed: 13, Kind: "clock of broker"}, false},
	{chaos.Pick{Seed: 5, Kind: "clock of collector"}, false},
	{chaos.Pick{Seed: 4, Kind: "clock of engine"}, false},
	{chaos.Pick{Seed: 9, Kind: "duplicates out of order"}, false},
	{chaos.Pick{Seed: 6, Kind: "end politely"}, false},
}

// TestFaults: one fault of each kind, in two worlds. `make chaos` has two hundred, and pairs.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes two minutes")
	}
	apart := false
	t.Run("apart", func(t *testing.T) { // said where it is skipped, and failed where root is required
		var err error
		if os.Getuid() != 0 {
			err = errors.New("no partitions, no full disks, no corrupt spool: they need root")
		}
		testenv.Need(t, "root", err)
		for _, tool := range []string{"ip", "ss", "sysctl"} {
			_, err = exec.LookPath(tool)
			testenv.Need(t, "iproute2", err)
		}
		apart = true
	})
	if t.Failed() {
		t.FailNow()
	}
	bin := commands(t)
	dir, evidence := t.TempDir(), filepath.Join(os.TempDir(), "flopwatch-chaos")
	plan := chaos.Plan{Options: chaos.Options{Bin: bin, Dir: dir, Agents: 2, Apart: apart}, Round: (len(short) + 1) / 2, Worlds: 2, Evidence: evidence, Out: t.Output()}
	for _, s := range short {
		if apart || !s.apart {
			plan.Picks = append(plan.Picks, s.Pick)
		}
	}
	rep, err := chaos.Run(t.Context(), plan)
	rep.Print(t.Output(), &plan, "of this tree")
	if err != nil {
		t.Fatal(err)
	}
	if rep.Survived() != len(plan.Picks) {
		t.Errorf("%d of %d faults survived", rep.Survived(), len(plan.Picks))
	}
	if rep.Totals.StoredRows == 0 || rep.Totals.StoredRows != rep.Totals.Rows && rep.Totals.Lost+rep.Totals.Aside == 0 {
		t.Errorf("%d rows stored, %d taken, %d frames given up, %d in quarantine", rep.Totals.StoredRows, rep.Totals.Rows, rep.Totals.Lost, rep.Totals.Aside)
	}
	// What was made is what the seeds say, in however many worlds.
	plan.List, plan.Worlds, plan.Round, plan.Out = true, 1, 3, io.Discard
	said, err := chaos.Run(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	for i := range said.Outcomes {
		want := &said.Outcomes[i]
		if !slices.ContainsFunc(rep.Outcomes, func(o chaos.Outcome) bool {
			return o.Seed == want.Seed && o.Kind == want.Kind && o.What == want.What && o.Hold == want.Hold
		}) {
			t.Errorf("seed %d of %q is to be %s, and was another", want.Seed, want.Kind, want.What)
		}
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
