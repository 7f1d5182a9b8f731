package gpu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

const (
	writeWait   = 100 * time.Millisecond // a pipe that takes no request for so long has no reader
	stderrEvery = time.Minute
	stderrLines = 10 // per stderrEvery
	lineBytes   = 500
)

// child is one flopwatch-nvml. What is below exited belongs to Source.mu.
type child struct {
	cmd    *exec.Cmd
	in     *os.File // requests
	out    *os.File // answers
	errs   *os.File // log lines
	exited chan struct{}
	err    error // of Wait, once exited is closed
	// readers of answers and log lines: exited is closed behind them, so that the last word
	// is heard before the burial.
	readers sync.WaitGroup

	started   time.Time
	welcome   *frame.Welcome
	lastFrame time.Time
	readyAt   time.Time
	killedAt  time.Time // zero: not killed
	why       string    // why it was killed, or what it said was wrong
	lastLine  string    // of its log
	restart   bool      // it asked to be started again
}

// start starts a child. It is called with s.mu held.
func (s *Source) start(now time.Time) (*child, error) {
	var files [6]*os.File // read and write ends of requests, answers and log lines
	closeAll := func() {
		for _, f := range files {
			if f != nil {
				_ = f.Close() // pipes that nobody has used
			}
		}
	}
	for i := 0; i < len(files); i += 2 {
		var err error
		if files[i], files[i+1], err = os.Pipe(); err != nil { //nolint:gosec // G602: the number of files is even
			closeAll()
			return nil, fmt.Errorf("make a pipe to flopwatch-nvml: %w", err)
		}
	}
	var args []string
	if s.cfg.Library != "" {
		args = append(args, "-library", s.cfg.Library)
	}
	c := &child{in: files[1], out: files[2], errs: files[4], exited: make(chan struct{}), started: now, lastFrame: now}
	//nolint:noctx,gosec // the child outlives a tick, and Close ends it; its path is the operator's
	c.cmd = exec.Command(s.cfg.Child, args...)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = files[0], files[3], files[5]
	c.cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, s.cfg.Env...)
	c.cmd.Dir = "/"
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	begun := make(chan error)
	c.readers.Add(2)
	go c.hold(begun, s.wake)
	err := <-begun
	for _, i := range []int{0, 3, 5} { // the child's ends
		_ = files[i].Close() // the child has its own
		files[i] = nil
	}
	if err != nil {
		closeAll()
		return nil, err // it names the program
	}
	go s.listen(c)
	go s.lines(c)
	return c, nil
}

// hold starts the child and waits for its end. It keeps its thread to itself: the kernel
// kills the child when the thread that started it ends, and the thread has shed privileges
// that nobody else's must lack. So it is never given back, and is not the process's first
// one, which cannot end and by which others see the process.
func (c *child) hold(begun chan<- error, wake func()) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		defer runtime.UnlockOSThread()
		elsewhere := make(chan struct{})
		go func() { // ends with the child; not on this thread, which waits here
			defer close(elsewhere)
			c.hold(begun, wake)
		}()
		<-elsewhere
		return
	}
	err := shed()
	if err == nil {
		err = c.cmd.Start()
	}
	begun <- err
	if err != nil {
		return
	}
	c.err = c.cmd.Wait()
	c.readers.Wait()
	close(c.exited)
	wake()
}

// works reports whether the child has GPUs to read.
func (c *child) works() bool {
	return c.welcome != nil && c.welcome.Version == frame.Version && c.welcome.Code == 0 && c.welcome.GPUs > 0
}

// ended reports whether the child has been reaped.
func (c *child) ended() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

// leftBehind are children that the kernel does not end. They are the process's: an instrument
// that a reload replaces leaves its own to the next, which must not add to them.
type leftBehind struct {
	mu   sync.Mutex
	list []*child
}

var strays leftBehind

func (l *leftBehind) add(c *child) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, c)
}

// count is how many are still alive.
func (l *leftBehind) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = slices.DeleteFunc(l.list, (*child).ended)
	return len(l.list)
}

