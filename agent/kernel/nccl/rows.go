package nccl

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"syscall"

	"github.com/cilium/ebpf"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Fields of wire.KindCollective.
const (
	fieldTs     = 1
	fieldPID    = 2
	fieldGPU    = 3
	fieldComm   = 4
	fieldOp     = 5
	fieldRanks  = 10
	fieldRank   = 11
	fieldCalls  = 12
	fieldBytes  = 13
	fieldDtypes = 14
	fieldHash   = 15
	fieldFirst  = 16
	fieldLast   = 17
	fieldParent = 18
)

// statKey and stat are what the kernel's map holds.
type statKey struct {
	TGID  uint32
	Func  uint8
	Dtype uint8
	_     uint16
	Comm  uint64
}

type stat struct {
	Calls, Bytes, FirstNs, LastNs uint64
}

const (
	maxStats  = 10240
	maxKeys   = 512          // of a process, as bpf/nccl has it
	leastKeys = 8            // and the least of one on a GPU
	guestKeys = maxStats / 4 // of all that are on no GPU
	batchKeys = 512
)

// rowKey is a row of one moment.
type rowKey struct {
	pid  int32
	gpu  int
	comm string
	op   string
}

// way is one direction of a row: sends and receives are told as one operation.
type way struct {
	calls, bytes uint64
	dtypes       [len(dtypes)]uint64
	vague        bool // bytes are not known of all calls
}

type row struct {
	key             rowKey
	c               *comm
	rank            int32 // -1: not known, or several
	ways            [2]way
	firstNs, lastNs uint64
}

// rows are of one moment. Memory is kept for the next one.
type rows struct {
	keys  []statKey
	stats []stat
	told  map[statKey]stat // what was told of each key
	open  map[rowKey]int
	list  []row
	text  []byte
	cur   *row
	tsMs  int64
	clock *kernel.Clock
	fill  func(b *wire.Builder)
	calls uint64 // since the last weighing, and what they took
	ns    float64
}

func (r *rows) init(f *Feature) {
	*r = rows{told: map[statKey]stat{}, open: map[rowKey]int{}, clock: f.env.Clock}
	r.fill = r.fillRow
}

// read takes all keys out of the kernel's map.
func (r *rows) read(m *ebpf.Map) error {
	for size := batchKeys; ; size *= 2 {
		err := r.readBy(m, size)
		if err == nil {
			return nil
		}
		if size < 2*maxStats && errors.Is(err, syscall.ENOSPC) {
			continue
		}
		return r.readEach(m)
	}
}

