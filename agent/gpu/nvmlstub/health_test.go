package nvmlstub

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// field reads one field: its code and its value.
func (p *probe) field(device uint64, id, scope uint32) (code uint32, value uint64) {
	p.t.Helper()
	f := fieldValues(p, device, [2]uint32{id, scope})[0]
	return f.u32(28), f.u64(32)
}

func (p *probe) number(name string, device uint64) (code int, value uint32) {
	p.t.Helper()
	code, out := p.call(name, device, make([]byte, 4))
	return code, out[0].u32(0)
}

// Each number of Health is where a driver has it, and goes up and down as it is set.
func TestHealth(t *testing.T) {
	s := Scenario{Manual: true, GPUs: []GPU{{Model: H100SXM}, {Model: V100}, {Model: H100SXM, ECCCorrected: 9, Health: Health{ECCCorrectedVolatile: 1}}}}
	m, p := bench(t, s)
	d, old := p.device(0), p.device(1)
	h := m.Health(0)
	if h.PCIeGen != 5 || h.PCIeWidth != 16 || h.PowerLimitMW != 700_000 || h.BAR1UsedBytes != mib || h.MemReservedBytes != 551*mib {
		t.Errorf("the model's health: %+v", h)
	}
	if both := m.Health(2); both.ECCCorrectedVolatile != 10 || both.ECCCorrectedAggregate != 9 {
		t.Errorf("short form: %+v", both)
	}
	h.ECCCorrectedVolatile, h.ECCUncorrectedVolatile, h.ECCCorrectedAggregate, h.ECCUncorrectedAggregate = 11, 12, 13, 14
	h.PCIeReplays, h.PCIeReplayRollovers, h.PCIeGen, h.PCIeWidth = 15, 16, 4, 8
	for i := range h.PCIeErrors {
		h.PCIeErrors[i] = uint32(100 + i)
	}
	h.RowsRemappedCorrected, h.RowsRemappedUncorrected, h.RowRemapPending, h.RowRemapFailed = 17, 18, 1, 1
	h.NVLinksDown, h.NVLinkCRCFlit, h.NVLinkCRCData, h.NVLinkReplay, h.NVLinkRecovery, h.NVLinkECC = 1<<3, 19, 20, 21, 22, 23
	h.PowerLimitMW, h.Fans, h.FanPercent, h.RecoveryAction, h.BAR1UsedBytes, h.MemReservedBytes = 450_000, 2, 66, 2, 5*mib, 7*mib
	if err := m.SetHealth(0, h); err != nil {
		t.Fatal(err)
	}
	v := h
	v.PagesRetiredSBE, v.PagesRetiredDBE, v.PagesPending, v.BAR1UsedBytes = 2, 1, 1, 0
	if err := m.SetHealth(1, v); err != nil {
		t.Fatal(err)
	}
	type want struct {
		id, scope uint32
		value     uint64
	}
	list := []want{
		{3, 0, 11}, {4, 0, 12}, {5, 0, 13}, {6, 0, 14}, {11, 0, 11}, {23, 0, 14}, {94, 0, 15}, {95, 0, 16}, {142, 0, 17}, {143, 0, 18}, {144, 0, 1}, {145, 0, 1},
		{38, 0, 18 * 19}, {45, 0, 18 * 20}, {52, 0, 18 * 21}, {59, 0, 18 * 22}, {160, 0, 18 * 23}, {161, 2, 21}, {162, 2, 22}, {163, 2, 19},
		{165, 3, 0}, {165, 4, 1}, {190, 0, 450_000}, {192, 0, 700_000}, {189, 0, 700_000}, {230, 0, 2}, {170, 0, 0},
		{193, 0, 1<<32 - 5}, {194, 0, 1<<32 - 2}, {195, 0, 0}, {196, 0, 0}, {82, 0, 38},
	}
	for i := range h.PCIeErrors {
		list = append(list, want{uint32(173 + i), 0, uint64(100 + i)})
	}
	for _, w := range list {
		if code, got := p.field(d, w.id, w.scope); code != 0 || got != w.value {
			t.Errorf("field %d of %d: code %d, %d, wanted %d", w.id, w.scope, code, got, w.value)
		}
	}
	for _, w := range []want{{29, 0, 2}, {30, 0, 1}, {31, 0, 1}} {
		if code, got := p.field(old, w.id, 0); code != 0 || got != w.value {
			t.Errorf("field %d of a V100: code %d, %d", w.id, code, got)
		}
		if code, _ := p.field(d, w.id, 0); code != 3 {
			t.Errorf("field %d of an H100: code %d", w.id, code)
		}
	}
	for _, id := range []uint32{142, 145, 173, 185, 193, 202, 251} {
		if code, _ := p.field(old, id, 0); code != 3 {
			t.Errorf("field %d of a V100: code %d", id, code)
		}
	}
	for name, want := range map[string]uint32{
		"nvmlDeviceGetPcieReplayCounter": 15, "nvmlDeviceGetCurrPcieLinkGeneration": 4, "nvmlDeviceGetCurrPcieLinkWidth": 8, "nvmlDeviceGetMaxPcieLinkGeneration": 5,
		"nvmlDeviceGetMaxPcieLinkWidth": 16, "nvmlDeviceGetEnforcedPowerLimit": 450_000, "nvmlDeviceGetPowerManagementLimit": 700_000, "nvmlDeviceGetFanSpeed": 66,
		"nvmlDeviceGetNumFans": 2, "nvmlDeviceGetPcieSpeed": 16000, "nvmlDeviceGetPcieLinkMaxSpeed": 5,
	} {
		if code, got := p.number(name, d); code != 0 || got != want {
			t.Errorf("%s: code %d, %d, wanted %d", name, code, got, want)
		}
	}
	for i, want := range []uint64{11, 13, 12, 14} { // type by counter
		if got := p.ok("nvmlDeviceGetTotalEccErrors", d, i/2, i%2, make([]byte, 8)).u64(0); got != want {
			t.Errorf("ECC errors %d: %d, wanted %d", i, got, want)
		}
		if got := p.ok("nvmlDeviceGetMemoryErrorCounter", d, i/2, i%2, 2, make([]byte, 8)).u64(0); got != want {
			t.Errorf("ECC errors of the memory %d: %d, wanted %d", i, got, want)
		}
	}
	if _, out := p.call("nvmlDeviceGetRemappedRows", d, make([]byte, 4), make([]byte, 4), make([]byte, 4), make([]byte, 4)); out[0].u32(0) != 17 || out[1].u32(0) != 18 || out[2].u32(0) != 1 || out[3].u32(0) != 1 {
		t.Errorf("rows %v", out)
	}
	if code, out := p.call("nvmlDeviceGetRetiredPages_v2", old, 0, word(4, 4), make([]byte, 32), make([]byte, 32)); code != 0 || out[0].u32(0) != 2 || out[1].u64(8) == 0 {
		t.Errorf("pages: %d %v", code, out)
	}
	if code, out := p.call("nvmlDeviceGetRetiredPages", old, 1, word(4, 0), 0); code != 7 || out[0].u32(0) != 1 {
		t.Errorf("pages without room: %d %v", code, out)
	}
	if code, pending := p.number("nvmlDeviceGetRetiredPagesPendingStatus", old); code != 0 || pending != 1 {
		t.Errorf("pending pages: %d, %d", code, pending)
	}
	for name, device := range map[string]uint64{"nvmlDeviceGetRetiredPagesPendingStatus": d} {
		if code, _ := p.number(name, device); code != 3 {
			t.Errorf("%s: %d", name, code)
		}
	}
	for link, want := range map[int]uint32{3: 0, 4: 1} {
		if got := p.ok("nvmlDeviceGetNvLinkState", d, link, make([]byte, 4)).u32(0); got != want {
			t.Errorf("link %d: %d", link, got)
		}
	}
	if got := p.ok("nvmlDeviceGetNvLinkErrorCounter", d, 1, 0, make([]byte, 8)).u64(0); got != 21 {
		t.Errorf("replays of a link: %d", got)
	}
	if mem := p.ok("nvmlDeviceGetMemoryInfo_v2", d, word(40, 40|2<<24)); mem.u64(16) != 7*mib {
		t.Errorf("reserved memory: %d", mem.u64(16))
	}
	if bar := p.ok("nvmlDeviceGetBAR1MemoryInfo", d, make([]byte, 24)); bar.u64(16) != 5*mib {
		t.Errorf("BAR1: %v", bar)
	}
	if got := p.ok("nvmlDeviceGetMarginTemperature", d, word(8, 8|1<<24)).u32(4); got != 87-31 {
		t.Errorf("margin %d", got)
	}
	if got := p.ok("nvmlDeviceGetTemperatureThreshold", d, 1, make([]byte, 4)).u32(0); got != 89 {
		t.Errorf("slowdown at %d", got)
	}
	// After a reset the volatile counters begin again.
	h.ECCCorrectedVolatile = 0
	if err := m.SetHealth(0, h); err != nil {
		t.Fatal(err)
	}
	if _, v := p.field(d, 3, 0); v != 0 {
		t.Errorf("volatile errors %d", v)
	}
	if _, v := p.field(d, 5, 0); v != 13 {
		t.Errorf("aggregate errors %d", v)
	}
	h.MemReservedBytes = 1 << 50
	if m.SetHealth(0, h) == nil || m.SetHealth(7, Health{}) == nil {
		t.Error("an impossible health was taken")
	}
	if _, err := Create(filepath.Join(t.TempDir(), Shared), Scenario{GPUs: []GPU{{Health: h}}}); err == nil {
		t.Error("an impossible health was taken")
	}
}

