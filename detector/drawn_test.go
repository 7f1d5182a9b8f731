package detector

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/bundle/score"
	"github.com/flopwatch/flopwatch/internal/testenv/drawn"
)

var (
	drawnWhich   = flag.String("drawn", "", "recordings of TestDrawn: all, or FAMILY, FAMILY/N, separated by commas; empty: a handful")
	drawnDraws   = flag.Int("draws", 3, "recordings a family")
	drawnAnswers = flag.String("drawn-answers", "", "folder in which TestDrawn leaves recordings (in) and answers (out)")
	drawnJSON    = flag.String("drawn-json", "", "file to which TestDrawn writes one line a recording")
)

// drawnLine is one recording as -drawn-json writes it: enough to fit on some families and
// to judge on another.
type drawnLine struct {
	Family   string           `json:"family"`
	Draw     int              `json:"draw"`
	Seed     uint64           `json:"seed"`
	Seconds  float64          `json:"cpu_seconds"`
	GPURows  int              `json:"gpu_rows"`
	Result   score.Result     `json:"result"`
	FLOPs    []score.Estimate `json:"estimates"`
	Claims   []claim          `json:"claims"`
	Exceeded []exceeded       `json:"exceeded"`
}

// claim is a class with its probability, said of a run.
type claim struct {
	Run         string  `json:"run"`
	Class       string  `json:"class"`
	Probability float64 `json:"probability"`
	Hours       float64 `json:"gpu_hours"`
	Right       float64 `json:"right_gpu_hours"`
}

// exceeded is a probability that a limit is exceeded, said of a matched run.
type exceeded struct {
	Profile     string  `json:"profile"`
	Activity    string  `json:"activity"`
	Probability float64 `json:"probability"`
	True        bool    `json:"true"`
}

