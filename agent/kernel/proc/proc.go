package proc

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Fields of wire.KindFact.
const (
	fieldTs      = 1
	fieldSubject = 2
	fieldName    = 3
	fieldValue   = 10
)

const (
	listMs   = 5_000     // between looks at which processes are on GPUs
	share    = 500       // looking at them may take one part in so many of the time
	openMs   = 30_000    // between looks at who holds a GPU open
	againMs  = 3_600_000 // facts are told again
	maxEvent = 4096      // that are taken at one look
	unified  = "nvidia-uvm"
)

// Config of the feature. Zero values are the defaults.
type Config struct {
	Every time.Duration // between looks at events; default 1 s
	NoBPF bool          // poll even where BPF works

	// majors are the numbers of GPU devices, for tests: of the devices, and of that of
	// unified memory. Default: what /proc/devices says of NVIDIA's.
	majors []uint32
	uvm    uint32
	ring   uint32 // bytes, for tests; default: as compiled
}

// Feature is "proc".
type Feature struct {
	cfg    Config
	env    *kernel.Env
	watch  *tasks.Watch
	by     looker
	why    kernel.Report
	inner  bool // the agent sees the processes of its own namespace alone
	queues []*Queue

	majors   []uint32
	uvm      uint32
	list     []*tasks.Process
	listAt   int64
	listed   bool
	known    bool
	openAt   int64
	opened   bool
	hidden   int // openers that are not listed, at the last look
	facts    [3]int
	toldMs   int64
	openErr  error
	openings []opener
	taken    uint64
}

var (
	_ kernel.Feature = (*Feature)(nil)
	_ kernel.Meter   = (*Feature)(nil)
)

// looker is one way to see processes come and go.
type looker interface {
	// aim says which processes and control groups are worth telling of, and the numbers of
	// GPU devices.
	aim(list []*tasks.Process, groups map[uint64]source.Job, majors []uint32) error
	// events hands over what happened since the last call.
	events(nowNs uint64, each func(Event)) error
	// openers finds who has a GPU open.
	openers(majors []uint32, to []opener) ([]opener, error)
	openEvery() int64 // ms
	source() wire.Source
	report() kernel.Report
	load() kernel.Load
	close() error
}

// opener is an open file of a GPU device.
type opener struct {
	file   uint64 // equal where it was inherited; 0: not known
	pid    int32
	parent int32
	major  uint32
}

// New returns the feature.
func New(cfg Config) *Feature {
	if cfg.Every <= 0 {
		cfg.Every = time.Second
	}
	return &Feature{cfg: cfg}
}

// Subscribe returns a queue of all events from now on. It is called before the feature
// runs.
func (f *Feature) Subscribe() *Queue {
	q := &Queue{}
	f.queues = append(f.queues, q)
	return q
}

// Exits returns the ends of processes from now on, for agent/job. It is called before the
// feature runs.
func (f *Feature) Exits() *Exits {
	q := &Queue{exits: true}
	f.queues = append(f.queues, q)
	return &Exits{q: q}
}

// Name returns "proc".
func (f *Feature) Name() string { return "proc" }

// Every is how often events are looked for.
func (f *Feature) Every() time.Duration { return f.cfg.Every }

// Start loads the programs, or falls back to polling.
func (f *Feature) Start(_ context.Context, env *kernel.Env) kernel.Report {
	f.env, f.listed, f.opened, f.toldMs = env, false, false, 0
	f.watch = tasks.NewWatch(env.Procfs, env.Processes, env.Jobs, false)
	f.why = kernel.Active()
	inner := kernel.HostPIDs()
	f.inner = inner != nil
	var err error
	if !f.cfg.NoBPF {
		if err = inner; err == nil {
			var b *bpf
			if b, err = open(env, f.cfg.ring); err == nil {
				f.by = b
				return f.why
			}
			err = tasks.Refused(err)
		}
	}
	f.by = newPoll(env.Procfs)
	f.why = kernel.InPlace("a kernel of 5.8 with BTF, CAP_BPF and CAP_PERFMON", err, "pidfds and /proc, which miss what lives between two looks")
	return f.why
}

// Close gives back what the feature holds. Queues keep what is in them.
func (f *Feature) Close() error {
	if f.by == nil {
		return nil
	}
	err := f.by.close()
	f.by, f.list, f.openings = nil, nil, nil
	return err
}

// Load implements kernel.Meter.
func (f *Feature) Load() kernel.Load {
	if f.by == nil {
		return kernel.Load{}
	}
	l := f.by.load()
	l.Counts = append(l.Counts, kernel.Count{Name: "events", Value: f.taken})
	return l
}

