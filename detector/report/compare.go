package report

import (
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/detector/workload"
)

// fill puts defaults where a profile says nothing.
func (p *Profile) fill() {
	if p.Projection == (threshold.Projection{}) {
		p.Projection = threshold.DefaultProjection()
	}
	if p.Inquire == 0 {
		p.Inquire = threshold.DefaultInquire
	}
}

// comparison is what of a run stands against a profile's limit.
type comparison struct {
	limit    float64 // what the run's own FLOPs are compared with
	est      flops.Interval
	executed bool
	series   []flops.Point
	startMs  int64
	// need is the best value from which on it is as likely as not that the run is a training and
	// exceeds the limit: the limit itself where the class is certain.
	need float64
	why  string // what makes the limit another than the profile's, or the need another than the limit
}

// compare returns false where the profile has no limit, or does not count such a run.
func (v *view) compare(r *runView, p *Profile) (comparison, bool) {
	if p.LimitFLOP <= 0 || (p.Counting.FineTuning == threshold.Excluded && r.Run.Class == workload.Finetuning) {
		return comparison{}, false
	}
	c := comparison{est: r.Est.Model, series: r.Est.Series, startMs: r.Run.StartMs}
	if p.Counting.Basis == threshold.Executed {
		c.est, c.executed = r.Est.Executed, true
	}
	c.limit, c.why = p.limitFor(r.Run.Accounts)
	c.need = math.Inf(1)
	if q := 0.5 / r.prob; q < 1 {
		c.need = c.limit
		if x := threshold.Exceeded(c.est, q); x > 0 && x < c.est.Best {
			c.need = c.limit * c.est.Best / x
			c.why += fmt.Sprintf(" It counts from %s FLOP on, since it is a training with probability %.2f.", flop(c.need), r.prob)
		}
	}
	return c, true
}

// limitFor is what the FLOPs of trainings on these accounts are compared with.
func (p *Profile) limitFor(accounts []string) (limit float64, why string) {
	limit = p.LimitFLOP
	for i := range p.Originals {
		o := &p.Originals[i]
		if len(o.Accounts) > 0 && !slices.ContainsFunc(accounts, func(a string) bool { return slices.Contains(o.Accounts, a) }) {
			continue
		}
		switch share := p.Counting.OriginalShare; {
		case share > 0 && (why == "" || share*o.FLOPs < limit):
			limit = share * o.FLOPs
			why = fmt.Sprintf(" The limit is %.3g of the %s FLOP that the original model took (%s).", share, flop(o.FLOPs), o.Source)
		case share == 0 && p.Counting.FineTuning == threshold.Cumulative && max(p.LimitFLOP-o.FLOPs, 0) < limit:
			limit = max(p.LimitFLOP-o.FLOPs, 0)
			why = fmt.Sprintf(" The original model took %s FLOP (%s), which counts towards the profile's limit of %s FLOP.", flop(o.FLOPs), o.Source, flop(p.LimitFLOP))
		}
	}
	return limit, why
}

func (c *comparison) basis() string {
	if c.executed {
		return threshold.Executed
	}
	return threshold.Model
}

func (c *comparison) of(k int) float64 {
	if c.executed {
		return c.series[k].ExecutedFLOP
	}
	return c.series[k].ModelFLOP
}

// exceeds is the probability that the run is a training and has exceeded the limit.
func (c *comparison) exceeds(prob float64) float64 {
	return prob * threshold.ProbabilityExceeds(c.est, c.limit)
}

// progress is the FLOP done at a moment, and the rate over the profile's window (or since the run's
// start) in FLOP per millisecond.
func (c *comparison) progress(p *Profile, atMs int64) (done, rate float64) {
	since := max(atMs-int64(p.Projection.WindowMinutes*feature.MinuteMs), c.startMs)
	done = c.doneAt(atMs)
	if atMs > since {
		rate = (done - c.doneAt(since)) / float64(atMs-since)
	}
	return done, max(rate, 0)
}

// doneAt reads the series, linear inside a minute and flat where nothing was done.
func (c *comparison) doneAt(atMs int64) float64 {
	k := sort.Search(len(c.series), func(i int) bool { return c.series[i].EndMs >= atMs })
	if k == len(c.series) {
		if k == 0 {
			return 0
		}
		return c.of(k - 1)
	}
	fromMs, base := c.minuteStart(k)
	if atMs <= fromMs || c.series[k].EndMs <= fromMs {
		return base
	}
	return base + (c.of(k)-base)*float64(atMs-fromMs)/float64(c.series[k].EndMs-fromMs)
}

// minuteStart is when and with how much done the minute of point k began.
func (c *comparison) minuteStart(k int) (atMs int64, done float64) {
	atMs = max(c.startMs, c.series[k].EndMs-feature.MinuteMs)
	if k > 0 {
		atMs, done = max(c.series[k-1].EndMs, c.series[k].EndMs-feature.MinuteMs), c.of(k-1)
	}
	return atMs, done
}

// crossing is when the best value first exceeded a value; false: it does not exceed it as judged
// now.
func (c *comparison) crossing(limit float64) (int64, bool) {
	if c.est.Best <= limit || math.IsNaN(c.est.Best) {
		return 0, false
	}
	for k := range c.series {
		if c.of(k) <= limit {
			continue
		}
		fromMs, base := c.minuteStart(k)
		share := (limit - base) / (c.of(k) - base)
		return fromMs + int64(math.Ceil(share*float64(c.series[k].EndMs-fromMs))), true
	}
	return math.MaxInt64, true // no series: known at the judged moment
}
