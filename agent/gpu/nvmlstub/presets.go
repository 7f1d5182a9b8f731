package nvmlstub

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Model is a kind of GPU with the figures of its data sheet.
type Model int

// Models.
const (
	H100SXM Model = iota
	H200
	B200
	A100 // no GPM
	L40S // no GPM, no NVLink
	V100 // no GPM, no MIG; retires pages
	A10040
	GH200 // a GPU and a CPU on a module
	GB200 // likewise, in a fabric of many hosts
	numModels
)

type figures struct {
	name, board, vbios                   string
	pciID, pciSub                        uint32
	arch, brand, ccMajor, ccMinor, cores uint32
	busWidth                             uint32
	memMiB, reservedMiB, bar1MiB         uint64
	limitW, minW                         uint32
	smMHz, memMHz, videoMHz              uint32
	nvlinks, nvlinkVersion, nvlinkMBps   uint32
	pcieGen                              uint32
	gpm, instant                         uint32
	mig                                  uint32 // 2: not supported
	idleW, idleSMMHz                     float64
	sms, moduleW, c2cLinks               uint32
	fabric                               bool      // of more than one host
	migGB                                [3]int    // in the names of profiles of one, two, and three or four slices
	sliceSMs                             [8]uint32 // of a GPU instance of so many slices
}

const (
	archVolta, archAmpere, archAda, archHopper, archBlackwell = 5, 7, 8, 9, 10
	brandNVIDIA                                               = 14
	brandTesla                                                = 2
	mib                                                       = 1 << 20
)

// Multiprocessors of GPU instances by their slices.
var (
	ampereSMs    = [8]uint32{1: 14, 2: 28, 3: 42, 4: 56, 7: 98}
	hopperSMs    = [8]uint32{1: 16, 2: 32, 3: 60, 4: 64, 7: 132}
	blackwellSMs = [8]uint32{1: 18, 2: 36, 3: 70, 4: 72, 7: 148}
)

