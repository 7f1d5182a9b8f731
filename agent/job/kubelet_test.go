package job

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
)

// msg makes messages of protocol buffers, by hand: what real kubelets write is checked by
// TestRealKubelet.
type msg []byte

func (m msg) bytes(field int, v string) msg {
	m = binary.AppendUvarint(m, uint64(field)<<3|2)
	m = binary.AppendUvarint(m, uint64(len(v)))
	return append(m, v...)
}

func (m msg) num(field int, v uint64) msg {
	return binary.AppendUvarint(binary.AppendUvarint(m, uint64(field)<<3), v)
}

// held is what a container of a pod holds, as resource=id,id or dra:driver=device@cdi.
func podHolds(namespace, pod string, containers ...string) string {
	m := msg{}.bytes(1, pod).bytes(2, namespace).num(4, 7)
	for _, c := range containers {
		name, rest, _ := strings.Cut(c, " ")
		cm := msg{}.bytes(1, name).num(3, 5)
		for one := range strings.FieldsSeq(rest) {
			if claim, ok := strings.CutPrefix(one, "dra:"); ok {
				driver, dev, _ := strings.Cut(claim, "/")
				dev, cdi, _ := strings.Cut(dev, "@")
				res := msg{}.bytes(2, driver).bytes(3, "node-1").bytes(4, dev)
				if cdi != "" {
					res = res.bytes(1, string(msg{}.bytes(1, cdi)))
				}
				cm = cm.bytes(5, string(msg{}.bytes(2, "claim").bytes(3, namespace).bytes(4, string(res))))
				continue
			}
			resource, ids, _ := strings.Cut(one, "=")
			dm := msg{}.bytes(1, resource)
			for id := range strings.SplitSeq(ids, ",") {
				dm = dm.bytes(2, id)
			}
			cm = cm.bytes(2, string(dm.bytes(3, string(msg{}.bytes(1, string(msg{}.num(1, 0)))))))
		}
		m = m.bytes(3, string(cm.bytes(4, string(msg{}.bytes(1, "memory").num(2, 1<<40)))))
	}
	return string(m)
}

// podBytes is a Pod of the core API.
func podBytes(namespace, pod, uid, phase string, containers ...string) string {
	status := msg{}.bytes(1, phase)
	for i := 0; i+1 < len(containers); i += 2 {
		status = status.bytes(8, string(msg{}.bytes(1, containers[i]).bytes(8, "containerd://"+containers[i+1])))
	}
	spec := msg{}.bytes(2, string(msg{}.bytes(1, "c").bytes(7, string(msg{}.bytes(1, "API_KEY").bytes(2, "secret")))))
	return string(msg{}.bytes(1, string(msg{}.bytes(1, pod).bytes(3, namespace).bytes(5, uid))).bytes(2, string(spec)).bytes(3, string(status)))
}

// kubeletServer answers as a kubelet does, over HTTP/2 without TLS on a unix socket.
type kubeletServer struct {
	path  string
	asked atomic.Int64

	mu      sync.Mutex
	replies map[string][]string // entries by method
	status  string              // gRPC status to end with; "": 0
	raw     func(w http.ResponseWriter)
	server  *http.Server
}

func newKubeletServer(t testing.TB, path string) *kubeletServer {
	k := &kubeletServer{path: path, replies: map[string][]string{}}
	k.up(t)
	t.Cleanup(k.down)
	return k
}

func (k *kubeletServer) up(t testing.TB) {
	t.Helper()
	_ = os.Remove(k.path)
	l, err := net.Listen("unix", k.path)
	if err != nil {
		t.Fatal(err)
	}
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	k.server = &http.Server{Handler: k, Protocols: p}
	go k.server.Serve(l)
}

func (k *kubeletServer) down() { _ = k.server.Close() }

func (k *kubeletServer) set(method string, entries ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.replies[method] = entries
}

func (k *kubeletServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.asked.Add(1)
	k.mu.Lock()
	entries, known := k.replies[r.URL.Path]
	status, raw := k.status, k.raw
	k.mu.Unlock()
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/grpc" || r.Header.Get("Te") != "trailers" || r.ProtoMajor != 2 {
		http.Error(w, "not gRPC", http.StatusTeapot)
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	switch {
	case raw != nil:
		raw(w)
		return
	case !known:
		w.Header().Set("Grpc-Status", "12")
		w.Header().Set("Grpc-Message", "unknown method%21")
		return
	}
	w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
	var body msg
	for _, e := range entries {
		body = body.bytes(1, e)
	}
	head := make([]byte, 5)
	binary.BigEndian.PutUint32(head[1:], uint32(len(body)))
	_, _ = w.Write(append(head, body...))
	w.Header().Set("Grpc-Message", "no")
	if status == "" {
		status = "0"
	}
	w.Header().Set("Grpc-Status", status)
}

