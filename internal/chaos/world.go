package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
)

// Options say of what a world is made.
type Options struct {
	// Bin has the commands, engine/libchdb.so and stub/libnvidia-ml.so.1.
	Bin string
	// Dir is where the world lives; it is removed by who made it.
	Dir string
	// Agents is how many nodes there are.
	Agents int
	// Apart gives every process a network namespace, and every disk a size: it needs root.
	Apart bool
}

const (
	cluster = "chaos"
	gpus    = 2
	// They contend.
	collectors = 2
	// Sizes of the disks.
	spoolDisk, brokerDisk, engineDisk = 24 << 20, 96 << 20, 768 << 20
	spoolMax                          = 6 << 20
	streamMax                         = 96 << 10 // so that a stall fills them
	partitions                        = 4
	engineMemory                      = 1 << 30
)

// world is a small fleet: agents with fake GPUs, a broker, two collectors, an engine, each a
// process of the commands that ship, and each at a place of its own.
type world struct {
	o       Options
	net     *network
	agents  []*process
	broker  *process
	collect []*process
	engine  *process
	oracle  *oracle
	drivers []*nvmlstub.Memory
	mounts  []string

	natsPort, enginePort int
	token, password      string

	nc   *nats.Conn // at the broker's place
	tap  *tap
	http *http.Client // at the engine's place

	watching sync.WaitGroup
	stop     context.CancelFunc
	mu       sync.Mutex
	broken   error // of a watcher

	peaks map[string]int64 // by process
	notes []string
}

// sketch is a world of names alone, for faults that are drawn and not made.
func sketch(o Options) *world {
	w := &world{o: o, net: &network{}, oracle: newOracle(), broker: &process{name: "broker"}, engine: &process{name: "engine"}}
	for _, name := range w.nodes() {
		w.agents = append(w.agents, &process{name: name})
	}
	for i := range collectors {
		w.collect = append(w.collect, &process{name: collectorName(i)})
	}
	return w
}

func (w *world) nodes() []string {
	var all []string
	for i := range w.o.Agents {
		all = append(all, node(i))
	}
	return all
}

func node(i int) string { return fmt.Sprintf("gpu-%d", i) }

func collectorName(i int) string { return fmt.Sprintf("col%d", i) }

// openWorld starts everything and waits until something is stored.
func openWorld(ctx context.Context, o Options) (w *world, err error) {
	w = &world{o: o, oracle: newOracle(), peaks: map[string]int64{}}
	if w.o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, fmt.Errorf("open world: %w", err)
	}
	if w.o.Bin, err = filepath.Abs(o.Bin); err != nil {
		return nil, fmt.Errorf("open world: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	names := append(w.nodes(), "broker", collectorName(0), collectorName(1), "engine")
	if w.net, err = openNetwork(ctx, fmt.Sprintf("fwc%d%s-", os.Getpid(), filepath.Base(w.o.Dir)), o.Apart, names...); err != nil {
		return nil, err
	}
	for name, size := range map[string]int{"broker": brokerDisk, "engine": engineDisk} {
		if err = w.disk(name, size); err != nil {
			return nil, err
		}
	}
	ports, err := freePorts(ctx, 2)
	if err != nil {
		return nil, err
	}
	w.natsPort, w.enginePort = ports[0], ports[1]
	w.token = "chaos"
	if err = os.WriteFile(w.path("token"), []byte(w.token), 0o600); err != nil {
		return nil, fmt.Errorf("write token: %w", err)
	}
	if err = os.WriteFile(w.path("password"), []byte("chaos\n"), 0o600); err != nil {
		return nil, fmt.Errorf("write password: %w", err)
	}
	w.password = "chaos"
	at := w.net.places
	w.engine = w.process("engine", at["engine"], w.bin("flopwatch"), "clickhouse", "--data", w.path("engine"), "--lib", w.bin("engine/libchdb.so"),
		"--listen", net.JoinHostPort(at["engine"].ip, strconv.Itoa(w.enginePort)), "--password-file", w.path("password"), "--memory-bytes", strconv.Itoa(engineMemory))
	w.broker = w.process("broker", at["broker"], w.bin("flopwatch"), "nats", "--config", w.path("broker.conf"))
	conf := fmt.Sprintf("server_name: chaos\nlisten: %q\nauthorization { token: %q }\njetstream { store_dir: %q, max_file: 1GB, max_mem: 64MB }\n",
		net.JoinHostPort(at["broker"].ip, strconv.Itoa(w.natsPort)), w.token, w.path("broker"))
	if err = os.WriteFile(w.path("broker.conf"), []byte(conf), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	for _, p := range []*process{w.engine, w.broker} {
		if err = p.start(); err != nil {
			return nil, err
		}
	}
	w.http = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DialContext: at["engine"].dial, DisableKeepAlives: true}}
	if err = until(ctx, time.Minute, "the engine answers", func() error { _, aerr := w.ask(ctx, "SELECT 1"); return aerr }); err != nil {
		return nil, err
	}
	err = until(ctx, time.Minute, "the broker answers", func() error {
		var cerr error
		w.nc, cerr = nats.Connect(w.natsURL(), nats.Token(w.token), nats.SetCustomDialer(dialer{at["broker"]}), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
			nats.ReconnectJitter(0, 0), nats.PingInterval(2*time.Second))
		return cerr
	})
	if err != nil {
		return nil, err
	}
	if w.tap, err = openTap(w.nc); err != nil {
		return nil, err
	}
	for i := range collectors {
		if err = w.startCollector(i); err != nil {
			return nil, err
		}
	}
	for i := range o.Agents {
		if err = w.startAgent(watch, i); err != nil {
			return nil, err
		}
	}
	return w, until(ctx, 2*time.Minute, "every node is stored", func() error {
		text, aerr := w.ask(ctx, "SELECT uniqExact(node) FROM flopwatch.batches")
		if aerr == nil && strings.TrimSpace(text) != strconv.Itoa(o.Agents) {
			aerr = fmt.Errorf("%s nodes are", strings.TrimSpace(text))
		}
		return aerr
	})
}

