package agent

import (
	"maps"
	"slices"
	"sync"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// tableKey names the rows that may share a table: one kind, and the same source for every
// column.
type tableKey struct {
	kind  wire.Kind
	src   wire.Source
	group string
}

// part is a filled table that waits to be sealed.
type part struct {
	key   tableKey
	table wire.Table
	// b is the builder whose memory the table borrows; nil where the rest of the table, which
	// comes behind, still needs it.
	b *wire.Builder
}

// cut is what was measured from one tick to another and is not in the spool yet.
type cut struct {
	from, to uint64 // ticks
	missed   uint64 // ticks up to to that passed without a sample
	parts    []part
}

func (c *cut) rows() int {
	n := 0
	for i := range c.parts {
		n += c.parts[i].table.Rows
	}
	return n
}

// givenUp is what was dropped because the spool took nothing for too long.
type givenUp struct {
	rows     uint64
	from, to uint64 // ticks
}

// idleCuts is how many cuts a spare builder outlives without being used.
const idleCuts = 60

// spare is a builder that waits for rows of its key.
type spare struct {
	b    *wire.Builder
	idle int
}

// sink takes the rows of all sources, and keeps them until they are sealed: a queue of cuts,
// oldest first, bounded by their rows.
type sink struct {
	board      *board
	tableRows  int    // a table that large is cut off at once
	queueRows  int    // bound of the queue
	wantSealed func() // a table became large; called under the lock, must not block

	mu      sync.Mutex // guards below
	tick    uint64     // the last one begun
	from    uint64     // the first of the open tables
	missed  uint64     // of the ticks so far
	open    map[tableKey]*wire.Builder
	spares  map[tableKey]*spare
	queue   []*cut
	sealing bool // queue[0] is being sealed
	queued  int  // rows in the queue
	taken   map[wire.Kind]uint64
	dropped map[wire.Kind]uint64 // rows that the contract refuses
	lastBad error
	lost    map[wire.Kind]uint64 // of givenUp, by kind
	gap     givenUp              // since the last takeGap
	closed  bool
}

var _ source.Sink = (*sink)(nil)

func newSink(tableRows, queueRows int, bd *board) *sink {
	return &sink{board: bd, tableRows: tableRows, queueRows: queueRows, wantSealed: func() {}, from: 1,
		open: map[tableKey]*wire.Builder{}, spares: map[tableKey]*spare{},
		taken: map[wire.Kind]uint64{}, dropped: map[wire.Kind]uint64{}, lost: map[wire.Kind]uint64{}}
}

// Row implements source.Sink. A panic of fill leaves the sink sound, without the row.
func (s *sink) Row(kind wire.Kind, src wire.Source, group string, prepare, fill func(b *wire.Builder)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed { // by a source that outlived the agent's patience
		s.dropped[kind]++
		return
	}
	key := tableKey{kind, src, group}
	b := s.open[key]
	if b == nil {
		if sp := s.spares[key]; sp != nil {
			b = sp.b
			delete(s.spares, key)
		} else {
			b = wire.NewBuilder(kind, src)
			if prepare != nil {
				prepare(b)
			}
		}
		s.open[key] = b
	}
	b.Begin()
	fill(b)
	if err := b.End(); err != nil {
		s.dropped[kind]++
		s.lastBad = err
		return
	}
	s.taken[kind]++
	if b.Rows() >= s.tableRows {
		s.cutLocked()
		s.wantSealed()
	}
}

// Status implements source.Sink.
func (s *sink) Status(st source.Status) { s.board.set(st) }

// begin says which tick the rows that follow belong to, and how many up to it passed without a
// sample.
func (s *sink) begin(tick, missed uint64) {
	s.mu.Lock()
	s.tick, s.missed = tick, missed
	s.mu.Unlock()
}

// cut puts what is open into the queue.
func (s *sink) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutLocked()
}

func (s *sink) cutLocked() {
	c := &cut{from: s.from, to: s.tick, missed: s.missed}
	// In an order that does not depend on chance.
	keys := slices.SortedFunc(maps.Keys(s.open), compareKeys)
	for _, key := range keys {
		b := s.open[key]
		delete(s.open, key)
		if b.Rows() == 0 {
			s.spares[key] = &spare{b: b}
			continue
		}
		c.parts = append(c.parts, part{key: key, table: *b.Build(), b: b})
	}
	for key, sp := range s.spares {
		if sp.idle++; sp.idle > idleCuts {
			delete(s.spares, key)
		}
	}
	if len(c.parts) == 0 {
		return
	}
	s.from = s.tick + 1
	s.queue = append(s.queue, c)
	s.queued += c.rows()
	for s.queued > s.queueRows {
		victim := 0
		if s.sealing {
			victim = 1 // somebody reads the first
		}
		if victim >= len(s.queue)-1 { // the newest stays, whatever its size
			return
		}
		s.giveUp(s.queue[victim])
		s.queue = slices.Delete(s.queue, victim, victim+1)
	}
}

func compareKeys(a, b tableKey) int {
	switch {
	case a.kind != b.kind:
		return int(a.kind) - int(b.kind)
	case a.src != b.src:
		return int(a.src) - int(b.src)
	case a.group < b.group:
		return -1
	}
	return 1
}

func (s *sink) giveUp(c *cut) {
	for i := range c.parts {
		n := uint64(c.parts[i].table.Rows)
		s.lost[c.parts[i].key.kind] += n
		s.gap.rows += n
		s.release(c.parts[i])
	}
	s.queued -= c.rows()
	if s.gap.from == 0 {
		s.gap.from = c.from
	}
	s.gap.to = c.to
}

// release gives a part's builder back; its table must not be used any more.
func (s *sink) release(p part) {
	if p.b == nil {
		return
	}
	p.b.Reset()
	if s.spares[p.key] == nil { // beside an open one: the two take turns
		s.spares[p.key] = &spare{b: p.b}
	}
}

// head returns the oldest cut, which stays in the queue until done; nil: there is none.
func (s *sink) head() *cut {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return nil
	}
	s.sealing = true
	return s.queue[0]
}

// sealed takes the first n parts off the head: they are in the spool, or nowhere.
func (s *sink) sealed(c *cut, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range c.parts[:n] {
		s.queued -= p.table.Rows
		s.release(p)
	}
	c.parts = slices.Delete(c.parts, 0, n)
}

// refused counts rows that the contract does not let through.
func (s *sink) refused(kind wire.Kind, rows int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped[kind] += uint64(rows)
	s.taken[kind] -= min(s.taken[kind], uint64(rows))
	s.lastBad = err
}

// done ends what head began; a cut with nothing left leaves the queue.
func (s *sink) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealing = false
	if len(s.queue) > 0 && len(s.queue[0].parts) == 0 {
		s.queue = slices.Delete(s.queue, 0, 1)
	}
}

// takeGap returns what was given up since the last call.
func (s *sink) takeGap() givenUp {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gap
	s.gap = givenUp{}
	return g
}

// close lets no row in any more.
func (s *sink) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
}

// bad returns how many rows the contract refused, and the last reason.
func (s *sink) bad() (n uint64, last error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dropped {
		n += d
	}
	return n, s.lastBad
}

// counts copies the sink's counters.
func (s *sink) counts(st *Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Rows, st.RefusedRows, st.LostRows = maps.Clone(s.taken), maps.Clone(s.dropped), maps.Clone(s.lost)
	st.PendingRows = s.queued
	for _, b := range s.open {
		st.PendingRows += b.Rows()
	}
}
