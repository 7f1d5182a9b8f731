//go:build linux && cgo

package nvml

import (
	"sync/atomic"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

const (
	waitMs       = 500 // of one call that waits for an event: so long may the end of the process take
	windowEvery  = time.Second
	maxTallies   = 64   // kinds of events in a window, told one by one
	maxEvents    = 4096 // in a window: then the library is left alone until it ends
	setWaitFirst = time.Second
	setWaitMax   = time.Minute
	// hangAfter is when a call of the listener's is late: none takes longer than waitMs by right.
	hangAfter = 3 * time.Second
)

// eventTypes are what is listened for. Changes of clocks and of performance states come by the
// thousand and say nothing that is not sampled.
const eventTypes = nvml.EventTypeXidCriticalError | nvml.EventTypeSingleBitEccError | nvml.EventTypeDoubleBitEccError |
	nvml.EventTypePowerSourceChange | nvml.EventMigConfigChange | nvml.EventTypeSingleBitEccErrorStorm | nvml.EventTypeDramRetirementEvent |
	nvml.EventTypeDramRetirementFailure | nvml.EventTypeNonFatalPoisonError | nvml.EventTypeFatalPoisonError | nvml.EventTypeGpuUnavailableError |
	nvml.EventTypeGpuRecoveryAction

var eventKinds = map[uint64]frame.EventKind{
	nvml.EventTypeXidCriticalError: frame.EventXid, nvml.EventTypeSingleBitEccError: frame.EventECCCorrected,
	nvml.EventTypeDoubleBitEccError: frame.EventECCUncorrected, nvml.EventTypeSingleBitEccErrorStorm: frame.EventECCStorm,
	nvml.EventMigConfigChange: frame.EventMIGConfig, nvml.EventTypePowerSourceChange: frame.EventPowerSource,
	nvml.EventTypeDramRetirementEvent: frame.EventMemoryRetired, nvml.EventTypeDramRetirementFailure: frame.EventMemoryRetirementFailed,
	nvml.EventTypeNonFatalPoisonError: frame.EventPoison, nvml.EventTypeFatalPoisonError: frame.EventFatalPoison,
	nvml.EventTypeGpuUnavailableError: frame.EventUnavailable, nvml.EventTypeGpuRecoveryAction: frame.EventRecovery,
}

// How far a worker is in the listener's set.
const (
	notJoined = iota
	hasJoined // or will not
)

// States of a seat.
const (
	seatEmpty int32 = iota
	seatOffered
	seatTaken
	seatRefused
	seatNone // the GPU has no events, or the driver does not say which
)

// seat is a GPU's place in the set of events. Its worker offers it, the listener takes it.
type seat struct {
	offer atomic.Pointer[offer]
	state atomic.Int32
	debt  atomic.Int32 // calls that the listener made and the worker has not counted yet
}

type offer struct {
	handle nvml.Device
	types  uint64
}

// trouble is a call without which nothing is heard, and how it failed.
type trouble struct {
	call call
	ret  nvml.Return
}

// tally counts events that are alike, within a window.
type tally struct {
	event frame.Event // as it was told when the first came
	since time.Time   // the first that was not told
	count int         // not told
}

// listener waits for events of all GPUs. The set is its own: nobody else calls it.
type listener struct {
	lib     *library
	link    *link
	workers []*worker
	seats   [frame.MaxGPUs]seat
	on      atomic.Bool
	stale   atomic.Bool // the set is to be made anew
	wake    chan struct{}
	born    time.Time
	within  atomic.Int32            // the call that it is in, and since when, in ns behind born;
	since   atomic.Int64            // 0: it is in none
	trouble atomic.Pointer[trouble] // nil: there is none

	// Of the goroutine that reports.
	told     frame.Listening
	reported bool

	// Of the goroutine of run.
	set     nvml.EventSet // nil: there is none
	pause   time.Duration // before the next set, when the last one failed
	after   time.Time     // when that may be
	tallies []tally
	others  int // events beyond the tallies
	events  int // in the window
	window  time.Time
	out     []byte
}

func newListener(lib *library, l *link) *listener {
	return &listener{lib: lib, link: l, wake: make(chan struct{}, 1), born: time.Now(), tallies: make([]tally, 0, maxTallies), pause: setWaitFirst}
}

func (l *listener) able() bool {
	return l.lib.have[callEventCreate] && l.lib.have[callEventRegister] && l.lib.have[callEventWait] && l.lib.have[callEventTypes]
}

// listen begins or ends to listen.
func (l *listener) listen(on bool) {
	if on = on && l.able(); l.on.Swap(on) != on {
		l.rouse()
	}
}

// report tells what is heard, if that has changed. It asks nothing of the listener, which may hang.
func (l *listener) report(now time.Time) {
	if v := l.state(now); !l.reported || v != l.told {
		l.told, l.reported = v, true
		l.link.write(frame.AppendListening(nil, &v))
	}
}

func (l *listener) state(now time.Time) frame.Listening {
	v := frame.Listening{Able: l.able()}
	if !v.Able {
		return v
	}
	for i := range l.workers {
		switch l.seats[i].state.Load() {
		case seatTaken:
			v.Heard |= 1 << i
		case seatRefused, seatNone:
			v.Without |= 1 << i
		}
	}
	if since := l.since.Load(); since != 0 && now.Sub(l.born)-time.Duration(since) > hangAfter {
		v.Hangs, v.Heard, v.Function = true, 0, symbols[l.within.Load()][0]
	} else if t := l.trouble.Load(); t != nil {
		v.Heard, v.Function, v.Code, v.Text = 0, symbols[t.call][0], int(t.ret), text(t.ret)
	}
	return v
}

// enter says that a call begins, and gives what says that it has ended.
func (l *listener) enter(c call) {
	l.within.Store(int32(c))
	l.since.Store(max(1, int64(time.Since(l.born))))
}

func (l *listener) back() { l.since.Store(0) }

func (l *listener) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// offer hands a GPU to the listener.
func (l *listener) offer(gpu int, handle nvml.Device, types uint64) {
	l.seats[gpu].offer.Store(&offer{handle: handle, types: types})
	l.seats[gpu].state.Store(seatOffered)
	l.rouse()
}

// leave takes a GPU back: its handle means nothing any more.
func (l *listener) leave(gpu int) {
	if l.seats[gpu].state.Swap(seatEmpty) == seatTaken {
		l.stale.Store(true)
	}
}

// join asks what events the GPU has, and offers it to the listener. The call that takes the
// offer is paid for from then on.
func (w *worker) join() {
	if w.joined != notJoined || !w.events.on.Load() || w.left() < 2 || !w.may(callEventTypes) {
		return
	}
	seat := &w.events.seats[w.index].state
	types, ret := w.handle.GetSupportedEventTypes()
	if !w.ok(callEventTypes, ret) {
		if !w.works(callEventTypes) {
			seat.CompareAndSwap(seatEmpty, seatNone)
		}
		return
	}
	w.joined = hasJoined
	if types &= eventTypes; types != 0 {
		w.events.offer(w.index, w.handle, types)
		w.allowed-- // for the call that takes it
	} else {
		seat.CompareAndSwap(seatEmpty, seatNone)
	}
}

// owed is how many calls the listener has made, or is about to make.
func (w *worker) owed() (about int) {
	s := &w.events.seats[w.index]
	w.spent += int(s.debt.Swap(0))
	if s.state.Load() == seatOffered {
		return 1
	}
	return 0
}

// run listens until stop is closed, or as long as a call takes.
func (l *listener) run(stop <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	rest := func(d time.Duration) bool {
		timer.Reset(d)
		select {
		case <-stop:
			return false
		case <-timer.C:
		case <-l.wake:
		}
		return true
	}
	for {
		select {
		case <-stop:
			l.free()
			return
		default:
		}
		if !l.on.Load() || l.stale.Swap(false) {
			l.free()
		}
		var wait time.Duration
		switch {
		case !l.on.Load():
			wait = time.Hour
		case l.set == nil && time.Now().Before(l.after): // whoever wants to be heard
			wait = max(time.Until(l.after), time.Millisecond)
		case !l.ready():
			if l.set != nil {
				wait = l.pause
			}
		case l.events >= maxEvents:
			wait = max(0, windowEvery-time.Since(l.window))
		default:
			l.next()
		}
		l.close(time.Now())
		if wait > 0 && !rest(wait) {
			l.free()
			return
		}
	}
}

// ready makes a set, if there is none, and puts in it who is to be there.
func (l *listener) ready() bool {
	if l.set == nil {
		l.enter(callEventCreate)
		set, ret := l.lib.api.EventSetCreate()
		l.back()
		if ret != nvml.SUCCESS {
			l.failed(callEventCreate, ret)
			return false
		}
		l.set = set
		if t := l.trouble.Load(); t != nil && t.call == callEventCreate {
			l.trouble.Store(nil)
		}
	}
	some := false
	for i, w := range l.workers {
		s := &l.seats[i]
		// While its worker is at it, a GPU is called by nobody else: it is another time's turn.
		if s.state.Load() == seatOffered && w.token.TryLock() {
			l.register(i, s)
			w.token.Unlock()
		}
		some = some || s.state.Load() == seatTaken
	}
	return some
}

func (l *listener) register(gpu int, s *seat) {
	o := s.offer.Load()
	if s.state.Load() != seatOffered || o == nil {
		return
	}
	l.enter(callEventRegister)
	ret := o.handle.RegisterEvents(o.types, l.set)
	l.back()
	s.debt.Add(1)
	if ret == nvml.SUCCESS {
		s.state.CompareAndSwap(seatOffered, seatTaken)
		return
	}
	s.state.CompareAndSwap(seatOffered, seatRefused)
	f := frame.Fault{GPU: gpu, Function: symbols[callEventRegister][0], Code: int(ret), Text: text(ret)}
	l.link.write(frame.AppendFault(nil, &f))
}

// next waits for one event.
func (l *listener) next() {
	l.enter(callEventWait)
	e, ret := l.set.Wait(waitMs)
	l.back()
	switch ret {
	case nvml.SUCCESS:
		l.pause = setWaitFirst
		l.trouble.Store(nil)
		l.take(&e, time.Now())
	case nvml.ERROR_TIMEOUT:
		l.pause = setWaitFirst
		l.trouble.Store(nil)
	default:
		// A lost GPU is one reason: the set is of no use any more, and a new one is made of those
		// that are still there.
		l.failed(callEventWait, ret)
		l.free()
		l.stale.Store(false)
	}
}

// failed puts the next set off, longer each time, whoever wants to be heard meanwhile: every set
// costs each GPU a call.
func (l *listener) failed(c call, ret nvml.Return) {
	l.after = time.Now().Add(l.pause)
	l.pause = min(2*l.pause, setWaitMax)
	if t := l.trouble.Load(); t != nil && *t == (trouble{c, ret}) {
		return
	}
	l.trouble.Store(&trouble{c, ret})
	f := frame.Fault{GPU: -1, Function: symbols[c][0], Code: int(ret), Text: text(ret), Ending: reload(ret)}
	l.link.write(frame.AppendFault(nil, &f))
	if f.Ending {
		l.link.end()
	}
}

// free gives the set back. Who was in it is to be put into the next.
func (l *listener) free() {
	if l.set == nil {
		return
	}
	if l.lib.have[callEventFree] {
		l.enter(callEventFree)
		_ = l.set.Free() // what it would say is of no use any more
		l.back()
	}
	l.set = nil
	for i := range l.seats {
		l.seats[i].state.CompareAndSwap(seatTaken, seatOffered)
		l.seats[i].state.CompareAndSwap(seatRefused, seatOffered)
	}
}

// take sorts an event: the first of its kind in a window is told at once, and those that are
// alike are counted until the window ends.
func (l *listener) take(e *nvml.EventData, now time.Time) {
	l.events++
	v := frame.Event{GPU: -1, Count: 1, GI: instanceOf(e.GpuInstanceId, l.lib.waitV2), CI: instanceOf(e.ComputeInstanceId, l.lib.waitV2)}
	for i := range l.workers {
		if o := l.seats[i].offer.Load(); o != nil && o.handle == e.Device {
			v.GPU = i
		}
	}
	kind, ok := eventKinds[e.EventType]
	switch {
	case !ok:
		v.Kind, v.Code = frame.EventOther, int64(e.EventType&(1<<62-1))
	case kind == frame.EventXid || kind == frame.EventRecovery:
		v.Kind, v.Code = kind, int64(e.EventData&(1<<62-1))
	default:
		v.Kind = kind
	}
	if v.Kind == frame.EventMIGConfig && v.GPU >= 0 {
		l.workers[v.GPU].parted.Store(true)
	}
	for i := range l.tallies {
		if t := &l.tallies[i]; t.event == v {
			if t.count == 0 {
				t.since = now
			}
			t.count++
			return
		}
	}
	if len(l.tallies) == cap(l.tallies) {
		l.others++
		return
	}
	if len(l.tallies) == 0 {
		l.window = now
	}
	l.tallies = append(l.tallies, tally{event: v})
	l.out = frame.AppendEvent(l.out[:0], &v)
	l.link.write(l.out)
}

func instanceOf(id uint32, known bool) int {
	if !known || id >= 1<<10 {
		return frame.WholeGPU
	}
	return int(id)
}

// close ends a window that is over, and tells what came in it.
func (l *listener) close(now time.Time) {
	if len(l.tallies) == 0 || now.Sub(l.window) < windowEvery {
		return
	}
	l.out = l.out[:0]
	for i := range l.tallies {
		if t := &l.tallies[i]; t.count > 0 {
			t.event.Count, t.event.AgoUs = t.count, max(0, now.Sub(t.since).Microseconds())
			l.out = frame.AppendEvent(l.out, &t.event)
		}
	}
	if l.others > 0 {
		e := frame.Event{GPU: -1, Kind: frame.EventOther, Count: l.others, GI: frame.WholeGPU, CI: frame.WholeGPU, AgoUs: max(0, now.Sub(l.window).Microseconds())}
		l.out = frame.AppendEvent(l.out, &e)
	}
	l.tallies, l.others, l.events = l.tallies[:0], 0, 0
	if len(l.out) > 0 {
		l.link.write(l.out)
	}
}
