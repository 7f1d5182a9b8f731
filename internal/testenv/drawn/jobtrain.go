package drawn

import (
	"math"
	"slices"
)

// trainJob is how a training lives: when it stops, where it goes on.
type trainJob struct {
	prior       trainPrior
	kind        string
	from, to    float64
	restarts    int
	moves       bool // restarts may take other GPUs of spare
	spare       []*gpu
	grow        bool // a second part on all of spare, too
	noEval      bool
	quiet       bool // no processes are shown
	exe         string
	share       float64 // of each GPU's time; 0: all
	asyncSave   bool
	trainingOf  *training // repeat this one
	declareAs   string    // what the order declares
	wholePeriod bool
	gap         [2]float64
}

// segment is a stretch without a stop.
type segment struct {
	from, to float64
	gpus     []*gpu
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
	t := j.trainingOf
	if t == nil {
		t = drawTraining(r, si, len(gpus), perNode(gpus), j.prior)
	}
	a.dtype, a.params = t.dtype, t.params
	a.notes["layout"], a.notes["period_s"], a.notes["gpus"], a.notes["recompute"], a.notes["accum"] = t.layout, t.period, len(gpus), t.recompute, t.accum
	a.notes["straggler"], a.notes["tokens_step"], a.notes["mfu"] = t.slack != nil, t.tokens, t.modelFLOP/t.period/float64(len(gpus))/max(si.dense16, 1)
	for k, s := range w.segments(r, gpus, j) {
		w.trainSegment(r, a, t, s, j, k == 0)
	}
	return t
}

// dtypesOf is what a part's users train in.
func dtypesOf(x *part) []string {
	switch {
	case !x.bf16:
		return []string{"fp16", "fp16", "fp16", "fp32"}
	case x.fp8 && x.arch != "ada":
		return []string{"bf16", "bf16", "bf16", "bf16", "bf16", "bf16", "bf16", "fp8", "fp8", "tf32"}
	}
	return []string{"bf16", "bf16", "bf16", "bf16", "bf16", "fp16", "tf32"}
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
		out = append(out, segment{at, to, cur})
		gap := j.gap
		if gap[1] == 0 {
			gap = [2]float64{40, 2400}
		}
		at = to + r.logUniform(gap[0], gap[1])
		if j.moves && len(j.spare) > 0 {
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
func (w *world) trainSegment(r *rng, a *activity, t *training, s segment, j trainJob, first bool) {
	si := t.si
	load := r.logUniform(15, 240)
	load = min(load, (s.to-s.from)*0.2)
	begin := s.from + load
	each := true
	exe, launcher, manager := "python3", pick(r, "torchrun", "torchrun", "deepspeed", "srun", "mpirun", ""), pick(r, "slurm", "kubernetes", "")
	if j.exe != "" {
		exe, launcher = j.exe, ""
	}
	procs := w.launch(a, s.gpus, s.from, s.to, each, exe, launcher, manager)
	if j.quiet {
		for _, p := range procs {
			p.hidden = true
		}
	}
	b := newBeat(r, begin, s.to, t.period, t.jitter)
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
	loading[sCPU], loading[sStRx], loading[sPCIeRx] = r.uniform(0.01, 0.05), bytes/8/load/float64(n)+1e6, t.mem*0.5/load
	saving := si.context(t.mem)
	saving[sUtil], saving[sCPU], saving[sPCIeTx] = r.uniform(0, 0.1), 0.02, 1e8
	if !async {
		saving[sStTx] = bytes / max(saveS, 0.01) / float64(n)
	}
	evaluating := t.eval
	calls := t.calls / t.period
	id := r.hex(16)
	for i, g := range s.gpus {
		src := shared(t.of(b, i, r))
		if t.pp > 1 && i > 0 && i%max(1, n/t.pp) == 0 {
			src = shared(t.of(b, i, r))
		}
		g.hold(s.from, s.to, a)
		g.put(s.from, begin, &steady{loading}, a)
		at := begin
		for _, x := range stops {
			g.put(at, x.from, src, a, peers[g.node]...)
			if x.save {
				g.put(x.from, x.to, &steady{saving}, a)
			} else {
				g.put(x.from, x.to, shared(&steady{evaluating}), a)
			}
			at = x.to
		}
		g.put(at, s.to, src, a, peers[g.node]...)
		if n > 1 && i < len(procs) {
			p := procs[i]
			p.comms = append(p.comms, comm{id: id, gpu: g.index, nranks: t.dp, rank: i % t.dp, op: t.collective, calls: calls, bytes: t.linkBytes / t.period, from: begin, to: s.to})
		}
	}
	_ = first
}

// hostFor gives GPUs that are free over a time, whole nodes first.
func (w *world) free(n int, from, to float64) []*gpu {
	var out []*gpu
	for _, g := range w.gpus() {
		busy := slices.ContainsFunc(g.held, func(h held) bool { return h.from < to && h.to > from })
		if !busy && len(out) < n {
			out = append(out, g)
		}
	}
	return out
}
