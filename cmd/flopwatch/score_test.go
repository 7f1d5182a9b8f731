package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

const tiny = "../../internal/bundle/score/testdata/tiny"

func runScore(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newScoreCommand()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestScoreCommand(t *testing.T) {
	text, err := runScore(t, tiny, tiny+"/answers")
	if err != nil || !strings.Contains(text, "macro-F1 62.5 %") {
		t.Errorf("got %q, %v", text, err)
	}
	table, err := runScore(t, "--table", tiny, tiny+"/answers", tiny, tiny+"/answers")
	if err != nil || strings.Count(table, "\n") != 4 {
		t.Errorf("got %q, %v", table, err)
	}
	asJSON, err := runScore(t, "--json", tiny, tiny+"/answers")
	if err != nil || !json.Valid([]byte(asJSON)) {
		t.Errorf("got %q, %v", asJSON, err)
	}
	var usage usageError
	if _, err := runScore(t, tiny); !errors.As(err, &usage) {
		t.Errorf("one argument: got %v", err)
	}
	if _, err := runScore(t, tiny, t.TempDir()); err == nil || !strings.Contains(err.Error(), "runs.jsonl") {
		t.Errorf("no answers: got %v", err)
	}
}
