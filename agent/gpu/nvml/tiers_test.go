//go:build linux && cgo

package nvml

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
)

// until asks until something has come, or for so many seconds.
func (c *talk) until(seconds int, q frame.Request, come func() bool) bool {
	c.tb.Helper()
	for range seconds {
		if c.ask(q); come() {
			return true
		}
	}
	return false
}

// listened waits until the GPUs are in the set of events: the listener goes by the machine's
// clock, and the tests by theirs.
func (c *talk) listened() {
	c.tb.Helper()
	for range 6 {
		c.ask(frame.Request{Sample: 1<<c.mem.GPUs() - 1, Events: true})
	}
	before := 0
	for g := range c.mem.GPUs() {
		for c.mem.Calls("nvmlDeviceRegisterEvents", g) == 0 {
			runtime.Gosched()
		}
		before++
	}
	if err := c.mem.SetNow(time.Duration(c.boot+1) * time.Millisecond); err != nil || before == 0 {
		c.tb.Fatal(err)
	}
}

// The first seconds of a child: who the GPUs are is found out beside the passes, with twelve
// calls in every second from the first on.
func TestFirstSeconds(t *testing.T) {
	c := newTalk(t, training())
	defer c.close()
	var first, last frame.Device
	ready := 0
	for i := range 20 {
		q := frame.Request{Sample: 0xff}
		if i == 0 {
			q = frame.Request{Type: frame.TypeDescribe, Sample: 0xff, Processes: 0xff, Health: 0xff, Events: true}
		}
		q.Events = true
		c.ask(q)
		if len(c.faults) != 0 || len(c.readings) != 8 {
			t.Fatalf("second %d: %d readings, faults %+v", i, len(c.readings), c.faults)
		}
		for _, d := range c.devices {
			if d.Index != 3 {
				continue
			}
			if i == 0 {
				first = d
			}
			if last = d; d.Whole && ready == 0 {
				ready = i
			}
		}
	}
	most := c.withinBudget()
	t.Logf("at most %d calls in a second; whole after %d s", most, ready)
	if first.UUID != c.mem.UUID(3) || first.Whole || !first.GPM || ready == 0 {
		t.Errorf("first %+v, whole after %d s", first, ready)
	}
	d := last
	d.Capabilities, d.Serial, d.BoardPart, d.VBIOSVersion, d.PCIBusID, d.FabricClusterUUID, d.FabricClique = nil, "", "", "", "", "", 0
	want := frame.Device{
		Index: 3, UUID: c.mem.UUID(3), Name: c.mem.Name(3), DriverVersion: "580.95.05", MemTotalBytes: d.MemTotalBytes, PowerLimitMW: 700_000, SMClockMaxMHz: 1980,
		NVLinks: 18, GPM: true, Architecture: "hopper", ComputeCapability: "9.0", SMs: 132, CCMode: d.CCMode, ECCMode: 1,
		PCIeGenMax: 5, PCIeWidthMax: 16, ModuleID: d.ModuleID, Minor: 3, GSPVersion: d.GSPVersion, Whole: true,
	}
	if fmt.Sprint(d) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", d, want)
	}
	if last.Serial == "" || last.BoardPart == "" || last.VBIOSVersion == "" || last.PCIBusID == "" || last.MemTotalBytes < 79<<30 {
		t.Errorf("not known: %+v", last)
	}
	for _, want := range []string{"cycles", "energy", "events", "gpm", "health", "processes"} {
		if !slices.Contains(last.Capabilities, want) {
			t.Errorf("no %s among %v", want, last.Capabilities)
		}
	}
}

