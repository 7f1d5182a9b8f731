package nccl

import (
	"errors"
	"os"
	"slices"
)

const (
	maxTries = 5 // to read a communicator, after 1, 2, 4, ... seconds
	maxGroup = 64
)

// comm is a communicator of a process.
type comm struct {
	at    uint64 // its address; 0: not known yet
	out   uint64 // where the process finds the address; 0: not known
	fn    uint8  // that made it; 0: made before anybody looked
	born  int64  // boot ms at which it was first heard of
	next  int64  // boot ms of the next try to read it
	tries uint8

	want     expect
	idDigest string // of its unique id; "": not known
	read     bool   // the process's memory was read:
	hash     uint64
	bus      uint64

	nranks, rank int32 // 0 and -1: not known
	parent       *comm
	color        int32
	ordinal      uint32 // of the parent's splits that were seen

	name  string // "": not settled
	ended bool
}

// take takes up what the kernel told one by one.
func (f *Feature) take(bootMs int64) (ended bool) {
	clear(f.from)
	for range eventsATick {
		err := f.ring.ReadInto(&f.rec)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				f.bad++
			}
			return ended
		}
		var e event
		if err = parseEvent(f.rec.RawSample, &e); err != nil {
			f.bad++
			continue
		}
		if f.from[e.tgid]++; f.from[e.tgid] > eventsEach {
			f.over++
			continue
		}
		ended = f.event(bootMs, &e) || ended
	}
	return ended
}

// event takes one up; ended is true if it ends a communicator.
func (f *Feature) event(bootMs int64, e *event) (ended bool) {
	p := f.process(e.tgid)
	if p == nil {
		if p = f.ghost(e.tgid); p == nil {
			return false
		}
	}
	c := &comm{out: e.out, fn: e.fn, born: bootMs, next: bootMs, nranks: e.nranks, rank: e.rank}
	switch e.kind {
	case eventInit:
		if e.hasID {
			c.idDigest = digest("nccl id", e.id[:])
			c.want = expect{known: true, old: hashOld(e.id[:]), new: hashNew(e.id[:]), rank: e.rank, nranks: e.nranks}
		}
		for _, o := range p.inits { // one function of the library may call another
			if o.want == c.want && o.want.known {
				return false
			}
		}
		f.pend(p, c)
	case eventInitAll:
		if e.nranks <= 0 || e.nranks > maxGroup {
			f.bad++
			return false
		}
		for i := range e.nranks {
			one := *c
			one.out, one.rank = e.out+8*uint64(i), i
			f.pend(p, &one)
		}
	case eventSplit:
		parent := p.comms[e.comm]
		if parent == nil {
			if parent = f.know(p, e.comm, bootMs); parent == nil {
				return false
			}
		}
		c.parent, c.ordinal = parent, p.splits[e.comm]
		c.nranks, c.rank = 0, -1
		if e.fn == fnSplit {
			c.color = e.color
		}
		if p.splits == nil {
			p.splits = map[uint64]uint32{}
		}
		p.splits[e.comm]++
		if c.color >= 0 { // else this rank is in no new communicator
			f.pend(p, c)
		}
	case eventEnd:
		delete(p.splits, e.comm)
		if old := p.comms[e.comm]; old != nil {
			old.ended = true
			return true
		}
	}
	return false
}

// ghost is the record of a process that has ended before it was met.
func (f *Feature) ghost(pid int32) *process {
	if p := f.procs[pid]; p != nil {
		return p
	}
	if len(f.procs) >= maxProcesses {
		f.over++
		return nil
	}
	p := &process{pid: pid, comms: map[uint64]*comm{}}
	f.procs[pid] = p
	return p
}

func (f *Feature) pend(p *process, c *comm) {
	if len(p.inits) >= maxComms {
		p.inits = p.inits[1:] // the oldest was never used, or never found
		f.over++
	}
	p.inits = append(p.inits, c)
}

