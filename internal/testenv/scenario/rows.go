package scenario

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// row is a line of a file; file order is order of arrival.
type row struct {
	arrivalMs int64
	text      string
}

type files struct{ gpu, host, fabric, flows, processes, collectives []row }

func newFiles() *files { return &files{} }

var gpuColumns = []string{
	"ts_ms", "node", "gpu", "util_frac", "mem_used_bytes", "power_w", "energy_j_total", "sm_clock_mhz", "sm_active_frac", "sm_occupancy_frac",
	"tensor_frac", "hmma_frac", "imma_frac", "dfma_frac", "fp64_frac", "fp32_frac", "fp16_frac", "int_frac", "dram_frac", "mma_cycles_total",
	"pcie_tx_bps", "pcie_rx_bps", "nvlink_tx_bps", "nvlink_rx_bps", "nvenc_frac", "nvdec_frac",
}

// seen lists the columns of gpu.csv that an agent can fill.
var seen = map[string]string{
	"gpm":      "*",
	"gpm-old":  "-mma_cycles_total",
	"dcgm":     "-mma_cycles_total",
	"nvml":     "util_frac mem_used_bytes power_w energy_j_total sm_clock_mhz pcie_tx_bps pcie_rx_bps nvlink_tx_bps nvlink_rx_bps nvenc_frac nvdec_frac",
	"util":     "util_frac mem_used_bytes",
	"power":    "power_w",
	"counters": "energy_j_total mma_cycles_total",
	"mig":      "mem_used_bytes sm_active_frac sm_occupancy_frac tensor_frac hmma_frac imma_frac dfma_frac fp64_frac fp32_frac fp16_frac int_frac dram_frac sm_clock_mhz",
	"none":     "",
}

func sees(see, column string) bool {
	list := seen[see]
	if list == "*" {
		return true
	}
	if strings.HasPrefix(list, "-") {
		return list[1:] != column
	}
	return slices.Contains(strings.Fields(list), column)
}

