package e2e_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// TestDaysOffline: a host that was away for long, whose spool gave frames up and whose wall
// clock was stepped meanwhile, comes back. What is new overtakes the backlog; agent and
// collector are restarted in the midst of it. At the end the store has every frame that the
// spool kept once, the chain of digests holds, and the step shows in the rows.
func TestDaysOffline(t *testing.T) {
	const fleet, host, gpus, rows = "offline", "away", 8, 10
	url, user, password := testenv.ClickHouse(t)
	st, err := store.Open(t.Context(), store.Config{URL: url, User: user, Password: password, Database: fmt.Sprintf("offline_%d", os.Getpid())})
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
	lg := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	nc, _ := testenv.NATS(t)
	js, err := ship.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{LeaseTTL: time.Second}); err != nil {
		t.Fatal(err)
	}

	// The host, days ago; its wall clock runs 90 minutes late until batch 1990 is half full.
	const stepMs, stepAt, stepRow = 90 * 60_000, 1990, 5
	wall := time.Now().Add(-72 * time.Hour).UnixMilli()
	boot := int64(5_000_000)
	dir := filepath.Join(t.TempDir(), "spool")
	var sp *spool.Spool
	var rec *agent.Recorder
	open := func() {
		t.Helper()
		if sp, err = spool.Open(spool.Config{Dir: dir, FS: durable.NoSync(durable.OS{}), MaxBytes: 600 << 10, SegmentBytes: 16 << 10}); err != nil {
			t.Fatal(err)
		}
		rec, err = agent.NewRecorder(agent.RecorderConfig{Cluster: fleet, Node: host, Spool: sp, Privacy: agent.ClearPrivacy(), BootID: "boot",
			Clock: func() (int64, int64) { return wall, boot }})
		if err != nil {
			t.Fatal(err)
		}
	}
	noise := uint64(1)
	seal := func(n int) {
		t.Helper()
		for range n {
			b := wire.NewBuilder(wire.KindGPU, wire.SourceNVML)
			for r := range rows {
				if sp.NextSequence() == stepAt && r == stepRow {
					wall += stepMs
				}
				for g := range int64(gpus) {
					b.Begin()
					b.SetInt(1, wall)
					b.SetStr(2, fmt.Sprintf("GPU-%d", g))
					b.SetInt(3, g)
					b.SetInt(4, boot)
					noise ^= noise << 13
					noise ^= noise >> 7
					noise ^= noise << 17
					b.SetInt(12, int64(noise%700_000))
					if berr := b.End(); berr != nil {
						t.Fatal(berr)
					}
				}
				wall, boot = wall+1000, boot+1000
			}
			if _, serr := rec.Seal(0, *b.Build()); serr != nil {
				t.Fatal(serr)
			}
		}
	}
	open()
	const old = 2000
	seal(old)
	if lost := sp.Gaps(); len(lost) != 1 || lost[0].From != 1 || lost[0].Reason != spool.ReasonBytes {
		t.Fatalf("gave up %+v", lost)
	}

	collect := func() (stop func()) {
		c, cerr := collector.Open(t.Context(), collector.Config{Conn: nc, Store: st, Partitions: collector.Partitions(broker.EmbeddedPartitions), Instance: "offline", Log: lg,
			Linger: 50 * time.Millisecond, MaxMessages: 40, Batch: batch.Config{}})
		if cerr != nil {
			t.Fatal(cerr)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var g errgroup.Group
		g.Go(func() error { return c.Run(ctx) })
		return func() {
			cancel()
			if gerr := g.Wait(); gerr != nil && !errors.Is(gerr, context.Canceled) {
				t.Error(gerr)
			}
		}
	}
	send := func() (sh *ship.Ship, stop func()) {
		sh, serr := ship.New(ship.Config{Conn: nc, JetStream: js, Spool: sp, Cluster: fleet, Node: host, Log: lg,
			BacklogRate: 400 << 10, BacklogBytes: 32 << 10, BacklogAhead: 64 << 10, BacklogSpread: -1})
		if serr != nil {
			t.Fatal(serr)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var g errgroup.Group
		g.Go(func() error { return sh.Run(ctx) })
		return sh, func() {
			cancel()
			if gerr := g.Wait(); gerr != nil {
				t.Error(gerr)
			}
		}
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		deadline := time.NewTimer(time.Minute)
		defer deadline.Stop()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for !ok() {
			select {
			case <-tick.C:
			case <-deadline.C:
				t.Fatalf("waited in vain: %s", what)
			}
		}
	}

	stopCollector := collect()
	overtaken := false
	for range 3 {
		sh, stop := send()
		for range 5 {
			at := sh.Stats().BacklogSent
			until("some of the backlog", func() bool { s := sh.Stats(); return s.BacklogSent > at || s.BacklogFrames == 0 })
			seal(1)
		}
		until("the new frames to be stored", func() bool { return sp.IsCommitted(sp.Synced()) })
		overtaken = overtaken || sp.Committed() < sp.Synced()
		stopCollector() // with messages in hand, perhaps
		stop()
		if err = sp.Close(); err != nil {
			t.Fatal(err)
		}
		open()
		stopCollector = collect()
	}
	sh, stop := send()
	if err = sh.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	seal(1) // carries what is still to be told
	if err = sh.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	stopCollector()
	if !overtaken {
		t.Error("no new frame was stored before the backlog was")
	}
	if g := sp.Gaps(); len(g) != 0 {
		t.Errorf("gaps that were not told: %+v", g)
	}
	id := sp.ID()
	total := sp.NextSequence() - 1
	if err = sp.Close(); err != nil {
		t.Fatal(err)
	}

	// Every frame that was kept, once, and nothing else.
	got, err := st.BatchesAfter(t.Context(), fleet, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	have := map[uint64]store.BatchRow{}
	for _, b := range got {
		if _, twice := have[b.Sequence]; twice {
			t.Errorf("batch %d is stored twice", b.Sequence)
		}
		have[b.Sequence] = b
	}
	key := store.SpoolKey{Cluster: fleet, Node: host, Spool: hex.EncodeToString(id[:])}
	handled, err := st.Handled(t.Context(), []store.SpoolKey{key})
	if err != nil {
		t.Fatal(err)
	}
	givenUp := handled[key].GivenUp
	missing := 0
	for q := uint64(1); q <= total; q++ {
		b, ok := have[q]
		if !ok {
			missing++
			if !slices.ContainsFunc(givenUp, func(r store.SequenceRange) bool { return r.From <= q && q <= r.To }) {
				t.Errorf("batch %d is neither stored nor given up: %v", q, givenUp)
			}
			continue
		}
		if before, ok := have[q-1]; ok && b.PrevDigest != before.Digest {
			t.Errorf("the chain is broken between %d and %d", q-1, q)
		}
	}
	if len(have)+missing != int(total) || missing == 0 {
		t.Errorf("%d stored, %d given up, %d taken", len(have), missing, total)
	}
	raw, distinct, err := st.Count(t.Context(), store.TableGPUSamples)
	if want := uint64(len(have) * gpus * rows); err != nil || raw != want || distinct != want {
		t.Errorf("%d rows, %d distinct, %d taken: %v", raw, distinct, want, err)
	}
	t.Logf("%d batches stored out of order, %d given up, %d rows = distinct = taken", len(have), missing, raw)

	// The step shows in the rows of the batch that it fell into: the two clocks part there.
	if _, kept := have[stepAt]; !kept {
		t.Fatalf("batch %d is not there", stepAt)
	}
	offsets := clockOffsets(t, url, user, password, fmt.Sprintf("offline_%d", os.Getpid()))
	if len(offsets) != 2 || offsets[1]-offsets[0] != stepMs {
		t.Errorf("offsets %v", offsets)
	}
}

// clockOffsets are the differences of wall and boot clock in the rows.
func clockOffsets(t *testing.T, url, user, password, database string) (offsets []int64) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(
		"SELECT ts_ms - boot_ms AS offset FROM "+database+".gpu_samples GROUP BY offset ORDER BY offset FORMAT TSV"))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(user, password)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // read to its end
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", res.Status, body, err)
	}
	for line := range strings.Lines(string(body)) {
		n, perr := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		if perr != nil {
			t.Fatal(perr)
		}
		offsets = append(offsets, n)
	}
	return offsets
}
