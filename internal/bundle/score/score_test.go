package score

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

var update = flag.Bool("update", false, "write golden files")

// The golden table was checked by hand: see TestTinyByHand for the reasons.
func TestTinyGolden(t *testing.T) {
	r, err := Score("testdata/tiny", "testdata/tiny/answers")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := r.Print(&got); err != nil {
		t.Fatal(err)
	}
	if err := PrintTable(&got, []Result{r, r}); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/tiny.golden"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("got:\n%s\nwant:\n%s", got.Bytes(), want)
	}
}

func TestTinyByHand(t *testing.T) {
	r, err := Score("testdata/tiny", "testdata/tiny/answers")
	if err != nil {
		t.Fatal(err)
	}
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-9 {
			t.Errorf("%s: got %g, want %g", what, got, want)
		}
	}
	const m = 1.0 / 60 // an hour's minute
	// t1: 2 GPUs x 3 h and 1 x 3 h, each without 2 minutes at both ends; all found.
	near("training hours", r.Classes.Confusion["training"]["training"], 9-3*4*m)
	// f1's pause of 6 minutes is filled, so that it has two boundaries; 0 h is the edge of the period.
	near("finetuning hours", r.Classes.Confusion["finetuning"]["training"], 4-4*m)
	// i1: 20 GPU-h, two of which were called training (less the grace at 10 h).
	near("inference hours", r.Classes.Confusion["inference"]["inference"], 18-2*2*m-2*m)
	near("inference as training", r.Classes.Confusion["inference"]["training"], 2-2*m)
	near("hpc unknown", r.Classes.Confusion["hpc"]["unknown"], 3-2*m)
	near("hpc unanswered", r.Classes.Confusion["hpc"]["none"], 1-2*m)
	near("recall", r.Classes.Recall, 1)
	near("false positives", r.Classes.FalsePositive, (2-2*m)/(20-8*m+4-4*m))
	tp, fp := 13-16*m, 2-2*m
	near("F1 training", r.Classes.F1["training"], 2*tp/(2*tp+fp))
	near("macro-F1", r.Classes.MacroF1, (r.Classes.F1["training"]+r.Classes.F1["inference"]+0)/3)

	a, b, f := 6-8*m, 3-4*m, 4-4*m // t1's two halves, f1
	near("pair recall", r.Assembly.Recall, (a*a+b*b+f*f)/((a+b)*(a+b)+f*f))
	near("pair precision", r.Assembly.Precision, 1)

	e := r.flops("executed", "training")
	near("executed MAPE", e.MAPE, (0.1/1.1+0.5)/2)
	near("executed within 30", e.Within30, 0.5)
	near("executed coverage", e.Coverage, 1)
	if h := r.flops("executed", "other"); h.Judged != 1 || h.Matched != 0 || len(h.Unmatched) != 1 {
		t.Errorf("hpc called unknown is unmatched: got %+v", h)
	}
	if h := r.flops("model", "other"); h.Judged != 0 || h.ZeroJudged != 1 || h.ZeroRight != 0 {
		t.Errorf("hpc has a model truth of 0: got %+v", h)
	}
	if h := r.flops("model", "inference"); h.Judged != 0 {
		t.Errorf("a truth of null is not judged: got %+v", h)
	}

	all := r.Findings[len(r.Findings)-1]
	if all.Right != 4 || all.Missed != 1 || all.Wrong != 3 || all.Allowed != 1 || all.Early != 1 {
		t.Errorf("findings: got %+v", all)
	}
	near("longest delay", all.DelayMaxS, 1800)
	near("crossing", r.Crossings[0].OffMin, 6)
	near("crossing as a share", r.Crossings[0].OffFrac, 0.05)
}

// Answers made from the labels score full marks on every recording.
func TestPerfectAnswers(t *testing.T) { answerPerfectly(t, testenv.Bundles(t)) }

func TestPerfectAnswersOnShippedRecordings(t *testing.T) { answerPerfectly(t, testenv.Recordings(t)) }

func answerPerfectly(t *testing.T, dirs []string) {
	t.Helper()
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			tr, err := readTruth(dir)
			if err != nil {
				t.Fatal(err)
			}
			out := t.TempDir()
			writeAnswers(t, out, tr)
			r, err := Score(dir, out)
			if err != nil {
				t.Fatal(err)
			}
			all := r.Findings[len(r.Findings)-1]
			for what, got := range map[string]float64{
				"macro-F1": r.Classes.MacroF1, "accuracy": r.Classes.Accuracy, "pairs": r.Assembly.F1,
				"recall": r.Classes.Recall, "precision of findings": all.Precision, "recall of findings": all.Recall,
				"coverage": r.flops("model", "all").Coverage, "matched": r.flops("model", "all").Within30All,
			} {
				if got != 1 && got != -1 {
					t.Errorf("%s: got %g, want 1", what, got)
				}
			}
			if r.Classes.FalsePositive > 0 || all.Early > 0 || all.PartiesRight != all.Right || all.AccountsRight != all.Right {
				t.Errorf("got %+v, %+v, remarks %v", r.Classes, all, r.Remarks)
			}
		})
	}
}

func writeAnswers(t *testing.T, dir string, tr truth) {
	t.Helper()
	var runs, findings []any
	for _, a := range tr.Activities {
		var members []any
		for _, m := range a.Members {
			for _, g := range m.GPUs {
				members = append(members, map[string]any{"node": m.Node, "gpu": g, "start_ms": m.StartMs, "end_ms": m.EndMs})
			}
		}
		exact := func(v *float64) any {
			if v == nil {
				return nil
			}
			return interval{*v, *v, *v}
		}
		runs = append(runs, map[string]any{
			"run": "R-" + a.ID, "class": a.Kind, "members": members,
			"flops_executed": exact(a.FLOPsExecuted), "flops_model": exact(a.FLOPsModel),
		})
	}
	for k, e := range expectations(tr.Expect.Findings) {
		f := map[string]any{"finding": "F-" + strconv.Itoa(len(findings)), "profile": e.Profile, "limb": e.Limb, "accounts": e.Accounts, "parties": e.Parties, "known_at_ms": e.KnowableMs}
		switch k.limb {
		case "actual", "projected":
			f["runs"] = []string{"R-" + k.subject}
		case "capacity", "changed_arrangement":
			f["orders"] = []string{k.subject}
		case "red_flag":
			if len(e.Runs) > 0 {
				f["runs"] = []string{"R-" + k.subject}
			} else {
				f["accounts"] = []string{k.subject}
			}
		default:
			f["accounts"] = []string{k.subject}
		}
		findings = append(findings, f)
	}
	for name, lines := range map[string][]any{"runs.jsonl": runs, "findings.jsonl": findings} {
		var buf bytes.Buffer
		for _, l := range lines {
			if err := json.NewEncoder(&buf).Encode(l); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), buf.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestErrorsNameTheLine(t *testing.T) {
	dir := t.TempDir()
	if _, err := Score("testdata/tiny", dir); err == nil || !strings.Contains(err.Error(), "runs.jsonl") {
		t.Errorf("without answers: got %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "runs.jsonl"), []byte("{}\n\n{\"run\": 3}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Score("testdata/tiny", dir); err == nil || !strings.Contains(err.Error(), "runs.jsonl:3") {
		t.Errorf("a bad line: got %v", err)
	}
	if _, err := Score(dir, dir); err == nil || !strings.Contains(err.Error(), "manifest.json") {
		t.Errorf("no recording: got %v", err)
	}
}
