package file

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/cilium/ebpf"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"

	progs "github.com/flopwatch/flopwatch/bpf/file"
)

// Fields of wire.KindCheckpoint.
const (
	fieldStart        = 1
	fieldPID          = 2
	fieldFile         = 3
	fieldEnd          = 10
	fieldBytes        = 11
	fieldFileBytes    = 12
	fieldFilesystem   = 13
	fieldJobSource    = 14
	fieldJobID        = 15
	fieldProcessStart = 16
)

const (
	listMs  = 10_000 // between looks at which processes to watch
	share   = 500    // a look may take one part in so many of the time
	slowest = 30 * time.Second
	maxJobs = 4096
	slack   = 100 * time.Millisecond // the kernel's clock of files is coarse
)

// Config of the feature. Zero values are the defaults.
type Config struct {
	Every    time.Duration // between looks; default 2 s
	MinBytes int64         // written in an episode that is told; default 64 MiB
	MinRate  int64         // bytes per second of one; default 4 MiB
	NoBPF    bool          // read /proc even where BPF works
}

// Feature is "file".
type Feature struct {
	cfg    Config
	env    *kernel.Env
	watch  *tasks.Watch
	track  *tracker
	by     reader
	every  time.Duration
	why    kernel.Report
	bootMs int64

	list     []*tasks.Process
	listed   bool
	known    bool
	listAt   int64
	lookedNs int64 // Unix, of the last look
	starts   map[int32]uint64
	jobs     map[writerKey]source.Job
	files    []opened
	cur      *episode
	fill     func(b *wire.Builder)
}

var _ kernel.Feature = (*Feature)(nil)

// reader finds what processes have open for writing.
type reader interface {
	read(ctx context.Context, list []*tasks.Process, to []opened) ([]opened, error)
	// path finds the path of a file whose reader did not tell it; "": not known.
	path(o *opened) string
	source() wire.Source
	report() kernel.Report
	close() error
}

// New returns the feature.
func New(cfg Config) *Feature {
	if cfg.Every <= 0 {
		cfg.Every = 2 * time.Second
	}
	if cfg.MinBytes <= 0 {
		cfg.MinBytes = 64 << 20
	}
	if cfg.MinRate <= 0 {
		cfg.MinRate = 4 << 20
	}
	f := &Feature{cfg: cfg, every: cfg.Every}
	f.fill = f.fillRow
	return f
}

// Name returns "file".
func (f *Feature) Name() string { return "file" }

// Every is how far looks are apart: more than configured where they are costly.
func (f *Feature) Every() time.Duration { return f.every }

// Start loads the program, or falls back to /proc.
func (f *Feature) Start(_ context.Context, env *kernel.Env) kernel.Report {
	f.env, f.every, f.listed = env, f.cfg.Every, false
	f.watch = tasks.NewWatch(env.Procfs, env.Processes, env.Jobs, true)
	f.track = newTracker(uint64(f.cfg.MinBytes), uint64(f.cfg.MinRate))
	f.starts, f.jobs = map[int32]uint64{}, map[writerKey]source.Job{}
	f.why = kernel.Active()
	var err error
	if f.bootMs, err = tasks.BootMs(env.Procfs); err != nil {
		return kernel.Unavailable("starts of processes cannot be told", err)
	}
	if !f.cfg.NoBPF {
		if err = kernel.HostPIDs(); err == nil {
			var b *bpf
			if b, err = open(env, f.cfg); err == nil {
				f.by = b
				if !b.paths {
					f.why = kernel.Degraded("this kernel's programs cannot tell paths", nil, "links of /proc/PID/fd")
				}
				return f.why
			}
			err = tasks.Refused(err)
		}
	}
	f.by = newProcfs(env.Procfs)
	f.why = kernel.InPlace("a kernel of 5.8 with BTF, CAP_BPF and CAP_PERFMON", err, "/proc/PID/fd and fdinfo, which need CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH")
	return f.why
}

// Close gives back what the feature holds.
func (f *Feature) Close() error {
	if f.by == nil {
		return nil
	}
	err := f.by.close()
	f.by, f.track, f.list = nil, nil, nil
	return err
}

// Sample looks at the files, and puts rows of episodes.
func (f *Feature) Sample(ctx context.Context, t source.Tick, out source.Sink) kernel.Report {
	if !f.listed || t.BootMs-f.listAt >= max(listMs, share*f.watch.Took().Milliseconds()) {
		f.list, f.known = f.watch.Look()
		f.listed, f.listAt = true, t.BootMs
		clear(f.starts)
		for _, p := range f.list {
			f.starts[p.PID] = p.Start
		}
	}
	began := time.Now()
	var err error
	took := tasks.Cost(func() { f.files, err = f.by.read(ctx, f.list, f.files[:0]) })
	f.every = min(max(f.cfg.Every, took*share), max(slowest, f.cfg.Every))
	if err != nil {
		return kernel.Degraded("open files could not be read fully", err, f.why.Fallback)
	}
	for i := range f.files {
		f.files[i].start /= tasks.TickNs // as /proc tells it, so that both ways of reading agree
	}
	f.track.sinceNs = uint64(max(f.lookedNs, 0))
	f.lookedNs = began.Add(-slack).UnixNano()
	told := f.track.step(t.WallMs, f.files, f.starts)
	for i := range told {
		f.cur = &told[i]
		if w := f.cur.w; w.path == "" {
			w.path = cleanPath(f.by.path(&w.last))
		}
		f.job(f.cur.w)
		out.Row(wire.KindCheckpoint, f.by.source(), "", nil, f.fill)
		if f.cur.endMs >= 0 {
			delete(f.jobs, f.cur.w.key)
		}
	}
	return f.report()
}

