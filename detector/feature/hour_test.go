package feature

import (
	"math"
	"math/rand/v2"
	"testing"
)

// equal reports whether two values are equal but for rounding.
func equal(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(math.Abs(a), math.Abs(b), 1e-9) }

// randomHour is an hour with minutes missing, signals missing, and a counter that is reset.
func randomHour(r *rand.Rand) []GPUCell {
	var out []GPUCell
	reading := 1e6
	for m := range int64(60) {
		if r.IntN(5) == 0 {
			continue
		}
		c := GPUCell{Node: "n", GPU: 3, MinuteMs: 7*HourMs + m*MinuteMs, AvailableMs: 1000 * m, Samples: 1 + r.IntN(60)}
		for s := range NumSignals {
			if r.IntN(4) > 0 {
				c.Mean[s], c.SD[s], c.CoverMs[s] = r.Float64(), r.Float64()/10, 1+r.Int64N(MinuteMs)
			}
		}
		if r.IntN(4) > 0 {
			c.TensorClockMHz, c.TensorClockMs = 1000*r.Float64(), 1+r.Int64N(MinuteMs)
		}
		if r.IntN(4) > 0 {
			if r.IntN(15) == 0 {
				reading = 10 * r.Float64()
			}
			first := reading + 100*r.Float64()
			reading = first + 100*r.Float64()
			c.EnergyJ = Counter{FirstMs: c.MinuteMs + 100, LastMs: c.MinuteMs + 59_000, First: first, Last: reading, Delta: reading - first}
		}
		out = append(out, c)
	}
	return out
}

// TestHourIsItsMinutes: what later stages add up over an hour of minutes is the same from its roll-up as from its minutes, and the
// same again from the minutes that it is spread over.
func TestHourIsItsMinutes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		cells := randomHour(r)
		h, ok := ReduceHour(cells, 7*HourMs)
		if !ok {
			t.Fatal("no hour")
		}
		again := h.Cells()
		if len(again) != len(cells) {
			t.Fatalf("%d minutes of %d", len(again), len(cells))
		}
		sums := func(cells []GPUCell) (out [3*NumSignals + 5]float64) {
			for i := range cells {
				for s := range NumSignals {
					if w := float64(cells[i].CoverMs[s]); w > 0 {
						out[s] += w
						out[NumSignals+s] += w * cells[i].Mean[s]
						out[2*NumSignals+s] += w * (cells[i].SD[s]*cells[i].SD[s] + cells[i].Mean[s]*cells[i].Mean[s])
					}
				}
				out[3*NumSignals] += float64(cells[i].Samples)
				out[3*NumSignals+1] += cells[i].TensorClockMHz * float64(cells[i].TensorClockMs)
				out[3*NumSignals+2] += float64(cells[i].TensorClockMs)
			}
			total := Counter{}
			for i := range cells {
				total = bridge(total, cells[i].EnergyJ)
			}
			out[3*NumSignals+3], out[3*NumSignals+4] = total.Delta, total.Last
			return out
		}
		want, hour := sums(cells), sums([]GPUCell{h.GPUCell})
		for i := range want {
			if !equal(want[i], hour[i]) {
				t.Fatalf("sum %d is %v from minutes, %v from the hour", i, want[i], hour[i])
			}
		}
		spread := sums(again)
		for i := range want {
			if i != 3*int(NumSignals)+3 && !equal(want[i], spread[i]) { // the last piece ends at the counter's own reading
				t.Fatalf("sum %d is %v from minutes, %v from the hour spread out", i, want[i], spread[i])
			}
		}
		delta := 0.0
		for i := range again {
			if again[i].MinuteMs != cells[i].MinuteMs {
				t.Fatalf("minute %d is not %d", again[i].MinuteMs, cells[i].MinuteMs)
			}
			delta += again[i].EnergyJ.Delta
			if i > 0 && again[i].EnergyJ.Has() && again[i].EnergyJ.FirstMs != again[i-1].EnergyJ.LastMs {
				t.Fatal("a counter's pieces do not touch")
			}
		}
		if !equal(delta, h.EnergyJ.Delta) {
			t.Fatalf("increments are %v, spread out %v", h.EnergyJ.Delta, delta)
		}
	}
}

func TestNoHour(t *testing.T) {
	if _, ok := ReduceHour([]GPUCell{{MinuteMs: 60_000}}, HourMs); ok {
		t.Error("an hour without cells")
	}
	if got := (&HourCell{}).Cells(); got != nil {
		t.Errorf("cells %v", got)
	}
}
