package probe

import (
	"context"
	"errors"
	"math"
	"runtime"
)

// Costs measures what a call takes with an empty probe at each offset of the function, in turns:
// the least of some rounds.
func Costs(ctx context.Context, offsets []uint64, rounds, calls int) ([]float64, error) {
	c, err := newCode()
	if err != nil {
		return nil, err
	}
	defer c.close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out := make([]float64, len(offsets))
	for i := range out {
		out[i] = math.Inf(1)
	}
	for range rounds {
		for i, at := range offsets {
			l, p, err := c.attach(true, at)
			if err != nil {
				return nil, err
			}
			ns, err := c.time(ctx, calls)
			if err = errors.Join(err, l.Close(), p.Close()); err != nil {
				return nil, err
			}
			out[i] = min(out[i], ns)
		}
	}
	return out, nil
}
