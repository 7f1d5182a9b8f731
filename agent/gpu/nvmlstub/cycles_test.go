package nvmlstub

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// cycleMetrics are GPM's counters since boot that count cycles in which something was active.
var cycleMetrics = map[uint32]Quantity{
	249: SMActive, 250: Tensor, 251: DFMA, 252: HMMA, 253: IMMA, 254: DFMA, 257: Integer, 258: FP64, 259: FP32, 260: FP16,
}

// onePair takes one sample and asks for metrics of it alone: it stands on both sides.
func onePair(t *testing.T, p *probe, gpu int, ids ...uint32) (code int, values []float64, codes []uint32) {
	t.Helper()
	sample := p.ok("nvmlGpmSampleAlloc", make([]byte, 8)).u64(0)
	p.ok("nvmlGpmSampleGet", p.device(gpu), sample)
	code, values, codes = metrics(p, sample, sample, ids...)
	p.ok("nvmlGpmSampleFree", sample)
	return code, values, codes
}

// metrics asks for metrics of two samples.
func metrics(p *probe, a, b uint64, ids ...uint32) (code int, values []float64, codes []uint32) {
	p.t.Helper()
	q := word(24+40*len(ids), 1, uint32(len(ids)))
	binary.LittleEndian.PutUint64(q[8:], a)
	binary.LittleEndian.PutUint64(q[16:], b)
	for i, id := range ids {
		binary.LittleEndian.PutUint32(q[24+40*i:], id)
	}
	code, out := p.call("nvmlGpmMetricsGet", q)
	for i := range ids {
		values = append(values, math.Float64frombits(out[0].u64(24+40*i+8)))
		codes = append(codes, out[0].u32(24+40*i+4))
	}
	return code, values, codes
}

