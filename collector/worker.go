package collector

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// ackWait is long, as only the holder of the lease reads and a new holder makes a new
// consumer: nothing is won by delivering again what is still in hand.
const ackWait = time.Hour

// maxSpools bounds the memory for spools between ranges.
const maxSpools = 200_000

// worker moves the messages of one partition. Owned by the goroutine that holds the lease.
type worker struct {
	c         *Collector
	partition Partition
	into      *store.Store // the shard's
	lg        *slog.Logger
	builder   *batch.Builder
	inserts   []batch.Insert
	warned    throttle

	// Of one hold:
	epoch     uint64
	position  *positionKey
	consumer  jetstream.Consumer
	delivered uint64    // number of the last delivery
	lastSeq   uint64    // its sequence in the stream
	ahead     []message // fetched, but beyond the range in hand
	spools    map[store.SpoolKey]*spoolState
	dirty     []store.SpoolKey            // marks to publish after the range in hand
	inHand    map[store.BatchKey]struct{} // batches that the range in hand brings, for retries in it
	repeats   []repeat                    // of the range in hand
	brought   map[store.BatchKey][32]byte // digests of the messages that the range in hand brings
}

// spoolState is what the store has of a spool, kept while the partition is held: nobody
// else writes it then.
type spoolState struct {
	stored wire.CommitMark // in `batches` or quarantine: tells repeats
	mark   wire.CommitMark // and what the spool gave up itself: what it need not send
	dirty  bool            // changed by the range in hand
	taken  *sequences      // in `batches`; nil: no retry has asked yet
}

// repeat is a message whose identity the store, or the range in hand, has already.
type repeat struct {
	message batch.Message
	outcome batch.Outcome
	digest  [32]byte
}

type message struct {
	msg      jetstream.Msg
	seq      uint64
	brokerMs int64
	retry    bool
}

func newWorker(c *Collector, p Partition) (*worker, error) {
	b, err := batch.New(c.cfg.Batch)
	if err != nil {
		return nil, fmt.Errorf("prepare partition %s: %w", p.Name, err)
	}
	return &worker{c: c, partition: p, into: c.cfg.Store.Shard(p.Shard), builder: b, lg: c.cfg.Log.With(slog.String("partition", p.Name))}, nil
}

// run works under a lease until ctx ends (nil) or something fails that a new hold may mend.
func (w *worker) run(ctx context.Context, leaseEpoch uint64) error {
	err := w.takeOver(ctx, leaseEpoch)
	for err == nil {
		err = w.step(ctx)
	}
	if ctx.Err() != nil {
		err = nil // told to stop: what was cut short is done again by the next holder
	}
	return err
}

// takeOver fences the former holder and starts reading where the store is.
func (w *worker) takeOver(ctx context.Context, leaseEpoch uint64) error {
	w.spools, w.inHand, w.brought = map[store.SpoolKey]*spoolState{}, map[store.BatchKey]struct{}{}, map[store.BatchKey][32]byte{}
	w.dirty, w.ahead, w.delivered, w.lastSeq = nil, nil, 0, 0
	p, err := loadPosition(ctx, w.c.positions, w.partition.Stream)
	if err != nil {
		return err
	}
	// Revisions only start again if somebody made the bucket anew.
	w.epoch = max(leaseEpoch, p.pos.Epoch+1)
	next := p.pos
	next.Epoch = w.epoch
	stream, err := w.c.js.Stream(ctx, w.partition.Stream)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", w.partition.Stream, err)
	}
	if last := stream.CachedInfo().State.LastSeq; last < max(next.Done, next.To) {
		w.lg.LogAttrs(ctx, slog.LevelError, "broker lost messages that it had acknowledged", slog.Uint64("last", last), slog.Uint64("done", next.Done), slog.Uint64("intent_to", next.To))
		if next.Done = min(next.Done, last); next.To > last {
			next.From, next.To = 0, 0 // what is left of it is read like any other range
		}
	}
	if err = p.set(ctx, next); err != nil {
		return err
	}
	w.position = p
	if err = stream.DeleteConsumer(ctx, consumerName); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("end deliveries of %s: %w", w.partition.Stream, err)
	}
	w.consumer, err = stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: consumerName, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
		AckWait: ackWait, MaxDeliver: -1, MaxAckPending: -1,
	})
	if err != nil {
		return fmt.Errorf("begin deliveries of %s: %w", w.partition.Stream, err)
	}
	return nil
}

