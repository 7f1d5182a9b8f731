package broker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
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
	// NKeyFile holds the seed of the client's nkey; TokenFile a token. "" means without.
	NKeyFile, TokenFile string
	// InboxPrefix is where answers come, for who may not subscribe to all inboxes; "": _INBOX.
	InboxPrefix string
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
	if cfg.NKeyFile != "" {
		key, err := nats.NkeyOptionFromSeed(cfg.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("read nkey seed %s: %w", cfg.NKeyFile, err)
		}
		opts = append(opts, key)
	}
	if cfg.TokenFile != "" {
		token, err := os.ReadFile(cfg.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("read broker token: %w", err)
		}
		opts = append(opts, nats.Token(strings.TrimSpace(string(token))))
	}
	if cfg.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(cfg.InboxPrefix))
	}
	nc, err := nats.Connect(cfg.URL, append(opts, cfg.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to broker %s: %w", hosts(cfg.URL), err)
	}
	return nc, nil
}

// hosts is a URL without what a token or a password in it would tell.
func hosts(urls string) string {
	all := strings.Split(urls, ",")
	for i, u := range all {
		u = strings.TrimSpace(u)
		if at := strings.LastIndexByte(u, '@'); at >= 0 {
			scheme, _, _ := strings.Cut(u, "://")
			u = scheme + "://" + u[at+1:]
		}
		all[i] = u
	}
	return strings.Join(all, ",")
}
