package up

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/supervise"
)

func TestFindDriver(t *testing.T) {
	t.Parallel()
	const version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: x\n"
	lib := "/usr/lib/x86_64-linux-gnu/" + nvmlLibrary
	for name, c := range map[string]struct {
		files  map[string]string
		extra  []string
		loaded bool
		text   string
	}{
		"nothing":    {nil, nil, false, "this host has no NVIDIA driver"},
		"library":    {map[string]string{lib: ""}, nil, false, "but the kernel has no NVIDIA driver"},
		"both":       {map[string]string{lib: "", "/proc/driver/nvidia/version": version}, nil, true, "NVIDIA UNIX x86_64 Kernel Module 550.54.15"},
		"device":     {map[string]string{"/dev/nvidiactl": ""}, nil, true, "in none of the usual places"},
		"wsl":        {map[string]string{"/usr/lib/wsl/lib/" + nvmlLibrary: "", "/dev/dxg": ""}, nil, true, "WSL"},
		"dxg alone":  {map[string]string{"/dev/dxg": ""}, nil, false, "no NVIDIA driver"},
		"elsewhere":  {map[string]string{"/opt/x/" + nvmlLibrary: "", "/dev/nvidiactl": ""}, []string{"", "rel", "/opt/x"}, true, "/opt/x/"},
		"stub alone": {map[string]string{"/opt/x/" + nvmlLibrary: ""}, []string{"/opt/x"}, false, "but the kernel has no"},
	} {
		root := t.TempDir()
		for path, text := range c.files {
			path = filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if d := FindDriver(root, c.extra); d.Loaded != c.loaded || !strings.Contains(d.Text, c.text) {
			t.Errorf("%s: %+v; want %v, %q", name, d, c.loaded, c.text)
		}
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	none, some := Driver{Text: "this host has no NVIDIA driver"}, Driver{Loaded: true, Text: "NVIDIA's driver is loaded"}
	recorded := &Source{Kind: Recording, Cluster: "c1", Recording: "/r", Digest: "d1"}
	for name, c := range map[string]struct {
		w      Wish
		before *Source
		d      Driver
		want   Source
		err    string
	}{
		"real GPUs":          {Wish{}, nil, some, Source{Kind: RealGPUs, Cluster: "local"}, ""},
		"a name":             {Wish{Cluster: "lab"}, nil, some, Source{Kind: RealGPUs, Cluster: "lab"}, ""},
		"nothing":            {Wish{}, nil, none, Source{}, "this host has no NVIDIA driver; name what to sample instead"},
		"the three ways":     {Wish{}, nil, none, Source{}, "--no-gpus"},
		"flags win":          {Wish{Recording: "/r"}, nil, some, Source{Kind: Recording, Recording: "/r", Cluster: "local"}, ""},
		"fake":               {Wish{FakeGPUs: 8}, nil, some, Source{Kind: FakeGPUs, GPUs: 8, Cluster: "FAKE"}, ""},
		"fake with a name":   {Wish{FakeGPUs: 8, Cluster: "lab"}, nil, none, Source{Kind: FakeGPUs, GPUs: 8, Cluster: "FAKE-lab"}, ""},
		"no GPUs":            {Wish{HostOnly: true}, nil, some, Source{Kind: HostOnly, Cluster: "local"}, ""},
		"as before":          {Wish{}, recorded, some, *recorded, ""},
		"before, other name": {Wish{Cluster: "c2"}, recorded, some, Source{}, "is of cluster c1"},
		"two":                {Wish{Recording: "/r", FakeGPUs: 1}, nil, some, Source{}, "exclude each other"},
		"recording, name":    {Wish{Recording: "/r", Cluster: "x"}, nil, none, Source{}, "a recording names its own cluster"},
		"minus":              {Wish{FakeGPUs: -1}, nil, none, Source{}, "wanted 1 to"},
	} {
		got, err := choose(c.w, c.before, c.d)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v; want %q", name, err, c.err)
			}
			continue
		}
		if got.Why = ""; err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
}

// TestBelongs: a directory of one kind of telemetry takes no other.
func TestBelongs(t *testing.T) {
	t.Parallel()
	real, host := Source{Kind: RealGPUs, Cluster: "local"}, Source{Kind: HostOnly, Cluster: "local"}
	fake, rec := Source{Kind: FakeGPUs, Cluster: "FAKE", GPUs: 8}, Source{Kind: Recording, Cluster: "c", Digest: "1"}
	for _, c := range []struct {
		before, now Source
		ok          bool
	}{
		{real, real, true},
		{real, host, true}, // the driver came, or went
		{host, real, true},
		{fake, Source{Kind: FakeGPUs, Cluster: "FAKE", GPUs: 4}, true},
		{rec, rec, true},
		{real, fake, false},
		{fake, real, false},
		{rec, real, false},
		{rec, Source{Kind: Recording, Cluster: "c", Digest: "2"}, false},
		{real, Source{Kind: RealGPUs, Cluster: "other"}, false},
	} {
		if err := c.now.belongs(&c.before, "D"); (err == nil) != c.ok {
			t.Errorf("%+v after %+v: %v", c.now, c.before, err)
		}
	}
	if err := fake.belongs(nil, "D"); err != nil {
		t.Error(err)
	}
}

func TestSourceIsKept(t *testing.T) {
	t.Parallel()
	l := Layout{t.TempDir()}
	if s, err := loadSource(l); s != nil || err != nil {
		t.Errorf("a new directory: %v, %v", s, err)
	}
	want := Source{Kind: Recording, Cluster: "c", Recording: "/r", Digest: "d", Why: "w"}
	if err := want.save(l); err != nil {
		t.Fatal(err)
	}
	if s, err := loadSource(l); err != nil || *s != want {
		t.Errorf("%+v, %v", s, err)
	}
	if err := os.WriteFile(l.source(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadSource(l); err == nil || !strings.Contains(err.Error(), l.source()) {
		t.Errorf("half a file: %v", err)
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	var free Ports
	health, clickhouse, err := free.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(health.Close(), clickhouse.Close()) }()
	var all []int
	for _, q := range free.all() {
		all = append(all, *q.n)
	}
	slices.Sort(all)
	if len(slices.Compact(all)) != 6 || all[0] == 0 {
		t.Errorf("ports %+v", free)
	}
	taken := Ports{NATS: free.Health}
	if _, _, err = taken.take(t.Context()); err == nil || !strings.Contains(err.Error(), "--nats-port") || !strings.Contains(err.Error(), "wanted for NATS") {
		t.Errorf("a taken port: %v", err)
	}
	twice := Ports{NATS: free.Agent, Detector: free.Agent}
	if _, _, err = twice.take(t.Context()); err == nil || !strings.Contains(err.Error(), "two things") {
		t.Errorf("one port for two: %v", err)
	}
	high := Ports{Health: 65533}
	if _, _, err = high.take(t.Context()); err == nil || !strings.Contains(err.Error(), "wanted 1 to 65535") {
		t.Errorf("ports past the end: %v", err)
	}
	if a := DefaultAddresses(); len(a) != 6 || a[0] != "127.0.0.1:7410" || a[5] != "127.0.0.1:7415" {
		t.Errorf("default addresses %v", a)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	child := func(name string, s supervise.State, restarts int, since time.Duration, reasons ...string) supervise.Status {
		return supervise.Status{Name: name, State: s, Restarts: restarts, LastExit: "exit 1: oops", Since: now.Add(-since), Reasons: reasons}
	}
	for name, c := range map[string]struct {
		in      []supervise.Status
		state   daemon.State
		reasons []string
	}{
		"well":           {[]supervise.Status{child("a", supervise.Ready, 0, time.Hour)}, daemon.OK, []string{}},
		"long ago":       {[]supervise.Status{child("a", supervise.Ready, 3, time.Hour)}, daemon.OK, []string{}},
		"just now":       {[]supervise.Status{child("a", supervise.Ready, 5, time.Second)}, daemon.Degraded, []string{"a: restarted 5 times, last: exit 1: oops"}},
		"degraded":       {[]supervise.Status{child("a", supervise.Degraded, 0, 0, "half of it")}, daemon.Degraded, []string{"a: half of it"}},
		"starting":       {[]supervise.Status{child("a", supervise.Starting, 0, 0)}, daemon.Failing, []string{"a is starting"}},
		"starting again": {[]supervise.Status{child("a", supervise.Starting, 1, 0, "no answer")}, daemon.Failing, []string{"a: restarted once, after: exit 1: oops", "a: no answer"}},
		"the worst":      {[]supervise.Status{child("a", supervise.Down, 2, 0, "it died"), child("b", supervise.Degraded, 0, 0, "x")}, daemon.Failing, []string{"a: it died", "b: x"}},
	} {
		state, reasons := health(c.in, now)
		if state != c.state || !slices.Equal(reasons, c.reasons) {
			t.Errorf("%s: %s %q; want %s %q", name, state, reasons, c.state, c.reasons)
		}
	}
}

// TestConfigs holds what is written for each daemon, and that a recording's limits come back
// from the detector's file as the manifest states them.
func TestConfigs(t *testing.T) {
	t.Parallel()
	l := Layout{t.TempDir()}
	if err := l.create(); err != nil {
		t.Fatal(err)
	}
	tr := &tree{l: l, bin: "/b", o: Options{Wait: 2 * time.Minute, Ports: Ports{1, 2, 3, 4, 5, 6}}}
	tr.state = State{Source: Source{Kind: FakeGPUs, Cluster: "FAKE"}, Node: "FAKE-h", NATSURL: "nats://127.0.0.1:2", ClickHouseURL: "http://127.0.0.1:3", ClickHouseUser: "default"}
	m := &bundle.Manifest{SpecialJurisdictions: []string{"XX"}, Profiles: []bundle.Profile{{Name: "low", LimitFLOPs: 3e18, Cluster: &bundle.ClusterLimit{Gbps: 100, OpsPerS: 5e15}}}}
	if err := tr.configs(m); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		agentName:     {`node = "FAKE-h"`, `library = "` + l.FakeLibrary() + `"`, `child = "/b/flopwatch-nvml"`, `listen = "127.0.0.1:4"`, "enabled = true", l.Key("site")},
		collectorName: {`listen = "127.0.0.1:5"`, "partitions = 1", `url = "http://127.0.0.1:3"`, l.Token()},
		detectorName:  {`listen = "127.0.0.1:6"`, `wait = "2m0s"`, `special_jurisdictions = ["XX"]`, `cluster = "FAKE"`, profilesFile, l.Reports()},
	} {
		text, err := os.ReadFile(l.Config(name))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(text), w) {
				t.Errorf("%s lacks %s:\n%s", name, w, text)
			}
		}
		var any map[string]any
		if _, err := toml.Decode(string(text), &any); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if st, err := os.Stat(l.Config(name)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, st.Mode(), err)
		}
	}
	got, err := ReadProfiles(l)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Profiles(m)
	if err != nil {
		t.Fatal(err)
	}
	a, aerr := threshold.Digest(got)
	b, berr := threshold.Digest(want)
	if a != b || aerr != nil || berr != nil {
		t.Errorf("profiles read back: %+v\nwant %+v", got, want)
	}
}

