package main

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/exporter"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/daemon"
)

func TestHealth(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	well := func() facts {
		return facts{now: now, alive: true, link: linkState{Up: true, Since: now.Add(-time.Hour)}, maxBytes: 1000, spool: spool.Stats{Bytes: 100},
			agent: agent.Stats{Instruments: []agent.StatusAt{
				{Status: source.Status{Instrument: "agent", State: source.Active}}, {Status: source.Status{Instrument: "gpu", State: source.Active}}}}}
	}
	for name, c := range map[string]struct {
		with  func(*facts)
		state daemon.State
		want  []string
	}{
		"well": {func(*facts) {}, daemon.OK, nil},
		"no driver": {func(f *facts) {
			f.agent.Instruments[1].Status = source.Status{Instrument: "gpu", State: source.Unavailable, Reason: "no driver"}
		}, daemon.Degraded, []string{"gpu is unavailable: no driver"}},
		"stalled GPU": {func(f *facts) {
			f.agent.Instruments = append(f.agent.Instruments, agent.StatusAt{Status: source.Status{Instrument: "gpu/GPU-1", State: source.Stalled, Reason: "no answer"}})
		}, daemon.Degraded, []string{"gpu/GPU-1 is stalled: no answer"}},
		"conditions": {func(f *facts) {
			f.agent.Conditions = []string{"the wall clock was stepped by 3.0 s", "12 ticks passed"}
			f.agent.Instruments[0].State = source.Degraded
		}, daemon.Degraded, []string{"the wall clock was stepped by 3.0 s", "12 ticks passed"}},
		"full disk": {func(f *facts) {
			f.agent.Conditions, f.agent.SealFailing, f.agent.PendingRows = []string{"the spool takes nothing: x"}, true, 80
		}, daemon.Failing, []string{"the spool takes nothing: x", "80 rows wait in memory for the spool"}},
		"spool fills": {func(f *facts) { f.spool.Bytes = 850 }, daemon.Degraded, []string{"the spool is 85 % full"}},
		"tight disk": {func(f *facts) { f.spool.Trouble = spool.TroubleTight }, daemon.Degraded, []string{
			"the spool is in trouble, little room on its disk: it does not grow; make room, or lower spool.max_bytes"}},
		"read-only disk": {func(f *facts) { f.spool.Trouble, f.spool.Cause = spool.TroubleReadOnly, "write x" }, daemon.Degraded, []string{
			"the spool is in trouble, its file system is mounted read-only: look at the disk and mount it again: write x"}},
		"stream full": {func(f *facts) {
			f.ship = ship.Stats{Trouble: ship.TroubleFull, Reason: "the stream is full", SinceMs: now.Add(-time.Hour).UnixMilli()}
		}, daemon.Degraded, []string{"frames are not all sent: the stream is full"}},
		"stream was full a moment ago": {func(f *facts) {
			f.ship = ship.Stats{Trouble: ship.TroubleFull, Reason: "the stream is full", SinceMs: now.Add(-time.Second).UnixMilli()}
		}, daemon.OK, nil},
		"parked": {func(f *facts) {
			f.ship = ship.Stats{Trouble: ship.TroubleTooLarge, Reason: "1 frames are set aside"}
		}, daemon.Degraded, []string{"frames are not all sent: 1 frames are set aside"}},
		"no privilege, no scheduler, no guests": {func(f *facts) {
			for name, state := range map[string]source.State{"kernel": source.Degraded, "kernel/nccl": source.Unavailable, "kernel/sock": source.Degraded,
				"job/podresources": source.Unavailable, "passthrough": source.Unavailable, "fabric/vf": source.Unavailable, "gpu/events": source.Unavailable} {
				f.agent.Instruments = append(f.agent.Instruments, agent.StatusAt{Status: source.Status{Instrument: name, State: state, Reason: "x"}})
			}
		}, daemon.OK, nil},
		"a feature hangs": {func(f *facts) {
			f.agent.Instruments = append(f.agent.Instruments, agent.StatusAt{Status: source.Status{Instrument: "kernel/nccl", State: source.Stalled, Reason: "x"}})
		}, daemon.Degraded, []string{"kernel/nccl is stalled: x"}},
		"events are not heard": {func(f *facts) {
			f.agent.Instruments = append(f.agent.Instruments, agent.StatusAt{Status: source.Status{Instrument: "gpu/events", State: source.Stalled, Reason: "x"}})
		}, daemon.Degraded, []string{"gpu/events is stalled: x"}},
		"evicted": {func(f *facts) { f.spool.EvictedFrames = 3 }, daemon.Degraded, []string{
			"3 frames were given up since the start: the spool was full, or they were too old"}},
		"starting": {func(f *facts) { f.link = linkState{Since: now.Add(-time.Second), Err: nats.ErrNoServers} }, daemon.OK, nil},
		"broker away": {func(f *facts) {
			f.link = linkState{Since: now.Add(-time.Hour), Err: nats.ErrNoServers}
		}, daemon.Degraded, []string{"the broker is away since 2026-05-01T11:00:00Z: nats: no servers available for connection"}},
		"refused": {func(f *facts) {
			f.link = linkState{Since: now.Add(-time.Second), Err: nats.ErrAuthorization}
		}, daemon.Degraded, []string{"the broker refuses the agent's credentials: nats: authorization violation"}},
		"may not publish": {func(f *facts) {
			f.link.Err = errors.New("permissions violation")
		}, daemon.Degraded, []string{"the broker complains: permissions violation"}},
		"collector away": {func(f *facts) {
			f.oldestMs = now.Add(-time.Hour).UnixMilli()
		}, daemon.Degraded, []string{"the collector has not stored frames of 2026-05-01T11:00:00Z: it is away or behind"}},
	} {
		f := well()
		c.with(&f)
		if h := judge(f); h.State != c.state || !slices.Equal(h.Reasons, c.want) {
			t.Errorf("%s: %s %q", name, h.State, h.Reasons)
		}
	}
	f := well()
	f.alive = false
	if h := judge(f); h.State != daemon.Failing || len(h.Reasons) != 1 {
		t.Errorf("hanging: %+v", h)
	}
}

