package e2e_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/agent/bmc/fakebmc"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestEverythingAHostShows: the real agent as it is installed, with everything on, on a host
// that has fake GPUs, a Slurm job, a process that calls a stub of NCCL, talks over TCP and
// writes a checkpoint, and a management controller. All of it arrives in ClickHouse, right,
// and no name in clear.
func TestEverythingAHostShows(t *testing.T) {
	if os.Getuid() != 0 {
		testenv.Need(t, "bpf", errors.New("it needs root"))
	}
	if testing.Short() {
		t.Skip("it takes most of a minute")
	}
	h := newHost(t)
	d := h.startCustomer()
	h.startAgent()

	// A communicator from before the agent's time, on which calls are counted all the same.
	d.say("init 1 8 0 9")
	h.eventually("calls are counted", func() bool {
		d.say("coll allreduce 1 1000 9 100")
		return h.count("collective_samples", "") > 0
	})
	// One from its time: 300 calls of 1,000 bf16 each on 16 ranks, of which this is rank 5.
	d.say("init 0 16 5 3")
	d.say("coll allreduce 0 1000 9 300")
	h.eventually("all calls are told", func() bool { return h.count("collective_samples", "nranks = 16") > 0 })
	// What is not known to be on a GPU is not looked at: bytes and files of before that are nobody's.
	for _, instrument := range []string{"job", "kernel/proc", "kernel/sock", "kernel/file"} {
		h.eventually(instrument+" knows the GPUs' processes", func() bool {
			return h.text("SELECT argMax((state, ifNull(reason, '')), ts_ms) FROM instrument_status WHERE instrument = '"+instrument+"'") == "('active','')"
		})
	}
	received := h.talk(3 << 20)
	h.checkpoint()
	if err := h.gpus.Push(nvmlstub.Event{GPU: 3, Type: 8, Data: 79}); err != nil { // an Xid
		t.Fatal(err)
	}
	for table, where := range map[string]string{
		"gpu_samples": "mma_cycles > 0 AND sm_cycles_elapsed > 0", "gpu_health": "power_limit_mw > 0", "gpu_events": "event = 'xid' AND code = 79 AND gpu = 3",
		"gpu_devices": "serial != '' AND architecture = 'hopper'", "gpu_holds": "job_id = '4711' AND evidence = 'slurm_file'", "process_events": "job_id = '4711'",
		"tcp_samples": "tx_bytes > 0", "bmc_samples": "vantage = 'outofband' AND tensor_e4 > 0", "node_facts": "name = 'address'",
		"fabric_samples": "tx_packets >= 0", "host_samples": "cpu_e4 >= 0",
	} {
		h.eventually(table+" where "+where, func() bool { return h.count(table, where) > 0 })
	}
	d.quit()
	h.eventually("the customer's end", func() bool {
		return h.count("process_events", fmt.Sprintf("pid = %d AND end_ms > 0 AND exit_code = 0 AND nccl = 'visible' AND world_size = 16 AND rank = 5", d.cmd.Process.Pid)) > 0
	})
	h.stopAgent()

	if got := h.number("SELECT sum(tx_bytes) FROM tcp_samples WHERE peer != ''"); got < received || got > received+received/50 {
		t.Errorf("%d bytes sent by TCP, %d were received", got, received)
	}
	if got := h.text("SELECT op, sum(calls), sum(bytes), any(rank), any(dtype_bytes), length(any(comm)) FROM collective_samples WHERE nranks = 16 GROUP BY op"); got != "allreduce\t300\t600000\t5\tbf16:600000\t32" {
		t.Errorf("collectives %q", got)
	}
	if got := h.text("SELECT DISTINCT target FROM bmc_samples"); got != "other-host" {
		t.Errorf("a controller of %q", got)
	}
	if burst := h.number("SELECT max(n) FROM (SELECT count() AS n FROM gpu_samples WHERE gpu = 0 GROUP BY intDiv(ts_ms, 1000))"); burst < 4 {
		t.Errorf("%d samples in the densest second: no burst", burst)
	}
	for _, table := range store.RawTables() {
		rows, distinct, err := h.st.Count(t.Context(), table)
		if err != nil || rows != distinct {
			t.Errorf("%s: %d rows, %d distinct: %v", table, rows, distinct, err)
		}
	}
	h.noNames("anna", "secret-model", hereAddress, thereAddress, "29500")
	calls := h.gpus.Snapshot()
	for g := range 8 {
		if most := h.gpus.MostInFlight(g); most > 1 {
			t.Errorf("GPU %d: %d calls at once", g, most)
		}
	}
	if per := float64(calls.Total(-1)) / 8 / h.ran.Seconds(); per > maxCalls {
		t.Errorf("%.1f calls per GPU and second", per)
	}
}

