package loadgen

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// Search says how a ceiling is looked for. Zero values mean the defaults.
type Search struct {
	// Growth is by how much the fleet grows from step to step; default 1.5. Cfg.Nodes is the first; if
	// that does not hold, half of it is next, or less where Growth is more than 2.
	Growth float64
	// Step is how long a step is measured, behind one seal of all hosts; default 1 minute.
	Step time.Duration
	// Refine is how often the way between the last size that held and the first that did not is
	// halved; default 2, negative: never.
	Refine int
	// MaxNodes ends the search; default 50,000 hosts.
	MaxNodes int
}

// Step is one size of the fleet.
type Step struct {
	Hosts     int     `json:"hosts"`
	GPUs      int     `json:"gpus"`
	Seconds   float64 `json:"seconds"`
	Sealed    float64 `json:"rows_per_s"`
	Committed float64 `json:"committed_rows_per_s"`
	Samples   float64 `json:"gpu_samples_per_s"`
	Ack       Lag     `json:"ack"`
	Commit    Lag     `json:"commit"`
	Visible   Lag     `json:"visible"`
	OldestMs  int64   `json:"oldest_ms"`
	LateMs    int64   `json:"generator_late_ms"`
	CPU       []Cost  `json:"cpu"`
	Load      string  `json:"load_average"`
	Held      bool    `json:"held"`
	Why       string  `json:"why,omitempty"` // it did not
	ByLoadgen bool    `json:"by_loadgen"`    // the generator was too slow, not what it loads
}

// Ceiling is the answer.
type Ceiling struct {
	// GPUs at Hz that were sustained with every frame's lag below the bound, in the largest step
	// that held.
	GPUs  int     `json:"gpus"`
	Hosts int     `json:"hosts"`
	Hz    float64 `json:"hz"`
	// Broke is the smallest size that did not hold; 0: none was found.
	Broke int    `json:"broke_at_gpus"`
	Why   string `json:"why"`
}

// fewWaiting frames more at the end of a step than at its begin are no backlog yet: a small fleet's marks come in bundles.
const fewWaiting = 16

// FindCeiling grows the fleet until it no longer holds, or shrinks it until it does: a frame takes longer than MaxLag, or what
// is committed falls behind what is sealed. A step that does not hold is repeated once: a
// disturbance is no ceiling. tell, if not nil, is told each step.
func FindCeiling(ctx context.Context, cfg Config, how Search, say func(Snapshot), tell func(Step)) (_ *Report, err error) {
	if how.Growth == 0 {
		how.Growth = 1.5
	}
	if how.Step == 0 {
		how.Step = time.Minute
	}
	if how.Refine == 0 {
		how.Refine = 2
	}
	if how.MaxNodes == 0 {
		how.MaxNodes = 50_000
	}
	if how.Growth < 1.05 || how.Step < 5*time.Second || how.MaxNodes < 1 || how.MaxNodes > maxNodes {
		return nil, fmt.Errorf("search: a growth of %g, steps of %s and at most %d hosts: wanted 1.05 or more, 5s or more, and 1 to %d", how.Growth, how.Step, how.MaxNodes, maxNodes)
	}
	f, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	stop := f.probing()
	defer stop()
	m, err := newMeter(f.cfg.Watch)
	if err != nil {
		return nil, err
	}
	r := f.report()
	r.Ceiling = &Ceiling{Hz: f.cfg.Rate}
	began := time.Now()
	s := &search{stage: &fleetStage{f: f, span: how.Step, m: m, r: r, say: say, tell: tell}, how: how, gpus: f.cfg.GPUs}
	err = s.run(ctx, f.cfg.Nodes, r.Ceiling)
	r.Seconds = time.Since(began).Seconds()
	r.Load = load()
	if err != nil {
		r.fill(f.Snapshot())
		return r, err
	}
	f.Shrink(0)
	if err = f.settle(context.WithoutCancel(ctx), f.cfg.Drain, say); err != nil {
		return nil, err
	}
	r.fill(f.Snapshot())
	if r.Ceiling.GPUs == 0 {
		if r.Ceiling.Broke == 0 {
			return r, fmt.Errorf("%w: %s before a size was measured", ErrLag, r.Ceiling.Why)
		}
		return r, fmt.Errorf("%w: not even %d GPUs hold: %s", ErrLag, r.Ceiling.Broke, r.Ceiling.Why)
	}
	if n := r.Frames.Uncommitted; n > 0 {
		return r, fmt.Errorf("%w: %d of %d frames have no commit mark", ErrNotCommitted, n, r.Frames.Sealed)
	}
	return r, nil
}

// stage is where a fleet is tried.
type stage interface {
	// step measures a size, to which it brings the fleet if that is smaller.
	step(ctx context.Context, hosts int) (Step, error)
	// recover waits until nothing is behind any more, and goes on with so many hosts.
	recover(ctx context.Context, hosts int) error
}

type search struct {
	stage stage
	how   Search
	gpus  int // of a host
}

