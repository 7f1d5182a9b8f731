package drawn

import "sort"

// What one GPU does, as rates: everything is integrated over time, and adds up over what
// runs on it.
const (
	sUtil = iota
	sSM
	sOcc
	sTensor
	sHMMA
	sIMMA
	sDFMA
	sFP64
	sFP32
	sFP16
	sInt
	sDRAM
	sEnc
	sDec
	sCycles // tensor cycles a second, mean over the SMs
	sPCIeTx // bytes a second, as all below
	sPCIeRx
	sNVTx
	sNVRx
	sPower // W above idle
	sMem   // bytes above the residue
	sBusy  // share of time at the busy clock
	sClock // busy share × MHz
	sFabTx // bytes a second of the node's back-end network
	sFabRx
	sWan   // to the piece's peers, over the front network
	sOutTx // to addresses outside
	sStTx  // to storage
	sStRx
	sCPU   // share of the host
	sExec  // FLOP/s as truth counts them
	sModel // FLOP/s on the model basis
	nSig
)

type sig [nSig]float64

func (s *sig) add(o *sig, f float64) {
	for i := range s {
		s[i] += o[i] * f
	}
}

// with gives a copy that is changed.
func (s sig) with(change func(*sig)) sig { change(&s); return s }

// source is what goes on over time. Times are seconds since the recording's start.
type source interface {
	// integral adds the integral over [a, b] times f to out.
	integral(a, b float64, f float64, out *sig)
}

// steady is one level.
type steady struct{ level sig }

func (s *steady) integral(a, b, f float64, out *sig) { out.add(&s.level, f*(b-a)) }

// beat is a rhythm in time: how many steps are done when. Ranks of a job share one.
type beat struct {
	at     []float64 // s
	done   []float64 // steps done at that time
	period []float64 // s, from at[i] on
}

// newBeat makes steps from a to b of about the given period, which wanders.
func newBeat(r *rng, a, b, period, jitter float64) *beat {
	chunk := max(12*period, 45)
	n := int((b-a)/chunk) + 2
	slow := r.wander(n, jitter, 20)
	t := &beat{}
	at, done := a, r.Float64()
	for i := 0; at < b || i == 0; i++ {
		p := period * slow[min(i, n-1)] * r.factor(jitter/2)
		t.at, t.done, t.period = append(t.at, at), append(t.done, done), append(t.period, p)
		at += chunk
		done += chunk / p
	}
	return t
}

// phase is a part of a step.
type phase struct {
	share float64 // of the step's time
	level sig
}

// steps repeats phases on a beat; lead moves this rank within the step.
type steps struct {
	beat   *beat
	phases []phase
	lead   float64
	whole  sig   // integral of one step of period 1
	cum    []sig // at the start of each phase
	start  []float64
}

func newSteps(b *beat, lead float64, phases []phase) *steps {
	s := &steps{beat: b, lead: lead}
	total := 0.0
	for _, p := range phases {
		total += p.share
	}
	at := 0.0
	for _, p := range phases {
		if p.share <= 0 {
			continue
		}
		p.share /= total
		s.phases, s.start, s.cum = append(s.phases, p), append(s.start, at), append(s.cum, s.whole)
		s.whole.add(&p.level, p.share)
		at += p.share
	}
	return s
}

// upTo adds the integral from step 0 to x, in steps.
func (s *steps) upTo(x, f float64, out *sig) {
	n := float64(int64(x))
	out.add(&s.whole, f*n)
	x -= n
	i := len(s.phases) - 1
	for i > 0 && s.start[i] > x {
		i--
	}
	out.add(&s.cum[i], f)
	out.add(&s.phases[i].level, f*(x-s.start[i]))
}

func (s *steps) integral(a, b, f float64, out *sig) {
	t := s.beat
	i := max(sort.SearchFloat64s(t.at, a)-1, 0)
	for a < b {
		to := b
		if i+1 < len(t.at) {
			to = min(b, t.at[i+1])
		}
		if to > a {
			p := t.period[i]
			from := t.done[i] + (a-t.at[i])/p + s.lead + 1
			s.upTo(from+(to-a)/p, f*p, out)
			s.upTo(from, -f*p, out)
		}
		a = to
		i++
	}
}

// mix weighs levels over time, in bins.
type mix struct {
	from, bin float64
	levels    []sig
	cum       [][]float64 // of each level: integral of its weight up to the start of bin i
}

// newMix takes the weight of each level in each bin.
func newMix(from, bin float64, levels []sig, weights [][]float64) *mix {
	m := &mix{from: from, bin: bin, levels: levels}
	for _, w := range weights {
		cum := make([]float64, len(w)+1)
		for i, x := range w {
			cum[i+1] = cum[i] + x*bin
		}
		m.cum = append(m.cum, cum)
	}
	return m
}

func (m *mix) at(k int, t float64) float64 {
	cum := m.cum[k]
	x := (t - m.from) / m.bin
	if x <= 0 {
		return 0
	}
	i := int(x)
	if i >= len(cum)-1 {
		return cum[len(cum)-1]
	}
	return cum[i] + (cum[i+1]-cum[i])*(x-float64(i))
}

func (m *mix) integral(a, b, f float64, out *sig) {
	for k := range m.levels {
		if w := m.at(k, b) - m.at(k, a); w != 0 {
			out.add(&m.levels[k], f*w)
		}
	}
}

// scaled is a source at a share of its rates, memory left out.
type scaled struct {
	source
	by float64
}

func (s scaled) integral(a, b, f float64, out *sig) {
	var x sig
	s.source.integral(a, b, f, &x)
	mem := x[sMem]
	x[sMem] = 0
	out.add(&x, s.by)
	out[sMem] += mem
}
