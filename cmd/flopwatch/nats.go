package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/internal/broker/natsd"
)

// serverStop bounds the stop of the embedded broker.
const serverStop = 15 * time.Second

// newNATSCommand builds `flopwatch nats`: a fleet's server, or the embedded one, which
// `flopwatch up` starts as a child.
func newNATSCommand() *cobra.Command {
	var config, dir, tokenFile string
	var port int
	var watch bool
	cmd := &cobra.Command{
		Use:   "nats --config FILE",
		Short: "Serve NATS for a fleet, alone or as one of a cluster",
		Long: `nats serves NATS with JetStream as a configuration file in nats-server's language says;
flopwatch nats-user makes one. SIGHUP takes up changed users, SIGTERM stops it.

flopwatch nats --data DIR --port N --token-file FILE serves on the loopback address alone,
without a configuration.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			embedded := dir != "" || tokenFile != "" || port != 0
			switch {
			case config != "" && embedded:
				return usageError{Err: errors.New("--config FILE says all: no --data, --port or --token-file beside it")}
			case config == "" && (dir == "" || tokenFile == "" || port <= 0):
				return usageError{Err: errors.New("--config FILE, or all of --data DIR, --port N and --token-file FILE, are required")}
			}
			ctx, stop := untilStdinEnds(cmd.Context(), cmd.InOrStdin(), watch)
			defer stop()
			if config != "" {
				return serveFleetNATS(ctx, config, textLog(cmd.ErrOrStderr()))
			}
			return serveNATS(ctx, dir, tokenFile, port, textLog(cmd.ErrOrStderr()))
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, "config", "", "`file` in nats-server's language")
	f.StringVar(&dir, "data", "", "folder for the streams, created if missing")
	f.IntVar(&port, "port", 0, "port on the loopback address")
	f.StringVar(&tokenFile, "token-file", "", "file with the token that clients have to show")
	f.BoolVar(&watch, "watch-stdin", false, "stop when stdin ends")
	return cmd
}

// serveNATS serves until ctx ends.
func serveNATS(ctx context.Context, dir, tokenFile string, port int, lg *slog.Logger) error {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return fmt.Errorf("read broker token: %w", err)
	}
	cfg := natsd.ServerConfig{Dir: dir, Port: port, Token: strings.TrimSpace(string(token)), Log: lg}
	if cfg.Token == "" {
		return fmt.Errorf("read broker token: %s is empty", tokenFile)
	}
	s, err := natsd.StartServer(ctx, cfg)
	if err != nil {
		return err
	}
	lg.LogAttrs(ctx, slog.LevelInfo, "broker ready", slog.Int("port", port), slog.String("data", dir))
	var full error // who keeps it running starts it again
	select {
	case <-ctx.Done():
	case full = <-s.WasFull():
	}
	return stopNATS(ctx, s, full)
}

// stopNATS stops a server for a reason; nil: it was told to.
func stopNATS(ctx context.Context, s *natsd.Server, why error) error {
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), serverStop)
	defer cancel()
	return errors.Join(why, s.Stop(stopping))
}

// serveFleetNATS serves what a configuration file says until ctx ends.
func serveFleetNATS(ctx context.Context, config string, lg *slog.Logger) error {
	s, err := natsd.StartFile(ctx, config, lg)
	if err != nil {
		return err // it names the file
	}
	lg.LogAttrs(ctx, slog.LevelInfo, "broker ready", slog.String("server", s.Name()), slog.String("config", config))
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return stopNATS(ctx, s, nil)
		case full := <-s.WasFull():
			return stopNATS(ctx, s, full) // whoever keeps it running starts it again
		case <-hup:
			if err := s.Reload(); err != nil {
				lg.LogAttrs(ctx, slog.LevelError, "the configuration was not taken up; the old one holds", slog.Any("err", err))
			} else {
				lg.LogAttrs(ctx, slog.LevelInfo, "configuration taken up")
			}
		}
	}
}

// untilStdinEnds is ctx, ended also, if watch, when stdin ends, as it does when the parent
// dies. The goroutine that reads ends with stdin, or with the process.
func untilStdinEnds(ctx context.Context, stdin io.Reader, watch bool) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if watch {
		go func() {
			_, _ = io.Copy(io.Discard, stdin) // the end is all that matters
			cancel()
		}()
	}
	return ctx, cancel
}

// textLog is the log of a child.
func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
