package run

import (
	"cmp"
	"math"
	"slices"

	"github.com/flopwatch/flopwatch/detector/feature"
)

const (
	// idleCapFrac bounds what a host may draw at rest, in parts of its GPUs' TDP: released
	// GPUs at 8 to 20 % of TDP, and processors, memory and fans.
	idleCapFrac = 0.47
	// onFrac is how far above rest a host in use is: more than contexts held without work
	// (5 to 10 % of TDP a GPU).
	onFrac = 0.12
	// onShare is the same in parts of the draw at rest, where the TDP is not stated.
	onShare = 0.3
	// unknownTDP bounds the rest of a host of unknown parts until it was seen lower.
	unknownTDP = 500
	// A program's end shows as a return to rest. A stall (checkpoint, evaluation) holds
	// the contexts and seldom lasts; so a dip splits when it lost dipMin minutes of work
	// and came down to dipFloor of the way between rest and load.
	dipMin   = 0.8
	dipFloor = 0.06
	dipEdge  = 0.15
	// holeMs is missing telemetry in which a program may have ended unseen.
	holeMs = 4 * minuteMs
)

func hasPower(cells []feature.NodeCell) bool {
	for i := range cells {
		if cells[i].PowerCoverMs > 0 {
			return true
		}
	}
	return false
}

// powerSpan is a time in use seen in watts alone.
type powerSpan struct {
	span
	from, to int64 // interpolated edges
	level    float64
	open     bool
}

// powerWatch walks the minutes of a host. All it decides about a minute rests on that
// minute and earlier ones.
type powerWatch struct {
	tdpSum float64 // 0: not stated
	idle   float64 // lowest minute so far, capped
	out    []powerSpan
	on     bool
	sum    float64 // of the watts of full minutes of the open span
	n      float64
	last   int64 // the last minute seen, and the time it rests on
	cover  int64
	dip    []*feature.NodeCell
}

// limit is the draw above which a host is in use.
func (w *powerWatch) limit() float64 {
	if w.tdpSum > 0 {
		return w.idle + onFrac*w.tdpSum
	}
	return w.idle * (1 + onShare)
}

func (w *powerWatch) level() float64 {
	if w.n == 0 {
		return math.NaN()
	}
	return w.sum / w.n
}

func (w *powerWatch) step(c *feature.NodeCell) {
	p := c.PowerW
	w.idle = math.Min(w.idle, p)
	if w.on && c.MinuteMs-w.last > pauseMs {
		w.close()
	}
	on := p > w.limit()
	h := w.level()
	// Over time without telemetry nothing tells whether the program went on: it is kept
	// apart, and Join puts together what is likely to be one.
	if gap := c.MinuteMs - w.last; w.on && gap > holeMs && gap > 3*w.cover {
		w.close()
		on = on || p > h-dipEdge*(h-w.idle)
	}
	switch {
	case !w.on && on:
		w.open(c)
	case w.on && w.n > 0 && p < h-dipEdge*(h-w.idle):
		w.dip = append(w.dip, c)
		if on {
			w.extend(c)
		}
	case w.on:
		if w.splits(h) {
			w.split(c)
			break
		}
		w.dip = w.dip[:0]
		w.extend(c)
		n := float64(c.EndMs()-c.MinuteMs) / minuteMs
		w.sum += p * n
		w.n += n
	}
	w.last, w.cover = c.EndMs()-minuteMs, min(c.PowerCoverMs, pauseMs)
}

func (w *powerWatch) open(c *feature.NodeCell) {
	w.out = append(w.out, powerSpan{span: span{c.MinuteMs, c.EndMs()}})
	w.on, w.sum, w.n = true, 0, 0
	w.dip = w.dip[:0]
}

func (w *powerWatch) extend(c *feature.NodeCell) { w.out[len(w.out)-1].end = c.EndMs() }

// lost is the time of work that the dip cost, in minutes, and the share of the way to
// full load at which its lowest point lies.
func (w *powerWatch) lost(h float64) (minutes, floor float64) {
	floor = 1
	for _, c := range w.dip {
		minutes += (h - c.PowerW) / (h - w.idle) * float64(c.EndMs()-c.MinuteMs) / minuteMs
		floor = math.Min(floor, (w.low(c, h)-w.idle)/(h-w.idle))
	}
	return minutes, floor
}

// low is the lower level of a minute that spent its time on two levels, the upper being
// h: of h and l with mean m, the variance is (h-m)(m-l).
func (w *powerWatch) low(c *feature.NodeCell, h float64) float64 {
	if !(c.PowerSD > 0) || h <= c.PowerW {
		return c.PowerW
	}
	return math.Max(c.PowerW-c.PowerSD*c.PowerSD/(h-c.PowerW), w.idle)
}

func (w *powerWatch) splits(h float64) bool {
	if len(w.dip) == 0 {
		return false
	}
	minutes, floor := w.lost(h)
	return minutes >= dipMin && floor <= dipFloor
}

