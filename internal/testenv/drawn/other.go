package drawn

import "math"

// simulate puts an HPC code on GPUs.
func (w *world) simulate(a *activity, gpus []*gpu, from, to float64) {
	r := w.stream("hpc " + a.id)
	si := gpus[0].node.si
	style := pick(r, "fp64", "dfma", "fp32", "memory", "memory32")
	if si.fp64 < 2*tera && (style == "fp64" || style == "dfma") {
		style = "fp32"
	}
	if si.fp64t == 0 && style == "dfma" {
		style = "fp64"
	}
	l := load{util: 1, sm: r.uniform(0.5, 0.97), ipc: r.uniform(0.4, 0.9), dtype: "bf16", dram: r.uniform(0.15, 0.5), occ: r.uniform(0.2, 0.7), integer: r.uniform(0.05, 0.2)}
	fma := r.uniform(0.6, 0.95) // useful FLOP of what the pipe could
	flops := 0.0
	switch style {
	case "fp64":
		l.fp64 = r.uniform(0.1, 0.6)
		flops = l.fp64 * si.fp64
	case "dfma":
		l.fp64, l.dfma = r.uniform(0.02, 0.2), r.uniform(0.1, 0.6)
		flops = l.fp64*si.fp64 + l.dfma*si.fp64t
	case "fp32":
		l.fp32, l.fp64 = r.uniform(0.15, 0.6), r.uniform(0, 0.02)
		flops = l.fp32 * si.fp32
	case "memory":
		l.dram, l.fp64 = r.uniform(0.5, 0.82), r.uniform(0.02, 0.15)
		flops = l.fp64 * si.fp64
	case "memory32":
		l.dram, l.fp32 = r.uniform(0.5, 0.82), r.uniform(0.02, 0.15)
		flops = l.fp32 * si.fp32
	}
	mem := r.uniform(0.03, 0.6) * si.mem()
	n := len(nodesOf(gpus))
	period := r.logUniform(0.05, 20)
	compute, slow := si.run(l)
	compute[sMem], compute[sCPU], compute[sExec] = mem, r.uniform(0.01, 0.1), flops*slow*fma
	halo, _ := si.run(load{util: r.uniform(0.2, 1), sm: r.uniform(0.02, 0.3), ipc: 0.2, dram: 0.1, dtype: "bf16", occ: 0.1})
	halo[sMem] = mem
	compute[sClock] = compute[sBusy] * si.clock * slow
	share := r.logUniform(0.005, 0.4)
	if n > 1 || len(gpus) > 1 {
		traffic := r.logUniform(1e7, 5e9) / float64(perNode(gpus))
		if n > 1 {
			halo[sFabTx], halo[sFabRx] = traffic, traffic
		}
		if si.nvlink > 0 {
			halo[sNVTx] = r.logUniform(1e8, 0.1*si.nvlink)
			halo[sNVRx] = halo[sNVTx]
		} else {
			halo[sPCIeTx], halo[sPCIeRx] = r.logUniform(1e7, 8e9), r.logUniform(1e7, 8e9)
		}
	}
	b := newBeat(r, from, to, period, r.uniform(0.002, 0.1))
	w.launch(a, gpus, from, to, true, pick(r, "gmx_mpi", "lmp", "namd3", "vasp_std", "amber", "python3", "a.out", "cfd_solver"), pick(r, "mpirun", "srun"), "slurm")
	a.dtype = pick(r, "fp64", "fp64")
	if style == "fp32" || style == "memory32" {
		a.dtype = "fp32"
	}
	a.notes["style"] = style
	out := si.context(mem)
	out[sStTx], out[sBusy], out[sClock] = r.logUniform(1e7, 1e9), 1, si.clock
	every, length := r.logUniform(300, 7200), r.logUniform(2, 60)
	peers := peersOf(gpus, false)
	for i, g := range gpus {
		g.hold(from, to, a)
		src := newSteps(b, 0.2+0.002*float64(i), []phase{{1 - share, compute}, {share, halo}})
		at := from
		for next := from + every; next < to; next += every {
			g.put(at, next, src, a, peers[g.node]...)
			at = min(next+length, to)
			g.put(next, at, &steady{out}, a)
		}
		g.put(at, to, src, a, peers[g.node]...)
	}
}

// levels walks between levels at random times.
func levels(r *rng, from, to float64, of []sig, dwell []float64) source {
	bin := 2.0
	n := int((to-from)/bin) + 1
	weights := make([][]float64, len(of))
	for k := range weights {
		weights[k] = make([]float64, n)
	}
	k, left := r.IntN(len(of)), 0.0
	for i := range n {
		if left <= 0 {
			k = r.IntN(len(of))
			left = dwell[k] * r.ExpFloat64()
		}
		weights[k][i] = 1
		left -= bin
	}
	return newMix(from, bin, of, weights)
}

