package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/host"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/daemon"
)

// How full the spool may be, and how long the broker away, before that is a reason.
const (
	spoolFullPercent = 80
	brokerAway       = 30 * time.Second
	waitingTooLong   = 15 * time.Minute // for a commit mark
)

// spoolWords say what would help.
var spoolWords = map[spool.Trouble]string{
	spool.TroubleTight:    "little room on its disk: it does not grow; make room, or lower spool.max_bytes",
	spool.TroubleNoRoom:   "no room on its disk: make room, or put data_dir elsewhere",
	spool.TroubleReadOnly: "its file system is mounted read-only: look at the disk and mount it again",
	spool.TroubleIO:       "its disk fails: look at the kernel's log",
	spool.TroubleDenied:   "the agent's user may not write there: look at the owner of data_dir",
	spool.TroubleOther:    "it takes nothing",
}

// facts are what health is judged from.
type facts struct {
	now      time.Time
	alive    bool
	agent    agent.Stats
	link     linkState
	spool    spool.Stats
	ship     ship.Stats
	maxBytes int64
	oldestMs int64
	behind   uint64 // frames that the collector has not stored
}

func (d *agentDaemon) health() daemon.Health {
	f := facts{now: time.Now(), alive: d.alive(), agent: d.agent.Stats(), link: d.link.state(), spool: d.spool.Stats(), ship: d.ship.Stats(), maxBytes: d.maxBytes,
		behind: d.spool.Synced() - d.spool.Committed()}
	if oldest, err := d.spool.OldestMs(); err == nil {
		f.oldestMs = oldest
	}
	return judge(f)
}

// judge says how the agent is. It fails only if it does not sample or takes nothing into its
// spool: without a broker or a driver it does what it can.
func judge(f facts) daemon.Health {
	h := daemon.Health{State: daemon.OK, Details: map[string]any{
		"ticks": f.agent.Tick.Seq, "batches": f.agent.Batches, "spool_bytes": f.spool.Bytes, "frames_behind": f.behind, "broker_up": f.link.Up,
	}}
	add := func(state daemon.State, format string, args ...any) {
		if h.State != daemon.Failing {
			h.State = state
		}
		h.Reasons = append(h.Reasons, fmt.Sprintf(format, args...))
	}
	if !f.alive {
		_, boot := host.Clocks()
		add(daemon.Failing, "no tick for %d s", (boot-f.agent.Tick.BootMs)/1000)
	}
	state := map[string]string{}
	for _, i := range f.agent.Instruments {
		state[i.Instrument] = string(i.State)
		// The agent's own instrument is its conditions, below.
		if i.Instrument == "agent" || i.State == source.Active || optional(i.Instrument, i.State) {
			continue
		}
		add(daemon.Degraded, "%s is %s%s", i.Instrument, i.State, because(i.Reason))
	}
	h.Details["instruments"] = state
	for _, c := range f.agent.Conditions {
		add(daemon.Degraded, "%s", c)
	}
	if f.agent.PendingRows > 0 && f.agent.SealFailing {
		add(daemon.Failing, "%d rows wait in memory for the spool", f.agent.PendingRows)
	}
	if f.maxBytes > 0 && f.spool.Bytes*100 >= f.maxBytes*spoolFullPercent {
		add(daemon.Degraded, "the spool is %d %% full", f.spool.Bytes*100/f.maxBytes)
	}
	if t := f.spool.Trouble; t != spool.TroubleNone {
		add(daemon.Degraded, "the spool is in trouble, %s%s", spoolWords[t], because(f.spool.Cause))
	}
	if f.spool.EvictedFrames > 0 {
		add(daemon.Degraded, "%d frames were given up since the start: the spool was full, or they were too old", f.spool.EvictedFrames)
	}
	// Without a broker it is the connection that is said, below.
	if t := f.ship.Trouble; t != ship.TroubleNone && t != ship.TroubleNoBroker && f.now.Sub(time.UnixMilli(f.ship.SinceMs)) >= brokerAway {
		add(daemon.Degraded, "frames are not all sent: %s", f.ship.Reason)
	}
	switch away := f.now.Sub(f.link.Since); {
	case !f.link.Up && away >= brokerAway:
		add(daemon.Degraded, "the broker is away since %s%s", f.link.Since.UTC().Format(time.RFC3339), because(text(f.link.Err)))
	case !f.link.Up && f.link.Err != nil && refused(f.link.Err):
		add(daemon.Degraded, "the broker refuses the agent's credentials: %v", f.link.Err)
	case f.link.Up && f.link.Err != nil:
		add(daemon.Degraded, "the broker complains: %v", f.link.Err)
	case f.link.Up && f.oldestMs > 0 && f.now.Sub(time.UnixMilli(f.oldestMs)) >= waitingTooLong:
		add(daemon.Degraded, "the collector has not stored frames of %s: it is away or behind", time.UnixMilli(f.oldestMs).UTC().Format(time.RFC3339))
	}
	return h
}

// optional reports whether a host is well without what an instrument does not see: what takes a
// privilege that it was not given, a scheduler that it does not have, or guests. That it is not
// seen is told among the instruments. What hangs is never well.
func optional(instrument string, state source.State) bool {
	whole, part, _ := strings.Cut(instrument, "/")
	switch whole {
	case "kernel": // without its privileges it falls back on less, or sees nothing
		return state == source.Unavailable || state == source.Degraded
	case "job":
		return state == source.Unavailable && part != ""
	case "passthrough":
		return state == source.Unavailable
	case "fabric":
		return state == source.Unavailable && part == "vf"
	case "gpu": // virtual GPUs have no events
		return state == source.Unavailable && part == "events"
	}
	return false
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