func TestSecret(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	first, err := secret(path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 || len(first) != 64 {
		t.Errorf("%v %v, %d digits", st.Mode(), err, len(first))
	}
	if again, err := secret(path); again != first || err != nil {
		t.Errorf("the second reading: %q, %v", again, err)
	}
	if err := os.WriteFile(path, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := secret(path); err == nil {
		t.Error("an empty secret passed")
	}
}

// TestForeign refuses a folder of something else, and takes what a start leaves that came to nothing.
func TestForeign(t *testing.T) {
	t.Parallel()
	l := Layout{filepath.Join(t.TempDir(), "data")}
	if err := l.foreign(); err != nil {
		t.Errorf("no folder: %v", err)
	}
	if err := l.create(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{l.Key("site"), l.source() + ".tmp", l.path("lost+found")} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.foreign(); err != nil {
		t.Errorf("half a start: %v", err)
	}
	if err := os.WriteFile(l.path("thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.foreign(); err == nil || !strings.Contains(err.Error(), "thesis.tex") {
		t.Errorf("a folder of somebody's: %v", err)
	}
}

// TestAskNATS tells a broker from others.
func TestAskNATS(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]string{
		"INFO {\"jetstream\":true}\r\n": "", "INFO {}\r\n": "has no JetStream", "HTTP/1.1 400 Bad Request\r\n": "is no NATS", "": "EOF",
	} {
		ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(said)) // the client may have gone
			_ = conn.Close()
		}()
		err = AskNATS(t.Context(), ln.Addr().String())
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", said, err, want)
		}
		_ = ln.Close() // the test is over
	}
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }() // the test is over
	if r := checkNATS(silent.Addr().String())(t.Context()); r.State != supervise.Failing || len(r.Reasons) != 1 || r.Reasons[0] != "it does not answer within 3s" {
		t.Errorf("somebody who says nothing: %+v", r)
	}
	if r := checkDaemon("http://" + silent.Addr().String())(t.Context()); r.State != supervise.Failing || len(r.Reasons) != 1 || r.Reasons[0] != "it does not answer within 3s" {
		t.Errorf("a daemon that says nothing: %+v", r)
	}
	if r := checkDaemon("http://127.0.0.1:1")(context.Background()); r.State != supervise.Failing || len(r.Reasons) != 1 {
		t.Errorf("nobody there: %+v", r)
	}
}