// What holds clocks down is counted as long as its reason is shown.
func TestCapped(t *testing.T) {
	for _, repeat := range []bool{false, true} {
		s := load(repeat)
		s.GPUs[0].Segments[0].Reasons, s.GPUs[0].Segments[1].Reasons = 0x4|0x40, 0x20
		s.GPUs[0].Health.CappedNs[CapSWPower] = 5e9
		m, p := bench(t, s)
		d := p.device(0)
		for _, at := range []time.Duration{0, time.Second, 4500 * time.Millisecond, 11 * time.Second, 40 * time.Second, 77 * time.Minute} {
			if err := m.SetNow(at); err != nil {
				t.Fatal(err)
			}
			// 7 s from 2 s on, and 3 s from 10 s on, in each cycle of 15 s.
			cycles, in := time.Duration(0), at
			if repeat {
				cycles, in = at/(15*time.Second), at%(15*time.Second)
			}
			first := 7*time.Second*cycles + min(max(in-2*time.Second, 0), 7*time.Second)
			second := 3*time.Second*cycles + min(max(in-10*time.Second, 0), 3*time.Second)
			for id, want := range map[uint32]time.Duration{74: 5*time.Second + first, 75: second, 76: 0, 77: 0, 269: second, 270: first, 271: 0} {
				if code, got := p.field(d, id, 0); code != 0 || got != uint64(want) {
					t.Errorf("repeat %v at %v: field %d is %v, code %d, wanted %v", repeat, at, id, time.Duration(got), code, want)
				}
			}
			if got := p.ok("nvmlDeviceGetViolationStatus", d, 0, make([]byte, 16)).u64(8); got != uint64(5*time.Second+first) {
				t.Errorf("violation at %v: %d", at, got)
			}
		}
		if err := m.ResetCounters(0, 3*time.Second); err != nil {
			t.Fatal(err)
		}
		if err := m.SetNow(4 * time.Second); err != nil {
			t.Fatal(err)
		}
		if _, got := p.field(d, 74, 0); got != 1e9 {
			t.Errorf("since the reset: %d", got)
		}
	}
}

