package nvmlstub

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Kind says what a segment plays; the library does not look at it.
type Kind uint32

// Kinds.
const (
	Idle Kind = iota
	Train
	Infer
	Burn
	Checkpoint
	Other
)

// Scenario is all that a stub shows. All times are counted from its start.
type Scenario struct {
	GPUs []GPU
	Host uint32 // part of UUIDs and serials, so that the GPUs of several hosts differ
	// Repeat is the length of a cycle; 0: the segments play once, and then the GPUs idle.
	Repeat                     time.Duration
	DriverVersion, NVMLVersion string // empty: 580.95.05, and 13 before it
	CUDAVersion                int    // as NVML counts, 13000; 0: that
	Processes                  []Process
	Events                     []Event
	Faults                     []Fault
	CC                         ConfidentialComputing
	// Unprivileged is what the caller is to the driver: sums over the MIG devices of a GPU are not for it.
	Unprivileged bool
	// Manual starts with the clock that SetNow moves, at 0, and not with the machine's.
	Manual bool
	// Epoch is what the stub's time stamps take for its start; zero: the moment of Create.
	Epoch time.Time
}

// GPU is one device. Empty fields are filled from the model and the GPU's place.
type GPU struct {
	Model                     Model
	Name, UUID, Serial, VBIOS string
	PowerLimitMW              uint32
	EnergyStartMJ             uint64 // of the counter at the scenario's start
	Cycles                    Cycles // whether GPM counts since boot
	CyclesStart               uint64 // of the SM clock, at the scenario's start
	PCIeWrapBytes             uint64 // modulus of the PCIe counters; 0: they do not wrap
	Health                    Health
	Fabric                    Fabric
	ECCCorrected              uint64 // short for volatile and aggregate ones in Health, and so with the next three
	ECCUncorrected            uint64
	RemappedRows              uint32     // for uncorrectable errors
	NVLinkErrors              uint64     // of each kind, a link
	MIG                       bool       // shown as enabled, whether or not there are instances
	Instances                 []Instance // MIG devices; they turn it on
	LostAt                    time.Duration
	ResetAt                   time.Duration // from when on its counters count from zero, above 0
	Segments                  []Segment     // by time, apart from each other; idle between them
}

// Fabric is what a GPU knows of the NVLink fabric that it belongs to; the zero value is the model's.
type Fabric struct {
	State, Status       uint32 // states of nvmlGpuFabricState_t; the status is a code
	ClusterUUID         [16]byte
	Clique              uint32
	HealthMask, Summary uint32
}

// States of a fabric.
const (
	FabricNotSupported uint32 = iota
	FabricNotStarted
	FabricInProgress
	FabricCompleted
)

// ConfidentialComputing is what the driver says of it; the zero value is off.
type ConfidentialComputing struct {
	On, DevTools, NotReady bool
	Environment, MultiGPU  uint32 // as the header counts; Environment 0: production where it is on
	// Blocked are functions that return NOT_SUPPORTED while it is on, each a name or a beginning and
	// '*'. Nil is a guess, since nobody has told which they are: GPM and what is of processes,
	// unless DevTools; empty is none.
	Blocked []string
}

// blockedByDefault is a guess.
var blockedByDefault = []string{
	"nvmlGpmSampleGet", "nvmlGpmMigSampleGet", "nvmlGpmMetricsGet", "nvmlDeviceGetProcessUtilization", "nvmlDeviceGetProcessesUtilizationInfo", "nvmlDeviceGetSamples",
}

func (cc ConfidentialComputing) fill(c *config) error {
	c.ccCapable, c.ccFeature, c.ccDevtools, c.ccMultiGPU, c.ccReady, c.ccEnvironment = 0, bit(cc.On), bit(cc.DevTools), cc.MultiGPU, bit(!cc.NotReady), cc.Environment
	for i := range c.gpu[:c.gpus] {
		if c.gpu[i].architecture >= archHopper {
			c.ccCapable = 1
		}
	}
	if cc.On {
		if c.ccCapable == 0 {
			return errors.New("nvmlstub: none of the GPUs is capable of confidential computing")
		}
		c.ccEnvironment = orDefault(cc.Environment, 2)
	}
	list := cc.Blocked
	if list == nil && !cc.DevTools {
		list = blockedByDefault
	}
	if !cc.On {
		list = nil
	}
	if len(list) > MaxBlocked {
		return fmt.Errorf("nvmlstub: %d functions blocked, wanted at most %d", len(list), MaxBlocked)
	}
	clear(c.block[:])
	for i, name := range list {
		if err := put(c.block[i][:], "function", name); err != nil {
			return err
		}
	}
	c.blocked = uint32(len(list))
	return nil
}

// Cycles says what a driver makes of GPM's counters since boot: metrics 248 to 404.
type Cycles uint32

