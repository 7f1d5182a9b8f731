package feature

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// Single rounds what a cell says of signals to single precision, a part in sixteen million: so it says the same
// packed and unpacked. Counters, which add up over months, keep theirs.
func (c *GPUCell) Single() {
	for s := range NumSignals {
		c.Mean[s], c.SD[s] = single(c.Mean[s]), single(c.SD[s])
	}
	c.TensorClockMHz = single(c.TensorClockMHz)
	r := &c.Rhythm
	r.PeriodMs, r.Power, r.CrestMs, r.CadenceMs = single(r.PeriodMs), single(r.Power), single(r.CrestMs), single(r.CadenceMs)
}

func single(v float64) float64 { return float64(float32(v)) }

// Packed is cells of one GPU by time, one after the other: a fleet of 100,000 GPUs has ten million at once. A cell takes
// some 150 bytes, a quarter of what it takes otherwise. Node and GPU are not in it. What a signal
// that was not measured has beside its cover is not kept either.
//
// A cell is: its length (2 bytes), minute (4), width in minutes (2), flags (1), availability after its minute, samples,
// the measured signals as bits and their covers, means and deviations, the tensor clock, the
// counters and the rhythm, as far as the flags say that they are there.
type Packed []byte

const (
	oneCover    = 1 << iota // all signals rest on the same time, which stands once
	hasClock                // the tensor clock was measured
	hasEnergy               // a counter was read
	hasCycles               //
	hasRhythm               //
	foldedPeak              // of the rhythm
	packedHead  = 9         // bytes of length, minute, width and flags
	packedLeast = packedHead + 1 + 1 + 4
)

// Append adds a cell, which is of no earlier minute than those that are there.
func (p Packed) Append(c *GPUCell) Packed {
	at := len(p)
	p = append(p, 0, 0)
	p = binary.LittleEndian.AppendUint32(p, uint32(c.MinuteMs/MinuteMs))
	p = binary.LittleEndian.AppendUint16(p, uint16(c.SpanMs/MinuteMs))
	p = append(p, 0)
	p = binary.AppendVarint(p, c.AvailableMs-c.MinuteMs)
	p = binary.AppendUvarint(p, uint64(c.Samples))
	mask, flags, cover := uint32(0), byte(oneCover), int64(0)
	for s := range NumSignals {
		if c.CoverMs[s] <= 0 {
			continue
		}
		mask |= 1 << s
		if cover == 0 {
			cover = c.CoverMs[s]
		} else if cover != c.CoverMs[s] {
			flags &^= oneCover
		}
	}
	p = binary.LittleEndian.AppendUint32(p, mask)
	if flags&oneCover != 0 {
		p = binary.AppendUvarint(p, uint64(cover))
	}
	for m := mask; m != 0; m &= m - 1 {
		s := bits.TrailingZeros32(m)
		if flags&oneCover == 0 {
			p = binary.AppendUvarint(p, uint64(c.CoverMs[s]))
		}
		p = binary.LittleEndian.AppendUint32(p, math.Float32bits(float32(c.Mean[s])))
		p = binary.LittleEndian.AppendUint32(p, math.Float32bits(float32(c.SD[s])))
	}
	if c.TensorClockMs > 0 {
		flags |= hasClock
		p = binary.AppendUvarint(p, uint64(c.TensorClockMs))
		p = binary.LittleEndian.AppendUint32(p, math.Float32bits(float32(c.TensorClockMHz)))
	}
	if c.EnergyJ.Has() {
		flags |= hasEnergy
		p = appendCounter(p, &c.EnergyJ, c.MinuteMs)
	}
	if c.MMACycles.Has() {
		flags |= hasCycles
		p = appendCounter(p, &c.MMACycles, c.MinuteMs)
	}
	if c.Rhythm.PeriodMs > 0 {
		flags |= hasRhythm
		if c.Rhythm.Folded {
			flags |= foldedPeak
		}
		p = append(p, byte(c.RhythmOf))
		for _, v := range [...]float64{c.Rhythm.PeriodMs, c.Rhythm.Power, c.Rhythm.CrestMs, c.Rhythm.CadenceMs} {
			p = binary.LittleEndian.AppendUint32(p, math.Float32bits(float32(v)))
		}
	}
	p[at+8] = flags
	binary.LittleEndian.PutUint16(p[at:], uint16(len(p)-at))
	return p
}

func appendCounter(p Packed, c *Counter, minuteMs int64) Packed {
	p = binary.AppendVarint(p, c.FirstMs-minuteMs)
	p = binary.AppendVarint(p, c.LastMs-c.FirstMs)
	for _, v := range [...]float64{c.First, c.Last, c.Delta} {
		p = binary.LittleEndian.AppendUint64(p, math.Float64bits(v))
	}
	return p
}