// host is a machine with an agent, and the fleet's side of it.
type host struct {
	t        *testing.T
	dir      string
	gpus     *nvmlstub.Memory
	lib      string
	st       *store.Store
	database string
	natsURL  string

	url, user, password string // ClickHouse's
	agent               *exec.Cmd
	started             time.Time
	ran                 time.Duration
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), database: fmt.Sprintf("host_%d", os.Getpid())}
	_, h.lib = fakeGPUs(t)
	var err error
	h.url, h.user, h.password = testenv.ClickHouse(t)
	if h.st, err = store.Open(t.Context(), store.Config{URL: h.url, User: h.user, Password: h.password, Database: h.database}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.st.Close() })
	if err = h.st.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	nc, natsURL := testenv.NATS(t)
	h.natsURL = natsURL
	js, err := ship.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{}); err != nil {
		t.Fatal(err)
	}
	c, err := collector.Open(t.Context(), collector.Config{Conn: nc, Store: h.st, Partitions: collector.Partitions(broker.EmbeddedPartitions), Instance: "host",
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})), Linger: 50 * time.Millisecond, Batch: batch.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var g errgroup.Group
	g.Go(func() error { return c.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	for _, tool := range []string{"flopwatch-agent", "flopwatch-nvml"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", h.dir, "./cmd/"+tool)
		cmd.Dir = testenv.Root(t)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if tool == "flopwatch-nvml" {
			cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", tool, err, out)
		}
	}
	return h
}

// customer is a process on the GPUs.
type customer struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startCustomer starts a process that is on all GPUs, in the job 4711 of anna.
func (h *host) startCustomer() *customer {
	h.t.Helper()
	stub := filepath.Join(testenv.Root(h.t), "agent/kernel/nccl/testdata/stub")
	for _, name := range []string{"driver", "libnccl.so.2"} {
		b, err := os.ReadFile(filepath.Join(stub, name))
		if err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(h.dir, name), b, 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	c := &customer{t: h.t, cmd: exec.Command(filepath.Join(h.dir, "driver"))}
	c.cmd.Env = []string{"MASTER_ADDR=secret-model.example", "MASTER_PORT=29500", "WORLD_SIZE=16", "RANK=5"}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err = c.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = c.in.Close()
		_ = c.cmd.Wait() // its end is the end of its input
	})
	scenario := nvmlstub.H100x8Training(0, time.Hour)
	all := []int{0, 1, 2, 3, 4, 5, 6, 7}
	scenario.Processes = []nvmlstub.Process{
		{PID: uint32(c.cmd.Process.Pid), GPUs: all, UsedBytes: 70 << 30, To: time.Hour},
		{PID: uint32(os.Getpid()), GPUs: all[:1], UsedBytes: 1 << 30, To: time.Hour}, // which talks and writes
	}
	if h.gpus, err = nvmlstub.Create(filepath.Join(filepath.Dir(h.lib), nvmlstub.Shared), scenario); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = h.gpus.Close() })
	prolog := exec.CommandContext(h.t.Context(), filepath.Join(testenv.Root(h.t), "deploy/slurm/prolog-flopwatch.sh"))
	// The job holds all GPUs that the customer is on, so that he is its. This process, which
	// may be a minute older than the job, need not be.
	var held []string
	for _, g := range all {
		held = append(held, h.gpus.UUID(g))
	}
	prolog.Env = []string{"PATH=" + os.Getenv("PATH"), "FLOPWATCH_SLURM_DIR=" + filepath.Join(h.dir, "slurm"), "SLURM_JOB_ID=4711", "SLURM_JOB_UID=1000", "SLURM_JOB_USER=anna",
		"SLURM_JOB_ACCOUNT=secret-model", "SLURM_JOB_GPUS=0,1,2,3,4,5,6,7", "CUDA_VISIBLE_DEVICES=" + strings.Join(held, ",")}
	if text, err := prolog.CombinedOutput(); err != nil {
		h.t.Fatalf("prolog: %v\n%s", err, text)
	}
	return c
}

