package loadgen

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/internal/broker"
)

// counts are of the whole fleet since its start.
type counts struct {
	frames, bytes, rows, samples      atomic.Uint64 // sealed
	ackedFrames                       atomic.Uint64
	commFrames, commRows, commSamples atomic.Uint64
	lostFrames, lostRows, lostSamples atomic.Uint64
	ack, commit, visible              hist // over all
	ackNow, commitNow, visibleNow     hist // since the last window
	lateMost                          atomic.Int64
	departedFrames, resent, errors    atomic.Uint64 // of hosts that are gone
}

func (c *counts) sealed(rows, samples int, bytes uint64) {
	c.frames.Add(1)
	c.bytes.Add(bytes)
	c.rows.Add(uint64(rows))
	c.samples.Add(uint64(samples))
}

func (c *counts) acked(d time.Duration) {
	c.ackedFrames.Add(1)
	c.ack.add(d)
	c.ackNow.add(d)
}

func (c *counts) committed(s sealed, d time.Duration) {
	c.commFrames.Add(1)
	c.commRows.Add(uint64(s.rows))
	c.commSamples.Add(uint64(s.samples))
	c.commit.add(d)
	c.commitNow.add(d)
}

func (c *counts) lost(s sealed) {
	c.lostFrames.Add(1)
	c.lostRows.Add(uint64(s.rows))
	c.lostSamples.Add(uint64(s.samples))
}

// Fleet is hosts that seal and ship. Its methods may be used by one goroutine, but for Snapshot.
type Fleet struct {
	cfg     Config
	privacy *agent.Privacy
	count   counts
	workers []*worker
	shared  []link
	ctx     context.Context //nolint:containedctx // of all its goroutines, ended by Close: hosts are started after Open has returned
	cancel  context.CancelCauseFunc
	running sync.WaitGroup // workers

	mu    sync.Mutex // guards nodes
	nodes []*node
	made  int // names so far
}

type link struct {
	nc *nats.Conn
	js jetstream.JetStream
}

// Open makes a fleet without hosts, and looks whether the broker lets them in. The caller closes
// it.
func Open(ctx context.Context, cfg Config) (_ *Fleet, err error) {
	if err = cfg.Validate(); err != nil {
		return nil, fmt.Errorf("make fleet: %w", err)
	}
	cfg.defaults()
	f := &Fleet{cfg: cfg}
	if f.privacy, err = agent.NewPrivacy([]byte("flopwatch loadgen: site key, 32B")); err != nil {
		return nil, fmt.Errorf("make fleet: %w", err)
	}
	// What ends ctx ends the seals; frames are drained behind that.
	f.ctx, f.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	for range max(cfg.Connections, 1) {
		node := ""
		if cfg.NKeys != "" {
			node = cfg.Node(0)
		}
		nc, cerr := broker.Connect(cfg.connect(node))
		if cerr != nil {
			return nil, cerr // it says what failed
		}
		if cfg.Connections == 0 { // it was a look
			nc.Close()
			break
		}
		js, jerr := ship.JetStream(nc)
		if jerr != nil {
			nc.Close()
			return nil, jerr
		}
		f.shared = append(f.shared, link{nc, js})
	}
	for range cfg.Workers {
		w := &worker{f: f, wake: make(chan struct{}, 1)}
		f.workers = append(f.workers, w)
		f.running.Go(func() { w.run(f.ctx) })
	}
	return f, nil
}

func (f *Fleet) fail(err error) { f.cancel(err) }

// Failed is why the fleet cannot go on; nil: it can.
func (f *Fleet) Failed() error {
	if f.ctx.Err() == nil {
		return nil
	}
	return context.Cause(f.ctx)
}

func (f *Fleet) late(d time.Duration) {
	for {
		most := f.count.lateMost.Load()
		if int64(d) <= most || f.count.lateMost.CompareAndSwap(most, int64(d)) {
			return
		}
	}
}

