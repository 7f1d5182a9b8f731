package loadgen

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"strconv"

	"github.com/flopwatch/flopwatch/internal/wire"
)

// rng is a small generator of noise: what is drawn of it need not be unpredictable.
type rng uint64

func (r *rng) next() uint64 {
	x := uint64(*r)
	x ^= x << 13
	x ^= x >> 7
	x ^= x << 17
	*r = rng(x)
	return x * 0x2545F4914F6CDD1D
}

// below is a number from 0 to n-1.
func (r *rng) below(n int64) int64 {
	high, _ := bits.Mul64(r.next(), uint64(n))
	return int64(high)
}

// about is base with noise of at most spread to either side, small noise more often.
func (r *rng) about(base, spread int64) int64 {
	x := r.next()
	a, b := int64(x&0xFFFF), int64(x>>16&0xFFFF)
	return base + (a-b)*spread>>16
}

// work is what a host's GPUs do.
type work uint8

const (
	idle work = iota
	inference
	training
)

// level is what the GPUs of a work show: its middle and its noise.
type level struct {
	util, memGiB, powerMW, clock, active, occupancy, tensor, fp32, fp16, ints, dram, pcie, nvlink, temp [2]int64
	mma, port                                                                                           int64 // a second: cycles of tensor cores, bytes of a port
}

var levels = [...]level{
	idle: {
		util: [2]int64{0, 0}, memGiB: [2]int64{0, 0}, powerMW: [2]int64{72_000, 900}, clock: [2]int64{345, 0}, temp: [2]int64{31, 1},
		pcie: [2]int64{2_000, 900},
	},
	inference: {
		util: [2]int64{7_400, 1_400}, memGiB: [2]int64{66, 0}, powerMW: [2]int64{410_000, 40_000}, clock: [2]int64{1980, 0}, active: [2]int64{5_600, 700},
		occupancy: [2]int64{1_900, 300}, tensor: [2]int64{1_100, 260}, fp32: [2]int64{480, 90}, fp16: [2]int64{310, 70}, ints: [2]int64{520, 90},
		dram: [2]int64{5_600, 600}, pcie: [2]int64{48_000_000, 9_000_000}, nvlink: [2]int64{2_100_000_000, 500_000_000}, temp: [2]int64{49, 1},
		mma: 190_000_000 * 32, port: 3_000_000,
	},
	training: {
		util: [2]int64{10_000, 0}, memGiB: [2]int64{74, 0}, powerMW: [2]int64{640_000, 24_000}, clock: [2]int64{1755, 30}, active: [2]int64{8_600, 160},
		occupancy: [2]int64{3_300, 70}, tensor: [2]int64{5_200, 170}, fp32: [2]int64{700, 30}, fp16: [2]int64{150, 10}, ints: [2]int64{900, 40},
		dram: [2]int64{4_300, 130}, pcie: [2]int64{310_000_000, 20_000_000}, nvlink: [2]int64{91_000_000_000, 4_000_000_000}, temp: [2]int64{61, 1},
		mma: 900_000_000 * 32, port: 11_000_000_000,
	},
}

// device is a GPU's counters.
type device struct {
	uuid                    string
	energyMJ, mma, cycles   int64
	pcieTx, pcieRx          int64
	nvlinkTxKiB, nvlinkRKiB int64
	cappedNs                int64
}

// port is a network port's counters.
type port struct {
	name, kind     string
	rate           int64
	tx, rx, tp, rp int64
}

// job is what runs on a host.
type job struct {
	id, user, project string
	startMs           int64
	pid               int64
	ends              uint64 // tick
	work              work
	told              bool
}

// host is an invented host and its counters. It belongs to one goroutine at a time.
type host struct {
	name   string
	every  int64 // milliseconds a tick
	rng    rng
	bootMs int64 // Unix time of the boot
	gpus   []device
	ports  []port
	job    job
	before job // ended, and not told yet
	jobs   int64
	plain  bool // samples of GPUs alone
}

