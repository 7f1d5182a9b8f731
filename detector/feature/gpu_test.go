package feature

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

const t0 = int64(1_700_000_000_000) / MinuteMs * MinuteMs // a whole minute

func sample(tsMs int64, set map[Signal]float64) GPUSample {
	s := GPUSample{Node: "n", GPU: 1, TsMs: tsMs, AvailableMs: tsMs, EnergyJ: math.NaN(), MMACycles: math.NaN()}
	for i := range NumSignals {
		s.Value[i] = math.NaN()
	}
	for k, v := range set {
		s.Value[k] = v
	}
	return s
}

func power(tsMs int64, w float64) GPUSample { return sample(tsMs, map[Signal]float64{PowerW: w}) }

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.IsNaN(got) != math.IsNaN(want) || math.Abs(got-want) > 1e-9*(1+math.Abs(want)) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

func TestReduceGPUWeights(t *testing.T) {
	t.Parallel()
	every := func(ms int64, n int, w float64) []GPUSample {
		var rows []GPUSample
		for i := range n {
			rows = append(rows, power(t0-ms*int64(n)+ms*int64(i), w))
		}
		return rows
	}
	tests := []struct {
		name    string
		rows    []GPUSample
		samples int
		cover   int64
		mean    float64
	}{
		{"two rows, each its interval", []GPUSample{power(t0-10_000, 1), power(t0+10_000, 100), power(t0+20_000, 400)}, 2, 30_000, 200},
		{"first row without predecessor weighs nothing", []GPUSample{power(t0+10_000, 100), power(t0+20_000, 400)}, 2, 10_000, 400},
		{"lone row has the part of its minute before it", []GPUSample{power(t0+10_000, 100)}, 1, 10_000, 100},
		{"lone row at the start of the minute", []GPUSample{power(t0, 100)}, 1, 1, 100},
		{"cadence 60 s", append(every(60_000, 5, 1), power(t0+7_000, 300)), 1, 67_000, 300},
		{"cadence 300 s", []GPUSample{power(t0-590_000, 1), power(t0-290_000, 1), power(t0+10_000, 300)}, 1, 300_000, 300},
		{"gap after 10 s rows is capped at 90 s", append(every(10_000, 20, 1)[:10], power(t0+5_000, 300)), 1, 90_000, 300},
		{"gap after 60 s rows is capped at five intervals", append(every(60_000, 10, 1)[:4], power(t0+5_000, 300)), 1, 300_000, 300},
		{"predecessor outside the window does not count", []GPUSample{power(t0-WindowMs-1, 1), power(t0+5_000, 300)}, 1, 5_000, 300},
		{"rows after the minute are ignored", []GPUSample{power(t0-5_000, 1), power(t0+5_000, 300), power(t0+60_000, 9)}, 1, 10_000, 300},
	}
	for _, tt := range tests {
		c, ok := ReduceGPU(tt.rows, t0)
		if !ok || c.Samples != tt.samples || c.CoverMs[PowerW] != tt.cover {
			t.Errorf("%s: ok %v, samples %d, cover %d; want %d, %d", tt.name, ok, c.Samples, c.CoverMs[PowerW], tt.samples, tt.cover)
		}
		near(t, tt.name, c.Mean[PowerW], tt.mean)
		if c.Has(UtilFrac) || !math.IsNaN(c.Get(UtilFrac)) || c.EnergyJ.Has() {
			t.Errorf("%s: something not measured is present", tt.name)
		}
	}
	if _, ok := ReduceGPU([]GPUSample{power(t0-5_000, 1)}, t0); ok {
		t.Error("a minute without rows gave a cell")
	}
}

// A signal that is carried by every third row alone describes the time since its own
// previous value.
func TestReduceGPUPerSignalPredecessor(t *testing.T) {
	t.Parallel()
	var rows []GPUSample
	for i := range int64(12) {
		s := map[Signal]float64{PowerW: 100}
		if i%3 == 0 {
			s[TensorFrac], s[SMClockMHz] = 0.5, 1500+float64(i)
		}
		rows = append(rows, sample(t0-60_000+i*10_000, s))
	}
	c, _ := ReduceGPU(rows, t0)
	if c.CoverMs[PowerW] != 60_000 || c.CoverMs[TensorFrac] != 60_000 || c.TensorClockMs != 60_000 {
		t.Errorf("covers %d %d %d, want 60000", c.CoverMs[PowerW], c.CoverMs[TensorFrac], c.TensorClockMs)
	}
	near(t, "tensor clock", c.TensorClockMHz, 0.5*(1506+1509)/2)
	near(t, "sd of clock", c.SD[SMClockMHz], 1.5)
}

