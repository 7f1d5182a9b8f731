package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

const (
	maxProcesses = 4096
	maxGPUs      = 256
	tickMs       = 10     // of the kernel, USER_HZ, the same on every architecture of Go
	stepMs       = 1000   // the wall clock was stepped if it moved more against the boot clock
	patienceMs   = 30_000 // how long the driver may take to list processes
)

// Config of the instrument.
type Config struct {
	Procfs string // where procfs is mounted; default "/proc"
	Passwd string // names of users; default "/etc/passwd"
	// StateFile keeps which processes were told of, for the next agent; "": none is kept. Its
	// directory exists. It holds names of users: only the agent may read it.
	StateFile string
	BootID    string // of the host, needed with StateFile

	// Finder is one that others use too; nil: one of its own.
	Finder *Finder
	// Devices knows the GPUs that schedulers name by number; nil: only UUIDs are understood.
	Devices source.DeviceLister
	// Driver is the root of the driver's files, where minors of GPUs stand; default
	// Procfs/driver/nvidia.
	Driver string
	// Cgroups is where control groups are mounted; default "/sys/fs/cgroup".
	Cgroups string

	// PodResources and PodsAPI are sockets of the kubelet; "": it is not asked.
	PodResources string
	PodsAPI      string
	KubeletMs    int64 // between two questions to it; 0: 15,000; at least 10,000
	// SlurmDir is the directory that deploy/slurm's prolog writes files into; "": none.
	SlurmDir string
	// MappingDir is that of dcgm-exporter's job mapping; "": none.
	MappingDir string
	// Environ lets a short list of variables be read of the environments of processes on
	// GPUs: see doc.go. Off by default.
	Environ bool

	// Exits tells how processes ended; nil: not known.
	Exits source.ExitLister
	// Collectives knows whether a process's collective calls can be counted; nil: not known.
	Collectives source.CollectiveWatcher
}

// Usual places of what Config names.
const (
	DefaultPodResources = "/var/lib/kubelet/pod-resources/kubelet.sock"
	DefaultPodsAPI      = "/var/lib/kubelet/pods-api/pods-api.sock"
	DefaultSlurmDir     = "/run/flopwatch/slurm"
)

// Job is the instrument "job": rows of wire.KindProcess as processes come, change and end.
type Job struct {
	cfg    Config
	lister source.ProcessLister
	fs     *procfs
	users  users
	finder *Finder

	devices devices
	kubelet *kubelet
	slurm   *slurm
	mapping *mapping
	holds   *holds
	key     []byte // for what stands for pods without a UID
	feeds   [feeds]struct {
		version uint64
		heardMs int64
	}
	declared map[string]string // numbers of jobs by SLUID, as environments say
	stirred  bool              // processes have come or changed since those were looked at
	versions [3]uint64         // that attributions rest on: of holds, of Slurm's files, of pods
	owners   atomic.Pointer[owners]
	ownersOf uint64 // the holds' round that owners are of
	env      environReader
	envNo    error // why an environment could not be read, the last time
	envTold  source.Status

	known map[int32]*process
	exits exits
	order []*process    // by pid, so that rows come in an order
	polls []unix.PollFd // of order
	seq   uint64        // of the last list
	begun bool

	haveBase  bool
	baseMs    int64 // Unix ms of the boot, for new processes
	offsetMs  int64 // wall - boot when baseMs was read
	restored  bool
	dirty     bool // the state file lags behind
	ended     []ended
	stateErr  error // it cannot be written
	lostErr   error // that of the last agent could not be read; told for a while
	savedMs   int64
	firstMs   int64 // boot ms of the first tick
	listedMs  int64 // boot ms of the last list
	everKnown bool

	missing    map[int32]bool // listed, not in /proc, at the last list
	hidden     int            // the same at two lists running
	refused    int            // listed, may not be read, at the last list
	unreadable int            // known processes whose state could not be read, now
	denied     error          // why, the last time
	over       int            // listed beyond maxProcesses
	namespace  int8           // 0: not looked; 1: the host's; 2: another
	folds      int8           // the same of users: 0: not looked; 1: all are told apart; 2: not

	told  health
	look  []source.GPUProcess // the list, by process
	spare map[int32]bool
	row   *process
	endMs int64 // of the row; 0: none
	fill  func(b *wire.Builder)
	kinds map[origin]rowGroup
}

