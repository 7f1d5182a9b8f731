package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// State of a child.
type State string

// States of a child.
const (
	Waiting  State = "waiting"  // its turn has not come
	Starting State = "starting" // it runs and does not do its work yet
	Ready    State = "ready"
	Degraded State = "degraded" // it works, and does less than it could
	Failing  State = "failing"  // it runs and no longer does its work
	Down     State = "down"     // it died, and is started again
	Stopped  State = "stopped"
)

// Report is what a child says of itself. State is Ready, Degraded or Failing.
type Report struct {
	State   State
	Reasons []string
	Details map[string]any
}

// Spec says how to run a child. Name, Path and Log are needed.
type Spec struct {
	Name string
	Path string
	Args []string // without the program's name
	Env  []string // all of it: nothing is inherited
	// Files are inherited as descriptors from 3 on, behind them the tree's lock. They stay
	// the caller's.
	Files []*os.File
	Log   *Log
	// Before, if set, runs once before the first start. Its error ends Run.
	Before func(ctx context.Context) error
	// Check asks the child how it is, within a few seconds; nil: it is ready as long as it
	// runs. It runs in a goroutine of its own.
	Check func(ctx context.Context) Report
	// Needed: if it dies again and again before it was ready once, Run ends with an error.
	Needed bool
	// Patience is how long the next child's start waits for this one; default 30 s.
	Patience time.Duration
	// StopAfter is the time between SIGTERM and SIGKILL; default 10 s.
	StopAfter time.Duration
}

// Config of a supervisor. Children, Tree and Now are needed.
type Config struct {
	Children []Spec // in the order of starting
	Tree     *Tree
	Now      func() time.Time
	// Changed, if set, is called after each change of a child's state or reasons, by one
	// goroutine at a time. It must not block.
	Changed func(Status)
	Log     *slog.Logger // nil: none
	// BackoffMin and BackoffMax bound the wait before a child that died is started again,
	// doubled each time; default 200 ms and 15 s. It begins anew after HealthyAfter of life;
	// default 1 minute.
	BackoffMin, BackoffMax, HealthyAfter time.Duration
	// AskEvery is how often a child is asked; default 2 s, and ten times as often before it
	// is ready.
	AskEvery time.Duration
}

// Status is how a child is.
type Status struct {
	Name     string         `json:"name"`
	State    State          `json:"state"`
	Since    time.Time      `json:"since"`
	PID      int            `json:"pid,omitempty"`
	Restarts int            `json:"restarts"`
	LastExit string         `json:"last_exit,omitempty"` // "exit 1: its last words"
	Reasons  []string       `json:"reasons,omitempty"`
	Details  map[string]any `json:"details,omitempty"`
}

// firstDeaths is how often a needed child may die before it was ready once.
const firstDeaths = 4

// Supervisor runs the children of one tree. It runs once.
type Supervisor struct {
	cfg      Config
	children []*child

	mu sync.Mutex // guards the children's status
	// telling keeps calls of Changed in order; taken before mu, never inside it.
	telling sync.Mutex
}

// New returns a supervisor that runs nothing before Run.
func New(cfg Config) (*Supervisor, error) {
	if cfg.Tree == nil || cfg.Now == nil || len(cfg.Children) == 0 {
		return nil, errors.New("make supervisor: children, tree and clock are needed")
	}
	orDuration(&cfg.BackoffMin, 200*time.Millisecond)
	orDuration(&cfg.BackoffMax, 15*time.Second)
	orDuration(&cfg.HealthyAfter, time.Minute)
	orDuration(&cfg.AskEvery, 2*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Supervisor{cfg: cfg}
	for _, spec := range cfg.Children {
		if spec.Name == "" || spec.Path == "" || spec.Log == nil {
			return nil, fmt.Errorf("make supervisor: child %q lacks its name, path or log", spec.Name)
		}
		orDuration(&spec.Patience, 30*time.Second)
		orDuration(&spec.StopAfter, 10*time.Second)
		s.children = append(s.children, &child{
			s: s, spec: spec, first: make(chan struct{}), given: make(chan error, 1), done: make(chan struct{}),
			status: Status{Name: spec.Name, State: Waiting, Since: cfg.Now()},
		})
	}
	return s, nil
}

func orDuration(d *time.Duration, def time.Duration) {
	if *d <= 0 {
		*d = def
	}
}

// Status tells how all children are, in the order of starting.
func (s *Supervisor) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Status, len(s.children))
	for i, c := range s.children {
		out[i] = c.copy()
	}
	return out
}