const (
	gpu0 = "GPU-00000000-1111-2222-3333-444444444444"
	gpu1 = "GPU-11111111-1111-2222-3333-444444444444"
	gpu2 = "GPU-22222222-1111-2222-3333-444444444444"
	mig0 = "MIG-aaaaaaaa-1111-2222-3333-444444444444"
	mig1 = "MIG-bbbbbbbb-1111-2222-3333-444444444444"
	uid2 = "7d4f8a1e-9b2c-4e3d-8f70-112233445566"
	boot = "11111111-2222-3333-4444-555555555555"
)

// gpus is a host's devices. Minors run against the indexes.
type gpus struct {
	list []source.GPUDevice
	ok   bool
}

func (g *gpus) GPUDevices() ([]source.GPUDevice, bool) { return g.list, g.ok }

func threeGPUs() *gpus {
	return &gpus{ok: true, list: []source.GPUDevice{
		{Index: 0, UUID: gpu0, PCIBusID: "0000:1b:00.0"}, {Index: 1, UUID: gpu1, PCIBusID: "0000:3d:00.0"},
		{Index: 2, UUID: gpu2, PCIBusID: "0000:5e:00.0", Instances: []source.GPUInstance{{UUID: mig0, GI: 3, CI: 0}, {UUID: mig1, GI: 4, CI: 0}}},
	}}
}

// driverFiles writes the driver's files, in which minors run against the indexes.
func (f *fixture) driverFiles() {
	for i, g := range []string{gpu2, gpu1, gpu0} {
		bus := []string{"0000:5e:00.0", "0000:3d:00.0", "0000:1b:00.0"}[i]
		f.write("driver/nvidia/gpus/"+bus+"/information", fmt.Sprintf("Model: \t\t NVIDIA H100\nIRQ:   \t\t 16\nGPU UUID: \t %s\nBus Location: \t %s\nDevice Minor: \t %d\nGPU Excluded:\t No\n", g, bus, i))
	}
}

// kube is a fixture with a kubelet.
func newKube(t testing.TB) (*fixture, *kubeletServer) {
	f := newFixture(t)
	f.driverFiles()
	dir, err := os.MkdirTemp("", "kubelet") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	k := newKubeletServer(t, filepath.Join(dir, "k.sock"))
	k.set(listPods)
	k.set(podsAPIMethod)
	f.j = New(Config{
		Procfs: f.root, Passwd: filepath.Join(f.root, "passwd"), Devices: threeGPUs(), PodResources: k.path, PodsAPI: k.path,
		StateFile: filepath.Join(f.root, "processes.json"), BootID: boot,
	}, f.l)
	t.Cleanup(func() { _ = f.j.Close() })
	return f, k
}

// settle lets a fixture's kubelet answer: it passes a tick in which questions are asked,
// waits for the answers, and passes one that takes them.
func (f *fixture) settle(seconds int64) {
	f.t.Helper()
	f.wall += (seconds - 1) * 1000
	f.boot += (seconds - 1) * 1000
	f.sample()
	for _, s := range []*service{f.j.kubelet.resources, f.j.kubelet.pods} {
		if s != nil {
			s.running.Wait()
		}
	}
	f.sample()
}

// sample is tick without reading rows.
func (f *fixture) sample() {
	f.t.Helper()
	f.wall += 1000
	f.boot += 1000
	if err := f.j.Sample(f.t.Context(), source.Tick{WallMs: f.wall, BootMs: f.boot}, f.s); err != nil {
		f.t.Fatal(err)
	}
}

