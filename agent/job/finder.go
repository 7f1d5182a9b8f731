package job

import (
	"maps"
	"sync"

	"github.com/flopwatch/flopwatch/agent/source"
)

const (
	maxFound   = 4096    // groups that a Finder remembers
	maxFoundIn = 1 << 20 // bytes of their names
)

// Finder finds the jobs of processes and of control groups. It may be used by several
// goroutines, with or without a Job beside it, and starts none.
//
// What a group says is remembered by the group's name, never by a process's number: a
// number that was given to another process cannot be mistaken, as the file of its groups is
// read every time. That costs less than a look at its start.
type Finder struct {
	procfs  string
	readers sync.Pool // of *procfs

	mu     sync.RWMutex
	files  map[string]owner // by the contents of /proc/PID/cgroup
	paths  map[string]owner
	bytes  int               // of both maps' keys
	sluids map[string]string // a Slurm job's number by its SLUID
}

var _ source.JobFinder = (*Finder)(nil)

// NewFinder returns a finder; procfs is where procfs is mounted, "": /proc.
func NewFinder(procfs string) *Finder {
	if procfs == "" {
		procfs = "/proc"
	}
	f := &Finder{procfs: procfs, files: map[string]owner{}, paths: map[string]owner{}, sluids: map[string]string{}}
	f.readers.New = func() any { return newProcfs(procfs) }
	return f
}

// JobOf implements source.JobFinder.
func (f *Finder) JobOf(pid int32) (j source.Job, ok bool) {
	r := f.readers.Get().(*procfs)
	defer f.readers.Put(r)
	b, err := r.read(pid, "cgroup", maxCgroup)
	if err != nil {
		return source.Job{}, false
	}
	return f.job(f.ofFile(b))
}

// JobOfCgroup implements source.JobFinder.
func (f *Finder) JobOfCgroup(path string) (j source.Job, ok bool) {
	f.mu.RLock()
	o, known := f.paths[path]
	f.mu.RUnlock()
	if !known {
		o = parsePath(path)
		f.mu.Lock()
		f.room(len(path))
		f.paths[path] = o
		f.mu.Unlock()
	}
	return f.job(o)
}

// ofFile reads the contents of /proc/PID/cgroup.
func (f *Finder) ofFile(b []byte) owner {
	f.mu.RLock()
	o, known := f.files[string(b)]
	f.mu.RUnlock()
	if known {
		return o
	}
	o = parseCgroup(b)
	f.mu.Lock()
	f.room(len(b))
	f.files[string(b)] = o
	f.mu.Unlock()
	return o
}

// room makes place for one more name, by forgetting all when there are too many.
func (f *Finder) room(n int) {
	if len(f.files)+len(f.paths) >= maxFound || f.bytes+n > maxFoundIn {
		clear(f.files)
		clear(f.paths)
		f.bytes = 0
	}
	f.bytes += n
}

// job is an owner as others see it.
func (f *Finder) job(o owner) (j source.Job, ok bool) {
	return source.Job{Source: o.source, ID: f.number(o)}, o.id != ""
}

// number returns the id of an owner's job: a Slurm job's number where its SLUID is known.
func (f *Finder) number(o owner) string {
	if o.source != sourceSlurm || !isSLUID(o.id) {
		return o.id
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if n := f.sluids[o.id]; n != "" {
		return n
	}
	return o.id
}

// learn replaces what is known of SLUIDs, and reports whether that has changed.
func (f *Finder) learn(sluids map[string]string) (changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed = !maps.Equal(f.sluids, sluids)
	f.sluids = sluids
	return changed
}
