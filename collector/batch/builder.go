package batch

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Reasons for quarantine: the closed set of the table's comment.
const (
	ReasonSize      = "size"      // beyond the limits of the contract
	ReasonSubject   = "subject"   // came on a subject that is not its own
	ReasonVersion   = "version"   // of a contract, or with a kind of record, newer than this program
	ReasonDecode    = "decode"    // no frame, or one that breaks the contract
	ReasonRange     = "range"     // rows stored, values that no instrument can show left absent
	ReasonFuture    = "future"    // samples, or the seal, ahead of the broker's clock
	ReasonPast      = "past"      // samples, or the seal, long before the broker's clock: a host that believes it is 1970
	ReasonAvailable = "available" // states its own availability where that is not accepted
	ReasonConflict  = "conflict"  // another message has its identity: a spool that was put back to an earlier state, or a forger
)

// Reasons lists the reasons, for counters.
var Reasons = [...]string{ReasonSize, ReasonSubject, ReasonVersion, ReasonDecode, ReasonRange, ReasonFuture, ReasonPast, ReasonAvailable, ReasonConflict}

// Config sets the checks at the door.
type Config struct {
	// AcceptRecordedAvailability takes a batch's own AvailableMs, as replays state it, in
	// place of the broker's time, and lets event time be anywhere. Not for live collectors.
	AcceptRecordedAvailability bool
	// MaxAheadMs is how far a sample may be ahead of the broker's clock. Default 5 minutes.
	MaxAheadMs int64
	// MaxBehindMs is how far it may be behind. Default 90 days: a spool that was offline for
	// weeks is believed, a clock that was never set is not. What begins before it is told
	// (processes, holds, checkpoints, events) may have begun at any time.
	MaxBehindMs int64
	// MaxBlockRows is the size at which a block is Full. Default 100,000.
	MaxBlockRows int
	// MaxDecodedBytes is how much of decompressed messages makes all blocks Full, as few rows
	// may have long strings. Default 64 MiB.
	MaxDecodedBytes int
}

func (c Config) withDefaults() Config {
	if c.MaxAheadMs == 0 {
		c.MaxAheadMs = 5 * 60_000
	}
	if c.MaxBehindMs == 0 {
		c.MaxBehindMs = 90 * 24 * 3_600_000
	}
	if c.MaxBlockRows == 0 {
		c.MaxBlockRows = 100_000
	}
	if c.MaxDecodedBytes == 0 {
		c.MaxDecodedBytes = 64 << 20
	}
	return c
}

// Message is a message as it came from a stream. Data is read by Add, and kept only if the
// message goes to quarantine: until Reset.
type Message struct {
	Stream, Partition string
	Seq               uint64
	Subject           string
	Data              []byte
	Digest            [32]byte // wire.Digest of Data
	BrokerMs          int64    // the broker's time of the message
	// Retry has a batch that is in quarantine judged again, see HeaderRetry.
	Retry bool
}

// HeaderRetry is the header of a message of quarantine that is published again:
// <stream>/<sequence> of the message that it was. Only its presence counts, as anybody may set it.
const HeaderRetry = "Flopwatch-Retry"

// Fate is what became of a batch before.
type Fate uint8

// Fates.
const (
	Fresh  Fate = iota // never seen
	Stored             // listed in `batches`
	Aside              // in quarantine, and nowhere else; or one of the two, where that was not asked
)

// Claim is the identity that a message states.
type Claim struct {
	store.SpoolKey
	ID       [16]byte // Spool, in bytes
	Sequence uint64
	Message  *Message // of whom; good for the call
}

// Known tells whether a batch was handled before. It is asked once a message, and must not answer
// Fresh to another message from then on. A retry needs Stored and Aside told apart.
type Known func(Claim) (Fate, error)

// Outcome says what became of a message.
type Outcome struct {
	store.BatchKey // zero where the identity is not to be believed
	Spool          [16]byte
	Rows           int        // stored
	Repeat         bool       // the store has it already: nothing was added
	Reason         string     // of quarantine, "": none. ReasonRange goes with stored rows, Repeat with a retry that changed nothing
	Gaps           []wire.Gap // given up by the spool; good until the next Add
	fate           Fate
}

