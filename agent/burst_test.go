package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
)

// burster is a fake source that can be asked between ticks, and notes when it was.
type burster struct {
	*fakeSource
	burst func(ctx context.Context, t source.Tick) error

	mu    sync.Mutex
	ticks []source.Tick
}

func newBurster(name string) *burster {
	b := &burster{}
	b.fakeSource = &fakeSource{name: name, sample: func(_ context.Context, t source.Tick, out source.Sink) error {
		b.note(t)
		hostRow(t, out)
		return nil
	}}
	b.burst = func(context.Context, source.Tick) error { return nil }
	return b
}

func (b *burster) Burst(ctx context.Context, t source.Tick, _ source.Sink) error {
	b.note(t)
	return b.burst(ctx, t)
}

func (b *burster) note(t source.Tick) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ticks = append(b.ticks, t)
}

func (b *burster) noted() []source.Tick {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.ticks)
}

func TestBurstWindow(t *testing.T) {
	b := Burst{Every: 10 * time.Minute, Length: 30 * time.Second, Spacing: 200 * time.Millisecond}
	for wall, want := range map[int64]bool{0: true, 29_999: true, 30_000: false, 599_999: false, 600_000: true, -1: false, -600_000: true} {
		if b.at(wall) != want {
			t.Errorf("at %d: %v", wall, !want)
		}
	}
	if (Burst{}).at(0) || (Burst{Every: time.Minute, Length: time.Minute}).at(0) {
		t.Error("a burst that nobody asked for")
	}
}

// TestBurst: moments come between ticks, to those sources alone that can be asked then, the
// same for all of them; what goes wrong there costs no tick.
func TestBurst(t *testing.T) {
	one, two, plain := newBurster("gpu"), newBurster("fabric"), counting("host")
	one.burst = func(_ context.Context, t source.Tick) error {
		switch t.Burst {
		case 2:
			return errors.New("nothing seen")
		case 3:
			panic("at the third")
		}
		return nil
	}
	r := newRig(t, nil, Config{Sources: []source.Source{one, two, plain}})
	r.ticks(1)
	for n := 1; n <= 4; n++ {
		if err := r.agent.Step(t.Context(), source.Tick{Seq: r.seq, Burst: n, WallMs: r.wall + int64(n)*200, BootMs: r.boot + int64(n)*200}); err != nil {
			t.Fatal(err)
		}
	}
	r.ticks(3)
	var got [4]SourceStats
	for i, s := range r.agent.Stats().Sources {
		got[i] = s
	}
	if got[0].Bursts != 1 || got[0].BurstsMissed != 3 || got[0].Panics != 1 {
		t.Errorf("gpu: %+v", got[0])
	}
	if got[1].Bursts != 4 || got[1].BurstsMissed != 0 || got[1].Samples != 4 || got[1].Missed != 0 {
		t.Errorf("fabric: %+v", got[1])
	}
	if got[2].Bursts != 0 || got[2].BurstsMissed != 0 || got[2].Samples != 4 {
		t.Errorf("host: %+v", got[2])
	}
	a, b := one.noted(), two.noted()
	if len(b) != 8 || b[1].Burst != 1 || b[1].Seq != 1 || b[1].WallMs-b[0].WallMs != 200 || b[5].Burst != 0 || a[1] != b[1] {
		t.Errorf("asked at %+v and %+v", a, b)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
}

// TestBurstWaits: a tick that comes while a source is busy with a burst is not missed.
func TestBurstWaits(t *testing.T) {
	held, let := make(chan struct{}), make(chan struct{})
	b := newBurster("gpu")
	b.burst = func(context.Context, source.Tick) error {
		close(held)
		<-let
		return nil
	}
	w := newWorker(b, newSink(10, 10, newBoard()), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go w.run(ctx)
	if _, ok := w.offerBurst(source.Tick{Seq: 1, Burst: 1}); !ok {
		t.Fatal("not taken")
	}
	<-held
	done, ok := w.offer(source.Tick{Seq: 2})
	if !ok {
		t.Fatal("the tick was missed")
	}
	if _, ok := w.offerBurst(source.Tick{Seq: 2, Burst: 1}); ok {
		t.Error("a moment is taken before the tick that waits")
	}
	close(let)
	<-done
	if got := b.noted(); len(got) != 2 || got[1].Seq != 2 {
		t.Errorf("asked at %+v", got)
	}
	cancel()
	<-w.done
}

// TestBurstPace: by itself, in the windows that the configuration says, and no more when it
// says so no more.
func TestBurstPace(t *testing.T) {
	sp := openSpool(t, t.TempDir())
	defer sp.Close()
	rec, err := NewRecorder(RecorderConfig{Cluster: "c", Node: "n", Spool: sp, Privacy: privacy(t)})
	if err != nil {
		t.Fatal(err)
	}
	b := newBurster("gpu")
	a, err := New(Config{Node: "n", Recorder: rec, Interval: 50 * time.Millisecond, Sources: []source.Source{b},
		Burst: Burst{Every: time.Hour, Length: time.Hour, Spacing: 10 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	eventually(t, "bursts", func() bool { return a.Stats().Sources[0].Bursts >= 8 })
	for i, tick := range b.noted() {
		if tick.Burst > 4 || tick.Seq == 0 || i == 0 && tick.Burst != 0 {
			t.Errorf("%d: %+v", i, tick)
		}
	}
	if err := a.Apply(ctx, Change{Burst: &Burst{}}); err != nil {
		t.Fatal(err)
	}
	from := a.Stats().Tick.Seq + 2
	eventually(t, "ticks", func() bool { return a.Stats().Tick.Seq >= from+3 })
	for _, tick := range b.noted() {
		if tick.Burst > 0 && tick.Seq >= from {
			t.Errorf("still a burst: %+v", tick)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
