package detector

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/internal/store"
)

// Inquiries returns what the latest verdict of an epoch asks: what stands in the store beside
// findings, and is written to inquiries.jsonl, by time.
func Inquiries(ctx context.Context, from Verdicts, cluster string, epoch uint64) ([]string, error) {
	return findingLines(ctx, from, cluster, epoch, func(limb string) bool { return !report.IsFinding(limb) })
}

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
	findings, err = findingLines(ctx, from, cluster, epoch, report.IsFinding)
	return runs, findings, err
}

func findingLines(ctx context.Context, from Verdicts, cluster string, epoch uint64, take func(limb string) bool) (out []string, err error) {
	rows, err := from.LatestFindings(ctx, cluster)
	if err != nil {
		return nil, fmt.Errorf("read findings: %w", err)
	}
	slices.SortStableFunc(rows, func(a, b store.FindingRow) int {
		return cmp.Or(cmp.Compare(a.KnownAtMs, b.KnownAtMs), strings.Compare(a.FindingID, b.FindingID))
	})
	for _, f := range rows {
		if !f.Retracted && f.Provenance.Epoch == epoch && take(f.Limb) {
			out = append(out, f.Doc)
		}
	}
	return out, nil
}

// Verdicts is where verdicts are read back.
type Verdicts interface {
	LatestRuns(ctx context.Context, cluster string) ([]store.RunRow, error)
	LatestFindings(ctx context.Context, cluster string) ([]store.FindingRow, error)
}
