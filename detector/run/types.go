package run

// Member is one GPU in an activity for an interval of event time.
type Member struct {
	Node           string
	GPU            int
	StartMs, EndMs int64 // EndMs is the last moment seen active, never 0; see Run.Open
}

// Link says why two parts were put together. It stays in the output as a reason.
type Link struct {
	Kind   string  // comm, job, process, allocation, flow, sync, restart, ...
	Weight float64 // 0 to 1
	Reason string  // one sentence for a person
}

// Episode is GPUs that worked together for one uninterrupted stretch (pauses under 15
// minutes stay inside): what Assemble finds in space, before episodes are joined in time.
type Episode struct {
	Members                 []Member // sorted by node, GPU, start
	StartMs, EndMs          int64
	Open                    bool // still active at the judged moment
	Accounts                []string
	Exes, Launchers, JobIDs []string // declared, sorted, may be empty
	Comms                   []string
	NRanks                  int // largest communicator seen, 0: none seen
	WorldSize               int // declared, 0: not stated
	Links                   []Link
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
}
