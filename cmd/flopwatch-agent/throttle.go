package main

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What a message may say: at once, and then one line each so often. Whatever flaps, an
// agent does not fill a log.
const (
	linesAtOnce = 12
	linesEvery  = 20 * time.Second
	// mostMessages is more than there are in the program.
	mostMessages = 512
)

// throttle passes lines on as long as there are few of each message. It counts those that it
// keeps back, and says so with the next line of that message. Lines for who debugs pass.
type throttle struct {
	slog.Handler
	all *messages
}

// messages are shared by all handlers that come from one.
type messages struct {
	now     func() time.Time
	skipped atomic.Uint64

	mu     sync.Mutex // guards below
	byText map[string]*message
}

type message struct {
	full    time.Time // when it may say linesAtOnce again
	skipped int
}

func newThrottle(h slog.Handler, now func() time.Time) *throttle {
	return &throttle{Handler: h, all: &messages{now: now, byText: map[string]*message{}}}
}

// Handle implements slog.Handler.
func (t *throttle) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		skipped, ok := t.all.may(key(&r))
		if !ok {
			return nil
		}
		if skipped > 0 {
			r = r.Clone()
			r.AddAttrs(slog.Int("lines_skipped", skipped))
		}
	}
	return t.Handler.Handle(ctx, r) //nolint:wrapcheck // it stands for that handler
}

// key is whose lines are counted together: those of a message, and where it is of an instrument,
// of that instrument with all its parts. So GPUs that flap do not keep the line of a controller
// back.
func key(r *slog.Record) string {
	out := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "instrument" {
			return true
		}
		whole, _, _ := strings.Cut(a.Value.String(), "/")
		out += " " + whole
		return false
	})
	return out
}

// WithAttrs implements slog.Handler.
func (t *throttle) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &throttle{t.Handler.WithAttrs(attrs), t.all}
}

// WithGroup implements slog.Handler.
func (t *throttle) WithGroup(name string) slog.Handler {
	return &throttle{t.Handler.WithGroup(name), t.all}
}

// may says whether a message may be said now, and how often it was not since it last was.
func (m *messages) may(text string) (skipped int, ok bool) {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byText[text]
	if e == nil {
		if len(m.byText) >= mostMessages { // messages are constant: this is a mistake, and must not cost memory
			m.skipped.Add(1)
			return 0, false
		}
		e = &message{}
		m.byText[text] = e
	}
	if e.full.Before(now) {
		e.full = now
	}
	if e.full.Sub(now) > (linesAtOnce-1)*linesEvery {
		e.skipped++
		m.skipped.Add(1)
		return 0, false
	}
	e.full = e.full.Add(linesEvery)
	skipped, e.skipped = e.skipped, 0
	return skipped, true
}
