package nvmlstub

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory is a stub's shared memory. Its methods may be called from several goroutines; of
// several processes, one at a time may change it.
type Memory struct {
	mu     sync.Mutex
	m      *memory
	raw    []byte
	lastID uint64 // of faults
}

// ErrForeign says that a file is not the stub's shared memory, or of another version.
var ErrForeign = errors.New("not the NVML stub's shared memory of this version")

// Create makes the shared memory of a scenario. A file of that name is replaced: who has it
// open keeps the old one until it initializes NVML anew.
func Create(path string, s Scenario) (*Memory, error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("create the NVML stub's memory: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	defer func() { _ = tmp.Close() }()
	if err = tmp.Truncate(int64(memorySize)); err == nil {
		err = tmp.Chmod(0o644)
	}
	if err != nil {
		return nil, fmt.Errorf("create the NVML stub's memory: %w", err)
	}
	m, err := mapFile(tmp)
	if err != nil {
		return nil, err
	}
	h := &m.m.header
	copy(h.magic[:], magic)
	h.version, h.size, h.configOffset, h.functionsOffset = version, uint64(memorySize), uint64(configOffset), uint64(functionsOffset)
	if err = m.SetScenario(s); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("create the NVML stub's memory %s: %w", path, err)
	}
	return m, nil
}

// Open opens shared memory that another process created.
func Open(path string) (*Memory, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open the NVML stub's memory: %w", err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open the NVML stub's memory: %w", err)
	}
	if st.Size() != int64(memorySize) {
		return nil, fmt.Errorf("open %s: %w: %d bytes, wanted %d", path, ErrForeign, st.Size(), memorySize)
	}
	m, err := mapFile(f)
	if err != nil {
		return nil, err
	}
	h := &m.m.header
	if string(h.magic[:]) != magic || h.version != version || h.size != uint64(memorySize) || h.configOffset != uint64(configOffset) ||
		h.functionsOffset != uint64(functionsOffset) || m.m.config.gpus < 1 || m.m.config.gpus > MaxGPUs {
		_ = m.Close()
		return nil, fmt.Errorf("open %s: %w", path, ErrForeign)
	}
	for i := range m.m.config.fault {
		m.lastID = max(m.lastID, m.m.config.fault[i].id)
	}
	return m, nil
}

func mapFile(f *os.File) (*Memory, error) {
	raw, err := syscall.Mmap(int(f.Fd()), 0, memorySize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the NVML stub's memory: %w", err)
	}
	return &Memory{m: (*memory)(unsafe.Pointer(unsafe.SliceData(raw))), raw: raw}, nil
}

// Close unmaps the memory; the file stays. No method may be called after it.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.raw == nil {
		return nil
	}
	raw := m.raw
	m.m, m.raw = nil, nil
	if err := syscall.Munmap(raw); err != nil {
		return fmt.Errorf("unmap the NVML stub's memory: %w", err)
	}
	return nil
}

// change lets the library see all of a change or nothing of it: while the number is odd it waits.
func (m *Memory) change(f func(*config) error) error { return m.changeCounted(f, nil) }

// changeCounted changes as well how often each fault is met.
func (m *Memory) changeCounted(f func(*config) error, left []int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	seq := &m.m.header.seq
	before := atomic.LoadUint64(seq) &^ 1 // a writer that died may have left it odd
	next := m.m.config
	if err := f(&next); err != nil {
		return err
	}
	atomic.StoreUint64(seq, before+1)
	m.m.config = next
	for i, n := range left {
		atomic.StoreInt64(&m.m.header.faultLeft[i], n)
	}
	atomic.StoreUint64(seq, before+2)
	return nil
}

// SetScenario replaces everything: GPUs, load, processes, events, faults, and the start of time.
func (m *Memory) SetScenario(s Scenario) error {
	boot, err := bootUs()
	if err != nil {
		return err
	}
	atomic.StoreInt64(&m.m.header.nowUs, 0)
	err = m.change(func(c *config) error {
		*c = config{baseBootUs: boot, baseEpochUs: s.Epoch.UnixMicro(), nextID: c.nextID}
		if s.Epoch.IsZero() {
			c.baseEpochUs = time.Now().UnixMicro()
		}
		if s.Manual {
			c.manual = 1
		}
		return s.fill(c)
	})
	if err != nil {
		return err
	}
	return m.SetFaults(s.Faults...)
}

func bootUs() (int64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0, fmt.Errorf("read the boot clock: %w", err)
	}
	return t.Sec*1e6 + t.Nsec/1e3, nil
}