func (r *rows) readBy(m *ebpf.Map, size int) error {
	r.keys, r.stats = r.keys[:0], r.stats[:0]
	var cursor ebpf.MapBatchCursor
	for {
		n := len(r.keys)
		r.keys, r.stats = slices.Grow(r.keys, size)[:n+size], slices.Grow(r.stats, size)[:n+size]
		got, err := m.BatchLookup(&cursor, r.keys[n:], r.stats[n:], nil)
		r.keys, r.stats = r.keys[:n+got], r.stats[:n+got]
		if errors.Is(err, ebpf.ErrKeyNotExist) || len(r.keys) > 2*maxStats {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readEach is for kernels without batches.
func (r *rows) readEach(m *ebpf.Map) error {
	r.keys, r.stats = r.keys[:0], r.stats[:0]
	var k statKey
	var v stat
	each := m.Iterate()
	for each.Next(&k, &v) && len(r.keys) < 2*maxStats {
		r.keys, r.stats = append(r.keys, k), append(r.stats, v)
	}
	return each.Err()
}

// count tells what was counted since the last time, and clears what has ended.
func (f *Feature) count(t source.Tick, out source.Sink) error {
	r := &f.rows
	stats := f.progs.coll.Maps["stats"]
	if err := r.read(stats); err != nil {
		return fmt.Errorf("read counts: %w", err)
	}
	dead := f.gone()
	for i := range r.keys { // what is called for the first time is looked at before it is told
		pid := int32(r.keys[i].TGID)
		if dead[pid] {
			continue
		}
		p := f.procs[pid]
		if p == nil {
			p = f.process(pid)
		}
		if p != nil {
			f.know(p, r.keys[i].Comm, t.BootMs)
		}
	}
	f.resolve(t.BootMs)
	clear(r.open)
	r.list = r.list[:0]
	var drop []statKey
	for i := range r.keys {
		k, v := r.keys[i], r.stats[i]
		pid := int32(k.TGID)
		p := f.procs[pid]
		if p == nil {
			if p = f.process(pid); p == nil {
				if p = f.ghost(pid); p == nil {
					if _, runs := f.fs.start(pid); !runs {
						drop = append(drop, k)
						dead[pid] = true
					}
					continue
				}
				dead[pid] = true
			}
		}
		before := r.told[k]
		if v.Calls < before.Calls { // the key was made anew
			before = stat{}
		}
		c := f.know(p, k.Comm, t.BootMs)
		if c == nil {
			if dead[pid] {
				drop = append(drop, k)
			}
			continue
		}
		if dead[pid] || c.ended {
			drop = append(drop, k)
			p.pair()
			c = p.comms[k.Comm]
			c.settle(p)
		}
		if v.Calls == before.Calls {
			continue
		}
		if c.name == "" {
			if t.BootMs-c.born < hideMs {
				continue // it is being looked at
			}
			c.settle(p)
		}
		r.told[k] = v
		f.add(p, c, k, before, v)
	}
	r.tell(t, out)
	f.clear(stats, drop, dead)
	f.share()
	return nil
}

// gone finds processes that have ended, or whose number another one has by now.
func (f *Feature) gone() map[int32]bool {
	dead := map[int32]bool{}
	for pid, p := range f.procs {
		if start, ok := f.fs.start(pid); !ok || start != p.start {
			dead[pid] = true
		}
	}
	return dead
}

// add puts what a key counted into its row.
func (f *Feature) add(p *process, c *comm, k statKey, before, now stat) {
	calls, bytes := now.Calls-before.Calls, now.Bytes-min(now.Bytes, before.Bytes)
	cost := f.costs[0]
	if p.lib != nil && p.lib.steps[k.Func] {
		cost = f.costs[1]
	}
	took := float64(calls) * cost
	f.rows.calls, f.rows.ns = f.rows.calls+calls, f.rows.ns+took
	p.calls, p.ns = p.calls+calls, p.ns+uint64(took)
	if p.lib != nil {
		p.lib.calls, p.lib.ns = p.lib.calls+calls, p.lib.ns+uint64(took)
	}
	name, byRanks, ok := op(k.Func)
	if !ok {
		return
	}
	r := &f.rows
	key := rowKey{pid: p.pid, gpu: f.gpu(p, c), comm: c.name, op: name}
	i, ok := r.open[key]
	if !ok {
		i = len(r.list)
		r.list = append(r.list, row{key: key, c: c, rank: c.rank, firstNs: now.FirstNs})
		r.open[key] = i
	}
	w := &r.list[i]
	if w.rank != c.rank { // one process has several ranks, and their devices are not known
		w.rank = -1
	}
	w.firstNs, w.lastNs = min(w.firstNs, now.FirstNs), max(w.lastNs, now.LastNs)
	d := &w.ways[0]
	if k.Func == fnRecv {
		d = &w.ways[1]
	}
	d.calls += calls
	if int(k.Dtype) >= len(dtypes) || byRanks && c.nranks <= 0 {
		d.vague = true
		return
	}
	if byRanks {
		bytes *= uint64(c.nranks)
	}
	d.bytes += bytes
	d.dtypes[k.Dtype] += bytes
}

// tell puts the rows out, in an order.
func (r *rows) tell(t source.Tick, out source.Sink) {
	r.tsMs = t.WallMs
	slices.SortFunc(r.list, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.key.pid, b.key.pid), cmp.Compare(a.key.gpu, b.key.gpu),
			cmp.Compare(a.key.comm, b.key.comm), cmp.Compare(a.key.op, b.key.op))
	})
	for i := range r.list {
		r.cur = &r.list[i]
		out.Row(wire.KindCollective, wire.SourceEBPF, "", nil, r.fill)
	}
	r.cur = nil
	for i := range r.list {
		r.list[i].c = nil
	}
}

