package scenario

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
)

// Scenario is a recording to be made.
type Scenario struct {
	Name     string
	Seed     uint64
	Minutes  float64
	Nodes    []Node
	Jobs     []Job
	Rentals  []Rental
	Orders   []Order
	Behind   map[string]Behind // who stands behind an account, as whoever wrote the scenario says; absent: unknown
	Parties  []string          // lines of parties.jsonl
	Profiles []Profile
	Special  []string
	Noise    Noise
	// Telemetry lists accounts whose nodes' defects may be raised; Tampered those for
	// which they have to be.
	Telemetry, Tampered []string
}

// Node is a host and what its agent can read.
type Node struct {
	Name, Site, Part string
	Model            string // as listed; "": as the part names itself, "-": empty
	Count            int
	Gbps             float64 // 0: 1600, negative: empty
	OutOfBand        bool
	Unlisted         bool
	See              string // gpm, gpm-old, dcgm, nvml, util, power, counters, mig, none
	CadenceS         float64
	OffsetMs         int64
	Silent           [][2]float64 // minutes
	ResetMin         float64      // counters start anew; 0: never
	NoFabric, NoHost bool
	TDPW             float64 // stated; 0: empty
	Ethernet         bool    // the network between hosts is Ethernet without its own ports
	Freeze           float64 // from this minute on GPU rows repeat what was true before it; 0: never
}

// Seat is GPUs of a node.
type Seat struct {
	Node string
	GPUs []int
}

// Attempt is a stretch in which a job ran.
type Attempt struct {
	From, To float64 // minutes
	Seats    []Seat
	Account  string
	JobID    string
}

// Job is an activity of truth.json.
type Job struct {
	ID                          string
	Work                        Work
	Attempts                    []Attempt
	Exe, Launcher, Source, User string
	World                       bool // declares world size and rank
	NoTap                       bool // its collectives are not seen
	NoProc                      bool // its processes are not seen
	Split                       bool // islands: each seat's GPUs exchange among themselves alone
	Evasion                     []string
	NullModel                   bool
	Sec                         float64  // seconds of steps that are repeated after a restart
	Accounts                    []string // where several rent the seats of one attempt
}

// Rental is a row of allocations.csv; To 0: goes on.
type Rental struct {
	Account  string
	Seat     Seat
	From, To float64
}

// Order is a version of a contract; times in minutes, negative before the start.
type Order struct {
	ID, Account, Part string
	GPUs              int
	Amended, From, To float64
	Use               string
	Model             string // "-": empty
}

// Behind is who stands behind an account.
type Behind struct {
	InScope          bool
	Parties          []string
	Special, Refused bool
}

// Profile is a custom profile.
type Profile struct {
	Name       string
	Limit      float64
	Gbps, OpsS float64 // cluster limb where OpsS > 0
}

// Noise is what happens to rows.
type Noise struct {
	Value             float64 // spread of values; 0: 0.012
	Drop, Dup, Late   float64 // shares of rows
	NoTap, NoProc     bool
	NoFlows, NoFabric bool
	NoHost, NoRentals bool
	Columns           []string // of gpu.csv that are missing everywhere
}

const startMs = int64(1_790_000_123_457)

func (s *Scenario) ms(minute float64) int64 { return startMs + int64(math.Round(minute*60_000)) }

// gpuState adds up what one GPU did since its last row, and its counters.
type gpuState struct {
	sum           signal
	seconds       float64
	wattS, mhzS   float64
	memS          float64
	tensorMHz     float64
	joules, cycle float64
	gain          float64 // this GPU's watts over its model's
	now           signal
	watts         float64
}

type nodeState struct {
	spec            *Node
	part            Part
	gpus            []gpuState
	next            float64
	fabric, eth     float64 // counters
	storageTx, host float64
	storageRx, secs float64
	pids            int
	rng             *rand.Rand
}

// running is an attempt that is simulated.
type running struct {
	job     *Job
	att     *Attempt
	index   int
	engines []*engine // one, or one an island
	seats   []place
	opTime  [3]float64 // seconds of work since the last rows of the tap, by phase
	load    float64
	first   bool
	flow    map[[2]string]float64
	wan     map[string]float64
}

// place is one rank's GPU.
type place struct {
	node, gpu, rank, engine, pid int
}

// activity is what comes of a job.
type activity struct {
	executed, model float64
	byMinute        []float64 // model FLOP done by the end of each minute
}

