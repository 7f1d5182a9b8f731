//go:build linux && cgo

package nvml

import (
	"slices"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
)

// everything asks all that can be asked for so many seconds, and returns the devices as last told.
func (c *talk) everything(seconds int) (devices map[int]frame.Device, all answers) {
	c.tb.Helper()
	devices = map[int]frame.Device{}
	mask := uint64(1)<<c.mem.GPUs() - 1
	for i := range seconds {
		q := frame.Request{Sample: mask, Events: true}
		if i%10 == 0 {
			q.Processes, q.Health = mask, mask
		}
		if i == 0 {
			q.Type = frame.TypeDescribe
		}
		c.ask(q)
		for _, d := range c.devices {
			devices[d.Index] = d
		}
		all.readings, all.faults, all.health = append(all.readings, c.readings...), append(all.faults, c.faults...), append(all.health, c.health...)
		all.processes, all.instances = append(all.processes, c.processes...), append(all.instances, c.instances...)
	}
	return devices, all
}

// Drivers from 470 on, and GPUs from Ampere on: what they lack is absent, and nothing ends the
// child or takes the rest away.
func TestGenerations(t *testing.T) {
	for name, c := range map[string]struct {
		driver int
		model  nvmlstub.Model
		has    []string
		hasNot []string
	}{
		"470 A100":  {470, nvmlstub.A100, []string{"clocks", "energy", "power", "memory", "temperature", "utilization"}, []string{"gpm", "cycles"}},
		"535 H100":  {535, nvmlstub.H100SXM, []string{"clocks", "energy", "gpm", "health"}, nil},
		"550 H100":  {550, nvmlstub.H100SXM, []string{"clocks", "energy", "gpm", "health", "processes"}, nil},
		"580 H100":  {580, nvmlstub.H100SXM, []string{"clocks", "energy", "gpm", "health", "processes", "events"}, nil},
		"new A100":  {0, nvmlstub.A100, []string{"clocks", "energy", "health", "nvlink", "pcie"}, []string{"gpm", "cycles"}},
		"new V100":  {0, nvmlstub.V100, []string{"clocks", "energy", "health", "nvlink"}, []string{"gpm", "cycles"}},
		"new L40S":  {0, nvmlstub.L40S, []string{"clocks", "energy", "health"}, []string{"gpm", "nvlink"}},
		"new GB200": {0, nvmlstub.GB200, []string{"clocks", "energy", "gpm", "cycles", "health", "nvlink"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := nvmlstub.Training(c.model, 2, 0, time.Hour)
			s.Processes = []nvmlstub.Process{{PID: 4711, GPUs: []int{0}, UsedBytes: 1 << 30}, {PID: 4712, GPUs: []int{0}, UsedBytes: 1 << 30}, {PID: 4713, GPUs: []int{1}, UsedBytes: 1 << 20}}
			k := newProcess(t, nvmlstub.Options{Driver: c.driver}, s)
			devices, all := k.everything(25)
			k.withinBudget()
			k.close()
			for i := range 2 {
				d := devices[i]
				if !d.Whole || d.UUID == "" || d.Name == "" {
					t.Errorf("GPU %d: %+v", i, d)
				}
				for _, want := range c.has {
					if !slices.Contains(d.Capabilities, want) {
						t.Errorf("GPU %d: no %s among %v", i, want, d.Capabilities)
					}
				}
				for _, not := range c.hasNot {
					if slices.Contains(d.Capabilities, not) {
						t.Errorf("GPU %d: %s among %v", i, not, d.Capabilities)
					}
				}
			}
			if len(all.readings) != 50 {
				t.Errorf("%d readings", len(all.readings))
			}
			for _, r := range all.readings {
				if !r.Has(frame.PowerMW) || !r.Has(frame.EnergyMJ) || !r.Has(frame.SMClockMHz) {
					t.Errorf("second %d: %#x", r.Seq, r.Present)
					break
				}
			}
			for _, f := range all.faults {
				if f.Code != frame.CodeImplausible || c.driver != 535 {
					t.Errorf("fault: %+v", f)
				}
			}
			for _, p := range all.processes {
				pids := make([]int32, 0, len(p.List))
				for _, v := range p.List {
					pids = append(pids, v.PID)
				}
				switch {
				case c.driver == 535 && p.GPU == 0: // entries of another size: of two, the first can be read
					if p.Known || len(pids) > 1 {
						t.Errorf("GPU %d: processes %v are known: %v", p.GPU, pids, p.Known)
					}
				case p.GPU == 0 && (!p.Known || !slices.Equal(pids, []int32{4711, 4712})) || p.GPU == 1 && !slices.Equal(pids, []int32{4713}):
					t.Errorf("GPU %d: processes %v, %v", p.GPU, pids, p.Known)
				}
			}
			if len(all.processes) != 6 || len(all.health) < 4 {
				t.Errorf("%d lists, %d looks", len(all.processes), len(all.health))
			}
		})
	}
}

// Functions that are not there are never called: a call would end the process.
func TestFunctionsMissing(t *testing.T) {
	var rest []string // all but those without which there is nothing
	for c, names := range symbols {
		switch call(c) {
		case callInit, callCount, callHandle, callUUID, callShutdown:
		default:
			for _, n := range names {
				if n != "nvmlDeviceGetUUID" {
					rest = append(rest, n)
				}
			}
		}
	}
	for name, without := range map[string][]string{
		"all":         rest,
		"events":      {"nvmlEventSet*"},
		"MIG":         {"nvmlDeviceGetMig*", "nvmlDeviceGetMaxMigDeviceCount", "nvmlGpmMig*", "nvmlDeviceGetGpuInstanceId"},
		"half of MIG": {"nvmlDeviceGetAttributes*", "nvmlDeviceGetComputeInstanceId"},
		"newest":      {"nvmlEventSetWait_v2", "nvmlDeviceGetAttributes_v2", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v3"},
	} {
		t.Run(name, func(t *testing.T) {
			s := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour)
			s.GPUs[1].Segments, s.GPUs[1].Instances = nil, nvmlstub.Instances("1g.10gb", "3g.40gb")
			k := newProcess(t, nvmlstub.Options{Without: without}, s)
			if len(k.welcome.Missing) == 0 {
				t.Error("nothing is missing")
			}
			devices, all := k.everything(25)
			k.withinBudget()
			k.close()
			if d := devices[0]; !d.Whole || d.UUID == "" {
				t.Errorf("device: %+v", d)
			}
			if name != "all" && len(all.readings) < 50 || name == "all" && len(all.readings) != 0 {
				t.Errorf("%d readings", len(all.readings))
			}
			if (name == "half of MIG" || name == "events" || name == "newest") && (len(all.instances) == 0 || len(all.instances[0].List) != 2) {
				t.Errorf("instances: %+v", all.instances)
			}
			for _, f := range all.faults {
				t.Errorf("fault: %+v", f)
			}
		})
	}
}
