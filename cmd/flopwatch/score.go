package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/internal/bundle/score"
)

// newScoreCommand builds `flopwatch score`.
func newScoreCommand() *cobra.Command {
	var asJSON, asTable, markdown bool
	cmd := &cobra.Command{
		Use:   "score BUNDLE DIR [BUNDLE DIR]...",
		Short: "Compare what a replay wrote with a recording's labels",
		Long: `Score compares DIR/runs.jsonl and DIR/findings.jsonl, as flopwatch replay writes them,
with the labels of BUNDLE. With several pairs, --table prints one line a pair and the means.

Columns: classes of GPU-time as macro-F1; training recall and false positives by GPU-hour; pairwise F1 of runs; FLOPs of trainings,
executed and model: mean error, share within 30 %, share of the 90 % intervals that hold the truth, and their half-width; findings:
precision, recall, median delay behind the labels' dates, how many came early; crossing dates: median error over the time since the
run's start; accounts of trainings: F1; class off: mean distance between the probability of a class and how often it was right.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || len(args)%2 != 0 {
				return usageError{Err: errors.New("score takes pairs of a recording and a folder of answers")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var results []score.Result
			for i := 0; i < len(args); i += 2 {
				r, err := score.Score(args[i], args[i+1])
				if err != nil {
					return fmt.Errorf("score %s against %s: %w", args[i+1], args[i], err)
				}
				results = append(results, r)
			}
			if markdown {
				if err := score.PrintMarkdown(cmd.OutOrStdout(), results); err != nil {
					return fmt.Errorf("print scores: %w", err)
				}
				return nil
			}
			return printScores(cmd.OutOrStdout(), results, asJSON, asTable)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: an object, or a list for several pairs")
	cmd.Flags().BoolVar(&asTable, "table", false, "print one line a pair and the means")
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print the table as Markdown")
	cmd.MarkFlagsMutuallyExclusive("json", "table")
	cmd.MarkFlagsMutuallyExclusive("json", "markdown")
	return cmd
}

func printScores(w io.Writer, results []score.Result, asJSON, asTable bool) error {
	switch {
	case asJSON:
		enc := json.NewEncoder(w)
		enc.SetIndent("", " ")
		var v any = results
		if len(results) == 1 {
			v = results[0]
		}
		if err := enc.Encode(v); err != nil {
			return fmt.Errorf("print scores: %w", err)
		}
		return nil
	case asTable:
		if err := score.PrintTable(w, results); err != nil {
			return fmt.Errorf("print scores: %w", err)
		}
		return nil
	}
	for i, r := range results {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return fmt.Errorf("print scores: %w", err)
			}
		}
		if err := r.Print(w); err != nil {
			return fmt.Errorf("print scores: %w", err)
		}
	}
	return nil
}