// know is the communicator at an address that a call named; nil: there are too many.
func (f *Feature) know(p *process, at uint64, bootMs int64) *comm {
	if c := p.comms[at]; c != nil {
		return c
	}
	if len(p.comms) >= maxComms {
		f.over++
		return nil
	}
	c := &comm{at: at, born: bootMs, next: bootMs, rank: -1}
	p.comms[at] = c
	return c
}

// resolve reads what processes know of communicators that have no name yet.
func (f *Feature) resolve(bootMs int64) {
	for _, p := range f.procs {
		if f.mem.left <= 0 {
			return // the rest has to wait
		}
		if !p.open(bootMs) {
			continue
		}
		if p.lib == nil && len(f.scans) == 0 {
			f.soon(bootMs) // started after the last look
		}
		mem := memory{int(p.pid), &f.patience}
		if p.shunned {
			p.giveUp(bootMs)
			continue
		}
		if err := mem.readable(); err != nil {
			f.lost = f.lost || denied(err)
			p.giveUp(bootMs)
			continue
		}
		f.mem.stuck = false
		f.find(p, mem, bootMs)
		p.shunned = f.mem.stuck
	}
}

// open reports whether something of the process waits to be read now.
func (p *process) open(bootMs int64) bool {
	for _, c := range p.inits {
		if c.next <= bootMs {
			return true
		}
	}
	for _, c := range p.comms {
		if c.name == "" && c.next <= bootMs {
			return true
		}
	}
	return false
}

// giveUp settles what cannot be read.
func (p *process) giveUp(bootMs int64) {
	p.pair()
	for _, c := range p.comms {
		c.again(bootMs)
		if c.tries >= maxTries {
			c.settle(p)
		}
	}
	for _, c := range p.inits {
		c.again(bootMs)
	}
}

// pair puts the one communicator that was made together with the one that is called.
func (p *process) pair() {
	if len(p.inits) != 1 || len(p.comms) != 1 {
		return
	}
	for at, c := range p.comms {
		if c.fn == 0 && c.name == "" {
			p.bind(p.inits[0], at)
			p.inits = nil
		}
	}
}

// again puts the next try off.
func (c *comm) again(bootMs int64) {
	if c.next > bootMs {
		return
	}
	c.next = bootMs + 1000<<c.tries
	if c.tries < maxTries {
		c.tries++
	}
}

// find looks for communicators in the memory of a process: first where the process was
// asked to put their addresses, then at the addresses that calls named.
func (f *Feature) find(p *process, mem memory, bootMs int64) {
	rest := p.inits[:0]
	for _, c := range p.inits {
		if f.mem.left <= 0 || f.mem.stuck || c.next > bootMs {
			rest = append(rest, c)
		} else if !f.follow(p, mem, c) {
			if c.tries >= maxTries {
				continue // it came to nothing, or its place was used again
			}
			c.again(bootMs)
			rest = append(rest, c)
		}
	}
	clear(p.inits[len(rest):])
	p.inits = rest
	for at, c := range p.comms {
		if f.mem.left <= 0 || f.mem.stuck {
			return
		}
		if c.name != "" || c.next > bootMs {
			continue
		}
		if !c.read {
			f.identify(p, mem, c)
		}
		if c = p.comms[at]; c.read {
			c.settle(p)
			continue
		}
		c.again(bootMs)
		if c.tries >= maxTries {
			p.pair()
			p.comms[at].settle(p)
		}
	}
}

// follow reads the address that the process got for a new communicator.
func (f *Feature) follow(p *process, mem memory, c *comm) bool {
	at, ok, err := pointer(mem, c.out)
	if f.mem.stuck = f.mem.stuck || errors.Is(err, errStuck); !ok {
		return false
	}
	old := p.comms[at]
	taken := old != nil && !old.ended && old.fn != 0
	if taken && !c.want.known {
		return false // the place was used for another before
	}
	v, site, exact, ok := f.mem.comm(mem, at, p.site(), c.want, f.buses)
	if taken && (!ok || v.hash == old.hash) {
		return false
	}
	if ok && !c.want.known && c.fn == fnInitAll && (v.rank != c.rank || v.nranks != c.nranks) {
		ok = false
	}
	switch {
	case ok:
		c.take(v)
		p.learn(site, exact)
	case c.tries < maxTries-1:
		return false // it is being made: soon it will have its block
	default: // not in a form that is known: the address alone is
		c.tries = maxTries
	}
	p.bind(c, at)
	return true
}

