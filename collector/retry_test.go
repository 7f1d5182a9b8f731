package collector_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// aside lists what is in quarantine and not in the store.
func aside(tb testing.TB, s *store.Store, all bool) (out []store.QuarantineMessage) {
	tb.Helper()
	err := s.QuarantineMessages(tb.Context(), store.QuarantineFilter{Stored: all}, true, func(m store.QuarantineMessage) error {
		out = append(out, m)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// again publishes messages of quarantine as `flopwatch quarantine retry` does.
func (b *bench) again(tb testing.TB, id string, all []store.QuarantineMessage) {
	tb.Helper()
	for _, m := range all {
		name := fmt.Sprintf("%s/%d", m.Stream, m.StreamSeq)
		b.send(tb, m.Subject, id+"/"+name, name, m.Bytes)
	}
}

// TestRetry: what a collector refused, a later one takes when it comes again as a retry, and
// only then, and once. A collector that accepts what the former did not stands for one of a
// newer version.
func TestRetry(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const sequences = 3
	old := b.collector(t, "old", live)
	stop := start(t, old)
	for s := uint64(1); s <= sequences; s++ {
		w, frame := newFrame(t, 0, s, nil)
		b.publish(t, w, frame)
	}
	idle(t, old)
	refused := aside(t, b.store, false)
	if len(refused) != sequences {
		t.Fatalf("%d in quarantine", len(refused))
	}
	b.again(t, "too early", refused)
	idle(t, old)
	if st := old.Stats(); st.Quarantined != sequences || st.Repeats != sequences || len(aside(t, b.store, true)) != sequences {
		t.Errorf("a retry that is as bad as before: %+v", st)
	}
	stop()

	upgraded := b.collector(t, "new", func(cfg *collector.Config) { cfg.Linger = 500 * time.Millisecond }) // one range
	stop = start(t, upgraded)
	w, frame := newFrame(t, 0, 2, nil)
	b.send(t, wire.BatchSubject(w), "no retry", "", frame)
	idle(t, upgraded)
	if st := upgraded.Stats(); st.Repeats != 1 || st.Batches != 0 {
		t.Errorf("a message that comes again, but is no retry: %+v", st)
	}
	b.again(t, "first", refused)
	b.again(t, "second", refused)
	w, frame = newFrame(t, 0, sequences+1, nil) // whoever sets the header does not gain by it
	b.send(t, wire.BatchSubject(w), "a", "x/1", frame)
	b.send(t, wire.BatchSubject(w), "b", "x/1", frame)
	idle(t, upgraded)
	b.again(t, "third", refused)
	idle(t, upgraded)
	stop()
	if st := upgraded.Stats(); st.Batches != sequences+1 || st.Repeats != 1+2*sequences+1 || st.Quarantined != 0 {
		t.Errorf("%+v", st)
	}
	third := b.collector(t, "third", nil) // knows only what the store has
	start(t, third)
	b.again(t, "fourth", refused)
	idle(t, third)
	if st := third.Stats(); st.Batches != 0 || st.Repeats != sequences {
		t.Errorf("%+v", st)
	}
	wantRows(t, b.store, sequences+1)
	if left, all := aside(t, b.store, false), aside(t, b.store, true); len(left) != 0 || len(all) != sequences {
		t.Errorf("%d left in quarantine, %d kept", len(left), len(all))
	}
	hours, err := b.store.NodeHours(t.Context(), cluster, nil, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var stored, quarantined uint64
	var missing int64
	for _, h := range hours {
		stored, quarantined, missing = stored+h.Stored, quarantined+h.Quarantined, missing+h.Missing
	}
	if stored != sequences+1 || quarantined != 0 || missing != 0 {
		t.Errorf("accounting: %d stored, %d in quarantine, %d missing", stored, quarantined, missing)
	}
}

// TestRetryOfNobody: a message whose identity could not be read is recognised by its bytes when it
// is taken. That a forger's bytes are another's does not clear the forger.
func TestRetryOfNobody(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.collector(t, "one", nil)
	start(t, c)
	w, frame := newFrame(t, 0, 1, nil)
	b.send(t, wire.BatchSubject(w), "damaged", "", frame[:len(frame)-9])
	b.send(t, wire.NodeSubject(cluster, "stranger"), "whole", "", frame)
	idle(t, c)
	// What a collector left that could not read the frame at all.
	row := store.QuarantineRow{Stream: broker.NodeStream(0), StreamSeq: 99, Subject: wire.BatchSubject(w), Reason: "version", BrokerMs: time.Now().UnixMilli(), Bytes: frame}
	if err := b.store.Insert(t.Context(), store.TableQuarantine, "", store.QuarantineBlock([]store.QuarantineRow{row})); err != nil {
		t.Fatal(err)
	}
	left := aside(t, b.store, false)
	if len(left) != 3 || left[0].Reason != "decode" || left[0].Sequence != 0 || left[0].Who != nodeName(0) || left[1].Reason != "subject" || left[1].Who != "stranger" || left[2].Reason != "version" {
		t.Fatalf("%d in quarantine", len(left))
	}
	b.again(t, "first", left[2:])
	idle(t, c)
	wantRows(t, b.store, 1)
	if left = aside(t, b.store, false); len(left) != 2 || left[0].Reason != "decode" || left[1].Reason != "subject" {
		t.Errorf("%d are left", len(left))
	}
	groups, err := b.store.QuarantineGroups(t.Context(), store.QuarantineFilter{Cluster: cluster, ClusterToken: cluster, Stored: true})
	if err != nil || len(groups) != 3 || groups[0].Stored != 0 || groups[1].Stored != 0 || groups[2].Stored != 1 || groups[1].Node != "stranger" || groups[2].Messages != 1 {
		t.Errorf("groups: %+v, %v", groups, err)
	}
}

// TestRangeCutShort: a collector died between the note in quarantine on impossible values and
// the row of `batches`. The batch is not taken for one that is handled.
func TestRangeCutShort(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	w, frame := newFrame(t, 0, 1, func(w *wire.Batch) { w.Tables[0].Column(10).Int[0] = 1 << 40 })
	row := store.QuarantineRow{Stream: broker.NodeStream(0), StreamSeq: 1, Subject: wire.BatchSubject(w), Reason: "range", BrokerMs: 1,
		BatchKey: store.BatchKey{Cluster: cluster, Node: nodeName(0), Spool: fmt.Sprintf("%x", spoolOf(0)), Sequence: 1}, Bytes: frame}
	if err := b.store.Insert(t.Context(), store.TableQuarantine, "", store.QuarantineBlock([]store.QuarantineRow{row})); err != nil {
		t.Fatal(err)
	}
	b.publish(t, w, frame)
	c := b.collector(t, "one", nil)
	start(t, c)
	idle(t, c)
	wantRows(t, b.store, 1)
	if got := aside(t, b.store, true); len(got) != 1 || got[0].Stored {
		t.Errorf("in quarantine: %+v", got)
	}
}

// TestKillAmidRetries kills collectors while retries are taken, each sent twice: in the end every
// batch is there once.
func TestKillAmidRetries(t *testing.T) {
	t.Parallel()
	b, _, cfg := newOwnEngine(t, "retries")
	const sequences, kills = 60, 5
	old := b.collector(t, "old", live)
	stop := start(t, old)
	for s := uint64(1); s <= sequences; s++ {
		w, frame := newFrame(t, 0, s, nil)
		b.publish(t, w, frame)
	}
	idle(t, old)
	stop()
	refused := aside(t, b.store, false)
	if len(refused) != sequences {
		t.Fatalf("%d in quarantine", len(refused))
	}
	b.again(t, "first", refused)
	b.again(t, "second", refused)
	positions, err := b.js.KeyValue(t.Context(), broker.BucketCursor)
	if err != nil {
		t.Fatal(err)
	}
	midway := 0
	for i := range kills {
		e, err := positions.Get(t.Context(), broker.NodeStream(0))
		if err != nil {
			t.Fatal(err)
		}
		before := e.Revision()
		child := childCommand(t, cfg)
		child.Stderr = os.Stderr
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
			if e, err = positions.Get(t.Context(), broker.NodeStream(0)); err != nil {
				t.Fatal(err)
			}
			if e.Revision() >= before+2 && strings.Contains(string(e.Value()), `"from"`) {
				break // in the middle of a range
			}
		}
		<-time.After(time.Duration(i*12) * time.Millisecond) // before, between and behind its inserts
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // killed
		if e, err = positions.Get(t.Context(), broker.NodeStream(0)); err == nil && strings.Contains(string(e.Value()), `"from"`) {
			midway++
		}
	}
	last := b.collector(t, "last", nil)
	start(t, last)
	idle(t, last)
	t.Logf("%d of %d died within a range; the last took %+v", midway, kills, last.Stats())
	wantRows(t, b.store, sequences)
	raw, distinct, err := b.store.Count(t.Context(), store.TableBatches)
	if err != nil || raw != sequences || distinct != sequences {
		t.Errorf("batches: %d rows, %d distinct (%v)", raw, distinct, err)
	}
	if left := aside(t, b.store, false); len(left) != 0 {
		t.Errorf("%d left in quarantine", len(left))
	}
}
