package collector_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/store/embedded"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/testenv/reference"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// childVar makes the test binary a collector: what it needs, as JSON.
const childVar = "FLOPWATCH_TEST_COLLECTOR"

type childConfig struct {
	NATS, URL, User, Password, Database string
	Large                               bool // ranges as in production
	// DieAt has the process kill itself, or stop, when it comes to a step for the Nth time.
	DieAt string
	Nth   int
	Stop  bool
	// Reference: not a collector, but the program that it is compared with.
	Reference bool
	// Profile is a file that gets a CPU profile; "": none.
	Profile string
}

func TestMain(m *testing.M) {
	if cfg := os.Getenv(childVar); cfg != "" {
		if err := runChild(cfg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// childCommand is a collector in a process of its own, to be started.
func childCommand(tb testing.TB, cfg childConfig) *exec.Cmd {
	tb.Helper()
	env, err := json.Marshal(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVar+"="+string(env))
	return cmd
}

// newOwnEngine is a bench with an engine that no other test uses, and what a child needs
// to work there.
func newOwnEngine(tb testing.TB, database string) (*bench, *embedded.Server, childConfig) {
	tb.Helper()
	engine := testenv.ClickHouseServer(tb, tb.TempDir())
	user, password := engine.Auth()
	b := newBroker(tb)
	b.store = openStore(tb, store.Config{URL: engine.URL(), User: user, Password: password, Database: database})
	return b, engine, childConfig{NATS: b.url, URL: engine.URL(), User: user, Password: password, Database: database}
}

func runChild(text string) error {
	var cfg childConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	ctx := context.Background()
	if cfg.Reference {
		return reference.Run(ctx, cfg.reference())
	}
	if cfg.Profile != "" {
		defer profile(cfg.Profile)()
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM)
		defer stop()
	}
	nc, err := broker.Connect(broker.ConnectConfig{URL: cfg.NATS, Name: "child"})
	if err != nil {
		return err
	}
	var s *store.Store
	for s == nil { // the engine may be down at this moment
		s, err = store.Open(ctx, store.Config{URL: cfg.URL, User: cfg.User, Password: cfg.Password, Database: cfg.Database})
		if err != nil {
			<-time.After(50 * time.Millisecond)
		}
	}
	most, linger := 5, 20*time.Millisecond
	if cfg.Large {
		most, linger = 0, 200*time.Millisecond
	}
	partitions := collector.Partitions(1)
	if cfg.DieAt != "" {
		partitions = partitions[1:] // that of nodes alone
	}
	c, err := collector.Open(ctx, collector.Config{
		Conn: nc, Store: s, Partitions: partitions, Instance: fmt.Sprint(os.Getpid()), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		MaxMessages: most, Linger: linger, Batch: batch.Config{AcceptRecordedAvailability: true},
	})
	if err != nil {
		return err
	}
	if cfg.DieAt != "" {
		sig := syscall.SIGKILL
		if cfg.Stop {
			sig = syscall.SIGSTOP
		}
		var times atomic.Int64
		c.OnStep(func(step string) error {
			if step == cfg.DieAt && times.Add(1) == int64(cfg.Nth) {
				return syscall.Kill(os.Getpid(), sig)
			}
			return nil
		})
	}
	return c.Run(ctx)
}

// profile writes a CPU profile until the returned function is called.
func profile(path string) (stop func()) {
	f, err := os.Create(path)
	if err != nil || pprof.StartCPUProfile(f) != nil {
		fmt.Fprintln(os.Stderr, "no profile:", err)
		return func() {}
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}
}

// TestKill kills the collector, and sometimes the engine, at random moments while batches
// arrive, some of them twice. At the end the store has each row once.
func TestKill(t *testing.T) {
	t.Parallel() // as most here: they wait more than they work
	nodes, sequences, kills := 4, uint64(40), 8
	if os.Getenv("FLOPWATCH_CHAOS") != "" {
		sequences, kills = 120, 24
	}
	b, engine, cfg := newOwnEngine(t, "crash")
	s := b.store
	launch := func() *exec.Cmd {
		cmd := childCommand(t, cfg)
		var out strings.Builder
		cmd.Stderr = &out
		t.Cleanup(func() {
			if text := out.String(); strings.Contains(text, "ERROR") || strings.Contains(text, "panic") {
				t.Logf("child: %s", text)
			}
		})
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kill := func(cmd *exec.Cmd) {
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
	}
	positions, err := b.js.KeyValue(t.Context(), broker.BucketCursor)
	if err != nil {
		t.Fatal(err)
	}
	// look reads where the collector is: every takeover, intent and completion is a revision.
	look := func() (revision uint64, begun bool) {
		e, err := positions.Get(t.Context(), broker.NodeStream(0))
		if err != nil {
			return 0, false
		}
		return e.Revision(), strings.Contains(string(e.Value()), `"from"`)
	}
	rnd := rand.New(rand.NewPCG(1, uint64(os.Getpid())))
	published := make(chan error, 1)
	go func() { // ends when all is published
		published <- func() error {
			for q := uint64(1); q <= sequences; q++ {
				for n := range nodes {
					w, frame := newFrame(t, n, q, nil)
					times := 1
					if q%5 == 0 {
						times = 2 // past the broker's window: under another id
					}
					for k := range times {
						id := fmt.Sprintf("%d/%s", k, wire.MessageID(w.Node, w.Spool, w.Sequence))
						if _, err := b.js.Publish(context.WithoutCancel(t.Context()), wire.BatchSubject(w), frame, jetstream.WithMsgID(id)); err != nil {
							return err
						}
					}
				}
				<-time.After(200 * time.Millisecond)
			}
			return nil
		}()
	}()
	midway, engineKills := 0, 0
	worked := 0
	for i := range kills {
		before, _ := look()
		cmd := launch()
		// Past the former lease and some steps into the work, then at a random moment.
		steps := uint64(1 + rnd.IntN(6))
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
			if now, _ := look(); now >= before+steps {
				break
			}
			<-time.After(time.Millisecond)
		}
		<-time.After(time.Duration(rnd.IntN(40)) * time.Millisecond)
		if i%3 == 2 {
			if pid := engine.PID(); pid != 0 {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				engineKills++
				<-time.After(time.Duration(rnd.IntN(300)) * time.Millisecond)
			}
		}
		kill(cmd)
		now, begun := look()
		if begun {
			midway++
		}
		if now > before+1 {
			worked++
		}
	}
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	last := launch()
	// A busy machine is slow, and no failure as long as there is progress.
	watcher := b.collector(t, "watcher", nil)
	for idle := false; !idle; {
		was, _ := look()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := watcher.WaitIdle(ctx)
		cancel()
		if idle = err == nil; idle {
			break
		}
		if now, _ := look(); now == was {
			t.Fatalf("wait until idle: no progress behind %d: %v", now, err)
		}
	}
	kill(last)
	t.Logf("%d kills of the collector, %d of them had stored or begun ranges, %d died within one; %d of the engine (%d restarts)", kills, worked, midway, engineKills, engine.Restarts())
	all := uint64(nodes) * sequences
	wantRows(t, s, all)
	raw, distinct, err := s.Count(t.Context(), store.TableBatches)
	if err != nil || raw != all || distinct != all {
		t.Errorf("batches: %d rows, %d distinct, want %d (%v)", raw, distinct, all, err)
	}
	rows, err := s.BatchesAfter(t.Context(), cluster, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[store.BatchKey]bool{}
	for _, r := range rows {
		seen[r.BatchKey] = true
		if r.Rows[0] != gpus*seconds || len(r.Minutes) == 0 {
			t.Errorf("batch %+v", r)
		}
	}
	if uint64(len(seen)) != all || len(rows) != len(seen) {
		t.Errorf("batches: %d listed, %d distinct, want %d", len(rows), len(seen), all)
	}
	for _, table := range []string{store.TableGPUMinute, store.TableNodeMinute, store.TableCommMinute, store.TableFlowMinute, store.TableQuarantine} {
		if raw, _, err := s.Count(t.Context(), table); err != nil || raw != 0 {
			t.Errorf("%s: %d rows (%v)", table, raw, err)
		}
	}
}
