// Command flopwatch-detector judges what the store has, minute by minute, as it comes.
//
//	flopwatch-detector -config FILE          run until SIGINT or SIGTERM
//	flopwatch-detector -config FILE -check   check the file, print its digest, exit
//	flopwatch-detector -print-config         print a configuration with every key, its default and meaning
//	flopwatch-detector -version
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/internal/daemon"
)

func main() {
	os.Exit(daemon.Main("flopwatch-detector", os.Stderr, func(ctx context.Context) error {
		return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	line, done, err := daemon.ParseLine("flopwatch-detector", "-config FILE [-check]", defaultFile, args, stdout, stderr, nil)
	if done || err != nil {
		return err
	}
	cfg, digest, err := loadConfig(line.Config)
	if err != nil {
		return daemon.UsageError{Err: err}
	}
	d, err := newLeader(cfg)
	if err != nil {
		return daemon.UsageError{Err: err}
	}
	if line.Check {
		return daemon.Print(stdout, digest+"\n")
	}
	level := new(slog.LevelVar)
	level.Set(cfg.Log.Level)
	if d.lg, err = daemon.Logger(stderr, cfg.Log.Format, level); err != nil {
		return daemon.UsageError{Err: err}
	}
	d.lg.LogAttrs(ctx, slog.LevelInfo, "detecting", slog.String("build", daemon.ReadBuild().String()), slog.String("config_digest", digest), slog.String("cluster", cfg.Cluster),
		slog.String("verdict_digest", d.judging.ConfigDigest))
	err = d.serve(ctx)
	d.lg.LogAttrs(context.WithoutCancel(ctx), slog.LevelInfo, "stopped")
	return err // it says what failed
}

// serve answers for the detector and leads, until ctx ends.
func (d *leader) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if d.cfg.Metrics.Listen != "" {
		ln, err := daemon.Listen(ctx, d.cfg.Metrics.Listen)
		if err != nil {
			return fmt.Errorf("metrics.listen: %w", err)
		}
		registry := prometheus.NewRegistry()
		if err = registry.Register(d.metrics()); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
		g.Go(func() error { return daemon.Serve(ctx, ln, registry, d.health) })
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-hup:
				d.reload(ctx)
			}
		}
	})
	g.Go(func() error { return d.run(ctx) })
	return g.Wait() // each names what it did
}
