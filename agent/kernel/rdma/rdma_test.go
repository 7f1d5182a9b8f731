package rdma

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks/tasktest"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// attr is an attribute as the kernel writes it: nested ones carry a flag, values are padded.
func attr(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func nest(kind uint16, parts ...[]byte) []byte { return attr(kind|1<<15, slices.Concat(parts...)) }
func u8(kind uint16, v uint8) []byte           { return attr(kind, []byte{v}) }
func u32(kind uint16, v uint32) []byte {
	return attr(kind, binary.NativeEndian.AppendUint32(nil, v))
}
func u64(kind uint16, v uint64) []byte {
	return attr(kind, binary.NativeEndian.AppendUint64(nil, v))
}
func str(kind uint16, v string) []byte { return attr(kind, append([]byte(v), 0)) }

func dev(index uint32, name string) []byte {
	return slices.Concat(u32(attrIdx, index), str(attrName, name), u32(3, 1), u8(14, 1))
}

func qp(local, remote uint32, state uint8, owner []byte) []byte {
	return nest(attrQPEntry, u32(attrLocal, local), u32(attrRemote, remote), u32(25, 7), u8(26, 2), u8(attrState, state), owner)
}

func pid(n uint32) []byte { return u32(attrPID, n) }

// answers play the kernel.
type answers map[string][][]byte

func (a answers) ask(cmd int, index int64, each func(msg []byte) error) error {
	key := fmt.Sprintf("%d/%d", cmd, index)
	list, ok := a[key]
	if !ok {
		return fmt.Errorf("no answer to %s: %w", key, syscall.EINVAL)
	}
	for _, m := range list {
		if err := each(m); err != nil {
			return err
		}
	}
	return nil
}

// newRig is a feature over a sysfs with one device.
func newRig(t *testing.T, a answers) (*Feature, *tasktest.Sink) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "class/infiniband/mlx5_0"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := New(Config{Sysfs: dir, ask: a.ask})
	jobs := tasktest.Jobs{PID: map[int32]source.Job{100: {Source: "slurm", ID: "77"}}}
	if r := f.Start(t.Context(), &kernel.Env{Jobs: jobs}); r.State != source.Active {
		t.Fatalf("%s: %s", r.State, r.Reason())
	}
	return f, &tasktest.Sink{}
}

func device0() answers {
	head := slices.Concat(u32(attrIdx, 0), str(attrName, "mlx5_0"))
	return answers{
		"1/-1": {dev(0, "mlx5_0")},
		"10/0": {
			slices.Concat(head, nest(attrQP, qp(17, 34, 3, pid(100)), qp(18, 33, 3, pid(100)), qp(19, 0, 1, pid(100)))),
			slices.Concat(head, nest(attrQP, nest(attrQPEntry, u32(attrLocal, 1), u8(26, 1), u8(attrState, 3), str(attrKernel, "ib_core")))),
		},
		"13/0": {slices.Concat(head, nest(attrMR, nest(attrMREntry, u64(attrMRLength, 1<<30), pid(100)), nest(attrMREntry, u64(attrMRLength, 1<<20), pid(200))))},
		"12/0": {slices.Concat(head, nest(attrCQ, nest(attrCQEntry, u32(36+1, 128), pid(100)), nest(attrCQEntry, str(attrKernel, "ib_core"))))},
	}
}

func TestObjects(t *testing.T) {
	f, sink := newRig(t, device0())
	if r := f.Sample(t.Context(), source.Tick{Seq: 1, WallMs: 5000, BootMs: 1}, sink); r.State != source.Active {
		t.Errorf("%s: %s", r.State, r.Reason())
	}
	rows := sink.Rows[wire.KindRDMA]
	want := []tasktest.Row{
		{"ts_ms": int64(5000), "device": "mlx5_0", "pid": int64(0), "queue_pairs": int64(1), "connected": int64(1), "memory_regions": int64(0), "memory_region_bytes": int64(0), "completion_queues": int64(1)},
		{"ts_ms": int64(5000), "device": "mlx5_0", "pid": int64(100), "queue_pairs": int64(3), "connected": int64(2), "memory_regions": int64(1), "memory_region_bytes": int64(1 << 30),
			"completion_queues": int64(1), "qp_pairs": "17>34 18>33", "job_source": "slurm", "job_id": "77"},
		{"ts_ms": int64(5000), "device": "mlx5_0", "pid": int64(200), "queue_pairs": int64(0), "connected": int64(0), "memory_regions": int64(1), "memory_region_bytes": int64(1 << 20), "completion_queues": int64(0)},
	}
	if len(sink.Errors) != 0 || len(rows) != len(want) {
		t.Fatalf("%v, rows %v", sink.Errors, rows)
	}
	for i := range want {
		if fmt.Sprint(rows[i]) != fmt.Sprint(want[i]) {
			t.Errorf("row %d is %v, want %v", i, rows[i], want[i])
		}
	}
}

