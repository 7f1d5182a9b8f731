package drawn

import "math"

// training is one run: its arithmetic and how a step spends its time.
type training struct {
	dtype     string
	params    float64 // all
	active    float64 // a token uses
	layers    float64
	hidden    float64
	seq       float64
	lora      bool
	layout    string // ddp, zero, fsdp, tp, pp, 3d, moe, offload
	tp, pp    int
	dp        int
	accum     int // micro-batches a step
	recompute string
	gpus      int
	perNode   int
	nodes     int

	tokens     float64 // a step, all GPUs
	modelFLOP  float64 // a step, all GPUs
	execFLOP   float64
	evalFLOP   float64 // forward, a step's tokens
	mem        float64 // bytes a GPU
	computeS   float64 // of a step, unthrottled
	period     float64 // of a step, s
	waste      float64 // tensor cycles that do no useful arithmetic
	jitter     float64
	gradBytes  float64
	nodeBytes  float64 // leave a node each step
	linkBytes  float64 // of one GPU over NVLink or PCIe each step
	collective string
	calls      float64 // collective calls a step
	straggler  int     // GPU number that is slower; -1: none
	slowness   float64

	patterns [][]phase // by pipeline stage
	slack    []phase   // of a GPU that waits for a straggler: nil without one
	eval     sig
	si       silicon
}

type trainPrior struct {
	layouts    []string
	dtypes     []string
	lora       bool
	small      bool // small models on few GPUs
	minPeriod  float64
	maxPeriod  float64
	noRecomp   bool
	fabricGbps float64
	throttle   float64 // the tenant holds the power limit at this share of TDP; 0: no
	pad        float64 // share of each step that idles on purpose
}

// flopsOfTokens gives a token's FLOP: the model's, those executed in matrices of
// parameters, those executed in attention, and a forward pass.
func (t *training) flopsOfTokens() (model, gemm, attn, forward float64) {
	a := t.layers * t.seq * t.hidden // causal: half
	fwd, fwdAttn := 2*t.active, 2*a
	model, gemm, attn = 3*fwd+3*fwdAttn, 3*fwd, 3*fwdAttn+a // flash attention multiplies Q and K again on the way back
	if t.lora {
		model, gemm = 2*fwd+3*fwdAttn, 2*fwd*1.01
	}
	switch t.recompute {
	case "selective":
		attn += fwdAttn
	case "full":
		gemm += fwd
		attn += fwdAttn
	}
	return model, gemm, attn, fwd + fwdAttn
}

func drawTraining(r *rng, si silicon, gpus, perNode int, prior trainPrior) *training {
	t := &training{gpus: gpus, perNode: min(perNode, gpus), si: si, straggler: -1, lora: prior.lora}
	t.nodes = (gpus + t.perNode - 1) / t.perNode
	t.layout = pick(r, prior.layouts...)
	t.dtype = pick(r, prior.dtypes...)
	t.tp, t.pp, t.dp, t.accum = 1, 1, gpus, pick(r, 1, 1, 1, 2, 4, 8, 16)
	switch t.layout {
	case "tp":
		t.tp = min(t.perNode, pick(r, 2, 4, 8))
	case "pp":
		t.pp = pick(r, 2, 4)
	case "3d":
		t.tp, t.pp = min(t.perNode, pick(r, 2, 4, 8)), 2
	}
	for gpus%(t.tp*t.pp) != 0 {
		if t.pp > 1 {
			t.pp /= 2
		} else {
			t.tp /= 2
		}
	}
	t.dp = gpus / (t.tp * t.pp)
	if t.pp > 1 {
		t.accum = pick(r, 4, 8, 16)
	}
	t.drawModel(r, prior)
	t.drawStep(r, prior)
	return t
}

// drawModel draws what is trained.
func (t *training) drawModel(r *rng, prior trainPrior) {
	perParam := 16.0 // bytes of weights, gradients and optimiser
	var group float64
	switch t.layout {
	case "fsdp", "moe":
		group = float64(t.gpus)
	case "zero":
		group = 1.5 + float64(t.gpus)/4
	case "offload":
		group = 6
	default:
		group = float64(t.tp * t.pp)
	}
	if t.lora {
		perParam, group = pick(r, 2.0, 2.1, 0.7), float64(pick(r, 1, 1, min(t.gpus, 4)))
	}
	most := min(0.75*t.si.mem()*group/perParam, 9e10)
	least := most / 12
	if prior.small {
		least, most = 1e7, min(most, 6e8)
	}
	t.params = r.logUniform(least, most)
	t.active = t.params
	if t.layout == "moe" {
		t.active = t.params * r.logUniform(0.06, 0.35)
	}
	aspect := r.uniform(60, 150)
	t.hidden = 64 * math.Max(4, math.Round(math.Cbrt(t.active*aspect/12)/64))
	t.layers = math.Max(2, math.Round(t.active/12/t.hidden/t.hidden))
	t.seq = pick(r, 512.0, 1024, 2048, 2048, 4096, 4096, 8192, 16384)
	if prior.small {
		t.seq = pick(r, 128.0, 256, 512, 1024, 2048)
	}
	t.recompute = pick(r, "none", "none", "selective", "full")
	if prior.noRecomp {
		t.recompute = "none"
	}
	used := min(0.93, max(t.params*perParam/group/t.si.mem(), 0.1)+r.uniform(0.05, 0.5))
	t.mem = used * t.si.mem()
}

