package drawn

import (
	"fmt"
	"math"
	"slices"

	"github.com/flopwatch/flopwatch/internal/bundle"
)

// piece is what one GPU does for a while. Times are seconds since the recording's start,
// as the world's clock has them.
type piece struct {
	from, to float64
	src      source
	act      *activity
	peers    []peer // where the back-end traffic goes
}

type peer struct {
	name  string
	share float64
}

type gpu struct {
	node   *node
	index  int
	pieces []piece
	held   []held
}

// held is when an activity has the GPU.
type held struct {
	from, to float64
	act      *activity
}

type node struct {
	name, site string
	listed     string // model in nodes.csv
	si         silicon
	gpus       []*gpu
	fabric     float64 // Gbit/s; 0: none
	listedGbps float64 // NaN: not stated
	kind       string
	ports      int
	vantage    string
	skew       float64 // s, of its clock
	baseW      float64
	cpuW       float64
	psu        float64 // watts out over watts in
	columns    [bundle.NumGPUValues]bool
	deadFrom   float64 // the agent is killed
	deadTo     float64
	tamper     *tamper
	listedTDP  bool
}

// tamper falsifies what the agent says of a node's GPUs.
type tamper struct {
	from, to float64
	activity float64 // factor on fractions and cycles
	energy   float64 // factor on watts and joules
}

// activity is a label.
type activity struct {
	id, kind string
	accounts []string
	dtype    string
	params   float64
	evasion  []string
	noExec   bool // the truth is not known
	noModel  bool
	blur     float64 // factor on how far an estimate may be off here
	notes    map[string]any

	exec, model float64
	minutes     []float64 // model FLOP done by the end of each minute
}

type rental struct {
	account  string
	node     *node
	gpus     []int
	from, to float64 // to < 0: goes on
}

type version struct {
	at       float64
	model    string
	peak16   float64 // 0: not known
	count    int
	gbps     float64
	from, to float64
	use      string
}

type order struct {
	id, account string
	versions    []version
}

type proc struct {
	node          *node
	gpus          []int
	from, to      float64 // to < 0: runs on
	pid           int
	exe, launcher string
	source, job   string
	user, project string
	world, rank   int // -1: not stated
	comms         []comm
	act           *activity
	hidden        bool
}

// comm is collective traffic of a process.
type comm struct {
	id          string
	gpu, nranks int
	rank        int
	op          string
	calls       float64 // a second
	bytes       float64
	from, to    float64
}

// telemetry is what of the world is seen, and how.
type telemetry struct {
	cadence     float64
	jitter      float64 // share of the cadence
	noise       float64
	instant     bool // watts of the last second, not of the interval
	lost        float64
	late        float64
	twice       float64
	resets      float64
	processes   string // true, absent, partial, generic
	collectives string // true, absent, partial
	flows       bool
	fabricRows  bool
	hostPower   bool
	columns     string
	allocations bool
	slow        float64 // cadence of flows and collectives
	bursts      bool    // fast samples of ports now and then
	fabricEvery float64
}

// world is a fleet over a while.
type world struct {
	*rng
	family  string
	length  float64 // s
	startMs int64
	cluster string
	nodes   []*node
	acts    []*activity
	rentals []rental
	orders  []*order
	procs   []*proc
	tele    telemetry
	profile []limit
	parties []*party
	special []string
	expect  []expected
	nextPID int
	nextJob int
	nextAcc int
}

// fleet is what a family asks of its fleet; zero values leave it to the priors.
type fleet struct {
	part       func(*part) bool
	fixed      *part
	nodes      [2]int
	perNode    []int
	hours      [2]float64
	columns    []string
	cadence    [2]float64
	processes  string
	noFabric   bool
	skewed     bool
	idleTrap   bool
	mixedParts bool
	power      bool // the BMC's watts are there
}

const maxRows = 26000

func newWorld(family string, draw int, seed uint64, f fleet) *world {
	r := newRNG(seed, fmt.Sprintf("%s/%d", family, draw))
	w := &world{rng: r, family: family, cluster: fmt.Sprintf("drawn-%s-%d", family, draw), nextPID: r.between(2000, 60000), nextJob: r.between(100, 900000), nextAcc: r.between(100, 800)}
	w.startMs = 1_790_000_000_000 + int64(r.IntN(8_000_000_000))
	w.buildFleet(f)
	w.drawTelemetry(f)
	return w
}

