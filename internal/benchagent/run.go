package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// stopWait bounds how long a process may take to end after SIGTERM.
const stopWait = 15 * time.Second

// process is one that this command started; it leads a process group.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; after done
	log  *os.File
}

// start starts a process; its output goes to name.log in dir.
func start(name, dir string, env []string, argv ...string) (*process, error) {
	return startOn(name, dir, env, nil, nil, argv...)
}

// startOn is start with an input and an output of its own; nil: none, and the log.
func startOn(name, dir string, env []string, stdin, stdout *os.File, argv ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if stdout != nil {
		cmd.Stdout = stdout
	}
	if stdin != nil && stdin == stdout { // a terminal
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	p := &process{name: name, cmd: cmd, done: make(chan struct{}), log: log}
	go func() { // ends with the process
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// ended says how the process ended, nil while it runs.
func (p *process) ended() error {
	select {
	case <-p.done:
		if p.err == nil {
			return fmt.Errorf("%s has ended, see %s", p.name, p.log.Name())
		}
		return fmt.Errorf("%s has ended: %w, see %s", p.name, p.err, p.log.Name())
	default:
		return nil
	}
}

func (p *process) signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// stop ends the process, with SIGKILL if SIGTERM does not help, and what is left of its
// group. The error is how it ended, nil for exit 0.
func (p *process) stop() error {
	defer func() { _ = p.log.Close() }() // it was written by others
	defer func() { _ = syscall.Kill(-p.pid(), syscall.SIGKILL) }()
	select {
	case <-p.done:
		return p.ended()
	default:
	}
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(stopWait)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.err
	case <-timer.C:
		return fmt.Errorf("%s does not end within %s of SIGTERM, see %s", p.name, stopWait, p.log.Name())
	}
}

// kill ends a process that means nothing.
func (p *process) kill() error {
	defer func() { _ = p.log.Close() }()        // it was written by others
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL) // it may have ended
	<-p.done
	return nil
}

// group stops what was started, last first.
type group struct {
	mu  sync.Mutex
	all []func() error
}

func (g *group) add(stop func() error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = append(g.all, stop)
}

func (g *group) stop() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for _, stop := range slices.Backward(g.all) {
		errs = append(errs, stop())
	}
	g.all = nil
	return errors.Join(errs...)
}

// wait waits, and reports whether it was to the end.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// freePort finds a port on the loopback address that nobody has.
func freePort(ctx context.Context) (int, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	_, text, err := net.SplitHostPort(ln.Addr().String())
	if err = errors.Join(err, ln.Close()); err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return strconv.Atoi(text)
}

// reachable waits until somebody listens on an address.
func reachable(ctx context.Context, p *process, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		if ended := p.ended(); ended != nil {
			return ended
		}
		if !wait(ctx, 100*time.Millisecond) {
			return fmt.Errorf("%s does not listen on %s: %w", p.name, addr, err)
		}
	}
}
