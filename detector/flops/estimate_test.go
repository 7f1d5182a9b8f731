package flops

import (
	"math"
	"reflect"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

const t0 = int64(1_700_000_000_000) / minuteMs * minuteMs

// fleet is GPUs of one node whose rows a function makes.
func fleet(model string, gpus int, minutes, stepMs int64, row func(gpu int, tsMs int64, s *feature.GPUSample) bool) *feature.Evidence {
	s := feature.Samples{Nodes: []feature.Node{{Node: "n", GPUModel: model, GPUCount: 8, Listed: true, TDPW: math.NaN(), FabricGbps: math.NaN()}}}
	for g := range gpus {
		for ts := t0 - stepMs; ts <= t0+minutes*minuteMs+stepMs; ts += stepMs {
			r := feature.GPUSample{Node: "n", GPU: g, TsMs: ts, AvailableMs: ts, EnergyJ: math.NaN(), MMACycles: math.NaN()}
			for i := range feature.NumSignals {
				r.Value[i] = math.NaN()
			}
			if row(g, ts, &r) {
				s.GPU = append(s.GPU, r)
			}
		}
	}
	return feature.BuildEvidence(s, t0-minuteMs, t0+(minutes+30)*minuteMs)
}

func members(gpus int, minutes int64) []run.Member {
	var out []run.Member
	for g := range gpus {
		out = append(out, run.Member{Node: "n", GPU: g, StartMs: t0, EndMs: t0 + minutes*minuteMs})
	}
	return out
}

func within(t *testing.T, what string, got, want, frac float64) {
	t.Helper()
	if math.Abs(got-want) > frac*math.Abs(want) {
		t.Errorf("%s = %g, want %g within %g %%", what, got, want, 100*frac)
	}
}

const h100 = "NVIDIA H100 80GB HBM3"

// Cycles at 40 % of 1.5 GHz on all SMs for an hour.
func cyclesAt(ts int64) float64 { return 5e12 + float64(ts-t0)/1000*0.4*1.5e9 }

var hourOfCycles = 0.4 * 1.5e9 * 132 * 4096 * 3600 // FLOP of one GPU

func TestCyclesTier(t *testing.T) {
	t.Parallel()
	ev := fleet(h100, 2, 60, 10_000, func(_ int, ts int64, s *feature.GPUSample) bool {
		s.MMACycles = cyclesAt(ts)
		return true
	})
	w := Measure(Input{Ev: ev, Members: members(2, 60)})
	var sum Minute
	for i := range w.Minutes {
		sum.add(&w.Minutes[i])
	}
	within(t, "tensor FLOP", sum.HMMA, 2*hourOfCycles, 1e-9)
	e := w.Estimate("training")
	if !reflect.DeepEqual(e.Basis, []string{BasisMMACycles}) || e.CoverageFrac != 1 || len(e.Series) != 60 {
		t.Errorf("basis %v, coverage %v, %d points", e.Basis, e.CoverageFrac, len(e.Series))
	}
	within(t, "executed", e.Executed.Best, 2*hourOfCycles/1.05, 0.05)
	if e.Model.Best >= e.Executed.Best || e.Executed.Low >= e.Executed.Best || e.Executed.High <= e.Executed.Best {
		t.Errorf("estimate %+v", e)
	}
	within(t, "half of the series", e.Series[29].ExecutedFLOP, e.Executed.Best/2, 1e-6)
}

// A counter that runs on bridges an hour without rows exactly; after a reset what came
// before it is lost, and nothing is invented.
func TestCyclesBridgeAndReset(t *testing.T) {
	t.Parallel()
	gap := func(ts int64) bool { return ts <= t0+5*minuteMs || ts >= t0+55*minuteMs }
	ev := fleet(h100, 1, 60, 10_000, func(_ int, ts int64, s *feature.GPUSample) bool {
		s.MMACycles = cyclesAt(ts)
		return gap(ts)
	})
	w := Measure(Input{Ev: ev, Members: members(1, 60)})
	within(t, "bridged", sumOf(w).HMMA, hourOfCycles, 1e-9)
	within(t, "coverage", w.Estimate("training").CoverageFrac, 1, 1e-9)

	reset := t0 + 30*minuteMs
	ev = fleet(h100, 1, 60, 10_000, func(_ int, ts int64, s *feature.GPUSample) bool {
		s.MMACycles = cyclesAt(ts)
		if ts > reset {
			s.MMACycles = cyclesAt(ts) - cyclesAt(reset)
		}
		return true
	})
	within(t, "over a reset", sumOf(Measure(Input{Ev: ev, Members: members(1, 60)})).HMMA, hourOfCycles, 1e-9)
}

func sumOf(w *Work) Minute {
	var sum Minute
	for i := range w.Minutes {
		sum.add(&w.Minutes[i])
	}
	return sum
}

// A counter faster than the part's clock is no counter of this part: the next tier answers.
func TestImpossibleCycles(t *testing.T) {
	t.Parallel()
	ev := fleet(h100, 1, 10, 10_000, func(_ int, ts int64, s *feature.GPUSample) bool {
		s.MMACycles = 40 * cyclesAt(ts)
		s.Value[feature.TensorFrac], s.Value[feature.SMClockMHz] = 0.4, 1500
		return true
	})
	e := Of(Input{Ev: ev, Members: members(1, 10), Class: "training"})
	if !reflect.DeepEqual(e.Basis, []string{BasisTensorActivity}) {
		t.Errorf("basis %v", e.Basis)
	}
	within(t, "executed", e.Executed.Best, hourOfCycles/6/1.05, 0.05)
}

// A counter that is a sum over the SMs, or over their tensor cores, is told by the activity,
// and without one by a rate that no clock allows.
func TestSummedCycles(t *testing.T) {
	t.Parallel()
	for _, unit := range []float64{1, 132, 528} {
		for _, beside := range []bool{true, false} {
			ev := fleet(h100, 1, 60, 10_000, func(_ int, ts int64, s *feature.GPUSample) bool {
				s.MMACycles = unit * cyclesAt(ts)
				if beside {
					s.Value[feature.TensorFrac], s.Value[feature.SMClockMHz] = 0.41, 1500
				}
				return true
			})
			e := Of(Input{Ev: ev, Members: members(1, 60), Class: "training"})
			if !reflect.DeepEqual(e.Basis, []string{BasisMMACycles}) {
				t.Errorf("sum of %v, activity %v: basis %v", unit, beside, e.Basis)
			}
			within(t, "executed", e.Executed.Best, hourOfCycles/1.05, 0.05)
		}
	}
}

// Cells that several alike minutes were sealed into give what their minutes gave.
func TestWideCells(t *testing.T) {
	t.Parallel()
	ev := fleet(h100, 2, 240, 10_000, func(g int, ts int64, s *feature.GPUSample) bool {
		if g == 0 {
			s.MMACycles, s.EnergyJ = cyclesAt(ts), float64(ts-t0)/1000*600+1e9
		}
		v := &s.Value
		v[feature.TensorFrac], v[feature.SMClockMHz], v[feature.PowerW], v[feature.SMActiveFrac], v[feature.UtilFrac] = 0.4, 1500, 640, 0.8, 1
		return true
	})
	whole := Of(Input{Ev: ev, Members: members(2, 240), Class: "training"})
	wide := *ev
	wide.GPU = map[feature.GPUKey][]feature.GPUCell{}
	for k, cells := range ev.GPU {
		var out []feature.GPUCell
		for i := 0; i < len(cells); {
			c, n := cells[i], 1
			for c.MinuteMs >= t0 && i+n < len(cells) && n < 50 && cells[i+n].MinuteMs < t0+200*minuteMs {
				n++
			}
			last := cells[i+n-1]
			c.SpanMs = int64(n) * minuteMs
			for s := range c.CoverMs {
				c.CoverMs[s] *= int64(n)
			}
			c.TensorClockMs *= int64(n)
			join := func(a, b feature.Counter) feature.Counter {
				if a.Has() {
					a.LastMs, a.Last, a.Delta = b.LastMs, b.Last, b.Last-a.First
				}
				return a
			}
			c.MMACycles, c.EnergyJ = join(c.MMACycles, last.MMACycles), join(c.EnergyJ, last.EnergyJ)
			out = append(out, c)
			i += n
		}
		wide.GPU[k] = out
	}
	if n := len(wide.GPU[feature.GPUKey{Node: "n", GPU: 1}]); n > 70 {
		t.Fatalf("%d cells are wide", n)
	}
	got := Of(Input{Ev: &wide, Members: members(2, 240), Class: "training"})
	within(t, "executed of wide cells", got.Executed.Best, whole.Executed.Best, 1e-6)
	within(t, "high end of wide cells", got.Model.High, whole.Model.High, 1e-6)
	within(t, "coverage of wide cells", got.CoverageFrac, whole.CoverageFrac, 1e-6)
	for i := range whole.Series {
		within(t, "series of wide cells", got.Series[i].ModelFLOP, whole.Series[i].ModelFLOP, 1e-3)
	}
	cut := Of(Input{Ev: &wide, Members: members(2, 240), Class: "training", FromMs: t0 + 37*minuteMs, ToMs: t0 + 91*minuteMs})
	minutes := Of(Input{Ev: ev, Members: members(2, 240), Class: "training", FromMs: t0 + 37*minuteMs, ToMs: t0 + 91*minuteMs})
	within(t, "a cut of wide cells", cut.Executed.Best, minutes.Executed.Best, 1e-6)
}

// Every tier alone gives a plausible total with its name, whatever the cadence.
func TestTiers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		tier   string
		widest float64
		row    func(ts int64, s *feature.GPUSample)
	}{
		{BasisTensorActivity, 2, func(_ int64, s *feature.GPUSample) {
			s.Value[feature.TensorFrac], s.Value[feature.SMClockMHz] = 0.45, 1700
		}},
		{BasisTensorActivity, 2.1, func(_ int64, s *feature.GPUSample) { s.Value[feature.TensorFrac] = 0.45 }},
		{BasisEnergy, 4.2, func(ts int64, s *feature.GPUSample) { s.EnergyJ = float64(ts-t0)/1000*640 + 1e9 }},
		{BasisPower, 4.2, func(_ int64, s *feature.GPUSample) { s.Value[feature.PowerW] = 640 }},
		{BasisUtilization, 5.5, func(_ int64, s *feature.GPUSample) { s.Value[feature.UtilFrac] = 0.97 }},
	}
	for _, tt := range tests {
		for _, step := range []int64{1_000, 10_000, 60_000, 70_000, 300_000} {
			ev := fleet(h100, 2, 120, step, func(_ int, ts int64, s *feature.GPUSample) bool { tt.row(ts, s); return true })
			e := Of(Input{Ev: ev, Members: members(2, 120), Class: "training"})
			if !reflect.DeepEqual(e.Basis, []string{tt.tier}) || e.CoverageFrac < 0.95 {
				t.Errorf("%s at %d ms: basis %v, coverage %.3f", tt.tier, step, e.Basis, e.CoverageFrac)
			}
			u := e.Executed.Best / (2 * 7200 * 989.4e12)
			if u < 0.25 || u > 0.55 || e.Executed.High/e.Executed.Low > tt.widest*tt.widest {
				t.Errorf("%s at %d ms: %.3f of the peak, %+v", tt.tier, step, u, e.Executed)
			}
		}
	}
}