// say gives the customer a command and waits until it is done.
func (c *customer) say(command string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, command+"\n"); err != nil {
		c.t.Fatal(err)
	}
	if answer, err := c.out.ReadString('\n'); err != nil || answer != "ok\n" {
		c.t.Fatalf("%s: %q, %v", command, answer, err)
	}
}

// quit ends the customer.
func (c *customer) quit() {
	c.t.Helper()
	_ = c.in.Close()
	if err := c.cmd.Wait(); err != nil {
		c.t.Fatal(err)
	}
}

func (h *host) startAgent() {
	h.t.Helper()
	controller, err := fakebmc.Start(fakebmc.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = controller.Close() })
	credentials := filepath.Join(h.dir, "bmc")
	if err = os.WriteFile(credentials, []byte("admin\nsecret\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
	config := fmt.Sprintf(`cluster = "main"
node = "gpu-1"
data_dir = %q
seal_every = "2s"
[burst]
every = "10s"
length = "3s"
[gpu]
library = %q
process_interval = "2s"
slow_interval = "10s"
[job]
slurm_dir = %q
environ = true
[kernel]
max_load = 1.0 # other tests of this machine may have libraries of their own, called without end
[[bmc.target]]
node = "other-host"
address = %q
credentials_file = %q
fingerprint = %q
interval = "10s"
[nats]
url = %q
[metrics]
listen = ""
`, filepath.Join(h.dir, "data"), h.lib, filepath.Join(h.dir, "slurm"), controller.URL(), credentials, controller.Fingerprint(), h.natsURL)
	path := filepath.Join(h.dir, "agent.toml")
	if err = os.WriteFile(path, []byte(config), 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.agent = exec.Command(filepath.Join(h.dir, "flopwatch-agent"), "-config", path)
	h.agent.Stdout, h.agent.Stderr = h.t.Output(), h.t.Output()
	if err = h.agent.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.started = time.Now()
	h.t.Cleanup(h.stopAgent)
}

func (h *host) stopAgent() {
	if h.agent == nil {
		return
	}
	_ = h.agent.Process.Signal(os.Interrupt) // it may have ended
	if err := h.agent.Wait(); err != nil {
		h.t.Errorf("agent: %v", err)
	}
	h.agent, h.ran = nil, time.Since(h.started)
}

// Addresses of the wire between this machine and the other one, which tests of others do not
// use.
const (
	hereAddress  = "10.213.7.1"
	thereAddress = "10.213.7.2"
)

// otherMachine makes a network namespace with a wire to it.
func (h *host) otherMachine() (name string) {
	h.t.Helper()
	_, err := exec.LookPath("ip")
	testenv.Need(h.t, "iproute2", err)
	name = fmt.Sprintf("fwe2e%d", os.Getpid()%10000)
	h.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() }) // the wire goes with it
	for _, args := range [][]string{
		{"netns", "add", name}, {"link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name},
		{"addr", "add", hereAddress + "/30", "dev", name}, {"link", "set", name, "up"},
		{"-n", name, "addr", "add", thereAddress + "/30", "dev", "eth0"}, {"-n", name, "link", "set", "eth0", "up"}, {"-n", name, "link", "set", "lo", "up"},
	} {
		if out, err := exec.CommandContext(h.t.Context(), "ip", args...).CombinedOutput(); err != nil {
			h.t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	return name
}

// TestSink is no test: it is the program that runs on the other machine, and counts what comes.
func TestSink(t *testing.T) {
	at := os.Getenv("FLOPWATCH_E2E_SINK")
	if at == "" {
		return
	}
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("listening")
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, c)
	fmt.Println("received", n, err)
}

// talk sends bytes from this process, which is on a GPU, to the other machine, and returns
// how many arrived.
func (h *host) talk(n int64) int64 {
	h.t.Helper()
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	at := net.JoinHostPort(thereAddress, "47111")
	sink := exec.CommandContext(h.t.Context(), "ip", "netns", "exec", h.otherMachine(), self, "-test.run=^TestSink$", "-test.v")
	sink.Env = append(os.Environ(), "FLOPWATCH_E2E_SINK="+at)
	out, err := sink.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err = sink.Start(); err != nil {
		h.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	next := func(prefix string) string {
		for lines.Scan() {
			if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
				return rest
			}
		}
		h.t.Fatalf("the sink ended before it said %s", prefix)
		return ""
	}
	next("listening")
	c, err := (&net.Dialer{}).DialContext(h.t.Context(), "tcp", at)
	if err != nil {
		h.t.Fatal(err)
	}
	for range 3 {
		if _, err := c.Write(make([]byte, n/3)); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		h.t.Fatal(err)
	}
	var got int64
	if _, err := fmt.Sscan(next("received "), &got); err != nil {
		h.t.Fatal(err)
	}
	if err := sink.Wait(); err != nil {
		h.t.Fatal(err)
	}
	return got
}

// checkpoint writes a file as a training does, 15 MiB/s, until it was told: on a busy machine
// the agent's looks are up to half a minute apart.
func (h *host) checkpoint() {
	h.t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "anna")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f, err := os.Create(filepath.Join(dir, "secret-model.pt"))
	if err != nil {
		h.t.Fatal(err)
	}
	block := make([]byte, 4<<20)
	h.eventually("a checkpoint", func() bool {
		if _, err := f.Write(block); err != nil {
			h.t.Fatal(err)
		}
		return h.count("checkpoints", "bytes >= 67108864") > 0
	})
	if err := f.Close(); err != nil {
		h.t.Fatal(err)
	}
}

// ask puts a question to ClickHouse.
func (h *host) ask(sql string) string {
	h.t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(h.t.Context()), http.MethodPost, h.url+"/?database="+h.database, strings.NewReader(sql+" FORMAT TSVRaw"))
	if err != nil {
		h.t.Fatal(err)
	}
	req.SetBasicAuth(h.user, h.password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		h.t.Fatalf("%s: %v %s\n%s", sql, err, resp.Status, text)
	}
	return strings.TrimSpace(string(text))
}

