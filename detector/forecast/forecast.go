package forecast

import (
	"math"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/flops"
)

const (
	hourMs = 3_600_000
	dayMs  = 24 * hourMs
	z90    = 1.6448536269514722
)

// Input is a run's model FLOPs and its contract.
type Input struct {
	Series    []flops.Point  // cumulative best, ascending
	StartMs   int64          // of the run
	NowMs     int64          // the judged moment
	Model     flops.Interval // at the end of the series
	LimitFLOP float64
	// EndMs is the latest end of the contracts under which the run may go on; 0: none, so
	// that there is no future.
	EndMs int64
	Open  bool // the run goes on, as far as is known
}

// Crossing is when the limit is crossed, in Unix milliseconds. A nil point lies beyond
// the contract, or never.
type Crossing struct {
	P10 *int64 `json:"p10"`
	P50 *int64 `json:"p50"`
	P90 *int64 `json:"p90"`
}

// Rate returns FLOP a millisecond of calendar time over the window before nowMs, or
// since the run's start where that is later. Time after the last point counts as a stall.
func Rate(series []flops.Point, startMs, nowMs, windowMs int64) float64 {
	from := max(nowMs-windowMs, startMs)
	if len(series) == 0 || nowMs <= from {
		return 0
	}
	done := at(series, startMs, nowMs) - at(series, startMs, from)
	return max(done, 0) / float64(nowMs-from)
}

// at interpolates the cumulative model FLOPs at a moment.
func at(series []flops.Point, startMs, ms int64) float64 {
	i := sort.Search(len(series), func(i int) bool { return series[i].EndMs >= ms })
	if i == len(series) {
		return series[len(series)-1].ModelFLOP
	}
	prevMs, prev := startMs, 0.0
	if i > 0 {
		prevMs, prev = series[i-1].EndMs, series[i-1].ModelFLOP
	}
	if ms <= prevMs {
		return prev
	}
	part := float64(ms-prevMs) / float64(series[i].EndMs-prevMs)
	return prev + part*(series[i].ModelFLOP-prev)
}

// reached returns when the series first reached the value.
func reached(series []flops.Point, startMs int64, value float64) int64 {
	i := sort.Search(len(series), func(i int) bool { return series[i].ModelFLOP >= value })
	if i == len(series) {
		return series[len(series)-1].EndMs
	}
	prevMs, prev := min(startMs, series[0].EndMs), 0.0
	if i > 0 {
		prevMs, prev = series[i-1].EndMs, series[i-1].ModelFLOP
	}
	step := series[i].ModelFLOP - prev
	if step <= 0 {
		return series[i].EndMs
	}
	return prevMs + int64(math.Ceil((value-prev)/step*float64(series[i].EndMs-prevMs)))
}

// Cross returns when the limit is crossed, nil where even the middle lies beyond the
// contract.
func Cross(in Input) *Crossing {
	if len(in.Series) == 0 || in.LimitFLOP <= 0 || in.Model.Best <= 0 {
		return nil
	}
	done := in.Series[len(in.Series)-1].ModelFLOP
	if done <= 0 {
		return nil
	}
	p := paceOf(in)
	grid := normalGrid(gridSize)
	moments := make([]float64, 0, len(grid)*len(grid))
	for _, zs := range grid {
		scale := math.Exp(zs * sideSD(in.Model, zs))
		need := in.LimitFLOP / scale // on the series as it stands
		if need < done {             // strictly more than the limit has been done
			t := float64(reached(in.Series, in.StartMs, need))
			for range grid {
				moments = append(moments, t)
			}
			continue
		}
		rate, down, up := p.outlook(need - done)
		for _, zr := range grid {
			sd := up
			if zr < 0 {
				sd = down
			}
			moments = append(moments, in.future(need-done, rate*math.Exp(zr*sd)))
		}
	}
	slices.Sort(moments)
	c := &Crossing{P10: point(moments, 0.10), P50: point(moments, 0.50), P90: point(moments, 0.90)}
	if c.P50 == nil {
		return nil
	}
	return c
}

// future returns the moment at which the missing FLOP are done, infinite beyond the
// contract.
func (in *Input) future(missing, rate float64) float64 {
	if !in.Open || rate <= 0 || in.EndMs <= in.NowMs {
		return math.Inf(1)
	}
	if t := float64(in.NowMs) + missing/rate; t <= float64(in.EndMs) {
		return t
	}
	return math.Inf(1)
}

// sideSD returns the spread of the logarithm on the side of the best value that z is on.
func sideSD(i flops.Interval, z float64) float64 {
	if z >= 0 {
		return math.Log(max(i.High/i.Best, 1)) / z90
	}
	if i.Low <= 0 {
		return math.Log(10) / z90
	}
	return math.Log(max(i.Best/i.Low, 1)) / z90
}

// gridSize is the number of slices of each distribution.
const gridSize = 25

// normalGrid returns the middles of n equal slices of a standard normal distribution.
func normalGrid(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = -math.Sqrt2 * math.Erfcinv(2*(float64(i)+0.5)/float64(n)) // the quantile; 0 in the middle
	}
	return out
}

// point returns the q point of sorted moments, nil where it is infinite.
func point(moments []float64, q float64) *int64 {
	v := moments[min(int(q*float64(len(moments))), len(moments)-1)]
	if math.IsInf(v, 0) {
		return nil
	}
	ms := int64(v)
	return &ms
}
