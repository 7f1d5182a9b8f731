package score

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Interval is a 90 % interval with its best value.
type interval struct {
	Low  float64 `json:"low"`
	Best float64 `json:"best"`
	High float64 `json:"high"`
}

// answeredRun is a line of runs.jsonl, as far as it is scored.
type answeredRun struct {
	Run   string `json:"run"`
	Class string `json:"class"`
	// Nil where the line does not say.
	ClassProbability    *float64 `json:"class_probability"`
	TrainingProbability *float64 `json:"training_probability"`
	Accounts            []string `json:"accounts"`
	Basis               []string `json:"basis"`
	Members             []struct {
		Node    string `json:"node"`
		GPU     int    `json:"gpu"`
		StartMs int64  `json:"start_ms"`
		EndMs   *int64 `json:"end_ms"` // nil: goes on
	} `json:"members"`
	FLOPsExecuted *interval `json:"flops_executed"`
	FLOPsModel    *interval `json:"flops_model"`
	CoverageFrac  float64   `json:"coverage_frac"`
	Thresholds    []struct {
		Profile     string  `json:"profile"`
		Probability float64 `json:"probability"`
		CrossingMs  *struct {
			P10 float64 `json:"p10"`
			P50 float64 `json:"p50"`
			P90 float64 `json:"p90"`
		} `json:"crossing_ms"`
	} `json:"thresholds"`
}

// answeredFinding is a line of findings.jsonl, as far as it is scored.
type answeredFinding struct {
	Finding   string   `json:"finding"`
	Profile   *string  `json:"profile"`
	Limb      string   `json:"limb"`
	Runs      []string `json:"runs"`
	Orders    []string `json:"orders"`
	Accounts  []string `json:"accounts"`
	Parties   []string `json:"parties"`
	KnownAtMs int64    `json:"known_at_ms"`
}

// readLines decodes a file of one JSON object a line.
func readLines[T any](dir, name string) ([]T, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("read answers: %w", err)
	}
	defer func() { _ = f.Close() }() // read only: nothing is lost
	var out []T
	r := bufio.NewReader(f)
	for line := 1; ; line++ {
		text, err := r.ReadBytes('\n')
		if len(bytes.TrimSpace(text)) > 0 {
			var v T
			if bad := json.Unmarshal(text, &v); bad != nil {
				return nil, fmt.Errorf("parse %s:%d: %w", name, line, bad)
			}
			out = append(out, v)
		}
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s:%d: %w", name, line, err)
		}
	}
}

// answeredInquiry is a line of inquiries.jsonl, as far as it is counted.
type answeredInquiry struct {
	Limb string `json:"limb"` // inquiry, indicator
}
