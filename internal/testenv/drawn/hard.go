package drawn

import (
	"fmt"
	"math"
	"slices"
)

// blindOrNot draws whether processes are seen.
func blindOrNot(name string, draw int, seed uint64) string {
	return pick(newRNG(seed, fmt.Sprint("seen ", name, draw)), "absent", "true", "generic")
}

// tenant gives somebody else GPUs for a while.
func (w *world) tenant(kind string, gpus []*gpu) {
	from, to := w.within(0.5)
	w.other(kind, gpus, from, to, nil)
}

// telemetryFinding expects that something is wrong with what agents said of an account's GPUs.
func (w *world) telemetryFinding(account string, at float64, sure bool, note string) {
	parties, _, _ := w.behind([]string{account})
	w.expect = append(w.expect, expected{
		Limb: "telemetry", Accounts: []string{account}, Runs: []string{}, Orders: []string{}, Parties: parties, KnowableMs: w.ms(at), EarliestMs: w.ms(at), Required: sure, Note: note,
	})
}

// share puts a training under a service on the same GPUs.
func (w *world) share(gpus []*gpu, from, to, part float64, prior trainPrior) {
	serving := w.activity("inference")
	serving.accounts = w.owner("", 1)
	w.rentOrder(serving.accounts[0], gpus, from, to, pick(w.rng, "inference", "inference serving", ""))
	w.serveOn(serving, gpus, from, to, func(s *service) { s.memory *= 0.5; s.memorySD *= 0.5 })
	for _, g := range gpus {
		for i := range g.pieces {
			if g.pieces[i].act == serving {
				g.pieces[i].src = scaled{g.pieces[i].src, 1 - part}
			}
		}
	}
	kind := "training"
	if prior.lora {
		kind = "finetuning"
	}
	hidden := w.activity(kind)
	hidden.accounts, hidden.evasion, hidden.blur = serving.accounts, []string{"dilution"}, 1.6
	w.train(hidden, gpus, trainJob{prior: prior, from: from + w.uniform(0, 900), to: to - w.uniform(0, 900), share: part, quiet: true, noEval: true})
	hidden.notes["share"] = part
}

// steps of islands, far from each other.
func (w *world) islands(draw int) {
	var groups [][]*gpu
	for _, n := range w.nodes {
		groups = append(groups, n.gpus)
	}
	if len(groups) >= 4 && draw%2 == 0 { // two nodes an island
		var two [][]*gpu
		for i := 0; i+1 < len(groups); i += 2 {
			two = append(two, slices.Concat(groups[i], groups[i+1]))
		}
		groups = two
	}
	from, to := w.uniform(120, 600), w.length-w.uniform(0, 600)
	a := w.activity("training")
	a.accounts, a.evasion = w.owner("", 1), []string{"diloco"}
	every := w.uniform(1500, 3600)
	var same *training
	for i, g := range groups {
		for _, x := range nodesOf(g) {
			x.site = fmt.Sprintf("dc-%d", i+1)
		}
		w.rentOrder(a.accounts[0], g, from, to, "model training")
		var peers []peer
		for k, o := range groups {
			if k != i {
				peers = append(peers, peer{o[0].node.name, 1 / float64(len(groups)-1)})
			}
		}
		prior := trainPrior{layouts: []string{"fsdp", "ddp"}, minPeriod: 0.5, maxPeriod: 10}
		if same == nil {
			r := w.stream("island")
			prior.fabricGbps, prior.dtypes = siteFabric(g), dtypesOf(g[0].node.si.part)
			same = drawTraining(r, g[0].node.si, len(g), perNode(g), prior)
		}
		bytes := same.params * pick(w.rng, 1.0, 2, 4) * 2 / float64(len(g))
		rate := w.logUniform(0.1e9, 1.2e9) / float64(len(g)) // of one GPU
		w.train(a, g, trainJob{prior: prior, from: from + w.uniform(0, 60), to: to, model: same, noEval: true, wan: &wan{every: every, length: min(300, bytes/rate), peers: peers, bytes: bytes}})
	}
}