var models = [numModels]figures{
	H100SXM: {name: "NVIDIA H100 80GB HBM3", board: "692-2G520-0200-000", vbios: "96.00.89.00.01", pciID: 0x233010de, pciSub: 0x16c110de,
		arch: archHopper, brand: brandNVIDIA, ccMajor: 9, cores: 16896, busWidth: 5120, memMiB: 81559, reservedMiB: 551, bar1MiB: 131072,
		limitW: 700, minW: 200, smMHz: 1980, memMHz: 2619, videoMHz: 1545, nvlinks: 18, nvlinkVersion: 6, nvlinkMBps: 26562,
		pcieGen: 5, gpm: 1, idleW: 72, idleSMMHz: 345, sms: 132, migGB: [3]int{10, 20, 40}, sliceSMs: hopperSMs},
	H200: {name: "NVIDIA H200", board: "692-2G520-0280-000", vbios: "96.00.BC.00.01", pciID: 0x233510de, pciSub: 0x18be10de,
		arch: archHopper, brand: brandNVIDIA, ccMajor: 9, cores: 16896, busWidth: 6144, memMiB: 143771, reservedMiB: 607, bar1MiB: 262144,
		limitW: 700, minW: 200, smMHz: 1980, memMHz: 3201, videoMHz: 1545, nvlinks: 18, nvlinkVersion: 6, nvlinkMBps: 26562,
		pcieGen: 5, gpm: 1, idleW: 76, idleSMMHz: 345, sms: 132, migGB: [3]int{18, 35, 71}, sliceSMs: hopperSMs},
	B200: {name: "NVIDIA B200", board: "692-2G525-0220-500", vbios: "97.00.88.00.0F", pciID: 0x290110de, pciSub: 0x199910de,
		arch: archBlackwell, brand: brandNVIDIA, ccMajor: 10, cores: 18944, busWidth: 8192, memMiB: 183359, reservedMiB: 718, bar1MiB: 262144,
		limitW: 1000, minW: 200, smMHz: 1965, memMHz: 3996, videoMHz: 1545, nvlinks: 18, nvlinkVersion: 7, nvlinkMBps: 53125,
		pcieGen: 5, gpm: 1, idleW: 140, idleSMMHz: 120, sms: 148, migGB: [3]int{23, 45, 90}, sliceSMs: blackwellSMs},
	A100: {name: "NVIDIA A100-SXM4-80GB", board: "692-2G506-0212-002", vbios: "92.00.45.00.05", pciID: 0x20b210de, pciSub: 0x147f10de,
		arch: archAmpere, brand: brandNVIDIA, ccMajor: 8, cores: 6912, busWidth: 5120, memMiB: 81920, reservedMiB: 635, bar1MiB: 131072,
		limitW: 400, minW: 100, smMHz: 1410, memMHz: 1593, videoMHz: 1290, nvlinks: 12, nvlinkVersion: 4, nvlinkMBps: 25781,
		pcieGen: 4, instant: 1, idleW: 55, idleSMMHz: 210, sms: 108, migGB: [3]int{10, 20, 40}, sliceSMs: ampereSMs},
	L40S: {name: "NVIDIA L40S", board: "900-2G133-0080-000", vbios: "95.02.66.00.02", pciID: 0x26b910de, pciSub: 0x185110de,
		arch: archAda, brand: brandNVIDIA, ccMajor: 8, ccMinor: 9, cores: 18176, busWidth: 384, memMiB: 46068, reservedMiB: 562, bar1MiB: 65536,
		limitW: 350, minW: 100, smMHz: 2520, memMHz: 9001, videoMHz: 1965, pcieGen: 4, mig: 2, idleW: 35, idleSMMHz: 210, sms: 142},
	V100: {name: "Tesla V100-SXM2-32GB", board: "900-2G503-0010-000", vbios: "88.00.4F.00.09", pciID: 0x1db510de, pciSub: 0x124910de,
		arch: archVolta, brand: brandTesla, ccMajor: 7, cores: 5120, busWidth: 4096, memMiB: 32768, reservedMiB: 263, bar1MiB: 32768,
		limitW: 300, minW: 150, smMHz: 1530, memMHz: 877, videoMHz: 1372, nvlinks: 6, nvlinkVersion: 2, nvlinkMBps: 25781,
		pcieGen: 3, instant: 1, mig: 2, idleW: 42, idleSMMHz: 135, sms: 80},
	A10040: {name: "NVIDIA A100-SXM4-40GB", board: "692-2G506-0200-002", vbios: "92.00.19.00.01", pciID: 0x20b010de, pciSub: 0x134f10de,
		arch: archAmpere, brand: brandNVIDIA, ccMajor: 8, cores: 6912, busWidth: 5120, memMiB: 40960, reservedMiB: 571, bar1MiB: 65536,
		limitW: 400, minW: 100, smMHz: 1410, memMHz: 1215, videoMHz: 1290, nvlinks: 12, nvlinkVersion: 4, nvlinkMBps: 25781,
		pcieGen: 4, instant: 1, idleW: 52, idleSMMHz: 210, sms: 108, migGB: [3]int{5, 10, 20}, sliceSMs: ampereSMs},
	GH200: {name: "NVIDIA GH200 480GB", board: "699-2G530-0200-000", vbios: "96.00.84.00.02", pciID: 0x234210de, pciSub: 0x16eb10de,
		arch: archHopper, brand: brandNVIDIA, ccMajor: 9, cores: 16896, busWidth: 6144, memMiB: 97871, reservedMiB: 588, bar1MiB: 131072,
		limitW: 900, minW: 100, smMHz: 1980, memMHz: 2619, videoMHz: 1545, nvlinks: 18, nvlinkVersion: 6, nvlinkMBps: 26562,
		pcieGen: 5, gpm: 1, idleW: 80, idleSMMHz: 345, sms: 132, migGB: [3]int{12, 24, 48}, sliceSMs: hopperSMs, moduleW: 140, c2cLinks: 10},
	GB200: {name: "NVIDIA GB200", board: "699-2G548-1201-800", vbios: "97.00.88.00.14", pciID: 0x294110de, pciSub: 0x204610de,
		arch: archBlackwell, brand: brandNVIDIA, ccMajor: 10, cores: 18944, busWidth: 8192, memMiB: 189471, reservedMiB: 741, bar1MiB: 262144,
		limitW: 1200, minW: 200, smMHz: 2062, memMHz: 3996, videoMHz: 1575, nvlinks: 18, nvlinkVersion: 7, nvlinkMBps: 53125,
		pcieGen: 6, gpm: 1, idleW: 150, idleSMMHz: 120, sms: 148, migGB: [3]int{23, 47, 93}, sliceSMs: blackwellSMs, moduleW: 140, c2cLinks: 10, fabric: true},
}

