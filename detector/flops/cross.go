package flops

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// Kinds of contradictions.
const (
	CrossWattsSM  = "watts_active"    // watts against active SMs
	CrossJoules   = "joules_per_flop" // watts against tensor work
	CrossCycles   = "cycles_activity" // tensor cycles against activity x clock
	CrossEnergy   = "energy_watts"    // energy counter against watts
	CrossHost     = "host_gpus"       // the host's meter against the sum over its GPUs
	CrossPeers    = "peers"           // tensor work a watt against the run's other GPUs
	CrossPart     = "part"            // what the inventory says the GPU is
	crossLeastMs  = 10 * minuteMs     // a shorter stretch is no contradiction
	crossHoleMs   = 3 * minuteMs      // minutes that agree within a stretch
	crossPriorLn  = -4.6              // one in a hundred, before anything was seen
	crossLeastLn  = 1.0               // log odds from which on a contradiction is told
	crossEdgeMs   = 2 * minuteMs      // of a member, in which work begins or ends
	crossBusyFrac = 0.30              // of the power range, from which on ratios say something
)

// ratio is what two domains should show of each other: the logarithm of what the second says
// over what the first says, its usual middle taken off, and the usual spread.
type ratio struct {
	kind   string
	sd     float64
	upper  bool           // only an excess contradicts
	moment feature.Signal // sampled at moments, which may keep time with the work; NumSignals: none
	of     func(c, prev *feature.GPUCell) (float64, bool)
	reason string // with the verb %g for the ratio
}

// CrossCheck compares the instruments of a run's GPUs and hosts with each other, and says where
// two cannot both be right for ten minutes and more: sorted by node, GPU, kind and time. A node
// whose GPUs show the same is told once.
//
// The spreads are between parts, layouts and instruments, so that a stretch however long is one
// witness: time only confirms that it is no moment.
func CrossCheck(ev *feature.Evidence, members []run.Member, class string) []Contradiction {
	ms := measurer{ev: ev, work: &Work{}, nodes: map[string]*host{}}
	all := clip(Input{Ev: ev, Members: members})
	var out []Contradiction
	peers := ms.peerLevel(all, class)
	for i := 0; i < len(all); {
		k := i
		for k < len(all) && all[k].Node == all[i].Node {
			k++
		}
		node := all[i:k]
		var of []Contradiction
		gpus := 0
		for j, m := range node {
			if j == 0 || m.GPU != node[j-1].GPU {
				gpus++
			}
			of = append(of, ms.gpuCross(m, class, peers)...)
		}
		out = append(out, together(of, gpus)...)
		out = append(out, ms.hostCross(node)...)
		if c, ok := ms.partCross(node); ok {
			out = append(out, c)
		}
		i = k
	}
	slices.SortStableFunc(out, func(a, b Contradiction) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.FromMs, b.FromMs))
	})
	return out
}

func steep(class string) bool { p := priorOf(class); return p.steep }

// gpuCross checks one member.
func (ms *measurer) gpuCross(m run.Member, class string, peers float64) []Contradiction {
	h := ms.host(m.Node)
	cells := ms.ev.CellsFrom(feature.GPUKey{Node: m.Node, GPU: m.GPU}, m.StartMs)
	unit := ms.cycleUnit(h, m, cells)
	var out []Contradiction
	for _, r := range ratios(h, class, unit, peers) {
		out = append(out, stretches(r, cells, m)...)
	}
	return out
}

// wattsOf is what a cell drew, by its energy counter rather than by samples of moments.
func wattsOf(c *feature.GPUCell) (float64, bool) {
	if sec := float64(c.EnergyJ.LastMs-c.EnergyJ.FirstMs) / 1000; c.EnergyJ.Has() && sec >= 30 {
		return c.EnergyJ.Delta / sec, true
	}
	return c.Mean[feature.PowerW], c.Has(feature.PowerW)
}

// drawn is where the watts of a cell lie between rest and full power.
func drawn(a *Accelerator, c *feature.GPUCell) (float64, bool) {
	w, ok := wattsOf(c)
	if !ok || a.Key == "generic" {
		return 0, false
	}
	return powerFrac(w, a.IdleW(), a.TDPW-a.IdleW()), true
}

// tensorRate is the tensor work of a cell in 16-bit FLOP a second.
func tensorRate(a *Accelerator, c *feature.GPUCell) (float64, bool) {
	if !c.Has(feature.TensorFrac) {
		return 0, false
	}
	flop, clocked := activity(a, c, 1000)
	return flop, clocked
}