func (w *world) buildFleet(f fleet) {
	r := w.stream("fleet")
	if f.hours[1] == 0 {
		f.hours = [2]float64{2, 6}
	}
	w.length = 60 * math.Round(60*r.uniform(f.hours[0], f.hours[1]))
	x := f.fixed
	if x == nil {
		x = drawPart(r, f.part)
	}
	if f.nodes[1] == 0 {
		f.nodes = [2]int{1, 8}
	}
	if f.perNode == nil {
		f.perNode = []int{1, 2, 4, 8, 8, 8, 16}
		switch {
		case x.name == "NVIDIA GH200 480GB":
			f.perNode = []int{1, 2, 4}
		case x.name == "NVIDIA GB200":
			f.perNode = []int{4}
		case x.nvlink >= 300*giga && x.tdp >= 300:
			f.perNode = []int{4, 8, 8, 8, 8, 16}
		}
	}
	n := r.between(f.nodes[0], f.nodes[1])
	per := pick(r, f.perNode...)
	for n*per > 96 && n > f.nodes[0] {
		n--
	}
	if per < 4 {
		n = max(n, r.between(2, 24))
	}
	kind, gbps := pick(r, "infiniband", "roce"), pick(r, 100.0, 200, 400, 800, 1600, 3200)
	if x.tdp >= 600 {
		gbps = pick(r, 400.0, 800, 1600, 3200, 3200)
	}
	if f.noFabric || r.chance(0.12) || x.tdp < 150 {
		kind, gbps = "ethernet", 0
	}
	stem := pick(r, "gpu-", "hgx", "node", "r"+r.hex(1)+"n", "c-", "x")
	sites := r.between(1, 2)
	skewed := f.skewed || r.chance(0.12)
	si := drawSilicon(r, x)
	if f.idleTrap {
		si.residue, si.idleMHz = r.uniform(1.2e9, 3e9), si.clock
	}
	listedGbps := gbps
	if r.chance(0.1) {
		listedGbps = math.NaN()
	}
	for i := range n {
		nd := &node{
			name: fmt.Sprintf("%s%02d", stem, i+1), site: fmt.Sprintf("dc-%d", 1+i*sites/n), si: si, listed: x.name, fabric: gbps, listedGbps: listedGbps,
			kind: kind, ports: 1, vantage: "host", listedTDP: r.chance(0.7),
			baseW: float64(per)*x.tdp*r.uniform(0.08, 0.35) + r.uniform(60, 300), psu: r.uniform(0.9, 0.97),
		}
		if f.mixedParts && i >= n/2 && n > 1 {
			y := drawPart(r, f.part)
			nd.si, nd.listed = drawSilicon(r, y), y.name
		}
		nd.cpuW = nd.baseW * r.uniform(0.3, 0.9)
		if gbps >= 800 && r.chance(0.3) {
			nd.ports = 2
		}
		if skewed {
			nd.skew = r.uniform(-90, 90)
		} else if r.chance(0.3) {
			nd.skew = r.uniform(-0.5, 0.5)
		}
		for g := range per {
			nd.gpus = append(nd.gpus, &gpu{node: nd, index: g})
		}
		w.nodes = append(w.nodes, nd)
	}
}

