//go:build linux && cgo

package nvml

import (
	"bytes"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
)

func TestEvents(t *testing.T) {
	s := partitioned()
	s.Unprivileged = false // the instance of an event is told to the privileged
	c := newTalk(t, s)
	defer c.close()
	c.listened()
	for _, e := range []struct {
		event nvmlstub.Event
		want  frame.Event
	}{
		{nvmlstub.Event{GPU: 0, Data: 79}, frame.Event{GPU: 0, Kind: frame.EventXid, Code: 79, Count: 1, GI: -1, CI: -1}},
		{nvmlstub.Event{GPU: 1, Data: 63, MIG: nvmlstub.In(8, 0)}, frame.Event{GPU: 1, Kind: frame.EventXid, Code: 63, Count: 1, GI: 8, CI: 0}},
		{nvmlstub.Event{GPU: 1, Type: nvml.EventTypeDoubleBitEccError}, frame.Event{GPU: 1, Kind: frame.EventECCUncorrected, Count: 1, GI: -1, CI: -1}},
		{nvmlstub.Event{GPU: 0, Type: nvml.EventTypeSingleBitEccError}, frame.Event{GPU: 0, Kind: frame.EventECCCorrected, Count: 1, GI: -1, CI: -1}},
	} {
		if c.push(e.event); c.events[0] != e.want {
			t.Errorf("got %+v, want %+v", c.events[0], e.want)
		}
	}
	// A GPU falls off the bus: its last word comes, and the other is listened to on.
	if err := c.mem.SetLost(0, time.Duration(c.boot)*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	before := c.mem.Calls("nvmlDeviceRegisterEvents", 1)
	c.ask(frame.Request{Sample: 3, Events: true})
	if !slices.ContainsFunc(c.faults, func(f frame.Fault) bool { return f.GPU == 0 && f.Lost }) {
		t.Errorf("nobody said that it is lost: %+v", c.faults)
	}
	c.registered(1, before)
	if c.push(nvmlstub.Event{GPU: 1, Data: 31}); c.events[0].Code != 31 || c.events[0].GPU != 1 {
		t.Errorf("got %+v", c.events[0])
	}
	// It is back, and heard again.
	before = c.mem.Calls("nvmlDeviceRegisterEvents", 0)
	if err := c.mem.SetLost(0, -1); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.ask(frame.Request{Sample: 3, Events: true})
	}
	c.registered(0, before)
	if c.push(nvmlstub.Event{GPU: 0, Data: 94}); c.events[0].Code != 94 || c.events[0].GPU != 0 {
		t.Errorf("got %+v", c.events[0])
	}
	c.withinBudget()
}

// registered waits until a GPU is in a set of events once more.
func (c *talk) registered(gpu int, before uint64) {
	c.tb.Helper()
	for c.mem.Calls("nvmlDeviceRegisterEvents", gpu) == before {
		// Whether the GPU's worker or its listener comes first is the machine's affair: while
		// nothing is asked, the listener finds it idle.
		runtime.Gosched()
	}
	if err := c.mem.SetNow(time.Duration(c.boot+1) * time.Millisecond); err != nil {
		c.tb.Fatal(err)
	}
}

// heard asks until what is heard of events is as it should be.
func (c *talk) heard(is func(frame.Listening) bool) {
	c.tb.Helper()
	for len(c.listening) == 0 || !is(c.listening[len(c.listening)-1]) {
		c.ask(frame.Request{Sample: 1<<c.mem.GPUs() - 1, Events: true})
	}
}

// A set that fails is made anew by and by, however often GPUs want to be in it: each costs every GPU a call.
func TestNoEventsForAWhile(t *testing.T) {
	for _, function := range []string{"nvmlEventSetWait*", "nvmlEventSetCreate"} {
		t.Run(function, func(t *testing.T) {
			c := newTalk(t, training())
			defer c.close()
			c.faulty(nvmlstub.Fault{Function: function, Code: nvmlstub.CodeUnknown})
			c.heard(func(l frame.Listening) bool {
				return l.Able && l.Heard == 0 && l.Code == nvmlstub.CodeUnknown && strings.HasPrefix(l.Function, strings.TrimSuffix(function, "*"))
			})
			before, told := c.mem.Calls("nvmlEventSetCreate", nvmlstub.NoGPU), len(c.listening)
			for range 300 {
				c.ask(frame.Request{Sample: 0xff, Events: true})
				told += len(c.listening)
			}
			if n := c.mem.Calls("nvmlEventSetCreate", nvmlstub.NoGPU) - before; n > 30 {
				t.Errorf("%d sets were made in 300 requests", n)
			}
			if told > 2 {
				t.Errorf("what has not changed was told %d times", told)
			}
			c.faulty()
			c.heard(func(l frame.Listening) bool { return l == frame.Listening{Able: true, Heard: 0xff} })
		})
	}
}

