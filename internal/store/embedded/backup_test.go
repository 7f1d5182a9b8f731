package embedded_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

func access(s *embedded.Server) embedded.Access {
	user, password := s.Auth()
	return embedded.Access{URL: s.URL(), User: user, Password: password}
}

// restored starts an engine on what a backup is restored to.
func restored(t *testing.T, file string) *embedded.Server {
	t.Helper()
	cfg := testenv.EngineConfig(t)
	cfg.DataDir = filepath.Join(t.TempDir(), "new")
	if _, err := embedded.Restore(t.Context(), cfg, file); err != nil {
		t.Fatal(err)
	}
	return testenv.ClickHouseServer(t, cfg.DataDir)
}

// TestBackupWhileInserting takes a backup while pairs of rows go into two tables, the second only after the first, and restores it: no pair is torn, a batch
// that is sent again is known, tables, views and materialised views are what they were.
func TestBackupWhileInserting(t *testing.T) {
	t.Parallel()
	s := testenv.ClickHouseServer(t, t.TempDir())
	for _, q := range []string{
		"CREATE DATABASE b", "CREATE DATABASE `odd name`",
		"CREATE VIEW b.a_first AS SELECT count() AS n FROM b.telemetry", // before what it reads, by name
		"CREATE TABLE b.telemetry (batch UInt32, x String) ENGINE = ReplacingMergeTree PARTITION BY batch % 3 ORDER BY (batch, x) COMMENT 'what\\'s measured'",
		"CREATE TABLE b.ledger (batch UInt32) ENGINE = MergeTree ORDER BY batch",
		"CREATE MATERIALIZED VIEW b.sums ENGINE = SummingMergeTree ORDER BY k AS SELECT batch % 3 AS k, 1 AS n FROM b.ledger",
		"CREATE TABLE `odd name`.`t``able` (a UInt8) ENGINE = MergeTree ORDER BY a", "CREATE TABLE b.nothing (a UInt8) ENGINE = MergeTree ORDER BY a",
		"CREATE TABLE b.passing (a UInt8) ENGINE = Memory", "INSERT INTO `odd name`.`t``able` VALUES (1), (2)", "INSERT INTO b.passing VALUES (1)",
	} {
		if q == "CREATE VIEW b.a_first AS SELECT count() AS n FROM b.telemetry" {
			continue
		}
		ask(t, s, q)
	}
	ask(t, s, "CREATE VIEW b.a_first AS SELECT count() AS n FROM b.telemetry")
	insert := func(s *embedded.Server, table string, batch int64, rows string) error {
		code, _, body := post(t, s, url.Values{"insert_deduplication_token": {fmt.Sprint(table, batch)}}, strings.NewReader("INSERT INTO b."+table+" VALUES "+rows))
		if code != 200 {
			return fmt.Errorf("status %d: %s", code, body)
		}
		return nil
	}
	var last atomic.Int64
	pair := func(s *embedded.Server, batch int64) error {
		return errors.Join(insert(s, "telemetry", batch, fmt.Sprintf("(%d, 'a'), (%[1]d, 'b')", batch)), insert(s, "ledger", batch, fmt.Sprintf("(%d)", batch)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for b := int64(1); ctx.Err() == nil; b++ {
			if err := pair(s, b); err != nil {
				t.Errorf("insert beside a backup: %v", err)
				return
			}
			last.Store(b)
		}
	})
	wait(t, "some rows", func() bool { return last.Load() > 20 })
	before := last.Load()
	file := filepath.Join(t.TempDir(), "one.backup")
	h, err := embedded.Backup(t.Context(), access(s), file)
	after := last.Load()
	if err != nil {
		t.Fatal(err)
	}
	wait(t, "ingest to go on", func() bool { return last.Load() > after+1 })
	cancel()
	wg.Wait()
	if left, gerr := filepath.Glob(file + "*"); gerr != nil || len(left) != 1 {
		t.Errorf("beside the backup lies %v, %v", left, gerr)
	}
	if h.Rows() == 0 || h.Engine == "" || len(h.Tables) < 7 {
		t.Errorf("head: %+v", h)
	}
	if _, err = embedded.Backup(t.Context(), access(s), file); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Errorf("over another backup: %v", err)
	}

	n := restored(t, file)
	f := strings.Fields(ask(t, n, "SELECT (SELECT count() FROM b.ledger), (SELECT max(batch) FROM b.ledger), (SELECT countDistinct(batch, x) FROM b.telemetry), (SELECT n FROM b.a_first) >= 2, "+
		"(SELECT sum(n) FROM b.sums), (SELECT sum(a) FROM `odd name`.`t``able`), (SELECT count() FROM b.nothing), (SELECT count() FROM b.passing), (SELECT comment FROM system.tables WHERE name = 'telemetry')"))
	var ledger, top, telemetry, viewed, sums int64
	if _, err = fmt.Sscan(strings.Join(f[:5], " "), &ledger, &top, &telemetry, &viewed, &sums); err != nil {
		t.Fatal(f, err)
	}
	// The last telemetry may stand without its ledger row, as it stood when the writer was between the two; never the other way round.
	if ledger != top || ledger < before || ledger > after+1 || sums != ledger || viewed != 1 || telemetry != 2*ledger && telemetry != 2*ledger+2 || f[5] != "3" || f[6] != "0" || f[7] != "0" {
		t.Errorf("restored %v, with %d to %d pairs there when the backup was taken", f, before, after)
	}
	// A batch that is sent again is known.
	if err = errors.Join(insert(n, "ledger", 5, "(5)"), insert(n, "ledger", 1e6, "(1000000)")); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, n, "SELECT count() FROM b.ledger"); got != fmt.Sprintln(ledger+1) {
		t.Errorf("after a batch was sent again there are %s rows, want %d", got, ledger+1)
	}
}

