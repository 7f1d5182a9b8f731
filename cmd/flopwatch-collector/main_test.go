package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "collector.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigIsStrict(t *testing.T) {
	const good = "[nats]\nurl = \"nats://h:4222\"\n[store]\nurl = \"http://h:8123\"\n"
	for name, c := range map[string]struct{ text, want string }{
		"good":       {good, ""},
		"linger":     {"linger = \"2s\"\n" + good, ""},
		"clocks":     {"max_behind = \"1s\"\n" + good, "max_behind at least an hour"},
		"unknown":    {"lingre = \"2s\"\n" + good, "unknown key lingre"},
		"duplicate":  {good + "url = \"http://x\"\n", "has already been defined"},
		"no broker":  {"[store]\nurl = \"http://h:8123\"\n", "nats.url is missing"},
		"partitions": {"[nats]\nurl = \"nats://h\"\npartitions = 3\n[store]\nurl = \"http://h\"\n", "does not divide"},
		"store":      {"[nats]\nurl = \"nats://h\"\n[store]\nurl = \"ftp://h\"\n", "scheme"},
		"password":   {good + "password = \"x\"\n", "unknown key store.password"},
		"nothing":    {"max_messages = 0\n" + good, "max_messages, max_bytes and linger: more than 0"},
		"no linger":  {"linger = \"0s\"\n" + good, "max_messages, max_bytes and linger: more than 0"},
		"quarantine": {"quarantine_messages = -1\n" + good, "quarantine_messages and quarantine_bytes: from 1"},
		"stream":     {"[nats]\nurl = \"nats://h\"\nstream_max_bytes = 10\n[store]\nurl = \"http://h\"\n", "nats.stream_max_bytes 10: at least"},
		"timeout":    {good + "timeout = \"0s\"\n", "store.timeout 0s: more than 0"},
		"level":      {good + "[log]\nlevel = \"loud\"\n", "log.level \"loud\": debug, info, warn or error"},
		"format":     {good + "[log]\nformat = \"xml\"\n", "log.format \"xml\": text or json"},
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

// TestCheckNotesFiles: a file that a configuration names and that is not there is told, and is no mistake in it.
func TestCheckNotesFiles(t *testing.T) {
	var out, errs bytes.Buffer
	path := write(t, "store_password_file = \"/nowhere/password\"\n[nats]\nurl = \"nats://h\"\nnkey_file = \"/nowhere/nk\"\n[store]\nurl = \"http://h\"\n")
	if err := run(t.Context(), []string{"-config", path, "-check"}, &out, &errs); err != nil || len(strings.TrimSpace(out.String())) != 64 {
		t.Errorf("%v, printed %q", err, out.String())
	}
	for _, want := range []string{"note: store_password_file: open /nowhere/password: ", "note: nats.nkey_file: open /nowhere/nk: "} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("stderr lacks %q:\n%s", want, errs.String())
		}
	}
}

// TestNoTables: a collector that may not make tables, or is told not to, says so at its start and what would help.
func TestNoTables(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := write(t, fmt.Sprintf("store_password_file = %q\nmigrate = false\n[nats]\nurl = \"nats://127.0.0.1:1\"\n[store]\nurl = %q\nuser = %q\ndatabase = \"nobody_made_it\"\n[metrics]\nlisten = \"\"\n", secret, url, user))
	err := run(t.Context(), []string{"-config", path}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "nobody_made_it") || !strings.Contains(err.Error(), "flopwatch store migrate") {
		t.Errorf("no tables: %v", err)
	}
	if err = fmt.Errorf("create database x: %w", errors.New("code: 497, (ACCESS_DENIED)")); !store.Denied(err) || store.Denied(nil) {
		t.Error("a refusal is not told from others")
	}
}

// endingLog is a log that calls end when it takes a line with word.
type endingLog struct {
	bytes.Buffer
	word string
	end  func()
}

func (l *endingLog) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(l.word)) {
		l.end()
	}
	return l.Buffer.Write(line)
}