func TestNodePowerTier(t *testing.T) {
	t.Parallel()
	s := feature.Samples{Nodes: []feature.Node{{Node: "n", GPUModel: h100, GPUCount: 8, Vantage: "outofband", TDPW: 700, FabricGbps: 3200, Listed: true}}}
	for ts := t0 - 600_000; ts < t0+70*minuteMs; ts += 15_000 {
		watts := 1900.
		if ts >= t0 {
			watts = 7000
		}
		s.Host = append(s.Host, feature.HostSample{Node: "n", TsMs: ts, PowerW: watts, CPUFrac: math.NaN(), StorageTxBps: math.NaN(), StorageRxBps: math.NaN()})
	}
	ev := feature.BuildEvidence(s, t0-600_000, t0+70*minuteMs)
	e := Of(Input{Ev: ev, Members: members(8, 60), Class: "training"})
	if !reflect.DeepEqual(e.Basis, []string{BasisPower}) || e.CoverageFrac != 1 {
		t.Errorf("basis %v, coverage %v", e.Basis, e.CoverageFrac)
	}
	if u := e.Executed.Best / (8 * 3600 * 989.4e12); u < 0.3 || u > 0.5 {
		t.Errorf("%.3f of the peak", u)
	}
	quiet := Of(Input{Ev: ev, Members: []run.Member{{Node: "n", GPU: 0, StartMs: t0 - 540_000, EndMs: t0 - 60_000}}, Class: "training"})
	if quiet.Executed.Best > 1e15 {
		t.Errorf("an idle node did %g", quiet.Executed.Best)
	}
}

