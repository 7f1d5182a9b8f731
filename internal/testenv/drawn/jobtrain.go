package drawn

import (
	"cmp"
	"math"
	"slices"
)

// trainJob is how a training lives: when it stops, where it goes on.
type trainJob struct {
	prior     trainPrior
	from, to  float64
	restarts  int
	gap       [2]float64 // s between stop and start; zero: the prior
	spare     []*gpu     // restarts may take other GPUs of these
	plan      []segment  // in place of all that: stretches as the family has them
	noEval    bool
	quiet     bool    // no processes are shown
	exe       string  // what its processes call themselves; empty: as trainings do
	share     float64 // of each GPU's time; 0: all
	model     *training
	declareAs string // what the order declares
	wan       *wan
}

// wan is what islands of one run exchange now and then.
type wan struct {
	every, length float64
	peers         []peer
	bytes         float64 // a GPU and exchange
}

// segment is a stretch without a stop.
type segment struct {
	from, to float64
	gpus     []*gpu
	account  string // who rents them; empty: nobody new
}

// siteFabric is the network between the GPUs of a job.
func siteFabric(gpus []*gpu) float64 { return gpus[0].node.fabric }

func perNode(gpus []*gpu) int {
	n := map[*node]int{}
	for _, g := range gpus {
		n[g.node]++
	}
	most := 1
	for _, k := range n {
		most = max(most, k)
	}
	return most
}

func nodesOf(gpus []*gpu) []*node {
	var out []*node
	for _, g := range gpus {
		if !slices.Contains(out, g.node) {
			out = append(out, g.node)
		}
	}
	return out
}

// peersOf is where each node of a job sends.
func peersOf(gpus []*gpu, all bool) map[*node][]peer {
	nodes := nodesOf(gpus)
	out := map[*node][]peer{}
	if len(nodes) < 2 {
		return out
	}
	for i, n := range nodes {
		if all {
			for _, o := range nodes {
				if o != n {
					out[n] = append(out[n], peer{o.name, 1 / float64(len(nodes)-1)})
				}
			}
			continue
		}
		next, prev := nodes[(i+1)%len(nodes)], nodes[(i+len(nodes)-1)%len(nodes)]
		if next == prev {
			out[n] = []peer{{next.name, 1}}
		} else {
			out[n] = []peer{{next.name, 0.75}, {prev.name, 0.25}}
		}
	}
	return out
}

// train lets a run live on GPUs.
func (w *world) train(a *activity, gpus []*gpu, j trainJob) *training {
	r := w.stream("train " + a.id)
	if j.prior.maxPeriod == 0 {
		j.prior.minPeriod, j.prior.maxPeriod = 0.2, 60
	}
	si := gpus[0].node.si
	if j.prior.throttle > 0 {
		si.capW = max(si.idleW+si.ctxW+0.1*si.tdp, si.tdp*j.prior.throttle)
	}
	if j.prior.dtypes == nil {
		j.prior.dtypes = dtypesOf(si.part)
	}
	if j.prior.layouts == nil {
		j.prior.layouts = []string{"ddp", "ddp", "fsdp", "zero"}
	}
	j.prior.fabricGbps = siteFabric(gpus)
	t := j.model
	if t == nil {
		t = drawTraining(r, si, len(gpus), perNode(gpus), j.prior)
	}
	a.dtype, a.params = t.dtype, t.params
	a.notes["layout"], a.notes["period_s"], a.notes["gpus"], a.notes["recompute"], a.notes["accum"] = t.layout, t.period, len(gpus), t.recompute, t.accum
	a.notes["straggler"], a.notes["tokens_step"], a.notes["mfu"] = t.slack != nil, t.tokens, t.modelFLOP/t.period/float64(len(gpus))/max(si.dense16, 1)
	plan := j.plan
	if plan == nil {
		plan = w.segments(r, gpus, j)
	}
	for k, s := range plan {
		var fresh []*gpu
		for _, g := range s.gpus {
			if !slices.Contains(gpus, g) {
				fresh = append(fresh, g)
			}
		}
		if s.account != "" {
			fresh = s.gpus
		} else if len(a.accounts) > 0 {
			s.account = a.accounts[0]
		}
		if len(fresh) > 0 {
			w.rent(s.account, s.from-r.uniform(20, 120), s.to+r.uniform(1, 30), fresh)
		}
		w.trainSegment(r, a, t, s, j, k == 0, k == len(plan)-1)
	}
	return t
}

// dtypesOf is what a part's users train in, by the weights of FLOPS.md 1.4.
func dtypesOf(x *part) []string {
	switch {
	case !x.bf16:
		return []string{"fp16", "fp16", "fp16", "fp16", "fp32"}
	case x.fp8 && x.arch != "ada":
		return append(slices.Repeat([]string{"bf16"}, 14), "fp8", "fp8", "fp8", "fp8", "tf32")
	}
	return append(slices.Repeat([]string{"bf16"}, 14), "fp16", "fp16", "tf32")
}

// segments cuts the life of a run at restarts.
func (w *world) segments(r *rng, gpus []*gpu, j trainJob) []segment {
	at := j.from
	var out []segment
	cur := gpus
	for i := 0; i <= j.restarts; i++ {
		left := j.to - at
		if left < 600 && i > 0 {
			break
		}
		to := j.to
		if i < j.restarts {
			to = at + left/float64(j.restarts+1-i)*r.uniform(0.6, 1.3)
		}
		to = min(to, j.to)
		out = append(out, segment{from: at, to: to, gpus: cur})
		gap := j.gap
		if gap[1] == 0 {
			gap = [2]float64{40, 2400}
		}
		at = to + r.logUniform(gap[0], gap[1])
		if len(j.spare) > 0 {
			cur = slices.Clone(cur)
			nodes := nodesOf(cur)
			gone := nodes[r.IntN(len(nodes))]
			var fresh []*gpu
			for _, g := range j.spare {
				if !slices.Contains(cur, g) {
					fresh = append(fresh, g)
				}
			}
			k := 0
			for x, g := range cur {
				if g.node == gone && k < len(fresh) {
					cur[x] = fresh[k]
					k++
				}
			}
		}
	}
	return out
}

