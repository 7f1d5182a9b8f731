package collector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// errLeaseLost says that somebody else may hold the partition now.
var errLeaseLost = errors.New("lease lost")

// lease is the right to read a partition. Owned by the goroutine that renews it.
type lease struct {
	kv    jetstream.KeyValue
	key   string
	value []byte
	rev   uint64
	epoch uint64
	ttl   time.Duration
}

// acquireLease waits until the key is free and takes it.
func acquireLease(ctx context.Context, kv jetstream.KeyValue, key, instance string, ttl time.Duration) (*lease, error) {
	l := &lease{kv: kv, key: key, value: []byte(instance), ttl: ttl}
	for {
		rev, err := kv.Create(ctx, key, l.value)
		if err == nil {
			l.rev, l.epoch = rev, rev
			return l, nil
		}
		if !errors.Is(err, jetstream.ErrKeyExists) {
			return nil, fmt.Errorf("take lease %s: %w", key, err)
		}
		if err := wait(ctx, ttl/4); err != nil {
			return nil, err
		}
	}
}

// keep renews until ctx ends (nil) or the lease can no longer be relied on (errLeaseLost).
func (l *lease) keep(ctx context.Context) error {
	renewed := time.Now()
	for {
		if err := wait(ctx, l.ttl/3); err != nil {
			return nil //nolint:nilerr // told to stop
		}
		attempt, cancel := context.WithTimeout(ctx, l.ttl/4)
		start := time.Now()
		rev, err := l.kv.Update(attempt, l.key, l.value, l.rev)
		cancel()
		switch {
		case err == nil:
			l.rev, renewed = rev, start
		case ctx.Err() != nil:
			return nil //nolint:nilerr // told to stop
		case isWrongRevision(err):
			return errLeaseLost
		// Without an answer the lease stands as long as it surely lives.
		case time.Since(renewed) > l.ttl*2/3:
			return fmt.Errorf("%w: renew lease %s: %w", errLeaseLost, l.key, err)
		}
	}
}

// release gives the lease back, so that another need not wait for it to expire.
func (l *lease) release(ctx context.Context) error {
	err := l.kv.Delete(ctx, l.key, jetstream.LastRevision(l.rev))
	if err != nil && !isWrongRevision(err) {
		return fmt.Errorf("release lease %s: %w", l.key, err)
	}
	return nil
}

func isWrongRevision(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) || errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

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

// position is what is done of a stream, and what was begun: From 0 means nothing is.
type position struct {
	Done  uint64 `json:"done"`
	From  uint64 `json:"from,omitempty"`
	To    uint64 `json:"to,omitempty"`
	Epoch uint64 `json:"epoch"`
}

// positionKey is the compare-and-set cell of a stream's position.
type positionKey struct {
	kv  jetstream.KeyValue
	key string
	rev uint64
	pos position
}

func loadPosition(ctx context.Context, kv jetstream.KeyValue, key string) (*positionKey, error) {
	p := &positionKey{kv: kv, key: key}
	e, err := kv.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return p, nil
	case err != nil:
		return nil, fmt.Errorf("read position %s: %w", key, err)
	}
	if err := json.Unmarshal(e.Value(), &p.pos); err != nil {
		return nil, fmt.Errorf("read position %s: %w", key, err)
	}
	p.rev = e.Revision()
	return p, nil
}

// set writes the position if nobody has written since; errLeaseLost if somebody has.
func (p *positionKey) set(ctx context.Context, pos position) error {
	value, err := json.Marshal(pos)
	if err != nil {
		return fmt.Errorf("write position %s: %w", p.key, err)
	}
	var rev uint64
	if p.rev == 0 {
		rev, err = p.kv.Create(ctx, p.key, value)
	} else {
		rev, err = p.kv.Update(ctx, p.key, value, p.rev)
	}
	if err != nil {
		if isWrongRevision(err) {
			return fmt.Errorf("write position %s: %w", p.key, errLeaseLost)
		}
		return fmt.Errorf("write position %s: %w", p.key, err)
	}
	p.rev, p.pos = rev, pos
	return nil
}
