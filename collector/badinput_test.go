package collector_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// live is a collector as it is run: the broker's time counts.
func live(cfg *collector.Config) { cfg.Batch.AcceptRecordedAvailability = false }

// at makes a batch live, and moves its telemetry to a time.
func at(ms int64) func(*wire.Batch) {
	return func(w *wire.Batch) {
		w.AvailableMs = 0
		for i := range w.Tables {
			c := w.Tables[i].Column(1)
			for r := range c.Int {
				c.Int[r] += ms - startMs
			}
		}
	}
}

// send publishes bytes as anybody may; retryOf is the header of a retry, "": none.
func (b *bench) send(tb testing.TB, subject, id, retryOf string, data []byte) (seq uint64) {
	tb.Helper()
	msg := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{}}
	if retryOf != "" {
		msg.Header.Set(batch.HeaderRetry, retryOf)
	}
	ack, err := b.js.PublishMsg(tb.Context(), msg, jetstream.WithMsgID(id))
	if err != nil {
		tb.Fatal(err)
	}
	if ack.Duplicate {
		tb.Fatalf("the broker knows message %s", id)
	}
	return ack.Sequence
}

// body is the message of a frame.
func body(tb testing.TB, frame []byte) []byte {
	tb.Helper()
	d, err := zstd.NewReader(nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer d.Close()
	raw, err := d.DecodeAll(frame[2:], nil)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// frameOf compresses a message.
func frameOf(tb testing.TB, head, raw []byte) []byte {
	tb.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = e.Close() }() // nothing is buffered
	return e.EncodeAll(raw, slices.Clone(head[:2]))
}

// withTable is a frame with one table more, of a kind and a number of rows.
func withTable(tb testing.TB, frame []byte, kind, rows uint64) []byte {
	tb.Helper()
	t := binary.AppendUvarint([]byte{1 << 3}, kind)
	t = binary.AppendUvarint(append(t, 2<<3), rows)
	raw := append(body(tb, frame), 12<<3|2, byte(len(t)))
	return frameOf(tb, frame, append(raw, t...))
}

// TestBadInput sends each kind of bad message between good ones of the same node: it goes to
// quarantine with its reason, the good ones are stored, and the partition goes on.
func TestBadInput(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.collector(t, "one", live)
	start(t, c)
	now := time.Now().UnixMilli()
	recent := at(now - 60_000)
	stranger := wire.NodeSubject(cluster, "stranger")

	change := func(f func(*wire.Batch)) func(testing.TB, int) []byte {
		return func(tb testing.TB, node int) []byte {
			_, frame := newFrame(tb, node, 2, func(w *wire.Batch) { recent(w); f(w) })
			return frame
		}
	}
	raw := func(f func(tb testing.TB, frame []byte) []byte) func(testing.TB, int) []byte {
		return func(tb testing.TB, node int) []byte {
			return f(tb, change(func(*wire.Batch) {})(tb, node))
		}
	}
	first := func(kind int, ms int64) func(testing.TB, int) []byte { // one row's time
		return change(func(w *wire.Batch) { w.Tables[kind].Column(1).Int[0] = ms })
	}
	for i, k := range []struct {
		name, reason string
		known        bool // whose identity is believed: the spool need not send it again
		stored       bool
		frame        func(tb testing.TB, node int) []byte
		subject      string // "": its own
	}{
		{name: "wrong subject", reason: "subject", subject: stranger, frame: change(func(*wire.Batch) {})},
		{name: "wrong partition", reason: "subject", subject: "flopwatch.v1.3." + cluster + "." + nodeName(77), frame: change(func(w *wire.Batch) { w.Node = nodeName(77) })},
		{name: "forged node", reason: "subject", frame: change(func(w *wire.Batch) { w.Node = "somebody-else" })},
		{name: "forged cluster", reason: "subject", frame: change(func(w *wire.Batch) { w.Cluster = "other" })},
		{name: "future version", reason: "version", known: true, frame: raw(func(_ testing.TB, f []byte) []byte { f[1] = 99; return f })},
		{name: "forged node of a future version", reason: "version", subject: wire.NodeSubject(cluster, "v99"), frame: raw(func(_ testing.TB, f []byte) []byte { f[1] = 99; return f })},
		{name: "future kind", reason: "version", known: true, frame: raw(func(tb testing.TB, f []byte) []byte { return withTable(tb, f, 99, 1) })},
		{name: "too many rows", reason: "size", known: true, frame: raw(func(tb testing.TB, f []byte) []byte { return withTable(tb, f, 1, wire.MaxRows) })},
		{name: "too many bytes", reason: "size", frame: raw(func(_ testing.TB, f []byte) []byte { return append(f, make([]byte, wire.MaxFrameBytes+1-len(f))...) })},
		{name: "bomb", reason: "size", frame: raw(func(tb testing.TB, f []byte) []byte { return frameOf(tb, f, make([]byte, 64<<20)) })},
		{name: "empty", reason: "decode", frame: raw(func(testing.TB, []byte) []byte { return nil })},
		{name: "no frame", reason: "decode", frame: raw(func(testing.TB, []byte) []byte { return []byte("util=97.3,power=NaN") })},
		{name: "cut off", reason: "decode", frame: raw(func(_ testing.TB, f []byte) []byte { return f[:len(f)/2] })},
		{name: "no message", reason: "decode", frame: raw(func(tb testing.TB, f []byte) []byte { return frameOf(tb, f, bytes.Repeat([]byte{0xff}, 1000)) })},
		{name: "ahead", reason: "future", known: true, frame: first(0, now+10*60_000)},
		{name: "end of time", reason: "future", known: true, frame: first(1, math.MaxInt64)},
		{name: "sealed ahead", reason: "future", known: true, frame: change(func(w *wire.Batch) { w.SealedWallMs = now + 10*60_000 })},
		{name: "1970", reason: "past", known: true, frame: first(0, 5000)},
		{name: "no time", reason: "past", known: true, frame: first(1, 0)},
		{name: "before time", reason: "past", known: true, frame: first(0, math.MinInt64)},
		{name: "sealed in 1970", reason: "past", known: true, frame: change(func(w *wire.Batch) { w.SealedWallMs = 77 })},
		{name: "91 days ago", reason: "past", known: true, frame: first(0, now-91*86_400_000)},
		{name: "89 days ago", stored: true, known: true, frame: first(0, now-89*86_400_000)},
		{name: "a process of 1999", stored: true, known: true, frame: first(4, 930_000_000_000)},
		{name: "states its availability", reason: "available", known: true, frame: change(func(w *wire.Batch) { w.AvailableMs = now })},
		{name: "out of range", reason: "range", stored: true, known: true, frame: change(func(w *wire.Batch) { w.Tables[0].Column(10).Int[0] = 1 << 40 })},
		{name: "not available", reason: "range", stored: true, known: true, frame: change(func(w *wire.Batch) {
			// What drivers answer for NaN: all bits set, the sign alone, a fraction of six times the whole.
			w.Tables[0].Column(12).Int[0] = math.MaxUint32
			w.Tables[0].Column(13).Int[1] = -1
			w.Tables[0].Column(10).Int[2] = math.MaxUint16
			w.Tables[0].Column(27).Int[3] = math.MinInt64
			w.Tables[0].Column(12).Int[4] = math.MaxInt64
		})},
	} {
		t.Run(k.name, func(t *testing.T) {
			node, subject := i+100, k.subject
			if subject == "" {
				subject = wire.NodeSubject(cluster, nodeName(node))
			}
			before := c.Stats()
			good, frame := newFrame(t, node, 1, recent)
			b.publish(t, good, frame)
			seq := b.send(t, subject, "bad/"+k.name, "", k.frame(t, node))
			good, frame = newFrame(t, node, 3, recent)
			b.publish(t, good, frame)
			idle(t, c)

			stored, err := b.store.Taken(t.Context(), store.SpoolKey{Cluster: cluster, Node: nodeName(node), Spool: fmt.Sprintf("%x", spoolOf(node))})
			want := []store.SequenceRange{{From: 1, To: 1}, {From: 3, To: 3}}
			if k.stored {
				want = []store.SequenceRange{{From: 1, To: 3}}
			}
			if err != nil || !slices.Equal(stored, want) {
				t.Errorf("stored %v, want %v (%v)", stored, want, err)
			}
			var got []store.QuarantineMessage
			err = b.store.QuarantineMessages(t.Context(), store.QuarantineFilter{Stream: broker.NodeStream(0), StreamSeq: seq}, true, func(m store.QuarantineMessage) error {
				got = append(got, m)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			after := c.Stats()
			if k.reason == "" {
				if len(got) != 0 || after.Quarantined != before.Quarantined || after.Batches != before.Batches+3 {
					t.Fatalf("in quarantine: %+v; %+v", got, after)
				}
				return
			}
			if len(got) != 1 || got[0].Reason != k.reason || got[0].Detail == "" || got[0].Subject != subject || !bytes.Equal(got[0].Bytes, k.frame(t, node)) || (got[0].Sequence == 2) != k.known {
				t.Fatalf("in quarantine: %+v", got)
			}
			t.Logf("%s: %s", got[0].Reason, got[0].Detail)
			if after.Quarantined != before.Quarantined+1 {
				t.Errorf("counted %d", after.Quarantined-before.Quarantined)
			}
			marks, err := b.js.Stream(t.Context(), broker.CommitStream)
			if err != nil {
				t.Fatal(err)
			}
			msg, err := marks.GetLastMsgForSubject(t.Context(), wire.CommitSubject(cluster, nodeName(node)))
			if err != nil {
				t.Fatal(err)
			}
			if m, err := wire.DecodeCommitMark(msg.Data); err != nil || (m.Through == 3) != k.known || !m.Has(1) || !m.Has(3) {
				t.Errorf("mark %+v, %v", m, err)
			}
		})
	}
	positions, err := b.js.KeyValue(t.Context(), broker.BucketCursor)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := b.js.Stream(t.Context(), broker.NodeStream(0))
	if err != nil {
		t.Fatal(err)
	}
	entry, err := positions.Get(t.Context(), broker.NodeStream(0))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(`{"done":%d,"epoch":`, stream.CachedInfo().State.LastSeq); !bytes.HasPrefix(entry.Value(), []byte(want)) {
		t.Errorf("position %s, want %s...", entry.Value(), want)
	}
	// What one value was impossible of is stored without it.
	rows, err := b.store.GPURows(t.Context(), store.RowQuery{Cluster: cluster, Nodes: []string{nodeName(100 + 26)}, ToMs: now + 3_600_000})
	if err != nil {
		t.Fatal(err)
	}
	absent := 0
	for _, r := range rows {
		for _, v := range []float64{r.Values[0], r.Values[2], r.Values[15], r.EnergyJ} {
			if math.IsNaN(v) {
				absent++
			}
		}
	}
	if len(rows) != 3*gpus*seconds || absent != 5 {
		t.Errorf("%d rows, %d values absent", len(rows), absent)
	}
}

// TestReordered: batches in any order, some twice, are stored once each, and the mark closes.
func TestReordered(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.collector(t, "one", func(cfg *collector.Config) { cfg.MaxMessages = 4 })
	start(t, c)
	for i, s := range []uint64{9, 2, 2, 7, 1, 9, 8, 3, 6, 1, 5, 4, 9} {
		w, frame := newFrame(t, 0, s, nil)
		b.send(t, wire.BatchSubject(w), fmt.Sprint(i), "", frame)
	}
	idle(t, c)
	wantRows(t, b.store, 9)
	if st := c.Stats(); st.Batches != 9 || st.Repeats != 4 || st.Quarantined != 0 {
		t.Errorf("%+v", st)
	}
	marks, err := b.js.Stream(t.Context(), broker.CommitStream)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := marks.GetLastMsgForSubject(t.Context(), wire.CommitSubject(cluster, nodeName(0)))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := wire.DecodeCommitMark(msg.Data); err != nil || m.Through != 9 {
		t.Errorf("mark %+v, %v", m, err)
	}
}
