package score

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const truthName = "truth.json"

// truth is truth.json, as far as it is scored.
type truth struct {
	Activities []activity `json:"activities"`
	Expect     struct {
		Findings  []expected `json:"findings"`
		Crossings []crossing `json:"crossings"`
	} `json:"expect"`
}

type activity struct {
	ID      string `json:"id"`
	Kind    string `json:"kind"`
	Members []struct {
		Node    string `json:"node"`
		GPUs    []int  `json:"gpus"`
		StartMs int64  `json:"start_ms"`
		EndMs   int64  `json:"end_ms"`
	} `json:"members"`
	Accounts      []string `json:"accounts"`
	FLOPsExecuted *float64 `json:"flops_executed"`
	FLOPsModel    *float64 `json:"flops_model"`
}

type expected struct {
	Profile     *string  `json:"profile"`
	Limb        string   `json:"limb"`
	Accounts    []string `json:"accounts"`
	Runs        []string `json:"runs"`
	Orders      []string `json:"orders"`
	Parties     []string `json:"parties"`
	KnowableMs  int64    `json:"knowable_ms"`
	EarliestMs  *int64   `json:"earliest_ms"`
	Required    *bool    `json:"required"` // nil: required
	Marginal    bool     `json:"marginal"`
	Undecidable bool     `json:"undecidable"`
	Note        string   `json:"note"`
}

type crossing struct {
	Profile    string  `json:"profile"`
	Run        string  `json:"run"`
	CrossingMs *int64  `json:"crossing_ms"`
	InPeriod   bool    `json:"in_period"`
	LimitFLOPs float64 `json:"limit_flops"`
}

func readTruth(dir string) (truth, error) {
	var t truth
	data, err := os.ReadFile(filepath.Join(dir, truthName))
	if err != nil {
		return t, fmt.Errorf("read labels: %w", err)
	}
	if err := json.Unmarshal(data, &t); err != nil {
		return t, fmt.Errorf("parse %s: %w", truthName, err)
	}
	seen := map[string]bool{}
	for _, a := range t.Activities {
		if a.ID == "" || seen[a.ID] {
			return t, fmt.Errorf("parse %s: activity id %q is empty or used twice", truthName, a.ID)
		}
		seen[a.ID] = true
	}
	return t, nil
}

// Kinds of activities that BUNDLE.md names, "unknown" and "none" last: the order of tables.
var kinds = []string{"training", "finetuning", "rl", "inference", "batch_inference", "hpc", "rendering", "mining", "burn_in", "notebook", "idle", unknown, none}

const (
	unknown = "unknown"
	none    = "none" // nothing labelled, or nothing answered
)

// byKind orders kinds as tables show them, strange ones behind, by name.
func byKind(a, b string) int {
	ia, ib := slices.Index(kinds, a), slices.Index(kinds, b)
	if ia < 0 && ib < 0 {
		return strings.Compare(a, b)
	}
	return cmpIndex(ia) - cmpIndex(ib)
}

func cmpIndex(i int) int {
	if i < 0 {
		return len(kinds)
	}
	return i
}

// headline merges the classes that count as one.
func headline(kind string) string {
	if kind == "finetuning" {
		return "training"
	}
	return kind
}

// isTraining reports whether a kind makes runs that thresholds are compared with.
func isTraining(kind string) bool { return kind == "training" || kind == "finetuning" || kind == "rl" }

// family groups kinds whose FLOPs may be compared.
func family(kind string) string {
	switch {
	case isTraining(kind):
		return "training"
	case kind == "inference" || kind == "batch_inference":
		return "inference"
	}
	return kind
}
