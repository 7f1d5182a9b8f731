package workload

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// scores are log-odds of the classes.
type scores map[string]float64

// classes in the order in which ties resolve.
var classes = [...]string{Training, Inference, BatchInference, HPC, Idle, Notebook, Rendering, BurnIn, Mining, Finetuning, RL, Unknown}

// base holds the prior log-odds: rare kinds need more evidence, and unknown wins where
// nothing speaks for any class.
var base = scores{
	Training: 0, Inference: 0, BatchInference: -0.6, HPC: -0.6, Rendering: -1.2, Mining: -2, BurnIn: -1.8,
	Notebook: -0.8, Idle: -1, Finetuning: -2.5, RL: -2.5, Unknown: 0.6,
}

// verdict collects rules that fired.
type verdict struct {
	sum   scores
	fired []firing
}

type firing struct {
	text   string
	effect scores
}

// say applies a rule with strength 0 to 1.
func (v *verdict) say(strength float64, text string, effect scores) {
	if !(strength > 0) {
		return
	}
	got := make(scores, len(effect))
	for _, c := range classes {
		w, ok := effect[c]
		if !ok && (c == Finetuning || c == RL) && effect[Training] < 0 {
			w, ok = effect[Training], true // what speaks against training speaks against its kinds
		}
		if ok && w != 0 {
			got[c] = w * strength
			v.sum[c] += w * strength
		}
	}
	v.fired = append(v.fired, firing{text, got})
}

// ramp rises from 0 at lo to 1 at hi, or falls where hi < lo. What was not measured is 0.
func ramp(x, lo, hi float64) float64 {
	if math.IsNaN(x) {
		return 0
	}
	return math.Max(0, math.Min(1, (x-lo)/(hi-lo)))
}

func pct(x float64) string { return fmt.Sprintf("%.0f %%", 100*x) }

// Classify says what an episode did, from what is visible at the judged moment.
func Classify(ev *feature.Evidence, ep run.Episode) Verdict {
	switch ep.Basis {
	case run.BasisAllocation:
		return Verdict{Class: Unknown, Prob: 0.9, Probs: spread(Unknown, 0.9), Reasons: []string{"GPUs are rented and show no telemetry"}}
	case run.BasisIdle:
		m := ep.Members[0]
		if !ev.HasGPU(feature.GPUKey{Node: m.Node, GPU: m.GPU}) {
			// A light load hides in what a host draws at rest.
			return Verdict{Class: Idle, Prob: 0.7, Probs: spread(Idle, 0.7), Reasons: []string{"the host draws no more than it may at rest"}}
		}
		return Verdict{Class: Idle, Prob: 0.95, Probs: spread(Idle, 0.95), Reasons: []string{"GPUs are rented and released"}}
	}
	v, f := weigh(ev, &ep)
	return v.decide(f, built())
}

// weigh applies all rules to an episode in use.
func weigh(ev *feature.Evidence, ep *run.Episode) (*verdict, *facts) {
	f := newFacts(ev, ep)
	v := &verdict{sum: scores{}}
	for _, c := range classes {
		v.sum[c] = base[c]
	}
	switch ep.Basis {
	case run.BasisPower:
		powerRules(v, &f)
	case run.BasisGPU:
		loadRules(v, &f)
		pipeRules(v, &f)
		togetherRules(v, &f)
		hiddenRules(v, &f)
	}
	commRules(v, &f)
	trafficRules(v, &f, ep)
	declaredRules(v, ev, ep, &f)
	return v, &f
}

func spread(class string, p float64) map[string]float64 {
	out := make(map[string]float64, len(classes))
	for _, c := range classes {
		out[c] = (1 - p) / float64(len(classes)-1)
	}
	out[class] = p
	return out
}

