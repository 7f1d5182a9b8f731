package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
)

const (
	// checkLease is the key under which one collector of all checks chains.
	checkLease = "collector-chain"
	// checkAfter is how long after the turn of an hour it is checked: a little more than the checker
	// gives batches to come.
	checkAfter = 6 * time.Minute
	// checkSoon is how long after taking the lease the first pass begins, so that a start is no rush.
	checkSoon = time.Minute
	// standingOf is how far back a Standing reaches.
	standingOf = 24 * time.Hour
	// holeIsOld is how long batches are missing until they count as a hole that stays: what is on its way
	// from a host's spool is there by then, and the hour was looked at again.
	holeIsOld = 2 * time.Hour
)

// Standing is what the checks of the last day come to, whoever made them, as the store has it.
type Standing struct {
	store.ChainStanding
	From, At time.Time // it is of hours from From on, as of At
}

// runChecks checks chains every hour, by the one collector that holds the lease for it. It has no
// part in taking batches: a check that fails is tried at the next turn, and told.
func (c *Collector) runChecks(ctx context.Context) error {
	var quiet throttle
	for ctx.Err() == nil {
		err := c.holdChecks(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop
		}
		if n, ok := quiet.allow(time.Now()); ok && err != nil {
			c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "check of chains let go", slog.Any("cause", err), slog.Uint64("suppressed", n))
		}
		if err := wait(ctx, time.Second); err != nil {
			return nil //nolint:nilerr // told to stop
		}
	}
	return nil
}

func (c *Collector) holdChecks(ctx context.Context) error {
	l, err := broker.AcquireLease(ctx, c.leases, checkLease, c.cfg.Instance, c.leaseTTL)
	if err != nil {
		return fmt.Errorf("check chains: %w", err)
	}
	g, held := errgroup.WithContext(ctx)
	g.Go(func() error { return l.Keep(held) })
	g.Go(func() error { return c.passes(held, l.Held) })
	err = g.Wait()
	c.stand(nil) // another may check from here on, and know better
	if !errors.Is(err, broker.ErrLeaseLost) {
		giving, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		err = errors.Join(err, l.Release(giving))
	}
	return err // both goroutines name what they did
}

// passes makes one soon, and then one in every turn. It ends with ctx, and that is its error.
func (c *Collector) passes(ctx context.Context, held func() error) error {
	checker := c.newChecker(held)
	for pause := min(checkSoon, c.cfg.CheckEvery); ; pause = untilTurn(time.Now(), c.cfg.CheckEvery) {
		if err := wait(ctx, pause); err != nil {
			return err
		}
		err := checker.Pass(ctx, time.Now().UnixMilli(), time.Now)
		if ctx.Err() != nil {
			return fmt.Errorf("check chains: %w", ctx.Err())
		}
		if serr := c.readStanding(ctx); serr != nil {
			err = errors.Join(err, serr)
		}
		st := checker.Stats()
		switch {
		case err != nil:
			c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "check of chains failed, the next turn goes on", slog.Any("err", err))
		case st.Due > 0:
			c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "check of chains left hours for the next turn", slog.Int("due", st.Due), slog.Duration("took", st.Took))
		default:
			c.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "chains are checked", slog.Time("through", time.UnixMilli(st.ThroughMs).UTC()), slog.Duration("took", st.Took))
		}
	}
}

// readStanding reads what is known of the last day, found by this pass or an earlier one.
func (c *Collector) readStanding(ctx context.Context) error {
	now := time.Now()
	s := Standing{From: now.Add(-standingOf), At: now}
	var err error
	if s.ChainStanding, err = c.cfg.Store.ChainStanding(ctx, s.From.UnixMilli(), now.Add(-holeIsOld).UnixMilli()); err != nil {
		return err // what was known stays
	}
	c.stand(&s)
	return nil
}

func (c *Collector) stand(s *Standing) {
	c.checkMu.Lock()
	defer c.checkMu.Unlock()
	c.standing = s
}

// Standing tells what chains and losses come to; ok is false where this collector does not check chains, or has
// not finished a check yet.
func (c *Collector) Standing() (s Standing, ok bool) {
	c.checkMu.Lock()
	defer c.checkMu.Unlock()
	if c.standing == nil {
		return s, false
	}
	return *c.standing, true
}

// newChecker makes the checker of this hold; the counters of the one before go on.
func (c *Collector) newChecker(held func() error) *chain.Checker {
	c.checkMu.Lock()
	defer c.checkMu.Unlock()
	var was chain.CheckStats
	if c.checker != nil {
		was = c.checker.Stats()
	}
	c.checker = chain.NewChecker(chain.CheckConfig{Store: c.cfg.Store, Instance: c.cfg.Instance, Log: c.cfg.Log, Held: held, Was: was})
	return c.checker
}

// untilTurn is how long it is to the next turn: turns of whole hours lie behind the hour.
func untilTurn(now time.Time, every time.Duration) time.Duration {
	after := min(checkAfter, every/10)
	next := now.Truncate(every).Add(after)
	if !next.After(now) {
		next = next.Add(every)
	}
	return next.Sub(now)
}

// Checks tells what this collector found when it checked chains; ok is false where another does,
// or nobody.
func (c *Collector) Checks() (st chain.CheckStats, ok bool) {
	c.checkMu.Lock()
	defer c.checkMu.Unlock()
	if c.checker == nil {
		return st, false
	}
	return c.checker.Stats(), true
}