func ratios(h *host, class string, unit, peers float64) []ratio {
	a := &h.acc
	spread := drawnPerSMSD
	if a.TDPW < 390*a.Share {
		spread = cappedSMSD
	}
	out := []ratio{
		{CrossWattsSM, spread, true, feature.NumSignals, func(c, _ *feature.GPUCell) (float64, bool) {
			x, ok := drawn(a, c)
			if s := c.Mean[feature.SMActiveFrac]; ok && x > crossBusyFrac && c.Has(feature.SMActiveFrac) {
				return math.Log(x/max(s, 0.01)) - drawnPerSM, true
			}
			return 0, false
		}, "it draws %.1f times the watts that its active SMs explain"},
		{CrossJoules, 0.18, true, feature.PowerW, func(c, _ *feature.GPUCell) (float64, bool) { // work that the watts cannot have done
			f, ok := tensorRate(a, c)
			w, has := wattsOf(c)
			if ok = ok && has && a.Key != "generic" && f > 0.05*a.Peak16; !ok {
				return 0, false
			}
			return math.Log(f/a.Peak16/max(w/a.TDPW, 0.01)) + 0.1, true // the best products reach nine tenths
		}, "its tensor pipes claim %.1f times the work that its watts can do"},
		{CrossCycles, 0.08, false, feature.TensorFrac, func(c, _ *feature.GPUCell) (float64, bool) {
			sec := float64(c.MMACycles.LastMs-c.MMACycles.FirstMs) / 1000
			if !c.MMACycles.Has() || sec < 30 || !c.Has(feature.TensorFrac) || c.TensorClockMs < minuteMs/2 || c.Mean[feature.TensorFrac] < 0.03 && c.MMACycles.Delta/unit/sec < 3e7 {
				return 0, false
			}
			return math.Log(max(c.TensorClockMHz*1e6, 1e6) / max(c.MMACycles.Delta/unit/sec, 1e6)), true
		}, "activity x clock is %.2f times what the counter of tensor cycles says"},
		{CrossEnergy, 0.10, false, feature.PowerW, func(c, prev *feature.GPUCell) (float64, bool) {
			if !c.Has(feature.PowerW) || !c.EnergyJ.Has() {
				return 0, false
			}
			joules, sec := c.EnergyJ.Delta, float64(c.EnergyJ.LastMs-c.EnergyJ.FirstMs)/1000
			if sec < 30 && prev != nil && prev.EnergyJ.Has() && c.EnergyJ.First >= prev.EnergyJ.Last { // one reading a minute
				joules, sec = joules+c.EnergyJ.First-prev.EnergyJ.Last, float64(c.EnergyJ.LastMs-prev.EnergyJ.LastMs)/1000
			}
			if w := c.Mean[feature.PowerW]; sec >= 30 && sec < 600 && max(joules/sec, w) > 0.2*a.TDPW {
				return math.Log(max(w, 1) / max(joules/sec, 1)), true
			}
			return 0, false
		}, "its watts are %.2f times what its energy counter says"},
	}
	if steep(class) {
		p := priorOf(class)
		out = append(out, ratio{CrossJoules, drawnSD, true, feature.PowerW, func(c, _ *feature.GPUCell) (float64, bool) {
			x, ok := drawn(a, c)
			f, has := tensorRate(a, c)
			if !ok || !has || x < 0.4 || vectorBusy(c) || f < 0.01*a.Peak16 && !c.Has(feature.FP32Frac) { // plain FP32?
				return 0, false
			}
			return math.Log(p.watt * math.Pow(x, highExponent) * a.Peak16 / max(f, 1e-3*a.Peak16)), true
		}, "it draws %.1f times the joules a FLOP that trainings take"})
	}
	if peers > 0 {
		out = append(out, ratio{CrossPeers, 0.25, true, feature.NumSignals, func(c, _ *feature.GPUCell) (float64, bool) {
			x, ok := drawn(a, c)
			f, has := tensorRate(a, c)
			if !ok || !has || x < crossBusyFrac {
				return 0, false
			}
			return math.Log(peers * x / max(f/a.Peak16, 1e-3)), true
		}, "the run's other GPUs do %.1f times its tensor work at the same watts"})
	}
	return out
}

// vectorBusy says that the cell's work runs outside the tensor pipes.
func vectorBusy(c *feature.GPUCell) bool {
	return value(c, feature.FP32Frac)+value(c, feature.FP64Frac)+value(c, feature.FP16Frac) > 0.15 || value(c, feature.IntFrac) > 0.4
}