// loadRules look at how much and how steadily the GPUs work.
func loadRules(v *verdict, f *facts) {
	if math.IsNaN(f.busy) {
		return
	}
	age := ramp(f.minutes, 2, 10)
	if !f.busyEver {
		v.say(math.Max(0.25, age), "memory is held and nothing was computed", scores{Idle: 4.5, Notebook: 1, Training: -2.5, Inference: -1.5, BatchInference: -2.5, HPC: -2.5, Rendering: -2.5, Mining: -3, BurnIn: -3, Unknown: -0.5})
		return
	}
	v.say(age*ramp(f.busy, 0.6, 0.25), "GPUs worked in "+pct(f.busy)+" of the minutes, in bursts", scores{Notebook: 3, Idle: 0.5, Training: -1.5, BatchInference: -1.5, HPC: -1, Mining: -3, BurnIn: -3, Rendering: -1})
	v.say(age*ramp(f.busy, 0.05, 0), "hardly any work", scores{Idle: 2})
	if f.gpus == 1 && f.busy < 0.6 {
		v.say(age, "a single GPU used now and then", scores{Notebook: 0.8})
	}
	v.say(age*ramp(f.busy, 0.9, 1), "work in every minute", scores{Notebook: -3, Idle: -4})
	v.say(ramp(f.busy, 0.3, 0.6), "", scores{Idle: -3})
	// Saturation: training, batch work, simulation and burn-in fill the GPU; a service
	// follows its users.
	users := 1.0 // a level that never moves follows nobody
	if !math.IsNaN(f.powerSpread) {
		users = 0.4 + 0.6*ramp(f.powerSpread, 0.015, 0.04)
	}
	v.say(users*age*ramp(f.util, 0.75, 0.4)*ramp(f.busy, 0.6, 0.9), "load of "+pct(f.util)+" leaves room, as a service does", scores{Inference: 1.8, Training: -0.8, BatchInference: -0.6, HPC: -0.4, BurnIn: -2, Mining: -3})
	v.say(age*ramp(f.powerFrac, 0.55, 0.35)*ramp(f.busy, 0.6, 0.9), "power is far below the limit while GPUs work", scores{Inference: 0.8, Training: -0.8, BurnIn: -1.5})
	v.say(age*ramp(f.powerFrac, 0.75, 0.9), "power near the limit ("+pct(f.powerFrac)+")", scores{Training: 0.4, BatchInference: 0.2, BurnIn: 0.4, Inference: -0.5, Notebook: -1})
	// Nothing but a synthetic load is constant to within a few per cent at full use.
	flat := ramp(f.util, 0.985, 0.995) * ramp(f.powerCV, 0.025, 0.012) * ramp(f.busy, 0.95, 1) * ramp(f.minutes, 5, 12)
	quiet := 1 - ramp(f.nvlinkBps, 1e6, 20e6)
	if f.hasComm {
		quiet = 0
	}
	// A stress test is made to draw all that the part may.
	v.say(flat*quiet*ramp(f.powerFrac, 0.95, 0.8), "", scores{BurnIn: -2})
	if math.IsNaN(f.tensor) {
		flat *= 0.6 // a small training that never waits is as flat, seen from outside
	}
	v.say(flat*quiet, "the load is flat as no real work is, and nothing is exchanged", scores{BurnIn: 2.5, Mining: 2.5, Training: -2, Inference: -0.8, BatchInference: -1, HPC: -1, Rendering: -1.5})
	v.say(ramp(f.powerCV, 0.03, 0.08), "the load varies", scores{BurnIn: -2, Mining: -2.5})
	v.say(flat*quiet*ramp(f.memBytes, 16e9, 6e9), "little memory is held", scores{Mining: 2, BurnIn: -1.5})
	v.say(flat*quiet*ramp(f.memBytes, 20e9, 50e9), "memory is filled", scores{BurnIn: 1.2, Mining: -2})
	v.say(ramp(f.memBytes, 25e9, 10e9), "little memory is held", scores{Training: -0.8, Inference: -0.6, BatchInference: -0.6, Rendering: 0.6, HPC: 0.3})
	v.say(ramp(f.memCV, 0.15, 0.35)*age, "memory moves a lot", scores{Rendering: 0.8, Notebook: 0.8, Training: -0.3})
	v.say(age*ramp(log10(f.memCV), -2, -1.2), "memory moves with what is asked for", scores{Inference: 0.4, BatchInference: 0.4, Rendering: 0.3, Training: -0.7, BurnIn: -0.7})
}

