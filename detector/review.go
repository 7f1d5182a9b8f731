package detector

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/internal/store"
)

const (
	// reviewBlockMs is how much event time a review judges between two words on how far it is.
	reviewBlockMs = 2 * quietHourMs
)

// ErrNoCells says that there is nothing to judge again in a period.
var ErrNoCells = errors.New("no cells are stored")

// ReviewStore is what judging history again needs of a store.
type ReviewStore interface {
	Store
	// CellSpan is the first and the last minute of which there is a cell.
	CellSpan(ctx context.Context, cluster string) (firstMs, lastMs int64, ok bool, err error)
	Reviews(ctx context.Context, cluster string) ([]store.ReviewRow, error)
	PutReview(ctx context.Context, cluster string, r store.ReviewRow) error
	PutReviewedRuns(ctx context.Context, cluster, review string, rows []store.RunRow) error
	PutReviewedFindings(ctx context.Context, cluster, review string, rows []store.FindingRow) error
	ReviewedRuns(ctx context.Context, cluster, review string, version uint64) ([]store.RunRow, error)
	ReviewedFindings(ctx context.Context, cluster, review string, version uint64) ([]store.FindingRow, error)
}

// ReviewID names a judgement of a period by a configuration: the same work has the same name, so
// that it goes on where it was cut off.
func ReviewID(kind string, cfg *Config, fromMs, untilMs int64) string {
	h := sha256.Sum256([]byte(strings.Join([]string{"review/1", kind, cfg.Cluster, Version, cfg.ProfileVersion, cfg.ConfigDigest, fmt.Sprint(fromMs, untilMs)}, "\x00")))
	return "rev-" + hex.EncodeToString(h[:8])
}

// ReviewConfig says what is judged again.
type ReviewConfig struct {
	// Config is under whose profiles. Its epoch stands on what is written; 0: nobody's.
	Config Config
	// Row is what is known of the review: its id, kind and period, and how far it is.
	Row store.ReviewRow
	// Last: the period ends with the data, as of a recording: its last moment sees everything.
	Last bool
	// HorizonMs and MaxCells bound memory as those of a Follower do; 0: its defaults.
	HorizonMs int64
	MaxCells  int
	// BlockMs is how much event time is judged between two words on how far it is; 0: two hours.
	BlockMs int64
	// Dry writes nothing.
	Dry bool
	// Before is called before each block with the moment that was judged last; nil: not. An error ends the review.
	Before func(ctx context.Context, judgedMs int64) error
}

// Review judges stored history again, from cells, into versions of its own beside what was judged
// before, which it never touches. It goes on where one of the same id was cut off. It is used by
// one goroutine.
type Review struct {
	cfg  ReviewConfig
	row  store.ReviewRow
	d    *Detector
	side *reviewSide
	feed *cellFeed
}

// NewReview returns a review that has judged nothing yet.
func NewReview(cfg ReviewConfig, st ReviewStore, parties *identity.Graph) (*Review, error) {
	if cfg.Row.ReviewID == "" || cfg.Row.UntilMs < cfg.Row.FromMs {
		return nil, fmt.Errorf("review %q from %d to %d ms: without an id, or it ends before its start", cfg.Row.ReviewID, cfg.Row.FromMs, cfg.Row.UntilMs)
	}
	if cfg.HorizonMs == 0 {
		cfg.HorizonMs = HorizonMs
	}
	if cfg.MaxCells != 0 {
		cfg.Config.MaxCells = cfg.MaxCells
	}
	if cfg.BlockMs == 0 {
		cfg.BlockMs = reviewBlockMs
	}
	side := &reviewSide{ReviewStore: st, id: cfg.Row.ReviewID, dry: cfg.Dry, runs: map[string]store.RunRow{}, findings: map[string]store.FindingRow{}}
	r := &Review{cfg: cfg, row: cfg.Row, side: side, d: New(cfg.Config, side, parties)}
	names := make([]string, len(r.d.profiles))
	for i := range r.d.profiles {
		names[i] = r.d.profiles[i].Name
	}
	r.row.Profiles, r.row.DetectorVersion, r.row.ProfileVersion, r.row.ConfigDigest, r.row.Epoch = strings.Join(names, ","), Version, cfg.Config.ProfileVersion, cfg.Config.ConfigDigest, cfg.Config.Epoch
	return r, nil
}

