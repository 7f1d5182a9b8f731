package gpu

import (
	"fmt"
	"slices"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/source"
)

const (
	maxPending  = 4        // readings of a GPU that wait for a Sample
	maxSlow     = 32       // a slow GPU is asked at least every so many intervals
	slowEnough  = 3        // slow passes in a row before a GPU is asked less often
	fastEnough  = 10       // passes in a row before a slow GPU is asked more often
	lostMinMs   = 2_000    // before a lost GPU is asked again
	lostMaxMs   = 60_000   // at most
	emptyEnough = 3        // answers without a value in a row before a GPU counts as stalled
	faultHoldMs = 60_000   // how long a fault makes a GPU degraded
	rateGapUs   = 60e6     // no rate over a longer gap
	maxRateBps  = 64 << 40 // more cannot be
	wideCounter = 1 << 32  // a counter that has been here does not wrap at 32 bits
)

// timed is a reading and the tick that it answers.
type timed struct {
	frame.Reading
	tick source.Tick
}

// atMs is both clocks when the GPU was read.
func (t *timed) atMs() (wall, boot int64) {
	return t.tick.WallMs + t.ElapsedUs/1000, t.tick.BootMs + t.ElapsedUs/1000
}

// gpuState is what is known of one GPU. It belongs to Source.mu.
type gpuState struct {
	device    frame.Device
	described bool
	tell      bool // the device, at the next Sample

	asked   bool
	seq     uint64
	tick    source.Tick
	askedAt time.Time
	nextMs  int64 // boot time from which it is asked again
	// lookMs and deviceMs are boot times from which its processes are listed, and it is
	// described, when it is asked.
	lookMs, deviceMs int64

	pending [maxPending]timed
	waiting int // of pending
	latest  timed
	read    bool // latest is of this child, or the one before

	lost    string // why; empty: it is not
	lostMs  int64  // the wait before the next try
	fault   string // the last one
	faultMs int64  // boot time of it; 0: none
	failing bool   // calls failed in the answer that is coming
	got     bool   // it has a reading
	empty   int    // answers in a row that had none

	slow  int // asked every so many intervals
	over  int // passes in a row that were too slow for that, the fastest of which would want this:
	least int
	fast  int // passes in a row that would allow more

	counters timed // the last reading with counters
	counted  bool
	widePCIe bool
	fromGPM  [2]bool // whether PCIe and NVLink rates were last GPM's

	procs      []frame.Process
	looked     bool // procs is an answer
	unlistable bool // the driver does not say
}

// name of the GPU's part of the instrument; empty: it has not said who it is.
func (g *gpuState) name() string {
	if g.device.UUID == "" {
		return ""
	}
	return "gpu/" + g.device.UUID
}

// take keeps a reading for the next Sample; of too many the oldest goes. It reports whether
// one went.
func (g *gpuState) take(r *frame.Reading) (dropped bool) {
	if g.waiting == maxPending {
		copy(g.pending[:], g.pending[1:])
		g.waiting--
		dropped = true
	}
	p := &g.pending[g.waiting]
	g.waiting++
	p.Reading, p.tick = *r, g.tick
	g.rates(p)
	g.latest, g.read = *p, true
	return dropped
}

