package ship_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/broker/natsd"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// fat appends n frames of size bytes that begin with their sequence.
func fat(t *testing.T, sp *spool.Spool, n, size int) {
	t.Helper()
	frame := make([]byte, size)
	for range n {
		seq := sp.NextSequence()
		binary.BigEndian.PutUint64(frame, seq)
		if err := sp.Append(seq, frame); err != nil {
			t.Fatal(err)
		}
	}
	if err := sp.Sync(); err != nil {
		t.Fatal(err)
	}
}

// keeper stores what comes, as a collector does, and says so in marks.
type keeper struct {
	mu    sync.Mutex
	order []uint64
	times map[uint64]int
	mark  wire.CommitMark
	quiet atomic.Bool // stores, and says nothing
	drop  uint64      // lost once between the broker's ack and the store
}

func (r *rig) keep(t *testing.T, sp *spool.Spool) *keeper {
	t.Helper()
	k := &keeper{times: map[uint64]int{}, mark: wire.CommitMark{Cluster: cluster, Node: "n1", Spool: sp.ID()}}
	c, err := r.js.CreateOrUpdateConsumer(t.Context(), broker.NodeStream(0), jetstream.ConsumerConfig{Durable: "keeper", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	cc, err := c.Consume(func(m jetstream.Msg) {
		seq := binary.BigEndian.Uint64(m.Data())
		k.mu.Lock()
		defer k.mu.Unlock()
		_ = m.Ack() // a repeat does no harm here
		if k.drop == seq {
			k.drop = 0
			return
		}
		k.order = append(k.order, seq)
		k.times[seq]++
		k.mark.Add(seq, seq)
		if !k.quiet.Load() {
			_, _ = r.js.Publish(context.Background(), wire.CommitSubject(cluster, "n1"), wire.AppendCommitMark(nil, &k.mark))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cc.Stop)
	return k
}

func (k *keeper) has() (n int, place map[uint64]int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	place = map[uint64]int{}
	for i, seq := range k.order {
		if _, ok := place[seq]; !ok {
			place[seq] = i
		}
	}
	return len(k.times), place
}

// TestBacklog: after days without a broker, new frames overtake what was left behind; all
// come, and the spool is free at the end.
func TestBacklog(t *testing.T) {
	r := newRig(t)
	sp := newSpool(t, t.TempDir())
	const old, size = 300, 4000
	fat(t, sp, old, size)
	k := r.keep(t, sp)
	s, _ := r.start(t, ship.Config{Spool: sp, Node: "n1", BacklogRate: 400 << 10, BacklogBytes: 64 << 10, BacklogSpread: -1})
	const fresh = 12
	for i := range fresh {
		wait(t, "some of the backlog", func() bool { return s.Stats().BacklogSent > uint64(i*size) })
		if st := s.Stats(); st.BacklogRate == 0 || st.BacklogFrames == 0 || st.BacklogBytes == 0 {
			t.Fatalf("in the backlog: %+v", st)
		}
		fat(t, sp, 1, size)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, place := k.has()
	if n != old+fresh {
		t.Errorf("%d of %d frames came", n, old+fresh)
	}
	for seq := uint64(old + 1); seq <= old+fresh; seq++ {
		if place[seq] > place[old-1] {
			t.Errorf("new frame %d came at place %d, the last old one at %d", seq, place[seq], place[old-1])
		}
	}
	for seq := uint64(2); seq < old; seq++ {
		if place[seq] < place[seq-1] {
			t.Errorf("old frame %d came before %d", seq, seq-1)
		}
	}
	wait(t, "the end of the backlog", func() bool { return s.Stats().BacklogRate == 0 })
	if st, of := s.Stats(), sp.Stats(); st.BacklogFrames != 0 || st.Resent != 0 || st.Errors != 0 || st.Published != old+fresh || st.LiveLagMs != 0 || of.UncommittedFrames != 0 || len(sp.Gaps()) != 0 {
		t.Errorf("%+v, %+v", st, of)
	}
	if sp.Committed() != old+fresh || sp.Acked() != old+fresh {
		t.Errorf("acked %d, committed %d", sp.Acked(), sp.Committed())
	}
}

// TestBacklogWaitsForCollector: without commit marks a backlog stops at its bound, whatever
// the broker takes, and new frames go on.
func TestBacklogWaitsForCollector(t *testing.T) {
	r := newRig(t)
	sp := newSpool(t, t.TempDir())
	const old, size, ahead = 300, 4000, 40_000
	fat(t, sp, old, size)
	k := r.keep(t, sp)
	k.quiet.Store(true)
	s, _ := r.start(t, ship.Config{Spool: sp, Node: "n1", BacklogRate: 100 << 20, BacklogBytes: 64 << 10, BacklogAhead: ahead, BacklogSpread: -1, AskAfter: 20 * time.Millisecond})
	wait(t, "the bound", func() bool { return s.Stats().BacklogSent >= ahead })
	for range 20 { // one by one: many at once would be a backlog themselves
		fat(t, sp, 1, size)
		wait(t, "a new frame", func() bool { return s.Stats().LiveLagMs == 0 && sp.Stats().UnackedFrames < old })
	}
	if st := s.Stats(); st.BacklogSent > ahead+size {
		t.Errorf("%d bytes of the backlog were sent without a mark", st.BacklogSent)
	}
	k.quiet.Store(false)
	fat(t, sp, 1, size) // and its mark tells of all before
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, _ := k.has(); n != old+21 || s.Stats().Resent != 0 {
		t.Errorf("%d frames came, %+v", n, s.Stats())
	}
}

// TestBacklogRestart: a ship that ends in the midst of a backlog goes on, and repeats no more
// than what was not committed.
func TestBacklogRestart(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	sp := newSpool(t, dir)
	const old, size = 200, 4000
	fat(t, sp, old, size)
	k := r.keep(t, sp)
	cfg := ship.Config{Node: "n1", BacklogRate: 1 << 20, BacklogBytes: 64 << 10, BacklogSpread: -1}
	for i := range 4 {
		cfg.Spool = sp
		s, stop := r.start(t, cfg)
		fat(t, sp, 3, size)
		wait(t, "some of the backlog", func() bool { return s.Stats().BacklogSent >= 20*size })
		stop()
		if err := sp.Close(); err != nil {
			t.Fatal(err)
		}
		sp = newSpool(t, dir)
		if len(sp.Gaps()) > 0 || sp.NextSequence() != uint64(old+3*(i+1)+1) {
			t.Fatalf("gaps %+v, next %d", sp.Gaps(), sp.NextSequence())
		}
	}
	cfg.Spool = sp
	s, _ := r.start(t, cfg)
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, _ := k.has(); n != old+12 {
		t.Errorf("%d of %d frames came", n, old+12)
	}
}

// TestLostBetween: a frame that the broker acknowledged and lost is sent again, though what
// comes after it is stored all the time; nothing else is.
func TestLostBetween(t *testing.T) {
	r := newRig(t)
	sp := newSpool(t, t.TempDir())
	k := r.keep(t, sp)
	k.mu.Lock()
	k.drop = 5
	k.mu.Unlock()
	s, _ := r.start(t, ship.Config{Spool: sp, Node: "n1", ResendAfter: 400 * time.Millisecond, AskAfter: 10 * time.Second, BacklogRate: 1 << 20, BacklogSpread: -1})
	fat(t, sp, 10, 100)
	wait(t, "the lost one", func() bool {
		fat(t, sp, 1, 100) // every few milliseconds
		return sp.Committed() >= 10
	})
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.times[5] != 1 || s.Stats().Resent == 0 || s.Stats().Resent > 20 {
		t.Errorf("frame 5 came %d times to the store, %+v", k.times[5], s.Stats())
	}
}

// TestTooLarge: a frame that the broker can never take stands in nobody's way, stays in the
// spool, and is told.
func TestTooLarge(t *testing.T) {
	r := newRig(t)
	sp := newSpool(t, t.TempDir())
	put(t, sp, 2)
	fat(t, sp, 1, 12<<20)
	fat(t, sp, 1, wire.MaxFrameBytes+8000) // past the stream's bound, perhaps not the broker's
	put(t, sp, 2)
	s, _ := r.start(t, ship.Config{Spool: sp, Node: "n1", ParkFor: 50 * time.Millisecond})
	wait(t, "the others", func() bool { return s.Stats().Acked >= 4 })
	wait(t, "another try", func() bool { return s.Stats().Refused[ship.TroubleTooLarge] >= 4 })
	if got := r.pull(t, 4); strings.Join(got, ",") != "frame 1,frame 2,frame 5,frame 6" {
		t.Errorf("got %v", got)
	}
	if st := s.Stats(); st.Parked != 2 && st.Parked != 0 || sp.Acked() != 2 || sp.Stats().UnackedFrames != 2 {
		t.Errorf("%+v, acked %d", st, sp.Acked())
	}
}

// logged counts lines.
type logged struct {
	io.Writer
	lines atomic.Int64
}

func (l *logged) Write(p []byte) (int, error) {
	l.lines.Add(int64(bytes.Count(p, []byte("\n"))))
	return l.Writer.Write(p)
}

// TestRefusals: what the broker refuses is named, backed off from, and logged once.
func TestRefusals(t *testing.T) {
	t.Run("no stream", func(t *testing.T) {
		nc, _ := testenv.NATS(t)
		js, err := ship.JetStream(nc)
		if err != nil {
			t.Fatal(err)
		}
		refused(t, &rig{nc, js}, ship.TroubleNoStream)
	})
	t.Run("full", func(t *testing.T) {
		nc, _ := testenv.NATS(t)
		js, err := ship.JetStream(nc)
		if err != nil {
			t.Fatal(err)
		}
		if err := broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{MaxBytes: 200}); err != nil {
			t.Fatal(err)
		}
		refused(t, &rig{nc, js}, ship.TroubleFull)
	})
	t.Run("denied", func(t *testing.T) {
		opts := &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
			Users: []*server.User{{Username: "n1", Password: "n1", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"nothing"}}}}}}
		srv, err := server.NewServer(opts)
		if err != nil {
			t.Fatal(err)
		}
		srv.Start()
		t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
		nc, err := nats.Connect(srv.ClientURL(), nats.UserInfo("n1", "n1"), nats.RetryOnFailedConnect(true), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(100*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		refused(t, &rig{nc, js}, ship.TroubleDenied)
	})
	t.Run("no broker", func(t *testing.T) {
		srv, err := natsd.StartServer(t.Context(), natsd.ServerConfig{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		nc, err := broker.Connect(broker.ConnectConfig{URL: srv.URL(), Name: "n1"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(100*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		if err := srv.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		wait(t, "the connection to end", func() bool { return !nc.IsConnected() })
		refused(t, &rig{nc, js}, ship.TroubleNoBroker)
	})
}

func refused(t *testing.T, r *rig, want ship.Trouble) {
	t.Helper()
	sp := newSpool(t, t.TempDir())
	put(t, sp, 30)
	out := &logged{Writer: t.Output()}
	s, stop := r.start(t, ship.Config{Spool: sp, Node: "n1", BackoffMin: 20 * time.Millisecond, BackoffMax: 40 * time.Millisecond, Log: slog.New(slog.NewTextHandler(out, nil))})
	wait(t, string(want), func() bool { return s.Stats().Refused[want] >= 5 })
	stop()
	st := s.Stats()
	if st.Trouble != want || !strings.Contains(st.Reason, ": ") || st.SinceMs == 0 {
		t.Errorf("%+v", st)
	}
	if n := out.lines.Load(); n > 2 {
		t.Errorf("%d lines in the log for %d errors", n, st.Errors)
	}
	if st.Published > 17*(st.Errors+1) {
		t.Errorf("%d published for %d errors", st.Published, st.Errors)
	}
}

// TestFleetComesBack: many nodes with backlogs keep to the bound of each while nothing is
// stored, and all is stored in the end.
func TestFleetComesBack(t *testing.T) {
	r := newRig(t)
	const nodes, old, size, ahead = 20, 60, 2000, 8000
	var ships []*ship.Ship
	var spools []*spool.Spool
	for i := range nodes {
		sp := newSpool(t, t.TempDir())
		fat(t, sp, old, size)
		s, _ := r.start(t, ship.Config{Spool: sp, Node: "n" + string(rune('a'+i)), BacklogRate: 50 << 20, BacklogBytes: 10_000, BacklogAhead: ahead, BacklogSpread: 50 * time.Millisecond})
		ships, spools = append(ships, s), append(spools, sp)
	}
	for i, s := range ships {
		wait(t, "the bound", func() bool { return s.Stats().BacklogSent >= ahead })
		if sent := s.Stats().BacklogSent; sent > ahead+size {
			t.Errorf("node %d sent %d bytes of its backlog", i, sent)
		}
	}
	for i, s := range ships {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Drain(ctx) }()
		for ended := false; !ended; {
			sp := spools[i]
			m := wire.CommitMark{Node: "n" + string(rune('a'+i)), Spool: sp.ID(), Through: sp.Acked(), Ranges: []wire.SequenceRange{{From: old, To: old}}}
			if m.Through >= old-1 {
				m.Through, m.Ranges = old, nil
			}
			r.publishMark(t, m)
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				ended = true
			case <-time.After(2 * time.Millisecond):
			}
		}
		cancel()
	}
	stream, err := r.js.Stream(t.Context(), broker.NodeStream(0))
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Msgs != nodes*old {
		t.Errorf("%d messages, want %d", info.State.Msgs, nodes*old)
	}
}

// TestSpoolAway: what cannot be read of the spool is told for what it is.
func TestSpoolAway(t *testing.T) {
	r := newRig(t)
	sp := newSpool(t, t.TempDir())
	put(t, sp, 1)
	if err := sp.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := ship.New(ship.Config{Conn: r.nc, JetStream: r.js, Spool: sp, Cluster: cluster, Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