func (f *Feature) report() kernel.Report {
	if f.why.State != source.Active { // the way back: what that cannot see comes on top
		r := f.why
		if also := f.by.report(); also.State != source.Active {
			r.Why, r.Errno = r.Why+"; and "+also.Why, also.Errno
		}
		return r
	}
	switch {
	case !f.known:
		return kernel.Degraded("it is not known of all GPUs which processes are on them: files of those that the driver does not list are not looked at", nil, "")
	case f.track.over > 0:
		return kernel.Degraded(strconv.Itoa(f.track.over)+" files beyond the first "+strconv.Itoa(maxWriters)+" are left out", nil, "")
	case f.watch.Over() > 0:
		return kernel.Degraded(strconv.Itoa(f.watch.Over())+" processes are left out", nil, "")
	}
	return f.by.report()
}

// job remembers whose an episode is, from its first row to its last: the process may be
// gone by then.
func (f *Feature) job(w *writer) {
	if _, ok := f.jobs[w.key]; ok {
		return
	}
	if len(f.jobs) >= maxJobs {
		clear(f.jobs)
	}
	if p := f.watch.Of(w.key.pid); p != nil && p.Start == w.key.start {
		f.jobs[w.key] = p.Job
	}
}

func (f *Feature) fillRow(b *wire.Builder) {
	e := f.cur
	b.SetInt(fieldStart, e.startMs)
	b.SetInt(fieldPID, int64(e.w.key.pid))
	b.SetStr(fieldFile, e.w.name())
	if e.endMs >= 0 {
		b.SetInt(fieldEnd, e.endMs)
	}
	if e.bytes >= 0 {
		b.SetInt(fieldBytes, e.bytes)
	}
	b.SetInt(fieldFileBytes, int64(e.fileSize))
	if e.w.last.fs != "" {
		b.SetStr(fieldFilesystem, e.w.last.fs)
	}
	if j, ok := f.jobs[e.w.key]; ok && j != (source.Job{}) {
		b.SetStr(fieldJobSource, j.Source)
		b.SetStr(fieldJobID, j.ID)
	}
	b.SetInt(fieldProcessStart, f.bootMs+int64(e.w.key.start)*(tasks.TickNs/1e6))
}

// bpf reads open files by an iterator in the kernel.
type bpf struct {
	prog      *ebpf.Program
	processes *ebpf.Map
	files     *tasks.Files
	paths     bool
	pids      map[uint32]bool
	want      map[uint32]bool
	fs        map[string]string
	link      *procfs
}

// open loads the program that tells paths; where the kernel has not that helper, the other.
func open(env *kernel.Env, cfg Config) (*bpf, error) {
	b := &bpf{pids: map[uint32]bool{}, want: map[uint32]bool{}, fs: map[string]string{}, link: newProcfs(env.Procfs)}
	var err error
	for _, b.paths = range []bool{true, false} {
		var spec *ebpf.CollectionSpec
		if spec, err = progs.LoadFile(); err != nil {
			return nil, fmt.Errorf("read programs: %w", err)
		}
		if err = spec.Variables["least"].Set(uint64(cfg.MinBytes)); err != nil {
			return nil, fmt.Errorf("set the least size: %w", err)
		}
		name, other := "with_path", "without_path"
		if !b.paths {
			name, other = other, name
		}
		delete(spec.Programs, other)
		opts := env.Options()
		var c *ebpf.Collection
		if c, err = ebpf.NewCollectionWithOptions(spec, opts); err != nil {
			continue
		}
		b.prog, b.processes = c.DetachProgram(name), c.DetachMap("processes")
		c.Close()
		b.files = tasks.New(b.prog, env.BTF)
		return b, nil
	}
	return nil, fmt.Errorf("load programs: %w", err)
}

func (b *bpf) close() error { return errors.Join(b.prog.Close(), b.processes.Close()) }

func (b *bpf) source() wire.Source { return wire.SourceEBPF }

func (b *bpf) report() kernel.Report { return kernel.Active() }

func (b *bpf) path(o *opened) string { return b.link.path(o) }

func (b *bpf) read(ctx context.Context, list []*tasks.Process, to []opened) ([]opened, error) {
	if err := b.aim(list); err != nil {
		return to, err
	}
	if len(list) == 0 {
		return to, nil
	}
	var bad error
	take := func(p []byte) int {
		at := 0
		for {
			o, n := parseOpen(p[at:], b.fs)
			if n < 0 {
				bad = errors.New("the program's record has a path that is too long")
				return len(p)
			}
			if n == 0 {
				return at
			}
			at += n
			if len(to) < 4*maxWriters {
				to = append(to, o)
			}
		}
	}
	if !b.files.Single() {
		return to, errors.Join(b.files.All(take), bad)
	}
	for _, p := range list {
		if ctx.Err() != nil {
			return to, ctx.Err()
		}
		if err := b.files.Process(p.PID, take); err != nil {
			return to, err
		}
	}
	return to, bad
}

// aim brings the kernel's list of processes up to now.
func (b *bpf) aim(list []*tasks.Process) error {
	clear(b.want)
	for _, p := range list {
		b.want[uint32(p.PID)] = true
	}
	for pid := range b.pids {
		if !b.want[pid] {
			if err := b.processes.Delete(pid); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("forget process %d: %w", pid, err)
			}
			delete(b.pids, pid)
		}
	}
	for pid := range b.want {
		if !b.pids[pid] {
			if err := b.processes.Put(pid, uint8(1)); err != nil {
				return fmt.Errorf("watch process %d: %w", pid, err)
			}
			b.pids[pid] = true
		}
	}
	return nil
}