// fleet is a scenario at work.
type fleet struct {
	s     *Scenario
	rng   *rand.Rand
	nodes []*nodeState
	at    map[string]int
	runs  []*running
	acts  []activity
	out   *files
}

func newFleet(s *Scenario) (*fleet, error) {
	f := &fleet{s: s, rng: rand.New(rand.NewPCG(s.Seed, 77)), at: map[string]int{}, acts: make([]activity, len(s.Jobs)), out: newFiles()}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		p, ok := parts[n.Part]
		if !ok {
			return nil, fmt.Errorf("scenario %s: node %s has the unknown part %q", s.Name, n.Name, n.Part)
		}
		if n.CadenceS == 0 {
			n.CadenceS = 15
		}
		if n.See == "" {
			n.See = "nvml"
			if p.GPM {
				n.See = "gpm"
			}
		}
		st := &nodeState{spec: n, part: p, gpus: make([]gpuState, n.Count), rng: rand.New(rand.NewPCG(s.Seed, uint64(i)+1000)), pids: 4000 + 97*i}
		st.next = n.CadenceS * st.rng.Float64()
		st.fabric, st.eth = 1e14*st.rng.Float64(), 1e13*st.rng.Float64()
		for g := range st.gpus {
			st.gpus[g].gain = 1 + 0.015*st.rng.NormFloat64()
			st.gpus[g].joules, st.gpus[g].cycle = 1e9*st.rng.Float64(), 1e15*st.rng.Float64()
		}
		f.at[n.Name] = len(f.nodes)
		f.nodes = append(f.nodes, st)
	}
	for j := range s.Jobs {
		job := &s.Jobs[j]
		f.acts[j].byMinute = make([]float64, int(s.Minutes)+2)
		for k := range job.Attempts {
			r, err := f.place(j, k)
			if err != nil {
				return nil, err
			}
			f.runs = append(f.runs, r)
		}
	}
	return f, nil
}

