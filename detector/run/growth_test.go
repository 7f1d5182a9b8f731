package run

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// fleetOf is a day of a fleet of n GPUs: jobs of one to many nodes, restarts, tries, one fleet-wide
// start; hours where nothing changes are one cell.
func fleetOf(n int) *feature.Evidence {
	rng := rand.New(rand.NewPCG(uint64(n), 4))
	ev := &feature.Evidence{StartMs: 0, EndMs: 24 * 60 * minuteMs, Nodes: map[string]feature.Node{}, GPU: map[feature.GPUKey][]feature.GPUCell{}, Host: map[string][]feature.NodeCell{}}
	nodes := n / 8
	cell := func(node string, g int, from, to int64, mem, watts, util float64) feature.GPUCell {
		c := feature.GPUCell{Node: node, GPU: g, MinuteMs: from * minuteMs, SpanMs: (to - from) * minuteMs, Samples: int(to-from) * 4}
		for _, s := range [...]feature.Signal{feature.MemUsedBytes, feature.PowerW, feature.UtilFrac} {
			c.CoverMs[s] = c.SpanMs
		}
		c.Mean[feature.MemUsedBytes], c.Mean[feature.PowerW], c.Mean[feature.UtilFrac] = mem, watts, util
		return c
	}
	for at := 0; at < nodes; {
		size := min(nodes-at, 1<<rng.IntN(7))
		mem, watts := (20+55*rng.Float64())*1e9, 300+350*rng.Float64()
		start := int64(30)
		if rng.IntN(3) > 0 {
			start += int64(rng.IntN(300))
		}
		stop := start + 60 + int64(rng.IntN(400))
		for k := range size {
			node := fmt.Sprintf("n%06d", at+k)
			ev.Nodes[node] = feature.Node{Node: node, GPUModel: "X", GPUCount: 8, TDPW: 700}
			for g := range 8 {
				ev.GPU[feature.GPUKey{Node: node, GPU: g}] = []feature.GPUCell{
					cell(node, g, 0, start, 0.5e9, 75, 0), cell(node, g, start, stop, mem, watts, 0.97),
					cell(node, g, stop, stop+6, 0.5e9, 75, 0), cell(node, g, stop+6, stop+200, mem, watts, 0.97),
					cell(node, g, stop+200, 1440, 0.5e9, 75, 0),
				}
			}
		}
		at += size
	}
	return ev
}

// The cost of assembly grows about as the fleet does.
func BenchmarkAssembly(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("%d_GPUs", n), func(b *testing.B) {
			ev := fleetOf(n)
			b.ReportAllocs()
			for b.Loop() {
				eps := Episodes(ev)
				classes := make([]ClassOf, len(eps))
				for i := range classes {
					classes[i] = ClassOf{Class: "training", Prob: 0.9}
				}
				runs := Join(ev, eps, classes)
				Campaigns(ev, eps, runs)
			}
			b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(b.N)/float64(n), "us/GPU")
		})
	}
}

// What is compared stays bounded for each part of a fleet, however many there are.
func TestComparisonsGrowWithTheFleet(t *testing.T) {
	for _, n := range []int{800, 3200} {
		ev := fleetOf(n)
		eps := Episodes(ev)
		classes := make([]ClassOf, len(eps))
		for i := range classes {
			classes[i] = ClassOf{Class: "training", Prob: 0.9}
		}
		if got, most := len(newTimeline(ev, eps, classes).hops()), 8*reachOf*len(eps); got > most {
			t.Errorf("%d GPUs, %d episodes: %d proposals, at most %d", n, len(eps), got, most)
		}
	}
}
