package gpu

import (
	"fmt"
	"strconv"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

const (
	energyWindowUs = 5 * 60 * 1_000_000 // over which energy and power are compared
	energyGapUs    = 10 * 1_000_000     // over a longer gap nobody knows what the power was
	energyLeastMW  = 10_000             // a mean below it is all noise
	energyEnough   = 2                  // windows in a row before it is said
	// energyMargin is how far the counter of energy and what power adds up to may be apart,
	// either way. Power is a moment's in every second, and a training whose steps take a
	// second is seen at the same place of each for minutes: that alone can make a third.
	energyMargin = 1.5
	// energyStepE2 is a change of the ratio that is worth telling, in hundredths.
	energyStepE2 = 2
)

// energyCheck holds a GPU's counter of energy against its power.
type energyCheck struct {
	was      sample
	begun    bool
	tookUs   int64
	energyMJ float64
	powerMJ  float64
	bad      int    // windows in a row with a ratio beyond the margin
	ratioE2  int64  // of the last window, or of one before that was no different; 0: none yet
	reason   string // not empty: they disagree
	news     bool   // a window has just ended
	resets   int    // times that the counter went back
}

// sample is what is compared.
type sample struct{ bootUs, energyMJ, powerMW int64 }

// add takes a reading of the base tier.
func (e *energyCheck) add(p *timed) {
	if !p.Has(frame.EnergyMJ) || !p.Has(frame.PowerMW) {
		return
	}
	now := sample{p.tick.BootMs*1000 + p.ElapsedUs, p.Values[frame.EnergyMJ], p.Values[frame.PowerMW]}
	was := e.was
	begun := e.begun
	e.was, e.begun = now, true
	if !begun {
		return
	}
	if now.energyMJ < was.energyMJ {
		// The driver was loaded anew, or the GPU reset: what lies between is not known.
		e.resets++
		return
	}
	dt := now.bootUs - was.bootUs
	if dt <= 0 || dt > energyGapUs {
		return
	}
	e.tookUs += dt
	e.energyMJ += float64(now.energyMJ - was.energyMJ)
	e.powerMJ += float64(now.powerMW+was.powerMW) / 2 * float64(dt) / 1e6
	if e.tookUs >= energyWindowUs {
		e.judge()
	}
}

// judge ends a window.
func (e *energyCheck) judge() {
	us, energy, power := float64(e.tookUs), e.energyMJ, e.powerMJ
	e.tookUs, e.energyMJ, e.powerMJ = 0, 0, 0
	if power/us*1e6 < energyLeastMW {
		return
	}
	ratio := energy / power
	e.news = true
	if now := max(int64(min(ratio, 1e6)*100+0.5), 1); now-e.ratioE2 >= energyStepE2 || e.ratioE2-now >= energyStepE2 {
		e.ratioE2 = now
	}
	if ratio <= energyMargin && ratio >= 1/energyMargin {
		e.bad, e.reason = 0, ""
		return
	}
	if e.bad++; e.bad == energyEnough {
		e.reason = fmt.Sprintf("its counter of energy says %s times what its power adds up to: one of the two is not what the driver measures", ratioText(e.ratioE2))
	}
}

func ratioText(e2 int64) string { return strconv.FormatFloat(float64(e2)/100, 'f', 2, 64) }

// integrity is the fact of the last window.
func (e *energyCheck) integrity() string {
	word := "ok"
	if e.reason != "" {
		word = "mismatch"
	}
	return word + " energy/power=" + ratioText(e.ratioE2)
}
