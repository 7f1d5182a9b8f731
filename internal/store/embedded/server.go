package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	minBackoff   = 100 * time.Millisecond
	maxBackoff   = 10 * time.Second
	healthyAfter = time.Minute // a child that lived this long starts the back-off anew
	startTimeout = 2 * time.Minute
	libraryName  = "libchdb.so"
)

// Config says how to start the engine.
type Config struct {
	Exe     string   // binary with the `clickhouse` subcommand
	Args    []string // what comes before the engine's own arguments; nil is {"clickhouse"}
	LibPath string   // libchdb.so; see FindLibrary
	DataDir string   // created if missing
	Listen  string   // host:port, "" or port 0 picks a free one on the loopback
	User    string   // "" is DefaultUser

	UsersFile string // who else may sign in; see Options
	RolesFile string // the roles that it names

	Queries     int      // statements at a time; 0 is the default
	Patience    Patience // with clients; `flopwatch clickhouse` does not take it: it is for tests
	MemoryBytes uint64   // bound of the engine's memory; 0 is the default
	Logger      *slog.Logger

	restoring bool // see Restore
}

// Server is a supervised engine process. The listening socket belongs to the supervisor and outlives crashes of the child: clients that
// connect while it restarts wait instead of being refused.
type Server struct {
	cfg      Config
	lg       *slog.Logger
	ln       *net.TCPListener
	socket   *os.File
	addr     string
	password string
	cancel   context.CancelFunc
	done     chan struct{}

	mu       sync.Mutex
	pid      int
	restarts int
	child    *child
	err      error
}

// child is one engine process.
type child struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	exited chan struct{}
	err    error // valid after exited is closed
	tail   *tailLog
}

// Start launches the engine and returns when it takes requests. The process restarts with back-off after a crash, on the same data and port,
// until ctx ends or Stop is called.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Args == nil {
		cfg.Args = []string{"clickhouse"}
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.User == "" {
		cfg.User = DefaultUser
	}
	var err error
	if cfg.DataDir, err = filepath.Abs(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("resolve data directory: %w", err)
	}
	if cfg.LibPath, err = filepath.Abs(cfg.LibPath); err != nil {
		return nil, fmt.Errorf("resolve engine library: %w", err)
	}
	if err = checkLibrary(cfg.LibPath); err != nil {
		return nil, err
	}
	d := layout{cfg.DataDir}
	if err = d.create(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, lg: cfg.Logger, done: make(chan struct{})}
	if s.password, err = loadPassword(d.password()); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for the engine: %w", err)
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listen for the engine: a %T cannot be shared", ln), ln.Close())
	}
	s.ln, s.addr = tcp, ln.Addr().String()
	if s.socket, err = s.ln.File(); err != nil {
		return nil, errors.Join(fmt.Errorf("share listener: %w", err), ln.Close())
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	first := make(chan error, 1)
	go s.supervise(life, first)
	select {
	case err = <-first:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		<-s.done
		return nil, fmt.Errorf("start engine: %w", err)
	}
	return s, nil
}