// step moves one range, or finds that there is none yet.
func (w *worker) step(ctx context.Context) error {
	pos := w.position.pos
	msgs, err := w.fetch(ctx, pos.To)
	if err != nil || len(msgs) == 0 {
		return err
	}
	if pos.From == 0 {
		pos.From, pos.To = msgs[0].seq, msgs[len(msgs)-1].seq
		if err := w.position.set(ctx, pos); err != nil {
			return err
		}
	}
	if err := w.store(ctx, msgs); err != nil {
		return err
	}
	done := pos.To
	pos.Done, pos.From, pos.To = done, 0, 0
	if err := w.position.set(ctx, pos); err != nil {
		return err
	}
	for _, m := range msgs {
		// A lost ack costs a repeat that is recognised.
		if err := m.msg.Ack(); err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
	}
	w.c.stats.ranges.Add(1)
	w.c.stats.rows.Add(uint64(w.builder.Rows()))
	w.c.stats.batches.Add(uint64(w.builder.Batches()))
	if n := w.builder.Quarantined(); n > 0 {
		w.c.stats.quarantined.Add(uint64(n))
		w.c.conditions.quarantined(time.Now())
	}
	return w.publishMarks()
}

// fetch reads the next range. With an intent it reads through its end, however long that
// takes; without, until a limit is reached or the first message has waited long enough.
// What came beyond the intent's end waits in w.ahead.
func (w *worker) fetch(ctx context.Context, intentTo uint64) ([]message, error) {
	msgs := w.ahead
	w.ahead = nil
	deadline := time.Now().Add(w.c.cfg.Linger)
	bytes := 0
	for _, m := range msgs {
		bytes += len(m.msg.Data())
	}
	for {
		if intentTo != 0 {
			if end := slices.IndexFunc(msgs, func(m message) bool { return m.seq >= intentTo }); end >= 0 {
				if msgs[end].seq == intentTo {
					end++
				}
				w.ahead = slices.Clone(msgs[end:])
				return msgs[:end], nil
			}
		} else if len(msgs) >= w.c.cfg.MaxMessages || bytes >= w.c.cfg.MaxBytes || (len(msgs) > 0 && time.Now().After(deadline)) {
			return msgs, nil
		}
		got, size, err := w.fetchChunk(ctx, w.c.cfg.MaxMessages-len(msgs), time.Until(deadline))
		if err != nil {
			return nil, err
		}
		if len(msgs) == 0 {
			deadline = time.Now().Add(w.c.cfg.Linger)
		}
		msgs = append(msgs, got...)
		bytes += size
		if len(got) > 0 {
			continue
		}
		if intentTo == 0 {
			if len(msgs) == 0 {
				return nil, nil
			}
			continue
		}
		info, err := w.consumer.Info(ctx)
		if err != nil {
			return nil, fmt.Errorf("fetch from %s: %w", w.partition.Stream, err)
		}
		if info.NumPending == 0 { // somebody deleted messages that were never acknowledged
			w.lg.LogAttrs(ctx, slog.LevelError, "stream lacks messages of a recorded intent", slog.Uint64("to", intentTo), slog.Int("messages", len(msgs)))
			if len(msgs) == 0 {
				pos := w.position.pos
				pos.From, pos.To = 0, 0
				return nil, w.position.set(ctx, pos)
			}
			return msgs, nil
		}
	}
}

