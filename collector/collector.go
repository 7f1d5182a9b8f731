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

	conditions conditions

	checkMu sync.Mutex
	checker *chain.Checker // nil: this collector has not checked chains
}

type stats struct {
	rows, batches, repeats, conflicts, quarantined, inserts, ranges atomic.Uint64
}

// Stats counts since Open. Rows are those of batches that are wholly stored; Conflicts, which are
// Quarantined too, had other content under an identity that was taken.
type Stats struct {
	Rows, Batches, Repeats, Conflicts, Quarantined, Inserts, Ranges uint64
}

// Open opens the buckets. It reads no message: see Run.
func Open(ctx context.Context, cfg Config) (*Collector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Collector{cfg: cfg.withDefaults()}
	var err error
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

// Stats returns the counters.
func (c *Collector) Stats() Stats {
	return Stats{c.stats.rows.Load(), c.stats.batches.Load(), c.stats.repeats.Load(), c.stats.conflicts.Load(), c.stats.quarantined.Load(), c.stats.inserts.Load(), c.stats.ranges.Load()}
}

// Run works until ctx ends, and then returns nil: the range in hand is dropped, to be
// repeated by whoever comes next. Broker and store may go and come back meanwhile.
func (c *Collector) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	turns := map[string]*turn{}
	for _, p := range c.cfg.Partitions {
		w, err := newWorker(c, p)
		if err != nil {
			return err
		}
		t := newTurn()
		turns[p.Name] = t
		g.Go(func() error { return c.runPartition(ctx, w, t) })
	}
	g.Go(func() error { return c.share(ctx, turns) })
	if c.cfg.CheckEvery > 0 {
		g.Go(func() error { return c.runChecks(ctx) })
	}
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
	for t.wait(ctx) {
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
		if err := wait(ctx, 200*time.Millisecond); err != nil {
			return nil //nolint:nilerr // told to stop
		}
	}
	return nil
}

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
	g.Go(func() error { return w.run(held, l.Epoch()) })
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
