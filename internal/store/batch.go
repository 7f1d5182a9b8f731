package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// BatchKinds are the kinds of records that a batch counts, in the order of BatchRow.Rows.
var BatchKinds = [...]string{"gpu", "host", "fabric", "flow", "process", "collective", "inventory", "allocation", "order", "device", "status",
	"health", "event", "instance", "hold", "tcp", "checkpoint", "rdma", "outofband", "fact"}

// BatchKey is the identity of a batch.
type BatchKey struct {
	Cluster, Node string // Node is empty for the provider's
	Spool         string // hex
	Sequence      uint64
}

// BatchRow is a row of `batches`: a batch that is wholly stored.
type BatchRow struct {
	BatchKey
	Partition          string
	Stream             string
	StreamSeq, Epoch   uint64
	Digest, PrevDigest [32]byte
	// BodyDigest, NodeKey and Signature are what the node signed it with; zero: it did not.
	BodyDigest, NodeKey [32]byte
	Signature           [64]byte
	Gaps                []BatchGap // what it said that its spool had given up
	BootID              string
	Ticks               uint64
	// FirstTick and MissedTicks are the batch's own word, as on the wire.
	FirstTick, MissedTicks uint64
	// SealedWallMs and SealedBootMs are the host's clocks at the seal; 0: not stated.
	SealedWallMs, SealedBootMs int64
	WireVersion                uint32
	Bytes                      uint32
	Rows                       [len(BatchKinds)]uint32
	MinTsMs, MaxTsMs           int64   // 0, 0: no rows with an event time
	Minutes                    []int64 // Unix minutes that its telemetry touches, sorted
	// Targets are other hosts that its telemetry is about, sorted: a management controller may
	// be read from elsewhere.
	Targets     []string
	AvailableMs int64
	InsertedMs  int64 // when the row came into the store, by the store's clock; not written
}

// BatchGap is a range of sequences, inclusive, that a batch said are given up.
type BatchGap struct {
	From, To uint64
	Reason   uint8 // as on the wire
	Digest   [32]byte
}

type batchBlock struct {
	cluster, node, spool, partition, stream, bootID proto.ColStr
	sequence, streamSeq, epoch, ticks               proto.ColUInt64
	firstTick, missedTicks                          proto.ColUInt64
	digest, prevDigest, bodyDigest, key, signature  proto.ColFixedStr
	gaps                                            gapColumns
	sealedWall, sealedBoot                          proto.ColInt64
	wireVersion, bytes                              proto.ColUInt32
	rows                                            [len(BatchKinds)]proto.ColUInt32
	minTs, maxTs, available                         proto.ColInt64
	minutes                                         *proto.ColArr[int64]
	targets                                         *proto.ColArr[string]
	buf                                             proto.Buffer
}

func (b *batchBlock) Rows() int              { return b.cluster.Rows() }
func (b *batchBlock) scratch() *proto.Buffer { return &b.buf }
func (b *batchBlock) input() proto.Input {
	in := proto.Input{
		{Name: "cluster", Data: &b.cluster}, {Name: "node", Data: &b.node}, {Name: "spool", Data: &b.spool}, {Name: "sequence", Data: &b.sequence},
		{Name: "partition", Data: &b.partition}, {Name: "stream", Data: &b.stream}, {Name: "stream_seq", Data: &b.streamSeq}, {Name: "epoch", Data: &b.epoch},
		{Name: "digest", Data: &b.digest}, {Name: "prev_digest", Data: &b.prevDigest}, {Name: "boot_id", Data: &b.bootID}, {Name: "ticks", Data: &b.ticks},
		{Name: "first_tick", Data: &b.firstTick}, {Name: "missed_ticks", Data: &b.missedTicks},
		{Name: "wire_version", Data: &b.wireVersion}, {Name: "bytes", Data: &b.bytes},
		{Name: "min_ts_ms", Data: &b.minTs}, {Name: "max_ts_ms", Data: &b.maxTs}, {Name: "minutes", Data: b.minutes}, {Name: "available_ms", Data: &b.available},
		{Name: "targets", Data: b.targets}, {Name: "body_digest", Data: &b.bodyDigest}, {Name: "node_key", Data: &b.key}, {Name: "signature", Data: &b.signature},
		{Name: "sealed_wall_ms", Data: &b.sealedWall}, {Name: "sealed_boot_ms", Data: &b.sealedBoot},
		{Name: "gap_from", Data: b.gaps.from}, {Name: "gap_to", Data: b.gaps.to}, {Name: "gap_reason", Data: b.gaps.reason}, {Name: "gap_digest", Data: b.gaps.digest},
	}
	for i, kind := range BatchKinds {
		in = append(in, proto.InputColumn{Name: kind + "_rows", Data: &b.rows[i]})
	}
	return in
}