// Every way in which GPUs are named: whole, MIG, time-sliced, GKE's, by index, under DRA.
// dcgm-exporter issues 151, 411, 432, 569.
func TestKubeletDevices(t *testing.T) {
	t.Parallel()
	f, k := newKube(t)
	k.set(podsAPIMethod, podBytes("ai", "a", uid, "Running"), podBytes("ai", "b", uid2, "Running"))
	for _, c := range []struct{ name, held, want string }{
		{"whole", "main nvidia.com/gpu=" + gpu0, gpu0 + "|0|podresources|9900|1|" + gpu0},
		{"a resource of any name", "main nvidia.com/a100-shared=" + gpu1, gpu1 + "|1|podresources|9900|1|" + gpu1},
		{"of another vendor's name", "main example.com/h100=" + gpu1, gpu1 + "|1|podresources|9900|1|" + gpu1},
		{"MIG", "main nvidia.com/mig-1g.10gb=" + mig1, mig1 + "|2|podresources|9900|1|" + mig1},
		{"MIG, the old form", "main nvidia.com/mig-1g.10gb=MIG-" + gpu2 + "/3/0", mig0 + "|2|podresources|9900|1|MIG-" + gpu2 + "/3/0"},
		{"a slice", "main nvidia.com/gpu.shared=" + gpu0 + "::3", gpu0 + "|0|podresources|9900|1|" + gpu0 + "::3"},
		{"two slices of one", "main nvidia.com/gpu=" + gpu0 + "::3," + gpu0 + "::1", gpu0 + "|0|podresources|9900|1|" + gpu0 + "::1 " + gpu0 + "::3"},
		{"a slice of a MIG device", "main nvidia.com/mig-1g.10gb.shared=" + mig0 + "::0", mig0 + "|2|podresources|9900|1|" + mig0 + "::0"},
		{"GKE: the minor, not the index", "main nvidia.com/gpu=nvidia0", gpu2 + "|2|podresources|9405|1|nvidia0"},
		{"GKE, shared", "main nvidia.com/gpu=nvidia2/vgpu1", gpu0 + "|0|podresources|9405|1|nvidia2/vgpu1"},
		{"GKE, MIG", "main nvidia.com/gpu=nvidia0/gi4", mig1 + "|2|podresources|9405|1|nvidia0/gi4"},
		{"GKE, MIG, shared", "main nvidia.com/gpu=nvidia0/gi3/vgpu0", mig0 + "|2|podresources|9405|1|nvidia0/gi3/vgpu0"},
		{"by index", "main nvidia.com/gpu=1", gpu1 + "|1|podresources|8910|1|1"},
		{"by index, MIG", "main nvidia.com/mig-1g.10gb=2:1", mig1 + "|2|podresources|8910|1|2:1"},
		{"by index, a slice", "main nvidia.com/gpu=1::2", gpu1 + "|1|podresources|8910|1|1::2"},
		{"a group of the IOMMU is no index", "main nvidia.com/GH100_H100=1", ""},
		{"not a GPU", "main rdma/hca=1 intel.com/sgx=2 smarter-devices/fuse=GPU-x", ""},
		{"no such GPU", "main nvidia.com/gpu=9,nvidia7,nvidia0/gi9,2:7,1:0,x", ""},
		{"DRA: the minor", "main dra:gpu.nvidia.com/gpu-0", gpu2 + "|2|dra|9405|1|gpu-0"},
		{"DRA, CDI with UUID", "main dra:gpu.nvidia.com/gpu-7@k8s.gpu.nvidia.com/device=" + gpu1, gpu1 + "|1|dra|9900|1|k8s.gpu.nvidia.com/device=" + gpu1},
		{"DRA, CDI of a claim alone", "main dra:gpu.nvidia.com/@k8s.gpu.nvidia.com/claim=0b5e-gpu-1", gpu1 + "|1|dra|9405|1|k8s.gpu.nvidia.com/claim=0b5e-gpu-1"},
		{"DRA, CDI by index", "main dra:gpu.nvidia.com/@nvidia.com/gpu=0", gpu0 + "|0|dra|8910|1|nvidia.com/gpu=0"},
		{"DRA, MIG: of that GPU, not known which", "main dra:gpu.nvidia.com/gpu-0-mig-1g.10gb-19-0", gpu2 + "|2|dra|4950|1|gpu-0-mig-1g.10gb-19-0"},
		{"DRA, another driver", "main dra:nic.example.com/gpu-0", ""},
	} {
		k.set(listPods, podHolds("ai", "a", c.held), podHolds("kube-system", "proxy", "proxy"))
		f.s.holds.Reset()
		f.settle(20)
		got := ""
		for row := range strings.SplitSeq(f.s.held("gpu_uuid", "gpu", "evidence", "confidence_e4", "shares", "device", "end_ms", "job_source", "job_id", "project_hash", "workload_hash", "container"), "\n") {
			if head, ok := strings.CutSuffix(row, "|-|kubernetes|"+uid+"|ai|a|main"); ok {
				got += head
			}
		}
		f.want(c.name, got, c.want)
		k.set(listPods)
		f.settle(20)
		f.settle(20) // all ends
	}
	f.want("what ended", strconv.Itoa(len(f.j.holds.known)), "0")
}

