package tasks

import (
	"bytes"
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
)

const (
	maxWatched = 2048
	maxGroups  = 512
)

// Process is a watched process.
type Process struct {
	PID   int32
	Start uint64 // ticks since boot
	GPU   bool   // it is on a GPU; else it is in the group of one that is
	Group uint64 // id of its control group; 0: not known
	Job   source.Job
	Fresh bool // it was not watched at the last look
}

// Watch knows which processes are worth watching.
type Watch struct {
	procfs string
	mounts mounts // of the unified hierarchy
	lister source.ProcessLister
	jobs   source.JobFinder
	groups bool

	known map[int32]*Process
	list  []*Process
	byID  map[uint64]source.Job
	over  int
	took  time.Duration
	look  map[int32]bool
}

// NewWatch returns a watch. With groups, processes in the control groups of those on GPUs
// are watched too. Both lister and jobs may be nil.
func NewWatch(procfs string, lister source.ProcessLister, jobs source.JobFinder, groups bool) *Watch {
	w := &Watch{procfs: procfs, lister: lister, jobs: jobs, groups: groups, known: map[int32]*Process{}, byID: map[uint64]source.Job{}, look: map[int32]bool{}}
	if b, err := os.ReadFile(filepath.Join(procfs, "self", "mountinfo")); err == nil {
		w.mounts = parseMounts(b)
	}
	return w
}

// Look finds the processes of now, sorted by number. ok is false while it is not known of all
// GPUs which processes are on them; then those of the last list stay on it while they live.
func (w *Watch) Look() (list []*Process, ok bool) {
	if w.lister == nil {
		return nil, false
	}
	w.took = Cost(func() { list, ok = w.find() })
	return list, ok
}

// Took is what the last look took of a processor: a job may have thousands of processes.
func (w *Watch) Took() time.Duration { return w.took }

func (w *Watch) find() (list []*Process, ok bool) {
	on, _, ok := w.lister.GPUProcesses()
	if !ok && len(on) == 0 {
		for _, p := range w.list {
			p.Fresh = false
		}
		return w.list, false
	}
	clear(w.look)
	clear(w.byID)
	w.over = 0
	for i := range on {
		w.add(on[i].PID, true)
	}
	if !ok {
		w.stay()
	}
	if w.groups {
		w.spread()
	}
	w.list = w.list[:0]
	for pid, p := range w.known {
		if !w.look[pid] {
			delete(w.known, pid)
			continue
		}
		w.list = append(w.list, p)
	}
	slices.SortFunc(w.list, func(a, b *Process) int { return cmp.Compare(a.PID, b.PID) })
	return w.list, ok
}

// stay keeps those that were on GPUs: one of them may be on one that is not listed now.
func (w *Watch) stay() {
	for _, p := range w.list {
		if !p.GPU || w.look[p.PID] {
			continue
		}
		if s, err := ReadStat(w.procfs, p.PID); err == nil && s.Start == p.Start {
			w.add(p.PID, true)
		}
	}
}

// Over is how many processes the last look left out.
func (w *Watch) Over() int { return w.over }

// Groups are the control groups of watched processes which name a job, by id.
func (w *Watch) Groups() map[uint64]source.Job { return w.byID }

// Of returns a watched process; nil if it is not.
func (w *Watch) Of(pid int32) *Process { return w.known[pid] }

// add takes a process in, or keeps what is known of it.
func (w *Watch) add(pid int32, gpu bool) {
	if pid <= 0 || w.look[pid] {
		return
	}
	if len(w.look) >= maxWatched { // ten thousand more cost no more
		w.over++
		return
	}
	s, err := ReadStat(w.procfs, pid)
	if err != nil || s.Dead {
		return
	}
	p := w.known[pid]
	if p == nil || p.Start != s.Start {
		p = &Process{PID: pid, Start: s.Start, Fresh: true}
		w.known[pid] = p
	} else {
		p.Fresh = false
	}
	w.look[pid] = true
	p.GPU = p.GPU || gpu
	path := ""
	if b, err := ReadFile(filepath.Join(w.procfs, strconv.Itoa(int(pid)), "cgroup")); err == nil {
		path = parseGroup(b)
	}
	p.Group, _ = w.id(path)
	if w.jobs == nil {
		return
	}
	if j, ok := w.jobs.JobOf(pid); ok {
		p.Job = j
	}
	if len(path) > 1 && p.Group > 1 && len(w.byID) < maxGroups {
		if j, ok := w.jobs.JobOfCgroup(path); ok {
			w.byID[p.Group] = j
		}
	}
}

// id is the number of a control group: the inode of its directory.
func (w *Watch) id(path string) (id uint64, dir string) {
	if path == "" {
		return 0, ""
	}
	dir = w.mounts.find(path, func(dir string) bool {
		var st syscall.Stat_t
		if syscall.Stat(dir, &st) != nil {
			return false
		}
		id = st.Ino
		return true
	})
	return id, dir
}

// spread takes in who shares a job's control group with a process on a GPU.
func (w *Watch) spread() {
	if len(w.mounts) == 0 {
		return
	}
	done := map[uint64]bool{}
	for _, p := range w.sorted() {
		if p.Group == 0 || done[p.Group] {
			continue
		}
		if _, named := w.byID[p.Group]; !named {
			continue
		}
		done[p.Group] = true
		b, err := ReadFile(filepath.Join(w.procfs, strconv.Itoa(int(p.PID)), "cgroup"))
		if err != nil {
			continue
		}
		id, dir := w.id(parseGroup(b))
		if id != p.Group {
			continue // it has moved since
		}
		procs, err := ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		for line := range bytes.Lines(procs) {
			if pid, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 10, 32); err == nil {
				w.add(int32(pid), false)
			}
		}
	}
}

// sorted are the processes of this look, by number: what is left out above a bound is the
// same each time.
func (w *Watch) sorted() []*Process {
	out := make([]*Process, 0, len(w.look))
	for pid := range w.look {
		out = append(out, w.known[pid])
	}
	slices.SortFunc(out, func(a, b *Process) int { return cmp.Compare(a.PID, b.PID) })
	return out
}
