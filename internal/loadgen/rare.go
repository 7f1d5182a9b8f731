package loadgen

import (
	"strconv"

	"github.com/flopwatch/flopwatch/internal/wire"
)

// instruments are those of an agent with everything on, GPUs apart.
var instruments = []string{
	"agent", "fabric", "gpu", "gpu/driver", "host", "host/cpu", "host/storage", "job", "job/slurm", "kernel/file", "kernel/nccl", "kernel/proc", "kernel/rdma", "kernel/sock", "ship", "spool",
}

// facts are told at the start and every hour.
var facts = [][2]string{
	{"kernel", "6.8.0-85-generic"}, {"os", "ubuntu 24.04"}, {"driver_proc", "570.124.06"}, {"nccl", "2.27.3"}, {"machine", "hgx-h100-8"}, {"agent", "loadgen"},
}

// rare adds what comes less often than every few seconds.
func (h *host) rare(t *tables, row func(*wire.Builder, func()), tick uint64, ms int64) {
	if h.due(tick, 300, 11) {
		for i := range len(instruments) + len(h.gpus) {
			row(t.status, func() {
				name := "gpu/" + strconv.Itoa(i-len(instruments))
				if i < len(instruments) {
					name = instruments[i]
				}
				t.status.SetInt(1, ms)
				t.status.SetStr(2, name)
				t.status.SetStr(10, "active")
				t.status.SetInt(12, ms-int64(tick)*h.every)
			})
		}
	}
	if h.due(tick, 3600, 17) {
		h.facts(t, row, ms)
	}
	if h.before.told && h.before.work != idle {
		h.processes(t, row, &h.before, ms)
		h.before = job{}
	}
	if h.job.work == idle {
		h.job.told = true
		return
	}
	if !h.job.told {
		h.processes(t, row, &h.job, 0)
	}
	if !h.job.told || h.due(tick, 300, 23) {
		h.holds(t, row, ms)
	}
	h.job.told = true
	if h.due(tick, 10, 3) {
		h.traffic(t, row, ms)
	}
	if h.job.work != training {
		return
	}
	if h.due(tick, 10, 5) {
		h.collectives(t, row, ms)
	}
	if h.due(tick, 30, 7) {
		h.objects(t, row, ms)
	}
	if tick > 1 && h.due(tick, 600, 29) {
		row(t.checkpoint, func() {
			b := t.checkpoint
			b.SetInt(1, ms-21_000)
			b.SetInt(2, h.job.pid)
			b.SetStr(3, "/scratch/"+h.job.project+"/"+h.job.id+"/"+strconv.FormatUint(tick, 10)+".distcp")
			b.SetInt(10, ms)
			b.SetInt(11, 17_200_000_000)
			b.SetInt(12, 17_200_000_000)
			b.SetStr(13, "lustre")
			b.SetStr(14, "slurm")
			b.SetStr(15, h.job.id)
			b.SetInt(16, h.job.startMs)
		})
	}
}

func (h *host) facts(t *tables, row func(*wire.Builder, func()), ms int64) {
	for _, f := range facts {
		row(t.fact, func() {
			t.fact.SetInt(1, ms)
			t.fact.SetStr(2, "host")
			t.fact.SetStr(3, f[0])
			t.fact.SetStr(10, f[1])
		})
	}
	row(t.fact, func() {
		t.fact.SetInt(1, ms)
		t.fact.SetStr(2, "eth0")
		t.fact.SetStr(3, "address")
		t.fact.SetStr(10, h.address(0))
	})
	for g := range h.gpus {
		row(t.gpuFact, func() {
			t.gpuFact.SetInt(1, ms)
			t.gpuFact.SetStr(2, h.gpus[g].uuid)
			t.gpuFact.SetStr(3, "library")
			t.gpuFact.SetStr(10, "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.570.124.06")
		})
	}
}

// address is the host's own, or one of a host that it talks to.
func (h *host) address(peer int) string {
	sum := uint32(peer)
	for _, c := range []byte(h.name) {
		sum = sum*31 + uint32(c)
	}
	return "10." + strconv.Itoa(int(sum>>16&63)) + "." + strconv.Itoa(int(sum>>8&255)) + "." + strconv.Itoa(int(1+sum&127))
}

