package drawn

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/flopwatch/flopwatch/internal/bundle"
)

// Write leaves the recording in dir.
func (c *Recording) Write(dir string) error {
	w := c.world
	files := map[string][]byte{
		"nodes.csv": w.nodeRows(), "gpu.csv": w.gpuRows(), "host.csv": w.hostRows(), "fabric.csv": w.fabricRows(), "flows.csv": w.flowRows(),
		"processes.csv": w.processRows(), "collectives.csv": w.collectiveRows(), "allocations.csv": w.allocationRows(), "orders.csv": w.orderRows(), "parties.jsonl": w.partyLines(),
	}
	var err error
	if files["manifest.json"], err = json.MarshalIndent(w.manifest(), "", " "); err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	if files["truth.json"], err = json.MarshalIndent(w.truth(), "", " "); err != nil {
		return fmt.Errorf("encode truth: %w", err)
	}
	for name, data := range files {
		if data == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return fmt.Errorf("write recording: %w", err)
		}
	}
	return nil
}

func (w *world) manifest() map[string]any {
	m := map[string]any{
		"format": bundle.Format, "cluster": w.cluster, "start_ms": w.startMs, "end_ms": w.ms(w.length),
		"description": "Drawn from priors: family " + w.family, "source": "internal/testenv/drawn (simulated)",
	}
	if len(w.profile) > 0 {
		m["profiles"] = w.profile
	}
	if w.special != nil {
		m["special_jurisdictions"] = w.special
	}
	return m
}

// ms is Unix time of the world's clock.
func (w *world) ms(s float64) int64 { return w.startMs + int64(math.Round(s*1000)) }

// end is a time that may be open.
func (w *world) end(s, skew float64) string {
	if s < 0 {
		return ""
	}
	return strconv.FormatInt(w.ms(s+skew), 10)
}

// line is a row and when it arrives.
type line struct {
	at    float64
	order int
	text  string
}

// table gathers rows; late ones move back, some come twice, some never.
type table struct {
	header string
	rows   []line
}

func (t *table) add(at float64, fields ...string) {
	t.rows = append(t.rows, line{at, len(t.rows), strings.Join(fields, ",") + "\n"})
}

func (t *table) bytes() []byte {
	if len(t.rows) == 0 {
		return nil
	}
	slices.SortFunc(t.rows, func(a, b line) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.order, b.order)) })
	var b bytes.Buffer
	b.WriteString(t.header + "\n")
	for _, r := range t.rows {
		b.WriteString(r.text)
	}
	return b.Bytes()
}

// deliver adds a sample with the accidents of a network.
func (w *world) deliver(r *rng, t *table, at float64, fields ...string) {
	if r.chance(w.tele.lost) {
		return
	}
	delay := 0.0
	if r.chance(w.tele.late) {
		delay = r.logUniform(5, 900)
	}
	t.add(at+delay, fields...)
	if r.chance(w.tele.twice) {
		t.add(at+delay+r.uniform(0, 60), fields...)
	}
}

func num(v float64, digits int) string {
	if math.IsNaN(v) {
		return ""
	}
	return strconv.FormatFloat(v, 'g', digits, 64)
}

func whole(v float64) string { return strconv.FormatFloat(math.Round(v), 'f', 0, 64) }

func (w *world) nodeRows() []byte {
	t := table{header: "node,site,gpu_model,gpu_count,fabric_gbps,vantage,tdp_w"}
	for i, n := range w.nodes {
		tdp := ""
		if n.listedTDP && n.si.known {
			tdp = whole(n.si.tdp)
		}
		gbps := num(n.listedGbps, 6)
		t.add(float64(i), n.name, n.site, n.listed, strconv.Itoa(len(n.gpus)), gbps, n.vantage, tdp)
	}
	return t.bytes()
}

// ticks are the sampling times of a source, on the world's clock.
func (w *world) ticks(r *rng, every float64) []float64 {
	var out []float64
	at := r.uniform(0, every)
	for at < w.length {
		out = append(out, at+every*w.tele.jitter*(r.Float64()-0.5))
		at += every
	}
	return out
}

// dead reports whether the agent is silent.
func (n *node) dead(at float64) bool { return at >= n.deadFrom && at < n.deadTo }

// look is what a GPU shows over [a, b].
type look struct {
	sig
	watts, clock, mem float64
}

