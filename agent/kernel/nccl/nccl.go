package nccl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/probe"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks"
	"github.com/flopwatch/flopwatch/agent/source"
	bpf "github.com/flopwatch/flopwatch/bpf/nccl"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Config of the feature. Zero values are the defaults.
type Config struct {
	RowEvery     time.Duration // how often rows are told; default 10 s
	ScanEvery    time.Duration // how often libraries are looked for at least; default 30 s
	DetachAfter  time.Duration // how long a library that nobody has mapped keeps its probes; default 10 min
	PauseFor     time.Duration // how long a library that is called too often has none; default 10 min
	MaxLibraries int           // default 32
	MaxRate      float64       // calls a second of a library above which it loses its probes; default 50,000
}

const (
	maxProcesses = 1024
	maxMappings  = 4096 // of libraries, that are taken from a look
	maxComms     = 256  // of a process
	maxFailed    = 256  // files that could not be probed
	maxCalm      = 64   // processes that keep probes of their own in a library that lost its
	failedMs     = 300_000
	hideMs       = 30_000 // how long rows wait for the name of a communicator
	eventsATick  = 4096
	eventsEach   = 128      // that are taken up of one process at a tick
	readATick    = 16 << 20 // bytes of processes' memory that are looked through at a tick
	// What a call of a probed function costs where it could not be measured: on the slow side
	// of what was seen on machines that are not virtual.
	plainNs = 700
	stepNs  = 2500
)

// followMs is when libraries are looked for again after a process came to the GPUs.
var followMs = []int64{2_000, 5_000, 15_000}

// Feature is kernel/nccl.
type Feature struct {
	cfg Config
	env *kernel.Env
	fs  procfs

	progs   *programs
	iter    *link.Iter
	iterOf  *ebpf.Program
	single  *tasks.Files // the same over one process; nil: the kernel cannot
	ring    *ringbuf.Reader
	refused error                             // why uprobe_multi is not used
	blind   error                             // why the iterator is not used
	deny    func(mechanism string) error      // for tests: what the kernel refuses
	only    func(pid int32) bool              // for tests: the processes that there are
	took    func(time.Duration) time.Duration // for tests: what a look took

	libs   map[fileKey]*library
	failed map[fileKey]failure
	procs  map[int32]*process
	gpus   map[int32][]int // as of when they were last known
	known  bool            // which processes are on GPUs
	// limited are the processes that have a limit of their own in the kernel.
	limited map[int32]bool
	buses   map[uint64]int
	gpuSeq  uint64

	scans  []int64 // boot ms of looks to come
	scanAt int64   // of the next regular one
	// When the last piece of one was, and what it took.
	scannedMs, tookMs int64
	hunt              hunt
	piece             piece
	rowAt             int64
	weighAt           int64

	rec  ringbuf.Record
	from map[int32]int // events of each process at this tick
	mem  reader
	patience
	rows   rows
	load   kernel.Load
	costs  [2]float64 // of a call, plain and stepped over
	bad    uint64     // events that made no sense
	over   uint64     // processes and communicators beyond the bounds
	hidden int        // processes on GPUs that use NCCL out of sight
	lost   bool       // some process could not be read for want of privilege
	capped bool       // there are more libraries than MaxLibraries

	mu   sync.Mutex
	seen map[int32]view // for Visibility
}

// failure is a file that got no probes.
type failure struct {
	until int64 // boot ms
	why   error
	plain bool // it has no collectives: nothing is wrong
}

// process is a process with a library mapped.
type process struct {
	pid     int32
	start   uint64
	lib     *library
	comms   map[uint64]*comm
	inits   []*comm // whose address is not known yet
	splits  map[uint64]uint32
	hides   bool // uses NCCL, and no library of it is visible
	checked int64

	calls, ns uint64 // since it was weighed
	hotMs     int64  // boot ms until which it gets no probes of its own
	shunned   bool   // its memory does not answer
}