// trainSegment is one start of a run: loading, steps, saves, evaluations.
func (w *world) trainSegment(r *rng, a *activity, t *training, s segment, j trainJob, first, last bool) {
	si := t.si
	load := r.logUniform(15, 240)
	load = min(load, (s.to-s.from)*0.2)
	begin := s.from + load
	exe, launcher, manager := "python3", pick(r, "torchrun", "torchrun", "deepspeed", "srun", "mpirun", ""), pick(r, "slurm", "kubernetes", "")
	if j.exe != "" {
		exe, launcher = j.exe, ""
	}
	procs := w.launch(a, s.gpus, s.from, s.to, true, exe, launcher, manager)
	if j.quiet {
		for _, p := range procs {
			p.hidden = true
		}
	}
	period := t.period
	if j.share > 0 {
		period /= j.share
	}
	b := newBeat(r, begin, s.to, period, t.jitter)
	peers := peersOf(s.gpus, t.layout == "moe")
	n := len(s.gpus)
	// The same plan for all ranks: saves and evaluations.
	type stop struct {
		from, to float64
		save     bool
	}
	var stops []stop
	saveEvery, evalEvery := r.logUniform(600, 7200), r.logUniform(900, 9000)
	storage := r.logUniform(0.5e9, 6e9) * float64(len(nodesOf(s.gpus)))
	bytes := t.params * r.uniform(12, 14)
	if t.lora {
		bytes = t.params * 0.01 * 14
	}
	saveS, evalS := bytes/storage, evalEvery*r.logUniform(0.004, 0.08)
	async := r.chance(0.25) || saveS > 600
	nextSave, nextEval := begin+saveEvery, begin+evalEvery
	if j.noEval || r.chance(0.4) {
		nextEval = math.Inf(1)
	}
	at := begin
	for {
		next := min(nextSave, nextEval)
		if next > s.to {
			break
		}
		next = max(next, at)
		if nextSave <= nextEval {
			nextSave += saveEvery
			if !async {
				stops = append(stops, stop{next, min(next+saveS, s.to), true})
				at = next + saveS
			}
		} else {
			stops = append(stops, stop{next, min(next+evalS, s.to), false})
			at = next + evalS
			nextEval += evalEvery
		}
	}
	if last && !async && r.chance(0.8) && s.to-saveS > at+60 { // what is done is kept
		stops = append(stops, stop{s.to - saveS, s.to, true})
	}
	for range pick(r, 0, 0, 0, 1, 2) { // a link or a disk hangs, and everybody waits
		from := r.uniform(begin, s.to)
		stops = append(stops, stop{from, min(from+r.logUniform(20, 800), s.to), true})
	}
	if j.wan != nil {
		for next := begin + j.wan.every; next+j.wan.length < s.to; next += j.wan.every {
			stops = append(stops, stop{next, next + j.wan.length, true})
		}
	}
	slices.SortFunc(stops, func(a, b stop) int { return cmp.Compare(a.from, b.from) })
	share := 1.0
	if j.share > 0 {
		share = j.share
	}
	shared := func(src source) source {
		if share < 1 {
			return scaled{src, share}
		}
		return src
	}
	loading := si.context(t.mem * 0.5)
	loading[sCPU], loading[sPCIeRx] = r.uniform(0.01, 0.05), t.mem*0.5/load
	read := r.logUniform(1e7, 1e9) // a fresh start reads code and data
	switch {
	case !first:
		read = bytes // what was kept
	case t.lora:
		read = 2 * t.params
	}
	loading[sStRx] = read / load / float64(n)
	// Compilers and autotuners try kernels before the first step.
	warm := 0.0
	if r.chance(0.3) {
		warm = r.uniform(0.1, 0.4) * load
	}
	saving := si.context(t.mem)
	saving[sUtil], saving[sCPU], saving[sPCIeTx] = r.uniform(0, 0.1), 0.02, 1e8
	if !async {
		saving[sStTx] = bytes / max(saveS, 0.01) / float64(n)
	}
	evaluating := t.eval
	exchanging := si.context(t.mem)
	if j.wan != nil {
		exchanging[sWan], exchanging[sCPU] = j.wan.bytes/j.wan.length, 0.02
	}
	calls := t.calls / period
	id := r.hex(16)
	for i, g := range s.gpus {
		src := shared(t.of(b, i, r))
		g.hold(s.from, s.to, a)
		g.put(s.from, begin-warm, &steady{loading}, a)
		g.put(begin-warm, begin, shared(&steady{evaluating}), a)
		at := begin
		for _, x := range stops {
			if x.from < at {
				continue
			}
			g.put(at, x.from, src, a, peers[g.node]...)
			switch {
			case j.wan != nil && x.to-x.from == j.wan.length:
				g.put(x.from, x.to, &steady{exchanging}, a, j.wan.peers...)
			case x.save:
				g.put(x.from, x.to, &steady{saving}, a)
			default:
				g.put(x.from, x.to, shared(&steady{evaluating}), a)
			}
			at = x.to
		}
		g.put(at, s.to, src, a, peers[g.node]...)
		if n > 1 && i < len(procs) {
			p := procs[i]
			p.comms = append(p.comms, comm{id: id, gpu: g.index, nranks: t.dp, rank: i % t.dp, op: t.collective, calls: calls, bytes: t.linkBytes / period, from: begin, to: s.to})
		}
	}
}
