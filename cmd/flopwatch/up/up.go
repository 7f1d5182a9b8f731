package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/store/embedded"
	"github.com/flopwatch/flopwatch/internal/supervise"
)

// Names of the children.
const (
	natsName       = "nats"
	clickhouseName = "clickhouse"
	collectorName  = "collector"
	detectorName   = "detector"
	agentName      = "agent"
	playName       = "play" // in the agent's place
)

const (
	// orphanPatience is how long a start waits for the processes of an earlier one.
	orphanPatience = 20 * time.Second
	logBytes       = 8 << 20 // of a child, before its file is turned over
	logFiles       = 3       // old ones that are kept
)

// Options say what to run. Data and Exe are needed.
type Options struct {
	Data string
	Exe  string // this binary; the others lie beside it
	Wish Wish
	// Library is NVIDIA's library for real GPUs; "": the loader finds it.
	Library string
	Engine  string // libchdb.so; "": engine/ beside the binary
	Users   string // who may sign in to ClickHouse beside the administrator, absolute; "": nobody
	Ports   Ports
	// Wait is how far behind what arrives the detector judges.
	Wait time.Duration
	// Ahead of a recording comes at once at the first start; Chunk goes into one batch a host.
	Ahead, Chunk time.Duration
	Verbose      bool // the children's logs on stderr too
	// Import brings in what the provider states, again on SIGHUP; nil: nothing. What it
	// returns is said to people.
	Import func(ctx context.Context, s State) (string, error)
	// Profiles take the place of the recording's own, or of the built-in ones; nil: none were named.
	Profiles []threshold.Profile
	// Fake prepares the stub of NVIDIA's driver; it is needed for FakeGPUs.
	Fake func(library string, gpus int) error
}

// tree is one run of up.
type tree struct {
	o     Options
	l     Layout
	bin   string
	state State
	fresh bool // the data directory is new
	out   *lines
	sup   *supervise.Supervisor
	lg    *slog.Logger

	mu    sync.Mutex // guards queue
	queue []supervise.Status
	wake  chan struct{}
}

// lines is a writer of whole lines for several goroutines.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b) //nolint:wrapcheck // a terminal
}

func (l *lines) say(format string, args ...any) {
	_, _ = fmt.Fprintf(l, format+"\n", args...) // nothing depends on it
}