// What a listener hears, by how long it has been in a call.
func TestListenerThatHangs(t *testing.T) {
	l, _ := storm()
	for _, c := range []call{callEventCreate, callEventRegister, callEventWait, callEventTypes} {
		l.lib.have[c] = true
	}
	l.seats[0].state.Store(seatTaken)
	l.seats[1].state.Store(seatNone)
	well := frame.Listening{Able: true, Heard: 1, Without: 2}
	if got := l.state(l.born.Add(time.Hour)); got != well {
		t.Errorf("in no call: %+v", got)
	}
	l.enter(callEventWait)
	began := l.born.Add(time.Duration(l.since.Load()))
	if got := l.state(began.Add(hangAfter)); got != well {
		t.Errorf("in a call that may take so long: %+v", got)
	}
	if got := l.state(began.Add(hangAfter + 1)); got.Heard != 0 || !got.Hangs || !strings.HasPrefix(got.Function, "nvmlEventSetWait") {
		t.Errorf("in a call that takes too long: %+v", got)
	}
	if l.back(); l.state(began.Add(time.Hour)) != well {
		t.Error("it has come back")
	}
}

// storm is a listener without a library, and what it writes.
func storm() (*listener, *bytes.Buffer) {
	var out bytes.Buffer
	lib := &library{waitV2: true}
	l := newListener(lib, newLink(&out))
	for i := range 2 {
		l.workers = append(l.workers, newWorker(lib, l.link, l, i))
	}
	return l, &out
}

func heard(t *testing.T, out *bytes.Buffer) (list []frame.Event) {
	t.Helper()
	for r := frame.NewReader(out); ; {
		typ, body, err := r.Next()
		if err != nil {
			return list
		}
		list = append(list, frame.Event{})
		if err = frame.DecodeEvent(body, &list[len(list)-1]); err != nil || typ != frame.TypeEvent {
			t.Fatal(typ, err)
		}
	}
}

// A thousand Xids a second are one frame at once and one with their number, and all are counted.
func TestStormOfEvents(t *testing.T) {
	l, out := storm()
	start := time.Now()
	for i := range 3000 {
		now := start.Add(time.Duration(i) * time.Millisecond)
		l.close(now)
		l.take(&nvml.EventData{EventType: nvml.EventTypeXidCriticalError, EventData: 31, GpuInstanceId: noInstance, ComputeInstanceId: noInstance}, now)
	}
	l.close(start.Add(4 * time.Second))
	list := heard(t, out)
	sum := 0
	for _, e := range list {
		sum += e.Count
		if e.Kind != frame.EventXid || e.Code != 31 || e.GPU != -1 || e.GI != -1 || e.AgoUs > 1_100_000 && e.Count == 1 {
			t.Errorf("event %+v", e)
		}
	}
	if sum != 3000 || len(list) != 6 {
		t.Errorf("%d events in %d frames", sum, len(list))
	}
}

// As many kinds of events as there may be: the frames of a second are bounded, and what goes
// beyond is counted.
func TestManyKindsOfEvents(t *testing.T) {
	l, out := storm()
	now := time.Now()
	for i := range uint64(5000) {
		l.take(&nvml.EventData{EventType: nvml.EventTypeXidCriticalError, EventData: i % 1000, GpuInstanceId: 1, ComputeInstanceId: noInstance}, now)
	}
	l.close(now.Add(2 * time.Second))
	list := heard(t, out)
	sum := 0
	for _, e := range list {
		sum += e.Count
	}
	if last := list[len(list)-1]; sum != 5000 || len(list) != 2*maxTallies+1 || last.Kind != frame.EventOther {
		t.Errorf("%d events in %d frames, the last %+v", sum, len(list), last)
	}
	if l.events != 0 || len(l.tallies) != 0 {
		t.Error("the next window begins with the last one's")
	}
	// Nothing of it allocates once it has begun.
	e := nvml.EventData{EventType: nvml.EventTypeXidCriticalError, EventData: 7}
	if n := testing.AllocsPerRun(100, func() { out.Reset(); l.take(&e, now) }); n != 0 {
		t.Errorf("%v allocations an event", n)
	}
}

func TestKindsOfEvents(t *testing.T) {
	for _, c := range []struct {
		typ, data uint64
		kind      frame.EventKind
		code      int64
	}{
		{nvml.EventTypeGpuRecoveryAction, 4, frame.EventRecovery, 4},
		{nvml.EventMigConfigChange, 9, frame.EventMIGConfig, 0},
		{nvml.EventTypeGpuUnavailableError, 9, frame.EventUnavailable, 0},
		{1 << 40, 9, frame.EventOther, 1 << 40},
		{nvml.EventTypeXidCriticalError, 1<<64 - 1, frame.EventXid, 1<<62 - 1},
	} {
		l, out := storm()
		l.take(&nvml.EventData{EventType: c.typ, EventData: c.data}, time.Now())
		if list := heard(t, out); len(list) != 1 || list[0].Kind != c.kind || list[0].Code != c.code {
			t.Errorf("type %#x: %+v", c.typ, list)
		}
	}
	for typ := uint64(1); typ < 1<<20; typ <<= 1 {
		if _, known := eventKinds[typ]; known != (eventTypes&typ != 0) {
			t.Errorf("type %#x is listened for and has no name, or the other way round", typ)
		}
	}
}