// drawStep draws how a step spends its time.
func (t *training) drawStep(r *rng, prior trainPrior) {
	si := &t.si
	model, gemm, attn, forward := t.flopsOfTokens()
	t.waste = r.uniform(0.005, 0.07)
	if t.hidden < 1024 {
		t.waste = r.uniform(0.03, 0.2)
	}
	attnRate := 1.0 // useful FLOP of an attention cycle
	if si.arch == "hopper" || si.arch == "blackwell" {
		attnRate = r.uniform(0.5, 0.95)
	}
	low := 0.0 // share of the matrices in the low precision
	if t.dtype == "fp8" || t.dtype == "fp4" {
		low = r.uniform(0.6, 0.95)
	}
	base := "bf16"
	if t.dtype == "tf32" {
		base = "tf32"
	}
	var cyclesPerToken float64
	vector := t.dtype == "fp32" // on the FP32 pipes
	if !vector {
		cyclesPerToken = (gemm*(1-low)/si.perCycle(base) + gemm*low/si.perCycle(t.dtype) + attn/si.perCycle(base)/attnRate) * (1 + t.waste)
	}
	beta := r.uniform(0.42, 0.76) // of the tensor pipes, while computing
	if si.arch == "hopper" || si.arch == "blackwell" {
		beta = r.uniform(0.4, 0.74)
	}
	if t.hidden < 1024 || t.lora {
		beta *= r.uniform(0.35, 0.8)
	}
	if t.dtype == "fp8" || t.dtype == "fp4" {
		beta *= r.uniform(0.5, 0.8)
	}
	if t.tp > 1 {
		beta *= r.uniform(0.5, 0.9) // all-reduces between the matrices, finer than any sampling
	}
	if t.layout == "moe" {
		beta *= r.uniform(0.4, 0.8)
	}
	perToken := cyclesPerToken / beta / (si.clock * 1e6)
	if vector {
		beta = r.uniform(0.45, 0.8)
		perToken = (gemm + attn) / (beta * si.fp32 * si.clock / si.boost)
	}
	target := r.logUniform(prior.minPeriod, prior.maxPeriod)
	perDP := max(1, math.Round(target/perToken*float64(t.gpus)/float64(t.dp)/t.seq)) // sequences
	if perDP < float64(t.accum) {
		t.accum = max(1, int(perDP))
	}
	t.tokens = perDP * t.seq * float64(t.dp)
	t.computeS = t.tokens * perToken / float64(t.gpus)
	t.modelFLOP, t.execFLOP, t.evalFLOP = t.tokens*model, t.tokens*(gemm+attn), t.tokens*forward
	t.communicate(r)
	dram := r.uniform(0.2, 0.5)
	c := load{
		util: 1, sm: r.uniform(0.75, 0.98), ipc: r.uniform(0.7, 1), tensor: beta, dtype: t.dtype, dram: dram, occ: r.uniform(0.12, 0.4),
		fp32: r.uniform(0.02, 0.1), fp16: 0, integer: r.uniform(0.05, 0.2), pcieTx: r.logUniform(1e6, 1e8), pcieRx: r.logUniform(1e7, 4e8),
	}
	if t.hidden < 1024 || t.tp > 1 || t.layout == "moe" {
		c.sm *= r.uniform(0.6, 0.95)
	}
	if vector {
		c.tensor, c.fp32, c.dtype = 0, beta, "bf16"
	}
	if t.dtype == "fp16" {
		c.fp16 = r.uniform(0, 0.02)
	}
	t.shape(r, prior, c)
}