// TestBackupCutOff kills a backup's program and its engine in the middle: what is left has no backup's name and is taken for none.
func TestBackupCutOff(t *testing.T) {
	t.Parallel()
	s := testenv.ClickHouseServer(t, t.TempDir())
	ask(t, s, "CREATE DATABASE b")
	ask(t, s, "CREATE TABLE b.t (x String CODEC(NONE)) ENGINE = MergeTree ORDER BY tuple() SETTINGS min_bytes_for_wide_part = 0")
	ask(t, s, "INSERT INTO b.t SELECT randomString(1000) FROM numbers(40000)")
	dir := t.TempDir()
	file := filepath.Join(dir, "cut.backup")
	size := func() int64 {
		info, err := os.Stat(file + ".partial")
		if err != nil {
			return 0
		}
		return info.Size()
	}
	ended := make(chan error, 1)
	go func() {
		_, err := embedded.Backup(t.Context(), access(s), file)
		ended <- err
	}()
	wait(t, "the backup to begin", func() bool { return size() > 0 || len(ended) > 0 })
	if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Log("the backup was done before the kill")
		if err = os.Remove(file); err != nil {
			t.Fatal(err)
		}
	} else if left, _ := filepath.Glob(file + "*"); len(left) > 0 {
		t.Errorf("the failed backup left %v", left)
	}
	wait(t, "the restart", func() bool { return s.Restarts() > 0 && s.PID() != 0 })

	// The program itself, killed.
	self := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBackupHelper$")
	a := access(s)
	self.Env = append(os.Environ(), "FLOPWATCH_BACKUP_HELPER="+strings.Join([]string{a.URL, a.User, a.Password, file}, " "))
	if err := self.Start(); err != nil {
		t.Fatal(err)
	}
	wait(t, "the backup to begin", func() bool { _, err := os.Stat(file); return size() > 0 || err == nil })
	_ = self.Process.Kill()
	_ = self.Wait()
	if _, err := os.Stat(file); err == nil {
		t.Skip("the backup was faster than the kill")
	}
	if _, err := embedded.CheckBackup(file + ".partial"); err == nil {
		t.Log("the kill came after the last byte, before the name")
	} else if !errors.Is(err, embedded.ErrNoBackup) {
		t.Errorf("half a backup: %v", err)
	}
	// The next one takes its place.
	if _, err := embedded.Backup(t.Context(), access(s), file); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if got := ask(t, restored(t, file), "SELECT count(), sum(length(x)) FROM b.t"); got != "40000\t40000000\n" {
		t.Errorf("restored %q", got)
	}
}

// TestBackupHelper is TestBackupCutOff's program.
func TestBackupHelper(t *testing.T) {
	f := strings.Fields(os.Getenv("FLOPWATCH_BACKUP_HELPER"))
	if len(f) != 4 {
		return
	}
	if _, err := embedded.Backup(t.Context(), embedded.Access{URL: f[0], User: f[1], Password: f[2]}, f[3]); err != nil {
		t.Fatal(err)
	}
}

