package e2e_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// sealBusy seals a minute of an H100 at work, a row every five seconds, and its ticks of a second.
func (l *loser) sealBusy() {
	l.t.Helper()
	const rows, everyMs = 12, int64(5000)
	first := l.tick + 1
	l.tick += rows * uint64(everyMs) / 1000
	gpu := wire.NewBuilder(wire.KindGPU, wire.SourceNVML)
	for range rows {
		l.wallMs, l.bootMs = l.wallMs+everyMs, l.bootMs+everyMs
		gpu.Begin()
		gpu.SetStr(2, "GPU-1")
		for id, v := range map[uint8]int64{1: l.wallMs, 3: 0, 10: 9800, 12: 640_000, 13: 640 * l.bootMs, 15: 9000, 17: 5000, 26: l.bootMs * 900_000} {
			gpu.SetInt(id, v)
		}
		if err := gpu.End(); err != nil {
			l.t.Fatal(err)
		}
	}
	tables := []wire.Table{*gpu.Build()}
	if l.sealed == 0 {
		device := wire.NewBuilder(wire.KindDevice, wire.SourceNVML)
		device.Begin()
		device.SetInt(1, l.wallMs)
		device.SetStr(2, "GPU-1")
		device.SetInt(3, 0)
		device.SetStr(10, "NVIDIA H100 80GB HBM3")
		device.SetInt(15, 700_000)
		if err := device.End(); err != nil {
			l.t.Fatal(err)
		}
		tables = append(tables, *device.Build())
	}
	l.rec.TickTo(first, l.tick, 0)
	if _, err := l.rec.Seal(0, tables...); err != nil {
		l.t.Fatal(err)
	}
	l.sealed++
}

