package scenario

import (
	"math"
	"math/rand/v2"
)

// Work is what a job does. Fields that a kind does not use are ignored.
type Work struct {
	Kind string // as truth.json names it
	Flow string // within the kind: see the methods below

	Params      float64 // of the model
	ReplicaTok  float64 // tokens of one replica in one step
	TP, PP      int
	FSDP        bool
	Recompute   float64 // executed over model by recomputation; 0: 1
	DType       string  // bf16, fp16, tf32, fp8, fp32
	Overlap     float64 // share of the exchange hidden behind compute
	NetBps      float64 // bytes/s and GPU that the exchange reaches between nodes; 0: 20e9
	CkptMin     float64 // minutes between checkpoints; 0: none
	EvalMin     float64
	LoRA        bool
	Filler      float64 // tensor activity of filler in waits
	Duty        float64 // share of the time in which a training works; 0: always
	DutyPeriodS float64
	CapFrac     float64 // of the TDP; 0: 1
	SyncMin     float64 // DiLoCo: minutes between outer steps
	Load        float64 // of a server, 0 to 1
	Batch       float64 // tokens decoded at once
	MemFrac     float64 // of the part's memory; 0: a default of the kind
	SampleTile  float64 // tensor cycles over useful; 0: 1.05
	Cover       *Work   // inference that runs beside a training on the same GPUs
}

// engine is a Work on a part with a number of ranks.
type engine struct {
	w       Work
	part    *Part
	ranks   int
	nodes   int
	perNode int
	rng     *rand.Rand
	startS  float64 // start-up before step one

	step, compute, exchange, optimize float64 // seconds
	busy, wait, opt                   signal
	factor                            float64 // FLOP in a busy cycle relative to 16 bit
	ops                               []op
	cover                             *engine
	loads                             []float64 // state of a server's load, per rank group
	phase                             []float64
}

// op is a collective of the ranks: per second and rank.
type op struct {
	name         string
	nranks       int
	group        func(rank int) int
	calls, bytes float64
	phase        int // 0: always, 1: rollouts, 2: updates
}

func newEngine(w Work, part *Part, ranks, nodes int, rng *rand.Rand) *engine {
	e := &engine{w: w, part: part, ranks: ranks, nodes: max(nodes, 1), rng: rng}
	e.perNode = max(1, ranks/e.nodes)
	if e.w.SampleTile == 0 {
		e.w.SampleTile = 1.02 + 0.06*rng.Float64()
	}
	if e.w.CapFrac == 0 {
		e.w.CapFrac = 1
	}
	e.w.TP, e.w.PP = max(1, w.TP), max(1, w.PP)
	e.startS = 50 + 120*rng.Float64()
	e.loads = make([]float64, ranks)
	e.phase = make([]float64, ranks)
	for i := range e.loads {
		e.loads[i] = 1
		e.phase[i] = rng.Float64()
	}
	switch w.Kind {
	case "training", "finetuning":
		e.planTraining()
	case "rl":
		e.planTraining()
		e.ops = append(e.ops, op{name: "allreduce", nranks: e.w.TP, group: func(r int) int { return 1000 + r/e.w.TP }, calls: 2400, bytes: 2400 * 0.4e6, phase: 1})
		e.ops = append(e.ops, op{name: "broadcast", nranks: ranks, group: func(int) int { return 0 }, calls: 3, bytes: 3 * 90e6, phase: 2})
		if e.w.TP == 1 {
			e.ops = e.ops[:0]
			e.ops = append(e.ops, op{name: "allreduce", nranks: ranks, group: func(int) int { return 0 }, calls: 8, bytes: 8 * 64e6, phase: 2},
				op{name: "broadcast", nranks: ranks, group: func(int) int { return 0 }, calls: 2, bytes: 2 * 200e6, phase: 2})
		}
	case "inference", "batch_inference":
		if e.w.TP > 1 {
			e.ops = append(e.ops, op{name: "allreduce", nranks: e.w.TP, group: func(r int) int { return r / e.w.TP }, calls: 2 * 60 * 28, bytes: 2 * 60 * 28 * math.Max(1, e.w.Batch) * 16384})
		}
	}
	if w.Kind == "inference" && nodes > 1 { // a model over several hosts passes activations on
		e.ops = append(e.ops, op{name: "sendrecv", nranks: 2, group: func(r int) int { return 5000 + r%e.perNode }, calls: 60, bytes: 60 * math.Max(1, w.Batch) * 16384})
	}
	if w.Flow == "nccl" {
		e.ops = append(e.ops, op{name: "allreduce", nranks: ranks, group: func(int) int { return 0 }, calls: 200, bytes: 200 * 1.07e9})
	}
	if w.Cover != nil {
		e.cover = newEngine(*w.Cover, part, ranks, nodes, rng)
	}
	return e
}