// newHost invents a host of a name; the same seed and name make the same host.
func newHost(cfg *Config, name string, nowMs int64) *host {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%d/%s/%s", cfg.Seed, cfg.Cluster, name)))
	h := &host{
		name: name, every: cfg.tick().Milliseconds(), rng: rng(binary.LittleEndian.Uint64(sum[:]) | 1), plain: cfg.Plain,
		bootMs: nowMs - 86_400_000*int64(1+sum[8]%40),
	}
	for g := range cfg.GPUs {
		s := sha256.Sum256(append(sum[:], byte(g)))
		x := hex.EncodeToString(s[:16])
		h.gpus = append(h.gpus, device{
			uuid: "GPU-" + x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:], energyMJ: h.rng.below(1 << 46), mma: h.rng.below(1 << 58), cycles: h.rng.below(1 << 52),
		})
		h.ports = append(h.ports, port{name: "mlx5_" + strconv.Itoa(g) + "/1", kind: "infiniband", rate: 400_000, tx: h.rng.below(1 << 50), rx: h.rng.below(1 << 50)})
	}
	h.ports = append(h.ports, port{name: "eth0", kind: "ethernet", rate: 100_000, tx: h.rng.below(1 << 45), rx: h.rng.below(1 << 45)})
	h.next(1, nowMs)
	return h
}

// next begins another job at a tick.
func (h *host) next(tick uint64, nowMs int64) {
	h.jobs++
	j := job{work: training, ends: tick + uint64((1_800_000+h.rng.below(28_800_000))/h.every), startMs: nowMs, pid: 10_000 + h.rng.below(4_000_000)}
	switch x := h.rng.below(100); {
	case x < 20:
		j.work = idle
	case x < 40:
		j.work = inference
	}
	owner := h.rng.below(400)
	j.id, j.user, j.project = strconv.FormatInt(100_000+h.rng.below(900_000), 10), "user"+strconv.FormatInt(owner, 10), "team"+strconv.FormatInt(owner%40, 10)
	h.before, h.job = h.job, j
}

// tables are builders for each table that a host sends, in the order of the agent's own: by
// kind, then source.
type tables struct {
	gpu, host, fabric, process, collective, device, status, health, event, hold, tcp, checkpoint, rdma, gpuFact, fact *wire.Builder

	all []*wire.Builder
	out []wire.Table
}

func newTables() *tables {
	t := &tables{}
	add := func(at **wire.Builder, kind wire.Kind, src wire.Source, other wire.Source, fields ...uint8) {
		b := wire.NewBuilder(kind, src)
		for _, f := range fields {
			b.SetSource(f, other)
		}
		*at = b
		t.all = append(t.all, b)
	}
	span := func(from, to uint8, more ...uint8) []uint8 {
		for f := from; f <= to; f++ {
			more = append(more, f)
		}
		return more
	}
	add(&t.gpu, wire.KindGPU, wire.SourceNVML, wire.SourceGPM, span(15, 30, 32, 37)...)
	add(&t.host, wire.KindHost, wire.SourceProcfs, wire.SourceProcfs)
	add(&t.fabric, wire.KindFabric, wire.SourceSysfs, wire.SourceSysfs)
	add(&t.process, wire.KindProcess, wire.SourceProcfs, wire.SourceDeclared, 14, 15, 17, 18, 19, 22, 23, 24)
	t.process.SetSource(11, wire.SourceNVML)
	add(&t.collective, wire.KindCollective, wire.SourceEBPF, wire.SourceEBPF)
	add(&t.device, wire.KindDevice, wire.SourceNVML, wire.SourceNVML)
	add(&t.status, wire.KindStatus, wire.SourceDeclared, wire.SourceDeclared)
	add(&t.health, wire.KindHealth, wire.SourceNVML, wire.SourceGPM, span(41, 51)...)
	add(&t.event, wire.KindEvent, wire.SourceNVML, wire.SourceNVML)
	add(&t.hold, wire.KindHold, wire.SourceDeclared, wire.SourceDeclared)
	add(&t.tcp, wire.KindTCP, wire.SourceEBPF, wire.SourceEBPF)
	add(&t.checkpoint, wire.KindCheckpoint, wire.SourceEBPF, wire.SourceEBPF)
	add(&t.rdma, wire.KindRDMA, wire.SourceNetlink, wire.SourceNetlink)
	add(&t.gpuFact, wire.KindFact, wire.SourceNVML, wire.SourceNVML)
	add(&t.fact, wire.KindFact, wire.SourceProcfs, wire.SourceProcfs)
	return t
}

// build returns the tables that have rows, and how many they have. They are good until reset.
func (t *tables) build() (out []wire.Table, rows, samples int) {
	t.out = t.out[:0]
	for _, b := range t.all {
		if b.Rows() > 0 {
			t.out = append(t.out, *b.Build())
			rows += b.Rows()
		}
	}
	return t.out, rows, t.gpu.Rows()
}

func (t *tables) reset() {
	for _, b := range t.all {
		if b.Rows() > 0 {
			b.Reset()
		}
	}
	clear(t.out)
}

// due reports whether something that comes every so many seconds comes at a tick, or has its
// first time. Hosts and things differ in when.
func (h *host) due(tick uint64, seconds int64, stagger int) bool {
	every := uint64(max(seconds*1000/h.every, 1))
	return tick == 1 || (tick+uint64(stagger)+uint64(len(h.name))*7)%every == 0
}

