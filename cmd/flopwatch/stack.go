package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/broker/natsd"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/store/embedded"
)

// stackConfig says which servers to use: embedded ones below DataDir unless a URL names
// a real one.
type stackConfig struct {
	DataDir string
	Engine  string // libchdb.so; empty: beside the binary

	NATS          string // empty: embedded
	NATSCreds     string
	NATSTokenFile string

	ClickHouse             string // empty: embedded
	ClickHouseUser         string
	ClickHousePasswordFile string
	Database               string

	// Claim, if set, is asked once the store is there, before anything is made elsewhere.
	Claim func(ctx context.Context, st *store.Store) error
	// Resumed: the working folder was used before, so what a broker holds may be its own.
	Resumed bool
	// RecordedAvailability takes a row's availability from the recording, not the broker.
	RecordedAvailability bool
	Log                  *slog.Logger
}

// check reports the first setting that cannot be used, before anything is started.
func (c stackConfig) check() error {
	embeddedOnly := func(flag, value, needs string) error {
		if value == "" {
			return nil
		}
		return usageError{Err: fmt.Errorf("%s is for the server that %s names, and there is no %s", flag, needs, needs)}
	}
	if c.NATS == "" {
		if err := errors.Join(embeddedOnly("--nats-creds", c.NATSCreds, "--nats"), embeddedOnly("--nats-token-file", c.NATSTokenFile, "--nats")); err != nil {
			return err
		}
	} else if u, err := url.Parse(c.NATS); err != nil || u.Host == "" {
		return usageError{Err: fmt.Errorf("--nats %s: wanted nats://HOST:PORT or tls://HOST:PORT", host(c.NATS))}
	}
	at := store.Config{URL: "http://127.0.0.1", Database: c.Database}
	if c.ClickHouse == "" {
		if err := errors.Join(embeddedOnly("--clickhouse-user", c.ClickHouseUser, "--clickhouse"),
			embeddedOnly("--clickhouse-password-file", c.ClickHousePasswordFile, "--clickhouse")); err != nil {
			return err
		}
	} else {
		at.URL = c.ClickHouse
	}
	err := at.Validate()
	switch {
	case err == nil:
		return nil
	case c.ClickHouse != "":
		err = fmt.Errorf("--clickhouse, --database: %w", err)
	default:
		err = fmt.Errorf("--database: %w", err)
	}
	return usageError{Err: err}
}

// host is a URL without what signs in.
func host(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "(not a URL)"
	}
	u.User = nil
	return u.String()
}

// stack is the servers and the collector of one process tree.
type stack struct {
	store     *store.Store
	nc        *nats.Conn
	js        jetstream.JetStream
	collector *collector.Collector

	work   *errgroup.Group // the collector
	cancel context.CancelFunc
	stops  []func(context.Context) error // in order of starting
}

// startStack starts what is needed, in order of dependence. On error nothing is left running.
func startStack(ctx context.Context, cfg stackConfig) (_ *stack, err error) {
	s := &stack{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop(context.WithoutCancel(ctx)))
		}
	}()
	if err = s.startStore(ctx, cfg); err != nil {
		return nil, err
	}
	if cfg.Claim != nil {
		claim := func(ctx context.Context) error { return cfg.Claim(ctx, s.store) }
		if err = steadily(ctx, func(string, ...any) {}, "look at the database", claim); err != nil {
			return nil, err
		}
	}
	if err = s.startBroker(ctx, cfg); err != nil {
		return nil, err
	}
	c, err := collector.Open(ctx, collector.Config{
		Conn: s.nc, Store: s.store, Partitions: collector.Partitions(broker.EmbeddedPartitions), Instance: "flopwatch", Log: cfg.Log,
		Linger:     200 * time.Millisecond,
		CheckEvery: -1, // a recording's verdict must not depend on how long a replay takes; flopwatch chain verify looks at its store
		Batch:      batch.Config{AcceptRecordedAvailability: cfg.RecordedAvailability},
	})
	if err != nil {
		return nil, fmt.Errorf("open collector: %w", err)
	}
	s.collector = c
	running, cancel := context.WithCancel(ctx)
	s.cancel = cancel
	s.work, running = errgroup.WithContext(running)
	s.work.Go(func() error { return c.Run(running) })
	return s, nil
}