// rate16 is the FLOP/s of a fully busy GPU at a clock.
func (e *engine) rate16(mhz float64) float64 { return e.part.SMs * e.part.FLOPPerClk * mhz * 1e6 }

// planTraining derives the step from model, layout and part.
func (e *engine) planTraining() {
	w, p := &e.w, e.part
	e.factor = map[string]float64{"fp8": 1.55, "tf32": 0.5}[w.DType]
	if e.factor == 0 {
		e.factor = 1
	}
	rec := w.Recompute
	if rec == 0 {
		rec = 1
	}
	busyT := p.Busy
	if w.DType == "fp8" {
		busyT *= 0.8
	}
	e.busy = signal{util: 1, sm: 0.88, occ: 0.22, tensor: busyT, fp32: 0.035, fp16: 0.004, integer: 0.05, dram: 0.33, pcieTx: 40e6, pcieRx: 60e6}
	if w.DType == "fp8" {
		e.busy.energyPerMMA = 1.1
	}
	if w.DType == "fp32" { // no tensor pipes at all
		e.busy.tensor, e.busy.fp32 = 0, 0.55
	}
	e.busy.mhz = p.clock(&e.busy, w.CapFrac*p.TDPW)
	perFLOP := e.rate16(e.busy.mhz) * e.busy.tensor * e.factor / w.SampleTile
	if w.DType == "fp32" {
		perFLOP = p.FP32 * 0.55 * 0.9 * e.busy.mhz / p.BoostMHz
	}
	perParam := 6.0
	if w.LoRA {
		perParam = 4
	}
	shard := float64(w.TP * w.PP)
	model := perParam * w.Params * w.ReplicaTok / shard
	e.compute = model * rec / perFLOP
	if w.PP > 1 { // bubbles
		e.compute *= 1 + 0.12
		scale := 1 / 1.12
		e.busy.tensor *= scale
		e.busy.sm *= scale
		e.busy.dram *= scale
	}
	e.busy.executed, e.busy.model = model*rec/e.compute, model/e.compute
	// The exchange between replicas.
	dp := max(1, e.ranks/(w.TP*w.PP))
	grad := 2 * w.Params / shard
	if w.LoRA {
		grad = 2 * w.Params * 0.004
	}
	bytes := 0.0 // that a rank sends in a step
	if dp > 1 {
		bytes = 2 * float64(dp-1) / float64(dp) * grad
		if w.FSDP {
			bytes = 3 * float64(dp-1) / float64(dp) * grad
		}
	}
	net := w.NetBps
	if net == 0 {
		net = 20e9
	}
	if e.nodes == 1 && p.NVLinkBps > 0 {
		net = 0.6 * p.NVLinkBps
	} else if e.nodes == 1 {
		net = 11e9
	}
	e.exchange = (1-w.Overlap)*bytes/net + 0.004
	e.optimize = 0.004 + 18*w.Params/shard/float64(dp)/(0.7*p.MemBps)
	if w.LoRA {
		e.optimize = 0.004
	}
	e.step = e.compute + e.exchange + e.optimize
	acrossNodes, inside := 0.0, bytes/e.step
	if e.nodes > 1 {
		acrossNodes = inside
	}
	if w.TP > 1 { // activations of every layer
		inside += 0.12 * p.NVLinkBps
		if p.NVLinkBps == 0 {
			inside += 5e9
		}
	}
	if w.SyncMin > 0 {
		acrossNodes = 0
	}
	e.wait = signal{util: 1, sm: 0.16, occ: 0.05, fp32: 0.02, dram: 0.12}
	if w.Filler > 0 {
		e.wait.tensor, e.wait.sm, e.wait.executed = w.Filler, 0.7, e.rate16(e.busy.mhz)*w.Filler/w.SampleTile
	}
	e.opt = signal{util: 1, sm: 0.8, occ: 0.6, fp32: 0.14, integer: 0.08, dram: 0.75}
	for _, s := range []*signal{&e.busy, &e.wait, &e.opt} {
		s.fabric = acrossNodes
		if p.NVLinkBps > 0 {
			s.nvlink = inside
		} else {
			s.pcieTx += inside
			s.pcieRx += inside
		}
		s.mhz = p.clock(s, w.CapFrac*p.TDPW)
	}
	// What a communicator's tap would count.
	perS := 1 / e.step
	tp, pp := w.TP, w.PP
	dpGroup := func(r int) int { return r % (tp * pp) }
	switch {
	case dp > 1 && w.FSDP:
		layers := math.Max(8, math.Round(3*math.Pow(w.Params, 0.27)/10))
		e.ops = append(e.ops, op{name: "allgather", nranks: dp, group: dpGroup, calls: 2 * layers * perS, bytes: 2 * grad * perS},
			op{name: "reducescatter", nranks: dp, group: dpGroup, calls: layers * perS, bytes: grad * perS})
	case dp > 1:
		buckets := math.Max(1, math.Round(grad/41e6))
		if w.SyncMin == 0 {
			e.ops = append(e.ops, op{name: "allreduce", nranks: dp, group: dpGroup, calls: buckets * perS, bytes: grad * perS})
		}
	}
	if tp > 1 {
		act := w.ReplicaTok / 4 * 16384
		e.ops = append(e.ops, op{name: "allreduce", nranks: tp, group: func(r int) int { return 100 + r/tp }, calls: 4 * 4 * 40 / float64(pp) * perS, bytes: 4 * 4 * 40 / float64(pp) * perS * act})
	}
	if pp > 1 {
		act := w.ReplicaTok / 8 * 16384
		e.ops = append(e.ops, op{name: "sendrecv", nranks: pp, group: func(r int) int { return 10000 + r%tp + tp*(r/(tp*pp)) }, calls: 16 * perS, bytes: 16 * perS * act})
		for _, s := range []*signal{&e.busy, &e.wait} {
			if e.nodes > 1 {
				s.fabric += 16 * perS * act / float64(tp)
			}
		}
	}
}

