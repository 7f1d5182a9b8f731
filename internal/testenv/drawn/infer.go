package drawn

import "math"

// service is a model that answers, on one group of GPUs.
type service struct {
	params   float64
	active   float64
	dtype    string // bf16, fp16, fp8, int8
	tp       int
	prompt   float64 // tokens of a request
	answer   float64
	most     float64 // requests at once
	busy     float64 // mean load, 0 to 1 of what it can
	wave     float64 // of the day
	period   float64 // of the wave, s
	bursty   float64
	batch    bool // a queue that never empties
	scoring  bool // prefill alone
	spec     bool // speculative decoding
	pool     bool // the KV cache is one block
	memory   float64
	memorySD float64
}

func drawService(r *rng, si silicon, tp int) service {
	s := service{tp: tp}
	s.dtype = "bf16"
	if !si.bf16 {
		s.dtype = "fp16"
	}
	if r.chance(0.3) {
		s.dtype = "int8"
		if si.fp8 && r.chance(0.7) {
			s.dtype = "fp8"
		}
	}
	room := si.mem() * float64(tp)
	s.params = min(r.logUniform(0.03, 0.7)*room/s.bytes(), 4e11)
	s.active = s.params
	if r.chance(0.2) {
		s.active *= r.logUniform(0.06, 0.4)
	}
	s.prompt, s.answer = r.logUniform(80, 6000), r.logUniform(20, 1200)
	s.most = pick(r, 16.0, 32, 64, 128, 256)
	s.busy, s.wave, s.period, s.bursty = r.uniform(0.05, 0.7), r.uniform(0, 0.9), pick(r, 86400.0, 86400, 21600, 7200), r.uniform(0.05, 0.5)
	s.pool = r.chance(0.7)
	s.memory, s.memorySD = r.uniform(0.75, 0.93)*si.mem(), 0
	if !s.pool {
		s.memory, s.memorySD = min(0.8, s.params*s.bytes()/room+0.1)*si.mem(), r.uniform(0.005, 0.06)*si.mem()
	}
	return s
}

func (s *service) bytes() float64 {
	switch s.dtype {
	case "fp8", "int8":
		return 1
	}
	return 2
}

