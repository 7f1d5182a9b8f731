package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/cmd/flopwatch/up"
	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/supervise"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// whole is all binaries beside each other, built once a test process.
var whole struct {
	once sync.Once
	err  error
}

// product builds every daemon beside the command and gives the command's path.
func product(t testing.TB) string {
	t.Helper()
	exe, engine := binary(t)
	whole.once.Do(func() {
		dir := filepath.Dir(exe)
		cmd := exec.Command("go", "build", "-o", dir, "../flopwatch-collector", "../flopwatch-detector", "../flopwatch-agent")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			whole.err = fmt.Errorf("build the daemons: %w: %s", err, out)
			return
		}
		whole.err = os.Symlink(filepath.Dir(engine), filepath.Join(dir, "engine"))
	})
	if whole.err != nil {
		t.Fatal(whole.err)
	}
	return exe
}

// stubbed builds what --fake-gpus needs beside the daemons: the child that loads NVIDIA's
// library, and our stub of that library.
func stubbed(t testing.TB) {
	t.Helper()
	dir := filepath.Dir(product(t))
	_, err := exec.LookPath("gcc")
	testenv.Need(t, "cc", err)
	cmd := exec.Command("go", "build", "-o", dir, "../flopwatch-nvml")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "CGO_CFLAGS=-O2 -g -Wno-deprecated-declarations")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build flopwatch-nvml: %v: %s", err, out)
	}
	if _, err := nvmlstub.Build(t.Context(), filepath.Join(dir, "stub"), nvmlstub.Options{}); err != nil {
		t.Fatal(err)
	}
}

// shared is a buffer that is written and read by several goroutines.
type shared struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *shared) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b) //nolint:wrapcheck // a buffer
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// upTree is a running `flopwatch up`.
type upTree struct {
	t     *testing.T
	l     up.Layout
	cmd   *exec.Cmd
	out   *shared
	ended chan struct{} // closed when the process has ended
	err   error         // valid then
}

// startUp starts a tree on free ports and waits until everything is ready.
func startUp(t *testing.T, data string, args ...string) *upTree {
	t.Helper()
	r := launchUp(t, data, args...)
	r.until("everything is ready", func() bool {
		s, err := up.ReadState(r.l)
		return err == nil && s.PID == r.cmd.Process.Pid && len(s.Components) == 5 &&
			!slices.ContainsFunc(s.Components, func(c supervise.Status) bool { return c.State != supervise.Ready && c.State != supervise.Degraded })
	})
	return r
}

func launchUp(t *testing.T, data string, args ...string) *upTree {
	t.Helper()
	l, err := up.NewLayout(data)
	if err != nil {
		t.Fatal(err)
	}
	r := &upTree{t: t, l: l, out: &shared{}, ended: make(chan struct{})}
	r.cmd = exec.Command(product(t), append([]string{"up", "--data", data, "--port", "0"}, args...)...)
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	if err = r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		r.err = r.cmd.Wait()
		close(r.ended)
	}()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // it may have ended
		<-r.ended
	})
	return r
}

// until waits for a condition, as long as the tree runs.
func (r *upTree) until(what string, ok func() bool) {
	r.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
			continue
		case <-limit.C:
			r.t.Error("waited in vain")
		case <-r.ended:
		}
		logs := ""
		for _, path := range glob(r.t, filepath.Join(r.l.Root, "log", "*.log")) {
			text, _ := os.ReadFile(path) // for the message alone
			logs += filepath.Base(path) + ":\n" + tail(string(text), 10)
		}
		r.t.Fatalf("before %s: %v\n%s\n%s", what, r.err, r.out, logs)
	}
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func tail(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n-1):], "")
}

func (r *upTree) state() up.State {
	r.t.Helper()
	s, err := up.ReadState(r.l)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *upTree) component(name string) supervise.Status {
	r.t.Helper()
	all := r.state().Components
	i := slices.IndexFunc(all, func(c supervise.Status) bool { return c.Name == name })
	if i < 0 {
		r.t.Fatalf("no component %s: %+v", name, all)
	}
	return all[i]
}

// stop ends the tree as a person does.
func (r *upTree) stop() {
	r.t.Helper()
	started := time.Now()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	<-r.ended
	if r.err != nil {
		r.t.Errorf("stop: %v\n%s", r.err, r.out)
	}
	if took := time.Since(started); took > 20*time.Second {
		r.t.Errorf("stopping took %s", took)
	}
	if s := r.state(); !s.Stopped || slices.ContainsFunc(s.Components, func(c supervise.Status) bool { return c.PID != 0 }) {
		r.t.Errorf("state after the stop: %+v", s)
	}
}

