package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/cmd/flopwatch/up"
	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/supervise"
)

// askOptions say which store is asked, and for what.
type askOptions struct {
	data         string
	clickhouse   store.Config
	passwordFile string
	cluster      string
	since        string
	sinceMs      int64 // of since; 0: from the beginning
	json, all    bool
}

// register adds the flags that runs and findings share.
func (o *askOptions) register(cmd *cobra.Command) {
	o.registerStore(cmd)
	f := cmd.Flags()
	f.StringVar(&o.cluster, "cluster", "", "cluster to ask for (needed with --clickhouse)")
	f.StringVar(&o.since, "since", "", "only what is not older: 90m, 24h, 7d, 2026-11-22 or 2026-11-22T15:04 (UTC)")
	f.BoolVar(&o.json, "json", false, "one line of JSON each, as a replay writes them")
	f.BoolVar(&o.all, "all", false, "what no longer stands too")
}

// registerStore adds the flags that say which store is meant.
func (o *askOptions) registerStore(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "`DIR` of a running flopwatch up")
	f.StringVar(&o.clickhouse.URL, "clickhouse", "", "URL of another ClickHouse: http(s)://HOST:PORT or clickhouse://HOST:PORT")
	f.StringVar(&o.clickhouse.User, "clickhouse-user", "", "user for --clickhouse")
	f.StringVar(&o.passwordFile, "clickhouse-password-file", "", "file with the password for --clickhouse")
	f.StringVar(&o.clickhouse.Database, "database", "", "database of flopwatch's tables in --clickhouse (default flopwatch)")
	cmd.Args = noArgs
}

// check reads what can be read without a store.
func (o *askOptions) check(now time.Time) (err error) {
	if err = o.checkStore(); err != nil {
		return err
	}
	if o.data == "" && o.cluster == "" {
		return usageError{Err: errors.New("--cluster NAME is required with --clickhouse")}
	}
	if o.sinceMs, err = parseSince(o.since, now); err != nil {
		return usageError{Err: err}
	}
	return nil
}

// checkStore reads which store is meant.
func (o *askOptions) checkStore() error {
	switch {
	case o.data != "" && o.clickhouse.URL != "":
		return usageError{Err: errors.New("--data and --clickhouse name two stores: leave one out")}
	case o.data == "" && o.clickhouse.URL == "":
		return usageError{Err: errors.New("name the data directory of a running `flopwatch up` with --data, or a store with --clickhouse")}
	case o.data != "" && (o.clickhouse.User != "" || o.passwordFile != "" || o.clickhouse.Database != ""):
		return usageError{Err: errors.New("--clickhouse-user, --clickhouse-password-file and --database are for the server that --clickhouse names")}
	}
	return nil
}

// parseSince reads a length of time before now, or a date in UTC; "" is 0.
func parseSince(text string, now time.Time) (int64, error) {
	if text == "" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(days, "%d", &n); err == nil && fmt.Sprint(n) == days && n >= 0 {
			return now.AddDate(0, 0, -n).UnixMilli(), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d).UnixMilli(), nil
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02T15:04", "2006-01-02 15:04", time.RFC3339} {
		if t, err := time.ParseInLocation(layout, text, time.UTC); err == nil {
			return t.UnixMilli(), nil
		}
	}
	return 0, fmt.Errorf("--since %q: wanted 90m, 24h, 7d, 2026-11-22 or 2026-11-22T15:04", text)
}

// answerWithin is how long a store on this machine may take to say that it is there.
const answerWithin = 10 * time.Second

// asked is an open store and what is known of who fills it.
type asked struct {
	store   *store.Store
	cluster string
	state   *up.State // nil: another store than a tree's
	now     time.Time
}