// fetchChunk asks for some messages once. The broker numbers its deliveries: one that
// went astray, or came twice, is an error here, and a new hold reads from the first
// message that is not acknowledged.
func (w *worker) fetchChunk(ctx context.Context, most int, maxWait time.Duration) (msgs []message, bytes int, err error) {
	const chunk = 256 // messages of at most 1 MiB each
	got, err := w.consumer.Fetch(max(1, min(most, chunk)), jetstream.FetchMaxWait(max(maxWait, 10*time.Millisecond)))
	if err != nil {
		return nil, 0, fmt.Errorf("fetch from %s: %w", w.partition.Stream, err)
	}
	for m := range got.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			return nil, 0, fmt.Errorf("fetch from %s: read reply subject: %w", w.partition.Stream, err)
		}
		if meta.Sequence.Consumer != w.delivered+1 || meta.Sequence.Stream <= w.lastSeq {
			return nil, 0, fmt.Errorf("fetch from %s: delivery %d of message %d after delivery %d of message %d",
				w.partition.Stream, meta.Sequence.Consumer, meta.Sequence.Stream, w.delivered, w.lastSeq)
		}
		w.delivered, w.lastSeq = meta.Sequence.Consumer, meta.Sequence.Stream
		msgs = append(msgs, message{m, meta.Sequence.Stream, meta.Timestamp.UnixMilli(), m.Headers().Get(batch.HeaderRetry) != ""})
		bytes += len(m.Data())
	}
	if err := got.Error(); err != nil {
		return nil, 0, fmt.Errorf("fetch from %s: %w", w.partition.Stream, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, 0, fmt.Errorf("fetch from %s: %w", w.partition.Stream, err)
	}
	return msgs, bytes, nil
}

// store brings a range into the store: rows first, `batches` last.
func (w *worker) store(ctx context.Context, msgs []message) error {
	if err := w.meetSpools(ctx, msgs); err != nil {
		return err
	}
	w.builder.Reset(w.epoch)
	pos := w.position.pos
	// The token names the content too: after a loss in the broker other messages may come
	// under the same sequences, and must not pass for those that the store has seen.
	content := sha256.New()
	token := func(in batch.Insert) string {
		return w.partition.Stream + "/" + strconv.FormatUint(pos.From, 10) + "-" + strconv.FormatUint(pos.To, 10) + "/" + in.Table + "/" + strconv.Itoa(in.Part) + "/" + sum(content)
	}
	known := func(k store.SpoolKey, spool [16]byte, sequence uint64, retry bool) (batch.Fate, error) {
		return w.known(ctx, k, spool, sequence, retry)
	}
	clear(w.inHand)
	clear(w.brought)
	w.repeats = w.repeats[:0]
	reasons := map[string]int{}
	for _, m := range msgs {
		bm := batch.Message{
			Stream: w.partition.Stream, Partition: w.partition.Name, Seq: m.seq, Subject: m.msg.Subject(), Data: m.msg.Data(), BrokerMs: m.brokerMs, Retry: m.retry,
		}
		o, err := w.builder.Add(bm, known)
		if err != nil {
			return fmt.Errorf("take message %d of %s: %w", m.seq, w.partition.Stream, err)
		}
		digest := wire.Digest(m.msg.Data())
		if o.Repeat {
			o.Gaps = nil // good until the next Add
			w.repeats = append(w.repeats, repeat{bm, o, digest})
			continue
		}
		_, _ = content.Write(digest[:]) // a hash's Write does not fail
		if o.Sequence != 0 {
			w.brought[o.BatchKey] = digest
		}
		if o.Reason != "" {
			reasons[o.Reason]++
		}
		if o.Sequence != 0 {
			s := w.spools[store.SpoolKey{Cluster: o.Cluster, Node: o.Node, Spool: o.BatchKey.Spool}]
			for _, g := range o.Gaps {
				s.mark.Add(g.From, g.To)
			}
			if o.Reason == "" || o.Reason == batch.ReasonRange {
				w.inHand[o.BatchKey] = struct{}{}
				if s.taken != nil {
					s.taken.add(o.Sequence)
				}
			}
		}
		if w.inserts = w.builder.Full(w.inserts[:0]); len(w.inserts) > 0 {
			if err := w.insert(ctx, token); err != nil {
				return err
			}
		}
	}
	if err := w.conflicts(ctx, func(digest [32]byte) {
		_, _ = content.Write(digest[:])
		reasons[batch.ReasonConflict]++
	}); err != nil {
		return err
	}
	if len(reasons) > 0 {
		if n, ok := w.warned.allow(time.Now()); ok {
			w.lg.LogAttrs(ctx, slog.LevelWarn, "messages in quarantine", slog.Any("reasons", reasons), slog.Uint64("suppressed", n))
		}
	}
	w.inserts = w.builder.Rest(w.inserts[:0])
	return w.insert(ctx, token)
}

