package scenario

import "math"

// Part is the physics of a GPU.
type Part struct {
	NVML                 string
	SMs, FLOPPerClk      float64 // FLOP a clock and SM, dense 16 bit
	BoostMHz, TensorMHz  float64
	TDPW, IdleW          float64
	MemBytes, MemBps     float64
	FP32, FP64, FP64Core float64 // FLOP/s: vector pipes, tensor pipes
	NVLinkBps            float64 // one direction; 0: none, peers talk over PCIe
	Busy                 float64 // tensor activity of good matrix kernels
	GPM                  bool    // pipes can be read without privileges
	FP8                  bool
}

// Peak16 is the dense 16-bit peak in FLOP/s.
func (p *Part) Peak16() float64 { return p.SMs * p.FLOPPerClk * p.TensorMHz * 1e6 }

// Parts by short names.
var parts = map[string]Part{
	"V100":  {"Tesla V100-SXM2-32GB", 80, 1024, 1530, 1530, 300, 42, 32e9, 900e9, 15.7e12, 7.8e12, 0, 130e9, 0.50, false, false},
	"A100P": {"NVIDIA A100 80GB PCIe", 108, 2048, 1410, 1410, 300, 46, 80e9, 1935e9, 19.5e12, 9.7e12, 19.5e12, 0, 0.60, false, false},
	"A100":  {"NVIDIA A100-SXM4-40GB", 108, 2048, 1410, 1410, 400, 52, 40e9, 1555e9, 19.5e12, 9.7e12, 19.5e12, 280e9, 0.66, false, false},
	"L40S":  {"NVIDIA L40S", 142, 1024, 2520, 2490, 350, 34, 48e9, 864e9, 91.6e12, 1.4e12, 0, 0, 0.58, false, true},
	"H100P": {"NVIDIA H100 PCIe", 114, 4096, 1755, 1620, 350, 48, 80e9, 2000e9, 51.2e12, 25.6e12, 51.2e12, 0, 0.57, true, true},
	"H100":  {"NVIDIA H100 80GB HBM3", 132, 4096, 1980, 1830, 700, 72, 80e9, 3350e9, 66.9e12, 33.5e12, 66.9e12, 420e9, 0.60, true, true},
	"H200":  {"NVIDIA H200", 132, 4096, 1980, 1830, 700, 76, 141e9, 4800e9, 66.9e12, 33.5e12, 66.9e12, 420e9, 0.63, true, true},
	"B200":  {"NVIDIA B200", 148, 8192, 1965, 1856, 1000, 130, 180e9, 7700e9, 75e12, 37e12, 37e12, 850e9, 0.52, true, true},
	"GB200": {"NVIDIA GB200", 152, 8192, 2062, 2008, 1200, 150, 186e9, 8000e9, 80e12, 40e12, 40e12, 850e9, 0.55, true, true},
	"RTX":   {"NVIDIA GeForce RTX 4090", 128, 512, 2520, 2520, 450, 22, 24e9, 1008e9, 82.6e12, 1.3e12, 0, 0, 0.65, false, true},
	// A part that no table knows.
	"NEXT": {"NVIDIA X900 Accelerator", 160, 8192, 2100, 2000, 1100, 140, 200e9, 9000e9, 80e12, 40e12, 40e12, 850e9, 0.50, true, true},
}

// watts of a load at a clock, uncapped.
func (p *Part) watts(s *signal, mhz float64) float64 {
	f := math.Pow(mhz/p.TensorMHz, 2.3)
	dyn := 0.10*s.sm + (1.12*s.tensor*s.joules()+0.5*s.fp32+0.85*s.fp64+0.35*s.integer)*f + 0.30*s.dram
	held := 0.0
	if s.mem > 0.5e9 {
		held = 0.35 * p.IdleW // a context raises clocks
	}
	return p.IdleW + held + (p.TDPW-p.IdleW)*dyn
}

// clock returns the clock under which the load stays within the cap.
func (p *Part) clock(s *signal, capW float64) float64 {
	mhz := p.BoostMHz
	for range 24 {
		if p.watts(s, mhz) <= capW {
			break
		}
		mhz *= 0.985
	}
	return math.Max(mhz, 0.4*p.BoostMHz)
}

// signal is what one GPU does over a stretch of time: fractions of the time or of the
// pipes' capacity, and rates.
type signal struct {
	util, sm, occ, tensor, imma, dfma float64 // imma, dfma: shares of tensor
	fp64, fp32, fp16, integer, dram   float64
	enc, dec                          float64
	mem                               float64 // bytes held
	nvlink, pcieTx, pcieRx            float64 // bytes/s
	fabric, wan, storageTx, storageRx float64 // bytes/s and GPU
	energyPerMMA                      float64 // of a busy tensor cycle relative to 16 bit; 0: 1
	mhz                               float64 // 0: to be solved
	// What is counted, FLOP/s.
	executed, model float64
}

func (s *signal) joules() float64 {
	if s.energyPerMMA == 0 {
		return 1
	}
	return s.energyPerMMA
}

// mix adds w of o.
func (s *signal) mix(o *signal, w float64) {
	if w == 0 {
		return
	}
	s.util += w * o.util
	s.sm += w * o.sm
	s.occ += w * o.occ
	s.tensor += w * o.tensor
	s.imma += w * o.imma * o.tensor
	s.dfma += w * o.dfma * o.tensor
	s.fp64 += w * o.fp64
	s.fp32 += w * o.fp32
	s.fp16 += w * o.fp16
	s.integer += w * o.integer
	s.dram += w * o.dram
	s.enc += w * o.enc
	s.dec += w * o.dec
	s.nvlink += w * o.nvlink
	s.pcieTx += w * o.pcieTx
	s.pcieRx += w * o.pcieRx
	s.fabric += w * o.fabric
	s.wan += w * o.wan
	s.storageTx += w * o.storageTx
	s.storageRx += w * o.storageRx
	s.executed += w * o.executed
	s.model += w * o.model
}