// Run runs the tree until ctx ends and then stops it; it returns nil after that.
func Run(ctx context.Context, o Options, stdout, stderr io.Writer) (err error) {
	l, err := NewLayout(o.Data)
	if err != nil {
		return err
	}
	t := &tree{o: o, l: l, bin: filepath.Dir(o.Exe), out: &lines{w: stdout}, wake: make(chan struct{}, 1)}
	before, err := loadSource(l)
	if err != nil {
		return err
	}
	driver := FindDriver("/", filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")))
	source, err := choose(o.Wish, before, driver)
	if err != nil {
		return daemon.UsageError{Err: err}
	}
	if o.Library != "" && source.Kind != RealGPUs {
		return daemon.UsageError{Err: fmt.Errorf("--gpu-library %s is of real GPUs, and the source is %s (%s)", o.Library, source, source.Why)}
	}
	var manifest *bundle.Manifest
	if source.Kind == Recording {
		b, oerr := bundle.Open(source.Recording)
		if oerr != nil {
			return fmt.Errorf("recording %s: %w", source.Recording, oerr)
		}
		if source.Digest, err = b.Digest(); err != nil {
			return err
		}
		source.Cluster, manifest = b.Manifest.Cluster, &b.Manifest
		// All of it at once ends now, not some time ago.
		t.o.Ahead = min(t.o.Ahead, time.Duration(manifest.EndMs-manifest.StartMs)*time.Millisecond)
	}
	t.fresh = before == nil
	if err = source.belongs(before, l.Root); err != nil {
		return err
	}
	if err = t.binaries(source); err != nil {
		return err
	}
	if before == nil {
		if err = l.foreign(); err != nil {
			return err
		}
	}
	if err = l.create(); err != nil {
		return err
	}
	locks, err := supervise.TakeTree(ctx, l.Run(), orphanPatience)
	if held, is := errors.AsType[supervise.HeldError](err); is {
		return fmt.Errorf("data directory %s: flopwatch up is running on it already (process %d): stop that one, or name another directory with --data", l.Root, held.PID)
	}
	if err != nil {
		return fmt.Errorf("data directory %s: %w", l.Root, err)
	}
	defer func() { err = errors.Join(err, locks.Close()) }()
	health, clickhouse, err := t.o.Ports.take(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = health.Close() }() // the server closed it
	socket, err := clickhouse.File()
	if err = errors.Join(err, clickhouse.Close()); err != nil {
		return fmt.Errorf("share the port for ClickHouse: %w", err)
	}
	defer func() { _ = socket.Close() }() // nobody waits in its queue any more
	if err = t.prepare(source, manifest, driver); err != nil {
		return err
	}
	return t.run(ctx, locks, health, socket, stderr)
}

// binaries checks that what is to be run is there.
func (t *tree) binaries(s Source) error {
	names := []string{"flopwatch-collector", "flopwatch-detector"}
	if s.live() {
		names = append(names, "flopwatch-agent")
	}
	if s.Kind == RealGPUs || s.Kind == FakeGPUs {
		names = append(names, "flopwatch-nvml")
	}
	for _, name := range names {
		if path := filepath.Join(t.bin, name); !exists(path) {
			return fmt.Errorf("%s is missing beside %s: `make build` builds it", name, t.o.Exe)
		}
	}
	if t.o.Engine == "" {
		lib, err := embedded.FindLibrary(t.o.Exe)
		if err != nil {
			return err
		}
		t.o.Engine = lib
	}
	return nil
}

// prepare writes what the children read.
func (t *tree) prepare(source Source, manifest *bundle.Manifest, driver Driver) error {
	t.state = State{
		PID: os.Getpid(), StartedAt: time.Now().UTC(), Build: daemon.ReadBuild().String(), Data: t.l.Root, Source: source, WaitSeconds: t.o.Wait.Seconds(),
		HealthURL: "http://" + address(t.o.Ports.Health), NATSURL: "nats://" + address(t.o.Ports.NATS), NATSTokenFile: t.l.Token(),
		ClickHouseURL: "http://" + address(t.o.Ports.ClickHouse), ClickHouseUser: embedded.DefaultUser, ClickHousePasswordFile: t.l.ClickHousePassword(),
		AgentURL: "http://" + address(t.o.Ports.Agent), CollectorURL: "http://" + address(t.o.Ports.Collector), DetectorURL: "http://" + address(t.o.Ports.Detector),
	}
	if source.live() {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("name this host: %w", err)
		}
		t.state.Node = host
		if source.Kind == FakeGPUs {
			t.state.Node = FakeName + "-" + host
		}
	}
	for _, path := range []string{t.l.Token(), t.l.Key("site"), t.l.ClickHousePassword()} {
		if _, err := secret(path); err != nil {
			return err
		}
	}
	if source.Kind == FakeGPUs {
		if err := os.MkdirAll(filepath.Dir(t.l.FakeLibrary()), 0o700); err != nil {
			return fmt.Errorf("make folder of the stub: %w", err)
		}
		if err := t.o.Fake(t.l.FakeLibrary(), source.GPUs); err != nil {
			return err
		}
	}
	if err := t.configs(manifest); err != nil {
		return err
	}
	t.out.say("source      %s, cluster %s (%s)", source, source.Cluster, source.Why)
	switch {
	case driver.Loaded && source.Kind != RealGPUs:
		t.out.say("            %s; its GPUs are not sampled", driver.Text)
	case !driver.Loaded && source.Kind == RealGPUs:
		t.out.say("            %s: there are no samples of GPUs until it has", driver.Text)
	}
	return source.save(t.l)
}