// plain puts one independent source on each GPU.
func (w *world) plain(a *activity, gpus []*gpu, from, to float64, exe string, make1 func(i int) source) {
	if exe != "" {
		w.launch(a, gpus, from, to, true, exe, "", "")
	}
	for i, g := range gpus {
		g.hold(from, to, a)
		g.put(from, to, make1(i), a)
	}
}

func (w *world) render(a *activity, gpus []*gpu, from, to float64) {
	r := w.stream("render " + a.id)
	si := gpus[0].node.si
	a.noExec, a.dtype = true, "fp32"
	mem := r.uniform(0.05, 0.5) * si.mem()
	codec := r.chance(0.4)
	busy, _ := si.run(load{util: 1, sm: r.uniform(0.5, 0.95), ipc: r.uniform(0.4, 0.9), fp32: r.uniform(0.15, 0.5), integer: r.uniform(0.1, 0.3), dram: r.uniform(0.1, 0.5), occ: r.uniform(0.2, 0.6), tensor: pick(r, 0, 0, 0.01), dtype: "fp16", enc: pick(r, 0, 0.05)})
	exe := pick(r, "blender", "redshiftCmdLine", "octane", "kick")
	if codec {
		busy, _ = si.run(load{util: r.uniform(0.1, 0.6), sm: r.uniform(0.02, 0.25), ipc: 0.4, dram: r.uniform(0.02, 0.15), enc: r.uniform(0.2, 0.98), dec: r.uniform(0, 0.7), occ: 0.1, dtype: "bf16"})
		exe = "ffmpeg"
	}
	busy[sMem], busy[sCPU] = mem, 0.02
	pause := si.context(mem)
	pause[sStRx] = 1e8
	frame := r.logUniform(5, 600)
	w.plain(a, gpus, from, to, exe, func(int) source {
		return levels(r, from, to, []sig{busy, busy, busy, pause}, []float64{frame, frame, frame, frame / 8})
	})
}

func (w *world) mine(a *activity, gpus []*gpu, from, to float64) {
	r := w.stream("mine " + a.id)
	si := gpus[0].node.si
	a.noExec, a.dtype = true, "int"
	l := load{util: 1, sm: r.uniform(0.9, 1), ipc: r.uniform(0.5, 1), integer: r.uniform(0.3, 0.9), dram: r.uniform(0.02, 0.15), occ: r.uniform(0.3, 0.9), dtype: "bf16", fp32: r.uniform(0, 0.05)}
	if r.chance(0.5) {
		l.integer, l.dram, l.ipc = r.uniform(0.1, 0.3), r.uniform(0.6, 0.85), 0.4
	}
	x, _ := si.run(l)
	x[sMem], x[sOutTx] = r.uniform(1e9, 8e9), 2e3
	w.plain(a, gpus, from, to, pick(r, "xmrig", "t-rex", "python3", "worker"), func(int) source { return &steady{x} })
}

func (w *world) burn(a *activity, gpus []*gpu, from, to float64) {
	r := w.stream("burn " + a.id)
	si := gpus[0].node.si
	dtype := pick(r, dtypesOf(si.part)...)
	l := load{util: 1, sm: r.uniform(0.95, 1), ipc: 1, tensor: r.uniform(0.6, 0.93), dtype: dtype, dram: r.uniform(0.05, 0.3), occ: r.uniform(0.1, 0.3)}
	if dtype == "fp32" {
		l.tensor, l.fp32, l.dtype = 0, r.uniform(0.7, 0.95), "bf16"
	}
	x, slow := si.run(l)
	x[sExec] = l.tensor * si.perCycle(dtype) * si.clock * slow * 1e6 * r.uniform(0.96, 1)
	if dtype == "fp32" {
		x[sExec] = l.fp32 * si.fp32 * si.clock / si.boost * slow * r.uniform(0.95, 1)
	}
	x[sMem] = r.uniform(0.1, 0.95) * si.mem()
	a.dtype = dtype
	pause := si.context(x[sMem])
	b := newBeat(r, from, to, r.logUniform(30, 900), 0.001)
	rest := pick(r, 0, 0, 0.02, 0.2)
	w.plain(a, gpus, from, to, pick(r, "gpu_burn", "dcgmproftester12", "nvqual", "python3"), func(int) source {
		return newSteps(b, 0.2, []phase{{1 - rest, x}, {rest, pause}})
	})
}