// communicate says what a step sends.
func (t *training) communicate(r *rng) {
	t.gradBytes = pick(r, 2.0, 2, 4)
	dp, p := float64(t.dp), t.params
	if t.lora {
		p *= r.logUniform(0.001, 0.02)
	}
	ring := func(n float64) float64 {
		if n <= 1 {
			return 0
		}
		return (n - 1) / n
	}
	own := p / float64(t.tp*t.pp)
	t.collective, t.calls = "allreduce", math.Max(1, math.Round(own*t.gradBytes/pick(r, 25e6, 50e6, 200e6)))
	n := float64(t.nodes)
	switch t.layout {
	case "fsdp", "zero", "moe":
		again := 1.0
		if t.layout == "fsdp" && r.chance(0.3) {
			again = float64(t.accum)
		}
		t.linkBytes = (2*2*again + t.gradBytes) * own * ring(dp)
		t.nodeBytes = (2*2*again + t.gradBytes) * own * ring(n)
		t.collective, t.calls = "reducescatter", math.Max(1, t.layers*again)
	default:
		t.linkBytes = 2 * t.gradBytes * own * ring(dp)
		t.nodeBytes = 2 * t.gradBytes * own * float64(t.tp) * ring(n)
		if t.pp > 1 {
			t.nodeBytes *= 1 / float64(t.pp)
		}
	}
	act := t.tokens / dp * t.hidden * 2 // bytes of activations that cross a cut
	if t.tp > 1 {
		k := float64(t.tp)
		t.linkBytes += 4 * t.layers / float64(t.pp) * act * 2 * (k - 1) / k
	}
	if t.pp > 1 && t.nodes > 1 {
		t.nodeBytes += 2 * act * float64(t.perNode) / float64(t.tp) / 2
	}
	if t.layout == "moe" {
		all := 4 * act * t.layers * r.uniform(0.5, 2) / float64(t.gpus) * dp / 2
		t.linkBytes += all / n
		t.nodeBytes += all * float64(t.perNode) * ring(n)
	}
	if t.nodes == 1 {
		t.nodeBytes = 0
	}
}

