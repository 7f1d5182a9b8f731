package sock

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks"
	"github.com/flopwatch/flopwatch/agent/source"
	progs "github.com/flopwatch/flopwatch/bpf/sock"
)

// sumKey and sumValue are struct key and struct sum of bpf/sock.
type sumKey struct {
	Group uint64
	Tgid  uint32
	_     uint32
	Peer  [16]byte
}

type sumValue struct{ Tx, Rx, Retransmits, Connections uint64 }

// objects is the collection.
type objects struct {
	OnState *ebpf.Program `ebpf:"on_state"`
	Pass    *ebpf.Program `ebpf:"pass"`

	SumsA     *ebpf.Map `ebpf:"sums_a"`
	SumsB     *ebpf.Map `ebpf:"sums_b"`
	Current   *ebpf.Map `ebpf:"current"`
	Sockets   *ebpf.Map `ebpf:"sockets"`
	Processes *ebpf.Map `ebpf:"processes"`
	Cgroups   *ebpf.Map `ebpf:"cgroups"`
	Addresses *ebpf.Map `ebpf:"addresses"`

	Everyone       *ebpf.Variable `ebpf:"everyone"`
	Turn           *ebpf.Variable `ebpf:"turn"`
	Began          *ebpf.Variable `ebpf:"began"`
	DroppedBytes   *ebpf.Variable `ebpf:"dropped_bytes"`
	DroppedSockets *ebpf.Variable `ebpf:"dropped_sockets"`
}

const (
	readAtOnce = 256 // sums that one call reads
	maxRounds  = 8   // how often one look fills the sums
)

// bpf reads the counters by programs in the kernel.
type bpf struct {
	o     objects
	state link.Link
	files *tasks.Files
	all   bool
	turn  uint32
	other bool // sums_b is in use

	pids    map[uint32]uint8 // as in the kernel's map
	groups  map[uint64]bool
	want    map[uint32]uint8
	keys    []sumKey
	values  []sumValue
	dropped [2]uint64 // sockets and bytes
	lately  uint64    // sockets dropped since the last look
	full    bool      // at the last look some live sockets found no room
}

// open loads and attaches the programs.
func open(env *kernel.Env, cfg Config) (*bpf, error) {
	spec, err := progs.LoadSock()
	if err != nil {
		return nil, fmt.Errorf("read programs: %w", err)
	}
	if cfg.sums > 0 {
		for _, name := range []string{"sums_a", "sums_b"} {
			spec.Maps[name].MaxEntries = cfg.sums
		}
		spec.Maps["current"].InnerMap.MaxEntries = cfg.sums
	}
	b := &bpf{all: cfg.All, turn: 1, pids: map[uint32]uint8{}, groups: map[uint64]bool{}, want: map[uint32]uint8{},
		keys: make([]sumKey, readAtOnce), values: make([]sumValue, readAtOnce)}
	opts := env.Options()
	if err = spec.LoadAndAssign(&b.o, &opts); err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	var now unix.Timespec
	if err = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err == nil {
		err = b.o.Began.Set(uint64(now.Nano()))
	}
	if err == nil && cfg.All {
		err = b.o.Everyone.Set(uint32(1))
	}
	if err == nil {
		b.state, err = link.AttachTracing(link.TracingOptions{Program: b.o.OnState})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach programs: %w", err), b.close())
	}
	b.files = tasks.New(b.o.Pass, env.BTF)
	return b, nil
}