// settle waits until batches are stored that came after the call, and none waits: a collector
// takes its time to hold the lease of one that was killed.
func (r *upTree) settle() {
	r.t.Helper()
	since := time.Now().UnixMilli()
	st, err := openState(r.t.Context(), r.state())
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	r.until("what is published is stored", func() bool {
		batches, err := st.BatchesInserted(r.t.Context(), r.state().Source.Cluster, since, time.Now().Add(time.Hour).UnixMilli())
		if err != nil {
			r.t.Fatal(err)
		}
		return len(batches) > 0 && strings.Contains(flopwatch(r.t, "doctor", "--data", r.l.Root, "--json").stdout, ", 0 messages wait to be stored")
	})
}

// livelyFiles is the tiny recording, its hosts telling of themselves each second from
// minute 50 on.
func livelyFiles() map[string]string {
	f := maps.Clone(tinyFiles())
	var host strings.Builder
	host.WriteString("ts_ms,node,power_w,cpu_frac,storage_tx_bps,storage_rx_bps\n")
	for s := int64(50 * 60); s < 60*60; s++ {
		for n := range int64(3) {
			fmt.Fprintf(&host, "%d,n%d,%d,0.1,,\n", tinyStartMs+1000*s+n, 1+n, 900+s%7)
		}
	}
	f["host.csv"] = host.String()
	return f
}

// TestUp plays a recording on the wall clock, kills every process of the tree in turn, and
// the tree as a whole, and holds the store to what the spools took.
func TestUp(t *testing.T) {
	t.Parallel()
	product(t)
	data := filepath.Join(t.TempDir(), "data")
	recording := writeBundle(t, livelyFiles(), nil)
	r := startUp(t, data, "--recording", recording, "--ahead", "50m", "--chunk", "1s", "--wait", "5s")

	s := r.state()
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"a second up", fmt.Sprintf("running on it already (process %d)", r.cmd.Process.Pid), []string{"up", "--data", data, "--port", "0"}},
		{"a taken port", "port " + portOf(t, s.NATSURL) + " of 127.0.0.1 is taken by another program, and wanted for NATS: choose another with --nats-port",
			[]string{"up", "--data", t.TempDir(), "--recording", recording, "--port", "0", "--nats-port", portOf(t, s.NATSURL)}},
	} {
		if got := flopwatch(t, c.args...); got.code != 1 || !strings.Contains(got.stderr, c.want) {
			t.Errorf("%s: exit code %d, %q; want %q", c.name, got.code, got.stderr, c.want)
		}
	}
	for _, c := range s.Components {
		before := r.component(c.Name)
		if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
			t.Fatalf("kill %s: %v", c.Name, err)
		}
		r.until(c.Name+" is back", func() bool {
			now := r.component(c.Name)
			return now.PID != before.PID && (now.State == supervise.Ready || now.State == supervise.Degraded)
		})
	}
	for _, want := range []string{"is back", "flopwatch is up", "cluster tiny", "imported    3 sealed parties"} {
		if !strings.Contains(r.out.String(), want) {
			t.Errorf("up did not say %q:\n%s", want, r.out)
		}
	}

	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-r.ended
	r = startUp(t, data, "--wait", "5s") // it knows what it played
	r.settle()
	answers(t, r, data)
	r.stop()
	held(t, r.l, "tiny")
	for name, args := range map[string][]string{
		"another source": {"up", "--data", data, "--port", "0", "--no-gpus"},
		"another record": {"up", "--data", data, "--port", "0", "--recording", writeBundle(t, tinyFiles(), nil)},
	} {
		if got := flopwatch(t, args...); got.code != 1 || !strings.Contains(got.stderr, "must not mix") {
			t.Errorf("%s: exit code %d, %q", name, got.code, got.stderr)
		}
	}
	if got := flopwatch(t, "runs", "--data", data); got.code != 1 || !strings.Contains(got.stderr, "is not running") {
		t.Errorf("runs of a stopped tree: exit code %d, %q", got.code, got.stderr)
	}
	if got := flopwatch(t, "doctor", "--data", data); got.code != 1 || !strings.Contains(got.stdout, "not running: it was stopped") {
		t.Errorf("doctor of a stopped tree: exit code %d, %q", got.code, got.stdout)
	}
}

