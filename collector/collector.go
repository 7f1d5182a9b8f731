package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/broker"
)

// Collector moves batches from the partitions it gets to hold into the store.
type Collector struct {
	cfg       Config
	js        jetstream.JetStream
	leases    jetstream.KeyValue
	positions jetstream.KeyValue
	leaseTTL  time.Duration
	shares    *broker.Shares // owned by share
	stats     stats
	// builders are as many as ranges may be built at once; nil: not made yet.
	builders chan *batch.Builder
	// crowded: the store has nearly too many parts.
	crowded atomic.Bool
	reached func(step string) error // for tests

	conditions conditions

	checkMu  sync.Mutex
	checker  *chain.Checker // nil: this collector has not checked chains
	standing *Standing      // nil: it does not check them, or has not finished a check
}

// Open opens the buckets. It reads no message: see Run.
func Open(ctx context.Context, cfg Config) (*Collector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Collector{cfg: cfg.withDefaults()}
	first, err := batch.New(c.cfg.Batch) // whether contract and store agree
	if err != nil {
		return nil, fmt.Errorf("prepare to collect: %w", err)
	}
	c.builders = make(chan *batch.Builder, c.cfg.Parallel)
	c.builders <- first
	for range c.cfg.Parallel - 1 {
		c.builders <- nil // made when it is needed
	}
	if c.js, err = jetstream.New(cfg.Conn); err != nil {
		return nil, fmt.Errorf("open jetstream: %w", err)
	}
	if c.leases, c.leaseTTL, err = broker.OpenLeases(ctx, c.js); err != nil {
		return nil, err // it names the bucket
	}
	var names []string
	for _, p := range c.cfg.Partitions {
		names = append(names, p.Name)
	}
	if c.shares, err = broker.OpenShares(ctx, c.js, "collector", c.cfg.Instance, names); err != nil {
		return nil, err // it says what failed
	}
	if c.positions, err = c.js.KeyValue(ctx, broker.BucketCursor); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", broker.BucketCursor, err)
	}
	return c, nil
}

// Run works until ctx ends, and then returns nil: the range in hand is dropped, to be
// repeated by whoever comes next. Broker and store may go and come back meanwhile.
func (c *Collector) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	turns := map[string]*turn{}
	for _, p := range c.cfg.Partitions {
		w, t := newWorker(c, p), newTurn()
		turns[p.Name] = t
		g.Go(func() error { return c.runPartition(ctx, w, t) })
	}
	g.Go(func() error { return c.share(ctx, turns) })
	if c.cfg.CheckEvery > 0 {
		g.Go(func() error { return c.runChecks(ctx) })
	}
	g.Go(func() error { return c.survey(ctx) })
	if err := g.Wait(); err != nil {
		return fmt.Errorf("collect: %w", err)
	}
	return nil
}

// share says, look by look, whose turn each partition is, and leaves at the end.
func (c *Collector) share(ctx context.Context, turns map[string]*turn) error {
	var quiet throttle
	for ctx.Err() == nil {
		var held []string
		for name, t := range turns {
			if t.holds() {
				held = append(held, name)
			}
		}
		due, err := c.shares.Look(ctx, held)
		if err == nil {
			c.conditions.shared(due.Members)
			for _, name := range due.Take {
				turns[name].give(true)
			}
			for _, name := range due.Release {
				turns[name].give(false)
			}
			err = c.shares.Joined()
		}
		if err != nil && ctx.Err() == nil {
			if n, ok := quiet.allow(time.Now()); ok {
				c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "partitions are not shared out", slog.Any("cause", err), slog.Uint64("suppressed", n))
			}
		}
		_ = wait(ctx, c.shares.LookEvery()) // its end is the loop's
	}
	// Giving back is worth a moment.
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := c.shares.Leave(leaving); err != nil {
		c.cfg.Log.LogAttrs(leaving, slog.LevelDebug, "the others will find out", slog.Any("cause", err))
	}
	return nil
}