// Builder gathers the messages of a range into blocks.
type Builder struct {
	cfg        Config
	epoch      uint64
	decoder    *wire.Decoder
	batch      wire.Batch
	targets    [len(kindTables)]*target
	kinds      [256]int8 // index into targets by kind, -1: none
	sources    sourceTexts
	message    Message // in hand
	minutes    []int64 // of the batch in hand
	kept       []int64 // minutes of rows of `batches`, one behind the other
	subjects   map[nodeName]string
	batches    []store.BatchRow
	gaps       []store.GapRow
	quarantine []store.QuarantineRow
	dropped    map[dropKey]*store.DroppedRow
	allowance  *Allowance
	aside      Counts
	spoolHex   map[[16]byte]string
	rows       int
	decoded    int            // bytes of messages in the blocks
	limits     map[string]int // see Limit
}

// nodeName is a node within its cluster.
type nodeName struct{ cluster, node string }

// maxNames bounds the memory for subjects and spools' ids against senders that never repeat one.
const maxNames = 1 << 16

// subject is wire.BatchSubject, remembered.
func (b *Builder) subject(w *wire.Batch) string {
	if w.Node == "" {
		return wire.BatchSubject(w)
	}
	k := nodeName{w.Cluster, w.Node}
	if s, ok := b.subjects[k]; ok {
		return s
	}
	if len(b.subjects) >= maxNames {
		clear(b.subjects)
	}
	s := wire.BatchSubject(w)
	b.subjects[k] = s
	return s
}

// New returns an empty builder. An error means that contract and store disagree.
func New(cfg Config) (*Builder, error) {
	d, err := wire.NewDecoder()
	if err != nil {
		return nil, fmt.Errorf("make decoder: %w", err)
	}
	b := &Builder{cfg: cfg.withDefaults(), decoder: d, subjects: map[nodeName]string{}, spoolHex: map[[16]byte]string{}, dropped: map[dropKey]*store.DroppedRow{}}
	for i := range b.kinds {
		b.kinds[i] = -1
	}
	for i, k := range kindTables {
		if b.targets[i], err = newTarget(k); err != nil {
			return nil, err
		}
		b.kinds[k.kind] = int8(i)
		bound(b.targets[i].block, k.kind)
	}
	return b, nil
}

// Reset empties the builder for a range under an epoch. It keeps the memory. What goes to
// quarantine is held to an allowance; nil: all is kept.
func (b *Builder) Reset(epoch uint64, a *Allowance) {
	b.epoch, b.allowance, b.aside = epoch, a, Counts{}
	if a != nil {
		a.begin()
	}
	clear(b.dropped)
	b.limits = nil
	for _, t := range b.targets {
		t.block.Reset()
		t.part, t.most = 0, b.cfg.MaxBlockRows
	}
	b.message = Message{}
	b.batches, b.gaps, b.quarantine = b.batches[:0], b.gaps[:0], b.quarantine[:0]
	b.rows, b.decoded, b.kept = 0, 0, b.kept[:0]
	if len(b.spoolHex) > maxNames {
		clear(b.spoolHex)
	}
}

// Rows counts the rows added since Reset, flushed blocks included.
func (b *Builder) Rows() int { return b.rows }

// Batches counts the batches that were taken since Reset.
func (b *Builder) Batches() int { return len(b.batches) }

// Quarantined counts the messages set aside since Reset, by reason.
func (b *Builder) Quarantined() Counts { return b.aside }

func (b *Builder) hex(spool [16]byte) string {
	if s, ok := b.spoolHex[spool]; ok {
		return s
	}
	s := hex.EncodeToString(spool[:])
	b.spoolHex[spool] = s
	return s
}

func (b *Builder) setAside(m *Message, o *Outcome, reason, detail string, rows int) {
	o.Reason = reason
	if o.fate == Aside && reason != ReasonRange {
		o.Repeat = true // a retry, as bad as before: it is kept already
		return
	}
	c := &b.aside[reasonIndex(reason)]
	c.Messages++
	data := m.Data
	if b.allowance != nil {
		// The row of a batch that is nowhere else is the ledger's: it stays in any case.
		ledger := o.Sequence != 0 && reason != ReasonRange && reason != ReasonConflict
		switch b.allowance.take(m, reason, ledger) {
		case drop:
			c.Dropped++
			b.drop(m, reason)
			return
		case keepBare:
			c.Bare++
			data = nil
		}
	}
	b.quarantine = append(b.quarantine, store.QuarantineRow{
		Stream: m.Stream, StreamSeq: m.Seq, Subject: m.Subject, BatchKey: o.BatchKey, Reason: reason, Detail: detail,
		Rows: uint64(rows), BrokerMs: m.BrokerMs, Epoch: b.epoch, Bytes: data, Digest: m.Digest, Size: uint64(len(m.Data)),
	})
}

