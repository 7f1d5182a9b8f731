package probe

import (
	"context"
	"errors"
	"math"
	"runtime"
	"time"
)

// Cost is what a call of a probed function takes on this host.
type Cost struct {
	Probe string  // "none", "uprobe_multi +0", ...
	Ns    float64 // a call
	Err   error   // why it could not be measured
}

const (
	rounds     = 3
	callsFast  = 100_000 // without a trap, or with one that is emulated
	callsSlow  = 2_000   // with a trap that single-steps
	callsCheck = 1024    // between looks at the context
)

// SelfTest measures what an empty probe costs a call of a function of a C library: without
// a probe, on its first instruction, and behind the landing pad that compilers put
// there, which the kernel need not single-step. It takes a second or so of one core.
func SelfTest(ctx context.Context) ([]Cost, error) {
	c, err := newCode()
	if err != nil {
		return nil, err
	}
	defer c.close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ns, err := c.time(ctx, callsFast)
	out := []Cost{{"none", ns, err}}
	for _, v := range []struct {
		name   string
		multi  bool
		offset uint64
		calls  int
	}{
		{"uprobe_multi +0", true, 0, callsSlow}, {"uprobe_multi +4", true, 4, callsFast},
		{"uprobe +0", false, 0, callsSlow}, {"uprobe +4", false, 4, callsFast},
	} {
		cost := Cost{Probe: v.name}
		l, p, aerr := c.attach(v.multi, v.offset)
		if aerr != nil {
			cost.Err = aerr
		} else {
			cost.Ns, cost.Err = c.time(ctx, v.calls)
			cost.Err = errors.Join(cost.Err, l.Close(), p.Close())
		}
		out = append(out, cost)
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
	}
	return out, nil
}

// time returns the best of some rounds.
func (c *code) time(ctx context.Context, calls int) (float64, error) {
	f, best := c.function(), math.Inf(1)
	f() // the page is in
	for range rounds {
		began := time.Now()
		for n := range calls {
			if n%callsCheck == 0 && ctx.Err() != nil {
				return 0, ctx.Err()
			}
			f()
		}
		best = min(best, float64(time.Since(began).Nanoseconds())/float64(calls))
	}
	return best, nil
}

// Calibrate measures in a few milliseconds what a call of a probed function takes where the
// kernel emulates the instruction under the probe, and where it steps over it.
func Calibrate(ctx context.Context) (plain, step float64, err error) {
	c, err := newCode()
	if err != nil {
		return 0, 0, err
	}
	defer c.close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, v := range []struct {
		offset uint64
		calls  int
		ns     *float64
	}{{4, 2000, &plain}, {0, 100, &step}} {
		l, p, aerr := c.attach(true, v.offset)
		if aerr != nil {
			return 0, 0, aerr
		}
		*v.ns, err = c.time(ctx, v.calls)
		if err = errors.Join(err, l.Close(), p.Close()); err != nil {
			return 0, 0, err
		}
	}
	return plain, step, nil
}
