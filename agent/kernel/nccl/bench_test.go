package nccl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/flopwatch/flopwatch/agent/kernel/kerneltest"
	"github.com/flopwatch/flopwatch/agent/kernel/probe"
	"github.com/flopwatch/flopwatch/agent/source"
	bpf "github.com/flopwatch/flopwatch/bpf/nccl"
)

// BenchmarkCall is what a call of ncclAllReduce costs the program that makes it, all in one
// run: without probes, and counted at either place, by both ways to attach.
func BenchmarkCall(b *testing.B) {
	uprobes(b)
	kerneltest.Require(b, probe.Uprobe, probe.UprobeMulti)
	dir := b.TempDir()
	stub(b, dir)
	d := run(b, dir, nil)
	d.do("init 0 2 1 5")
	lib, err := os.Open(filepath.Join(dir, "libnccl.so.2"))
	if err != nil {
		b.Fatal(err)
	}
	defer lib.Close()
	all, _, err := sites(lib, false)
	if err != nil {
		b.Fatal(err)
	}
	at, fn := all[0].at.Offset, all[0].fn
	cost := func(b *testing.B, calls int) {
		best := 1e12
		for range min(max(b.N, 3), 10) {
			ns, err := strconv.ParseFloat(d.do("time "+strconv.Itoa(calls)), 64)
			if err != nil {
				b.Fatal(err)
			}
			best = min(best, ns)
		}
		b.ReportMetric(best, "ns/call")
		b.ReportMetric(0, "ns/op")
	}
	b.Run("no probe", func(b *testing.B) { cost(b, 1_000_000) })
	for _, c := range []struct {
		name   string
		multi  bool
		offset uint64
		empty  bool
		calls  int
	}{
		{"multi, landing pad, counted", true, at - 4, false, 3000}, {"perf, landing pad, counted", false, at - 4, false, 3000},
		{"multi, push, empty", true, at, true, 300_000}, {"multi, push, counted", true, at, false, 300_000},
		{"perf, push, counted", false, at, false, 300_000},
	} {
		b.Run(c.name, func(b *testing.B) {
			k, err := loadWith(bpf.LoadNccl, ebpf.CollectionOptions{}, c.multi)
			if err != nil {
				b.Fatal(err)
			}
			defer k.close()
			prog := k.prog("coll", nil)
			if c.empty {
				if prog, err = probe.Empty(c.multi); err != nil {
					b.Fatal(err)
				}
				defer prog.Close()
			}
			exe, err := link.OpenExecutable(fmt.Sprintf("/proc/self/fd/%d", lib.Fd()))
			if err != nil {
				b.Fatal(err)
			}
			var l link.Link
			if c.multi {
				l, err = exe.UprobeMulti(nil, prog, &link.UprobeMultiOptions{Addresses: []uint64{c.offset}, Cookies: []uint64{fn.cookie()}})
			} else {
				l, err = exe.Uprobe("", prog, &link.UprobeOptions{Address: c.offset, Cookie: fn.cookie()})
			}
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			cost(b, c.calls)
		})
	}
}

// BenchmarkAttach is finding 18 functions in a library of 225 MB and putting probes there,
// and taking them out again.
func BenchmarkAttach(b *testing.B) {
	uprobes(b)
	dir := b.TempDir()
	stub(b, dir)
	path := filepath.Join(dir, "libnccl.so.2")
	if err := os.Truncate(path, 225<<20); err != nil {
		b.Fatal(err)
	}
	k, err := loadWith(bpf.LoadNccl, ebpf.CollectionOptions{}, true)
	if err != nil {
		b.Fatal(err)
	}
	defer k.close()
	var out time.Duration
	for b.Loop() {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		l, err := k.attach(f, "libnccl.so.2", 0)
		_ = f.Close()
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		began := time.Now()
		if err := l.close(); err != nil {
			b.Fatal(err)
		}
		out += time.Since(began)
		b.StartTimer()
	}
	b.ReportMetric(float64(out.Milliseconds())/float64(b.N), "ms/detach")
}

// BenchmarkLookup looks for the marker in a library with a real table of symbols: the
// engine's, half a gigabyte.
func BenchmarkLookup(b *testing.B) {
	path := "../../../bin/engine/libchdb.so"
	if st, err := os.Stat(path); err != nil {
		b.Skip("no engine: `make engine` fetches it")
	} else {
		b.Logf("%d MB", st.Size()>>20)
	}
	for b.Loop() {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err = sites(f, false); !errors.Is(err, errNoCollectives) {
			b.Fatal(err)
		}
		_ = f.Close()
	}
}

// BenchmarkSample is a tick of the agent: most do nothing, every tenth reads the counts of 8
// processes with 4 communicators.
func BenchmarkSample(b *testing.B) {
	uprobes(b)
	dir := b.TempDir()
	stub(b, dir)
	r := &rig{f: New(Config{ScanEvery: time.Hour}), bootMs: bootNow(b), log: &logs{}}
	r.f.only = ours
	var drivers []*driver
	for range 8 {
		d := run(b, dir, nil)
		for c := range 4 {
			d.do(fmt.Sprintf("init %d 8 1 %d", c, c))
		}
		drivers = append(drivers, d)
	}
	if rep := r.startIn(b.Context()); rep.State == source.Unavailable {
		b.Fatal(rep.Reason())
	}
	defer r.f.Close()
	r.f.Sample(b.Context(), source.Tick{BootMs: r.bootMs}, none{})
	for _, d := range drivers {
		for c := range 4 {
			d.do(fmt.Sprintf("coll allreduce %d 1 7 1", c), fmt.Sprintf("coll allgather %d 1 9 1", c))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		r.bootMs += 1000
		r.f.Sample(b.Context(), source.Tick{BootMs: r.bootMs}, none{})
	}
}

// BenchmarkScan is one look at who has which library mapped, over all processes of this host.
func BenchmarkScan(b *testing.B) {
	uprobes(b)
	r := &rig{f: New(Config{}), bootMs: bootNow(b), log: &logs{}}
	if rep := r.startIn(b.Context()); rep.State == source.Unavailable {
		b.Fatal(rep.Reason())
	}
	defer r.f.Close()
	for b.Loop() {
		if err := r.f.scan(b.Context(), r.bootMs); err != nil {
			b.Fatal(err)
		}
	}
}