// open opens the store that is meant.
func (o *askOptions) open(ctx context.Context, now time.Time) (*asked, error) {
	if o.data == "" {
		if o.passwordFile != "" {
			text, err := os.ReadFile(o.passwordFile)
			if err != nil {
				return nil, fmt.Errorf("read --clickhouse-password-file: %w", err)
			}
			o.clickhouse.Password = strings.TrimRight(string(text), "\r\n")
		}
		st, err := store.Open(ctx, o.clickhouse)
		if err != nil {
			return nil, fmt.Errorf("--clickhouse: %w", err)
		}
		return &asked{st, o.cluster, nil, now}, nil
	}
	l, err := up.NewLayout(o.data)
	if err != nil {
		return nil, err
	}
	s, err := up.ReadState(l)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: ask as the user that runs flopwatch up", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: start it with `flopwatch up --data %s`", err, o.data)
	}
	pid, err := supervise.Holder(l.Run())
	if err != nil {
		return nil, err
	}
	if pid == 0 {
		return nil, fmt.Errorf("flopwatch up is not running on %s: start it with `flopwatch up --data %s`, it goes on with what it had", l.Root, o.data)
	}
	opening, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	st, err := openState(opening, s)
	if ctx.Err() == nil && opening.Err() != nil {
		return nil, fmt.Errorf("the store at %s does not answer within %v: `flopwatch doctor --data %s` says more", s.ClickHouseURL, answerWithin, o.data)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: `flopwatch doctor --data %s` says more", err, o.data)
	}
	return &asked{st, cmp.Or(o.cluster, s.Source.Cluster), &s, now}, nil
}

// nothing says why there is no answer yet: how far was judged, and what is to be expected.
func (a *asked) nothing(ctx context.Context, what string) (string, error) {
	p, ok, err := a.store.Position(ctx, a.cluster)
	if err != nil {
		return "", err
	}
	if ok && p.JudgedMs > 0 {
		text := fmt.Sprintf("No %s: cluster %s was judged up to %s UTC, from %s UTC on.", what, a.cluster, stamp(p.JudgedMs), stamp(p.StartMs))
		if s := a.state; s != nil && a.now.Before(s.StartedAt.Add(s.Wait()+2*time.Minute)) {
			text += fmt.Sprintf(" What has come since the start is judged by about %s UTC.", s.StartedAt.Add(s.Wait()+2*time.Minute).UTC().Format("15:04"))
		}
		return text, nil
	}
	first, _, has, err := a.store.FirstData(ctx, a.cluster, 0)
	if err != nil {
		return "", err
	}
	if !has {
		return fmt.Sprintf("No %s: no telemetry of cluster %s has arrived yet.", what, a.cluster), nil
	}
	if a.state == nil {
		return fmt.Sprintf("No %s: there is telemetry of cluster %s from %s UTC on, and no detector has judged it yet.", what, a.cluster, stamp(first)), nil
	}
	at := time.UnixMilli(max(first, a.state.StartedAt.UnixMilli())).Add(a.state.Wait() + time.Minute)
	if at.Before(a.now) {
		return fmt.Sprintf("No %s: there is telemetry from %s UTC on, and nothing was judged by %s UTC, when the first verdict was due. `flopwatch doctor` says more.", what, stamp(first), at.UTC().Format("15:04")), nil
	}
	return fmt.Sprintf("No %s yet: a minute is judged %s after it, expect the first verdict at about %s UTC.", what, up.Plain(a.state.Wait()), at.UTC().Format("15:04")), nil
}

