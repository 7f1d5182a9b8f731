package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/deploy/nats"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/broker/natsd"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// site is a broker and a store, and a collector that accepts what recordings state, or not.
type site struct {
	t     *testing.T
	js    jetstream.JetStream // an operator's, who may publish as anybody
	store *store.Store
	cfg   collector.Config
	args  []string // of a command that asks them
}

// fleetNATS is a server on the configuration that a fleet has, and a way to sign in.
func fleetNATS(t *testing.T, users ...nats.User) (natsURL string, seed func(nats.User) string) {
	t.Helper()
	dir := t.TempDir()
	seed = func(u nats.User) string { return filepath.Join(dir, u.InboxPrefix()+".nk") }
	for _, u := range users {
		var err error
		if u.Key, err = nats.Key(seed(u)); err == nil {
			err = nats.Add(dir, u)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(dir, "flopwatch.conf")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.NewReplacer(`"0.0.0.0:4222"`, `"127.0.0.1:-1"`, "/var/lib/nats/flopwatch", filepath.Join(dir, "js")).Replace(string(text))
	if err = os.WriteFile(conf, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	srv, err := natsd.StartFile(t.Context(), conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if serr := srv.Stop(ctx); serr != nil {
			t.Error(serr)
		}
	})
	return srv.URL(), seed
}

func newSite(t *testing.T) *site {
	t.Helper()
	at, user, password := testenv.ClickHouse(t)
	keeper, operator := nats.User{Role: nats.Collector}, nats.User{Role: nats.Operator}
	natsURL, seed := fleetNATS(t, keeper, operator)
	connect := func(u nats.User) *client.Conn {
		nc, err := broker.Connect(broker.ConnectConfig{URL: natsURL, NKeyFile: seed(u), InboxPrefix: u.InboxPrefix()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	collecting := connect(keeper)
	js, err := jetstream.New(collecting)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t}
	if err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{LeaseTTL: time.Second}); err != nil {
		t.Fatal(err)
	}
	if s.js, err = jetstream.New(connect(operator)); err != nil {
		t.Fatal(err)
	}
	if s.store, err = store.Open(t.Context(), store.Config{URL: at, User: user, Password: password}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cerr := s.store.Close(); cerr != nil {
			t.Error(cerr)
		}
	})
	if err = s.store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if werr := os.WriteFile(path, []byte(text+"\n"), 0o600); werr != nil {
			t.Fatal(werr)
		}
		return path
	}
	s.args = []string{"--clickhouse", at, "--clickhouse-user", user, "--clickhouse-password-file", file("password", password), "--cluster", "fleet", "--nats", natsURL, "--nats-nkey", seed(operator), "--nats-inbox-prefix", "_INBOX.operator"}
	s.cfg = collector.Config{Conn: collecting, Store: s.store, Partitions: collector.Partitions(1), Instance: "test", Log: slog.New(slog.DiscardHandler), Linger: 30 * time.Millisecond}
	return s
}

// collect runs a collector until stop; idle waits until it has taken everything.
func (s *site) collect(recorded bool) (idle, stop func()) {
	s.t.Helper()
	cfg := s.cfg
	cfg.Batch = batch.Config{AcceptRecordedAvailability: recorded}
	c, err := collector.Open(s.t.Context(), cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				s.t.Error(err)
			}
		}
	}
	s.t.Cleanup(stop)
	return func() {
		s.t.Helper()
		waiting, cancel := context.WithTimeout(s.t.Context(), time.Minute)
		defer cancel()
		if err := c.WaitIdle(waiting); err != nil {
			s.t.Fatal(err)
		}
	}, stop
}

// frame is a batch of a host with one row; availableMs 0: live.
func (s *site) frame(node string, sequence uint64, tsMs, availableMs int64) []byte {
	s.t.Helper()
	rows := wire.NewBuilder(wire.KindHost, wire.SourceProcfs)
	rows.Begin()
	rows.SetInt(1, tsMs)
	rows.SetInt(11, 5000)
	if err := rows.End(); err != nil {
		s.t.Fatal(err)
	}
	frame, err := wire.AppendBatch(nil, &wire.Batch{Cluster: "fleet", Node: node, Spool: [16]byte{7}, Sequence: sequence, AvailableMs: availableMs, Tables: []wire.Table{*rows.Build()}})
	if err != nil {
		s.t.Fatal(err)
	}
	return frame
}

func (s *site) publish(subject string, frame []byte) {
	s.t.Helper()
	if _, err := s.js.Publish(s.t.Context(), subject, frame); err != nil {
		s.t.Fatal(err)
	}
}

// run runs a command as main does, with the servers behind its own arguments.
func (s *site) run(args ...string) (stdout string, err error) {
	s.t.Helper()
	if args[1] != "retry" {
		return runCommand(s.t, append(args, s.args[:8]...)...)
	}
	return runCommand(s.t, append(args, s.args...)...)
}

