package collector

import (
	"context"
	"math/rand/v2"
	"time"
)

// Bounds of the pauses between tries. They double, and are shortened by chance, so
// that collectors that were refused together do not come back together.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 10 * time.Second
)

// backoff is how long to wait between tries. Its zero value is ready.
type backoff struct{ bound time.Duration }

// next returns the next pause: between half of the bound and the bound, which doubles.
func (b *backoff) next() time.Duration {
	b.bound = min(max(2*b.bound, 2*firstPause), maxPause)
	return b.bound/2 + rand.N(b.bound/2)
}

func (b *backoff) wait(ctx context.Context) error { return wait(ctx, b.next()) }
