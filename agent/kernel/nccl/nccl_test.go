package nccl

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
)

func (r *rig) onGPU(drivers ...*driver) {
	r.lists.procs = nil
	r.lists.seq++
	for i, d := range drivers {
		r.lists.procs = append(r.lists.procs, source.GPUProcess{GPU: i, PID: d.pid()})
	}
}

func devices(n int) []source.GPUDevice {
	var list []source.GPUDevice
	for i := range n {
		list = append(list, source.GPUDevice{Index: i, UUID: fmt.Sprintf("GPU-%d", i), PCIBusID: fmt.Sprintf("0000:%x:00.0", 0x1b+16*i)})
	}
	return list
}

// TestCounts holds every function to exact calls and bytes, with the place of each argument.
func TestCounts(t *testing.T) {
	r := newRig(t, Config{})
	r.lists.devices = devices(2)
	d := run(t, r.dir, []string{"STUB_BUS=2b000"})
	r.start()
	if rep := r.tick(0); !r.well(rep) {
		t.Errorf("report: %s %s", rep.State, rep.Reason())
	}
	began := time.Now().UnixMilli()
	d.do("init 0 8 3 5")
	r.tick(1000)
	d.do("coll allreduce 0 1000 7 10", "coll allreduce 0 500 9 4", "coll reducescatter 0 100 9 3", "coll allgather 0 200 6 2",
		"coll broadcast 0 300 1 1", "coll bcast 0 300 1 1", "coll reduce 0 50 8 5", "coll alltoall 0 10 2 1", "coll gather 0 11 3 1",
		"coll scatter 0 12 4 1", "coll send 0 64 5 7", "coll recv 0 64 5 6", "coll send 0 1 10 1", "coll recv 0 1 11 1")
	rows := r.rowsOf(d)
	comm, nccl := digest("nccl hash", word(hashNew(id(5)))), strconv.FormatUint(hashNew(id(5)), 16)
	for _, want := range []struct {
		op           string
		calls, bytes int64
		dtypes       string
	}{
		{"allreduce", 14, 10*4000 + 4*1000, "f32:40000 bf16:4000"},
		{"reducescatter", 3, 3 * 200 * 8, "bf16:4800"},
		{"allgather", 2, 2 * 400 * 8, "f16:6400"},
		{"broadcast", 2, 600, "u8:600"},
		{"reduce", 5, 5 * 400, "f64:2000"},
		{"alltoall", 1, 40 * 8, "i32:320"},
		{"gather", 1, 44 * 8, "u32:352"},
		{"scatter", 1, 96 * 8, "i64:768"},
		{"sendrecv", 8, 7*512 + 1, "u64:3584 f8e4m3:1"},
	} {
		w := find(t, rows, want.op)
		if w.calls != want.calls || w.bytes != want.bytes || w.dtypes != want.dtypes {
			t.Errorf("%s: %d calls, %d bytes, %s; want %+v", want.op, w.calls, w.bytes, w.dtypes, want)
		}
		if w.comm != comm || w.hash != nccl || w.nranks != 8 || w.rank != 3 || w.gpu != 1 || w.parent != "" {
			t.Errorf("%s: %+v, want comm %s of hash %s, rank 3 of 8, GPU 1", want.op, w, comm, nccl)
		}
		if w.firstMs < began-2000 || w.lastMs < w.firstMs || w.lastMs > time.Now().UnixMilli()+30_000 {
			t.Errorf("%s: from %d to %d, began %d", want.op, w.firstMs, w.lastMs, began)
		}
	}
	if len(rows) != 9 {
		t.Errorf("%d rows", len(rows))
	}
	if again := r.rowsOf(d); len(again) != 0 {
		t.Errorf("rows without calls: %+v", again)
	}
	d.do("coll allreduce 0 1000 7 1")
	if w := find(t, r.rowsOf(d), "allreduce"); w.calls != 1 || w.bytes != 4000 {
		t.Errorf("only what came since the last row is told: %+v", w)
	}
	l := r.f.Load()
	if len(l.Probes) != 1 || l.Probes[0].Calls != 45 || l.Probes[0].Ns == 0 || l.Processes < 1 {
		t.Errorf("load: %+v", l)
	}
	if got, by := r.f.Visibility(d.pid()); got != "visible" || by != r.by() {
		t.Errorf("visibility %q", got)
	}
	if lib := r.f.procs[d.pid()].lib; lib.funcs != 18 || lib.site != 12656 || !lib.exact || lib.steps[fnAllReduce] {
		t.Errorf("library: %d functions, block at %d (%v), steps %v", lib.funcs, lib.site, lib.exact, lib.steps[fnAllReduce])
	}
}