func (r *rows) fillRow(b *wire.Builder) {
	w := r.cur
	b.SetInt(fieldTs, r.tsMs)
	b.SetInt(fieldPID, int64(w.key.pid))
	b.SetInt(fieldGPU, int64(w.key.gpu))
	b.SetStr(fieldComm, w.key.comm)
	b.SetStr(fieldOp, w.key.op)
	d := &w.ways[0]
	if o := &w.ways[1]; o.bytes > d.bytes || o.bytes == d.bytes && o.calls > d.calls {
		d = o
	}
	b.SetInt(fieldCalls, int64(d.calls))
	if !d.vague {
		b.SetInt(fieldBytes, int64(d.bytes))
		r.text = r.text[:0]
		for i, n := range d.dtypes {
			if n == 0 {
				continue
			}
			if len(r.text) > 0 {
				r.text = append(r.text, ' ')
			}
			r.text = append(append(r.text, dtypes[i]...), ':')
			r.text = strconv.AppendUint(r.text, n, 10)
		}
		if len(r.text) > 0 {
			b.SetStr(fieldDtypes, string(r.text))
		}
	}
	if w.c.nranks > 0 {
		b.SetInt(fieldRanks, int64(w.c.nranks))
	}
	if w.rank >= 0 && w.c.nranks > 0 {
		b.SetInt(fieldRank, int64(w.rank))
	}
	if w.c.hash != 0 {
		b.SetStr(fieldHash, strconv.FormatUint(w.c.hash, 16))
	}
	b.SetInt(fieldFirst, r.clock.WallMs(w.firstNs))
	b.SetInt(fieldLast, r.clock.WallMs(w.lastNs))
	if w.c.parent != nil && w.c.parent.name != "" {
		b.SetStr(fieldParent, w.c.parent.name)
	}
}

// clear takes out of the kernel's maps, and forgets, what has ended.
func (f *Feature) clear(stats *ebpf.Map, drop []statKey, dead map[int32]bool) {
	left := map[int32]int{}
	for i := range f.rows.keys {
		left[int32(f.rows.keys[i].TGID)]++
	}
	touched := map[int32]bool{}
	for _, k := range drop {
		if err := stats.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			f.env.Log.Debug("count not cleared", slog.String("error", err.Error()))
			continue
		}
		delete(f.rows.told, k)
		left[int32(k.TGID)]--
		touched[int32(k.TGID)] = true
	}
	counted := f.progs.coll.Maps["processes"]
	for pid := range touched {
		if dead[pid] {
			continue
		}
		if err := counted.Put(uint32(pid), uint64(max(left[pid], 0))); err != nil {
			f.env.Log.Debug("count of keys not set", slog.String("error", err.Error()))
		}
	}
	for pid := range dead {
		_ = counted.Delete(uint32(pid)) // it may never have called
		if p := f.procs[pid]; p != nil {
			f.leave(p)
		}
		delete(f.procs, pid)
	}
	for _, p := range f.procs {
		for at, c := range p.comms {
			if c.ended {
				delete(p.comms, at)
			}
		}
	}
}

// Kinds of drops, as the kernel's program numbers them.
var dropNames = [...]string{"calls_not_counted", "events_lost", "arguments_unreadable"}

// maxLoad is what probes may take of a process, in parts of a core.
func (f *Feature) maxLoad() float64 {
	if f.env.MaxLoad > 0 {
		return f.env.MaxLoad
	}
	return 0.01
}