// draw adds the rows of the ticks from..to, of which the last is at lastMs. The error is a row
// that the contract does not let through.
func (h *host) draw(t *tables, from, to uint64, lastMs int64) (err error) {
	row := func(b *wire.Builder, fill func()) {
		b.Begin()
		fill()
		if rerr := b.End(); rerr != nil && err == nil {
			err = fmt.Errorf("invent a row of %s: %w", b.Kind(), rerr)
		}
	}
	at := func(tick uint64) int64 { return lastMs - int64(to-tick)*h.every }
	if h.job.ends <= to {
		h.next(to, lastMs)
	}
	l := &levels[h.job.work]
	for g := range h.gpus {
		for tick := from; tick <= to; tick++ {
			row(t.gpu, func() { h.sample(t.gpu, l, g, at(tick)) })
		}
	}
	if h.plain {
		return err
	}
	for p := range h.ports {
		for tick := from; tick <= to; tick++ {
			row(t.fabric, func() { h.port(t.fabric, l, p, at(tick), h.due(tick, 10, p)) })
		}
	}
	for tick := from; tick <= to; tick++ {
		ms := at(tick)
		if h.due(tick, 5, 0) {
			row(t.host, func() {
				t.host.SetInt(1, ms)
				t.host.SetInt(4, ms-h.bootMs)
				t.host.SetInt(11, h.rng.about(900+1_100*int64(h.job.work), 150))
				t.host.SetInt(12, h.rng.below(1+20_000_000*int64(h.job.work)))
				t.host.SetInt(13, h.rng.below(1+90_000_000*int64(h.job.work)))
			})
		}
		for g := range h.gpus {
			if h.due(tick, 20, g) {
				row(t.health, func() { h.vitals(t.health, l, g, ms) })
			}
			if h.due(tick, 300, g*5) {
				row(t.device, func() { h.describe(t.device, g, ms) })
			}
			if h.rng.next()>>42 == 0 { // one in four million: a GPU has an error in two months
				row(t.event, func() {
					b := t.event
					b.SetInt(1, ms)
					b.SetStr(2, h.gpus[g].uuid)
					b.SetInt(3, int64(g))
					b.SetStr(4, "xid")
					b.SetInt(5, 31)
					b.SetInt(10, 1)
				})
			}
		}
		h.rare(t, row, tick, ms)
	}
	return err
}

// significant rounds a rate to its first 12 bits, as the agent does.
func significant(v int64) int64 {
	n := bits.Len64(uint64(max(v, 0))) - 12
	if n <= 0 {
		return max(v, 0)
	}
	return (v + 1<<(n-1)) >> n << n
}

func e4(v int64) int64 { return min(max(v, 0), 10_000) }

// The steps to which the agent rounds what sensors and counters say.
const (
	powerStepMW  = 100
	energyStepMJ = 1000
	cycleStep    = 1 << 22
)

// sample is one of a GPU, all that an H100 with a performance monitor gives.
func (h *host) sample(b *wire.Builder, l *level, g int, ms int64) {
	d, r := &h.gpus[g], &h.rng
	n := func(of [2]int64) int64 { return r.about(of[0], of[1]) }
	power := n(l.powerMW)
	clock := n(l.clock) / 15 * 15
	tensor := e4(n(l.tensor))
	d.energyMJ += power * h.every / 1000
	d.mma += r.about(l.mma, l.mma/16) * h.every / 1000
	d.cycles += clock * 1000 * h.every
	tx, rx := n(l.pcie), n(l.pcie)
	d.pcieTx += tx * h.every / 1000
	d.pcieRx += rx * h.every / 1000
	d.nvlinkTxKiB += l.nvlink[0] * h.every / 1_024_000
	d.nvlinkRKiB += l.nvlink[0] * h.every / 1_024_000
	b.SetInt(1, ms+int64(2*g)+r.below(3))
	b.SetStr(2, d.uuid)
	b.SetInt(3, int64(g))
	b.SetInt(4, ms-h.bootMs+int64(2*g))
	b.SetInt(10, e4(n(l.util))/100*100)
	b.SetInt(11, l.memGiB[0]<<30+640<<20)
	b.SetInt(12, (power+powerStepMW/2)/powerStepMW*powerStepMW)
	b.SetInt(13, d.energyMJ-d.energyMJ%energyStepMJ)
	b.SetInt(14, clock)
	b.SetInt(15, e4(n(l.active)))
	b.SetInt(16, e4(n(l.occupancy)))
	b.SetInt(17, tensor)
	b.SetInt(18, tensor)
	b.SetInt(19, 0)
	b.SetInt(20, 0)
	b.SetInt(21, 0)
	b.SetInt(22, e4(n(l.fp32)))
	b.SetInt(23, e4(n(l.fp16)))
	b.SetInt(24, e4(n(l.ints)))
	b.SetInt(25, e4(n(l.dram)))
	b.SetInt(26, d.mma-d.mma%cycleStep)
	b.SetInt(27, significant(tx))
	b.SetInt(28, significant(rx))
	b.SetInt(29, significant(n(l.nvlink)))
	b.SetInt(30, significant(n(l.nvlink)))
	b.SetInt(31, 0)
	b.SetInt(32, 0)
	b.SetInt(33, 2619)
	b.SetInt(34, n(l.temp))
	b.SetInt(35, 0)
	b.SetInt(36, e4(n(l.dram))/100*100)
	b.SetInt(37, d.cycles-d.cycles%cycleStep)
}

