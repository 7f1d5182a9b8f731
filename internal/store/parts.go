package store

import (
	"context"
	"fmt"

	"github.com/ClickHouse/ch-go/proto"
)

// PartPressure tells how many parts the fullest partition of a table has, as a share of the number at
// which the store begins to delay inserts into that table: the table's own setting, or the server's; on a cluster, on
// the shard that is worst off.
func (s *Store) PartPressure(ctx context.Context) (share float64, err error) {
	var worst proto.ColFloat64
	here := " database IN (" + quote(s.cfg.Database) + ", " + quote(s.cfg.localDatabase()) + ")"
	sql := "WITH (SELECT toFloat64OrZero(value) FROM system.merge_tree_settings WHERE name = 'parts_to_delay_insert') AS common" +
		" SELECT ifNull(max(if(delay > 0, n / delay, 0)), 0) AS share FROM (SELECT n, ifNull(coalesce(own, common), 0) AS delay" +
		" FROM (SELECT database, table, count() AS n FROM system.parts WHERE active AND" + here + " GROUP BY database, table, partition_id) AS p" +
		" LEFT JOIN (SELECT database, name AS table, toFloat64OrNull(extract(engine_full, 'parts_to_delay_insert = (\\\\d+)')) AS own" +
		" FROM system.tables WHERE engine LIKE '%MergeTree' AND" + here + ") AS t USING (database, table))"
	ask := s.shards
	if len(ask) == 0 {
		ask = []native{s.native}
	}
	for _, n := range ask {
		worst.Reset()
		err = n.query(ctx, sql, proto.Results{{Name: "share", Data: &worst}}, func(rows int) error {
			for i := range rows {
				share = max(share, worst[i])
			}
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("count parts: %w", err)
		}
	}
	return share, nil
}
