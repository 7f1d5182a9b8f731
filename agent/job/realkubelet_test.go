package job

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// buildKubelet builds gRPC's and Kubernetes' own code for the kubelet's sockets. It is a module
// of its own, whose modules have to be fetched: "kubelet" in FLOPWATCH_REQUIRE forbids that a
// test is skipped for want of them.
func buildKubelet(t *testing.T) (exe string) {
	t.Helper()
	exe = filepath.Join(t.TempDir(), "testkubelet")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", exe, ".")
	build.Dir = "testkubelet"
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Logf("%s", out)
		testenv.Need(t, "kubelet", err)
	}
	return exe
}

// realKubelet starts it on a socket.
func realKubelet(t *testing.T, exe, pods string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubelet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "k.sock")
	cmd := exec.CommandContext(t.Context(), exe, socket, pods)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, rerr := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("it says %q, %v", line, rerr)
	}
	return socket
}

// What is made and read by hand here is what Kubernetes' own code makes and reads.
func TestRealKubelet(t *testing.T) {
	t.Parallel()
	exe := buildKubelet(t)
	for _, c := range []struct {
		name, pods string
	}{
		{"110 pods", "107"}, {"5 MiB", "10000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.driverFiles()
			socket := realKubelet(t, exe, c.pods)
			f.j = New(Config{Procfs: f.root, Passwd: filepath.Join(f.root, "passwd"), Devices: threeGPUs(), PodResources: socket, PodsAPI: socket}, f.l)
			t.Cleanup(func() { _ = f.j.Close() })
			f.process(10, "python3", 1, 100, 1000, "0::/kubepods.slice/kubepods-pod"+under+".slice/cri-containerd-"+cid+".scope\n")
			f.l.set(10, 0)
			f.settle(1)
			f.settle(70)
			if c.pods != "107" {
				lean(t, f.j.kubelet.resources.caller)
			}
			rows := strings.Join([]string{
				gpu0 + "|" + uid + "|0|podresources|9900|ai|train-0|main",
				gpu1 + "|" + md5ID + "|1|dra|9405|ai|claims|main",
				mig0 + "|" + uid2 + "|2|podresources|9900|ai|mig|one",
			}, "\n")
			got := f.s.held("gpu_uuid", "job_id", "gpu", "evidence", "confidence_e4", "project_hash", "workload_hash", "container")
			if c.pods == "107" {
				f.want("holds", lastLines(got, 3), rows)
				if n := len(f.j.kubelet.names); n != 110 {
					t.Errorf("%d pods, want 110", n)
				}
				f.want("process", lastLines(f.s.fields("pid", "job_id", "evidence", "project_hash", "container"), 1), "10|"+uid+"|cgroup|ai|main")
			} else if st := f.s.parts[partPods]; !strings.Contains(got, gpu0) || st.State != source.Degraded || !strings.Contains(st.Reason, "pods beyond the first 4096 are left out") {
				t.Errorf("%s, %+v", got, f.s.parts)
			}
			if st := f.s.parts[partResources]; st.State != source.Active {
				t.Errorf("%+v", st)
			}
		})
	}
}

// lean asks once more, and logs how much memory a large reply takes.
func lean(t *testing.T, c *caller) {
	t.Helper()
	var peak uint64
	n, bytes := 0, 0
	if _, err := c.list(t.Context(), listPods, func(item []byte) error {
		n, bytes = n+1, bytes+len(item)
		if n%1000 == 0 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if bytes < 4<<20 {
		t.Errorf("the reply has %d bytes", bytes)
	}
	t.Logf("a reply of %d bytes: the heap of all tests is at most %d KiB", bytes, peak>>10)
}

func lastLines(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
