package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/internal/broker"
)

// How the broker is tried again: quickly at first; slowly where it said no, since that
// needs a person.
const (
	retryFirst   = time.Second
	retryMax     = 15 * time.Second
	retryRefused = 30 * time.Second
	// sayAgain is how often the same trouble is logged.
	sayAgain = 10 * time.Minute
)

// link knows how the connection to the broker is, and says so in the log, once a change.
type link struct {
	lg    *slog.Logger
	creds string // the file that the broker judges; "": none

	mu      sync.Mutex // guards below
	up      bool
	since   time.Time // of up
	err     error     // why it is not up, or the last thing that the broker refused
	errAt   time.Time
	downs   uint64
	said    string
	saidAt  time.Time
	skipped int // lines not said since
}

// linkState is how the connection is now.
type linkState struct {
	Up    bool
	Since time.Time
	Err   error // the last trouble; nil: none lately
	Downs uint64
}

// fresh is how long a refusal by a broker that is up counts as trouble.
const fresh = 2 * time.Minute

func (l *link) state() linkState {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := linkState{Up: l.up, Since: l.since, Err: l.err, Downs: l.downs}
	if st.Up && time.Since(l.errAt) > fresh {
		st.Err = nil
	}
	return st
}

// refused says whether an error is the broker's no to who we are.
func refused(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrAccountAuthExpired) ||
		err != nil && strings.Contains(strings.ToLower(err.Error()), "authorization violation")
}

// trouble notes an error and logs it, if it is news.
func (l *link) trouble(err error, subject string) {
	l.mu.Lock()
	l.err, l.errAt = err, time.Now()
	if !l.up && errors.Is(err, nats.ErrNoServers) {
		l.mu.Unlock() // it sums up the first attempt: the next, within a second, says what is wrong
		return
	}
	say := l.said != err.Error() || time.Since(l.saidAt) >= sayAgain
	skipped := l.skipped
	if say {
		l.said, l.saidAt, l.skipped = err.Error(), time.Now(), 0
	} else {
		l.skipped++
	}
	up := l.up
	l.mu.Unlock()
	if !say {
		return
	}
	attrs := []slog.Attr{slog.Any("err", err)}
	if skipped > 0 {
		attrs = append(attrs, slog.Int("not_said", skipped))
	}
	switch {
	case refused(err):
		if l.creds != "" {
			attrs = append(attrs, slog.String("credentials", l.creds))
		}
		l.lg.LogAttrs(context.Background(), slog.LevelError, "the broker refuses this agent's credentials; samples stay in the spool", attrs...)
	case !up:
		l.lg.LogAttrs(context.Background(), slog.LevelWarn, "the broker is away; samples stay in the spool", attrs...)
	default:
		if subject != "" {
			attrs = append(attrs, slog.String("subject", subject))
		}
		l.lg.LogAttrs(context.Background(), slog.LevelWarn, "broker connection error", attrs...)
	}
}

func (l *link) connected() {
	l.mu.Lock()
	l.up, l.since, l.err, l.said = true, time.Now(), nil, ""
	l.mu.Unlock()
	l.lg.LogAttrs(context.Background(), slog.LevelInfo, "connected to the broker")
}

func (l *link) lost(err error) {
	l.mu.Lock()
	was := l.up
	if was {
		l.up, l.since = false, time.Now()
		l.downs++
	}
	l.mu.Unlock()
	if err != nil {
		l.trouble(err, "")
	}
}

// wait is how long to wait before the n-th attempt, 1 the first.
func (l *link) wait(n int) time.Duration {
	l.mu.Lock()
	err := l.err
	l.mu.Unlock()
	d := retryMax
	if refused(err) {
		d = retryRefused
	} else if n < 5 {
		d = min(retryMax, retryFirst<<max(0, n-1))
	}
	return d/2 + time.Duration(rand.Int64N(int64(d))) // a fleet does not come back at once
}

// connect returns a connection that may not be there yet: it comes when the broker does.
// An error is in the configuration.
func connect(cfg natsConfig, node string, lg *slog.Logger) (*nats.Conn, *link, error) {
	l := &link{lg: lg, since: time.Now()}
	for _, f := range []string{cfg.CredsFile, cfg.NKeyFile, cfg.TokenFile} {
		if f != "" {
			l.creds = f
		}
	}
	nc, err := broker.Connect(broker.ConnectConfig{
		URL: cfg.URL, Name: "flopwatch-agent " + node, CredsFile: cfg.CredsFile, NKeyFile: cfg.NKeyFile, TokenFile: cfg.TokenFile, InboxPrefix: cfg.InboxPrefix,
		RootCAFile: cfg.RootCAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile,
		Options: []nats.Option{
			nats.RetryOnFailedConnect(true),
			nats.IgnoreAuthErrorAbort(), // credentials may be mended while the agent runs
			nats.CustomReconnectDelay(l.wait),
			nats.ConnectHandler(func(*nats.Conn) { l.connected() }),
			nats.ReconnectHandler(func(*nats.Conn) { l.connected() }),
			nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { l.lost(err) }),
			nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { l.trouble(err, "") }),
			nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
				subject := ""
				if sub != nil {
					subject = sub.Subject
				}
				l.trouble(err, subject)
			}),
		},
	})
	if err != nil {
		return nil, nil, err // it says what failed
	}
	return nc, l, nil
}

// shipper is a ship that does not wait for a broker which is known to be away.
type shipper struct {
	*ship.Ship
	nc *nats.Conn
}

// Drain waits until all frames are committed, or for ctx.
func (s shipper) Drain(ctx context.Context) error {
	if !s.nc.IsConnected() {
		return errors.New("the broker is away")
	}
	if err := s.Ship.Drain(ctx); err != nil {
		return fmt.Errorf("wait for the collector: %w", err)
	}
	return nil
}
