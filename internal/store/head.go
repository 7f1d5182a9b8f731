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
}

// Heads calls each with the heads of a cluster's nodes, of those that became available in
// (after, to], by node, spool and sequence, one row each. node "": of all; toAvailableMs 0: no
// bound. Rows that a re-send brought a second time come once. An error of each ends it.
func (s *Store) Heads(ctx context.Context, cluster, node string, afterAvailableMs, toAvailableMs int64, each func(HeadRow) error) error {
	sql := "SELECT node, spool, sequence, digest, prev_digest, body_digest, node_key, signature, gap_from, gap_to, gap_reason, gap_digest, available_ms FROM " + s.table(TableBatches) +
		" WHERE cluster = " + quote(cluster) + fmt.Sprintf(" AND available_ms > %d", afterAvailableMs)
	if node != "" {
		sql += " AND node = " + quote(node)
	}
	if toAvailableMs != 0 {
		sql += fmt.Sprintf(" AND available_ms <= %d", toAvailableMs)
	}
	sql += " ORDER BY node, spool, sequence, available_ms LIMIT 1 BY node, spool, sequence"
	var names, spools textColumn
	var sequence proto.ColUInt64
	var available proto.ColInt64
	digest, prev, body, key := proto.ColFixedStr{Size: 32}, proto.ColFixedStr{Size: 32}, proto.ColFixedStr{Size: 32}, proto.ColFixedStr{Size: 32}
	signature, gaps := proto.ColFixedStr{Size: 64}, newGapColumns()
	err := s.native.query(ctx, sql, proto.Results{
		{Name: "node", Data: &names}, {Name: "spool", Data: &spools}, {Name: "sequence", Data: &sequence}, {Name: "digest", Data: &digest}, {Name: "prev_digest", Data: &prev},
		{Name: "body_digest", Data: &body}, {Name: "node_key", Data: &key}, {Name: "signature", Data: &signature},
		{Name: "gap_from", Data: gaps.from}, {Name: "gap_to", Data: gaps.to}, {Name: "gap_reason", Data: gaps.reason}, {Name: "gap_digest", Data: gaps.digest},
		{Name: "available_ms", Data: &available},
	}, func(rows int) error {
		for i := range rows {
			r := HeadRow{BatchKey: BatchKey{cluster, names.at(i), spools.at(i), sequence[i]}, Gaps: gaps.row(i), AvailableMs: available[i]}
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
// stored, as far as their identity is to be believed. node "": of all.
func (s *Store) QuarantinedFrames(ctx context.Context, cluster, node string) (map[BatchKey][32]byte, error) {
	sql := "SELECT node, spool, sequence, SHA256(bytes) AS digest FROM " + s.table(TableQuarantine) + " WHERE sequence > 0 AND reason != 'range' AND cluster = " + quote(cluster)
	if node != "" {
		sql += " AND node = " + quote(node)
	}
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

// NodeHour is what became of a host's batches of an hour, see the view v_node_hours.
type NodeHour struct {
	Node   string
	HourMs int64 // Unix ms of its beginning
	// Rows and Ticks are of the batches that are Stored.
	Stored, Rows uint64
	Ticks        int64
	Quarantined  uint64
	// Batches that the spool gave up: it was full, they were too old, damaged, or the disk had no room.
	LostFull, LostAge, LostCorrupt, LostDisk uint64
	Missing                                  int64 // neither of these
}

// NodeHours returns the hours of a cluster's hosts in [fromMs, toMs), by node and hour. toMs 0: no
// bound.
func (s *Store) NodeHours(ctx context.Context, cluster string, fromMs, toMs int64) ([]NodeHour, error) {
	sql := "SELECT node, toUnixTimestamp64Milli(toDateTime64(hour, 3, 'UTC')) AS hour_ms, ticks_stored, batches_missing, batches_stored, rows_stored, batches_quarantined, batches_lost_full, batches_lost_age, batches_lost_corrupt, batches_lost_disk FROM " +
		s.table("v_node_hours") + " WHERE cluster = " + quote(cluster) + fmt.Sprintf(" AND hour_ms >= %d", fromMs)
	if toMs != 0 {
		sql += fmt.Sprintf(" AND hour_ms < %d", toMs)
	}
	sql += " ORDER BY node, hour_ms"
	var node textColumn
	var hour, ticks, missing proto.ColInt64
	var counts [7]proto.ColUInt64
	res := proto.Results{{Name: "node", Data: &node}, {Name: "hour_ms", Data: &hour}, {Name: "ticks_stored", Data: &ticks}, {Name: "batches_missing", Data: &missing}}
	for i, name := range []string{"batches_stored", "rows_stored", "batches_quarantined", "batches_lost_full", "batches_lost_age", "batches_lost_corrupt", "batches_lost_disk"} {
		res = append(res, proto.ResultColumn{Name: name, Data: &counts[i]})
	}
	var out []NodeHour
	err := s.native.query(ctx, sql, res, func(rows int) error {
		for i := range rows {
			out = append(out, NodeHour{Node: node.at(i), HourMs: hour[i], Stored: counts[0][i], Rows: counts[1][i], Ticks: ticks[i], Quarantined: counts[2][i],
				LostFull: counts[3][i], LostAge: counts[4][i], LostCorrupt: counts[5][i], LostDisk: counts[6][i], Missing: missing[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read hours of hosts: %w", err)
	}
	return out, nil
}
