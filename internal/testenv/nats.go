package testenv

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/broker/natsd"
)

// NATS starts a broker in this process, on a random port and a directory of its own, and
// connects to it. Both end with the test. There are no streams yet: call
// broker.EnsureStreams.
func NATS(tb testing.TB) (nc *nats.Conn, url string) {
	tb.Helper()
	s := NATSServer(tb, tb.TempDir())
	nc, err := broker.Connect(broker.ConnectConfig{URL: s.URL(), Name: tb.Name()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	return nc, s.URL()
}

// NATSServer starts a broker on a directory, which may hold streams of an earlier one. It
// ends with the test, if the test has not stopped it.
func NATSServer(tb testing.TB, dir string) *natsd.Server {
	tb.Helper()
	s, err := natsd.StartServer(tb.Context(), natsd.ServerConfig{Dir: dir})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if serr := s.Stop(ctx); serr != nil {
			tb.Error(serr)
		}
	})
	return s
}
