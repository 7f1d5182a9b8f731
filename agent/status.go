package agent

import (
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Fields of KindStatus.
const (
	statusTs         = 1
	statusInstrument = 2
	statusState      = 10
	statusReason     = 11
	statusSince      = 12
)

const (
	// maxInstruments bounds the board: names come from drivers.
	maxInstruments = 4096
	// maxReasonBytes bounds a reason.
	maxReasonBytes = 512
	// rewordMs is how long a state with a new reason waits before it is told again: reasons
	// hold numbers, and a number that moves is no news.
	rewordMs = 30_000
	// relogMs is the least time between two lines of the log on one instrument: what comes and
	// goes must not fill it.
	relogMs = 60_000
)

// StatusAt is a status and since when it holds.
type StatusAt struct {
	source.Status
	SinceMs int64 // Unix milliseconds; 0: not told yet
}

// board holds what each instrument can see, as it says itself, and as the agent sees it from
// outside where that is worse: a source that hangs cannot say so.
type board struct {
	mu       sync.Mutex // guards below
	entries  map[string]*entry
	overflow uint64
}

type entry struct {
	own     source.Status
	over    *source.Status // the agent's view
	told    source.Status
	since   int64 // wall milliseconds
	toldAt  int64 // boot milliseconds
	logged  source.State
	logAt   int64 // boot milliseconds
	hasOwn  bool
	hasTold bool
	retired bool // told once more, then forgotten
}

func newBoard() *board { return &board{entries: map[string]*entry{}} }

// effective is what holds.
func (e *entry) effective() source.Status {
	if e.over != nil {
		return *e.over
	}
	return e.own
}

func (b *board) entry(name string) *entry {
	e := b.entries[name]
	if e == nil {
		if len(b.entries) >= maxInstruments {
			b.overflow++
			return nil
		}
		e = &entry{}
		b.entries[name] = e
	}
	return e
}

// clean makes a text fit for the wire.
func clean(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	s = s[:limit]
	for len(s) > 0 && !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}

// set takes an instrument's word.
func (b *board) set(st source.Status) {
	st.Instrument, st.Reason = clean(st.Instrument, wire.MaxStringBytes), clean(st.Reason, maxReasonBytes)
	if st.Instrument == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entry(st.Instrument); e != nil {
		e.own, e.hasOwn, e.retired = st, true, false
	}
}

// assume takes what holds of an instrument until it speaks: it is not its word, and no news.
func (b *board) assume(st source.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entry(st.Instrument); e != nil && !e.hasOwn {
		e.own = st
	}
}

// override puts the agent's view over the instrument's own; nil takes it away.
func (b *board) override(name string, st *source.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[name]
	if st == nil {
		if e != nil {
			e.over = nil
		}
		return
	}
	if e = b.entry(name); e != nil {
		c := *st
		c.Instrument, c.Reason = name, clean(c.Reason, maxReasonBytes)
		e.over = &c
	}
}

// own is the last word of an instrument.
func (b *board) own(name string) (source.Status, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[name]; e != nil && e.hasOwn {
		return e.own, true
	}
	return source.Status{}, false
}

// retire says that an instrument and its parts are no longer asked.
func (b *board) retire(name, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, e := range b.entries {
		if k == name || strings.HasPrefix(k, name+"/") {
			e.over, e.hasOwn, e.retired = nil, true, true
			e.own = source.Status{Instrument: k, State: source.Unavailable, Reason: reason}
		}
	}
}

// forget drops an instrument and its parts, for a successor of the same name.
func (b *board) forget(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k := range b.entries {
		if k == name || strings.HasPrefix(k, name+"/") {
			delete(b.entries, k)
		}
	}
}

// all returns every status, by name.
func (b *board) all() []StatusAt {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []StatusAt
	for _, e := range b.entries {
		if st := e.effective(); st.Instrument != "" {
			at := StatusAt{Status: st}
			if e.hasTold && e.told.State == st.State {
				at.SinceMs = e.since
			}
			out = append(out, at)
		}
	}
	slices.SortFunc(out, func(x, y StatusAt) int { return strings.Compare(x.Instrument, y.Instrument) })
	return out
}

// tell puts a row into out for each instrument whose state is new, whose reason has been
// new for a while, or that was told everyMs ago. An instrument gets at most one row a tick.
// It returns those whose state is to be logged.
func (b *board) tell(t source.Tick, everyMs int64, out source.Sink) (news []source.Status) {
	rows, news := b.due(t, everyMs)
	for _, st := range rows {
		out.Row(wire.KindStatus, wire.SourceDeclared, "", nil, func(w *wire.Builder) {
			w.SetInt(statusTs, t.WallMs)
			w.SetStr(statusInstrument, st.Instrument)
			w.SetStr(statusState, string(st.State))
			if st.Reason != "" {
				w.SetStr(statusReason, st.Reason)
			}
			w.SetInt(statusSince, st.SinceMs)
		})
	}
	return news
}

// due takes the statuses that are to be told, and those that are to be logged, by name. The
// first state of an instrument is logged by whoever found it.
func (b *board) due(t source.Tick, everyMs int64) (rows []StatusAt, news []source.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, e := range b.entries {
		st := e.effective()
		if st.Instrument == "" { // the agent's view was taken away before anybody else had one
			delete(b.entries, name)
			continue
		}
		switch {
		case !e.hasOwn && e.over == nil: // assumed
		case e.logged == "" || name == selfName: // what the agent finds out about itself it logs there
			e.logged = st.State
		case e.logged != st.State && (e.logAt == 0 || t.BootMs-e.logAt >= relogMs):
			e.logged, e.logAt = st.State, t.BootMs
			news = append(news, st)
		}
		quiet := t.BootMs - e.toldAt
		switch {
		case !e.hasTold || e.told.State != st.State:
			e.since = t.WallMs
		case e.told.Reason != st.Reason && quiet >= rewordMs, quiet >= everyMs:
		default:
			continue
		}
		e.told, e.toldAt, e.hasTold = st, t.BootMs, true
		rows = append(rows, StatusAt{st, e.since})
		if e.retired {
			delete(b.entries, name)
		}
	}
	slices.SortFunc(rows, func(x, y StatusAt) int { return strings.Compare(x.Instrument, y.Instrument) })
	slices.SortFunc(news, func(x, y source.Status) int { return strings.Compare(x.Instrument, y.Instrument) })
	return rows, news
}
