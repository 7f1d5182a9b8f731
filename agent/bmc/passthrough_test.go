package bmc

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// host makes a PCI bus: each device by its address.
func host(t *testing.T, devices map[string]map[string]string) PassthroughConfig {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"sys/bus/pci/devices", "dev/vfio"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for address, files := range devices {
		dir := filepath.Join(root, "sys/bus/pci/devices", address)
		for name, value := range files {
			path := filepath.Join(dir, name)
			if name == "vfio" {
				path = filepath.Join(root, "dev/vfio", value)
				value = ""
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			var err error
			if to, ok := strings.CutPrefix(value, "-> "); ok {
				err = os.Symlink(to, path)
			} else {
				err = os.WriteFile(path, []byte(value+"\n"), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return PassthroughConfig{Sysfs: filepath.Join(root, "sys"), Dev: filepath.Join(root, "dev")}
}

func gpu(driver string, more map[string]string) map[string]string {
	m := map[string]string{"vendor": "0x10de", "class": "0x030200"}
	if driver != "" {
		m["driver"] = "-> ../../../bus/pci/drivers/" + driver
	}
	maps.Copy(m, more)
	return m
}

func passed(group int) map[string]string {
	return gpu("vfio-pci", map[string]string{"iommu_group": fmt.Sprintf("-> ../../../kernel/iommu_groups/%d", group), "vfio": fmt.Sprint(group)})
}

func TestPassthrough(t *testing.T) {
	t.Parallel()
	const uuid = "4b20d080-1b54-4048-85b3-a6a62d165c01"
	eight := map[string]map[string]string{}
	for i := range 8 {
		eight[fmt.Sprintf("0000:%02x:00.0", 16+i)] = passed(i)
	}
	for _, c := range []struct {
		name    string
		devices map[string]map[string]string
		watched bool
		state   source.State
		reason  string
		facts   string
	}{
		{"all eight, nobody watches", eight, false, source.Degraded, "8 GPUs are passed through to guests; NVML sees nothing here; configure [bmc]", "host passthrough_gpus=8"},
		{"all eight, watched", eight, true, source.Active, "", "0000:10:00.0 driver=vfio-pci 0000:10:00.0 vfio_group=0"},
		{"one of two", map[string]map[string]string{"0000:01:00.0": passed(1), "0000:02:00.0": gpu("nvidia", nil)}, false, source.Degraded, "1 of 2 GPUs are passed through to guests; NVML does not see these; configure [bmc]", "0000:02:00.0 driver=nvidia host passthrough_gpus=1 host vgpu_gpus=0"},
		{"the host's own", map[string]map[string]string{"0000:01:00.0": gpu("nvidia", nil), "0000:01:00.1": {"vendor": "0x10de", "class": "0x040300", "driver": "-> ../vfio-pci"}}, false, source.Active, "", "0000:01:00.0 driver=nvidia host passthrough_gpus=0 host vgpu_gpus=0"},
		{"no driver", map[string]map[string]string{"0000:01:00.0": gpu("", nil)}, false, source.Degraded, "1 GPUs have no driver: what they do is not seen", "0000:01:00.0 driver=none"},
		{"nouveau", map[string]map[string]string{"0000:01:00.0": gpu("nouveau", nil)}, false, source.Degraded, "1 GPUs are held by a driver that is not NVIDIA's own", "driver=nouveau"},
		{"vGPU by mediated devices", map[string]map[string]string{"0000:01:00.0": gpu("nvidia", map[string]string{uuid + "/mdev_type": "x"})}, false, source.Degraded, "1 GPUs are shared with guests as vGPUs", "0000:01:00.0 vgpu=mdev 1 host passthrough_gpus=0 host vgpu_gpus=1"},
		{"vGPU by SR-IOV", map[string]map[string]string{
			"0000:01:00.0": gpu("nvidia", map[string]string{"sriov_numvfs": "16"}), "0000:01:00.4": gpu("nvidia", map[string]string{"physfn": "-> ../0000:01:00.0"}),
			"0000:01:00.5": gpu("vfio-pci", map[string]string{"physfn": "-> ../0000:01:00.0"}),
		}, false, source.Degraded, "1 GPUs are shared with guests as vGPUs", "0000:01:00.0 driver=nvidia 0000:01:00.0 vgpu=sriov 16 0000:01:00.4 driver=nvidia 0000:01:00.4 vgpu=function"},
		{"no group is seen", map[string]map[string]string{"0000:01:00.0": gpu("vfio-pci", nil)}, true, source.Degraded, "1 GPUs are bound to vfio-pci and have neither group nor device in /dev/vfio that is seen here", ""},
		{"Grace's own vfio driver", map[string]map[string]string{"0009:01:00.0": gpu("nvgrace_gpu_vfio_pci", map[string]string{"iommu_group": "-> ../../../kernel/iommu_groups/9", "vfio": "9"})},
			false, source.Degraded, "1 GPUs are passed through to guests; NVML sees nothing here", "0009:01:00.0 driver=nvgrace_gpu_vfio_pci 0009:01:00.0 vfio_group=9 host passthrough_gpus=1"},
		{"iommufd without groups", map[string]map[string]string{"0000:01:00.0": gpu("vfio-pci", map[string]string{"vfio-dev/vfio3/dev": "511:3", "vfio": "devices/vfio3"})}, true, source.Active, "", "host passthrough_gpus=1"},
		{"iommufd, and the device is not seen", map[string]map[string]string{"0000:01:00.0": gpu("vfio-pci", map[string]string{"vfio-dev/vfio3/dev": "511:3", "vfio": "devices/vfio4"})},
			true, source.Degraded, "1 GPUs are bound to vfio-pci and have neither", ""},
		{"Xen", map[string]map[string]string{"0000:01:00.0": gpu("pciback", nil)}, true, source.Active, "", "host passthrough_gpus=1"},
		{"a stub holds it", map[string]map[string]string{"0000:01:00.0": gpu("pci-stub", nil)}, true, source.Degraded, "1 GPUs are held by a driver that is not NVIDIA's own", "host passthrough_gpus=0"},
		{"no GPU", map[string]map[string]string{"0000:01:00.0": {"vendor": "0x1af4", "class": "0x020000"}}, false, source.Unavailable, "no NVIDIA GPU is on the PCI bus of this host", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := host(t, c.devices)
			cfg.Watched = c.watched
			p, s := NewPassthrough(cfg), newSink(t)
			if err := p.Sample(t.Context(), source.Tick{WallMs: 1, BootMs: 1}, s); err != nil {
				t.Fatal(err)
			}
			var facts []string
			for _, r := range s.rows(wire.KindFact) {
				facts = append(facts, r["subject"]+" "+r["name"]+"="+r["value"])
			}
			if got := strings.Join(facts, " "); !strings.Contains(got, c.facts) || c.facts == "" && c.state == source.Unavailable && got != "" {
				t.Errorf("facts: %s, want %s", got, c.facts)
			}
			if st := s.status["passthrough"]; st.State != c.state || !strings.HasPrefix(st.Reason, c.reason) || c.reason == "" && st.Reason != "" {
				t.Errorf("status: %+v", st)
			}
		})
	}
}

// Facts are told when they change, and now and then; a GPU that is given to a guest is seen.
func TestHandedOver(t *testing.T) {
	t.Parallel()
	cfg := host(t, map[string]map[string]string{"0000:01:00.0": gpu("nvidia", nil), "0000:02:00.0": gpu("nvidia", nil)})
	p, s := NewPassthrough(cfg), newSink(t)
	look := func(boot int64) []map[string]string {
		t.Helper()
		if err := p.Sample(t.Context(), source.Tick{WallMs: boot, BootMs: boot}, s); err != nil {
			t.Fatal(err)
		}
		return s.rows(wire.KindFact)
	}
	if n := len(look(1)); n != 4 {
		t.Errorf("%d facts at first, want 4", n)
	}
	driver := filepath.Join(cfg.Sysfs, "bus/pci/devices/0000:01:00.0/driver")
	if err := os.Remove(driver); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../vfio-pci", driver); err != nil {
		t.Fatal(err)
	}
	if n := len(look(30_000)); n != 0 {
		t.Errorf("%d facts within a minute", n)
	}
	rows := look(60_001)
	if len(rows) != 2 || rows[0]["value"] != "vfio-pci" || rows[1]["name"] != "passthrough_gpus" || rows[1]["value"] != "1" {
		t.Errorf("facts: %v", rows)
	}
	if err := os.RemoveAll(filepath.Join(cfg.Sysfs, "bus/pci/devices/0000:02:00.0")); err != nil {
		t.Fatal(err)
	}
	if rows = look(120_001); len(rows) != 1 || rows[0]["subject"] != "0000:02:00.0" || rows[0]["value"] != "absent" {
		t.Errorf("facts: %v", rows)
	}
	if rows = look(180_001); len(rows) != 0 {
		t.Errorf("told again: %v", rows)
	}
	if rows = look(7 * 3600e3); len(rows) < 3 {
		t.Errorf("facts after hours: %v", rows)
	}
}

// TestNotSeen: what could not be looked at is neither absent nor unused.
func TestNotSeen(t *testing.T) {
	t.Parallel()
	cfg := host(t, map[string]map[string]string{"0000:01:00.0": gpu("nvidia", nil), "0000:02:00.0": passed(2)})
	p, s := NewPassthrough(cfg), newSink(t)
	boot := int64(1)
	look := func(state source.State, reason string, facts int) {
		t.Helper()
		if err := p.Sample(t.Context(), source.Tick{WallMs: boot, BootMs: boot}, s); err != nil {
			t.Fatal(err)
		}
		if st := s.status["passthrough"]; st.State != state || !strings.Contains(st.Reason, reason) {
			t.Errorf("status: %+v, want %s (%s)", st, state, reason)
		}
		if rows := s.rows(wire.KindFact); len(rows) != facts {
			t.Errorf("facts: %v, want %d", rows, facts)
		}
		boot += 60_001
	}
	look(source.Degraded, "1 of 2 GPUs are passed through", 5)
	devices := filepath.Join(cfg.Sysfs, "bus/pci/devices")
	// A link to itself cannot be opened by anybody, root included.
	for _, name := range []string{"class", "vendor"} {
		path := filepath.Join(devices, "0000:02:00.0", name)
		if err := os.Rename(path, path+".kept"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(name, path); err != nil {
			t.Fatal(err)
		}
		look(source.Degraded, "1 PCI devices could not be looked at: whether they are GPUs, and whose, is not seen", 0)
		if err := os.Rename(path+".kept", path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(cfg.Sysfs, "bus"), filepath.Join(cfg.Sysfs, "away")); err != nil {
		t.Fatal(err)
	}
	look(source.Unavailable, "is sysfs mounted at "+cfg.Sysfs+"?", 0)
	if err := os.Mkdir(filepath.Join(cfg.Sysfs, "bus"), 0o755); err != nil {
		t.Fatal(err)
	}
	look(source.Unavailable, "no NVIDIA GPU is on the PCI bus of this host", 4) // a machine without PCI: all are gone
}

func TestThisHost(t *testing.T) {
	t.Parallel()
	p, s := NewPassthrough(PassthroughConfig{}), newSink(t)
	if err := p.Sample(t.Context(), source.Tick{WallMs: 1, BootMs: 1}, s); err != nil {
		t.Fatal(err)
	}
	t.Log(s.status["passthrough"], s.rows(wire.KindFact))
}
