package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flopwatch/flopwatch/agent/host"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Shipper carries the spool's frames away.
type Shipper interface {
	// Run ships until ctx ends, and then returns nil.
	Run(ctx context.Context) error
	// Drain waits until all that is in the spool has arrived, or for ctx.
	Drain(ctx context.Context) error
}

// Config of an agent. Node and Recorder are needed; zero values elsewhere mean the defaults.
type Config struct {
	// Node shifts the ticks within the interval, so that a fleet does not tick at once.
	Node string
	// Recorder seals rows; the agent is its only user from New on.
	Recorder *Recorder
	// Sources are asked at every tick, and closed at the end. Their names differ.
	Sources []source.Source
	// Ship carries the frames away; nil: nobody does.
	Ship Shipper
	// Clocks returns Unix milliseconds and milliseconds since boot; nil: the system's.
	Clocks func() (wallMs, bootMs int64)
	// Interval of the ticks; default 1 s. SealEvery is how long rows wait in memory before they
	// go into the spool; default 10 s.
	Interval, SealEvery time.Duration
	// Burst asks Bursters more often for a while; zero: never.
	Burst Burst
	// SealRows is when a table is sealed earlier; default 6,000 rows.
	SealRows int
	// PendingRows bounds what is kept in memory while the spool takes nothing; default 10,000
	// rows, about 3 MB. Then the oldest are given up, which is counted and told.
	PendingRows int
	// TellEvery is how often a status that did not change is told again; default 5 minutes.
	TellEvery time.Duration
	// StallAfter is how long a source may be busy before it counts as stalled; default 10 s.
	StallAfter time.Duration
	// StopTimeout bounds how long sources may take to end, and the last seal; default 5 s.
	// DrainTimeout bounds the wait for the broker at the end; default 3 s.
	StopTimeout, DrainTimeout time.Duration
	// Manual: ticks come from Step alone.
	Manual bool
	Log    *slog.Logger // nil: none
}

// Burst is when Bursters are asked between ticks: for Length at the beginning of every Every
// of the wall clock, so that all hosts whose clocks agree do it at the same time, and Spacing
// apart. A Spacing of an interval or more means never.
type Burst struct {
	Every, Length, Spacing time.Duration
}

// at reports whether a moment of the wall clock lies in a burst.
func (b Burst) at(wallMs int64) bool {
	every := b.Every.Milliseconds()
	return every > 0 && b.Spacing > 0 && ((wallMs%every)+every)%every < b.Length.Milliseconds()
}

// What the agent holds against itself.
const (
	// clockStepMs is how far the clocks may part between two ticks before it is a step.
	clockStepMs = 500
	// rememberMs is how long an event counts as a condition.
	rememberMs = 10 * 60_000
	// missedTicks of the last while make a condition; a single one is told by the counter.
	missedTicks = 5
	// selfName is the agent's own instrument.
	selfName = "agent"
)

// event is something that happened and is told for a while.
type event struct {
	text  string
	until int64 // boot milliseconds
	count uint64
}

// Agent asks sources at every tick and seals what they say.
type Agent struct {
	cfg   Config
	lg    *slog.Logger
	board *board
	sink  *sink
	seal  *sealer

	sealNow chan struct{}
	retime  chan struct{} // the interval has changed
	running chan struct{} // closed when Run has started all
	started atomic.Bool

	mu         sync.Mutex // guards below; held before any other lock of the package
	interval   time.Duration
	burst      Burst
	sealEvery  time.Duration
	workers    []*worker
	launch     func(*worker) // nil: not running, or at the end
	prev       source.Tick
	sealedAt   int64 // boot milliseconds of the last cut
	missed     uint64
	clockSteps uint64
	events     map[string]event
	badSeen    uint64
	badAt      int64 // boot milliseconds at which refused rows were logged
	conditions []string
}

