package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/agent/playback"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/cmd/flopwatch/up"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/durable"
)

const (
	// playChunk is how much of a recording goes into one batch a host: what a live agent seals.
	playChunk = 10 * time.Second
	// playDrain bounds how long a play waits at its end until all is stored. The rest stays in
	// its spools.
	playDrain = 5 * time.Second
)

// playOptions are the flags of `flopwatch play`.
type playOptions struct {
	data   string
	nats   broker.ConnectConfig
	ahead  time.Duration
	chunk  time.Duration
	listen string
}

// newPlayCommand builds `flopwatch play`, which `flopwatch up --recording` starts as a child
// in the agent's place.
func newPlayCommand() *cobra.Command {
	var o playOptions
	var watch bool
	cmd := &cobra.Command{
		Use:    "play BUNDLE --data DIR --nats URL",
		Short:  "Publish a recording on the wall clock, as its hosts' agents would",
		Hidden: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{Err: errors.New("play takes one recording")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.data == "" || o.nats.URL == "" {
				return usageError{Err: errors.New("--data DIR and --nats URL are required")}
			}
			if o.ahead < 0 || o.chunk < time.Second {
				return usageError{Err: errors.New("--ahead cannot be negative, --chunk not below 1s")}
			}
			ctx, stop := untilStdinEnds(cmd.Context(), cmd.InOrStdin(), watch)
			defer stop()
			return play(ctx, args[0], o, textLog(cmd.ErrOrStderr()))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "folder for spools and for what is remembered of the clock")
	f.StringVar(&o.nats.URL, "nats", "", "URL of the broker")
	f.StringVar(&o.nats.TokenFile, "nats-token-file", "", "file with the token for --nats")
	f.DurationVar(&o.ahead, "ahead", 0, "how much of the recording comes at once at the first start")
	f.DurationVar(&o.chunk, "chunk", playChunk, "how much of the recording goes into one batch a host")
	f.StringVar(&o.listen, "listen", "", "host:port for metrics and health; empty: none")
	f.BoolVar(&watch, "watch-stdin", false, "stop when stdin ends")
	return cmd
}

// playClock is what is remembered of a play, so that one that was killed goes on with the
// same batches.
type playClock struct {
	Digest  string `json:"digest"`   // of the recording
	ShiftMs int64  `json:"shift_ms"` // added to every instant
	ChunkMs int64  `json:"chunk_ms"`
}

// loadClock reads the clock of dir, or starts one at now.
func loadClock(dir, digest string, o playOptions, startMs int64, now time.Time) (playClock, error) {
	path := filepath.Join(dir, "clock.json")
	text, err := os.ReadFile(path)
	if err == nil {
		var c playClock
		if err = json.Unmarshal(text, &c); err != nil {
			return c, fmt.Errorf("read clock of play %s: %w", path, err)
		}
		if c.ChunkMs <= 0 {
			return c, fmt.Errorf("read clock of play %s: chunks of %d ms", path, c.ChunkMs)
		}
		if c.Digest != digest {
			return c, fmt.Errorf("folder %s plays another recording, or an earlier state of this one: name a new data folder", dir)
		}
		return c, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return playClock{}, fmt.Errorf("read clock of play: %w", err)
	}
	c := playClock{Digest: digest, ShiftMs: now.Add(-o.ahead).UnixMilli() - startMs, ChunkMs: o.chunk.Milliseconds()}
	c.ShiftMs -= (c.ShiftMs%60_000 + 60_000) % 60_000 // minutes stay minutes
	text, err = json.Marshal(c)
	if err != nil {
		return c, fmt.Errorf("write clock of play: %w", err)
	}
	if err = durable.WriteFile(durable.OS{}, path, append(text, '\n')); err != nil {
		return c, fmt.Errorf("write clock of play: %w", err)
	}
	return c, nil
}

// player plays one recording.
type player struct {
	lg    *slog.Logger
	fleet *fleet
	clock playClock
	endMs int64 // of the recording, on the wall clock

	mu     sync.Mutex // guards below
	handed int64      // wall time up to which the recording was handed on, Unix milliseconds
	ended  bool
}

// play publishes until ctx ends.
func play(ctx context.Context, dir string, o playOptions, lg *slog.Logger) (err error) {
	b, err := bundle.Open(dir)
	if err != nil {
		return err
	}
	digest, err := b.Digest()
	if err != nil {
		return err
	}
	if err = os.MkdirAll(o.data, 0o700); err != nil {
		return fmt.Errorf("make folder of play: %w", err)
	}
	clock, err := loadClock(o.data, digest, o, b.Manifest.StartMs, time.Now())
	if err != nil {
		return err
	}
	o.nats.Name, o.nats.Log = "flopwatch play", lg
	nc, err := broker.Connect(o.nats)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := ship.JetStream(nc)
	if err != nil {
		return err
	}
	// The ships outlive ctx: what is sealed is to be shipped.
	f, err := newFleet(context.WithoutCancel(ctx), fleetConfig{
		DataDir: o.data, Digest: digest, Cluster: b.Manifest.Cluster, Conn: nc, JetStream: js, Live: true, Log: lg,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	p := &player{lg: lg, fleet: f, clock: clock, endMs: b.Manifest.EndMs + clock.ShiftMs}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	work, ctx := errgroup.WithContext(ctx)
	if o.listen != "" {
		ln, err := daemon.Listen(ctx, o.listen)
		if err != nil {
			return err
		}
		work.Go(func() error { return daemon.Serve(ctx, ln, p.metrics(), p.health) })
	}
	work.Go(func() error {
		select {
		case <-f.failed():
			return errors.New("a recorded host's ship ended")
		case <-ctx.Done():
			return nil
		}
	})
	work.Go(func() error { return p.run(ctx, b) })
	return work.Wait()
}

// run plays to the end of the recording, and then waits for ctx's.
func (p *player) run(ctx context.Context, b *bundle.Bundle) error {
	p.lg.LogAttrs(ctx, slog.LevelInfo, "playing", slog.String("recording", b.Name()), slog.String("cluster", b.Manifest.Cluster),
		slog.Time("from", time.UnixMilli(b.Manifest.StartMs+p.clock.ShiftMs).UTC()), slog.Time("to", time.UnixMilli(p.endMs).UTC()))
	_, err := playback.PlayAt(ctx, b, p.fleet, playback.Clock{ShiftMs: p.clock.ShiftMs, ChunkMs: p.clock.ChunkMs, Wait: p.wait})
	if err == nil {
		err = p.fleet.flush()
	}
	if err == nil {
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		p.lg.LogAttrs(ctx, slog.LevelInfo, "the recording has ended, nothing more comes", slog.Int("bad_rows", b.Report().Bad()))
		<-ctx.Done()
	}
	if err != nil && ctx.Err() == nil {
		return err
	}
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), playDrain)
	defer cancel()
	if err := p.fleet.drain(draining); err != nil {
		// Not lost: it is in the spools, and shipped by the next start.
		p.lg.LogAttrs(ctx, slog.LevelWarn, "not all is stored yet, the rest stays in the spools", slog.Any("err", err))
	}
	return nil
}

// wait returns when the wall clock reads arrivedMs, or later.
func (p *player) wait(ctx context.Context, arrivedMs int64) error {
	p.mu.Lock()
	p.handed = arrivedMs
	p.mu.Unlock()
	left := time.Until(time.UnixMilli(arrivedMs))
	if left <= 0 {
		return ctx.Err()
	}
	if err := p.fleet.flush(); err != nil {
		return err
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *player) metrics() prometheus.Gatherer {
	r := prometheus.NewRegistry()
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "flopwatch_play_position_seconds", Help: "Wall time up to which the recording was handed on, Unix seconds.",
	}, func() float64 {
		p.mu.Lock()
		defer p.mu.Unlock()
		return float64(p.handed) / 1e3
	}))
	return r
}

func (p *player) health() daemon.Health {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := daemon.Health{State: daemon.OK, Details: map[string]any{up.PlaysUntil: time.UnixMilli(p.endMs).UTC(), "ended": p.ended}}
	if p.ended {
		h.State = daemon.Degraded
		h.Reasons = []string{"the recording ended at " + stamp(p.endMs) + " UTC: nothing more comes, its hosts are silent from then on"}
	}
	return h
}
