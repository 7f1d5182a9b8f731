package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/detector/workload"
	"github.com/flopwatch/flopwatch/internal/bundle/score"
	"github.com/flopwatch/flopwatch/internal/store"
)

// calibrateOptions are the flags of `flopwatch calibrate`.
type calibrateOptions struct {
	ask    askOptions
	engine string
	replay bool
}

func newCalibrateCommand() *cobra.Command {
	var o calibrateOptions
	cmd := &cobra.Command{
		Use:   "calibrate [BUNDLE DIR]...",
		Short: "Say how far the detector's probabilities and intervals can be trusted",
		Long: `Calibrate compares what the detector said with what is true: recordings with labels and the answers of a replay (pairs of BUNDLE
and DIR, or BUNDLEs alone with --replay), and the labels of people in a store (--data or --clickhouse; see flopwatch correct).

It prints how often what was said with a probability was right, by GPU-hours (the class, training of any kind, limits), how many of
the 90 % intervals of FLOPs hold the truth, by the instrument that they rest on, and how many findings that nobody expected are to
be expected in 10,000 GPU-months as the detector raises them now, and how many inquiries. Each share has the interval that so few witnesses allow; what is
fitted is judged on recordings that it was not fitted on.`,
		RunE: o.run,
	}
	o.ask.registerStore(cmd)
	f := cmd.Flags()
	f.StringVar(&o.ask.cluster, "cluster", "", "cluster whose labels are taken (needed with --clickhouse)")
	f.BoolVar(&o.ask.json, "json", false, "JSON instead of text")
	f.BoolVar(&o.replay, "replay", false, "replay each BUNDLE, in place of reading answers")
	f.StringVar(&o.engine, "engine", "", "the embedded engine's libchdb.so for --replay (default: engine/ beside the binary)")
	cmd.Args = cobra.ArbitraryArgs
	return cmd
}

// calibrateAnswer is what --json prints.
type calibrateAnswer struct {
	score.Calibration
	Detector string                `json:"detector_version"`
	Built    *workload.Calibration `json:"class_calibration"` // that the verdicts rest on
}

