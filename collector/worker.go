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
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// ackWait is long, as only the holder of the lease reads and a new holder makes a new
// consumer: nothing is won by delivering again what is still in hand.
const ackWait = time.Hour

// chunkBytes is the most that is asked of the broker at once, and chunkMessages the most messages.
const (
	chunkBytes    = 4 << 20
	chunkMessages = 512
	// leastWait is how long a request lasts at least: what the broker has at hand comes within it.
	leastWait = 50 * time.Millisecond
)

// worker moves the messages of one partition. Owned by the goroutine that holds the lease.
type worker struct {
	c         *Collector
	partition Partition
	into      *store.Store // the shard's
	lg        *slog.Logger
	inserts   []batch.Insert
	warned    throttle
	mark      []byte // scratch

	// Of one hold:
	lease           *broker.Lease
	epoch           uint64
	position        *positionKey
	puller          *puller
	consumer        jetstream.Consumer
	delivered       uint64    // number of the last delivery
	lastSeq         uint64    // its sequence in the stream
	ahead           []message // fetched, but beyond the range in hand
	spools          map[store.SpoolKey]*spoolState
	stepsSinceCount int
	dirty           []store.SpoolKey // marks to publish after the range in hand
	allowance       *batch.Allowance // nil: not asked yet
	linger          time.Duration
	taken           time.Time      // when fetch returned last
	cut             map[string]int // rows of a block, by table, where the store had no memory for more

	// Of the range in hand, however often it is built:
	claims    map[store.BatchKey]claim
	suspects  []suspect         // of one build
	convicted map[uint64]string // by sequence in the stream: why it is a conflict; "": it is a repeat
	done      map[partKey]bool  // inserts that the store has acknowledged
	sum       summary
}

// partKey names an insert within its range.
type partKey struct {
	table string
	part  int
}

// summary is what became of a range.
type summary struct {
	rows, batches, repeats int
	aside                  batch.Counts
}

type message struct {
	msg      *nats.Msg
	digest   [32]byte
	seq      uint64
	brokerMs int64
	retry    bool
}

func newWorker(c *Collector, p Partition) *worker {
	return &worker{c: c, partition: p, into: c.cfg.Store.Shard(p.Shard), lg: c.cfg.Log.With(slog.String("partition", p.Name)), linger: c.cfg.Linger}
}

// refusal is an error of the store: the range in hand is tried again, later.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// refused notes that the store refuses.
func (w *worker) refused(err error) error {
	w.c.stats.refusals.Add(1)
	w.c.conditions.storeRefuses(w.partition.Name, err, time.Now())
	return refusal{err}
}

// run works under a lease until ctx ends (nil) or something fails that a new hold may mend.
func (w *worker) run(ctx context.Context, lease *broker.Lease) error {
	err := w.takeOver(ctx, lease)
	for err == nil {
		err = w.step(ctx)
	}
	if w.puller != nil {
		w.puller.close()
		w.puller = nil
	}
	if ctx.Err() != nil {
		err = nil // told to stop: what was cut short is done again by the next holder
	}
	return err
}

// takeOver fences the former holder and starts reading where the store is.
func (w *worker) takeOver(ctx context.Context, lease *broker.Lease) error {
	w.lease = lease
	w.spools, w.cut, w.dirty, w.allowance = map[store.SpoolKey]*spoolState{}, map[string]int{}, nil, nil
	w.ahead, w.delivered, w.lastSeq, w.taken = nil, 0, 0, time.Now()
	if err := w.c.reach(stepLease); err != nil {
		return err
	}
	p, err := loadPosition(ctx, w.c.positions, w.partition.Stream)
	if err != nil {
		return err
	}
	// Revisions only start again if somebody made the bucket anew.
	w.epoch = max(lease.Epoch(), p.pos.Epoch+1)
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
	if err = w.c.reach(stepFenced); err != nil {
		return err
	}
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
	if w.puller, err = newPuller(w.c.cfg.Conn, w.partition.Stream, consumerName); err != nil {
		return err
	}
	return w.c.reach(stepConsumer)
}

