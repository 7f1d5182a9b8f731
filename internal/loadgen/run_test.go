package loadgen_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/broker/natsd"
	"github.com/flopwatch/flopwatch/internal/loadgen"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// brokerEnv makes this binary a broker: its directory and port.
const (
	brokerEnv = "FLOPWATCH_TEST_BROKER"
	token     = "loadgen-test" // of the broker
)

func TestMain(m *testing.M) {
	if at, is := os.LookupEnv(brokerEnv); is {
		dir, port, _ := strings.Cut(at, "|")
		n, err := strconv.Atoi(port)
		if err == nil {
			_, err = natsd.StartServer(context.Background(), natsd.ServerConfig{Dir: dir, Port: n, Token: token})
		}
		if err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent ends, or kills
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// brokerProcess is a broker that can be killed.
type brokerProcess struct {
	t         *testing.T
	dir, port string
	cmd       *exec.Cmd
	stdin     io.Closer
}

func newBroker(t *testing.T) *brokerProcess {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err = errors.Join(err, ln.Close()); err != nil {
		t.Fatal(err)
	}
	b := &brokerProcess{t: t, dir: t.TempDir(), port: port}
	b.start()
	t.Cleanup(b.kill)
	return b
}

func (b *brokerProcess) url() string { return "nats://" + token + "@127.0.0.1:" + b.port }

func (b *brokerProcess) start() {
	b.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	b.cmd = exec.Command(exe)
	b.cmd.Env = append(os.Environ(), brokerEnv+"="+b.dir+"|"+b.port)
	b.cmd.Stderr = b.t.Output()
	if b.stdin, err = b.cmd.StdinPipe(); err == nil {
		err = b.cmd.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	until(b.t, func() bool {
		c, derr := (&net.Dialer{}).DialContext(b.t.Context(), "tcp", "127.0.0.1:"+b.port)
		if derr == nil {
			_ = c.Close() // nothing was said
		}
		return derr == nil
	})
}

func (b *brokerProcess) kill() {
	_ = b.cmd.Process.Signal(syscall.SIGKILL) // it may have been killed before
	_ = b.cmd.Wait()                          // killed
	_ = b.stdin.Close()
}

// until waits for something that happens, however long that takes.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("the test ends")
		}
	}
}

// rig is a broker, an engine and a collector.
type rig struct {
	broker *brokerProcess
	store  *store.Store
	before map[string]uint64 // rows by table
}

