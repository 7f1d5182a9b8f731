package collector_test

import (
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// TestStanding: the collector that checks chains knows what broke and what stays missing, and one that comes after it
// does too, though it has checked nothing of it itself.
func TestStanding(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	then := time.Now().Add(-4 * time.Hour).UnixMilli()
	send := func(node int, sequence uint64, prev [32]byte) [32]byte {
		w, frame := newFrame(t, node, sequence, func(w *wire.Batch) {
			at(then)(w)
			w.AvailableMs, w.PrevDigest = then+int64(sequence)*10_000, prev
		})
		b.publish(t, w, frame)
		return wire.Digest(frame)
	}
	for node, break1 := range []byte{0, 1} { // the second does not name the first
		d := send(node, 1, [32]byte{})
		d[0] += break1
		send(node, 2, d)
	}
	send(2, 1, [32]byte{})
	send(2, 4, [32]byte{4}) // 2 and 3 are missing

	check := func(cfg *collector.Config) { cfg.CheckEvery = 200 * time.Millisecond }
	c := b.collector(t, "never", func(cfg *collector.Config) { cfg.CheckEvery = -1 })
	stop := start(t, c)
	idle(t, c)
	stop()
	if _, ok := c.Standing(); ok {
		t.Error("one that does not check says what it found")
	}
	judge := func(c *collector.Collector) {
		t.Helper()
		until(t, "a check", func() bool { s, ok := c.Standing(); return ok && s.Hours[chain.StatusBroken] > 0 })
		s, _ := c.Standing()
		hours := s.Hours[chain.StatusBroken] + s.Hours[chain.StatusIncomplete] + s.Hours[chain.StatusUnsigned]
		if s.BrokenHosts != 1 || s.Broken.Node != nodeName(1) || s.BrokenCluster != cluster || !strings.Contains(s.Broken.Detail, "link") || s.Broken.HourMs == 0 || s.Hours[chain.StatusIncomplete] != 1 || s.Hours[chain.StatusVerified] != 0 || hours < 3 {
			t.Errorf("%+v", s)
		}
		if l := s.Losses[chain.LossMissing]; l.Hosts != 1 || l.Batches != 2 || l.OpenBatches != 2 || l.OpenHosts != 1 || len(s.Losses) != 1 {
			t.Errorf("lost: %+v", s.Losses)
		}
	}
	one := b.collector(t, "one", check)
	stop = start(t, one)
	judge(one)
	if st, ok := one.Checks(); !ok || st.Broken != 1 || st.Missing != 2 {
		t.Errorf("%+v", st)
	}
	stop()
	if _, ok := one.Standing(); ok {
		t.Error("one that has stopped still says what stands")
	}
	two := b.collector(t, "two", check)
	stop = start(t, two)
	judge(two)
	send(2, 2, [32]byte{}) // it was on its way: what it names tells whether it is the right one
	send(2, 3, [32]byte{})
	idle(t, two)
	until(t, "the hole to close", func() bool { s, _ := two.Standing(); return s.BrokenHosts == 2 && len(s.Losses) == 0 })
	stop()
}
