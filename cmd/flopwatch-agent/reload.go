package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/flopwatch/flopwatch/agent"
)

// reload reads the file again and changes what can change; after a mistake all is as before.
func (d *agentDaemon) reload(ctx context.Context) {
	if err := d.tryReload(ctx); err != nil {
		d.lg.LogAttrs(ctx, slog.LevelError, "the configuration was not taken up; the old one holds", slog.Any("err", err))
	}
}

func (d *agentDaemon) tryReload(ctx context.Context) error {
	cfg, digest, err := loadConfig(d.path, d.as)
	if err != nil {
		return err // it names file and key
	}
	if keys := frozen(d.cfg, cfg); len(keys) > 0 {
		return fmt.Errorf("configuration %s: a running agent cannot change %s: restart it", d.path, strings.Join(keys, ", "))
	}
	ch, done, err := d.inst.change(d.cfg, cfg)
	if err != nil {
		return err // it names the source
	}
	burst := agent.Burst(cfg.Burst)
	ch.Interval, ch.SealEvery, ch.Burst = cfg.Interval, cfg.SealEvery, &burst
	if err := d.agent.Apply(ctx, ch); err != nil {
		return err // it says what failed
	}
	done()
	if err := d.level.UnmarshalText([]byte(cfg.Log.Level)); err != nil { // it was checked
		return fmt.Errorf("log level: %w", err)
	}
	d.slow.Store(int64(cfg.GPU.SlowInterval))
	d.owners.Store(cfg.Metrics.Owners)
	d.export.ShowGPUs(cfg.Metrics.GPU)
	d.export.SetConfig(digest)
	d.cfg, d.digest = cfg, digest
	d.lg.LogAttrs(ctx, slog.LevelInfo, "configuration taken up", slog.String("config_digest", digest), slog.Int("sources_started", len(ch.Add)), slog.Int("sources_ended", len(ch.Remove)))
	return nil
}
