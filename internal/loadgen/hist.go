package loadgen

import (
	"math"
	"sync"
	"time"
)

const (
	perDoubling = 24 // buckets of a histogram: each is 3 % wide
	buckets     = 24 * perDoubling
)

// hist counts durations: quantiles to 3 %, the largest exactly. It may be used by several
// goroutines.
type hist struct {
	mu   sync.Mutex
	n    uint64
	most time.Duration
	at   [buckets]uint32
}

func (h *hist) add(d time.Duration) {
	d = max(d, 0)
	i := 0
	if ms := d.Seconds() * 1000; ms > 1 {
		i = min(int(math.Log2(ms)*perDoubling)+1, buckets-1)
	}
	h.mu.Lock()
	h.n++
	h.most = max(h.most, d)
	h.at[i]++
	h.mu.Unlock()
}

// Lag is a distribution of waiting times in milliseconds.
type Lag struct {
	Frames uint64  `json:"frames"`
	P50Ms  float64 `json:"p50_ms"`
	P90Ms  float64 `json:"p90_ms"`
	P99Ms  float64 `json:"p99_ms"`
	MaxMs  float64 `json:"max_ms"`
}

func (h *hist) lag() Lag {
	h.mu.Lock()
	defer h.mu.Unlock()
	most := float64(h.most.Microseconds()) / 1000
	q := func(share float64) float64 {
		rank, seen := uint64(math.Ceil(share*float64(h.n))), uint64(0)
		for i, c := range h.at {
			if seen += uint64(c); seen >= rank && rank > 0 {
				return math.Min(math.Exp2(float64(i)/perDoubling), most) // the bucket's upper end
			}
		}
		return 0
	}
	return Lag{Frames: h.n, P50Ms: q(0.5), P90Ms: q(0.9), P99Ms: q(0.99), MaxMs: most}
}

func (h *hist) reset() {
	h.mu.Lock()
	h.n, h.most, h.at = 0, 0, [buckets]uint32{}
	h.mu.Unlock()
}
