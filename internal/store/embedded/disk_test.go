package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestSecretsOutOfReach: not even an administrator's statement reads the password file of the engine that runs it, where the kernel confines the engine.
func TestSecretsOutOfReach(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := testenv.ClickHouseServer(t, dir)
	_, password := s.Auth()
	for _, path := range []string{filepath.Join(dir, "password"), "/proc/self/environ", fmt.Sprintf("/proc/%d/environ", os.Getpid()), "/etc/passwd"} {
		q := "SELECT s FROM format(JSONEachRow, concat('a String, s String DEFAULT fi', 'le(\\'" + path + "\\')'), '{\"a\":\"x\"}')"
		code, _, body := post(t, s, nil, strings.NewReader(q))
		if strings.Contains(body, password) || strings.Contains(body, "root:") || strings.Contains(body, "\"Name\"") {
			t.Errorf("%s: status %d: %s", path, code, body)
		}
	}
	if got := ask(t, s, "SELECT 1"); got != "1\n" {
		t.Error(got)
	}
}

// smallDisk is a file system of its own; hold leaves so many bytes of it free, as others would who write there.
func smallDisk(t *testing.T, size int) (dir string, hold func(left uint64)) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	testenv.Need(t, "root", syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", size)))
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, func(left uint64) {
		for range 1000 { // who writes meanwhile takes more than the size that is asked for
			var st syscall.Statfs_t
			if err := syscall.Statfs(dir, &st); err != nil {
				t.Error(err)
				return
			}
			if syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", (st.Blocks-st.Bfree)*uint64(st.Bsize)+left)) == nil {
				return
			}
		}
		t.Errorf("the disk cannot be left with %d bytes", left)
	}
}

// heard waits for what the engine's process says.
type heard struct {
	slog.Handler
	lines chan string
}

func newHeard() heard { return heard{slog.DiscardHandler, make(chan string, 1000)} }

func (heard) Enabled(context.Context, slog.Level) bool { return true }

func (h heard) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		select {
		case h.lines <- a.Value.String():
		default: // nobody listens
		}
		return true
	})
	return nil
}

func (h heard) wait(text string, or <-chan struct{}) bool {
	for {
		select {
		case line := <-h.lines:
			if strings.Contains(line, text) {
				return true
			}
		case <-or:
			return false
		}
	}
}

// try posts a statement of which no answer may come: status 0.
func try(t *testing.T, s *embedded.Server, q url.Values, body string) (int, string) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/?"+q.Encode(), strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	req.SetBasicAuth(s.Auth())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	b, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(b)
}

const (
	saysFull = "waits until there is room"
	saysRoom = "the disk has room again"
)

// TestDiskFilledByOthers: others take the last byte of the disk in the midst of an insert. It waits, and is stored once there is room; reads go on, statements
// that write are refused by name, what makes room is taken, and an engine that is killed there comes back with everything acknowledged.
func TestDiskFilledByOthers(t *testing.T) {
	t.Parallel()
	dir, hold := smallDisk(t, 192)
	log := newHeard()
	cfg := testenv.EngineConfig(t)
	cfg.DataDir, cfg.Logger = filepath.Join(dir, "data"), slog.New(log)
	s, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopEngine(t, s) })
	ask(t, s, "CREATE DATABASE d")
	ask(t, s, "CREATE TABLE d.t (batch UInt32, x String CODEC(NONE)) ENGINE = MergeTree PARTITION BY batch ORDER BY batch")
	ask(t, s, "CREATE TABLE d.old (x String) ENGINE = MergeTree ORDER BY x AS SELECT randomString(1000) AS x FROM numbers(1000)")
	const rows = 20_000 // of 1 KB
	stored := 0
	// fill starts an insert and takes the disk away as soon as its part is seen; false: it was faster.
	fill := func() (ended chan struct{}, code *int, waits bool) {
		ended, code = make(chan struct{}), new(int)
		body := strings.Repeat(fmt.Sprintf("%d\t%s\n", stored, strings.Repeat("x", 1000)), rows)
		go func() {
			defer close(ended)
			*code, _ = try(t, s, url.Values{"insert_deduplication_token": {fmt.Sprint(stored)}, "query": {"INSERT INTO d.t FORMAT TSV"}}, body)
		}()
		for {
			if parts, _ := filepath.Glob(filepath.Join(dir, "data/engine/store/*/*/tmp_insert_*")); len(parts) > 0 {
				hold(0)
				return ended, code, log.wait(saysFull, ended)
			}
			select {
			case <-ended:
				return ended, code, false
			default:
			}
		}
	}
	meet := func() (chan struct{}, *int) {
		for range 20 {
			ended, code, waits := fill()
			if waits {
				return ended, code
			}
			hold(150 << 20)
			if *code == http.StatusOK {
				ask(t, s, fmt.Sprintf("ALTER TABLE d.t DROP PARTITION %d", stored))
				stored++
			}
		}
		t.Fatal("the disk cannot be filled within an insert")
		return nil, nil
	}
	ended, code := meet()
	if got := ask(t, s, "SELECT count() FROM d.t"); got != "0\n" {
		t.Errorf("half an insert is seen: %s rows", got)
	}
	for _, q := range []string{"INSERT INTO d.t VALUES (1, 'x')", "CREATE TABLE d.u (a UInt8) ENGINE = MergeTree ORDER BY a", "ALTER TABLE d.t ADD COLUMN y UInt8"} {
		if code, _, text := post(t, s, nil, strings.NewReader(q)); code < 500 || !strings.Contains(text, "(NOT_ENOUGH_SPACE)") {
			t.Errorf("%s: status %d: %s", q, code, text)
		}
	}
	select {
	case <-ended:
		t.Errorf("an insert that the disk has no room for is answered with %d", *code)
	default:
	}
	hold(150 << 20)
	<-ended
	if log.wait(saysRoom, nil); *code != http.StatusOK {
		t.Errorf("with room again: status %d", *code)
	}
	if got := ask(t, s, "SELECT count(), sum(length(x)) FROM d.t"); got != fmt.Sprintf("%d\t%d\n", rows, rows*1000) {
		t.Errorf("with room again the table has %s", got)
	}
	kept := stored
	stored++
	// Killed while it waits: what was acknowledged is there, what was not is not, and the engine starts on the full disk.
	ended, code = meet()
	if err = syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-ended
	if *code == http.StatusOK {
		t.Error("an insert is acknowledged that was killed")
	}
	hold(150 << 20)
	got := ""
	for *code = 0; *code != http.StatusOK; { // until it runs again
		*code, got = try(t, s, nil, "SELECT uniqExact(batch), min(batch), count(), sum(length(x)) FROM d.t")
	}
	if got != fmt.Sprintf("1\t%d\t%d\t%d\n", kept, rows, rows*1000) {
		t.Errorf("after a crash the table has %s", got)
	}
	if got := ask(t, s, "SELECT count() FROM system.detached_parts"); got != "0\n" {
		t.Errorf("%s parts are broken", got)
	}
	hold(5 << 20)
	ask(t, s, "TRUNCATE TABLE d.old")
	ask(t, s, "DROP TABLE d.old")
	// And a stop does not wait for room.
	hold(150 << 20)
	ended, _ = meet()
	stopEngine(t, s)
	<-ended
}

