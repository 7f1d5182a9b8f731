package loadgen

import (
	"fmt"
	"slices"
	"time"
)

// Snapshot is how a fleet is.
type Snapshot struct {
	At                time.Time
	Hosts, GPUs       int
	Frames, Bytes     uint64 // sealed
	Rows, Samples     uint64
	Published, Acked  uint64 // frames; Published counts repeats
	Committed         uint64 // frames
	CommittedRows     uint64
	CommittedSamples  uint64
	Lost              uint64 // frames that spools gave up; their rows
	LostRows          uint64
	Resent, Errors    uint64
	Waiting           int           // frames that are not committed
	Oldest            time.Duration // how long the first of them waits
	Late              time.Duration // how late a seal was at most: the generator's own lag
	Away              int           // hosts without a connection
	Troubles          map[string]int
	Reason            string // of one host in trouble
	Refused           map[string]uint64
	Ack, Commit       Lag
	Visible           Lag
	windowAck, window Lag
	windowVisible     Lag
}

// Snapshot looks at all hosts.
func (f *Fleet) Snapshot() Snapshot {
	f.mu.Lock()
	nodes := slices.Clone(f.nodes)
	f.mu.Unlock()
	c := &f.count
	s := Snapshot{
		At: time.Now(), Hosts: len(nodes), GPUs: len(nodes) * f.cfg.GPUs, Troubles: map[string]int{}, Refused: map[string]uint64{},
		Committed: c.commFrames.Load(), CommittedRows: c.commRows.Load(), CommittedSamples: c.commSamples.Load(), Acked: c.ackedFrames.Load(),
		Lost: c.lostFrames.Load(), LostRows: c.lostRows.Load(), Late: time.Duration(c.lateMost.Load()),
		Published: c.departedFrames.Load(), Resent: c.resent.Load(), Errors: c.errors.Load(),
		Ack: c.ack.lag(), Commit: c.commit.lag(), Visible: c.visible.lag(),
		windowAck: c.ackNow.lag(), window: c.commitNow.lag(), windowVisible: c.visibleNow.lag(),
	}
	// Behind those of what was done with them, so that no frame is committed and not sealed.
	s.Frames, s.Bytes, s.Rows, s.Samples = c.frames.Load(), c.bytes.Load(), c.rows.Load(), c.samples.Load()
	for _, n := range nodes {
		at, frames := n.oldest()
		s.Waiting += frames
		if frames > 0 {
			s.Oldest = max(s.Oldest, s.At.Sub(at))
		}
		st, err := n.state()
		if err != nil {
			s.Away++
			s.Reason = err.Error()
		}
		s.Published += st.Published
		s.Resent += st.Resent
		s.Errors += st.Errors
		for why, k := range st.Refused {
			s.Refused[string(why)] += k
		}
		if st.Trouble != "" {
			s.Troubles[string(st.Trouble)]++
			s.Reason = fmt.Sprintf("%s: %s", n.host.name, st.Reason)
		}
	}
	return s
}

// oldest is how long the frame waits that waits longest: cheaper to know than a Snapshot.
func (f *Fleet) oldest() (most time.Duration) {
	f.mu.Lock()
	nodes := slices.Clone(f.nodes)
	f.mu.Unlock()
	now := time.Now()
	for _, n := range nodes {
		if at, frames := n.oldest(); frames > 0 {
			most = max(most, now.Sub(at))
		}
	}
	return most
}

// window begins to count lag anew.
func (f *Fleet) window() {
	f.count.ackNow.reset()
	f.count.commitNow.reset()
	f.count.visibleNow.reset()
	f.count.lateMost.Store(0)
}
