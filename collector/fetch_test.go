package collector

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestFetchWaitsOnce: what came while the range before was stored has waited enough, and is taken at once and
// whole; what comes after a pause waits for linger, counted from when it was looked for first.
func TestFetchWaitsOnce(t *testing.T) {
	t.Parallel()
	nc, _ := testenv.NATS(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	consumer, err := js.CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: -1})
	if err != nil {
		t.Fatal(err)
	}
	send := func(n int) {
		for range n {
			if _, err := js.Publish(t.Context(), "s", make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
		}
	}
	w := worker{c: &Collector{cfg: Config{MaxMessages: 10_000, MaxBytes: 64 << 20}}, partition: Partition{Stream: "S"}, consumer: consumer, linger: time.Hour}
	if w.puller, err = newPuller(nc, "S", "c"); err != nil {
		t.Fatal(err)
	}
	defer w.puller.close()

	const n = 2*chunkMessages + 7
	send(n)
	w.taken = time.Now().Add(-2 * time.Hour) // when the range before was complete, which then took two hours to store
	msgs, err := w.fetch(t.Context(), 0)
	if err != nil || len(msgs) != n {
		t.Fatalf("%d messages, want %d: %v", len(msgs), n, err)
	}
	if time.Since(w.taken) > time.Minute {
		t.Errorf("taken %s", w.taken)
	}

	// Half of linger has passed with nothing to take: the other half is waited for, and no more.
	w.linger = 2 * time.Second
	w.taken = time.Now().Add(-w.linger / 2)
	began := w.taken
	send(1)
	if msgs, err = w.fetch(t.Context(), 0); err != nil || len(msgs) != 1 {
		t.Fatalf("%d messages: %v", len(msgs), err)
	}
	if w.taken.Sub(began) < w.linger { // no bound above: the machine may be slow
		t.Errorf("taken after %s", w.taken.Sub(began))
	}
}