// Time without a signal is filled from the run's other GPUs, else from its neighbours,
// lowers the coverage and widens the interval.
func TestGaps(t *testing.T) {
	t.Parallel()
	dark := func(keep func(gpu int, ts int64) bool) Estimate {
		ev := fleet(h100, 8, 60, 10_000, func(g int, ts int64, s *feature.GPUSample) bool {
			s.Value[feature.TensorFrac], s.Value[feature.SMClockMHz] = 0.45, 1700
			return keep(g, ts)
		})
		return Of(Input{Ev: ev, Members: members(8, 60), Class: "training"})
	}
	full := dark(func(int, int64) bool { return true })
	peers := dark(func(g int, _ int64) bool { return g < 6 })
	within(t, "filled from peers", peers.Executed.Best, full.Executed.Best, 0.01)
	within(t, "coverage with two GPUs dark", peers.CoverageFrac, 0.75, 1e-6)
	between := dark(func(_ int, ts int64) bool { return ts < t0+20*minuteMs || ts > t0+50*minuteMs })
	within(t, "filled from neighbours", between.Executed.Best, full.Executed.Best, 0.06)
	if between.CoverageFrac > 0.56 || between.CoverageFrac < 0.48 {
		t.Errorf("coverage %v", between.CoverageFrac)
	}
	width := func(e Estimate) float64 { return (e.Executed.High - e.Executed.Low) / e.Executed.Best }
	if width(between) <= width(full) || between.Executed.Low >= 0.6*full.Executed.Best {
		t.Errorf("a half-hour gap: %+v, without %+v", between.Executed, full.Executed)
	}
	none := dark(func(int, int64) bool { return false })
	if !reflect.DeepEqual(none.Basis, []string{BasisAllocation}) || none.CoverageFrac != 0 || none.Model.Best <= 0 {
		t.Errorf("hours alone: %+v", none)
	}
}

