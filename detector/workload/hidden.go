package workload

import (
	"math"
	"slices"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// hidden is what lies beneath a load that comes and goes: the part of a signal that stays
// where the load tends to nothing. A server's matrix work, its FP32 work and its exchange
// follow the bytes it reads to serve; of a training that shares its GPUs they do not. All are
// shares of the mean of the signal, NaN where load never varied enough to tell.
type hidden struct {
	tensor, fp32, nvlink float64
	ofTensor             [2]float64 // low and high of the share of tensor work
	gpus                 int        // that could tell
}

// hiddenMeans sums a GPU's minutes, then the GPUs.
type hiddenMeans struct {
	x, x2                float64 // memory traffic
	n                    float64
	y, y2, xy            [3]float64
	ny                   [3]float64
	tensor, fp32, nvlink mean
	low, high            mean
	gpus                 int
}

var beneath = [3]feature.Signal{feature.TensorFrac, feature.FP32Frac, feature.NVLinkTxBps}

func (h *hiddenMeans) see(c *feature.GPUCell) {
	if !c.Has(feature.DRAMFrac) || !c.Has(feature.TensorFrac) {
		return
	}
	w, x := span(c), c.Mean[feature.DRAMFrac]
	h.n += w
	h.x += w * x
	h.x2 += w * x * x
	for i, s := range beneath {
		if c.Has(s) {
			y := c.Mean[s]
			h.ny[i] += w
			h.y[i] += w * y
			h.y2[i] += w * y * y
			h.xy[i] += w * x * y
		}
	}
}

// next closes a GPU.
func (h *hiddenMeans) next() {
	defer func() {
		h.x, h.x2, h.n, h.y, h.y2, h.xy, h.ny = 0, 0, 0, [3]float64{}, [3]float64{}, [3]float64{}, [3]float64{}
	}()
	if h.n < 15 {
		return
	}
	mx := h.x / h.n
	vx := h.x2/h.n - mx*mx
	if !(mx > 0.05) || vx < 0.0064*mx*mx { // the load has to vary by 8 % for a line to be seen
		return
	}
	share := func(i int) (ols, rma float64) {
		if h.ny[i] < h.n-0.5 || h.y[i] <= 0 {
			return math.NaN(), math.NaN()
		}
		my := h.y[i] / h.n
		vy := math.Max(0, h.y2[i]/h.n-my*my)
		cov := h.xy[i]/h.n - mx*my
		// Ordinary least squares leave too much beneath where the load is seen with
		// noise; the ratio of the spreads too little.
		ols = 1 - cov/vx*mx/my
		rma = 1 - math.Copysign(math.Sqrt(vy/vx), cov)*mx/my
		return clip(ols), clip(rma)
	}
	o, r := share(0)
	if math.IsNaN(o) {
		return
	}
	h.gpus++
	h.tensor.add((o + r) / 2)
	h.low.add(math.Min(o, r))
	h.high.add(math.Max(o, r))
	o, r = share(1)
	h.fp32.add((o + r) / 2)
	o, r = share(2)
	h.nvlink.add((o + r) / 2)
}

func clip(x float64) float64 { return math.Max(-1, math.Min(1, x)) }

func (h *hiddenMeans) tell() hidden {
	return hidden{tensor: h.tensor.value(), fp32: h.fp32.value(), nvlink: h.nvlink.value(), ofTensor: [2]float64{h.low.value(), h.high.value()}, gpus: h.gpus}
}

// hiddenRules look for a training beneath served load.
func hiddenRules(v *verdict, f *facts) {
	h := f.hidden
	if h.gpus == 0 || f.phases > 0 { // phases of one job are no two jobs
		return
	}
	v.say(ramp(h.tensor, 0.12, 0.4), pct(h.tensor)+" of the tensor work stays where the load of serving goes away", scores{Training: 1.2, Finetuning: 0.5, Inference: -0.6, BatchInference: -0.4})
	apart := h.fp32 - math.Max(0, h.tensor)
	v.say(ramp(h.fp32, 0.3, 0.6)*ramp(apart, 0.15, 0.45), pct(h.fp32)+" of the FP32 work does not follow the load, as an optimizer's does not", scores{Training: 2, Finetuning: 1, RL: 0.5, Inference: -1, BatchInference: -0.5})
}

// decodeReuse is the memory traffic for the tensor work of decoding, low, best and high;
// trainReuse that of training.
var (
	decodeReuse = [3]float64{2, 5, 12}
	trainReuse  = 0.8
)

// besides says what speaks for a second activity on an episode's own GPUs: what is known of the
// programs on them, and of whom its hosts serve.
type besides struct {
	two   bool // two programs, or served traffic: one is there
	alone bool // one program a GPU and nobody served: none is
}

// served is from how many networks outside on somebody asks something of an episode's hosts.
const served = 4

func besideOf(ev *feature.Evidence, ep *run.Episode, ownsNodes bool) besides {
	twice, once := holders(ev, ep)
	serves := ep.Flow.Measured && ownsNodes && ep.Flow.OutsidePeers >= served
	return besides{two: ep.Shared || twice || serves, alone: once && !serves && !ep.Shared}
}

// holders reports that two programs held one of the GPUs for half of the episode, and that all
// GPUs were held by one program each.
func holders(ev *feature.Evidence, ep *run.Episode) (twice, once bool) {
	held := map[feature.GPUKey][]int64{} // by each program on the GPU
	for i := range ev.Processes {
		p := &ev.Processes[i]
		if !slices.Contains(ep.Procs, run.ProcRef{Node: p.Node, PID: p.PID}) {
			continue
		}
		end := ep.EndMs
		if p.EndMs > 0 {
			end = min(end, p.EndMs)
		}
		if ms := end - max(ep.StartMs, p.StartMs); ms > 0 {
			for _, gpu := range p.GPUs {
				k := feature.GPUKey{Node: p.Node, GPU: gpu}
				held[k] = append(held[k], ms)
			}
		}
	}
	once = true
	for _, m := range ep.Members {
		long := 0
		for _, ms := range held[feature.GPUKey{Node: m.Node, GPU: m.GPU}] {
			if 4*ms > 3*(ep.EndMs-ep.StartMs) { // both for three quarters: at once for half
				long++
			}
		}
		twice = twice || long > 1
		once = once && len(held[feature.GPUKey{Node: m.Node, GPU: m.GPU}]) > 0
	}
	return twice, once && !twice
}

// unsure is the least that is a training's own where much is read for what is multiplied and
// nothing tells whether something else is on its GPUs: small models read as much.
const unsure = 0.5

// share is what part of the tensor work is a training's that hides beneath other load;
// zeros where nothing speaks for other load. That much is read for what is multiplied is no
// evidence of its own: a training that is ill fed, or in FP8, does so too.
func (f *facts) share(class string) [3]float64 {
	if !IsRun(class) || class == RL || !(f.tensor > 0) || !(f.dram > 0) {
		return [3]float64{}
	}
	ratio := f.dram / f.tensor
	flat := f.hidden.gpus > 0 && f.hidden.fp32 > 0.3 && f.hidden.fp32 > f.hidden.tensor+0.15
	switch {
	case flat, ratio >= 1.4 && f.beside.two:
	case ratio < 1.4 || f.beside.alone:
		return [3]float64{}
	default:
		return [3]float64{unsure, 1, 1}
	}
	// What decoding does not explain: of each GPU's tensor work w, decoding d and training
	// w-d move decodeReuse x d + trainReuse x (w-d) bytes.
	part := func(decode float64) float64 {
		return math.Max(0, math.Min(1, (decode-ratio)/(decode-trainReuse)))
	}
	out := [3]float64{part(decodeReuse[0]), part(decodeReuse[1]), part(decodeReuse[2])}
	if f.hidden.gpus > 0 && f.hidden.tensor > 0.05 {
		out[0] = math.Max(out[0], 0.7*f.hidden.ofTensor[0])
		out[1] = math.Max(f.hidden.tensor, math.Min(out[1], f.hidden.tensor+0.4))
	}
	out[0] = math.Max(0.02, math.Min(out[0], out[1]))
	out[1] = math.Max(out[1], out[0])
	out[2] = math.Max(out[2], out[1])
	return out
}
