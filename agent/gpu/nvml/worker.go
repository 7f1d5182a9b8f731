//go:build linux && cgo

package nvml

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

const retryUs = 10 * 60 * 1_000_000 // until what was not supported is tried again

// worker reads one GPU. It belongs to the goroutine of run.
type worker struct {
	lib   *library
	link  *link
	index int
	jobs  chan message
	out   []byte

	// token is held while a request is answered: nobody else calls the GPU meanwhile.
	token  sync.Mutex
	events *listener
	joined int         // how far the GPU is in the listener's set: see join
	parted atomic.Bool // it may have been partitioned anew

	handle    nvml.Device // nil: not yet, or lost
	described bool        // it is known who it is
	whole     bool        // all of describe has been asked once
	again     bool        // it is to be described anew
	next      int         // part of describe, while there is something to ask; behind the last: there is not
	renewed   bool        // device is to be sent, even if it is what it was
	device    frame.Device
	told      frame.Device // as last sent
	off       [numCalls]int64
	offField  [numFields]int64
	offHealth [len(healthFields)]int64
	gpm       gpm
	mig       mig
	health    health
	look      processLook
	fields    []nvml.FieldValue
	asked     []uint8 // of fields, in the same order: their places in the table
	reserved  int64   // memory that the driver keeps, as of the last pass; -1
	budget    budget
	turn      int // of rare

	// Of the request that is being answered.
	job       message
	calls     int
	spent     int  // of calls, those that count
	allowed   int  // calls that the second has left
	keep      int  // of those, for the bursts to come
	bursting  bool // bursts come between this tick and the next
	lean      bool // what there is no room for is left out by intent
	short     int  // calls that were left out
	shortCall call // the first of them
	broken    bool // no more calls: the GPU is lost, or the library no longer fits
	began     time.Time
	slow      frame.Class
	slowUs    int64
}

func newWorker(lib *library, l *link, events *listener, index int) *worker {
	w := &worker{lib: lib, link: l, events: events, index: index, jobs: make(chan message, 1)}
	w.gpm.sets[0].all, w.gpm.sets[1].all, w.gpm.parts.all = gpmMetrics, gpmVitals, gpmParts
	w.reset()
	return w
}

// reset forgets what the GPU was.
func (w *worker) reset() {
	w.handle, w.described, w.whole, w.next, w.renewed = nil, false, false, 0, false
	w.device = frame.Unknown(w.index)
	w.device.DriverVersion, w.device.CCMode = w.lib.driver, w.lib.ccMode
	clear(w.off[:])
	clear(w.offField[:])
	clear(w.offHealth[:])
	w.gpm.fresh, w.gpm.asked = false, false
	w.mig.forget()
	w.health.active, w.look.active, w.look.step, w.joined = false, false, 0, notJoined
	w.events.leave(w.index)
	w.reserved = -1
}

func (w *worker) run() {
	for m := range w.jobs {
		w.token.Lock()
		w.answer(m)
		w.token.Unlock()
		if w.events.seats[w.index].state.Load() == seatOffered {
			w.events.rouse()
		}
	}
	w.gpm.free(w.lib)
	w.mig.free(w.lib)
}

// answer answers one request: what is asked for at once first, and then, as far as the calls
// of this second allow, what may wait.
func (w *worker) answer(m message) {
	start := time.Now()
	bit := uint64(1) << w.index
	sample, burst, gpmToo := m.Sample&bit != 0, m.Burst&bit != 0, m.BurstGPM&bit != 0
	between := burst && (m.Sample|m.Processes|m.Health)&bit == 0 // nothing but a burst
	w.begin(m, sample && burst)
	w.again = w.again || m.Type == frame.TypeDescribe && !between
	w.guard(w.meet)
	if w.described {
		if m.Processes&bit != 0 {
			w.look.active = true
		}
		if m.Health&bit != 0 {
			w.health.begin()
			w.mig.wanted = true
		}
	}
	// Not before it has said who it is: the agent may know another by this index.
	switch {
	case !w.described || w.broken:
	case sample:
		w.guard(w.pass)
	case burst:
		w.guard(func() { w.burst(gpmToo) })
	}
	w.tell(true)
	if !between && w.described && !w.broken {
		w.rare()
	}
	if w.short > 0 {
		w.fault(symbols[w.shortCall][0], frame.CodeBudget, fmt.Sprintf("%d calls left out: %d in a second are the limit", w.short, maxCalls))
	}
	w.tell(false)
	took := time.Since(start)
	done := frame.Done{GPU: w.index, Seq: m.Seq, TookUs: took.Microseconds(), Calls: w.calls, Slow: w.slow, SlowUs: w.slowUs}
	w.out = frame.AppendDone(w.out, &done)
	ms := m.BootMs
	if took.Milliseconds() > longMs {
		ms = w.clockUs() / 1000
	}
	w.budget.add(ms, w.spent, between)
	w.link.answer(w.out, true)
	w.out = w.out[:0]
}

func (w *worker) begin(m message, bursting bool) {
	w.job, w.calls, w.spent, w.broken, w.short, w.keep, w.lean, w.bursting = m, 0, 0, false, 0, 0, false, bursting
	w.slow, w.slowUs = frame.NoCall, 0
	w.out = w.out[:0]
	calls, bursts := w.budget.since(m.BootMs)
	w.allowed = maxCalls - calls - w.owed()
	if bursting && bursts == 0 {
		// How many calls the first second of bursts will take, nobody knows. Later ones take
		// what those of the last second leave behind.
		w.keep = maxCalls
	}
}

// left is how many calls may still be made, beside those that are kept for bursts.
func (w *worker) left() int {
	if w.lean {
		return w.allowed - w.spent - w.keep
	}
	return w.allowed - w.spent
}