// weigh takes probes out of libraries that are called too often, and adds up what they cost.
func (f *Feature) weigh(bootMs int64) {
	passed := float64(max(bootMs-f.weighAt, 1))
	judge := f.weighAt != 0 && passed >= 1000
	f.weighAt = bootMs
	using := 0
	by := map[*library]int{}
	for _, p := range f.procs {
		if p.lib != nil {
			using++
			by[p.lib]++
		}
	}
	for _, l := range f.libs {
		n := float64(max(by[l], 1))
		rate, part := float64(l.calls)*1000/passed, float64(l.ns)/1e6/passed
		if judge && (rate > f.cfg.MaxRate || part > f.maxLoad()*n) {
			f.load.Shed += l.ns
			f.pause(bootMs, l, rate, f.cfg.MaxRate/n*passed/1000, f.maxLoad()*passed*1e6)
		}
		l.calls, l.ns = 0, 0
	}
	for _, p := range f.procs {
		p.calls, p.ns = 0, 0
	}
	r := &f.rows
	p := kernel.Probe{Name: "collectives", Calls: r.calls, Ns: uint64(r.ns)}
	if len(f.load.Probes) == 1 {
		p.Calls, p.Ns = p.Calls+f.load.Probes[0].Calls, p.Ns+f.load.Probes[0].Ns
	}
	r.calls, r.ns = 0, 0
	f.load = kernel.Load{Probes: []kernel.Probe{p}, Processes: using, Counts: f.counts(), Shed: f.load.Shed}
}

// pause takes the probes out of a library. Processes that had more than their share of its
// calls get none before PauseFor is over; the rest gets its own by the next look.
func (f *Feature) pause(bootMs int64, l *library, rate, calls, ns float64) {
	for _, p := range f.procs {
		if p.lib == l && (float64(p.calls) > calls || float64(p.ns) > ns) {
			p.hotMs = bootMs + f.cfg.PauseFor.Milliseconds()
			f.leave(p)
		}
	}
	if l.paused != 0 {
		return // it was one that had probes of its own
	}
	l.paused = bootMs + f.cfg.PauseFor.Milliseconds()
	f.env.Log.Warn("library is called too often and loses its probes", slog.String("library", l.name), slog.Float64("calls_per_second", rate))
	if err := l.close(); err != nil {
		f.env.Log.Warn("probes were not taken out cleanly", slog.String("library", l.name), slog.String("error", err.Error()))
	}
	f.soon(bootMs)
}

// share says who may have how many keys in the kernel's map.
func (f *Feature) share() {
	coll := f.progs.coll
	room := uint64(maxStats)
	if f.gpus != nil {
		room = guestKeys
	}
	guests := uint64(0)
	for i := range f.rows.keys {
		if !f.limited[int32(f.rows.keys[i].TGID)] {
			guests++
		}
	}
	err := errors.Join(coll.Variables["guest_room"].Set(room), coll.Variables["guest_keys"].Set(guests))
	limits := coll.Maps["limits"]
	for pid := range f.limited {
		if _, on := f.gpus[pid]; !on {
			delete(f.limited, pid)
			if derr := limits.Delete(uint32(pid)); !errors.Is(derr, ebpf.ErrKeyNotExist) {
				err = errors.Join(err, derr)
			}
		}
	}
	each := uint64(max(min(maxKeys, (maxStats-guestKeys)/max(len(f.gpus), 1)), leastKeys))
	for pid := range f.gpus {
		if len(f.limited) < maxProcesses || f.limited[pid] {
			f.limited[pid] = true
			err = errors.Join(err, limits.Put(uint32(pid), each))
		}
	}
	if err != nil {
		f.env.Log.Debug("shares of the kernel's map not set", slog.String("error", err.Error()))
	}
}

// counts are what was lost, and what there is.
func (f *Feature) counts() []kernel.Count {
	out := []kernel.Count{{Name: "libraries", Value: uint64(len(f.libs))}, {Name: "processes", Value: uint64(len(f.procs))},
		{Name: "events_refused", Value: f.bad}, {Name: "beyond_bounds", Value: f.over}}
	drops := f.progs.coll.Maps["drops"]
	for i, name := range dropNames {
		var each []uint64
		if err := drops.Lookup(uint32(i), &each); err != nil {
			continue // absent is not zero
		}
		sum := uint64(0)
		for _, n := range each {
			sum += n
		}
		out = append(out, kernel.Count{Name: name, Value: sum})
	}
	return out
}
