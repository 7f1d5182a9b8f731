package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/cilium/ebpf/btf"

	"github.com/flopwatch/flopwatch/agent/kernel/probe"
	"github.com/flopwatch/flopwatch/agent/source"
)

const (
	switchMs = 2_000  // how often the switch file is looked for
	loadMs   = 10_000 // over what time the cost of probes is judged
	stallMs  = 10_000 // how long a call may take before the feature counts as stalled
)

// moment is a tick and where its rows go.
type moment struct {
	t   source.Tick
	out source.Sink
}

// worker owns a feature: all calls come from its goroutine.
type worker struct {
	f     Feature
	cfg   *Config
	env   *Env
	turn  chan struct{} // who has put in loads; one feature at a time
	ticks chan moment

	// Of the goroutine.
	running  bool
	offBy    string // what switches it off; "": nothing
	offAt    int64  // boot ms of the last look
	startAt  int64  // boot ms of the next start
	sampleAt int64
	base     uint64 // ns of its probes at loadAt
	loadAt   int64

	mu       sync.Mutex // guards below
	report   Report
	busyFrom int64 // boot ms of the call in hand; 0: none
	busyWith string
	idle     int64 // moments that were worked off, for tests
	samples  uint64
	spent    time.Duration
	load     Load
	loadE4   int64
	closeErr error
	ended    bool
}

// hand gives the worker a tick, in the place of one that it had no time for. It never waits.
func (w *worker) hand(m moment) {
	select {
	case <-w.ticks:
	default:
	}
	select {
	case w.ticks <- m:
	default:
	}
}

func (w *worker) run(ctx context.Context) {
	defer func() {
		var err error
		if w.running {
			var cerr error
			err = errors.Join(w.call("closing", 0, func() { cerr = w.f.Close() }), cerr)
		}
		w.mu.Lock()
		w.closeErr, w.ended = err, true
		w.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-w.ticks:
			w.step(ctx, m)
			w.mu.Lock()
			w.idle++
			w.mu.Unlock()
		}
	}
}

// step does what is due at a tick.
func (w *worker) step(ctx context.Context, m moment) {
	now := m.t.BootMs
	w.look(now)
	if w.offBy != "" {
		if w.running {
			w.shut(now)
		}
		w.tell(Unavailable("switched off by "+w.offBy, nil))
		w.startAt = now // at once when it is switched on
		return
	}
	if !w.running {
		if now < w.startAt || !w.start(ctx, now) {
			return
		}
	}
	if now < w.sampleAt {
		return
	}
	w.sampleAt = now + max(w.f.Every().Milliseconds(), 1)
	var r Report
	if err := w.call("sampling", now, func() { r = w.f.Sample(ctx, m.t, m.out) }); err != nil {
		w.fail(now, err)
		return
	}
	w.mu.Lock()
	w.samples++
	w.mu.Unlock()
	if r.State == source.Unavailable {
		w.shut(now)
		w.startAt = now + w.cfg.RetryEvery.Milliseconds()
		w.tell(r)
		return
	}
	w.tell(r)
	w.weigh(now)
}

// look finds out whether something switches the feature off.
func (w *worker) look(now int64) {
	if w.offAt != 0 && now-w.offAt < switchMs {
		return
	}
	w.offAt, w.offBy = now, ""
	if w.cfg.off(w.f.Name()) {
		w.offBy = "the configuration"
		return
	}
	if w.cfg.OffDir == "" {
		return
	}
	path := filepath.Join(w.cfg.OffDir, w.f.Name())
	if _, err := os.Lstat(path); err == nil {
		w.offBy = "the file " + path
	}
}

// start loads the feature when it is its turn; one that keeps the turn for too long is not
// waited for.
func (w *worker) start(ctx context.Context, now int64) bool {
	within, cancel := context.WithTimeout(ctx, w.cfg.StartFor)
	defer cancel()
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-within.Done():
		if ctx.Err() != nil {
			return false
		}
		var again context.CancelFunc
		within, again = context.WithTimeout(ctx, w.cfg.StartFor)
		defer again()
	}
	env := *w.env
	env.BTF = btf.NewCache()
	var r Report
	locked := probe.RaiseMemlock()
	err := w.call("loading", now, func() { r = w.f.Start(within, &env) })
	env.BTF = nil
	if locked != nil && r.Errno == syscall.EPERM {
		r.Why += "; " + locked.Error()
	}
	debug.FreeOSMemory() // the kernel's types are several times what a feature keeps
	if err != nil {
		w.running = true // it may hold something
		w.fail(now, err)
		return false
	}
	w.tell(r)
	if r.State == source.Unavailable {
		w.startAt = now + w.cfg.RetryEvery.Milliseconds()
		return false
	}
	w.running, w.sampleAt, w.base, w.loadAt = true, now, 0, now
	return true
}