// TestSameCommunicator: ranks of one communicator, however it was made and whichever hash
// their library has, come to one name; others do not.
func TestSameCommunicator(t *testing.T) {
	r := newRig(t, Config{})
	r.lists.devices = devices(2)
	a, b, c := run(t, r.dir, nil), run(t, r.dir, []string{"STUB_BUS=2b000"}), run(t, r.dir, []string{"STUB_OLD=1"})
	r.start()
	r.tick(0)
	a.do("init 0 2 0 9", "init 1 2 0 10")
	b.do("initconfig 0 2 1 9", "initscalable 1 2 1 10")
	c.do("init 0 1 0 9")
	r.tick(1000)
	for _, d := range []*driver{a, b} {
		d.do("coll allreduce 0 1 0 1", "coll broadcast 1 1 0 1")
	}
	c.do("coll allreduce 0 1 0 1")
	r.tick(11_000)
	ra, rb, rc := r.taken(a), r.taken(b), r.taken(c)
	for _, op := range []string{"allreduce", "broadcast"} {
		x, y := find(t, ra, op), find(t, rb, op)
		if x.comm != y.comm || x.hash != y.hash || x.rank != 0 || y.rank != 1 || x.nranks != 2 || x.gpu != 0 || y.gpu != 1 {
			t.Errorf("%s: %+v and %+v", op, x, y)
		}
	}
	if find(t, ra, "allreduce").comm == find(t, ra, "broadcast").comm {
		t.Error("two communicators have one name")
	}
	if w := find(t, rc, "allreduce"); w.hash != strconv.FormatUint(hashOld(id(9)), 16) {
		t.Errorf("old hash: %+v", w)
	}
}

// TestLateAttach: what was made before anybody looked has the same name.
func TestLateAttach(t *testing.T) {
	r := newRig(t, Config{})
	r.lists.devices = devices(2)
	d := run(t, r.dir, []string{"STUB_BUS=2b000"})
	d.do("init 0 16 7 5")
	r.start()
	r.tick(0)
	d.do("coll allreduce 0 1000 7 2")
	r.tick(11_000)
	w := find(t, r.rowsOf(d), "allreduce")
	if w.comm != digest("nccl hash", word(hashNew(id(5)))) || w.rank != 7 || w.nranks != 16 || w.gpu != 1 || w.calls != 2 {
		t.Errorf("late: %+v", w)
	}
	late := run(t, r.dir, nil) // behind the attaching: covered from its first call
	late.do("init 0 2 1 6", "coll allreduce 0 10 7 3")
	w = find(t, r.rowsOf(late), "allreduce")
	if w.comm != digest("nccl hash", word(hashNew(id(6)))) || w.calls != 3 || w.gpu != 0 {
		t.Errorf("started later: %+v", w)
	}
}

func TestSplit(t *testing.T) {
	r := newRig(t, Config{})
	r.lists.devices = devices(1)
	d := run(t, r.dir, nil)
	r.start()
	r.tick(0)
	d.do("init 0 2 1 5", "split 0 1 3 1", "split 0 2 -1 0", "shrink 0 3", "initall 10 2")
	r.tick(1000)
	d.do("coll allreduce 0 1 7 1", "coll broadcast 1 1 7 1", "coll reduce 3 1 7 1", "coll allgather 11 1 7 1")
	rows := r.rowsOf(d)
	parent, child, shrunk, all := find(t, rows, "allreduce"), find(t, rows, "broadcast"), find(t, rows, "reduce"), find(t, rows, "allgather")
	if child.parent != parent.comm || shrunk.parent != parent.comm || child.comm == shrunk.comm || child.comm == parent.comm || child.hash == "" {
		t.Errorf("parent %+v child %+v shrunk %+v", parent, child, shrunk)
	}
	if child.rank != 1 || child.nranks != 2 || all.rank != 1 || all.nranks != 2 || all.bytes != 8 || all.parent != "" {
		t.Errorf("child %+v all %+v", child, all)
	}
}

