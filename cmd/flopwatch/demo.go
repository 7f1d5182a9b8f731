package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/internal/bundle/score"
)

// demoRecordings are shown in this order: what real watts alone can tell, then a whole
// fleet with parties.
var demoRecordings = []string{"mlperf-lora", "clean-mix"}

// scoreLegend explains the columns of the score's table to who sees them first.
const scoreLegend = `classes by GPU-hour: macro-F1, recall of training and false positives; pair F1: right GPUs put together as runs;
FLOPs of training runs, executed and model: mean error, share within 30 %, share of intervals that hold the truth and their half-width;
findings: precision, recall, median delay behind the labels' dates, and how many came early; error of crossing dates;
accounts of trainings; how far the probability of a class lies from how often it was right`

func newDemoCommand() *cobra.Command {
	var recordings, out string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Replay the two recordings that flopwatch ships and show what was found",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := findRecordings(recordings)
			if err != nil {
				return err
			}
			return demo(cmd.Context(), dir, out, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&recordings, "recordings", "", "folder of the recordings (default: deploy/recordings of the checkout)")
	cmd.Flags().StringVar(&out, "out", filepath.Join("out", "demo"), "folder for the answers")
	return cmd
}

// findRecordings looks beside the binary's checkout and in the working directory.
func findRecordings(named string) (string, error) {
	candidates := []string{named}
	if named == "" {
		candidates = []string{filepath.Join("deploy", "recordings")}
		if exe, err := os.Executable(); err == nil {
			candidates = append(candidates, filepath.Join(filepath.Dir(exe), "..", "deploy", "recordings"))
		}
	}
	for _, dir := range candidates {
		if _, err := os.Stat(filepath.Join(dir, demoRecordings[0], "manifest.json")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no recordings in %s: name their folder with --recordings", strings.Join(candidates, " or "))
}

func demo(ctx context.Context, recordings, out string, stdout, stderr io.Writer) error {
	started := time.Now()
	for i, name := range demoRecordings {
		dir, answers := filepath.Join(recordings, name), filepath.Join(out, name)
		if _, err := fmt.Fprintf(stdout, "%s== %d of %d: %s ==\n\n", strings.Repeat("\n", min(i, 1)), i+1, len(demoRecordings), name); err != nil {
			return err
		}
		if err := replay(ctx, dir, replayOptions{out: answers}, stdout, stderr); err != nil {
			return err
		}
		if err := printScore(stdout, dir, answers); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(stdout, "\nDone in %.0f s.\n", time.Since(started).Seconds())
	return err
}

// printScore says how right the answers were, where the recording has labels.
func printScore(w io.Writer, dir, answers string) error {
	r, err := score.Score(dir, answers)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("score %s: %w", dir, err)
	}
	if _, err := fmt.Fprintf(w, "\nHow right it was, against the recording's labels (flopwatch score %s %s)\n%s\n", dir, answers, scoreLegend); err != nil {
		return err
	}
	return score.PrintTable(w, []score.Result{r})
}
