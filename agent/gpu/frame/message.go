package frame

// Version of the protocol. Both sides are installed together: another version is refused.
const Version = 3

// Bounds of what a frame may hold.
const (
	MaxBody         = 1 << 17
	MaxGPUs         = 64 // bits of a mask
	MaxProcesses    = 1024
	MaxCapabilities = 64
	MaxInstances    = 8 // MIG devices of a GPU
	MaxFacts        = 32
	MaxText         = 255 // bytes of a string
	MaxInstanceID   = 96  // bytes of the string that names an instance
)

// Type of a frame.
type Type uint8

// Types: requests are below 16.
const (
	TypeHello     Type = 1
	TypeDescribe  Type = 2
	TypeSample    Type = 3
	TypeStop      Type = 4
	TypeWelcome   Type = 16
	TypeDevice    Type = 17
	TypeReading   Type = 18
	TypeProcesses Type = 19
	TypeFault     Type = 20
	TypeDone      Type = 21
	TypeHealth    Type = 22
	TypeInstances Type = 23
	TypeEvent     Type = 24
	TypeListening Type = 25
)

// Request is what the agent says.
type Request struct {
	Type Type
	// Version of the protocol, in a Hello.
	Version uint32
	// Seq of a Sample or a Describe: comes back in what answers it.
	Seq uint64
	// BootMs is the agent's tick in milliseconds since boot: the clock by which the child
	// spaces samples and repeats what was not supported.
	BootMs int64
	// Sample and Processes are masks of GPUs: what to read of which. A Describe does the same,
	// and describes them anew.
	Sample, Processes uint64
	// Health and Burst are masks too: the rare counters, and what moves fast and costs one
	// call (a batch of fields) or, where BurstGPM is set as well, three. Sample and Burst of one
	// GPU are a tick in a time of bursts: a pass that leaves them room.
	Health, Burst, BurstGPM uint64
	// Events: the child listens for events of the GPUs, and tells them as they come.
	Events bool
}

// Welcome is the child's first word. Code 0: the library answers. Else it is the code and
// the text with which it refused, and the child ends.
type Welcome struct {
	Version                                 uint32
	Code                                    int
	Text                                    string
	DriverVersion, NVMLVersion, LibraryPath string
	GPUs                                    int
	GPM                                     bool // the library has GPM's functions
	// Missing are functions that the library lacks, sorted.
	Missing []string
	// Facts are what the library says of the host: cc_state, cuda_driver_version, ...
	Facts []Fact
}

// Fact is something that seldom changes.
type Fact struct{ Name, Value string }

// Process is a process that has a context on a GPU, as the driver says.
type Process struct {
	PID       int32
	UsedBytes int64  // -1: not known
	Instance  string // UUID of the MIG device that it is on; empty: none
}

// Processes of a GPU. Known false: there may be others, for the reason Why.
type Processes struct {
	GPU   int
	Seq   uint64
	Known bool
	List  []Process
	Why   string
}

// Codes of faults that are not the library's (whose codes are positive).
const (
	CodeBusy        = -1 // the agent asked a GPU that has not answered yet
	CodePanic       = -2 // the binding stumbled over what the library gave it
	CodeImplausible = -3 // a value that cannot be
	CodeBudget      = -4 // the calls of this second were used up: what was asked is left out
)

// Fault is a call that failed.
type Fault struct {
	GPU      int // -1: the library as a whole
	Seq      uint64
	Function string
	Code     int
	Text     string
	// Lost: the GPU is gone. Ending: the child ends, to be started again.
	Lost, Ending bool
}

// Listening is how the child hears of events. It is told when it has changed, once a request has
// asked for events.
type Listening struct {
	Able bool // the library has the functions
	// Heard are GPUs whose events come, Without those that have none, or whose driver refuses. The
	// others are not in the set yet.
	Heard, Without uint64
	// Hangs: Function has not come back, though it waits for a little while only.
	Hangs bool
	// Function, Code and Text are what hangs or fails: nothing is heard until it works again.
	Function string
	Code     int
	Text     string
}

// Done ends what a GPU has to say to a request.
type Done struct {
	GPU    int
	Seq    uint64
	TookUs int64
	Calls  int // into the library, since the request
	// SlowUs is how long the slowest of them took, and Slow what it was.
	Slow   Class
	SlowUs int64
}