var (
	_ kernel.Feature = (*Feature)(nil)
	_ kernel.Meter   = (*Feature)(nil)
)

// New returns the feature. Nothing is loaded before Start.
func New(cfg Config) *Feature {
	if cfg.RowEvery <= 0 {
		cfg.RowEvery = 10 * time.Second
	}
	if cfg.ScanEvery <= 0 {
		cfg.ScanEvery = 30 * time.Second
	}
	if cfg.DetachAfter <= 0 {
		cfg.DetachAfter = 10 * time.Minute
	}
	if cfg.PauseFor <= 0 {
		cfg.PauseFor = 10 * time.Minute
	}
	if cfg.MaxLibraries <= 0 {
		cfg.MaxLibraries = 32
	}
	if cfg.MaxRate <= 0 {
		cfg.MaxRate = 50_000
	}
	return &Feature{cfg: cfg, deny: func(string) error { return nil }, only: func(int32) bool { return true },
		took: func(d time.Duration) time.Duration { return d }, patience: patience{wait: patienceFor}, piece: onePiece()}
}

// Name returns "nccl".
func (f *Feature) Name() string { return "nccl" }

// Every is a second: events are taken up soon, so that the memory of a communicator is read
// while it is there. Rows come every Config.RowEvery.
func (f *Feature) Every() time.Duration { return time.Second }

// Start loads the programs. Libraries are found by the first Sample.
func (f *Feature) Start(ctx context.Context, env *kernel.Env) kernel.Report {
	if err := kernel.HostPIDs(); err != nil {
		return kernel.Unavailable(err.Error(), err)
	}
	keep := *env
	keep.BTF = nil // it is as large as the kernel's types, and Start's alone
	f.env, f.fs = &keep, procfs{keep.Procfs}
	f.libs, f.failed, f.procs, f.from = map[fileKey]*library{}, map[fileKey]failure{}, map[int32]*process{}, map[int32]int{}
	f.limited, f.gpus, f.known = map[int32]bool{}, nil, false
	if env.Processes != nil {
		_, _, f.known = env.Processes.GPUProcesses()
	}
	f.rows.init(f)
	f.scans, f.scanAt, f.rowAt, f.weighAt, f.gpuSeq, f.load = nil, 0, 0, 0, 0, kernel.Load{}
	f.scannedMs, f.tookMs, f.hunt = 0, 0, hunt{}
	f.costs = [2]float64{plainNs, stepNs}
	progs, refused, err := load(bpf.LoadNccl, env.Options(), f.deny)
	f.refused = refused
	if err != nil {
		if refused == nil || kernel.Errno(err) != 0 {
			refused = err
		}
		if verdict, ok := errors.AsType[*ebpf.VerifierError](err); ok {
			return kernel.Unavailable("the kernel's verifier does not accept the programs: "+verdict.Error(), err)
		}
		return kernel.Unavailable("programs at functions of user space are refused: "+probe.Help(probe.UprobeMulti)+", or "+probe.Help(probe.Uprobe), refused)
	}
	f.progs = progs
	if f.ring, err = ringbuf.NewReader(progs.coll.Maps["events"]); err != nil {
		_ = f.Close() // the first error counts
		return kernel.Unavailable("the ring of events cannot be read", err)
	}
	f.ring.SetDeadline(time.Unix(1, 0)) // reads never wait
	f.blind = f.startIter(env)
	if ctx.Err() == nil && progs.multi {
		f.calibrate(ctx)
	}
	return f.report()
}

// calibrate measures what a call costs on this host, with few calls.
func (f *Feature) calibrate(ctx context.Context) {
	plain, step, err := probe.Calibrate(ctx)
	if err != nil {
		f.env.Log.Debug("cost of a probe not measured", slog.String("error", err.Error()))
		return
	}
	f.costs = [2]float64{plain, step}
}

