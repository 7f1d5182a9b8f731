package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/detector/workload"
	"github.com/flopwatch/flopwatch/internal/store"
)

// What a label may hold.
const maxBecause = 1000

func labelClasses() []string {
	return []string{
		workload.Training, workload.Finetuning, workload.RL, workload.Inference, workload.BatchInference, workload.HPC, workload.Rendering, workload.Mining,
		workload.BurnIn, workload.Notebook, workload.Idle,
	}
}

func labelRoles() []string { return []string{"analyst", "engineer", "officer", "auditor"} }

// correctOptions are the flags of `flopwatch correct`.
type correctOptions struct {
	ask              askOptions
	class            string
	sameAs, otherRun string
	executed, model  float64
	finding          string
	wrong, right     bool
	because          string
	who, role        string
}

func newCorrectCommand() *cobra.Command {
	var o correctOptions
	cmd := &cobra.Command{
		Use:   "correct RUN --class inference --because TEXT",
		Short: "Say that a verdict is wrong, or right: a label that calibration uses",
		Long: `Correct keeps what a person knows better: what a run was, with which other run it is one, what it executed, or whether a
finding was right. A label changes no verdict: it stands beside the run (flopwatch runs RUN), and flopwatch calibrate compares
verdicts with it. Labels are never overwritten; who said it may say otherwise, or withdraw it, and all of that stays.

Names are kept as a hash, beside the role and the user that the store itself saw. A hash of a name hides it from a glance, not
from somebody who tries names.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.withStore(cmd, func(ctx context.Context, a *asked, out io.Writer) error { return o.label(ctx, a, args, out) }, o.check(args))
		},
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.class, "class", "", "what it was: "+strings.Join(labelClasses(), ", "))
	f.StringVar(&o.sameAs, "same-as", "", "`RUN` that is one with it")
	f.StringVar(&o.otherRun, "not-same-as", "", "`RUN` that is another one")
	f.Float64Var(&o.executed, "executed-flops", 0, "what it executed, where that is known")
	f.Float64Var(&o.model, "model-flops", 0, "what its model needed, where that is known")
	f.StringVar(&o.finding, "finding", "", "`ID` of a finding, in place of a run")
	f.BoolVar(&o.wrong, "wrong", false, "the finding is wrong")
	f.BoolVar(&o.right, "right", false, "the finding is right")
	f.StringVar(&o.because, "because", "", "how it is known (required)")
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usageError{Err: fmt.Errorf("correct takes one run, got %q", args)}
		}
		return nil
	}
	cmd.AddCommand(newCorrectListCommand(), newCorrectWithdrawCommand())
	return cmd
}

func (o *correctOptions) flags(cmd *cobra.Command) {
	o.ask.registerStore(cmd)
	f := cmd.Flags()
	f.StringVar(&o.ask.cluster, "cluster", "", "cluster of the run (needed with --clickhouse)")
	f.StringVar(&o.who, "who", "", "your name, kept as a hash (default: the name that you are signed in with)")
	f.StringVar(&o.role, "role", "analyst", "as what you say it: "+strings.Join(labelRoles(), ", "))
}

func newCorrectListCommand() *cobra.Command {
	var o correctOptions
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what people said of verdicts",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.withStore(cmd, o.list, nil)
		},
	}
	o.ask.registerStore(cmd)
	f := cmd.Flags()
	f.StringVar(&o.ask.cluster, "cluster", "", "cluster to ask for (needed with --clickhouse)")
	f.BoolVar(&o.ask.all, "all", false, "those too that were withdrawn")
	f.BoolVar(&o.ask.json, "json", false, "one line of JSON each")
	return cmd
}

func newCorrectWithdrawCommand() *cobra.Command {
	var o correctOptions
	cmd := &cobra.Command{
		Use:   "withdraw LABEL --because TEXT",
		Short: "Take back what you said of a verdict; both words stay",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.withStore(cmd, func(ctx context.Context, a *asked, out io.Writer) error { return o.withdraw(ctx, a, args[0], out) }, o.checkWords())
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&o.because, "because", "", "why it is taken back (required)")
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{Err: errors.New("withdraw takes one label: flopwatch correct list names them")}
		}
		return nil
	}
	return cmd
}

// check refuses what cannot be meant.
func (o *correctOptions) check(args []string) error {
	bad := func(format string, args ...any) error { return usageError{Err: fmt.Errorf(format, args...)} }
	ofRun := o.class != "" || o.sameAs != "" || o.otherRun != "" || o.executed != 0 || o.model != 0
	switch {
	case o.finding == "" && len(args) == 0:
		return bad("name a run, or a finding with --finding")
	case o.finding != "" && (len(args) > 0 || ofRun):
		return bad("--finding stands without a run, and without what is said of one")
	case o.finding != "" && o.wrong == o.right:
		return bad("say of the finding whether it is --right or --wrong")
	case o.finding == "" && (o.wrong || o.right):
		return bad("--right and --wrong are of a finding: name it with --finding")
	case o.finding == "" && !ofRun:
		return bad("say what of the run: --class, --same-as, --not-same-as, --executed-flops or --model-flops")
	case o.class != "" && !slices.Contains(labelClasses(), o.class):
		return bad("--class %q: wanted one of %s", o.class, strings.Join(labelClasses(), ", "))
	case o.executed < 0 || o.model < 0 || math.IsNaN(o.executed+o.model) || math.IsInf(o.executed+o.model, 0):
		return bad("--executed-flops and --model-flops are positive numbers")
	}
	return o.checkWords()
}

func (o *correctOptions) checkWords() error {
	switch {
	case strings.TrimSpace(o.because) == "":
		return usageError{Err: errors.New("--because TEXT is required: a label without a reason teaches nothing")}
	case len(o.because) > maxBecause:
		return usageError{Err: fmt.Errorf("--because has %d bytes, at most %d are kept", len(o.because), maxBecause)}
	case !slices.Contains(labelRoles(), o.role):
		return usageError{Err: fmt.Errorf("--role %q: wanted one of %s", o.role, strings.Join(labelRoles(), ", "))}
	}
	return nil
}

// withStore opens the store, unless the command line is wrong.
func (o *correctOptions) withStore(cmd *cobra.Command, do func(context.Context, *asked, io.Writer) error, wrong error) error {
	if wrong != nil {
		return wrong
	}
	return o.ask.ask(cmd, do)
}

// hashedName hides a name: the same person has the same hash in a cluster.
func (o *correctOptions) hashedName(cluster string) (string, error) {
	name := o.who
	if name == "" {
		u, err := user.Current()
		if err != nil {
			return "", fmt.Errorf("who says it? name yourself with --who: %w", err)
		}
		name = u.Username
	}
	sum := sha256.Sum256([]byte("flopwatch label\x00" + cluster + "\x00" + name))
	return "who-" + hex.EncodeToString(sum[:6]), nil
}

func labelID(cluster, who string, l *store.LabelRow) string {
	parts := []string{"label/1", cluster, who, l.Kind, l.RunID, l.FindingID}
	if l.Kind == store.LabelSameRun || l.Kind == store.LabelOtherRun {
		parts[3] = "runs" // that two are one and that they are not is one question
		parts = append(parts, l.Value)
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return "lbl-" + hex.EncodeToString(sum[:8])
}

// label stores what is said.
func (o *correctOptions) label(ctx context.Context, a *asked, args []string, out io.Writer) error {
	who, err := o.hashedName(a.cluster)
	if err != nil {
		return err
	}
	var labels []store.LabelRow
	if o.finding != "" {
		labels, err = o.ofFinding(ctx, a)
	} else {
		labels, err = o.ofRun(ctx, a, args[0])
	}
	if err != nil {
		return err
	}
	for i := range labels {
		l := &labels[i]
		l.Who, l.Role, l.Because, l.At = who, o.role, strings.TrimSpace(o.because), a.now
		l.LabelID = labelID(a.cluster, who, l)
	}
	return o.put(ctx, a, labels, out)
}

func (o *correctOptions) ofFinding(ctx context.Context, a *asked) ([]store.LabelRow, error) {
	rows, err := a.store.LatestFindings(ctx, a.cluster)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(rows, func(r store.FindingRow) bool { return r.FindingID == o.finding })
	if i < 0 {
		return nil, fmt.Errorf("cluster %s has no finding %q: `flopwatch findings --json` names them", a.cluster, o.finding)
	}
	l := store.LabelRow{Kind: store.LabelFinding, FindingID: o.finding, Value: "wrong", Number: math.NaN(), Said: rows[i].State}
	if o.right {
		l.Value = "right"
	}
	if rows[i].Retracted {
		l.Said = "taken back"
	}
	return []store.LabelRow{l}, nil
}

func (o *correctOptions) ofRun(ctx context.Context, a *asked, id string) ([]store.LabelRow, error) {
	rows, err := a.store.LatestRuns(ctx, a.cluster)
	if err != nil {
		return nil, err
	}
	r, err := findRun(rows, id, a.cluster)
	if err != nil {
		return nil, err
	}
	said := func(text string) string { return text + ", as of " + stamp(r.JudgedMs) + " UTC" }
	var out []store.LabelRow
	add := func(kind, value string, number float64, said string) {
		out = append(out, store.LabelRow{Kind: kind, RunID: r.RunID, Value: value, Number: number, Said: said})
	}
	if o.class != "" {
		add(store.LabelClass, o.class, math.NaN(), said(fmt.Sprintf("%s %.2f", r.Class, r.ClassProbability)))
	}
	for kind, id := range map[string]string{store.LabelSameRun: o.sameAs, store.LabelOtherRun: o.otherRun} {
		if id == "" {
			continue
		}
		other, err := findRun(rows, id, a.cluster)
		if err != nil {
			return nil, err
		}
		if other.RunID == r.RunID {
			return nil, usageError{Err: fmt.Errorf("%s is one with itself", r.RunID)}
		}
		x, y := min(r.RunID, other.RunID), max(r.RunID, other.RunID)
		out = append(out, store.LabelRow{Kind: kind, RunID: x, Value: y, Number: math.NaN(), Said: said("two runs")})
	}
	if o.executed > 0 {
		add(store.LabelFLOPsExecuted, "", o.executed, said(around(r.Executed.Low, r.Executed.Best, r.Executed.High)))
	}
	if o.model > 0 {
		add(store.LabelFLOPsModel, "", o.model, said(around(r.Model.Low, r.Model.Best, r.Model.High)))
	}
	slices.SortFunc(out, func(x, y store.LabelRow) int { return strings.Compare(x.Kind, y.Kind) })
	return out, nil
}

// put stores labels as versions behind those that there are.
func (o *correctOptions) put(ctx context.Context, a *asked, labels []store.LabelRow, out io.Writer) error {
	had, err := a.store.Labels(ctx, a.cluster)
	if err != nil {
		return fmt.Errorf("%w: has the store the tables of this version? `flopwatch store migrate` brings it up to date", err)
	}
	for i := range labels {
		l := &labels[i]
		l.Version = uint64(max(a.now.UnixMilli(), 1))
		for k := range had {
			if had[k].LabelID == l.LabelID {
				l.Version = max(l.Version, had[k].Version+1)
			}
		}
	}
	err = a.store.PutLabels(ctx, a.cluster, labels)
	if store.Denied(err) {
		return fmt.Errorf("this user may not write labels, see role flopwatch_corrector in deploy/clickhouse/roles.sql: %w", err)
	}
	if err != nil {
		return err
	}
	p := &printer{w: out}
	for i := range labels {
		word := "kept"
		if labels[i].Withdrawn {
			word = "withdrawn"
		}
		p.folded("", fmt.Sprintf("%s: %s", word, labelText(&labels[i])))
	}
	return p.err
}

func (o *correctOptions) list(ctx context.Context, a *asked, out io.Writer) error {
	labels, err := a.store.Labels(ctx, a.cluster)
	if err != nil {
		return err
	}
	slices.SortStableFunc(labels, func(x, y store.LabelRow) int { return y.At.Compare(x.At) })
	p := &printer{w: out}
	n := 0
	for i := range labels {
		l := &labels[i]
		if l.Withdrawn && !o.ask.all {
			continue
		}
		n++
		if o.ask.json {
			text, err := json.Marshal(labelLine(l))
			if err != nil {
				return fmt.Errorf("encode label %s: %w", l.LabelID, err)
			}
			p.line("%s", text)
			continue
		}
		mark := ""
		if l.Withdrawn {
			mark = "withdrawn: "
		}
		p.folded("", mark+labelText(l))
	}
	if n == 0 && !o.ask.json {
		p.line("Nobody has said anything of verdicts on cluster %s.", a.cluster)
	}
	return p.err
}

// labelLine is a label as --json writes it.
func labelLine(l *store.LabelRow) any {
	var number *float64
	if !math.IsNaN(l.Number) {
		number = &l.Number
	}
	return struct {
		Label     string    `json:"label"`
		Kind      string    `json:"kind"`
		Run       string    `json:"run"`
		Finding   string    `json:"finding"`
		Value     string    `json:"value"`
		Number    *float64  `json:"number"`
		Because   string    `json:"because"`
		Who       string    `json:"who"`
		Role      string    `json:"role"`
		StoreUser string    `json:"store_user"`
		At        time.Time `json:"at"`
		Withdrawn bool      `json:"withdrawn"`
		Said      string    `json:"said"`
	}{l.LabelID, l.Kind, l.RunID, l.FindingID, l.Value, number, l.Because, l.Who, l.Role, l.StoreUser, l.At, l.Withdrawn, l.Said}
}

// withdraw takes a label back.
func (o *correctOptions) withdraw(ctx context.Context, a *asked, id string, out io.Writer) error {
	who, err := o.hashedName(a.cluster)
	if err != nil {
		return err
	}
	labels, err := a.store.Labels(ctx, a.cluster)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(labels, func(l store.LabelRow) bool { return l.LabelID == id })
	switch {
	case i < 0:
		return fmt.Errorf("cluster %s has no label %q: `flopwatch correct list --all` names them", a.cluster, id)
	case labels[i].Withdrawn:
		return fmt.Errorf("label %s is withdrawn already", id)
	case labels[i].Who != who:
		return fmt.Errorf("label %s is another's (%s): say otherwise in a label of your own", id, labels[i].Who)
	}
	l := labels[i]
	l.Withdrawn, l.Because, l.Role, l.At = true, strings.TrimSpace(o.because), o.role, a.now
	return o.put(ctx, a, []store.LabelRow{l}, out)
}
