package nats_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/deploy/nats"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/loadgen"
)

// TestLoadgenHosts: hosts of a simulated fleet are themselves alone, as agents are: each with its
// key, and the permissions of a node. One whose key the server does not know is told so.
func TestLoadgenHosts(t *testing.T) {
	keys := t.TempDir()
	cfg := loadgen.Config{Cluster: cluster, Nodes: 4, GPUs: 1, Rate: 10, SealEvery: 500 * time.Millisecond, For: 3 * time.Second, Drain: time.Second, NKeys: keys, Prefix: "lg"}
	users := []nats.User{{Role: nats.Collector}}
	var hosts []nats.User
	for i := range cfg.Nodes {
		key, err := nats.Key(loadgen.SeedFile(keys, cfg.Node(i)))
		if err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, nats.User{Role: nats.Node, Cluster: cluster, Name: cfg.Node(i), Key: key})
	}
	twice := []nats.User{hosts[0], {Role: nats.Node, Cluster: cluster, Name: "other", Key: hosts[0].Key}}
	if err := nats.AddAll(t.TempDir(), twice); !errors.Is(err, nats.ErrKeyTaken) {
		t.Errorf("two users with one key: %v", err)
	}
	f := newFleet(t, users...)
	if err := nats.AddAll(f.dir, hosts); err != nil {
		t.Fatal(err)
	}
	if err := nats.AddAll(f.dir, []nats.User{{Role: nats.Node, Cluster: cluster, Name: "other", Key: hosts[0].Key}}); !errors.Is(err, nats.ErrKeyTaken) {
		t.Errorf("a key that is another's: %v", err)
	}
	cfg.Broker = broker.ConnectConfig{URL: f.url}
	// The server has not read the new users yet.
	if _, err := loadgen.Run(t.Context(), cfg, nil); err == nil || !strings.Contains(err.Error(), "Authorization") {
		t.Errorf("unknown keys: %v", err)
	}
	if err := f.srv.ReloadOptions(f.options(t, f.srv.Addr().(*net.TCPAddr).Port)); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(f.connect(t, users[0]).Conn)
	if err == nil {
		err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{})
	}
	if err != nil {
		t.Fatal(err)
	}
	rep, err := loadgen.Run(context.WithoutCancel(t.Context()), cfg, nil)
	if !errors.Is(err, loadgen.ErrNotCommitted) || rep == nil || rep.Frames.Acked != rep.Frames.Sealed || rep.Frames.Sealed < 4 || len(rep.Refused) > 0 {
		t.Errorf("%v, %+v", err, rep)
	}
}