func TestCyclesSinceBoot(t *testing.T) {
	s := load(true)
	s.GPUs[0].CyclesStart = 1e15
	m, p := bench(t, s)
	ids := []uint32{248, 255, 256, 261, 262, 295, 296}
	for id := range cycleMetrics {
		ids = append(ids, id)
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 50 {
		at := time.Duration(rnd.Int64N(int64(100 * time.Hour))).Truncate(time.Microsecond)
		if err := m.SetNow(at); err != nil {
			t.Fatal(err)
		}
		_, got, codes := onePair(t, p, 0, ids...)
		truth := m.Truth(0, 0, at)
		for i, id := range ids {
			var want float64
			switch id {
			case 248:
				want = 1e15 + truth.CyclesElapsed
			case 255:
				want = truth.PCIeTxBytes
			case 256:
				want = truth.PCIeRxBytes
			case 261, 295:
				want = truth.NVLinkRxBytes / 18
			case 262, 296:
				want = truth.NVLinkTxBytes / 18
			default:
				want = truth.Cycles[cycleMetrics[id]]
			}
			if codes[i] != 0 || got[i] != math.Trunc(got[i]) {
				t.Errorf("counter %d: code %d, %v", id, codes[i], got[i])
			}
			near(t, "a counter since boot", got[i], want, 1+1e-9*want)
		}
	}
	// Of two samples the second counts, beside the averages between both.
	got, codes := gpm(t, m, p, 0, 20*time.Second, 30*time.Second, 250, 5)
	want := m.Truth(0, 0, 30*time.Second)
	near(t, "the second sample's counter", got[0], want.Cycles[Tensor], 1+1e-9*want.Cycles[Tensor])
	near(t, "the average between", got[1], 100*m.Truth(0, 20*time.Second, 30*time.Second).Mean[Tensor], 1e-6)
	if codes[0] != 0 || codes[1] != 0 {
		t.Errorf("codes %v", codes)
	}
	// After a reset they count from zero.
	if err := m.ResetCounters(0, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := m.SetNow(40 * time.Second); err != nil {
		t.Fatal(err)
	}
	_, got, _ = onePair(t, p, 0, 248)
	near(t, "cycles since the reset", got[0], m.Truth(0, 30*time.Second, 40*time.Second).CyclesElapsed, 1e-6*got[0]+1)
}

func TestDriversWithoutCycles(t *testing.T) {
	s := load(false)
	for c := range CyclesRefused {
		s.GPUs = append(s.GPUs, GPU{Cycles: c + 1})
	}
	_, p := bench(t, s)
	for _, c := range []struct{ gpu, call, metric int }{{0, 0, 0}, {2, 0, 3}, {3, 0, 2}, {4, 2, 0}} {
		code, _, codes := onePair(t, p, c.gpu, 248, 260, 255)
		if code != c.call || code == 0 && (int(codes[0]) != c.metric || int(codes[2]) != c.metric) {
			t.Errorf("GPU %d: %d, %v", c.gpu, code, codes)
		}
	}
	if _, _, codes := onePair(t, p, 0, 297, 404, 405); codes[0] != 3 || codes[1] != 3 || codes[2] != 3 {
		t.Errorf("links that are not there: %v", codes)
	}
	if code, _, codes := onePair(t, p, 4, 2); code != 0 || codes[0] != 21 {
		t.Errorf("a driver that refuses counters answers for others with %d, %v", code, codes)
	}
	if err := func() error { _, err := Create(t.TempDir()+"/x", Scenario{GPUs: []GPU{{Cycles: 9}}}); return err }(); err == nil {
		t.Error("cycles 9 was taken")
	}
}

func TestFaultOfOneValue(t *testing.T) {
	m, p := bench(t, load(false))
	if err := m.SetFaults(Fault{Function: "field 8*", GPUs: []int{0}, Code: CodeNotSupported}, Fault{Function: "metric 248", Code: CodeUnknown, Count: 1}); err != nil {
		t.Fatal(err)
	}
	for gpu, want := range []uint32{3, 0} {
		if f := fieldValues(p, p.device(gpu), [2]uint32{83}, [2]uint32{186}); f[0].u32(28) != want || f[1].u32(28) != 0 {
			t.Errorf("GPU %d: fields %v", gpu, f)
		}
	}
	for i, want := range []uint32{999, 0} {
		if _, _, codes := onePair(t, p, 0, 248, 249); codes[0] != want || codes[1] != 0 {
			t.Errorf("question %d: %v", i, codes)
		}
	}
}

// Calls in flight are counted for each GPU, with the most at once.
func TestInFlight(t *testing.T) {
	m, p := bench(t, load(false))
	d0, d1 := p.device(0), p.device(1)
	for range 3 {
		p.ok("nvmlDeviceGetUtilizationRates", d0, make([]byte, 8))
	}
	if m.MostInFlight(0) != 1 || m.InFlight(0) != 0 || m.MostInFlight(-1) != 0 {
		t.Errorf("one after the other: %d at once, %d now", m.MostInFlight(0), m.InFlight(0))
	}
	if err := m.SetFaults(Fault{Function: "nvmlDeviceGetUtilizationRates", GPUs: []int{1}, Delay: Hang}); err != nil {
		t.Fatal(err)
	}
	done := make(chan int)
	go func() { done <- p.atOnce(3, "nvmlDeviceGetUtilizationRates", d1, make([]byte, 8)) }()
	for range 2000 {
		if m.InFlight(1) == 3 {
			break
		}
		wait(t, 5*time.Millisecond)
	}
	if m.InFlight(1) != 3 || m.MostInFlight(1) != 3 || m.InFlight(0) != 0 {
		t.Errorf("three at once: %d, %d at most", m.InFlight(1), m.MostInFlight(1))
	}
	if err := m.SetFaults(); err != nil {
		t.Fatal(err)
	}
	if code := <-done; code != 0 || m.InFlight(1) != 0 || m.MostInFlight(1) != 3 || m.MostInFlight(0) != 1 {
		t.Errorf("afterwards: code %d, %d, %d at most", code, m.InFlight(1), m.MostInFlight(1))
	}
	// One that waits for events is in flight, but on no GPU.
	if m.ResetInFlight(); m.MostInFlight(1) != 0 {
		t.Error("a maximum is left")
	}
	set := p.ok("nvmlEventSetCreate", make([]byte, 8)).u64(0)
	if code, _ := p.call("nvmlEventSetWait_v2", set, make([]byte, 32), 20); code != CodeTimeout || m.MostInFlight(NoGPU) != 1 || m.InFlight(NoGPU) != 0 {
		t.Errorf("after a wait: code %d, %d in flight", code, m.InFlight(NoGPU))
	}
}