// stretches returns where a ratio is off for long enough. A minute is off where it lies two
// spreads away; what is told is the mean of the stretch.
func stretches(r ratio, cells []feature.GPUCell, m run.Member) []Contradiction {
	if r.moment < feature.NumSignals {
		r.sd *= coarse(cells, m, r.moment)
	}
	var out []Contradiction
	var from, to, offMs int64
	sum := 0.0
	flush := func() {
		if offMs >= crossLeastMs {
			mean := sum / float64(offMs)
			if odds := crossPriorLn + oddsOff(math.Abs(mean), r.sd); odds >= crossLeastLn {
				k := math.Exp(mean)
				out = append(out, Contradiction{
					Kind: r.kind, Node: m.Node, GPU: m.GPU, FromMs: from, ToMs: to, Ratio: k, LogOdds: odds, Reason: fmt.Sprintf(r.reason, k),
				})
			}
		}
		offMs, sum = 0, 0
	}
	lo := sort.Search(len(cells), func(i int) bool { return cells[i].EndMs() > m.StartMs+crossEdgeMs })
	for i := lo; i < len(cells) && cells[i].MinuteMs < m.EndMs-crossEdgeMs; i++ {
		c := &cells[i]
		var prev *feature.GPUCell
		if i > 0 {
			prev = &cells[i-1]
		}
		v, ok := r.of(c, prev)
		if !ok || math.IsNaN(v) || r.upper && v < 2*r.sd || !r.upper && math.Abs(v) < 2*r.sd || offMs > 0 && (v > 0) != (sum > 0) {
			if offMs > 0 && c.EndMs()-to > crossHoleMs {
				flush()
			}
			continue
		}
		if offMs == 0 {
			from = c.MinuteMs
		}
		if offMs > 0 && c.MinuteMs-to > crossHoleMs {
			flush()
			from = c.MinuteMs
		}
		to = c.EndMs()
		span := to - c.MinuteMs
		offMs += span
		sum += v * float64(span)
	}
	flush()
	return out
}

// coarse is by how much the spread of a ratio grows where a signal was sampled seldom and moves
// from sample to sample: what is seen of it may then keep time with the work.
func coarse(cells []feature.GPUCell, m run.Member, of feature.Signal) float64 {
	var moves []float64
	rows, minutes := 0, int64(0)
	lo := sort.Search(len(cells), func(i int) bool { return cells[i].EndMs() > m.StartMs })
	for i := lo; i < len(cells) && cells[i].MinuteMs < m.EndMs; i++ {
		c := &cells[i]
		rows += c.Samples
		minutes += (c.EndMs() - c.MinuteMs) / minuteMs
		if !c.Has(of) || c.Mean[of] <= 0 {
			continue
		}
		move := c.SD[of]
		if i > lo && c.Samples < 3 {
			move = math.Max(move, 0.7*math.Abs(c.Mean[of]-cells[i-1].Mean[of]))
		}
		moves = append(moves, move/c.Mean[of])
	}
	if len(moves) == 0 {
		return 1
	}
	slices.Sort(moves)
	move := moves[len(moves)*3/4]
	switch a := float64(rows) / math.Max(float64(minutes), 1); {
	case a >= 25:
		return 1
	case a >= 5.5:
		return 1 + min(move/0.1, 3)
	}
	return 1 + min(move/0.06, 5)
}

// oddsOff is how much likelier a distance is if one instrument is wrong by any factor up to
// fifty than if both are right.
func oddsOff(distance, sd float64) float64 {
	z := distance / sd
	right := math.Exp(-z*z/2)/(sd*math.Sqrt(2*math.Pi)) + 1e-5
	return math.Log(1 / math.Log(50) / right)
}

// together tells what at least half of a node's GPUs show of one kind as the node's.
func together(of []Contradiction, gpus int) []Contradiction {
	kinds := map[string][]Contradiction{}
	for _, c := range of {
		kinds[c.Kind] = append(kinds[c.Kind], c)
	}
	var out []Contradiction
	for _, kind := range [...]string{CrossWattsSM, CrossJoules, CrossCycles, CrossEnergy, CrossPeers} {
		list := kinds[kind]
		seen := map[int]bool{}
		for _, c := range list {
			seen[c.GPU] = true
		}
		if len(seen) < 2 || 2*len(seen) < gpus {
			out = append(out, list...)
			continue
		}
		one := list[0]
		one.GPU = -1
		ratio := 0.0
		for _, c := range list {
			one.FromMs, one.ToMs = min(one.FromMs, c.FromMs), max(one.ToMs, c.ToMs)
			if c.LogOdds > one.LogOdds {
				one.LogOdds, one.Reason = c.LogOdds, c.Reason
			}
			ratio += math.Log(c.Ratio)
		}
		one.Ratio = math.Exp(ratio / float64(len(list)))
		one.Reason = fmt.Sprintf("%d of %d GPUs: %s", len(seen), gpus, one.Reason)
		out = append(out, one)
	}
	return out
}

