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

const (
	idleLevel    = 0.05 // of a GPU's usual level: it does nothing
	stallLevel   = 0.25 // of the run's: it stands still
	stallShare   = 0.9  // of its GPUs together
	straggleFrac = 0.07 // behind the median
	usualLevel   = 0.6  // of the median, from which on a start is over
)

// Engineer says what a fleet's owner asks of a run: in is what it was estimated from, over all
// its episodes. What was not measured is NaN, or 0 of times.
func Engineer(in Input, e Estimate) Engineering {
	nan := math.NaN()
	out := Engineering{MFU: nan, HFU: nan, Goodput: nan, EnergyJ: nan}
	members := clip(in)
	if len(members) == 0 {
		return out
	}
	ms := measurer{ev: in.Ev, work: &Work{}, nodes: map[string]*host{}}
	w := watch{first: feature.MinuteOf(members[0].StartMs), nodes: map[string]*nodeSum{}}
	end := members[0].EndMs
	for _, m := range members {
		w.first, end = min(w.first, feature.MinuteOf(m.StartMs)), max(end, m.EndMs)
	}
	w.minutes = make([]joint, int((end-w.first+minuteMs-1)/minuteMs))
	peak := 0.0
	for _, m := range members {
		h := ms.host(m.Node)
		peak += h.acc.Peak16 / 1000 * float64(m.EndMs-m.StartMs)
		w.member(in.Ev, h, m)
	}
	if peak > 0 && e.Executed.Best > 0 && e.Executed.High > 0 {
		out.HFU = e.Executed.Best / peak
		if e.Model.Best > 0 {
			out.MFU = e.Model.Best / peak
		}
	}
	if w.energyMs > 0.5*w.heldMs {
		out.EnergyJ = w.joules * w.heldMs / w.energyMs
	}
	w.pauses(members, &out)
	if w.seenMs > 0.5*w.heldMs {
		w.losses(&out)
		lost := float64(out.RestartMs + out.IdleMs + out.StallMs)
		out.Goodput = min(max(1-lost/(w.heldMs+w.pausedMs), 0), 1)
	}
	out.Stragglers = w.stragglers()
	return out
}

// joint is one minute of all GPUs of a run.
type joint struct {
	gpus, seen, still float64 // GPU-milliseconds: members', with a level, of those near nothing
	levels            float64 // sum of levels x milliseconds
}

// nodeSum is the members of one node while they worked.
type nodeSum struct {
	workMs, level, clockMs, clock, watts, wattMs, tdp float64
}

type watch struct {
	first                              int64
	minutes                            []joint
	nodes                              map[string]*nodeSum
	heldMs, seenMs, pausedMs, energyMs float64
	joules                             float64
}

// level is how much a GPU did in a cell: tensor work of the peak, else watts of their range,
// else utilisation.
func level(a *Accelerator, c *feature.GPUCell) (float64, bool) {
	if f, ok := tensorRate(a, c); ok {
		return f / a.Peak16, true
	}
	if c.Has(feature.PowerW) {
		return powerFrac(c.Mean[feature.PowerW], a.IdleW(), a.TDPW-a.IdleW()), true
	}
	return value(c, feature.UtilFrac), c.Has(feature.UtilFrac)
}

func (w *watch) member(ev *feature.Evidence, h *host, m run.Member) {
	w.heldMs += float64(m.EndMs - m.StartMs)
	for t := feature.MinuteOf(m.StartMs); t < m.EndMs; t += minuteMs {
		w.minutes[(t-w.first)/minuteMs].gpus += float64(min(m.EndMs, t+minuteMs) - max(m.StartMs, t))
	}
	cells := ev.CellsFrom(feature.GPUKey{Node: m.Node, GPU: m.GPU}, m.StartMs)
	lo := sort.Search(len(cells), func(i int) bool { return cells[i].EndMs() > m.StartMs })
	hi := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs >= m.EndMs })
	if lo >= hi {
		return
	}
	cells = cells[lo:hi]
	var levels []float64
	for i := range cells {
		if v, ok := level(&h.acc, &cells[i]); ok {
			levels = append(levels, v)
		}
	}
	slices.Sort(levels)
	usual := 0.0
	if len(levels) > 0 {
		usual = levels[len(levels)*3/4]
	}
	n := w.nodes[m.Node]
	if n == nil {
		n = &nodeSum{}
		w.nodes[m.Node] = n
	}
	for i := range cells {
		c := &cells[i]
		from, to := max(c.MinuteMs, m.StartMs), min(c.EndMs(), m.EndMs)
		span := float64(to - from)
		if c.Has(feature.PowerW) {
			w.joules += c.Mean[feature.PowerW] * span / 1000
			w.energyMs += span
		}
		v, ok := level(&h.acc, c)
		if !ok {
			continue
		}
		w.seenMs += span
		still := v < stallLevel*usual || usual <= 0.01
		for t := feature.MinuteOf(from); t < to; t += minuteMs {
			part := float64(min(to, t+minuteMs) - max(from, t))
			q := &w.minutes[(t-w.first)/minuteMs]
			q.seen += part
			q.levels += v * part
			if still {
				q.still += part
			}
		}
		if v < idleLevel*usual || usual <= 0.01 {
			continue
		}
		n.workMs += span
		n.level += v * span
		n.tdp = h.acc.TDPW
		if c.Has(feature.SMClockMHz) && v > usualLevel*usual {
			n.clock += c.Mean[feature.SMClockMHz] * span
			n.clockMs += span
		}
		if c.Has(feature.PowerW) && v > usualLevel*usual {
			n.watts += c.Mean[feature.PowerW] * span
			n.wattMs += span
		}
	}
}

