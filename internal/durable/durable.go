package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"syscall"
)

// File is an open file. Errors are those of *os.File.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error
	Size() (int64, error)
}

// FS is a file layer. Names are paths as the os package takes them.
type FS interface {
	// MkdirAll makes a directory, mode 0700, and syncs its parent.
	MkdirAll(dir string) error
	// Create makes a new file, mode 0600; an existing one is an error (fs.ErrExist).
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes creations, renames and removals in dir durable.
	SyncDir(dir string) error
	// List returns the names in dir, sorted.
	List(dir string) ([]string, error)
	// Lock takes a lock on the file, which it makes if need be, until Close or the end of the
	// process. It does not wait: a lock that somebody holds is ErrLocked.
	Lock(name string) (io.Closer, error)
}

// ErrLocked says that another owner, in this process or another, holds a lock.
var ErrLocked = errors.New("locked by another owner")

// OS is the operating system's files.
type OS struct{}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// MkdirAll implements FS.
func (o OS) MkdirAll(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return o.SyncDir(filepath.Dir(filepath.Clean(dir)))
}

// Create implements FS.
func (OS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Open implements FS.
func (OS) Open(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Rename implements FS.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

// SyncDir implements FS.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// List implements FS.
func (OS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	sort.Strings(names)
	return names, nil
}

// Lock implements FS.
func (OS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// NoSync is fsys without its syncs. What was written survives kill -9 of the process, since
// the kernel has it, but not a power cut: for replays, whose input can be read again.
func NoSync(fsys FS) FS { return noSync{fsys} }

type noSync struct{ FS }

type noSyncFile struct{ File }

func (noSyncFile) Sync() error { return nil }

func (noSync) SyncDir(string) error { return nil }

func (n noSync) Create(name string) (File, error) { return unsynced(n.FS.Create(name)) }

func (n noSync) Open(name string) (File, error) { return unsynced(n.FS.Open(name)) }

func unsynced(f File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return noSyncFile{f}, nil
}

// tmpSuffix ends the name of a file that is being written.
const tmpSuffix = ".tmp"

// IsTemp reports whether a name is that of a file WriteFile had not finished: garbage.
func IsTemp(name string) bool { return filepath.Ext(name) == tmpSuffix }

// WriteFile replaces the file's content, so that after a crash it is all old or all new,
// and after return all new. Two writers of one name must take turns.
//
//	create name.tmp; write; sync; close; rename to name; sync the directory
func WriteFile(fsys FS, name string, data []byte) error {
	tmp := name + tmpSuffix
	f, err := fsys.Create(tmp)
	if errors.Is(err, fs.ErrExist) { // left by a crash
		if err = fsys.Remove(tmp); err == nil {
			f, err = fsys.Create(tmp)
		}
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", tmp, err)
	}
	if _, err = f.WriteAt(data, 0); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", tmp, err)
	}
	if err = fsys.Rename(tmp, name); err != nil {
		return fmt.Errorf("rename %s: %w", tmp, err)
	}
	if err = fsys.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("sync directory of %s: %w", name, err)
	}
	return nil
}

// ReadFile reads a whole file through fs, up to limit bytes; a longer one is an error.
func ReadFile(fsys FS, name string, limit int64) (_ []byte, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes, at most %d", name, size, limit)
	}
	data := make([]byte, size)
	if _, err = f.ReadAt(data, 0); err != nil && size > 0 {
		return nil, err
	}
	return data, nil
}
