package report

import (
	"encoding/json"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func text(name, content string) EvidenceFile {
	return EvidenceFile{Name: name, Write: func(w io.Writer) error { _, err := io.WriteString(w, content); return err }}
}

// folders are one report of each sort, from findings as Evaluate makes them.
func folders(t *testing.T) map[string]Folder {
	t.Helper()
	in := fleet()
	in.SpecialJurisdictions = []string{"GB"}
	in.Profiles = []Profile{
		{Name: "us-nprm-2024", LimitFLOP: 1e20, Status: Proposed, BindsOperator: true, DeadlineMs: 15 * day, ConditionsNotAssessed: []string{"capability of the model", "knowledge of the provider"}},
		{Name: "eu-51-2", LimitFLOP: 9e19, Status: InForce, BindsOperator: true, DeadlineMs: 14 * day, MinCoverageFrac: 0.99},
	}
	in.Ev.Orders = []feature.Order{order("ord-1", "foreign", "research", t0-day, t0, t0+12*hour, 8)}
	s := training("run-1", t0, t0+5*hour, 1e18, "foreign")
	s.Run.Reasons = []string{"steady all-reduce among 8 ranks"}
	s.Run.Links = []run.Link{{Kind: "comm", Weight: 0.98, Reason: "one communicator of 8 ranks"}}
	in.Runs = []RunState{s}
	profiles := map[string]*ProfileText{
		"us-nprm-2024": {Profile: in.Profiles[0], Title: "U.S. IaaS proposed rule", Version: "2024-01-29/1", ObligatedParty: "provider", LegalSource: "89 FR 5698", CountingRule: "EU guidelines, model basis"},
		"eu-51-2":      {Profile: in.Profiles[1], Title: "EU AI Act art. 51(2)", Version: "2025-08-02/1", ObligatedParty: "developer", LegalSource: "Regulation (EU) 2024/1689"},
	}
	out := map[string]Folder{}
	for _, f := range Evaluate(in) {
		folder := Folder{
			Finding: f, AtMs: in.AtMs, Cluster: "fleet-1", Recording: "BUNDLE", Detector: "v0.1.0", Config: "sha256:00ff",
			Evidence: slices.Values([]EvidenceFile{text("orders.csv", "order,account\nord-1,foreign\n"), text("gpu.csv", "ts_ms,node,gpu,power_w\n1800000000000,n1,0,600\n")}),
		}
		name := f.Limb
		if f.Profile != nil {
			folder.Profile = profiles[*f.Profile]
			name = *f.Profile + "-" + name
		}
		if len(f.Runs) > 0 {
			folder.Run, folder.RunLine = &in.Runs[0], map[string]any{"run": "run-1", "class": "training"}
		}
		out[name] = folder
	}
	return out
}

func TestWriteFolderGolden(t *testing.T) {
	t.Parallel()
	all := folders(t)
	for _, name := range []string{"us-nprm-2024-actual", "us-nprm-2024-projected", "us-nprm-2024-capacity", "eu-51-2-actual", "red_flag"} {
		f, ok := all[name]
		if !ok {
			t.Fatalf("no finding %s", name)
		}
		path, err := WriteFolder(t.TempDir(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{machineFile, humanFile} {
			got, err := os.ReadFile(filepath.Join(path, file))
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", "TestWriteFolderGolden", name, file)
			if *update {
				must(t, os.MkdirAll(filepath.Dir(golden), 0o755))
				must(t, os.WriteFile(golden, got, 0o644))
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("golden file: %v", err)
			}
			if string(got) != string(want) {
				t.Errorf("%s differs from %s:\n%s", file, golden, got)
			}
		}
	}
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[rel] = string(content)
		return err
	}))
	return out
}

// TestWriteFolderTwice: the same input gives the same bytes, a revision takes the place of
// the earlier version, and nothing else stays.
func TestWriteFolderTwice(t *testing.T) {
	t.Parallel()
	f := folders(t)["us-nprm-2024-actual"]
	dir := t.TempDir()
	path, err := WriteFolder(dir, f)
	must(t, err)
	first := tree(t, path)
	if _, err = WriteFolder(dir, f); err != nil {
		t.Fatal(err)
	}
	second := tree(t, path)
	if len(first) != 4 || len(second) != 4 {
		t.Fatalf("files %d and %d, want 4", len(first), len(second))
	}
	for name, content := range first {
		if second[name] != content {
			t.Errorf("%s differs", name)
		}
	}
	var m machine
	must(t, json.Unmarshal([]byte(first[machineFile]), &m))
	if m.Marking != Marking || len(m.Evidence) != 2 || m.Evidence[0].Name != "evidence/orders.csv" || m.Evidence[0].Bytes != 28 {
		t.Errorf("machine report %+v", m)
	}
	f.Evidence = nil
	if _, err = WriteFolder(dir, f); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, dir); len(got) != 2 {
		t.Errorf("after a revision without evidence: %d files", len(got))
	}
}

// TestWriteFolderFails: an attempt that fails leaves the earlier version as it was, and a
// crash between the renames is repaired by the next attempt.
func TestWriteFolderFails(t *testing.T) {
	t.Parallel()
	f := folders(t)["us-nprm-2024-actual"]
	dir := t.TempDir()
	path, err := WriteFolder(dir, f)
	must(t, err)
	first := tree(t, path)
	for _, bad := range []EvidenceFile{
		{Name: "x", Write: func(io.Writer) error { return errors.New("no rows") }},
		text("../escape", ""), text(".hidden", ""), text("", ""), text("a/b", ""),
	} {
		g := f
		g.Evidence = slices.Values([]EvidenceFile{bad})
		if _, err = WriteFolder(dir, g); err == nil {
			t.Errorf("evidence file %q: no error", bad.Name)
		}
	}
	g := f
	g.Evidence = slices.Values([]EvidenceFile{text("a", ""), text("a", "")})
	if _, err = WriteFolder(dir, g); err == nil {
		t.Error("one name twice: no error")
	}
	must(t, os.Rename(path, path+".old")) // as a crash would leave it
	if _, err = WriteFolder(dir, g); err == nil {
		t.Error("one name twice: no error")
	}
	if again := tree(t, path); again[machineFile] != first[machineFile] || again[humanFile] != first[humanFile] {
		t.Error("the earlier version is gone")
	}
	f.Finding.Finding = "../up"
	if _, err = WriteFolder(dir, f); err == nil {
		t.Error("a folder outside: no error")
	}
}

// TestReportWords: whatever the finding, its report is marked unless a rule in force binds.
func TestReportWords(t *testing.T) {
	t.Parallel()
	for name, f := range folders(t) {
		b := string(renderHuman(&f, nil))
		marked := strings.Contains(b, "Internal, not for filing.** ")
		if bound := f.Profile != nil && f.Profile.Binding(f.Finding.KnownAtMs); marked == bound {
			t.Errorf("%s: marked %t, bound %t", name, marked, bound)
		}
		for _, word := range []string{"provider knew", "filing is due", "must file", "%!"} {
			if strings.Contains(b, word) {
				t.Errorf("%s says %q", name, word)
			}
		}
	}
}
