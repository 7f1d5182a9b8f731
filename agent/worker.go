package agent

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// work is one tick for one source; done is closed when the source has had it.
type work struct {
	tick source.Tick
	done chan struct{}
}

// panicPause bounds how many ticks a source is left alone after a panic: 1, 2, 4, ...
const panicPause = 256

// worker is a source and the goroutine that asks it.
type worker struct {
	src   source.Source
	name  string
	sink  *sink
	board *board
	lg    *slog.Logger

	gave atomic.Bool // it has put rows into the sink

	in     chan work
	bursts chan work     // nil: the source is no Burster
	stop   chan struct{} // closed: no tick comes any more
	once   sync.Once
	done   chan struct{} // closed at the goroutine's end

	// busySince is the boot time of the tick in hand plus one, 0: none.
	busySince atomic.Int64
	samples   atomic.Uint64
	missed    atomic.Uint64
	errs      atomic.Uint64
	panics    atomic.Uint64
	burst     atomic.Uint64 // moments of bursts that it answered
	burstMiss atomic.Uint64 // and that passed it by, or gave an error
	lastUs    atomic.Int64
	totalUs   atomic.Int64
	stalled   atomic.Bool

	// Owned by the goroutine.
	failing bool
	pause   uint64 // ticks after a panic
	until   uint64 // the tick before which it is left alone
}

var _ source.Sink = (*worker)(nil)

func newWorker(src source.Source, out *sink, lg *slog.Logger) *worker {
	w := &worker{src: src, name: src.Name(), sink: out, board: out.board, lg: lg.With(slog.String("source", src.Name())),
		in: make(chan work, 1), stop: make(chan struct{}), done: make(chan struct{})}
	if _, ok := src.(source.Burster); ok {
		w.bursts = make(chan work, 1)
	}
	return w
}

// Row implements source.Sink: what the source sees goes on to the agent's sink.
func (w *worker) Row(kind wire.Kind, src wire.Source, group string, prepare, fill func(b *wire.Builder)) {
	w.gave.Store(true)
	w.sink.Row(kind, src, group, prepare, fill)
}

// Status implements source.Sink.
func (w *worker) Status(s source.Status) { w.sink.Status(s) }

// offer hands a tick over, unless the source is busy: then it misses it.
func (w *worker) offer(t source.Tick) (done <-chan struct{}, ok bool) {
	if !w.busySince.CompareAndSwap(0, t.BootMs+1) {
		w.missed.Add(1)
		return nil, false
	}
	d := make(chan struct{})
	w.in <- work{t, d} // empty, as nobody was busy
	return d, true
}

// offerBurst hands a moment of a burst over, unless the source is busy. A tick that comes
// while the source is at it waits for it, and is not missed.
func (w *worker) offerBurst(t source.Tick) (done <-chan struct{}, ok bool) {
	if w.bursts == nil {
		return nil, false
	}
	if w.busySince.Load() == 0 {
		d := make(chan struct{})
		select {
		case w.bursts <- work{t, d}:
			return d, true
		default:
		}
	}
	w.burstMiss.Add(1)
	return nil, false
}

// busyMs is for how long the tick in hand has been there.
func (w *worker) busyMs(nowBootMs int64) int64 {
	if since := w.busySince.Load(); since > 0 {
		return nowBootMs - since + 1
	}
	return 0
}

// end says that no tick comes any more.
func (w *worker) end() { w.once.Do(func() { close(w.stop) }) }

// run asks the source until end or ctx, and closes it.
func (w *worker) run(ctx context.Context) {
	defer close(w.done)
	defer w.close(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.stop:
			return
		case job := <-w.in:
			w.sample(ctx, job.tick)
			w.busySince.Store(0)
			close(job.done)
		case job := <-w.bursts:
			w.sampleBurst(ctx, job.tick)
			close(job.done)
		}
	}
}

// sampleBurst asks the source between two ticks. What it cannot say then is no change of its
// state: the next tick shows that.
func (w *worker) sampleBurst(ctx context.Context, t source.Tick) {
	b, ok := w.src.(source.Burster)
	if !ok || t.Seq < w.until {
		w.burstMiss.Add(1)
		return
	}
	panicked, err := w.ask(func() error { return b.Burst(ctx, t, w) })
	if panicked {
		w.panics.Add(1)
		w.pause = min(max(1, 2*w.pause), panicPause)
		w.until = t.Seq + 1 + w.pause
	}
	if err != nil {
		w.burstMiss.Add(1)
		w.lg.LogAttrs(ctx, slog.LevelDebug, "source saw nothing in a burst", slog.Any("err", err))
		return
	}
	w.burst.Add(1)
}

func (w *worker) close(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			w.lg.LogAttrs(ctx, slog.LevelError, "source panicked at its end", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		}
	}()
	if err := w.src.Close(); err != nil {
		w.lg.LogAttrs(ctx, slog.LevelWarn, "source did not end well", slog.Any("err", err))
	}
}

// sample asks the source once.
func (w *worker) sample(ctx context.Context, t source.Tick) {
	if t.Seq < w.until {
		w.missed.Add(1)
		return
	}
	start := time.Now()
	panicked, err := w.ask(func() error { return w.src.Sample(ctx, t, w) })
	us := time.Since(start).Microseconds()
	w.lastUs.Store(us)
	w.totalUs.Add(us)
	if panicked {
		w.panics.Add(1)
		w.pause = min(max(1, 2*w.pause), panicPause)
		w.until = t.Seq + 1 + w.pause
	} else {
		w.pause = 0
	}
	switch {
	case ctx.Err() != nil: // what it says while it is being stopped means nothing
	case err == nil:
		w.samples.Add(1)
		if _, said := w.board.own(w.name); !said {
			if w.gave.Load() {
				w.board.set(source.Status{Instrument: w.name, State: source.Active})
			} else {
				w.board.assume(source.Status{Instrument: w.name, State: source.Degraded, Reason: "it has seen nothing yet, and not said why"})
			}
		}
		w.board.override(w.name, nil)
		if w.failing {
			w.failing = false
			w.lg.LogAttrs(ctx, slog.LevelInfo, "source answers again")
		}
	default:
		w.errs.Add(1)
		// Where the source itself says what is wrong, it knows better.
		if own, said := w.board.own(w.name); !said || own.State == source.Active {
			w.board.override(w.name, &source.Status{State: source.Degraded, Reason: "it saw nothing: " + err.Error()})
		}
		if !w.failing {
			w.failing = true
			w.lg.LogAttrs(ctx, slog.LevelWarn, "source saw nothing", slog.Any("err", err))
		}
	}
	if w.stalled.Swap(false) {
		if err == nil {
			w.board.override(w.name, nil)
		}
		w.lg.LogAttrs(ctx, slog.LevelInfo, "source has come back", slog.Int64("took_ms", us/1000))
	}
}

// ask turns a panic into an error that names the source.
func (w *worker) ask(sample func() error) (panicked bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			panicked, err = true, fmt.Errorf("source %s panicked: %v", w.name, p)
			w.lg.LogAttrs(context.Background(), slog.LevelError, "source panicked", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		}
	}()
	return false, sample()
}
