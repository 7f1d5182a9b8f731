package collector_test

import (
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

const (
	cluster  = "fleet"
	gpus     = 8
	seconds  = 10
	startMs  = int64(1_717_200_000_000) // 2024: long past, as in recordings
	leaseTTL = time.Second
)

// rowsOf is how many rows one batch of newFrame has in each table.
var rowsOf = map[string]uint64{
	store.TableGPUSamples: gpus * seconds, store.TableHostSamples: seconds, store.TableFabricSamples: 2 * seconds, store.TableFlowSamples: 3,
	store.TableProcessEvents: 1, store.TableCollectiveSamples: gpus,
}

func nodeName(n int) string { return fmt.Sprintf("node-%d", n) }

func spoolOf(n int) (id [16]byte) { id[0], id[15] = byte(n+1), 7; return id }

// newFrame is a batch of all kinds of a node. The same arguments give the same bytes.
func newFrame(tb testing.TB, node int, sequence uint64, change func(*wire.Batch)) (b *wire.Batch, frame []byte) {
	tb.Helper()
	from := startMs + int64(sequence-1)*seconds*1000
	build := func(kind wire.Kind, fill func(b *wire.Builder)) wire.Table {
		t := wire.NewBuilder(kind, wire.SourceRecorded)
		fill(t)
		return *t.Build()
	}
	row := func(b *wire.Builder, set func()) {
		b.Begin()
		set()
		if err := b.End(); err != nil {
			tb.Fatal(err)
		}
	}
	b = &wire.Batch{Cluster: cluster, Node: nodeName(node), Spool: spoolOf(node), Sequence: sequence, AvailableMs: from + seconds*1000, Ticks: sequence * seconds}
	b.Tables = []wire.Table{
		build(wire.KindGPU, func(t *wire.Builder) {
			for g := range int64(gpus) {
				for s := range int64(seconds) {
					row(t, func() {
						t.SetInt(1, from+s*1000)
						t.SetStr(2, fmt.Sprintf("GPU-%d-%d", node, g))
						t.SetInt(3, g)
						t.SetInt(10, 9000+s)
						t.SetInt(12, 650_000+s*1000+g)
						t.SetInt(13, (int64(sequence)*seconds+s)*650_000)
						if g%2 == 0 {
							t.SetInt(17, 0) // a measured zero; absent on the others
						}
						t.SetInt(27, 1<<33+s)
					})
				}
			}
		}),
		build(wire.KindHost, func(t *wire.Builder) {
			for s := range int64(seconds) {
				row(t, func() { t.SetInt(1, from+s*1000); t.SetInt(10, 7_000_000); t.SetInt(11, 1234) })
			}
		}),
		build(wire.KindFabric, func(t *wire.Builder) {
			for p := range 2 {
				for s := range int64(seconds) {
					row(t, func() {
						t.SetInt(1, from+s*1000)
						t.SetStr(2, fmt.Sprintf("mlx5_%d", p))
						t.SetStr(3, "infiniband")
						t.SetInt(10, int64(sequence)*1e9+s)
						t.SetInt(11, int64(sequence)*2e9+s)
					})
				}
			}
		}),
		build(wire.KindFlow, func(t *wire.Builder) {
			for p := range 3 {
				row(t, func() { t.SetInt(1, from); t.SetStr(2, nodeName(p)); t.SetInt(10, 4096) })
			}
		}),
		build(wire.KindProcess, func(t *wire.Builder) {
			row(t, func() {
				t.SetInt(1, from)
				t.SetInt(2, int64(1000+sequence))
				t.SetStr(11, "0 1 2 3")
				t.SetStr(12, "python3")
				t.SetInt(18, 16)
			})
		}),
		build(wire.KindCollective, func(t *wire.Builder) {
			for g := range int64(gpus) {
				row(t, func() {
					t.SetInt(1, from)
					t.SetInt(2, 1000)
					t.SetInt(3, g)
					t.SetStr(4, "c0ffee")
					t.SetStr(5, "allreduce")
					t.SetInt(12, 3)
					t.SetInt(13, 1<<30)
				})
			}
		}),
	}
	if change != nil {
		change(b)
	}
	frame, err := wire.AppendBatch(nil, b)
	if err != nil {
		tb.Fatal(err)
	}
	return b, frame
}

// newProviderFrame is a batch of one kind of the provider's facts, one row.
func newProviderFrame(tb testing.TB, kind wire.Kind, sequence uint64) (b *wire.Batch, frame []byte) {
	tb.Helper()
	t := wire.NewBuilder(kind, wire.SourceDeclared)
	t.Begin()
	switch kind {
	case wire.KindInventory:
		t.SetStr(1, nodeName(int(sequence)))
		t.SetStr(11, "NVIDIA H100 80GB HBM3")
		t.SetInt(12, 8)
		t.SetInt(13, 3_200_000)
	case wire.KindAllocation:
		t.SetStr(1, "acct-1")
		t.SetStr(2, nodeName(0))
		t.SetStr(3, "0 1")
		t.SetInt(4, startMs)
		if sequence%2 == 0 {
			t.SetInt(10, startMs+int64(sequence)*60_000)
		}
	default:
		t.SetStr(1, "ord-1")
		t.SetInt(2, startMs+int64(sequence))
		t.SetInt(12, 16)
	}
	if err := t.End(); err != nil {
		tb.Fatal(err)
	}
	spool := [16]byte{0xee, byte(kind)}
	b = &wire.Batch{Cluster: cluster, Spool: spool, Sequence: sequence, AvailableMs: startMs + int64(sequence)*1000, Tables: []wire.Table{*t.Build()}}
	frame, err := wire.AppendBatch(nil, b)
	if err != nil {
		tb.Fatal(err)
	}
	return b, frame
}

// bench is a broker with streams and an engine with a migrated database.
type bench struct {
	nc    *nats.Conn
	url   string
	js    jetstream.JetStream
	store *store.Store
	cfg   store.Config // of store
}

var databases atomic.Int64

func newBench(tb testing.TB) *bench {
	tb.Helper()
	url, user, password := testenv.ClickHouse(tb)
	b := newBroker(tb)
	b.cfg = store.Config{URL: url, User: user, Password: password, Database: fmt.Sprintf("test_%d_%d", os.Getpid(), databases.Add(1))}
	b.store = openStore(tb, b.cfg)
	return b
}

// openStore opens a database with its tables until the test ends.
func openStore(tb testing.TB, cfg store.Config) *store.Store {
	tb.Helper()
	s, err := store.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if cerr := s.Close(); cerr != nil {
			tb.Error(cerr)
		}
	})
	if err := s.Migrate(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return s
}

