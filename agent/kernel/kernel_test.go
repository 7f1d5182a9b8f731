package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// board keeps the last status of each instrument.
type board struct {
	mu  sync.Mutex
	now map[string]source.Status
}

func (b *board) Row(wire.Kind, wire.Source, string, func(*wire.Builder), func(*wire.Builder)) {}

func (b *board) Status(s source.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.now == nil {
		b.now = map[string]source.Status{}
	}
	b.now[s.Instrument] = s
}

func (b *board) of(instrument string) source.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now[instrument]
}

// fake is a feature whose answers a test sets.
type fake struct {
	name string

	mu      sync.Mutex
	report  Report
	ns      uint64
	shed    uint64
	starts  int
	samples int
	closes  int
	fault   func(what string)
}

func (f *fake) Name() string         { return f.name }
func (f *fake) Every() time.Duration { return 2 * time.Second }

func (f *fake) answer(what string, count *int) Report {
	f.mu.Lock()
	*count++
	r, fault := f.report, f.fault
	f.mu.Unlock()
	if fault != nil {
		fault(what)
	}
	return r
}

func (f *fake) Start(context.Context, *Env) Report { return f.answer("start", &f.starts) }

func (f *fake) Sample(context.Context, source.Tick, source.Sink) Report {
	return f.answer("sample", &f.samples)
}

func (f *fake) Close() error { _ = f.answer("close", &f.closes); return nil }

func (f *fake) Load() Load {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Load{Probes: []Probe{{Name: "p", Ns: f.ns}}, Shed: f.shed}
}

