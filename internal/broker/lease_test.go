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

// deaf is a bucket whose answer to an update is lost, once.
type deaf struct {
	jetstream.KeyValue
	lost    chan struct{} // gets the moment when it was
	instead string        // what somebody else has put there meanwhile; "": nobody has
}

func (d *deaf) Update(ctx context.Context, key string, value []byte, last uint64) (uint64, error) {
	rev, err := d.KeyValue.Update(ctx, key, value, last)
	select {
	case d.lost <- struct{}{}:
		if d.instead != "" {
			if rev, err = d.Put(ctx, key, []byte(d.instead)); err != nil {
				return rev, err
			}
		}
		return 0, context.DeadlineExceeded
	default:
		return rev, err
	}
}

// TestLostAnswer: a renewal that was stored and whose answer was lost is still the holder's; one
// over which somebody else has written is not.
func TestLostAnswer(t *testing.T) {
	nc, _ := testenv.NATS(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	const ttl = 3 * time.Second
	if err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{LeaseTTL: ttl}); err != nil {
		t.Fatal(err)
	}
	kv, _, err := broker.OpenLeases(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	for name, instead := range map[string]string{"mine": "", "another": "me"} { // a name alone says nothing
		d := &deaf{KeyValue: kv, lost: make(chan struct{}, 1), instead: instead}
		lease, err := broker.AcquireLease(t.Context(), d, name, "me", ttl)
		if err != nil {
			t.Fatal(err)
		}
		keeping, stop := context.WithTimeout(t.Context(), 3*ttl)
		defer stop()
		err = lease.Keep(keeping)
		if len(d.lost) != 1 {
			t.Fatalf("%s: no answer was lost", name)
		}
		if instead == "" && (err != nil || lease.Held() != nil) {
			t.Errorf("%s: %v, %v", name, err, lease.Held())
		}
		if instead != "" && !errors.Is(err, broker.ErrLeaseLost) {
			t.Errorf("%s: %v", name, err)
		}
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