// Everything that an agent asks, for some minutes: no second has more than twelve calls, and
// nothing waits for ever.
func TestBudgetOfAllTiers(t *testing.T) {
	for _, burst := range []time.Duration{0, 200 * time.Millisecond, 100 * time.Millisecond} {
		t.Run(burst.String(), func(t *testing.T) {
			s := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour)
			for pid := range uint32(6) { // two on one GPU and of MPS as well: four calls
				s.Processes = append(s.Processes, nvmlstub.Process{PID: 100 + pid, GPUs: []int{0}, UsedBytes: 1 << 30, Type: nvmlstub.ProcessType(pid % 2 * 2)})
			}
			c := newTalk(t, s)
			defer c.close()
			c.listened()
			lists, looks, wholes, bursts, refused := 0, 0, 0, 0, 0
			for i := range 90 {
				q := frame.Request{Sample: 3, Events: true}
				if i%10 == 0 {
					q.Processes = 3
				}
				if i%30 == 0 {
					q.Health = 3
				}
				if i%60 == 0 {
					q.Type = frame.TypeDescribe
				}
				bursting := burst != 0 && i >= 20 && i < 60
				if bursting || burst != 0 && i == 60 { // the tick behind them has the calls of the last of them in its second
					q.Burst = 3
				}
				after := time.Second
				if burst != 0 && i > 20 && i <= 60 {
					after = burst
				}
				c.askAfter(after, q)
				lists, looks = lists+len(c.processes), looks+len(c.health)
				wholes += len(slices.DeleteFunc(c.devices, func(d frame.Device) bool { return !d.Whole }))
				if len(c.readings) != 2 && c.readings != nil || len(c.readings) == 0 {
					t.Errorf("second %d: %d readings, %+v", i, len(c.readings), c.faults)
				}
				for _, r := range c.readings {
					if i > 1 && (!r.Has(frame.TensorE4) || !r.Has(frame.EnergyMJ)) {
						t.Errorf("second %d: what matters most is missing: %#x, %+v", i, r.Present, c.faults)
					}
				}
				for m := burst; bursting && m < time.Second; m += burst {
					c.askAfter(burst, frame.Request{Burst: 3, Events: true})
					for _, f := range c.faults {
						if f.Code != frame.CodeBudget {
							t.Errorf("fault %+v", f)
						}
						refused++
					}
					bursts += len(c.readings)
				}
			}
			most := c.withinBudget()
			t.Logf("at most %d calls in a second, %d lists, %d looks at the vitals, %d bursts, %d refused", most, lists, looks, bursts, refused)
			if lists < 16 && burst != 100*time.Millisecond || lists < 8 || looks < 4 || wholes < 4 {
				t.Errorf("%d lists, %d looks, %d descriptions", lists, looks, wholes)
			}
			if moments := int(time.Second/max(burst, 1)-1) * 40 * 2; burst != 0 && (bursts < moments*9/10 || bursts+refused != moments) {
				t.Errorf("%d bursts, %d refused, of %d", bursts, refused, moments)
			}
		})
	}
}

// within is the most calls of a GPU in any stretch of so many milliseconds, wherever it begins, by
// the stub's clock and its counters.
func (c *talk) within(ms int64) (most int) {
	for g := range c.mem.GPUs() {
		for i, from := range c.spent[g] {
			sum := 0
			for _, p := range c.spent[g][i:] {
				if p.boot < from.boot+ms {
					sum += p.calls
				}
			}
			most = max(most, sum)
		}
	}
	return most
}

// Ticks that come early and late, with all that an agent asks: what the budget holds in which time,
// as doc.go says, and that no pass is cut for it.
func TestAnySecond(t *testing.T) {
	for name, list := range map[string][]time.Duration{
		"to the millisecond": {1000},
		"some early":         {1000, 1003, 985, 1012, 998, 1002},
		"late, then early":   {1085, 915, 1040, 960, 1000},
		"always too early":   {911},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTalk(t, nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour))
			defer c.close()
			c.listened()
			for i := range 300 {
				q := frame.Request{Sample: 3, Events: true}
				if i%10 == 0 {
					q.Processes = 3
				}
				if i%20 == 0 {
					q.Health = 3
				}
				if i%60 == 0 {
					q.Type = frame.TypeDescribe
				}
				c.askAfter(list[i%len(list)]*time.Millisecond, q)
				if len(c.readings) != 2 || c.readings[0].Calls != 9 || c.readings[1].Calls != 9 || len(c.faults) != 0 {
					t.Fatalf("tick %d: %+v, %+v", i, c.readings, c.faults)
				}
			}
			short, second, minute := c.within(secondMs), c.within(1000), c.within(60_000)
			t.Logf("at most %d calls in any %d ms, %d in any second, %d in any minute", short, secondMs, second, minute)
			if short > maxCalls || second > 2*maxCalls || minute > maxCalls*60_000/secondMs+maxCalls {
				t.Errorf("at most %d calls in any %d ms, %d in any second, %d in any minute", short, secondMs, second, minute)
			}
			if name != "always too early" && minute > maxCalls*60+maxCalls {
				t.Errorf("%d calls in any minute of ticks that are a second apart in the mean", minute)
			}
		})
	}
}