func (g *gpu) look(a, b float64) look {
	x := look{sig: g.over(a, b)}
	d := b - a
	for i := range x.sig {
		x.sig[i] /= d
	}
	if over := x.sig[sBusy]; over > 1 {
		x.sig[sBusy], x.sig[sClock] = 1, x.sig[sClock]/over
	}
	si := &g.node.si
	x.clock = x.sig[sClock] + (1-x.sig[sBusy])*si.idleMHz
	x.watts = min(si.idleW+x.sig[sPower], max(si.capW, si.idleW))
	x.mem = min(si.residue+x.sig[sMem], si.mem())
	return x
}

var gauges = map[bundle.GPUValue]int{
	bundle.UtilFrac: sUtil, bundle.SMActiveFrac: sSM, bundle.SMOccupancyFrac: sOcc, bundle.TensorFrac: sTensor, bundle.HMMAFrac: sHMMA, bundle.IMMAFrac: sIMMA,
	bundle.DFMAFrac: sDFMA, bundle.FP64Frac: sFP64, bundle.FP32Frac: sFP32, bundle.FP16Frac: sFP16, bundle.IntFrac: sInt, bundle.DRAMFrac: sDRAM,
	bundle.PCIeTxBps: sPCIeTx, bundle.PCIeRxBps: sPCIeRx, bundle.NVLinkTxBps: sNVTx, bundle.NVLinkRxBps: sNVRx, bundle.NVEncFrac: sEnc, bundle.NVDecFrac: sDec,
}

func (w *world) gpuRows() []byte {
	t := table{header: "ts_ms,node,gpu," + strings.Join(bundle.GPUColumns[:], ",")}
	for _, n := range w.nodes {
		if !slices.Contains(n.columns[:], true) {
			continue
		}
		r := w.stream("gpu " + n.name)
		ticks := w.ticks(r, w.tele.cadence)
		reset := -1.0
		if r.chance(w.tele.resets) {
			reset = r.uniform(0.1, 0.9) * w.length
		}
		for _, g := range n.gpus {
			w.gpuSeries(r, &t, g, ticks, reset)
		}
	}
	return t.bytes()
}

func (w *world) gpuSeries(r *rng, t *table, g *gpu, ticks []float64, reset float64) {
	n := g.node
	joules, cycles := r.uniform(0, 3e9), r.uniform(0, 3e15)
	last := ticks[0] - w.tele.cadence
	fields := make([]string, 3+bundle.NumGPUValues)
	fields[1], fields[2] = n.name, strconv.Itoa(g.index)
	for _, at := range ticks {
		if at <= last {
			continue
		}
		x := g.look(last, at)
		act, nrg := 1.0, 1.0
		if f := n.tamper; f != nil && at >= f.from && at < f.to {
			act, nrg = f.activity, f.energy
		}
		if reset >= last && reset < at {
			joules, cycles = 0, 0
		}
		joules += x.watts * (at - last) * nrg
		cycles += x.sig[sCycles] * (at - last) * act
		now := x
		if w.tele.instant && at-last > 1.5 {
			now = g.look(at-1, at)
		}
		last = at
		if n.dead(at) {
			continue
		}
		for v := range bundle.NumGPUValues {
			f := &fields[3+int(v)]
			*f = ""
			if !n.columns[v] {
				continue
			}
			switch v {
			case bundle.PowerW:
				*f = num(now.watts*nrg*r.factor(0.004+w.tele.noise/4), 5)
			case bundle.EnergyJTotal:
				*f = whole(joules)
			case bundle.MMACyclesTotal:
				*f = whole(cycles)
			case bundle.SMClockMHz:
				*f = whole(now.clock)
			case bundle.MemUsedBytes:
				*f = whole(now.mem)
			case bundle.PCIeTxBps, bundle.PCIeRxBps, bundle.NVLinkTxBps, bundle.NVLinkRxBps:
				*f = whole(x.sig[gauges[v]] * r.factor(w.tele.noise))
			default:
				y := x.sig[gauges[v]] * r.factor(w.tele.noise)
				if v != bundle.UtilFrac {
					y *= act
				}
				*f = num(min(1, max(0, math.Round(y*1e5)/1e5)), 6)
			}
		}
		fields[0] = strconv.FormatInt(w.ms(at+n.skew), 10)
		w.deliver(r, t, at, fields...)
	}
}

