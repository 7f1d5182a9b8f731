package e2e_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// loser is a host with a real spool and recorder that loses telemetry in its own way.
type loser struct {
	t    *testing.T
	js   jetstream.JetStream
	name string
	cfg  spool.Config
	sp   *spool.Spool
	rec  *agent.Recorder
	key  ed25519.PrivateKey

	wallMs, bootMs int64
	tick, missed   uint64
	sealed         uint64
	ticks          *agent.TickFile // nil: its agents are not killed
}

func (l *loser) open() {
	l.t.Helper()
	var err error
	if l.sp, err = spool.Open(l.cfg); err != nil {
		l.t.Fatal(err)
	}
	l.rec, err = agent.NewRecorder(agent.RecorderConfig{Cluster: "losses", Node: l.name, Spool: l.sp, Privacy: agent.ClearPrivacy(), BootID: "boot", Key: l.key, Ticks: l.ticks,
		Clock: func() (int64, int64) { return l.wallMs, l.bootMs }})
	if err != nil {
		l.t.Fatal(err)
	}
}

// seal seals n batches of ten ticks of a second each. skip ticks before each are given up by the
// agent, and missed pass without a sample.
func (l *loser) seal(n int, skip, missed uint64) {
	l.t.Helper()
	for range n {
		first := l.tick + 1 + skip
		l.tick += 10 + skip
		l.missed += missed
		l.wallMs, l.bootMs = l.wallMs+int64(10+skip)*1000, l.bootMs+int64(10+skip)*1000
		rows := wire.NewBuilder(wire.KindHost, wire.SourceProcfs)
		for i := range int64(10) {
			rows.Begin()
			rows.SetInt(1, l.wallMs-9000+i*1000)
			rows.SetInt(11, i)
			if err := rows.End(); err != nil {
				l.t.Fatal(err)
			}
		}
		l.rec.TickTo(first, l.tick, l.missed)
		if _, err := l.rec.Seal(0, *rows.Build()); err != nil {
			l.t.Fatal(err)
		}
		l.sealed++
	}
}

// ship publishes what the spool has from a sequence on, but for some.
func (l *loser) ship(from uint64, but ...uint64) {
	l.t.Helper()
	r := l.sp.Read(from)
	for {
		seq, frame, err := r.Next(nil)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			l.t.Fatal(err)
		}
		lost := false
		for _, b := range but {
			lost = lost || b == seq
		}
		if lost {
			continue
		}
		if _, err = l.js.Publish(l.t.Context(), wire.NodeSubject("losses", l.name), frame); err != nil {
			l.t.Fatal(err)
		}
	}
}

