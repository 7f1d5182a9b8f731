package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
)

// Config of the instrument. Zero values are the defaults.
type Config struct {
	Procfs     string        // where procfs of the host is mounted; default "/proc"
	Off        []string      // features that are not started
	OffDir     string        // a file OffDir/NAME switches feature NAME off; "": none does
	StartFor   time.Duration // how long a feature may take to start; default 30 s
	CloseFor   time.Duration // how long Close waits for features; default 5 s
	RetryEvery time.Duration // when what failed is started again; default 15 min
	MaxLoad    float64       // of a core that probes may take of each process they are in; default 0.01
	PauseFor   time.Duration // how long a feature over MaxLoad is off; default 10 min
}

// Source is the instrument "kernel".
type Source struct {
	cfg     Config
	env     *Env
	workers []*worker
	stop    context.CancelFunc
	beganMs int64
	done    sync.WaitGroup
	closed  bool
	began   bool
}

var _ source.Source = (*Source)(nil)

// New returns the instrument over features. Nothing is loaded before the first tick.
func New(cfg Config, env Env, features ...Feature) *Source {
	if cfg.Procfs == "" {
		cfg.Procfs = "/proc"
	}
	if cfg.StartFor <= 0 {
		cfg.StartFor = 30 * time.Second
	}
	if cfg.CloseFor <= 0 {
		cfg.CloseFor = 5 * time.Second
	}
	if cfg.RetryEvery <= 0 {
		cfg.RetryEvery = 15 * time.Minute
	}
	if cfg.MaxLoad <= 0 {
		cfg.MaxLoad = 0.01
	}
	if cfg.PauseFor <= 0 {
		cfg.PauseFor = 10 * time.Minute
	}
	if env.Procfs == "" {
		env.Procfs = cfg.Procfs
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	env.MaxLoad = cfg.MaxLoad
	if env.Clock == nil {
		env.Clock = &Clock{}
	}
	s := &Source{cfg: cfg, env: &env}
	turn := make(chan struct{}, 1)
	for _, f := range features {
		s.workers = append(s.workers, &worker{f: f, cfg: &s.cfg, env: s.env, turn: turn, ticks: make(chan moment, 1),
			report: Report{State: source.Degraded, Why: "loading", loading: true}})
	}
	return s
}

// Name returns "kernel".
func (s *Source) Name() string { return "kernel" }

// Sample hands the tick to the features and tells what each can see. It waits for none.
func (s *Source) Sample(ctx context.Context, t source.Tick, out source.Sink) error {
	if s.closed {
		return errors.New("the instrument is closed")
	}
	s.env.Clock.Set(t.WallMs, t.BootMs)
	if !s.began {
		s.began, s.beganMs = true, t.BootMs
		life, stop := context.WithCancel(context.WithoutCancel(ctx))
		s.stop = stop
		for _, w := range s.workers {
			s.done.Go(func() { w.run(life) })
		}
	}
	able, there := 0, len(s.workers)
	for _, w := range s.workers {
		w.hand(moment{t, out})
		r := w.now(t.BootMs)
		if r.State == source.Active || r.State == source.Degraded {
			able++
		}
		if r.Absent {
			there--
		}
		// A load is no state of a host: whoever logs changes would tell of each as it ends.
		if r.loading && t.BootMs-s.beganMs <= stallMs {
			continue
		}
		out.Status(source.Status{Instrument: "kernel/" + w.f.Name(), State: r.State, Reason: r.Reason()})
	}
	whole := source.Status{Instrument: "kernel", State: source.Active}
	switch {
	case there == 0:
		whole.State, whole.Reason = source.Unavailable, "nothing that it looks at is on this host; kernel/NAME says what of each"
	case able == 0:
		whole.State, whole.Reason = source.Unavailable, "no feature can see anything; kernel/NAME says why of each"
	case able < there:
		whole.State, whole.Reason = source.Degraded, fmt.Sprintf("%d of %d features see nothing; kernel/NAME says why of each", there-able, there)
	}
	out.Status(whole)
	return nil
}

// Close ends the features and waits for them, though not for ever.
func (s *Source) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	if !s.began {
		return nil
	}
	s.stop()
	ended := make(chan struct{})
	go func() { s.done.Wait(); close(ended) }()
	patience := time.NewTimer(s.cfg.CloseFor)
	defer patience.Stop()
	select {
	case <-ended:
	case <-patience.C:
	}
	var errs []error
	for _, w := range s.workers {
		if err := w.end(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", w.f.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// FeatureStats is what a feature does and costs.
type FeatureStats struct {
	Name     string
	Report   Report
	Samples  uint64
	SampleNs uint64 // that Start and Sample took of the agent
	Load     Load
	LoadE4   int64 // of a core, times 10,000, that its probes took at the last look
}

// Stats is for metrics. It may be called from any goroutine.
func (s *Source) Stats() []FeatureStats {
	out := make([]FeatureStats, 0, len(s.workers))
	for _, w := range s.workers {
		out = append(out, w.stats())
	}
	return out
}

// off reports whether the configuration switches a feature off.
func (c *Config) off(name string) bool { return slices.Contains(c.Off, name) }
