package flops

import (
	"math"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// Each pair of instruments is compared: what is forged is found as what it is, and what is not
// raises nothing.
func TestCrossCheck(t *testing.T) {
	t.Parallel()
	const minutes = 60
	joules := func(ts int64, watts float64) float64 { return 1e9 + float64(ts-t0)/1000*watts }
	tests := []struct {
		name, kind string
		gpu        int
		forge      func(g int, ts int64, s *feature.GPUSample)
	}{
		{"honest", "", 0, func(int, int64, *feature.GPUSample) {}},
		{"activity scaled by 0.3", CrossWattsSM, -1, func(_ int, _ int64, s *feature.GPUSample) {
			s.Value[feature.TensorFrac] *= 0.3
			s.Value[feature.SMActiveFrac] *= 0.3
			s.MMACycles = math.NaN()
		}},
		{"one GPU's activity scaled", CrossPeers, 3, func(g int, _ int64, s *feature.GPUSample) {
			if g == 3 {
				s.Value[feature.TensorFrac] *= 0.3
				s.MMACycles = math.NaN()
			}
		}},
		{"cycles scaled", CrossCycles, -1, func(_ int, _ int64, s *feature.GPUSample) { s.MMACycles *= 0.55 }},
		{"watts scaled", CrossEnergy, -1, func(_ int, _ int64, s *feature.GPUSample) { s.Value[feature.PowerW] *= 0.5 }},
		{"watts and joules scaled", CrossJoules, -1, func(_ int, ts int64, s *feature.GPUSample) {
			s.Value[feature.PowerW] *= 0.15
			s.EnergyJ = joules(ts, 0.15*640)
		}},
		{"ten minutes of it", CrossEnergy, -1, func(_ int, ts int64, s *feature.GPUSample) {
			if ts > t0+20*minuteMs && ts < t0+35*minuteMs {
				s.Value[feature.PowerW] *= 0.4
			}
		}},
		{"a moment", "", 0, func(_ int, ts int64, s *feature.GPUSample) {
			if ts > t0+20*minuteMs && ts < t0+24*minuteMs {
				s.Value[feature.PowerW] *= 0.4
			}
		}},
	}
	for _, tt := range tests {
		ev := fleet(h100, 8, minutes, 10_000, func(g int, ts int64, s *feature.GPUSample) bool {
			v := &s.Value
			v[feature.TensorFrac], v[feature.SMActiveFrac], v[feature.SMClockMHz], v[feature.PowerW] = 0.41, 0.8, 1500, 640
			s.MMACycles, s.EnergyJ = 1e15+(0.41/0.4)*(cyclesAt(ts)-5e12), joules(ts, 640)
			tt.forge(g, ts, s)
			return true
		})
		found := CrossCheck(ev, members(8, minutes), "training")
		if tt.kind == "" {
			if len(found) > 0 {
				t.Errorf("%s: %+v", tt.name, found)
			}
			continue
		}
		ok := false
		for _, c := range found {
			ok = ok || c.Kind == tt.kind && c.GPU == tt.gpu && c.LogOdds > 0 && c.Reason != "" && c.ToMs-c.FromMs >= crossLeastMs
		}
		if !ok {
			t.Errorf("%s: %+v, want %s of GPU %d", tt.name, found, tt.kind, tt.gpu)
		}
	}
}

func TestCrossHost(t *testing.T) {
	t.Parallel()
	of := func(gpuW, hostW float64) []Contradiction {
		s := feature.Samples{Nodes: []feature.Node{{Node: "n", GPUModel: h100, GPUCount: 8, TDPW: 700, FabricGbps: math.NaN(), Listed: true}}}
		for ts := t0 - minuteMs; ts < t0+40*minuteMs; ts += 15_000 {
			for g := range 8 {
				r := feature.GPUSample{Node: "n", GPU: g, TsMs: ts, EnergyJ: math.NaN(), MMACycles: math.NaN()}
				for i := range feature.NumSignals {
					r.Value[i] = math.NaN()
				}
				r.Value[feature.PowerW] = gpuW
				s.GPU = append(s.GPU, r)
			}
			s.Host = append(s.Host, feature.HostSample{Node: "n", TsMs: ts, PowerW: hostW, CPUFrac: math.NaN(), StorageTxBps: math.NaN(), StorageRxBps: math.NaN()})
		}
		return CrossCheck(feature.BuildEvidence(s, t0-minuteMs, t0+40*minuteMs), members(8, 39), "training")
	}
	for _, honest := range [][2]float64{{687, 8092}, {75, 1900}, {400, 5200}, {690, 6400}} { // the first was published
		if found := of(honest[0], honest[1]); len(found) > 0 {
			t.Errorf("GPUs at %v W, host at %v: %+v", honest[0], honest[1], found)
		}
	}
	for _, forged := range [][2]float64{{180, 8092}, {640, 2500}} {
		if found := of(forged[0], forged[1]); len(found) != 1 || found[0].Kind != CrossHost || found[0].GPU != -1 {
			t.Errorf("GPUs at %v W, host at %v: %+v", forged[0], forged[1], found)
		}
	}
}