// Sample hands events to the queues, and puts facts.
func (f *Feature) Sample(_ context.Context, t source.Tick, out source.Sink) kernel.Report {
	var err error
	if !f.listed || t.BootMs-f.listAt >= max(listMs, share*f.watch.Took().Milliseconds()) {
		f.list, f.known = f.watch.Look()
		f.listed, f.listAt = true, t.BootMs
		f.majors, f.uvm = f.cfg.majors, f.cfg.uvm
		if len(f.majors) == 0 {
			f.majors, f.uvm = devices(f.env.Procfs)
		}
		err = f.by.aim(f.list, f.watch.Groups(), f.majors)
	}
	if eerr := f.by.events(uint64(max(t.BootMs, 0))*1e6, f.give); err == nil {
		err = eerr
	}
	if !f.opened || t.BootMs-f.openAt >= max(openMs, f.by.openEvery()) {
		f.opened, f.openAt = true, t.BootMs
		f.lookAtOpeners(t, out)
	}
	if err != nil {
		return kernel.Degraded("events could not be read fully", err, f.why.Fallback)
	}
	return f.report()
}

func (f *Feature) give(e Event) {
	f.taken++
	for _, q := range f.queues {
		q.put(e)
	}
}

func (f *Feature) report() kernel.Report {
	if f.why.State != source.Active { // the way back: what that cannot see comes on top
		r := f.why
		var also string
		switch {
		case f.inner:
			also = "who holds a GPU of the host open cannot be told"
		case f.openErr != nil:
			also = "it is not known who holds a GPU open: " + f.openErr.Error()
		case !f.known:
			also = "it is not known which processes are on GPUs"
		case f.watch.Over() > 0:
			also = strconv.Itoa(f.watch.Over()) + " processes are left out"
		default:
			also = f.by.report().Why
		}
		if also != "" {
			r.Why += "; and " + also
		}
		return r
	}
	switch {
	case f.openErr != nil:
		return kernel.Degraded("it is not known who holds a GPU open", f.openErr, "")
	case !f.known:
		return kernel.Degraded("it is not known which processes are on GPUs: only ends of those that hold one open are told", nil, "")
	case f.watch.Over() > 0:
		return kernel.Degraded(strconv.Itoa(f.watch.Over())+" processes are left out", nil, "")
	}
	return f.by.report()
}

// lookAtOpeners tells how many processes hold a GPU open.
func (f *Feature) lookAtOpeners(t source.Tick, out source.Sink) {
	f.openErr = nil
	if len(f.majors) == 0 {
		return // no driver: nothing to hold, and nothing to tell
	}
	if f.inner {
		return // those of this namespace are not the host's
	}
	f.openings, f.openErr = f.by.openers(f.majors, f.openings[:0])
	if f.openErr != nil {
		return
	}
	all, compute, unlisted := f.tally()
	// One look may fall between a process's start and the driver's next list. Where the list is
	// not whole, who is not on it hides from nobody.
	hidden, before := -1, f.hidden
	f.hidden = 0
	if f.known && f.watch.Over() == 0 {
		hidden, f.hidden = min(unlisted, before), unlisted
	}
	now := [3]int{all, compute, hidden}
	if f.toldMs != 0 && now == f.facts && t.BootMs-f.toldMs < againMs {
		return
	}
	names := [3]string{"gpu_openers", "gpu_openers_compute", "gpu_openers_unlisted"}
	for i, name := range names {
		if now[i] < 0 {
			continue
		}
		out.Row(wire.KindFact, f.by.source(), "", nil, func(b *wire.Builder) {
			b.SetInt(fieldTs, t.WallMs)
			b.SetStr(fieldSubject, "host")
			b.SetStr(fieldName, name)
			b.SetStr(fieldValue, strconv.Itoa(now[i]))
		})
	}
	f.facts, f.toldMs = now, max(t.BootMs, 1)
}

// tally counts the openers, those that can compute, and those of these that are not listed.
func (f *Feature) tally() (all, compute, unlisted int) {
	self := int32(os.Getpid())
	listed := func(pid int32) bool { p := f.watch.Of(pid); return p != nil && p.GPU }
	shared := map[uint64]bool{} // files that a listed process has
	for _, o := range f.openings {
		if o.file != 0 && listed(o.pid) {
			shared[o.file] = true
		}
	}
	type who struct{ compute, listed bool }
	seen := map[int32]who{}
	for _, o := range f.openings {
		if o.pid == self || o.parent == self {
			continue // the agent, and its child that asks the driver
		}
		w := seen[o.pid]
		w.compute = w.compute || f.uvm != 0 && o.major == f.uvm
		w.listed = w.listed || listed(o.pid) || shared[o.file] || o.file == 0 && listed(o.parent)
		seen[o.pid] = w
	}
	for _, w := range seen {
		all++
		if w.compute {
			compute++
			if !w.listed {
				unlisted++
			}
		}
	}
	return all, compute, unlisted
}

// devices reads the numbers of NVIDIA's character devices from /proc/devices, and that of
// unified memory, which has one of its own.
func devices(procfs string) (majors []uint32, uvm uint32) {
	b, err := os.ReadFile(procfs + "/devices")
	if err != nil {
		return nil, 0
	}
	return parseDevices(b)
}

// String is for logs.
func (k Kind) String() string {
	switch k {
	case Exec:
		return "exec"
	case Exit:
		return "exit"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}
