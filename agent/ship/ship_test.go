package ship_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

const cluster = "c1"

// rig is a broker, and ships that run on it.
type rig struct {
	nc *nats.Conn
	js jetstream.JetStream
}

func newRig(t *testing.T) *rig {
	t.Helper()
	nc, _ := testenv.NATS(t)
	js, err := ship.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{DedupWindow: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	return &rig{nc, js}
}

func newSpool(t *testing.T, dir string) *spool.Spool {
	t.Helper()
	sp, err := spool.Open(spool.Config{Dir: dir, FS: durable.NoSync(durable.OS{})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sp.Close() }) // closed by most tests already
	return sp
}

func put(t *testing.T, sp *spool.Spool, n int) {
	t.Helper()
	for range n {
		seq := sp.NextSequence()
		if err := sp.Append(seq, fmt.Appendf(nil, "frame %d", seq)); err != nil {
			t.Fatal(err)
		}
	}
	if err := sp.Sync(); err != nil {
		t.Fatal(err)
	}
}

// start runs a ship until stop is called.
func (r *rig) start(t *testing.T, cfg ship.Config) (s *ship.Ship, stop func()) {
	t.Helper()
	cfg.Conn, cfg.JetStream, cfg.Cluster = r.nc, r.js, cluster
	s, err := ship.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return s, stop
}

// wait polls until ok, at most as long as the test may take.
func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// pull takes n messages off the partition's stream, and acknowledges them.
func (r *rig) pull(t *testing.T, n int) []string {
	t.Helper()
	c, err := r.js.CreateOrUpdateConsumer(t.Context(), broker.NodeStream(0), jetstream.ConsumerConfig{Durable: "test", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for len(got) < n {
		batch, err := c.Fetch(n-len(got), jetstream.FetchMaxWait(10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		before := len(got)
		for m := range batch.Messages() {
			got = append(got, string(m.Data()))
			if err := m.Ack(); err != nil {
				t.Fatal(err)
			}
		}
		if len(got) == before {
			t.Fatalf("pulled %d of %d messages", len(got), n)
		}
	}
	return got
}

func (r *rig) publishMark(t *testing.T, m wire.CommitMark) {
	t.Helper()
	if m.Cluster == "" {
		m.Cluster = cluster
	}
	if _, err := r.js.Publish(t.Context(), wire.CommitSubject(m.Cluster, m.Node), wire.AppendCommitMark(nil, &m)); err != nil {
		t.Fatal(err)
	}
}

func TestShip(t *testing.T) {
	r := newRig(t)
	sp := newSpool(t, t.TempDir())
	put(t, sp, 40)
	s, stop := r.start(t, ship.Config{Spool: sp, Node: "n1"})
	put(t, sp, 10)
	wait(t, "acks", func() bool { return sp.Acked() == 50 })
	got := r.pull(t, 50)
	for i, text := range got {
		if want := fmt.Sprintf("frame %d", i+1); text != want {
			t.Fatalf("message %d is %q, want %q", i, text, want)
		}
	}
	if sp.Committed() != 0 {
		t.Error("an ack has committed frames")
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Drain(short); err == nil {
		t.Error("drained without a commit")
	}
	r.publishMark(t, wire.CommitMark{Node: "n1", Spool: [16]byte{1}, Through: 50})                                               // another spool's
	r.publishMark(t, wire.CommitMark{Node: "n1", Spool: sp.ID(), Through: 20, Ranges: []wire.SequenceRange{{From: 31, To: 50}}}) // out of order
	wait(t, "commit of 20", func() bool { return sp.Committed() == 20 })
	r.publishMark(t, wire.CommitMark{Node: "n1", Spool: sp.ID(), Ranges: []wire.SequenceRange{{From: 21, To: 30}}})
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if sp.Committed() != 50 {
		t.Errorf("committed %d", sp.Committed())
	}
	// A mark that promises more than there is does not hold for what comes later.
	r.publishMark(t, wire.CommitMark{Node: "n1", Spool: sp.ID(), Through: 1000})
	wait(t, "the mark", func() bool { return s.Stats().Marks >= 3 })
	put(t, sp, 1)
	wait(t, "frame 51", func() bool { return sp.Acked() == 51 })
	if sp.Committed() != 50 {
		t.Errorf("committed %d", sp.Committed())
	}
	stop()
	if err := s.Drain(t.Context()); err == nil {
		t.Error("drained after the end, and a frame is left")
	}
}

// TestAway: a mark that was published while the node was away is found, and so none of its
// frames is sent again.
func TestAway(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	sp := newSpool(t, dir)
	put(t, sp, 5)
	_, stop := r.start(t, ship.Config{Spool: sp, Node: "n1"})
	wait(t, "acks", func() bool { return sp.Acked() == 5 })
	stop()
	if err := sp.Close(); err != nil {
		t.Fatal(err)
	}
	id := sp.ID()
	r.publishMark(t, wire.CommitMark{Node: "n1", Spool: id, Through: 5})
	sp = newSpool(t, dir)
	s, _ := r.start(t, ship.Config{Spool: sp, Node: "n1"})
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Published != 0 {
		t.Errorf("%+v", st)
	}
}

// TestPutBack: a spool that was put back to an earlier state makes numbers that the collector
// has, and does not do so in silence.
func TestPutBack(t *testing.T) {
	r := newRig(t)
	dir := filepath.Join(t.TempDir(), "spool")
	sp := newSpool(t, dir)
	put(t, sp, 2)
	r.publishMark(t, wire.CommitMark{Node: "n1", Spool: sp.ID(), Through: 3, Ranges: []wire.SequenceRange{{From: 5, To: 5}}})
	s, stop := r.start(t, ship.Config{Spool: sp, Node: "n1"})
	told := func() bool {
		st := s.Stats()
		return st.Trouble == ship.TroubleSpool && strings.Contains(st.Reason, "put back to an earlier state")
	}
	wait(t, "the word", told)
	put(t, sp, 3)
	wait(t, "acks", func() bool { return sp.Acked() == 5 })
	if !told() {
		t.Errorf("%+v", s.Stats())
	}
	put(t, sp, 1)
	wait(t, "the end of it", func() bool { return sp.Acked() == 6 && s.Stats().Trouble == ship.TroubleNone })

	// What deploy/README.md tells to do: the directory is moved away, and a new spool begins, whose
	// frames are nobody's repeats.
	stop()
	if err := errors.Join(sp.Close(), os.Rename(dir, dir+"-put-back")); err != nil {
		t.Fatal(err)
	}
	messages := func() uint64 {
		stream, err := r.js.Stream(t.Context(), broker.NodeStream(0))
		if err != nil {
			t.Fatal(err)
		}
		info, err := stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.State.Msgs
	}
	before := messages()
	next := newSpool(t, dir)
	if next.ID() == sp.ID() || next.NextSequence() != 1 {
		t.Fatalf("spool %x goes on at %d", next.ID(), next.NextSequence())
	}
	s, _ = r.start(t, ship.Config{Spool: next, Node: "n1"})
	put(t, next, 3)
	wait(t, "acks of the new spool", func() bool { return next.Acked() == 3 })
	r.publishMark(t, wire.CommitMark{Node: "n1", Spool: next.ID(), Through: 3})
	if err := s.Drain(t.Context()); err != nil || s.Stats().Trouble != ship.TroubleNone {
		t.Errorf("%v, %+v", err, s.Stats())
	}
	if got := messages() - before; got != 3 {
		t.Errorf("%d of 3 frames of the new spool are in the stream", got)
	}
}

// TestResend: frames that the broker acknowledged and lost are sent again.
func TestResend(t *testing.T) {
	r := newRig(t)
	sp := newSpool(t, t.TempDir())
	s, _ := r.start(t, ship.Config{Spool: sp, Node: "n1", ResendAfter: 300 * time.Millisecond})
	put(t, sp, 3)
	wait(t, "acks", func() bool { return sp.Acked() == 3 })
	stream, err := r.js.Stream(t.Context(), broker.NodeStream(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.pull(t, 3); !slices.Equal(got, []string{"frame 1", "frame 2", "frame 3"}) {
		t.Errorf("sent again: %v", got)
	}
	r.publishMark(t, wire.CommitMark{Node: "n1", Spool: sp.ID(), Through: 3})
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Resent < 3 {
		t.Errorf("%+v", st)
	}
}

// TestFullStream: a refusal is waited out, and nothing is lost or reordered for good.
func TestFullStream(t *testing.T) {
	nc, _ := testenv.NATS(t)
	js, err := ship.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{MaxBytes: 2000}); err != nil {
		t.Fatal(err)
	}
	r := &rig{nc, js}
	sp := newSpool(t, t.TempDir())
	s, _ := r.start(t, ship.Config{Spool: sp, Node: "n1", BackoffMin: 5 * time.Millisecond, BackoffMax: 20 * time.Millisecond})
	put(t, sp, 100)
	wait(t, "a refusal", func() bool { return s.Stats().Errors > 0 })
	seen := map[string]bool{}
	for len(seen) < 100 {
		for _, text := range r.pull(t, 1) {
			seen[text] = true
		}
	}
	r.publishMark(t, wire.CommitMark{Node: "n1", Spool: sp.ID(), Through: 100})
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestFleet runs hundreds of nodes on one connection.
func TestFleet(t *testing.T) {
	r := newRig(t)
	const nodes, frames = 200, 5
	var ships []*ship.Ship
	var spools []*spool.Spool
	for i := range nodes {
		sp := newSpool(t, t.TempDir())
		s, _ := r.start(t, ship.Config{Spool: sp, Node: fmt.Sprintf("n%d", i)})
		put(t, sp, frames)
		ships, spools = append(ships, s), append(spools, sp)
	}
	got := r.pull(t, nodes*frames)
	if len(got) != nodes*frames {
		t.Errorf("pulled %d", len(got))
	}
	for i, sp := range spools {
		r.publishMark(t, wire.CommitMark{Node: fmt.Sprintf("n%d", i), Spool: sp.ID(), Through: frames})
	}
	for _, s := range ships {
		if err := s.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestProvider: the subject of provider batches is their kind's.
func TestProvider(t *testing.T) {
	r := newRig(t)
	sp := newSpool(t, t.TempDir())
	b := wire.NewBuilder(wire.KindInventory, wire.SourceDeclared)
	b.Begin()
	b.SetStr(1, "node-1")
	if err := b.End(); err != nil {
		t.Fatal(err)
	}
	frame, err := wire.AppendBatch(nil, &wire.Batch{Cluster: cluster, Spool: sp.ID(), Sequence: 1, Tables: []wire.Table{*b.Build()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := sp.Append(1, frame); err != nil {
		t.Fatal(err)
	}
	if err := sp.Sync(); err != nil {
		t.Fatal(err)
	}
	s, _ := r.start(t, ship.Config{Spool: sp})
	wait(t, "ack", func() bool { return sp.Acked() == 1 })
	stream, err := r.js.Stream(t.Context(), broker.ProviderStream)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetLastMsgForSubject(t.Context(), wire.ProviderSubject(cluster, wire.KindInventory))
	if err != nil || msg.Header.Get(nats.MsgIdHdr) != wire.MessageID("", sp.ID(), 1) {
		t.Errorf("got %+v, %v", msg, err)
	}
	r.publishMark(t, wire.CommitMark{Spool: sp.ID(), Through: 1})
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestBackoffEnds: new frames and marks that keep coming do not put the end of a back-off
// off.
func TestBackoffEnds(t *testing.T) {
	nc, _ := testenv.NATS(t)
	js, err := ship.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{nc, js} // no streams yet: publishing is refused
	sp := newSpool(t, t.TempDir())
	s, _ := r.start(t, ship.Config{Spool: sp, Node: "n1", BackoffMin: 200 * time.Millisecond, BackoffMax: 200 * time.Millisecond})
	put(t, sp, 1)
	wait(t, "a refusal", func() bool { return s.Stats().Errors > 0 })
	if err := broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{}); err != nil {
		t.Fatal(err)
	}
	wait(t, "acks", func() bool {
		put(t, sp, 1) // every few milliseconds
		return sp.Acked() > 0
	})
}

// BenchmarkShip measures frames from spool to ack, 4 KB each, on one node.
func BenchmarkShip(b *testing.B) {
	nc, _ := testenv.NATS(b)
	js, err := ship.JetStream(nc)
	if err != nil {
		b.Fatal(err)
	}
	if err := broker.EnsureStreams(b.Context(), js, broker.StreamsConfig{}); err != nil {
		b.Fatal(err)
	}
	sp, err := spool.Open(spool.Config{Dir: b.TempDir(), FS: durable.NoSync(durable.OS{})})
	if err != nil {
		b.Fatal(err)
	}
	frame := make([]byte, 4000)
	for range b.N {
		if err := sp.Append(sp.NextSequence(), frame); err != nil {
			b.Fatal(err)
		}
	}
	s, err := ship.New(ship.Config{Conn: nc, JetStream: js, Spool: sp, Cluster: cluster, Node: "n1"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	b.ResetTimer()
	go func() { done <- s.Run(ctx) }()
	if err := sp.Sync(); err != nil {
		b.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sp.Acked() < uint64(b.N) {
		<-tick.C
	}
	b.StopTimer()
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
