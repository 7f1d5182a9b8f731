package chaos

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// tap hears what agents publish, so that it can be published again.
type tap struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	sub *nats.Subscription

	mu   sync.Mutex
	kept []*nats.Msg
}

const tapKeeps = 600

func openTap(nc *nats.Conn) (*tap, error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("open tap: %w", err)
	}
	t := &tap{nc: nc, js: js}
	if t.sub, err = nc.Subscribe("flopwatch.v1.*."+cluster+".*", func(m *nats.Msg) {
		if m.Header.Get(marked) != "" || strings.HasPrefix(m.Subject, "flopwatch.v1.commit.") {
			return // our own, and the collectors'
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.kept = append(t.kept, m); len(t.kept) > tapKeeps {
			t.kept = t.kept[1:]
		}
	}); err != nil {
		return nil, fmt.Errorf("open tap: %w", err)
	}
	return t, nil
}

// marked is a header of what the suite itself publishes.
const marked = "Chaos"

func (t *tap) close() { _ = t.sub.Unsubscribe() } // the connection ends next

// recent returns the last messages, oldest first.
func (t *tap) recent(n int) []*nats.Msg {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]*nats.Msg(nil), t.kept[max(0, len(t.kept)-n):]...)
}
