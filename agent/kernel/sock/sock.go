package sock

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Fields of wire.KindTCP and wire.KindFact.
const (
	fieldTs          = 1
	fieldPeer        = 2
	fieldJobSource   = 3
	fieldJobID       = 4
	fieldTx          = 10
	fieldRx          = 11
	fieldRetransmits = 12
	fieldConnections = 13

	factSubject = 2
	factName    = 3
	factValue   = 10
)

const (
	maxRows   = 2048
	maxWaits  = 8192 // rows that come with later looks
	maxOwners = 4096 // processes, and groups, whose jobs are remembered
	keepLooks = 64   // for how many looks past their end
	share     = 500  // a look may take one part in so many of the time
	slowest   = 2 * time.Minute
	addressMs = 60_000    // the host's addresses are looked at
	againMs   = 3_600_000 // and told again
	maxAddrs  = 64
)

// Config of the feature. Zero values are the defaults.
type Config struct {
	Every time.Duration // between looks; default 10 s
	All   bool          // sockets of all processes, not only those of GPU jobs
	NoBPF bool          // ask by netlink even where BPF works

	sums uint32 // most sums, for tests; default: as compiled
}

// Feature is "sock".
type Feature struct {
	cfg   Config
	env   *kernel.Env
	watch *tasks.Watch
	by    looker
	every time.Duration
	took  time.Duration // of a processor, by the last look

	jobs   map[uint32]owner // of processes, kept past their end
	groups map[uint64]owner // of control groups that name a job, as well
	sums   map[rowKey]*row
	list   []*row
	looks  uint64
	left   uint64 // rows that were left out
	lately uint64 // of them, by the last look
	why    kernel.Report
	facts  []netip.Addr // as told
	toldMs int64
	lookMs int64
	fresh  []netip.Addr
	cur    *row
	at     source.Tick
	fill   func(b *wire.Builder)
}

var (
	_ kernel.Feature = (*Feature)(nil)
	_ kernel.Meter   = (*Feature)(nil)
)

// looker is one way to read the counters.
type looker interface {
	// look hands over what moved since the last one. known is false while it is not known
	// which processes are watched.
	look(ctx context.Context, list []*tasks.Process, groups map[uint64]source.Job, add func(sum)) error
	// addresses are those that watched sockets have.
	addresses(each func(netip.Addr))
	// report says what it cannot see.
	report() kernel.Report
	load() kernel.Load
	close() error
}

// sum is what sockets of one owner moved towards a peer.
type sum struct {
	group       uint64
	tgid        uint32
	peer        netip.Addr
	tx, rx      uint64
	retransmits uint64
	connections uint64
}

// owner is whose a process or a group is.
type owner struct {
	job   source.Job
	group uint64 // of a process
	look  uint64 // the last at which it was watched
}

type rowKey struct {
	peer netip.Addr
	job  source.Job
}

type row struct {
	rowKey
	tx, rx, retransmits, connections uint64
	look                             uint64 // of connections: those of one look are told
}

// New returns the feature.
func New(cfg Config) *Feature {
	if cfg.Every <= 0 {
		cfg.Every = 10 * time.Second
	}
	f := &Feature{cfg: cfg, every: cfg.Every, jobs: map[uint32]owner{}, groups: map[uint64]owner{}, sums: map[rowKey]*row{}}
	f.fill = f.fillRow
	return f
}

// Name returns "sock".
func (f *Feature) Name() string { return "sock" }

// Every is how far looks are apart: more than configured where they are costly.
func (f *Feature) Every() time.Duration { return f.every }

