package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/flopwatch/flopwatch/cmd/flopwatch/up"
	"github.com/flopwatch/flopwatch/internal/loadgen"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/store/embedded"
)

// localOptions say what to load on this machine.
type localOptions struct {
	dir, engine string
	partitions  int
}

// local is a broker, an engine and a collector, each a process of its own.
type local struct {
	dir, natsURL, token, password string
	store                         store.Config
	watch                         []loadgen.Process
	children                      []*localChild
}

type localChild struct {
	name  string
	cmd   *exec.Cmd
	stdin io.Closer
	log   *os.File
	ended chan struct{} // closed with the child's end
}

// startLocal starts them in order of dependence. On error nothing is left running.
func startLocal(ctx context.Context, o localOptions, stderr io.Writer) (_ *local, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own binary: %w", err)
	}
	if o.engine == "" {
		if o.engine, err = embedded.FindLibrary(exe); err != nil {
			return nil, err
		}
	}
	collector := filepath.Join(filepath.Dir(exe), "flopwatch-collector")
	if _, err = os.Stat(collector); err != nil {
		return nil, fmt.Errorf("%s is missing beside %s: `make build` builds it", filepath.Base(collector), exe)
	}
	l := &local{}
	if l.dir, err = filepath.Abs(o.dir); err != nil {
		return nil, fmt.Errorf("--local %s: %w", o.dir, err)
	}
	if err = os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, fmt.Errorf("--local: %w", err)
	}
	l.token, l.password = filepath.Join(l.dir, "nats.token"), filepath.Join(l.dir, "clickhouse", "password")
	if err = os.WriteFile(l.token, []byte(rand.Text()), 0o600); err != nil {
		return nil, fmt.Errorf("--local: %w", err)
	}
	var ports [3]int
	for i := range ports {
		if ports[i], err = freeLoopbackPort(ctx); err != nil {
			return nil, err
		}
	}
	at := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	defer func() {
		if err != nil {
			err = errors.Join(err, l.stop())
		}
	}()
	if err = l.start("nats", exe, "nats", "--data", filepath.Join(l.dir, "nats"), "--port", strconv.Itoa(ports[0]), "--token-file", l.token, "--watch-stdin"); err != nil {
		return nil, err
	}
	if err = l.start("clickhouse", exe, "clickhouse", "--data", filepath.Join(l.dir, "clickhouse"), "--lib", o.engine, "--listen", at(ports[1]), "--watch-stdin"); err != nil {
		return nil, err
	}
	l.natsURL = "nats://" + at(ports[0])
	l.store = store.Config{URL: "http://" + at(ports[1]), User: embedded.DefaultUser}
	if err = l.await(ctx, func(ctx context.Context) error { return up.AskNATS(ctx, at(ports[0])) }); err != nil {
		return nil, err
	}
	if err = l.await(ctx, func(ctx context.Context) error {
		_, code, aerr := up.AskHTTP(ctx, l.store.URL+"/ping")
		if aerr == nil && code != http.StatusOK {
			aerr = fmt.Errorf("ask %s: %d", l.store.URL, code)
		}
		return aerr
	}); err != nil {
		return nil, err
	}
	config := filepath.Join(l.dir, "collector.toml")
	text := fmt.Sprintf("store_password_file = %q\n[nats]\nurl = %q\ntoken_file = %q\npartitions = %d\n[store]\nurl = %q\nuser = %q\n[metrics]\nlisten = %q\n",
		l.password, l.natsURL, l.token, o.partitions, l.store.URL, l.store.User, at(ports[2]))
	if err = os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("--local: %w", err)
	}
	if err = l.start("collector", collector, "-config", config); err != nil {
		return nil, err
	}
	if err = l.await(ctx, askCollector("http://"+at(ports[2]))); err != nil {
		return nil, err
	}
	_, _ = fmt.Fprintf(stderr, "broker, engine and collector run, with data and logs in %s\n", l.dir) // nothing depends on it
	return l, nil
}

func freeLoopbackPort(ctx context.Context) (int, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = ln.Close() }() // nobody connected
	return ln.Addr().(*net.TCPAddr).Port, nil
}

// start starts a child that ends with this process: its stdin does.
func (l *local) start(name, path string, args ...string) error {
	log, err := os.Create(filepath.Join(l.dir, name+".log"))
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	cmd := exec.Command(path, args...) //nolint:gosec,noctx // a program of ours; its end is stop's, a context would kill it unasked
	c := &localChild{name: name, cmd: cmd, log: log, ended: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = log, log
	// A Ctrl-C at the terminal is for loadgen, which stops them when it is done with them.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	started := make(chan error)
	go func() { // ends with the child
		// The kernel ends the child with the thread that started it, so that thread has to stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		serr := c.cmd.Start()
		started <- serr
		if serr == nil {
			_ = c.cmd.Wait() // what it says is in the process state
			close(c.ended)
		}
	}()
	if err = <-started; err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	l.children = append(l.children, c)
	l.watch = append(l.watch, loadgen.Process{Name: name, PID: c.cmd.Process.Pid})
	return nil
}

// await waits until the child that was started last answers.
func (l *local) await(ctx context.Context, ask func(context.Context) error) error {
	err := awaitAnswer(ctx, func(ctx context.Context) error {
		for _, c := range l.children {
			select {
			case <-c.ended:
				return nil // it is told below
			default:
			}
		}
		return ask(ctx)
	})
	for _, c := range l.children {
		select {
		case <-c.ended:
			return fmt.Errorf("%s has ended (%s): see %s", c.name, c.cmd.ProcessState, c.log.Name())
		default:
		}
	}
	if err != nil {
		return fmt.Errorf("wait for what was started: %w", err)
	}
	return nil
}

// localStop is how long a child may take to end.
const localStop = 20 * time.Second

// stop ends them, the last first.
func (l *local) stop() error {
	var errs []error
	for len(l.children) > 0 {
		c := l.children[len(l.children)-1]
		l.children = l.children[:len(l.children)-1]
		_ = c.stdin.Close() // it is told twice
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
		timer := time.NewTimer(localStop)
		select {
		case <-c.ended:
		case <-timer.C:
			errs = append(errs, fmt.Errorf("stop %s: it does not end within %s, and is killed", c.name, localStop), c.cmd.Process.Kill())
			<-c.ended
		}
		timer.Stop()
		errs = append(errs, c.log.Close())
	}
	return errors.Join(errs...)
}
