package gpu_test

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/agent/source"
)

const hearing = "gpu/events"

// hears waits for a state of what is heard of events, the words of its reason, and that the GPUs
// themselves are as well as they were.
func (r *rig) hears(state source.State, words ...string) {
	r.tb.Helper()
	r.until("events are "+string(state), func() bool { return r.out.status[hearing].State == state })
	for _, w := range words {
		if st := r.out.status[hearing]; !strings.Contains(st.Reason, w) {
			r.tb.Errorf("%+v does not say %q", st, w)
		}
	}
	for g := range r.mem.GPUs() {
		if r.state(g) != source.Active {
			r.tb.Errorf("GPU %d: %+v", g, r.out.status["gpu/"+r.mem.UUID(g)])
		}
	}
}

// A host on which Xid errors are not heard says so, and why, and that they are heard again.
func TestWhetherEventsAreHeard(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour), gpu.Config{AnswerWait: 3 * time.Second, KillAfter: time.Minute})
	faults := func(list ...nvmlstub.Fault) {
		t.Helper()
		if err := r.mem.SetFaults(list...); err != nil {
			t.Fatal(err)
		}
	}
	r.hears(source.Active)
	if st := r.out.status[hearing]; st.Reason != "" {
		t.Errorf("%+v", st)
	}
	faults(nvmlstub.Fault{Function: "nvmlEventSetWait*", Code: nvmlstub.CodeUnknown})
	r.hears(source.Degraded, "nvmlEventSetWait", "tried again", "Xid")
	faults()
	r.hears(source.Active)
	faults(nvmlstub.Fault{Function: "nvmlEventSetWait*", Delay: nvmlstub.Hang})
	r.hears(source.Stalled, "nvmlEventSetWait", "hangs")
	faults()
	r.hears(source.Active)
	// The whole child may hang: then nobody knows.
	child := r.src.Stats().ChildPID
	if err := syscall.Kill(child, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.until("nobody knows", func() bool { return strings.Contains(r.out.status[hearing].Reason, "is not known") })
	if err := syscall.Kill(child, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.until("it is known again", func() bool { return r.out.status[hearing].State == source.Active })
	// The child is gone, and its ear with it; the next one hears.
	if err := syscall.Kill(r.src.Stats().ChildPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.until("nobody hears", func() bool { return r.out.status[hearing].State == source.Stalled })
	r.until("somebody hears again", func() bool { return r.out.status[hearing].State == source.Active })
	if err := r.src.Close(); err != nil {
		t.Error(err)
	}
}

// What a driver does not have is unavailable, or degraded where some GPUs have it.
func TestEventsThatThereAreNot(t *testing.T) {
	for name, c := range map[string]struct {
		o      nvmlstub.Options
		faults []nvmlstub.Fault
		state  source.State
		words  string
	}{
		"no functions":         {nvmlstub.Options{Without: []string{"nvmlEventSetWait*"}}, nil, source.Unavailable, "has no functions"},
		"no set":               {nvmlstub.Options{}, []nvmlstub.Fault{{Function: "nvmlEventSetCreate", Code: nvmlstub.CodeNotSupported}}, source.Unavailable, "nvmlEventSetCreate"},
		"virtual GPUs":         {nvmlstub.Options{}, []nvmlstub.Fault{{Function: "nvmlDeviceGetSupportedEventTypes", Code: nvmlstub.CodeNotSupported}}, source.Unavailable, "virtual"},
		"one of two GPUs":      {nvmlstub.Options{}, []nvmlstub.Fault{{Function: "nvmlDeviceRegisterEvents", GPUs: []int{1}, Code: nvmlstub.CodeNotSupported}}, source.Degraded, "1 of 2 GPUs"},
		"one of them does not": {nvmlstub.Options{}, []nvmlstub.Fault{{Function: "nvmlDeviceGetSupportedEventTypes", GPUs: []int{0}, Code: nvmlstub.CodeNotSupported}}, source.Degraded, "1 of 2 GPUs"},
	} {
		t.Run(name, func(t *testing.T) {
			s := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour)
			s.Faults = c.faults
			r := newRig(t, c.o, s, gpu.Config{})
			r.hears(c.state, c.words, "Xid")
			if err := r.src.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	// Where nobody wants to hear of them, nothing is said; where there is no driver, "gpu" has said it.
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 1, 0, time.Hour), gpu.Config{NoEvents: true})
	r.steps(20)
	if st, told := r.out.status[hearing]; told {
		t.Errorf("%+v", st)
	}
	none := bare(t, gpu.Config{Child: os.Args[0], Env: []string{fakeMode + "=empty"}})
	none.until("no GPU is seen", func() bool { return none.out.status["gpu"].State == source.Unavailable })
	if st, told := none.out.status[hearing]; told {
		t.Errorf("%+v", st)
	}
}