// New returns an agent that does nothing before Run.
func New(cfg Config) (*Agent, error) {
	if cfg.Node == "" || cfg.Recorder == nil {
		return nil, errors.New("make agent: node and recorder are needed")
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&cfg.Interval, time.Second}, {&cfg.SealEvery, 10 * time.Second}, {&cfg.TellEvery, 5 * time.Minute}, {&cfg.StallAfter, 10 * time.Second},
		{&cfg.StopTimeout, 5 * time.Second}, {&cfg.DrainTimeout, 3 * time.Second}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if cfg.SealRows <= 0 {
		cfg.SealRows = 6000
	}
	if cfg.PendingRows <= 0 {
		cfg.PendingRows = 10_000
	}
	if cfg.Clocks == nil {
		cfg.Clocks = host.Clocks
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	bd := newBoard()
	a := &Agent{cfg: cfg, lg: cfg.Log, board: bd, sink: newSink(min(cfg.SealRows, sealRows), cfg.PendingRows, bd),
		sealNow: make(chan struct{}, 1), retime: make(chan struct{}, 1), running: make(chan struct{}),
		interval: cfg.Interval, burst: cfg.Burst, sealEvery: cfg.SealEvery, events: map[string]event{}}
	a.seal = &sealer{rec: cfg.Recorder, sink: a.sink, lg: cfg.Log}
	a.sink.wantSealed = a.wantSealed
	for _, s := range cfg.Sources {
		if err := a.addable(s); err != nil {
			return nil, fmt.Errorf("make agent: %w", err)
		}
		a.workers = append(a.workers, newWorker(s, a.sink, cfg.Log))
	}
	return a, nil
}

func (a *Agent) addable(s source.Source) error {
	name := s.Name()
	if name == "" || name == selfName {
		return fmt.Errorf("a source cannot be called %q", name)
	}
	if slices.ContainsFunc(a.workers, func(w *worker) bool { return w.name == name }) {
		return fmt.Errorf("two sources are called %q", name)
	}
	return nil
}

func (a *Agent) wantSealed() {
	if a.cfg.Manual {
		return // Step seals
	}
	select {
	case a.sealNow <- struct{}{}:
	default:
	}
}

// Run samples and seals until ctx ends, and ships if it has a shipper. At the end the last
// rows are sealed and the spool is flushed; frames that could not be shipped stay in the
// spool, which is no error. An error is a shipper that ended, or rows that the spool did not
// take. It runs once.
func (a *Agent) Run(ctx context.Context) error {
	if !a.started.CompareAndSwap(false, true) {
		return errors.New("run agent: it ran before")
	}
	// What ends the ticks must not end the rest: it has its own order.
	base := context.WithoutCancel(ctx)
	loop, stopLoop := context.WithCancelCause(ctx)
	defer stopLoop(nil)
	asking, stopAsking := context.WithCancel(base)
	defer stopAsking()
	shipping, stopShipping := context.WithCancel(base)
	defer stopShipping()

	shipped := make(chan error, 1)
	if a.cfg.Ship != nil {
		go func() { // ends with shipping
			err := a.cfg.Ship.Run(shipping)
			if err != nil {
				stopLoop(err)
			}
			shipped <- err
		}()
	} else {
		shipped <- nil
	}
	endSealing := make(chan struct{})
	sealed := make(chan struct{})
	go func() { // ends with endSealing
		defer close(sealed)
		for {
			select {
			case <-a.sealNow:
				_ = a.seal.all(base) // it has logged and keeps the rows
			case <-endSealing:
				return
			}
		}
	}()
	if f := a.cfg.Recorder.cfg.Ticks; f != nil {
		go f.run(endSealing)
	}
	a.mu.Lock()
	a.launch = func(w *worker) { go w.run(asking) } // ends with asking, or with w.end
	for _, w := range a.workers {
		a.launch(w)
	}
	a.mu.Unlock()
	close(a.running)

	if a.cfg.Manual {
		<-loop.Done()
	} else {
		a.pace(loop)
	}

	a.stopSources(base, stopAsking)
	close(endSealing)
	err := a.sealRest(base, sealed)
	// Told to stop, whatever the cause: signals have causes of their own.
	if a.cfg.Ship != nil && errors.Is(context.Cause(loop), context.Cause(ctx)) {
		dctx, cancel := context.WithTimeout(base, a.cfg.DrainTimeout)
		if derr := a.cfg.Ship.Drain(dctx); derr != nil {
			a.lg.LogAttrs(base, slog.LevelInfo, "frames stay in the spool", slog.Any("err", derr))
		}
		cancel()
	}
	stopShipping()
	if serr := <-shipped; serr != nil {
		err = errors.Join(err, fmt.Errorf("run agent: %w", serr))
	}
	return err
}

// pace ticks on the clock that no step moves. Slots that passed meanwhile (suspend,
// overload) are counted and not made up for.
func (a *Agent) pace(ctx context.Context) {
	wall, boot := a.cfg.Clocks()
	a.mu.Lock()
	every := a.interval.Milliseconds()
	burst := a.burst
	seq := a.prev.Seq
	a.mu.Unlock()
	due := boot + untilPhase(a.cfg.Node, wall, every)
	ticked, moment := boot, 0 // the last tick, and how many moments of a burst came behind it
	times := new(wallTimes)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next := due
		if spacing := burst.Spacing.Milliseconds(); seq > 0 && burst.at(wall) {
			// As far from the next tick as from the one before: not at the same time.
			if at := ticked + int64(moment+1)*spacing; at+spacing <= due {
				next = at
			}
		}
		timer.Reset(time.Duration(next-boot) * time.Millisecond)
		select {
		case <-ctx.Done():
			return
		case <-a.retime:
			a.mu.Lock()
			every, burst = a.interval.Milliseconds(), a.burst
			a.mu.Unlock()
			wall, boot = a.cfg.Clocks()
			due = boot + untilPhase(a.cfg.Node, wall, every)
			ticked, moment = boot, 0
			continue
		case <-timer.C:
		}
		wall, boot = a.cfg.Clocks()
		if boot < due {
			if next < due && boot >= next {
				moment = int((boot - ticked) / burst.Spacing.Milliseconds()) // those that passed are not made up for
				a.between(source.Tick{Seq: seq, Burst: moment, WallMs: times.take(wall), BootMs: boot})
			}
			continue
		}
		slots := 1 + (boot-due)/every
		seq += uint64(slots)
		due += slots * every
		ticked, moment = boot, 0
		a.tick(source.Tick{Seq: seq, WallMs: times.take(wall), BootMs: boot})
	}
}

