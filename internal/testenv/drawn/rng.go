package drawn

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
)

// rng draws from priors. Every stream is named, so that a new draw in one place does not
// move those of another.
type rng struct {
	*rand.Rand
	seed uint64
}

func newRNG(seed uint64, name string) *rng {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	s := scatter(h.Sum64() ^ scatter(seed))
	return &rng{Rand: rand.New(rand.NewPCG(s, scatter(s+1))), seed: s}
}

// scatter spreads a difference of one bit over all.
func scatter(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// stream is a generator of its own for one thing.
func (r *rng) stream(name string) *rng { return newRNG(r.seed, name) }

func (r *rng) uniform(a, b float64) float64 { return a + (b-a)*r.Float64() }

// logUniform draws with equal weight on every factor.
func (r *rng) logUniform(a, b float64) float64 { return a * math.Exp(math.Log(b/a)*r.Float64()) }

// factor is log-normal around 1.
func (r *rng) factor(sd float64) float64 { return math.Exp(sd * r.NormFloat64()) }

func (r *rng) chance(p float64) bool { return r.Float64() < p }

// between draws an integer, both ends included.
func (r *rng) between(a, b int) int {
	if b <= a {
		return a
	}
	return a + r.IntN(b-a+1)
}

func pick[T any](r *rng, of ...T) T { return of[r.IntN(len(of))] }

// poisson draws a count of a mean.
func (r *rng) poisson(mean float64) float64 {
	if mean > 40 {
		return max(0, math.Round(mean+math.Sqrt(mean)*r.NormFloat64()))
	}
	limit, n, p := math.Exp(-mean), 0, r.Float64()
	for p > limit && n < 1000 {
		p *= r.Float64()
		n++
	}
	return float64(n)
}

// hex gives n hexadecimal digits.
func (r *rng) hex(n int) string {
	out := make([]byte, n)
	for i := range out {
		out[i] = "0123456789abcdef"[r.IntN(16)]
	}
	return string(out)
}

// wander is a slow log-normal process around 1, n values, that forgets within `memory` values.
func (r *rng) wander(n int, sd, memory float64) []float64 {
	keep := math.Exp(-1 / max(memory, 1e-9))
	x := sd * r.NormFloat64()
	out := make([]float64, n)
	for i := range out {
		out[i] = math.Exp(x)
		x = keep*x + sd*math.Sqrt(1-keep*keep)*r.NormFloat64()
	}
	return out
}
