package collector

import (
	"context"
	"sync"
)

// turn says whether a partition is this collector's to hold. share gives and takes it back, the
// partition's goroutine waits for it.
type turn struct {
	mu     sync.Mutex
	ours   bool
	drop   context.CancelFunc // of the hold; nil: it is not held
	change chan struct{}      // has one element after a change to ours
}

func newTurn() *turn { return &turn{change: make(chan struct{}, 1)} }

// give makes the partition this collector's, or not any more: then what holds it ends.
func (t *turn) give(ours bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ours = ours
	if !ours && t.drop != nil {
		t.drop()
	}
	select {
	case t.change <- struct{}{}:
	default: // nobody has looked since the last
	}
}

// take notes what ends the hold that begins, nil: it has ended. ok is false where it is not this
// collector's turn.
func (t *turn) take(drop context.CancelFunc) (ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop = drop
	return t.ours
}

// holds reports whether the partition is held.
func (t *turn) holds() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.drop != nil
}

// wait waits for this collector's turn; ok is false at the end of ctx.
func (t *turn) wait(ctx context.Context) (ok bool) {
	for {
		t.mu.Lock()
		ours := t.ours
		t.mu.Unlock()
		if ctx.Err() != nil {
			return false
		}
		if ours {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-t.change:
		}
	}
}
