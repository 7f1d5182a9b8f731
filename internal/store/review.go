package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/ClickHouse/ch-go/proto"
)

// Kinds and states of reviews.
const (
	ReviewProfiles = "profiles" // profiles changed
	ReviewBacktest = "backtest" // somebody asked

	ReviewOpen   = "open"
	ReviewJudged = "judged" // all of it is judged; what live verdicts lack of it is not said yet
	ReviewDone   = "done"
	ReviewFailed = "failed"
)

// ReviewRow is how far a judgement of stored history under other profiles is. All times are Unix
// milliseconds of event time.
type ReviewRow struct {
	ReviewID                  string
	Progress                  uint64 // rises with each word on it
	Kind, State               string
	FromMs, UntilMs           int64
	JudgedMs                  int64 // 0: nothing yet
	CutMs, LastMs, NewestMs   int64
	Due                       bool
	Profiles                  string // names, separated by commas
	DetectorVersion           string
	ProfileVersion, WasBefore string
	ConfigDigest              string
	Epoch                     uint64 // 0: a backtest
	Note                      string
}

// PutReview says how far a review is, after everything that it says so far is stored.
func (s *Store) PutReview(ctx context.Context, cluster string, r ReviewRow) error {
	if r.ReviewID == "" {
		return errors.New("put review: it has no id")
	}
	var w writer
	w.text("cluster").Append(cluster)
	w.u64("progress").Append(r.Progress)
	w.u64("epoch").Append(r.Epoch)
	for name, v := range map[string]int64{"from_ms": r.FromMs, "until_ms": r.UntilMs, "judged_ms": r.JudgedMs, "cut_ms": r.CutMs, "last_ms": r.LastMs, "newest_ms": r.NewestMs} {
		w.int(name).Append(v) // columns are told by their names
	}
	for name, v := range map[string]string{
		"review_id": r.ReviewID, "kind": r.Kind, "state": r.State, "profiles": r.Profiles, "detector_version": r.DetectorVersion, "profile_version": r.ProfileVersion,
		"was_version": r.WasBefore, "config_digest": r.ConfigDigest, "note": r.Note,
	} {
		w.text(name).Append(v)
	}
	column(&w, "due", new(proto.ColBool)).Append(r.Due)
	return s.Insert(ctx, TableReviews, "", &columnsBlock{in: w.in})
}

// Reviews returns the latest word on each review of a cluster, sorted by id.
func (s *Store) Reviews(ctx context.Context, cluster string) ([]ReviewRow, error) {
	var sel selection
	id, kind, state, profiles, note := sel.text("review_id"), sel.text("kind"), sel.text("state"), sel.text("profiles"), sel.text("note")
	detector, profile, was, config := sel.text("detector_version"), sel.text("profile_version"), sel.text("was_version"), sel.text("config_digest")
	from, until, judged, cut, last, newest := sel.int("from_ms"), sel.int("until_ms"), sel.int("judged_ms"), sel.int("cut_ms"), sel.int("last_ms"), sel.int("newest_ms")
	progress, epoch, due := new(proto.ColUInt64), new(proto.ColUInt64), new(proto.ColUInt8)
	sel.add("progress", "progress", progress)
	sel.add("epoch", "epoch", epoch)
	sel.add("due_", "toUInt8(due)", due)
	sql := sel.sql() + " FROM " + s.table(TableReviews) + " WHERE cluster = " + quote(cluster) + " ORDER BY review_id, progress DESC LIMIT 1 BY review_id"
	var out []ReviewRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out = append(out, ReviewRow{
				ReviewID: id.at(i), Progress: (*progress)[i], Kind: kind.at(i), State: state.at(i), FromMs: (*from)[i], UntilMs: (*until)[i], JudgedMs: (*judged)[i],
				CutMs: (*cut)[i], LastMs: (*last)[i], NewestMs: (*newest)[i], Due: (*due)[i] != 0, Profiles: profiles.at(i), DetectorVersion: detector.at(i),
				ProfileVersion: profile.at(i), WasBefore: was.at(i), ConfigDigest: config.at(i), Epoch: (*epoch)[i], Note: note.at(i),
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read reviews: %w", err)
	}
	return out, nil
}

// PutReviewedRuns adds versions of a review's verdicts on runs. The same version written again is one.
func (s *Store) PutReviewedRuns(ctx context.Context, cluster, review string, rows []RunRow) error {
	if len(rows) == 0 {
		return nil
	}
	return s.insertRuns(ctx, TableReviewedRuns, cluster, review, rows)
}

// PutReviewedFindings does the same for findings.
func (s *Store) PutReviewedFindings(ctx context.Context, cluster, review string, rows []FindingRow) error {
	if len(rows) == 0 {
		return nil
	}
	return s.insertFindings(ctx, TableReviewedFindings, cluster, review, rows, nil)
}

// ReviewedRuns returns a review's latest version of each run that is no later than version, sorted by id.
func (s *Store) ReviewedRuns(ctx context.Context, cluster, review string, version uint64) ([]RunRow, error) {
	return s.runs(ctx, TableReviewedRuns, cluster, ofReview(review, version))
}

// ReviewedFindings does the same for findings.
func (s *Store) ReviewedFindings(ctx context.Context, cluster, review string, version uint64) ([]FindingRow, error) {
	return s.findings(ctx, TableReviewedFindings, cluster, ofReview(review, version))
}

func ofReview(review string, version uint64) string {
	return fmt.Sprintf(" AND review_id = %s AND version <= %d", quote(review), version)
}

// reviewedColumn names the review of each row, where the table has reviews.
type reviewedColumn struct {
	review string
	column *proto.ColStr
}

func (w *writer) reviewed(review string) reviewedColumn {
	if review == "" {
		return reviewedColumn{}
	}
	return reviewedColumn{review, w.text("review_id")}
}

func (c reviewedColumn) add() {
	if c.column != nil {
		c.column.Append(c.review)
	}
}
