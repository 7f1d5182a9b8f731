package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// outputDelay is how long output is read on after a child's end, for children of its own
// that still hold the pipe.
const outputDelay = 2 * time.Second

// run keeps the child running until ctx ends. It holds its thread: the kernel sends the
// parent-death signal when the thread that forked ends.
func (c *child) run(ctx context.Context) {
	runtime.LockOSThread()
	defer close(c.done)
	defer c.set(func(st *Status) { st.State, st.PID, st.Reasons, st.Details = Stopped, 0, nil, nil })
	backoff := c.s.cfg.BackoffMin
	for deaths := 0; ctx.Err() == nil; {
		born := c.s.cfg.Now()
		exit := c.live(ctx)
		if ctx.Err() != nil {
			return
		}
		if c.s.cfg.Now().Sub(born) > c.s.cfg.HealthyAfter {
			backoff = c.s.cfg.BackoffMin
		}
		c.set(func(st *Status) {
			st.State, st.PID, st.LastExit, st.Details = Down, 0, exit, nil
			st.Restarts++
			st.Reasons = []string{"it died: " + exit}
			if st.Restarts > 1 {
				st.Reasons = []string{fmt.Sprintf("it died %d times, last: %s", st.Restarts, exit)}
			}
		})
		c.s.pids()
		select {
		case <-c.first:
		default:
			if deaths++; c.spec.Needed && deaths >= firstDeaths {
				c.given <- fmt.Errorf("start %s: it died %d times, last: %s (see %s)", c.spec.Name, deaths, exit, c.spec.Log.path)
				<-ctx.Done()
				return
			}
		}
		if !sleep(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, c.s.cfg.BackoffMax)
	}
}

// sleep waits and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// live runs one process until it ends, or until ctx does and it was stopped. It says how it ended.
func (c *child) live(ctx context.Context) (exit string) {
	c.spec.Log.forget()
	cmd := exec.Command(c.spec.Path, c.spec.Args...) //nolint:gosec,noctx // a program of ours; its end is ordered below, a context would kill it unasked
	cmd.Env = c.spec.Env
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.Stdout, cmd.Stderr = c.spec.Log, c.spec.Log
	cmd.ExtraFiles = append(slices.Clone(c.spec.Files), c.s.cfg.Tree.shared)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = outputDelay
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return exitText(nil, err, "")
	}
	defer func() { _ = stdin.Close() }() // Wait closed it
	pid := cmd.Process.Pid
	c.set(func(st *Status) { st.State, st.PID, st.Reasons = Starting, pid, nil })
	c.s.pids()
	c.s.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "child started", slog.String("child", c.spec.Name), slog.Int("pid", pid))

	exited := make(chan struct{})
	go func() {
		err = cmd.Wait() // what it says is in the process state; the rest is about output
		close(exited)
	}()
	asking, enough := context.WithCancel(ctx)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		c.ask(asking)
	}()
	select {
	case <-exited:
	case <-ctx.Done():
		c.end(cmd.Process, exited)
	}
	enough()
	<-asked
	// Children of its own must not outlive it: they hold devices, and the tree's lock.
	if kerr := syscall.Kill(-pid, syscall.SIGKILL); kerr != nil && !errors.Is(kerr, syscall.ESRCH) {
		c.s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "end children of a child", slog.String("child", c.spec.Name), slog.Any("err", kerr))
	}
	return exitText(cmd.ProcessState, err, c.spec.Log.Last())
}

// end stops a process: SIGTERM, then SIGKILL.
func (c *child) end(p *os.Process, exited <-chan struct{}) {
	_ = p.Signal(syscall.SIGTERM) // it may have ended meanwhile
	limit := time.NewTimer(c.spec.StopAfter)
	defer limit.Stop()
	select {
	case <-exited:
		return
	case <-limit.C:
	}
	c.s.cfg.Log.LogAttrs(context.Background(), slog.LevelWarn, "child does not stop, killing it", slog.String("child", c.spec.Name))
	_ = p.Kill() // it may have ended meanwhile
	<-exited
}

// ask asks the child how it is until ctx ends.
func (c *child) ask(ctx context.Context) {
	if c.spec.Check == nil {
		c.set(func(st *Status) { st.State = Ready })
		return
	}
	for well := false; ; {
		r := c.spec.Check(ctx)
		if ctx.Err() != nil {
			return
		}
		state := r.State
		switch {
		case state == Ready || state == Degraded:
			well = true
		case !well:
			state = Starting
		}
		c.set(func(st *Status) { st.State, st.Reasons, st.Details = state, r.Reasons, r.Details })
		every := c.s.cfg.AskEvery
		if !well {
			every /= 10
		}
		if !sleep(ctx, every) {
			return
		}
	}
}