func TestClasses(t *testing.T) {
	t.Parallel()
	ev := fleet(h100, 1, 60, 10_000, func(_ int, _ int64, s *feature.GPUSample) bool {
		v := &s.Value
		v[feature.TensorFrac], v[feature.DFMAFrac], v[feature.HMMAFrac], v[feature.IMMAFrac] = 0.5, 0.5, 0, 0
		v[feature.SMClockMHz], v[feature.FP64Frac], v[feature.FP32Frac], v[feature.FP16Frac] = 1980, 0.2, 0, 0
		return true
	})
	e := Of(Input{Ev: ev, Members: members(1, 60), Class: "hpc"})
	within(t, "FP64", e.Executed.Best, 3600*(0.5*66.9e12/1.05+0.2*33.5e12*0.92), 0.02)
	if (e.Model != Interval{}) {
		t.Errorf("model FLOPs of hpc: %+v", e.Model)
	}
	e = Of(Input{Ev: ev, Members: members(1, 60), Class: "mining"})
	if e.Executed.Best != 0 || e.Model.Best != 0 {
		t.Errorf("mining: %+v", e)
	}
	e = Of(Input{Ev: fleet(h100, 1, 60, 10_000, func(_ int, _ int64, s *feature.GPUSample) bool {
		v := &s.Value
		v[feature.TensorFrac], v[feature.IMMAFrac], v[feature.HMMAFrac], v[feature.SMClockMHz] = 0.3, 0.3, 0, 1830
		v[feature.DRAMFrac] = 0.1
		return true
	}), Members: members(1, 60), Class: "inference"})
	within(t, "INT8 counts twice", e.Executed.Best, 3600*0.3*1978.9e12/1.15, 0.08)
	within(t, "inference: model is executed", e.Model.Best, e.Executed.Best, 1e-9)
	if e.Executed.High/e.Executed.Low > 1.6 {
		t.Errorf("INT8 is no mixture: %+v", e.Executed)
	}
}

