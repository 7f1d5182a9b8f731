package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// syncEvery is how many batches of a recorded host become durable together. What a crash
// takes from a spool is in the recording still.
const syncEvery = 16

type fleetConfig struct {
	DataDir   string
	Digest    string // of the recording
	Cluster   string
	Conn      *nats.Conn
	JetStream jetstream.JetStream
	// Live batches carry no availability of their own: the broker's time is theirs.
	Live bool
	Log  *slog.Logger
}

// fleet is the recorded hosts: a spool, a recorder and a ship each, and one more for the
// provider. It is a playback.Sink, used by one goroutine.
type fleet struct {
	cfg     fleetConfig
	privacy *agent.Privacy
	members map[string]*recorded // by node; "" is the provider

	shipping context.Context //nolint:containedctx // of the ships, which outlive the call that starts them
	cancel   context.CancelFunc
	ships    *errgroup.Group
}

// recorded is one host.
type recorded struct {
	spool    *spool.Spool
	recorder *agent.Recorder
	ship     *ship.Ship
}

func newFleet(ctx context.Context, cfg fleetConfig) (*fleet, error) {
	dir := filepath.Join(cfg.DataDir, "spool")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make spools folder: %w", err)
	}
	// The same recording gives the same names, whenever and wherever it is replayed: a store
	// that it was replayed into before must recognise its rows. Who has the recording has the
	// names, so nothing is given away.
	siteKey := sha256.Sum256([]byte("flopwatch replay site key " + cfg.Digest))
	privacy, err := agent.NewPrivacy(siteKey[:])
	if err != nil {
		return nil, err
	}
	f := &fleet{cfg: cfg, privacy: privacy, members: map[string]*recorded{}}
	shipping, cancel := context.WithCancel(ctx)
	f.cancel = cancel
	f.ships, f.shipping = errgroup.WithContext(shipping)
	return f, nil
}

// Node takes a chunk of a host's telemetry.
func (f *fleet) Node(_ context.Context, node string, availableMs int64, tables []wire.Table) error {
	m, err := f.member(node)
	if err != nil {
		return err
	}
	_, err = m.recorder.Seal(f.available(availableMs), tables...)
	return err //nolint:wrapcheck // the caller names the node
}

// Provider takes a chunk of what the provider states.
func (f *fleet) Provider(_ context.Context, availableMs int64, table wire.Table) error {
	m, err := f.member("")
	if err != nil {
		return err
	}
	_, err = m.recorder.Seal(f.available(availableMs), table)
	return err //nolint:wrapcheck // the caller names the provider
}

func (f *fleet) available(ms int64) int64 {
	if f.cfg.Live {
		return 0
	}
	return ms
}

// member starts a host the first time that it is heard of.
func (f *fleet) member(node string) (_ *recorded, err error) {
	if m := f.members[node]; m != nil {
		return m, nil
	}
	name := "provider"
	if node != "" {
		name = "node-" + wire.Token(node)
	}
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(f.cfg.DataDir, "spool", name)})
	if err != nil {
		return nil, fmt.Errorf("open spool %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, sp.Close())
		}
	}()
	recorder, err := agent.NewRecorder(agent.RecorderConfig{
		Cluster: f.cfg.Cluster, Node: node, Spool: sp, Privacy: f.privacy, SyncEvery: syncEvery, Replay: true,
	})
	if err != nil {
		return nil, err
	}
	sh, err := ship.New(ship.Config{Conn: f.cfg.Conn, JetStream: f.cfg.JetStream, Spool: sp, Cluster: f.cfg.Cluster, Node: node, Log: f.cfg.Log})
	if err != nil {
		return nil, fmt.Errorf("make ship of %s: %w", name, err)
	}
	m := &recorded{spool: sp, recorder: recorder, ship: sh}
	f.members[node] = m
	f.ships.Go(func() error {
		if err := sh.Run(f.shipping); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("ship of %s: %w", name, err)
		}
		return nil
	})
	return m, nil
}

// flush makes what was sealed durable, so that it is shipped.
func (f *fleet) flush() error {
	for _, m := range f.members {
		if err := m.recorder.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// failed is closed when a ship has ended, or all have been closed.
func (f *fleet) failed() <-chan struct{} { return f.shipping.Done() }

// drain waits until every batch of every host is committed: stored, and not to be sent again.
func (f *fleet) drain(ctx context.Context) error {
	if err := f.flush(); err != nil {
		return err
	}
	for _, m := range f.members { // in any order: all have to be empty
		if err := m.ship.Drain(ctx); err != nil {
			return err
		}
	}
	return nil
}

// wireBytes is what the spools took, over all frames.
func (f *fleet) wireBytes() int64 {
	n := int64(0)
	for _, m := range f.members {
		n += int64(m.recorder.SealedBytes())
	}
	return n
}

// published is how many batches each spool has numbered, by its id in hex.
func (f *fleet) published() map[string]uint64 {
	out := make(map[string]uint64, len(f.members))
	for _, m := range f.members {
		id := m.spool.ID()
		out[hex.EncodeToString(id[:])] = m.spool.NextSequence() - 1
	}
	return out
}

// hosts is the number of recorded hosts.
func (f *fleet) hosts() int {
	n := len(f.members)
	if f.members[""] != nil {
		n--
	}
	return n
}

// close stops the ships and closes the spools. It may be called twice.
func (f *fleet) close() error {
	if f.cancel == nil {
		return nil
	}
	f.cancel()
	f.cancel = nil
	errs := []error{f.ships.Wait()}
	for _, m := range f.members {
		errs = append(errs, m.spool.Close())
	}
	return errors.Join(errs...)
}