// TestRestoreRefuses: what is no whole backup, and where none may go.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	s := testenv.ClickHouseServer(t, t.TempDir())
	ask(t, s, "CREATE DATABASE b")
	ask(t, s, "CREATE TABLE b.t (a UInt32) ENGINE = MergeTree ORDER BY a")
	ask(t, s, "INSERT INTO b.t SELECT number FROM numbers(1000)")
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if _, err := embedded.Backup(t.Context(), access(s), good); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	cfg := testenv.EngineConfig(t)
	cfg.DataDir = filepath.Join(dir, "data")
	for name, b := range map[string][]byte{
		"empty": nil, "text": []byte("hello"), "cut": whole[:len(whole)/2], "without its end": whole[:len(whole)-4096], "one bit": flipped(whole, bytes.LastIndex(whole, []byte("count.txt"))+1200), "another tar": tarOf(t, "x", "y"),
		"a way out":        tarOf(t, "flopwatch-backup.json", `{"format":1,"tables":[{"database":"b","name":"t","engine":"MergeTree","uuid":"00000000-0000-0000-0000-000000000000"}]}`, "data/0/../../../../evil/x", "z"),
		"a format to come": tarOf(t, "flopwatch-backup.json", `{"format":2}`),
		"no identity":      tarOf(t, "flopwatch-backup.json", `{"format":1,"tables":[{"database":"b","name":"t","engine":"MergeTree","uuid":"../../x"}]}`),
	} {
		p := filepath.Join(dir, "bad")
		if err = os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err = embedded.Restore(t.Context(), cfg, p); err == nil || !errors.Is(err, embedded.ErrNoBackup) && !strings.Contains(err.Error(), "format 2") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err = os.Stat(cfg.DataDir); err == nil {
			t.Fatalf("%s: made a data directory", name)
		}
	}
	if _, err = embedded.Restore(t.Context(), cfg, filepath.Join(dir, "nosuch")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	full := cfg
	full.DataDir = dir
	if _, err = embedded.Restore(t.Context(), full, good); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("into a directory with something in it: %v", err)
	}
	bad := access(s)
	bad.Password = "x"
	if _, err = embedded.Backup(t.Context(), bad, filepath.Join(dir, "new")); err == nil || !strings.Contains(err.Error(), "Code: 516") {
		t.Errorf("with a wrong password: %v", err)
	}
	if _, err = embedded.Backup(t.Context(), access(s), filepath.Join(dir, "nosuch", "new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("into no directory: %v", err)
	}
	// A restore that was cut off: no engine starts there, and the next restore begins anew.
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err = embedded.Restore(ctx, cfg, good); err == nil {
		t.Skip("the restore was faster than its end")
	}
	if err = os.WriteFile(filepath.Join(cfg.DataDir, "restoring"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = embedded.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "holds a restore that was cut off") {
		t.Errorf("start on half a restore: %v", err)
	}
	h, err := embedded.Restore(t.Context(), cfg, good)
	if err != nil || h.Rows() != 1000 {
		t.Fatalf("restore again: %d rows, %v", h.Rows(), err)
	}
	if got := ask(t, testenv.ClickHouseServer(t, cfg.DataDir), "SELECT count() FROM b.t"); got != "1000\n" {
		t.Errorf("restored %q", got)
	}
}

// TestBackupIsTheAdministrators: others are refused.
func TestBackupIsTheAdministrators(t *testing.T) {
	t.Parallel()
	s := roleServer(t, nil)
	for _, user := range []string{"ingest", "analyst", "auditor"} {
		a := embedded.Access{URL: s.URL(), User: user, Password: user + "-secret"}
		if _, err := embedded.Backup(t.Context(), a, filepath.Join(t.TempDir(), "x")); err == nil || !strings.Contains(err.Error(), "Code: 497") {
			t.Errorf("%s: %v", user, err)
		}
	}
	if _, err := embedded.Backup(t.Context(), embedded.Access{URL: s.URL(), User: "root", Password: "root-secret"}, filepath.Join(t.TempDir(), "x")); err != nil {
		t.Errorf("an administrator: %v", err)
	}
}

func flipped(b []byte, at int) []byte {
	out := bytes.Clone(b)
	out[at] ^= 1
	return out
}

// tarOf makes a tar of names and contents in turn.
func tarOf(t *testing.T, kv ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(kv); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: kv[i], Mode: 0o600, Size: int64(len(kv[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, kv[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