// untilPhase is how long from a wall time until the node's moment within the interval.
func untilPhase(node string, wallMs, everyMs int64) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node)) // a hash's Write does not fail
	phase := int64(h.Sum64() % uint64(everyMs))
	return ((phase-wallMs)%everyMs + everyMs) % everyMs
}

// Step is a tick by hand, of an agent whose Config says Manual and whose Run runs. It returns
// when all sources have had the tick, and what is due is sealed: the error is the spool's.
// Seq must rise; numbers that are left out count as missed. A tick with Burst set is a moment
// between two, with the Seq of the one before.
func (a *Agent) Step(ctx context.Context, t source.Tick) error {
	select {
	case <-a.running:
	case <-ctx.Done():
		return fmt.Errorf("step: %w", ctx.Err())
	}
	ask := a.tick
	if t.Burst > 0 {
		ask = a.between
	}
	for _, done := range ask(t) {
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("step: %w", ctx.Err())
		}
	}
	return a.seal.all(ctx)
}

// tick is one tick: it returns at once. The channels are closed as the sources get through.
func (a *Agent) tick(t source.Tick) []<-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.prev.Seq == 0 {
		a.sealedAt = t.BootMs
	}
	a.notice(t)
	if t.BootMs-a.sealedAt >= a.sealEvery.Milliseconds() {
		// What the ticks before gave, whole: this one's rows belong to the next cut.
		a.sealedAt = t.BootMs
		a.sink.cut()
		a.wantSealed()
	}
	a.prev = t
	a.sink.begin(t.Seq, a.missed)
	if f := a.cfg.Recorder.cfg.Ticks; f != nil {
		f.tick(t.Seq)
	}
	a.watch(t)
	for _, st := range a.board.tell(t, a.cfg.TellEvery.Milliseconds(), a.sink) {
		level := slog.LevelWarn
		if st.State == source.Active {
			level = slog.LevelInfo
		}
		a.lg.LogAttrs(context.Background(), level, "instrument is in another state", slog.String("instrument", st.Instrument),
			slog.String("state", string(st.State)), slog.String("reason", st.Reason))
	}
	var waits []<-chan struct{}
	for _, w := range a.workers {
		if done, ok := w.offer(t); ok {
			waits = append(waits, done)
		}
	}
	return waits
}