// Requests that ask for too much are cut, and told so: what matters most stays.
func TestTooMuch(t *testing.T) {
	c := newTalk(t, nvmlstub.Training(nvmlstub.H100SXM, 1, 0, time.Hour))
	defer c.close()
	for range 15 {
		c.ask(frame.Request{Sample: 1})
	}
	c.ask(frame.Request{Sample: 1})
	c.askAfter(500*time.Millisecond, frame.Request{Sample: 1})
	if r := c.readings[0]; r.Calls != 3 || !r.Has(frame.EnergyMJ) || !r.Has(frame.TensorE4) || r.Has(frame.UtilE4) {
		t.Errorf("reading: %+v", r)
	}
	if len(c.faults) != 1 || c.faults[0].Code != frame.CodeBudget || c.faults[0].Function != "nvmlDeviceGetClockInfo" || c.faults[0].Text == "" {
		t.Errorf("faults: %+v", c.faults)
	}
	c.askAfter(100*time.Millisecond, frame.Request{Burst: 1, BurstGPM: 1})
	if len(c.readings) != 0 || len(c.faults) != 1 || c.faults[0].Code != frame.CodeBudget {
		t.Errorf("%d readings, faults %+v", len(c.readings), c.faults)
	}
	c.askAfter(400*time.Millisecond, frame.Request{Sample: 1})
	c.withinBudget()
}

func TestBurst(t *testing.T) {
	c := newTalk(t, nvmlstub.Training(nvmlstub.H100SXM, 1, 0, time.Hour))
	defer c.close()
	for range 15 {
		c.ask(frame.Request{Sample: 1})
	}
	c.askAfter(200*time.Millisecond, frame.Request{Burst: 1})
	r := c.readings[0]
	if r.Calls != 1 || !r.Has(frame.PowerMW) || !r.Has(frame.EnergyMJ) || !r.Has(frame.NVLinkTxKiB) || !r.Has(frame.PCIeRxBytes) || r.Has(frame.TensorE4) || len(c.done) != 1 {
		t.Errorf("burst: %+v", r)
	}
	c.withinBudget()
}

func TestHealth(t *testing.T) {
	s := nvmlstub.Training(nvmlstub.H100SXM, 1, 0, time.Hour)
	s.GPUs[0].ECCCorrected, s.GPUs[0].ECCUncorrected, s.GPUs[0].RemappedRows, s.GPUs[0].NVLinkErrors = 7, 2, 3, 5
	c := newTalk(t, s)
	defer c.close()
	for range 15 {
		c.ask(frame.Request{Sample: 1})
	}
	c.ask(frame.Request{Sample: 1, Health: 1})
	asked := c.seq
	if !c.until(5, frame.Request{Sample: 1}, func() bool { return len(c.health) > 0 }) {
		t.Fatal("no health")
	}
	h := c.health[0]
	t.Logf("after %d s: %+v", c.seq-asked, h)
	r := c.readings[0]
	for v, want := range map[frame.Vital]int64{
		frame.ECCCorrectedVolatile: 7, frame.ECCUncorrectedVolatile: 2, frame.ECCCorrectedAggregate: 7, frame.RowsRemappedUncorrected: 3,
		frame.PowerLimitMW: 700_000, frame.PCIeGen: 5, frame.PCIeWidth: 16, frame.NVLinksUp: 18, frame.NVLinkErrors: 4 * 5 * 18,
		frame.CyclesElapsed: r.Values[frame.SMCyclesElapsed], frame.CyclesMMA: r.Values[frame.MMACycles], frame.PState: 0, frame.RowRemapPending: 0,
	} {
		if !h.Has(v) || h.Values[v] != want {
			t.Errorf("vital %d: %d (%v), want %d", v, h.Values[v], h.Has(v), want)
		}
	}
	for _, v := range []frame.Vital{frame.CyclesHMMA, frame.CyclesActive, frame.CyclesFP16, frame.NVLinkSentKiB, frame.PCIeSentBytes, frame.MemReservedBytes, frame.BAR1UsedBytes, frame.MemTempC} {
		if !h.Has(v) || h.Values[v] <= 0 {
			t.Errorf("vital %d: %d (%v)", v, h.Values[v], h.Has(v))
		}
	}
	for _, v := range []frame.Vital{frame.ModulePowerMW, frame.FanE4} {
		if h.Has(v) {
			t.Errorf("vital %d is there: %d", v, h.Values[v])
		}
	}
	// A part of a sum that fails takes the sum away, and is told; a value that is not supported
	// is remembered.
	c.faulty(nvmlstub.Fault{Function: "field 38", Code: nvmlstub.CodeUnknown}, nvmlstub.Fault{Function: "field 82", Code: nvmlstub.CodeNotSupported})
	c.ask(frame.Request{Sample: 1, Health: 1})
	if !c.until(5, frame.Request{Sample: 1}, func() bool { return len(c.health) > 0 }) {
		t.Fatal("no health")
	}
	if h = c.health[0]; h.Has(frame.NVLinkErrors) || h.Has(frame.MemTempC) || !h.Has(frame.ECCCorrectedVolatile) || len(c.faults) != 1 || c.faults[0].Code != nvmlstub.CodeUnknown {
		t.Errorf("%+v, faults %+v", h, c.faults)
	}
	c.faulty()
	c.ask(frame.Request{Sample: 1, Health: 1})
	if !c.until(5, frame.Request{Sample: 1}, func() bool { return len(c.health) > 0 }) || c.health[0].Has(frame.MemTempC) || !c.health[0].Has(frame.NVLinkErrors) {
		t.Errorf("what was not supported is asked for again at once: %+v", c.health)
	}
	c.withinBudget()
}

