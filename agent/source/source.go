package source

import (
	"context"

	"github.com/flopwatch/flopwatch/internal/wire"
)

// Tick is one moment of sampling, the same for all sources.
type Tick struct {
	Seq    uint64 // from 1, without gaps: a tick that no source could take is counted too
	Burst  int    // 0: a tick; n: the n-th moment between tick Seq and the next, for Bursters alone
	WallMs int64  // Unix milliseconds UTC
	BootMs int64  // milliseconds since boot, suspend included (CLOCK_BOOTTIME)
}

// Source is one instrument. Its methods are called by one goroutine.
type Source interface {
	// Name is short and stays: "gpu", "fabric", "job", "host".
	Name() string
	// Sample puts what the instrument sees at t into out. It returns within a second; ticks
	// that come meanwhile pass it by. An error means that the instrument as a whole saw
	// nothing: it is asked again at the next tick. What a part of it could not see is no error
	// but a Status, and the values are absent.
	Sample(ctx context.Context, t Tick, out Sink) error
	// Close gives back what the source holds.
	Close() error
}

// Burster is a source that can be asked more often than every tick, for a while: what is
// periodic in a step of a training shows then. All Bursters are asked at the same moments.
type Burster interface {
	Source
	// Burst is Sample at a moment between two ticks: what is cheap to read and moves fast,
	// and nothing else.
	Burst(ctx context.Context, t Tick, out Sink) error
}

// Sink takes rows. Sources share it.
type Sink interface {
	// Row adds a row: fill sets the fields of b, which is open. A group names rows whose
	// columns have the same sources; the first row of a group calls prepare, which may set
	// them with b.SetSource (nil: all columns are of src). Rows that lack a key are dropped
	// and counted.
	Row(kind wire.Kind, src wire.Source, group string, prepare, fill func(b *wire.Builder))
	// Status says what an instrument, or a part of one, can see now. It is kept, and told
	// again when it changes and every few minutes.
	Status(s Status)
}

// State of an instrument.
type State string

// States. There is no state "idle": what was not seen is not zero.
const (
	Active      State = "active"
	Degraded    State = "degraded"    // it sees less than it could
	Stalled     State = "stalled"     // it was asked and does not answer
	Lost        State = "lost"        // it was there and is gone
	Unavailable State = "unavailable" // it is not on this host
)

// Status is what an instrument can see. Reason says in a sentence why it is not active, and
// how that could be mended where that is known.
type Status struct {
	Instrument string // "gpu", "gpu/GPU-uuid", "fabric", ...
	State      State
	Reason     string
}

// GPUProcess is a process that has a context on a GPU.
type GPUProcess struct {
	GPU       int
	PID       int32
	UsedBytes int64 // -1: the driver does not say
	// Instance is the MIG device that it is on, as MIG-...; empty: of none, or not known.
	Instance string
}

// ProcessLister knows which processes are on the GPUs. ok is false while it is not known of
// all GPUs: then there may be others than those on the list, which may be empty, and no process
// has ended because it is not on it. seq changes with every new look.
type ProcessLister interface {
	GPUProcesses() (list []GPUProcess, seq uint64, ok bool)
}

// GPUDevice is a GPU as other instruments need to know it. Empty: not known.
type GPUDevice struct {
	Index     int
	UUID      string
	PCIBusID  string // domain:bus:device.function in lower-case hex, as sysfs names it: 0000:1b:00.0
	Instances []GPUInstance
}

// GPUInstance is a MIG device.
type GPUInstance struct {
	UUID   string // MIG-...
	GI, CI int
}

// DeviceLister knows the GPUs of the host. ok is false while that is not known.
type DeviceLister interface {
	GPUDevices() (list []GPUDevice, ok bool)
}

// Job is who a process works for. Empty: not known.
type Job struct {
	Source string // slurm, kubernetes, ...
	ID     string
}

// JobFinder finds the job of a process or of a control group. It may be asked by several
// goroutines.
type JobFinder interface {
	// JobOf reads the control groups of a process; ok is false where they name no job.
	JobOf(pid int32) (j Job, ok bool)
	// JobOfCgroup reads a control group's path, as in /proc/PID/cgroup behind the last colon.
	JobOfCgroup(path string) (j Job, ok bool)
}

// ProcessExit is the end of a process, as the kernel told it. PID and StartTicks (field 22 of
// /proc/PID/stat) name the process.
type ProcessExit struct {
	PID        int32
	StartTicks uint64
	Status     int32 // as wait(2) gives it
	By         wire.Source
}

// ExitLister hands over the ends of processes, each once.
type ExitLister interface {
	// TakeExits appends those since the last call to list.
	TakeExits(list []ProcessExit) []ProcessExit
}

// CollectiveWatcher knows whether a process's collective calls can be counted.
type CollectiveWatcher interface {
	// CollectivesOf returns visible or not_visible, and what told it; "": not known.
	// statically_linked, as a reason for not_visible, is kept for later: nothing tells it yet.
	CollectivesOf(pid int32) (what string, by wire.Source)
}