func (f *fake) set(fn func(f *fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn(f)
}

func (f *fake) counts() (starts, samples, closes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.starts, f.samples, f.closes
}

type rig struct {
	t   *testing.T
	src *Source
	brd board
	sec int64
}

func newRig(t *testing.T, cfg Config, features ...Feature) *rig {
	r := &rig{t: t, src: New(cfg, Env{}, features...)}
	t.Cleanup(func() { _ = r.src.Close() })
	return r
}

// tick is one tick, waited for, and one more look at the states.
func (r *rig) tick(seconds int64) {
	r.t.Helper()
	r.sec += seconds
	if err := r.src.Sample(r.t.Context(), source.Tick{BootMs: r.sec * 1000, WallMs: 1e12 + r.sec*1000}, &r.brd); err != nil {
		r.t.Fatal(err)
	}
}

// settle ticks until every feature has worked off what it was given.
func (r *rig) settle(seconds int64) {
	r.t.Helper()
	before := make([]int64, len(r.src.workers))
	for i, w := range r.src.workers {
		w.mu.Lock()
		before[i] = w.idle
		w.mu.Unlock()
	}
	r.tick(seconds)
	for i, w := range r.src.workers {
		r.until("the worker is idle", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.idle > before[i]
		})
	}
	for _, w := range r.src.workers {
		rep := w.now(r.sec * 1000)
		r.brd.Status(source.Status{Instrument: "kernel/" + w.f.Name(), State: rep.State, Reason: rep.Reason()})
	}
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	giveUp := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-giveUp:
			r.t.Fatalf("in vain: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

func (r *rig) want(instrument string, state source.State, reason string) {
	r.t.Helper()
	got := r.brd.of("kernel/" + instrument)
	if got.State != state || !strings.Contains(got.Reason, reason) {
		r.t.Errorf("%s is %s (%s), want %s (%s)", instrument, got.State, got.Reason, state, reason)
	}
}

func TestFeaturesAreApart(t *testing.T) {
	good := &fake{name: "good", report: Active()}
	poor := &fake{name: "poor", report: Degraded("uprobe_multi is refused", fmt.Errorf("attach: %w", syscall.EPERM), "perf uprobes")}
	none := &fake{name: "none", report: Unavailable("no BTF", syscall.ENOENT)}
	mad := &fake{name: "mad", report: Active(), fault: func(what string) {
		if what == "sample" {
			panic("at the disco")
		}
	}}
	r := newRig(t, Config{RetryEvery: time.Minute}, good, poor, none, mad)
	r.settle(1)
	r.want("good", source.Active, "")
	r.want("poor", source.Degraded, "uprobe_multi is refused (EPERM, operation not permitted); in its place: perf uprobes")
	r.want("none", source.Unavailable, "no BTF (ENOENT")
	r.want("mad", source.Unavailable, "panic: at the disco")
	r.settle(1)
	if _, n, _ := good.counts(); n != 1 {
		t.Errorf("%d samples of good, want 1 every 2 s", n)
	}
	r.settle(1)
	if _, n, _ := good.counts(); n != 2 {
		t.Errorf("%d samples of good, want 2", n)
	}
	if got := r.brd.of("kernel"); got.State != source.Degraded || !strings.Contains(got.Reason, "2 of 4") {
		t.Errorf("the whole is %v", got)
	}
	none.set(func(f *fake) { f.report = Active() })
	mad.set(func(f *fake) { f.fault = nil })
	r.settle(60)
	r.want("none", source.Active, "")
	r.want("mad", source.Active, "")
	if err := r.src.Close(); err != nil {
		t.Error(err)
	}
	if a, _, b := good.counts(); a != 1 || b != 1 {
		t.Errorf("good was started %d and closed %d times", a, b)
	}
	if a, _, b := mad.counts(); a != 2 || b != 2 {
		t.Errorf("mad was started %d and closed %d times", a, b)
	}
}

// TestAbsent: what is not on the host is no loss, what was refused is.
func TestAbsent(t *testing.T) {
	good := &fake{name: "good", report: Active()}
	none := &fake{name: "none", report: Absent("there is no such device")}
	r := newRig(t, Config{RetryEvery: time.Minute}, good, none)
	r.settle(1)
	r.settle(1)
	r.want("none", source.Unavailable, "there is no such device")
	if got := r.brd.of("kernel"); got.State != source.Active || got.Reason != "" {
		t.Errorf("the whole is %v", got)
	}
	good.set(func(f *fake) { f.report = Unavailable("no BTF", syscall.ENOENT) })
	r.settle(2)
	r.settle(1)
	if got := r.brd.of("kernel"); got.State != source.Unavailable || !strings.Contains(got.Reason, "no feature can see anything") {
		t.Errorf("the whole is %v", got)
	}
	good.set(func(f *fake) { f.report = Absent("nor is this") })
	r.settle(70)
	r.settle(1)
	if got := r.brd.of("kernel"); got.State != source.Unavailable || !strings.Contains(got.Reason, "on this host") {
		t.Errorf("the whole is %v", got)
	}
}

// TestFirstWord: what is not on the host, or switched off, is no news at the start; what was
// refused is.
func TestFirstWord(t *testing.T) {
	var text strings.Builder
	features := []Feature{&fake{name: "none", report: Absent("no such device")}, &fake{name: "off", report: Active()}, &fake{name: "refused", report: Unavailable("no BTF", syscall.ENOENT)}}
	r := &rig{t: t, src: New(Config{Off: []string{"off"}}, Env{Log: slog.New(slog.NewTextHandler(&text, nil))}, features...)}
	t.Cleanup(func() { _ = r.src.Close() })
	r.settle(1)
	r.settle(1)
	if err := r.src.Close(); err != nil { // the workers write no more
		t.Error(err)
	}
	if got := text.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "feature=refused") || !strings.Contains(got, "no BTF (ENOENT") {
		t.Errorf("log:\n%s", got)
	}
}

func TestSwitch(t *testing.T) {
	dir := t.TempDir()
	a, b := &fake{name: "a", report: Active()}, &fake{name: "b", report: Active()}
	r := newRig(t, Config{Off: []string{"b"}, OffDir: dir}, a, b)
	r.settle(1)
	r.want("a", source.Active, "")
	r.want("b", source.Unavailable, "switched off by the configuration")
	if n, _, _ := b.counts(); n != 0 {
		t.Error("b was started")
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.settle(3)
	r.want("a", source.Unavailable, "switched off by the file")
	if _, _, n := a.counts(); n != 1 {
		t.Error("a was not closed")
	}
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	r.settle(3)
	r.want("a", source.Active, "")
}

func TestLoadLimit(t *testing.T) {
	f := &fake{name: "f", report: Active()}
	r := newRig(t, Config{MaxLoad: 0.01, PauseFor: time.Minute}, f)
	r.settle(1)
	f.set(func(f *fake) { f.ns += 90e6 })
	r.settle(10) // 0.9 %
	r.want("f", source.Active, "")
	if got := r.src.Stats()[0]; got.LoadE4 != 90 || len(got.Load.Probes) != 1 || got.Samples == 0 {
		t.Errorf("stats: %+v", got)
	}
	f.set(func(f *fake) { f.ns, f.shed = f.ns+5000e6, f.shed+4950e6 })
	r.settle(10) // what it has dealt with by itself is no reason
	r.want("f", source.Active, "")
	f.set(func(f *fake) { f.ns += 200e6 })
	r.settle(10)
	r.want("f", source.Unavailable, "2.0 % of a core, more than 1.0 %")
	r.settle(30)
	r.want("f", source.Unavailable, "paused")
	f.set(func(f *fake) { f.ns, f.shed = 0, 0 })
	r.settle(30)
	r.want("f", source.Active, "")
}

func TestStuck(t *testing.T) {
	let := make(chan struct{})
	stuck := &fake{name: "stuck", report: Active(), fault: func(what string) {
		if what == "start" {
			<-let
		}
	}}
	other := &fake{name: "other", report: Active()}
	r := newRig(t, Config{StartFor: 20 * time.Millisecond, CloseFor: 20 * time.Millisecond}, stuck, other)
	r.tick(1)
	r.until("stuck is asked to start", func() bool { n, _, _ := stuck.counts(); return n == 1 })
	if got := r.brd.of("kernel/stuck"); got != (source.Status{}) {
		t.Errorf("it has said nothing yet, and is %v", got)
	}
	r.until("the other one starts nevertheless", func() bool { r.tick(1); n, _, _ := other.counts(); return n == 1 })
	r.tick(11)
	r.want("stuck", source.Stalled, "loading takes more than 10 s")
	if err := r.src.Close(); err == nil || !strings.Contains(err.Error(), "stuck: loading did not end") {
		t.Errorf("Close: %v", err)
	}
	close(let)
	r.until("it ends after all", func() bool { _, _, n := stuck.counts(); return n == 1 })
	if err := r.src.Sample(t.Context(), source.Tick{}, &r.brd); err == nil {
		t.Error("a closed source can be sampled")
	}
}

func TestErrno(t *testing.T) {
	if got := Errno(fmt.Errorf("load: %w (MEMLOCK may be too low)", syscall.EPERM)); got != syscall.EPERM {
		t.Error(got)
	}
	if got := Errno(errors.New("x")); got != 0 {
		t.Error(got)
	}
	if got := Unavailable("no", errors.New("x")).Reason(); got != "no" {
		t.Error(got)
	}
}

func TestClock(t *testing.T) {
	var c Clock
	c.Set(1_000_000, 400_000)
	if got := c.WallMs(400_500 * 1e6); got != 1_000_500 {
		t.Error(got)
	}
}
