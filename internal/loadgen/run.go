package loadgen

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// Errors of a run that went to its end.
var (
	// ErrLag says that a frame took longer than MaxLag.
	ErrLag = errors.New("the lag bound was broken")
	// ErrNotCommitted says that not all that was sealed is committed, or in the store.
	ErrNotCommitted = errors.New("not all was committed")
	// ErrLate says that the generator was too slow for its own fleet: the figures are its own.
	ErrLate = errors.New("the generator is too slow on this machine")
)

const (
	// lateMost is how late a seal may be before the generator counts as too slow.
	lateMost = 2 * time.Second
	// lookEvery is how often the fleet is looked at.
	lookEvery = time.Second
	// manyHosts are looked at less often.
	manyHosts = 500
	// patience is how long nothing may be acknowledged, if the broker says why, before the run
	// ends.
	patience = 15 * time.Second
)

// Report is what a run found.
type Report struct {
	Fleet     string  `json:"fleet"`
	Cluster   string  `json:"cluster"`
	Hosts     int     `json:"hosts"`
	GPUs      int     `json:"gpus"`
	Hz        float64 `json:"hz"`
	Seed      uint64  `json:"seed"`
	SealEvery float64 `json:"seal_every_s"`
	Seconds   float64 `json:"seconds"` // from the first host to the end of the seals
	Load      string  `json:"load_average"`

	Frames struct {
		Sealed      uint64  `json:"sealed"`
		Published   uint64  `json:"published"` // repeats included
		Acked       uint64  `json:"acked"`
		Committed   uint64  `json:"committed"`
		Resent      uint64  `json:"resent"`
		GivenUp     uint64  `json:"given_up"`
		Uncommitted uint64  `json:"uncommitted"`
		Bytes       uint64  `json:"bytes"`
		PerSample   float64 `json:"bytes_per_gpu_sample"` // with all that goes with it
	} `json:"frames"`
	Rows struct {
		Sealed     uint64  `json:"sealed"`
		Committed  uint64  `json:"committed"`
		GivenUp    uint64  `json:"given_up"`
		Samples    uint64  `json:"gpu_samples"`
		PerSecond  float64 `json:"per_s"`         // while all hosts seal
		SamplesPer float64 `json:"gpu_samples_s"` // the same
	} `json:"rows"`
	// Store is there if a store was asked.
	Store *struct {
		Frames  uint64 `json:"frames"`
		Missing uint64 `json:"missing"`
	} `json:"store,omitempty"`
	Lag struct {
		Ack     Lag   `json:"ack"`
		Commit  Lag   `json:"commit"`
		Visible *Lag  `json:"visible,omitempty"`
		LateMs  int64 `json:"generator_late_ms"`
		BoundMs int64 `json:"bound_ms"`
	} `json:"lag"`
	Refused map[string]uint64 `json:"refused"`
	CPU     []Cost            `json:"cpu"` // while all hosts seal
	Steps   []Step            `json:"steps,omitempty"`
	Ceiling *Ceiling          `json:"ceiling,omitempty"`
	Verdict []string          `json:"broken"` // what was not held; empty: all was
}

// Run loads the broker with a fleet for cfg.For, or until ctx ends, waits for what is on its way,
// and reports. say, if not nil, is told every few seconds. Errors that are ErrLag,
// ErrNotCommitted or ErrLate come with a whole report.
func Run(ctx context.Context, cfg Config, say func(Snapshot)) (_ *Report, err error) {
	f, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	cfg = f.cfg
	stop := f.probing()
	defer stop()
	r := f.report()
	began := time.Now()
	if err = f.Grow(cfg.Nodes, cfg.Ramp); err != nil {
		return nil, err
	}
	// Before all hosts seal, figures a second say nothing.
	if err = f.watch(ctx, cfg.Ramp, say); err != nil {
		return nil, err
	}
	m, err := newMeter(cfg.Watch)
	if err != nil {
		return nil, err
	}
	before := f.Snapshot()
	if err = f.watch(ctx, max(cfg.For-cfg.Ramp, lookEvery), say); err != nil {
		return nil, err
	}
	after := f.Snapshot()
	if r.CPU, err = m.read(); err != nil {
		return nil, err
	}
	r.Load = load()
	per(r.CPU, after.Rows-before.Rows, after.Samples-before.Samples)
	if span := after.At.Sub(before.At).Seconds(); span > 0 {
		r.Rows.PerSecond, r.Rows.SamplesPer = float64(after.Rows-before.Rows)/span, float64(after.Samples-before.Samples)/span
	}
	f.Shrink(0)
	r.Seconds = time.Since(began).Seconds()
	if err = f.settle(context.WithoutCancel(ctx), cfg.Drain, say); err != nil {
		return nil, err
	}
	stop()
	r.fill(f.Snapshot())
	if cfg.Store != nil {
		stored, missing, serr := f.Stored(context.WithoutCancel(ctx))
		if serr != nil {
			return nil, fmt.Errorf("count what is stored: %w", serr)
		}
		r.Store = &struct {
			Frames  uint64 `json:"frames"`
			Missing uint64 `json:"missing"`
		}{stored, missing}
	}
	return r, r.judge()
}