// inPhase is the share of [t, t+1) that lies in [a, b) of a period.
func inPhase(t, period, a, b float64) float64 {
	if period <= 0 {
		return 0
	}
	full := func(x float64) float64 { // time in the phase up to x
		n := math.Floor(x / period)
		return n*(b-a) + math.Min(math.Max(x-n*period-a, 0), b-a)
	}
	return full(t+1) - full(t)
}

func (e *engine) memory(frac float64) float64 {
	if e.w.MemFrac > 0 {
		frac = e.w.MemFrac
	}
	return frac * e.part.MemBytes
}

// at is what rank r does in second t of the attempt. settled is false in start-up.
func (e *engine) at(t float64, r int) signal {
	var s signal
	switch e.w.Kind {
	case "training", "finetuning":
		s = e.training(t, r)
		if e.cover != nil {
			e.coverWith(&s, t, r)
		}
	case "rl":
		s = e.rl(t, r)
	case "inference", "batch_inference":
		s = e.serve(t, r, e.w.Load)
	case "hpc":
		s = e.hpc(t)
	case "rendering":
		s = e.render(t, r)
	case "mining":
		s = e.mine()
	case "burn_in":
		s = e.burn()
	case "notebook":
		s = e.notebook(t)
	default: // idle
		s.mem = e.w.MemFrac * e.part.MemBytes
	}
	if s.mhz == 0 {
		s.mhz = e.part.clock(&s, e.w.CapFrac*e.part.TDPW)
		if s.util == 0 && s.mem < 0.5e9 {
			s.mhz = 0.18 * e.part.BoostMHz
		}
	}
	return s
}

