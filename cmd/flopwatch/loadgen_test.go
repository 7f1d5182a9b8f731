package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/loadgen"
	"github.com/flopwatch/flopwatch/internal/sizing"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestLoadgenRefuses: a mistake on the command line is told before anything is started.
func TestLoadgenRefuses(t *testing.T) {
	const at = "--nats nats://127.0.0.1:1 "
	for line, want := range map[string]string{
		"":                                          "--nats URL is needed",
		at + "--local d":                            "--local starts a broker of its own",
		"--local d --nkeys k":                       "for other brokers",
		at + "--nodes 0":                            "--nodes must be more than 0",
		at + "--nodes 300000 --connections 1":       "wanted 1 to 200000",
		at + "--nodes 190000":                       "ulimit -n",
		at + "--gpus 100":                           "100 GPUs a node",
		at + "--rate 0":                             "--rate must be more than 0",
		at + "--rate 11":                            "wanted 0.01 to 10",
		at + "--seal-every 10ms":                    "sealing every 10ms",
		at + "--for -1s":                            "--for must be more than 0",
		at + "--max-lag 0s":                         "--max-lag must be more than 0",
		at + "--spool-bytes 5":                      "a spool of 5 bytes",
		at + "--prefix a.b":                         "prefix",
		at + "--watch x":                            "wanted NAME=PID",
		at + "--watch x=0":                          "wanted NAME=PID",
		at + "-o xml":                               "wanted text or json",
		at + "--nkeys k --connections 3":            "cannot share connections",
		at + "--nkeys k --token-file f":             "how each host signs in",
		at + "--token-file f --nkey-file g":         "one of --token-file",
		at + "--clickhouse ftp://x":                 "scheme",
		at + "--clickhouse http://x --database a-b": "database",
		at + "stray":                                "stray",
		at + "--no-such-flag":                       "unknown flag",
		"users --nkeys k":                           "--dir DIR are needed",
		"users --nkeys k --dir d --prefix a.b":      "prefix",
	} {
		var out bytes.Buffer
		cmd := newRootCommand()
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(append([]string{"loadgen"}, strings.Fields(line)...))
		err := cmd.ExecuteContext(t.Context())
		if _, usage := errors.AsType[usageError](err); !usage || !strings.Contains(err.Error(), want) {
			t.Errorf("loadgen %s: %v, want a usage error with %q", line, err, want)
		}
	}
}

// TestLoadgenNobody: a broker that is not there, and files that are missing, are errors that name
// them.
func TestLoadgenNobody(t *testing.T) {
	for line, want := range map[string]string{
		"--nats nats://127.0.0.1:1":                                 "nats at nats://127.0.0.1:1",
		"--nats nats://127.0.0.1:1 --token-file /nowhere/token":     "/nowhere/token",
		"--nats nats://127.0.0.1:1 --nkeys /nowhere":                "/nowhere/lg-000000.nk",
		"--nats nats://127.0.0.1:1 --clickhouse http://127.0.0.1:1": "--clickhouse",
		"--nats nats://127.0.0.1:1 --metrics 256.0.0.1:1":           "--metrics",
	} {
		var out bytes.Buffer
		cmd := newRootCommand()
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(append([]string{"loadgen"}, strings.Fields(line)...))
		err := cmd.ExecuteContext(t.Context())
		if _, usage := errors.AsType[usageError](err); err == nil || usage || !strings.Contains(err.Error(), want) {
			t.Errorf("loadgen %s: %v, want an error with %q", line, err, want)
		}
	}
}

// TestLoadgenLocal: one command starts a broker, an engine and a collector, loads them, and leaves
// none of them behind; Ctrl-C ends the seals, and what is on its way is waited for.
func TestLoadgenLocal(t *testing.T) {
	testenv.Need(t, "engine", nil)
	_, engine := binary(t)
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), product(t), "loadgen", "--local", dir, "--engine", engine, "--nodes", "4", "--gpus", "2", "--rate", "5", "--seal-every", "1s",
		"--for", "1h", "--ramp", "1s", "--max-lag", "10m", "--drain", "3m", "-o", "json", "--metrics", "127.0.0.1:0")
	var stdout bytes.Buffer
	var stderr shared
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the command
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(stderr.String(), "frames sealed") {
		select {
		case err := <-ended:
			t.Fatalf("%v\n%s", err, stderr.String())
		case <-tick.C:
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	err := <-ended
	var r loadgen.Report
	if jerr := json.Unmarshal(stdout.Bytes(), &r); jerr != nil {
		t.Fatalf("%v, %v: %s\n%s", err, jerr, stdout.String(), stderr.String())
	}
	late := len(r.Verdict) == 1 && strings.HasPrefix(r.Verdict[0], loadgen.ErrLate.Error())
	if err != nil && !late || r.Frames.Sealed == 0 || r.Frames.Committed != r.Frames.Sealed || r.Store == nil || r.Store.Missing != 0 || len(r.CPU) != 4 {
		t.Errorf("%v, %+v\n%s", err, r, stderr.String())
	}
	for _, name := range []string{"nats", "clickhouse", "collector"} {
		if _, serr := os.Stat(filepath.Join(dir, name+".log")); serr != nil {
			t.Error(serr)
		}
	}
}

// TestSizeCommand: the answer is the arithmetic's, in words, as JSON and as the page.
func TestSizeCommand(t *testing.T) {
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := newRootCommand()
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(append([]string{"size"}, args...))
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	text, err := run("--gpus", "20000", "--gpus-per-host", "4")
	if err != nil || !strings.Contains(text, "hosts") || !strings.Contains(text, "5,000") || !strings.Contains(text, "assumed: ") {
		t.Errorf("%v\n%s", err, text)
	}
	text, err = run("--gpus", "20000", "-o", "json")
	var n sizing.Need
	if jerr := json.Unmarshal([]byte(text), &n); err != nil || jerr != nil || n.Hosts != 2500 || n.Fleet.StoreReplicas != 2 {
		t.Errorf("%v, %v: %s", err, jerr, text)
	}
	page, err := sizing.Page()
	if text, perr := run("--page"); err != nil || perr != nil || text != page {
		t.Errorf("%v, %v", err, perr)
	}
	for line, want := range map[string]string{"": "--gpus N is needed", "--gpus -4": "GPUs", "--gpus 5 --rate 0.001": "samples", "--gpus 5 -o xml": "text or json", "--gpus 5 --broker-replicas 2": "1, 3 or 5",
		"--gpus 0": "--gpus 0: wanted more than 0", "--gpus 5 --rate 0": "--rate 0: wanted more than 0", "--gpus 5 --raw-days 0": "--raw-days 0: wanted more than 0"} {
		_, err := run(strings.Fields(line)...)
		if _, usage := errors.AsType[usageError](err); !usage || !strings.Contains(err.Error(), want) {
			t.Errorf("size %s: %v, want a usage error with %q", line, err, want)
		}
	}
}
