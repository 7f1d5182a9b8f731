package nats_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/deploy/nats"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

const cluster = "c1"

// fleet is a real server on the shipped configuration.
type fleet struct {
	dir string // of configuration and seeds
	url string
	srv *server.Server
}

func nodeUser(name string) nats.User {
	return nats.User{Role: nats.Node, Cluster: cluster, Name: name}
}

// add makes a key and puts the user in.
func (f *fleet) add(t *testing.T, u nats.User) {
	t.Helper()
	var err error
	if u.Key, err = nats.Key(f.seed(u)); err != nil {
		t.Fatal(err)
	}
	if err = nats.Add(f.dir, u); err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) seed(u nats.User) string {
	return filepath.Join(f.dir, strings.ReplaceAll(u.InboxPrefix(), ".", "-")+".nk")
}

// options reads flopwatch.conf as nats-server does; only ports and the store are a test's.
func (f *fleet) options(t *testing.T, port int) *server.Options {
	t.Helper()
	o, err := server.ProcessConfigFile(filepath.Join(f.dir, "flopwatch.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if o.SyncInterval != 2*time.Minute {
		t.Errorf("sync_interval is read as %v", o.SyncInterval)
	}
	o.Host, o.Port, o.StoreDir, o.NoSigs, o.NoLog = "127.0.0.1", port, filepath.Join(f.dir, "js"), true, true
	return o
}

func newFleet(t *testing.T, users ...nats.User) *fleet {
	t.Helper()
	f := &fleet{dir: t.TempDir()}
	for _, u := range users {
		f.add(t, u)
	}
	srv, err := server.NewServer(f.options(t, server.RANDOM_PORT))
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server is not ready")
	}
	f.srv, f.url = srv, srv.ClientURL()
	return f
}

// conn is a user's connection, and what the server refused to it.
type conn struct {
	*client.Conn
	mu      sync.Mutex
	refused []string
}

