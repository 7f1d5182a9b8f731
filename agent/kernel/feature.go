package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/source"
)

// Feature is one thing that is seen through the kernel. One goroutine calls its methods.
type Feature interface {
	// Name is short and stays: "nccl", "sock". The instrument is kernel/Name.
	Name() string
	// Every is how often Sample is called, in whole seconds or more.
	Every() time.Duration
	// Start loads and attaches what it can within ctx, and says what that is. If the report
	// is Unavailable the feature holds nothing, and is started again some time later.
	Start(ctx context.Context, env *Env) Report
	// Sample puts what it saw since the last one, and says what it can see now. A report
	// that is Unavailable ends it: Close follows.
	Sample(ctx context.Context, t source.Tick, out source.Sink) Report
	// Close detaches and gives back everything; Start may follow.
	Close() error
}

// Meter is a feature whose programs run in the time of others.
type Meter interface {
	// Load tells what they took since Start. It is called behind each Sample.
	Load() Load
}

// Load is what the programs of a feature did since it was started.
type Load struct {
	Probes    []Probe
	Processes int // that the probes run in; the limit is for each. 0 counts as 1
	// Shed is how many of the probes' Ns went to probes that the feature took out by itself,
	// as they cost too much: they are no reason to stop the rest.
	Shed   uint64
	Counts []Count // of its own, for metrics
}

// Probe is one program.
type Probe struct {
	Name  string
	Calls uint64
	Ns    uint64 // that the calls took of the processes they are in
	// Measured is true where the kernel measured Ns; else it is Calls times a known cost.
	Measured bool
}

// Count is a cumulative count, as records that the kernel had to drop. Names are plain words
// with underscores.
type Count struct {
	Name  string
	Value uint64
}

// Report is what a feature can see, and why not more.
type Report struct {
	State    source.State
	Why      string        // a sentence, with what would help; empty if active
	Errno    syscall.Errno // of the kernel, if it refused; 0: it did not
	Fallback string        // what is used in its place
	// Absent is true if there is nothing to see: what the feature looks at is not on this
	// host. It is Unavailable then, and nothing is missed.
	Absent bool

	loading bool // it has said nothing yet
}

// Active is the report of a feature that sees all it can.
func Active() Report { return Report{State: source.Active} }

// Degraded says what is not seen, and what is used in its place ("": nothing).
func Degraded(why string, err error, fallback string) Report {
	return Report{State: source.Degraded, Why: why, Errno: Errno(err), Fallback: fallback}
}

// Unavailable says why nothing is seen.
func Unavailable(why string, err error) Report {
	return Report{State: source.Unavailable, Why: why, Errno: Errno(err)}
}

// Absent says that what a feature looks at is not on this host.
func Absent(why string) Report {
	return Report{State: source.Unavailable, Why: why, Absent: true}
}

// Reason is the report in a sentence.
func (r Report) Reason() string {
	var b strings.Builder
	b.WriteString(r.Why)
	if r.Errno != 0 {
		b.WriteString(" (")
		if name := unix.ErrnoName(r.Errno); name != "" {
			b.WriteString(name + ", ")
		}
		b.WriteString(r.Errno.Error() + ")")
	}
	if r.Fallback != "" {
		b.WriteString("; in its place: " + r.Fallback)
	}
	return b.String()
}

// Errno returns the kernel's error within err, 0 if there is none. The BPF library's own
// texts guess at causes (a limit of locked memory, for any EPERM), so they are not shown.
func Errno(err error) syscall.Errno {
	no, _ := errors.AsType[syscall.Errno](err)
	return no
}

// initPIDs is the first process namespace of a host: the kernel gives it this number.
const initPIDs = "pid:[4026531836]"

// errPIDs says that programs in the kernel are of no use to this agent.
var errPIDs = errors.New("the agent has a process namespace of its own and would take processes for others: it needs the host's (hostPID)")

// HostPIDs returns an error unless the agent sees processes by the numbers that programs in
// the kernel tell, which are those of the host's first namespace.
func HostPIDs() error {
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return fmt.Errorf("read process namespace: %w", err)
	}
	if ns != initPIDs {
		return errPIDs
	}
	return nil
}

// InPlace is the report of a feature that goes on without programs in the kernel: err is why
// they were not loaded, nil: they are switched off. needs says what they would need.
func InPlace(needs string, err error, fallback string) Report {
	switch {
	case err == nil:
		return Degraded("BPF programs are switched off", nil, fallback)
	case errors.Is(err, errPIDs):
		return Degraded(err.Error(), nil, fallback)
	}
	return Degraded("BPF programs cannot be loaded: needs "+needs, err, fallback)
}

// Env is what features get from the agent. Listers may be nil: not known.
type Env struct {
	Procfs    string // where procfs of the host is mounted; default "/proc"
	Processes source.ProcessLister
	Devices   source.DeviceLister
	Jobs      source.JobFinder
	MaxLoad   float64 // of a core that probes may take of each process they are in
	Log       *slog.Logger
	Clock     *Clock
	// BTF keeps the kernel's types while features load; Options passes it on.
	BTF *btf.Cache
}

// Options are how a feature loads its collection.
func (e *Env) Options() ebpf.CollectionOptions { return ebpf.CollectionOptions{Cache: e.BTF} }

// Clock relates the kernel's time since boot to wall time, as of the last tick.
type Clock struct{ offsetMs atomic.Int64 }

// Set takes both clocks at one moment.
func (c *Clock) Set(wallMs, bootMs int64) { c.offsetMs.Store(wallMs - bootMs) }

// WallMs is the Unix time of a moment in nanoseconds since boot (CLOCK_BOOTTIME).
func (c *Clock) WallMs(bootNs uint64) int64 { return int64(bootNs/1e6) + c.offsetMs.Load() }