// step moves one range, or finds that there is none yet.
func (w *worker) step(ctx context.Context) error {
	pos := w.position.pos
	msgs, err := w.fetch(ctx, pos.To)
	if err != nil || len(msgs) == 0 {
		return err
	}
	w.c.conditions.inHand(w.partition.Name, len(msgs), msgs[0].brokerMs)
	if err = w.c.reach(stepFetched); err != nil {
		return err
	}
	if pos.From == 0 {
		pos.From, pos.To = msgs[0].seq, msgs[len(msgs)-1].seq
		if err = w.position.set(ctx, pos); err != nil {
			return err
		}
	}
	if err = w.c.reach(stepIntent); err != nil {
		return err
	}
	begun := time.Now()
	if err = w.keep(ctx, msgs); err != nil {
		return err
	}
	w.adapt(time.Since(begun))
	if err = w.lease.Held(); err != nil {
		return err // it names the lease
	}
	done := pos.To
	pos.Done, pos.From, pos.To = done, 0, 0
	if err = w.position.set(ctx, pos); err != nil {
		return err
	}
	if err = w.c.reach(stepAdvanced); err != nil {
		return err
	}
	for i := range msgs {
		// A lost ack costs a repeat that is recognised.
		if err = w.c.cfg.Conn.Publish(msgs[i].msg.Reply, nil); err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
		if i == len(msgs)/2 {
			if err = w.c.reach(stepAcking); err != nil {
				return err
			}
		}
	}
	if err = w.c.reach(stepAcked); err != nil {
		return err
	}
	w.count()
	if err = w.publishMarks(); err != nil {
		return err
	}
	w.c.conditions.inHand(w.partition.Name, 0, 0)
	return w.c.reach(stepMarked)
}

func (w *worker) count() {
	st := &w.c.stats
	st.ranges.Add(1)
	st.rows.Add(uint64(w.sum.rows))
	st.batches.Add(uint64(w.sum.batches))
	st.repeats.Add(uint64(w.sum.repeats))
	if w.sum.aside.Total() > 0 {
		st.setAside(&w.sum.aside)
		w.c.conditions.quarantined(time.Now())
	}
}

// adapt widens the linger where storing takes much of the time, as it does when ranges are
// small or the store has trouble, and narrows it again.
func (w *worker) adapt(storing time.Duration) {
	least, most := w.c.cfg.Linger, max(w.c.cfg.Linger, w.c.cfg.MaxLinger)
	switch {
	case w.c.crowded.Load():
		w.linger = most
	case storing > w.linger/3:
		w.linger = min(2*w.linger, most)
	case storing < w.linger/8:
		w.linger = max(w.linger/2, least)
	}
	w.c.conditions.lingers(w.partition.Name, w.linger)
}

