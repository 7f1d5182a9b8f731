package job

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv/race"
)

// dcgm-exporter issue 599: on a host cut into MIG devices, mapping them to pods took ten cores.
// Ours asks the kubelet at its own pace, whatever the host has, and does nothing in between.
func TestManyInstancesCostNoQuestions(t *testing.T) {
	f, k := newKube(t)
	devs := &gpus{ok: true}
	var pods []string
	var infos []string
	for g := range 8 {
		d := source.GPUDevice{Index: g, UUID: fmt.Sprintf("GPU-%08d-1111-2222-3333-444444444444", g)}
		for i := range 7 {
			m := fmt.Sprintf("MIG-%08d-1111-2222-3333-444444444444", 10*g+i)
			d.Instances = append(d.Instances, source.GPUInstance{UUID: m, GI: i})
			name, id := fmt.Sprintf("p-%d-%d", g, i), fmt.Sprintf("%08d-9b2c-4e3d-8f70-112233445566", 10*g+i)
			pods = append(pods, podHolds("ai", name, "main nvidia.com/mig-1g.10gb="+m))
			infos = append(infos, podBytes("ai", name, id, "Running", "main", strings.Repeat(strconv.Itoa(i), 64)))
			pid := 1000 + 10*g + i
			f.process(pid, "python3", 1, 100, 1000, "0::/kubepods.slice/kubepods-pod"+strings.ReplaceAll(id, "-", "_")+".slice/cri-containerd-"+strings.Repeat(strconv.Itoa(i), 64)+".scope\n")
			f.l.list = append(f.l.list, source.GPUProcess{PID: int32(pid), GPU: g, Instance: m})
		}
		devs.list = append(devs.list, d)
	}
	f.l.ok, f.l.seq = true, 1
	f.j.devices.lister = devs
	k.set(listPods, pods...)
	k.set(podsAPIMethod, infos...)
	f.settle(20)
	f.settle(20)
	rows := f.s.held("gpu_uuid", "job_id", "confidence_e4", "shares", "end_ms")
	for g := range 8 {
		for i := range 7 {
			want := fmt.Sprintf("MIG-%08d-1111-2222-3333-444444444444|%08d-9b2c-4e3d-8f70-112233445566|9900|1|-", 10*g+i, 10*g+i)
			if !strings.Contains(rows, want) {
				t.Fatalf("no hold %s:\n%s", want, rows)
			}
		}
	}
	f.s.take()
	asked := k.asked.Load()
	const seconds = 120
	for range seconds {
		f.l.seq++ // the driver lists its processes anew
		f.settle(1)
	}
	// Devices every 15 seconds at most, pods every minute; settle(1) is two ticks.
	if n := k.asked.Load() - asked; n == 0 || n > 2*seconds/15+2*seconds/60+2 {
		t.Errorf("the kubelet was asked %d times in %d s", n, 2*seconds)
	}
	f.want("nothing has changed", f.s.take(), "")
	boot := f.boot
	n := testing.AllocsPerRun(50, func() {
		f.boot++
		if err := f.j.Sample(t.Context(), source.Tick{WallMs: f.wall, BootMs: f.boot}, f.s); err != nil {
			t.Fatal(err)
		}
	})
	if f.boot-boot > time.Second.Milliseconds() {
		t.Fatal("the kubelet was asked meanwhile")
	}
	if n > 8 && !race.Enabled {
		t.Errorf("a tick of 56 instances that changes nothing makes %.0f allocations", n)
	}
}

// dcgm-exporter issue 569: under DRA, GPUs that no claim has vanish. What nobody holds is nobody's
// here, and its processes are told all the same.
func TestUnheldGPUIsSeen(t *testing.T) {
	t.Parallel()
	f, k := newKube(t)
	k.set(podsAPIMethod, podBytes("ai", "a", uid, "Running"))
	k.set(listPods, podHolds("ai", "a", "main dra:gpu.nvidia.com/gpu-7@k8s.gpu.nvidia.com/device="+gpu1))
	f.process(10, "python3", 1, 100, 1000, "0::/\n")
	f.process(11, "python3", 1, 100, 1000, "0::/kubepods.slice/kubepods-pod"+under+".slice/cri-containerd-"+cid+".scope\n")
	f.l.set(10, 0, 11, 1)
	f.settle(20)
	f.settle(20)
	f.want("the claim", f.s.held("gpu_uuid", "job_id", "evidence", "end_ms"), gpu1+"|"+uid+"|dra|-")
	rows := map[string]bool{}
	for line := range strings.Lines(f.s.fields("pid", "gpu_list", "job_id")) {
		rows[strings.TrimSpace(line)] = true
	}
	if !rows["10|0|-"] || !rows["11|1|"+uid] {
		t.Errorf("processes: %v", rows)
	}
}