func runCommand(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newRootCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func wantParts(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s lacks %q:\n%s", what, part, text)
		}
	}
}

// TestQuarantine is an operator's way, signed in as one on a server with a fleet's permissions: what is there, why, and in again after an upgrade. A
// collector that accepts what another did not stands for one of a newer version.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	now := time.Now().UnixMilli()
	idle, stop := s.collect(false)
	if out, err := s.run("quarantine", "ls"); err != nil || !strings.Contains(out, "Nothing of cluster fleet is in quarantine") {
		t.Errorf("empty: %v, %s", err, out)
	}
	evil := "evil\x1b[31m\u202ehost"
	s.publish(wire.NodeSubject("fleet", "n1"), s.frame("n1", 1, now-1000, 0))   // good
	s.publish(wire.NodeSubject("fleet", "n1"), s.frame("n1", 2, now-2000, now)) // "newer"
	s.publish(wire.NodeSubject("fleet", "n1"), s.frame("n1", 3, now-3000, now))
	s.publish(wire.NodeSubject("fleet", "n1"), s.frame("n1", 4, 5000, 0)) // 1970
	newer := s.frame("n2", 1, now, 0)
	newer[1] = 99
	s.publish(wire.NodeSubject("fleet", "n2"), newer)
	s.publish(wire.NodeSubject("fleet", "n3"), s.frame(evil, 1, now, 0)) // forged
	s.publish(wire.NodeSubject("fleet", "n3"), []byte("util=NaN"))
	s.publish(wire.NodeSubject("other", "n9"), []byte("another cluster's"))
	idle()

	out, err := s.run("quarantine", "ls")
	if err != nil {
		t.Fatal(err)
	}
	wantParts(t, "ls", out, "6 messages", "available", "past", "version", "subject", "decode", "n1", "n2", "n3", "FLOPWATCH_0/3", "Of other clusters, by their own word or subject: 1 message.")
	if strings.Contains(out, "n9") || strings.ContainsAny(out, "\x1b\u202e") {
		t.Errorf("ls: %q", out)
	}
	out, err = s.run("quarantine", "ls", "--json", "--reason", "available")
	var group quarantineGroupLine
	if err != nil || json.Unmarshal([]byte(out), &group) != nil || group.Messages != 2 || group.Node != "n1" || group.Rows != 2 || group.Last != "FLOPWATCH_0/3" || group.FirstMs > group.LastMs || group.Bytes == 0 {
		t.Errorf("ls --json: %v, %s", err, out)
	}
	out, err = s.run("quarantine", "ls", "--messages", "--node", "n3")
	if err != nil || strings.ContainsAny(out, "\x1b\u202e") {
		t.Errorf("ls --messages: %v, %q", err, out)
	}
	wantParts(t, "ls --messages", out, "FLOPWATCH_0/6", "FLOPWATCH_0/7", "body belongs on", "no frame magic")
	out, err = s.run("quarantine", "ls", "--messages", "--limit", "2")
	if err != nil || strings.Count(out, "FLOPWATCH_0/") != 2 || !strings.Contains(out, "and more") {
		t.Errorf("ls --limit: %v, %s", err, out)
	}
	if out, err = s.run("quarantine", "ls", "--since", "2099-01-01"); err != nil || !strings.Contains(out, "that --reason, --node and --since let through") {
		t.Errorf("ls --since: %v, %s", err, out)
	}

	out, err = s.run("quarantine", "show", "FLOPWATCH_0/4")
	if err != nil {
		t.Fatal(err)
	}
	wantParts(t, "show", out, "past: earliest sample 1970-01-01T00:00:05.000Z", "host n1", "batch 4", "in quarantine alone", "host", "1970-01-01 00:00:05.000", "00000000  f7 01 28 b5 2f fd")
	if out, err = s.run("quarantine", "show", "FLOPWATCH_0/5"); err != nil {
		t.Fatal(err)
	}
	wantParts(t, "show of a newer version", out, "cannot read it: unknown contract version 99", "host n2", "batch 1")
	if out, err = s.run("quarantine", "show", "FLOPWATCH_0/6"); err != nil || strings.ContainsAny(out, "\x1b\u202e") {
		t.Fatalf("%v, %q", err, out)
	}
	wantParts(t, "show of a forged one", out, "not to be believed: it says host evil?[31m?host")
	file := filepath.Join(t.TempDir(), "message")
	if out, err = s.run("quarantine", "show", "FLOPWATCH_0/5", "--out", file, "--json"); err != nil {
		t.Fatal(err)
	}
	wantParts(t, "show --json", out, `"message":"FLOPWATCH_0/5"`, `"error":"unknown contract version 99`, `"says_node":"n2"`)
	if written, rerr := os.ReadFile(file); rerr != nil || !bytes.Equal(written, newer) {
		t.Errorf("--out wrote %d bytes of %d, %v", len(written), len(newer), rerr)
	}
	if _, err = s.run("quarantine", "show", "FLOPWATCH_0/5", "--out", file); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("--out over a file: %v", err)
	}

	// Too early: this collector refuses them again, and nothing changes.
	out, err = s.run("quarantine", "retry", "--reason", "available")
	if err == nil || !strings.Contains(err.Error(), "2 messages were refused again") {
		t.Errorf("too early: %v, %s", err, out)
	}
	out, err = s.run("quarantine", "retry", "--node", "n2")
	if err != nil || !strings.Contains(out, "1 not sent") || !strings.Contains(out, "not sent, 1: unknown contract version 99") {
		t.Errorf("what this program cannot read: %v, %s", err, out)
	}
	if out, err = s.run("quarantine", "retry", "--all", "--dry-run"); err != nil {
		t.Fatal(err)
	}
	wantParts(t, "--dry-run", out, "6 messages of quarantine: 3 would be sent; 3 not sent")
	stop()

	// Nobody is there to take them.
	if out, err = s.run("quarantine", "retry", "FLOPWATCH_0/2", "--wait", "200ms"); err != nil || !strings.Contains(out, "1 on their way") {
		t.Errorf("without a collector: %v, %s", err, out)
	}
	idle, _ = s.collect(true)
	idle()
	if out, err = s.run("quarantine", "retry", "FLOPWATCH_0/2", "FLOPWATCH_0/3"); err != nil {
		t.Fatal(err)
	}
	wantParts(t, "retry", out, "2 messages of quarantine: 1 stored now; 1 not sent", "it is stored already")
	if out, err = s.run("quarantine", "ls", "--reason", "available"); err != nil || !strings.Contains(out, "Nothing") {
		t.Errorf("after the retry: %v, %s", err, out)
	}
	if out, err = s.run("quarantine", "ls", "--reason", "available", "--all"); err != nil || !strings.Contains(out, "2 (2 stored since)") {
		t.Errorf("after the retry, all: %v, %s", err, out)
	}
	if out, err = s.run("quarantine", "retry", "--reason", "available"); err != nil || !strings.Contains(out, "Nothing") {
		t.Errorf("nothing is left: %v, %s", err, out)
	}
	raw, distinct, err := s.store.Count(t.Context(), store.TableHostSamples)
	if err != nil || raw != 3 || distinct != 3 {
		t.Errorf("%d rows, %d distinct, %v", raw, distinct, err)
	}
	hours, err := s.store.NodeHours(t.Context(), "fleet", nil, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var counts []string
	for _, h := range hours {
		counts = append(counts, fmt.Sprintf("%s %d stored %d in quarantine", h.Node, h.Stored, h.Quarantined))
	}
	if got := strings.Join(counts, "; "); got != "n1 3 stored 1 in quarantine; n2 0 stored 1 in quarantine" && len(hours) == 2 { // not at the turn of an hour
		t.Errorf("accounting: %s", got)
	}

	// What a sender beyond its limit sent is counted, and named to people and programs.
	if err = s.store.Insert(t.Context(), store.TableQuarantineDropped, "", store.DroppedBlock([]store.DroppedRow{
		{Stream: "FLOPWATCH_0", Seq: 90, LastSeq: 99, Subject: wire.NodeSubject("fleet", "flood"), Reason: "decode", Messages: 7, Size: 700, BrokerMs: time.Now().UnixMilli()}})); err != nil {
		t.Fatal(err)
	}
	if out, err = s.run("quarantine", "ls", "--node", "flood"); err != nil || !strings.Contains(out, "7 messages of flood for reason decode, 700 B, beyond the limit of the day: counted, not kept") {
		t.Errorf("dropped: %v, %s", err, out)
	}
	if out, err = s.run("quarantine", "ls", "--node", "flood", "--json"); err != nil || out != `{"reason":"decode","node":"flood","dropped":7,"bytes":700}`+"\n" {
		t.Errorf("dropped: %v, %s", err, out)
	}

	wrong := func(want string, args ...string) {
		t.Helper()
		if _, err := s.run(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
	wrong("wanted one of size", "quarantine", "ls", "--reason", "bad")
	wrong("STREAM/NUMBER", "quarantine", "show", "17")
	wrong("is not in quarantine", "quarantine", "show", "FLOPWATCH_0/999")
	wrong("takes one message", "quarantine", "show")
	wrong("say what to send again", "quarantine", "retry")
	wrong("leave one out", "quarantine", "retry", "FLOPWATCH_0/3", "--all")
	wrong("is not in quarantine", "quarantine", "retry", "FLOPWATCH_0/999")
	if _, err := runCommand(t, append([]string{"quarantine", "retry", "--all"}, s.args[:8]...)...); err == nil || !strings.Contains(err.Error(), "--nats URL is required") {
		t.Errorf("no broker: %v", err)
	}
}