// judgeDrawn makes, judges and scores one recording.
func judgeDrawn(t *testing.T, family string, draw int, seed uint64) drawnLine {
	t.Helper()
	c, err := drawn.New(family, draw, seed)
	if err != nil {
		t.Fatal(err)
	}
	dir, answers := t.TempDir(), t.TempDir()
	if *drawnAnswers != "" {
		dir, answers = filepath.Join(*drawnAnswers, "in", family, strconv.Itoa(draw)), filepath.Join(*drawnAnswers, "out", family, strconv.Itoa(draw))
		for _, d := range []string{dir, answers} {
			if err := os.MkdirAll(d, 0o750); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.Write(dir); err != nil {
		t.Fatal(err)
	}
	m, b, parties := load(t, dir)
	limits := make([]threshold.CustomLimit, len(b.Manifest.Profiles))
	for i, p := range b.Manifest.Profiles {
		limits[i] = threshold.CustomLimit{Name: p.Name, LimitFLOPs: p.LimitFLOPs}
		if p.Cluster != nil {
			limits[i].Cluster = &threshold.Cluster{Gbps: p.Cluster.Gbps, OpsPerS: p.Cluster.OpsPerS}
		}
	}
	profiles, err := threshold.FromManifest(limits)
	if err != nil {
		t.Fatal(err)
	}
	d := New(Config{
		Cluster: b.Manifest.Cluster, Profiles: profiles, SpecialJurisdictions: b.Manifest.SpecialJurisdictions,
		Now: func() time.Time { return time.Unix(0, 0) },
	}, m, parties)
	from := cpuSeconds()
	if err := d.Backfill(t.Context(), b.Manifest.StartMs, b.Manifest.EndMs); err != nil {
		t.Fatal(err)
	}
	out := drawnLine{Family: family, Draw: draw, Seed: seed, Seconds: cpuSeconds() - from, GPURows: len(m.gpu)}
	runs, findings, err := Lines(t.Context(), m, b.Manifest.Cluster, 0)
	if err != nil {
		t.Fatal(err)
	}
	asked, err := Inquiries(t.Context(), m, b.Manifest.Cluster, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, lines := range map[string][]string{"runs.jsonl": runs, "findings.jsonl": findings, "inquiries.jsonl": asked} {
		if err := os.WriteFile(filepath.Join(answers, name), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out.Result, err = score.Score(dir, answers); err != nil {
		t.Fatal(err)
	}
	out.Result.Bundle, out.FLOPs = c.Name(), append([]score.Estimate{}, out.Result.Estimates...)
	out.claim(t, runs, b.Manifest.Profiles)
	if *drawnAnswers != "" {
		var text bytes.Buffer
		if err := out.Result.Print(&text); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(answers, "score.txt"), text.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// claim compares probabilities with what is so.
func (l *drawnLine) claim(t *testing.T, runs []string, profiles []bundle.Profile) {
	t.Helper()
	said := map[string]struct {
		Run         string  `json:"run"`
		Probability float64 `json:"class_probability"`
		Thresholds  []struct {
			Profile     string  `json:"profile"`
			Probability float64 `json:"probability"`
		} `json:"thresholds"`
	}{}
	for _, text := range runs {
		r := said[""]
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		said[r.Run] = r
	}
	same := func(a, b string) bool {
		fold := func(s string) string { return strings.Replace(s, "finetuning", "training", 1) }
		return fold(a) == fold(b)
	}
	for _, r := range l.Result.Runs {
		if r.Class == "unknown" || r.Class == "idle" && r.Kind == "" {
			continue
		}
		x := claim{Run: r.Run, Class: r.Class, Probability: said[r.Run].Probability, Hours: r.Hours}
		if same(r.Class, r.Kind) {
			x.Right = r.Shared
		}
		l.Claims = append(l.Claims, x)
	}
	for _, e := range l.FLOPs {
		if e.Basis != "model" || e.Run == "" || !slices.Contains([]string{"training", "finetuning", "rl"}, e.Kind) {
			continue
		}
		for _, p := range profiles {
			for _, th := range said[e.Run].Thresholds {
				if th.Profile == p.Name && p.LimitFLOPs > 0 {
					l.Exceeded = append(l.Exceeded, exceeded{p.Name, e.Activity, th.Probability, e.Truth > p.LimitFLOPs})
				}
			}
		}
	}
}

// drawnTotal is a row of the table: several recordings as one.
type drawnTotal struct {
	Family    string
	N         int
	MacroF1   float64
	Recall    float64
	FalsePos  float64
	Pairs     float64
	Exec      drawnFLOPs
	Model     drawnFLOPs
	Precision float64
	Found     float64
	Seconds   float64
}

type drawnFLOPs struct {
	N                             int // activities whose truth is not 0
	MAPE, Within30, Covered, Half float64
}

// totalOf pools recordings: classes over all GPU-hours, findings over all lines, FLOPs over
// all trainings, pairs as the mean of the recordings that have trainings.
func totalOf(name string, lines []drawnLine) drawnTotal {
	out := drawnTotal{Family: name, N: len(lines), Recall: -1, FalsePos: -1, Pairs: -1, MacroF1: -1, Precision: -1, Found: -1}
	tp, fp, fn := map[string]float64{}, map[string]float64{}, map[string]float64{}
	kinds := map[string]bool{}
	var train, hit, negative, wrong, right, missed, extra, pairs float64
	withPairs := 0
	for _, l := range lines {
		out.Seconds += l.Seconds
		c := l.Result.Classes
		for kind, row := range c.Confusion {
			for class, h := range row {
				k, a := strings.Replace(kind, "finetuning", "training", 1), strings.Replace(class, "finetuning", "training", 1)
				switch {
				case k == "none" && a == "idle":
				case k == a:
					tp[k] += h
				default:
					fp[a] += h
					fn[k] += h
				}
				if k != "none" {
					kinds[k] = true
				}
			}
		}
		train += c.TrainingHours
		hit += max(c.Recall, 0) * c.TrainingHours
		negative += c.NegativeHours
		wrong += max(c.FalsePositive, 0) * c.NegativeHours
		if f := l.Result.Assembly.F1; f >= 0 && c.TrainingHours > 0 {
			pairs += f
			withPairs++
		}
		all := l.Result.Findings[len(l.Result.Findings)-1]
		right, missed, extra = right+float64(all.Right), missed+float64(all.Missed), extra+float64(all.Wrong)
	}
	share := func(a, b float64) float64 {
		if b == 0 {
			return -1
		}
		return a / b
	}
	sum := 0.0
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		sum += 2 * tp[k] / max(2*tp[k]+fp[k]+fn[k], 1e-12)
	}
	out.MacroF1 = share(sum, float64(len(kinds)))
	out.Recall, out.FalsePos, out.Pairs = share(hit, train), share(wrong, negative), share(pairs, float64(withPairs))
	out.Precision, out.Found = share(right, right+extra), share(right, right+missed)
	out.Exec, out.Model = flopsOf(lines, "executed"), flopsOf(lines, "model")
	return out
}

func flopsOf(lines []drawnLine, basis string) drawnFLOPs {
	f := drawnFLOPs{MAPE: -1, Within30: -1, Covered: -1, Half: -1}
	var half []float64
	var off, near, inside, matched float64
	for _, l := range lines {
		for _, e := range l.FLOPs {
			if e.Basis != basis || !slices.Contains([]string{"training", "finetuning", "rl"}, e.Kind) {
				continue
			}
			f.N++
			if e.Run == "" {
				continue
			}
			matched++
			x := math.Abs(e.Best-e.Truth) / e.Truth
			off += x
			if x <= 0.3 {
				near++
			}
			if e.Low <= e.Truth && e.Truth <= e.High {
				inside++
			}
			if e.Best > 0 {
				half = append(half, (e.High-e.Low)/2/e.Best)
			}
		}
	}
	if matched > 0 {
		f.MAPE, f.Covered = off/matched, inside/matched
	}
	if f.N > 0 {
		f.Within30 = near / float64(f.N)
	}
	if len(half) > 0 {
		slices.Sort(half)
		f.Half = half[len(half)/2]
	}
	return f
}

func percent(v float64) string {
	if v < 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", 100*v)
}

// printDrawn writes the table, a row a family and one of all, and how far probabilities hold.
func printDrawn(w io.Writer, lines []drawnLine) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "per cent\tn\tmacro-F1\trecall\tfalse pos\tpair F1\texec MAPE\tin 90\thalf\tmodel MAPE\tin 30\tin 90\thalf\tfind P\tfind R\tCPU s\t")
	row := func(x drawnTotal) {
		fmt.Fprintf(t, "%s\t%d\t", x.Family, x.N)
		for _, v := range []float64{x.MacroF1, x.Recall, x.FalsePos, x.Pairs, x.Exec.MAPE, x.Exec.Covered, x.Exec.Half, x.Model.MAPE, x.Model.Within30, x.Model.Covered, x.Model.Half, x.Precision, x.Found} {
			fmt.Fprintf(t, "%s\t", percent(v))
		}
		fmt.Fprintf(t, "%.1f\t\n", x.Seconds)
	}
	for _, f := range drawn.Families() {
		var of []drawnLine
		for _, l := range lines {
			if l.Family == f {
				of = append(of, l)
			}
		}
		if len(of) > 0 {
			row(totalOf(f, of))
		}
	}
	row(totalOf("all", lines))
	if err := t.Flush(); err != nil {
		return err
	}
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\nclass said with\tGPU-hours\tmean said\tright\t")
	edges := []float64{0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0001}
	for i := range len(edges) - 1 {
		var hours, said, right float64
		for _, l := range lines {
			for _, c := range l.Claims {
				if c.Probability >= edges[i] && c.Probability < edges[i+1] {
					hours, said, right = hours+c.Hours, said+c.Hours*c.Probability, right+c.Right
				}
			}
		}
		if hours > 0 {
			fmt.Fprintf(t, "%.2f-%.2f\t%.0f\t%s\t%s\t\n", edges[i], edges[i+1], hours, percent(said/hours), percent(right/hours))
		}
	}
	fmt.Fprintln(t, "\nlimit exceeded with\tlimits\tmean said\tso\t")
	edges = []float64{0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0001}
	for i := range len(edges) - 1 {
		var n, said, so float64
		for _, l := range lines {
			for _, c := range l.Exceeded {
				if c.Probability >= edges[i] && c.Probability < edges[i+1] {
					n, said = n+1, said+c.Probability
					if c.True {
						so++
					}
				}
			}
		}
		if n > 0 {
			fmt.Fprintf(t, "%.2f-%.2f\t%.0f\t%s\t%s\t\n", edges[i], edges[i+1], n, percent(said/n), percent(so/n))
		}
	}
	return t.Flush()
}

// drawnFloor is what a recording of the handful must reach.
type drawnFloor struct{ recall, falsePositive, pairs, precision, found float64 }

// target is what FLOPS.md 4.3 asks for, as far as one recording can show it.
var target = drawnFloor{recall: 0.99, falsePositive: 0.01, pairs: 0.95, precision: 0.99, found: 0.99}

// drawnHandful runs in every test run: small recordings that reach the target, and what falls
// short of it with what was measured, so that it does not get worse unseen.
var drawnHandful = map[string]drawnFloor{
	"dense/1": target, "dense/2": target, "sharded/3": target, "restarts/1": target, "inference/2": target, "saturated/1": target, "hpc/1": target, "hpc/3": target, "negatives/2": target,
	"outofband/2": target,
	// A restart is kept as a run of its own: 0.873 of the pairs, one finding twice.
	"restarts/3": {recall: 0.99, falsePositive: 0.01, pairs: 0.87, precision: 0.75, found: 0.99},
	// A queue that never empties is taken for a training: 0.461 of the hours.
	"inference/1": {recall: 1, falsePositive: 0.47, pairs: 1, precision: 0.99, found: 0.99},
}

// wanted says which recordings to judge.
func wanted() (out [][2]string) {
	add := func(f, n string) { out = append(out, [2]string{f, n}) }
	if *drawnWhich == "" {
		for _, k := range slices.Sorted(maps.Keys(drawnHandful)) {
			f, n, _ := strings.Cut(k, "/")
			add(f, n)
		}
		return out
	}
	for which := range strings.SplitSeq(*drawnWhich, ",") {
		family, n, one := strings.Cut(which, "/")
		for _, f := range drawn.Families() {
			if family != "all" && family != f {
				continue
			}
			if one {
				add(f, n)
				continue
			}
			for i := range *drawnDraws {
				add(f, strconv.Itoa(i+1))
			}
		}
	}
	return out
}

// TestDrawn judges recordings whose every constant is drawn.
func TestDrawn(t *testing.T) {
	if testing.Short() && *drawnWhich == "" {
		t.Skip("left out of the short tests")
	}
	var out *os.File
	if *drawnJSON != "" {
		var err error
		if out, err = os.Create(*drawnJSON); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := out.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	var lines []drawnLine
	for _, x := range wanted() {
		name := x[0] + "/" + x[1]
		draw, err := strconv.Atoi(x[1])
		if err != nil {
			t.Fatalf("-drawn: %q is no number of a recording", x[1])
		}
		t.Run(name, func(t *testing.T) {
			l := judgeDrawn(t, x[0], draw, *seedOffset)
			lines = append(lines, l)
			if out != nil {
				if err := json.NewEncoder(out).Encode(l); err != nil {
					t.Fatal(err)
				}
			}
			if floor, ok := drawnHandful[name]; ok && *seedOffset == 0 {
				floor.hold(t, l)
			}
		})
	}
	var table bytes.Buffer
	if err := printDrawn(&table, lines); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", table.String())
}

func (f drawnFloor) hold(t *testing.T, l drawnLine) {
	t.Helper()
	x := totalOf(l.Family, []drawnLine{l})
	for _, c := range []struct {
		what       string
		got, least float64
	}{
		{"training recall", x.Recall, f.recall}, {"pairwise F1", x.Pairs, f.pairs}, {"precision of findings", x.Precision, f.precision}, {"recall of findings", x.Found, f.found},
	} {
		if c.got >= 0 && c.got < c.least {
			t.Errorf("%s %.3f, want at least %.3f", c.what, c.got, c.least)
		}
	}
	if x.FalsePos > f.falsePositive {
		t.Errorf("false positives %.3f, want at most %.3f", x.FalsePos, f.falsePositive)
	}
}