// port is a row of a network port; slow: with what is read every ten seconds.
func (h *host) port(b *wire.Builder, l *level, i int, ms int64, slow bool) {
	p := &h.ports[i]
	move := func(bytes, packets *int64) {
		n := h.rng.about(l.port, l.port/8)
		if p.kind == "ethernet" {
			n = 40_000 + h.rng.below(2_000_000)
		}
		n = n * h.every / 1000
		*bytes += n
		*packets += n / 4_100
	}
	move(&p.tx, &p.tp)
	move(&p.rx, &p.rp)
	b.SetInt(1, ms)
	b.SetStr(2, p.name)
	b.SetStr(3, p.kind)
	b.SetInt(4, ms-h.bootMs)
	b.SetInt(10, p.tx)
	b.SetInt(11, p.rx)
	b.SetInt(12, p.rate)
	b.SetInt(13, 1)
	b.SetInt(15, p.tp)
	b.SetInt(16, p.rp)
	if !slow {
		return
	}
	if p.kind == "infiniband" {
		for f := uint8(20); f <= 29; f++ {
			b.SetInt(f, 0)
		}
	}
	for f := uint8(30); f <= 32; f++ {
		b.SetInt(f, 0)
	}
}

// vitals is what is read of a GPU every twenty seconds.
func (h *host) vitals(b *wire.Builder, l *level, g int, ms int64) {
	d := &h.gpus[g]
	d.cappedNs += h.rng.below(1 + l.powerMW[0]*1000)
	b.SetInt(1, ms)
	b.SetStr(2, d.uuid)
	b.SetInt(3, int64(g))
	b.SetInt(4, ms-h.bootMs)
	for f := uint8(10); f <= 52; f++ {
		v := int64(0)
		switch f {
		case 11:
			v = 700_000
		case 12:
			v = h.rng.about(l.powerMW[0]+40_000, 9_000)
		case 13:
			v = h.rng.about(l.temp[0]+9, 2)
		case 14:
			v = 92
		case 15: // it has no fan
			continue
		case 16:
			v = 5
		case 17:
			v = 16
		case 20:
			v = d.pcieTx
		case 21:
			v = d.pcieRx
		case 31:
			v = 18
		case 32:
			v = d.nvlinkTxKiB
		case 33:
			v = d.nvlinkRKiB
		case 35:
			v = d.cappedNs
		case 39:
			v = 640 << 20
		case 40:
			v = 2 << 20
		case 41, 42:
			v = d.cycles
		case 43, 45:
			v = d.mma
		}
		b.SetInt(f, v)
	}
}

// describe says what a GPU is.
func (h *host) describe(b *wire.Builder, g int, ms int64) {
	b.SetInt(1, ms)
	b.SetStr(2, h.gpus[g].uuid)
	b.SetInt(3, int64(g))
	for f, s := range map[uint8]string{
		10: "NVIDIA H100 80GB HBM3", 11: fmt.Sprintf("00000000:%02X:00.0", 0x19+g*8), 12: "570.124.06", 13: "96.00.A5.00.01", 19: "energy,gpm,health,nvlink,processes",
		20: "16500" + h.gpus[g].uuid[4:10], 21: "692-2G520-0200-000", 22: "hopper", 23: "9.0", 27: "off",
	} {
		b.SetStr(f, s)
	}
	for f, v := range map[uint8]int64{14: 85_520_809_984, 15: 700_000, 16: 1980, 17: 0, 18: 18, 24: 132, 28: 1, 29: 5, 30: 16, 31: int64(g)} {
		b.SetInt(f, v)
	}
}