func (b *bpf) close() error {
	var errs []error
	if b.state != nil {
		errs = append(errs, b.state.Close())
	}
	for _, p := range []*ebpf.Program{b.o.OnState, b.o.Pass} {
		errs = append(errs, p.Close())
	}
	for _, m := range []*ebpf.Map{b.o.SumsA, b.o.SumsB, b.o.Current, b.o.Sockets, b.o.Processes, b.o.Cgroups, b.o.Addresses} {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

func (b *bpf) look(ctx context.Context, list []*tasks.Process, groups map[uint64]source.Job, add func(sum)) error {
	if err := b.aim(list, groups); err != nil {
		return err
	}
	b.full = false
	var err error
	for round := 1; err == nil; round++ {
		err = b.pass(ctx, list)
		n, derr := b.drain(add)
		err = errors.Join(err, derr)
		if n < int(b.o.SumsA.MaxEntries()) {
			break
		}
		// It was full. Sockets that were counted at this turn are passed over when they have
		// moved nothing since, so those that found no room do now.
		if round == maxRounds {
			b.full = true
			break
		}
	}
	b.turn++
	if terr := b.o.Turn.Set(b.turn); terr != nil {
		err = errors.Join(err, fmt.Errorf("begin a turn: %w", terr))
	}
	var now [2]uint64
	if derr := errors.Join(b.o.DroppedSockets.Get(&now[0]), b.o.DroppedBytes.Get(&now[1])); derr != nil {
		return errors.Join(err, fmt.Errorf("read what was dropped: %w", derr))
	}
	b.lately, b.dropped = now[0]-b.dropped[0], now
	return err
}

// pass runs the iterator over the sockets of watched processes.
func (b *bpf) pass(ctx context.Context, list []*tasks.Process) error {
	nothing := func(p []byte) int { return len(p) }
	if b.all || !b.files.Single() {
		return b.files.All(nothing)
	}
	var err error
	for _, p := range list {
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		err = errors.Join(err, b.files.Process(p.PID, nothing))
	}
	return err
}

// aim brings the kernel's lists of watched processes and groups up to now. A process that
// was not watched at the last look has the value 2.
func (b *bpf) aim(list []*tasks.Process, groups map[uint64]source.Job) error {
	clear(b.want)
	for _, p := range list {
		v := uint8(1)
		if p.Fresh {
			v = 2
		}
		b.want[uint32(p.PID)] = v
	}
	for pid := range b.pids {
		if b.want[pid] == 0 {
			if err := b.o.Processes.Delete(pid); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("forget process %d: %w", pid, err)
			}
			delete(b.pids, pid)
		}
	}
	for pid, v := range b.want {
		if b.pids[pid] != v {
			if err := b.o.Processes.Put(pid, v); err != nil {
				return fmt.Errorf("watch process %d: %w", pid, err)
			}
			b.pids[pid] = v
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

// drain gives the programs the other map to add to, and reads what is in the first.
// n is how many sums there were.
func (b *bpf) drain(add func(sum)) (n int, err error) {
	full, empty := b.o.SumsA, b.o.SumsB
	if b.other {
		full, empty = empty, full
	}
	// This call returns when no program uses the old map any more.
	if err = b.o.Current.Put(uint32(0), empty); err != nil {
		return 0, fmt.Errorf("change the sums: %w", err)
	}
	b.other = !b.other
	var at ebpf.MapBatchCursor
	for {
		got, err := full.BatchLookupAndDelete(&at, b.keys, b.values, nil)
		for i := range got {
			k, v := &b.keys[i], &b.values[i]
			add(sum{group: k.Group, tgid: k.Tgid, peer: netip.AddrFrom16(k.Peer), tx: v.Tx, rx: v.Rx, retransmits: v.Retransmits, connections: v.Connections})
		}
		n += got
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("read sums: %w", err)
		}
	}
}

func (b *bpf) addresses(each func(netip.Addr)) {
	var key [16]byte
	var turn uint32
	it := b.o.Addresses.Iterate()
	for it.Next(&key, &turn) {
		if b.turn-turn > 64 { // none of its sockets is left, or all are still
			_ = b.o.Addresses.Delete(key) // it may be gone already
			continue
		}
		each(netip.AddrFrom16(key))
	}
}

func (b *bpf) report() kernel.Report {
	if b.lately > 0 {
		return kernel.Degraded(fmt.Sprintf("there was no room for %d sockets since the last look: bytes are missing", b.lately), nil, "")
	}
	if b.full {
		return kernel.Degraded("there was no room for all live sockets at this look: the bytes of some come later", nil, "")
	}
	return kernel.Active()
}

func (b *bpf) load() kernel.Load {
	l := kernel.Load{Processes: max(len(b.pids), 1), Counts: []kernel.Count{{Name: "dropped_sockets", Value: b.dropped[0]}, {Name: "dropped_bytes", Value: b.dropped[1]}}}
	if s, err := b.o.OnState.Stats(); err == nil {
		l.Probes = append(l.Probes, kernel.Probe{Name: "on_state", Calls: s.RunCount, Ns: uint64(s.Runtime), Measured: s.Runtime > 0})
	}
	return l
}
