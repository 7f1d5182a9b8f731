package store

import (
	"context"
	"fmt"

	"github.com/ClickHouse/ch-go/proto"
)

// PartPressure tells how many parts the fullest partition of a table has, as a share of the number at
// which the store begins to delay inserts.
func (s *Store) PartPressure(ctx context.Context) (share float64, err error) {
	var most, limit proto.ColUInt64
	sql := "SELECT ifNull((SELECT max(n) FROM (SELECT count() AS n FROM system.parts WHERE active AND database = " + quote(s.cfg.Database) + " GROUP BY table, partition_id)), 0) AS most," +
		" ifNull((SELECT toUInt64OrZero(value) FROM system.merge_tree_settings WHERE name = 'parts_to_delay_insert'), 0) AS delay"
	err = s.native.query(ctx, sql, proto.Results{{Name: "most", Data: &most}, {Name: "delay", Data: &limit}}, func(rows int) error {
		for i := range rows {
			share = float64(most[i]) / float64(max(limit[i], 1))
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("count parts: %w", err)
	}
	return share, nil
}
