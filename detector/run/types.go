package run

import "math"

// Member is one GPU in an activity for an interval of event time.
type Member struct {
	Node           string
	GPU            int
	StartMs, EndMs int64 // EndMs is the last moment seen active, never 0; see Run.Open
}

// Link says why two parts were put together. It stays in the output as a reason.
type Link struct {
	Kind   string  // comm, job, process, world, flow, sync, power, restart, pause
	Weight float64 // 0 to 1
	Reason string  // one sentence for a person
}

// Basis says what an episode's intervals rest on.
type Basis int

// Bases of an episode, the strongest that any of its members has.
const (
	BasisAllocation Basis = iota // a rental, and no telemetry of its GPUs
	BasisIdle                    // a rental, and telemetry that shows the GPUs released
	BasisPower                   // watts of the host alone (or with its ports)
	BasisGPU                     // telemetry of the GPUs or their processes
)

// ProcRef names a process.
type ProcRef struct {
	Node string
	PID  int
}

// CommStat sums one collective operation over an episode, for one size of communicator.
type CommStat struct {
	Op           string
	NRanks       int
	Calls, Bytes float64
	GPUs         int // that reported
	Comms        int // communicators
	FirstMs      int64
	LastMs       int64
}

// BytesPerCall is NaN without calls.
func (c CommStat) BytesPerCall() float64 {
	if c.Calls <= 0 {
		return math.NaN()
	}
	return c.Bytes / c.Calls
}

// FlowStat sums the traffic of an episode's nodes while it ran. Traffic of a node that it
// shares is counted by its share of the node's GPUs in use.
type FlowStat struct {
	Measured                 bool
	InsideBytes              float64 // between the episode's own nodes
	OtherBytes, OutsideBytes float64 // towards other nodes of the fleet; outside it
	OutsidePeers             int
}

// Episode is GPUs that worked together for one uninterrupted stretch (pauses under 15
// minutes stay inside): what is found in space, before episodes are joined in time.
type Episode struct {
	Members                 []Member // sorted by node, GPU, start
	StartMs, EndMs          int64
	Open                    bool // still active at the judged moment
	Basis                   Basis
	Accounts                []string
	Exes, Launchers, JobIDs []string // declared, sorted, may be empty
	Users                   []string
	Comms                   []string
	NRanks                  int // largest communicator seen, 0: none seen
	WorldSize               int // declared, 0: not stated
	Procs                   []ProcRef
	Comm                    []CommStat // sorted by op, ranks
	Flow                    FlowStat
	Shared                  bool // another activity used one of the GPUs at the same time
	Links                   []Link
	Beside                  []Beside
}

// Beside is another episode at the same time that may be one with this, by its earliest member.
type Beside struct {
	Member Member
	Weight float64
	Reason string
}

// GPUs is the number of distinct GPUs.
func (e *Episode) GPUs() int { return distinctGPUs(e.Members) }

// Nodes returns the distinct nodes, sorted.
func (e *Episode) Nodes() []string {
	var out []string
	for _, m := range e.Members {
		if len(out) == 0 || out[len(out)-1] != m.Node {
			out = append(out, m.Node)
		}
	}
	return out
}

func distinctGPUs(members []Member) int {
	n := 0
	for i, m := range members {
		if i == 0 || m.Node != members[i-1].Node || m.GPU != members[i-1].GPU {
			n++
		}
	}
	return n
}

// ClassOf is the class of an episode as Join needs it.
type ClassOf struct {
	Class   string
	Prob    float64
	Reasons []string
	// Training says that the episode may be part of a training although another class
	// leads (unknown in the first minutes). Training classes need not set it.
	Training bool
}

// training reports whether the episode is joined as a training: what a threshold counts.
// The names are those of workload, which this package cannot import.
func (c ClassOf) training() bool {
	return c.Training || c.Class == "training" || c.Class == "finetuning" || c.Class == "rl"
}

// Run is one activity: for trainings, one training of one model over all nodes,
// restarts and accounts.
type Run struct {
	ID             string // minted from the first member's node, GPU and start; stable from first sight on
	Class          string
	ClassProb      float64
	Reasons        []string // what carried the class verdict
	Members        []Member
	Accounts       []string
	StartMs, EndMs int64
	Open           bool  // not ended at the judged moment
	Episodes       []int // indices into the episodes that were joined
	Links          []Link
	Supersedes     []string // ids that this run would have had if its parts had been kept apart
	// Alternatives are other runs that would be one with this one if restart and repeat
	// could be told apart: the merged total is what the finding has to state beside this
	// run's own. Each carries the id of the other run and the reason.
	Alternatives []Alternative
}

// Kinds of campaigns.
const (
	Islands     = "islands"     // sites that train one model and exchange weights now and then
	SplitPools  = "split_pools" // pools of one training: rollouts and updates
	Structuring = "structuring" // work of one kind cut into runs, accounts or slices
)

// Campaign is runs that may add up to one training, though each stands by itself. The total of
// a campaign is as uncertain as Weight says.
type Campaign struct {
	ID      string // of its first run
	Kind    string
	Runs    []string // ids, sorted; at least two
	Weight  float64  // probability that all of them are one, 0 to 1
	Reasons []string
	KnownMs int64 // from when on the evidence sufficed
}

// Alternative is a plausible joining that the evidence does not carry.
type Alternative struct {
	Run    string
	Weight float64 // 0 to 1, below the threshold of joining
	Reason string
}