func (o *calibrateOptions) run(cmd *cobra.Command, args []string) error {
	withStore := o.ask.data != "" || o.ask.clickhouse.URL != ""
	switch {
	case len(args) == 0 && !withStore:
		return usageError{Err: errors.New("name recordings with their answers, or a store with labels (--data, --clickhouse)")}
	case !o.replay && len(args)%2 != 0:
		return usageError{Err: errors.New("calibrate takes pairs of a recording and a folder of answers; --replay takes recordings alone")}
	}
	var all []score.Observations
	if o.replay {
		for _, dir := range args {
			seen, err := o.replayed(cmd.Context(), dir, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			all = append(all, seen)
		}
	} else {
		for i := 0; i < len(args); i += 2 {
			r, err := score.Score(args[i], args[i+1])
			if err != nil {
				return fmt.Errorf("compare %s with %s: %w", args[i+1], args[i], err)
			}
			all = append(all, r.Observed)
		}
	}
	if withStore {
		err := o.ask.ask(cmd, func(ctx context.Context, a *asked, _ io.Writer) error {
			seen, err := labelled(ctx, a.store, a.cluster)
			all = append(all, seen)
			return err
		})
		if err != nil {
			return err
		}
	}
	answer := calibrateAnswer{Calibration: score.Calibrate(all), Detector: detector.Version}
	var err error
	if answer.Built, err = workload.Calibrated(); err != nil {
		return err
	}
	return answer.print(cmd.OutOrStdout(), o.ask.json)
}

// replayed runs a recording through the product and compares.
func (o *calibrateOptions) replayed(ctx context.Context, dir string, stderr io.Writer) (score.Observations, error) {
	out, err := os.MkdirTemp("", "flopwatch-calibrate-")
	if err != nil {
		return score.Observations{}, fmt.Errorf("make a folder for answers: %w", err)
	}
	defer func() { _ = os.RemoveAll(out) }() // temporary
	began := time.Now()
	if err = replay(ctx, dir, replayOptions{out: filepath.Join(out, "answers"), quiet: true, stack: stackConfig{Engine: o.engine}}, io.Discard, stderr); err != nil {
		return score.Observations{}, err
	}
	_, _ = fmt.Fprintf(stderr, "replayed %s in %.0f s\n", dir, time.Since(began).Seconds()) // nothing depends on it
	r, err := score.Score(dir, filepath.Join(out, "answers"))
	if err != nil {
		return score.Observations{}, fmt.Errorf("compare %s: %w", dir, err)
	}
	return r.Observed, nil
}

// labelled compares verdicts of a store with what people say of them. Of one question the latest word
// counts, whoever said it.
func labelled(ctx context.Context, st *store.Store, cluster string) (score.Observations, error) {
	o := score.Observations{Group: "labels of " + cluster}
	labels, err := st.Labels(ctx, cluster)
	if err != nil {
		return o, err
	}
	rows, err := st.LatestRuns(ctx, cluster)
	if err != nil {
		return o, err
	}
	return observeLabels(o, labels, rows)
}

func observeLabels(o score.Observations, labels []store.LabelRow, rows []store.RunRow) (score.Observations, error) {
	runs := map[string]*store.RunRow{}
	for i := range rows {
		runs[rows[i].RunID] = &rows[i]
	}
	latest := map[string]*store.LabelRow{}
	for i := range labels {
		l := &labels[i]
		k := l.Kind + "\x00" + l.RunID + l.FindingID
		if l.Withdrawn {
			continue
		}
		if had := latest[k]; had == nil || had.At.Before(l.At) {
			latest[k] = l
		}
	}
	for _, k := range slices.Sorted(maps.Keys(latest)) {
		l := latest[k]
		if l.Kind == store.LabelFinding {
			o.Labels++
			if l.Value == "right" {
				o.RightFound++
			} else {
				o.WrongFound++
			}
			continue
		}
		row := runs[l.RunID]
		if row == nil || l.Kind == store.LabelSameRun || l.Kind == store.LabelOtherRun {
			continue
		}
		var line detector.RunLine
		if err := json.Unmarshal([]byte(row.Doc), &line); err != nil {
			return o, fmt.Errorf("read back run %s: %w", l.RunID, err)
		}
		o.Labels++
		hours := max(gpuHours(line), 1.0/60)
		switch l.Kind {
		case store.LabelClass:
			if line.Class != workload.Unknown {
				o.Class = append(o.Class, score.Claim{Group: o.Group, Run: l.RunID, Said: line.ClassProbability, Right: oneClass(l.Value) == oneClass(line.Class), Hours: hours})
			}
			o.Training = append(o.Training, score.Claim{Group: o.Group, Run: l.RunID, Said: line.TrainingProbability, Right: workload.IsRun(l.Value), Hours: hours})
		case store.LabelFLOPsExecuted, store.LabelFLOPsModel:
			t := score.Total{Group: o.Group, Run: l.RunID, Kind: line.Class, Truth: l.Number, Bases: line.Basis}
			if len(line.Basis) > 0 {
				t.Basis = line.Basis[0]
			}
			t.Quantity, t.Low, t.Best, t.High = "executed", line.FLOPsExecuted.Low, line.FLOPsExecuted.Best, line.FLOPsExecuted.High
			if l.Kind == store.LabelFLOPsModel {
				t.Quantity, t.Low, t.Best, t.High = "model", line.FLOPsModel.Low, line.FLOPsModel.Best, line.FLOPsModel.High
			}
			if t.Truth > 0 {
				o.Estimates = append(o.Estimates, t)
			}
		}
	}
	return o, nil
}

// oneClass takes the two together that count as one.
func oneClass(class string) string {
	if class == workload.Finetuning {
		return workload.Training
	}
	return class
}

func (a *calibrateAnswer) print(w io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", " ")
		if err := enc.Encode(a); err != nil {
			return fmt.Errorf("print: %w", err)
		}
		return nil
	}
	if err := a.Calibration.Print(w); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	p := &printer{w: w}
	p.line("")
	p.line("Class probabilities rest on a calibration that is built in (%s):", cmp.Or(a.Built.Command, "make calibration"))
	var lines []string
	for _, b := range slices.Sorted(maps.Keys(a.Built.Bases)) {
		s := a.Built.Bases[b]
		lines = append(lines, fmt.Sprintf("%s\t%.2f\t%+.2f\t%.0f\t%.3f\t%.3f", b, s.Slope, s.Offset, s.GPUHours, s.Before, s.After))
	}
	p.table("instruments\tslope\toffset\tGPU-h\tlog loss before\tof what was left out", lines)
	p.folded("  ", fmt.Sprintf("made from %s: %s", plural(len(a.Built.Families), "family", "families"), strings.Join(a.Built.Families, ", ")))
	return p.err
}
