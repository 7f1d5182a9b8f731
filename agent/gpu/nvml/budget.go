//go:build linux && cgo

package nvml

const (
	maxCalls = 12 // for a GPU in a second
	// A second is a little less here: the agent's ticks are some milliseconds early or late,
	// and a tick must not find the one before it still in the way.
	secondMs = 910
	longMs   = 500 // an answer that takes longer is of its end
)

// budget counts the calls of the last second, by the requests' clock; doc.go says what that holds
// in which time. It is the last line: the agent is expected to ask for no more.
type budget struct {
	ring [16]struct { // more requests than maxCalls need not be remembered
		ms    int64
		calls int
		burst bool // of a request for a burst alone
	}
	next int
}

func (b *budget) add(ms int64, calls int, burst bool) {
	if calls <= 0 {
		return
	}
	e := &b.ring[b.next]
	e.ms, e.calls, e.burst = ms, calls, burst
	b.next = (b.next + 1) % len(b.ring)
}

// since are the calls of the second before ms, and those of them that were for bursts. What
// lies ahead was before the clock was set back, and is not counted.
func (b *budget) since(ms int64) (calls, bursts int) {
	for i := range b.ring {
		e := &b.ring[i]
		if e.calls == 0 || e.ms > ms || e.ms <= ms-secondMs {
			continue
		}
		calls += e.calls
		if e.burst {
			bursts += e.calls
		}
	}
	return calls, bursts
}
