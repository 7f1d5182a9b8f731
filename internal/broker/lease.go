package broker

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrLeaseLost says that somebody else may hold the lease now.
var ErrLeaseLost = errors.New("lease lost")

// Lease is the right to do something alone: a key that only its holder renews and that
// expires without. Its methods may be used by several goroutines; Keep by one.
type Lease struct {
	kv    jetstream.KeyValue
	key   string
	value []byte
	epoch uint64
	ttl   time.Duration

	rev     atomic.Uint64
	renewed atomic.Int64 // since begun, monotonic, nanoseconds
	begun   time.Time
}

// OpenLeases opens the bucket of leases, and says how long one lives without renewal.
func OpenLeases(ctx context.Context, js jetstream.JetStream) (kv jetstream.KeyValue, ttl time.Duration, err error) {
	if kv, err = js.KeyValue(ctx, BucketLease); err != nil {
		return nil, 0, fmt.Errorf("open bucket %s: %w", BucketLease, err)
	}
	st, err := kv.Status(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("read bucket %s: %w", BucketLease, err)
	}
	if ttl = st.TTL(); ttl == 0 {
		return nil, 0, fmt.Errorf("bucket %s: its keys never expire, a holder that is lost would hold its lease for ever", BucketLease)
	}
	return kv, ttl, nil
}

// AcquireLease waits until the key is free and takes it. Instance names the holder, for
// people.
func AcquireLease(ctx context.Context, kv jetstream.KeyValue, key, instance string, ttl time.Duration) (*Lease, error) {
	for {
		l, ok, err := TryLease(ctx, kv, key, instance, ttl)
		if ok || err != nil {
			return l, err
		}
		if err := wait(ctx, ttl/4); err != nil {
			return nil, err
		}
	}
}

// TryLease takes the key if it is free; ok is false where somebody holds it.
func TryLease(ctx context.Context, kv jetstream.KeyValue, key, instance string, ttl time.Duration) (l *Lease, ok bool, err error) {
	if !strings.Contains(instance, idMark) { // two may have one name
		instance += idMark + rand.Text()
	}
	l = &Lease{kv: kv, key: key, value: []byte(instance), ttl: ttl, begun: time.Now()}
	rev, err := kv.Create(ctx, key, l.value)
	switch {
	case err == nil:
		l.epoch = rev
		l.rev.Store(rev)
		l.renewed.Store(0) // from before it was asked for
		return l, true, nil
	case IsWrongRevision(err):
		return nil, false, nil
	}
	return nil, false, fmt.Errorf("take lease %s: %w", key, err)
}

// Epoch is the revision under which the lease was taken: later holders have higher ones.
func (l *Lease) Epoch() uint64 { return l.epoch }

// Held returns nil while the lease can be relied on, else ErrLeaseLost. It asks nobody: a
// process that was stopped for a while knows by its own clock.
func (l *Lease) Held() error {
	if since := time.Since(l.begun) - time.Duration(l.renewed.Load()); since > l.ttl*2/3 {
		return fmt.Errorf("%w: %s was last renewed %s ago", ErrLeaseLost, l.key, since.Round(time.Millisecond))
	}
	return nil
}

// Keep renews until ctx ends (nil) or the lease can no longer be relied on (ErrLeaseLost). Where no
// answer came it asks again soon: while the servers elect one that leads the bucket, answers are lost.
func (l *Lease) Keep(ctx context.Context) error {
	for next := l.ttl / 3; ; {
		if err := wait(ctx, next); err != nil {
			return nil //nolint:nilerr // told to stop
		}
		next = l.ttl / 20
		attempt, cancel := context.WithTimeout(ctx, l.ttl/4)
		start := time.Since(l.begun)
		rev, err := l.kv.Update(attempt, l.key, l.value, l.rev.Load())
		cancel()
		switch {
		case err == nil:
			l.rev.Store(rev)
			l.renewed.Store(int64(start))
			next = l.ttl / 3
		case ctx.Err() != nil:
			return nil //nolint:nilerr // told to stop
		case IsWrongRevision(err):
			if !l.adopt(ctx) {
				return ErrLeaseLost
			}
		// Without an answer the lease stands as long as it surely lives.
		case l.Held() != nil:
			return fmt.Errorf("%w: renew lease %s: %w", ErrLeaseLost, l.key, err)
		}
	}
}

// adopt takes the revision of a renewal whose answer was lost, as it is when the server that leads
// the bucket dies: the value is still this holder's, and nobody else's is like it. Since when the
// lease has been renewed is not made any later by it.
func (l *Lease) adopt(ctx context.Context) bool {
	asking, cancel := context.WithTimeout(ctx, l.ttl/4)
	defer cancel()
	e, err := l.kv.Get(asking, l.key)
	if err != nil || !bytes.Equal(e.Value(), l.value) || e.Revision() <= l.rev.Load() || l.Held() != nil {
		return false
	}
	l.rev.Store(e.Revision())
	return true
}

// Release gives the lease back, so that another need not wait for it to expire.
func (l *Lease) Release(ctx context.Context) error {
	err := l.kv.Delete(ctx, l.key, jetstream.LastRevision(l.rev.Load()))
	if err != nil && !IsWrongRevision(err) {
		return fmt.Errorf("release lease %s: %w", l.key, err)
	}
	return nil
}

// IsWrongRevision reports whether a compare-and-set failed because somebody else wrote.
func IsWrongRevision(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) || errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// wait waits for d or the end of ctx, which is its error.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait: %w", ctx.Err())
	case <-t.C:
		return nil
	}
}