// BatchBlock turns rows into a block for TableBatches.
func BatchBlock(rows []BatchRow) Block {
	b := &batchBlock{minutes: proto.NewArray[int64](new(proto.ColInt64)), targets: proto.NewArray[string](new(proto.ColStr)), digest: proto.ColFixedStr{Size: 32}, prevDigest: proto.ColFixedStr{Size: 32},
		bodyDigest: proto.ColFixedStr{Size: 32}, key: proto.ColFixedStr{Size: 32}, signature: proto.ColFixedStr{Size: 64}, gaps: newGapColumns()}
	for i := range rows {
		r := &rows[i]
		b.cluster.Append(r.Cluster)
		b.node.Append(r.Node)
		b.spool.Append(r.Spool)
		b.sequence.Append(r.Sequence)
		b.partition.Append(r.Partition)
		b.stream.Append(r.Stream)
		b.streamSeq.Append(r.StreamSeq)
		b.epoch.Append(r.Epoch)
		b.digest.Append(r.Digest[:])
		b.prevDigest.Append(r.PrevDigest[:])
		b.bodyDigest.Append(r.BodyDigest[:])
		b.key.Append(r.NodeKey[:])
		b.signature.Append(r.Signature[:])
		b.sealedWall.Append(r.SealedWallMs)
		b.sealedBoot.Append(r.SealedBootMs)
		b.gaps.append(r.Gaps)
		b.bootID.Append(r.BootID)
		b.ticks.Append(r.Ticks)
		b.firstTick.Append(r.FirstTick)
		b.missedTicks.Append(r.MissedTicks)
		b.wireVersion.Append(r.WireVersion)
		b.bytes.Append(r.Bytes)
		for k := range BatchKinds {
			b.rows[k].Append(r.Rows[k])
		}
		b.minTs.Append(r.MinTsMs)
		b.maxTs.Append(r.MaxTsMs)
		b.minutes.Append(r.Minutes)
		b.targets.Append(r.Targets)
		b.available.Append(r.AvailableMs)
	}
	return b
}

// GapRow is a range of sequences, inclusive, that a spool gave up.
type GapRow struct {
	Cluster, Node, Spool     string
	FromSequence, ToSequence uint64
	Reason                   string // bytes, age, corrupt
	Digest                   [32]byte
	AvailableMs              int64
}

// columnsBlock is a block whose columns were filled elsewhere.
type columnsBlock struct {
	in  proto.Input
	buf proto.Buffer
}

func (b *columnsBlock) input() proto.Input     { return b.in }
func (b *columnsBlock) scratch() *proto.Buffer { return &b.buf }
func (b *columnsBlock) Rows() int {
	if len(b.in) == 0 {
		return 0
	}
	return b.in[0].Data.Rows()
}

