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
