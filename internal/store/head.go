package store

import (
	"context"
	"fmt"

	"github.com/ClickHouse/ch-go/proto"
)

// gapColumns are the four columns of a batch's gaps: one array of each part.
type gapColumns struct {
	from, to *proto.ColArr[uint64]
	reason   *proto.ColArr[uint8]
	digest   *proto.ColArr[[]byte]
	lo, hi   []uint64
	why      []uint8
	sums     [][]byte
}

func newGapColumns() gapColumns {
	return gapColumns{from: proto.NewArray[uint64](new(proto.ColUInt64)), to: proto.NewArray[uint64](new(proto.ColUInt64)),
		reason: proto.NewArray[uint8](new(proto.ColUInt8)), digest: proto.NewArray[[]byte](&proto.ColFixedStr{Size: 32})}
}

func (c *gapColumns) append(gaps []BatchGap) {
	c.lo, c.hi, c.why, c.sums = c.lo[:0], c.hi[:0], c.why[:0], c.sums[:0]
	for i := range gaps {
		g := &gaps[i]
		c.lo, c.hi, c.why, c.sums = append(c.lo, g.From), append(c.hi, g.To), append(c.why, g.Reason), append(c.sums, g.Digest[:])
	}
	c.from.Append(c.lo)
	c.to.Append(c.hi)
	c.reason.Append(c.why)
	c.digest.Append(c.sums)
}

func (c *gapColumns) row(i int) []BatchGap {
	from, to, reason, digest := c.from.Row(i), c.to.Row(i), c.reason.Row(i), c.digest.Row(i)
	if len(from) == 0 {
		return nil
	}
	gaps := make([]BatchGap, min(len(from), len(to), len(reason), len(digest)))
	for k := range gaps {
		gaps[k] = BatchGap{From: from[k], To: to[k], Reason: reason[k]}
		copy(gaps[k].Digest[:], digest[k])
	}
	return gaps
}

// HeadRow is what the store has of a batch's head, and the digest of its frame.
type HeadRow struct {
	BatchKey
	Digest, PrevDigest, BodyDigest, NodeKey [32]byte
	Signature                               [64]byte
	Gaps                                    []BatchGap
	AvailableMs                             int64
	InsertedMs                              int64 // when the row came into the store, by its clock
	// Of the tally of ticks, as on the wire.
	BootID                        string
	Ticks, FirstTick, MissedTicks uint64
	SealedWallMs, SealedBootMs    int64
	MaxTsMs                       int64
}

// HeadQuery says which heads are meant.
type HeadQuery struct {
	Cluster string
	Nodes   []string // nil: all
	// FromMs and ToMs bound when they became available, [from, to); 0: no bound.
	FromMs, ToMs int64
	// Keys, if not nil, are the identities meant, in place of Nodes and a time.
	Keys []BatchKey
	// Spools, if not nil, are the spools meant, in place of Nodes and a time: of these the heads that
	// tell of gaps.
	Spools []SpoolKey
}

// Heads calls each with the heads meant, by node, spool and sequence, one row each. Rows that a
// re-send brought a second time come once. An error of each ends it.
func (s *Store) Heads(ctx context.Context, q HeadQuery, each func(HeadRow) error) error {
	where := " WHERE cluster = " + quote(q.Cluster)
	switch {
	case q.Keys != nil:
		if len(q.Keys) == 0 {
			return nil
		}
		where += " AND (cluster, node, spool, sequence) IN " + tuples(q.Keys, BatchKey.tuple)
	case q.Spools != nil:
		if len(q.Spools) == 0 {
			return nil
		}
		where += " AND (cluster, node, spool) IN " + tuples(q.Spools, SpoolKey.tuple) + " AND notEmpty(gap_from)"
	default:
		where += among(q.Nodes)
		if q.FromMs != 0 {
			where += fmt.Sprintf(" AND available_ms >= %d", q.FromMs)
		}
		if q.ToMs != 0 {
			where += fmt.Sprintf(" AND available_ms < %d", q.ToMs)
		}
	}
	return s.heads(ctx, q.Cluster, where+" ORDER BY node, spool, sequence, available_ms LIMIT 1 BY node, spool, sequence", each)
}

// HeadBefore returns the last head of a spool before a sequence.
func (s *Store) HeadBefore(ctx context.Context, k BatchKey) (h HeadRow, ok bool, err error) {
	where := " WHERE cluster = " + quote(k.Cluster) + " AND node = " + quote(k.Node) + " AND spool = " + quote(k.Spool) + fmt.Sprintf(" AND sequence < %d", k.Sequence)
	err = s.heads(ctx, k.Cluster, where+" ORDER BY sequence DESC LIMIT 1", func(r HeadRow) error { h, ok = r, true; return nil })
	return h, ok, err
}