// environment is what children get of this process's.
func environment() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TZ=UTC"}
	if path := os.Getenv("LD_LIBRARY_PATH"); path != "" {
		env = append(env, "LD_LIBRARY_PATH="+path) // where NVIDIA's library may be
	}
	return env
}

// children lists what is run, in the order of starting.
func (t *tree) children(socket *os.File) []supervise.Spec {
	engine := []string{"clickhouse", "--data", t.l.ClickHouse(), "--lib", t.o.Engine, "--listen-fd", "3", "--watch-stdin"}
	if t.o.Users != "" {
		engine = append(engine, "--users", t.o.Users)
	}
	all := []supervise.Spec{
		{
			Name: natsName, Path: t.o.Exe, Needed: true, Check: checkNATS(address(t.o.Ports.NATS)),
			Args: []string{"nats", "--data", t.l.NATS(), "--port", fmt.Sprint(t.o.Ports.NATS), "--token-file", t.l.Token(), "--watch-stdin"},
		},
		{
			Name: clickhouseName, Path: t.o.Exe, Needed: true, Check: checkClickHouse(t.state.ClickHouseURL), Files: []*os.File{socket}, StopAfter: 15 * time.Second,
			Args: engine,
		},
		{
			Name: collectorName, Path: filepath.Join(t.bin, "flopwatch-collector"), Needed: true, Check: checkDaemon(t.state.CollectorURL),
			Args: []string{"-config", t.l.Config(collectorName)},
		},
		{
			Name: detectorName, Path: filepath.Join(t.bin, "flopwatch-detector"), Before: t.firstImport, Check: checkDaemon(t.state.DetectorURL),
			Args: []string{"-config", t.l.Config(detectorName)},
		},
	}
	if t.state.Source.live() {
		return append(all, supervise.Spec{
			Name: agentName, Path: filepath.Join(t.bin, "flopwatch-agent"), Check: checkDaemon(t.state.AgentURL), Args: []string{"-config", t.l.Config(agentName)},
		})
	}
	return append(all, supervise.Spec{
		Name: playName, Path: t.o.Exe, Check: checkDaemon(t.state.AgentURL),
		Args: []string{"play", t.state.Source.Recording, "--data", t.l.Play(), "--nats", t.state.NATSURL, "--nats-token-file", t.l.Token(), "--ahead", t.o.Ahead.String(),
			"--chunk", t.o.Chunk.String(), "--listen", address(t.o.Ports.Agent), "--watch-stdin"},
	})
}

// run supervises until ctx ends.
func (t *tree) run(ctx context.Context, locks *supervise.Tree, health net.Listener, socket *os.File, stderr io.Writer) (err error) {
	specs := t.children(socket)
	var echo io.Writer
	if t.o.Verbose {
		echo = &lines{w: stderr}
	}
	for i := range specs {
		name := specs[i].Name
		log, lerr := supervise.OpenLog(t.l.Log(name), logBytes, logFiles, echo, fmt.Sprintf("%-10s | ", name))
		if lerr != nil {
			return lerr
		}
		defer func() { err = errors.Join(err, log.Close()) }()
		specs[i].Log, specs[i].Env = log, environment()
	}
	own, err := supervise.OpenLog(t.l.Log("up"), logBytes, logFiles, echo, fmt.Sprintf("%-10s | ", "up"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, own.Close()) }()
	t.lg = slog.New(slog.NewTextHandler(own, nil))
	t.sup, err = supervise.New(supervise.Config{Children: specs, Tree: locks, Now: time.Now, Changed: t.changed, Log: t.lg})
	if err != nil {
		return err
	}
	if err = t.save(false); err != nil {
		return err
	}

	// What tells of the tree goes on until it has stopped.
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	telling, life := errgroup.WithContext(life)
	telling.Go(func() error {
		return daemon.Serve(life, health, prometheus.NewRegistry(), t.health)
	})
	telling.Go(func() error { return t.tell(life) })
	telling.Go(func() error { return t.hangups(life) })
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the telling at the latest
		select {
		case <-life.Done():
			cancel()
		case <-running.Done():
		}
	}()
	err = t.sup.Run(running)
	stop()
	err = errors.Join(err, telling.Wait(), t.save(true))
	if err == nil {
		t.out.say("stopped     the data stay in %s", t.l.Root)
	}
	return err
}