// coverWith shares the GPU with a server: each gets a share of the cycles.
func (e *engine) coverWith(s *signal, t float64, r int) {
	c := e.cover.serve(t, r, e.cover.w.Load)
	mem := s.mem + 0.5*c.mem
	sum := signal{mem: math.Min(mem, 0.95*e.part.MemBytes)}
	sum.mix(s, 1)
	c.executed, c.model = c.executed*0.7, c.model*0.7
	sum.mix(&c, 0.7)
	for _, v := range []*float64{&sum.util, &sum.sm, &sum.occ, &sum.tensor, &sum.dram} {
		*v = math.Min(*v, 1)
	}
	sum.imma, sum.dfma = 0, 0
	*s = sum
}

func (e *engine) training(t float64, _ int) signal {
	if t < e.startS {
		s := signal{mem: e.memory(0.8) * math.Min(1, t/e.startS*1.5), util: 0.05, sm: 0.02, dram: 0.02, storageRx: 0.2e9}
		if t > 0.7*e.startS { // compiling and warming up: computes, but no step counts
			s.util, s.sm, s.tensor, s.dram = 0.5, 0.3, 0.15, 0.2
			s.executed = e.rate16(e.part.TensorMHz) * 0.15 / 1.2
		}
		return s
	}
	t -= e.startS
	mem := e.memory(0.8)
	if w := e.w.CkptMin * 60; w > 0 {
		d := math.Max(4, 14*e.w.Params/(2.5e9*float64(e.nodes)))
		if q := inPhase(t, w, w-d, w); q > 0.5 {
			return signal{mem: mem, util: 0.03, sm: 0.01, pcieTx: 3e9, storageTx: 14 * e.w.Params / d / float64(e.ranks)}
		}
	}
	if w := e.w.EvalMin * 60; w > 0 {
		if q := inPhase(t, w, w-40, w); q > 0.5 { // forward passes alone
			s := e.busy
			s.tensor *= 0.75
			s.executed, s.model, s.fp32 = s.executed*0.75, 0, 0.015
			s.fabric, s.mem = s.fabric*0.3, mem
			return s
		}
	}
	if e.w.SyncMin > 0 {
		w := e.w.SyncMin * 60
		d := math.Max(6, 4*e.w.Params/1.0e9)
		if inPhase(t, w, w-d, w) > 0.5 {
			return signal{mem: mem, util: 0.2, sm: 0.05, wan: 4 * e.w.Params / d / float64(e.perNode)}
		}
	}
	if e.w.Duty > 0 {
		w := e.w.DutyPeriodS
		if inPhase(t, w, 0, e.w.Duty*w) < 0.5 {
			return signal{mem: mem, util: 0.01}
		}
	}
	var s signal
	c := inPhase(t, e.step, 0, e.compute)
	x := inPhase(t, e.step, e.compute, e.compute+e.exchange)
	o := math.Max(0, 1-c-x)
	s.mix(&e.busy, c)
	s.mix(&e.wait, x)
	s.mix(&e.opt, o)
	s.imma, s.dfma = 0, 0
	s.energyPerMMA = e.busy.energyPerMMA
	s.mem = mem
	s.mhz = e.busy.mhz*c + e.part.BoostMHz*(1-c)
	return s
}

func (e *engine) rl(t float64, r int) signal {
	if t < e.startS {
		return e.training(t, r)
	}
	switch e.rlPhase(t) {
	case 1:
		s := e.decode(r, 0.9, 96)
		s.mem = e.memory(0.85)
		return s
	default:
		u := *e
		u.w.CkptMin, u.w.EvalMin = 0, 0
		s := u.training(t, r)
		s.mem = e.memory(0.85)
		return s
	}
}

// rlPhase is 1 while rollouts are made, 2 while the model is updated.
func (e *engine) rlPhase(t float64) int {
	if math.Mod(t-e.startS, 280) < 200 {
		return 1
	}
	return 2
}

