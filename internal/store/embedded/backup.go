package embedded

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	backupPath    = "/flopwatch/backup" // streams a backup to an administrator
	backupFormat  = 1
	backupHead    = "flopwatch-backup.json"
	backupEnd     = "flopwatch-backup.end"
	shadowPrefix  = "flopwatch_"     // the engine escapes a dash
	gatePatience  = 30 * time.Second // how long a snapshot waits for statements that change data
	maxHeadBytes  = 64 << 20
	maxCountBytes = 32
)

// BackupHead is what a backup says of itself: its first entry.
type BackupHead struct {
	Format    int           `json:"format"`
	Engine    string        `json:"engine"`
	Taken     time.Time     `json:"taken"`
	Databases []string      `json:"databases"`
	Tables    []BackupTable `json:"tables"`
}

// BackupTable is one table or view.
type BackupTable struct {
	Database string `json:"database"`
	Name     string `json:"name"`
	UUID     string `json:"uuid"`
	Engine   string `json:"engine"`
	Create   string `json:"create"`
	Rows     uint64 `json:"rows"`
	Bytes    uint64 `json:"bytes"`
	Parts    int    `json:"parts"`
}

// Rows is how many rows all tables have.
func (h BackupHead) Rows() (n uint64) {
	for _, t := range h.Tables {
		n += t.Rows
	}
	return n
}

// Bytes is how many bytes the parts of all tables have.
func (h BackupHead) Bytes() (n uint64) {
	for _, t := range h.Tables {
		n += t.Bytes
	}
	return n
}

// backupSum is a backup's last entry: without it, or with another digest, it is none.
type backupSum struct {
	Entries int    `json:"entries"`
	SHA256  string `json:"sha256"` // over name, size and content of every entry before it
}

func hasParts(engine string) bool { return strings.HasSuffix(engine, "MergeTree") }

// backup streams a snapshot of all tables. While it is taken, statements that change data wait, some milliseconds a table: parts are frozen by hard links.
// Then they go on while the links are read.
func (r *request) backup() {
	if r.account.role.name != adminRole {
		r.fail(refuse(codeAccessDenied, "ACCESS_DENIED", "%s: Not enough privileges: a backup is an administrator's", r.account.name))
		return
	}
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails
	snap := snapshot{f: r.f, name: shadowPrefix + hex.EncodeToString(raw[:])}
	defer snap.remove()
	if err := snap.take(r.ctx); err != nil {
		r.fail(asException(err))
		return
	}
	r.w.Header().Set("Content-Type", "application/x-tar")
	r.w.WriteHeader(http.StatusOK)
	// What fails from here on is seen by its end, which is missing.
	if err := snap.write(r.ctx, timedWriter{r}); err != nil {
		r.f.lg.WarnContext(r.ctx, "backup was cut off", slog.Any("err", err))
	}
}

// timedWriter gives its client its time for each piece.
type timedWriter struct{ r *request }

func (t timedWriter) Write(b []byte) (int, error) {
	t.r.allow(t.r.f.patience.Send)
	return t.r.w.Write(b)
}

// snapshot is a frozen state of all tables.
type snapshot struct {
	f    *front
	name string
	head BackupHead
}

func (s *snapshot) dir() string { return filepath.Join(s.f.data.engine(), "shadow", s.name) }

func (s *snapshot) remove() {
	if err := os.RemoveAll(s.dir()); err != nil {
		s.f.lg.Warn("remove snapshot", slog.Any("err", err)) // the next start does
	}
}

// removeSnapshots removes what an earlier process left.
func (d layout) removeSnapshots() error {
	old, err := filepath.Glob(filepath.Join(d.engine(), "shadow", shadowPrefix+"*"))
	for _, p := range old {
		err = errors.Join(err, os.RemoveAll(p))
	}
	if err != nil {
		return fmt.Errorf("remove old snapshots: %w", err)
	}
	return nil
}

const systemDatabases = "('system', 'information_schema', 'INFORMATION_SCHEMA')"

