package broker_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestSharesLook: the same over a real bucket, with holders who know nothing of sharing.
func TestSharesLook(t *testing.T) {
	ctx := t.Context()
	nc, _ := testenv.NATS(t)
	js := stream(t, nc)
	if err := broker.EnsureStreams(ctx, js, broker.StreamsConfig{LeaseTTL: time.Second}); err != nil {
		t.Fatal(err)
	}
	kv, ttl, err := broker.OpenLeases(ctx, js)
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{"collector-0", "collector-1", "collector-2", "collector-3"}
	open := func(name string) *broker.Shares {
		s, err := broker.OpenShares(ctx, js, "collector", name, keys)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b := open("host/1"), open("host/1") // two containers may say the same of themselves
	look := func(s *broker.Shares, held ...string) broker.Turns {
		turns, err := s.Look(ctx, held)
		if err != nil || s.Joined() != nil {
			t.Fatal(err, s.Joined())
		}
		return turns
	}
	if got := look(a); !slices.Equal(got.Take, keys) || got.Members != 1 {
		t.Errorf("alone: %+v", got)
	}
	if got := look(b); len(got.Take) != 2 || got.Members != 2 {
		t.Errorf("two: %+v", got)
	}
	// A collector of before, which holds what it gets.
	if _, ok, err := broker.TryLease(ctx, kv, keys[0], "old/7", ttl); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, ok, err := broker.TryLease(ctx, kv, keys[0], a.Holder(), ttl); ok || err != nil {
		t.Error(ok, err)
	}
	if got := look(a); slices.Contains(got.Take, keys[0]) || got.Members != 3 {
		t.Errorf("beside an old one: %+v", got)
	}
	if err := b.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	if got := look(a); got.Members != 2 {
		t.Errorf("one left: %+v", got)
	}
	if got := look(a, keys[1], keys[2], keys[3]); len(got.Take) != 0 || got.Members != 2 {
		t.Errorf("with three of its own: %+v", got)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := a.Look(canceled, nil); err == nil {
		t.Error("looked without a broker")
	}
}
