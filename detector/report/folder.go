package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
)

// Format of report.json.
const Format = "flopwatch-report/1"

// Names in a report folder.
const (
	machineFile = "report.json"
	humanFile   = "report.md"
	evidenceDir = "evidence"
)

// EvidenceFile is one file of rows that a finding rests on. Write is called once.
type EvidenceFile struct {
	Name  string // letters, digits, '.', '_', '-'; not beginning with '.'
	Write func(w io.Writer) error
}

// ProfileText is what a report says of a profile beside what Evaluate needs.
type ProfileText struct {
	Profile
	Title          string
	Version        string
	ObligatedParty string // provider, developer, ...
	LegalSource    string
	CountingRule   string
}

// Folder is all that one report is made of. Party ids only: a report with names needs
// an officer's key and is made elsewhere.
type Folder struct {
	Finding   Finding
	Profile   *ProfileText // nil for red_flag and telemetry
	Run       *RunState    // nil: the finding is not about a run
	RunLine   any          // the run's line of runs.jsonl, nil with Run
	AtMs      int64        // judged moment
	Cluster   string
	Recording string // digest of what was replayed; empty: live
	Detector  string // version of the detector
	Config    string // digest of the configuration
	Evidence  iter.Seq[EvidenceFile]
}

type fileDigest struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

type machineProfile struct {
	Name           string       `json:"name"`
	Title          string       `json:"title"`
	Version        string       `json:"version"`
	Status         string       `json:"status"`
	ObligatedParty string       `json:"obligated_party"`
	BindsOperator  bool         `json:"binds_operator"`
	LimitFLOP      float64      `json:"limit_flops"`
	Cluster        *ClusterLimb `json:"cluster"`
	JoinCluster    bool         `json:"limit_and_cluster"`
	LegalSource    string       `json:"legal_source"`
	CountingRule   string       `json:"counting_rule"`
}

type machineEstimate struct {
	Executed     [3]float64 `json:"flops_executed"` // low, best, high
	Model        [3]float64 `json:"flops_model"`
	LogSD        float64    `json:"flops_model_log_sd"`
	Basis        []string   `json:"basis"`
	CoverageFrac float64    `json:"coverage_frac"`
}

// machine is report.json. Field order is part of the format.
type machine struct {
	Format       string           `json:"format"`
	Marking      string           `json:"marking"` // empty: none
	Finding      Finding          `json:"finding"`
	Profile      *machineProfile  `json:"profile"`
	Run          any              `json:"run"`
	Estimate     *machineEstimate `json:"estimate"`
	Names        string           `json:"names"`
	JudgedMs     int64            `json:"judged_at_ms"`
	Cluster      string           `json:"cluster"`
	Recording    string           `json:"recording"`
	Detector     string           `json:"detector_version"`
	ConfigDigest string           `json:"config_digest"`
	Evidence     []fileDigest     `json:"evidence_files"`
}

// Marking of what must not be taken for a filing.
const Marking = "internal, not for filing"

func (f *Folder) marking() string {
	if f.Profile != nil && f.Profile.Binding(f.Finding.KnownAtMs) {
		return ""
	}
	return Marking
}

// WriteFolder writes the report of one finding to a folder of its name under dir and
// returns the folder's path. The same input gives the same bytes. The folder appears
// whole or not at all: it is written beside its place, synced, and renamed; an earlier
// version of the same report is moved aside first and removed last.
func WriteFolder(dir string, f Folder) (path string, err error) {
	path = filepath.Join(dir, f.Finding.Finding)
	if !plainName(f.Finding.Finding) {
		return "", fmt.Errorf("write report %q: not a name for a folder", f.Finding.Finding)
	}
	tmp, old := path+".tmp", path+".old"
	if _, err = os.Stat(path); errors.Is(err, os.ErrNotExist) {
		// A crash between the two renames below left the earlier version aside.
		if err = os.Rename(old, path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("put back earlier report %s: %w", path, err)
		}
	}
	if err = os.RemoveAll(tmp); err != nil { // what a crash left half written
		return "", fmt.Errorf("write report %s: %w", path, err)
	}
	if err = os.MkdirAll(filepath.Join(tmp, evidenceDir), 0o750); err != nil {
		return "", fmt.Errorf("write report %s: %w", path, err)
	}
	digests, err := writeEvidence(filepath.Join(tmp, evidenceDir), f.Evidence)
	if err != nil {
		return "", fmt.Errorf("write report %s: %w", path, err)
	}
	text, err := renderMachine(&f, digests)
	if err != nil {
		return "", fmt.Errorf("write report %s: %w", path, err)
	}
	if err = writeFile(filepath.Join(tmp, machineFile), text); err != nil {
		return "", fmt.Errorf("write report %s: %w", path, err)
	}
	if err = writeFile(filepath.Join(tmp, humanFile), renderHuman(&f, digests)); err != nil {
		return "", fmt.Errorf("write report %s: %w", path, err)
	}
	for _, d := range []string{filepath.Join(tmp, evidenceDir), tmp} {
		if err = syncDir(d); err != nil {
			return "", fmt.Errorf("write report %s: %w", path, err)
		}
	}
	if err = os.RemoveAll(old); err != nil {
		return "", fmt.Errorf("write report %s: %w", path, err)
	}
	if err = os.Rename(path, old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("move earlier report %s: %w", path, err)
	}
	if err = os.Rename(tmp, path); err != nil {
		return "", fmt.Errorf("write report %s: %w", path, err)
	}
	if err = syncDir(dir); err != nil {
		return "", fmt.Errorf("write report %s: %w", path, err)
	}
	if err = os.RemoveAll(old); err != nil {
		return "", fmt.Errorf("remove earlier report %s: %w", path, err)
	}
	return path, nil
}