func (s *snapshot) take(ctx context.Context) error {
	c, err := s.f.lib.open(s.f.args)
	if err != nil {
		return err
	}
	defer c.close()
	patience, cancel := context.WithTimeout(ctx, gatePatience)
	defer cancel()
	open, err := s.f.gate.close(patience)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return refuse(codeTimeout, "TIMEOUT_EXCEEDED", "Statements that change data did not end within %s; take the backup when they have", gatePatience)
	case err != nil:
		return refuse(codeAborted, "ABORTED", "%s", err)
	}
	defer open()
	s.head = BackupHead{Format: backupFormat, Engine: s.f.version, Taken: time.Now().UTC()}
	names, err := c.text("SELECT name FROM system.databases WHERE name NOT IN " + systemDatabases + " ORDER BY name FORMAT JSONCompactColumns")
	if err != nil {
		return err
	}
	var columns [1][]string
	if err = json.Unmarshal([]byte(names), &columns); err != nil {
		return fmt.Errorf("list databases: %w", err)
	}
	s.head.Databases = columns[0]
	list, err := c.text("SELECT database, name, toString(uuid) AS uuid, engine, create_table_query AS create FROM system.tables WHERE NOT is_temporary AND database NOT IN " + systemDatabases +
		" ORDER BY database, name SETTINGS show_table_uuid_in_table_create_query_if_not_nil = 1 FORMAT JSONEachRow")
	if err != nil {
		return err
	}
	for d := json.NewDecoder(strings.NewReader(list)); ; {
		var t BackupTable
		if err = d.Decode(&t); err == io.EOF { //nolint:errorlint // bare
			break
		}
		if err != nil {
			return fmt.Errorf("list tables: %w", err)
		}
		s.head.Tables = append(s.head.Tables, t)
	}
	for i := range s.head.Tables {
		t := &s.head.Tables[i]
		if !hasParts(t.Engine) {
			continue
		}
		if err = c.run("ALTER TABLE " + quoteName(t.Database) + "." + quoteName(t.Name) + " FREEZE WITH NAME " + quoteString(s.name)); err != nil {
			return err
		}
		if err = s.keepDedup(t.UUID); err != nil {
			return err
		}
		if err = s.measure(t); err != nil {
			return err
		}
	}
	return nil
}

func storePath(uuid string) string { return filepath.Join("store", uuid[:3], uuid) }

const dedupDir = "deduplication_logs"

// keepDedup copies the table's window of deduplication, so that a batch sent again after a restore is known.
func (s *snapshot) keepDedup(uuid string) error {
	from := filepath.Join(s.f.data.engine(), storePath(uuid), dedupDir)
	logs, err := os.ReadDir(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read deduplication log: %w", err)
	}
	to := filepath.Join(s.dir(), storePath(uuid), dedupDir)
	if err = os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("keep deduplication log: %w", err)
	}
	for _, l := range logs {
		b, rerr := os.ReadFile(filepath.Join(from, l.Name()))
		if rerr == nil {
			rerr = os.WriteFile(filepath.Join(to, l.Name()), b, 0o600)
		}
		if rerr != nil {
			return fmt.Errorf("keep deduplication log: %w", rerr)
		}
	}
	return nil
}

// measure counts the rows of the frozen parts, each of which says them in a file of its own. The live table may be merged smaller at any time.
func (s *snapshot) measure(t *BackupTable) error {
	root := filepath.Join(s.dir(), storePath(t.UUID))
	parts, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil // empty
	}
	if err != nil {
		return fmt.Errorf("read snapshot of %s.%s: %w", t.Database, t.Name, err)
	}
	for _, p := range parts {
		if p.Name() == dedupDir {
			continue
		}
		b, rerr := os.ReadFile(filepath.Join(root, p.Name(), "count.txt"))
		if rerr != nil {
			return fmt.Errorf("read snapshot of %s.%s: %w", t.Database, t.Name, rerr)
		}
		n, rerr := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		if rerr != nil {
			return fmt.Errorf("read snapshot of %s.%s: part %s: %w", t.Database, t.Name, p.Name(), rerr)
		}
		t.Rows += n
		t.Parts++
	}
	return filepath.WalkDir(root, func(_ string, d fs.DirEntry, werr error) error {
		if werr != nil || d.IsDir() {
			return werr
		}
		info, ierr := d.Info()
		if ierr == nil {
			t.Bytes += uint64(info.Size())
		}
		return ierr
	})
}

