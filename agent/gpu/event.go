package gpu

import (
	"fmt"
	"math/bits"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/source"
)

// eventsName is the part of the instrument that hears of events.
const eventsName = "gpu/events"

// deafEnough is how long a GPU may wait to be listened to before that is said: the call for it has
// to find room beside others.
const deafEnough = time.Minute

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

// listening takes how the child hears of events.
func (s *Source) listening(body []byte) error {
	var l frame.Listening
	if err := frame.DecodeListening(body, &l); err != nil {
		return err // it says what was decoded
	}
	s.hears = &l
	return nil
}

// judgeEvents says whether events are heard: a host whose Xid errors nobody hears of is one on
// which there seem to be none. It is called with s.mu held.
func (s *Source) judgeEvents(now time.Time) {
	if s.cfg.NoEvents {
		return
	}
	st := source.Status{Instrument: eventsName}
	if s.absent != "" || s.down != "" {
		if _, told := s.said[eventsName]; !told {
			return // there was nobody to hear them
		}
		st.State, st.Reason = source.Stalled, s.down
		if s.absent != "" {
			st.State, st.Reason = source.Unavailable, s.absent
		}
		s.tellStatus(st)
		return
	}
	if s.hears == nil {
		return
	}
	if s.allStalled(now) { // it may be the child that hangs; it is killed if this lasts
		st.State, st.Reason = source.Stalled, "no GPU answers: whether flopwatch-nvml hears anything is not known"
		s.tellStatus(st)
		return
	}
	var ok bool
	if st.State, st.Reason, ok = s.hearing(s.hears, now); ok {
		s.tellStatus(st)
	}
}

// hearing is the state of what is heard of events. ok is false while it is about to begin.
func (s *Source) hearing(e *frame.Listening, now time.Time) (st source.State, reason string, ok bool) {
	const lacking = "Xid and ECC errors are not told as they happen; the kernel's log has Xid errors, and the health counts of ECC errors"
	var all, away uint64
	for i, g := range s.gpus {
		all |= 1 << i
		if g.lost != "" || g.asked && now.Sub(g.askedAt) >= s.cfg.StallAfter || g.empty >= emptyEnough {
			away |= 1 << i // that is told of the GPU itself
		}
	}
	without, waiting := e.Without&all, all&^(e.Heard|e.Without|away)
	if waiting == 0 || e.Hangs || e.Text != "" {
		s.deafSince = time.Time{}
	} else if s.deafSince.IsZero() {
		s.deafSince = now
	}
	switch {
	case !e.Able:
		return source.Unavailable, "the driver's library has no functions for events: " + lacking, true
	case e.Hangs:
		return source.Stalled, e.Function + " does not come back, though it has a time limit: a call into the driver hangs; " + lacking, true
	case e.Text != "" && (e.Code == codeNotSupported || e.Code == codeNoPermission):
		return source.Unavailable, e.Function + ": " + e.Text + ": " + lacking, true
	case e.Text != "":
		return source.Degraded, e.Function + ": " + e.Text + ": it is tried again; until then " + lacking, true
	case all != 0 && without == all:
		return source.Unavailable, "the driver tells no events of the GPUs, as on virtual ones: " + lacking, true
	case without != 0:
		return source.Degraded, fmt.Sprintf("the driver tells no events of %d of %d GPUs: of those %s", bits.OnesCount64(without), len(s.gpus), lacking), true
	case waiting != 0:
		return source.Degraded, fmt.Sprintf("%d of %d GPUs are not listened to: the calls for it fail, or find no room beside others", bits.OnesCount64(waiting), len(s.gpus)),
			now.Sub(s.deafSince) >= deafEnough
	}
	return source.Active, "", e.Heard != 0
}

// Codes of the library by which it says that something is not for this host or user.
const (
	codeNotSupported = 3
	codeNoPermission = 4
)
