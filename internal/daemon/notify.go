package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// Notifier tells systemd how the daemon is (sd_notify). Without systemd, that is without
// $NOTIFY_SOCKET, its methods do nothing.
type Notifier struct {
	// Log gets what could not be told, once a kind; nil: nobody does.
	Log *slog.Logger

	failed bool
}

// Ready says that the daemon does its work, also again after Reloading. status is a
// sentence for systemctl status.
func (n *Notifier) Ready(ctx context.Context, status string) {
	n.tell(ctx, sd.SdNotifyReady+"\nSTATUS="+status)
}

// Reloading says that the configuration is being read again; Ready ends it.
func (n *Notifier) Reloading(ctx context.Context) {
	n.tell(ctx, sd.SdNotifyReloading+"\n"+sd.SdNotifyMonotonicUsec())
}

// Stopping says that the daemon is on its way out.
func (n *Notifier) Stopping(ctx context.Context) { n.tell(ctx, sd.SdNotifyStopping) }

func (n *Notifier) tell(ctx context.Context, state string) {
	if _, err := sd.SdNotify(false, state); err != nil && n.Log != nil && !n.failed {
		n.failed = true
		n.Log.LogAttrs(ctx, slog.LevelWarn, "systemd was not told", slog.Any("err", err))
	}
}

// Watchdog tells systemd twice in its period that the daemon is alive, as long as alive says
// so, until ctx ends: a daemon that hangs is started again. It returns at once where systemd
// watches nothing.
func Watchdog(ctx context.Context, alive func() bool) error {
	period, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read systemd's watchdog: %w", err)
	}
	if period <= 0 {
		return nil
	}
	tick := time.NewTicker(max(period/2, time.Millisecond))
	defer tick.Stop()
	for {
		if alive() {
			if _, err := sd.SdNotify(false, sd.SdNotifyWatchdog); err != nil {
				return fmt.Errorf("tell systemd's watchdog: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
