package collector_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// steps are those of the protocol in their order, and whether a range is recorded as begun there.
var steps = []struct {
	name  string
	begun bool
}{
	{"lease", false}, {"fenced", false}, {"consumer", false}, {"fetched", false},
	{"intent", true},
	{"insert gpu_samples", true}, {"inserted gpu_samples", true},
	{"inserted collective_samples", true},
	{"insert quarantine", true}, {"inserted quarantine", true},
	{"inserted gaps", true},
	{"inserted batches", true},
	{"advanced", false}, {"acking", false}, {"acked", false}, {"marked", false},
}

// where reads what a partition's holder has recorded.
type where struct {
	Done, From, To, Epoch uint64
}

func (b *bench) where(tb testing.TB) (w where, revision uint64) {
	tb.Helper()
	kv, err := b.js.KeyValue(tb.Context(), broker.BucketCursor)
	if err != nil {
		tb.Fatal(err)
	}
	e, err := kv.Get(tb.Context(), broker.NodeStream(0))
	if err != nil {
		return where{}, 0
	}
	if err := json.Unmarshal(e.Value(), &w); err != nil {
		tb.Fatal(err)
	}
	return w, e.Revision()
}

// rangeAt is what one case sends: a range with rows of all kinds, a batch twice (under another
// message id), one with a gap behind it, one for quarantine, and a conflict.
func (b *bench) rangeAt(tb testing.TB, node int) {
	tb.Helper()
	for s := uint64(1); s <= 4; s++ {
		w, frame := newFrame(tb, node, s, nil)
		if s == 4 { // 5 to 8 are lost
			w, frame = newFrame(tb, node, 9, func(w *wire.Batch) { w.Gaps = []wire.Gap{{From: 5, To: 8, Reason: wire.GapBytes}} })
		}
		b.publish(tb, w, frame)
	}
	w, frame := newFrame(tb, node, 2, nil)
	b.send(tb, wire.BatchSubject(w), fmt.Sprint("again", node), "", frame)
	b.send(tb, wire.BatchSubject(w), fmt.Sprint("bad", node), "", frame[:len(frame)-7])
	w, frame = newFrame(tb, node, 4, func(w *wire.Batch) { w.Tables = w.Tables[:1] })
	b.send(tb, wire.BatchSubject(w), fmt.Sprint("short", node), "", frame)
	w, frame = newFrame(tb, node, 4, func(w *wire.Batch) { w.Tables = w.Tables[1:2] })
	b.send(tb, wire.BatchSubject(w), fmt.Sprint("other", node), "", frame)
}

// judge holds what the store has of a case to what was sent.
func (b *bench) judge(tb testing.TB, node int) {
	tb.Helper()
	rows, err := b.store.GPURows(tb.Context(), store.RowQuery{Cluster: cluster, Nodes: []string{nodeName(node)}, ToMs: startMs * 2})
	if err != nil || len(rows) != 5*gpus*seconds { // sequences 1, 2, 3, 4 and 9
		tb.Errorf("%d gpu rows, want %d (%v)", len(rows), 5*gpus*seconds, err)
	}
	all, err := b.store.BatchesAfter(tb.Context(), cluster, 0, 0)
	if err != nil {
		tb.Fatal(err)
	}
	n := 0
	for _, r := range all {
		if r.Node == nodeName(node) {
			n++
			if r.Sequence == 4 && (r.Rows[0] != gpus*seconds || r.Rows[1] != 0) {
				tb.Errorf("the first of two contents is not the one that is kept: %v", r.Rows)
			}
		}
	}
	if n != 5 {
		tb.Errorf("%d batches, want 5", n)
	}
	reasons := map[string]int{}
	err = b.store.QuarantineMessages(tb.Context(), store.QuarantineFilter{Cluster: cluster, ClusterToken: wire.Token(cluster), Node: nodeName(node), NodeToken: wire.Token(nodeName(node))}, true, func(m store.QuarantineMessage) error {
		reasons[m.Reason]++
		if !m.Whole || len(m.Bytes) == 0 {
			tb.Errorf("%s without its bytes", m.Reason)
		}
		return nil
	})
	if err != nil || len(reasons) != 2 || reasons["decode"] != 1 || reasons["conflict"] != 1 {
		tb.Errorf("in quarantine: %v (%v)", reasons, err)
	}
	handled, err := b.store.Handled(tb.Context(), []store.SpoolKey{{Cluster: cluster, Node: nodeName(node), Spool: fmt.Sprintf("%x", spoolOf(node))}})
	if err != nil {
		tb.Fatal(err)
	}
	for _, h := range handled {
		if fmt.Sprint(h) != "{[{1 4} {9 9}] [{5 8}]}" {
			tb.Errorf("handled %v", h)
		}
	}
	marks, err := b.js.Stream(tb.Context(), broker.CommitStream)
	if err != nil {
		tb.Fatal(err)
	}
	msg, err := marks.GetLastMsgForSubject(tb.Context(), wire.CommitSubject(cluster, nodeName(node)))
	if err != nil {
		tb.Errorf("no commit mark: %v", err)
		return
	}
	if m, err := wire.DecodeCommitMark(msg.Data); err != nil || m.Through != 9 || m.Epoch == 0 {
		tb.Errorf("mark %+v, %v", m, err)
	}
}

