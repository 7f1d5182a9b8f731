package gpu

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/source"
)

const (
	maxPending  = 8        // readings of a GPU that wait for a Sample
	maxSlow     = 32       // a slow GPU is asked at least every so many intervals
	slowEnough  = 3        // slow passes in a row before a GPU is asked less often
	fastEnough  = 10       // passes in a row before a slow GPU is asked more often
	lostMinMs   = 2_000    // before a lost GPU is asked again
	lostMaxMs   = 60_000   // at most
	emptyEnough = 3        // answers without a value in a row before a GPU counts as stalled
	faultHoldMs = 60_000   // how long a fault makes a GPU degraded
	heldMs      = 60_000   // how long it is told that there was no time for something
	rateGapUs   = 60e6     // no rate over a longer gap
	maxRateBps  = 64 << 40 // more cannot be
	wideCounter = 1 << 32  // a counter that has been here does not wrap at 32 bits
)

// unlistedEnough is how many looks in a row are not whole before that is said: of an instance
// that went away during one nothing is, as the next look is whole.
const unlistedEnough = 3

// timed is a reading and the tick that it answers.
type timed struct {
	frame.Reading
	tick   source.Tick
	moment bool // of a burst
}

// atMs is both clocks when the GPU was read.
func (t *timed) atMs() (wall, boot int64) {
	return t.tick.WallMs + t.ElapsedUs/1000, t.tick.BootMs + t.ElapsedUs/1000
}

// question is what a GPU was asked.
type question uint8

// Questions: one of the first four, and one of the others at most.
const (
	askWhole  question = 1 << iota // a pass
	askLean                        // a pass that leaves room for the moments of a burst, as the last second had
	askThin                        // of a tick, what moves fast alone
	askMoment                      // the same, between ticks
	askDescription
	askList
	askHealth
)

// gpuState is what is known of one GPU. It belongs to Source.mu.
type gpuState struct {
	device    frame.Device
	described bool
	tell      bool // the device, at the next Sample

	asked   bool
	what    question
	seq     uint64
	tick    source.Tick
	askedAt time.Time
	nextMs  int64 // boot time from which it is asked again
	// lookMs, healthMs and deviceMs are boot times from which its processes are listed, its
	// health is looked at, and it is described, when it is asked.
	lookMs, healthMs, deviceMs int64
	describedMs                int64 // when it was last asked to describe itself
	wanting                    int   // requests since the health was asked for; 0: it was not

	pending [maxPending]timed
	waiting int // of pending
	latest  timed
	wholeMs int64 // boot time of the last whole pass in latest
	read    bool  // latest is of this child, or the one before

	lost    string // why; empty: it is not
	lostMs  int64  // the wait before the next try
	fault   string // the last one
	faultMs int64  // boot time of it; 0: none
	failing bool   // calls failed in the answer that is coming
	got     bool   // it has a reading
	short   bool   // and the child left something out of it, for want of calls
	readUs  int64  // time in the driver of the reading in the answer that is coming
	empty   int    // answers in a row that had none

	pace      pacer     // of ticks
	lists     pacer     // of lists of processes
	looks     pacer     // at the health
	driver    allowance // of time in the driver
	long      bool      // the last answer took half of what may be spent at once
	heldMs    int64     // boot time when there was last no time for a tick; 0: never
	rareMs    int64     // and for what is rarer
	passUs    int64     // time of a pass that was told, see slowness
	slowest   frame.Class
	calls     callWindow
	cost      [3]int // calls of a whole pass, a thin one, a moment: as last counted; 0: not yet
	moments   int    // moments of a burst since the last tick
	refused   int    // of them, for want of calls
	perTick   int    // those between the two ticks before
	missed    int    // and of them, those refused
	momentMs  int64  // when the last was asked
	fullMs    int64  // when the last whole pass was asked
	energy    energyCheck
	cycles    cycleUnit
	base      meters // as of the last tick
	fast      meters // as of the last reading of any kind
	widePCIe  bool
	fromGPM   [2]bool // whether PCIe and NVLink rates of ticks were last GPM's
	burstFrom [2]bool // and those of moments

	health     timedHealth
	healthNew  bool // to be told
	instances  []frame.Instance
	partsKnown bool // instances is an answer
	parts      []timed
	latestPart []timed
	tellParts  bool // instances, those without a reading as well
	xid        int64
	xidKnown   bool

	procs    []frame.Process
	looked   bool   // procs is an answer
	unlisted int    // looks in a row after which there may be others
	hiddenBy string // why
}

// timedHealth is a look at the health and the tick at which it ended.
type timedHealth struct {
	frame.Health
	tick source.Tick
}

