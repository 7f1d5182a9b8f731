package gpu

import (
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// Events that the library does not tell: they are what the agent sees itself.
const (
	eventLost  = "lost"  // the GPU cannot be reached any more
	eventBack  = "back"  // it can be again
	eventReset = "reset" // its counters began again: the driver was loaded anew, or the GPU reset
)

const (
	maxEvents = 256 // kinds of events between two ticks
	// A GPU to which much happens is not described and examined anew at every event.
	anewMs = 10_000
	// nobody is the name of a GPU that the library does not name.
	nobody = "unknown"
)

// happening is something that happened to a GPU between two ticks, and how often.
type happening struct {
	gpu    int
	uuid   string
	name   string
	code   int64
	gi, ci int
	count  int64
	detail string
	wallMs int64 // the first time
}

// happen takes note of an event. It is called with s.mu held.
func (s *Source) happen(h happening) {
	if h.wallMs == 0 {
		h.wallMs = s.lastTick.WallMs
	}
	if h.uuid == "" {
		h.uuid = nobody
	}
	s.stats.Events[h.name] += uint64(h.count)
	for i := range s.events {
		if e := &s.events[i]; e.gpu == h.gpu && e.name == h.name && e.code == h.code && e.gi == h.gi && e.ci == h.ci && e.uuid == h.uuid {
			e.count += h.count
			e.wallMs = min(e.wallMs, h.wallMs)
			return
		}
	}
	if len(s.events) >= maxEvents {
		s.stats.EventsDropped += uint64(h.count)
		return
	}
	s.events = append(s.events, h)
}

// eventCame takes an event that the child was told of.
func (s *Source) eventCame(body []byte) error {
	var e frame.Event
	if err := frame.DecodeEvent(body, &e); err != nil {
		return err // it says what was decoded
	}
	h := happening{gpu: e.GPU, name: e.Kind.String(), code: e.Code, count: int64(e.Count), gi: e.GI, ci: e.CI}
	if e.Kind != frame.EventXid && e.Kind != frame.EventOther && e.Kind != frame.EventRecovery {
		h.code = 0 // by the contract: the numbers of these say nothing
	}
	since := time.Since(s.tickAt).Milliseconds()
	h.wallMs = s.lastTick.WallMs + since - e.AgoUs/1000
	if e.GPU < 0 {
		s.happen(h)
		return nil
	}
	g, err := s.gpu(e.GPU)
	if err != nil {
		return err
	}
	h.uuid = g.device.UUID
	s.happen(h)
	if e.Kind == frame.EventXid {
		g.xid, g.xidKnown = e.Code, true
	}
	if e.Kind == frame.EventPowerSource {
		return nil
	}
	// What it is and how it is may be different now.
	if now := s.lastTick.BootMs; g.described && now-g.describedMs >= anewMs {
		g.deviceMs, g.healthMs = min(g.deviceMs, now), min(g.healthMs, now)
	}
	return nil
}