func (s *Store) heads(ctx context.Context, cluster, where string, each func(HeadRow) error) error {
	var sel selection
	names, spools, boot := sel.text("node"), sel.text("spool"), sel.text("boot_id")
	fixed := func(name string, size int) *proto.ColFixedStr {
		c := &proto.ColFixedStr{Size: size}
		sel.add(name, name, c)
		return c
	}
	number := func(name string) *proto.ColUInt64 {
		c := new(proto.ColUInt64)
		sel.add(name, name, c)
		return c
	}
	sequence, ticks, first, missed := number("sequence"), number("ticks"), number("first_tick"), number("missed_ticks")
	digest, prev, body, key, signature := fixed("digest", 32), fixed("prev_digest", 32), fixed("body_digest", 32), fixed("node_key", 32), fixed("signature", 64)
	gaps := newGapColumns()
	sel.add("gap_from", "gap_from", gaps.from)
	sel.add("gap_to", "gap_to", gaps.to)
	sel.add("gap_reason", "gap_reason", gaps.reason)
	sel.add("gap_digest", "gap_digest", gaps.digest)
	available, wall, bootMs, maxTs, inserted := sel.int("available_ms"), sel.int("sealed_wall_ms"), sel.int("sealed_boot_ms"), sel.int("max_ts_ms"), new(proto.ColInt64)
	sel.add("inserted_ms", "toUnixTimestamp64Milli(inserted_at)", inserted)
	err := s.native.query(ctx, sel.sql()+" FROM "+s.table(TableBatches)+where, sel.res, func(rows int) error {
		for i := range rows {
			r := HeadRow{BatchKey: BatchKey{cluster, names.at(i), spools.at(i), (*sequence)[i]}, Gaps: gaps.row(i), AvailableMs: (*available)[i], InsertedMs: (*inserted)[i],
				BootID: boot.at(i), Ticks: (*ticks)[i], FirstTick: (*first)[i], MissedTicks: (*missed)[i], SealedWallMs: (*wall)[i], SealedBootMs: (*bootMs)[i], MaxTsMs: (*maxTs)[i]}
			copy(r.Digest[:], digest.Row(i))
			copy(r.PrevDigest[:], prev.Row(i))
			copy(r.BodyDigest[:], body.Row(i))
			copy(r.NodeKey[:], key.Row(i))
			copy(r.Signature[:], signature.Row(i))
			if err := each(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read heads: %w", err)
	}
	return nil
}

// QuarantinedFrames returns the digests of a cluster's messages that are in quarantine and not
// stored, as far as their identity is to be believed. Nodes nil: of all.
func (s *Store) QuarantinedFrames(ctx context.Context, cluster string, nodes []string) (map[BatchKey][32]byte, error) {
	sql := "SELECT node, spool, sequence, digest FROM " + s.table(TableQuarantine) + " WHERE sequence > 0 AND reason NOT IN ('range', 'conflict') AND cluster = " + quote(cluster) + among(nodes)
	var names, spools textColumn
	var sequence proto.ColUInt64
	digest := proto.ColFixedStr{Size: 32}
	out := map[BatchKey][32]byte{}
	err := s.native.query(ctx, sql, proto.Results{{Name: "node", Data: &names}, {Name: "spool", Data: &spools}, {Name: "sequence", Data: &sequence}, {Name: "digest", Data: &digest}}, func(rows int) error {
		for i := range rows {
			out[BatchKey{cluster, names.at(i), spools.at(i), sequence[i]}] = [32]byte(digest.Row(i))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read quarantined frames: %w", err)
	}
	return out, nil
}

// NodeHour is what became of a host's batches and ticks of an hour, see the view v_node_hours.
type NodeHour struct {
	Node   string
	HourMs int64 // Unix ms of its beginning
	// Rows and Ticks are of the batches that are Stored.
	Stored, Rows uint64
	Ticks        int64
	Quarantined  uint64
	// Batches that the spool gave up: it was full, they were too old, damaged, or the disk had no room.
	LostFull, LostAge, LostCorrupt, LostDisk uint64
	// Conflicting had other content under a sequence that was taken.
	Conflicting uint64
	Missing     int64 // neither of these
	// Of TicksDue, those that are not in Ticks: without a sample, given up before they came to the
	// spool, lost with batches.
	TicksDue, TicksMissed, TicksGivenUp, TicksLost int64
}

// NodeHours returns the hours of a cluster's hosts in [fromMs, toMs), by node and hour. Nodes nil: of
// all; toMs 0: no bound. It reads all batches of those hosts.
func (s *Store) NodeHours(ctx context.Context, cluster string, nodes []string, fromMs, toMs int64) ([]NodeHour, error) {
	var sel selection
	node, hour := sel.text("node"), new(proto.ColInt64)
	sel.add("hour_ms", "toUnixTimestamp64Milli(toDateTime64(hour, 3, 'UTC'))", hour)
	var ints [6]proto.ColInt64
	for i, name := range []string{"ticks_stored", "batches_missing", "ticks_due", "ticks_missed", "ticks_given_up", "ticks_lost"} {
		sel.add(name, name, &ints[i])
	}
	var counts [8]proto.ColUInt64
	for i, name := range []string{"batches_stored", "rows_stored", "batches_quarantined", "batches_lost_full", "batches_lost_age", "batches_lost_corrupt", "batches_lost_disk", "batches_conflicting"} {
		sel.add(name, name, &counts[i])
	}
	sql := sel.sql() + " FROM " + s.table("v_node_hours") + " WHERE cluster = " + quote(cluster) + among(nodes) + fmt.Sprintf(" AND hour_ms >= %d", fromMs)
	if toMs != 0 {
		sql += fmt.Sprintf(" AND hour_ms < %d", toMs)
	}
	sql += " ORDER BY node, hour_ms"
	var out []NodeHour
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out = append(out, NodeHour{Node: node.at(i), HourMs: (*hour)[i], Stored: counts[0][i], Rows: counts[1][i], Quarantined: counts[2][i],
				LostFull: counts[3][i], LostAge: counts[4][i], LostCorrupt: counts[5][i], LostDisk: counts[6][i], Conflicting: counts[7][i],
				Ticks: ints[0][i], Missing: ints[1][i], TicksDue: ints[2][i], TicksMissed: ints[3][i], TicksGivenUp: ints[4][i], TicksLost: ints[5][i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read hours of hosts: %w", err)
	}
	return out, nil
}
