package detector

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/internal/store"
)

// Lines returns the latest verdict of an epoch as it is written to runs.jsonl and findings.jsonl,
// read back from the store: one line of JSON each, runs by start, findings by time.
func Lines(ctx context.Context, from Verdicts, cluster string, epoch uint64) (runs, findings []string, err error) {
	runRows, err := from.LatestRuns(ctx, cluster)
	if err != nil {
		return nil, nil, fmt.Errorf("read runs: %w", err)
	}
	slices.SortStableFunc(runRows, func(a, b store.RunRow) int {
		if a.StartMs != b.StartMs {
			return cmp.Compare(a.StartMs, b.StartMs)
		}
		return strings.Compare(a.RunID, b.RunID)
	})
	for _, r := range runRows {
		if r.SupersededBy == "" && r.Provenance.Epoch == epoch {
			runs = append(runs, r.Doc)
		}
	}
	findingRows, err := from.LatestFindings(ctx, cluster)
	if err != nil {
		return nil, nil, fmt.Errorf("read findings: %w", err)
	}
	slices.SortStableFunc(findingRows, func(a, b store.FindingRow) int {
		if a.KnownAtMs != b.KnownAtMs {
			return cmp.Compare(a.KnownAtMs, b.KnownAtMs)
		}
		return strings.Compare(a.FindingID, b.FindingID)
	})
	for _, f := range findingRows {
		if !f.Retracted && f.Provenance.Epoch == epoch {
			findings = append(findings, f.Doc)
		}
	}
	return runs, findings, nil
}

// Verdicts is where verdicts are read back.
type Verdicts interface {
	LatestRuns(ctx context.Context, cluster string) ([]store.RunRow, error)
	LatestFindings(ctx context.Context, cluster string) ([]store.FindingRow, error)
}