func (f *Fleet) report() *Report {
	c := &f.cfg
	r := &Report{Fleet: c.String(), Cluster: c.Cluster, Hosts: c.Nodes, GPUs: c.Nodes * c.GPUs, Hz: c.Rate, Seed: c.Seed, SealEvery: (c.tick() * time.Duration(c.ticks())).Seconds(),
		Refused: map[string]uint64{}, Verdict: []string{}}
	r.Lag.BoundMs = c.MaxLag.Milliseconds()
	return r
}

// probing asks the store in the background, until stop, which may be called twice.
func (f *Fleet) probing() (stop func()) {
	if f.cfg.Store == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(f.ctx)
	done := make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		f.look(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// watch looks at the fleet for a time. The end of ctx ends it without an error; an error is a
// fleet that cannot go on, or a broker that takes nothing and says why.
func (f *Fleet) watch(ctx context.Context, span time.Duration, say func(Snapshot)) error {
	end := time.Now().Add(span)
	last := time.Now()
	for time.Now().Before(end) && sleep(ctx, min(time.Until(end), lookEvery)) {
		if err := f.Failed(); err != nil {
			return err
		}
		f.mu.Lock()
		hosts := len(f.nodes)
		f.mu.Unlock()
		// A look at thousands of hosts takes a part of a processor, which others want.
		if hosts > manyHosts && time.Since(last) < 5*lookEvery {
			continue
		}
		last = time.Now()
		s := f.Snapshot()
		if say != nil {
			say(s)
		}
		if s.Acked == 0 && s.Oldest > patience && s.Reason != "" {
			return fmt.Errorf("the broker has taken nothing in %s: %s", s.Oldest.Round(time.Second), s.Reason)
		}
	}
	return nil
}

// settle waits until all is committed, or for so long.
func (f *Fleet) settle(ctx context.Context, most time.Duration, say func(Snapshot)) error {
	for end := time.Now().Add(most); ; {
		if err := f.Failed(); err != nil {
			return err
		}
		s := f.Snapshot()
		if say != nil {
			say(s)
		}
		if s.Waiting == 0 || !time.Now().Before(end) {
			return nil
		}
		if sleep(ctx, lookEvery/4); s.Hosts > manyHosts {
			sleep(ctx, lookEvery)
		}
	}
}

func (r *Report) fill(s Snapshot) {
	fr := &r.Frames
	fr.Sealed, fr.Published, fr.Acked, fr.Committed, fr.Resent, fr.GivenUp, fr.Bytes = s.Frames, s.Published, s.Acked, s.Committed, s.Resent, s.Lost, s.Bytes
	fr.Uncommitted = s.Frames - s.Committed - s.Lost
	if s.Samples > 0 {
		fr.PerSample = float64(s.Bytes) / float64(s.Samples)
	}
	r.Rows.Sealed, r.Rows.Committed, r.Rows.GivenUp, r.Rows.Samples = s.Rows, s.CommittedRows, s.LostRows, s.Samples
	r.Lag.Ack, r.Lag.Commit, r.Lag.LateMs = s.Ack, s.Commit, s.Late.Milliseconds()
	if s.Visible.Frames > 0 {
		v := s.Visible
		r.Lag.Visible = &v
	}
	maps.Copy(r.Refused, s.Refused)
}

// judge holds a run to its bounds.
func (r *Report) judge() error {
	var errs []error
	broken := func(err error, format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		r.Verdict = append(r.Verdict, err.Error()+": "+text)
		errs = append(errs, fmt.Errorf("%w: %s", err, text))
	}
	if most := r.Lag.Commit.MaxMs; most > float64(r.Lag.BoundMs) {
		broken(ErrLag, "a frame took %.1f s from its seal to its commit mark, bound %.1f s", most/1000, float64(r.Lag.BoundMs)/1000)
	}
	if r.Lag.LateMs > lateMost.Milliseconds() {
		broken(ErrLate, "a seal came %.1f s late", float64(r.Lag.LateMs)/1000)
	}
	switch n := r.Frames.Uncommitted; {
	case r.Frames.Sealed == 0:
		broken(ErrNotCommitted, "nothing was sealed: the run was shorter than a seal takes")
	case n > 0:
		broken(ErrNotCommitted, "%d of %d frames have no commit mark", n, r.Frames.Sealed)
	case r.Frames.GivenUp > 0:
		broken(ErrNotCommitted, "%d frames (%d rows) were given up by full spools, and told in gap records", r.Frames.GivenUp, r.Rows.GivenUp)
	}
	if r.Store != nil && r.Store.Missing > 0 {
		broken(ErrNotCommitted, "the store lacks %d of %d frames", r.Store.Missing, r.Store.Missing+r.Store.Frames)
	}
	return errors.Join(errs...)
}
