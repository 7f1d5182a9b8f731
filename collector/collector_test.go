package collector_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// start runs a collector until the returned function is called, or the test ends.
func start(t *testing.T, c *collector.Collector) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func idle(t *testing.T, c *collector.Collector) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.WaitIdle(ctx); err != nil {
		t.Fatalf("wait until idle: %v (%+v)", err, c.Stats())
	}
}

func TestEveryKindIsStoredOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const nodes, sequences = 3, 5
	for s := uint64(1); s <= sequences; s++ {
		for n := range nodes {
			w, frame := newFrame(t, n, s, nil)
			b.publish(t, w, frame)
		}
	}
	for _, k := range []wire.Kind{wire.KindInventory, wire.KindAllocation, wire.KindOrder} {
		for s := uint64(1); s <= 2; s++ {
			w, frame := newProviderFrame(t, k, s)
			b.publish(t, w, frame)
		}
	}
	c := b.collector(t, "one", nil)
	start(t, c)
	idle(t, c)
	wantRows(t, b.store, nodes*sequences)
	for table, want := range map[string]uint64{store.TableBatches: nodes*sequences + 6, store.TableInventory: 2, store.TableAllocations: 2, store.TableOrders: 2, store.TableQuarantine: 0} {
		if raw, distinct, err := b.store.Count(t.Context(), table); err != nil || raw != want || distinct != want {
			t.Errorf("%s: %d rows, %d distinct, want %d (%v)", table, raw, distinct, want, err)
		}
	}

	rows, err := b.store.GPURows(t.Context(), store.RowQuery{Cluster: cluster, Nodes: []string{nodeName(1)}, FromMs: startMs, ToMs: startMs + 3_600_000})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != gpus*seconds*sequences {
		t.Fatalf("%d gpu rows of a node", len(rows))
	}
	r := rows[1]
	if r.Node != nodeName(1) || r.GPU != 0 || r.UUID != "GPU-1-0" || r.TsMs != startMs+1000 || r.AvailableMs != startMs+10_000 {
		t.Errorf("row %+v", r)
	}
	// Watts, rates and joules are kept as exactly as internal/store/CODECS.md says.
	if r.Values[0] != 0.9001 || math.Abs(r.Values[2]-651) > 0.032 || r.Values[6] != 0 || r.Values[15] != 1<<33 || math.Abs(r.EnergyJ-11*650) > 0.064 {
		t.Errorf("values %v, energy %v", r.Values, r.EnergyJ)
	}
	if !math.IsNaN(r.Values[1]) || !math.IsNaN(r.MMACycles) || !math.IsNaN(rows[gpus*seconds*sequences-1].Values[6]) {
		t.Errorf("what was not measured is a number: %v", r.Values)
	}
	bounded, err := b.store.GPURows(t.Context(), store.RowQuery{Cluster: cluster, FromMs: 0, ToMs: startMs * 2, AvailableToMs: startMs + 20_000})
	if err != nil || len(bounded) != gpus*seconds*2*nodes {
		t.Errorf("%d rows known after two batches, %v", len(bounded), err)
	}

	got, err := b.store.BatchesAfter(t.Context(), cluster, 0, 0)
	if err != nil || len(got) != nodes*sequences+6 {
		t.Fatalf("%d batches, %v", len(got), err)
	}
	for _, r := range got {
		if r.Node == nodeName(0) && r.Sequence == 1 {
			if r.Rows[0] != gpus*seconds || r.MinTsMs != startMs || r.MaxTsMs != startMs+9000 || len(r.Minutes) != 1 || r.Minutes[0] != startMs/60_000 || r.Epoch == 0 {
				t.Errorf("batch %+v", r)
			}
		}
	}
	allocations, err := b.store.AllocationRows(t.Context(), store.AsOf{Cluster: cluster, AvailableToMs: startMs + 1000})
	if err != nil || len(allocations) != 1 || allocations[0].EndMs != 0 {
		t.Errorf("before the end was known: %+v, %v", allocations, err)
	}
	allocations, err = b.store.AllocationRows(t.Context(), store.AsOf{Cluster: cluster})
	if err != nil || len(allocations) != 1 || allocations[0].EndMs == 0 || allocations[0].AvailableMs != startMs+1000 || len(allocations[0].GPUs) != 2 {
		t.Errorf("after: %+v, %v", allocations, err)
	}
	if processes, err := b.store.ProcessRows(t.Context(), store.AsOf{Cluster: cluster}); err != nil || len(processes) != nodes*sequences || processes[0].WorldSize != 16 || processes[0].Rank != -1 {
		t.Errorf("%d processes, %v", len(processes), err)
	}

	// The streams are empty, and the marks cover all.
	stream, err := b.js.Stream(t.Context(), "FLOPWATCH_0")
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		info, err := stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Msgs == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d messages were not acknowledged", info.State.Msgs)
		}
	}
	marks, err := b.js.Stream(t.Context(), "FLOPWATCH_COMMIT")
	if err != nil {
		t.Fatal(err)
	}
	for n := range nodes {
		msg, err := marks.GetLastMsgForSubject(t.Context(), wire.CommitSubject(cluster, nodeName(n)))
		if err != nil {
			t.Fatal(err)
		}
		m, err := wire.DecodeCommitMark(msg.Data)
		if err != nil || m.Through != sequences || m.Spool != spoolOf(n) || m.Node != nodeName(n) || m.Epoch == 0 {
			t.Errorf("mark %+v, %v", m, err)
		}
	}
}

func TestResendsChangeNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := b.collector(t, "one", nil)
	stop := start(t, first)
	send := func(id string) {
		for s := uint64(1); s <= 4; s++ {
			w, frame := newFrame(t, 0, s, nil)
			// Another message id: the broker's window knows nothing of it.
			if _, err := b.js.Publish(t.Context(), wire.BatchSubject(w), frame, jetstream.WithMsgID(id+wire.MessageID(w.Node, w.Spool, w.Sequence))); err != nil {
				t.Fatal(err)
			}
		}
	}
	send("a")
	send("b")
	idle(t, first)
	send("c")
	idle(t, first)
	if got := first.Stats(); got.Repeats != 8 || got.Batches != 4 {
		t.Errorf("stats %+v", got)
	}
	stop()
	second := b.collector(t, "two", nil) // knows only what the store has
	start(t, second)
	send("d")
	idle(t, second)
	if got := second.Stats(); got.Repeats != 4 || got.Batches != 0 {
		t.Errorf("stats of the second %+v", got)
	}
	wantRows(t, b.store, 4)
}

func TestQuarantine(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	now := time.Now().UnixMilli()
	shift := func(to int64) func(*wire.Batch) {
		return func(w *wire.Batch) {
			w.AvailableMs = 0
			for i := range w.Tables {
				c := w.Tables[i].Column(1)
				for r := range c.Int {
					c.Int[r] += to - startMs
				}
			}
		}
	}
	good, frame := newFrame(t, 0, 1, shift(now-60_000))
	b.publish(t, good, frame)
	future, frame := newFrame(t, 0, 2, shift(now+10*60_000))
	b.publish(t, future, frame)
	recorded, frame := newFrame(t, 0, 3, nil)
	b.publish(t, recorded, frame)
	odd, frame := newFrame(t, 0, 4, func(w *wire.Batch) {
		shift(now - 60_000)(w)
		w.Tables[0].Column(10).Int[0] = 1 << 40 // no utilization
		w.Tables[0].Column(12).Int[1] = -5
	})
	b.publish(t, odd, frame)
	for i, msg := range [][]byte{[]byte("not a frame"), frame[:len(frame)/2], append([]byte{frame[0], 99}, frame[2:]...)} {
		if _, err := b.js.Publish(t.Context(), wire.NodeSubject(cluster, nodeName(5)), msg, jetstream.WithMsgID(string(rune('a'+i)))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.js.Publish(t.Context(), wire.NodeSubject(cluster, "somebody-else"), frame); err != nil {
		t.Fatal(err)
	}
	c := b.collector(t, "one", live)
	start(t, c)
	idle(t, c)
	reasons, err := b.store.Quarantined(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"future": 1, "available": 1, "range": 1, "decode": 2, "version": 1, "subject": 1}
	for r, n := range want {
		if reasons[r] != n {
			t.Errorf("%d in quarantine for %s, want %d", reasons[r], r, n)
		}
	}
	if len(reasons) != len(want) {
		t.Errorf("reasons %v", reasons)
	}
	wantRows(t, b.store, 2) // the good one, and the odd one without its two impossible values
	rows, err := b.store.GPURows(t.Context(), store.RowQuery{Cluster: cluster, FromMs: 0, ToMs: now + 3_600_000})
	if err != nil {
		t.Fatal(err)
	}
	absent := 0
	for _, r := range rows {
		if math.IsNaN(r.Values[0]) {
			absent++
		}
		if math.IsNaN(r.Values[2]) {
			absent++
		}
	}
	if absent != 2 {
		t.Errorf("%d impossible values absent, want 2", absent)
	}
	// What is kept in quarantine under a believable identity need not come again.
	marks, err := b.js.Stream(t.Context(), "FLOPWATCH_COMMIT")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := marks.GetLastMsgForSubject(t.Context(), wire.CommitSubject(cluster, nodeName(0)))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := wire.DecodeCommitMark(msg.Data); err != nil || m.Through != 4 {
		t.Errorf("mark %+v, %v", m, err)
	}
}

func TestTwoCollectorsContend(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	small := func(cfg *collector.Config) { cfg.MaxMessages = 3 }
	one, two := b.collector(t, "one", small), b.collector(t, "two", small)
	stopOne := start(t, one)
	start(t, two)
	const sequences = 40
	for s := uint64(1); s <= sequences; s++ {
		w, frame := newFrame(t, 0, s, nil)
		b.publish(t, w, frame)
		if s == sequences/2 {
			stopOne() // gives its leases back: the other goes on
		}
	}
	idle(t, two)
	wantRows(t, b.store, sequences)
	if got := one.Stats().Batches + two.Stats().Batches; got != sequences {
		t.Errorf("%d batches taken by both", got)
	}
	raw, distinct, err := b.store.Count(t.Context(), store.TableBatches)
	if err != nil || raw != sequences || distinct != sequences {
		t.Errorf("batches: %d rows, %d distinct, %v", raw, distinct, err)
	}
}