func newRig(t *testing.T) *rig {
	t.Helper()
	url, user, password := testenv.ClickHouse(t)
	st, err := store.Open(t.Context(), store.Config{URL: url, User: user, Password: password, Database: "loadgen"})
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
	b := newBroker(t)
	nc, err := broker.Connect(broker.ConnectConfig{URL: b.url(), Name: "collector"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { // JetStream may not be ready yet
		err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{Partitions: 2, LeaseTTL: 2 * time.Second})
		return err == nil || !errors.Is(err, jetstream.ErrJetStreamNotEnabled) && !errors.Is(err, context.DeadlineExceeded)
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := collector.Open(t.Context(), collector.Config{
		Conn: nc, Store: st, Partitions: collector.Partitions(2), Instance: "test", Linger: 100 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }() // ends with cancel
	t.Cleanup(func() {
		cancel()
		if rerr := <-done; rerr != nil {
			t.Error(rerr)
		}
	})
	return &rig{broker: b, store: st, before: map[string]uint64{}}
}

// config is a small and quick fleet. Nothing here depends on how quick the machine is: the bound
// of lag is far away.
func (r *rig) config(t *testing.T, nodes int, span time.Duration) loadgen.Config {
	t.Helper()
	return loadgen.Config{
		Cluster: t.Name(), Broker: broker.ConnectConfig{URL: r.broker.url()}, Nodes: nodes, GPUs: 4, Rate: 5, SealEvery: time.Second, For: span, Drain: 3 * time.Minute, MaxLag: 3 * time.Minute,
		Store: r.store, ProbeEvery: 200 * time.Millisecond, SpoolBytes: 4 << 20,
	}
}

// holds counts what the store has against what was sealed.
func (r *rig) holds(t *testing.T, rep *loadgen.Report) {
	t.Helper()
	for table, want := range map[string]uint64{store.TableBatches: rep.Frames.Sealed, store.TableGPUSamples: rep.Rows.Samples} {
		raw, distinct, err := r.store.Count(t.Context(), table)
		if err != nil || distinct-r.before[table] != want || raw < distinct || want == 0 {
			t.Errorf("%s: %d rows, %d distinct, want %d more than %d, %v", table, raw, distinct, want, r.before[table], err)
		}
		r.before[table] = distinct
	}
	if rep.Store == nil || rep.Store.Frames != rep.Frames.Sealed || rep.Store.Missing != 0 {
		t.Errorf("store %+v, %d frames sealed", rep.Store, rep.Frames.Sealed)
	}
	if rep.Frames.Committed != rep.Frames.Sealed || rep.Frames.Acked != rep.Frames.Sealed || rep.Frames.GivenUp != 0 || rep.Rows.Committed != rep.Rows.Sealed {
		t.Errorf("frames %+v, rows %+v", rep.Frames, rep.Rows)
	}
}

// TestFleet runs fleets against a real broker, in a process of its own, the engine and a collector.
func TestFleet(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *rig)
	}{{"run", testRun}, {"broker-is-killed", testBrokerIsKilled}, {"ended", testEnded}, {"ceiling", testCeiling}} {
		t.Run(c.name, func(t *testing.T) { c.test(t, r) })
	}
}

// testRun: a fleet that nothing happens to. All is committed, and stored = distinct = sealed.
func testRun(t *testing.T, r *rig) {
	cfg := r.config(t, 12, 5*time.Second)
	cfg.Watch = []loadgen.Process{{Name: "broker", PID: r.broker.cmd.Process.Pid}}
	rep, err := loadgen.Run(t.Context(), cfg, nil)
	if errors.Is(err, loadgen.ErrLate) {
		t.Logf("a slow machine: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	r.holds(t, rep)
	if raw, distinct, cerr := r.store.Count(t.Context(), store.TableBatches); cerr != nil || raw != distinct {
		t.Errorf("%d rows of batches, %d distinct, %v", raw, distinct, cerr)
	}
	if rep.Frames.Published < rep.Frames.Sealed || rep.Lag.Visible == nil || rep.Lag.Commit.Frames != rep.Frames.Sealed || len(rep.CPU) != 2 || rep.CPU[0].Name != "loadgen" || rep.CPU[1].Name != "broker" {
		t.Errorf("report %+v", rep)
	}
	if text := rep.Text(); !strings.Contains(text, "committed, 0 without a commit mark") || !strings.Contains(text, "µs a GPU sample") {
		t.Error(text)
	}
}

// testBrokerIsKilled: kill -9 of the broker in the middle, and it comes back on its directory. The
// hosts keep what they have and send it again; all is committed in the end, once.
func testBrokerIsKilled(t *testing.T, r *rig) {
	cfg := r.config(t, 8, 9*time.Second)
	killed := false
	rep, err := loadgen.Run(t.Context(), cfg, func(s loadgen.Snapshot) {
		if !killed && s.Frames > 20 {
			killed = true
			r.broker.kill()
			r.broker.start()
		}
	})
	if err != nil && !errors.Is(err, loadgen.ErrLate) {
		t.Fatal(err)
	}
	if !killed {
		t.Fatal("the broker was not killed")
	}
	r.holds(t, rep)
}

// testEnded: what ends the context ends the seals, and what is on its way still arrives.
func testEnded(t *testing.T, r *rig) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rep, err := loadgen.Run(ctx, r.config(t, 6, time.Hour), func(s loadgen.Snapshot) {
		if s.Frames > 6 {
			cancel()
		}
	})
	if err != nil && !errors.Is(err, loadgen.ErrLate) {
		t.Fatal(err)
	}
	r.holds(t, rep)
}

// TestNobodyCommits: without a collector frames are acknowledged and never committed, which is an
// error with a report; a bound of lag that cannot be held is another.
func TestNobodyCommits(t *testing.T) {
	b := newBroker(t)
	nc, err := broker.Connect(broker.ConnectConfig{URL: b.url()})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err == nil {
		err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{})
	}
	if err != nil {
		t.Fatal(err)
	}
	rep, err := loadgen.Run(t.Context(), loadgen.Config{
		Broker: broker.ConnectConfig{URL: b.url()}, Nodes: 3, GPUs: 1, Rate: 10, SealEvery: 500 * time.Millisecond, For: 2 * time.Second, Drain: time.Second, Connections: 1,
	}, nil)
	if !errors.Is(err, loadgen.ErrNotCommitted) || rep == nil || rep.Frames.Acked == 0 || rep.Frames.Committed != 0 || rep.Frames.Uncommitted != rep.Frames.Sealed {
		t.Errorf("%v, %+v", err, rep)
	}
}

// TestNoStream: a broker that takes nothing says why.
func TestNoStream(t *testing.T) {
	b := newBroker(t)
	_, err := loadgen.Run(t.Context(), loadgen.Config{
		Broker: broker.ConnectConfig{URL: b.url()}, Nodes: 1, GPUs: 1, Rate: 10, SealEvery: 500 * time.Millisecond, For: time.Hour, Drain: time.Second, Connections: 1,
	}, nil)
	if err == nil || !strings.Contains(err.Error(), "no stream takes") {
		t.Error(err)
	}
}

// testCeiling: the search grows, ends where it is told to, and tells its steps.
func testCeiling(t *testing.T, r *rig) {
	cfg := r.config(t, 2, time.Second)
	cfg.Ramp, cfg.MaxLag = 500*time.Millisecond, 2*time.Minute // a machine under other tests may take its time
	var said bytes.Buffer
	rep, err := loadgen.FindCeiling(t.Context(), cfg, loadgen.Search{Growth: 2, Step: 5 * time.Second, MaxNodes: 4}, nil, func(s loadgen.Step) { _, _ = fmt.Fprintln(&said, s.GPUs) })
	if err != nil {
		if rep != nil && len(rep.Steps) > 0 && rep.Steps[0].ByLoadgen {
			t.Skipf("a slow machine: %v", err)
		}
		t.Fatal(err)
	}
	if rep.Ceiling == nil || len(rep.Steps) < 2 || rep.Steps[0].GPUs != 8 || rep.Ceiling.GPUs < 8 {
		t.Errorf("%+v, told %s", rep, said.String())
	}
	if text := rep.Text(); !strings.Contains(text, "Ceiling: ") {
		t.Error(text)
	}
	t.Log(rep.Text())
}
