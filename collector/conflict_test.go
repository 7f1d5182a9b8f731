package collector_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/flopwatch/flopwatch/internal/wire"
)

// TestConflict: other content under a sequence that is taken is not a repeat. It goes to
// quarantine once, whoever sends it, how often and as what; what was stored first stays, and
// repeats of it are repeats.
func TestConflict(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.collector(t, "one", nil)
	stop := start(t, c)
	other := func(sequence uint64, by int64) (*wire.Batch, []byte) {
		return newFrame(t, 0, sequence, func(w *wire.Batch) { w.Tables[1].Column(10).Int[0] += by })
	}
	w, first := newFrame(t, 0, 1, nil)
	subject := wire.BatchSubject(w)
	_, second := other(1, 1)
	_, third := other(1, 2)
	send := func(id, retry string, frame []byte) {
		t.Helper()
		b.send(t, subject, id, retry, frame)
	}
	// In one range, and in the next: the first is taken, each other one is told once.
	send("a", "", first)
	send("b", "", second)
	send("c", "", first)
	send("d", "", second)
	idle(t, c)
	send("e", "", third)
	send("f", "", first)
	send("g", "x/1", second)
	_, two := newFrame(t, 0, 2, nil)
	send("h", "", two)
	idle(t, c)
	if st := c.Stats(); st.Conflicts != 2 || st.Batches != 2 || st.Repeats != 4 || st.Quarantined != 2 {
		t.Errorf("%+v", st)
	}
	stop()
	// A collector that knows only what the store has; as a retry, too.
	next := b.collector(t, "next", nil)
	start(t, next)
	_, fourth := other(1, 3)
	for i, frame := range [][]byte{second, third, first, fourth} {
		send(fmt.Sprint("again", i), "", frame)
		send(fmt.Sprint("retry", i), "x/1", frame)
	}
	idle(t, next)
	if st := next.Stats(); st.Conflicts != 1 || st.Batches != 0 || st.Repeats != 7 {
		t.Errorf("%+v", st)
	}
	wantRows(t, b.store, 2)
	kept := aside(t, b.store, false)
	if len(kept) != 3 {
		t.Fatalf("%d in quarantine", len(kept))
	}
	for i, want := range [][]byte{second, third, fourth} {
		if m := kept[i]; m.Reason != "conflict" || m.Sequence != 1 || m.Stored || !bytes.Equal(m.Bytes, want) {
			t.Errorf("%s: %s, batch %d, stored %v", m.Reason, m.Detail, m.Sequence, m.Stored)
		}
	}
	// The sequence itself is stored, not in quarantine, and nothing is missing.
	hours, err := b.store.NodeHours(t.Context(), cluster, nil, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var stored, conflicting, quarantined uint64
	var missing int64
	for _, h := range hours {
		stored, conflicting, quarantined, missing = stored+h.Stored, conflicting+h.Conflicting, quarantined+h.Quarantined, missing+h.Missing
	}
	if stored != 2 || conflicting != 3 || quarantined != 0 || missing != 0 {
		t.Errorf("accounting: %d stored, %d conflicting, %d in quarantine, %d missing", stored, conflicting, quarantined, missing)
	}
}

// TestConflictOfQuarantine: what is in quarantine has its identity, too.
func TestConflictOfQuarantine(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.collector(t, "one", live) // refuses what states its availability
	start(t, c)
	w, first := newFrame(t, 0, 1, nil)
	_, second := newFrame(t, 0, 1, func(w *wire.Batch) { w.Tables[1].Column(10).Int[0]++ })
	for i, frame := range [][]byte{first, second, first, second} {
		b.send(t, wire.BatchSubject(w), fmt.Sprint(i), "", frame)
	}
	idle(t, c)
	if st := c.Stats(); st.Conflicts != 1 || st.Quarantined != 2 || st.Repeats != 2 {
		t.Errorf("%+v", st)
	}
	kept := aside(t, b.store, false)
	if len(kept) != 2 || kept[0].Reason != "available" || kept[1].Reason != "conflict" {
		t.Errorf("in quarantine: %+v", kept)
	}
}