// peerLevel is the median tensor work a watt of a run's GPUs, as fractions of their ranges; 0
// where too few were measured.
func (ms *measurer) peerLevel(all []run.Member, class string) float64 {
	if !steep(class) {
		return 0
	}
	var of []float64
	for _, m := range all {
		h := ms.host(m.Node)
		cells := ms.ev.CellsFrom(feature.GPUKey{Node: m.Node, GPU: m.GPU}, m.StartMs)
		lo := sort.Search(len(cells), func(i int) bool { return cells[i].EndMs() > m.StartMs })
		work, watts, spanMs := 0.0, 0.0, int64(0)
		for i := lo; i < len(cells) && cells[i].MinuteMs < m.EndMs; i++ {
			x, ok := drawn(&h.acc, &cells[i])
			f, has := tensorRate(&h.acc, &cells[i])
			if ok && has && x > crossBusyFrac {
				ms := cells[i].EndMs() - cells[i].MinuteMs
				work, watts, spanMs = work+f/h.acc.Peak16*float64(ms), watts+x*float64(ms), spanMs+ms
			}
		}
		if spanMs >= crossLeastMs && work > 0 {
			of = append(of, work/watts)
		}
	}
	if len(of) < 4 {
		return 0
	}
	slices.Sort(of)
	return of[len(of)/2]
}

// hostCross compares the host's meter with the sum over its GPUs, where each was measured.
// Beside its GPUs a host takes 250 W a GPU and 600 W for itself at most, and a fifth of the
// GPUs' watts is lost in supplies and fans.
func (ms *measurer) hostCross(members []run.Member) []Contradiction {
	node := members[0].Node
	h := ms.host(node)
	n := int(h.gpus)
	if ms.ev.Nodes[node].GPUCount <= 0 {
		return nil
	}
	start, end := members[0].StartMs, members[0].EndMs
	for _, m := range members {
		start, end = min(start, m.StartMs), max(end, m.EndMs)
	}
	gpus := make([][]feature.GPUCell, n)
	at := make([]int, n)
	for g := range gpus {
		gpus[g] = ms.ev.CellsFrom(feature.GPUKey{Node: node, GPU: g}, start)
	}
	r := ratio{kind: CrossHost, sd: 0.15, moment: feature.PowerW, reason: "the host's meter shows %.2f times what its GPUs and the rest of it can draw"}
	var cells []feature.GPUCell
	for i := range h.cells {
		c := &h.cells[i]
		if c.EndMs() <= start || c.MinuteMs >= end || c.PowerCoverMs == 0 {
			continue
		}
		sum, move, all, rows := 0.0, 0.0, true, 0
		for g := range gpus {
			for at[g] < len(gpus[g]) && gpus[g][at[g]].EndMs() <= c.MinuteMs {
				at[g]++
			}
			if all = all && at[g] < len(gpus[g]) && gpus[g][at[g]].MinuteMs <= c.MinuteMs && gpus[g][at[g]].Has(feature.PowerW) && gpus[g][at[g]].EndMs() >= c.EndMs(); !all {
				break
			}
			w, _ := wattsOf(&gpus[g][at[g]])
			sum += w
			rows = max(rows, gpus[g][at[g]].Samples)
			move = max(move, gpus[g][at[g]].SD[feature.PowerW]/max(w, 1))
		}
		if !all || sum <= 0 {
			continue
		}
		v := 0.0
		if most := 1.2*sum + 600 + 250*h.gpus; c.PowerW > most {
			v = math.Log(c.PowerW/most) + 2*r.sd
		} else if c.PowerW < sum {
			v = math.Log(c.PowerW/sum) - 2*r.sd
		}
		pair := feature.GPUCell{MinuteMs: c.MinuteMs, SpanMs: c.SpanMs, TensorClockMHz: v, Samples: rows}
		pair.Mean[feature.PowerW], pair.CoverMs[feature.PowerW] = c.PowerW, c.PowerCoverMs
		pair.SD[feature.PowerW] = c.PowerW * max(move, c.PowerSD/max(c.PowerW, 1))
		cells = append(cells, pair)
	}
	r.of = func(c, _ *feature.GPUCell) (float64, bool) { return c.TensorClockMHz, c.TensorClockMHz != 0 }
	return stretches(r, cells, run.Member{Node: node, GPU: -1, StartMs: start, EndMs: end})
}
