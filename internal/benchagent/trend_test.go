package main

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestFlat(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	series := func(f func(i int) float64) (x, y []float64) {
		for i := range 180 {
			x, y = append(x, float64(10*i)), append(y, f(i))
		}
		return x, y
	}
	b := bound{share: 0.10, amount: 1}
	for name, c := range map[string]struct {
		f    func(i int) float64
		flat bool
	}{
		"constant":     {func(int) float64 { return 12 }, true},
		"saw of a GC":  {func(i int) float64 { return 10 + float64(i%9) }, true},
		"noise":        {func(int) float64 { return 20 + chance.NormFloat64() }, true},
		"leak":         {func(i int) float64 { return 20 + 0.02*float64(i) + chance.NormFloat64() }, false},
		"faults":       {func(i int) float64 { return 20 + 40*float64(max(0, i%20-16)) }, true},
		"it shrinks":   {func(i int) float64 { return 40 - 0.1*float64(i) }, true},
		"not measured": {func(int) float64 { return math.NaN() }, false},
	} {
		x, y := series(c.f)
		if rise, allowed, flat := b.flat(x, y); flat != c.flat {
			t.Errorf("%s: rises by %.2f of %.2f: flat %t, wanted %t", name, rise, allowed, flat, c.flat)
		}
	}
}