// SetNow moves the clock to a time since the scenario's start, and makes it the test's from here on.
func (m *Memory) SetNow(now time.Duration) error {
	atomic.StoreInt64(&m.m.header.nowUs, us(now))
	if look(m, func(c *config) bool { return c.manual == 1 }) {
		return nil
	}
	return m.change(func(c *config) error {
		c.manual = 1
		return nil
	})
}

// UseRealClock lets the machine's clock run from a time since the scenario's start. Time
// stamps are the machine's from here on.
func (m *Memory) UseRealClock(now time.Duration) error {
	boot, err := bootUs()
	if err != nil {
		return err
	}
	return m.change(func(c *config) error {
		c.manual, c.baseBootUs, c.baseEpochUs = 0, boot-us(now), time.Now().Add(-now).UnixMicro()
		return nil
	})
}

// Now is the time since the scenario's start.
func (m *Memory) Now() (time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.m.config.manual == 1 {
		return time.Duration(atomic.LoadInt64(&m.m.header.nowUs)) * time.Microsecond, nil
	}
	boot, err := bootUs()
	return time.Duration(max(0, boot-m.m.config.baseBootUs)) * time.Microsecond, err
}

// look reads the configuration while nobody of this process changes it.
func look[T any](m *Memory, f func(*config) T) T {
	m.mu.Lock()
	defer m.mu.Unlock()
	return f(&m.m.config)
}

// GPUs is how many there are.
func (m *Memory) GPUs() int { return look(m, func(c *config) int { return int(c.gpus) }) }

// UUID is what the stub calls a GPU.
func (m *Memory) UUID(gpu int) string {
	return look(m, func(c *config) string { return text(c.gpu[gpu].uuid[:]) })
}

// Name is a GPU's product name.
func (m *Memory) Name(gpu int) string {
	return look(m, func(c *config) string { return text(c.gpu[gpu].name[:]) })
}

// SetFaults replaces all faults; without any, what hangs goes on.
func (m *Memory) SetFaults(list ...Fault) error {
	if len(list) > MaxFaults {
		return fmt.Errorf("nvmlstub: %d faults, wanted at most %d", len(list), MaxFaults)
	}
	left := make([]int64, len(list))
	for i, f := range list {
		left[i] = orDefault(f.Count, -1)
	}
	return m.changeCounted(func(c *config) error {
		for i, f := range list {
			gpus, err := mask(f.GPUs, "a fault")
			if err != nil {
				return err
			}
			if f.GPUs == nil {
				gpus = 1<<(NoGPU+1) - 1
			}
			m.lastID++
			q := fault{id: m.lastID, gpus: gpus, code: f.Code, delayUs: us(f.Delay), fromUs: us(f.From), toUs: until(f.To)}
			if err = put(q.function[:], "function", f.Function); err != nil {
				return err
			}
			if f.Function == "" || f.Delay < 0 || f.Count < 0 {
				return fmt.Errorf("nvmlstub: fault %d: function %q, delay %v, count %d", i, f.Function, f.Delay, f.Count)
			}
			c.fault[i] = q
		}
		clear(c.fault[len(list):])
		c.faults = uint32(len(list))
		return nil
	}, left)
}

// SetProcesses replaces all processes.
func (m *Memory) SetProcesses(list ...Process) error {
	return m.change(func(c *config) error {
		clear(c.process[:])
		return fillProcesses(c, list)
	})
}

// SetEvents replaces all events.
func (m *Memory) SetEvents(list ...Event) error {
	return m.change(func(c *config) error { return fillEvents(c, list) })
}

// pushMargin is how near to now an event of the list may already have been seen, by a running clock.
const pushMargin = 100 * time.Millisecond

// Push lets events happen now, whatever their At says; those still to come stay. Where there is no
// more room, the oldest are forgotten.
func (m *Memory) Push(list ...Event) error {
	if len(list) > MaxEvents {
		return fmt.Errorf("nvmlstub: %d events, wanted at most %d", len(list), MaxEvents)
	}
	now, err := m.Now()
	if err != nil {
		return err
	}
	return m.change(func(c *config) error {
		all := slices.Clone(c.event[:c.events])
		at, margin := len(all), us(pushMargin)
		if c.manual == 1 {
			margin = 0
		}
		if i := slices.IndexFunc(all, func(e event) bool { return e.atUs > us(now)+margin }); i >= 0 {
			at = i
		}
		when := us(now)
		if at > 0 {
			when = max(when, all[at-1].atUs)
		}
		for i, e := range list {
			q, err := e.shared(c)
			if err != nil {
				return err
			}
			q.atUs = when
			all = slices.Insert(all, at+i, q)
		}
		for i := range all[at:] { // nobody has seen these
			all[at+i].id = c.newID()
		}
		all = all[max(0, len(all)-MaxEvents):]
		clear(c.event[:])
		c.events = uint32(copy(c.event[:], all))
		return nil
	})
}

