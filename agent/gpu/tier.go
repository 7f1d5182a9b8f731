package gpu

import (
	"time"
)

// Tier is how often something is read of a GPU.
type Tier uint8

// Tiers, the rarest first.
const (
	TierInventory Tier = iota // what a GPU is: at the start, every few minutes, on events
	TierSlow                  // its health: every 10 to 30 s
	TierProcesses             // who is on it
	TierBase                  // its activity: at every tick
	TierBurst                 // what moves fast: between ticks
	NumTiers
)

var tierNames = [NumTiers]string{"inventory", "slow", "processes", "base", "burst"}

// String is the tier's name in metrics.
func (t Tier) String() string {
	if t >= NumTiers {
		return "unknown"
	}
	return tierNames[t]
}

// LatencyBounds are upper ends of the classes by which times in the driver are counted; what
// takes longer is in a class of its own.
var LatencyBounds = [...]time.Duration{
	100 * time.Microsecond, 300 * time.Microsecond, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond,
	100 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second,
}

// TierStats counts what was asked of GPUs in a tier.
type TierStats struct {
	Asked uint64        // answers that came
	Took  time.Duration // all of them, in the driver
	By    [len(LatencyBounds) + 1]uint64
}

func (t *TierStats) add(tookUs int64) {
	took := time.Duration(tookUs) * time.Microsecond
	t.Asked++
	t.Took += took
	i := 0
	for i < len(LatencyBounds) && took > LatencyBounds[i] {
		i++
	}
	t.By[i]++
}

// pacer makes something that takes long rarer, and what has become fast again as frequent as
// it was.
type pacer struct {
	slow  int // only every so many times
	over  int // times in a row that were too slow for that, the fastest of which would want this:
	least int
	fast  int // times in a row that would allow more
}

// took takes note of how long it took, and what of the time between two may be taken.
func (p *pacer) took(us, allowedUs int64, slowEnough, fastEnough int) {
	want := 1
	for allowed := max(allowedUs, 1); us > int64(want)*allowed && want < maxSlow; {
		want *= 2
	}
	p.slow = max(p.slow, 1)
	switch {
	case want > p.slow:
		if p.over++; p.over == 1 || want < p.least {
			p.least = want
		}
		if p.fast = 0; p.over >= slowEnough {
			p.slow, p.over = p.least, 0
		}
	case want == p.slow:
		p.over, p.fast = 0, 0
	default:
		if p.over, p.fast = 0, p.fast+1; p.fast >= fastEnough {
			p.slow, p.fast = p.slow/2, 0
		}
	}
}

// times is how many intervals lie between two.
func (p *pacer) times() int64 { return int64(max(p.slow, 1)) }

// allowanceMs is over how long a GPU's time in the driver is held to its share.
const allowanceMs = 60_000

// allowance holds the time that calls spend in the driver to a share of all time: what was
// spent is paid back at that rate.
type allowance struct {
	debtUs float64
	atMs   int64 // boot time up to which it was paid back
}

// spend takes note of time spent.
func (a *allowance) spend(bootMs, tookUs int64, share float64) {
	a.pay(bootMs, share)
	// More than this is not worth remembering: a call that hung for an hour is no reason to
	// leave a GPU alone for days.
	a.debtUs = min(a.debtUs+float64(tookUs), 2*share*allowanceMs*1000)
}

func (a *allowance) pay(bootMs int64, share float64) {
	if d := bootMs - a.atMs; a.atMs != 0 && d > 0 {
		a.debtUs = max(0, a.debtUs-float64(d)*1000*share)
	}
	a.atMs = max(a.atMs, bootMs)
}

// spent is how much of what may be spent at once is spent: 0 to 2.
func (a *allowance) spent(bootMs int64, share float64) float64 {
	a.pay(bootMs, share)
	return a.debtUs / (share * allowanceMs * 1000)
}

// Of the allowance, bursts may use a quarter, what is not of every tick a half, and the tick
// all: what may wait gives way first.
const (
	burstPart = 0.25
	rarePart  = 0.5
	overdue   = 8 // intervals after which a rare thing is asked for all the same
)

// callWindowMs is the time in which calls are counted: a second, less what ticks are inexact.
const (
	callWindowMs = 950
	maxCounted   = 32
)

// counted are the calls of one request.
type counted struct {
	seq   uint64
	ms    int64 // boot time
	calls int
}

// callWindow counts the calls of the last second.
type callWindow struct {
	list [maxCounted]counted
	n    int
}

// ask takes note of a request, with the calls that it is expected to make.
func (w *callWindow) ask(seq uint64, ms int64, calls int) {
	keep := 0
	for _, c := range w.list[:w.n] {
		if c.ms > ms-callWindowMs && c.ms <= ms {
			w.list[keep] = c
			keep++
		}
	}
	w.n = keep
	if w.n == maxCounted {
		copy(w.list[:], w.list[1:])
		w.n--
	}
	w.list[w.n] = counted{seq, ms, calls}
	w.n++
}

// done corrects what a request was expected to make.
func (w *callWindow) done(seq uint64, calls int) {
	for i := w.n - 1; i >= 0; i-- {
		if w.list[i].seq == seq {
			w.list[i].calls = calls
			return
		}
	}
}

// used are the calls within the second up to a time, that time excluded.
func (w *callWindow) used(ms int64) (sum int) {
	for _, c := range w.list[:w.n] {
		if c.ms > ms-callWindowMs && c.ms <= ms {
			sum += c.calls
		}
	}
	return sum
}
