package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// commanded runs a command in this process.
func commanded(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := newRootCommand()
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// lowProfile is the tiny recording's rule with a limit that its run crosses on its way.
const lowProfile = `[[profile]]
name = "mine"
title = "Mine"
version = "2"
status = "custom"
obligated_party = "any"
watch = true
limit_flops = 1e17
comparison = "greater"
deadline_days = 15
deadline_event = "evidence sufficed"
min_coverage_frac = 0.5
source = "me"
source_label = "custom"
[profile.counting]
basis = "model"
precision = "all"
fine_tuning = "cumulative"
synthetic_data = "silent"
sparsity = "dense"
`

// TestBacktestAndCorrect: on what a replay left in a real store, history is judged again under other
// profiles, people say what they know better, and a run tells all of that. Nothing that stood changes.
func TestBacktestAndCorrect(t *testing.T) {
	t.Parallel()
	at, passwordFile := clickhouse(t, "analyst")
	u, err := url.Parse(testenv.NATSServer(t, t.TempDir()).URL())
	if err != nil {
		t.Fatal(err)
	}
	token, rules := filepath.Join(t.TempDir(), "token"), filepath.Join(t.TempDir(), "rules.toml")
	for path, text := range map[string]string{token: u.User.Username() + "\n", rules: lowProfile} {
		if err = os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u.User = nil
	server := []string{"--clickhouse", at, "--clickhouse-user", "analyst", "--clickhouse-password-file", passwordFile}
	answers, _ := replayed(t, writeBundle(t, tinyFiles(), nil), append([]string{"--nats", u.String(), "--nats-token-file", token}, server...)...)
	of := slices.Concat(server, []string{"--cluster", "tiny"})
	ask := func(args ...string) string {
		t.Helper()
		out, err := commanded(t, append(args, of...)...)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return out
	}
	fails := func(want string, args ...string) {
		t.Helper()
		if _, err := commanded(t, append(args, of...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, wanted %q", args, err, want)
		}
	}
	before := ask("findings", "--json") + ask("runs", "--json")
	var first detector.RunLine
	if err = json.Unmarshal([]byte(strings.SplitN(answers["runs.jsonl"], "\n", 2)[0]), &first); err != nil {
		t.Fatal(err)
	}

	// The profile of a file.
	var got backtestAnswer
	if err = json.Unmarshal([]byte(ask("backtest", "--json", "--profiles-file", rules, "--profile", "mine")), &got); err != nil {
		t.Fatal(err)
	}
	appears := 0
	for _, c := range got.Changes {
		if c.What == detector.Appears && c.Of == "finding" && c.Profile == "mine" {
			appears++
		}
		if c.What == detector.Vanishes || len(c.Reasons) == 0 {
			t.Errorf("%+v", c)
		}
	}
	if appears == 0 || got.Runs == 0 || got.LeftOut == 0 || !got.Stored {
		t.Errorf("%d findings appear: %+v", appears, got)
	}
	text := ask("backtest", "--profiles-file", rules, "--profile", "mine", "--dry")
	for _, want := range []string{"judged again under mine", "appears: ", "under mine", "why  no verdict was made under mine before", "not legal advice"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	fails("difference", "backtest", "--profiles-file", rules, "--profile", "mine", "--dry", "--exit-code")
	fails(`--profile "nonsense" is not among the built-in profiles: `, "backtest", "--profile", "nonsense")
	fails("there are some from", "backtest", "--profile", "all", "--since", "2001-01-01", "--until", "2001-01-02")
	fails("--step 30s", "backtest", "--step", "30s")
	if _, err = commanded(t, append([]string{"backtest", "--cluster", "nowhere"}, server...)...); err == nil || !strings.Contains(err.Error(), "no cells of cluster nowhere") {
		t.Errorf("a cluster that is not there: %v", err)
	}
	if _, err = commanded(t, "backtest", "--clickhouse", "http://"+freeAddress(t), "--cluster", "tiny"); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("a store that is not there: %v", err)
	}
	if now := ask("findings", "--json") + ask("runs", "--json"); now != before {
		t.Error("what stood before changed")
	}

	// What people say.
	if out := ask("correct", first.Run, "--class", "inference", "--because", "the customer showed it.", "--who", "me"); !strings.Contains(out, "kept: an analyst (who-") {
		t.Errorf("correct: %q", out)
	}
	ask("correct", first.Run, "--class", "hpc", "--because", "I looked again", "--who", "me") // instead of it
	ask("correct", first.Run, "--executed-flops", "1.5e18", "--because", "its own log", "--who", "me", "--role", "engineer")
	listed := strings.Split(strings.TrimSpace(ask("correct", "list", "--json")), "\n")
	if len(listed) != 2 || !strings.Contains(ask("correct", "list"), first.Run+" is hpc, because I looked again") {
		t.Errorf("labels: %q", listed)
	}
	var label struct{ Label, Kind string }
	for _, l := range listed {
		if err = json.Unmarshal([]byte(l), &label); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(l, `"me"`) {
			t.Errorf("a name stands in clear: %s", l)
		}
	}
	fails("is another's", "correct", "withdraw", label.Label, "--because", "no", "--who", "somebody else")
	ask("correct", "withdraw", label.Label, "--because", "I was wrong", "--who", "me")
	fails("withdrawn already", "correct", "withdraw", label.Label, "--because", "x", "--who", "me")
	if n := strings.Count(ask("correct", "list", "--all", "--json"), "\n"); n != 2 {
		t.Errorf("%d labels with those withdrawn", n)
	}
	fails("no run", "correct", "run-of-nobody", "--class", "hpc", "--because", "x")
	for _, args := range [][]string{
		{"correct"}, {"correct", first.Run}, {"correct", first.Run, "--class", "hpc"}, {"correct", first.Run, "--class", "game", "--because", "x"},
		{"correct", "--finding", "fnd-1", "--because", "x"}, {"correct", first.Run, "--executed-flops", "-1", "--because", "x"}, {"correct", first.Run, "--wrong", "--because", "x"},
		{"correct", first.Run, "--same-as", first.Run, "--because", "x"},
	} {
		if _, err = commanded(t, append(args, of...)...); !errors.As(err, new(usageError)) {
			t.Errorf("%v: %v", args, err)
		}
	}

	// All that is known of the run.
	page := ask("runs", first.Run)
	for _, want := range []string{first.Run + ": ", "What  ", "Who  ", "How sure", "Why", "What people say of it", "Judged by detector " + detector.Version} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if ask("runs", first.Run, "--json") != strings.SplitAfterN(answers["runs.jsonl"], "\n", 2)[0] {
		t.Error("--json is not the run's line")
	}
	fails("no run", "runs", "run-of-nobody")
	t.Log(page)
}
