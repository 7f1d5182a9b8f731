package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Fields of wire.KindHost.
const (
	fieldTs        = 1
	fieldBoot      = 4
	fieldCPU       = 11
	fieldStorageTx = 12
	fieldStorageRx = 13
)

// How often, in milliseconds of the boot clock.
const (
	everyMs = 5_000   // a row
	disksMs = 60_000  // disks are looked for
	toldMs  = 600_000 // how long a step of the clock stays told
	// jitterMs is how much earlier than due a tick may come: waiting for the next one would
	// make the period longer than it says.
	jitterMs = 500
)

const (
	maxRead  = 1 << 20 // bytes of one file of procfs that are looked at
	maxUnits = 4096    // disks and mounts
)

// Config of the instrument.
type Config struct {
	Procfs string // where procfs is mounted; default "/proc"
	Sysfs  string // where sysfs is mounted; default "/sys"
}

// Host is the instrument "host": a row of wire.KindHost every 5 s.
type Host struct {
	cfg     Config
	clock   clockWatch
	stepAt  int64 // boot ms of the last step that is told; 0: none is
	steps   atomic.Int64
	movedMs atomic.Int64

	begun   bool
	lastMs  int64 // boot ms of the last reading
	cpu     cpuTimes
	haveCPU bool
	units   map[string]unit // disks by name, mounts by "nfs " and device
	round   uint64          // of reading, marks units that were seen
	disks   map[string]bool
	disksAt int64
	buf     []byte
	status  map[string]source.Status
	blind   []string // kinds of file systems seen that are not counted
	outside []string // the same of the host's mounts, that the agent's own do not show
	fill    func(b *wire.Builder)
	row     row
}

type unit struct {
	last  traffic
	round uint64
}

type row struct {
	at                source.Tick
	cpuE4, txBps, rxB int64 // -1: not known
}

// New returns the instrument. It opens nothing before the first tick.
func New(cfg Config) *Host {
	if cfg.Procfs == "" {
		cfg.Procfs = "/proc"
	}
	if cfg.Sysfs == "" {
		cfg.Sysfs = "/sys"
	}
	h := &Host{cfg: cfg, units: map[string]unit{}, disks: map[string]bool{}, status: map[string]source.Status{}, buf: make([]byte, 16<<10)}
	h.fill = h.fillRow
	return h
}

// Name returns "host".
func (h *Host) Name() string { return "host" }

// Close does nothing: no file stays open.
func (h *Host) Close() error { return nil }

// ClockSteps returns how often the wall clock was stepped since New, and by how many
// milliseconds the last time.
func (h *Host) ClockSteps() (count, lastMs int64) { return h.steps.Load(), h.movedMs.Load() }

// Sample watches the clocks at each tick, and puts a row every 5 s. An error means that
// neither processors nor storage could be read.
func (h *Host) Sample(_ context.Context, t source.Tick, out source.Sink) error {
	h.watch(t, out)
	if h.begun && t.BootMs-h.lastMs < everyMs-jitterMs {
		return nil
	}
	span := t.BootMs - h.lastMs
	h.row = row{at: t, cpuE4: -1, txBps: -1, rxB: -1}
	cpuErr := h.readCPU()
	diskErr := h.readStorage(t, span)
	if diskErr != nil {
		clear(h.units) // what was read belongs to no one span
	}
	h.tell(out, "host/cpu", reason("processors", cpuErr))
	h.tell(out, "host/storage", h.storageReason(diskErr))
	first := !h.begun
	h.begun, h.lastMs = true, t.BootMs
	if cpuErr != nil && diskErr != nil {
		return fmt.Errorf("read the host's counters: %w", errors.Join(cpuErr, diskErr))
	}
	h.tell(out, "host", "")
	if !first && (h.row.cpuE4 >= 0 || h.row.txBps >= 0) {
		out.Row(wire.KindHost, wire.SourceProcfs, "", nil, h.fill)
	}
	return nil
}

func (h *Host) fillRow(b *wire.Builder) {
	b.SetInt(fieldTs, h.row.at.WallMs)
	b.SetInt(fieldBoot, h.row.at.BootMs)
	if h.row.cpuE4 >= 0 {
		b.SetInt(fieldCPU, h.row.cpuE4)
	}
	if h.row.txBps >= 0 {
		b.SetInt(fieldStorageTx, h.row.txBps)
		b.SetInt(fieldStorageRx, h.row.rxB)
	}
}

// watch tells when the wall clock is stepped.
func (h *Host) watch(t source.Tick, out source.Sink) {
	d := h.clock.moved(t.WallMs, t.BootMs)
	switch {
	case d != 0:
		h.steps.Add(1)
		h.movedMs.Store(d)
		h.stepAt = max(t.BootMs, 1)
		h.tell(out, "host/clock", fmt.Sprintf("clock stepped by %+.3f s at %d s after boot: rows before and after it lie on different wall clocks", float64(d)/1000, t.BootMs/1000))
	case h.stepAt == 0 || t.BootMs-h.stepAt >= toldMs:
		h.stepAt = 0
		h.tell(out, "host/clock", "")
	}
}

// tell hands a state on when it has changed; no reason is active.
func (h *Host) tell(out source.Sink, instrument, why string) {
	was, ok := h.status[instrument]
	if ok && was.Reason == why {
		return
	}
	s := source.Status{Instrument: instrument, State: source.Active, Reason: why}
	if why != "" {
		s.State = source.Degraded
	}
	h.status[instrument] = s
	out.Status(s)
}

func reason(of string, err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf("no counters of %s: %v", of, err)
}

