package run

import (
	"math"
	"sync"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// What a GPU looks like at rest differs by part, driver, locked clocks, and by what monitors
// or shares it. So each GPU is compared with itself: at rest it holds a plateau of memory and
// draws a floor of watts, and use is activity or a jump above them. useWatch learns both on
// the way: what it says of a minute rests on that minute and earlier ones alone.
const (
	// busyFrac is the share of time, over the lowest seen, in which anything ran.
	busyFrac = 0.02
	// floorCap bounds what a GPU may show at rest of a fraction.
	floorCap = 0.05
	// jumpBytes and jumpFrac of the plateau are the least jump of memory that is a program:
	// less than a CUDA context, more than the noise of a plateau.
	jumpBytes = 150e6
	jumpFrac  = 0.1
	// residueFrac of a program's memory may stay behind it: leaks, and what shares the GPU.
	residueFrac = 0.15
	// firstRestBytes is what a GPU may hold at rest that was never seen otherwise. An error
	// here costs little: the GPU does nothing either way.
	firstRestBytes = 3e9
	// Watts tell use from rest where nothing better is measured: this many times the floor;
	// against counters that say that nothing runs it takes more.
	wattsBusy   = 2.2
	wattsDenied = 4
	tdpBusy     = 0.35
	tdpDenied   = 0.5
	// quietMs without activity may be a stall where memory does not tell.
	quietMs = 3 * minuteMs
)

type useState int

const (
	unknownUse useState = iota
	released
	held
	anew  // held, and what was held before was no part of it
	ended // held up to somewhere within the cell, and no longer
)

// activeSignals are the shares of time in which a part of the GPU works.
var activeSignals = [...]feature.Signal{
	feature.UtilFrac, feature.SMActiveFrac, feature.TensorFrac, feature.DRAMFrac,
	feature.FP64Frac, feature.FP32Frac, feature.IntFrac, feature.NVEncFrac, feature.NVDecFrac,
}

// useWatch walks the cells of one GPU.
type useWatch struct {
	tdpW    float64                     // 0: not known
	floorOf func(ms int64) float64      // watts of like GPUs at rest by then, NaN: not known
	floor   [len(activeSignals)]float64 // lowest share so far
	base    float64                     // memory at rest, NaN: not seen
	lower   int                         // cells in a row well under base
	restW   float64                     // lowest watts without activity, NaN: not seen
	minW    float64                     // lowest and highest watts of all
	maxW    float64
	restMHz float64 // clock at rest, NaN: not seen

	open       bool
	worked     bool    // activity was seen since it opened
	peak       float64 // most memory since then
	quietSince int64   // since when nothing shows use; 0: it does
	plateau    float64 // memory, and since when it is flat
	flatSince  int64
}

func newUseWatch(tdpW float64, floorOf func(int64) float64) *useWatch {
	w := &useWatch{tdpW: tdpW, floorOf: floorOf, base: math.NaN(), restW: math.NaN(), minW: math.NaN(), maxW: math.NaN(), restMHz: math.NaN()}
	for i := range w.floor {
		w.floor[i] = floorCap
	}
	return w
}

// active reports whether a counter shows work; known is false where none was read.
func (w *useWatch) active(c *feature.GPUCell) (yes, known bool) {
	for i, s := range activeSignals {
		if !c.Has(s) {
			continue
		}
		// The pipes alone do not tell that nothing ran.
		known = known || s == feature.UtilFrac || s == feature.SMActiveFrac
		v := c.Mean[s]
		w.floor[i] = math.Min(w.floor[i], v)
		yes = yes || v > w.floor[i]+busyFrac
	}
	return yes, known
}

// draws reports whether watts show work; denied says that counters tell of none.
func (w *useWatch) draws(c *feature.GPUCell, denied bool) (yes, known bool) {
	p := c.Get(feature.PowerW)
	if math.IsNaN(p) {
		return false, false
	}
	w.minW, w.maxW = math.Min(notNaN(w.minW, p), p), math.Max(notNaN(w.maxW, p), p)
	if denied {
		// What is drawn without work is the floor, unless it is the draw of work.
		if w.tdpW > 0 && p > tdpDenied*w.tdpW {
			return true, true
		}
		yes = p > wattsDenied*w.restW // false while the floor is not known
		if !yes {
			w.restW = math.Min(notNaN(w.restW, p), p)
		}
		return yes, true
	}
	floor := w.restW
	if math.IsNaN(floor) {
		floor = math.Min(w.minW, notNaN(w.floorOf(c.MinuteMs), w.minW))
		// A floor that was never far below anything, and is no rest of a part that is known, may
		// be the level of work.
		if !(w.maxW > wattsBusy*floor) && !(w.tdpW > 0 && floor < tdpBusy*w.tdpW) {
			return p > tdpBusy*notZero(w.tdpW, 500), true
		}
	}
	return p > wattsBusy*floor || (w.tdpW > 0 && p > tdpDenied*w.tdpW), true
}

func notNaN(v, or float64) float64 {
	if math.IsNaN(v) {
		return or
	}
	return v
}

func notZero(v, or float64) float64 {
	if v > 0 {
		return v
	}
	return or
}

// jump is the least rise of memory above a plateau that is a program.
func jump(plateau float64) float64 { return math.Max(jumpBytes, jumpFrac*plateau) }

// hold is how many jumps it takes: fewer to stay than to begin, so that what stays behind a
// program does not flicker.
func (w *useWatch) hold() float64 {
	if w.open {
		return 1
	}
	return 1.5
}

// step judges the next cell.
func (w *useWatch) step(c *feature.GPUCell) useState {
	active, known := w.active(c)
	yes, watts := w.draws(c, known && !active)
	mem := c.Get(feature.MemUsedBytes)
	if !known && !active && !watts && math.IsNaN(mem) {
		return unknownUse
	}
	if active || yes {
		// Shares of time look back over the cell, memory is what there is at a moment: a program
		// whose memory is all gone worked for a part of the cell, and ended.
		if w.open && w.worked && !math.IsNaN(w.base) && w.peak > w.base+20*jump(w.base) && mem <= w.base+jump(w.base) {
			w.rest(c, mem)
			return ended
		}
		return w.use(c, mem, true)
	}
	switch {
	case math.IsNaN(mem) || (w.open && w.worked && !math.IsNaN(w.base) && w.peak <= w.base+jump(w.base)):
		return w.quiet(c, mem) // memory does not tell whether the program is there
	case !math.IsNaN(w.base) && mem <= w.base+w.hold()*jump(w.base):
		return w.rest(c, mem)
	case w.open && mem <= notNaN(w.base, 0)+residueFrac*(w.peak-notNaN(w.base, 0)):
		return w.linger(c, mem)
	case math.IsNaN(w.base) && !w.open && mem <= firstRestBytes:
		return w.rest(c, mem)
	}
	return w.use(c, mem, false)
}

// use notes a minute in use. A program that begins to work after the plateau of memory lay
// still for longer than a pause, and jumps, is another than what held that plateau.
func (w *useWatch) use(c *feature.GPUCell, mem float64, active bool) useState {
	state := held
	if !w.open {
		w.open, w.worked, w.peak = true, false, 0
		w.plateau, w.flatSince = mem, c.MinuteMs
	}
	w.quietSince = 0
	if !math.IsNaN(mem) {
		if math.Abs(mem-w.plateau) > jump(w.plateau) || math.IsNaN(w.plateau) {
			if !w.worked && mem > 2*w.plateau && c.MinuteMs-w.flatSince > pauseMs {
				state = anew
				w.base, w.peak = w.plateau, 0
			}
			w.plateau, w.flatSince = mem, c.MinuteMs
		}
		w.peak = math.Max(w.peak, mem)
	}
	w.worked = w.worked || active
	return state
}

// rest notes a minute at rest, and what rest looks like.
func (w *useWatch) rest(c *feature.GPUCell, mem float64) useState {
	w.open, w.quietSince = false, 0
	if mhz := c.Get(feature.SMClockMHz); !math.IsNaN(mhz) {
		w.restMHz = math.Min(notNaN(w.restMHz, mhz), mhz)
	}
	switch {
	case math.IsNaN(mem):
		return released
	case math.IsNaN(w.base):
		w.base = mem
	case mem < w.base-jump(w.base):
		if w.lower++; w.lower < 2 { // a single reading may be a fault
			return released
		}
		w.base = mem
	default:
		w.base += 0.1 * (mem - w.base)
	}
	w.lower = 0
	return released
}

// quiet notes a minute without activity where memory says nothing: a stall, or the end. A
// clock that stays up speaks for a stall.
func (w *useWatch) quiet(c *feature.GPUCell, mem float64) useState {
	if !w.open {
		return w.rest(c, mem)
	}
	if w.quietSince == 0 {
		w.quietSince = c.MinuteMs
	}
	limit := int64(quietMs)
	if c.Get(feature.SMClockMHz) > 1.5*w.restMHz {
		limit = pauseMs
	}
	if c.EndMs()-w.quietSince > limit {
		return w.rest(c, mem)
	}
	return unknownUse
}

// linger notes a minute in which nearly all of the program's memory is gone and nothing runs:
// it ended, unless it is back within a stall.
func (w *useWatch) linger(c *feature.GPUCell, mem float64) useState {
	if w.quietSince == 0 {
		w.quietSince = c.MinuteMs
	}
	if c.EndMs()-w.quietSince <= quietMs {
		return unknownUse
	}
	w.base = mem
	return w.rest(c, mem)
}

// span is a run of minutes in one state.
type span struct{ start, end int64 }

// heldSpans cuts a GPU's cells into times in use. A minute seen released ends a span; time
// without telemetry does so after pauseMs, or bridgeMs where the memory held before and after
// is the same.
func heldSpans(cells []feature.GPUCell, tdpW float64, floorOf func(int64) float64) []span {
	var out []span
	w := newUseWatch(tdpW, floorOf)
	open := false
	var last *feature.GPUCell
	for i := range cells {
		c := &cells[i]
		if open && w.open {
			gap := c.MinuteMs - out[len(out)-1].end
			if gap > bridgeMs || (gap > pauseMs && !w.sameMemory(last, c)) {
				open, w.open = false, false
			}
		}
		switch state := w.step(c); state {
		case held, anew:
			if !open || state == anew {
				out = append(out, span{start: c.MinuteMs})
				open = true
			}
			out[len(out)-1].end = c.EndMs()
			last = c
		case ended:
			if open {
				out[len(out)-1].end = c.EndMs()
			}
			open = false
		case released:
			open = false
		case unknownUse:
		}
	}
	return out
}

// sameMemory reports that a program's memory is the same in two cells.
func (w *useWatch) sameMemory(a, b *feature.GPUCell) bool {
	x, y := a.Get(feature.MemUsedBytes), b.Get(feature.MemUsedBytes)
	base := notNaN(w.base, 0)
	return x > base+2*jump(base) && math.Abs(x-y) <= 0.05*x
}

// floors gives for each part the lowest watts that any GPU of it drew up to a moment.
type floors struct {
	mu   sync.Mutex // over the maps: several nodes are cut at once
	ev   *feature.Evidence
	of   map[string][]floorAt
	keys map[string][]feature.GPUKey
}

type floorAt struct {
	ms    int64
	watts float64
}

func newFloors(ev *feature.Evidence) *floors { return &floors{ev: ev, of: map[string][]floorAt{}} }

// at is a function of time for GPUs of a node; it does its work when it is first asked, as few
// GPUs need it.
func (f *floors) at(node string) func(int64) float64 {
	return func(ms int64) float64 {
		model := f.ev.Nodes[node].GPUModel
		if model == "" {
			model = "\x00" + node
		}
		f.mu.Lock()
		steps, ok := f.of[model]
		if !ok {
			steps = f.build(model)
			f.of[model] = steps
		}
		f.mu.Unlock()
		lo, hi := 0, len(steps)
		for lo < hi {
			if m := (lo + hi) / 2; steps[m].ms <= ms {
				lo = m + 1
			} else {
				hi = m
			}
		}
		if lo == 0 {
			return math.NaN()
		}
		return steps[lo-1].watts
	}
}

func (f *floors) build(model string) []floorAt {
	if f.keys == nil {
		f.keys = map[string][]feature.GPUKey{}
		for _, k := range f.ev.GPUKeys() {
			m := f.ev.Nodes[k.Node].GPUModel
			if m == "" {
				m = "\x00" + k.Node
			}
			f.keys[m] = append(f.keys[m], k)
		}
	}
	low := map[int64]float64{}
	for _, k := range f.keys[model] {
		least := math.Inf(1)
		cells := f.ev.Cells(k)
		for i := range cells {
			c := &cells[i]
			if p := c.Get(feature.PowerW); p < least {
				least = p
				if old, ok := low[c.MinuteMs]; !ok || p < old {
					low[c.MinuteMs] = p
				}
			}
		}
	}
	least := math.Inf(1)
	var out []floorAt
	for _, ms := range sortedKeys(low) {
		if low[ms] < least {
			least = low[ms]
			out = append(out, floorAt{ms, least})
		}
	}
	return out
}