// figures are a model's; of one that is not known, nothing: Create refuses it.
func (m Model) figures() figures {
	if m < 0 || m >= numModels {
		return figures{}
	}
	return models[m]
}

// String is the product's name.
func (m Model) String() string {
	if m < 0 || m >= numModels {
		return fmt.Sprintf("Model(%d)", int(m))
	}
	return models[m].name
}

// Idle is what a GPU of the model does between segments.
func (m Model) Idle() Level {
	f := m.figures()
	return Level{PowerW: f.idleW, SMClockMHz: f.idleSMMHz, MemClockMHz: float64(f.memMHz), TempC: 31, MemTempC: 38}
}

// fill makes the shared form of a GPU at a place.
func (g *GPU) fill(c *device, host uint32, index int, repeatUs int64) error {
	if g.Model < 0 || g.Model >= numModels {
		return fmt.Errorf("model %d is not known", g.Model)
	}
	f := g.Model.figures()
	if g.Cycles > CyclesRefused {
		return fmt.Errorf("cycles %d, wanted at most %d", g.Cycles, CyclesRefused)
	}
	limit := orDefault(g.PowerLimitMW, f.limitW*1000)
	*c = device{
		pciBus: []uint32{0x18, 0x2a, 0x3a, 0x5d, 0x9a, 0xab, 0xba, 0xdb}[index%8], pciDomain: uint32(index / 8), pciDeviceID: f.pciID, pciSubsystemID: f.pciSub,
		model: uint32(g.Model), sms: f.sms, mig: f.mig, migPending: f.mig,
		minor: uint32(index), moduleID: uint32(index + 1), boardID: uint32(0x1800 + 0x100*index), brand: f.brand, architecture: f.arch,
		ccMajor: f.ccMajor, ccMinor: f.ccMinor, cores: f.cores, busWidth: f.busWidth, numaNode: uint32(index % 8 / 4),
		powerLimitMW: limit, powerDefaultMW: f.limitW * 1000, powerMinMW: f.minW * 1000, powerMaxMW: f.limitW * 1000,
		maxClockMHz: [4]uint32{f.smMHz, f.smMHz, f.memMHz, f.videoMHz},
		nvlinks:     f.nvlinks, nvlinkVersion: f.nvlinkVersion, nvlinkMBps: f.nvlinkMBps,
		pcieMaxGen: f.pcieGen, pcieMaxWidth: 16, gpm: f.gpm, powerInstant: f.instant, ecc: 1, eccPending: 1, moduleMW: f.moduleW * 1000, c2cLinks: f.c2cLinks,
		tempShutdownC: 92, tempSlowdownC: 89, tempMemMaxC: 95, tempGPUMaxC: 87,
		memTotal: f.memMiB * mib, bar1Total: f.bar1MiB * mib,
		energyStartMJ: g.EnergyStartMJ, pcieWrap: g.PCIeWrapBytes, cycles: uint32(g.Cycles), cyclesStart: g.CyclesStart, lostUs: until(g.LostAt), resetUs: until(g.ResetAt),
		idle: g.Model.Idle(), idleReasons: 1, idlePstate: 0,
	}
	c.setFabric(g.Fabric, f)
	c.health = g.Health
	h := &c.health
	h.ECCCorrectedVolatile, h.ECCCorrectedAggregate = h.ECCCorrectedVolatile+g.ECCCorrected, h.ECCCorrectedAggregate+g.ECCCorrected
	h.ECCUncorrectedVolatile, h.ECCUncorrectedAggregate = h.ECCUncorrectedVolatile+g.ECCUncorrected, h.ECCUncorrectedAggregate+g.ECCUncorrected
	h.RowsRemappedUncorrected += g.RemappedRows
	for _, n := range []*uint64{&h.NVLinkCRCFlit, &h.NVLinkCRCData, &h.NVLinkReplay, &h.NVLinkRecovery} {
		*n += g.NVLinkErrors
	}
	if err := c.complete(h); err != nil {
		return err
	}
	if g.MIG {
		if f.mig == 2 {
			return fmt.Errorf("%s has no MIG", f.name)
		}
		c.mig, c.migPending = 1, 1
	}
	for _, t := range []struct {
		to         []byte
		what, text string
	}{
		{c.name[:], "name", orDefault(g.Name, f.name)},
		{c.uuid[:], "UUID", orDefault(g.UUID, fmt.Sprintf("GPU-f10b%04x-%04x-4000-8000-%04x%08x", host>>16, host&0xffff, int(g.Model), index))},
		{c.serial[:], "serial", orDefault(g.Serial, fmt.Sprintf("1%010d%02d", host, index))},
		{c.vbios[:], "VBIOS version", orDefault(g.VBIOS, f.vbios)},
		{c.boardPart[:], "board part number", f.board},
	} {
		if err := put(t.to, t.what, t.text); err != nil {
			return err
		}
	}
	var err error
	c.segments, err = fillSegments(c.segment[:], g.Segments, repeatUs)
	return err
}