// Who shares a GPU is never given the whole of it, and none of the sharers is taken for the
// owner of a process. dcgm-exporter issues 307, 432, 582, 587.
func TestSharers(t *testing.T) {
	t.Parallel()
	f, k := newKube(t)
	k.set(podsAPIMethod, podBytes("ai", "a", uid, "Running"), podBytes("ai", "b", uid2, "Running"))
	k.set(listPods, podHolds("ai", "a", "one nvidia.com/gpu="+gpu0+"::0", "two nvidia.com/gpu="+gpu0+"::1"))
	f.process(10, "python3", 1, 100, 1000, "0::/../cri-containerd-"+cid+".scope\n")
	f.l.set(10, 0)
	f.settle(20)
	fields := []string{"gpu_uuid", "job_id", "confidence_e4", "shares", "end_ms", "container"}
	rows := f.s.held(fields...)
	f.want("alone", rows[strings.LastIndex(rows, "\n")+1:], gpu0+"|"+uid+"|9900|1|-|one two")
	all := f.s.fields("pid", "job_id", "evidence", "confidence_e4", "project_hash")
	f.want("its process", all[strings.LastIndex(all, "\n")+1:], "10|"+uid+"|podresources|8000|ai")
	k.set(listPods, podHolds("ai", "a", "one nvidia.com/gpu="+gpu0+"::0", "two nvidia.com/gpu="+gpu0+"::1"), podHolds("ai", "b", "one nvidia.com/gpu="+gpu0+"::2"))
	f.settle(20)
	f.want("shared", f.s.held(fields...), gpu0+"|"+uid+"|4950|2|-|one two\n"+gpu0+"|"+uid2+"|4950|2|-|one")
	f.want("the process was there before", f.s.take(), "")
	f.process(12, "python3", 1, 92_000, 1000, "0::/../cri-containerd-"+cid+".scope\n")
	f.l.set(10, 0, 12, 0)
	f.sample()
	f.want("whose another is, is not known", f.s.fields("pid", "job_source", "job_id", "evidence", "confidence_e4"), "12|kubernetes|-|-|-")
	k.set(listPods, podHolds("ai", "b", "one nvidia.com/gpu="+gpu0+"::2"))
	f.settle(20)
	f.want("one goes", f.s.held(fields...), gpu0+"|"+uid+"|4950|2|"+strconv.FormatInt(f.wall, 10)+"|one two\n"+gpu0+"|"+uid2+"|9900|1|-|one")
	f.want("that changes nothing of who came before", f.s.take(), "")
	f.process(14, "python3", 1, 96_500, 1000, "0::/../cri-containerd-"+cid+".scope\n")
	f.l.set(10, 0, 12, 0, 14, 0)
	f.sample()
	f.want("but who comes now is the other's", f.s.fields("pid", "job_id", "evidence", "confidence_e4"), "14|"+uid2+"|podresources|8000")
	// A process whose control group names another is never the holder's.
	f.process(11, "python3", 1, 100, 1000, "0::/system.slice/nvidia-dcgm.service\n")
	f.l.set(10, 0, 12, 0, 14, 0, 11, 0)
	f.sample()
	f.want("a process of the host", f.s.fields("pid", "job_source", "job_id", "evidence", "confidence_e4"), "11|systemd|nvidia-dcgm.service|cgroup|8000")
}

// A GPU that nobody holds has no row, and one that is held has one whether it works or not.
func TestHeldAndIdle(t *testing.T) {
	t.Parallel()
	f, k := newKube(t)
	k.set(podsAPIMethod, podBytes("ai", "a", uid, "Running"))
	k.set(listPods, podHolds("ai", "a", "main nvidia.com/gpu="+gpu1))
	f.settle(20)
	start := f.wall
	want := fmt.Sprintf("%d|%s|kubernetes|%s|1|", start, gpu1, uid)
	f.want("held, no process", f.s.held(), want+"-|podresources|9900|1")
	f.want("processes", f.s.take(), "")
	f.settle(20)
	f.want("nothing new", f.s.held(), "")
	for range 15 {
		f.settle(20)
	}
	f.want("it was seen since", f.s.held("start_ms", "seen_ms", "end_ms"), fmt.Sprintf("%d|%d|-", start, start+15*21_000))
	seen := f.j.kubelet.devicesMs
	// Nobody answers: nothing has ended.
	k.mu.Lock()
	k.status = "14"
	k.mu.Unlock()
	f.settle(20)
	f.settle(20)
	f.want("no answer", f.s.held(), "")
	if st := f.s.parts[partResources]; st.State != source.Lost || !strings.Contains(st.Reason, "gRPC status 14: no") {
		t.Errorf("status %+v", st)
	}
	k.mu.Lock()
	k.status = ""
	k.mu.Unlock()
	k.set(listPods)
	f.settle(20)
	f.settle(20)
	f.want("let go of, while nobody answered: it lasted as long as it was seen", f.s.held(), want+fmt.Sprintf("%d|podresources|9900|1", seen))
	if st := f.s.parts[partResources]; st.State != source.Active {
		t.Errorf("status %+v", st)
	}
}