func (h *timedHealth) atMs() (wall, boot int64) {
	return h.tick.WallMs + h.ElapsedUs/1000, h.tick.BootMs + h.ElapsedUs/1000
}

// listed reports whether it is known who is on the GPU.
func (g *gpuState) listed(now time.Time, cfg *Config) bool {
	return g.looked && g.unlisted == 0 && g.lost == "" && !(g.asked && now.Sub(g.askedAt) >= cfg.StallAfter)
}

// takeProcesses takes a look. After one that is not whole, those of before may be there still.
func (g *gpuState) takeProcesses(p *frame.Processes) {
	g.looked, g.hiddenBy = true, p.Why
	if p.Known {
		g.procs, g.unlisted = slices.Clone(p.List), 0
		return
	}
	g.unlisted = min(g.unlisted+1, unlistedEnough)
	before := g.procs
	g.procs = slices.Clone(p.List)
	for _, was := range before {
		same := func(q frame.Process) bool { return q.PID == was.PID && q.Instance == was.Instance }
		if len(g.procs) < frame.MaxProcesses && !slices.ContainsFunc(p.List, same) {
			g.procs = append(g.procs, was)
		}
	}
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
func (g *gpuState) take(r *frame.Reading, burstBase time.Duration) (dropped bool) {
	if g.waiting == maxPending {
		copy(g.pending[:], g.pending[1:])
		g.waiting--
		dropped = true
	}
	p := &g.pending[g.waiting]
	g.waiting++
	p.Reading, p.tick, p.moment = *r, g.tick, g.what&askMoment != 0
	g.cycles.apply(p, g.device.SMs, g.device.DriverVersion)
	g.widePCIe = g.widePCIe || p.Values[frame.PCIeTxBytes] >= wideCounter || p.Values[frame.PCIeRxBytes] >= wideCounter
	if p.moment {
		g.fast.rates(p, g.widePCIe)
		g.fast.keep(p)
		return dropped
	}
	// A row of a tick says what was since the tick before, whatever came between.
	g.base.rates(p, g.widePCIe)
	g.base.keep(p)
	g.fast.keep(p)
	g.energy.add(p)
	boot := p.tick.BootMs
	if g.what&(askThin|askLean) == 0 || boot-g.wholeMs > 2*burstBase.Milliseconds() {
		g.latest, g.wholeMs, g.read = *p, boot, true
		return dropped
	}
	// What a thin pass leaves out is what it was a little while ago.
	was := g.latest
	g.latest, g.read = *p, true
	for m := range frame.NumMetrics {
		if was.Has(m) && !p.Has(m) {
			g.latest.Set(m, was.Values[m])
			g.latest.FromGPM |= was.FromGPM & (1 << m)
		}
	}
	return dropped
}

// takePart keeps the reading of a GPU instance; of too many the oldest goes.
func (g *gpuState) takePart(r *frame.Reading) (dropped bool) {
	if len(g.parts) >= 2*frame.MaxInstances {
		copy(g.parts, g.parts[1:])
		g.parts = g.parts[:len(g.parts)-1]
		dropped = true
	}
	p := timed{Reading: *r, tick: g.tick}
	g.parts = append(g.parts, p)
	for i := range g.latestPart {
		if g.latestPart[i].GI == r.GI {
			g.latestPart[i] = p
			return dropped
		}
	}
	if len(g.latestPart) < frame.MaxInstances {
		g.latestPart = append(g.latestPart, p)
	}
	return dropped
}

// meters are counters as they were last read, in the order of metered.
type meters [len(metered)]meter

type meter struct {
	v, bootUs int64
	has       bool
}

// metered are counters that rates are made of, where GPM says nothing.
var metered = [...]struct {
	counter, to frame.Metric
	unit        float64
	wide        bool // it may wrap at 32 bits
}{
	{frame.NVLinkTxKiB, frame.NVLinkTxBps, 1024, false},
	{frame.NVLinkRxKiB, frame.NVLinkRxBps, 1024, false},
	// One that wraps at 32 bits would wrap several times a second under load, and look like a
	// small rate.
	{frame.PCIeTxBytes, frame.PCIeTxBps, 1, true},
	{frame.PCIeRxBytes, frame.PCIeRxBps, 1, true},
}

func (t *timed) bootUs() int64 { return t.tick.BootMs*1000 + t.ElapsedUs }

// rates adds what counters say since they were kept, where GPM says nothing.
func (m *meters) rates(p *timed, wide bool) {
	for i, c := range metered {
		was := &m[i]
		dt := p.bootUs() - was.bootUs
		if p.Has(c.to) || !p.Has(c.counter) || !was.has || c.wide && !wide || dt <= 0 || dt > rateGapUs {
			continue
		}
		// A counter that went back was reset, or has wrapped: nobody knows how often.
		d := p.Values[c.counter] - was.v
		if v := float64(d) * c.unit * 1e6 / float64(dt); d >= 0 && v <= maxRateBps {
			p.Set(c.to, int64(v+0.5))
		}
	}
}

// keep takes the counters over.
func (m *meters) keep(p *timed) {
	for i, c := range metered {
		if p.Has(c.counter) {
			m[i] = meter{p.Values[c.counter], p.bootUs(), true}
		}
	}
}

// next decides from the time a pass took when the GPU is asked next.
func (g *gpuState) next(tookUs int64, interval time.Duration) {
	if tookUs >= 0 {
		g.pace.took(tookUs, interval.Microseconds()/4, slowEnough, fastEnough)
	}
	// Half an interval early, as ticks are not exact.
	g.nextMs = g.tick.BootMs + (time.Duration(g.pace.times())*interval - interval/2).Milliseconds()
}

// spend takes note of what an answer cost. A first long one may be a hiccup: it counts for no
// more than half of what may be spent at once.
func (g *gpuState) spend(tookUs int64, share float64) {
	half := int64(share * allowanceMs * 1000 / 2)
	if tookUs > half && !g.long {
		g.long, tookUs = true, half
	} else {
		g.long = tookUs > half
	}
	g.driver.spend(g.tick.BootMs, tookUs, share)
}

// slowness is the time that passes take, in words that do not change with every pass.
func (g *gpuState) slowness(tookUs int64, slowest frame.Class) {
	if tookUs > 2*g.passUs || tookUs < g.passUs/4 {
		g.passUs, g.slowest = tookUs, slowest
	}
}

// forget drops what a GPU's answers to a child that is gone would have been.
func (g *gpuState) forget() {
	g.asked, g.nextMs, g.failing, g.read = false, 0, false, false
	g.lost, g.lostMs, g.empty = "", 0, 0
	g.lookMs, g.healthMs, g.deviceMs, g.wanting = 0, 0, 0, 0
	g.looked, g.unlisted, g.hiddenBy = false, 0, ""
}

// changed drops what is known of the GPU that was at this index.
func (g *gpuState) changed() {
	*g = gpuState{asked: g.asked, what: g.what, seq: g.seq, tick: g.tick, askedAt: g.askedAt, nextMs: g.nextMs, failing: g.failing, got: g.got,
		deviceMs: g.deviceMs, describedMs: g.describedMs, lost: g.lost, lostMs: g.lostMs, calls: g.calls, driver: g.driver,
		parts: g.parts[:0], latestPart: g.latestPart[:0]}
}

// wants reports whether something rare is due, and whether there is time in the driver for it.
func (g *gpuState) wants(bootMs, dueMs int64, every time.Duration, spent float64) bool {
	if every <= 0 || bootMs < dueMs {
		return false
	}
	// What is put off for ever would be a silence.
	if spent > rarePart && bootMs-dueMs < (overdue-1)*every.Milliseconds() {
		g.rareMs = bootMs
		return false
	}
	return true
}

// held reports whether there was no time for something a little while ago.
func held(bootMs, atMs int64) bool { return atMs != 0 && bootMs-atMs < heldMs }

// pass decides what a tick asks: a whole pass, but where bursts leave no room for one. Then the
// child leaves out what matters least, by what the bursts of the last second took; where it
// took more than the next moments leave, the tick is thin, and makes room. rare are calls for
// what comes with it.
func (g *gpuState) pass(bootMs int64, bursting bool, perTick, refused, rare int, cfg *Config) question {
	c := g.costs(cfg)
	switch {
	case !bursting || g.fullMs == 0:
		return askWhole
	case g.calls.used(bootMs)+c[0]+rare <= cfg.CallBudget &&
		(c[0]+perTick*c[2]+rare <= cfg.CallBudget || bootMs-g.fullMs >= (cfg.BurstBase-cfg.Interval/2).Milliseconds()):
		return askWhole
	case refused > 0:
		return askThin
	}
	return askLean
}

// rareCalls is what is kept for a list of processes, or for a part of a look at the health.
const rareCalls = 2

// rareAt is how many calls something rare takes at a tick.
func (g *gpuState) rareAt(bootMs int64, cfg *Config) int {
	if g.wanting > 0 || bootMs >= g.deviceMs || cfg.ProcessInterval > 0 && bootMs >= g.lookMs || cfg.SlowInterval > 0 && bootMs >= g.healthMs {
		return rareCalls
	}
	return 0
}

// costs are calls of a whole pass, of a thin one (no pass of a tick takes less) and of a moment,
// as counted or as known.
func (g *gpuState) costs(cfg *Config) [3]int {
	c := g.cost
	c[0], c[2] = cmp.Or(c[0], 9), cmp.Or(c[2], 1)
	if cfg.BurstGPM && c[2] == 1 && g.gpm() && g.cost[2] == 0 {
		c[2] = 3
	}
	if c[1] == 0 {
		c[1] = 1
		if g.gpm() {
			c[1] = 3
		}
	}
	return c
}

// gpm reports whether the GPU has the performance monitor, and may use it.
func (g *gpuState) gpm() bool { return g.device.GPM && slices.Contains(g.device.Capabilities, "gpm") }

// room reports whether the calls of a moment fit: into the second before it, and with the next
// tick into that before the tick.
func (g *gpuState) room(bootMs, nextMs int64, cfg *Config) bool {
	c := g.costs(cfg)
	moment := c[2]
	// Evenly, where there is room for some only.
	if gap := int64(moment)*1000/int64(max(cfg.CallBudget, 1)) - 20; g.momentMs != 0 && bootMs >= g.momentMs && bootMs-g.momentMs < gap {
		return false
	}
	if g.calls.used(bootMs)+moment > cfg.CallBudget {
		return false
	}
	if nextMs <= bootMs || bootMs <= nextMs-callWindowMs {
		return true
	}
	rare := g.rareAt(nextMs, cfg)
	tick := c[1] + rare
	if g.pass(nextMs, true, max(g.perTick, g.moments), 0, rare, cfg) == askWhole {
		tick = c[0] + rare
	}
	return g.calls.used(nextMs)+moment+tick <= cfg.CallBudget
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
	case held(bootMs, g.heldMs):
		return source.Degraded, g.slowText() + fmt.Sprintf(": it is read more seldom, so that the driver spends no more than %s of the time on it", percent(cfg.DriverShare)), true
	case g.pace.slow > 1:
		return source.Degraded, g.slowText() + fmt.Sprintf(", more than a quarter of the interval: it is read every %s", time.Duration(g.pace.slow)*cfg.Interval), true
	case held(bootMs, g.rareMs) || g.lists.slow > 1 || g.looks.slow > 1:
		return source.Degraded, g.slowText() + ": its processes and its health are looked at more seldom", true
	case g.faultMs != 0 && bootMs-g.faultMs < faultHoldMs:
		return source.Degraded, g.fault, true
	case g.unlisted >= unlistedEnough:
		return source.Degraded, "it is not known which processes are on it: " + cmp.Or(g.hiddenBy, "the driver does not list them"), true
	case g.read && g.energy.reason != "":
		return source.Degraded, g.energy.reason, true
	case g.read && g.device.Whole && g.device.MIGMode != 1 && g.device.GPM && !g.gpm():
		why := ""
		if g.device.CCMode == "on" {
			why = ", as confidential computing is on"
		}
		return source.Degraded, "the driver refuses GPM on this GPU" + why + ": what tensor cores and memory do is not seen", true
	}
	return source.Active, g.lacks(), g.read
}