func (f *Feature) startIter(env *kernel.Env) error {
	if err := f.deny(probe.IterVMA); err != nil {
		return err
	}
	spec, err := bpf.LoadMaps()
	if err != nil {
		return err
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, env.Options())
	if err != nil {
		return err
	}
	f.iterOf = coll.Programs[bpf.MapsProgMappings]
	if f.iter, err = link.AttachIter(link.IterOptions{Program: f.iterOf}); err != nil {
		coll.Close()
		f.iterOf = nil
		return err
	}
	if f.single = tasks.New(f.iterOf, env.BTF); !f.single.Single() {
		f.single = nil
	}
	return nil
}

// Close takes all probes out.
func (f *Feature) Close() error {
	var errs []error
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, l := range f.libs {
		all.Go(func() {
			err := l.close()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	all.Wait()
	f.libs, f.procs, f.failed = nil, nil, nil
	f.abandon()
	if f.ring != nil {
		errs = append(errs, f.ring.Close())
		f.ring = nil
	}
	if f.iter != nil {
		errs = append(errs, f.iter.Close())
		f.iter = nil
	}
	if f.iterOf != nil {
		errs = append(errs, f.iterOf.Close())
		f.iterOf, f.single = nil, nil
	}
	if f.progs != nil {
		f.progs.close()
		f.progs = nil
	}
	f.publish()
	return errors.Join(errs...)
}

// Sample takes up what happened; every RowEvery it tells what was counted.
func (f *Feature) Sample(ctx context.Context, t source.Tick, out source.Sink) kernel.Report {
	f.look(t)
	if err := f.discover(ctx, t.BootMs); err != nil {
		return kernel.Degraded("libraries cannot be looked for: "+err.Error(), err, "")
	}
	f.mem.left = readATick
	ended := f.take(t.BootMs)
	f.resolve(t.BootMs)
	if ended || t.BootMs >= f.rowAt {
		f.rowAt = t.BootMs + f.cfg.RowEvery.Milliseconds()
		if err := f.count(t, out); err != nil {
			return kernel.Degraded("counts cannot be read", err, "")
		}
		f.weigh(t.BootMs)
		f.publish()
	}
	return f.report()
}

// look takes over which processes are on which GPUs.
func (f *Feature) look(t source.Tick) {
	if f.env.Devices != nil {
		if list, ok := f.env.Devices.GPUDevices(); ok && (f.buses == nil || len(f.buses) != len(list)) {
			f.buses = make(map[uint64]int, len(list))
			for i := range list {
				if n, fine := busNumber(list[i].PCIBusID); fine {
					f.buses[n] = list[i].Index
				}
			}
			if len(f.buses) == 0 {
				f.buses = nil // addresses are not known
			}
		}
	}
	if f.env.Processes == nil {
		return
	}
	list, seq, ok := f.env.Processes.GPUProcesses()
	f.known = ok
	if !ok && len(list) == 0 || seq == f.gpuSeq && f.gpus != nil {
		return
	}
	f.gpuSeq = seq
	before := f.gpus
	f.gpus = make(map[int32][]int, len(list))
	fresh := false
	for _, p := range list {
		if !slices.Contains(f.gpus[p.PID], p.GPU) {
			f.gpus[p.PID] = append(f.gpus[p.PID], p.GPU)
		}
		_, was := before[p.PID]
		fresh = fresh || !was
	}
	if !ok { // they may be on a GPU that is not listed now
		for pid, on := range before {
			if _, is := f.gpus[pid]; is {
				continue
			}
			if _, runs := f.fs.start(pid); runs {
				f.gpus[pid] = on
			}
		}
	}
	if fresh {
		f.soon(t.BootMs)
	}
}

// soon has libraries looked for now and some moments later: programs load them a while
// after they were started.
func (f *Feature) soon(bootMs int64) {
	f.scans = f.scans[:0]
	f.scans = append(f.scans, bootMs)
	for _, ms := range followMs {
		f.scans = append(f.scans, bootMs+ms)
	}
}

// report says what is seen, and why not more.
func (f *Feature) report() kernel.Report {
	var why []string
	var fallback []string
	var cause error
	if f.progs != nil && !f.progs.multi {
		why, fallback, cause = append(why, "uprobe_multi is refused: "+probe.Help(probe.UprobeMulti)), append(fallback, "uprobes by perf events"), f.refused
	}
	if f.blind != nil {
		why, fallback = append(why, "files are not known by their real inode: "+probe.Help(probe.IterVMA)), append(fallback, "/proc/PID/maps, by size, time and build id of files")
		if cause == nil {
			cause = f.blind
		}
	}
	refusals := 0
	var example string
	for _, bad := range f.failed {
		if bad.plain {
			continue
		}
		refusals++
		if text := bad.why.Error(); example == "" || text < example { // the same one each time
			example = text
		}
	}
	if refusals > 0 {
		why = append(why, fmt.Sprintf("%d libraries got no probes, as: %s", refusals, strings.ReplaceAll(example, "\n", "; ")))
	}
	paused, calm := 0, 0
	for _, l := range f.libs {
		if l.paused != 0 {
			paused++
			calm += len(l.calm)
		}
	}
	if paused > 0 {
		text := fmt.Sprintf("%d libraries are called more than %.0f times a second, or cost more than %.1f %% of a core a process, and lost their probes for %v",
			paused, f.cfg.MaxRate, 100*f.maxLoad(), f.cfg.PauseFor)
		if calm > 0 {
			text += fmt.Sprintf(", but for %d processes that call them in measure", calm)
		}
		why = append(why, text)
	}
	if n := f.stuck.Load(); n > 0 {
		why = append(why, fmt.Sprintf("the memory or library of %d processes does not answer when it is read: their communicators or calls are not known", n))
	}
	if f.capped {
		why = append(why, fmt.Sprintf("there are more than %d libraries, or more than %d in one process; the rest has no probes", f.cfg.MaxLibraries, filesEach))
	}
	if f.hunt.pieces > 1 && f.hunt.on {
		why = append(why, "looking for libraries takes long, as processes have very many mappings: those of processes on GPUs come first, and the rest later")
	}
	if !f.known {
		why = append(why, "it is not known which processes are on GPUs: NCCL that is linked into a program, or hidden, is not noticed until the driver lists them")
	}
	if f.hidden > 0 {
		why = append(why, fmt.Sprintf("NCCL is not visible in %d processes on GPUs that use it: it is linked into the program, or its symbols are hidden", f.hidden))
	}
	if f.lost {
		why = append(why, "some processes cannot be read: needs CAP_SYS_PTRACE")
	}
	if len(why) == 0 {
		return kernel.Active()
	}
	return kernel.Degraded(strings.Join(why, "; "), cause, strings.Join(fallback, " and "))
}

// Load tells what the probes took.
func (f *Feature) Load() kernel.Load { return f.load }

// view is what Visibility says.
type view struct {
	what string
	by   wire.Source
}

// Visibility says whether the collectives of a process can be counted: "visible",
// "not_visible", or "" where that is not known; and which way its library was found, or
// what it makes without. It may be asked by any goroutine.
func (f *Feature) Visibility(pid int32) (what string, by wire.Source) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.seen[pid]
	return v.what, v.by
}

func (f *Feature) publish() {
	seen := make(map[int32]view, len(f.procs))
	hidden := 0
	by := wire.SourceEBPF
	if f.iter == nil {
		by = wire.SourceProcfs
	}
	for pid, p := range f.procs {
		switch {
		case p.lib != nil && p.lib.paused == 0:
			seen[pid] = view{"visible", by}
		case p.hides:
			seen[pid] = view{"not_visible", wire.SourceProcfs}
			hidden++
		}
	}
	f.hidden = hidden
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = seen
}

// denied reports whether an error is for want of privilege.
func denied(err error) bool { return errors.Is(err, fs.ErrPermission) }

// closed reports whether it is the process that may not be looked into, and not a file of it.
func closed(err error) bool { return denied(err) && !errors.Is(err, errKept) }