// conflicts looks whether the repeats of the range in hand are what the store has under their
// identities. Those that are not go to quarantine, once each: nothing of them is stored, and nobody
// may learn that by chance.
func (w *worker) conflicts(ctx context.Context, told func(digest [32]byte)) error {
	const atOnce = 500
	var found map[store.BatchKey][][32]byte // conflicts of this range
	for rest := w.repeats; len(rest) > 0; {
		some := rest[:min(atOnce, len(rest))]
		rest = rest[len(some):]
		keys := make([]store.BatchKey, 0, len(some))
		for i := range some {
			keys = append(keys, some[i].outcome.BatchKey)
		}
		var has map[store.BatchKey][][32]byte
		if err := w.ask(ctx, func() (err error) {
			has, err = w.c.cfg.Store.Digests(ctx, keys)
			return err
		}); err != nil {
			return err
		}
		for i := range some {
			r := &some[i]
			k := r.outcome.BatchKey
			all := has[k]
			if d, ok := w.brought[k]; ok {
				all = append(all, d)
			}
			if len(all) == 0 || slices.Contains(all, r.digest) || slices.Contains(found[k], r.digest) {
				w.c.stats.repeats.Add(1)
				continue
			}
			was := all[0]
			if !w.builder.Conflict(r.message, &r.outcome, fmt.Sprintf("the store has %x under this sequence, this is %x", was[:6], r.digest[:6])) {
				continue
			}
			if found == nil {
				found = map[store.BatchKey][][32]byte{}
			}
			found[k] = append(found[k], r.digest)
			w.c.stats.conflicts.Add(1)
			told(r.digest)
		}
	}
	clear(w.repeats) // messages belong to the range
	return nil
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)[:12]) }

// insert stores w.inserts in order, each as often as it takes.
func (w *worker) insert(ctx context.Context, token func(batch.Insert) string) error {
	for _, in := range w.inserts {
		pause := 100 * time.Millisecond
		for {
			err := w.into.Insert(ctx, in.Table, token(in), in.Block)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("store range: %w", ctx.Err())
			}
			w.c.conditions.storeRefuses(w.partition.Name, err, time.Now())
			if n, ok := w.warned.allow(time.Now()); ok {
				w.lg.LogAttrs(ctx, slog.LevelWarn, "store refuses, trying again", slog.Any("err", err), slog.Uint64("suppressed", n))
			}
			if err := wait(ctx, pause); err != nil {
				return err
			}
			pause = min(2*pause, 5*time.Second)
		}
		w.c.conditions.storeAnswers(w.partition.Name)
		in.Done()
		w.c.stats.inserts.Add(1)
	}
	return nil
}

// known tells a repeat, and remembers the sequence as one from then on. The range in hand
// either ends in the store or takes the whole hold, and this memory, with it.
func (w *worker) known(ctx context.Context, k store.SpoolKey, spool [16]byte, sequence uint64, retry bool) (batch.Fate, error) {
	s := w.spools[k]
	if s == nil {
		if err := w.load(ctx, []store.SpoolKey{k}); err != nil {
			return batch.Fresh, err
		}
		s = w.spools[k]
	}
	s.mark.Spool, s.stored.Spool = spool, spool
	if !s.dirty { // for a repeat too: the spool has not heard
		s.dirty = true
		w.dirty = append(w.dirty, k)
	}
	if s.stored.Has(sequence) {
		if !retry {
			return batch.Aside, nil
		}
		stored, err := w.taken(ctx, k, s, sequence)
		if stored {
			return batch.Stored, nil
		}
		return batch.Aside, err
	}
	s.stored.Add(sequence, sequence)
	s.mark.Add(sequence, sequence)
	return batch.Fresh, nil
}

