package drawn

import "math"

// silicon is how the parts of one node draw watts and hold clocks: drawn, because two
// fleets of one part differ.
type silicon struct {
	*part
	idleW    float64 // nothing loaded
	ctxW     float64 // more with a context
	capW     float64 // power limit
	clock    float64 // MHz under load, unthrottled
	idleMHz  float64
	residue  float64 // bytes in use when idle
	issue    float64 // share of the range that issuing SMs take
	tensor   float64 // the tensor pipes, 16 bit
	dram     float64
	link     float64
	exponent float64 // watts over clock
}

func drawSilicon(r *rng, x *part) silicon {
	s := silicon{part: x}
	s.idleW = x.idleW * r.factor(0.12)
	s.ctxW = x.tdp * r.uniform(0.02, 0.08)
	s.capW = x.tdp
	if r.chance(0.15) {
		s.capW *= r.uniform(0.55, 0.95)
	}
	s.clock = x.boost * r.uniform(0.9, 1)
	s.idleMHz = pick(r, 210.0, 345, 300, 135)
	if r.chance(0.25) {
		s.idleMHz = s.clock // locked clocks
	}
	switch {
	case r.chance(0.5):
		s.residue = r.uniform(0, 20e6)
	case r.chance(0.6):
		s.residue = r.uniform(0.3e9, 0.9e9)
	default:
		s.residue = r.uniform(0.9e9, 3e9)
	}
	s.issue, s.tensor, s.dram, s.link = r.uniform(0.65, 0.98), r.uniform(0.35, 0.7), r.uniform(0.2, 0.4), r.uniform(0.02, 0.1)
	s.exponent = r.uniform(1.8, 2.6)
	return s
}

// joules of a busy tensor cycle, 16 bit as 1.
func tensorEnergy(dtype string) float64 {
	switch dtype {
	case "tf32":
		return 1.05
	case "fp8":
		return 1.08
	case "fp4":
		return 1.12
	case "int8":
		return 0.85
	}
	return 1
}

// load is what kernels ask of a GPU.
type load struct {
	util, sm, ipc float64 // ipc: how hard the resident warps issue, 0 to 1
	tensor        float64 // share of tensor cycles
	dtype         string
	dram          float64
	nvTx, nvRx    float64 // bytes a second
	occ           float64
	fp64, dfma    float64
	fp32, fp16    float64
	integer       float64
	enc, dec      float64
	pcieTx        float64
	pcieRx        float64
}

// run turns a load into rates and says by how much the power limit slows it down (1: not
// at all). What depends on the clock is slowed already.
func (s *silicon) run(l load) (out sig, slow float64) {
	// A pipe is busy on SMs that have warps, and somebody must ask memory.
	l.sm = min(1, max(l.sm, 1.04*(l.tensor+l.dfma), 1.04*max(l.fp64, l.fp32, l.integer), 0.95*l.dram))
	room := s.tdp - s.idleW - s.ctxW
	share := s.issue*(l.sm*l.ipc) + s.tensor*l.tensor*tensorEnergy(l.dtype) + 0.5*l.dfma + 0.35*(l.fp64+l.fp32) + 0.1*l.fp16 + s.dram*l.dram + 0.15*l.integer + 0.08*(l.enc+l.dec)
	if s.nvlink > 0 {
		share += s.link * min(1, (l.nvTx+l.nvRx)/s.nvlink)
	}
	slow = 1
	if most := (s.capW - s.idleW - s.ctxW) / room; share > most {
		slow = max(0.45, math.Pow(most/share, 1/s.exponent))
		share = most
	}
	clock := s.clock * slow
	out[sUtil], out[sSM], out[sOcc] = l.util, l.sm, l.occ
	out[sTensor] = min(1, l.tensor+l.dfma)
	switch l.dtype {
	case "int8":
		out[sIMMA] = l.tensor
	default:
		out[sHMMA] = l.tensor
	}
	out[sDFMA], out[sFP64], out[sFP32], out[sFP16], out[sInt] = l.dfma, l.fp64, l.fp32, l.fp16, l.integer
	out[sDRAM], out[sEnc], out[sDec] = l.dram*(0.5+0.5*slow), l.enc, l.dec
	out[sCycles] = out[sTensor] * clock * 1e6
	out[sPCIeTx], out[sPCIeRx], out[sNVTx], out[sNVRx] = l.pcieTx, l.pcieRx, l.nvTx*slow, l.nvRx*slow
	out[sPower] = s.ctxW + share*room
	busy := min(1, l.util)
	out[sBusy], out[sClock] = busy, busy*clock
	return out, slow
}

// context is a GPU that only holds memory.
func (s *silicon) context(bytes float64) sig {
	var x sig
	x[sMem], x[sPower] = bytes, s.ctxW
	return x
}

func (s *silicon) mem() float64 { return s.memGB * giga }
