package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/flopwatch/flopwatch/cmd/flopwatch-agent/doctor"
)

// TestCheckNamesFiles: a file that is right in itself is told which of the files that it names
// are not, and its digest is on stdout alone.
func TestCheckNamesFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := os.WriteFile(open, []byte("u\np\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	target := func(file string) string {
		return fmt.Sprintf("[[bmc.target]]\nnode = %q\naddress = \"https://127.0.0.1:1\"\ncredentials_file = %q\n", filepath.Base(file), file)
	}
	text := fmt.Sprintf("cluster = \"c\"\nsite_key_file = %q\n[gpu]\nchild = %q\n[nats]\nnkey_file = %q\n%s%s", open, dir, filepath.Join(dir, "none"), target(open), target(filepath.Join(dir, "gone")))
	cmd := exec.CommandContext(t.Context(), binary(t), "-config", write(t, text), "-check")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || len(strings.TrimSpace(string(out))) != 64 {
		t.Errorf("%v: %q", err, out)
	}
	lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
	for i, want := range []string{
		"note: site_key_file: site key " + open + " can be read by others", "note: nats.nkey_file: ", "note: gpu.child: " + dir + " is no regular file",
		"note: bmc.target: bmc target \"open\": credentials ", "note: bmc.target: bmc target \"gone\": read credentials: ",
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Fatalf("line %d is not %q:\n%s", i+1, want, &errs)
		}
	}
	if len(lines) != 5 {
		t.Errorf("%d lines:\n%s", len(lines), &errs)
	}
}

// TestSiteKeyThatIsNamed: the agent makes no key where the site's own should be.
func TestSiteKeyThatIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := filepath.Join(dir, "site.key")
	text := fast(filepath.Join(dir, "data"), "nats://127.0.0.1:1", noGPU+"[metrics]\nlisten = \"\"\n")
	text = fmt.Sprintf("site_key_file = %q\n%s", key, text)
	out, err := exec.CommandContext(t.Context(), binary(t), "-config", write(t, text)).CombinedOutput()
	if err == nil || !strings.Contains(string(out), key) || !strings.Contains(string(out), "64 hex digits") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(key); err == nil {
		t.Error("a key was made")
	}
}

// TestInstrumentThatCannotBeMade: a password file that others may read costs the controllers, not
// the rest; and the next reload takes it up.
func TestInstrumentThatCannotBeMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	account := filepath.Join(dir, "account")
	if err := os.WriteFile(account, []byte("u\np\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	metrics := freePort(t)
	text := fast(filepath.Join(dir, "data"), "nats://127.0.0.1:1", fmt.Sprintf("%s[metrics]\nlisten = \"127.0.0.1:%d\"\n[kernel]\nenabled = false\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://127.0.0.1:1\"\ncredentials_file = %q\n",
		noGPU, metrics, account))
	p := start(t, write(t, text))
	state := func(s string) func() bool {
		return func() bool {
			return strings.Contains(get(t, metrics, "/metrics"), fmt.Sprintf("flopwatch_agent_instrument_state{instrument=\"bmc\",state=%q} 1", s))
		}
	}
	eventually(t, "a word of the controllers", state("unavailable"), p.log.String)
	if h := get(t, metrics, "/healthz"); !strings.Contains(h, "bmc is unavailable: it cannot be made: ") || !strings.Contains(h, account) {
		t.Errorf("health: %s", h)
	}
	samples := func(of string) float64 {
		return metric(t, metrics, fmt.Sprintf("flopwatch_agent_source_samples_total{source=%q} ", of))
	}
	eventually(t, "the host's samples", func() bool { return samples("host") > 1 }, p.log.String)
	again := func(word string) {
		t.Helper()
		before := strings.Count(p.log.String(), word)
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, word, func() bool { return strings.Count(p.log.String(), word) > before }, p.log.String)
	}
	again("the configuration was not taken up")
	if err := os.Chmod(account, 0o600); err != nil {
		t.Fatal(err)
	}
	again("sources_started=1 sources_ended=1")
	eventually(t, "a controller that is asked", func() bool { return strings.Contains(get(t, metrics, "/metrics"), "instrument=\"bmc/n\"") }, p.log.String)
	again("sources_started=0 sources_ended=0")
}

// TestDoctorLooksAtFiles: what keeps an agent from its start, and a slip of the pen in kernel-off.
func TestDoctorLooksAtFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(filepath.Join(data, "kernel-off"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ncll", "sock"} {
		if err := os.WriteFile(filepath.Join(data, "kernel-off", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := filepath.Join(dir, "site.key")
	if err := os.WriteFile(key, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	text := fmt.Sprintf("site_key_file = %q\n%s", key, fast(data, "nats://127.0.0.1:1", fmt.Sprintf("%s[kernel]\nenabled = false\n[metrics]\nlisten = %q\n", noGPU, ln.Addr())))
	r, _ := examine(t, 1, "-config", write(t, text), "-seconds", "2", "-json")
	if c := find(t, &r, "site key"); len(c) != 1 || c[0].Status != doctor.Fail || !strings.Contains(c[0].Text, "64 hex digits") {
		t.Errorf("%+v", c)
	}
	if c := find(t, &r, "metrics"); len(c) != 1 || c[0].Status != doctor.Fail || !strings.Contains(c[0].Text, "in use") {
		t.Errorf("%+v", c)
	}
	if c := find(t, &r, "kernel"); len(c) != 2 || c[0].Status != doctor.Warn || !strings.Contains(c[0].Remedy, "nccl, proc, sock, file, rdma") || c[1].Status != doctor.Info {
		t.Errorf("%+v", c)
	}
}
