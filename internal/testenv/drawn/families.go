package drawn

import (
	"fmt"
	"slices"
)

// Recording is one draw of a family.
type Recording struct {
	Family string
	Draw   int
	world  *world
}

// Name is family/number.
func (c *Recording) Name() string { return fmt.Sprintf("%s/%d", c.Family, c.Draw) }

type family struct {
	name  string
	about string
	make  func(draw int, seed uint64) *world
}

// Families in the order of tables.
func Families() []string {
	var out []string
	for _, f := range families {
		out = append(out, f.name)
	}
	return out
}

// New draws a recording. The same family, number and seed give the same bytes.
func New(name string, draw int, seed uint64) (*Recording, error) {
	i := slices.IndexFunc(families, func(f family) bool { return f.name == name })
	if i < 0 {
		return nil, fmt.Errorf("draw a recording: no family %q", name)
	}
	w := families[i].make(draw, seed)
	w.count()
	w.limits()
	return &Recording{Family: name, Draw: draw, world: w}, nil
}

// limits draws profiles around the largest run: one it clearly crosses, one it clearly does not.
func (w *world) limits() {
	if len(w.profile) > 0 {
		return
	}
	r := w.stream("limits")
	var most float64
	for _, a := range w.acts {
		if isRun(a.kind) {
			most = max(most, a.model)
		}
	}
	if most == 0 {
		most = r.logUniform(1e17, 1e20)
	}
	open := w.sharp()
	w.profile = append(w.profile, limit{Name: "drawn-low", FLOPs: round3(most / open / r.uniform(1.1, 4))})
	if r.chance(0.6) {
		w.profile = append(w.profile, limit{Name: "drawn-high", FLOPs: round3(most * open * r.uniform(1.2, 6))})
	}
}

func round3(v float64) float64 {
	var out float64
	_, _ = fmt.Sscanf(fmt.Sprintf("%.3g", v), "%g", &out) // its own text
	return out
}

// job is a training with its account and order.
func (w *world) job(gpus []*gpu, j trainJob) *activity {
	kind := "training"
	if j.prior.lora {
		kind = "finetuning"
	}
	a := w.activity(kind)
	a.accounts = w.owner("", 1)
	w.rentOrder(a.accounts[0], gpus, j.from, j.to, j.use())
	w.train(a, gpus, j)
	return a
}

func (j trainJob) use() string {
	if j.declareAs != "" {
		return j.declareAs
	}
	return "model training"
}

// rentOrder rents GPUs from a little before to a while after, and signs an order.
func (w *world) rentOrder(account string, gpus []*gpu, from, to float64, use string) {
	before, after := w.logUniform(30, 900), w.logUniform(60, 900)
	w.rent(account, from-before, to+after, gpus)
	term := to + after
	if w.chance(0.4) {
		term = max(term, w.length*w.uniform(1.0, 4))
	}
	w.contract(account, w.orderFor(gpus, from-before, term, use))
}

// cut gives the GPUs in shares of about these sizes, and what is left.
func cut(gpus []*gpu, sizes ...int) [][]*gpu {
	var out [][]*gpu
	for _, n := range sizes {
		n = wholeNodes(gpus, n)
		out = append(out, gpus[:n])
		gpus = gpus[n:]
	}
	return append(out, gpus)
}

// wholeNodes rounds a number of GPUs to whole nodes where it is more than one: nobody rents
// half a node beside others.
func wholeNodes(gpus []*gpu, n int) int {
	n = min(max(n, 1), len(gpus))
	if n == 0 {
		return 0
	}
	if per := len(gpus[0].node.gpus); n > per {
		n -= n % per
	}
	return n
}

func (w *world) other(kind string, gpus []*gpu, from, to float64, change func(*service)) {
	if len(gpus) == 0 {
		return
	}
	if kind == "training" {
		w.job(gpus, trainJob{from: from, to: to})
		return
	}
	a := w.activity(kind)
	a.accounts = w.owner("", 1)
	use := pick(w.rng, "", "research", kind)
	switch kind {
	case "inference", "batch_inference":
		use = pick(w.rng, "inference", "inference serving", "", "AI")
		w.serveOn(a, gpus, from, to, func(s *service) {
			if kind == "batch_inference" { // a queue, whatever else
				saturated(s)
			}
			if change != nil {
				change(s)
			}
		})
	case "hpc":
		use = pick(w.rng, "HPC", "simulation", "research")
		w.simulate(a, gpus, from, to)
	case "rendering":
		use = pick(w.rng, "rendering", "video transcoding")
		w.render(a, gpus, from, to)
	case "mining":
		w.mine(a, gpus, from, to)
	case "burn_in":
		w.burn(a, gpus, from, to)
	case "notebook":
		w.notebook(a, gpus, from, to)
	case "idle":
		w.idle(a, gpus, from, to)
	case "rl":
		use = "model training"
		w.reinforce(a, gpus, from, to)
	}
	w.rentOrder(a.accounts[0], gpus, from, to, use)
}