// pools is a learner fed by others.
func (w *world) pools(learn, roll []*gpu, from, to float64) {
	r := w.stream("pools")
	a := w.activity("rl")
	a.accounts = w.owner("", 1)
	both := slices.Concat(learn, roll)
	w.rentOrder(a.accounts[0], both, from, to, "model training")
	si := learn[0].node.si
	t := drawTraining(r, si, len(learn), perNode(learn), trainPrior{layouts: []string{"fsdp", "zero"}, dtypes: []string{dtypesOf(si.part)[0]}, minPeriod: 1, maxPeriod: 15, fabricGbps: siteFabric(learn)})
	a.dtype, a.params = t.dtype, t.params
	round := r.logUniform(20, 400)
	busy := r.uniform(0.2, 0.8) // of the learner
	a.notes["round_s"], a.notes["learner_busy"] = round, busy
	n := max(1, math.Round(busy*round/t.period))
	busy = min(0.95, n*t.period/round)
	var phases []phase
	for range int(min(n, 6)) {
		for _, q := range t.patterns[0] {
			phases = append(phases, phase{q.share / t.period * busy / min(n, 6), q.level})
		}
	}
	send := si.context(t.mem)
	send[sFabTx], send[sFabRx] = 2*t.params/float64(len(learn))/(0.02*round), 0
	wait := si.context(t.mem)
	wait[sBusy], wait[sClock] = 1, si.clock
	phases = append(phases, phase{0.02, send}, phase{max(0.01, 0.98-busy), wait})
	b := newBeat(r, from, to, round, r.uniform(0.01, 0.08))
	for _, g := range learn {
		g.hold(from, to, a)
		var peers []peer
		for _, o := range nodesOf(roll) {
			peers = append(peers, peer{o.name, 1 / float64(len(nodesOf(roll)))})
		}
		g.put(from, to, newSteps(b, 0.2, phases), a, peers...)
	}
	w.launch(a, learn, from, to, true, "python3", "ray", "kubernetes")
	// Rollouts go on all the time, and stop for new weights.
	l := load{util: 1, sm: r.uniform(0.4, 0.85), ipc: r.uniform(0.3, 0.6), tensor: r.uniform(0.03, 0.2), dtype: "bf16", dram: r.uniform(0.45, 0.8), occ: 0.2, integer: 0.1}
	x, slow := si.run(l)
	x[sExec] = l.tensor * si.perCycle("bf16") * si.clock * slow * 1e6 * r.uniform(0.4, 0.9)
	x[sModel], x[sMem], x[sCPU] = x[sExec], 0.9*si.mem(), 0.02
	taking := si.context(0.9 * si.mem())
	taking[sFabRx] = 2 * t.params / float64(len(roll)) / (0.02 * round) * float64(len(nodesOf(roll)))
	thin := x
	for _, k := range []int{sSM, sTensor, sHMMA, sCycles, sExec, sModel, sDRAM} {
		thin[k] *= 0.5
	}
	thin[sPower] *= 0.75
	for _, g := range roll {
		g.hold(from, to, a)
		g.put(from, to, newSteps(b, 0.2, []phase{{0.02, taking}, {0.68, x}, {0.3, thin}}), a)
	}
	w.launch(a, roll, from, to, false, pick(r, "vllm", "python3", "sglang"), "ray", "kubernetes")
}

