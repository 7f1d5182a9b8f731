package detector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/internal/store"
)

const (
	// reviewStepMs is the least time between two judgements of a review beside live judging: findings
	// lose nothing by it, as each looks at every minute since the one before.
	reviewStepMs = 10 * 60_000
	// reviewRest is how long a review rests after a block, in times of what the block took.
	reviewRest = 3
	// longestRest bounds that.
	longestRest = time.Minute
	// reviewLagMs is how far live judging may lie behind before a review waits for it.
	reviewLagMs = 3 * StepMs
	// reviewCells is what part of the cells that memory may hold a review holds.
	reviewCells = 4
)

// planReview sees to it that history is judged again where profiles are not those that it was judged
// under. It comes before the claim: once the position stands under the new profiles nobody would know.
func (f *Follower) planReview(ctx context.Context, p store.PositionRow, was string) error {
	cfg := &f.d.cfg
	if p.Profiles != "" {
		was = p.Profiles
	}
	if was == "" || was == cfg.ProfileVersion || p.JudgedMs == 0 {
		return nil
	}
	rows, err := f.store.Reviews(ctx, cfg.Cluster)
	if err != nil {
		return err
	}
	for i := range rows { // of profiles that hold no more
		if r := rows[i]; r.Kind == store.ReviewProfiles && (r.State == store.ReviewOpen || r.State == store.ReviewJudged) && r.ProfileVersion != cfg.ProfileVersion {
			r.State, r.Note, r.Epoch = store.ReviewFailed, "profiles changed again before it was done", cfg.Epoch
			r.Progress++
			if err = f.store.PutReview(ctx, cfg.Cluster, r); err != nil {
				return err
			}
		}
	}
	first, _, ok, err := f.store.CellSpan(ctx, cfg.Cluster)
	if err != nil {
		return err
	}
	if !ok || first >= p.JudgedMs {
		return nil
	}
	id := ReviewID(store.ReviewProfiles, cfg, 0, p.JudgedMs)
	if slices.ContainsFunc(rows, func(r store.ReviewRow) bool { return r.ReviewID == id }) {
		return nil
	}
	f.live.Log.LogAttrs(ctx, slog.LevelInfo, "profiles changed, history is judged again beside what is live", slog.String("was", was), slog.String("is", cfg.ProfileVersion),
		slog.String("review", id), slog.Time("from", time.UnixMilli(first).UTC()), slog.Time("until", time.UnixMilli(p.JudgedMs).UTC()))
	return f.store.PutReview(ctx, cfg.Cluster, store.ReviewRow{
		ReviewID: id, Progress: 1, Kind: store.ReviewProfiles, State: store.ReviewOpen, FromMs: first, UntilMs: p.JudgedMs,
		DetectorVersion: Version, ProfileVersion: cfg.ProfileVersion, WasBefore: was, ConfigDigest: cfg.ConfigDigest, Epoch: cfg.Epoch,
	})
}

// reviewed is a review that is judged to its end and not taken over yet.
type reviewed struct {
	row      store.ReviewRow
	runs     []store.RunRow
	findings []store.FindingRow
}

// reviewHistory does what planReview left to do, until it is done or ctx ends. It runs beside live
// judging, and shares nothing with it but the store: what it finds is handed over in f.handed.
func (f *Follower) reviewHistory(ctx context.Context) {
	said := false
	for ctx.Err() == nil {
		err := func() error {
			graph, err := LoadParties(ctx, f.store)
			if err != nil {
				return err
			}
			return f.reviewOnce(ctx, graph)
		}()
		if err == nil || ctx.Err() != nil || errors.Is(err, ErrStopped) {
			return
		}
		if errors.Is(err, ErrNoCells) {
			f.live.Log.LogAttrs(ctx, slog.LevelWarn, "history cannot be judged again", slog.Any("err", err))
			return
		}
		if !said {
			f.live.Log.LogAttrs(ctx, slog.LevelWarn, "judging history again waits, trying again", slog.Any("err", err))
			said = true
		}
		if pause(ctx, f.live.Retry) != nil {
			return
		}
	}
}