func portOf(t *testing.T, url string) string {
	t.Helper()
	_, addr, _ := strings.Cut(url, "://")
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// answers asks a running tree as people do.
func answers(t *testing.T, r *upTree, data string) {
	t.Helper()
	// The first verdict may be of what had arrived before the kills.
	r.until("the training is listed", func() bool {
		got := flopwatch(t, "runs", "--data", data, "--json", "--class", "training")
		if got.code != 0 {
			t.Fatalf("runs: exit code %d, %s", got.code, got.stderr)
		}
		return strings.Contains(got.stdout, `"acct-a"`)
	})
	got := flopwatch(t, "runs", "--data", data)
	if got.code != 0 || !strings.Contains(got.stdout, "judged up to") || !strings.Contains(got.stdout, "acct-a") {
		t.Errorf("runs: exit code %d, %q, %s", got.code, got.stdout, got.stderr)
	}
	if got = flopwatch(t, "findings", "--data", data); got.code != 0 {
		t.Errorf("findings: exit code %d, %s", got.code, got.stderr)
	}
	if got = flopwatch(t, "findings", "--data", data, "--since", "2099-01-01"); got.code != 0 || !strings.Contains(got.stdout, "No ") {
		t.Errorf("findings of the future: exit code %d, %q", got.code, got.stdout)
	}
	got = flopwatch(t, "doctor", "--data", data, "--json")
	for _, c := range lines(t, got.stdout) {
		if c["status"] == "fail" {
			t.Errorf("doctor: %v", c)
		}
	}
	if got.code != 0 || !strings.Contains(got.stdout, `"what":"play"`) {
		t.Errorf("doctor: exit code %d, %s%s", got.code, got.stdout, got.stderr)
	}
}

// held holds a stopped tree's store to its spools: every batch that was taken is stored,
// once, and so is every row of them.
func held(t *testing.T, l up.Layout, cluster string) {
	t.Helper()
	taken := map[string]uint64{}
	for _, root := range []string{l.Play(), l.Agent(), l.Facts()} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || e.Name() != "identity" {
				return err
			}
			sp, err := spool.Open(spool.Config{Dir: filepath.Dir(path)})
			if err != nil {
				return err //nolint:wrapcheck // a test's
			}
			id := sp.ID()
			taken[hex.EncodeToString(id[:])] = sp.NextSequence() - 1
			return sp.Close() //nolint:wrapcheck // a test's
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	engine := testenv.ClickHouseServer(t, l.ClickHouse())
	user, password := engine.Auth()
	st, err := store.Open(t.Context(), store.Config{URL: engine.URL(), User: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	batches, err := st.BatchesAfter(t.Context(), cluster, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	stored, rows := map[string]uint64{}, map[string]uint64{}
	for i := range batches {
		b := &batches[i]
		stored[b.Spool]++
		for k, n := range b.Rows {
			rows[store.BatchKinds[k]] += uint64(n)
		}
		if b.Sequence > taken[b.Spool] {
			t.Errorf("spool %s has no batch %d", b.Spool, b.Sequence)
		}
	}
	if !maps.Equal(stored, taken) || len(taken) < 1 {
		t.Errorf("batches by spool: stored %v, taken %v", stored, taken)
	}
	tables := map[string]string{
		"gpu": store.TableGPUSamples, "host": store.TableHostSamples, "fabric": store.TableFabricSamples, "flow": store.TableFlowSamples, "process": store.TableProcessEvents,
		"collective": store.TableCollectiveSamples, "inventory": store.TableInventory, "allocation": store.TableAllocations, "order": store.TableOrders,
		"device": store.TableGPUDevices, "status": store.TableInstrumentStatus,
	}
	for kind, table := range tables {
		raw, distinct, err := st.Count(t.Context(), table)
		if err != nil {
			t.Fatal(err)
		}
		if raw != rows[kind] || distinct != rows[kind] {
			t.Errorf("%s: %d rows, %d distinct, %d taken", table, raw, distinct, rows[kind])
		}
	}
	if q, err := st.Quarantined(t.Context()); err != nil || len(q) > 0 {
		t.Errorf("quarantine: %v, %v", q, err)
	}
	t.Logf("%d batches, rows %v", len(batches), rows)
}

// TestUpFake samples made-up GPUs with facts about them, kills agent and tree, and holds the
// store to what was taken.
func TestUpFake(t *testing.T) {
	t.Parallel()
	stubbed(t)
	data, facts := filepath.Join(t.TempDir(), "data"), t.TempDir()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	rental := func(account string) {
		text := fmt.Sprintf("account,node,gpus,start_ms,end_ms\n%s,%s-%s,0 1 2 3 4 5 6 7,%d,\n", account, up.FakeName, host, tinyStartMs)
		if err := os.WriteFile(filepath.Join(facts, "allocations.csv"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rental("acct-a")
	if err = os.WriteFile(filepath.Join(facts, "parties.jsonl"), []byte(tinyFiles()["parties.jsonl"]), 0o600); err != nil {
		t.Fatal(err)
	}
	// More than any rule's limit, for a foreign customer.
	order := fmt.Sprintf("order,account,amended_ms,gpu_model,gpu_count,fabric_gbps,start_ms,end_ms,declared_use\nord-1,acct-a,%d,NVIDIA H100 80GB HBM3,200000,3200,%d,%d,model training\n",
		tinyStartMs, tinyStartMs, time.Now().AddDate(1, 0, 0).UnixMilli())
	if err = os.WriteFile(filepath.Join(facts, "orders.csv"), []byte(order), 0o600); err != nil {
		t.Fatal(err)
	}
	const gpus = 8
	users := filepath.Join(facts, "users.toml")
	if err = os.WriteFile(users, fmt.Appendf(nil, "[[user]]\nname = \"dashboard\"\nrole = \"analyst\"\npassword_sha256 = \"%x\"\n", sha256.Sum256([]byte("seen"))), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startUp(t, data, "--fake-gpus", strconv.Itoa(gpus), "--facts", facts, "--wait", "1s", "--users", users)
	guarded(t, r.state())
	if said := r.out.String(); !strings.Contains(said, "imported    1 statement on a rental, 1 order, 3 sealed parties") {
		t.Errorf("the import was not said:\n%s", said)
	}
	st, err := openState(t.Context(), r.state())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	node := up.FakeName + "-" + host
	samples := map[int][]int64{}
	r.until("eight seconds of every GPU are stored", func() bool {
		rows, err := st.GPURows(t.Context(), store.RowQuery{Cluster: up.FakeName, Nodes: []string{node}, FromMs: 0, ToMs: time.Now().Add(time.Hour).UnixMilli()})
		if err != nil {
			t.Fatal(err)
		}
		clear(samples)
		for i := range rows {
			samples[rows[i].GPU] = append(samples[rows[i].GPU], rows[i].TsMs)
		}
		return len(samples) == gpus && !slices.ContainsFunc(slices.Collect(maps.Values(samples)), func(ts []int64) bool { return len(ts) < 8 })
	})
	for gpu, ts := range samples {
		if hz := float64(len(ts)-1) / (float64(ts[len(ts)-1]-ts[0]) / 1e3); hz < 0.9 || hz > 1.02 {
			t.Errorf("GPU %d: %d samples at %.2f a second", gpu, len(ts), hz)
		}
	}
	r.settle()
	got := flopwatch(t, "doctor", "--data", data)
	if got.code != 0 || strings.Contains(got.stdout, "\nfail") || !strings.Contains(got.stdout, "8 GPUs") || !strings.Contains(got.stdout, "cluster FAKE") {
		t.Errorf("doctor: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if got = flopwatch(t, "runs", "--data", data); got.code != 0 || got.stdout == "" {
		t.Errorf("runs: exit code %d, %q, %s", got.code, got.stdout, got.stderr)
	}

	r.until("the order is found", func() bool {
		got = flopwatch(t, "findings", "--data", data, "--limb", "capacity")
		return got.code == 0 && strings.Contains(got.stdout, "ord-1")
	})
	if !strings.Contains(got.stdout, "pty-1") || !strings.Contains(got.stdout, "made up (FAKE)") || !strings.Contains(got.stdout, "not legal advice") {
		t.Errorf("findings:\n%s", got.stdout)
	}
	rental("acct-b")
	if err = r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	r.until("the new rental is imported", func() bool {
		return strings.Contains(r.out.String(), "facts      imported 1 statement on a rental, 1 order")
	})
	before := r.component("agent")
	if err = syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.until("the agent is back", func() bool { now := r.component("agent"); return now.PID != before.PID && now.State == supervise.Ready })
	if err = r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-r.ended
	r = startUp(t, data)
	if strings.Contains(r.out.String(), "imported") {
		t.Errorf("facts were imported again:\n%s", r.out)
	}
	r.settle()
	r.stop()
	held(t, r.l, up.FakeName)
}

// guarded: nobody reads or writes the store of a tree without a secret that the owner alone can read, and whom --users names can do what the role says.
func guarded(t *testing.T, s up.State) {
	t.Helper()
	const write = "INSERT INTO flopwatch.node_facts (cluster) VALUES ('forged')"
	for _, c := range []struct {
		user, password, query string
		want                  int
	}{
		{"", "", "SELECT 1", http.StatusUnauthorized}, {"", "", write, http.StatusUnauthorized}, {"default", "", write, http.StatusForbidden},
		{"dashboard", "", "SELECT 1", http.StatusForbidden}, {"dashboard", "seen", "SELECT count() FROM flopwatch.v_runs", http.StatusOK},
		{"dashboard", "seen", write, http.StatusForbidden}, {"dashboard", "seen", "SELECT count() FROM flopwatch.parties", http.StatusForbidden},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.ClickHouseURL, strings.NewReader(c.query))
		if err != nil {
			t.Fatal(err)
		}
		if c.user != "" {
			req.SetBasicAuth(c.user, c.password)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err = resp.Body.Close(); err != nil || resp.StatusCode != c.want {
			t.Errorf("%s as %q: status %d, %v, want %d", c.query, c.user, resp.StatusCode, err, c.want)
		}
	}
	for _, secret := range []string{s.ClickHousePasswordFile, s.NATSTokenFile} {
		if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", secret, info, err)
		}
	}
	if nc, err := nats.Connect(s.NATSURL); err == nil {
		nc.Close()
		t.Error("NATS takes anybody")
	}
}

// TestUpRefuses holds what up says before it starts anything.
func TestUpRefuses(t *testing.T) {
	t.Parallel()
	product(t)
	facts := t.TempDir()
	if err := os.WriteFile(filepath.Join(facts, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		code int
		want string
		args []string
	}{
		"no folder":       {2, "--data DIR is required", nil},
		"two sources":     {2, "exclude each other", []string{"--fake-gpus", "8", "--no-gpus"}},
		"many GPUs":       {2, "--fake-gpus 99", []string{"--fake-gpus", "99"}},
		"no GPUs":         {2, "--no-gpus samples this host", []string{"--fake-gpus", "0"}},
		"short wait":      {2, "--wait", []string{"--wait", "1ms"}},
		"no recording":    {1, "cannot be opened", []string{"--recording", "/nowhere"}},
		"another folder":  {1, "is not empty (notes.txt is in it)", []string{"--no-gpus", "--data", facts}},
		"no such library": {2, "is of real GPUs", []string{"--no-gpus", "--gpu-library", "/nowhere"}},
		"facts twice":     {2, "a recording brings its own", []string{"--recording", "/nowhere", "--facts", facts}},
		"no facts":        {1, "it has none of nodes.csv", []string{"--no-gpus", "--facts", facts}},
		"no such users":   {1, "--users: read users file", []string{"--no-gpus", "--users", "/nowhere"}},
		"not users":       {1, "names no user", []string{"--no-gpus", "--users", filepath.Join(facts, "notes.txt")}},
		"a bad port":      {1, "--port", []string{"--no-gpus", "--port", "70000"}},
		"named cluster":   {2, "a recording names its own", []string{"--recording", "/nowhere", "--cluster", "x"}},
		"an argument":     {2, "takes no argument", []string{"now"}},
		"an unknown flag": {2, "unknown flag", []string{"--record", "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"up"}
			if c.args != nil {
				args = append(args, "--data", filepath.Join(t.TempDir(), "data"))
			}
			got := flopwatch(t, append(args, c.args...)...)
			if got.code != c.code || !strings.Contains(got.stderr, c.want) {
				t.Errorf("exit code %d, %q; want %d, %q", got.code, got.stderr, c.code, c.want)
			}
		})
	}
}

func TestParseSince(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"90m": "2026-11-22T10:30:00Z", "24h": "2026-11-21T12:00:00Z", "7d": "2026-11-15T12:00:00Z", "2026-11-20": "2026-11-20T00:00:00Z",
		"2026-11-20T15:04": "2026-11-20T15:04:00Z", "2026-11-20 15:04": "2026-11-20T15:04:00Z", "2026-11-20T15:04:00+01:00": "2026-11-20T14:04:00Z",
	} {
		ms, err := parseSince(text, now)
		if got := time.UnixMilli(ms).UTC().Format(time.RFC3339); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-5m", "-2d", "1.5d", "22.11.2026"} {
		if _, err := parseSince(text, now); err == nil {
			t.Errorf("%s passed", text)
		}
	}
}

// TestPlayClock shows that a play's clock is set once, on a whole minute.
func TestPlayClock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.UnixMilli(tinyStartMs).Add(1000*time.Hour + 12345*time.Millisecond)
	o := playOptions{ahead: 30 * time.Minute, chunk: 10 * time.Second}
	c, err := loadClock(dir, "d1", o, tinyStartMs, now)
	if err != nil {
		t.Fatal(err)
	}
	begins := tinyStartMs + c.ShiftMs
	if late := now.UnixMilli() - 30*tinyMin - begins; c.ShiftMs%tinyMin != 0 || late < 0 || late >= tinyMin {
		t.Errorf("%+v begins at %d, %d ms before what was asked for", c, begins, late)
	}
	again, err := loadClock(dir, "d1", playOptions{chunk: time.Second}, tinyStartMs, now.Add(time.Hour))
	if err != nil || again != c {
		t.Errorf("the second start has %+v, %v; the first had %+v", again, err, c)
	}
	if _, err = loadClock(dir, "d2", o, tinyStartMs, now); err == nil {
		t.Error("another recording passed")
	}
	if err = os.WriteFile(filepath.Join(dir, "clock.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = loadClock(dir, "d1", o, tinyStartMs, now); err == nil {
		t.Error("an empty clock passed")
	}
}

// TestNATSCommand serves a broker until stdin ends.
func TestNATSCommand(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("x1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close() // it was to find a free port
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	stdin, end := net.Pipe()
	ctx, stop := untilStdinEnds(t.Context(), stdin, true)
	defer stop()
	dir, done := t.TempDir(), make(chan error, 1)
	var log shared
	go func() { done <- serveNATS(ctx, dir, token, n, textLog(&log)) }()
	limit, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for up.AskNATS(limit, addr) != nil {
		if limit.Err() != nil {
			t.Fatalf("no broker: %s", &log)
		}
	}
	_ = end.Close() // as a parent that dies
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := up.AskNATS(t.Context(), addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the end: %v", err)
	}
}

// TestUntils says up to when the figures of a run are known.
func TestUntils(t *testing.T) {
	t.Parallel()
	const minute = 60_000
	ended := int64(5 * minute)
	runs := []detector.RunLine{{Run: "new"}, {Run: "old"}, {Run: "ended", EndedMs: &ended}, {Run: "part"}, {Run: "none"}}
	got := untils(runs, map[string]string{"part": "run-1", "none": "none"}, map[string]int64{"new": 20 * minute, "old": 12 * minute}, 20*minute)
	want := map[string]string{"new": "open", "old": "open (figures: 00:12)", "ended": "1970-01-01 00:05", "part": "now part of run-1", "none": "taken back"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestNothingSeen: rentals of which nothing is known are not "nothing".
func TestNothingSeen(t *testing.T) {
	t.Parallel()
	dark := detector.RunLine{
		Run: "run-dark", Class: "unknown", Basis: []string{"allocation"}, Members: []detector.MemberLine{{Node: "n1", EndMs: 3_600_000}}, FLOPsExecuted: flops.Interval{High: 2e18},
	}
	idle := detector.RunLine{Run: "run-idle", Class: "idle", Members: []detector.MemberLine{{Node: "n2", EndMs: 3_600_000}}}
	for want, runs := range map[string][]detector.RunLine{
		"\nNothing was at work.\n  1 idle stretch: 1 GPU, 1.0 GPU-h.\n": {idle},
		"\nNothing was seen at work.\n  1 rental without telemetry: 1 GPU, 1.0 GPU-h. What ran is unknown; one may have executed up to 2e+18 FLOP.\n  1 idle stretch: 1 GPU, 1.0 GPU-h.\n": {dark, idle},
	} {
		var out strings.Builder
		p := &printer{w: &out}
		if p.liveRuns(runs, nil, false); out.String() != want {
			t.Errorf("got %q, want %q", &out, want)
		}
	}
}