// hard is what hides, or misleads.
var hard = []family{
	{"alike", "many alike jobs that start in the same minutes", func(d int, s uint64) *world {
		w := newWorld("alike", d, s, fleet{part: bigParts, nodes: [2]int{2, 8}, processes: blindOrNot("alike", d, s)})
		size := pick(w.rng, 2, 4, 8)
		var same *training
		account := w.owner("", 1)[0]
		from := w.uniform(200, 900)
		rest := w.gpus()
		for len(rest) >= size && len(w.acts) < 10 {
			g := rest[:size]
			rest = rest[size:]
			a := w.activity("training")
			if w.chance(0.3) {
				account = w.owner("", 1)[0]
			}
			a.accounts = []string{account}
			start := from + w.uniform(0, 150)
			end := start + (w.length-start)*w.uniform(0.6, 0.95)
			w.rentOrder(account, g, start, end, "model training")
			same = w.train(a, g, trainJob{from: start, to: end, model: same})
		}
		return w
	}},
	{"dilution", "a training under a service on the same GPUs", func(d int, s uint64) *world {
		w := newWorld("dilution", d, s, fleet{part: bigParts, nodes: [2]int{1, 4}, processes: blindOrNot("dilution", d, s)})
		all := w.gpus()
		n := wholeNodes(all, len(all)*2/3)
		from, to := w.within(0.7)
		w.share(all[:n], from, to, w.uniform(0.1, 0.6), trainPrior{lora: d%3 == 2, noRecomp: true, minPeriod: 0.5, maxPeriod: 20})
		if n < len(all) {
			w.tenant("inference", all[n:])
		}
		return w
	}},
	{"switch", "serve, then train without a release; train, then serve", func(d int, s uint64) *world {
		w := newWorld("switch", d, s, fleet{part: bigParts, nodes: [2]int{1, 5}, processes: blindOrNot("switch", d, s)})
		all := w.gpus()
		from, to := w.uniform(100, 600), w.length-w.uniform(0, 600)
		cut := from + (to-from)*w.uniform(0.3, 0.7)
		gap := w.logUniform(20, 300)
		account := w.owner("", 1)
		use := pick(w.rng, "inference", "inference serving", "", "AI")
		w.rentOrder(account[0], all, from, to, use)
		serving, training := w.activity("inference"), w.activity("training")
		serving.accounts, training.accounts, training.evasion = account, account, []string{"switch"}
		if d%2 == 1 {
			w.serveOn(serving, all, from, cut, nil)
			w.train(training, all, trainJob{from: cut + gap, to: to})
		} else {
			w.train(training, all, trainJob{from: from, to: cut})
			w.serveOn(serving, all, cut+gap, to, nil)
		}
		return w
	}},
	{"throttle", "power limits and idle padding", func(d int, s uint64) *world {
		w := newWorld("throttle", d, s, fleet{part: bigParts, nodes: [2]int{1, 5}, processes: blindOrNot("throttle", d, s)})
		prior := trainPrior{minPeriod: 0.5, maxPeriod: 20}
		if d%2 == 1 {
			prior.throttle = w.uniform(0.25, 0.6)
		} else {
			prior.pad = w.uniform(0.4, 0.93)
		}
		all := w.gpus()
		n := wholeNodes(all, len(all)*2/3)
		from, to := w.within(0.6)
		a := w.job(all[:n], trainJob{from: from, to: to, prior: prior})
		a.evasion = []string{pick(w.rng, "throttling", "padding")}
		a.notes["pad"], a.notes["throttle"] = prior.pad, prior.throttle
		w.tenant(pick(w.rng, "inference", "hpc", "notebook"), all[n:])
		return w
	}},
	{"rlpools", "reinforcement learning on split pools", func(d int, s uint64) *world {
		w := newWorld("rlpools", d, s, fleet{part: bigParts, nodes: [2]int{2, 6}, processes: blindOrNot("rlpools", d, s)})
		all := w.gpus()
		n := wholeNodes(all, len(all)/pick(w.rng, 2, 3))
		from, to := w.within(0.6)
		w.pools(all[:n], all[n:], from, to)
		return w
	}},
	{"diloco", "islands that exchange every half an hour to an hour", func(d int, s uint64) *world {
		w := newWorld("diloco", d, s, fleet{part: bigParts, nodes: [2]int{2, 5}, perNode: []int{4, 8, 8}, hours: [2]float64{4, 6}, processes: blindOrNot("diloco", d, s)})
		w.islands(d)
		return w
	}},
	{"structuring", "one training handed from account to account; many small ones of one owner", func(d int, s uint64) *world {
		w := newWorld("structuring", d, s, fleet{part: bigParts, nodes: [2]int{2, 6}, processes: blindOrNot("structuring", d, s)})
		accounts := w.owner(pick(w.rng, "foreign", "foreign-owner", "us-entity", ""), w.between(2, 4))
		all := w.gpus()
		if d%2 == 1 { // one run
			a := w.activity("training")
			a.accounts, a.evasion = accounts, []string{"account_split"}
			n := wholeNodes(all, len(all)/len(accounts))
			at := w.uniform(100, 600)
			each := (w.length - 600 - at) / float64(len(accounts))
			var plan []segment
			for i, account := range accounts {
				k := i * n
				if d%4 == 1 {
					k = 0 // on the same GPUs
				}
				g := all[min(k, len(all)-n) : min(k, len(all)-n)+n]
				plan = append(plan, segment{at, at + each - w.logUniform(30, 400), g, account})
				w.contract(account, w.orderFor(g, at-60, at+each, "model training"))
				at += each
			}
			w.train(a, plan[0].gpus, trainJob{from: plan[0].from, to: at, plan: plan})
			return w
		}
		size := pick(w.rng, 1, 2, 4)
		for i := 0; (i+1)*size <= len(all) && i < 10; i++ {
			g := all[i*size : (i+1)*size]
			a := w.activity("training")
			a.accounts = accounts[i%len(accounts) : i%len(accounts)+1]
			from, to := w.within(0.3)
			w.rentOrder(a.accounts[0], g, from, to, pick(w.rng, "model training", "", "research"))
			w.train(a, g, trainJob{from: from, to: to, prior: trainPrior{layouts: []string{"ddp", "fsdp"}, minPeriod: 0.2, maxPeriod: 8}})
		}
		return w
	}},
	{"moving", "one run that grows, moves and changes accounts of its owner", func(d int, s uint64) *world {
		w := newWorld("moving", d, s, fleet{part: bigParts, nodes: [2]int{4, 8}, hours: [2]float64{3, 6}, processes: blindOrNot("moving", d, s)})
		all := w.gpus()
		q := wholeNodes(all, len(all)/4)
		a := w.activity("training")
		a.accounts = w.owner("", 1+d%2)
		second := a.accounts[len(a.accounts)-1]
		from, to := w.uniform(100, 600), w.length-w.uniform(0, 600)
		cut := from + (to-from)*w.uniform(0.35, 0.65)
		plan := []segment{{from, cut, all[:2*q], a.accounts[0]}, {cut + w.logUniform(40, 1500), to, all[:4*q], second}}
		if d%3 == 0 {
			plan[1].gpus = all[2*q : 4*q]
		}
		w.contract(a.accounts[0], w.orderFor(plan[0].gpus, from-60, to, "model training"))
		if second != a.accounts[0] {
			w.contract(second, w.orderFor(plan[1].gpus, cut-60, to, "model training"))
		}
		w.train(a, plan[0].gpus, trainJob{from: from, to: to, plan: plan, prior: trainPrior{layouts: []string{"ddp", "fsdp"}}})
		return w
	}},
	{"strange", "a part that no table has, or another one than the inventory says", func(d int, s uint64) *world {
		f := fleet{nodes: [2]int{2, 5}, processes: blindOrNot("strange", d, s)}
		r := newRNG(s, fmt.Sprint("strange part ", d))
		f.fixed = drawPart(r, bigParts)
		if d%2 == 1 {
			f.fixed = strange(r)
		}
		w := newWorld("strange", d, s, f)
		if d%2 == 0 {
			said := drawPart(r, func(x *part) bool { return math.Abs(math.Log(x.dense16/f.fixed.dense16)) > 0.5 }).name
			for _, n := range w.nodes {
				n.listed, n.listedTDP = said, false
			}
		}
		all := w.gpus()
		n := wholeNodes(all, len(all)*2/3)
		from, to := w.within(0.5)
		w.job(all[:n], trainJob{from: from, to: to})
		w.tenant(pick(w.rng, "inference", "hpc", "batch_inference"), all[n:])
		if d%2 == 0 {
			for _, x := range w.acts {
				w.telemetryFinding(x.accounts[0], from, false, "another part than the inventory's")
			}
		}
		return w
	}},
	{"tamper", "activity scaled or zero, joules scaled, agents killed while watts go on", func(d int, s uint64) *world {
		w := newWorld("tamper", d, s, fleet{part: bigParts, nodes: [2]int{2, 5}, columns: []string{"full", "nocycles", "nocycles"}, power: true})
		all := w.gpus()
		n := wholeNodes(all, len(all)*2/3)
		from, to := w.uniform(200, 900), w.length-w.uniform(0, 900)
		a := w.job(all[:n], trainJob{from: from, to: to, noEval: true})
		w.tenant("inference", all[n:])
		nodes := nodesOf(all[:n])
		x := tamper{from: from + (to-from)*w.uniform(0, 0.4), to: to, activity: 1, energy: 1}
		sure, note := true, ""
		switch d % 4 {
		case 0:
			x.activity = w.uniform(0.2, 0.7)
			sure, note = x.activity < 0.35, "activity scaled, watts as they are"
		case 1:
			x.activity, note = 0, "no activity at the watts of work"
		case 2:
			x.energy = w.uniform(0.3, 0.7)
			sure, note = x.energy < 0.55, "joules scaled: the host's watts say more"
		case 3:
			note = "the agent is silent while the host's watts go on"
			for _, k := range nodes {
				k.deadFrom, k.deadTo = x.from, min(x.from+w.uniform(1800, 7200), to)
			}
		}
		if d%4 != 3 {
			for _, k := range nodes {
				k.tamper = &x
			}
		}
		a.evasion, a.blur = []string{"tampering"}, 2.5
		a.notes["tamper"] = note
		a.notes["activity"], a.notes["energy"] = x.activity, x.energy
		w.telemetryFinding(a.accounts[0], x.from, sure, note)
		for _, k := range w.acts[1:] { // neighbours on the same nodes
			for _, g := range all[n:] {
				if slices.Contains(nodes, g.node) {
					w.telemetryFinding(k.accounts[0], x.from, false, note)
				}
			}
		}
		return w
	}},
	{"skew", "clocks that are wrong by up to a minute and a half", func(d int, s uint64) *world {
		w := newWorld("skew", d, s, fleet{part: bigParts, nodes: [2]int{3, 8}, skewed: true, processes: blindOrNot("skew", d, s)})
		all := w.gpus()
		half := wholeNodes(all, len(all)/2)
		from, to := w.within(0.6)
		w.job(all[:half], trainJob{from: from, to: to, restarts: pick(w.rng, 0, 1, 2)})
		f2, t2 := w.within(0.5)
		w.job(all[half:], trainJob{from: f2, to: t2})
		return w
	}},
	{"idletraps", "locked clocks, gigabytes of residue, monitors", func(d int, s uint64) *world {
		w := newWorld("idletraps", d, s, fleet{nodes: [2]int{2, 6}, idleTrap: true})
		for i, n := range w.nodes {
			from, to := w.within(0.3)
			switch {
			case i == 0:
				w.job(n.gpus, trainJob{from: from, to: to})
			case w.chance(0.4):
				w.other("idle", n.gpus, from, to, nil)
			case w.chance(0.3):
				w.other("inference", n.gpus, from, to, func(x *service) { x.busy = w.uniform(0.005, 0.1) })
			}
		}
		return w
	}},
	{"dtype", "TF32, FP8, FP4, and FP32 on old parts", func(d int, s uint64) *world {
		dtype := []string{"tf32", "fp8", "fp32", "fp8", "fp4"}[d%5]
		fits := bigParts
		switch dtype {
		case "fp8":
			fits = func(x *part) bool { return x.fp8 && x.tdp >= 300 }
		case "fp4":
			fits = func(x *part) bool { return x.fp4 && x.nvlink > 0 }
		case "tf32":
			fits = func(x *part) bool { return x.bf16 && x.tdp >= 250 }
		case "fp32":
			fits = func(x *part) bool { return !x.bf16 }
		}
		w := newWorld("dtype", d, s, fleet{part: fits, nodes: [2]int{1, 5}})
		all := w.gpus()
		n := wholeNodes(all, len(all)*2/3)
		from, to := w.within(0.5)
		w.job(all[:n], trainJob{from: from, to: to, prior: trainPrior{dtypes: []string{dtype}}})
		w.tenant(pick(w.rng, "inference", "hpc", "batch_inference"), all[n:])
		return w
	}},
	{"contracts", "orders, amendments, clusters and owners of all shapes", func(d int, s uint64) *world {
		w := newWorld("contracts", d, s, fleet{part: bigParts, nodes: [2]int{3, 8}})
		w.contracts()
		return w
	}},
	{"lies", "declarations that are not so", func(d int, s uint64) *world {
		w := newWorld("lies", d, s, fleet{part: bigParts, nodes: [2]int{2, 6}, processes: "true"})
		all := w.gpus()
		half := wholeNodes(all, len(all)/2)
		from, to := w.within(0.5)
		a := w.job(all[:half], trainJob{from: from, to: to, exe: pick(w.rng, "vllm", "tritonserver", "gmx_mpi", "blender"), declareAs: pick(w.rng, "inference", "inference serving", "HPC", "rendering", "simulation")})
		a.evasion = []string{"false_declaration"}
		b := w.activity(pick(w.rng, "inference", "batch_inference"))
		b.accounts = w.owner("", 1)
		f2, t2 := w.within(0.5)
		w.rentOrder(b.accounts[0], all[half:], f2, t2, "model training")
		w.serveOn(b, all[half:], f2, t2, func(x *service) {
			x.batch = b.kind == "batch_inference"
		})
		for _, p := range w.procs {
			if p.act == b { // an inference that says that it trains
				p.exe, p.launcher, p.world, p.rank = "python3", "torchrun", len(all)-half, 0
			}
		}
		return w
	}},
}

