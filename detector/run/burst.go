package run

import (
	"math"
	"slices"

	"github.com/flopwatch/flopwatch/detector/feature"
)

const (
	// A burst is a minute in which a host sent burstTimes what it usually does, and burstBytes at
	// the least: weights, or a state, and not chatter.
	burstTimes = 8
	burstBytes = 100e6
	// burstJitterMs is how far apart bursts of one moment may lie: each host's minute and clock.
	burstJitterMs = minuteMs
)

// burst is what a host sent at once over its Ethernet ports, or to storage.
type burst struct {
	ms    int64
	bytes float64
}

// burstsOf lists the bursts of a host, minutes in a row taken as one.
func burstsOf(cells []feature.NodeCell, from, to int64) []burst {
	lo, hi := nodeRange(cells, from, to)
	var out []burst
	for _, read := range [...]func(c *feature.NodeCell) float64{
		func(c *feature.NodeCell) float64 {
			if c.EthernetCoverMs <= 0 {
				return math.NaN()
			}
			return c.EthernetTxBytes * minuteMs / float64(max(c.EndMs()-c.MinuteMs, minuteMs))
		},
		func(c *feature.NodeCell) float64 {
			if c.StorageCoverMs <= 0 {
				return math.NaN()
			}
			return c.StorageTxBps * minuteMs / 1000
		},
	} {
		var sent []float64
		for i := lo; i < hi; i++ {
			if v := read(&cells[i]); !math.IsNaN(v) {
				sent = append(sent, v)
			}
		}
		if len(sent) < 20 {
			continue
		}
		slices.Sort(sent)
		least := math.Max(burstBytes, burstTimes*sent[len(sent)/2])
		last := int64(math.MinInt64)
		for i := lo; i < hi; i++ {
			v := read(&cells[i])
			if !(v > least) || cells[i].SpanMs > 0 {
				continue
			}
			if cells[i].MinuteMs == last+minuteMs {
				out[len(out)-1].bytes += v
			} else {
				out = append(out, burst{cells[i].MinuteMs, v})
			}
			last = cells[i].MinuteMs
		}
		if len(out) >= 2 {
			break
		}
		out = out[:0]
	}
	return out
}

// burstOdds weighs whether two hosts sent at the same moments, on a's clock, over ms of time.
func burstOdds(a, b []burst, lag, ms int64) (odds float64, hits int) {
	if len(a) < 2 || len(b) < 2 || ms <= 0 {
		return 0, 0
	}
	near := func(list []burst, at int64) bool {
		return slices.ContainsFunc(list, func(x burst) bool { return absMs(x.ms-at) <= burstJitterMs })
	}
	chance := math.Min(0.9, 3*minuteMs*float64(len(b))/float64(ms))
	for _, x := range a {
		if near(b, x.ms+lag) {
			hits++
			odds += math.Min(math.Log(0.9/chance), 2.5)
		} else {
			odds -= 1.2
		}
	}
	for _, x := range b {
		if !near(a, x.ms-lag) {
			odds -= 1.2
		}
	}
	return math.Max(-2, math.Min(6, odds)), hits
}