// TestLosses: whatever a host loses is accounted for, by its reason: ticks due are stored, missed, given
// up or lost, and batches that were sealed are stored, in quarantine, given up, conflicting or missing.
// What a check of the chains finds and the view of hours agree.
func TestLosses(t *testing.T) {
	address, user, password := testenv.ClickHouse(t)
	cfg := store.Config{URL: address, User: user, Password: password, Database: fmt.Sprintf("losses_%d", os.Getpid())}
	st, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cerr := st.Close(); cerr != nil {
			t.Error(cerr)
		}
	})
	if err = st.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	nc, _ := testenv.NATS(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{LeaseTTL: time.Second}); err != nil {
		t.Fatal(err)
	}
	c, err := collector.Open(t.Context(), collector.Config{Conn: nc, Store: st, Partitions: collector.Partitions(1), Instance: "losses", Log: slog.New(slog.DiscardHandler), Linger: 50 * time.Millisecond, CheckEvery: -1})
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

	// Everything is sealed in one hour that is over.
	start := time.Now().UTC().Truncate(time.Hour).Add(-3 * time.Hour).UnixMilli()
	seed := byte(0)
	host := func(name string, change func(*spool.Config)) *loser {
		seed++
		l := &loser{t: t, js: js, name: name, wallMs: start, bootMs: 1000, key: ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+seed)), 32)))}
		l.cfg = spool.Config{Dir: filepath.Join(t.TempDir(), name), FS: durable.NoSync(durable.OS{}), MinFree: -1}
		if change != nil {
			change(&l.cfg)
		}
		l.open()
		t.Cleanup(func() { _ = l.sp.Close() })
		return l
	}
	small := func(cfg *spool.Config) { cfg.MaxBytes = 8192 }

	whole := host("whole", nil)
	whole.seal(6, 0, 0)
	whole.ship(1)

	full := host("full", small)
	full.seal(40, 0, 0)
	full.ship(1)

	now := time.UnixMilli(start)
	aged := host("aged", func(cfg *spool.Config) {
		small(cfg)
		cfg.MaxAge = time.Minute
		cfg.Now = func() time.Time { return now }
	})
	aged.seal(12, 0, 0)
	now = now.Add(time.Hour)
	aged.seal(2, 0, 0)
	aged.ship(1)

	free := int64(1 << 40)
	disk := host("disk", func(cfg *spool.Config) {
		cfg.MaxBytes, cfg.SegmentBytes, cfg.MinFree = 1<<20, 4096, 1<<20
		cfg.Free = func(string) (int64, int64, error) { return free, 1 << 40, nil }
	})
	disk.seal(30, 0, 0)
	free = 0
	disk.seal(30, 0, 0)
	free = 1 << 40
	disk.seal(1, 0, 0) // it tells of the last that gave way
	disk.ship(1)

	corrupt := host("corrupt", nil)
	corrupt.seal(6, 0, 0)
	if err = corrupt.sp.Close(); err != nil {
		t.Fatal(err)
	}
	damage(t, corrupt.cfg.Dir)
	corrupt.open()
	corrupt.seal(1, 0, 0)
	corrupt.ship(1)

	memory := host("memory", nil)
	memory.seal(2, 0, 0)
	memory.seal(1, 25, 0) // the spool took nothing for so long
	memory.seal(1, 0, 4)  // suspended
	memory.ship(1)

	// killed: an agent that has sealed 20 ticks noted 7 more; another goes on behind them, from 1 by its own count.
	killed := host("killed", nil)
	reopen := func() {
		if err = killed.sp.Close(); err != nil {
			t.Fatal(err)
		}
		killed.open() // for its id
		if killed.ticks, err = agent.OpenTickFile(filepath.Join(killed.cfg.Dir, "..", "ticks"), "boot", killed.sp.ID()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = killed.ticks.Close() })
		if err = killed.sp.Close(); err != nil {
			t.Fatal(err)
		}
		killed.open()
		killed.tick, killed.missed = 0, 0
	}
	reopen()
	killed.seal(2, 0, 1)
	killed.rec.TickTo(21, 27, 2) // and is killed: nothing of it is sealed
	reopen()
	killed.seal(2, 0, 1)
	killed.tick += 27 // by all of its agents' count
	killed.ship(1)

	refused := host("refused", nil)
	refused.seal(2, 0, 0)
	right := refused.wallMs
	refused.wallMs = time.Now().Add(2 * time.Hour).UnixMilli()
	refused.seal(1, 0, 0)
	refused.wallMs = right + 10_000
	refused.seal(2, 0, 0)
	refused.ship(1)

	putback := host("putback", nil)
	putback.seal(3, 0, 0)
	if err = putback.sp.Close(); err != nil {
		t.Fatal(err)
	}
	snapshot := filepath.Join(t.TempDir(), "snapshot")
	if err = os.CopyFS(snapshot, os.DirFS(putback.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	putback.open()
	putback.seal(2, 0, 0)
	putback.ship(1)
	if err = putback.sp.Close(); err != nil {
		t.Fatal(err)
	}
	putback.cfg.Dir = snapshot
	putback.open()
	putback.seal(2, 0, 0) // 4 and 5 once more
	putback.ship(4)

	missing := host("missing", nil)
	missing.seal(6, 0, 0)
	missing.ship(1, 3, 4)

	waiting, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	if err = c.WaitIdle(waiting); err != nil {
		t.Fatal(err)
	}
	checker := chain.NewChecker(chain.CheckConfig{Store: st})
	at := time.Now().Add(2 * time.Hour).UnixMilli()
	if err = checker.Pass(t.Context(), at, time.Now); err != nil {
		t.Fatal(err)
	}
	hours, err := st.NodeHours(t.Context(), "losses", nil, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]store.NodeHour{}
	for _, h := range hours {
		s := sums[h.Node]
		s.Stored, s.Rows, s.Ticks, s.Quarantined, s.Missing, s.Conflicting = s.Stored+h.Stored, s.Rows+h.Rows, s.Ticks+h.Ticks, s.Quarantined+h.Quarantined, s.Missing+h.Missing, s.Conflicting+h.Conflicting
		s.LostFull, s.LostAge, s.LostCorrupt, s.LostDisk = s.LostFull+h.LostFull, s.LostAge+h.LostAge, s.LostCorrupt+h.LostCorrupt, s.LostDisk+h.LostDisk
		s.TicksDue, s.TicksMissed, s.TicksGivenUp, s.TicksLost = s.TicksDue+h.TicksDue, s.TicksMissed+h.TicksMissed, s.TicksGivenUp+h.TicksGivenUp, s.TicksLost+h.TicksLost
		sums[h.Node] = s
	}
	losses, err := st.Losses(t.Context(), store.AsOf{Cluster: "losses"})
	if err != nil {
		t.Fatal(err)
	}
	lost := map[string]map[string]store.Loss{}
	for _, l := range losses {
		if lost[l.Node] == nil {
			lost[l.Node] = map[string]store.Loss{}
		}
		s := lost[l.Node][l.Reason]
		s.Batches, s.Ticks = s.Batches+l.Batches, s.Ticks+l.Ticks
		lost[l.Node][l.Reason] = s
		if l.FromMs > l.ToMs || l.FromMs < start-60_000 || l.Reason != chain.LossConflict && l.ToMs > start+store.HourMs {
			t.Errorf("%s: lost from %d to %d, the hour begins at %d", l.Node, l.FromMs, l.ToMs, start)
		}
	}
	checks, err := st.ChainHours(t.Context(), "losses", "", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	status := map[string]string{}
	for _, h := range checks {
		status[h.Node] = h.Status + " " + strings.Join(h.Reasons, ",")
	}
	for _, k := range []struct {
		host   *loser
		status string
		reason string
		count  func(store.NodeHour) uint64 // of batches that are lost for it
		least  uint64
	}{
		{whole, "verified ", "", func(store.NodeHour) uint64 { return 0 }, 0},
		{full, "verified ", chain.LossBytes, func(h store.NodeHour) uint64 { return h.LostFull }, 5},
		{aged, "verified ", chain.LossAge, func(h store.NodeHour) uint64 { return h.LostAge }, 3},
		{disk, "verified ", chain.LossDisk, func(h store.NodeHour) uint64 { return h.LostDisk }, 5},
		{corrupt, "verified ", chain.LossCorrupt, func(h store.NodeHour) uint64 { return h.LostCorrupt }, 1},
		{memory, "verified ", chain.LossMemory, func(store.NodeHour) uint64 { return 0 }, 0},
		{killed, "verified ", chain.LossMemory, func(store.NodeHour) uint64 { return 0 }, 0},
		{refused, "verified ", chain.LossQuarantine, func(h store.NodeHour) uint64 { return h.Quarantined }, 1},
		{putback, "broken content", chain.LossConflict, func(h store.NodeHour) uint64 { return h.Conflicting }, 2},
		{missing, "incomplete missing", chain.LossMissing, func(h store.NodeHour) uint64 { return uint64(h.Missing) }, 2},
	} {
		h, name := sums[k.host.name], k.host.name
		n := k.count(h)
		if n < k.least || h.Stored+n != k.host.sealed {
			t.Errorf("%s: %d sealed, %d stored, %d lost: %+v", name, k.host.sealed, h.Stored, n, h)
		}
		if h.Rows != 10*h.Stored {
			t.Errorf("%s: %d rows of %d batches", name, h.Rows, h.Stored)
		}
		if h.TicksDue != h.Ticks+h.TicksMissed+h.TicksGivenUp+h.TicksLost || k.host != putback && k.host != corrupt && h.TicksDue != int64(k.host.tick) {
			t.Errorf("%s: %d ticks due, %d by the host: %+v", name, h.TicksDue, k.host.tick, h)
		}
		if status[name] != k.status {
			t.Errorf("%s: the check says %q, want %q", name, status[name], k.status)
		}
		for reason, l := range lost[name] {
			if reason != k.reason || l.Batches != n || reason != chain.LossConflict && l.Ticks != uint64(h.TicksGivenUp+h.TicksLost) {
				t.Errorf("%s: lost for %s: %+v, the view says %d batches, %d ticks", name, reason, l, n, h.TicksGivenUp+h.TicksLost)
			}
		}
		if len(lost[name]) == 0 && k.reason != "" {
			t.Errorf("%s: no loss for %s", name, k.reason)
		}
	}
	if h := sums["memory"]; h.TicksGivenUp != 25 || h.TicksMissed != 4 || h.Ticks != 36 || h.TicksLost != 0 {
		t.Errorf("memory: %+v", h)
	}
	if h := sums["killed"]; h.TicksGivenUp != 7 || h.TicksMissed != 4 || h.Ticks != 36 || h.TicksLost != 0 {
		t.Errorf("killed: %+v", h)
	}

	// The same by the check's own count, which no question has to read batches for.
	for name, f := range fleetHours(t, cfg) {
		h := sums[name]
		if f.stored != h.Stored || f.due != h.TicksDue || f.ticks != h.Ticks || f.missed != h.TicksMissed {
			t.Errorf("%s: by the view of the fleet %+v, by that of hosts %+v", name, f, h)
		}
		for reason, l := range lost[name] {
			if f.batches[reason] != l.Batches || f.lost[reason] != l.Ticks {
				t.Errorf("%s: by the view of the fleet %+v is lost, want %s: %+v", name, f, reason, l)
			}
		}
		if len(f.batches) != len(lost[name]) {
			t.Errorf("%s: lost %v, want %v", name, f.batches, lost[name])
		}
		delete(sums, name)
	}
	if len(sums) > 0 {
		t.Errorf("the view of the fleet lacks %v", sums)
	}

	// What was missing comes after all, and the next check knows it.
	missing.ship(3, 5, 6)
	if err = c.WaitIdle(waiting); err != nil {
		t.Fatal(err)
	}
	if err = chain.NewChecker(chain.CheckConfig{Store: st}).Pass(t.Context(), at, time.Now); err != nil {
		t.Fatal(err)
	}
	after, err := st.Losses(t.Context(), store.AsOf{Cluster: "losses"})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range after {
		if l.Node == "missing" {
			t.Errorf("still lost: %+v", l)
		}
	}
	if checks, err = st.ChainHours(t.Context(), "losses", "missing", 0, 0); err != nil || len(checks) == 0 || checks[0].Status != chain.StatusVerified || checks[0].Missing != 0 {
		t.Errorf("%+v, %v", checks, err)
	}
}

// damage overwrites a part of the oldest segment.
func damage(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	copy(b[len(b)/2:], "damaged on the disk")
	if err = os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// fleetHour is a host's row of v_fleet_hours, or the sum of them.
type fleetHour struct {
	stored             uint64
	due, ticks, missed int64
	batches, lost      map[string]uint64
}

func fleetHours(t *testing.T, cfg store.Config) map[string]fleetHour {
	t.Helper()
	u, err := url.Parse(cfg.URL)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{u.Host}, Protocol: clickhouse.HTTP, Auth: clickhouse.Auth{Username: cfg.User, Password: cfg.Password, Database: cfg.Database}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	rows, err := conn.Query(t.Context(), "SELECT toString(node), sum(batches_stored), sum(assumeNotNull(ticks_due)), sum(assumeNotNull(ticks_stored)), sum(assumeNotNull(ticks_missed)), sumMap(lost_batches), sumMap(lost_ticks) FROM v_fleet_hours GROUP BY node")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	out := map[string]fleetHour{}
	for rows.Next() {
		var name string
		var f fleetHour
		if err = rows.Scan(&name, &f.stored, &f.due, &f.ticks, &f.missed, &f.batches, &f.lost); err != nil {
			t.Fatal(err)
		}
		out[name] = f
	}
	if err = rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}
