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
	var asJSON, asTable bool
	cmd := &cobra.Command{
		Use:   "score BUNDLE DIR [BUNDLE DIR]...",
		Short: "Compare what a replay wrote with a recording's labels",
		Long: `Score compares DIR/runs.jsonl and DIR/findings.jsonl, as flopwatch replay writes them,
with the labels of BUNDLE. With several pairs, --table prints one line a pair and the means.`,
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
			return printScores(cmd.OutOrStdout(), results, asJSON, asTable)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: an object, or a list for several pairs")
	cmd.Flags().BoolVar(&asTable, "table", false, "print one line a pair and the means")
	cmd.MarkFlagsMutuallyExclusive("json", "table")
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