func (f *fleet) place(j, k int) (*running, error) {
	job := &f.s.Jobs[j]
	a := &job.Attempts[k]
	r := &running{job: job, att: a, index: j, first: true, flow: map[[2]string]float64{}, wan: map[string]float64{}}
	rng := rand.New(rand.NewPCG(f.s.Seed+uint64(j)*131, uint64(k)))
	model := rand.New(rand.NewPCG(f.s.Seed+uint64(j)*131, 9999)) // the same over restarts
	add := func(seats []Seat, island int) error {
		ranks := 0
		var part *Part
		for _, seat := range seats {
			n, ok := f.at[seat.Node]
			if !ok {
				return fmt.Errorf("scenario %s: job %s sits on the unknown node %s", f.s.Name, job.ID, seat.Node)
			}
			part = &f.nodes[n].part
			for _, g := range seat.GPUs {
				if g >= len(f.nodes[n].gpus) {
					return fmt.Errorf("scenario %s: job %s sits on GPU %d of %s", f.s.Name, job.ID, g, seat.Node)
				}
				f.nodes[n].pids += 1 + rng.IntN(30)
				r.seats = append(r.seats, place{node: n, gpu: g, rank: ranks, engine: island, pid: f.nodes[n].pids})
				ranks++
			}
		}
		e := newEngine(job.Work, part, ranks, len(seats), model)
		e.rng = rng
		e.startS = 45 + 130*rng.Float64()
		r.engines = append(r.engines, e)
		return nil
	}
	if !job.Split {
		return r, add(a.Seats, 0)
	}
	for i, seat := range a.Seats {
		if err := add([]Seat{seat}, i); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// simulate walks second by second.
func (f *fleet) simulate() {
	total := int(f.s.Minutes * 60)
	for sec := range total {
		t := float64(sec)
		for _, n := range f.nodes {
			for g := range n.gpus {
				n.gpus[g].now = signal{}
			}
		}
		for _, r := range f.runs {
			if t >= r.att.From*60 && t+1 <= r.att.To*60 {
				f.tick(r, t)
			}
		}
		for _, n := range f.nodes {
			f.settle(n, t)
		}
		if sec%60 == 59 {
			for _, r := range f.runs {
				if t >= r.att.From*60 && t <= r.att.To*60 {
					f.tap(r, t+1)
				}
			}
			for j := range f.acts {
				f.acts[j].byMinute[sec/60] = f.acts[j].model
			}
		}
	}
	for j := range f.acts {
		last := int(f.s.Minutes) - 1
		for m := last; m < len(f.acts[j].byMinute); m++ {
			f.acts[j].byMinute[m] = f.acts[j].model
		}
	}
}

// tick lets every rank of an attempt work for a second.
func (f *fleet) tick(r *running, t float64) {
	own := t - r.att.From*60
	act := &f.acts[r.index]
	if r.first {
		r.first = false
		f.processes(r)
	}
	for i := range r.seats {
		p := &r.seats[i]
		e := r.engines[p.engine]
		s := e.at(own, p.rank)
		n := f.nodes[p.node]
		now := &n.gpus[p.gpu].now
		mem, mhz := now.mem+s.mem, math.Max(now.mhz, s.mhz)
		now.mix(&s, 1)
		now.imma += 0
		now.mem, now.mhz = mem, mhz
		now.energyPerMMA = math.Max(now.energyPerMMA, s.energyPerMMA)
		act.executed += s.executed
		repeated := r.job.Sec > 0 && r.att.From > r.job.Attempts[0].From && own-e.startS < r.job.Sec
		if own >= e.startS && !repeated || !trains(r.job.Work.Kind) {
			act.model += s.model
		}
		if i == 0 {
			if own >= e.startS && (s.executed > 0 || s.model > 0) {
				ph := 2
				if r.job.Work.Kind == "rl" {
					ph = e.rlPhase(own)
				}
				r.opTime[0]++
				r.opTime[ph]++
			}
			if r.job.Work.Kind == "inference" || r.job.Work.Kind == "batch_inference" {
				r.load += s.util
			}
		}
		// Who talks to whom: rings over the seats.
		seats := r.att.Seats
		if s.fabric > 0 && len(seats) > 1 && !r.job.Split {
			k := slices.IndexFunc(seats, func(x Seat) bool { return x.Node == n.spec.Name })
			r.flow[[2]string{n.spec.Name, seats[(k+1)%len(seats)].Node}] += s.fabric
		}
		if s.wan > 0 {
			if trains(r.job.Work.Kind) && len(seats) > 1 {
				k := slices.IndexFunc(seats, func(x Seat) bool { return x.Node == n.spec.Name })
				r.flow[[2]string{n.spec.Name, seats[(k+1)%len(seats)].Node}] += s.wan
			} else {
				r.wan[n.spec.Name] += s.wan
			}
		}
	}
}

func trains(kind string) bool { return kind == "training" || kind == "finetuning" || kind == "rl" }

// settle turns a second of work into counters, and rows where they are due.
func (f *fleet) settle(n *nodeState, t float64) {
	var fabric, wan, tx, rx, watts float64
	for g := range n.gpus {
		x := &n.gpus[g]
		s := &x.now
		if s.tensor > 0 {
			s.imma, s.dfma = s.imma/s.tensor, s.dfma/s.tensor
		}
		for _, v := range []*float64{&s.util, &s.sm, &s.tensor, &s.dram} {
			*v = math.Min(*v, 1)
		}
		if s.mhz == 0 {
			s.mhz = 0.18 * n.part.BoostMHz
		}
		w := math.Min(n.part.watts(s, s.mhz), 1.02*n.part.TDPW) * x.gain * (1 + 0.01*n.rng.NormFloat64())
		x.watts = w
		x.sum.mix(s, 1)
		x.memS += s.mem
		x.mhzS += s.mhz
		x.tensorMHz += s.tensor * s.mhz
		x.wattS += w
		x.joules += w
		x.cycle += s.tensor * s.mhz * 1e6
		x.seconds++
		fabric += s.fabric
		wan += s.wan
		tx += s.storageTx
		rx += s.storageRx
		watts += w
	}
	if n.spec.Ethernet {
		wan, fabric = wan+fabric, 0
	}
	n.fabric += fabric
	n.eth += wan + 2e4
	n.storageTx += tx
	n.storageRx += rx
	n.host += 1.1*watts + 250 + 0.16*n.part.TDPW*float64(max(n.spec.Count, 1))
	n.secs++
	if m := n.spec.ResetMin * 60; m > 0 && t == m {
		for g := range n.gpus {
			n.gpus[g].joules, n.gpus[g].cycle = 0, 0
		}
		n.fabric, n.eth = 0, 0
	}
	if t+1 >= n.next {
		n.next += n.spec.CadenceS
		f.sample(n, t+1)
	}
}

func hash(parts ...any) string {
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, parts...) // a hash takes all
	return fmt.Sprintf("%016x", h.Sum64())
}