// fail closes a feature that panicked.
func (w *worker) fail(now int64, err error) {
	w.env.Log.Error("kernel feature failed", slog.String("feature", w.f.Name()), slog.String("error", err.Error()))
	w.shut(now)
	w.startAt = now + w.cfg.RetryEvery.Milliseconds()
	w.tell(Unavailable("failed: "+err.Error(), nil))
}

func (w *worker) shut(now int64) {
	w.running = false
	var err error
	if perr := w.call("closing", now, func() { err = w.f.Close() }); perr != nil {
		err = perr
	}
	if err != nil {
		w.env.Log.Warn("kernel feature was not closed cleanly", slog.String("feature", w.f.Name()), slog.String("error", err.Error()))
	}
	w.mu.Lock()
	w.load, w.loadE4 = Load{}, 0
	w.mu.Unlock()
}

// weigh closes the feature if its probes cost too much.
func (w *worker) weigh(now int64) {
	m, ok := w.f.(Meter)
	if !ok {
		return
	}
	l := m.Load()
	var ns uint64
	for i := range l.Probes {
		ns += l.Probes[i].Ns
	}
	ns -= min(ns, l.Shed)
	w.mu.Lock()
	w.load = l
	w.mu.Unlock()
	passed := now - w.loadAt
	if passed < loadMs {
		return
	}
	grown := ns - min(ns, w.base)
	w.base, w.loadAt = ns, now
	part := float64(grown) / (float64(passed) * 1e6)
	w.mu.Lock()
	w.loadE4 = int64(part * 1e4)
	w.mu.Unlock()
	limit := w.cfg.MaxLoad * float64(max(l.Processes, 1))
	if part <= limit {
		return
	}
	w.shut(now)
	w.startAt = now + w.cfg.PauseFor.Milliseconds()
	why := fmt.Sprintf("paused for %v: its probes took %.1f %% of a core, more than %.1f %%", w.cfg.PauseFor, 100*part, 100*limit)
	w.env.Log.Warn("kernel feature paused", slog.String("feature", w.f.Name()), slog.String("reason", why))
	w.tell(Unavailable(why, nil))
}

// call runs fn, and makes an error of a panic.
func (w *worker) call(with string, now int64, fn func()) (err error) {
	w.mu.Lock()
	w.busyFrom, w.busyWith = max(now, 1), with
	w.mu.Unlock()
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
		w.mu.Lock()
		w.busyFrom = 0
		w.spent += time.Since(began)
		w.mu.Unlock()
	}()
	fn()
	return nil
}

func (w *worker) tell(r Report) {
	w.mu.Lock()
	first := w.report.loading
	w.report = r
	w.mu.Unlock()
	if first && w.offBy == "" && r.State == source.Unavailable && !r.Absent { // elsewhere changes alone are logged
		w.env.Log.Warn("kernel feature sees nothing", slog.String("feature", w.f.Name()), slog.String("reason", r.Reason()))
	}
}

// now is the report as of a tick: a call that does not come back makes it stalled.
func (w *worker) now(bootMs int64) Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busyFrom != 0 && bootMs-w.busyFrom > stallMs {
		return Report{State: source.Stalled, Why: fmt.Sprintf("%s takes more than %d s", w.busyWith, stallMs/1000)}
	}
	return w.report
}

func (w *worker) end() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		return fmt.Errorf("%s did not end and is left behind", w.busyWith)
	}
	return w.closeErr
}

func (w *worker) stats() FeatureStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return FeatureStats{Name: w.f.Name(), Report: w.report, Samples: w.samples, SampleNs: uint64(w.spent), Load: w.load, LoadE4: w.loadE4}
}