// processes tells the processes of a job, one a GPU: that they run, or, with endMs, that they
// have ended.
func (h *host) processes(t *tables, row func(*wire.Builder, func()), j *job, endMs int64) {
	for g := range h.gpus {
		row(t.process, func() {
			b := t.process
			b.SetInt(1, j.startMs+int64(g))
			b.SetInt(2, j.pid+int64(g))
			if endMs > 0 {
				b.SetInt(10, endMs)
				b.SetInt(26, 0)
			}
			b.SetStr(11, strconv.Itoa(g))
			b.SetStr(12, "python3.12")
			b.SetStr(13, "slurmstepd")
			b.SetStr(14, "slurm")
			b.SetStr(15, j.id)
			b.SetStr(16, j.user)
			b.SetStr(17, j.project)
			b.SetInt(18, 64)
			b.SetInt(19, int64(g))
			b.SetInt(20, 9_900)
			b.SetStr(21, "slurm")
			b.SetStr(22, h.address(1)+":29500")
			b.SetInt(23, int64(g))
			b.SetInt(24, int64(len(h.gpus)))
		})
	}
}

func (h *host) holds(t *tables, row func(*wire.Builder, func()), ms int64) {
	for g := range h.gpus {
		row(t.hold, func() {
			b := t.hold
			b.SetInt(1, h.job.startMs)
			b.SetStr(2, h.gpus[g].uuid)
			b.SetStr(3, "slurm")
			b.SetStr(4, h.job.id)
			b.SetInt(10, int64(g))
			b.SetInt(13, ms)
			b.SetStr(14, "slurm_prolog")
			b.SetInt(15, 10_000)
			b.SetInt(16, 1)
			b.SetStr(17, h.job.user)
			b.SetStr(18, h.job.project)
			b.SetStr(19, "pretrain-"+h.job.id)
		})
	}
}

func (h *host) traffic(t *tables, row func(*wire.Builder, func()), ms int64) {
	for peer := range 3 {
		row(t.tcp, func() {
			b := t.tcp
			b.SetInt(1, ms)
			b.SetStr(2, h.address(peer+1))
			b.SetStr(3, "slurm")
			b.SetStr(4, h.job.id)
			b.SetInt(10, h.rng.below(4_000_000))
			b.SetInt(11, h.rng.below(40_000_000))
			b.SetInt(12, 0)
			b.SetInt(13, 2)
		})
	}
}

// collectives are three operations of each process: a step every two seconds.
func (h *host) collectives(t *tables, row func(*wire.Builder, func()), ms int64) {
	for g := range h.gpus {
		for i, op := range [...]string{"AllGather", "AllReduce", "ReduceScatter"} {
			row(t.collective, func() {
				b := t.collective
				b.SetInt(1, ms)
				b.SetInt(2, h.job.pid+int64(g))
				b.SetInt(3, int64(g))
				b.SetStr(4, "c-"+h.job.id+strconv.Itoa(i))
				b.SetStr(5, op)
				b.SetInt(10, 64)
				b.SetInt(11, int64(g))
				calls := h.rng.about(320, 4)
				b.SetInt(12, calls)
				b.SetInt(13, calls*268_435_456)
				b.SetStr(14, "bf16:"+strconv.FormatInt(calls*268_435_456, 10))
				b.SetStr(15, "d41d8cd98f00b204")
				b.SetInt(16, ms-9_700)
				b.SetInt(17, ms-100)
				b.SetInt(19, 0)
			})
		}
	}
}

func (h *host) objects(t *tables, row func(*wire.Builder, func()), ms int64) {
	for g := range h.gpus {
		row(t.rdma, func() {
			b := t.rdma
			b.SetInt(1, ms)
			b.SetStr(2, "mlx5_"+strconv.Itoa(g))
			b.SetInt(3, h.job.pid+int64(g))
			b.SetInt(10, 112)
			b.SetInt(11, 112)
			b.SetInt(12, 240)
			b.SetInt(13, 8_589_934_592)
			b.SetInt(14, 16)
			b.SetStr(16, "slurm")
			b.SetStr(17, h.job.id)
		})
	}
}