// next is the length, the minute and the end of the first cell; 0: there is none.
func (p Packed) next() (n int, minuteMs, endMs int64) {
	if len(p) < packedLeast {
		return 0, 0, 0
	}
	n, minuteMs = int(binary.LittleEndian.Uint16(p)), int64(binary.LittleEndian.Uint32(p[2:]))*MinuteMs
	span := int64(binary.LittleEndian.Uint16(p[6:]))
	return n, minuteMs, minuteMs + max(span, 1)*MinuteMs
}

// FromBefore cuts away the cells that end by fromMs, but for the last of them.
func (p Packed) FromBefore(fromMs int64) Packed {
	before := p
	for {
		n, _, end := p.next()
		if n == 0 || end > fromMs {
			return before
		}
		before, p = p, p[n:]
	}
}

// FirstMs is the start of the first cell.
func (p Packed) FirstMs() int64 {
	_, minute, _ := p.next()
	return minute
}

// Before is the cells that begin before toMs, and how many they are.
func (p Packed) Before(toMs int64) (Packed, int) {
	rest, cells := p, 0
	for {
		n, minute, _ := rest.next()
		if n == 0 || minute >= toMs {
			return p[: len(p)-len(rest) : len(p)-len(rest)], cells
		}
		rest, cells = rest[n:], cells+1
	}
}

// Count is how many cells there are.
func (p Packed) Count() int {
	_, n := p.Before(math.MaxInt64)
	return n
}

// Unpack appends the cells of a GPU to dst.
func (p Packed) Unpack(dst []GPUCell, k GPUKey) []GPUCell {
	for len(p) >= packedLeast {
		n := int(binary.LittleEndian.Uint16(p))
		dst = append(dst, GPUCell{Node: k.Node, GPU: k.GPU})
		p[:n].unpack(&dst[len(dst)-1])
		p = p[n:]
	}
	return dst
}

func (p Packed) unpack(c *GPUCell) {
	_, c.MinuteMs, _ = p.next()
	c.SpanMs = int64(binary.LittleEndian.Uint16(p[6:])) * MinuteMs
	flags := p[8]
	p = p[packedHead:]
	c.AvailableMs = c.MinuteMs + p.varint()
	c.Samples = int(p.uvarint())
	mask := binary.LittleEndian.Uint32(p)
	p = p[4:]
	cover := int64(0)
	if flags&oneCover != 0 {
		cover = int64(p.uvarint())
	}
	for m := mask; m != 0; m &= m - 1 {
		s := bits.TrailingZeros32(m)
		if flags&oneCover == 0 {
			cover = int64(p.uvarint())
		}
		c.CoverMs[s] = cover
		c.Mean[s] = float64(math.Float32frombits(binary.LittleEndian.Uint32(p)))
		c.SD[s] = float64(math.Float32frombits(binary.LittleEndian.Uint32(p[4:])))
		p = p[8:]
	}
	if flags&hasClock != 0 {
		c.TensorClockMs = int64(p.uvarint())
		c.TensorClockMHz = p.float32()
	}
	if flags&hasEnergy != 0 {
		p.counter(&c.EnergyJ, c.MinuteMs)
	}
	if flags&hasCycles != 0 {
		p.counter(&c.MMACycles, c.MinuteMs)
	}
	if flags&hasRhythm != 0 {
		c.RhythmOf = Signal(p[0])
		p = p[1:]
		c.Rhythm = Peak{PeriodMs: p.float32(), Power: p.float32(), CrestMs: p.float32(), CadenceMs: p.float32(), Folded: flags&foldedPeak != 0}
	}
}

func (p *Packed) varint() int64 {
	v, n := binary.Varint(*p)
	*p = (*p)[n:]
	return v
}

func (p *Packed) uvarint() uint64 {
	v, n := binary.Uvarint(*p)
	*p = (*p)[n:]
	return v
}

func (p *Packed) float32() float64 {
	v := math.Float32frombits(binary.LittleEndian.Uint32(*p))
	*p = (*p)[4:]
	return float64(v)
}

func (p *Packed) counter(c *Counter, minuteMs int64) {
	c.FirstMs = minuteMs + p.varint()
	c.LastMs = c.FirstMs + p.varint()
	for _, v := range [...]*float64{&c.First, &c.Last, &c.Delta} {
		*v = math.Float64frombits(binary.LittleEndian.Uint64(*p))
		*p = (*p)[8:]
	}
}