// dropKey is what dropped messages of a range are counted by.
type dropKey struct{ subject, reason string }

func (b *Builder) drop(m *Message, reason string) {
	k := dropKey{m.Subject, reason}
	r := b.dropped[k]
	if r == nil {
		r = &store.DroppedRow{Stream: m.Stream, Seq: m.Seq, Subject: m.Subject, Reason: reason, BrokerMs: m.BrokerMs, Epoch: b.epoch}
		b.dropped[k] = r
	}
	r.LastSeq = m.Seq
	r.Messages++
	r.Size += uint64(len(m.Data))
}

// Conflict sets aside a message that Add took for a repeat: its content is not what the store has
// under its identity.
func (b *Builder) Conflict(m Message, k store.BatchKey, detail string) {
	o := Outcome{BatchKey: k}
	b.setAside(&m, &o, ReasonConflict, detail, 0)
}

func decodeReason(err error) string {
	switch {
	case errors.Is(err, wire.ErrUnknownVersion), errors.Is(err, wire.ErrUnknownKind):
		return ReasonVersion
	case errors.Is(err, wire.ErrTooLarge):
		return ReasonSize
	default:
		return ReasonDecode
	}
}

// Add takes one message. The only errors are Known's; a message that is no good goes to
// quarantine, and is handled by that.
func (b *Builder) Add(message Message, known Known) (Outcome, error) {
	var o Outcome
	b.message = message
	m := &b.message
	if len(m.Data) > wire.MaxFrameBytes {
		b.setAside(m, &o, ReasonSize, fmt.Sprintf("%d bytes, at most %d", len(m.Data), wire.MaxFrameBytes), 0)
		return o, nil
	}
	w := &b.batch
	decodeErr := b.decoder.Decode(m.Data, w)
	if decodeErr != nil {
		// The head may be there, and the subject may vouch for it: then the spool can be
		// told that the frame is kept, though not understood. A provider's subject takes
		// the kind of its tables, which may be what was not understood.
		if w.Sequence != 0 && w.Node != "" && wire.NodeSubject(w.Cluster, w.Node) == m.Subject {
			b.identify(&o, w)
			if err := b.repeated(&o, known, m); err != nil || o.Repeat {
				return o, err
			}
		}
		b.setAside(m, &o, decodeReason(decodeErr), decodeErr.Error(), 0)
		return o, nil
	}
	rows := 0
	for i := range w.Tables {
		rows += w.Tables[i].Rows
	}
	if want := b.subject(w); want != m.Subject {
		b.setAside(m, &o, ReasonSubject, "body belongs on "+want, rows)
		return o, nil
	}
	b.identify(&o, w)
	if err := b.repeated(&o, known, m); err != nil || o.Repeat {
		return o, err
	}
	available := m.BrokerMs
	if w.AvailableMs != 0 {
		if !b.cfg.AcceptRecordedAvailability {
			b.setAside(m, &o, ReasonAvailable, fmt.Sprintf("states availability %d", w.AvailableMs), rows)
			return o, nil
		}
		available = w.AvailableMs
	}
	row := store.BatchRow{
		BatchKey: o.BatchKey, Partition: m.Partition, Stream: m.Stream, StreamSeq: m.Seq, Epoch: b.epoch, Digest: m.Digest, PrevDigest: w.PrevDigest,
		BodyDigest: w.BodyDigest, NodeKey: w.Key, Signature: w.Signature, SealedWallMs: w.SealedWallMs, SealedBootMs: w.SealedBootMs,
		BootID: w.BootID, Ticks: w.Ticks, FirstTick: w.FirstTick, MissedTicks: w.MissedTicks, WireVersion: w.Version, Bytes: uint32(len(m.Data)), AvailableMs: available,
	}
	seen := b.survey(&row, w)
	if w.AvailableMs == 0 {
		if reason, detail := b.clocks(&row, seen, m.BrokerMs); reason != "" {
			b.setAside(m, &o, reason, detail, rows)
			return o, nil
		}
	}
	outside := 0
	for i := range w.Tables {
		t := &w.Tables[i]
		k := b.kinds[t.Kind] // the decoder refuses kinds that it does not know, a test those that this table lacks
		row.Rows[k] += uint32(t.Rows)
		outside += b.targets[k].add(t, store.RawMeta{
			Cluster: o.Cluster, Node: o.Node, Spool: o.BatchKey.Spool, Sequence: o.Sequence, Sources: b.sources.text(t), AvailableMs: available,
		})
	}
	if outside > 0 {
		b.setAside(m, &o, ReasonRange, fmt.Sprintf("%d values out of range, left absent", outside), rows)
	}
	for _, g := range w.Gaps {
		row.Gaps = append(row.Gaps, store.BatchGap{From: g.From, To: g.To, Reason: uint8(g.Reason), Digest: g.Digest})
		b.gaps = append(b.gaps, store.GapRow{
			Cluster: o.Cluster, Node: o.Node, Spool: o.BatchKey.Spool, FromSequence: g.From, ToSequence: g.To,
			Reason: gapReason(g.Reason), Digest: g.Digest, AvailableMs: available,
		})
	}
	b.batches = append(b.batches, row)
	b.rows += rows
	b.decoded += b.decoder.DecodedBytes
	o.Rows, o.Gaps = rows, w.Gaps
	return o, nil
}

