package store

import (
	"context"
	"fmt"

	"github.com/ClickHouse/ch-go/proto"
)

// PartPressure tells how many parts the fullest partition of a table has, as a share of the number at
// which the store begins to delay inserts; on a cluster, on the shard that is worst off.
func (s *Store) PartPressure(ctx context.Context) (share float64, err error) {
	var most, limit proto.ColUInt64
	sql := "SELECT ifNull((SELECT max(n) FROM (SELECT count() AS n FROM system.parts WHERE active AND database IN (" + quote(s.cfg.Database) + ", " + quote(s.cfg.localDatabase()) + ") GROUP BY database, table, partition_id)), 0) AS most," +
		" ifNull((SELECT toUInt64OrZero(value) FROM system.merge_tree_settings WHERE name = 'parts_to_delay_insert'), 0) AS delay"
	ask := s.shards
	if len(ask) == 0 {
		ask = []native{s.native}
	}
	for _, n := range ask {
		most.Reset()
		limit.Reset()
		err = n.query(ctx, sql, proto.Results{{Name: "most", Data: &most}, {Name: "delay", Data: &limit}}, func(rows int) error {
			for i := range rows {
				share = max(share, float64(most[i])/float64(max(limit[i], 1)))
			}
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("count parts: %w", err)
		}
	}
	return share, nil
}