func renderMachine(f *Folder, digests []fileDigest) ([]byte, error) {
	m := machine{
		Format: Format, Marking: f.marking(), Finding: f.Finding, Run: f.RunLine, JudgedMs: f.AtMs, Cluster: f.Cluster, Recording: f.Recording,
		Names:    "party ids only; names are sealed and need a compliance officer's key",
		Detector: f.Detector, ConfigDigest: f.Config, Evidence: digests,
	}
	if p := f.Profile; p != nil {
		m.Profile = &machineProfile{
			Name: p.Name, Title: p.Title, Version: p.Version, Status: p.at(f.Finding.KnownAtMs), ObligatedParty: p.ObligatedParty, BindsOperator: p.BindsOperator,
			LimitFLOP: p.LimitFLOP, Cluster: p.Cluster, JoinCluster: p.JoinCluster, LegalSource: p.LegalSource, CountingRule: p.CountingRule,
		}
	}
	if f.Run != nil {
		e := &f.Run.Est
		m.Estimate = &machineEstimate{
			Executed: [3]float64{e.Executed.Low, e.Executed.Best, e.Executed.High}, Model: [3]float64{e.Model.Low, e.Model.Best, e.Model.High},
			LogSD: e.LogSD, Basis: notNil(e.Basis), CoverageFrac: e.CoverageFrac,
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(m); err != nil {
		return nil, fmt.Errorf("encode %s: %w", machineFile, err)
	}
	return out.Bytes(), nil
}

// writeEvidence writes the files in the order given and returns their digests.
func writeEvidence(dir string, files iter.Seq[EvidenceFile]) (digests []fileDigest, err error) {
	digests = []fileDigest{}
	if files == nil {
		return digests, nil
	}
	seen := map[string]bool{}
	for file := range files {
		if !plainName(file.Name) || seen[file.Name] {
			return nil, fmt.Errorf("evidence file %q: not a name for a file, or given twice", file.Name)
		}
		seen[file.Name] = true
		d, werr := writeDigested(filepath.Join(dir, file.Name), file.Write)
		if werr != nil {
			return nil, fmt.Errorf("evidence file %s: %w", file.Name, werr)
		}
		d.Name = evidenceDir + "/" + file.Name
		digests = append(digests, d)
	}
	return digests, nil
}

type counting struct {
	w io.Writer
	n int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err // io.Writer's contract: the caller names the file
}

func writeDigested(path string, write func(io.Writer) error) (d fileDigest, err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return d, fmt.Errorf("create: %w", err)
	}
	defer func() {
		if cerr := file.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close: %w", cerr)
		}
	}()
	h := sha256.New()
	c := &counting{w: io.MultiWriter(file, h)}
	if err = write(c); err != nil {
		return d, fmt.Errorf("write: %w", err)
	}
	if err = file.Sync(); err != nil {
		return d, fmt.Errorf("sync: %w", err)
	}
	return fileDigest{Bytes: c.n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

func writeFile(path string, text []byte) error {
	_, err := writeDigested(path, func(w io.Writer) error {
		if _, werr := w.Write(text); werr != nil {
			return fmt.Errorf("text: %w", werr)
		}
		return nil
	})
	return err
}

func syncDir(path string) (err error) {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer func() {
		if cerr := d.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close directory: %w", cerr)
		}
	}()
	if err = d.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

func plainName(s string) bool {
	if s == "" || len(s) > 120 || s[0] == '.' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c != '.' && c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}
