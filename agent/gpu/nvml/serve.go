//go:build linux && cgo

package nvml

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// closeWait is how long the end waits for workers that are in the driver.
const closeWait = 800 * time.Millisecond

const (
	together = 10 * time.Millisecond // so long an answer waits for the others of its second
	enough   = 16 << 10              // bytes that wait for nobody
)

// errEnding says that the process has to be started again to see the GPUs as they are.
var errEnding = errors.New("the driver or its GPUs have changed: to be started again")

// link is the way to the agent: one write at a time, and one for all GPUs if they answer together.
type link struct {
	mu     sync.Mutex
	w      io.Writer
	out    []byte        // answers that wait for those of the GPUs that are still at work
	busy   int           // requests in hand
	late   *time.Timer   // sends what waits for a GPU that takes long
	broken chan struct{} // closed when nobody listens any more
	ending chan struct{} // closed when the library has to be loaded anew
	once   [2]sync.Once
}

func newLink(w io.Writer) *link {
	l := &link{w: w, broken: make(chan struct{}), ending: make(chan struct{})}
	l.late = time.AfterFunc(time.Hour, func() { l.write(nil) })
	l.late.Stop()
	return l
}

// write sends b now, behind what waits.
func (l *link) write(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out = append(l.out, b...)
	l.send()
}

// asked says that an answer is to come.
func (l *link) asked() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy++
}

// answer sends b with the answers of the others that are at work, but no more than together
// behind the first: each is a turn of the agent's.
func (l *link) answer(b []byte, last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := len(l.out) == 0
	l.out = append(l.out, b...)
	if last {
		l.busy--
	}
	switch {
	case l.busy <= 0 || len(l.out) >= enough:
		l.send()
	case first && len(l.out) > 0:
		l.late.Reset(together)
	}
}

// send is called with l.mu held.
func (l *link) send() {
	if len(l.out) == 0 {
		return
	}
	l.late.Stop()
	if _, err := l.w.Write(l.out); err != nil {
		l.once[0].Do(func() { close(l.broken) })
	}
	if l.out = l.out[:0]; cap(l.out) > 2*enough {
		l.out = nil // it was a description of many
	}
}

func (l *link) end() {
	l.write(nil) // why
	l.once[1].Do(func() { close(l.ending) })
}

// message is a request and when it came.
type message struct {
	frame.Request
	at time.Time
}

// Serve loads the library and answers requests from in on out, until in ends, a Stop comes
// or ctx ends; then it returns nil. Workers that hang in the driver are left behind: the
// caller is expected to end the process. An error means that the two sides do not understand
// each other, that nobody reads out, or that the process has to be started again.
func Serve(ctx context.Context, in io.Reader, out io.Writer, cfg Config) error {
	requests := make(chan message)
	failed := make(chan error, 1)
	quit := make(chan struct{})
	defer close(quit)
	// Ends with in, or, if nothing comes any more, with the process.
	go func() { failed <- read(in, requests, quit) }()

	l := newLink(out)
	var hello message
	select {
	case hello = <-requests:
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
	if hello.Type != frame.TypeHello || hello.Version != frame.Version {
		l.write(frame.AppendWelcome(nil, &frame.Welcome{Version: frame.Version, Code: int(nvml.ERROR_ARGUMENT_VERSION_MISMATCH), Text: "protocol"}))
		return fmt.Errorf("meet the agent: it speaks version %d of the protocol, this build %d: install both from one release", hello.Version, frame.Version)
	}
	lib, welcome := open(cfg.Library)
	l.write(frame.AppendWelcome(nil, &welcome))
	if lib == nil || welcome.GPUs == 0 {
		return nil // the agent knows why
	}
	workers := make([]*worker, welcome.GPUs)
	var busy sync.WaitGroup
	events, stop := newListener(lib, l), make(chan struct{})
	for i := range workers {
		workers[i] = newWorker(lib, l, events, i)
	}
	events.workers = workers
	for _, w := range workers {
		busy.Go(w.run)
	}
	busy.Go(func() { events.run(stop) })
	count := make(chan message, 1)
	busy.Go(func() { recount(count, lib, l, len(workers)) })
	defer func() {
		for _, w := range workers {
			close(w.jobs)
		}
		close(count)
		close(stop)
		settle(&busy, lib)
		l.write(nil)
	}()
	for {
		select {
		case m := <-requests:
			if m.Type == frame.TypeStop {
				return nil
			}
			if m.Type == frame.TypeDescribe {
				select {
				case count <- m:
				default: // it is still counting
				}
			}
			events.listen(m.Events)
			if m.Events {
				events.report(m.at)
			}
			for i, w := range workers {
				if (m.Sample|m.Processes|m.Health|m.Burst)>>i&1 == 0 {
					continue
				}
				l.asked()
				select {
				case w.jobs <- m:
				default:
					l.answer(nil, true)
					f := frame.Fault{GPU: i, Seq: m.Seq, Code: frame.CodeBusy, Text: "asked again before it has answered"}
					l.write(frame.AppendFault(nil, &f))
				}
			}
		case err := <-failed:
			return err
		case <-l.broken:
			return errors.New("answer the agent: it does not read any more")
		case <-l.ending:
			return errEnding
		case <-ctx.Done():
			return nil
		}
	}
}

// read decodes requests until in ends.
func read(in io.Reader, requests chan<- message, quit <-chan struct{}) error {
	r := frame.NewReader(bufio.NewReaderSize(in, 512))
	for {
		t, body, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil // the agent has gone
		}
		if err != nil {
			return err // it says what was read
		}
		var m message
		m.at = time.Now()
		if err = frame.DecodeRequest(t, body, &m.Request); err != nil {
			return err // it says what was read
		}
		select {
		case requests <- m:
		case <-quit:
			return nil
		}
	}
}

// recount asks whether there are as many GPUs as there were: handles of a driver that has
// others now mean nothing.
func recount(asked <-chan message, lib *library, l *link, was int) {
	for m := range asked {
		n, ret := lib.api.DeviceGetCount()
		f := frame.Fault{GPU: -1, Seq: m.Seq, Function: symbols[callCount][0], Code: int(ret), Text: text(ret)}
		switch {
		case ret == nvml.SUCCESS && min(n, frame.MaxGPUs) == was:
			continue
		case ret == nvml.SUCCESS:
			f.Text, f.Ending = fmt.Sprintf("there were %d GPUs, and are %d now", was, n), true
		default:
			f.Ending = reload(ret)
		}
		l.write(frame.AppendFault(nil, &f))
		if f.Ending {
			l.end()
		}
	}
}

// settle shuts the library if all its callers have come back, and leaves it alone if not.
func settle(busy *sync.WaitGroup, lib *library) {
	idle := make(chan struct{})
	// Ends with the workers, or with the process.
	go func() {
		busy.Wait()
		close(idle)
	}()
	patience := time.NewTimer(closeWait)
	defer patience.Stop()
	select {
	case <-idle:
		if lib.have[callShutdown] {
			_ = lib.api.Shutdown() // the process ends
		}
	case <-patience.C:
	}
}

// reload says whether a code means that the library no longer fits the driver.
func reload(ret nvml.Return) bool {
	return ret == nvml.ERROR_LIB_RM_VERSION_MISMATCH || ret == nvml.ERROR_DRIVER_NOT_LOADED || ret == nvml.ERROR_UNINITIALIZED
}