func (w *world) notebook(a *activity, gpus []*gpu, from, to float64) {
	r := w.stream("notebook " + a.id)
	si := gpus[0].node.si
	a.noExec, a.noModel = true, true
	mem := r.uniform(0.02, 0.5) * si.mem()
	idle := si.context(mem)
	play, _ := si.run(load{util: r.uniform(0.3, 1), sm: r.uniform(0.1, 0.7), ipc: 0.5, tensor: r.uniform(0, 0.3), dtype: "bf16", dram: r.uniform(0.05, 0.4), fp32: r.uniform(0, 0.2), occ: 0.2})
	play[sMem] = mem
	w.plain(a, gpus, from, to, pick(r, "jupyter-lab", "python3", "ipykernel"), func(int) source {
		return levels(r, from, to, []sig{idle, play, idle}, []float64{r.logUniform(200, 2000), r.logUniform(5, 120), 600})
	})
}

func (w *world) idle(a *activity, gpus []*gpu, from, to float64) {
	r := w.stream("idle " + a.id)
	si := gpus[0].node.si
	a.noExec, a.noModel = true, true
	x := si.context(r.uniform(0.01, 0.9) * si.mem())
	blip := x
	blip[sUtil], blip[sSM] = r.uniform(0, 0.04), r.uniform(0, 0.01)
	w.plain(a, gpus, from, to, pick(r, "python3", "monitor", "vllm"), func(int) source {
		return levels(r, from, to, []sig{x, blip}, []float64{60, 10})
	})
}

// reinforce alternates rollouts and updates on the same GPUs.
func (w *world) reinforce(a *activity, gpus []*gpu, from, to float64) {
	r := w.stream("rl " + a.id)
	si := gpus[0].node.si
	t := drawTraining(r, si, len(gpus), perNode(gpus), trainPrior{layouts: []string{"fsdp", "zero"}, dtypes: []string{dtypesOf(si.part)[0]}, minPeriod: 0.5, maxPeriod: 12, fabricGbps: siteFabric(gpus)})
	a.dtype, a.params = t.dtype, t.params
	round := r.logUniform(10, 600)
	roll := r.uniform(0.3, 0.8)
	ref := r.uniform(0.02, 0.12)
	a.notes["round_s"], a.notes["rollout"], a.notes["layout"] = round, roll, t.layout
	b := newBeat(r, from, to, round, r.uniform(0.01, 0.1))
	update := (1 - roll - ref) * round
	n := max(1, math.Round(update/t.period))
	peers := peersOf(gpus, false)
	procs := w.launch(a, gpus, from, to, true, "python3", pick(r, "ray", "torchrun", ""), pick(r, "slurm", "kubernetes"))
	for _, x := range procs {
		x.comms = append(x.comms, comm{id: a.id + "c0", gpu: x.gpus[0], nranks: len(gpus), rank: max(x.rank, 0), op: "allgather", calls: n * 30 / round, bytes: t.linkBytes * n / round, from: from, to: to})
	}
	// Decoding starts full and thins out.
	var phases []phase
	active := t.active
	for i := range 4 {
		thin := 1 - 0.23*float64(i)
		l := load{util: 1, sm: r.uniform(0.4, 0.85) * thin, ipc: r.uniform(0.3, 0.6), tensor: r.uniform(0.03, 0.2) * thin, dtype: "bf16", dram: r.uniform(0.45, 0.8), occ: 0.2, integer: 0.1}
		x, slow := si.run(l)
		x[sExec] = l.tensor * si.perCycle("bf16") * si.clock * slow * 1e6 * r.uniform(0.4, 0.9) // padded tiles
		x[sModel] = x[sExec]
		x[sMem], x[sCPU] = t.mem, 0.02
		phases = append(phases, phase{roll / 4, x})
	}
	l := load{util: 1, sm: 0.9, ipc: 0.8, tensor: r.uniform(0.3, 0.6), dtype: "bf16", dram: 0.3, occ: 0.2}
	x, slow := si.run(l)
	x[sExec], x[sMem] = l.tensor*si.perCycle("bf16")*si.clock*slow*1e6*0.93, t.mem
	phases = append(phases, phase{ref, x})
	for range int(min(n, 6)) {
		for _, q := range t.patterns[0] {
			phases = append(phases, phase{q.share / t.period * (1 - roll - ref) / min(n, 6), q.level})
		}
	}
	_ = active
	for _, g := range gpus {
		g.hold(from, to, a)
		g.put(from, to, newSteps(b, 0.2, phases), a, peers[g.node]...)
	}
}
