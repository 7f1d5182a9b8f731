package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/broker/natsd"
	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// binaries are built once for all tests, into a folder that the last one removes.
var binaries struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if binaries.dir != "" {
		_ = os.RemoveAll(binaries.dir)
	}
	os.Exit(code)
}

func binary(t *testing.T) string {
	t.Helper()
	binaries.once.Do(func() {
		if binaries.dir, binaries.err = os.MkdirTemp("", "flopwatch-agent-test"); binaries.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", binaries.dir, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			binaries.err = fmt.Errorf("build: %w\n%s", err, out)
		}
	})
	if binaries.err != nil {
		t.Fatal(binaries.err)
	}
	return filepath.Join(binaries.dir, "flopwatch-agent")
}

// child builds the child that reads GPUs, beside the agent.
func child(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("gcc")
	testenv.Need(t, "cc", err)
	cmd := exec.Command("go", "build", "-o", filepath.Dir(binary(t)), "../flopwatch-nvml")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// process is a real agent.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	log *buffer
	end func() error
}

func start(t *testing.T, config string, env ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(binary(t), "-config", config), log: &buffer{}}
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.end = sync.OnceValue(p.cmd.Wait)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.end()
	})
	return p
}

// says waits for a line in the log.
func (p *process) says(word string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%q in the log", word), func() bool { return strings.Contains(p.log.String(), word) }, p.log.String)
}

// stop ends the agent as systemd does, and wants exit code 0.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if err := p.end(); err != nil {
		p.t.Fatalf("%v; log:\n%s", err, p.log)
	}
}

func eventually(t *testing.T, what string, ok func() bool, more func() string) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-poll.C:
		case <-deadline.C:
			t.Fatalf("no %s within 30 s\n%s", what, more())
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// fast is a configuration whose agent samples and seals as often as it may.
func fast(dir, natsURL, more string) string {
	every := "1s"
	if strings.Contains(more, noGPU) {
		every = "200ms"
	}
	return fmt.Sprintf("cluster = \"c\"\nnode = \"n1\"\ndata_dir = %q\ninterval = %q\nseal_every = %q\n%s\n[nats]\nurl = %q\n", dir, every, every, more, natsURL)
}

const noGPU = "[gpu]\nenabled = false\n"

// collectorFake stores every frame that is published and commits all but the newest.
type collectorFake struct {
	mu     sync.Mutex
	frames map[uint64][]byte
	spools map[[16]byte]bool
	bad    []string
	rows   map[int64]uint64 // ts of fabric rows of one port, by sequence
}

