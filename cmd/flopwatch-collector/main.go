// Command flopwatch-collector takes batches from NATS JetStream to ClickHouse.
//
//	flopwatch-collector -config FILE          run until SIGINT or SIGTERM; SIGHUP changes nothing
//	flopwatch-collector -config FILE -check   check the file, print its digest, exit; notes on files that it names go to stderr
//	flopwatch-collector -print-config         print a configuration with every key, its default and meaning
//	flopwatch-collector -version
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/store"
)

func main() {
	os.Exit(daemon.Main("flopwatch-collector", os.Stderr, func(ctx context.Context) error {
		return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	line, done, err := daemon.ParseLine("flopwatch-collector", "-config FILE [-check]", defaultFile, args, stdout, stderr, nil)
	if done || err != nil {
		return err
	}
	cfg, digest, err := loadConfig(line.Config)
	if err != nil {
		return daemon.UsageError{Err: err}
	}
	if line.Check {
		for _, note := range cfg.files() {
			_, _ = fmt.Fprintln(stderr, "note: "+note) // stderr is all there is
		}
		return daemon.Print(stdout, digest+"\n")
	}
	var level slog.LevelVar
	if err = level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return daemon.UsageError{Err: fmt.Errorf("log level: %w", err)}
	}
	lg, err := daemon.Logger(stderr, cfg.Log.Format, &level)
	if err != nil {
		return daemon.UsageError{Err: err}
	}
	defer heed(ctx, lg)()
	return collect(ctx, cfg, digest, lg)
}

// heed answers SIGHUP, which would end the process: nothing of a collector's configuration
// changes while it runs.
func heed(ctx context.Context, lg *slog.Logger) (stop func()) {
	hup, ended := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hup, syscall.SIGHUP)
	go func() { // ends with stop
		defer close(ended)
		for range hup {
			lg.LogAttrs(ctx, slog.LevelWarn, "SIGHUP changes nothing: restart the collector to take up its configuration")
		}
	}()
	return func() {
		signal.Stop(hup) // from here on nothing is sent
		close(hup)
		<-ended
	}
}

// collect wires and runs; what it opens it closes, in the order last in, first out.
func collect(ctx context.Context, cfg config, digest string, lg *slog.Logger) (err error) {
	if cfg.Store.Password, err = readSecret(cfg.PasswordFile); err != nil {
		return err
	}
	w := new(watch)
	stop, err := w.serve(ctx, cfg.Metrics.Listen)
	if err != nil {
		return err // it names the address
	}
	defer func() { err = errors.Join(err, stop()) }()
	s, err := store.Open(ctx, cfg.Store)
	if err != nil {
		return err // it names what it opened
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if cfg.Migrate {
		if err = s.Migrate(ctx); store.Denied(err) {
			return fmt.Errorf("%w: let a user who may make tables run flopwatch store migrate, and set migrate = false; see deploy/clickhouse/README.md", err)
		} else if err != nil {
			return err // it names the migration
		}
		changed, rerr := s.Retain(ctx, cfg.Retention)
		if rerr != nil {
			return rerr // it names the table
		}
		if changed != nil {
			lg.LogAttrs(ctx, slog.LevelInfo, "retention changed", slog.Any("tables", changed))
		}
	}
	if !cfg.Migrate {
		if err = s.HasTables(ctx); store.Denied(err) {
			return err // it says what this user may not read
		} else if err != nil {
			return fmt.Errorf("%w: with migrate = false somebody else makes the tables: flopwatch store migrate", err)
		}
	}
	nc, err := broker.Connect(broker.ConnectConfig{
		URL: cfg.NATS.URL, Name: "flopwatch-collector", CredsFile: cfg.NATS.CredsFile, RootCAFile: cfg.NATS.RootCAFile,
		CertFile: cfg.NATS.CertFile, KeyFile: cfg.NATS.KeyFile, NKeyFile: cfg.NATS.NKeyFile, TokenFile: cfg.NATS.TokenFile, InboxPrefix: cfg.NATS.InboxPrefix, Log: lg,
	})
	if err != nil {
		return err // it says what failed
	}
	defer nc.Close()
	w.connected(nc)
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("open jetstream: %w", err)
	}
	if err = broker.EnsureStreams(ctx, js, broker.StreamsConfig{Partitions: cfg.NATS.Partitions, Replicas: cfg.NATS.Replicas, MaxBytes: cfg.NATS.StreamMaxBytes, LeaseTTL: cfg.NATS.LeaseTTL}); err != nil {
		return err // it names the stream
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name this collector: %w", err)
	}
	checkEvery := time.Hour
	if !cfg.CheckChains {
		checkEvery = -1
	}
	c, err := collector.Open(ctx, collector.Config{
		CheckEvery: checkEvery,
		Conn:       nc, Store: s, Partitions: collector.Partitions(cfg.NATS.Partitions), Instance: fmt.Sprintf("%s/%d", host, os.Getpid()), Log: lg,
		MaxMessages: cfg.MaxMessages, MaxBytes: cfg.MaxBytes, Linger: cfg.Linger, MaxLinger: cfg.MaxLinger, Parallel: cfg.Parallel,
		Quarantine: batch.Limits{Messages: cfg.QuarantineMessages, Bytes: cfg.QuarantineBytes},
		Batch:      batch.Config{MaxAheadMs: cfg.MaxAhead.Milliseconds(), MaxBehindMs: cfg.MaxBehind.Milliseconds()},
	})
	if err != nil {
		return err // it says what failed
	}
	w.collecting(c, s)
	lg.LogAttrs(ctx, slog.LevelInfo, "collecting", slog.String("build", daemon.ReadBuild().String()), slog.String("config_digest", digest), slog.Int("partitions", cfg.NATS.Partitions))
	err = c.Run(ctx)
	st := c.Stats()
	lg.LogAttrs(context.WithoutCancel(ctx), slog.LevelInfo, "stopped", slog.Uint64("rows", st.Rows), slog.Uint64("batches", st.Batches),
		slog.Uint64("repeats", st.Repeats), slog.Uint64("quarantined", st.Quarantined))
	return err // it says what failed
}