// run finds the ceiling from a first size on, or what there is of it when ctx ends.
func (s *search) run(ctx context.Context, first int, c *Ceiling) error {
	held, broke := 0, 0
	refine := s.how.Refine
	for n := min(first, s.how.MaxNodes); ctx.Err() == nil; {
		st, err := s.twice(ctx, n)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			break
		}
		if st.Held {
			held = n
			c.Hosts, c.GPUs = held, held*s.gpus
		} else {
			broke = n
			c.Broke, c.Why = broke*s.gpus, st.Why
			if st.ByLoadgen {
				c.Why += " (loadgen's own: give it another machine, or more workers)"
			}
			if err = s.stage.recover(ctx, held); err != nil {
				return err
			}
		}
		switch {
		case broke == 0:
			if n >= s.how.MaxNodes {
				c.Why = "no larger fleet was asked for"
				return nil
			}
			n = min(max(int(math.Ceil(float64(n)*s.how.Growth)), n+1), s.how.MaxNodes)
		case held == 0:
			if n == 1 {
				return nil
			}
			n = max(int(float64(n)/max(s.how.Growth, 2)), 1)
		case refine <= 0 || broke-held < 2:
			return nil
		default:
			refine--
			n = (held + broke) / 2
		}
	}
	if c.Why != "" {
		c.Why += "; "
	}
	c.Why += "the search was ended"
	return nil
}

// twice measures a size, and again if it does not hold.
func (s *search) twice(ctx context.Context, n int) (Step, error) {
	st, err := s.stage.step(ctx, n)
	if err != nil || st.Held || st.ByLoadgen || ctx.Err() != nil {
		return st, err
	}
	if err = s.stage.recover(ctx, n); err != nil {
		return st, err
	}
	again, err := s.stage.step(ctx, n)
	if again.Why == "" {
		again.Why = st.Why
	}
	return again, err
}

// fleetStage is a stage with simulated hosts.
type fleetStage struct {
	f    *Fleet
	span time.Duration // that a step is measured
	m    *meter
	r    *Report // gets the steps
	say  func(Snapshot)
	tell func(Step)
}

func (s *fleetStage) recover(ctx context.Context, n int) error {
	s.f.Shrink(0) // what is behind is made good soonest if nothing comes
	most := 10 * s.f.cfg.Drain
	if err := s.f.settle(ctx, most, s.say); err != nil {
		return err
	}
	if w := s.f.Snapshot().Waiting; w > 0 && ctx.Err() == nil {
		return fmt.Errorf("%w: %d frames still wait %s after the last of them was sealed, and nothing more can be tried", ErrNotCommitted, w, most)
	}
	if err := s.f.Remove(); err != nil {
		return err
	}
	return s.f.Grow(n, s.f.cfg.Ramp)
}

func (s *fleetStage) step(ctx context.Context, n int) (Step, error) {
	f := s.f
	st := Step{Hosts: n, GPUs: n * f.cfg.GPUs}
	f.mu.Lock()
	more := n - len(f.nodes)
	f.mu.Unlock()
	if more > 0 {
		if err := f.Grow(n, f.cfg.Ramp); err != nil {
			return st, err
		}
	}
	// Until all new hosts have sealed once: their first frames are larger.
	period := f.cfg.tick() * time.Duration(f.cfg.ticks())
	if err := f.watch(ctx, f.cfg.Ramp+period+period/4, s.say); err != nil {
		return st, err
	}
	f.window()
	if _, err := s.m.read(); err != nil {
		return st, err
	}
	a := f.Snapshot()
	for end := time.Now().Add(s.span); time.Now().Before(end) && ctx.Err() == nil; {
		if err := f.watch(ctx, min(time.Until(end), lookEvery), s.say); err != nil {
			return st, err
		}
		if f.oldest() > 3*f.cfg.MaxLag { // it will not get better
			break
		}
	}
	b := f.Snapshot()
	var err error
	if st.CPU, err = s.m.read(); err != nil {
		return st, err
	}
	span := b.At.Sub(a.At).Seconds()
	st.Seconds, st.Load = span, load()
	st.Sealed, st.Committed, st.Samples = float64(b.Rows-a.Rows)/span, float64(b.CommittedRows-a.CommittedRows)/span, float64(b.Samples-a.Samples)/span
	per(st.CPU, b.Rows-a.Rows, b.Samples-a.Samples)
	st.Ack, st.Commit, st.Visible, st.OldestMs, st.LateMs = b.windowAck, b.window, b.windowVisible, b.Oldest.Milliseconds(), b.Late.Milliseconds()
	bound := f.cfg.MaxLag
	switch {
	case b.Lost > a.Lost:
		st.Why = "spools gave frames up"
	case b.Late > lateMost:
		st.Why, st.ByLoadgen = fmt.Sprintf("a seal came %.1f s late", b.Late.Seconds()), true
	case b.Oldest > bound:
		st.Why = fmt.Sprintf("a frame waits for its commit mark since %.1f s", b.Oldest.Seconds())
	case st.Commit.MaxMs > float64(bound.Milliseconds()):
		st.Why = fmt.Sprintf("a frame took %.1f s from its seal to its commit mark (p99 %.1f s)", st.Commit.MaxMs/1000, st.Commit.P99Ms/1000)
	case st.Committed < 0.97*st.Sealed && b.Waiting > a.Waiting+max(a.Waiting/2, b.Hosts/10, fewWaiting):
		st.Why = fmt.Sprintf("of %.0f rows a second %.0f are committed", st.Sealed, st.Committed)
	default:
		st.Held = true
	}
	s.r.Steps = append(s.r.Steps, st)
	if s.tell != nil {
		s.tell(st)
	}
	return st, nil
}