// pipeRules look at which parts of the chip work.
func pipeRules(v *verdict, f *facts) {
	v.say(ramp(f.nvenc, 0.005, 0.02), "video encoders work", scores{Rendering: 3, Training: -1, Inference: -0.5, HPC: -1})
	v.say(ramp(f.nvdec, 0.01, 0.05), "video decoders work", scores{Rendering: 0.7, Inference: 0.4})
	if math.IsNaN(f.tensor) {
		pipesUnseen(v, f)
		return
	}
	tensor16 := f.tensor
	if f.dfma > 0 {
		tensor16 -= f.dfma
	}
	busy := ramp(f.sm, 0.1, 0.3)
	if math.IsNaN(f.sm) {
		busy = ramp(f.util, 0.2, 0.5)
	}
	double := addKnown(f.fp64, f.dfma)
	v.say(ramp(double, 0.01, 0.06), "double precision works ("+pct(double)+")", scores{HPC: 5, Training: -3, Inference: -2, BatchInference: -2, Rendering: -1, BurnIn: -1})
	noTensor := busy * ramp(tensor16, 0.02, 0.008)
	v.say(noTensor, "tensor pipes rest while GPUs work", scores{HPC: 1.5, Rendering: 1.3, Mining: 1.2, Training: -3.5 + 1.5*ramp(f.fp32, 0.25, 0.5), BatchInference: -2, Inference: -0.5, BurnIn: -2})
	v.say(noTensor*ramp(f.fp32, 0.08, 0.2), "single precision pipes carry the work ("+pct(f.fp32)+")", scores{HPC: 1.4, Rendering: 1.2, Inference: -2.5, Mining: -1.5})
	v.say(ramp(tensor16, 0.03, 0.01)*ramp(f.integer, 0.12, 0.16)*ramp(f.fp32, 0.1, 0.18), "integer and single precision work in a renderer's mixture", scores{Rendering: 1})
	v.say(noTensor*ramp(f.fp32/math.Max(f.dram, f.integer), 0.3, 0.15)*ramp(double, 0.01, 0.004)*ramp(math.Max(f.dram/0.7, f.integer/0.3), 0.4, 0.8), "memory or integer pipes run without arithmetic", scores{Mining: 2.5, HPC: -1, Rendering: -0.5})
	v.say(noTensor*ramp(f.dram, 0.35, 0.5)*ramp(f.tensor, 0.001, 0.005), "memory bandwidth bounds small matrix work, as decoding does", scores{Inference: 3, HPC: -1.5, Rendering: -1.5, Mining: -2.5})
	if arithmetic := addKnown(double, f.fp32, f.integer); !math.IsNaN(f.fp32) && !math.IsNaN(double) {
		v.say(noTensor*ramp(arithmetic, 0.05, 0.02), "no arithmetic pipe works, so nothing is simulated or drawn", scores{HPC: -2.5, Rendering: -2.5, Inference: 0.4})
	}
	work := ramp(tensor16, 0.05, 0.15)
	v.say(work, "tensor pipes work ("+pct(f.tensor)+")", scores{Training: 0.8, BatchInference: 0.5, HPC: -3, Rendering: -3, Mining: -4, Inference: 0.2, Idle: -2})
	v.say(ramp(tensor16, 0.7, 0.8)*ramp(f.tensorCV, 0.06, 0.02), "tensor pipes are full and flat ("+pct(f.tensor)+")", scores{BurnIn: 4, Training: -1, Inference: -2, BatchInference: -0.5})
	v.say(ramp(tensor16, 0.6, 0.45)*ramp(f.tensor, 0.01, 0.05), "", scores{BurnIn: -2.5})
	// A stress test multiplies what it holds again and again: next to no reads, no vector
	// work, pipes full whenever SMs are.
	v.say(work*ramp(f.tensor/f.sm, 0.55, 0.75)*ramp(f.dram/f.tensor, 0.5, 0.3)*ramp(f.fp32/f.tensor, 0.012, 0.003), "matrices are multiplied with hardly a read and nothing between", scores{BurnIn: 4, Training: -1, Inference: -1.5, BatchInference: -1})
	// Bytes moved for each unit of tensor work: decoding reads all weights for a few
	// tokens, training reuses them for thousands.
	ratio := f.dram / f.tensor
	if f.tensor > 0.01 {
		v.say(ramp(ratio, 1.3, 2.8), fmt.Sprintf("memory traffic is high for the tensor work (%.1f), as in decoding", ratio), scores{Inference: 1.6, BatchInference: 1.2, Training: -1.4})
		v.say(ramp(ratio, 1.6, 0.7)*ramp(tensor16, 0.02, 0.07), "tensor work reuses what it reads, as training does", scores{Training: 0.6, BatchInference: 0.4, Inference: -0.6})
	}
	if math.IsNaN(f.dram) {
		// Watts that matrix work does not explain are spent on moving bytes.
		explained := f.tensor / math.Max(f.powerFrac-restFrac, 0.05)
		v.say(ramp(f.powerFrac, 0.5, 0.7)*ramp(f.tensor, 0.01, 0.04)*ramp(explained, 0.42, 0.24), "few of the watts go into matrix work, as in decoding", scores{Inference: 1.4, BatchInference: 1.2, Training: -1.2})
	}
	// Master weights and optimizer states are FP32: an optimizer leaves a trace on the
	// FP32 pipes, forward passes in low precision hardly do.
	// As a share of tensor work it is the same at any duty cycle.
	optimizer := math.Max(work*ramp(f.fp32, 0.012, 0.025), ramp(tensor16, 0.02, 0.06)*ramp(f.fp32/f.tensor, 0.02, 0.05)*ramp(ratio, 2.5, 1.5))
	v.say(optimizer, "FP32 pipes work beside the tensor pipes, as an optimizer does", scores{Training: 0.5, Inference: -0.3, BatchInference: -0.3, BurnIn: -1.5})
	v.say(work*ramp(f.fp32, 0.004, 0.001), "FP32 pipes rest, so no optimizer runs", scores{Training: -1.3, Inference: 0.3, BatchInference: 0.6, BurnIn: 0.4})
	v.say(ramp(f.imma, 0.003, 0.006)*ramp(f.imma/f.tensor, 0.5, 0.9), "integer matrix work, as quantized serving does", scores{Inference: 1.2, BatchInference: 0.8, Training: -2.5})
}

// pipesUnseen judges parts older than Hopper, or guests, by load and links alone.
func pipesUnseen(v *verdict, f *facts) {
	busy := ramp(f.util, 0.7, 0.9)
	if math.IsNaN(f.util) {
		busy = ramp(f.powerFrac, 0.4, 0.6)
	}
	if f.gpus > 1 && !f.hasComm {
		v.say(busy*ramp(f.nvlinkBps, 50e6, 500e6), "GPUs exchange gigabytes over NVLink", scores{Training: 0.7 - 0.7*f.split(), Inference: 0.5, BatchInference: 0.4, HPC: -0.3, Rendering: -2, Mining: -3, BurnIn: -3})
		v.say(busy*ramp(f.nvlinkBps, 30e6, 3e6), "GPUs exchange next to nothing over NVLink", scores{Training: -0.8, HPC: 0.6, Rendering: 0.4, BatchInference: 0.4})
		// Over hosts gradients take the fabric, too, or are not exchanged. An adapter's on one
		// host are small.
		ways := ramp(f.nvlinkBps, 30e6, 3e6) * ramp(f.pcieBps, 300e6, 60e6) * ramp(log10(f.fabricBps), 8.3, 7.3)
		v.say(busy*bool01(f.nodes > 1)*ways, "nor over PCIe or the fabric", scores{Training: -1, HPC: 0.3, BatchInference: 0.2})
	}
	// Full batches draw as much on one GPU as steps do.
	v.say(busy*ramp(f.powerFrac, 0.8, 0.9), "", scores{Training: 0.5, HPC: -0.3, BatchInference: 0.4 * bool01(f.gpus == 1)})
	v.say(busy*ramp(f.powerFrac, 0.82, 0.72)*ramp(f.powerFrac, 0.4, 0.55), "power stays below that of dense matrix work", scores{HPC: 0.6, Training: -0.4, Inference: 0.3})
}

