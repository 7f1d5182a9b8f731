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
	frame.ClocksEventReasons: 35,
}

// gpmOnly are the metrics that come from GPM or not at all.
var gpmOnly = []frame.Metric{
	frame.SMActiveE4, frame.SMOccupancyE4, frame.TensorE4, frame.HMMAE4, frame.IMMAE4, frame.DFMAE4, frame.FP64E4, frame.FP32E4,
	frame.FP16E4, frame.IntE4, frame.DRAME4, frame.NVDecE4,
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
}
