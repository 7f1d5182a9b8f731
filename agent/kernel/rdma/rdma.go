package rdma

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Fields of wire.KindRDMA.
const (
	fieldTs          = 1
	fieldDevice      = 2
	fieldPID         = 3
	fieldPairs       = 10
	fieldConnected   = 11
	fieldRegions     = 12
	fieldRegionBytes = 13
	fieldQueues      = 14
	fieldPairList    = 15
	fieldJobSource   = 16
	fieldJobID       = 17
)

const (
	maxDevices   = 64
	maxProcesses = 4096
	maxObjects   = 1_000_000
	maxPairs     = 64
	waitFor      = 5 // seconds for an answer of the kernel
)

// Config of the feature. Zero values are the defaults.
type Config struct {
	Every time.Duration // between looks; default 30 s
	Sysfs string        // where sysfs is mounted; default "/sys"

	ask asker // for tests
}

// asker asks the kernel, of one device or, with index below 0, of all.
type asker func(cmd int, index int64, each func(msg []byte) error) error

// Feature is "rdma".
type Feature struct {
	cfg  Config
	env  *kernel.Env
	held map[holder]*sums
	list []holder

	unowned int
	over    int
	at      source.Tick
	cur     holder
	fill    func(b *wire.Builder)
}

var _ kernel.Feature = (*Feature)(nil)

type holder struct {
	device string
	pid    uint32
}

// sums are a process's objects on a device.
type sums struct {
	pairs, connected, regions, queues int64
	regionBytes                       uint64
	sample                            []pair // sorted by hash, at most maxPairs
	did                               [3]bool
}

// pair is a queue pair and the one it is connected to.
type pair struct {
	hash          uint64
	local, remote uint32
}

// New returns the feature.
func New(cfg Config) *Feature {
	if cfg.Every <= 0 {
		cfg.Every = 30 * time.Second
	}
	if cfg.Sysfs == "" {
		cfg.Sysfs = "/sys"
	}
	if cfg.ask == nil {
		cfg.ask = ask
	}
	f := &Feature{cfg: cfg, held: map[holder]*sums{}}
	f.fill = f.fillRow
	return f
}

// Name returns "rdma".
func (f *Feature) Name() string { return "rdma" }

// Every is how far looks are apart.
func (f *Feature) Every() time.Duration { return f.cfg.Every }

// Start finds out whether there is a device. The socket is not even opened where there is
// none: opening it could make the kernel load the subsystem.
func (f *Feature) Start(_ context.Context, env *kernel.Env) kernel.Report {
	f.env = env
	return f.there()
}

func (f *Feature) there() kernel.Report {
	names, err := os.ReadDir(filepath.Join(f.cfg.Sysfs, "class/infiniband"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return kernel.Absent("the kernel has no RDMA subsystem")
	case err != nil:
		return kernel.Unavailable("RDMA devices cannot be listed", err)
	case len(names) == 0:
		return kernel.Absent("there is no RDMA device")
	}
	return kernel.Active()
}

// Close implements kernel.Feature. Nothing is held.
func (f *Feature) Close() error { return nil }

// Sample puts a row for each device and process.
func (f *Feature) Sample(ctx context.Context, t source.Tick, out source.Sink) kernel.Report {
	if r := f.there(); r.State == source.Unavailable {
		return r
	}
	devices, err := f.devices()
	if err != nil {
		return kernel.Degraded("the kernel's RDMA netlink does not answer: needs kernel 4.17", err, "")
	}
	clear(f.held)
	f.unowned, f.over = 0, max(len(devices)-maxDevices, 0)
	var bad error
	for _, d := range devices[:min(len(devices), maxDevices)] {
		if ctx.Err() != nil {
			return kernel.Degraded("a look was broken off", ctx.Err(), "")
		}
		done := [3]error{
			f.read(d, cmdQP, attrQP, attrQPEntry, (*sums).queuePair),
			f.read(d, cmdMR, attrMR, attrMREntry, (*sums).region),
			f.read(d, cmdCQ, attrCQ, attrCQEntry, (*sums).queue),
		}
		for k, s := range f.held {
			if k.device == d.name {
				for i := range done {
					s.did[i] = done[i] == nil
				}
			}
		}
		for _, derr := range done {
			if derr != nil && bad == nil {
				bad = fmt.Errorf("%s: %w", d.name, derr)
			}
		}
	}
	f.put(t, out)
	switch {
	case bad != nil:
		return kernel.Degraded("not all objects could be read", bad, "")
	case f.unowned > 0:
		return kernel.Degraded(fmt.Sprintf("the processes of %d objects are not shown here: needs the host's process numbers (hostPID)", f.unowned), nil, "")
	case f.over > 0:
		return kernel.Degraded(fmt.Sprintf("%d devices, processes or objects beyond the bounds are left out", f.over), nil, "")
	}
	return kernel.Active()
}

func (f *Feature) devices() (list []device, err error) {
	err = f.cfg.ask(cmdGet, -1, func(msg []byte) error {
		d, derr := parseDevice(msg)
		if derr == nil && len(list) <= 2*maxDevices {
			list = append(list, d)
		}
		return derr
	})
	slices.SortFunc(list, func(a, b device) int { return strings.Compare(a.name, b.name) })
	return list, err
}

// read adds a device's objects of one kind up.
func (f *Feature) read(d device, cmd int, table, entry uint16, add func(*sums, object)) error {
	n := 0
	return f.cfg.ask(cmd, int64(d.index), func(msg []byte) error {
		return parseObjects(msg, table, entry, func(o object) {
			if n++; n > maxObjects {
				f.over++
				return
			}
			if !o.owned {
				f.unowned++
				return
			}
			k := holder{d.name, o.pid}
			s := f.held[k]
			if s == nil {
				if len(f.held) >= maxProcesses {
					f.over++
					return
				}
				s = &sums{}
				f.held[k] = s
			}
			add(s, o)
		})
	})
}

func (s *sums) region(o object) {
	s.regions++
	s.regionBytes += o.bytes
}

func (s *sums) queue(object) { s.queues++ }

func (s *sums) queuePair(o object) {
	s.pairs++
	if !o.ready {
		return
	}
	s.connected++
	if !o.paired {
		return
	}
	p := pair{both(o.local, o.remote), o.local, o.remote}
	at, _ := slices.BinarySearchFunc(s.sample, p, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.local, b.local))
	})
	if at >= maxPairs {
		return
	}
	if len(s.sample) == maxPairs {
		s.sample = s.sample[:maxPairs-1]
	}
	s.sample = slices.Insert(s.sample, at, p)
}