func collect(t *testing.T, nc *nats.Conn) *collectorFake {
	t.Helper()
	js, err := ship.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{}); err != nil {
		t.Fatal(err)
	}
	c := &collectorFake{frames: map[uint64][]byte{}, spools: map[[16]byte]bool{}, rows: map[int64]uint64{}}
	dec, err := wire.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Subscribe(wire.NodeSubject("c", "n1"), func(m *nats.Msg) {
		c.mu.Lock()
		defer c.mu.Unlock()
		var b wire.Batch
		if err := dec.Decode(m.Data, &b); err != nil {
			c.bad = append(c.bad, err.Error())
			return
		}
		c.spools[b.Spool] = true
		if old, ok := c.frames[b.Sequence]; ok && !bytes.Equal(old, m.Data) {
			c.bad = append(c.bad, fmt.Sprintf("two frames have the sequence %d", b.Sequence))
		}
		c.frames[b.Sequence] = m.Data
		for _, tab := range b.Tables {
			if tab.Kind != wire.KindFabric {
				continue
			}
			for row := range tab.Rows {
				if tab.Column(2).Str(row) != tab.Column(2).Str(0) {
					continue
				}
				ts := tab.Column(1).Int[row]
				if seq, ok := c.rows[ts]; ok && seq != b.Sequence {
					c.bad = append(c.bad, fmt.Sprintf("the row of %d is in frames %d and %d", ts, seq, b.Sequence))
				}
				c.rows[ts] = b.Sequence
			}
		}
		if b.Sequence > 2 {
			mark := wire.AppendCommitMark(nil, &wire.CommitMark{Cluster: "c", Node: "n1", Spool: b.Spool, Through: b.Sequence - 2})
			if err := nc.Publish(wire.CommitSubject("c", "n1"), mark); err != nil {
				c.bad = append(c.bad, err.Error())
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *collectorFake) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.frames)
}

// check wants all sequences from 1 on, once, in one chain, and ticks that no agent counts anew.
func (c *collectorFake) check(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.bad {
		t.Error(b)
	}
	if len(c.spools) != 1 {
		t.Errorf("%d spools", len(c.spools))
	}
	dec, err := wire.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	var prev [32]byte
	ticks := uint64(0)
	for seq := uint64(1); seq <= uint64(len(c.frames)); seq++ {
		frame, ok := c.frames[seq]
		if !ok {
			t.Fatalf("frame %d of %d is missing", seq, len(c.frames))
		}
		var b wire.Batch
		if err := dec.Decode(frame, &b); err != nil {
			t.Fatal(err)
		}
		if b.PrevDigest != prev {
			t.Errorf("the chain is broken at %d", seq)
		}
		prev = wire.Digest(frame)
		if b.FirstTick <= ticks || b.Ticks < b.FirstTick {
			t.Errorf("frame %d has ticks %d to %d, the one before it ended with %d", seq, b.FirstTick, b.Ticks, ticks)
		}
		ticks = b.Ticks
	}
}

// TestKillBeforeSeal: what an agent sampled and had not sealed when it was killed shows in the next batch, to the tick.
func TestKillBeforeSeal(t *testing.T) {
	nc, url := testenv.NATS(t)
	c := collect(t, nc)
	dir := t.TempDir()
	noted := func() (n uint64) {
		text, err := os.ReadFile(filepath.Join(dir, tickFile))
		if err != nil {
			return 0 // not there yet
		}
		if _, err = fmt.Sscanf(string(text[len("flopwatch ticks 1 ")+33:]), "%d", &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	fastest := fast(dir, url, "[metrics]\nlisten = \"\"\n"+noGPU)
	slow := write(t, strings.Replace(fastest, "seal_every = \"200ms\"", "seal_every = \"1m\"", 1))
	for killed := range uint64(2) { // two in a row: the second goes on where the first was
		p := start(t, slow)
		want := noted() + 5
		eventually(t, "ticks", func() bool { return noted() >= want }, p.log.String)
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.end() // it was killed
		if c.count() > 0 {
			t.Fatalf("agent %d sealed something", killed)
		}
	}
	lost := noted()
	p := start(t, write(t, fastest))
	eventually(t, "frames", func() bool { return c.count() >= 3 }, p.log.String)
	p.stop()
	c.mu.Lock()
	frame := c.frames[1]
	c.mu.Unlock()
	dec, err := wire.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	var b wire.Batch
	if err = dec.Decode(frame, &b); err != nil {
		t.Fatal(err)
	}
	if b.FirstTick != lost+1 || b.Ticks < b.FirstTick {
		t.Errorf("the first batch has ticks %d to %d, those before it took %d", b.FirstTick, b.Ticks, lost)
	}
	// One that was stopped has sealed all: the next goes on without a gap.
	before := noted()
	had := c.count()
	p = start(t, write(t, fastest))
	eventually(t, "frames", func() bool { return c.count() >= had+2 }, p.log.String)
	p.stop()
	c.check(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	last := uint64(0)
	for seq := uint64(1); seq <= uint64(len(c.frames)); seq++ {
		if err = dec.Decode(c.frames[seq], &b); err != nil {
			t.Fatal(err)
		}
		if b.FirstTick > last+1 && seq > 1 {
			t.Errorf("frame %d begins with tick %d behind %d; the agent was stopped at %d", seq, b.FirstTick, last, before)
		}
		last = b.Ticks
	}
}

// TestKill: an agent that is killed again and again loses nothing that it has sealed, and
// tells nothing twice.
func TestKill(t *testing.T) {
	nc, url := testenv.NATS(t)
	c := collect(t, nc)
	dir := t.TempDir()
	config := write(t, fast(dir, url, "[metrics]\nlisten = \"\"\n"+noGPU))
	var logs strings.Builder
	for range 6 {
		p := start(t, config)
		want := c.count() + 1 + rand.IntN(3)
		eventually(t, "frame", func() bool { return c.count() >= want }, p.log.String)
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.end() // it was killed
		logs.WriteString(p.log.String())
	}
	p := start(t, config)
	want := c.count() + 2
	eventually(t, "frame", func() bool { return c.count() >= want }, p.log.String)
	p.stop()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool", "c.n1")})
	if err != nil {
		t.Fatal(err)
	}
	sealed := sp.NextSequence() - 1
	if err := sp.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "last frame", func() bool { return uint64(c.count()) >= sealed }, p.log.String)
	c.check(t)
	if n := uint64(c.count()); n != sealed {
		t.Errorf("%d frames arrived, %d were sealed", n, sealed)
	}
	if t.Failed() {
		t.Log(logs.String())
	}
}

// TestBrokerAppears: without a broker the agent samples; what it has it publishes when the
// broker comes; and without one it ends with exit code 0.
func TestBrokerAppears(t *testing.T) {
	port := freePort(t)
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(secret, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("nats://127.0.0.1:%d", port)
	metrics := freePort(t)
	config := write(t, fast(dir, url, fmt.Sprintf("[metrics]\nlisten = \"127.0.0.1:%d\"\n", metrics)+noGPU)+fmt.Sprintf("token_file = %q\n", secret))
	p := start(t, config)
	p.says("the broker is away")
	eventually(t, "batches", func() bool { return metric(t, metrics, "flopwatch_agent_sealed_batches_total ") >= 3 }, p.log.String)
	p.stop()
	if strings.Contains(p.log.String(), "headers not supported") || strings.Contains(p.log.String(), "buffer limit") {
		t.Errorf("a broker that is away is said to lack something:\n%s", p.log)
	}
	if n := strings.Count(p.log.String(), "the broker is away"); n > 3 {
		t.Errorf("said %d times:\n%s", n, p.log)
	}
	p = start(t, config)
	p.says("the broker is away")
	srv, err := natsd.StartServer(t.Context(), natsd.ServerConfig{Dir: t.TempDir(), Port: port, Token: "sesame"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := srv.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	nc, err := broker.Connect(broker.ConnectConfig{URL: srv.URL(), Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := collect(t, nc)
	eventually(t, "frames", func() bool { return c.count() >= 6 }, p.log.String)
	p.stop()
	c.check(t)
}

// TestWrongCredentials: said clearly and once, and the agent goes on.
func TestWrongCredentials(t *testing.T) {
	srv := testenv.NATSServer(t, t.TempDir())
	secret := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(secret, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := srv.URL()
	url = "nats://" + url[strings.Index(url, "@")+1:]
	p := start(t, write(t, fast(t.TempDir(), url, "[metrics]\nlisten = \"\"\n"+noGPU)+fmt.Sprintf("token_file = %q\n", secret)))
	p.says("the broker refuses this agent's credentials")
	p.says("there is no connection to the broker") // why nothing is shipped
	p.stop()
	if log := p.log.String(); strings.Count(log, "refuses") != 1 || !strings.Contains(log, secret) || strings.Contains(log, "wrong") {
		t.Errorf("log:\n%s", log)
	}
}

// TestNoDriver: said once; the rest is sampled; exit code 0.
func TestNoDriver(t *testing.T) {
	child(t)
	metrics := freePort(t)
	p := start(t, write(t, fast(t.TempDir(), "nats://127.0.0.1:1", fmt.Sprintf("[metrics]\nlisten = \"127.0.0.1:%d\"\n[gpu]\nlibrary = \"/nowhere/libnvidia-ml.so.1\"\n", metrics))))
	p.says("GPUs are not watched")
	eventually(t, "rows", func() bool { return metric(t, metrics, `flopwatch_agent_rows_total{kind="host"} `) >= 1 }, p.log.String)
	h := health(t, metrics)
	if h.State != daemon.Degraded || !strings.Contains(strings.Join(h.Reasons, "\n"), "gpu is unavailable: ") {
		t.Errorf("health %+v", h)
	}
	p.stop()
	if n := strings.Count(p.log.String(), "GPUs are not watched"); n != 1 {
		t.Errorf("said %d times:\n%s", n, p.log)
	}
}

func get(t *testing.T, port int, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "" // not yet
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(b)
}

// metric is -1 while there is none.
func metric(t *testing.T, port int, name string) float64 {
	t.Helper()
	for line := range strings.Lines(get(t, port, "/metrics")) {
		var v float64
		if rest, ok := strings.CutPrefix(line, name); ok {
			if _, err := fmt.Sscan(rest, &v); err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return -1
}

func health(t *testing.T, port int) (h daemon.Health) {
	t.Helper()
	if err := json.Unmarshal([]byte(get(t, port, "/healthz")), &h); err != nil {
		t.Fatal(err)
	}
	return h
}

// TestReload: SIGHUP changes what can change; what cannot, or a broken file, changes nothing;
// systemd hears of it all.
func TestReload(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	told := func(want string) {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1024)
		for {
			n, err := conn.Read(b)
			if err != nil {
				t.Fatalf("systemd waits for %q: %v", want, err)
			}
			if strings.HasPrefix(string(b[:n]), want) {
				return
			}
		}
	}
	dir, metrics := t.TempDir(), freePort(t)
	listen := fmt.Sprintf("[metrics]\nlisten = \"127.0.0.1:%d\"\n", metrics)
	text := fast(dir, "nats://127.0.0.1:1", listen+noGPU)
	config := write(t, text)
	p := start(t, config, "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=1000000")
	told("READY=1")
	told("WATCHDOG=1")
	reload := func(text, word string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		before := strings.Count(p.log.String(), word)
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		told("RELOADING=1")
		told("READY=1")
		eventually(t, word, func() bool { return strings.Count(p.log.String(), word) > before }, p.log.String)
	}
	has := func(source string) bool {
		return strings.Contains(get(t, metrics, "/metrics"), `flopwatch_agent_source_samples_total{source="`+source+`"}`)
	}
	reload("cluster = ", "the configuration was not taken up; the old one holds")
	reload(strings.Replace(text, `cluster = "c"`, `cluster = "d"`, 1), "a running agent cannot change cluster: restart it")
	reload(strings.Replace(text, dir, dir+"2", 1)+"inbox_prefix = \"_X\"\n", "cannot change data_dir, nats.inbox_prefix: restart it")
	if !has("fabric") || strings.Contains(p.log.String(), "level=DEBUG") {
		t.Error("something has changed")
	}
	reload(text+"[fabric]\nenabled = false\n[log]\nlevel = \"debug\"\n", "configuration taken up")
	eventually(t, "end of fabric", func() bool { return !has("fabric") && has("host") }, p.log.String)
	reload(text, "configuration taken up")
	eventually(t, "fabric", func() bool { return has("fabric") }, p.log.String)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	told("STOPPING=1")
	if err := p.end(); err != nil {
		t.Fatalf("%v\n%s", err, p.log)
	}
}

// TestTwoAgents: the second on a data directory says so and ends.
func TestTwoAgents(t *testing.T) {
	config := write(t, fast(t.TempDir(), "nats://127.0.0.1:1", "[metrics]\nlisten = \"\"\n"+noGPU))
	p := start(t, config)
	p.says("sampling")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	other := write(t, strings.Replace(string(text), `node = "n1"`, `node = "n2"`, 1))
	for _, file := range []string{config, other} { // under another name too
		second := start(t, file)
		err = second.end()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != daemon.ExitFailure || !strings.Contains(second.log.String(), "another flopwatch-agent runs on data_dir") {
			t.Errorf("%v\n%s", err, second.log)
		}
	}
	p.stop()
}

// childOf finds the child of that name.
func childOf(t *testing.T, parent int, name string) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		var pid, ppid int
		var state string
		head, tail, _ := strings.Cut(string(text), " ("+name[:min(len(name), 15)]+") ")
		if _, err = fmt.Sscan(head+" "+tail, &pid, &state, &ppid); err == nil && ppid == parent {
			return pid
		}
	}
	t.Fatalf("process %d has no child %s", parent, name)
	return 0
}

// TestGPUs: eight GPUs under dcgm-exporter's names; the child is killed and comes back, and
// the agent with it all the while.
func TestGPUs(t *testing.T) {
	child(t)
	dir := t.TempDir()
	library, err := nvmlstub.Build(t.Context(), dir, nvmlstub.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mem, err := nvmlstub.Create(filepath.Join(dir, nvmlstub.Shared), nvmlstub.Demo(nvmlstub.H100SXM, 8, uint32(os.Getpid())))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	metrics := freePort(t)
	text := fast(t.TempDir(), "nats://127.0.0.1:1", fmt.Sprintf("[metrics]\nlisten = \"127.0.0.1:%d\"\ngpu = true\n[gpu]\nlibrary = %q\n", metrics, library))
	config := write(t, text)
	p := start(t, config)
	const util = "\nDCGM_FI_DEV_GPU_UTIL{"
	shown := func() int { return strings.Count(get(t, metrics, "/metrics"), util) }
	eventually(t, "GPUs", func() bool { return shown() == 8 }, p.log.String)
	if page := get(t, metrics, "/metrics"); !strings.Contains(page, `UUID="`+mem.UUID(3)+`"`) || !strings.Contains(page, `Hostname="n1"`) {
		t.Errorf("page:\n%s", page)
	}
	pid := childOf(t, p.cmd.Process.Pid, "flopwatch-nvml")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "restart", func() bool { return metric(t, metrics, "flopwatch_agent_nvml_restarts_total ") == 1 && shown() == 8 }, p.log.String)
	if err := os.WriteFile(config, []byte(strings.Replace(text, "gpu = true", "gpu = false", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.says("configuration taken up")
	if n := shown(); n != 0 {
		t.Errorf("%d GPUs are shown", n)
	}
	p.stop()
}
