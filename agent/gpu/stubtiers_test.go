package gpu_test

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// With everything on, no GPU is called more than twelve times in any second, as the stub counts.
func TestBudgetWithBursts(t *testing.T) {
	for _, c := range []struct {
		spacing time.Duration
		gpm     bool
		least   int // moments of a GPU in a minute
	}{{100 * time.Millisecond, false, 240}, {200 * time.Millisecond, false, 150}, {250 * time.Millisecond, false, 120}, {200 * time.Millisecond, true, 60}} {
		t.Run(fmt.Sprint(c.spacing, c.gpm), func(t *testing.T) {
			s := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour)
			s.Processes = []nvmlstub.Process{{PID: uint32(os.Getpid()), GPUs: []int{0, 1}, UsedBytes: 1 << 30}}
			r := newRig(t, nvmlstub.Options{}, s, gpu.Config{BurstGPM: c.gpm, DeviceInterval: 30 * time.Second})
			// Until it listens for events, the child keeps calls for that.
			r.until("the listener has both", func() bool { return r.mem.Calls("nvmlDeviceRegisterEvents", 1) > 0 })
			r.until("the GPUs are described", func() bool { return len(r.out.rows[wire.KindDevice]) >= 4 })
			r.steps(3)
			r.out.take(wire.KindGPU)
			r.out.take(wire.KindHealth)
			before := r.src.Stats()
			last := r.mem.Snapshot()
			var times []time.Duration
			var calls [2][]uint64
			r.burst(60, c.spacing, func(at time.Duration) {
				now := r.mem.Snapshot()
				times = append(times, at)
				for g := range calls {
					calls[g] = append(calls[g], now.Since(last).Total(g))
				}
				last = now
			})
			for g := range calls {
				if most := mostInASecond(times, calls[g]); most > 12 {
					t.Errorf("GPU %d was called %d times in a second", g, most)
				}
			}
			st := r.src.Stats()
			rows := of(r.out.take(wire.KindGPU), 0)
			have := map[string]int{}
			for _, row := range rows {
				for name := range row.ints {
					have[name]++
				}
			}
			n := int(st.Bursts-before.Bursts) / 2
			t.Logf("in a minute of bursts every %v (GPM %v): %d moments of a GPU, %d left out, %d by the child; rows with power %d, tensor %d, SM clock %d, utilization %d, memory %d, temperature %d, memory clock %d; %d looks at the health",
				c.spacing, c.gpm, n, int(st.BurstsRefused-before.BurstsRefused)/2, st.BudgetRefused-before.BudgetRefused, have["power_mw"], have["tensor_e4"], have["sm_clock_mhz"], have["util_e4"],
				have["mem_used_bytes"], have["temp_c"], have["mem_clock_mhz"], len(of(r.out.take(wire.KindHealth), 0)))
			if n < c.least {
				t.Errorf("%d moments in a minute, wanted %d", n, c.least)
			}
			for name, least := range map[string]int{"power_mw": 58 + n*9/10, "energy_mj": 58 + n*9/10, "tensor_e4": 58, "sm_clock_mhz": 8, "util_e4": 8, "mem_clock_mhz": 3, "temp_c": 6, "mma_cycles": 58} {
				if have[name] < least {
					t.Errorf("%d rows with %s, wanted %d", have[name], name, least)
				}
			}
			if r.state(0) != source.Active || len(st.Faults) != 0 {
				t.Errorf("status %v, faults %v", r.state(0), st.Faults)
			}
		})
	}
}

// weighed sums a column up as the detector does: a value stands for the time since the row
// before that carried it, a minute and a half at most.
func weighed(rows []row, name string) (sum, seconds float64) {
	prev := int64(-1)
	for _, row := range rows {
		if !row.has(name) {
			continue
		}
		ms := row.ints["boot_ms"]
		if prev >= 0 {
			w := float64(min(ms-prev, 90_000)) / 1000
			sum += float64(row.ints[name]) * w
			seconds += w
		}
		prev = ms
	}
	return sum, seconds
}