// What is there and what is not, by generation.
func TestGenerations(t *testing.T) {
	var s Scenario
	s.Manual = true
	for m := range numModels {
		s.GPUs = append(s.GPUs, GPU{Model: m, Segments: []Segment{TrainSegment(m, 0, time.Hour)}, NVLinkErrors: 3})
	}
	m, p := bench(t, s)
	if err := m.SetNow(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	all := []Model{H100SXM, H200, B200, A100, L40S, V100, A10040, GH200, GB200}
	have := map[string][]Model{
		"nvmlGpmSampleGet": {H100SXM, H200, B200, GH200, GB200}, "nvmlDeviceGetMigMode": {H100SXM, H200, B200, A100, A10040, GH200, GB200},
		"nvmlDeviceGetRemappedRows": {H100SXM, H200, B200, A100, L40S, A10040, GH200, GB200}, "nvmlDeviceGetRetiredPagesPendingStatus": {V100},
		"nvmlDeviceGetGpuFabricInfo": {H100SXM, H200, B200, GH200, GB200}, "nvmlDeviceGetGspFirmwareVersion": {H100SXM, H200, B200, A100, L40S, A10040, GH200, GB200},
		"nvmlDeviceGetTotalEnergyConsumption": all, "nvmlDeviceGetFanSpeed": nil,
		"field 185 1": {GH200, GB200}, "field 186 1": {GH200, GB200}, "field 185 0": {H100SXM, H200, B200, L40S, GH200, GB200}, "field 186 0": all, "field 83 0": all,
		"field 138 4294967295": {H100SXM, H200, B200, A100, V100, A10040, GH200, GB200}, "field 38 0": {H100SXM, H200, A100, V100, A10040, GH200},
		"field 202 17": {B200, GB200}, "field 208 0": {B200, GB200}, "field 251 0": {B200, GB200}, "field 193 0": {H100SXM, H200, B200, L40S, GH200, GB200},
		"field 171 9": {GH200, GB200}, "field 197 0": all, "field 3 0": all,
	}
	sample := p.ok("nvmlGpmSampleAlloc", make([]byte, 8)).u64(0)
	for name, want := range have {
		var got []Model
		for _, model := range all {
			d := p.device(int(model))
			var code int
			if rest, is := strings.CutPrefix(name, "field "); is {
				var id, scope uint32
				if _, err := fmt.Sscan(rest, &id, &scope); err != nil {
					t.Fatal(err)
				}
				c, _ := p.field(d, id, scope)
				code = int(c)
			} else if name == "nvmlGpmSampleGet" {
				code, _ = p.call(name, d, sample)
			} else {
				code, _ = p.call(name, d, make([]byte, 64), make([]byte, 4), make([]byte, 4), make([]byte, 4))
			}
			if code == 0 {
				got = append(got, model)
			} else if code != 3 {
				t.Errorf("%s of %v returns %d", name, model, code)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s is there on %v, wanted on %v", name, got, want)
		}
	}
	if code, of := p.field(p.device(int(GH200)), 186, 1); code != 0 || of != uint64(1000*m.At(int(GH200), 10*time.Second)[PowerW]+140_000) {
		t.Errorf("a module's power: %d, %d", code, of)
	}
	want := m.Truth(int(B200), 0, 10*time.Second).NVLinkTxBytes / 18
	_, got := p.field(p.device(int(B200)), 202, 3)
	near(t, "bytes of a link", float64(got), want, 2)
	if code, _ := p.field(p.device(int(B200)), 202, 18); code != 2 {
		t.Errorf("a link too many: %d", code)
	}
	if code, _ := p.call("nvmlDeviceGetNvLinkErrorCounter", p.device(int(B200)), 0, 0, make([]byte, 8)); code != 3 {
		t.Errorf("an error counter that Blackwell has not: %d", code)
	}
}
