package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/internal/broker"
)

// Collector moves batches from the partitions it gets to hold into the store.
type Collector struct {
	cfg       Config
	js        jetstream.JetStream
	leases    jetstream.KeyValue
	positions jetstream.KeyValue
	leaseTTL  time.Duration
	stats     stats

	conditions conditions
}

type stats struct {
	rows, batches, repeats, quarantined, inserts, ranges atomic.Uint64
}

// Stats counts since Open. Rows are those of batches that are wholly stored.
type Stats struct {
	Rows, Batches, Repeats, Quarantined, Inserts, Ranges uint64
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
	if c.positions, err = c.js.KeyValue(ctx, broker.BucketCursor); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", broker.BucketCursor, err)
	}
	return c, nil
}

// Stats returns the counters.
func (c *Collector) Stats() Stats {
	return Stats{c.stats.rows.Load(), c.stats.batches.Load(), c.stats.repeats.Load(), c.stats.quarantined.Load(), c.stats.inserts.Load(), c.stats.ranges.Load()}
}

// Run works until ctx ends, and then returns nil: the range in hand is dropped, to be
// repeated by whoever comes next. Broker and store may go and come back meanwhile.
func (c *Collector) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range c.cfg.Partitions {
		w, err := newWorker(c, p)
		if err != nil {
			return err
		}
		g.Go(func() error { return c.runPartition(ctx, w) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("collect: %w", err)
	}
	return nil
}

// runPartition holds the partition again and again.
func (c *Collector) runPartition(ctx context.Context, w *worker) error {
	lg := c.cfg.Log.With(slog.String("partition", w.partition.Name))
	var quiet throttle
	for ctx.Err() == nil {
		err := c.hold(ctx, w)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop
		}
		if err != nil {
			c.conditions.letGo(w.partition.Name, err, time.Now())
		}
		if n, ok := quiet.allow(time.Now()); ok {
			lg.LogAttrs(ctx, slog.LevelWarn, "partition let go", slog.Any("cause", err), slog.Uint64("suppressed", n))
		}
		if err := wait(ctx, 200*time.Millisecond); err != nil {
			return nil //nolint:nilerr // told to stop
		}
	}
	return nil
}

// hold takes the lease, works while it lasts, and gives it back.
func (c *Collector) hold(ctx context.Context, w *worker) error {
	c.conditions.held(w.partition.Name, false, 0, time.Now())
	l, err := broker.AcquireLease(ctx, c.leases, w.partition.Name, c.cfg.Instance, c.leaseTTL)
	if err != nil {
		return err
	}
	c.conditions.held(w.partition.Name, true, l.Epoch(), time.Now())
	defer func() { c.conditions.held(w.partition.Name, false, 0, time.Now()) }()
	g, held := errgroup.WithContext(ctx)
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