// The product is taken sample by sample: the mean of products is not the product of means.
func TestReduceGPUTensorClock(t *testing.T) {
	t.Parallel()
	both := func(ts int64, f, mhz float64) GPUSample {
		return sample(ts, map[Signal]float64{TensorFrac: f, SMClockMHz: mhz})
	}
	noClock := sample(t0+30_000, map[Signal]float64{TensorFrac: 0.9})
	c, _ := ReduceGPU([]GPUSample{both(t0-10_000, 0, 0), both(t0+10_000, 1, 1000), both(t0+20_000, 0, 2000), noClock}, t0)
	near(t, "tensor clock", c.TensorClockMHz, 1000*20_000/30_000.)
	if c.TensorClockMs != 30_000 || c.CoverMs[TensorFrac] != 40_000 {
		t.Errorf("tensor clock cover %d, tensor cover %d", c.TensorClockMs, c.CoverMs[TensorFrac])
	}
}

func TestReduceGPUCounters(t *testing.T) {
	t.Parallel()
	at := func(ts int64, e, m float64) GPUSample {
		s := sample(ts, nil)
		s.EnergyJ, s.MMACycles = e, m
		return s
	}
	nan := math.NaN()
	c, _ := ReduceGPU([]GPUSample{at(t0-1, 1, 1), at(t0+1_000, 100, nan), at(t0+2_000, 150, 7), at(t0+3_000, 30, nan), at(t0+4_000, 40, nan)}, t0)
	if want := (Counter{FirstMs: t0 + 1_000, LastMs: t0 + 4_000, First: 100, Last: 40, Delta: 90}); c.EnergyJ != want {
		t.Errorf("energy %+v, want %+v", c.EnergyJ, want)
	}
	if want := (Counter{FirstMs: t0 + 2_000, LastMs: t0 + 2_000, First: 7, Last: 7}); c.MMACycles != want {
		t.Errorf("cycles %+v, want %+v", c.MMACycles, want)
	}
}

func TestReduceGPURepeats(t *testing.T) {
	t.Parallel()
	a := power(t0+10_000, 100)
	a.Value[UtilFrac] = 0.5
	again := a
	again.AvailableMs += 500_000
	corrected := power(t0+20_000, 300)
	corrected.AvailableMs += 9_000
	rows := []GPUSample{power(t0-10_000, 1), a, again, power(t0+20_000, 200), corrected}
	c, _ := ReduceGPU(rows, t0)
	if c.Samples != 2 || c.AvailableMs != t0+29_000 {
		t.Errorf("samples %d, available +%d; want 2, +29000 (an exact repeat adds nothing)", c.Samples, c.AvailableMs-t0)
	}
	near(t, "power", c.Mean[PowerW], (100*20+300*10)/30.)
	// A later row of the same time that lacks a value leaves the one that was measured.
	partial := sample(t0+10_000, map[Signal]float64{PowerW: 110})
	partial.AvailableMs++
	c, _ = ReduceGPU([]GPUSample{a, partial}, t0)
	near(t, "power of the later row", c.Mean[PowerW], 110)
	near(t, "util of the earlier row", c.Mean[UtilFrac], 0.5)
}

// 100 ms bursts of 30 s every five minutes beside 1 Hz rows: means follow time, not rows.
func TestReduceGPUBurst(t *testing.T) {
	t.Parallel()
	var rows []GPUSample
	for ts := t0 - 300_000; ts < t0; ts += 1_000 {
		rows = append(rows, power(ts, 50))
	}
	for ts := t0; ts < t0+30_000; ts += 100 {
		rows = append(rows, power(ts, 400))
	}
	for ts := t0 + 30_000; ts < t0+60_000; ts += 1_000 {
		rows = append(rows, power(ts, 100))
	}
	c, _ := ReduceGPU(rows, t0)
	if c.Samples != 330 || c.CoverMs[PowerW] != 60_000 {
		t.Errorf("samples %d cover %d", c.Samples, c.CoverMs[PowerW])
	}
	// rows at +0 (1 s of weight, value 400) .. +29.9 s: 30.9 s of 400; then 29.1 s of 100
	near(t, "power", c.Mean[PowerW], (30.9*400+29.1*100)/60)
}

