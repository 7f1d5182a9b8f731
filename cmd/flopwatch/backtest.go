package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/store"
)

// backtestOptions are the flags of `flopwatch backtest`.
type backtestOptions struct {
	ask           askOptions
	profiles      []string
	file          string
	until         string
	step          time.Duration
	jurisdictions []string
	dry, exitCode bool
}

func newBacktestCommand() *cobra.Command {
	var o backtestOptions
	cmd := &cobra.Command{
		Use:   "backtest --profile NAME --since TIME",
		Short: "Judge stored history again under other profiles, and say what differs",
		Long: `Backtest judges the stored minute cells of a period again, under built-in profiles or those of a file, and compares the
result with the verdicts that stand: which runs and findings appear, vanish, or change their state, their known-at time or their
probability, and why. Raw rows are not needed. What was judged before is never touched: the new verdicts are versions of their
own (v_reviews, v_runs_by_profile, v_findings_by_profile), unless --dry is given. One that was cut off goes on where it stopped.

Without --profile all profiles of --profiles-file, or all built-in ones that are watched, are taken as a set: then findings of
profiles that the set lacks vanish. Findings without a profile (red flags, telemetry) are compared as well.

Exit codes: 0 it was compared; 1 it could not be, or --exit-code was given and something differs; 2 a mistake on the command line.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.ask.registerStore(cmd)
	f := cmd.Flags()
	f.StringVar(&o.ask.cluster, "cluster", "", "cluster to judge (needed with --clickhouse)")
	f.StringVar(&o.ask.since, "since", "", "from when on: 90m, 24h, 7d, 2026-11-22 or 2026-11-22T15:04 (UTC); default: the first stored cell")
	f.StringVar(&o.until, "until", "", "until when, as --since; default: as far as verdicts go")
	f.StringSliceVar(&o.profiles, "profile", nil, "names of profiles; all: the set")
	f.StringVar(&o.file, "profiles-file", "", "file of profiles (TOML) in place of the built-in ones")
	f.DurationVar(&o.step, "step", 0, "least time between two judgements, whole minutes (default 1m up to two days of history, 10m beyond)")
	f.StringSliceVar(&o.jurisdictions, "special-jurisdictions", nil, "country codes under special measures, as the detector's configuration has them")
	f.BoolVar(&o.ask.json, "json", false, "JSON instead of text")
	f.BoolVar(&o.dry, "dry", false, "compare alone: store nothing")
	f.BoolVar(&o.exitCode, "exit-code", false, "exit code 1 where something differs")
	return cmd
}

// choose returns the profiles that are judged under, the version of the set, and whether it is a whole set.
func (o *backtestOptions) choose() (profiles []threshold.Profile, version string, whole bool, err error) {
	from := "the built-in profiles"
	if o.file == "" {
		profiles, err = threshold.Builtin()
	} else {
		from = o.file
		text, rerr := os.ReadFile(o.file)
		if rerr != nil {
			return nil, "", false, fmt.Errorf("read --profiles-file: %w", rerr)
		}
		profiles, err = threshold.Parse(o.file, text)
	}
	if err != nil {
		return nil, "", false, err
	}
	if whole = len(o.profiles) == 0 || slices.Equal(o.profiles, []string{"all"}); !whole {
		names := make([]string, len(profiles))
		for i := range profiles {
			names[i] = profiles[i].Name
		}
		var chosen []threshold.Profile
		for _, name := range o.profiles {
			i := slices.Index(names, name)
			if i < 0 {
				return nil, "", false, usageError{Err: fmt.Errorf("--profile %q is not among %s: %s", name, from, strings.Join(names, ", "))}
			}
			p := profiles[i]
			p.Watch = true // it was asked for
			chosen = append(chosen, p)
		}
		profiles = chosen
	}
	if !slices.ContainsFunc(profiles, func(p threshold.Profile) bool { return p.Watch }) {
		return nil, "", false, usageError{Err: fmt.Errorf("none of %s is watched: name profiles with --profile", from)}
	}
	version, err = threshold.Digest(profiles)
	return profiles, version, whole, err
}

// backtestAnswer is what --json prints.
type backtestAnswer struct {
	Review  string   `json:"review"` // id; its versions are stored under it, unless it was dry
	Cluster string   `json:"cluster"`
	FromMs  int64    `json:"from_ms"`
	UntilMs int64    `json:"until_ms"`
	BeganMs int64    `json:"judged_from_ms"` // where judging began, so that runs which went on at from_ms are whole
	StepMs  int64    `json:"step_ms"`
	Names   []string `json:"profiles"`
	Version string   `json:"profile_version"`
	Stored  bool     `json:"stored"`
	Seconds float64  `json:"seconds"`
	detector.Difference
}

func (o *backtestOptions) run(cmd *cobra.Command) (err error) {
	now := time.Now()
	profiles, version, whole, err := o.choose()
	if err != nil {
		return err
	}
	if o.step != 0 && (o.step < time.Minute || o.step > 15*time.Minute || o.step%time.Minute != 0) {
		return usageError{Err: fmt.Errorf("--step %s: whole minutes, from 1m to 15m", o.step)}
	}
	untilMs, err := parseSince(o.until, now)
	if err != nil {
		return usageError{Err: errors.New(strings.Replace(err.Error(), "--since", "--until", 1))}
	}
	if err = o.ask.check(now); err != nil {
		return err
	}
	if o.ask.sinceMs != 0 && untilMs != 0 && untilMs <= o.ask.sinceMs {
		return usageError{Err: errors.New("--until does not lie after --since")}
	}
	a, err := o.ask.open(cmd.Context(), now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.store.Close()) }()
	b := backtest{o: o, a: a, profiles: profiles, whole: whole, answer: backtestAnswer{Cluster: a.cluster, FromMs: o.ask.sinceMs, UntilMs: untilMs, Version: version, Stored: !o.dry}}
	if !o.ask.json {
		b.progress = cmd.ErrOrStderr()
	}
	if err = b.judge(cmd.Context()); err != nil {
		return err
	}
	b.answer.Seconds = time.Since(now).Seconds()
	if err = b.print(cmd.OutOrStdout()); err == nil && o.exitCode && len(b.answer.Changes) > 0 {
		return fmt.Errorf("%s", plural(len(b.answer.Changes), "difference"))
	}
	return err
}

// backtest judges a period again and compares.
type backtest struct {
	o        *backtestOptions
	a        *asked
	profiles []threshold.Profile
	whole    bool
	progress io.Writer // nil: none
	answer   backtestAnswer
}

func (b *backtest) judge(ctx context.Context) error {
	st, cluster, x := b.a.store, b.a.cluster, &b.answer
	first, last, ok, err := st.CellSpan(ctx, cluster)
	if err != nil {
		return fmt.Errorf("%w: has the store the tables of this version? `flopwatch store migrate` brings it up to date", err)
	}
	if !ok {
		return fmt.Errorf("there are no cells of cluster %s in the store: nothing was judged yet", cluster)
	}
	// What stands, as of the end of the period.
	ends := b.verdictsEnd(ctx, last)
	if x.FromMs == 0 {
		x.FromMs = first
	}
	if x.UntilMs == 0 || x.UntilMs > ends {
		x.UntilMs = ends
	}
	if x.UntilMs < first || x.FromMs > min(last, ends) || x.UntilMs <= x.FromMs {
		return fmt.Errorf("no cells of cluster %s from %s to %s UTC are stored: there are some from %s to %s UTC", cluster, stamp(x.FromMs), stamp(x.UntilMs), stamp(first), stamp(last))
	}
	in := detector.DiffInput{FromMs: x.FromMs, UntilMs: x.UntilMs, Whole: b.whole, NoJurisdictions: len(b.o.jurisdictions) == 0}
	if in.Runs, err = st.RunsAsOf(ctx, cluster, uint64(x.UntilMs)); err != nil {
		return err
	}
	if in.Findings, err = st.FindingsAsOf(ctx, cluster, uint64(x.UntilMs)); err != nil {
		return err
	}
	x.BeganMs = began(in.Runs, x.FromMs, first)
	if x.StepMs = b.o.step.Milliseconds(); x.StepMs == 0 {
		if x.StepMs = 60_000; x.UntilMs-x.BeganMs > 2*24*3_600_000 {
			x.StepMs = 600_000
		}
	}
	r, err := b.review(ctx, last)
	if err != nil {
		return err
	}
	if err = r.Run(ctx); err != nil {
		return fmt.Errorf("judge again: %w", err)
	}
	in.NewRuns, in.New = r.Verdicts()
	in.Profiles = strings.Split(r.Row().Profiles, ",")
	x.Review, x.Names = r.Row().ReviewID, in.Profiles
	x.Difference, err = detector.Diff(in)
	return err
}

// verdictsEnd is up to when was judged.
func (b *backtest) verdictsEnd(ctx context.Context, lastMs int64) int64 {
	if p, ok, err := b.a.store.Position(ctx, b.a.cluster); err == nil && ok && p.JudgedMs > 0 {
		return p.JudgedMs
	}
	end := int64(0)
	if runs, err := b.a.store.LatestRuns(ctx, b.a.cluster); err == nil { // of a recording: it has no position
		for i := range runs {
			end = max(end, runs[i].JudgedMs)
		}
	}
	return cmp.Or(end, lastMs)
}

// began is from when on is judged so that activities which went on at fromMs are whole: no more than a
// detector's horizon before.
func began(runs []store.RunRow, fromMs, firstMs int64) int64 {
	at := fromMs
	for i := range runs {
		if r := &runs[i]; r.SupersededBy == "" && r.StartMs < fromMs && (r.EndMs == 0 || r.EndMs >= fromMs) {
			at = min(at, r.StartMs-3_600_000)
		}
	}
	at = max(at, fromMs-detector.HorizonMs, firstMs)
	return at - at%60_000
}

func (b *backtest) review(ctx context.Context, lastCellMs int64) (*detector.Review, error) {
	st, x := b.a.store, &b.answer
	parties, err := detector.LoadParties(ctx, st)
	if err != nil {
		return nil, err
	}
	cfg := detector.Config{
		Cluster: b.a.cluster, Profiles: b.profiles, ProfileVersion: x.Version, SpecialJurisdictions: b.o.jurisdictions, StepMs: x.StepMs, Now: time.Now,
	}
	if b.a.state != nil {
		cfg.WaitMs = max(b.a.state.Wait().Milliseconds(), 1)
	}
	if cfg.ConfigDigest, err = cfg.Digest(0, 0); err != nil {
		return nil, err
	}
	if b.progress != nil {
		said := time.Now()
		cfg.Progress = func(atMs int64) {
			if time.Since(said) > 2*time.Second {
				said = time.Now()
				_, _ = fmt.Fprintf(b.progress, "judged  up to %s UTC\n", stamp(atMs)) // nothing depends on it
			}
		}
	}
	return detector.NewReview(detector.ReviewConfig{
		Config: cfg, Dry: b.o.dry, Last: lastCellMs <= x.UntilMs,
		Row: store.ReviewRow{
			ReviewID: detector.ReviewID(store.ReviewBacktest, &cfg, x.BeganMs, x.UntilMs), Kind: store.ReviewBacktest, FromMs: x.BeganMs, UntilMs: x.UntilMs,
		},
	}, st, parties)
}

func (b *backtest) print(w io.Writer) error {
	x := &b.answer
	if b.o.ask.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", " ")
		if err := enc.Encode(x); err != nil {
			return fmt.Errorf("print: %w", err)
		}
		return nil
	}
	p := &printer{w: w}
	p.line("Cluster %s, %s to %s UTC, judged again under %s", x.Cluster, stamp(x.FromMs), stamp(x.UntilMs), first(x.Names, 4, "no profile"))
	if x.Stored {
		p.line("The new verdicts are versions of their own: review %s, profile version %.12s (v_runs_by_profile, v_findings_by_profile).", x.Review, x.Version)
	}
	p.line("%s and %s compared, %s. Finished in %.1f s.", plural(x.Runs, "run"), plural(x.Findings, "finding"), plural(len(x.Changes), "difference"), x.Seconds)
	if x.LeftOut > 0 {
		p.line("%s left out: of profiles that were not judged under, or red flags (--special-jurisdictions was not given).", plural(x.LeftOut, "finding"))
	}
	for i := range x.Changes {
		p.change(&x.Changes[i])
	}
	p.line("")
	for _, l := range wrap(notLegalAdvice, textWidth) {
		p.line("%s", l)
	}
	return p.err
}

// change writes one difference.
func (p *printer) change(c *detector.Change) {
	about := c.Of + " " + c.ID
	if c.Of == "finding" {
		about = strings.Join([]string{c.Limb, cmp.Or(c.Subject, "-"), "(" + c.ID + ")"}, " ")
	}
	if c.Profile != "" {
		about += " under " + c.Profile
	}
	p.line("")
	p.line("%s: %s%s", c.What, about, map[bool]string{true: "; " + strings.Join(c.Fields, ", ")}[c.What == detector.Changes])
	for _, s := range []struct {
		word string
		side *detector.ChangeSide
	}{{"was", c.Was}, {"is ", c.Is}} {
		if s.side != nil {
			p.line("  %s  %s", s.word, sideText(s.side))
		}
	}
	for _, reason := range c.Reasons {
		for i, l := range wrap(reason, textWidth-9) {
			p.line("  %s  %s", []string{"why", "   "}[min(i, 1)], l)
		}
	}
}

func sideText(s *detector.ChangeSide) string {
	var parts []string
	if s.State != "" {
		parts = append(parts, s.State+", severity "+s.Severity, "evidence since "+stamp(s.KnownAtMs)+" UTC")
	}
	if s.Class != "" {
		parts = append(parts, s.Class)
	}
	if s.ModelBest != nil {
		parts = append(parts, fmt.Sprintf("%.3g model FLOP", *s.ModelBest))
	}
	if s.Probability != nil {
		parts = append(parts, fmt.Sprintf("beyond %.3g with probability %.2f", s.LimitFLOP, *s.Probability))
	}
	return strings.Join(parts, "; ")
}