// between asks those sources that can be asked between two ticks.
func (a *Agent) between(t source.Tick) []<-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	var waits []<-chan struct{}
	for _, w := range a.workers {
		if done, ok := w.offerBurst(t); ok {
			waits = append(waits, done)
		}
	}
	return waits
}

// notice sees what happened to time between the last tick and t.
func (a *Agent) notice(t source.Tick) {
	if a.prev.Seq == 0 {
		return
	}
	if lost := t.Seq - a.prev.Seq - 1; t.Seq > a.prev.Seq && lost > 0 {
		a.missed += lost
		n := a.remember(t, "missed", lost)
		if n >= missedTicks {
			a.say(t, "missed", fmt.Sprintf("%d ticks passed without a sample: the host was suspended or overloaded", n))
		}
	}
	if step := (t.WallMs - a.prev.WallMs) - (t.BootMs - a.prev.BootMs); step >= clockStepMs || step <= -clockStepMs {
		a.clockSteps++
		a.remember(t, "clock", 1)
		a.say(t, "clock", fmt.Sprintf("the wall clock was stepped by %.1f s", float64(step)/1000))
		a.lg.LogAttrs(context.Background(), slog.LevelWarn, "the wall clock was stepped", slog.Int64("step_ms", step))
	}
}

// remember counts an event, and returns how often it came while it was remembered.
func (a *Agent) remember(t source.Tick, name string, n uint64) uint64 {
	e := a.events[name]
	if e.until < t.BootMs {
		e = event{}
	}
	e.count += n
	e.until = t.BootMs + rememberMs
	a.events[name] = e
	return e.count
}

func (a *Agent) say(t source.Tick, name, text string) {
	e := a.events[name]
	e.text, e.until = text, t.BootMs+rememberMs
	a.events[name] = e
}

// watch looks at sources that do not come back and at the agent itself.
func (a *Agent) watch(t source.Tick) {
	var reasons []string
	for _, w := range a.workers {
		busy := w.busyMs(t.BootMs)
		if busy < a.cfg.StallAfter.Milliseconds() {
			continue
		}
		reason := "it was asked and does not answer"
		if !w.stalled.Swap(true) {
			a.lg.LogAttrs(context.Background(), slog.LevelWarn, "source does not answer", slog.String("source", w.name), slog.Int64("busy_ms", busy))
		}
		a.board.override(w.name, &source.Status{State: source.Stalled, Reason: reason})
		reasons = append(reasons, "source "+w.name+" does not answer")
	}
	if gap := a.sink.takeGap(); gap.rows > 0 {
		n := a.remember(t, "given_up", gap.rows)
		a.say(t, "given_up", fmt.Sprintf("%d rows were given up, the last of ticks %d to %d: the spool took nothing and memory is bounded", n, gap.from, gap.to))
		a.lg.LogAttrs(context.Background(), slog.LevelError, "rows were given up for want of room",
			slog.Uint64("rows", gap.rows), slog.Uint64("from_tick", gap.from), slog.Uint64("to_tick", gap.to))
	}
	a.seal.mu.Lock()
	serr := a.seal.lastErr
	a.seal.mu.Unlock()
	if serr != nil {
		reasons = append(reasons, "the spool takes nothing: "+serr.Error())
	}
	if n, last := a.sink.bad(); n > a.badSeen && (a.badAt == 0 || t.BootMs-a.badAt >= 60_000) {
		a.lg.LogAttrs(context.Background(), slog.LevelWarn, "rows were refused", slog.Uint64("rows", n-a.badSeen), slog.Any("last", last))
		a.badSeen, a.badAt = n, max(1, t.BootMs)
	}
	for _, name := range []string{"given_up", "clock", "missed"} {
		if e, ok := a.events[name]; ok && e.until >= t.BootMs && e.text != "" {
			reasons = append(reasons, e.text)
		}
	}
	a.conditions = reasons
	st := source.Status{Instrument: selfName, State: source.Active}
	if len(reasons) > 0 {
		st.State, st.Reason = source.Degraded, strings.Join(reasons, "; ")
	}
	a.board.set(st)
}