func (h *host) text(sql string) string { h.t.Helper(); return h.ask(sql) }

func (h *host) number(sql string) int64 {
	h.t.Helper()
	var n int64
	if _, err := fmt.Sscan(h.ask(sql), &n); err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (h *host) count(table, where string) int64 {
	h.t.Helper()
	if where == "" {
		where = "1"
	}
	return h.number("SELECT count() FROM " + table + " WHERE " + where)
}

// noNames looks through every text of every raw table.
func (h *host) noNames(names ...string) {
	h.t.Helper()
	for _, table := range store.RawTables() {
		columns := h.ask("SELECT arrayStringConcat(groupArray('toString(' || name || ')'), ' || \\' \\' || ') FROM (SELECT name FROM system.columns WHERE database = '" + h.database +
			"' AND table = '" + table + "' AND type ILIKE '%String%')")
		columns = strings.NewReplacer("toString(", "ifNull(toString(", ")", "), '')").Replace(columns)
		for _, name := range names {
			if n := h.number("SELECT countIf(position(" + columns + ", '" + name + "') > 0) FROM " + table); n > 0 {
				h.t.Errorf("%q is in %d rows of %s: %s", name, n, table, h.ask("SELECT * FROM "+table+" WHERE position("+columns+", '"+name+"') > 0 LIMIT 1"))
			}
		}
	}
}

func (h *host) eventually(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.NewTimer(90 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			h.t.Fatalf("waited in vain: %s\nstates: %s", what, h.ask("SELECT instrument, argMax((state, ifNull(reason, '')), ts_ms) FROM instrument_status GROUP BY instrument ORDER BY instrument"))
		}
	}
}
