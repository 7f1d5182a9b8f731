package broker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestLease: one holder at a time, rising epochs, and a holder that was asleep knows it.
func TestLease(t *testing.T) {
	nc, _ := testenv.NATS(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{LeaseTTL: time.Second}); err != nil {
		t.Fatal(err)
	}
	kv, ttl, err := broker.OpenLeases(t.Context(), js)
	if err != nil || ttl != time.Second {
		t.Fatalf("leases live %s, %v", ttl, err)
	}
	first, err := broker.AcquireLease(t.Context(), kv, "x", "a", ttl)
	if err != nil {
		t.Fatal(err)
	}
	if err = first.Held(); err != nil {
		t.Errorf("just taken: %v", err)
	}
	// Kept for longer than it lives without.
	keeping, stop := context.WithTimeout(t.Context(), 2*ttl)
	defer stop()
	if err = first.Keep(keeping); err != nil {
		t.Errorf("keep: %v", err)
	}
	if err = first.Held(); err != nil {
		t.Errorf("kept: %v", err)
	}
	// Nobody renews it any more: another gets it, the first knows without asking, and cannot
	// take it back.
	second, err := broker.AcquireLease(t.Context(), kv, "x", "b", ttl)
	if err != nil {
		t.Fatal(err)
	}
	if second.Epoch() <= first.Epoch() {
		t.Errorf("epochs %d, then %d", first.Epoch(), second.Epoch())
	}
	if err = first.Held(); !errors.Is(err, broker.ErrLeaseLost) {
		t.Errorf("held by another: %v", err)
	}
	if err = first.Keep(t.Context()); !errors.Is(err, broker.ErrLeaseLost) {
		t.Errorf("keep what another holds: %v", err)
	}
	if err = first.Release(t.Context()); err != nil {
		t.Errorf("release what another holds: %v", err)
	}
	if err = second.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err = broker.AcquireLease(t.Context(), kv, "x", "c", time.Hour); err != nil { // at once: it was given back
		t.Error(err)
	}
}

// TestClock: the broker's time is near this host's, which is the broker's here, and goes on
// without asking again.
func TestClock(t *testing.T) {
	nc, _ := testenv.NATS(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var c broker.Clock
	if err = c.Ask(t.Context(), js); err == nil {
		t.Error("asked a broker without streams")
	}
	if _, ok := c.Now(); ok {
		t.Error("a time that nobody told")
	}
	if err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{}); err != nil {
		t.Fatal(err)
	}
	before := time.Now().UnixMilli()
	if err = c.Ask(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	ms, ok := c.Now()
	if after := time.Now().UnixMilli(); !ok || ms < before-1 || ms > after+(after-before)+1 {
		t.Errorf("%d, %v, between %d and %d", ms, ok, before, after)
	}
	again, ok := c.Now()
	if !ok || again < ms {
		t.Errorf("%d after %d, %v", again, ms, ok)
	}
}
