package gpu

import (
	"strconv"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// NVIDIA does not say whether GPM's cycles since boot are the mean over a GPU's SMs or their
// sum, and drivers may differ. A wrong guess would be wrong by a factor of a hundred, so nobody
// guesses: the elapsed cycles of a second are held against the SM clock.
const (
	cycleAgree  = 5              // readings in a row that say the same
	cycleGapUs  = 5 * 1_000_000  // over a longer time the clock is not what it was at its ends
	cycleSlack  = 0.3            // of the ratio: clocks move within a second
	cycleIdle   = 0.1            // of the clock: where the SMs are switched off nothing is learnt
	clockMoveE2 = 10             // hundredths by which the clock at both ends may differ
	cycleFar    = 2 * cycleAgree // readings in a row that fit nothing, before that is said
	unitUnknown = int64(-1)      // it is neither
	unitMean    = int64(1)       // and any other number is that of the SMs: a sum
)

// cycleUnit learns what a GPU's counters of cycles count.
type cycleUnit struct {
	was     cycleReading
	begun   bool
	fits    int64 // what the last readings say
	agree   int   // and how many of them
	divisor int64 // 0: not known yet; unitUnknown
	ratioE2 int64 // of the last reading, in hundredths of the clock
	news    bool  // divisor is new
}

type cycleReading struct{ bootUs, elapsed, clockMHz int64 }

// apply turns a reading's counters into the mean over the SMs, or takes them away while their
// unit is not known: they are since boot, so nothing is lost by that.
func (u *cycleUnit) apply(p *timed, sms int) {
	if !p.Has(frame.SMCyclesElapsed) {
		p.clear(frame.MMACycles) // one without the other cannot be checked
		return
	}
	if p.Has(frame.SMClockMHz) {
		u.learn(cycleReading{p.bootUs(), p.Values[frame.SMCyclesElapsed], p.Values[frame.SMClockMHz]}, int64(sms))
	}
	switch {
	case u.divisor <= 0:
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
	fits := unitUnknown
	switch {
	case near(ratio, 1):
		fits = unitMean
	case sms > 1 && near(ratio, float64(sms)):
		fits = sms
	}
	u.ratioE2 = int64(min(ratio, 1e9) * 100)
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