// fabricSummary is what the driver makes of a mask without complaints.
const fabricHealthy = 1

func (g *device) setFabric(to Fabric, f figures) {
	if to == (Fabric{}) {
		to.State = FabricNotSupported
		if f.arch >= archHopper && f.nvlinks > 0 {
			to.State, to.Summary = FabricCompleted, fabricHealthy
		}
		if f.fabric {
			to.ClusterUUID, to.Clique = [16]byte{0xf1, 0x0b, 5: 1, 15: 1}, 1
		}
	}
	g.fabricState, g.fabricStatus, g.fabricClique, g.fabricCluster = to.State, to.Status, to.Clique, to.ClusterUUID
	g.fabricHealth, g.fabricSummary = to.HealthMask, to.Summary
}

// complete fills what is the model's where it is not said.
func (g *device) complete(h *Health) error {
	f := Model(g.model).figures()
	h.MemReservedBytes = orDefault(h.MemReservedBytes, f.reservedMiB*mib)
	h.BAR1UsedBytes = orDefault(h.BAR1UsedBytes, mib)
	h.PCIeGen, h.PCIeWidth = orDefault(h.PCIeGen, g.pcieMaxGen), orDefault(h.PCIeWidth, g.pcieMaxWidth)
	h.PowerLimitMW = orDefault(h.PowerLimitMW, g.powerLimitMW)
	if h.MemReservedBytes > g.memTotal || h.BAR1UsedBytes > g.bar1Total {
		return fmt.Errorf("%d bytes reserved of %d, %d of BAR1 used of %d", h.MemReservedBytes, g.memTotal, h.BAR1UsedBytes, g.bar1Total)
	}
	return nil
}

// part is a share of a figure.
func part(of uint32, share float64) float64 { return float64(of) * share }

// TrainSegment is a stretch of a training on every GPU: big matrix products, then an exchange
// of gradients over NVLink. A step takes 1.2 s, a quarter of it communication.
func TrainSegment(m Model, start, length time.Duration) Segment {
	f := m.figures()
	link := part(f.nvlinks*f.nvlinkMBps, 1e6)
	work := Level{
		GRActive: 1, SMActive: 0.93, SMOccupancy: 0.31, Integer: 0.12, Tensor: 0.62, HMMA: 0.62, DRAM: 0.38, FP32: 0.11, FP16: 0.03,
		Util: 1, MemUtil: 0.55, PowerW: part(f.limitW, 0.94), SMClockMHz: part(f.smMHz, 0.86), MemClockMHz: float64(f.memMHz),
		NVLinkTxBps: 0.04 * link, NVLinkRxBps: 0.04 * link, PCIeTxBps: 0.2e9, PCIeRxBps: 0.5e9,
		MemUsedBytes: math.Round(float64(f.memMiB)*0.86) * mib, TempC: 63, MemTempC: 74,
	}
	talk := work
	talk[SMActive], talk[SMOccupancy], talk[Integer], talk[Tensor], talk[HMMA], talk[DRAM], talk[FP32] = 0.42, 0.09, 0.05, 0.02, 0.02, 0.21, 0.02
	talk[MemUtil], talk[PowerW], talk[SMClockMHz] = 0.3, part(f.limitW, 0.52), part(f.smMHz, 0.95)
	talk[NVLinkTxBps], talk[NVLinkRxBps], talk[PCIeTxBps], talk[PCIeRxBps] = 0.62*link, 0.62*link, 6e9, 6e9
	return Segment{Start: start, Length: length, Kind: Train, Step: 1200 * time.Millisecond, Comm: 0.25, Compute: work, Communicate: talk, Reasons: 4}
}