// A pod is known by its namespace and name before its UID is: the name leaves in no row but
// as what is hashed, and the hold goes on under the UID.
func TestPodsWithoutUID(t *testing.T) {
	t.Parallel()
	f, k := newKube(t)
	k.set(listPods, podHolds("ai", "secret-name", "main nvidia.com/gpu="+gpu1))
	f.settle(20)
	start := f.wall
	row := f.s.held("start_ms", "end_ms", "job_id")
	id := row[strings.LastIndex(row, "|")+1:]
	if !strings.HasPrefix(id, "pod-") || len(id) != 20 || strings.Contains(row, "secret") {
		t.Fatalf("row %q", row)
	}
	k.set(podsAPIMethod, podBytes("ai", "secret-name", uid, "Running", "main", cid))
	f.settle(70)
	f.want("its UID", f.s.held("start_ms", "end_ms", "job_id"), fmt.Sprintf("%d|%d|%s\n%d|-|%s", start, start, id, start, uid))
	// A process by its control group: the container is named, and the namespace.
	f.process(10, "python3", 1, 100, 1000, "0::/kubepods.slice/kubepods-pod"+under+".slice/cri-containerd-"+cid+".scope\n")
	f.l.set(10, 1)
	f.sample()
	f.want("by control group", f.s.fields("job_id", "evidence", "confidence_e4", "container", "project_hash"), uid+"|cgroup|9900|main|ai")
	// The StatefulSet makes another of that name: a process of a UID that is not known makes
	// the kubelet be asked at once.
	asked := k.asked.Load()
	k.set(podsAPIMethod, podBytes("ai", "secret-name", uid, "Failed"), podBytes("ai", "secret-name", uid2, "Running", "main", cid2))
	f.kill(10)
	f.process(12, "python3", 1, 200, 1000, "0::/kubepods.slice/kubepods-pod"+strings.ReplaceAll(uid2, "-", "_")+".slice/cri-containerd-"+cid2+".scope\n")
	f.l.set(12, 1)
	f.settle(6)
	f.settle(6)
	if k.asked.Load() == asked {
		t.Error("the kubelet was not asked")
	}
	f.want("another pod of that name", f.s.held("end_ms", "job_id"), fmt.Sprintf("%d|%s\n-|%s", f.j.kubelet.devicesMs, uid, uid2))
	rows := f.s.fields("pid", "job_id", "container", "project_hash")
	f.want("its process", rows[strings.LastIndex(rows, "\n")+1:], "12|"+uid2+"|main|ai")
	// What the kubelet does not know is not asked for again and again.
	f.process(13, "python3", 1, 200, 1000, "0::/kubepods/pod"+uid[:35]+"0/"+cid+"\n")
	f.l.set(12, 1, 13, 1)
	f.settle(6)
	asked = k.asked.Load()
	for range 8 {
		f.l.seq++
		f.settle(1)
	}
	if n := k.asked.Load() - asked; n > 3 { // two for devices, one for pods
		t.Errorf("a pod that is not known made %d questions in 16 s", n)
	}
}

