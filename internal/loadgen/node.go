package loadgen

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
)

// sealed is a frame on its way.
type sealed struct {
	seq           uint64
	at            time.Time
	rows, samples int
	acked         bool
}

// node is a host with the agent's own recorder, spool and ship.
type node struct {
	f      *Fleet
	host   *host
	spool  *spool.Spool
	rec    *agent.Recorder
	drawn  uint64    // ticks
	due    time.Time // of the next seal
	gone   bool      // it seals no more; guarded by the worker's lock
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex // guards below
	ship   *ship.Ship // nil: no connection yet
	away   error      // why
	wait   []sealed
	probed []sealed // of a probe: not visible yet
	probe  bool
}

func newNode(f *Fleet, name string, first time.Time) (*node, error) {
	n := &node{f: f, host: newHost(&f.cfg, name, first.UnixMilli()), due: first, done: make(chan struct{})}
	var err error
	if n.spool, err = spool.Open(spool.Config{
		Dir: "/" + name, FS: newMemFS(), MaxBytes: f.cfg.SpoolBytes, SegmentBytes: min(f.cfg.SpoolBytes/8, 64<<10), MinFree: -1, Now: time.Now,
	}); err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	seed := sha256.Sum256([]byte("key/" + f.cfg.Cluster + "/" + name + "/" + fmt.Sprint(f.cfg.Seed)))
	boot := sha256.Sum256([]byte("boot/" + name))
	n.rec, err = agent.NewRecorder(agent.RecorderConfig{
		Cluster: f.cfg.Cluster, Node: name, Spool: n.spool, Privacy: f.privacy, BootID: hex.EncodeToString(boot[:16]), Key: ed25519.NewKeyFromSeed(seed[:]),
		Clock: func() (wallMs, bootMs int64) {
			now := time.Now().UnixMilli()
			return now, now - n.host.bootMs
		},
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	return n, nil
}

// seal makes a frame of the ticks up to now, in builders that it borrows.
func (n *node) seal(t *tables) error {
	late := time.Since(n.due)
	n.f.late(late)
	from := n.drawn + 1
	n.drawn += n.f.cfg.ticks()
	if err := n.host.draw(t, from, n.drawn, n.due.UnixMilli()); err != nil {
		return err
	}
	tabs, rows, samples := t.build()
	defer t.reset()
	n.rec.TickTo(from, n.drawn, 0)
	s := sealed{at: time.Now(), rows: rows, samples: samples}
	// It waits before it is in the spool: the ship may be quicker than what comes behind Seal.
	s.seq = n.spool.NextSequence()
	n.mu.Lock()
	n.wait = append(n.wait, s)
	if n.probe && len(n.probed) < 64 {
		n.probed = append(n.probed, s)
	}
	n.mu.Unlock()
	before := n.rec.SealedBytes()
	if _, err := n.rec.Seal(0, tabs...); err != nil {
		return fmt.Errorf("host %s: %w", n.host.name, err)
	}
	n.f.count.sealed(rows, samples, n.rec.SealedBytes()-before)
	n.forget()
	return nil
}

// forget drops what the spool had no room for.
func (n *node) forget() {
	first := n.spool.First(1)
	if first == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.wait) > 0 && n.wait[0].seq < first {
		// It may be committed, and its mark on its way to progress.
		if !n.spool.IsCommitted(n.wait[0].seq) {
			n.f.count.lost(n.wait[0])
			n.wait = n.wait[1:]
			continue
		}
		break
	}
}

// progress sees what was acknowledged and committed.
func (n *node) progress() {
	now := time.Now()
	acked, committed := n.spool.Acked(), n.spool.Committed()
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.wait {
		w := &n.wait[i]
		if !w.acked && (w.seq <= acked || n.spool.IsCommitted(w.seq)) {
			w.acked = true
			n.f.count.acked(now.Sub(w.at))
		}
		if w.seq > acked {
			break
		}
	}
	i := 0
	for i < len(n.wait) && n.wait[i].seq <= committed {
		n.f.count.committed(n.wait[i], now.Sub(n.wait[i].at))
		i++
	}
	n.wait = append(n.wait[:0], n.wait[i:]...)
}

// oldest is when the frame was sealed that waits longest for its commit mark; zero: none waits.
func (n *node) oldest() (at time.Time, frames int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.wait) == 0 {
		return at, 0
	}
	return n.wait[0].at, len(n.wait)
}

func (n *node) key() store.SpoolKey {
	id := n.spool.ID()
	return store.SpoolKey{Cluster: n.f.cfg.Cluster, Node: n.host.name, Spool: hex.EncodeToString(id[:])}
}

// state is what the ship says; an error: it has no connection yet, and why.
func (n *node) state() (ship.Stats, error) {
	n.mu.Lock()
	sh, away := n.ship, n.away
	n.mu.Unlock()
	if sh == nil {
		return ship.Stats{}, away
	}
	return sh.Stats(), nil
}

// run ships until ctx ends.
func (n *node) run(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) {
	defer close(n.done)
	own := nc == nil
	for own && nc == nil {
		var err error
		if nc, err = broker.Connect(n.f.cfg.connect(n.host.name)); err == nil {
			break
		}
		n.mu.Lock()
		n.away = err
		n.mu.Unlock()
		if !sleep(ctx, time.Second+rand.N(time.Second)) {
			return
		}
	}
	if own {
		defer nc.Close()
		var err error
		if js, err = ship.JetStream(nc); err != nil {
			n.f.fail(err)
			return
		}
	}
	sh, err := ship.New(ship.Config{Conn: nc, JetStream: js, Spool: n.spool, Cluster: n.f.cfg.Cluster, Node: n.host.name, BackoffMax: 15 * time.Second, BacklogRate: ship.DefaultBacklogRate, Progress: n.progress})
	if err != nil {
		n.f.fail(err)
		return
	}
	n.mu.Lock()
	n.ship, n.away = sh, nil
	n.mu.Unlock()
	if err = sh.Run(ctx); err != nil && ctx.Err() == nil {
		n.f.fail(fmt.Errorf("host %s: %w", n.host.name, err))
	}
}

// end stops the ship and gives the spool up.
func (n *node) end() error {
	n.cancel()
	<-n.done
	if err := n.spool.Close(); err != nil && !errors.Is(err, spool.ErrClosed) {
		return fmt.Errorf("host %s: %w", n.host.name, err)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