// TestLossReachesTheVerdict: the broker is away from a host for so long that its spool gives up the oldest batches. The gap goes with
// the next head through the collector into the ledger, the check of the chains makes a loss of it, and the detector, which had found the
// time covered by what the counters say on both sides, takes that back and names what is lost on the run's verdict.
func TestLossReachesTheVerdict(t *testing.T) {
	const minute, fleet = int64(60_000), "losses"
	st := openStore(t)
	nc, _ := testenv.NATS(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{LeaseTTL: time.Second}); err != nil {
		t.Fatal(err)
	}
	c, err := collector.Open(t.Context(), collector.Config{Conn: nc, Store: st, Partitions: collector.Partitions(1), Instance: "verdict", Log: slog.New(slog.DiscardHandler), Linger: 50 * time.Millisecond, CheckEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return c.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		if gerr := g.Wait(); gerr != nil {
			t.Error(gerr)
		}
	})

	start := time.Now().UTC().Truncate(time.Hour).Add(-3 * time.Hour).UnixMilli()
	l := &loser{t: t, js: js, name: "gpu-1", wallMs: start, bootMs: 7_200_000, key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("v", 32)))}
	l.cfg = spool.Config{Dir: filepath.Join(t.TempDir(), "spool"), FS: durable.NoSync(durable.OS{}), MinFree: -1, MaxBytes: 12 << 10, SegmentBytes: 2 << 10}
	l.open()
	t.Cleanup(func() { _ = l.sp.Close() })
	shipped := uint64(0)
	ship := func() {
		t.Helper()
		l.ship(shipped + 1)
		waiting, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		if err := c.WaitIdle(waiting); err != nil {
			t.Fatal(err)
		}
		shipped = l.sealed
		if err := l.sp.Commit(shipped); err != nil {
			t.Fatal(err)
		}
	}
	for l.sealed < 20 {
		l.sealBusy()
		if l.sealed%4 == 0 {
			ship()
		}
	}
	for len(l.sp.Gaps()) == 0 && l.sealed < 60 { // the broker is away
		l.sealBusy()
	}
	gaps := l.sp.Gaps()
	if len(gaps) != 1 || gaps[0].From != 21 || gaps[0].To >= l.sealed {
		t.Fatalf("the spool gave up %+v of %d", gaps, l.sealed)
	}
	gone := gaps[0].To - gaps[0].From + 1
	l.sealBusy() // tells of it
	ship()
	for l.sealed < 90 {
		l.sealBusy()
		if l.sealed%4 == 0 {
			ship()
		}
	}
	ship()

	now := new(atomic.Int64)
	now.Store(time.Now().UnixMilli() + 5*minute) // what came just now is judged as of now
	f, err := detector.NewFollower(detector.Config{Cluster: fleet, ProfileVersion: "p", ConfigDigest: "d", Epoch: 1, WaitMs: minute, Now: time.Now}, detector.LiveConfig{
		BrokerMs: func() (int64, bool) { return now.Load(), true }, Held: func() error { return nil }, Log: slog.New(slog.DiscardHandler), SettleMs: -1, Poll: 10 * time.Millisecond,
	}, st)
	if err != nil {
		t.Fatal(err)
	}
	g.Go(func() error { return f.Run(ctx) })
	verdict := func() (line detector.RunLine) {
		t.Helper()
		tick, limit := time.NewTicker(10*time.Millisecond), time.NewTimer(time.Minute)
		defer tick.Stop()
		defer limit.Stop()
		for f.Status().JudgedUpToMs < now.Load()/minute*minute-minute {
			select {
			case <-tick.C:
			case <-limit.C:
				t.Fatalf("not judged in a minute: %+v", f.Status())
			}
		}
		runs, err := st.LatestRuns(t.Context(), fleet)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for i := range runs {
			if runs[i].SupersededBy != "" {
				continue
			}
			found++
			if err = json.Unmarshal([]byte(runs[i].Doc), &line); err != nil {
				t.Fatal(err)
			}
			if line.CoverageFrac != runs[i].CoverageFrac {
				t.Errorf("coverage %v on the line, %v in the row", line.CoverageFrac, runs[i].CoverageFrac)
			}
		}
		if found != 1 {
			t.Fatalf("%d runs, want one", found)
		}
		return line
	}
	before := verdict()
	if len(before.Lost) != 0 || before.CoverageFrac < 0.99 {
		t.Errorf("nobody has looked at the chain: coverage %v, lost %+v", before.CoverageFrac, before.Lost)
	}

	at := now.Load() + 2*store.HourMs
	if err = chain.NewChecker(chain.CheckConfig{Store: st}).Pass(t.Context(), at, time.Now); err != nil {
		t.Fatal(err)
	}
	losses, err := st.Losses(t.Context(), store.AsOf{Cluster: fleet})
	if err != nil || len(losses) != 1 {
		t.Fatalf("losses %+v, %v", losses, err)
	}
	lost := losses[0]
	if lost.Node != l.name || lost.Reason != chain.LossBytes || lost.FromSequence != 21 || lost.ToSequence != gaps[0].To || lost.Batches != gone || lost.Ticks != 60*gone {
		t.Errorf("the loss is %+v, the spool gave up %+v", lost, gaps[0])
	}
	now.Store(at + 3*minute)
	after := verdict()
	want := detector.LostLine{Reason: chain.LossBytes, Batches: int64(gone), Ticks: int64(60 * gone), Nodes: 1, FromMs: lost.FromMs, ToMs: lost.ToMs}
	if len(after.Lost) != 1 || after.Lost[0] != want {
		t.Errorf("the verdict says %+v, want %+v", after.Lost, want)
	}
	t.Logf("%d of %d minutes lost: coverage %.3f, before %.3f", gone, l.sealed, after.CoverageFrac, before.CoverageFrac)
	share := float64(lost.ToMs-lost.FromMs) / float64(int64(l.sealed)*minute)
	if after.CoverageFrac >= before.CoverageFrac || after.CoverageFrac > 1-share+0.02 || after.CoverageFrac < 1-share-0.05 {
		t.Errorf("coverage %v after %v, where %.3f of the time is lost", after.CoverageFrac, before.CoverageFrac, share)
	}
	if after.Class != before.Class || after.FLOPsModel != before.FLOPsModel {
		t.Errorf("what was measured is judged otherwise: %s %+v, %s %+v", after.Class, after.FLOPsModel, before.Class, before.FLOPsModel)
	}
}