// TestBare: a library whose communicators cannot be read. The unique id is what is left,
// then parent, colour and ordinal; what is not known stays absent.
func TestBare(t *testing.T) {
	r := newRig(t, Config{})
	r.lists.devices = devices(1)
	a, b, late := run(t, r.dir, []string{"STUB_BARE=1"}), run(t, r.dir, []string{"STUB_BARE=1"}), run(t, r.dir, []string{"STUB_BARE=1"})
	late.do("init 0 4 2 9")
	r.start()
	r.onGPU(a)
	r.tick(0)
	for i, d := range []*driver{a, b} {
		d.do(fmt.Sprintf("init 0 2 %d 9", i), "split 0 1 7 0")
	}
	for range 80 {
		r.tick(1000)
	}
	for _, d := range []*driver{a, b, late} {
		d.do("coll allreduce 0 1 7 1", "coll allgather 0 1 7 1")
	}
	a.do("coll broadcast 1 1 7 1")
	b.do("coll broadcast 1 1 7 1")
	for range 80 {
		r.tick(1000)
	}
	ra, rb, rl := r.taken(a), r.taken(b), r.taken(late)
	x, y := find(t, ra, "allreduce"), find(t, rb, "allreduce")
	if x.comm != digest("nccl id", id(9)) || x.comm != y.comm || x.rank != 0 || y.rank != 1 || x.hash != "" || x.gpu != 0 || y.gpu != -1 {
		t.Errorf("%+v and %+v", x, y)
	}
	if cx, cy := find(t, ra, "broadcast"), find(t, rb, "broadcast"); cx.comm != cy.comm || cx.parent != x.comm || cx.nranks != -1 || cx.bytes != 4 {
		t.Errorf("children: %+v and %+v", cx, cy)
	}
	if w := find(t, rl, "allgather"); len(w.comm) != len(unknownPrefix)+16 || w.nranks != -1 || w.rank != -1 || w.bytes != -1 || w.calls != 1 {
		t.Errorf("of what nothing is known: %+v", w)
	}
}

// TestEnd: what a communicator counted is told when it ends, and another at the same
// address is another one. A process that has ended leaves nothing in the kernel.
func TestEnd(t *testing.T) {
	r := newRig(t, Config{})
	r.lists.devices = devices(1)
	d := run(t, r.dir, nil)
	r.start()
	r.tick(0)
	d.do("init 0 2 1 5")
	r.tick(1000)
	d.do("coll allreduce 0 1 7 3", "destroy 0")
	r.tick(1000)
	first := find(t, r.taken(d), "allreduce")
	d.do("init 0 4 1 6")
	r.tick(1000)
	d.do("coll allreduce 0 1 7 2", "abort 0")
	r.tick(1000)
	second := find(t, r.taken(d), "allreduce")
	if first.comm == second.comm || first.calls != 3 || second.calls != 2 || second.nranks != 4 {
		t.Errorf("%+v then %+v", first, second)
	}
	d.do("init 0 3 1 7", "coll allreduce 0 1 7 9")
	pid := d.pid()
	d.end()
	if w := find(t, r.rowsOf(d), "allreduce"); w.calls != 9 || w.nranks != 3 || w.comm != digest("nccl id", id(7)) {
		t.Errorf("of a process that has ended: %+v", w)
	}
	var n int
	var k statKey
	var v stat
	for each := r.f.progs.coll.Maps["stats"].Iterate(); each.Next(&k, &v); {
		if int32(k.TGID) == pid {
			n++
		}
	}
	if _, ok := r.f.procs[pid]; ok || n != 0 {
		t.Errorf("%d keys are left, process known: %v", n, ok)
	}
}