// Run judges what is left of the period.
func (r *Review) Run(ctx context.Context) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	endMs := int64(maxMs)
	if r.cfg.Last {
		endMs = r.row.UntilMs
	}
	d := r.d
	for r.row.State == store.ReviewOpen {
		if r.cfg.Before != nil {
			if err := r.cfg.Before(ctx, r.row.JudgedMs); err != nil {
				return err
			}
		}
		at := r.row.FromMs
		if r.row.JudgedMs != 0 {
			at = min(nextStep(r.row.JudgedMs), r.row.UntilMs)
		}
		to := min(feature.MinuteOf(at+r.cfg.BlockMs), r.row.UntilMs)
		if err := d.judgeBlock(ctx, r.feed, max(d.startMs, d.cutMs), at, to, endMs); err != nil {
			return err
		}
		d.said = nil // nobody writes reports of it
		r.row.JudgedMs, r.row.CutMs, r.row.LastMs, r.row.NewestMs, r.row.Due = to, d.cutMs, d.prevAtMs, d.newestMs, d.due
		if to == r.row.UntilMs {
			r.row.State = store.ReviewJudged
			if r.row.Kind == store.ReviewBacktest {
				r.row.State = store.ReviewDone // there is nobody to take it over
			}
		}
		if err := r.say(ctx); err != nil {
			return err
		}
		if d.cfg.Progress != nil {
			d.cfg.Progress(to)
		}
		d.forget(to, r.cfg.HorizonMs)
	}
	return nil
}

// Row is how far the review is.
func (r *Review) Row() store.ReviewRow { return r.row }

// Verdicts are what it said last of each run and finding, sorted by id.
func (r *Review) Verdicts() ([]store.RunRow, []store.FindingRow) { return r.side.latest() }

func (r *Review) say(ctx context.Context) error {
	if r.cfg.Dry {
		return nil
	}
	r.row.Progress++
	if err := r.side.PutReview(ctx, r.d.cfg.Cluster, r.row); err != nil {
		return fmt.Errorf("store how far the review is: %w", err)
	}
	return nil
}

// begin takes up where a review of the id stands, or starts it.
func (r *Review) begin(ctx context.Context) error {
	d := r.d
	d.startMs, d.newestMs = r.row.FromMs, r.row.FromMs
	if !r.cfg.Dry {
		rows, err := r.side.Reviews(ctx, d.cfg.Cluster)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(rows, func(x store.ReviewRow) bool { return x.ReviewID == r.row.ReviewID }); i >= 0 {
			had := rows[i]
			had.Epoch = d.cfg.Epoch
			r.row = had
		}
	}
	if r.row.State == "" || r.row.State == store.ReviewFailed {
		r.row.State = store.ReviewOpen
	}
	d.startMs = r.row.FromMs
	r.feed = &cellFeed{d: d, nextMs: r.row.FromMs - dayMs, endMs: r.row.UntilMs + dayMs, spanMs: readSpan}
	if r.row.JudgedMs == 0 {
		if first, last, ok, err := r.side.CellSpan(ctx, d.cfg.Cluster); err != nil {
			return err
		} else if !ok || first > r.row.UntilMs || last < r.row.FromMs {
			return fmt.Errorf("judge cluster %s from %d to %d ms again: %w", d.cfg.Cluster, r.row.FromMs, r.row.UntilMs, ErrNoCells)
		}
		if err := d.loadFacts(ctx); err != nil {
			return err
		}
		return r.say(ctx)
	}
	return r.resume(ctx)
}

