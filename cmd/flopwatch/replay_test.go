package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestReplayTiny replays the hand-made recording and holds the answers to a digest that a
// person has read, and every line to BUNDLE.md's fields.
func TestReplayTiny(t *testing.T) {
	t.Parallel()
	dir := writeBundle(t, tinyFiles(), nil)
	answers, r := replayed(t, dir)
	golden := filepath.Join("testdata", "tiny.golden")
	got := readable(t, answers)
	for _, part := range []string{"tiny", "acct-a", "custom-low", "not legal advice"} {
		if !strings.Contains(r.stdout, part) {
			t.Errorf("the summary lacks %q", part)
		}
	}
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("answers differ from %s (go test ./cmd/flopwatch -update writes it anew): %s", golden, firstDifference(got, string(want)))
	}
	checkRuns(t, answers["runs.jsonl"])
	findings := checkFindings(t, answers["findings.jsonl"])
	checkReports(t, answers, findings)
	for _, part := range []string{`"file": "parties.jsonl"`, `"n9"`, `"later"`, `"repeats": 1`, `"late": 1`} {
		if !strings.Contains(answers["recording.json"], part) {
			t.Errorf("recording.json lacks %s", part)
		}
	}
}

// readable is what a person wants to check of the answers: a line a run and a finding,
// numbers to two digits, times in minutes since the recording's start.
func readable(t *testing.T, answers map[string]string) string {
	t.Helper()
	var b strings.Builder
	minute := func(v any) string {
		if v == nil {
			return "goes on"
		}
		return fmt.Sprintf("%.1f min", (v.(float64)-tinyStartMs)/tinyMin)
	}
	interval := func(v any) string {
		m := v.(map[string]any)
		return fmt.Sprintf("%.1e / %.1e / %.1e", m["low"], m["best"], m["high"])
	}
	b.WriteString("Runs\n")
	named := map[string]string{} // ids change with every detail of assembly
	for _, r := range lines(t, answers["runs.jsonl"]) {
		named[r["run"].(string)] = fmt.Sprintf("run %d", len(named)+1)
		fmt.Fprintf(&b, "  %s: %v, %s to %s, %d members, accounts %v, executed %s, model %s, basis %v, coverage %.2f\n", named[r["run"].(string)], r["class"],
			minute(r["started_ms"]), minute(r["ended_ms"]), len(r["members"].([]any)), r["accounts"], interval(r["flops_executed"]), interval(r["flops_model"]), r["basis"], r["coverage_frac"])
		for _, x := range r["thresholds"].([]any) {
			v := x.(map[string]any)
			fmt.Fprintf(&b, "    %v %.1e: probability %.2f", v["profile"], v["limit_flops"], v["probability"])
			if c, ok := v["crossing_ms"].(map[string]any); ok {
				fmt.Fprintf(&b, ", crossed at %s", minute(c["p50"]))
			}
			b.WriteString("\n")
		}
	}
	b.WriteString("Findings\n")
	findings := lines(t, answers["findings.jsonl"])
	var said []string
	for _, f := range findings {
		runs := ""
		for _, id := range f["runs"].([]any) {
			runs += named[id.(string)]
		}
		profile := f["profile"]
		if profile == nil {
			profile = "no profile"
		}
		said = append(said, fmt.Sprintf("%013.0f  %s: %v, %v, runs [%s], orders %v, accounts %v, parties %v, %v, %v\n", f["known_at_ms"], minute(f["known_at_ms"]), f["limb"], profile, runs,
			f["orders"], f["accounts"], f["parties"], f["state"], f["severity"]))
	}
	slices.Sort(said) // of one moment: by what they say, not by id
	for _, line := range said {
		b.WriteString(line[13:])
	}
	return b.String()
}