func newBroker(tb testing.TB) *bench {
	tb.Helper()
	nc, url := testenv.NATS(tb)
	js, err := jetstream.New(nc)
	if err != nil {
		tb.Fatal(err)
	}
	if err := broker.EnsureStreams(tb.Context(), js, broker.StreamsConfig{LeaseTTL: leaseTTL}); err != nil {
		tb.Fatal(err)
	}
	return &bench{nc: nc, url: url, js: js}
}

func (b *bench) publish(tb testing.TB, w *wire.Batch, frame []byte) {
	tb.Helper()
	if _, err := b.js.Publish(tb.Context(), wire.BatchSubject(w), frame, jetstream.WithMsgID(wire.MessageID(w.Node, w.Spool, w.Sequence))); err != nil {
		tb.Fatal(err)
	}
}

func (b *bench) collector(tb testing.TB, instance string, change func(*collector.Config)) *collector.Collector {
	tb.Helper()
	cfg := collector.Config{
		Conn: b.nc, Store: b.store, Partitions: collector.Partitions(1), Instance: instance, Log: slog.New(slog.NewTextHandler(tb.Output(), nil)),
		Linger: 30 * time.Millisecond, Batch: batch.Config{AcceptRecordedAvailability: true},
	}
	if change != nil {
		change(&cfg)
	}
	c, err := collector.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// wantRows holds every raw table to so many batches of newFrame: rows = distinct = taken.
func wantRows(tb testing.TB, s *store.Store, batches uint64) {
	tb.Helper()
	for table, per := range rowsOf {
		raw, distinct, err := s.Count(tb.Context(), table)
		if err != nil {
			tb.Fatal(err)
		}
		if want := batches * per; raw != want || distinct != want {
			tb.Errorf("%s: %d rows, %d distinct, %d taken", table, raw, distinct, want)
		} else {
			tb.Logf("%s: %d rows = distinct = taken", table, raw)
		}
	}
}
