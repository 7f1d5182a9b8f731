package gpu

import (
	"strconv"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// NVIDIA does not say whether GPM's cycles since boot are the mean over a GPU's SMs or their
// sum, and drivers may differ. A wrong guess would be wrong by a factor of a hundred, so nobody
// guesses: the elapsed cycles of a second are held against the SM clock.
const (
	cycleAgree  = 5               // readings in a row that say the same
	cycleGapUs  = 130 * 1_000_000 // over a longer time the clock is not what it was at its ends; ticks may be a minute apart
	cycleSlack  = 0.3             // of the ratio: clocks move within a second
	cycleIdle   = 0.1             // of the clock: where the SMs are switched off nothing is learnt
	clockMoveE2 = 10              // hundredths by which the clock at both ends may differ
	cycleFar    = 2 * cycleAgree  // readings in a row that fit nothing, before that is said
	cycleLeap   = 10              // times as much as can be is no matter of clocks that moved unseen
	unitUnknown = int64(-1)       // it is neither, or was one and then the other
	unitMean    = int64(1)        // and any other number is that of the SMs: a sum
)

// cycleUnit learns what a GPU's counters of cycles count. What was learnt holds as long as the
// counters run on and the driver is the same: the other unit would be a leap by a factor of a
// hundred in a counter since boot, which readers take for work. A reading that contradicts what was
// learnt is not told, and where cycleFar in a row are far from it, none is any more.
type cycleUnit struct {
	was     cycleReading
	begun   bool
	driver  string // of which it was learnt
	fits    int64  // what the last readings say
	agree   int    // and how many of them
	doubted bool   // the last reading cannot be, if divisor is right
	against int    // readings in a row that are far from it
	divisor int64  // 0: not known yet; unitUnknown
	ratioE2 int64  // of the last reading, in hundredths of the clock
	news    bool   // divisor is new
}

type cycleReading struct{ bootUs, elapsed, clockMHz int64 }

// apply turns a reading's counters into the mean over the SMs, or takes them away while their
// unit is not known: they are since boot, so nothing is lost by that.
func (u *cycleUnit) apply(p *timed, sms int, driver string) {
	if !p.Has(frame.SMCyclesElapsed) {
		p.clear(frame.MMACycles) // one without the other cannot be checked
		return
	}
	if u.driver != driver {
		*u = cycleUnit{driver: driver} // another driver may count otherwise
	}
	now := cycleReading{p.bootUs(), p.Values[frame.SMCyclesElapsed], p.Values[frame.SMClockMHz]}
	if u.begun && now.elapsed < u.was.elapsed { // began again, maybe under another driver that is not described yet
		*u = cycleUnit{driver: driver}
	}
	if p.Has(frame.SMClockMHz) {
		u.learn(now, int64(sms))
	}
	switch {
	case u.divisor <= 0 || u.doubted:
		p.clear(frame.MMACycles)
		p.clear(frame.SMCyclesElapsed)
	case u.divisor > unitMean:
		for _, m := range [...]frame.Metric{frame.MMACycles, frame.SMCyclesElapsed} {
			if p.Has(m) {
				p.Values[m] /= u.divisor
			}
		}
	}
}

// clear takes a value out of a reading.
func (t *timed) clear(m frame.Metric) {
	t.Present &^= 1 << m
	t.FromGPM &^= 1 << m
	t.Values[m] = 0
}

// learn holds a reading against the one before.
func (u *cycleUnit) learn(now cycleReading, sms int64) {
	was, begun := u.was, u.begun
	u.was, u.begun = now, true
	dt := now.bootUs - was.bootUs
	if !begun || dt <= 0 || dt > cycleGapUs || now.elapsed < was.elapsed {
		return
	}
	if move := now.clockMHz - was.clockMHz; max(move, -move)*100 > clockMoveE2*now.clockMHz {
		return
	}
	expected := float64(now.clockMHz+was.clockMHz) / 2 * float64(dt) // MHz times microseconds are cycles
	if expected <= 0 {
		return
	}
	ratio := float64(now.elapsed-was.elapsed) / expected
	if ratio < cycleIdle {
		return
	}
	u.ratioE2 = int64(min(ratio, 1e9) * 100)
	switch {
	case u.against >= cycleFar: // for good
	case u.divisor > 0:
		u.doubt(ratio)
	default:
		u.guess(ratio, sms)
	}
}

// doubt holds a ratio against the unit that was learnt: less may be SMs that are switched off,
// more cannot be.
func (u *cycleUnit) doubt(ratio float64) {
	if u.doubted = ratio >= float64(u.divisor)*(1+cycleSlack); ratio < float64(u.divisor)*cycleLeap {
		u.against = 0
	} else if u.against++; u.against >= cycleFar {
		u.divisor, u.news = unitUnknown, true
	}
}

// guess takes a ratio for what it fits.
func (u *cycleUnit) guess(ratio float64, sms int64) {
	fits := unitUnknown
	switch {
	case near(ratio, 1):
		fits = unitMean
	case sms < 1 && ratio > 1:
		return // of how many SMs it would be the sum is not known yet
	case sms > 1 && near(ratio, float64(sms)):
		fits = sms
	}
	if fits != u.fits {
		u.fits, u.agree = fits, 0
	}
	u.agree++
	enough := cycleAgree
	if fits == unitUnknown {
		enough = cycleFar
	}
	if u.agree >= enough && u.divisor != fits {
		u.divisor, u.news = fits, true
	}
}

func near(ratio, want float64) bool {
	return ratio > want*(1-cycleSlack) && ratio < want*(1+cycleSlack)
}

// fact says what the counters count.
func (u *cycleUnit) fact() string {
	switch u.divisor {
	case unitMean:
		return "mean over the SMs"
	case unitUnknown:
		return "unknown: " + strconv.FormatFloat(float64(u.ratioE2)/100, 'f', 2, 64) + " times the SM clock"
	default:
		return "sum over the SMs"
	}
}
