package nvmlstub

import "math"

// Quantity is something that a GPU does, as a number that can be integrated over time. All
// but those whose names carry a unit are fractions of one.
type Quantity int

// Quantities, in the order of lib/layout.h.
const (
	GRActive Quantity = iota
	SMActive
	SMOccupancy
	Integer
	Tensor
	DFMA
	HMMA
	IMMA
	DRAM
	FP64
	FP32
	FP16
	NVDec
	NVEnc
	Util    // what GetUtilizationRates calls gpu
	MemUtil // and memory
	PowerW
	SMClockMHz
	MemClockMHz
	NVLinkTxBps // bytes a second
	NVLinkRxBps
	PCIeTxBps
	PCIeRxBps
	MemUsedBytes
	TempC
	MemTempC
	NumQuantities
)

// Level is what a GPU does while nothing changes.
type Level [NumQuantities]float64

// With returns a copy with some quantities scaled.
func (l Level) With(factor float64, qs ...Quantity) Level {
	for _, q := range qs {
		l[q] *= factor
	}
	return l
}

// computing is how much of a step is its computing part.
func (s *segment) computing() int64 { return int64(math.Round((1 - s.comm) * float64(s.stepUs))) }

// steps is the integral over microseconds of f of the level, over steps that begin at 0.
func (s *segment) steps(f func(*Level) float64, toUs int64) float64 {
	a, b := f(&s.level[0]), f(&s.level[1])
	if s.stepUs <= 0 {
		return a * float64(toUs)
	}
	part, n, rest := s.computing(), toUs/s.stepUs, toUs%s.stepUs
	whole := a*float64(part) + b*float64(s.stepUs-part)
	return float64(n)*whole + a*float64(min(rest, part)) + b*float64(max(0, rest-part))
}

// timeline is what is integrated: segments by time, and what is between them.
type timeline struct {
	segment []segment
	idle    *Level
}

func (g *device) load() timeline { return timeline{g.segment[:min(g.segments, MaxSegments)], &g.idle} }

func (d *instance) load() timeline {
	return timeline{d.segment[:min(d.segments, MaxInstanceSegments)], &d.idle}
}

func (l timeline) once(f func(*Level) float64, toUs int64) float64 {
	sum, gap := 0.0, toUs
	for i := range l.segment {
		s := &l.segment[i]
		if s.startUs >= toUs {
			break
		}
		in := min(toUs-s.startUs, s.lengthUs)
		sum += s.steps(f, in+s.phaseUs) - s.steps(f, s.phaseUs)
		gap -= in
	}
	return sum + f(l.idle)*float64(gap)
}

// integral is f's value times seconds, from the scenario's start.
func (c *config) integral(l timeline, f func(*Level) float64, toUs int64) float64 {
	switch {
	case toUs <= 0:
		return 0
	case c.repeatUs <= 0:
		return l.once(f, toUs) / 1e6
	}
	sum := l.once(f, toUs%c.repeatUs)
	if n := toUs / c.repeatUs; n > 0 {
		sum += float64(n) * l.once(f, c.repeatUs)
	}
	return sum / 1e6
}

// at is the level at a moment.
func (c *config) at(l timeline, us int64) Level {
	if c.repeatUs > 0 {
		us %= c.repeatUs
	}
	for k := range l.segment {
		s := &l.segment[k]
		if us < s.startUs || us-s.startUs >= s.lengthUs {
			continue
		}
		if s.stepUs > 0 && (us-s.startUs+s.phaseUs)%s.stepUs >= s.computing() {
			return s.level[1]
		}
		return s.level[0]
	}
	return *l.idle
}
