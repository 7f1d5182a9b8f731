package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
)

// How often the broker is asked for its time, how long an answer may take, and how long a
// connection is waited for before the next try.
const (
	clockEvery = 10 * time.Second
	clockWait  = 5 * time.Second
	firstPause = 500 * time.Millisecond
	longPause  = 15 * time.Second
)

// leader holds the lease again and again, and judges while it has it.
type leader struct {
	cfg      config
	judging  detector.Config
	live     detector.LiveConfig
	instance string
	lg       *slog.Logger

	clock broker.Clock
	store *store.Store // nil: not reached yet. Owned by run
	conn  *nats.Conn   // nil: not reached yet. Owned by run

	mu       sync.Mutex
	phase    phase
	since    time.Time // of the phase
	lastErr  string    // why it is not leading, or why the broker's time is not known; "": it is well
	follower *detector.Follower
	epoch    uint64
	changed  bool // profiles_file changed under it
	led      uint64
}

// phase is what a leader is at.
type phase string

const (
	starting phase = "starting" // it reaches for store and broker
	standby  phase = "standby"  // another holds the lease
	leading  phase = "leading"
)

// newLeader reads what the configuration names. It reaches for nothing.
func newLeader(cfg config) (*leader, error) {
	profiles, version, err := cfg.profiles()
	if err != nil {
		return nil, err
	}
	if cfg.Store.Password, err = readSecret(cfg.PasswordFile); err != nil {
		return nil, err
	}
	d := &leader{cfg: cfg, instance: cfg.Instance, phase: starting, since: time.Now()}
	if d.instance == "" {
		host, herr := os.Hostname()
		if herr != nil {
			return nil, fmt.Errorf("name this detector: %w", herr)
		}
		d.instance = fmt.Sprintf("%s/%d", host, os.Getpid())
	}
	d.judging = detector.Config{
		Cluster: cfg.Cluster, Profiles: profiles, ProfileVersion: version, SpecialJurisdictions: cfg.SpecialJurisdictions,
		WaitMs: cfg.waitMs(), StepMs: cfg.stepMs(), Now: time.Now,
	}
	d.live = detector.LiveConfig{
		BrokerMs: d.clock.Now, Instance: d.instance, HorizonMs: cfg.Horizon.Milliseconds(), MaxCells: cfg.MaxCells, ReportsDir: cfg.ReportsDir,
	}
	if d.judging.ConfigDigest, err = d.judging.Digest(d.live.HorizonMs, d.live.MaxCells); err != nil {
		return nil, err
	}
	return d, nil
}