// process is one process that was on a GPU.
type process struct {
	pid      int32
	start    uint64 // ticks since boot
	startMs  int64
	gpus     []int // sorted
	gpuList  string
	mig      []string // MIG devices, sorted
	migList  string
	exe      string
	launcher string
	user     string
	env      environ
	denied   bool // its environment may not be read
	shared   bool // it was seen on a GPU that several jobs held
	job      attribution
	anybody  bool // the kernel does not say which user: see foldsUsers
	owner    owner
	seenMs   int64 // Unix ms at which it was last seen alive
	watch    int   // its pidfd; -1: none
	gone     bool
	exited   bool   // the kernel told its end
	exit     int32  // its status plus one; 0: not known
	nccl     string // whether its collectives can be counted; "": not known
	exitBy   wire.Source
	ncclBy   wire.Source
}

// New returns the instrument. The lister is asked at every tick, from Sample's goroutine.
func New(cfg Config, lister source.ProcessLister) *Job {
	if cfg.Procfs == "" {
		cfg.Procfs = "/proc"
	}
	if cfg.Passwd == "" {
		cfg.Passwd = "/etc/passwd"
	}
	if cfg.Driver == "" {
		cfg.Driver = filepath.Join(cfg.Procfs, "driver/nvidia")
	}
	if cfg.Cgroups == "" {
		cfg.Cgroups = "/sys/fs/cgroup"
	}
	if cfg.Finder == nil {
		cfg.Finder = NewFinder(cfg.Procfs)
	}
	j := &Job{
		cfg: cfg, lister: lister, fs: newProcfs(cfg.Procfs), users: users{path: cfg.Passwd}, finder: cfg.Finder,
		devices: devices{lister: cfg.Devices, driver: cfg.Driver}, holds: newHolds(),
		exits: exits{lister: cfg.Exits},
		known: map[int32]*process{}, missing: map[int32]bool{}, spare: map[int32]bool{}, kinds: map[origin]rowGroup{},
	}
	if cfg.PodResources != "" || cfg.PodsAPI != "" {
		j.kubelet = newKubelet(cfg.PodResources, cfg.PodsAPI, cmp.Or(cfg.KubeletMs, askMs))
	}
	if cfg.SlurmDir != "" {
		j.slurm = newSlurm(cfg.SlurmDir, cfg.Cgroups, cmp.Or(cfg.BootID, readBootID(cfg.Procfs)))
	}
	if cfg.MappingDir != "" {
		j.mapping = newMapping(cfg.MappingDir)
	}
	j.fill = j.fillRow
	return j
}

// readBootID reads which boot of the host this is; "": not known.
func readBootID(procfs string) string {
	b, err := os.ReadFile(filepath.Join(procfs, "sys/kernel/random/boot_id"))
	if id := strings.TrimSpace(string(b)); err == nil && isUUID(id) {
		return id
	}
	return ""
}

// Name returns "job".
func (j *Job) Name() string { return "job" }

// Close keeps the state for the next agent.
func (j *Job) Close() error {
	for _, p := range j.order {
		p.unwatch()
	}
	if j.kubelet != nil {
		j.kubelet.close()
	}
	if !j.restored {
		return nil // it has not read what the last agent left
	}
	return j.save()
}

// Sample tells which processes came, changed and ended. An error means that procfs could
// not be read.
func (j *Job) Sample(ctx context.Context, t source.Tick, out source.Sink) error {
	if err := j.rebase(t); err != nil {
		return err
	}
	if !j.restored {
		j.restored, j.firstMs = true, t.BootMs
		j.restore(t, out)
	}
	j.schedulers(ctx, t, out)
	j.publish()
	j.takeExits(t, out)
	if err := j.alive(t, out); err != nil {
		return err
	}
	list, seq, ok := j.lister.GPUProcesses()
	if ok {
		j.listedMs = t.BootMs
	}
	if ok || len(list) > 0 { // of some GPUs: no process has ended by not being on it
		j.everKnown = true
		if !j.begun || seq != j.seq {
			if err := j.take(ctx, list, t, out); err != nil {
				return err
			}
			j.begun, j.seq = true, seq
		}
	}
	j.attributeAll(t, out)
	j.keep(t)
	j.tell(t, ok, out)
	j.tellEnviron(out)
	return nil
}

