package feature

import (
	"math"
	"math/rand/v2"
	"testing"
)

// ported makes readings of two ports whose bytes come in the last quarter of steps, and of the host's watts.
func ported(stepMs, everyMs float64, r *rand.Rand) (host []HostSample, fabric []FabricSample) {
	from := t0 + MinuteMs - (WindowMs + MinuteMs)
	sent := 0.0
	for t := everyMs; t <= float64(WindowMs+MinuteMs); t += everyMs {
		for x := t - everyMs; x < t; x += 10 { // 10 ms at a time
			if math.Mod(x, stepMs) > 0.75*stepMs {
				sent += 10 * 4e7
			}
		}
		ts := from + int64(t) + int64(r.IntN(9))
		for _, port := range []string{"mlx5_0/1", "mlx5_1/1"} {
			fabric = append(fabric, FabricSample{Node: "n", Port: port, Kind: "roce", TsMs: ts, AvailableMs: ts, TxBytes: math.Floor(sent), RxBytes: math.NaN()})
		}
		fabric = append(fabric, FabricSample{Node: "n", Port: "eth0", Kind: "ethernet", TsMs: ts, AvailableMs: ts, TxBytes: 1e9 * r.Float64(), RxBytes: math.NaN()})
		w := 9000.0
		if math.Mod(t, stepMs) > 0.75*stepMs {
			w = 6000
		}
		host = append(host, HostSample{Node: "n", TsMs: ts, AvailableMs: ts, PowerW: w + 50*r.NormFloat64(), CPUFrac: math.NaN(), StorageTxBps: math.NaN(), StorageRxBps: math.NaN()})
	}
	return host, fabric
}

func TestRhythmOfHost(t *testing.T) {
	t.Parallel()
	for _, every := range []float64{100, 1000, 10_000} {
		for _, step := range []float64{1300, 5800, 35_000, 105_000} {
			if step < 2.2*every {
				continue
			}
			host, fabric := ported(step, every, rand.New(rand.NewPCG(1, uint64(step))))
			c, ok := ReduceNode("n", host, fabric, t0)
			if p := c.Rhythm; !ok || c.RhythmOfPower || math.Abs(p.PeriodMs/step-1) > 0.01 {
				t.Errorf("ports, step %v every %v: %+v of watts %v", step, every, p, c.RhythmOfPower)
			}
			c, ok = ReduceNode("n", host, nil, t0)
			if step < 4*every {
				continue // a moment's watts show what the samples and the steps have in common
			}
			if p := c.Rhythm; !ok || !c.RhythmOfPower || math.Abs(p.PeriodMs/step-1) > 0.01 {
				t.Errorf("watts, step %v every %v: %+v of watts %v", step, every, p, c.RhythmOfPower)
			}
		}
	}
}