func (b *Builder) identify(o *Outcome, w *wire.Batch) {
	o.BatchKey = store.BatchKey{Cluster: w.Cluster, Node: w.Node, Spool: b.hex(w.Spool), Sequence: w.Sequence}
	o.Spool = w.Spool
}

// repeated marks a batch that was handled before, and is not to be judged again.
func (b *Builder) repeated(o *Outcome, known Known, m *Message) (err error) {
	o.fate, err = known(Claim{SpoolKey: store.SpoolKey{Cluster: o.Cluster, Node: o.Node, Spool: o.BatchKey.Spool}, ID: o.Spool, Sequence: o.Sequence, Message: m})
	if err != nil {
		return err
	}
	o.Repeat = o.fate == Stored || o.fate == Aside && !m.Retry
	return nil
}

// clocks holds a live batch's times against the broker's: reason "" where they are plausible.
func (b *Builder) clocks(row *store.BatchRow, seen span, brokerMs int64) (reason, detail string) {
	at := func(what string, ms int64) string {
		return fmt.Sprintf("%s %s, broker %s", what, stamp(ms), stamp(brokerMs))
	}
	switch latest, earliest := brokerMs+b.cfg.MaxAheadMs, brokerMs-b.cfg.MaxBehindMs; {
	case row.MaxTsMs > latest:
		return ReasonFuture, at("latest sample", row.MaxTsMs)
	case row.SealedWallMs > latest:
		return ReasonFuture, at("sealed", row.SealedWallMs)
	case seen.any && seen.first < earliest:
		return ReasonPast, at("earliest sample", seen.first)
	case row.SealedWallMs != 0 && row.SealedWallMs < earliest:
		return ReasonPast, at("sealed", row.SealedWallMs)
	}
	return "", ""
}