// Grow starts hosts until there are so many, the first now and the last after a time: each seals
// what it has sampled in the period before, as if it had been there already.
func (f *Fleet) Grow(to int, over time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	period := f.cfg.tick() * time.Duration(f.cfg.ticks())
	now := time.Now()
	add := to - len(f.nodes)
	for i := range add {
		at := now
		switch {
		case f.cfg.Together:
		case over < period: // it would be a herd ever after
			at = now.Add(rand.N(period))
		default:
			at = now.Add(time.Duration(int64(over) * int64(i) / int64(add)))
		}
		name := f.cfg.Node(f.made)
		n, err := newNode(f, name, at)
		if err != nil {
			return err
		}
		n.probe = f.cfg.Store != nil && (f.made%max(to/probes, 1) == 0)
		var l link
		if len(f.shared) > 0 {
			l = f.shared[f.made%len(f.shared)]
		}
		f.made++
		f.nodes = append(f.nodes, n)
		ctx, cancel := context.WithCancel(f.ctx)
		n.cancel = cancel
		go func() { // ends with n.end
			if l.nc == nil && sleep(ctx, min(time.Until(at), over)) || l.nc != nil {
				n.run(ctx, l.nc, l.js)
			} else {
				close(n.done)
			}
		}()
		f.workers[f.made%len(f.workers)].add(n)
	}
	return nil
}

// Shrink stops the seals of the hosts beyond the first so many; what they have is shipped on.
func (f *Fleet) Shrink(to int) {
	f.mu.Lock()
	nodes := slices.Clone(f.nodes)
	f.mu.Unlock()
	for _, w := range f.workers {
		w.mu.Lock()
	}
	for i, n := range nodes {
		n.gone = n.gone || i >= to
	}
	for _, w := range f.workers {
		w.mu.Unlock()
	}
}

// Remove gives hosts up whose seals were stopped and that have nothing left to ship.
func (f *Fleet) Remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	f.nodes = slices.DeleteFunc(f.nodes, func(n *node) bool {
		if _, frames := n.oldest(); !n.gone || frames > 0 {
			return false
		}
		err = errors.Join(err, f.depart(n))
		return true
	})
	if len(f.nodes) == 0 {
		f.made = 0 // their names are free
	}
	return err
}

// depart ends a host and keeps its counts.
func (f *Fleet) depart(n *node) error {
	st, _ := n.state()
	f.count.departedFrames.Add(st.Published)
	f.count.resent.Add(st.Resent)
	f.count.errors.Add(st.Errors)
	return n.end()
}

// Close ends everything; what is not committed is given up.
func (f *Fleet) Close() error {
	f.cancel(nil)
	f.running.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, n := range f.nodes {
		errs = append(errs, f.depart(n))
	}
	f.nodes = nil
	for _, l := range f.shared {
		l.nc.Close()
	}
	f.shared = nil
	return errors.Join(errs...)
}

// worker seals the frames of its hosts when they are due.
type worker struct {
	f    *Fleet
	wake chan struct{}

	mu    sync.Mutex // guards queue, and gone of its nodes
	queue queue
}

type queue []*node

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(*node)) }
func (q *queue) Pop() any {
	old := *q
	n := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return n
}

func (w *worker) add(n *node) {
	w.mu.Lock()
	heap.Push(&w.queue, n)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) run(ctx context.Context) {
	t := newTables()
	period := w.f.cfg.tick() * time.Duration(w.f.cfg.ticks())
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		var n *node
		wait := time.Hour
		w.mu.Lock()
		for len(w.queue) > 0 && w.queue[0].gone {
			heap.Pop(&w.queue)
		}
		if len(w.queue) > 0 {
			if wait = time.Until(w.queue[0].due); wait <= 0 {
				n = w.queue[0]
			}
		}
		w.mu.Unlock()
		if n == nil {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
			case <-w.wake:
			case <-timer.C:
			}
			continue
		}
		if err := n.seal(t); err != nil {
			w.f.fail(err)
			return
		}
		w.mu.Lock()
		// Those that were added meanwhile may stand before it.
		if i := slices.Index(w.queue, n); i >= 0 {
			n.due = n.due.Add(period)
			heap.Fix(&w.queue, i)
		}
		w.mu.Unlock()
	}
}
