package agent

import (
	"testing"

	"github.com/flopwatch/flopwatch/internal/wire"
)

// What is kept in memory is bounded by giving up the oldest: the newest stays, whatever its
// size, and what is being sealed is left alone.
func TestSinkGivesUpTheOldest(t *testing.T) {
	s := newSink(1000, 10, newBoard())
	put := func(tick uint64, rows int) {
		s.begin(tick, 0)
		for range rows {
			s.Row(wire.KindHost, wire.SourceProcfs, "", nil, func(b *wire.Builder) { b.SetInt(1, int64(tick)) })
		}
		s.cut()
	}
	put(1, 20)
	if g := s.takeGap(); g.rows != 0 || s.queued != 20 {
		t.Fatalf("the only cut is given up: %+v, %d in memory", g, s.queued)
	}
	put(2, 30)
	if g := s.takeGap(); g != (givenUp{rows: 20, from: 1, to: 1}) || s.queued != 30 {
		t.Fatalf("given up %+v, %d in memory", g, s.queued)
	}
	if c := s.head(); c == nil || c.from != 2 {
		t.Fatalf("head %+v", c)
	}
	put(3, 4)
	put(4, 5) // the second is being read
	if g := s.takeGap(); g != (givenUp{rows: 4, from: 3, to: 3}) || s.queued != 35 || len(s.queue) != 2 {
		t.Fatalf("given up %+v, %d in memory", g, s.queued)
	}
	s.sealed(s.queue[0], 1)
	s.done()
	if s.queued != 5 || len(s.queue) != 1 || s.queue[0].from != 4 {
		t.Fatalf("%d in memory, %d cuts", s.queued, len(s.queue))
	}
}
