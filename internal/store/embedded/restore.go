package embedded

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// partialSuffix marks a backup that is being written: a name that is no backup's.
const partialSuffix = ".partial"

// Access is how a program reaches a running engine as its administrator.
type Access struct{ URL, User, Password string }

func (a Access) do(ctx context.Context, method, path string, q url.Values, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(a.URL, "/")+path+"?"+q.Encode(), strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask engine at %s: %w", a.URL, err)
	}
	req.SetBasicAuth(a.User, a.Password)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask engine: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // the status is error enough
		_ = resp.Body.Close()                                  // only read
		return nil, fmt.Errorf("engine at %s: %s: %s", a.URL, resp.Status, bytes.TrimSpace(text))
	}
	return resp, nil
}

func (a Access) query(ctx context.Context, sql string) (string, error) {
	resp, err := a.do(ctx, http.MethodPost, "/", url.Values{"wait_end_of_query": {"1"}}, sql)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return "", fmt.Errorf("ask engine: %w", err)
	}
	return string(b), nil
}

// Backup writes what a running engine holds to the new file dest. The file has its name only when all of it is on disk and was read back and found whole: a
// backup that was cut off is called dest.partial, and is written over by the next.
func Backup(ctx context.Context, from Access, dest string) (h BackupHead, err error) {
	if _, err = os.Lstat(dest); err == nil {
		return h, fmt.Errorf("%s is there already: a backup never replaces another", dest)
	}
	partial := dest + partialSuffix
	f, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return h, fmt.Errorf("create backup: %w", err)
	}
	defer func() { _ = f.Close() }() // synced before it counts
	if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return h, fmt.Errorf("%s is being written by another backup: %w", partial, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(partial))
		}
	}()
	if err = f.Truncate(0); err != nil {
		return h, fmt.Errorf("write backup: %w", err)
	}
	resp, err := from.do(ctx, http.MethodPost, backupPath, nil, "")
	if err != nil {
		return h, err
	}
	_, err = io.Copy(f, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return h, fmt.Errorf("receive backup: %w", err)
	}
	if err = f.Sync(); err != nil {
		return h, fmt.Errorf("write backup: %w", err)
	}
	if h, err = CheckBackup(partial); err != nil {
		return h, fmt.Errorf("the engine's backup did not arrive whole: %w", err)
	}
	if err = os.Link(partial, dest); err != nil { // unlike a rename it replaces nothing
		return h, fmt.Errorf("name backup: %w", err)
	}
	if err = errors.Join(os.Remove(partial), syncDir(filepath.Dir(dest))); err != nil {
		return h, fmt.Errorf("name backup: %w", err)
	}
	return h, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// BackupDir is Backup for the data directory of cfg: of the engine that runs there, or of one that is started for it.
func BackupDir(ctx context.Context, cfg Config, dest string) (h BackupHead, err error) {
	if cfg.DataDir, err = filepath.Abs(cfg.DataDir); err != nil {
		return h, fmt.Errorf("resolve data directory: %w", err)
	}
	d := layout{cfg.DataDir}
	if _, err = os.Stat(d.engine()); err != nil {
		return h, fmt.Errorf("no engine ever ran on %s: %w", cfg.DataDir, err)
	}
	lock, err := os.OpenFile(d.lock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return h, fmt.Errorf("look whether an engine runs: %w", err)
	}
	busy := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
	if err = lock.Close(); err != nil {
		return h, fmt.Errorf("look whether an engine runs: %w", err)
	}
	if !busy {
		err = withEngine(ctx, cfg, func(a Access) error {
			var berr error
			h, berr = Backup(ctx, a, dest)
			return berr
		})
		return h, err
	}
	at, err := os.ReadFile(d.url())
	if err != nil {
		return h, fmt.Errorf("find the engine that runs on %s: %w", cfg.DataDir, err)
	}
	password, err := os.ReadFile(d.password())
	if err != nil {
		return h, fmt.Errorf("read password: %w", err)
	}
	return Backup(ctx, Access{strings.TrimSpace(string(at)), DefaultUser, strings.TrimSpace(string(password))}, dest)
}