// watched is a collector of this process that notes which epochs and ranges it works on.
func (b *bench) watched(tb testing.TB, name string) (c *collector.Collector, ranges func() []where) {
	tb.Helper()
	c = b.collector(tb, name, func(cfg *collector.Config) { cfg.Partitions, cfg.MaxMessages = collector.Partitions(1)[1:], 1000 })
	var mu sync.Mutex
	var seen []where
	c.OnStep(func(step string) error {
		if step == "intent" {
			w, _ := b.where(tb)
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, w)
		}
		return nil
	})
	return c, func() []where {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

// TestDieAtEachStep: a collector dies between every two steps of the protocol, in a process of its own, and
// another takes over. A range that was recorded is repeated as it was, under a higher epoch; in the end each
// row is there once, each message that was not taken has its reason, and the mark has passed all.
func TestDieAtEachStep(t *testing.T) {
	t.Parallel()
	b, _, cfg := newOwnEngine(t, "steps")
	cfg.Large, cfg.Nth = true, 1 // one range
	for i, s := range steps {
		if testing.Short() && i%4 != 0 {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			b.rangeAt(t, i)
			before, _ := b.where(t)
			cfg.DieAt = s.name
			child := childCommand(t, cfg)
			child.Stderr = os.Stderr
			if err := child.Run(); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the child did not die at the step: %v", err)
			}
			left, _ := b.where(t)
			if (left.From != 0) != s.begun {
				t.Errorf("it left %+v", left)
			}
			if s.name != "lease" && left.Epoch <= before.Epoch {
				t.Errorf("epoch %d after %d", left.Epoch, before.Epoch)
			}
			c, ranges := b.watched(t, "next")
			stop := start(t, c)
			idle(t, c)
			stop()
			if s.begun {
				if got := ranges(); len(got) == 0 || got[0].From != left.From || got[0].To != left.To || got[0].Epoch <= left.Epoch {
					t.Errorf("took %+v, recorded was %+v", got, left)
				}
			}
			b.judge(t, i)
		})
	}
	b.once(t)
}

// TestStopAtStep: a collector is stopped between two steps for longer than its lease lives, another
// takes over and moves on, the first wakes: its epoch is refused, and it has done no harm.
func TestStopAtStep(t *testing.T) {
	t.Parallel()
	b, _, cfg := newOwnEngine(t, "stops")
	cfg.Large, cfg.Nth, cfg.Stop = true, 1, true
	names := []string{"insert gpu_samples", "inserted batches", "advanced"}
	if os.Getenv("FLOPWATCH_CHAOS") != "" {
		names = append(names, "fenced", "fetched", "intent", "insert batches", "acking")
	}
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			b.rangeAt(t, i)
			cfg.DieAt = name
			child := childCommand(t, cfg)
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			ended := false
			end := func() {
				if !ended {
					ended = true
					_ = child.Process.Kill() // it may have ended
					_ = child.Wait()         // killed
				}
			}
			defer end()
			stopped(t, child)
			c, _ := b.watched(t, "next")
			stop := start(t, c)
			idle(t, c)
			if name != "fenced" { // it may not have got that far: the lease is all it has
				if w, _ := b.where(t); w.From != 0 {
					t.Errorf("the second left %+v", w)
				}
			}
			_, revision := b.where(t)
			if err := child.Process.Signal(sigCont); err != nil {
				t.Fatal(err)
			}
			// It may do what it had begun, and must then see that it is not the holder any more.
			<-time.After(2 * leaseTTL)
			if w, now := b.where(t); now != revision {
				t.Errorf("the first wrote the position after it had lost the lease: %+v", w)
			}
			end()
			stop()
			b.judge(t, i)
		})
	}
}

// once holds raw tables to one row a key, as far as tokens reach: a second copy that only the key
// recognises would be told here.
func (b *bench) once(tb testing.TB) {
	tb.Helper()
	for table := range rowsOf {
		raw, distinct, err := b.store.Count(tb.Context(), table)
		if err != nil || raw != distinct {
			tb.Errorf("%s: %d rows, %d distinct (%v)", table, raw, distinct, err)
		}
	}
}

// TestStaleEpochStartsAnew: who finds that another has taken the position over moves it no more, takes
// over anew, and repeats the recorded range.
func TestStaleEpochStartsAnew(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first, _ := b.watched(t, "first")
	paused, resume := make(chan struct{}), make(chan struct{})
	var once sync.Once
	first.OnStep(func(step string) error {
		if step == "advanced" || step == "inserted batches" {
			once.Do(func() {
				close(paused)
				<-resume
			})
		}
		return nil
	})
	b.rangeAt(t, 0)
	stop := start(t, first)
	<-paused
	// Somebody else has taken the position over, whatever the lease says.
	kv, err := b.js.KeyValue(t.Context(), broker.BucketCursor)
	if err != nil {
		t.Fatal(err)
	}
	e, err := kv.Get(t.Context(), broker.NodeStream(0))
	if err != nil {
		t.Fatal(err)
	}
	now, _ := b.where(t)
	stolen := strings.Replace(string(e.Value()), fmt.Sprintf(`"epoch":%d`, now.Epoch), fmt.Sprintf(`"epoch":%d`, now.Epoch+1000), 1)
	if _, err = kv.Update(t.Context(), broker.NodeStream(0), []byte(stolen), e.Revision()); err != nil {
		t.Fatal(err)
	}
	close(resume)
	idle(t, first)
	stop()
	// It was refused, took over anew, and repeated the recorded range under an epoch beyond the other's.
	if w, _ := b.where(t); w.Epoch <= now.Epoch+1000 || w.From != 0 {
		t.Errorf("position %+v after %+v", w, now)
	}
	b.judge(t, 0)
}
