package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// HourMs is an hour, the unit in which chains are checked.
const HourMs = int64(3_600_000)

// hourOf is the start of the hour of a column.
func hourOf(column string) string { return fmt.Sprintf("intDiv(%s, %d) * %d", column, HourMs, HourMs) }

// tuples renders keys for IN. There is one at least.
func tuples[K any](keys []K, of func(K) string) string {
	var b strings.Builder
	b.WriteByte('(')
	for i, k := range keys {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(of(k))
	}
	b.WriteByte(')')
	return b.String()
}

func (k BatchKey) tuple() string {
	return fmt.Sprintf("(%s, %s, %s, %d)", quote(k.Cluster), quote(k.Node), quote(k.Spool), k.Sequence)
}

func (k SpoolKey) tuple() string {
	return "(" + quote(k.Cluster) + ", " + quote(k.Node) + ", " + quote(k.Spool) + ")"
}

// Digests returns the digests of the messages that the store has under some identities, in
// `batches` and in quarantine.
func (s *Store) Digests(ctx context.Context, keys []BatchKey) (map[BatchKey][][32]byte, error) {
	out := map[BatchKey][][32]byte{}
	if len(keys) == 0 {
		return out, nil
	}
	in := " WHERE (cluster, node, spool, sequence) IN " + tuples(keys, BatchKey.tuple)
	sql := "SELECT cluster, node, spool, sequence, digest FROM " + s.table(TableBatches) + in +
		" UNION ALL SELECT cluster, node, spool, sequence, digest FROM " + s.table(TableQuarantine) + in
	var sel selection
	cluster, node, spool, sequence, digest := sel.text("cluster"), sel.text("node"), sel.text("spool"), new(proto.ColUInt64), &proto.ColFixedStr{Size: 32}
	sel.add("sequence", "sequence", sequence)
	sel.add("digest", "digest", digest)
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			k := BatchKey{cluster.at(i), node.at(i), spool.at(i), (*sequence)[i]}
			out[k] = append(out[k], [32]byte(digest.Row(i)))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up digests: %w", err)
	}
	return out, nil
}

// Conflict is a message with other content under an identity that was taken.
type Conflict struct {
	BatchKey
	Stream    string
	StreamSeq uint64
	Digest    [32]byte
	BrokerMs  int64
}