// slowText says how slow calls are.
func (g *gpuState) slowText() string {
	if g.passUs < 1000 {
		return "its calls into the driver take long"
	}
	text := "its calls into the driver take " + (time.Duration(g.passUs) * time.Microsecond).Round(time.Millisecond).String()
	if g.slowest != frame.NoCall {
		text += ", most of all " + g.slowest.String()
	}
	return text
}

func percent(share float64) string { return strconv.FormatFloat(share*100, 'g', 3, 64) + " %" }

// lacks is what cannot be seen of a GPU that is as it should be, and why.
func (g *gpuState) lacks() string {
	switch {
	case g.device.MIGMode == 1 && g.partsKnown && len(g.instances) == 0:
		return "MIG is on and there are no instances: nothing can run on it, and of the whole the driver gives no utilization"
	case g.device.MIGMode == 1 && g.partsKnown:
		return "MIG is on: its instances are read one by one; of the whole the driver gives no utilization and no tensor activity, and of an instance neither power nor energy"
	case g.device.MIGMode == 1:
		return "MIG is on: of the whole the driver gives no utilization and no tensor activity"
	case !g.device.Whole && g.device.Architecture == "" || g.device.GPM:
		return ""
	case slices.Contains(beforeGPM, g.device.Architecture):
		return "no GPM before Hopper: what tensor cores and memory do is not seen; energy, power, clocks, memory use and counters of links are"
	}
	return "no GPM on this GPU, as the driver says: what tensor cores and memory do is not seen; energy, power, clocks, memory use and counters of links are"
}

// beforeGPM are architectures without the performance monitor.
var beforeGPM = []string{"kepler", "maxwell", "pascal", "volta", "turing", "ampere", "ada"}