// closePipes makes an abandoned child's readers end.
func (c *child) closePipes() {
	for _, f := range []*os.File{c.in, c.out, c.errs} {
		_ = f.Close() // closed twice at worst
	}
}

// send writes a request. A child that does not take it is not well.
func (c *child) send(b []byte) error {
	// As a rule the pipe has room. A deadline is a timer that fires though it is not needed any more.
	if n, err := c.sendNow(b); n == len(b) || err != nil {
		return err
	} else if n > 0 {
		b = b[n:]
	}
	if err := c.in.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return fmt.Errorf("ask flopwatch-nvml: %w", err)
	}
	defer c.in.SetWriteDeadline(time.Time{}) //nolint:errcheck // it was there to be set
	if _, err := c.in.Write(b); err != nil {
		return fmt.Errorf("ask flopwatch-nvml: %w", err)
	}
	return nil
}

// sendNow writes what the pipe takes without waiting.
func (c *child) sendNow(b []byte) (n int, err error) {
	raw, err := c.in.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("ask flopwatch-nvml: %w", err)
	}
	var werr error
	err = raw.Write(func(fd uintptr) bool {
		for {
			if n, werr = unix.Write(int(fd), b); werr != unix.EINTR {
				return true
			}
		}
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("ask flopwatch-nvml: %w", err)
	case werr == unix.EAGAIN:
		return 0, nil
	case werr != nil:
		return 0, fmt.Errorf("ask flopwatch-nvml: %w", werr)
	}
	return n, nil
}

// epitaph says how the child ended.
func (c *child) epitaph() string {
	said := ""
	if c.lastLine != "" {
		said = ": " + c.lastLine
	}
	if c.why != "" {
		return c.why
	}
	if e, ok := errors.AsType[*exec.ExitError](c.err); ok {
		switch code := e.ExitCode(); {
		case code == 127:
			return "flopwatch-nvml ended with exit 127: NVIDIA's library lacks a function that it should have" + said
		case code >= 0:
			return fmt.Sprintf("flopwatch-nvml ended with exit %d%s", code, said)
		}
		return fmt.Sprintf("flopwatch-nvml was ended by a signal (%s)%s", e.ProcessState, said)
	}
	if c.err != nil {
		return fmt.Sprintf("flopwatch-nvml ended: %v%s", c.err, said)
	}
	return "flopwatch-nvml ended" + said
}

// listen reads the child's answers until they end.
func (s *Source) listen(c *child) {
	defer c.readers.Done()
	r := frame.NewReader(bufio.NewReaderSize(c.out, 4096))
	for {
		t, body, err := r.Next()
		if err == nil {
			err = s.receive(c, t, body)
		}
		if err == nil {
			continue
		}
		if errors.Is(err, frame.ErrCorrupt) {
			s.mu.Lock()
			s.kill(c, time.Now(), "what flopwatch-nvml says cannot be understood: "+err.Error())
			s.mu.Unlock()
		}
		s.wake()
		_ = c.out.Close() // the child has ended, or is about to
		return
	}
}

// lines passes the child's log lines on, not too many.
func (s *Source) lines(c *child) {
	defer c.readers.Done()
	defer func() { _ = c.errs.Close() }() // was only read
	var (
		since   time.Time
		lines   int
		skipped int
	)
	r := bufio.NewReaderSize(c.errs, lineBytes)
	for {
		b, more, err := r.ReadLine()
		if err != nil {
			return
		}
		line := frame.Clean(string(b))
		for more && err == nil { // the rest of a long line
			_, more, err = r.ReadLine()
		}
		if line == "" {
			continue
		}
		s.mu.Lock()
		c.lastLine = line
		s.mu.Unlock()
		if now := time.Now(); now.Sub(since) > stderrEvery {
			since, lines = now, 0
		}
		if lines++; lines > stderrLines {
			skipped++
			continue
		}
		s.cfg.Log.LogAttrs(context.Background(), slog.LevelWarn, "flopwatch-nvml says", slog.String("line", line), slog.Int("lines_skipped", skipped))
		skipped = 0
	}
}
