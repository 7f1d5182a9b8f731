package spool

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/flopwatch/flopwatch/internal/durable"
)

var errCut = errors.New("the power is off")

// sectorBytes is what a disk writes whole.
const sectorBytes = 512

// inode is a file: what the kernel has of it, and what the disk has for certain.
type inode struct {
	data, synced []byte
}

// powerFS is a disk and the kernel before it. Every call that changes something is counted;
// call number at is the last, half done if it is a write, and all later ones fail: the power
// is off. What was not synced is then there, or not, as cut is told. With a capacity it is
// full some day.
type powerFS struct {
	mu       sync.Mutex
	names    map[string]*inode   // what the kernel has
	kept     map[string]*inode   // what the disk has for certain
	since    map[string][]*inode // what a name stood for since its directory was synced
	dirs     map[string]bool
	calls    int
	at       int // 0: never
	off      bool
	capacity int64                 // bytes in sectors; 0: without end
	fail     func(op string) error // asked before every call, reading ones too; nil: nothing fails
	ops      map[string]int        // counted calls by name
}

func newPowerFS() *powerFS {
	return &powerFS{names: map[string]*inode{}, kept: map[string]*inode{}, since: map[string][]*inode{}, dirs: map[string]bool{}, ops: map[string]int{}}
}

// step counts a call that changes something; true: the power goes off in it.
func (p *powerFS) step(op string) (last bool, err error) {
	if p.off {
		return false, errCut
	}
	if p.fail != nil {
		if err := p.fail(op); err != nil {
			return false, err
		}
	}
	p.calls++
	p.ops[op]++
	if p.calls == p.at {
		p.off = true
		return true, nil
	}
	return false, nil
}

// look is a call that changes nothing.
func (p *powerFS) look(op string) error {
	if p.off {
		return errCut
	}
	if p.fail != nil {
		return p.fail(op)
	}
	return nil
}

func (p *powerFS) used() (n int64) {
	for _, i := range p.names {
		n += (int64(len(i.data)) + sectorBytes - 1) / sectorBytes * sectorBytes
	}
	return n
}

func (p *powerFS) free(string) (free, total int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.capacity-p.used(), 0), p.capacity, nil
}

// set makes a name stand for an inode; nil: for none.
func (p *powerFS) set(name string, i *inode) {
	if len(p.since[name]) == 0 {
		p.since[name] = []*inode{p.kept[name]}
	}
	p.since[name] = append(p.since[name], i)
	if i == nil {
		delete(p.names, name)
	} else {
		p.names[name] = i
	}
}

func (p *powerFS) MkdirAll(dir string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, err := p.step("mkdir")
	if err != nil {
		return err
	}
	if last {
		return errCut
	}
	p.dirs[dir] = true
	return nil
}

func (p *powerFS) Create(name string) (durable.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, err := p.step("create")
	if err != nil {
		return nil, err
	}
	if p.names[name] != nil {
		return nil, fs.ErrExist
	}
	if !p.dirs[filepath.Dir(name)] {
		return nil, fs.ErrNotExist
	}
	i := &inode{}
	p.set(name, i)
	if last {
		return nil, errCut
	}
	return &powerFile{p, i}, nil
}

func (p *powerFS) Open(name string) (durable.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.look("open"); err != nil {
		return nil, err
	}
	i := p.names[name]
	if i == nil {
		return nil, fs.ErrNotExist
	}
	return &powerFile{p, i}, nil
}

func (p *powerFS) Rename(from, to string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, err := p.step("rename")
	if err != nil {
		return err
	}
	i := p.names[from]
	if i == nil {
		return fs.ErrNotExist
	}
	p.set(to, i)
	p.set(from, nil)
	if last {
		return errCut
	}
	return nil
}

func (p *powerFS) Remove(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, err := p.step("unlink")
	if err != nil {
		return err
	}
	if p.names[name] == nil {
		return fs.ErrNotExist
	}
	p.set(name, nil)
	if last {
		return errCut
	}
	return nil
}

func (p *powerFS) SyncDir(dir string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, err := p.step("fsync of the directory")
	if err != nil {
		return err
	}
	if last {
		return errCut // it may have happened or not, as with nothing synced
	}
	for name := range p.since {
		if filepath.Dir(name) != dir {
			continue
		}
		if i := p.names[name]; i != nil {
			p.kept[name] = i
		} else {
			delete(p.kept, name)
		}
		delete(p.since, name)
	}
	return nil
}

