package loadgen

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/flopwatch/flopwatch/internal/store"
)

// probes is how many hosts the store is asked for.
const probes = 16

// look asks the store again and again what it has of a few hosts, until ctx ends.
func (f *Fleet) look(ctx context.Context) {
	for sleep(ctx, f.cfg.ProbeEvery) {
		f.mu.Lock()
		nodes := slices.Clone(f.nodes)
		f.mu.Unlock()
		asked := map[store.SpoolKey]*node{}
		var keys []store.SpoolKey
		for _, n := range nodes {
			n.mu.Lock()
			due := n.probe && len(n.probed) > 0
			n.mu.Unlock()
			if due && len(keys) < probes {
				k := n.key()
				asked[k] = n
				keys = append(keys, k)
			}
		}
		if len(keys) == 0 {
			continue
		}
		has, err := f.cfg.Store.Handled(ctx, keys)
		if err != nil {
			if ctx.Err() == nil {
				f.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the store does not say what is visible", slog.Any("err", err))
			}
			continue
		}
		now := time.Now()
		for k, n := range asked {
			f.seen(n, has[k], now)
		}
	}
}

func (f *Fleet) seen(n *node, has store.Handled, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.probed = slices.DeleteFunc(n.probed, func(s sealed) bool {
		if !covers(has.Stored, s.seq) {
			return covers(has.GivenUp, s.seq)
		}
		f.count.visible.add(now.Sub(s.at))
		f.count.visibleNow.add(now.Sub(s.at))
		return true
	})
}

func covers(ranges []store.SequenceRange, seq uint64) bool {
	for _, r := range ranges {
		if r.From <= seq && seq <= r.To {
			return true
		}
	}
	return false
}

// Stored counts the frames that the store has of the hosts that there are, and those that it
// should have: every one that was sealed and not given up.
func (f *Fleet) Stored(ctx context.Context) (stored, missing uint64, err error) {
	f.mu.Lock()
	nodes := slices.Clone(f.nodes)
	f.mu.Unlock()
	for chunk := range slices.Chunk(nodes, 200) {
		var keys []store.SpoolKey
		for _, n := range chunk {
			keys = append(keys, n.key())
		}
		has, err := f.cfg.Store.Handled(ctx, keys)
		if err != nil {
			return stored, missing, err //nolint:wrapcheck // it says what it looked for
		}
		for i, n := range chunk {
			h := has[keys[i]]
			for seq := uint64(1); seq < n.spool.NextSequence(); seq++ {
				switch {
				case covers(h.Stored, seq):
					stored++
				case !covers(h.GivenUp, seq):
					missing++
				}
			}
		}
	}
	return stored, missing, nil
}