// Ways to answer for counters since boot.
const (
	CyclesCounted     Cycles = iota
	CyclesUnsupported        // the metric returns NOT_SUPPORTED
	CyclesUnknown            // the metric returns INVALID_ARGUMENT
	CyclesRefused            // the whole call does, whatever else it asks for
)

// Segment is a stretch of load. A step computes and then, for the share Comm of it,
// communicates; without a step there is only Compute.
type Segment struct {
	Start, Length time.Duration
	Kind          Kind
	Step, Phase   time.Duration
	Comm          float64
	Compute       Level
	Communicate   Level
	PState        uint32
	Reasons       uint64 // bits of nvmlClocksEventReasons
}

// Process is a process on some GPUs. Times are in the cycle where the scenario repeats; To 0 is for ever.
type Process struct {
	PID       uint32
	GPUs      []int
	UsedBytes uint64 // on each
	Type      ProcessType
	From, To  time.Duration
	Name      string
	MIG       Place
}

// ProcessType says in which of NVML's lists a process is.
type ProcessType uint32

// Process types.
const (
	ComputeProcess ProcessType = iota
	GraphicsProcess
	MPSProcess
)

// Types of events, as NVML counts them.
const (
	SingleBitECCEvent   = 1
	DoubleBitECCEvent   = 2
	PStateEvent         = 4
	XidEvent            = 8 // critical Xid errors: the data is the Xid's number
	ClockEvent          = 0x10
	MIGConfigEvent      = 0x100
	ECCStormEvent       = 0x200
	MemoryRetiredEvent  = 0x400
	GPUUnavailableEvent = 0x4000
	RecoveryActionEvent = 0x8000
)

// Event is delivered to event sets that were registered before it; Type 0 is XidEvent.
type Event struct {
	At         time.Duration
	GPU        int
	Type, Data uint64
	MIG        Place // of an Xid
}

// Fault makes calls fail or hang: the first that fits a call is met. Function is a name, a
// beginning and '*', or '*'. GPUs nil is all of them and the calls that name none; NoGPU
// stands for the latter. To 0 is for ever, Count 0 is every time. Code 0 lets the call succeed
// after the delay. Function may also be "field 94" or "metric 248", for one value of a field batch
// or of GPM: then there is no delay. A delay is of the machine's clock, and ends when the fault is taken away.
type Fault struct {
	Function string
	GPUs     []int
	Code     int32
	Delay    time.Duration
	From, To time.Duration
	Count    int64
}

// NoGPU is the place of calls that name no GPU.
const NoGPU = MaxGPUs

// Codes of NVML that faults are made of; the header has the rest.
const (
	CodeNotSupported    = 3
	CodeNoPermission    = 4
	CodeDriverNotLoaded = 9
	CodeTimeout         = 10
	CodeGPULost         = 15
	CodeResetRequired   = 16
	CodeVersionMismatch = 18
	CodeUnknown         = 999
)

// Hang is a delay that no test outlives: it ends when its fault is taken away.
const Hang = 1000 * time.Hour

func us(d time.Duration) int64 { return d.Microseconds() }

func until(d time.Duration) int64 {
	if d <= 0 {
		return never
	}
	return us(d)
}

// put copies a text and ends it; it must leave room for the end.
func put(to []byte, what, s string) error {
	if len(s) >= len(to) {
		return fmt.Errorf("nvmlstub: %s %q is longer than %d bytes", what, s, len(to)-1)
	}
	clear(to)
	copy(to, s)
	return nil
}

func mask(gpus []int, what string) (uint32, error) {
	var m uint32
	for _, g := range gpus {
		if g < 0 || g > NoGPU {
			return 0, fmt.Errorf("nvmlstub: %s names GPU %d, wanted 0 to %d", what, g, MaxGPUs-1)
		}
		m |= 1 << g
	}
	return m, nil
}

func (s *Scenario) fill(c *config) error {
	if len(s.GPUs) < 1 || len(s.GPUs) > MaxGPUs {
		return fmt.Errorf("nvmlstub: %d GPUs, wanted 1 to %d", len(s.GPUs), MaxGPUs)
	}
	if s.Repeat < 0 || us(s.Repeat) > latestUs {
		return fmt.Errorf("nvmlstub: a cycle of %v", s.Repeat)
	}
	if !s.Epoch.IsZero() && s.Epoch.Unix() < 0 {
		return fmt.Errorf("nvmlstub: time stamps begin at %v, wanted 1970 or later", s.Epoch)
	}
	c.gpus, c.repeatUs, c.cudaVersion = uint32(len(s.GPUs)), us(s.Repeat), int32(orDefault(s.CUDAVersion, 13000))
	c.host, c.unprivileged = s.Host, bit(s.Unprivileged)
	driver := orDefault(s.DriverVersion, "580.95.05")
	if err := put(c.driver[:], "driver version", driver); err != nil {
		return err
	}
	if err := put(c.nvml[:], "NVML version", orDefault(s.NVMLVersion, "13."+driver)); err != nil {
		return err
	}
	for i := range s.GPUs {
		if err := s.GPUs[i].fill(&c.gpu[i], s.Host, i, us(s.Repeat)); err != nil {
			return fmt.Errorf("nvmlstub: GPU %d: %w", i, err)
		}
		if len(s.GPUs[i].Instances) == 0 {
			continue
		}
		if err := c.setInstances(i, s.GPUs[i].Instances); err != nil {
			return fmt.Errorf("nvmlstub: GPU %d: %w", i, err)
		}
	}
	if err := s.CC.fill(c); err != nil {
		return err
	}
	if err := fillProcesses(c, s.Processes); err != nil {
		return err
	}
	return fillEvents(c, s.Events)
}

