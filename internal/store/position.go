package store

import (
	"context"
	"fmt"
	"math"

	"github.com/ClickHouse/ch-go/proto"
)

// PositionRow is how far a detector that follows the store has judged. All times are Unix
// milliseconds of event time but SeenMs.
type PositionRow struct {
	Epoch    uint64
	JudgedMs int64 // 0: nothing yet
	StartMs  int64
	CutMs    int64 // 0: nothing was let go
	// AvailableMs: batches that were available by then were taken in.
	AvailableMs int64
	LastMs      int64 // the moment judged last
	NewestMs    int64
	Due         bool
	SeenMs      int64 // latest insertion of the batches that were seen, by the store's clock
	Instance    string
	Config      string // digest
	Profiles    string // version of the set of profiles; empty: not told
}

// PutPosition stores how far a detector has judged, after everything that it says is stored.
// An epoch older than the newest position or verdict is ErrStaleEpoch.
func (s *Store) PutPosition(ctx context.Context, cluster string, p PositionRow) error {
	if p.JudgedMs < 0 {
		return fmt.Errorf("put position of the detector: %d ms lies before 1970", p.JudgedMs)
	}
	for _, table := range []string{TablePositions, TableRuns, TableFindings} {
		if err := s.checkEpoch(ctx, table, cluster, p.Epoch); err != nil {
			return err
		}
	}
	var w writer
	w.text("cluster").Append(cluster)
	w.u64("epoch").Append(p.Epoch)
	w.u64("judged_ms").Append(uint64(p.JudgedMs))
	for name, v := range map[string]int64{"start_ms": p.StartMs, "cut_ms": p.CutMs, "available_ms": p.AvailableMs, "last_ms": p.LastMs, "newest_ms": p.NewestMs, "seen_ms": p.SeenMs} {
		w.int(name).Append(v) // columns are told by their names
	}
	column(&w, "due", new(proto.ColBool)).Append(p.Due)
	w.text("instance").Append(p.Instance)
	w.text("config_digest").Append(p.Config)
	w.text("profile_version").Append(p.Profiles)
	return s.Insert(ctx, TablePositions, "", &columnsBlock{in: w.in})
}

// Position returns how far the latest detector has judged a cluster. ok is false where none
// ever did.
func (s *Store) Position(ctx context.Context, cluster string) (p PositionRow, ok bool, err error) {
	if err = s.keepsUp(ctx); err != nil {
		return p, false, fmt.Errorf("read position of the detector: %w", err)
	}
	var sel selection
	epoch, judged, due := new(proto.ColUInt64), new(proto.ColUInt64), new(proto.ColUInt8)
	sel.add("epoch", "epoch", epoch)
	sel.add("judged_ms", "judged_ms", judged)
	sel.add("due_", "toUInt8(due)", due)
	start, cut, available, last, newest, seen := sel.int("start_ms"), sel.int("cut_ms"), sel.int("available_ms"), sel.int("last_ms"), sel.int("newest_ms"), sel.int("seen_ms")
	instance, config, profiles := sel.text("instance"), sel.text("config_digest"), sel.text("profile_version")
	sql := sel.sql() + " FROM " + s.table(TablePositions) + " WHERE cluster = " + quote(cluster) + " ORDER BY epoch DESC, judged_ms DESC, inserted_at DESC LIMIT 1"
	err = s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			p = PositionRow{
				Epoch: (*epoch)[i], JudgedMs: int64(min((*judged)[i], math.MaxInt64)), StartMs: (*start)[i], CutMs: (*cut)[i], AvailableMs: (*available)[i], LastMs: (*last)[i],
				NewestMs: (*newest)[i], Due: (*due)[i] != 0, SeenMs: (*seen)[i], Instance: instance.at(i), Config: config.at(i), Profiles: profiles.at(i),
			}
			ok = true
		}
		return nil
	})
	if err != nil {
		return p, false, fmt.Errorf("read position of the detector: %w", err)
	}
	return p, ok, nil
}
