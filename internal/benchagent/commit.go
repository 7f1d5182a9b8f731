package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// shipped is what came from the agent.
type shipped struct {
	Frames, Bytes, Repeats, Refused uint64
	GPURows, GPUValues              uint64 // values: present fields that are no key
	GPUBytes                        uint64 // of frames with nothing but GPU samples, heads included
	Rows                            map[wire.Kind]uint64
	Less                            map[wire.Kind]uint64 // bytes by which frames would be smaller without the kind
	LastSequence                    uint64
	MissingSequences                uint64 // up to LastSequence
	Ticks                           uint64 // as the last batch says
	Doubled                         uint64 // rows whose key came before
}

// committer takes the agent's batches from the broker and answers with commit marks at
// once, as a collector does behind an insert. It stands for the collector at the least
// cost, so that it disturbs nobody.
type committer struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	dec   *wire.Decoder
	marks map[[16]byte]*wire.CommitMark
	seen  map[gpuKey]struct{}

	mu  sync.Mutex // guards got
	got shipped
}

type gpuKey struct {
	uuid string
	ts   int64
}

func newCommitter(ctx context.Context, url string) (*committer, error) {
	nc, err := broker.Connect(broker.ConnectConfig{URL: url, Name: "benchagent"})
	if err != nil {
		return nil, err // it says what failed
	}
	c := &committer{nc: nc, marks: map[[16]byte]*wire.CommitMark{}, seen: map[gpuKey]struct{}{}, got: shipped{Rows: map[wire.Kind]uint64{}, Less: map[wire.Kind]uint64{}}}
	if c.js, err = jetstream.New(nc); err == nil {
		err = broker.EnsureStreams(ctx, c.js, broker.StreamsConfig{MaxBytes: 256 << 20})
	}
	if err == nil {
		c.dec, err = wire.NewDecoder()
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("prepare to commit: %w", err)
	}
	return c, nil
}

// run commits until ctx ends. A broker that is away is waited for.
func (c *committer) run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := c.consume(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil && !c.away(err) {
			return fmt.Errorf("commit batches: %w", err)
		}
		wait(ctx, 500*time.Millisecond)
	}
	return nil //nolint:nilerr // told to stop
}

// away reports whether an error may be the broker's absence: a malformed batch is not.
func (c *committer) away(err error) bool { return !errors.Is(err, errBatch) }

var errBatch = errors.New("bad batch")

func (c *committer) consume(ctx context.Context) error {
	cons, err := c.js.CreateOrUpdateConsumer(ctx, broker.NodeStream(0), jetstream.ConsumerConfig{
		Durable: "benchagent", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 10 * time.Second,
	})
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		batch, err := cons.Fetch(16, jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			return err
		}
		for msg := range batch.Messages() {
			if err := c.take(ctx, msg); err != nil {
				return err
			}
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return err
		}
	}
	return nil
}

func (c *committer) take(ctx context.Context, msg jetstream.Msg) error {
	var b wire.Batch
	if err := c.dec.Decode(msg.Data(), &b); err != nil {
		return fmt.Errorf("%w: %w", errBatch, err)
	}
	if want := wire.BatchSubject(&b); want != msg.Subject() {
		return fmt.Errorf("%w on subject %s, it belongs on %s", errBatch, msg.Subject(), want)
	}
	mark := c.marks[b.Spool]
	if mark == nil {
		mark = &wire.CommitMark{Cluster: b.Cluster, Node: b.Node, Spool: b.Spool, Epoch: 1}
		c.marks[b.Spool] = mark
	}
	if err := c.count(&b, len(msg.Data()), mark.Has(b.Sequence)); err != nil {
		return err
	}
	mark.Add(b.Sequence, b.Sequence)
	for _, g := range b.Gaps {
		mark.Add(g.From, g.To)
	}
	if _, err := c.js.Publish(ctx, wire.CommitSubject(b.Cluster, b.Node), wire.AppendCommitMark(nil, mark)); err != nil {
		return fmt.Errorf("publish commit mark: %w", err)
	}
	if err := msg.Ack(); err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	return nil
}

func (c *committer) count(b *wire.Batch, bytes int, repeat bool) error {
	parts, err := weigh(b)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	g := &c.got
	if repeat {
		g.Repeats++
		return nil
	}
	g.Frames++
	g.Bytes += uint64(bytes)
	g.Ticks = b.Ticks
	if b.Sequence > g.LastSequence {
		g.MissingSequences += b.Sequence - g.LastSequence - 1
		g.LastSequence = b.Sequence
	} else {
		g.MissingSequences-- // it came late
	}
	for i := range b.Tables {
		t := &b.Tables[i]
		g.Rows[t.Kind] += uint64(t.Rows)
		if t.Kind == wire.KindGPU {
			g.GPURows += uint64(t.Rows)
			c.countGPU(t)
		}
	}
	for kind, p := range parts {
		g.Less[kind] += uint64(max(bytes-p.without, 0))
	}
	if p, ok := parts[wire.KindGPU]; ok {
		g.GPUBytes += uint64(p.alone)
	}
	return nil
}

// share is the size of a frame with one kind alone, and with all others.
type share struct{ alone, without int }

// weigh finds out what the kinds take of a frame.
func weigh(b *wire.Batch) (map[wire.Kind]share, error) {
	all := map[wire.Kind]share{}
	size := func(keep func(k wire.Kind) bool) (int, error) {
		some := *b
		some.Tables = slices.DeleteFunc(slices.Clone(b.Tables), func(t wire.Table) bool { return !keep(t.Kind) })
		frame, err := wire.AppendBatch(nil, &some)
		if err != nil {
			return 0, fmt.Errorf("encode a part of a frame: %w", err)
		}
		return len(frame), nil
	}
	for i := range b.Tables {
		kind := b.Tables[i].Kind
		if _, ok := all[kind]; ok {
			continue
		}
		alone, err := size(func(k wire.Kind) bool { return k == kind })
		if err != nil {
			return nil, err
		}
		without, err := size(func(k wire.Kind) bool { return k != kind })
		if err != nil {
			return nil, err
		}
		all[kind] = share{alone, without}
	}
	return all, nil
}

func (c *committer) countGPU(t *wire.Table) {
	var ts, uuid *wire.Column
	for i := range t.Columns {
		col := &t.Columns[i]
		f, ok := wire.FieldOf(t.Kind, col.Field)
		switch {
		case ok && f.Name == "ts_ms":
			ts = col
		case ok && f.Name == "gpu_uuid":
			uuid = col
		case ok && !f.Key:
			for r := range t.Rows {
				if col.Has(r) {
					c.got.GPUValues++
				}
			}
		}
	}
	for r := range t.Rows { // keys are always present: the decoder checks that
		key := gpuKey{uuid.Dict[uuid.Ref[r]], ts.Int[r]}
		if _, double := c.seen[key]; double {
			c.got.Doubled++
		}
		c.seen[key] = struct{}{}
	}
}

// sofar returns what has come until now.
func (c *committer) sofar() shipped {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.got
	got.Rows, got.Less = maps.Clone(got.Rows), maps.Clone(got.Less)
	return got
}

func (c *committer) close() { c.nc.Close() }