func (w *world) hostRows() []byte {
	t := table{header: "ts_ms,node,power_w,cpu_frac,storage_tx_bps,storage_rx_bps"}
	for _, n := range w.nodes {
		r := w.stream("host " + n.name)
		ticks := w.ticks(r, max(10, w.tele.cadence))
		last := ticks[0] - 10
		cpuSeen, storageSeen := n.vantage == "host" && r.chance(0.8), n.vantage == "host" && r.chance(0.7)
		for _, at := range ticks {
			if at <= last {
				continue
			}
			var all sig
			watts := n.baseW
			for _, g := range n.gpus {
				x := g.look(last, at)
				all.add(&x.sig, 1)
				watts += x.watts
			}
			last = at
			cpu := min(1, 0.01+all[sCPU])
			watts = (watts + cpu*n.cpuW) / n.psu
			fields := []string{strconv.FormatInt(w.ms(at+n.skew), 10), n.name, "", "", "", ""}
			if w.tele.hostPower {
				fields[2] = whole(watts * r.factor(0.006))
			}
			if cpuSeen && !n.dead(at) {
				fields[3] = num(math.Round(cpu*1e4)/1e4, 5)
			}
			if storageSeen && !n.dead(at) {
				fields[4], fields[5] = whole(all[sStTx]), whole(all[sStRx])
			}
			if fields[2]+fields[3]+fields[4] != "" {
				w.deliver(r, &t, at, fields...)
			}
		}
	}
	return t.bytes()
}

// withBursts adds ten seconds of five samples a second every ten minutes.
func withBursts(ticks []float64, first, length float64) []float64 {
	for at := first; at < length; at += 600 {
		for i := range 50 {
			ticks = append(ticks, at+0.2*float64(i))
		}
	}
	slices.Sort(ticks)
	return ticks
}

func (w *world) fabricRows() []byte {
	t := table{header: "ts_ms,node,port,kind,tx_bytes_total,rx_bytes_total"}
	if !w.tele.fabricRows {
		return nil
	}
	for _, n := range w.nodes {
		r := w.stream("fabric " + n.name)
		ticks := w.ticks(r, w.tele.fabricEvery)
		last := ticks[0] - w.tele.fabricEvery
		if w.tele.bursts && n.vantage == "host" {
			ticks = withBursts(ticks, r.uniform(0, 300), w.length)
		}
		type port struct {
			name, kind string
			tx, rx     float64
			share      float64
		}
		var ports []port
		if n.fabric > 0 {
			for i := range n.ports {
				ports = append(ports, port{fmt.Sprintf("mlx5_%d", i), n.kind, r.uniform(0, 1e15), r.uniform(0, 1e15), 1 / float64(n.ports)})
			}
		}
		ports = append(ports, port{"eth0", "ethernet", r.uniform(0, 1e14), r.uniform(0, 1e14), 0})
		if n.vantage == "outofband" {
			for i := range ports {
				ports[i].kind = "vf"
			}
		}
		chatter := r.logUniform(1e3, 2e6)
		for _, at := range ticks {
			if at <= last {
				continue
			}
			var all sig
			for _, g := range n.gpus {
				x := g.over(last, at)
				all.add(&x, 1)
			}
			d := at - last
			last = at
			for i := range ports {
				q := &ports[i]
				q.tx += all[sFabTx] * q.share
				q.rx += all[sFabRx] * q.share
				if q.share == 0 {
					q.tx += all[sOutTx] + all[sWan] + all[sStTx]*0.02 + chatter*d*r.factor(0.3)
					q.rx += all[sOutTx]*0.1 + all[sWan] + chatter*d*r.factor(0.3)
					if n.fabric == 0 {
						q.tx += all[sFabTx]
						q.rx += all[sFabRx]
					}
				}
				if !n.dead(at) {
					w.deliver(r, &t, at, strconv.FormatInt(w.ms(at+n.skew), 10), n.name, q.name, q.kind, whole(q.tx), whole(q.rx))
				}
			}
		}
	}
	return t.bytes()
}

func (w *world) flowRows() []byte {
	t := table{header: "ts_ms,node,peer,tx_bytes"}
	if !w.tele.flows {
		return nil
	}
	for _, n := range w.nodes {
		r := w.stream("flows " + n.name)
		outside := make([]string, r.between(2, 6))
		for i := range outside {
			outside[i] = fmt.Sprintf("%s.%d", pick(r, "203.0.113", "198.51.100"), r.between(1, 250))
		}
		last := 0.0
		for _, at := range w.ticks(r, w.tele.slow) {
			if at <= last {
				continue
			}
			sent := map[string]float64{}
			for _, g := range n.gpus {
				for i := range g.pieces {
					q := &g.pieces[i]
					from, to := max(last, q.from), min(at, q.to)
					if to <= from {
						continue
					}
					var x sig
					q.src.integral(from, to, 1, &x)
					for _, p := range q.peers {
						sent[p.name] += (x[sFabTx] + x[sWan]) * p.share
					}
					for _, o := range outside {
						sent[o] += x[sOutTx] / float64(len(outside))
					}
				}
			}
			last = at
			if n.dead(at) {
				continue
			}
			names := make([]string, 0, len(sent))
			for p := range sent {
				names = append(names, p)
			}
			slices.Sort(names)
			for _, p := range names {
				if sent[p] >= 1 {
					w.deliver(r, &t, at, strconv.FormatInt(w.ms(at+n.skew), 10), n.name, p, whole(sent[p]*r.factor(0.01)))
				}
			}
		}
	}
	return t.bytes()
}