// GapBlock turns rows into a block for TableGaps.
func GapBlock(rows []GapRow) Block {
	var cluster, node, spool, reason proto.ColStr
	var from, to proto.ColUInt64
	var available proto.ColInt64
	digest := proto.ColFixedStr{Size: 32}
	for i := range rows {
		r := &rows[i]
		cluster.Append(r.Cluster)
		node.Append(r.Node)
		spool.Append(r.Spool)
		from.Append(r.FromSequence)
		to.Append(r.ToSequence)
		reason.Append(r.Reason)
		digest.Append(r.Digest[:])
		available.Append(r.AvailableMs)
	}
	return &columnsBlock{in: proto.Input{
		{Name: "cluster", Data: &cluster}, {Name: "node", Data: &node}, {Name: "spool", Data: &spool}, {Name: "from_sequence", Data: &from},
		{Name: "to_sequence", Data: &to}, {Name: "reason", Data: &reason}, {Name: "digest", Data: &digest}, {Name: "available_ms", Data: &available},
	}}
}

// QuarantineRow is a message that could not be taken at face value.
type QuarantineRow struct {
	Stream    string
	StreamSeq uint64
	Subject   string
	BatchKey         // as far as it is to be believed; zero: it is not
	Reason    string // closed set, see the table's comment
	Detail    string
	Rows      uint64
	BrokerMs  int64
	Epoch     uint64
	Bytes     []byte // the message; not kept. nil: it is not to be kept in the store either
	// Digest is the message's SHA-256, and Size its bytes; zero: those of Bytes.
	Digest [32]byte
	Size   uint64
}

// QuarantineBlock turns rows into a block for TableQuarantine.
func QuarantineBlock(rows []QuarantineRow) Block {
	var stream, subject, cluster, node, spool, reason, detail, body proto.ColStr
	var seq, sequence, count, epoch, size, kept proto.ColUInt64
	digest := proto.ColFixedStr{Size: 32}
	var broker proto.ColInt64
	for i := range rows {
		r := &rows[i]
		stream.Append(r.Stream)
		seq.Append(r.StreamSeq)
		subject.Append(r.Subject)
		cluster.Append(r.Cluster)
		node.Append(r.Node)
		spool.Append(r.Spool)
		sequence.Append(r.Sequence)
		reason.Append(r.Reason)
		detail.Append(r.Detail)
		count.Append(r.Rows)
		broker.Append(r.BrokerMs)
		epoch.Append(r.Epoch)
		body.AppendBytes(r.Bytes)
		sum, n := r.Digest, r.Size
		if sum == [32]byte{} {
			sum = sha256.Sum256(r.Bytes)
		}
		if n == 0 {
			n = uint64(len(r.Bytes))
		}
		digest.Append(sum[:])
		size.Append(n)
		kept.Append(uint64(len(r.Bytes)))
	}
	return &columnsBlock{in: proto.Input{
		{Name: "stream", Data: &stream}, {Name: "stream_seq", Data: &seq}, {Name: "subject", Data: &subject}, {Name: "cluster", Data: &cluster}, {Name: "node", Data: &node},
		{Name: "spool", Data: &spool}, {Name: "sequence", Data: &sequence}, {Name: "reason", Data: &reason},
		{Name: "detail", Data: &detail}, {Name: "rows", Data: &count}, {Name: "broker_ms", Data: &broker}, {Name: "epoch", Data: &epoch}, {Name: "bytes", Data: &body},
		{Name: "digest", Data: &digest}, {Name: "size", Data: &size}, {Name: "bytes_kept", Data: &kept},
	}}
}

// DroppedRow counts messages that quarantine had no room for: from Seq to LastSeq of a stream, of
// one subject and for one reason.
type DroppedRow struct {
	Stream          string
	Seq, LastSeq    uint64
	Subject, Reason string
	Messages, Size  uint64
	BrokerMs        int64
	Epoch           uint64
}

// DroppedBlock turns rows into a block for TableQuarantineDropped.
func DroppedBlock(rows []DroppedRow) Block {
	var w writer
	stream, subject, reason := w.text("stream"), w.text("subject"), w.text("reason")
	seq, last, messages, size, epoch, broker := w.u64("stream_seq"), w.u64("last_seq"), w.u64("messages"), w.u64("size"), w.u64("epoch"), w.int("broker_ms")
	for i := range rows {
		r := &rows[i]
		stream.Append(r.Stream)
		subject.Append(r.Subject)
		reason.Append(r.Reason)
		seq.Append(r.Seq)
		last.Append(r.LastSeq)
		messages.Append(r.Messages)
		size.Append(r.Size)
		epoch.Append(r.Epoch)
		broker.Append(r.BrokerMs)
	}
	return &columnsBlock{in: w.in}
}