// Denser rows change no sum: no time counts twice, and what moments leave out is no gap.
func TestBurstsKeepSums(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 1, 0, time.Hour), gpu.Config{})
	r.steps(61)
	from := r.now()
	r.burst(60, 200*time.Millisecond, func(time.Duration) {})
	r.steps(60)
	rows := r.out.take(wire.KindGPU)
	first := 0
	for rows[first].ints["boot_ms"] < boot0+from.Milliseconds() {
		first++
	}
	rows = rows[first:]
	to := r.now()
	truth := r.mem.Truth(0, from, to)
	wall := (to - from).Seconds()
	for name, c := range map[string]struct {
		want, margin float64
	}{
		// A step of the stub's training lasts six moments of 200 ms, of which five are computing.
		"power_mw":      {truth.EnergyJ * 1000, 0.06},
		"tensor_e4":     {truth.TensorSeconds * 1e4, 0.01},
		"sm_active_e4":  {truth.Mean[nvmlstub.SMActive] * wall * 1e4, 0.01},
		"nvlink_tx_bps": {truth.NVLinkTxBytes, 0.05},
		"util_e4":       {truth.BusySeconds * 1e4, 0.02},
		"sm_clock_mhz":  {truth.Mean[nvmlstub.SMClockMHz] * wall, 0.06},
	} {
		sum, seconds := weighed(rows, name)
		t.Logf("%s: %.4g, in truth %.4g (%+.2f %%), over %.1f s of %.1f", name, sum, c.want, 100*(sum/c.want-1), seconds, wall)
		if math.Abs(seconds-wall) > 5.1 || math.Abs(sum/c.want-1) > c.margin {
			t.Errorf("%s: %.4g over %.1f s, want %.4g ± %.0f %% over %.1f s", name, sum, seconds, c.want, 100*c.margin, wall)
		}
	}
	// Power of tensor cores rests on those rows that have both.
	var both []row
	for _, row := range rows {
		if row.has("tensor_e4") && row.has("sm_clock_mhz") {
			row.ints["product"] = row.ints["tensor_e4"] * row.ints["sm_clock_mhz"]
			both = append(both, row)
		}
	}
	sum, seconds := weighed(both, "product")
	t.Logf("tensor times clock: %+.2f %%, over %.1f s, of %d rows", 100*(sum/(truth.TensorMegacycles*1e4)-1), seconds, len(both))
	if seconds < wall-5.1 || math.Abs(sum/(truth.TensorMegacycles*1e4)-1) > 0.06 {
		t.Errorf("tensor times clock: %.4g over %.1f s, want %.4g", sum, seconds, truth.TensorMegacycles*1e4)
	}
	for _, c := range []struct {
		name string
		want float64
		step float64
	}{{"energy_mj", truth.EnergyJ * 1000, 1000}, {"mma_cycles", truth.Cycles[nvmlstub.Tensor], 1 << 22}, {"sm_cycles_elapsed", truth.CyclesElapsed, 1 << 22}} {
		var values []int64
		for _, row := range rows {
			if row.has(c.name) {
				values = append(values, row.ints[c.name])
			}
		}
		for i := 1; i < len(values); i++ {
			if values[i] < values[i-1] {
				t.Fatalf("%s went back", c.name)
			}
		}
		if len(values) < 100 || math.Abs(float64(values[len(values)-1]-values[0])-c.want) > 2*c.step {
			t.Errorf("%s: %d values, %d to %d, want an increment of %.0f", c.name, len(values), values[0], values[len(values)-1], c.want)
		}
	}
}

// An Ampere GPU is as it should be, and says what cannot be seen of it.
func TestAmpere(t *testing.T) {
	r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.A100, 1, 0, time.Hour), gpu.Config{})
	r.steps(40)
	rows := r.out.take(wire.KindGPU)
	last := rows[len(rows)-1]
	for _, name := range []string{"energy_mj", "power_mw", "sm_clock_mhz", "mem_util_e4", "util_e4", "nvlink_tx_bps"} {
		if !last.has(name) || last.sources[name] != wire.SourceNVML {
			t.Errorf("%s: %+v", name, last)
		}
	}
	if last.has("tensor_e4") || last.has("mma_cycles") {
		t.Errorf("row: %+v", last)
	}
	if st := r.out.status["gpu/"+r.mem.UUID(0)]; st.State != source.Active || !strings.Contains(st.Reason, "no GPM before Hopper") {
		t.Errorf("status: %+v", st)
	}
	health := r.out.take(wire.KindHealth)
	if len(health) == 0 || !health[0].has("ecc_uncorrected_volatile") || health[0].has("mma_cycles") {
		t.Errorf("health: %+v", health)
	}
}

