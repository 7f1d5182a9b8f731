package report

import (
	"math"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// contradictions looks for signals that cannot both be true, minute by minute, and keeps
// what lasts for sustainMs. The bounds are physical: a host draws what its GPUs draw and
// more; work takes power; a counter is the sum of its rate.
func (v *view) contradictions() []defect {
	var out []defect
	from := int64(-1 << 62)
	if v.PrevAtMs != 0 { // a stretch that began before was found before, and this touches it
		from = v.PrevAtMs - feature.HourMs
	}
	for all := v.gpuKeys(); len(all) > 0; {
		n := 1
		for n < len(all) && all[n].Node == all[0].Node {
			n++
		}
		node, keys := all[0].Node, all[:n]
		all = all[n:]
		tdp := v.Ev.Nodes[node].TDPW
		cellsOf := make([][]feature.GPUCell, n)
		for g, k := range keys {
			cells := v.Ev.CellsFrom(k, from)
			cellsOf[g] = cells
			odd := v.odd(len(cells), func(i int) int64 { return cells[i].MinuteMs },
				func(i int) bool {
					return cells[i].SpanMs <= feature.MinuteMs && gpuContradicts(&cells[i], before(cells, i), tdp)
				})
			out = append(out, v.sustained(odd, node)...)
		}
		host := v.Ev.Host[node]
		odd := v.odd(len(host), func(i int) int64 { return host[i].MinuteMs },
			func(i int) bool {
				return host[i].SpanMs <= feature.MinuteMs && host[i].PowerCoverMs >= coverMs && v.hostContradicts(&host[i], cellsOf)
			})
		out = append(out, v.sustained(odd, node)...)
	}
	return out
}

// odd gives the minutes that contradict, ascending. It looks back from the latest cell to
// the judgement before, and further only while minutes contradict: a stretch that ended
// before was found before.
func (v *view) odd(n int, minute func(int) int64, contradicts func(int) bool) []int64 {
	var out []int64
	for i := n - 1; i >= 0; i-- {
		if contradicts(i) {
			out = append(out, minute(i))
		} else if minute(i) < v.PrevAtMs-2*feature.MinuteMs {
			break
		}
	}
	slices.Reverse(out)
	return out
}

func before(cells []feature.GPUCell, i int) *feature.GPUCell {
	if i == 0 {
		return nil
	}
	return &cells[i-1]
}

// sustained makes defects of runs of odd minutes that last long enough. One line a node:
// which of its GPUs is told by the rows themselves.
func (v *view) sustained(odd []int64, node string) []defect {
	var out []defect
	for i := 0; i < len(odd); {
		k := i
		for k+1 < len(odd) && odd[k+1]-odd[k] <= feature.MinuteMs {
			k++
		}
		from, to := odd[i], odd[k]+feature.MinuteMs
		if to-from >= sustainMs {
			out = append(out, defect{
				Evidence: Evidence{Kind: kindContradiction, Node: node, FromMs: from, ToMs: to, Strength: "measured"},
				knownMs:  from + sustainMs,
			})
		}
		i = k + 1
	}
	return out
}

func gpuContradicts(c, prev *feature.GPUCell, tdpW float64) bool {
	high, low := tdpW, tdpW
	if math.IsNaN(tdpW) || tdpW <= 0 {
		high, low = tdpHighW, tdpLowW
	}
	has := func(s feature.Signal) bool { return c.CoverMs[s] >= coverMs }
	power, tensor := c.Mean[feature.PowerW], c.Mean[feature.TensorFrac]
	if has(feature.PowerW) {
		idle := has(feature.UtilFrac) && c.Mean[feature.UtilFrac] < 0.02 &&
			(!has(feature.SMActiveFrac) || c.Mean[feature.SMActiveFrac] < 0.02) && (!has(feature.TensorFrac) || tensor < 0.02)
		if idle && power > 0.6*high {
			return true // draws like at work, claims to rest
		}
		if has(feature.TensorFrac) && tensor > 0.3 && power < 0.2*low {
			return true // claims to work, draws like at rest
		}
		if joules, ms, ok := step(c.EnergyJ, prev, func(p *feature.GPUCell) feature.Counter { return p.EnergyJ }); ok {
			counted := joules / (float64(ms) / 1000)
			if math.Abs(counted-power) > 100 && (counted < 0.5*power || counted > 2*power) {
				return true // the energy counter is not the sum of the watts
			}
		}
	}
	if has(feature.TensorFrac) && has(feature.SMClockMHz) && c.Mean[feature.SMClockMHz] > 0 {
		if cycles, ms, ok := step(c.MMACycles, prev, func(p *feature.GPUCell) feature.Counter { return p.MMACycles }); ok {
			counted := cycles / (c.Mean[feature.SMClockMHz] * 1000 * float64(ms))
			if (counted > 0.25 && tensor < 0.02) || (cycles == 0 && tensor > 0.25) {
				return true // cycles of the tensor pipes are not the sum of their activity
			}
		}
	}
	return false
}

// step is a counter's increment over a minute, or over the step from the cell before
// where a minute holds one reading alone. A reset, or a step too short or too wide, says
// nothing.
func step(c feature.Counter, prev *feature.GPUCell, of func(*feature.GPUCell) feature.Counter) (delta float64, ms int64, ok bool) {
	if !c.Has() {
		return 0, 0, false
	}
	if ms = c.LastMs - c.FirstMs; ms >= coverMs {
		return c.Last - c.First, ms, c.Last >= c.First && c.Delta == c.Last-c.First
	}
	if prev == nil || !of(prev).Has() {
		return 0, 0, false
	}
	p := of(prev)
	ms = c.LastMs - p.LastMs
	return c.Last - p.Last, ms, ms >= coverMs && ms <= spanMs && c.Last >= p.Last && c.First >= p.Last
}

// hostContradicts compares the host's meter with the sum over its GPUs, where each of
// them was measured.
func (v *view) hostContradicts(h *feature.NodeCell, cellsOf [][]feature.GPUCell) bool {
	n := v.Ev.Nodes[h.Node]
	if n.GPUCount <= 0 || len(cellsOf) < n.GPUCount {
		return false
	}
	sum := 0.0
	for _, cells := range cellsOf {
		i := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs >= h.MinuteMs })
		if i == len(cells) || cells[i].MinuteMs != h.MinuteMs || cells[i].SpanMs > feature.MinuteMs || cells[i].CoverMs[feature.PowerW] < coverMs {
			return false
		}
		sum += cells[i].Mean[feature.PowerW]
	}
	tdp := n.TDPW
	if math.IsNaN(tdp) || tdp <= 0 {
		tdp = tdpHighW
	}
	count := float64(len(cellsOf))
	// Up to 250 W a GPU beside the GPUs (fans, CPUs, switches, supplies), and half of
	// their rating on top before the meter is said to disagree.
	return sum > 1.1*h.PowerW+50 || h.PowerW-sum > 0.5*tdp*count+250*count
}
