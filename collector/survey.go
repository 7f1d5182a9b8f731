package collector

import (
	"context"
	"log/slog"
	"time"
)

// crowdedAt is the share of the parts at which the store begins to delay inserts.
const crowdedAt = 0.5

// survey looks at the backlog and at the store's parts until ctx ends. What it cannot see it
// leaves as it was last seen, or unknown: nothing waits for it.
func (c *Collector) survey(ctx context.Context) error {
	var quiet throttle
	for ended := false; !ended; ended = wait(ctx, c.cfg.Survey) != nil {
		look, cancel := context.WithTimeout(ctx, c.cfg.Survey)
		err := c.lookAtBacklog(look)
		if share, perr := c.cfg.Store.PartPressure(look); perr == nil {
			c.crowded.Store(share >= crowdedAt)
			c.conditions.parts(share)
		} else if err == nil {
			err = perr
		}
		cancel()
		if n, ok := quiet.allow(time.Now()); err != nil && ctx.Err() == nil && ok {
			c.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "survey", slog.Any("err", err), slog.Uint64("suppressed", n))
		}
	}
	return nil // told to stop
}

// lookAtBacklog reads what the streams hold: of all partitions, as the lag of one that nobody holds counts too.
func (c *Collector) lookAtBacklog(ctx context.Context) error {
	for _, p := range c.cfg.Partitions {
		s, err := c.js.Stream(ctx, p.Stream)
		if err != nil {
			return err //nolint:wrapcheck // for a debug line
		}
		info := s.CachedInfo()
		b := Backlog{Messages: info.State.Msgs, Bytes: info.State.Bytes, MaxBytes: max(info.Config.MaxBytes, 0), At: time.Now()}
		if info.State.Msgs > 0 {
			b.Oldest = info.State.FirstTime
		}
		c.conditions.backlog(p.Name, b)
	}
	return nil
}
