package nats_test

import (
	"slices"
	"strings"
	"testing"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/deploy/nats"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// TestEveryRole: each role signs in, may say and hear what it is for, and is refused what is
// another's.
func TestEveryRole(t *testing.T) {
	const (
		api  = "$JS.API."
		get  = api + "DIRECT.GET."
		kv   = "$KV."
		info = api + "STREAM.INFO."
	)
	operator, provider2, detector2 := nats.User{Role: nats.Operator}, nats.User{Role: nats.Provider, Cluster: "c2"}, nats.User{Role: nats.Detector, Cluster: "c2"}
	as, mark := wire.NodeSubject(cluster, nodeA.Name), wire.CommitSubject(cluster, nodeA.Name)
	orders, provided := wire.ProviderSubject(cluster, wire.KindOrder), wire.CommitSubject(cluster, "")
	lease, cursor := kv+broker.BucketLease+".", kv+broker.BucketCursor+"."
	// What nobody may do: look into others' messages, take streams away, see the server.
	const stream = "FLOPWATCH_0"
	nobody := []string{
		api + "STREAM.DELETE." + stream, api + "STREAM.PURGE." + stream, api + "STREAM.MSG.DELETE." + stream, api + "STREAM.MSG.GET." + stream, get + stream + "." + as,
		api + "STREAM.RESTORE." + stream, api + "STREAM.SNAPSHOT." + stream, api + "STREAM.LEADER.STEPDOWN." + stream, api + "CONSUMER.CREATE." + stream + ".spy", api + "ACCOUNT.PURGE.FLEET",
		"$SYS.REQ.SERVER.PING", "flopwatch.v1.x.c1.a", "anything",
	}
	deaf := []string{">", "flopwatch.>", "_INBOX.>", "$JS.>", "$KV.>", "$SYS.>", as, orders, "flopwatch.v1.commit.>"}
	cases := []struct {
		user           nats.User
		says, mayNot   []string
		hears, deafFor []string
	}{
		{nodeA, []string{as, get + broker.CommitStream + "." + mark}, []string{wire.NodeSubject(cluster, nodeB.Name), orders, mark, broker.EdgeAPI + ".STREAM.INFO." + stream}, []string{mark}, []string{wire.CommitSubject(cluster, nodeB.Name), provided}},
		{
			providerUser, []string{orders, wire.ProviderSubject(cluster, wire.KindInventory), wire.ProviderSubject(cluster, wire.KindAllocation), get + broker.CommitStream + "." + provided},
			[]string{wire.ProviderSubject("c2", wire.KindOrder), as, provided, get + broker.CommitStream + "." + mark, info + stream}, []string{provided}, []string{mark, wire.CommitSubject("c2", "")},
		},
		{provider2, []string{wire.ProviderSubject("c2", wire.KindOrder)}, []string{orders}, nil, []string{provided}},
		{
			collectorUser, []string{info + stream, mark, lease + "collector-0", cursor + stream, api + "CONSUMER.INFO." + stream + ".collector"},
			[]string{as, orders, lease + "detector", api + "CONSUMER.DELETE." + stream + ".other", api + "CONSUMER.MSG.NEXT." + stream + ".other"}, nil, []string{mark},
		},
		{detectorUser, []string{lease + "detector", get + "KV_" + broker.BucketLease + ".x"}, []string{lease + detector2.Lease(), lease + "collector-0", cursor + stream, as, mark, info + stream}, nil, []string{mark}},
		{detector2, []string{lease + detector2.Lease()}, []string{lease + "detector", lease + "collector-0"}, nil, nil},
		{
			operator, []string{as, wire.NodeSubject("c2", "z"), orders, info + stream, broker.EdgeAPI + ".STREAM.INFO." + stream},
			[]string{mark, get + broker.CommitStream + "." + mark, lease + "detector", lease + "collector-0", cursor + stream, api + "STREAM.CREATE.MINE", api + "STREAM.UPDATE." + stream, info + broker.CommitStream, broker.EdgeAPI + ".STREAM.DELETE." + stream}, nil, []string{mark},
		},
	}
	var users []nats.User
	for _, c := range cases {
		users = append(users, c.user)
	}
	for _, r := range nats.Roles() {
		if !slices.ContainsFunc(users, func(u nats.User) bool { return u.Role == r }) {
			t.Errorf("nobody signs in as %s", r)
		}
	}
	f := newFleet(t, append(users, nodeB)...)
	js := f.connect(t, collectorUser).js(t)
	if err := broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{Partitions: broker.ClusterPartitions}); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.user.InboxPrefix(), func(t *testing.T) {
			nc := f.connect(t, c.user)
			for _, subject := range c.says {
				if err := nc.Publish(subject, nil); err != nil {
					t.Fatal(err)
				}
			}
			for _, subject := range append(c.hears, c.user.InboxPrefix()+".x") {
				sub, err := nc.SubscribeSync(subject)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = sub.Unsubscribe() }() // the connection ends too
			}
			if r := nc.refusals(t, false); r != "" {
				t.Errorf("refused: %s", r)
			}
			for _, subject := range append(append([]string{}, nobody...), c.mayNot...) {
				if err := nc.Publish(subject, nil); err != nil {
					t.Fatal(err)
				}
				if got := nc.refusals(t, true); !strings.Contains(got, subject) {
					t.Errorf("publish to %s: refused is %q", subject, got)
				}
			}
			for _, other := range users {
				if other.InboxPrefix() != c.user.InboxPrefix() {
					c.deafFor = append(c.deafFor, other.InboxPrefix()+".>")
				}
			}
			for _, subject := range append(append([]string{}, deaf...), c.deafFor...) {
				sub, err := nc.SubscribeSync(subject)
				if err != nil {
					t.Fatal(err)
				}
				if got := nc.refusals(t, true); !strings.Contains(got, subject) {
					t.Errorf("subscribe to %s: refused is %q", subject, got)
				}
				_ = sub.Unsubscribe() // the server has dropped it already
			}
		})
	}

	// An operator sends what is another's again, and learns how far the stream is; nothing is deleted
	// by an answer that the server sends in its name.
	nc := f.connect(t, operator)
	before, err := js.Stream(t.Context(), broker.NodeStream(wire.Partition(nodeB.Name, broker.ClusterPartitions)))
	if err != nil {
		t.Fatal(err)
	}
	msg := &client.Msg{Subject: wire.NodeSubject(cluster, nodeB.Name), Data: []byte("of b"), Header: client.Header{"Flopwatch-Retry": {stream + "/1"}}}
	ack, err := nc.js(t).PublishMsg(t.Context(), msg, jetstream.WithMsgID("retry/1"))
	if err != nil || ack.Stream != before.CachedInfo().Config.Name || ack.Sequence != before.CachedInfo().State.LastSeq+1 {
		t.Fatalf("%+v, %v; refused: %s", ack, err, nc.refusals(t, false))
	}
	edge, err := jetstream.NewWithAPIPrefix(nc.Conn, broker.EdgeAPI)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ack.Stream, broker.ProviderStream} {
		if s, err := edge.Stream(t.Context(), name); err != nil || name == ack.Stream && s.CachedInfo().State.LastSeq != ack.Sequence {
			t.Errorf("how far %s is: %v", name, err)
		}
	}
	for _, ask := range []string{broker.EdgeAPI + ".STREAM.INFO." + ack.Stream, msg.Subject} {
		for _, reply := range []string{api + "STREAM.DELETE." + ack.Stream, api + "STREAM.PURGE." + ack.Stream, lease + "collector-0"} {
			if err := nc.PublishRequest(ask, reply, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := nc.js(t).Publish(t.Context(), msg.Subject, nil); err != nil { // behind the answers
		t.Fatal(err)
	}
	after, err := js.Stream(t.Context(), ack.Stream)
	if err != nil || after.CachedInfo().State.Msgs != ack.Sequence+4 { // three, whose acks went astray, and the last
		t.Errorf("%+v, %v", after.CachedInfo().State, err)
	}
	bucket, err := js.KeyValue(t.Context(), broker.BucketLease)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := bucket.Get(t.Context(), "collector-0"); err != nil || len(e.Value()) != 0 { // what the collector said above
		t.Errorf("the lease: %v", err)
	}
}
