package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/flopwatch/flopwatch/agent/bmc/fakebmc"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
)

// descriptors counts what a process has open, by what it is; those that come and go with a
// tick, a scrape or a question to a controller are left out.
func descriptors(t *testing.T, pid int) map[string]int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, e := range list {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		switch {
		case err != nil, strings.HasPrefix(to, "socket:"), strings.HasPrefix(to, "/proc/"), strings.HasPrefix(to, "/sys/"):
			continue
		case strings.HasPrefix(to, "pipe:"):
			to = "pipe"
		}
		out[to]++
	}
	return out
}

// TestReloads: whatever is switched off and on again, in whichever order, works again, takes
// nothing else with it, and leaves nothing behind.
func TestReloads(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a while")
	}
	child(t)
	dir := t.TempDir()
	library, err := nvmlstub.Build(t.Context(), dir, nvmlstub.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mem, err := nvmlstub.Create(filepath.Join(dir, nvmlstub.Shared), nvmlstub.Demo(nvmlstub.H100SXM, 8, uint32(os.Getpid())))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	controller, err := fakebmc.Start(fakebmc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer controller.Close()
	account := filepath.Join(dir, "account")
	if err := os.WriteFile(account, []byte("admin\nsecret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	metrics := freePort(t)
	target := fmt.Sprintf("[[bmc.target]]\nnode = \"n2\"\naddress = %q\ncredentials_file = %q\nfingerprint = %q\ninterval = \"10s\"\n", controller.URL(), account, controller.Fingerprint())
	// with is the file with some of its sections changed.
	with := func(change map[string]string) string {
		sections := map[string]string{
			"metrics": fmt.Sprintf("listen = \"127.0.0.1:%d\"\n", metrics), "gpu": fmt.Sprintf("library = %q\n", library),
			"kernel": "", "job": "", "fabric": "", "host": "", "burst": "", "bmc": target,
		}
		maps.Copy(sections, change)
		var b strings.Builder
		for _, name := range []string{"metrics", "gpu", "kernel", "job", "fabric", "host", "burst"} {
			fmt.Fprintf(&b, "[%s]\n%s", name, sections[name])
		}
		return fast(filepath.Join(dir, "data"), "nats://127.0.0.1:1", b.String()+sections["bmc"])
	}
	config := write(t, with(nil))
	p := start(t, config)
	page := func() string { return get(t, metrics, "/metrics") }
	shows := func(series string) func() bool { return func() bool { return strings.Contains(page(), "\n"+series) } }
	samples := func(source string) float64 {
		return metric(t, metrics, fmt.Sprintf("flopwatch_agent_source_samples_total{source=%q} ", source))
	}
	loaded := func() bool { // each feature has come, or has said why not
		now := page()
		for _, f := range []string{"nccl", "proc", "sock", "file", "rdma"} {
			active := fmt.Sprintf("flopwatch_agent_kernel_feature_state{feature=%q,state=\"active\"} 1", f)
			looked := fmt.Sprintf("flopwatch_agent_kernel_samples_total{feature=%q} 0\n", f)
			gone := fmt.Sprintf("flopwatch_agent_kernel_feature_state{feature=%q,state=\"unavailable\"} 1", f)
			if !strings.Contains(now, active) && !strings.Contains(now, gone) && strings.Contains(now, looked) || !strings.Contains(now, "feature=\""+f+"\"") {
				return false
			}
		}
		return true
	}
	all := []string{"gpu", "job", "fabric", "kernel", "bmc", "passthrough", "host"}
	well := func(except ...string) {
		t.Helper()
		off := map[string]bool{}
		for _, e := range except {
			off[e] = true
		}
		for _, name := range all {
			if off[name] {
				eventually(t, "end of "+name, func() bool { return samples(name) < 0 }, p.log.String)
				continue
			}
			before := max(samples(name), 0)
			eventually(t, "sample of "+name, func() bool { return samples(name) > before }, p.log.String)
		}
	}
	reload := func(text, word string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		before := strings.Count(p.log.String(), word)
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, word, func() bool { return strings.Count(p.log.String(), word) > before }, p.log.String)
	}
	taken := "configuration taken up"
	well()
	eventually(t, "features of the kernel", loaded, p.log.String)
	goroutines := func() float64 { return metric(t, metrics, "go_goroutines ") }
	pid := p.cmd.Process.Pid
	first, firstGo := descriptors(t, pid), goroutines()
	const off = "enabled = false\n"
	reloads := 0
	for round := range 2 {
		for _, c := range []struct {
			change map[string]string
			off    []string
			gone   string // a series that is not there
		}{
			{map[string]string{"kernel": off}, []string{"kernel"}, "flopwatch_agent_kernel_samples_total"},
			{map[string]string{"job": off}, []string{"job"}, ""},
			{map[string]string{"gpu": off, "bmc": ""}, []string{"gpu", "job", "passthrough", "bmc"}, "flopwatch_agent_nvml_starts_total"},
			{map[string]string{"kernel": "nccl = false\nrdma = false\n", "fabric": off, "burst": "every = \"1m\"\nlength = \"30s\"\n"}, []string{"fabric"},
				`flopwatch_agent_kernel_samples_total{feature="nccl"}`},
			{map[string]string{"host": "procfs = \"/proc/.\"\n", "job": "podresources = \"\"\nslurm_dir = \"\"\n", "gpu": fmt.Sprintf("library = %q\nevents = false\nslow_interval = \"30s\"\n", library)}, nil, ""},
		} {
			reload(with(c.change), taken)
			well(c.off...)
			if c.gone != "" && shows(c.gone)() {
				t.Errorf("%s is still there", c.gone)
			}
			reload(with(nil), taken)
			well()
			reloads += 2
		}
		// A mistake, or what only a new process can change, leaves all as it is.
		digest := func() string {
			_, rest, _ := strings.Cut(page(), "\nflopwatch_agent_config_info{")
			line, _, _ := strings.Cut(rest, "\n")
			return line
		}
		before, starts := digest(), metric(t, metrics, "flopwatch_agent_nvml_starts_total ")
		for _, text := range []string{
			with(map[string]string{"kernel": off + "max_load = 7.0\n"}), with(map[string]string{"bmc": strings.Replace(target, account, "/nowhere/account", 1), "gpu": off}),
			with(map[string]string{"metrics": "listen = \"127.0.0.1:1\"\n", "fabric": off}),
		} {
			reload(text, "the configuration was not taken up; the old one holds")
		}
		well()
		if digest() != before || metric(t, metrics, "flopwatch_agent_nvml_starts_total ") != starts {
			t.Errorf("round %d: a mistake has changed something:\n%s", round, p.log)
		}
		reload(with(nil), taken)
	}
	eventually(t, "features of the kernel", loaded, p.log.String)
	left := func() string {
		var b strings.Builder
		now := descriptors(t, pid)
		for what, n := range now {
			if n > first[what] {
				fmt.Fprintf(&b, "%d of %s, %d at first; ", n, what, first[what])
			}
		}
		if g := goroutines(); g > firstGo+4 {
			fmt.Fprintf(&b, "%v goroutines, %v at first", g, firstGo)
		}
		return b.String()
	}
	eventually(t, fmt.Sprintf("end of what %d reloads began", reloads), func() bool { return left() == "" }, left)
	if n := controller.Counts().Open; n > 1 {
		t.Errorf("%d sessions are open at the controller", n)
	}
	p.stop()
	if log := p.log.String(); strings.Contains(log, "panic") || strings.Contains(log, "left behind") {
		t.Errorf("log:\n%s", log)
	}
}

// TestExits: ends of processes that a feature saw wait for who asks, in bounds, also when the
// feature ends meanwhile.
func TestExits(t *testing.T) {
	var e exits
	if got := e.TakeExits(nil); len(got) > 0 {
		t.Errorf("%v without a feature", got)
	}
	cfg := defaults()
	inst := &instruments{}
	all := inst.all(cfg)
	first := inst.bpf.Load()
	if len(all) == 0 || first == nil || first.ends == nil || inst.exits.queue != first.ends {
		t.Fatalf("%+v", first)
	}
	collectives := func() string { what, _ := inst.CollectivesOf(1); return what }
	if collectives() != "" || inst.exits.TakeExits(nil) != nil {
		t.Error("something is known of what nobody has looked at")
	}
	off := cfg
	off.Kernel.Enabled = false
	_, done, err := inst.change(cfg, off)
	if err != nil {
		t.Fatal(err)
	}
	if inst.exits.queue != first.ends {
		t.Error("changed before its time")
	}
	done()
	if inst.exits.queue != nil || inst.bpf.Load() != nil || collectives() != "" || inst.kernel() != nil {
		t.Error("what is switched off is asked")
	}
	_, done, err = inst.change(off, cfg)
	if err != nil {
		t.Fatal(err)
	}
	done()
	if now := inst.bpf.Load(); now == nil || now == first || inst.exits.queue != now.ends || len(inst.kernel()) != 5 {
		t.Error("what is switched on again is not asked")
	}
	_, done, err = inst.change(cfg, cfg)
	if err != nil {
		t.Fatal(err)
	}
	done()
	if inst.bpf.Load() == nil {
		t.Error("a reload that changes nothing switches it off")
	}
}