// supervise runs children until ctx ends. The thread is locked because the kernel ties the parent-death signal to the thread that forked.
func (s *Server) supervise(ctx context.Context, first chan<- error) {
	runtime.LockOSThread()
	defer close(s.done)
	defer func() {
		if err := errors.Join(s.ln.Close(), s.socket.Close()); err != nil {
			s.lg.LogAttrs(ctx, slog.LevelWarn, "close engine listener", slog.Any("err", err))
		}
	}()
	backoff := minBackoff
	for started := false; ; {
		born := time.Now()
		c, err := s.launch(ctx)
		if !started {
			first <- err
			if err != nil {
				return
			}
			started = true
		}
		if err == nil {
			select {
			case <-c.exited:
				err = c.err
			case <-ctx.Done():
				s.end(c)
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		if time.Since(born) > healthyAfter {
			backoff = minBackoff
		}
		s.mu.Lock()
		s.pid, s.child = 0, nil
		s.restarts++
		s.mu.Unlock()
		s.lg.LogAttrs(ctx, slog.LevelError, "engine died, restarting", slog.Any("err", err), slog.Duration("backoff", backoff))
		wait := time.NewTimer(backoff)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// launch starts a child and waits until it takes requests.
func (s *Server) launch(ctx context.Context) (*child, error) {
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer func() { _ = readyR.Close() }() // read side, nothing can be lost
	args := append([]string{}, s.cfg.Args...)
	args = append(args, "--data", s.cfg.DataDir, "--lib", s.cfg.LibPath, "--user", s.cfg.User, "--listen-fd", "3", "--ready-fd", "4", "--watch-stdin")
	if s.cfg.restoring {
		args = append(args, "--restoring")
	}
	if s.cfg.MemoryBytes > 0 {
		args = append(args, "--memory-bytes", fmt.Sprint(s.cfg.MemoryBytes))
	}
	for _, o := range [][2]string{{"--users", s.cfg.UsersFile}, {"--roles", s.cfg.RolesFile}} {
		if o[1] != "" {
			args = append(args, o[0], o[1])
		}
	}
	if s.cfg.Queries > 0 {
		args = append(args, "--queries", strconv.Itoa(s.cfg.Queries))
	}
	for _, w := range []struct {
		name string
		wait time.Duration
	}{{turnWaitFlag, s.cfg.Patience.Turn}, {receiveWaitFlag, s.cfg.Patience.Receive}, {sendWaitFlag, s.cfg.Patience.Send}} {
		if w.wait > 0 {
			args = append(args, w.name, w.wait.String())
		}
	}
	cmd := exec.Command(s.cfg.Exe, args...) //nolint:noctx // our own binary; its end is ordered in end, a context would kill it unasked
	cmd.ExtraFiles = []*os.File{s.socket, readyW}
	cmd.Env = childEnv()
	// A process group of its own, because the engine signals its whole group when something tells it to shut down.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	tail := &tailLog{lg: s.lg}
	cmd.Stderr = tail
	cmd.Stdout = tail
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make pipe: %w", err), readyW.Close())
	}
	err = cmd.Start()
	_ = readyW.Close() // the child has its copy
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", s.cfg.Exe, err)
	}
	c := &child{cmd: cmd, stdin: stdin, exited: make(chan struct{}), tail: tail}
	go func() {
		c.err = cmd.Wait()
		if c.err == nil {
			c.err = errors.New("the engine process ended by itself")
		}
		close(c.exited)
	}()
	line := make(chan string, 1)
	go func() {
		l, _ := bufio.NewReader(readyR).ReadString('\n') // "" says that the child is gone
		line <- l
	}()
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	select {
	case l := <-line:
		if strings.HasPrefix(l, "ready ") {
			s.mu.Lock()
			s.pid, s.child = cmd.Process.Pid, c
			s.mu.Unlock()
			return c, nil
		}
		<-c.exited
		return nil, fmt.Errorf("engine process: %w: %s", c.err, tail.last())
	case <-ctx.Done():
		err = ctx.Err()
	case <-limit.C:
		err = fmt.Errorf("engine not ready after %s: %s", startTimeout, tail.last())
	}
	_ = cmd.Process.Kill() // it may have ended meanwhile
	<-c.exited
	return nil, err
}

// childEnv is the environment of the engine: nothing of the parent's secrets, only what the loader and Go need.
func childEnv() []string { return []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "TZ=UTC"} }

// end stops the child: SIGTERM, then after twice the drain time SIGKILL.
func (s *Server) end(c *child) {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended meanwhile
	limit := time.NewTimer(3 * drainTimeout)
	defer limit.Stop()
	var err error
	select {
	case <-c.exited:
	case <-limit.C:
		_ = c.cmd.Process.Kill() // it may have ended meanwhile
		<-c.exited
		err = errors.New("the engine did not stop in time and was killed")
	}
	_ = c.stdin.Close() // exec closed it with the process
	if c.cmd.ProcessState != nil && c.cmd.ProcessState.ExitCode() != 0 && err == nil {
		err = fmt.Errorf("engine process: %w: %s", c.err, c.tail.last())
	}
	s.mu.Lock()
	s.pid, s.child, s.err = 0, nil, err
	s.mu.Unlock()
}

// URL is the address of the HTTP interface, the same over restarts.
func (s *Server) URL() string { return "http://" + s.addr }

// Auth gives the user and the password.
func (s *Server) Auth() (user, password string) { return s.cfg.User, s.password }

// PID is the process id of the present child, 0 while it restarts.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// Restarts counts how often the child had to be started again.
func (s *Server) Restarts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.restarts
}

// Stop ends the engine cleanly. If ctx ends first, the child is killed and ctx's error returned. Idempotent.
func (s *Server) Stop(ctx context.Context) error {
	s.cancel()
	select {
	case <-s.done:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	c := s.child
	s.mu.Unlock()
	if c != nil {
		_ = c.cmd.Process.Kill() // it may have ended meanwhile
	}
	<-s.done
	return fmt.Errorf("stop engine: %w", ctx.Err())
}

// FindLibrary gives the engine library that belongs to the binary exe: <directory of exe>/engine/libchdb.so.
func FindLibrary(exe string) (string, error) {
	target, err := filepath.EvalSymlinks(exe)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", exe, err)
	}
	path := filepath.Join(filepath.Dir(target), "engine", libraryName)
	if _, err = os.Stat(path); err != nil {
		return "", missingLibrary(path)
	}
	return path, nil
}

// ErrNoLibrary is in the error where libchdb.so is not there.
var ErrNoLibrary = errors.New("the embedded ClickHouse engine is missing: `make build` fetches it, or configure a ClickHouse server instead")

func missingLibrary(path string) error { return fmt.Errorf("find %s: %w", path, ErrNoLibrary) }

// tailLog passes a child's output on to the log, line by line, and keeps the last lines for an error's text.
type tailLog struct {
	lg *slog.Logger

	mu    sync.Mutex
	part  []byte
	lines []string
}

const (
	tailLines    = 12
	maxLineBytes = 4096
)

// Write takes output of the child.
func (t *tailLog) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rest := b; len(rest) > 0; {
		i := strings.IndexByte(string(rest), '\n')
		if i < 0 {
			t.part = append(t.part, rest[:min(len(rest), maxLineBytes)]...)
			if len(t.part) > maxLineBytes {
				t.part = t.part[:maxLineBytes]
			}
			break
		}
		t.part = append(t.part, rest[:i]...)
		line := string(t.part[:min(len(t.part), maxLineBytes)])
		t.part, rest = t.part[:0], rest[i+1:]
		if strings.TrimSpace(line) == "" {
			continue
		}
		if t.lines = append(t.lines, line); len(t.lines) > tailLines {
			t.lines = t.lines[1:]
		}
		t.lg.LogAttrs(context.Background(), slog.LevelDebug, "engine says", slog.String("line", line))
	}
	return len(b), nil
}

// last gives the last lines.
func (t *tailLog) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(append(slices.Clip(t.lines), string(t.part)), "\n")
}