func (h *Host) storageReason(err error) string {
	switch {
	case err != nil:
		return reason("storage", err)
	case len(h.blind)+len(h.outside) > 0:
		kinds := slices.Concat(h.blind, h.outside)
		slices.Sort(kinds)
		return "not in the bytes to and from storage, as their clients count elsewhere: mounted file systems of type " + strings.Join(slices.Compact(kinds), ", ")
	}
	return ""
}

func (h *Host) readCPU() error {
	data, err := h.read(filepath.Join(h.cfg.Procfs, "stat"), 256)
	if err != nil {
		h.haveCPU = false
		return err
	}
	now, err := parseStat(data)
	if err != nil {
		h.haveCPU = false
		return fmt.Errorf("read %s/stat: %w", h.cfg.Procfs, err)
	}
	if h.haveCPU {
		if e4, ok := busyE4(h.cpu, now); ok {
			h.row.cpuE4 = e4
		}
	}
	h.cpu, h.haveCPU = now, true
	return nil
}

// readStorage sums what every disk and mount moved since the last reading. A unit that is
// new, or whose counters fell, adds nothing this time; if none is left, storage is not known.
func (h *Host) readStorage(t source.Tick, spanMs int64) error {
	look := !h.begun || t.BootMs-h.disksAt >= disksMs
	if look {
		if err := h.findDisks(); err != nil {
			return err
		}
		h.disksAt = t.BootMs
	}
	data, err := h.read(filepath.Join(h.cfg.Procfs, "diskstats"), maxRead)
	if err != nil {
		return err
	}
	h.round++
	var tx, rx uint64
	known := false
	add := func(u unit, was bool, now traffic) {
		if !was || now.tx < u.last.tx || now.rx < u.last.rx {
			return
		}
		tx += now.tx - u.last.tx
		rx += now.rx - u.last.rx
		known = true
	}
	err = parseDiskstats(data, func(name []byte, now traffic) {
		if !h.disks[string(name)] {
			return
		}
		u, was := h.units[string(name)]
		add(u, was, now)
		h.units[string(name)] = unit{now, h.round}
	})
	if err != nil {
		return fmt.Errorf("read %s/diskstats: %w", h.cfg.Procfs, err)
	}
	if err = h.readMounts(add); err != nil {
		return err
	}
	if look {
		h.lookOutside()
	}
	for name, u := range h.units {
		if u.round != h.round {
			delete(h.units, name)
		}
	}
	if known && spanMs > 0 {
		h.row.txBps, h.row.rxB = perSecond(tx, spanMs), perSecond(rx, spanMs)
	}
	return nil
}

func perSecond(octets uint64, ms int64) int64 {
	return int64(min(math.Round(float64(octets)*1000/float64(ms)), math.MaxInt64/2))
}

// readMounts adds NFS. Numbers that two mounts of one export share are those of one client;
// mounts that differ have clients of their own.
func (h *Host) readMounts(add func(u unit, was bool, now traffic)) error {
	h.blind = h.blind[:0]
	data, err := h.read(filepath.Join(h.cfg.Procfs, "self/mountstats"), maxRead)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	parseMountstats(data, func(device string, now traffic) {
		for n := 0; len(h.units) < maxUnits; n++ {
			key := fmt.Sprintf("nfs %s %d", device, n)
			u, was := h.units[key]
			if was && u.round == h.round {
				if u.last == now {
					return // the same client, seen through another mount
				}
				continue
			}
			add(u, was, now)
			h.units[key] = unit{now, h.round}
			return
		}
	}, func(fstype string) {
		if !slices.Contains(h.blind, fstype) {
			h.blind = append(h.blind, fstype)
		}
	})
	slices.Sort(h.blind)
	return nil
}

// lookOutside finds what is mounted on the host and not here, where a service or a container
// has mounts of its own: everyone may read what process 1 has mounted, and only root how much
// its NFS clients moved. Where even that is hidden, nothing is known of it.
func (h *Host) lookOutside() {
	h.outside = h.outside[:0]
	data, err := h.read(filepath.Join(h.cfg.Procfs, "1/mountinfo"), maxRead)
	if err != nil {
		return
	}
	parseMountinfo(data, func(device, fstype string) {
		if fstype == "nfs" || fstype == "nfs4" {
			if u, here := h.units["nfs "+device+" 0"]; here && u.round == h.round {
				return
			}
			fstype += " (of the host, where the agent does not see them)"
		} else if !slices.Contains(blind, fstype) {
			return
		}
		if !slices.Contains(h.outside, fstype) {
			h.outside = append(h.outside, fstype)
		}
	})
}

// findDisks lists the whole disks that have a device behind them.
func (h *Host) findDisks() error {
	dir := filepath.Join(h.cfg.Sysfs, "block")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list disks: %w", err)
	}
	clear(h.disks)
	for _, e := range entries {
		if len(h.disks) >= maxUnits/2 {
			break
		}
		if _, err = os.Stat(filepath.Join(dir, e.Name(), "device")); err != nil {
			continue
		}
		hidden, herr := os.ReadFile(filepath.Join(dir, e.Name(), "hidden"))
		if herr == nil && strings.TrimSpace(string(hidden)) == "1" {
			continue
		}
		h.disks[e.Name()] = true
	}
	return nil
}

// read returns a file's first limit bytes, in memory that the next read takes.
func (h *Host) read(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	n := 0
	for n < limit {
		if n == len(h.buf) {
			h.buf = append(h.buf, make([]byte, len(h.buf))...)
		}
		m, rerr := f.Read(h.buf[n:min(limit, len(h.buf))])
		n += m
		if rerr != nil {
			if !errors.Is(rerr, io.EOF) {
				err = rerr
			}
			break
		}
	}
	_ = f.Close() // it was open for reading
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return h.buf[:n], nil
}
