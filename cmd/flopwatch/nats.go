package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/internal/broker/natsd"
)

// serverStop bounds the stop of the embedded broker.
const serverStop = 15 * time.Second

// newNATSCommand builds `flopwatch nats`, which `flopwatch up` starts as a child.
func newNATSCommand() *cobra.Command {
	var dir, tokenFile string
	var port int
	var watch bool
	cmd := &cobra.Command{
		Use:    "nats --data DIR --port N --token-file FILE",
		Short:  "Serve the embedded NATS broker on loopback",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" || tokenFile == "" || port <= 0 {
				return usageError{Err: errors.New("--data DIR, --port N and --token-file FILE are required")}
			}
			ctx, stop := untilStdinEnds(cmd.Context(), cmd.InOrStdin(), watch)
			defer stop()
			return serveNATS(ctx, dir, tokenFile, port, textLog(cmd.ErrOrStderr()))
		},
	}
	f := cmd.Flags()
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
	<-ctx.Done()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), serverStop)
	defer cancel()
	return s.Stop(stopping)
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