// reviewOnce takes up the review that is open under the profiles that hold, if one is.
func (f *Follower) reviewOnce(ctx context.Context, parties *identity.Graph) error {
	cfg := f.reviewConfig
	rows, err := f.store.Reviews(ctx, cfg.Cluster)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(rows, func(r store.ReviewRow) bool {
		return r.Kind == store.ReviewProfiles && r.ProfileVersion == cfg.ProfileVersion && (r.State == store.ReviewOpen || r.State == store.ReviewJudged)
	})
	if i < 0 {
		return nil
	}
	began := cfg.Now()
	r, err := NewReview(ReviewConfig{
		Config: cfg, Row: rows[i], HorizonMs: f.live.HorizonMs, MaxCells: max(f.live.MaxCells/reviewCells, 1),
		Before: func(ctx context.Context, judgedMs int64) error {
			f.tellReview(&rows[i], judgedMs)
			if herr := f.live.Held(); herr != nil {
				return errors.Join(ErrStopped, herr)
			}
			rest := min(reviewRest*cfg.Now().Sub(began), longestRest)
			for {
				if perr := pause(ctx, max(rest, time.Nanosecond)); perr != nil {
					return perr
				}
				if f.Status().LagMs <= reviewLagMs {
					break
				}
				rest = f.live.Poll
			}
			began = cfg.Now()
			return nil
		},
	}, f.store, parties)
	if err != nil {
		return err
	}
	if err = r.Run(ctx); err != nil {
		return err
	}
	done := reviewed{row: r.Row()}
	until := uint64(done.row.UntilMs)
	if done.runs, err = f.store.ReviewedRuns(ctx, cfg.Cluster, done.row.ReviewID, until); err != nil {
		return err
	}
	if done.findings, err = f.store.ReviewedFindings(ctx, cfg.Cluster, done.row.ReviewID, until); err != nil {
		return err
	}
	f.tellReview(&done.row, done.row.UntilMs)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handed = &done
	return nil
}

func (f *Follower) tellReview(r *store.ReviewRow, judgedMs int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Review, f.status.ReviewJudgedMs, f.status.ReviewUntilMs = r.ReviewID, max(judgedMs, r.FromMs), r.UntilMs
}

// takeOver brings what a review found into what is live: a finding that live judging holds, or will
// raise, gets the moment from which its evidence sufficed; what is judged no more, as it lies beyond
// the horizon, gets versions under the new profiles. Nothing that stood before is overwritten. It
// returns the review, whose state is to be told once the block is stored.
func (f *Follower) takeOver(ctx context.Context) (*store.ReviewRow, error) {
	f.mu.Lock()
	done := f.handed
	f.mu.Unlock()
	if done == nil {
		return nil, nil //nolint:nilnil // there is none
	}
	d := f.d
	stored, err := f.store.LatestRuns(ctx, d.cfg.Cluster)
	if err != nil {
		return nil, err
	}
	old := map[string]bool{} // runs that stand and are judged no more
	for i := range stored {
		if r := &stored[i]; r.SupersededBy == "" && d.runs[r.RunID] == "" {
			old[r.RunID] = true
		}
	}
	var findings []store.FindingRow
	for i := range done.findings {
		row := done.findings[i]
		var g report.Finding
		if err = json.Unmarshal([]byte(row.Doc), &g); err != nil {
			return nil, fmt.Errorf("read back finding %s: %w", row.FindingID, err)
		}
		switch had, holds := d.prev[g.Finding]; {
		case row.Retracted || g.Profile == nil: // what no profile says is as it was
		case holds:
			if g.KnownAtMs < had.KnownAtMs {
				had.KnownAtMs = g.KnownAtMs
				d.prev[g.Finding], d.due = had, true
			}
		case len(g.Runs) > 0 && !slices.ContainsFunc(g.Runs, func(id string) bool { return !old[id] }):
			row.RaisedMs, row.RaisedAt, row.Provenance = f.judgedMs+d.cfg.WaitMs, d.cfg.Now(), d.provenance(f.judgedMs)
			findings = append(findings, row)
		default: // as something that comes back: it does so as what it was
			d.withdrawn[g.Finding], d.due = g, true
		}
	}
	var runs []store.RunRow
	var members []store.RunMemberRow
	for i := range done.runs {
		row := done.runs[i]
		if row.SupersededBy != "" || !old[row.RunID] {
			continue
		}
		var l RunLine
		if err = json.Unmarshal([]byte(row.Doc), &l); err != nil {
			return nil, fmt.Errorf("read back run %s: %w", row.RunID, err)
		}
		row.Provenance = d.provenance(f.judgedMs)
		runs = append(runs, row)
		for _, m := range l.Members {
			members = append(members, store.RunMemberRow{RunID: l.Run, Version: row.Provenance.Version, Epoch: row.Provenance.Epoch, Node: m.Node, GPU: m.GPU, StartMs: m.StartMs, EndMs: m.EndMs})
		}
	}
	if err = errors.Join(f.store.PutRunMembers(ctx, d.cfg.Cluster, members), f.store.PutRuns(ctx, d.cfg.Cluster, runs), f.store.PutFindings(ctx, d.cfg.Cluster, findings)); err != nil {
		return nil, err
	}
	f.live.Log.LogAttrs(ctx, slog.LevelInfo, "history is judged again", slog.String("review", done.row.ReviewID), slog.Int("runs", len(done.runs)), slog.Int("findings", len(done.findings)),
		slog.Int("old_runs", len(runs)), slog.Int("old_findings", len(findings)))
	return &done.row, nil
}

// tookOver says that a review is done, after the block that rests on it is stored.
func (f *Follower) tookOver(ctx context.Context, row *store.ReviewRow) error {
	r := *row
	r.State, r.Epoch = store.ReviewDone, f.d.cfg.Epoch
	r.Progress++
	if err := f.store.PutReview(ctx, f.d.cfg.Cluster, r); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handed, f.status.Review = nil, ""
	return nil
}