// Conflicts returns the conflicts of a cluster that came in [from, to), in order of node, spool
// and sequence, then as they came. Nodes nil: of all; toMs 0: no bound.
func (s *Store) Conflicts(ctx context.Context, cluster string, nodes []string, fromMs, toMs int64) ([]Conflict, error) {
	var sel selection
	node, spool, sequence, stream, streamSeq := sel.text("node"), sel.text("spool"), new(proto.ColUInt64), sel.text("stream"), new(proto.ColUInt64)
	sel.add("sequence", "sequence", sequence)
	sel.add("stream_seq", "stream_seq", streamSeq)
	digest, broker := &proto.ColFixedStr{Size: 32}, sel.int("broker_ms")
	sel.add("digest", "digest", digest)
	sql := sel.sql() + " FROM " + s.table(TableQuarantine) + " FINAL WHERE reason = 'conflict' AND cluster = " + quote(cluster) + among(nodes) + fmt.Sprintf(" AND broker_ms >= %d", fromMs)
	if toMs != 0 {
		sql += fmt.Sprintf(" AND broker_ms < %d", toMs)
	}
	sql += " ORDER BY node, spool, sequence, broker_ms, stream, stream_seq"
	var out []Conflict
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out = append(out, Conflict{BatchKey{cluster, node.at(i), spool.at(i), (*sequence)[i]}, stream.at(i), (*streamSeq)[i], [32]byte(digest.Row(i)), (*broker)[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read conflicts: %w", err)
	}
	return out, nil
}

// among narrows a statement to nodes; nil: all.
func among(nodes []string) string {
	if nodes == nil {
		return ""
	}
	return " AND node IN " + tuples(append([]string{}, nodes...), quote)
}

// ChainHour is what the hourly check found of a host's hour, as its table says.
type ChainHour struct {
	Node    string
	HourMs  int64
	Status  string // verified, unsigned, incomplete, broken
	Reasons []string
	Detail  string

	Batches, Verified, Unsigned, Broken      uint64
	Missing, GivenUp, Quarantined, Conflicts uint64
	TicksDue, TicksStored, TicksMissed       int64 // as in v_node_hours
	NodeKey, HeadsDigest                     [32]byte
	SeenMs, KnownMs                          int64
	CheckedMs                                int64 // wall time of the check; not written
}

// PutChainHours stores what was found.
func (s *Store) PutChainHours(ctx context.Context, cluster string, rows []ChainHour) error {
	if len(rows) == 0 {
		return nil
	}
	var w writer
	clusters, node, hour, status, detail := w.text("cluster"), w.text("node"), w.int("hour_ms"), w.text("status"), w.text("detail")
	reasons := column(&w, "reasons", proto.NewArray[string](new(proto.ColStr)))
	var counts [8]*proto.ColUInt64
	for i, name := range chainCounts {
		counts[i] = w.u64(name)
	}
	due, stored, missed := nullInts(&w, "ticks_due"), nullInts(&w, "ticks_stored"), nullInts(&w, "ticks_missed")
	key, heads := column(&w, "node_key", &proto.ColFixedStr{Size: 32}), column(&w, "heads_digest", &proto.ColFixedStr{Size: 32})
	seen, known := w.int("seen_ms"), w.int("known_ms")
	for i := range rows {
		r := &rows[i]
		clusters.Append(cluster)
		node.Append(r.Node)
		hour.Append(r.HourMs)
		status.Append(r.Status)
		detail.Append(r.Detail)
		reasons.Append(r.Reasons)
		for k, n := range r.counts() {
			counts[k].Append(*n)
		}
		due.Append(proto.NewNullable(r.TicksDue))
		stored.Append(proto.NewNullable(r.TicksStored))
		missed.Append(proto.NewNullable(r.TicksMissed))
		key.Append(r.NodeKey[:])
		heads.Append(r.HeadsDigest[:])
		seen.Append(r.SeenMs)
		known.Append(r.KnownMs)
	}
	return s.Insert(ctx, TableChainHours, "", &columnsBlock{in: w.in})
}

func nullInts(w *writer, name string) *proto.ColNullable[int64] {
	return column(w, name, proto.NewColNullable[int64](new(proto.ColInt64)))
}

// chainCounts are the columns of ChainHour.counts.
var chainCounts = [8]string{"batches", "verified", "unsigned", "broken", "missing", "given_up", "quarantined", "conflicts"}

func (r *ChainHour) counts() [8]*uint64 {
	return [8]*uint64{&r.Batches, &r.Verified, &r.Unsigned, &r.Broken, &r.Missing, &r.GivenUp, &r.Quarantined, &r.Conflicts}
}

// ChainHours returns the latest checks of a cluster's hours in [from, to), by node and hour. node
// "": of all; toMs 0: no bound.
func (s *Store) ChainHours(ctx context.Context, cluster, node string, fromMs, toMs int64) ([]ChainHour, error) {
	var sel selection
	nodes, hour, status, detail := sel.text("node"), sel.int("hour_ms"), sel.text("status"), sel.text("detail")
	reasons := proto.NewArray[string](new(proto.ColStr))
	sel.add("why", "arrayMap(x -> toString(x), reasons)", reasons)
	var counts [8]proto.ColUInt64
	for i, name := range chainCounts {
		sel.add(name, name, &counts[i])
	}
	key, heads := &proto.ColFixedStr{Size: 32}, &proto.ColFixedStr{Size: 32}
	sel.add("node_key", "node_key", key)
	sel.add("heads_digest", "heads_digest", heads)
	seen, known, checked := sel.int("seen_ms"), sel.int("known_ms"), new(proto.ColInt64)
	sel.add("checked_ms", "toUnixTimestamp64Milli(checked_at)", checked)
	sql := sel.sql() + " FROM " + s.table(TableChainHours) + " FINAL WHERE cluster = " + quote(cluster) + fmt.Sprintf(" AND hour_ms >= %d", fromMs)
	if node != "" {
		sql += " AND node = " + quote(node)
	}
	if toMs != 0 {
		sql += fmt.Sprintf(" AND hour_ms < %d", toMs)
	}
	sql += " ORDER BY node, hour_ms"
	var out []ChainHour
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			r := ChainHour{Node: nodes.at(i), HourMs: (*hour)[i], Status: status.at(i), Detail: detail.at(i), Reasons: append([]string(nil), reasons.Row(i)...),
				NodeKey: [32]byte(key.Row(i)), HeadsDigest: [32]byte(heads.Row(i)), SeenMs: (*seen)[i], KnownMs: (*known)[i], CheckedMs: (*checked)[i]}
			for k, n := range r.counts() {
				*n = counts[k][i]
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read checks of chains: %w", err)
	}
	return out, nil
}

// DueHour is an hour of a host that is to be checked, or checked again.
type DueHour struct {
	Node    string
	HourMs  int64
	Batches uint64 // at least
}

// openDays is how long an hour in which something is missing or in quarantine is looked at again.
const openDays = 7

// DueHours lists hours of a cluster before beforeMs that are to be checked: with rows that came
// into the store after insertedAfterMs, by its clock, and after the hour was checked last; and those of
// the last days in which something was missing or in quarantine, if their last check lies before
// checkedBeforeMs. Oldest first, at most so many.
func (s *Store) DueHours(ctx context.Context, cluster string, insertedAfterMs, beforeMs, checkedBeforeMs int64, most int) ([]DueHour, error) {
	came := func(at, table, where string) string {
		return "SELECT node, " + hourOf(at) + " AS hour_ms, toUnixTimestamp64Milli(inserted_at) AS at FROM " + s.table(table) +
			" WHERE cluster = " + quote(cluster) + fmt.Sprintf(" AND inserted_at > fromUnixTimestamp64Milli(toInt64(%d)) AND %s < %d", insertedAfterMs, at, beforeMs) + where
	}
	arrived := came("available_ms", TableBatches, "") + " UNION ALL " + came("broker_ms", TableQuarantine, " AND reason = 'conflict'")
	// Checks are kept for ever: each side reads those alone that it can ask about.
	checks := func(where string) string {
		return "SELECT node, hour_ms, argMax(seen_ms, checked_at) AS seen, argMax(missing + quarantined, checked_at) AS open, max(checked_at) AS checked FROM " +
			s.table(TableChainHours) + " WHERE cluster = " + quote(cluster) + where + " GROUP BY node, hour_ms"
	}
	sql := "SELECT node, hour_ms, max(n) AS batches FROM (" +
		"SELECT toString(d.node) AS node, d.hour_ms AS hour_ms, d.n AS n FROM (SELECT node, hour_ms, count() AS n, max(at) AS latest FROM (" +
		arrived + ") GROUP BY node, hour_ms) AS d" +
		" LEFT JOIN (" + checks(" AND (node, hour_ms) GLOBAL IN (SELECT node, hour_ms FROM ("+arrived+"))") + ") AS c ON d.node = c.node AND d.hour_ms = c.hour_ms WHERE d.latest > c.seen" +
		" UNION ALL SELECT toString(node), hour_ms, toUInt64(1) FROM (" + checks(fmt.Sprintf(" AND hour_ms >= %d AND hour_ms < %d", beforeMs-openDays*24*HourMs, beforeMs)) + ")" +
		fmt.Sprintf(" WHERE open > 0 AND checked < fromUnixTimestamp64Milli(toInt64(%d))", checkedBeforeMs) +
		fmt.Sprintf(") GROUP BY node, hour_ms ORDER BY hour_ms, node LIMIT %d", most)
	var sel selection
	node, hour, n := sel.text("node"), sel.int("hour_ms"), new(proto.ColUInt64)
	sel.add("batches", "batches", n)
	var out []DueHour
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out = append(out, DueHour{node.at(i), (*hour)[i], (*n)[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for hours to check: %w", err)
	}
	return out, nil
}

// ChainPosition is how far the hourly check of a cluster has come.
type ChainPosition struct {
	ThroughMs int64 // hours before it were looked at
	SeenMs    int64 // with what had come into the store by then, by its clock
	Instance  string
}

// ChainPositions returns how far the check has come, by cluster, with a zero one for clusters that
// were never checked. Clusters are those of batches that came into the store after
// insertedAfterMs, or that were checked before.
func (s *Store) ChainPositions(ctx context.Context, insertedAfterMs int64) (map[string]ChainPosition, error) {
	var sel selection
	cluster, through, seen, instance := sel.text("cluster"), sel.int("through_ms"), sel.int("seen_ms"), sel.text("instance")
	sql := "SELECT cluster, max(p) AS through_ms, max(q) AS seen_ms, max(i) AS instance FROM (" +
		"SELECT toString(cluster) AS cluster, through_ms AS p, seen_ms AS q, instance AS i FROM " + s.table(TableChainPositions) + " FINAL" +
		" UNION ALL SELECT DISTINCT toString(cluster), toInt64(0), toInt64(0), '' FROM " + s.table(TableBatches) + fmt.Sprintf(" WHERE inserted_at > fromUnixTimestamp64Milli(toInt64(%d))", insertedAfterMs) +
		") GROUP BY cluster ORDER BY cluster"
	out := map[string]ChainPosition{}
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out[cluster.at(i)] = ChainPosition{(*through)[i], (*seen)[i], instance.at(i)}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read positions of the check of chains: %w", err)
	}
	return out, nil
}

// PutChainPosition stores how far the check of a cluster has come, after everything that it found.
func (s *Store) PutChainPosition(ctx context.Context, cluster string, p ChainPosition) error {
	var w writer
	w.text("cluster").Append(cluster)
	w.int("through_ms").Append(p.ThroughMs)
	w.int("seen_ms").Append(p.SeenMs)
	w.text("instance").Append(p.Instance)
	return s.Insert(ctx, TableChainPositions, "", &columnsBlock{in: w.in})
}

// Loss is something that a host sampled, or ought to have, and that the store does not have: see
// the table's comments.
type Loss struct {
	Node, Spool                   string
	FromSequence, ToSequence      uint64
	Reason                        string
	Batches, Ticks                uint64
	Gone                          bool
	FromMs, ToMs, HourMs, KnownMs int64
}

// PutLosses stores losses.
func (s *Store) PutLosses(ctx context.Context, cluster string, rows []Loss) error {
	if len(rows) == 0 {
		return nil
	}
	var w writer
	clusters, node, spool, from, to, reason := w.text("cluster"), w.text("node"), w.text("spool"), w.u64("from_sequence"), w.u64("to_sequence"), w.text("reason")
	batches, ticks, gone := w.u64("batches"), w.u64("ticks"), column(&w, "gone", new(proto.ColBool))
	fromMs, toMs, hour, known := w.int("from_ms"), w.int("to_ms"), w.int("hour_ms"), w.int("known_ms")
	for i := range rows {
		r := &rows[i]
		clusters.Append(cluster)
		node.Append(r.Node)
		spool.Append(r.Spool)
		from.Append(r.FromSequence)
		to.Append(r.ToSequence)
		reason.Append(r.Reason)
		batches.Append(r.Batches)
		ticks.Append(r.Ticks)
		gone.Append(r.Gone)
		fromMs.Append(r.FromMs)
		toMs.Append(r.ToMs)
		hour.Append(r.HourMs)
		known.Append(r.KnownMs)
	}
	return s.Insert(ctx, TableLosses, "", &columnsBlock{in: w.in})
}

// Losses returns what is known at a moment to be lost, by node, time, spool and sequence. Those
// that ended before EndedFromMs are left out.
func (s *Store) Losses(ctx context.Context, a AsOf) ([]Loss, error) {
	where := ""
	if a.EndedFromMs != 0 {
		where = fmt.Sprintf(" AND to_ms >= %d", a.EndedFromMs)
	}
	return s.losses(ctx, a, nil, where+" AND NOT gone")
}

// LossesOf returns the losses that hours of nodes show, as they are known now.
func (s *Store) LossesOf(ctx context.Context, cluster string, nodes []string, hourMs int64) ([]Loss, error) {
	return s.losses(ctx, AsOf{Cluster: cluster}, nodes, fmt.Sprintf(" AND hour_ms = %d AND NOT gone", hourMs))
}

func (s *Store) losses(ctx context.Context, a AsOf, nodes []string, latest string) ([]Loss, error) {
	var sel selection
	node, spool, from, to, reason := sel.text("node"), sel.text("spool"), new(proto.ColUInt64), new(proto.ColUInt64), sel.text("reason")
	sel.add("from_sequence", "from_sequence", from)
	sel.add("to_sequence", "to_sequence", to)
	batches, ticks := new(proto.ColUInt64), new(proto.ColUInt64)
	sel.add("batches", "batches", batches)
	sel.add("ticks", "ticks", ticks)
	fromMs, toMs, hour, known := sel.int("from_ms"), sel.int("to_ms"), sel.int("hour_ms"), sel.int("known_ms")
	where := " WHERE cluster = " + quote(a.Cluster) + among(nodes)
	if a.AvailableToMs != 0 {
		where += fmt.Sprintf(" AND known_ms <= %d", a.AvailableToMs)
	}
	sql := sel.sql() + " FROM (SELECT * FROM " + s.table(TableLosses) + " FINAL" + where + " ORDER BY node, spool, from_sequence, reason, known_ms DESC LIMIT 1 BY node, spool, from_sequence, reason)" +
		" WHERE 1" + latest + " ORDER BY node, from_ms, to_ms, spool, from_sequence, reason"
	var out []Loss
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out = append(out, Loss{Node: node.at(i), Spool: spool.at(i), FromSequence: (*from)[i], ToSequence: (*to)[i], Reason: reason.at(i), Batches: (*batches)[i], Ticks: (*ticks)[i],
				FromMs: (*fromMs)[i], ToMs: (*toMs)[i], HourMs: (*hour)[i], KnownMs: (*known)[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read losses: %w", err)
	}
	return out, nil
}

// LossesMark changes when what is known of a cluster's losses does.
func (s *Store) LossesMark(ctx context.Context, cluster string) (string, error) {
	var mark textColumn
	var out string
	sql := "SELECT concat(toString(count()), '/', toString(toUnixTimestamp64Milli(max(noted_at)))) AS mark FROM " + s.table(TableLosses) + " WHERE cluster = " + quote(cluster) + s.cfg.came("noted_at")
	err := s.native.query(ctx, sql, proto.Results{{Name: "mark", Data: &mark}}, func(rows int) error {
		for i := range rows {
			out = mark.at(i)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("look at losses: %w", err)
	}
	return out, nil
}

// KeyNote is what an operator has said of a node's key.
type KeyNote struct {
	Node    string
	Key     [32]byte
	Trusted bool // false: it is not the node's, or no more
	FromMs  int64
	By      string
	NotedMs int64 // wall time; not written
}

// PutKeyNote stores a note.
func (s *Store) PutKeyNote(ctx context.Context, cluster string, n KeyNote) error {
	var w writer
	w.text("cluster").Append(cluster)
	w.text("node").Append(n.Node)
	column(&w, "node_key", &proto.ColFixedStr{Size: 32}).Append(n.Key[:])
	trusted := uint8(0)
	if n.Trusted {
		trusted = 1
	}
	column(&w, "trusted", new(proto.ColUInt8)).Append(trusted)
	w.int("from_ms").Append(n.FromMs)
	w.text("noted_by").Append(n.By)
	return s.Insert(ctx, TableNodeKeys, "", &columnsBlock{in: w.in})
}

// KeyNotes returns all notes of a cluster, by node and the moment from which on they hold. node
// "": of all.
func (s *Store) KeyNotes(ctx context.Context, cluster, node string) ([]KeyNote, error) {
	var sel selection
	nodes, key, trusted, from, by, noted := sel.text("node"), &proto.ColFixedStr{Size: 32}, new(proto.ColUInt8), sel.int("from_ms"), sel.text("noted_by"), new(proto.ColInt64)
	sel.add("node_key", "node_key", key)
	sel.add("trusted", "trusted", trusted)
	sel.add("noted_ms", "toUnixTimestamp64Milli(noted_at)", noted)
	sql := sel.sql() + " FROM " + s.table(TableNodeKeys) + " FINAL WHERE cluster = " + quote(cluster)
	if node != "" {
		sql += " AND node = " + quote(node)
	}
	sql += " ORDER BY node, from_ms, noted_ms, node_key"
	var out []KeyNote
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out = append(out, KeyNote{nodes.at(i), [32]byte(key.Row(i)), (*trusted)[i] != 0, (*from)[i], by.at(i), (*noted)[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read notes on keys: %w", err)
	}
	return out, nil
}

// SeenKey is a key that a node has signed with.
type SeenKey struct {
	Node            string
	Key             [32]byte
	Batches, Spools uint64
	FirstMs, LastMs int64 // when the first and the last batch were available
}

// SeenKeys returns the keys that nodes of a cluster have signed with, by node and time. node "":
// of all. Nothing is verified here.
func (s *Store) SeenKeys(ctx context.Context, cluster, node string) ([]SeenKey, error) {
	var names textColumn
	key := &proto.ColFixedStr{Size: 32}
	var batches, spools proto.ColUInt64
	var first, last proto.ColInt64
	sql := "SELECT node, node_key, uniqExact(sequence, spool) AS batches, uniqExact(spool) AS spools, min(available_ms) AS first, max(available_ms) AS last FROM " + s.table(TableBatches) +
		" WHERE node_key != unhex(repeat('00', 32)) AND cluster = " + quote(cluster)
	if node != "" {
		sql += " AND node = " + quote(node)
	}
	sql += " GROUP BY node, node_key ORDER BY node, first, node_key"
	var out []SeenKey
	err := s.native.query(ctx, sql, proto.Results{{Name: "node", Data: &names}, {Name: "node_key", Data: key}, {Name: "batches", Data: &batches}, {Name: "spools", Data: &spools},
		{Name: "first", Data: &first}, {Name: "last", Data: &last}}, func(rows int) error {
		for i := range rows {
			out = append(out, SeenKey{names.at(i), [32]byte(key.Row(i)), batches[i], spools[i], first[i], last[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read keys of nodes: %w", err)
	}
	return out, nil
}

// Clock is the store's own, in Unix milliseconds: that by which it stamps rows.
func (s *Store) Clock(ctx context.Context) (int64, error) {
	var ms proto.ColInt64
	out := int64(0)
	err := s.native.query(ctx, "SELECT toUnixTimestamp64Milli(now64(3)) AS ms", proto.Results{{Name: "ms", Data: &ms}}, func(rows int) error {
		for i := range rows {
			out = ms[i]
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("ask the store for the time: %w", err)
	}
	return out, nil
}

// HeadNodes lists the hosts of a cluster of which batches, or messages with other content, became
// available in [fromMs, toMs); toMs 0: no bound.
func (s *Store) HeadNodes(ctx context.Context, cluster string, fromMs, toMs int64) ([]string, error) {
	of := func(table, at, where string) string {
		sql := "SELECT DISTINCT toString(node) AS node FROM " + s.table(table) + " WHERE cluster = " + quote(cluster) + where + fmt.Sprintf(" AND %s >= %d", at, fromMs)
		if toMs != 0 {
			sql += fmt.Sprintf(" AND %s < %d", at, toMs)
		}
		return sql
	}
	var node textColumn
	var out []string
	sql := "SELECT DISTINCT node FROM (" + of(TableBatches, "available_ms", "") + " UNION ALL " + of(TableQuarantine, "broker_ms", " AND reason = 'conflict'") + ") ORDER BY node"
	err := s.native.query(ctx, sql, proto.Results{{Name: "node", Data: &node}}, func(rows int) error {
		for i := range rows {
			out = append(out, node.at(i))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list hosts: %w", err)
	}
	return out, nil
}
