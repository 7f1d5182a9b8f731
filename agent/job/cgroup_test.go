package job

import (
	"strings"
	"testing"
)

const (
	cid   = "3f8c1a6b2d9e4f7081b2c3d4e5f60718293a4b5c6d7e8f901a2b3c4d5e6f7081"
	cid2  = "aa8c1a6b2d9e4f7081b2c3d4e5f60718293a4b5c6d7e8f901a2b3c4d5e6f70bb"
	short = "3f8c1a6b2d9e"
	uid   = "6d4f8a1e-9b2c-4e3d-8f70-112233445566"
	under = "6d4f8a1e_9b2c_4e3d_8f70_112233445566"
	md5   = "8a6e2b7c9d0f1e3a4b5c6d7e8f901a2b"
	md5ID = "8a6e2b7c-9d0f-1e3a-4b5c-6d7e8f901a2b"
)

func TestCgroup(t *testing.T) {
	t.Parallel()
	pod, docker, systemd := owner{source: "kubernetes", id: uid}, owner{source: "docker", id: short}, func(id string) owner { return owner{source: "systemd", id: id} }
	for _, c := range []struct {
		name, file string
		want       owner
	}{
		// Kubernetes.
		{"v1 cgroupfs containerd", "11:memory:/kubepods/burstable/pod" + uid + "/" + cid + "\n1:name=systemd:/kubepods/burstable/pod" + uid + "/" + cid + "\n", pod},
		{"v1 cgroupfs guaranteed", "4:cpu,cpuacct:/kubepods/pod" + uid + "/" + cid + "\n", pod},
		{"v1 systemd containerd", "11:memory:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + cid + ".scope\n", pod},
		{"v1 systemd CRI-O", "11:memory:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/crio-" + cid + ".scope\n", pod},
		{"v1 systemd docker", "11:memory:/kubepods.slice/kubepods-pod" + under + ".slice/docker-" + cid + ".scope\n", pod},
		{"v1 cgroupfs CRI-O", "11:memory:/kubepods/besteffort/pod" + uid + "/crio-" + cid + "\n", pod},
		{"v2 cgroupfs containerd", "0::/kubepods/besteffort/pod" + uid + "/" + cid + "\n", pod},
		{"v2 systemd containerd", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/cri-containerd-" + cid + ".scope\n", pod},
		{"v2 systemd CRI-O, container group", "0::/kubepods.slice/kubepods-pod" + under + ".slice/crio-" + cid + ".scope/container\n", pod},
		{"v2 systemd docker", "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + under + ".slice/docker-" + cid + ".scope\n", pod},
		{"cri-containerd form", "0::/system.slice/containerd.service/kubepods-burstable-pod" + under + ".slice:cri-containerd:" + cid + "\n", pod},
		{"kind", "0::/system.slice/docker-" + cid2 + ".scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + cid + ".scope\n", pod},
		{"kind, cgroupfs", "9:memory:/docker/" + cid2 + "/kubelet/kubepods/besteffort/pod" + uid + "/" + cid + "\n", pod},
		{"static pod", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + md5 + ".slice/cri-containerd-" + cid + ".scope\n", owner{source: "kubernetes", id: md5ID}},
		{"static pod, cgroupfs", "0::/kubepods/burstable/pod" + md5 + "/" + cid + "\n", owner{source: "kubernetes", id: md5ID}},
		{"relative to a namespace, systemd", "0::/../../kubepods-burstable-pod" + under + ".slice/cri-containerd-" + cid + ".scope\n", pod},
		{"relative to a namespace, cgroupfs", "0::/../../pod" + uid + "/" + cid + "\n", pod},
		{"relative, a container of the agent's own pod", "0::/../cri-containerd-" + cid + ".scope\n", owner{source: "kubernetes"}},
		{"upper case", "0::/kubepods/pod" + strings.ToUpper(uid) + "/" + cid + "\n", pod},
		// Containers.
		{"docker v1", "12:pids:/docker/" + cid + "\n0::/system.slice/containerd.service\n", docker},
		{"docker v2 systemd", "0::/system.slice/docker-" + cid + ".scope\n", docker},
		{"docker with a process manager inside", "0::/system.slice/docker-" + cid + ".scope/system.slice/train.service\n", docker},
		{"docker rootless", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/docker-" + cid + ".scope\n", docker},
		{"docker, driver of containerd", "0::/system.slice:docker:" + cid + "\n", docker},
		{"podman", "0::/machine.slice/libpod-" + cid + ".scope/container\n", owner{source: "podman", id: short}},
		{"podman rootless", "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + cid + ".scope/container\n", owner{source: "podman", id: short}},
		{"podman cgroupfs", "0::/libpod_parent/" + cid + "\n", owner{source: "podman", id: short}},
		{"nerdctl", "0::/system.slice/nerdctl-" + cid + ".scope\n", owner{source: "containerd", id: short}},
		{"ctr", "0::/default/" + cid + "\n", owner{source: "containerd", id: short}},
		{"lxc v2", "0::/lxc.payload.gpu01/system.slice/train.service\n", owner{source: "lxc", id: "gpu01"}},
		// Slurm.
		{"Slurm v1", "11:memory:/slurm/uid_1000/job_4711/step_0/task_3\n9:freezer:/slurm/uid_1000/job_4711/step_0\n1:name=systemd:/system.slice/slurmd.service\n", owner{source: "slurm", id: "4711", step: "0"}},
		{"Slurm v2", "0::/system.slice/slurmstepd.scope/job_4711/step_batch/user/task_0\n", owner{source: "slurm", id: "4711", step: "batch"}},
		{"Slurm v2, several slurmd", "0::/system.slice/n01_slurmstepd.scope/job_4711/step_1/user/task_0\n", owner{source: "slurm", id: "4711", step: "1", slurm: "n01"}},
		{"Slurm v1, several slurmd, freezer only, as seen", "9:name=systemd:/\n6:freezer:/slurm_vm/uid_0/job_1/step_batch\n4:memory:/process_api/e7ecd879f6163dd4385b96a48faf8149\n0::/\n", owner{source: "slurm", id: "1", step: "batch", slurm: "vm"}},
		{"Slurm 26.05, SLUID", "0::/system.slice/slurmstepd.scope/s5K1KKYAYG5D00/step_0/user/task_0\n", owner{source: "slurm", id: "s5K1KKYAYG5D00", step: "0"}},
		{"Slurm, a container in the job", "0::/system.slice/slurmstepd.scope/job_12/step_0/user/task_0/docker/" + cid + "\n", owner{source: "slurm", id: "12", step: "0"}},
		{"Slurm in pods", "0::/kubepods.slice/kubepods-pod" + under + ".slice/cri-containerd-" + cid + ".scope/system.slice/slurmstepd.scope/job_12/step_0\n", owner{source: "slurm", id: "12", step: "0"}},
		{"slurmstepd's own", "0::/system.slice/slurmstepd.scope/system\n", owner{source: "slurm"}},
		{"Slurm without groups", "0::/system.slice/slurmd.service\n", owner{source: "slurm"}},
		{"Slurm job within a job's own group", "0::/system.slice/slurmstepd.scope/job_5/step_0/user/task_0/slurm/uid_0/job_99/step_0\n", owner{source: "slurm", id: "5", step: "0"}},
		{"OpenPBS", "3:devices:/pbs_jobs.service/jobid/123.pbs01\n0::/\n", owner{source: "pbs", id: "123.pbs01"}},
		// Machines.
		{"libvirt scope", `0::/machine.slice/machine-qemu\x2d3\x2dinstance\x2d0000001a.scope/libvirt/emulator` + "\n", owner{source: "libvirt", id: "instance-0000001a"}},
		{"libvirt v1", "5:devices:/machine/qemu-12-web01.libvirt-qemu/emulator\n", owner{source: "libvirt", id: "web01"}},
		{"libvirt old", "5:devices:/machine/web01.libvirt-qemu\n", owner{source: "libvirt", id: "web01"}},
		{"a machine whose name holds a number", `0::/machine.slice/machine-qemu\x2d3\x2d4\x2dgpu.scope` + "\n", owner{source: "libvirt", id: "4-gpu"}},
		// systemd.
		{"service", "0::/system.slice/train.service\n", systemd("train.service")},
		{"instance", `0::/system.slice/system-vllm.slice/vllm@llama\x2d70b.service` + "\n", systemd("vllm@llama-70b.service")},
		{"transient scope of a user", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r0a1b.scope\n", systemd("run-r0a1b.scope")},
		{"service of a user", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/jupyter.service\n", systemd("jupyter.service")},
		// Nobody's.
		{"a login", "0::/user.slice/user-1000.slice/session-3.scope\n", owner{}},
		{"sshd", "0::/system.slice/ssh.service\n", owner{}},
		{"a user's manager", "0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", owner{}},
		{"root", "0::/\n", owner{}},
		{"empty", "", owner{}},
		{"garbage", "::::\n\x00\xff\nno colon\n7:x\n", owner{}},
		{"a job that a user made up", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/slurm/uid_0/job_99/step_0\n", owner{}},
		{"a pod that a user made up", "0::/user.slice/user-1000.slice/user@1000.service/kubepods/pod" + uid + "/" + cid + "\n", owner{}},
		{"numbers that are none", "0::/slurm/uid_x/job_1\n0::/slurm/uid_1/job_1x\n0::/slurm/uid_1/job_99999999999\n0::/slurm\n", owner{}},
		{"pods that are none", "0::/kubepods/pod123/" + cid + "\n0::/podman/podx\n0::/kubepods/pod" + uid + "x\n", owner{}},
		{"not a SLUID", "0::/a_slurmstepd.scope/s5K1KKYAYG5DI0/step_0\n", owner{source: "slurm"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := parseCgroup([]byte(c.file))
			got.own, got.container = false, "" // TestContainerAndOwn
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// The job is found whichever line it is on.
func TestCgroupOrder(t *testing.T) {
	t.Parallel()
	lines := []string{"9:name=systemd:/system.slice/slurmd.service\n", "6:freezer:/slurm/uid_0/job_1/step_0\n", "4:memory:/docker/" + cid + "\n", "0::/\n"}
	for i := range lines {
		if got := parseCgroup([]byte(strings.Join(append(lines[i:len(lines):len(lines)], lines[:i]...), ""))); got.id != "1" || got.source != "slurm" {
			t.Errorf("turned by %d: %+v", i, got)
		}
	}
}

func FuzzCgroup(f *testing.F) {
	f.Add([]byte("0::/kubepods.slice/kubepods-burstable-pod" + under + ".slice/cri-containerd-" + cid + ".scope\n"))
	f.Add([]byte("6:freezer:/slurm_vm/uid_0/job_1/step_batch\n0::/system.slice/slurmstepd.scope/s5K1KKYAYG5D00\n"))
	f.Add([]byte(`0::/machine.slice/machine-qemu\x2d3\x2dinstance\x2d0000001a.scope` + "\n3:x:/pbs_jobs/jobid/1.s\n"))
	f.Add([]byte("0::/user.slice/user@1.service/a.scope\n1:a:/docker/" + cid + "\n0::/lxc/a/../lxc.payload.\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		o := parseCgroup(b)
		if o.source == "" && o != (owner{}) {
			t.Errorf("%+v", o)
		}
		if o.id != "" && !isName(o.id) {
			t.Errorf("id %q", o.id)
		}
		if o.source == sourceKubernetes && o.id != "" {
			if again, ok := normalUID(o.id); !ok || again != o.id {
				t.Errorf("pod %q", o.id)
			}
		}
	})
}

func BenchmarkCgroup(b *testing.B) {
	line := []byte("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/cri-containerd-" + cid + ".scope\n")
	b.ReportAllocs()
	for b.Loop() {
		_ = parseCgroup(line)
	}
}
