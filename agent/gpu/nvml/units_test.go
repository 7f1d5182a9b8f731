//go:build linux && cgo

package nvml

import (
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

func TestBudget(t *testing.T) {
	var b budget
	b.add(1000, 9, false)
	b.add(1200, 1, true)
	b.add(1400, 0, true) // nothing was called
	for _, c := range []struct {
		ms            int64
		calls, bursts int
	}{{1000, 9, 0}, {1400, 10, 1}, {1909, 10, 1}, {1910, 1, 1}, {2109, 1, 1}, {2110, 0, 0}, {900, 0, 0}} {
		if calls, bursts := b.since(c.ms); calls != c.calls || bursts != c.bursts {
			t.Errorf("at %d ms: %d calls, %d for bursts; want %d, %d", c.ms, calls, bursts, c.calls, c.bursts)
		}
	}
	for i := range int64(100) {
		b.add(5000+i, 1, false)
	}
	if calls, _ := b.since(5099); calls < maxCalls {
		t.Errorf("%d calls of 100 are remembered", calls)
	}
}

func TestWords(t *testing.T) {
	for name, want := range map[string]string{
		"NVIDIA H100 80GB HBM3 MIG 1g.10gb": "1g.10gb", "NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb": "3g.20gb", "NVIDIA H100 80GB HBM3 MIG 1g.10gb+me": "1g.10gb+me",
		"NVIDIA H100 80GB HBM3": "", "X MIG mc.x": "mc.x",
	} {
		if got := profile(name); got != want {
			t.Errorf("profile of %q: %q, want %q", name, got, want)
		}
	}
	for v, want := range map[nvml.DeviceArchitecture]string{nvml.DEVICE_ARCH_HOPPER: "hopper", 77: "nvml-77", nvml.DEVICE_ARCH_UNKNOWN: ""} {
		if got := architecture(v); got != want {
			t.Errorf("architecture %d: %q, want %q", v, got, want)
		}
	}
	for _, c := range []struct {
		cores      int
		capability string
		want       int
	}{{16896, "9.0", 132}, {6912, "8.0", 108}, {5120, "7.0", 80}, {18176, "8.9", 142}, {16896, "", -1}, {16896, "14.0", -1}, {100, "9.0", -1}, {0, "9.0", -1}, {-64, "8.0", -1}} {
		if got := multiprocessors(c.cores, c.capability); got != c.want {
			t.Errorf("%d cores of %s: %d SMs, want %d", c.cores, c.capability, got, c.want)
		}
	}
	for _, c := range []struct {
		s    nvml.ConfComputeSystemState
		want string
	}{{nvml.ConfComputeSystemState{}, "off"}, {nvml.ConfComputeSystemState{CcFeature: 1}, "on"}, {nvml.ConfComputeSystemState{CcFeature: 1, DevToolsMode: 1}, "devtools"},
		{nvml.ConfComputeSystemState{DevToolsMode: 1}, "off"}, {nvml.ConfComputeSystemState{CcFeature: 9}, ""}} {
		if got := ccMode(&c.s); got != c.want {
			t.Errorf("%+v: %q, want %q", c.s, got, c.want)
		}
	}
	for v, want := range map[uint64]int64{0: -1, 5: 5, 11: -1} {
		if got := sane(v, 10); got != want {
			t.Errorf("sane(%d) = %d", v, got)
		}
	}
}

func TestMetricSets(t *testing.T) {
	if len(gpmParts) != 14 {
		t.Errorf("%d metrics of a part", len(gpmParts))
	}
	seen := map[nvml.GpmMetricId]bool{}
	for _, m := range append(append([]gpmMetric{}, gpmMetrics...), gpmVitals...) {
		if seen[m.id] {
			t.Errorf("metric %d twice", m.id)
		}
		seen[m.id] = true
		if m.counts() != (m.id >= 248) {
			t.Errorf("metric %d counts: %v", m.id, m.counts())
		}
	}
	for id := nvml.GpmMetricId(248); id <= 260; id++ {
		if !seen[id] && id != 255 && id != 256 { // PCIe comes with the fields
			t.Errorf("metric %d is not asked for", id)
		}
	}
	s := metricSet{all: gpmMetrics}
	all := len(s.at(0))
	if !s.drop(5, func(m *gpmMetric) bool { return m.counts() }) || len(s.at(6)) != all-2 || s.drop(7, func(*gpmMetric) bool { return false }) {
		t.Errorf("%d of %d metrics are left", len(s.list), all)
	}
	if len(s.at(5+retryUs)) != all {
		t.Error("what was left out is not tried again")
	}
	for v, f := range healthFields {
		if f.vital >= frame.NumVitals || f.limit <= 0 || f.id == 0 {
			t.Errorf("field %d: %+v", v, f)
		}
	}
}

// Every call has a class, and those that a tick makes have one of their own.
func TestClasses(t *testing.T) {
	seen := map[frame.Class]bool{}
	for c := range numCalls {
		seen[classOf(c)] = true
	}
	if len(seen) != int(frame.NumClasses)-1 || seen[frame.NoCall] {
		t.Errorf("classes: %v", seen)
	}
}
