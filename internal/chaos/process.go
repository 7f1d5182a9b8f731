package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// restartAfter is what systemd would wait before it starts a daemon anew.
const restartAfter = 300 * time.Millisecond

// process is a daemon that is started again whenever it ends, until stop.
type process struct {
	name    string
	at      *place
	argv    []string
	logPath string

	mu     sync.Mutex
	cmd    *exec.Cmd
	wanted bool
	killed bool          // by us: its end is no news
	pause  time.Duration // before the next start
	starts int
	ends   []string      // unasked ones, in words
	hold   chan struct{} // closed: start; nil: it is not held back
	done   chan struct{} // closed when the supervisor is through
	quit   chan struct{}
}

// start begins to keep it running.
func (p *process) start() error {
	p.wanted, p.done, p.quit = true, make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go p.supervise(first) // ends with stop
	return <-first
}

func (p *process) launch() (ended chan error, err error) {
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	defer func() { _ = log.Close() }() // the child has its own
	cmd := p.at.command(p.argv[0], p.argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if _, err = fmt.Fprintf(log, "%s === start %s\n", time.Now().UTC().Format(time.RFC3339Nano), p.name); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	if err = cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	p.mu.Lock()
	p.cmd, p.killed = cmd, false
	p.starts++
	p.mu.Unlock()
	ended = make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process
	return ended, nil
}

func (p *process) supervise(first chan<- error) {
	runtime.LockOSThread() // the kernel ties the signal of a parent's death to the thread that forked
	defer close(p.done)
	ended, err := p.launch()
	if first <- err; err != nil {
		return
	}
	for {
		err := <-ended
		p.mu.Lock()
		wanted, killed, pause, hold := p.wanted, p.killed, max(p.pause, restartAfter), p.hold
		p.pause = 0
		if wanted && !killed {
			p.ends = append(p.ends, fmt.Sprintf("%s: %v", time.Now().UTC().Format(time.TimeOnly), err))
		}
		p.cmd = nil
		p.mu.Unlock()
		if !wanted {
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-p.quit:
			timer.Stop()
			return
		}
		if hold != nil {
			select {
			case <-hold:
			case <-p.quit:
				return
			}
		}
		next, err := p.launch()
		if err != nil {
			next = make(chan error, 1)
			next <- err
		}
		ended = next
	}
}

// pid is that of the process that runs, 0 if none does.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// kill ends it by a signal; it starts again after a while.
func (p *process) kill(sig syscall.Signal, pause time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pause = pause
	if p.cmd == nil {
		return nil
	}
	p.killed = true
	return ignoreGone(p.cmd.Process.Signal(sig))
}

// signal sends to it and to all below it.
func (p *process) signal(sig syscall.Signal) error {
	pid := p.pid()
	if pid == 0 {
		return nil
	}
	return signalTree(pid, sig)
}

func signalTree(root int, sig syscall.Signal) error {
	var err error
	for _, pid := range tree(root) {
		err = errors.Join(err, ignoreGone(syscall.Kill(pid, sig)))
	}
	return err
}

func ignoreGone(err error) error {
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// stop ends it for good: asked to, then by force.
func (p *process) stop(patience time.Duration) error {
	if p.done == nil {
		return nil
	}
	p.mu.Lock()
	p.wanted = false
	cmd := p.cmd
	p.mu.Unlock()
	close(p.quit)
	if cmd != nil {
		_ = cmd.Process.Signal(syscall.SIGCONT) // it may be stopped, or gone
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var err error
	select {
	case <-p.done:
	case <-timer.C:
		err = fmt.Errorf("%s does not stop within %s", p.name, patience)
		if cmd != nil {
			_ = signalTree(cmd.Process.Pid, syscall.SIGKILL)
		}
		<-p.done
	}
	p.done = nil
	return err
}

// unasked returns how often it ended without being told to.
func (p *process) unasked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.ends...)
}

// tree lists a process and what it started, parents first.
func tree(root int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return []int{root}
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue // no process
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // it has ended
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // a name may hold blanks and brackets
		if len(f) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(f[1]); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	all := []int{root}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// memory is the most that a process has held resident, in bytes; 0: it is gone.
func memory(pid int) int64 {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64) // the kernel's own number
			return kb << 10
		}
	}
	return 0
}