// Run starts the children, keeps them running until ctx ends, and stops them in reverse
// order. It returns nil after that, or the error of a child that could not be started.
func (s *Supervisor) Run(ctx context.Context) error {
	lives := make([]context.CancelFunc, 0, len(s.children)) // of those started
	err := func() error {
		for _, c := range s.children {
			if c.spec.Before != nil {
				if err := c.spec.Before(ctx); err != nil {
					if ctx.Err() != nil {
						return nil //nolint:nilerr // told to stop
					}
					return fmt.Errorf("prepare %s: %w", c.spec.Name, err)
				}
			}
			life, cancel := context.WithCancel(context.WithoutCancel(ctx))
			lives = append(lives, cancel)
			go c.run(life)
			patience := time.NewTimer(c.spec.Patience)
			select {
			case <-c.first:
			case err := <-c.given:
				patience.Stop()
				return err
			case <-patience.C:
				s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "child is slow to start, the next is started", slog.String("child", c.spec.Name))
			case <-ctx.Done():
			}
			patience.Stop()
			if ctx.Err() != nil {
				return nil //nolint:nilerr // told to stop
			}
		}
		return s.wait(ctx)
	}()
	for i, cancel := range slices.Backward(lives) {
		cancel()
		<-s.children[i].done
	}
	return err
}

// wait returns when ctx ends, or when a needed child gave up.
func (s *Supervisor) wait(ctx context.Context) error {
	given := make(chan error, len(s.children))
	ended := make(chan struct{})
	defer close(ended)
	for _, c := range s.children {
		go func() {
			select {
			case err := <-c.given:
				given <- err
			case <-ended:
			}
		}()
	}
	select {
	case err := <-given:
		return err
	case <-ctx.Done():
		return nil
	}
}

// pids writes who lives into the tree's lock, for people.
func (s *Supervisor) pids() {
	s.mu.Lock()
	var pids []int
	for _, c := range s.children {
		if c.status.PID != 0 {
			pids = append(pids, c.status.PID)
		}
	}
	s.mu.Unlock()
	if err := writePIDs(s.cfg.Tree.shared, pids...); err != nil {
		s.cfg.Log.LogAttrs(context.Background(), slog.LevelWarn, "note processes", slog.Any("err", err))
	}
}

// child is one Spec and its present process.
type child struct {
	s     *Supervisor
	spec  Spec
	first chan struct{} // closed when it is ready for the first time
	given chan error    // told once it is given up
	done  chan struct{} // closed when run has returned

	ready  bool   // it was, once; owned by whoever holds s.telling
	status Status // guarded by s.mu
}

func (c *child) copy() Status {
	st := c.status
	st.Reasons = slices.Clone(st.Reasons)
	st.Details = maps.Clone(st.Details)
	return st
}

// set changes the status and tells of it.
func (c *child) set(change func(*Status)) {
	c.s.telling.Lock()
	defer c.s.telling.Unlock()
	c.s.mu.Lock()
	before := c.status
	change(&c.status)
	now := c.copy()
	changed := before.State != now.State || before.PID != now.PID || !slices.Equal(before.Reasons, now.Reasons)
	if before.State != now.State {
		now.Since = c.s.cfg.Now()
		c.status.Since = now.Since
	}
	c.s.mu.Unlock()
	if (now.State == Ready || now.State == Degraded) && !c.ready {
		c.ready = true
		close(c.first)
	}
	if changed && c.s.cfg.Changed != nil {
		c.s.cfg.Changed(now)
	}
}

// exitText says how a process ended.
func exitText(st *os.ProcessState, err error, last string) string {
	text := "could not be started"
	if st != nil {
		text = fmt.Sprintf("exit %d", st.ExitCode())
		if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			text = "killed by " + unix.SignalName(ws.Signal())
			if ws.Signal() == syscall.SIGKILL {
				last = "" // it could not say why
			}
		}
	} else if err != nil {
		text = err.Error()
	}
	if last != "" {
		text += ": " + last
	}
	return text
}