func (f *fleet) connect(t *testing.T, u nats.User) *conn {
	t.Helper()
	c := &conn{}
	nc, err := broker.Connect(broker.ConnectConfig{
		URL: f.url, Name: u.InboxPrefix(), NKeyFile: f.seed(u), InboxPrefix: u.InboxPrefix(),
		Options: []client.Option{client.ErrorHandler(func(_ *client.Conn, _ *client.Subscription, err error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.refused = append(c.refused, err.Error())
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	c.Conn = nc
	return c
}

// refusals takes what was refused so far: after a round trip nothing is under way, and the
// handler's goroutine gets a moment where something is expected.
func (c *conn) refusals(t *testing.T, expected bool) string {
	t.Helper()
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	take := func() (s string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		s, c.refused = strings.Join(c.refused, "\n"), nil
		return s
	}
	var got string
	if expected {
		poll(t, "a refusal", func() bool { got = take(); return got != "" })
		return got
	}
	return take()
}

func (c *conn) js(t *testing.T) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(c.Conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func poll(t *testing.T, what string, ok func() bool) {
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

// takeRows makes n batches of a node in a spool, one row each.
func takeRows(t *testing.T, node string, n int) *spool.Spool {
	t.Helper()
	sp, err := spool.Open(spool.Config{Dir: t.TempDir(), FS: durable.NoSync(durable.OS{})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cerr := sp.Close(); cerr != nil {
			t.Error(cerr)
		}
	})
	for range n {
		seq := sp.NextSequence()
		rows := wire.NewBuilder(wire.KindHost, wire.SourceRecorded)
		rows.Begin()
		rows.SetInt(1, 1_717_200_000_000+int64(seq)*1000)
		rows.SetInt(10, 7_000_000)
		if err = rows.End(); err != nil {
			t.Fatal(err)
		}
		frame, err := wire.AppendBatch(nil, &wire.Batch{
			Cluster: cluster, Node: node, Spool: sp.ID(), Sequence: seq, AvailableMs: 1_717_200_000_000 + int64(seq)*1000, Ticks: seq, Tables: []wire.Table{*rows.Build()},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err = sp.Append(seq, frame); err != nil {
			t.Fatal(err)
		}
	}
	if err = sp.Sync(); err != nil {
		t.Fatal(err)
	}
	return sp
}

// background runs f until the test ends, and stops what came first last.
func background(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

var (
	nodeA, nodeB  = nodeUser("a"), nodeUser("b.example.org")
	providerUser  = nats.User{Role: nats.Provider, Cluster: cluster}
	collectorUser = nats.User{Role: nats.Collector}
	detectorUser  = nats.User{Role: nats.Detector}
)

// TestFleetWorks: each user can do its whole job, from the spool to the store and back.
func TestFleetWorks(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	f := newFleet(t, nodeA, nodeB, providerUser, collectorUser, detectorUser)
	ctx := t.Context()
	keeper := f.connect(t, collectorUser)
	js := keeper.js(t)
	for range 2 { // made, and brought up to date
		if err := broker.EnsureStreams(ctx, js, broker.StreamsConfig{Partitions: broker.ClusterPartitions, LeaseTTL: 2 * time.Second}); err != nil {
			t.Fatalf("%v; refused: %s", err, keeper.refusals(t, false))
		}
	}
	st, err := store.Open(ctx, store.Config{URL: url, User: user, Password: password, Database: "fleet"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cerr := st.Close(); cerr != nil {
			t.Error(cerr)
		}
	})
	if err = st.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	c, err := collector.Open(ctx, collector.Config{
		Conn: keeper.Conn, Store: st, Partitions: collector.Partitions(broker.ClusterPartitions), Instance: "test", Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Linger: 20 * time.Millisecond, Batch: batch.Config{AcceptRecordedAvailability: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, c.Run)

	const batches = 5
	var nodes []*conn
	for _, u := range []nats.User{nodeA, nodeB} {
		nc := f.connect(t, u)
		nodes = append(nodes, nc)
		njs, err := ship.JetStream(nc.Conn)
		if err != nil {
			t.Fatal(err)
		}
		sp := takeRows(t, u.Name, batches)
		s, err := ship.New(ship.Config{Conn: nc.Conn, JetStream: njs, Spool: sp, Cluster: cluster, Node: u.Name})
		if err != nil {
			t.Fatal(err)
		}
		background(t, s.Run)
		drain, cancel := context.WithTimeout(ctx, 30*time.Second)
		err = s.Drain(drain)
		cancel()
		if err != nil {
			t.Fatalf("%v; refused: %s; to the collector: %s", err, nc.refusals(t, false), keeper.refusals(t, false))
		}
		// A node that was away asks for its last mark, which may reach the stream after the node.
		var answer *client.Msg
		poll(t, "the last mark", func() bool {
			answer, err = nc.Request("$JS.API.DIRECT.GET."+broker.CommitStream+"."+wire.CommitSubject(cluster, u.Name), nil, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			return answer.Header.Get("Status") == ""
		})
		if m, err := wire.DecodeCommitMark(answer.Data); err != nil || m.Node != u.Name || m.Through != batches {
			t.Errorf("the last mark of %s is %+v, %v", u.Name, m, err)
		}
	}
	if rows, distinct, err := st.Count(ctx, store.TableHostSamples); err != nil || rows != 2*batches || distinct != rows {
		t.Errorf("%d rows, %d distinct, %v", rows, distinct, err)
	}

	provider := f.connect(t, providerUser)
	if ack, err := provider.js(t).Publish(ctx, wire.ProviderSubject(cluster, wire.KindOrder), []byte("no batch")); err != nil || ack.Stream != broker.ProviderStream {
		t.Errorf("provider: %+v, %v", ack, err)
	}

	judge := f.connect(t, detectorUser)
	kv, err := judge.js(t).KeyValue(ctx, broker.BucketLease)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := kv.Status(ctx); err != nil || s.TTL() != 2*time.Second {
		t.Errorf("bucket of leases: %v", err)
	}
	for range 2 { // taken, renewed, given back, and again
		rev, err := kv.Create(ctx, "detector", []byte("me"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = kv.Create(ctx, "detector", []byte("other")); !errors.Is(err, jetstream.ErrKeyExists) {
			t.Errorf("a second holder: %v", err)
		}
		if rev, err = kv.Update(ctx, "detector", []byte("me"), rev); err != nil {
			t.Fatal(err)
		}
		if err = kv.Delete(ctx, "detector", jetstream.LastRevision(rev)); err != nil {
			t.Fatal(err)
		}
	}
	for _, nc := range append(nodes, keeper, provider, judge) {
		if r := nc.refusals(t, false); r != "" {
			t.Errorf("%s was refused: %s", nc.Opts.Name, r)
		}
	}
}

// TestNodeIsItselfAlone: node A cannot speak as node B, nor hear it, nor touch a stream.
func TestNodeIsItselfAlone(t *testing.T) {
	f := newFleet(t, nodeA, nodeB, providerUser, collectorUser, detectorUser)
	ctx := t.Context()
	keeper := f.connect(t, collectorUser)
	js := keeper.js(t)
	if err := broker.EnsureStreams(ctx, js, broker.StreamsConfig{Partitions: broker.ClusterPartitions}); err != nil {
		t.Fatal(err)
	}
	asA, asB := wire.NodeSubject(cluster, nodeA.Name), wire.NodeSubject(cluster, nodeB.Name)
	markA, markB := wire.CommitSubject(cluster, nodeA.Name), wire.CommitSubject(cluster, nodeB.Name)
	b := f.connect(t, nodeB)
	if _, err := b.js(t).Publish(ctx, asB, []byte("of b")); err != nil {
		t.Fatal(err)
	}
	lastMark := wire.AppendCommitMark(nil, &wire.CommitMark{Cluster: cluster, Node: nodeB.Name, Spool: [16]byte{1}, Through: 7})
	if err := keeper.Publish(markB, lastMark); err != nil {
		t.Fatal(err)
	}
	// state is every message that there is, by stream.
	state := func() string {
		var s strings.Builder
		for p := range broker.ClusterPartitions {
			st, err := js.Stream(ctx, broker.NodeStream(p))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&s, "%d:%d/%d ", p, st.CachedInfo().State.Msgs, st.CachedInfo().State.LastSeq)
		}
		for _, name := range []string{broker.ProviderStream, broker.CommitStream, "KV_" + broker.BucketLease, "KV_" + broker.BucketCursor} {
			st, err := js.Stream(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&s, "%s:%d/%d ", name, st.CachedInfo().State.Msgs, st.CachedInfo().State.LastSeq)
		}
		return s.String()
	}
	a := f.connect(t, nodeA)
	partB := broker.NodeStream(wire.Partition(nodeB.Name, broker.ClusterPartitions))
	poll(t, "the mark of b", func() bool { return strings.Contains(state(), broker.CommitStream+":1/1 ") })
	before := state()

	const api = "$JS.API."
	for _, subject := range []string{
		asB, wire.NodeSubject(cluster, "c"), wire.NodeSubject("c2", nodeA.Name), asA + ".x",
		wire.ProviderSubject(cluster, wire.KindOrder), wire.ProviderSubject(cluster, wire.KindInventory),
		markA, markB, "flopwatch.v1.x", b.Opts.InboxPrefix + ".x", a.Opts.InboxPrefix + ".x", "anything",
		api + "DIRECT.GET." + broker.CommitStream + "." + markB, api + "DIRECT.GET." + broker.CommitStream, api + "DIRECT.GET." + partB + "." + asB,
		api + "STREAM.MSG.GET." + partB, api + "STREAM.MSG.DELETE." + partB, api + "STREAM.PURGE." + partB, api + "STREAM.DELETE." + partB,
		api + "STREAM.CREATE.MINE", api + "STREAM.UPDATE." + partB, api + "STREAM.INFO." + partB, api + "STREAM.NAMES", api + "INFO",
		api + "CONSUMER.CREATE." + partB, api + "CONSUMER.CREATE." + partB + ".mine", api + "CONSUMER.DELETE." + partB + ".collector", api + "CONSUMER.MSG.NEXT." + partB + ".collector",
		"$JS.ACK." + partB + ".collector.1.1.1.1.1", "$KV." + broker.BucketLease + ".collector-0", "$KV." + broker.BucketCursor + "." + partB, "$SYS.REQ.SERVER.PING",
	} {
		if err := a.PublishRequest(subject, a.Opts.InboxPrefix+".answer", []byte("of a")); err != nil {
			t.Fatal(err)
		}
		if got := a.refusals(t, true); !strings.Contains(got, subject) {
			t.Errorf("publish to %s: refused is %q", subject, got)
		}
	}
	for _, subject := range []string{
		">", "*", "flopwatch.>", "flopwatch.v1.commit.>", "flopwatch.v1.commit." + cluster + ".*", markB, asA, asB, "_INBOX.>", b.Opts.InboxPrefix + ".>",
		api + ">", "$KV.>", "$SYS.>", "_R_.>", "$JS.EVENT.>",
	} {
		sub, err := a.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.refusals(t, true); !strings.Contains(got, subject) {
			t.Errorf("subscribe to %s: refused is %q", subject, got)
		}
		_ = sub.Unsubscribe() // the server has dropped it already
	}
	if after := state(); after != before {
		t.Errorf("a changed what is stored:\n%s\n%s", before, after)
	}

	// Nor by what the server answers on A's behalf: no answer to A is stored as B's.
	own := 0
	for _, reply := range []string{
		asB, markB, wire.ProviderSubject(cluster, wire.KindOrder), "$KV." + broker.BucketLease + ".collector-0",
		api + "STREAM.PURGE." + partB, api + "STREAM.DELETE." + partB, api + "CONSUMER.DELETE." + partB + ".collector",
	} {
		for _, ask := range []string{asA, api + "DIRECT.GET." + broker.CommitStream + "." + markA} {
			if err := a.PublishRequest(ask, reply, nil); err != nil {
				t.Fatal(err)
			}
		}
		own++
		if r := a.refusals(t, false); r != "" {
			t.Logf("answer to %s: %s", reply, r)
		}
	}
	partA := broker.NodeStream(wire.Partition(nodeA.Name, broker.ClusterPartitions))
	poll(t, "a's own messages", func() bool {
		st, err := js.Stream(ctx, partA)
		if err != nil {
			t.Fatal(err)
		}
		return st.CachedInfo().State.Msgs >= uint64(own)
	})
	// One more round trip through the same stream: what the server was to send, it has sent.
	if _, err := a.js(t).Publish(ctx, asA, nil); err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(before, strings.TrimPrefix(partA, broker.StreamPrefix)+":0/0 ", fmt.Sprintf("%s:%d/%[2]d ", strings.TrimPrefix(partA, broker.StreamPrefix), own+1), 1)
	if after := state(); after != want {
		t.Errorf("answers to a changed what is stored:\n%s\n%s", want, after)
	}
	if got, err := b.Request(api+"DIRECT.GET."+broker.CommitStream+"."+markB, nil, 10*time.Second); err != nil || string(got.Data) != string(lastMark) {
		t.Errorf("the last mark of b is %q, %v", got.Data, err)
	}

	for _, u := range []nats.User{providerUser, detectorUser} {
		c := f.connect(t, u)
		for _, subject := range []string{asA, markA, api + "STREAM.PURGE." + partB, "$KV." + broker.BucketLease + ".collector-0", "$KV." + broker.BucketCursor + "." + partB} {
			if err := c.Publish(subject, nil); err != nil {
				t.Fatal(err)
			}
			if got := c.refusals(t, true); !strings.Contains(got, subject) {
				t.Errorf("%s may publish to %s", u.Role, subject)
			}
		}
	}
	for _, subject := range []string{asA, api + "STREAM.PURGE." + partB, api + "STREAM.DELETE." + partB, wire.ProviderSubject(cluster, wire.KindOrder)} {
		if err := keeper.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
		if got := keeper.refusals(t, true); !strings.Contains(got, subject) {
			t.Errorf("the collector may publish to %s", subject)
		}
	}
}

// TestReload: a node that is added gets in without a restart, one that is removed is out.
func TestReload(t *testing.T) {
	f := newFleet(t, nodeA, collectorUser)
	keeper := f.connect(t, collectorUser)
	if err := broker.EnsureStreams(t.Context(), keeper.js(t), broker.StreamsConfig{Partitions: broker.ClusterPartitions}); err != nil {
		t.Fatal(err)
	}
	a := f.connect(t, nodeA)
	if _, err := a.js(t).Publish(t.Context(), wire.NodeSubject(cluster, nodeA.Name), nil); err != nil {
		t.Fatal(err)
	}
	f.add(t, nodeB)
	if err := nats.Remove(f.dir, nodeA); err != nil {
		t.Fatal(err)
	}
	if err := nats.Remove(f.dir, nodeA); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
	if err := f.srv.ReloadOptions(f.options(t, f.srv.Addr().(*net.TCPAddr).Port)); err != nil {
		t.Fatal(err)
	}
	b := f.connect(t, nodeB)
	if _, err := b.js(t).Publish(t.Context(), wire.NodeSubject(cluster, nodeB.Name), nil); err != nil {
		t.Fatal(err)
	}
	poll(t, "a is out", func() bool { return !a.IsConnected() })
	if _, err := client.Connect(f.url); err == nil {
		t.Error("anybody may connect")
	}
}
