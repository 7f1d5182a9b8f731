package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/bundle/score"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

func TestCalibrate(t *testing.T) {
	t.Parallel()
	tiny := filepath.Join(testenv.Root(t), "internal", "bundle", "score", "testdata", "tiny")
	out, err := commanded(t, "calibrate", tiny, filepath.Join(tiny, "answers"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Calibration over 1 recordings: tiny", "by GPU-hours", "Intervals of FLOPs (90 %)", "per 10,000 GPU-months", "One recording is one witness", "make calibration"} {
		if !strings.Contains(out, want) {
			t.Errorf("the text lacks %q:\n%s", want, out)
		}
	}
	var got calibrateAnswer
	if out, err = commanded(t, "calibrate", "--json", tiny, filepath.Join(tiny, "answers")); err == nil {
		err = json.Unmarshal([]byte(out), &got)
	}
	if err != nil || got.Class.Runs == 0 || got.Findings.Wrong != 3 || got.Built == nil {
		t.Errorf("%+v, %v", got, err)
	}
	for _, args := range [][]string{{"calibrate"}, {"calibrate", tiny}, {"calibrate", "--data", "a", "--clickhouse", "http://h"}, {"calibrate", "--clickhouse", "http://h"}} {
		if _, err = commanded(t, args...); !errors.As(err, new(usageError)) {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err = commanded(t, "calibrate", tiny, t.TempDir()); err == nil || !strings.Contains(err.Error(), "runs.jsonl") {
		t.Errorf("no answers: %v", err)
	}
}

// TestLabelsAreObserved: of one question the latest word counts, and those that are taken back do not.
func TestLabelsAreObserved(t *testing.T) {
	t.Parallel()
	at := func(min int) time.Time { return time.UnixMilli(0).Add(time.Duration(min) * time.Minute) }
	run := func(id, class string, prob float64) store.RunRow {
		doc := fmt.Sprintf(`{"run":%q,"class":%q,"class_probability":%g,"training_probability":0.9,"members":[{"node":"n","gpu":0,"start_ms":0,"end_ms":7200000}],`+
			`"flops_executed":{"low":1,"best":2,"high":3},"flops_model":{"low":1,"best":2,"high":3},"basis":["power"]}`, id, class, prob)
		return store.RunRow{RunID: id, Class: class, Doc: doc}
	}
	nan := math.NaN()
	labels := []store.LabelRow{
		{Kind: store.LabelClass, RunID: "a", Value: "inference", Number: nan, Who: "x", At: at(1)},
		{Kind: store.LabelClass, RunID: "a", Value: "finetuning", Number: nan, Who: "y", At: at(2)},
		{Kind: store.LabelClass, RunID: "b", Value: "hpc", Number: nan, At: at(1), Withdrawn: true},
		{Kind: store.LabelFLOPsExecuted, RunID: "a", Number: 2.5, At: at(1)},
		{Kind: store.LabelFLOPsModel, RunID: "b", Number: 9, At: at(1)},
		{Kind: store.LabelFinding, FindingID: "f", Value: "wrong", Number: nan, At: at(1)},
		{Kind: store.LabelSameRun, RunID: "a", Value: "b", Number: nan, At: at(1)},
		{Kind: store.LabelClass, RunID: "gone", Value: "hpc", Number: nan, At: at(1)},
	}
	o, err := observeLabels(score.Observations{Group: "g"}, labels, []store.RunRow{run("a", "training", 0.8), run("b", "unknown", 0.4)})
	if err != nil {
		t.Fatal(err)
	}
	if o.Labels != 4 || len(o.Class) != 1 || !o.Class[0].Right || o.Class[0].Said != 0.8 || o.Class[0].Hours != 2 || len(o.Training) != 1 || !o.Training[0].Right || o.WrongFound != 1 {
		t.Errorf("%+v", o)
	}
	if len(o.Estimates) != 2 || o.Estimates[0].Basis != "power" || o.Estimates[0].Truth != 2.5 {
		t.Errorf("%+v", o.Estimates)
	}
	c := score.Calibrate([]score.Observations{o})
	if c.Labels != 4 || c.Findings.Per10k != -1 {
		t.Errorf("%+v", c)
	}
}