// SetSegments replaces a GPU's load. Its counters become those of the new load from the start,
// so change it before something reads, or at the end of all that was read.
func (m *Memory) SetSegments(gpu int, list ...Segment) error {
	return m.changeGPU(gpu, func(c *config, g *device) (err error) {
		g.segments, err = fillSegments(g.segment[:], list, c.repeatUs)
		return err
	})
}

// changeGPU is change for what concerns one GPU.
func (m *Memory) changeGPU(gpu int, f func(*config, *device) error) error {
	return m.change(func(c *config) error {
		if gpu < 0 || gpu >= int(c.gpus) {
			return fmt.Errorf("nvmlstub: GPU %d of %d", gpu, c.gpus)
		}
		if err := f(c, &c.gpu[gpu]); err != nil {
			return fmt.Errorf("nvmlstub: GPU %d: %w", gpu, err)
		}
		return nil
	})
}

// newID is an id that nothing had before in this memory.
func (c *config) newID() uint64 {
	c.nextID++
	return c.nextID
}

// SetLost loses a GPU from a time on; a negative time brings it back.
func (m *Memory) SetLost(gpu int, at time.Duration) error {
	return m.changeGPU(gpu, func(_ *config, g *device) error {
		g.lostUs = us(at)
		if at < 0 {
			g.lostUs = never
		}
		return nil
	})
}

// Health is what a GPU tells of itself at the moment.
func (m *Memory) Health(gpu int) Health {
	return look(m, func(c *config) Health { return c.gpu[gpu].health })
}

// SetHealth replaces it: h := m.Health(2); h.ECCCorrectedVolatile++; err := m.SetHealth(2, h).
func (m *Memory) SetHealth(gpu int, h Health) error {
	return m.changeGPU(gpu, func(_ *config, g *device) error {
		if err := g.complete(&h); err != nil {
			return err
		}
		g.health = h
		return nil
	})
}

// SetConfidentialComputing changes what the driver says of it, and what works.
func (m *Memory) SetConfidentialComputing(cc ConfidentialComputing) error { return m.change(cc.fill) }

// SetFabric changes what a GPU knows of its NVLink fabric.
func (m *Memory) SetFabric(gpu int, to Fabric) error {
	return m.changeGPU(gpu, func(_ *config, g *device) error {
		g.setFabric(to, Model(g.model).figures())
		return nil
	})
}

// SetBroken lets all calls on a GPU return a code, such as CodeResetRequired; 0 mends it.
func (m *Memory) SetBroken(gpu int, code uint32) error {
	return m.changeGPU(gpu, func(_ *config, g *device) error {
		g.broken = code
		return nil
	})
}

// SetGPUs lets the host have only the first n of the scenario's GPUs, or all again. The others
// keep what they are.
func (m *Memory) SetGPUs(n int) error {
	return m.change(func(c *config) error {
		if n < 1 || n > MaxGPUs || c.gpu[n-1].uuid[0] == 0 {
			return fmt.Errorf("nvmlstub: %d GPUs, wanted 1 to the scenario's", n)
		}
		kept := slices.DeleteFunc(slices.Clone(c.event[:c.events]), func(e event) bool { return int(e.gpu) >= n })
		clear(c.event[:])
		c.gpus, c.events = uint32(n), uint32(copy(c.event[:], kept))
		return nil
	})
}

// ReplaceDriver is what an upgrade on a running host does: processes that have the library open
// meet CodeVersionMismatch in every call from now on, even after they initialize it anew, and
// those that load it from now on do not.
func (m *Memory) ReplaceDriver(version string) error {
	return m.change(func(c *config) error {
		c.driverEpoch++
		if err := put(c.driver[:], "driver version", version); err != nil {
			return err
		}
		return put(c.nvml[:], "NVML version", "13."+version)
	})
}

// ResetCounters lets a GPU's counters count from zero from a time on, as after a reload of the driver.
func (m *Memory) ResetCounters(gpu int, at time.Duration) error {
	return m.change(func(c *config) error {
		if gpu < 0 || gpu >= int(c.gpus) || at < 0 {
			return fmt.Errorf("nvmlstub: GPU %d of %d, at %v", gpu, c.gpus, at)
		}
		c.gpu[gpu].resetUs = us(at)
		return nil
	})
}

// Calls is how often a function was called for a GPU; NoGPU: without one. A function that no
// process has called, or that does not exist, has 0.
func (m *Memory) Calls(name string, gpu int) uint64 {
	return m.Snapshot()[name].of(gpu)
}