func (s *stack) startStore(ctx context.Context, cfg stackConfig) error {
	at := store.Config{URL: cfg.ClickHouse, User: cfg.ClickHouseUser, Database: cfg.Database}
	if cfg.ClickHouse == "" {
		engine, err := startEngine(ctx, cfg)
		if err != nil {
			return err
		}
		s.stops = append(s.stops, engine.Stop)
		at.URL = engine.URL()
		at.User, at.Password = engine.Auth()
	} else if cfg.ClickHousePasswordFile != "" {
		password, err := os.ReadFile(cfg.ClickHousePasswordFile)
		if err != nil {
			return fmt.Errorf("read --clickhouse-password-file: %w", err)
		}
		at.Password = strings.TrimRight(string(password), "\r\n")
	}
	st, err := store.Open(ctx, at)
	switch {
	case errors.Is(err, store.ErrSignIn) && cfg.ClickHouse != "":
		return fmt.Errorf("%w (--clickhouse-user, --clickhouse-password-file)", err)
	case err != nil && cfg.ClickHouse != "":
		return fmt.Errorf("--clickhouse %s: %w", cfg.ClickHouse, err)
	case err != nil:
		return err
	}
	s.store = st
	s.stops = append(s.stops, func(context.Context) error { return st.Close() })
	if err := steadily(ctx, func(string, ...any) {}, "migrate", st.Migrate); err != nil {
		return fmt.Errorf("bring the schema up to date: %w", err)
	}
	return nil
}

func startEngine(ctx context.Context, cfg stackConfig) (*embedded.Server, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own binary: %w", err)
	}
	lib := cfg.Engine
	if lib == "" {
		if lib, err = embedded.FindLibrary(exe); err != nil {
			return nil, err
		}
	}
	engine, err := embedded.Start(ctx, embedded.Config{Exe: exe, LibPath: lib, DataDir: filepath.Join(cfg.DataDir, "clickhouse"), Logger: cfg.Log})
	if err != nil {
		return nil, fmt.Errorf("start the embedded clickhouse: %w", err)
	}
	return engine, nil
}

func (s *stack) startBroker(ctx context.Context, cfg stackConfig) error {
	at := broker.ConnectConfig{URL: cfg.NATS, Name: "flopwatch", CredsFile: cfg.NATSCreds, Log: cfg.Log}
	if cfg.NATS == "" {
		server, err := natsd.StartServer(ctx, natsd.ServerConfig{Dir: filepath.Join(cfg.DataDir, "nats"), Log: cfg.Log})
		if err != nil {
			return fmt.Errorf("start the embedded nats: %w", err)
		}
		s.stops = append(s.stops, server.Stop)
		at.URL = server.URL()
		at.Options = []nats.Option{server.InProcess()}
	}
	if cfg.NATSTokenFile != "" {
		token, err := os.ReadFile(cfg.NATSTokenFile)
		if err != nil {
			return fmt.Errorf("read --nats-token-file: %w", err)
		}
		at.Options = []nats.Option{nats.Token(strings.TrimSpace(string(token)))}
	}
	nc, err := broker.Connect(at)
	switch {
	case errors.Is(err, nats.ErrAuthorization) && cfg.NATS != "":
		return fmt.Errorf("sign in to nats at %s: %w (--nats-token-file, --nats-creds)", host(at.URL), err)
	case err != nil:
		return fmt.Errorf("nats at %s: %w", host(at.URL), err)
	}
	s.nc = nc
	s.stops = append(s.stops, func(context.Context) error { nc.Close(); return nil })
	if s.js, err = ship.JetStream(nc); err != nil {
		return err
	}
	if cfg.NATS != "" && !cfg.Resumed {
		if err := s.aloneOnNATS(ctx); err != nil {
			return fmt.Errorf("nats at %s: %w", host(at.URL), err)
		}
	}
	if err := broker.EnsureStreams(ctx, s.js, broker.StreamsConfig{}); err != nil {
		return fmt.Errorf("set up streams: %w", err)
	}
	return nil
}

// aloneOnNATS refuses a broker that carries flopwatch's streams already: its collector would
// take the replay's batches, or the replay's its.
func (s *stack) aloneOnNATS(ctx context.Context) error {
	names := s.js.StreamNames(ctx)
	for name := range names.Name() {
		if strings.HasPrefix(name, broker.StreamPrefix) {
			return fmt.Errorf("it has the stream %s already: a replay needs a NATS, or an account of one, of its own (a killed replay goes on there with its --data folder)", name)
		}
	}
	if err := names.Err(); err != nil {
		return fmt.Errorf("list streams: %w", err)
	}
	return nil
}

// stop ends the collector, then the servers in reverse order. It may be called twice.
func (s *stack) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var errs []error
	if s.cancel != nil {
		s.cancel()
		errs = append(errs, s.work.Wait())
		s.cancel = nil
	}
	for _, stop := range slices.Backward(s.stops) {
		errs = append(errs, stop(ctx))
	}
	s.stops = nil
	return errors.Join(errs...)
}