// Cycle counters: drivers that have them, that do not support them, that do not know them, and
// that refuse the whole question. The other metrics come in any case, in every second.
func TestCycles(t *testing.T) {
	s := nvmlstub.Training(nvmlstub.H100SXM, 4, 0, time.Hour)
	for i, how := range []nvmlstub.Cycles{nvmlstub.CyclesCounted, nvmlstub.CyclesUnsupported, nvmlstub.CyclesUnknown, nvmlstub.CyclesRefused} {
		s.GPUs[i].Cycles = how
	}
	c := newTalk(t, s)
	defer c.close()
	last := map[int]int64{}
	for i := range 30 {
		q := frame.Request{Sample: 15}
		if i == 14 {
			q.Health = 15
		}
		c.ask(q)
		for _, r := range c.readings {
			if i > 0 && (!r.Has(frame.TensorE4) || !r.Has(frame.NVDecE4)) || r.Has(frame.MMACycles) != (r.GPU == 0 && i > 0) {
				t.Errorf("second %d: GPU %d: %#x", i, r.GPU, r.Present)
			}
			if r.GPU == 0 && i > 1 && r.Values[frame.SMCyclesElapsed] > 0 {
				share := float64(r.Values[frame.MMACycles]-last[0]) / float64(r.Values[frame.SMCyclesElapsed]-last[1])
				if got := float64(r.Values[frame.TensorE4]) / 1e4; share < got*0.9-0.01 || share > got*1.1+0.01 {
					t.Errorf("second %d: %v of the cycles, tensor %v", i, share, got)
				}
			}
			if r.GPU == 0 {
				last[0], last[1] = r.Values[frame.MMACycles], r.Values[frame.SMCyclesElapsed]
			}
		}
		for _, h := range c.health {
			if h.Has(frame.CyclesHMMA) != (h.GPU == 0) || !h.Has(frame.PCIeGen) {
				t.Errorf("GPU %d: health %#x", h.GPU, h.Present)
			}
		}
		if len(c.faults) != 0 {
			t.Errorf("second %d: faults %+v", i, c.faults)
		}
	}
	c.withinBudget()
	before := c.mem.Snapshot()
	c.ask(frame.Request{Sample: 15})
	if n := c.mem.Snapshot().Since(before)["nvmlGpmMetricsGet"]; n[3] != 1 {
		t.Errorf("a driver that refuses is asked %d times in a second", n[3])
	}
	// Ten minutes later it is asked again, and nothing is lost then either.
	c.boot += (10 * time.Minute).Milliseconds() - 30_000
	for range 40 {
		c.ask(frame.Request{Sample: 15})
	}
	c.withinBudget()
}

