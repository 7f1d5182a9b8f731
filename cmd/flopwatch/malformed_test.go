package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/playback"
	"github.com/flopwatch/flopwatch/internal/bundle"
)

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestUnusable runs the command on what is no recording: one clear line says file, line
// and field, and what would be right.
func TestUnusable(t *testing.T) {
	t.Parallel()
	tiny := tinyFiles()
	manifest := func(old, with string) map[string]string {
		if !strings.Contains(tiny["manifest.json"], old) {
			t.Fatalf("manifest lacks %s", old)
		}
		return map[string]string{"manifest.json": strings.Replace(tiny["manifest.json"], old, with, 1)}
	}
	for name, c := range map[string]struct {
		changes map[string]string
		want    []string
	}{
		"missing manifest":     {map[string]string{"manifest.json": ""}, []string{"manifest.json: missing: not a recording"}},
		"wrong format":         {manifest("bundle/1", "bundle/2"), []string{"manifest.json:1: column format", `"flopwatch-bundle/2"`, `wanted "flopwatch-bundle/1"`}},
		"broken JSON":          {manifest(`"source":`, `source:`), []string{"manifest.json:2: byte", "bad JSON"}},
		"not an object":        {map[string]string{"manifest.json": "[]"}, []string{"manifest.json:1", "a JSON array, wanted an object"}},
		"empty manifest":       {map[string]string{"manifest.json": " "}, []string{"manifest.json:1", "bad JSON"}},
		"no cluster":           {manifest(`"cluster": "tiny"`, `"cluster": ""`), []string{"manifest.json:1: column cluster", "empty"}},
		"cluster is a number":  {manifest(`"tiny"`, `7`), []string{"manifest.json:1: column cluster: a JSON number, wanted a string"}},
		"time in seconds":      {manifest(fmt.Sprint(int64(tinyEndMs)), "1760003640"), []string{"manifest.json:1: column end_ms", "1760003640", "Unix time in milliseconds"}},
		"ends before it start": {manifest(fmt.Sprint(int64(tinyEndMs)), "1760000000000"), []string{"manifest.json:1: column end_ms", "ends (1760000000000) before it starts"}},
		"negative limit":       {manifest("3e18", "-3e18"), []string{"manifest.json:3: column profiles[0].limit_flops", "-3e+18", "above 0"}},
		"limit is text":        {manifest("3e18", `"3e18"`), []string{"manifest.json:3: column profiles.limit_flops: a JSON string, wanted a number"}},
		"limit is infinite":    {manifest("3e18", "3e999"), []string{"manifest.json:3: column profiles.limit_flops", "wanted a number"}},
		"profile twice":        {manifest("custom-high", "custom-low"), []string{"manifest.json:3: column profiles[1].name", `"custom-low" is named twice`}},
		"profile has no name":  {manifest(`"name": "custom-low", `, ""), []string{"manifest.json:3: column profiles[0].name", "empty"}},
		"cluster limb at 0":    {manifest("5e15", "0"), []string{"custom-low", "cluster.ops_per_s", "not a positive number"}},
		"nodes plain and gz":   {map[string]string{"nodes.csv.gz": gzipped(t, tiny["nodes.csv"])}, []string{"nodes.csv: is there twice, plain and as .gz"}},
		"nodes header quoted":  {map[string]string{"nodes.csv": `"node` + "\n"}, []string{"nodes.csv:1: the header cannot be read"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := writeBundle(t, tiny, c.changes)
			var stderr bytes.Buffer
			// In this process: no server is started before the recording was opened.
			err := replay(t.Context(), dir, replayOptions{out: filepath.Join(t.TempDir(), "answers"), stack: stackConfig{Engine: "/none"}}, &stderr, &stderr)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("got %q, want %q in it", err, part)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("an error of several lines: %q", err)
			}
		})
	}
}

