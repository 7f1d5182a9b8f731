package feature

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
)

// skewed makes hosts of one job whose clocks are off: loads start, stop and stall at the same moments.
func skewed(offMs map[string]int64, stalls []int64, r *rand.Rand, everyMs int64) Samples {
	var s Samples
	const span = 4 * 60 * MinuteMs
	for _, n := range sortedNames(offMs) {
		s.Allocations = append(s.Allocations, Allocation{Account: "a", Node: n, GPUs: []int{0}, StartMs: t0 - span})
		for at := int64(0); at < span; at += everyMs {
			load := 0.9
			if at < 20*MinuteMs {
				load = 0
			}
			for _, x := range stalls {
				if at >= x && at < x+100_000 {
					load = 0.1
				}
			}
			g := sample(t0-span+at+offMs[n], map[Signal]float64{SMActiveFrac: load * (1 + 0.02*r.NormFloat64())})
			g.Node, g.GPU = n, 0
			s.GPU = append(s.GPU, g)
		}
	}
	return s
}

func sortedNames(m map[string]int64) []string {
	var out []string
	for i := range len(m) {
		out = append(out, fmt.Sprint("n", i))
	}
	return out
}

func TestOffsets(t *testing.T) {
	t.Parallel()
	off := map[string]int64{"n0": 0, "n1": 90_000, "n2": -75_000, "n3": 4_000, "n4": 200_000, "n5": -20_000}
	var stalls []int64
	r := rand.New(rand.NewPCG(1, 1))
	for at := int64(40 * MinuteMs); at < 230*MinuteMs; at += int64(11+r.IntN(19)) * MinuteMs {
		stalls = append(stalls, at+int64(r.IntN(60_000)))
	}
	for _, every := range []int64{1000, 10_000, 60_000} {
		ev := BuildEvidence(skewed(off, stalls, r, every), t0-6*60*MinuteMs, t0+10*MinuteMs)
		got := Offsets(ev)
		base := got["n0"].Ms
		for n, want := range off {
			o := got[n]
			if !o.Known || math.Abs(o.Ms-base-float64(want)) > max(20_000, 3*o.SDMs) {
				t.Errorf("every %d ms, %s: %+v beside n0's %v, want %d", every, n, o, base, want)
			}
		}
		if again := Offsets(ev); !reflect.DeepEqual(got, again) {
			t.Errorf("twice: %v, %v", got, again)
		}
	}
}

// What does not tell one offset from another tells none.
func TestOffsetsUnknown(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(2, 2))
	off := map[string]int64{"n0": 0, "n1": 90_000}
	var often []int64
	for at := int64(30 * MinuteMs); at < 230*MinuteMs; at += 3 * MinuteMs {
		often = append(often, at)
	}
	for what, stalls := range map[string][]int64{"level": nil, "every three minutes": often} {
		if got := Offsets(BuildEvidence(skewed(off, stalls, r, 10_000), t0-6*60*MinuteMs, t0+10*MinuteMs)); len(got) != 0 {
			t.Errorf("%s: %v", what, got)
		}
	}
	// Two jobs of one account, each with its own stalls.
	var a, b []int64
	for at := int64(30 * MinuteMs); at < 230*MinuteMs; at += 20 * MinuteMs {
		a, b = append(a, at+int64(r.IntN(15*MinuteMs))), append(b, at+int64(r.IntN(15*MinuteMs)))
	}
	one, two := skewed(map[string]int64{"n0": 0}, a, r, 10_000), skewed(map[string]int64{"n0": 0}, b, r, 10_000)
	for i := range two.GPU {
		two.GPU[i].Node = "n1"
	}
	two.Allocations[0].Node = "n1"
	one.GPU, one.Allocations = append(one.GPU, two.GPU...), append(one.Allocations, two.Allocations...)
	if got := Offsets(BuildEvidence(one, t0-6*60*MinuteMs, t0+10*MinuteMs)); len(got) != 0 {
		t.Errorf("two jobs: %v", got)
	}
}