// resume brings back the state as it stood when the last block was stored.
func (r *Review) resume(ctx context.Context) error {
	d, row := r.d, &r.row
	d.cutMs, d.prevAtMs, d.hoursMs, d.newestMs, d.due = row.CutMs, row.LastMs, row.JudgedMs, row.NewestMs, row.Due
	if err := d.loadFacts(ctx); err != nil {
		return err
	}
	runs, err := r.side.ReviewedRuns(ctx, d.cfg.Cluster, row.ReviewID, uint64(row.JudgedMs))
	if err != nil {
		return err
	}
	var lines []RunLine
	for i := range runs {
		r.side.runs[runs[i].RunID] = runs[i]
		if runs[i].SupersededBy != "" {
			continue
		}
		var l RunLine
		if err = json.Unmarshal([]byte(runs[i].Doc), &l); err != nil {
			return fmt.Errorf("read back run %s: %w", runs[i].RunID, err)
		}
		if l.StartedMs < d.cutMs && l.EndedMs != nil && *l.EndedMs < d.cutMs {
			d.left[l.Run] = true
			continue
		}
		d.runs[l.Run] = runs[i].Doc
		lines = append(lines, l)
	}
	findings, err := r.side.ReviewedFindings(ctx, d.cfg.Cluster, row.ReviewID, uint64(row.JudgedMs))
	if err != nil {
		return err
	}
	for i := range findings {
		f := &findings[i]
		r.side.findings[f.FindingID] = *f
		var g report.Finding
		if err = json.Unmarshal([]byte(f.Doc), &g); err != nil {
			return fmt.Errorf("read back finding %s: %w", f.FindingID, err)
		}
		d.raised[f.FindingID] = f.RaisedMs
		switch gone := len(g.Runs) > 0 && !slices.ContainsFunc(g.Runs, func(id string) bool { return !d.left[id] }); {
		case gone:
		case !f.Retracted:
			d.prev[f.FindingID], d.written[f.FindingID] = g, f.Doc
		case len(g.Runs) > 0:
			d.withdrawn[f.FindingID] = g
		}
	}
	return r.loadCells(ctx, lines)
}

// loadCells brings back the cells that memory held: those from the cut on, and of activities that
// began before it and went on.
func (r *Review) loadCells(ctx context.Context, lines []RunLine) error {
	d := r.d
	seenMs := r.row.JudgedMs + d.cfg.WaitMs
	if d.cutMs != 0 {
		r.feed.nextMs = d.cutMs
		if err := d.fill(ctx, lines, d.cutMs, d.cutMs, r.row.JudgedMs, func(_ context.Context, read []storedCells) error {
			for i := range read {
				if read[i].availableMs <= seenMs {
					d.put(read[i].cells)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if _, err := r.feed.until(ctx, seenMs); err != nil {
		return err
	}
	if d.cutMs != 0 {
		d.st.dropBefore(d.cutMs, membersFrom(d.st, lines, d.cutMs))
	}
	return nil
}

// reviewSide is the store as a review sees it: it reads what is stored, and what it writes goes
// beside it.
type reviewSide struct {
	ReviewStore
	id       string
	dry      bool
	runs     map[string]store.RunRow
	findings map[string]store.FindingRow
}

func (s *reviewSide) PutCells(context.Context, store.Cells, store.Provenance) error { return nil }

func (s *reviewSide) PutRunMembers(context.Context, string, []store.RunMemberRow) error { return nil }

func (s *reviewSide) PutEvidence(context.Context, string, string, []store.GPURow, []store.HostRow) error {
	return nil
}

func (s *reviewSide) PutRuns(ctx context.Context, cluster string, rows []store.RunRow) error {
	for i := range rows {
		s.runs[rows[i].RunID] = rows[i]
	}
	if s.dry {
		return nil
	}
	return s.PutReviewedRuns(ctx, cluster, s.id, rows)
}

func (s *reviewSide) PutFindings(ctx context.Context, cluster string, rows []store.FindingRow) error {
	for i := range rows {
		s.findings[rows[i].FindingID] = rows[i]
	}
	if s.dry {
		return nil
	}
	return s.PutReviewedFindings(ctx, cluster, s.id, rows)
}

func (s *reviewSide) latest() ([]store.RunRow, []store.FindingRow) {
	runs := make([]store.RunRow, 0, len(s.runs))
	for _, r := range s.runs { // sorted below
		runs = append(runs, r)
	}
	findings := make([]store.FindingRow, 0, len(s.findings))
	for _, f := range s.findings { // sorted below
		findings = append(findings, f)
	}
	slices.SortFunc(runs, func(a, b store.RunRow) int { return strings.Compare(a.RunID, b.RunID) })
	slices.SortFunc(findings, func(a, b store.FindingRow) int { return strings.Compare(a.FindingID, b.FindingID) })
	return runs, findings
}

func (s *reviewSide) LatestRuns(context.Context, string) ([]store.RunRow, error) {
	runs, _ := s.latest()
	return runs, nil
}

func (s *reviewSide) LatestFindings(context.Context, string) ([]store.FindingRow, error) {
	_, findings := s.latest()
	return findings, nil
}
