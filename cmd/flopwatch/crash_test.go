package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/playback"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// child waits for the engine's process below a replay. It returns 0 if the replay ended
// before it had one.
func child(t *testing.T, parent int, ended <-chan struct{}) int {
	t.Helper()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-ended:
			return 0
		case <-t.Context().Done():
			return 0
		case <-poll.C:
		}
		stats, err := filepath.Glob("/proc/[0-9]*/stat")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range stats {
			text, err := os.ReadFile(path)
			if err != nil {
				continue // it ended meanwhile
			}
			// pid (name) state ppid ...: the name may hold blanks and brackets.
			f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
			if len(f) > 1 && f[1] == strconv.Itoa(parent) {
				pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
				if err != nil {
					t.Fatal(err)
				}
				return pid
			}
		}
	}
}

// killed starts a replay and ends it by SIGKILL after a while, unless it was faster. It
// checks that the engine's process ends with it.
func killed(t *testing.T, after time.Duration, args ...string) (finished bool) {
	t.Helper()
	cmd, _, stderr := command(context.WithoutCancel(t.Context()), t, nil, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	var err error
	go func() { err = cmd.Wait(); close(ended) }()
	defer func() { <-ended }()
	defer func() { _ = cmd.Process.Kill() }() // it may have ended
	engine := child(t, cmd.Process.Pid, ended)
	handle := -1
	if engine != 0 {
		handle, err = unix.PidfdOpen(engine, 0) // names the process itself: ids come again
		if err != nil && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
	}
	wait := time.NewTimer(after)
	defer wait.Stop()
	select {
	case <-ended:
		if err != nil {
			t.Fatalf("replay: %v, stderr: %s", err, stderr)
		}
		finished = true
	case <-wait.C:
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		<-ended
	}
	if handle >= 0 {
		defer func() { _ = unix.Close(handle) }()
		gone := []unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}
		n, err := unix.Poll(gone, int(patience.Milliseconds()))
		for errors.Is(err, unix.EINTR) { // the runtime's own signals interrupt it
			n, err = unix.Poll(gone, int(patience.Milliseconds()))
		}
		if err != nil || n != 1 {
			t.Fatalf("the engine's process outlives a killed replay: %d, %v", n, err)
		}
	}
	return finished
}

// TestKill kills the whole replay again and again, and lets the last try run: answers
// are those of an undisturbed replay, and every raw row is stored once.
func TestKill(t *testing.T) {
	t.Parallel()
	binary(t)
	dir := writeBundle(t, tinyFiles(), nil)
	started := time.Now()
	want, _ := replayed(t, dir)
	whole := time.Since(started)
	const seed = 1
	chance := rand.New(rand.NewPCG(seed, 2)) // moments to kill at
	data, out := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "answers")
	args := []string{"replay", dir, "--out", out, "--data", data}
	for range 8 {
		killed(t, time.Duration(chance.Float64()*float64(whole)), args...)
	}
	if r := flopwatch(t, args...); r.code != 0 {
		t.Fatalf("the last try: exit code %d, stderr: %s", r.code, r.stderr)
	}
	same(t, tree(t, out), want, "after 8 kills")
	countRows(t, dir, data)
}

// countRows holds every raw table to what the recording published: as many rows, each
// once.
func countRows(t *testing.T, dir, data string) {
	t.Helper()
	b, err := bundle.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	published := keySink{}
	if _, err = playback.Play(t.Context(), b, published); err != nil {
		t.Fatal(err)
	}
	engine := testenv.ClickHouseServer(t, filepath.Join(data, "clickhouse"))
	user, password := engine.Auth()
	s, err := store.Open(t.Context(), store.Config{URL: engine.URL(), User: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for kind, table := range map[wire.Kind]string{
		wire.KindGPU: store.TableGPUSamples, wire.KindHost: store.TableHostSamples, wire.KindFabric: store.TableFabricSamples, wire.KindFlow: store.TableFlowSamples,
		wire.KindProcess: store.TableProcessEvents, wire.KindCollective: store.TableCollectiveSamples, wire.KindInventory: store.TableInventory,
		wire.KindAllocation: store.TableAllocations, wire.KindOrder: store.TableOrders,
		wire.KindDevice: store.TableGPUDevices, wire.KindStatus: store.TableInstrumentStatus,
		wire.KindHealth: store.TableGPUHealth, wire.KindEvent: store.TableGPUEvents, wire.KindInstance: store.TableGPUInstances, wire.KindHold: store.TableGPUHolds, wire.KindTCP: store.TableTCPSamples, wire.KindCheckpoint: store.TableCheckpoints, wire.KindRDMA: store.TableRDMAObjects, wire.KindOutOfBand: store.TableBMCSamples, wire.KindFact: store.TableNodeFacts,
	} {
		rows, distinct, err := s.Count(t.Context(), table)
		if err != nil {
			t.Fatal(err)
		}
		if want := uint64(published[kind]); rows != want || distinct != want {
			t.Errorf("%s: %d rows, %d distinct, %d published", table, rows, distinct, want)
		}
	}
	if q, err := s.Quarantined(t.Context()); err != nil || len(q) > 0 {
		t.Errorf("quarantine: %v, %v", q, err)
	}
}

// keySink counts published rows by kind.
type keySink map[wire.Kind]int

func (k keySink) Node(_ context.Context, _ string, _ int64, tables []wire.Table) error {
	for i := range tables {
		k[tables[i].Kind] += tables[i].Rows
	}
	return nil
}

func (k keySink) Provider(_ context.Context, _ int64, table wire.Table) error {
	k[table.Kind] += table.Rows
	return nil
}

// TestKillEngine kills the engine's process below a replay, at several moments of its
// work: it is started again, and the answers are the same.
func TestKillEngine(t *testing.T) {
	t.Parallel()
	binary(t)
	dir := writeBundle(t, tinyFiles(), nil)
	want, _ := replayed(t, dir)
	const seed = 1
	chance := rand.New(rand.NewPCG(seed, 3)) // moments to kill at
	for _, after := range []string{"sealed", "stored"} {
		out := filepath.Join(t.TempDir(), "answers")
		cmd, _, stderr := command(t.Context(), t, nil, "replay", dir, "--out", out)
		said := make(chan struct{})
		cmd.Stderr = &watcher{w: stderr, word: after, seen: said}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		var err error
		go func() { err = cmd.Wait(); close(ended) }()
		select {
		case <-said:
		case <-ended:
			t.Fatalf("replay ended before it said %q: %v, %s", after, err, stderr)
		}
		engine := child(t, cmd.Process.Pid, ended)
		wait := time.NewTimer(time.Duration(chance.IntN(300)) * time.Millisecond)
		select {
		case <-wait.C:
		case <-ended:
		}
		wait.Stop()
		if engine != 0 {
			if err := syscall.Kill(engine, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Error(err)
			}
		}
		<-ended
		if err != nil {
			t.Fatalf("engine killed after %q: %v, stderr: %s", after, err, stderr)
		}
		same(t, tree(t, out), want, "engine killed after "+strconv.Quote(after))
	}
}

// watcher passes text on and tells when a word came by.
type watcher struct {
	w    io.Writer
	word string
	seen chan struct{}
	once sync.Once
	text bytes.Buffer
}

func (w *watcher) Write(b []byte) (int, error) {
	w.text.Write(b)
	if strings.Contains(w.text.String(), w.word) {
		w.once.Do(func() { close(w.seen) })
	}
	return w.w.Write(b) //nolint:wrapcheck // a buffer
}
