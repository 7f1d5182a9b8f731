package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// selfVar makes this test binary the detector, so that one can be killed.
const selfVar = "FLOPWATCH_TEST_DETECTOR"

func TestMain(m *testing.M) {
	if path := os.Getenv(selfVar); path != "" {
		os.Exit(daemon.Main("flopwatch-detector", os.Stderr, func(ctx context.Context) error {
			return run(ctx, []string{"-config", path}, os.Stdout, os.Stderr)
		}))
	}
	os.Exit(m.Run())
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "detector.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigIsStrict(t *testing.T) {
	own := write(t, "[[profile]]\nname = \"x\"\n")
	for name, c := range map[string]struct{ text, want string }{
		"good":      {"cluster = \"c\"\n", ""},
		"wait":      {"cluster = \"c\"\nwait = \"30s\"\nspecial_jurisdictions = [\"KP\"]\n", ""},
		"unknown":   {"cluster = \"c\"\nwiat = \"30s\"\n", "unknown key wiat"},
		"duplicate": {"cluster = \"c\"\ncluster = \"d\"\n", "has already been defined"},
		"cluster":   {"wait = \"1m\"\n", "cluster is missing"},
		"negative":  {"cluster = \"c\"\nwait = \"-1m\"\n", "wait -1m0s"},
		"step":      {"cluster = \"c\"\nstep = \"90s\"\n", "whole minutes"},
		"country":   {"cluster = \"c\"\nspecial_jurisdictions = [\"Iran\"]\n", "ISO 3166-1"},
		"profiles":  {"cluster = \"c\"\nprofiles_file = \"/nowhere/p.toml\"\n", "read profiles_file"},
		"bad rules": {fmt.Sprintf("cluster = \"c\"\nprofiles_file = %q\n", own), own},
		"store":     {"cluster = \"c\"\n[store]\nurl = \"ftp://h\"\n", "scheme"},
		"password":  {"cluster = \"c\"\nstore_password_file = \"/nowhere/secret\"\n", "store_password_file"},
		"listen":    {"cluster = \"c\"\n[metrics]\nlisten = \"9471\"\n", "metrics.listen"},
		"reports":   {"cluster = \"c\"\nreports_dir = \"reports\"\n", "absolute"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			err := run(t.Context(), []string{"-config", write(t, c.text), "-check"}, &out, &errs)
			switch {
			case c.want == "" && (err != nil || len(strings.TrimSpace(out.String())) != 64):
				t.Errorf("%v, printed %q", err, out.String())
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestCommentedFile holds the shipped file to the defaults, to all keys, and to its copy.
func TestCommentedFile(t *testing.T) {
	var printed bytes.Buffer
	if err := run(t.Context(), []string{"-print-config"}, &printed, io.Discard); err != nil {
		t.Fatal(err)
	}
	got, _, err := loadConfig(write(t, printed.String()))
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Cluster = got.Cluster // has no default
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the file says %+v\ndefaults are  %+v", got, want)
	}
	var keys map[string]any
	if _, err := toml.Decode(printed.String(), &keys); err != nil {
		t.Fatal(err)
	}
	names(t, "", keys, reflect.TypeFor[config]())
	shipped, err := os.ReadFile(filepath.Join(testenv.Root(t), "deploy", "config", "flopwatch-detector.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if printed.String() != string(shipped) {
		t.Error("deploy/config/flopwatch-detector.toml is not cmd/flopwatch-detector/flopwatch-detector.toml: copy it there")
	}
}

// names holds a table of the file to the fields of a configuration.
func names(t *testing.T, where string, keys map[string]any, typ reflect.Type) {
	t.Helper()
	for f := range typ.Fields() {
		key := f.Tag.Get("toml")
		if key == "-" {
			continue
		}
		v, ok := keys[key]
		if !ok {
			t.Errorf("the file lacks %s%s", where, key)
			continue
		}
		if table, ok := v.(map[string]any); ok && f.Type.Kind() == reflect.Struct {
			names(t, where+key+".", table, f.Type)
		}
	}
}

// site is a broker and a store with one GPU that was sampled for an hour, some time ago.
type site struct {
	config string // without metrics.listen
	store  *store.Store
	js     jetstream.JetStream
}

const cluster = "live"

func newSite(t *testing.T) site {
	t.Helper()
	url, user, password := testenv.ClickHouse(t)
	nc, natsURL := testenv.NATS(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{LeaseTTL: 2 * time.Second}); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{URL: url, User: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cerr := s.Close(); cerr != nil {
			t.Error(cerr)
		}
	})
	if err = s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "password")
	if err = os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return site{store: s, js: js, config: fmt.Sprintf("cluster = %q\nwait = %q\nreports_dir = %q\nstore_password_file = %q\n[nats]\nurl = %q\n[store]\nurl = %q\nuser = %q\n",
		cluster, soon().String(), filepath.Join(t.TempDir(), "reports"), secret, natsURL, url, user)}
}

// soon is a wait under which a minute is due some seconds from now, when the test needs one.
func soon() time.Duration {
	return time.Minute + time.Duration((time.Now().Unix()+8)%60)*time.Second
}

// sample stores a minute of one busy H100, which no inventory lists, and its batch.
func (s site) sample(t *testing.T, sequence uint64, minuteMs int64) {
	t.Helper()
	s.sampleAt(t, sequence, minuteMs, minuteMs+60_000)
}

func (s site) sampleAt(t *testing.T, sequence uint64, minuteMs, availableMs int64) {
	t.Helper()
	meta := store.RawMeta{Cluster: cluster, Node: "gpu-1", Spool: "s", Sequence: sequence, Sources: "nvml", AvailableMs: availableMs}
	put := func(table string, rows int, ints map[string][]int64, text map[string]string) {
		b, err := store.NewRawBlock(table)
		if err != nil {
			t.Fatal(err)
		}
		b.Begin(meta, rows)
		for name, v := range ints {
			b.Ints(b.Column(name), v, nil)
		}
		for name, v := range text {
			b.Strings(b.Column(name), []string{v}, make([]uint32, rows), nil)
		}
		b.End()
		if err := s.store.Insert(t.Context(), table, "", b); err != nil {
			t.Fatal(err)
		}
	}
	const n = 12
	ts, power, tensor, zero := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	for i := range n {
		ts[i], power[i], tensor[i] = minuteMs+int64(i)*5000, 640_000, 5000
	}
	put(store.TableGPUSamples, n, map[string][]int64{"ts_ms": ts, "gpu": zero, "power_mw": power, "tensor_e4": tensor, "util_e4": tensor}, map[string]string{"gpu_uuid": "GPU-1"})
	row := store.BatchRow{
		BatchKey: store.BatchKey{Cluster: cluster, Node: "gpu-1", Spool: "s", Sequence: sequence}, MinTsMs: minuteMs, MaxTsMs: minuteMs + 59_000,
		Minutes: []int64{minuteMs / 60_000}, AvailableMs: meta.AvailableMs,
	}
	row.Rows[0] = n
	if sequence == 1 {
		put(store.TableGPUDevices, 1, map[string][]int64{"ts_ms": {minuteMs}, "gpu": {0}, "power_limit_mw": {700_000}}, map[string]string{"gpu_uuid": "GPU-1", "gpu_model": "NVIDIA H100 80GB HBM3"})
		row.Rows[9] = 1
	}
	if err := s.store.Insert(t.Context(), store.TableBatches, "", store.BatchBlock([]store.BatchRow{row})); err != nil {
		t.Fatal(err)
	}
}

// detectorProcess is a detector of its own.
type detectorProcess struct {
	cmd  *exec.Cmd
	url  string
	said bytes.Buffer
}

func (s site) start(t *testing.T) *detectorProcess {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err = ln.Close(); err != nil {
		t.Fatal(err)
	}
	p := &detectorProcess{url: "http://" + addr}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), selfVar+"="+write(t, s.config+fmt.Sprintf("[metrics]\nlisten = %q\n", addr)))
	p.cmd.Stderr = &p.said
	if err = p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("detector %d:\n%s", p.cmd.Process.Pid, p.said.String())
		}
	})
	return p
}