func TestRunStartsAndStops(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	_, natsURL := testenv.NATS(t)
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := write(t, fmt.Sprintf("store_password_file = %q\nlinger = \"50ms\"\n[nats]\nurl = %q\npartitions = 1\n[store]\nurl = %q\nuser = %q\n[metrics]\nlisten = \"127.0.0.1:0\"\n", secret, natsURL, url, user))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	hangUp := func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Error(err)
		}
	}
	errs := endingLog{word: "collecting", end: func() {
		time.AfterFunc(100*time.Millisecond, hangUp)
		time.AfterFunc(500*time.Millisecond, cancel) // long enough to take a lease
	}}
	if err := run(ctx, []string{"-config", path}, &out, &errs); err != nil {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	if !strings.Contains(errs.String(), "collecting") || !strings.Contains(errs.String(), "stopped") || !strings.Contains(errs.String(), "SIGHUP changes nothing") || strings.Contains(errs.String(), password) {
		t.Errorf("log:\n%s", errs.String())
	}
}

// TestCommentedFile holds the shipped file to the defaults and to its copy.
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
	want.NATS.URL, want.Store.URL = got.NATS.URL, got.Store.URL // have no defaults
	if got != want {
		t.Errorf("the file says %+v\ndefaults are  %+v", got, want)
	}
	for f := range reflect.TypeFor[config]().Fields() {
		if key := f.Tag.Get("toml"); !strings.Contains(printed.String(), "\n"+key+" = ") && !strings.Contains(printed.String(), "\n["+key+"]\n") {
			t.Errorf("the file lacks %s", key)
		}
	}
	shipped, err := os.ReadFile(filepath.Join(testenv.Root(t), "deploy", "config", "flopwatch-collector.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if printed.String() != string(shipped) {
		t.Error("deploy/config/flopwatch-collector.toml is not cmd/flopwatch-collector/flopwatch-collector.toml: copy it there")
	}
}

func TestHealthSaysWhy(t *testing.T) {
	now := time.Now()
	held := collector.PartitionCondition{Name: "a", Held: true, Since: now}
	for name, c := range map[string]struct {
		condition collector.Condition
		connected bool
		state     daemon.State
		want      string
	}{
		"well":       {collector.Condition{Partitions: []collector.PartitionCondition{held}}, true, daemon.OK, ""},
		"stands by":  {collector.Condition{Partitions: []collector.PartitionCondition{{Name: "a", Since: now}}}, true, daemon.OK, ""},
		"no broker":  {collector.Condition{}, false, daemon.Failing, "the broker is away since"},
		"no store":   {collector.Condition{Partitions: []collector.PartitionCondition{{Name: "a", Held: true, StoreError: "refused", StoreSince: now}}}, true, daemon.Failing, "the store refuses since"},
		"let go":     {collector.Condition{Partitions: []collector.PartitionCondition{{Name: "a", Since: now, Cause: "lease lost", CauseAt: now}}}, true, daemon.Degraded, "partition a is not held"},
		"quarantine": {collector.Condition{Partitions: []collector.PartitionCondition{held}, QuarantinedAt: now.Add(-time.Minute)}, true, daemon.Degraded, "quarantine"},
		"long ago":   {collector.Condition{Partitions: []collector.PartitionCondition{held}, QuarantinedAt: now.Add(-time.Hour)}, true, daemon.OK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := judge(c.condition, collector.Stats{Quarantined: 1}, c.connected, now, now)
			if text := strings.Join(h.Reasons, "; "); h.State != c.state || !strings.Contains(text, c.want) || (c.want == "" && text != "") {
				t.Errorf("got %s: %q", h.State, text)
			}
		})
	}
}

