package gpu_test

import (
	"fmt"
	"math/bits"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// fakeTiers is a child with two GPUs, the second of which is partitioned. Its counters grow by
// 1 MiB a millisecond, and its power is 100 W.
//
//	tiers   all is well
//	slow    from the 100th tick on, for ten minutes, a pass takes 400 ms, as it says
//	energy  the counter of energy runs twice as fast as power
func fakeTiers(mode string, r *frame.Reader, out func([]byte)) int {
	looks, moments := [2]int{}, [2]int{}
	for {
		t, body, err := r.Next()
		if err != nil {
			return 0
		}
		var q frame.Request
		if err = frame.DecodeRequest(t, body, &q); err != nil {
			return 98
		}
		switch q.Type {
		case frame.TypeHello:
			out(frame.AppendWelcome(nil, &frame.Welcome{Version: frame.Version, GPUs: 2, GPM: true, DriverVersion: "580.1.2", NVMLVersion: "13.580.1.2",
				LibraryPath: "/nowhere/libnvidia-ml.so.1", Facts: []frame.Fact{{Name: "cuda_driver_version", Value: "13.0"}}}))
			continue
		case frame.TypeStop:
			return 0
		}
		ms := q.BootMs - boot0
		if q.Events && q.Burst == 0 && ms%5000 == 0 {
			for range 3 {
				out(frame.AppendEvent(nil, &frame.Event{GPU: 0, Kind: frame.EventXid, Code: 79, Count: 1, GI: frame.WholeGPU, CI: frame.WholeGPU}))
			}
			out(frame.AppendEvent(nil, &frame.Event{GPU: 1, Kind: frame.EventXid, Code: 13, Count: 2, GI: 2, CI: 0, AgoUs: 500_000}))
			out(frame.AppendEvent(nil, &frame.Event{GPU: -1, Kind: frame.EventECCCorrected, Code: 5, Count: 1, GI: frame.WholeGPU, CI: frame.WholeGPU}))
		}
		for m := q.Sample | q.Burst; m != 0; m &= m - 1 {
			g := bits.TrailingZeros64(m)
			bit := uint64(1) << g
			if q.Type == frame.TypeDescribe {
				d := frame.Unknown(g)
				d.UUID, d.Name, d.PCIBusID, d.MIGMode, d.GPM, d.Capabilities, d.Whole = fmt.Sprintf("GPU-%d", g), "fake", fmt.Sprintf("00000000:%d0:00.0", g+1), g, true, []string{"gpm", "power"}, true
				d.Serial, d.Architecture, d.SMs, d.CCMode, d.ECCMode, d.FabricClique, d.ModuleID = "123", "hopper", 132, "off", 1, 0, g+1
				out(frame.AppendDevice(nil, &d))
				if g == 1 {
					out(frame.AppendInstances(nil, &frame.Instances{GPU: 1, Seq: q.Seq, List: []frame.Instance{
						{GI: 1, CI: 0, UUID: "MIG-a", Profile: "1g.10gb", SMs: 16, Slices: 1, MemTotalBytes: 10 << 30, MemUsedBytes: 1 << 30},
						{GI: 1, CI: 1, UUID: "MIG-b", Profile: "1g.10gb", SMs: 16, Slices: 1, MemTotalBytes: 10 << 30, MemUsedBytes: 1 << 30},
						{GI: 2, CI: 0, UUID: "MIG-c", Profile: "2g.20gb", SMs: 32, Slices: 2, MemTotalBytes: 20 << 30, MemUsedBytes: -1},
					}}))
				}
			}
			v := frame.Reading{GPU: g, GI: frame.WholeGPU, Seq: q.Seq, TookUs: 100}
			sample, burst := q.Sample&bit != 0, q.Burst&bit != 0
			if mode == "slow" && sample && ms > 100_000 && ms < 700_000 {
				v.TookUs = 400_000
			}
			v.Set(frame.PowerMW, 100_000)
			v.Set(frame.EnergyMJ, 7_000_000+100*ms)
			if mode == "energy" {
				v.Set(frame.EnergyMJ, 7_000_000+200*ms)
			}
			switch {
			case sample:
				v.Calls = 9
				v.Set(frame.UtilE4, 5000)
				v.Set(frame.SMClockMHz, 1500)
				v.Set(frame.NVLinkTxBps, 1<<20*1000)
				v.FromGPM |= 1 << frame.NVLinkTxBps
				if burst { // it leaves room for as many as there were, and the memory's clock out
					v.Calls = min(max(12-moments[g]-bits.OnesCount64((q.Processes|q.Health)&bit), 3), 9)
				}
				if v.Calls >= 9 {
					v.Set(frame.MemClockMHz, 2600)
				}
				moments[g] = 0
			case q.Processes|q.Health|bit == bit && q.BurstGPM&bit == 0 || burst:
				v.Calls = 1
				v.Set(frame.NVLinkTxKiB, 1024*ms)
				if q.BurstGPM&bit != 0 {
					v.Calls = 3
					v.Set(frame.TensorE4, 4000)
					v.FromGPM |= 1 << frame.TensorE4
				}
				if ms%1000 != 0 {
					moments[g] += v.Calls
				} else {
					moments[g] = 0
				}
			}
			done := frame.Done{GPU: g, Seq: q.Seq, TookUs: v.TookUs, Calls: v.Calls, Slow: frame.ClassFields, SlowUs: v.TookUs}
			out(frame.AppendReading(nil, &v))
			if g == 1 && sample {
				part := frame.Reading{GPU: 1, GI: 1, Seq: q.Seq}
				part.Set(frame.TensorE4, 2500)
				part.FromGPM = 1 << frame.TensorE4
				part.Set(frame.MemUsedBytes, 3<<30)
				out(frame.AppendReading(nil, &part))
			}
			if q.Health&bit != 0 {
				// A look is spread over three requests.
				if looks[g]++; looks[g]%3 == 0 {
					h := frame.Health{GPU: g, Seq: q.Seq, ElapsedUs: 2000, TookUs: 300, Calls: 6}
					h.Set(frame.PState, 0)
					h.Set(frame.PCIeReplays, 5)
					h.Set(frame.CyclesMMA, 1<<40+int64(g))
					h.Set(frame.RecoveryAction, 0)
					out(frame.AppendHealth(nil, &h))
				}
				done.Calls++
			}
			if q.Processes&bit != 0 {
				p := frame.Process{PID: int32(os.Getppid()), UsedBytes: 1 << 30}
				if g == 1 {
					p.Instance = "MIG-c"
				}
				out(frame.AppendProcesses(nil, &frame.Processes{GPU: g, Seq: q.Seq, Known: true, List: []frame.Process{p}}))
				done.Calls++
			}
			out(frame.AppendDone(nil, &done))
		}
	}
}

func TestTiers(t *testing.T) {
	r := fake(t, "tiers", gpu.Config{ProcFS: t.TempDir(), SlowInterval: 20 * time.Second})
	r.steps(1)
	started := r.tick.Seq
	r.steps(99)
	if started != 1 {
		t.Fatal("the child did not answer at once")
	}
	health := r.out.take(wire.KindHealth)
	if n := len(of(health, 0)); n < 5 || n > 10 {
		t.Errorf("%d looks at the health in 100 s, wanted one in 20 s, and some for events", n)
	}
	h := of(health, 1)[0]
	if h.ints["pstate"] != 0 || !h.has("pstate") || h.ints["pcie_replays"] != 5 || h.ints["mma_cycles"] != 1<<40+1 || !h.has("recovery_action") || h.has("fan_e4") ||
		h.sources["mma_cycles"] != wire.SourceGPM || h.sources["pcie_replays"] != wire.SourceNVML || h.strs["gpu_uuid"] != "GPU-1" || h.ints["ts_ms"]-h.ints["boot_ms"] != wall0-boot0 {
		t.Errorf("health: %+v", h)
	}

	d := of(r.out.take(wire.KindDevice), 0)[0]
	for name, want := range map[string]int64{"sm_count": 132, "ecc_mode": 1, "fabric_clique": 0, "module_id": 1, "mig_mode": 0} {
		if d.ints[name] != want || !d.has(name) {
			t.Errorf("device: %s = %d, want %d", name, d.ints[name], want)
		}
	}
	if d.strs["serial"] != "123" || d.strs["architecture"] != "hopper" || d.strs["cc_mode"] != "off" || d.has("pcie_gen_max") || d.strs["gsp_version"] != "" {
		t.Errorf("device: %+v", d)
	}

	// Events: what came between two ticks of one kind is one row.
	events := r.out.take(wire.KindEvent)
	xids, others := 0, 0
	for _, e := range events {
		switch {
		case e.strs["event"] == "xid" && e.ints["code"] == 79:
			xids++
			if e.ints["count"] != 3 || e.strs["gpu_uuid"] != "GPU-0" || e.has("gi_id") {
				t.Errorf("event: %+v", e)
			}
		case e.strs["event"] == "xid":
			if e.ints["count"] != 2 || e.ints["gi_id"] != 2 || e.ints["ci_id"] != 0 || e.strs["gpu_uuid"] != "GPU-1" {
				t.Errorf("event: %+v", e)
			}
			if behind := e.ints["ts_ms"] - wall0; (behind+500)%5000 > 500 {
				t.Errorf("an event of half a second before a tick: %d ms behind the start", behind)
			}
		default:
			others++
			if e.strs["event"] != "ecc_corrected" || e.ints["code"] != 0 || e.ints["gpu"] != -1 || e.strs["gpu_uuid"] != "unknown" {
				t.Errorf("event: %+v", e)
			}
		}
	}
	if xids != 20 || others != 20 {
		t.Errorf("%d and %d events", xids, others)
	}

	// Facts are told once, and not again while they are what they were.
	facts := map[string]string{}
	for _, f := range r.out.take(wire.KindFact) {
		key := f.strs["subject"] + " " + f.strs["name"]
		if _, twice := facts[key]; twice {
			t.Errorf("%s is told twice", key)
		}
		facts[key] = f.strs["value"]
	}
	for key, want := range map[string]string{"driver driver_version": "580.1.2", "driver nvml_version": "13.580.1.2", "host cuda_driver_version": "13.0",
		"driver library_path": "/nowhere/libnvidia-ml.so.1", "driver kernel_version": "none"} {
		if facts[key] != want {
			t.Errorf("fact %s = %q, want %q", key, facts[key], want)
		}
	}

	// Instances: those that are read, and the other with what it is.
	parts := r.out.take(wire.KindInstance)
	one, two := 0, 0
	for _, p := range parts {
		switch p.ints["gi_id"] {
		case 1:
			one++
			if p.strs["instance_uuid"] != "MIG-a" || p.strs["profile"] != "1g.10gb" || p.ints["compute_instances"] != 2 || p.ints["sm_count"] != 16 ||
				p.ints["tensor_e4"] != 2500 || p.sources["tensor_e4"] != wire.SourceGPM || p.ints["mem_used_bytes"] != 3<<30 || p.ints["gpu"] != 1 {
				t.Fatalf("instance: %+v", p)
			}
		case 2:
			two++
			if p.strs["instance_uuid"] != "MIG-c" || p.has("tensor_e4") || p.has("mem_used_bytes") || p.ints["slices"] != 2 {
				t.Fatalf("instance: %+v", p)
			}
		}
	}
	if one < 90 || two == 0 || two > 20 {
		t.Errorf("%d rows of the instance that is read, %d of the other", one, two)
	}
	devices, ok := r.src.GPUDevices()
	if !ok || len(devices) != 2 || devices[0].PCIBusID != "0000:10:00.0" || len(devices[0].Instances) != 0 || len(devices[1].Instances) != 3 ||
		devices[1].Instances[2] != (source.GPUInstance{UUID: "MIG-c", GI: 2, CI: 0}) {
		t.Errorf("devices: %+v, %v", devices, ok)
	}
	list, _, ok := r.src.GPUProcesses()
	if ok || len(list) != 0 { // of another process table: an empty folder
		t.Errorf("processes: %+v, %v", list, ok)
	}
	if st := r.out.status["gpu/GPU-1"]; st.State != source.Active || !strings.Contains(st.Reason, "MIG is on: its instances are read one by one") {
		t.Errorf("status: %+v", st)
	}
	if st := r.out.status["gpu/GPU-0"]; st.State != source.Active || st.Reason != "" {
		t.Errorf("status: %+v", st)
	}
	latest := r.src.Latest()
	if l := latest[0]; l.Xid != 79 || !l.XidKnown || l.Health.Values[frame.PCIeReplays] != 5 || l.HealthWallMs == 0 {
		t.Errorf("latest: %+v", l)
	}
	if l := latest[1]; len(l.Instances) != 3 || l.Instances[0].WallMs == 0 || l.Instances[2].WallMs != 0 || l.Instances[0].Reading.Values[frame.TensorE4] != 2500 {
		t.Errorf("latest: %+v", l.Instances)
	}
	st := r.src.Stats()
	if st.Events["xid"] != 100 || st.Tiers[gpu.TierSlow].Asked < 8 || st.Tiers[gpu.TierBase].Asked != 200 || st.Slowest[frame.ClassFields] != 100*time.Microsecond {
		t.Errorf("stats: %+v", st)
	}
}

// Processes of instances name the MIG device that they are on.
func TestProcessesOfInstances(t *testing.T) {
	r := fake(t, "tiers", gpu.Config{})
	r.until("processes", func() bool { _, _, ok := r.src.GPUProcesses(); return ok })
	list, _, _ := r.src.GPUProcesses()
	if len(list) != 2 || list[0].Instance != "" || list[1].Instance != "MIG-c" || list[1].PID != int32(os.Getpid()) {
		t.Errorf("processes: %+v", list)
	}
}

// Rows of moments have what was read and no more; rows of ticks say what they said before.
func TestBurstRows(t *testing.T) {
	r := fake(t, "tiers", gpu.Config{ProcessInterval: -1, SlowInterval: -1, NoEvents: true})
	r.steps(5)
	r.out.take(wire.KindGPU)
	r.burst(20, 200*time.Millisecond, func(time.Duration) {})
	rows := of(r.out.take(wire.KindGPU), 0)
	moments, clocks := 0, 0
	last := rows[0]
	for i, row := range rows {
		ms := row.ints["boot_ms"] - boot0
		if i > 0 && (row.ints["energy_mj"] < last.ints["energy_mj"] || row.ints["boot_ms"] <= last.ints["boot_ms"]) {
			t.Fatalf("row %d: %+v behind %+v", i, row, last)
		}
		last = row
		if row.ints["power_mw"] != 100_000 {
			t.Fatalf("row %d: %+v", i, row)
		}
		// What came from a counter or from GPM is the same rate: 1 MiB a millisecond.
		if v, there := row.ints["nvlink_tx_bps"]; there && (v < 1<<20*990 || v > 1<<20*1010) {
			t.Errorf("row at %d ms: %d B/s", ms, v)
		}
		if ms%1000 == 0 {
			if row.has("mem_clock_mhz") {
				clocks++
			}
			continue
		}
		moments++
		if row.has("util_e4") || row.has("tensor_e4") || row.has("sm_clock_mhz") {
			t.Fatalf("a row of a moment: %+v", row)
		}
		if row.has("nvlink_tx_bps") && row.sources["nvlink_tx_bps"] != wire.SourceNVML {
			t.Errorf("a rate of a counter is of %v", row.sources["nvlink_tx_bps"])
		}
	}
	if moments < 70 || clocks < 4 {
		t.Errorf("%d moments of 80; %d whole passes in 20 s, wanted one in 5 s", moments, clocks)
	}
	st := r.src.Stats()
	if st.Bursts < 140 || st.Tiers[gpu.TierBurst].Asked != st.Bursts {
		t.Errorf("stats: %+v", st)
	}
	// The page of metrics goes on as before.
	if l := r.src.Latest()[0]; !l.Reading.Has(frame.MemClockMHz) || !l.Reading.Has(frame.UtilE4) {
		t.Errorf("latest: %+v", l.Reading)
	}
}

// In no second are there more calls of a GPU than the budget, whatever the spacing.
func TestBurstBudget(t *testing.T) {
	for _, c := range []struct {
		spacing time.Duration
		gpm     bool
		least   int // moments of a GPU in 30 s
	}{{100 * time.Millisecond, false, 170}, {150 * time.Millisecond, false, 120}, {200 * time.Millisecond, false, 100}, {250 * time.Millisecond, false, 70},
		{500 * time.Millisecond, false, 28}, {100 * time.Millisecond, true, 50}, {200 * time.Millisecond, true, 40}} {
		t.Run(fmt.Sprint(c.spacing, c.gpm), func(t *testing.T) {
			r := fake(t, "tiers", gpu.Config{BurstGPM: c.gpm, NoEvents: true})
			r.steps(3)
			var times []time.Duration
			var calls []uint64
			before := r.src.Stats()
			last := before.Calls
			r.burst(30, c.spacing, func(at time.Duration) {
				now := r.src.Stats().Calls
				times, calls = append(times, at), append(calls, now-last)
				last = now
			})
			most := mostInASecond(times, calls)
			n := r.src.Stats().Bursts - before.Bursts
			t.Logf("%d calls of two GPUs in a second at most; %d moments each", most, n/2)
			if most > 24 {
				t.Errorf("%d calls of two GPUs in a second", most)
			}
			if int(n/2) < c.least {
				t.Errorf("%d moments, wanted %d", n/2, c.least)
			}
		})
	}
}

// mostInASecond slides a second over calls.
func mostInASecond(times []time.Duration, calls []uint64) (most uint64) {
	for i := range times {
		sum := uint64(0)
		for k := i; k >= 0 && times[i]-times[k] < time.Second; k-- {
			sum += calls[k]
		}
		most = max(most, sum)
	}
	return most
}

// Time in the driver is held to its share: what is rare gives way first, then ticks; it is
// said, and over when calls are fast again.
func TestDriverShare(t *testing.T) {
	r := fake(t, "slow", gpu.Config{NoEvents: true, SlowInterval: 10 * time.Second})
	r.steps(100)
	if st := r.out.status["gpu/GPU-0"]; st.State != source.Active {
		t.Fatalf("status: %+v", st)
	}
	before := r.src.Stats()
	r.out.take(wire.KindGPU)
	r.out.take(wire.KindHealth)
	said := len(r.out.told)
	r.steps(599)
	after := r.src.Stats()
	n := after.Tiers[gpu.TierBase].Asked - before.Tiers[gpu.TierBase].Asked
	// Two GPUs in ten minutes: 2 % are 12 s, and what may be spent at once is 1.2 s.
	took := after.Tiers[gpu.TierBase].Took - before.Tiers[gpu.TierBase].Took
	if limit := 2 * (12 + 2*1200*time.Millisecond.Seconds()); took.Seconds() > limit || n < 30 {
		t.Errorf("%d passes took %v of ten minutes, wanted at most %.1f s", n, took, limit)
	}
	st := r.out.status["gpu/GPU-0"]
	if st.State != source.Degraded || !strings.Contains(st.Reason, "400ms") || !strings.Contains(st.Reason, "fields") || !strings.Contains(st.Reason, "2 % of the time") {
		t.Errorf("status: %+v", st)
	}
	if told := len(r.out.told) - said; told > 12 {
		t.Errorf("%d statuses told: %v", told, r.out.told[said:])
	}
	if h := len(of(r.out.take(wire.KindHealth), 0)); h == 0 || h > 30 {
		t.Errorf("%d looks at the health in ten minutes", h)
	}
	if after.Backed != 2 {
		t.Errorf("backed off: %d", after.Backed)
	}
	if b := after.Tiers[gpu.TierBase].By; b[len(b)-3]+b[len(b)-2] == 0 {
		t.Errorf("latencies: %v", b)
	}
	r.steps(300)
	if st = r.out.status["gpu/GPU-0"]; st.State != source.Active {
		t.Errorf("when calls are fast again: %+v", st)
	}
	r.out.take(wire.KindGPU)
	r.steps(20)
	if n := len(of(r.out.take(wire.KindGPU), 0)); n != 20 {
		t.Errorf("%d rows of 20 ticks", n)
	}
}

// A counter of energy that does not fit power is told, and the GPU is degraded; it is no error.
func TestEnergyAgainstPower(t *testing.T) {
	fact := func(r *rig) (last string, n int) {
		for _, f := range r.out.take(wire.KindFact) {
			if f.strs["subject"] == "GPU-0" && f.strs["name"] == "integrity" {
				last, n = f.strs["value"], n+1
			}
		}
		return last, n
	}
	r := fake(t, "energy", gpu.Config{NoEvents: true})
	r.steps(310)
	if v, _ := fact(r); v != "ok energy/power=2.00" {
		t.Errorf("after one window: %q", v)
	}
	if st := r.out.status["gpu/GPU-0"]; st.State != source.Active {
		t.Errorf("after one window: %+v", st)
	}
	r.steps(310)
	if v, _ := fact(r); v != "mismatch energy/power=2.00" {
		t.Errorf("after two windows: %q", v)
	}
	if st := r.out.status["gpu/GPU-0"]; st.State != source.Degraded || !strings.Contains(st.Reason, "2.00 times") {
		t.Errorf("after two windows: %+v", st)
	}
	if n := len(r.src.Stats().Faults); n != 0 {
		t.Errorf("it is no fault: %v", r.src.Stats().Faults)
	}

	r = fake(t, "tiers", gpu.Config{NoEvents: true})
	r.steps(1300)
	if v, n := fact(r); v != "ok energy/power=1.00" || n != 1 {
		t.Errorf("%q, told %d times", v, n)
	}
	if st := r.out.status["gpu/GPU-0"]; st.State != source.Active {
		t.Errorf("status: %+v", st)
	}
}