// CheckBackup reads a backup through and says what is in it, or what is wrong with it.
func CheckBackup(path string) (BackupHead, error) {
	f, err := os.Open(path)
	if err != nil {
		return BackupHead{}, fmt.Errorf("open backup: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	h, err := readBackup(bufio.NewReaderSize(f, 1<<20), nil)
	if err != nil {
		return h, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}

// Restore makes the data directory of cfg, which must be missing or empty, out of a backup. Until all of it is there and counted the directory is marked, and
// no engine starts on it; a restore into a marked one begins anew.
func Restore(ctx context.Context, cfg Config, path string) (h BackupHead, err error) {
	if h, err = CheckBackup(path); err != nil {
		return h, err
	}
	if cfg.DataDir, err = filepath.Abs(cfg.DataDir); err != nil {
		return h, fmt.Errorf("resolve data directory: %w", err)
	}
	d := layout{cfg.DataDir}
	if err = d.beginRestore(h); err != nil {
		return h, err
	}
	cfg.Listen, cfg.restoring = "127.0.0.1:0", true
	if err = withEngine(ctx, cfg, func(a Access) error { return createAll(ctx, a, h) }); err != nil {
		return h, err
	}
	if err = d.placeParts(path); err != nil {
		return h, err
	}
	if err = withEngine(ctx, cfg, func(a Access) error { return countAll(ctx, a, h) }); err != nil {
		return h, err
	}
	if err = errors.Join(os.Remove(d.restoring()), syncDir(cfg.DataDir)); err != nil {
		return h, fmt.Errorf("finish restore: %w", err)
	}
	return h, nil
}

// beginRestore marks the data directory.
func (d layout) beginRestore(h BackupHead) error {
	if err := os.MkdirAll(d.root, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	there, err := os.ReadDir(d.root)
	if err != nil {
		return fmt.Errorf("look at data directory: %w", err)
	}
	marked := slices.ContainsFunc(there, func(e os.DirEntry) bool { return e.Name() == filepath.Base(d.restoring()) })
	if len(there) > 0 && !marked {
		return fmt.Errorf("data directory %s is not empty: restore into a new one", d.root)
	}
	var fs syscall.Statfs_t
	if err = syscall.Statfs(d.root, &fs); err == nil && uint64(fs.Bsize)*fs.Bavail < h.Bytes()+h.Bytes()/10 {
		return fmt.Errorf("data directory %s: the backup needs %d MB, and %d are free", d.root, (h.Bytes()+h.Bytes()/10)>>20, uint64(fs.Bsize)*fs.Bavail>>20)
	}
	lock, err := takeLock(context.Background(), d.lock())
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // the kernel frees the lock in any case
	for _, e := range there {
		if name := filepath.Join(d.root, e.Name()); name != d.restoring() && name != d.lock() {
			if err = os.RemoveAll(name); err != nil {
				return fmt.Errorf("remove what an earlier restore left: %w", err)
			}
		}
	}
	if err = os.WriteFile(d.restoring(), []byte("A restore is under way, or was cut off: no engine starts here.\n"), 0o600); err != nil {
		return fmt.Errorf("mark data directory: %w", err)
	}
	return syncDir(d.root)
}

// withEngine runs f beside an engine on cfg.
func withEngine(ctx context.Context, cfg Config, f func(Access) error) error {
	s, err := Start(ctx, cfg)
	if err != nil {
		return err
	}
	user, password := s.Auth()
	return errors.Join(f(Access{s.URL(), user, password}), s.Stop(context.WithoutCancel(ctx)))
}

// createAll makes databases, tables and views, with the identities that they had.
func createAll(ctx context.Context, a Access, h BackupHead) error {
	v, err := a.query(ctx, "SELECT version() FORMAT TabSeparatedRaw")
	if err != nil {
		return err
	}
	if now := strings.TrimSpace(v); older(now, h.Engine) {
		return fmt.Errorf("the backup was made by engine %s, and this one is %s: an older engine may not read it", h.Engine, now)
	}
	for _, db := range h.Databases {
		if db == defaultDatabase {
			continue
		}
		if _, err = a.query(ctx, "CREATE DATABASE "+quoteName(db)); err != nil {
			return fmt.Errorf("create database %s: %w", db, err)
		}
	}
	// What reads another table comes after it: whatever fails is tried again as long as anything succeeds.
	left := slices.DeleteFunc(slices.Clone(h.Tables), func(t BackupTable) bool { return strings.HasPrefix(t.Name, ".inner") }) // made with its view
	for len(left) > 0 {
		var failed []BackupTable
		var first error
		for _, t := range left {
			if _, err = a.query(ctx, t.Create); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if failed = append(failed, t); first == nil {
					first = fmt.Errorf("create %s.%s: %w", t.Database, t.Name, err)
				}
			}
		}
		if len(failed) == len(left) {
			return first
		}
		left = failed
	}
	return nil
}

// older says whether version a comes before b, number by number.
func older(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		var m, n int
		_, e1 := fmt.Sscan(x[i], &m)
		_, e2 := fmt.Sscan(y[i], &n)
		if e1 != nil || e2 != nil {
			return false
		}
		if m != n {
			return m < n
		}
	}
	return false
}

// placeParts puts the parts where a stopped engine finds them at its next start.
func (d layout) placeParts(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open backup: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	dirs := map[string]bool{}
	_, err = readBackup(bufio.NewReaderSize(f, 1<<20), func(h BackupHead, table int, name string, content io.Reader) error {
		t := h.Tables[table]
		root := filepath.Join(d.engine(), storePath(t.UUID))
		if _, serr := os.Stat(root); serr != nil {
			return fmt.Errorf("the engine made no folder for %s.%s: %w", t.Database, t.Name, serr)
		}
		to := filepath.Join(root, filepath.FromSlash(name))
		if merr := os.MkdirAll(filepath.Dir(to), 0o700); merr != nil {
			return fmt.Errorf("restore %s.%s: %w", t.Database, t.Name, merr)
		}
		dirs[root], dirs[filepath.Dir(to)] = true, true
		out, oerr := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if oerr != nil {
			return fmt.Errorf("restore %s.%s: %w", t.Database, t.Name, oerr)
		}
		_, cerr := io.Copy(out, content)
		if cerr = errors.Join(cerr, out.Sync(), out.Close()); cerr != nil {
			return fmt.Errorf("restore %s.%s: %w", t.Database, t.Name, cerr)
		}
		return nil
	})
	for dir := range dirs {
		err = errors.Join(err, syncDir(dir))
	}
	return err
}

// countAll holds what the engine has to what the backup says. Nothing merges meanwhile (see layout.writeConfig).
func countAll(ctx context.Context, a Access, h BackupHead) error {
	text, err := a.query(ctx, "SELECT toString(t.uuid) AS uuid, count() AS parts, sum(p.rows) AS rows FROM system.parts AS p JOIN system.tables AS t ON p.database = t.database AND p.table = t.name"+
		" WHERE p.active GROUP BY t.uuid SETTINGS output_format_json_quote_64bit_integers = 0 FORMAT JSONEachRow")
	if err != nil {
		return err
	}
	have := map[string]BackupTable{}
	for d := json.NewDecoder(strings.NewReader(text)); ; {
		var t BackupTable
		if err = d.Decode(&t); err == io.EOF { //nolint:errorlint // bare
			break
		}
		if err != nil {
			return fmt.Errorf("count rows: %w", err)
		}
		have[t.UUID] = t
	}
	for _, t := range h.Tables {
		if got := have[t.UUID]; hasParts(t.Engine) && (got.Rows != t.Rows || got.Parts != t.Parts) {
			return fmt.Errorf("table %s.%s has %d rows in %d parts after the restore, and %d in %d in the backup", t.Database, t.Name, got.Rows, got.Parts, t.Rows, t.Parts)
		}
	}
	return nil
}