// An A100 has no FP8, and a very busy H100 does not use it: the interval has no upper arm.
func TestDataTypeNarrows(t *testing.T) {
	t.Parallel()
	at := func(model string, frac, mhz float64) float64 {
		ev := fleet(model, 8, 60, 10_000, func(_ int, _ int64, s *feature.GPUSample) bool {
			s.Value[feature.TensorFrac], s.Value[feature.SMClockMHz] = frac, mhz
			return true
		})
		e := Of(Input{Ev: ev, Members: members(8, 60), Class: "training"})
		return e.Executed.High / e.Executed.Best
	}
	if a, busy, slow := at("NVIDIA A100-SXM4-80GB", 0.4, 1400), at(h100, 0.65, 1700), at(h100, 0.27, 1700); a > 1.3 || busy > 1.3 || slow < 1.4 {
		t.Errorf("upper ends over best: A100 %.2f, busy H100 %.2f, slow H100 %.2f", a, busy, slow)
	}
}

// Counters that were forged to near nothing do not hide what the watts show; a counter
// that stands still is not used; training in plain FP32 counts.
func TestContradictions(t *testing.T) {
	t.Parallel()
	at := func(row func(ts int64, s *feature.GPUSample)) Estimate {
		ev := fleet(h100, 2, 60, 10_000, func(_ int, ts int64, s *feature.GPUSample) bool { row(ts, s); return true })
		return Of(Input{Ev: ev, Members: members(2, 60), Class: "training"})
	}
	honest := at(func(_ int64, s *feature.GPUSample) {
		s.Value[feature.TensorFrac], s.Value[feature.SMClockMHz], s.Value[feature.PowerW] = 0.45, 1700, 650
	})
	forged := at(func(_ int64, s *feature.GPUSample) {
		s.Value[feature.TensorFrac], s.Value[feature.SMClockMHz], s.Value[feature.PowerW] = 0.005, 1700, 650
	})
	if forged.Executed.High < 0.5*honest.Executed.Best || forged.Executed.Best > 0.05*honest.Executed.Best {
		t.Errorf("forged %+v, honest %+v", forged.Executed, honest.Executed)
	}
	frozen := at(func(_ int64, s *feature.GPUSample) {
		s.MMACycles = 7e12
		s.Value[feature.TensorFrac], s.Value[feature.SMClockMHz], s.Value[feature.PowerW] = 0.45, 1700, 650
	})
	within(t, "frozen counter", frozen.Executed.Best, honest.Executed.Best, 1e-9)
	plain := at(func(_ int64, s *feature.GPUSample) {
		s.Value[feature.TensorFrac], s.Value[feature.SMClockMHz], s.Value[feature.FP32Frac] = 0, 1980, 0.5
	})
	within(t, "plain FP32", plain.Executed.Best, 2*3600*0.5*66.9e12*0.92, 0.01)
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	ev := feature.BuildEvidence(feature.Samples{}, t0, t0+minuteMs)
	if e := Of(Input{Ev: ev, Class: "training"}); e.Model.High != 0 || len(e.Series) != 0 {
		t.Errorf("nothing: %+v", e)
	}
	e := Of(Input{Ev: ev, Members: members(1, 60), Class: "unknown"})
	if e.Executed.Best <= 0 || e.Executed.High/e.Executed.Low < 9 {
		t.Errorf("an unknown part without a signal: %+v", e.Executed)
	}
	e = Of(Input{Ev: ev, Members: members(1, 60), Class: "idle"})
	if e.Executed.Best != 0 {
		t.Errorf("idle hours: %+v", e)
	}
}

