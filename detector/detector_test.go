package detector

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

var answers = flag.String("answers", "", "folder for the answers of TestShared, to score them by hand")

// judgeRecording judges a recording from memory and returns its lines.
func judgeRecording(t testing.TB, dir string) (runs, findings []string) {
	t.Helper()
	m, b, parties := load(t, dir)
	profiles, err := threshold.Builtin()
	if b.Manifest.Profiles != nil {
		limits := make([]threshold.CustomLimit, len(b.Manifest.Profiles))
		for i, p := range b.Manifest.Profiles {
			limits[i] = threshold.CustomLimit{Name: p.Name, LimitFLOPs: p.LimitFLOPs}
			if p.Cluster != nil {
				limits[i].Cluster = &threshold.Cluster{Gbps: p.Cluster.Gbps, OpsPerS: p.Cluster.OpsPerS}
			}
		}
		profiles, err = threshold.FromManifest(limits)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := New(Config{
		Cluster: b.Manifest.Cluster, Profiles: profiles, SpecialJurisdictions: b.Manifest.SpecialJurisdictions,
		Now: func() time.Time { return time.Unix(0, 0) },
	}, m, parties)
	if err := d.Backfill(t.Context(), b.Manifest.StartMs, b.Manifest.EndMs); err != nil {
		t.Fatal(err)
	}
	runs, findings, err = Lines(t.Context(), m, b.Manifest.Cluster, 0)
	if err != nil {
		t.Fatal(err)
	}
	if m.cells == 0 {
		t.Error("no cells were stored")
	}
	return runs, findings
}

// TestTwice judges the shipped recording of real machines twice: same rows, same bytes.
func TestTwice(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "deploy", "recordings", "mlperf-lora")
	runs, findings := judgeRecording(t, dir)
	again, findingsAgain := judgeRecording(t, dir)
	if !slices.Equal(runs, again) || !slices.Equal(findings, findingsAgain) {
		t.Error("the same rows gave different verdicts")
	}
	if len(runs) == 0 {
		t.Error("no runs")
	}
}

// TestShared judges every shared recording; with -answers it keeps the lines.
func TestShared(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: judging every shared recording takes long")
	}
	for _, dir := range testenv.Bundles(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			runs, findings := judgeRecording(t, dir)
			if len(runs) == 0 {
				t.Fatal("no runs")
			}
			if *answers == "" {
				return
			}
			out := filepath.Join(*answers, filepath.Base(dir))
			if err := os.MkdirAll(out, 0o755); err != nil {
				t.Fatal(err)
			}
			for name, lines := range map[string][]string{"runs.jsonl": runs, "findings.jsonl": findings} {
				if err := os.WriteFile(filepath.Join(out, name), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestSignalNames holds the names that the two rooms meet by.
func TestSignalNames(t *testing.T) {
	t.Parallel()
	if _, err := signalOrder(); err != nil {
		t.Error(err)
	}
	if !slices.Equal(store.CellSignals, feature.SignalNames[:]) {
		t.Errorf("signals of a cell: the store has %v, the detector %v", store.CellSignals, feature.SignalNames)
	}
}