// A GPU that is lost, in whatever it was asked, is told so, and met again when it is back.
func TestLostDuringEach(t *testing.T) {
	s := training()
	s.GPUs[7].Model, s.GPUs[7].Segments = nvmlstub.H100SXM, nil
	s.GPUs[7].Instances = nvmlstub.Instances("1g.10gb", "2g.20gb")
	c := newTalk(t, s)
	defer c.close()
	c.ask(frame.Request{Type: frame.TypeDescribe, Sample: 0xff, Events: true})
	for range 20 {
		c.ask(frame.Request{Sample: 0xff, Events: true})
	}
	for _, function := range []string{
		"nvmlDeviceGetFieldValues", "nvmlGpmSampleGet", "nvmlGpmMetricsGet", "nvmlDeviceGetClockInfo", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo*",
		"nvmlDeviceGetComputeRunningProcesses*", "nvmlDeviceGetMPSComputeRunningProcesses*", "nvmlDeviceGetPerformanceState", "nvmlDeviceGetBAR1MemoryInfo",
		"nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetSerial", "field 94", "metric 5", "nvmlDeviceGetMigMode", "nvmlGpmMigSampleGet",
		"nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetAttributes*",
	} {
		t.Run(function, func(t *testing.T) {
			c.faulty(nvmlstub.Fault{Function: function, GPUs: []int{2, 7}, Code: nvmlstub.CodeGPULost})
			if function == "nvmlDeviceGetAttributes*" { // which is asked of new instances alone
				if err := c.mem.SetInstances(7, nvmlstub.Instances("3g.40gb")...); err != nil {
					t.Fatal(err)
				}
			}
			lost := map[int]bool{}
			q := frame.Request{Type: frame.TypeDescribe, Sample: 0xff, Processes: 0xff, Health: 0xff, Events: true}
			for range 16 {
				c.ask(q)
				q = frame.Request{Sample: 0xff, Events: true}
				for _, f := range c.faults {
					if f.Lost {
						lost[f.GPU] = true
					} else if f.Code > 0 && f.GPU != 2 && f.GPU != 7 {
						t.Errorf("fault %+v", f)
					}
				}
				for _, g := range []int{0, 1, 3, 4, 5, 6} {
					if !slices.ContainsFunc(c.readings, func(r frame.Reading) bool { return r.GPU == g }) {
						t.Errorf("GPU %d gave no reading", g)
					}
				}
			}
			if function != "metric 5" && len(lost) == 0 {
				t.Error("nobody said that it is lost")
			}
			c.faulty()
			back := func() bool {
				return slices.ContainsFunc(c.readings, func(r frame.Reading) bool { return r.GPU == 2 && r.Has(frame.TensorE4) })
			}
			if !c.until(15, frame.Request{Sample: 0xff, Events: true}, back) {
				t.Errorf("it is back and not read: %+v", c.faults)
			}
			for range 12 {
				c.ask(frame.Request{Sample: 0xff, Events: true})
			}
		})
	}
	c.withinBudget()
}

// The driver is replaced while it is asked: the child says so, whatever it was asked, and ends.
func TestUpgradeUnderWay(t *testing.T) {
	for _, function := range []string{
		"nvmlDeviceGetFieldValues", "nvmlGpmMetricsGet", "nvmlDeviceGetComputeRunningProcesses*", "nvmlDeviceGetPerformanceState", "nvmlDeviceGetGpuInstanceId",
		"nvmlDeviceGetSupportedEventTypes", "nvmlEventSetWait*",
	} {
		t.Run(function, func(t *testing.T) {
			s := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour)
			s.GPUs[1].Segments, s.GPUs[1].Instances = nil, nvmlstub.Instances("1g.10gb")
			c := newTalk(t, s)
			c.faulty(nvmlstub.Fault{Function: function, Code: int32(nvml.ERROR_LIB_RM_VERSION_MISMATCH)})
			ended := func() bool {
				return slices.ContainsFunc(c.faults, func(f frame.Fault) bool { return f.Ending })
			}
			// Between the fault and the end there may be answers, or not: read what there is.
			q := frame.Request{Type: frame.TypeDescribe, Seq: 1, BootMs: 1000, Sample: 3, Processes: 3, Health: 3, Events: true}
			c.send(&q)
			for left := 2; !ended(); {
				if done := c.next(); done == nil {
					continue
				}
				if left--; left == 0 {
					left = 2
					q = frame.Request{Type: frame.TypeSample, Seq: q.Seq + 1, BootMs: q.BootMs + 1000, Sample: 3, Events: true}
					c.send(&q)
				}
			}
			go func() { _, _ = io.Copy(io.Discard, c.out) }() // ends with the pipe
			if err := <-c.serve; !errors.Is(err, errEnding) {
				t.Errorf("Serve: %v", err)
			}
			_ = c.out.Close()
			_ = c.in.Close()
			_ = c.mem.Close()
		})
	}
}
