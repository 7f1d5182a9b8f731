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
	sql := " FROM (SELECT *, splitByChar('.', subject) AS tokens, reason != 'range' AND if(sequence > 0," +
		" (toString(cluster), toString(node), toString(spool), sequence, digest) IN (SELECT toString(cluster), toString(node), toString(spool), sequence, digest FROM " + batches +
		" WHERE (cluster, node, spool, sequence) IN (SELECT cluster, node, spool, sequence FROM " + quarantine + " WHERE sequence > 0))," +
		" reason != 'subject' AND digest IN (SELECT digest FROM " + batches + " WHERE inserted_at >= (SELECT min(inserted_at) FROM " + quarantine + " WHERE sequence = 0))) AS stored" +
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
	sql := "SELECT reason, " + who + " AS who, count() AS messages, countIf(stored) AS kept, sum(size) AS came, sum(rows) AS held, min(broker_ms) AS lo, max(broker_ms) AS hi," +
		" argMax((stream, stream_seq), (broker_ms, stream_seq)) AS last, toString(last.1) AS last_stream, last.2 AS last_seq" + s.quarantineFrom(f) + " GROUP BY reason, who ORDER BY reason, who"
	sql = "SELECT reason, who, messages, kept, came, held, lo, hi, last_stream, last_seq FROM (" + sql + ")"
	var reason, node, stream textColumn
	var messages, kept, size, held, seq proto.ColUInt64
	var lo, hi proto.ColInt64
	var out []QuarantineGroup
	err := s.native.query(ctx, sql, proto.Results{
		{Name: "reason", Data: &reason}, {Name: "who", Data: &node}, {Name: "messages", Data: &messages}, {Name: "kept", Data: &kept}, {Name: "came", Data: &size},
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
	Stored        bool
	Whole         bool // its bytes are there; else the sender was beyond its limit, or their time is over
}

// QuarantineMessages calls each with the messages meant, in the order in which they came. An error
// of each ends it.
func (s *Store) QuarantineMessages(ctx context.Context, f QuarantineFilter, withBytes bool, each func(QuarantineMessage) error) error {
	columns := []string{"stream", "stream_seq", "subject", "cluster", "node", "spool", "sequence", "reason", "detail", "rows", "broker_ms", "epoch",
		who + " AS who", "size", "digest", "toUInt8(stored) AS kept", "toUInt8(length(bytes) > 0) AS whole"}
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
	var kept, whole proto.ColUInt8
	digest := proto.ColFixedStr{Size: 32}
	res := proto.Results{
		{Name: "stream", Data: &stream}, {Name: "stream_seq", Data: &streamSeq}, {Name: "subject", Data: &subject}, {Name: "cluster", Data: &cluster}, {Name: "node", Data: &node},
		{Name: "spool", Data: &spool}, {Name: "sequence", Data: &sequence}, {Name: "reason", Data: &reason}, {Name: "detail", Data: &detail}, {Name: "rows", Data: &held},
		{Name: "broker_ms", Data: &broker}, {Name: "epoch", Data: &epoch}, {Name: "who", Data: &by}, {Name: "size", Data: &size}, {Name: "digest", Data: &digest}, {Name: "kept", Data: &kept}, {Name: "whole", Data: &whole},
	}
	if withBytes {
		res = append(res, proto.ResultColumn{Name: "bytes", Data: &body})
	}
	err := s.native.query(ctx, sql, res, func(rows int) error {
		for i := range rows {
			m := QuarantineMessage{QuarantineRow: QuarantineRow{
				Stream: stream.at(i), StreamSeq: streamSeq[i], Subject: subject.at(i), BatchKey: BatchKey{cluster.at(i), node.at(i), spool.at(i), sequence[i]},
				Reason: reason.at(i), Detail: detail.at(i), Rows: held[i], BrokerMs: broker[i], Epoch: epoch[i], Digest: [32]byte(digest.Row(i)), Size: size[i],
			}, Who: by.at(i), Stored: kept[i] != 0, Whole: whole[i] != 0 || size[i] == 0}
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

// QuarantineUse is what quarantine has of one subject for one reason.
type QuarantineUse struct {
	Subject, Reason string
	Messages, Bytes uint64 // bytes that are kept
}

// QuarantineUse tells what quarantine has of the messages of a stream before a sequence, from a
// moment of the broker's clock on.
func (s *Store) QuarantineUse(ctx context.Context, stream string, before uint64, sinceMs int64) ([]QuarantineUse, error) {
	sql := "SELECT subject, toString(reason) AS why, count() AS messages, sum(bytes_kept) AS bytes_held FROM (SELECT subject, reason, bytes_kept FROM " + s.table(TableQuarantine) + " FINAL WHERE stream = " + quote(stream) +
		fmt.Sprintf(" AND stream_seq < %d AND broker_ms >= %d) GROUP BY subject, why ORDER BY messages DESC LIMIT 10000", before, sinceMs)
	var subject, why textColumn
	var messages, held proto.ColUInt64
	var out []QuarantineUse
	err := s.native.query(ctx, sql, proto.Results{{Name: "subject", Data: &subject}, {Name: "why", Data: &why}, {Name: "messages", Data: &messages}, {Name: "bytes_held", Data: &held}}, func(rows int) error {
		for i := range rows {
			out = append(out, QuarantineUse{subject.at(i), why.at(i), messages[i], held[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("measure quarantine: %w", err)
	}
	return out, nil
}

// QuarantineDropped is how many messages of a host were not even kept in quarantine.
type QuarantineDropped struct {
	Reason, Node   string // Node by the subject; "": the provider's
	Messages, Size uint64
}

// QuarantineDropped counts the messages that quarantine had no room for, by reason and host, the
// host's token in subjects.
func (s *Store) QuarantineDropped(ctx context.Context, f QuarantineFilter) ([]QuarantineDropped, error) {
	sql := "SELECT toString(reason) AS why, if(tokens[3] = 'provider', '', tokens[5]) AS who, sum(messages) AS n, sum(size) AS came FROM (SELECT *, splitByChar('.', subject) AS tokens FROM " +
		s.table(TableQuarantineDropped) + " FINAL) WHERE 1"
	if f.Cluster != "" {
		sql += " AND tokens[4] = " + quote(f.ClusterToken)
	}
	if f.Node != "" {
		sql += " AND tokens[5] = " + quote(f.NodeToken)
	}
	if f.Reason != "" {
		sql += " AND reason = " + quote(f.Reason)
	}
	if f.SinceMs != 0 {
		sql += fmt.Sprintf(" AND broker_ms >= %d", f.SinceMs)
	}
	sql += " GROUP BY why, who ORDER BY why, who"
	var why, who textColumn
	var n, came proto.ColUInt64
	var out []QuarantineDropped
	err := s.native.query(ctx, sql, proto.Results{{Name: "why", Data: &why}, {Name: "who", Data: &who}, {Name: "n", Data: &n}, {Name: "came", Data: &came}}, func(rows int) error {
		for i := range rows {
			out = append(out, QuarantineDropped{why.at(i), who.at(i), n[i], came[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what quarantine dropped: %w", err)
	}
	return out, nil
}