// write gives the snapshot as a tar: what it is, its files, its digest.
func (s *snapshot) write(ctx context.Context, w io.Writer) error {
	head, err := json.Marshal(s.head)
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	a := archive{tw: tar.NewWriter(w), sum: sha256.New(), at: s.head.Taken}
	if err = a.add(backupHead, int64(len(head)), strings.NewReader(string(head))); err != nil {
		return err
	}
	for i, t := range s.head.Tables {
		root := filepath.Join(s.dir(), storePath(orNone(t.UUID)))
		if !hasParts(t.Engine) {
			continue
		}
		err = filepath.WalkDir(root, func(p string, d fs.DirEntry, werr error) error {
			switch {
			case errors.Is(werr, os.ErrNotExist) && p == root:
				return nil // empty
			case werr != nil || d.IsDir():
				return werr
			case ctx.Err() != nil:
				return context.Cause(ctx)
			}
			rel, rerr := filepath.Rel(root, p)
			if rerr != nil {
				return rerr
			}
			f, oerr := os.Open(p)
			if oerr != nil {
				return oerr
			}
			defer func() { _ = f.Close() }() // only read
			info, serr := f.Stat()
			if serr != nil {
				return serr
			}
			return a.add(path.Join("data", strconv.Itoa(i), filepath.ToSlash(rel)), info.Size(), f)
		})
		if err != nil {
			return fmt.Errorf("write backup of %s.%s: %w", t.Database, t.Name, err)
		}
	}
	return a.end()
}

func orNone(uuid string) string {
	if len(uuid) < 3 {
		return "none"
	}
	return uuid
}

// archive writes entries and sums them up.
type archive struct {
	tw      *tar.Writer
	sum     hash.Hash
	at      time.Time
	entries int
}

func (a *archive) add(name string, size int64, from io.Reader) error {
	if err := a.tw.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: a.at, Format: tar.FormatPAX}); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	_, _ = fmt.Fprintf(a.sum, "%d %s %d\n", len(name), name, size) // a hash does not fail
	n, err := io.Copy(io.MultiWriter(a.tw, a.sum), io.LimitReader(from, size))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("write backup: %s: %w", name, err)
	}
	a.entries++
	return nil
}