// within draws a stretch of the recording of at least `least` of it.
func (w *world) within(least float64) (from, to float64) {
	l := w.length * w.uniform(least, 0.97)
	from = w.uniform(120, max(121, w.length-l))
	return from, min(from+l, w.length)
}

func saturated(s *service) {
	s.batch = true
	s.most *= 2
}

var families = slices.Concat(ordinary, hard)

// ordinary work, as it is seen by different means.
var ordinary = []family{
	{"dense", "dense trainings, everything seen", func(d int, s uint64) *world {
		w := newWorld("dense", d, s, fleet{part: tensorParts, nodes: [2]int{1, 8}})
		all := w.gpus()
		groups := cut(all, max(1, len(all)/2))
		for _, g := range groups {
			if len(g) > 0 {
				from, to := w.within(0.5)
				w.job(g, trainJob{from: from, to: to, restarts: pick(w.rng, 0, 0, 1)})
			}
		}
		return w
	}},
	{"sharded", "pipelines, tensor parallel, experts, offload", func(d int, s uint64) *world {
		w := newWorld("sharded", d, s, fleet{part: bigParts, nodes: [2]int{2, 8}, perNode: []int{4, 8}})
		from, to := w.within(0.6)
		layouts := []string{"pp", "3d", "moe", "tp", "fsdp", "offload"}
		w.job(w.gpus(), trainJob{from: from, to: to, prior: trainPrior{layouts: []string{layouts[d%len(layouts)]}}})
		return w
	}},
	{"blind", "trainings and others without processes, collectives or allocations of meaning", func(d int, s uint64) *world {
		w := newWorld("blind", d, s, fleet{part: tensorParts, nodes: [2]int{2, 8}, processes: "absent"})
		all := w.gpus()
		groups := cut(all, len(all)/2, len(all)/4)
		from, to := w.within(0.6)
		w.job(groups[0], trainJob{from: from, to: to})
		if len(groups[1]) > 0 {
			f2, t2 := w.within(0.5)
			w.job(groups[1], trainJob{from: f2, to: t2})
		}
		w.other(pick(w.rng, "inference", "hpc", "batch_inference"), groups[2], w.uniform(60, 600), w.length, nil)
		return w
	}},
	{"small", "small trainings, notebooks, a sweep", func(d int, s uint64) *world {
		w := newWorld("small", d, s, fleet{nodes: [2]int{1, 4}})
		at := 200.0
		for _, g := range w.gpus() {
			one := []*gpu{g}
			switch {
			case w.chance(0.3):
				w.other("notebook", one, at, w.length-w.uniform(0, 600), nil)
			case w.chance(0.8):
				from, to := w.within(0.2)
				w.job(one, trainJob{from: from, to: to, prior: trainPrior{small: true, minPeriod: 0.05, maxPeriod: 3, layouts: []string{"ddp"}}})
			}
			if len(w.acts) > 12 {
				break
			}
		}
		return w
	}},
	{"restarts", "restarts on other hosts, and repeats, which are other runs", func(d int, s uint64) *world {
		w := newWorld("restarts", d, s, fleet{part: bigParts, nodes: [2]int{3, 8}, hours: [2]float64{3, 6}, processes: pick(newRNG(s, fmt.Sprint("restarts", d)), "absent", "generic", "true")})
		all := w.gpus()
		n := wholeNodes(all, len(all)/2)
		if d%3 != 2 {
			w.job(all[:n], trainJob{from: w.uniform(100, 900), to: w.length - w.uniform(0, 900), restarts: w.between(1, 4), spare: pick(w.rng, nil, all[n:])})
			return w
		}
		// The same training from its start, again and again: runs of their own.
		account := w.owner("", 1)[0]
		w.rentOrder(account, all[:n], 100, w.length-60, "model training")
		var same *training
		times := w.between(2, 4)
		each := (w.length - 900) / float64(times)
		for i := range times {
			a := w.activity("training")
			a.accounts = []string{account}
			from := 300 + float64(i)*each
			same = w.train(a, all[:n], trainJob{from: from, to: from + each - w.logUniform(60, 600), model: same})
		}
		return w
	}},
	{"inference", "inference of all kinds", func(d int, s uint64) *world {
		w := newWorld("inference", d, s, fleet{nodes: [2]int{1, 6}})
		rest := w.gpus()
		for len(rest) > 0 && len(w.acts) < 8 {
			n := min(len(rest), pick(w.rng, 1, 2, 4, 8, 8, 16))
			kind := pick(w.rng, "inference", "inference", "inference", "batch_inference")
			change := func(x *service) { x.spec = kind == "inference" && w.chance(0.15) }
			w.other(kind, rest[:n], w.uniform(60, 1500), w.length-w.uniform(0, 900), change)
			rest = rest[n:]
		}
		return w
	}},
	{"saturated", "batch inference without words, columns missing", func(d int, s uint64) *world {
		w := newWorld("saturated", d, s, fleet{nodes: [2]int{1, 6}, processes: "absent", columns: []string{"nocycles", "tensor", "nofp32", "nodram", "nvml", "full"}})
		rest := w.gpus()
		for len(rest) > 0 && len(w.acts) < 5 {
			n := min(len(rest), pick(w.rng, 2, 4, 8, 8, 16))
			from, to := w.within(0.4)
			scoring := w.chance(0.3)
			w.other("batch_inference", rest[:n], from, to, func(x *service) { x.scoring = scoring })
			rest = rest[n:]
		}
		return w
	}},
	{"hpc", "simulations", func(d int, s uint64) *world {
		w := newWorld("hpc", d, s, fleet{part: func(x *part) bool { return x.fp32 > 10*tera }, nodes: [2]int{1, 8}, processes: pick(newRNG(s, fmt.Sprint("hpc", d)), "absent", "true", "generic")})
		rest := w.gpus()
		for len(rest) > 0 && len(w.acts) < 6 {
			n := min(len(rest), pick(w.rng, 1, 4, 8, 16, 32))
			from, to := w.within(0.4)
			w.other("hpc", rest[:n], from, to, nil)
			rest = rest[n:]
		}
		return w
	}},
	{"mixed", "ordinary tenants of all kinds", func(d int, s uint64) *world {
		w := newWorld("mixed", d, s, fleet{nodes: [2]int{3, 8}, mixedParts: d%2 == 1})
		for _, n := range w.nodes {
			from, to := w.within(0.4)
			switch k := pick(w.rng, "training", "training", "finetuning", "inference", "inference", "hpc", "rendering", "notebook", "idle", "batch_inference", "mining", "burn_in", "rl", ""); k {
			case "":
			case "training":
				w.job(n.gpus, trainJob{from: from, to: to})
			case "finetuning":
				w.job(n.gpus, trainJob{from: from, to: to, prior: trainPrior{lora: true}})
			default:
				w.other(k, n.gpus, from, to, nil)
			}
		}
		return w
	}},
	{"rl", "rollouts and updates on the same GPUs", func(d int, s uint64) *world {
		w := newWorld("rl", d, s, fleet{part: bigParts, nodes: [2]int{1, 6}})
		from, to := w.within(0.6)
		w.other("rl", w.gpus(), from, to, nil)
		return w
	}},
	{"negatives", "burn-in, mining, rendering", func(d int, s uint64) *world {
		w := newWorld("negatives", d, s, fleet{nodes: [2]int{2, 6}, processes: pick(newRNG(s, fmt.Sprint("negatives", d)), "absent", "true", "generic")})
		for _, n := range w.nodes {
			from, to := w.within(0.3)
			w.other(pick(w.rng, "burn_in", "mining", "rendering"), n.gpus, from, to, nil)
		}
		return w
	}},
	{"outofband", "watts of hosts and ports alone", func(d int, s uint64) *world {
		w := newWorld("outofband", d, s, fleet{part: bigParts, nodes: [2]int{2, 8}, columns: []string{"outofband"}})
		half := len(w.nodes) / 2 * len(w.nodes[0].gpus)
		from, to := w.within(0.5)
		all := w.gpus()
		w.job(all[:half], trainJob{from: from, to: to})
		w.other(pick(w.rng, "inference", "hpc", "training"), all[half:], w.uniform(60, 900), w.length, nil)
		return w
	}},
	{"nvml", "what plain NVML tells", func(d int, s uint64) *world {
		w := newWorld("nvml", d, s, fleet{nodes: [2]int{2, 6}, columns: []string{"nvml", "nvml-few", "power"}})
		all := w.gpus()
		half := wholeNodes(all, len(all)/2)
		from, to := w.within(0.5)
		w.job(all[:half], trainJob{from: from, to: to})
		w.other(pick(w.rng, "inference", "hpc", "batch_inference", "rendering"), all[half:], w.uniform(60, 900), w.length, nil)
		return w
	}},
	{"counters", "cycle counters alone, with or without joules", func(d int, s uint64) *world {
		w := newWorld("counters", d, s, fleet{part: hopperUp, nodes: [2]int{2, 6}, columns: []string{"cycles", "counters"}})
		all := w.gpus()
		half := wholeNodes(all, len(all)/2)
		from, to := w.within(0.5)
		w.job(all[:half], trainJob{from: from, to: to})
		w.other(pick(w.rng, "inference", "batch_inference", "training"), all[half:], w.uniform(60, 900), w.length, nil)
		return w
	}},
}