// Start loads the programs, or falls back to netlink.
func (f *Feature) Start(_ context.Context, env *kernel.Env) kernel.Report {
	f.env, f.every = env, f.cfg.Every
	f.watch = tasks.NewWatch(env.Procfs, env.Processes, env.Jobs, true)
	f.why = kernel.Active()
	var err error
	if !f.cfg.NoBPF {
		if err = kernel.HostPIDs(); err == nil {
			var b *bpf
			if b, err = open(env, f.cfg); err == nil {
				f.by = b
				return f.report(true)
			}
			err = tasks.Refused(err)
		}
	}
	d, derr := newDiag(env.Procfs, f.cfg.All)
	if derr != nil {
		return kernel.Unavailable("neither BPF programs nor sock_diag work; needs a kernel of 5.12 with BTF, CAP_BPF and CAP_PERFMON", cmp.Or(err, derr))
	}
	f.why = kernel.InPlace("a kernel of 5.12 with BTF, CAP_BPF and CAP_PERFMON", err, "sock_diag, which misses what moves between the last look and a close")
	f.by = d
	return f.report(true)
}

// Close gives back what the feature holds.
func (f *Feature) Close() error {
	if f.by == nil {
		return nil
	}
	err := f.by.close()
	f.by = nil
	clear(f.jobs)
	clear(f.groups)
	clear(f.sums)
	return err
}

// Load implements kernel.Meter.
func (f *Feature) Load() kernel.Load {
	if f.by == nil {
		return kernel.Load{}
	}
	l := f.by.load()
	l.Counts = append(l.Counts, kernel.Count{Name: "rows_left_out", Value: f.left})
	return l
}

// Sample puts a row for each peer and job between which something moved.
func (f *Feature) Sample(ctx context.Context, t source.Tick, out source.Sink) kernel.Report {
	list, known := f.watch.Look()
	f.remember(list)
	var err error
	f.pace(tasks.Cost(func() { err = f.by.look(ctx, list, f.watch.Groups(), f.add) }) + f.watch.Took())
	f.at = t
	f.put(out) // what was read is told, whatever became of the rest
	if err != nil {
		return kernel.Degraded("the counters could not be read fully", err, f.why.Fallback)
	}
	f.tellAddresses(t, out)
	return f.report(known)
}

// remember keeps whose processes and groups are: what their last sockets moved comes when
// they have ended.
func (f *Feature) remember(list []*tasks.Process) {
	f.looks++
	for _, p := range list {
		f.jobs[uint32(p.PID)] = owner{p.Job, p.Group, f.looks}
	}
	for id, job := range f.watch.Groups() {
		f.groups[id] = owner{job, id, f.looks}
	}
	forget(f.jobs, f.looks)
	forget(f.groups, f.looks)
}

// forget takes out what has ended long ago, or, of too many, all that has.
func forget[K comparable](of map[K]owner, look uint64) {
	most := uint64(keepLooks)
	if len(of) > maxOwners {
		most = 0
	}
	for k, o := range of {
		if look-o.look > most {
			delete(of, k)
		}
	}
}

// jobOf is whose a sum is. A number of a process may be another's by now, one of a group is
// not given twice.
func (f *Feature) jobOf(s sum) source.Job {
	p := f.jobs[s.tgid]
	if g, ok := f.groups[s.group]; ok && (p.group != s.group || p.job == source.Job{}) {
		return g.job
	}
	return p.job
}

// pace sets the time to the next look by what this one took.
func (f *Feature) pace(took time.Duration) {
	f.took = took
	f.every = min(max(f.cfg.Every, took*share), max(slowest, f.cfg.Every))
}

func (f *Feature) report(known bool) kernel.Report {
	r := f.by.report()
	if f.why.State != source.Active { // the way back: what that cannot see comes on top
		if why := r.Why; why != "" {
			r.Why = f.why.Why + "; and " + why
		} else {
			r = f.why
		}
		r.State, r.Fallback = f.why.State, f.why.Fallback
	}
	if f.lately > 0 {
		why := strconv.FormatUint(f.lately, 10) + " rows of too many peers were left out, those with the fewest bytes"
		if r.Why != "" {
			why = r.Why + "; and " + why
		}
		r.State, r.Why = source.Degraded, why
	}
	switch {
	case r.State != source.Active:
	case !known && !f.cfg.All:
		r = kernel.Degraded("it is not known which processes are on GPUs: nothing is counted until the driver lists them", nil, "")
	case f.watch.Over() > 0:
		r = kernel.Degraded("more processes than are watched: "+strconv.Itoa(f.watch.Over())+" are left out", nil, "")
	}
	return r
}