// runPartition holds the partition again and again, when it is its turn.
func (c *Collector) runPartition(ctx context.Context, w *worker, t *turn) error {
	lg := c.cfg.Log.With(slog.String("partition", w.partition.Name))
	c.conditions.held(w.partition.Name, false, 0, time.Now())
	var quiet throttle
	var pause backoff
	for t.wait(ctx) {
		begun := time.Now()
		err := c.hold(ctx, w, t)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop
		}
		if err == nil {
			continue // another's turn
		}
		c.conditions.letGo(w.partition.Name, err, time.Now())
		if n, ok := quiet.allow(time.Now()); ok {
			lg.LogAttrs(ctx, slog.LevelWarn, "partition let go", slog.Any("cause", err), slog.Uint64("suppressed", n))
		}
		if time.Since(begun) > time.Minute {
			pause = backoff{}
		}
		if err := pause.wait(ctx); err != nil {
			return nil //nolint:nilerr // told to stop
		}
	}
	return nil
}

// takeBuilder waits until one is free.
func (c *Collector) takeBuilder(ctx context.Context) (*batch.Builder, error) {
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to store: %w", ctx.Err())
	case b := <-c.builders:
		if b != nil {
			return b, nil
		}
	}
	b, err := batch.New(c.cfg.Batch)
	if err != nil {
		c.builders <- nil
		return nil, fmt.Errorf("prepare to store: %w", err)
	}
	return b, nil
}

// giveBuilder gives back what takeBuilder gave; there is room for as many as there are.
func (c *Collector) giveBuilder(b *batch.Builder) { c.builders <- b }

// hold takes the lease, works while it lasts and it is its turn, and gives it back. nil: another
// has it, or is to have it.
func (c *Collector) hold(ctx context.Context, w *worker, t *turn) error {
	l, ok, err := broker.TryLease(ctx, c.leases, w.partition.Name, c.shares.Holder(), c.leaseTTL)
	if err != nil {
		return err
	}
	if !ok {
		t.give(false) // until the next look
		return nil
	}
	c.conditions.held(w.partition.Name, true, l.Epoch(), time.Now())
	defer func() { c.conditions.held(w.partition.Name, false, 0, time.Now()) }()
	holding, drop := context.WithCancel(ctx)
	defer drop()
	if !t.take(drop) {
		drop() // it was another's turn at once: the lease goes back below
	}
	defer t.take(nil)
	g, held := errgroup.WithContext(holding)
	// Either ends the other: run with an error, or with ctx, and then keep does too.
	g.Go(func() error { return l.Keep(held) })
	g.Go(func() error { return w.run(held, l) })
	err = g.Wait()
	if !errors.Is(err, broker.ErrLeaseLost) {
		// The caller's context may be over already: giving back is worth a moment.
		giving, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if rerr := l.Release(giving); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}
	return err // both goroutines name what they did
}

// idlePoll is how often WaitIdle looks.
const idlePoll = 20 * time.Millisecond

// WaitIdle returns when every message that the streams held at the call is stored, or in
// quarantine, and acknowledged, whichever collector did it.
func (c *Collector) WaitIdle(ctx context.Context) error {
	for _, p := range c.cfg.Partitions {
		s, err := c.js.Stream(ctx, p.Stream)
		if err != nil {
			return fmt.Errorf("read stream %s: %w", p.Stream, err)
		}
		last := s.CachedInfo().State.LastSeq
		// A work queue drops what is acknowledged: what is left is what is not stored.
		for state := s.CachedInfo().State; state.Msgs > 0 && state.FirstSeq <= last; {
			if err := wait(ctx, idlePoll); err != nil {
				return fmt.Errorf("stream %s has %d messages left: %w", p.Stream, state.Msgs, err)
			}
			info, err := s.Info(ctx)
			if err != nil {
				return fmt.Errorf("read stream %s: %w", p.Stream, err)
			}
			state = info.State
		}
	}
	return nil
}

// throttle lets one line through in ten seconds and counts the others. Owned by one goroutine.
type throttle struct {
	last       time.Time
	suppressed uint64
}

func (t *throttle) allow(now time.Time) (suppressed uint64, ok bool) {
	if !t.last.IsZero() && now.Sub(t.last) < 10*time.Second {
		t.suppressed++
		return 0, false
	}
	suppressed, t.suppressed, t.last = t.suppressed, 0, now
	return suppressed, true
}