// InFlight is how many calls of all processes are under way on a GPU; NoGPU: without one. A
// process that was killed leaves its own in it, until ResetInFlight.
func (m *Memory) InFlight(gpu int) int { return m.flight(gpu, &m.m.header.inFlight) }

// MostInFlight is how many calls on a GPU one process had under way at once, at the most.
func (m *Memory) MostInFlight(gpu int) int { return m.flight(gpu, &m.m.header.mostAtOnce) }

func (m *Memory) flight(gpu int, of *[MaxGPUs + 1]uint32) int {
	if gpu < 0 || gpu > NoGPU {
		return 0
	}
	return int(atomic.LoadUint32(&of[gpu]))
}

// ResetInFlight forgets what was in flight: while nothing calls.
func (m *Memory) ResetInFlight() {
	for i := range m.m.header.inFlight {
		atomic.StoreUint32(&m.m.header.inFlight[i], 0)
		atomic.StoreUint32(&m.m.header.mostAtOnce[i], 0)
	}
}

// Counts are the calls of a function by GPU, the last entry those without one.
type Counts [MaxGPUs + 1]uint64

func (c Counts) of(gpu int) uint64 {
	if gpu < 0 || gpu > NoGPU {
		return 0
	}
	return c[gpu]
}

// Calls are counts by function, without those that nobody called.
type Calls map[string]Counts

// Snapshot reads all counters.
func (m *Memory) Snapshot() Calls {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := Calls{}
	for i := range m.m.function {
		f := &m.m.function[i]
		if atomic.LoadUint32(&f.state) != 2 {
			continue
		}
		var n Counts
		for g := range n {
			n[g] = atomic.LoadUint64(&f.calls[g])
		}
		if n != (Counts{}) {
			out[text(f.name[:])] = n
		}
	}
	return out
}

// Since is what was called after an earlier snapshot.
func (c Calls) Since(before Calls) Calls {
	out := Calls{}
	for name, n := range c {
		for g, was := range before[name] {
			n[g] -= was
		}
		if n != (Counts{}) {
			out[name] = n
		}
	}
	return out
}

// Total is the number of calls, of all functions, for a GPU; NoGPU: without one; -1: all.
func (c Calls) Total(gpu int) (sum uint64) {
	for _, n := range c {
		for g, v := range n {
			if gpu == -1 || g == gpu {
				sum += v
			}
		}
	}
	return sum
}

// Truth is what a GPU did in a stretch of time, exactly. Means are over the stretch.
type Truth struct {
	EnergyJ                         float64
	Mean                            Level
	NVLinkTxBytes, NVLinkRxBytes    float64
	PCIeTxBytes, PCIeRxBytes        float64
	TensorSeconds, TensorMegacycles float64 // the integrals of the tensor fraction, and of it times the SM clock in MHz
	CyclesElapsed                   float64 // of the SM clock
	Cycles                          Level   // the integrals of the fractions times the SM clock, in cycles: what GPM counts since boot
	BusySeconds                     float64 // with a kernel on it
}

// Truth integrates from one time since the scenario's start to another.
func (m *Memory) Truth(gpu int, from, to time.Duration) Truth {
	return look(m, func(c *config) Truth { return c.truth(c.gpu[gpu].load(), us(from), us(to)) })
}

// At is what a GPU does at a moment.
func (m *Memory) At(gpu int, t time.Duration) Level {
	return look(m, func(c *config) Level { return c.at(c.gpu[gpu].load(), us(t)) })
}

func (c *config) truth(l timeline, fromUs, toUs int64) Truth {
	// Nothing is below zero but by the rounding of two large sums.
	between := func(f func(*Level) float64) float64 {
		return max(0, c.integral(l, f, toUs)-c.integral(l, f, fromUs))
	}
	var t Truth
	var sum Level
	for q := range NumQuantities {
		sum[q] = between(func(l *Level) float64 { return l[q] })
		if toUs > fromUs {
			t.Mean[q] = sum[q] * 1e6 / float64(toUs-fromUs)
		}
	}
	t.EnergyJ, t.TensorSeconds, t.BusySeconds = sum[PowerW], sum[Tensor], sum[Util]
	t.NVLinkTxBytes, t.NVLinkRxBytes, t.PCIeTxBytes, t.PCIeRxBytes = sum[NVLinkTxBps], sum[NVLinkRxBps], sum[PCIeTxBps], sum[PCIeRxBps]
	t.TensorMegacycles = between(func(l *Level) float64 { return l[Tensor] * l[SMClockMHz] })
	t.CyclesElapsed = between(func(l *Level) float64 { return l[SMClockMHz] * 1e6 })
	for q := range PowerW {
		t.Cycles[q] = between(func(l *Level) float64 { return l[q] * l[SMClockMHz] * 1e6 })
	}
	return t
}
