package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"
)

// faults injects what happens to an agent over months, in a cycle of five minutes.
type faults struct {
	site *site
	out  io.Writer

	mu    sync.Mutex // guards below
	force string
	count map[string]int
	order []string
}

// fault begins at a second of the cycle and lasts.
type fault struct {
	name   string
	at     time.Duration
	begin  func(ctx context.Context, s *site) error
	lasts  time.Duration
	mended func(ctx context.Context, s *site) error
}

const cycle = 5 * time.Minute

var cycleOfFaults = []fault{
	{
		name: "a GPU hangs for 8 s", at: 45 * time.Second, lasts: 8 * time.Second,
		begin:  func(_ context.Context, s *site) error { return s.driver.hang(3, true) },
		mended: func(_ context.Context, s *site) error { return s.driver.hang(3, false) },
	},
	{name: "child killed", at: 110 * time.Second, begin: func(_ context.Context, s *site) error { return s.killChild() }},
	{
		name: "broker away for 40 s", at: 160 * time.Second, lasts: 40 * time.Second,
		begin:  func(_ context.Context, s *site) error { return s.stopBroker() },
		mended: func(ctx context.Context, s *site) error { return s.startBroker(ctx) },
	},
	{name: "SIGHUP", at: 260 * time.Second, begin: func(_ context.Context, s *site) error { return s.agent.signal(syscall.SIGHUP) }},
}

// run injects faults until ctx ends or too little of length is left; it leaves nothing
// broken.
func (f *faults) run(ctx context.Context, length time.Duration) error {
	began := time.Now()
	f.mu.Lock()
	f.count = map[string]int{}
	f.mu.Unlock()
	for round := time.Duration(0); ; round++ {
		for _, x := range cycleOfFaults {
			at := round*cycle + x.at
			if at+x.lasts+30*time.Second > length {
				<-ctx.Done()
				return nil
			}
			if !wait(ctx, time.Until(began.Add(at))) {
				return nil
			}
			if err := f.inject(ctx, x); err != nil {
				return fmt.Errorf("fault %q: %w", x.name, err)
			}
		}
	}
}

func (f *faults) inject(ctx context.Context, x fault) error {
	f.mu.Lock()
	f.force = x.name
	if f.count[x.name] == 0 {
		f.order = append(f.order, x.name)
	}
	f.count[x.name]++
	f.mu.Unlock()
	if err := x.begin(ctx, f.site); err != nil {
		return err
	}
	if x.mended != nil {
		wait(ctx, x.lasts)
		if err := x.mended(context.WithoutCancel(ctx), f.site); err != nil {
			return err
		}
	}
	f.mu.Lock()
	f.force = ""
	f.mu.Unlock()
	return nil
}

// inForce names the fault that lasts now.
func (f *faults) inForce() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.force
}

// summary says what was injected.
func (f *faults) summary() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.order) == 0 {
		return "no faults"
	}
	var s []string
	for _, name := range f.order {
		s = append(s, fmt.Sprintf("%d x %s", f.count[name], name))
	}
	return "faults: " + strings.Join(s, ", ")
}
