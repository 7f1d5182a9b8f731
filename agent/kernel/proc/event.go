package proc

import (
	"bytes"
	"encoding/binary"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/flopwatch/flopwatch/agent/kernel/tasks"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Kind of an event.
type Kind uint8

// Kinds.
const (
	Exec Kind = 1
	Exit Kind = 2
)

// Event is a start or an end of a process.
type Event struct {
	Kind     Kind
	PID      int32
	Parent   int32  // 0: not known
	InnerPID int32  // its number in its own namespace; PID without BPF
	StartNs  uint64 // since boot; without BPF in whole ticks
	AtNs     uint64 // since boot, when it happened; without BPF when it was noticed
	Group    uint64 // id of its control group; 0: not known
	// Status is the exit status as wait(2) gives it; -1: not known, or no exit.
	Status int32
	By     wire.Source
	// GPU is true for an exit with a GPU open.
	GPU bool
	// Exe is the base name of the file of an exec; "": not known.
	Exe string
}

// StartTicks is the start as /proc/PID/stat tells it: with PID it names the process.
func (e *Event) StartTicks() uint64 { return e.StartNs / tasks.TickNs }

// eventBytes is the size of struct event of bpf/proc.
const eventBytes = 112

// parseEvent reads a record of the ring.
func parseEvent(b []byte) (e Event, ok bool) {
	if len(b) < eventBytes {
		return e, false
	}
	u64 := func(at int) uint64 { return binary.NativeEndian.Uint64(b[at:]) }
	u32 := func(at int) int32 { return int32(binary.NativeEndian.Uint32(b[at:])) }
	e = Event{StartNs: u64(0), AtNs: u64(8), Group: u64(16), PID: u32(24), Parent: u32(28), InnerPID: u32(32), Status: -1, By: wire.SourceEBPF, Kind: Kind(b[40]), GPU: b[41] != 0}
	switch {
	case e.PID <= 0:
		return e, false
	case e.Kind == Exec:
		name, _, _ := bytes.Cut(b[48:eventBytes], []byte{0})
		e.Exe = clean(name)
	case e.Kind == Exit:
		e.Status = u32(36)
	default:
		return e, false
	}
	return e, true
}

// clean makes a name that a user gave a file fit to be told.
func clean(name []byte) string {
	s := string(name)
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "?")
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

const maxQueued = 256

// Queue holds events for one reader. Its methods may be called from any goroutine.
type Queue struct {
	exits bool // those alone whose status is known

	mu     sync.Mutex
	events []Event
	from   int
	lost   uint64
}

// put adds an event; of too many, the oldest gives way.
func (q *Queue) put(e Event) {
	if q.exits && (e.Kind != Exit || e.Status < 0) {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.events) < maxQueued {
		q.events = append(q.events, e)
		return
	}
	q.events[q.from] = e
	q.from = (q.from + 1) % maxQueued
	q.lost++
}

// Take appends the events since the last call to list, oldest first, and returns how many
// have been lost since the beginning.
func (q *Queue) Take(list []Event) (_ []Event, lost uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	list = append(list, q.events[q.from:]...)
	list = append(list, q.events[:q.from]...)
	q.events, q.from = q.events[:0], 0
	return list, q.lost
}

// Exits hands over the ends of processes whose status is known.
type Exits struct {
	q   *Queue
	buf []Event
}

var _ source.ExitLister = (*Exits)(nil)

// TakeExits implements source.ExitLister. One goroutine calls it.
func (x *Exits) TakeExits(list []source.ProcessExit) []source.ProcessExit {
	x.buf, _ = x.q.Take(x.buf[:0])
	for i := range x.buf {
		e := &x.buf[i]
		list = append(list, source.ProcessExit{PID: e.PID, StartTicks: e.StartTicks(), Status: e.Status, By: e.By})
	}
	return list
}