func TestDirtyMinutes(t *testing.T) {
	t.Parallel()
	from, to := DirtyMinutes(t0 + 12_345)
	if from != t0 || to != t0+WindowMs {
		t.Errorf("DirtyMinutes = +%d, +%d", from-t0, to-t0)
	}
	// Exactly the cells named may change.
	var rows []GPUSample
	for ts := t0 - 30*MinuteMs; ts < t0+30*MinuteMs; ts += 300_000 {
		rows = append(rows, power(ts+7_000, 100))
	}
	late := power(t0+30_000, 900)
	with := append(slices.Clone(rows), late)
	slices.SortFunc(with, func(a, b GPUSample) int { return int(a.TsMs - b.TsMs) })
	for m := t0 - 20*MinuteMs; m <= t0+20*MinuteMs; m += MinuteMs {
		a, _ := ReduceGPU(rows, m)
		b, _ := ReduceGPU(with, m)
		if !reflect.DeepEqual(a, b) && (m < from || m > to) {
			t.Errorf("cell %+d min changed outside the dirty minutes", (m-t0)/MinuteMs)
		}
	}
	if MinuteOf(-1) != -MinuteMs || MinuteOf(0) != 0 {
		t.Error("MinuteOf before 1970")
	}
}

// Arrival order and repeats change nothing.
func TestBuildEvidenceOrderFree(t *testing.T) {
	t.Parallel()
	var s Samples
	for i := range int64(200) {
		g := power(t0+i*10_000, float64(i%7))
		g.GPU = int(i % 3)
		g.EnergyJ = float64(i)
		s.GPU = append(s.GPU, g)
		s.Host = append(s.Host, HostSample{Node: "n", TsMs: t0 + i*15_000, PowerW: float64(i), CPUFrac: math.NaN(), StorageTxBps: 1, StorageRxBps: math.NaN()})
		s.Fabric = append(s.Fabric, FabricSample{Node: "m", Port: []string{"a", "b"}[i%2], Kind: "roce", TsMs: t0 + i*20_000, TxBytes: float64(i * i), RxBytes: float64(i)})
		s.Collectives = append(s.Collectives, Collective{Node: "n", PID: int(i % 2), Comm: "c", Op: "allreduce", TsMs: t0 + i*20_000, Calls: 1, Bytes: 0.1})
		s.Flows = append(s.Flows, Flow{Node: "n", Peer: "m", TsMs: t0 + i*20_000, TxBytes: 0.1})
	}
	s.Processes = []Process{{Node: "n", PID: 1, StartMs: t0, EndMs: t0 + 10*MinuteMs}, {Node: "n", PID: 2, StartMs: t0, EndMs: t0 + 99*MinuteMs}, {Node: "n", PID: 3, StartMs: t0 + 99*MinuteMs}}
	s.Orders = []Order{{Order: "o", AmendedMs: t0}, {Order: "o", AmendedMs: t0 + 99*MinuteMs}}
	s.Allocations = []Allocation{{Account: "a", Node: "q", GPUs: []int{0}, StartMs: t0, EndMs: t0 + 99*MinuteMs}}
	want := BuildEvidence(s, t0, t0+20*MinuteMs)
	if len(want.Processes) != 2 || want.Processes[1].EndMs != 0 || len(want.Orders) != 1 || want.Allocations[0].EndMs != 0 {
		t.Errorf("the future is visible: %+v %+v %+v", want.Processes, want.Orders, want.Allocations)
	}
	if n, ok := want.Nodes["m"]; !ok || n.Listed {
		t.Errorf("unlisted node: %+v %v", n, ok)
	}
	if len(want.GPU) != 3 || len(want.Host["n"]) != 20 || len(want.Comm) != 40 || len(want.Flows) != 20 {
		t.Errorf("cells: %d GPUs, %d host, %d comm, %d flows", len(want.GPU), len(want.Host["n"]), len(want.Comm), len(want.Flows))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	s.GPU = append(s.GPU, s.GPU[3:50]...)
	s.Collectives = append(s.Collectives, s.Collectives[:9]...)
	s.Fabric = append(s.Fabric, s.Fabric[:9]...)
	rng.Shuffle(len(s.GPU), func(i, j int) { s.GPU[i], s.GPU[j] = s.GPU[j], s.GPU[i] })
	rng.Shuffle(len(s.Fabric), func(i, j int) { s.Fabric[i], s.Fabric[j] = s.Fabric[j], s.Fabric[i] })
	rng.Shuffle(len(s.Collectives), func(i, j int) { s.Collectives[i], s.Collectives[j] = s.Collectives[j], s.Collectives[i] })
	rng.Shuffle(len(s.Host), func(i, j int) { s.Host[i], s.Host[j] = s.Host[j], s.Host[i] })
	got := BuildEvidence(s, t0, t0+20*MinuteMs)
	if !equalEvidence(got, want) {
		t.Error("arrival order or repeats changed the cells")
	}
}

// equalEvidence compares with NaN equal to NaN.
func equalEvidence(a, b *Evidence) bool {
	if !reflect.DeepEqual(a.GPU, b.GPU) || !reflect.DeepEqual(a.Comm, b.Comm) || !reflect.DeepEqual(a.Flows, b.Flows) || len(a.Host) != len(b.Host) {
		return false
	}
	for k, x := range a.Host {
		y := b.Host[k]
		if len(x) != len(y) {
			return false
		}
		for i := range x {
			if nodeKey(x[i]) != nodeKey(y[i]) {
				return false
			}
		}
	}
	return true
}

func nodeKey(c NodeCell) [15]uint64 {
	b := math.Float64bits
	return [15]uint64{
		uint64(c.MinuteMs), uint64(c.AvailableMs), b(c.PowerW), b(c.PowerSD), uint64(c.PowerCoverMs), b(c.CPUFrac), b(c.StorageTxBps),
		b(c.StorageRxBps), b(c.FabricTxBytes), b(c.FabricRxBytes), uint64(c.FabricCoverMs), b(c.FabricTxCV), b(c.EthernetTxBytes), b(c.EthernetRxBytes), uint64(c.EthernetCoverMs),
	}
}

func BenchmarkReduceGPU(b *testing.B) {
	var rows []GPUSample
	set := map[Signal]float64{}
	for s := range NumSignals {
		set[s] = 0.5
	}
	for ts := t0 - WindowMs; ts < t0+MinuteMs; ts += 1_000 {
		rows = append(rows, sample(ts, set))
	}
	b.ReportAllocs()
	for b.Loop() {
		ReduceGPU(rows, t0)
	}
}

// Counters alone give watts and tensor cycles; beside the signal itself they add nothing,
// and a reset or a leap says nothing.
func TestReduceGPUCountersAlone(t *testing.T) {
	t.Parallel()
	row := func(ts int64, joules, cycles, watts float64) GPUSample {
		r := GPUSample{Node: "n", TsMs: ts, AvailableMs: ts, EnergyJ: joules, MMACycles: cycles}
		for s := range r.Value {
			r.Value[s] = math.NaN()
		}
		r.Value[PowerW] = watts
		return r
	}
	nan := math.NaN()
	rows := []GPUSample{row(-10_000, 1000, 0, nan), row(10_000, 11_000, 20e9, nan), row(30_000, 500, 40e9, nan), row(50_000, 6_500, 50e9, nan)}
	c, _ := ReduceGPU(rows, 0)
	if c.Mean[PowerW] != 400 || c.CoverMs[PowerW] != 40_000 || math.Abs(c.TensorClockMHz-2500.0/3) > 1e-6 || c.TensorClockMs != 60_000 {
		t.Errorf("counters alone: %v W over %d ms, %v MHz over %d ms", c.Mean[PowerW], c.CoverMs[PowerW], c.TensorClockMHz, c.TensorClockMs)
	}
	rows[0].Value[PowerW] = 77
	if c, _ = ReduceGPU(rows, 0); c.CoverMs[PowerW] != 0 {
		t.Errorf("a signal that is only missing: %v W", c.Mean[PowerW])
	}
}