// CheckpointSegment is a pause of a training that writes its state: memory held, GPUs all but idle.
func CheckpointSegment(m Model, start, length time.Duration) Segment {
	f := m.figures()
	l := TrainSegment(m, 0, 1).Compute
	wait := m.Idle()
	wait[MemUsedBytes], wait[PowerW], wait[SMClockMHz], wait[PCIeTxBps] = l[MemUsedBytes], part(f.limitW, 0.19), float64(f.smMHz), 11e9
	wait[GRActive], wait[Util], wait[SMActive], wait[TempC], wait[MemTempC] = 0.04, 0.04, 0.01, 45, 56
	return Segment{Start: start, Length: length, Kind: Checkpoint, Compute: wait}
}

// InferSegment serves requests: memory full, bound by memory bandwidth, little NVLink, in
// bursts of 0.7 s.
func InferSegment(m Model, start, length time.Duration) Segment {
	f := m.figures()
	busy := Level{
		GRActive: 0.96, SMActive: 0.58, SMOccupancy: 0.18, Integer: 0.14, Tensor: 0.09, HMMA: 0.09, DRAM: 0.66, FP32: 0.06, FP16: 0.04,
		Util: 0.97, MemUtil: 0.72, PowerW: part(f.limitW, 0.57), SMClockMHz: float64(f.smMHz), MemClockMHz: float64(f.memMHz),
		PCIeTxBps: 0.3e9, PCIeRxBps: 0.2e9, MemUsedBytes: math.Round(float64(f.memMiB)*0.91) * mib, TempC: 52, MemTempC: 63,
	}
	if f.nvlinks > 0 {
		busy[NVLinkTxBps], busy[NVLinkRxBps] = 4e9, 4e9
	}
	calm := busy.With(0.35, GRActive, SMActive, SMOccupancy, Integer, Tensor, HMMA, DRAM, FP32, FP16, Util, MemUtil, NVLinkTxBps, NVLinkRxBps)
	calm[PowerW] = part(f.limitW, 0.33)
	return Segment{Start: start, Length: length, Kind: Infer, Step: 700 * time.Millisecond, Comm: 0.3, Compute: busy, Communicate: calm}
}

// BurnSegment is a stress test of one GPU for itself: all power, no communication.
func BurnSegment(m Model, start, length time.Duration) Segment {
	f := m.figures()
	l := TrainSegment(m, 0, 1).Compute
	l[SMActive], l[Tensor], l[HMMA], l[PowerW], l[NVLinkTxBps], l[NVLinkRxBps] = 0.99, 0.88, 0.88, part(f.limitW, 0.995), 0, 0
	l[PCIeTxBps], l[PCIeRxBps], l[SMClockMHz], l[TempC] = 0, 0, part(f.smMHz, 0.74), 71
	return Segment{Start: start, Length: length, Kind: Burn, Compute: l, Reasons: 4}
}

// differing lets GPU i of a host draw a little more or less power than the next, as they do.
func differing(i int, list ...Segment) []Segment {
	for k := range list {
		f := 1 + 0.006*float64(i*3%7-3)
		list[k].Compute, list[k].Communicate = list[k].Compute.With(f, PowerW), list[k].Communicate.With(f, PowerW)
	}
	return list
}

// Training is n GPUs that train from start for a length; the clock is the machine's.
func Training(m Model, n int, start, length time.Duration) Scenario {
	s := Scenario{GPUs: make([]GPU, max(n, 0))}
	for i := range s.GPUs {
		s.GPUs[i] = GPU{Model: m, EnergyStartMJ: 5e9 + uint64(i)*1e7, Segments: differing(i, TrainSegment(m, start, length))}
	}
	return s
}

// H100x8Training is a host of eight H100 that train from start for a length.
func H100x8Training(start, length time.Duration) Scenario { return Training(H100SXM, 8, start, length) }

// Cycle is the length of Demo's cycle.
const Cycle = 64 * time.Minute

// worn is the health of GPU i of a host that has been at work for months: a few corrected errors here
// and there, a row remapped, and links that had to repeat something.
func worn(i int) Health {
	h := Health{PCIeReplays: uint32(i * 5 % 3), NVLinkReplay: uint64(i * 3 % 4), CappedNs: [5]uint64{CapSWPower: uint64(i+1) * 41e12}}
	h.PCIeErrors[0] = uint32(i * 7 % 5) // correctable
	switch i % 8 {
	case 2:
		h.ECCCorrectedAggregate, h.ECCCorrectedVolatile = 14, 1
	case 5:
		h.ECCCorrectedAggregate, h.ECCUncorrectedAggregate, h.RowsRemappedUncorrected = 3, 1, 1
	}
	return h
}