// contracts makes orders on both sides of limits, and trainings on some.
func (w *world) contracts() {
	r := w.stream("contracts")
	x := w.nodes[0]
	rate := x.si.dense16 * 0.3
	limit1 := round3(rate * 8 * w.length * r.logUniform(0.5, 3))
	w.profile = append(w.profile, limit{Name: "drawn-a", FLOPs: limit1})
	perNode := float64(len(x.gpus)) * x.si.dense16
	w.profile = append(w.profile, limit{Name: "drawn-cluster", FLOPs: round3(limit1 * r.logUniform(1, 30)), Cluster: &clusterLimit{Gbps: pick(r, 90, 300, 700.0), OpsPerS: round3(perNode * r.uniform(0.4, 3.6))}})
	uses := []string{"model training", "", "research", "AI", "inference", "rendering", "HPC", "simulation", "video transcoding", "game streaming"}
	for i, n := range w.nodes {
		accounts := w.owner(shapes[r.IntN(len(shapes))], 1)
		from, to := w.within(0.5)
		use := pick(r, uses...)
		v := w.orderFor(n.gpus, from-60, to*r.logUniform(1, 5), use)
		v.at = from - r.logUniform(60, 86400)
		o := w.contract(accounts[0], v)
		if r.chance(0.4) { // an amendment
			y := v
			y.at = r.uniform(0.1, 0.6) * w.length
			y.to = y.at + r.logUniform(1, 30)*w.length
			if r.chance(0.4) {
				y.use = pick(r, uses...)
			}
			if r.chance(0.3) {
				y.count *= r.between(1, 40)
			}
			o.versions = append(o.versions, y)
		}
		w.rent(accounts[0], from-30, to+30, n.gpus)
		if i > 0 && r.chance(0.3) { // what is ordered and never used
			w.contract(w.owner("", 1)[0], w.orderFor(n.gpus, to+600, w.length*r.logUniform(1.5, 40), pick(r, uses...)))
		}
		a := w.activity("training")
		a.accounts = accounts
		if slices.Contains(excluding, use) && !r.chance(0.4) {
			a.kind = "inference"
			w.serveOn(a, n.gpus, from, to, nil)
		} else {
			w.train(a, n.gpus, trainJob{from: from, to: to})
		}
	}
}
