package broker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Clock tells the broker's time: what a JetStream server said last about the time of its
// answer, and what has passed since by this host's monotonic clock. Whatever this host's
// wall clock says, and however silent the senders are, it goes on.
type Clock struct {
	read atomic.Pointer[reading]
}

type reading struct {
	brokerMs int64
	at       time.Time // when the answer was here, with its monotonic reading
}

// maxClockAge is how old the last answer may be: after it this host's clock may have drifted
// and the broker's may have been set.
const maxClockAge = 5 * time.Minute

// Ask asks the server that holds the bucket of leases for its time.
func (c *Clock) Ask(ctx context.Context, js jetstream.JetStream) error {
	s, err := js.Stream(ctx, "KV_"+BucketLease)
	if err != nil {
		return fmt.Errorf("ask the broker for its time: %w", err)
	}
	info := s.CachedInfo()
	if info.TimeStamp.IsZero() {
		return errors.New("ask the broker for its time: the server tells none, it is older than 2.10")
	}
	c.read.Store(&reading{info.TimeStamp.UnixMilli(), time.Now()})
	return nil
}

// Now is the broker's time in Unix milliseconds, never ahead of it by more than clocks drift
// in five minutes. ok is false where it was never told, or too long ago.
func (c *Clock) Now() (ms int64, ok bool) {
	r := c.read.Load()
	if r == nil {
		return 0, false
	}
	since := time.Since(r.at)
	return r.brokerMs + since.Milliseconds(), since <= maxClockAge
}