// SpoolKey names a spool.
type SpoolKey struct {
	Cluster, Node string
	Spool         string // hex
}

// SequenceRange is a range of sequences, inclusive at both ends.
type SequenceRange struct{ From, To uint64 }

// Handled is which sequences of a spool need never be sent again, in ascending ranges.
type Handled struct {
	// Stored are in `batches`, or in quarantine instead. Reasons range and conflict do not count:
	// those rows go with a row of `batches`, which comes last, or beside one.
	Stored  []SequenceRange
	GivenUp []SequenceRange // reported lost by the spool itself; may overlap
}

// Handled tells what the store has of some spools. A spool that it does not know has no
// entry.
func (s *Store) Handled(ctx context.Context, spools []SpoolKey) (map[SpoolKey]Handled, error) {
	out := map[SpoolKey]Handled{}
	if len(spools) == 0 {
		return out, nil
	}
	var in strings.Builder
	in.WriteString(" WHERE (cluster, node, spool) IN (")
	for i, k := range spools {
		if i > 0 {
			in.WriteString(", ")
		}
		in.WriteString("(" + quote(k.Cluster) + ", " + quote(k.Node) + ", " + quote(k.Spool) + ")")
	}
	in.WriteString(")")
	// Neighbours share sequence - row number: one island, one row of the answer, so that
	// a spool of years comes back as one range.
	sql := "SELECT cluster, node, spool, min(sequence) AS lo, max(sequence) AS hi, toUInt8(0) AS gap FROM (" +
		"SELECT cluster, node, spool, sequence, sequence - row_number() OVER (PARTITION BY cluster, node, spool ORDER BY sequence) AS island FROM (" +
		"SELECT DISTINCT cluster, node, spool, sequence FROM (" +
		"SELECT cluster, node, spool, sequence FROM " + s.table(TableBatches) + in.String() +
		" UNION ALL SELECT cluster, node, spool, sequence FROM " + s.table(TableQuarantine) + in.String() + " AND reason NOT IN ('range', 'conflict'))))" +
		" GROUP BY cluster, node, spool, island" +
		" UNION ALL SELECT cluster, node, spool, from_sequence AS lo, to_sequence AS hi, toUInt8(1) AS gap FROM " + s.table(TableGaps) + in.String()
	var cluster, node, spool textColumn
	var lo, hi proto.ColUInt64
	var gap proto.ColUInt8
	res := proto.Results{{Name: "cluster", Data: &cluster}, {Name: "node", Data: &node}, {Name: "spool", Data: &spool}, {Name: "lo", Data: &lo}, {Name: "hi", Data: &hi}, {Name: "gap", Data: &gap}}
	err := s.native.query(ctx, sql, res, func(rows int) error {
		for i := range rows {
			k := SpoolKey{cluster.at(i), node.at(i), spool.at(i)}
			h := out[k]
			if r := (SequenceRange{lo[i], hi[i]}); gap[i] != 0 {
				h.GivenUp = append(h.GivenUp, r)
			} else {
				h.Stored = append(h.Stored, r)
			}
			out[k] = h
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up handled batches: %w", err)
	}
	for _, h := range out {
		byStart := func(a, b SequenceRange) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) }
		slices.SortFunc(h.Stored, byStart)
		slices.SortFunc(h.GivenUp, byStart)
	}
	return out, nil
}

