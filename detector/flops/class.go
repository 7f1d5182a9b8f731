package flops

// Classes of work, as package workload names them. They are repeated here so that the
// two packages do not need each other.
const (
	training       = "training"
	finetuning     = "finetuning"
	inference      = "inference"
	batchInference = "batch_inference"
	rl             = "rl"
	hpc            = "hpc"
	rendering      = "rendering"
	mining         = "mining"
	burnIn         = "burn_in"
	notebook       = "notebook"
	idle           = "idle"
)

// mode is one possibility with its probability: a factor and the spread of its
// logarithm within the possibility.
type mode struct{ p, factor, sd float64 }

// prior is what is believed of a class before it was measured.
type prior struct {
	vector bool // FP64, FP32 and FP16 pipes count, not tensor pipes alone
	none   bool // what it does is not floating-point work at all
	still  bool // it does nothing: hours without a signal add nothing
	model  bool // model FLOPs are those executed, over recompute; else they are 0

	// recompute: executed over model FLOPs.
	recompute []mode
	// tile: tensor cycles over useful ones. decode: the work may be decoding, whose
	// waste the arithmetic intensity tells.
	tile, tileSD float64
	decode       bool
	// Data types of the HMMA pipe as factors on the 16-bit rate: those with FP8 and those
	// without it (before Hopper).
	dtype, dtypeOld []mode
	// Watts: useful share of the 16-bit peak at full power, the exponent of the power
	// range (highExponent if steep, else 1), spread of the logarithm.
	watt, wattSD float64
	steep        bool
	// Utilisation and allocation: share of the peak at 100 %, and over the bare hours (0:
	// what published trainings on the architecture reached, allocSD times their spread).
	util, utilSD   float64
	alloc, allocSD float64
	gpus           float64 // at once, at most; 0: not known
}

// Recomputation. Published runs and frameworks either keep activations, recompute a
// selected few, or recompute the whole forward pass (a third more); telemetry does not
// show which. LoRA with full recomputation does half again as much as without.
func trainRecompute() []mode {
	return []mode{{0.65, 1.04, 0.028}, {0.35, 1.30, 0.025}}
}

// trainDtype: FP8 training runs attention, embeddings and parts of the gradients in 16
// bit, so its factor is 1.2 to 1.9, not 2. Of 23 published trainings on Hopper four were in
// FP8; TF32 is what a program gets that asks for nothing (see sized).
func trainDtype() []mode { return []mode{{0.80, 1, 0}, {0.16, 1.52, 0.14}, {0.04, 0.5, 0}} }

// newDtype is for parts with FP4, whose 16-bit peak is hard to feed: published trainings
// on them are in FP8 or narrower about as often as not.
func newDtype() []mode { return []mode{{0.53, 1, 0}, {0.44, 1.52, 0.14}, {0.03, 0.5, 0}} }

func oldDtype() []mode { return []mode{{0.95, 1, 0}, {0.05, 0.5, 0}} }

// pairedWatt is the middle of what trainings did at full power on the published systems
// (BACKTEST.md), each system weighing alike. On a system that was left out a condition lies
// 0.37 about it, which for so few systems is a spread of 0.42.
const pairedWatt = 0.39

// priorOf returns the prior of a class; an unknown class is a wide one.
func priorOf(class string) prior {
	p := prior{
		model: true, recompute: []mode{{1, 1, 0}}, tile: 1.05, tileSD: 0.03,
		dtype: trainDtype(), dtypeOld: oldDtype(),
	}
	serve := func() {
		p.decode = true
		p.dtype = []mode{{0.62, 1, 0}, {0.35, 1.85, 0.08}, {0.03, 0.5, 0}}
		p.watt, p.wattSD, p.util, p.utilSD, p.alloc, p.allocSD = 0.11, 0.9, 0.09, 0.95, 0.06, 1.1
	}
	simulate := func() {
		p.vector, p.model = true, false
		p.dtype, p.dtypeOld = []mode{{0.5, 1, 0}, {0.5, 0.5, 0}}, []mode{{0.5, 1, 0}, {0.5, 0.5, 0}}
		p.watt, p.wattSD, p.util, p.utilSD, p.alloc, p.allocSD = 0.35, 0.6, 0.2, 0.8, 0.01, 1.2
	}
	switch class {
	case training:
		p.recompute, p.steep = trainRecompute(), true
		p.watt, p.wattSD, p.util, p.utilSD, p.allocSD = pairedWatt, 0.42, 0.38, 0.45, 1
	case finetuning:
		p.recompute, p.steep = []mode{{0.60, 1.04, 0.03}, {0.27, 1.30, 0.03}, {0.13, 1.45, 0.03}}, true
		p.dtype = []mode{{0.82, 1, 0}, {0.12, 1.52, 0.14}, {0.06, 0.5, 0}}
		p.watt, p.wattSD, p.util, p.utilSD, p.allocSD = pairedWatt, 0.45, 0.36, 0.5, 1.3
	case rl: // updates, rollouts, and a reference model that does not count
		p.recompute = []mode{{0.35, 1.04, 0.03}, {0.40, 1.20, 0.05}, {0.25, 1.35, 0.05}}
		p.tile, p.tileSD, p.decode = 1.08, 0.06, true
		p.watt, p.wattSD, p.util, p.utilSD, p.alloc, p.allocSD = 0.28, 0.6, 0.2, 0.6, 0.15, 0.7
	case inference:
		serve()
	case batchInference:
		serve()
		p.watt, p.wattSD, p.util, p.utilSD, p.alloc, p.allocSD = 0.2, 0.8, 0.2, 0.85, 0.15, 0.9
	case hpc:
		simulate()
	case rendering:
		simulate()
		p.dtype, p.dtypeOld = []mode{{1, 1, 0}}, []mode{{1, 1, 0}}
		p.tileSD = 0.1
	case mining:
		p.vector, p.none, p.model = true, true, false
		p.watt, p.wattSD, p.utilSD, p.allocSD = 0, 1, 1, 1
	case burnIn: // stress tests: near the peak of whichever type they exercise
		p.vector, p.model, p.tile, p.tileSD = false, false, 1.02, 0.02
		p.dtype = []mode{{0.5, 1, 0}, {0.4, 0.5, 0}, {0.1, 1.9, 0.05}}
		p.dtypeOld = []mode{{0.55, 1, 0}, {0.45, 0.5, 0}}
		p.watt, p.wattSD, p.util, p.utilSD, p.alloc, p.allocSD = 0.65, 0.5, 0.6, 0.6, 0.5, 0.8
	case notebook, idle:
		p.tile, p.tileSD = 1.1, 0.06
		p.dtype = []mode{{0.8, 1, 0}, {0.05, 1.5, 0.12}, {0.15, 0.5, 0}}
		p.watt, p.wattSD, p.util, p.utilSD, p.alloc, p.allocSD = 0.06, 1.1, 0.1, 1, 0.01, 1.3
		p.model = class == notebook
		if class == idle { // watts of an idle GPU are no arithmetic
			p.watt, p.util, p.alloc, p.still = 0, 0, 0, true
		}
	default:
		p.recompute, p.decode = []mode{{0.75, 1.02, 0.03}, {0.25, 1.30, 0.03}}, true
		p.watt, p.wattSD, p.util, p.utilSD, p.alloc, p.allocSD = 0.22, 0.9, 0.18, 0.95, 0.12, 1.1
	}
	return p
}