// checkRuns holds lines to BUNDLE.md: names, nulls, order of members.
func checkRuns(t *testing.T, text string) {
	t.Helper()
	runs := lines(t, text)
	if len(runs) == 0 {
		t.Fatal("no runs")
	}
	for _, r := range runs {
		for _, name := range []string{"run", "class", "class_probability", "started_ms", "ended_ms", "members", "accounts", "flops_executed", "flops_model", "basis", "coverage_frac", "thresholds"} {
			if _, ok := r[name]; !ok {
				t.Errorf("run %v: field %s is missing", r["run"], name)
			}
		}
		for _, name := range []string{"members", "accounts", "basis", "thresholds"} {
			if _, ok := r[name].([]any); !ok {
				t.Errorf("run %v: %s is %v, wanted a list", r["run"], name, r[name])
			}
		}
		for _, name := range []string{"flops_executed", "flops_model"} {
			v, _ := r[name].(map[string]any)
			if !slices.Equal(keys(v), []string{"best", "high", "low"}) {
				t.Errorf("run %v: %s has %v", r["run"], name, keys(v))
			}
		}
		type member struct {
			node       string
			gpu, start float64
		}
		var last member
		for i, m := range r["members"].([]any) {
			v := m.(map[string]any)
			if !slices.Equal(keys(v), []string{"end_ms", "gpu", "node", "start_ms"}) {
				t.Errorf("run %v: member has %v", r["run"], keys(v))
			}
			next := member{v["node"].(string), v["gpu"].(float64), v["start_ms"].(float64)}
			if i > 0 && (next.node < last.node || next.node == last.node && next.gpu < last.gpu) {
				t.Errorf("run %v: member %v after %v", r["run"], next, last)
			}
			last = next
		}
		for _, x := range r["thresholds"].([]any) {
			v := x.(map[string]any)
			if !slices.Equal(keys(v), []string{"crossing_ms", "limit_flops", "probability", "profile"}) {
				t.Errorf("run %v: threshold has %v", r["run"], keys(v))
			}
			if c, ok := v["crossing_ms"].(map[string]any); ok && !slices.Equal(keys(c), []string{"p10", "p50", "p90"}) {
				t.Errorf("run %v: crossing has %v", r["run"], keys(c))
			}
		}
	}
}

// checkFindings holds lines to BUNDLE.md and returns their ids.
func checkFindings(t *testing.T, text string) []string {
	t.Helper()
	var ids []string
	for _, f := range lines(t, text) {
		id, _ := f["finding"].(string)
		ids = append(ids, id)
		for _, name := range []string{
			"finding", "profile", "limb", "runs", "orders", "accounts", "parties", "known_at_ms", "due_at_ms", "would_be_due_at_ms",
			"due_basis", "state", "severity", "conditions_not_assessed", "explanation", "evidence",
		} {
			if _, ok := f[name]; !ok {
				t.Errorf("finding %s: field %s is missing", id, name)
			}
		}
		for _, name := range []string{"runs", "orders", "accounts", "parties", "conditions_not_assessed", "evidence"} {
			if _, ok := f[name].([]any); !ok {
				t.Errorf("finding %s: %s is %v, wanted a list", id, name, f[name])
			}
		}
		if limb := f["limb"]; (limb == "red_flag" || limb == "telemetry") != (f["profile"] == nil) {
			t.Errorf("finding %s: limb %v with profile %v", id, limb, f["profile"])
		}
		if f["due_at_ms"] != nil {
			t.Errorf("finding %s: due at %v, though no rule of the recording is in force", id, f["due_at_ms"])
		}
		for _, x := range f["evidence"].([]any) {
			if got := keys(x.(map[string]any)); !slices.Equal(got, []string{"from_ms", "gpu", "kind", "node", "strength", "to_ms"}) {
				t.Errorf("finding %s: evidence has %v", id, got)
			}
		}
	}
	return ids
}

// checkReports holds the folder of reports to the findings: one each.
func checkReports(t *testing.T, answers map[string]string, findings []string) {
	t.Helper()
	for _, id := range findings {
		for _, name := range []string{"report.json", "report.md"} {
			if answers["reports/"+id+"/"+name] == "" {
				t.Errorf("finding %s: %s is missing or empty", id, name)
			}
		}
		evidence := false
		for name := range answers {
			evidence = evidence || strings.HasPrefix(name, "reports/"+id+"/evidence/")
		}
		if !evidence {
			t.Errorf("finding %s: no evidence", id)
		}
	}
	for name := range answers {
		if rest, ok := strings.CutPrefix(name, "reports/"); ok {
			if id, _, _ := strings.Cut(rest, "/"); !slices.Contains(findings, id) {
				t.Errorf("%s belongs to no finding", name)
			}
		}
	}
}

// TestReplayRepeats replays recordings twice, at different speed and into different
// folders: the answers are the same to the byte.
func TestReplayRepeats(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{
		"tiny":        writeBundle(t, tinyFiles(), nil),
		"mlperf-lora": filepath.Join(testenv.Root(t), "deploy", "recordings", "mlperf-lora"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, _ := replayed(t, dir)
			second, _ := replayedEnv(t, []string{"GOMAXPROCS=1"}, dir, "--data", filepath.Join(t.TempDir(), "data"), "--quiet")
			for _, must := range []string{"runs.jsonl", "findings.jsonl", "recording.json"} {
				if first[must] == "" {
					t.Errorf("%s is missing or empty", must)
				}
			}
			same(t, second, first, "second replay")
		})
	}
}