// split ends the span at the lowest minute of the dip and begins the next one there.
func (w *powerWatch) split(c *feature.NodeCell) {
	lowest := 0
	for i, d := range w.dip {
		if d.PowerW < w.dip[lowest].PowerW {
			lowest = i
		}
	}
	at := w.dip[lowest].MinuteMs
	begin := at
	if w.dip[lowest].PowerW <= w.limit() {
		begin = c.MinuteMs
		if lowest+1 < len(w.dip) {
			begin = w.dip[lowest+1].MinuteMs
		}
	}
	sp := &w.out[len(w.out)-1]
	sp.end = max(sp.start+minuteMs, min(sp.end, at+minuteMs))
	w.close()
	w.out = append(w.out, powerSpan{span: span{begin, c.EndMs()}})
	w.on, w.sum, w.n = true, c.PowerW, 1
}

func (w *powerWatch) close() {
	sp := &w.out[len(w.out)-1]
	sp.level = w.level()
	if math.IsNaN(sp.level) {
		sp.level = w.limit()
	}
	// A dip at the end is the way down.
	for _, d := range w.dip {
		if d.PowerW <= w.limit() {
			sp.end = min(sp.end, d.MinuteMs)
			break
		}
	}
	sp.end = max(sp.end, sp.start+minuteMs)
	w.on = false
	w.dip = w.dip[:0]
}

// watch returns the times in use of a host whose GPUs have a TDP of tdpSum watts
// together, 0 where it is not stated.
func watch(cells []feature.NodeCell, tdpSum float64, gpus int, endMs int64) []powerSpan {
	w := &powerWatch{tdpSum: tdpSum, idle: idleCapFrac * tdpSum}
	if tdpSum <= 0 {
		w.idle = idleCapFrac * unknownTDP * float64(gpus)
	}
	for i := range cells {
		c := &cells[i]
		if c.PowerCoverMs > 0 {
			// Below the level of use for good: the span ended with the way down.
			if w.on && c.PowerW <= w.limit() && c.MinuteMs-w.out[len(w.out)-1].end >= 3*minuteMs {
				w.close()
			}
			w.step(c)
		}
	}
	if w.on {
		sp := &w.out[len(w.out)-1]
		sp.open = endMs-sp.end <= 2*minuteMs
		w.close()
	}
	for i := range w.out {
		w.out[i].edges(cells, w.idle)
	}
	return w.out
}

// edges interpolates the true start and end within the first and last minute.
func (sp *powerSpan) edges(cells []feature.NodeCell, idle float64) {
	sp.from, sp.to = sp.start, sp.end
	frac := func(ms int64) float64 {
		i, ok := slices.BinarySearchFunc(cells, ms, func(c feature.NodeCell, t int64) int { return cmp.Compare(c.EndMs(), t+1) })
		if i < len(cells) {
			ok = cells[i].MinuteMs <= ms && cells[i].SpanMs == 0
		}
		if !ok || sp.level <= idle {
			return 1
		}
		return math.Min(1, math.Max(0, (cells[i].PowerW-idle)/(sp.level-idle)))
	}
	sp.from = sp.start + int64((1-frac(sp.start))*minuteMs)
	sp.to = sp.end - int64((1-frac(sp.end-minuteMs))*minuteMs)
}

// powerNode cuts a host that shows watts (and ports) alone. What it shows is shared by
// all its GPUs: rented ones where rentals are known.
func (s *segmenter) powerNode(node string, keys []feature.GPUKey) {
	cells := s.ev.Host[node]
	count := max(len(keys), s.ev.Nodes[node].GPUCount)
	spans := watch(cells, tdpOf(s.ev.Nodes[node])*float64(count), count, s.ev.EndMs)
	first := cells[0]
	for i := range cells {
		if cells[i].PowerCoverMs > 0 {
			first = cells[i]
			break
		}
	}
	for _, sp := range spans {
		end := min(sp.end, s.ev.EndMs)
		rented := false
		for _, k := range keys {
			rented = rented || len(s.accountsOf(k, sp.start, end)) > 0
		}
		for _, k := range keys {
			acc := s.accountsOf(k, sp.start, end)
			if rented && len(acc) == 0 {
				continue
			}
			s.out = append(s.out, stretch{node: node, gpu: k.GPU, start: sp.start, end: end, open: sp.open, basis: BasisPower, accounts: acc,
				mem: math.NaN(), load: math.NaN(), power: sp.level / float64(len(keys)), atStart: sp.start <= first.MinuteMs && first.PowerW > 0.9*sp.level, edgeMs: [2]int64{sp.from, sp.to}})
		}
	}
	for _, k := range keys {
		used := make([]span, len(spans))
		for i, sp := range spans {
			used[i] = sp.span
		}
		s.restOf(k, used, func(sp span) []span {
			var out []span
			for i := range cells {
				if m := cells[i].MinuteMs; cells[i].EndMs() > sp.start && m < sp.end && cells[i].PowerCoverMs > 0 {
					out = cover(out, m, cells[i].EndMs())
				}
			}
			return out
		})
	}
}
