package exporter

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/source"
)

// Freshness is how old values of GPUs may be before they are not shown.
type Freshness struct {
	Interval time.Duration // of the ticks
	Slow     time.Duration // between looks at the health; 0: 20 s
}

// GPUs are what an instrument knows now. owner may be nil; it is asked with the UUID of a GPU
// or of a MIG device, and must say nothing that may not be told in clear.
func GPUs(list []gpu.Latest, now time.Time, f Freshness, owner func(uuid string) Owner) []GPU {
	if owner == nil {
		owner = func(string) Owner { return Owner{} }
	}
	fresh := func(wallMs int64, limit time.Duration) bool {
		age := now.Sub(time.UnixMilli(wallMs)).Abs() // a wall clock may be stepped either way
		return wallMs > 0 && age <= limit
	}
	out := make([]GPU, 0, len(list))
	for _, l := range list {
		if d := &l.Device; !d.Whole && (d.Name == "" || d.PCIBusID == "" || d.Minor < 0) {
			continue // what labels hold is still being asked: they would be others than soon after
		}
		limit := max(5*time.Second, 3*f.Interval)
		slow := max(3*cmp.Or(f.Slow, 20*time.Second), 15*time.Second)
		// A slow GPU is read less often: the instrument says so.
		if l.State == source.Degraded {
			limit, slow = max(limit, 35*f.Interval), 35*max(slow/3, f.Interval)
		}
		g := GPU{Device: l.Device, Fresh: fresh(l.WallMs, limit), Reading: l.Reading, Health: l.Health, HealthFresh: fresh(l.HealthWallMs, slow),
			Xid: l.Xid, XidKnown: l.XidKnown, Owner: owner(l.Device.UUID)}
		for _, in := range l.Instances {
			g.Instances = append(g.Instances, Instance{Instance: in.Instance, Fresh: fresh(in.WallMs, max(limit, slow)), Reading: in.Reading, Owner: owner(in.UUID)})
		}
		out = append(out, g)
	}
	return out
}

// OfNVML is what the page shows of an instrument's counts.
func OfNVML(st *gpu.Stats) NVML {
	out := NVML{Starts: st.Starts, Restarts: st.Restarts, Kills: st.Kills, Abandoned: st.Abandoned, Calls: st.Calls, Readings: st.Readings, Dropped: st.Dropped,
		LastPass: st.LastPass, GPUs: st.GPUs, Stalled: st.Stalled, Bursts: st.Bursts, BurstsRefused: st.BurstsRefused, BudgetRefused: st.BudgetRefused,
		EventsDropped: st.EventsDropped, Backed: st.Backed, BackedRare: st.BackedRare}
	keys := slices.SortedFunc(maps.Keys(st.Faults), func(a, b gpu.FaultKey) int {
		return cmp.Or(cmp.Compare(a.Function, b.Function), cmp.Compare(a.Code, b.Code))
	})
	for _, k := range keys {
		out.Faults = append(out.Faults, Fault{Function: k.Function, Code: k.Code, Count: st.Faults[k]})
	}
	for t := range gpu.NumTiers {
		if s := &st.Tiers[t]; s.Asked > 0 {
			out.Tiers = append(out.Tiers, Tier{Name: t.String(), Asked: s.Asked, Took: s.Took, Bounds: gpu.LatencyBounds[:], By: s.By[:]})
		}
	}
	for c, took := range st.Slowest {
		if took > 0 {
			out.Slowest = append(out.Slowest, Slowest{frame.Class(c).String(), took})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(st.Events)) {
		out.Events = append(out.Events, Count{name, st.Events[name]})
	}
	return out
}
