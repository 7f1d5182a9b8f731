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

	// Of the goroutine of run.
	set     nvml.EventSet // nil: there is none
	pause   time.Duration // before the next set
	said    nvml.Return   // the last failure that was told
	tallies []tally
	others  int // events beyond the tallies
	events  int // in the window
	window  time.Time
	out     []byte
}

func newListener(lib *library, l *link) *listener {
	return &listener{lib: lib, link: l, wake: make(chan struct{}, 1), tallies: make([]tally, 0, maxTallies), pause: setWaitFirst}
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
	types, ret := w.handle.GetSupportedEventTypes()
	if !w.ok(callEventTypes, ret) {
		return
	}
	w.joined = hasJoined
	if types &= eventTypes; types != 0 {
		w.events.offer(w.index, w.handle, types)
		w.allowed-- // for the call that takes it
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
		case !l.ready():
			wait = l.pause
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
		set, ret := l.lib.api.EventSetCreate()
		if ret != nvml.SUCCESS {
			l.failed(callEventCreate, ret)
			return false
		}
		l.set = set
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
	ret := o.handle.RegisterEvents(o.types, l.set)
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
	e, ret := l.set.Wait(waitMs)
	switch ret {
	case nvml.SUCCESS:
		l.pause, l.said = setWaitFirst, nvml.SUCCESS
		l.take(&e, time.Now())
	case nvml.ERROR_TIMEOUT:
		l.pause, l.said = setWaitFirst, nvml.SUCCESS
	default:
		// A lost GPU is one reason: the set is of no use any more, and a new one is made of those
		// that are still there.
		l.failed(callEventWait, ret)
		l.free()
		l.pause = min(2*l.pause, setWaitMax)
		l.stale.Store(false)
	}
}

func (l *listener) failed(c call, ret nvml.Return) {
	if ret == l.said {
		return
	}
	l.said = ret
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
		_ = l.set.Free() // what it would say is of no use any more
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
