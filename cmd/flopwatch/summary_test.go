package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/bundle"
)

// TestSummaryCountsWhatIsAlike holds that rentals without telemetry and idle GPUs become
// one line each, and that no line of text outgrows a terminal.
func TestSummaryCountsWhatIsAlike(t *testing.T) {
	t.Parallel()
	const hour = 3_600_000
	var runs []detector.RunLine
	for gpu := range 4 {
		runs = append(runs, detector.RunLine{
			Run: "run-dark", Class: "unknown", Basis: []string{"allocation"}, Accounts: []string{"a"},
			Members: []detector.MemberLine{{Node: "n1", GPU: gpu, EndMs: 2 * hour}}, FLOPsExecuted: flops.Interval{High: 1e18},
		})
	}
	runs = append(runs,
		detector.RunLine{Run: "run-idle", Class: "idle", Basis: []string{"energy"}, Members: []detector.MemberLine{{Node: "n2", EndMs: hour}}},
		detector.RunLine{
			Run: "run-odd", Class: "unknown", Basis: []string{"energy", "power"}, Accounts: []string{"a", "b", "c"},
			Members: []detector.MemberLine{{Node: "n3", EndMs: hour}}, FLOPsModel: flops.Interval{Low: 1, Best: 2, High: 3},
		})
	var out strings.Builder
	m := bundle.Manifest{Cluster: "c", Description: strings.Repeat("word ", 100), Source: "s"}
	if err := printSummary(&out, m, false, runs, nil, []threshold.Profile{{Name: "x", Status: threshold.Custom, LimitFLOPs: 1e20}}, "out"); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		"4 rentals without telemetry: 4 GPUs, 8.0 GPU-h.", "up to 1e+18 FLOP", "1 idle stretch of rented GPUs: 1 GPU, 1.0 GPU-h.",
		"run-odd", "energy +1", "a b +1", "x 1e+20", "No run that was seen comes near any limit.", "in 8.0 GPU-h cannot be told", "Findings: none.", "It has no parties",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the summary lacks %q:\n%s", want, text)
		}
	}
	for _, not := range []string{"run-dark", "run-idle"} {
		if strings.Contains(text, not) {
			t.Errorf("the summary names %s:\n%s", not, text)
		}
	}
	for line := range strings.Lines(text) {
		if len(line) > textWidth+1 {
			t.Errorf("a line has %d columns: %q", len(line)-1, line)
		}
	}
}

// TestSummaryStatusIsOfTheDay: what a rule is depends on when the evidence sufficed.
func TestSummaryStatusIsOfTheDay(t *testing.T) {
	t.Parallel()
	rule := "eu"
	profiles := []threshold.Profile{{Name: rule, Status: threshold.InForce, ValidFrom: "2025-08-02", ObligatedParty: threshold.Developer, LimitFLOPs: 1e25, Watch: true}}
	for day, want := range map[int64]string{1_715_000_000_000: "not yet in force", 1_790_000_000_000: "in force, binds the developer"} {
		var out strings.Builder
		f := report.Finding{Finding: "fnd-1", Profile: &rule, Limb: report.Capacity, Orders: []string{"o"}, KnownAtMs: day, State: report.Met}
		if err := printSummary(&out, bundle.Manifest{}, true, nil, []report.Finding{f}, profiles, "out"); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), want) || strings.Contains(want, "yet") == strings.Contains(out.String(), "  in force") {
			t.Errorf("at %d ms: the summary lacks %q:\n%s", day, want, out.String())
		}
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", []string{""}},
		{"one two", []string{"one two"}},
		{"one two three", []string{"one two", "three"}},
		{"averylongword and", []string{"averylongword", "and"}},
	} {
		if got := wrap(c.text, 8); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
	}
}
