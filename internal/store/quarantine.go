package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// Quarantined counts the messages in quarantine by reason, less those that came again and are
// stored since.
func (s *Store) Quarantined(ctx context.Context) (map[string]uint64, error) {
	var reason textColumn
	var n proto.ColUInt64
	out := map[string]uint64{}
	err := s.native.query(ctx, "SELECT reason, count() AS n"+s.quarantineFrom(QuarantineFilter{})+" GROUP BY reason",
		proto.Results{{Name: "reason", Data: &reason}, {Name: "n", Data: &n}}, func(rows int) error {
			for i := range rows {
				out[reason.at(i)] = n[i]
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("count quarantine: %w", err)
	}
	return out, nil
}

// QuarantineFilter says which messages are meant; the zero value of a field: all.
type QuarantineFilter struct {
	// Cluster and Node are names, the tokens are theirs in subjects: what is said of a message
	// whose own word is not to be believed.
	Cluster, ClusterToken string
	Node, NodeToken       string
	Reason                string
	SinceMs               int64 // by the broker's clock
	// Stream and StreamSeq name one message.
	Stream    string
	StreamSeq uint64
	// Stored are wanted too: those that came again and are in the store since. Those of reason
	// range, whose rows always are, and of reason conflict, whose identity another message has,
	// count as not stored here.
	Stored bool
	Most   int // 0: no bound
}

// quarantineFrom is the part of a statement behind SELECT: the messages meant, one row each, with
// the column `stored`. A message without a believable identity is known again by its digest, but
// for one on another's subject: that its bytes are stored too, from whom they belong to, does not
// clear whoever sent them.
func (s *Store) quarantineFrom(f QuarantineFilter) string {
	batches, quarantine := s.table(TableBatches), s.table(TableQuarantine)
	sql := " FROM (SELECT *, splitByChar('.', subject) AS tokens, reason NOT IN ('range', 'conflict') AND if(sequence > 0," +
		" (toString(cluster), toString(node), toString(spool), sequence) IN (SELECT toString(cluster), toString(node), toString(spool), sequence FROM " + batches +
		" WHERE (cluster, node, spool, sequence) IN (SELECT cluster, node, spool, sequence FROM " + quarantine + " WHERE sequence > 0))," +
		" reason != 'subject' AND SHA256(bytes) IN (SELECT digest FROM " + batches + " WHERE inserted_at >= (SELECT min(inserted_at) FROM " + quarantine + " WHERE sequence = 0))) AS stored" +
		" FROM " + quarantine + " FINAL) WHERE 1"
	if f.Cluster != "" {
		sql += " AND (cluster = " + quote(f.Cluster) + " OR cluster = '' AND tokens[4] = " + quote(f.ClusterToken) + ")"
	}
	if f.Node != "" {
		sql += " AND (node = " + quote(f.Node) + " OR sequence = 0 AND tokens[5] = " + quote(f.NodeToken) + ")"
	}
	if f.Reason != "" {
		sql += " AND reason = " + quote(f.Reason)
	}
	if f.SinceMs != 0 {
		sql += fmt.Sprintf(" AND broker_ms >= %d", f.SinceMs)
	}
	if f.Stream != "" {
		sql += " AND stream = " + quote(f.Stream) + fmt.Sprintf(" AND stream_seq = %d", f.StreamSeq)
	}
	if !f.Stored {
		sql += " AND NOT stored"
	}
	return sql
}

// who is the node as far as it is to be believed: by its word, or else by the subject.
const who = "if(node != '', node, tokens[3] = 'provider' ? '' : tokens[5])"

// QuarantineGroup is what one host has in quarantine for one reason.
type QuarantineGroup struct {
	Reason, Node            string // Node is "": the provider's
	Messages, Stored, Bytes uint64
	Rows                    uint64 // that they say to hold, as far as that could be told
	FirstMs, LastMs         int64  // by the broker's clock
	LastStream              string
	LastStreamSeq           uint64
}

// QuarantineGroups counts messages by reason and node.
func (s *Store) QuarantineGroups(ctx context.Context, f QuarantineFilter) ([]QuarantineGroup, error) {
	sql := "SELECT reason, " + who + " AS who, count() AS messages, countIf(stored) AS kept, sum(length(bytes)) AS size, sum(rows) AS held, min(broker_ms) AS lo, max(broker_ms) AS hi," +
		" argMax((stream, stream_seq), (broker_ms, stream_seq)) AS last, toString(last.1) AS last_stream, last.2 AS last_seq" + s.quarantineFrom(f) + " GROUP BY reason, who ORDER BY reason, who"
	sql = "SELECT reason, who, messages, kept, size, held, lo, hi, last_stream, last_seq FROM (" + sql + ")"
	var reason, node, stream textColumn
	var messages, kept, size, held, seq proto.ColUInt64
	var lo, hi proto.ColInt64
	var out []QuarantineGroup
	err := s.native.query(ctx, sql, proto.Results{
		{Name: "reason", Data: &reason}, {Name: "who", Data: &node}, {Name: "messages", Data: &messages}, {Name: "kept", Data: &kept}, {Name: "size", Data: &size},
		{Name: "held", Data: &held}, {Name: "lo", Data: &lo}, {Name: "hi", Data: &hi}, {Name: "last_stream", Data: &stream}, {Name: "last_seq", Data: &seq},
	}, func(rows int) error {
		for i := range rows {
			out = append(out, QuarantineGroup{Reason: reason.at(i), Node: node.at(i), Messages: messages[i], Stored: kept[i], Bytes: size[i], Rows: held[i],
				FirstMs: lo[i], LastMs: hi[i], LastStream: stream.at(i), LastStreamSeq: seq[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read quarantine: %w", err)
	}
	return out, nil
}

// QuarantineMessage is a message in quarantine, and whether it is in the store since.
type QuarantineMessage struct {
	QuarantineRow        // Bytes only where they were asked for
	Who           string // the node by its word, or else by the subject; "": the provider
	Size          uint64
	Digest        [32]byte
	Stored        bool
}

// QuarantineMessages calls each with the messages meant, in the order in which they came. An error
// of each ends it.
func (s *Store) QuarantineMessages(ctx context.Context, f QuarantineFilter, withBytes bool, each func(QuarantineMessage) error) error {
	columns := []string{"stream", "stream_seq", "subject", "cluster", "node", "spool", "sequence", "reason", "detail", "rows", "broker_ms", "epoch",
		who + " AS who", "length(bytes) AS size", "SHA256(bytes) AS digest", "toUInt8(stored) AS kept"}
	if withBytes {
		columns = append(columns, "bytes")
	}
	sql := "SELECT " + strings.Join(columns, ", ") + s.quarantineFrom(f) + " ORDER BY broker_ms, stream, stream_seq, reason"
	if f.Most > 0 {
		sql += fmt.Sprintf(" LIMIT %d", f.Most)
	}
	// Messages of a megabyte come a few at a time.
	sql += " SETTINGS max_block_size = 16"
	var stream, subject, cluster, node, spool, reason, detail, by textColumn
	var body proto.ColStr
	var streamSeq, sequence, held, epoch, size proto.ColUInt64
	var broker proto.ColInt64
	var kept proto.ColUInt8
	digest := proto.ColFixedStr{Size: 32}
	res := proto.Results{
		{Name: "stream", Data: &stream}, {Name: "stream_seq", Data: &streamSeq}, {Name: "subject", Data: &subject}, {Name: "cluster", Data: &cluster}, {Name: "node", Data: &node},
		{Name: "spool", Data: &spool}, {Name: "sequence", Data: &sequence}, {Name: "reason", Data: &reason}, {Name: "detail", Data: &detail}, {Name: "rows", Data: &held},
		{Name: "broker_ms", Data: &broker}, {Name: "epoch", Data: &epoch}, {Name: "who", Data: &by}, {Name: "size", Data: &size}, {Name: "digest", Data: &digest}, {Name: "kept", Data: &kept},
	}
	if withBytes {
		res = append(res, proto.ResultColumn{Name: "bytes", Data: &body})
	}
	err := s.native.query(ctx, sql, res, func(rows int) error {
		for i := range rows {
			m := QuarantineMessage{QuarantineRow: QuarantineRow{
				Stream: stream.at(i), StreamSeq: streamSeq[i], Subject: subject.at(i), BatchKey: BatchKey{cluster.at(i), node.at(i), spool.at(i), sequence[i]},
				Reason: reason.at(i), Detail: detail.at(i), Rows: held[i], BrokerMs: broker[i], Epoch: epoch[i],
			}, Who: by.at(i), Size: size[i], Digest: [32]byte(digest.Row(i)), Stored: kept[i] != 0}
			if withBytes {
				m.Bytes = append([]byte(nil), body.RowBytes(i)...)
			}
			if err := each(m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read quarantine: %w", err)
	}
	return nil
}
