package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// TestTroubleIsSaidOnce: a broker that is away is one line, which names what is wrong.
func TestTroubleIsSaidOnce(t *testing.T) {
	t.Parallel()
	var log buffer
	l := &link{lg: slog.New(slog.NewTextHandler(&log, nil))}
	dial := errors.New("dial tcp 127.0.0.1:4222: connect: connection refused")
	l.trouble(fmt.Errorf("first: %w", nats.ErrNoServers), "")
	if st := l.state(); st.Err == nil {
		t.Error("health does not hear of it")
	}
	l.trouble(dial, "")
	l.trouble(dial, "")
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "connection refused") || strings.Contains(got, "not_said") {
		t.Errorf("log:\n%s", got)
	}
	l.connected()
	l.trouble(nats.ErrNoServers, "") // while there is one it is news
	if got := log.String(); strings.Count(got, "\n") != 3 {
		t.Errorf("log:\n%s", got)
	}
}