// DemoMIG is Demo with the last GPU cut into four MIG devices, of which three serve models all
// the time, and the first has an Xid 31 a minute after the first training began.
func DemoMIG(m Model, n int, pid uint32) Scenario {
	s := Demo(m, n, pid)
	f := m.figures()
	last := len(s.GPUs) - 1
	if last < 0 {
		return s
	}
	for i := range s.Processes {
		s.Processes[i].GPUs = slices.DeleteFunc(slices.Clone(s.Processes[i].GPUs), func(g int) bool { return g == last })
	}
	g := &s.GPUs[last]
	g.Segments, g.Instances = nil, nil
	if f.mig == 2 {
		return s
	}
	eighth := float64(f.memMiB) / 8 // of its memory: what one slice has
	name := func(slices int) string { return fmt.Sprintf("%dg.%dgb", slices, f.migGB[slices-1]) }
	g.Instances = Instances(name(1), name(1), name(2), name(3))
	for i, share := range []float64{0.5, 0.9, 0.7} {
		l := InferSegment(m, 0, Cycle)
		l.Compute, l.Communicate = l.Compute.With(share, SMActive, Tensor, HMMA, DRAM), l.Communicate.With(share, SMActive, Tensor, HMMA, DRAM)
		for _, level := range []*Level{&l.Compute, &l.Communicate} {
			level[PowerW], level[TempC], level[MemTempC], level[NVLinkTxBps], level[NVLinkRxBps] = 0, 0, 0, 0, 0
			level[MemUsedBytes] = math.Round(share*eighth*[]float64{0.9, 0.9, 1.8}[i]) * mib
		}
		g.Instances[i] = g.Instances[i].With(l)
		if pid != 0 {
			s.Processes = append(s.Processes, Process{PID: pid, GPUs: []int{last}, UsedBytes: uint64(l.Compute[MemUsedBytes]), Name: "serve", MIG: In(g.Instances[i].GI, 0)})
		}
	}
	rest := m.Idle().With(0, PowerW, TempC, MemTempC)
	rest[SMClockMHz] = float64(f.smMHz) // all run on the GPU's clock
	g.Instances[3] = g.Instances[3].With(Segment{Length: Cycle, Compute: rest})
	whole := m.Idle()
	whole[PowerW], whole[SMClockMHz], whole[TempC], whole[MemTempC], whole[MemUsedBytes] = part(f.limitW, 0.45), float64(f.smMHz), 51, 60, math.Round(3*eighth)*mib
	g.Segments = []Segment{{Length: Cycle, Kind: Infer, Compute: whole}}
	s.Events = append(s.Events, Event{At: 4 * time.Minute, GPU: last, Data: 31, MIG: In(g.Instances[0].GI, 0)})
	return s
}

// Demo is what `flopwatch up --fake-gpus N` shows: for ever 64 minutes of three idle, forty of training on all GPUs
// with a checkpoint of 40 s in the middle, three idle, twelve of inference on the first half
// of the GPUs (one at least), six idle. The training's process is pid on all GPUs; 0: none.
func Demo(m Model, n int, pid uint32) Scenario {
	s := Scenario{GPUs: make([]GPU, max(n, 0)), Repeat: Cycle}
	train, serve := 3*time.Minute, 46*time.Minute
	half, pause := 20*time.Minute, 40*time.Second
	var all, some []int
	for i := range s.GPUs {
		g := GPU{Model: m, EnergyStartMJ: 5e9 + uint64(i)*1e7, Health: worn(i), Segments: []Segment{
			TrainSegment(m, train, half-pause), CheckpointSegment(m, train+half-pause, pause), TrainSegment(m, train+half, half),
		}}
		all = append(all, i)
		if i < max(1, n/2) {
			some = append(some, i)
			g.Segments = append(g.Segments, InferSegment(m, serve, 12*time.Minute))
		}
		differing(i, g.Segments...)
		s.GPUs[i] = g
	}
	if pid != 0 {
		used := func(seg Segment) uint64 { return uint64(seg.Compute[MemUsedBytes]) }
		s.Processes = []Process{
			{PID: pid, GPUs: all, UsedBytes: used(TrainSegment(m, 0, 1)), From: train, To: train + 2*half, Name: "train"},
			{PID: pid, GPUs: some, UsedBytes: used(InferSegment(m, 0, 1)), From: serve, To: serve + 12*time.Minute, Name: "serve"},
		}
	}
	return s
}