// decode makes tokens for batch sequences at once; load is the share of the time.
func (e *engine) decode(_ int, load, batch float64) signal {
	p := e.part
	shard := e.w.Params / float64(e.w.TP)
	bytes := 2 * shard
	if e.w.DType == "fp8" || e.w.DType == "int8" {
		bytes = shard
	}
	readS := (bytes + batch*3e6) / (0.62 * p.MemBps)
	overhead := 0.0022
	stepS := readS + overhead
	useful := 2 * shard * batch / stepS // FLOP/s while decoding
	factor := 1.0
	if e.w.DType == "fp8" || e.w.DType == "int8" {
		factor = 1.85
	}
	pad := math.Max(batch, 64) / batch
	tensor := math.Min(0.8, useful*math.Min(pad, 8)/(e.rate16(p.BoostMHz*0.95)*factor))
	s := signal{util: math.Min(1, 1.15*load), sm: 0.75 * load, occ: 0.2 * load, tensor: tensor * load, fp32: 0.012 * load, fp16: 0.01 * load, integer: 0.06 * load,
		dram: 0.62 * readS / stepS * load, executed: useful * load, model: useful * load, pcieTx: 20e6, pcieRx: 15e6}
	if e.w.DType == "int8" {
		s.imma = 0.9
	}
	if e.w.TP > 1 && p.NVLinkBps > 0 {
		s.nvlink = 2 * 60 * batch * 16384 / stepS * load
	}
	return s
}

// serve answers requests: decoding with prefill in between, load that wanders.
func (e *engine) serve(t float64, r int, load float64) signal {
	if t < e.startS {
		return signal{mem: e.memory(0.88) * math.Min(1, 1.4*t/e.startS), util: 0.02, pcieRx: 1e9, storageRx: 0.3e9}
	}
	lead := r / e.w.TP * e.w.TP
	if r == lead || e.w.Kind == "batch_inference" {
		tau, sd := 40.0, 0.22
		if e.w.Kind == "batch_inference" {
			tau, sd = 15, 0.02
		}
		e.loads[r] += (1-e.loads[r])/tau + sd*math.Sqrt(2/tau)*e.rng.NormFloat64()
		e.loads[r] = math.Min(math.Max(e.loads[r], 0.05), 2)
	} else {
		e.loads[r] = e.loads[lead]
	}
	l := load * e.loads[r]
	batch := math.Max(1, e.w.Batch)
	prefill := 0.08
	if e.w.Kind == "inference" {
		l *= 1 + 0.25*math.Sin(2*math.Pi*t/7200+1.3) // users come and go
	} else {
		prefill = 0.25
	}
	if e.w.Flow == "embed" { // one forward pass an item, no decoding
		prefill = 1
	}
	l = math.Min(l, 1)
	d := e.decode(r, l*(1-prefill), batch)
	pre := signal{util: l * prefill, sm: 0.9 * l * prefill, occ: 0.2 * l * prefill, tensor: 0.9 * e.part.Busy * l * prefill, dram: 0.3 * l * prefill, fp32: 0.008 * l * prefill, integer: 0.04 * l * prefill}
	pre.executed = e.rate16(e.part.BoostMHz*0.95) * pre.tensor / 1.06
	if e.w.DType == "fp8" || e.w.DType == "int8" {
		pre.executed *= 1.8
	}
	pre.model = pre.executed
	s := signal{}
	s.mix(&d, 1)
	s.mix(&pre, 1)
	if s.tensor > 0 {
		s.imma /= s.tensor
	}
	s.util = math.Min(1, s.util)
	s.mem = e.memory(0.88)
	s.wan = 0.4e6 * l
	if e.nodes > 1 {
		s.fabric = 60 * batch * 16384 * l * 3
	}
	if e.w.Kind == "batch_inference" {
		s.wan = 3e6
	}
	return s
}