// togetherRules look at GPUs that move in step: the ranks of a training wait for each
// other, servers serve whoever asks.
func togetherRules(v *verdict, f *facts) {
	load := ramp(f.minutes, 12, 30) * math.Max(ramp(f.util, 0.4, 0.7), ramp(f.powerFrac, 0.3, 0.45))
	// The GPUs of one host that exchange activations of every layer are one server (or one
	// replica of a training): that they stall and move together says nothing of which. Separate
	// servers do not, nor do the gradients of a step fill NVLink so.
	own := 1 - 0.85*f.split()
	v.say(load*own*ramp(f.stall, 0.4, 0.8)*ramp(f.stalls, 0.004, 0.02), "all GPUs stall together now and then", scores{Training: 1, RL: 0.9, HPC: 0.7, Inference: -0.6, BatchInference: -0.6, BurnIn: -1, Mining: -2, Rendering: -1})
	v.say(load*(1-own)*ramp(f.stall, 0.4, 0.8), "", scores{Rendering: -1.5, Mining: -1.5, BurnIn: -1})
	// Where load moves by more than a sensor's noise, ranks move as one. A model in tensor
	// parallel does so too, on one host.
	moves := ramp(f.powerCV, 0.012, 0.03)
	apart := load * (1 - ramp(math.Log10(nanZero(f.fabricBps)+1), 8, 9)) * (1 - 0.5*ramp(float64(f.nodes), 1, 2))
	v.say(apart*ramp(f.stall, 0.3, 0.08)*moves, "GPUs move each on its own", scores{Inference: 0.6, BatchInference: 0.5, Training: -1.8, RL: -1, HPC: -1, Rendering: 0.6})
	v.say(apart*ramp(f.stall, 0.12, 0.03)*(1-moves), "what little they move, GPUs move each on its own", scores{BatchInference: 0.5, Training: -0.6, HPC: -0.4, Mining: 0.4, BurnIn: 0.2})
	v.say(ramp(float64(f.nodes), 1, 2), fmt.Sprintf("%d hosts begin and end in step", f.nodes), scores{Training: 0.8, RL: 0.6, HPC: 0.6, Notebook: -2, Rendering: -0.4, BatchInference: -0.3})
	v.say(load*ramp(f.stall, 0.5, 0.85)*moves*ramp(float64(f.nodes), 1, 2), "the load of all hosts moves as one", scores{Training: 1.6, RL: 1.4, HPC: 1.2, Inference: -1.2, BatchInference: -0.8, Rendering: -1.5})
	v.say(load*own*ramp(f.stall, 0.3, 0.6)*math.Max(0.4, moves), "GPUs move in step", scores{Training: 0.7, RL: 0.5, HPC: 0.5, Rendering: -1.5, Mining: -1, BatchInference: -0.2})
	v.say(load*ramp(f.minutes, 60, 150)*ramp(f.stalls, 0.003, 0), "in hours all GPUs never stalled together", scores{Training: -0.4, RL: -0.3, HPC: -0.2, BatchInference: 0.3})
	// Rollouts and updates swing all GPUs together, by much and for as long as the job runs.
	v.say(load*ramp(f.stall, 0.85, 0.95)*ramp(f.powerSpread, 0.2, 0.4)*bool01(f.reduces && f.gpus > 1), "all GPUs swing together between two levels", scores{RL: 3.5})
	// A job that sums gradients, or fills a fabric, and still reads much for what it
	// multiplies, decodes for a part of its time.
	job := math.Max(bool01(f.reduces), ramp(float64(f.nodes), 1, 2)*ramp(math.Log10(nanZero(f.fabricBps)+1), 8.3, 9.3))
	v.say(job*ramp(f.dram/f.tensor, 1.1, 1.7)*ramp(f.tensor, 0.05, 0.12), "a training that reads as much as decoding does", scores{RL: 3.5})
	// A service's load wanders with its users between its quartiles; work from a queue or
	// a loop keeps one level, apart from stalls.
	steady := ramp(f.minutes, 12, 30) * ramp(f.busy, 0.7, 0.9)
	v.say(steady*ramp(f.powerSpread, 0.028, 0.06)*(1-0.7*ramp(f.stall, 0.6, 0.9)*ramp(float64(f.nodes), 1, 2)), "the load wanders as users come and go, or frames differ", scores{Inference: 1.3, Rendering: 0.8, Notebook: 0.3, Training: -0.8, BatchInference: -0.9, HPC: -0.4, BurnIn: -2, Mining: -2})
	// Neither steps nor stalls move a training's quartiles by a tenth; rollouts over many hosts do.
	v.say(steady*bool01(f.nodes == 1)*ramp(f.powerSpread, 0.07, 0.14), "the load has no level", scores{Inference: 0.6, Training: -1.2, Finetuning: -1.2, RL: 0.01, HPC: -0.5})
	v.say(steady*ramp(f.util, 0.6, 0.85)*ramp(f.powerSpread, 0.035, 0.022), "the load keeps one level, as a loop or a queue does", scores{BatchInference: 1.1, Training: 0.5, HPC: 0.5, Inference: -1.1})
	v.say(ramp(f.nvlinkBps, 50e6, 500e6), "", scores{BurnIn: -3, Mining: -3, Rendering: -1})
	// Rollouts decode, updates multiply large matrices, and each waits for the other.
	v.say(f.phases, "minutes of decoding and minutes of training alternate on all GPUs together", scores{RL: 8, Training: 1, Inference: -1.5, BatchInference: -1})
	v.say(f.pools*bool01(f.hasComm), "some of its GPUs decode while others train", scores{RL: 4, Training: 1, Inference: -1.5, BatchInference: -1})
	rhythmRules(v, f)
	v.say(ramp(float64(f.gpus), 12, 24), "many GPUs work as one", scores{Training: 0.6, HPC: 0.4, Rendering: -0.6, Notebook: -4, Mining: -0.5})
	v.say(ramp(float64(f.gpus), 1, 4), "", scores{Notebook: -1.5})
}

