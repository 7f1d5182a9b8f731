package fabric

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Fields of wire.KindFabric.
const (
	fieldTs   = 1
	fieldPort = 2
	fieldKind = 3
	fieldBoot = 4
	fieldTx   = 10
	fieldRx   = 11
	fieldRate = 12
	fieldUp   = 13
)

// How often, in milliseconds of the boot clock.
const (
	rescanMs = 30_000  // devices are looked for by name
	deepMs   = 300_000 // what they are is looked at, even if the names are the same
	slowMs   = 10_000  // rate and link are read, and the counters of ports without a link
)

// Config of the instrument.
type Config struct {
	Sysfs string // where sysfs is mounted; default "/sys"
}

// Fabric is the instrument "fabric": a row of wire.KindFabric a port and tick.
type Fabric struct {
	cfg     Config
	ports   []port
	scanned bool
	scanAt  int64 // boot ms of the last look at names
	deepAt  int64 // and at what they are
	listed  listing
	rescan  bool // a device went away: look again
	over    int  // ports beyond maxPorts
	lost    map[string]bool
	told    tally // what Status of the instrument as a whole was told

	at   source.Tick // of the row that is being filled
	cur  *port
	fill func(b *wire.Builder)
	buf  [256]byte
}

// tally is what the state of the instrument as a whole rests on.
type tally struct {
	any              bool // it was told
	ports, bad, over int
}

// port is one port. Values of -1 are not known.
type port struct {
	name, kind string
	rdma       bool
	scale      int64 // octets that a count stands for
	tx, rx     counter
	rate, link string // files

	txBytes, rxBytes int64
	rateMbps, up     int64
	slowAt           int64 // boot ms when rate and link were read
	begun            bool
	reason           string // why it is not read fully; "": it is
}

// New returns the instrument. It opens nothing before the first tick.
func New(cfg Config) *Fabric {
	if cfg.Sysfs == "" {
		cfg.Sysfs = "/sys"
	}
	f := &Fabric{cfg: cfg, lost: map[string]bool{}}
	f.fill = f.fillRow
	return f
}

// Name returns "fabric".
func (f *Fabric) Name() string { return "fabric" }

// Close closes the ports' files.
func (f *Fabric) Close() error {
	for i := range f.ports {
		f.ports[i].close()
	}
	f.ports, f.scanned = nil, false
	return nil
}

func (p *port) close() {
	p.tx.close()
	p.rx.close()
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
	f.tell(out)
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
		if old := known[p.name]; old != nil && old.kind == p.kind && old.tx.path == p.tx.path {
			*p = *old
			delete(known, p.name)
			continue
		}
		p.txBytes, p.rxBytes, p.rateMbps, p.up = -1, -1, -1, -1
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
		out.Status(source.Status{Instrument: "fabric/" + name, State: source.Lost, Reason: "the port was there and is gone from sysfs; its counters start again if it comes back"})
	}
	f.ports, f.over, f.listed = now, over, l
	f.scanned, f.rescan, f.scanAt, f.deepAt = true, false, t.BootMs, t.BootMs
	return nil
}

// sample reads one port and puts its row.
func (f *Fabric) sample(p *port, out source.Sink) {
	slow := !p.begun || f.at.BootMs-p.slowAt >= slowMs
	if slow {
		f.readSlow(p)
		p.begun, p.slowAt = true, f.at.BootMs
	} else if p.up == 0 {
		return
	}
	var txErr, rxErr error
	p.txBytes, txErr = f.count(&p.tx, p.scale)
	p.rxBytes, rxErr = f.count(&p.rx, p.scale)
	if txErr != nil || rxErr != nil || p.reason != "" {
		f.judge(p, txErr, rxErr, out)
	}
	if p.txBytes < 0 && p.rxBytes < 0 && p.up < 0 {
		return
	}
	f.cur = p
	out.Row(wire.KindFabric, wire.SourceSysfs, "", nil, f.fill)
}

// count reads a counter in octets; -1 with an error.
func (f *Fabric) count(c *counter, scale int64) (int64, error) {
	v, err := c.read(f.buf[:])
	if err == nil && v > (1<<63-1)/scale {
		err = errValue
	}
	if err != nil {
		return -1, err
	}
	return v * scale, nil
}

// judge keeps and tells what is wrong with a port.
func (f *Fabric) judge(p *port, txErr, rxErr error, out source.Sink) {
	reason := ""
	for _, c := range []struct {
		path string
		err  error
	}{{p.tx.path, txErr}, {p.rx.path, rxErr}} {
		if c.err == nil {
			continue
		}
		if p.reason == "" && (errors.Is(c.err, syscall.ENODEV) || errors.Is(c.err, syscall.ENOENT)) {
			f.rescan = true // once: it may be gone, or its driver may have no counters
		}
		if reason == "" {
			reason = "cannot read " + c.path + ": " + why(c.err)
		}
	}
	if reason == p.reason {
		return
	}
	p.reason = reason
	if reason == "" {
		out.Status(source.Status{Instrument: "fabric/" + p.name, State: source.Active})
		return
	}
	out.Status(source.Status{Instrument: "fabric/" + p.name, State: source.Degraded, Reason: reason})
}

// readSlow reads what changes rarely. A speed that a driver does not tell is not known,
// and no fault.
func (f *Fabric) readSlow(p *port) {
	p.rateMbps, p.up = -1, -1
	if b, err := small(p.rate, f.buf[:]); err == nil {
		parse := parseSpeed
		if p.rdma {
			parse = parseRate
		}
		if v, ok := parse(b); ok {
			p.rateMbps = v
		}
	}
	if b, err := small(p.link, f.buf[:]); err == nil {
		parse := parseOperstate
		if p.rdma {
			parse = parseState
		}
		if up, ok := parse(b); ok {
			p.up = 0
			if up {
				p.up = 1
			}
		}
	}
}

func (f *Fabric) fillRow(b *wire.Builder) {
	p := f.cur
	b.SetInt(fieldTs, f.at.WallMs)
	b.SetInt(fieldBoot, f.at.BootMs)
	b.SetStr(fieldPort, p.name)
	b.SetStr(fieldKind, p.kind)
	for _, v := range [...]struct {
		field uint8
		value int64
	}{{fieldTx, p.txBytes}, {fieldRx, p.rxBytes}, {fieldRate, p.rateMbps}, {fieldUp, p.up}} {
		if v.value >= 0 {
			b.SetInt(v.field, v.value)
		}
	}
}

// tell says how the instrument as a whole is, when that has changed.
func (f *Fabric) tell(out source.Sink) {
	now := tally{any: true, ports: len(f.ports), over: f.over}
	for i := range f.ports {
		if f.ports[i].reason != "" {
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
		s.State, s.Reason = source.Degraded, fmt.Sprintf("%d of %d ports cannot be read fully", now.bad, now.ports)
	case now.over > 0:
		s.State, s.Reason = source.Degraded, fmt.Sprintf("%d ports beyond the first %d are left out", now.over, maxPorts)
	}
	out.Status(s)
}
