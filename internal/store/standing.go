package store

import (
	"context"
	"fmt"

	"github.com/ClickHouse/ch-go/proto"
)

// ChainStanding is what the hourly checks of all clusters come to, of the hours from a time on.
type ChainStanding struct {
	Hours       map[string]uint64 // hours of hosts by the status of their latest check
	BrokenHosts uint64            // hosts with a broken hour
	// Broken is the latest broken hour, of BrokenCluster; HourMs 0: there is none.
	Broken        ChainHour
	BrokenCluster string
	Losses        map[string]LossSum // by reason; what came after all is none
}

// LossSum sums up losses.
type LossSum struct {
	Hosts, Batches, Ticks uint64
	// OpenBatches are of those Batches that were known before a moment: a hole that stays.
	OpenBatches, OpenHosts uint64
}

// ChainStanding sums up the latest checks of the hours from fromMs on, and what was found lost since;
// losses that were known before openMs are counted as open, too.
func (s *Store) ChainStanding(ctx context.Context, fromMs, openMs int64) (ChainStanding, error) {
	out := ChainStanding{Hours: map[string]uint64{}, Losses: map[string]LossSum{}}
	var sel selection
	status, hours, hosts := sel.text("status"), new(proto.ColUInt64), new(proto.ColUInt64)
	sel.add("hours", "count()", hours)
	sel.add("hosts", "uniqExact(cluster, node)", hosts)
	cluster, node, detail, latest := new(textColumn), new(textColumn), new(textColumn), new(proto.ColInt64)
	for _, c := range []struct {
		name string
		to   *textColumn
	}{{"cluster", cluster}, {"node", node}, {"detail", detail}} {
		sel.add("last_"+c.name, "toString(argMax("+c.name+", (hour_ms, cluster, node)))", c.to)
	}
	sel.add("latest", "max(hour_ms)", latest)
	sql := sel.sql() + " FROM " + s.table(TableChainHours) + fmt.Sprintf(" FINAL WHERE hour_ms >= %d GROUP BY status", fromMs)
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			name := status.at(i)
			out.Hours[name] = (*hours)[i]
			if name == "broken" {
				out.BrokenHosts, out.BrokenCluster = (*hosts)[i], cluster.at(i)
				out.Broken = ChainHour{Node: node.at(i), HourMs: (*latest)[i], Status: name, Detail: detail.at(i)}
			}
		}
		return nil
	})
	if err != nil {
		return out, fmt.Errorf("sum up checks of chains: %w", err)
	}
	sel = selection{}
	reason := sel.text("reason")
	var sums [5]proto.ColUInt64
	open := fmt.Sprintf("first_ms < %d", openMs)
	for i, expr := range []string{"uniqExact(cluster, node)", "sum(n)", "sum(t)", "sumIf(n, " + open + ")", "uniqExactIf((cluster, node), " + open + ")"} {
		sel.add(fmt.Sprintf("sum%d", i), expr, &sums[i])
	}
	sql = sel.sql() + " FROM (SELECT cluster, node, toString(reason) AS reason, min(known_ms) AS first_ms, argMax(batches, (known_ms, noted_at)) AS n, argMax(ticks, (known_ms, noted_at)) AS t, argMax(gone, (known_ms, noted_at)) AS over FROM " +
		s.table(TableLosses) + fmt.Sprintf(" WHERE known_ms >= %d GROUP BY cluster, node, spool, from_sequence, reason) WHERE NOT over GROUP BY reason", fromMs)
	err = s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out.Losses[reason.at(i)] = LossSum{Hosts: sums[0][i], Batches: sums[1][i], Ticks: sums[2][i], OpenBatches: sums[3][i], OpenHosts: sums[4][i]}
		}
		return nil
	})
	if err != nil {
		return out, fmt.Errorf("sum up losses: %w", err)
	}
	return out, nil
}