// printJSON writes lines, and says on stderr why there are none.
func printJSON(stdout io.Writer, lines []string) error {
	for _, l := range lines {
		if _, err := fmt.Fprintln(stdout, l); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	return nil
}

func newRunsCommand() *cobra.Command {
	var o askOptions
	var classes []string
	cmd := &cobra.Command{
		Use:   "runs [RUN] --data DIR",
		Short: "List what GPUs worked on: class, size, FLOPs, who; or all that is known of one run",
		Long: `Runs lists the activities that the detector sees, as of its latest verdict: trainings and other work, the largest
first. Those that go on are marked "open"; the figures of one that grows slowly are renewed every ten minutes, and the
minute that they reach is added if it is not the latest. Idle GPUs and rentals of which nothing was measured are counted below the
table; --all lists them, and runs that a later verdict put together with others.

With a RUN (its id, or the beginning of it) it shows all that is known of it: what, who, how sure, why, what would narrow the
figures, with what else it may be one, signals that contradict each other, MFU and what was lost, findings, and what people say.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.ask(cmd, func(ctx context.Context, a *asked, out io.Writer) error {
				if len(args) > 0 {
					return o.run(ctx, a, args[0], out)
				}
				return o.runs(ctx, a, classes, out, cmd.ErrOrStderr())
			})
		},
	}
	o.register(cmd)
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usageError{Err: fmt.Errorf("runs shows one run, or lists all: got %q", args)}
		}
		return nil
	}
	cmd.Flags().StringSliceVar(&classes, "class", nil, "only these classes, or beginnings of them: training, inference, ...")
	return cmd
}

func knownLimbs() []string {
	return []string{report.Actual, report.Projected, report.Capacity, report.ChangedArrangement, report.Cluster, report.RedFlag, report.Telemetry, report.Inquiry, report.Indicator}
}

func newFindingsCommand() *cobra.Command {
	var o askOptions
	var limbs []string
	cmd := &cobra.Command{
		Use:   "findings --data DIR",
		Short: "List findings: which rule's condition was met, by whom, since when",
		Long: `Findings lists what the detector found, as of its latest verdict, the latest first. --all lists those too that a
later verdict took back. The report of a finding lies in DIR/reports.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, l := range limbs {
				if !slices.Contains(knownLimbs(), l) {
					return usageError{Err: fmt.Errorf("--limb %q: wanted one of %s", l, strings.Join(knownLimbs(), ", "))}
				}
			}
			return o.ask(cmd, func(ctx context.Context, a *asked, out io.Writer) error {
				return o.findings(ctx, a, limbs, out, cmd.ErrOrStderr())
			})
		},
	}
	o.register(cmd)
	cmd.Flags().StringSliceVar(&limbs, "limb", nil, "only these limbs: "+strings.Join(knownLimbs(), ", ")+" (the last two ask, and are listed only when named)")
	return cmd
}

// ask opens the store, answers and closes it.
func (o *askOptions) ask(cmd *cobra.Command, answer func(context.Context, *asked, io.Writer) error) (err error) {
	now := time.Now()
	if err = o.check(now); err != nil {
		return err
	}
	a, err := o.open(cmd.Context(), now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.store.Close()) }()
	return answer(cmd.Context(), a, cmd.OutOrStdout())
}

// runs answers `flopwatch runs`.
func (o *askOptions) runs(ctx context.Context, a *asked, classes []string, stdout, stderr io.Writer) error {
	rows, err := a.store.LatestRuns(ctx, a.cluster)
	if err != nil {
		return err
	}
	slices.SortStableFunc(rows, func(x, y store.RunRow) int {
		return cmp.Or(cmp.Compare(x.StartMs, y.StartMs), strings.Compare(x.RunID, y.RunID))
	})
	var docs []string
	var superseded map[string]string
	judged, reached := int64(0), map[string]int64{}
	for _, r := range rows {
		judged, reached[r.RunID] = max(judged, r.JudgedMs), r.JudgedMs
		if r.SupersededBy != "" && !o.all || r.EndMs != 0 && r.EndMs < o.sinceMs || !begins(r.Class, classes) {
			continue
		}
		if r.SupersededBy != "" {
			if superseded == nil {
				superseded = map[string]string{}
			}
			superseded[r.RunID] = r.SupersededBy
		}
		docs = append(docs, r.Doc)
	}
	if len(docs) == 0 {
		return o.none(ctx, a, "runs", len(rows), "--class, --since", stdout, stderr)
	}
	if o.json {
		return printJSON(stdout, docs)
	}
	runs, err := decode[detector.RunLine](docs)
	if err != nil {
		return err
	}
	p := &printer{w: stdout}
	judged = o.heading(ctx, a, p, judged)
	p.liveRuns(runs, untils(runs, superseded, reached, judged), o.all || len(classes) > 0)
	return p.err
}