func list(of []int) string {
	s := make([]string, len(of))
	for i, x := range of {
		s[i] = strconv.Itoa(x)
	}
	return strings.Join(s, " ")
}

func count(v int) string {
	if v < 0 {
		return ""
	}
	return strconv.Itoa(v)
}

// shown reports whether a process is seen, and how.
func (w *world) shown(r *rng, p *proc) (visible, generic bool) {
	part := r.chance(0.5)
	switch w.tele.processes {
	case "absent":
		return false, false
	case "partial":
		return part && !p.hidden, false
	case "generic":
		return !p.hidden, true
	}
	return !p.hidden, false
}

func (w *world) processRows() []byte {
	t := table{header: "start_ms,end_ms,node,gpus,pid,exe,launcher,job_source,job_id,user,project,world_size,rank"}
	r := w.stream("processes")
	for _, p := range w.procs {
		visible, generic := w.shown(r, p)
		if !visible {
			continue
		}
		exe, launcher, worldSize, rank := p.exe, p.launcher, count(p.world), count(p.rank)
		if generic {
			exe, launcher, worldSize, rank = pick(r, "python3", "python3", "python", "main", "run"), "", "", ""
		}
		t.add(p.from, strconv.FormatInt(w.ms(p.from+p.node.skew+r.uniform(0, 2)), 10), w.end(p.to, p.node.skew+2), p.node.name, list(p.gpus), strconv.Itoa(p.pid), exe, launcher,
			p.source, p.job, p.user, p.project, worldSize, rank)
	}
	return t.bytes()
}

func (w *world) collectiveRows() []byte {
	t := table{header: "ts_ms,node,pid,gpu,comm,nranks,rank,op,calls,bytes"}
	if w.tele.collectives == "absent" {
		return nil
	}
	r := w.stream("collectives")
	for _, p := range w.procs {
		if w.tele.collectives == "partial" && r.chance(0.5) {
			continue
		}
		for _, c := range p.comms {
			for at := c.from + r.uniform(0, w.tele.slow); at < c.to; at += w.tele.slow {
				if p.node.dead(at) {
					continue
				}
				d := min(w.tele.slow, at-c.from)
				w.deliver(r, &t, at, strconv.FormatInt(w.ms(at+p.node.skew), 10), p.node.name, strconv.Itoa(p.pid), strconv.Itoa(c.gpu), c.id, strconv.Itoa(c.nranks), strconv.Itoa(c.rank),
					c.op, whole(c.calls*d), whole(c.bytes*d))
			}
		}
	}
	return t.bytes()
}

func (w *world) allocationRows() []byte {
	t := table{header: "account,node,gpus,start_ms,end_ms"}
	if !w.tele.allocations {
		return nil
	}
	for _, a := range w.rentals {
		t.add(a.from, a.account, a.node.name, list(a.gpus), strconv.FormatInt(w.ms(a.from), 10), w.end(a.to, 0))
	}
	return t.bytes()
}

func (w *world) orderRows() []byte {
	t := table{header: "order,account,amended_ms,gpu_model,gpu_count,fabric_gbps,start_ms,end_ms,declared_use"}
	for _, o := range w.orders {
		for _, v := range o.versions {
			gbps := ""
			if v.gbps > 0 {
				gbps = num(v.gbps, 6)
			}
			t.add(v.at, o.id, o.account, strconv.FormatInt(w.ms(v.at), 10), v.model, strconv.Itoa(v.count), gbps, strconv.FormatInt(w.ms(v.from), 10), w.end(v.to, 0), v.use)
		}
	}
	return t.bytes()
}

func (w *world) partyLines() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for _, p := range w.parties {
		if err := e.Encode(p); err != nil {
			return nil // cannot be: plain values
		}
	}
	return b.Bytes()
}