// Confidential computing takes GPM away: it is said.
func TestConfidentialComputing(t *testing.T) {
	s := nvmlstub.Training(nvmlstub.H100SXM, 1, 0, time.Hour)
	s.CC = nvmlstub.ConfidentialComputing{On: true}
	r := newRig(t, nvmlstub.Options{}, s, gpu.Config{})
	r.steps(40)
	if st := r.out.status["gpu/"+r.mem.UUID(0)]; st.State != source.Degraded || !strings.Contains(st.Reason, "confidential computing") {
		t.Errorf("status: %+v", st)
	}
	devices := r.out.take(wire.KindDevice)
	if d := devices[len(devices)-1]; d.strs["cc_mode"] != "on" {
		t.Errorf("device: %+v", d)
	}
	state := ""
	for _, f := range r.out.take(wire.KindFact) {
		if f.strs["subject"] == "host" && f.strs["name"] == "cc_state" {
			state = f.strs["value"]
		}
	}
	if state != "on" {
		t.Errorf("fact cc_state: %q", state)
	}
}

func TestHealthAndEvents(t *testing.T) {
	s := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour)
	s.GPUs[1].Health = nvmlstub.Health{ECCUncorrectedVolatile: 3, RowsRemappedUncorrected: 2, RowRemapPending: 1, PCIeReplays: 17}
	r := newRig(t, nvmlstub.Options{}, s, gpu.Config{SlowInterval: 10 * time.Second})
	r.steps(30)
	health := of(r.out.take(wire.KindHealth), 1)
	if len(health) < 2 || len(health) > 4 {
		t.Fatalf("%d looks at the health in half a minute; log:\n%s", len(health), r.log)
	}
	h := health[len(health)-1]
	for name, want := range map[string]int64{"ecc_uncorrected_volatile": 3, "ecc_corrected_volatile": 0, "rows_remapped_uncorrected": 2, "row_remap_pending": 1, "row_remap_failed": 0,
		"pcie_replays": 17, "nvlinks_up": 18, "pcie_gen": 5, "pcie_width": 16, "pstate": 0, "power_limit_mw": 700_000} {
		if got, ok := h.ints[name]; !ok || got != want {
			t.Errorf("%s = %d (%v), want %d", name, got, ok, want)
		}
	}
	// The stub's clock stands still while the child reads.
	at := (time.Duration(h.ints["boot_ms"]-boot0) * time.Millisecond).Truncate(time.Second)
	near(t, h, "mma_cycles", r.mem.Truth(1, 0, at).Cycles[nvmlstub.Tensor], 5e6)
	near(t, h, "sm_cycles_elapsed", r.mem.Truth(1, 0, at).CyclesElapsed, 5e6)
	for name, src := range h.sources {
		if want := map[bool]wire.Source{true: wire.SourceGPM, false: wire.SourceNVML}[strings.HasSuffix(name, "_cycles") || strings.HasPrefix(name, "sm_cycles")]; src != want {
			t.Errorf("%s is of %v, want %v", name, src, want)
		}
	}

	// An Xid, and then a storm of them.
	r.until("the listener has the GPU", func() bool { return r.mem.Calls("nvmlDeviceRegisterEvents", 1) > 0 })
	if err := r.mem.Push(nvmlstub.Event{GPU: 1, Type: nvmlstub.XidEvent, Data: 79}); err != nil {
		t.Fatal(err)
	}
	var events []row
	r.until("the event", func() bool {
		events = append(events, r.out.take(wire.KindEvent)...)
		return len(events) > 0
	})
	if e := events[0]; e.strs["event"] != "xid" || e.ints["code"] != 79 || e.ints["count"] != 1 || e.strs["gpu_uuid"] != r.mem.UUID(1) || e.ints["gpu"] != 1 {
		t.Errorf("event: %+v", e)
	}
	if l := r.src.Latest()[1]; l.Xid != 79 || !l.XidKnown {
		t.Errorf("latest: %d, %v", l.Xid, l.XidKnown)
	}
}