func (w *world) path(names ...string) string {
	return filepath.Join(append([]string{w.o.Dir}, names...)...)
}
func (w *world) bin(name string) string { return filepath.Join(w.o.Bin, name) }
func (w *world) natsURL() string {
	return "nats://" + net.JoinHostPort(w.net.places["broker"].ip, strconv.Itoa(w.natsPort))
}
func (w *world) engineURL() string {
	return "http://" + net.JoinHostPort(w.net.places["engine"].ip, strconv.Itoa(w.enginePort))
}

func (w *world) process(name string, at *place, argv ...string) *process {
	return &process{name: name, at: at, argv: argv, logPath: w.path(name + ".log")}
}

func (w *world) processes() []*process {
	var all []*process
	for _, p := range append(slices.Clone(w.agents), append(slices.Clone(w.collect), w.broker, w.engine)...) {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// disk makes a folder, of a size where that is possible.
func (w *world) disk(name string, size int) error {
	dir := w.path(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	if !w.o.Apart {
		return nil
	}
	if err := unix.Mount("flopwatch-chaos", dir, "tmpfs", 0, "mode=0700,size="+strconv.Itoa(size)); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	w.mounts = append(w.mounts, dir)
	return nil
}

func (w *world) startCollector(i int) error {
	name := collectorName(i)
	config := fmt.Sprintf(`store_password_file = %q
linger = "200ms"
[nats]
url = %q
token_file = %q
partitions = %d
stream_max_bytes = %d
lease_ttl = %q
[store]
url = %q
timeout = "20s"
[metrics]
listen = ""
`, w.path("password"), w.natsURL(), w.path("token"), partitions, streamMax, leaseTTL, w.engineURL())
	if err := os.WriteFile(w.path(name+".toml"), []byte(config), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	p := w.process(name, w.net.places[name], w.bin("flopwatch-collector"), "-config", w.path(name+".toml"))
	w.collect = append(w.collect, p)
	return p.start()
}

func (w *world) startAgent(watch context.Context, i int) error {
	name := node(i)
	if err := w.disk(name, spoolDisk); err != nil {
		return err
	}
	driver := w.path("driver-" + name)
	if err := os.MkdirAll(driver, 0o755); err != nil {
		return fmt.Errorf("make driver: %w", err)
	}
	if err := copyFile(filepath.Join(driver, nvmlstub.Library), w.bin("stub/"+nvmlstub.Library)); err != nil {
		return err
	}
	m, err := nvmlstub.Create(filepath.Join(driver, nvmlstub.Shared), nvmlstub.Training(nvmlstub.H100SXM, gpus, 0, 24*time.Hour))
	if err != nil {
		return fmt.Errorf("make driver: %w", err)
	}
	w.drivers = append(w.drivers, m)
	// Frames of a second, and bursts, so that there is much to get wrong.
	config := fmt.Sprintf(`cluster = %q
node = %q
data_dir = %q
seal_every = "1s"
[burst]
every = "20s"
length = "5s"
spacing = "200ms"
[gpu]
library = %q
child = %q
[kernel]
enabled = false
[spool]
max_bytes = %d
[nats]
url = %q
token_file = %q
[metrics]
listen = ""
`, cluster, name, w.path(name), filepath.Join(driver, nvmlstub.Library), w.bin("flopwatch-nvml"), spoolMax, w.natsURL(), w.path("token"))
	if err = os.WriteFile(w.path(name+".toml"), []byte(config), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	w.watching.Go(func() {
		if werr := w.oracle.watch(watch, name, w.spoolDir(name)); werr != nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.broken = errors.Join(w.broken, werr)
		}
	})
	p := w.process(name, w.net.places[name], w.bin("flopwatch-agent"), "-config", w.path(name+".toml"))
	w.agents = append(w.agents, p)
	return p.start()
}

// spoolDir is where the frames of a node lie.
func (w *world) spoolDir(node string) string { return w.path(node, "spool", cluster+"."+node) }

// stopAgents ends them as systemd would, so that all they have is sealed.
func (w *world) stopAgents() error {
	var err error
	for _, p := range w.agents {
		err = errors.Join(err, p.stop(40*time.Second))
	}
	return err
}

// close ends everything. What is on disk stays, but for the disks of a size.
func (w *world) close() error {
	if w.tap != nil {
		w.tap.close()
	}
	if w.nc != nil {
		w.nc.Close()
	}
	var err error
	for _, p := range w.processes() {
		_ = p.signal(unix.SIGCONT)
	}
	for _, p := range w.processes() {
		err = errors.Join(err, p.stop(20*time.Second))
	}
	if w.stop != nil {
		w.stop()
	}
	w.watching.Wait()
	for _, m := range w.drivers {
		err = errors.Join(err, m.Close())
	}
	for _, dir := range w.mounts {
		err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
	}
	if w.net != nil {
		err = errors.Join(err, w.net.close())
	}
	if err != nil {
		return fmt.Errorf("close world: %w", err)
	}
	return nil
}

// ask puts a question to the engine and returns its answer, tab separated.
func (w *world) ask(ctx context.Context, sql string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.engineURL()+"/", strings.NewReader(sql+" FORMAT TSVRaw"))
	if err != nil {
		return "", fmt.Errorf("ask: %w", err)
	}
	return w.do(req)
}

// tell is ask for a statement that has no answer.
func (w *world) tell(ctx context.Context, sql string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.engineURL()+"/", strings.NewReader(sql))
	if err == nil {
		_, err = w.do(req)
	}
	return err
}

func (w *world) do(req *http.Request) (string, error) {
	req.SetBasicAuth("default", w.password)
	resp, err := w.http.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(text)))
	}
	if err != nil {
		return "", fmt.Errorf("ask: %w", err)
	}
	return string(text), nil
}