// columnSets are what agents read, by name.
var columnSets = map[string]func(bundle.GPUValue) bool{
	"full":     func(bundle.GPUValue) bool { return true },
	"nocycles": func(v bundle.GPUValue) bool { return v != bundle.MMACyclesTotal },
	"nodram":   func(v bundle.GPUValue) bool { return v != bundle.DRAMFrac },
	"nofp32": func(v bundle.GPUValue) bool {
		return v != bundle.FP32Frac && v != bundle.FP64Frac && v != bundle.FP16Frac && v != bundle.IntFrac
	},
	"tensor": func(v bundle.GPUValue) bool {
		switch v {
		case bundle.HMMAFrac, bundle.IMMAFrac, bundle.DFMAFrac, bundle.FP32Frac, bundle.FP64Frac, bundle.FP16Frac, bundle.IntFrac, bundle.MMACyclesTotal:
			return false
		}
		return true
	},
	"nvml": func(v bundle.GPUValue) bool {
		switch v {
		case bundle.UtilFrac, bundle.MemUsedBytes, bundle.PowerW, bundle.EnergyJTotal, bundle.SMClockMHz, bundle.PCIeTxBps, bundle.PCIeRxBps:
			return true
		}
		return false
	},
	"nvml-few": func(v bundle.GPUValue) bool {
		return v == bundle.UtilFrac || v == bundle.MemUsedBytes || v == bundle.PowerW
	},
	"power": func(v bundle.GPUValue) bool { return v == bundle.PowerW },
	"cycles": func(v bundle.GPUValue) bool {
		return v == bundle.MMACyclesTotal
	},
	"counters": func(v bundle.GPUValue) bool {
		return v == bundle.MMACyclesTotal || v == bundle.EnergyJTotal
	},
	"nopower":   func(v bundle.GPUValue) bool { return v != bundle.PowerW && v != bundle.EnergyJTotal },
	"noclock":   func(v bundle.GPUValue) bool { return v != bundle.SMClockMHz && v != bundle.MMACyclesTotal },
	"outofband": func(bundle.GPUValue) bool { return false },
}

// sharp is how well a column set tells FLOPs: the factor within which a limit is left open.
func (w *world) sharp() float64 {
	known := w.nodes[0].si.known && w.nodes[0].listed == w.nodes[0].si.name
	f := 1.45
	switch w.tele.columns {
	case "nvml", "nvml-few", "power", "outofband":
		f = 2.3
	}
	if !known {
		f = 3
	}
	return f
}

func (w *world) drawTelemetry(f fleet) {
	r := w.stream("telemetry")
	t := &w.tele
	gpus := 0
	for _, n := range w.nodes {
		gpus += len(n.gpus)
	}
	least := float64(gpus) * w.length / maxRows
	low, high := 1.0, 60.0
	if f.cadence[1] > 0 {
		low, high = f.cadence[0], f.cadence[1]
	}
	low = max(low, least)
	high = max(low, high)
	for _, c := range []float64{1, 2, 5, 10, 15, 20, 30, 60} {
		if c >= low && c <= high && (t.cadence == 0 || r.chance(0.45)) {
			t.cadence = c
		}
	}
	if t.cadence == 0 {
		t.cadence = math.Ceil(low)
	}
	t.jitter = pick(r, 0, 0.01, 0.1, 0.3)
	t.noise = r.uniform(0.001, 0.03)
	t.instant = r.chance(0.5)
	t.lost, t.late, t.twice = pick(r, 0, 0, 0.005, 0.05), pick(r, 0, 0, 0.01, 0.05), pick(r, 0, 0, 0.01)
	t.resets = pick(r, 0, 0, 0.15)
	t.flows, t.fabricRows, t.hostPower = r.chance(0.6), r.chance(0.85), r.chance(0.8)
	t.allocations = true
	if f.power {
		t.hostPower = true
	}
	t.slow = pick(r, 60.0, 60, 120, 300)
	t.bursts = r.chance(0.25) && len(w.nodes) <= 8
	t.fabricEvery = max(t.cadence, pick(r, 10.0, 15, 30, 60))
	t.processes = pick(r, "true", "true", "true", "generic", "partial", "absent")
	t.collectives = pick(r, "true", "absent", "absent", "partial")
	if f.processes != "" {
		t.processes = f.processes
		if f.processes == "absent" {
			t.collectives = "absent"
		}
	}
	arch := w.nodes[0].si.arch
	t.columns = pick(r, "full", "full", "nocycles", "nocycles", "tensor", "nofp32", "nodram", "nopower")
	if arch != "hopper" && arch != "blackwell" {
		t.columns = pick(r, "nocycles", "nocycles", "nocycles", "tensor", "nodram", "nofp32", "nvml")
	}
	if f.columns != nil {
		t.columns = pick(r, f.columns...)
	}
	for _, n := range w.nodes {
		for v := range bundle.NumGPUValues {
			n.columns[v] = columnSets[t.columns](v)
		}
		if arch != "hopper" && arch != "blackwell" && t.columns != "cycles" && t.columns != "counters" {
			n.columns[bundle.MMACyclesTotal] = false
		}
		if n.si.nvlink == 0 {
			n.columns[bundle.NVLinkTxBps], n.columns[bundle.NVLinkRxBps] = false, false
		}
		if t.columns == "outofband" {
			n.vantage = "outofband"
			n.columns[bundle.PowerW] = false
		}
	}
	if t.columns == "outofband" {
		t.hostPower, t.fabricRows = true, true
		t.processes, t.collectives, t.flows = "absent", "absent", false
		if r.chance(0.3) { // the BMC knows its GPUs' watts
			for _, n := range w.nodes {
				n.columns[bundle.PowerW] = true
			}
		}
	}
}