// rare goes on with what may wait: a list of processes first, and the rest in turn, so that
// none of it waits for ever.
func (w *worker) rare() {
	w.lean = w.bursting
	w.guard(func() { w.instances(1 + w.turn%2) }) // whatever else waits
	w.guard(w.join)
	if !w.look.active || w.turn%2 == 0 {
		w.guard(func() { w.refresh(1) })
	}
	if w.look.active && w.left() >= listCalls && w.sorted() {
		w.flush() // the reading does not wait for the list, which may take long
		w.guard(w.processes)
	}
	last := [...]func(){w.vitals, w.partition, func() { w.refresh(numDescriptions) }, func() { w.instances(frame.MaxInstances) }}
	if w.turn%2 == 1 {
		last[0], last[1], last[2], last[3] = last[1], last[0], last[3], last[2]
	}
	for _, f := range last {
		w.guard(f)
	}
	w.turn++
}

// tell sends the device, if it is new or has changed: the first word of it in front of the
// reading, as who reads that wants to know whose it is.
func (w *worker) tell(front bool) {
	if !w.described || front && w.told.UUID == w.device.UUID {
		return
	}
	w.capabilities()
	// While it is asked bit by bit, only the beginning and the end are told.
	if !front && !w.renewed && (!w.whole || same(&w.device, &w.told)) {
		return
	}
	w.renewed = false
	w.device.Whole = w.whole
	if front {
		w.out = append(frame.AppendDevice(nil, &w.device), w.out...)
	} else {
		w.out = frame.AppendDevice(w.out, &w.device)
	}
	w.told = w.device
	w.told.Capabilities = slices.Clone(w.device.Capabilities)
}

// flush lets go of what there is before the end of an answer.
func (w *worker) flush() {
	if len(w.out) > 0 {
		w.link.answer(w.out, false)
		w.out = w.out[:0]
	}
}

// guard lives through what the binding does with counts and sizes that cannot be.
func (w *worker) guard(f func()) {
	if w.broken {
		return
	}
	defer func() {
		if r := recover(); r != nil {
			w.fault("", frame.CodePanic, fmt.Sprint(r))
		}
	}()
	f()
}

// clockUs is the requests' clock: the agent's tick, and what has passed since it was heard.
func (w *worker) clockUs() int64 {
	return w.job.BootMs*1000 + time.Since(w.job.at).Microseconds()
}

func (w *worker) fault(function string, code int, what string) {
	f := frame.Fault{GPU: w.index, Seq: w.job.Seq, Function: function, Code: code, Text: what}
	w.out = frame.AppendFault(w.out, &f)
}

func (w *worker) implausible(c call, what string) {
	w.fault(symbols[c][0], frame.CodeImplausible, what)
}

// able reports whether a function is there, and not known to be unsupported.
func (w *worker) able(c call) bool {
	return !w.broken && w.lib.have[c] && (w.off[c] == 0 || w.clockUs() >= w.off[c])
}

// may reports whether a function may be called now. Every call comes right behind it.
func (w *worker) may(c call) bool {
	if !w.able(c) {
		return false
	}
	if w.left() <= 0 {
		w.leave(c)
		return false
	}
	w.began = time.Now()
	return true
}

// leave notes a call for which there is no room.
func (w *worker) leave(c call) {
	if w.lean {
		return
	}
	if w.short == 0 {
		w.shortCall = c
	}
	w.short++
}

// works reports whether a function can be counted on.
func (w *worker) works(c call) bool { return w.lib.have[c] && w.off[c] == 0 }

// count notes a call, and how long it took.
func (w *worker) count(c call) {
	w.calls++
	if c != callGPMAlloc { // which is the library's memory, and nothing that the GPU does
		w.spent++
	}
	if us := time.Since(w.began).Microseconds(); us > w.slowUs || w.slow == frame.NoCall {
		w.slow, w.slowUs = classOf(c), us
	}
}

// ok counts a call and sorts what it returned. False: there is no value.
func (w *worker) ok(c call, ret nvml.Return) bool {
	w.count(c)
	return w.sort(c, ret)
}

func (w *worker) sort(c call, ret nvml.Return) bool {
	switch ret {
	case nvml.SUCCESS:
		w.off[c] = 0
		return true
	case nvml.ERROR_NOT_SUPPORTED:
		w.off[c] = w.clockUs() + retryUs
		if c == callGPMSample || c == callUtilization {
			w.mig.wanted = true // it may have been partitioned: look before that is said
		}
		return false
	case nvml.ERROR_NO_PERMISSION, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_ARGUMENT_VERSION_MISMATCH, nvml.ERROR_DEPRECATED:
		w.off[c] = w.clockUs() + retryUs
	case nvml.ERROR_INVALID_ARGUMENT: // as some drivers say that they do not know a thing
		switch classOf(c) {
		case frame.ClassHealth, frame.ClassIdentity, frame.ClassMIG:
			w.off[c] = w.clockUs() + retryUs
		default:
		}
	}
	f := frame.Fault{GPU: w.index, Seq: w.job.Seq, Function: symbols[c][0], Code: int(ret), Text: text(ret)}
	f.Lost, f.Ending = lost(ret), reload(ret)
	w.out = frame.AppendFault(w.out, &f)
	switch {
	case f.Lost:
		w.broken = true
		w.reset()
	case f.Ending:
		w.broken = true
		w.flush()
		w.link.end()
	}
	return false
}

func lost(ret nvml.Return) bool {
	return ret == nvml.ERROR_GPU_IS_LOST || ret == nvml.ERROR_RESET_REQUIRED || ret == nvml.ERROR_GPU_NOT_FOUND
}