// taken tells whether `batches` has a batch that the store has: for retries alone.
func (w *worker) taken(ctx context.Context, k store.SpoolKey, s *spoolState, sequence uint64) (bool, error) {
	if _, now := w.inHand[store.BatchKey{Cluster: k.Cluster, Node: k.Node, Spool: k.Spool, Sequence: sequence}]; now {
		return true, nil
	}
	if s.taken == nil {
		err := w.ask(ctx, func() error {
			ranges, err := w.c.cfg.Store.Taken(ctx, k)
			if err == nil {
				s.taken = newSequences(ranges)
			}
			return err
		})
		if err != nil {
			return false, err
		}
	}
	return s.taken.has(sequence), nil
}

// meetSpools loads what the store has of spools that are new to this hold in one query, as
// far as message ids tell them. The ids are hints: known asks by the body.
func (w *worker) meetSpools(ctx context.Context, msgs []message) error {
	var unknown []store.SpoolKey
	asked := map[store.SpoolKey]bool{}
	for _, m := range msgs {
		k, ok := spoolHint(m.msg)
		if !ok || asked[k] || w.spools[k] != nil {
			continue
		}
		asked[k] = true
		unknown = append(unknown, k)
	}
	const atOnce = 500
	for len(unknown) > 0 {
		n := min(atOnce, len(unknown))
		if err := w.load(ctx, unknown[:n]); err != nil {
			return err
		}
		unknown = unknown[n:]
	}
	return nil
}

// spoolHint reads a message's id, <node>/<spool>/<sequence>, and the cluster's token.
func spoolHint(m jetstream.Msg) (store.SpoolKey, bool) {
	id := strings.Split(m.Headers().Get(nats.MsgIdHdr), "/")
	subject := strings.Split(m.Subject(), ".")
	if len(id) != 3 || len(id[1]) != 32 || len(subject) < 5 {
		return store.SpoolKey{}, false
	}
	if id[0] == "-" {
		id[0] = ""
	}
	return store.SpoolKey{Cluster: subject[3], Node: id[0], Spool: id[1]}, true
}

func (w *worker) load(ctx context.Context, keys []store.SpoolKey) error {
	return w.ask(ctx, func() error {
		handled, err := w.c.cfg.Store.Handled(ctx, keys)
		if err != nil {
			return err
		}
		for _, k := range keys {
			s := &spoolState{}
			s.stored.Cluster, s.stored.Node, s.stored.Epoch = k.Cluster, k.Node, w.epoch
			s.mark.Cluster, s.mark.Node, s.mark.Epoch = k.Cluster, k.Node, w.epoch
			for _, r := range handled[k].Stored {
				s.stored.Add(r.From, r.To)
				s.mark.Add(r.From, r.To)
			}
			for _, r := range handled[k].GivenUp {
				s.mark.Add(r.From, r.To)
			}
			w.spools[k] = s
		}
		return nil
	})
}

// ask asks the store as often as it takes.
func (w *worker) ask(ctx context.Context, question func() error) error {
	pause := 100 * time.Millisecond
	for {
		err := question()
		if err == nil {
			w.c.conditions.storeAnswers(w.partition.Name)
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("look up spools: %w", ctx.Err())
		}
		w.c.conditions.storeRefuses(w.partition.Name, err, time.Now())
		if n, ok := w.warned.allow(time.Now()); ok {
			w.lg.LogAttrs(ctx, slog.LevelWarn, "store refuses, trying again", slog.Any("err", err), slog.Uint64("suppressed", n))
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// publishMarks tells spools what they may forget. A mark that gets lost is made good by
// the next, or by the answer to a repeat.
func (w *worker) publishMarks() error {
	for _, k := range w.dirty {
		s := w.spools[k]
		s.dirty = false
		if err := w.c.cfg.Conn.Publish(wire.CommitSubject(k.Cluster, k.Node), wire.AppendCommitMark(nil, &s.mark)); err != nil {
			return fmt.Errorf("publish commit mark: %w", err)
		}
	}
	w.dirty = w.dirty[:0]
	if len(w.spools) > maxSpools {
		clear(w.spools) // senders decide how many there are; what is still needed is loaded again
	}
	return nil
}
