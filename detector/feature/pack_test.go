package feature

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestPackedSaysTheSame: cells that were rounded come back from packing as they were, and can be cut by time.
func TestPackedSaysTheSame(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		cells := randomHour(r)
		var p Packed
		for i := range cells {
			c := &cells[i]
			c.Single()
			for s := range NumSignals {
				if c.CoverMs[s] == 0 {
					c.Mean[s], c.SD[s] = 0, 0
				}
			}
			if r.IntN(3) == 0 {
				c.Rhythm, c.RhythmOf = Peak{PeriodMs: single(1 + 1e5*r.Float64()), Power: single(r.Float64()), CrestMs: single(r.Float64()), CadenceMs: single(1e3 * r.Float64()), Folded: r.IntN(2) == 0}, Signal(r.IntN(int(NumSignals)))
			}
			if r.IntN(3) == 0 {
				for s := range NumSignals {
					c.CoverMs[s] = MinuteMs
				}
			}
			if r.IntN(20) == 0 && i == len(cells)-1 {
				c.SpanMs = 24 * HourMs
			}
			p = p.Append(c)
		}
		if len(cells) == 0 {
			continue
		}
		k := GPUKey{cells[0].Node, cells[0].GPU}
		if got := p.Unpack(nil, k); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", cells) {
			t.Fatalf("unpacked %+v\nwant %+v", got, cells)
		}
		n := r.IntN(len(cells))
		if got := p.FromBefore(cells[n].MinuteMs+1).Unpack(nil, k); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", cells[max(n-1, 0):]) {
			t.Errorf("from before cell %d on there are %d of %d", n, len(got), len(cells))
		}
		if got, count := p.Before(cells[n].MinuteMs); count != n || got.Count() != n {
			t.Errorf("before cell %d there are %d", n, count)
		}
	}
}

func BenchmarkUnpack(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	cells := randomHour(r)
	var p Packed
	for i := range cells {
		p = p.Append(&cells[i])
	}
	dst := make([]GPUCell, 0, len(cells))
	for b.Loop() {
		dst = p.Unpack(dst[:0], GPUKey{})
	}
	b.ReportMetric(float64(len(p))/float64(len(cells)), "B/cell")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(cells)), "ns/cell")
}