// HeldAside tells the content of a spool that quarantine has, by sequence: what retries are held to.
func (s *Store) HeldAside(ctx context.Context, k SpoolKey) (map[uint64][][32]byte, error) {
	out := map[uint64][][32]byte{}
	var sequence proto.ColUInt64
	digest := proto.ColFixedStr{Size: 32}
	sql := "SELECT sequence, digest FROM " + s.table(TableQuarantine) + " WHERE cluster = " + quote(k.Cluster) + " AND node = " + quote(k.Node) + " AND spool = " + quote(k.Spool) +
		" AND reason NOT IN ('range', 'conflict') AND sequence > 0"
	err := s.native.query(ctx, sql, proto.Results{{Name: "sequence", Data: &sequence}, {Name: "digest", Data: &digest}}, func(rows int) error {
		for i := range rows {
			out[sequence[i]] = append(out[sequence[i]], [32]byte(digest.Row(i)))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up quarantined content: %w", err)
	}
	return out, nil
}

// Taken tells which sequences of a spool `batches` lists, in ascending ranges: what Handled says,
// less what is in quarantine alone.
func (s *Store) Taken(ctx context.Context, k SpoolKey) ([]SequenceRange, error) {
	sql := "SELECT min(sequence) AS lo, max(sequence) AS hi FROM (SELECT sequence, sequence - row_number() OVER (ORDER BY sequence) AS island FROM (" +
		"SELECT DISTINCT sequence FROM " + s.table(TableBatches) + " WHERE cluster = " + quote(k.Cluster) + " AND node = " + quote(k.Node) + " AND spool = " + quote(k.Spool) +
		")) GROUP BY island ORDER BY lo"
	var lo, hi proto.ColUInt64
	var out []SequenceRange
	err := s.native.query(ctx, sql, proto.Results{{Name: "lo", Data: &lo}, {Name: "hi", Data: &hi}}, func(rows int) error {
		for i := range rows {
			out = append(out, SequenceRange{lo[i], hi[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up stored batches: %w", err)
	}
	return out, nil
}

// BatchesAfter returns the batches of a cluster that became available in (after, to],
// ordered by availability, node, spool and sequence, one row each. toAvailableMs 0: no bound.
func (s *Store) BatchesAfter(ctx context.Context, cluster string, afterAvailableMs, toAvailableMs int64) ([]BatchRow, error) {
	where := fmt.Sprintf(" AND available_ms > %d", afterAvailableMs)
	if toAvailableMs != 0 {
		where += fmt.Sprintf(" AND available_ms <= %d", toAvailableMs)
	}
	return s.batches(ctx, cluster, where)
}

// BatchesInserted returns the batches whose rows came into the store after insertedAfterMs,
// by its own clock, and that were available by toAvailableMs: those that a reader by
// availability has passed already. The order is that of BatchesAfter.
//
// A store whose clock was set back stamps new rows with times that lie before insertedAfterMs: as
// long as its clock has not come there again, rows of its last five minutes are returned.
func (s *Store) BatchesInserted(ctx context.Context, cluster string, insertedAfterMs, toAvailableMs int64) ([]BatchRow, error) {
	after := fmt.Sprintf("fromUnixTimestamp64Milli(toInt64(%d))", insertedAfterMs)
	return s.batches(ctx, cluster, fmt.Sprintf(" AND inserted_at > if(%s > now64(3), now64(3) - toIntervalMinute(5), %s) AND available_ms <= %d", after, after, toAvailableMs))
}

// FirstData returns the earliest event time, or availability where a batch has none from fromMs
// on, of the batches that were available from then on: one row of a host that believes it is
// 1970 is no beginning. availableMs is when the first of them came. ok is false where there
// are none.
func (s *Store) FirstData(ctx context.Context, cluster string, fromMs int64) (firstMs, availableMs int64, ok bool, err error) {
	var first, available, n proto.ColInt64
	sql := fmt.Sprintf("SELECT min(if(min_ts_ms > 0 AND min_ts_ms >= %d, min_ts_ms, available_ms)) AS first, min(available_ms) AS available, toInt64(count()) AS n FROM ", fromMs) + s.table(TableBatches) +
		" WHERE cluster = " + quote(cluster) + fmt.Sprintf(" AND available_ms >= %d", fromMs)
	err = s.native.query(ctx, sql, proto.Results{{Name: "first", Data: &first}, {Name: "available", Data: &available}, {Name: "n", Data: &n}}, func(rows int) error {
		for i := range rows {
			firstMs, availableMs, ok = first[i], available[i], n[i] > 0
		}
		return nil
	})
	if err != nil {
		return 0, 0, false, fmt.Errorf("look for the first batch: %w", err)
	}
	return firstMs, availableMs, ok, nil
}

func (s *Store) batches(ctx context.Context, cluster, where string) ([]BatchRow, error) {
	if err := s.keepsUp(ctx); err != nil {
		return nil, fmt.Errorf("read batches: %w", err)
	}
	where += s.cfg.came("inserted_at")
	sql := "SELECT node, spool, sequence, partition, stream, stream_seq, epoch, digest, prev_digest, boot_id, ticks, wire_version, bytes, min_ts_ms, max_ts_ms, minutes, targets, available_ms, toUnixTimestamp64Milli(inserted_at) AS inserted"
	sql += ", " + strings.Join(BatchKinds[:], "_rows, ") + "_rows"
	sql += " FROM " + s.table(TableBatches) + " WHERE cluster = " + quote(cluster) + where
	sql += " ORDER BY available_ms, node, spool, sequence LIMIT 1 BY node, spool, sequence"
	var node, spool, partition, stream, boot textColumn
	var seq, streamSeq, epoch, ticks proto.ColUInt64
	var version, bytes proto.ColUInt32
	var minTs, maxTs, available, inserted proto.ColInt64
	digest, prev := proto.ColFixedStr{Size: 32}, proto.ColFixedStr{Size: 32}
	minutes, targets := proto.NewArray[int64](new(proto.ColInt64)), proto.NewArray[string](new(proto.ColStr))
	var counts [len(BatchKinds)]proto.ColUInt32
	res := proto.Results{
		{Name: "node", Data: &node}, {Name: "spool", Data: &spool}, {Name: "sequence", Data: &seq}, {Name: "partition", Data: &partition}, {Name: "stream", Data: &stream},
		{Name: "stream_seq", Data: &streamSeq}, {Name: "epoch", Data: &epoch}, {Name: "digest", Data: &digest}, {Name: "prev_digest", Data: &prev}, {Name: "boot_id", Data: &boot},
		{Name: "ticks", Data: &ticks}, {Name: "wire_version", Data: &version}, {Name: "bytes", Data: &bytes}, {Name: "min_ts_ms", Data: &minTs}, {Name: "max_ts_ms", Data: &maxTs},
		{Name: "minutes", Data: minutes}, {Name: "targets", Data: targets}, {Name: "available_ms", Data: &available}, {Name: "inserted", Data: &inserted},
	}
	for i, k := range BatchKinds {
		res = append(res, proto.ResultColumn{Name: k + "_rows", Data: &counts[i]})
	}
	var out []BatchRow
	err := s.native.query(ctx, sql, res, func(rows int) error {
		for i := range rows {
			r := BatchRow{
				BatchKey:  BatchKey{cluster, node.at(i), spool.at(i), seq[i]},
				Partition: partition.at(i), Stream: stream.at(i), StreamSeq: streamSeq[i], Epoch: epoch[i], BootID: boot.at(i), Ticks: ticks[i],
				WireVersion: version[i], Bytes: bytes[i], MinTsMs: minTs[i], MaxTsMs: maxTs[i], AvailableMs: available[i], InsertedMs: inserted[i],
				Minutes: append([]int64(nil), minutes.Row(i)...), Targets: append([]string(nil), targets.Row(i)...),
			}
			copy(r.Digest[:], digest.Row(i))
			copy(r.PrevDigest[:], prev.Row(i))
			for k := range counts {
				r.Rows[k] = counts[k][i]
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read batches: %w", err)
	}
	return out, nil
}
