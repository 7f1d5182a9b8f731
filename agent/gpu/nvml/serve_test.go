//go:build linux && cgo

package nvml

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
)

// writes is an agent that takes what is written when it wants to.
type writes struct {
	came chan string
	err  error
}

func (w *writes) Write(b []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.came <- string(b)
	return len(b), nil
}

// none fails if something was written.
func (w *writes) none(t *testing.T) {
	t.Helper()
	if len(w.came) != 0 {
		t.Errorf("written too early: %q", <-w.came)
	}
}

// Answers of GPUs that are at work go together; none waits for one that hangs, none is lost or told twice.
func TestAnswersGoTogether(t *testing.T) {
	w := &writes{came: make(chan string, 64)}
	l := newLink(w)
	for range 3 {
		l.asked()
	}
	l.late.Reset(1 << 62) // a machine that is busy is no GPU that hangs
	l.mu.Lock()
	l.out = append(l.out, "part "...)
	l.mu.Unlock()
	l.answer([]byte("one "), true)
	l.answer([]byte("two, "), false)
	l.answer([]byte("more of it "), true)
	w.none(t)
	l.answer([]byte("three"), true)
	if got := <-w.came; got != "part one two, more of it three" {
		t.Errorf("written: %q", got)
	}
	w.none(t)
	// Two of three hang. Of the third each answer comes all the same.
	l.asked()
	l.asked()
	for range 3 {
		l.asked()
		l.answer([]byte("well"), true)
		if got := <-w.came; got != "well" {
			t.Errorf("written: %q", got)
		}
	}
	// An event does not wait, and takes along what does.
	l.asked()
	l.late.Reset(1 << 62)
	l.answer(nil, true)
	w.none(t)
	l.write([]byte("event"))
	if got := <-w.came; got != "event" {
		t.Errorf("written: %q", got)
	}
	// What is long waits for nobody.
	long := strings.Repeat("x", enough)
	l.mu.Lock()
	l.out = append(l.out, "x"...) // whose timer is not running
	l.mu.Unlock()
	l.answer([]byte(long), false)
	if got := <-w.came; got != "x"+long {
		t.Errorf("%d bytes were written", len(got))
	}
	// They answer after all, late.
	l.answer([]byte("a"), true)
	l.answer([]byte("b"), true)
	got := <-w.came
	for len(got) < 2 { // the first may have waited long enough
		got += <-w.came
	}
	if got != "ab" || l.busy != 0 {
		t.Errorf("written: %q, %d at work", got, l.busy)
	}
	w.none(t)
	// Nobody listens any more: that is told once, and nothing piles up.
	w.err = errors.New("broken pipe")
	for range 3 {
		l.asked()
		l.answer([]byte(long), true)
	}
	<-l.broken
	if len(l.out) != 0 {
		t.Errorf("%d bytes wait for nobody", len(l.out))
	}
}

// An agent that asks and does not read: the child waits for it, and afterwards every answer is there, once.
func TestSlowAgent(t *testing.T) {
	c := newTalk(t, nvmlstub.Training(nvmlstub.H100SXM, 4, 0, time.Hour))
	defer c.close()
	const rounds = 5
	asked := make(chan error, 1)
	go func() { // ends with the requests
		for i := range rounds {
			q := frame.Request{Type: frame.TypeSample, Seq: uint64(100 + i), BootMs: int64(10_000 + 1000*i), Sample: 0xf}
			if _, err := c.in.Write(frame.AppendRequest(nil, &q)); err != nil {
				asked <- err
				return
			}
		}
		asked <- nil
	}()
	for len(c.done)+busy(c.faults) < 4*rounds {
		c.next()
	}
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	seen := map[[2]uint64]int{}
	for _, d := range c.done {
		seen[[2]uint64{uint64(d.GPU), d.Seq}]++
	}
	for _, f := range c.faults {
		if f.Code == frame.CodeBusy {
			seen[[2]uint64{uint64(f.GPU), f.Seq}]++
		}
	}
	for k, n := range seen {
		if n != 1 {
			t.Errorf("GPU %d answered %d times to request %d", k[0], n, k[1])
		}
	}
	if len(seen) != 4*rounds {
		t.Errorf("%d answers to %d questions", len(seen), 4*rounds)
	}
}

func busy(faults []frame.Fault) (n int) {
	for _, f := range faults {
		if f.Code == frame.CodeBusy {
			n++
		}
	}
	return n
}