// pauses counts the time between a run's episodes, at the GPUs that it held before.
func (w *watch) pauses(members []run.Member, out *Engineering) {
	last := 0.0
	pause := int64(0)
	for i := range w.minutes {
		g := w.minutes[i].gpus
		if g > 0 {
			if pause > 0 && last > 0 {
				out.Restarts++
				w.pausedMs += float64(pause) * last
			}
			last, pause = g, 0
			continue
		}
		pause++
	}
	// Episodes that follow each other within a minute show as members that begin anew.
	ends := map[int64]int{}
	gpus := map[feature.GPUKey]bool{}
	for i, m := range members {
		gpus[feature.GPUKey{Node: m.Node, GPU: m.GPU}] = true
		if i > 0 && members[i-1].Node == m.Node && members[i-1].GPU == m.GPU && m.StartMs-members[i-1].EndMs < 2*minuteMs {
			ends[feature.MinuteOf(m.StartMs)]++
		}
	}
	for _, n := range ends { // a count alone: the order does not matter
		if 2*n > len(gpus) {
			out.Restarts++
		}
	}
	out.RestartMs = int64(w.pausedMs)
}

// losses tells minutes in which the run stood still, or stood there before its work began.
func (w *watch) losses(out *Engineering) {
	var levels []float64
	for i := range w.minutes {
		if q := &w.minutes[i]; q.seen > 0 {
			levels = append(levels, q.levels/q.seen)
		}
	}
	slices.Sort(levels)
	usual := levels[len(levels)/2]
	starting := true
	for i := range w.minutes {
		q := &w.minutes[i]
		if q.gpus == 0 {
			starting = true
			continue
		}
		if q.seen == 0 {
			continue
		}
		if starting && q.levels/q.seen >= usualLevel*usual {
			starting = false
		}
		switch {
		case starting:
			out.RestartMs += int64((1 - min(q.levels/q.seen/max(usual, 1e-9), 1)) * q.gpus)
		case q.still >= stallShare*q.seen:
			out.StallMs += int64(q.gpus)
		default:
			out.IdleMs += int64(q.still)
		}
	}
}

// stragglers are nodes whose GPUs run at less than the median's clock, or do less. In a training
// that goes step by step all do the same work, and the one that is slow shows in its clock.
func (w *watch) stragglers() []Straggler {
	names := make([]string, 0, len(w.nodes))
	for name, n := range w.nodes {
		if n.workMs > 0 {
			names = append(names, name)
		}
	}
	if len(names) < 3 {
		return nil
	}
	slices.Sort(names)
	median := func(of func(*nodeSum) float64) float64 {
		var v []float64
		for _, name := range names {
			if x := of(w.nodes[name]); x > 0 {
				v = append(v, x)
			}
		}
		if len(v) < 3 {
			return 0
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	level := func(n *nodeSum) float64 { return n.level / n.workMs }
	clock := func(n *nodeSum) float64 { return safe(n.clock, n.clockMs) }
	watts := func(n *nodeSum) float64 { return safe(n.watts, n.wattMs) }
	usualLevel, usualClock, usualWatts := median(level), median(clock), median(watts)
	var out []Straggler
	for _, name := range names {
		n := w.nodes[name]
		s := Straggler{Node: name}
		if usualClock > 0 && clock(n) > 0 {
			s.Behind = 1 - clock(n)/usualClock
			switch {
			case watts(n) > 0.97*n.tdp && watts(n) > 1.02*usualWatts:
				s.Reason = fmt.Sprintf("its power limit holds it at %.0f MHz, the others run at %.0f", clock(n), usualClock)
			default:
				s.Reason = fmt.Sprintf("it runs at %.0f MHz, the others at %.0f: temperature, a limit that was set, or a fault", clock(n), usualClock)
			}
		}
		if behind := 1 - level(n)/usualLevel; usualLevel > 0 && behind > max(s.Behind, straggleFrac) {
			s.Behind = behind
			s.Reason = "its GPUs do less work than the others' in the same time"
		}
		if s.Behind > straggleFrac {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b Straggler) int { return cmp.Compare(b.Behind, a.Behind) })
	return out
}