// A kubelet that has just started knows no pod for a while, and says that nobody has a GPU. What
// it says twice has ended, with its first word; what another has now, at once.
func TestKubeletStartsAgain(t *testing.T) {
	t.Parallel()
	f, k := newKube(t)
	k.set(podsAPIMethod, podBytes("ai", "a", uid, "Running"), podBytes("ai", "b", uid2, "Running"))
	k.set(listPods, podHolds("ai", "a", "main nvidia.com/gpu="+gpu1))
	f.settle(20)
	start := f.wall
	f.want("held", f.s.held("start_ms", "job_id", "end_ms"), fmt.Sprintf("%d|%s|-", start, uid))
	k.set(listPods)
	f.settle(20)
	f.want("it knows nobody", f.s.held("start_ms", "job_id", "end_ms"), "")
	if o, _ := f.j.holds.exclusive(gpu1); o != nil {
		t.Error("a process that starts now is the holder's, who may be gone")
	}
	k.set(listPods, podHolds("ai", "a", "main nvidia.com/gpu="+gpu1))
	f.settle(20)
	f.want("it knows again", f.s.held("start_ms", "job_id", "end_ms"), "")
	if o, _ := f.j.holds.exclusive(gpu1); o == nil {
		t.Error("nobody is the holder")
	}
	k.set(listPods, podHolds("ai", "b", "main nvidia.com/gpu="+gpu1))
	f.settle(20)
	passed := f.wall
	f.want("another has it", f.s.held("start_ms", "job_id", "end_ms", "shares"), fmt.Sprintf("%d|%s|%d|1\n%d|%s|-|1", start, uid, passed, passed, uid2))
	k.set(listPods)
	f.settle(20)
	end := f.wall
	f.want("nobody has it, once", f.s.held("start_ms", "job_id", "end_ms"), "")
	f.settle(20)
	f.want("nobody has it, twice", f.s.held("start_ms", "job_id", "end_ms"), fmt.Sprintf("%d|%s|%d", passed, uid2, end))
}

// A pod keeps its UID over agents, even if the Pods API does not answer the next one.
func TestPodsAcrossAgents(t *testing.T) {
	t.Parallel()
	f, k := newKube(t)
	k.set(podsAPIMethod, podBytes("ai", "a", uid, "Running"))
	k.set(listPods, podHolds("ai", "a", "main nvidia.com/gpu="+gpu1))
	f.settle(20)
	start := f.wall
	f.want("first agent", f.s.held("start_ms", "job_id", "end_ms"), fmt.Sprintf("%d|%s|-", start, uid))
	cfg := f.j.cfg
	if err := f.j.Close(); err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	delete(k.replies, podsAPIMethod)
	k.mu.Unlock()
	f.j = New(cfg, f.l)
	f.settle(20)
	f.settle(20)
	f.want("second agent", f.s.held("start_ms", "job_id", "end_ms"), fmt.Sprintf("%d|%s|-", start, uid))
	k.set(listPods)
	f.settle(20)
	end := f.wall
	f.settle(20)
	f.want("it ends", f.s.held("start_ms", "job_id", "end_ms"), fmt.Sprintf("%d|%s|%d", start, uid, end))
	if err := f.j.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(cfg.StateFile)
	if err != nil || strings.Contains(string(b), "gpu_uuid") {
		t.Errorf("%s, %v", b, err)
	}
}

// dcgm-exporter issue 509: replies above gRPC's usual 4 MiB are read, and cost no memory.
func TestLargeReply(t *testing.T) {
	f, k := newKube(t)
	var entries []string
	filler := "main " + strings.Repeat("vendor.example/dev="+strings.Repeat("x", 200)+" ", 200)
	for i := range 160 {
		entries = append(entries, podHolds("ai", "p"+strconv.Itoa(i), filler))
	}
	size := 0
	for _, e := range entries {
		size += len(e)
	}
	if size < 5<<20 {
		t.Fatalf("the reply has %d bytes", size)
	}
	entries = append(entries, podHolds("ai", "huge", "main "+strings.Repeat("vendor.example/dev="+strings.Repeat("x", 200)+" ", 6000)), podHolds("ai", "last", "main nvidia.com/gpu="+gpu1))
	k.set(listPods, entries...)
	f.settle(20)
	f.want("behind 5 MiB", f.s.held("gpu_uuid", "workload_hash"), gpu1+"|last")
	if st := f.s.parts[partResources]; st.State != source.Degraded || !strings.Contains(st.Reason, "1 pods are left out: what the kubelet says of each is larger than 1048576 bytes") {
		t.Errorf("status %+v", st)
	}
	// Beyond 16 MiB it is refused, and the hold stays.
	k.mu.Lock()
	k.raw = func(w http.ResponseWriter) { _, _ = w.Write([]byte{0, 1, 0, 0, 1}) }
	k.mu.Unlock()
	f.settle(20)
	f.want("too large", f.s.held(), "")
	if st := f.s.parts[partResources]; st.State != source.Lost || !strings.Contains(st.Reason, "the reply is larger than 16777216 bytes") {
		t.Errorf("status %+v", st)
	}
}

