package proc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks"
	"github.com/flopwatch/flopwatch/agent/source"
	progs "github.com/flopwatch/flopwatch/bpf/proc"
	"github.com/flopwatch/flopwatch/internal/wire"
)

const (
	openerBytes = 24 // struct opener of bpf/proc
	maxOpeners  = 4096
)

type objects struct {
	OnExec  *ebpf.Program `ebpf:"on_exec"`
	OnExit  *ebpf.Program `ebpf:"on_exit"`
	Openers *ebpf.Program `ebpf:"openers"`

	Events  *ebpf.Map `ebpf:"events"`
	Tracked *ebpf.Map `ebpf:"tracked"`
	Cgroups *ebpf.Map `ebpf:"cgroups"`
	Scratch *ebpf.Map `ebpf:"scratch"`

	Majors    *ebpf.Variable `ebpf:"majors"`
	Dropped   *ebpf.Variable `ebpf:"dropped"`
	Untracked *ebpf.Variable `ebpf:"untracked"`
}

// bpf sees processes by programs in the kernel.
type bpf struct {
	o      objects
	links  []link.Link
	ring   *ringbuf.Reader
	files  *tasks.Files
	rec    ringbuf.Record
	groups map[uint64]bool
	gpus   map[int32]uint64 // start of each process that was tracked
	lost   [2]uint64
	lately uint64
}

func open(env *kernel.Env, ring uint32) (*bpf, error) {
	spec, err := progs.LoadProc()
	if err != nil {
		return nil, fmt.Errorf("read programs: %w", err)
	}
	if ring > 0 {
		spec.Maps["events"].MaxEntries = ring
	}
	b := &bpf{groups: map[uint64]bool{}, gpus: map[int32]uint64{}}
	opts := env.Options()
	if err = spec.LoadAndAssign(&b.o, &opts); err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	if b.ring, err = ringbuf.NewReader(b.o.Events); err != nil {
		return nil, errors.Join(fmt.Errorf("open ring: %w", err), b.close())
	}
	b.ring.SetDeadline(time.Unix(1, 0)) // it never waits
	for _, p := range []*ebpf.Program{b.o.OnExec, b.o.OnExit} {
		l, lerr := link.AttachTracing(link.TracingOptions{Program: p})
		if lerr != nil {
			return nil, errors.Join(fmt.Errorf("attach programs: %w", lerr), b.close())
		}
		b.links = append(b.links, l)
	}
	b.files = tasks.New(b.o.Openers, env.BTF)
	return b, nil
}

func (b *bpf) close() error {
	var errs []error
	for _, l := range b.links {
		errs = append(errs, l.Close())
	}
	if b.ring != nil {
		errs = append(errs, b.ring.Close())
	}
	for _, p := range []*ebpf.Program{b.o.OnExec, b.o.OnExit, b.o.Openers} {
		errs = append(errs, p.Close())
	}
	for _, m := range []*ebpf.Map{b.o.Events, b.o.Tracked, b.o.Cgroups, b.o.Scratch} {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// aim adds to what is tracked. What ends takes itself off in the kernel; what was never
// seen to end, as it is not on a GPU any more, stays tracked till then.
func (b *bpf) aim(list []*tasks.Process, groups map[uint64]source.Job, majors []uint32) error {
	var m [maxMajors]uint32
	copy(m[:], majors)
	if err := b.o.Majors.Set(m); err != nil {
		return fmt.Errorf("set the numbers of devices: %w", err)
	}
	clear(b.gpus)
	for _, p := range list {
		b.gpus[p.PID] = p.Start
		if err := b.o.Tracked.Put(uint32(p.PID), uint8(1)); err != nil {
			return fmt.Errorf("track process %d: %w", p.PID, err)
		}
	}
	for id := range b.groups {
		if _, ok := groups[id]; !ok {
			if err := b.o.Cgroups.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("forget control group %d: %w", id, err)
			}
			delete(b.groups, id)
		}
	}
	for id := range groups {
		if !b.groups[id] {
			if err := b.o.Cgroups.Put(id, uint8(1)); err != nil {
				return fmt.Errorf("watch control group %d: %w", id, err)
			}
			b.groups[id] = true
		}
	}
	return nil
}

func (b *bpf) events(_ uint64, each func(Event)) error {
	for range maxEvent {
		err := b.ring.ReadInto(&b.rec)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return fmt.Errorf("read ring: %w", err)
		}
		if e, ok := parseEvent(b.rec.RawSample); ok {
			each(e)
		}
	}
	var now [2]uint64
	if err := errors.Join(b.o.Dropped.Get(&now[0]), b.o.Untracked.Get(&now[1])); err != nil {
		return fmt.Errorf("read what was dropped: %w", err)
	}
	b.lately, b.lost = now[0]+now[1]-b.lost[0]-b.lost[1], now
	return nil
}

func (b *bpf) openers(_ []uint32, to []opener) ([]opener, error) {
	err := b.files.All(func(p []byte) int {
		at := 0
		for ; len(p)-at >= openerBytes; at += openerBytes {
			if o, ok := parseOpener(p[at : at+openerBytes]); ok && len(to) < maxOpeners {
				to = append(to, o)
			}
		}
		return at
	})
	return to, err
}

// parseOpener reads struct opener of bpf/proc.
func parseOpener(b []byte) (o opener, ok bool) {
	if len(b) < openerBytes {
		return o, false
	}
	o = opener{file: binary.NativeEndian.Uint64(b), pid: int32(binary.NativeEndian.Uint32(b[8:])),
		parent: int32(binary.NativeEndian.Uint32(b[12:])), major: binary.NativeEndian.Uint32(b[16:]) >> 20}
	return o, o.pid > 0
}

func (b *bpf) openEvery() int64 { return openMs }

func (b *bpf) source() wire.Source { return wire.SourceEBPF }

func (b *bpf) report() kernel.Report {
	if b.lately > 0 {
		return kernel.Degraded(fmt.Sprintf("there was no room for %d events since the last look", b.lately), nil, "")
	}
	return kernel.Active()
}

func (b *bpf) load() kernel.Load {
	l := kernel.Load{Processes: max(len(b.gpus), 1), Counts: []kernel.Count{{Name: "dropped_events", Value: b.lost[0]}, {Name: "untracked", Value: b.lost[1]}}}
	for _, p := range []struct {
		name string
		prog *ebpf.Program
	}{{"on_exec", b.o.OnExec}, {"on_exit", b.o.OnExit}} {
		if s, err := p.prog.Stats(); err == nil {
			l.Probes = append(l.Probes, kernel.Probe{Name: p.name, Calls: s.RunCount, Ns: uint64(s.Runtime), Measured: s.Runtime > 0})
		}
	}
	return l
}