// rebase reads when the host was started: at first, and when the wall clock was stepped.
func (j *Job) rebase(t source.Tick) error {
	offset := t.WallMs - t.BootMs
	if d := offset - j.offsetMs; j.haveBase && -stepMs <= d && d <= stepMs {
		return nil
	}
	s, err := j.fs.bootSeconds()
	if err != nil {
		return fmt.Errorf("read when the host was started from %s/stat: %w", j.cfg.Procfs, err)
	}
	j.haveBase, j.baseMs, j.offsetMs = true, s*1000, offset
	return nil
}

// alive looks at every known process, and tells those that have ended.
func (j *Job) alive(t source.Tick, out source.Sink) error {
	j.unreadable = 0
	watched := j.poll()
	ended, there := false, false
	for i, p := range j.order {
		if p.exited {
			ended, p.gone = true, true
			continue
		}
		var err error
		if !watched || p.watch < 0 {
			var s stat
			if s, err = j.fs.stat(p.pid); err == nil && s.start != p.start {
				err = errGone
			}
		} else if j.polls[i].Revents != 0 {
			err = errGone
		}
		switch {
		case err == nil:
			p.seenMs = t.WallMs
		case errors.Is(err, errGone):
			if !there {
				if _, serr := os.Stat(filepath.Join(j.cfg.Procfs, "stat")); serr != nil {
					return fmt.Errorf("look at processes: procfs is not at %s any more: %w", j.cfg.Procfs, serr)
				}
			}
			ended, there, p.gone = true, true, true
		default:
			j.unreadable++
			j.denied = err
		}
	}
	if !ended {
		return nil
	}
	for _, p := range j.order {
		if p.gone {
			delete(j.known, p.pid)
			j.end(p, t, out)
		}
	}
	j.order, j.polls = slices.DeleteFunc(j.order, func(p *process) bool { return p.gone }), j.polls[:0]
	return nil
}

// add takes a process in, and tells of it.
func (j *Job) add(p *process, out source.Sink) {
	j.known[p.pid] = p
	at, _ := slices.BinarySearchFunc(j.order, p.pid, func(p *process, pid int32) int { return int(p.pid) - int(pid) })
	j.order, j.polls = slices.Insert(j.order, at, p), j.polls[:0]
	j.dirty, j.stirred = true, true
	j.put(p, 0, out)
}

// end tells that a process has ended.
func (j *Job) end(p *process, t source.Tick, out source.Sink) {
	j.dirty = true
	p.unwatch()
	if j.cfg.StateFile != "" && len(j.ended) < maxProcesses {
		j.ended = append(j.ended, ended{p, t.BootMs})
	}
	j.exits.wait(p, t)
	j.put(p, p.endMs(), out)
}

// take compares a new list with what is known.
func (j *Job) take(ctx context.Context, list []source.GPUProcess, t source.Tick, out source.Sink) error {
	j.look = j.look[:0]
	for _, l := range list {
		if l.PID > 0 && l.GPU >= 0 && l.GPU < maxGPUs {
			if uuid, ok := findUUID(l.Instance); !ok || uuid != l.Instance {
				l.Instance = ""
			}
			j.look = append(j.look, l)
		}
	}
	slices.SortFunc(j.look, func(a, b source.GPUProcess) int {
		return cmp.Or(int(a.PID)-int(b.PID), a.GPU-b.GPU, strings.Compare(a.Instance, b.Instance))
	})
	j.over, j.hidden, j.refused = 0, 0, 0
	missing := j.spare
	clear(missing)
	for to := 0; to < len(j.look); {
		from := to
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pid := j.look[from].PID
		for to = from + 1; to < len(j.look) && j.look[to].PID == pid; {
			to++
		}
		on := j.look[from:to]
		if p := j.known[pid]; p != nil {
			j.update(p, on, t, out)
			continue
		}
		if len(j.known) >= maxProcesses {
			j.over++
			continue
		}
		p, err := j.meet(pid, t)
		if err != nil {
			switch {
			case !errors.Is(err, errGone):
				j.refused++
				j.denied = err
			case j.missing[pid]:
				j.hidden++ // not one that ended between the list and the look
				fallthrough
			default:
				missing[pid] = true
			}
			continue
		}
		if j.exits.met(p) {
			p.unwatch()
			continue // it is about to go, and its end was told
		}
		p.on(on)
		j.collectives(p)
		p.job = j.attribute(p, t)
		j.add(p, out)
	}
	j.missing, j.spare = missing, j.missing
	return nil
}