func orDefault[T comparable](v, instead T) T {
	var zero T
	if v == zero {
		return instead
	}
	return v
}

func fillProcesses(c *config, list []Process) error {
	if len(list) > MaxProcesses {
		return fmt.Errorf("nvmlstub: %d processes, wanted at most %d", len(list), MaxProcesses)
	}
	for i, p := range list {
		m, err := mask(p.GPUs, "a process")
		if err != nil {
			return err
		}
		if p.Type > MPSProcess {
			return fmt.Errorf("nvmlstub: process %d has type %d", p.PID, p.Type)
		}
		place, err := p.MIG.shared()
		if err != nil {
			return err
		}
		q := process{instance: place, pid: p.PID, gpus: m, kind: uint32(p.Type), usedBytes: p.UsedBytes, fromUs: us(p.From), toUs: until(p.To)}
		if err = put(q.name[:], "process name", p.Name); err != nil {
			return err
		}
		c.process[i] = q
	}
	c.processes = uint32(len(list))
	return nil
}

func fillEvents(c *config, list []Event) error {
	if len(list) > MaxEvents {
		return fmt.Errorf("nvmlstub: %d events, wanted at most %d", len(list), MaxEvents)
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Event) int { return cmp.Compare(us(a.At), us(b.At)) })
	clear(c.event[:])
	for i, e := range list {
		q, err := e.shared(c)
		if err != nil {
			return err
		}
		q.id = c.newID()
		c.event[i] = q
	}
	c.events = uint32(len(list))
	return nil
}

func (e Event) shared(c *config) (event, error) {
	if e.GPU < 0 || e.GPU >= int(c.gpus) {
		return event{}, fmt.Errorf("nvmlstub: an event names GPU %d of %d", e.GPU, c.gpus)
	}
	place, err := e.MIG.shared()
	return event{atUs: us(e.At), kind: orDefault(e.Type, XidEvent), data: e.Data, gpu: uint32(e.GPU), instance: place}, err
}

func fillSegments(to []segment, list []Segment, repeatUs int64) (uint32, error) {
	if len(list) > len(to) {
		return 0, fmt.Errorf("%d segments, wanted at most %d", len(list), len(to))
	}
	clear(to)
	var end int64
	for i, s := range list {
		q := segment{
			startUs: us(s.Start), lengthUs: us(s.Length), stepUs: us(s.Step), phaseUs: us(s.Phase), comm: s.Comm,
			kind: uint32(s.Kind), pstate: s.PState, reasons: s.Reasons, level: [2]Level{s.Compute, s.Communicate},
		}
		switch {
		case q.startUs < end:
			return 0, fmt.Errorf("segment %d starts at %v, before the one ahead of it ends", i, s.Start)
		case q.lengthUs <= 0 || q.startUs > latestUs || q.lengthUs > latestUs:
			return 0, fmt.Errorf("segment %d: start %v, length %v", i, s.Start, s.Length)
		case q.stepUs < 0 || q.phaseUs < 0 || q.stepUs > latestUs || q.phaseUs > latestUs:
			return 0, fmt.Errorf("segment %d: step %v, phase %v", i, s.Step, s.Phase)
		case !(s.Comm >= 0 && s.Comm <= 1):
			return 0, fmt.Errorf("segment %d: comm %v, wanted 0 to 1", i, s.Comm)
		}
		for _, l := range q.level {
			for k, v := range l {
				if math.IsNaN(v) || v < 0 || v > 1e18 {
					return 0, fmt.Errorf("segment %d: quantity %d is %v", i, k, v)
				}
			}
		}
		end = q.startUs + q.lengthUs
		to[i] = q
	}
	if repeatUs > 0 && end > repeatUs {
		return 0, fmt.Errorf("its segments end at %v, after the cycle", time.Duration(end)*time.Microsecond)
	}
	return uint32(len(list)), nil
}
