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
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/bundle/score"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

var sealedBundles = flag.String("sealed", "", "pattern of the recordings of TestSealedSaysTheSame; otherwise those of the repository")

var answers = flag.String("answers", "", "folder for the answers of TestShared, to score them by hand")

// configOf is the configuration under which a recording is judged.
func configOf(t testing.TB, b *bundle.Bundle, epoch uint64) Config {
	t.Helper()
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
	return Config{
		Cluster: b.Manifest.Cluster, Profiles: profiles, SpecialJurisdictions: b.Manifest.SpecialJurisdictions, Epoch: epoch,
		Now: func() time.Time { return time.Unix(0, 0) },
	}
}

// judgeRecording judges a recording from memory and returns its lines.
func judgeRecording(t testing.TB, dir string) (runs, findings []string) {
	t.Helper()
	m, b, parties := load(t, dir)
	d := New(configOf(t, b, 0), m, parties)
	if err := d.Backfill(t.Context(), b.Manifest.StartMs, b.Manifest.EndMs); err != nil {
		t.Fatal(err)
	}
	runs, findings, err := Lines(t.Context(), m, b.Manifest.Cluster, 0)
	if err != nil {
		t.Fatal(err)
	}
	if m.cells == 0 {
		t.Error("no cells were stored")
	}
	if *answers != "" {
		asked, err := Inquiries(t.Context(), m, b.Manifest.Cluster, 0)
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(*answers, filepath.Base(dir))
		if err := os.MkdirAll(out, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, "inquiries.jsonl"), []byte(strings.Join(asked, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return runs, findings
}

// TestRejudge judges the shipped recordings again from their stored cells, with every raw
// row gone: the verdicts are the same to the byte, under a new epoch.
func TestRejudge(t *testing.T) {
	t.Parallel()
	for _, dir := range testenv.Recordings(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			m, b, parties := load(t, dir)
			if err := New(configOf(t, b, 1), m, parties).Backfill(t.Context(), b.Manifest.StartMs, b.Manifest.EndMs); err != nil {
				t.Fatal(err)
			}
			runs, findings, err := Lines(t.Context(), m, b.Manifest.Cluster, 1)
			if err != nil {
				t.Fatal(err)
			}
			asked, err := Inquiries(t.Context(), m, b.Manifest.Cluster, 1)
			if err != nil {
				t.Fatal(err)
			}
			m.gpu, m.host, m.fabric, m.flows, m.comm, m.batches = nil, nil, nil, nil, nil, nil
			if err = New(configOf(t, b, 2), m, parties).Rejudge(t.Context(), b.Manifest.StartMs, b.Manifest.EndMs); err != nil {
				t.Fatal(err)
			}
			again, findingsAgain, err := Lines(t.Context(), m, b.Manifest.Cluster, 2)
			if err != nil {
				t.Fatal(err)
			}
			if len(runs) == 0 || !slices.Equal(runs, again) {
				t.Errorf("runs from cells differ from runs from rows: %d and %d lines", len(again), len(runs))
			}
			askedAgain, err := Inquiries(t.Context(), m, b.Manifest.Cluster, 2)
			if err != nil || !slices.Equal(asked, askedAgain) {
				t.Errorf("inquiries from cells differ (%v):\nrows  %q\ncells %q", err, asked, askedAgain)
			}
			if !slices.Equal(findings, findingsAgain) {
				t.Errorf("findings from cells differ:\nrows  %q\ncells %q", findings, findingsAgain)
			}
		})
	}
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

// TestShared judges every shared recording and holds the answers to floors, below what is
// reached today (README): a change that costs accuracy fails here. With -answers the lines
// are kept.
func TestShared(t *testing.T) {
	t.Parallel()
	for _, dir := range testenv.Bundles(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			runs, findings := judgeRecording(t, dir)
			if len(runs) == 0 {
				t.Fatal("no runs")
			}
			out := t.TempDir()
			if *answers != "" {
				out = filepath.Join(*answers, filepath.Base(dir))
				if err := os.MkdirAll(out, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for name, lines := range map[string][]string{"runs.jsonl": runs, "findings.jsonl": findings} {
				if err := os.WriteFile(filepath.Join(out, name), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r, err := score.Score(dir, out)
			if err != nil {
				t.Fatal(err)
			}
			hold(t, r, strings.HasPrefix(filepath.Base(dir), "real-"))
		})
	}
}

// hold fails where a score lies below its floor. -1 is "nothing to judge". Watts alone,
// as in the real recordings, tell that something trains, and not much of what it computes.
func hold(t *testing.T, r score.Result, wattsAlone bool) {
	t.Helper()
	floor := func(what string, got, want float64) {
		if got >= 0 && got < want {
			t.Errorf("%s: %.3f, floor %.3f", what, got, want)
		}
	}
	floor("training recall", r.Classes.Recall, 0.9)
	floor("no false training", 1-r.Classes.FalsePositive, 0.95)
	if wattsAlone {
		return
	}
	floor("macro-F1", r.Classes.MacroF1, 0.95)
	floor("pairwise F1", r.Assembly.F1, 0.95)
	for _, f := range r.Findings {
		if f.Limb == "all" {
			floor("precision of findings", f.Precision, 0.9)
			floor("recall of findings", f.Recall, 0.9)
		}
	}
	for _, f := range r.FLOPs {
		if f.Basis == "model" && f.Group == "training" {
			floor("model FLOPs within 30 %", f.Within30, 0.6)
		}
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