// meet reads who a process is.
func (j *Job) meet(pid int32, t source.Tick) (*process, error) {
	s, err := j.fs.stat(pid)
	if err != nil {
		return nil, err
	}
	p := &process{pid: pid, start: s.start, startMs: j.baseMs + int64(s.start)*tickMs, seenMs: t.WallMs, watch: j.watch(pid), env: noEnviron}
	s.comm = slices.Clone(s.comm)
	if p.exe = j.fs.exe(pid); p.exe == "" {
		p.exe = clean(string(s.comm))
	}
	switch uid, ok := j.fs.uid(pid); {
	case !ok:
	case uid == overflowUID && j.foldsUsers():
		p.anybody = true
	default:
		p.user = j.users.name(uid, t.BootMs)
	}
	if b, cerr := j.fs.read(pid, "cgroup", maxCgroup); cerr == nil {
		p.owner = j.finder.ofFile(b)
	}
	p.launcher = j.fs.launcher(s, p.owner)
	j.readEnviron(p)
	// What was read belongs to one process only if its number was not given away meanwhile.
	if again, aerr := j.fs.stat(pid); aerr != nil || again.start != p.start {
		p.unwatch()
		return nil, errGone
	}
	return p, nil
}

// collectives asks whether a process's collective calls can be counted, and reports whether
// that is something new. What was known stays known where nobody looks any more.
func (j *Job) collectives(p *process) (changed bool) {
	if j.cfg.Collectives == nil {
		return false
	}
	now, by := j.cfg.Collectives.CollectivesOf(p.pid)
	if now == "" || now == p.nccl {
		return false
	}
	p.nccl, p.ncclBy = now, by
	return true
}

// update tells that the GPUs, the job or the collectives of a process have changed, if they
// have.
func (j *Job) update(p *process, on []source.GPUProcess, t source.Tick, out source.Sink) {
	changed := p.on(on)
	if b, err := j.fs.read(p.pid, "cgroup", maxCgroup); err == nil {
		if o := j.finder.ofFile(b); o.source != "" && o != p.owner {
			p.owner, changed = o, true
		}
	}
	changed = j.collectives(p) || changed
	if changed {
		p.job = j.attribute(p, t)
		j.dirty, j.stirred = true, true
		j.put(p, 0, out)
	}
}

// on adds what the process is listed on to what it was seen on, and reports whether that is
// something new.
func (p *process) on(list []source.GPUProcess) (changed bool) {
	for _, l := range list {
		if at, found := slices.BinarySearch(p.gpus, l.GPU); !found {
			p.gpus, changed = slices.Insert(p.gpus, at, l.GPU), true
		}
		if l.Instance == "" {
			continue
		}
		if at, found := slices.BinarySearch(p.mig, l.Instance); !found {
			p.mig, changed = slices.Insert(p.mig, at, l.Instance), true
		}
	}
	if changed {
		p.lists()
	}
	return changed
}

// lists makes the texts of what the process was seen on.
func (p *process) lists() {
	var list []byte
	for i, g := range p.gpus {
		if i > 0 {
			list = append(list, ' ')
		}
		list = strconv.AppendInt(list, int64(g), 10)
	}
	p.gpuList, p.migList = string(list), strings.Join(p.mig, " ")
}
