package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
)

// service is one gRPC service of the kubelet, asked by a goroutine of its own, which ends
// with the answer or after some seconds: a kubelet that hangs holds no tick up. There is at
// most one question under way.
type service struct {
	part, path string
	help       string // where it cannot be reached
	caller     *caller
	ask        func(context.Context) (any, error)
	answers    chan answer
	busy       bool
	cancel     context.CancelFunc
	asked      bool
	askedMs    int64 // boot ms
	backoffMs  int64
	heard      bool   // ever
	err        error  // of the last answer
	note, odd  string // what else is wrong
	told       source.Status
	running    sync.WaitGroup
}

// answer is what a question came to.
type answer struct {
	value any
	err   error
}

func newService(part, path, help string) *service {
	return &service{part: part, path: path, help: help, caller: newCaller(path), answers: make(chan answer, 1)}
}

// start asks, unless somebody does.
func (s *service) start(ctx context.Context, bootMs int64) {
	if s.busy {
		return
	}
	ctx, s.cancel = context.WithTimeout(ctx, answerSeconds*time.Second)
	s.busy, s.asked, s.askedMs = true, true, bootMs
	s.running.Go(func() {
		v, err := s.ask(ctx)
		s.answers <- answer{v, err}
	})
}

// take returns an answer that has come.
func (s *service) take() (a answer, ok bool) {
	select {
	case a = <-s.answers:
	default:
		return a, false
	}
	s.cancel()
	s.busy = false
	switch {
	case a.err == nil:
		s.backoffMs, s.heard = 0, true
	case errors.Is(a.err, context.DeadlineExceeded):
		// Where nobody listens, asking costs nothing; one that hangs is left alone for longer.
		s.backoffMs = min(max(2*s.backoffMs, 2*askMs), maxBackoffMs)
	}
	return a, true
}

// due reports whether it is time to ask again.
func (s *service) due(bootMs, everyMs int64) bool {
	return !s.busy && (!s.asked || bootMs-s.askedMs >= max(everyMs, s.backoffMs))
}

// close ends a question that is under way, and waits for its goroutine.
func (s *service) close() {
	if s.busy {
		s.cancel()
	}
	s.running.Wait()
}

// tell says how the service is, if that has changed.
func (s *service) tell(out source.Sink) {
	st := source.Status{Instrument: s.part, State: source.Active}
	switch notes := both(s.note, s.odd); {
	case s.err != nil:
		st.State, st.Reason = s.wrong(s.err)
	case notes != "":
		st.State, st.Reason = source.Degraded, notes
	}
	if st != s.told {
		s.told = st
		out.Status(st)
	}
}

// both joins two reasons, either of which may be "".
func both(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// wrong says what an error means, and what would help.
func (s *service) wrong(err error) (source.State, string) {
	state := source.Degraded
	if s.heard {
		state = source.Lost
	}
	dir := filepath.Dir(s.path)
	status, isStatus := errors.AsType[*statusError](err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, serr := os.Stat(dir); serr != nil && !s.heard {
			return source.Unavailable, fmt.Sprintf("there is no %s here: on a node of Kubernetes mount that directory, not the socket in it, into the agent's container", dir)
		}
		return state, fmt.Sprintf("%s is not there: %s", s.path, s.help)
	case errors.Is(err, syscall.ECONNREFUSED):
		return state, fmt.Sprintf("nobody listens on %s: if the kubelet runs, the agent has the socket of an earlier one: mount the directory %s, not the socket", s.path, dir)
	case errors.Is(err, fs.ErrPermission):
		return state, fmt.Sprintf("%s may not be opened: the kubelet's sockets are root's, so run the agent as root or give its user write access to the socket", s.path)
	case errors.Is(err, context.DeadlineExceeded):
		return source.Stalled, fmt.Sprintf("the kubelet does not answer on %s within %d s", s.path, answerSeconds)
	case isStatus && status.code == codeUnimplemented:
		return source.Unavailable, fmt.Sprintf("the kubelet has no such service on %s: %s", s.path, s.help)
	}
	return state, fmt.Sprintf("ask the kubelet on %s: %v", s.path, err)
}