// fetch reads the next range. With an intent it reads through its end, however long that
// takes; without, until a limit is reached, or linger has passed since the range before was taken
// and the broker has no more at hand: so a message waits for linger, or for the range before to be
// stored, whichever is longer, and never for both. What came beyond the intent's end waits in w.ahead.
func (w *worker) fetch(ctx context.Context, intentTo uint64) (msgs []message, err error) {
	defer func() { w.taken = time.Now() }()
	msgs = w.ahead
	w.ahead = nil
	deadline, more := w.taken.Add(w.linger), false
	size := 0
	for i := range msgs {
		size += len(msgs[i].msg.Data)
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
		} else if len(msgs) >= w.c.cfg.MaxMessages || size >= w.c.cfg.MaxBytes || (len(msgs) > 0 && !more && time.Now().After(deadline)) {
			return msgs, nil
		}
		// Room for one message of any size is always asked for: the broker would wait for ever.
		room := max(min(w.c.cfg.MaxBytes-size, chunkBytes), largestMessage)
		before := len(msgs)
		if msgs, more, err = w.fetchChunk(ctx, msgs, max(1, min(w.c.cfg.MaxMessages-len(msgs), chunkMessages)), room, max(time.Until(deadline), min(w.linger, leastWait))); err != nil {
			return nil, err
		}
		for i := before; i < len(msgs); i++ {
			size += len(msgs[i].msg.Data)
		}
		if len(msgs) > before {
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

// largestMessage is a frame with subject and headers.
const largestMessage = wire.MaxFrameBytes + 4096

// fetchChunk asks for some messages once. The broker numbers its deliveries: one that
// went astray, or came twice, is an error here, and a new hold reads from the first
// message that is not acknowledged. It says whether the broker has more at hand.
func (w *worker) fetchChunk(ctx context.Context, msgs []message, most, maxBytes int, maxWait time.Duration) ([]message, bool, error) {
	got, more, err := w.puller.pull(ctx, most, maxBytes, maxWait)
	if err != nil {
		return nil, false, fmt.Errorf("fetch from %s: %w", w.partition.Stream, err)
	}
	for _, m := range got {
		meta, err := m.Metadata()
		if err != nil {
			return nil, false, fmt.Errorf("fetch from %s: read reply subject: %w", w.partition.Stream, err)
		}
		if meta.Sequence.Consumer != w.delivered+1 || meta.Sequence.Stream <= w.lastSeq {
			return nil, false, fmt.Errorf("fetch from %s: delivery %d of message %d after delivery %d of message %d",
				w.partition.Stream, meta.Sequence.Consumer, meta.Sequence.Stream, w.delivered, w.lastSeq)
		}
		w.delivered, w.lastSeq = meta.Sequence.Consumer, meta.Sequence.Stream
		msgs = append(msgs, message{m, wire.Digest(m.Data), meta.Sequence.Stream, meta.Timestamp.UnixMilli(), m.Header.Get(batch.HeaderRetry) != ""})
	}
	if err := ctx.Err(); err != nil {
		return nil, false, fmt.Errorf("fetch from %s: %w", w.partition.Stream, err)
	}
	return msgs, more, nil
}

// keep brings a range into the store, as often as it takes. While the store refuses, the
// range is kept as messages: what was built of them is given up, so that the memory for building
// is bounded by Config.Parallel, and no partition waits for another's trouble.
func (w *worker) keep(ctx context.Context, msgs []message) error {
	w.claims, w.convicted, w.done = map[store.BatchKey]claim{}, map[uint64]string{}, map[partKey]bool{}
	var pause backoff
	for {
		b, err := w.c.takeBuilder(ctx)
		if err != nil {
			return err
		}
		err = w.store(ctx, b, msgs)
		w.c.giveBuilder(b)
		if err == nil {
			w.c.conditions.storeAnswers(w.partition.Name)
			if w.allowance != nil {
				w.allowance.Done()
			}
			w.grow()
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("store range: %w", ctx.Err())
		}
		if _, ok := errors.AsType[refusal](err); !ok {
			return err
		}
		if n, ok := w.warned.allow(time.Now()); ok {
			w.lg.LogAttrs(ctx, slog.LevelWarn, "store refuses, trying again", slog.Any("err", err), slog.Uint64("suppressed", n))
		}
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

// store brings a range into the store: rows first, `batches` last. It may be called again after
// a refusal: what was acknowledged is left out.
func (w *worker) store(ctx context.Context, b *batch.Builder, msgs []message) error {
	if err := w.meetSpools(ctx, msgs); err != nil {
		return err
	}
	if w.allowance == nil {
		has, err := w.c.cfg.Store.QuarantineUse(ctx, w.partition.Stream, msgs[0].seq, batch.DayOf(msgs[0].brokerMs))
		if err != nil {
			return w.refused(err)
		}
		w.allowance = batch.NewAllowance(w.c.cfg.Quarantine, msgs[0].brokerMs, has)
	}
	b.Reset(w.epoch, w.allowance)
	b.Limit(w.cut)
	w.suspects, w.sum = w.suspects[:0], summary{}
	// Tokens name the content too: after a loss in the broker other messages may come under the
	// same sequences, and a collector that was set otherwise may take others of them; neither
	// must pass for what the store has seen.
	taken, aside := sha256.New(), sha256.New()
	add := func(at int) error {
		m := &msgs[at]
		o, err := b.Add(batch.Message{
			Stream: w.partition.Stream, Partition: w.partition.Name, Seq: m.seq, Subject: m.msg.Subject, Data: m.msg.Data, Digest: m.digest, BrokerMs: m.brokerMs, Retry: m.retry,
		}, func(c batch.Claim) (batch.Fate, error) { return w.known(ctx, at, c) })
		switch {
		case err != nil:
			return fmt.Errorf("take message %d of %s: %w", m.seq, w.partition.Stream, err)
		case o.Repeat:
			w.sum.repeats++
			return nil
		}
		if o.Reason != "" {
			_, _ = aside.Write(m.digest[:]) // a hash's Write does not fail
		}
		if o.Reason == "" || o.Reason == batch.ReasonRange {
			_, _ = taken.Write(m.digest[:])
			w.took(&o)
		}
		return nil
	}
	for i := range msgs {
		if err := add(i); err != nil {
			return err
		}
		if w.inserts = b.Full(w.inserts[:0]); len(w.inserts) > 0 {
			if err := w.insert(ctx, taken, aside); err != nil {
				return err
			}
		}
	}
	if err := w.convict(ctx, msgs); err != nil {
		return err
	}
	for _, s := range w.suspects {
		if m := &msgs[s.message]; w.convicted[m.seq] != "" {
			w.sum.repeats--
			_, _ = aside.Write(m.digest[:])
			b.Conflict(batch.Message{Stream: w.partition.Stream, Seq: m.seq, Subject: m.msg.Subject, Data: m.msg.Data, Digest: m.digest, BrokerMs: m.brokerMs}, s.key, w.convicted[m.seq])
		}
	}
	w.inserts = b.Rest(w.inserts[:0])
	if err := w.insert(ctx, taken, aside); err != nil {
		return err
	}
	w.sum.rows, w.sum.batches, w.sum.aside = b.Rows(), b.Batches(), b.Quarantined()
	w.warn(ctx)
	return nil
}

// warn says once in a while that messages go to quarantine, and why.
func (w *worker) warn(ctx context.Context) {
	if w.sum.aside.Total() == 0 {
		return
	}
	if n, ok := w.warned.allow(time.Now()); ok {
		reasons := map[string]uint64{}
		for i, c := range w.sum.aside {
			if c.Messages > 0 {
				reasons[batch.Reasons[i]] = c.Messages
			}
		}
		w.lg.LogAttrs(ctx, slog.LevelWarn, "messages in quarantine", slog.Any("reasons", reasons), slog.Uint64("suppressed", n))
	}
}

// token names an insert: stream, range, table and part, and what the range gave to it.
func (w *worker) token(in batch.Insert, taken, aside hash.Hash) string {
	pos, content := w.position.pos, taken
	if in.Table == store.TableQuarantine || in.Table == store.TableQuarantineDropped {
		content = aside
	}
	return w.partition.Stream + "/" + strconv.FormatUint(pos.From, 10) + "-" + strconv.FormatUint(pos.To, 10) + "/" + in.Table + "/" + strconv.Itoa(in.Part) + "/" +
		hex.EncodeToString(content.Sum(nil)[:12])
}

// insert stores w.inserts in order.
func (w *worker) insert(ctx context.Context, taken, aside hash.Hash) error {
	for _, in := range w.inserts {
		k := partKey{in.Table, in.Part}
		if w.done[k] {
			in.Done()
			continue
		}
		if err := w.c.reach(stepInsert + step(in.Table)); err != nil {
			return err
		}
		if err := w.lease.Held(); err != nil {
			return err // it names the lease
		}
		begun := time.Now()
		err := w.into.Insert(ctx, in.Table, w.token(in, taken, aside), in.Block)
		w.c.stats.inserted(time.Since(begun))
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("store range: %w", ctx.Err())
			}
			return w.refused(w.heed(err, in))
		}
		if err := w.c.reach(stepInserted + step(in.Table)); err != nil {
			return err
		}
		w.done[k] = true
		in.Done()
		w.c.stats.inserts.Add(1)
	}
	return nil
}

// Bounds of what the rows of a block are cut to. A block has whole messages, so one at least.
const (
	leastRows = 100
	mostRows  = 1 << 20 // no block has so many
)

// heed takes a hint from what the store says, and adds to it what was made of it.
func (w *worker) heed(err error, in batch.Insert) error {
	const tooManyParts, memoryLimit = 252, 241
	e, ok := errors.AsType[*store.Error](err)
	switch {
	case !ok:
	case e.Code == tooManyParts:
		w.linger = max(w.linger, w.c.cfg.MaxLinger)
		w.c.conditions.lingers(w.partition.Name, w.linger)
	case e.Code == memoryLimit:
		rows, least := in.Block.Rows(), leastRows
		if in.Table == store.TableQuarantine {
			least = 1 // a row is a message, with its bytes
		}
		was := rows
		if cut, ok := w.cut[in.Table]; ok {
			was = min(cut, rows)
		}
		if was <= least {
			return fmt.Errorf("%w: it has no memory for %d rows, the fewest that are sent at once; waiting until it has", err, rows)
		}
		w.cut[in.Table] = max(was/2, least)
		// Cut anew, under other tokens: what the store may have of it already it knows by key.
		for k := range w.done {
			if k.table == in.Table {
				delete(w.done, k)
			}
		}
		return fmt.Errorf("%w: blocks are cut to %d rows", err, w.cut[in.Table])
	}
	return err
}

// grow lets blocks that were cut be larger again, range by range, until nothing is cut.
func (w *worker) grow() {
	for table, rows := range w.cut {
		if w.cut[table] = 2 * rows; w.cut[table] >= mostRows {
			delete(w.cut, table)
		}
	}
}
