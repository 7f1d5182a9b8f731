package deploy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/agent/kernel/kerneltest"
	"github.com/flopwatch/flopwatch/agent/kernel/probe"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// freePort gives an address that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nobody has connected
	return l.Addr().String()
}

// states asks an agent for the states of its instruments; nil if it does not answer.
func states(t *testing.T, addr string) map[string]string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/healthz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil
	}
	defer func() { _ = resp.Body.Close() }() // was only read
	var health struct {
		Details struct {
			Instruments map[string]string `json:"instruments"`
		} `json:"details"`
	}
	if err = json.NewDecoder(resp.Body).Decode(&health); err != nil {
		t.Fatalf("health of %s: %v", addr, err)
	}
	return health.Details.Instruments
}

// tells waits until instruments are in one of the states that are wanted of each.
func tells(t *testing.T, addr string, wants map[string]string) {
	t.Helper()
	var got map[string]string
	defer func() { t.Logf("instruments: %v", got) }()
	wait(t, "states of instruments", func() bool {
		got = states(t, addr)
		for name, want := range wants {
			if state := got[name]; state == "" || !strings.Contains(want, state) {
				return false
			}
		}
		return true
	})
}

// stubbed puts agent, child and eight fake GPUs into a folder.
func stubbed(t *testing.T, dir string) (library string) {
	t.Helper()
	_, err := exec.LookPath("gcc")
	testenv.Need(t, "cc", err)
	if library, err = nvmlstub.Build(t.Context(), dir, nvmlstub.Options{}); err != nil {
		t.Fatal(err)
	}
	m, err := nvmlstub.Create(filepath.Join(dir, nvmlstub.Shared), nvmlstub.Demo(nvmlstub.H100SXM, 8, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err = errors.Join(m.UseRealClock(200*time.Second), m.Close()); err != nil {
		t.Fatal(err)
	}
	for name, cgo := range map[string]string{"flopwatch-agent": "0", "flopwatch-nvml": "1"} {
		// As `make binaries` does it.
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w -extldflags=-Wl,-z,lazy", "-o", filepath.Join(dir, "bin", name), "./cmd/"+name)
		cmd.Dir, cmd.Env = testenv.Root(t), append(os.Environ(), "CGO_ENABLED="+cgo, "CGO_CFLAGS=-O2 -g -Wno-deprecated-declarations")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return library
}

// with sets keys of the shipped configuration of the agent.
func with(t *testing.T, values map[string]string) string {
	t.Helper()
	text := read(t, "config/flopwatch-agent.toml")
	for key, value := range values {
		was := regexp.MustCompile(`(?m)^` + key + ` = .*$`)
		if !was.MatchString(text) {
			t.Fatalf("the configuration has no key %s", key)
		}
		text = was.ReplaceAllLiteralString(text, fmt.Sprintf("%s = %q", key, value))
	}
	return text
}

// The capabilities of kernel.conf, and those of a pod by kernel.yaml, are enough for [kernel],
// and none is too many to do without. systemd's sandbox around them is TestAgentUnderSystemd's.
func TestKernelConfIsEnough(t *testing.T) {
	var need error
	if os.Geteuid() != 0 {
		need = errors.New("granting capabilities needs root")
	}
	testenv.Need(t, "root", need)
	_, err := exec.LookPath("setpriv")
	kerneltest.Need(t, "setpriv (Debian: util-linux)", err)
	kerneltest.Require(t, probe.UprobeMulti, probe.TpBTF, probe.IterFile, probe.IterVMA, probe.Ringbuf)

	m := regexp.MustCompile(`(?m)^AmbientCapabilities=(.+)$`).FindStringSubmatch(read(t, "systemd/kernel.conf"))
	if m == nil {
		t.Fatal("kernel.conf grants nothing")
	}
	granted := "-all"
	for c := range strings.FieldsSeq(m[1]) {
		granted += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	inPod := "-all"
	list := regexp.MustCompile(`(?m)^ {16}- ([A-Z_]+)$`).FindAllStringSubmatch(read(t, "kubernetes/kernel.yaml"), -1)
	for _, c := range list {
		inPod += ",+" + strings.ToLower(c[1])
	}
	if inPod != granted {
		t.Errorf("the pod gets %s, the unit %s", inPod, granted)
	}

	dir, err := os.MkdirTemp("/tmp", "flopwatch-deploy-") // where the other user can run it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // scratch
	if err = os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	library := stubbed(t, dir)
	user := []string{"--reuid=65534", "--regid=65534", "--clear-groups"}
	seen := map[string]string{"gpu": "active", "kernel/file": "active", "kernel/proc": "active", "kernel/sock": "active", "kernel/nccl": "active degraded"}
	for name, c := range map[string]struct {
		uid   int
		args  []string
		wants map[string]string
	}{
		"kernel.conf": {65534, append(user, "--inh-caps="+granted, "--ambient-caps="+granted, "--bounding-set="+granted), seen},
		"kernel.yaml": {0, []string{"--inh-caps=-all", "--bounding-set=" + inPod}, seen},
		"the unit":    {65534, append(user, "--inh-caps=-all", "--bounding-set=-all"), map[string]string{"gpu": "active", "job": "active", "host": "active", "kernel/nccl": "unavailable", "kernel/file": "degraded unavailable", "kernel/sock": "degraded", "kernel/proc": "degraded"}},
	} {
		t.Run(name, func(t *testing.T) {
			data := filepath.Join(dir, "data "+name)
			if err := errors.Join(os.Mkdir(data, 0o700), os.Chown(data, c.uid, c.uid)); err != nil {
				t.Fatal(err)
			}
			addr, file := freePort(t), filepath.Join(dir, "agent.toml")
			write(t, file, with(t, map[string]string{"data_dir": data, "library": library, "listen": addr, "url": "nats://" + freePort(t)}))
			cmd := exec.CommandContext(t.Context(), "setpriv", append(c.args, "--no-new-privs", filepath.Join(dir, "bin", "flopwatch-agent"), "-config", file)...)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Signal(os.Interrupt) // it may have ended
				if err := cmd.Wait(); err != nil {
					t.Errorf("the agent: %v", err)
				}
				t.Log(out.String())
			}()
			tells(t, addr, c.wants)
		})
	}
}