func (a *archive) end() error {
	b, err := json.Marshal(backupSum{a.entries, hex.EncodeToString(a.sum.Sum(nil))})
	if err == nil {
		err = a.tw.WriteHeader(&tar.Header{Name: backupEnd, Mode: 0o600, Size: int64(len(b)), ModTime: a.at, Format: tar.FormatPAX})
	}
	if err == nil {
		_, err = a.tw.Write(b)
	}
	if err = errors.Join(err, a.tw.Close()); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

// ErrNoBackup is in the error where a file is no backup, or not a whole one.
var ErrNoBackup = errors.New("not a whole backup")

// readBackup reads a backup through to its end and checks it. It gives each file of a table to take, which may be nil.
func readBackup(from io.Reader, take func(h BackupHead, table int, name string, content io.Reader) error) (h BackupHead, err error) {
	tr, sum := tar.NewReader(from), sha256.New()
	entries := 0
	rows := map[int]uint64{}
	for {
		e, nerr := tr.Next()
		if nerr != nil {
			return h, fmt.Errorf("%w: it ends too early or is damaged: %w", ErrNoBackup, nerr)
		}
		if entries == 0 && e.Name != backupHead {
			return h, fmt.Errorf("%w: it begins with %q, not with %s", ErrNoBackup, e.Name, backupHead)
		}
		if e.Name == backupEnd {
			break
		}
		if e.Typeflag != tar.TypeReg {
			return h, fmt.Errorf("%w: entry %q is no file", ErrNoBackup, e.Name)
		}
		_, _ = fmt.Fprintf(sum, "%d %s %d\n", len(e.Name), e.Name, e.Size) // a hash does not fail
		content := io.TeeReader(tr, sum)
		if entries++; entries == 1 {
			if h, err = readBackupHead(content); err != nil {
				return h, err
			}
			continue
		}
		table, name, perr := h.place(e.Name)
		if perr != nil {
			return h, perr
		}
		if strings.Count(name, "/") == 1 && strings.HasSuffix(name, "/count.txt") {
			b, rerr := io.ReadAll(io.LimitReader(content, maxCountBytes))
			n, cerr := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
			if err = errors.Join(rerr, cerr); err != nil {
				return h, fmt.Errorf("%w: %s: %w", ErrNoBackup, e.Name, err)
			}
			rows[table] += n
			content = strings.NewReader(string(b))
		}
		if take != nil {
			if err = take(h, table, name, content); err != nil {
				return h, err
			}
		}
		if _, err = io.Copy(io.Discard, content); err != nil {
			return h, fmt.Errorf("%w: %s: %w", ErrNoBackup, e.Name, err)
		}
	}
	var want backupSum
	if err = json.NewDecoder(io.LimitReader(tr, maxHeadBytes)).Decode(&want); err != nil {
		return h, fmt.Errorf("%w: its end cannot be read: %w", ErrNoBackup, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); want.SHA256 != got || want.Entries != entries {
		return h, fmt.Errorf("%w: it has %d entries of sha256 %s, and says %d of %s: it was damaged or changed", ErrNoBackup, entries, got, want.Entries, want.SHA256)
	}
	for i, t := range h.Tables {
		if rows[i] != t.Rows {
			return h, fmt.Errorf("%w: its parts of %s.%s have %d rows, and it says %d", ErrNoBackup, t.Database, t.Name, rows[i], t.Rows)
		}
	}
	return h, nil
}

func readBackupHead(from io.Reader) (h BackupHead, err error) {
	b, err := io.ReadAll(io.LimitReader(from, maxHeadBytes))
	if err == nil {
		err = json.Unmarshal(b, &h)
	}
	if err != nil {
		return h, fmt.Errorf("%w: its head cannot be read: %w", ErrNoBackup, err)
	}
	if h.Format != backupFormat {
		return h, fmt.Errorf("the backup has format %d, and this program knows %d: use the program that made it, or a later one", h.Format, backupFormat)
	}
	for _, t := range h.Tables {
		if hasParts(t.Engine) && !isUUID(t.UUID) {
			return h, fmt.Errorf("%w: table %s.%s has no identity", ErrNoBackup, t.Database, t.Name)
		}
	}
	return h, nil
}

// place finds where a file belongs: data/<table>/<part>/<file>. Whatever else a name is, it is refused.
func (h BackupHead) place(name string) (table int, rest string, err error) {
	bad := fmt.Errorf("%w: an entry is named %q", ErrNoBackup, name)
	f := strings.SplitN(name, "/", 3)
	if len(f) != 3 || f[0] != "data" || !fs.ValidPath(name) || !strings.Contains(f[2], "/") || strings.ContainsAny(name, "\x00\\") {
		return 0, "", bad
	}
	if table, err = strconv.Atoi(f[1]); err != nil || table < 0 || table >= len(h.Tables) || !hasParts(h.Tables[table].Engine) {
		return 0, "", bad
	}
	return table, f[2], nil
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch i {
		case 8, 13, 18, 23:
			if s[i] != '-' {
				return false
			}
		default:
			if unhex(s[i]) > 15 {
				return false
			}
		}
	}
	return true
}