// serve makes the load of each GPU of the group over [from, to].
func (s *service) serve(r *rng, si silicon, from, to float64) source {
	tp := float64(s.tp)
	k := si.perCycle(s.dtype) * si.clock * 1e6 // FLOP a second of busy tensor pipes
	if s.dtype == "int8" && r.chance(0.5) {
		k = si.perCycle("bf16") * si.clock * 1e6 // weights alone are small: they are widened to 16 bit
	}
	imma := s.dtype
	if s.dtype == "int8" && k == si.perCycle("bf16")*si.clock*1e6 {
		imma = "bf16"
	}
	flop := 2 * s.active
	// Prefill is bound by arithmetic, decoding by memory.
	beta := r.uniform(0.35, 0.75)
	waste := r.uniform(1.02, 1.2)
	prefill, slow := si.run(load{util: 1, sm: r.uniform(0.7, 0.97), ipc: r.uniform(0.6, 1), tensor: beta, dtype: imma, dram: r.uniform(0.2, 0.5), occ: r.uniform(0.15, 0.4), fp32: 0.05, integer: 0.1, nvTx: s.tpBytes(si, r), nvRx: s.tpBytes(si, r)})
	prefillS := s.prompt * flop / tp / (k * slow * beta / waste) // of one request
	weights := s.active * s.bytes() / tp
	kv := r.logUniform(2e4, 4e5) * (s.prompt + s.answer/2) / tp // bytes of one request
	overhead := r.uniform(0.0005, 0.006)
	if s.tp > 1 {
		overhead += r.uniform(0.001, 0.004)
	}
	tile := pick(r, 8.0, 8, 16, 16, 64)
	// A decoding step of b requests.
	stepS := func(b float64) float64 {
		return overhead + max((weights+kv*b)/(0.8*si.bw), math.Ceil(b/tile)*tile*flop/tp/(k*0.7))
	}
	rows := min(s.most, 24)
	if s.batch {
		rows = s.most
	}
	capacity := 1 / (prefillS + s.answer*stepS(rows)/rows) // requests a second
	if s.scoring {
		capacity = 1 / prefillS
	}
	bin := 2.0
	n := int((to-from)/bin) + 1
	tide := r.wander(n, s.bursty, 300)
	phase := r.Float64()
	wIdle, wPre, wDec, wRows, wTiles, wReads := make([]float64, n), make([]float64, n), make([]float64, n), make([]float64, n), make([]float64, n), make([]float64, n)
	queue, working := 0.0, 0.0
	tokens := 1.0
	if s.spec {
		tokens = r.uniform(1.3, 2.5) // drafts are computed too
	}
	for i := range n {
		left := 1.0 // of the bin
		if s.batch {
			queue = 1e9
		} else {
			t := from + float64(i)*bin
			rate := s.busy * capacity * (1 + s.wave*math.Sin(2*math.Pi*(t/s.period+phase))) * tide[i]
			queue += r.poisson(rate * bin)
		}
		// Admit while there is room; prefill takes its time first.
		free := max(0, s.most-working)
		take := min(queue, free, math.Ceil(left*bin/prefillS))
		if s.scoring {
			take = min(queue, bin/prefillS)
		}
		if s.batch && !s.scoring { // steady state: as many come as leave
			take = min(capacity*bin*r.factor(0.05), bin/prefillS)
		}
		pre := min(left, take*prefillS/bin)
		queue = max(0, queue-take)
		left -= pre
		wPre[i] = pre
		if s.scoring {
			wIdle[i] = left
			continue
		}
		working += take
		b := min(working, s.most)
		if s.batch {
			b = s.most * r.uniform(0.9, 1)
		}
		if b < 0.5 {
			wIdle[i] = left
			continue
		}
		step := stepS(b)
		done := left * bin / step * b / s.answer // requests that end
		frac := left
		if done > working && !s.batch {
			frac = left * working / done
			done = working
		}
		working = max(0, working-done)
		wDec[i], wIdle[i] = frac, left-frac
		wRows[i] = frac * b / step * tokens // tokens a second
		wTiles[i] = frac * math.Ceil(b/tile) * tile * flop / tp / k / step * tokens
		wReads[i] = frac * (weights + kv*b) / si.bw / step
	}
	// SMs are busy at least as often as the tiles and reads of a full batch need.
	full := s.most
	busySM := max(r.uniform(0.35, 0.9), 1.05*math.Ceil(full/tile)*tile*flop/tp/k/stepS(full), (weights+kv*full)/si.bw/stepS(full))
	if s.spec {
		busySM = max(0.5*r.uniform(0.35, 0.9), 1.05*math.Ceil(rows/tile)*tile*flop/tp/k/stepS(rows), (weights+kv*rows)/si.bw/stepS(rows))
	}
	decode, _ := si.run(load{util: r.uniform(0.9, 1), sm: min(1, busySM), ipc: r.uniform(0.2, 0.6), dtype: imma, occ: r.uniform(0.1, 0.3), fp32: 0.03, integer: 0.1, nvTx: 0.3 * s.tpBytes(si, r), nvRx: 0.3 * s.tpBytes(si, r)})
	// Of a decoding step, what its tiles and its reads take.
	room := si.tdp - si.idleW - si.ctxW
	var tiles, reads sig
	tiles[sTensor], tiles[sCycles], tiles[sPower] = 1, si.clock*1e6, si.tensor*tensorEnergy(imma)*room
	if imma == "int8" {
		tiles[sIMMA] = 1
	} else {
		tiles[sHMMA] = 1
	}
	reads[sDRAM], reads[sPower] = 1, si.dram*room
	decode[sCPU], prefill[sCPU] = r.uniform(0.005, 0.04), r.uniform(0.005, 0.03)
	decode[sExec], decode[sModel] = 0, 0
	prefill[sExec] = s.prompt * flop / tp / prefillS
	prefill[sModel] = prefill[sExec]
	prefill[sOutTx], decode[sOutTx] = r.logUniform(1e3, 1e6), r.logUniform(1e3, 1e6)
	prefill[sPCIeTx], decode[sPCIeTx], decode[sPCIeRx] = r.logUniform(1e6, 2e8), r.logUniform(1e6, 1e8), r.logUniform(1e6, 1e8)
	if s.spec {
		decode[sPower] *= 0.7
		s.memorySD = max(s.memorySD, r.uniform(0.005, 0.02)*si.mem())
	}
	// What decoding computes follows its tokens.
	var perToken sig
	perToken[sExec], perToken[sModel] = flop/tp, flop/tp
	idle := si.context(0)
	idle[sBusy], idle[sClock] = 1, si.clock
	mem := make([]float64, n)
	drift := r.wander(n, 1, 40)
	for i := range mem {
		mem[i] = max(0, s.memory+s.memorySD*(math.Log(drift[i])))
	}
	var byte1 sig
	byte1[sMem] = 1
	return newMix(from, bin, []sig{idle, prefill, decode, perToken, tiles, reads, byte1}, [][]float64{wIdle, wPre, wDec, wRows, wTiles, wReads, mem})
}

func (s *service) tpBytes(si silicon, r *rng) float64 {
	if s.tp == 1 || si.nvlink == 0 {
		return 0
	}
	return si.nvlink / 2 * r.uniform(0.02, 0.3)
}

var servers = []string{"vllm", "tritonserver", "text-generation-server", "python3", "sglang", "trtllm-serve", "ollama", "python3"}

// serveOn runs a service on groups of GPUs.
func (w *world) serveOn(a *activity, gpus []*gpu, from, to float64, change func(*service)) {
	r := w.stream("serve " + a.id)
	si := gpus[0].node.si
	tp := 1
	for _, k := range []int{8, 4, 2} {
		if perNode(gpus)%k == 0 && si.nvlink > 0 && r.chance(0.35) && tp == 1 {
			tp = k
		}
	}
	s := drawService(r, si, tp)
	if change != nil {
		change(&s)
	}
	a.dtype, a.params = s.dtype, s.params
	a.notes["tp"], a.notes["prompt"], a.notes["answer"], a.notes["busy"] = s.tp, s.prompt, s.answer, s.busy
	warm := min(r.logUniform(20, 200), (to-from)*0.2)
	exe := pick(r, servers...)
	for i := 0; i+s.tp <= len(gpus); i += s.tp {
		group := gpus[i : i+s.tp]
		src := s.serve(r, si, from+warm, to)
		procs := w.launch(a, group, from, to, false, exe, "", pick(r, "slurm", "kubernetes", ""))
		loading := si.context(s.memory)
		loading[sStRx] = s.params * s.bytes() / warm / float64(s.tp)
		id := r.hex(16)
		for k, g := range group {
			g.hold(from, to, a)
			g.put(from, from+warm, &steady{loading}, a)
			g.put(from+warm, to, src, a)
			if s.tp > 1 {
				procs[0].comms = append(procs[0].comms, comm{id: id, gpu: g.index, nranks: s.tp, rank: k, op: "allreduce", calls: r.uniform(500, 5000), bytes: r.logUniform(1e7, 1e9), from: from + warm, to: to})
			}
		}
	}
}
