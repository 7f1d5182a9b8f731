package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/broker/natsd"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// TestReplicas: on a cluster streams and buckets get the copies that are asked for, with what they
// hold; a lease outlives the loss of a server; and nobody takes copies away by an old file.
func TestReplicas(t *testing.T) {
	servers, url := startCluster(t)
	nc, err := broker.Connect(broker.ConnectConfig{URL: url, Options: []nats.Option{nats.ReconnectWait(50 * time.Millisecond)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js := stream(t, nc)
	ctx := t.Context()
	ensure := func(replicas int) error {
		return broker.EnsureStreams(ctx, js, broker.StreamsConfig{Partitions: 2, Replicas: replicas, MaxBytes: 1 << 20, LeaseTTL: 10 * time.Second, Patience: time.Minute})
	}
	if err = ensure(1); err != nil {
		t.Fatal(err)
	}
	const messages = 20
	for i := range messages {
		patient(t, "publish", func() error {
			_, err := js.Publish(ctx, wire.NodeSubject("c", "n"), []byte("x"), jetstream.WithMsgID(fmt.Sprint(i)))
			return err
		})
	}
	for range 2 {
		if err = ensure(3); err != nil {
			t.Fatal(err)
		}
	}
	for name := range js.StreamNames(ctx).Name() {
		s, err := js.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.CachedInfo().Config.Replicas; n != 3 {
			t.Errorf("%s has %d replicas", name, n)
		}
	}
	if err = ensure(1); !errors.Is(err, broker.ErrFewerReplicas) {
		t.Errorf("copies are taken away: %v", err)
	}
	whole := broker.NodeStream(wire.Partition("n", 2))
	patient(t, "copies", func() error {
		for _, name := range []string{whole, "KV_" + broker.BucketLease} {
			s, err := js.Stream(ctx, name)
			if err != nil {
				return err
			}
			copies := s.CachedInfo().Cluster.Replicas
			if len(copies) != 2 { // none yet: they are only told of
				return fmt.Errorf("%s has %d copies", name, len(copies))
			}
			for _, r := range copies {
				if !r.Current {
					return fmt.Errorf("%s on %s is not current", name, r.Name)
				}
			}
		}
		return nil
	})
	kv, ttl, err := broker.OpenLeases(ctx, js)
	if err != nil {
		t.Fatal(err)
	}
	lease, err := broker.AcquireLease(ctx, kv, "x", "me", ttl)
	if err != nil {
		t.Fatal(err)
	}
	holding, drop := context.WithCancel(ctx)
	kept := make(chan error, 1)
	go func() { kept <- lease.Keep(holding) }()
	info, err := js.Stream(ctx, whole)
	if err != nil {
		t.Fatal(err)
	}
	leader := info.CachedInfo().Cluster.Leader
	for _, s := range servers {
		if s.Name() == leader {
			if err = s.Stop(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	patient(t, "another leader", func() error {
		s, err := js.Stream(ctx, whole)
		if err != nil {
			return err
		}
		if st := s.CachedInfo(); st.Cluster.Leader == leader || st.State.Msgs != messages {
			return fmt.Errorf("%q leads, %d messages", st.Cluster.Leader, st.State.Msgs)
		}
		ack, err := js.Publish(ctx, wire.NodeSubject("c", "n"), []byte("x"), jetstream.WithMsgID("0"))
		if err == nil && !ack.Duplicate {
			t.Error("the other leader does not know a message that it has")
		}
		return err
	})
	if _, ok, err := broker.TryLease(ctx, kv, "x", "other", ttl); ok {
		t.Errorf("two hold a lease, %v", err)
	}
	drop()
	if err = <-kept; err != nil {
		t.Errorf("a lease is lost with a server: %v", err)
	}
}

// TestStartFile: what keeps a server from starting is said, with what would be right.
func TestStartFile(t *testing.T) {
	for text, want := range map[string]string{
		"listen: \"127.0.0.1:-1\"":                                                            "no jetstream block",
		"listen: \"127.0.0.1:-1\"\njetstream {store_dir: js}":                                 "absolute path",
		"listen: \"127.0.0.1:-1\"\njetstream {store_dir: \"/x\"}\ncluster {name: c, port: 0}": "server_name is missing",
		"listen: \"127.0.0.1:-1\"\njetstream {store_dir: \"/x\", sync_interval: 2m}":          "jetstream.sync_interval",
		"listen: {": "Parse error",
	} {
		path := filepath.Join(t.TempDir(), "n.conf")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := natsd.StartFile(t.Context(), path, nil); err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
			t.Errorf("%s: %v, %v", text, s, err)
		}
	}
	path, alone := filepath.Join(t.TempDir(), "n.conf"), fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream {store_dir: %q}\n", t.TempDir())
	if err := os.WriteFile(path, []byte(alone), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := natsd.StartFile(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = natsd.StartFile(t.Context(), path, nil); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("two on one store: %v", err)
	}
	nc, err := broker.Connect(broker.ConnectConfig{URL: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	err = broker.EnsureStreams(t.Context(), stream(t, nc), broker.StreamsConfig{MaxBytes: 1 << 20})
	nc.Close()
	if err = errors.Join(err, s.Reload(), s.Stop(t.Context())); err != nil {
		t.Error(err)
	}
	// As one of a cluster it would delete its streams.
	if err = os.WriteFile(path, []byte(alone+"server_name: n\ncluster {name: c, listen: \"127.0.0.1:-1\", routes: [\"nats://127.0.0.1:1\"]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = natsd.StartFile(t.Context(), path, nil); !errors.Is(err, natsd.ErrWasAlone) {
		t.Errorf("a store of a server that was alone is taken up: %v", err)
	}
}

// startCluster starts three servers in this process.
func startCluster(t *testing.T) (servers []*natsd.Server, url string) {
	t.Helper()
	var ports [6]int
	for i := range ports {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = ln.Addr().(*net.TCPAddr).Port
		if err = ln.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var urls []string
	for i := range 3 {
		path := filepath.Join(t.TempDir(), "n.conf")
		conf := fmt.Sprintf("server_name: n%d\nlisten: \"127.0.0.1:%d\"\njetstream {store_dir: %q, max_file_store: 1GB}\ncluster {name: c, listen: \"127.0.0.1:%d\", routes: [\"nats://127.0.0.1:%d\", \"nats://127.0.0.1:%d\", \"nats://127.0.0.1:%d\"]}\n",
			i, ports[i], t.TempDir(), ports[3+i], ports[3], ports[4], ports[5])
		if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := natsd.StartFile(t.Context(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
			defer cancel()
			if err := s.Stop(ctx); err != nil && !errors.Is(err, os.ErrClosed) {
				t.Error(err)
			}
		})
		servers, urls = append(servers, s), append(urls, s.URL())
	}
	return servers, strings.Join(urls, ",")
}

// patient tries until it works.
func patient(t *testing.T, what string, try func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}
