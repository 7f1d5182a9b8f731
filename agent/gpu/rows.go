package gpu

import (
	"math/bits"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// fieldOf is the wire contract's field of a metric, wire.KindGPU; 0: it does not travel.
var fieldOf = [frame.NumMetrics]uint8{
	frame.UtilE4: 10, frame.MemUsedBytes: 11, frame.PowerMW: 12, frame.EnergyMJ: 13, frame.SMClockMHz: 14, frame.SMActiveE4: 15,
	frame.SMOccupancyE4: 16, frame.TensorE4: 17, frame.HMMAE4: 18, frame.IMMAE4: 19, frame.DFMAE4: 20, frame.FP64E4: 21,
	frame.FP32E4: 22, frame.FP16E4: 23, frame.IntE4: 24, frame.DRAME4: 25, frame.PCIeTxBps: 27, frame.PCIeRxBps: 28,
	frame.NVLinkTxBps: 29, frame.NVLinkRxBps: 30, frame.NVEncE4: 31, frame.NVDecE4: 32, frame.MemClockMHz: 33, frame.TempC: 34,
	frame.ClocksEventReasons: 35, frame.MMACycles: 26, frame.MemUtilE4: 36, frame.SMCyclesElapsed: 37,
}

// gpmOnly are the metrics that come from GPM or not at all.
var gpmOnly = []frame.Metric{
	frame.SMActiveE4, frame.SMOccupancyE4, frame.TensorE4, frame.HMMAE4, frame.IMMAE4, frame.DFMAE4, frame.FP64E4, frame.FP32E4,
	frame.FP16E4, frame.IntE4, frame.DRAME4, frame.NVDecE4, frame.MMACycles, frame.SMCyclesElapsed,
}

// Rates of links come from GPM or from counters: by these two, rows fall into groups.
var links = [2][2]frame.Metric{{frame.PCIeTxBps, frame.PCIeRxBps}, {frame.NVLinkTxBps, frame.NVLinkRxBps}}

var groups = [4]string{"nvml", "gpm pcie", "gpm nvlink", "gpm"}

// rower fills rows without allocating: its functions are made once, and read what is set.
type rower struct {
	prepare    [len(groups)]func(*wire.Builder)
	fill       func(*wire.Builder)
	fillDevice func(*wire.Builder)
	reading    *emission
	device     *frame.Device
	tsMs       int64

	prepareHealth, fillHealth func(*wire.Builder)
	preparePart, fillPart     func(*wire.Builder)
	fillEvent, fillFact       func(*wire.Builder)
	vital                     *vitalEmission
	part                      *partEmission
	event                     *happening
	fact                      *fact
}

func (r *rower) init() {
	for i := range groups {
		r.prepare[i] = func(b *wire.Builder) {
			for _, m := range gpmOnly {
				b.SetSource(fieldOf[m], wire.SourceGPM)
			}
			for l, pair := range links {
				for _, m := range pair {
					if i>>l&1 == 1 {
						b.SetSource(fieldOf[m], wire.SourceGPM)
					}
				}
			}
		}
	}
	r.fill = r.setReading
	r.fillDevice = r.setDevice
	r.prepareHealth, r.fillHealth = gpmHealth, r.setHealth
	r.preparePart, r.fillPart = gpmPart, r.setPart
	r.fillEvent, r.fillFact = r.setEvent, r.setFact
}

// emission is a reading on its way out.
type emission struct {
	timed
	uuid  string
	group int // of groups
}

// group finds a reading's. fromGPM is by which way the GPU's link rates last came: a reading
// without them stays with its neighbours.
func group(t *timed, fromGPM *[2]bool) (bits int) {
	for l, pair := range links {
		for _, m := range pair {
			if t.Has(m) {
				fromGPM[l] = t.FromGPM>>m&1 == 1
			}
		}
		if fromGPM[l] {
			bits |= 1 << l
		}
	}
	return bits
}

func (r *rower) row(out source.Sink, e *emission) {
	r.reading = e
	out.Row(wire.KindGPU, wire.SourceNVML, groups[e.group], r.prepare[e.group], r.fill)
}

func (r *rower) setReading(b *wire.Builder) {
	wall, boot := r.reading.atMs()
	b.SetInt(1, wall)
	b.SetStr(2, r.reading.uuid)
	b.SetInt(3, int64(r.reading.GPU))
	b.SetInt(4, boot)
	for m := range frame.NumMetrics {
		if fieldOf[m] != 0 && r.reading.Has(m) {
			v := r.reading.Values[m]
			switch m {
			case frame.PCIeTxBps, frame.PCIeRxBps, frame.NVLinkTxBps, frame.NVLinkRxBps:
				v = significant(v)
			case frame.PowerMW:
				v = (v + powerStepMW/2) / powerStepMW * powerStepMW
			case frame.EnergyMJ:
				v -= v % energyStepMJ // the counter goes on: nothing adds up
			case frame.MMACycles, frame.SMCyclesElapsed:
				v -= v % cycleStep
			default:
			}
			b.SetInt(fieldOf[m], v)
		}
	}
}

// rateBits is how many bits of a rate travel: 1 part in 4,000, far below what a rate over a
// second is worth. The rest is noise, and would be a third of all that is sent.
const rateBits = 12

// What sensors say below these steps is noise, and half of what power and energy would take
// on the way: a board's sensor is good for some percent, and a joule is a thousandth of what a
// GPU at work takes in a second.
const (
	powerStepMW  = 100
	energyStepMJ = 1000
	// cycleStep is 1 part in 400 of the cycles of a second at 1.7 GHz, and as counters go on, 1 in
	// 24,000 of a minute's. Where a driver adds the cycles of all SMs up it is a hundredth of that.
	cycleStep = 1 << 22
)

// significant rounds a rate to its first rateBits bits: small rates stay what they are.
func significant(v int64) int64 {
	n := bits.Len64(uint64(max(v, 0))) - rateBits
	if n <= 0 {
		return v
	}
	return (v + 1<<(n-1)) >> n << n
}

func (r *rower) deviceRow(out source.Sink, d *frame.Device, wallMs int64) {
	r.device, r.tsMs = d, wallMs
	out.Row(wire.KindDevice, wire.SourceNVML, "", nil, r.fillDevice)
}

func (r *rower) setDevice(b *wire.Builder) {
	d := r.device
	b.SetInt(1, r.tsMs)
	b.SetStr(2, d.UUID)
	b.SetInt(3, int64(d.Index))
	for i, s := range [...]string{d.Name, d.PCIBusID, d.DriverVersion, d.VBIOSVersion} {
		if s != "" {
			b.SetStr(uint8(10+i), s)
		}
	}
	for i, v := range [...]int64{d.MemTotalBytes, d.PowerLimitMW, d.SMClockMaxMHz, int64(d.MIGMode), int64(d.NVLinks)} {
		if v >= 0 {
			b.SetInt(uint8(14+i), v)
		}
	}
	caps := slices.Clone(d.Capabilities)
	slices.Sort(caps)
	b.SetStr(19, strings.Join(caps, ","))
	for i, v := range [...]string{d.Serial, d.BoardPart, d.Architecture, d.ComputeCapability} {
		if v != "" {
			b.SetStr(uint8(20+i), v)
		}
	}
	if d.FabricClusterUUID != "" {
		b.SetStr(25, d.FabricClusterUUID)
	}
	if d.CCMode != "" {
		b.SetStr(27, d.CCMode)
	}
	if d.GSPVersion != "" {
		b.SetStr(32, d.GSPVersion)
	}
	for _, f := range [...]struct {
		field uint8
		v     int64
	}{
		{24, int64(d.SMs)}, {26, d.FabricClique}, {28, int64(d.ECCMode)}, {29, int64(d.PCIeGenMax)}, {30, int64(d.PCIeWidthMax)}, {31, int64(d.ModuleID)},
	} {
		if f.v >= 0 {
			b.SetInt(f.field, f.v)
		}
	}
}

// vitalField is the first field of wire.KindHealth that is a vital: they are in one order.
const vitalField = 10

// vitalEmission is a look at the health on its way out.
type vitalEmission struct {
	timedHealth
	uuid string
}

func gpmHealth(b *wire.Builder) {
	for v := frame.CyclesElapsed; v <= frame.CyclesFP16; v++ {
		b.SetSource(vitalField+uint8(v), wire.SourceGPM)
	}
}

func (r *rower) healthRow(out source.Sink, e *vitalEmission) {
	r.vital = e
	out.Row(wire.KindHealth, wire.SourceNVML, "", r.prepareHealth, r.fillHealth)
}

func (r *rower) setHealth(b *wire.Builder) {
	h := r.vital
	wall, boot := h.atMs()
	b.SetInt(1, wall)
	b.SetStr(2, h.uuid)
	b.SetInt(3, int64(h.GPU))
	b.SetInt(4, boot)
	for v := range frame.NumVitals {
		if h.Has(v) {
			b.SetInt(vitalField+uint8(v), h.Values[v])
		}
	}
}

// partEmission is a GPU instance on its way out; without a reading it is what it is.
type partEmission struct {
	gpu, gi    int
	uuid       string
	wall, boot int64
	info       frame.Instance // of its first compute instance
	known      bool           // info is
	compute    int
	reading    frame.Reading // of nothing: there is none
}

// partField is the wire contract's field of a metric, wire.KindInstance; 0: it does not travel.
var partField = [frame.NumMetrics]uint8{
	frame.MemUsedBytes: 15, frame.SMActiveE4: 16, frame.SMOccupancyE4: 17, frame.TensorE4: 18, frame.HMMAE4: 19, frame.IMMAE4: 20, frame.DFMAE4: 21,
	frame.FP64E4: 22, frame.FP32E4: 23, frame.FP16E4: 24, frame.IntE4: 25, frame.DRAME4: 26, frame.PCIeTxBps: 27, frame.PCIeRxBps: 28,
}

func gpmPart(b *wire.Builder) {
	for m, f := range partField {
		if f != 0 && frame.Metric(m) != frame.MemUsedBytes {
			b.SetSource(f, wire.SourceGPM)
		}
	}
}

func (r *rower) partRow(out source.Sink, e *partEmission) {
	r.part = e
	out.Row(wire.KindInstance, wire.SourceNVML, "", r.preparePart, r.fillPart)
}

func (r *rower) setPart(b *wire.Builder) {
	p := r.part
	b.SetInt(1, p.wall)
	b.SetStr(2, p.uuid)
	b.SetInt(3, int64(p.gpu))
	b.SetInt(4, p.boot)
	b.SetInt(5, int64(p.gi))
	if p.known {
		if p.info.UUID != "" {
			b.SetStr(10, p.info.UUID)
		}
		if p.info.Profile != "" {
			b.SetStr(11, p.info.Profile)
		}
		for i, v := range [...]int64{int64(p.info.SMs), int64(p.info.Slices), p.info.MemTotalBytes} {
			if v >= 0 {
				b.SetInt(uint8(12+i), v)
			}
		}
		b.SetInt(29, int64(p.compute))
	}
	if p.reading.Present == 0 {
		if p.known && p.info.MemUsedBytes >= 0 {
			b.SetInt(15, p.info.MemUsedBytes)
		}
		return
	}
	for m := range frame.NumMetrics {
		if f := partField[m]; f != 0 && p.reading.Has(m) {
			v := p.reading.Values[m]
			if m == frame.PCIeTxBps || m == frame.PCIeRxBps {
				v = significant(v)
			}
			b.SetInt(f, v)
		}
	}
}

func (r *rower) eventRow(out source.Sink, e *happening) {
	r.event = e
	out.Row(wire.KindEvent, wire.SourceNVML, "", nil, r.fillEvent)
}

func (r *rower) setEvent(b *wire.Builder) {
	e := r.event
	b.SetInt(1, e.wallMs)
	b.SetStr(2, e.uuid)
	b.SetInt(3, int64(e.gpu))
	b.SetStr(4, e.name)
	b.SetInt(5, e.code)
	b.SetInt(10, e.count)
	if e.gi != frame.WholeGPU {
		b.SetInt(11, int64(e.gi))
	}
	if e.ci != frame.WholeGPU {
		b.SetInt(12, int64(e.ci))
	}
	if e.detail != "" {
		b.SetStr(13, e.detail)
	}
}

func (r *rower) factRow(out source.Sink, f *fact, wallMs int64) {
	r.fact, r.tsMs = f, wallMs
	out.Row(wire.KindFact, f.src, f.src.String(), nil, r.fillFact)
}

func (r *rower) setFact(b *wire.Builder) {
	b.SetInt(1, r.tsMs)
	b.SetStr(2, r.fact.subject)
	b.SetStr(3, r.fact.name)
	b.SetStr(10, r.fact.value)
}