// stamp writes a time for a person: as a date where it can be one.
func stamp(ms int64) string {
	if year10000 := int64(253_402_300_800_000); ms < 0 || ms >= year10000 {
		return fmt.Sprintf("%d ms", ms)
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

func gapReason(r wire.GapReason) string {
	switch r {
	case wire.GapBytes:
		return "bytes"
	case wire.GapAge:
		return "age"
	case wire.GapCorrupt:
		return "corrupt"
	case wire.GapDisk:
		return "disk"
	}
	return fmt.Sprintf("reason%d", r)
}

// span is the earliest time of what a batch saw itself.
type span struct {
	first int64
	any   bool
}

// survey finds the span of event time and the minutes that telemetry touches.
func (b *Builder) survey(row *store.BatchRow, w *wire.Batch) (seen span) {
	b.minutes = b.minutes[:0]
	first := true
	for i := range w.Tables {
		t := &w.Tables[i]
		k := &b.targets[b.kinds[t.Kind]].kindTable
		if k.ts == 0 {
			continue
		}
		c := t.Column(k.ts)
		if c == nil {
			continue
		}
		last := int64(-1) << 62
		if t.Rows > 0 && !k.earlier {
			if ts := slices.Min(c.Int[:t.Rows]); !seen.any || ts < seen.first {
				seen = span{ts, true}
			}
		}
		for _, ts := range c.Int[:t.Rows] {
			switch {
			case first:
				row.MinTsMs, row.MaxTsMs, first = ts, ts, false
			case ts < row.MinTsMs:
				row.MinTsMs = ts
			case ts > row.MaxTsMs:
				row.MaxTsMs = ts
			}
			if k.sampled {
				if m := floorDiv(ts, 60_000); m != last {
					b.minutes = append(b.minutes, m)
					last = m
				}
			}
		}
	}
	row.Targets = targets(w)
	if len(b.minutes) == 0 {
		return seen
	}
	slices.Sort(b.minutes)
	from := len(b.kept)
	b.kept = append(b.kept, slices.Compact(b.minutes)...)
	row.Minutes = b.kept[from:len(b.kept):len(b.kept)]
	return seen
}

// fieldTarget names the host that a row of outofband is about.
const fieldTarget = 2

// targets are the hosts, other than its own, that a batch tells about, sorted.
func targets(w *wire.Batch) []string {
	var out []string
	for i := range w.Tables {
		if w.Tables[i].Kind != wire.KindOutOfBand {
			continue
		}
		if c := w.Tables[i].Column(fieldTarget); c != nil {
			for _, t := range c.Dict {
				if t != w.Node && !slices.Contains(out, t) {
					out = append(out, t)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// Insert is one statement that the range needs. Token names it within its range, the same
// for the same messages.
type Insert struct {
	Table string
	Part  int
	Block store.Block
	raw   *target
}

// Done empties the block once it is stored.
func (i Insert) Done() {
	if i.raw != nil {
		i.raw.block.Reset()
		i.raw.part++
	}
}

// Limit makes blocks of some tables smaller until the next Reset, where the store has no memory
// for larger ones. A block has at least what one message brings to its table.
func (b *Builder) Limit(rows map[string]int) {
	b.limits = rows
	for _, t := range b.targets {
		if n, ok := rows[t.table]; ok {
			t.most = min(n, b.cfg.MaxBlockRows)
		}
	}
}

// Full appends to dst the blocks that have grown to MaxBlockRows, or all of them where they were
// made of MaxDecodedBytes, so that a range of any size passes through bounded memory. Store
// them, and call Done, before the next Add.
func (b *Builder) Full(dst []Insert) []Insert {
	all := b.decoded >= b.cfg.MaxDecodedBytes
	if all {
		b.decoded = 0
	}
	for _, t := range b.targets {
		if n := t.block.Rows(); n >= t.most || all && n > 0 {
			dst = append(dst, Insert{t.table, t.part, t.block, t})
		}
	}
	return dst
}

// Rest appends to dst what is left of the range in the order in which it is to be stored:
// rows first, `batches` last.
func (b *Builder) Rest(dst []Insert) []Insert {
	for _, t := range b.targets {
		if t.block.Rows() > 0 {
			dst = append(dst, Insert{t.table, t.part, t.block, t})
		}
	}
	dst = inserts(dst, b, store.TableQuarantine, b.quarantine, store.QuarantineBlock)
	if len(b.dropped) > 0 {
		rows := make([]store.DroppedRow, 0, len(b.dropped))
		for _, r := range b.dropped {
			rows = append(rows, *r)
		}
		slices.SortFunc(rows, func(a, b store.DroppedRow) int {
			return cmp.Or(cmp.Compare(a.Seq, b.Seq), strings.Compare(a.Subject, b.Subject), strings.Compare(a.Reason, b.Reason))
		})
		dst = inserts(dst, b, store.TableQuarantineDropped, rows, store.DroppedBlock)
	}
	dst = inserts(dst, b, store.TableGaps, b.gaps, store.GapBlock)
	return inserts(dst, b, store.TableBatches, b.batches, store.BatchBlock)
}

// inserts appends to dst the rows of a table that is kept as rows: in one block, or as Limit has it.
func inserts[R any, B store.Block](dst []Insert, b *Builder, table string, rows []R, block func([]R) B) []Insert {
	if len(rows) == 0 {
		return dst
	}
	most, ok := b.limits[table]
	if !ok {
		most = len(rows)
	}
	part := 0
	for some := range slices.Chunk(rows, max(most, 1)) {
		dst = append(dst, Insert{Table: table, Part: part, Block: block(some)})
		part++
	}
	return dst
}