// TestRetry: quickly at first, slowly later, and slowly where the broker said no.
func TestRetry(t *testing.T) {
	var l link
	for _, c := range []struct {
		n        int
		err      error
		min, max time.Duration
	}{
		{1, nats.ErrNoServers, 500 * time.Millisecond, 1500 * time.Millisecond}, {3, nats.ErrNoServers, 2 * time.Second, 6 * time.Second},
		{1000, nats.ErrNoServers, 7 * time.Second, 23 * time.Second}, {1, nats.ErrAuthorization, 15 * time.Second, 45 * time.Second},
		{0, nil, 0, 2 * time.Second},
	} {
		l.err = c.err
		for range 50 {
			if d := l.wait(c.n); d < c.min || d > c.max {
				t.Errorf("attempt %d behind %v waits %s", c.n, c.err, d)
			}
		}
	}
	if !refused(errors.New("nats: Authorization Violation")) || refused(nil) || refused(nats.ErrTimeout) {
		t.Error("the broker's no is not known")
	}
}

// TestInstruments: a reload makes anew what it changes, and nothing else.
func TestInstruments(t *testing.T) {
	base := defaults()
	base.DataDir = t.TempDir()
	for name, c := range map[string]struct {
		with        func(*config)
		remove, add []string
	}{
		"nothing":        {func(*config) {}, nil, nil},
		"log":            {func(c *config) { c.Log.Level = "debug" }, nil, nil},
		"seal":           {func(c *config) { c.SealEvery = time.Minute }, nil, nil},
		"interval":       {func(c *config) { c.Interval = 2 * time.Second }, []string{"gpu"}, []string{"gpu"}},
		"library":        {func(c *config) { c.GPU.Library = "/x" }, []string{"gpu"}, []string{"gpu"}},
		"no GPU":         {func(c *config) { c.GPU.Enabled = false }, []string{"gpu", "job", "passthrough"}, nil},
		"no fabric":      {func(c *config) { c.Fabric.Enabled = false }, []string{"fabric"}, nil},
		"no host":        {func(c *config) { c.Host.Enabled = false }, []string{"host"}, nil},
		"another sysfs":  {func(c *config) { c.Host.Sysfs = "/x" }, []string{"fabric", "kernel", "passthrough", "host"}, []string{"fabric", "kernel", "passthrough", "host"}},
		"another procfs": {func(c *config) { c.Host.Procfs = "/x" }, []string{"gpu", "job", "kernel", "host"}, []string{"gpu", "job", "kernel", "host"}},
		"no kernel":      {func(c *config) { c.Kernel.Enabled = false }, []string{"kernel"}, nil},
		"no nccl":        {func(c *config) { c.Kernel.NCCL = false }, []string{"kernel"}, []string{"kernel"}},
		"a controller": {func(c *config) {
			c.BMC.Targets = []bmcTarget{{Node: "n", Address: "local", Method: "dcmi", Interval: 15 * time.Second, Timeout: time.Second, IPMIPort: 623}}
		}, nil, []string{"bmc"}},
		"processes oftner": {func(c *config) { c.GPU.ProcessInterval = time.Second }, []string{"gpu"}, []string{"gpu"}},
	} {
		inst := &instruments{}
		inst.all(base)
		first := inst.gpus.Load()
		fresh := base
		c.with(&fresh)
		ch, done, err := inst.change(base, fresh)
		if err != nil {
			t.Fatal(err)
		}
		var add []string
		for _, s := range ch.Add {
			add = append(add, s.Name())
		}
		if !slices.Equal(ch.Remove, c.remove) || !slices.Equal(add, c.add) {
			t.Errorf("%s: removes %q, adds %q", name, ch.Remove, add)
		}
		if inst.gpus.Load() != first {
			t.Errorf("%s: changed before its time", name)
		}
		done()
		if now := inst.gpus.Load(); (now == first) == slices.Contains(c.remove, "gpu") || (now == nil) == fresh.GPU.Enabled {
			t.Errorf("%s: the GPUs are %p, were %p", name, now, first)
		}
	}
	off := base
	off.GPU.Enabled = false
	inst := &instruments{}
	inst.all(off)
	if _, _, ok := inst.GPUProcesses(); ok {
		t.Error("processes without GPUs")
	}
	if _, ok := inst.nvml(); ok || inst.latest(time.Now(), exporter.Freshness{Interval: time.Second}, true) != nil {
		t.Error("GPUs without GPUs")
	}
}
