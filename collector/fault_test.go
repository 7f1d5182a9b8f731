package collector_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// TestBrokerNumbersAnew: the broker comes back without its streams. Other batches arrive
// under sequences that were used before, some known ones come again.
func TestBrokerNumbersAnew(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.collector(t, "one", nil)
	start(t, c)
	send := func(from, to uint64) {
		for s := from; s <= to; s++ {
			w, frame := newFrame(t, 0, s, nil)
			b.publish(t, w, frame)
		}
		idle(t, c)
	}
	send(1, 5)
	if err := b.js.DeleteStream(t.Context(), broker.NodeStream(0)); err != nil {
		t.Fatal(err)
	}
	if err := broker.EnsureStreams(t.Context(), b.js, broker.StreamsConfig{LeaseTTL: leaseTTL}); err != nil {
		t.Fatal(err)
	}
	for s := uint64(4); s <= 9; s++ { // stream sequences 1 to 6, two batches known
		w, frame := newFrame(t, 0, s, nil)
		b.publish(t, w, frame)
	}
	idle(t, c)
	wantRows(t, b.store, 9)
}

// TestPausedHolder stops a collector in the middle of its work for longer than its lease
// lives; another takes over; the first wakes and must do no harm.
func TestPausedHolder(t *testing.T) {
	t.Parallel()
	b, _, cfg := newOwnEngine(t, "paused")
	s := b.store
	const sequences = 60
	for q := uint64(1); q <= sequences; q++ {
		w, frame := newFrame(t, 0, q, nil)
		if _, err := b.js.Publish(t.Context(), wire.BatchSubject(w), frame, jetstream.WithMsgID(fmt.Sprint(q))); err != nil {
			t.Fatal(err)
		}
	}
	first := childCommand(t, cfg)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = first.Process.Kill() // if the test went wrong before
		_ = first.Wait()
	})
	for { // until it has stored a range
		raw, _, err := s.Count(t.Context(), store.TableBatches)
		if err != nil {
			t.Fatal(err)
		}
		if raw > 0 {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	if err := first.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	second := b.collector(t, "second", nil)
	start(t, second)
	idle(t, second)
	if err := first.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for q := uint64(sequences + 1); q <= sequences+5; q++ {
		w, frame := newFrame(t, 0, q, nil)
		b.publish(t, w, frame)
		<-time.After(100 * time.Millisecond)
	}
	idle(t, second)
	if got := second.Stats().Batches; got == 0 || got > sequences+5 {
		t.Errorf("the second took %d batches", got)
	}
	wantRows(t, s, sequences+5)
}