// shape makes the phases of a step.
func (t *training) shape(r *rng, prior trainPrior, c load) {
	si := &t.si
	link := si.nvlink / 2 * r.uniform(0.4, 0.85)
	if link == 0 {
		link = r.uniform(5e9, 22e9) // PCIe
	}
	wire := prior.fabricGbps * 1e9 / 8 * r.uniform(0.35, 0.9)
	if wire == 0 {
		wire = r.uniform(0.8e9, 3e9) // Ethernet of the front
	}
	comm := 0.0
	if t.gpus > 1 {
		comm = max(t.linkBytes/link, t.nodeBytes/wire)
	}
	computing, slow := si.run(c)
	compute := t.computeS / slow
	// Nobody keeps a layout that waits for the network nine tenths of its time.
	for comm > 4*compute {
		k := 2.0
		t.tokens, t.modelFLOP, t.execFLOP, t.evalFLOP = t.tokens*k, t.modelFLOP*k, t.execFLOP*k, t.evalFLOP*k
		t.computeS, compute = t.computeS*k, compute*k
		if t.tp > 1 || t.layout == "moe" { // grows with tokens: it must be hidden
			if f := 2 * compute / comm; f < 1 {
				comm, t.linkBytes, t.nodeBytes = comm*f, t.linkBytes*f, t.nodeBytes*f
			}
		}
	}
	if t.layout == "offload" {
		comm += compute * r.uniform(2, 8)
	}
	hidden := min(comm*r.uniform(0, 0.95), 0.7*compute)
	exposed := comm - hidden
	optimizer := t.params / float64(t.tp*t.pp) * 20 / si.bw
	if t.layout == "fsdp" || t.layout == "zero" || t.layout == "moe" {
		optimizer /= float64(t.dp)
	}
	optimizer = min(optimizer, compute*0.3)
	wait := compute * r.uniform(0, 0.03)
	if r.chance(0.25) {
		wait = compute * r.logUniform(0.03, 0.5) // the data loader
	}
	bubble := 0.0
	if t.pp > 1 {
		bubble = compute * float64(t.pp-1) / float64(t.accum)
	}
	wait += prior.pad / (1 - min(prior.pad, 0.98)) * (compute + exposed)
	fab := func(level *sig, share float64, seconds float64) {
		if seconds <= 0 {
			return
		}
		level[sFabTx] += t.nodeBytes * share / float64(t.perNode) / seconds
		level[sFabRx] = level[sFabTx]
		if si.nvlink > 0 {
			level[sNVTx] += t.linkBytes * share / seconds
			level[sNVRx] = level[sNVTx]
		} else if t.gpus > 1 {
			level[sPCIeTx] += t.linkBytes * share / seconds
			level[sPCIeRx] += t.linkBytes * share / seconds
		}
	}
	early := 0.0 // share of the traffic during compute
	if comm > 0 {
		early = hidden / comm
	}
	t.period = compute + exposed + optimizer + wait + bubble
	perGPU := 1 / float64(t.gpus)
	computing[sMem], computing[sCPU] = t.mem, r.uniform(0.004, 0.05)
	computing[sExec], computing[sModel] = t.execFLOP*perGPU/compute, t.modelFLOP*perGPU/compute
	computing[sStRx] = r.logUniform(1e4, 2e7)
	fab(&computing, early, compute)
	waitNCCL := load{util: 1, sm: r.uniform(0.05, 0.5), ipc: r.uniform(0.1, 0.3), dram: r.uniform(0.02, 0.2), occ: 0.05, dtype: "bf16"}
	if t.layout == "offload" {
		waitNCCL.util, waitNCCL.sm, waitNCCL.ipc = r.uniform(0.03, 0.3), r.uniform(0.01, 0.08), 0.2
		waitNCCL.pcieTx, waitNCCL.pcieRx = r.uniform(2e9, 15e9), r.uniform(2e9, 15e9)
	}
	talking, _ := si.run(waitNCCL)
	talking[sMem] = t.mem
	if t.layout == "offload" {
		talking[sCPU] = r.uniform(0.04, 0.12)
	}
	fab(&talking, 1-early, exposed)
	updating, _ := si.run(load{util: 1, sm: 0.9, ipc: 0.4, dram: r.uniform(0.5, 0.85), fp32: 0.1, occ: 0.6, dtype: "bf16"})
	updating[sMem] = t.mem
	idling := si.context(t.mem)
	if prior.pad == 0 || r.chance(0.5) {
		idling[sUtil] = 0
		idling[sBusy], idling[sClock] = 1, si.clock // clocks stay up between kernels
	}
	idling[sCPU] = r.uniform(0.01, 0.08)
	t.jitter = r.uniform(0.003, 0.03)

	cuts := 1
	if t.accum > 1 && r.chance(0.7) {
		cuts = min(t.accum, 8)
	}
	var main []phase
	for range cuts {
		fwd, bwd := computing, computing
		// Backward multiplies a little denser than forward.
		tilt := 0.06
		for _, i := range []int{sTensor, sHMMA, sCycles, sExec, sModel} {
			fwd[i] *= 1 - 2*tilt
			bwd[i] *= 1 + tilt
		}
		fwd[sPower] = si.ctxW + (fwd[sPower]-si.ctxW)*(1-tilt/2)
		main = append(main, phase{compute / float64(cuts) / 3, fwd}, phase{compute / float64(cuts) * 2 / 3, bwd})
		if bubble > 0 {
			main = append(main, phase{bubble / float64(cuts), talkingOf(talking)})
		}
	}
	tail := []phase{{exposed, talking}, {optimizer, updating}, {wait, idling}}
	t.patterns = [][]phase{append(main, tail...)}
	if r.chance(0.2) && t.gpus > 1 {
		t.straggler, t.slowness = r.IntN(t.gpus), r.uniform(0.03, 0.15)
		lost := t.slowness * compute
		t.slack = append(append(append([]phase{}, main...), phase{lost, talkingOf(talking)}), tail...)
		slower := make([]phase, len(main))
		for i, x := range main {
			slower[i] = x
			slower[i].share *= 1 + t.slowness
			for _, k := range []int{sTensor, sHMMA, sCycles, sExec, sModel} {
				slower[i].level[k] /= 1 + t.slowness
			}
		}
		t.patterns = [][]phase{append(slower, tail...)}
		t.period += lost
	}
	t.eval = computing.with(func(s *sig) {
		s[sModel] = 0
		s[sFabTx], s[sFabRx] = 0, 0
	})
}

// talkingOf is a wait for others: a resident kernel, no traffic of its own.
func talkingOf(x sig) sig {
	x[sFabTx], x[sFabRx], x[sNVTx], x[sNVRx] = 0, 0, 0, 0
	return x
}

// of gives what GPU number i of the run does on a beat.
func (t *training) of(b *beat, i int, r *rng) source {
	lead := 0.01 * r.NormFloat64() * 0.1
	if t.pp > 1 {
		stage := i / max(1, t.gpus/t.pp)
		lead += float64(stage) * 0.5 / float64(t.pp)
	}
	phases := t.patterns[0]
	if t.slack != nil && i != t.straggler {
		phases = t.slack
	}
	return newSteps(b, lead+0.2, phases)
}
