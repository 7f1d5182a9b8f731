package gpu

import (
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/source"
)

// A GPU that is not listened to for a minute is a blind spot; one that is lost or hangs has a state
// of its own, and the minute begins anew when all are heard.
func TestDeafness(t *testing.T) {
	s := &Source{cfg: Config{}.withDefaults(), gpus: []*gpuState{{}, {}, {}}}
	start := time.Now()
	for i, c := range []struct {
		at   time.Duration
		e    frame.Listening
		do   func()
		want source.State
		ok   bool
	}{
		{0, frame.Listening{Able: true}, nil, "", false},
		{59 * time.Second, frame.Listening{Able: true, Heard: 1}, nil, "", false},
		{60 * time.Second, frame.Listening{Able: true, Heard: 1}, nil, source.Degraded, true},
		{61 * time.Second, frame.Listening{Able: true, Heard: 7}, nil, source.Active, true},
		{70 * time.Second, frame.Listening{Able: true, Heard: 5}, nil, "", false},
		{129 * time.Second, frame.Listening{Able: true, Heard: 5}, nil, "", false},
		{131 * time.Second, frame.Listening{Able: true, Heard: 5}, func() { s.gpus[1].lost = "off the bus" }, source.Active, true},
		{200 * time.Second, frame.Listening{Able: true, Heard: 1}, func() { s.gpus[2].asked, s.gpus[2].askedAt = true, start }, source.Active, true},
		{210 * time.Second, frame.Listening{Able: true, Heard: 1, Without: 6}, nil, source.Degraded, true},
		{220 * time.Second, frame.Listening{Able: true, Without: 7}, nil, source.Unavailable, true},
		{230 * time.Second, frame.Listening{Able: true, Heard: 1, Without: 1 << 40}, nil, source.Active, true}, // of a GPU that there is not
		{240 * time.Second, frame.Listening{}, nil, source.Unavailable, true},
	} {
		if c.do != nil {
			c.do()
		}
		st, why, ok := s.hearing(&c.e, start.Add(c.at))
		if ok != c.ok || ok && st != c.want || ok && (why == "") != (st == source.Active) {
			t.Errorf("%d: %q, %q, %v; want %q, %v", i, st, why, ok, c.want, c.ok)
		}
		if ok && st == source.Degraded && !strings.Contains(why, "2 of 3 GPUs") {
			t.Errorf("%d: %q", i, why)
		}
	}
}
