package scenario

import (
	"fmt"
	"strings"
)

func gpus(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func seat(node string, g ...int) Seat { return Seat{node, g} }

// seats are the first n GPUs of nodes.
func seats(n int, nodes ...string) []Seat {
	var out []Seat
	for _, x := range nodes {
		out = append(out, Seat{x, gpus(n)})
	}
	return out
}

// hosts makes nodes prefix0, prefix1, ...
func hosts(prefix, part string, n, count int, change func(*Node)) []Node {
	var out []Node
	for i := range n {
		x := Node{Name: fmt.Sprintf("%s%d", prefix, i), Part: part, Count: count}
		if change != nil {
			change(&x)
		}
		out = append(out, x)
	}
	return out
}

func join(lists ...[]Node) []Node {
	var out []Node
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// rent lets the account of each attempt rent its seats, ten minutes around it.
func (s *Scenario) rent() *Scenario {
	for i := range s.Jobs {
		for _, a := range s.Jobs[i].Attempts {
			if a.Account == "" {
				continue
			}
			for _, seat := range a.Seats {
				to := 0.0
				if a.To < s.Minutes {
					to = a.To + 3
				}
				s.Rentals = append(s.Rentals, Rental{a.Account, seat, a.From - 3, to})
			}
		}
	}
	return s
}

func once(account, job string, from, to float64, s ...Seat) []Attempt {
	return []Attempt{{From: from, To: to, Seats: s, Account: account, JobID: job}}
}

func dense(params, tokens float64) Work {
	return Work{Kind: "training", Params: params, ReplicaTok: tokens, DType: "bf16", Overlap: 0.7, CkptMin: 27}
}

func fsdp(params, tokens float64) Work {
	w := dense(params, tokens)
	w.FSDP = true
	return w
}

func server(params float64, tp int, batch, load float64) Work {
	return Work{Kind: "inference", Params: params, TP: tp, Batch: batch, Load: load, DType: "bf16"}
}

// party is a line of parties.jsonl.
func party(id, us, country, status string, accounts []string, more string) string {
	list := "[]"
	if len(accounts) > 0 {
		list = `["` + strings.Join(accounts, `","`) + `"]`
	}
	if more == "" {
		more = `"beneficial_owners": [], "parent": null, "reseller": null`
	}
	return fmt.Sprintf(`{"id": %q, "kind": "entity", "name": "Invented %s", "us_person": %s, "country": %q, "headquarters_country": %q, "addresses": [], "emails": [], "phones": [], "payment": [], "access_ips": [], %s, "accounts": %s, "verification": {"status": %q, "method": "documentary", "at_ms": 1780000000000, "note": ""}}`,
		id, id, us, country, country, more, list, status)
}

// people makes one foreign party (p-f) for the foreign accounts and a U.S. one (p-u).
func (s *Scenario) people(foreign, american []string) *Scenario {
	s.Behind = map[string]Behind{}
	for _, a := range foreign {
		s.Behind[a] = Behind{InScope: true, Parties: []string{"p-f"}}
	}
	for _, a := range american {
		s.Behind[a] = Behind{Parties: []string{"p-u"}}
	}
	s.Parties = append(s.Parties, party("p-f", "false", "FR", "verified", foreign, ""), party("p-u", "true", "US", "verified", american, ""))
	return s
}

// All returns the scenarios, by name.
func All() []*Scenario {
	var out []*Scenario
	for _, f := range []func() []*Scenario{trainings, assemblies, servers, evasions, thin, contracts, hard} {
		out = append(out, f()...)
	}
	for i, s := range out {
		if s.Seed == 0 {
			s.Seed = uint64(41 + 7*i)
		}
	}
	return out
}

func trainings() []*Scenario {
	a := &Scenario{Name: "a100-dcgm", Minutes: 130, Nodes: join(hosts("a", "A100", 4, 8, func(n *Node) { n.See = "dcgm"; n.CadenceS = 20 }), hosts("b", "A100", 2, 8, func(n *Node) { n.See = "dcgm"; n.CadenceS = 20 }))}
	w := dense(13e9, 65536)
	w.TP, w.PP, w.Recompute = 4, 2, 1.31
	a.Jobs = []Job{
		{ID: "tp-pp", Work: w, World: true, Exe: "python3.11", Launcher: "torchrun", Attempts: once("acc-1", "", 12, 130, seats(8, "a0", "a1", "a2", "a3")...)},
		{ID: "cfd", Work: Work{Kind: "hpc", CkptMin: 30}, Exe: "solver.x", Launcher: "srun", Source: "slurm", Attempts: once("acc-2", "771", 5, 121, seat("b0", gpus(8)...))},
		{ID: "chat", Work: server(30e9, 4, 24, 0.7), Exe: "python3", Attempts: once("acc-2", "", 20, 130, seat("b1", 0, 1, 2, 3))},
		{ID: "md", Work: Work{Kind: "hpc", Flow: "md"}, Exe: "gmx_mpi", Attempts: once("acc-2", "772", 30, 110, seat("b1", 5))},
	}
	a.Profiles = []Profile{{Name: "low", Limit: 2e19}}
	a.Orders = []Order{{ID: "o1", Account: "acc-1", Part: "A100", GPUs: 32, Amended: -2000, From: -5, To: 600, Use: "research"}}

	b := &Scenario{Name: "pcie-nvml", Minutes: 120, Nodes: join(hosts("p", "A100P", 2, 4, func(n *Node) { n.CadenceS = 10; n.Ethernet = true }), hosts("l", "L40S", 2, 8, func(n *Node) { n.CadenceS = 10; n.Ethernet = true }), hosts("h", "H100P", 1, 4, nil))}
	w = dense(1.1e9, 32768)
	b.Jobs = []Job{
		{ID: "ddp-pcie", Work: w, Exe: "python", Launcher: "accelerate", World: true, Attempts: once("acc-1", "", 4, 118, seat("p0", gpus(4)...))},
		{ID: "batch", Work: Work{Kind: "batch_inference", Params: 3e9, Batch: 128, Load: 0.97, DType: "fp16"}, Exe: "python", Attempts: once("acc-2", "", 6, 120, seat("p1", 0, 1))},
		{ID: "md", Work: Work{Kind: "hpc", Flow: "md"}, Exe: "pmemd.cuda", Attempts: once("acc-2", "", 3, 90, seat("p1", 2, 3))},
		{ID: "film", Work: Work{Kind: "rendering"}, Exe: "blender", Attempts: once("acc-3", "", 2, 115, seat("l0", gpus(8)...))},
		{ID: "lora-l40s", Work: Work{Kind: "finetuning", Params: 8e9, ReplicaTok: 8192, DType: "bf16", LoRA: true, Overlap: 0.5}, Exe: "python", Attempts: once("acc-1", "", 10, 70, seat("l1", 0, 1, 2, 3))},
		{ID: "vision", Work: dense(0.3e9, 16384), Exe: "python", Attempts: once("acc-1", "", 15, 120, seat("h0", gpus(4)...))},
		{ID: "embed", Work: Work{Kind: "batch_inference", Flow: "embed", Params: 0.6e9, Batch: 256, Load: 0.95, DType: "fp16"}, Exe: "python", Attempts: once("acc-2", "", 8, 112, seat("l1", 4, 5, 6, 7))},
	}
	b.Profiles = []Profile{{Name: "low", Limit: 4e18}}

	c := &Scenario{Name: "v100-old", Minutes: 120, Nodes: hosts("v", "V100", 3, 8, func(n *Node) { n.CadenceS = 30 })}
	w = dense(0.35e9, 16384)
	w.DType, w.CkptMin = "fp32", 20
	x := dense(1.5e9, 16384)
	x.DType = "fp16"
	c.Jobs = []Job{
		{ID: "fp32", Work: w, Exe: "python", Launcher: "torchrun", Attempts: once("acc-1", "", 5, 120, seats(8, "v0")...)},
		{ID: "fp16", Work: x, Exe: "python", Launcher: "torchrun", Attempts: once("acc-1", "", 9, 116, seats(8, "v1")...)},
		{ID: "fp64", Work: Work{Kind: "hpc"}, Exe: "a.out", Attempts: once("acc-2", "", 9, 116, seats(8, "v2")...)},
	}
	c.Profiles = []Profile{{Name: "low", Limit: 3e18}}

	d := &Scenario{Name: "gb200-fp8", Minutes: 110, Nodes: hosts("g", "GB200", 6, 4, func(n *Node) { n.CadenceS = 30 })}
	w = fsdp(34e9, 49152)
	w.DType, w.NetBps = "fp8", 45e9
	y := fsdp(9e9, 40000)
	y.NetBps = 45e9
	d.Jobs = []Job{
		{ID: "fp8", Work: w, World: true, Exe: "python3", Launcher: "srun", Source: "slurm", Attempts: once("acc-1", "9001", 6, 110, seats(4, "g0", "g1", "g2", "g3")...)},
		{ID: "bf16", Work: y, World: true, Exe: "python3", Launcher: "srun", Source: "slurm", Attempts: once("acc-1", "9002", 8, 104, seats(4, "g4", "g5")...)},
	}
	d.Profiles = []Profile{{Name: "low", Limit: 1.5e20}}
	d.Orders = []Order{{ID: "o1", Account: "acc-1", Part: "GB200", GPUs: 24, Amended: -500, From: -10, To: 400, Use: ""}}

	e := &Scenario{Name: "rl-phases", Minutes: 130, Nodes: hosts("r", "H100", 3, 8, nil)}
	w = fsdp(7e9, 16384)
	w.Kind, w.TP = "rl", 1
	e.Jobs = []Job{
		{ID: "rl-tap", Work: w, World: true, Exe: "python3", Launcher: "ray", Attempts: once("acc-1", "", 5, 130, seats(8, "r0", "r1")...)},
		{ID: "rl-dark", Work: w, NoTap: true, Exe: "python3", Launcher: "ray", Attempts: once("acc-2", "", 9, 128, seat("r2", gpus(8)...))},
	}
	e.Profiles = []Profile{{Name: "low", Limit: 3e18}}
	for _, s := range []*Scenario{a, b, c, d, e} {
		s.people([]string{"acc-1"}, []string{"acc-2", "acc-3"}).rent()
	}
	return []*Scenario{a, b, c, d, e}
}

func assemblies() []*Scenario {
	twin := func(name string, noise Noise, gap float64) *Scenario {
		s := &Scenario{Name: name, Minutes: 120, Nodes: hosts("n", "H200", 5, 8, func(n *Node) { n.CadenceS = 15 }), Noise: noise}
		w := fsdp(8e9, 32768)
		s.Jobs = []Job{
			{ID: "one", Work: w, Exe: "python", Attempts: once("acc-1", "", 6, 120, seats(8, "n0", "n1")...)},
			{ID: "two", Work: w, Exe: "python", Attempts: once("acc-1", "", 6+gap, 117, seats(8, "n2", "n3")...)},
			{ID: "solo", Work: dense(0.4e9, 30000), Exe: "python", Attempts: once("acc-1", "", 11, 80, seats(8, "n4")...)},
		}
		s.Profiles = []Profile{{Name: "low", Limit: 2e19}}
		return s.people([]string{"acc-1"}, nil).rent()
	}
	out := []*Scenario{
		twin("twins-tap", Noise{NoProc: true}, 0.7),
		twin("twins-flows", Noise{NoProc: true, NoTap: true}, 6),
		twin("twins-counters", Noise{NoProc: true, NoTap: true, NoFlows: true}, 7),
		twin("twins-same-minute", Noise{NoProc: true, NoTap: true}, 0.3),
	}
	r := &Scenario{Name: "b200-restarts", Minutes: 220, Nodes: hosts("b", "B200", 6, 8, func(n *Node) { n.CadenceS = 30 })}
	w := fsdp(20e9, 65536)
	w.NetBps, w.CkptMin = 45e9, 15
	r.Jobs = []Job{{ID: "long", Work: w, World: true, Exe: "python3", Launcher: "srun", Source: "slurm", Sec: 300, Attempts: []Attempt{
		{From: 5, To: 62, Seats: seats(8, "b0", "b1", "b2"), Account: "acc-1", JobID: "5510"},
		{From: 67, To: 131, Seats: seats(8, "b0", "b3"), Account: "acc-1", JobID: "5533"},
		{From: 150, To: 220, Seats: seats(8, "b0", "b1", "b3", "b4"), Account: "acc-1", JobID: "5561"},
	}}, {ID: "other", Work: fsdp(3e9, 32768), World: true, Exe: "python3", Launcher: "srun", Source: "slurm", Attempts: once("acc-1", "5511", 20, 190, seats(8, "b5")...)}}
	r.Profiles = []Profile{{Name: "low", Limit: 1e20}}
	r.Orders = []Order{{ID: "o1", Account: "acc-1", Part: "B200", GPUs: 48, Amended: -500, From: -10, To: 900, Use: "model training"}}

	m := &Scenario{Name: "move-accounts", Minutes: 180, Nodes: hosts("m", "H100", 5, 8, nil), Noise: Noise{NoProc: true}}
	w = fsdp(11e9, 40000)
	m.Jobs = []Job{{ID: "moved", Work: w, Evasion: []string{"account_split"}, Attempts: []Attempt{
		{From: 4, To: 80, Seats: seats(8, "m0", "m1"), Account: "acc-1"},
		{From: 84, To: 180, Seats: seats(8, "m2", "m3"), Account: "acc-2"},
	}}, {ID: "plain", Work: dense(0.8e9, 32768), Attempts: once("acc-3", "", 10, 170, seats(8, "m4")...)}}
	m.Profiles = []Profile{{Name: "low", Limit: 5e19}}

	c := &Scenario{Name: "concurrent-split", Minutes: 120, Nodes: hosts("c", "H100", 4, 8, func(n *Node) { n.CadenceS = 5 })}
	c.Jobs = []Job{{ID: "split", Work: fsdp(14e9, 32768), Exe: "python", Evasion: []string{"account_split"}, Attempts: []Attempt{{From: 7, To: 120, Seats: seats(8, "c0", "c1", "c2", "c3"), Account: "acc-1"}}}}
	c.Profiles = []Profile{{Name: "low", Limit: 6e19}}

	u := &Scenario{Name: "scale-up", Minutes: 170, Nodes: hosts("u", "H100", 4, 8, func(n *Node) { n.CadenceS = 20 })}
	w = fsdp(9e9, 32768)
	u.Jobs = []Job{{ID: "grown", Work: w, World: true, Exe: "python", Launcher: "torchrun", Source: "kubernetes", User: "u9", Attempts: []Attempt{
		{From: 5, To: 60, Seats: seats(8, "u0"), Account: "acc-1", JobID: "pre-train-0"},
		{From: 63, To: 110, Seats: seats(8, "u0", "u1"), Account: "acc-1", JobID: "pre-train-1"},
		{From: 114, To: 170, Seats: seats(8, "u0", "u1", "u2", "u3"), Account: "acc-1", JobID: "pre-train-2"},
	}}}
	u.Profiles = []Profile{{Name: "low", Limit: 4e19}}
	u.Orders = []Order{{ID: "o1", Account: "acc-1", Part: "H100", GPUs: 32, Amended: -500, From: -10, To: 300, Use: "model training"}}

	q := &Scenario{Name: "sweep", Minutes: 150, Nodes: hosts("q", "A100", 1, 8, func(n *Node) { n.See = "nvml" })}
	for g := range 8 {
		at := 4 + 1.7*float64(g)
		for k := range 3 {
			d := 28 + float64((g*5+k*11)%17)
			q.Jobs = append(q.Jobs, Job{ID: fmt.Sprintf("try-%d-%d", g, k), Work: dense(0.12e9+0.02e9*float64(k*g%5), 8192), Exe: "python", User: "u1", Attempts: once("acc-1", "", at, at+d, seat("q0", g))})
			at += d + 2
		}
	}
	q.Profiles = []Profile{{Name: "low", Limit: 1e18}}
	for _, s := range []*Scenario{r, m, u, q} {
		s.people([]string{"acc-1", "acc-2"}, []string{"acc-3"}).rent()
	}
	c.people([]string{"acc-1", "acc-2"}, nil)
	for i, a := range []string{"acc-1", "acc-1", "acc-2", "acc-2"} {
		c.Rentals = append(c.Rentals, Rental{a, Seat{fmt.Sprintf("c%d", i), gpus(8)}, -20, 0})
	}
	c.Jobs[0].Accounts = []string{"acc-1", "acc-2"}
	return append(out, r, m, c, u, q)
}

func servers() []*Scenario {
	a := &Scenario{Name: "serving-mix", Minutes: 150, Nodes: join(hosts("s", "H100", 3, 8, func(n *Node) { n.CadenceS = 20 }), hosts("k", "L40S", 1, 8, func(n *Node) { n.See = "dcgm"; n.CadenceS = 20 }))}
	big := server(70e9, 8, 48, 0.8)
	big.DType = "fp8"
	q8 := server(13e9, 2, 16, 0.6)
	q8.DType = "int8"
	a.Jobs = []Job{
		{ID: "big", Work: big, Exe: "python3", Attempts: once("acc-1", "", 3, 150, seat("s0", gpus(8)...))},
		{ID: "int8", Work: q8, Exe: "trtllm-serve", Attempts: once("acc-1", "", 6, 150, seat("s1", 0, 1, 2, 3))},
		{ID: "busy", Work: server(8e9, 1, 96, 1), Exe: "python3", Attempts: once("acc-1", "", 9, 150, seat("s1", 4, 5, 6, 7))},
		{ID: "synthetic", Work: Work{Kind: "batch_inference", Params: 30e9, TP: 4, Batch: 160, Load: 0.98, DType: "bf16"}, Exe: "python3", Attempts: once("acc-2", "", 12, 140, seat("s2", 0, 1, 2, 3))},
		{ID: "tune", Work: Work{Kind: "finetuning", Params: 7e9, ReplicaTok: 8192, DType: "bf16", LoRA: true, Overlap: 0.5}, Exe: "python3", Attempts: once("acc-2", "", 15, 100, seat("s2", 4, 5, 6, 7))},
		{ID: "small", Work: server(3e9, 1, 8, 0.4), Exe: "python3", Attempts: once("acc-1", "", 2, 150, seat("k0", 0, 1, 2, 3))},
		{ID: "idle", Work: Work{Kind: "idle", MemFrac: 0.5}, Exe: "python3", Attempts: once("acc-1", "", 2, 150, seat("k0", 4, 5))},
	}
	a.Profiles = []Profile{{Name: "low", Limit: 1e18}}

	b := &Scenario{Name: "odd-jobs", Minutes: 120, Nodes: join(hosts("o", "H100", 3, 8, nil), hosts("x", "RTX", 1, 8, func(n *Node) { n.CadenceS = 10; n.Ethernet = true }))}
	b.Jobs = []Job{
		{ID: "mine-dag", Work: Work{Kind: "mining", Flow: "dag"}, Exe: "python3", Attempts: once("acc-1", "", 5, 120, seat("x0", 0, 1, 2, 3))},
		{ID: "mine-int", Work: Work{Kind: "mining"}, Exe: "python3", Attempts: once("acc-1", "", 5, 100, seat("o0", 0, 1))},
		{ID: "burn", Work: Work{Kind: "burn_in", DType: "bf16"}, Exe: "python3", Attempts: once("acc-2", "", 10, 70, seat("o1", gpus(8)...))},
		{ID: "render", Work: Work{Kind: "rendering"}, Exe: "python3", Attempts: once("acc-1", "", 5, 118, seat("x0", 4, 5, 6, 7))},
		{ID: "note", Work: Work{Kind: "notebook"}, Exe: "python3", Attempts: once("acc-2", "", 5, 118, seat("o0", 2))},
		{ID: "held", Work: Work{Kind: "idle"}, Attempts: once("acc-2", "", 0, 120, seat("o0", 3, 4)), NoProc: true},
		{ID: "linpack", Work: Work{Kind: "hpc", Flow: "dgemm"}, Exe: "a.out", Launcher: "mpirun", Attempts: once("acc-2", "", 5, 100, seat("o2", gpus(8)...))},
		{ID: "sim", Work: Work{Kind: "hpc", Flow: "stencil", CkptMin: 25}, Exe: "a.out", Launcher: "mpirun", Attempts: once("acc-2", "", 74, 119, seat("o1", gpus(8)...))},
	}
	b.Profiles = []Profile{{Name: "low", Limit: 1e18}}

	c := &Scenario{Name: "hpc-nodes", Minutes: 130, Nodes: join(hosts("e", "H200", 4, 4, func(n *Node) { n.CadenceS = 10 }), hosts("f", "A100", 2, 8, func(n *Node) { n.See = "nvml"; n.CadenceS = 10 }))}
	c.Jobs = []Job{
		{ID: "climate", Work: Work{Kind: "hpc", Flow: "stencil", CkptMin: 20}, Exe: "icon", Launcher: "srun", Source: "slurm", Attempts: once("acc-1", "31", 5, 128, seats(4, "e0", "e1")...)},
		{ID: "qcd", Work: Work{Kind: "hpc"}, Exe: "run.x", Launcher: "mpirun", Attempts: once("acc-1", "", 9, 120, seats(4, "e2", "e3")...)},
		{ID: "old", Work: Work{Kind: "hpc", CkptMin: 30}, Exe: "run.x", Launcher: "mpirun", Attempts: once("acc-1", "", 9, 120, seats(8, "f0", "f1")...)},
	}
	c.Profiles = []Profile{{Name: "low", Limit: 1e17}}
	c.Orders = []Order{{ID: "o1", Account: "acc-1", Part: "H200", GPUs: 16, Amended: -500, From: -10, To: 3000, Use: "simulation"}}
	for _, s := range []*Scenario{a, b, c} {
		s.people([]string{"acc-1", "acc-2"}, nil).rent()
	}
	return []*Scenario{a, b, c}
}

func evasions() []*Scenario {
	a := &Scenario{Name: "false-words", Minutes: 130, Nodes: hosts("z", "H100", 4, 8, nil)}
	a.Jobs = []Job{
		{ID: "hidden", Work: fsdp(8e9, 32768), NoTap: true, Exe: "vllm", Evasion: []string{"false_declaration"}, Attempts: once("acc-1", "", 5, 130, seats(8, "z0", "z1")...)},
		{ID: "renamed", Work: dense(2e9, 32768), NoTap: true, Exe: "blender", Evasion: []string{"false_declaration"}, Attempts: once("acc-2", "", 9, 124, seats(8, "z2")...)},
		{ID: "queue", Work: Work{Kind: "batch_inference", Params: 13e9, Batch: 200, Load: 0.97, DType: "bf16", TP: 2}, Exe: "python3", Launcher: "torchrun", World: true, NoTap: true, Attempts: once("acc-3", "", 9, 124, seats(8, "z3")...)},
	}
	a.Profiles = []Profile{{Name: "low", Limit: 2e19}}
	a.Orders = []Order{
		{ID: "o1", Account: "acc-1", Part: "H100", GPUs: 16, Amended: -900, From: -10, To: 600, Use: "inference serving"},
		{ID: "o2", Account: "acc-2", Part: "H100", GPUs: 8, Amended: -900, From: -10, To: 600, Use: "rendering"},
		{ID: "o3", Account: "acc-3", Part: "H100", GPUs: 8, Amended: -900, From: -10, To: 600, Use: "model training"},
	}
	b := &Scenario{Name: "diluted", Minutes: 150, Nodes: hosts("d", "H100", 3, 8, nil)}
	cover := server(8e9, 1, 32, 0.6)
	w := dense(3e9, 16384)
	w.Duty, w.DutyPeriodS, w.Cover = 0.5, 90, &cover
	v := dense(1.5e9, 16384)
	v.Duty, v.DutyPeriodS = 0.35, 240
	t := dense(2e9, 16384)
	t.CapFrac = 0.45
	b.Jobs = []Job{
		{ID: "covered", Work: w, NoTap: true, Exe: "python3", NullModel: true, Evasion: []string{"dilution"}, Attempts: once("acc-1", "", 5, 150, seats(8, "d0")...)},
		{ID: "padded", Work: v, NoTap: true, Exe: "python3", Evasion: []string{"padding"}, Attempts: once("acc-1", "", 8, 150, seats(8, "d1")...)},
		{ID: "throttled", Work: t, NoTap: true, Exe: "python3", Evasion: []string{"throttling"}, Attempts: once("acc-1", "", 8, 150, seats(8, "d2")...)},
	}
	b.Profiles = []Profile{{Name: "low", Limit: 1.2e19}}
	c := &Scenario{Name: "filler", Minutes: 120, Nodes: hosts("f", "GB200", 4, 4, func(n *Node) { n.CadenceS = 20 })}
	w = dense(30e9, 16384)
	w.Filler, w.Overlap, w.NetBps = 0.3, 0.2, 45e9
	c.Jobs = []Job{{ID: "smooth", Work: w, World: true, Exe: "python3", Launcher: "srun", Evasion: []string{"filler"}, Attempts: once("acc-1", "", 5, 120, seats(4, "f0", "f1", "f2", "f3")...)}}
	c.Profiles = []Profile{{Name: "low", Limit: 6e19}}
	d := &Scenario{Name: "islands", Minutes: 160, Nodes: hosts("i", "H100", 3, 8, nil)}
	for i := range d.Nodes {
		d.Nodes[i].Site = fmt.Sprintf("site-%d", i)
	}
	w = dense(6e9, 32768)
	w.SyncMin = 12
	d.Jobs = []Job{{ID: "diloco", Work: w, Split: true, Exe: "python3", Launcher: "torchrun", Evasion: []string{"low_communication"}, Attempts: once("acc-1", "", 5, 160, seats(8, "i0", "i1", "i2")...)}}
	d.Profiles = []Profile{{Name: "low", Limit: 4e19}}
	e := &Scenario{Name: "tampered", Minutes: 120, Nodes: hosts("t", "H100", 2, 8, nil)}
	e.Nodes[0].Freeze = 40
	e.Jobs = []Job{
		{ID: "rewritten", Work: fsdp(8e9, 32768), NoTap: true, Exe: "python3", NullModel: true, Evasion: []string{"tampering"}, Attempts: once("acc-1", "", 5, 120, seats(8, "t0")...)},
		{ID: "honest", Work: fsdp(8e9, 32768), Exe: "python3", Attempts: once("acc-2", "", 9, 120, seats(8, "t1")...)},
	}
	e.Tampered, e.Profiles = []string{"acc-1"}, []Profile{{Name: "low", Limit: 3e19}}
	for _, s := range []*Scenario{a, b, c, d, e} {
		s.people([]string{"acc-1", "acc-2"}, []string{"acc-3"}).rent()
	}
	return []*Scenario{a, b, c, d, e}
}

// thin scenarios show little of what happens.
func thin() []*Scenario {
	mixed := func(name, part string, count int, change func(*Node), noise Noise) *Scenario {
		s := &Scenario{Name: name, Minutes: 140, Nodes: hosts("w", part, 5, count, change), Noise: noise}
		w := fsdp(8e9, 32768)
		s.Jobs = []Job{
			{ID: "wide", Work: w, World: true, Exe: "python3", Launcher: "srun", Source: "slurm", Attempts: once("acc-1", "81", 8, 138, seats(count, "w0", "w1")...)},
			{ID: "narrow", Work: dense(1e9, 32768), Exe: "python3", Attempts: once("acc-1", "82", 15, 120, seats(count, "w2")...)},
			{ID: "serve", Work: server(8e9, 1, 32, 0.5), Exe: "python3", Attempts: once("acc-2", "83", 3, 140, seats(count, "w3")...)},
			{ID: "rest", Work: Work{Kind: "idle"}, NoProc: true, Attempts: once("acc-2", "", 0, 140, seats(count, "w4")...)},
		}
		s.Profiles = []Profile{{Name: "low", Limit: 2.5e19}}
		s.Telemetry = []string{"acc-1", "acc-2"}
		s.Orders = []Order{{ID: "o1", Account: "acc-1", Part: part, GPUs: 3 * count, Amended: -500, From: -10, To: 500, Use: "model training"}}
		return s.people([]string{"acc-1"}, []string{"acc-2"}).rent()
	}
	odd := mixed("strange-parts", "NEXT", 8, nil, Noise{})
	odd.Nodes[2].Model = "-"
	odd.Nodes[3].Unlisted = true
	odd.Nodes = append(odd.Nodes, Node{Name: "switch-1", Part: "H100", Count: 0, Gbps: -1, See: "none", Model: "-"})
	shared := &Scenario{Name: "slices", Minutes: 120, Nodes: join(hosts("y", "H100", 2, 8, nil), hosts("mig", "H100", 1, 2, func(n *Node) { n.See = "mig" }))}
	shared.Jobs = []Job{
		{ID: "left", Work: dense(1e9, 32768), Exe: "python3", Launcher: "torchrun", Attempts: once("acc-1", "", 5, 120, seat("y0", 0, 1, 2, 3))},
		{ID: "right", Work: dense(1e9, 32768), Exe: "python3", Launcher: "torchrun", Attempts: once("acc-2", "", 5.4, 119, seat("y0", 4, 5, 6, 7))},
		{ID: "half", Work: server(8e9, 2, 32, 0.6), Exe: "python3", Attempts: once("acc-2", "", 7, 119, seat("y1", 0, 1))},
		{ID: "tune", Work: Work{Kind: "finetuning", Params: 7e9, ReplicaTok: 8192, DType: "bf16", LoRA: true, Overlap: 0.5}, Exe: "python3", Attempts: once("acc-1", "", 22, 90, seat("y1", 2, 3, 4, 5, 6, 7))},
		{ID: "slice", Work: dense(0.5e9, 8192), Exe: "python3", Attempts: once("acc-1", "", 9, 111, seat("mig0", 0))},
	}
	shared.Profiles = []Profile{{Name: "low", Limit: 8e18}}
	shared.people([]string{"acc-1", "acc-2"}, nil).rent()
	bare := mixed("bare", "H100", 8, nil, Noise{NoProc: true, NoTap: true, NoFlows: true, NoRentals: true})
	bare.Jobs = bare.Jobs[:3] // nobody rents, so nothing is idle
	rough := mixed("rough", "H100", 8, func(n *Node) { n.ResetMin = 66 }, Noise{Drop: 0.06, Dup: 0.03, Late: 0.08, Value: 0.03})
	for i := range rough.Nodes {
		rough.Nodes[i].OffsetMs = int64(i*3700 - 7000)
	}
	rough.Nodes[1].Silent = [][2]float64{{70, 95}}
	fast := mixed("one-second", "H100", 2, func(n *Node) { n.CadenceS = 1 }, Noise{})
	return []*Scenario{
		mixed("outofband", "H100", 8, func(n *Node) { n.OutOfBand = true; n.CadenceS = 30 }, Noise{}),
		mixed("counters-only", "H100", 8, func(n *Node) { n.See = "counters" }, Noise{NoHost: true, NoTap: true, NoFlows: true}),
		mixed("coarse", "A100", 8, func(n *Node) { n.CadenceS = 300 }, Noise{}),
		mixed("util-only", "A100", 8, func(n *Node) { n.See = "util"; n.CadenceS = 60 }, Noise{NoHost: true, NoFabric: true}),
		bare, odd, shared, rough, fast,
	}
}

// contracts look at orders and at who stands behind accounts.
func contracts() []*Scenario {
	s := &Scenario{Name: "contracts", Minutes: 120, Nodes: hosts("k", "H100", 6, 8, func(n *Node) { n.CadenceS = 60 })}
	for i := range s.Nodes {
		s.Nodes[i].Site = []string{"north", "south"}[i/4]
	}
	s.Nodes[5].Gbps = 100
	peak := func(gpus, minutes float64) float64 { p := parts["H100"]; return gpus * p.Peak16() * 60 * minutes }
	limit := peak(64, 1000) * 0.3 // 64 GPUs over 1000 min at 0.3
	s.Profiles = []Profile{{Name: "big", Limit: limit, Gbps: 400, OpsS: 989e12 * 20}}
	s.Special = []string{"XA", "XB"}
	o := func(id, account string, gpus int, amended, to float64, use string) {
		s.Orders = append(s.Orders, Order{ID: id, Account: account, Part: "H100", GPUs: gpus, Amended: amended, From: -60, To: to, Use: use})
	}
	o("plenty", "acc-chain", 128, -2000, 1200, "")
	o("small", "acc-chain", 4, -2000, 1200, "")
	o("renders", "acc-chain", 512, -2000, 1200, "Rendering")
	o("us", "acc-us", 512, -2000, 1200, "model training")
	o("grows", "acc-parent", 8, -2000, 1100, "model training")
	o("grows", "acc-parent", 256, 40, 1100, "model training")
	o("turns", "acc-reseller", 256, -2000, 2000, "inference serving")
	o("turns", "acc-reseller", 256, 61, 2000, "research")
	o("nobody", "acc-nobody", 256, 30, 2000, "training")
	o("cycle", "acc-cycle", 256, -100, 2000, "model training")
	o("minor", "acc-minor", 256, -100, 2000, "model training")
	o("refused", "acc-refused", 4, -100, 2000, "inference")
	o("shrinks", "acc-deep", 256, -2000, 1300, "training")
	o("shrinks", "acc-deep", 2, -1000, 1300, "training")
	owners := func(list string, parent, reseller string) string {
		q := func(v string) string {
			if v == "" {
				return "null"
			}
			return `"` + v + `"`
		}
		return fmt.Sprintf(`"beneficial_owners": [%s], "parent": %s, "reseller": %s`, list, q(parent), q(reseller))
	}
	s.Parties = []string{
		party("c0", "true", "US", "verified", []string{"acc-chain"}, owners(`{"party": "c1", "share": 0.3}, {"party": "c9", "share": 0.1}`, "", "")),
		party("c1", "true", "US", "verified", nil, owners(`{"party": "c2", "share": 0.25}`, "", "")),
		party("c2", "false", "XA", "verified", nil, ""),
		party("c9", "false", "XB", "verified", nil, ""),
		party("u0", "true", "US", "verified", []string{"acc-us"}, owners(`{"party": "c9", "share": 0.24}`, "", "")),
		party("g0", "true", "US", "verified", []string{"acc-parent"}, owners("", "g1", "")),
		party("g1", "null", "DE", "verified", nil, ""),
		party("r0", "true", "US", "verified", []string{"acc-reseller"}, owners("", "", "r1")),
		party("r1", "true", "US", "unverified", nil, ""),
		party("y0", "true", "US", "verified", []string{"acc-cycle"}, owners(`{"party": "y1", "share": 0.6}`, "", "")),
		party("y1", "true", "US", "verified", nil, owners(`{"party": "y0", "share": 0.6}`, "", "")),
		party("m0", "true", "US", "verified", []string{"acc-minor"}, owners(`{"party": "c2", "share": 0.249}`, "", "")),
		party("f0", "false", "SE", "refused", []string{"acc-refused"}, ""),
		party("d0", "true", "US", "verified", []string{"acc-deep"}, owners("", "d1", "")),
		party("d1", "true", "US", "verified", nil, owners("", "d2", "")),
		party("d2", "true", "US", "verified", nil, owners("", "d3", "")),
		party("d3", "true", "US", "verified", nil, owners("", "d4", "")),
		party("d4", "true", "US", "verified", nil, owners("", "d5", "")),
		party("d5", "true", "US", "verified", nil, owners("", "d6", "")),
		party("d6", "false", "XB", "verified", nil, ""),
	}
	s.Behind = map[string]Behind{
		"acc-chain": {InScope: true, Parties: []string{"c0", "c1", "c2"}, Special: true}, "acc-us": {Parties: []string{"u0"}},
		"acc-parent": {InScope: true, Parties: []string{"g0", "g1"}}, "acc-reseller": {InScope: true, Parties: []string{"r0", "r1"}},
		"acc-cycle": {Parties: []string{"y0", "y1"}}, "acc-minor": {Parties: []string{"m0"}}, "acc-refused": {InScope: true, Parties: []string{"f0"}, Refused: true},
		"acc-deep": {Parties: []string{"d0", "d1", "d2", "d3", "d4", "d5"}},
	}
	s.Jobs = []Job{
		{ID: "train", Work: dense(2e9, 32768), Exe: "python3", Launcher: "torchrun", Attempts: once("acc-chain", "", 6, 120, seats(8, "k0")...)},
		{ID: "rented", Work: server(8e9, 1, 32, 0.5), Exe: "vllm", Attempts: once("acc-chain", "", 6, 120, seats(8, "k1")...)},
		{ID: "far", Work: server(8e9, 1, 32, 0.5), Exe: "vllm", Attempts: once("acc-parent", "", 6, 120, seats(8, "k4")...)},
	}
	s.rent()
	s.Rentals = append(s.Rentals, Rental{"acc-chain", Seat{"k2", gpus(8)}, 33, 0}, Rental{"acc-parent", Seat{"k3", gpus(8)}, -5, 0}, Rental{"acc-parent", Seat{"k5", gpus(8)}, -5, 0})
	return []*Scenario{s}
}

// hard scenarios are those that a person would ask back about.
func hard() []*Scenario {
	a := &Scenario{Name: "dark-a100", Minutes: 130, Nodes: hosts("a", "A100", 4, 8, func(n *Node) { n.See = "nvml"; n.CadenceS = 30 }), Noise: Noise{NoProc: true, NoTap: true, NoFlows: true}}
	a.Jobs = []Job{
		{ID: "pair", Work: fsdp(6e9, 16384), Attempts: once("acc-1", "", 7, 125, seats(8, "a0", "a1")...)},
		{ID: "lone", Work: dense(1.3e9, 16384), Attempts: once("acc-1", "", 14, 130, seats(8, "a2")...)},
		{ID: "serve", Work: server(13e9, 1, 24, 0.5), Attempts: once("acc-2", "", 4, 130, seats(8, "a3")...)},
	}
	a.Profiles = []Profile{{Name: "low", Limit: 1e19}}

	b := &Scenario{Name: "outofband-restarts", Minutes: 210, Nodes: hosts("b", "H200", 5, 8, func(n *Node) { n.OutOfBand = true; n.CadenceS = 20 })}
	b.Jobs = []Job{
		{ID: "long", Work: fsdp(13e9, 40000), Sec: 200, Attempts: []Attempt{
			{From: 6, To: 75, Seats: seats(8, "b0", "b1", "b2"), Account: "acc-1"},
			{From: 80, To: 205, Seats: seats(8, "b0", "b1", "b3"), Account: "acc-1"},
		}},
		{ID: "sim", Work: Work{Kind: "hpc", CkptMin: 40}, Attempts: once("acc-2", "", 15, 180, seats(8, "b4")...)},
	}
	b.Profiles = []Profile{{Name: "low", Limit: 6e19}}

	c := &Scenario{Name: "torn-columns", Minutes: 130, Nodes: hosts("c", "H100", 3, 8, func(n *Node) { n.See = "gpm-old"; n.CadenceS = 45 }), Noise: Noise{Drop: 0.2, Late: 0.1, Columns: []string{"tensor_frac", "util_frac", "sm_clock_mhz", "energy_j_total"}}}
	tf32 := dense(1.5e9, 32768)
	tf32.DType = "tf32"
	c.Jobs = []Job{
		{ID: "tf32", Work: tf32, Exe: "python3", Attempts: once("acc-1", "", 6, 130, seats(8, "c0")...)},
		{ID: "serve", Work: server(13e9, 2, 24, 0.6), Exe: "python3", Attempts: once("acc-2", "", 4, 130, seats(8, "c1")...)},
		{ID: "sim", Work: Work{Kind: "hpc", Flow: "md"}, Exe: "sim", Attempts: once("acc-2", "", 9, 100, seats(8, "c2")...)},
	}
	c.Profiles = []Profile{{Name: "low", Limit: 6e18}}

	d := &Scenario{Name: "negatives", Minutes: 120, Nodes: hosts("d", "H100", 5, 8, nil)}
	wide := server(400e9, 8, 40, 0.8)
	wide.DType = "fp8"
	d.Jobs = []Job{
		{ID: "wide", Work: wide, Exe: "python3", Launcher: "ray", Attempts: once("acc-1", "", 5, 120, seats(8, "d0", "d1")...)},
		{ID: "links", Work: Work{Kind: "burn_in", Flow: "nccl"}, Exe: "all_reduce_perf", Launcher: "mpirun", World: true, Attempts: once("acc-1", "", 8, 60, seats(8, "d2", "d3")...)},
		{ID: "tf32-burn", Work: Work{Kind: "burn_in", DType: "tf32"}, Exe: "a.out", Attempts: once("acc-2", "", 10, 45, seats(8, "d4")...)},
		{ID: "first", Work: dense(1e9, 32768), Exe: "python3", Launcher: "torchrun", Attempts: once("acc-1", "", 64, 91, seats(8, "d2")...)},
		{ID: "second", Work: dense(1.4e9, 20000), Exe: "python3", Launcher: "torchrun", Attempts: once("acc-2", "", 97, 119, seats(8, "d2")...)},
		{ID: "pool", Work: Work{Kind: "batch_inference", Params: 70e9, TP: 8, Batch: 256, Load: 0.98, DType: "fp8"}, Exe: "python3", Attempts: once("acc-2", "", 66, 118, seats(8, "d3")...)},
	}
	d.Profiles = []Profile{{Name: "low", Limit: 1e18}}

	e := &Scenario{Name: "neighbours", Minutes: 110, Nodes: join(hosts("e", "B200", 2, 8, nil), hosts("r", "RTX", 2, 4, func(n *Node) { n.See = "dcgm"; n.Ethernet = true })), Noise: Noise{NoProc: true}}
	e.Jobs = []Job{
		{ID: "left", Work: dense(2e9, 32768), NoTap: true, Attempts: once("acc-1", "", 5, 110, seat("e0", 0, 1, 2, 3))},
		{ID: "right", Work: dense(2e9, 32768), NoTap: true, Attempts: once("acc-2", "", 5.2, 110, seat("e0", 4, 5, 6, 7))},
		{ID: "serve", Work: server(70e9, 8, 64, 0.7), Attempts: once("acc-1", "", 3, 110, seats(8, "e1")...)},
		{ID: "tune", Work: Work{Kind: "finetuning", Params: 1.5e9, ReplicaTok: 4096, DType: "bf16", LoRA: true, Overlap: 0.5}, Attempts: once("acc-2", "", 9, 80, seats(4, "r0")...)},
		{ID: "note", Work: Work{Kind: "notebook"}, Attempts: once("acc-2", "", 2, 110, seat("r1", 0))},
		{ID: "draw", Work: Work{Kind: "rendering"}, Attempts: once("acc-2", "", 12, 110, seat("r1", 1, 2, 3))},
	}
	e.Profiles = []Profile{{Name: "low", Limit: 2e19}}
	for _, s := range []*Scenario{a, b, c, d, e} {
		s.people([]string{"acc-1"}, []string{"acc-2"}).rent()
	}
	return []*Scenario{a, b, c, d, e}
}