// changed takes news of a child.
func (t *tree) changed(st supervise.Status) {
	t.mu.Lock()
	t.queue = append(t.queue, st)
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// tell says what changes until ctx ends, and keeps state.json.
func (t *tree) tell(ctx context.Context) error {
	said := map[string]supervise.State{}
	summed := false
	slow := time.NewTicker(slowEvery)
	defer slow.Stop()
	for {
		last := false
		select {
		case <-t.wake:
		case <-slow.C:
			if !summed {
				t.sayWaiting()
			}
			continue
		case <-ctx.Done():
			last = true // what came before the end is said
		}
		t.mu.Lock()
		news := t.queue
		t.queue = nil
		t.mu.Unlock()
		for _, st := range news {
			if st.State != said[st.Name] && st.State != supervise.Starting {
				t.sayState(said[st.Name], st)
				said[st.Name] = st.State
			}
		}
		if last {
			return nil
		}
		if err := t.save(false); err != nil {
			t.lg.LogAttrs(ctx, slog.LevelWarn, "write state", slog.Any("err", err))
		}
		if !summed && t.allReady() {
			summed = true
			t.summary()
		}
	}
}

// sayState says one line on a child whose state is another than was said last.
func (t *tree) sayState(said supervise.State, st supervise.Status) {
	text := string(st.State)
	if said == supervise.Down && (st.State == supervise.Ready || st.State == supervise.Degraded) {
		text = "is back, " + text
	}
	if len(st.Reasons) > 0 {
		text += ": " + strings.Join(st.Reasons, "; ")
	}
	t.out.say("%s  %-10s %s", time.Now().UTC().Format("15:04:05"), st.Name, text)
	t.lg.LogAttrs(context.Background(), slog.LevelInfo, "child", slog.String("child", st.Name), slog.String("state", string(st.State)), slog.Any("reasons", st.Reasons))
}

// slowEvery is how often is said what a start waits for.
const slowEvery = 15 * time.Second

// sayWaiting says what is not ready yet, and why.
func (t *tree) sayWaiting() {
	for _, st := range t.sup.Status() {
		if st.State == supervise.Ready || st.State == supervise.Degraded {
			continue
		}
		text := "not ready"
		if st.State == supervise.Waiting {
			text = "its turn has not come"
		}
		if len(st.Reasons) > 0 {
			text += ": " + strings.Join(st.Reasons, "; ")
		}
		t.out.say("%s  %-10s %s", time.Now().UTC().Format("15:04:05"), st.Name, text)
	}
}

func (t *tree) allReady() bool {
	for _, st := range t.sup.Status() {
		if st.State != supervise.Ready && st.State != supervise.Degraded {
			return false
		}
	}
	return true
}

// summary says what a person wants to know first.
func (t *tree) summary() {
	say := t.out.say
	exe, data := t.o.Exe, t.l.Root
	say("")
	say("flopwatch is up; Ctrl-C stops it, and the next start goes on.")
	say("  samples   %s, cluster %s", t.state.Source, t.state.Source.Cluster)
	switch t.state.Source.Kind {
	case Recording:
		text := "it goes on at its own pace"
		if t.fresh && t.o.Ahead > 0 {
			text = "its first " + Plain(t.o.Ahead) + " came at once, the rest comes at its own pace"
		}
		if ends := t.ends(); ends != "" {
			text += ", until " + ends + " UTC"
		}
		say("            %s", text)
	case FakeGPUs:
		say("            nothing of the GPUs is real: every name says %s", FakeName)
	default:
		say("            node %s", t.state.Node)
	}
	say("  ask       %s runs --data %s      (and findings, doctor)", exe, data)
	// By -u, which curl hides from ps.
	say("  SQL       curl -u \"%s:$(cat %s)\" \"http://%s/?default_format=PrettyCompact\" -d 'SELECT * FROM flopwatch.v_runs'",
		t.state.ClickHouseUser, t.l.ClickHousePassword(), address(t.o.Ports.ClickHouse))
	say("  health    curl %s/healthz", t.state.HealthURL)
	say("  logs      %s", t.l.path("log"))
	expect := "expect the first at about " + time.Now().UTC().Add(t.o.Wait+time.Minute).Format("15:04") + " UTC"
	if t.fresh && t.state.Source.Kind == Recording && t.o.Ahead > 0 {
		expect = "of what came at once the first come within a minute or two"
	}
	say("  verdicts  a minute is judged %s after it: %s", Plain(t.o.Wait), expect)
	say("")
}

// ends is when a recording ends on the wall clock; "": not known.
func (t *tree) ends() string {
	for _, st := range t.sup.Status() {
		if text, ok := st.Details[PlaysUntil].(string); ok {
			if at, err := time.Parse(time.RFC3339, text); err == nil {
				return at.UTC().Format("15:04 on 2006-01-02")
			}
		}
	}
	return ""
}

// PlaysUntil is the detail of a play's health that says when its recording ends.
const PlaysUntil = "plays_until"

// Plain writes a duration without zeros behind it.
func Plain(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// now is the present state.
func (t *tree) now() State {
	s := t.state
	s.UpdatedAt = time.Now().UTC()
	s.Components = t.sup.Status()
	s.State, s.Reasons = health(s.Components, s.UpdatedAt)
	return s
}

// save writes state.json.
func (t *tree) save(stopped bool) error {
	s := t.now()
	s.Stopped = stopped
	text, err := marshal(s)
	if err != nil {
		return err
	}
	return write(t.l.State(), text)
}

// health answers /healthz.
func (t *tree) health() daemon.Health {
	s := t.now()
	return daemon.Health{State: s.State, Reasons: s.Reasons, Details: map[string]any{
		"pid": s.PID, "started_at": s.StartedAt, "build": s.Build, "data": s.Data, "source": s.Source, "node": s.Node, "wait_seconds": s.WaitSeconds, "components": s.Components,
	}}
}

// importTries and importEvery bound the patience of the first import with a store that is
// not ready.
const (
	importTries = 20
	importEvery = time.Second
)

// firstImport brings in what the provider states, before the detector starts.
func (t *tree) firstImport(ctx context.Context) error {
	if t.o.Import == nil {
		return nil
	}
	for try := 1; ; try++ {
		said, err := t.o.Import(ctx, t.state)
		if err == nil {
			if said != "" {
				t.lg.LogAttrs(ctx, slog.LevelInfo, "facts were imported", slog.String("what", said))
				t.out.say("imported    %s", said)
			}
			return nil
		}
		if _, bad := errors.AsType[*bundle.Error](err); bad || try == importTries {
			return fmt.Errorf("import facts: %w", err)
		}
		t.lg.LogAttrs(ctx, slog.LevelWarn, "import facts", slog.Any("err", err), slog.Int("try", try))
		wait := time.NewTimer(importEvery)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return fmt.Errorf("import facts: %w", ctx.Err())
		}
	}
}

// hangups reads the provider's facts again at each SIGHUP.
func (t *tree) hangups(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
		case <-ctx.Done():
			return nil
		}
		if t.o.Import == nil {
			continue
		}
		switch said, err := t.o.Import(ctx, t.state); {
		case err != nil && ctx.Err() == nil:
			t.lg.LogAttrs(ctx, slog.LevelWarn, "facts were not imported, what was known stays", slog.Any("err", err))
			t.out.say("%s  facts      not imported, what was known stays: %v", time.Now().UTC().Format("15:04:05"), err)
		case err == nil && said == "":
			t.out.say("%s  facts      unchanged", time.Now().UTC().Format("15:04:05"))
		case err == nil:
			t.lg.LogAttrs(ctx, slog.LevelInfo, "facts were imported", slog.String("what", said))
			t.out.say("%s  facts      imported %s", time.Now().UTC().Format("15:04:05"), said)
		}
	}
}