// run leads until ctx ends. What fails is tried again.
func (d *leader) run(ctx context.Context) error {
	defer d.hangUp()
	said := ""
	for wait := firstPause; ; wait = min(2*wait, longPause) {
		began := time.Now()
		err := d.once(ctx)
		if ctx.Err() != nil {
			return nil // told to stop
		}
		d.enter(starting, err)
		if text := fmt.Sprint(err); text != said { // the same answer again says nothing new
			said = text
			d.lg.LogAttrs(ctx, slog.LevelWarn, "not leading, trying again", slog.Any("cause", err))
		}
		if time.Since(began) > longPause {
			wait, said = firstPause, ""
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// once reaches store and broker, takes the lease and judges until one of them is lost.
func (d *leader) once(ctx context.Context) (err error) {
	if d.store == nil {
		to := d.cfg.Store
		to.Settled = true // each batch is looked at once
		if d.store, err = store.Open(ctx, to); err != nil {
			return err // it names the server
		}
	}
	if d.conn == nil {
		n := d.cfg.NATS
		d.conn, err = broker.Connect(broker.ConnectConfig{
			URL: n.URL, Name: "flopwatch-detector", CredsFile: n.CredsFile, NKeyFile: n.NKeyFile, TokenFile: n.TokenFile, InboxPrefix: n.InboxPrefix,
			RootCAFile: n.RootCAFile, CertFile: n.CertFile, KeyFile: n.KeyFile, Log: d.lg,
		})
		if err != nil {
			return err // it says what failed
		}
	}
	js, err := jetstream.New(d.conn)
	if err != nil {
		return fmt.Errorf("open jetstream: %w", err)
	}
	leases, ttl, err := broker.OpenLeases(ctx, js)
	if err != nil {
		return err // it names the bucket
	}
	d.enter(standby, nil)
	lease, err := broker.AcquireLease(ctx, leases, d.cfg.Lease, d.instance, ttl)
	if err != nil {
		return err // it names the lease
	}
	g, held := errgroup.WithContext(ctx)
	g.Go(func() error { return lease.Keep(held) })
	g.Go(func() error { return d.judge(held, js, lease) })
	err = g.Wait()
	if !errors.Is(err, broker.ErrLeaseLost) {
		// The caller's context may be over already: giving back is worth a moment.
		giving, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if rerr := lease.Release(giving); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}
	return err // each names what it did
}

// judge follows the store under a lease.
func (d *leader) judge(ctx context.Context, js jetstream.JetStream, lease *broker.Lease) error {
	if err := d.ask(ctx, js); err != nil {
		return err
	}
	// Revisions only start again if somebody made the bucket anew.
	latest, err := d.store.LatestEpoch(ctx, d.cfg.Cluster)
	if err != nil {
		return err // it names the table
	}
	judging, live := d.judging, d.live
	judging.Epoch = max(lease.Epoch(), latest+1)
	live.Held, live.Log = lease.Held, d.lg
	f, err := detector.NewFollower(judging, live, d.store)
	if err != nil {
		return err // it says what is missing
	}
	d.lead(f, judging.Epoch)
	d.lg.LogAttrs(ctx, slog.LevelInfo, "leading", slog.Uint64("epoch", judging.Epoch))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.keepTime(ctx, js) })
	g.Go(func() error { return f.Run(ctx) })
	return g.Wait() // it says what failed
}

func (d *leader) ask(ctx context.Context, js jetstream.JetStream) error {
	asking, cancel := context.WithTimeout(ctx, clockWait)
	defer cancel()
	return d.clock.Ask(asking, js) // it says what failed
}

// keepTime asks the broker for its time now and then. Without an answer the last one holds
// for a while; then nothing is judged until there is one.
func (d *leader) keepTime(ctx context.Context, js jetstream.JetStream) error {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := d.ask(ctx, js)
		if ctx.Err() != nil {
			return nil // told to stop
		}
		d.told(err)
	}
}

func (d *leader) hangUp() {
	if d.conn != nil {
		d.conn.Close()
	}
	if d.store != nil {
		_ = d.store.Close() // nothing is kept in it
	}
}

func (d *leader) enter(p phase, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.phase != p {
		d.phase, d.since = p, time.Now()
	}
	d.lastErr = ""
	if err != nil {
		d.lastErr = err.Error()
	}
	d.follower = nil
}

func (d *leader) lead(f *detector.Follower, epoch uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.phase, d.since, d.lastErr, d.follower, d.epoch = leading, time.Now(), "", f, epoch
	d.led++
}

// told takes the outcome of asking the broker.
func (d *leader) told(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lastErr = ""
	if err != nil {
		d.lastErr = err.Error()
	}
}

// reload reads the profiles again. They are not taken up while it runs: all that was judged
// would have to be judged again under them.
func (d *leader) reload(ctx context.Context) {
	_, version, err := d.cfg.profiles()
	switch {
	case err != nil:
		d.lg.LogAttrs(ctx, slog.LevelError, "the profiles were not taken up; the old ones hold", slog.Any("err", err))
		return
	case version == d.judging.ProfileVersion:
		d.lg.LogAttrs(ctx, slog.LevelInfo, "the profiles have not changed")
	default:
		d.lg.LogAttrs(ctx, slog.LevelError, "the profiles changed: a running detector does not take them up, restart it",
			slog.String("profiles_file", cmp.Or(d.cfg.ProfilesFile, "(built in)")))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changed = version != d.judging.ProfileVersion
}
