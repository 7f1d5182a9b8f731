package collector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/broker"
)

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

// set writes the position if nobody has written since; broker.ErrLeaseLost if somebody has.
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
		if broker.IsWrongRevision(err) {
			return fmt.Errorf("write position %s: %w", p.key, broker.ErrLeaseLost)
		}
		return fmt.Errorf("write position %s: %w", p.key, err)
	}
	p.rev, p.pos = rev, pos
	return nil
}
