package broker_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/broker/natsd"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

func stream(tb testing.TB, nc *nats.Conn) jetstream.JetStream {
	tb.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		tb.Fatal(err)
	}
	return js
}

func TestStreams(t *testing.T) {
	nc, _ := testenv.NATS(t)
	js := stream(t, nc)
	ctx := t.Context()
	for _, n := range []int{1, 1, 4} { // again, and from few to many
		if err := broker.EnsureStreams(ctx, js, broker.StreamsConfig{Partitions: n}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for name := range js.StreamNames(ctx).Name() {
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{"FLOPWATCH_0", "FLOPWATCH_1", "FLOPWATCH_2", "FLOPWATCH_3", "FLOPWATCH_COMMIT", "FLOPWATCH_PROVIDER",
		"KV_FLOPWATCH_CURSOR", "KV_FLOPWATCH_LEASE"}
	if !slices.Equal(names, want) {
		t.Errorf("streams %v", names)
	}
	for _, node := range []string{"a", "b", "node-1", "x.y z"} {
		subject := wire.NodeSubject("c", node)
		ack, err := js.Publish(ctx, subject, []byte("x"), jetstream.WithMsgID("1/"+node))
		if err != nil {
			t.Fatal(err)
		}
		if want := broker.NodeStream(wire.Partition(node, 4)); ack.Stream != want {
			t.Errorf("%s went to %s, want %s", subject, ack.Stream, want)
		}
		if ack, err = js.Publish(ctx, subject, []byte("x"), jetstream.WithMsgID("1/"+node)); err != nil || !ack.Duplicate {
			t.Errorf("a repeat is not recognised: %+v, %v", ack, err)
		}
	}
	if ack, err := js.Publish(ctx, wire.ProviderSubject("c", wire.KindOrder), nil); err != nil || ack.Stream != broker.ProviderStream {
		t.Errorf("provider: %+v, %v", ack, err)
	}
	if err := broker.EnsureStreams(ctx, js, broker.StreamsConfig{Partitions: 3}); err == nil {
		t.Error("3 partitions are taken")
	}
}

// TestFull: a full stream refuses what is new, and keeps what it has.
func TestFull(t *testing.T) {
	nc, _ := testenv.NATS(t)
	js := stream(t, nc)
	ctx := t.Context()
	if err := broker.EnsureStreams(ctx, js, broker.StreamsConfig{MaxBytes: 3000}); err != nil {
		t.Fatal(err)
	}
	subject := wire.NodeSubject("c", "n")
	sent := 0
	for ; sent < 10; sent++ {
		if _, err := js.Publish(ctx, subject, make([]byte, 900)); err != nil {
			break
		}
	}
	s, err := js.Stream(ctx, broker.NodeStream(0))
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; sent == 0 || sent == 10 || n != uint64(sent) {
		t.Errorf("%d acknowledged, %d kept", sent, n)
	}
}

func TestServerKeeps(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	publish := func(want uint64) {
		t.Helper()
		s, err := natsd.StartServer(ctx, natsd.ServerConfig{Dir: dir, SyncInterval: -1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := natsd.StartServer(ctx, natsd.ServerConfig{Dir: dir}); !errors.Is(err, durable.ErrLocked) {
			t.Errorf("two servers on one directory: %v", err)
		}
		nc, err := broker.Connect(broker.ConnectConfig{Options: []nats.Option{s.InProcess()}, URL: s.URL()})
		if err != nil {
			t.Fatal(err)
		}
		js := stream(t, nc)
		if err := broker.EnsureStreams(ctx, js, broker.StreamsConfig{}); err != nil {
			t.Fatal(err)
		}
		ack, err := js.Publish(ctx, wire.NodeSubject("c", "n"), []byte("x"))
		if err != nil || ack.Sequence != want {
			t.Errorf("got %+v, %v, want sequence %d", ack, err, want)
		}
		nc.Close()
		stop, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if err := s.Stop(stop); err != nil {
			t.Fatal(err)
		}
	}
	publish(1)
	publish(2)
}

func TestToken(t *testing.T) {
	_, url := testenv.NATS(t)
	at := strings.Index(url, "@")
	if nc, err := broker.Connect(broker.ConnectConfig{URL: "nats://" + url[at+1:]}); err == nil {
		nc.Close()
		t.Error("anybody may connect")
	}
	_, err := broker.Connect(broker.ConnectConfig{URL: "nats://secret@127.0.0.1:1, nats://user:secret@127.0.0.2:1"})
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "nats://127.0.0.1:1,nats://127.0.0.2:1") {
		t.Errorf("got %v, want the servers' names without what opens them", err)
	}
}