// rhythmRules look at periods within minutes. Steps of a training (and of a simulation) keep
// one period for hours on all its GPUs; requests have none, and a decoding batch has one of
// well under a second that changes with its users.
func rhythmRules(v *verdict, f *facts) {
	if !f.rhythmed {
		return
	}
	one := ramp(f.rhythm, 0.2, 0.6) * ramp(f.rhythmSame, 0.4, 0.8)
	if f.folded { // the sampling may have made it
		one *= 0.5
	}
	where := "its GPUs keep"
	if f.gpus == 1 {
		where = "the GPU keeps"
	}
	v.say(one*ramp(f.periodS, 0.2, 1), fmt.Sprintf("%s a period of %.3g s, as steps do", where, f.periodS), scores{Training: 1.2, RL: 0.3, HPC: 0.8, Inference: -1, BatchInference: -0.6, Mining: -1.5, BurnIn: -0.5, Rendering: -0.5, Notebook: -0.5})
}

// commRules look at collective calls.
func commRules(v *verdict, f *facts) {
	if !f.hasComm {
		if f.tapped && f.gpus > 1 && f.busyEver {
			v.say(1, "collectives of others are seen here, and none of this program", scores{Training: -1.5, Finetuning: -1.5, RL: -1.5, BurnIn: 0.3, Rendering: 0.3, HPC: 0.3})
		}
		return
	}
	v.say(ramp(f.gradient, 0.15, 0.5)*bool01(f.reduces), "collectives of megabytes sum gradients", scores{Training: 4, RL: 3, Finetuning: 3, HPC: -1.5, Inference: -3, BatchInference: -2.5, Rendering: -4, Mining: -6, BurnIn: -4, Notebook: -1.5, Idle: -3})
	v.say(ramp(f.gradient, 0.15, 0.5)*bool01(f.reduces)*ramp(f.tensor, 0.02, 0.005)*ramp(math.Max(nanZero(f.fp32), nanZero(f.dram)), 0.25, 0.1), "megabytes are exchanged and no matrix is multiplied, as in a test of links", scores{BurnIn: 10, Training: -5})
	v.say(ramp(f.smallRate, 20, 200)*(1-ramp(f.gradient, 0.02, 0.3)), fmt.Sprintf("%.0f small collective calls a second, as tensor-parallel decoding makes", f.smallRate), scores{Inference: 3.2, BatchInference: 2.2, Training: -3, HPC: -2.5, Mining: -4, BurnIn: -4})
	// A halo exchange is sendrecv among all ranks; pipeline stages use communicators of
	// their own, beside a larger one that sums gradients.
	halo := ramp(f.haloShare, 0.3, 0.7)
	if !math.IsNaN(f.tensor) { // ranks that multiply low-precision matrices pass activations
		halo *= ramp(f.tensor-nanZero(f.dfma), 0.1, 0.03)
	}
	v.say(halo, "neighbours exchange halos among all ranks", scores{HPC: 3.5, Training: -3, Inference: -3, BatchInference: -3, Rendering: -2})
	if f.alltoall && f.reduces {
		v.say(1, "experts are exchanged beside gradients", scores{Training: 0.8})
	}
	// One job that decodes (many small calls) and sums gradients generates its own data.
	v.say(ramp(f.smallRate, 30, 150)*bool01(f.reduces)*ramp(f.gradient, 0.1, 0.3), "decoding and gradient exchange in one job", scores{RL: 5, Training: 1.5})
	swing := ramp(f.tensorCV, 0.3, 0.7) * ramp(f.broadcasts, 0.01, 0.1) * bool01(f.reduces)
	v.say(swing, "phases of generation and update alternate, with weights broadcast between", scores{RL: 4})
	v.say(1, "", scores{Mining: -3, BurnIn: -2, Rendering: -1.5, Notebook: -1, Idle: -1.5})
}

func nanZero(x float64) float64 {
	if math.IsNaN(x) {
		return 0
	}
	return x
}

