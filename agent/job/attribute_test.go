package job

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv/race"
)

// How sure a job is, by who made its control group; and the container within it.
func TestConfidence(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ group, want string }{
		{"0::/system.slice/slurmstepd.scope/job_77/step_0/user/task_0\n", "slurm 77 cgroup 9900 -"},
		{"0::/system.slice/slurmstepd.scope/job_12/step_0/user/task_0/docker/" + cid + "\n", "slurm 12 cgroup 9900 " + short},
		{"3:devices:/pbs_jobs.service/jobid/123.pbs01\n", "pbs 123.pbs01 cgroup 9900 -"},
		{"0::/kubepods.slice/kubepods-pod" + under + ".slice/cri-containerd-" + cid + ".scope\n", "kubernetes " + uid + " cgroup 9900 " + short},
		{"11:memory:/kubepods/besteffort/pod" + uid + "/crio-" + cid + "\n", "kubernetes " + uid + " cgroup 9900 " + short},
		{"11:memory:/kubepods/besteffort/pod" + uid + "/crio-conmon-" + cid + "\n", "kubernetes " + uid + " cgroup 9900 -"},
		{"0::/kubepods/burstable/pod" + uid + "/" + cid + "\n", "kubernetes " + uid + " cgroup 9900 " + short},
		{"0::/system.slice/containerd.service/kubepods-burstable-pod" + under + ".slice:cri-containerd:" + cid + "\n", "kubernetes " + uid + " cgroup 9900 " + short},
		{"0::/system.slice/docker-" + cid2 + ".scope/kubelet.slice/kubelet-kubepods-pod" + under + ".slice/cri-containerd-" + cid + ".scope\n", "kubernetes " + uid + " cgroup 9900 " + short},
		{`0::/machine.slice/machine-qemu\x2d3\x2dvm.scope` + "\n", "libvirt vm cgroup 9500 -"},
		{"0::/system.slice/docker-" + cid + ".scope\n", "docker " + short + " cgroup 9000 " + short},
		{"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + cid + ".scope/container\n", "podman " + short + " cgroup 5000 " + short},
		{"0::/system.slice/train.service\n", "systemd train.service cgroup 8000 -"},
		{"0::/user.slice/user-1000.slice/user@1000.service/app.slice/jupyter.service\n", "systemd jupyter.service cgroup 5000 -"},
		{"0::/\n", "- - - - -"},
	} {
		f := newFixture(t)
		f.process(10, "a", 1, 100, 1000, c.group)
		f.l.set(10, 0)
		f.sample()
		f.want(c.group, strings.ReplaceAll(f.s.fields("job_source", "job_id", "evidence", "confidence_e4", "container"), "|", " "), c.want)
	}
}

// The process's MIG device is told, and whose it is by that device and not by its GPU.
func TestInstances(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	f.slurmFile("1", "gpus "+mig0)
	f.slurmFile("2", "gpus "+mig1)
	f.process(10, "a", 1, 100, 1000, "0::/\n")
	f.process(11, "b", 1, 100, 1000, "0::/system.slice/slurmd.service\n")
	f.process(12, "c", 1, 100, 1000, "0::/\n")
	f.l.list, f.l.ok, f.l.seq = []source.GPUProcess{
		{PID: 11, GPU: 2, Instance: mig1}, {PID: 10, GPU: 2, Instance: mig0}, {PID: 12, GPU: 2, Instance: mig1}, {PID: 12, GPU: 2, Instance: mig0}, {PID: 12, GPU: 2, Instance: "junk"},
	}, true, 1
	f.sample()
	f.want("by instance", f.s.fields("pid", "gpu_list", "instance_list", "job_source", "job_id", "evidence", "confidence_e4"), strings.Join([]string{
		"10|2|" + mig0 + "|slurm|1|slurm_file|6000", "11|2|" + mig1 + "|slurm|2|slurm_file|8000", "12|2|" + mig0 + " " + mig1 + "|-|-|-|-",
	}, "\n"))
	f.sample()
	f.want("nothing new", f.s.take(), "")
}

// A process that was there before its GPUs' holder is not the holder's.
func TestOlderThanTheHold(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	f.process(10, "left-over", 1, 100, 1000, "0::/\n")
	f.l.set(10, 2)
	f.sample()
	f.s.take()
	f.slurmFile("5", "minors 0", "start "+strconv.Itoa(btime+900))
	f.process(11, "worker", 1, 90_500, 1000, "0::/\n")
	f.l.set(10, 2, 11, 2)
	f.pass(31)
	f.want("the job's", f.s.fields("pid", "job_id", "evidence"), "11|5|slurm_file")
	// The job ends before the process does: it was its.
	if err := os.Remove(filepath.Join(f.root, "slurm/5")); err != nil {
		t.Fatal(err)
	}
	f.pass(31)
	f.want("it stays the job's", f.s.take()+f.j.known[11].job.id, "5")
}