// MIG devices: each is read, its processes name it, and the whole says what it cannot tell.
func TestInstances(t *testing.T) {
	s := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour)
	r := newRig(t, nvmlstub.Options{}, s, gpu.Config{})
	load := nvmlstub.TrainSegment(nvmlstub.H100SXM, 0, time.Hour)
	list := nvmlstub.Instances("3g.40gb", "1g.10gb", "1g.10gb")
	list[0] = list[0].With(load)
	if err := r.mem.SetInstances(0, list...); err != nil {
		t.Fatal(err)
	}
	if err := r.mem.SetProcesses(nvmlstub.Process{PID: uint32(os.Getpid()), GPUs: []int{0}, UsedBytes: 1 << 30, MIG: nvmlstub.In(list[0].GI, 0)}); err != nil {
		t.Fatal(err)
	}
	r.steps(60)
	r.out.take(wire.KindInstance)
	before := r.now()
	r.steps(60)
	sum, seconds := 0.0, 0.0
	seen := map[int64]row{}
	prev := map[int64]int64{}
	for _, p := range r.out.take(wire.KindInstance) {
		gi := p.ints["gi_id"]
		seen[gi] = p
		if gi == int64(list[0].GI) && p.has("tensor_e4") {
			if prev[gi] > 0 {
				w := float64(p.ints["boot_ms"]-prev[gi]) / 1000
				sum, seconds = sum+float64(p.ints["tensor_e4"])*w, seconds+w
			}
			prev[gi] = p.ints["boot_ms"]
		}
	}
	want := 1e4 * r.mem.InstanceTruth(0, list[0].GI, before, r.now()).Mean[nvmlstub.Tensor]
	if len(seen) != 3 || seconds < 30 || math.Abs(sum/seconds-want) > 0.05*want {
		t.Errorf("%d instances; tensor %.0f over %.0f s, want %.0f", len(seen), sum/seconds, seconds, want)
	}
	p := seen[int64(list[0].GI)]
	if p.strs["instance_uuid"] != r.mem.InstanceUUID(0, 0) || p.strs["profile"] != "3g.40gb" || p.ints["slices"] != 3 || p.ints["compute_instances"] != 1 || p.strs["gpu_uuid"] != r.mem.UUID(0) {
		t.Errorf("instance: %+v", p)
	}
	if st := r.out.status["gpu/"+r.mem.UUID(0)]; st.State != source.Active || !strings.Contains(st.Reason, "one by one") {
		t.Errorf("status: %+v", st)
	}
	devices, ok := r.src.GPUDevices()
	if !ok || len(devices) != 2 || len(devices[0].Instances) != 3 || devices[0].Instances[0].UUID != r.mem.InstanceUUID(0, 0) || !strings.HasPrefix(devices[0].PCIBusID, "0000:") {
		t.Errorf("devices: %+v, %v", devices, ok)
	}
	procs, _, ok := r.src.GPUProcesses()
	if !ok || len(procs) != 1 || procs[0].Instance != r.mem.InstanceUUID(0, 0) {
		t.Errorf("processes: %+v, %v", procs, ok)
	}
	// The driver may list the process for the whole GPU while it is looked at; nothing else fails.
	if st := r.src.Stats(); len(st.Faults) > 1 {
		t.Errorf("faults: %v", st.Faults)
	}
}