func bool01(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// trafficRules look at the network and at storage.
func trafficRules(v *verdict, f *facts, ep *run.Episode) {
	sec := math.Max(60, float64(ep.EndMs-ep.StartMs)/1000)
	busy := bool01(f.busyEver || f.basis == run.BasisPower)
	if f.nodes > 1 && busy > 0 {
		inside := ep.Flow.InsideBytes / sec / float64(f.nodes)
		across := math.Max(inside, f.fabricBps)
		if math.IsNaN(f.fabricBps) {
			across = inside
		}
		if !f.hasComm {
			v.say(ramp(math.Log10(across+1), 8, 9.3), fmt.Sprintf("nodes exchange %.1f GB/s", across/1e9), scores{Training: 2.2, RL: 1.5, HPC: 0.2, Inference: -1.5, BatchInference: -1.5, Rendering: -2.5, Mining: -3})
			// Halos of a simulation take up to a few GB/s; gradients and shards tens.
			v.say(ramp(math.Log10(across+1), 8, 8.7)*ramp(math.Log10(across+1), 10.3, 9.5), "", scores{HPC: 1.2})
			v.say(ramp(math.Log10(across+1), 8.3, 7)*ramp(math.Log10(across+1), 5, 6.5), "nodes exchange little", scores{HPC: 1, Training: -0.5})
		}
	}
	if busy > 0 {
		v.say(ramp(f.fabricCV, 0.25, 0.7), "the back-end network is used in bursts", scores{Training: 0.6, RL: 0.3, HPC: 0.3, Inference: -0.4})
	}
	if ep.Flow.Measured && busy > 0 {
		peers := float64(ep.Flow.OutsidePeers)
		v.say(ramp(peers, 4, 20)*bool01(f.ownsNodes), fmt.Sprintf("%d networks outside are served", ep.Flow.OutsidePeers), scores{Inference: 1.6, BatchInference: 0.1, Training: -0.8, HPC: -0.8, Mining: -1})
	}
	if bps := ep.Flow.OutsideBytes / sec; busy > 0 && ep.Flow.OutsidePeers > 0 {
		v.say(ramp(math.Log10(bps+1), 6, 7.3)*ramp(float64(ep.Flow.OutsidePeers), 12, 4), fmt.Sprintf("%.0f MB/s go to a few addresses outside, as results in bulk do", bps/1e6), scores{BatchInference: 1, Inference: -0.3})
	}
	if f.storage && f.nodes == 1 && f.checkpoint == 0 && busy > 0 {
		v.say(ramp(f.minutes, 45, 150), "in hours nothing was saved to storage", scores{Training: -0.6, RL: -0.1, HPC: -0.2})
	}
	if f.minutes > 20 {
		v.say(ramp(float64(f.checkpoint), 0.5, 2), fmt.Sprintf("%d bursts are written to storage", f.checkpoint), scores{Training: 1.2, HPC: 0.9, Inference: -1.2, BatchInference: -0.3, Mining: -2, BurnIn: -2})
	}
}

// powerRules judge a host by its watts (and ports) alone.
func powerRules(v *verdict, f *facts) {
	// Not told apart by watts: less likely, and no evidence for.
	v.say(1, "", scores{Notebook: -1.5, Idle: -1.5, Mining: -1.5, BurnIn: -1.5, Rendering: -1.5, HPC: -1.5})
	age := ramp(f.minutes, 1, 5)
	v.say(ramp(float64(f.nodes), 1, 2), fmt.Sprintf("%d hosts begin and end in step", f.nodes), scores{Training: 1.2, HPC: 0.6, Inference: -0.6, BatchInference: -0.4, Rendering: -0.8, Notebook: -3, Idle: -3})
	// Ranks that compute and communicate in turn swing the sum of eight GPUs within
	// seconds; independent requests average out.
	v.say(age*ramp(log10(f.hostCVIn), -1.95, -1.5), "watts swing within seconds, as synchronous steps do ("+fmt.Sprintf("%.1f %%", 100*f.hostCVIn)+")", scores{Training: 1.6, HPC: 0.3, Inference: -0.6, BatchInference: -0.8, BurnIn: -1.5, Mining: -2})
	v.say(age*ramp(f.hostCVIn, 0.01, 0.005), "watts are steady within the minute", scores{Inference: 0.5, BatchInference: 0.8, Training: -0.4, BurnIn: 0.8, Mining: 0.8})
	v.say(ramp(f.minutes, 5, 12)*ramp(f.hostCV, 0.03, 0.06), "the load wanders as users come and go", scores{Inference: 0.9, Training: -0.3, BatchInference: -0.6, HPC: -0.3})
	v.say(ramp(f.minutes, 5, 10)*ramp(f.hostCV, 0.03, 0.015), "the load keeps one level", scores{BatchInference: 0.8, Inference: -0.8, Training: 0.2, HPC: 0.2})
	v.say(age*ramp(f.hostFrac, 0.7, 0.85), "GPUs draw near their limit", scores{Training: 0.8, BurnIn: 0.6, Inference: -0.6})
	v.say(age*ramp(f.hostFrac, 0.68, 0.5), "GPUs draw well below their limit", scores{Inference: 0.8, BatchInference: 0.4, Training: -0.7, HPC: 0.3})
	v.say(ramp(f.hostFrac, 0.2, 0.1), "hardly more than at rest", scores{Idle: 1.5, Notebook: 1.2, Training: -1})
	if f.nodes == 1 {
		v.say(ramp(math.Log10(f.fabricBps+1), 8, 9.5), "the back-end network carries much", scores{Training: 1, HPC: 0.4, Inference: -0.5})
	} else {
		v.say(ramp(math.Log10(f.fabricBps+1), 8, 9.5), "hosts exchange much over the back-end network", scores{Training: 1.5, Inference: -1})
	}
}

// programs maps parts of program names to what they declare.
var programs = []struct {
	part   string
	effect scores
}{
	{"vllm", scores{Inference: 2.2, BatchInference: 1.6}}, {"tritonserver", scores{Inference: 2.2, BatchInference: 1}}, {"sglang", scores{Inference: 2.2, BatchInference: 1.6}},
	{"text-generation", scores{Inference: 2.2, BatchInference: 1.4}}, {"tgi", scores{Inference: 1.5, BatchInference: 1}}, {"trtllm", scores{Inference: 2, BatchInference: 1.4}},
	{"ollama", scores{Inference: 2.2}}, {"lmdeploy", scores{Inference: 2, BatchInference: 1.4}}, {"llama-server", scores{Inference: 2.2}},
	{"gpu_burn", scores{BurnIn: 3}}, {"gpu-burn", scores{BurnIn: 3}}, {"dcgmproftester", scores{BurnIn: 3}}, {"dcgmi", scores{BurnIn: 2}}, {"nvbandwidth", scores{BurnIn: 2}},
	{"blender", scores{Rendering: 2.5}}, {"octane", scores{Rendering: 2.2}}, {"redshift", scores{Rendering: 2.2}}, {"arnold", scores{Rendering: 2}}, {"ffmpeg", scores{Rendering: 2}}, {"maya", scores{Rendering: 2}},
	{"gmx", scores{HPC: 2.5}}, {"gromacs", scores{HPC: 2.5}}, {"namd", scores{HPC: 2.5}}, {"lmp", scores{HPC: 2.5}}, {"lammps", scores{HPC: 2.5}}, {"amber", scores{HPC: 2.2}}, {"pmemd", scores{HPC: 2.5}},
	{"xhpl", scores{HPC: 2.5}}, {"hpl", scores{HPC: 1.5}}, {"pyfr", scores{HPC: 2.5}}, {"chroma", scores{HPC: 2}}, {"vasp", scores{HPC: 2.5}}, {"cp2k", scores{HPC: 2.5}}, {"icon", scores{HPC: 1}},
	{"openfoam", scores{HPC: 2.5}}, {"nekrs", scores{HPC: 2.5}}, {"wrf", scores{HPC: 2}}, {"xmrig", scores{Mining: 3}}, {"t-rex", scores{Mining: 3}}, {"ethminer", scores{Mining: 3}}, {"lolminer", scores{Mining: 3}},
	{"jupyter", scores{Notebook: 2}}, {"ipython", scores{Notebook: 1.5}},
}

// launchers maps a declared launcher to what it suggests.
var launchers = map[string]scores{
	"torchrun":   {Training: 1.6, RL: 0.3, Inference: -0.5, HPC: -1, Rendering: -1, Mining: -1, Notebook: -1},
	"deepspeed":  {Training: 1.6, RL: 0.4, Inference: -0.3, HPC: -1, Rendering: -1, Mining: -1, Notebook: -1},
	"accelerate": {Training: 1.4, Finetuning: 0.6, HPC: -1},
	"ray":        {RL: 1.2, Inference: 0.3, Training: 0.3, BatchInference: 0.4},
	"mpirun":     {HPC: 0.9, Training: 0.4, Inference: -0.8, Notebook: -1},
	"srun":       {Training: 0.6, HPC: 0.4, Inference: -0.4, Notebook: -0.5},
}

// declaredRules take declarations as weak evidence. They weigh least where they can be
// checked against measurements, which outvote them.
func declaredRules(v *verdict, ev *feature.Evidence, ep *run.Episode, f *facts) {
	trust := 1.0
	if !math.IsNaN(f.tensor) && !math.IsNaN(f.dram) { // the pipes say themselves what is done
		trust = 0.6
	}
	for _, p := range programs {
		for _, exe := range ep.Exes {
			if strings.Contains(strings.ToLower(exe), p.part) {
				v.say(trust/float64(len(ep.Exes)), "the program calls itself "+exe, p.effect)
			}
		}
	}
	for _, l := range ep.Launchers {
		if e, ok := launchers[l]; ok {
			v.say(trust/float64(len(ep.Launchers)), "started by "+l, e)
		}
	}
	// Where a program's file cannot be seen it is known by its main thread's name, which PyTorch sets.
	python := slices.ContainsFunc(ep.Exes, func(e string) bool { return strings.HasPrefix(e, "python") || strings.HasPrefix(e, "pt_main_thread") })
	switch {
	case python && ep.WorldSize > 1:
		v.say(trust, fmt.Sprintf("a Python program of %d ranks", ep.WorldSize), scores{Training: 0.8, RL: 0.2, HPC: -0.8, Mining: -1})
	case python:
		v.say(1, "", scores{HPC: -0.8, Rendering: -0.8})
	case len(ep.Exes) > 0 && slices.Contains(ep.Launchers, "mpirun"):
		// Frameworks for training are driven from Python; what MPI starts is simulation else.
		v.say(trust, "a compiled program started by MPI", scores{HPC: 0.9, Training: -0.9, RL: -0.9, Finetuning: -0.9})
	}
	use := ordersUse(ev, ep.Accounts)
	v.say(bool01(strings.Contains(use, "inference") || strings.Contains(use, "serving")), "the order declares inference", scores{Inference: 0.4, BatchInference: 0.3})
	v.say(bool01(strings.Contains(use, "render")), "the order declares rendering", scores{Rendering: 0.4})
	v.say(bool01(strings.Contains(use, "hpc") || strings.Contains(use, "simulation")), "the order declares simulation", scores{HPC: 0.4})
	v.say(bool01(strings.Contains(use, "training")), "the order declares training", scores{Training: 0.4})
}

// ordersUse joins the declared uses of the accounts' latest order versions.
func ordersUse(ev *feature.Evidence, accounts []string) string {
	latest := map[string]string{}
	var ids []string
	for i := range ev.Orders {
		o := &ev.Orders[i]
		if !slices.Contains(accounts, o.Account) {
			continue
		}
		if _, ok := latest[o.Order]; !ok {
			ids = append(ids, o.Order)
		}
		latest[o.Order] = strings.ToLower(o.DeclaredUse)
	}
	var uses []string
	for _, id := range ids {
		if u := latest[id]; u != "" && !slices.Contains(uses, u) {
			uses = append(uses, u)
		}
	}
	if len(uses) != 1 { // several uses: it is not said which one this is
		return ""
	}
	return uses[0]
}

// decide turns log-odds into probabilities. Evidence counts in full after a quarter of
// an hour.
func (v *verdict) decide(f *facts, cal *Calibration) Verdict {
	basis, missed := f.instruments()
	out := Verdict{Probs: v.probs(f, cal.sharpOf(basis)), Missed: missed}
	out.Class, out.Prob = named(out.Probs)
	if f.blind(basis) && IsRun(out.Class) && out.Probs[Training]+out.Probs[Finetuning]+out.Probs[RL] < leastBlind*(1-out.Probs[Unknown]) {
		out.Class, out.Prob = Unknown, out.Probs[Unknown]
	}
	out.Share = f.share(out.Class)
	out.Reasons = v.reasons(out.Class)
	if f.belied > 0.5 {
		out.Reasons = append(out.Reasons, "counters of activity read zero while the GPUs draw the watts of work, so they are not believed")
	}
	return out
}

// leastBlind is how probable a training has to be to be said where nothing was seen that tells a
// training's steps from a queue's.
const leastBlind = 2.0 / 3

// blind reports that pipes are missing and nothing else shows steps: one host, nothing
// saved, no period, no collectives.
func (f *facts) blind(basis string) bool {
	return (basis == basisNVML || basis == basisPartial) && f.nodes == 1 && f.checkpoint == 0 &&
		!(f.rhythm*f.rhythmSame > 0.3)
}

// probs are the calibrated probabilities.
func (v *verdict) probs(f *facts, cal Sharp) map[string]float64 {
	sharp := cal.Slope * age(f.minutes)
	v.sum[Finetuning] = math.Min(v.sum[Finetuning], v.sum[Training]+1)
	top := math.Inf(-1)
	sum := scores{}
	for _, c := range classes {
		if c == Unknown {
			continue
		}
		sum[c] = sharp * v.sum[c]
		if IsRun(c) {
			sum[c] += cal.Offset
		}
		top = math.Max(top, sum[c])
	}
	out := make(map[string]float64, len(classes))
	total := 0.0
	for _, c := range classes {
		if c != Unknown {
			out[c] = math.Exp(sum[c] - top)
			total += out[c]
		}
	}
	// What is none of these is likeliest where none of them leads.
	// Without the pipes nobody may be as sure as with them.
	open := 0.3 * (1 - 1/total)
	switch basis, _ := f.instruments(); basis {
	case basisWatts, basisNVML:
		open += 0.08
	case basisPartial:
		open += 0.04
	default:
		open += 0.02
	}
	const floor = 0.002 // no class is ever excluded
	for _, c := range classes {
		p := open
		if c != Unknown {
			p = (1 - open) * out[c] / total
		}
		out[c] = floor + (1-floor*float64(len(classes)))*p
	}
	return out
}

// age is how much of the evidence counts: all of it after a quarter of an hour.
func age(minutes float64) float64 { return 0.55 + 0.45*ramp(minutes, 1, 15) }

// named is the class that is said. A training is named where it is likelier than not to be
// one; another class where it leads, and clearly ahead of being a training. Else nothing is
// claimed: the probabilities say what is possible.
func named(probs map[string]float64) (string, float64) {
	best, lead := "", 0.0
	p := 0.0
	for _, c := range classes {
		if IsRun(c) {
			p += probs[c]
		}
	}
	training := p >= 0.5*(1-probs[Unknown]) && p >= 1.0/3
	for _, c := range classes {
		if training == IsRun(c) && c != Unknown && probs[c] > lead {
			best, lead = c, probs[c]
		}
	}
	if !training && lead < 0.2 {
		return Unknown, probs[Unknown]
	}
	return best, lead
}

// reasons lists what spoke most for the class, over the mean of the others.
func (v *verdict) reasons(class string) []string {
	type said struct {
		text string
		w    float64
	}
	var list []said
	at := map[string]int{}
	for _, f := range v.fired {
		if f.text == "" {
			continue
		}
		w := f.effect[class]
		for _, c := range classes {
			if c != class {
				w -= f.effect[c] / float64(len(classes)-1)
			}
		}
		i, ok := at[f.text]
		if !ok {
			i = len(list)
			at[f.text] = i
			list = append(list, said{text: f.text})
		}
		list[i].w += w
	}
	list = slices.DeleteFunc(list, func(s said) bool { return s.w <= 0.1 })
	slices.SortStableFunc(list, func(a, b said) int {
		switch {
		case a.w > b.w:
			return -1
		case a.w < b.w:
			return 1
		}
		return 0
	})
	var out []string
	for _, s := range list[:min(5, len(list))] {
		if !slices.Contains(out, s.text) {
			out = append(out, s.text)
		}
	}
	if len(out) == 0 {
		out = []string{"nothing that was measured speaks for a class"}
	}
	return out
}