// Minors that cannot be resolved are said and never guessed, unless there is one GPU alone.
func TestNoMinors(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	if err := os.RemoveAll(filepath.Join(f.root, "driver")); err != nil {
		t.Fatal(err)
	}
	f.slurmFile("5", "minors 1")
	f.sample()
	f.want("not guessed", f.s.held(), "")
	if st := f.s.parts[partSlurm]; st.State != source.Degraded || !strings.Contains(st.Reason, "cannot be resolved: /dev/nvidia1 (open "+f.root+"/driver/nvidia/gpus: no such file or directory)") {
		t.Errorf("%+v", st)
	}
	f.driverFiles()
	f.pass(61)
	f.want("the driver comes", f.s.held("gpu", "job_id"), "1|5")
	if st := f.s.parts[partSlurm]; st.State != source.Active {
		t.Errorf("%+v", st)
	}
	f = newSlurmHost(t)
	if err := os.RemoveAll(filepath.Join(f.root, "driver")); err != nil {
		t.Fatal(err)
	}
	f.j.devices.lister = &gpus{ok: true, list: threeGPUs().list[:1]}
	f.slurmFile("5", "minors 3")
	f.sample()
	f.want("one GPU", f.s.held("gpu_uuid", "confidence_e4"), gpu0+"|8910")
	for _, b := range []string{"", "GPU UUID: GPU-????????-????-????-????-????????????\nDevice Minor: 0\n", "GPU UUID: " + gpu0 + "\n", "Device Minor: 0\n", "GPU UUID: " + gpu0 + "\nDevice Minor: -1\n"} {
		if minor, id, ok := parseInformation([]byte(b)); ok {
			t.Errorf("%q: %d %s", b, minor, id)
		}
	}
}

// A GPU that was moved to another index keeps its holder.
func TestDevicesChange(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	f.slurmFile("5", "gpus "+gpu0)
	f.sample()
	f.want("at first", f.s.held("gpu", "end_ms"), "0|-")
	list := slices.Clone(threeGPUs().list)
	list[0].Index, list[1].Index = 1, 0
	f.j.devices.lister = &gpus{ok: true, list: list}
	f.sample()
	f.want("another index", f.s.held("gpu", "end_ms"), "1|-")
	f.j.devices.lister = &gpus{}
	f.pass(31)
	f.want("the driver does not answer", f.s.held("gpu", "end_ms"), "")
}

// Nothing steady is allocated when nothing changes: 200 processes, 110 jobs' files.
func TestQuietTickAllocates(t *testing.T) {
	f := busy(t, 200, 110)
	n := testing.AllocsPerRun(20, func() {
		f.boot++ // no second passes: what is done every ten or thirty seconds is measured below
		if err := f.j.Sample(t.Context(), source.Tick{WallMs: f.wall, BootMs: f.boot}, f.s); err != nil {
			t.Fatal(err)
		}
	})
	if n > 8 && !race.Enabled {
		t.Errorf("a quiet tick makes %.0f allocations", n)
	}
	f.s.take()
	n = testing.AllocsPerRun(20, func() {
		f.boot++
		f.l.seq++
		if err := f.j.Sample(t.Context(), source.Tick{WallMs: f.wall, BootMs: f.boot}, f.s); err != nil {
			t.Fatal(err)
		}
	})
	if n > 8 && !race.Enabled {
		t.Errorf("a tick with a new list makes %.0f allocations", n)
	}
}

// busy is a host of Slurm with processes and jobs.
func busy(t testing.TB, processes, jobs int) *fixture {
	f := newSlurmHost(t)
	var pairs []int
	for i := range processes {
		f.process(1000+i, "python3", 1, 100+i, 1000, fmt.Sprintf("0::/system.slice/slurmstepd.scope/job_%d/step_0/user/task_%d\n", i%max(jobs, 1), i))
		pairs = append(pairs, 1000+i, i%3)
	}
	for i := range jobs {
		f.slurmFile(strconv.Itoa(i), "user alice", "account climate", fmt.Sprintf("minors %d", i%3))
	}
	f.l.set(pairs...)
	f.sample()
	f.s.take()
	f.s.held()
	return f
}

// BenchmarkHost is a second of a host with 200 processes and 110 jobs; the driver lists
// processes anew every tenth, and Slurm's files are looked at every thirtieth.
func BenchmarkHost(b *testing.B) {
	f := busy(b, 200, 110)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i++; i%10 == 0 {
			f.l.seq++
		}
		f.wall += 1000
		f.boot += 1000
		if err := f.j.Sample(b.Context(), source.Tick{WallMs: f.wall, BootMs: f.boot}, f.s); err != nil {
			b.Fatal(err)
		}
		if i%300 == 0 {
			f.s.held()
		}
	}
}