// both is the same from either end.
func both(a, b uint32) uint64 {
	h := fnv.New64a()
	var buf [8]byte
	binary.BigEndian.PutUint32(buf[:], min(a, b))
	binary.BigEndian.PutUint32(buf[4:], max(a, b))
	_, _ = h.Write(buf[:]) // a hash's Write does not fail
	v := h.Sum64()
	v ^= v >> 32 // FNV's high bits move little for such short keys
	return v * 0x9e3779b97f4a7c15
}

// text writes the sample in the order of own numbers.
func (s *sums) text() string {
	for n := len(s.sample); n > 0; n-- {
		list := slices.Clone(s.sample[:n])
		slices.SortFunc(list, func(a, b pair) int { return cmp.Or(cmp.Compare(a.local, b.local), cmp.Compare(a.remote, b.remote)) })
		var b []byte
		for i, p := range list {
			if i > 0 {
				b = append(b, ' ')
			}
			b = strconv.AppendUint(b, uint64(p.local), 10)
			b = append(b, '>')
			b = strconv.AppendUint(b, uint64(p.remote), 10)
		}
		if len(b) <= wire.MaxStringBytes {
			return string(b)
		}
	}
	return ""
}

func (f *Feature) put(t source.Tick, out source.Sink) {
	f.list = f.list[:0]
	for k := range f.held {
		f.list = append(f.list, k)
	}
	slices.SortFunc(f.list, func(a, b holder) int { return cmp.Or(strings.Compare(a.device, b.device), cmp.Compare(a.pid, b.pid)) })
	f.at = t
	for _, f.cur = range f.list {
		out.Row(wire.KindRDMA, wire.SourceNetlink, "", nil, f.fill)
	}
}

func (f *Feature) fillRow(b *wire.Builder) {
	s := f.held[f.cur]
	b.SetInt(fieldTs, f.at.WallMs)
	b.SetStr(fieldDevice, f.cur.device)
	b.SetInt(fieldPID, int64(f.cur.pid))
	if s.did[0] {
		b.SetInt(fieldPairs, s.pairs)
		b.SetInt(fieldConnected, s.connected)
		if len(s.sample) > 0 {
			b.SetStr(fieldPairList, s.text())
		}
	}
	if s.did[1] {
		b.SetInt(fieldRegions, s.regions)
		b.SetInt(fieldRegionBytes, int64(min(s.regionBytes, 1<<63-1)))
	}
	if s.did[2] {
		b.SetInt(fieldQueues, s.queues)
	}
	if f.env.Jobs == nil || f.cur.pid == 0 {
		return
	}
	if j, ok := f.env.Jobs.JobOf(int32(f.cur.pid)); ok {
		b.SetStr(fieldJobSource, j.Source)
		b.SetStr(fieldJobID, j.ID)
	}
}

// which is the attribute that names a device.
type which uint32

func (w which) Len() int { return 8 }

func (w which) Serialize() []byte {
	b := make([]byte, w.Len())
	binary.NativeEndian.PutUint16(b, 8)
	binary.NativeEndian.PutUint16(b[2:], attrIdx)
	binary.NativeEndian.PutUint32(b[4:], uint32(w))
	return b
}

// ask asks by a socket of its own.
func ask(cmd int, index int64, each func(msg []byte) error) error {
	s, err := nl.Subscribe(unix.NETLINK_RDMA)
	if err != nil {
		return fmt.Errorf("open RDMA netlink: %w", err)
	}
	defer s.Close()
	wait := unix.Timeval{Sec: waitFor}
	if err = errors.Join(s.SetReceiveTimeout(&wait), s.SetSendTimeout(&wait)); err != nil {
		return fmt.Errorf("open RDMA netlink: %w", err)
	}
	req := nl.NewNetlinkRequest(client<<10|cmd, unix.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_RDMA: {Socket: s}}
	if index >= 0 {
		req.AddData(which(index))
	}
	var bad error
	err = req.ExecuteIter(unix.NETLINK_RDMA, 0, func(msg []byte) bool {
		bad = each(msg)
		return bad == nil
	})
	if errors.Is(err, nl.ErrDumpInterrupted) {
		err = nil // what came or went meanwhile is seen at the next look
	}
	if err = cmp.Or(err, bad); err != nil {
		return fmt.Errorf("ask RDMA netlink: %w", err)
	}
	return nil
}
