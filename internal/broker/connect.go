package broker

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

// ConnectConfig says how to reach a broker. URL is needed.
type ConnectConfig struct {
	URL string
	// Name shows in the broker's monitoring.
	Name string
	// CredsFile holds the client's JWT and key; RootCAFile, CertFile and KeyFile are for TLS.
	// All are paths, and "" means without.
	CredsFile, RootCAFile, CertFile, KeyFile string
	// Log gets disconnects and asynchronous errors; nil: nobody does.
	Log *slog.Logger
	// Options come last, for tests and for InProcess.
	Options []nats.Option
}

// Connect connects and stays connected: the connection reconnects for ever. While it is
// away, publishing is an error at once and nothing is kept in memory, since spools keep.
// The caller closes it.
func Connect(cfg ConnectConfig) (*nats.Conn, error) {
	lg := cfg.Log
	if lg == nil {
		lg = slog.New(slog.DiscardHandler)
	}
	opts := []nats.Option{
		nats.Name(cfg.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Second),
		nats.ReconnectJitter(time.Second, time.Second),
		nats.ReconnectBufSize(-1),
		nats.Timeout(5 * time.Second),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				lg.LogAttrs(context.Background(), slog.LevelWarn, "broker connection lost", slog.Any("err", err))
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			lg.LogAttrs(context.Background(), slog.LevelInfo, "broker connection is back")
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			attrs := []slog.Attr{slog.Any("err", err)}
			if sub != nil {
				attrs = append(attrs, slog.String("subject", sub.Subject))
			}
			lg.LogAttrs(context.Background(), slog.LevelWarn, "broker connection error", attrs...)
		}),
	}
	if cfg.CredsFile != "" {
		opts = append(opts, nats.UserCredentials(cfg.CredsFile))
	}
	if cfg.RootCAFile != "" {
		opts = append(opts, nats.RootCAs(cfg.RootCAFile))
	}
	if cfg.CertFile != "" {
		opts = append(opts, nats.ClientCert(cfg.CertFile, cfg.KeyFile))
	}
	nc, err := nats.Connect(cfg.URL, append(opts, cfg.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to broker: %w", err)
	}
	return nc, nil
}