func (e *engine) hpc(t float64) signal {
	p := e.part
	if t < 40 {
		return signal{mem: e.memory(0.4) * t / 40, util: 0.1, storageRx: 0.5e9}
	}
	step := 1.7 // a time step and its halo
	c := inPhase(t, step, 0, 0.8*step)
	var s signal
	mem := 0.4
	switch e.w.Flow {
	case "dgemm":
		s = signal{util: 1, sm: 0.95, occ: 0.2, tensor: 0.8 * c, dfma: 1, fp64: 0.01, integer: 0.04, dram: 0.3 * c, nvlink: 4e9, fabric: 2.5e9}
		s.executed = 0.8 * c * p.FP64Core * 0.97
		mem = 0.9
	case "md":
		s = signal{util: 0.93, sm: 0.62, occ: 0.4, fp32: 0.27, integer: 0.12, dram: 0.22, nvlink: 0.2e9, fabric: 0.15e9}
		s.executed = 0.27 * p.FP32 * 0.9
		mem = 0.06
	case "stencil":
		s = signal{util: 1, sm: 0.9, occ: 0.5, fp64: 0.07 * c, fp32: 0.01, integer: 0.08, dram: 0.78 * c, nvlink: 3e9 * (1 - c), fabric: 1.2e9 * (1 - c)}
		s.executed = (0.07*c*p.FP64 + 0.01*p.FP32) * 0.9
	default: // fp64
		s = signal{util: 1, sm: 0.85, occ: 0.5, fp64: 0.33 * c, fp32: 0.01, integer: 0.07, dram: 0.4 * c, nvlink: 2e9 * (1 - c), fabric: 1.5e9 * (1 - c)}
		s.executed = (0.33*c*p.FP64 + 0.01*p.FP32) * 0.9
	}
	if e.nodes == 1 {
		s.fabric = 0
	}
	if e.w.CkptMin > 0 && inPhase(t, e.w.CkptMin*60, e.w.CkptMin*60-15, e.w.CkptMin*60) > 0.5 {
		s = signal{util: 0.05, storageTx: 0.5e9}
	}
	s.mem = e.memory(mem)
	return s
}

func (e *engine) render(t float64, r int) signal {
	frame := 70 + 40*e.phase[r]
	at := math.Mod(t+e.phase[r]*frame, frame)
	if at < 0.12*frame {
		return signal{util: 0.1, sm: 0.03, mem: e.memory(0.12), pcieRx: 2e9, storageRx: 30e6, enc: 0.02}
	}
	q := 0.75 + 0.25*math.Sin(float64(int((t+e.phase[r]*frame)/frame))*12.9)
	s := signal{util: 0.98, sm: 0.8 * q, occ: 0.35, fp32: 0.24 * q, integer: 0.19 * q, dram: 0.2 * q, mem: e.memory(0.3 * (0.6 + 0.4*q))}
	s.executed = 0.24 * q * e.part.FP32 * 0.9
	if e.w.Flow == "denoise" {
		s.tensor = 0.02
	}
	return s
}

func (e *engine) mine() signal {
	if e.w.Flow == "dag" {
		return signal{util: 1, sm: 0.98, occ: 0.5, integer: 0.11, fp32: 0.002, dram: 0.82, mem: 5.2e9}
	}
	return signal{util: 1, sm: 0.99, occ: 0.6, integer: 0.42, fp32: 0.003, dram: 0.03, mem: 1.2e9}
}

func (e *engine) burn() signal {
	p := e.part
	if e.w.Flow == "nccl" { // a test of the links: all exchange, no arithmetic to speak of
		s := signal{util: 1, sm: 0.25, occ: 0.1, fp32: 0.02, integer: 0.03, dram: 0.3, nvlink: 0.7 * p.NVLinkBps, mem: 6e9, executed: 0.02 * p.FP32 * 0.9}
		if e.nodes > 1 {
			s.fabric = 25e9
		}
		return s
	}
	s := signal{util: 1, sm: 0.99, occ: 0.2, tensor: 0.91, dram: 0.25, integer: 0.03, fp32: 0.002, mem: e.memory(0.9)}
	s.mhz = p.clock(&s, e.w.CapFrac*p.TDPW)
	f := 1.0
	if e.w.DType == "tf32" {
		f = 0.5
	}
	s.executed = e.rate16(s.mhz) * 0.91 * f / 1.01
	return s
}

func (e *engine) notebook(t float64) signal {
	k := math.Floor(t / 420)
	h := math.Mod(math.Abs(math.Sin(k*78.233+e.phase[0]*40))*43758.5453, 1)
	on := math.Mod(t, 420) < 90*h && h > 0.35
	s := signal{mem: e.memory(0.15)}
	if on {
		s.util, s.sm, s.tensor, s.dram, s.fp32 = 0.7, 0.4, 0.12, 0.2, 0.03
		s.executed = e.rate16(e.part.TensorMHz) * 0.12 / 1.15
		s.model = s.executed
	}
	return s
}