// gpus of all nodes, in order.
func (w *world) gpus() []*gpu {
	var out []*gpu
	for _, n := range w.nodes {
		out = append(out, n.gpus...)
	}
	return out
}

func (w *world) activity(kind string) *activity {
	a := &activity{id: fmt.Sprintf("act-%03d", len(w.acts)+1), kind: kind, notes: map[string]any{}, blur: 1}
	w.acts = append(w.acts, a)
	return a
}

// put places a source on a GPU.
func (g *gpu) put(from, to float64, src source, a *activity, peers ...peer) {
	if to > from {
		g.pieces = append(g.pieces, piece{from, to, src, a, peers})
	}
}

// hold labels time of a GPU.
func (g *gpu) hold(from, to float64, a *activity) {
	if to > from {
		g.held = append(g.held, held{from, to, a})
	}
}

// over integrates what a GPU does.
func (g *gpu) over(a, b float64) (out sig) {
	for i := range g.pieces {
		p := &g.pieces[i]
		if from, to := max(a, p.from), min(b, p.to); to > from {
			p.src.integral(from, to, 1, &out)
		}
	}
	return out
}

// rent gives an account GPUs.
func (w *world) rent(account string, from, to float64, gpus []*gpu) {
	for _, n := range w.nodes {
		var of []int
		for _, g := range gpus {
			if g.node == n && !slices.Contains(of, g.index) {
				of = append(of, g.index)
			}
		}
		if len(of) > 0 {
			if to >= w.length {
				to = -1
			}
			w.rentals = append(w.rentals, rental{account, n, of, max(from, -3600), to})
		}
	}
}

// contract gives an account an order.
func (w *world) contract(account string, v version) *order {
	o := &order{id: fmt.Sprintf("ord-%d", 1001+len(w.orders)), account: account, versions: []version{v}}
	w.orders = append(w.orders, o)
	return o
}

// orderFor is an order as it fits GPUs.
func (w *world) orderFor(gpus []*gpu, from, to float64, use string) version {
	x := gpus[0].node
	peak := x.si.dense16
	if !x.si.known || x.listed != x.si.name {
		peak = 0
	}
	return version{at: from - w.logUniform(60, 86400*3), model: x.listed, peak16: peak, count: len(gpus), gbps: x.fabric, from: from, to: to, use: use}
}

// launch makes processes, one a GPU or one for all of a node's.
func (w *world) launch(a *activity, gpus []*gpu, from, to float64, each bool, exe, launcher, source string) []*proc {
	job := fmt.Sprint(w.nextJob)
	w.nextJob += w.between(1, 9)
	user, project := "u"+w.hex(4), pick(w.rng, "alpha", "core", "ml", "prod", "res", "p"+w.hex(2))
	var out []*proc
	for i, g := range gpus {
		if !each && len(out) > 0 && out[len(out)-1].node == g.node {
			last := out[len(out)-1]
			last.gpus = append(last.gpus, g.index)
			continue
		}
		w.nextPID += w.between(1, 90)
		p := &proc{node: g.node, gpus: []int{g.index}, from: from, to: to, pid: w.nextPID, exe: exe, launcher: launcher, source: source, job: job, user: user, project: project, world: -1, rank: -1, act: a}
		if to >= w.length {
			p.to = -1
		}
		if each && launcher != "" {
			p.world, p.rank = len(gpus), i
		}
		out = append(out, p)
	}
	w.procs = append(w.procs, out...)
	return out
}