// TestManyDevices: what there is no room for is told, not dropped in silence.
func TestManyDevices(t *testing.T) {
	t.Parallel()
	f, k := newKube(t)
	var ids []string
	for i := range maxDevices {
		ids = append(ids, fmt.Sprintf("GPU-%08d-0000-0000-0000-000000000000", i))
	}
	k.set(listPods, podHolds("ai", "many", "main nvidia.com/gpu="+strings.Join(ids, ",")), podHolds("ai", "more", "main nvidia.com/gpu="+gpu0+","+gpu1))
	f.settle(20)
	if st := f.s.parts[partResources]; st.State != source.Degraded || !strings.Contains(st.Reason, "2 devices beyond the first 4096 are left out") {
		t.Errorf("status %+v", st)
	}
	k.set(listPods, podHolds("ai", "few", "main nvidia.com/gpu="+gpu0))
	f.settle(20)
	if st := f.s.parts[partResources]; st.State != source.Active {
		t.Errorf("status %+v", st)
	}
}

func TestKubeletAnswersBadly(t *testing.T) {
	t.Parallel()
	f, k := newKube(t)
	frame := func(body string, tail string) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Trailer", "Grpc-Status")
			head := make([]byte, 5)
			binary.BigEndian.PutUint32(head[1:], uint32(len(body)))
			_, _ = w.Write(append(head, body...))
			if tail != "" {
				w.Header().Set("Grpc-Status", tail)
			}
		}
	}
	good := string(msg{}.bytes(1, podHolds("ai", "a", "main nvidia.com/gpu="+gpu1)))
	for _, c := range []struct {
		name, want string
		raw        func(w http.ResponseWriter)
	}{
		{"HTTP error", "HTTP status 503", func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }},
		{"cut off", "unexpected EOF", func(w http.ResponseWriter) { _, _ = w.Write([]byte{0, 0, 0, 0, 9, 10, 200}) }},
		{"cut off in an entry", "unexpected EOF", frame(good[:20], "0")},
		{"no status", "has no gRPC status", frame(good, "")},
		{"strange status", `gRPC status "99"`, frame(good, "99")},
		{"compressed", "compressed", func(w http.ResponseWriter) { _, _ = w.Write([]byte{1, 0, 0, 0, 0}) }},
		{"garbage", "not a message of protocol buffers", frame("\x0f\xff\xff", "0")},
		{"garbage in an entry", "not a message of protocol buffers", frame(string(msg{}.bytes(1, "\xff\xff\xff")), "0")},
		{"permission", "gRPC status 7", func(w http.ResponseWriter) { w.Header().Set("Grpc-Status", "7") }},
		{"reset", "ask the kubelet on", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
	} {
		k.mu.Lock()
		k.raw = c.raw
		k.mu.Unlock()
		f.settle(20)
		if st := f.s.parts[partResources]; st.State != source.Degraded || !strings.Contains(st.Reason, c.want) {
			t.Errorf("%s: %+v", c.name, st)
		}
		f.want(c.name, f.s.held(), "")
	}
	k.mu.Lock()
	k.raw = nil
	delete(k.replies, podsAPIMethod)
	k.mu.Unlock()
	k.set(listPods, podHolds("ai", "a", "main nvidia.com/gpu="+gpu1))
	f.settle(70)
	if st := f.s.parts[partResources]; st.State != source.Active {
		t.Errorf("again: %+v", st)
	}
	if st := f.s.parts[partPods]; st.State != source.Unavailable || !strings.Contains(st.Reason, "kubelets have the Pods API since 1.37") {
		t.Errorf("no Pods API: %+v", st)
	}
}

// The socket appears later, vanishes, belongs to a kubelet that is gone, or hangs.
func TestSocketComesAndGoes(t *testing.T) {
	t.Parallel()
	f, k := newKube(t)
	k.set(listPods, podHolds("ai", "a", "main nvidia.com/gpu="+gpu1))
	k.down()
	_ = os.Remove(k.path)
	has := func(what string, state source.State, part string) {
		t.Helper()
		if st := f.s.parts[partResources]; st.State != state || !strings.Contains(st.Reason, part) {
			t.Errorf("%s: %+v, want %s with %q", what, st, state, part)
		}
	}
	f.settle(20)
	has("not there yet", source.Degraded, "is not there: the kubelet makes it when it starts")
	k.up(t)
	f.settle(20)
	has("it comes", source.Active, "")
	k.down()
	_ = os.Remove(k.path)
	f.settle(20)
	has("it vanishes", source.Lost, "is not there")
	// A socket of a kubelet that is gone.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: k.path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	f.settle(20)
	has("nobody listens", source.Lost, "mount the directory "+filepath.Dir(k.path)+", not the socket")
	k.up(t)
	f.settle(20)
	has("it is back", source.Active, "")
	f.want("one hold in all that", strconv.Itoa(strings.Count(f.s.held(), "\n")), "0")
	// The directory is not there at all.
	g := newFixture(t)
	g.j = New(Config{Procfs: g.root, PodResources: filepath.Join(g.root, "none/k.sock")}, g.l)
	g.settle(1)
	if st := g.s.parts[partResources]; st.State != source.Unavailable || !strings.Contains(st.Reason, "mount that directory, not the socket in it") {
		t.Errorf("no kubelet: %+v", st)
	}
}