// flopwatch runs the command of that name beside the engine, or the broker.
func (w *world) flopwatch(ctx context.Context, at string, args ...string) (string, error) {
	cmd := w.net.places[at].command(w.bin("flopwatch"), args...)
	var out, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("flopwatch %s: %w", args[0], err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // ends with the process
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		_ = cmd.Process.Kill() // it may have ended
		err = errors.Join(ctx.Err(), <-done)
	}
	if err != nil {
		return out.String(), fmt.Errorf("flopwatch %s: %w: %s", strings.Join(args[:2], " "), err, strings.TrimSpace(stderr.String()))
	}
	return out.String(), nil
}

// storeFlags name the store for a command.
func (w *world) storeFlags() []string {
	return []string{"--clickhouse", w.engineURL(), "--clickhouse-user", "default", "--clickhouse-password-file", w.path("password"), "--cluster", cluster}
}

// measure keeps the most memory that each process has held.
func (w *world) measure() {
	for _, p := range w.processes() {
		if pid := p.pid(); pid != 0 {
			name := strings.TrimRight(p.name, "0123456789-")
			w.peaks[name] = max(w.peaks[name], memory(pid))
			for _, child := range tree(pid)[1:] {
				w.peaks[name+"'s child"] = max(w.peaks[name+"'s child"], memory(child))
			}
		}
	}
}

// until polls until nothing is wrong, and returns what still is at the end.
func until(ctx context.Context, most time.Duration, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waited %s in vain: %s: %w", most, what, err)
		}
	}
}

func freePorts(ctx context.Context, n int) ([]int, error) {
	var ports []int
	for range n {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a port: %w", err)
		}
		defer func() { _ = ln.Close() }() // nobody has connected
		_, port, err := net.SplitHostPort(ln.Addr().String())
		if err != nil {
			return nil, fmt.Errorf("find a port: %w", err)
		}
		number, err := strconv.Atoi(port)
		if err != nil {
			return nil, fmt.Errorf("find a port: %w", err)
		}
		ports = append(ports, number)
	}
	return ports, nil
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copy (`make build` makes it): %w", err)
	}
	if err = os.WriteFile(to, data, 0o755); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	return nil
}