// stopSources lets what is in hand finish, then interrupts it, and leaves behind what does
// not listen: a call into a dead disk or bus cannot be ended.
func (a *Agent) stopSources(ctx context.Context, interrupt context.CancelFunc) {
	a.mu.Lock()
	a.launch = nil
	workers := slices.Clone(a.workers)
	a.mu.Unlock()
	for _, w := range workers {
		w.end()
	}
	if left := await(workers, a.cfg.StopTimeout/2); len(left) > 0 {
		interrupt()
		for _, w := range await(left, a.cfg.StopTimeout/2) {
			a.lg.LogAttrs(ctx, slog.LevelWarn, "source does not end and is left behind", slog.String("source", w.name))
		}
	}
	interrupt()
}

// await waits for workers to end, and returns those that did not.
func await(workers []*worker, limit time.Duration) (left []*worker) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	late := false
	for _, w := range workers {
		if !late {
			select {
			case <-w.done:
				continue
			case <-timer.C:
				late = true
			}
		}
		select {
		case <-w.done:
		default:
			left = append(left, w)
		}
	}
	return left
}

// sealRest tells that the agent ends, and puts all there is into the spool.
func (a *Agent) sealRest(ctx context.Context, sealed <-chan struct{}) error {
	wall, boot := a.cfg.Clocks()
	a.mu.Lock()
	t := source.Tick{Seq: a.prev.Seq, WallMs: wall, BootMs: boot}
	if a.cfg.Manual && a.prev.Seq > 0 {
		t = a.prev
		t.WallMs++ // a key of its own
	}
	a.mu.Unlock()
	if t.Seq > 0 {
		a.board.set(source.Status{Instrument: selfName, State: source.Unavailable, Reason: "the agent was stopped"})
		a.board.tell(t, a.cfg.TellEvery.Milliseconds(), a.sink)
	}
	a.sink.close()
	a.sink.cut()
	done := make(chan error, 1)
	go func() { // ends with the disk's answer
		<-sealed
		err := a.seal.all(ctx)
		if err == nil {
			err = a.seal.flush(ctx)
		}
		done <- err
	}()
	timer := time.NewTimer(a.cfg.StopTimeout)
	defer timer.Stop()
	select {
	case err := <-done:
		if err != nil {
			st := Stats{}
			a.sink.counts(&st)
			return fmt.Errorf("seal the last rows (%d stay behind): %w", st.PendingRows, err)
		}
		return nil
	case <-timer.C:
		return fmt.Errorf("seal the last rows: the spool does not answer within %s", a.cfg.StopTimeout)
	}
}

// Change is what a running agent can change about itself. Zero values leave things as they
// are.
type Change struct {
	Interval, SealEvery time.Duration
	Burst               *Burst
	// Remove ends sources by name; Add starts new ones, after that. The agent closes those of
	// Add, also the ones that it does not start because of an error.
	Remove []string
	Add    []source.Source
}

