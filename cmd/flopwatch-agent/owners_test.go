package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
)

// TestOwners: whose a GPU is stands on the page where the site says so, and nowhere else.
func TestOwners(t *testing.T) {
	child(t)
	dir := t.TempDir()
	library, err := nvmlstub.Build(t.Context(), dir, nvmlstub.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mem, err := nvmlstub.Create(filepath.Join(dir, nvmlstub.Shared), nvmlstub.Demo(nvmlstub.H100SXM, 2, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	slurm := filepath.Join(dir, "slurm")
	if err := os.Mkdir(slurm, 0o755); err != nil {
		t.Fatal(err)
	}
	metrics := freePort(t)
	with := func(owners bool) string {
		return fast(filepath.Join(dir, "data"), "nats://127.0.0.1:1", fmt.Sprintf(
			"[metrics]\nlisten = \"127.0.0.1:%d\"\ngpu = true\nowners = %v\n[gpu]\nlibrary = %q\n[job]\nslurm_dir = %q\n[kernel]\nenabled = false\n", metrics, owners, library, slurm))
	}
	config := write(t, with(true))
	p := start(t, config)
	sample := regexp.MustCompile(`(?m)^DCGM_FI_DEV_GPU_UTIL\{.*gpu="1".*$`)
	line := func() string { return sample.FindString(get(t, metrics, "/metrics")) }
	eventually(t, "a GPU on the page", func() bool { return line() != "" }, p.log.String)
	if got := line(); strings.Contains(got, "hpc_job") || strings.Contains(got, "pod=") || strings.Contains(got, `modelName=""`) {
		t.Errorf("nobody holds it, and it is known: %s", got)
	}
	uuid := regexp.MustCompile(`UUID="([^"]*)"`).FindStringSubmatch(line())[1]
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(slurm, "4711")
	text := fmt.Sprintf("flopwatch-slurm 1\njob_id 4711\nboot_id %s\nuser alice-in-clear\ngpus %s\nend\n", strings.TrimSpace(string(boot)), uuid)
	if err := os.WriteFile(filepath.Join(slurm, ".4711"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(slurm, ".4711"), file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its holder", func() bool { return strings.Contains(line(), `hpc_job="4711"`) }, p.log.String)
	for _, owners := range []bool{false, true} {
		if err := os.WriteFile(config, []byte(with(owners)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the configuration to be taken up", func() bool { return strings.Contains(line(), "hpc_job") == owners }, p.log.String)
	}
	if page := get(t, metrics, "/metrics"); strings.Contains(page, "alice") {
		t.Error("a user's name is on the page")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its end", func() bool { l := line(); return l != "" && !strings.Contains(l, "hpc_job") }, p.log.String)
}