func (p *powerFS) List(dir string) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.look("list"); err != nil {
		return nil, err
	}
	if !p.dirs[dir] {
		return nil, fs.ErrNotExist
	}
	var names []string
	for name := range p.names {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	for name := range p.dirs {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

func (p *powerFS) Lock(string) (io.Closer, error) { return io.NopCloser(strings.NewReader("")), nil }

type powerFile struct {
	p *powerFS
	i *inode
}

func (f *powerFile) ReadAt(b []byte, off int64) (int, error) {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	if err := f.p.look("read"); err != nil {
		return 0, err
	}
	if off >= int64(len(f.i.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.i.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *powerFile) WriteAt(b []byte, off int64) (int, error) {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	last, err := f.p.step("write")
	if err != nil {
		return 0, err
	}
	n := len(b)
	if last {
		n /= 2
	}
	var full error
	if f.p.capacity > 0 {
		have := (int64(len(f.i.data)) + sectorBytes - 1) / sectorBytes * sectorBytes
		if room := max(f.p.capacity-f.p.used(), 0) / sectorBytes * sectorBytes; off+int64(n) > have+room {
			n, full = int(max(have+room-off, 0)), syscall.ENOSPC
		}
	}
	if grow := off + int64(n) - int64(len(f.i.data)); grow > 0 && n > 0 {
		f.i.data = append(f.i.data, make([]byte, grow)...)
	}
	if n > 0 {
		copy(f.i.data[off:], b[:n])
	}
	if last {
		return n, errCut
	}
	return n, full
}

func (f *powerFile) Sync() error {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	last, err := f.p.step("fsync")
	if err != nil {
		return err
	}
	if last {
		return errCut
	}
	f.i.synced = slices.Clone(f.i.data)
	return nil
}

func (f *powerFile) Truncate(n int64) error {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	last, err := f.p.step("truncate")
	if err != nil {
		return err
	}
	if n < int64(len(f.i.data)) {
		f.i.data = f.i.data[:n:n]
	}
	if last {
		return errCut
	}
	return nil
}

func (f *powerFile) Size() (int64, error) {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	if err := f.p.look("stat"); err != nil {
		return 0, err
	}
	return int64(len(f.i.data)), nil
}

func (f *powerFile) Close() error {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	last, err := f.p.step("close")
	if err == nil && last {
		err = errCut
	}
	return err
}

// fate is what becomes, at a cut, of what was not synced.
type fate int

const (
	fateNone   fate = iota // it is lost
	fateAll                // all of it is there
	fatePrefix             // of each file, a part up to a random byte; of names, by chance
	fateTorn               // random sectors; of names, by chance
	fates
)

func (f fate) String() string { return [...]string{"none", "all", "prefix", "torn"}[f] }

// cut is the disk that the next boot finds.
func (p *powerFS) cut(f fate, rnd *rand.Rand) *powerFS {
	out := newPowerFS()
	out.capacity = p.capacity
	for d := range p.dirs {
		out.dirs[d] = true
	}
	inodes := map[*inode]*inode{nil: nil}
	names := map[string]bool{}
	for n := range p.kept {
		names[n] = true
	}
	for n := range p.since {
		names[n] = true
	}
	sorted := make([]string, 0, len(names))
	for n := range names {
		sorted = append(sorted, n)
	}
	slices.Sort(sorted) // so that the same seed has the same outcome
	for _, name := range sorted {
		i := p.kept[name]
		if versions := p.since[name]; len(versions) > 0 {
			switch f {
			case fateNone:
			case fateAll:
				i = versions[len(versions)-1]
			default:
				i = versions[rnd.IntN(len(versions))]
			}
		}
		if i == nil {
			continue
		}
		if inodes[i] == nil {
			content := i.after(f, rnd)
			inodes[i] = &inode{data: content, synced: slices.Clone(content)}
		}
		out.names[name], out.kept[name] = inodes[i], inodes[i]
	}
	return out
}

// clone is the same disk once more; nothing waits for a sync.
func (p *powerFS) clone() *powerFS { return p.cut(fateAll, nil) }

func (i *inode) after(f fate, rnd *rand.Rand) []byte {
	switch f {
	case fateNone:
		return slices.Clone(i.synced)
	case fateAll:
		return slices.Clone(i.data)
	case fatePrefix:
		// What was written up to a place, what was there before behind it.
		n := rnd.IntN(len(i.data) + 1)
		if n < len(i.synced) {
			n -= n % sectorBytes // a sector is written whole
		}
		out := slices.Clone(i.data[:n])
		if len(i.synced) > n {
			out = append(out, i.synced[n:]...)
		}
		return out
	}
	size := len(i.synced)
	if rnd.IntN(3) > 0 {
		size = len(i.data)
	}
	out := make([]byte, size)
	for at := 0; at < size; at += sectorBytes {
		from := i.synced
		if rnd.IntN(2) == 0 {
			from = i.data
		}
		if at < len(from) {
			copy(out[at:min(at+sectorBytes, size)], from[at:min(at+sectorBytes, len(from))])
		}
	}
	return out
}
