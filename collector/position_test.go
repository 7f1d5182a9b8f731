package collector

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestStaleEpochIsRefused: whoever held a partition before can write neither an intent nor an end
// once another has taken over, whatever it has read.
func TestStaleEpochIsRefused(t *testing.T) {
	nc, _ := testenv.NATS(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{}); err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), broker.BucketCursor)
	if err != nil {
		t.Fatal(err)
	}
	open := func() *positionKey {
		p, err := loadPosition(t.Context(), kv, broker.NodeStream(0))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	set := func(p *positionKey, pos position) error { return p.set(t.Context(), pos) }
	first := open()
	late := open() // has read the same, and is stopped before it writes
	if err = errors.Join(set(first, position{Epoch: 7}), set(first, position{From: 1, To: 10, Epoch: 7})); err != nil {
		t.Fatal(err)
	}
	if err = set(late, position{Epoch: 6}); !errors.Is(err, broker.ErrLeaseLost) {
		t.Errorf("a takeover that came late: %v", err)
	}
	second := open()
	if second.pos != (position{From: 1, To: 10, Epoch: 7}) {
		t.Errorf("the one that takes over finds %+v", second.pos)
	}
	if err = set(second, position{From: 1, To: 10, Epoch: 8}); err != nil {
		t.Fatal(err)
	}
	for what, pos := range map[string]position{"an intent": {From: 11, To: 20, Epoch: 7}, "an end": {Done: 10, Epoch: 7}} {
		if err = set(first, pos); !errors.Is(err, broker.ErrLeaseLost) {
			t.Errorf("%s of the one before: %v", what, err)
		}
	}
	if err = set(second, position{Done: 10, Epoch: 8}); err != nil {
		t.Error(err)
	}
	if got := open().pos; got != (position{Done: 10, Epoch: 8}) {
		t.Errorf("it ends as %+v", got)
	}
}