// put appends a row, unless it is lost; it may come late or twice.
func (f *fleet) put(dst *[]row, n *nodeState, ms int64, text string) {
	q := &f.s.Noise
	minute := float64(ms-startMs) / 60_000
	for _, w := range n.spec.Silent {
		if minute >= w[0] && minute < w[1] {
			return
		}
	}
	if q.Drop > 0 && n.rng.Float64() < q.Drop {
		return
	}
	at := ms
	if q.Late > 0 && n.rng.Float64() < q.Late {
		at += int64(20_000 + 200_000*n.rng.Float64())
	}
	*dst = append(*dst, row{at, text})
	if q.Dup > 0 && n.rng.Float64() < q.Dup {
		*dst = append(*dst, row{at + 1000, text})
	}
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

func whole(v float64) string { return strconv.FormatFloat(math.Round(v), 'f', 0, 64) }

func (f *fleet) sample(n *nodeState, t float64) {
	ms := startMs + int64(t*1000) + n.spec.OffsetMs + int64(40*n.rng.Float64())
	spread := f.s.Noise.Value
	if spread == 0 {
		spread = 0.012
	}
	noisy := func(v float64) float64 { return v * math.Max(0, 1+spread*n.rng.NormFloat64()) }
	for g := range n.gpus {
		x := &n.gpus[g]
		d := x.seconds
		frac := func(v float64) string { return number(math.Min(1, noisy(v/d))) }
		m := &x.sum
		hmma := m.tensor - m.imma - m.dfma
		values := map[string]string{
			"util_frac": frac(m.util), "mem_used_bytes": whole(x.memS/d + 4e6), "power_w": number(noisy(x.wattS / d)), "energy_j_total": whole(x.joules),
			"sm_clock_mhz": whole(x.mhzS / d), "sm_active_frac": frac(m.sm), "sm_occupancy_frac": frac(m.occ), "tensor_frac": frac(m.tensor),
			"hmma_frac": frac(math.Max(0, hmma)), "imma_frac": frac(m.imma), "dfma_frac": frac(m.dfma), "fp64_frac": frac(m.fp64), "fp32_frac": frac(m.fp32),
			"fp16_frac": frac(m.fp16), "int_frac": frac(m.integer), "dram_frac": frac(m.dram), "mma_cycles_total": whole(x.cycle),
			"pcie_tx_bps": whole(noisy(m.pcieTx / d)), "pcie_rx_bps": whole(noisy(m.pcieRx / d)), "nvlink_tx_bps": whole(noisy(m.nvlink / d)),
			"nvlink_rx_bps": whole(noisy(m.nvlink / d)), "nvenc_frac": frac(m.enc), "nvdec_frac": frac(m.dec),
		}
		if n.spec.Freeze > 0 && t > n.spec.Freeze*60 { // somebody rewrites what the driver says
			for _, c := range []string{"util_frac", "sm_active_frac", "tensor_frac", "hmma_frac", "dram_frac", "fp32_frac", "fp16_frac", "int_frac", "nvlink_tx_bps", "nvlink_rx_bps"} {
				values[c] = "0"
			}
			values["power_w"], values["energy_j_total"] = number(noisy(n.part.IdleW)), ""
			values["mma_cycles_total"] = ""
		}
		line := []string{strconv.FormatInt(ms, 10), n.spec.Name, strconv.Itoa(g)}
		any := false
		for _, c := range gpuColumns[3:] {
			v := values[c]
			if !sees(n.spec.See, c) || slices.Contains(f.s.Noise.Columns, c) || (strings.HasPrefix(c, "nvlink") && n.part.NVLinkBps == 0) {
				v = ""
			}
			any = any || v != ""
			line = append(line, v)
		}
		if any && !n.spec.OutOfBand {
			f.put(&f.out.gpu, n, ms, strings.Join(line, ","))
		}
		joules, cycle, gain := x.joules, x.cycle, x.gain
		*x = gpuState{joules: joules, cycle: cycle, gain: gain}
	}
	if !n.spec.NoHost && !f.s.Noise.NoHost && n.secs > 0 {
		f.put(&f.out.host, n, ms, fmt.Sprintf("%d,%s,%s,%s,%s,%s", ms, n.spec.Name, whole(noisy(n.host/n.secs)), number(0.05+0.05*n.rng.Float64()), whole(n.storageTx/n.secs), whole(n.storageRx/n.secs)))
	}
	n.host, n.secs, n.storageTx, n.storageRx = 0, 0, 0, 0
	if n.spec.NoFabric || f.s.Noise.NoFabric {
		return
	}
	if !n.spec.Ethernet {
		for port := range 2 {
			f.put(&f.out.fabric, n, ms+int64(port), fmt.Sprintf("%d,%s,mlx5_%d,infiniband,%s,%s", ms+int64(port), n.spec.Name, port, whole(n.fabric/2), whole(n.fabric/2*1.003)))
		}
	}
	kind := "ethernet"
	if n.spec.OutOfBand {
		kind = "vf"
	}
	f.put(&f.out.fabric, n, ms+3, fmt.Sprintf("%d,%s,eth0,%s,%s,%s", ms+3, n.spec.Name, kind, whole(n.eth), whole(n.eth*0.4)))
}

// processes writes the rows of an attempt's processes.
func (f *fleet) processes(r *running) {
	if r.job.NoProc || f.s.Noise.NoProc {
		return
	}
	from, to := f.s.ms(r.att.From), ""
	if r.att.To < f.s.Minutes {
		to = strconv.FormatInt(f.s.ms(r.att.To), 10)
	}
	per := 1 // GPUs of a process
	if r.job.Work.Kind == "inference" || r.job.Work.Kind == "batch_inference" {
		per = max(1, r.job.Work.TP)
	}
	for i := 0; i < len(r.seats); i += per {
		p := &r.seats[i]
		n := f.nodes[p.node]
		if n.spec.OutOfBand || n.spec.See == "none" {
			continue
		}
		var gpus []string
		for k := i; k < min(i+per, len(r.seats)); k++ {
			gpus = append(gpus, strconv.Itoa(r.seats[k].gpu))
			r.seats[k].pid = p.pid
		}
		world, rank := "", ""
		if r.job.World {
			world, rank = strconv.Itoa(len(r.seats)), strconv.Itoa(i)
		}
		job := r.att.JobID
		f.put(&f.out.processes, n, from+int64(i), fmt.Sprintf("%d,%s,%s,%s,%d,%s,%s,%s,%s,%s,,%s,%s", from+int64(i)*7, to, n.spec.Name, strings.Join(gpus, " "), p.pid,
			r.job.Exe, r.job.Launcher, r.job.Source, job, r.job.User, world, rank))
	}
}

// tap writes collectives and flows of the last minute.
func (f *fleet) tap(r *running, t float64) {
	for i := range r.seats {
		p := &r.seats[i]
		n := f.nodes[p.node]
		if r.job.NoTap || f.s.Noise.NoTap || n.spec.OutOfBand || n.spec.See == "none" {
			break
		}
		e := r.engines[p.engine]
		for k, o := range e.ops {
			if o.nranks < 2 {
				continue
			}
			on := r.opTime[o.phase]
			if r.job.Work.Kind == "inference" || r.job.Work.Kind == "batch_inference" {
				on = r.load
			}
			calls := math.Round(o.calls * on)
			if calls < 1 {
				continue
			}
			ms := startMs + int64(t*1000) + n.spec.OffsetMs + int64(20*p.rank) + int64(k)
			f.put(&f.out.collectives, n, ms, fmt.Sprintf("%d,%s,%d,%d,%s,%d,%d,%s,%s,%s", ms, n.spec.Name, p.pid, p.gpu, hash(f.s.Seed, r.job.ID, r.att.From, p.engine, o.group(p.rank)), o.nranks, p.rank%o.nranks, o.name, whole(calls), whole(calls*o.bytes/o.calls)))
		}
	}
	r.opTime, r.load = [3]float64{}, 0
	if f.s.Noise.NoFlows {
		return
	}
	for _, seat := range r.att.Seats {
		n := f.nodes[f.at[seat.Node]]
		ms := startMs + int64(t*1000) + n.spec.OffsetMs + 55
		for _, peer := range r.att.Seats {
			if b := r.flow[[2]string{seat.Node, peer.Node}]; b > 0 {
				f.put(&f.out.flows, n, ms, fmt.Sprintf("%d,%s,%s,%s", ms, seat.Node, peer.Node, whole(b)))
			}
		}
		b := r.wan[seat.Node]
		if b <= 0 {
			continue
		}
		peers := 9
		if r.job.Work.Kind == "batch_inference" {
			peers = 2
		}
		for k := range peers {
			host := k
			if peers > 2 {
				host = n.rng.IntN(180)
			}
			f.put(&f.out.flows, n, ms, fmt.Sprintf("%d,%s,198.51.100.%d,%s", ms, seat.Node, host+1, whole(b/float64(peers))))
		}
	}
	clear(r.flow)
	clear(r.wan)
}