// TestHealthOfChains: what a host's chain is worth shows in the body, and never takes a collector out of service.
func TestHealthOfChains(t *testing.T) {
	broken := collector.Standing{ChainStanding: store.ChainStanding{
		Hours: map[string]uint64{"broken": 3, "verified": 9}, BrokenHosts: 2, BrokenCluster: "c", Broken: store.ChainHour{Node: "n", HourMs: 1_700_000_000_000, Detail: "spool x, batch 2: link"}}}
	loss := func(reason string, l store.LossSum) collector.Standing {
		return collector.Standing{ChainStanding: store.ChainStanding{Losses: map[string]store.LossSum{reason: l}}}
	}
	for name, c := range map[string]struct {
		standing collector.Standing
		checks   chain.CheckStats
		was      daemon.State
		state    daemon.State
		want     string
	}{
		"well":            {state: daemon.OK},
		"broken":          {standing: broken, state: daemon.Degraded, want: "(2 hosts, 3 hours): the last is host n of cluster c, hour of 2023-11-14 22:13 UTC, spool x, batch 2: link"},
		"on its way":      {standing: loss("missing", store.LossSum{Hosts: 1, Batches: 5}), state: daemon.OK},
		"missing":         {standing: loss("missing", store.LossSum{Hosts: 3, Batches: 7, OpenBatches: 5, OpenHosts: 2}), state: daemon.Degraded, want: "5 batches of 2 hosts are missing"},
		"given up":        {standing: loss("disk", store.LossSum{Hosts: 1, Batches: 5, OpenBatches: 5}), state: daemon.OK},
		"no check":        {checks: chain.CheckStats{LastError: "no store"}, state: daemon.Degraded, want: "the last check of chains failed: no store"},
		"failing already": {standing: broken, was: daemon.Failing, state: daemon.Failing, want: "(2 hosts, 3 hours)"},
	} {
		t.Run(name, func(t *testing.T) {
			h := judgeChains(daemon.Health{State: cmp.Or(c.was, daemon.OK)}, c.standing, c.checks)
			if text := strings.Join(h.Reasons, "; "); h.State != c.state || !strings.Contains(text, c.want) || (c.want == "" && text != "") {
				t.Errorf("got %s: %q", h.State, text)
			}
			for reason, l := range c.standing.Losses {
				lost, _ := h.Details["chains_last_day"].(map[string]any)["lost"].(map[string]any)
				if got, ok := lost[reason].(map[string]uint64); !ok || got["batches"] != l.Batches || got["hosts"] != l.Hosts {
					t.Errorf("details: %+v", h.Details)
				}
			}
		})
	}
}

// standingNow gives what stands to Prometheus, as the exporter does.
type standingNow struct {
	*chainDescs
	s collector.Standing
}

func (n standingNow) Describe(ch chan<- *prometheus.Desc) { n.describe(ch) }

func (n standingNow) Collect(ch chan<- prometheus.Metric) {
	n.stand(ch, n.s)
	n.collect(ch, chain.CheckStats{})
}

// TestChainGauges: what stands has a gauge of each status and reason, whatever happened.
func TestChainGauges(t *testing.T) {
	reg := prometheus.NewRegistry()
	if err := reg.Register(standingNow{newChainDescs(), collector.Standing{ChainStanding: store.ChainStanding{
		Hours: map[string]uint64{"broken": 3}, BrokenHosts: 2, Losses: map[string]store.LossSum{"missing": {Hosts: 1, Batches: 7, Ticks: 70, OpenBatches: 5}}}}}); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += "/" + l.GetValue()
			}
			values[name] = m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"hours_last_day/broken": 3, "hours_last_day/verified": 0, "hours_last_day/incomplete": 0, "hours_last_day/unsigned": 0, "broken_hosts_last_day": 2, "open_missing_batches": 5,
		"lost_batches_last_day/missing": 7, "lost_ticks_last_day/missing": 70, "lost_hosts_last_day/missing": 1, "lost_batches_last_day/disk": 0, "lost_batches_last_day/conflict": 0,
	} {
		if got, ok := values["flopwatch_chain_"+name]; !ok || got != want {
			t.Errorf("%s is %v (%t), want %v", name, got, ok, want)
		}
	}
}
