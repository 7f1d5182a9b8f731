package flops

import "math"

// What a busy tensor cycle did is a mixture (prior.dtype), narrowed by what was measured.
//
// The part comes first (no FP8 before Hopper, no TF32 before Ampere), then the split of the
// pipes: integer and FP64 work is counted as what it is. What is left in HMMA is weighed by two
// ratios of the GPUs to themselves, which need no constant of a fleet: how busy the pipes were,
// and how busy they were while the SMs worked. Joules do not tell: one H100 does 1.77 times the
// operations of 16 bit in FP8 matrix products at the same 700 W, so a busy FP8 cycle costs an
// eighth more than a 16-bit one, and half of the cycles of an FP8 training are 16-bit ones; two
// trainings in 16 bit differ by more.

// lobe is a part of the distribution of a ratio: the logarithm is normal.
type lobe struct{ p, median, sd float64 }

func density(lobes []lobe, x float64) float64 {
	sum := 0.0
	for _, l := range lobes {
		sum += l.p * math.Exp(-sq((math.Log(x)-math.Log(l.median))/l.sd)/2) / l.sd
	}
	return sum
}

// Busy levels at the 16-bit rate: HMMA over the tensor peak. Published trainings execute
// 0.26-0.60 of the 16-bit peak in 16 bit, and 0.36-0.6 in FP8, which is 0.24-0.4 of the pipes'
// time; both have a long tail downwards, so a low level says little and a high one speaks
// against FP8. TF32 is what a program does that was never tuned: in 16 bit it would keep the
// pipes busy for a quarter of the time, and its products take twice as long.
func levelLobes(factor float64) []lobe {
	switch {
	case factor > 1:
		return []lobe{{0.6, 0.26, 0.28}, {0.4, 0.18, 0.6}}
	case factor < 1:
		return []lobe{{1, 0.33, 0.5}}
	}
	return []lobe{{0.55, 0.40, 0.25}, {0.45, 0.25, 0.6}}
}

// Busy tensor pipes over busy SMs: 0.58-0.70 where 16-bit trainings are bound by their matrix
// products, 0.23-0.42 where they are not (nine published conditions). In FP8 the products take
// half of the time and the rest stays, so what is 0.65 in 16 bit is 0.45 in FP8.
func shareLobes(factor float64) []lobe {
	if factor > 1 {
		return []lobe{{0.55, 0.42, 0.2}, {0.45, 0.24, 0.4}}
	}
	return []lobe{{0.5, 0.63, 0.18}, {0.5, 0.31, 0.38}}
}

// scale notes how many GPUs worked at once: whoever trains on many has tuned what it does.
func (w *Work) scale(p *prior) {
	for i := range w.Minutes {
		p.gpus = max(p.gpus, w.Minutes[i].GPUMs/minuteMs)
	}
	if p.steep {
		p.dtype, p.dtypeOld = sized(p.dtype, p.gpus), sized(p.dtypeOld, p.gpus)
	}
}

// sized gives TF32 more on a few GPUs, where much is code whose precision nobody chose, and
// less on many. Bytes of gradients and of memory do not tell it from 16 bit, whose
// master weights and gradients are FP32 as well; nor do joules, which go with busy cycles.
func sized(modes []mode, gpus float64) []mode {
	k := 1.0
	switch {
	case gpus > 0 && gpus < 4.5:
		k = 2.5
	case gpus > 32.5:
		k = 0.5
	}
	out := make([]mode, len(modes))
	sum := 0.0
	for i, m := range modes {
		if m.factor < 1 {
			m.p *= k
		}
		out[i] = m
		sum += m.p
	}
	for i := range out {
		out[i].p /= sum
	}
	return out
}

// narrowed weighs the data types of a training by its levels. Nothing that two ratios say
// outweighs a factor of six: layouts are more various than what was published.
func narrowed(modes []mode, total *Minute) []mode {
	if total.TensorPeak <= 0 || total.HMMA <= 0 {
		return modes
	}
	level := total.HMMA / total.TensorPeak
	share := 0.0
	if total.BusySM > 0.3*total.TensorPeak*level { // where the SMs were measured for most of it
		share = total.BusyTensor / total.BusySM
	}
	weight := func(m mode) float64 {
		w := math.Log(density(levelLobes(m.factor), level) / density(levelLobes(1), level))
		if share > 0 && share <= 1.05 { // the two ratios are no two witnesses: the second counts half
			w += 0.5 * math.Log(density(shareLobes(m.factor), share)/density(shareLobes(1), share))
		}
		return math.Exp(min(max(w, -math.Log(6)), math.Log(6)))
	}
	out := make([]mode, len(modes))
	sum := 0.0
	for i, m := range modes {
		if m.factor != 1 {
			m.p *= weight(m)
		}
		out[i] = m
		sum += m.p
	}
	if sum <= 0 {
		return modes
	}
	for i := range out {
		out[i].p /= sum
	}
	return out
}