// TestDiskFull fills the engine's disk: inserts fail by name and wholly, what was acknowledged stays, and the same batch succeeds once there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=48m")
	testenv.Need(t, "root", err)
	t.Cleanup(func() {
		if uerr := syscall.Unmount(dir, syscall.MNT_DETACH); uerr != nil {
			t.Error(uerr)
		}
	})
	s := testenv.ClickHouseServer(t, filepath.Join(dir, "data"))
	ask(t, s, "CREATE DATABASE d")
	ask(t, s, "CREATE TABLE d.t (batch UInt32, x String CODEC(NONE)) ENGINE = MergeTree PARTITION BY batch % 2 ORDER BY batch")
	const rows = 2000
	insert := func(b int) (int, string) {
		q := url.Values{"insert_deduplication_token": {fmt.Sprint(b)}, "query": {"INSERT INTO d.t FORMAT TSV"}}
		var body strings.Builder
		for range rows {
			fmt.Fprintf(&body, "%d\t%s\n", b, strings.Repeat("x", 1000))
		}
		code, _, text := post(t, s, q, strings.NewReader(body.String()))
		return code, text
	}
	b := 0
	for ; ; b++ {
		code, text := insert(b)
		if code == http.StatusOK {
			if b > 60 {
				t.Fatal("the disk does not fill")
			}
			continue
		}
		if code < 500 || !strings.Contains(text, "NOT_ENOUGH_SPACE") && !strings.Contains(text, "No space left") {
			t.Fatalf("batch %d: status %d: %s", b, code, text)
		}
		t.Logf("%d batches, then status %d: %.200s", b, code, text)
		break
	}
	whole := fmt.Sprintf("%d\t%d\n", b, b*rows)
	if got := ask(t, s, "SELECT uniqExact(batch), count() FROM d.t"); got != whole {
		t.Errorf("on a full disk the table has %q, want %q", got, whole)
	}
	if code, _ := insert(b); code == http.StatusOK {
		t.Error("the disk has room again by itself")
	}
	if err = syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=256m"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and once more, as on any doubt
		if code, text := insert(b); code != http.StatusOK {
			t.Errorf("with room again: status %d: %s", code, text)
		}
	}
	if got, want := ask(t, s, "SELECT uniqExact(batch), count() FROM d.t"), fmt.Sprintf("%d\t%d\n", b+1, (b+1)*rows); got != want {
		t.Errorf("with room again the table has %q, want %q", got, want)
	}
	// A backup that finds no room leaves nothing that looks like one.
	file := filepath.Join(dir, "x.backup")
	if err = syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=80m"); err == nil {
		if _, berr := embedded.Backup(t.Context(), access(s), file); berr == nil {
			t.Log("there was room for a backup")
		} else if left, _ := filepath.Glob(file + "*"); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	}
	if s.Restarts() != 0 {
		t.Errorf("the engine died %d times", s.Restarts())
	}
}
