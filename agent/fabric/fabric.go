package fabric

import (
	"context"
	"fmt"
	"slices"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Fields of wire.KindFabric.
const (
	fieldTs            = 1
	fieldPort          = 2
	fieldKind          = 3
	fieldBoot          = 4
	fieldTx            = 10
	fieldRx            = 11
	fieldRate          = 12
	fieldUp            = 13
	fieldParent        = 14
	fieldTxPackets     = 15
	fieldRxPackets     = 16
	fieldXmitWait      = 20
	fieldCNPSent       = 21
	fieldCNPHandled    = 22
	fieldECNMarked     = 23
	fieldOutOfSequence = 24
	fieldAckTimeouts   = 25
	fieldRNRRetries    = 26
	fieldSymbolErrors  = 27
	fieldLinkDowned    = 28
	fieldLinkRecovered = 29
	fieldRxErrors      = 30
	fieldTxDiscards    = 31
	fieldRxDiscards    = 32
)

// How often, in milliseconds of the boot clock.
const (
	rescanMs = 30_000  // devices are looked for by name
	deepMs   = 300_000 // what they are is looked at, even if the names are the same
	slowMs   = 10_000  // rate, link, health and VFs are read, and the counters of ports without a link
	flapMs   = 300_000 // how long a link that went down and came back is spoken of
)

// Config of the instrument.
type Config struct {
	Sysfs string // where sysfs is mounted; default "/sys"
	// NoVFs leaves the counters of guests' virtual functions out: reading them asks the
	// adapter's firmware once a function and ten seconds.
	NoVFs bool
}

// Fabric is the instrument "fabric": a row of wire.KindFabric a port and tick.
type Fabric struct {
	cfg      Config
	ports    []port
	adapters []adapter // with virtual functions of guests
	scanned  bool
	scanAt   int64 // boot ms of the last look at names
	deepAt   int64 // and at what they are
	listed   listing
	rescan   bool // a device went away: look again
	over     int  // ports beyond maxPorts
	lost     map[string]bool
	told     tally // what Status of the instrument as a whole was told
	vfAt     int64
	vfTold   source.Status
	whole    source.Status // adapters that guests have whole
	ask      func(ifindex int) ([]byte, error)
	stats    func(device string) ([]stat, error)

	at        source.Tick // of the row that is being filled
	cur       *port
	vf        *function
	fill      func(b *wire.Builder)
	fillBurst func(b *wire.Builder)
	fillVF    func(b *wire.Builder)
	buf       [256]byte
}

// tally is what the state of the instrument as a whole rests on.
type tally struct {
	any                    bool // it was told
	ports, bad, down, over int
}

// port is one port. Values of -1 are not known.
type port struct {
	name, kind, parent string
	rdma               bool
	ifindex            int64     // of a network device
	base               []reading // every tick: bytes first, then packets
	slow               []reading // every slowMs
	rate, link, phys   string    // files

	rateMbps, up int64
	slowAt       int64 // boot ms when the slow files were read
	begun        bool
	fresh        bool // slow values are of this tick
	moved, still bool // its bytes moved at the last tick; do not now
	last         [2]int64
	downed       int64 // link_downed when it was last read
	flaps        int64
	flapAt       int64
	linkWas      int64  // the state of the link that was last known
	linkLost     string // why a link that was up is down
	bad          string // a slow file whose content is not understood
	told         source.State
	reason       string // why it is not read fully, or not well; "": it is
}

// New returns the instrument. It opens nothing before the first tick.
func New(cfg Config) *Fabric {
	if cfg.Sysfs == "" {
		cfg.Sysfs = "/sys"
	}
	f := &Fabric{cfg: cfg, lost: map[string]bool{}, ask: askLink, stats: ethtoolStats}
	f.fill, f.fillBurst, f.fillVF = f.fillRow, f.fillBytes, f.fillFunction
	return f
}

// Name returns "fabric".
func (f *Fabric) Name() string { return "fabric" }

// Close closes the ports' files.
func (f *Fabric) Close() error {
	for i := range f.ports {
		f.ports[i].close()
	}
	f.ports, f.adapters, f.scanned = nil, nil, false
	return nil
}

func (p *port) close() {
	for i := range p.base {
		p.base[i].close()
	}
}

// Sample puts a row for each port that could be read. An error means that sysfs itself
// could not.
func (f *Fabric) Sample(ctx context.Context, t source.Tick, out source.Sink) error {
	if !f.scanned || f.rescan || t.BootMs-f.scanAt >= rescanMs {
		if err := f.scan(t, out); err != nil {
			return err
		}
	}
	f.at = t
	for i := range f.ports {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.sample(&f.ports[i], out)
	}
	if len(f.adapters) > 0 && (f.vfAt == 0 || t.BootMs-f.vfAt >= slowMs) {
		f.vfAt = t.BootMs
		f.functions(ctx, out)
	}
	f.tell(out)
	return nil
}

// Burst puts the bytes of the ports that are up: two reads of open files a port, no
// allocation. Virtual functions are left out.
func (f *Fabric) Burst(ctx context.Context, t source.Tick, out source.Sink) error {
	f.at = t
	for i := range f.ports {
		p := &f.ports[i]
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if p.up != 1 || p.kind == kindVF {
			continue
		}
		got := false
		for j := range min(2, len(p.base)) {
			got = f.read(&p.base[j]) == nil || got // what fails is told by the next tick
		}
		if got {
			f.cur = p
			out.Row(wire.KindFabric, wire.SourceSysfs, "", nil, f.fillBurst)
		}
	}
	return nil
}

// scan takes new ports in and gives up those that are gone.
func (f *Fabric) scan(t source.Tick, out source.Sink) error {
	l, err := f.list()
	if err != nil {
		return err
	}
	if f.scanned && !f.rescan && t.BootMs-f.deepAt < deepMs && l.equal(f.listed) {
		f.scanAt = t.BootMs
		return nil
	}
	now, over := f.found(l)
	known := make(map[string]*port, len(f.ports))
	for i := range f.ports {
		known[f.ports[i].name] = &f.ports[i]
	}
	for i := range now {
		p := &now[i]
		if old := known[p.name]; old != nil && old.same(p) {
			*p = *old
			delete(known, p.name)
			continue
		}
		p.rateMbps, p.up, p.downed, p.linkWas = -1, -1, -1, -1
		p.last = [2]int64{-1, -1}
		if f.lost[p.name] {
			delete(f.lost, p.name)
			out.Status(source.Status{Instrument: "fabric/" + p.name, State: source.Active})
		}
	}
	for name, p := range known {
		p.close()
		if slices.ContainsFunc(now, func(p port) bool { return p.name == name }) {
			continue // another device under the same name
		}
		if len(f.lost) < maxPorts {
			f.lost[name] = true
		}
		out.Status(source.Status{Instrument: "fabric/" + name, State: source.Lost, Reason: p.gone(now)})
	}
	f.ports, f.over, f.listed = now, over, l
	f.scanned, f.rescan, f.scanAt, f.deepAt = true, false, t.BootMs, t.BootMs
	f.seekFunctions(l, out)
	return nil
}

// same reports whether what is read of the port has not changed.
func (p *port) same(q *port) bool {
	if p.kind != q.kind || p.parent != q.parent || p.ifindex != q.ifindex || len(p.base) != len(q.base) || len(p.slow) != len(q.slow) {
		return false
	}
	for i := range p.base {
		if p.base[i].files[0].path != q.base[i].files[0].path {
			return false
		}
	}
	return true
}

// gone says what became of a port that is no longer there.
func (p *port) gone(now []port) string {
	for i := range now {
		if p.ifindex > 0 && now[i].ifindex == p.ifindex {
			return "it is now named " + now[i].name + ", where its counters go on"
		}
	}
	if p.rdma {
		return "the port was there and is gone from sysfs: unplugged, reset, or passed to a guest; its counters start again if it comes back"
	}
	return "the port was there and is gone from sysfs: unplugged, passed to a guest, or moved into a container's network namespace; its counters start again if it comes back"
}

// sample reads one port and puts its row.
func (f *Fabric) sample(p *port, out source.Sink) {
	p.fresh = false
	switch {
	case !p.begun || f.at.BootMs-p.slowAt >= slowMs:
		f.readSlow(p)
		p.fresh = true
		if p.begun {
			p.slowAt = f.at.BootMs
			break
		}
		p.begun = true
		p.slowAt = f.at.BootMs - p.stagger()
	case p.up == 0:
		return
	}
	var failed *reading
	var ferr error
	for i := range p.base {
		if err := f.read(&p.base[i]); err != nil && failed == nil {
			failed, ferr = &p.base[i], err
		}
	}
	f.heed(p)
	f.judge(p, failed, ferr, out)
	if (len(p.base) < 2 || p.base[0].value < 0 && p.base[1].value < 0) && p.up < 0 {
		return
	}
	f.cur = p
	out.Row(wire.KindFabric, wire.SourceSysfs, "", nil, f.fill)
}

// stagger spreads the slow files of ports over seconds, as some are asked of firmware.
func (p *port) stagger() int64 {
	sum := int64(0)
	for _, c := range []byte(p.name) {
		sum = (31*sum + int64(c)) % (slowMs / 1000)
	}
	return 1000 * sum
}

func (f *Fabric) fillRow(b *wire.Builder) {
	p := f.cur
	f.fillKeys(b)
	if p.parent != "" {
		b.SetStr(fieldParent, p.parent)
	}
	for i := range p.base {
		p.base[i].put(b)
	}
	if p.rateMbps >= 0 {
		b.SetInt(fieldRate, p.rateMbps)
	}
	if p.up >= 0 {
		b.SetInt(fieldUp, p.up)
	}
	if !p.fresh {
		return
	}
	for i := range p.slow {
		p.slow[i].put(b)
	}
}

func (f *Fabric) fillBytes(b *wire.Builder) {
	f.fillKeys(b)
	for i := range min(2, len(f.cur.base)) {
		f.cur.base[i].put(b)
	}
}

func (f *Fabric) fillKeys(b *wire.Builder) {
	b.SetInt(fieldTs, f.at.WallMs)
	b.SetInt(fieldBoot, f.at.BootMs)
	b.SetStr(fieldPort, f.cur.name)
	b.SetStr(fieldKind, f.cur.kind)
}

// tell says how the instrument as a whole is, when that has changed.
func (f *Fabric) tell(out source.Sink) {
	now := tally{any: true, ports: len(f.ports), over: f.over}
	for i := range f.ports {
		switch {
		case f.ports[i].linkLost != "":
			now.down++
		case f.ports[i].reason != "":
			now.bad++
		}
	}
	if now == f.told {
		return
	}
	f.told = now
	s := source.Status{Instrument: "fabric", State: source.Active}
	switch {
	case now.ports == 0:
		s.State = source.Unavailable
		s.Reason = "no InfiniBand, RoCE or physical Ethernet port in sysfs; a container sees those of its own network namespace alone (hostNetwork)"
	case now.bad > 0 && now.over > 0:
		s.State, s.Reason = source.Degraded, fmt.Sprintf("%d of %d ports cannot be read fully; %d more are left out", now.bad, now.ports, now.over)
	case now.bad > 0:
		s.State, s.Reason = source.Degraded, fmt.Sprintf("%d of %d ports cannot be read fully, or their links fail", now.bad, now.ports)
	case now.over > 0:
		s.State, s.Reason = source.Degraded, fmt.Sprintf("%d ports beyond the first %d are left out", now.over, maxPorts)
	case now.down > 0:
		s.State, s.Reason = source.Degraded, fmt.Sprintf("the links of %d of %d ports were up and are down", now.down, now.ports)
	}
	out.Status(s)
}
