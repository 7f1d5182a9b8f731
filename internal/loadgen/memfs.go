package loadgen

import (
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// memFS is a spool's file system in memory. Nothing of it is durable, and nobody else sees it.
type memFS struct {
	mu    sync.Mutex
	files map[string]*memFile
	dirs  map[string]bool
}

var _ durable.FS = (*memFS)(nil)

func newMemFS() *memFS { return &memFS{files: map[string]*memFile{}, dirs: map[string]bool{}} }

// MkdirAll implements durable.FS.
func (m *memFS) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dirs[dir] = true
	return nil
}

// Create implements durable.FS.
func (m *memFS) Create(name string) (durable.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] != nil {
		return nil, fs.ErrExist
	}
	f := &memFile{}
	m.files[name] = f
	return f, nil
}

// Open implements durable.FS.
func (m *memFS) Open(name string) (durable.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.files[name]; f != nil {
		return f, nil
	}
	return nil, fs.ErrNotExist
}

// Rename implements durable.FS.
func (m *memFS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[from]
	if f == nil {
		return fs.ErrNotExist
	}
	delete(m.files, from)
	m.files[to] = f
	return nil
}

// Remove implements durable.FS.
func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] == nil {
		return fs.ErrNotExist
	}
	delete(m.files, name)
	return nil
}

// SyncDir implements durable.FS.
func (*memFS) SyncDir(string) error { return nil }

// List implements durable.FS.
func (m *memFS) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[dir] {
		return nil, fs.ErrNotExist
	}
	var names []string
	for name := range m.files {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Lock implements durable.FS.
func (*memFS) Lock(string) (io.Closer, error) { return unlocked{}, nil }

type unlocked struct{}

func (unlocked) Close() error { return nil }

// memFile keeps no zeros at its end: most of a spool's small files are room for later.
type memFile struct {
	mu   sync.Mutex
	data []byte
	size int64
}

// ReadAt implements durable.File.
func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off >= f.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), f.size-off))
	got := 0
	if off < int64(len(f.data)) {
		got = copy(b[:n], f.data[off:])
	}
	clear(b[got:n])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements durable.File.
func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size = max(f.size, off+int64(len(b)))
	last := len(b)
	for last > 0 && b[last-1] == 0 && off+int64(last) > int64(len(f.data)) {
		last--
	}
	if end := int(off) + last; last > 0 && end > len(f.data) {
		if end > cap(f.data) { // by half: a segment is written in small steps
			f.data = append(make([]byte, 0, end+max(end/2, 512)), f.data...)
		}
		from := len(f.data)
		f.data = f.data[:end]
		clear(f.data[from:min(max(int(off), from), end)])
	}
	if last > 0 {
		copy(f.data[off:], b[:last])
	}
	return len(b), nil
}

// Truncate implements durable.File.
func (f *memFile) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size = size
	if size < int64(len(f.data)) {
		f.data = f.data[:size]
	}
	return nil
}

// Size implements durable.File.
func (f *memFile) Size() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size, nil
}

// Sync implements durable.File.
func (*memFile) Sync() error { return nil }

// Close implements durable.File.
func (*memFile) Close() error { return nil }