// Merged work equals work measured at once, and cutting in time adds up.
func TestMergeAndCut(t *testing.T) {
	t.Parallel()
	ev := fleet(h100, 4, 60, 10_000, func(g int, ts int64, s *feature.GPUSample) bool {
		s.MMACycles = cyclesAt(ts) * (1 + float64(g)/10)
		s.EnergyJ = float64(ts-t0) / 1000 * 600
		return true
	})
	all := members(4, 60)
	whole := Measure(Input{Ev: ev, Members: all})
	parts := &Work{}
	parts.Merge(Measure(Input{Ev: ev, Members: all[2:], FromMs: t0 + 30*minuteMs}))
	parts.Merge(Measure(Input{Ev: ev, Members: all[2:], ToMs: t0 + 30*minuteMs}))
	parts.Merge(Measure(Input{Ev: ev, Members: all[:2]}))
	if parts.StartMs != whole.StartMs || len(parts.Minutes) != len(whole.Minutes) || parts.EndMs != whole.EndMs {
		t.Fatalf("merged %d minutes from %d, want %d from %d", len(parts.Minutes), parts.StartMs, len(whole.Minutes), whole.StartMs)
	}
	within(t, "merged", sumOf(parts).HMMA, sumOf(whole).HMMA, 1e-9)
	within(t, "merged estimate", parts.Estimate("training").Model.Best, whole.Estimate("training").Model.Best, 1e-9)
	if !reflect.DeepEqual(Of(Input{Ev: ev, Members: all, Class: "rl"}), Of(Input{Ev: ev, Members: all, Class: "rl"})) {
		t.Error("the same input gave another estimate")
	}
	twice := append(members(4, 60), run.Member{Node: "n", GPU: 2, StartMs: t0 + 5*minuteMs, EndMs: t0 + 20*minuteMs})
	if !reflect.DeepEqual(Of(Input{Ev: ev, Members: twice, Class: "rl"}), Of(Input{Ev: ev, Members: all, Class: "rl"})) {
		t.Error("time named twice counts twice")
	}
	shuffled := []run.Member{all[3], all[0], all[2], all[1]}
	if !reflect.DeepEqual(Of(Input{Ev: ev, Members: shuffled, Class: "rl"}), Of(Input{Ev: ev, Members: all, Class: "rl"})) {
		t.Error("the order of members matters")
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	one := []term{{1, math.Log(5), 0.2}}
	within(t, "median", quantile(one, 0.5), 5, 1e-9)
	within(t, "95 %", quantile(one, 0.95), 5*math.Exp(z90*0.2), 1e-6)
	two := []term{{0.5, math.Log(1), 0.01}, {0.5, math.Log(2), 0.01}}
	within(t, "lower component", quantile(two, 0.25), 1, 0.01)
	within(t, "upper component", quantile(two, 0.75), 2, 0.01)
	if quantile(nil, 0.5) != 0 {
		t.Error("no terms")
	}
}

func BenchmarkOf(b *testing.B) {
	ev := fleet(h100, 8, 600, 10_000, func(_ int, ts int64, s *feature.GPUSample) bool {
		s.MMACycles, s.EnergyJ = cyclesAt(ts), float64(ts-t0)
		s.Value[feature.TensorFrac], s.Value[feature.SMClockMHz] = 0.45, 1700
		return true
	})
	in := Input{Ev: ev, Members: members(8, 600), Class: "training"}
	b.ReportAllocs()
	for b.Loop() {
		Of(in)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(8*600), "ns/cell")
}