// TestUsage runs the real command with mistakes on the command line and around the
// recording.
func TestUsage(t *testing.T) {
	t.Parallel()
	binary(t)
	dir := writeBundle(t, tinyFiles(), nil)
	out := filepath.Join(t.TempDir(), "answers")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	named := filepath.Join(t.TempDir(), "data") // the working folder of another recording
	if err := os.MkdirAll(named, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(named, "recording"), []byte("0123\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"engine without turns":     {[]string{"clickhouse", "--data", out, "--queries", "0"}, 2, []string{"--queries 0: from 2"}},
		"engine without memory":    {[]string{"clickhouse", "--data", out, "--memory-bytes", "5"}, 2, []string{"--memory-bytes 5: at least"}},
		"no recording":             {[]string{"replay"}, 2, []string{"flopwatch replay BUNDLE --out DIR"}},
		"two recordings":           {[]string{"replay", dir, dir, "--out", out}, 2, []string{"one recording"}},
		"no out":                   {[]string{"replay", dir}, 2, []string{"--out DIR is required"}},
		"unknown flag":             {[]string{"replay", dir, "--out", out, "--bogus"}, 2, []string{"--bogus"}},
		"unknown command":          {[]string{"bogus"}, 2, []string{`"bogus"`, "--help"}},
		"argument of demo":         {[]string{"demo", "x"}, 2, []string{"flopwatch demo", `"x"`}},
		"user of no server":        {[]string{"replay", dir, "--out", out, "--clickhouse-user", "u"}, 2, []string{"--clickhouse-user", "no --clickhouse"}},
		"password of no server":    {[]string{"replay", dir, "--out", out, "--clickhouse-password-file", file}, 2, []string{"--clickhouse-password-file"}},
		"token of no server":       {[]string{"replay", dir, "--out", out, "--nats-token-file", file}, 2, []string{"--nats-token-file", "no --nats"}},
		"recording does not exist": {[]string{"replay", dir + "/none", "--out", out}, 1, []string{dir + "/none", "no such file or directory"}},
		"recording is a file":      {[]string{"replay", dir + "/gpu.csv", "--out", out}, 1, []string{"gpu.csv: is no directory", "manifest.json"}},
		"out is a file":            {[]string{"replay", dir, "--out", file}, 1, []string{"output folder", file, "not a directory"}},
		"out is below a file":      {[]string{"replay", dir, "--out", file + "/x"}, 1, []string{"output folder", "not a directory"}},
		"out cannot be written":    {[]string{"replay", dir, "--out", "/proc/none"}, 1, []string{"output folder", "/proc/none"}},
		"data of another":          {[]string{"replay", dir, "--out", out, "--data", named}, 1, []string{named, "another recording", "--data"}},
		"no engine":                {[]string{"replay", dir, "--out", out, "--engine", file + "none"}, 1, []string{"make build"}},
		"score without answers":    {[]string{"score", dir, t.TempDir()}, 1, []string{"runs.jsonl", "no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := flopwatch(t, c.args...)
			if r.code != c.code {
				t.Errorf("exit code %d, want %d: %s", r.code, c.code, r.stderr)
			}
			for _, part := range c.want {
				if !strings.Contains(r.stderr, part) {
					t.Errorf("stderr lacks %q: %s", part, r.stderr)
				}
			}
		})
	}
}

// dirty are rows that cannot be used, or only with care, behind the rows of the tiny
// recording. Each good row among them is to arrive.
func dirty(t *testing.T) map[string]string {
	t.Helper()
	const ts = tinyStartMs + 10*tinyMin
	at := func(n int) string { return fmt.Sprint(int64(ts + n)) }
	row := func(cells ...string) string {
		return strings.Join(append(cells, slices.Repeat([]string{""}, 17-len(cells))...), ",") + "\n"
	}
	f := tinyFiles()
	f["gpu.csv"] += row(at(1), "n1", "0", "0.5", "", "1e999") +
		row(at(2), "n1", "0", "0.5", "1e30") +
		row(at(3), "n1", "0", "NaN") + row(at(4), "n1", "0", "", "Inf") + row(at(5), "n1", "0", "", "0x10") +
		row(at(6), "n1", "0", "-0.5") + row(at(7), "n1", "0", "87") +
		row(at(8), "n1", "5000", "0.5") + row(at(9), "n1", "-1", "0.5") + row(at(10), "n1", "1.5", "0.5") + row(at(11), "n1", "", "0.5") +
		row(at(12), "n\xff", "0", "0.5") + row(at(13), "", "0", "0.5") +
		row("", "n1", "0", "0.5") + row("soon", "n1", "0", "0.5") + row("1760000100", "n1", "0", "0.5") + row("1860000000000", "n1", "0", "0.5") +
		at(14) + ",n1\n" + row(at(15), "n1", "0", "0.5")[:20] + `,"open` + "\n" + strings.Repeat("x", 2<<20) + "\n" +
		row(fmt.Sprint(int64(tinyStartMs-tinyMin)), "n1", "1", "0.5") + // before the start: used
		row(at(16), "n8", "0", "0.5") // a node that no file lists: used
	f["nodes.csv"] += "empty,,,,,,\nbad,dc-1,H100,many,,,\n,dc-1,H100,8,,,\nn2,dc-1,NVIDIA H100 80GB HBM3,4,400,host,-700\n"
	f["allocations.csv"] += fmt.Sprintf("acct-a,n1,0 1,%d,%d\nacct-a,n1,0 x,%d,\n,n1,0,%d,\n", int64(ts), int64(ts-1), int64(ts), int64(ts))
	f["orders.csv"] += fmt.Sprintf("ord-9,acct-a,%d,H100,-1,,,,\nord-9,acct-a,soon,H100,1,,,,\nord-9,acct-a,%d,H100,1,,%d,%d,\n", int64(ts), int64(ts), int64(ts), int64(ts-1))
	f["processes.csv"] += fmt.Sprintf("%d,%d,n1,0,7,x,,,,,,,\n", int64(ts), int64(ts-1))
	f["collectives.csv"] += at(0) + ",n1,5,0,cc,8,0,allreduce,x,1\n"
	f["fabric.csv"] += at(0) + ",n1,,infiniband,1,1\n"
	f["flows.csv"] += at(0) + ",n1,n2,-5\n"
	f["host.csv"] += at(0) + ",n1,1e9,,,\n"
	f["parties.jsonl"] += "{\"kind\": \"entity\"}\nnot JSON\n"
	return f
}

// TestDirtyRows replays a recording with every kind of bad row: what is good is used, and
// everything else is counted and listed with its place.
func TestDirtyRows(t *testing.T) {
	t.Parallel()
	dir := writeBundle(t, dirty(t), nil)
	answers, r := replayed(t, dir, "--quiet")
	var got struct {
		Files []bundle.FileReport `json:"files"`
	}
	if err := json.Unmarshal([]byte(answers["recording.json"]), &got); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range got.Files {
		fmt.Fprintf(&b, "%s: %d used, %d bad, %d repeats, %d late\n", f.File, f.Rows, f.Bad, f.Repeats, f.Late)
		for _, i := range f.Issues {
			fmt.Fprintf(&b, "  %s\n", i)
		}
	}
	golden := filepath.Join("testdata", "dirty.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("recording.json differs from %s: %s", golden, firstDifference(b.String(), string(want)))
	}
	for _, part := range []string{"gpu.csv:1911: column power_w", "see recording.json", "nodes.csv:7: column gpu_count", "n8", "n9"} {
		if !strings.Contains(r.stderr, part) {
			t.Errorf("stderr lacks %q even though it is said when quiet: %s", part, r.stderr)
		}
	}
	checkRuns(t, answers["runs.jsonl"])
	checkReports(t, answers, checkFindings(t, answers["findings.jsonl"]))
}

// TestCopedWith plays recordings that are unusual and legal, or broken in a way that
// leaves rows: as many rows as are good arrive.
func TestCopedWith(t *testing.T) {
	t.Parallel()
	tiny := tinyFiles()
	count := func(t *testing.T, dir string) (keySink, bundle.Report) {
		t.Helper()
		b, err := bundle.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		s := keySink{}
		if _, err = playback.Play(t.Context(), b, s); err != nil {
			t.Fatal(err)
		}
		return s, b.Report()
	}
	all, _ := count(t, writeBundle(t, tiny, nil))
	crlf := map[string]string{}
	for name, text := range tiny {
		if strings.HasSuffix(name, ".csv") {
			crlf[name] = "\ufeff" + strings.ReplaceAll(text, "\n", "\r\n")
		}
	}
	packed := map[string]string{"gpu.csv": "", "gpu.csv.gz": gzipped(t, tiny["gpu.csv"]), "parties.jsonl": "", "parties.jsonl.gz": gzipped(t, tiny["parties.jsonl"])}
	torn := maps.Clone(packed)
	torn["gpu.csv.gz"] = torn["gpu.csv.gz"][:len(torn["gpu.csv.gz"])/2]
	for name, c := range map[string]struct {
		changes map[string]string
		equal   bool   // every row arrives
		issue   string // that the report lists
	}{
		"CRLF and BOM":         {crlf, true, ""},
		"gzip":                 {packed, true, ""},
		"column named twice":   {map[string]string{"gpu.csv": strings.Replace(tiny["gpu.csv"], ",later\n", ",node\n", 1)}, true, "gpu.csv:1: column node: named twice in the header: the first is used"},
		"unknown manifest key": {map[string]string{"manifest.json": strings.Replace(tiny["manifest.json"], "{", `{"colour": 3, `, 1)}, true, ""},
		"truncated gzip":       {torn, false, "the gzip stream is truncated: the rows before this line are used"},
		"not gzip":             {map[string]string{"gpu.csv": "", "gpu.csv.gz": tiny["gpu.csv"]}, false, "gpu.csv.gz:1: the gzip stream is damaged"},
		"empty gzip":           {map[string]string{"gpu.csv": "", "gpu.csv.gz": "\x1f"}, false, "gpu.csv.gz:1: the gzip stream is truncated"},
		"no key column":        {map[string]string{"gpu.csv": strings.Replace(tiny["gpu.csv"], "ts_ms", "when", 1)}, false, "gpu.csv:2: column ts_ms: the header lacks this column (wanted Unix time in milliseconds)"},
		"missing files":        {map[string]string{"gpu.csv": "", "nodes.csv": "", "parties.jsonl": "", "flows.csv": ""}, false, ""},
		"headers alone":        {map[string]string{"gpu.csv": "ts_ms,node,gpu\n", "host.csv": "\n", "nodes.csv": "node"}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, report := count(t, writeBundle(t, tiny, c.changes))
			if equal := maps.Equal(got, all); equal != c.equal {
				t.Errorf("rows: got %v, of %v", got, all)
			}
			if name == "truncated gzip" && (got[1] == 0 || got[1] >= all[1]) {
				t.Errorf("got %d GPU rows of %d", got[1], all[1])
			}
			listed := ""
			for _, f := range report.Files {
				for _, i := range f.Issues {
					listed += i.String() + "\n"
				}
			}
			if !strings.Contains(listed, c.issue) || (c.issue == "") != (listed == "") {
				t.Errorf("issues: got %q, want %q", listed, c.issue)
			}
		})
	}
}

// TestUnreadable meets files that cannot be read at all: the replay ends and names them.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	dir := writeBundle(t, tinyFiles(), map[string]string{"gpu.csv": ""})
	if err := os.Mkdir(filepath.Join(dir, "gpu.csv"), 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = playback.Play(t.Context(), b, keySink{})
	if e, ok := errors.AsType[*bundle.Error](err); !ok || e.File != "gpu.csv" || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("got %v", err)
	}
}
