package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

// Replicas take over each table's parts on their own: one that has the row of a batch may lack the
// batch's samples still. Who judges a batch when its row is seen, and never looks again, would judge
// without them. A store that is Replicated and opened as Settled therefore
//
//   - refuses to answer from servers that lag by more than maxReplicaDelay: the one that is asked is
//     looked at before batches or a position are read (ErrReplicaLags), those behind Distributed
//     tables by settings of each statement;
//   - shows the row of a batch, and a change of losses, only settleTime after it came, by the store's
//     clock: whatever replica answers has the rest by then.
//
// select_sequential_consistency would do the same for one writer at a time: it needs inserts of a
// table to wait for each other (insert_quorum_parallel = 0), and a shard has several collectors.
const (
	maxReplicaDelay = 30 * time.Second
	settleTime      = time.Minute
)

// ErrReplicaLags says that the server that was asked lacks too much of what others have.
var ErrReplicaLags = errors.New("replica lags")

func (c Config) settled() bool { return c.Replicated && c.Settled }

// came is the condition that a row is shown, by the column that says when it came.
func (c Config) came(column string) string {
	if !c.settled() {
		return ""
	}
	return fmt.Sprintf(" AND %s <= now64(3) - toIntervalSecond(%d)", column, int(settleTime.Seconds()))
}

// keepsUp fails where the server that is asked lags. One that has lost Keeper cannot tell.
func (s *Store) keepsUp(ctx context.Context) error {
	if !s.cfg.settled() {
		return nil
	}
	var delay proto.ColUInt64
	most := uint64(0)
	sql := "SELECT toUInt64(max(if(is_readonly OR is_session_expired, 4294967295, absolute_delay))) AS delay FROM system.replicas WHERE database IN (" + quote(s.cfg.Database) + ", " + quote(s.cfg.localDatabase()) + ")"
	err := s.native.query(ctx, sql, proto.Results{{Name: "delay", Data: &delay}}, func(rows int) error {
		for i := range rows {
			most = max(most, delay[i])
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look at replicas: %w", err)
	}
	if limit := uint64(maxReplicaDelay.Seconds()); most > limit {
		return fmt.Errorf("the server that is asked is %d s behind, %d s are let pass: %w", most, limit, ErrReplicaLags)
	}
	return nil
}
