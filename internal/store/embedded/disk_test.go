package embedded_test

import (
	"fmt"
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