// identify reads the communicator at an address that a call named.
func (f *Feature) identify(p *process, mem memory, c *comm) {
	for i, o := range p.inits {
		if !o.want.known || f.mem.stuck {
			continue
		}
		if v, site, exact, ok := f.mem.comm(mem, c.at, p.site(), o.want, f.buses); ok {
			o.take(v)
			p.learn(site, exact)
			p.bind(o, c.at)
			p.inits = append(p.inits[:i], p.inits[i+1:]...)
			return
		}
	}
	if v, site, exact, ok := f.mem.comm(mem, c.at, p.site(), c.want, f.buses); ok {
		c.take(v)
		p.learn(site, exact)
	}
}

func (c *comm) take(v block) {
	c.read, c.hash, c.bus, c.nranks, c.rank = true, v.hash, v.bus, v.nranks, v.rank
}

// bind gives a communicator that was made its address. One that a call has named before
// stays the same thing: splits may point to it.
func (p *process) bind(c *comm, at uint64) {
	c.at = at
	old := p.comms[at]
	if old == nil && len(p.comms) >= maxComms {
		return // it is told as unknown, if it is called
	}
	if old == nil || old.ended || old.fn != 0 {
		p.comms[at] = c
		return
	}
	name := old.name
	c.born, c.next = min(c.born, old.born), old.next
	*old = *c
	old.name = name
}

// site is where communicators of the process's library keep what is read.
func (p *process) site() int64 {
	if p.lib == nil {
		return unknownSite
	}
	return p.lib.site
}

func (p *process) learn(site int64, exact bool) {
	if p.lib != nil && (exact || !p.lib.exact) {
		p.lib.site, p.lib.exact = site, exact
	}
}

// settle names a communicator by the best that is known of it, for good. All ranks on all
// hosts come to the same name: by the hash that NCCL itself keeps, which hosts that
// looked from the beginning and those that came later both read; else by the unique id;
// else by its parent. What nothing is known of gets a name of its own.
func (c *comm) settle(p *process) {
	if c.name != "" {
		return
	}
	if parent := c.parent; parent != nil && c.hash == 0 && c.idDigest == "" {
		// It is older: what is not known of it by now will not be. A process may have made
		// up a ring of parents, which ends here.
		c.parent = nil
		parent.settle(p)
		c.parent = parent
		if c.name != "" {
			return
		}
	}
	switch {
	case c.hash != 0:
		c.name = digest("nccl hash", word(c.hash))
	case c.idDigest != "":
		c.name = c.idDigest
	case c.parent != nil && c.parent.fn != 0 && !c.parent.unknown(): // all its splits were seen
		c.name = digest("nccl split", []byte(c.parent.name), word(uint64(c.fn)), word(uint64(uint32(c.color))), word(uint64(c.ordinal)))
	default:
		c.name = unknownPrefix + digest("nccl unknown", word(uint64(p.pid)), word(p.start), word(c.at), word(uint64(c.born)))[:16]
	}
}

const unknownPrefix = "unknown-"

func (c *comm) unknown() bool {
	return len(c.name) > len(unknownPrefix) && c.name[:len(unknownPrefix)] == unknownPrefix
}

// gpu is the device that the communicator's rank is on; -1: not known. What the process's
// memory says must not make its calls those of a GPU that it is not on, by the driver's word.
func (f *Feature) gpu(p *process, c *comm) int {
	on := f.gpus[p.pid]
	if i, ok := f.buses[c.bus]; ok && (len(f.gpus) == 0 || slices.Contains(on, i)) {
		return i
	}
	if len(on) == 1 {
		return on[0]
	}
	return -1
}
