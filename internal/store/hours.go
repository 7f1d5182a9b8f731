package store

import (
	"context"
	"fmt"

	"github.com/ClickHouse/ch-go/proto"
)

// What follows reads views alone, so that whoever may read those can ask.

// HourCheck is what the hourly check found of a host's hour, as the view v_chain_hours tells it.
type HourCheck struct {
	Node           string
	HourMs         int64
	Status, Detail string
	Reasons        []string

	Batches, Verified, Unsigned, Broken      uint64
	Missing, GivenUp, Quarantined, Conflicts uint64
	CheckedMs                                int64
}

// HourChecks returns the latest checks of hosts' hours in [fromMs, toMs), by node and hour. Nodes nil: of all.
func (s *Store) HourChecks(ctx context.Context, cluster string, nodes []string, fromMs, toMs int64) ([]HourCheck, error) {
	var sel selection
	node, hour, status, detail := sel.text("node"), sel.int("hour_ms"), sel.text("status"), sel.text("detail")
	reasons := proto.NewArray[string](new(proto.ColStr))
	sel.add("why", "arrayMap(x -> toString(x), reasons)", reasons)
	var counts [8]proto.ColUInt64
	for i, name := range chainCounts {
		sel.add(name, name, &counts[i])
	}
	checked := new(proto.ColInt64)
	sel.add("checked_ms", "toUnixTimestamp64Milli(checked_at)", checked)
	sql := sel.sql() + " FROM " + s.table("v_chain_hours") + " WHERE cluster = " + quote(cluster) + among(nodes) + fmt.Sprintf(" AND hour_ms >= %d AND hour_ms < %d ORDER BY node, hour_ms", fromMs, toMs)
	var out []HourCheck
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			c := HourCheck{Node: node.at(i), HourMs: (*hour)[i], Status: status.at(i), Detail: detail.at(i), Reasons: append([]string{}, reasons.Row(i)...), CheckedMs: (*checked)[i]}
			for k, n := range [...]*uint64{&c.Batches, &c.Verified, &c.Unsigned, &c.Broken, &c.Missing, &c.GivenUp, &c.Quarantined, &c.Conflicts} {
				*n = counts[k][i]
			}
			out = append(out, c)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read checks of hours: %w", err)
	}
	return out, nil
}

// ArrivedHour is how many batches of a host became available in an hour.
type ArrivedHour struct {
	Node    string
	HourMs  int64
	Batches uint64
}

// Arrived counts the batches of hosts that became available in [fromMs, toMs), by node and hour. Nodes nil: of all.
func (s *Store) Arrived(ctx context.Context, cluster string, nodes []string, fromMs, toMs int64) ([]ArrivedHour, error) {
	var sel selection
	node, n := sel.text("node"), new(proto.ColUInt64)
	hour := new(proto.ColInt64)
	sel.add("at_ms", hourOf("available_ms"), hour)
	sel.add("n", "count()", n)
	sql := sel.sql() + " FROM " + s.table("v_batches") + " WHERE cluster = " + quote(cluster) + among(nodes) + fmt.Sprintf(" AND available_ms >= %d AND available_ms < %d GROUP BY node, at_ms ORDER BY node, at_ms", fromMs, toMs)
	var out []ArrivedHour
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out = append(out, ArrivedHour{node.at(i), (*hour)[i], (*n)[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count batches that arrived: %w", err)
	}
	return out, nil
}

// TroubledNodes lists the hosts of which in [fromMs, toMs) something did not hold, was lost or refused, as checks,
// losses and quarantine tell; what was not checked yet they do not tell.
func (s *Store) TroubledNodes(ctx context.Context, cluster string, fromMs, toMs int64) ([]string, error) {
	of := func(view, at, where string) string {
		return "SELECT DISTINCT toString(node) AS node FROM " + s.table(view) + " WHERE cluster = " + quote(cluster) + fmt.Sprintf(" AND %s >= %d AND %s < %d", at, fromMs, at, toMs) + where
	}
	sql := "SELECT DISTINCT node FROM (" + of("v_chain_hours", "hour_ms", " AND (status IN ('broken', 'incomplete') OR given_up + quarantined + conflicts > 0)") +
		" UNION ALL " + of("v_losses", "known_ms", "") + " UNION ALL " + of("v_quarantine", "toUnixTimestamp(hour) * 1000", " AND reason != 'range'") + ") ORDER BY node"
	var node textColumn
	var out []string
	err := s.native.query(ctx, sql, proto.Results{{Name: "node", Data: &node}}, func(rows int) error {
		for i := range rows {
			out = append(out, node.at(i))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list hosts with losses: %w", err)
	}
	return out, nil
}
