package feature

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"
)

// FuzzRhythm: whatever rows there are, a rhythm is a rhythm, and the same each time.
func FuzzRhythm(f *testing.F) {
	var steady, odd []byte
	for i := range 300 {
		v := 1.0
		if i%7 < 2 {
			v = 3
		}
		steady = binary.LittleEndian.AppendUint16(steady, 1000)
		steady = binary.LittleEndian.AppendUint64(steady, math.Float64bits(v))
		odd = binary.LittleEndian.AppendUint16(odd, uint16(i*i))
		odd = binary.LittleEndian.AppendUint64(odd, math.Float64bits([]float64{math.NaN(), math.Inf(1), 1e308, -1e308, 0, 5e-324}[i%6]))
	}
	f.Add(steady)
	f.Add(odd)
	f.Fuzz(func(t *testing.T, b []byte) {
		var gpu []GPUSample
		var host []HostSample
		var fabric []FabricSample
		ts := t0 + MinuteMs - 301_000
		for ; len(b) >= 10 && len(gpu) < 2000; b = b[10:] {
			step, v := binary.LittleEndian.Uint16(b), math.Float64frombits(binary.LittleEndian.Uint64(b[2:]))
			ts += int64(step)
			if ts >= t0+MinuteMs {
				break
			}
			gpu = append(gpu, sample(ts, map[Signal]float64{NVLinkTxBps: v, PowerW: -v, TensorFrac: v / 2}))
			host = append(host, HostSample{Node: "n", TsMs: ts, PowerW: v})
			fabric = append(fabric, FabricSample{Node: "n", Port: "p" + string('0'+rune(step&1)), Kind: "roce", TsMs: ts, TxBytes: v, RxBytes: v})
		}
		sound := func(what string, p Peak) {
			if p == (Peak{}) {
				return
			}
			if !(p.PeriodMs > 0) || math.IsInf(p.PeriodMs, 0) || !(p.Power >= 0 && p.Power <= 1) || !(p.CrestMs >= 0 && p.CrestMs <= p.PeriodMs) || !(p.CadenceMs > 0) || p.PeriodMs > WindowMs {
				t.Errorf("%s: %+v", what, p)
			}
		}
		c, _ := ReduceGPU(gpu, t0)
		sound("gpu", c.Rhythm)
		slices.SortStableFunc(fabric, func(a, b FabricSample) int { return int(a.TsMs - b.TsMs) })
		n, _ := ReduceNode("n", host, fabric, t0)
		sound("host", n.Rhythm)
		c2, _ := ReduceGPU(gpu, t0)
		n2, _ := ReduceNode("n", host, fabric, t0)
		if fmt.Sprint(c, n) != fmt.Sprint(c2, n2) {
			t.Errorf("twice: %+v %+v, %+v %+v", c, n, c2, n2)
		}
		if b := BeatOf([]GPUCell{c}); b.PeriodMs != c.Rhythm.PeriodMs || math.IsNaN(b.Share+b.Power+b.Spread) {
			t.Errorf("beat: %+v of %+v", b, c.Rhythm)
		}
		if o := InStep([]GPUCell{c}, []GPUCell{c}).LogOdds; math.IsNaN(o) || math.Abs(o) > mostOdds {
			t.Errorf("in step: %v", o)
		}
	})
}