// rates adds what counters say since the last reading, where GPM says nothing.
func (g *gpuState) rates(p *timed) {
	const counters = 1<<frame.NVLinkTxKiB | 1<<frame.NVLinkRxKiB | 1<<frame.PCIeTxBytes | 1<<frame.PCIeRxBytes
	if p.Present&counters == 0 {
		return
	}
	if p.Has(frame.PCIeTxBytes) && p.Values[frame.PCIeTxBytes] >= wideCounter || p.Has(frame.PCIeRxBytes) && p.Values[frame.PCIeRxBytes] >= wideCounter {
		g.widePCIe = true
	}
	if g.counted {
		was := &g.counters
		dt := (p.tick.BootMs-was.tick.BootMs)*1000 + p.ElapsedUs - was.ElapsedUs
		rate := func(counter, to frame.Metric, unit float64) {
			if p.Has(to) || !p.Has(counter) || !was.Has(counter) || dt <= 0 || dt > rateGapUs {
				return
			}
			// A counter that went back was reset, or has wrapped: nobody knows how often.
			d := p.Values[counter] - was.Values[counter]
			if v := float64(d) * unit * 1e6 / float64(dt); d >= 0 && v <= maxRateBps {
				p.Set(to, int64(v+0.5))
			}
		}
		rate(frame.NVLinkTxKiB, frame.NVLinkTxBps, 1024)
		rate(frame.NVLinkRxKiB, frame.NVLinkRxBps, 1024)
		// One that wraps at 32 bits would wrap several times a second under load, and look
		// like a small rate.
		if g.widePCIe {
			rate(frame.PCIeTxBytes, frame.PCIeTxBps, 1)
			rate(frame.PCIeRxBytes, frame.PCIeRxBps, 1)
		}
	}
	g.counters, g.counted = *p, true
}

// pace decides from the time a pass took when the GPU is asked next.
func (g *gpuState) pace(tookUs int64, interval time.Duration) {
	want := 1
	for quarter := max(interval.Microseconds()/4, 1); tookUs > int64(want)*quarter && want < maxSlow; {
		want *= 2
	}
	switch {
	case want > g.slow:
		if g.over++; g.over == 1 || want < g.least {
			g.least = want
		}
		if g.fast = 0; g.over >= slowEnough {
			g.slow, g.over = g.least, 0
		}
	case want == g.slow:
		g.over, g.fast = 0, 0
	default:
		if g.over, g.fast = 0, g.fast+1; g.fast >= fastEnough {
			g.slow, g.fast = g.slow/2, 0
		}
	}
	// Half an interval early, as ticks are not exact.
	g.nextMs = g.tick.BootMs + (time.Duration(g.slow)*interval - interval/2).Milliseconds()
}

// forget drops what a GPU's answers to a child that is gone would have been.
func (g *gpuState) forget() {
	g.asked, g.nextMs, g.failing, g.read = false, 0, false, false
	g.lost, g.lostMs, g.empty = "", 0, 0
	g.lookMs, g.deviceMs = 0, 0
}

// changed drops what is known of the GPU that was at this index.
func (g *gpuState) changed() {
	g.latest, g.read, g.waiting, g.counted, g.widePCIe = timed{}, false, 0, false, false
	g.procs, g.looked, g.unlistable = nil, false, false
	g.fault, g.faultMs, g.empty, g.slow, g.over, g.fast = "", 0, 0, 1, 0, 0
}

// state of the GPU as a part of the instrument, at a tick. ok is false while nothing can be
// said yet.
func (g *gpuState) state(now time.Time, bootMs int64, cfg *Config) (st source.State, reason string, ok bool) {
	switch {
	case g.lost != "":
		return source.Lost, g.lost, true
	case g.asked && now.Sub(g.askedAt) >= cfg.StallAfter:
		return source.Stalled, "it was asked and does not answer; a call into the driver hangs", true
	case g.empty >= emptyEnough:
		why := "the driver supports none of them"
		if g.fault != "" {
			why = g.fault
		}
		return source.Stalled, "it was asked and gives no value: " + why, true
	case !g.read && g.faultMs == 0:
		return "", "", false
	case g.slow > 1:
		return source.Degraded, fmt.Sprintf("reading it takes more than a quarter of the interval: it is read every %s", time.Duration(g.slow)*cfg.Interval), true
	case g.faultMs != 0 && bootMs-g.faultMs < faultHoldMs:
		return source.Degraded, g.fault, true
	case g.read && g.device.MIGMode == 1:
		return source.Degraded, "MIG is on: its instances are not read one by one, and of the whole the driver gives no utilization", true
	case g.read && g.device.GPM && !slices.Contains(g.device.Capabilities, "gpm"):
		return source.Degraded, "the driver refuses GPM on this GPU: what tensor cores and memory do is not seen", true
	}
	return source.Active, "", g.read
}