// add takes one sum in.
func (f *Feature) add(s sum) {
	k := rowKey{peer: s.peer.Unmap(), job: f.jobOf(s)}
	r := f.sums[k]
	if r == nil {
		r = &row{rowKey: k}
		f.sums[k] = r
	}
	if r.look != f.looks {
		r.look, r.connections = f.looks, 0
	}
	r.tx += s.tx
	r.rx += s.rx
	r.retransmits += s.retransmits
	r.connections += s.connections
}

// put writes the rows; of too many, those with the most bytes. The others come later, with
// what is added to them till then.
func (f *Feature) put(out source.Sink) {
	f.list = f.list[:0]
	for k, r := range f.sums {
		if r.tx != 0 || r.rx != 0 || r.retransmits != 0 {
			f.list = append(f.list, r)
		} else {
			delete(f.sums, k)
		}
	}
	slices.SortFunc(f.list, func(a, b *row) int {
		return cmp.Or(cmp.Compare(b.tx+b.rx, a.tx+a.rx), a.peer.Compare(b.peer), strings.Compare(a.job.Source, b.job.Source), strings.Compare(a.job.ID, b.job.ID))
	})
	f.lately = 0
	if n := len(f.list) - maxRows - maxWaits; n > 0 {
		f.lately = uint64(n)
		f.left += f.lately
		for _, r := range f.list[maxRows+maxWaits:] {
			delete(f.sums, r.rowKey)
		}
	}
	clear(f.list[min(len(f.list), maxRows):])
	f.list = f.list[:min(len(f.list), maxRows)]
	for _, r := range f.list {
		delete(f.sums, r.rowKey)
	}
	src := wire.SourceEBPF
	if f.why.State != source.Active {
		src = wire.SourceProcfs
	}
	for _, f.cur = range f.list {
		out.Row(wire.KindTCP, src, "", nil, f.fill)
	}
	clear(f.list)
}

func (f *Feature) fillRow(b *wire.Builder) {
	r := f.cur
	b.SetInt(fieldTs, f.at.WallMs)
	b.SetStr(fieldPeer, r.peer.String())
	b.SetStr(fieldJobSource, r.job.Source)
	b.SetStr(fieldJobID, r.job.ID)
	b.SetInt(fieldTx, int64(r.tx))
	b.SetInt(fieldRx, int64(r.rx))
	b.SetInt(fieldRetransmits, int64(r.retransmits))
	b.SetInt(fieldConnections, int64(r.connections))
}

// tellAddresses tells own addresses when they have changed, and every hour.
func (f *Feature) tellAddresses(t source.Tick, out source.Sink) {
	if f.toldMs != 0 && t.BootMs-f.lookMs < addressMs {
		return
	}
	f.lookMs = t.BootMs
	f.fresh = hostAddresses(f.fresh[:0])
	f.by.addresses(func(a netip.Addr) {
		if a = a.Unmap(); useful(a) {
			f.fresh = append(f.fresh, a)
		}
	})
	slices.SortFunc(f.fresh, netip.Addr.Compare)
	f.fresh = slices.Compact(f.fresh)
	f.fresh = f.fresh[:min(len(f.fresh), maxAddrs)]
	if f.toldMs != 0 && t.BootMs-f.toldMs < againMs && slices.Equal(f.fresh, f.facts) {
		return
	}
	for i := range max(len(f.fresh), len(f.facts)) {
		value := ""
		if i < len(f.fresh) {
			value = f.fresh[i].String()
		}
		out.Row(wire.KindFact, wire.SourceProcfs, "", nil, func(b *wire.Builder) {
			b.SetInt(fieldTs, t.WallMs)
			b.SetStr(factSubject, subject(i))
			b.SetStr(factName, "address")
			if value != "" {
				b.SetStr(factValue, value)
			}
		})
	}
	f.facts, f.toldMs = append(f.facts[:0], f.fresh...), max(t.BootMs, 1)
}

// subject tells the addresses of a host apart: a fact has one value.
func subject(i int) string {
	if i == 0 {
		return "host"
	}
	return "host/" + strconv.Itoa(i)
}