// Apply changes a running agent. It waits for the sources that it removes, at most
// Config.StopTimeout; one that does not end is left behind, and said.
func (a *Agent) Apply(ctx context.Context, ch Change) error {
	select {
	case <-a.running:
	case <-ctx.Done(): // the end comes before the beginning: it is not running, see below
	}
	a.mu.Lock()
	if a.launch == nil {
		a.mu.Unlock()
		err := errors.New("it does not run")
		for _, s := range ch.Add {
			err = errors.Join(err, s.Close())
		}
		return fmt.Errorf("change agent: %w", err)
	}
	retime := ch.Interval > 0 && ch.Interval != a.interval
	if retime {
		a.interval = ch.Interval
	}
	if ch.Burst != nil && *ch.Burst != a.burst {
		a.burst, retime = *ch.Burst, true
	}
	if retime {
		select {
		case a.retime <- struct{}{}:
		default:
		}
	}
	if ch.SealEvery > 0 {
		a.sealEvery = ch.SealEvery
	}
	var gone []*worker
	a.workers = slices.DeleteFunc(a.workers, func(w *worker) bool {
		if slices.Contains(ch.Remove, w.name) {
			gone = append(gone, w)
			return true
		}
		return false
	})
	a.mu.Unlock()

	for _, w := range gone {
		w.end()
		if left := await([]*worker{w}, a.cfg.StopTimeout); len(left) > 0 {
			a.lg.LogAttrs(ctx, slog.LevelWarn, "source does not end and is left behind", slog.String("source", w.name))
		}
		if slices.ContainsFunc(ch.Add, func(s source.Source) bool { return s.Name() == w.name }) {
			a.board.forget(w.name) // the new one speaks for itself
		} else {
			a.board.retire(w.name, "it is switched off in the configuration")
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, s := range ch.Add {
		err := a.addable(s)
		if a.launch == nil {
			err = errors.New("it is being stopped")
		}
		if err != nil {
			for _, s := range ch.Add[i:] {
				err = errors.Join(err, s.Close())
			}
			return fmt.Errorf("change agent: %w", err)
		}
		w := newWorker(s, a.sink, a.lg)
		a.workers = append(a.workers, w)
		a.launch(w)
	}
	return nil
}

// SourceStats are one source's counts.
type SourceStats struct {
	Name    string
	Samples uint64        // ticks it answered
	Missed  uint64        // ticks that passed it by: it was busy, or left alone after a panic
	Errors  uint64        // ticks at which it saw nothing, panics included
	Panics  uint64        // among them
	Last    time.Duration // how long the last answer took
	Total   time.Duration // all answers
	Stalled bool          // it does not answer now
	// Bursts are moments between ticks that it answered; BurstsMissed passed it by.
	Bursts, BurstsMissed uint64
}

// Stats of an agent since New.
type Stats struct {
	Tick        source.Tick // the last one
	MissedTicks uint64      // slots in which there was no tick at all
	ClockSteps  uint64
	Sources     []SourceStats
	// Rows were taken from sources. RefusedRows lacked a key or broke the contract in another
	// way. LostRows were given up because the spool took nothing.
	Rows, RefusedRows, LostRows map[wire.Kind]uint64
	PendingRows                 int    // in memory
	Batches, Bytes, SealErrors  uint64 // sealed frames and their size; attempts that failed
	SealFailing                 bool   // the last attempt failed: the spool takes nothing
	Instruments                 []StatusAt
	// Conditions say in sentences what is wrong with the agent itself, as of the last tick.
	Conditions []string
}

// Stats returns the agent's counts.
func (a *Agent) Stats() Stats {
	st := Stats{Instruments: a.board.all()}
	a.sink.counts(&st)
	a.seal.mu.Lock()
	st.Batches, st.Bytes, st.SealErrors, st.SealFailing = a.seal.batches, a.seal.bytes, a.seal.errs, a.seal.lastErr != nil
	a.seal.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	st.Tick, st.MissedTicks, st.ClockSteps = a.prev, a.missed, a.clockSteps
	st.Conditions = slices.Clone(a.conditions)
	for _, w := range a.workers {
		st.Sources = append(st.Sources, SourceStats{Name: w.name, Samples: w.samples.Load(), Missed: w.missed.Load(), Errors: w.errs.Load(),
			Panics: w.panics.Load(), Last: time.Duration(w.lastUs.Load()) * time.Microsecond, Total: time.Duration(w.totalUs.Load()) * time.Microsecond,
			Stalled: w.stalled.Load(), Bursts: w.burst.Load(), BurstsMissed: w.burstMiss.Load()})
	}
	return st
}

// Interval of the ticks, as it is now.
func (a *Agent) Interval() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.interval
}