func TestSocketNotPermitted(t *testing.T) {
	t.Parallel()
	s := newService(partResources, "/run/k.sock", "")
	state, reason := s.wrong(fmt.Errorf("dial: %w", os.ErrPermission))
	if state != source.Degraded || !strings.Contains(reason, "run the agent as root or give its user write access") {
		t.Errorf("%s %s", state, reason)
	}
}

// A kubelet that hangs holds no tick up, is asked by one goroutine, and less and less often.
func TestKubeletHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, now := 0, 0
		s := newService(partResources, "/x", "")
		s.ask = func(ctx context.Context) (any, error) {
			asked++
			if now++; now > 1 {
				t.Error("asked twice at a time")
			}
			<-ctx.Done()
			now--
			return nil, ctx.Err()
		}
		var err error
		for boot := int64(0); boot < 1_200_000; boot += 1000 {
			if a, ok := s.take(); ok {
				err = a.err
			}
			if s.due(boot, askMs) {
				s.start(t.Context(), boot)
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if state, reason := s.wrong(err); !errors.Is(err, context.DeadlineExceeded) || state != source.Stalled || !strings.Contains(reason, "does not answer on /x within 5 s") {
			t.Errorf("%v: %s %s", err, state, reason)
		}
		if asked < 5 || asked > 9 {
			t.Errorf("asked %d times in 20 minutes", asked)
		}
		s.close()
	})
}

// The agent ends while a kubelet hangs.
func TestCloseWhileKubeletHangs(t *testing.T) {
	t.Parallel()
	f, k := newKube(t)
	in := make(chan struct{}, 8)
	k.mu.Lock()
	k.raw = func(w http.ResponseWriter) {
		in <- struct{}{}
		<-w.(http.CloseNotifier).CloseNotify() //nolint:staticcheck // a handler that hangs until its asker leaves
	}
	k.mu.Unlock()
	f.sample()
	<-in
	done := make(chan error, 1)
	go func() { done <- f.j.Close() }()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A node's 110 pods, of which eight hold what a host of eight GPUs in seven MIG devices has.
// dcgm-exporter issue 599: its mapping of these took ten cores.
func BenchmarkKubelet(b *testing.B) {
	f, k := newKube(b)
	devs := &gpus{ok: true}
	var pods, infos []string
	for g := range 8 {
		d := source.GPUDevice{Index: g, UUID: fmt.Sprintf("GPU-%08d-1111-2222-3333-444444444444", g)}
		var ids []string
		for i := range 7 {
			m := fmt.Sprintf("MIG-%08d-1111-2222-3333-444444444444", 10*g+i)
			d.Instances = append(d.Instances, source.GPUInstance{UUID: m, GI: i})
			ids = append(ids, m)
		}
		devs.list = append(devs.list, d)
		pods = append(pods, podHolds("ai", "gpu-"+strconv.Itoa(g), "main nvidia.com/mig-1g.10gb="+strings.Join(ids, ",")))
	}
	for i := range 102 {
		pods = append(pods, podHolds("web", "pod-"+strconv.Itoa(i), "main", "side vendor.example/nic=eth0"))
	}
	for i := range 110 {
		infos = append(infos, podBytes("ai", "gpu-"+strconv.Itoa(i), fmt.Sprintf("%08d-9b2c-4e3d-8f70-112233445566", i), "Running", "main", cid))
	}
	k.set(listPods, pods...)
	k.set(podsAPIMethod, infos...)
	f.j.devices.lister = devs
	f.settle(20)
	if n := len(f.j.holds.known); n != 56 {
		b.Fatalf("%d holds, want 56", n)
	}
	b.Run("ask", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := askResources(b.Context(), f.j.kubelet.resources.caller); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("pods", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := askPods(b.Context(), f.j.kubelet.pods.caller); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("claims", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			claims, _ := f.j.kubelet.claims(&f.j.devices, f.j.key, f.j.holds)
			f.j.holds.heard(feedKubelet, claims, nil, askMs, source.Tick{WallMs: f.wall, BootMs: f.boot}, f.wall, f.s)
		}
	})
}