// TestPartly leaves absent what could not be read.
func TestPartly(t *testing.T) {
	a := device0()
	delete(a, "13/0")
	f, sink := newRig(t, a)
	r := f.Sample(t.Context(), source.Tick{Seq: 1, WallMs: 5000, BootMs: 1}, sink)
	if r.State != source.Degraded || r.Errno != syscall.EINVAL {
		t.Errorf("%s: %s", r.State, r.Reason())
	}
	rows := sink.Rows[wire.KindRDMA]
	if len(rows) != 2 || rows[1].Int("queue_pairs") != 3 {
		t.Fatalf("rows %v", rows)
	}
	if _, ok := rows[1]["memory_regions"]; ok {
		t.Errorf("what was not read is there: %v", rows[1])
	}
	a["10/0"] = append(a["10/0"], []byte{1, 2, 3})
	if r = f.Sample(t.Context(), source.Tick{Seq: 2, WallMs: 6000, BootMs: 2}, sink); r.State != source.Degraded {
		t.Errorf("a broken answer: %s", r.State)
	}
}

// TestUnowned are objects of processes outside of this namespace.
func TestUnowned(t *testing.T) {
	a := device0()
	a["13/0"] = [][]byte{nest(attrMR, nest(attrMREntry, u64(attrMRLength, 5)))}
	f, sink := newRig(t, a)
	if r := f.Sample(t.Context(), source.Tick{Seq: 1, WallMs: 5000, BootMs: 1}, sink); r.State != source.Degraded || !strings.Contains(r.Why, "hostPID") {
		t.Errorf("%s: %s", r.State, r.Reason())
	}
}

// TestSample chooses the same queue pairs on both ends, whatever order they come in.
func TestSample(t *testing.T) {
	const n = 1000
	var here, there sums
	order := rand.New(rand.NewSource(1)).Perm(n)
	for i := range n {
		l, r := uint32(10_000_000+i), uint32(12_000_000+7*i)
		here.queuePair(object{local: l, remote: r, ready: true, paired: true})
		l, r = uint32(10_000_000+order[i]), uint32(12_000_000+7*order[i])
		there.queuePair(object{local: r, remote: l, ready: true, paired: true})
	}
	turned := map[string]bool{}
	for p := range strings.FieldsSeq(there.text()) {
		l, r, _ := strings.Cut(p, ">")
		turned[r+">"+l] = true
	}
	pairs := strings.Fields(here.text())
	for _, p := range pairs {
		if !turned[p] {
			t.Errorf("%s is on one end only", p)
		}
	}
	if len(pairs) != len(turned) || len(pairs) < 50 || len(pairs) > maxPairs || len(here.text()) > wire.MaxStringBytes || !slices.IsSorted(pairs) {
		t.Errorf("%d and %d pairs: %s", len(pairs), len(turned), here.text())
	}
}

func TestUnavailable(t *testing.T) {
	f := New(Config{Sysfs: t.TempDir()})
	if r := f.Start(t.Context(), &kernel.Env{}); r.State != source.Unavailable || !r.Absent || r.Reason() != "the kernel has no RDMA subsystem" {
		t.Errorf("%s: %s", r.State, r.Reason())
	}
	if _, err := os.Stat("/sys/class/infiniband"); errors.Is(err, os.ErrNotExist) {
		if r := New(Config{}).Start(t.Context(), &kernel.Env{}); r.State != source.Unavailable {
			t.Errorf("%s: %s", r.State, r.Reason())
		}
	}
}

// TestRefused asks a kernel without the subsystem: the error is the kernel's.
func TestRefused(t *testing.T) {
	if _, err := os.Stat("/sys/class/infiniband"); err == nil {
		t.Skip("this kernel has RDMA")
	}
	if err := ask(cmdGet, -1, func([]byte) error { return nil }); kernel.Errno(err) == 0 {
		t.Errorf("asked: %v", err)
	}
}

func FuzzParseObjects(f *testing.F) {
	for _, list := range device0() {
		for _, m := range list {
			f.Add(m)
		}
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		var s sums
		_ = parseObjects(b, attrQP, attrQPEntry, s.queuePair)
		_ = parseObjects(b, attrMR, attrMREntry, s.region)
		_ = s.text()
	})
}

func FuzzParseDevice(f *testing.F) {
	f.Add(dev(3, "mlx5_3"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := parseDevice(b); err == nil && (d.name == "" || len(d.name) > 64) {
			t.Errorf("%+v", d)
		}
	})
}

// BenchmarkLook reads 8 devices with 2,000 queue pairs each.
func BenchmarkLook(b *testing.B) {
	a := answers{}
	for d := range uint32(8) {
		name := fmt.Sprintf("mlx5_%d", d)
		a["1/-1"] = append(a["1/-1"], dev(d, name))
		for m := range uint32(20) {
			var entries [][]byte
			for i := range uint32(100) {
				entries = append(entries, qp(m*100+i, m*100+i+5000, 3, pid(100+i%8)))
			}
			key := fmt.Sprintf("10/%d", d)
			a[key] = append(a[key], nest(attrQP, entries...))
		}
		a[fmt.Sprintf("12/%d", d)], a[fmt.Sprintf("13/%d", d)] = [][]byte{}, [][]byte{}
	}
	dir := b.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "class/infiniband/mlx5_0"), 0o755); err != nil {
		b.Fatal(err)
	}
	f := New(Config{Sysfs: dir, ask: a.ask})
	f.Start(b.Context(), &kernel.Env{})
	var sink tasktest.Sink
	b.ReportAllocs()
	for b.Loop() {
		sink.Rows = nil
		f.Sample(b.Context(), source.Tick{Seq: 1, WallMs: 1, BootMs: 1}, &sink)
	}
}