type answer struct {
	State   string   `json:"state"`
	Reasons []string `json:"reasons"`
	Details struct {
		Leader   bool   `json:"leader"`
		Phase    string `json:"phase"`
		Epoch    uint64 `json:"epoch"`
		JudgedMs int64  `json:"judged_up_to_ms"`
		LagMs    int64  `json:"lag_ms"`
	} `json:"details"`
}

// until asks the detector's health until it is as wanted.
func (p *detectorProcess) until(t *testing.T, what string, ok func(answer) bool) answer {
	t.Helper()
	var a answer
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
		if text, err := get(t, p.url+"/healthz"); err == nil {
			a = answer{}
			if err := json.Unmarshal([]byte(text), &a); err != nil {
				t.Fatal(err)
			}
			if ok(a) {
				return a
			}
		}
		timer := time.NewTimer(50 * time.Millisecond)
		<-timer.C
	}
	t.Fatalf("%s: not in a minute, last %+v", what, a)
	return a
}

func get(t *testing.T, url string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// TestTwoDetectors: one leads, the other waits; the leader is killed, the other takes over
// where it stood, under a higher epoch, and nothing is judged twice; SIGTERM ends with 0.
func TestTwoDetectors(t *testing.T) {
	s := newSite(t)
	now := time.Now().UnixMilli() / 60_000 * 60_000
	from := now - 70*60_000
	for i := range int64(40) {
		s.sample(t, uint64(i+1), from+i*60_000)
	}
	first := s.start(t)
	a := first.until(t, "the first leads and has judged", func(a answer) bool { return a.Details.Leader && a.Details.JudgedMs >= now-4*60_000 })
	if a.State != "ok" {
		t.Errorf("the leader is %s: %v", a.State, a.Reasons)
	}
	second := s.start(t)
	second.until(t, "the second stands by", func(a answer) bool { return a.Details.Phase == string(standby) && a.State == "ok" })
	runs, err := s.store.LatestRuns(t.Context(), cluster)
	if err != nil || len(runs) == 0 {
		t.Fatalf("%d runs, %v", len(runs), err)
	}
	if runs[0].Executed.Best <= 0 {
		t.Errorf("a run of a part that only its driver names: %+v", runs[0])
	}
	if metrics, err := get(t, first.url+"/metrics"); err != nil || !strings.Contains(metrics, "flopwatch_detector_leader 1") || !strings.Contains(metrics, "flopwatch_detector_minutes_judged_total") {
		t.Errorf("metrics: %v\n%s", err, metrics)
	}

	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.cmd.Wait() // killed
	for i := range int64(5) {
		s.sample(t, uint64(50+i), from+(40+i)*60_000) // late, behind what was judged
	}
	b := second.until(t, "the second takes over", func(b answer) bool { return b.Details.Leader && b.Details.JudgedMs >= a.Details.JudgedMs })
	if b.Details.Epoch <= a.Details.Epoch {
		t.Errorf("epochs %d, then %d", a.Details.Epoch, b.Details.Epoch)
	}
	cells := func() int {
		rows, err := s.store.GPUCells(t.Context(), store.RowQuery{Cluster: cluster, FromMs: from, ToMs: now})
		if err != nil {
			t.Fatal(err)
		}
		return len(rows)
	}
	for deadline := time.Now().Add(90 * time.Second); cells() < 45 && time.Now().Before(deadline); {
		timer := time.NewTimer(100 * time.Millisecond)
		<-timer.C
	}
	if n := cells(); n != 45 {
		t.Errorf("%d minutes have cells, want 45: the late ones too", n)
	}
	again, err := s.store.LatestRuns(t.Context(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	if len(again) == 0 || again[0].RunID != runs[0].RunID {
		t.Errorf("runs before %v, after %v", runs, again)
	}
	p, ok, err := s.store.Position(t.Context(), cluster)
	if err != nil || !ok || p.Epoch != b.Details.Epoch {
		t.Errorf("position %+v, %v, %v", p, ok, err)
	}

	if err := second.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if err := second.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := second.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// TestStoppedLeader: a leader stands still for longer than its lease lives. The other takes over; the
// first knows when it goes on, stands by, and what it would still say is refused.
func TestStoppedLeader(t *testing.T) {
	s := newSite(t)
	now := time.Now().UnixMilli() / 60_000 * 60_000
	from := now - 40*60_000
	for i := range int64(20) {
		s.sample(t, uint64(i+1), from+i*60_000)
	}
	first := s.start(t)
	a := first.until(t, "the first leads and has judged", func(a answer) bool { return a.Details.Leader && a.Details.JudgedMs >= now-4*60_000 })
	second := s.start(t)
	second.until(t, "the second stands by", func(a answer) bool { return a.Details.Phase == string(standby) })
	before, err := s.store.LatestRuns(t.Context(), cluster)
	if err != nil || len(before) == 0 {
		t.Fatalf("%d runs, %v", len(before), err)
	}
	if err = first.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b := second.until(t, "the second takes over", func(b answer) bool { return b.Details.Leader && b.Details.JudgedMs >= a.Details.JudgedMs })
	if b.Details.Epoch <= a.Details.Epoch {
		t.Errorf("epochs %d, then %d", a.Details.Epoch, b.Details.Epoch)
	}
	for i := range int64(5) { // something to judge for whoever thinks that he leads
		s.sample(t, uint64(50+i), from+(20+i)*60_000)
	}
	if err = first.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	first.until(t, "the first stands by", func(a answer) bool { return a.Details.Phase == string(standby) && !a.Details.Leader })
	cells := func() int {
		rows, rerr := s.store.GPUCells(t.Context(), store.RowQuery{Cluster: cluster, FromMs: from, ToMs: now})
		if rerr != nil {
			t.Fatal(rerr)
		}
		return len(rows)
	}
	for deadline := time.Now().Add(90 * time.Second); cells() < 25 && time.Now().Before(deadline); {
		timer := time.NewTimer(100 * time.Millisecond)
		<-timer.C
	}
	if n := cells(); n != 25 {
		t.Errorf("%d minutes have cells, want 25", n)
	}
	// What the first had in hand when it was stopped, said after all.
	for i := range before {
		before[i].Provenance.Epoch, before[i].Provenance.Version, before[i].Class = a.Details.Epoch, before[i].Provenance.Version+1000*60_000, "stale"
	}
	if err = s.store.PutRuns(t.Context(), cluster, before); !errors.Is(err, store.ErrStaleEpoch) {
		t.Errorf("verdicts of a stale epoch: %v", err)
	}
	if err = s.store.PutPosition(t.Context(), cluster, store.PositionRow{Epoch: a.Details.Epoch, JudgedMs: now}); !errors.Is(err, store.ErrStaleEpoch) {
		t.Errorf("the position of a stale epoch: %v", err)
	}
	p, ok, err := s.store.Position(t.Context(), cluster)
	if err != nil || !ok || p.Epoch != b.Details.Epoch {
		t.Errorf("position %+v, %v, %v", p, ok, err)
	}
	after, err := s.store.LatestRuns(t.Context(), cluster)
	if err != nil || len(after) == 0 || after[0].RunID != before[0].RunID || after[0].Class == "stale" {
		t.Errorf("runs %v, %v", after, err)
	}
}

// TestHealthHasReasons: what a leader's status means for whoever asks how it is.
func TestHealthHasReasons(t *testing.T) {
	t.Parallel()
	for want, st := range map[string]detector.Status{
		"":                                    {LagMs: 60_000, AheadMs: 60_000},
		"judging lies 10m0s behind":           {LagMs: 600_000},
		"lies 1h0m0s behind what was judged":  {AheadMs: 3_600_000},
		"take some 20 MiB more memory":        {Beyond: 100_000},
		"reports cannot be written: no space": {ReportError: "no space"},
	} {
		h := judge(state{phase: leading, status: st}, config{}, "i")
		if said := strings.Join(h.Reasons, "; "); (want == "") != (h.State == daemon.OK) || !strings.Contains(said, want) {
			t.Errorf("%+v: %s, %q, want %q", st, h.State, said, want)
		}
	}
}

// TestNobodyThere: without broker and store it says so, and ends well.
func TestNobodyThere(t *testing.T) {
	p := site{config: "cluster = \"c\"\n[nats]\nurl = \"nats://127.0.0.1:1\"\n[store]\nurl = \"http://127.0.0.1:1\"\n"}.start(t)
	a := p.until(t, "it says that nobody is there", func(a answer) bool {
		return a.State == "failing" && strings.Contains(strings.Join(a.Reasons, " "), "127.0.0.1:1")
	})
	if a.Details.Leader {
		t.Error("it leads")
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, p.said.String())
	}
	if n := strings.Count(p.said.String(), "not leading"); n != 1 {
		t.Errorf("said %d times:\n%s", n, p.said.String())
	}
}
