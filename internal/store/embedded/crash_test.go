package embedded_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestKill kills the engine while three writers insert, several times, and checks that every acknowledged batch is there, whole and once.
func TestKill(t *testing.T) {
	t.Parallel()
	s := testenv.ClickHouseServer(t, t.TempDir())
	ask(t, s, "CREATE DATABASE k")
	ask(t, s, "CREATE TABLE k.t (writer UInt8, batch UInt32, row UInt32) ENGINE = MergeTree ORDER BY (writer, batch, row)")
	const writers, rows, kills = 3, 500, 3
	var acked [writers]int
	client := &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	progress := make(chan struct{}, 1)
	for w := range writers {
		wg.Go(func() {
			for b := 0; ctx.Err() == nil; {
				var body strings.Builder
				for r := range rows {
					fmt.Fprintf(&body, "%d\t%d\t%d\n", w, b, r)
				}
				q := url.Values{"query": {"INSERT INTO k.t FORMAT TSV"}, "insert_deduplication_token": {fmt.Sprintf("%d/%d", w, b)}}
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"/?"+q.Encode(), strings.NewReader(body.String()))
				if err != nil {
					t.Error(err)
					return
				}
				req.SetBasicAuth(s.Auth())
				resp, err := client.Do(req)
				if err != nil {
					continue // resend the identical batch on any doubt
				}
				if err = resp.Body.Close(); err == nil && resp.StatusCode == http.StatusOK {
					b++
					acked[w] = b
					select {
					case progress <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	for i := range kills {
		for range 5 + 7*i {
			<-progress
		}
		pid := s.PID()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		wait(t, "the restart", func() bool { return s.Restarts() > i && s.PID() != 0 })
	}
	for range 10 {
		<-progress
	}
	cancel()
	wg.Wait()
	total := 0
	for w, n := range acked {
		// The batch after the last acknowledged one may be there or not, but only as a whole.
		got := ask(t, s, fmt.Sprintf("SELECT uniqExact(batch), countIf(batch < %d), countIf(batch >= %d) FROM k.t WHERE writer = %d", n, n, w))
		f := strings.Fields(got)
		if want := strconv.Itoa(n * rows); f[1] != want || f[2] != "0" && f[2] != strconv.Itoa(rows) {
			t.Errorf("writer %d: %d batches of %d rows were acknowledged, the table has (batches, rows of acknowledged, rows of others) %v", w, n, rows, f)
		}
		total += n
	}
	if got := ask(t, s, "SELECT count() FROM (SELECT writer, batch, row FROM k.t GROUP BY ALL HAVING count() > 1)"); got != "0\n" {
		t.Errorf("%s rows are there twice", strings.TrimSpace(got))
	}
	t.Logf("%d batches acknowledged over %d kills", total, s.Restarts())
}

func TestStopAndReopen(t *testing.T) {
	t.Parallel()
	cfg := testenv.EngineConfig(t)
	cfg.DataDir = t.TempDir()
	s, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ask(t, s, "CREATE DATABASE r")
	ask(t, s, "CREATE TABLE r.t (a UInt8) ENGINE = MergeTree ORDER BY a")
	ask(t, s, "INSERT INTO r.t VALUES (1)")
	_, before := s.Auth()

	// A second engine on the same data says who holds it.
	if _, err = embedded.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "in use by another engine (pid "+strconv.Itoa(s.PID())+")") {
		t.Errorf("a second engine on the same data: %v", err)
	}
	if err = s.Stop(t.Context()); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if err = s.Stop(t.Context()); err != nil {
		t.Fatalf("stop again: %v", err)
	}
	if s.PID() != 0 || s.Restarts() != 0 {
		t.Errorf("after the stop: pid %d, %d restarts", s.PID(), s.Restarts())
	}
	s = testenv.ClickHouseServer(t, cfg.DataDir)
	if _, after := s.Auth(); after != before {
		t.Error("the password changed")
	}
	if got := ask(t, s, "SELECT a FROM r.t"); got != "1\n" {
		t.Errorf("after the restart the table has %q", got)
	}
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	cfg := testenv.EngineConfig(t)
	cfg.DataDir = t.TempDir()
	missing := cfg
	missing.LibPath = cfg.DataDir + "/nothing.so"
	if _, err := embedded.Start(t.Context(), missing); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without the library: %v", err)
	}
	wrong := cfg
	wrong.LibPath = cfg.Exe
	if _, err := embedded.Start(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), "load engine library") {
		t.Errorf("with a file that is no library: %v", err)
	}
	taken := testenv.ClickHouseServer(t, t.TempDir())
	cfg.Listen = strings.TrimPrefix(taken.URL(), "http://")
	if _, err := embedded.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("on a taken port: %v", err)
	}
	if _, err := embedded.FindLibrary(cfg.Exe); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("FindLibrary without a library: %v", err)
	}
}

// TestOrphan shows that the engine ends when what started it does, told by stdin alone.
func TestOrphan(t *testing.T) {
	t.Parallel()
	cfg := testenv.EngineConfig(t)
	cmd := exec.CommandContext(t.Context(), cfg.Exe, "--data", t.TempDir(), "--lib", cfg.LibPath, "--listen", "127.0.0.1:0", "--watch-stdin")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err = stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err = cmd.Wait(); err != nil {
		t.Errorf("the orphan ended with %v", err)
	}
}
