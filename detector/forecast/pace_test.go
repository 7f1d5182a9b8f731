package forecast

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/flopwatch/flopwatch/detector/flops"
)

// lived is a run of so many minutes, with interruptions and scale-ups as published runs have
// them, and noise.
func lived(seed uint64, minutes int) []flops.Point {
	r := rand.New(rand.NewPCG(seed, 7))
	out := make([]flops.Point, minutes)
	sum, level := 0.0, 1e18
	down := 0
	every := math.Exp(r.Float64()*math.Log(40))*60 + 120 // minutes between interruptions: two hours to three days
	long := 5 + r.Float64()*80
	up := -1
	if r.IntN(6) == 0 { // a sixth is scaled up once
		up = r.IntN(minutes)
	}
	for i := range out {
		if i == up {
			level *= 1.3 + r.Float64()
		}
		switch {
		case down > 0:
			down--
		case r.Float64() < 1/every:
			down = 1 + int(r.ExpFloat64()*long)
		default:
			sum += level * math.Exp(0.05*r.NormFloat64())
		}
		out[i] = flops.Point{EndMs: t0 + int64(i+1)*60_000, ModelFLOP: sum}
	}
	return out
}

// TestHalfway asks at half of the work when the whole is done, of runs that live as published
// ones do. Total FLOPs are known here: it is the calendar that is judged.
func TestHalfway(t *testing.T) {
	t.Parallel()
	n, within, held, early := 0, 0, 0, 0
	for seed := range uint64(300) {
		minutes := 600 + int(seed%10)*2000
		s := lived(seed, minutes)
		limit := s[minutes-1].ModelFLOP * 0.999
		half := 0
		for s[half].ModelFLOP < limit/2 {
			half++
		}
		whole := half
		for s[whole].ModelFLOP < limit {
			whole++
		}
		done := s[half].ModelFLOP
		c := Cross(Input{
			Series: s[:half+1], StartMs: t0, NowMs: s[half].EndMs, Model: flops.Interval{Low: done * 0.999, Best: done, High: done * 1.001},
			LimitFLOP: limit, EndMs: t0 + 400*dayMs, Open: true,
		})
		if c == nil || c.P10 == nil || c.P90 == nil {
			t.Fatalf("seed %d: %+v", seed, c)
		}
		n++
		left := float64(s[whole].EndMs - s[half].EndMs)
		if math.Abs(float64(*c.P50-s[whole].EndMs)) <= 0.1*left {
			within++
		}
		if *c.P10 <= s[whole].EndMs && s[whole].EndMs <= *c.P90 {
			held++
		}
		if s[whole].EndMs < *c.P50 {
			early++
		}
	}
	t.Logf("%d runs: the date is within 10 %% of the remaining time for %d, P10 to P90 hold %d, the middle is late for %d", n, within, held, early)
	if 100*within < 80*n || 100*held < 70*n || 100*held > 92*n {
		t.Errorf("of %d runs within 10 %% %d, held %d", n, within, held)
	}
}

// A run that was scaled up an hour ago goes on as it goes now, not as it went.
func TestScaledUp(t *testing.T) {
	t.Parallel()
	s := ramp(600, 1e18)
	for i := 540; i < 600; i++ {
		s[i].ModelFLOP = s[i-1].ModelFLOP + 2e18
	}
	done := s[599].ModelFLOP
	in := Input{Series: s, StartMs: t0, NowMs: s[599].EndMs, Model: flops.Interval{Low: done * 0.95, Best: done, High: done * 1.05}, LimitFLOP: 2 * done, EndMs: t0 + 90*dayMs, Open: true}
	c := Cross(in)
	want := float64(s[599].EndMs) + done/2e18*60_000
	if c == nil || math.Abs(float64(*c.P50)-want) > 0.12*done/2e18*60_000 {
		t.Errorf("%+v, want the middle near %v", c, want)
	}
}