// Whatever hangs, the other GPU goes on, and the GPU comes back when the call does.
func TestHangs(t *testing.T) {
	for _, c := range []struct {
		name, function string
		mig            bool
		stalls         bool // the GPU; what waits for events is no GPU's
	}{
		{"health", "nvmlDeviceGetBAR1MemoryInfo", false, true},
		{"event wait", "nvmlEventSetWait*", false, false},
		{"MIG", "nvmlGpmMigSampleGet", true, true},
		{"MIG list", "nvmlDeviceGetMigDeviceHandleByIndex", true, true},
		{"processes", "nvmlDeviceGetComputeRunningProcesses*", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, nvmlstub.Options{}, nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour),
				gpu.Config{StallAfter: 100 * time.Millisecond, AnswerWait: 200 * time.Millisecond, SlowInterval: 3 * time.Second, ProcessInterval: 3 * time.Second})
			if c.mig {
				if err := r.mem.SetInstances(1, nvmlstub.Instances("3g.40gb", "1g.10gb")...); err != nil {
					t.Fatal(err)
				}
			}
			r.until("rows", func() bool { return r.state(1) == source.Active })
			r.steps(20)
			f := nvmlstub.Fault{Function: c.function, Delay: nvmlstub.Hang}
			if c.stalls {
				f.GPUs = []int{1}
			}
			if err := r.mem.SetFaults(f); err != nil {
				t.Fatal(err)
			}
			if c.stalls {
				r.until("it is stalled", func() bool { return r.state(1) == source.Stalled })
			}
			r.out.take(wire.KindGPU)
			r.steps(20)
			rows := r.out.take(wire.KindGPU)
			if n := len(of(rows, 0)); n < 18 {
				t.Errorf("%d rows of the other GPU in 20 ticks", n)
			}
			if n := len(of(rows, 1)); c.stalls && n != 0 || !c.stalls && n < 18 {
				t.Errorf("%d rows of the GPU in 20 ticks", n)
			}
			if err := r.mem.SetFaults(); err != nil {
				t.Fatal(err)
			}
			r.until("it goes on", func() bool { return r.state(1) == source.Active && r.out.status["gpu"].State == source.Active })
			if st := r.src.Stats(); st.Kills != 0 || st.Restarts != 0 {
				t.Errorf("stats: %+v", st)
			}
		})
	}
}

// TestPartitionedAgainAndAgain: an operator cuts a GPU into instances and puts it together again for
// half an hour. It is at no time said that the driver refuses something, or that a call failed, and
// what the instances are is known soon behind each change.
func TestPartitionedAgainAndAgain(t *testing.T) {
	s := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, 10*time.Hour)
	r := newRig(t, nvmlstub.Options{}, s, gpu.Config{})
	r.until("the listener has the GPU", func() bool { return r.mem.Calls("nvmlDeviceRegisterEvents", 1) > 0 })
	r.until("the GPUs are described", func() bool { return len(r.out.rows[wire.KindDevice]) >= 4 })
	r.steps(5)
	r.out.told = nil
	change := func(list []nvmlstub.Instance, event bool) {
		t.Helper()
		if err := r.mem.SetInstances(1, list...); err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			if err := r.mem.SetMIG(1, false, false); err != nil {
				t.Fatal(err)
			}
		}
		if event {
			if err := r.mem.Push(nvmlstub.Event{GPU: 1, Type: nvmlstub.MIGConfigEvent}); err != nil {
				t.Fatal(err)
			}
		}
	}
	halves := nvmlstub.Instances("3g.40gb", "3g.40gb")
	sevenths := nvmlstub.Instances("1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb")
	for i := range 1800 {
		// A prime period: changes fall into every step of a scan.
		switch i % 61 {
		case 10:
			change(halves, i%2 == 0)
		case 29 + i%4:
			change(sevenths, i%2 == 1)
		case 54:
			change(nil, true)
		}
		r.step()
		if i%61 == 52 {
			for _, in := range r.src.Latest()[1].Instances {
				if in.MemUsedBytes < 0 || in.Profile == "" {
					t.Errorf("step %d: %+v", i, in.Instance)
				}
			}
		}
	}
	for _, st := range r.out.told {
		if st.State != source.Active {
			t.Errorf("%+v", st)
		}
	}
	for _, row := range of(r.out.take(wire.KindGPU), 1) {
		if v, ok := row.ints["power_mw"]; !ok || v == 0 {
			t.Fatalf("a row without power: %+v", row)
		}
	}
}