// none says why nothing is listed.
func (o *askOptions) none(ctx context.Context, a *asked, what string, others int, filters string, stdout, stderr io.Writer) error {
	text := fmt.Sprintf("No such %s: %d of cluster %s are left out by %s or for want of --all.", what, others, a.cluster, filters)
	if others == 0 {
		var err error
		if text, err = a.nothing(ctx, what); err != nil {
			return err
		}
	}
	w := stdout
	if o.json {
		w = stderr
	}
	if _, err := fmt.Fprintln(w, text); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// heading says of what and of when the answer is, and returns the latter. judgedMs is the latest minute of the verdicts
// that are shown: a detector that has just taken over has no position yet.
func (o *askOptions) heading(ctx context.Context, a *asked, p *printer, judgedMs int64) int64 {
	if pos, ok, err := a.store.Position(ctx, a.cluster); err == nil && ok {
		judgedMs = max(judgedMs, pos.JudgedMs)
	}
	p.line("Cluster %s, judged up to %s UTC", a.cluster, stamp(judgedMs))
	if a.state != nil && a.state.Source.Kind == up.FakeGPUs {
		p.line("Everything of these GPUs is made up (%s).", up.FakeName)
	}
	return judgedMs
}

// untils says for each run how long it went on, or up to when it is known to have.
func untils(runs []detector.RunLine, superseded map[string]string, reached map[string]int64, judgedMs int64) map[string]string {
	out := map[string]string{}
	for i := range runs {
		r := &runs[i]
		switch by, at := superseded[r.Run], reached[r.Run]; {
		case by == "none": // the detector's word where no other run took it over
			out[r.Run] = "taken back"
		case by != "":
			out[r.Run] = "now part of " + by
		case r.EndedMs != nil:
			out[r.Run] = stamp(*r.EndedMs)
		case at < judgedMs:
			out[r.Run] = "open (figures: " + time.UnixMilli(at).UTC().Format("15:04") + ")"
		default:
			out[r.Run] = "open"
		}
	}
	return out
}

// begins reports whether name is one of the wanted, or begins with one and a '_'.
func begins(name string, wanted []string) bool {
	return len(wanted) == 0 || slices.ContainsFunc(wanted, func(w string) bool { return name == w || strings.HasPrefix(name, w+"_") })
}

// liveRuns writes runs as a live store has them, the largest first.
func (p *printer) liveRuns(runs []detector.RunLine, until map[string]string, all bool) {
	slices.SortStableFunc(runs, func(x, y detector.RunLine) int {
		return cmp.Or(cmp.Compare(y.FLOPsModel.Best, x.FLOPsModel.Best), cmp.Compare(y.FLOPsExecuted.Best, x.FLOPsExecuted.Best))
	})
	var rows []string
	var dark, idle []detector.RunLine
	for _, r := range runs {
		if !all && r.Class == "unknown" && slices.Equal(r.Basis, []string{"allocation"}) {
			dark = append(dark, r)
			continue
		}
		if !all && r.Class == "idle" {
			idle = append(idle, r)
			continue
		}
		limit, most := "-", nearEnough
		for _, t := range r.Thresholds {
			if t.Probability >= most {
				limit, most = fmt.Sprintf("%s %.2f", t.Profile, t.Probability), t.Probability
			}
		}
		rows = append(rows, fmt.Sprintf("%s\t%s %.2f\t%d\t%s\t%s\t%.1f\t%s\t%s\t%.0f %%\t%s\t%s", r.Run, r.Class, r.ClassProbability, gpus(r), stamp(r.StartedMs), until[r.Run], gpuHours(r),
			interval(r.FLOPsExecuted.Low, r.FLOPsExecuted.Best, r.FLOPsExecuted.High), interval(r.FLOPsModel.Low, r.FLOPsModel.Best, r.FLOPsModel.High),
			100*r.CoverageFrac, first(r.Accounts, 2, "-"), limit))
	}
	p.line("")
	switch {
	case rows != nil:
		p.line("Runs (%d; FLOPs as low / best / high of a 90 %% interval; times in UTC)", len(rows))
		p.table("run\tclass\tGPUs\tsince\tuntil\tGPU-h\texecuted FLOP\tmodel FLOP\tcoverage\taccounts\tlimit: probability that it is exceeded", rows)
	case len(dark) > 0: // which is not that nothing was
		p.line("Nothing was seen at work.")
	default:
		p.line("Nothing was at work.")
	}
	p.dark(dark)
	if len(idle) > 0 {
		p.line("  %s: %s.", plural(len(idle), "idle stretch", "idle stretches"), amount(idle))
	}
}

// findings answers `flopwatch findings`.
func (o *askOptions) findings(ctx context.Context, a *asked, limbs []string, stdout, stderr io.Writer) error {
	rows, err := a.store.LatestFindings(ctx, a.cluster)
	if err != nil {
		return err
	}
	slices.SortStableFunc(rows, func(x, y store.FindingRow) int {
		return cmp.Or(cmp.Compare(x.KnownAtMs, y.KnownAtMs), strings.Compare(x.FindingID, y.FindingID))
	})
	var docs []string
	asked := 0
	for _, r := range rows {
		if r.Retracted && !o.all || r.KnownAtMs < o.sinceMs || len(limbs) > 0 && !slices.Contains(limbs, r.Limb) {
			continue
		}
		if len(limbs) == 0 && !report.IsFinding(r.Limb) {
			asked++
			continue
		}
		if r.Retracted && !o.json {
			// Its line says what it was when it stood.
			if r.Doc, err = withState(r.Doc, "taken back"); err != nil {
				return err
			}
		}
		docs = append(docs, r.Doc)
	}
	if len(docs) == 0 {
		return o.none(ctx, a, "findings", len(rows), "--limb, --since", stdout, stderr)
	}
	if o.json {
		return printJSON(stdout, docs)
	}
	found, err := decode[report.Finding](docs)
	if err != nil {
		return err
	}
	slices.Reverse(found)
	profiles, err := a.profiles()
	if err != nil {
		return err
	}
	p := &printer{w: stdout}
	judged := int64(0)
	for i := range rows {
		judged = max(judged, int64(rows[i].Provenance.Version)) // the judged minute
	}
	o.heading(ctx, a, p, judged)
	p.findings(found, profiles)
	p.line("")
	if asked > 0 {
		p.line("%s ask and conclude nothing: --limb inquiry,indicator lists them.", plural(asked, "more line"))
	}
	for _, l := range wrap(notLegalAdvice, textWidth) {
		p.line("%s", l)
	}
	return p.err
}

// profiles are the rules that a tree applies, for their legal status; another store's are
// taken to be the built-in ones.
func (a *asked) profiles() ([]threshold.Profile, error) {
	if a.state != nil {
		if own, err := up.ReadProfiles(up.Layout{Root: a.state.Data}); err != nil || own != nil {
			return own, err
		}
	}
	return threshold.Builtin()
}

// withState is a finding's line with another state.
func withState(doc, state string) (string, error) {
	var f report.Finding
	if err := json.Unmarshal([]byte(doc), &f); err != nil {
		return "", fmt.Errorf("read back a finding: %w", err)
	}
	f.State = state
	text, err := json.Marshal(f)
	if err != nil {
		return "", fmt.Errorf("encode a finding: %w", err)
	}
	return string(text), nil
}
